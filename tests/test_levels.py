"Levels of noise that differ: they stay with their masks, clean images are counted, and bad maps are one sentence."
import json

import numpy as np
import pytest
import torch

from dcd_nb.cli import corrupt, import_arrays
from dcd_nb.data import Measurements, digits
from dcd_nb.distill import load_pretrained
from dcd_nb.draws import Draws, rng
from dcd_nb.errors import BadInput
from dcd_nb.metrics import Proximal
from dcd_nb.networks import MLP
from dcd_nb.operators import Compose, Corruption, Downsample, GaussianBlur, GivenMasks, Identity, RandomMask
from dcd_nb.restore.held_out import hide_some, predict_held_out
from dcd_nb.training import train

x = digits()


def of_two_masks():
    "Digits behind two masks, with noise of 0.1 behind one and of 0.6 behind the other"
    g = rng(0)
    op = GivenMasks((torch.rand(2, 1, 8, 8, generator=g) >= .5).float())
    state = op.draw(len(x), x.shape[1:], g)
    first = (state == op.masks[0]).flatten(1).all(1)
    A = Corruption(op, torch.where(first, .1, .6))
    return Measurements(A.noise(op(x, state), state, g, A.sigma), A, state)


def energies(batch, masks):
    "Mean square of the observed pixels, and its standard error, for each mask"
    found = []
    for m in masks.float():
        rows = (batch.state == m).flatten(1).all(1)
        each = batch.y[rows].square().flatten(1).sum(1)/m.sum()
        found.append((each.mean().item(), each.std().item()/len(each)**.5))
    return found


def test_a_level_stays_with_its_mask():
    "Drawn apart, both masks would get the mean energy, and true clean digits would not be at the floor"
    ys = of_two_masks()
    data, apart = energies(ys, ys.op.masks), Corruption(ys.op, ys.sigma)
    assert [round(e, 2) for e, _ in data] == [.73, 1.09]
    for again in (ys.corruption.recorrupt(x, Draws(1)), ys.corruption.batch(x, rng(1))):
        for (a, se), (b, _) in zip(energies(again, ys.op.masks), data): assert abs(a - b) < 4*se
        first = (again.state == ys.op.masks[0]).flatten(1).all(1)
        assert torch.equal(again.sigma.flatten() == .1, first)
    mixed = apart.recorrupt(x, Draws(1))
    for (a, se), (b, _) in zip(energies(mixed, ys.op.masks), data): assert abs(a - b) > 8*se
    near = Proximal(ys)
    found = near(x, as_files=False)
    near.corruption = apart
    assert found['proximal'] < 1.2*found['floor'] < .5*near(x, as_files=False)['proximal']


def test_maps_are_above_0_where_their_mask_shows():
    state = RandomMask(.5).draw(200, (1, 8, 8), rng(0))
    sigma = state*(.1 + torch.rand(200, 1, 1, 1, generator=rng(1)))
    A = Corruption(RandomMask(.5), sigma)
    ys = Measurements(A.noise(x[:200]*state, state, rng(2), sigma), A, state)
    def seen_without_noise(A): return sum((b.state.bool() & (b.sigma == 0)).sum().item() for b in
                                          (A.recorrupt(x[:200], Draws(0)), A.batch(x[:200], rng(3))))
    assert seen_without_noise(ys.corruption) == 0 < seen_without_noise(A)


def test_pairs_belong_to_the_measurements_and_are_in_no_file(tmp_path):
    ys = of_two_masks()
    ys = ys.select(range(40, 60))
    ys.save(tmp_path/'ys')
    for zs in (ys, Measurements.load(tmp_path/'ys')):
        assert torch.equal(zs.corruption.pairs['state'], ys.state) and torch.equal(zs.corruption.pairs['sigma'], ys.sigma)
    assert ys.corruption.tensors().keys() == {'op.masks', 'sigma'}
    both = ys + ys.select(range(5))
    assert len(both.corruption.pairs['state']) == 25
    A, draws = ys.corruption, Draws(0)
    whole = A.recorrupt(x[:80], draws)
    parts = [A.recorrupt(x[i:i + n], Draws(0, start=i)) for i, n in ((0, 32), (32, 48))]
    for name in ('y', 'state', 'sigma'):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(p, name) for p in parts]))


