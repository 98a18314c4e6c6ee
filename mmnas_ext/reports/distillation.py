"""Figures of the blocks of a distillation: how their losses fell, and how the ratings of their paths spread."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mmnas_ext.reports.canvas import (
    DPI,
    LEFT,
    RIGHT,
    TITLE,
    WIDTH,
    Style,
    add_axes,
    add_legend,
    annotate,
    block_colour,
    canvas,
    keep_apart,
    thousands,
)
from mmnas_ext.reports.distill_log import DistillLog, read_losses
from mmnas_ext.reports.palette import ACCENT, FAINT, INK, PAPER, tint
from mmnas_ext.search.ratings import BlockRatings, CellRatings, Pick, Ratings

# Of all records, what a smoothed value is the mean of.
_WINDOW = 0.03
_PLOT = 460
_NAMES = 150
# Widths of a block's panel in pixels: per cell and at least; a heading must fit above.
_CELL = 36
_PANEL = 168
_BETWEEN = 54
_SPREAD = 300
# Between the rows of panels: heading above, and the cells' layers and channels beneath.
_HEADING = 66
_LABELS = 56
_STAR = 13
# The golden ratio's multiples fill an interval evenly, whatever their number: equal ratings do not hide each other.
_GOLDEN = (sqrt(5) - 1) / 2


def draw_losses(source: str | Path | Iterable[Mapping[str, Any]], out: str | Path) -> Path:
    """Draws the distillation loss of every block over the steps, as logged and smoothed.

    The loss is a mean squared error over the teacher's standardised feature: at 1 a block does no better than the
    feature's mean.

    Args:
        source: Work dir of the distillation, one of its ``scalars.json``, or the records of such files, oldest first.
        out: File to write; its folder must exist.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: The log holds no distillation loss.
    """
    target = Path(out)
    losses_figure(read_losses(source)).savefig(target)
    return target


def losses_figure(log: DistillLog) -> Figure:
    """The figure of `draw_losses`, not yet saved.

    Its axes are labelled ``losses``; the lines of a block have the gids ``raw.<block>`` and ``smooth.<block>``.
    """
    steps = [step for rows in log.losses.values() for step, _ in rows]
    window = _window(max(len(rows) for rows in log.losses.values()))
    kept = 'as logged' if log.stride == 1 else f'one of {log.stride} records'
    note = f'faint: {kept}; bold: mean of {window} around' if window > 1 else kept
    figure = canvas('Distillation loss per block', note, TITLE + _PLOT + 86)
    axes = add_axes(figure, 'losses', LEFT, 54, WIDTH - LEFT - _NAMES - RIGHT, _PLOT)
    ends, values = {}, []
    for block, rows in log.losses.items():
        x, y = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
        smooth = moving_mean(y, _window(len(y)))
        colour = block_colour(block)
        axes.plot(x, y, color=tint(colour, 0.35), linewidth=0.8, zorder=2, gid=f'raw.{block}')
        (line,) = axes.plot(x, smooth, color=colour, linewidth=2, zorder=3, gid=f'smooth.{block}')
        if len(rows) == 1:
            line.set(marker='o', clip_on=False)
        finite = smooth[np.isfinite(smooth)]
        values += [*finite, *np.percentile(y[np.isfinite(y)], (0.5, 99.5))] if len(finite) else []
        ends[block] = (x[-1], finite[-1] if len(finite) else float('nan'))
    # a single step stands at the right, beside its names
    axes.set_xlim(min(steps) if len(set(steps)) > 1 else min(steps) - 1, max(steps))
    axes.xaxis.set_major_formatter(thousands())
    axes.set_xlabel('step', size=11, color=FAINT)
    axes.set_title('squared error over the variance of the feature', loc='left', size=11, color=FAINT, pad=8)
    _scale_losses(axes, values)
    _name_lines(axes, ends)
    return figure


def draw_ratings(ratings: str | Path | Ratings, out: str | Path, chosen: Sequence[int] | None = None) -> Path:
    """Draws the ratings of all paths, a panel per block and a column per cell.

    Args:
        ratings: ``ratings.json``, the work dir that holds it, or its content.
        out: File to write; its folder must exist.
        chosen: Per block the index of the entry to mark, counted as in ``front.json``.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not of its form, or `chosen` is not an entry of each block.
    """
    target = Path(out)
    content = ratings if isinstance(ratings, Ratings) else Ratings.parse(ratings)
    ratings_figure(content, chosen).savefig(target)
    return target


def ratings_figure(ratings: Ratings, chosen: Sequence[int] | None = None) -> Figure:
    """The figure of `draw_ratings`, not yet saved.

    Axes are labelled ``ratings.<block>``. Their artists have the gids ``points.<block>.<cell>``,
    ``median.<block>.<cell>``, ``best.<block>`` and ``chosen.<block>``. All panels span the same range, each at its own
    height: ratings add up over blocks, so a path's lead counts the same in all of them.
    """
    marks: Sequence[Pick | None] = ratings.picks(chosen) if chosen is not None else [None] * len(ratings.blocks)
    rows = _rows_of_panels(ratings.blocks)
    height = TITLE + 30 + len(rows) * (_HEADING + _SPREAD + _LABELS) + 8
    paths = sum(len(block.ratings) for block in ratings.blocks)
    blocks = f'{len(ratings.blocks)} {"block" if len(ratings.blocks) == 1 else "blocks"}'
    figure = canvas('Ratings of all paths', f'{paths} paths in {blocks}; lower is better', height)
    _ratings_legend(figure, height, chosen is not None)
    span = 1.16 * max(max(block.ratings) - min(block.ratings) for block in ratings.blocks) or 1.0
    for number, row in enumerate(rows):
        bottom = height - TITLE - 30 - number * (_HEADING + _SPREAD + _LABELS) - _HEADING - _SPREAD
        left = float(LEFT)
        wanted = [_panel_width(ratings.blocks[block]) for block in row]
        free = WIDTH - LEFT - RIGHT - _BETWEEN * (len(row) - 1)
        # a last row of few blocks keeps its width, or its points would be strewn wide
        stretch = min(free / sum(wanted), 1.6)
        for block, width in zip(row, wanted, strict=True):
            axes = add_axes(figure, f'ratings.{block}', left, bottom, width * stretch, _SPREAD)
            _draw_block(axes, block, ratings.blocks[block], span, marks[block])
            left += width * stretch + _BETWEEN
        _name_rows(figure, bottom, height)
    return figure


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean of `window` values, of fewer at both ends; what is NaN or infinite is left out of it."""
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    middle = np.arange(len(values))
    low = np.maximum(middle - (window - 1) // 2, 0)
    high = np.minimum(middle + window // 2 + 1, len(values))
    seen = count[high] - count[low]
    return np.where(seen > 0, (total[high] - total[low]) / np.maximum(seen, 1), np.nan)


def _window(records: int) -> int:
    """Of a short log at least five records, where that leaves enough of it."""
    return max(1, min(5, records // 4), round(_WINDOW * records))


def _scale_losses(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis where losses differ by more than a factor of 4, and the line of a useless block."""
    low, high = min(values, default=0.1), max(values, default=1.0)
    if low > 0 and high > 4 * low:
        axes.set_yscale('log')
        axes.set_ylim(low / 1.1, high * 1.1)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(low - 0.06 * (high - low or 1), high + 0.06 * (high - low or 1))
    if axes.get_ylim()[0] < 1 < axes.get_ylim()[1]:
        axes.axhline(1, color=FAINT, linewidth=1, linestyle=(0, (3, 2)), zorder=1, gid='mean')
        style: Style = {'ha': 'right', 'size': 10, 'color': FAINT}
        annotate(axes, "no better than the feature's mean", (1, 1), (-4, 3), ('axes fraction', 'data'), **style)


def _name_lines(axes: Axes, ends: Mapping[int, tuple[float, float]]) -> None:
    """A name right of each line, moved where two would meet, with its last smoothed value."""
    box = axes.get_window_extent()
    known = [block for block, (_, y) in ends.items() if isfinite(y)]
    points = [axes.transData.transform(ends[block]) for block in known]
    heights = keep_apart([float(y) for _, y in points], 20, box.y0 + 6, box.y1)
    for block, (x, y), height in zip(known, points, heights, strict=True):
        along = (box.x1 + 8 - box.x0) / box.width
        up = (height - box.y0) / box.height
        # a block that was trained for fewer steps ends before the others
        width, dashes = (1.6, 'solid') if x > box.x1 - 2 else (0.8, 'dotted')
        arrow: Style = {'arrowstyle': '-', 'color': block_colour(block), 'linewidth': width, 'linestyle': dashes}
        axes.annotate(
            f'block {block}  {ends[block][1]:.3g}',
            ((x - box.x0) / box.width, (y - box.y0) / box.height),
            xycoords='axes fraction',
            xytext=(along + 16 / box.width, up),
            va='center',
            size=11,
            color=INK,
            gid=f'name.{block}',
            annotation_clip=False,
            arrowprops={**arrow, 'relpos': (0, 0.5), 'shrinkA': 1, 'shrinkB': 0},
        )


def _panel_width(block: BlockRatings) -> float:
    return max(_PANEL, _CELL * len(block.cells))


def _rows_of_panels(blocks: Sequence[BlockRatings]) -> list[list[int]]:
    """Blocks by row, as many in each as fit."""
    rows: list[list[int]] = [[]]
    used = 0.0
    for index, block in enumerate(blocks):
        width = _panel_width(block)
        if rows[-1] and used + _BETWEEN + width > WIDTH - LEFT - RIGHT:
            rows.append([])
            used = 0.0
        used += width + (_BETWEEN if rows[-1] else 0)
        rows[-1].append(index)
    return rows


def _draw_block(axes: Axes, index: int, block: BlockRatings, span: float, chosen: Pick | None) -> None:
    middle = (max(block.ratings) + min(block.ratings)) / 2
    axes.set_ylim(middle - span / 2, middle + span / 2)
    axes.set_xlim(-0.6, len(block.cells) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xticks([])
    places = [_draw_cell(axes, index, number, cell) for number, cell in enumerate(block.cells)]
    best = block.best
    text = f'best {block.rating(best):.3f}'
    if chosen is not None:
        x = places[chosen.cell][chosen.path]
        axes.plot([x], [block.rating(chosen)], gid=f'chosen.{index}', zorder=5, **_mark(True))
        text += f', chosen {block.rating(chosen):.3f}'
    axes.plot([places[best.cell][best.path]], [block.rating(best)], gid=f'best.{index}', zorder=6, **_mark(False))
    paths = 'path' if len(block.ratings) == 1 else 'paths'
    heading = f'block {index} · {name_stages(block.stages)}'
    words = (
        (heading, 12, INK, 'bold'),
        (f'{len(block.ratings)} {paths}', 10, FAINT, 'normal'),
        (text, 10, INK, 'normal'),
    )
    for line, (word, size, colour, weight) in enumerate(words):
        style: Style = {'size': size, 'color': colour, 'weight': weight, 'va': 'top'}
        annotate(axes, word, (0, 1), (0, 39 - 14 * line), 'axes fraction', **style)


def _draw_cell(axes: Axes, index: int, number: int, cell: CellRatings) -> np.ndarray:
    """Density, points and median of one cell's ratings; where its points are across."""
    colour = block_colour(index)
    values = np.array(cell.ratings)
    across = np.full(len(values), float(number))
    if values.max() > values.min():
        grid = np.linspace(values.min(), values.max(), 100)
        half = 0.43 * _density(values, grid)
        face, edge = tint(colour, 0.18), tint(colour, 0.55)
        axes.fill_betweenx(grid, number - half, number + half, facecolor=face, edgecolor=edge, linewidth=0.8, zorder=1)
        inside = 2 * (np.arange(1, len(values) + 1) * _GOLDEN % 1) - 1
        across += 0.85 * np.interp(values, grid, half) * inside
    dots: Style = {'s': 9 if len(values) <= 300 else 4, 'color': colour, 'alpha': 0.55, 'linewidths': 0}
    axes.scatter(across, values, zorder=2, gid=f'points.{index}.{number}', **dots)
    middle = [float(np.median(values))] * 2
    bar: Style = {'color': INK, 'linewidth': 1.6, 'zorder': 4, 'gid': f'median.{index}.{number}'}
    axes.plot([number - 0.3, number + 0.3], middle, **bar)
    for line, words in enumerate(('+'.join(map(str, cell.depths)), str(cell.leaves))):
        style: Style = {'size': 10, 'color': INK, 'ha': 'center', 'va': 'top'}
        annotate(axes, words, (number, 0), (0, -7 - 15 * line), ('data', 'axes fraction'), **style)
    return across


def _density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Sum of Gaussians of Scott's width at the values, 1 at its largest."""
    width = values.std() * len(values) ** -0.2
    density = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).sum(axis=1)
    return np.asarray(density / density.max())


def _name_rows(figure: Figure, bottom: float, height: float) -> None:
    """What stands beneath a cell, left of the first panel."""
    for line, words in enumerate(('layers', 'channels')):
        y = bottom - (7 + 15 * line) * DPI / 72
        figure.text((LEFT - 3) / WIDTH, y / height, words, size=9, color=FAINT, ha='right', va='top')


def _ratings_legend(figure: Figure, height: float, chosen: bool) -> None:
    handles = [
        Line2D([], [], color=FAINT, marker='o', markersize=4, linestyle='', label='a path'),
        Line2D([], [], color=INK, linewidth=1.6, label="a cell's median"),
        Line2D([], [], label='best of the block', linestyle='', **_mark(False)),
    ]
    if chosen:
        handles.append(Line2D([], [], label='chosen', linestyle='', **_mark(True)))
    add_legend(figure, handles, LEFT, height - 50, 4, handletextpad=0.5)


def _mark(chosen: bool) -> dict[str, Any]:
    """Marker of the best and of the chosen path: they may fall together, so one rings the other."""
    if chosen:
        return {'marker': 'o', 'markersize': 15, 'markerfacecolor': 'none', 'color': ACCENT, 'markeredgewidth': 2}
    return {'marker': '*', 'markersize': _STAR, 'color': INK, 'markeredgecolor': PAPER, 'markeredgewidth': 0.8}


def name_stages(stages: Sequence[int]) -> str:
    """Writes ``stage 3``, ``stages 0–2`` or ``stages 0, 2``."""
    if len(stages) == 1:
        return f'stage {stages[0]}'
    if list(stages) == list(range(stages[0], stages[-1] + 1)):
        return f'stages {stages[0]}–{stages[-1]}'
    return f'stages {", ".join(map(str, stages))}'
