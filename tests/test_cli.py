"""The command line under faults: kills, full disks, bad files."""
import json
import os
import re
import shlex
import signal
import subprocess
import time

import pytest
import torch
from processes import Command, run, scripts

from dcd_nb.data import Limits, Measurements, load_images
from dcd_nb.distill import Generator
from dcd_nb.files import content_hash
from dcd_nb.operators import Corruption, Identity
from dcd_nb.training import Teacher

small_disk = 50_000          # bytes of the largest file that can be written


@pytest.mark.parametrize('args, code', [("digits ys --op 'RandomMask(missing=.5)' --json", 0),
                                        ('digtis a', 2), ('--help', 0)])
def test_a_fork_is_the_installed_script(tmp_path, monkeypatch, args, code):
    "Most tests run commands in forks of one process: what they print, write and return is what the script does"
    monkeypatch.setenv('COLUMNS', '100')                # a terminal would be asked otherwise
    (tmp_path/'fork').mkdir(), (tmp_path/'own').mkdir()
    forked = run('dcd_corrupt', *shlex.split(args), cwd=tmp_path/'fork')
    own = subprocess.run([scripts/'dcd_corrupt', *shlex.split(args)], cwd=tmp_path/'own', capture_output=True,
                         text=True)
    said = [re.sub(r'"seconds": [\d.]+', '', p.stdout) for p in (forked, own)]
    assert said[0] == said[1] and forked.stderr == own.stderr and forked.returncode == own.returncode == code
    files = [{p.name: p.read_bytes() for p in (tmp_path/where).iterdir()} for where in ('fork', 'own')]
    assert files[0] == files[1] and len(files[0]) == (2 if 'ys' in args else 0)


def test_a_fork_has_its_own_folder_environment_and_end(tmp_path):
    assert run('dcd_corrupt', 'digits', 'ys', cwd=tmp_path,
               fate=('os.replace', 1)).returncode == -signal.SIGKILL
    p = Command('dcd_corrupt', 'roll', 'zs', cwd=tmp_path)
    while not (tmp_path/'.zs.safetensors.lock').exists() and p.poll() is None: time.sleep(.01)
    assert p.poll() is None and os.readlink(f'/proc/{p.pid}/cwd') == str(tmp_path)
    p.kill()
    assert p.wait() == -signal.SIGKILL and not list(tmp_path.glob('[yz]s*'))
    inside = run('dcd_corrupt', 'mine', 'ys', cwd=tmp_path,
                 env=os.environ | dict(DCD_CACHE=str(tmp_path/'cache')))
    assert inside.returncode == 2 and not (tmp_path/'cache').exists() and 'DCD_CACHE' not in os.environ


def test_kill_and_resume_gives_the_same_bits(tmp_path):
    "Killed as it notes how far it is, as it flushes, and between its two files"
    want = Corruption(Identity(), .1).measure(load_images('roll'), seed=1).hash
    command, note = 'dcd_corrupt roll ys --sigma .1 --seed 1 --resume --json'.split(), tmp_path/'.ys.safetensors.part.json'
    for fate, done in ((('os.replace', 3), 2000), (('os.fsync', 7), 4000),
                       (('dcd_nb.files:_checksum', 1), 20_000)):
        assert run(*command, cwd=tmp_path, fate=fate).returncode == -signal.SIGKILL
        assert json.loads(note.read_text())['done'] == done and not (tmp_path/'ys.json').exists()
    p = run(*command, cwd=tmp_path)
    assert p.returncode == 0, p.stderr
    assert json.loads(p.stdout.splitlines()[-1])['hash'] == want == Measurements.load(tmp_path/'ys').hash
    assert sorted(f.name for f in tmp_path.iterdir()) == ['ys.json', 'ys.safetensors']


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    done = run('dcd_corrupt', 'digits', 'ys', cwd=tmp_path, file_size=small_disk)
    assert done.returncode == 2 and done.stderr.startswith('error: ') and len(done.stderr.splitlines()) == 1, done.stderr
    assert 'could not be written' in done.stderr and 'make room' in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('out', ['x.npz', 'x.png'])
