"""What all figures share: a titled figure in pixels, its axes and legends, labels that keep apart."""

from collections.abc import Sequence
from math import hypot
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from mmnas_ext.reports.palette import ACCENT, FAINT, INK, PAPER, RULE, kernel_colour

WIDTH = 1400
LEFT = 76
RIGHT = 26
TITLE = 64
DPI = 100
_PLOT = 500
_BUSY = 400
# The palette's set; no kernel occurs in a figure that has blocks.
_BLOCKS = (*(kernel_colour(side) for side in (3, 5, 7, 9, 1, 11)), INK)
# Pixels from a point to its label: near ones first, to the right of the point before its left.
_STEPS = (12, 18, 28, 42)
_SIDES = ((1, 0.6), (-1, 0.6), (1, -0.6), (-1, -0.6), (0, 1), (0, -1), (1, 0), (-1, 0))
# matplotlib's keywords
Style = dict[str, Any]
Places = Sequence[tuple[float, float]]
# what is chosen, or best
MARK: Style = {'linestyle': '', 'marker': 'D', 'markersize': 11, 'color': ACCENT, 'markeredgecolor': PAPER, 'zorder': 5}


class Label(NamedTuple):
    """A text at a point of an axes, in its data."""

    text: str
    x: float
    y: float
    bold: bool = False


def canvas(
    title: str, note: str, height: float, width: float = WIDTH, left: float = LEFT, beneath: bool = False
) -> Figure:
    """A figure, its size in pixels, with a heading at the left, and a note at the right or beneath the heading."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    y = 1 - 28 / height
    style: Style = {'va': 'center', 'parse_math': False}
    figure.text(left / width, y, title, size=17, weight='bold', color=INK, gid='title', **style)
    x, y, side = (left / width, 1 - 56 / height, 'left') if beneath else (1 - RIGHT / width, y, 'right')
    figure.text(x, y, note, size=11.5, color=FAINT, ha=side, gid='note', **style)
    return figure


def save(figure: Figure, out: str | Path) -> Path:
    """Writes a figure into a file, whose ending says the format and whose folder must exist; returns the file."""
    figure.savefig(out)
    return Path(out)


def add_axes(figure: Figure, label: str, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes of a place in pixels, from the lower left corner, in the frame that all plots share."""
    wide, high = figure.get_size_inches() * DPI
    axes = figure.add_axes((left / wide, bottom / high, width / wide, height / high), label=label)
    axes.set_axisbelow(True)
    axes.grid(axis='y', color=RULE, linewidth=0.6)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(RULE)
    axes.tick_params(labelsize=10, colors=FAINT, length=3, color=RULE, which='both')
    return axes


def plot(name: str, title: str, note: str, across: str, up: str) -> tuple[Figure, Axes]:
    """A figure with one plot, whose axes are labelled `name`, and named `across` and `up`."""
    figure = canvas(title, note, TITLE + _PLOT + 86)
    axes = add_axes(figure, name, LEFT, 56, WIDTH - LEFT - RIGHT, _PLOT)
    axes.set_xlabel(across, size=11, color=FAINT)
    axes.set_title(up, loc='left', size=11, color=FAINT, pad=8, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9))
    return figure, axes


def add_legend(figure: Figure, handles: Sequence[Artist], left: float, top: float, columns: int, **more: Any) -> Legend:
    """A legend without a frame, whose upper left corner is `left` and `top`, in pixels from the lower left corner."""
    wide, high = figure.get_size_inches() * DPI
    style: Style = {'fontsize': 11, 'frameon': False, 'borderpad': 0, 'borderaxespad': 0, 'labelcolor': INK, **more}
    corner = (left / wide, top / high)
    return figure.legend(handles=list(handles), loc='upper left', bbox_to_anchor=corner, ncols=columns, **style)


def annotate(
    axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], coords: Any, **style: Any
) -> None:
    """Writes a text `shift` points away from a place in `coords`, matplotlib's ``xycoords``."""
    axes.annotate(text, at, xycoords=coords, xytext=shift, textcoords='offset points', **style)


def draw_limit(axes: Axes, text: str, x: float) -> None:
    """Draws an upright line at a limit, with its text; the artist has the gid ``limit``. The axes' limits are set."""
    axes.axvline(x, color=ACCENT, linewidth=1.4, linestyle=(0, (4, 2)), zorder=2, gid='limit')
    # to the left of its line where there is no room to the right
    late = axes.transLimits.transform((x, 0))[0] > 0.85
    style: Style = {'ha': 'right' if late else 'left', 'va': 'top', 'size': 10.5, 'color': ACCENT}
    annotate(axes, f'limit {text}', (x, 1), (-5 if late else 5, -3), ('data', 'axes fraction'), **style)


def along_stairs(axes: Axes, x: np.ndarray, y: np.ndarray, bounds: Sequence[float]) -> list[tuple[float, float]]:
    """Places along a staircase of steps ``'steps-post'``, and along limits, close enough that no label fits between."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    # its corners, and how far along it each is, in widths and heights of the axes
    across, up = np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]
    steps = np.abs(np.diff(across)) / (right - left) + np.abs(np.diff(up)) / (high - low)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    places = np.linspace(0, along[-1], _BUSY)
    stairs = zip(np.interp(places, along, across).tolist(), np.interp(places, along, up).tolist(), strict=True)
    return [*stairs, *((bound, value) for bound in bounds for value in np.linspace(low, high, 60))]


def draw_pixels(axes: Axes, pixels: np.ndarray, interpolation: str = 'nearest', **more: Any) -> None:
    """Fills axes with an image or a map, in a thin frame."""
    axes.imshow(pixels, interpolation=interpolation, aspect='auto', **more)
    axes.set(xticks=(), yticks=())
    axes.grid(False)
    axes.spines[:].set(visible=True, color=RULE)


def block_colour(block: int) -> str:
    """Colour of a block, the same in all figures."""
    return _BLOCKS[block % len(_BLOCKS)]


def thousands() -> FuncFormatter:
    """Ticks of iterations: 12000 is ``12k``."""
    return FuncFormatter(lambda value, _: f'{value / 1000:g}k' if value >= 10000 else f'{value:g}')


def place_labels(axes: Axes, labels: Sequence[Label], busy: Places = ()) -> None:
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
        corners = [
            (x + step * across - size.width * (1 - across) / 2, y + step * up - size.height * (1 - up) / 2)
            for step in _STEPS
            for across, up in _SIDES
        ]
        spots = [Bbox.from_bounds(left, low, size.width, size.height) for left, low in corners]
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
