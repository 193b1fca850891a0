"""Weights of others: converted to the bit, and two hundred bad pickles that are refused, with nothing done.

The pickles are made by a stand-in for the official codes' way of saving. With DCD_OFFICIAL, a folder with clones of
these codes, they make their own (`benchmarks/official_pickles.py`), and their networks' outputs are compared with ours.
"""
# zipfile reads some names by it, and would import it while we watch  # noqa: F401
import encodings.cp437
import io
import json
import os
import pickle
import random
import re
import shlex
import struct
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import run

from dcd_nb.cli import convert
from dcd_nb.convert import from_pickle
from dcd_nb.data import digits
from dcd_nb.distill import Generator
from dcd_nb.errors import BadInput
from dcd_nb.networks import UNet
from dcd_nb.objectives import AmbientInpainting, Standard
from dcd_nb.pickles import read_pickle
from dcd_nb.recipes import recipe
from dcd_nb.show.images import png, to_uint8
from dcd_nb.training import Teacher

small = dict(resolution=8, in_channels=1, channels=8, mult=(1, 2), blocks=1, attn=(4,))
head = '# Copyright\n# Attribution-NonCommercial-ShareAlike 4.0 International License.\n\nraise SystemExit("the source code was run")\n'


# A stand-in for files of EDM and its descendants

class Persistent:
    "An object that is saved as its class, its source code and its values"
    def __init__(self, name, **state): self.name, self.state = name, state
    def __reduce__(self):
        make = sys.modules['torch_utils.persistence']._reconstruct_persistent_obj
        return make, (dict(type='class', version=6, module_src=head, class_name=self.name, state=self.state),
                      ), None


@pytest.fixture
def persistence(monkeypatch):
    "The module that such files refer to"
    def make(meta): raise AssertionError('an object was made')
    make.__module__, make.__qualname__, make.__name__ = 'torch_utils.persistence', *['_reconstruct_persistent_obj']*2
    module = types.ModuleType('torch_utils.persistence')
    module._reconstruct_persistent_obj = make
    monkeypatch.setitem(sys.modules, 'torch_utils', types.ModuleType('torch_utils'))
    monkeypatch.setitem(sys.modules, 'torch_utils.persistence', module)


def as_object(net, name='Layer', **more):
    "A module as such an object; lists of layers are PyTorch's own"
    inner = OrderedDict((k, m if m is None else as_object(m)) for k, m in net._modules.items())
    if isinstance(net, torch.nn.ModuleDict):
        kept = torch.nn.ModuleDict()
        kept._modules = inner
        return kept
    state = dict(_parameters=OrderedDict(net._parameters), _buffers=OrderedDict(net._buffers), _modules=inner)
    return Persistent(name, **state, _non_persistent_buffers_set=set(), skip_scale=np.sqrt(.5),
                      training=False, **more)


def shaken(**changes):
    "A network with weights that are not nearly zero"
    torch.manual_seed(0)
    net = UNet(**small | changes).eval().requires_grad_(False)
    for p in net.parameters(): p.add_(.1*torch.randn_like(p))
    return net


def snapshot(net, sigma_data=.5, **more):
    "What such a file holds of a network"
    outer = torch.nn.Module()
    outer.model = net
    given = dict(img_resolution=8, dropout=.1)
    return dict(ema=as_object(outer, 'EDMPrecond', sigma_data=sigma_data, _init_kwargs=given), **more)


def denoised(net, x, s, sigma_d=.5):
    "The denoised image of all channels, as EDM scales them"
    s = s.view(-1, 1, 1, 1)
    v = s**2 + sigma_d**2
    return sigma_d**2/v*x + s*sigma_d/v.sqrt()*net(x/v.sqrt(), s.flatten().log()/4)


def kept(path, value, save=pickle.dump):
    with open(path, 'wb') as f: save(value, f)
    return path


def zipped(value, f): torch.save(value, f)
def older(value, f): torch.save(value, f, _use_new_zipfile_serialization=False)


x, s = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([.01, .3, 2., 20.])


