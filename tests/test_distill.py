"Phase II under faults, and what it may and may not look at."
import copy
import inspect
import json
import signal
from pathlib import Path

import pytest
import torch
from processes import run, run_together

from dcd_nb import checkpoint, training
from dcd_nb.draws import Draws
from dcd_nb.errors import BadInput
from dcd_nb.data import Measurements, digits
from dcd_nb.diffusion import LogUniform
from dcd_nb.distill import DistillationStep, Generator, Student, distill, resized_copy, load_pretrained
from dcd_nb.files import load_meta
from dcd_nb.losses import DMD, SDS, SiD
from dcd_nb.networks import MLP, Precond, UNet
from dcd_nb.objectives import AmbientInpainting, AmbientTweedie, Consistency, Objective, Standard, objective_for
from dcd_nb.operators import Corruption, Downsample, FourierMask, GaussianBlur, Identity, Photons, Poisson, Quantise, RandomMask, Saturation
from dcd_nb.recipes import Recipe, recipe, recipes
from dcd_nb.record import Record
from dcd_nb.restore import restore
from dcd_nb.training import Checkpoints, Hardware, Learner, Loop, RunFolder, Teacher, train

change = 'loss=SiD(alpha=.5) lr=1e-3 fake.lr=1e-3'


def out(done):
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Two small teachers, made by dcd_train; one has dropout, whose random numbers must come back too"
    path = tmp_path_factory.mktemp('teacher')
    for name, dropout in (('run', ',dropout=.1'), ('plain', '')):
        out(run('dcd_train', 'digits-noise', '--images', 6400, '--out', name, '--json', '--set',
                f'network=MLP(shape=(1,8,8),width=32,blocks=2{dropout})', cwd=path))
    return path


def student(folder, name, **kw):
    args = ['--out', name, '--images', 64*100, '--batch', 64, '--checkpoint_every', 64*20, '--resume',
            '--json', '--set', change]
    return run('dcd_distill', 'run', *args, cwd=folder, **kw)


def step(k):
    # two for each step: that of the fake, then that of the generator
    return ('dcd_nb.training:Learner.apply_gradients', k)


@pytest.fixture(scope='module')
def whole(folder): return out(student(folder, 'whole'))


def test_kills_end_with_the_same_weights(folder, whole):
    "Between the steps of fake and generator, between the two files of a checkpoint, while the generator is judged, in the optimiser"
    for fate in (step(2*30), ('os.replace', 2), ('dcd_nb.distill.monitors:health', 1),
                 ('torch.optim:Adam.step', 7)):
        assert student(folder, 'parts', fate=fate).returncode == -signal.SIGKILL, fate
    assert out(student(folder, 'parts'))['weights_sha256'] == whole['weights_sha256']
    assert Generator.load(folder/'parts').sample(3).equal(Generator.load(folder/'whole').sample(3))


def test_two_processes_do_what_one_does(folder):
    for n in (1, 2):
        args = ['--out', f'of{n}', '--images', 20*64, '--batch', 64, '--json', '--set',
                'loss=SiD(alpha=.5) lr=1e-4 fake.lr=1e-4']
        for done in run_together(n, 'dcd_distill', 'plain', *args, cwd=folder):
            assert done.returncode == 0, done.stderr[-2000:]
    one, two = (checkpoint.load(folder/f'of{n}')[0] for n in (1, 2))
    for k in one: torch.testing.assert_close(one[k], two[k], rtol=0, atol=1e-5, msg=k)
    lines = [[json.loads(l) for l in (folder/f'of{n}/metrics.jsonl').open()] for n in (1, 2)]
    # what is watched is of the whole batch
    for a, b in zip(*lines):
        for k in ('loss', 'grad', 'gap', 'size', 'fake_loss', 'fake_grad'):
            if 'loss' in a: assert abs(a[k] - b[k]) <= 1e-3*abs(a[k]), k


