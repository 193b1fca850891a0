"A run from recipe to record under kills and in a given time."
import json
import math
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from processes import run

from dcd_nb.cli import list_recipes
from dcd_nb.draws import rng
from dcd_nb.errors import BadInput
from dcd_nb.data import digits
from dcd_nb.distill import Generator
from dcd_nb.metrics import compare
from dcd_nb.mri import MultiCoilMRI, phantoms
from dcd_nb.networks import MLP, Precond, UNet
from dcd_nb.objectives import AmbientInpainting, Objective
from dcd_nb.operators import Compose, Corruption, FourierMask, Identity, Operator, Saturation
from dcd_nb.quickstart import quickstart, ways_to_sample
from dcd_nb.recipes import recipe, recipes
from dcd_nb.recipes.library import _library
from dcd_nb.record import Record
from dcd_nb.runs import _reconstructed, check_record, keep_record, run_recipe
from dcd_nb.training import Teacher

small = 'network=MLP(shape=(1,8,8),width=32,blocks=1) train.images=6400 train.batch=64 train.checkpoint_every=1600 distill.images=3200 distill.batch=64 distill.checkpoint_every=800'


def start(folder, out, *args, changes=small, **kw):
    return run('dcd_run', 'digits-noise', out, '--n', '500', '--json', '--set', changes, *args, cwd=folder,
               **kw)


def finish(done):
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('runs')
    return path, finish(start(path, 'whole'))


def step(k):
    # the teacher makes 100, the student two for each of its 50
    return ('dcd_nb.training:Learner.apply_gradients', k)


# where, in the order of the run; and how many images teacher and student have at their last checkpoints
kills = {
    'before anything is there': (('os.replace', 1), 0), 'as the teacher learns': (step(40), 1600),
    'between the two files of a checkpoint': (('os.replace', 2), 1600),
    'with the teacher done': (('dcd_nb.training:Loop.cost', 1), 6400),
    'as the student starts': (step(1), 6400), 'in a step, with the fake ahead': (step(2*30 + 1), 7936),
    'as the student is judged': (('dcd_nb.distill.monitors:health', 2), 8704),
    'as all are compared': (('dcd_nb.runs:contestants', 1), 9600),
    'in the middle of the record': (('dcd_nb.runs:save_images', 1), 9600),
    'with the weights of the record written': (('dcd_nb.runs:save_tensors', 1), 9600)}


def reached(out):
    "Images that teacher and student have seen at their last checkpoints"
    return sum(max((int(f.stem.split('-')[1]) for f in (out/phase).glob('checkpoint-*.json')), default=0)
               for phase in ('teacher', 'student'))


def test_ten_kills_end_with_the_same_record(whole):
    "In both trainings, and while it compares and writes"
    path, result = whole
    for where, (fate, images) in kills.items():
        p = start(path, 'parts', fate=fate)
        assert p.returncode == -signal.SIGKILL and reached(path/'parts') == images, (where, p)
        assert not (path/'parts/record/results.json').exists(), where
    again, clock = finish(start(path, 'parts')), {'seconds', 'seconds_50k', 'made_with'}
    assert {k: v for k, v in again.items() if k not in clock} == {k: v for k, v in result.items()
        if k not in clock}
    keep = lambda out: [l
                        for l in ({k: v for k, v in json.loads(l).items()
                                   if k not in ('seconds', 'img_per_s')}
                                  for l in (path/out/'record/metrics.jsonl').open())]
    assert keep('parts') == keep('whole')
    for name in ('teacher', 'generator', 'reference'):
        assert (path/f'parts/record/{name}.safetensors').read_bytes() == (path/f'whole/record/{name}.safetensors').read_bytes()


