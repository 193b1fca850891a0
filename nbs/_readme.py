"""Make README.md from index.ipynb, and the pictures of both from the records and the pages:  python nbs/_readme.py

The cells flagged `#| hide` are left out, and so is the code of those flagged `#| echo: false`.  Links to notebooks
become links to pages of the site, and what a code cell printed stands below the code.  A text that begins with
`<!-- site -->` is left out as well.
"""
import json, re
from base64 import b64decode
from configparser import ConfigParser
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

root = Path(__file__).parent.parent


def site_links(md, base):
    "Links to notebooks as links to the site, whose pages drop the number; pictures where the repository has them"
    md = re.sub(r'\]\((?:\d+[a-z]*_)?(\w+)\.ipynb(#[\w-]*)?\)', lambda m: f']({base}/{m[1]}.html{m[2] or ""})', md)
    return re.sub(r'\]\((?=runs/|\w+\.svg)', '](nbs/', md)


def readme():
    "The text of README.md"
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini', encoding='utf-8')
    base = ini['DEFAULT']['doc_host'] + ini['DEFAULT']['doc_baseurl']
    parts = []
    for cell in json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']:
        src = ''.join(cell['source'])
        if src.startswith('<!-- site -->'): continue
        if cell['cell_type'] == 'markdown': parts.append(site_links(src, base))
        elif cell['cell_type'] == 'code' and '#| hide' not in src:
            code = re.sub(r'^#[|].*\n', '', src, flags=re.M)
            if '#| echo: false' not in src: parts.append(f"``` python\n{code}\n```")
            text = ''.join(t for o in cell['outputs'] for t in o.get('text', []))
            if text: parts.append(f"```\n{text.rstrip()}\n```")
            parts += [site_links(''.join(o['data']['text/markdown']), base) for o in cell['outputs'] if 'text/markdown' in o.get('data', {})]
    return '\n\n'.join(parts) + '\n'


def picture(columns=12):
    "What was seen and what was made of it: some rows of the record of handwriting, each below its name"
    import matplotlib.pyplot as plt
    record = root/'nbs/runs/mnist-mask'
    rows, im = json.loads((record/'results.json').read_text())['rows'], plt.imread(record/'grid.png')
    names = {'clean': 'clean images, never used in training', 'corrupted': 'measurements, 60 % missing: all that training sees',
             'teacher_mask as in training': 'drawn by the teacher, 35 network calls', 'student': 'drawn by the student, one network call'}
    gap = 2
    high, wide = (len(im) + gap)//len(rows), (im.shape[1] + gap)//16
    fig, axs = plt.subplots(len(names), figsize=(6, 3.1), gridspec_kw=dict(hspace=.6, left=0, right=1, top=.93, bottom=0))
    for ax, (row, name) in zip(axs, names.items()):
        top = rows.index(row)*high
        ax.imshow(im[top:top + high - gap, :columns*wide - gap], interpolation='nearest', cmap='gray')
        ax.set_title(name, loc='left', fontsize=13, pad=4, fontweight='bold' if row == 'student' else None)
        ax.axis('off')
    fig.savefig(root/'nbs/runs/first.png', dpi=240, bbox_inches='tight', pad_inches=.02)


views = { # page: the label of one of its figures, and the part of it that the gallery shows: left, top, right, bottom
    '28c_writing': ('fig-written', (0, .18, .33, 1)), '40_toys': ('fig-moons', (.6, 0, 1, 1)),
    '25d_restore': ('fig-restored', (0, 0, .57, .53)), '25ca_tiles': ('fig-whole', (0, 0, .66, 1)),
    '45_mri_run': ('fig-heads', (.17, .1, .62, 1)), '41c_camera': ('fig-denoised', (0, 0, .5, 1)),
    '41ba_counted_handwriting': ('fig-drawn', (.1, .05, .535, .5)), '29g_rivals': ('fig-rivals', (0, 0, .5, .5)),
}


