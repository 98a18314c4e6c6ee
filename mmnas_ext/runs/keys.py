"""Keys of ours in a config: whether each is known, and its value of the type that the class's signature says."""

import difflib
import inspect
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from mmnas_ext.runs.method import FINDERS

_PACKAGE = 'mmnas_ext'
# arguments that no config gives: MMEngine's runner and builders do
_SUPPLIED = ('self', 'runner', 'dataloader', 'evaluator', 'type', '_scope_')
# keys of a config that hold a mapping, and that hold a list
_MAPPINGS = (
    'model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg',
    'optim_wrapper', 'auto_scale_lr', 'default_hooks', 'env_cfg', 'randomness', 'visualizer', 'derived',
    *FINDERS,
)  # fmt: skip
_LISTS = ('custom_hooks',)
_NEAR = 0.6
_WORDS: Mapping[Any, str] = {
    int: 'an integer', float: 'a number', bool: 'True or False', str: 'a text', type(None): 'None', None: 'None',
    dict[str, Any]: 'a dict', Path: 'a path',
}  # fmt: skip


def near(name: str, known: Sequence[str]) -> str:
    """What may have been meant, as the end of a sentence; empty where nothing is near."""
    lowered = {each.lower(): each for each in known}
    found = difflib.get_close_matches(str(name).lower(), lowered, 1, _NEAR)
    return f': did you mean {lowered[found[0]]!r}?' if found else ''


def check_shape(cfg: Mapping[str, Any], where: str = '') -> None:
    """Raises ValueError where a part of a config is no mapping, or no list, that must be one.

    Args:
        cfg: A config, or its ``derived``.
        where: Dotted key of `cfg`.
    """
    for names, kinds, call in ((_MAPPINGS, Mapping, 'a dict'), (_LISTS, list | tuple, 'a list')):
        for name in names:
            value = cfg.get(name)
            if value is not None and not isinstance(value, kinds):
                raise ValueError(f'{where}{name} must be {call}, got {value!r:.60}')
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (cfg.get(name) or {}).get('dataset')
        if dataset is not None and not isinstance(dataset, Mapping):
            raise ValueError(f'{where}{name}.dataset must be a dict, got {dataset!r:.60}')
    seed = (cfg.get('randomness') or {}).get('seed')
    if seed is not None and not fits(seed, int):
        raise ValueError(f'{where}randomness.seed must be an integer or None, got {seed!r:.60}')
    schedule = cfg.get('param_scheduler')
    if schedule is not None and not isinstance(schedule, Mapping | list | tuple):
        raise ValueError(f'{where}param_scheduler must be a dict or a list of them, got {schedule!r:.60}')
    for name in ('backbone', 'neck'):
        part = (cfg.get('model') or {}).get(name)
        if name == 'neck' and isinstance(part, list | tuple) and all(isinstance(each, Mapping) for each in part):
            continue  # one behind the other
        if part is not None and not isinstance(part, Mapping):
            several = ' or a list of them' if name == 'neck' else ''
            raise ValueError(f'{where}model.{name} must be a dict{several}, got {part!r:.60}')
    if isinstance(cfg.get('derived'), Mapping):
        check_shape(cfg['derived'], f'{where}derived.')


def check_keys(cfg: Mapping[str, Any], where: str = '') -> None:
    """Raises ValueError for a key that a class of ours does not take, or whose value is of another type.

    Args:
        cfg: A config or a part of one.
        where: Dotted key of `cfg`, for the message.
    """
    # a Config is no Mapping, and has its items as one
    for path, part in _parts(dict(cfg.items()), where):
        kind = _own(part['type'])
        if kind is None:
            continue
        hints, takes_more = hints_of(kind)
        for name, value in part.items():
            if name in _SUPPLIED:
                continue
            place = f'{path}.{name}' if path else name
            if name not in hints:
                if takes_more:
                    continue
                raise ValueError(f'{place} is no argument of {kind.__name__}{near(name, list(hints))}')
            if not fits(value, hints[name]):
                raise ValueError(f'{place} must be {describe_hint(hints[name])}, got {value!r:.60}')


