"What would fail on a GPU, or keep it waiting, found on a machine without one: see pretend.py"
import copy
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from device_cases import cases, kinds, observed
from pretend import HostWaits, made_up, pretended, without_values

from dcd_nb import metrics
from dcd_nb.diffusion import Churn
from dcd_nb.distill import DistillationStep, Generator, resized_copy
from dcd_nb.draws import Draws
from dcd_nb.errors import BadInput
from dcd_nb.losses import SiD
from dcd_nb.networks import Precond
from dcd_nb.objectives import AmbientTweedie
from dcd_nb.operators import Batch
from dcd_nb.recipes import recipes
from dcd_nb.restore import Anneal, learn_misfit, Optimise, restore, Sample
from dcd_nb.runs import Judge
from dcd_nb.training import Hardware, Learner, StepContext, Teacher

# Where the host may wait for the device, and why.  Nothing else may, and no step of training
may_wait = {
    'training.hardware:speed_up': 'networks move to the device, once',
    'data.measurements:to': 'observations move there, once',
    'training.feed:_check_mirror': 'four states, once',
    'training.feed:epoch': 'the order of the observations, once in an epoch',
    'operators.separable:_both': 'two matrices, once for each size',
    'networks.unet:resized': 'weights of a network of another size, once',
    'distill.generator:resized_copy': 'the same',
    'distill.generator:with_dropout': 'the same',
    'training.loop:report': 'what the steps found, once in up to 50 steps',
    'training.loop:snapshot': 'a copy of everything, at a checkpoint',
    'files:_bytes': 'the hash of the weights, at the beginning and at the end',
    'distill.generator:sample': 'noise goes there and images come back, a batch at a time',
    'distill.monitors:_weights': 'how far the weights have come, at a checkpoint',
}


# What restoration and metrics need to know to go on, or to say
may_wait_later = {
    'diffusion:sample': 'what the network is shown goes there, a batch at a time',
    'diffusion:_sample': 'noise goes there and images come back, a batch at a time',
    'data.measurements:__getitem__': 'rows of observations, for each part that is restored',
    'data.measurements:_check_chunks': 'whether they are finite, and 0 where they are hidden',
    'operators.states:require_binary': 'whether masks are masks',
    'baselines:matrix_and_masks': 'a matrix, once for each part',
    'restore:restore': 'images come back',
    'errors:require': 'whether they are finite',
    'linalg:conjugate_gradients': 'whether to stop, in each iteration',
    'restore.evidence:__init__': 'a number of the caller, once for each part',
    'restore.evidence:_floor': 'the same',
    'restore.sampler:__init__': 'what the generator is shown, once',
    'restore.sampler:__call__': 'whether a temperature is left',
    'restore.sampler:_learn': 'whether to stop, in each round',
    'restore.method:__call__': 'whether all residuals are small enough',
    'restore.anneal:__call__': 'a number of the diagnostics, at the end',
    'metrics.extractors:_random': 'weights of the features, for each batch',
    'metrics.extractors:_waves': 'the same',
    'metrics.extractors:_classifier': 'the same, once',
    'metrics.extractors:_pca': 'the same, for each batch',
    'metrics.extractors:__call__': 'images go there, a batch at a time',
    'metrics.quality:neighbourhoods': 'numbers that are the result',
    'metrics.quality:kid': 'the same',
    'metrics.quality:inception_score': 'the same',
    'metrics.quality:_pairs': 'the same',
    'metrics.frechet:frechet_of_factors': 'the same',
    'metrics.extractors:sliced_wasserstein': 'the same',
    'metrics.extractors:compare': 'the same',
    'files:_bytes': 'the hash of a reference',
    'runs:__init__': 'rows of the features',
    'runs:__call__': 'the same',
}


gpu = dict(quiet=True, grid=0, checkpoint_every=64)


@pytest.mark.parametrize('name', cases)
def test_both_phases_run_on_a_device_and_wait_for_it_at_reports_alone(name):
    r = cases[name]
    ys = observed(r)
    with pretended(may_wait) as device:
        on = Hardware('cuda', 'bf16' if name in ('mask', 'smaller') else 'fp32', compile=False, accumulate=2
                      if name == 'photons' else 1)
        T = r.teacher(ys, hardware=on, **gpu)
        G = r.student(T, ys, hardware=on, **gpu)
        assert all(p.device.type == 'cuda' for m in (T, G) for p in m.net.parameters())
        device.allowed = {*may_wait, *may_wait_later}
        x = T.sample(3, steps=2)
        if T.shape == G.shape: T.sample(3, steps=2, churn=Churn(hi=80.))
    assert x.device.type == 'cpu' and tuple(x.shape) == (3, *T.shape)
    assert device.waits['training.loop:report'] == (4 if name == 'noise' else 2)