@pytest.mark.parametrize('name', ['a.png', 'a.npz', 'a'])
@pytest.mark.parametrize('model', ['run', 'whole'])
def test_samples_are_written(folder, whole, tmp_path, model, name):
    done = out(run('dcd_sample', folder/model, name, '--n', 5, '--json', cwd=tmp_path))
    assert done['nfe'] == (1 if model == 'whole' else Teacher.load(folder/'run').nfe())
    if name == 'a': assert len(list((tmp_path/'a').glob('*.png'))) == 5
    else: assert (tmp_path/name).stat().st_size > 100


# In this process

def small(A, unet=False):
    ys = A.measure(digits()[:200] if unet or A.op.in_shape((1, 8, 8)) == (1, 8, 8) else digits()[:200])
    torch.manual_seed(0)
    shape = tuple(ys.y.shape[1:])
    net = UNet(shape[1], shape[0], channels=16, mult=(1,),
               blocks=1) if unet else MLP(shape, width=32, blocks=1)
    return ys, train(ys, net, objective_for(A), images=640, batch=64, quiet=True)


corruptions = dict(noise=Corruption(Identity(), .5), mask=Corruption(RandomMask(.5)),
                   both=Corruption(RandomMask(.5), .2), blur=Corruption(GaussianBlur(5, .8), .1),
                   clip=Corruption(Saturation(2.), .1), half=Corruption(Downsample(2), .1))


@pytest.mark.parametrize('name', corruptions)
@pytest.mark.parametrize('loss', [SiD(.5), DMD(), SDS()])
def test_every_corruption_can_be_distilled(name, loss):
    ys, teacher = small(corruptions[name])
    G = distill(teacher, ys, loss, images=320, batch=32, lr=1e-3, quiet=True)
    assert tuple(G.shape) == (1, 8, 8) and G.sample(3).isfinite().all() and G.cost['skipped'] == 0
    # untouched
    assert all(torch.equal(a, b) for a, b in zip(teacher.net.state_dict().values(),
                                                 small(corruptions[name])[1].net.state_dict().values()))


def test_fourier_scans_can_be_distilled():
    x = torch.cat([digits()[:100], 0*digits()[:100]], 1)
    A = Corruption(FourierMask(2, acs=2))
    ys = A.measure(x)
    torch.manual_seed(0)
    teacher = train(ys, MLP((2, 8, 8), width=32, blocks=1), images=640, batch=64, quiet=True)
    assert distill(teacher, ys, SiD(.5), images=320, batch=32, quiet=True).sample(2).isfinite().all()


@pytest.mark.parametrize('name', ['noise', 'mask', 'blur'])
def test_observations_are_not_looked_at(name):
    ys, teacher = small(corruptions[name])
    blank = Measurements(torch.zeros_like(ys.y), ys.corruption, ys.state)
    a, b = (distill(teacher, data, SiD(.5), images=320, batch=32, checkpoints=Checkpoints(monitor=False),
                    quiet=True).cost['weights_sha256'] for data in (ys, blank))
    assert a == b


def test_samples_belong_to_seed_and_index():
    ys, teacher = small(corruptions['mask'])
    G = distill(teacher, ys, SiD(.5), images=64, batch=32, quiet=True)
    whole = G.sample(10, seed=3)
    torch.testing.assert_close(G.sample(3, seed=3, index=[7, 0, 9], batch=2), whole[[7, 0, 9]], rtol=0,
                               atol=1e-5)
    assert not torch.equal(G.sample(10, seed=4), whole)


