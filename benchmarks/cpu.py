"""Images per second of a training step on a CPU, by network and precision, and those of EDM's own code.

    python benchmarks/cpu.py [--threads 2] [--steps 12] [--edm FOLDER] [--out FILE]

Whole steps of `Learner` with Ambient Tweedie (noise, loss, gradients, Adam, average of the weights), in float32,
in bf16 and in bf16 with compiled networks; the median over the steps.  With `--edm`, the folder of a clone of EDM's
repository, whole steps of its own network, loss, Adam and average, on the same images, where it has such a network.
Nothing else should run on the machine.
"""
import argparse
import copy
import json
import statistics
import sys
import time
import warnings

import torch

from dcd_nb.machine import made_with
from dcd_nb.networks import num_params, Precond, Transformer, UNet
from dcd_nb.objectives import AmbientTweedie
from dcd_nb.operators import Batch
from dcd_nb.training import Hardware, Learner, speed_up, StepContext

small, edm = dict(resolution=28, in_channels=1), dict(resolution=32, in_channels=3)
networks = {  # name: (class, arguments, batch)
    'U-Net, 28x28': (UNet, small | dict(channels=32, mult=(1, 2, 2), blocks=1, attn=()), 128),
    'U-Net on squares of 2x2 pixels, 28x28': (
        UNet, small | dict(channels=64, mult=(1, 2), blocks=2, patch_size=2), 128),
    'transformer, 28x28': (Transformer, small | dict(patch=4, width=192, depth=6), 128),
    "EDM's U-Net, 32x32": (UNet, edm | dict(channels=64, mult=(2, 2, 2), blocks=2, attn=(16,)), 32)}


def rate(step, batch, steps):
    "Images per second: the median over `steps` steps, after two that do not count"
    for k in range(2): step(k)
    seconds = []
    for k in range(steps):
        start = time.perf_counter()
        step(k + 2)
        if torch.cuda.is_available(): torch.cuda.synchronize()          # gpu.py uses this, too
        seconds.append(time.perf_counter() - start)
    return batch/statistics.median(seconds)


def ours(kind, entries, batch, steps, hardware):
    torch.manual_seed(0)
    net = Precond(kind(**entries))
    speed_up([net], torch.device('cpu'), hardware)
    learner, objective = Learner(net), AmbientTweedie(.2)
    y = torch.randn(batch, *net.shape)

    def step(k):
        def loss(part): return objective.loss(net, Batch(y, None), part.draws).mean()
        learner.step(loss, StepContext(k, batch, 10**6))

    return rate(step, batch, steps), num_params(net)


def edms(folder, entries, batch, steps):
    sys.path.insert(0, folder)
    from training.loss import EDMLoss
    from training.networks import EDMPrecond
    torch.manual_seed(0)
    net = EDMPrecond(entries['resolution'], entries['in_channels'], label_dim=0,
                     model_type='SongUNet', augment_dim=0, model_channels=entries['channels'],
                     channel_mult=list(entries['mult']), num_blocks=entries['blocks'],
                     attn_resolutions=list(entries['attn']), dropout=0.).train()
    opt, loss = torch.optim.Adam(net.parameters(), 1e-3), EDMLoss()
    ema = copy.deepcopy(net).requires_grad_(False)
    y = torch.randn(batch, entries['in_channels'], entries['resolution'], entries['resolution'])

    def step(k):
        opt.zero_grad(set_to_none=True)
        loss(net=net, images=y, labels=None).sum().mul(1/batch).backward()
        for p in net.parameters():
            if p.grad is not None: torch.nan_to_num(p.grad, nan=0, posinf=1e5, neginf=-1e5, out=p.grad)
        opt.step()
        for a, p in zip(ema.parameters(), net.parameters()): a.copy_(p.detach().lerp(a.detach(), .999))

    with warnings.catch_warnings(action='ignore'): return rate(step, batch, steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--steps', type=int, default=12)
    parser.add_argument('--edm', help="a clone of EDM's repository")
    parser.add_argument('--out', help='a JSON file')
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    print(made_with(), f'{a.threads} threads')
    found = []
    for name, (kind, entries, batch) in networks.items():
        rates = {}
        if a.edm and kind is UNet and entries.get('patch_size', 1) == 1:    # others EDM does not have
            with torch.enable_grad(): rates['EDM, float32'] = edms(a.edm, entries, batch, a.steps)
        ways = {'float32': ('fp32', False), 'bf16': ('bf16', False), 'bf16, compiled': ('bf16', True)}
        for way, (precision, compiled) in ways.items():
            hardware = Hardware('cpu', precision, compiled, a.threads)
            rates[way], size = ours(kind, entries, batch, a.steps, hardware)
        found.append(dict(network=name, parameters=size, batch=batch, images_per_second=rates))
        first = next(iter(rates.values()))
        print(f'\n{name}, {size/1e6:.2f} M parameters, batch {batch}')
        for way, r in rates.items(): print(f'    {way:16s} {r:8.1f} images/s   {r/first:5.2f} x', flush=True)
    if a.out:
        said = dict(made_with=made_with(), threads=a.threads, steps=a.steps, networks=found)
        with open(a.out, 'w') as f: json.dump(said, f, indent=1)


if __name__ == '__main__': main()
