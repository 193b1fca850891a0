"""The order of the pages, which stands in the sidebar of `_quarto.yml`, and the links `Next:` that follow it.

    python nbs/_order.py        after a page was added to the sidebar or moved there
"""
import json, re
from pathlib import Path

import yaml
from _minutes import nbs, title


def sections():
    "The headings above a group of pages, and their names, from the first page to the last"
    def walk(items, above):
        own = [item['auto'].removesuffix('.*') for item in items if 'auto' in item]
        if own: yield above, own
        for item in items:
            if 'section' in item: yield from walk(item['contents'], (*above, item['section']))
    site = yaml.safe_load((nbs.parent/'_quarto.yml').read_text(encoding='utf-8'))
    return [*walk(site['website']['sidebar']['contents'], ())]


def following():
    "Each page and the one behind it; the last leads home"
    names = [name for _, group in sections() for name in group]
    return dict(zip(names, [*names[1:], 'index']))


def lead_on(name, to):
    "Let the last cell of a page lead to `to`: a sentence that leads there already stays as it is"
    path = nbs/f'{name}.ipynb'
    page = json.loads(path.read_text(encoding='utf-8'))
    text = ''.join(page['cells'][-1]['source'])
    *before, last = text.split('Next: ')
    link = f'[{title(to)}]({to}.ipynb)' if to != 'index' else '[the first page](index.ipynb)'
    if f']({to}.ipynb' in last: return
    page['cells'][-1]['source'] = ('Next: '.join(before) + f'Next: {link}.').splitlines(True)
    path.write_text(json.dumps(page, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
    for name, to in following().items(): lead_on(name, to)