def on_device(name):
    "A teacher, a generator and observations of a case, all on the device"
    r = cases[name]
    ys = observed(r)
    net = Precond(r.network_for(r.teacher_shape(ys.shape), r.objective_for().extra_channels)).to('cuda')
    T = Teacher(net, r.objective_for(), data=dict(corruption=ys.corruption.to_dict(), image=list(ys.shape)))
    return T, Generator(net, T.objective), ys.to('cuda')


# What is made up where a loop, or a complaint, hangs on it; k: for the k-th time
def first(k, t): return k % 2 == 1
def second(k, t): return k % 2 == 0
def never(k, t): return False
def finite(k, t): return t.ndim > 0
# is there more to do? First yes, then no
answers = {'restore.sampler:__call__': first, 'restore.sampler:_learn': first,
           'restore.method:__call__': second,
           'linalg:conjugate_gradients': second,    # is it done? First no, then yes
           'data.measurements:_check_chunks': finite,
           'operators.states:require_binary': never}    # which images are finite, and is anything wrong?


def one_turn():
    "Made-up values with which loops end: they go on once, then they stop"
    asked = Counter()
    def answer(t, where):
        asked[where] += 1
        if t.dtype == torch.bool and where in answers:
            return torch.full(t.shape, answers[where](asked[where], t))
        return made_up(t, where)
    return answer


methods = Sample(.1, leaps=1, moves=1, last=1, pool=8), Optimise(2), Anneal(2)


@pytest.mark.parametrize('method', methods, ids=str)
def test_measurements_are_restored_on_a_device(method):
    with pretended({*may_wait, *may_wait_later, 'test_device:on_device'}, one_turn()):
        T, G, ys = on_device('noise')
        found = restore(G if isinstance(G, method.needs) else T, ys, method, n=2)
    assert found.samples.device.type == 'cpu' and tuple(found.samples.shape) == (20, 2, 1, 8, 8)


def test_a_misfit_is_learned_on_a_device():
    with pretended({*may_wait, *may_wait_later, 'test_device:on_device'}, one_turn()):
        _, G, ys = on_device('noise')
        assert learn_misfit(G, ys, rounds=1, n=128).cov.device.type == 'cuda'


def test_metrics_run_on_a_device():
    with pretended(may_wait_later):
        x, ref = (torch.rand(300, 1, 8, 8, device='cuda') for _ in range(2))
        for space in ('classifier', 'random', 'pca', 'pixels'):
            f = metrics.features(space, ref)
            a, b = f(x), f(ref)
            metrics.frechet_distance(a, b)
        metrics.kid(a, b)
        metrics.precision_recall(a, b)
        metrics.density_coverage(a, b)
        metrics.inception_score(a.softmax(1))
        metrics.sliced_wasserstein(x, ref)
        metrics.compare({'x': x}, ref)
        for of_pairs in (metrics.psnr, metrics.ssim, metrics.nmse):
            assert of_pairs(x, ref).device.type == 'cuda'


# Every recipe in the library on the meta device, whose tensors have no values either, and where the way back is the real one

def both_steps(r):
    "A step of each phase, what it moves, and teacher and generator"
    objective, A = r.objective_for(), r.corruption
    net = Precond(r.network_for(r.teacher_shape(), objective.extra_channels))
    made = resized_copy(net, r.student_shape()).to('meta')
    first, fake, student = Learner(net.to('meta')), Learner(copy.deepcopy(net)), Learner(made)
    x, now = torch.empty(16, *r.student_shape(), device='meta'), StepContext(1, 16, 1000, device='meta')
    def loss(part): return objective.loss(net, A.recorrupt(x, part.draws), part.draws).mean()
    found = [first.step(loss, now)]
    T = Teacher(net, objective, data=dict(corruption=A.to_dict(), image=list(r.student_shape())))
    found.append(DistillationStep(T, A, r.distill.get('loss') or SiD(), fake, student, 2.5, 1)(now))
    return found, (first, fake, student), (T, Generator(made.requires_grad_(False), objective))


cannot = 'whose noise is not Gaussian|cannot be annealed|prior is a teacher of images behind|but the prior makes images of shape|cannot be cut into tiles'


def restored(T, G, ys):
    "The names of the methods that restore these observations; the others say why they do not"
    done = set()
    for method in methods:
        prior = G if isinstance(G, method.needs) else T
        try: found = restore(prior, ys, method, n=2, quiet=True)
        except BadInput as e:
            assert re.search(cannot, str(e)), e
            continue
        assert found.samples.device.type == 'cpu' and found.samples.shape[1:] == (2, *ys.shape)
        done.add(type(method).__name__)
    return done


