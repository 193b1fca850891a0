"Damage of every kind: a checkpoint is loaded as it was saved, or a sentence says what is wrong."
import os
import pickle
import random
import re
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch
from processes import run

from dcd_nb import checkpoint
from dcd_nb.distill import Generator, load_pretrained
from dcd_nb.errors import BadInput
from dcd_nb.files import load_tensors, save_tensors
from dcd_nb.networks import MLP, Precond
from dcd_nb.objectives import Standard

package = Path(checkpoint.__file__).parent


def tensors(k):
    return {'net.w': torch.arange(12.).view(3, 4)*k, 'adam.step': torch.tensor(float(k)),
            'ema.w': torch.full((7,), 1/k).double()}


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def damage(data, rand):
    "`data` cut short, with flipped bits, with bytes put in or taken out, or with a part overwritten"
    kind, data = rand.choice(['cut', 'flip', 'flip', 'insert', 'delete', 'zero']), bytearray(data)
    i = rand.randrange(len(data))
    if kind == 'cut': del data[i:]
    if kind == 'flip': data[i] ^= 1 << rand.randrange(8)
    if kind == 'insert': data[i:i] = bytes([rand.randrange(256)])
    if kind == 'delete': del data[i]
    if kind == 'zero': data[i:i+64] = bytes(len(data[i:i+64]))
    return bytes(data)


def test_a_thousand_damaged_checkpoints(tmp_path):
    for k in (1, 2): checkpoint.save(tmp_path, k*100, tensors(k), dict(step=k))
    pair = [tmp_path/f'checkpoint-000000000200.{suffix}' for suffix in ('safetensors', 'json')]
    whole, rand, found = [p.read_bytes() for p in pair], random.Random(0), 0
    for trial in range(1000):
        which = rand.randrange(2)
        pair[which].write_bytes(damage(whole[which], rand))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            got, meta = checkpoint.load(tmp_path)
        assert same(got, tensors(meta['step'])), trial
        # the damage was seen: the one before was taken
        if meta['step'] == 1:
            found += 1
            assert len(said) == 1 and 'going on from checkpoint-000000000100' in str(said[0].message)
            with pytest.raises(BadInput, match='checkpoint-000000000200'): load_tensors(pair[0])
        pair[which].write_bytes(whole[which])
    assert found > 950
    assert same(checkpoint.load(tmp_path)[0], tensors(2))


def test_newer_format_is_named(tmp_path):
    checkpoint.save(tmp_path, 1, tensors(1), {})
    path = next(tmp_path.glob('*.json'))
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(BadInput, match='has format 2, which this version'): checkpoint.load(tmp_path)


def test_a_vanished_half_is_named(tmp_path):
    checkpoint.save(tmp_path, 1, tensors(1), {})
    next(tmp_path.glob('*.safetensors')).unlink()
    with pytest.raises(BadInput, match='the tensors are not'): checkpoint.load(tmp_path)


# Nothing is ever unpickled

def test_no_module_can_unpickle():
    for path in package.glob('**/*.py'):
        text = path.read_text(encoding='utf-8')
        assert not re.search(r'import pickle|pickle\.|torch\.(load|save)\b|joblib|allow_pickle=True|_object_list|all_gather_object', text), path.name


class Bomb:
    def __reduce__(self): return os.mkdir, (self.path,)


@pytest.mark.parametrize('suffix', ['safetensors', 'json'])
def test_a_pickle_in_place_of_a_file_does_not_run(tmp_path, suffix):
    checkpoint.save(tmp_path, 1, tensors(1), {})
    bomb = Bomb()
    bomb.path = str(tmp_path/'ran')
    with open(next(tmp_path.glob(f'*.{suffix}')), 'wb') as f: pickle.dump(bomb, f)
    with pytest.raises(BadInput): checkpoint.load(tmp_path)
    assert not (tmp_path/'ran').exists()


def test_after_going_back_the_good_checkpoint_stays(tmp_path):
    "A damaged checkpoint of a later image does not count among those that stay, and goes"
    for images in (10, 20, 30): checkpoint.save(tmp_path, images, dict(w=torch.ones(3)), {})
    (tmp_path/'checkpoint-000000000030.safetensors').write_bytes(b'')
    with pytest.warns(UserWarning, match='going on from checkpoint-000000000020'):
        assert checkpoint.load(tmp_path)[1]['images'] == 20
    checkpoint.save(tmp_path, 25, dict(w=torch.ones(3)), {})
    assert checkpoint.committed(tmp_path) == [25, 20]


def test_files_of_ones_own_stay(tmp_path):
    (tmp_path/'checkpoint-notes.txt').write_text('mine')
    checkpoint.save(tmp_path, 10, dict(w=torch.ones(3)), {})
    assert (tmp_path/'checkpoint-notes.txt').read_text() == 'mine'


# A kill while new files replace old ones

kill_points = ['dcd_nb.files:save_file', 'os.chmod', 'os.fsync', 'os.replace', 'pathlib:Path.write_text',
               'pathlib:Path.unlink', 'json.dumps']


