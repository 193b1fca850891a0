"""Our operators against deepinv's, where both define the same map; and each documented difference."""
import pytest
import torch

from dcd_nb.draws import rng
from dcd_nb.show.images import photos
from dcd_nb.operators import Corruption, Downsample, FourierMask, GaussianBlur, Operator, RandomMask

dinv = pytest.importorskip('deepinv', minversion='0.5')
physics = dinv.physics
x = photos(32)
z = torch.randn(4, 2, 32, 24, generator=rng(0))


def close(a, b, tol=1e-5): assert (a - b).abs().max() < tol, float((a - b).abs().max())


@pytest.mark.parametrize('kernel', ['folded', 'truncated'])
def test_blur(kernel):
    op = GaussianBlur(kernel=kernel)
    taps = (op.taps()[:, None]*op.taps()).float()[None, None]
    theirs = physics.Blur(filter=taps, padding='reflect')
    close(op(x), theirs.A(x))
    close(op.adjoint(x), theirs.A_adjoint(x))


def test_truncated_kernel_is_deepinvs_gaussian_and_the_folded_one_is_not():
    import deepinv.physics.functional.blur as blur
    theirs = blur.gaussian_blur(psf_size=(9, 9), sigma=2.)[0, 0].double()
    taps = lambda kernel: GaussianBlur(kernel=kernel).taps()[:, None]*GaussianBlur(kernel=kernel).taps()
    close(taps('truncated'), theirs, 1e-7)
    assert (taps('folded') - theirs).abs().max() > 1e-3


@pytest.mark.parametrize('factor', [2, 4])
def test_bicubic_down_sampling_is_matlabs(factor):
    ours, theirs = Downsample(factor), physics.DownsamplingMatlab(factor=factor)
    close(ours(x), theirs.A(x))
    close(ours.adjoint(ours(x)), theirs.A_adjoint(ours(x)))


def test_box_down_sampling():
    "deepinv keeps sample 0 of a circular convolution: for a factor of 4 its box is shifted by one pixel"
    for factor, shift in ((2, 0), (4, 1)):
        theirs = physics.Downsampling(filter=torch.full((1, 1, factor, factor), 1/factor**2), factor=factor,
                                      img_size=(3, 32, 32), padding='circular')
        close(Downsample(factor, 'box')(x.roll((shift, shift), (-2, -1))), theirs.A(x))
        if shift: assert (Downsample(factor, 'box')(x) - theirs.A(x)).abs().max() > .01


def test_down_sampling_default_differs():
    "deepinv's `Downsampling('bicubic')` differs from MATLAB's at the border and, for 4, by a shift"
    theirs = physics.Downsampling(filter='bicubic', factor=2, img_size=(3, 32, 32), padding='reflect').A(x)
    close(Downsample(2)(x)[..., 3:-3, 3:-3], theirs[..., 3:-3, 3:-3], 1e-4)
    assert (Downsample(2)(x) - theirs).abs().max() > 1e-3


def test_mask():
    op = RandomMask(.6)
    m = op.draw(1, x.shape[1:], rng(0))
    theirs = physics.Inpainting(img_size=(3, 32, 32), mask=m)
    close(op(x, m), theirs.A(x))
    close(op.adjoint(x, m), theirs.A_adjoint(x))
    close(op.pinv(x, m), theirs.A_dagger(x))


def test_noise_is_on_observed_pixels_in_both():
    op, sigma = RandomMask(.6), .3
    m = op.draw(1, x.shape[1:], rng(0))
    theirs = physics.Inpainting(img_size=(3, 32, 32), mask=m, noise_model=physics.GaussianNoise(sigma))(x)
    ours = op.noise(op(x, m), sigma, m, rng(1))
    assert (theirs*(1 - m)).abs().max() == 0 and (ours*(1 - m)).abs().max() == 0
    assert abs((theirs - x)[m.expand_as(x) == 1].std()
               - sigma) < .02 and abs((ours - x)[m.expand_as(x) == 1].std() - sigma) < .02


@pytest.mark.parametrize('shape', [(32, 24), (15, 20), (16, 17)])
def test_fourier_mask(shape):
    op, v = FourierMask(2), torch.randn(3, 2, *shape, generator=rng(1))
    m = op.draw(1, (2, *shape), rng(0))
    theirs = physics.MRI(mask=m.expand(1, 1, *shape), img_size=shape)
    close(op(v, m), theirs.A(v))
    close(op.adjoint(v, m), theirs.A_adjoint(v))
    close(op.pinv(v, m), theirs.A_dagger(v))


def test_uncentred_fft_is_another_operator():
    op = FourierMask(2)
    m = op.draw(1, z.shape[1:], rng(0))
    plain = torch.view_as_real(torch.fft.fft2(torch.complex(z[:, 0], z[:, 1]),
                                              norm='ortho')).permute(0, 3, 1, 2)*m
    assert ((op(z, m) - plain).norm()/op(z, m).norm()) > .5


class Gaussian(torch.nn.Module):
    "The denoiser of N(mu, C), dressed as the network of a teacher"
    shape = (1, 8, 8)
    def __init__(self):
        super().__init__()
        W = torch.randn(64, 64, generator=rng(0)).double()/8
        self.mu, self.C, self.one = torch.randn(64, generator=rng(1)).double(), W@W.T, torch.nn.Parameter(torch.zeros(1))
    def filter(self, s): return self.C@torch.linalg.inv(self.C + s**2*torch.eye(64))
    def forward(self, x, s, **kw):
        return (self.mu + (x.flatten(1).double() - self.mu)@self.filter(float(s[0])).T).view_as(x).to(x)


def test_a_solver_with_a_teacher_as_prior_ends_where_algebra_says():
    "Plug and play with a linear denoiser K: x = mu + K (x - A^T (A x - y) - mu)"
    from dcd_nb.objectives import Standard
    from dcd_nb.operators import to_deepinv
    from dcd_nb.restore.for_deepinv import deepinv_prior
    from dcd_nb.training import Teacher
    net, s = Gaussian(), .5
    teacher, mask = Teacher(net, Standard()), RandomMask(.4).draw(3, (1, 8, 8), rng(2))
    y = mask*torch.randn(3, 1, 8, 8, generator=rng(3))
    solver = dinv.optim.PGD(prior=deepinv_prior(teacher), data_fidelity=dinv.optim.L2(), stepsize=1.,
                            max_iter=300, sigma_denoiser=s)
    with torch.no_grad(): found = solver(y, to_deepinv(RandomMask(.4), mask))
    K, one = net.filter(s), torch.eye(64).double()
    for m, seen, x in zip(mask, y, found):
        left = one - K@(one - torch.diag(m.flatten().double()))
        close(x.flatten().double(), torch.linalg.solve(left, net.mu - K@net.mu + K@seen.flatten().double()),
              1e-3)
    score = deepinv_prior(teacher, 'ScorePrior').score(y, s)
    exact = -(y.flatten(1).double() - net.mu)@torch.linalg.inv(net.C + s**2*one)
    close(score.flatten(1).double(), exact, 1e-4)
    unit = deepinv_prior(teacher, 'RED', unit=True).grad((1 + y)/2, s/2)
    close(unit, deepinv_prior(teacher, 'RED').grad(y, s)/2)
