"Give plain `quarto render` the pages that `nbdev_docs` makes: read a notebook from stdin, process it, write it to stdout."
import json, os, sys
from contextlib import redirect_stdout
from pathlib import Path

os.environ['IN_TEST'] = '1'
from execnb.nbio import dict2nb, nb2str
from nbdev.processors import FilterDefaults

src = json.load(sys.stdin)
nb = dict2nb(src)
nb.path_ = next(p for p in Path().glob('*.ipynb') if json.loads(p.read_text(encoding='utf-8')) == src)
with redirect_stdout(sys.stderr): FilterDefaults()(nb)
print(nb2str(nb))
