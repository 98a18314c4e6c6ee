"""How each kind of value is read and written: values look it up here, and those who know texts and names enter it.

So a value knows nothing of notations or of the zoo, and its `parse` and `format` still take and give all of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

_Value = TypeVar('_Value')


class _Form(NamedTuple):
    read: Callable[[Any], Any]
    write: Callable[..., str]


_FORMS: dict[type, _Form] = {}


def enter(kind: type[_Value], read: Callable[[Any], _Value], write: Callable[..., str]) -> None:
    """Says how values of a kind are read and written."""
    _FORMS[kind] = _Form(read, write)


def read(kind: type[_Value], source: Any) -> _Value:
    """Reads a value of a kind, as was entered for it."""
    value: _Value = _FORMS[kind].read(source)
    return value


def write(value: object, *args: Any) -> str:
    """Writes a value, as was entered for its kind."""
    return _FORMS[type(value)].write(value, *args)
