"An import changes nothing but itself: what exists does not depend on what else was imported."
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dcd_nb
from dcd_nb.all import *
from dcd_nb.metrics import copies, density_coverage, frechet_interval, nearest, neighbourhoods
from dcd_nb.named import Named
from dcd_nb.identify.report import coverage, sees_all

root = Path(__file__).parent.parent


def fresh(code):
    "What `code` prints in a process of its own"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


alone = {
    'phantoms by name': "from dcd_nb.data import known_images, load_images; print(load_images('phantoms', 8).shape[1:], 'phantoms' in known_images, 'dcd_nb.mri' in sys.modules)",
    'measure': "from dcd_nb.operators import *; ys = Corruption(Identity(), .1).measure(torch.zeros(2, 1, 4, 4)); print(type(ys).__name__, len(ys))",
    'to_onnx': "from dcd_nb.distill import Generator; print(callable(Generator.to_onnx))",
    'what a file names': "from dcd_nb.distill import Generator; from dcd_nb.named import Named; print('dcd_nb.mri' in sys.modules, *(Named.from_dict(d) for d in (dict(operator='MultiCoilMRI', R=4), dict(objective='SUREScore', sigma=.1))))",
    'features': "from dcd_nb.metrics import features; print(features('classifier', torch.zeros(2, 3, 32, 32)).shape)",
}
says = {'phantoms by name': 'torch.Size([2, 8, 8]) True False', 'measure': 'Measurements 2',
        'to_onnx': 'True', 'features': '(3, 32, 32)',
        'what a file names': "False MultiCoilMRI(R=4, acs=None, coils=4, lines='random', maps='ring') "
                             "SUREScore(sigma=0.1, weight=1.0, levels=LogNormal(mean=-1.2, std=1.2))"}


@pytest.mark.parametrize('name', alone)
def test_one_import_is_enough(name):
    assert fresh('import sys, torch\n' + alone[name]).strip() == says[name]


changes = '''
import importlib, json, re, sys
from pathlib import Path
import dcd_nb

def plain(v):
    "A copy deep enough to see what is written into a table"
    if isinstance(v, dict): return {k: plain(o) for k, o in v.items()}
    if isinstance(v, (list, tuple, set)): return [id(o) for o in v]
    return id(v)

def tables():
    "Every attribute of every module and class of the package"
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] != 'dcd_nb': continue
        submodules = {k.rsplit('.', 1)[1] for k in sys.modules if k.startswith(name + '.')}
        found[name] = {k: plain(v) for k, v in vars(module).items() if k not in submodules and k != '__builtins__' and type(v).__name__ != 'module'}
        for cls in [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == name]:
            found[f'{name}.{cls.__qualname__}'] = {k: plain(v) for k, v in vars(cls).items() if k not in ('known', 'families') and not k.startswith(('__abstract', '_abc', '__annotat'))}
    return found

def page(path): "The notebook that makes a file: what it imports has a smaller number, so that each import below runs one file"; return re.search(r'nbs/(\\w+)', path.read_text())[1]
home = Path(dcd_nb.__file__).parent
files = sorted((p for p in home.rglob('*.py') if not p.name.startswith('_')), key=page)
names = ['.'.join(('dcd_nb', *p.relative_to(home).with_suffix('').parts)) for p in files]
wrong = []
for name in names:
    before = tables()
    importlib.import_module(name)
    after = tables()
    wrong += [f'{name} changes {where}.{k}' for where, old in before.items() for k in {*old, *after[where]} if old.get(k) != after[where].get(k)
              and (name, k) != ('dcd_nb.all', '__doc__')]                    # it adds the comments of arguments to what help() shows
print(json.dumps([names, sorted(wrong)]))
'''


def test_a_module_changes_no_other():
    "Only `known`, the members of a family, may grow: a new operator is found by name without touching anything else"
    names, wrong = json.loads(fresh(changes))
    assert len(names) > 20 and not wrong, wrong


def test_the_search_for_changes_finds_one():
    seeded = changes.replace('    after = tables()', """\
    if name == 'dcd_nb.mri.coils':
        sys.modules['dcd_nb.operators.corruption'].Corruption.extra = 1
        sys.modules['dcd_nb.data.loading']._made['x'] = 1
    after = tables()""")
    assert json.loads(fresh(seeded))[1] == ['dcd_nb.mri.coils changes dcd_nb.data.loading._made',
                                            'dcd_nb.mri.coils changes dcd_nb.operators.corruption.Corruption.extra']


