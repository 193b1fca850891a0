"Help: every argument is explained where people look for it, commands share their options, and a run of hours is announced."
import inspect
import pydoc
import re
import subprocess
import sys
import warnings
from configparser import ConfigParser
from pathlib import Path

import pytest
from processes import run, scripts

import dcd_nb
import dcd_nb.all as d
from dcd_nb.all import *
from dcd_nb.machine import warn_of_hours

root = Path(dcd_nb.__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(root.parent/'settings.ini', encoding='utf-8')
commands = [c.split('=')[0] for c in ini['DEFAULT']['console_scripts'].split()]


def arguments(o):
    "Names of the arguments of a function, or of a class, without those that only pass on"
    found = inspect.signature(o).parameters.values()
    return [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            and p.name not in ('self', 'cls')]


def explained(o):
    "Those that its docstring tells of, under Args or in backticks"
    doc = inspect.getdoc(o) or ''
    return [k for k in arguments(o) if re.search(rf'^    {k}: |`{k}`', doc, re.M)]


@pytest.mark.parametrize('o', [train, distill, restore, evaluate, load_images, quickstart,
                               Measurements.from_arrays, Generator.sample, Teacher.sample, write_frames],
                         ids=lambda o: o.__qualname__)
def test_what_people_call_first_explains_its_arguments_in_help(o):
    left = set(arguments(o)) - set(explained(o))
    assert not left - {'n', 'seed', 'quiet'}, left                  # these have one meaning everywhere


def test_help_explains_nearly_every_argument():
    found = [(len(explained(o)), len(arguments(o))) for n in d.__all__ if callable(o := getattr(d, n))
             and not issubclass(o if inspect.isclass(o) else int, Exception)]
    told, all_of_them = map(sum, zip(*found))
    assert told > .75*all_of_them > 200, (told, all_of_them)


def test_comments_in_all_their_places_are_found():
    "Beside an argument, above it, with a # in its default, and not from the body"
    lines = ['    a:int,  # first', '    # second,', '    # in two lines', "    b='# no',  # third",
             '    c=1,', '    **kw, # the rest', '):', '    d = 1  # no']
    assert d._comments(lines, ['a', 'b', 'c', 'kw', 'd']) == dict(a='first', b='third', c='', kw='the rest')
    assert d._comments(['    # above', '    a,', ')'], ['a']) == dict(a='above')


def test_help_shows_no_marker_of_a_cell():
    seen = {}
    for name, module in [*sys.modules.items()]:
        if not name.startswith('dcd_nb'): continue
        for k in getattr(module, '__all__', ()):
            o = getattr(module, k)
            if getattr(o, '__module__', None) == name and (inspect.isclass(o) or inspect.isfunction(o)):
                seen[name, k] = o
    marked = [k for k, o in seen.items() if '# %%' in pydoc.plain(pydoc.render_doc(o))]
    assert len(seen) > 300 and not marked, marked


def test_completing_docstrings_takes_less_than_20_ms():
    code = 'import dcd_nb.all as d, sys, time; ms = [m for n, m in sys.modules.items() if n.startswith("dcd_nb.")]; t = time.process_time(); [d._explain(m) for m in ms]; print(time.process_time() - t)'
    assert min(float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout)
               for _ in range(2)) < .02


def test_types_are_marked_and_packaged():
    assert (root/'py.typed').exists() and 'py.typed' in ini['DEFAULT']['package_data'].split()


@pytest.mark.parametrize('name', commands)
def test_commands_share_their_options(name, tmp_path):
    version = run(name, '--version', cwd=tmp_path)
    assert (version.returncode, version.stdout) == (0, f'dcd_nb {dcd_nb.__version__}\n'), version
    text = run(name, '--help', cwd=tmp_path).stdout
    assert all(option in text for option in ('--quiet', '--verbose', '--version', '--imports', '--json'))


def test_quiet_and_verbose(tmp_path):
    line = ['dcd_train', 'moons-noise', '--images', 1024, '--batch', 512]
    loud, quiet = run(*line, '--out', 'a', cwd=tmp_path), run(*line, '--out', 'b', '--quiet', cwd=tmp_path)
    assert 'images/s' in loud.stdout and 'images/s' not in quiet.stdout and 'weights_sha256' in quiet.stdout and not quiet.stderr
    short, long = run('dcd_train', 'nope', cwd=tmp_path), run('dcd_train', 'nope', '--verbose', cwd=tmp_path)
    assert len(short.stderr.splitlines()) == 1 and 'Traceback' in long.stderr and '"torch"' in long.stderr and long.returncode == 2


def test_recipes_are_short_by_default(tmp_path):
    short, long = run('dcd_recipes', cwd=tmp_path).stdout, run('dcd_recipes', '--all', cwd=tmp_path).stdout
    assert len(short.splitlines()) < 50 < len(long.splitlines())
    for name in recipes(): assert name in short and name in long


def test_hours_on_a_cpu_are_announced_before_the_run(monkeypatch, tmp_path):
    class Began(Exception): pass
    def begins(*args, **kw): raise Began
    monkeypatch.setattr('dcd_nb.training.loop.progress', begins)
    ys = Corruption(Identity(), .3).measure(digits()[:64])
    with pytest.warns(UserWarning, match='hours on this CPU: pass minutes'), pytest.raises(Began):
        train(ys, UNet(8, 1, channels=32), images=10**9, batch=64, quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(Began): train(ys, UNet(8, 1, channels=32), images=640, batch=64, quiet=True)


def test_the_smaller_edition_is_named(tmp_path):
    import numpy as np
    np.save(tmp_path/'y.npy', np.random.default_rng(0).normal(0, .5, (4, 3, 32, 32)).astype('float32'))
    run('dcd_import', 'y.npy', 'ys', '--sigma', .2, cwd=tmp_path)
    said = run('dcd_train', 'cifar10-noise-0.2', '--data', 'ys', '--device', 'cpu', cwd=tmp_path,
               fate=('dcd_nb.training.loop:progress', 1)).stderr
    assert 'smaller: cifar10-noise-0.2-cpu, cifar10-noise-0.2-small' in said and 'hours on this CPU' in said
