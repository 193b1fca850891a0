"""The paper's recipes beside the official loops, which are written out here from what is known of them.

Official losses are sums over the pixels of an image, averaged over the batch; the generator's is multiplied by 100. Gradients lose what is not finite, are cut to a length
where a length is given, and go to Adam with the official eps. The random numbers, and the order of the observations, are the library's.
"""
import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dcd_nb import checkpoint
from dcd_nb.draws import hash32
from dcd_nb.errors import BadInput
from dcd_nb.data import digits
from dcd_nb.diffusion import ClampedLogNormal
from dcd_nb.distill import Generator, Student, distill, resized_copy
from dcd_nb.losses import SiD
from dcd_nb.networks import MLP, Network, Precond
from dcd_nb.objectives import AmbientInpainting, AmbientTweedie
from dcd_nb.operators import Corruption, Identity
from dcd_nb.recipes import recipe, recipes
from dcd_nb.training import BatchFeed, Checkpoints, Hardware, Learner, StepContext, RunFolder, Teacher, read_recipe, train

bin = Path(sys.executable).parent
papers = [name for name in recipes() if name.startswith(('cifar10', 'ffhq', 'celebahq', 'afhqv2', 'fastmri'))
          and not name.endswith(('-small', '-cpu'))]


# The settings, in the units of the official losses

@pytest.mark.parametrize('name', papers)
def test_what_adam_adds_and_where_gradients_end_are_the_official_numbers(name):
    r = recipe(name)
    d, pixels = r.distill, math.prod(r.teacher_shape())                    # of what the losses compare
    eps = 1e-8 if 'cifar10' in name else 1e-6
    clip = 1. if 'mask' in name or 'fastmri' in name else None
    assert d['eps']*pixels*100 == pytest.approx(eps)
    assert d['fake']['eps']*pixels == pytest.approx(eps)
    assert r.train['eps']*pixels == pytest.approx(1e-8)
    for part in (r.train, d['fake']):
        assert part['clip'] is clip if clip is None else part['clip']*pixels == pytest.approx(clip)
    # the generator's gradient is never cut
    assert 'clip' not in d


def test_super_resolution_compares_small_images():
    small, large = recipe('celebahq-sr'), recipe('celebahq-noise-0.2')
    assert small.distill['eps'] == pytest.approx(4*large.distill['eps'])
    assert small.distill['fake']['eps'] == pytest.approx(4*large.distill['fake']['eps'])


@pytest.mark.parametrize('name, dropout', [('ffhq-noise-0.2', .05), ('celebahq-noise-0.2', .05),
                                           ('celebahq-blur', .05), ('celebahq-sr', .05),
                                           ('celebahq-mask-0.9', .05),
                                           ('afhqv2-noise-0.2', .05), ('cifar10-noise-0.2', .13),
                                           ('cifar10-mask-0.6', .13), ('fastmri-R4', .1)])
def test_dropout_of_phase_two_is_the_official_one(name, dropout):
    assert recipe(name).distill['dropout'] == dropout


# The loops

batch, sigma_d = 4, .5


def denoise(net, x, s):
    "EDM's denoiser around the network of a `Precond`"
    s = s.view(-1, 1, 1, 1)
    total = (s**2 + sigma_d**2).sqrt()
    return sigma_d**2/total**2*x + s*sigma_d/total*net.net(x/total, s.flatten().log()/4)


def official_step(opt, net, loss, clip=None):
    "Gradients of `loss`, cleaned, cut to length `clip`, and Adam's step"
    opt.zero_grad()
    loss.backward()
    for p in net.parameters(): torch.nan_to_num(p.grad, nan=0, posinf=1e5, neginf=-1e5, out=p.grad)
    if clip: torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
    opt.step()


def official_diffusion_loss(net, y, sigma, draws):
    "The loss of teacher and fake: a sum over pixels and batch, divided by the batch"
    s = (-1.2 + 1.2*torch.special.ndtri(draws.uniform(len(y)))).exp().clamp(min=sigma).to(y).view(-1, 1, 1, 1)
    y_s = y + (s**2 - sigma**2).sqrt()*draws.normal(y)
    x = denoise(net, y_s, s)
    mix = (1 - sigma**2/s**2)*x + sigma**2/s**2*y_s
    weight = (s**2 + sigma_d**2)/(s*sigma_d)**2
    return (weight*(mix - y)**2).sum()/len(y)


