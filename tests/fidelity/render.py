"""Renders docs/fidelity.md: every setting of a recipe, the authors', ours, and the reason where they differ.

    python -m tests.fidelity.render        # writes docs/fidelity.md anew; tests/test_fidelity.py compares

Each `tests/fidelity/NAME.toml` is the table of one config:

    config = 'fna_retinanet_coco.py'       # in configs/
    title = 'FNA inside RetinaNet'
    source = "the paper and the authors' code"
    like = 'other'                         # optional: takes the rows of other.toml, or with 'other/derived' those of
                                           # its second half; only what differs is given here, and shown
    note = '…'                             # optional: one or two sentences more on the page
    second_half = 'other'                  # optional: another table that shows the second half; for a distillation,
                                           # whose `derived` names a config with a table of its own

    [[row]]
    key = 'optim_wrapper.optimizer.lr'     # dotted path into the config as it runs; list entries by number;
                                           # 'derived.…' is a path into the config that a search derives
    authors = 0.02                         # in our config's notation ('None' is None); without it: not known
    reason = '…'                           # where ours differs or the authors' is not known: why ours is what it is

    [[in_code]]                            # what no key of the config says
    what = 'activation after the stem'
    authors = 'ReLU'
    ours = 'ReLU6'
    reason = '…'
    test = 'tests/backbones/test_x.py::test_y'      # shows that ours is so

A row covers its key and everything below it that has no row of its own: `authors` may be a list or an inline table, and
is compared with all of that.
Each leaf of the `DECIDING` keys must be covered; one of a second half that is as in the first is covered by the row of
the first. A table with `like` fails where the config differs from the other's in an inherited row. Configs without a
table are listed with the reason in `untold.toml`: `'name.py' = 'reason'`.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings it
    import tomli as tomllib
from mmnas_ext.archs import CellSpace, SearchSpace
from mmnas_ext.runs.derived import derived_config
from tests.small import CONFIGS, read

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent
PAGE = ROOT / 'docs' / 'fidelity.md'
UNTOLD = 'untold'
# sections of a config that decide what is trained and what is measured
DECIDING = (
    'model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr', 'custom_hooks',
    'random_search', 'test_dataloader', 'test_evaluator', 'val_cfg', 'test_cfg', 'randomness', 'default_hooks',
    'load_from', 'sync_bn', 'model_wrapper_cfg', 'weights',
)  # fmt: skip
# where the data are and how they are read, not what is trained on them; and what the search fills in
FREE = (
    '*.num_workers', '*.persistent_workers', '*.pin_memory', '*.prefetch_factor', '*.backend_args', '*.data_root',
    '*.debug', '*._scope_', 'val_cfg.type', 'test_cfg.type', 'model.backbone.arch',
)  # fmt: skip
_FREE_NAMES = {pattern.removeprefix('*.') for pattern in FREE if pattern.count('*') == 1}
# hooks that watch or write, and change nothing that is trained
WATCHERS = ('DeriveHook', 'SearchMonitorHook', 'ProgressHook', 'ReseedHook')
# hooks that MMEngine has by default, by name: those that write, and those that train with what they must be
_WRITERS = ('timer', 'logger', 'checkpoint', 'visualization', 'runtime_info')
_STANDARD = {'param_scheduler': 'ParamSchedulerHook', 'sampler_seed': 'DistSamplerSeedHook'}
_NAMED = ('config', 'name')  # of a distillation's `derived`, what says where the rest is
_DERIVED = 'derived.'
_UNKNOWN = object()
_ELSEWHERE = '…'


@dataclass(frozen=True)
class Row:
    """One setting: a path into the config, the authors' value, and the reason where ours is another."""

    key: str
    authors: Any
    reason: str
    inherited: bool = False


@dataclass(frozen=True)
class CodeRow:
    """One setting that no key of the config says."""

    what: str
    authors: str
    ours: str
    reason: str
    test: str


@dataclass(frozen=True)
class Table:
    """The table of one config."""

    name: str
    config: str
    title: str
    source: str
    like: str
    second_half: str
    note: str
    rows: tuple[Row, ...]
    in_code: tuple[CodeRow, ...]


