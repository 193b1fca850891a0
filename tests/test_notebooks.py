"""Every notebook in `nbs/` is a test.

Its cells run from top to bottom, as a reader would run them, and each is reported under the heading it
stands below.  Cells flagged `#| cuda` wait for a GPU, cells flagged `#| slow` for `DCD_SLOW=1`, and no
cell may take longer than `DCD_CELL_SECONDS` (120).
"""
import json
import os
import re
import sys
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from execnb.nbio import dict2nb
from fastcore.xtras import working_directory
from nbdev.doclinks import nbglob
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults

nbs = Path(__file__).parent.parent/'nbs'
sys.path.insert(0, str(nbs))
from _fold import fold, is_folded  # noqa: E402
from _minutes import folded, idea, minutes, paths, prose, seconds, spent, title  # noqa: E402
from _order import following, sections  # noqa: E402
from _post import finish, link_names  # noqa: E402
from _run import run_cells, smaller  # noqa: E402

notebooks = sorted(nbs.glob('*.ipynb'))
flags = [f for f, ready in dict(cuda=torch.cuda.is_available(), slow=os.getenv('DCD_SLOW')).items() if ready]
limit = None if flags else int(os.getenv('DCD_CELL_SECONDS', 120))


def run(path, subtests, timeout=limit):
    for heading, cell, exc in run_cells(NBProcessor(path).nb, path, flags, timeout):
        with subtests.test(heading, cell=cell.idx_):
            if exc: raise exc


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_notebook(path, subtests):
    start = spent()
    run(path, subtests)
    # processor time, and plenty of room for other machines
    if not flags and path.stem in {*sum(paths.values(), [])}:
        assert spent() - start < 60 + 3*seconds(path.stem), f'a page of a reading order takes much longer: python nbs/_minutes.py nbs/{path.name}'


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_stored_outputs(path):
    "A reader of the page meets no error and no warning"
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        for out in cell.get('outputs', []):
            assert out['output_type'] != 'error', ''.join(cell['source'])
            assert out.get('name') != 'stderr', ''.join(out['text'])


# The harness itself: each way to fail must be seen.

def notebook(path, *cells):
    "A notebook at `path` with code `cells`, each below its own heading"
    cell = lambda kind, src: dict(cell_type=kind, metadata={}, source=src,
                                  **({'outputs': [], 'execution_count': None} if kind == 'code' else {}))
    both = [c for i, src in enumerate(cells) for c in (cell('markdown', f'## Claim {i}'), cell('code', src))]
    path.write_text(json.dumps(dict(cells=both, metadata={}, nbformat=4, nbformat_minor=4)))
    return path


def outcome(path, flags=(), timeout=5):
    return [(h, type(e)) for h, _, e in run_cells(NBProcessor(path).nb, path, flags, timeout)]


def test_failing_cell_is_reported_under_its_heading(tmp_path):
    path = notebook(tmp_path/'a.ipynb', 'x = 1', 'assert x == 2', 'x = 3')
    assert outcome(path) == [('Claim 0', type(None)), ('Claim 1', AssertionError)]


def test_slow_cell_is_stopped(tmp_path):
    path = notebook(tmp_path/'a.ipynb', 'import time; time.sleep(30)')
    assert outcome(path, timeout=1) == [('Claim 0', TimeoutError)]


@pytest.mark.parametrize('flag', ['slow', 'cuda', 'eval: false'])
def test_flags_are_honoured(tmp_path, flag):
    path = notebook(tmp_path/'a.ipynb', f'#| {flag}\nassert False', 'x = 1')
    assert outcome(path) == [('Claim 1', type(None))]
    assert outcome(path, flags=['slow', 'cuda'])[0] == (('Claim 1', type(None)) if ':' in flag
                                                        else ('Claim 0', AssertionError))


def test_notebook_runs_in_its_own_folder(tmp_path):
    path = notebook(tmp_path/'a.ipynb', f'import os; assert os.getcwd() == {str(tmp_path)!r}')
    assert outcome(path) == [('Claim 0', type(None))]