def official_generator_loss(teacher, fake, y, alpha, draws):
    "SiD: a sum over pixels and batch, times 100, divided by the batch"
    u = draws.uniform(len(y))*.8
    s = (80**(1/7) + (1 - u)*(.002**(1/7) - 80**(1/7)))**7
    s = s.to(y)
    y_s = y + s.view(-1, 1, 1, 1)*draws.normal(y)
    a, b = denoise(teacher, y_s, s), denoise(fake, y_s, s)
    w = (y - a).detach().abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-5)
    return 100*((a - b)*((a - y) - alpha*(a - b))/w).sum()/len(y)


def learns(net, on): return net.train(on).requires_grad_(on)


def official_phase_one(net, ys, steps, clip):
    "The weights of the teacher after `steps`"
    net = learns(copy.deepcopy(net), True)
    opt, feed = torch.optim.Adam(net.parameters(), 2e-4, (.9, .999), 1e-8), BatchFeed(ys, 0, flip=True)
    for k in range(steps):
        torch.manual_seed(hash32(0, k, 0, 2))                               # dropout
        part, = StepContext(k, batch, steps*batch).micro_batches()
        official_step(opt, net, official_diffusion_loss(net, feed(part).y, ys.sigma, part.draws), clip)
    return net


def official_phase_two(teacher, ys, steps, alpha, lr, beta1, eps, clip, dropout):
    "The weights of fake and generator after `steps` of each"
    fake, G = copy.deepcopy(teacher), resized_copy(teacher, ys.shape)
    for net in (fake, G): [setattr(m, 'p', dropout) for m in net.modules() if isinstance(m, torch.nn.Dropout)]
    opts = [torch.optim.Adam(net.parameters(), lr, (beta, .999), eps)
            for net, beta in ((fake, 0.), (G, beta1))]
    make = lambda draws: denoise(G, 2.5*draws.normal(torch.empty(batch, *ys.shape)),
                                 torch.full((batch,), 2.5))
    for k in range(steps):
        torch.manual_seed(hash32(0, k, 0, 2))
        now = StepContext(k, batch, steps*batch)
        learns(G, False), learns(fake, True)
        draws = now.micro_batches(1)[0].draws
        x = make(draws)
        y = ys.corruption.recorrupt(x, draws).y
        official_step(opts[0], fake, official_diffusion_loss(fake, y, ys.sigma, draws), clip)
        learns(G, True), learns(fake, False)
        draws = now.micro_batches(0)[0].draws
        y = ys.corruption.recorrupt(make(draws), draws, noise=False).y
        official_step(opts[1], G, official_generator_loss(teacher, fake, y, alpha, draws))
    return fake, G


def short(name, **changes):
    "The recipe `name` with a small network, few images, and where the library has its own ways, the official one"
    r = recipe(name)
    small = dict(channels=8, mult=(1, 1, 1), blocks=1, attn=())
    changes = dict(network=r.network | small, train__batch=batch, distill__batch=batch,
                   train__sigma_d=sigma_d) | changes
    return recipe(name, objective={'levels': ClampedLogNormal(r.corruption.sigma)}, **changes)


def photographs():
    "Smooth images of the size of the paper's"
    x = torch.nn.functional.interpolate(digits()[:48].view(16, 3, 8, 8), scale_factor=8, mode='bicubic')
    return x.clamp(-1, 1)


def far(found, want):
    "How far the weights are from what they should be, as a part of all weights"
    a, b = (torch.cat([v[k].flatten() for k in sorted(want)]) for v in (found, want))
    return ((a - b).norm()/b.norm()).item()


def weights(folder, name):
    return {k.removeprefix(f'{name}.net.'): v for k, v in checkpoint.load(folder)[0].items()
            if k.startswith(f'{name}.net.')}


# alpha, learning rate, Adam's first beta for the generator
settings = dict(celebahq=(1.2, 1e-5, .9), afhqv2=(1., 5e-6, 0.))
# as entries of a recipe, and as arguments
quiet = dict(device='cpu', compile=False, quiet=True, monitor=False, grid=0, checkpoint_every=10**6)
same = dict(hardware=Hardware('cpu', 'fp32', compile=False),
            checkpoints=Checkpoints(10**6, grid=0, monitor=False), quiet=True)


