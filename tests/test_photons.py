"Photon noise belongs to a corruption like any other: it is kept, changed by name, judged, and refused where it does not fit."
import json

import numpy as np
import pytest
import torch

from dcd_nb.all import BadInput, Compose, Corruption, digits, distill, GaussianBlur, Generator, Identity, lmmse, Measurements, MLP
from dcd_nb.all import objective_for, photon_noise, Photons, RandomMask, recipe, Recipe, restore, rng, Standard, Teacher, train, two_sample
from dcd_nb.cli import corrupt, import_arrays
from dcd_nb.data import Anscombe, check_physics, measure_to
from dcd_nb.distill import load_pretrained
from dcd_nb.operators import FourierMask, Poisson
from dcd_nb.restore import Restored
from dcd_nb.training import Checkpoints, data_scale

x = digits()
light = Photons(.1, read=.05, offset=-1.1)


@pytest.mark.parametrize('op', [Identity(), RandomMask(.5), Compose(GaussianBlur(3, .8), RandomMask(.3))],
                         ids=repr)
def test_measurements_are_kept(op, tmp_path):
    A = Corruption(op, light)
    ys = A.measure(x[:40], seed=2)
    ys.save(tmp_path/'ys')
    back = Measurements.load(tmp_path/'ys')
    assert back.hash == ys.hash and repr(back.corruption) == repr(A) and back.corruption.photons.offset == -1.1
    assert measure_to(A, x[:40], tmp_path/'there', seed=2).hash == ys.hash
    assert (ys.select(range(20)) + ys.select(range(20, 40))).hash == ys.hash
    assert Corruption(op, Photons(.1, .05)).measure(x[:40], seed=2).hash != ys.hash


def test_arrays_of_ones_own():
    y = Corruption(Identity(), light).measure(x[:40]).y
    assert repr(Measurements.from_arrays(y.numpy(), 'Identity()', light).corruption.photons) == repr(light)


def test_a_recipe_keeps_and_changes_the_gain():
    r = recipe('digits-noise', corruption=Corruption(Identity(), light), objective=Standard())
    assert Recipe.from_dict(json.loads(json.dumps(r.to_dict()))) == r
    assert r.override({'corruption.sigma.gain': .3}).corruption.photons.gain == .3
    assert r.override({'corruption.op': RandomMask(.5)}).corruption.photons.gain == .1


def test_runs_are_kept_and_go_on(tmp_path):
    ys = Corruption(Identity(), light).measure(x[:64])
    kw = dict(batch=32, checkpoints=Checkpoints(monitor=False), quiet=True)
    t = train(ys, MLP((1, 8, 8), width=16, blocks=1), images=128, out=tmp_path/'t', flip=True, **kw)
    assert isinstance(t.objective, Standard)
    back = Teacher.load(tmp_path/'t')
    back.check(ys)
    with pytest.raises(BadInput, match='learned from Corruption'):
        back.check(Corruption(Identity(), Photons(.2)).measure(x[:64]))
    G = distill(t, ys, images=128, out=tmp_path/'g', **kw)
    assert torch.equal(Generator.load(tmp_path/'g').sample(4), G.sample(4))
    assert 'Photons' in (tmp_path/'g'/'recipe.json').read_text()


def test_the_scale_of_what_lies_behind_counts():
    ys = Corruption(Identity(), Photons(.3, read=.2)).measure(x)
    assert abs(data_scale(ys)/x.square().mean().sqrt().item() - 1) < .02


def test_the_two_sample_test_counts_photons_again():
    ys, others = Corruption(Identity(), light).measure(x[0:1600:2]), x[1:1600:2]
    assert two_sample(others, ys, 199).p > .01
    assert two_sample(others, Measurements(ys.y, Corruption(Identity(), light.times(1.3))), 199).p < .02


@pytest.mark.parametrize('route', [lambda ys: lmmse(ys),
                                   lambda ys: restore(load_pretrained('digits-noise'), ys),
                                   lambda ys: ys + Corruption(Identity(), .1).measure(x[:40]),
                                   lambda ys: objective_for(Corruption(RandomMask(.5), light)),
                                   lambda ys: Corruption(Poisson(9), light),
                                   lambda ys: Corruption(FourierMask(2), light)])
def test_what_does_not_fit_is_refused_in_a_sentence(route):
    with pytest.raises(BadInput, match='Photons'): route(Corruption(Identity(), light).measure(x[:40]))


def test_a_look_at_the_physics_does_not_take_photons_for_gaussian_noise():
    assert check_physics(Corruption(Identity(), Photons(.1)).measure(x)) == []


def test_the_way_back_survives_a_mask_and_an_offset():
    ys = Corruption(RandomMask(.5), light).measure(x[:40])
    back = Anscombe(ys.corruption.photons)
    zs = back.measurements(ys)
    assert torch.equal(zs.y == 0, ys.y == 0) and zs.sigma == back.sigma and objective_for(zs.corruption).sigma == back.sigma
    assert torch.allclose(back.images(back.mean(x)), x, atol=1e-5)


