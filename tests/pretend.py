"""A GPU that is not there: code that runs on 'cuda' runs on a machine without one, on tensors that have no data.

Within `pretended()` there is one CUDA device.  Tensors on it have shape, type and device, but no values; those of the CPU
are real.  What would fail on a GPU, or wait for it, raises here:

* an operation on tensors of two devices, or with random numbers of a generator on another device;
* a size that depends on values, such as that of `x[x > 0]`;
* a wait: the host takes a number or a tensor from the device, or sends one there, in a function that is not in `allowed`.
  What it gets is made up.

PyTorch cannot run the way back on such tensors: gradients are zeros here, for all that a loss depends on.  Within
`without_values()` the device is PyTorch's "meta": nothing is pretended there but random numbers and what the host reads,
and the way back is the real one.
"""
import contextlib
import functools
import sys
from collections import Counter
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


reads = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default)
# rows may be named on the host
indexing = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class HostWaits(AssertionError):
    "The host waits for the device where it must not"


class PretendGenerator(torch.Generator):
    "A generator of random numbers that says that it is on another device"
    def __new__(cls, device='cpu'):
        g = super().__new__(cls, 'cpu')
        g.where = torch.device(device)
        return g

    def __init__(self, device='cpu'): pass
    device = property(lambda self: self.where)

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


class Pretend(TorchDispatchMode):
    "Runs on the CPU what is on the CPU, and without data what is on the device; needs a `FakeTensorMode` around it"
    def __init__(self, fake, allowed, answer):
        super().__init__()
        self.fake, self.allowed, self.answer = fake, allowed, answer
        self.waits = Counter()         # by function

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        there = [t for t in tree_leaves((args, kwargs)) if isinstance(t, FakeTensor)]
        to = kwargs.get('device')
        to_host = to is not None and torch.device(to).type == 'cpu'
        if not there and (to is None or to_host):
            with unset_fake_temporarily(): return func(*args, **kwargs)
        if func in reads: return self.read(there[0], number=True)
        if to_host: return self.read(there[0], kwargs.get('dtype'))
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], FakeTensor):
            with unset_fake_temporarily(): return args[0].copy_(self.read(args[1]))
        if func is torch.ops.aten._to_copy.default and not there: self.wait('send a tensor there')
        if func in indexing and any(torch.is_tensor(i) and not isinstance(i, FakeTensor) for i in args[1]):
            self.wait('send rows there')
        device = torch.device(to or there[0].device).type
        return func(*tree_map(lambda v: self.without_data(v, device), args),
                    **{k: tree_map(lambda v: self.without_data(v, device), v) for k, v in kwargs.items()})

    def without_data(self, v, device):
        "An argument as an operation on the device is given it"
        if isinstance(v, torch.Generator):
            if v.device.type != device:
                raise RuntimeError(f"a generator on {v.device} cannot draw on device {device}")
            return None
        return self.fake.from_tensor(v.detach()) if torch.is_tensor(v) and not isinstance(v, FakeTensor) else v

    def wait(self, why):
        "Count a wait, if it is allowed"
        where = function_here()
        if where not in self.allowed: raise HostWaits(f'{where} waits for the device, to {why}')
        self.waits[where] += 1
        return where

    def read(self, t, dtype=None, number=False):
        "Made-up values for the host"
        where = self.wait(f'read a tensor of shape {tuple(t.shape)}')
        with unset_fake_temporarily():
            found = self.answer(t, where).to(dtype or t.dtype)
            return found.item() if number else found


def made_up(t, where):
    "A half, or True"
    return torch.full(t.shape, True if t.dtype == torch.bool else .5)


class Shapes(Pretend):
    "Runs on the meta device what is there, and complains of what would mix it with the CPU"
    def __init__(self, allowed, answer): super().__init__(None, allowed, answer)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        found = {t.device.type: t for t in leaves if torch.is_tensor(t)}
        to = torch.device(kwargs.get('device') or next(iter(found), 'cpu')).type
        if to != 'meta' and 'meta' not in found: return func(*args, **kwargs)
        if func in reads: return self.read(found['meta'], number=True)
        if to == 'cpu' and 'device' in kwargs and kwargs['device'] is not None:
            return self.read(found['meta'], kwargs.get('dtype'))
        if func is torch.ops.aten.copy_.default and args[0].device.type == 'cpu':
            return args[0].copy_(self.read(args[1]))
        if 'cpu' in found and (func in indexing or func is torch.ops.aten._to_copy.default):
            self.wait('send a tensor there')
        elif len({t.device.type for t in leaves if torch.is_tensor(t) and t.ndim}) > 1:
            raise RuntimeError(f'{function_here()}: {func} is given tensors of two devices')
        if func is torch.ops.aten._fused_adam_.default: return None       # has no kernel there
        def checked(v):
            if not isinstance(v, torch.Generator): return v
            if v.device.type != 'meta':
                raise RuntimeError(f'{function_here()}: a generator on {v.device} cannot draw on device meta')
            return None
        return shapes_of(func, tree_map(checked, args), tree_map(checked, kwargs))


@functools.cache
def makes_new_tensors(func):
    "Does it neither change its arguments nor look at them in another way?"
    return not any(v.alias_info for v in (*func._schema.arguments, *func._schema.returns))


def outline(v):
    "What the shape of a result can depend on"
    if torch.is_tensor(v): return v.shape, v.stride(), v.dtype, v.device.type
    if isinstance(v, (list, tuple)): return tuple(map(outline, v))
    return type(v), v


