"""Quarto calls this when the pages are written.

A page with HTML of its own (a slider) is given jQuery and require.js from a server elsewhere, in case that HTML is a widget
that needs them: ours does not.  And MathML leaves no space in log p, and lets a line begin with the comma behind a formula.
"""
import os, re
from pathlib import Path


def finish(page):
    "`page` without scripts of other servers, and with formulas that read well"
    page = re.sub(r'<script src="https://cdn\.[^>]*></script>\s*', '', page)
    page = re.sub(r'''<script[^>]*>define\('jquery'.*?</script>\s*''', '', page)
    page = re.sub(r'<math display="inline"(?:(?!</math>).)*</math>[.,;:?)]+', r'<span class="text-nowrap">\g<0></span>', page, flags=re.S)
    return re.sub(r'(<mo>\u2061</mo>(?:</mrow>)?)(?=<m(?!o\b)(?!row><mo\b))', r'\1<mspace width="0.167em"></mspace>', page)


if __name__ == '__main__':
    for file in Path(os.environ['QUARTO_PROJECT_OUTPUT_DIR']).rglob('*.html'):
        file.write_text(finish(file.read_text(encoding='utf-8')), encoding='utf-8')
