"""Losses of a block-wise distillation, read from the logs that MMEngine writes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from mmnas_ext.reports.series import JsonLines, Series
from mmnas_ext.search.fields import check_kind, take

_LOSS = re.compile(r'loss_block(\d+)')


@dataclass(frozen=True)
class DistillLog:
    """Distillation losses by rising step, and what was left out to get them.

    Args:
        losses: Per block, by its index, pairs of step and loss; at least one block with at least one pair. Of a long
            log evenly chosen ones, the first and the last among them.
        stride: Every which loss is kept.
        unreadable: Lines that are not complete JSON, such as the last one of a killed run.
        repeated: Losses of steps that a resumed run made again, or has yet to.
    """

    losses: Mapping[int, tuple[tuple[int, float], ...]]
    stride: int = 1
    unreadable: int = 0
    repeated: int = 0


def read_losses(source: str | Path | Iterable[Mapping[str, Any]]) -> DistillLog:
    """Reads the distillation losses of a run, in memory that does not grow with its records.

    Args:
        source: The work dir, whose logs are ``<timestamp>/vis_data/scalars.json``, or one such file, or the records of
            such files, oldest first.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: No record holds a distillation loss, or one is not of the form.
    """
    if isinstance(source, (str, Path)) and not find_logs(Path(source)):
        raise FileNotFoundError(f'no log at {source}: training writes <timestamp>/vis_data/scalars.json')
    log = find_losses(source)
    if log is None:
        place = source if isinstance(source, (str, Path)) else 'records'
        raise ValueError(f'{place}: no record has a loss_block<n>, so none is of a block-wise distillation')
    return log


def find_losses(source: str | Path | Iterable[Mapping[str, Any]]) -> DistillLog | None:
    """As `read_losses`; ``None`` where no record holds a distillation loss."""
    lines = JsonLines(*(find_logs(Path(source)) if isinstance(source, (str, Path)) else ()))
    records = () if isinstance(source, (str, Path)) else ((f'record {i}', record) for i, record in enumerate(source))
    kept: dict[int, Series[float]] = {}
    for where, record in chain(lines, records):
        losses = _block_losses(record, where)
        step = _step(record, where) if losses else 0
        for block, loss in losses.items():
            kept.setdefault(block, Series()).add(step, loss)
    if not kept:
        return None
    return DistillLog(
        {block: tuple(kept[block].rows()) for block in sorted(kept)},
        max(series.stride for series in kept.values()),
        lines.unreadable,
        sum(series.repeated for series in kept.values()),
    )


def has_losses(work_dir: str | Path) -> bool:
    """Whether a log in the work dir holds distillation losses."""
    return any(_block_losses(record, where) for where, record in JsonLines(*find_logs(Path(work_dir))))


def find_logs(source: Path) -> list[Path]:
    """MMEngine's log files, oldest first: a run's folder is named by its time."""
    return [source] if source.is_file() else sorted(source.glob('*/vis_data/scalars.json'))


def _block_losses(record: Any, where: str) -> dict[int, float]:
    """Losses by block; empty where the record is a validation's, or no record at all."""
    if not isinstance(record, Mapping):
        return {}
    found = {}
    for name, value in record.items():
        match = _LOSS.fullmatch(name)
        if match:
            # a loss that is NaN or infinite is drawn as a gap
            found[int(match[1])] = float(check_kind(value, float, f'{where}: {name}', finite=False))
    return found


def _step(record: Mapping[str, Any], where: str) -> int:
    for name in ('step', 'iter'):
        if name in record:
            return int(take(record, name, int, where))
    raise ValueError(f'{where}: the record has neither step nor iter')
