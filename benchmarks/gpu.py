"""The parts of gpu.sh; each writes what it has found as soon as it has found it.

    python benchmarks/gpu.py checks | speeds | run --out FOLDER [--seconds S] [--tiny] ...
"""
import time
began = time.monotonic()      # what is imported below takes ten seconds on a machine that has just started

import argparse
import copy
import gc
import json
import statistics
import traceback
from pathlib import Path

import torch

from dcd_nb.distill import DistillationStep, Generator
from dcd_nb.distributed import utilisation
from dcd_nb.files import atomic
from dcd_nb.losses import SiD
from dcd_nb.machine import made_with
from dcd_nb.networks import flops, Precond, UNet
from dcd_nb.objectives import AmbientTweedie
from dcd_nb.operators import Batch, Corruption, Identity
from dcd_nb.recipes import recipe
from dcd_nb.runs import run_recipe
from dcd_nb.training import Hardware, Learner, Loop, speed_up, StepContext, Teacher
from dcd_nb.training.hardware import compiler_failed

cuda = torch.cuda.is_available()
device = torch.device('cuda' if cuda else 'cpu')


class Page(dict):
    "What a part has found, in a JSON file that is whole at any moment"
    def __init__(self, a, name):
        super().__init__(made_with=made_with(), images=a.images)
        self.path, self.end = Path(a.out)/f'{name}.json', began + a.seconds

    def left(self): return self.end - time.monotonic()

    def note(self, key, value):
        self[key] = value
        with atomic(self.path) as tmp: tmp.write_text(json.dumps(self, indent=1))
        print(f'{key}: {value}', flush=True)


def tried(f, *args):
    "What `f` returns, or how it failed"
    try: return f(*args)
    except Exception as e:
        traceback.print_exc()
        return dict(error=f'{type(e).__name__}: {e}'[:500])


# Checks

def without_waits(advance):
    "`Loop.advance`, in which PyTorch raises an error if the host waits for the device"
    def strict(self, total=None):
        if not cuda: return advance(self, total)
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode('error' if self.at['step'] else before)     # a first step makes what is kept
        try: return advance(self, total)
        finally: torch.cuda.set_sync_debug_mode(before)
    return strict


def check(r, ys, precision, compile):
    "A few steps of both phases, and samples"
    small = {f'{phase}.images': 96 for phase in ('train', 'distill')}
    r, on = r.override(small), Hardware(device, precision, compile)
    T = r.teacher(ys, quiet=True, grid=0, hardware=on)
    G = r.student(T, ys, quiet=True, grid=0, monitor=False, hardware=on)
    finite = bool(G.sample(4).isfinite().all() and T.sample(4, steps=3).isfinite().all())
    found = dict(finite=finite, skipped=T.cost['skipped'] + G.cost['skipped'], loss=[l['loss'] for l in T.history if 'loss' in l])
    return found | because(compile)


def because(compile):
    "Why a row that should be of a compiled network is not, if so"
    return dict(not_compiled=compiler_failed()) if compile and compiler_failed() else {}


def checks(a):
    "Every kind of recipe, in float32, in bf16, and one of them compiled"
    from device_cases import cases, observed
    page, Loop.advance = Page(a, 'checks'), without_waits(Loop.advance)
    names, precisions = (['noise'], ['fp32']) if a.tiny else ([*cases], ['fp32', 'bf16'])
    todo = [(name, precision, False) for precision in precisions for name in names]
    for name, precision, compile in todo + [('mask', 'bf16', True)]*(not a.tiny):
        if page.left() < 3: break
        page.note(f'{name}, {precision}' + ', compiled'*compile, tried(check, cases[name], observed(cases[name], 200), precision, compile))


# Speeds

def seconds_each(step, seconds, least=3):
    "The median over steps, after two that do not count"
    found, end = [], time.monotonic() + seconds
    for k in range(10**6):
        start = time.perf_counter()
        step(k)
        if cuda: torch.cuda.synchronize()
        if k > 1: found.append(time.perf_counter() - start)
        if len(found) >= least and time.monotonic() > end: return statistics.median(found)


def networks(a, n, precision, compile):
    "Networks of EDM's size for CIFAR-10, on the device"
    entries = UNet.sizes['cifar10'] | dict(augment_dim=0, dropout=.13)
    if a.tiny: entries |= dict(channels=4, mult=(1, 1, 1), blocks=1, attn=())
    torch.manual_seed(0)
    nets = [Precond(UNet(**entries))]
    nets += [copy.deepcopy(nets[0]) for _ in range(n - 1)]
    speed_up(nets, device, Hardware(device, precision, compile, threads=torch.get_num_threads()))
    return nets


def row(each, batch, work, **more):
    "What is said of a step"
    found = dict(batch=batch, img_per_s=round(batch/each, 1), mfu=utilisation(batch/each, work, device), **more)
    if cuda: found['memory_gb'] = round(torch.cuda.max_memory_allocated()/1e9, 2)
    return found


