"""What the pictures of a block-wise distillation share: a titled figure in pixels, its axes, labels that keep apart."""

from collections.abc import Sequence
from math import hypot
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from mmnas_ext.archs import METRICS
from mmnas_ext.reports.palette import FAINT, INK, PAPER, RULE, kernel_colour
from mmnas_ext.reports.table import format_count

WIDTH = 1400
LEFT = 76
RIGHT = 26
TITLE = 64
DPI = 100
# The palette's set; no kernel occurs in a picture that has blocks.
_BLOCKS = (*(kernel_colour(side) for side in (3, 5, 7, 9, 1, 11)), INK)
_BELOW = {'macs': (1e6, 'M multiply-adds'), 'params': (1e3, 'k parameters')}
# Pixels from a point to its label: near ones first, to the right of the point before its left.
_STEPS = (12, 18, 28, 42)
_SIDES = ((1, 0.6), (-1, 0.6), (1, -0.6), (-1, -0.6), (0, 1), (0, -1), (1, 0), (-1, 0))


class Label(NamedTuple):
    """A text at a point of an axes, in its data."""

    text: str
    x: float
    y: float
    bold: bool = False


class Scale(NamedTuple):
    """What one tick of an axis counts, and how the axis is named."""

    size: float
    name: str


def canvas(title: str, note: str, height: float) -> Figure:
    """A figure `WIDTH` pixels wide, its heading at the left and a note at the right."""
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    y = 1 - 28 / height
    figure.text(LEFT / WIDTH, y, title, size=17, weight='bold', color=INK, va='center')
    figure.text(1 - RIGHT / WIDTH, y, note, size=11.5, color=FAINT, va='center', ha='right', gid='note')
    return figure


def add_axes(figure: Figure, label: str, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes of a place in pixels, from the lower left corner, in the frame that all plots share."""
    wide, high = figure.get_size_inches() * figure.dpi
    axes = figure.add_axes((left / wide, bottom / high, width / wide, height / high), label=label)
    axes.set_axisbelow(True)
    axes.grid(axis='y', color=RULE, linewidth=0.6)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(RULE)
    axes.tick_params(labelsize=10, colors=FAINT, length=3, color=RULE, which='both')
    return axes


def block_colour(block: int) -> str:
    """Colour of a block, the same in all pictures."""
    return _BLOCKS[block % len(_BLOCKS)]


def cost_scale(metric: str, largest: float) -> Scale:
    """The unit in which figures up to `largest` of a metric read well, as `mmnas_ext.archs.metrics` names it."""
    if metric not in METRICS:
        return Scale(1.0, metric)
    unit = METRICS[metric].unit
    if metric in _BELOW and largest < 2 * unit.size:
        return Scale(*_BELOW[metric])
    return Scale(unit.size, unit.name)


def format_cost(metric: str, value: float) -> str:
    """A figure with its unit: multiply-adds and parameters in four digits, latency in milliseconds."""
    return f'{value:.3g} ms' if metric == 'latency' else format_count(value)


def thousands() -> FuncFormatter:
    """Ticks of iterations: 12000 is ``12k``."""
    return FuncFormatter(lambda value, _: f'{value / 1000:g}k' if value >= 10000 else f'{value:g}')


def keep_apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves places on a line as little as possible, in squares, so that neighbours are `gap` apart.

    Args:
        places: In any order.
        gap: Least distance.
        low: Least place of all.
        high: Largest place; if they do not fit below it, `low` wins.

    Returns:
        The moved places, in the order of `places`.
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    # Less its rank times the gap, a place may not lie below the one before: that is isotonic regression, which pools
    # neighbours in the wrong order at their mean.
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([places[index] - rank * gap, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, n), (other, m) = pools[-2:]
            pools[-2:] = [[(n * one + m * other) / (n + m), n + m]]
    levels = [level for level, count in pools for _ in range(int(count))]
    top = high - gap * (len(places) - 1)
    moved = [0.0] * len(places)
    for rank, (index, level) in enumerate(zip(order, levels, strict=True)):
        moved[index] = max(low, min(level, top)) + rank * gap
    return moved


def place_labels(axes: Axes, labels: Sequence[Label], busy: Sequence[tuple[float, float]] = ()) -> None:
    """Writes labels beside their points where they cover neither each other, nor a point, nor leave the axes.

    The limits that the axes have stay. A label that had to go far gets a line to its point.

    Args:
        axes: Where to write.
        labels: The first ones choose first.
        busy: Further places in data that labels should not cover, such as those of a curve.
    """
    if not labels:
        return
    # a line to a point would widen the axes, and where limits are not set yet, points would lie elsewhere in the end
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    frame = axes.get_window_extent()
    points = axes.transData.transform([(label.x, label.y) for label in labels])
    covered = np.concatenate([points, axes.transData.transform(busy)]) if busy else points
    boxes: list[Bbox] = []
    for label, (x, y) in zip(labels, points, strict=True):
        weight = 'bold' if label.bold else 'normal'
        text = axes.text(label.x, label.y, label.text, size=10.5, color=INK, weight=weight, zorder=6, parse_math=False)
        text.set(va='bottom', ha='left', gid=f'label.{label.text}')
        text.set_path_effects([withStroke(linewidth=2.5, foreground=PAPER)])
        size = text.get_window_extent()
        spots = [
            Bbox.from_bounds(
                x + step * across - size.width * (1 - across) / 2,
                y + step * up - size.height * (1 - up) / 2,
                size.width,
                size.height,
            )
            for step in _STEPS
            for across, up in _SIDES
        ]
        box = min(spots, key=lambda spot: _price(spot, (x, y), frame, covered, boxes))
        boxes.append(box)
        text.set_position(tuple(axes.transData.inverted().transform(box.p0)))
        near = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
        if hypot(near[0] - x, near[1] - y) > _STEPS[1] + 4:
            ends = axes.transData.inverted().transform([(x, y), near])
            axes.plot(ends[:, 0], ends[:, 1], color=FAINT, linewidth=0.7, zorder=4, gid='leader')


def _price(spot: Bbox, point: tuple[float, float], frame: Bbox, covered: np.ndarray, boxes: Sequence[Bbox]) -> float:
    """How bad a place of a label is: outside of the frame, on another label, on points, far from its own point."""
    outside = not (frame.x0 <= spot.x0 and spot.x1 <= frame.x1 and frame.y0 <= spot.y0 and spot.y1 <= frame.y1)
    crossed = sum(spot.padded(2).overlaps(box) for box in boxes)
    low, high = spot.padded(6).min, spot.padded(6).max
    hidden = int(np.all((low < covered) & (covered < high), axis=1).sum())
    far = hypot((spot.x0 + spot.x1) / 2 - point[0], (spot.y0 + spot.y1) / 2 - point[1])
    return 1e6 * outside + 1e4 * crossed + 100 * hidden + far
