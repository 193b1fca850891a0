"A run from recipe to record under kills and in a given time."
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dcd_nb.core import rng
from dcd_nb.metrics import compare
from dcd_nb.mri import phantoms
from dcd_nb.networks import UNet
from dcd_nb.recipes import recipe, recipes
from dcd_nb.runs import check_record, run_recipe

bin = Path(sys.executable).parent
small = 'network=MLP(shape=(1,8,8),width=32,blocks=1) train.images=64_000 train.batch=64 train.checkpoint_every=3200 distill.images=32_000 distill.checkpoint_every=1600'


def start(folder, out, *args, changes=small):
    return subprocess.Popen([bin/'dcd_run', 'digits-noise', out, '--n', '500', '--json', '--set', changes, *args], cwd=folder, env=os.environ,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(p):
    text, err = p.communicate(timeout=300)
    assert p.returncode == 0, err[-2000:]
    return json.loads(text.splitlines()[-1])


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('runs')
    return path, finish(start(path, 'whole'))


def test_ten_kills_end_with_the_same_record(whole):
    path, result = whole
    rand = random.Random(0)
    for k in range(10):
        p, began = start(path, 'parts'), time.time()
        files = lambda: sum(f.stat().st_mtime > began for f in (path/'parts').rglob('*') if f.is_file())
        while not files() and p.poll() is None: time.sleep(.02)              # it is at work
        time.sleep(rand.random()*1.5)
        p.send_signal(signal.SIGKILL), p.communicate()
    again, clock = finish(start(path, 'parts')), {'seconds', 'seconds_50k', 'made_with'}
    assert {k: v for k, v in again.items() if k not in clock} == {k: v for k, v in result.items() if k not in clock}
    keep = lambda out: [l for l in ({k: v for k, v in json.loads(l).items() if k not in ('seconds', 'img_per_s')} for l in (path/out/'record/metrics.jsonl').open())]
    assert keep('parts') == keep('whole')
    for name in ('teacher', 'generator', 'reference'):
        assert (path/f'parts/record/{name}.safetensors').read_bytes() == (path/f'whole/record/{name}.safetensors').read_bytes()


def test_a_record_is_checked(whole):
    path, result = whole
    done = subprocess.run([bin/'dcd_check', path/'whole/record', '--json'], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout) == check_record(path/'whole/record')
    broken = path/'whole/record/results.json'
    told = json.loads(broken.read_text())
    told['fd_10k']['random']['student'] *= .5                               # somebody improved the result
    broken.write_text(json.dumps(told))
    done = subprocess.run([bin/'dcd_check', path/'whole/record'], capture_output=True, text=True)
    assert done.returncode == 2 and 'something else than its weights' in done.stderr


def test_it_ends_in_time(tmp_path):
    began = time.time()
    result = finish(start(tmp_path, 'run', '--minutes', '.5', changes='network=MLP(shape=(1,8,8),width=32,blocks=1)'))
    assert time.time() - began < 60 and result["fd"]["random"]["corrupted"] < 40 and result['images']['teacher'] > 10_000 and result['n'] == 500


def narrow(r):
    "The recipe with its network at reduced width, and three steps of two images"
    net = r['network']
    if isinstance(net, str): net = {'network': 'UNet'} | UNet.sizes[net] | dict(resolution=r.corruption.op.out_shape((3, *[r['data']['size']]*2))[1])
    small = dict(channels=8, blocks=1) if net['network'] == 'UNet' else dict(width=16, blocks=1)
    if r['name'].startswith('fastmri'): small |= dict(resolution=(48, 40))
    return r.override({'network': net | small, 'train.images': 6, 'train.batch': 2, 'distill.images': 6, 'distill.batch': 2})


published = [k for k in recipes() if k.startswith(('cifar10', 'celebahq', 'ffhq', 'afhqv2', 'fastmri')) and not k.endswith('-small')]


def test_scans_leave_a_record(tmp_path):
    r = recipe('phantoms-16-R4', data__n=300, train__images=2560, distill__images=1280)
    results = run_recipe(r, tmp_path/'a', n=200, quiet=True)
    assert {'student', 'teacher_full', 'zero_filled', 'sense'} == set(results['fd']['random']) and check_record(tmp_path/'a/record')['random']['agree']
    ys, heads = r.measurements(), (2*phantoms(300, 16).norm(dim=1, keepdim=True) - 1)
    zero = 2*ys.op.adjoint(ys.y, ys.state).norm(dim=1, keepdim=True)[:200] - 1
    for space, d in results['fd'].items():                                  # of magnitudes, as bytes
        assert d['zero_filled'] == pytest.approx(compare({'zero': zero}, heads, [space])['fd'][space]['zero'], rel=.02)


def test_every_small_edition_fits_into_half_an_hour():
    seen = {}
    for name in published:
        r = recipe(f'{name}-small')
        kind = json.dumps([r['network'], r['train'], r['distill'], r.made(), r.made(whole=True)])
        if kind not in seen: seen[kind] = r.cost()
        c = seen[kind]
        assert r['corruption'] == recipe(name)['corruption'] and r['data'] == recipe(name)['data']
        assert 5 < 60*(c['hours']['H200'] + c['student']['hours']['H200']) < 20


@pytest.mark.parametrize('name', [k for k in recipes() if k != 'own'])
def test_every_recipe_runs_three_steps_of_both_phases(name):
    r = narrow(recipe(name))
    if name.startswith('fastmri'): ys = r.corruption.measure(phantoms(4, (48, 40)))
    elif r['data']['source'] in (None, 'cifar10'):
        ys = r.corruption.measure(2*torch.rand(4, r['data']['channels'], r['data']['size'], r['data']['size'], generator=rng(0)) - 1)
    else: ys = r.override({'data.n': 4}).measurements()
    teacher = r.teacher(ys, quiet=True, grid=0, checkpoint_every=6)
    G = r.student(teacher, ys, quiet=True, grid=0, monitor=False, checkpoint_every=6)
    assert teacher.run['images'] == G.run['images'] == 6 and teacher.run['skipped'] == G.run['skipped'] == 0
    x = G.sample(2)
    assert tuple(x.shape[1:]) == ys.shape and x.isfinite().all()