def test_levels_of_operators_with_several_states_are_drawn_together():
    op = Compose(GaussianBlur(3, .8), RandomMask(.5))
    ys = Corruption(op, torch.linspace(.1, .6, 30)).measure(x[:30])
    again = ys.corruption.recorrupt(x[:64], Draws(0))
    which = (again.sigma == ys.sigma.view(1, -1, 1, 1)).flatten(2).all(2).float().argmax(1)
    assert torch.equal(again.state['1'], ys.state['1'][which]) and len(which.unique()) > 20


def test_one_level_for_all_draws_what_it_drew():
    "State, then noise, from one generator"
    A = Corruption(RandomMask(.5), .3)
    ys = A.measure(x[:10])
    assert ys.corruption is A and A.pairs is None
    g = rng(5)
    state = A.op.draw(10, (1, 8, 8), g)
    assert torch.equal(A.batch(x[:10], rng(5)).y, A.op.noise(x[:10]*state, .3, state, g))


def test_clean_images_among_masked_ones_are_counted(tmp_path):
    for sigma in (.3, 0.):
        masked = Corruption(RandomMask(.5), sigma).measure(x[10:40])
        ten = Measurements(x[:10], Corruption(masked.op), torch.ones(10, 1, 8, 8))
        ys = masked + ten
        assert (masked.n_clean, ys.n_clean, ys.select(range(35)).n_clean) == (0, 10, 5)
        net = MLP(ys.shape, in_channels=2, width=8, blocks=1)
        train(ys, net, images=16, batch=16, out=tmp_path/str(sigma), check=False, quiet=True)
        assert json.loads((tmp_path/str(sigma)/'recipe.json').read_text())['data']['n_clean'] == 10
    with pytest.raises(BadInput, match='give them a mask of ones: masked [+] Measurements') as e:
        masked + Corruption(Identity(), .1).measure(x[:10])
    said = str(e.value).split('mask of ones: ')[1]
    names = dict(masked=masked, others=Corruption(Identity(), .1).measure(x[:10]), torch=torch,
                 Measurements=Measurements, Corruption=Corruption)
    joined = eval(said, names)
    assert len(joined) == 40 and joined.n_clean == 0


def test_what_has_no_noise_is_left_out_of_a_split():
    noisy = Corruption(Identity(), .5).measure(x[:12], seed=1)
    ys = Corruption(Identity()).measure(x[12:15]) + noisy
    split, alone = hide_some(ys), hide_some(noisy)
    assert split.rows == [*range(3, 15)] and torch.equal(split.target, alone.target)
    assert torch.equal(split.shown.y, alone.shown.y)
    found = predict_held_out(load_pretrained('digits-noise'), ys, method='Sample(.2, leaps=2, moves=1, last=1)', n=4)
    assert (found['n'], found['left_out']) == (12, 3) and '3 without noise are left out' in repr(found)
    with pytest.raises(BadInput, match='no noise to split'): hide_some(Corruption(Downsample(2)).measure(x[:3]))


def test_maps_of_levels_fit_or_are_one_sentence(tmp_path, capsys):
    "In Python and by the commands alike; one map is for all"
    np.save(tmp_path/'grey.npy', x[:20].numpy())
    one, says = np.full((8, 8), .2, np.float32), 'which does not fit y of shape (1, 8, 8) for each image'
    maps = dict(one=one, four=one[None, None], each=np.broadcast_to(one, (20, 8, 8)).copy(),
                colour=np.full((20, 3, 8, 8), .2), wrong=np.full((9, 8), .2))
    for name, v in maps.items():
        np.save(tmp_path/f'{name}.npy', v)
        for command in (corrupt, import_arrays):
            out = tmp_path/f'{name}-{command.__name__}'
            line = dict(out=str(out), sigma=str(tmp_path/f'{name}.npy'))
            if name in ('colour', 'wrong'):
                with pytest.raises((BadInput, SystemExit)) as e: command(str(tmp_path/'grey.npy'), **line)
                assert says in str(e.value) + capsys.readouterr().err
                assert not out.with_suffix('.json').exists()
            else:
                command(str(tmp_path/'grey.npy'), **line)
                ys = Measurements.load(out)
                assert ys.sigma.shape == (20, 1, 8, 8) and (ys.sigma == np.float32(.2)).all()
        if name in ('colour', 'wrong'):
            with pytest.raises(BadInput, match='does not fit'): Corruption(Identity(), v).measure(x[:20])
