"Choosing without clean images: the proximal distance, the best checkpoint under faults, noise and operators from observations."
import json
import shutil
import signal
import warnings

import pytest
import torch
from processes import run, run_together

from dcd_nb import checkpoint
from dcd_nb.draws import rng
from dcd_nb.errors import BadInput
from dcd_nb.data import Measurements, camera_noise, digits, phantoms
from dcd_nb.distill import Generator, distill, health
from dcd_nb.files import content_hash
from dcd_nb.identify import fitting, missing_rate, noise_detail, noise_patches, noise_range
from dcd_nb.losses import SiD
from dcd_nb.metrics import Proximal, corrupted_anew, proximal_fid, stored
from dcd_nb.networks import MLP
from dcd_nb.objectives import objective_for
from dcd_nb.operators import Corruption, Downsample, FourierMask, GaussianBlur, Identity, RandomMask
from dcd_nb.training import Checkpoints, Teacher, train

A = Corruption(Identity(), .5)


@pytest.fixture(scope='module')
def made():
    "Measurements and a small teacher"
    ys = A.measure(digits()[:200])
    torch.manual_seed(0)
    return ys, train(ys, MLP((1, 8, 8), width=32, blocks=1), objective_for(A), images=640, batch=64,
                     quiet=True)


class Says:
    "A monitor that answers from a list, the same for the same weights, and remembers these"
    def __init__(self, *values): self.values, self.seen, self.nets = list(values), {}, []
    def __call__(self, model):
        key = content_hash(model.net.state_dict())
        if key not in self.seen:
            self.seen[key] = self.values[len(self.seen)]
            self.nets.append(key)
        return dict(v=self.seen[key])


def go(made, **kw):
    ys, teacher = made
    own = {k: kw.pop(k) for k in ('monitor', 'select', 'patience') if k in kw}
    return distill(teacher, ys, SiD(.5), checkpoints=Checkpoints(64, grid=0, **own),
                   **dict(images=320, batch=32, lr=1e-3, quiet=True) | kw)


def shown(model): return content_hash(model.net.state_dict())


def test_lost_weights_are_told(made, tmp_path):
    "Without its folder the best is gone: the last weights are returned, and not called selected"
    G = go(made, monitor=Says(3., 1., 2., 2., 2.), select='v', out=tmp_path/'run')
    shutil.rmtree(tmp_path/'run/best')
    with pytest.warns(UserWarning, match="best holds no weights selected by 'v'"):
        last = Generator.load(tmp_path/'run')
    with pytest.warns(UserWarning,
                      match="best is gone: the last weights are returned, not those at image 128"):
        again = go(made, monitor=Says(3., 1., 2., 2., 2.), select='v', out=tmp_path/'run', resume=True)
    assert 'selected' not in again.cost and shown(again) == shown(last) != shown(G)


@pytest.mark.parametrize('kept', [True, False])
def test_the_best_is_returned(made, tmp_path, kept):
    says = Says(3., 1., 2., float("nan"), 1.)
    G = go(made, monitor=says, select='v', out=tmp_path/'run' if kept else None)
    assert len(says.nets) == 5 and shown(G) == says.nets[1] == G.cost['weights_sha256'] and G.cost['selected'] == 128 and G.cost['images'] == 320
    if kept:
        assert shown(Generator.load(tmp_path/'run')) == says.nets[1]
        assert json.loads((tmp_path/'run/results.json').read_text())['selected'] == 128
        assert len([*(tmp_path/'run/best').iterdir()]) == 2
        # the last one is there too, to go on from
        assert checkpoint.load(tmp_path/'run')[1]['images'] == 320
    assert 'selected' not in go(made, monitor=Says(*range(5))).cost


def test_a_teacher_is_selected_as_well(made, tmp_path):
    says = Says(3., 1., 2.)
    t = train(made[0], MLP((1, 8, 8), width=16, blocks=1), images=192, batch=32, quiet=True,
              checkpoints=Checkpoints(64, grid=0, monitor=says, select='v'), out=tmp_path/'run')
    assert shown(t) == says.nets[1] == shown(Teacher.load(tmp_path/'run'))


def test_patience_ends_a_run_once_and_for_all(made, tmp_path):
    says = Says(3., 1., 2., 1., 4., 0.)
    args = dict(monitor=says, select='v', patience=3, images=640, out=tmp_path/'run')
    first = go(made, **args)
    assert first.cost['images'] == 320 and first.cost['selected'] == 128 and shown(first) == says.nets[1]
    again = go(made, resume=True, **args)
    assert again.cost['images'] == 320 and again.cost['selected'] == 128 and shown(again) == shown(first) and len(says.nets) == 5


