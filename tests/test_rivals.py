"Other ways: draws that are exact, rows that say what they must, and a command"
import json
import signal
from functools import partial

import pytest
import torch
from processes import run as command
from torch.autograd.functional import jacobian

from dcd_nb.baselines import lmmse, moments
from dcd_nb.cli import run
from dcd_nb.data import Measurements
from dcd_nb.distill import load_pretrained
from dcd_nb.draws import rng, seeded
from dcd_nb.errors import BadInput
from dcd_nb.operators import Batch, Corruption, GaussianBlur, Identity, Photons, RandomMask, Saturation
from dcd_nb.recipes import recipe
from dcd_nb.rivals.conditional import Conditional
from dcd_nb.rivals.contest import methods, run_method
from dcd_nb.rivals.flow import ambient_flow, Flow, FlowModel, FlowPair
from dcd_nb.rivals.flow import log_weights as flow_weights
from dcd_nb.rivals.guided import DPS, dps_in_gaussian
from dcd_nb.rivals.interpolants import Transport
from dcd_nb.rivals.posterior import Matheron, matheron, MMPS, SFBD
from dcd_nb.rivals.vae import bound, LatentModel, log_weights, MIWAE, NotMIWAE, VAE
from dcd_nb.training import Learner

d, shape = 4, (1, 2, 2)
L = torch.randn(d, d, generator=rng(3), dtype=torch.float64)*.6
C, I = L@L.T + .05*torch.eye(d), torch.eye(d, dtype=torch.float64)
corruptions = {'noise': Corruption(Identity(), .5), 'mask': Corruption(RandomMask(.5), .3),
               'blur': Corruption(GaussianBlur(3, .6), .3)}


def exact(x, s): return (x.flatten(1)@torch.linalg.solve(C + s**2*I, C)).view_as(x)


def world(A, n, seed=5):
    "Gaussian images with covariance `C`, and their observations"
    x = (torch.randn(n, d, generator=rng(seed),
                     dtype=torch.float64)@torch.linalg.cholesky(C).T).view(-1, *shape).float()
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


def shown_exact(ys):
    "E[x | x_s, y] for a network that is shown y, and the mask beside it"
    A = ys.op.matrix(shape, None if ys.state is None else torch.ones(1, *shape)).double()
    def denoise(x, s, shown):
        y, m = shown[:, :1].flatten(1).double(), torch.ones(len(x), d, dtype=torch.float64)
        if shown.shape[1] == 2: m = shown[:, 1:].flatten(1).double()
        B = m[:, :, None]*A
        precision = torch.linalg.inv(C) + I/s**2 + B.mT@B/ys.sigma**2
        right = x.flatten(1)/s**2 + (y[:, None]@B)[:, 0]/ys.sigma**2
        return torch.linalg.solve(precision, right).view_as(x)
    return denoise


def error_of(cov, n):
    "Standard errors of the covariance of n Gaussian images"
    return ((cov.diagonal()[:, None]*cov.diagonal() + cov**2)/n).sqrt()


@pytest.mark.parametrize('kind', corruptions)
def test_draws_leave_the_covariance_where_it_is(kind):
    "Of the true model, within the sampling error of 4000 draws"
    x, ys = world(corruptions[kind], 4000)
    m = moments(ys)._replace(mean=torch.zeros(d, dtype=torch.float64), cov=C)
    made = [Matheron()(m, ys, 1), MMPS(40, .01, 50., cg=d, least=0.)(exact, ys, 2),
            Conditional(40, .01, 50.)(shown_exact(ys), ys, 4)]
    if kind == 'noise': made.append(SFBD(20, .01)(exact, ys, 3))
    for v in made:
        found = torch.cov(v.flatten(1).double().T)
        error = error_of(C, len(v))
        assert ((found - C).abs() < 5*error).all(), (kind, (found - C).abs()/error)


def test_what_is_biased_is_so_by_its_formula():
    "The covariance after a lap by means and by guided draws, for a model that is right"
    x, ys = world(corruptions['noise'], 4000)
    m, var = moments(ys)._replace(mean=torch.zeros(d, dtype=torch.float64), cov=C), ys.sigma**2
    lam, U = torch.linalg.eigh(C)
    gain, spread = dps_in_gaussian(lam, ys.sigma)
    said = {'mean': (lmmse(ys, m), lam**2/(lam + var)),
            'guided': (DPS(100, .005, 50., least=0.)(exact, ys, 2), gain**2*(lam + var) + spread)}
    for kind, (v, formula) in said.items():
        found, want = torch.cov(v.flatten(1).double().T), U@formula.diag()@U.T
        error = error_of(want, len(v))
        assert ((found - want).abs() < 5*error).all(), (kind, (found - want).abs()/error)
        assert ((found - C).abs() > 8*error).any(), f'{kind} cannot be told from an exact draw'


