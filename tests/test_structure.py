"One page, one file, one name; and a file imports only what stands before it."
import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
library = root/'dcd_nb'


def sources(page, kind='code'):
    "The sources of a notebook's cells"
    return [''.join(c['source']) for c in json.loads(page.read_text(encoding='utf-8'))['cells']
            if c['cell_type'] == kind]


pages = sorted((root/'nbs').glob('[0-9]*.ipynb'))
modules = {page: found for page in pages for src in sources(page)
           for found in re.findall(r'^#\| *default_exp +([\w.]+)', src, flags=re.M)}
# later pages have larger ones
number = {module: i for i, module in enumerate(modules[p] for p in pages if p in modules)}


def path_of(module): return library/(module.replace('.', '/') + '.py')


def number_of(module):
    "The number of a module or package, given as dcd_nb.x.y or x.y"
    module = module.removeprefix('dcd_nb').lstrip('.')
    return number.get(module, number.get(f'{module}.__init__'))


def exported(page): return [src for src in sources(page) if re.search(r'^#\| *exports?i?\b', src, flags=re.M)]


@pytest.mark.parametrize('page', modules, ids=lambda p: p.stem)
def test_a_page_fills_the_file_of_its_name(page):
    *package, file = modules[page].split('.')
    assert re.sub(r'^\d+[a-z]*_', '', page.stem) == (package[-1] if file == '__init__' else file)
    assert not [src for src in exported(page)
                if re.search(r'^#\| *exports?i? +\w', src, flags=re.M)], 'export into another file'
    assert exported(page) and path_of(modules[page]).exists()


def test_every_file_has_a_page_and_a_name_of_its_own():
    files = [p for p in library.rglob('*.py') if p.name not in ('_modidx.py',)
             and p.read_text(encoding='utf-8').strip()]
    left = {p for p in files} - {path_of(m) for m in modules.values()} - {library/'__init__.py'}
    assert not left, f'no notebook makes {left}'
    names = [p.stem for p in files if p.name != '__init__.py']
    assert len(names) == len(set(names)), [n for n in names if names.count(n) > 1]


@pytest.mark.parametrize('module', modules.values())
def test_a_file_can_be_read_in_one_go(module):
    assert len(path_of(module).read_text(encoding='utf-8').splitlines()) < 320


def imported(tree, module):
    "Modules of the package that the file of `module` imports: (name, the function it stands in or None)"
    inside = {id(n): f.name for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
              for n in ast.walk(f)}
    package = module.split('.')[:-1]
    for n in ast.walk(tree):
        if isinstance(n, ast.ImportFrom) and (n.level or (n.module or '').startswith('dcd_nb')):
            parts = package[:len(package) - n.level + 1] + [n.module or ''] if n.level else [n.module.removeprefix('dcd_nb').lstrip('.')]
            base = '.'.join(filter(None, parts))
            for a in n.names:
                yield (f'{base}.{a.name}'.lstrip('.') if number_of(f'{base}.{a.name}') is not None
                       else base), inside.get(id(n))


# observing is a method of a corruption; what it returns comes later
upwards = {('operators.corruption', 'data.measuring', 'measure')}


@pytest.mark.parametrize('module', modules.values())
def test_a_file_imports_only_what_stands_before_it(module):
    tree = ast.parse(path_of(module).read_text(encoding='utf-8'))
    for name, function in imported(tree, module):
        if not name: continue                                        # the version
        assert number_of(name) is not None, f'{name} is no file of the package'
        assert number_of(name) < number_of(module) or (module, name, function) in upwards, f'{module} imports {name}'
        assert function is None or (module, name, function) in upwards, f'{module} imports {name} in {function}'


@pytest.mark.parametrize('module', modules.values())
def test_imports_stand_at_the_top(module):
    "Only packages that are optional, or slow to import, are imported where they are used"
    body = [n for n in ast.parse(path_of(module).read_text(encoding='utf-8')).body
            if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    body = [n for n in body if not (isinstance(n, ast.Assign)
                                    and ast.unparse(n.targets[0]) in ('__all__', '_all_'))]
    kinds = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in body]
    assert kinds == sorted(kinds, reverse=True)


