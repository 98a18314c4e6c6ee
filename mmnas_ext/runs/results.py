"""What a finished run measured, read back from its files."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmnas_ext.archs import ArchSpec, cost
from mmnas_ext.archs.json_file import parse_lines
from mmnas_ext.reports import front_table
from mmnas_ext.reports.distill_log import find_logs
from mmnas_ext.reports.training_log import is_validation, validated
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.workdir import WorkDir, write_text


def logged_scalars(work_dir: str | Path) -> Iterator[dict[str, float]]:
    """Yields what a run's second half has logged, oldest first; a line that is no record is passed over."""
    return _scalars(WorkDir(Path(work_dir)).adapt)


def _scalars(folder: Path) -> Iterator[dict[str, float]]:
    for path in find_logs(folder):
        yield from (record for record in parse_lines(path) if isinstance(record, dict))


def last_metrics(work_dir: str | Path) -> dict[str, float]:
    """Metrics of the last validation in a run's second half, by name; empty if there was none yet."""
    return trained_metrics(WorkDir(Path(work_dir)).adapt)


def trained_metrics(folder: Path) -> dict[str, float]:
    """Metrics of the last validation in the work dir of a training, by name; empty if there was none yet.

    A validation that gave none, as where nothing is detected, has none: what came before it is not its.
    """
    found: dict[str, float] = {}
    for record in _scalars(folder):
        found = validated(record) if is_validation(record) else found
    return found


def describe_front(work_dir: str | Path) -> str:
    """The measured networks of a search as a table; empty where none was measured."""
    front = MeasuredFront.find(work_dir)
    table = '' if front is None else front_table(front, networks=False)
    return table and f'the front, of which --pick K trains network K:\n{table}'


def result_row(
    title: str, work_dir: str | Path, size: tuple[int, int], names: Sequence[str], output_stride: int = 32
) -> dict[str, Any]:
    """One row of a comparison table: the trained network's costs and metrics.

    Args:
        title: Name of the row.
        work_dir: The run's.
        size: Height and width at which multiply-adds are counted.
        names: Metrics to keep, as MMEngine names them. One that the validation did not give is left out:
            MMDetection gives none where nothing was detected.
        output_stride: Of the backbone, as in `cost`.
    """
    metrics = last_metrics(work_dir)
    macs, params = cost(ArchSpec.parse(WorkDir(Path(work_dir)).arch), size, output_stride)
    kept = {name.rpartition('/')[2]: metrics[name] for name in names if name in metrics}
    return dict(network=title, macs=macs, params=params, metrics=kept)


def write_results(work_dir: str | Path, rows: list[dict[str, Any]], size: tuple[int, int]) -> None:
    """Writes ``results.json``, which the report of a search shows."""
    text = json.dumps({'rows': rows, 'input_size': list(size)}, indent=2)
    write_text(WorkDir(Path(work_dir)).results, text)
