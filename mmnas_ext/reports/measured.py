"""Figure and table of measured networks along a cost: the front that a search hands over."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from matplotlib.figure import Figure

from mmnas_ext.archs import Limit
from mmnas_ext.reports import canvas as c
from mmnas_ext.reports.canvas import Label
from mmnas_ext.reports.palette import ACCENT, FOUND, INK, PAPER, RULE, SEED
from mmnas_ext.reports.table import cost_scale, format_cells, format_cost, format_limit, metric_column, name_metric
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork

_Kind = TypeVar('_Kind')
_SCORE = 'score'
_TRAINED = ', trained'  # behind a metric, of what networks reached that were trained
_SEED: c.Style = {'linestyle': '', 'marker': 's', 'markersize': 10, 'color': SEED, 'markeredgecolor': INK, 'zorder': 4}
_RING: c.Style = {
    'linestyle': '', 'marker': 'o', 'markersize': 17, 'markerfacecolor': 'none', 'color': ACCENT, 'markeredgewidth': 2,
    'zorder': 4,
}  # fmt: skip


class _Point(NamedTuple):
    """A network in the figure, in the units of the axes; the seed has no number."""

    number: int | None
    network: MeasuredNetwork
    x: float
    y: float


def draw_measured(front: str | Path | MeasuredFront, out: str | Path) -> Path:
    """Draws `measured_figure` of a front, its file or work dir into a file, and returns that; raises as its `parse`."""
    return c.save(measured_figure(front if isinstance(front, MeasuredFront) else MeasuredFront.parse(front)), out)


def measured_figure(front: MeasuredFront) -> Figure:
    """Shows what networks reach over what they cost: each with its number, the chosen one ringed, the seed, the limit.

    A network that could not be measured is left out; where that holds for all, their scores are shown instead. The axes
    are labelled ``measured``; artists have the gids ``points``, ``best``, ``chosen``, ``seed`` and ``limit``.
    """
    scale = cost_scale(front.metric, max(_reach(front)))
    name = front.rank_by if any(front.rank_by in network.metrics for network in front.networks) else _SCORE
    sign = front.sign if name == front.rank_by else -1
    points = []
    for number, network in front.numbered:
        height = network.metrics.get(name) if name == front.rank_by else network.score
        if height is not None:
            points.append(_Point(number, network, network.costs[front.metric] / scale.size, height))
    lost = len(front.networks) - len(points)
    note = f'{len(front.points)} networks of one search' + (f'; {lost} of all not measured' if lost else '')
    limits = [f'{format_limit(metric, limit)} {name_metric(metric)}' for metric, limit in front.limits.items()]
    note += f'; limits: {", ".join(limits)}' if len(limits) > 1 else ''
    up = f'{name} ({"higher" if sign == 1 else "lower"} is better)'
    figure, axes = c.plot('measured', 'What networks reach at their cost', note, scale.name, up)
    shown = [point for point in points if point.number is not None]
    best = undominated(shown, sign, lambda point: (point.x, point.y))
    axes.plot(*_columns(best), drawstyle='steps-post', color=RULE, linewidth=1.6, zorder=2, gid='best')
    axes.scatter(*_columns(shown), s=62, color=FOUND, edgecolor=PAPER, zorder=5, gid='points')
    bounds = [bound / scale.size for bound in front.limits.get(front.metric, Limit()) if bound is not None]
    reach = [cost / scale.size for cost in _reach(front)]
    wide = max(reach) - min(reach) or max(reach) or 1.0
    axes.set_xlim(min(reach) - 0.06 * wide, max(reach) + 0.06 * wide)
    axes.margins(y=0.14)
    for bound in bounds:
        c.draw_limit(axes, format_cost(front.metric, bound * scale.size), bound)
    for point in points:
        if point.network.origin in ('seed', 'chosen'):
            style = _SEED if point.network.origin == 'seed' else _RING
            axes.plot([point.x], [point.y], gid=point.network.origin, **style)
    places = [(point.x, point.y) for point in points]
    across, up_to = (np.array(column) for column in _columns(best))
    stairs = c.along_stairs(axes, across, up_to, bounds) if best else []
    labels = [_label(front, point) for point in points]
    c.place_labels(axes, sorted(labels, key=lambda label: not label.bold), [*places, *stairs])
    return figure


def front_table(
    front: MeasuredFront, trained: Mapping[int, Mapping[str, float]] | None = None, networks: bool = True
) -> str:
    """The networks of a front by their cost as a Markdown table that also reads as plain text.

    Args:
        front: The front.
        trained: Metrics of networks that were trained, by their number.
        networks: Whether the last column says what the networks are; it is wide.
    """
    cells = front_cells(front, trained)
    return format_cells(cells if networks else [row[:-1] for row in cells])


def front_cells(front: MeasuredFront, trained: Mapping[int, Mapping[str, float]] | None = None) -> list[list[str]]:
    """Head and rows of `front_table`: number, costs, what was measured and trained, where it is from, the network."""
    rows, numbered = front.networks, [number for number, _ in front.numbered]
    costs = list(dict.fromkeys(name for network in rows for name in network.costs))
    names = dict.fromkeys([front.rank_by, *(name for network in rows for name in network.metrics)])
    columns = [['K', *('' if number is None else str(number) for number in numbered)]]
    for name in costs:
        figures = [network.costs.get(name) for network in rows]
        columns.append([name_metric(name), *('–' if each is None else format_cost(name, each) for each in figures)])
    columns += [[name, *_figures([network.metrics.get(name) for network in rows])] for name in names]
    scores = [network.score for network in rows]
    if any(score is not None for score in scores):
        columns.append([_SCORE, *('–' if score is None else f'{score:.4f}' for score in scores)])
    by_row = [{} if number is None else (trained or {}).get(number, {}) for number in numbered]
    found = dict.fromkeys(name for metrics in by_row for name in metrics)
    kept = [front.rank_by] if front.rank_by in found else list(found)
    columns += [[f'{name}{_TRAINED}', *_figures([each.get(name) for each in by_row])] for name in kept]
    if any(network.host is not None for network in rows):
        columns.append(['host', *(network.host or '–' for network in rows)])
    columns.append(['origin', *(network.origin for network in rows)])
    columns.append(['network', *(_text(network) for network in rows)])
    return [list(row) for row in zip(*columns, strict=True)]


def is_table_of(front: MeasuredFront, text: str) -> bool:
    """Whether a text has the table of a front, whatever it says of networks that were trained."""
    rows = _read_cells(text)
    kept = [place for place, name in enumerate(rows[0]) if not name.endswith(_TRAINED)] if rows else []
    return [[row[place] for place in kept if place < len(row)] for row in rows] == _read_cells(front_table(front))


def _read_cells(text: str) -> list[list[str]]:
    """The cells of a table as `format_cells` writes it, without the rule below its head."""
    lines = [line for line in text.splitlines() if line.startswith('|') and set(line) - set('|-: ')]
    return [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)] for line in lines]


def _figures(values: Sequence[float | None]) -> list[str]:
    """A metric's figures: what is no percentage in four digits, since networks of one front are close."""
    small = all(value is None or abs(value) < 10 for value in values)
    return metric_column(values) if not small else ['–' if value is None else f'{value:.4f}' for value in values]