def test_patches_stay_in_their_notebook(tmp_path):
    from dcd_nb.operators import Corruption
    path = notebook(tmp_path/'a.ipynb', 'from dcd_nb.operators import Corruption; Corruption.batch = None')
    assert outcome(path) == [('Claim 0', type(None))] and Corruption.batch is not None
    assert outcome(notebook(tmp_path/'b.ipynb',
                            'from dcd_nb.operators import Corruption; assert Corruption.batch')) == [('Claim 0', type(None))]


def test_figures_are_stored_small_and_as_they_were():
    "Grey ones have a palette; of a photograph nothing is taken"
    def png(colours):
        file = BytesIO()
        Image.fromarray(np.dstack([colours, np.full((64, 64, 1), 255, np.uint8)])).save(file, 'png')
        return b64encode(file.getvalue()).decode()
    def pixels(picture): return np.asarray(Image.open(BytesIO(b64decode(picture))).convert('RGB'))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    grey, photograph = png(noise[..., :1].repeat(3, -1)), png(noise)
    assert (pixels(smaller(grey)) == pixels(grey)).all() and len(smaller(grey)) < .5*len(grey)
    assert smaller(smaller(grey)) == smaller(grey) and smaller(photograph) == photograph


# What a reader of the pages meets

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    text = '\n'.join(''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells']
                     if c['cell_type'] == 'markdown')
    for target in re.findall(r'\]\(([\w/.-]+\.ipynb)', text): assert (nbs/target).exists(), target
    known = set(re.findall(r'^@\w+\{([\w-]+),', (nbs/'refs.bib').read_text(encoding='utf-8'), flags=re.M))
    for key in re.findall(r'\[@([\w-]+)', text): assert key in known, f'[@{key}] is not in refs.bib'


