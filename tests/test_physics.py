"A look at the physics before a run: the ways to be wrong are told in a sentence each, and what is right is not."
import random
import time
import warnings

import pytest
import torch

from dcd_nb.all import *
from dcd_nb.data import check_physics

x = digits()
noisy = Corruption(Identity(), .1).measure(x).y
holes = Corruption(RandomMask(.4), .1).measure(x)
one = holes.state[:1].expand_as(holes.state).contiguous()
columns = (torch.rand(len(x), 1, 1, 8, generator=rng(3)) > .4).float().expand(-1, 1, 8, 8).contiguous()
eps = .1*torch.randn(x.shape, generator=rng(4))


def given(y, op=None, sigma=.1, state=None):
    return Measurements(y, Corruption(op or Identity(), sigma), state)


wrong = {
    'sigma .1 for .5': (lambda: given(Corruption(Identity(), .5).measure(x).y), 'y holds noise of about 0.5'),
    'sigma .1 for 0': (lambda: given(x.clone()), 'either it has no noise, though sigma=0.1'),
    'sigma .1 for 0, floats': (lambda: given(.97*x + eps/1000), 'y holds noise of at most'),
    'sigma .1 for 0, masks': (lambda: given((.97*x + eps/1000)*holes.state, RandomMask(.4), .1, holes.state),
                              'no value of y lies outside of'),
    'missing .1 for .4': (lambda: given(holes.y, RandomMask(.1), .1, holes.state),
                          'state hides 40.1% of the pixels'),
    'missing 0 for .4': (lambda: given(holes.y), 'if these are hidden, say so by a RandomMask'),
    'y in [0, 1]': (lambda: given((x + 1)/2 + eps), 'seem to lie in [0, 1]: pass 2*y - 1'),
    'y in [0, 1], no noise': (lambda: given((x + 1)/2, sigma=0.), 'seem to lie in [0, 1]: pass 2*y - 1'),
    'y in [0, 255]': (lambda: given((noisy + 1)*127.5), 'these are bytes, it seems; pass y/127.5 - 1'),
    'one mask for all': (lambda: given((x + eps)*one, RandomMask(.4), .1, one),
                         'observations have the same mask'),
    'masked columns': (lambda: given((x + eps)*columns, RandomMask(.4), .1, columns),
                       'neighbours in a column of the masks agree'),
    'a dead corner': (lambda: given((x + eps)*(m := holes.state*torch.ones(8, 8).index_fill(0, torch.tensor([0]), 0.)), RandomMask(.4), .1, m), 'are hidden in all observations'),
    'duplicates': (lambda: given(torch.cat([noisy, noisy])), 'are exact copies of others'),
    'clipped noise': (lambda: given(noisy.clamp(-1, 1)), 'the noise was clipped'),
    'HWC': (lambda: given(noisy.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous()),
            'looks like (N, H, W, C)'),
    'swapped mask': (lambda: given(holes.y, RandomMask(.4), .1, 1 - holes.state),
                     'the mask says 1 for hidden'),
    'channel count: alpha': (lambda: given(torch.cat([noisy, torch.ones_like(noisy)], 1)),
                             'leave it out, as an alpha channel'),
    'channel count: grey as RGB': (lambda: given(noisy.expand(-1, 3, -1, -1).contiguous()),
                                   'are equal: keep one of them'),
    'quantised y, bytes': (lambda: given((noisy*127.5).round()/127.5), 'or it was rounded after the noise'),
    'quantised y, coarse': (lambda: given((noisy*8).round()/8), 'or it was rounded after the noise'),
}


def said_of(make):
    "What is said of measurements that `make` makes, on the way and by the look"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        try: found = check_physics(make())
        except BadInput as e: return [str(e)]
    return [str(w.message) for w in seen] + found


@pytest.mark.parametrize('name', wrong)
def test_what_is_wrong_is_said(name):
    make, sentence = wrong[name]
    said = said_of(make)
    assert any(sentence in text for text in said), said
    assert all(': ' in text for text in said)                    # what is wrong, and what to do


def test_a_wrong_channel_count_of_the_network_is_refused():
    with pytest.raises(BadInput, match='net makes images of shape'):
        train(given(noisy), UNet(8, 3, channels=8), images=64, batch=64, quiet=True)


def correct():
    "Twenty corruptions of digits that are what they say"
    pick = random.Random(0)
    for k in range(20):
        op = [Identity, lambda: RandomMask(round(pick.uniform(.05, .9), 2)),
              lambda: GaussianBlur(5, round(pick.uniform(.4, 1.5), 2)),
              lambda: Saturation(round(pick.uniform(1, 3), 2)), lambda: Downsample(2)][k % 5]()
        yield Corruption(op, pick.choice([0., .03, .1, .2, .5, 1.])), k


@pytest.mark.parametrize('corruption,seed', [*correct()], ids=str)
def test_no_false_alarm_on_correct_corruptions(corruption, seed):
    assert said_of(lambda: corruption.measure(x, seed)) == []


built_in = {name: r for name, r in recipes().items() if r.data.source in ('digits', 'moons', 'roll', 'blobs',
    'phantoms')}


@pytest.mark.parametrize('name', built_in)
def test_no_false_alarm_on_recipes(name):
    "Phantoms take seconds to draw: 48 of them"
    r = built_in[name]
    x = phantoms(48, r.data.size) if r.data.source == 'phantoms' else r.clean_images()
    assert said_of(lambda: r.corruption.measure(x)) == []


def test_few_observations_and_odd_shapes_raise_nothing():
    for y in (torch.zeros(1, 1, 4, 4), torch.randn(3, 2, 1, 1), torch.rand(2, 1, 1, 9),
              torch.rand(5, 3, 2, 2)):
        check_physics(given(y))


def test_it_takes_less_than_a_second():
    big = torch.rand(60_000, 1, 28, 28, generator=rng(5))
    ys = given(2*big - 1 + .1*torch.randn(big.shape, generator=rng(6)))
    start = time.process_time()
    assert check_physics(ys) == []
    assert time.process_time() - start < 2                        # below 1 s where nothing else runs


def small(ys, **kw):
    return train(ys, MLP((1, 8, 8), width=8, blocks=1), images=64, batch=64, quiet=True, **kw)


def test_training_warns_also_when_quiet_and_check_silences():
    ys = given(noisy.clamp(-1, 1))
    with pytest.warns(UserWarning, match='the noise was clipped'): teacher = small(ys)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        small(ys, check=False)
        # said before
        distill(teacher, ys, images=64, batch=64, quiet=True, checkpoints=Checkpoints(monitor=False))
    with pytest.warns(UserWarning, match='the noise was clipped'):
        distill(teacher, given(noisy[:900].clamp(-1, 1)), images=64, batch=64, quiet=True,
                checkpoints=Checkpoints(monitor=False))
