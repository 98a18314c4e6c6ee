"""Reads lists, mappings, strings and numbers from text, and nothing else: no name is looked up, nothing is evaluated.

Takes JSON and the part of Python's literal syntax that architectures are published in (single quotes, tuples, trailing
commas, ``#`` comments). Length, nesting and numbers are bounded, so hostile text fails at once and never recurses deep.
"""

import json
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

MAX_TEXT = 100_000
MAX_DEPTH = 8
MAX_ITEMS = 4096
_MAX_NUMBER = 24
_BLANK = re.compile(r'(?:[ \t\r\n]|#[^\n]*)*')
_NUMBER = re.compile(r'-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?')
_DOUBLE_QUOTED = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SINGLE_QUOTED = re.compile(r"'([^'\\\x00-\x1f]*)'")
_WORD = re.compile(r'[^\W\d]\w*')
_CONSTANTS = {'true': True, 'True': True, 'false': False, 'False': False, 'null': None, 'None': None}
_INTEGER = re.compile(r'[0-9]{1,9}')
_DECIMAL = re.compile(r'(?:[0-9]{1,9}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?')
_CLOSING = {'[': ']', '(': ')', '{': '}'}

_Made = TypeVar('_Made')


class Reader:
    """A text and a position in it.

    Raises:
        ValueError: The text is empty, longer than `MAX_TEXT` characters, or holds a NUL.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_TEXT:
            raise ValueError(f'character {MAX_TEXT}: the text is too long, {len(text)} characters; {MAX_TEXT} are read')
        if '\0' in text:
            raise ValueError(f'character {text.index(chr(0))}: the text holds a NUL character')
        self.text = text
        self.position = 0
        if not self.peek():
            raise ValueError('character 0: the text is empty')

    def fail(self, reason: str, position: int | None = None) -> NoReturn:
        """Raises ValueError with the position, the current one if none is given."""
        raise ValueError(f'character {self.position if position is None else position}: {reason}')

    def peek(self) -> str:
        """The next character that is neither blank nor part of a comment, an empty string at the end."""
        blank = _BLANK.match(self.text, self.position)
        self.position = blank.end() if blank else self.position
        return self.text[self.position : self.position + 1]

    def take(self, wanted: str) -> bool:
        """Steps over the character `wanted` if it is the next one."""
        if self.peek() != wanted:
            return False
        self.position += 1
        return True

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Steps over what `pattern` matches here, if it does."""
        self.peek()
        found = pattern.match(self.text, self.position)
        self.position = found.end() if found else self.position
        return found

    def end(self, allowed: str = 'the end') -> None:
        """Raises ValueError unless the text ends here."""
        if self.peek():
            self.fail(f'expected {allowed}, got {self.describe()}')

    def describe(self) -> str:
        """What stands at the position, for messages."""
        return repr(self.text[self.position : self.position + 20]) if self.peek() else 'the end of the text'

    def value(self, depth: int = 0) -> Any:
        """Reads one list (tuples become lists), dict, string, number, boolean or null.

        Raises:
            ValueError: Names the character and what was expected there.
        """
        ahead = self.peek()
        if ahead and ahead in '[({':
            if depth >= MAX_DEPTH:
                self.fail(f'brackets are nested deeper than {MAX_DEPTH}')
            return self._mapping(depth + 1) if ahead == '{' else self._sequence(depth + 1)
        if ahead and ahead in '"\'':
            return self._string()
        start = self.position
        number = self.match(_NUMBER)
        if number is not None:
            if len(number[0]) > _MAX_NUMBER:
                self.fail(f'number of {len(number[0])} characters, at most {_MAX_NUMBER} are read', start)
            return float(number[0]) if number[1] or number[2] else int(number[0])
        word = self.match(_WORD)
        if word is not None and word[0] in _CONSTANTS:
            return _CONSTANTS[word[0]]
        self.position = start
        self.fail(f'expected a list, mapping, string or number, got {self.describe()}; only data is read, never code')

    def _sequence(self, depth: int) -> list[Any]:
        closing = self._open()
        items: list[Any] = []
        while not self.take(closing):
            if items:
                self._comma(closing)
                if self.take(closing):
                    break
            items.append(self.value(depth))
        return items

    def _mapping(self, depth: int) -> dict[str, Any]:
        closing = self._open()
        items: dict[str, Any] = {}
        while not self.take(closing):
            if items:
                self._comma(closing)
                if self.take(closing):
                    break
            if self.peek() not in ('"', "'"):
                self.fail(f'expected a key in quotes, got {self.describe()}')
            start = self.position
            key = self._string()
            if key in items:
                self.fail(f'key {key[:40]!r} stands twice in one mapping', start)
            if not self.take(':'):
                self.fail(f"expected ':' after a key, got {self.describe()}")
            items[key] = self.value(depth)
        return items

    def _open(self) -> str:
        closing = _CLOSING[self.text[self.position]]
        self.position += 1
        return closing

    def _comma(self, closing: str) -> None:
        if not self.take(','):
            self.fail(f"expected ',' or {closing!r}, got {self.describe()}")

    def _string(self) -> str:
        start = self.position
        single = self.match(_SINGLE_QUOTED)
        if single is not None:
            return single[1]
        double = self.match(_DOUBLE_QUOTED)
        if double is None:
            self.fail('a string without an end, or with a control character or backslash')
        try:
            return str(json.loads(double[0]))
        except ValueError:
            self.fail('a string with an escape that JSON does not have', start)


def check_list(value: Any, where: str, what: str) -> Sequence[Any]:
    """Returns `value` if it is a list or tuple of at most `MAX_ITEMS`.

    Raises:
        ValueError: It is not; the message names `where` and says that a list of `what` is wanted.
    """
    if not isinstance(value, (list, tuple)):
        raise ValueError(f'{where} must be a list of {what}, got {abbreviate(value)}')
    if len(value) > MAX_ITEMS:
        raise ValueError(f'{where} has {len(value)} entries, at most {MAX_ITEMS} are read')
    return value


def check_keys(fields: Mapping[Any, Any], where: str, wanted: Sequence[str], allowed: Sequence[str]) -> None:
    """Raises ValueError for a key of a mapping that is unknown or missing."""
    prefix = f'{where}: ' if where else ''
    unknown = [key for key in fields if key not in allowed]
    if unknown:
        raise ValueError(f'{prefix}unknown key {abbreviate(unknown[0])}, allowed are {", ".join(allowed)}')
    missing = [key for key in wanted if key not in fields]
    if missing:
        raise ValueError(f'{prefix}key {missing[0]!r} is missing')


def number(text: str, decimal: bool) -> int | float:
    """Reads a number that stands alone, a whole one unless `decimal`.

    Raises:
        ValueError: The text is something else, or negative, or absurdly long.
    """
    if decimal and _DECIMAL.fullmatch(text):
        return float(text)
    if not decimal and _INTEGER.fullmatch(text):
        return int(text)
    raise ValueError(f'must be {"a number" if decimal else "a whole number"}, got {abbreviate(text)}')


def call_at(where: str, make: Callable[..., _Made], *args: Any) -> _Made:
    """Calls ``make(*args)`` and puts `where` in front of a ValueError's message."""
    try:
        return make(*args)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from None


def abbreviate(value: object) -> str:
    """A short text of anything, for messages; large values are not walked through."""
    return reprlib.repr(value)
