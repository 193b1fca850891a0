"""Metrics at their borders, Inception by a stand-in, and dcd_evaluate."""
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dcd_nb
from dcd_nb import cli, metrics
from dcd_nb.draws import rng
from dcd_nb.errors import BadInput
from dcd_nb.show.images import photos, save_images
from dcd_nb.data import digits, load_images
from dcd_nb.files import load_tensors
from dcd_nb.metrics import CifarClassifier, accuracy, copies, evaluate, features, fid, frechet_distance, frechet_interval, kid, labelled, neighbourhoods, nearest, stored
from dcd_nb.operators import Corruption, Identity, RandomMask
from dcd_nb.runs import Judge


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('DCD_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('DCD_INCEPTION', raising=False)
    monkeypatch.setattr('tempfile.gettempdir', lambda: str(tmp_path/'tmp'))


def random_images(n, c=3, size=16, seed=0): return torch.rand(n, c, size, size, generator=rng(seed))*2 - 1


def pngs(folder, x):
    folder.mkdir()
    for i, im in enumerate(x.split(1)): save_images(im, folder/f'{i:04d}.png')
    return folder


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('d', [2, 30, 120])
def test_distance_equals_clean_fid(d):
    from cleanfid.fid import frechet_distance as theirs
    a, b = (torch.randn(n, d, generator=rng(n))@torch.randn(d, d, generator=rng(d)) for n in (400, 300))
    A, B = a.double().numpy(), b.double().numpy()
    assert frechet_distance(a, b) == pytest.approx(theirs(A.mean(0), np.cov(A.T), B.mean(0), np.cov(B.T)),
                                                   rel=1e-4)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('c', [1, 3])
def test_fid_of_folders_equals_clean_fid(tmp_path, c):
    from cleanfid.fid import compute_fid
    f = lambda x: F.adaptive_avg_pool2d((x/255 - .5)**2, 2).flatten(1)*100
    a, b = pngs(tmp_path/'a', random_images(40, c)), pngs(tmp_path/'b', random_images(50, c, seed=1)**3)
    theirs = compute_fid(str(a), str(b), custom_feat_extractor=f, device='cpu', num_workers=0, verbose=False)
    assert fid(a, b, f) == pytest.approx(theirs, rel=1e-3)
    assert fid(load_images(a), load_images(b, dtype=torch.uint8), f) == pytest.approx(fid(a, b, f), abs=1e-9)


@pytest.mark.parametrize('n', [4, 10, 40])
def test_fewer_samples_than_features(n):
    a, b = torch.randn(n, 40, generator=rng(0)), torch.randn(2000, 40, generator=rng(1))
    with pytest.warns(UserWarning, match=f'n={n} samples for d=40 features.* too large, by roughly [0-9]'):
        d = frechet_distance(a, b)
    assert 0 <= d < np.inf


def test_interval_covers_what_other_samples_give():
    ref = torch.randn(5000, 8, generator=rng(0))
    found = [frechet_interval(torch.randn(200, 8, generator=rng(1, i)) + .5, ref) for i in range(60)]
    centre = np.mean([f.value for f in found])
    assert np.mean([f.low <= centre <= f.high for f in found]) > .8
    limit = frechet_distance(torch.randn(200_000, 8, generator=rng(2)) + .5, ref)
    assert abs(np.mean([f.value - f.bias for f in found])
               - limit) < .3*np.mean([f.bias for f in found]) + 3*np.std([f.value for f in found])/60**.5


def test_parts_do_not_matter(monkeypatch):
    "Chunked tables give what whole tables give"
    a, b = torch.randn(50, 5, generator=rng(0)), torch.randn(40, 5, generator=rng(1))
    whole = kid(a, b), neighbourhoods(a, b)
    monkeypatch.setattr(metrics.quality, '_parts', lambda a, m: a.split(7))
    assert np.allclose(whole[0], kid(a, b)) and whole[1] == neighbourhoods(a, b)


def test_masked_neighbours_see_only_what_both_show():
    x = digits()[:60]
    A = Corruption(RandomMask(.5))
    ys = A.measure(x)
    junk = ys.y + (1 - ys.state)*5.                                      # must not be looked at
    assert torch.equal(nearest(x, junk, None, ys.state).index, torch.arange(60))
    assert copies(x, junk, None, ys.state)['share'] == 1


class Twin(torch.nn.Module):
    "Stands in for Inception: the same interface, 2048 features made of pixels"
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(),
                                          torch.nn.Linear(192, 2048))
        self.output = torch.nn.Linear(2048, 1008)

    def forward(self, x, return_features: bool = False):
        h = self.layers(F.interpolate(x, (299, 299))/128 - 1)
        return h if return_features else self.output(h)