def test_restorations_come_back_from_their_roots():
    back = Anscombe(light)
    zs = back.measurements(Corruption(Identity(), light).measure(x[:40]))
    assert repr(Anscombe.of(zs.about)) == repr(back) and Anscombe.of({}) is None
    roots = torch.stack([back.mean(x[:40]), back.mean(x[:40]*.5)], 1)
    one, two = (Restored(s, zs).through(back.images) for s in (roots[:, :1], roots))
    assert torch.allclose(one.mean, x[:40], atol=1e-4) and one.std.max() == 0
    assert torch.allclose(two.mean, .75*x[:40], atol=1e-4)
    assert torch.allclose(two.std, .5*x[:40].abs()/2**.5, atol=1e-4)
    assert torch.equal(two.residual, Restored(roots, zs).residual)          # in units of the measurements


def test_the_line_of_few_photons_is_not_too_steep():
    "Mean and variance of skewed noise err together, by 2 % of the gain at 5 photons; and the stated errors hold"
    z, camera = [], Photons(.4, .6)
    for r in range(40):
        levels = torch.rand(500, 1, 1, 1, generator=rng(0, r))*2 - 1
        found = photon_noise(Corruption(Identity(), camera).batch(levels.expand(-1, 1, 16, 16), rng(1, r)).y)
        z.append([(found.gain - .4)/found.gain_se, (found.read - .6)/found.read_se])
    z = torch.tensor(z)
    assert (z.mean(0).abs() < .6).all() and ((z.abs() < 2).double().mean(0) > .8).all()


def test_gain_and_read_noise_from_five_hundred_patches():
    levels = torch.rand(500, 1, 1, 1, generator=rng(0))*2 - 1
    for gain, read in ((.4, .5), (.1, .15), (.02, .04)):
        found = photon_noise(Corruption(Identity(), Photons(gain, read)).batch(levels.expand(-1, 1, 16, 16), rng(1)).y)
        assert abs(found.gain/gain - 1) < .05 and abs(found.read/read - 1) < .05


def test_the_commands_take_what_python_prints(tmp_path, capsys):
    A = Corruption(Identity(), light)
    np.save(tmp_path/'x.npy', x[:20].numpy())
    corrupt(str(tmp_path/'x.npy'), str(tmp_path/'ys'), sigma=repr(light), seed=2, json=True)
    assert json.loads(capsys.readouterr().out)['sigma'] == repr(light)
    ys = Measurements.load(tmp_path/'ys')
    assert ys.hash == A.measure(x[:20], seed=2).hash
    np.save(tmp_path/'y.npy', ys.y.numpy())
    import_arrays(str(tmp_path/'y.npy'), str(tmp_path/'again'), sigma=repr(light))
    assert repr(Measurements.load(tmp_path/'again').corruption) == repr(A)
    # a camera in whose units black is 50 and white 1050
    np.save(tmp_path/'counts.npy', 500*(ys.y.numpy() + 1) + 50)
    camera = Photons(500*light.gain, 500*light.read, offset=500*(light.offset + 1) + 50)
    import_arrays(str(tmp_path/'counts.npy'), str(tmp_path/'scaled'), sigma=repr(camera),
                  scaling='Limits(50, 1050)')
    back = Measurements.load(tmp_path/'scaled')
    assert torch.allclose(back.y, ys.y, atol=1e-4)
    assert all(getattr(back.corruption.photons, k) == pytest.approx(getattr(light, k))
               for k in ('gain', 'read', 'offset'))


@pytest.mark.parametrize('text, says', [
    ('Photons(gain=0)', 'gain=0 must be a positive number'),
    ('Photon(gain=1)', "sigma='Photon' is not known; did you mean 'Photons'?"),
    ('Photons(gain=', "'(' was never closed): write it as in Python, e.g. 'Photons(gain=.1, read=.15)'"),
    ('photons', "sigma='photons' must be a number, the name of a .npy file"),
    ('Photons(1, gian=2)', "unexpected keyword argument 'gian'"),
    ('Photons(.1, offset=2)', 'offset=2.0 must be below 1'), ('-1', 'sigma=-1.0 must be a finite number')])
def test_wrong_text_for_the_noise_is_a_sentence(text, says, tmp_path, capsys):
    np.save(tmp_path/'x.npy', x[:4].numpy())
    with pytest.raises(SystemExit): corrupt(str(tmp_path/'x.npy'), str(tmp_path/'ys'), sigma=text)
    err = capsys.readouterr().err
    assert err.startswith('error: ') and says in err and err.count('\n') == 1 and not (tmp_path/'ys.json').exists()
