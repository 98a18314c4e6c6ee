"""Figure of how alpha moved over a search."""

from collections.abc import Iterable, Sequence
from math import ceil, floor, isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mmnas_ext.archs import SearchSpace
from mmnas_ext.reports.canvas import RIGHT, WIDTH, Style, add_axes, add_legend, canvas, save, thousands
from mmnas_ext.reports.log import Record, SearchLog, check_records, read_log, searched_layers
from mmnas_ext.reports.palette import ACCENT, DASHED, FAINT, INK, SOLID, LineStyle, candidate_styles
from mmnas_ext.reports.table import format_cost, name_metric

_LEFT = 66
_TITLE = 96
_PANEL = 96
_ROW = 134
_COLUMN_GAP = 16
_STRIP = 150
_STRIP_GAP = 66
_FOOT = 250


class _Strip(NamedTuple):
    """One of the small plots beneath the panels: a heading, and per line a label, its values and its style."""

    name: str
    heading: str
    lines: tuple[tuple[str, tuple[float, ...], str, LineStyle], ...]


def draw_alphas(source: str | Path | SearchLog, space: SearchSpace, out: str | Path) -> Path:
    """Draws `alphas_figure` of a log, its file or work dir into a file, and returns that; raises as they do."""
    return save(alphas_figure(source if isinstance(source, SearchLog) else read_log(source), space), out)


def alphas_figure(log: SearchLog, space: SearchSpace) -> Figure:
    """Shows softmax(alpha) of every searched layer over the iterations, and entropy, costs and skips beneath.

    Axes are labelled ``alpha.<stage>.<layer>``, ``entropy``, a metric's name, and ``skips``; a line of a panel has its
    candidate as label. Raises ValueError unless log and space belong together.
    """
    records = log.records
    check_records(records, space)
    places = searched_layers(space)
    stages = sorted({i for i, _ in places})
    depths = [len(space.stages[i].layers) for i in stages]
    beside = len(stages) > 1 and max(depths) - depths[-1] >= 2
    top = _TITLE if beside else _TITLE + 34
    height = top + _ROW * max(depths) + _FOOT
    note = f'softmax(alpha) of {len(places)} searched layers, iterations {records[0].iteration} to '
    note += f'{records[-1].iteration}' + (f'; arch steps seen from {log.start}' if log.start is not None else '')
    figure = canvas('How alpha moved', note, height, left=_LEFT)
    width = (WIDTH - _LEFT - RIGHT - _COLUMN_GAP * (len(stages) - 1)) / len(stages)
    limits = _limits(value for record in records for i, j in places for value in record.alpha[f'{i}.{j}'])
    for column, stage in enumerate(stages):
        left = _LEFT + column * (width + _COLUMN_GAP)
        y, name = 1 - (top - 18) / height, f'stage {stage} · {space.stages[stage].channels} ch'
        figure.text(left / WIDTH, y, name, size=12, weight='bold', color=INK, gid=f'stage.{stage}')
        layers = [j for i, j in places if i == stage]
        for layer in layers:
            bottom = height - top - layer * _ROW - (_ROW - _PANEL) / 2 - _PANEL - 4
            axes = add_axes(figure, f'alpha.{stage}.{layer}', left, bottom, width, _PANEL)
            _draw_panel(axes, log, space, (stage, layer))
            # Room for the width of a line that runs along the limit.
            margin = 0.02 * (limits[1] - limits[0])
            axes.set_ylim(limits[0] - margin, limits[1] + margin)
            axes.tick_params(labelleft=column == 0, labelbottom=layer == layers[-1])
    free = (_LEFT + (len(stages) - 1) * (width + _COLUMN_GAP), height - top - depths[-1] * _ROW - 46)
    _draw_legend(figure, space, free if beside else (_LEFT, height - 62), columns=1 if beside else 8)
    _draw_strips(figure, log)
    return figure


def _limits(values: Iterable[float]) -> tuple[float, float]:
    """Limits that hold all probabilities, in steps of 0.05 and at least 0.1 apart.

    Otherwise the noise of alpha's first values would look like a movement.
    """
    finite = [value for value in values if isfinite(value)] or [0.0, 1.0]
    low = max(0.0, floor(min(finite) * 20 - 0.2) / 20)
    high = min(1.0, ceil(max(finite) * 20 + 0.2) / 20)
    return (low, high) if high - low >= 0.1 else (max(0.0, low - 0.05), low + 0.1)


def _draw_panel(axes: Axes, log: SearchLog, space: SearchSpace, place: tuple[int, int]) -> None:
    """A line per candidate, titled with the most probable one."""
    stage, layer = place
    tokens = space.stages[stage].layers[layer]
    styles = candidate_styles(_tokens(space))
    values = [record.alpha[f'{stage}.{layer}'] for record in log.records]
    best = max(range(len(tokens)), key=values[-1].__getitem__)
    for index, token in enumerate(tokens):
        look: Style = {'linewidth': 2.4, 'zorder': 3} if index == best else {'linewidth': 1.3, 'zorder': 2}
        row, (colour, style) = [each[index] for each in values], styles[token]
        _draw_line(axes, log.records, row, label=token, color=colour, linestyle=style, **look)
    _scale_iterations(axes, log)
    axes.set_title(f'layer {layer}', loc='left', size=10, color=FAINT, pad=4)
    axes.set_title(f'{tokens[best]}  {values[-1][best]:.2f}', loc='right', size=10, color=INK, pad=4)