def test_a_generator_survives_the_disk(tmp_path):
    ys, teacher = small(corruptions['mask'])
    G = distill(teacher, ys, SiD(.5), images=64, batch=32, quiet=True)
    G.save(tmp_path/'whole'), G.save(tmp_path/'half', half=True)
    assert torch.equal(Generator.load(tmp_path/'whole').sample(4), G.sample(4))
    assert (Generator.load(tmp_path/'half').sample(4) - G.sample(4)).abs().max() < .05
    assert (tmp_path/'half.safetensors').stat().st_size < .6*(tmp_path/'whole.safetensors').stat().st_size
    teacher.save(tmp_path/'teacher')
    with pytest.raises(BadInput, match='holds teacher, not a generator'): Generator.load(tmp_path/'teacher')
    with pytest.raises(BadInput, match='holds generator, not a teacher'): Teacher.load(tmp_path/'whole')
    assert isinstance(load_pretrained(tmp_path/'teacher'),
                      Teacher) and isinstance(load_pretrained(tmp_path/'whole'), Generator)
    assert isinstance(Generator.from_pretrained('digits-noise'), Generator)
    with pytest.raises(BadInput, match='is a teacher, not a generator: use load_pretrained'):
        Generator.from_pretrained(tmp_path/'teacher')
    with pytest.raises(BadInput, match="model='nothing'"): Generator.from_pretrained('nothing')


def test_a_step_never_waits_for_the_device():
    from test_training import NoSync
    several = {'levels': Corruption(RandomMask(.5), torch.linspace(.1, .5, 200))}    # with the masks they belong to
    for name, A in several.items() | {k: corruptions[k] for k in ('noise', 'mask', 'clip')}.items():
        ys, teacher = small(A, unet=name == 'mask')
        fake, G = (Learner(copy.deepcopy(teacher.net).requires_grad_(), halflife=h) for h in (None, 1000))
        step = DistillationStep(teacher, ys.corruption, SiD(1.2), fake, G, 2.5, 2)
        loop = Loop(step, dict(fake=fake, generator=G), RunFolder(None, dict(images=3200, batch=32, seed=0)),
                    'cpu', training.exploded, None, True, main='generator')
        loop.prepare()
        loop.advance()
        with NoSync(): [loop.advance() for _ in range(3)]


def test_the_generator_has_no_slope_before_the_fake_moved():
    ys, teacher = small(corruptions['noise'])
    fake, G = (Learner(copy.deepcopy(teacher.net).requires_grad_(), halflife=None) for _ in range(2))
    step = DistillationStep(teacher, ys.corruption, SiD(1.2), fake, G, 2.5, 1)
    part = training.StepContext(0, 32, 320).micro_batches()[0]
    loss, watched = step.generator_loss(part)
    loss.backward()
    assert all((p.grad == 0).all() for p in G.net.parameters())
    assert watched['gap'] == 0


def test_a_larger_network_has_the_teachers_weights():
    for times in (2, 4):
        net = Precond(UNet(16, 3, channels=16, mult=(1, 2), blocks=1, attn=(8,)))
        big = resized_copy(net, (3, 16*times, 16*times))
        assert big.shape == (3, 16*times, 16*times)
        for a, b in zip(net.state_dict().values(), big.state_dict().values()): assert torch.equal(a, b)


def test_small_starts_and_small_data():
    # an MLP of another size starts afresh, and at almost nothing
    ys, teacher = small(corruptions['half'])
    G = distill(teacher, ys, SiD(.5), images=1280, batch=64, quiet=True,
                checkpoints=Checkpoints(monitor=False))
    assert not any(l.get('event') == 'rollback' for l in G.history)
    one = Corruption(Identity(), .5).measure(digits()[:1])
    net = MLP((1, 8, 8), width=16, blocks=1)
    # the monitor does without a distance
    distill(train(one, net, images=64, batch=32, quiet=True), one, images=64, batch=32, quiet=True)


def test_corrupting_again_is_fresh_and_differentiable():
    x = digits()[:40].clone().requires_grad_()
    a, b = (corruptions['both'].recorrupt(x, Draws(0, k)) for k in (0, 1))
    assert not torch.equal(a.state, b.state) and not torch.equal(a.y, b.y)
    # belongs to the position in the batch
    assert torch.equal(corruptions['both'].recorrupt(x[16:], Draws(0, 0, start=16)).y, a.y[16:])
    a.y.sum().backward()
    assert torch.equal(x.grad, a.state.expand_as(x))


# What is compared

class Remembering(SDS):
    "Keeps what it was asked to compare"
    def entries(self, y, a, b):
        Remembering.y = y.detach()
        return super().entries(y, a, b)


