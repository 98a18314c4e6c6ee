"""Constructors that check their arguments, for plain values of Python's own classes that a checkpoint may hold.

They take the place of the real ones while a checkpoint is read. What PyTorch allows by default is here too where it
can be made to take memory without end: a `bytearray` of a number, bytes encoded again and again, a tensor made anew.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

import torch

_MARKS = 'latin1', 'latin-1'  # how a pickle writes bytes


class RefusedError(ValueError):
    """A file asks for something that is not on the list."""


class Later:
    """Stands for a value that is made once the file is read; before that other calls could unfold a range.

    Args:
        make: Makes it of its parts.
        parts: What it is made of, in which stand-ins may be.
    """

    def __init__(self, make: Callable[[Sequence[Any]], Any], parts: Sequence[Any]) -> None:
        self.make, self.parts = make, parts


def _bytes(text: Any = '', encoding: Any = 'latin1') -> bytes:
    """Stands for ``_codecs.encode``, by which pickles of protocol 2 write bytes."""
    if not isinstance(text, str) or encoding not in _MARKS:
        raise RefusedError('it makes bytes of other things than text')
    return text.encode('latin1')


def _bytearray(*parts: Any) -> bytearray:
    """Stands for ``bytearray``."""
    if len(parts) == 1 and isinstance(parts[0], bytes):
        return bytearray(parts[0])
    return bytearray(_bytes(*parts))


def _no_tensor(*args: Any) -> Any:
    del args
    raise RefusedError('it holds a tensor of another kind of device: convert it to the CPU before saving')


def _range(*parts: Any) -> Later:
    """Stands for ``range``."""
    if not 1 <= len(parts) <= 3 or any(type(part) is not int for part in parts):
        raise RefusedError('it holds a range of other things than whole numbers')
    return Later(lambda found: range(*found), parts)


def _slice(*parts: Any) -> Later:
    """Stands for ``slice``."""
    if not 1 <= len(parts) <= 3 or any(part is not None and type(part) is not int for part in parts):
        raise RefusedError('it holds a slice of other things than whole numbers')
    return Later(lambda found: slice(*found), parts)


def _frozenset(parts: Any = ()) -> Later:
    """Stands for ``frozenset``."""
    if not isinstance(parts, list | tuple | set):
        raise RefusedError('it holds a frozenset of other things than a list')
    return Later(frozenset, list(parts))


def _mapping(content: Any = None, *others: Any) -> dict[Any, Any]:
    """Stands for MMEngine's ``ConfigDict``, which comes back as a dict."""
    if others or not isinstance(content, dict | None):
        raise RefusedError('it holds a ConfigDict that MMEngine has not written')
    return {} if content is None else content


def _default_dict(*factory: Any) -> dict[Any, Any]:
    """Stands for ``defaultdict``, which comes back as a dict; its items follow."""
    if len(factory) > 1:
        raise RefusedError('it holds a defaultdict that Python has not written')
    return {}


def _fields(state: Any, count: int) -> bytes:
    if not isinstance(state, bytes) or len(state) != count:
        raise RefusedError('it holds a date or time that Python has not written')
    return state


def _zone(zone: Any) -> timezone | None:
    if not isinstance(zone, timezone | None):
        raise RefusedError('it holds a time in a zone that only code can make')
    return zone


def _datetime(state: Any, zone: Any = None) -> datetime:
    """Stands for ``datetime``."""
    high, low, month, day, *clock = _fields(state, 10)
    hour, minute, second, *micro = clock
    moment = high * 256 + low, month, day, hour, minute, second, int.from_bytes(micro, 'big')
    return datetime(*moment, tzinfo=_zone(zone))


def _date(state: Any) -> date:
    """Stands for ``date``."""
    high, low, month, day = _fields(state, 4)
    return date(high * 256 + low, month, day)


def _time(state: Any, zone: Any = None) -> time:
    """Stands for ``time``."""
    hour, minute, second, *micro = _fields(state, 6)
    clock = hour, minute, second, int.from_bytes(micro, 'big')
    return time(*clock, tzinfo=_zone(zone))


def _timedelta(*parts: Any) -> timedelta:
    """Stands for ``timedelta``."""
    if len(parts) > 3 or any(type(part) is not int for part in parts):
        raise RefusedError('it holds a timedelta of other things than whole numbers')
    return timedelta(*parts)


def _timezone(offset: Any, *name: Any) -> timezone:
    """Stands for ``timezone``."""
    if not isinstance(offset, timedelta) or len(name) > 1 or not all(isinstance(each, str) for each in name):
        raise RefusedError('it holds a time zone that Python has not written')
    return timezone(offset, *name)


VALUES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_range, 'builtins.range'),
    (_slice, 'builtins.slice'),
    (_frozenset, 'builtins.frozenset'),
    (_mapping, 'mmengine.config.config.ConfigDict'),
    (_default_dict, 'collections.defaultdict'),
    (_datetime, 'datetime.datetime'),
    (_date, 'datetime.date'),
    (_time, 'datetime.time'),
    (_timedelta, 'datetime.timedelta'),
    (_timezone, 'datetime.timezone'),
]
# what PyTorch allows by itself
_BOUNDED: dict[str, Callable[..., Any]] = {
    'builtins.bytearray': _bytearray,
    '_codecs.encode': _bytes,
    'torch._utils._rebuild_device_tensor_from_numpy': _no_tensor,
    'torch._utils._rebuild_device_tensor_from_cpu_tensor': _no_tensor,
}


@contextmanager
def bounded_defaults() -> Iterator[None]:
    """Puts our own constructors for those of PyTorch's list, which cannot be added to it as it is looked at first."""
    allowed = torch._weights_only_unpickler._get_allowed_globals()
    kept = {name: allowed[name] for name in _BOUNDED if name in allowed}
    allowed.update({name: _BOUNDED[name] for name in kept})
    try:
        yield
    finally:
        allowed.update(kept)
