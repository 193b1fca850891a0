"Posteriors that can be computed on a grid, parts, generators that fit everything, and dcd_restore."
import json
import math

import numpy as np
import pytest
import torch
from processes import run

from dcd_nb import cli
from dcd_nb.draws import Draws, rng
from dcd_nb.errors import BadInput
from dcd_nb.data import Measurements, digits
from dcd_nb.diffusion import gaussian_denoiser
from dcd_nb.distill import Generator
from dcd_nb.networks import Precond, UNet
from dcd_nb.mri import MultiCoilMRI
from dcd_nb.objectives import AmbientFourier, AmbientInpainting, AmbientTweedie, Standard
from dcd_nb.operators import Corruption, Downsample, FourierMask, GaussianBlur, Identity, RandomMask, Saturation
from dcd_nb.restore import Anneal, Dense, Iterative, Misfit, Optimise, Restored, Sample, learn_misfit, restore
from dcd_nb.training import Teacher


class Formula(torch.nn.Module):
    "A network that is a function of its normal input"
    def __init__(self, f, shape):
        super().__init__(); self.f, self.shape, self.none = f, shape, torch.nn.Parameter(torch.zeros(()))
    def forward(self, x, s, **kw): return self.f(x/s.view(-1, 1, 1, 1)) + self.none


def generator(f, shape=(1, 1, 1)): return Generator(Formula(f, shape), Standard())


masked = Corruption(RandomMask(.5), .1)
G = Generator.from_pretrained('digits-mask')


def measured(n, corruption=masked): return corruption.measure(digits()[:n], seed=5)


@pytest.mark.parametrize('y', [.3, 1., 2.])
def test_posterior_with_two_modes_equals_the_one_on_a_grid(y):
    "x = |z| - z/4: two z for each x, of different weight"
    f, sigma = lambda z: z.abs() - z/4, .15
    ys = Measurements(torch.full((8, 1, 1, 1), y), Corruption(Identity(), sigma))
    found = restore(generator(f), ys, Sample(0.), 512)
    z = torch.linspace(-6, 6, 100_001, dtype=torch.float64)
    w = (-z**2/2 - (y - f(z))**2/(2*sigma**2)).softmax(0)
    mean = (w*f(z)).sum().item()
    std = (w*(f(z) - mean)**2).sum().item()**.5
    assert found.mean.mean().item() == pytest.approx(mean, abs=5*std/(8*512)**.5 + 1e-3)
    assert found.samples.std().item() == pytest.approx(std, rel=.06)


def test_modes_keep_their_weights():
    "x = z^2 does not tell the sign, a second pixel tells a little of it"
    f = lambda z: torch.cat([z[..., :1]**2, .3*z[..., :1]], 3)
    ys = Measurements(torch.tensor([[[[1.5, .1]]]]).repeat(8, 1, 1, 1), Corruption(Identity(), .2))
    G2 = generator(f, (1, 1, 2))
    found = restore(G2, ys, Sample(0.), 512)
    z = torch.linspace(-6, 6, 100_001, dtype=torch.float64)
    w = (-z**2/2 - ((1.5 - z**2)**2 + (.1 - .3*z)**2)/(2*.2**2)).softmax(0)
    want = w[z > 0].sum().item()
    assert .6 < want < .98
    assert (found.samples[..., 1] > 0).float().mean().item() == pytest.approx(want, abs=.04)


def test_parts_and_seeds():
    ys, method, n = measured(20), Sample(.2, last=1), 12
    one, parts, again, other = (restore(G, ys, method, n, seed=seed, rows=rows)
                                for seed, rows in ((3, 32), (3, 16), (3, 32), (4, 32)))
    assert torch.equal(one.samples, again.samples) and not torch.equal(one.samples, other.samples)
    far = ((one.mean - parts.mean).square().mean()/(2*one.std.square().mean()/n)).sqrt()
    assert far < 2                                               # 1 for independent samples