def parse(name: str, folder: Path = FOLDER) -> Table:
    """Reads a table.

    Raises:
        ValueError: An unknown or missing entry, or a key that is given twice.
    """
    raw = _read(folder / f'{name}.toml')
    rows, in_code = raw.pop('row', []), raw.pop('in_code', [])
    _check_entries(name, raw, {'config', 'title', 'source'}, {'like', 'second_half', 'note'})
    for row in rows:
        _check_entries(f'{name}: {row.get("key")}', row, {'key'}, {'authors', 'reason'})
    for row in in_code:
        _check_entries(f'{name}: {row.get("what")}', row, {'what', 'authors', 'ours', 'test'}, {'reason'})
    own = [Row(row['key'], row.get('authors', _UNKNOWN), row.get('reason', '')) for row in rows]
    keys = [row.key for row in own]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f'{name}: given twice: {twice}')
    like = raw.get('like', '')
    return Table(
        name=name,
        config=raw['config'],
        title=raw['title'],
        source=raw['source'],
        like=like,
        second_half=raw.get('second_half', ''),
        note=raw.get('note', ''),
        rows=(*own, *(row for row in _inherited(like, folder) if not any(_covers(key, row.key) for key in keys))),
        in_code=tuple(CodeRow(**{'reason': '', **row}) for row in in_code),
    )


def _inherited(like: str, folder: Path) -> Iterator[Row]:
    name, _, half = like.partition('/')
    if not name:
        return
    other = parse(name, folder)
    for row in other.rows:
        if not half or row.key.startswith(_DERIVED):
            yield replace(row, key=row.key.removeprefix(_DERIVED) if half else row.key, inherited=True)
        elif _is_shared(other, row) and not any(_covers(_DERIVED + row.key, r.key) for r in other.rows):
            yield replace(row, inherited=True)


def _check_entries(where: str, given: Mapping[str, Any], needed: set[str], allowed: set[str]) -> None:
    missing, unknown = needed - set(given), set(given) - needed - allowed
    if missing or unknown:
        raise ValueError(f'{where}: missing {sorted(missing)}, unknown {sorted(unknown)}')


def names(folder: Path = FOLDER) -> list[str]:
    """The tables, those that stand for themselves first; no config is read for it."""
    paths = [path for path in folder.glob('*.toml') if path.stem != UNTOLD]
    return [path.stem for path in sorted(paths, key=lambda path: ('like' in _read(path), path.stem))]


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding='utf-8'))


@cache
def halves(config: str) -> dict[str, Config]:
    """A config of ours as it runs, by the prefix of its keys: `''`, and of a search `'derived.'`."""
    cfg = read(config)
    return halves_of(cfg)


def halves_of(cfg: Config) -> dict[str, Config]:
    """As `halves`, of a config that runs; it is changed. Of a distillation, the second half is what `derived` changes.

    Search spaces are written out, so that a table and the page show what is in them.
    """
    found = {'': cfg}
    space = cfg.model.get('backbone', {}).get('space')
    if cfg.get('derived') and space is None:
        changes = {name: value for name, value in cfg.derived.items() if name not in _NAMED}
        found[_DERIVED] = Config({'weights': None, **changes})
    elif cfg.get('derived'):
        parsed = SearchSpace.parse(space)
        found[_DERIVED] = derived_config(cfg, parsed.arch(tuple((0,) * len(stage.layers) for stage in parsed.stages)))
    for part in (cfg.model, cfg.model.get('backbone', {})):
        if isinstance(part.get('space'), str):
            part['space'] = _written_out(part['space'])
    return found


def _written_out(name: str) -> str:
    """A search space of the zoo: of each stage the stride, and of its cells the channels and layers."""
    space = CellSpace.parse(name)
    stages = []
    for stage in space.stages:
        cells = dict.fromkeys(f'{cell.channels} x{len(cell.layers)}' for cell in stage.cells)
        tokens = dict.fromkeys(token for cell in stage.cells for layer in cell.layers for token in layer)
        stages.append(f'stride {stage.stride}: {", ".join(cells)} of {" ".join(tokens)}')
    return f'{name}: stem {space.stem_channels}; {"; ".join(stages)}; head {space.head_channels}, {space.act}'


def value_at(config: str, key: str) -> Any:
    """Our value.

    Raises:
        KeyError: There is no such key.
    """
    second = key.startswith(_DERIVED)
    half = halves(config)[_DERIVED if second else '']
    return _inside(dict(half.items()), key.removeprefix(_DERIVED).split('.'))


