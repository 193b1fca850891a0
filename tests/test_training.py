"The training loop under faults: kills, signals, NaNs, explosions, full disks, several processes."
import inspect
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from processes import Command, run, scripts, start_together
from torch.utils._python_dispatch import TorchDispatchMode

from dcd_nb import checkpoint, training
from dcd_nb.errors import BadInput
from dcd_nb.data import Measurements, digits
from dcd_nb.distill import Student, distill
from dcd_nb.named import Named
from dcd_nb.networks import MLP, Network, Precond, UNet
from dcd_nb.objectives import AmbientInpainting, AmbientTweedie
from dcd_nb.operators import Corruption, Identity, RandomMask
from dcd_nb.training import BatchFeed, Checkpoints, Hardware, Learner, Loop, StepContext, RunFolder, Teacher, fit, train

# with dropout, whose random numbers must come back too
small = "network=MLP(shape=(1,8,8),width=32,blocks=2,dropout=.1)"
# in 100 steps, with a checkpoint at every 25th
images = 100*256


def start(cwd, images=images, **kw):
    args = ['--out', 'run', '--images', images, '--checkpoint_every', 6400, '--resume', '--json', '--set',
            small]
    return Command('dcd_train', 'digits-noise', *args, cwd=cwd, **kw)


def finish(p):
    out, err = p.communicate()
    return json.loads(out.splitlines()[-1]) if p.returncode == 0 else (p.returncode, err)


