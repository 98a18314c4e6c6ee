"""Takes values of a kind from decoded JSON, and refuses what is of another kind with its place in the file."""

from collections.abc import Mapping
from dataclasses import fields
from math import inf, isfinite
from pathlib import Path
from typing import Any

from mmnas_ext.archs.json_file import read_json
from mmnas_ext.archs.literal import abbreviate
from mmnas_ext.workdir import WorkDir

_MAX_SHOWN = 200
# a value that has not been through JSON may have tuples for lists
_TYPES: dict[type, tuple[type, ...]] = {float: (int, float), list: (list, tuple)}
_KINDS = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a text', list: 'a list', dict: 'an object'}


def _is_finite(value: float) -> bool:
    return not isinstance(value, float) or isfinite(value)


def check_kind(value: Any, kind: type, where: str, finite: bool = True) -> Any:
    """Returns `value` if it is of a kind.

    Args:
        value: What a file says.
        kind: ``bool``, ``int``, ``float`` (integers are numbers too), ``str``, ``list`` or ``dict``.
        where: Its place, for the message.
        finite: Whether a number must be finite.

    Raises:
        ValueError: It is of another kind.
    """
    # True is an int to Python
    if not isinstance(value, _TYPES.get(kind, kind)) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f'{where} must be {_KINDS[kind]}, got {abbreviate(value)}')
    if isinstance(value, float) and finite and not isfinite(value):
        raise ValueError(f'{where} must be a finite number, got {value}')
    return value


def check_count(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless a setting is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        wanted = 'a positive integer' if least == 1 else f'an integer of at least {least}'
        raise ValueError(f'{name} must be {wanted}, got {value!r}')


def check_number(name: str, value: Any, highest: float = inf) -> None:
    """Raises ValueError unless a setting is a number that is not negative, of at most `highest`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
        raise ValueError(f'{name} must be a number in 0..{highest}, got {value!r}')


def check_share(name: str, value: Any) -> None:
    """Raises ValueError unless a setting is a share, greater than 0 and at most 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f'{name} must be a share in (0, 1], got {value!r}')


def check_known(name: str, given: Mapping[str, Any], settings: type) -> None:
    """Raises ValueError where settings by name have one that their dataclass does not know."""
    known = [entry.name for entry in fields(settings)]
    if unknown := sorted(map(str, set(given) - set(known))):
        raise ValueError(f'{name} takes {known}, got {unknown}')


def take(holder: Any, name: str, kind: type, where: str) -> Any:
    """Returns ``holder[name]`` if it is there and of a kind; see `check_kind`."""
    if name not in check_kind(holder, dict, where):
        raise ValueError(f'{where} lacks {name}')
    return check_kind(holder[name], kind, f'{where}: {name}')


def take_list(holder: Any, name: str, kind: type, where: str, least: int = 0) -> tuple[Any, ...]:
    """Returns the entries of the list ``holder[name]``, all of a kind and at least `least` of them."""
    values = take(holder, name, list, where)
    if len(values) < least:
        raise ValueError(f'{where}: {name} must hold at least {least}, got {len(values)}')
    return check_list_of(values, kind, f'{where}: {name}')


def check_list_of(values: Any, kind: type, where: str, finite: bool = True) -> tuple[Any, ...]:
    """Returns the entries of a list, all of a kind."""
    # at once where nothing can be wrong: a log has millions of numbers
    types = set(map(type, check_kind(values, list, where)))
    if types <= {kind, *_TYPES.get(kind, ())} and not (finite and float in types and not all(map(_is_finite, values))):
        return tuple(values)
    return tuple(check_kind(value, kind, where, finite) for value in check_kind(values, list, where))


def read_size(holder: Any, name: str, where: str) -> tuple[int, int]:
    """Returns the height and width that ``holder[name]`` says, two positive integers."""
    size = take_list(holder, name, int, where)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f'{where}: {name} must be [height, width], two positive integers, got {list(size)}')
    return size[0], size[1]


def find_file(source: str | Path, name: str, writer: str) -> Path:
    """Returns a file, or the one of a work dir that `WorkDir` knows by `name`.

    Raises:
        FileNotFoundError: There is none; the message says that `writer` writes it.
    """
    path = Path(source)
    try:
        path = getattr(WorkDir(path), name) if path.is_dir() else path
        there = path.is_file()
    except (OSError, ValueError):  # a text that cannot be a path: too long, or with a NUL in it
        there = False
    if not there:
        shown = str(path) if len(str(path)) < _MAX_SHOWN else abbreviate(str(path))
        raise FileNotFoundError(f'{name} file does not exist: {shown}; {writer} writes it')
    return path


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object that a file holds.

    Raises:
        ValueError: The text is not JSON, is nested too deep, has a key twice in one object, or is not an object.
    """
    content: dict[str, Any] = check_kind(read_json(path), dict, str(path))
    return content
