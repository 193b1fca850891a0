"""What a training step spends its time on.

    python benchmarks/step.py [steps] [batch] [threads]

A U-Net of 3 million parameters on 32x32 colour images, Ambient Tweedie and Ambient Inpainting, on the CPU (or a
GPU, where parts are timed with synchronisation).  Data, random numbers, average of the weights and reports together
should cost less than 5 % of a step; the optimiser is listed apart.
"""
import collections
import functools
import json
import sys
import time

import torch

from dcd_nb import networks, training
from dcd_nb.draws import Draws
from dcd_nb.machine import made_with
from dcd_nb.networks import UNet, num_params
from dcd_nb.objectives import objective_for
from dcd_nb.operators import Corruption, Identity, RandomMask


def timed(spent, name, f):
    @functools.wraps(f)
    def run(*args, **kw):
        start = time.perf_counter()
        try: return f(*args, **kw)
        finally:
            if torch.cuda.is_available(): torch.cuda.synchronize()
            spent[name] += time.perf_counter() - start
    return run


def profile(corruption, steps, batch):
    "Seconds of `steps` training steps, and of their parts"
    torch.manual_seed(0)
    net = UNet(32, 3, channels=32, mult=(2, 2, 2), blocks=3)
    ys = corruption.measure(torch.rand(256, 3, 32, 32)*2 - 1)
    spent, parts = collections.Counter(), {
        (training.BatchFeed, '__call__'): 'data', (Draws, 'normal'): 'random numbers', (Draws, 'uniform'): 'random numbers',
        (networks.EMA, 'update'): 'average of weights', (training.Loop, 'report'): 'reports', (torch.optim.Adam, 'step'): 'optimiser'}
    if hasattr(corruption.op, 'missing'): parts[type(corruption.op), 'further'] = 'corruption'
    kept = {k: getattr(*k) for k in parts}
    try:
        for (cls, name), part in parts.items(): setattr(cls, name, timed(spent, part, kept[cls, name]))
        objective = objective_for(corruption)
        training.train(ys, net, objective, images=2*batch, batch=batch, quiet=True, flip=True)     # warm up
        spent.clear()
        run = training.train(ys, net, objective, images=steps*batch, batch=batch, quiet=True, flip=True).cost
    finally:
        for k, f in kept.items(): setattr(*k, f)
    total = run['seconds']
    print(f"\n{corruption}, {num_params(net)/1e6:.2f} M parameters, batch {batch}: {1000*total/steps:.0f} ms a step, {steps*batch/total:.1f} images/s")
    for k, v in spent.most_common(): print(f'    {k:20s} {100*v/total:5.2f} %')
    overhead = sum(v for k, v in spent.items() if k != 'optimiser')/total
    print(f"    {'all but optimiser':20s} {100*overhead:5.2f} %")
    return dict(corruption=str(corruption), seconds_per_step=total/steps, overhead=overhead, parts={k: v/total for k, v in spent.items()})


if __name__ == '__main__':
    given = [int(a) for a in sys.argv[1:]]
    steps, batch, threads = given + [20, 32, torch.get_num_threads()][len(given):]
    torch.set_num_threads(threads)
    print(made_with(), f'{threads} threads')
    found = [profile(A, steps, batch) for A in (Corruption(Identity(), .2), Corruption(RandomMask(.6), .1))]
    print(json.dumps(dict(made_with=made_with(), steps=steps, batch=batch, threads=threads, runs=found)))
    sys.exit(any(f['overhead'] > .05 for f in found))
