"""Bad calls and damaged files: nothing may be lost or wrong in silence, and what is refused is refused in a sentence.

    python benchmarks/fuzz.py [--calls 300] [--files 500] [--seed 0]

prints one JSON object.  A call is good but for one argument.  A file is good but for one flipped bit, a missing end, a
run of zeros, or a missing piece.  What may happen then:

    refused      BadInput: one sentence that says what is wrong
    said         it went through, and a warning says what is wrong or was left out
    same         what was loaded is what was saved: the damage hit nothing that counts
    accepted     the call is good after all (only calls)
    unchecked    a value differs, in a format that has no checksum (npy, tif): nobody can know
    too large    more than the memory holds: only who asks for it can know
    traceback    an exception that was not meant for people
    loss         fewer images than were saved, and not a word
    wrong        as many, but others, and not a word
"""
import argparse
import gzip
import json
import os
import random
import shutil
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dcd_nb.all import *
from dcd_nb.checkpoint import load as load_checkpoint
from dcd_nb.training import Teacher

bad = [None, 'x', '', float('nan'), float('inf'), -1, 0, 1.5, -7, True, (), [], {}, [1, 'a'], object(), np.zeros(3), np.zeros((2, 2, 2, 2), int),
       torch.zeros(0), torch.full((4, 1, 8, 8), torch.nan), torch.zeros(4, 5, 8, 8), torch.zeros(2, 3), torch.zeros(4, 1, 8, 8, dtype=torch.complex64)]


def outcome(f):
    "What becomes of a call: (name, its result, the exception)"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try: found = f()
        except BadInput as e: return 'refused', None, e
        except (MemoryError, RuntimeError) as e:
            if isinstance(e, MemoryError) or 'allocate' in str(e): return 'too large', None, e
            return 'traceback', None, e
        except Exception as e: return 'traceback', None, e
    return 'said' if any(w.category is UserWarning for w in said) else 'accepted', found, None


# Calls