def lines(folder): return [json.loads(l) for l in (folder/'run/metrics.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The run that nobody disturbs"
    folder = tmp_path_factory.mktemp('whole')
    return finish(start(folder)), lines(folder)


def step(k, *signal):
    # with the gradients of the k-th step of this process
    return ('dcd_nb.training:Learner.apply_gradients', k, *signal)


kills = { # where, in the order of the run; and the checkpoints that are there afterwards
    'before anything is there': (('os.replace', 1), []), 'in the first step': (step(1), []),
         'before the first checkpoint': (step(25), []),
    'with the tensors written, not yet in place': (('os.replace', 2), []),
         'between the two files of a checkpoint': (('os.replace', 3), []),
    'as the picture of a checkpoint is made': (('dcd_nb.training.setup:save_images', 1), [6400]),
         'in the optimiser': (('torch.optim:Adam.step', 10), [6400]),
    'back at a checkpoint, before later lines are removed': (('os.truncate', 1), [6400]),
    'before an old checkpoint is removed': (('dcd_nb.checkpoint:committed', 4), [19_200, 12_800, 6400]),
         'with all done but the results': (('dcd_nb.training:Loop.cost', 1), [25_600, 19_200])}


def test_ten_kills_end_with_the_same_weights(whole, tmp_path):
    "Each at its own place, so that every run of this test kills at the same ones"
    for where, (fate, there) in kills.items():
        p = start(tmp_path, fate=fate)
        assert p.wait() == -signal.SIGKILL and checkpoint.committed(tmp_path/'run') == there, where
    done = finish(start(tmp_path))
    assert done['weights_sha256'] == whole[0]['weights_sha256']
    keep = lambda ls: [{k: v for k, v in l.items() if k not in ('seconds', 'img_per_s')} for l in ls]
    # no line is lost, none is there twice
    assert keep(lines(tmp_path)) == keep(whole[1])
    assert not list((tmp_path/'run').glob('.*'))


@pytest.mark.parametrize('sign, code', [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits(whole, tmp_path, sign, code):
    found, err = finish(start(tmp_path, fate=step(77, sign)))
    assert found == code and 'Traceback' not in err
    assert checkpoint.committed(tmp_path/'run')[0] == 77*256              # not a step was lost
    done = finish(start(tmp_path))
    assert done['resumed_at'] == 77*256 and done['weights_sha256'] == whole[0]['weights_sha256']


def test_a_damaged_checkpoint_costs_one_checkpoint(whole, tmp_path):
    for _ in range(2): assert start(tmp_path, fate=step(30, signal.SIGTERM)).wait() == 143
    newest, before = checkpoint.committed(tmp_path/'run')
    path = tmp_path/f'run/checkpoint-{newest:012d}.safetensors'
    path.write_bytes(path.read_bytes()[:-100])
    done = finish(start(tmp_path))
    assert done['resumed_at'] == before and done['weights_sha256'] == whole[0]['weights_sha256']


def test_a_checkpoint_that_was_passed_over_is_named(whole, tmp_path):
    "An unfinished one, before there is any and later, and a damaged one: one warning each time, with the file and the image"
    said = lambda p: [line for line in p.communicate()[1].splitlines() if 'UserWarning' in line]
    # between the two files of the first
    assert start(tmp_path, fate=('os.replace', 3)).wait() == -signal.SIGKILL
    first, = said(start(tmp_path, fate=step(80, signal.SIGTERM)))
    assert 'run/checkpoint-000000006400.safetensors was not finished' in first and first.endswith('going on from image 0')
    newest = checkpoint.committed(tmp_path/'run')[0]
    assert newest == 80*256
    # nothing is passed over any more
    assert not said(start(tmp_path, fate=step(1, signal.SIGTERM)))
    newest, before = checkpoint.committed(tmp_path/'run')
    (tmp_path/f'run/checkpoint-{newest:012d}.safetensors').write_bytes(b'')
    (tmp_path/'run/.checkpoint-000000025600.safetensors.77-1').write_bytes(b'half')
    p = start(tmp_path)
    again, = said(p)
    assert f'checkpoint-{newest:012d}.safetensors has 0 bytes' in again and '.checkpoint-000000025600.safetensors.77-1 was not finished' in again
    assert again.endswith(f'going on from checkpoint-{before:012d}, at image {before}')
    assert finish(p)['weights_sha256'] == whole[0]['weights_sha256']


# A power cut takes what was not flushed to the disk

def with_power_cuts(folder):
    "dcd_train, which notes in the file `flushed` how much of metrics.jsonl is on the disk"
    script = folder/'train.py'
    script.write_text(f"""
import os, runpy, sys
real = os.fsync
def noted(fd):
    real(fd)
    if os.readlink(f'/proc/self/fd/{{fd}}').endswith('metrics.jsonl'): open('flushed', 'w').write(str(os.fstat(fd).st_size))
os.fsync, sys.argv[0] = noted, {str(scripts/'dcd_train')!r}
runpy.run_path(sys.argv[0], run_name='__main__')
""")
    return script


@pytest.mark.parametrize('fate', [('dcd_nb.training.setup:save_images', 1),
                                  ('dcd_nb.training.setup:save_images', 2), ('os.replace', 6), step(60)])
def test_lines_that_a_checkpoint_counts_are_on_the_disk(whole, tmp_path, fate):
    path, plain = tmp_path/'run/metrics.jsonl', ['digits-noise', '--out', 'run', '--images', images,
                                                 '--checkpoint_every', 6400, '--resume', '--json', '--set',
                                                 small]
    assert Command(with_power_cuts(tmp_path), *plain, cwd=tmp_path, fate=fate).wait() == -signal.SIGKILL
    flushed = int((tmp_path/'flushed').read_text()) if (tmp_path/'flushed').exists() else 0
    # and a piece of a line that was on its way
    os.truncate(path, min(flushed + 7, path.stat().st_size))
    done = finish(start(tmp_path))
    assert done['resumed_at'] and done['weights_sha256'] == whole[0]['weights_sha256']
    keep = lambda ls: [{k: v for k, v in l.items() if k not in ('seconds', 'img_per_s')} for l in ls]
    assert keep(lines(tmp_path)) == keep(whole[1])


def test_half_a_line_is_dropped_on_resume(tmp_path):
    "A checkpoint of an older version counts lines that a power cut has taken: the next line is not glued to what is left"
    assert start(tmp_path, fate=step(60)).wait() == -signal.SIGKILL
    path = tmp_path/'run/metrics.jsonl'
    counted = checkpoint.load(tmp_path/'run')[1]['metrics']
    os.truncate(path, counted - 30)
    before = path.read_text().splitlines()[:-1]
    assert finish(start(tmp_path))['resumed_at'] == 50*256
    after = path.read_text().splitlines()
    assert after[:len(before)] == before and json.loads(after[len(before)])['images'] >= 50*256
    assert all(json.loads(line)['images'] for line in after)


def test_a_line_is_written_whole_or_not_at_all(tmp_path):
    "A disk that is full for a while leaves no half line in the middle"
    script = tmp_path/'log.py'
    script.write_text("""
import resource, signal, warnings
from dcd_nb.training import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = RunFolder('run', dict(batch=1, images=9))
run.begin()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter('always')
    for k in range(9):
        resource.setrlimit(resource.RLIMIT_FSIZE, (135 if 2 < k < 6 else 10_000, resource.RLIM_INFINITY))
        run.log(dict(images=k, loss=k/7))
print(*(w.message for w in said), sep='\\n')
""")
    done = run(script, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count('training goes on') == 3, done.stderr
    assert [line['images'] for line in lines(tmp_path)] == [0, 1, 2, 6, 7, 8]


def test_a_full_disk_is_one_sentence(tmp_path):
    code, err = finish(start(tmp_path, images=12_800, file_size=30_000))
    assert code == 2 and 'could not be written' in err.splitlines()[-1] and 'Traceback' not in err


def test_several_processes_do_what_one_does(tmp_path):
    args = ['digits-noise', '--batch', '64', '--images', 20*64, '--json', '--set',
            'network=MLP(shape=(1,8,8),width=32,blocks=2)']
    launch = map(str, [scripts/'torchrun', '--standalone', '--nproc-per-node', 2, scripts/'dcd_train', *args,
                       '--out', 'run2'])
    both = [run('dcd_train', *args, '--out', 'run1', cwd=tmp_path),
            subprocess.run([*launch], cwd=tmp_path, env=os.environ | dict(OMP_NUM_THREADS='1'),
                           capture_output=True, text=True, timeout=200)]
    for done in both:
        assert done.returncode == 0, done.stderr[-2000:]
        assert len(done.stdout.splitlines()) == 1                             # one process speaks
    one, two = (checkpoint.load(tmp_path/f'run{n}')[0] for n in (1, 2))
    assert one.keys() == two.keys()
    for k in one: torch.testing.assert_close(one[k], two[k], rtol=0, atol=1e-5, msg=k)


def test_processes_end_the_timing_of_a_step_together(tmp_path):
    "One of two is held up as it looks at the clock: with a time of its own it would go on while the other times another step, and Gloo would abort"
    late = ('dcd_nb.training:Loop.advance', 7, signal.SIGSTOP)
    args = ['digits-noise', '--batch', 64, '--minutes', .08, '--out', 'run', '--set',
            'network=MLP(shape=(1,8,8),width=32,blocks=2)']
    both = start_together(2, 'dcd_train', *args, cwd=tmp_path, fates={1: late})
    stopped = lambda p: Path(f'/proc/{p.pid}/stat').read_text().rsplit(')', 1)[1].split()[0] == 'T'
    while not stopped(both[1]): time.sleep(.01)
    time.sleep(1.)
    both[1].send_signal(signal.SIGCONT)
    assert [p.wait(60) for p in both] == [0, 0], [p.communicate()[1][-1000:] for p in both]


def ends_with_a_sentence(p, within):
    "A process that has lost the others; returns why, in PyTorch's words"
    began = time.monotonic()
    code, (_, err) = p.wait(within), p.communicate()
    assert code == 2 and time.monotonic() - began < within and 'Traceback' not in err, err[-1000:]
    last = re.fullmatch(r'error: process \d of 2 has lost the others \((.*)\): start all of them again with resume=True \(--resume\).*', err.splitlines()[-1])
    assert last, err
    return last[1]


def test_a_process_that_hangs_or_dies_ends_the_others_and_one_process_finishes_the_run(tmp_path):
    "With parts of batches, epochs that end within a batch (1797 observations), and the same weights as a run that one process makes alone"
    args = ['digits-noise', '--batch', 64, '--images', 40*64, '--checkpoint_every', 20*64, '--accumulate', 2,
            '--json', '--resume', '--set', 'network=MLP(shape=(1,8,8),width=32,blocks=2)']
    def two(fate, **env):
        return start_together(2, 'dcd_train', *args, '--out', 'run2', cwd=tmp_path, fates=fate,
                              env=os.environ | env)
    # it lives, and says nothing any more
    waits, hangs = two({1: step(31, signal.SIGSTOP)}, DCD_WAIT='2')
    try: assert 'Timed out' in ends_with_a_sentence(waits, 30)
    finally: hangs.kill()
    assert hangs.wait(60) == -signal.SIGKILL and checkpoint.committed(tmp_path/'run2') == [20*64]
    # of those that are left; and it is the first of the two
    dies, lives = two({0: step(11)})
    assert dies.wait(60) == -signal.SIGKILL and 'Timed out' not in ends_with_a_sentence(lives, 60)
    again, alone = (finish(Command('dcd_train', *args, '--out', out, cwd=tmp_path))
                    for out in ('run2', 'run1'))
    assert again['resumed_at'] == 20*64 and alone['images'] == again['images'] == 40*64
    one, two = (checkpoint.load(tmp_path/out)[0] for out in ('run1', 'run2'))
    for k in one: torch.testing.assert_close(one[k], two[k], rtol=0, atol=1e-5, msg=k)


@pytest.mark.parametrize('phase', [1, 2])
def test_bf16_learns_as_float32(phase):
    "The difference of the two curves is small beside the noise of a curve"
    ys = measured(n=512)
    def curve(precision, seed=0):
        settings = dict(images=200*32, batch=32, lr=1e-3, quiet=True, seed=seed,
                        hardware=Hardware('cpu', precision),
                        checkpoints=Checkpoints(10**6, grid=0, monitor=False))
        T = train(ys, network(), **settings) if phase == 1 else distill(teacher, ys, **settings)
        return torch.tensor([[l['loss'], l.get('fake_loss', 0.)] for l in T.history if 'loss' in l])
    teacher = phase == 2 and train(ys, network(), images=3200, batch=32, lr=1e-3, quiet=True, hardware='cpu')
    want, found, other = curve('fp32'), curve('bf16'), curve('fp32', seed=1)
    apart, noise = ((want - c).square().mean(0).sqrt() for c in (found, other))
    assert len(want) == 100 and (want[0] != found[0]).any()                      # bf16 it was
    assert (apart <= .25*noise).all(), (apart, noise)


# In this process

def measured(sigma=.5, n=400): return Corruption(Identity(), sigma).measure(digits()[:n])


def network(seed=0):
    torch.manual_seed(seed)
    return MLP((1, 8, 8), width=32, blocks=1)


def poisoned(objective, when):
    "`objective` whose loss is not finite at the steps `when`"
    class Poisoned(type(objective)):
        calls = 0
        def loss(self, net, batch, draws=None):
            Poisoned.calls += 1
            return super().loss(net, batch, draws)*(math.nan if Poisoned.calls in when else 1.)
    p = Poisoned(objective.sigma)
    Poisoned.__name__ = type(objective).__name__
    return p


def test_a_poisoned_batch_is_refused_and_noted(tmp_path):
    t = train(measured(), network(), poisoned(AmbientTweedie(.5), {50}), images=64*200, batch=64,
              out=tmp_path/'run', quiet=True)
    events = [l for l in lines(tmp_path) if l.get('event') in ('skipped', 'rollback')]
    assert [(e['event'], e['steps']) for e in events] == [('skipped', 1)]
    assert t.cost['skipped'] == 1 and t.cost['rollbacks'] == 0
    assert all(p.isfinite().all() for p in t.net.parameters())
    assert all(math.isfinite(l['loss']) for l in lines(tmp_path) if 'loss' in l)


def test_many_poisoned_batches_roll_back(tmp_path):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        t = train(measured(), network(), poisoned(AmbientTweedie(.5), range(110, 130)), images=64*200,
                  batch=64, out=tmp_path/'run', checkpoints=Checkpoints(64*50))
    events = [l for l in lines(tmp_path) if l.get('event') in ('skipped', 'rollback')]
    assert any(e['event'] == 'rollback' and e['to'] == 64*100 and e['lr_factor'] == .5
               for e in events), events
    assert t.cost['rollbacks'] >= 1 and t.cost['images'] == 64*200 and said


def test_an_exploding_loss_rolls_back_and_then_gives_up():
    calls = dict(n=0)
    learner = Learner(network())

    def step(now):
        calls['n'] += 1
        x = torch.ones(4, 1, 8, 8)
        found = learner.step(lambda part: (learner.net(x, x.new_zeros(4))**2).mean(), now)
        return found._replace(loss=found.loss*0 + (1000. if now.step > 150 else 1.))

    with warnings.catch_warnings(record=True) as said, pytest.raises(BadInput,
        match='went wrong six times.*the loss rose from 1 to'):
        warnings.simplefilter('always')
        fit(step, dict(net=learner), RunFolder(None, dict(images=16*400, batch=16, seed=0)))
    assert len(said) == 5 and 'half the learning rate' in str(said[0].message)


def test_a_failed_save_does_not_end_the_run(tmp_path, monkeypatch):
    real, calls = checkpoint.save, []
    def save(*args, **kw):
        calls.append(1)
        if len(calls) == 3: raise BadInput('disk full')
        real(*args, **kw)
    monkeypatch.setattr(checkpoint, 'save', save)
    with pytest.warns(UserWarning, match='training goes on'):
        train(measured(), network(), AmbientTweedie(.5), images=64*100, batch=64, out=tmp_path/'run',
              quiet=True)
    assert len(calls) == 10 and checkpoint.committed(tmp_path/'run')[0] == 6400


class NoSync(TorchDispatchMode):
    "Fails when a number is read from the device"
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, 'a step waits for the device'
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('A, objective', [(Corruption(Identity(), .5), AmbientTweedie(.5)),
                                          (Corruption(RandomMask(.5), .1), AmbientInpainting(.5, .1))])
def test_a_step_never_waits_for_the_device(A, objective):
    ys = A.measure(digits()[:100])
    net = Precond(training.with_extra_channels(UNet.named('digits', dropout=.1), objective.extra_channels))
    learner, feed = Learner(net, decay=.2), BatchFeed(ys, 0, flip=True)
    def step(now):
        return learner.step(lambda part: objective.loss(net, feed(part), part.draws).mean(), now)
    loop = Loop(step, dict(net=learner), RunFolder(None, dict(images=3200, batch=32, seed=0)), 'cpu',
                training.exploded, None, True)
    loop.prepare()
    loop.advance()
    with NoSync(): [loop.advance() for _ in range(5)]
    with pytest.raises(AssertionError, match='waits'), NoSync(): loop.sums['loss'].item()


def test_minutes_become_images_once(tmp_path):
    start = time.time()
    first = train(measured(), network(), AmbientTweedie(.5), minutes=.1, batch=64, out=tmp_path/'run',
                  quiet=True).cost
    assert 1 < time.time() - start < 20
    again = train(measured(), network(1), AmbientTweedie(.5), minutes=.1, batch=64, out=tmp_path/'run',
                  resume=True, quiet=True).cost
    assert again['resumed_at'] == again['images'] == first['images'] and again['weights_sha256'] == first['weights_sha256']


def test_another_recipe_is_refused(tmp_path):
    go = lambda **kw: train(**dict(ys=measured(), net=network(), objective=AmbientTweedie(.5), images=640,
                                   batch=64, out=tmp_path/'run', resume=True, quiet=True) | kw)
    go()
    for kw, says in [(dict(lr=1e-2), 'learn.lr=0.0002, not 0.01'),
                     (dict(images=6400), 'images=640, not 6400'),
                     (dict(ys=measured(.4)), 'data.corruption.sigma=0.5, not 0.4'),
                     (dict(ys=measured(n=399)), 'data.'), (dict(seed=1), 'seed=0, not 1'),
                     (dict(net=MLP((1, 8, 8))), 'net.'), (dict(resume=False), 'is not empty')]:
        with pytest.raises(BadInput, match=says): go(**kw)
    assert go().cost['resumed_at'] == 640
    (tmp_path/'other').mkdir()
    (tmp_path/'other/thesis.tex').write_text('x')
    with pytest.raises(BadInput, match='not the folder of a run'): go(out=tmp_path/'other')
    with pytest.raises(BadInput, match='not the folder of a run'): Teacher.load(tmp_path/'other')


@pytest.mark.parametrize('kw, says', [
    (dict(ys=digits()), 'ys must be Measurements'), (dict(images=None), 'one of the two'),
    (dict(minutes=1), 'one of the two'), (dict(images=0), 'images=0'),
    (dict(batch=0), 'batch=0'), (lambda: dict(batch=72, hardware=Hardware(accumulate=3)),
                                 'use a multiple of 48'), (dict(lr=-1), 'lr=-1'), (dict(decay=2), 'decay=2'),
    (dict(objective='Standard'), "objective='Standard'"), (dict(halflife=None), 'halflife=None'),
    (dict(betas=.9), 'betas=0.9'), (dict(betas=(2, .9)), 'betas=2'),
    (dict(learning_rate=1), "argument='learning_rate'"), (dict(net=3), 'net=3'),
    (lambda: dict(checkpoints=Checkpoints('a')), "every='a'"),
    (lambda: dict(checkpoints=Checkpoints(-5)), 'every=-5'), (dict(seed=1.5), 'seed=1.5'),
    (lambda: dict(checkpoints=Checkpoints(grid='x')), "grid='x'"),
    (dict(checkpoints=5), 'checkpoints=5 must be'), (dict(hardware=5), 'hardware=5 must be'),
    (lambda: dict(checkpoints=Checkpoints(monitor=5)), 'monitor=5'),
    (lambda: dict(checkpoints=Checkpoints(about={'x': torch.ones(1)})), 'cannot be kept as JSON'),
    (lambda: dict(checkpoints=Checkpoints(select='v')), "select='v' needs a monitor"),
    (dict(hardware='mps'), "device='mps'"), (dict(out=__file__), 'is a file'),
    (dict(objective=AmbientInpainting(.5)), r'cannot learn from observations through Identity\(\)'),
    (dict(net=MLP((1, 4, 4))), r'shape \(1, 4, 4\)'), (lambda: dict(hardware=Hardware(compile='yes')),
                                                       "compile='yes'"), (dict(hardware='gpu'), "device='gpu'"),
    (lambda: dict(hardware=Hardware(precision='fp16')), 'bf16'),
    (dict(device='cpu'), "argument='device' is not known: it belongs to the hardware, hardware=Hardware"),
    (dict(levels=1), r"argument='levels' is not known: levels belong to the objective of train, e.g. objective=AmbientTweedie\(sigma, levels=...\)"),
    (dict(sigma=.1), r'Corruption\(op, sigma\).*objective=AmbientTweedie\(sigma\)'),
    (dict(loss=1), 'an argument of distill.*its objective, objective='),
    (dict(alpha=1.2), r'loss=SiD\(alpha=...\)'),
    (dict(steps=3, images=None), r'images=steps\*batch.*Teacher.sample'),
    (dict(epochs=1, images=None), r'images=epochs\*len\(ys\)'),
    (dict(steps=9), r'images=steps\*batch.*Teacher.sample'), (dict(epochs=9), r'images=epochs\*len\(ys\)'),
    (dict(batch_size=9), 'is called batch'), (dict(learning_rate=1), 'is called lr'),
    (dict(monitor=print), r'checkpoints=Checkpoints\('),
    (dict(halflive=1), "argument='halflive' is not known; did you mean 'halflife'")])
def test_bad_input_is_one_sentence(kw, says):
    with pytest.raises(BadInput, match=says) as e:
        train(**dict(ys=measured(), net=network(), objective=AmbientTweedie(.5), images=64, batch=64,
                     quiet=True) | (kw() if callable(kw) else kw))
    assert '\n' not in str(e.value)


def test_what_belongs_to_a_part_of_a_run_is_sent_there():
    "Whoever passes an argument of a part to `train` is told to which part it belongs"
    arguments = lambda f: {k for k in inspect.signature(f).parameters if k not in ('self', 'n', 'kw')}
    parts = [Hardware, Checkpoints, Student, Precond, Teacher.sample,
             *(c for f in ('objective', 'loss') for c in Named.families[f].known.values()
               if c.__module__.startswith('dcd_nb'))]
    own = arguments(Learner) | arguments(train) | arguments(distill)
    told = {name for names in training.belongs for name in names.split()}
    assert not set().union(*map(arguments, parts)) - told - own
    assert not told & arguments(Learner) - {'net'} and not told & arguments(train) & arguments(distill)
    known = arguments(Hardware) | arguments(Checkpoints) | arguments(Student)
    for name in known - own:
        with pytest.raises(BadInput,
                           match=f"argument='{name}' is not known: .*(Hardware|Checkpoints|Student)"):
            training.known_settings({name: 1})


def test_folders_that_are_not_quite_the_run(tmp_path):
    go = lambda name, **kw: train(**dict(ys=measured(), net=network(), objective=AmbientTweedie(.5),
                                         images=640, batch=64, out=tmp_path/name, quiet=True) | kw)
    one, other = go('one'), go('other', seed=1)
    assert Teacher.load(tmp_path/'one').data == one.data and one.data['image'] == [1, 8, 8]
    for f in checkpoint.committed(tmp_path/'one'), checkpoint.committed(tmp_path/'other'): assert f[0] == 640
    for p in (tmp_path/'other').glob('checkpoint-*'): shutil.copy(p, tmp_path/'one')
    for look in (lambda: Teacher.load(tmp_path/'one'), lambda: go('one', resume=True)):
        with pytest.raises(BadInput, match='belongs to another run'): look()
    (tmp_path/'other/recipe.json').write_text('[]')
    for look in (lambda: Teacher.load(tmp_path/'other'), lambda: go('other', seed=1, resume=True)):
        with pytest.raises(BadInput, match='is damaged'): look()
    (tmp_path/'early').mkdir()
    for name in ('.recipe.json.lock', '.recipe.json.77-1'):
        (tmp_path/'early'/name).write_text('')             # killed before it began
    assert go('early').cost['weights_sha256'] == one.cost['weights_sha256']
    lines = (tmp_path/'early/metrics.jsonl').read_text().splitlines()
    for p in (tmp_path/'early').glob('checkpoint-*'): p.unlink()
    assert go('early', resume=True).cost['resumed_at'] is None and len((tmp_path/'early/metrics.jsonl').read_text().splitlines()) == len(lines)


def test_what_goes_wrong_at_the_end_costs_nothing(tmp_path, monkeypatch):
    go = lambda **kw: train(measured(), network(), AmbientTweedie(.5), images=640, batch=64,
                            out=tmp_path/'run', quiet=True, **kw)
    save = checkpoint.save
    def full(folder, images, *a):
        if images == 640: raise BadInput('the disk is full')
        save(folder, images, *a)
    monkeypatch.setattr(checkpoint, 'save', full)
    with pytest.warns(UserWarning, match='the disk is full'): teacher = go()
    assert teacher.cost['images'] == 640 and checkpoint.committed(tmp_path/'run')[0] < 640
    monkeypatch.undo()
    again = go(resume=True)
    assert again.cost['resumed_at'] < 640 and again.cost['weights_sha256'] == teacher.cost['weights_sha256']
    gone = lambda model: shutil.rmtree(tmp_path/'two') if checkpoint.committed(tmp_path/'two')[0] == 64 else None
    with pytest.warns(UserWarning, match='has vanished'):
        train(measured(), network(), AmbientTweedie(.5), images=640, batch=64, out=tmp_path/'two', quiet=True,
              checkpoints=Checkpoints(grid=0, monitor=gone))
    assert Teacher.load(tmp_path/'two').shape == (1, 8, 8)
    # not the run's own files
    with pytest.raises(FileNotFoundError, match='reference'):
        train(measured(), network(), AmbientTweedie(.5), images=640, batch=64, out=tmp_path/'three',
              quiet=True, checkpoints=Checkpoints(monitor=lambda m: open('reference.npz')))


def test_flips_are_refused_where_they_are_wrong():
    from dcd_nb.operators import Operator

    class Shift(Operator):
        def forward(self, x, state): return x.roll(1, -1)
    ys = Corruption(Shift()).measure(digits()[:20])
    with pytest.raises(BadInput, match='flip=True cannot be used'): BatchFeed(ys, 0, flip=True)
    masked = Corruption(RandomMask(.5)).measure(digits()[:64])
    batch = BatchFeed(masked, 0, flip=True)(StepContext(0, 64, 64).micro_batches()[0])
    assert (batch.y*(1 - batch.state) == 0).all()                            # the mask went with its image
    Measurements(batch.y, masked.corruption, batch.state)


def test_everything_but_the_network_is_cheap(tmp_path):
    "Data, random numbers, average of the weights and reports cost less than 5 % of a step of a network of 3 million parameters"
    script = Path(__file__).parent.parent/'benchmarks/step.py'
    done = subprocess.run([sys.executable, script, '3', '8', '1'], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert all(0 < run['overhead'] < .05 and run['parts']['optimiser'] > 0
               for run in json.loads(done.stdout.splitlines()[-1])['runs'])


def test_two_runs_in_one_folder_do_not_mix(tmp_path):
    p = start(tmp_path, images=12_800_000)
    while p.poll() is None and not (tmp_path/'run/metrics.jsonl').exists(): time.sleep(.01)
    code, err = finish(start(tmp_path, images=12_800_000))
    p.send_signal(signal.SIGTERM)
    assert finish(p)[0] == 143
    assert code == 2 and 'is being written by another process' in err and 'Traceback' not in err


def test_metrics_that_somebody_edited_do_not_stop_a_run(tmp_path):
    go = lambda: train(measured(), network(), AmbientTweedie(.5), images=1280, batch=64, out=tmp_path/'run',
                       resume=True, quiet=True)
    go()
    path = tmp_path/'run/metrics.jsonl'
    path.write_text('not JSON' + path.read_text()[8:])
    assert go().cost['resumed_at'] == 1280


def test_a_disk_that_fails_for_metrics_and_pictures_does_not_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr('dcd_nb.training.setup.save_images', lambda *a,
                        **kw: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.warns(UserWarning, match='training goes on'):
        assert train(measured(), network(), AmbientTweedie(.5), images=640, batch=64, out=tmp_path/'run',
                     quiet=True).cost['images'] == 640


def test_a_network_of_ones_own_needs_no_classes():
    class Own(Network):
        def __init__(self, shape):
            super().__init__(locals())
            self.shape, self.in_channels, self.out_channels = tuple(shape), shape[0], shape[0]
            self.net = torch.nn.Conv2d(shape[0], shape[0], 3, padding=1)     # of any name
        def forward(self, x, noise_label, class_labels=None, augment_labels=None): return self.net(x)
    try: assert train(measured(), Own((1, 8, 8)), images=64, batch=64, quiet=True).cost['pflop'] > 0
    finally: Network.known.pop('Own')


@pytest.mark.parametrize('net', [None, 'digits', MLP((1, 8, 8), width=16).to_dict()],
                         ids=['none', 'a name', 'a description'])
def test_first_weights_follow_from_the_seed(net):
    "A network that is made by `train` is the same again, whatever was drawn before"
    ys = Corruption(Identity(), .5).measure(digits()[:64])
    def go(seed):
        torch.randn(seed + 3)
        return train(ys, net, images=64, batch=32, seed=seed, quiet=True).cost['weights_sha256']
    assert go(0) == go(0) != go(1)


def test_a_run_that_begins_anew_notes_its_own_first_weights(tmp_path):
    "One that was killed before its first checkpoint; one with a checkpoint keeps those that it began with"
    def folder(first):
        return RunFolder(tmp_path/'run', dict(kind='train', images=64, batch=32, first=first), resume=True)
    folder('a').begin()
    assert folder('b').plan['first'] == 'b'
    folder('a').save(dict(x=torch.zeros(1)), dict(images=32))
    assert folder('b').plan['first'] == 'a'
