"""Fold in JupyterLab what is folded on the site.

    python nbs/_fold.py nbs/04_diffusion.ipynb ...        these pages; none: all

An author writes `#| code-fold: true` at the top of a cell.  Quarto reads it there, JupyterLab reads `source_hidden` in the
metadata of the cell, which is written here.  In a cell that is exported the directive would become a comment of the
library: it moves to the metadata, where Quarto finds it as well.
"""
import json, re, sys
from pathlib import Path

said = re.compile(r'^#\| (code-fold|code-summary): (.*)\n', flags=re.M)
exported = re.compile(r'^#\| *exports?\b', flags=re.M)


def is_folded(cell):
    "Does `cell` show its code only to whoever opens it?"
    return cell['metadata'].get('code-fold') is True or '#| code-fold: true\n' in ''.join(cell['source'])


def fold(cell):
    "Let the metadata of a code cell say what its directives say"
    source = ''.join(cell['source'])
    if exported.search(source):
        cell['metadata'] |= {name: json.loads(value) for name, value in said.findall(source)}
        source = said.sub('', source)
        if isinstance(cell['source'], list): cell['source'] = source.splitlines(True)
        else: cell['source'] = source
    cell['metadata'].pop('jupyter', None)
    if is_folded(cell): cell['metadata']['jupyter'] = {'source_hidden': True}


def main(*paths):
    for path in map(Path, paths or sorted(Path(__file__).parent.glob('*.ipynb'))):
        page = json.loads(path.read_text(encoding='utf-8'))
        for cell in page['cells']:
            if cell['cell_type'] == 'code': fold(cell)
        path.write_text(json.dumps(page, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')


if __name__ == '__main__': main(*sys.argv[1:])