def good_calls(folder):
    "Name, function and arguments of calls that are good and take little"
    x = digits()[:40]
    ys = Corruption(Identity(), .3).measure(x)
    masked = Corruption(RandomMask(.5), .1).measure(x)
    net = dict(network='MLP', shape=(1, 8, 8), width=8, blocks=1)
    small = dict(images=64, batch=32, quiet=True, check=False)
    teacher = train(ys, net, **small)
    G = distill(teacher, ys, checkpoints=Checkpoints(monitor=False), **small)
    a, b = x[:20], x[20:]
    yield 'RandomMask', RandomMask, dict(missing=.5)
    yield 'GaussianBlur', GaussianBlur, dict(size=5, std=1.)
    yield 'Downsample', Downsample, dict(factor=2, kernel='box')
    yield 'FourierMask', FourierMask, dict(R=2, acs=2)
    yield 'MultiCoilMRI', MultiCoilMRI, dict(R=2, acs=2)
    yield 'Photons', Photons, dict(gain=.1, read=.05)
    yield 'Quantise', Quantise, dict(bits=4)
    yield 'Saturation', Saturation, dict(gain=2.)
    yield 'Corruption', Corruption, dict(op=Identity(), sigma=.1)
    yield 'Corruption.measure', Corruption(RandomMask(.5), .1).measure, dict(x=x, seed=0)
    yield 'Measurements', Measurements, dict(y=ys.y, corruption=ys.corruption)
    yield 'Measurements.from_arrays', Measurements.from_arrays, dict(y=masked.y, op='RandomMask(missing=.5)', sigma=.1, state=masked.state)
    yield 'Measurements.load', Measurements.load, dict(path=folder/'ys')
    yield 'Measurements.save', ys.save, dict(path=folder/'other')
    yield 'Measurements.select', ys.select, dict(rows=[0, 1])
    yield 'load_images', load_images, dict(source=folder/'x.npy', size=8, channels=1, dtype=torch.float32, part='train')
    yield 'toy', toy, dict(name='moons', n=10, seed=0)
    yield 'phantoms', phantoms, dict(n=2, size=16, seed=0)
    yield 'rng', rng, dict(seed=0)
    yield 'UNet', UNet, dict(resolution=8, in_channels=1, channels=8, mult=(1,), blocks=1)
    yield 'MLP', MLP, dict(shape=(1, 8, 8), width=8, blocks=1)
    yield 'Precond', Precond, dict(net=MLP((1, 8, 8), width=8, blocks=1), sigma_d=.5)
    yield 'check_network', check_network, dict(net=MLP((1, 8, 8), width=8, blocks=1), shape=(1, 8, 8))
    yield 'objective_for', objective_for, dict(corruption=ys.corruption)
    yield 'AmbientTweedie', AmbientTweedie, dict(sigma=.3)
    yield 'AmbientInpainting', AmbientInpainting, dict(missing=.5, sigma=.1, delta=.1)
    yield 'LogNormal', LogNormal, dict(mean=-1.2, std=1.2)
    yield 'TruncatedLogNormal', TruncatedLogNormal, dict(sigma=.3)
    yield 'LogUniform', LogUniform, dict(lo=.1, hi=5.)
    yield 'SiD', SiD, dict(alpha=1.)
    yield 'train', partial(train, quiet=True), dict(ys=ys, net=net, images=64, batch=32, seed=0, flip=False, hardware='cpu')
    yield 'Checkpoints', lambda **kw: train(ys, net, checkpoints=Checkpoints(**kw), **small), dict(every=32, grid=0, patience=None)
    yield 'Hardware', lambda **kw: train(ys, net, hardware=Hardware(**kw), **small), dict(device='cpu', precision='fp32', threads=1)
    yield 'distill', partial(distill, quiet=True), dict(teacher=teacher, ys=ys, images=64, batch=32, seed=0)
    yield 'Student', lambda **kw: distill(teacher, ys, student=Student(**kw), **small), dict(init_sigma=1., latent_scale=1.)
    yield 'Generator.sample', G.sample, dict(n=2, seed=0, batch=2)
    yield 'Teacher.sample', teacher.sample, dict(n=2, seed=0, steps=3)
    yield 'Generator.save', G.save, dict(path=folder/'model')
    yield 'Generator.load', Generator.load, dict(path=folder/'G')
    yield 'Generator', Generator, dict(net=G.net, objective=G.objective, init_sigma=1.)
    yield 'load_pretrained', load_pretrained, dict(name=str(folder/'G'), device='cpu')
    yield 'restore', restore, dict(prior=G, ys=ys.select([0, 1]), method=Sample(misfit=.2), n=2, seed=0)
    yield 'Sample', Sample, dict(misfit=.2)
    yield 'show_images', show_images, dict(panels=x[:4])
    yield 'save_images', save_images, dict(x=x[:4], path=folder/'grid.png', zoom=1)
    for f in (frechet_distance, psnr, ssim, nmse): yield f.__name__, f, dict(zip(('a', 'b') if f is frechet_distance else ('x', 'ref'), (a, b)))
    yield 'recipe', recipe, dict(name='digits-noise')
    yield 'check_physics', check_physics, dict(ys=ys)
    yield 'missing_rate', missing_rate, dict(y=masked.y)
    yield 'judge_without_clean', judge_without_clean, dict(G=G, ys=ys, n=40)
    yield 'write_frames', write_frames, dict(path=folder/'frames', x=x[:2], about={})
    yield 'callbacks', lambda callbacks: train(ys, net, callbacks=callbacks, **small), dict(callbacks=[])


def call_cases(folder, n, seed):
    "`n` calls with one bad argument each"
    pick, found = random.Random(seed), []
    for name, f, kw in good_calls(folder):
        for k in kw: found += [(f'{name}({k}={v!r:.40})', lambda f=f, kw=kw, k=k, v=v: f(**(kw | {k: v}))) for v in bad]
    return pick.sample(found, min(n, len(found)))


