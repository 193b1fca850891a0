"""The command line under faults: kills, full disks, bad files."""
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from dcd_nb.data import Measurements, load_images
from dcd_nb.operators import Corruption, Identity

corrupt = Path(sys.executable).parent/'dcd_corrupt'


def run(*args, cwd, **kw): return subprocess.run([corrupt, *map(str, args)], cwd=cwd, capture_output=True, text=True, **kw)


def small_disk(): signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def test_kill_and_resume_gives_the_same_bits(tmp_path):
    want = Corruption(Identity(), .1).measure(load_images('roll'), seed=1).hash
    kills = 0
    for attempt in range(12):
        p = subprocess.Popen([corrupt, 'roll', 'ys', '--sigma', '.1', '--seed', '1', '--resume', '--json'], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        note = tmp_path/'.ys.safetensors.part.json'
        done = lambda: json.loads(note.read_text())['done'] if note.exists() else None
        first = done()
        while p.poll() is None and kills < 3:
            time.sleep(.02)
            if done() not in (first, None): p.send_signal(signal.SIGKILL); kills += 1; break
        out, err = p.communicate()
        if p.returncode == 0: break
    assert kills == 3 and p.returncode == 0, err
    assert json.loads(out.splitlines()[-1])['hash'] == want == Measurements.load(tmp_path/'ys').hash
    assert sorted(f.name for f in tmp_path.iterdir()) == ['ys.json', 'ys.safetensors']


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    done = run('digits', 'ys', cwd=tmp_path, preexec_fn=small_disk)
    assert done.returncode == 2 and done.stderr.startswith('error: ') and len(done.stderr.splitlines()) == 1, done.stderr
    assert 'could not be written' in done.stderr and 'make room' in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_full_cache_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    from PIL import Image
    import numpy as np
    (tmp_path/'in').mkdir()
    for i in range(30): Image.fromarray(np.full((64, 64, 3), i, np.uint8)).save(tmp_path/f'in/{i}.png')
    done = run('in', 'ys', cwd=tmp_path, preexec_fn=small_disk, env=os.environ | dict(DCD_CACHE=str(tmp_path/'cache')))
    assert done.returncode == 2 and 'could not be written' in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not list((tmp_path/'cache').iterdir()) and not list(tmp_path.glob('*ys*'))


def test_interrupt_is_polite(tmp_path):
    p = subprocess.Popen([corrupt, 'roll', 'ys'], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))     # a background job ignores it
    while not (tmp_path/'.ys.safetensors.part.json').exists() and p.poll() is None: time.sleep(.02)
    while p.poll() is None:                       # Python drops an interrupt that falls into a destructor; people press again
        p.send_signal(signal.SIGINT)
        try: _, err = p.communicate(timeout=20)
        except subprocess.TimeoutExpired: pass
    assert p.returncode == 130 and '--resume' in err and 'Traceback' not in err


def test_json_is_the_last_line(tmp_path):
    done = run('digits', 'ys', '--op', 'RandomMask(missing=.5)', '--json', cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1])['n'] == 1797 and done.returncode == 0


def test_a_reader_who_has_seen_enough_is_no_error():
    p = subprocess.run(f'{Path(corrupt).parent}/dcd_recipes | head -1', shell=True, capture_output=True, text=True)
    assert len(p.stdout.splitlines()) == 1 and not p.stderr
