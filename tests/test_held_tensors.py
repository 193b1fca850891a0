"Operators that hold tensors: a user's own kernel, and a physics of deepinv, all the way from images to a restored one."
import json

import pytest
import torch
import torch.nn.functional as F

from dcd_nb.cli import distill as distill_command
from dcd_nb.draws import rng
from dcd_nb.errors import BadInput
from dcd_nb.data import Measurements, measure_to, digits
from dcd_nb.distill import Generator, distill
from dcd_nb.files import load_meta
from dcd_nb.networks import MLP
from dcd_nb.objectives import AmbientMasks, Standard
from dcd_nb.operators import Compose, Corruption, FourierMask, GaussianBlur, GivenMasks, Identity, Operator, RandomMask, VaryingBlur, from_deepinv
from dcd_nb.recipes import ImageSource, Recipe
from dcd_nb.restore import restore, Sample
from dcd_nb.training import Checkpoints, Teacher, train

x = digits()[:32]
eye = torch.eye(3)/3
skew = torch.arange(9.).view(3, 3)/36
small = dict(images=64, batch=16, quiet=True, checkpoints=Checkpoints(grid=0, monitor=False))


class MotionBlur(Operator):
    "Blur by a kernel (h, w) of odd size"
    def __init__(self, kernel): self.kernel = kernel
    def forward(self, x, state):
        (h, w), c = self.kernel.shape, x.shape[1]
        return F.conv2d(F.pad(x, (w//2, w//2, h//2, h//2), mode='circular'), self.kernel.expand(c, 1, h, w),
                        groups=c)


def deepinv_blur(k=3): return _physics()['Blur'](k)


def _physics():
    physics = pytest.importorskip('deepinv', minversion='0.5').physics
    kernel = lambda k: torch.eye(k)[None, None]/k
    return dict(Blur=lambda k=3: physics.Blur(kernel(k), padding='circular'),
                BlurFFT=lambda k=3: physics.BlurFFT((1, 8, 8), kernel(k)),
                Downsampling=lambda k=2: physics.Downsampling((1, 8, 8), filter=torch.ones(1, 1, k, k)/k**2,
                    factor=k, padding='circular'),
                Inpainting=lambda k=0: physics.Inpainting((1, 8, 8), mask=.5,
                    rng=torch.Generator().manual_seed(k)),
                Tomography=lambda k=8: physics.Tomography(angles=k, img_width=8, normalize=True))


def whole_way(A, folder, objective=None):
    "Measure, train, resume, distil, save, load, restore; returns the measurements, the teacher and the generator as they come from files"
    ys = A.measure(x)
    ys.save(folder/'ys')
    torch.manual_seed(0)
    shape = ys.y.shape[1:]
    net = lambda: MLP(tuple(shape), width=16, blocks=1)
    teacher = train(ys, net(), objective, out=folder/'T', **small)
    assert train(ys, net(), objective, out=folder/'T', resume=True,
                 **small).cost['weights_sha256'] == teacher.cost['weights_sha256']
    teacher.save(folder/'teacher')
    G = distill(teacher, ys, out=folder/'G', **small)
    distill(Teacher.load(folder/'T'), ys, out=folder/'G', resume=True, **small)
    G.save(folder/'generator')
    # a blur of each image's own is slow
    method = Sample(misfit=.1, leaps=1, moves=1, last=1, pool=256) if objective else None
    for path in (folder/'generator', folder/'G'):
        again = Generator.load(path)
        assert torch.equal(again.sample(4), G.sample(4))
        assert torch.equal(*(restore(g, A.measure(x[:2]), n=2, method=method).mean for g in (again, G)))
    return ys, Teacher.load(folder/'teacher'), again


@pytest.mark.parametrize('op', [MotionBlur(eye), Compose(GaussianBlur(3, .5), MotionBlur(eye.double()))],
                         ids=['alone', 'composed'])
def test_a_kernel_goes_all_the_way_and_comes_back_from_every_file(op, tmp_path):
    A = Corruption(op, .1)
    ys, teacher, G = whole_way(A, tmp_path)
    back = Measurements.load(tmp_path/'ys')
    assert back.hash == ys.hash and torch.equal(back.op(x), op(x))
    for d, held in ((teacher.data['corruption'], teacher.held), (G.about['corruption'], G.held)):
        assert torch.equal(Corruption.from_dict(d, held).op(x), op(x))
    assert json.dumps(load_meta(tmp_path/'ys')['meta']).count('sha256') == 1


@pytest.mark.parametrize('op, objective', [(GivenMasks(RandomMask(.5).draw(9, (1, 8, 8), rng(0))), None),
                                           (VaryingBlur(torch.tensor([.5, 1., 2.]), 5), Standard())],
                         ids=['masks', 'widths'])
def test_masks_and_widths_of_a_given_set_go_all_the_way(op, objective, tmp_path):
    A = Corruption(op, .1)
    ys, teacher, G = whole_way(A, tmp_path, objective)
    back = Measurements.load(tmp_path/'ys')
    assert back.hash == ys.hash and torch.equal(back.state, ys.state) and len(back.state.unique(dim=0)) > 2
    fresh = op.draw(20, (1, 8, 8), rng(1))
    for d, held in ((teacher.data['corruption'], teacher.held), (G.about['corruption'], G.held)):
        assert torch.equal(Corruption.from_dict(d, held).op.draw(20, (1, 8, 8), rng(1)), fresh)
    if objective: return
    assert isinstance(teacher.objective, AmbientMasks) and torch.equal(teacher.objective.op.masks, op.masks)
    seen = teacher.conditions(range(40), 0)
    masks = op.masks.float().flatten(1)
    assert all(any(torch.equal(s, a*b) for a in masks for b in masks if not torch.equal(a, b))
               for s in seen.flatten(1))


def test_a_recipe_holds_a_kernel_and_finds_it_again_beside_its_run(tmp_path):
    "It is run and changed as any other; the command that distils has only what the folder of the teacher holds"
    r = Recipe('mine', data=ImageSource('digits', n=32), corruption=Corruption(MotionBlur(eye), .1),
               network=MLP((1, 8, 8), width=16, blocks=1),
               train=dict(images=64, batch=16), distill=dict(images=64, batch=16))
    again = r.override({'corruption.sigma': .2, 'train.lr': 1e-4})
    assert torch.equal(again.corruption.op.kernel, eye) and torch.equal(r.override({'corruption.op.kernel': 2*eye}).corruption.op.kernel, 2*eye)
    for kw in ({}, dict(resume=True)): teacher = r.teacher(out=tmp_path/'T', quiet=True, **kw)
    assert teacher.cost['resumed_at'] == 64
    held = Teacher.load(tmp_path/'T').held
    assert Recipe.from_dict(teacher.about['recipe'], held) == r and torch.equal(Recipe.from_dict(r.to_dict(), held).corruption.op.kernel, eye)
    with pytest.raises(BadInput, match='op.kernel is a tensor that is not kept here'):
        Recipe.from_dict(r.to_dict())
    distill_command(str(tmp_path/'T'), out=str(tmp_path/'G'), json=True)
    assert Generator.load(tmp_path/'G').about['recipe'] == r.to_dict()


@pytest.mark.parametrize('op', [MotionBlur(eye), Compose(MotionBlur(eye), RandomMask(.2))],
                         ids=['alone', 'with state'])
def test_measured_to_the_disk_it_is_the_same(op, tmp_path):
    A = Corruption(op, .1)
    measure_to(A, x, tmp_path/'ys')
    A.measure(x).save(tmp_path/'zs')
    assert Measurements.load(tmp_path/'ys').hash == Measurements.load(tmp_path/'zs').hash == A.measure(x).hash


def test_another_kernel_is_another_operator(tmp_path):
    A, B = Corruption(MotionBlur(eye), .1), Corruption(MotionBlur(eye.flip(0)), .1)
    ys = A.measure(x)
    assert Measurements(ys.y, A).hash != Measurements(ys.y, B).hash
    ys.save(tmp_path/'ys')
    with pytest.raises(BadInput, match='is not the one that made'):
        Measurements.load(tmp_path/'ys', corruption=B)
    teacher = train(ys, MLP((1, 8, 8), width=8, blocks=1), **small)
    with pytest.raises(BadInput, match=r'MotionBlur\(kernel=tensor\(3x3\)\).*which has other tensors'):
        distill(teacher, B.measure(x), **small)
    with pytest.raises(BadInput, match='op.kernel is a tensor that is not kept here'):
        Corruption.from_dict(A.to_dict())


@pytest.mark.parametrize('make, says', [
    (MotionBlur, 'the kernel of the operator has other values than in the run that was begun in out='),
    (lambda kernel: Compose(Identity(), MotionBlur(kernel)), 'the kernel of the operator has other values')],
                         ids=['alone', 'composed'])
def test_a_run_does_not_go_on_with_another_kernel(make, says, tmp_path):
    go = lambda ys: train(ys, MLP((1, 8, 8), width=8, blocks=1), out=tmp_path/'run', resume=True, **small)
    A, B = Corruption(make(eye), .1), Corruption(make(eye.flip(0)), .1)
    go(A.measure(x))
    with pytest.raises(BadInput, match=says) as e: go(B.measure(x))
    assert 'sha256' not in str(e.value) and len(str(e.value)) < 250 + len(str(tmp_path))
    with pytest.raises(BadInput, match='y has other values than in the run'): go(A.measure(x, seed=1))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_kernel_follows_the_images(dtype):
    "Matrix, adjoint and pseudo-inverse work in float64, whatever the kernel's type, and lose none of its digits"
    kernel = torch.rand(3, 3, generator=rng(0), dtype=dtype) + torch.eye(3, dtype=dtype)*4
    op = Compose(MotionBlur(kernel), Identity())
    M, v = op.matrix((1, 5, 5)), torch.randn(2, 1, 5, 5, generator=rng(1), dtype=torch.float64)
    assert M.dtype == torch.float64 and torch.allclose(op(v).flatten(1), v.flatten(1)@M.T, atol=1e-12)
    assert torch.allclose(op.adjoint(v).flatten(1), v.flatten(1)@M, atol=1e-12)
    assert torch.allclose(op.pinv(op(v)), v, atol=1e-8) and op.null(v).abs().max() < 1e-8
    y = op(v.float())
    assert y.dtype == torch.float32 and torch.allclose(op.pinv(y).double(), v, atol=1e-4)
    assert op.ops[0].kernel is kernel
    # what was converted before is not stale
    op(v), kernel.mul_(2)
    assert torch.allclose(op(v).flatten(1), 2*v.flatten(1)@M.T, atol=1e-12)


def test_a_kernel_follows_to_another_device():
    assert MotionBlur(eye)._like(torch.empty(1, device='meta')).kernel.device.type == 'meta'


@pytest.mark.parametrize('name', ['Blur', 'BlurFFT', 'Downsampling', 'Inpainting', 'Tomography'])
def test_a_physics_goes_all_the_way(name, tmp_path):
    make = _physics()[name]
    A = Corruption(from_deepinv(make(), (1, 8, 8)), .1)
    ys, teacher, G = whole_way(A, tmp_path)
    assert Measurements.load(tmp_path/'ys',
                             corruption=Corruption(from_deepinv(make(), (1, 8, 8)), .1)).hash == ys.hash
    with pytest.raises(BadInput, match=r'pass it as Measurements.load\(path, corruption=...\)'):
        Measurements.load(tmp_path/'ys')
    other = Corruption(from_deepinv(make(5 if name != 'Downsampling' else 4), (1, 8, 8)), .1)
    with pytest.raises(BadInput, match='is not the one that made'):
        Measurements.load(tmp_path/'ys', corruption=other)
    if name != 'Downsampling':
        with pytest.raises(BadInput, match='pass the measurements that it was trained on'):
            teacher.check(other.measure(x))


def test_a_description_without_a_hash_is_of_an_older_file():
    A = Corruption(from_deepinv(deepinv_blur(), (1, 8, 8)), .1)
    d = A.to_dict()
    d['op'].pop('sha256')
    assert A.is_described(d) and not A.is_described(d | dict(sigma=.2))


# An operator that files could not give back

class Flipped(MotionBlur):
    "Keeps another kernel than it was given"
    def __init__(self, kernel): self.kernel = kernel.flip(0, 1)


class Padded(MotionBlur):
    "Keeps a kernel that its constructor would refuse"
    def __init__(self, kernel):
        assert kernel.ndim == 2
        self.kernel = F.pad(kernel, (1, 1, 1, 1))[None]
    def forward(self, x, state): return x*self.kernel.sum()


@pytest.mark.parametrize('op, says',
                         [(Flipped(skew), 'made of what it keeps, it has another kernel; keep each argument as it was given'),
                                      (Compose(GaussianBlur(3, .5), Flipped(skew)), 'it has another ops'),
                          (Padded(eye), 'it raises AssertionError')], ids=['changed', 'composed', 'refused'])
def test_an_operator_that_changes_its_argument_is_refused_when_it_is_kept(op, says, tmp_path):
    "Whoever keeps nothing may use it; what goes to a file is refused before anything is computed or written"
    A = Corruption(op, .1)
    ys, net = A.measure(x), lambda: MLP((1, 8, 8), width=8, blocks=1)
    teacher = train(ys, net(), **small)
    G = distill(teacher, ys, **small)
    for keep in (lambda: ys.save(tmp_path/'ys'), lambda: measure_to(A, x, tmp_path/'zs'),
                 lambda: train(ys, net(), out=tmp_path/'T', **small),
                 lambda: distill(teacher, ys, out=tmp_path/'D', **small),
                 lambda: teacher.save(tmp_path/'teacher'), lambda: G.save(tmp_path/'G')):
        with pytest.raises(BadInput, match=f'op=.*could not be loaded again: .*{says}'): keep()
    assert not list(tmp_path.iterdir())


class Weighted(FourierMask):
    "Lines of different weight: an operator with a tensor, which an objective holds as well"
    def __init__(self, R, weights):
        super().__init__(R)
        self.weights = weights
    def forward(self, x, state): return super().forward(x, state)*self.weights.expand(x.shape[-2:])
    def transpose(self, y, state): return super().transpose(y*self.weights.expand(y.shape[-2:]), state)
    def square(self, x, state): return self.transpose(self.forward(x, state), state)


def test_an_objective_finds_the_tensors_of_its_operator(tmp_path):
    "Also in files, where they lie once"
    A = Corruption(Weighted(2, torch.linspace(1., .5, 8)))
    ys = A.measure(torch.cat([x, 0*x], 1))
    teacher = train(ys, MLP((2, 8, 8), width=8, blocks=1), out=tmp_path/'T', **small)
    teacher.save(tmp_path/'teacher')
    for path in (tmp_path/'T', tmp_path/'teacher'):
        again = Teacher.load(path)
        assert torch.equal(again.objective.op.weights, A.op.weights) and torch.equal(again.sample(2, steps=3),
            teacher.sample(2, steps=3))