def _inside(value: Any, parts: Sequence[str]) -> Any:
    """Follows a path; a key that has dots of its own, as in `custom_keys`, is several parts."""
    if not parts:
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _inside(value[int(parts[0])], parts[1:])
    for count in range(1, len(parts) + 1):
        name = '.'.join(parts[:count])
        if isinstance(value, Mapping) and name in value:
            return _inside(value[name], parts[count:])
    raise KeyError('.'.join(parts))


def rest_at(table: Table, key: str, prefix: str = '', config: str = '') -> Any:
    """Our value without what a row of a longer key covers; of the half that `prefix` says, and of `config` if given."""
    inner = {row.key for row in table.rows if row.key.startswith(f'{key}.')}
    return _rest(value_at(config or table.config, prefix + key), key, inner)


def _rest(value: Any, path: str, covered: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        places = {name: f'{path}.{name}' for name in value}
        return {name: _rest(value[name], at, covered) for name, at in places.items() if at not in covered}
    if isinstance(value, (list, tuple)) and covered:
        places = {number: f'{path}.{number}' for number in range(len(value))}
        return [_ELSEWHERE if at in covered else _rest(value[n], at, covered) for n, at in places.items()]
    return value


def _is_shared(table: Table, row: Row) -> bool:
    """Whether the second half has a setting of the first as it is."""
    try:
        return equal(rest_at(table, row.key), rest_at(table, row.key, _DERIVED))
    except (KeyError, IndexError, ValueError):
        return False


def leaves(value: Any, path: str) -> Iterator[str]:
    """Paths of all values inside `value` that are no dict, and no list of dicts."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, f'{path}.{name}')
    elif isinstance(value, Sequence) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value):
            yield from leaves(inner, f'{path}.{number}')
    else:
        yield path


def deciding_keys(config: str) -> Iterator[str]:
    """Every key that a table of the config must cover."""
    for prefix, cfg in halves(config).items():
        for section in DECIDING:
            value = cfg.get(section)
            if section == 'custom_hooks':
                value = {str(n): hook for n, hook in enumerate(value or []) if not _watches(hook)}
            if section == 'default_hooks':
                value = {name: hook for name, hook in (value or {}).items() if not _is_standard(name, hook)}
            if not value and (section != 'weights' or section not in cfg):
                continue
            for leaf in leaves(value, section):
                if not any(fnmatchcase(leaf, free) for free in FREE):
                    yield prefix + leaf


def _plain(value: Any) -> Any:
    """A value without what decides nothing, as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items() if name not in _FREE_NAMES}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _watches(hook: Mapping[str, Any]) -> bool:
    return str(hook['type']).rpartition('.')[2] in WATCHERS


def _is_standard(name: str, hook: Any) -> bool:
    return name in _WRITERS or _plain(hook) == {'type': _STANDARD.get(name)}


def _covers(key: str, leaf: str) -> bool:
    return leaf == key or leaf.startswith(f'{key}.')


def complaints(table: Table) -> list[str]:
    """What is wrong with a table: keys that are missing or do not exist, and deviations without a reason."""
    found = []
    for row in table.rows:
        try:
            ours = rest_at(table, row.key)
        except (KeyError, IndexError, ValueError, TypeError):
            found.append(f'{row.key}: the config has no such key')
            continue
        if not row.reason and (row.authors is _UNKNOWN or not equal(row.authors, ours)):
            found.append(f"{row.key}: ours is {shown(ours)}, the authors' {_authors(row)}, and no reason is given")
        if row.inherited and not equal(_inherited_value(table, row), ours):
            found.append(f'{row.key}: differs from that of {table.like}, and has no row of its own')
    covering = [row.key for row in table.rows]
    distilled = value_at(table.config, 'model').get('backbone') is None and halves(table.config)[''].get('derived')
    named = Path(distilled['config']).name if distilled else ''
    if named != (parse(table.second_half).config if table.second_half else ''):
        found.append(f'second_half: the table is {table.second_half!r}, and the config trains by {named!r}')
    for leaf in deciding_keys(table.config):
        first = leaf.removeprefix(_DERIVED)
        # what `derived` of a distillation sets goes into the config that it names, not into the first half
        shared = not distilled and _is_shared(table, Row(first, None, ''))
        if not any(_covers(key, leaf) or (shared and _covers(key, first)) for key in covering):
            found.append(f'{leaf}: no row, and ours is {shown(value_at(table.config, leaf))}')
    for code in table.in_code:
        file, _, function = code.test.partition('::')
        path = ROOT / file
        if not path.is_file() or not re.search(rf'^def {re.escape(function)}\(', path.read_text(), re.MULTILINE):
            found.append(f'{code.what}: there is no test {code.test}')
        if code.ours != code.authors and not code.reason:
            found.append(f'{code.what}: ours differs, and no reason is given')
    return found


