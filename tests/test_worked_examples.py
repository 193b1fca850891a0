"""The pages on a camera, on photons and on noisy scans: the commands that they show, run in their order in an empty folder.

What changes is the size: a few small stand-ins for the data, and steps instead of runs.  None needs a package that
`pip install dcd_nb` does not bring, so all run as if there were no others.
"""
import configparser
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import dcd_nb.all
from dcd_nb.data import phantoms
from dcd_nb.show.images import save_images
from dcd_nb.operators import GaussianBlur
from dcd_nb.distill import Generator
from processes import run

root = Path(__file__).parent.parent
nbs = root/'nbs'
optional = {'h5py', 'tifffile', 'mrcfile', 'astropy', 'pydicom', 'nibabel', 'deepinv', 'lpips'}   # not onnx: PyTorch looks for it
small = dict(
    dcd_corrupt=[],
    dcd_train=['--images', '64', '--batch', '32', '--set', 'network=MLP(shape={shape}, width=16, blocks=1)'],
    dcd_distill=['--images', '64', '--batch', '32'],
    dcd_restore=['--images', '2', '--n', '4', '--method', 'Sample(0.5, leaps=1, moves=1, last=1)'],
    dcd_evaluate=['--n', '24'], dcd_sample=['--n', '4'])


def cells(page, kind):
    return [''.join(c['source']) for c in json.loads((nbs/f'{page}.ipynb').read_text())['cells']
            if c['cell_type'] == kind]


def blocks(page):
    "(language, text) of what the page shows below its heading on commands"
    text = '\n'.join(cells(page, 'markdown'))
    said = re.split(r'^## (?:By|From|The same by) commands$', text, flags=re.M)[1].split('\n## ')[0]
    return re.findall(r'^``` (sh|python)\n(.*?)^```', said, re.S | re.M)


def commands_run(page, folder, monkeypatch, shape, names=None, replaced={}, extra={}):
    "Run all blocks; returns the names of the commands"
    monkeypatch.chdir(folder)
    for package in optional: monkeypatch.setitem(sys.modules, package, None)
    space, done = {k: getattr(dcd_nb.all, k) for k in dcd_nb.all.__all__} | (names or {}), []
    for language, text in blocks(page):
        if language == 'python':
            exec(text, space)
            continue
        for words in map(shlex.split, text.splitlines()):
            name, *words = [replaced.get(w, w) for w in words]
            more = [w.format(shape=shape) for w in (small | extra)[name]]
            ended = run(name, *words, *more, cwd=folder, without=optional)
            assert ended.returncode == 0, f'{name} {words}: {ended.stderr[-600:]}'
            done.append(name)
    return done


def test_optional_packages_are_hidden(tmp_path):
    "Those that an extra brings; a command that needs one says which, and others do not notice"
    extras = configparser.ConfigParser()
    extras.read(root/'settings.ini')
    named = ' '.join(v for k, v in extras['DEFAULT'].items() if k.endswith('_requirements') and k != 'dev_requirements')
    assert optional == {re.split('[<>=]', w)[0] for w in named.split()} - {'onnx', 'onnxscript', 'tensorboard'}
    (tmp_path/'x.fits').write_bytes(b'')
    ended = run('dcd_import', 'x.fits', 'ys', '--sigma', '.1', cwd=tmp_path, without=optional)
    assert ended.returncode == 2 and "pip install 'dcd_nb[astronomy]'" in ended.stderr


def test_photons(tmp_path, monkeypatch):
    x = torch.nn.functional.avg_pool2d(torch.randn(12, 1, 24, 24, generator=torch.Generator().manual_seed(0)),
                                       3)*1.5
    np.save(tmp_path/'digits.npy', x.clamp(-1, 1).numpy())
    done = commands_run('41b_photons', tmp_path, monkeypatch, (1, 8, 8),
                        {}, dict(digits='digits.npy'))
    assert done == ['dcd_corrupt', 'dcd_train', 'dcd_distill', 'dcd_evaluate', 'dcd_sample', 'dcd_train',
                    'dcd_distill', 'dcd_evaluate', 'dcd_restore']
    assert Generator.load(tmp_path/'student').corruption['sigma']['gain'] == .07
    assert (tmp_path/'images.png').stat().st_size > 500


def test_noisy_scans(tmp_path, monkeypatch):
    np.save(tmp_path/'phantoms.npy', phantoms(10, 12).numpy())
    smaller = {'phantoms': 'phantoms.npy', '16': '12'}
    done = commands_run('45b_noisy_scans', tmp_path, monkeypatch, (2, 12, 12), replaced=smaller)
    assert done == ['dcd_corrupt', 'dcd_train', 'dcd_distill', 'dcd_restore', 'dcd_evaluate']


def test_a_camera(tmp_path, monkeypatch):
    "Shots of the page's stand-in camera, from their noise to whole restored ones, and verdicts"
    page, space = cells('41c_camera', 'code'), {}
    for mark in ('%load_ext', 'def camera'):
        lines = next(s for s in page if mark in s).splitlines()
        exec('\n'.join(l for l in lines if not l.startswith(('%', 'work = ', 'true = ', 'for i, (one', '    save_images'))), space)
    (tmp_path/'shots').mkdir()
    scenes = GaussianBlur(7, 1.)(space['leaves'](3, 128, 60))
    for i, shot in enumerate(space['camera'](scenes)): save_images(shot[None], tmp_path/f'shots/{i}.png')
    extra = dict(dcd_noise=['--json'], dcd_import=[], dcd_restore=['--images', '1'])
    done = commands_run('41c_camera', tmp_path, monkeypatch, (3, 8, 8), space, extra=extra)
    assert done == ['dcd_noise', 'dcd_import', 'dcd_train', 'dcd_import', 'dcd_restore', 'dcd_distill', 'dcd_evaluate']
    assert Image.open(tmp_path/'restored/000000.png').size == (128, 128)