def test_samples_are_written_whole_or_not_at_all(out, tmp_path):
    done = run('dcd_sample', 'digits-noise', out, '--n', 2000, cwd=tmp_path, file_size=small_disk)
    assert done.returncode == 2 and 'could not be written' in done.stderr and 'Traceback' not in done.stderr
    assert not [*tmp_path.iterdir()]


def test_a_full_cache_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    from PIL import Image
    import numpy as np
    (tmp_path/'in').mkdir()
    for i in range(30): Image.fromarray(np.full((64, 64, 3), i, np.uint8)).save(tmp_path/f'in/{i}.png')
    done = run('dcd_corrupt', 'in', 'ys', cwd=tmp_path, file_size=small_disk,
               env=os.environ | dict(DCD_CACHE=str(tmp_path/'cache')))
    assert done.returncode == 2 and 'could not be written' in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not list((tmp_path/'cache').iterdir()) and not list(tmp_path.glob('*ys*'))


def test_interrupt_is_polite(tmp_path):
    p = Command('dcd_corrupt', 'roll', 'ys', cwd=tmp_path)
    while not (tmp_path/'.ys.safetensors.part.json').exists() and p.poll() is None: time.sleep(.02)
    # Python drops an interrupt that falls into a destructor; people press again
    while p.poll() is None:
        p.send_signal(signal.SIGINT)
        try: _, err = p.communicate(timeout=20)
        except subprocess.TimeoutExpired: pass
    assert p.returncode == 130 and '--resume' in err and 'Traceback' not in err


def test_json_is_the_last_line(tmp_path):
    done = run('dcd_corrupt', 'digits', 'ys', '--op', 'RandomMask(missing=.5)', '--json', cwd=tmp_path)
    assert json.loads(done.stdout.splitlines()[-1])['n'] == 1797 and done.returncode == 0


def test_a_reader_who_has_seen_enough_is_no_error():
    p = subprocess.run(f'{scripts}/dcd_recipes | head -1', shell=True, capture_output=True, text=True)
    assert len(p.stdout.splitlines()) == 1 and not p.stderr


@pytest.mark.parametrize('line', [
    "dcd_corrupt digits a --op 'RandomMask(missing=2)'", "dcd_corrupt digits a --sigma -1",
    "dcd_corrupt digits /proc/nowhere/a",
    "dcd_train digits-nose", "dcd_train digits-noise --out a --set train.lrr=1", "dcd_train own --out a",
    "dcd_distill nowhere", "dcd_sample nothing a.png",
    "dcd_evaluate digtis --reference digits", "dcd_restore digits-mask nowhere a.npz",
    "dcd_run digits-nose a", "dcd_check nowhere", "dcd_recipes digits-nose"])
def test_what_is_wrong_is_one_sentence_in_a_process_of_its_own(tmp_path, line):
    "The page of the command line runs its commands in one process: the same sentences, with exit code 2 and nothing on standard output"
    done = run(*shlex.split(line), cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, '', 1), done
    assert done.stderr.startswith('error: ') and not list(tmp_path.iterdir())


def test_arrays_become_measurements(tmp_path):
    import numpy as np
    y, masks = np.random.default_rng(0).normal(size=(5, 12, 8)).astype(np.float32), np.random.default_rng(1).random((12, 8)) < .4
    np.save(tmp_path/'y.npy', y*masks), np.save(tmp_path/'mask.npy', masks), np.savez(tmp_path/'two.npz', a=y, b=y)
    line = ['y.npy', 'mine', '--op', 'RandomMask(missing=.6)', '--sigma', .1, '--mask', 'mask.npy', '--json']
    done = run('dcd_import', *line, cwd=tmp_path)
    ys = Measurements.load(tmp_path/'mine')
    assert done.returncode == 0 and json.loads(done.stdout)['hash'] == ys.hash and ys.sigma == .1
    assert (ys.y[:, 0].numpy() == y*masks).all() and (ys.state[:, 0].numpy() == masks).all()
    assert run('dcd_import', *line, cwd=tmp_path).stderr.startswith("error: out='mine' would replace mine.safetensors")
    assert 'holds 2 arrays (a, b)' in run('dcd_import', 'two.npz', 'x', cwd=tmp_path).stderr