def test_a_record_is_checked(whole):
    path, result = whole
    done = run('dcd_check', path/'whole/record', '--json', cwd=path)
    assert done.returncode == 0 and json.loads(done.stdout) == check_record(path/'whole/record')
    broken = path/'whole/record/results.json'
    told = json.loads(broken.read_text())
    told['fd_10k']['random']['student'] *= .5                               # somebody improved the result
    broken.write_text(json.dumps(told))
    done = run('dcd_check', path/'whole/record', cwd=path)
    assert done.returncode == 2 and 'something else than its weights' in done.stderr


shipped = sorted(p.parent for p in (Path(__file__).parent.parent/'nbs/runs').glob('*/results.json'))


# those of further seeds may keep no weights
with_weights = [p for p in shipped if (p/'generator.json').exists()]


def of_seed(k): return {'train.seed': k, 'distill.seed': k} if k else {}


def test_records_are_shipped():
    assert {'digits-noise', 'digits-mask', 'phantoms-16-R4'} <= {p.name for p in with_weights}


@pytest.mark.parametrize('record', with_weights, ids=lambda p: p.name)
def test_one_command_reproduces_a_shipped_record(record, tmp_path):
    done = run('dcd_check', record, '--json', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, recorded = json.loads(done.stdout), Record(record).results
    assert recorded['counts']['student'] >= 10_000 and {*found} == {*recorded['fd_10k']} - {'pca'}
    for space, d in found.items():
        assert d['recorded'] == recorded['fd_10k'][space]['student'] and d['low'] <= d['recorded'] <= d['high']
        # and not because anything would do
        assert d['high'] - d['low'] < .3*d['recorded']


@pytest.mark.parametrize('record', shipped, ids=lambda p: p.name)
def test_a_shipped_record_adds_up(record):
    r = Record(record)
    told, made = r.results, r.recipe
    # the seed, if it is 0, may be said or not
    named = dict(train__seed=told['seed'], distill__seed=told['seed'])
    assert made in (recipe(told['recipe'], **of_seed(told['seed'])),
                    recipe(told['recipe'], **named)) and told['rows'] == ['clean', *told['counts']] and told['n'] == told['counts']['student']
    for d in (*told['fd'].values(), *told['fd_10k'].values()):
        assert {*d} | {'teacher_full'} == {*told['counts']} | {'teacher_full'} and all(0 <= v < math.inf for v in d.values())
    if told['n'] <= 10_000: assert told['fd'] == told['fd_10k']
    for phase, part in dict(teacher='train', student='distill').items():
        seen = [l['images'] for l in r.lines if l['phase'] == phase]
        assert seen == sorted(seen) and seen[-1] == told['images'][phase] and abs(seen[-1] - getattr(made,
            part)['images']) < getattr(made, part)['batch']
    if record in with_weights:
        assert sum(p.numel()
                   for p in Generator.load(record/'generator').net.parameters()) == told['parameters']


def printed(page):
    "What the cells of a page print, or show as text"
    cells = json.loads((Path(__file__).parent.parent/f'nbs/{page}.ipynb').read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(o.get('text', '')) + ''.join(o.get('data', {}).get('text/markdown', ''))
                     for c in cells for o in c.get('outputs', []))


@pytest.mark.parametrize('record', shipped, ids=lambda p: p.name)
def test_pages_show_what_is_recorded(record):
    r, table = Record(record), printed('49_results')
    if not r.recipe.name.startswith(('fastmri', 'phantoms')):
        pages = '41a_handwriting', '43_runs_to_make', '45_mri_run'
        assert str(r) in ''.join(map(printed, pages))
    for space, d in r.results['fd'].items():
        teacher, student = min(v for k, v in d.items() if k.startswith('teacher_')), d['student']
        row = f"`{r.folder.name}` | {r.label(space)} | {teacher:.4g} | {student:.4g} | {student/teacher:.2f} | {r.results['n']}"
        assert table.count(row) == 1


def test_precision_and_recall_are_those_of_their_space():
    r = next(r for r in map(Record, shipped) if 'recall' in r.results)
    line = [l for l in str(r).splitlines() if l.startswith('student')][1].split()
    assert line[2::3] == [f"{r.results['precision'][s]['student']:.2f}"
                          for s in r.results['fd']] and len({*line[2::3]}) > 1


def test_it_ends_in_time(tmp_path):
    began = time.time()
    result = finish(start(tmp_path, 'run', '--minutes', '.25',
                          changes='network=MLP(shape=(1,8,8),width=32,blocks=1)'))
    assert time.time() - began < 45 and result["fd"]["random"]["corrupted"] < 40 and result['images']['teacher'] > 5000 and result['n'] == 500


def narrow(r):
    "The recipe with its network at reduced width, and three steps of two images"
    net = r.network
    if isinstance(net, str):
        net = {'network': 'UNet'} | UNet.sizes[net] | dict(resolution=r.corruption.op.out_shape((3, *[r.data.size]*2))[1])
    small = dict(channels=8, blocks=1) if net['network'] == 'UNet' else dict(width=16, blocks=1)
    if r.name.startswith('fastmri'): small |= dict(resolution=(48, 40))
    return r.override({'network': net | small, 'train.images': 6, 'train.batch': 2, 'distill.images': 6,
                       'distill.batch': 2})


published = [k for k in recipes() if k.startswith(('cifar10', 'celebahq', 'ffhq', 'afhqv2', 'fastmri'))
             and not k.endswith(('-small', '-cpu'))]


def test_opponents_and_weights_on_the_way_are_compared_too(tmp_path):
    r = recipe('digits-noise', network=MLP((1, 8, 8), width=32, blocks=1), train__images=640, train__batch=64,
               distill__images=320, distill__batch=64, train__keep_weights=True, distill__keep_weights=True)
    found = run_recipe(r, tmp_path/'a', n=300, clean=True, longer=True, quiet=True)
    best = {min((v, k) for k, v in d.items() if k.startswith('teacher_'))[1].replace('teacher_', 'longer_')
            for d in found['fd'].values()}
    assert {k for k in found['counts'] if k.startswith(('longer', 'clean'))} == best | {'clean_teacher'}
    teacher, G = Teacher.load(tmp_path/'a/teacher'), Generator.load(tmp_path/'a/student')
    both = json.loads((tmp_path/'a/longer/recipe.json').read_text())['images']
    work = [json.loads((tmp_path/f'a/{phase}/results.json').read_text())['pflop']
            for phase in ('teacher', 'student')]
    assert both == found['images']['longer'] and abs(both - 640*sum(work)/work[0]) < 64 and found['images']['clean_teacher'] == 640
    seen = json.loads((tmp_path/'a/clean/recipe.json').read_text())
    assert seen['data']['corruption'] == dict(op=dict(operator='Identity'), sigma=0.) and seen['objective']['objective'] == 'Standard'
    for phase, model, way in (('teacher', teacher, 'teacher_truncated'), ('student', G, 'student')):
        rows = found['on_the_way'][phase]
        assert rows[-1]['images'] == found['images'][phase] and [row['images']
            for row in rows] == sorted({row['images'] for row in rows}) and len(rows) > 3
        for space, d in rows[-1]['fd'].items():
            # the last weights are those of the run
            assert d == pytest.approx(found['fd'][space][way], rel=1e-4)
        assert rows[0]['fd']['random'] > rows[-1]['fd']['random']
    for table in ('precision', 'recall'):
        assert all(0 <= v <= 1 for d in found[table].values()
                   for v in d.values()) and {*found[table]['pca']} == {*found['counts']}
    assert 'precision / recall' in str(Record(tmp_path/'a/record'))


def test_quickstart_takes_other_images(tmp_path, monkeypatch):
    monkeypatch.setitem(_library, 'mnist-noise', recipe('mnist-noise', network=recipe('mnist-noise').network
                                                        | dict(channels=16)))
    save = lambda x, k: Image.fromarray((127.5*x[0, 0] + 127.5).byte().numpy()).resize((30, 30)).save(tmp_path/f'data/{k}.png')
    (tmp_path/'data').mkdir()
    for k in range(40): save(digits()[k:k+1], k)
    found = quickstart(images=256, n=40, data=str(tmp_path/'data'), out=tmp_path/'out', quiet=True)
    assert {p.name for p in (tmp_path/'out').iterdir()} >= {'preview.png', 'quickstart.png', 'results.json',
        'generator.safetensors'}
    assert Generator.load(tmp_path/'out/generator').shape == (1, 28,
        28) and found['n'] == 40 and not found['equal_compute'] and 'clean_teacher' not in found['fd']['pca']
    with pytest.raises(BadInput, match='noise, mask, blur'):
        quickstart('saturation', data=str(tmp_path/'data'))


def test_scans_leave_a_record(tmp_path):
    r = recipe('phantoms-16-R4', data__n=300, train__images=2560, distill__images=1280)
    results = run_recipe(r, tmp_path/'a', n=200, quiet=True)
    assert {'student', 'teacher_full', 'zero_filled',
            'sense'} == set(results['fd']['random']) and check_record(tmp_path/'a/record')['random']['agree']
    ys, heads = r.measurements(), (2*phantoms(300, 16).norm(dim=1, keepdim=True) - 1)
    zero = 2*ys.op.adjoint(ys.y, ys.state).norm(dim=1, keepdim=True)[:200] - 1
    for space, d in results['fd'].items():                                  # of magnitudes, as bytes
        assert d['zero_filled'] == pytest.approx(compare({'zero': zero}, heads, [space])['fd'][space]['zero'],
                                                 rel=.02)


def test_records_of_further_seeds_can_go_without_weights(tmp_path, monkeypatch):
    small = recipe('phantoms-16-R4', data__n=100, train__images=256, distill__images=256)
    monkeypatch.setitem(_library, 'phantoms-16-R4', small)
    with pytest.raises(BadInput, match="weights='student' is not known"):
        keep_record('phantoms-16-R4', tmp_path, 1, weights=('student',), n=50, quiet=True)
    keep_record('phantoms-16-R4', tmp_path, 1, weights=(), n=50, quiet=True)
    folder, = tmp_path.iterdir()
    r = Record(folder)
    assert folder.name == 'phantoms-16-R4-seed1' and r.recipe == small.override(of_seed(1)) and r.results['seed'] == 1
    assert [p.name for p in folder.glob('*.safetensors')] == ['reference.safetensors'] and 'seed 1' in str(r)
    done = run('dcd_check', folder, cwd=tmp_path)
    assert done.returncode == 2 and 'keeps no generator' in done.stderr


def test_every_small_edition_fits_into_half_an_hour():
    seen = {}
    for name in published:
        r = recipe(f'{name}-small')
        kind = json.dumps([r.network, r.to_dict()['train'], r.to_dict()['distill'], r.teacher_shape(),
                           r.student_shape()])
        if kind not in seen: seen[kind] = r.cost()
        c = seen[kind]
        assert r.corruption.to_dict() == recipe(name).corruption.to_dict() and r.data == recipe(name).data
        assert 5 < 60*(c['hours']['H200'] + c['student']['hours']['H200']) < 20


def test_every_recipe_prints_its_cost_card(capsys):
    "That of the full network, which is made on the meta device"
    seen = set()
    for name, r in recipes().items():
        if name == 'own': continue
        net = {k: v for k, v in r.network.items()
               if k != 'dropout'} if isinstance(r.network, dict) else r.network
        # what work depends on
        kind = json.dumps([net, r.teacher_shape(), r.student_shape(), r.objective_for().extra_channels,
                           type(r.distill.get('loss')).__name__])
        if kind in seen: continue
        seen.add(kind)
        list_recipes(name)
        out = capsys.readouterr().out
        assert float(re.search(r'\ncost +([\d.]+) M parameters', out)[1]) > 0, name
        for part in ('train', 'distill'):
            if images := getattr(r, part).get('images'):
                # toys leave theirs open
                assert re.search(rf'\n    {part} +{images:_} images, [\d.e+-]+ PFLOP: H200 .*, A100 .*, 4090 ', out), name
    assert len(seen) > 10


def kind(name):
    "What decides about the steps of a recipe: all of it but names, places and values; zeros count, as what is zero is left out"
    r = narrow(recipe(name))
    parts = {k: v for k, v in r.to_dict().items() if k in ('corruption', 'network', 'objective', 'train',
        'distill')}
    return re.sub(r'(?<![\w"])-?\d[\d.e+-]*', lambda m: '0' if float(m[0]) == 0 else 'x',
                  json.dumps(parts, sort_keys=True))


# of recipes that differ in values alone, the first one is run
kinds = {}
for name in recipes():
    if name != 'own': kinds.setdefault(kind(name), name)


@pytest.mark.parametrize('name', kinds.values())
def test_every_kind_of_recipe_runs_three_steps_of_both_phases(name):
    r = narrow(recipe(name))
    if name.startswith('fastmri'): ys = r.corruption.measure(phantoms(4, (48, 40)))
    elif name.startswith('phantoms'):
        # not all of them, of which the first four would be taken
        ys = r.corruption.measure(phantoms(4, r.data.size))
    elif r.data.source in (None, 'cifar10', 'mnist'):
        ys = r.corruption.measure(2*torch.rand(4, r.data.channels, r.data.size, r.data.size,
                                               generator=rng(0)) - 1)
    else: ys = r.override({'data.n': 4}).measurements()
    teacher = r.teacher(ys, quiet=True, grid=0, checkpoint_every=6)
    G = r.student(teacher, ys, quiet=True, grid=0, monitor=False, checkpoint_every=6)
    assert teacher.cost['images'] == G.cost['images'] == 6 and teacher.cost['skipped'] == G.cost['skipped'] == 0
    x = G.sample(2)
    assert tuple(x.shape[1:]) == ys.shape and x.isfinite().all()


# Who is compared follows from operator and objective

class Shown(Objective):
    "The network is given something; nothing is said about other ways to sample"
    extra_channels = 1


def test_the_objective_says_what_a_sampler_may_be_shown():
    net = Precond(MLP((1, 8, 8), width=4))
    ways = ways_to_sample(Teacher(net, AmbientInpainting(.5)), 3)
    assert list(ways) == ['mask as in training', 'mask that keeps half',
                          'mask without holes'] and ways['mask as in training'] == {}
    assert (ways['mask without holes']['state'] == 1).all() and ways['mask that keeps half']['state'].shape == (3, 1, 8, 8)
    assert ways_to_sample(Teacher(net, Shown()), 3) == {'full': {}}


class _Own(Operator):
    "Nothing but the map"
    def forward(self, x, state): return 2*x


class _OwnLines(FourierMask):
    "Lines of k-space, made by somebody else"


@pytest.mark.parametrize('op, names', [(Identity(), []), (_Own(), []),
                                       (FourierMask(2), ['zero_filled', 'sense']),
                                       (_OwnLines(2), ['zero_filled', 'sense']),
                                       (MultiCoilMRI(2, coils=2), ['zero_filled', 'sense']),
                                       (Compose(Identity(), FourierMask(2)), ['zero_filled', 'sense']),
                                       (Compose(Saturation(), FourierMask(2)), [])])
def test_scans_of_every_kind_are_reconstructed(op, names):
    ys = Corruption(op).measure(phantoms(4, 16))
    found = _reconstructed(ys, 3)
    assert list(found) == names and all(x.shape == (3, 2, 16, 16) for x in found.values())
