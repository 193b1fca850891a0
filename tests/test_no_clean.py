"What can be said without clean images: the level of the two-sample test, its firewall, and the command"
import json
import warnings

import pytest
import torch

from dcd_nb.cli import evaluate
from dcd_nb.data import digits, Measurements
from dcd_nb.draws import rng
from dcd_nb.distill import load_pretrained
from dcd_nb.errors import BadInput
from dcd_nb.metrics import fourier_ring_correlation, two_sample
from dcd_nb.mri import MultiCoilMRI
from dcd_nb.data import phantoms
from dcd_nb.objectives import Standard
from dcd_nb.operators import Corruption, FourierMask, Identity, RandomMask, VaryingBlur
from dcd_nb.recipes import recipe
from dcd_nb.restore.held_out import hide_some, predict_held_out
from processes import run


def test_the_level_holds_for_masks_of_another_law():
    "States come from the data: masks that the operator would hardly ever draw do no harm"
    below = 0
    for r in range(40):
        x = digits()[torch.randperm(1797, generator=rng(0, r))]
        columns = (torch.rand(60, 1, 1, 8, generator=rng(1, r)) < .5).float().expand(60, 1, 8, 8).contiguous()
        columns[:, :, :, 0] = 1.
        ys = Measurements(x[:60]*columns, Corruption(RandomMask(.45)), columns)
        below += two_sample(x[60:120], ys, 39, r).p <= .05
    assert below <= 7                                          # 2 expected; more than 7 has a chance of 0.1 %


def test_no_seed_of_the_test_repeats_the_noise_of_the_data():
    "With it, the images themselves would reproduce the observations, and the test would see two equal sets"
    x = digits()[:200]
    ys = Corruption(Identity(), .3).measure(x, seed=0)
    assert 0 < two_sample(x, ys, 99, seed=0).p
    from dcd_nb.metrics import corrupted_alike
    assert (corrupted_alike(x, ys, 0) - ys.y).std() > .3       # of two independent noises: 0.42


@pytest.mark.parametrize('op', [FourierMask(2, acs=2), MultiCoilMRI(2, acs=2, coils=2), RandomMask(.5)])
def test_hidden_entries_are_taken_from_the_observed_ones(op):
    x = phantoms(n=4, size=16) if op.in_kspace else digits()[:4]
    ys = Corruption(op, .05).measure(x)
    split = hide_some(ys)
    before, after = op.observed(ys.state), op.observed(split.shown.state)
    assert ((before - after) >= 0).all() and split.counted.any()
    assert (split.shown.y*(after == 0)).abs().max() == 0 and (split.shown.y*split.counted).abs().max() == 0
    assert torch.equal(split.counted, ((before - after) > 0).expand_as(ys.y))
    assert torch.equal(split.shown.y + ys.y*split.counted, ys.y)


def test_pixels_with_levels_of_their_own_are_hidden_and_predicted():
    "Also from a part of the measurements, whose levels are a part of all"
    ys = Corruption(RandomMask(.3), torch.rand(40, 1, 8, 8, generator=rng(0))*.3).measure(digits()[:40], seed=1)
    some = ys.select(range(30, 40))
    split = hide_some(some)
    assert torch.equal(split.shown.sigma, ys.sigma[30:]) and split.counted.any()
    found = predict_held_out(load_pretrained('digits-mask'), some, method='Sample(.2, leaps=2, moves=1, last=1)', n=4)
    assert found['n'] == 10 and 0 < found['error'] < 1.5


def test_rings_of_what_moved_apart_are_uncorrelated():
    x = torch.randn(50, 1, 16, 16, generator=rng(0))
    moved = fourier_ring_correlation(x, x.roll(8, -1))
    assert moved.resolved is not None and moved.value[1:].abs().max() < .6
    with pytest.raises(BadInput, match='threshold|shape'): fourier_ring_correlation(x, x[:3])


def test_the_command_reads_no_clean_image(tmp_path):
    "Judging by measurements alone: no reference is loaded, and --reference is refused"
    Corruption(RandomMask(.5), .1).measure(digits()[:16], seed=3).save(tmp_path/'ys')
    line = ['digits-mask', '--no-clean', '--measurements', 'ys', '--n', 60]
    done = run('dcd_evaluate', *line, '--share', .3, '--json', cwd=tmp_path)
    assert done.returncode == 0, done
    found = json.loads(done.stdout.splitlines()[-1])
    assert {'two_sample', 'sensitivity', 'held_out', 'copies', 'proximal', 'measurements',
            'source'} <= set(found)
    assert found['share'] == .3 and found['held_out']['entries'] > .2*Measurements.load(tmp_path/'ys').state.sum()
    assert found['n_measurements'] == 16 and 'fd' not in found and 'reference' not in found
    refused = run('dcd_evaluate', *line, '--reference', 'digits', cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.startswith("error: reference='digits'")
    images = run('dcd_evaluate', 'digits', '--no-clean', '--measurements', 'ys', cwd=tmp_path)
    assert images.returncode == 2 and '--no-clean judges models' in images.stderr


def test_a_run_is_not_judged_by_measurements_of_others(tmp_path, capsys):
    "Those that the recipe makes are taken only if the run learned from them"
    r = recipe('digits-noise', network__width=16, network__blocks=1, train__batch=32)
    for name, sigma, rows in (('level', .4, 1797), ('images', .5, 200)):
        ys = Corruption(Identity(), sigma).measure(digits()[:rows], seed=0)
        r.teacher(ys, images=32, out=tmp_path/name, monitor=False, quiet=True)
        with pytest.raises(SystemExit): evaluate(str(tmp_path/name), clean=False)
        assert 'learned from others than its recipe' in capsys.readouterr().err


def test_a_blur_of_another_width_in_each_image_is_judged_in_seconds(tmp_path, capsys, monkeypatch):
    "By one matrix for each observation: iterations would apply the operator thousands of times"
    ys = Corruption(VaryingBlur((.5, 1.2), 5), .1).measure(digits(), seed=0)
    r = recipe('digits-blur', network__width=16, network__blocks=1, train__batch=32, objective=Standard())
    teacher = r.teacher(ys, images=32, out=tmp_path/'teacher', monitor=False, quiet=True)
    r.student(teacher, ys, images=32, out=tmp_path/'student', monitor=False, quiet=True)
    ys.select(range(24)).save(tmp_path/'ys')
    calls, forward = [], VaryingBlur.forward
    monkeypatch.setattr(VaryingBlur, 'forward', lambda *a: calls.append(1) or forward(*a))
    with warnings.catch_warnings(action='ignore'):             # few samples
        evaluate(str(tmp_path/'student'), clean=False, measurements=str(tmp_path/'ys'), n=60, json=True)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found['held_out']['how'] == 'noise split in two' and found['held_out']['coverage'] > .5
    assert len(calls) < 200
