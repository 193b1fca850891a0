"MRI against other packages: deepinv's operator, sigpy's coil maps"
import json, re, runpy, shlex, shutil, sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dcd_nb import cli
from dcd_nb.cli import fastmri
from dcd_nb.draws import Draws, rng
from dcd_nb.errors import BadInput
from dcd_nb.data import Measurements, load_images
from dcd_nb.diffusion import LogNormal
from dcd_nb.distill import Generator, distill
from dcd_nb.identify import identifiability
from dcd_nb.files import load_meta
from dcd_nb.mri import MultiCoilMRI, acs_scale, chessboard, compress_coils, edge_noise, espirit, from_coils, hide_lines, phantoms, prepare_scans, prepare_slice, scan_images, sense, to_coils, to_fftmod, write_fastmri
from dcd_nb.metrics import evaluate
from dcd_nb.networks import MLP, Precond, UNet
from dcd_nb.objectives import AmbientFourier
from dcd_nb.operators import Corruption, FourierMask, from_complex, fftc, ifftc, join_states, map_state, new_states, to_complex
from dcd_nb.recipes import recipe
from dcd_nb.restore import Anneal, restore
from dcd_nb.training import Checkpoints, Teacher, train

root = Path(__file__).parents[1]


def off(a, b): return ((a - b).norm()/b.norm()).item()


@pytest.fixture(scope='module')
def scans(): return Corruption(MultiCoilMRI(1, coils=6), .005).measure(phantoms(2, 64))


@pytest.mark.parametrize('lines', ['random', 'equispaced'])
@pytest.mark.parametrize('size', [(32, 32), (32, 50), (33, 47)])
def test_deepinv_has_the_same_operator(size, lines):
    dinv = pytest.importorskip('deepinv')
    A, x = MultiCoilMRI(3, coils=5, lines=lines), torch.randn(3, 2, *size, generator=rng(0))
    m = A.draw(3, x.shape[1:], rng(1))
    theirs = dinv.physics.MultiCoilMRI(mask=m['mask'].expand(3, 1, *size), coil_maps=to_coils(m['maps']),
                                       img_size=size)
    y, v = A(x, m), torch.randn(3, 10, *size, generator=rng(2))
    assert off(y, theirs.A(x).flatten(1, 2)) < 1e-5
    assert off(A.adjoint(v, m), theirs.A_adjoint(v.unflatten(1, (2, 5)))) < 1e-5
    assert off(A.gram(x, m), theirs.A_adjoint_A(x)) < 1e-5
    assert abs((y*v).sum() - (x*A.adjoint(v, m)).sum()) < 1e-5*y.norm()*v.norm()


@pytest.mark.parametrize('size', [(32, 32), (30, 32), (34, 30)])
def test_the_fftmod_bridge_meets_deepinv_and_its_misuse_does_not(size):
    dinv = pytest.importorskip('deepinv')
    A, x = MultiCoilMRI(3, coils=5), phantoms(3, size)
    m = A.draw(3, x.shape[1:], rng(1))
    theirs = dinv.physics.MultiCoilMRI(mask=m['mask'].expand(3, 1, *size), coil_maps=to_coils(m['maps']),
                                       img_size=size).A_adjoint_A(x)
    y2, m2 = to_fftmod(A(x, m), m)
    def bart(S): # as codes with fftmod'ed maps do it: no shift at all
        k = m['mask']*torch.fft.fft2(S*to_complex(x)[:, None], norm='ortho')
        return k, from_complex((S.conj()*torch.fft.ifft2(k, norm='ortho')).sum(1))
    k, right = bart(to_coils(m2['maps']))
    assert off(right, theirs) < 1e-5 and off(from_coils(k), y2) < 1e-5
    assert off(bart(to_coils(m['maps']))[1], theirs) > .5                                # maps not modulated
    assert off(bart(to_coils(m['maps']*chessboard(*size, x)))[1], theirs) < 1e-5 # modulated by hand


