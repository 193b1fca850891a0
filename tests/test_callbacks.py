"Callbacks: every line of a run is told once, loggers hold the same numbers, and none of them can end a run."
import csv
import json
import re
import sys
import textwrap

import pytest
from jupyter_client.manager import start_new_kernel

from dcd_nb.all import *
from dcd_nb.training import Callback, callbacks_of, Live

ys = Corruption(Identity(), .3).measure(digits()[:200], seed=0)


def small(**kw):
    return train(ys, dict(network='MLP', shape=(1, 8, 8), width=8, blocks=1), images=640, batch=64,
                 quiet=True, **kw)


class Diary(Callback):
    def __init__(self): self.told = []
    def begin(self, run): self.told.append('begin'); self.run = run
    def report(self, line): self.told.append(line)
    def checkpoint(self, line): self.told.append(line); self.sample = self.run.preview(4)
    def end(self): self.told.append('end')


def test_every_line_is_told_once_and_samples_can_be_asked_for():
    diary, lines = Diary(), []
    teacher = small(callbacks=[diary, lines.append])
    assert diary.told == ['begin', *teacher.history, 'end'] and lines == teacher.history and diary.sample.shape == (4, 1, 8, 8)
    assert diary.run.plan['images'] == 640
    lines.clear()
    G = distill(teacher, ys, images=128, batch=64, quiet=True, callbacks=lines.append,
                checkpoints=Checkpoints(monitor=False))
    assert lines == G.history


def test_callbacks_do_not_change_what_is_learned():
    assert small(callbacks=Diary()).cost['weights_sha256'] == small().cost['weights_sha256']


def test_a_callback_that_fails_is_told_nothing_more_and_training_goes_on():
    told = []
    def fails(line): told.append(line); raise RuntimeError('no network')
    with pytest.warns(UserWarning, match='no network; it is told nothing more'):
        teacher = small(callbacks=[fails])
    assert len(told) == 1 and teacher.cost['images'] == 640


def table(path):
    return [{k: v for k, v in row.items() if v} for row in csv.DictReader(open(path, encoding='utf-8'))]


def test_csv_holds_what_metrics_hold(tmp_path):
    small(out=tmp_path/'run', callbacks='csv', checkpoints=Checkpoints(monitor=lambda teacher: dict(two=2)))
    lines = [json.loads(line) for line in open(tmp_path/'run/metrics.jsonl')]
    assert [{k: str(v) for k, v in line.items()} for line in lines] == table(tmp_path/'run/metrics.csv') and any('two' in line for line in lines)


