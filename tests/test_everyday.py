"What everyday use ran into: nothing is lost in silence, and what cannot be done is said in a sentence."
import copy
import io
import json
import re
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from dcd_nb.all import *
from dcd_nb.cli import train as train_command
from dcd_nb.cli.options import polite
from dcd_nb.data import archives, read_frames
from dcd_nb.files import path_of
from dcd_nb.networks import Network
from dcd_nb.operators import Operator
from dcd_nb.restore import learn_misfit, Misfit
from dcd_nb.runs import results_of, run_recipe
from dcd_nb.training import Teacher

x = digits()[:64]
ys = Corruption(Identity(), .5).measure(x)
small = dict(images=64, batch=32, quiet=True, check=False)


def mlp(): return MLP((1, 8, 8), width=8, blocks=1)


def picture(path, seed, lo=50, hi=100):
    a = np.random.default_rng(seed).integers(lo, hi, (8, 8, 3), np.uint8)
    Image.fromarray(a).save(path)
    return a


@pytest.fixture(scope='module')
def models():
    T = train(ys, mlp(), **small)
    return T, distill(T, ys, checkpoints=Checkpoints(monitor=False), **small)


# Images

def test_what_was_left_out_is_said_each_time(tmp_path, monkeypatch):
    "Also when the images come from the cache"
    monkeypatch.setenv('DCD_CACHE', str(tmp_path/'cache'))
    (tmp_path/'in').mkdir()
    for k in range(3): picture(tmp_path/f'in/{k}.png', k)
    (tmp_path/'in/mask.npy').write_bytes(b'0')
    for _ in range(2):
        with pytest.warns(UserWarning, match='these were left out: 1 .npy') as said:
            assert len(load_images(tmp_path/'in')) == 3
        assert len(said) == 1


def test_pictures_are_scaled_alike_wherever_they_lie(tmp_path, monkeypatch):
    "One file, a list and a pattern, as in a folder: 0 is -1, and 255 is 1"
    monkeypatch.setenv('DCD_CACHE', str(tmp_path/'cache'))
    (tmp_path/'in').mkdir()
    paths = [tmp_path/f'in/{k}.png' for k in range(2)]
    a = np.stack([picture(p, k) for k, p in enumerate(paths)]).transpose(0, 3, 1, 2)
    want = torch.from_numpy(a)/127.5 - 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for source in (tmp_path/'in', paths, str(tmp_path/'in/*.png')):
            assert torch.allclose(load_images(source), want, atol=1e-6)
        assert torch.allclose(load_images(paths[1]), want[1:], atol=1e-6)


@pytest.mark.parametrize('given', [np.zeros((4, 8, 8)), torch.zeros(4, 1, 8, 8), [], None, 7])
def test_arrays_in_place_of_paths_are_told_what_to_do(given):
    with pytest.raises(BadInput, match=r'source=.* must be a path, .*Measurements.from_arrays'):
        load_images(given)


@pytest.mark.parametrize('given', [[np.zeros((8, 8))]*2, [torch.zeros(8, 8)], [1, 2]])
def test_lists_of_what_is_no_picture_are_told_what_to_do(given):
    with pytest.raises(BadInput, match=r'item 0 is of type .*: give files, PIL images, or arrays of bytes'):
        load_images(given)


def test_a_large_member_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.writestr('huge.png', bytes(3000))
    monkeypatch.setattr(archives, '_largest', 2000)
    monkeypatch.setattr(zipfile.ZipExtFile, 'read', lambda self, n=-1: pytest.fail('it was read'))
    with pytest.raises(BadInput, match='huge.png in .*leave it out'):
        [*archives.image_files(tmp_path/'a.zip')]


def test_a_zip_with_more_members_than_16_bits_count(tmp_path):
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z:
        for k in range(2**16 + 5):                                      # only the directory is written
            z.filelist.append(zipfile.ZipInfo(str(k)))
            z.filelist[-1].header_offset = z.filelist[-1].CRC = 0
        z._didModify = True
    assert archives._members_told(tmp_path/'a.zip') == 2**16 + 5