def test_espirit_is_sigpys(scans):
    app = pytest.importorskip('sigpy.mri').app
    ours, inside = to_coils(espirit(scans.y)[0]), (phantoms(2, 64).norm(dim=1) > .1)[:, None]
    theirs = torch.stack([torch.from_numpy(app.EspiritCalib(k.numpy(), thresh=.02, crop=.9, max_iter=100,
        show_pbar=False).run()) for k in to_coils(scans.y)])
    turn = torch.sgn((ours.conj()*theirs).sum(1, keepdim=True))
    assert off(ours*turn*inside, theirs*inside) < .02


def test_espirit_does_not_mind_scale_order_or_lines_outside(scans):
    S = espirit(scans.y)[0]
    assert off(espirit(1e-4*scans.y)[0], S) < 1e-3
    fast = scans.y.clone()
    fast[..., :20] = 0                                     # outside of the 24 central lines of 64
    assert off(espirit(fast)[0], S) < 1e-6
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert off(to_coils(espirit(from_coils(to_coils(scans.y)[:, order]))[0]), to_coils(S)[:, order]) < 1e-3


def test_sense_through_virtual_coils(scans):
    few, part = compress_coils(scans.y, 4)
    assert few.shape[1] == 8 and (part > .9).all()
    # all coils: a rotation
    assert off(compress_coils(scans.y, 6)[0].norm(dim=1), scans.y.norm(dim=1)) < 1e-5
    S = espirit(few/acs_scale(few))[0]
    mask = MultiCoilMRI(2, coils=4).draw(2, (2, 64, 64), rng(0))['mask']
    op, state = MultiCoilMRI(2, coils=4), dict(mask=mask, maps=S)
    y, x = few*mask, phantoms(2, 64)
    mag = lambda v: v.norm(dim=1)
    assert off(mag(sense(op, y, state, lam=1e-3)), mag(x)) < .8*off(mag(op.adjoint(y, state)), mag(x))


def test_a_phantom_depends_on_seed_and_index_alone():
    assert torch.equal(phantoms(5, (24, 16), seed=3)[4:], phantoms(1, (24, 16), seed=3, index=[4]))
    assert not torch.equal(phantoms(1, 16, seed=1), phantoms(1, 16, seed=2))


def test_measurements_keep_mask_and_maps(tmp_path):
    ys = Corruption(MultiCoilMRI(2, coils=3), .1).measure(phantoms(3, 16))
    ys.save(tmp_path/'ys')
    again = Measurements.load(tmp_path/'ys')
    assert again.hash == ys.hash and all(torch.equal(again.state[k], t) for k, t in ys.state.items())
    with pytest.raises(BadInput, match='not 0 on hidden entries'):
        Measurements(ys.y + 1, ys.corruption, ys.state)


def test_complex_images_are_judged_by_their_magnitudes():
    x, ref = phantoms(70, 16), phantoms(90, 16, seed=1)
    grey = lambda v: (2*v.norm(dim=1, keepdim=True) - 1)
    a, b = (evaluate(f(x), f(ref), 'random', reps=0) for f in (lambda v: v, grey))
    assert a['reference'] == b['reference'] and a['fd'] == pytest.approx(b['fd'])


# Files of fastMRI

opts = dict(size=(64, 48), acs=16, quiet=True)


@pytest.fixture
def volumes(tmp_path):
    pytest.importorskip('h5py')
    (tmp_path/'raw').mkdir()
    for i in range(2): write_fastmri(tmp_path/f'raw/{i}.h5', seed=i)
    return tmp_path


def test_a_file_comes_back_as_the_image_that_made_it(volumes):
    prepare_scans(volumes/'raw', volumes/'shards', **opts)
    got, x = scan_images(volumes/'shards'), torch.cat([phantoms(2, (64, 48), seed=i) for i in range(2)])
    for g, t in zip(got.norm(dim=1), x.norm(dim=1)):
        scale = (g*t).sum()/t.square().sum()
        assert off(g/scale, t) < .05


def test_preparation_goes_on_where_it_stopped(volumes, monkeypatch):
    import dcd_nb.mri.fastmri as mri
    done, real = [], mri.prepare_slice
    def counting(*args, **kw):
        done.append(1)
        if len(done) == 3: raise KeyboardInterrupt
        return real(*args, **kw)
    monkeypatch.setattr(mri, 'prepare_slice', counting)
    with pytest.raises(KeyboardInterrupt): prepare_scans(volumes/'raw', volumes/'shards', **opts)
    assert len(prepare_scans(volumes/'raw', volumes/'shards', **opts)) == 2
    assert len(done) == 3 + 2                              # the first volume was not prepared again
    write_fastmri(volumes/'raw/0.h5', slices=1, seed=7)    # the source has changed: so does its shard
    prepare_scans(volumes/'raw', volumes/'shards', **opts)
    assert len(scan_images(volumes/'shards')) == 3


