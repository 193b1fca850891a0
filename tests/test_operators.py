"""Properties every operator has, for many sizes, channels, states and seeds."""
import pytest
import torch
from hypothesis import given, settings, strategies as st

from dcd_nb.draws import rng
from dcd_nb.errors import BadInput
from dcd_nb.mri import MultiCoilMRI
from dcd_nb.objectives import AmbientFourier, Standard, objective_for
from dcd_nb.operators import Compose, Corruption, Downsample, FourierMask, GaussianBlur, Identity, Operator, Poisson, Quantise, RandomMask, Saturation

sizes = st.integers(6, 17)
linear = dict(
    identity=lambda: Identity(),
    folded=lambda: GaussianBlur(), truncated=lambda: GaussianBlur(kernel='truncated'),
    mild=lambda: GaussianBlur(5, .8),
    mask=lambda: RandomMask(.6), nearly_all=lambda: RandomMask(.97), none=lambda: RandomMask(0.),
    half=lambda: Downsample(2), quarter=lambda: Downsample(4), box=lambda: Downsample(2, 'box'),
    third=lambda: Downsample(3, 'box'),
    fourier2=lambda: FourierMask(2), fourier3=lambda: FourierMask(3, acs=1),
    blur_mask=lambda: Compose(GaussianBlur(3, .7), RandomMask(.5)),
    mask_half=lambda: Compose(RandomMask(.3), Downsample(2)),
    fourier_masked=lambda: Compose(RandomMask(.2), FourierMask(2)),
)
exact = [k for k in linear if k not in ('blur_mask', 'mask_half', 'fourier_masked')]
many = settings(max_examples=12, deadline=None, derandomize=True)