def test_tensorboard_shows_the_run(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    teacher = small(out=tmp_path/'run', callbacks=['tensorboard'])
    found = EventAccumulator(str(tmp_path/'run/tensorboard'), size_guidance=dict(images=0)).Reload()
    losses = {line['images']: line['loss'] for line in teacher.history if 'loss' in line}
    assert {e.step: pytest.approx(e.value, rel=1e-5) for e in found.Scalars('loss')} == losses
    assert [e.step for e in found.Images('samples')] == [line['images'] for line in teacher.history
        if line.get('event') == 'checkpoint']


def test_what_is_missing_or_wrong_is_told(monkeypatch):
    with pytest.raises(BadInput, match='needs a folder: pass out='): small(callbacks='csv')
    with pytest.raises(BadInput, match='did you mean'): small(callbacks='tensorbord')
    with pytest.raises(BadInput, match='must be a Callback'): callbacks_of([3])
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    with pytest.raises(BadInput, match=r"pip install 'dcd_nb\[tensorboard\]'"): callbacks_of('tensorboard')


def test_the_live_curve_follows_the_run(monkeypatch):
    "With a box that remembers what it was given, as a notebook's widget is"
    seen = []
    class Box:
        def __setattr__(self, name, v): seen.append(v)
    live = Live()
    monkeypatch.setattr('dcd_nb.training.callbacks.in_notebook', lambda: True)
    monkeypatch.setattr(Live, 'show', lambda self: setattr(self, 'box', Box()))
    small(callbacks=[live])
    assert len(seen) >= 10 and all(html.startswith('<img')
                                   for html in seen) and 'loss after 640 images' in seen[-1] and '0 s left' in seen[-1]
    assert live.picture.shape == (16, 1, 8, 8)


def messages_of(code, timeout=120):
    "What the kernel of a notebook tells its front end while it runs `code`"
    manager, client = start_new_kernel(kernel_name='python3', startup_timeout=timeout)
    try:
        found, sent = [], client.execute(code)
        while True:
            message = client.get_iopub_msg(timeout=timeout)
            found.append(message)
            mine = message['parent_header'].get('msg_id') == sent
            if mine and message['msg_type'] == 'error':
                raise AssertionError('\n'.join(message['content']['traceback']))
            if mine and message['msg_type'] == 'status' and message['content']['execution_state'] == 'idle':
                return found
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_the_live_curve_in_a_real_kernel():
    "A notebook's front end shows a widget as its messages say: it is made once, put onto the page, and filled anew while the run goes"
    said = messages_of(textwrap.dedent('''
        from dcd_nb.all import *
        ys = Corruption(Identity(), .3).measure(digits()[:200], seed=0)
        net = dict(network='MLP', shape=(1, 8, 8), width=8, blocks=1)
        train(ys, net, images=960, batch=32, quiet=True, callbacks='live', checkpoints=Checkpoints(every=320))
        print('trained')
    '''))
    made = {m['content']['comm_id']: m['content']['data']['state'] for m in said
            if m['msg_type'] == 'comm_open'}
    box, = (k for k, state in made.items() if state.get('_model_name') == 'HTMLModel')
    shown = [m['content']['data'].get('application/vnd.jupyter.widget-view+json', {}).get('model_id')
             for m in said if m['msg_type'] == 'display_data']
    assert shown == [box]
    updates = [(i, m['content']['data']['state']['value']) for i, m in enumerate(said)
               if m['msg_type'] == 'comm_msg' and m['content']['comm_id'] == box
               and 'value' in m['content']['data'].get('state', {})]
    end, = (i for i, m in enumerate(said) if m['msg_type'] == 'stream' and 'trained' in m['content']['text'])
    seen = [int(re.search(r'loss after (\d+) images', html)[1]) for _, html in updates]
    assert seen == sorted(seen) and {320, 640, 960} <= set(seen) and seen[-1] == 960, seen
    assert all('<img' in html for _, html in updates) and all(i < end for i, _ in updates)


def test_commands_know_classes_of_ones_own_and_distil_runs_made_in_python(tmp_path):
    from processes import run
    (tmp_path/'mine.py').write_text(textwrap.dedent('''
        from dcd_nb.all import *
        class Fade(Operator):
            "Darker from left to right"
            def __init__(self, least:float=.5): self.least = least
            def forward(self, x, state):
                import torch
                return x*torch.linspace(1, self.least, x.shape[-1]).to(x)
    '''))
    sys.path.insert(0, str(tmp_path))
    try:
        from mine import Fade
        ys = Corruption(Fade(.8), .3).measure(digits()[:100], seed=0)
        ys.save(tmp_path/'ys')
        train(ys, MLP((1, 8, 8), width=8, blocks=1), images=128, batch=64, out=tmp_path/'run', quiet=True)
    finally: sys.path.remove(str(tmp_path))
    without = run('dcd_distill', 'run', '--data', 'ys', '--images', '128', '--batch', '64', '--out', 'g',
                  cwd=tmp_path)
    assert 'import' in without.stderr
    done = run('dcd_distill', 'run', '--data', 'ys', '--images', '128', '--batch', '64', '--out', 'g',
               '--import', 'mine', '--log', 'csv', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert table(tmp_path/'g/metrics.csv')