def test_transport_leaves_the_covariance_where_it_is():
    "The flow by exact velocities, from y with exact moments; its error falls with the number of steps"
    A, off = corruptions['noise'], []
    y = torch.linalg.cholesky(C + A.sigma**2*I).T.view(-1, *shape).float()     # y^T y is the covariance
    def velocity(x, t):
        t = t.double()[0]
        return ((x - exact(x.double(), A.sigma*t))/t).float()
    for steps in (50, 100):
        v = Transport(velocity, A, shape, steps)(Batch(y, None), torch.zeros_like).flatten(1).double()
        off.append(((v.T@v - C).norm()/C.norm()).item())
    assert off[1] < .02 and 1.8 < off[0]/off[1] < 2.2


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


class OneDirection(torch.nn.Module):
    "A linear decoder mu + w z_1, whose posterior an encoder can have exactly"
    def __init__(self):
        super().__init__()
        self.shape, self.w, self.mu = shape, torch.tensor([1.2, -.7, .5, .9]), torch.tensor([.3, -.2, .1, 0.])
    def forward(self, x, s, **kw): return (self.mu + x.flatten(1)[:, :1]/2.5*self.w).view(-1, *shape)


class Exactly(torch.nn.Module):
    "The posterior of z given y and its mask, for `OneDirection`; `wide`: with another width"
    def __init__(self, decoder, var, wide=1.):
        super().__init__()
        self.decoder, self.var, self.wide = decoder, var, wide
    def forward(self, seen):
        y, m = (seen if seen.shape[1] == 2
                else torch.cat([seen, torch.ones_like(seen)], 1)).flatten(2).unbind(1)
        w, mu = self.decoder.w, self.decoder.mu
        precision = 1 + (m*w**2/self.var).sum(1)
        mean, sd = torch.zeros(len(y), d), torch.ones(len(y), d)
        mean[:, 0], sd[:, 0] = (m*w*(y - mu)/self.var).sum(1)/precision, self.wide*precision.rsqrt()
        # what `VAE.posterior` undoes
        return torch.cat([mean, (sd - 1e-3).expm1().log() - .54], 1)


def linear_world(kind, n, wide=1.):
    "A VAE of a linear decoder, observations of its images, and their log-likelihood and posterior mean in closed form"
    A = corruptions[kind]
    vae = VAE(OneDirection(), None, A, .4).requires_grad_(False)
    G, v = vae.decoder, vae.variance.flatten()
    vae.encoder = Exactly(G, v + A.sigma**2, wide)
    x = (G.mu + torch.randn(n, 1, generator=rng(1))*G.w
         + v.sqrt()*torch.randn(n, d, generator=rng(2))).view(-1, *shape)
    batch = A.batch(x, rng(3))
    S = torch.outer(G.w, G.w) + v.diag()
    truth, means = [], []
    for i, y in enumerate(batch.y):
        o = torch.ones(d, dtype=bool) if batch.state is None else batch.state[i].flatten() != 0
        T, r = (S + A.sigma**2*torch.eye(d))[o][:, o], y.flatten()[o] - G.mu[o]
        truth.append(torch.distributions.MultivariateNormal(torch.zeros(len(r)), T).log_prob(r) if len(r)
                     else torch.zeros(()))
        means.append(G.mu + S[:, o]@torch.linalg.solve(T, r))
    return vae, batch, torch.stack(truth), torch.stack(means)


@pytest.mark.parametrize('kind', ['noise', 'mask'])
def test_the_bound_of_miwae_is_the_likelihood_if_the_encoder_is_right_and_below_if_not(kind):
    vae, batch, truth, _ = linear_world(kind, 40)
    log_w, _ = log_weights(vae, MIWAE(), batch, torch.randn(40, 5, d, generator=rng(4)))
    assert torch.allclose(log_w, truth[:, None].expand(-1, 5), atol=2e-4)          # each weight is p(y)
    vae, batch, truth, _ = linear_world(kind, 40, wide=1.5)
    log_w, _ = log_weights(vae, MIWAE(), batch, torch.randn(40, 8000, d, generator=rng(5)))
    gaps = [(truth - bound(log_w[:, :1000*k].reshape(-1, k)).view(40, -1).mean(1)).mean() for k in (1, 8)]
    assert gaps[0] > 2*gaps[1] > 0
    share = (log_w - truth[:, None]).exp()                                         # has the mean 1
    assert ((share.mean(1) - 1).abs() < 5*share.std(1)/8000**.5 + 1e-4).all()


