"Other ways: draws that are exact, rows that say what they must, and a command"
import json

import pytest
import torch

from dcd_nb.baselines import moments
from dcd_nb.cli import run
from dcd_nb.data import Measurements
from dcd_nb.draws import rng
from dcd_nb.errors import BadInput
from dcd_nb.operators import Corruption, GaussianBlur, Identity, RandomMask
from dcd_nb.rivals.posterior import Matheron, matheron, MMPS, SFBD

d, shape = 4, (1, 2, 2)
L = torch.randn(d, d, generator=rng(3), dtype=torch.float64)*.6
C, I = L@L.T + .05*torch.eye(d), torch.eye(d, dtype=torch.float64)
corruptions = {'noise': Corruption(Identity(), .5), 'mask': Corruption(RandomMask(.5), .3), 'blur': Corruption(GaussianBlur(3, .6), .3)}


def exact(x, s): return (x.flatten(1)@torch.linalg.solve(C + s**2*I, C)).view_as(x)


def world(A, n, seed=5):
    "Gaussian images with covariance `C`, and their observations"
    x = (torch.randn(n, d, generator=rng(seed), dtype=torch.float64)@torch.linalg.cholesky(C).T).view(-1, *shape).float()
    batch = A.batch(x, rng(seed, 1))
    return x, Measurements(batch.y, A, batch.state)


def matrix(ys):
    "The operator of the first observation"
    ones = None if ys.state is None else torch.ones(1, *shape)
    A = ys.op.matrix(shape, ones).double()
    return A if ys.state is None else A*ys.state[0].flatten()[:, None]


@pytest.mark.parametrize('kind', corruptions)
@pytest.mark.parametrize('s', [.05, .5, 5.])
def test_the_denoiser_of_mmps_is_the_posterior_mean(kind, s):
    "E[x | x_s, y] of a Gaussian in closed form, to 1e-6"
    ys = world(corruptions[kind], 4)[1].select([0])
    x_s = torch.randn(1, *shape, generator=rng(9), dtype=torch.float64)
    found = MMPS(cg=d, least=0.).posterior_mean(exact, ys, x_s, s)
    A, var = matrix(ys), ys.sigma**2
    precision = torch.linalg.inv(C) + I/s**2 + A.T@A/var
    want = torch.linalg.solve(precision, (x_s.flatten()/s**2 + A.T@ys.y[0].flatten().double()/var))
    assert torch.allclose(found.flatten(), want, atol=1e-6)


@pytest.mark.parametrize('kind', corruptions)
def test_draws_leave_the_covariance_where_it_is(kind):
    "Of the true model, within the sampling error of 4000 draws"
    x, ys = world(corruptions[kind], 4000)
    m = moments(ys)._replace(mean=torch.zeros(d, dtype=torch.float64), cov=C)
    made = [Matheron()(m, ys, 1), MMPS(40, .01, 50., cg=d, least=0.)(exact, ys, 2)]
    if kind == 'noise': made.append(SFBD(20, .01)(exact, ys, 3))
    for v in made:
        found = torch.cov(v.flatten(1).double().T)
        error = ((C.diagonal()[:, None]*C.diagonal() + C**2)/len(v)).sqrt()       # of a covariance of Gaussians
        assert ((found - C).abs() < 5*error).all(), (kind, (found - C).abs()/error)


def test_matherons_draw_has_the_posterior_of_a_gaussian():
    "Mean and covariance given one y, with samples whose moments are exact"
    _, ys = world(corruptions['mask'], 8)
    one = ys.select([0]*4*d)
    m = moments(ys)._replace(mean=torch.zeros(d, dtype=torch.float64), cov=C)
    exactly = (2*d)**.5*torch.cat([torch.eye(2*d, dtype=torch.float64), -torch.eye(2*d, dtype=torch.float64)])
    x, noise = exactly.split(d, 1)
    x = (x@torch.linalg.cholesky(C).T).view(-1, *shape).float()
    y = one.op(x, one.state) + ys.sigma*noise.view(-1, *shape).float()*one.state
    v = matheron(one, m, x, y).flatten(1).double()
    A = matrix(one)
    G = C@A.T@torch.linalg.pinv(A@C@A.T + ys.sigma**2*torch.diag(one.state[0].flatten()).double())
    assert torch.allclose(v.mean(0), G@one.y[0].flatten().double(), atol=1e-6)
    assert torch.allclose((v - v.mean(0)).T@(v - v.mean(0))/len(v), C - G@A@C, atol=1e-6)


def test_draws_depend_on_seed_and_image_alone():
    _, ys = world(corruptions['noise'], 600)
    for draw in (SFBD(4), MMPS(4, cg=2)):
        whole = draw(exact, ys, 1)
        assert torch.equal(draw(exact, ys.select(range(64)), 1), whole[:64])
        assert not torch.equal(draw(exact, ys, 2), whole)


def test_the_command_writes_a_row_and_goes_on(tmp_path, capsys):
    settings = 'train.images=2000 distill.images=512 network.width=16 network.blocks=1'
    rows = []
    for _ in range(2):
        run('digits-noise', str(tmp_path/'run'), n=200, set=settings, method='ambientgan', json=True)
        rows.append(json.loads(capsys.readouterr().out.strip().splitlines()[-1])['rows'])
    row, = rows[0]
    assert rows[1][0]['fd'] == row['fd']
    written = json.loads((tmp_path/'run/digits-noise-ambientgan-one-seed0.json').read_text())
    told = {'method', 'corruption', 'data', 'seed', 'group', 'calls', 'seconds', 'images', 'clean_images', 'fd', 'precision', 'recall', 'made_with'}
    assert told <= {*written} and written['clean_images'] == 0 and written['calls'] == 1
    assert {*written['fd']} == {*written['precision']} == {*written['recall']} == {'classifier', 'random', 'pca'}


@pytest.mark.parametrize('method, more, says', [('diffem', {}, 'not built yet'), ('ambientgan', dict(minutes=1.), 'minutes cannot stand'), ('em-sfbd', dict(), 'MMPS')])
def test_a_wrong_combination_is_one_sentence(tmp_path, method, more, says, capsys):
    with pytest.raises((SystemExit, BadInput)) as e: run('digits-blur', str(tmp_path), method=method, **more)
    assert says in str(e.value) + capsys.readouterr().err