found_shapes = {}      # PyTorch takes long to find out, and most networks here are alike


def shapes_of(func, args, kwargs):
    "What `func` returns on the meta device"
    if not makes_new_tensors(func): return func(*args, **kwargs)
    key = func, outline(args), tuple((k, outline(v)) for k, v in kwargs.items())
    if key not in found_shapes:
        found = func(*args, **kwargs)
        found_shapes[key] = tree_map(lambda t: functools.partial(torch.empty_strided, t.shape, t.stride(),
            dtype=t.dtype, device=t.device) if torch.is_tensor(t) else t, found)
        return found
    return tree_map(lambda v: v() if isinstance(v, functools.partial) else v, found_shapes[key])


@contextlib.contextmanager
def without_values(
    allowed=(),      # as in `pretended`
    answer=made_up,
):
    "Within, what is on the device 'meta' learns and samples without values; yields what counts the waits"
    mode = Shapes(allowed, answer)
    fused = sys.modules['torch.optim.optimizer']._get_fused_kernels_supported_devices
    with contextlib.ExitStack() as here:
        here.enter_context(mock.patch.object(sys.modules['torch.optim.optimizer'],
                                             '_get_fused_kernels_supported_devices',
                                             lambda: [*fused(), 'meta']))
        here.enter_context(mock.patch.object(torch, 'Generator', PretendGenerator))
        # nor does the library
        here.enter_context(mock.patch.object(sys.modules['dcd_nb.diffusion'], 'pick_device', torch.device))
        # knows no such device
        here.enter_context(mock.patch.object(torch, 'autocast', lambda *args, **kw: contextlib.nullcontext()))
        here.enter_context(mode)
        yield mode


def function_here():
    "The function of the library or of a test in which we are: 'training.loop:report'"
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get('__name__', '')
        if name.startswith(('dcd_nb.', 'test_')):
            return f"{name.removeprefix('dcd_nb.')}:{frame.f_code.co_qualname.split('.<locals>')[0].split('.')[-1]}"
        frame = frame.f_back
    return 'elsewhere'


def depends_on(tensors):
    "The nodes of the graph that `tensors` were made by"
    left, seen = [t.grad_fn for t in tensors if t.grad_fn is not None], set()
    while left:
        node = left.pop()
        if node in seen: continue
        seen.add(node)
        left += [n for n, _ in node.next_functions if n is not None]
    return seen


def backward(loss, *args, **kw):
    "Gradients of zeros for the parameters that `loss` depends on"
    assert loss.ndim == 0 and loss.requires_grad, 'a loss must be a number that has a gradient'
    for node in depends_on([loss]):
        if hasattr(node, 'variable'):
            p = node.variable
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad + torch.zeros_like(p)


def grad(outputs, inputs, grad_outputs=None, create_graph=False, **kw):
    "Zeros for `inputs`, on which `outputs` must depend"
    outputs, inputs = ([t] if torch.is_tensor(t) else [*t] for t in (outputs, inputs))
    reached = depends_on(outputs)
    for t in inputs:
        assert torch.autograd.graph.get_gradient_edge(t).node in reached, 'nothing depends on what the gradient is taken for'
    rest = sum(t.sum()*0 for t in [grad_outputs] if torch.is_tensor(t)) if create_graph else 0
    return tuple(torch.zeros_like(t) + rest for t in inputs)


def swap(a, b):
    "Weights that move to another layout of memory; those that move to another device are new tensors"
    assert a.device == b.device and a.dtype == b.dtype
    a.data = b.data


def for_fakes(stand_in, real):
    "`stand_in` for tensors without data, `real` for the others"
    def f(t, *args, **kw):
        some = t if torch.is_tensor(t) else t[0]
        return (stand_in if isinstance(some, FakeTensor) else real)(t, *args, **kw)
    return f


@contextlib.contextmanager
def pretended(
    allowed=(),      # functions that may wait for the device: 'training.loop:report'
    answer=made_up,  # (tensor, function) -> what it reads
):
    "Within, there is a CUDA device; yields what counts the waits"
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    mode = Pretend(fake, allowed, answer)
    nothing = lambda *args, **kw: None
    cuda = dict(is_available=lambda: True, device_count=lambda: 1,
                get_device_name=lambda device=None: 'a GPU that is not there',
                manual_seed=nothing, synchronize=nothing, set_device=nothing,
                get_rng_state=lambda device=None: torch.zeros(1, dtype=torch.uint8),
                set_rng_state=nothing, max_memory_allocated=lambda device=None: 0,
                is_bf16_supported=lambda including_emulation=True: True,
                device=lambda device: contextlib.nullcontext())
    here = contextlib.ExitStack()
    own = dict(backward=backward, tolist=lambda t: mode.read(t).tolist(), numpy=lambda t,
               **kw: mode.read(t).numpy())
    with here, fake:
        for k, v in cuda.items(): here.enter_context(mock.patch.object(torch.cuda, k, v))
        for k, v in own.items(): here.enter_context(mock.patch.object(FakeTensor, k, v))
        here.enter_context(mock.patch.object(torch.autograd, 'grad', for_fakes(grad, torch.autograd.grad)))
        here.enter_context(mock.patch.object(torch.utils, 'swap_tensors',
                                             for_fakes(swap, torch.utils.swap_tensors)))
        here.enter_context(mock.patch.object(torch, 'Generator', PretendGenerator))
        here.enter_context(mode)
        yield mode