kernel = '''
import json, sys
from traitlets.config import Config
from IPython.core.interactiveshell import InteractiveShell
class ZMQInteractiveShell(InteractiveShell): pass                  # what a notebook's kernel is called
ip = ZMQInteractiveShell.instance()
steps = lambda: [getattr(f, '__name__', '') for f in ip.input_transformers_cleanup]
before = steps()
import dcd_nb.all
found = [steps() == before]
ip.run_line_magic('load_ext', 'dcd_nb'); found.append(steps() == before + ['_keep_slow'])
dcd_nb.load_ipython_extension(ip); found.append(steps() == before + ['_keep_slow'])
found.append('show_stored' in ip.transform_cell('#| slow\\n1/0') and 'show_stored' not in ip.transform_cell('1/0'))
from matplotlib_inline.config import InlineBackend
import matplotlib_inline.backend_inline as inline, matplotlib.pyplot as plt, struct
inline.configure_inline_support(ip, 'inline')
fig, _ = plt.subplots(figsize=(2, 1), dpi=100)
data, size = ip.display_formatter.formatters['image/png'](fig)      # pixels, and the size at which they are shown
import base64
found.append(abs(struct.unpack('>I', base64.b64decode(data)[16:20])[0] - 2*size['width']) < 2)
found.append(ip.run_cell('#| slow\\n1/0').success and not ip.run_cell('1/0').success)                # shown, not run
print(json.dumps(found))
'''


def test_the_kernel_is_changed_on_demand_only(monkeypatch, tmp_path):
    monkeypatch.delenv('DCD_SLOW', raising=False)
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path))
    assert json.loads(fresh(kernel).splitlines()[-1]) == [True]*6


def test_importing_the_package_is_light_and_leaves_ipython_alone():
    assert fresh("import sys, dcd_nb; print(dcd_nb.__version__ != '', 'torch' in sys.modules)").split() == ['True', 'False']
    assert fresh("import sys, dcd_nb.operators; print('IPython' in sys.modules)").strip() == 'False'
    assert dcd_nb.__version__ in (root/'settings.ini').read_text()


def test_pages_with_slow_cells_load_the_extension():
    for path in sorted((root/'nbs').glob('*.ipynb')):
        code = [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells']
                if c['cell_type'] == 'code']
        waits = [any(line.strip() in ('#| slow', '#| cuda') for line in src.splitlines()) for src in code]
        loads = ['%load_ext dcd_nb' in src for src in code]
        assert not any(waits) or any(loads) and loads.index(True) < waits.index(True), f'{path.name}: put %load_ext dcd_nb into its imports'


def test_a_mask_of_ones_own_is_reported_on():
    "`identifiability` asks functions that anybody may add to"
    class Columns(RandomMask):
        "Whole columns are hidden"
        def draw(self, n, shape, generator):
            return (torch.rand(n, 1, 1, shape[2], generator=generator) > self.missing).float().expand(n, 1, *shape[1:])
    class Rows(Operator):
        "Whole rows are hidden, in any channel"
        random = True
        def draw(self, n, shape, generator):
            return (torch.rand(n, 1, shape[1], 1, generator=generator) < .5).float()
        def forward(self, x, state): return x*state
        def observed(self, state): return state
    assert sees_all(Columns(.5), (1, 4, 4)) == sees_all(RandomMask(.5), (1, 4, 4))
    assert identifiability(Corruption(Rows())).identifiable == 'second moments'
    @sees_all.register
    def _(op:Rows, shape): return shape[1]*np.log10(.5)
    @coverage.register
    def _(op:Rows, state): return state.flatten(1)
    report = identifiability(Corruption(Rows()))
    assert report.identifiable is True and report.chance == 16*np.log10(.5) and report.d == 16


def test_abstract_and_private_classes_are_not_offered():
    class _Held(RandomMask): pass
    class Base(Operator, abstract=True): pass
    class Mine(Base):
        def forward(self, x, state): return x
    try:
        with pytest.raises(BadInput) as e: Operator.from_dict(dict(operator='Nothing'))
        assert 'Mine' in str(e.value) and not [n for n in ('_Held', 'Base', 'Separable')
                                               if f' {n},' in str(e.value)]
        assert not [n for c in Named.families.values() for n in c.known if n.startswith('_')
                    or n in ('Separable', 'Conditioned', 'Levels')]
        assert isinstance(Operator.parse('Mine()'), Mine)
    finally: Operator.known.pop('Mine')
    assert fresh("from dcd_nb.operators import *\nclass Own(Identity): pass\nprint(Operator.parse('Own()'))").strip() == 'Own()'


makes = dict(Standard=lambda v: Standard(levels=v), AmbientTweedie=lambda v: AmbientTweedie(.1, levels=v),
             AmbientInpainting=lambda v: AmbientInpainting(.5, levels=v),
             AmbientFourier=lambda v: AmbientFourier(FourierMask(4), levels=v),
             Consistency=lambda v: Consistency(.1, levels=v))


@pytest.mark.parametrize('name', makes)
@pytest.mark.parametrize('levels', [.5, 0, 'LogNormal'])
def test_every_objective_checks_its_levels(name, levels):
    with pytest.raises(BadInput, match='levels='): makes[name](levels)


