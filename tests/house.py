"""Rules of the house, each a function from a project folder to a list of complaints; `test_house.py` runs them."""

import ast
import fnmatch
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = 'mmnas_ext'
SOURCE = ('mmnas_ext', 'tools', 'benchmarks')
CHECK = 'install_check'
WORK_DIR = 'workdir'
SHIPPED = 'shipped'
LINES = 'upstream'
# what a room may import of the project; every room may import itself
ROOMS: dict[str, frozenset[str]] = {
    CHECK: frozenset(),
    WORK_DIR: frozenset(),
    SHIPPED: frozenset(),
    LINES: frozenset({CHECK}),
    'archs': frozenset(),
    'registry': frozenset({CHECK, SHIPPED}),
    'ops': frozenset({'archs'}),
    'datasets': frozenset({'registry'}),
    'remap': frozenset({'ops', 'archs', 'registry', WORK_DIR}),
    'backbones': frozenset({'ops', 'remap', 'archs', 'registry', WORK_DIR}),
    'search': frozenset({'archs', WORK_DIR}),
    'distill': frozenset({'backbones', 'remap', 'ops', 'archs', 'registry'}),
    'engine': frozenset(
        {'distill', 'search', 'backbones', 'remap', 'datasets', 'ops', 'archs', 'registry', CHECK, WORK_DIR, LINES}
    ),
    'reports': frozenset({'search', 'archs', WORK_DIR}),
    'hosts': frozenset({'backbones', 'registry', CHECK}),
    'runs': frozenset(
        {
            'engine',
            'reports',
            'distill',
            'search',
            'backbones',
            'remap',
            'datasets',
            'ops',
            'archs',
            'registry',
            CHECK,
            WORK_DIR,
            SHIPPED,
        }
    ),
}
ROOMS['cli'] = frozenset(ROOMS)
ROOMS['__main__'] = frozenset({'cli'})
HOSTS = frozenset({'mmdet', 'mmseg', 'mmpretrain'})
MM = HOSTS | {'mmengine', 'mmcv'}
NO_HELPERS = frozenset({'utils', 'util', 'common', 'core', 'helpers', 'misc'})
LINES_PER_FILE = 500
LINES_PER_FUNCTION = 80
TESTS_PER_SOURCE = 0.6


@cache
def tree(root: Path) -> tuple[str, ...]:
    """Files of the project, relative: those that git knows or would add, or all where there is no git."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z']
    if (root / '.git').exists():
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        names = [name for name in done.stdout.split('\0') if name]
    else:
        names = [path.relative_to(root).as_posix() for path in root.rglob('*') if path.is_file()]
        names = [
            name for name in names if not re.search(r'(^|/)(\.venv|\.git|\.mim|__pycache__|work_dirs|build)/', name)
        ]
    return tuple(sorted(name for name in names if (root / name).is_file()))


def python_files(root: Path, *folders: str) -> list[str]:
    """Python files under the folders; all without any."""
    names = [name for name in tree(root) if name.endswith('.py')]
    return [name for name in names if not folders or name.split('/')[0] in folders]


def text(root: Path, name: str) -> str:
    return (root / name).read_text(encoding='utf-8')


def parsed(root: Path, name: str) -> ast.Module:
    return ast.parse(text(root, name), name)


def room_of(name: str) -> str:
    """Room of a file of the package; '' for the package's own `__init__`."""
    return Path(name).parts[1].removesuffix('.py').replace('__init__', '')


def imports(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that is imported, also inside functions and through `import_module`."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, '.' * node.level + (node.module or '')
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f'{node.module}.{alias.name}') for alias in node.names)
        elif isinstance(node, ast.Call) and called(node).split('.')[-1] in ('import_module', '__import__'):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value


def called(node: ast.Call) -> str:
    """Dotted name of what is called, as far as it is written as names."""
    parts, target = [], node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    parts.append(target.id if isinstance(target, ast.Name) else '')
    return '.'.join(reversed(parts))


def wrong_directions(root: Path) -> list[str]:
    """A room imports only from the rooms that the table allows; imports are absolute; there is no unknown room."""
    found = []
    for name in python_files(root, PACKAGE):
        room = room_of(name)
        if room and room not in ROOMS:
            found.append(f'{name}: {room!r} is no room of the house')
            continue
        allowed = ROOMS.get(room, frozenset()) | {room}
        for line, target in imports(parsed(root, name)):
            if target.startswith('.'):
                found.append(f'{name}:{line}: relative import {target}')
            parts = target.split('.')
            inside = parts[0] == PACKAGE and len(parts) > 1 and not parts[1].startswith('__')
            if inside and parts[1] not in allowed:
                found.append(f'{name}:{line}: {room or PACKAGE} must not import {parts[1]}')
    return found