class OwnObjective(Objective):
    "Learns what lies behind noise of .1, and says nothing about Phase II"
    def __init__(self): self.levels = LogUniform(.1, 5.)
    def loss(self, net, batch, draws=None): return AmbientTweedie(.1, self.levels).loss(net, batch, draws)


def compared(A, objective=None):
    "What `distill` compares in its first step, and A of the images which the generator makes in it"
    ys = A.measure(digits()[:64])
    torch.manual_seed(0)
    teacher = train(ys, MLP((1, 8, 8), width=16, blocks=1), objective, images=640, batch=64, lr=1e-3,
                    quiet=True)
    distill(teacher, ys, Remembering(), images=32, batch=32, checkpoints=Checkpoints(monitor=False),
            quiet=True)
    first = training.StepContext(0, 32, 32).micro_batches()[0]
    z = first.draws.normal(torch.empty(32, 1, 8, 8))
    with torch.no_grad(): x = Generator(teacher.net, teacher.objective)(z)
    return Remembering.y, A.op(x, None)


@pytest.mark.parametrize('A', [Corruption(Poisson(20.)), Corruption(Identity(), Photons(2/20))], ids=repr)
def test_photons_are_counted_again_before_they_are_compared(A):
    y, clean = compared(A)
    count = (y + 1)*20/2
    assert (count - count.round()).abs().max() < 1e-4 and (y - clean).abs().mean() > .05


@pytest.mark.parametrize('op', [Quantise(3), Saturation(2.), Identity()])
def test_a_plain_teacher_compares_with_noise(op):
    y, clean = compared(Corruption(op, .1), Standard())
    assert abs((y - clean).std() - .1) < 4*.1/(2*y.numel())**.5                       # four standard errors


@pytest.mark.parametrize('op, objective', [(Identity(), None), (Saturation(2.), None), (Quantise(3), None),
                                           (Identity(), Consistency(.1)), (Identity(), OwnObjective())])
def test_a_teacher_that_looks_behind_the_noise_compares_without(op, objective):
    y, clean = compared(Corruption(op, .1), objective)
    torch.testing.assert_close(y, clean, rtol=0, atol=1e-5)


def test_a_teacher_that_fills_holes_compares_images_through_new_holes():
    A, x, draws = corruptions['both'], digits()[:64], Draws(0)
    y, state = objective_for(A).compared(A, x, draws)
    assert torch.equal(y, x) and not torch.equal(state, A.recorrupt(x, draws).state)
    assert abs(state.mean() - .45) < 4*(.45*.55/state.numel())**.5                    # holes as in training


def test_what_was_a_setting_once_is_forgotten_and_runs_that_had_it_go_on(tmp_path, monkeypatch):
    assert not any('noisy' in r.distill for r in recipes().values())
    old = recipe('digits-saturation').to_dict()
    assert Recipe.from_dict(old | dict(distill=old['distill']
                                       | dict(noisy=True))) == recipe('digits-saturation')
    with pytest.raises(BadInput, match="argument='noisy'"):
        distill(*small(corruptions['noise'])[::-1], images=64, noisy=True)
    ys, teacher = small(corruptions['noise'])
    go = lambda **kw: distill(teacher, ys, SiD(.5), images=320, batch=32, out=tmp_path/'run', quiet=True,
                              checkpoints=Checkpoints(about=dict(recipe=kw.pop('recipe'))), **kw)
    with monkeypatch.context() as m:
        m.setattr('dcd_nb.training.setup.RunFolder', lambda out, plan,
                  *args: RunFolder(out, plan | dict(noisy=False), *args))
        G = go(recipe=dict(distill=dict(noisy=False, lr=1)))
    assert json.loads((tmp_path/'run/recipe.json').read_text())['noisy'] is False
    assert torch.equal(Generator.load(tmp_path/'run').sample(2), G.sample(2))
    assert go(recipe=dict(distill=dict(lr=1)), resume=True).cost['resumed_at'] == 320


# Names that were others once

