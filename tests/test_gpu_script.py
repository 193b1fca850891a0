"benchmarks/gpu.sh, rehearsed on a CPU with everything at its smallest: to the end, and cut short"
import json
import os
import random
import signal
import subprocess
import tarfile
import time
from pathlib import Path

script = Path(__file__).parent.parent/'benchmarks/gpu.sh'


def start(seconds, out, **env):
    env = os.environ | dict(TINY='1', IMAGES='digits', CUDA_VISIBLE_DEVICES='') | env
    return subprocess.Popen([script, str(seconds), out], env=env, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def whole_files(out):
    "Its files, of which none is broken, large, or left half written"
    files = {p.name: p for p in out.iterdir()}
    assert len(files) <= 8 and all(p.stat().st_size < 16e6 for p in files.values())
    assert not [name for name in files if name.startswith('.') or 'tmp' in name], files
    for p in [*files.values()]:
        if p.suffix == '.json': json.loads(p.read_text())
        if p.name.endswith('.gz'):
            with tarfile.open(p) as tar:
                files['archive'] = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
    return files


def test_it_finds_out_everything_and_ends_in_time(tmp_path):
    began, p = time.monotonic(), start(300, tmp_path)
    assert p.wait(300) == 0 and time.monotonic() - began < 300, p.stderr.read()
    files, log = whole_files(tmp_path), (tmp_path/'log.txt').read_text()
    assert log.count('ended with 0') == 3, log
    checks, speeds = (json.loads(files[f'{k}.json'].read_text()) for k in ('checks', 'speeds'))
    assert checks['noise, fp32']['finite'] and checks['images'] == 'digits'
    assert speeds['Phase I, fp32, batch 8']['img_per_s'] > 0 < speeds['Phase II, fp32, batch 4']['img_per_s']
    assert speeds['seconds for 50 000 images']['times'] > 1
    assert json.loads(files['archive']['./record/results.json'])['data'] == 'digits'
    assert {'./record/results.json', './record/grid.png',
            './teacher/metrics.jsonl'} <= {*files['archive']} and {'teacher.safetensors',
                'generator.safetensors'} <= {*files}


def left_running(out):
    "Is a process of the run that writes there left? One that was killed takes a moment to go"
    end = time.monotonic() + 10
    while subprocess.run(['pgrep', '-f', f'gpu.py .*{out}'], capture_output=True).returncode == 0:
        if time.monotonic() > end: return True
        time.sleep(.1)
    return False


def test_cut_short_it_leaves_whole_files_and_no_process(tmp_path):
    "At a random moment of each of its parts, and at once"
    cut = {tmp_path/part: random.uniform(.3, 6.)
           for part in ('checks', 'speeds', 'run')} | {tmp_path/'all': random.uniform(.02, .1)}
    began, running = time.monotonic(), {out: start(60, out,
                                                   **({} if out.name == 'all' else dict(PARTS=out.name)))
                                        for out in cut}
    for out, at in sorted(cut.items(), key=lambda v: v[1]):
        time.sleep(max(0., began + at - time.monotonic()))
        running[out].send_signal(signal.SIGTERM)
    for out, p in running.items():
        done = p.wait(20)
        log = (out/'log.txt').read_text() if (out/'log.txt').exists() else ''
        assert done == 143 and 'was told to stop' in log or done == -signal.SIGTERM and not log or done == 0 and log.endswith('end\n'), (cut[out], done, log, p.stderr.read())
        if log: whole_files(out)
        assert not left_running(out), (cut[out], log)


def test_too_few_seconds_are_no_reason_to_be_late(tmp_path):
    began, p = time.monotonic(), start(6, tmp_path)
    assert p.wait(20) == 0 and time.monotonic() - began < 9
    whole_files(tmp_path)


def test_the_front_page_and_one_other_say_what_was_never_run():
    root = script.parent.parent
    said = {p.name for p in [root/'README.md', *root.glob('nbs/*.ipynb')]
            if 'never run on a GPU' in p.read_text()}
    assert said in (set(), {'README.md', 'index.ipynb', '53_machines.ipynb'})
