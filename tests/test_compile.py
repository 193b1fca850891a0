"Compiled networks: several sizes in one process, no fall back that nobody sees, and a compiler that fails."
import copy
import warnings

import pytest
import torch

from dcd_nb.draws import rng
from dcd_nb.data import Measurements
from dcd_nb.distill import distill
from dcd_nb.networks import UNet
from dcd_nb.operators import Corruption, Identity
from dcd_nb.training import Checkpoints, Hardware, train


def run(size, compile):
    "A teacher and its generator on images of that size; returns the losses of both, and the teacher"
    torch.manual_seed(0)
    y = torch.randn(32, 1, size, size, generator=rng(0))
    ys = Measurements(y, Corruption(Identity(), .2))
    net = UNet(size, 1, channels=4, mult=(1,), blocks=1, attn=(), dropout=.1)
    small = dict(images=32, batch=16, quiet=True, hardware=Hardware('cpu', compile=compile))
    teacher = train(ys, net, checkpoints=Checkpoints(grid=0), **small)
    G = distill(teacher, ys, checkpoints=Checkpoints(grid=0, monitor=False), **small)
    return [l[k] for m in (teacher, G) for l in m.history for k in ('loss', 'fake_loss') if k in l], teacher


@pytest.fixture
def traced(monkeypatch):
    "The graphs that the compiler gets, which are then run as they are: all of torch.compile but the making of machine code, which takes minutes here"
    graphs = []
    def compiler(graph, inputs):
        graphs.append(inputs)
        return graph.forward
    monkeypatch.setattr(torch._inductor, 'compile', compiler)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True): yield graphs
    torch._dynamo.reset()


def test_three_sizes_in_one_process_are_compiled_each_on_its_own_and_learn_as_uncompiled(traced):
    for count, size in enumerate((8, 12, 16), start=1):
        plain, compiled = run(size, False)[0], run(size, True)[0]
        assert plain == pytest.approx(compiled, rel=1e-4) and len(plain) >= 4
        assert len(traced) >= 3*count                       # learning, frozen with gradients, without: nothing went uncompiled
    assert len(traced) > 8                                  # more than torch keeps for one function by default
    sizes = [n for inputs in traced for t in inputs for n in (t.shape if torch.is_tensor(t) else [t])]
    assert all(type(n) is int for n in sizes)               # no size is left open, which the compiler cannot do


def test_a_compiler_that_fails_is_told_once_and_training_goes_on(monkeypatch):
    tries = []
    def broken(graph, inputs):
        tries.append(1)
        raise RuntimeError('no C++ compiler found\nand a long story')
    monkeypatch.setattr(torch._inductor, 'compile', broken)
    torch._dynamo.reset()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        losses = run(8, True)[0]
    told = [str(w.message) for w in told if 'compile' in str(w.message)]
    assert losses == pytest.approx(run(8, False)[0], rel=1e-4)
    assert len(told) == len(tries) == 2                     # once for each of the two runs
    assert told[0] == ('the network cannot be compiled here (RuntimeError: no C++ compiler found); training goes on without, slower: '
                       'see that a C++ compiler is installed, or pass compile=False (--compile off)')


def test_a_compiled_network_is_kept_and_copied_as_before(traced):
    a, b = (run(8, compile)[1].net.state_dict() for compile in (True, False))
    assert [*a] == [*b] and all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)
    net = UNet(8, 1, channels=4, mult=(1,), blocks=1, attn=())
    before = len(traced)
    train(Measurements(torch.randn(16, 1, 8, 8), Corruption(Identity(), .2)), net, images=16, batch=16, quiet=True, hardware=Hardware('cpu', compile=True))
    assert len(traced) > before
    twin = copy.deepcopy(net)
    assert twin._compiled_call_impl is None and [*twin.state_dict()] == [*net.state_dict()]
