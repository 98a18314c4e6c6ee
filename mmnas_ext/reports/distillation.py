"""Figure of the blocks of a distillation: how the ratings of their paths spread."""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mmnas_ext.reports import canvas as c
from mmnas_ext.reports.canvas import LEFT, RIGHT, TITLE, WIDTH, Style, annotate
from mmnas_ext.reports.palette import ACCENT, FAINT, INK, PAPER, tint
from mmnas_ext.search.ratings import BlockRatings, CellRatings, Pick, Ratings

# Widths of a block's panel in pixels: per cell and at least; a heading must fit above.
_CELL = 36
_PANEL = 168
_BETWEEN = 54
_SPREAD = 300
# Between the rows of panels: heading above, and the cells' layers and channels beneath.
_HEADING = 66
_LABELS = 56
# The golden ratio's multiples fill an interval evenly, whatever their number: equal ratings do not hide each other.
_GOLDEN = (sqrt(5) - 1) / 2
# Markers of the best and of the chosen path: they may fall together, so one rings the other.
_BEST: Style = {'marker': '*', 'markersize': 13, 'color': INK, 'markeredgecolor': PAPER, 'markeredgewidth': 0.8}
_CHOSEN: Style = {'marker': 'o', 'markersize': 15, 'markerfacecolor': 'none', 'color': ACCENT, 'markeredgewidth': 2}


def draw_ratings(ratings: str | Path | Ratings, out: str | Path, chosen: Sequence[int] | None = None) -> Path:
    """Draws `ratings_figure` of ratings, their file or work dir into a file, and returns that; raises as they do."""
    return c.save(ratings_figure(ratings if isinstance(ratings, Ratings) else Ratings.parse(ratings), chosen), out)


def ratings_figure(ratings: Ratings, chosen: Sequence[int] | None = None) -> Figure:
    """Shows the ratings of all paths, a panel per block and a column per cell; marks the entries `chosen`, if given.

    Axes are labelled ``ratings.<block>``. Their artists have the gids ``points.<block>.<cell>``,
    ``median.<block>.<cell>``, ``best.<block>`` and ``chosen.<block>``. All panels span the same range, each at its own
    height: ratings add up over blocks, so a path's lead counts the same in all of them.

    Raises ValueError if `chosen` is not an entry of each block.
    """
    marks: Sequence[Pick | None] = ratings.picks(chosen) if chosen is not None else [None] * len(ratings.blocks)
    rows: list[list[int]] = [[]]
    widths = [max(_PANEL, _CELL * len(block.cells)) for block in ratings.blocks]
    for index, width in enumerate(widths):
        if sum(widths[each] + _BETWEEN for each in rows[-1]) + width > WIDTH - LEFT - RIGHT:
            rows.append([])
        rows[-1].append(index)
    row_height = _HEADING + _SPREAD + _LABELS
    height = TITLE + 30 + len(rows) * row_height + 8
    paths = sum(len(block.ratings) for block in ratings.blocks)
    blocks = f'{len(ratings.blocks)} {"block" if len(ratings.blocks) == 1 else "blocks"}'
    figure = c.canvas('Ratings of all paths', f'{paths} paths in {blocks}; lower is better', height)
    handles = [
        Line2D([], [], color=FAINT, marker='o', markersize=4, linestyle='', label='a path'),
        Line2D([], [], color=INK, linewidth=1.6, label="a cell's median"),
        Line2D([], [], label='best of the block', linestyle='', **_BEST),
        *([Line2D([], [], label='chosen', linestyle='', **_CHOSEN)] if chosen is not None else []),
    ]
    c.add_legend(figure, handles, LEFT, height - 50, 4, handletextpad=0.5)
    span = 1.16 * max(max(block.ratings) - min(block.ratings) for block in ratings.blocks) or 1.0
    for number, row in enumerate(rows):
        bottom = height - TITLE - 30 - number * row_height - _HEADING - _SPREAD
        left = float(LEFT)
        # a last row of few blocks keeps its width, or its points would be strewn wide
        free = WIDTH - LEFT - RIGHT - _BETWEEN * (len(row) - 1)
        stretch = min(free / sum(widths[block] for block in row), 1.6)
        for block in row:
            axes = c.add_axes(figure, f'ratings.{block}', left, bottom, widths[block] * stretch, _SPREAD)
            _draw_block(axes, block, ratings.blocks[block], span, marks[block])
            left += widths[block] * stretch + _BETWEEN
        for line, words in enumerate(('layers', 'channels')):
            y = (bottom - (7 + 15 * line) * c.DPI / 72) / height
            figure.text((LEFT - 3) / WIDTH, y, words, size=9, color=FAINT, ha='right', va='top')
    return figure


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
        axes.plot([x], [block.rating(chosen)], gid=f'chosen.{index}', zorder=5, **_CHOSEN)
        text += f', chosen {block.rating(chosen):.3f}'
    axes.plot([places[best.cell][best.path]], [block.rating(best)], gid=f'best.{index}', zorder=6, **_BEST)
    paths = f'{len(block.ratings)} {"path" if len(block.ratings) == 1 else "paths"}'
    heading = f'block {index} · stage{"s" * (len(block.stages) > 1)} {list_stages(block.stages)}'
    words = ((heading, 12, INK), (paths, 10, FAINT), (text, 10, INK))
    for line, (word, size, colour) in enumerate(words):
        style: Style = {'size': size, 'color': colour, 'weight': 'normal' if line else 'bold', 'va': 'top'}
        annotate(axes, word, (0, 1), (0, 39 - 14 * line), 'axes fraction', **style)


def _draw_cell(axes: Axes, index: int, number: int, cell: CellRatings) -> np.ndarray:
    """Density, points and median of one cell's ratings; where its points are across."""
    colour = c.block_colour(index)
    values = np.array(cell.ratings)
    across = np.full(len(values), float(number))
    if values.max() > values.min():
        grid = np.linspace(values.min(), values.max(), 100)
        # a sum of Gaussians of Scott's width
        width = values.std() * len(values) ** -0.2
        density = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2).sum(axis=1)
        half = 0.43 * density / density.max()
        face, edge = tint(colour, 0.18), tint(colour, 0.55)
        axes.fill_betweenx(grid, number - half, number + half, facecolor=face, edgecolor=edge, linewidth=0.8, zorder=1)
        inside = 2 * (np.arange(1, len(values) + 1) * _GOLDEN % 1) - 1
        across += 0.85 * np.interp(values, grid, half) * inside
    dots: Style = {'s': 9 if len(values) <= 300 else 4, 'color': colour, 'alpha': 0.55, 'linewidths': 0}
    axes.scatter(across, values, zorder=2, gid=f'points.{index}.{number}', **dots)
    bar: Style = {'color': INK, 'linewidth': 1.6, 'zorder': 4, 'gid': f'median.{index}.{number}'}
    axes.plot([number - 0.3, number + 0.3], [float(np.median(values))] * 2, **bar)
    style: Style = {'size': 10, 'color': INK, 'ha': 'center', 'va': 'top'}
    for line, words in enumerate(('+'.join(map(str, cell.depths)), str(cell.leaves))):
        annotate(axes, words, (number, 0), (0, -7 - 15 * line), ('data', 'axes fraction'), **style)
    return across


def list_stages(stages: Sequence[int]) -> str:
    """Writes ``3``, ``0–2`` or ``0, 2``."""
    row = list(stages) == list(range(stages[0], stages[-1] + 1)) and len(stages) > 1
    return f'{stages[0]}–{stages[-1]}' if row else ', '.join(map(str, stages))