def test_hidden_lines_depend_on_the_seed_and_the_scan_alone(volumes):
    prepare_scans(volumes/'raw', volumes/'shards', **opts)
    a, b = (hide_lines(volumes/'shards', volumes/name, 3, seed=s) for name, s in (('a', 0), ('b', 1)))
    again = hide_lines(volumes/'shards', volumes/'a', 3, seed=0)
    assert a.hash == again.hash and not torch.equal(a.state['mask'], b.state['mask'])
    assert (a.y*(1 - a.state['mask'])).abs().max() == 0 and (a.state['mask'].sum((1, 2, 3)) == 16).all()
    whole = hide_lines(volumes/'shards', volumes/'c', 1)
    assert torch.equal(whole.y*a.state['mask'], a.y)
    assert off(whole.op.adjoint(whole.y, whole.state), scan_images(volumes/'shards')) < 1e-5


@pytest.mark.parametrize('cut', [50, 3000, .5, .99])
def test_a_truncated_file_is_named(volumes, cut):
    raw = (volumes/'raw/0.h5').read_bytes()
    (volumes/'raw/0.h5').write_bytes(raw[:cut if cut > 1 else int(cut*len(raw))])
    with pytest.raises(BadInput, match=r'raw/0\.h5 cannot be read as HDF5') as e:
        prepare_scans(volumes/'raw', volumes/'shards', **opts)
    assert '\n' not in str(e.value)


# Training and distillation

def test_a_rectangular_network_trains_and_distils_on_scans_of_several_coils(tmp_path):
    ys = Corruption(MultiCoilMRI(3, coils=3)).measure(phantoms(20, (24, 16)))
    net = UNet((24, 16), 2, channels=8, mult=(1, 1), blocks=1, attn=())
    teacher = train(ys, net, images=64, batch=16, quiet=True, out=tmp_path/'teacher')
    assert isinstance(teacher.objective, AmbientFourier) and teacher.shape == (2, 24, 16)
    assert abs(teacher.net.sigma_d - phantoms(20, (24, 16)).square().mean()**.5) < .03
    G = distill(Teacher.load(tmp_path/'teacher'), ys, images=64, batch=16, quiet=True,
                checkpoints=Checkpoints(monitor=False), out=tmp_path/'student')
    again = Generator.load(tmp_path/'student')
    assert torch.equal(G.sample(3), again.sample(3)) and G.sample(3).shape == (3, 2, 24, 16)
    a, b = (G.sample(2, index=[4, 5], state=G.conditions([4, 5], seed)) for seed in (0, 1))
    # masks and maps are drawn afresh: same noise, another state
    assert not torch.equal(a, b)