@pytest.mark.parametrize('save', [pickle.dump, zipped])
def test_an_object_becomes_a_teacher(persistence, tmp_path, save):
    net = shaken(augment_dim=9)
    loss = Persistent('EDMLoss', P_mean=-1.2)
    T = from_pickle(kept(tmp_path/'a.pkl', snapshot(net, .4, loss_fn=loss, dataset_kwargs=dict(path='x.zip')),
                         save))
    assert isinstance(T, Teacher) and isinstance(T.objective, Standard)
    assert T.net.sigma_d == .4 and T.net.net.args['dropout'] == .1 and T.about['source']['licence'] == 'CC BY-NC-SA 4.0'
    assert torch.allclose(T.denoise(x, s), denoised(net, x, s, .4), atol=1e-6)
    T.save(tmp_path/'b')
    again = Teacher.load(tmp_path/'b')
    assert torch.equal(again.denoise(x, s), T.denoise(x, s)) and again.about['source'] == T.about['source']


def test_an_average_alone_becomes_a_generator(persistence, tmp_path):
    net, path = shaken(), tmp_path/'a.pkl'
    kept(path, snapshot(net))
    with pytest.raises(BadInput, match='pass kind'): from_pickle(path)
    G = from_pickle(path, 'generator', init_sigma=1.5)
    assert isinstance(G, Generator)
    assert torch.allclose(G(x), denoised(net, 1.5*x, torch.full((4,), 1.5)), atol=1e-6)


def test_the_dictionary_of_ambient_diffusion(tmp_path):
    "Six channels in its case, two here: the mask is scaled like the image, and half of what comes out is not used"
    net = shaken(in_channels=2, out_channels=2, gated='all')
    named = OrderedDict((f'_orig_mod.model.{k}', v) for k, v in net.state_dict().items())
    path = kept(tmp_path/'a.pkl',
                dict(ema=named, dataset_kwargs=dict(corruption_probability=.8, delta_probability=.1)))
    T = from_pickle(path, 'teacher')
    assert repr(T.objective).startswith(repr(AmbientInpainting(.8, delta=.1))[:40]) and T.about['source']['licence'] == 'not stated in the file'
    m = (torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)) < .5).float()
    assert torch.allclose(T.denoise(x, s, m), denoised(net, torch.cat([m*x, m], 1), s)[:, :1], atol=1e-6)
    assert torch.equal(Teacher.load((T.save(tmp_path/'b'), tmp_path/'b')[1]).denoise(x, s, m),
                       T.denoise(x, s, m))


def test_one_class_of_many(tmp_path):
    net = shaken(classes=3)
    path = kept(tmp_path/'a.pkl', dict(ema=net.state_dict()))
    all3, one = from_pickle(path, 'teacher').net, from_pickle(path, 'teacher', label=2).net
    assert torch.allclose(one(x, s), all3(x, s, classes=torch.full((4,), 2)), atol=1e-5)
    assert not torch.allclose(one(x, s), all3(x, s, classes=torch.full((4,), 1)), atol=1e-3)
    for label in (3, -1):
        with pytest.raises(BadInput, match=f'label={label} must be'):
            from_pickle(path, 'teacher', label=label)


def test_the_command(tmp_path, capsys):
    net = shaken(in_channels=2, out_channels=2, gated='all')
    path = kept(tmp_path/'a.pkl', dict(ema=net.state_dict(), loss_fn=None))
    convert(str(path), str(tmp_path/'b'), recipe='digits-mask', json=True)
    said = json.loads(capsys.readouterr().out)
    assert said['kind'] == 'teacher' and said['licence'] == 'not stated in the file' and "gated='all'" in said['network']
    T = Teacher.load(tmp_path/'b')
    assert T.about['recipe']['name'] == 'digits-mask' and T.objective.missing == .5
    with pytest.raises(SystemExit): convert(str(path), str(tmp_path/'b'), recipe='digits-mask')
    assert 'would replace' in capsys.readouterr().err
    with pytest.raises(SystemExit): convert(str(path), str(tmp_path/'c'), recipe='celebahq-mask-0.6')
    err = capsys.readouterr().err
    assert 'those of recipe celebahq-mask-0.6 are (3, 64, 64)' in err and err.count('\n') == 1 and not [*tmp_path.glob('c*')]