def import_circles(root: Path) -> list[str]:
    """No modules of the package import each other, also not inside functions; what only a type checker reads may."""
    modules = {Path(name).with_suffix('').as_posix().replace('/', '.'): name for name in python_files(root, PACKAGE)}
    modules = {module.removesuffix('.__init__'): name for module, name in modules.items()}
    needs = {}
    for module, name in modules.items():
        targets = (target for _, target in imports(_at_run_time(parsed(root, name))))
        known = {next((each for each in _prefixes(target) if each in modules), module) for target in targets}
        needs[module] = known - {module}
    found, left = [], set(modules)
    while left:
        chain = [min(left)]
        while (after := sorted(needs[chain[-1]] & left)) and after[0] not in chain:
            chain.append(after[0])
        if after:
            circle = chain[chain.index(after[0]) :]
            found.append(' -> '.join([*circle, circle[0]]) + ': a circle of imports')
        # a module that needs none of the rest is in no circle, and a circle is told once
        left -= set(circle) if after else {chain[-1]}
    return found


def _prefixes(target: str) -> list[str]:
    """A dotted name and what it lies in, the name itself first."""
    parts = target.split('.')
    return ['.'.join(parts[:length]) for length in range(len(parts), 0, -1)]


def _at_run_time(module: ast.Module) -> ast.Module:
    """A module without what stands under ``if TYPE_CHECKING``."""
    for node in ast.walk(module):
        for field in ('body', 'orelse', 'finalbody'):
            block = getattr(node, field, None)
            if isinstance(block, list):
                kept = [[each] if not _is_for_checkers(each) else each.orelse for each in block]
                setattr(node, field, list(itertools.chain.from_iterable(kept)))
    return module


def _is_for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).split('.')[-1] == 'TYPE_CHECKING'


def foreign_imports(root: Path) -> list[str]:
    """Which rooms may know which library."""
    found = []
    for name in python_files(root, PACKAGE):
        room = room_of(name)
        for line, target in imports(parsed(root, name)):
            library = target.split('.')[0]
            if library in sys.stdlib_module_names or library in ('', PACKAGE):
                continue
            if room in ('', CHECK, WORK_DIR, 'archs'):
                found.append(f'{name}:{line}: standard library only, not {library}')
            elif room in ('registry', SHIPPED, LINES) and library != 'mmengine':
                found.append(f'{name}:{line}: mmengine only, not {library}')
            elif name == f'{PACKAGE}/search/front.py' and library != 'numpy':
                found.append(f'{name}:{line}: numpy only, not {library}')
            elif room in ('search', 'reports') and library in MM:
                found.append(f'{name}:{line}: {room} works without {library}')
            elif room == 'reports' and library == 'torch':
                found.append(f'{name}:{line}: reports work from files alone, without torch')
            elif room != 'hosts' and library in HOSTS:
                found.append(f'{name}:{line}: only hosts may import {library}')
    return found


def helper_rooms(root: Path) -> list[str]:
    """A helper lives where it is used."""
    return [
        f'{name}: no {part} here'
        for name in python_files(root, *SOURCE)
        for part in Path(name).with_suffix('').parts
        if part in NO_HELPERS
    ]


def long_files(root: Path) -> list[str]:
    counted = ((name, text(root, name).count('\n')) for name in python_files(root))
    return [f'{name}: {lines} lines' for name, lines in counted if lines >= LINES_PER_FILE]


def long_functions(root: Path) -> list[str]:
    found = []
    for name in python_files(root):
        for node in ast.walk(parsed(root, name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines >= LINES_PER_FUNCTION:
                    found.append(f'{name}:{node.lineno}: {node.name} has {lines} lines')
    return found


def deep_classes(root: Path) -> list[str]:
    """No class more than two levels below a library's."""
    bases: dict[str, list[str]] = {}
    places = {}
    for name in python_files(root, PACKAGE):
        for node in ast.walk(parsed(root, name)):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base).split('.')[-1].split('[')[0] for base in node.bases]
                places[node.name] = f'{name}:{node.lineno}'

    def depth(cls: str, seen: tuple[str, ...] = ()) -> int:
        ours = [base for base in bases[cls] if base in bases and base != cls and base not in seen]
        return 1 + max((depth(base, (*seen, cls)) for base in ours), default=0)

    return [f'{place}: {cls} is {depth(cls)} levels deep' for cls, place in places.items() if depth(cls) > 2]