def test_optimisation_stops_at_the_noise():
    "A generator that makes everything could explain the noise, too"
    ys = Corruption(Identity(), .3).measure(digits()[:20])
    found = restore(generator(lambda z: z, (1, 8, 8)), ys, Optimise(lr=.02), 2)
    assert found.diagnostics['stopped'] == 1
    assert (found.residual <= .3 + 1e-6).all() and (found.residual > .25).all()


def test_optimisation_that_cannot_reach_the_noise_says_so():
    found = restore(generator(lambda z: .01*z, (1, 8, 8)), measured(4), Optimise(steps=20), 2)
    assert found.diagnostics['stopped'] == 0 and (found.residual > .3).all()


def test_without_noise_it_still_runs():
    found = restore(G, Corruption(RandomMask(.5)).measure(digits()[:4]), Sample(.2), 4)
    seen = Corruption(RandomMask(.5)).measure(digits()[:4]).state
    assert found.mean.isfinite().all() and found.residual.max() < .02 and (found.std*seen).max() < .05


@pytest.mark.parametrize('corruption', [Corruption(RandomMask(.6), .1), Corruption(Downsample(2), .1),
                                        Corruption(Saturation(2.), .1)], ids=['mask', 'half', 'saturation'])
def test_colour_images_and_a_unet(corruption):
    net = Precond(UNet(24, 3, channels=8, mult=(1, 1), blocks=1, attn=()))
    ys = corruption.measure(torch.rand(3, 3, 24, 24, generator=rng(0))*2 - 1)
    found = restore(Generator(net, Standard()), ys, Sample(.3, leaps=2, moves=1, last=1), 3)
    assert found.samples.shape == (3, 3, 3, 24, 24) and found.std.min() > 0
    assert restore(Generator(net, Standard()), ys, Optimise(steps=3), 2).mean.shape == (3, 3, 24, 24)


def test_images_too_large_for_matrices_use_gradients():
    ys = Corruption(RandomMask(.5), .2).measure(torch.zeros(2, 3, 12, 12) - .5)
    both = [kind(ys, .09) for kind in (Dense, Iterative)]
    x = torch.randn(2, 40, 3, 12, 12, generator=rng(0))
    assert torch.allclose(both[0].log(x), both[1].log(x), rtol=1e-3)
    assert torch.allclose(both[0].mean(x), both[1].mean(x), atol=1e-4)
    assert torch.allclose(both[0].draw(x, Draws(0)).std(), both[1].draw(x, Draws(1)).std(), rtol=.03)


def test_misfit_is_found_where_it_is():
    "A generator that cannot make the right half"
    left = torch.cat([torch.ones(8, 4), torch.zeros(8, 4)], 1)
    x = (.3*torch.randn(300, 1, 8, 8, generator=rng(0))).clamp(-1, 1)
    M = learn_misfit(generator(lambda z: .3*z*left, (1, 8, 8)), masked.measure(x), n=4, most=200)
    sd = M.cov.diagonal().view(8, 8).sqrt()
    assert sd[:, 4:].mean() == pytest.approx(.3, rel=.15) and sd[:, :4].mean() < .24


def test_teacher_of_blurred_images_is_no_prior():
    known = gaussian_denoiser(torch.zeros(1, 8, 8), torch.eye(64))
    class Net(Formula):
        def forward(self, x, s, **kw): return known(x, s)
    T = lambda op: Teacher(Net(None, (1, 8, 8)), AmbientTweedie(.1),
                           data=dict(corruption=Corruption(op, .1).to_dict()))
    with pytest.raises(BadInput, match='images behind GaussianBlur'):
        restore(T(GaussianBlur(5, .8)), measured(2))
    assert restore(T(Identity()), measured(2), Anneal(5), 3).samples.shape == (2, 3, 1, 8, 8)