@pytest.mark.filterwarnings('ignore:state hides')       # the masks of what is restored have made-up values
def test_steps_samples_restoration_and_metrics_of_every_recipe_stay_on_the_device():
    seen, judged, by = set(), set(), Counter()
    for name, r, names in kinds():
        ys = observed(r, 2)
        with without_values({*may_wait, 'test_device:both_steps'}) as device:
            found, learners, (T, G) = both_steps(r)
            assert all(step.loss.device.type == step.grad_norm.device.type == 'meta' for step in found), name
            for l in learners:
                assert len(l.opt.state) == len([*l.net.parameters()]), f'{name}: weights without a gradient'
            device.allowed, device.answer = {*may_wait, *may_wait_later}, one_turn()
            x = G.sample(2)
            assert x.shape == (2, *G.shape) and T.sample(2, steps=2).shape == (2, *T.shape)
            by.update(restored(T, G, ys))
            if G.shape not in judged: Judge(x.repeat(20, 1, 1, 1), 'meta')(x.repeat(20, 1, 1, 1))
            judged.add(G.shape)
        seen.update(names)
    assert seen == {*recipes()} and min(by.values()) > 10, by


# Tests of the test

def step_of(objective):
    "A step of Phase I with that objective, on the device"
    T, _, ys = on_device('noise')
    learner = Learner(T.net.requires_grad_())
    def loss(part): return objective.loss(learner.net, Batch(ys.y[:part.n], None), part.draws).mean()
    return learner.step(loss, StepContext(0, 16, 1000, device='cuda'))


class Reads(AmbientTweedie):
    def loss(self, net, batch, draws=None):
        loss = super().loss(net, batch, draws)
        return loss/loss.max().item()


class Strays(AmbientTweedie):
    def loss(self, net, batch, draws=None): return super().loss(net, batch, draws) + torch.zeros(len(batch.y))


class Sends(AmbientTweedie):
    def loss(self, net, batch, draws=None):
        return super().loss(net, batch, draws) + torch.zeros(len(batch.y)).to(batch.y)


class Selects(AmbientTweedie):
    def loss(self, net, batch, draws=None):
        loss = super().loss(net, batch, draws)
        return loss[loss < 1]


class DrawsElsewhere(AmbientTweedie):
    def loss(self, net, batch, draws=None): return super().loss(net, batch, Draws(0))


@pytest.mark.parametrize('objective, error, says', [
    (Reads, HostWaits, 'test_device:loss waits for the device, to read'),
    (Sends, HostWaits, 'test_device:loss waits for the device, to send'),
    (Strays, RuntimeError, 'at least two devices, cuda:0 and cpu'), (Selects, Exception, 'nonzero'),
    (DrawsElsewhere, Exception, 'device')])
def test_what_does_not_belong_into_a_step_is_caught(objective, error, says):
    with pretended({'test_device:on_device', 'data.measurements:to'}):
        assert step_of(AmbientTweedie(.5)).loss.device.type == 'cuda'
        with pytest.raises(error, match=says): step_of(objective(.5))


@pytest.mark.parametrize('objective, error, says', [(Reads, HostWaits, 'test_device:loss waits'),
                                                    (Sends, HostWaits, 'test_device:loss waits'),
                                                    (Strays, RuntimeError, 'two devices|same device'), (Selects, Exception, 'nonzero'), (DrawsElsewhere, HostWaits, 'draw_levels waits for the device, to send')])
def test_what_does_not_belong_is_caught_on_the_way_back_too(objective, error, says):
    r = replace(cases['noise'], objective=objective(.5))
    with without_values({'test_device:both_steps'}), pytest.raises(error, match=says): both_steps(r)


class ReadsWhileItSamples(AmbientTweedie):
    def denoise(self, net, x, s, state=None):
        found = super().denoise(net, x, s, state)
        return found/found.max().item()


class StraysWhileItSamples(AmbientTweedie):
    def denoise(self, net, x, s, state=None): return super().denoise(net, x, s, state) + torch.zeros(x.shape)


@pytest.mark.parametrize('objective, error, says',
                         [(ReadsWhileItSamples, HostWaits, 'test_device:denoise waits'),
                          (StraysWhileItSamples, RuntimeError, 'two devices')])
def test_what_does_not_belong_into_a_sampler_is_caught(objective, error, says):
    with pretended({*may_wait, *may_wait_later, 'test_device:on_device'}, one_turn()):
        T, G, ys = on_device('noise')
        T.objective = G.objective = objective(.5)
        for use in (lambda: T.sample(2, steps=2), lambda: G.sample(2), lambda: restore(T, ys, Anneal(2), n=2),
                    lambda: restore(G, ys, Optimise(2), n=2)):
            with pytest.raises(error, match=says): use()


def test_after_pretending_all_is_as_before():
    with pretended(): assert torch.zeros(2, device='cuda').is_cuda
    assert not isinstance(torch.zeros(2), torch._subclasses.FakeTensor)
    x = torch.ones(2, requires_grad=True)
    x.sum().backward()
    assert x.grad.tolist() == [1, 1] and torch.Generator('cpu').device.type == 'cpu'
