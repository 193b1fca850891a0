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


def run(size, compile, out=None, images=32):
    "A teacher and its generator on images of that size; returns the losses of both, and both"
    torch.manual_seed(0)
    y = torch.randn(32, 1, size, size, generator=rng(0))
    ys = Measurements(y, Corruption(Identity(), .2))
    net = UNet(size, 1, channels=4, mult=(1,), blocks=1, attn=(), dropout=.1)
    small = dict(images=images, batch=16, quiet=True, check=False, resume=out is not None,
                 hardware=Hardware('cpu', compile=compile),
                 checkpoints=Checkpoints(16, grid=0, monitor=False))
    teacher = train(ys, net, out=out and out/'teacher', **small)
    G = distill(teacher, ys, out=out and out/'student', **small)
    return [l[k] for m in (teacher, G) for l in m.history for k in ('loss', 'fake_loss')
            if k in l], teacher, G


@pytest.fixture
def traced(monkeypatch):
    "The graphs that the compiler gets, which are then run as they are: all of torch.compile but the making of machine code, which takes minutes here"
    graphs = []
    def compiler(graph, inputs):
        graphs.append(inputs)
        return graph.forward
    monkeypatch.setattr(torch._inductor, 'compile', compiler)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True): yield graphs
    torch._dynamo.reset()


# a network learns, or is frozen and lets a gradient through, or has none; teacher, fake and generator share what was compiled
ways = 3


def test_three_sizes_in_one_process_are_compiled_each_once_and_learn_as_uncompiled(traced):
    for count, size in enumerate((8, 12, 16), start=1):
        plain, compiled = (run(size, compile, images=64)[0] for compile in (False, True))
        assert plain == pytest.approx(compiled, rel=1e-4) and len(plain) >= 12
        # one for each way to use a network, in all steps of both phases
        assert len(traced) == ways*count
    assert not torch._dynamo.utils.counters['graph_break']  # a network is one graph
    # more than torch keeps for one function by default
    assert len(traced) > 8
    sizes = [n for inputs in traced for t in inputs for n in (t.shape if torch.is_tensor(t) else [t])]
    # no size is left open, which the compiler cannot do
    assert all(type(n) is int for n in sizes)


def test_compiled_runs_that_go_on_end_with_the_same_bits(traced, tmp_path):
    _, T, G = run(8, True, tmp_path)
    # as if it had been killed after the first of two steps
    for phase in ('teacher', 'student'):
        for path in [*(tmp_path/phase).glob('*0032*'), tmp_path/phase/'results.json']: path.unlink()
    _, again, student = run(8, True, tmp_path)
    assert again.cost['resumed_at'] == student.cost['resumed_at'] == 16 and len(traced) == ways
    for a, b in ((T, again), (G, student)): assert a.cost['weights_sha256'] == b.cost['weights_sha256']


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
    train(Measurements(torch.randn(16, 1, 8, 8), Corruption(Identity(), .2)), net, images=16, batch=16,
          quiet=True, check=False, hardware=Hardware('cpu', compile=True))
    assert len(traced) > before
    twin = copy.deepcopy(net)
    assert twin._compiled_call_impl is None and [*twin.state_dict()] == [*net.state_dict()]
