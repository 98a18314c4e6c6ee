"""Which of the files that a config inherits from says something: a read config no longer tells."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mmnas_ext.shipped import MARK, find_shipped

_BASE = '_base_'


class Source(NamedTuple):
    """A file of a config.

    Args:
        depth: 0 is the config's own file, 1 those that it inherits from, and so on.
        inherits: Whether it has bases itself.
        assigned: Names that it gives a value, at its top.
        used: Names whose value it reads.
        said: Keys of what it assigns, down to what is no dict: ``('model', 'neck', 'out_channels')``.
    """

    depth: int
    inherits: bool
    assigned: frozenset[str]
    used: frozenset[str]
    said: tuple[tuple[str, ...], ...] = ()


def list_sources(cfg: Config) -> Iterator[Source]:
    """Yields the files of a config, the nearest first; bases of other packages, and files that are gone, are left out.

    Args:
        cfg: A config that was read from a file.
    """
    level, depth = [Path(str(cfg.filename))] if getattr(cfg, 'filename', None) else [], 0
    while level:
        below: list[Path] = []
        for file in level:
            if file.suffix != '.py' or not file.is_file():
                continue
            module = ast.parse(file.read_text(encoding='utf-8'))
            names = [node for node in ast.walk(module) if isinstance(node, ast.Name)]
            targets = [target for node in module.body if isinstance(node, ast.Assign) for target in node.targets]
            flat = [node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
            assigned = frozenset(node.id for node in flat if isinstance(node.ctx, ast.Store))
            inherits = _BASE in assigned or 'read_base' in {node.id for node in names}
            used = frozenset(node.id for node in names if isinstance(node.ctx, ast.Load))
            said = tuple(path for node in module.body if isinstance(node, ast.Assign) for path in _paths(node))
            yield Source(depth, inherits, assigned, used, said)
            bases = Config._get_base_files(str(file)) if _BASE in assigned else []
            ours = [find_shipped(base) if base.startswith(MARK) else file.parent / base for base in bases]
            below += [base for base in ours if '::' not in str(base)]
        level, depth = below, depth + 1


def depth_of(cfg: Config, name: str) -> int | None:
    """How far the nearest file that gives a name a value is; ``None`` of one that no file of ours gives."""
    return next((source.depth for source in list_sources(cfg) if name in source.assigned), None)


def said_keys(cfg: Config, depth: int) -> list[tuple[str, ...]]:
    """Keys that the files up to a depth give values, see `Source`."""
    return [path for source in list_sources(cfg) if source.depth <= depth for path in source.said]


def is_said(path: tuple[str, ...], said: list[tuple[str, ...]]) -> bool:
    """Whether keys that are said are those of a value, or of a dict around it that was made elsewhere."""
    return any(path[: len(keys)] == keys for keys in said)


def is_left_unused(cfg: Config, name: str) -> bool:
    """Whether the nearest file that gives a name a value inherits, and does nothing with it itself.

    A base has read its own value by then, so what such a line says would have no effect. A file without bases is left
    alone: MMEngine writes whole configs, with all variables, into work dirs.
    """
    nearest = next((source for source in list_sources(cfg) if name in source.assigned), None)
    return nearest is not None and nearest.inherits and name not in nearest.used


def _paths(node: ast.Assign) -> Iterator[tuple[str, ...]]:
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield from ((target.id, *path) for path in _inside(node.value))


def _inside(value: ast.expr) -> Iterator[tuple[str, ...]]:
    """Yields the keys of a dict that is written out, those of the dicts in it included; one empty path of all else."""
    pairs: list[tuple[str | None, ast.expr]] | None = None
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == 'dict' and not value.args:
        pairs = [(keyword.arg, keyword.value) for keyword in value.keywords]
    elif isinstance(value, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
        pairs = [(None if key is None else str(key), each) for key, each in zip(keys, value.values, strict=True)]
    if pairs is None or not all(key for key, _ in pairs):  # of a dict with others in it not all keys are known
        yield ()
    else:
        yield from ((str(key), *path) for key, each in pairs for path in _inside(each) if key != '_delete_')
