"""Run notebooks from top to bottom and save their outputs in place.

    python nbs/_run.py nbs/00_errors.ipynb             one notebook
    python nbs/_run.py nbs/4*.ipynb cuda slow        with the cells flagged `#| cuda` and `#| slow`

Cells whose flag is not named keep the outputs they have.  Figures are stored at twice the resolution.  The tests run notebooks with the same `run_cells`.
"""
import os, sys, time
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

from execnb.nbio import write_nb
from execnb.shell import CaptureShell
from nbdev.clean import nbdev_clean
from nbdev.process import NBProcessor
from PIL import Image
from _fold import fold

waits = ('slow', 'cuda')
os.environ.setdefault('DCD_PRECISION', 'fp32')  # what a page shows must not depend on the processor


def runs(cell, flags):
    "Does `cell` run when `flags` are asked for?"
    directives = cell.directives_
    return directives.get('eval:') != ['false'] and all(f in flags for f in waits if f in directives)


def own_modules(): return {k: v for k, v in sys.modules.items() if k.split('.')[0] == 'dcd_nb'}


def run_cells(nb, path, flags=(), timeout=120, figures='png'):
    "Run the code cells of `nb` one by one; yield the heading above each, the cell, and its exception or None"
    shell, heading, here, before = CaptureShell(path, mpl_format=figures, timeout=timeout), Path(path).stem, os.getcwd(), own_modules()
    os.chdir(Path(path).parent)
    for name in before: del sys.modules[name]      # a notebook that patches a class of the library does so for itself alone
    try:
        for cell in nb.cells:
            if cell.cell_type == 'markdown':
                titles = [l.strip('# ') for l in cell.source.splitlines() if l.startswith('#')]
                heading = titles[-1] if titles else heading
            elif cell.cell_type == 'code' and cell.source.strip() and runs(cell, flags):
                cell.outputs = list(shell.run(cell.source))
                yield heading, cell, shell.exc
                if shell.exc: return
    finally:
        os.chdir(here)
        for name in own_modules(): del sys.modules[name]
        sys.modules.update(before)


def smaller(picture):
    "A figure of a page, a PNG as base64: with a palette, half as large, if it has few colours, as plots and grey images have"
    image = Image.open(BytesIO(b64decode(picture)))
    opaque = image.mode == 'RGBA' and image.getextrema()[3] == (255, 255)
    if not opaque or image.convert('RGB').getcolors(1024) is None: return picture
    file = BytesIO()
    image.convert('RGB').quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, 'png', optimize=True)
    return b64encode(file.getvalue()).decode()


def main(*args):
    paths, flags = [Path(a).resolve() for a in args if a.endswith('.ipynb')], [a for a in args if a in waits]
    if not paths or len(paths) + len(flags) != len(args): sys.exit(__doc__)
    for path in paths:
        nb, start = NBProcessor(path, rm_directives=False).nb, time.time()
        for heading, cell, exc in run_cells(nb, path, flags, timeout=None, figures='retina'):
            if exc: sys.exit(f'{path.name}, "{heading}", cell {cell.idx_}: {type(exc).__name__}: {str(exc)[:400]}\nnothing was saved')
            for data in (output.get('data', {}) for output in cell.outputs):
                if 'image/png' in data: data['image/png'] = smaller(data['image/png'])
        for cell in nb.cells:
            cell.pop('directives_', None), cell.pop('idx_', None)
            if cell.cell_type == 'code': fold(cell)
        write_nb(nb, path)
        nbdev_clean(str(path))
        print(f'{path.name}: {time.time() - start:.1f} s')


if __name__ == '__main__': main(*sys.argv[1:])