@pytest.mark.parametrize('name', ['celebahq-noise-0.2', 'afhqv2-noise-0.2', 'celebahq-sr'])
def test_weights_follow_the_official_loop(name, tmp_path):
    r = short(name)
    ys = r.corruption.measure(photographs())
    r.teacher(ys, out=tmp_path/'one', images=20*batch, precision='fp32', **quiet)
    first = Precond(r.network_for(r.teacher_shape()), sigma_d, 'fp32')
    want = official_phase_one(first, ys, 20, None)
    assert far(weights(tmp_path/'one', 'teacher'), want.state_dict()) < 2e-6

    teacher = Teacher.load(tmp_path/'one', precision='fp32')
    r.student(teacher, ys, out=tmp_path/'two', images=5*batch, **quiet)
    alpha, lr, beta1 = settings[name.split('-')[0]]
    fake, G = official_phase_two(teacher.net, ys, 5, alpha, lr, beta1, 1e-6, None, .05)
    assert far(weights(tmp_path/'two', 'fake'), fake.state_dict()) < 2e-6
    assert far(weights(tmp_path/'two', 'generator'), G.state_dict()) < 2e-6
    # it did move
    assert far(weights(tmp_path/'two', 'generator'), resized_copy(teacher.net, ys.shape).state_dict()) > 1e-5


class SumInpainting(AmbientInpainting):
    "As the official code counts: summed over the pixels"
    def loss(self, net, batch, draws=None): return super().loss(net, batch, draws)*batch.y[0].numel()


class SumSiD(SiD):
    "As the official code counts: summed over the pixels, times 100"
    def terms(self, teacher, fake, y, *args, **kw):
        loss, gap = super().terms(teacher, fake, y, *args, **kw)
        return loss*100*y[0].numel(), gap


def test_limits_of_masks_are_those_of_sums(tmp_path):
    "In both phases the gradient of a sum is longer than 1, so the limit counts in every step"
    r = short('celebahq-mask-0.6')
    A = r.corruption
    ys, sums = A.measure(photographs()), SumInpainting(A.op.missing, levels=ClampedLogNormal(0.))
    r.teacher(ys, out=tmp_path/'one', images=20*batch, precision='fp32', **quiet)
    net = r.network_for(r.teacher_shape(), r.objective_for().extra_channels)
    train(ys, Precond(net, sigma_d), sums, images=20*batch, batch=batch, flip=True, lr=2e-4, eps=1e-8,
          clip=1., out=tmp_path/'one-sums', **same)
    assert min(l['grad'] for l in _lines(tmp_path/'one-sums') if 'grad' in l) > 1
    assert far(weights(tmp_path/'one', 'teacher'), weights(tmp_path/'one-sums', 'teacher')) < 2e-6

    teacher = Teacher.load(tmp_path/'one', precision='fp32')
    r.student(teacher, ys, out=tmp_path/'two', images=5*batch, **quiet)
    distill(Teacher(teacher.net, sums), ys, SumSiD(1.2), images=5*batch, batch=batch,
            student=Student(dropout=.05), lr=1e-5, betas=(.9, .999), eps=1e-6,
            fake=dict(betas=(0., .999), clip=1.), out=tmp_path/'two-sums', **same)
    assert min(l['fake_grad'] for l in _lines(tmp_path/'two-sums') if 'fake_grad' in l) > 1
    for name in ('fake', 'generator'):
        assert far(weights(tmp_path/'two', name), weights(tmp_path/'two-sums', name)) < 2e-6


def _lines(folder): return [json.loads(line) for line in (folder/'metrics.jsonl').read_text().splitlines()]


# Dropout of Phase II

@pytest.fixture(scope='module')
def noisy():
    "Noisy digits, and a teacher with dropout"
    ys = Corruption(Identity(), .5).measure(digits()[:200])
    torch.manual_seed(0)
    return ys, train(ys, MLP((1, 8, 8), width=32, blocks=1, dropout=.3), images=640, batch=64, quiet=True)


