"""Figures that are written down piece by piece as they are found, so that a killed run does not find them again."""

import json
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, barrier, get_rank

from mmnas_ext.archs.json_file import parse_lines
from mmnas_ext.workdir import append_line


class Pieces:
    """Figures by piece, on disk: a line each, in a file per process.

    Args:
        folder: Where the files lie; it is made if it is missing.
        key: What the figures follow from: those of another key are not seen.

    Attributes:
        done: Figures of the pieces that are there, by name; of all processes when this was made.
    """

    def __init__(self, folder: Path, key: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f'{key}_{get_rank()}.jsonl'
        self.done: dict[str, list[float]] = {}
        # not by glob, which keeps every pattern that it has seen: a rating has a key of its own
        for file in sorted(file for file in folder.iterdir() if file.match('*.jsonl') and _key(file) == key):
            for row in parse_lines(file):
                if isinstance(row, dict) and isinstance(row.get('piece'), str) and _is_rated(row.get('ratings')):
                    self.done[row['piece']] = row['ratings']
        barrier()  # all have looked before one writes

    def add(self, name: str, ratings: list[float]) -> None:
        """Writes down the figures of a piece."""
        self.done[name] = ratings
        append_line(self.file, json.dumps({'piece': name, 'ratings': ratings}))

    def gather(self) -> dict[str, list[float]]:
        """Pieces of all processes, the same on each."""
        everything: dict[str, list[float]] = {}
        for each in all_gather_object(self.done):
            everything.update(each)
        return everything


def _key(file: Path) -> str:
    return file.stem.rpartition('_')[0]


def _is_rated(ratings: Any) -> bool:
    return isinstance(ratings, list) and all(isinstance(each, int | float) for each in ratings)
