"""Quarto calls this when the pages are written.

A page with HTML of its own (a slider) is given jQuery and require.js from a server elsewhere, in case that HTML is a widget
that needs them: ours does not.  MathML leaves no space in log p, and lets a line begin with the comma behind a formula.
And names of the library, written as code in the text, lead to the page of names.
"""
import os, re
from pathlib import Path


def finish(page):
    "`page` without scripts of other servers, and with formulas that read well"
    page = re.sub(r'<script src="https://cdn\.[^>]*></script>\s*', '', page)
    page = re.sub(r'''<script[^>]*>define\('jquery'.*?</script>\s*''', '', page)
    page = re.sub(r'<math display="inline"(?:(?!</math>).)*</math>[.,;:?)]+', r'<span class="text-nowrap">\g<0></span>', page, flags=re.S)
    return re.sub(r'(<mo>\u2061</mo>(?:</mrow>)?)(?=<m(?!o\b)(?!row><mo\b))', r'\1<mspace width="0.167em"></mspace>', page)


def link_names(page, names, to):
    "`page` with links to the page `to` from each of `names` that its text has as code: alone, with arguments, or a class with one of its methods"
    def link(m): return f'<a class="name" href="{to}#name-{m[1]}">{m[0]}</a>' if m[1] in names and (not m[2] or m[1][0].isupper()) else m[0]
    parts = re.split(r'(<(pre|a|h\d|summary|script|title|button)\b.*?</\2>)', page, flags=re.S)       # text, what stays as it is, its tag; text, ...
    text = [re.sub(r'<code>(\w+)(\.\w+)?(?:\([^<]*\))?</code>', link, t) for t in parts[::3]]
    return ''.join(t + kept for t, kept in zip(text, [*parts[1::3], '']))


if __name__ == '__main__':
    pages = {file: finish(file.read_text(encoding='utf-8')) for file in Path(os.environ['QUARTO_PROJECT_OUTPUT_DIR']).rglob('*.html')}
    index = next((file for file in pages if file.stem in ('all', '91_all')), None)
    names = set(re.findall(r'id="name-(\w+)"', pages.get(index, '')))
    for file, page in pages.items():
        if file.parent == getattr(index, 'parent', None) and file != index: page = link_names(page, names, index.name)
        file.write_text(page, encoding='utf-8')
