"""Losses of a block-wise distillation, read from the logs that MMEngine writes."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmnas_ext.reports.blockwise import checked

_LOSS = re.compile(r'loss_block(\d+)')


@dataclass(frozen=True)
class DistillLog:
    """Distillation losses by rising step, and what was left out to get them.

    Args:
        losses: Per block, by its index, pairs of step and loss; at least one block with at least one pair.
        unreadable: Lines that were no complete JSON, such as the last one of a killed run.
        repeated: Losses of steps that a resumed run made again, or has yet to.
    """

    losses: Mapping[int, tuple[tuple[int, float], ...]]
    unreadable: int = 0
    repeated: int = 0


def read_losses(source: str | Path | Iterable[Mapping[str, Any]]) -> DistillLog:
    """Reads the distillation losses of a run.

    A block's step that does not rise tells of a resumed run: what was logged from that step on did not lead to the
    weights that there are, and is left out.

    Args:
        source: The work dir, whose logs are ``<timestamp>/vis_data/scalars.json``, or one such file, or the records of
            such files, oldest first.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: No record holds a distillation loss, or one is not of the form.
    """
    if isinstance(source, (str, Path)):
        place = str(source)
        files = _logs(Path(source))
        if not files:
            raise FileNotFoundError(f'no log at {place}: training writes <timestamp>/vis_data/scalars.json')
        lines = [line for file in files for line in _lines(file)]
    else:
        place = 'records'
        lines = [(f'record {number}', record) for number, record in enumerate(source)]
    kept: dict[int, list[tuple[int, float]]] = {}
    repeated = 0
    for where, record in lines:
        losses = _block_losses(record, where)
        step = _step(record, where) if losses else 0
        for block, loss in losses.items():
            rows = kept.setdefault(block, [])
            while rows and rows[-1][0] >= step:
                rows.pop()
                repeated += 1
            rows.append((step, loss))
    if not kept:
        raise ValueError(f'{place}: no record has a loss_block<n>, so none is of a block-wise distillation')
    unreadable = sum(record is None for _, record in lines)
    return DistillLog({block: tuple(kept[block]) for block in sorted(kept)}, unreadable, repeated)


def has_losses(work_dir: str | Path) -> bool:
    """Whether a log in the work dir holds distillation losses."""
    return any(_block_losses(record, where) for file in _logs(Path(work_dir)) for where, record in _lines(file))


def _logs(source: Path) -> list[Path]:
    """Log files, oldest first: MMEngine names a run's folder by its time."""
    return [source] if source.is_file() else sorted(source.glob('*/vis_data/scalars.json'))


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Place and content of each line; ``None`` for one that is no complete JSON."""
    for number, line in enumerate(file.read_bytes().split(b'\n'), start=1):
        if not line.strip():
            continue
        try:
            yield f'{file} line {number}', json.loads(line.decode('utf-8', errors='replace'))
        # a kill cuts the last line short
        except (json.JSONDecodeError, RecursionError):
            yield f'{file} line {number}', None


def _block_losses(record: Any, where: str) -> dict[int, float]:
    """Losses by block; empty where the record is a validation's, or no record at all."""
    if not isinstance(record, Mapping):
        return {}
    found = {}
    for name, value in record.items():
        match = _LOSS.fullmatch(name)
        if match:
            # a loss that is no number any more is logged as NaN: it is drawn as a gap
            found[int(match[1])] = float(checked(value, float, f'{where}: {name}', finite=False))
    return found


def _step(record: Mapping[str, Any], where: str) -> int:
    for name in ('step', 'iter'):
        if name in record:
            return int(checked(record[name], int, f'{where}: {name}'))
    raise ValueError(f'{where}: the record has neither step nor iter')