def test_selection_only_chooses(made, tmp_path):
    "What is trained is the same with and without, and with observations that say something else"
    blank = Measurements(torch.zeros_like(made[0].y), A)
    for name, args in dict(a=dict(monitor=False), b=dict(select='proximal'),
                           c=dict(select='histogram')).items():
        go(made if name != 'c' else (blank, made[1]), out=tmp_path/name, **args)
    a, b, c = (checkpoint.load(tmp_path/name)[0] for name in 'abc')
    assert a.keys() == b.keys() == c.keys() and all(torch.equal(a[k], b[k]) and torch.equal(a[k], c[k])
                                                    for k in a)


def test_a_kill_while_the_best_is_written(made, tmp_path):
    says = Says(5., 4., 3., 2., 1.)
    go(made, monitor=says, select='v', out=tmp_path/'run')
    half = tmp_path/'run/best/checkpoint-000000000999.safetensors'
    # its JSON, which commits, is not there
    half.write_bytes(b'not yet')
    assert shown(Generator.load(tmp_path/'run')) == says.nets[4]


def test_a_stale_best_does_not_survive_a_new_start(made, tmp_path):
    go(made, monitor=Says(0., 1., 2., 3., 4.), select='v', out=tmp_path/'run')
    for p in (tmp_path/'run').glob('checkpoint-*'): p.unlink()
    says = Says(9., 8., 7., 6., 5.)
    assert shown(go(made, monitor=says, select='v', out=tmp_path/'run',
                    resume=True)) == says.nets[4] == shown(Generator.load(tmp_path/'run'))


