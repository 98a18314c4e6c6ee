"""Figures and networks side by side as text; all that reports know of a metric."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmnas_ext.archs import METRICS, Limit
from mmnas_ext.search.fields import check_kind, take

_UNITS = ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k'))
_MISSING = '\N{EN DASH}'


def format_count(value: float, digits: int = 4) -> str:
    """Significant digits and a decimal unit: 4823403200 is ``4.823 G``, 2055712 is ``2.056 M``.

    Raises:
        ValueError: `value` is negative or not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float('inf'):
        raise ValueError(f'a count must be a finite number of at least 0, got {value!r}')
    # 999 960 000 would print as 1000.0 M: what rounds up to the next unit belongs to it.
    rounded = float(f'{value:.{digits}g}')
    for size, unit in _UNITS:
        if rounded >= size:
            whole = len(str(int(rounded / size)))
            return f'{rounded / size:.{max(0, digits - whole)}f} {unit}'
    return f'{rounded:g}'


def format_size(size: tuple[int, int]) -> str:
    """Height and width with a multiplication sign between them."""
    return f'{size[0]}\N{MULTIPLICATION SIGN}{size[1]}'


class Scale(NamedTuple):
    """What one tick of an axis counts, and how the axis is named."""

    size: float
    name: str


def name_metric(metric: str) -> str:
    """What a cost is called: ``MAdds``, ``parameters``, ``latency``."""
    return METRICS[metric].title if metric in METRICS else metric


def format_cost(metric: str, value: float) -> str:
    """A cost with its unit: what is counted in four digits, what is measured in three."""
    if metric in METRICS and METRICS[metric].measured:
        return f'{value:.3g} {METRICS[metric].unit.name}'
    return format_count(value)


def format_limit(metric: str, limit: Limit) -> str:
    """A limit with its unit: the most alone, ``at least`` the least, or both."""
    least, most = (None if bound is None else format_cost(metric, bound) for bound in limit)
    if least is None:
        return most or _MISSING
    return f'at least {least}' if most is None else f'{least} to {most}'


def cost_scale(metric: str, largest: float) -> Scale:
    """The unit in which costs up to `largest` of a metric read well."""
    if metric not in METRICS:
        return Scale(1.0, metric)
    unit, small = METRICS[metric].unit, METRICS[metric].small
    if small is not None and largest < 2 * unit.size:
        return Scale(*small)
    return Scale(unit.size, unit.name)


def table_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and rows as texts, of ``{'network': str, 'macs': int, 'params': int, 'metrics': {name: float}}`` each.

    ``metrics`` may be absent. Their columns come in the order in which the rows first name them; a network without a
    metric gets a dash.

    Raises:
        ValueError: There are no rows, or one is not of that form.
    """
    if not rows:
        raise ValueError('rows must hold at least one network, got none')
    for index, row in enumerate(rows):
        _check(row, f'row {index}')
    names = list(dict.fromkeys(name for row in rows for name in row.get('metrics', {})))
    columns = [[name, *metric_column([row.get('metrics', {}).get(name) for row in rows])] for name in names]
    cells = [['network', 'MAdds', 'parameters', *(column[0] for column in columns)]]
    for index, row in enumerate(rows, start=1):
        counts = [format_count(row['macs']), format_count(row['params'])]
        cells.append([row['network'], *counts, *(column[index] for column in columns)])
    return cells


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes the rows of `table_cells` as a Markdown table that also reads as plain text; raises as that."""
    return format_cells(table_cells(rows))


def format_cells(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of texts, the first row its head, the first column to the left and the others to the right."""
    cells = [[' '.join(cell.split()).replace('|', '\\|') for cell in row] for row in rows]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(cells[0]))]
    sides = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    lines = [[side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)] for row in cells]
    rule = [('-' * width) if column == 0 else '-' * (width - 1) + ':' for column, width in enumerate(widths)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in (lines[0], rule, *lines[1:]))


def metric_column(values: Sequence[float | None]) -> list[str]:
    """Figures of one metric as texts; a dash where there is none."""
    # Metrics come as fractions (MMDetection's mAP) or in percent (MMSegmentation's mIoU): one precision per column.
    digits = 3 if all(abs(value) <= 1 for value in values if value is not None) else 2
    return [_MISSING if value is None else f'{value:.{digits}f}' for value in values]


def _check(row: Any, where: str) -> None:
    where = f'{where} ({take(row, "network", str, where)})'
    for name in ('macs', 'params'):
        if not take(row, name, float, where) >= 0:
            raise ValueError(f'{where}: {name} must be at least 0, got {row[name]}')
    for name, value in (take(row, 'metrics', dict, where) if 'metrics' in row else {}).items():
        check_kind(value, float, f'{where}: metrics: {name}', finite=False)
