"""The trials of a random search as their files say, and their table."""

from pathlib import Path
from typing import Any, NamedTuple

from mmnas_ext.archs import ArchSpec
from mmnas_ext.archs.literal import call_at
from mmnas_ext.reports.table import format_cost, format_count, metric_column, name_metric
from mmnas_ext.search.fields import check_kind, read_object, take
from mmnas_ext.workdir import WorkDir

_GUESSES = ('macs', 'params')


class Trial(NamedTuple):
    """What the trial of one network gave; `cost` is in the limit's metric, and a figure that was NaN is ``None``."""

    number: int
    arch: ArchSpec
    macs: float
    params: float
    cost: float
    metrics: dict[str, float | None]
    failure: str
    minutes: float

    def reached(self, metric: str) -> float | None:
        """What it reached in a metric, ``None`` where it failed or has no such figure."""
        return None if self.failure else self.metrics.get(metric)


class Trials(NamedTuple):
    """The trials of a search that have ended, best first, those without a rank last.

    Args:
        rows: At least one trial.
        rank_by: The metric that ranks them.
        metric: What their `cost` is.
        guessed: Whether the files do not say what ranks them.
    """

    rows: tuple[Trial, ...]
    rank_by: str
    metric: str
    guessed: bool = False

    @property
    def successes(self) -> tuple[Trial, ...]:
        """Those that have a rank."""
        return tuple(row for row in self.rows if row.reached(self.rank_by) is not None)


def read_trials(
    work_dir: str | Path, rank_by: str | None = None, rule: str = 'greater', metric: str | None = None
) -> Trials | None:
    """Reads the trials of a random search that have ended; ``None`` if none has.

    Args:
        work_dir: The search's, with ``trials/<nn>/result.json``.
        rank_by: The metric that ranks; by default the first that a trial gave.
        rule: Whether a ``'greater'`` or a ``'less'`` one is better.
        metric: What the trials' `cost` is; by default the one that it equals.

    Raises:
        ValueError: A file is not the result of a trial.
    """
    files = sorted(WorkDir(Path(work_dir)).trials.glob('*/result.json'))
    trials = [_trial(read_object(file), str(file)) for file in files]
    if not trials:
        return None
    names = [name for trial in trials for name in trial.metrics]
    name = rank_by or (names[0] if names else 'no metric')
    equal = [guess for guess in _GUESSES if all(getattr(trial, guess) == trial.cost for trial in trials)]
    sign = -1 if rule == 'greater' else 1

    def key(trial: Trial) -> tuple[bool, float, int]:
        value = trial.reached(name)
        return value is None, sign * (value or 0.0), trial.number

    return Trials(tuple(sorted(trials, key=key)), name, metric or (*equal, 'latency')[0], guessed=rank_by is None)


def trials_cells(trials: Trials) -> list[list[str]]:
    """Head and rows of the table of all trials."""
    names = dict.fromkeys([trials.rank_by, *sorted(name for row in trials.rows for name in row.metrics)])
    columns = [['trial', *(f'{row.number:02d}' for row in trials.rows)]]
    if trials.metric not in _GUESSES:
        costs = [format_cost(trials.metric, row.cost) for row in trials.rows]
        columns.append([name_metric(trials.metric), *costs])
    columns.append(['MAdds', *(format_count(row.macs) for row in trials.rows)])
    columns.append(['parameters', *(format_count(row.params) for row in trials.rows)])
    columns += [[name, *metric_column([row.metrics.get(name) for row in trials.rows])] for name in names]
    columns.append(['minutes', *(f'{row.minutes:.1f}' for row in trials.rows)])
    failures = [
        row.failure or (f'no finite {trials.rank_by}' if row.reached(trials.rank_by) is None else '')
        for row in trials.rows
    ]
    columns += [['failed', *failures]] if any(failures) else []
    return [list(row) for row in zip(*columns, strict=True)]


def _trial(content: dict[str, Any], where: str) -> Trial:
    metrics = take(content, 'metrics', dict, where)
    for name, value in metrics.items():
        if value is not None:
            check_kind(value, float, f'{where}: metrics: {name}')
    macs, params, cost, seconds = (take(content, name, float, where) for name in ('macs', 'params', 'cost', 'seconds'))
    arch = call_at(f'{where}: arch', ArchSpec.parse, take(content, 'arch', str, where))
    index, failure = take(content, 'index', int, where), take(content, 'failure', str, where)
    return Trial(index, arch, macs, params, cost, metrics, failure, seconds / 60)