def deaths(script, folder, again):
    "Run `script` in `folder` again and again, killed as it calls each of these for the first time, the second, ..., until a run ends well; `again()` makes the folder anew"
    for place in kill_points:
        for k in range(1, 100):
            again()
            done = run(script, cwd=folder, fate=(place, k))
            if done.returncode == 0: break
            assert done.returncode == -signal.SIGKILL, done.stderr[-1000:]
            yield place, k
        assert k > 1, f'{place} is never called'


def test_saving_over_old_tensors_never_loses_both(tmp_path):
    "After a death anywhere the old or the new pair is there, whole; what is saved next leaves nothing of it"
    script, pair = tmp_path/'save.py', ('mine.json', 'mine.safetensors')
    script.write_text("import torch\nfrom dcd_nb.files import save_tensors\nsave_tensors('mine', {'w': torch.full((1000,), 2.)}, dict(k=2))\n")
    folder, found = tmp_path/'here', set()
    def again():
        shutil.rmtree(folder, ignore_errors=True)
        save_tensors(folder/'mine', {'w': torch.full((1000,), 1.)}, dict(k=1))
    for place, k in deaths(script, folder, again):
        assert {*pair} <= {p.name for p in folder.iterdir()}, (place, k)
        got, meta = load_tensors(folder/'mine')
        assert torch.equal(got['w'], torch.full((1000,), float(meta['k']))), (place, k)
        found.add((meta['k'], torch.equal(got['w'], got['w'].new_tensor(2.).expand(1000))))
        # nor does a second or a third save, one of them killed again
        for value in (3, 4):
            save_tensors(folder/'mine', {'w': torch.full((1000,), float(value))}, dict(k=value))
            assert load_tensors(folder/'mine')[1] == dict(k=value)
        left = {p.name for p in folder.iterdir()}
        assert left == {*pair}, (place, k, left)
    assert found == {(1, False), (2, True)}


def test_saving_a_generator_over_an_old_one_never_loses_both(tmp_path):
    def generator(k):
        net = MLP((1, 4, 4), width=8, blocks=1)
        for p in net.parameters(): torch.nn.init.constant_(p, k/100)
        return Generator(Precond(net), Standard(), init_sigma=float(k))
    script, folder = tmp_path/'save.py', tmp_path/'here'
    new = tmp_path/'new'
    generator(2).save(new)
    script.write_text(f"from dcd_nb.distill import Generator\nGenerator.load({str(new)!r}).save('G')\n")
    def again():
        shutil.rmtree(folder, ignore_errors=True)
        generator(1).save(folder/'G')
    found = set()
    for place, k in deaths(script, folder, again):
        G = Generator.load(folder/'G')
        same = generator(G.init_sigma)
        assert all(torch.equal(a, b) for a, b in zip(G.net.parameters(), same.net.parameters())), (place, k)
        found.add(G.init_sigma)
    assert found == {1., 2.}


def test_weights_without_json_are_said_alike(tmp_path):
    "A first save that was killed before its JSON"
    Generator(Precond(MLP((1, 4, 4), width=8, blocks=1)), Standard()).save(tmp_path/'h')
    (tmp_path/'h.json').unlink()
    said = []
    for load in (Generator.load, load_pretrained, Generator.from_pretrained):
        with pytest.raises(BadInput, match='h.json is missing: h.safetensors was not committed') as e:
            load(tmp_path/'h')
        said.append(str(e.value))
    assert len({*said}) == 1
    with pytest.raises(BadInput, match='is no file'): load_pretrained(tmp_path/'i')


def test_a_first_pair_is_there_or_not(tmp_path):
    script = tmp_path/'save.py'
    script.write_text("import torch\nfrom dcd_nb.files import save_tensors\nsave_tensors('mine', {'w': torch.ones(9)}, {})\n")
    folder = tmp_path/'here'
    def again():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for place, k in deaths(script, folder, again):
        if (folder/'mine.json').exists():
            assert torch.equal(load_tensors(folder/'mine')[0]['w'], torch.ones(9))
        else:
            with pytest.raises(BadInput): load_tensors(folder/'mine')


def test_a_checkpoint_written_over_a_damaged_one_stays(tmp_path):
    "A run that went back writes checkpoints of the same names again: killed between the two files, such a one is found, also after the next"
    script = tmp_path/'save.py'
    script.write_text("import torch\nfrom dcd_nb import checkpoint\ncheckpoint.save('.', 200, {'w': torch.full((9,), 2.)}, {})\n")
    folder, found = tmp_path/'here', []
    def again():
        shutil.rmtree(folder, ignore_errors=True)
        for k in (1, 3): checkpoint.save(folder, 100*min(k, 2), {'w': torch.full((9,), float(k))}, {})
    for place, k in deaths(script, folder, again):
        value = checkpoint.load(folder)[0]['w'][0].item()
        found.append(value)
        checkpoint.save(folder, 300, {'w': torch.full((9,), 4.)}, {})
        assert checkpoint.load(folder, 200)[0]['w'][0].item() == value, (place, k)
    assert {*found} == {2., 3.}