def test_dropout_is_that_of_fake_and_generator_alone(noisy, tmp_path, monkeypatch):
    ys, teacher = noisy
    seen = {}
    before = Learner.step
    def note(self, loss, now, key=0):
        seen.setdefault(key, {m.p for m in self.net.modules() if isinstance(m, torch.nn.Dropout)})
        return before(self, loss, now, key)
    monkeypatch.setattr(Learner, 'step', note)
    run = lambda name, **kw: distill(teacher, ys, SiD(.5), images=320, batch=32, lr=1e-3, out=tmp_path/name,
                                     quiet=True, checkpoints=Checkpoints(monitor=False), **kw)
    run('none', student=Student(dropout=0.))
    assert seen == {0: {0.}, 1: {0.}} and teacher.net.net.args['dropout'] == .3
    plan = read_recipe(tmp_path/'none')
    assert plan['dropout'] == 0. and plan['net']['net']['dropout'] == 0.
    assert Generator.load(tmp_path/'none').net.net.args['dropout'] == 0.
    seen.clear()
    run('teachers')
    assert seen == {0: {.3}, 1: {.3}} and read_recipe(tmp_path/'teachers')['net']['net']['dropout'] == .3
    assert run('same', student=Student(dropout=.3)).cost['weights_sha256'] == read_results(tmp_path/'teachers')['weights_sha256'] != read_results(tmp_path/'none')['weights_sha256']


def read_results(folder): return json.loads((folder/'results.json').read_text())


def test_dropout_does_not_touch_the_callers_random_numbers(noisy):
    torch.manual_seed(0)
    a = torch.rand(3)
    torch.manual_seed(0)
    distill(noisy[1], noisy[0], SiD(.5), student=Student(dropout=.1), images=32, batch=32, quiet=True,
            checkpoints=Checkpoints(monitor=False))
    assert torch.equal(torch.rand(3), a)


def test_a_run_from_before_there_was_a_dropout_goes_on(noisy, tmp_path, monkeypatch):
    go = lambda: distill(noisy[1], noisy[0], SiD(.5), images=640, batch=32, lr=1e-3, out=tmp_path/'run',
                         resume=True, quiet=True, checkpoints=Checkpoints(monitor=False)).cost
    init = RunFolder.__init__
    with monkeypatch.context() as m:
        m.setattr(RunFolder, '__init__', lambda self, out, plan,
                  *args: init(self, out, {k: v for k, v in plan.items() if k != 'dropout'}, *args))
        whole = go()
    assert 'dropout' not in read_recipe(tmp_path/'run')
    last = max((tmp_path/'run').glob('checkpoint-*.json'))
    for path in (last, last.with_suffix('.safetensors')): path.unlink()
    again = go()
    assert again['resumed_at'] < 640 and again['weights_sha256'] == whole['weights_sha256']


@pytest.mark.parametrize('dropout', [-.1, 1, 'no', math.nan, True])
def test_a_wrong_dropout_is_one_sentence(dropout):
    with pytest.raises(BadInput, match='dropout=.*must be at least 0 and below 1') as e:
        Student(dropout=dropout)
    assert str(e.value).count('\n') == 0


class Plain(Network):
    "A network that knows no dropout"
    def __init__(self, width=4, classes=0):
        super().__init__(locals())
        self.shape, self.in_channels, self.out_channels = (1, 8, 8), 1, 1
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)
    def forward(self, x, noise_label, class_labels=None, augment_labels=None): return self.conv(x)


def test_a_network_without_dropout_says_so(noisy):
    teacher = Teacher(Precond(Plain()), AmbientTweedie(.5))
    with pytest.raises(BadInput, match='dropout=0.1 cannot be set: Plain has no argument dropout'):
        distill(teacher, noisy[0], images=64, batch=32, quiet=True, student=Student(dropout=.1))
    assert distill(teacher, noisy[0], images=64, batch=32, quiet=True,
                   checkpoints=Checkpoints(monitor=False)).sample(1).shape == (1, 1, 8, 8)


def test_recipes_and_the_command_line_set_dropout(tmp_path):
    r = recipe('digits-noise', distill__dropout=.07, network=MLP((1, 8, 8), width=16, blocks=1, dropout=.3))
    teacher = r.teacher(images=256, quiet=True, out=tmp_path/'one')
    assert r.student(teacher, images=256, quiet=True, monitor=False).net.net.args['dropout'] == .07
    args = [str(bin/'dcd_distill'), 'one', '--out', 'two', '--images', '256', '--json', '--set',
            'dropout=.08']
    done = subprocess.run(args, cwd=tmp_path, env=os.environ | dict(OMP_NUM_THREADS='1'), capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert Generator.load(tmp_path/'two').net.net.args['dropout'] == .08
