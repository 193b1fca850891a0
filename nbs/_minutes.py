"""How long a page takes: to read at 200 words a minute, and to run without its slow cells.

    python nbs/_minutes.py                       measure the run of every page anew (some minutes)
    python nbs/_minutes.py nbs/01_operator.ipynb ...    of these pages

Words are counted when they are asked for.  Seconds are measured here and kept in `nbs/_minutes.json`: processor time,
so that a busy machine measures the same.
"""
import json, os, re, sys
from importlib import import_module
from pathlib import Path

nbs = Path(__file__).parent
kept = nbs/'_minutes.json'
paths = { # reading orders, shown by 93_pages.ipynb
    'Newcomer': ['22d_one_page', '01_operator', '01b_corruption', '11_tweedie', '22c_distill', '24_quickstart'],
    'Practitioner': ['02d_data', '02c_loading', '26a_report', '15_objectives', '20e_training', '22c_distill', '22b_monitors', '23b_recipes', '06d_evaluation', '25d_restore', '28_runs', '90d_cli'],
    'Theorist': ['04_diffusion', '10_objective', '11_tweedie', '13_inpainting', '26_directions', '21_losses', '30_gaussian', '31_eigenspace', '31a_readings', '32_kernel', '33_practice', '34_mixtures', '35_theory'],
}
folded = re.compile(r'<details>.*?</details>|::: *\{[^}]*collapse.*?\n:::|```.*?```', re.S)


def seconds(name): return json.loads(kept.read_text(encoding='utf-8'))[name]


def prose(name):
    "The markdown cells of a page"
    cells = json.loads((nbs/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == 'markdown']


def title(name): return re.match('# (.*)', prose(name)[0])[1]


def idea(name):
    "What a page is about, in the line below its title"
    return re.search(r'^> (.*(?:\n> .*)*)', prose(name)[0], flags=re.M)[1].replace('\n> ', ' ')


def words(name):
    "Words of a page, without what is folded away: proofs and answers"
    return sum(len(folded.sub('', text).split()) for text in prose(name))


def minutes(name): return words(name)/200 + seconds(name)/60


def spent(): return sum(os.times()[:4])


def measure(path):
    from nbdev.process import NBProcessor
    from _run import run_cells
    start = spent()
    for heading, _, exc in run_cells(NBProcessor(path).nb, path, timeout=None):
        if exc: raise SystemExit(f'{path.name}, "{heading}": {exc!r}')
    return round(spent() - start, 1)


def main(*paths):
    # once, as the tests do: else the first page that trains is charged for the compiler, some 4 s
    for name in ('torch._dynamo', 'matplotlib.pyplot', 'scipy.stats', 'torchvision'): import_module(name)
    new = {p.stem: measure(p) for p in map(Path, paths)} if paths else {p.stem: measure(p) for p in sorted(nbs.glob('[0-9]*.ipynb'))}
    old = json.loads(kept.read_text(encoding='utf-8')) if kept.exists() else {}
    pages = {p.stem for p in nbs.glob('[0-9]*.ipynb')}
    kept.write_text(json.dumps({k: v for k, v in sorted({**old, **new}.items()) if k in pages}, indent=0) + '\n', encoding='utf-8')
    for k, v in new.items(): print(f'{k}: {v} s')


if __name__ == '__main__': main(*sys.argv[1:])