def _draw_line(axes: Axes, records: Sequence[Record], values: Sequence[float], **style: Any) -> Line2D:
    # a line through a single record would not be seen
    marker = 'o' if len(records) == 1 else ''
    return axes.plot([record.iteration for record in records], values, marker=marker, **style)[0]


def _draw_legend(figure: Figure, space: SearchSpace, corner: tuple[float, float], columns: int) -> None:
    """Lines of all candidates; `corner` is the upper left one, in pixels."""
    styles = candidate_styles(_tokens(space))
    lines = [Line2D([], [], color=look[0], linestyle=look[1], linewidth=2, label=t) for t, look in styles.items()]
    title = 'candidate\n(bold: leads at the end)' if columns == 1 else None
    more: Style = {'handlelength': 3.2, 'labelspacing': 0.55, 'title': title, 'title_fontsize': 10, 'alignment': 'left'}
    add_legend(figure, lines, *corner, columns, **more).get_title().set_color(FAINT)


def _draw_strips(figure: Figure, log: SearchLog) -> None:
    strips = _strips(log.records)
    width = (WIDTH - _LEFT - RIGHT - _STRIP_GAP * (len(strips) - 1)) / len(strips)
    for index, strip in enumerate(strips):
        axes = add_axes(figure, strip.name, _LEFT + index * (width + _STRIP_GAP), 48, width, _STRIP)
        for label, values, colour, style in strip.lines:
            line = _draw_line(axes, log.records, values, label=label, color=colour, linestyle=style, linewidth=1.8)
            line.set_drawstyle('steps-post' if strip.name == 'skips' else 'default')
        _scale_iterations(axes, log)
        axes.set_xlabel('iteration', size=10, color=FAINT, labelpad=2)
        axes.set_title(strip.heading, loc='left', size=12, weight='bold', color=INK, pad=8)
        if len(strip.lines) > 1:
            # narrow enough to stand beside the heading of a fourth of the width
            look: Style = {'fontsize': 9, 'frameon': False, 'borderpad': 0.2, 'labelcolor': INK, 'handletextpad': 0.4}
            corner: Style = {'loc': 'lower right', 'bbox_to_anchor': (1.0, 1.0)}
            axes.legend(ncols=2, handlelength=1.6, columnspacing=0.9, **corner, **look)
        _scale_strip(axes, strip)


def _strips(records: tuple[Record, ...]) -> tuple[_Strip, ...]:
    def line(label: str, values: Iterable[float], plain: bool = True) -> tuple[str, tuple[float, ...], str, LineStyle]:
        return label, tuple(map(float, values)), INK if plain else ACCENT, SOLID if plain else DASHED

    entropies = [tuple(record.entropy.values()) or (nan,) for record in records]
    mean = line('mean', (sum(row) / len(row) for row in entropies))
    strips = [_Strip('entropy', 'Entropy', (mean, line('least layer', map(min, entropies), plain=False)))]
    for metric in records[-1].expected:
        name = name_metric(metric)
        expected = line('expected', (record.expected.get(metric, nan) for record in records))
        argmax = line('argmax', (record.argmax.get(metric, nan) for record in records), plain=False)
        strips.append(_Strip(metric, name[0].upper() + name[1:], (expected, argmax)))
    skips = line('skips', (record.skips for record in records))
    return (*strips, _Strip('skips', 'Layers where skip leads', (skips,)))


def _scale_strip(axes: Axes, strip: _Strip) -> None:
    """Ticks and limits that suit what a strip shows."""
    values = [value for line in strip.lines for value in line[1] if isfinite(value)]
    if strip.name == 'entropy':
        axes.set_ylim(0, 1.04)
    elif strip.name == 'skips':
        axes.set_ylim(-0.2, max([*values, 3.0]) * 1.1)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    else:
        low, high = min(values, default=1.0), max(values, default=1.0)
        middle = (high + low) / 2
        span = max(0.55 * (high - low), 0.02 * middle)
        axes.set_ylim(middle - span, middle + span)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
        # below 0 there is no cost
        write = FuncFormatter(lambda value, _: format_cost(strip.name, value) if value >= 0 else '')
        axes.yaxis.set_major_formatter(write)


def _scale_iterations(axes: Axes, log: SearchLog) -> None:
    """The range and ticks of the iterations, and the line at which arch steps start."""
    first, last = log.records[0].iteration, log.records[-1].iteration
    # One record is a point, for which there are no limits that differ.
    axes.set_xlim(first, last if last > first else first + 1)
    axes.tick_params(labelsize=9.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, prune='upper'))
    axes.xaxis.set_major_formatter(thousands())
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    if log.start is not None:
        axes.axvline(log.start, color=FAINT, linewidth=1, linestyle=(0, (2, 2)), zorder=1, gid='start')


def _tokens(space: SearchSpace) -> tuple[str, ...]:
    """All candidates of searched layers, each once, in the order in which the space first names them."""
    return tuple(dict.fromkeys(token for i, j in searched_layers(space) for token in space.stages[i].layers[j]))