old_names = dict(outside_slope='leak', latent_scale='spread')
root = Path(__file__).parent.parent


def in_old_words(entries): return {old_names.get(k, k): v for k, v in entries.items()}


@pytest.mark.parametrize('path', [root/'dcd_nb/weights/digits-noise', root/'dcd_nb/weights/digits-mask',
                                  root/'nbs/runs/digits-noise/generator',
                                  root/'nbs/runs/phantoms-16-R4/generator'])
def test_weights_with_old_names_are_read(path):
    meta = load_meta(path)['meta']
    assert {'leak', 'spread'} <= set(meta), 'a file as older versions wrote it'
    G = Generator.load(path)
    assert (G.outside_slope, G.latent_scale) == (meta['leak'], meta['spread'])
    assert not {'leak', 'spread'} & set(G.about.get('recipe', {}).get('distill', {}))
    if 'recipe' in G.about:
        assert G.about['recipe']['title'] == meta['about']['recipe']['about'] and 'about' not in G.about['recipe']


@pytest.mark.parametrize('name', ['digits-noise', 'digits-mask', 'phantoms-16-R4'])
def test_records_with_old_names_are_read(name):
    path = root/'nbs/runs'/name
    record, read = json.loads((path/'recipe.json').read_text()), Record(path)
    assert 'leak' in record['student'], 'a record as older versions wrote it'
    assert (read.plans['student']['outside_slope'],
            read.plans['student']['latent_scale']) == (record['student']['leak'], record['student']['spread'])
    old, r = record['recipe']['distill'], Recipe.from_dict(record['recipe'])
    assert not {*old_names.values()} & {*r.distill} and r == read.recipe
    assert r.title == record['recipe']['about']
    assert in_old_words(r.to_dict()['distill']) == {k: v for k, v in old.items() if k != 'noisy'}
    assert r.override({'distill.outside_slope': .5}).distill['outside_slope'] == .5
    with pytest.raises(BadInput, match="distill='leak' is not known"): r.override({'distill.leak': .5})


def test_run_folders_with_old_names_are_read_and_go_on(tmp_path, monkeypatch):
    "Of both phases: what the folder says stays as it is"
    ys = corruptions['noise'].measure(digits()[:200])
    r = recipe('digits-noise', network=MLP((1, 8, 8), width=16, blocks=1))
    def go(**kw):
        teacher = r.teacher(ys, images=640, batch=64, out=tmp_path/'teacher', quiet=True, **kw)
        return teacher, r.student(teacher, ys, images=320, batch=64, monitor=False, out=tmp_path/'student',
                                  quiet=True, **kw)
    def old(out, plan, *args):
        recipe = plan['about']['recipe']
        recipe = {'about' if k == 'title' else k: v
                  for k, v in recipe.items()} | dict(distill=in_old_words(recipe['distill']))
        return RunFolder(out, in_old_words(plan) | dict(about=dict(recipe=recipe)), *args)
    with monkeypatch.context() as m:
        m.setattr('dcd_nb.training.setup.RunFolder', old)
        teacher, G = go()
    said = {name: (tmp_path/name/'recipe.json').read_text() for name in ('teacher', 'student')}
    assert '"leak": 0.03' in said['teacher'] and json.loads(said['student'])['spread'] == .9 and 'outside_slope' not in said['student']

    again = Generator.load(tmp_path/'student')
    assert (again.outside_slope,
            again.latent_scale) == (.03, .9) and torch.equal(again.sample(3), G.sample(3))
    assert Teacher.load(tmp_path/'teacher').about['recipe']['distill']['outside_slope'] == .03
    assert Teacher.load(tmp_path/'teacher').about['recipe']['title'] == r.title and f'''"about": "{r.title}"''' in said['teacher']
    for model, before in zip(go(resume=True), (teacher, G)):
        assert model.cost['resumed_at'] == before.cost['images'] and model.cost['weights_sha256'] == before.cost['weights_sha256']
    for name, text in said.items(): assert (tmp_path/name/'recipe.json').read_text() == text
    r.distill['outside_slope'] = .5
    with pytest.raises(BadInput, match='student.* was begun with outside_slope=0.03, not 0.5'):
        go(resume=True)