# The commands that the page shows, on small stand-ins

def loops():
    "Of the page: (name of the variable, its values, commands)"
    page = Path(__file__).parent.parent/'nbs/29a_convert.ipynb'
    text = '\n'.join(''.join(cell['source']) for cell in json.loads(page.read_text())['cells'])
    return [(name, values.split(), [shlex.split(line) for line in body.splitlines()])
            for name, values, body in re.findall(r'^for (\w+) in ([^;\n]*); do\n(.*?)^done', text,
                                                 re.S | re.M)]


def as_here(words, variable, value, folder):
    "A command of the page as a shell would start it, for stand-ins"
    words = [re.sub(rf'\$(?:{{{variable}}}|{variable})', value, w) for w in words]
    for i, w in enumerate(words):
        if words[i - 1] == '--recipe':
            shown = recipe(w)                                # there is one
            words[i] = 'digits-mask' if shown.objective_for().extra_channels else 'digits-noise'
    words = [str(next(folder.glob(w)).relative_to(folder)) if '*' in w else w for w in words]
    small = dict(dcd_distill=['--images', '64', '--batch', '32'],
                 dcd_evaluate=['--n', '60', '--extractor', 'random'])
    return [*words, *small.get(words[0], [])]


def test_the_commands_of_the_page_run(persistence, tmp_path):
    "From a checkpoint of Ambient Diffusion to a student that is judged; and a student of RSD, sampled and judged"
    (_, missing, distil), (_, names, use) = loops()
    assert missing == ['0.6', '0.8', '0.9'] and [c[0] for c in distil] == ['dcd_convert', 'dcd_distill',
        'dcd_evaluate']
    assert names == ['ffhq', 'celebahq', 'afhqv2'] and [c[0] for c in use] == ['dcd_convert', 'dcd_sample',
        'dcd_evaluate']
    for p in missing: assert recipe(f'celebahq-mask-{p}').corruption.op.missing == float(p)
    for name in names: assert recipe(f'{name}-noise-0.2').corruption.sigma == .2
    for where in ('celeba0.6', 'ffhq'): (tmp_path/where).mkdir()
    theirs = OrderedDict((f'_orig_mod.model.{k}', v)
                         for k, v in shaken(in_channels=2, out_channels=2, gated='all').state_dict().items())
    kept(tmp_path/'celeba0.6/network-snapshot-1.pkl',
         dict(ema=theirs, loss_fn=None, dataset_kwargs=dict(corruption_probability=.6, delta_probability=.1)))
    kept(tmp_path/'ffhq/network-snapshot-1.pkl', snapshot(shaken()))
    with zipfile.ZipFile(tmp_path/'celebahq-64x64.zip', 'w') as z:
        for i, x in enumerate(digits()[:60]): z.writestr(f'{i}.png', png(to_uint8(x[None])[0]))
    (tmp_path/'ffhq-64x64.zip').write_bytes((tmp_path/'celebahq-64x64.zip').read_bytes())
    for commands, variable, value in ((distil, 'p', '0.6'), (use, 'name', 'ffhq')):
        for words in commands:
            done = run(*as_here(words, variable, value, tmp_path), cwd=tmp_path)
            assert done.returncode == 0, (words, done.stderr[-1000:])
    assert Generator.load(tmp_path/'student-0.6').sample(2).isfinite().all() and (tmp_path/'ffhq.png').stat().st_size > 1000


# Two hundred bad files

names = ['os.system', 'posix.system', 'nt.system', 'builtins.eval', 'builtins.exec', 'builtins.__import__',
         'builtins.getattr', 'builtins.open', 'subprocess.Popen',
         'shutil.rmtree', 'pickle.loads', 'torch.load', 'torch.hub.load', 'numpy.load',
         'importlib.import_module', 'runpy.run_path', 'operator.attrgetter',
         'functools.partial', 'training.networks.os.system', 'torch.nn.modules.module.os.system']


