"""Each image is observed once, and nothing of it that the operator hides gets through."""
import gc
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dcd_nb
from dcd_nb.draws import rng
from dcd_nb.errors import BadInput
from dcd_nb.data import Measurements, digits
from dcd_nb.operators import Compose, Corruption, Downsample, FourierMask, GaussianBlur, Identity, Photons, Poisson, RandomMask
from dcd_nb.recipes import recipe

x = digits()[:64]
corruptions = dict(
    noise=Corruption(Identity(), .2), mask=Corruption(RandomMask(.5), .1),
    blur=Corruption(GaussianBlur(), .05),
    half=Corruption(Downsample(2), .1), both=Corruption(Compose(GaussianBlur(3, .8), RandomMask(.5)), .1),
    photons=Corruption(Poisson(20)),
    light=Corruption(RandomMask(.5), Photons(.1, read=.05)),
)


@pytest.mark.parametrize('name', corruptions)
def test_bits_do_not_depend_on_batch_or_order(name):
    A = corruptions[name]
    whole = A.measure(x, seed=3)
    for size in (1, 7, 64):
        for order in (torch.arange(64), torch.randperm(64, generator=rng(size))):
            for idx in order.split(size):
                part = A.measure(x[idx], seed=3, index=idx)
                y, state = whole[idx]
                assert torch.equal(part.y, y)
                assert Measurements(y, A, state).hash == part.hash


@pytest.mark.parametrize('name', corruptions)
def test_seeds_differ_in_every_image(name):
    a, b = (corruptions[name].measure(x, seed=s).y for s in (0, 1))
    assert (a != b).flatten(1).any(1).all()


def test_images_with_the_same_content_get_different_noise():
    y = Corruption(Identity(), .2).measure(x[:1].expand(50, -1, -1, -1)).y.flatten(1)
    assert len({tuple(r.tolist()) for r in y}) == 50


def test_bits_do_not_depend_on_process_threads_or_global_state():
    code = """
import sys, torch
from dcd_nb.data import *; from dcd_nb.operators import *
torch.manual_seed(int(sys.argv[1])); torch.set_num_threads(int(sys.argv[1])); torch.randn(100)
A = Corruption(Compose(GaussianBlur(), RandomMask(.5)), .1)
print(A.measure(digits()[:64], seed=3).hash)
"""
    there = subprocess.run([sys.executable, '-c', code, '2'], capture_output=True, text=True,
                           check=True).stdout
    here = Corruption(Compose(GaussianBlur(), RandomMask(.5)), .1).measure(x, seed=3).hash
    assert there == here + '\n'


def test_nothing_redraws_between_epochs():
    "Two epochs through a shuffling loader with workers see the same observation of each image"
    ys = corruptions['mask'].measure(x, seed=0)
    index = lambda i: (i, *ys[i])
    class Indexed(torch.utils.data.Dataset):
        def __len__(self): return len(ys)
        def __getitem__(self, i): return index(i)
    epochs = []
    for workers in (0, 2, 0):
        rows = [(int(i), y, s) for b in torch.utils.data.DataLoader(Indexed(), 10, shuffle=True,
            num_workers=workers) for i, y, s in zip(*b)]
        epochs.append({i: (y, s) for i, y, s in rows})
        torch.randn(1000)
    for i in range(64):
        for e in epochs[1:]: assert all(torch.equal(a, b) for a, b in zip(epochs[0][i], e[i]))


def reachable_tensors(obj):
    "Every tensor, and the whole storage of every tensor, that can be reached from `obj`"
    seen, todo, found = set(), [obj], []
    while todo:
        o = todo.pop()
        if id(o) in seen or isinstance(o, (type, type(sys))) or callable(o) and hasattr(o, '__globals__'):
            continue
        seen.add(id(o))
        if torch.is_tensor(o):
            found.append(torch.empty(0, dtype=o.dtype).set_(o.untyped_storage()))
        else: todo += gc.get_referents(o)
    return found