@pytest.mark.parametrize('kind', ['noise', 'mask'])
def test_weighted_draws_impute_the_posterior_mean(kind):
    vae, batch, _, means = linear_world(kind, 20, wide=1.5)
    ys = Measurements(batch.y, corruptions[kind], batch.state)
    made = torch.stack([LatentModel(vae, MIWAE()).impute(ys, 2000, seed).flatten(1) for seed in range(6)])
    assert ((made.mean(0) - means).abs() < 6*made.std(0)/6**.5 + 1e-3).all()


def test_what_a_clipped_pixel_may_be_sums_to_one():
    "not-MIWAE: over all y, for pixels below, at and above the value that becomes white, with noise and almost none"
    y = torch.linspace(-8, 8, 160_001, dtype=torch.float64).view(-1, 1, 1, 1)
    for sigma in (.1, .01):
        for mu, v in ((-.8, .1), (0., .1), (.5, .3), (0., .001)):
            x = torch.full((1, 1, 1, 1, 1), mu, dtype=torch.float64)
            p = NotMIWAE().log_likelihood(Batch(y, None), Corruption(Saturation(2.), sigma), x,
                                          torch.tensor(v, dtype=torch.float64)).exp()
            assert abs(torch.trapezoid(p.flatten(), y.flatten()).item() - 1) < 1e-6


def test_miwae_goes_on_after_a_kill_and_ends_with_the_same_row(tmp_path):
    settings = ['digits-mask', 'run', '--n', '200', '--method', 'miwae', '--json', '--set',
                'train.images=2000 network.width=16 network.blocks=1']
    killed = command('dcd_run', *settings, cwd=tmp_path, fate=('dcd_nb.training:Learner.apply_gradients', 12))
    assert killed.returncode == -signal.SIGKILL and [*(tmp_path/'run/vae').glob('checkpoint-*.json')]
    done = command('dcd_run', *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout.splitlines()[-1])['rows']
    r = recipe('digits-mask').override({'train.images': 2000, 'network.width': 16, 'network.blocks': 1})
    whole = run_method(r, 'miwae', tmp_path/'whole', n=200, quiet=True)
    assert [(row['group'], row['fd']) for row in rows] == [(row['group'], row['fd']) for row in whole]
    assert [row['group'] for row in rows] == ['restored', 'one'] and json.loads((tmp_path/'run/vae/results.json').read_text())['resumed_at'] > 0


def test_the_command_writes_a_row_and_goes_on(tmp_path, capsys):
    settings = 'train.images=2000 distill.images=512 network.width=16 network.blocks=1'
    rows = []
    for _ in range(2):
        run('digits-noise', str(tmp_path/'run'), n=200, set=settings, method='ambientgan', device='cpu', json=True)
        rows.append(json.loads(capsys.readouterr().out.strip().splitlines()[-1])['rows'])
    row, = rows[0]
    assert rows[1][0]['fd'] == row['fd'] and rows[1][0]['seconds'] == row['seconds']
    with pytest.raises(SystemExit): run('digits-noise', str(tmp_path/'none'), method='gsure', device='cpux')
    assert "device='cpux' is not known" in capsys.readouterr().err and not (tmp_path/'none').exists()
    written = json.loads((tmp_path/'run/digits-noise-ambientgan-one-seed0.json').read_text())
    told = {'method', 'corruption', 'data', 'seed', 'group', 'calls', 'seconds', 'images', 'clean_images',
            'fd', 'precision', 'recall', 'made_with'}
    assert told <= {*written} and written['made_with']['date'] and written['clean_images'] == 0 and written['calls'] == 1
    assert {*written['fd']} == {*written['precision']} == {*written['recall']} == {'classifier', 'random', 'pca'}


def test_methods_take_measurements_of_ones_own(tmp_path, capsys, monkeypatch):
    "No clean image is there: a row holds the proximal distance alone, and who needs clean images says so"
    monkeypatch.chdir(tmp_path)
    recipe('digits-noise').measurements().select(range(300)).save('mine')
    settings = dict(data='mine', n=200, set='train.images=600')
    run('own', 'gan', method='ambientgan', **settings)
    assert 'no clean images' in capsys.readouterr().out
    row, = (json.loads(p.read_text()) for p in (tmp_path/'gan').glob('*-seed0.json'))
    assert row['fd'] == {} and row['proximal'] > 0
    assert load_pretrained(tmp_path/'gan/gan').sample(3).shape == (3, 1, 8, 8) and (tmp_path/'gan/one.png').exists()
    with pytest.raises(SystemExit): run('own', 'em', method='em-diffusion', **settings)
    assert 'needs 50 clean images; take em-mmps' in capsys.readouterr().err and not (tmp_path/'em').exists()