def text(t): return b'\x8c' + bytes([len(t)]) + t.encode()
def global_(name): return b'c' + '\n'.join(name.rsplit('.', 1)).encode() + b'\n'
def by_stack(name): return b''.join(map(text, name.rsplit('.', 1))) + b'\x93'


def calls(name, argument):
    "Programs that call `name`, in the ways that there are"
    arg = text(argument) + b'\x85'                                      # a tuple of one
    yield b'\x80\x02' + global_(name) + arg + b'R.'
    yield b'\x80\x04' + by_stack(name) + arg + b'R.'
    yield b'\x80\x02' + global_(name) + arg + b'\x81.'                  # as a class
    yield b'\x80\x02(' + text(argument) + b'i' + global_(name)[1:] + b'.'
    yield b'\x80\x02(' + global_(name) + text(argument) + b'o.'
    yield b'\x80\x04' + global_(name) + b'\x940h\x00' + arg + b'R.'     # thrown away, and taken from memory
    yield b'\x80\x02}' + text('ema') + global_(name) + arg + b'R' + b's.'
    # an object that would call it when it gets its state
    setstate = b'}' + text('__setstate__') + global_(name) + b's'
    yield b'\x80\x02' + global_('training.networks.Net') + b')\x81' + setstate + b'b' + text(argument) + b'b.'


def claims(**changes):
    "A file whose tensor claims to be another"
    c = dict(n=4, offset=0, size=(4,), stride=(1,), kind='torch.FloatStorage', raw=bytes(16)) | changes
    def number(v): return b'\x8a\x08' + struct.pack('<q', v)
    def numbers(v): return b'(' + b''.join(map(number, v)) + b't'
    pid = b'(' + text('storage') + global_(c['kind']) + text('0') + text('cpu') + number(c['n']) + b'Nt'
    rebuilt = global_('torch._utils._rebuild_tensor_v2') + b'(' + pid + b'Q' + number(c['offset']) + numbers(c['size']) + numbers(c['stride'])
    value = b'\x80\x02}' + text('ema') + b'}' + text('weight') + rebuilt + b'\x89}tRss.'
    magic = pickle.dumps(0x1950a86a20f9469cfc6c, 2)
    return magic + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + value + pickle.dumps(['0'], 2) + struct.pack('<q', c['n']) + c['raw']


