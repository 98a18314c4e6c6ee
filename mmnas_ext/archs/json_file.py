"""Reads JSON of files and texts that anyone may have written, with bounds on size and depth. Standard library only."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 2**28  # ratings of a large space take some 10 MB, a log of a long search some 100
MAX_DEPTH = 64


def parse_json(text: str) -> Any:
    """Returns what a JSON text holds.

    Args:
        text: The text; a byte-order mark before it is passed over.

    Raises:
        ValueError: It is not JSON, has a key twice in one object, or brackets nested deeper than `MAX_DEPTH`.
    """
    try:
        value = json.loads(text.removeprefix('\ufeff'), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f'brackets are nested deeper than {MAX_DEPTH}') from None
    except ValueError as error:
        raise ValueError(f'the text is not JSON: {error}') from None
    _check_depth(value)
    return value


def parse_lines(path: str | Path) -> Iterator[Any]:
    """Yields what the lines of a file hold, a JSON value each.

    A line that is no JSON is passed over: a kill cuts the last one short, and a resumed run goes on behind it.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with Path(path).open(encoding='utf-8', errors='replace') as lines:
        for line in lines:
            try:
                yield parse_json(line)
            except ValueError:
                continue


def read_json(path: str | Path, most: int = MAX_BYTES) -> Any:
    """Returns what a JSON file holds.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is larger, not UTF-8, not JSON, has a key twice or is nested too deep; the message names it.
    """
    size = Path(path).stat().st_size
    if size > most:
        raise ValueError(f'{path}: the file is too large, {size} bytes; {most} are read')
    try:
        return parse_json(Path(path).read_text(encoding='utf-8'))
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: the text is not JSON: {error}') from None
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None


def _object(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f'key {twice[:40]!r} stands twice in one object')
    return found


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f'brackets are nested deeper than {MAX_DEPTH}')
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
