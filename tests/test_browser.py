"""The sliders in a real browser: live in JupyterLab, and on a page without Python.

Needs Debian's `chromium` (or $DCD_CHROMIUM) and the package `playwright`, which `pip install -e '.[dev]'` brings;
playwright downloads nothing.  The browser reaches 127.0.0.1 and nothing else, and nothing is written to the home folder.
With $DCD_SCREENSHOTS set to a folder, what the browser showed is kept there.
"""
import functools
import http.server
import json
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

sync_api = pytest.importorskip('playwright.sync_api',
                               reason="the package playwright is not installed: pip install -e '.[dev]'")
pytest.importorskip('jupyterlab', reason="the package jupyterlab is not installed: pip install -e '.[dev]'")
root = Path(__file__).parent.parent
names = ('chromium', 'chromium-browser', 'google-chrome')
chromium = os.getenv('DCD_CHROMIUM') or next(filter(None, map(shutil.which, names)), None)
pytestmark = pytest.mark.skipif(not chromium,
                                reason='chromium is not installed: apt-get install chromium, or set DCD_CHROMIUM')
flags = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    "One browser for all tests"
    with sync_api.sync_playwright() as p:
        home = dict.fromkeys(('HOME', 'XDG_CONFIG_HOME', 'XDG_CACHE_HOME'),
                             str(tmp_path_factory.mktemp('home')))
        browser = p.chromium.launch(executable_path=chromium, args=flags.split(), env=os.environ | home)
        try: yield browser
        finally: browser.close()