# What a person calls

def test_the_two_phases_have_few_arguments():
    # 16 and 18 with callbacks and the look at the physics, which users set by themselves
    for f, most, required in ((train, 16, ['ys']), (distill, 18, ['teacher', 'ys'])):
        pars = inspect.signature(f).parameters
        assert len(pars) <= most and [k for k, p in pars.items() if p.default is p.empty
                                      and p.kind is not p.VAR_KEYWORD] == required
        assert list(pars)[:len(required)] == required and all(p.annotation is not p.empty
            for p in pars.values() if p.kind is not p.VAR_KEYWORD)
    for kind in (Hardware, Checkpoints, Student):
        for k in inspect.signature(kind).parameters:
            assert f'`{k}`: ' in kind.__doc__, f'{kind.__name__}.{k} is not explained'


def test_a_generator_goes_on_as_it_is():
    ys, teacher = small(corruptions['noise'])
    go = lambda student, images=320: distill(teacher, ys, SiD(.5), images=images, batch=32, lr=1e-3,
                                             quiet=True, student=student,
                                             checkpoints=Checkpoints(monitor=False))
    first = go(Student(init_sigma=.7, latent_scale=.9, outside_slope=.03))
    again = go(first, 32)
    assert (again.init_sigma, again.latent_scale, again.outside_slope) == (.7, .9, .03)
    far = lambda a, b: (torch.cat([p.flatten() for p in a.net.parameters()])
                        - torch.cat([p.flatten() for p in b.net.parameters()])).norm()
    assert 0 < far(again, first) < .5*far(again, teacher)                             # it began there
    same = go(Student(.7, .9, .03, start=first), 32)
    assert same.cost['weights_sha256'] == again.cost['weights_sha256']


def test_hardware_of_a_distillation_is_that_of_all_three_networks(monkeypatch):
    ys, teacher = small(corruptions['noise'])
    seen = set()
    class Watched(DistillationStep):
        def __call__(self, now):
            nets = (self.teacher_net, self.fake_learner.net, self.generator_learner.net)
            seen.update(net.precision for net in nets)
            return super().__call__(now)
    monkeypatch.setattr('dcd_nb.distill.DistillationStep', Watched)
    args = dict(images=32, batch=32, quiet=True, checkpoints=Checkpoints(monitor=False))
    G = distill(teacher, ys, hardware=Hardware('cpu', precision='bf16'), **args)
    assert seen == {'bf16'} and G.net.precision == 'bf16' and teacher.net.precision is None
    seen.clear()
    distill(teacher, ys, hardware='cpu', **args)
    assert seen == {'fp32'}                          # that of an MLP, decided when the run began


def test_flat_entries_of_a_recipe_become_objects_and_are_stored_flat(tmp_path):
    r = recipe('digits-noise', network=MLP((1, 8, 8), width=16, blocks=1), train__images=640, train__batch=64,
               train__accumulate=2, train__sigma_d=.4, train__precision='fp32',
               train__checkpoint_every=320, distill__images=320, distill__batch=64, distill__dropout=.2,
               distill__init_sigma=.6, distill__select='histogram', distill__patience=3)
    ys = corruptions['noise'].measure(digits()[:200])
    teacher = r.teacher(ys, out=tmp_path/'one', quiet=True)
    r.student(teacher, ys, out=tmp_path/'two', grid=0, quiet=True)
    one, two = (json.loads((tmp_path/k/'recipe.json').read_text()) for k in ('one', 'two'))
    assert teacher.net.precision == 'fp32' and one['net']['sigma_d'] == .4
    assert (one['accumulate'], one['checkpoint_every'], one['select']) == (2, 320, None)
    assert (two['dropout'], two['init_sigma'], two['outside_slope'], two['latent_scale'], two['select'],
            two['patience']) == (.2, .6, .03, .9, 'histogram', 3)
    assert one['about']['recipe'] == two['about']['recipe'] == r.to_dict()
    assert len(list((tmp_path/'one/samples').glob('*.png'))) == 2 and not (tmp_path/'two/samples').exists()
    # objects are taken as well, and the recipe is noted
    own = r.teacher(ys, hardware='cpu', checkpoints=Checkpoints(64, grid=0), quiet=True)
    assert len([l for l in own.history
                if l.get('event') == 'checkpoint']) == 10 and own.about['recipe'] == r.to_dict()