def test_kills_and_processes_select_the_same(tmp_path):
    "Killed as the best so far is written, between its two files and before it is noted; and in two processes"
    done = run('dcd_train', 'digits-noise', '--images', 6400, '--out', 'run', '--set',
               'network=MLP(shape=(1,8,8),width=32,blocks=2)', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    args = ['--images', 3200, '--batch', 64, '--checkpoint_every', 640, '--resume', '--json', '--set',
            'loss=SiD(alpha=.5) lr=3e-3 fake.lr=1e-3 select=proximal decay=0']
    go = lambda name, n=1, **kw: run_together(n, 'dcd_distill', 'run', '--out', name, *args, cwd=tmp_path,
                                              **kw)
    for fate in (('os.replace', 5), ('dcd_nb.training:Loop.keep_best', 2), ('dcd_nb.training:Loop.adopt', 1)):
        assert [p.returncode for p in go('parts', fate=fate)] == [-signal.SIGKILL], fate
    for name, n in dict(whole=1, parts=1, two=2).items():
        for p in go(name, n): assert p.returncode == 0, p.stderr[-6000:]
    a, b, c = (json.loads((tmp_path/k/'results.json').read_text()) for k in ('whole', 'parts', 'two'))
    assert a['selected'] == b['selected'] == c['selected'] and a['weights_sha256'] == b['weights_sha256']
    for k, r in dict(whole=a, parts=b, two=c).items():
        assert shown(Generator.load(tmp_path/k)) == r['weights_sha256']


@pytest.mark.parametrize('kw, says', [
    (dict(select='proximl'), "select='proximl' is not known; did you mean 'proximal'"),
    (dict(select='fd', monitor=lambda G: dict(v=1.)),
     "select='fd' is none of the numbers that monitor returns: v"),
    (dict(select='proximal', monitor=False), "select='proximal' needs a monitor"),
    (dict(patience=3), 'patience=3 needs select'), (dict(select='proximal', patience=0),
                                                    'patience=0 must be'),
    (dict(select=5), 'select=5 must be the name')])
def test_bad_selection_is_one_sentence(made, kw, says):
    with pytest.raises(BadInput, match=says) as e: go(made, **kw)
    assert '\n' not in str(e.value)


# The distance

@pytest.mark.parametrize('corruption', [A, Corruption(RandomMask(.5)), Corruption(GaussianBlur(5, .8), .1),
                                        Corruption(Downsample(2), .1), Corruption(RandomMask(.8), .3)])
@pytest.mark.parametrize('space', ['pca', 'pixels'])
def test_clean_images_are_at_the_floor(corruption, space):
    "Other digits than those observed, five times: at the floor on average, whatever the corruption; brighter digits are above it"
    found = []
    for seed in range(5):
        x = digits()[torch.randperm(1797, generator=rng(seed))]
        near = Proximal(corruption.measure(x[:1000], seed), space, seed)
        e = near(x[1000:])
        found.append(e['proximal']/e['floor'])
        assert near((x[1000:] + .2).clamp(-1, 1))['proximal'] > 1.2*e['proximal']
    assert .75 < sum(found)/5 < 1.35, found


def test_fresh_corruption_is_fresh_and_repeatable():
    x = digits()[:600]
    a, b, c = (corrupted_anew(x, A, seed) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    # five standard errors
    assert all(abs(torch.corrcoef(torch.stack([(a - x).flatten(), (other - x).flatten()]))[0, 1]) < .02
               for other in (c, A.measure(x).y))


def test_what_a_monitor_meets():
    "Values that no image has, complex images, few and small observations"
    class Wild:
        shape = (1, 8, 8)
        def sample(self, n, seed=0): return 50*torch.randn(n, 1, 8, 8, generator=rng(seed))
    ys = A.measure(digits()[:300])
    assert Proximal(ys)(Wild(), 300)['proximal'] > 1 and Proximal(ys)(Wild(), 300, as_files=False)['proximal'] > 1000
    assert Proximal(ys, most=100)(digits()[:300])['n_reference'] == 100
    x = torch.cat([digits()[:300], 0*digits()[:300]], 1)
    scan = Corruption(FourierMask(2, acs=2), .1)
    e = proximal_fid(x, scan.measure(x))
    assert e['proximal'] < 1.5*e['floor']
    assert proximal_fid(x[:, :1, :4, :4], A.measure(x[:, :1, :4, :4]))['extractor'] == 'random'


def test_bytes_are_compared_with_bytes():
    x = digits()
    seen = stored(A.measure(x[:900]).y.clamp(-1, 1))
    e = proximal_fid(x[900:], seen, corruption=A)
    assert e['proximal'] < 1.5*e['floor']
    # floats claim that their noise is whole
    assert proximal_fid(x[900:], Measurements(seen/127.5 - 1, A))['proximal'] > 5*e['proximal']


# Noise and operators

def test_noise_alone():
    y = .3*torch.randn(400, 1, 16, 16, generator=rng(0)) - 1
    for f in (noise_detail, noise_patches, noise_range): assert f(y) == pytest.approx(.3, rel=.02)


@pytest.mark.parametrize('sigma', [.1, .2, .5])
@pytest.mark.parametrize('op', [Identity(), GaussianBlur(5, .8)])
def test_sigma_of_digits(sigma, op):
    assert noise_patches(Corruption(op, sigma).measure(digits(), seed=3).y) == pytest.approx(sigma, rel=.1)


def test_sigma_through_masks():
    ys = Corruption(RandomMask(.1), .5).measure(digits(), seed=3)
    assert noise_patches(ys.y, ys.state) == pytest.approx(.5, rel=.1)
    dark = Corruption(RandomMask(.5), .3).measure(torch.full((2000, 1, 8, 8), -1.))
    assert noise_patches(dark.y, dark.state) == pytest.approx(.3, rel=.05)
    # if holes are taken for values
    assert noise_patches(dark.y) > .5


@pytest.mark.parametrize('sigma', [.1, .2, .5])
def test_sigma_of_smooth_pictures(sigma):
    from dcd_nb.show.images import photos
    assert noise_patches(Corruption(Identity(), sigma).measure(photos(64)).y) == pytest.approx(sigma, rel=.1)


def test_the_operator_is_found():
    x = digits()[torch.randperm(1797, generator=rng(1))]
    for right, others in ((RandomMask(.5), (RandomMask(.4), RandomMask(.6))),
                          (GaussianBlur(5, .7), (GaussianBlur(5, .6), GaussianBlur(5, .8)))):
        y = Corruption(right, .1).measure(x[:900]).y
        assert repr(fitting(x[900:], y,
                            [Corruption(op, .1) for op in (others[0], right, others[1])])[0][0].op) == repr(right)
    assert missing_rate(Corruption(RandomMask(.3), .2).measure(x).y) == pytest.approx(.3, abs=.01)


@pytest.mark.parametrize('f, says', [
    (lambda: noise_patches(5), 'y must be a float tensor'),
    (lambda: noise_detail(torch.zeros(5, 1, 1, 1)), 'of 2x2 pixels or more'),
    (lambda: noise_patches(digits()/0), 'NaN or infinity'),
    (lambda: noise_patches(digits()[:1, :, :3, :3]), 'too few'),
    (lambda: noise_range(digits()), 'no value outside'),
    (lambda: fitting(digits(), digits(), []), 'corruptions is empty'),
    (lambda: noise_patches((m := Corruption(RandomMask(.5), .1).measure(digits())).y, m.state),
     'known too badly')])
def test_what_cannot_be_estimated_is_one_sentence(f, says):
    with pytest.raises(BadInput, match=says) as e: f()
    assert '\n' not in str(e.value)


def test_health_asks_the_same_distance(made):
    G = go(made, monitor=False)
    assert health(G, made[0], n=500)['proximal'] == Proximal(made[0])(G, 500, as_files=False)['proximal']


def test_numbers_that_are_none_select_nothing(made):
    G = go(made, monitor=Says(*[float('nan')]*5), select='v')
    assert 'selected' not in G.cost and shown(G) == G.cost['weights_sha256']


# Noise that neighbours share

def soft(shape, g):
    "Noise of level 1; neighbours have a correlation of 2/3, and 1/6 two pixels apart"
    taps = torch.tensor([.5, 1., .5])/1.5**.5
    eps = torch.randn(*shape[:2], shape[2] + 2, shape[3] + 2, generator=g)
    return torch.conv2d(torch.conv2d(eps, taps.view(1, 1, 1, 3)), taps.view(1, 1, 3, 1))


@pytest.mark.parametrize('shared', [True, False])
def test_camera_noise_of_many_simulations(shared):
    "Level, correlation and standard error, on a staircase of grey in any units"
    g, found = rng(0), []
    stairs = torch.linspace(20, 200, 4).repeat_interleave(48).expand(2, 1, 128, 192)
    for _ in range(12):
        noise = soft(stairs.shape, g) if shared else torch.randn(stairs.shape, generator=g)
        found.append(camera_noise(stairs + 5*noise))
    level = torch.tensor([f.sigma for f in found])
    assert level.mean() == pytest.approx(5, rel=.03)
    se = sum(f.se for f in found)/len(found)
    assert .5*level.std() < se < 3*level.std()
    near = torch.tensor([f.correlation for f in found]).mean(0)
    assert torch.allclose(near, torch.tensor([2/3, 1/6, 0.] if shared else [0., 0., 0.]), atol=.05)
    assert all(f.shared == shared and f.every == (2 if shared else 1) for f in found)


def test_camera_noise_depends_on_brightness_and_takes_several_sizes():
    g = rng(1)
    parts = [torch.linspace(0, 100, h).view(1, 1, h, 1).expand(1, 3, h, 90) for h in (128, 160)]
    found = camera_noise([x + (1 + x/50)*torch.randn(x.shape, generator=g) for x in parts])
    for brightness, level in found.levels: assert level == pytest.approx(1 + brightness/50, rel=.12)


def test_camera_noise_of_channels_with_different_levels_is_that_of_all():
    "And not of the quietest, in which patches look flattest"
    g, levels = rng(3), torch.tensor([3., 6., 9.]).view(1, 3, 1, 1)
    stairs = torch.linspace(20, 200, 4).repeat_interleave(48).expand(2, 3, 128, 192)
    noise = soft((6, 1, 128, 192), g).view(2, 3, 128, 192)
    found = camera_noise(stairs + levels*noise)
    assert found.sigma == pytest.approx(levels.square().mean().sqrt().item(), rel=.06)
    assert found.correlation == pytest.approx((2/3, 1/6, 0.), abs=.06)


def test_noise_patches_warns_of_noise_that_neighbours_share_and_of_no_other():
    from dcd_nb.show.images import photos
    x = torch.linspace(-.5, .5, 40).view(-1, 1, 1, 1).expand(40, 1, 32, 32)
    with pytest.warns(UserWarning, match=r'share noise of about 0\.(1|09[5-9]) .*take camera_noise'):
        assert noise_patches(x + .1*soft(x.shape, rng(0))) < .07
    with warnings.catch_warnings(action='error'):
        for clean in (x, photos(96), phantoms(20, 64)):
            for sigma in (.05, .2):
                noise_patches(clean + sigma*torch.randn(clean.shape, generator=rng(0)))


@pytest.mark.parametrize('given, says', [(7, 'y must be a float tensor'), ([], 'images are empty'),
                                         (torch.zeros(1, 1, 8, 8), '12x12 pixels or more'),
                                         (torch.zeros(1, 1, 32, 32), 'give larger images, or more')])
def test_no_camera_noise_of_what_is_too_small(given, says):
    with pytest.raises(BadInput, match=says): camera_noise(given)