@pytest.mark.parametrize('method, kind, says', [
    ('miwae', 'blur', 'MIWAE needs pixels that are seen or hidden'),
    ('miwae', 'saturation', 'take NotMIWAE()'),
    ('not-miwae', 'mask', 'NotMIWAE has a closed form for Saturation'),
    ('gsure', 'saturation', 'GSURE cannot learn from'),
    ('sure-score', 'blur', 'SURE-score cannot learn from'),
    ('sure-score', 'mask', 'SURE-score learns from noise')])
def test_a_corruption_that_a_method_cannot_take_is_one_sentence(tmp_path, method, kind, says):
    with pytest.raises(BadInput) as e:
        run_method(recipe(f'digits-{kind}', network__width=16), method, tmp_path, .01, quiet=True)
    assert says in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 320


@pytest.mark.parametrize('kind, method, more, says',
                         [('mask', 'ambientflow', {}, 'AmbientFlow needs Gaussian noise of one known level'),
                          ('blur', 'ambientgan', dict(minutes=1.), 'minutes cannot stand'),
                          ('blur', 'em-sfbd', {}, 'MMPS')])
def test_a_wrong_combination_is_one_sentence(tmp_path, kind, method, more, says, capsys):
    with pytest.raises((SystemExit, BadInput)) as e:
        run(f'digits-{kind}', str(tmp_path), method=method, **more)
    assert says in str(e.value) + capsys.readouterr().err


def small(monkeypatch, name, draw, laps=2):
    "A recipe, and the method of that name with few laps of cheap draws"
    if draw:
        monkeypatch.setitem(methods, name, partial(methods[name], draw=draw, first=.4, each=.2, laps=laps))
    return recipe('digits-mask', network__width=16, network__blocks=1, train__images=1000)


@pytest.mark.parametrize('name, draw, clean', [('em-mmps', MMPS(3, cg=1), 0), ('em-diffusion', DPS(3), 50),
                                               ('scsi', None, 0)])
def test_each_method_runs_and_counts_its_clean_images(monkeypatch, tmp_path, name, draw, clean):
    rows = run_method(small(monkeypatch, name, draw), name, tmp_path, n=200, quiet=True)
    assert [row['group'] for row in rows] == ['restored', 'many']
    assert {row['clean_images'] for row in rows} == {clean} and rows[1]['images'] > 0
    many, tried = rows[1], rows[1]['tried']
    most = {k: v['proximal'] for k, v in tried.items() if k.endswith(', 18')}
    assert min(most, key=most.get) == f"{many['way']}, {many['steps']}" and len(tried) == 3
    assert many['calls'] == 2*many['steps'] - 1 and 'tried' not in rows[0]


def test_a_killed_run_of_laps_ends_as_if_it_had_not_been(monkeypatch, tmp_path):
    name, usual, count = 'diffem', Conditional.__call__, []
    r = small(monkeypatch, name, Conditional(3), 3)
    whole = run_method(r, name, tmp_path/'whole', n=200, quiet=True)
    def dies(self, *args):
        count.append(0)
        if len(count) == 2: raise KeyboardInterrupt
        return usual(self, *args)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Conditional, '__call__', dies)
        run_method(r, name, tmp_path/'run', n=200, quiet=True)
    again = run_method(r, name, tmp_path/'run', n=200, quiet=True)
    assert [row['fd'] for row in again] == [row['fd'] for row in whole]


def shaken(net, by, seed=0):
    "In float64, with random numbers added to the weights"
    for i, p in enumerate(net.double().parameters()):
        p.data += by*torch.randn(p.shape, generator=rng(seed, i), dtype=p.dtype)/max(1, p[0].numel())**.5
    return net.requires_grad_(False)


@pytest.mark.parametrize('bins', [0, 5])
def test_a_flow_leads_back_and_tells_its_determinant(bins):
    "For as many entries as an image has, inside and outside of the range of the splines"
    flow = shaken(Flow(9, 4, 12, 3, bins), .5)
    z, seen = 3*torch.randn(40, 9, generator=rng(1),
                            dtype=torch.float64), torch.randn(40, 3, generator=rng(2), dtype=torch.float64)
    x, log_det = flow(z, seen)
    again, minus = flow.back(x, seen)
    slopes = torch.stack([jacobian(lambda v: flow(v[None], c[None])[0][0], one) for one, c in zip(z, seen)])
    assert torch.allclose(again, z, atol=1e-8) and torch.allclose(minus, -log_det, atol=1e-8)
    assert torch.allclose(log_det, slopes.slogdet()[1],
                          atol=1e-8) and (z.abs() > 4).any() and (x - z).abs().max() > .5