def unsafe_code(root: Path) -> list[str]:
    """No code run from data, no patched forward, no forced registration, no promise left behind."""
    found = []
    for name in python_files(root, *SOURCE):
        for node in ast.walk(parsed(root, name)):
            reason = _unsafe(node)
            if reason:
                found.append(f'{name}:{node.lineno}: {reason}')
        for number, line in enumerate(text(root, name).splitlines(), 1):
            promise = re.search(r'\b(TODO|FIXME|XXX|NotImplementedError)\b', line)
            if promise:
                found.append(f'{name}:{number}: {promise[0]}')
    return found


def _unsafe(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        function = called(node)
        first_two = function.split('.')[:2]
        if function in ('eval', 'exec', 'builtins.eval', 'builtins.exec'):
            return f'{function}()'
        if first_two[0] in ('pickle', 'dill', 'cloudpickle') and first_two[-1] in ('load', 'loads', 'Unpickler'):
            return f'{function}()'
        if function == 'torch.load' and not any(word.arg == 'weights_only' for word in node.keywords):
            return 'torch.load without weights_only=True'
        names = [argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant)]
        if function == 'setattr' and 'forward' in names:
            return 'setattr of forward'
        for word in node.keywords:
            value = word.value.value if isinstance(word.value, ast.Constant) else None
            if (word.arg, value) in (('weights_only', False), ('force', True)):
                return f'{word.arg}={value}'
    if isinstance(node, ast.ImportFrom) and node.module == 'pickle':
        named = [alias.name for alias in node.names if alias.name in ('load', 'loads', 'Unpickler')]
        return f'pickle.{named[0]}' if named else ''
    if isinstance(node, ast.Assign):
        patched = [target for target in node.targets if isinstance(target, ast.Attribute) and target.attr == 'forward']
        return 'forward is assigned' if patched else ''
    return ''


def tests_that_cannot_fail(root: Path) -> list[str]:
    """No skipped test, no bare "is not None", no assertion of a constant."""
    found = []
    for name in python_files(root, 'tests'):
        for node in ast.walk(parsed(root, name)):
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant):
                found.append(f'{name}:{node.lineno}: asserts a constant')
            elif isinstance(node, ast.Assert) and ast.unparse(node.test).endswith(' is not None'):
                found.append(f'{name}:{node.lineno}: only asserts that something is there')
            elif isinstance(node, ast.Attribute) and node.attr in ('skip', 'skipif', 'xfail', 'importorskip'):
                owner = ast.unparse(node.value)
                if owner in ('pytest', 'pytest.mark'):
                    found.append(f'{name}:{node.lineno}: {owner}.{node.attr}')
    return found


def thin_tests(root: Path) -> list[str]:
    source = sum(text(root, name).count('\n') for name in python_files(root, *SOURCE))
    tests = sum(text(root, name).count('\n') for name in python_files(root, 'tests'))
    return [f'{tests} lines of tests for {source} of source'] if tests < TESTS_PER_SOURCE * source else []


_PLACE = re.compile(r'(?<![\w/.])(?:configs|tools|benchmarks|docs|tests|mmnas_ext|\.ci)/[\w./*-]*[\w*]')
_LINK = re.compile(r'\]\((?!https?://|mailto:|#)([^)#\s]+)')
_COMMAND = re.compile(r'^\s*(?:\$ )?(?:\w+=\S+ )*(make|mmnas|python3?|bash|\S+/python3?) (.*)$')


def documents(root: Path) -> list[str]:
    return [name for name in tree(root) if name.endswith('.md')]


def missing_paths(root: Path) -> list[str]:
    """Every path that a document names exists; with a star, at least one."""
    files = set(tree(root))
    folders = {str(parent) for name in files for parent in Path(name).parents}
    found = []
    for name in documents(root):
        for path in _PLACE.findall(text(root, name)):
            known = path in files or path in folders or (path.count('*') and fnmatch.filter(files, path))
            if not known:
                found.append(f'{name}: {path} does not exist')
        for path in _LINK.findall(text(root, name)):
            if not (root / name).parent.joinpath(path).exists():
                found.append(f'{name}: link to {path}, which does not exist')
    return found


def missing_commands(root: Path) -> list[str]:
    """Every `make` target, module, subcommand and option that a command in a document names exists."""
    makefile = text(root, 'Makefile') if 'Makefile' in tree(root) else ''
    targets = set(re.findall(r'^([\w-]+):', makefile, re.MULTILINE))
    found = []
    for name in documents(root):
        for line in _commands(text(root, name)):
            match = _COMMAND.match(line)
            if match and match[1] == 'make':
                words = [word for word in shlex.split(match[2], comments=True) if '=' not in word and word[0] != '-']
                found += [f'{name}: make {word}, no such target' for word in words if word not in targets]
            elif match:
                bad = _bad_call if match[1] == 'mmnas' else _bad_script
                found += [f'{name}: {complaint}' for complaint in bad(root, match[2])]
    return found