def tricks(whole, archive):
    "Each of its own kind"
    ema = b'\x80\x02}' + text('ema')
    function = global_('torch_utils.persistence._reconstruct_persistent_obj')
    yield ema + function + b'}' + text('__code__') + text('x') + b'sbs.'            # a state for a function
    yield ema + function + b')Rs.'
    yield ema + function + b'}' + text('class_name') + text('x') + b's\x85Rs.'     # an object without state
    yield ema + global_('training.networks.Net') + b')Rs.'                         # a class, called
    # a class, given an argument
    yield ema + global_('training.networks.Net') + text('x') + b'\x85\x81s.'
    yield ema + global_('torch.storage._load_from_bytes') + b'C\x04abcd\x85Rs.'
    inner = pickle.dumps(0x1950a86a20f9469cfc6c, 2) + b''.join(calls('os.system', 'true'))
    yield ema + global_('torch.storage._load_from_bytes') + b'B' + struct.pack('<I', len(inner)) + inner + b'\x85Rs.'
    yield ema + b'\x82\x01s.'                                                      # by a number of copyreg's
    # a reference to something outside
    yield ema + b'Pout\ns.'
    yield ema + b'(' + text('storage') + b'tQs.'
    yield ema + global_('collections.OrderedDict') + b'](' + text('a') + b'K\x01\x86e\x85Rs.'
    yield ema + global_('_codecs.encode') + text('x') + text('rot13') + b'\x86Rs.'
    yield b'\x80\x02}(]K\x01s.'                                                     # a list as a key
    yield b'\x80\x02})K\x01s.'                                                      # a tuple as a key
    # more bytes than there are
    yield b'\x8e' + struct.pack('<Q', 1 << 60) + b'abc.'
    # a frame without end, and an empty memory
    yield b'\x80\x04\x95' + struct.pack('<Q', 1 << 62) + b'h\xff.'
    yield b'\x8b\xff\xff\xff\x7f.'
    yield b'.' + whole
    yield b'(' + whole
    yield b'0' + whole
    yield pickle.dumps([])
    yield pickle.dumps(dict(ema=1))
    # networks that cannot be
    one, first = torch.tensor(1.), {'enc.8x8_conv.weight': torch.zeros(8, 1, 3, 3),
                                    'dec.8x8_aux_conv.weight': torch.zeros(1)}
    for odd in ({'enc.8x8_conv.weight': one}, {'enc.8x8_conv.weight': torch.zeros(0, 1, 3, 3)}, first,
                first | {'enc.8x8_block0.conv0.weight': torch.zeros(1)},
                first | {'map_label.weight': torch.zeros(1)},
                {'enc.9999x9999_conv.weight': torch.zeros(3, 1, 3, 3)}, {'a': [one]}):
        yield pickle.dumps(dict(ema=odd))
    yield pickle.dumps(dict(ema=first, dataset_kwargs=dict(delta_probability='a', corruption_probability=[])))
    for packed, main in ((zipfile.ZIP_DEFLATED, ['a/data.pkl']),
                         (zipfile.ZIP_STORED, ['a/data.pkl', 'b/data.pkl']),
                         (zipfile.ZIP_STORED, ['a/other'])):
        f = io.BytesIO()
        with zipfile.ZipFile(f, 'w', packed) as z:
            for name in main: z.writestr(name, pickle.dumps(dict(ema={'a': 0})))
        yield f.getvalue()
    yield archive[:len(archive)//2] + archive[len(archive)//2 + 5:]
    for c in (dict(n=1 << 40), dict(n=-1), dict(size=(1 << 20,), stride=(0,)), dict(size=(1 << 62,)),
              dict(size=(-4,)), dict(size=(5,)), dict(stride=(2,)),
              dict(stride=(-1,)), dict(offset=1), dict(offset=-1), dict(size=(2, 2)), dict(n=3),
              dict(raw=bytes(15)), dict(kind='torch.NoStorage'),
              dict(kind='os.system'), dict(raw=b'')): yield claims(**c)
    loop = b'\x80\x02}' + text('ema') + global_('training.networks.EDMPrecond') + b')\x81q\x00}' + text('_modules') + b'}' + text('a') + b'h\x00sss' + b'b'
    yield loop + b's.'


def bad_files(tmp_path):
    "Their bytes"
    value = dict(ema=shaken().state_dict(), rate=np.float64(.1))
    whole, archive, old = (kept(tmp_path/'whole', value, save).read_bytes()
                           for save in (pickle.dump, zipped, older))
    for name in names: yield from calls(name, str(tmp_path/'taken'))
    yield from tricks(whole, archive)
    for raw in (whole, archive, old):
        for k in range(8): yield raw[:k*len(raw)//8]
    for k in range(8):
        # a call, then a good file
        yield whole[:2] + [*calls(names[k], 'true')][k][2:-1] + b'0' + whole[2:]


watched = dict(on=False, seen=[])
harmful = ('os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'os.mkdir', 'os.remove', 'os.rename',
           'os.chmod', 'os.rmdir', 'os.link', 'subprocess.', 'shutil.',
           'socket.', 'exec', 'compile', 'import', 'pickle.find_class', 'ctypes.', 'urllib.')


def hook(event, args):
    "Notes what Python is about to do, while it is watched"
    if not watched['on']: return
    writes = event == 'open' and (isinstance(args[1], str) and set(args[1]) & set('wax+')
                                  or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if writes or event.startswith(harmful): watched['seen'].append((event, args))


@pytest.fixture
def watch():
    if not watched.get('hooked'): sys.addaudithook(hook)
    watched.update(hooked=True, seen=[])
    yield watched
    watched['on'] = False


def refusal(path, watch):
    "Why a file is refused, or None; and nothing happens meanwhile"
    watch['on'] = True
    try:
        from_pickle(path, 'teacher')
        return None
    except BadInput as e: return str(e)
    finally: watch['on'] = False


def test_the_watch_sees_what_python_does(watch, tmp_path):
    path = kept(tmp_path/'a.pkl', dict(ema=0))
    watch['on'] = True
    pickle.loads(b'\x80\x02cos\ngetcwd\n)R.')
    open(tmp_path/'b', 'w').close()
    refusal(path, watch)
    assert {event for event, _ in watch['seen']} == {'pickle.find_class', 'open'}


def test_two_hundred_bad_files_are_refused_and_nothing_is_done(watch, tmp_path):
    assert refusal(kept(tmp_path/'good.pkl', dict(ema=shaken().state_dict())), watch) is None
    watch['seen'].clear()
    files = [*bad_files(tmp_path)]
    assert len({*files}) >= 200
    before = sorted(tmp_path.iterdir())
    path = tmp_path/'bad.pkl'
    for i, raw in enumerate(files):
        path.write_bytes(raw)
        why = refusal(path, watch)
        assert why, f'file {i} was accepted: {raw[:80]}'
        assert why.startswith(str(path)) and '\n' not in why and len(why) < 400, why
    assert not watch['seen'] and sorted(tmp_path.iterdir()) == sorted([*before, path])


@pytest.mark.parametrize('save', [pickle.dump, zipped, older])
def test_changed_bytes_are_refused_in_a_sentence_or_change_a_weight(watch, tmp_path, save):
    "Nothing but a sentence comes out, wherever a byte is changed"
    raw = bytearray(kept(tmp_path/'a.pkl', dict(ema=shaken(blocks=1, mult=(1,), attn=()).state_dict()),
                         save).read_bytes())
    refusal(tmp_path/'a.pkl', watch)
    watch['seen'].clear()
    draw, refused = random.Random(0), 0
    for _ in range(60):
        changed = bytearray(raw)
        for _ in range(3): changed[draw.randrange(len(raw))] = draw.randrange(256)
        (tmp_path/'a.pkl').write_bytes(changed)
        why = refusal(tmp_path/'a.pkl', watch)
        if why: assert '\n' not in why
        refused += bool(why)
    assert refused > 0 and not watch['seen']
    assert refused < 60 or save is zipped                  # an archive has a checksum of every part


def test_modules_that_contain_each_other_many_times(tmp_path, persistence):
    "Forty modules, each twice in the next: a million million paths"
    m = Persistent('Layer', _modules={})
    for _ in range(40): m = Persistent('EDMPrecond', _modules=dict(a=m, b=m))
    with pytest.raises(BadInput, match='contain each other'):
        from_pickle(kept(tmp_path/'a.pkl', dict(ema=m)), 'teacher')


def test_one_storage_many_times_takes_no_memory(tmp_path):
    "Views of one storage count each"
    big = torch.zeros(1000)
    path = kept(tmp_path/'a.pkl', {str(i): big.view(10, 100) for i in range(3)})
    assert len(read_pickle(path)) == 3                     # each is saved by itself
    with pytest.raises(BadInput, match='claims tensors of 4000 bytes'):
        read_pickle(kept(path, {str(i): big.view(10, 100) for i in range(3)}, zipped))


@pytest.mark.skipif('DCD_OFFICIAL' not in os.environ,
                    reason='DCD_OFFICIAL names no folder with the official codes')
def test_networks_of_the_official_codes(tmp_path):
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, root/'benchmarks/official_pickles.py', os.environ['DCD_OFFICIAL'],
                    tmp_path], check=True, capture_output=True)
    compared = []
    for path in tmp_path.glob('*.pkl'):
        try: D = from_pickle(path, 'teacher').net
        except BadInput as e:
            assert 'but only DDPM++' in str(e)
            continue
        there = torch.load(path.with_suffix('.pt'))
        extra = dict(mask=there['x'][:, 3:]) if there['x'].shape[1] == 6 else {}
        if D.net.map_label is not None: extra['classes'] = torch.arange(4)
        with torch.no_grad():
            assert (D(there['x'][:, :3], there['s'], **extra) - there['y']).abs().max() < 1e-5
        compared.append(path.stem)
    assert compared
