"""Make README.md from index.ipynb:  python nbs/_readme.py

The cells flagged `#| hide` are left out, and so is the code of those flagged `#| echo: false`.  Links to notebooks
become links to pages of the site, and what a code cell printed stands below the code.
"""
import json, re
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).parent.parent


def site_links(md, base):
    "Links to notebooks as links to the site, whose pages drop the number; pictures where the repository has them"
    md = re.sub(r'\]\((?:\d+[a-z]?_)?(\w+)\.ipynb(#[\w-]*)?\)', lambda m: f']({base}/{m[1]}.html{m[2] or ""})', md)
    return md.replace('](runs/', '](nbs/runs/')


def readme():
    "The text of README.md"
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini', encoding='utf-8')
    base = ini['DEFAULT']['doc_host'] + ini['DEFAULT']['doc_baseurl']
    parts = []
    for cell in json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']:
        src = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(site_links(src, base))
        elif cell['cell_type'] == 'code' and '#| hide' not in src:
            code = re.sub(r'^#[|].*\n', '', src, flags=re.M)
            if '#| echo: false' not in src: parts.append(f"``` python\n{code}\n```")
            text = ''.join(t for o in cell['outputs'] for t in o.get('text', []))
            if text: parts.append(f"```\n{text.rstrip()}\n```")
            parts += [site_links(''.join(o['data']['text/markdown']), base) for o in cell['outputs'] if 'text/markdown' in o.get('data', {})]
    return '\n\n'.join(parts) + '\n'


if __name__ == '__main__': (root/'README.md').write_text(readme(), encoding='utf-8')