@pytest.mark.filterwarnings('ignore:.*torch.jit')
@pytest.mark.parametrize('mode', ['inception', 'inception-legacy'])
def test_inception_is_found_and_named(tmp_path, monkeypatch, mode):
    from cleanfid.resize import build_resizer
    x, net = random_images(6), Twin()
    torch.jit.script(net).save(str(tmp_path/'inception-2015-12-05.pt'))
    for place in (tmp_path, tmp_path/'inception-2015-12-05.pt'):
        monkeypatch.setenv('DCD_INCEPTION', str(place))
        f = features(mode, x)
        u = stored(x).permute(0, 2, 3, 1).numpy()
        big = torch.from_numpy(np.stack([build_resizer('clean')(v) for v in u])).permute(0, 3, 1, 2)
        want = net(stored(x).float(), True) if mode.endswith('legacy') else net.layers((big - 128)/128)
        assert f.name == mode and torch.allclose(f(x), want, atol=1e-4)
        # without bias, as EDM does
        assert torch.allclose(f.head(f(x)), want@net.output.weight.T, atol=1e-3)
    (tmp_path/'inception-2015-12-05.pt').write_bytes(b'no network')
    with pytest.raises(BadInput, match='download it again'): features(mode, x)


def test_missing_inception_is_one_sentence_and_never_a_download(monkeypatch, tmp_path):
    monkeypatch.setattr('urllib.request.urlopen', lambda *a, **kw: pytest.fail('a download'))
    with pytest.raises(BadInput, match='download it once from https') as e:
        fid(random_images(4), random_images(4))
    assert '\n' not in str(e.value)
    assert metrics.feature_space(None, random_images(4)).name == 'random'


def test_reference_is_cached_by_content_and_network(tmp_path):
    x, y = digits()[:400], digits()[400:]
    found = lambda: sorted((tmp_path/'cache').glob('reference-*.json'))
    first = evaluate(x, y, reps=0)
    path = found()[0]
    assert evaluate(x, y.clone(), reps=0)['fd'] == pytest.approx(first['fd'], abs=1e-9) and len(found()) == 1
    evaluate(x, y, 'pca', reps=0); assert len(found()) == 2
    evaluate(x, y[:-1], reps=0); assert len(found()) == 3
    damaged = path.with_suffix('.safetensors')
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert evaluate(x, y, reps=0)['fd'] == pytest.approx(first['fd'], abs=1e-9)
    assert load_tensors(path)[1]['extractor'] == 'classifier'            # mended


@pytest.mark.filterwarnings('ignore:n=')
@pytest.mark.parametrize('x, reference, words', [
    (digits()[:50]/0, digits(), 'NaN or infinity'), (digits()[:50]*300, digits(), 'values up to 300'),
    (digits()[:1], digits(), 'two or more'),
    (digits()[:50, 0], digits(), r'shape \(50, 8, 8\)'),
    (random_images(9, size=8), random_images(9), '8x8 pixels.*16x16'), (digits().int(), digits(), 'int32'),
    (random_images(9, 1), random_images(9), '1 channel,.*3 channels'),
    ('nowhere', digits(), "source='nowhere'"), (None, digits(), 'NoneType')])
def test_bad_images_are_one_sentence(x, reference, words):
    for a, b in ((x, reference), (reference, x)):
        if words.startswith(('8x8', '1 channel')) and a is reference: continue
        with pytest.raises(BadInput, match=words) as e: evaluate(a, b, reps=0)
        assert '\n' not in str(e.value)


def command(capsys, *args, **kw):
    "Exit code, output and errors of dcd_evaluate, in this process"
    try: code = cli.evaluate(*args, **kw) and 0 or 0
    except SystemExit as e: code = e.code
    said = capsys.readouterr()
    return code, said.out, said.err


