"""What MMEngine logged of a training: its losses and the metrics of its validations, in bounded memory."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from mmnas_ext.reports.distill_log import find_logs
from mmnas_ext.reports.series import JsonLines, Series

USUAL = ('coco/bbox_mAP', 'pascal_voc/mAP', 'mIoU', 'accuracy/top1')
"""What detectors, segmentors and classifiers of OpenMMLab are ranked by."""

# MMEngine's LoggerHook writes one record per interval of training and one per validation; this tells them apart
_TRAINING = frozenset(('loss', 'lr', 'base_lr'))
# what a validation's record holds beside metrics
_BESIDE = frozenset(('step', 'epoch', 'iter', 'time', 'data_time', 'memory'))
_LOSSES = ('loss', 'arch_loss')

Rows = list[tuple[int, float]]


@dataclass(frozen=True)
class TrainingLog:
    """A training as its log tells of it.

    Args:
        losses: ``loss``, and of a search ``arch_loss``, as rows of iteration and value, thinned.
        metrics: By name, rows of step and value: a validation's step is an epoch, of trainings by iterations an
            iteration.
        last: Metrics of the last validation, by name.
        epoch: The last one that was logged, counted from 1; ``None`` where iterations are counted alone.
        iteration: The last one that was logged.
    """

    losses: Mapping[str, Rows] = field(default_factory=dict)
    metrics: Mapping[str, Rows] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)
    epoch: int | None = None
    iteration: int = 0

    @property
    def main(self) -> str | None:
        """The metric that networks are compared by: the usual one of the task, or the first that was logged."""
        return main_metric(self.last)


def main_metric(names: Any) -> str | None:
    """The metric by which a task's networks are compared, of those that there are; ``None`` if there are none."""
    return usual_metric(names) or next(iter(names), None)


def usual_metric(names: Any) -> str | None:
    """The usual metric of a task, of which more is better, among those that there are; ``None`` if there is none."""
    short = {name.rpartition('/')[2]: name for name in names}
    return next((name for each in USUAL for name in (each, short.get(each.rpartition('/')[2])) if name in names), None)


def read_training(folder: str | Path) -> TrainingLog:
    """Reads the logs of a training's work dir, ``<timestamp>/vis_data/scalars.json``; empty where there are none."""
    losses: defaultdict[str, Series[float]] = defaultdict(Series)
    metrics: defaultdict[str, Series[float]] = defaultdict(Series)
    last: dict[str, float] = {}
    epoch: int | None = None
    iteration = 0
    for record in _records(Path(folder)):
        step = record.get('iter', record.get('step'))
        if not isinstance(step, int) or not 0 <= step < 2**63:
            continue
        if not _TRAINING.isdisjoint(record):
            iteration = step
            epoch = record['epoch'] if isinstance(record.get('epoch'), int) else epoch
            for name in _LOSSES:
                if _is_number(record.get(name)):
                    losses[name].add(step, float(record[name]))
            continue
        if not is_validation(record):
            continue
        found = {name: float(value) for name, value in validated(record).items() if _is_number(value)}
        last = found
        for name, value in found.items():
            metrics[name].add(record.get('step', step), value)
    rows = [{name: series.rows() for name, series in each.items()} for each in (losses, metrics)]
    return TrainingLog(rows[0], rows[1], last, epoch, iteration)


def is_validation(record: Mapping[str, Any]) -> bool:
    """Whether a record is that of a validation, also of one that gave no metric, as where nothing is detected."""
    return bool(validated(record)) or ('data_time' in record and _TRAINING.isdisjoint(record))


def validated(record: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a validation's record; empty where it is one of the training or of a search's monitor."""
    if not _TRAINING.isdisjoint(record):
        return {}
    return {name: value for name, value in record.items() if name not in _BESIDE and not name.startswith('search/')}


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for _, record in JsonLines(*find_logs(folder)):
        if isinstance(record, dict):
            yield record


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