@pytest.mark.parametrize('page', pages, ids=lambda p: p.stem)
def test_a_page_uses_only_what_stands_before_it(page):
    at = number[modules[page]] if page in modules else max([number[modules[p]] for p in pages if p in modules
        and p < page], default=-1)
    used = {m for src in sources(page) if not re.search(r'^#\| *exports?i?\b', src, flags=re.M)
            for m in re.findall(r'^ *(?:from|import) (dcd_nb\.[a-z][\w.]*)', src, flags=re.M)}
    later = {m for m in used if number_of(m) is not None and number_of(m) > at}
    assert not later, f'{page.name} uses {later}'
    assert not [m for m in used if number_of(m) is None and m != 'dcd_nb._modidx']


def test_operators_alone_load_nothing_of_training():
    code = "import sys, dcd_nb.operators; print(*{m.split('.')[1] for m in sys.modules if m.startswith('dcd_nb.')})"
    loaded = {*subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                              check=True).stdout.split()}
    assert 'operators' in loaded and not loaded & {'training', 'metrics', 'mri', 'networks', 'objectives',
                                                   'distill', 'show'}


@pytest.mark.parametrize('path', sorted(library.rglob('*.py')), ids=lambda p: str(p.relative_to(library)))
def test_no_private_name_leaves_its_file(path):
    "What begins with an underscore is used by the file that defines it, and by no other"
    imports = [n for n in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
               if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = [part for n in imports for a in n.names for part in a.name.split('.')]
    taken = [name for name in names if name.startswith('_') and not name.startswith('__')]
    assert not taken, f'{path.name} imports {taken}: give them plain names, or move them to where they are used'


def clashes():
    "Submodules that the package hides behind something else of their name, such as a function that it re-exports"
    names = [f'dcd_nb.{module.removesuffix(".__init__")}' for module in modules.values()
             if module != '__init__']
    for name in names: importlib.import_module(name)
    for name in names:
        package, _, child = name.rpartition('.')
        if getattr(sys.modules[package], child) is not sys.modules[name]: yield name


def test_no_function_has_the_name_of_its_module():
    "`import dcd_nb.x.y as m` would give the function y, and a traceback would name both alike"
    assert {*clashes()} <= {'dcd_nb.recipes.recipe'}             # a page of its own will rename that one


def modules_of():
    "Path and syntax tree of each file of the package"
    for module in modules.values():
        yield path_of(module), ast.parse(path_of(module).read_text(encoding='utf-8'))


def given_elsewhere(tree):
    "Methods that the file of `tree` gives to classes of other files"
    own = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    for f in tree.body:
        if not isinstance(f, ast.FunctionDef) or not any(re.match(r'patch\b', ast.unparse(d))
            for d in f.decorator_list):
            continue
        kind = ast.unparse(f.args.args[0].annotation)
        if kind not in own: yield f'{kind}.{f.name}'


def test_the_search_for_methods_given_elsewhere_finds_them():
    text = 'class A: pass\n@patch\ndef f(self:A): pass\n@patch(as_prop=True)\ndef g(self:B): pass'
    assert [*given_elsewhere(ast.parse(text))] == ['B.g']


def test_a_class_gets_its_methods_in_its_own_file():
    found = {str(path.relative_to(root)): names for path, tree in modules_of()
             if (names := [*given_elsewhere(tree)])}
    assert not found, found


def golfed(tree):
    "Lines whose statement is a tuple or a comprehension, which is made for what happens meanwhile; and calls of `__import__`"
    made = (ast.Tuple, ast.List, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    for n in ast.walk(tree):
        if isinstance(n, ast.Expr) and isinstance(n.value, made): yield n.lineno
        if isinstance(n, ast.Name) and n.id == '__import__': yield n.lineno
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and '__import__' in n.value:
            yield n.lineno    # code as text


def test_the_search_for_golfed_statements_finds_them():
    for text in ('a(), b()', '[f(x) for x in y]', '__import__("os")', '''"__import__('os').getcwd()"'''):
        assert [*golfed(ast.parse(text))] == [1]
    assert not [*golfed(ast.parse('"A text"\nx = a(), b()\nf(x)\nimport os\ny = [f(x) for x in y]'))]


def test_a_statement_does_one_thing():
    found = {str(path.relative_to(root)): lines for path, tree in modules_of() if (lines := [*golfed(tree)])}
    assert not found, found


def test_few_lines_are_long():
    "Equations may be; plumbing has about 100 columns. Lower the limit as pages get shorter"
    lines = [line for path, _ in modules_of() for line in path.read_text(encoding='utf-8').splitlines()
             if line.strip() and not line.startswith('# %%')]
    share = sum(len(line) > 100 for line in lines)/len(lines)
    assert share < .04, f'{share:.1%} of all lines have more than 100 columns'


described = ('show', 'data', 'mri', 'networks', 'metrics', 'restore', 'identify', 'theory', 'planner', 'cli')
untyped = { # arguments whose type belongs to a package that is imported where it is used, or to none
    'figure_html': ('fig',), 'keep_slow_cells': ('ip',), 'sharp_figures': ('ip',), 'png': ('im',), 'proximal_fid': ('x',),
           'to_tensor': ('x',)}


def public_functions(tree):
    "Functions and classes that a file exports, with their names"
    exported = [n.value for n in tree.body if isinstance(n, ast.Assign)
                and ast.unparse(n.targets[0]) == '__all__']
    names = {e.value for e in exported[0].elts} if exported else set()
    for n in tree.body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in names: yield n.name, n
        if isinstance(n, ast.ClassDef) and n.name in names:
            yield from ((f'{n.name}.{m.name}', m) for m in n.body if isinstance(m, ast.FunctionDef)
                        and m.name == '__init__')


def without_hint(f):
    "Arguments of which neither a hint nor a default tells the type"
    args = f.args.posonlyargs + f.args.args
    defaults = [None]*(len(args) - len(f.args.defaults)) + f.args.defaults
    for a, default in zip(args, defaults):
        tells = default is not None and not (isinstance(default, ast.Constant) and default.value is None)
        if a.annotation is None and not tells and a.arg not in ('self', 'cls', *untyped.get(f.name, ())):
            yield a.arg


@pytest.mark.parametrize('module', [m for m in modules.values() if m.split('.')[0] in described])
def test_public_functions_say_what_they_do_and_take(module):
    "A docstring for each function and class, and a type for each argument"
    for name, n in public_functions(ast.parse(path_of(module).read_text(encoding='utf-8'))):
        assert name.endswith('__init__') or ast.get_docstring(n), f'{module}.{name} has no docstring'
        if isinstance(n, ast.FunctionDef): assert not [*without_hint(n)], f'{module}.{name}: which type?'


# others as they get there
told = ('errors', 'named', 'draws', 'files', 'checkpoint', 'training', 'objectives', 'losses', 'distill',
        'operators')
plain_names = {'path', 'name', 'n', 'shape', 'seed', 'sigma', 'steps', 'rcond', 'images', 'precision',
               'dropout', 'missing', 'about', 'why', 'acs'}


def public(module):
    "What a module defines for others: (name, function or class, docstring), methods under the name of their class"
    found = importlib.import_module(f'dcd_nb.{module}'.removesuffix('.__init__'))
    for name, o in vars(found).items():
        if name.startswith('_') or getattr(o, '__module__', '') != found.__name__ or not (inspect.isclass(o)
            or inspect.isfunction(o)):
            continue
        yield name, o, o.__doc__
        for inner, m in vars(o).items() if inspect.isclass(o) else ():
            if inner.startswith('_') and inner not in ('__init__', '__call__', '__getitem__'): continue
            f = m.fget if isinstance(m, property) else getattr(m, '__func__', m)
            if inspect.isfunction(f): yield f'{name}.{inner}', f, m.__doc__


@pytest.mark.parametrize('module', [m for m in modules.values() if m.split('.')[0] in told])
def test_what_others_call_says_what_it_does_and_which_plain_values_it_takes(module):
    "A method that means what it means in the class above may be silent; so may `__init__`, whose class speaks"
    silent, bare = [], []
    for name, o, doc in public(module):
        owner, _, inner = name.partition('.')
        above = vars(importlib.import_module(f'dcd_nb.{module}'.removesuffix('.__init__')))[owner].__mro__[1:] if inner else ()
        inherited = any(getattr(vars(c).get(inner), '__doc__', None) for c in above if c is not object)
        if not doc and inner != '__init__' and not inherited: silent.append(name)
        if inspect.isclass(o): continue
        for p in inspect.signature(o).parameters.values():
            values = p.default if isinstance(p.default, tuple) else (p.default,)
            plain = p.name in plain_names or values and all(type(v) in (int, float, str, bool)
                for v in values)
            if plain and p.annotation is p.empty and p.kind is not p.VAR_KEYWORD:
                bare.append(f'{name}: {p.name}')
    assert not silent and not bare