def _text(network: MeasuredNetwork) -> str:
    return '; '.join(f'{stage.channels}: {" ".join(stage.layers)}' for stage in network.arch.stages)


def _label(front: MeasuredFront, point: _Point) -> Label:
    if point.network.origin == 'front':
        return Label(str(point.number), point.x, point.y)
    cost = format_cost(front.metric, point.network.costs[front.metric])
    name = 'seed' if point.number is None else f'{point.number}, chosen'
    return Label(f'{name}: {cost}, {point.y:.4g}', point.x, point.y, bold=point.number is not None)


def _reach(front: MeasuredFront) -> list[float]:
    """All costs that the figure shows."""
    bounds = [bound for bound in front.limits.get(front.metric, Limit()) if bound is not None]
    return [*(network.costs[front.metric] for network in front.networks), *bounds]


def undominated(points: Sequence[_Kind], sign: int, place: Callable[[_Kind], tuple[float, float]]) -> list[_Kind]:
    """The points of which no cheaper one is as good, by cost.

    Args:
        points: The points.
        sign: 1 where a higher figure is better, else -1.
        place: Cost and figure of one.
    """
    kept: list[_Kind] = []
    for point in sorted(points, key=lambda each: (place(each)[0], -sign * place(each)[1])):
        if not kept or sign * place(point)[1] > sign * place(kept[-1])[1]:
            kept.append(point)
    return kept


def _columns(points: Sequence[_Point]) -> tuple[list[float], list[float]]:
    return [point.x for point in points], [point.y for point in points]