# Files

def write_all(folder):
    "Files of all kinds; yields their path, how they are read, and whether the format holds a checksum of its values"
    x = digits()[:12]
    bytes_ = ((x[:, 0] + 1)*127.5).round().to(torch.uint8).numpy()
    (folder/'png').mkdir()
    for i in range(len(x)): save_images(x[i:i + 1], folder/f'png/{i:03}.png')
    (folder/'tif').mkdir()
    for i, im in enumerate(bytes_): Image.fromarray(im).save(folder/f'tif/{i:03}.tif')
    png = sorted((folder/'png').iterdir())
    with zipfile.ZipFile(folder/'x.zip', 'w') as z:
        for p in png: z.write(p, p.name)
    for name, mode in (('x.tar', 'w'), ('x.tar.gz', 'w:gz')):
        with tarfile.open(folder/name, mode) as t:
            for p in png: t.add(p, p.name)
    np.save(folder/'x.npy', bytes_[:, None])
    np.savez_compressed(folder/'x.npz', images=bytes_[:, None])
    ys = Corruption(RandomMask(.5), .1).measure(x)
    ys.save(folder/'ys')
    small = dict(images=64, batch=32, quiet=True, check=False)
    plain = Corruption(Identity(), .3).measure(x)
    teacher = train(plain, dict(network='MLP', shape=(1, 8, 8), width=8, blocks=1), out=folder/'run', **small)
    G = distill(teacher, plain, checkpoints=Checkpoints(monitor=False), **small)
    G.save(folder/'G'), teacher.save(folder/'teacher')
    images = lambda path: load_images(path)
    weights = lambda path: torch.cat([t.float().flatten() for t in load_pretrained(str(path.with_suffix(''))).net.state_dict().values()])
    def measurements(path):
        ys = Measurements.load(path.with_suffix(''))
        return torch.stack([ys.y, ys.state], 1)
    def checkpoint(path): return torch.cat([t.float().flatten() for t in load_checkpoint(path.parent)[0].values()])
    yield from ((folder/'png', p, images, True) for p in png[:3])
    yield folder/'tif', folder/'tif/003.tif', images, False
    yield from ((folder/name, folder/name, images, checked) for name, checked in (('x.zip', True), ('x.tar', True), ('x.tar.gz', True), ('x.npy', False), ('x.npz', True)))
    for end in ('safetensors', 'json'):
        yield folder/f'ys.{end}', folder/f'ys.{end}', measurements, True
        yield folder/f'G.{end}', folder/f'G.{end}', weights, True
        yield folder/f'teacher.{end}', folder/f'teacher.{end}', weights, True
        last = sorted((folder/'run').glob(f'checkpoint-*.{end}'))[-1]
        yield last, last, checkpoint, True


def damage(raw, pick):
    "Bytes with one fault, and its name"
    kind, at = pick.choice(['flip', 'cut', 'zero', 'gap']), pick.randrange(len(raw))
    if kind == 'flip': return kind, raw[:at] + bytes([raw[at] ^ 1 << pick.randrange(8)]) + raw[at + 1:]
    if kind == 'cut': return kind, raw[:at]
    n = pick.choice([1, 8, 64, 512])
    return kind, raw[:at] + (bytes(len(raw[at:at + n])) if kind == 'zero' else b'') + raw[at + n:]


def judged(read, path, want, checked):
    "What becomes of a damaged file"
    kind, found, e = outcome(lambda: read(path))
    if kind in ('refused', 'traceback', 'said'): return kind, e
    if found.shape == want.shape and torch.equal(found, want): return 'same', None
    if len(found) < len(want): return 'loss', None
    return ('wrong' if checked or found.shape != want.shape else 'unchecked'), None


