"The library is what the notebooks export, the notebooks are clean, and the package installs."
import filecmp
import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from html import unescape
from importlib.metadata import version
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
sys.path.insert(0, str(root/'nbs'))


def copy_project(dest):
    shutil.copytree(root/'nbs', dest/'nbs',
                    ignore=shutil.ignore_patterns('.ipynb_checkpoints', '__pycache__'))
    shutil.copy(root/'settings.ini', dest)
    return dest


def files(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob('*') if p.suffix in ('.py', '.ipynb')
                  and '.ipynb_checkpoints' not in p.parts)


def differing(a, b):
    "Files that `a` and `b` do not share"
    names = sorted({*files(a), *files(b)})
    _, changed, missing = filecmp.cmpfiles(a, b, names, shallow=False)
    return [*map(str, changed), *map(str, missing)]


large = {  # tracked files of more than 2 MB, and why they are there
    'dcd_nb/weights/cifar10.safetensors': 'judges every record of photographs, trained from data that are not shipped',
    'nbs/runs/phantoms-16-R4/generator.safetensors': 'dcd_check and the page on heads draw from it'}


def test_large_files_have_a_reason():
    if not (root/'.git').exists(): pytest.skip('no clone')
    names = subprocess.run(['git', 'ls-files', '-z'], cwd=root, check=True, capture_output=True,
                           text=True).stdout.split('\0')
    assert {n for n in names if n and (root/n).is_file() and (root/n).stat().st_size > 2*1024**2} == {*large}


def test_library_is_exported(tmp_path):
    subprocess.run(['nbdev_export'], cwd=copy_project(tmp_path), check=True)
    assert differing(root/'dcd_nb', tmp_path/'dcd_nb') == [], 'run nbdev_export'


def test_notebooks_are_clean(tmp_path):
    subprocess.run(['nbdev_clean'], cwd=copy_project(tmp_path), check=True)
    assert differing(root/'nbs', tmp_path/'nbs') == [], 'run nbdev_clean'


def test_running_a_notebook_again_changes_nothing(tmp_path):
    path = copy_project(tmp_path)/'nbs/00c_images.ipynb'
    subprocess.run([sys.executable, tmp_path/'nbs/_run.py', path], cwd=tmp_path, check=True)
    # PNG bytes follow the matplotlib version, stamps the commit
    strip = lambda p: re.sub(r'"image/png": ".*?"|base64,[^\\"]*|\\"revision\\": \\"\w*', '',
                             p.read_text(encoding='utf-8'))
    assert strip(path) == strip(root/'nbs/00c_images.ipynb')


def test_no_name_is_undefined():
    "A module is put together from cells: an import that only the notebook has would be missed"
    done = subprocess.run([sys.executable, '-m', 'pyflakes', root/'dcd_nb'], capture_output=True, text=True)
    assert done.stdout or not done.stderr, done.stderr
    assert not [l for l in done.stdout.splitlines() if "undefined name '" in l or 'may be undefined' in l]


def test_readme_is_made_from_index():
    from _readme import readme
    assert (root/'README.md').read_text(encoding='utf-8') == readme(), 'run python nbs/_readme.py'


def test_readme_is_short_and_its_chart_is_of_the_records():
    from _readme import ratios
    assert len((root/'README.md').read_text(encoding='utf-8').splitlines()) < 120
    kept = re.search(r'<dc:description>(.*?)</dc:description>',
                     (root/'nbs/results.svg').read_text(encoding='utf-8'))
    assert json.loads(unescape(kept[1])) == ratios(), 'run python nbs/_readme.py'


def test_the_program_of_the_readme_runs_and_repeats(tmp_path, monkeypatch):
    "As it stands there, with small budgets: a generator on the disk, a restored image, and the same weights again"
    monkeypatch.chdir(tmp_path)
    text = (root/'README.md').read_text(encoding='utf-8').split('## Run it')[1].split('\n## ')[0]
    program = '\n'.join(re.findall(r'``` python\n(.*?)```', text, re.S))
    for budget, less in {'images=200_000': 'images=256', 'images=50_000': 'images=256',
                         'ys[:20]': 'ys[:1]'}.items():
        assert program.count(budget) == 1
        program = program.replace(budget, less)

    def play(lines):
        "What a program defines; what it shows is in `shown`"
        names = dict(shown=[])
        exec(lines.replace('import *', 'import *\nshow_images = shown.append', 1), names)
        return names

    first, again = play(program), play(program.split('show_images')[0])
    assert first['G'].cost['weights_sha256'] == again['G'].cost['weights_sha256']
    assert first['Generator'].load('my_generator').sample(2).equal(first['G'].sample(2))
    samples, restored = first['shown']
    assert samples.shape == (64, 1, 8, 8) and restored['mean'].shape == restored['spread'].shape == (1, 1, 8, 8)


def test_ci_runs_the_command_of_the_readme():
    block = re.search(r"pip install -e '\.\[dev\]' && pytest -n 2",
                      (root/'README.md').read_text(encoding='utf-8'))
    assert block and block[0] in (root/'.ci/run').read_text(encoding='utf-8')


def test_users_get_what_is_tested():
    "A limit on a version that only contributors have would leave users with another package than the tests"
    from packaging.requirements import Requirement
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini', encoding='utf-8')
    own, dev = ([Requirement(r) for r in ini['DEFAULT'][k].split()]
                for k in ('requirements', 'dev_requirements'))
    assert not {r.name for r in own} & {r.name for r in dev}
    assert all(r.specifier.contains(version(r.name), prereleases=True) for r in own)


@pytest.mark.skipif(not (root/'.git').exists(), reason='builds from a git checkout')
def test_wheel_from_sdist_works_outside_the_repository(tmp_path):
    names = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=root, check=True,
                           capture_output=True, text=True).stdout.split('\n')
    for name in filter(None, names):
        if (root/name).is_file():
            (tmp_path/'src'/name).parent.mkdir(parents=True, exist_ok=True), shutil.copy(root/name, tmp_path/'src'/name)
    pip = dict(check=True, capture_output=True, text=True)
    subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', tmp_path/'dist',
                    tmp_path/'src'], **pip)
    wheel, = (tmp_path/'dist').glob('*.whl')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--target',
                    tmp_path/'site', wheel], **pip)
    code = f"import sys; sys.path.insert(0, {str(tmp_path/'site')!r}); import dcd_nb.all as d; print(d.__file__, len(d.__all__))"
    out = subprocess.run([sys.executable, '-I', '-c', code], cwd=tmp_path, **pip).stdout.split()
    assert out[0].startswith(str(tmp_path/'site')) and int(out[1]) >= 20