def test_the_first_page_calls_pages_what_they_call_themselves():
    "In its tables, each link has the title of the page that it leads to"
    rows = [line for text in prose('index') for line in text.splitlines() if line.startswith('|')]
    links = [link for line in rows for link in re.findall(r'(?<!!)\[([^][]+)\]\((\w+)\.ipynb\)', line)]
    assert len(links) > 30
    for text, name in links: assert text.lower() == title(name).lower(), f'{name} is called {title(name)}'


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_references_stay_on_the_page(path):
    "Quarto numbers equations, figures and theorems of one page only"
    text = '\n'.join(''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'])
    kinds = r'((?:eq|fig|tbl|thm|lem|cor|prp)-[\w-]+)'
    missing = {*re.findall('@' + kinds, text)} - {*re.findall(r'#' + kinds, text),
                                                  *re.findall('label: ' + kinds, text)}
    assert not missing, f'{missing} are not labels of this notebook'


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_figures_have_captions_and_notebooks_stay_small(path):
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if any('image/png' in o.get('data', {}) for o in cell.get('outputs', [])):
            src = ''.join(cell['source'])
            assert all(f'#| {key}:' in src for key in ('label', 'fig-cap', 'fig-alt')), src[:200]
    assert path.stat().st_size < 1.2e6


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_each_of_several_figures_has_a_caption(path):
    "Quarto makes (a) and (b) of two figures under one label, and would give (a) the caption of both"
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        n = sum('image/png' in o.get('data', {}) for o in cell.get('outputs', []))
        found = re.search(r'#[|] fig-subcap: (.*)', ''.join(cell['source']))
        assert n < 2 or found and len(json.loads(found[1])) == n, f"{n} figures: give {n} captions in #| fig-subcap: {''.join(cell['source'])[:200]}"


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_a_figure_stands_alone(path):
    "Quarto takes a table or text that is displayed beside a picture for figure (a), and gives it the caption"
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        if '#| label: fig-' not in ''.join(cell['source']): continue
        shown = [o for o in cell.get('outputs', []) if o['output_type'] == 'display_data']
        with_picture = ['image/png' in o['data'] for o in shown]
        assert all(with_picture) or not any(with_picture), f"show the text in a cell of its own: {''.join(cell['source'])[:200]}"


def test_pictures_reach_the_site():
    "nbdev renders a copy of the folder; a file that is not copied is a broken picture"
    with working_directory(nbs.parent):
        copied = {Path(p).resolve() for p in nbglob(nbs, file_glob='', file_re='')}
    pictures = [nbs/target for path in notebooks for text in prose(path.stem)
                for target in re.findall(r'!\[[^]]*\]\(([^)]+)\)', text)]
    assert pictures and not [p for p in pictures if p.resolve() not in copied]


def test_the_picture_of_phase_two_is_half_of_the_schematic():
    "Whoever changes one picture changes the other"
    whole, half = ((nbs/f'{name}.svg').read_text(encoding='utf-8').splitlines() for name in ('schematic', 'phase2'))
    new = [line for line in half if line not in whole]
    assert len(half) > 20 and all(line.startswith(('<svg ', '<title>')) for line in new), new


def test_titles_differ():
    titles = [re.search('^# (.*)', '\n'.join(prose(path.stem)), flags=re.M)[1] for path in notebooks]
    assert len(titles) == len(set(titles)), [t for t in titles if titles.count(t) > 1]


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_what_is_announced_is_shown(path):
    "The site leaves out cells flagged `export` and `hide`: a sentence that ends in a colon would introduce nothing"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    for words, code in zip(cells, cells[1:]):
        if words['cell_type'] == 'markdown' and ''.join(words['source']).rstrip().endswith(':'):
            assert not re.match(r'#[|] *(export|exporti|hide)\s',
                                ''.join(code['source'])), ''.join(words['source'])[-200:]


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_what_is_checked_for_the_text_below_has_a_text_below(path):
    "A cell that checks 'what the text below says' stands before words, not before the end of the page"
    cells = [(c['cell_type'], ''.join(c['source'])) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]
    for i, (_, source) in enumerate(cells):
        if 'what the text below says' in source:
            below = [text for kind, text in cells[i + 1:] if kind == 'markdown' and not text.startswith('Next:')]
            assert below, f'nothing stands below: {source[:200]}'


def test_no_output_names_a_folder_of_the_machine_that_made_it():
    folders = re.compile(r'(/tmp|/root|/home/[a-z]+|/work)/')
    for path in notebooks:
        for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
            for o in c.get('outputs', []):
                text = ''.join(o.get('text', '')) + ''.join(o.get('data', {}).get('text/plain', ''))
                assert not folders.search(text), f'{path.name}: {text[:300]}'


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_a_list_stands_apart_from_what_is_above(path):
    "Jupyter does without, but Pandoc wants an empty line above a list: without it the page shows the stars"
    for text in prose(path.stem):
        item, open_ = re.compile(r' {0,3}([*+-]|\d+[.)]) '), False
        lines = re.sub(r'```.*?```|[$]{2}.*?[$]{2}', 'x', text, flags=re.S).split('\n')
        for above, line in zip(['', *lines], lines):
            assert not (item.match(line) and above.strip() and not open_), f'{above}\n{line}'
            if item.match(line): open_ = True
            elif line.strip() and not above.strip() and not line.startswith('  '): open_ = False


def test_written_links_stay_as_they_are():
    "nbdev would put a link of its own into [`fit`](20e_training.ipynb), which breaks it"
    nb = dict2nb(dict(cells=[dict(cell_type='markdown', source='# T', metadata={}),
                             dict(cell_type='markdown', source='[`fit`](20e_training.ipynb)', metadata={})],
                      metadata={}))
    nb.path_ = nbs/'x.ipynb'
    with working_directory(nbs.parent): FilterDefaults()(nb)
    assert nb.cells[-1].source == '[`fit`](20e_training.ipynb)'


def test_pages_need_no_other_server():
    "Neither for what Quarto adds to a page with a slider, nor for fonts"
    mine = '<script>moved()</script>'
    added = ('<script src="https://cdn.jsdelivr.net/npm/requirejs@2.3.6/require.min.js" integrity="sha384-c9" crossorigin="anonymous"></script>\n'
             """<script type="application/javascript">define('jquery', [],function() {return window.jQuery;})</script>\n""")
    assert finish(added + mine) == mine
    for name, at in dict(_quarto='', _root='nbs/').items():
        text = (nbs/f'{name}.yml').read_text(encoding='utf-8')
        assert f'post-render: {at or "../nbs/"}_post.py' in text
        assert all(f'[{theme}, {at}site.scss]' in text for theme in ('cosmo', 'darkly'))
    assert '$web-font-path: false;' in (nbs/'site.scss').read_text(encoding='utf-8')


def test_names_in_the_text_lead_to_the_page_of_names():
    page = '<p>A <code>Recipe.cost</code>, <code>SiD(alpha=.5)</code>, <code>sid</code>, <code>recipe.json</code></p><h2><code>SiD</code></h2><pre><code>SiD</code></pre><a href="x"><code>SiD</code></a><code>SiD</code>'
    a = lambda name, text: f'<a class="name" href="names.html#name-{name}"><code>{text}</code></a>'
    assert link_names(page, {'SiD', 'Recipe', 'recipe'},
                      'names.html') == (page.replace('<code>Recipe.cost</code>',
                                                     a('Recipe', 'Recipe.cost')).replace('<code>SiD(alpha=.5)</code>', a('SiD', 'SiD(alpha=.5)'))
                                                                 .removesuffix('<code>SiD</code>')
                                        + a('SiD', 'SiD'))
    text = (nbs/'91_all.ipynb').read_text(encoding='utf-8')
    assert all(f"<a id='name-{name}'></a>" in text
               for name in ('Corruption', 'SiD', 'train', 'Record', 'theory.spectrum'))


def _math(inner, attributes=' display="inline"'): return f'<math{attributes}>{inner}</math>'

_log, _space = '<mrow><mi>log</mi><mo>\u2061</mo></mrow>', '<mspace width="0.167em"></mspace>'
_bracket = '<mo minsize="120%">)</mo>'


@pytest.mark.parametrize('before, after', [
    (f'{_log}<mi>p</mi>', f'{_log}{_space}<mi>p</mi>'),
    (f'{_log}<mo>(</mo>', f'{_log}<mo>(</mo>'),
    (f'<msub><mi>a</mi><mrow>{_log}<mi>p</mi></mrow></msub>',
     f'<msub><mi>a</mi><mrow>{_log}{_space}<mi>p</mi></mrow></msub>'),
    (f'<msub>{_log}<mn>2</mn></msub><mi>x</mi>',
     f'<msub>{_log}<mn>2</mn></msub>{_space}<mi>x</mi>'),     # never inside of <msub>
    (f'<msup>{_bracket}<mn>2</mn></msup>', f'<msup><mrow>{_bracket}</mrow><mn>2</mn></msup>'),
    ('<mover><mi>x</mi><mo accent="true">\u0303</mo></mover>',
     '<mover accent="true"><mi>x</mi><mo accent="true">\u02dc</mo></mover>'),
    ('<mo>\u2225</mo>', '<mo lspace="0em" rspace="0em">\u2225</mo>'),
    ('<mi>a</mi><mo>&lt;</mo><mtext>&nbsp;if</mtext>', '<mi>a</mi><mo>&lt;</mo><mtext>\u00a0if</mtext>'),
])
def test_formulas_are_mended(before, after):
    assert finish(_math(before)) == _math(after)
    assert finish(_math(after)) == _math(after)


def test_formulas_keep_the_comma_behind_them_and_numbers_go_to_the_edge():
    x = _math('<mi>x</mi>')
    assert finish(f'{x} is ({x}), and') == f'{x} is (<span class="text-nowrap">{x}),</span> and'
    number = '<mspace width="2.0em"></mspace><mo>(</mo><mn>12</mn><mo>)</mo>'
    def block(inner):
        return _math(f'<semantics><mrow><mi>x</mi>{inner}</mrow></semantics>', ' display="block"')
    assert finish(block(number)) == block('') + '<span class="equation-number">(12)</span>'
    # a product, no number
    assert finish(block(number + '<mi>y</mi>')) == block(number + '<mi>y</mi>')


def test_formulas_with_a_child_too_many_are_refused():
    with pytest.raises(ValueError, match='<msub> has 3 children'):
        finish(_math('<msub><mi>a</mi><mi>b</mi><mi>c</mi></msub>'))


def test_lines_of_code_know_their_indent_and_sentences_may_wrap():
    def line(text, style=''): return f'<span id="cb1-2"{style}><a href="#cb1-2"></a>{text}</span>'
    for text, n in (('    x', 4), ('<span class="co">        x</span>', 8)):
        assert finish(line(text)) == line(text, f' style="--indent: {n}ch"')
    assert finish(line('x = 1')) == line('x = 1')
    def output(text, kind=''):
        return f'<div class="cell-output cell-output-stdout">\n<pre{kind}><code>{text}</code></pre>'
    assert finish(output('a sentence.\n  - more')) == output('a sentence.\n  - more', ' class="words"')
    # columns stay below each other
    assert finish(output('row   1.0  2.0')) == output('row   1.0  2.0')


def test_a_picture_stands_apart_from_the_text_below_it():
    assert finish('<p><img src="a.png"> Text.</p>') == '<p><img src="a.png"></p>\n<p>Text.</p>'
    assert finish('<p><img src="a.png"></p>') == '<p><img src="a.png"></p>'


def test_the_list_of_references_is_whole():
    "One brace that a merge has lost, and the site is not built"
    text = (nbs/'refs.bib').read_text(encoding='utf-8')
    entries = re.findall(r'^@\w+\{([\w-]+),', text, flags=re.M)
    for entry in re.split(r'^(?=@)', text, flags=re.M)[1:]:
        assert entry.count('{') == entry.count('}') and entry.rstrip().endswith('}'), entry
    assert len(entries) == len(set(entries))


def test_every_page_has_a_name_of_its_own_and_one_place_in_the_sidebar():
    "The site drops the number of a notebook: two with the same name would be written over each other"
    names = [re.sub(r'^\d+[a-z]*_', '', p.stem) for p in notebooks]
    assert len(names) == len(set(names)), [n for n in names if names.count(n) > 1]
    assert sorted(following()) == sorted(p.stem for p in notebooks
                                         if p.stem != 'index'), 'the sidebar in _quarto.yml must hold every page'


chapters = ('Start', 'The method', 'Theory')
early = ['40_toys', '41_digits', '41a_handwriting', '41c_camera', '42_ablations', '43_runs_to_make', '45_mri_run', '45a_real_scans',
         '29ga_elsewhere', '26a_report', '26aa_gaps', '50c_mismatch', '51_own_operator', '52_own_objective', '53_machines',
         '54_choosing', '55_trouble', '56_planner']    # pages of other chapters
book = [name for above, names in sections() if above[0] in chapters for name in names]


def cells(name): return json.loads((nbs/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']


def lines_seen(cell):
    "How many lines of code of a cell its page shows at once"
    source = ''.join(cell['source'])
    if cell['cell_type'] != 'code' or is_folded(cell) or re.search(r'^#[|] *(export|exporti|hide|default_exp)\b', source, flags=re.M):
        return 0
    return sum(not line.startswith('#|') for line in source.splitlines())


def words_seen(cell):
    "How many words of a cell stand in the column of the text"
    if cell['cell_type'] != 'markdown': return 0
    return len(re.sub(r'<div class="column-margin">.*?</div>', ' ', folded.sub(' ', ''.join(cell['source'])),
                      flags=re.S).split())


def has_picture(cell):
    "A figure, something that a page draws itself, or a picture from a file"
    if cell['cell_type'] == 'markdown': return '![' in ''.join(cell['source'])
    shown = [o.get('data', {}) for o in cell.get('outputs', [])]
    return any('image/png' in d or re.search('<(canvas|svg)', ''.join(d.get('text/html', ''))) for d in shown)


@pytest.mark.parametrize('name', book + early)
def test_the_first_picture_is_within_a_screen_and_a_half(name):
    "A question, then a picture: 150 words are about 400 pixels, and so are 15 lines of code"
    page = cells(name)
    first = next(i for i, c in enumerate(page) if has_picture(c))
    words, lines = sum(map(words_seen, page[:first])), sum(map(lines_seen, page[:first]))
    assert words <= 150 and lines <= 15, f'{words} words and {lines} lines of code stand before the first picture: let it follow the question'
    for c in page: assert lines_seen(c) <= 60, f"fold it or shorten it: {''.join(c['source'])[:200]}"


@pytest.mark.parametrize('name', book)
def test_what_is_folded_on_the_site_is_folded_in_jupyterlab(name):
    for cell in cells(name):
        if cell['cell_type'] != 'code': continue
        assert cell['metadata'].get('jupyter') == ({'source_hidden': True} if is_folded(cell)
                                                   else None), f'run python nbs/_fold.py nbs/{name}.ipynb'
        if is_folded(cell):
            assert 'code-fold' not in ''.join(cell['source']) or '#| export' not in ''.join(cell['source']), 'the library would get the comment'


def test_a_fold_is_written_where_each_program_reads_it():
    def cell(*lines, **metadata):
        return dict(cell_type='code', metadata=metadata, source=[f'{line}\n' for line in lines])
    here, exported, open_ = cell('#| code-fold: true', 'x = 1'), cell('#| exports', '#| code-fold: true',
        '#| code-summary: "Code of x"', 'x = 1'), cell('x = 1', jupyter={'source_hidden': True})
    for c in (here, exported, open_, exported): fold(c)
    assert here == cell('#| code-fold: true', 'x = 1', jupyter={'source_hidden': True})
    assert exported == cell('#| exports', 'x = 1', **{'code-fold': True, 'code-summary': 'Code of x',
                                                      'jupyter': {'source_hidden': True}})
    assert open_ == cell('x = 1')


def shown(name):
    "What the cells of a page show as text"
    cells = json.loads((nbs/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']
    return ''.join(''.join(o['data']['text/markdown']) for c in cells for o in c.get('outputs', [])
                   if 'text/markdown' in o.get('data', {}))


def test_the_page_of_pages_is_up_to_date():
    again = 'run python nbs/_run.py nbs/93_pages.ipynb'
    for name in following():
        assert f'| [{title(name)}]({name}.ipynb) | {idea(name)} |' in shown('93_pages'), again
    orders = re.findall(r'\((\w+)\.ipynb\) (\d+)', shown('93_pages'))
    assert [name for name, _ in orders] == sum(paths.values(), []), again
    for name, m in orders:
        assert abs(int(m) - minutes(name)) < 2 + .2*minutes(name), f'{name} takes {minutes(name):.0f} minutes, not {m}: {again}'


@pytest.mark.parametrize('name, after', following().items(), ids=following())
def test_the_last_cell_leads_to_the_next_page(name, after):
    "Whoever follows `Next:` from the first page meets every page once, in the order of the sidebar"
    last = json.loads((nbs/f'{name}.ipynb').read_text(encoding='utf-8'))['cells'][-1]
    found = re.findall(r'Next: [^\]]*\]\(([\w.]+)', ''.join(last['source']))
    assert last['cell_type'] == 'markdown' and found[-1:] == [f'{after}.ipynb'], f'it must lead to {after}: run python nbs/_order.py'


spelling = { # one way for each term
    'down-sampl': r'downsampl|sub-?sampl|down sampl', 're-corrupt': r'recorrupt',
            'k-space': r'kspace|k space', 'one-step generator': r'one step generator',
    'pseudo-inverse': r'pseudoinverse', 'super-resolution': r'superresolution|super resolution',
            'preconditioning': r'pre-condition', 'data set': r'dataset|data-set',
    'checkpoint': r'check-point|check point', 'log-normal': r'lognormal',
            'fastMRI': r'(?-i:FastMRI|fast MRI)', 'U-Net': r'(?-i:Unet|U-net|\bu-net)', 'Fréchet': r'frechet',
    'multi-coil': r'multicoil(?!_)', 'inpainting': r'in-painting', 'PyTorch': r'(?-i:\bpytorch|Pytorch)',
            'grey': r'\bgray', 'colour': r'\bcolor', 'denois': r'de-nois',
    'eigenspace': r'eigen-space|eigen space', 'noise level': r'noise-level',
            '-ise': r'\b(?:normal|minim|optim|general|recogn|quant)iz', 'neighbour': r'neighbor',
}


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_terms_are_spelled_one_way(path):
    text = re.sub(r'```.*?```|`[^`]*`|\]\([^)]*\)|\[?-?@[\w-]+|\$[^$]+\$|<[^>]+>', ' ',
                  '\n'.join(prose(path.stem)), flags=re.S)
    for good, bad in spelling.items():
        found = re.search(bad, text, flags=re.I)
        assert not found, f'"{found[0]}" is spelled "{good}" on these pages'
