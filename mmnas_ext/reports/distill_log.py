"""Losses of a block-wise distillation, read from the logs that MMEngine writes."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmnas_ext.reports.series import JsonLines, Series
from mmnas_ext.search.fields import check_kind, take

_PREFIX = 'loss_block'
_LOSS = re.compile(rf'{_PREFIX}\d+')


class DistillLog(NamedTuple):
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


def find_losses(source: str | Path) -> DistillLog | None:
    """Reads the distillation losses of a work dir or of one of its logs; ``None`` where no record holds one.

    Raises:
        ValueError: A record is not of the form.
    """
    lines = JsonLines(*find_logs(Path(source)))
    log = collect_losses(lines)
    return log and log._replace(unreadable=lines.unreadable)


def collect_losses(records: Iterable[tuple[Any, Any]]) -> DistillLog | None:
    """Collects the losses of records, oldest first, each with its place for messages; ``None`` if there are none."""
    kept: defaultdict[int, Series[float]] = defaultdict(Series)
    for where, record in records:
        losses = _block_losses(record, where)
        step = _step(record, where) if losses else 0
        for block, loss in losses.items():
            kept[block].add(step, loss)
    if not kept:
        return None
    rows = {block: tuple(kept[block].rows()) for block in sorted(kept)}
    stride, repeated = max(each.stride for each in kept.values()), sum(each.repeated for each in kept.values())
    return DistillLog(rows, stride, repeated=repeated)


def has_losses(work_dir: str | Path) -> bool:
    """Whether a log in the work dir holds distillation losses."""
    return any(_block_losses(record, where) for where, record in JsonLines(*find_logs(Path(work_dir))))


def find_logs(source: Path) -> list[Path]:
    """MMEngine's log files, oldest first: a run's folder is named by its time."""
    return [source] if source.is_file() else sorted(source.glob('*/vis_data/scalars.json'))


def _block_losses(record: Any, where: str) -> dict[int, float]:
    """Losses by block; empty where the record is a validation's, or no record at all."""
    names = [name for name in (record if isinstance(record, Mapping) else ()) if _LOSS.fullmatch(name)]
    # a loss that is NaN or infinite is drawn as a gap
    return {
        int(name.removeprefix(_PREFIX)): float(check_kind(record[name], float, f'{where}: {name}', finite=False))
        for name in names
    }


def _step(record: Mapping[str, Any], where: str) -> int:
    name = next((name for name in ('step', 'iter') if name in record), None)
    if name is None:
        raise ValueError(f'{where}: the record has neither step nor iter')
    return int(take(record, name, int, where))