def phase_one(a, batch, precision, compile):
    "A step of Phase I, and the part of it that is outside of the network"
    [net] = networks(a, 1, precision, compile)
    learner, objective = Learner(net), AmbientTweedie(.2)
    y, s = torch.randn(batch, *net.shape, device=device), torch.ones(batch, device=device)
    def loss(part): return objective.loss(net, Batch(y, None), part.draws).mean()
    def step(k): learner.step(loss, StepContext(k, batch, 10**6, device=device))
    def alone(k): net(y, s).square().mean().backward()
    each, inside = (seconds_each(f, .05 if a.tiny else 2.) for f in (step, alone))
    return row(each, batch, 3*flops(net), outside=round(1 - inside/each, 4), **because(compile))


def phase_two(a, batch, precision, compile):
    "A step of Phase II"
    teacher, fake, G = networks(a, 3, precision, compile)
    learners = [Learner(net, halflife=h) for net, h in ((fake, None), (G, 500_000))]
    step = DistillationStep(Teacher(teacher, AmbientTweedie(.2)), Corruption(Identity(), .2), SiD(), *learners, 2.5, 1)
    each = seconds_each(lambda k: step(StepContext(k, batch, 10**6, device=device)), .05 if a.tiny else 2.)
    return row(each, batch, step.work(), **because(compile))


def edms(a, batch):
    "EDM's own code, as it is shipped"
    from cpu import edms as rate
    torch.set_default_device(device)
    cudnn_tries(True)                               # so it is shipped
    try: return row(batch/rate(a.edm, UNet.sizes['cifar10'], batch, 8), batch, 3*flops(networks(a, 1, 'fp32', False)[0]))
    finally:
        torch.set_default_device(None)
        cudnn_tries(False)


def sampling(a):
    "Seconds for 50 000 images: one call of the student, and 35 of the teacher, as many as there is time for"
    [net] = networks(a, 1, 'bf16' if cuda else 'fp32', False)
    T, n = Teacher(net, AmbientTweedie(0.)), 16 if a.tiny else 2000
    found = {}
    for who, make in dict(student=Generator(net, T.objective).sample, teacher=lambda n: T.sample(n, batch=1000)).items():
        make(16)
        start = time.perf_counter()
        make(n)
        found[who] = round((time.perf_counter() - start)*50_000/n, 2)
    return found | dict(measured_on=n, times=round(found['teacher']/found['student'], 1))


def tf32(on):
    "Round float32 to TF32 in products and convolutions?"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def cudnn_tries(on):
    "Let cuDNN try its algorithms for each new shape?"
    torch.backends.cudnn.benchmark = on


def speeds(a):
    "Tables in the order of their value; those that wait for the compiler come last"
    page, sizes = Page(a, 'speeds'), [8] if a.tiny else [512, 256, 128, 1024]
    bf16 = 'bf16' if cuda else 'fp32'
    tf32(False)
    def phase(f, name, batch, precision, compile):
        gc.collect()                                # networks and their optimisers know each other
        if cuda: torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
        kind = f'{name}, {precision}' + ', compiled'*compile
        if page.left() > (1 if a.tiny else 8): page.note(f'{kind}, batch {batch}', tried(f, a, batch, precision, compile))
    phase(phase_one, 'Phase I', sizes[0], bf16, False)
    phase(phase_two, 'Phase II', sizes[0]//2, bf16, False)
    if a.edm and page.left() > 10: page.note(f'EDM as shipped, batch {sizes[0]}', tried(edms, a, sizes[0]))
    if page.left() > 2: page.note('seconds for 50 000 images', tried(sampling, a))
    if a.tiny: return
    phase(phase_one, 'Phase I', sizes[0], 'fp32', False)
    tf32(True)
    phase(phase_one, 'Phase I, TF32', sizes[0], 'fp32', False)
    tf32(False)
    cudnn_tries(True)
    phase(phase_one, 'Phase I, cuDNN tries', sizes[0], bf16, False)
    cudnn_tries(False)
    for batch in sizes[1:]: phase(phase_one, 'Phase I', batch, bf16, False)
    phase(phase_one, 'Phase I', sizes[0], bf16, True)
    phase(phase_two, 'Phase II', sizes[0]//2, bf16, True)


# The run

def run(a):
    "Both phases, the comparison, and its record"
    left = a.seconds - (time.monotonic() - began)
    r, n, minutes = recipe(a.recipe), 50_000, max(20, left - 60)/60     # to read the images, and to judge
    if a.tiny:
        r = r.override({'network.width': 16, 'train.images': 512, 'train.batch': 64, 'distill.images': 512, 'distill.batch': 64})
        n, minutes = 64, None
    torch.manual_seed(0)
    results = run_recipe(r, a.work, minutes, a.data, n=n, device=device, quiet=True)
    with atomic(Path(a.work)/'record/results.json') as tmp: tmp.write_text(json.dumps(results | dict(data=a.images), indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('part', choices=('checks', 'speeds', 'run'))
    parser.add_argument('--out', required=True)
    parser.add_argument('--seconds', type=float, default=600.)
    parser.add_argument('--work', help='folder of the run')
    parser.add_argument('--recipe', default='cifar10-noise-0.2-small')
    parser.add_argument('--data', help='images of the run')
    parser.add_argument('--images', default='', help='what they are, for the record')
    parser.add_argument('--edm', help="a clone of EDM's repository")
    parser.add_argument('--tiny', action='store_true', help='everything at its smallest')
    a = parser.parse_args()
    globals()[a.part](a)


if __name__ == '__main__': main()