@pytest.mark.parametrize('name', ['noise', 'mask', 'half'])
def test_what_is_watched_is_of_the_whole_batch(name):
    ys, teacher = small(corruptions[name])
    def step(accumulate):
        start = resized_copy(teacher.net, ys.shape)
        fake, G = (Learner(copy.deepcopy(net).requires_grad_(), lr=1e-9, halflife=None)
                   for net in (teacher.net, start))
        with torch.no_grad():
            for i, p in enumerate([*fake.net.parameters(), *G.net.parameters()]):
                p += .1*torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        return DistillationStep(teacher, ys.corruption, SiD(.5), fake, G, 2.5, 2,
                                outside_slope=.1)(training.StepContext(0, 64, 640, accumulate=accumulate))
    one, four = step(1), step(4)
    assert set(one.watched) == {'gap', 'size', 'fake_loss', 'fake_grad'} and one.watched['gap'] > 0
    numbers = lambda s: torch.stack([s.loss, s.grad_norm, s.refused, *(s.watched[k] for k in one.watched)])
    torch.testing.assert_close(numbers(four), numbers(one), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('kw, says', [
    (dict(teacher='run'), 'teacher must be a Teacher'), (dict(ys=digits()), 'ys must be Measurements'),
    (dict(loss='SiD'), "loss='SiD'"),
    (dict(images=None), 'one of the two'), (lambda: dict(student=Student(init_sigma=0)), 'init_sigma=0'),
    (dict(batch=0), 'batch=0'), (dict(fake_steps=0), 'fake_steps=0'),
    (dict(teacher=Teacher(Precond(MLP((1, 8, 8), 2), .5), AmbientInpainting(.5))),
     r'cannot learn from observations through Identity\(\)'),
    (dict(ys=Corruption(Identity(), .4).measure(digits()[:200])), 'the teacher learned from'),
    (dict(ys=Corruption(Identity(), .5).measure(digits()[:200, :, :4, :4])), 'the teacher learned from'),
    (lambda: dict(student=Student(start=5)), 'start=5'), (dict(student=5), 'student=5 must be a Student'),
    (dict(hardware=5), 'hardware=5'), (dict(checkpoints=5), 'checkpoints=5'), (dict(fake=5), 'fake=5'),
    (dict(fake=dict(lrr=1)), "argument='lrr'"), (dict(fake=dict(lrr=1), images=None), "argument='lrr'"),
    (dict(steps=3, images=None), r'images=steps\*batch'),
    (dict(epochs=1, images=None), r'images=epochs\*len\(ys\)'),
    (dict(precision='bf16'), "argument='precision'"), (dict(leak=.1), "argument='leak'"),
    (dict(halflife=None), 'halflife=None')])
def test_bad_input_is_one_sentence(kw, says):
    ys, teacher = small(corruptions['noise'])
    with pytest.raises(BadInput, match=says) as e:
        distill(**dict(teacher=teacher, ys=ys, images=64, batch=32, quiet=True)
                | (kw() if callable(kw) else kw))
    assert '\n' not in str(e.value)


# More than one call

def test_further_calls_noise_the_image_again():
    torch.manual_seed(0)
    net = Precond(MLP((1, 8, 8), width=16, blocks=1))
    one, G = (Generator(net, Standard(), .7, outside_slope=.1, latent_scale=.9, refine=r)
              for r in ((), (.4, .2)))
    z = torch.randn(5, 3, 8, 8)
    assert (G.calls, G.latent_shape) == (3, (3, 8, 8)) and z.shape[1:] == G.latent_shape
    x = one(z[:, :1])
    for k, s in enumerate(G.refine): x = one.denoised(x + s*z[:, 1 + k:2 + k], s)
    torch.testing.assert_close(G(z), x)
    torch.testing.assert_close(G.sample(3, index=[3, 9, 70])[[0, 2]], G.sample(2, index=[3, 70]))


def three_calls():
    "A step of a generator of three calls, and what the first `n` of them make"
    teacher = Teacher(Precond(MLP((1, 8, 8), width=16, blocks=1)), AmbientTweedie(.5))
    learners = [Learner(copy.deepcopy(teacher.net).requires_grad_(), lr=1e-3) for _ in range(2)]
    step = DistillationStep(teacher, Corruption(Identity(), .5), SiD(.5), *learners, .7, 1, refine=(.4, .2))
    def first(n, draws):
        G = Generator(step.G.net, teacher.objective, .7, refine=step.G.refine[:n - 1])
        return G(draws.normal(torch.empty(32, n, 8, 8)))
    return step, first


def test_each_call_has_its_turn_and_the_gradient_is_its_own():
    step, first = three_calls()
    turns = []
    for k in range(12):
        x = step.generate(training.MicroBatch(0, 32, Draws(0, k)))
        turns += [n for n in (1, 2, 3) if torch.allclose(x, first(n, Draws(0, k)), atol=1e-5)]
    assert len(turns) == 12 and {*turns} == {1, 2, 3}

    k = turns.index(2)
    grad = torch.autograd.grad(step.generate(training.MicroBatch(0, 32, Draws(0, k))).sum(),
                               [*step.G.net.parameters()])
    z = Draws(0, k).normal(torch.empty(32, 2, 8, 8))
    before = Generator(step.G.net, step.objective, .7)(z[:, :1]).detach()
    alone = torch.autograd.grad(step.G.denoised(before + .4*z[:, 1:], .4).sum(), [*step.G.net.parameters()])
    for a, b in zip(grad, alone): torch.testing.assert_close(a, b)


def test_further_calls_are_kept_resumed_and_restored_with(tmp_path):
    ys, teacher = small(corruptions['noise'])
    def go(out, refine=(.4,), monitor=False, **kw):
        return distill(teacher, ys, SiD(.5), images=640, batch=32, lr=1e-3, quiet=True, out=tmp_path/out,
                       student=Student(.7, refine=refine), checkpoints=Checkpoints(320, monitor=monitor),
                       **kw)
    def stop(G): raise KeyboardInterrupt
    G = go('whole')
    with pytest.raises(KeyboardInterrupt): go('parts', monitor=stop)
    assert go('parts', resume=True).cost['weights_sha256'] == G.cost['weights_sha256']
    with pytest.raises(BadInput, match='refine'): go('parts', (), resume=True)

    G.save(tmp_path/'G')
    for path in ('G', 'whole'):
        same = Generator.load(tmp_path/path)
        assert same.refine == (.4,) and same.sample(3).equal(G.sample(3))
    found = restore(G, ys[:2], n=4, quiet=True)
    assert found.mean.shape == (2, 1, 8, 8)


def test_further_calls_in_recipes():
    r = recipe('digits-noise').override({'distill.refine': (.35,)})
    assert Recipe.from_dict(json.loads(json.dumps(r.to_dict()))) == r
    assert r.override({'corruption.sigma': .25}).distill['refine'] == (.175,)
    work = [r.override({'distill.refine': s}).cost()['student']['gflop_per_image']
            for s in ((), (.5, .35, .2))]
    assert work[1]/work[0] == pytest.approx(14/11)


@pytest.mark.parametrize('refine, says', [((.8,), 'refine=0.8'), ((.4, .4), 'refine=0.4'),
                                          ((0.,), 'refine=0'), (.4, 'refine=0.4'), (('a',), "refine='a'")])
def test_levels_of_further_calls_fall(refine, says):
    with pytest.raises(BadInput, match=says): Student(.7, refine=refine)