def _commands(document: str) -> Iterator[str]:
    """Lines of the shell code blocks, continued lines joined, and inline `make x` / `mmnas x` / `python x`."""
    for block in re.findall(r'```(?:bash|sh|console|shell)\n(.*?)```', document, re.DOTALL):
        yield from block.replace('\\\n', ' ').splitlines()
    plain = re.sub(r'```.*?```', '', document, flags=re.DOTALL)
    yield from re.findall(r'`((?:make|mmnas|python3?|bash) [^`\n]+)`', plain)


def _bad_script(root: Path, rest: str) -> list[str]:
    module = re.match(rf'-m ({PACKAGE}[\w.]*)', rest)
    if module:
        path = module[1].replace('.', '/')
        return [] if {f'{path}.py', f'{path}/__main__.py'} & set(tree(root)) else [f'no module {module[1]}']
    script = re.match(r'((?:tools|benchmarks)/[\w/]+\.py)\b', rest)
    if not script or script[1] not in tree(root):
        return []
    known = text(root, script[1])
    for command in re.findall(r"\btool\('(\w+)'\)", known):
        known += text(root, f'{PACKAGE}/cli/{command}.py')
    return _unknown_options(root, script[1], known, rest)


def _bad_call(root: Path, rest: str) -> list[str]:
    """What is wrong with the arguments of `mmnas`."""
    command = rest.split()[0]
    if not re.fullmatch(r'[a-z]\w*', command):
        return []  # an option of its own, or a placeholder
    file = f'{PACKAGE}/cli/{command}.py'
    if file not in tree(root):
        return [f'mmnas has no command {command}']
    return _unknown_options(root, f'mmnas {command}', text(root, file), rest)


def _unknown_options(root: Path, title: str, known: str, rest: str) -> list[str]:
    """Options of a command that its text, and that of the options that it shares with others, does not have."""
    options = re.findall(r'(?<!\S)(--[a-z][\w-]*)', rest.split('#')[0])
    # made from the table of metrics
    made = re.compile(r'--(max|min)-\w+' if 'add_limits(' in known else r'--help')
    shared = f'{PACKAGE}/cli/options.py'
    known += text(root, shared) if shared in tree(root) and re.search(r'\badd_\w+\(parser', known) else ''
    unknown = [option for option in options if f"'{option}'" not in known and not made.fullmatch(option)]
    return [f'{title} has no {option}' for option in unknown if option != '--help']


def machine_paths(root: Path) -> list[str]:
    """No folder of one machine in what is published."""
    place = re.compile(r'(?<![\w.])/(?:home|root|Users|work|farm|mnt|opt)/[\w.]+')
    found = []
    for name in tree(root):
        try:
            content = text(root, name)
        except UnicodeDecodeError:
            continue
        found += [f'{name}: {hit}' for hit in place.findall(content)]
    return found


def bare_configs(root: Path) -> list[str]:
    """A config begins with a comment or docstring; one that a user runs names itself in it, as the command does."""
    found = []
    for name in python_files(root, 'configs'):
        content = text(root, name)
        docstring = ast.get_docstring(parsed(root, name))
        header = docstring or '\n'.join(itertools.takewhile(lambda line: line.startswith('#'), content.splitlines()))
        if not header:
            found.append(f'{name}: no header comment')
        elif name.count('/') == 1 and name not in header:
            found.append(f'{name}: the header does not give the command')
    return found


def repeated_configs(root: Path) -> list[str]:
    """A variant inherits: no two configs share most of their lines."""
    lines = {}
    for name in python_files(root, 'configs'):
        kept = (line.split('#')[0].strip() for line in text(root, name).splitlines())
        lines[name] = {line for line in kept if len(line) > 8}
    return [
        f'{a} and {b} share most of their lines'
        for a, b in itertools.combinations(lines, 2)
        if min(len(lines[a]), len(lines[b])) >= 10 and 2 * len(lines[a] & lines[b]) > min(len(lines[a]), len(lines[b]))
    ]


RULES = (
    wrong_directions,
    import_circles,
    foreign_imports,
    helper_rooms,
    long_files,
    long_functions,
    deep_classes,
    unsafe_code,
    tests_that_cannot_fail,
    thin_tests,
    missing_paths,
    missing_commands,
    machine_paths,
    bare_configs,
    repeated_configs,
)