@pytest.fixture
def page(browser):
    "A page, with cookies and storage of its own, for which 127.0.0.1 is the whole world; `page.outside` lists what it asked of others"
    context = browser.new_context(viewport=dict(width=1100, height=1000))
    page = context.new_page()
    page.outside = []
    def gate(route):
        if route.request.url.startswith('http://127.0.0.1:'): return route.continue_()
        page.outside.append(route.request.url)
        route.abort()
    page.route(lambda url: url.startswith('http'), gate)
    page.set_default_timeout(30_000)
    try: yield page
    finally: shot(page, 'last'), context.close()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def explorer_notebook(path):
    "A notebook with the cells of two explorers as a reader meets them, and the import that they need"
    cells = [c for name in ('02e_explorer', '03d_scan')
             for c in json.loads((root/f'nbs/{name}.ipynb').read_text(encoding='utf-8'))['cells']
             if c['cell_type'] == 'code']
    operators, scan = [src for c in cells if (src := ''.join(c['source'])).startswith('#| eval: false')]
    slides = next(src for c in json.loads((root/'nbs/00g_sliders.ipynb').read_text(encoding='utf-8'))['cells'] if 'sign_js = ' in (src := ''.join(c['source'])))
    code = ['from dcd_nb.show.explorer import *\nfrom dcd_nb.show.scan import *\nfrom dcd_nb.show.sliders import *\nfrom dcd_nb.show.images import colors', slides, operators, scan]
    kernel = dict(name='python3', display_name='python3', language='python')
    path.write_text(json.dumps(dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=kernel), cells=[
        dict(cell_type='code', id=f'c{i}', metadata={}, outputs=[], execution_count=None, source=src)
        for i, src in enumerate(code)])))


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "One JupyterLab for all tests, on a folder `work`; gives the folder, and the address of a notebook in it"
    tmp_path = tmp_path_factory.mktemp('lab')
    dirs = {k: tmp_path/k.lower() for k in ('HOME', 'JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR',
                                            'JUPYTER_RUNTIME_DIR',
                                            'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR',
                                            'IPYTHONDIR', 'MPLCONFIGDIR')}
    spec, work, news = dirs['JUPYTER_DATA_DIR']/'kernels/python3', tmp_path/'work', dirs['JUPYTERLAB_SETTINGS_DIR']/'@jupyterlab/apputils-extension'
    whole = dirs['JUPYTERLAB_SETTINGS_DIR']/'@jupyterlab/notebook-extension'
    for d in (*dirs.values(), spec, work, news, whole): d.mkdir(parents=True)
    news.joinpath('notification.jupyterlab-settings').write_text('{"fetchNews": "false", "checkForUpdates": false}')
    # cells out of sight are in the page, too
    whole.joinpath('tracker.jupyterlab-settings').write_text('{"windowingMode": "none"}')
    path = os.pathsep.join(filter(None, [str(root), os.getenv('PYTHONPATH')]))
    spec.joinpath('kernel.json').write_text(json.dumps(dict(display_name='this checkout', language='python',
        env=dict(PYTHONPATH=path),
        argv=[sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}'])))
    token, port, log = secrets.token_hex(16), free_port(), tmp_path/'lab.log'
    args = ['--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}',
            '--ServerApp.port_retries=0',
            f'--ServerApp.root_dir={work}', '--LabApp.extension_manager=readonly',
            '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    env = os.environ | {k: str(v) for k, v in dirs.items()} | dict(JUPYTER_TOKEN=token,
        JUPYTER_PREFER_ENV_PATH='0')
    with open(log, 'w') as out:
        server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *args], env=env, stdout=out,
                                  stderr=out, start_new_session=True)
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(300):
            assert server.poll() is None, log.read_text()[-2000:]
            try: urllib.request.urlopen(f'{url}/api?token={token}', timeout=5); break
            except OSError: time.sleep(.1)
        yield work, lambda name: f'{url}/lab/tree/{name}.ipynb?reset&token={token}'
    finally:
        server.send_signal(signal.SIGTERM)               # shuts the kernels down
        try: server.wait(15)
        except subprocess.TimeoutExpired: pass
        try: os.killpg(server.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        server.wait()


def shot(page, name):
    if folder := os.getenv('DCD_SCREENSHOTS'): page.screenshot(path=f'{folder}/{name}.png')


def run_all(page, url):
    page.goto(url)
    page.get_by_text('this checkout | Idle').wait_for()
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_role('menuitem', name='Run All Cells', exact=True).click()


def test_slow_cells_show_what_is_stored(lab, page):
    "*Run All Cells* must not train for an hour, nor lose what the page shows"
    cell = lambda source, *outputs: dict(cell_type='code', id=f'c{len(source)}', metadata={},
                                         outputs=list(outputs), execution_count=None, source=source)
    (work, at), kernel = lab, dict(name='python3', display_name='python3', language='python')
    cells = [cell('%load_ext dcd_nb'), cell("#| slow\nprint('ran')\n1/0",
                                            dict(output_type='stream', name='stdout',
                                                 text=['an old result\n'])), cell('print(2 + 3)')]
    (work/'slow.ipynb').write_text(json.dumps(dict(nbformat=4, nbformat_minor=5,
                                                   metadata=dict(kernelspec=kernel), cells=cells)))
    run_all(page, at('slow'))
    page.locator('.jp-OutputArea-output pre', has_text='5').last.wait_for(timeout=120_000)
    shown = ''.join(page.locator('.jp-OutputArea-output').all_inner_texts())
    assert 'an old result' in shown and 'DCD_SLOW=1' in shown and 'ran' not in shown.split() and 'Error' not in shown


def test_the_live_curve_follows_a_run_in_jupyterlab(lab, page):
    "One picture that is drawn anew while the cell runs, with samples beside the curve, and that stays when it has ended"
    (work, at), kernel = lab, dict(name='python3', display_name='python3', language='python')
    source = ("from dcd_nb.all import *\nys = Corruption(Identity(), .3).measure(digits()[:200], seed=0)\n"
              "t = train(ys, dict(network='MLP', shape=(1, 8, 8), width=8, blocks=1), images=960, batch=32, quiet=True, callbacks='live', "
              "checkpoints=Checkpoints(every=240))\nprint(t.cost['images'], 'images were seen')")
    cell = dict(cell_type='code', id='live', metadata={}, outputs=[], execution_count=None, source=source)
    (work/'live.ipynb').write_text(json.dumps(dict(nbformat=4, nbformat_minor=5,
                                                   metadata=dict(kernelspec=kernel), cells=[cell])))
    page.add_init_script("""window.curves = []; new MutationObserver(() => { const p = document.querySelector('.jp-OutputArea img[alt^="loss after"]');
        if (p && curves.at(-1) !== p.alt) curves.push(p.alt) }).observe(document, {subtree: true, childList: true, attributes: true})""")
    run_all(page, at('live'))
    page.get_by_text('960 images were seen').last.wait_for(timeout=120_000)
    picture = page.get_by_role('img', name='loss after 960 images')
    picture.wait_for()
    seen = [int(alt.split()[2]) for alt in page.evaluate('curves')]
    assert len(seen) >= 3 and seen == sorted(seen) and seen[-1] == 960, seen
    assert picture.count() == 1 and picture.evaluate('p => p.decode().then(() => p.naturalWidth)') >= 600
    page.get_by_text('960 of 960 images').wait_for()
    shot(page, 'live')


# others by hand, e.g. DCD_LAB_PAGES='13_inpainting 22c_distill'
@pytest.mark.parametrize('name', os.getenv('DCD_LAB_PAGES', '01_operator 04_diffusion').split())
def test_a_page_of_the_path_runs_in_jupyterlab(lab, page, name):
    "What a newcomer sees after *Run All Cells*: numbered cells, some folded, no error, pictures, formulas, links to pages that exist"
    work, at = lab
    shutil.copy(root/f'nbs/{name}.ipynb', work)
    if not (work/'runs').exists(): (work/'runs').symlink_to(root/'nbs/runs')
    run_all(page, at(name))
    cells = [c for c in json.loads((root/f'nbs/{name}.ipynb').read_text(encoding='utf-8'))['cells']
             if c['cell_type'] == 'code']
    hidden = sum('jupyter' in c['metadata'] for c in cells)
    count = len(cells) - hidden             # three dots stand in the place of the others, and no number
    prompts = lambda: page.locator('.jp-CodeCell .jp-InputPrompt').all_inner_texts()
    for _ in range(1500):
        done, failed = [p for p in prompts()
                        if p.strip('[]:').isdigit()], page.locator('[data-mime-type$="jupyter.error"], [data-mime-type$="jupyter.stderr"]')
        if failed.count() or len(done) == count: break
        time.sleep(.2)
    page.get_by_text('this checkout | Idle').wait_for()
    assert not failed.count(), failed.first.inner_text()
    assert len(done) == count and page.locator('.jp-CodeCell .jp-InputPlaceholder').count() == hidden > 0
    pictures, text = page.locator('.jp-OutputArea img'), ''.join(page.locator('.jp-MarkdownOutput').all_inner_texts())
    assert pictures.count() >= 2 and all(p.evaluate('p => p.naturalWidth > 0') for p in pictures.all())
    assert page.locator('.jp-MarkdownOutput mjx-container').count() > 10 and '$' not in text and ':::' not in text
    links = page.locator('.jp-MarkdownOutput a[href*=".ipynb"]')
    assert links.count() >= 4 and page.locator('details[open]').count() == 0
    if name == '01_operator': assert page.locator('details').count() > 0
    assert page.outside == []
    shot(page, f'lab_{name}')


def test_sliders_move_the_picture_in_jupyterlab(lab, page):
    work, at = lab
    explorer_notebook(work/'explorer.ipynb')
    run_all(page, at('explorer'))
    # The picture has a name for those who cannot see it, and the name says what is shown
    picture = page.get_by_role('img', name='x, y, A^T y, A^+ y and the singular values of')
    picture.wait_for()
    assert picture.evaluate('p => p.decode().then(() => p.naturalWidth)') >= 600
    shot(page, 'blur')
    # A knob that does not apply is not shown; one that applies answers to the keyboard
    knob = lambda label: page.locator('.widget-slider',
                                      has=page.get_by_text(label, exact=True)).get_by_role('slider')
    assert not knob('mask rate').is_visible() and knob('rcond of A^+').is_visible()
    before = picture.get_attribute('src')
    for _ in range(14): knob('rcond of A^+').press('ArrowRight')
    page.get_by_role('status').filter(has_text=' 5% of A^+ y had').wait_for()
    assert picture.get_attribute('src') != before
    shot(page, 'blur-cut')
    # A figure that is computed in the page follows in JupyterLab, too
    page.get_by_role('slider', name='noise level s').press('End')
    page.get_by_text('A noisy 0.5 at level 2 is denoised to 0.124.').wait_for()
    # Another operator brings its own knob
    page.get_by_label('operator').select_option('random mask')
    page.get_by_role('img', name='RandomMask(missing=0.6)').wait_for()
    before = picture.get_attribute('src')
    knob('mask rate').press('ArrowRight')
    page.get_by_role('img', name='RandomMask(missing=0.65)').wait_for()
    assert picture.get_attribute('src') != before and not knob('rcond of A^+').is_visible()
    shot(page, 'mask')
    page.get_by_label('operator').select_option('Fourier mask')
    page.get_by_role('img', name='FourierMask(R=4').wait_for()
    shot(page, 'fourier')
    # The scanner below answers as well
    scan = page.get_by_role('img', name='24 of 96 lines, 6 of them')
    scan.wait_for()
    knob('acceleration R').last.press('ArrowRight')          # the first belongs to the explorer above
    page.get_by_role('img', name='19 of 96 lines, 6').wait_for()
    page.get_by_label('other lines').select_option('equispaced')
    page.get_by_role('status').filter(has_text='equispaced').wait_for()
    page.get_by_role('img', name='19 of 96 lines, 6').scroll_into_view_if_needed()
    shot(page, 'scan')


@contextmanager
def served(folder):
    "The address of a plain static file server on `folder`"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}'
    finally: server.shutdown(), server.server_close()


def test_slider_moves_on_a_page_without_python(page, tmp_path):
    import torch
    from dcd_nb.show.sliders import slider
    page_html = slider({f'{p:g}': torch.full((1, 1, 8, 8), p) for p in (-1., 0., 1.)}, name='grey').data
    (tmp_path/'site').mkdir()
    (tmp_path/'site/page.html').write_text(f'<!doctype html><html lang="en"><title>slider</title><body>{page_html}</body></html>', encoding='utf-8')
    with served(tmp_path/'site') as site:
        for url in (f'{site}/page.html', (tmp_path/'site/page.html').as_uri()):
            page.goto(url)
            seen = lambda: [(i.get_attribute('alt'), i.evaluate('i => i.naturalWidth > 0'))
                            for i in page.locator('img').all() if i.is_visible()]
            assert seen() == [('grey -1', True)]
            knob = page.get_by_role('slider', name='grey')
            knob.press('ArrowRight')
            assert seen() == [('grey 0', True)] and page.locator('output').inner_text() == '0'
            knob.fill('2')
            assert seen() == [('grey 1', True)] and page.locator('output').inner_text() == '1'
            knob.press('Home')
            assert seen() == [('grey -1', True)]
    assert page.outside == []                            # needs no network


@contextmanager
def shown(page, tmp_path, notebook, only=''):
    "The stored HTML of a notebook on a page of its own, from a server, where nothing may go wrong"
    cells = json.loads((root/f'nbs/{notebook}.ipynb').read_text(encoding='utf-8'))['cells']
    html = [''.join(o['data']['text/html']) for c in cells for o in c.get('outputs', [])
            if 'text/html' in o.get('data', {})]
    body, asked, wrong = '\n'.join(h for h in html if only in h), [], []
    (tmp_path/'site').mkdir()
    (tmp_path/'site/page.html').write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>page</title><link rel="icon" href="data:,"><body>{body}</body></html>', encoding='utf-8')
    page.on('request', lambda r: r.url.startswith('data:') or asked.append(r.url))
    page.on('pageerror', lambda e: wrong.append(e))
    page.on('console', lambda m: m.type in ('error', 'warning') and wrong.append(m.text))
    with served(tmp_path/'site') as site:
        page.goto(f'{site}/page.html')
        yield
        assert asked == [f'{site}/page.html'] and not wrong and not page.outside
        page.set_viewport_size(dict(width=390, height=800))
        assert page.evaluate('document.documentElement.scrollWidth') <= 390
        shot(page, notebook)


def moved(page, name, value):
    "Move a control of `alive` by its name to one of its values; what the script computed"
    root = page.locator('.dcd-alive', has=page.locator(f'[name={name}]'))
    knob = root.locator(f'[name={name}]')
    texts, last = [], 'r => r.last'
    if knob.evaluate('k => k.tagName') == 'SELECT': knob.select_option(value)
    else:
        for i in range(int(knob.get_attribute('max')) + 1):
            knob.fill(str(i))
            texts.append(knob.get_attribute('aria-valuetext'))
            if texts[-1] == f'{value:.4g}': break
        else: raise AssertionError(f'{name} takes {texts}, not {value}')
    return root.evaluate(last)


def test_sliders_compute_what_python_computes(page, tmp_path):
    with shown(page, tmp_path, '00g_sliders'):
        lines = page.locator('polyline')
        before = lines.last.get_attribute('points')
        for s in (.25, .5, 2.):
            assert moved(page, 's', s)['value'] == pytest.approx(math.tanh(.5/s**2), abs=1e-9)
        page.get_by_text('A noisy 0.5 at level 2 is denoised to 0.124.').wait_for()
        assert lines.last.get_attribute('points') != before
        # a menu and two sliders together
        moved(page, 'op', 'add'), moved(page, 'a', 3), moved(page, 'b', .1)
        assert page.locator('[name=result]').inner_text() == '3.1'
        # a menu of pictures
        seen = lambda: [i.get_attribute('alt') for i in page.locator('.dcd-sliders img').all()
                        if i.is_visible()]
        assert seen() == ['noise 0']
        page.get_by_label('what happens to the photograph').select_option('missing pixels')
        page.get_by_role('slider', name='missing pixels').press('End')
        assert seen() == ['missing pixels 90%']


def test_the_basin_is_that_of_the_theory(page, tmp_path):
    import torch
    from dcd_nb.theory import basin_edge, sid_slope
    with shown(page, tmp_path, '21_losses'):
        lines = page.locator('polyline')
        before = lines.last.get_attribute('points')
        for alpha, s, start in ((1.2, .5, 8), (1.2, .5, 7), (2, 1, 6), (1.5, .2, .1), (.5, .7, 30)):
            moved(page, 'alpha', alpha), moved(page, 's', s)
            found, c = moved(page, 'start', start), 1/(1 + s*s)
            one = lambda v: torch.tensor([[float(v)]], dtype=torch.float64)
            w = (2/math.pi*((1 - c)**2*start + c*c*s*s))**.5
            assert found['rate'] == pytest.approx(-4*sid_slope(one(start), one(1), s, alpha).item()/w,
                                                  rel=1e-9)
            if alpha > 1: assert found['edge'] == pytest.approx(basin_edge(1., s, alpha), rel=1e-12)
            assert (found['end'] > start) if alpha > 1 and start > found['edge'] else abs(found['end'] - 1) < abs(start - 1)
        assert lines.last.get_attribute('points') != before and page.get_by_text('The basin has no end.').is_visible()


def test_the_spectrum_is_that_of_the_theory(page, tmp_path):
    import torch
    from dcd_nb.theory import student_spectrum, transition_sine, w2_noisy, w2_student
    with shown(page, tmp_path, '33_practice', 'dcd-alive'):
        for sigma, assumed, rank, decay, n in ((.5, 0, 8, 1, 1024), (.3, .3, 8, 2, 64), (1, .8, 3, .5, 4096)):
            for k, v in dict(sigma=sigma, assumed=assumed, rank=rank, decay=decay).items(): moved(page, k, v)
            found, lam = moved(page, 'n', n), 2/torch.arange(1, 9).double()**decay
            want = student_spectrum(lam, sigma, assumed)
            want[rank:] = 0
            assert found['student'] == pytest.approx(want.tolist(), abs=1e-12)
            assert found['data'] == pytest.approx(w2_noisy(lam, sigma, 64).item()**.5, rel=1e-9)
            if rank == 8:
                assert found['far'] == pytest.approx(w2_student(lam, sigma, assumed).item()**.5, rel=1e-9)
            assert found['angle'] == pytest.approx([math.degrees(math.asin(transition_sine(m, sigma, 64, n)))
                                                    for m in lam.tolist()], rel=1e-9)
        assert page.locator('rect[fill="#0072B2"]').count() == 8


def test_the_planner_plans_as_python_does(page, tmp_path):
    import torch
    from dcd_nb.networks import UNet
    from dcd_nb.planner import footprint, plan
    with shown(page, tmp_path, '56_planner'):
        for name, side, I, II, batch, use in (('cifar10', 32, 200, 100, 256, 1/3),
                                              ('small', 128, 8, 5, 512, .1)):
            with torch.device('meta'): row = footprint(UNet.named(name, resolution=side))
            for k, v in dict(network=name, resolution=str(side), teacher=I, student=II, batch=batch).items():
                moved(page, k, v)
            found = moved(page, 'use', use)
            for phase, images in dict(teacher=I, student=II).items():
                want = plan(row, phase, images*1e6, batch, use)
                for k in ('hours', 'memory'): assert found[phase][k] == pytest.approx(want[k], rel=1e-9)
                assert found[phase]['pflop'] == pytest.approx(want['pflop'], rel=1e-9) and found[phase]['accumulate'] == want['accumulate']
        cells = [r.locator('td').all_inner_texts()
                 for r in page.get_by_role('row', name='time on one H200').all()]
        assert cells == [[f'{v:.3g} h' for v in (found['teacher']['hours']['H200'],
                                               found['student']['hours']['H200'],
                                               sum(found[p]['hours']['H200']
                                                   for p in ('teacher', 'student')))]]


@pytest.mark.parametrize('notebook, name, end', [('02e_explorer', 'missing rate of a random mask', '0.9'),
                                                 ('40_toys', 'assumed noise', '1.5 of the true noise')])
def test_pictures_move(page, tmp_path, notebook, name, end):
    with shown(page, tmp_path, notebook):
        if notebook == '02e_explorer': page.get_by_label('what changes').select_option(name)
        knob = page.get_by_role('slider', name=name)
        shown_now = lambda: knob.evaluate("k => [...k.closest('figure').querySelectorAll('img')].filter(i => i.offsetParent && i.naturalWidth).map(i => i.alt)")
        (first,) = shown_now()
        knob.press('End')
        (last,) = shown_now()
        assert first != last and last.startswith(f'{name} {end}') and knob.get_attribute('aria-valuetext').startswith(end)


def test_a_page_without_scripts_says_so_and_keeps_its_pictures(page, tmp_path):
    from dcd_nb.show.sliders import alive
    still = page.context.browser.new_page(java_script_enabled=False)
    (tmp_path/'page.html').write_text(alive({'a': ('a', (1, 2), 1)}, 'result', '').data, encoding='utf-8')
    still.goto((tmp_path/'page.html').as_uri())
    assert 'Scripts are off' in still.content() and not still.get_by_text('result').is_visible() and not still.get_by_role('slider').is_visible()


def test_live_generator_is_the_one_of_torch(page, tmp_path):
    import torch
    from dcd_nb.show.images import to_uint8
    from dcd_nb.draws import latents
    from dcd_nb.distill import Generator
    from dcd_nb.training import Teacher
    cells = json.loads((root/'nbs/29_live.ipynb').read_text(encoding='utf-8'))['cells']
    html, = [''.join(o['data']['text/html']) for c in cells for o in c.get('outputs', [])
             if 'text/html' in o.get('data', {})]
    (tmp_path/'site').mkdir()
    (tmp_path/'site/page.html').write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>live</title><body>{html}</body></html>', encoding='utf-8')
    # the rule of these weights
    record, z, errors = root/'nbs/runs/digits-noise', latents((8, 1, 8, 8), seed=1, rule=1), []
    G, teacher = Generator.load(record/'generator'), Teacher.load(record/'teacher')
    page.on('pageerror', lambda e: errors.append(e))
    with served(tmp_path/'site') as url:
        page.goto(f'{url}/page.html')
        for i, v in enumerate(z.flatten(1).tolist()):
            x = torch.tensor(page.evaluate('z => dcd_live.generate(z)', v))
            torch.testing.assert_close(x, G.sample(8, 1)[i].flatten(), rtol=0, atol=1e-4)
            end = torch.tensor(page.evaluate('z => dcd_live.path(z)', v)[-1])
            torch.testing.assert_close(end, teacher.sample(8, 1, until=0.)[i].flatten(), rtol=0, atol=1e-3)
        pixels = "name => { const c = document.querySelector('canvas[name=' + name + ']'); return [...c.getContext('2d').getImageData(0, 0, 8, 8).data].filter((_, i) => i % 4 == 0) }"
        page.evaluate('z => dcd_live.show(z)', z[0].flatten().tolist())
        drawn = torch.tensor(page.evaluate(pixels, 'student')).float()
        assert (drawn - torch.from_numpy(to_uint8(G.sample(1, 1))).flatten()).abs().max() <= 1 and drawn.std() > 30
        shot(page, 'live')
        page.get_by_label('from this latent to the next').fill('50')
        assert (torch.tensor(page.evaluate(pixels, 'student')) - drawn).abs().max() > 20
        noisy = page.evaluate(pixels, 'noisy')
        page.get_by_label('along the path of the teacher').fill('18')
        assert page.evaluate(pixels, 'noisy') != noisy and page.get_by_text('level 0').inner_text().endswith('so far: 35')
        before = page.evaluate(pixels, 'student')
        page.get_by_role('button', name='new sample').click()
        assert page.evaluate(pixels, 'student') != before
        shot(page, 'live-new')
    assert not errors and not page.outside


def test_handwriting_in_the_browser_is_that_of_torch(page, tmp_path):
    import torch
    from dcd_nb.draws import latents
    from dcd_nb.show.images import to_uint8
    from dcd_nb.distill import Generator
    G = Generator.load(root/'nbs/runs/live/handwriting/generator')
    pixels = '''at => { const c = new OffscreenCanvas(28, 28).getContext('2d'); c.drawImage([...document.querySelectorAll('#dcd-writing canvas')].at(at), 0, 0)
        return [...c.getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 == 0) }'''
    with shown(page, tmp_path, '28c_writing'):
        z, want = latents((16, *G.shape), seed=1, rule=G.rule).flatten(1).tolist(), G.sample(16, 1)
        for v, x in zip(z[:4], want):
            torch.testing.assert_close(torch.tensor(page.evaluate('z => dcd_writing.generate(z)', v)),
                                       x.flatten(), rtol=0, atol=1e-4)
        page.evaluate('zs => dcd_writing.show(zs)', z)
        # sixteen small images and the large one
        page.wait_for_function('dcd_writing.taken().length == 17')
        drawn = torch.tensor([page.evaluate(pixels, i) for i in range(17)]).float()
        assert (drawn[:16] - torch.from_numpy(to_uint8(want)).flatten(1)).abs().max() <= 1 and torch.equal(drawn[0], drawn[16]) and drawn.std() > 30
        knob = page.get_by_label('from one image to the next').last
        # it walks through all of them, and back to the first
        for value, like in ((50, 1), (750, 15), (800, 0)):
            knob.fill(str(value))
            assert (torch.tensor(page.evaluate(pixels, 16)) - drawn[like]).abs().max() <= 1
        knob.fill('25')
        assert min((torch.tensor(page.evaluate(pixels, 16)) - d).abs().max() for d in drawn) > 20
        page.get_by_role('button', name='new sample').click()
        page.wait_for_function('dcd_writing.taken().length == 17')
        assert (torch.tensor([page.evaluate(pixels, i) for i in range(16)])
                - drawn[:16]).abs().amax(1).min() > 20
        assert page.locator('[name=time]').inner_text().endswith(' ms') and page.get_by_role('img',
            name='sixteen noisy images').evaluate('i => i.naturalWidth') == 112
        print('milliseconds', page.evaluate('dcd_writing.taken()'))
        shot(page, 'writing')


def test_pages_are_measured_and_what_is_wrong_is_named(tmp_path):
    "benchmarks/pages.py, on a page whose measures are known and on one that is too wide and asks another server"
    html = '<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>t</title><body style="margin: 0"><main>{}</main></body></html>'
    part = '<div {} style="height: {}px; width: 200px"></div>'
    code = part.format('class="sourceCode"', 1000)
    picture = '<svg style="display: block; height: 500px; width: 200px"></svg>'
    (tmp_path/'good.html').write_text(html.format(code + part.format('', 2500) + picture), encoding='utf-8')
    def measured(*names):
        done = subprocess.run([sys.executable, root/'benchmarks/pages.py', tmp_path, *names],
                              capture_output=True, text=True, timeout=120)
        return done.returncode, {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()
                                 if line}, done.stdout + done.stderr
    status, rows, said = measured('good')
    assert status == 0 and rows['good'] == ['4000', '3500', '25%'] and 'nothing' in rows, said
    (tmp_path/'bad.html').write_text(html.format(part.format('', 10).replace('200px', '900px')
                                                 + f'<details>{code}</details><script src="http://127.0.0.1:1/a.js"></script>'), encoding='utf-8')
    status, rows, said = measured()
    assert status == 1 and rows['bad'][1:] == ['none', '0%'], said
    assert 'bad: 900 pixels wide on a screen of 390' in said and 'bad: asks for http://127.0.0.1:1/a.js' in said