# Names

long = 'a'*300


@pytest.mark.parametrize('use', [
    load_images, load_pretrained, read_frames, Generator.load, Teacher.load, Measurements.load, results_of,
    ys.save, lambda p: train(ys, mlp(), out=p, **small),
    lambda p: run_recipe('digits-noise', p), path_of], ids=lambda use: use.__qualname__)
@pytest.mark.parametrize('name', [long, f'{long}/b', 'a\0b'], ids=['long', 'long folder', 'zero'])
def test_what_can_be_no_name_is_a_sentence(use, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match='cannot be the name of a file') as e: use(name)
    assert len(str(e.value)) < 250 and not [*tmp_path.iterdir()]


def test_a_name_that_is_too_long_with_its_ending_is_a_sentence(tmp_path):
    for n in range(235, 256, 5):
        try: ys.save(tmp_path/('a'*n))
        except BadInput as e: assert re.search('cannot be the name|could not be written', str(e))
        assert not [p for p in tmp_path.iterdir() if p.name.startswith('.')]


def test_text_that_a_terminal_cannot_show_does_not_end_a_command(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', out)
    polite(lambda: print('Fréchet'))()
    out.flush()
    assert out.buffer.getvalue() == b'Fr?chet\n'


# Types

def doubled(m): m.net.double(); return m
def copied(m): return type(m)(copy.deepcopy(m.net), m.objective)


@pytest.mark.parametrize('use', [
    lambda T, G: doubled(copied(G)).sample(2), lambda T, G: doubled(copied(T)).sample(2, steps=3), lambda T,
    G: restore(doubled(copied(G)), ys.select([0]), n=2),
    lambda T, G: restore(doubled(copied(T)), ys.select([0]), n=2), lambda T,
    G: learn_misfit(doubled(copied(G)), ys), lambda T, G: distill(doubled(copied(T)), ys, **small),
    lambda T, G: train(ys, mlp().double(), **small)])
def test_weights_of_64_bits_are_refused(use, models):
    with pytest.raises(BadInput, match=r'torch.float64.*call net.float\(\)'): use(*models)


@pytest.mark.parametrize('use', [
    lambda T, G: train(ys, None, **small), lambda T, G: train(ys, mlp(), **small), lambda T,
    G: distill(T, ys, **small), lambda T, G: G.sample(2),
    lambda T, G: T.sample(2, steps=3), lambda T, G: restore(G, ys.select([0]), n=2), lambda T,
    G: restore(T, ys.select([0]), n=2)])
def test_where_all_is_of_64_bits_it_is_said(use, models):
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(BadInput, match=r'call torch.set_default_dtype\(torch.float32\)'): use(*models)
    finally: torch.set_default_dtype(torch.float32)


def test_training_turns_gradients_on(models):
    T, G = models
    hashes = lambda: (train(ys, dict(network='MLP', shape=(1, 8, 8), width=8, blocks=1),
                            **small).cost['weights_sha256'],
                      distill(T, ys, checkpoints=Checkpoints(monitor=False), **small).cost['weights_sha256'],
                      restore(G, ys.select([0]), Sample(.2), n=2, seed=1).mean.sum().item())
    want = hashes()
    with torch.no_grad(): assert hashes() == want


def test_gradients_that_cannot_be_turned_on_are_asked_for(models):
    T, G = models
    for use in (lambda: train(ys, mlp(), **small), lambda: distill(T, ys, **small),
                lambda: restore(G, ys.select([0]), n=2)):
        with torch.inference_mode(), pytest.raises(BadInput, match=r'leave .*inference_mode'): use()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_a_gpu_that_is_not_there_is_a_sentence():
    for use in (lambda: ys.to('cuda'), lambda: train(ys, mlp(), hardware='cuda', **small),
                lambda: load_pretrained('digits-mask', 'cuda')):
        with pytest.raises(BadInput, match="device='cuda' is not there"): use()


# Arguments

def test_monitors_may_return_tensors_and_numbers_of_numpy(models, tmp_path):
    numbers = dict(a=torch.tensor(1.5), b=torch.tensor([2]), c=np.float32(1.5), d=np.int64(2), e=np.array(3.),
                   f=np.bool_(True), g=torch.ones(2), h=float('nan'))
    run = lambda f, *args, name: f(*args, out=tmp_path/name,
                                   checkpoints=Checkpoints(monitor=lambda m: numbers, select=None), **small)
    run(train, ys, mlp(), name='T'), run(distill, models[0], ys, name='G')
    for name in 'TG':
        lines = [json.loads(line) for line in (tmp_path/name/'metrics.jsonl').read_text().splitlines()]
        found = [l for l in lines if l.get('event') == 'checkpoint'][-1]
        assert [found[k] for k in 'abcdefg'] == [1.5, [2], 1.5, 2, 3., True, [1., 1.]], found
        assert 'h' in found and not isinstance(found['a'], str)


class NoSizes(Network):
    def __init__(self):
        super().__init__(locals())
        self.net = torch.nn.Conv2d(1, 1, 3, padding=1)
    def forward(self, x, noise_label, class_labels=None, augment_labels=None): return self.net(x)


def test_a_network_that_does_not_say_its_sizes_is_told_which():
    with pytest.raises(BadInput, match='net=NoSizes does not say its in_channels, out_channels, shape: set'):
        train(ys, NoSizes(), **small)


@pytest.mark.parametrize('use, says', [
    (lambda G: ys[1.5], r'ys\[1.5\]'), (lambda G: ys.select(1.5), 'rows have type'),
    (lambda G: G.sample(1, index=1.5), 'index=1.5'),
    (lambda G: Corruption(Identity(), .1).measure(x, index=1.5), 'index=1.5'),
    (lambda G: G.sample(1, index=[1.5]), r'index=\[1.5\] must be whole'),
    (lambda G: Corruption(Identity(), .1).measure(x[:1], index=[1.5]), 'whole'),
    (lambda G: Generator(True, G.objective), 'net=True must be'),
    (lambda G: Generator(G.net, None), 'objective=None must be'), (lambda G: Misfit(''), "cov='' must be"),
    (lambda G: Misfit(torch.ones(3)), r'cov has shape \(3,\)'),
    (lambda G: Misfit(torch.ones(2, 3)), r'shape \(2, 3\)'),
    (lambda G: Misfit(torch.tensor(-1.)), 'negative variance'),
    (lambda G: Misfit(-torch.eye(4)), 'negative variance'),
    (lambda G: Misfit(torch.full((4, 4), torch.nan)), 'NaN'),
    (lambda G: Operator.parse('RandomMask(missing=.5,missing=.6)'), 'given missing twice'),
    (lambda G: Measurements.from_arrays(ys.y, 'RandomMask(.5, missing=.6)', .1), 'multiple values')])
def test_arguments_that_mean_nothing_are_refused(use, says, models):
    with pytest.raises(BadInput, match=says): use(models[1])


def test_operators_with_tensors_are_described_in_json():
    op = GivenMasks(torch.ones(2, 8, 8))
    again = Operator.from_dict(json.loads(json.dumps(op.to_dict())), op.tensors())
    assert repr(again) == repr(op) and torch.equal(again.masks, op.masks)


def test_sentences_about_your_own_measurements_agree(tmp_path, monkeypatch, capsys):
    "Without data, with images in their place, and with what they are for"
    monkeypatch.chdir(tmp_path)
    ys.save('mine')
    said = {}
    for data in (None, 'digits'):
        with pytest.raises(SystemExit): train_command('own', data=data, out='run')
        said[data] = capsys.readouterr().err
        assert 'measurements' in said[data] and 'dcd_corrupt' in said[data] and 'images as a folder' not in said[data]
    train_command('own', data='mine', out='run', images=64, batch=64)
    assert 'error' not in capsys.readouterr().err and (tmp_path/'run/results.json').exists()