small = ('--images', 64, '--batch', 32, '--set', 'network=MLP(shape=(3,48,40),width=16,blocks=1)')


def pictures(n=300):
    "Crops of photographs (n, 48, 40, 3), as bytes"
    import numpy as np
    from dcd_nb.show.images import photos, to_uint8
    crops = to_uint8(photos(96).unfold(2, 48, 4).unfold(3, 40, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
    return crops[np.arange(n)%len(crops)]


def five(tmp_path, *lines):
    "Run commands one after the other; what each wrote"
    for line in lines:
        done = run(*map(str, line), cwd=tmp_path)
        assert done.returncode == 0 and 'Traceback' not in done.stderr, (line, done.stderr)
    return done.stdout


def test_a_folder_of_pictures_is_measured_learned_and_restored_in_five_commands(tmp_path):
    from PIL import Image
    (tmp_path/'photos').mkdir()
    for i, im in enumerate(pictures()): Image.fromarray(im).save(tmp_path/f'photos/{i:03d}.png')
    five(tmp_path,
         ('dcd_corrupt', 'photos', 'measured', '--op', 'RandomMask(missing=.4)', '--sigma', .1),
         ('dcd_train', 'own', '--data', 'measured', '--out', 'teacher', *small),
         ('dcd_distill', 'teacher', '--data', 'measured', '--out', 'student', '--images', 32, '--batch', 32),
         ('dcd_sample', 'student', 'samples.png', '--n', 4),
         ('dcd_restore', 'student', 'measured', 'restored', '--images', 2, '--n', 4, '--method',
          'Sample(.3,leaps=1,pool=64)'))
    assert sorted(p.name for p in (tmp_path/'restored').iterdir()) == sorted(p.name
        for p in (tmp_path/'restored-std').iterdir()) == ['000000.png', '000001.png']
    im = Image.open(tmp_path/'restored/000000.png')
    assert im.size == (40, 48) and im.mode == 'RGB'
    run('dcd_corrupt', 'photos', 'half', '--size', '20x24', cwd=tmp_path)
    assert Measurements.load(tmp_path/'half').shape == (3, 24, 20)
    assert 'WIDTHxHEIGHT' in run('dcd_corrupt', 'photos', 'no', '--size', '20*24', cwd=tmp_path).stderr


def test_arrays_with_masks_and_a_level_for_each_are_learned_and_restored_in_five_commands(tmp_path):
    import numpy as np
    g = np.random.default_rng(0)
    x, mask, sigma = pictures()/127.5 - 1, g.random((300, 48, 40)) > .4, g.uniform(.05, .3, 300)
    np.save(tmp_path/'y.npy',
            ((x + sigma[:, None, None, None]*g.normal(size=x.shape))*mask[..., None]).astype('float32'))
    np.save(tmp_path/'mask.npy', mask), np.save(tmp_path/'sigma.npy', sigma)
    import_it = ('dcd_import', 'y.npy', 'mine', '--mask', 'mask.npy', '--sigma', 'sigma.npy')
    # not dropped in silence
    assert "pass --op 'RandomMask(missing=0.4)'" in run(*import_it, cwd=tmp_path).stderr
    five(tmp_path,
         (*import_it, '--op', 'RandomMask(missing=.4)'),
         ('dcd_train', 'own', '--data', 'mine', '--out', 'teacher', *small),
         ('dcd_distill', 'teacher', '--data', 'mine', '--out', 'student', '--images', 32, '--batch', 32),
         ('dcd_restore', 'student', 'mine', 'restored.png', '--images', 2, '--n', 4, '--method',
          'Sample(.3,leaps=1,pool=64)'))
    said = five(tmp_path, ('dcd_evaluate', 'student', '--measurements', 'mine', '--n', 64))
    ys = Measurements.load(tmp_path/'mine')
    assert torch.allclose(ys.sigma.flatten(),
                          torch.tensor(sigma).float()) and (tmp_path/'restored.png').exists() and 'proximal distance' in said
    for wrong in ('y.npy', 'mask.npy'):
        assert 'by dcd_import' in run('dcd_train', 'own', '--data', wrong, '--out', 'no', cwd=tmp_path).stderr


def test_a_finished_run_is_extended(tmp_path):
    "A new run starts with its weights, in both phases"
    net = ('--batch', 64, '--set', 'network=MLP(shape=(1,8,8),width=8,blocks=1)')
    run('dcd_corrupt', 'digits', 'ys', '--sigma', .3, cwd=tmp_path)
    made = {}
    for out, more in dict(first=(), longer=('--start', 'first'), fresh=()).items():
        done = run('dcd_train', 'own', '--data', 'ys', '--out', out, '--images', 64, *net, *more,
                   cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        made[out] = Teacher.load(tmp_path/out)
    gap = lambda a, b: sum((p - q).square().sum() for p, q in zip(a.net.parameters(), b.net.parameters()))
    assert torch.equal(made['first'].sample(2, steps=3),
                       made['fresh'].sample(2, steps=3)) and gap(made['first'], made['longer']) > 0
    again = run('dcd_train', 'own', '--data', 'ys', '--out', 'first', '--images', 640, '--resume', *net,
                cwd=tmp_path)
    assert '--start' in again.stderr and again.returncode == 2
    line = ('dcd_distill', 'first', '--data', 'ys', '--images', 64, '--batch', 64)
    for more in (('--out', 'G'), ('--out', 'more', '--start', 'G')):
        assert run(*line, *more, cwd=tmp_path).returncode == 0
    begun = json.loads((tmp_path/'more/recipe.json').read_text())
    assert begun['start'] == content_hash(Generator.load(tmp_path/'G').net.state_dict())


def test_noisy_photographs_alone_from_their_noise_to_whole_restored_ones(tmp_path):
    "The noise is estimated, patches of every second pixel are learned from, whole photographs come back"
    import numpy as np
    from PIL import Image
    g = torch.Generator().manual_seed(0)
    taps = torch.tensor([.5, 1., .5])/1.5**.5
    grey = torch.tensor([60., 110., 170.]).view(3, 1, 1, 1)
    eps = torch.randn(3, 1, 102, 106, generator=g)
    shots = grey + 8*torch.conv2d(torch.conv2d(eps, taps.view(1, 1, 1, 3)), taps.view(1, 1, 3, 1))
    (tmp_path/'photos').mkdir()
    for i, a in enumerate(shots[:, 0].round().clamp(0, 255).numpy().astype(np.uint8)):
        Image.fromarray(a).save(tmp_path/f'photos/{i}.{("png", "tif")[i % 2]}')           # mixed
    said = json.loads(run('dcd_noise', 'photos', '--json', cwd=tmp_path).stdout)
    command, y, out, *options = shlex.split(said['next'])
    assert (command, y, options[2:6]) == ('dcd_import', 'photos', ['--every', '2', '--patch', '16'])
    assert float(options[1]) == pytest.approx(8, rel=.15) and said['clipped'] == '0.0%' and said['photons'] == 'no'
    net = 'network=MLP(shape=(1,16,16),width=16,blocks=1)'
    five(tmp_path, (command, y, out, *options),
         ('dcd_train', 'own', '--data', out, '--out', 'teacher', '--images', 64, '--batch', 32, '--set', net),
         (command, y, 'whole', *options[:4]),
         ('dcd_restore', 'teacher', 'whole', 'restored', '--images', 2, '--method', 'Denoise()'),
         ('dcd_restore', 'teacher', f'{out}-held', 'patches.npz', '--n', 4, '--method', 'Anneal(steps=3)'))
    ys, whole = Measurements.load(tmp_path/out), Measurements.load(tmp_path/'whole')
    assert ys.shape == (1, 16, 16) and len(whole) == 12 and whole.shape == (1, 50, 52)
    assert ys.sigma == whole.sigma == pytest.approx(float(options[1])/127.5)
    assert [p.name for p in sorted((tmp_path/'restored').iterdir())] == ['000000.png', '000001.png']
    assert Image.open(tmp_path/'restored/000000.png').size == (104, 100)
    Image.fromarray(np.full((100, 104), 7, np.uint16)).save(tmp_path/'photos/deep.png')
    for line in (('dcd_noise', 'photos'), ('dcd_import', 'photos', 'no')):
        assert 'photos has dtype uint16, but' in run(*line, cwd=tmp_path).stderr


def test_noise_of_photons_and_independent_noise_is_told_apart(tmp_path):
    import numpy as np
    g = np.random.default_rng(0)
    light = np.linspace(20, 400, 8)[:, None, None]*np.ones((1, 64, 64))
    np.save(tmp_path/'counts.npy', (100 + 2*g.poisson(light)).astype('float32'))
    np.save(tmp_path/'plain.npy', (light + 9*g.normal(size=light.shape)).astype('float32'))
    counts, plain = (json.loads(run('dcd_noise', f'{k}.npy', '--json', cwd=tmp_path).stdout) for k in ('counts', 'plain'))
    gain = float(re.search(r'gain=([\d.]+)', counts['photons'])[1])
    assert gain == pytest.approx(2, rel=.2) and counts['photons'] in shlex.split(counts['next'])
    assert plain['photons'] == 'no' and float(plain['noise'].split()[0]) == pytest.approx(9, rel=.05)
    assert '--every' not in counts['next'] + plain['next']
    done = run(*shlex.split(counts['next']), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ys = Measurements.load(tmp_path/'mine')
    assert '--root' in counts['next'] and ys.sigma < .1 and ys.about['stabilised']['gain'] > 0
    refused = run('dcd_import', 'plain.npy', 'no', '--sigma', '9', '--root', cwd=tmp_path)
    assert refused.returncode and "root is for photons: pass their noise, as dcd_noise prints it" in refused.stderr


def test_frames_of_few_photons_from_their_noise_to_whole_restored_ones_in_counts(tmp_path):
    "Files of 16 bits, through the root and back to counts of 16 bits"
    import numpy as np
    import tifffile
    g = np.random.default_rng(0)
    rows, columns = np.mgrid[:80, :72]/12
    for i in range(6):
        light = 6 + 4*np.sin(rows + i)*np.cos(columns)
        tifffile.imwrite(tmp_path/f'{i}.tif', (100 + 20*g.poisson(light) + 30*g.normal(size=light.shape)).round().clip(0).astype(np.uint16))
    said = json.loads(run('dcd_noise', '*.tif', '--json', cwd=tmp_path).stdout)
    assert '--root' in said['next'] and said['photons'].startswith('Photons(gain=')
    command, y, out, *options = shlex.split(said['next'])
    net = 'network=MLP(shape=(1,16,16),width=16,blocks=1)'
    sigma = options[:2]
    five(tmp_path, (command, y, out, *sigma, '--root', '--patch', 16, '--held_out', .1),
         ('dcd_train', 'own', '--data', out, '--out', 'teacher', '--images', 2560, '--batch', 128, '--set', net),
         ('dcd_distill', 'teacher', '--data', out, '--out', 'student', '--images', 64, '--batch', 32),
         (command, y, 'whole', *sigma, '--root'),
         ('dcd_restore', 'teacher', 'whole', 'restored.tif', '--method', 'Denoise()'),
         ('dcd_restore', 'teacher', 'whole', 'restored.npz', '--images', 1, '--method', 'Denoise()'),
         ('dcd_sample', 'student', 'new.tif', '--n', 4, '--like', out))
    restored, new = (tifffile.imread(tmp_path/f'{k}.tif') for k in ('restored', 'new'))
    assert (restored.dtype, restored.shape, new.shape) == (np.uint16, (6, 80, 72), (4, 16, 16))
    assert restored.mean() == pytest.approx(100 + 20*6, rel=.1)          # of counts, not of roots
    middle = Measurements.load(tmp_path/'whole')
    again = Limits.from_dict(middle.about['data']['scaling']).undo(torch.from_numpy(np.load(tmp_path/'restored.npz')['mean']))
    assert np.abs(again[0, 0] - restored[0]).max() <= .51