def test_an_objective_of_ones_own_is_checked_too():
    class Own(Standard): pass
    try:
        with pytest.raises(BadInput, match='levels=0.5 must be Levels'): Own(.5)
        assert repr(Own(LogNormal(0., 1.))) == 'Own(levels=LogNormal(mean=0.0, std=1.0))'
    finally: Standard.known.pop('Own')


def test_the_loss_of_k_space_asks_the_network_by_denoise():
    "A subclass that changes how the network is asked is trained as it will be used"
    asked = []
    class Watched(AmbientFourier):
        def denoise(self, net, x, s, state=None, **kw):
            asked.append((s, state))
            return super().denoise(net, x, s, state, **kw)
    class Net:
        def __call__(self, x, s, mask=None, extra=None): self.seen = x, extra; return x
        def weight(self, s, mask=None): return torch.ones(len(s), 1, 1, 1)
    try:
        objective, x, net = Watched(FourierMask(2), R=4), torch.randn(4, 2, 8, 8, generator=rng(0)), Net()
        loss = objective.loss(net, Corruption(FourierMask(2)).batch(x, rng(1)), Draws(0))
        shown, (s, state) = net.seen, asked[0]
        # what the network was shown is what it is shown of x with noise
        noise = Draws(0).normal
        objective.denoise(net, x, s, state)
        gap = shown[0] - net.seen[0]
        assert len(asked) == 2 and loss.shape == (4,) and torch.equal(shown[1], net.seen[1])
        assert gap.flatten(1).norm(dim=1).gt(0).all() and (objective.through_lines(gap, state)
            - gap).abs().max() < 1e-4
    finally: AmbientFourier.known.pop('Watched')


def test_weights_and_generators_of_random_numbers():
    "A network of a recipe follows from its seed; making it leaves all generators as they were, those of GPUs included"
    r = recipe('digits-mask')
    reseeded, keep = [], torch.cuda.manual_seed_all
    torch.cuda.manual_seed_all = lambda *a: reseeded.append(a)
    try:
        before = torch.get_rng_state()
        wide, narrow = (r.network_for((1, 8, 8), extra).state_dict() for extra in (1, 0))
        assert torch.equal(torch.get_rng_state(), before) and not reseeded
    finally: torch.cuda.manual_seed_all = keep
    assert sum(not torch.equal(wide[k], t) for k, t in narrow.items()) > 0
    for k, t in narrow.items():
        assert torch.equal(wide[k] if wide[k].shape == t.shape else wide[k][:, :t.shape[1]], t)


def test_making_room_leaves_the_random_numbers_alone():
    from dcd_nb.training import with_extra_channels
    net, before = MLP((1, 8, 8), width=16), torch.get_rng_state()
    with_extra_channels(net, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_metrics_take_arrays_and_lists():
    from dcd_nb.metrics import copies, density_coverage, frechet_interval, nearest, neighbourhoods
    a, b = (torch.randn(40, 3, generator=rng(i)) for i in (0, 1))
    x, y = (torch.rand(12, 1, 8, 8, generator=rng(i)) for i in (2, 3))
    p = torch.rand(20, 4, generator=rng(4)).softmax(1)
    as_list = lambda t: t.tolist()
    # must not be written
    frozen = lambda t: np.frombuffer(t.numpy().tobytes(), t.numpy().dtype).reshape(t.shape)
    for make in (torch.Tensor.numpy, as_list, frozen, lambda t: t.numpy().astype('>f4')):
        for f in (frechet_distance, kid, neighbourhoods, precision_recall, density_coverage,
                  sliced_wasserstein, frechet_interval):
            assert f(make(a), make(b)) == pytest.approx(f(a, b)), f
        for f in (psnr, ssim, nmse):
            assert torch.allclose(f(make(x), make(y)), f(x, y).double(), atol=1e-6), f
        assert torch.allclose(nearest(make(x), make(y)).distance, nearest(x, y).distance)
        assert copies(make(x), make(y)) == pytest.approx(copies(x, y))
        assert inception_score(make(p)) == pytest.approx(inception_score(p), nan_ok=True)
    u, v = x[..., :2, :3], y[..., :2, :3]
    same = [compare({'x': u}, v, spaces=['pixels'])['fd'],
            compare({'x': u.numpy()}, v.numpy(), spaces=['pixels'])['fd']]
    assert same[0] == same[1]
    for k in ('fd', 'kid', 'reference'):
        assert evaluate(u.numpy(), v.numpy(), 'pixels', reps=0)[k] == evaluate(u, v, 'pixels', reps=0)[k]
    with pytest.raises(BadInput, match='are str'): frechet_distance('abc', b)
    with pytest.raises(BadInput): psnr('abc', y)
