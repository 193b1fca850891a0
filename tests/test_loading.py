"""Large data sets must not pass through memory as a whole."""
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dcd_nb.data import load_images

code = """
import sys, threading, time, torch
from pathlib import Path
from dcd_nb.data import *; from dcd_nb.operators import *

def anonymous(): return next(int(l.split()[1]) for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('RssAnon'))/1e3
peak, stop = [0.], []
def watch():
    while not stop: peak[0] = max(peak[0], anonymous()); time.sleep(.002)
Corruption(Identity(), .1).measure(digits()[:5]); load_images('digits')            # whatever loads late
start = anonymous()
thread = threading.Thread(target=watch); thread.start()
x = load_images(sys.argv[1], dtype=torch.uint8)
loaded = peak[0] - start
ys = measure_to(Corruption(Identity(), .1), x, sys.argv[2])
stop.append(1); thread.join()
print(x.numel()/1e6, loaded, peak[0] - start, ys.y.numel()*4/1e6)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_memory_does_not_grow_with_the_data(tmp_path):
    (tmp_path/'in').mkdir()
    rng = np.random.default_rng(0)
    for i in range(700):
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)).save(tmp_path/f'in/{i:04}.bmp')
    out = subprocess.run([sys.executable, '-c', code, tmp_path/'in', tmp_path/'ys'], capture_output=True,
                         text=True,
                         env=os.environ | dict(DCD_CACHE=str(tmp_path/'cache')))
    assert out.returncode == 0, out.stderr[-500:]
    data, loading, measuring, observations = map(float, out.stdout.split())
    assert data > 130 and observations > 500
    assert loading < 40 and measuring < 60, out.stdout                                  # MB


def test_digits_and_photographs_are_those_of_scikit_learn():
    "They are read from its files, without importing it"
    from sklearn.datasets import load_digits, load_sample_images
    from dcd_nb.data import digits
    from dcd_nb.show.images import sklearn_file
    assert (digits()[:, 0].numpy() == load_digits().images.astype(np.float32)/8 - 1).all()
    for name, image in zip(('china.jpg', 'flower.jpg'), load_sample_images().images):
        assert (np.asarray(Image.open(sklearn_file('images')/name)) == image).all()


def test_processes_that_start_together_share_one_entry(tmp_path):
    "Each loads the same images, from a cache that is empty at first, many times"
    (tmp_path/'images').mkdir()
    rows = np.random.default_rng(0).integers(0, 255, (30, 8, 8), np.uint8)
    for k, a in enumerate(rows): Image.fromarray(a).save(tmp_path/f'images/{k:02d}.png')
    code = ('import sys, torch\nfrom dcd_nb.data import load_images\nfrom dcd_nb.files import content_hash\nsys.stdin.readline()\n'
            'print(*[content_hash(load_images(sys.argv[1], size, dtype=torch.uint8)) for size in range(2, 8)])')
    env = os.environ | dict(DCD_CACHE=str(tmp_path/'cache'))
    started = [subprocess.Popen([sys.executable, '-X', 'faulthandler', '-c', code, tmp_path/'images'],
                                env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE) for _ in range(4)]
    for p in started: p.stdin.write('go\n'); p.stdin.flush()
    said = [p.communicate(timeout=120) for p in started]
    assert [p.returncode for p in started] == [0]*4, said
    assert len({out for out, _ in said}) == 1 and len(said[0][0].split()) == 6
    assert len([*(tmp_path/'cache').iterdir()]) == 12, 'six entries of two files, and nothing else'


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path/'images').mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path/'images/a.png')
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('DCD_CACHE', str(tmp_path/'file/cache'))
    with pytest.warns(UserWarning, match='set|name another folder'):
        x = load_images(tmp_path/'images', dtype=torch.uint8)
    assert x.flatten().tolist() == [*range(64)]