def test_the_operator_says_what_belongs_to_a_whole_image():
    "A mask without holes, of pixels or of lines; what else a network may be given is not guessed"
    shown = []
    class Net(Formula):
        def forward(self, x, s, mask=None, extra=None):
            shown.append(mask if extra is None else extra)
            return x/(1 + s.view(-1, 1, 1, 1)**2)
    ys = Corruption(Identity(), .2).measure(torch.full((2, 2, 8, 8), -.1))
    T = lambda objective: Teacher(Net(None, (2, 8, 8)), objective)
    for objective in (AmbientInpainting(.5), AmbientFourier(FourierMask(2))):
        assert restore(T(objective), ys, Anneal(3), 2).samples.shape == (2, 2, 2, 8, 8)
    assert len(shown) == 12 and all((m == 1).all() for m in shown)
    with pytest.raises(BadInput,
                       match='prior cannot be annealed.*MultiCoilMRI.*no state that hides nothing.*distil it'):
        restore(T(AmbientFourier(MultiCoilMRI(2, coils=2))), ys, Anneal(3), 2)
    assert not Standard().makes_images(GaussianBlur().to_dict()) and Standard().makes_images(Identity().to_dict())
    assert AmbientInpainting(.5).makes_images(RandomMask(.5).to_dict())


def test_one_sample_has_no_spread():
    found = Restored(torch.zeros(3, 1, 1, 8, 8), measured(3))
    assert (found.std == 0).all() and all((v == 0).all() for v in found.interval())


def test_command(tmp_path):
    measured(12).save(tmp_path/'ys')
    done = run('dcd_restore', *'digits-mask ys out.npz --n 8 --images 4 --learn ys --json'.split(),
               cwd=tmp_path)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said['n'] == 4 and said['samples'] == 8 and .05 < said['misfit'] < .5 and math.isfinite(said['residual'])
    with np.load(tmp_path/'out.npz') as d:
        assert d['samples'].shape == (4, 8, 1, 8, 8) and (d['low'] <= d['high']).all()


def test_command_writes_pictures_and_sentences(tmp_path, capsys):
    measured(12).save(tmp_path/'ys')
    cli.restore('digits-mask', str(tmp_path/'ys'), str(tmp_path/'pictures'), n=2, method='Optimise(steps=5)')
    for folder in ('pictures', 'pictures-std'): assert len([*(tmp_path/folder).glob('*.png')]) == 12
    capsys.readouterr()
    for kw in (dict(learn=str(tmp_path/'ys'), method='Optimise()'), dict(images=0), dict(n=0),
               dict(method='Sampel')):
        with pytest.raises(SystemExit) as e:
            cli.restore('digits-mask', str(tmp_path/'ys'), str(tmp_path/'a.npz'), **kw)
        err = capsys.readouterr().err
        assert e.value.code == 2 and err.startswith('error: ') and len(err.splitlines()) == 1
    assert not (tmp_path/'a.npz').exists()


def test_the_misfit_is_learned_once_for_a_generator_and_a_corruption(monkeypatch):
    from dcd_nb.restore import sampler
    monkeypatch.setattr(sampler, '_kept', {})
    learned, learn = [], sampler._learn
    monkeypatch.setattr(sampler, '_learn', lambda G, ys, *a: learned.append(len(ys)) or learn(G, ys, *a))
    ys = measured(12)
    one, two = (restore(G, ys.select(range(6)), n=4, seed=seed) for seed in (0, 0))
    assert learned == [6] and torch.equal(one.samples, two.samples)
    restore(G, ys.select(range(2)), n=2)
    assert learned == [6]                                        # fewer measurements than it was learned from
    restore(G, ys, n=2)
    assert learned == [6, 12]
    restore(G, measured(12, Corruption(RandomMask(.5), .2)), n=2)
    assert learned == [6, 12, 12]                                # another corruption
    other = Generator.from_pretrained('digits-mask')
    restore(other, ys, n=2)
    assert learned == [6, 12, 12]                                # the same weights, loaded again
    with torch.no_grad(): next(other.net.parameters()).mul_(1.01)
    restore(other, ys, n=2)
    assert learned == [6, 12, 12, 12]


