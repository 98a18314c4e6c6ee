"""Logs of any length in bounded memory: their lines one by one, and of a series of values evenly chosen ones."""

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

# values kept at most; a line has more points than a figure has pixels otherwise
LIMIT = 2000

Value = TypeVar('Value')


class JsonLines:
    """Iterates over the lines of files, a JSON value each: pairs of a place, for messages, and the value.

    A kill cuts the last line short, and a resumed run then goes on behind the stump: so a line that is not complete
    may stand anywhere. It is passed over, and counted in `unreadable`.
    """

    def __init__(self, *files: Path) -> None:
        self.files = files
        self.unreadable = 0

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for file in self.files:
            with file.open('rb') as lines:
                for number, line in enumerate(lines, start=1):
                    if not line.strip():
                        continue
                    try:
                        value = json.loads(line.decode('utf-8', errors='replace'))
                    except (ValueError, RecursionError):  # a number of too many digits is no JSONDecodeError
                        self.unreadable += 1
                        continue
                    yield f'{file} line {number}', value


class Series(Generic[Value]):
    """Values by rising step, thinned while they come.

    A step that does not rise tells of a resumed run: what was logged from that step on did not lead to the weights
    that there are, and is dropped, and counted in `repeated`. Every `stride`-th value is kept, and the last.
    """

    def __init__(self) -> None:
        self.repeated = 0
        self.stride = 1
        self._steps = array('q')
        self._kept: dict[int, Value] = {}
        self._last: list[Value] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, value: Value) -> int:
        """Adds a value; returns its place among all that were added and not dropped."""
        if not 0 <= step < 2**63:
            raise ValueError(f'a step must lie in 0..2**63 - 1, got {step}')
        place = bisect_left(self._steps, step)
        if place < len(self._steps):
            self.repeated += len(self._steps) - place
            del self._steps[place:]
            self._kept = {each: kept for each, kept in self._kept.items() if each < place}
        self._steps.append(step)
        self._last = [value]
        if place % self.stride == 0:
            self._kept[place] = value
        if len(self._kept) >= LIMIT:
            self.stride *= 2
            self._kept = {each: kept for each, kept in self._kept.items() if each % self.stride == 0}
        return place

    def rows(self) -> list[tuple[int, Value]]:
        """Steps and values that were kept, by rising step."""
        rows = [(self._steps[place], value) for place, value in self._kept.items()]
        return rows if len(self) - 1 in self._kept else rows + [(self._steps[-1], value) for value in self._last]