@pytest.mark.parametrize('op', [RandomMask(.5), Compose(Identity(), RandomMask(.5)),
                                Compose(RandomMask(.5), GaussianBlur(3, .8))], ids=str)
@pytest.mark.parametrize('sigma', [0., .1])
def test_what_is_hidden_is_nowhere(op, sigma, tmp_path):
    A, telltale = Corruption(op, sigma), .7654321
    state = torch.cat([RandomMask(.5).draw(1, (1, 8, 8), rng(5, i)) for i in range(64)])
    secret = torch.where(state == 0, telltale, x)
    ys, plain = A.measure(secret, seed=5), A.measure(torch.where(state == 0, 0., x), seed=5)
    # the hidden pixels have no influence at all
    assert torch.equal(ys.y, plain.y)
    tensors = reachable_tensors(ys)
    assert any(t.numel() >= ys.y.numel() for t in tensors)              # the walk does find y
    assert not any((t.float() == torch.tensor(telltale)).any() for t in tensors)
    ys.save(tmp_path/'ys')
    assert torch.tensor(telltale).numpy().tobytes() not in (tmp_path/'ys.safetensors').read_bytes()


def test_the_walk_would_find_a_leak():
    ys = corruptions['mask'].measure(x)
    ys.about['oops'] = [dict(x=torch.full((3,), .7654321)[:1])]
    assert any((t.float() == torch.tensor(.7654321)).any() for t in reachable_tensors(ys))


def test_measurements_of_the_fourier_transform_hide_lines(tmp_path):
    A, z = Corruption(FourierMask(2)), torch.randn(5, 2, 8, 8, generator=rng(0)).clamp(-1, 1)
    ys = A.measure(z)
    assert (ys.y.masked_fill(ys.state == 1, 0.) == 0).all() and ys.state.sum() == 5*4


@pytest.mark.parametrize('name', ['noise', 'mask', 'blur', 'half'])
def test_no_value_is_clean_when_there_is_noise(name):
    A = corruptions[name]
    ys = A.measure(x)
    clean, seen = A.op(x, ys.state), A.op.observed(ys.state)
    equal = ys.y == clean
    assert not (equal if seen is None else equal & (seen == 1)).any()


def test_tampered_and_truncated_files_are_refused(tmp_path):
    ys = corruptions['mask'].measure(x)
    for damage, says in ((lambda b: b[:-7], 'cut short'),
                         (lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:], 'changed')):
        ys.save(tmp_path/'ys')
        p = tmp_path/'ys.safetensors'
        p.write_bytes(damage(p.read_bytes()))
        with pytest.raises(BadInput, match=says): Measurements.load(tmp_path/'ys')


def test_nothing_is_unpickled():
    "No module of the package can unpickle anything"
    for p in Path(dcd_nb.__file__).parent.rglob('*.py'):
        src = p.read_text(encoding='utf-8')
        assert not re.search(r'import (?!\w+_pickle)\w*pickle|pickle\.|torch\.load\b|joblib|allow_pickle *= *True', src), p


@pytest.mark.parametrize('op', [Identity(), RandomMask(.5)], ids=repr)
def test_levels_that_are_all_alike_change_no_bit_of_a_run(op):
    "A number, one for each image, one for each pixel"
    one = Corruption(op, .5).measure(digits()[:64], seed=1)
    levels = (.5, torch.full((64,), .5), torch.full((64, 1, 8, 8), .5))
    r, nets = recipe('digits-noise', network__width=16, network__blocks=1, train__batch=32), []
    for sigma in levels:
        ys = Measurements(one.y, Corruption(op, sigma), one.state)
        nets.append([*r.teacher(ys, images=96, monitor=False, quiet=True).net.parameters()])
    for net in nets[1:]: assert all(torch.equal(p, q) for p, q in zip(nets[0], net, strict=True))