def test_the_misfit_is_kept_beside_the_generator(monkeypatch, tmp_path, capsys):
    from dcd_nb.restore import sampler
    ys, kept = measured(12), lambda: sorted(p.name for p in tmp_path.rglob('*misfit*.safetensors'))
    def anew():
        "As a new session would"
        monkeypatch.setattr(sampler, '_kept', {})
        return Generator.load(tmp_path/'mine')
    G.save(tmp_path/'mine')
    learned, learn = [], sampler._learn
    monkeypatch.setattr(sampler, '_learn', lambda G, ys, *a: learned.append(len(ys)) or learn(G, ys, *a))
    first = restore(anew(), ys, n=2)
    assert len(kept()) == 1 and kept()[0].startswith('mine-misfit-')
    assert f'learned from 12 measurements, is kept as {tmp_path}' in capsys.readouterr().out
    cost = Sample().network_images(anew(), ys, 2)
    again = restore(anew(), ys, n=2)
    assert learned == [12] and torch.equal(first.samples, again.samples) and capsys.readouterr().out == ''
    assert cost == Sample(.2).network_images(G, ys, 2)             # learning is not counted again
    (tmp_path/kept()[0]).write_bytes(b'damaged')
    with pytest.warns(UserWarning, match='the misfit is learned again'):
        assert torch.equal(restore(anew(), ys, n=2).samples, first.samples)
    assert learned == [12, 12] and restore(anew(), ys, n=2, quiet=True) and learned == [12, 12]

    for p in tmp_path.glob('*misfit*'):
        p.unlink()                 # where nothing can be written: for the session
    def full(*a): raise BadInput('the disk is full')
    monkeypatch.setattr(sampler, 'save_tensors', full)
    other = anew()
    assert torch.equal(restore(other, ys, n=2).samples, restore(other, ys, n=2).samples)
    assert learned == [12, 12, 12] and not kept()
    shipped = Generator.from_pretrained('digits-mask')             # those of the package have no place for it
    assert sampler._file_of(shipped, 'key') is None and sampler._file_of(G, 'key') == tmp_path/'mine-misfit-key'


def test_what_it_costs_is_said_where_it_is_much(monkeypatch, capsys):
    from dcd_nb.restore import method
    ys = measured(5)
    expected = Sample(.2).network_images(G, ys, 8)
    assert 0 < method._seconds_each(G, expected) < 1 and method._seconds_each(G, 1) == 0
    passed = []
    hook = G.net.register_forward_hook(lambda net, given, made: passed.append(len(made)))
    monkeypatch.setattr(method, '_seconds_each', lambda prior, expected: 0.)
    restore(G, ys, Sample(.2), n=8)
    assert .6*expected < sum(passed) < 1.7*expected
    assert capsys.readouterr().out == ''                         # it takes no time
    monkeypatch.setattr(method, '_seconds_each', lambda prior, expected: 1.)
    restore(G, ys, Sample(.2), n=8)
    first, last = capsys.readouterr().out.splitlines()
    assert first == f'5 measurements, 8 samples each: {expected:_} images through the network, about {expected} s on cpu'
    assert last.startswith('took ') and last.endswith(' images/s')
    learn_misfit(G, ys, rounds=1)
    assert 'the misfit from 5 measurements, 4 chains each' in capsys.readouterr().out
    for call in (lambda: restore(G, ys, Sample(.2), n=8, quiet=True),
                 lambda: learn_misfit(G, ys, rounds=1, quiet=True)):
        call()
        assert capsys.readouterr() == ('', '')
    hook.remove()
    assert not G.net._forward_hooks                              # nor any of ours


def test_random_numbers_of_others_are_left_alone():
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    restore(G, measured(2), Sample(.2), n=2)
    assert torch.equal(torch.rand(2), want)


def test_a_measurement_is_restored_alike_in_every_company_of_its_group():
    "The pool does not depend on how many measurements there are"
    few, more = (restore(G, measured(40).select(range(k)), Sample(.2, last=1), 8, rows=16) for k in (16, 40))
    assert torch.equal(few.samples, more.samples[:16])