def test_the_second_phase_draws_new_masks_and_coils_each_time():
    draws, A = Draws(0, 0), Corruption(MultiCoilMRI(2, coils=2))
    objective, x = AmbientFourier(A.op), phantoms(16, 16)
    given, measured = new_states(objective.draw_condition, x, draws), A.recorrupt(x, draws).state
    for k in ('mask', 'maps'): assert not torch.equal(given[k], measured[k])
    assert (given['mask'].sum(3) == 16//3).all() and (measured['mask'].sum(3) == 8).all()


def test_without_noise_the_loss_is_to_the_bit_that_of_lines():
    for op in (FourierMask(2, acs=2), MultiCoilMRI(2, acs=2, coils=2)):
        objective, batch, net = AmbientFourier(op), Corruption(op).batch(phantoms(16, 16),
            rng(0)), Precond(MLP((2, 16, 16), in_channels=3, width=32))
        draws = Draws(0, 1)
        fewer = join_states(draws.each(lambda g,
                                       rows: op.further(map_state(lambda t: t[rows], batch.state), g), 16))
        s = LogNormal().draw(16, draws).float().view(-1, 1, 1, 1)
        z = op.adjoint(batch.y, fewer)
        f = objective.denoise(net, None, s.flatten(), fewer, z=z + s*op.gram(draws.normal(z), fewer))
        old = (net.weight(s.flatten(), op.observed(fewer))*(op(f, batch.state) - batch.y)**2).flatten(1).sum(1)/z[0].numel()
        assert torch.equal(objective.loss(net, batch, Draws(0, 1)), old)
        plain = objective.draw_condition(4, (2, 16, 16), rng(1))
        assert torch.is_tensor(plain) or {*plain} == {'mask', 'maps'}


@pytest.mark.parametrize('op', [FourierMask(2, acs=2), MultiCoilMRI(2, acs=2, coils=2)])
def test_noisy_scans_train_distil_and_are_restored(op, tmp_path):
    ys = Corruption(op, .1).measure(phantoms(20, 16))
    teacher = train(ys, MLP((2, 16, 16), width=32), images=64, batch=16, quiet=True, out=tmp_path/'teacher')
    assert isinstance(teacher.objective, AmbientFourier) and teacher.objective.lowest_level == .1
    assert torch.equal(teacher.sample(2), teacher.sample(2, until=.1)) and not torch.equal(teacher.sample(2),
        teacher.sample(2, until=0.))
    G = distill(Teacher.load(tmp_path/'teacher'), ys, images=64, batch=16, quiet=True,
                checkpoints=Checkpoints(monitor=False), out=tmp_path/'student')
    assert torch.equal(G.sample(3), Generator.load(tmp_path/'student').sample(3))
    assert restore(G, ys.select(range(2)), n=4).samples.shape == (2, 4, 2, 16, 16)
    if isinstance(op, FourierMask):
        assert restore(teacher, ys.select(range(2)), Anneal(3), n=2).samples.isfinite().all()
    else:
        with pytest.raises(BadInput, match='no state that hides nothing.*distil it'):
            restore(teacher, ys.select(range(2)), n=2)
    differ = Corruption(op, torch.linspace(.1, .2, 20)).measure(phantoms(20, 16))
    with pytest.raises(BadInput, match='scans of one noise level, so add noise up to the highest'):
        train(differ, MLP((2, 16, 16), width=32), images=16, batch=16, quiet=True)


def test_recipes_for_scans_ask_for_the_objective_and_are_told_in_a_sentence():
    r = recipe('fastmri-R4')
    assert r.teacher_shape() == (2, 384, 320) and isinstance(r.objective_for(), AmbientFourier)
    with pytest.raises(BadInput, match='needs data'): r.measurements()
    assert load_images('phantoms', 16).shape == (4000, 2, 16, 16)
    ys = recipe('phantoms-16-R4', data__n=5).measurements()
    assert (len(ys), ys.shape) == (5, (2, 16, 16))
    for name in ('phantoms-16-R4-noise', 'heads-32-R4-noise'):
        assert recipe(name).objective_for().sigma == recipe(name).corruption.sigma == .1


def said(capsys): return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_command_prepares_once_and_says_what_is_wrong(volumes, capsys):
    args = dict(height=64, width=48, acs=16, coils=3, json=True)
    fastmri(str(volumes/'raw'), str(volumes/'a'), R=2, **args)
    two = said(capsys)
    assert (two['n'], two['image'], two['volumes']) == (4, [2, 64, 48], 2)
    before = {p.name: p.stat().st_mtime_ns for p in (volumes/'a-shards').iterdir()}
    fastmri(str(volumes/'raw'), str(volumes/'b'), R=3, shards=str(volumes/'a-shards'),
            whole=str(volumes/'whole'), **args)
    assert before == {p.name: p.stat().st_mtime_ns
                      for p in (volumes/'a-shards').iterdir()} and said(capsys)['n'] == 4
    a, b = Measurements.load(volumes/'a'), Measurements.load(volumes/'b')
    assert torch.equal(a.state['maps'], b.state['maps']) and a.state['mask'].sum() == 4*24 and b.state['mask'].sum() == 4*16
    assert load_images(volumes/'whole.safetensors').shape == (4, 2, 64, 48)
    with pytest.raises(SystemExit): fastmri(str(volumes/'raw'), str(volumes/'a'), **args)
    assert 'would replace a.safetensors' in capsys.readouterr().err
    (volumes/'raw/0.h5').write_bytes(b'oops')
    with pytest.raises(SystemExit) as e: fastmri(str(volumes/'raw'), str(volumes/'c'), **args)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith('error: ') and '0.h5 cannot be read as HDF5' in err and err.count('\n') == 1


def test_without_h5py_the_extra_is_named(volumes, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'h5py', None)
    with pytest.raises(BadInput, match=r"pip install 'dcd_nb\[mri\]'"):
        prepare_scans(volumes/'raw', volumes/'shards', **opts)


# Scans that skipped lines when they were made, with noise

@pytest.fixture(scope='module')
def fast(tmp_path_factory):
    "Two volumes of four slices at 32x16, with a mask each, 8 of 16 lines, and noise; one coil is loud"
    h5py, folder = pytest.importorskip('h5py'), tmp_path_factory.mktemp('fast')
    (folder/'raw').mkdir()
    for i in range(2):
        path = folder/f'raw/{i}.h5'
        write_fastmri(path, slices=4, size=(32, 16), seed=i, sigma=.05, R=2, acs=7)
        with h5py.File(path, 'r+') as f: f['kspace'][:, 0] *= 3
    return folder


small = dict(height=32, width=16, json=True)


def test_scans_that_skipped_lines_keep_their_masks_and_noise(fast, capsys):
    import h5py
    fastmri(str(fast/'raw'), str(fast/'ys'), noise=True, **small)
    told, ys = said(capsys), Measurements.load(fast/'ys')
    assert told['n'] == len(ys) == 8 and told['sigma'] == ys.corruption.sigma > 0
    for i in range(2):
        with h5py.File(fast/f'raw/{i}.h5') as f: mask = torch.from_numpy(f['mask'][()])
        assert all(torch.equal(m.flatten(), mask) for m in ys.state['mask'][4*i:4*i + 4])
    assert (ys.op.lines, ys.op.R) == ('given', 2) and (ys.y*(1 - ys.state['mask'])).abs().max() == 0
    # one level for all coils and scans, and the right one
    assert edge_noise(ys.y).sigma == pytest.approx(ys.corruption.sigma, rel=.2)
    for i in range(2):                           # the gain, the level, and one of six coils that is loud
        found = load_meta(fast/f'ys-shards/{i}')['meta']['noise']['sigma']
        assert found == pytest.approx(1e-4*.05*(14/6)**.5, rel=.2)
    fastmri(str(fast/'raw'), str(fast/'plain'), **small)
    assert said(capsys)['sigma'] == 0 and Measurements.load(fast/'plain').corruption.sigma == 0
    for wrong, says in ((dict(R=2), 'R=2 would hide more'), (dict(whole=str(fast/'x')), 'no whole ones')):
        with pytest.raises(SystemExit): fastmri(str(fast/'raw'), str(fast/'c'), **small, **wrong)
        assert says in capsys.readouterr().err


def test_volumes_are_held_out_whole_and_both_parts_have_one_scale(fast, capsys):
    where = dict(shards=str(fast/'ys-shards'), noise=True, **small)
    fastmri(str(fast/'raw'), str(fast/'all'), **where)
    fastmri(str(fast/'raw'), str(fast/'part'), held_out=.5, **where)
    assert (said(capsys)['volumes'], len(Measurements.load(fast/'all'))) == (1, 8)
    whole, part, held = (Measurements.load(fast/name) for name in ('all', 'part', 'part-held'))
    assert whole.corruption.sigma == part.corruption.sigma == held.corruption.sigma
    order = (part, held) if torch.equal(whole.y[:4], part.y) else (held, part)      # four slices a volume
    assert torch.equal(whole.y, torch.cat([ys.y for ys in order])) and part.hash != held.hash
    for ys in (part, held): assert (ys.op.draw(9, ys.shape, rng(0))['mask'] == ys.state['mask'][0]).all()
    for share, says in ((.1, 'held_out=0.1 of 2 volumes leaves one part empty'), (1., 'held_out=1.0')):
        with pytest.raises(SystemExit): fastmri(str(fast/'raw'), str(fast/'d'), held_out=share, **where)
        assert says in capsys.readouterr().err
    with pytest.raises(SystemExit): fastmri(str(fast/'raw'), str(fast/'part-held'), **where)
    assert 'would replace part-held.safetensors' in capsys.readouterr().err


def test_fewer_lines_make_pixels_larger_both_ways(tmp_path):
    "Scans that skipped lines, at half of the width: the image is the whole one at half of the resolution"
    import h5py
    write_fastmri(tmp_path/'raw.h5', slices=1, size=(64, 48), sigma=0., R=2, acs=8)
    with h5py.File(tmp_path/'raw.h5') as f: k, lines = torch.from_numpy(f['kspace'][0]), torch.from_numpy(f['mask'][()]) > 0
    y = to_coils(prepare_slice(k, lines, (64, 48), (32, 24), coils=6)['kspace'])
    x = F.pad(phantoms(1, (64, 48), 0), (0, 0, 32, 32))                             # rows as a scanner reads them
    maps = to_coils(Corruption(MultiCoilMRI(1, coils=6)).measure(x, 0).state['maps'])
    k = fftc(maps*to_complex(x)[:, None])[:, :, 32:96, 12:36]*lines[12:36]          # half of the resolution
    want = fftc(ifftc(k)[:, :, 16:48])                                              # and no air
    power = lambda k: ifftc(k).abs().square().sum(1).sqrt()
    got, want = power(y), power(want)
    assert off(got*want.norm()/got.norm(), want) < 1e-3


def test_the_commands_for_files_of_k_space_run_as_they_stand(fast, monkeypatch, capsys):
    "Those of the page on noisy scans, at a small size and with small budgets"
    for i in range(2): write_fastmri(fast/f'my_scans/{i}.h5', slices=10, size=(32, 16), seed=i, sigma=.05, R=2, acs=7)
    cells = json.loads((root/'nbs/45b_noisy_scans.ipynb').read_text(encoding='utf-8'))['cells']
    lines = re.search(r'``` sh\n(dcd_fastmri my_scans .*?)```', '\n'.join(''.join(c['source']) for c in cells), re.S)[1]
    small = " --images 16 --batch 8"
    for as_it_stands, less in {'64 --width 64 --held_out 0.1': '32 --width 16 --held_out 0.5',
                               '--out teacher': f"--out teacher{small} --set 'network=MLP((2,32,16),width=16)'",
                               '--out student': f'--out student{small}', '--n 500': '--n 20',
                               '--images 20': '--images 2 --n 4'}.items():
        assert lines.count(as_it_stands) == 1
        lines = lines.replace(as_it_stands, less)
    monkeypatch.chdir(fast)
    monkeypatch.setattr('warnings.showwarning', lambda *a, **kw: None)
    for name, *args in map(shlex.split, lines.splitlines()):
        if name == 'python': exec(args[1], {})
        else:
            monkeypatch.setattr('sys.argv', [name, *args])
            try: runpy.run_path(str(Path(sys.executable).parent/name), run_name='__main__')
            except SystemExit as e: assert not e.code, capsys.readouterr().err
    assert '8 of 16 lines are measured in no scan' in capsys.readouterr().out
    teacher, held = Teacher.load(fast/'teacher'), Measurements.load(fast/'scans-held')
    assert teacher.objective.lowest_level == held.corruption.sigma and len(held) == 10
    with np.load(fast/'restored.npz') as found:
        assert found['mean'].shape == found['low'].shape == (2, 2, 32, 16) and found['samples'].shape == (2, 4, 2, 32, 16)


def test_shards_that_were_cut_the_old_way_are_made_anew(fast, tmp_path):
    "Along the lines alone: such shards of scans that skipped lines do not say how they were cut"
    shard = prepare_scans(fast/'raw', tmp_path, size=(32, 16), files=1, quiet=True)[0].with_suffix('.json')
    new = shard.read_text()
    for text in (new, new.replace('"cut"', '"old"')):
        shard.write_text(text)
        prepare_scans(fast/'raw', tmp_path, size=(32, 16), files=1, quiet=True)
        assert load_meta(shard.with_suffix(''))['meta']['cut'] == 2


def test_scans_that_are_moved_find_their_masks_and_maps(fast, tmp_path, monkeypatch):
    "By an absolute path as in older files, and by a relative one, from other folders; nothing is renamed in the hash"
    (tmp_path/'a').mkdir()
    monkeypatch.chdir(tmp_path/'a')
    prepare_scans(fast/'raw', tmp_path/'shards', size=(32, 16), quiet=True)
    for out, named in ((tmp_path/'a/data/ys', 'data/ys'), (tmp_path/'out/ys', f'{tmp_path}/out/ys')):
        ys = hide_lines(tmp_path/'shards', out)
        assert ys.op.maps == named
        teacher = train(ys, MLP((2, 32, 16), width=16), images=8, batch=8, out=out.parent/'teacher', quiet=True)
        fresh, x, made = ys.op.draw(3, ys.shape, rng(0)), teacher.sample(2), out.parent
        moved = made.rename(tmp_path/f'moved-{made.name}')
        made.mkdir()                                         # another file of that name is in the old folder
        Corruption(MultiCoilMRI(2, coils=4)).measure(phantoms(n=2, size=(32, 16))).save(made/'ys')
        monkeypatch.chdir(fast)
        again = Measurements.load(moved/'ys')
        assert again.hash == ys.hash and repr(again.op) == repr(ys.op)
        state = again.op.draw(3, ys.shape, rng(0))
        assert all(torch.equal(state[k], fresh[k]) for k in fresh)
        shutil.rmtree(made)
        assert torch.equal(Teacher.load(moved/'teacher').sample(2), x)          # the file lies beside the run
        (moved/'teacher').rename(tmp_path/'runs')
        alone = Teacher.load(tmp_path/'runs')
        with pytest.raises(BadInput, match='from which masks and maps are drawn, is not there'): alone.sample(2)
        alone.check(again)
        assert torch.equal(alone.sample(2), x)
        (tmp_path/'runs').rename(moved/'teacher')
        monkeypatch.chdir(tmp_path/'a')


def test_a_file_without_a_mask_whose_lines_are_zero_is_no_complete_scan(fast, tmp_path):
    import h5py
    for i, lines in enumerate(([2], [0, 1, 15])):                         # a gap; padding
        write_fastmri(tmp_path/'raw.h5', size=(32, 16), acs=7)
        with h5py.File(tmp_path/'raw.h5', 'r+') as f: f['kspace'][...] = f['kspace'][...]*([n not in lines for n in range(16)])
        prepare_scans(tmp_path/'raw.h5', tmp_path/str(i), size=(32, 16), acs=7, quiet=True)
    assert hide_lines(tmp_path/'0', tmp_path/'a').state['mask'].sum() == 2*15
    assert hide_lines(tmp_path/'1', tmp_path/'b', 2).op.lines == 'random'
    with pytest.raises(BadInput, match='raw.h5 is padded with lines of 0'):
        prepare_scans(tmp_path/'raw.h5', tmp_path/'2', size=(32, 16), acs=7, noise=True, quiet=True)
    with pytest.raises(BadInput, match='complete ones and others'):
        only = [tmp_path/'0/raw', tmp_path/'1/raw']
        hide_lines(tmp_path, tmp_path/'c', only=only)


def test_one_mask_for_all_scans_is_told(fast, tmp_path):
    for i in range(2): write_fastmri(tmp_path/f'{i}.h5', slices=1, size=(32, 16), R=2, acs=7)
    prepare_scans(tmp_path, tmp_path/'shards', size=(32, 16), quiet=True)
    said = identifiability(hide_lines(tmp_path/'shards', tmp_path/'ys')).verdict
    assert said.startswith('All scans have one and the same mask: 8 of 16 lines are measured in no scan')


def test_loading_scans_reads_their_file_once(fast, monkeypatch):
    "Maps of fresh scans lie in the file that is being loaded"
    import dcd_nb.mri.multicoil as multicoil
    prepare_scans(fast/'raw', fast/'shards', size=(32, 16), quiet=True)
    hide_lines(fast/'shards', fast/'once')
    read, real = [], multicoil.load_tensors
    monkeypatch.setattr(multicoil, 'load_tensors', lambda path: read.append(path) or real(path))
    ys = Measurements.load(fast/'once')
    assert len(ys) == 8 and len(read) <= 1