def case(name, c, h, w, seed, dtype):
    "An operator with random x, v and state of the right shapes"
    op = linear[name]()
    f = next((o.factor for o in (op.ops if isinstance(op, Compose) else [op]) if hasattr(o, 'factor')), 1)
    if 'fourier' in name: c = 2
    shape = (c, h*f if h*f <= 24 else f*(24//f), w*f if w*f <= 24 else f*(24//f))
    g = rng(seed)
    x = torch.randn(3, *shape, generator=g, dtype=torch.float64).to(dtype)
    v = torch.randn(3, *op.out_shape(shape), generator=g, dtype=torch.float64).to(dtype)
    return op, x, v, op.draw(3, shape, g)


def norm(t): return t.double().flatten(1).norm(dim=1)


@pytest.mark.parametrize('name', linear)
@pytest.mark.parametrize('dtype,tol', [(torch.float32, 1e-5), (torch.float64, 1e-11)],
                         ids=['float32', 'float64'])
@many
@given(c=st.sampled_from([1, 3]), h=sizes, w=sizes, seed=st.integers(0, 2**31))
def test_adjoint(name, dtype, tol, c, h, w, seed):
    op, x, v, s = case(name, c, h, w, seed, dtype)
    dot = lambda a, b: (a.double()*b.double()).flatten(1).sum(1)
    gap = (dot(op(x, s), v) - dot(x, op.adjoint(v, s))).abs()
    assert (gap <= tol*norm(x)*norm(v)).all()
    assert op(x, s).shape[1:] == op.out_shape(x.shape[1:]) and op.in_shape(v.shape[1:]) == x.shape[1:]


@pytest.mark.parametrize('name', linear)
@pytest.mark.parametrize('dtype,tol', [(torch.float32, 2e-5), (torch.float64, 1e-9)],
                         ids=['float32', 'float64'])
@many
@given(c=st.sampled_from([1, 3]), h=sizes, w=sizes, seed=st.integers(0, 2**31))
def test_pseudo_inverse_and_kernel(name, dtype, tol, c, h, w, seed):
    op, x, v, s = case(name, c, h, w, seed, dtype)
    y = op(x, s)
    assert (norm(op(op.pinv(y, s), s) - y) <= tol*norm(x)).all()               # A A^+ y = y on the range
    p = op.null(x, s)
    assert (norm(op(p, s)) <= tol*norm(x)).all()                               # A P x = 0
    assert (norm(op.null(p, s) - p) <= 10*tol*norm(x)).all()                   # P is a projection
    assert ((p*(x - p)).double().flatten(1).sum(1).abs() <= 10*tol*norm(x)**2).all()   # an orthogonal one


@pytest.mark.parametrize('name', exact)
@many
@given(c=st.sampled_from([1, 2]), h=st.integers(5, 7), w=st.integers(5, 7), seed=st.integers(0, 2**31))
def test_structure_agrees_with_the_dense_matrix(name, c, h, w, seed):
    op, x, v, s = case(name, c, h, w, seed, torch.float64)
    shape = x.shape[1:]
    A, spectrum = op.matrix(shape, s), op.spectrum(shape, s)
    assert torch.allclose(spectrum, Operator.spectrum(op, shape, s), atol=1e-10)
    assert torch.allclose(op(x, s)[0].flatten(), A@x[0].flatten(), atol=1e-10)
    assert torch.allclose(op.adjoint(v, s)[0].flatten(), A.T@v[0].flatten(), atol=1e-10)
    cut = 1e-3                                       # far from the cut, so that both keep the same directions
    if ((spectrum/spectrum[0] - cut).abs() > 1e-6).all():
        assert torch.allclose(op.pinv(v, s, rcond=cut)[0].flatten(),
                              torch.linalg.pinv(A, rtol=cut)@v[0].flatten(), atol=1e-8)


@pytest.mark.parametrize('name', linear)
def test_gradients_pass_through(name):
    op, x, v, s = case(name, 1, 6, 7, 0, torch.float64)
    assert torch.autograd.gradcheck(lambda x: op(x, s), x[:1].requires_grad_() if s is None
                                    else x.requires_grad_())


@pytest.mark.parametrize('name', linear)
def test_half_precision_is_computed_in_float32(name):
    op, x, v, s = case(name, 3, 8, 8, 0, torch.float32)
    x = x.bfloat16()
    with torch.autocast('cpu', torch.bfloat16): low = op(x, s)
    assert low.dtype == torch.float32 and torch.equal(low, op(x.float(), s))


@pytest.mark.parametrize('name', linear)
def test_description_makes_the_operator_again(name):
    op, x, v, s = case(name, 3, 8, 8, 0, torch.float32)
    again = Operator.from_dict(op.to_dict())
    assert repr(again) == repr(op) and torch.equal(again(x, s), op(x, s))


@many
@given(missing=st.floats(0, .95), seed=st.integers(0, 2**31))
def test_noise_is_on_observed_entries_alone(missing, seed):
    x = torch.zeros(4, 3, 8, 9)
    y, m = Corruption(RandomMask(missing), .5).batch(x, rng(seed))
    assert ((y != 0) == (m.expand_as(y) == 1)).all()


def test_observation_is_the_same_in_any_batch():
    "State drawn for each image by itself does not depend on its neighbours"
    for op in (RandomMask(.5), FourierMask(2)):
        one = [op.draw(1, (2, 8, 8), rng(0, i)) for i in range(3)]
        assert not torch.equal(one[0], one[1]) and torch.equal(one[2], op.draw(1, (2, 8, 8), rng(0, 2)))


@pytest.mark.parametrize('make,says', [
    (lambda: RandomMask(1.), 'missing=1.0'), (lambda: RandomMask(-.1), 'missing=-0.1'),
    (lambda: RandomMask('half'), "missing='half'"),
    (lambda: GaussianBlur(size=8), 'size=8'), (lambda: GaussianBlur(std=-1), 'std=-1'),
    (lambda: GaussianBlur(kernel='gauss'), "kernel='gauss'"),
    (lambda: Downsample(1), 'factor=1'), (lambda: Downsample(2)(torch.zeros(1, 1, 7, 8)),
                                          'factor=2 does not divide the image size 7'),
    (lambda: FourierMask(.5), 'R=0.5'),
    (lambda: FourierMask(2)(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 1, 8)), 'these have 3'),
    (lambda: Quantise(0), 'bits=0'), (lambda: Saturation(0), 'gain=0'), (lambda: Poisson(-2), 'photons=-2'),
    (lambda: Corruption(Identity(), -.1), 'sigma=-0.1'), (lambda: Corruption('mask'), "op='mask'"),
    (lambda: Identity()(torch.zeros(3, 8, 8)), '(3, 8, 8)'),
    (lambda: Identity()(torch.zeros(1, 3, 8, 8).byte()), 'torch.uint8'),
    (lambda: Operator.from_dict(dict(operator='GausianBlur')), "did you mean 'GaussianBlur'?"),
])
def test_bad_input_is_one_sentence_that_names_it(make, says):
    with pytest.raises(BadInput) as e: make()
    assert says in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 300


class _EverySecond(Operator):
    "Every second line, the even ones or the odd ones; made from nothing that the package has"
    random, hides = True, 'lines'
    def draw(self, n, shape, generator):
        first = torch.rand(n, 1, 1, 1, generator=generator) < .5
        return ((torch.arange(shape[2])%2 == 0) == first).float()
    def forward(self, x, state): return torch.fft.fft(x, norm='ortho').real*state
    def observed(self, state): return state


class _EveryFourth(_EverySecond):
    "The same, and it can hide more"
    def further(self, state, generator): return state*(torch.arange(state.shape[3])//2%2 == 0)


def test_an_operator_says_itself_what_it_hides_and_whether_it_can_hide_more():
    told = {op: (op.hides, op.can_hide_more) for op in (Identity(), RandomMask(.5), FourierMask(2),
                                                        MultiCoilMRI(2), Compose(Identity(), RandomMask(.5)),
                                                        _EverySecond(), _EveryFourth())}
    assert [*told.values()] == [(None, False), ('pixels', True), ('lines', True), ('lines', True),
                                (None, False), ('lines', False), ('lines', True)]
    assert isinstance(objective_for(Corruption(_EveryFourth())), AmbientFourier)
    with pytest.raises(BadInput, match='has no objective of its own'):
        objective_for(Corruption(_EverySecond()))
    for op in (_EverySecond(), RandomMask(.5), 'scan'):
        with pytest.raises(BadInput, match='can hide more of k-space'): AmbientFourier(op)
