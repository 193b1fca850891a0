"""Large data sets must not pass through memory as a whole."""
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

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
    for i in range(700): Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)).save(tmp_path/f'in/{i:04}.bmp')
    out = subprocess.run([sys.executable, '-c', code, tmp_path/'in', tmp_path/'ys'], capture_output=True, text=True,
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