def _inherited_value(table: Table, row: Row) -> Any:
    name, _, half = table.like.partition('/')
    return rest_at(table, row.key, _DERIVED if half else '', parse(name).config)


def equal(authors: Any, ours: Any) -> bool:
    """Whether two values are the same setting: a tuple is a list, floats agree within rounding, 'None' is None."""
    authors, ours = _plain(authors), _plain(ours)
    if isinstance(ours, Mapping):
        same = isinstance(authors, Mapping) and set(authors) == set(ours)
        return same and all(equal(authors[name], ours[name]) for name in ours)
    if isinstance(ours, (list, tuple)):
        same = isinstance(authors, (list, tuple)) and len(authors) == len(ours)
        return same and all(equal(a, b) for a, b in zip(authors, ours, strict=True))
    if isinstance(ours, bool) or isinstance(authors, bool):
        return authors is ours
    if isinstance(ours, (int, float)) and isinstance(authors, (int, float)):
        return math.isclose(authors, ours, rel_tol=1e-6)
    return str(authors) == str(ours)


def shown(value: Any) -> str:
    """A value as the page shows it."""
    value = _plain(value)
    if isinstance(value, Mapping):
        inner = ', '.join(f'{name}={shown(v)}' for name, v in value.items() if name != 'type')
        return f'{value["type"]}({inner})' if 'type' in value else f'({inner})'
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(map(shown, value))}]'
    if isinstance(value, float):
        return f'{value:.6g}'
    return str(value)


def _authors(row: Row) -> str:
    return 'not known' if row.authors is _UNKNOWN else shown(row.authors)


def render(tables: Sequence[Table], untold: Mapping[str, str]) -> str:
    """The page."""
    parts = [_HEAD]
    for table in tables:
        name, _, half = table.like.partition('/')
        like = f' As {"the second half of " if half else ""}[{name}](#{name}), but:' if name else ''
        note = f' {table.note}' if table.note else ''
        parts += [
            f'## {table.name}',
            '',
            f"{table.title} (`configs/{table.config}`). Authors' values: {table.source}.{note}{like}",
            '',
            *_rows(table),
            '',
        ]
    parts += ['## Configs that no paper has', '']
    parts += [f'- `configs/{name}`: {reason}' for name, reason in sorted(untold.items())]
    return '\n'.join(parts) + '\n'


_HEAD = """\
# Recipes: the authors' settings and ours

Made by `python -m tests.fidelity.render` from the configs and `tests/fidelity/*.toml`; do not edit.
`tests/test_fidelity.py` fails if a setting of a config has no row, if ours differs without a reason, or if this
page is not what is made. `derived.` marks the settings that train the network which a search has found; those that it
shares with the search are given once.
"""


def _rows(table: Table) -> Iterator[str]:
    own = [row for row in table.rows if not row.inherited]
    if not own and not table.in_code:
        yield 'nothing else.'
        return
    yield "| setting | authors' | ours | reason |"
    yield '|---|---|---|---|'
    for row in own:
        yield _line(f'`{row.key}`', _authors(row), shown(rest_at(table, row.key)), row.reason)
    for code in table.in_code:
        yield _line(code.what, code.authors, code.ours, code.reason or f'`{code.test}`')


def _line(*cells: str) -> str:
    return '| ' + ' | '.join(cell.replace('|', '\\|').replace('\n', ' ') for cell in cells) + ' |'


def untold(folder: Path = FOLDER) -> dict[str, str]:
    """Configs without a table, and why they have none."""
    return _read(folder / f'{UNTOLD}.toml')


def without_table() -> list[str]:
    """Configs that have neither a table nor a reason to have none."""
    told = {parse(name).config for name in names()} | set(untold())
    return [name for name in CONFIGS if name not in told]


def page() -> str:
    """The page as it should be."""
    return render([parse(name) for name in names()], untold())


if __name__ == '__main__':
    PAGE.write_text(page(), encoding='utf-8')