def file_cases(folder, n, seed):
    "Damage one file at a time; name and outcome of each"
    pick, files = random.Random(seed), [*write_all(folder)]
    wanted = [read(path) for path, _, read, _ in files]
    for k in range(n):
        i = k % len(files)
        path, file, read, checked = files[i]
        raw = file.read_bytes()
        kind, broken = damage(raw, pick)
        if broken == raw: continue
        file.write_bytes(broken)
        now = time.time_ns() + k*10**6                       # another time: the cache holds the good one
        os.utime(file, ns=(now, now))
        yield f'{file.name}: {kind}', *judged(read, path, wanted[i], checked)
        file.write_bytes(raw)


def archive_cases(folder):
    "Eight ways in which archives lose images: name and outcome of each"
    png = sorted((folder/'png').iterdir())
    tar, zipped, gz = ((folder/name).read_bytes() for name in ('x.tar', 'x.zip', 'x.tar.gz'))
    header, member = tar.index(png[6].name.encode()), tar.index(png[6].name.encode())
    entry = zipped.rindex(png[6].name.encode())
    def flipped(raw, at): return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1:]
    cases = dict(
        tar_bit_in_a_header=('a.tar', flipped(tar, header + 130)), tar_cut_at_a_member=('b.tar', tar[:member]),
        tar_cut_before_its_end=('c.tar', tar[:tar.rindex(b'IEND') + 512 & ~511]), tgz_cut_at_a_member=('d.tar.gz', gzip.compress(tar[:member])),
        gzip_wrong_checksum=('e.tar.gz', gz[:-8] + bytes(4) + gz[-4:]), gzip_no_checksum=('f.tar.gz', gz[:-8]),
        zip_bit_in_a_name=('g.zip', flipped(zipped, entry)), zip_bit_in_a_name_at_its_end=('h.zip', flipped(zipped, entry + len(png[6].name) - 1)))
    want = load_images(folder/'x.tar')
    for name, (file, raw) in cases.items():
        (folder/file).write_bytes(raw)
        yield name, *judged(load_images, folder/file, want, True)


def fuzz(calls=300, files=500, seed=0):
    "Counts, and what was not as it should be"
    counts, bad = dict(calls=Counter(), files=Counter(), archives=Counter()), []
    folder, before = Path(tempfile.mkdtemp()), os.environ.get('DCD_CACHE')
    os.environ['DCD_CACHE'] = str(folder/'cache')
    def note(where, name, kind, e):
        counts[where][kind] += 1
        if kind in ('traceback', 'loss', 'wrong'): bad.append(f"{name}: {kind}{f' {type(e).__name__}: {e!s:.100}' if e else ''}{place(e)}")
    try:
        for name, kind, e in file_cases(folder, files, seed): note('files', name, kind, e)
        for name, kind, e in archive_cases(folder): note('archives', name, kind, e)
        for name, f in call_cases(folder, calls, seed):
            kind, _, e = outcome(f)
            note('calls', name, kind, e)
    finally:
        shutil.rmtree(folder)
        os.environ.pop('DCD_CACHE')
        if before: os.environ['DCD_CACHE'] = before
    total = {k: sum(c[k] for c in counts.values()) for k in ('traceback', 'loss', 'wrong')}
    refused = counts['calls']['refused'] + counts['calls']['traceback'] + counts['files']['refused'] + counts['files']['traceback']
    return dict(seed=seed, counts={k: dict(c) for k, c in counts.items()}, **total, traceback_share=total['traceback']/max(1, refused), bad=bad)


def place(e):
    "The line of the package where an exception arose"
    lines = [f for f in traceback.extract_tb(e.__traceback__) if 'dcd_nb' in f.filename] if e else []
    return f' at {Path(lines[-1].filename).name}:{lines[-1].lineno}' if lines else ''


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, v in dict(calls=300, files=500, seed=0).items(): parser.add_argument(f'--{name}', type=int, default=v)
    print(json.dumps(fuzz(**vars(parser.parse_args())), indent=1))
