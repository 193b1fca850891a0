"""How the pages of the rendered site look in a browser.

    python benchmarks/pages.py [folder of the site, _docs] [names of pages, e.g. losses; none: all]

For each page, 1400 pixels wide: its height, where the first picture stands, and the part of the height that is code which
is not folded; then the medians of each chapter of the sidebar.  Then what should be better: pictures with less than 1.5
pixels for each one of the page, blurred on sharp screens, and gaps of more than 4 pixels behind the sign of a root.  At
the end, what is wrong on any of them: it is wider than the screen of a phone, 390 pixels, it asks another server for
something, or the browser reports an error.

Needs Chromium (or $DCD_CHROMIUM) and the package `playwright`, as tests/test_browser.py does.
"""
import functools
import http.server
import os
import shutil
import sys
import threading
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

CHROMIUM = os.getenv('DCD_CHROMIUM') or next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
WIDE, PHONE = 1400, 390
MEASURE = '''() => {
  const all = s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility()), box = e => e.getBoundingClientRect();
  const pictures = all('main :is(img, svg, canvas)').filter(e => box(e).width >= 100 && box(e).height >= 50);
  const gap = e => box(e).right + parseFloat(getComputedStyle(e).marginRight) - box(e.lastElementChild).right;
  return {
    blurred: pictures.filter(e => e.localName === 'img' && !/[.]svg$/.test(e.src) && e.naturalWidth < 1.5*box(e).width).length,
    roots: all('main :is(msqrt, mroot)').filter(e => gap(e) > 4).length,
    chapter: document.querySelector('.quarto-page-breadcrumbs .breadcrumb-item')?.textContent.trim() ?? '',
    height: document.documentElement.scrollHeight,
    picture: pictures.length ? Math.min(...pictures.map(e => box(e).top + scrollY)) : null,
    code: all('main div.sourceCode').map(e => box(e).height).reduce((a, b) => a + b, 0)/document.documentElement.scrollHeight}
}'''


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@contextmanager
def served(folder):
    "The address of a server for the files in `folder`"
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try: yield f'http://127.0.0.1:{server.server_port}'
        finally: server.shutdown()


def measure(folder, names):
    "{page: what MEASURE says of it} and what is wrong, for the pages `names` of the site in `folder`"
    found, wrong = {}, []
    with served(folder) as url, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu'])
        page = browser.new_page()
        page.on('request', lambda r: r.url.startswith(('http:', 'https:')) and not r.url.startswith(url) and wrong.append(f'{name}: asks for {r.url}'))
        page.on('console', lambda m: m.type == 'error' and wrong.append(f'{name}: {m.text}'))
        page.on('pageerror', lambda e: wrong.append(f'{name}: {e}'))
        for name in names:
            page.set_viewport_size(dict(width=WIDE, height=1000))
            page.goto(f'{url}/{name}.html')
            found[name] = page.evaluate(MEASURE)
            page.set_viewport_size(dict(width=PHONE, height=800))
            width = page.evaluate('document.documentElement.scrollWidth')
            if width > PHONE: wrong.append(f'{name}: {width} pixels wide on a screen of {PHONE}')
        browser.close()
    return found, wrong


def row(name, height, picture, code):
    return f"{name:60s} {height:8.0f} {'none' if picture is None else f'{picture:.0f}':>8s} {code:8.0%}"


def worse(name, blurred, roots):
    "What should be better on a page, one line each"
    if blurred: yield f'{name}: {blurred} pictures with less than 1.5 pixels for each one of the page'
    if roots: yield f'{name}: a gap of more than 4 pixels behind {roots} roots'


def main(folder='_docs', *names):
    names = names or sorted(f.stem for f in Path(folder).glob('*.html'))
    found, wrong = measure(folder, names)
    print(f"{'page':60s} {'height':>8s} {'picture':>8s} {'code':>8s}")
    chapters, better = defaultdict(list), []
    for name, r in found.items():
        better += worse(name, r.pop('blurred'), r.pop('roots'))
        chapters[r.pop('chapter')].append(r)
        print(row(name, **r))
    print('\nmedians')
    for chapter, rows in [*chapters.items(), ('all pages', list(found.values()))]:
        pictures = [r['picture'] for r in rows if r['picture'] is not None]
        print(row(f'{chapter or "no chapter"} ({len(rows)}, {len(pictures)} with a picture)', median(r['height'] for r in rows),
                  median(pictures) if pictures else None, median(r['code'] for r in rows)))
    print('', *better, sep='\n')
    print('', *wrong or ['nothing is wrong'], sep='\n')
    return bool(wrong)


if __name__ == '__main__': sys.exit(main(*sys.argv[1:]))
