"""Logs of any length in bounded memory: their lines one by one, and of a series of values evenly chosen ones."""

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

# values kept at most; a line has more points than a figure has pixels otherwise
LIMIT = 2000
# steps of the newest values that are held at least: half a megabyte, and hours of any training
RECENT = 1 << 16

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
    """Values by rising step, thinned while they come, in memory that does not grow with their number.

    A step that does not rise tells of a resumed run: what was logged from that step on did not lead to the weights
    that there are, and is dropped, and counted in `repeated`. Every `stride`-th value is kept, and the last.

    Where more than `RECENT` values are dropped at once, the first of them is known to `stride` values alone: up to as
    many earlier ones are then dropped, and counted, with them.
    """

    def __init__(self) -> None:
        self.repeated = 0
        self.stride = 1
        # steps of the values from place `_first` on, and by place every value that is kept
        self._first = 0
        self._recent = array('q')
        self._kept: dict[int, tuple[int, Value]] = {}
        self._last: list[tuple[int, Value]] = []

    def __len__(self) -> int:
        return self._first + len(self._recent)

    def add(self, step: int, value: Value) -> int:
        """Adds a value; returns its place among all that were added and not dropped."""
        if not 0 <= step < 2**63:
            raise ValueError(f'a step must lie in 0..2**63 - 1, got {step}')
        place = self._place(step)
        if place < len(self):
            self._drop(place)
        self._recent.append(step)
        if len(self._recent) >= 2 * RECENT:
            del self._recent[:RECENT]
            self._first += RECENT
        self._last = [(step, value)]
        if place % self.stride == 0:
            self._kept[place] = (step, value)
        if len(self._kept) >= LIMIT:
            self.stride *= 2
            self._kept = {each: kept for each, kept in self._kept.items() if each % self.stride == 0}
        return place

    def rows(self) -> list[tuple[int, Value]]:
        """Steps and values that were kept, by rising step."""
        rows = [*self._kept.values()]
        return rows if len(self) - 1 in self._kept else rows + self._last

    def _place(self, step: int) -> int:
        """The first place whose step is not less."""
        if not self._first or step >= self._recent[0]:
            return self._first + bisect_left(self._recent, step)
        return 1 + max((place for place, (known, _) in self._kept.items() if known < step), default=-1)

    def _drop(self, place: int) -> None:
        """Drops all values from a place on."""
        self.repeated += len(self) - place
        self._kept = {each: kept for each, kept in self._kept.items() if each < place}
        if place < self._first:
            self._first, self._recent = place, array('q')
        else:
            del self._recent[place - self._first :]