def test_command_on_a_folder(tmp_path, capsys):
    folder = pngs(tmp_path/'in', random_images(80))
    Corruption(Identity(), .05).measure(load_images(folder)).save(tmp_path/'ys')
    code, out, _ = command(capsys, str(folder), str(folder), find_copies=True,
                           measurements=str(tmp_path/'ys'), json=True)
    d = json.loads(out.splitlines()[-1])
    assert code == 0 and {'n', 'reference', 'extractor', 'fd', 'fd_interval', 'fd_bias', 'kid', 'precision',
                          'recall'} <= set(d)
    assert d['n'] == 80 and d['extractor'] == 'random' and d['fd'] < 1e-6 and d['precision'] == 1 and len(d['fd_interval']) == 2
    assert d['copies']['images']['share'] == 1 and d['copies']['measurements']['share'] > .9
    code, out, err = command(capsys, str(folder), str(folder), n=10)
    assert 'Fréchet distance' in out and code == 0


@pytest.mark.parametrize('name, reference, words', [
    ('digits', None, 'reference is missing'), ('digtis', 'digits', 'nor of a data set (digits, roll'),
    ('empty', 'digits', 'holds no image file'),
    ('mixed', 'digits', 'pass size=8'), ('digits', 'mixed', 'pass size=8'),
    ('damaged.npz', 'digits', 'cannot be read'), ('run', 'digits', 'damaged')])
def test_command_complains_in_one_sentence(tmp_path, capsys, monkeypatch, name, reference, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'empty').mkdir()
    pngs(tmp_path/'mixed', random_images(2, size=8)), save_images(random_images(1, size=12),
        tmp_path/'mixed/9.png')
    (tmp_path/'damaged.npz').write_bytes(b'PK')
    (tmp_path/'run').mkdir(), (tmp_path/'run/recipe.json').write_text('{"kind": "distill"')
    code, out, err = command(capsys, name, reference)
    assert (code, out) == (2, '') and len(err.splitlines()) == 1 and err.startswith('error: ') and words in err, err


def test_few_samples_are_a_warning_on_stderr(tmp_path, capsys):
    with warnings.catch_warnings(record=True) as raw:
        code, out, err = command(capsys, str(pngs(tmp_path/'few', digits()[:20].expand(-1, 3, -1, -1))),
                                 str(pngs(tmp_path/'many', digits()[:90].expand(-1, 3, -1, -1))))
    assert code == 0 and err.startswith('warning: n=20 samples for d=64') and len(err.splitlines()) == 1 and not raw, err


def test_photographs_of_32_pixels_have_a_judge():
    path = Path(dcd_nb.__file__).parent/'weights'/'cifar10'
    tensors, about = load_tensors(path)
    assert path.with_suffix('.safetensors').stat().st_size < 5e6 and about['n'] == 10_000 and about['accuracy'] > .9
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    x = photos(128).unfold(2, 32, 16).unfold(3, 32, 16).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 32, 32)
    judge = Judge(x)
    made = (x + .05*torch.randn(x.shape, generator=rng(0))).clamp(-1, 1), torch.rand(x.shape, generator=rng(0))*2 - 1
    near, far = map(judge, made)
    assert {*near['fd']} >= {'classifier', 'random',
                             'pca'} and all(near['fd'][k] < far['fd'][k]
                                            and near['recall'][k] >= far['recall'][k] for k in near['fd'])
    assert 'CIFAR classifier, JPEG copy' in repr(evaluate(x, x.flip(-1), extractor='classifier', reps=0))


@pytest.mark.skipif(not os.getenv('DCD_CIFAR'), reason='DCD_CIFAR is the folder of CIFAR-10')
def test_the_judge_is_as_good_as_its_file_says():
    x, labels, classes = labelled(next(Path(os.environ['DCD_CIFAR']).glob('test*')))
    about = load_tensors(Path(dcd_nb.__file__).parent/'weights'/'cifar10')[1]
    some = torch.arange(0, len(x), 5)
    assert classes == about['classes'] and abs(accuracy(CifarClassifier.trained(), x[some], labels[some])
                                               - about['accuracy']) < .02