def figure(page, label):
    "A figure as its page has stored it"
    for cell in json.loads((root/f'nbs/{page}.ipynb').read_text(encoding='utf-8'))['cells']:
        if f'#| label: {label}\n' in ''.join(cell['source']):
            png = next(o['data']['image/png'] for o in cell['outputs'] if 'image/png' in o.get('data', {}))
            return Image.open(BytesIO(b64decode(''.join(png)))).convert('RGB')
    raise ValueError(f'{page} has no figure {label}')


def gallery():
    "Small pictures of pages, which lead to them from the first page"
    (root/'nbs/gallery').mkdir(exist_ok=True)
    for page, (label, part) in views.items():
        whole = figure(page, label)
        cut = whole.crop([round(share*size) for share, size in zip(part, whole.size*2)])
        small = ImageOps.pad(cut, (400, 230), color='white')
        small.quantize(256, dither=Image.Dither.NONE).save(root/f'nbs/gallery/{page.partition("_")[2]}.png', optimize=True)


def ratios():
    "Of each recipe that was run: feature space -> distance of the student over that of its teacher's best sampler, a number for each seed"
    found = {}
    for path in sorted((root/'nbs/runs').glob('*/results.json')):
        results = json.loads(path.read_text())
        for space, fd in results['fd'].items():
            teacher = min((v for k, v in fd.items() if k.startswith('teacher_')), default=None)
            if teacher: found.setdefault(results['recipe'], {}).setdefault(space, []).append(round(fd['student']/teacher, 3))
    return found


def chart():
    "The ratios as dots, a row for each recipe; legible on white and on black"
    import matplotlib.pyplot as plt
    from dcd_nb.recipes import recipe
    from dcd_nb.show.images import axes, colors
    found, last, grey = ratios(), len(ratios()) - .4, '#80868E'
    dark = dict.fromkeys(('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color', 'ytick.color'), grey)
    with plt.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'dcd_nb', **dark}):
        fig, ax = axes(1, .55*len(found) + 1.1, 5.8)            # legible on a phone
        marks = dict(zip(dict.fromkeys(space for spaces in found.values() for space in spaces), 'os^D'))
        for row, (name, spaces) in enumerate(reversed(found.items())):
            ax.text(.028, row + .22, recipe(name).title.partition(';')[0], fontsize=10, va='bottom')
            for space, values in spaces.items():
                mean = sum(values)/len(values)
                ax.plot([min(values), max(values)], [row, row], color=colors['student'], lw=1)
                ax.plot(mean, row, marks[space], color=colors['student' if mean < 1 else 'teacher'])
        for x, who, side in ((.96, 'student', 'right'), (1.04, 'teacher', 'left')):
            ax.text(x, last + .05, f'{who} nearer', ha=side, va='bottom', color=colors[who], fontsize=10)
        for space, mark in marks.items():
            words = {'pca': 'principal components', 'random': 'random network'}.get(space, space)
            ax.plot([], [], mark, color=grey, label=words)
        ax.set(xscale='log', xlim=(.026, 3.), ylim=(-.5, last), yticks=[], xticks=[.05, .1, .2, .5, 1, 2],
               xticklabels=['0.05', '0.1', '0.2', '0.5', '1', '2'])
        ax.axvline(1, color=grey, lw=1), ax.minorticks_off(), ax.spines['left'].set_visible(False)
        ax.set_xlabel("student's distance / teacher's distance to clean images")
        fig.legend(loc='outside lower left', frameon=False, ncol=3, fontsize=9, columnspacing=.8, handletextpad=0.,
                   title='features', title_fontsize=9)
        fig.savefig(root/'nbs/results.svg', transparent=True, metadata={'Date': None, 'Description': json.dumps(found)})


if __name__ == '__main__':
    (root/'README.md').write_text(readme(), encoding='utf-8')
    picture()
    chart()
    gallery()
