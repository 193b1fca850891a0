"""Quarto calls this when the pages are written.

A page with HTML of its own (a slider) is given jQuery and require.js from a server elsewhere, in case that HTML is a widget
that needs them: ours does not.  Formulas are MathML, which is mended where browsers draw it badly, and a line must not begin
with the comma behind one.  And names of the library, written as code in the text, lead to the page of names.
"""
import os, re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

# Children that an element must have; elements that are not listed are rows and take any number
CHILDREN = dict(mfrac=2, mroot=2, msub=2, msup=2, munder=2, mover=2, msubsup=3, munderover=3)
ROWS = ('math', 'mrow', 'mstyle', 'msqrt', 'mtd', 'mpadded', 'mphantom', 'menclose', 'merror')
ACCENTS = {'\u0303': '\u02dc', '\u0302': '\u02c6', '\u0307': '\u02d9', '\u203e': '\u00af', '\u0304': '\u00af'}
SCRIPTS = ('msub', 'msup', 'msubsup', 'munder', 'mover', 'munderover')


def check_formula(root):
    "Refuse a formula that browsers would draw as a heap of its parts: one with a child too many or too few"
    for e in root.iter():
        if len(e) != CHILDREN.get(e.tag, len(e)):
            raise ValueError(f'<{e.tag}> has {len(e)} children in {ElementTree.tostring(root, "unicode")}')


def is_function(e):
    "Whether `e` is the name of a function, such as log, perhaps with an index"
    return e.text == '\u2061' if e.tag == 'mo' else len(e) > 0 and is_function(e[0 if e.tag in SCRIPTS else -1])


def begins_with_operator(e): return e.tag in ('mo', 'mspace') or e.tag == 'mrow' and len(e) > 0 and begins_with_operator(e[0])


def mended(root):
    "The formula `root` with space behind names of functions, whole accents, and brackets that stay on the line"
    for e in list(root.iter()):
        if e.tag == 'mover' and e[1].get('accent') == 'true':           # combining characters would be specks, or stand aside
            e.set('accent', 'true')
            e[1].text = ACCENTS.get(e[1].text, e[1].text)
        if e.tag == 'mo' and e.text in ('\u2225', '\u2016'): e.attrib |= dict(lspace='0em', rspace='0em')      # norms, not relations
        if e.tag in SCRIPTS and e[0].get('minsize'):                    # the index of a large bracket would move the bracket
            row = ElementTree.Element('mrow')
            row.append(e[0])
            e[0] = row
        if e.tag in ROWS:
            for i in reversed(range(len(e) - 1)):
                if is_function(e[i]) and not begins_with_operator(e[i + 1]):
                    e.insert(i + 1, ElementTree.Element('mspace', width='0.167em'))
    return root


def formula(m):
    "A match of <math>...</math>, mended; the number of an equation stands behind it, for the style to put it at the right edge"
    attributes, inner = m[1], m[2].replace('&nbsp;', '\u00a0')
    root = mended(ElementTree.fromstring(f'<math>{inner}</math>'))
    number = equation_number(root)
    check_formula(root)
    text = ElementTree.tostring(root, 'unicode', short_empty_elements=False).removeprefix('<math>')
    return f'<math{attributes}>{text}' + (f'<span class="equation-number">({number})</span>' if number else '')


def equation_number(root):
    "The number that Quarto writes into a formula, behind a wide space; it is taken out"
    row = root.find('semantics/mrow')
    parts = [] if row is None else list(row)
    for i, e in enumerate(parts):
        rest = ''.join(''.join(p.itertext()) for p in parts[i + 1:])
        if e.tag == 'mspace' and e.get('width') in ('2em', '2.0em') and re.fullmatch(r'\(\d+\)', rest):
            for p in parts[i:]: row.remove(p)
            return rest[1:-1]


def indent_known(m):
    "A match of the start of a line of code, with its indent written down: a line too long hangs from there"
    return f'{m[1]} style="--indent: {len(m[3])}ch"{m[2]}{m[3]}'


def wrap_output(m):
    """A match of a text output.  If it is sentences, it is marked, and long lines go on below.  Columns of a table must not,
    but a last column that is a sentence may: it goes on below its own start."""
    if not re.search(r'\S {2,}\S', m[3]): return f'{m[1]}<pre class="words">{m[2]}{m[3]}</code></pre>'
    if 'class="hang"' in m[3]: return m[0]                       # a page that was finished before
    text = re.sub(r'(?m)^(.*\S {2,})((?:(?! {2}).){40,})$\n?', hang_last, m[3])
    return f'{m[1]}<pre>{m[2]}{text}</code></pre>'


def hang_last(m):
    "A match of a line of columns, of which the last is long, as a block with the place where that begins"
    return f'<span class="hang" style="--hang: {len(unescape(m[1]))}ch">{m[1]}{m[2]}</span>'


def finish(page):
    "`page` without scripts of other servers, with formulas that read well, and with lines of code that know their indent"
    page = re.sub(r'(<span id="cb\d+-\d+")(><a [^>]*></a>(?:<span class="\w+">)?)( +)', indent_known, page)
    page = re.sub(r'(<div class="cell-output[^>]*>\s*)<pre>(<code>)(.*?)</code></pre>', wrap_output, page, flags=re.S)
    page = re.sub(r'<script src="https://cdn\.[^>]*></script>\s*', '', page)
    page = re.sub(r'''<script[^>]*>define\('jquery'.*?</script>\s*''', '', page)
    page = re.sub(r'<p>(<img\b[^>]*>)\s+(?!</p>)', r'<p>\1</p>\n<p>', page)          # on a phone the picture scrolls, its text does not
    page = re.sub(r'<math\b([^>]*)>(.*?)</math>', formula, page, flags=re.S)
    return re.sub(r'<math display="inline"(?:(?!</math>).)*</math>[.,;:?)]+', r'<span class="text-nowrap">\g<0></span>', page, flags=re.S)


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