@pytest.mark.parametrize('kind', corruptions)
def test_the_weights_of_flows_have_the_likelihood_as_their_mean(kind):
    "log p(y) of a Gaussian flow in closed form, with draws from a posterior that is wrong, through noise, masks and a blur"
    A = corruptions[kind]
    batch = world(A, 6)[1]
    with seeded(0):
        flows = FlowPair(shape, (2 if kind == 'mask' else 1, 2, 2), A, .6, 2, 8, 0)
        for coupling in flows.prior.layers:
            coupling.net = torch.nn.Linear(2, 4)   # linear couplings: a Gaussian
    flows = shaken(flows, .1)
    for coupling in flows.prior.layers: coupling.net.weight.data[::2] = 0.
    # wide: no weight is huge
    flows.encoder.layers[-1].bias[d:2*d] += .8 if kind == 'noise' else 1.2
    J = jacobian(lambda z: flows.prior(z[None])[0][0], torch.zeros(d, dtype=torch.float64))
    mean, cov = flows.prior(torch.zeros(1, d, dtype=torch.float64))[0][0], J@J.T
    assert (cov - cov.diagonal().diag()).abs().max() > .02
    ys = batch[torch.arange(6)].map(lambda t: t.double())
    truth = []
    for i in range(6):
        M = A.op.matrix(shape, None if ys.state is None else ys.state[i:i+1])
        o = torch.ones(d, dtype=bool) if ys.state is None else ys.state[i].flatten() != 0
        S = (M@cov@M.T + A.sigma**2*I)[o][:, o]
        r = (ys.y[i].flatten() - M@mean)[o]
        truth.append(torch.distributions.MultivariateNormal(torch.zeros(len(r), dtype=torch.float64),
            S).log_prob(r) if len(r) else torch.zeros(()))
    share = (flow_weights(flows, ys, torch.randn(6, 80_000, d, generator=rng(4), dtype=torch.float64))[0]
             - torch.stack(truth)[:, None]).exp()
    error = share.std(1)/80_000**.5
    assert error.max() < .1 and ((share.mean(1) - 1).abs() < 5*error).all(), (share.mean(1), error)


def test_a_killed_flow_goes_on_and_is_kept(monkeypatch, tmp_path):
    "The same weights as without the kill, and the same samples and densities from the file"
    _, ys = world(corruptions['mask'], 200)
    kw = dict(images=1280, batch=64, k=2, layers=2, width=8, select=None, quiet=True)
    whole = ambient_flow(ys, **kw)
    usual, count = Learner.apply_gradients, []
    def dies(self, *args):
        count.append(0)
        if len(count) == 12: raise KeyboardInterrupt
        return usual(self, *args)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Learner, 'apply_gradients', dies)
        ambient_flow(ys, out=tmp_path/'run', **kw)
    again = ambient_flow(ys, out=tmp_path/'run', resume=True, **kw)
    assert again.cost['resumed_at'] > 0 and again.cost['weights_sha256'] == whole.cost['weights_sha256']
    whole.save(tmp_path/'kept')
    kept, x = FlowModel.load(tmp_path/'kept'), whole.sample(20)
    assert kept.sample(20).equal(x) and kept.log_density(x).equal(whole.log_density(x))
    assert kept.impute(ys, 5).equal(whole.impute(ys, 5)) and kept.sample(30, 1)[:20].allclose(kept.sample(20, 1), atol=1e-6)


@pytest.mark.parametrize('kind, sigma, more, says', [
    ('noise', 0., {}, 'Gaussian noise of one known level above 0'), ('mask', 0., {}, 'take miwae for masks'),
    ('blur', 0., {}, 'ambient_gan for others'), ('noise', Photons(.1), {},
                                                 'Gaussian noise of one known level above 0'),
    ('noise', .5, dict(k=0), 'k=0 must be a positive whole number'), ('noise', .5, dict(bins=-1), 'bins=')])
def test_a_flow_says_what_it_needs(kind, sigma, more, says):
    ys = Corruption(corruptions[kind].op, sigma).measure(torch.full((8, *shape), -.5))
    with pytest.raises(BadInput, match=says) as e: ambient_flow(ys, images=64, **more)
    assert '\n' not in str(e.value) and len(str(e.value)) < 320