def takes(kind: Any, names: Sequence[str]) -> None:
    """Raises ValueError for an argument that a class, of anyone, does not take."""
    if not inspect.isclass(kind):
        return
    hints, takes_more = hints_of(kind)
    unknown = [] if takes_more else [name for name in names if name not in (*hints, *_SUPPLIED)]
    if unknown:
        raise ValueError(f'{unknown[0]} is no argument of {kind.__name__}{near(unknown[0], list(hints))}')


def fits(value: Any, hint: Any) -> bool:
    """Whether a value as a config or a JSON file has it is of an annotated type; of an unknown annotation any is.

    Lists pass for tuples and sequences, mappings for objects that are built of one, and one item for a sequence of it.
    """
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inside)
    if origin is Literal:
        return value in inside
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and (not inside or all(fits(each, inside[1]) for each in value.values()))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        if not isinstance(value, list | tuple):
            return origin is Sequence and isinstance(value, str | int) and fits(value, inside[0])
        if origin is tuple and Ellipsis not in inside:
            return len(value) == len(inside) and all(map(fits, value, inside))
        # at once where nothing can be wrong: a search notes its trials after each
        return set(map(type, value)) <= {inside[0]} or all(fits(each, inside[0]) for each in value)
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if hint in (str, Path):
        return isinstance(value, str | hint)
    if isinstance(hint, type) and hint.__module__.startswith(('mmnas_ext', 'torch', 'mmengine')):
        return isinstance(value, hint | Mapping)
    return True


def describe_hint(hint: Any) -> str:
    """An annotated type in words."""
    inside = typing.get_args(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        return ' or '.join(map(describe_hint, inside))
    if hint in _WORDS:
        return _WORDS[hint]
    text = hint.__name__ if isinstance(hint, type) and not inside else str(hint)
    return text.replace('collections.abc.', '').replace('typing.', '')


def is_told(error: Exception) -> bool:
    """Whether an error has a message of ours: a ``raise`` in this package, not an operation that failed in it."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    return last is not None and _PACKAGE in Path(last.filename).parts and (last.line or '').startswith('raise ')


def own_name(kind: Any) -> str:
    """Name of a class of ours that a ``type`` or ``constructor`` names, as text or as a class; empty of any other."""
    found = _own(kind)
    return '' if found is None else found.__name__


def _parts(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the mappings in a config that have a type, each with its dotted key."""
    if isinstance(value, Mapping):
        if value.get('type') is not None:
            yield where, value
        for name, inner in value.items():
            yield from _parts(inner, f'{where}.{name}' if where else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _parts(inner, f'{where}.{number}')


def _own(kind: Any) -> Any:
    """The class of ours that a type means; ``None`` of any other."""
    if isinstance(kind, str):
        scope, _, name = kind.rpartition('.')
        # a pure-Python config names a class by its module where it has become text
        return _registered(name) if scope.partition('.')[0] == _PACKAGE else None
    return kind if inspect.isclass(kind) and kind.__module__.startswith(f'{_PACKAGE}.') else None


def _registered(name: str) -> Any:
    from mmengine.registry import Registry

    from mmnas_ext import registry

    for each in vars(registry).values():
        if isinstance(each, Registry) and each.scope == _PACKAGE and (found := each.get(f'{_PACKAGE}.{name}')):
            return found if inspect.isclass(found) else None  # hosts' parts are made by functions that import them
    return None


def hints_of(kind: type) -> tuple[dict[str, Any], bool]:
    """What a class takes, with what it hands on to its bases by ``**kwargs``; and whether that may be anything."""
    hints: dict[str, Any] = {}
    for each in kind.__mro__:
        begin = vars(each).get('__init__')
        if begin is None or each is object:
            continue
        try:
            annotations = typing.get_type_hints(begin)
        except (NameError, TypeError):
            annotations = {}
        parameters = inspect.signature(begin).parameters.values()
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                hints.setdefault(parameter.name, annotations.get(parameter.name, Any))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return hints, False
    return hints, True
