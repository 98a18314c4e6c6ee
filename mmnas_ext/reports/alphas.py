"""Picture of how alpha moved over a search."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mmnas_ext.archs import SearchSpace
from mmnas_ext.reports.log import Record, arch_start, check_records, read_log, searched_layers
from mmnas_ext.reports.palette import ACCENT, DASHED, FAINT, INK, PAPER, RULE, SOLID, LineStyle, candidate_styles
from mmnas_ext.reports.table import format_count

WIDTH = 1400
_DPI = 100
_LEFT = 66
_RIGHT = 26
_TITLE = 96
_PANEL = 96
_ROW = 134
_COLUMN_GAP = 16
_STRIP = 150
_FOOT = 250
# A line has more points than the picture has pixels otherwise, and a long search takes minutes to draw.
_POINTS = 1000


@dataclass(frozen=True)
class _Strip:
    """One of the small plots beneath the panels: a heading, and per line a label, its values and its style."""

    name: str
    heading: str
    lines: tuple[tuple[str, tuple[float, ...], str, LineStyle], ...]


def draw_alphas(source: str | Path | Sequence[Record], space: SearchSpace, path: str | Path) -> Path:
    """Draws softmax(alpha) of every searched layer over the iterations, and entropy, MAdds and skips beneath.

    Args:
        source: Work dir of the search, its log file, or records.
        space: The space that was searched.
        path: File to write; its folder must exist.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: The log holds no record, or does not belong to `space`.
    """
    target = Path(path)
    records = read_log(source).records if isinstance(source, (str, Path)) else tuple(source)
    alphas_figure(records, space).savefig(target)
    return target


def alphas_figure(records: Sequence[Record], space: SearchSpace) -> Figure:
    """The figure of `draw_alphas`, not yet saved.

    Axes are labelled ``alpha.<stage>.<layer>``, ``entropy``, ``macs`` and ``skips``; a line of a panel has its
    candidate as label.
    """
    every = tuple(records)
    check_records(every, space)
    kept = _thin(every)
    start = arch_start(every)
    stages = sorted({i for i, _ in searched_layers(space)})
    depths = [len(space.stages[i].layers) for i in stages]
    beside = len(stages) > 1 and max(depths) - depths[-1] >= 2
    top = _TITLE if beside else _TITLE + 34
    height = top + _ROW * max(depths) + _FOOT
    figure = Figure(figsize=(WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    _draw_title(figure, every, space, start, height)
    width = (WIDTH - _LEFT - _RIGHT - _COLUMN_GAP * (len(stages) - 1)) / len(stages)
    limits = _limits(value for record in kept for i, j in searched_layers(space) for value in record.alpha[f'{i}.{j}'])
    for column, stage in enumerate(stages):
        left = _LEFT + column * (width + _COLUMN_GAP)
        name = f'stage {stage} · {space.stages[stage].channels} ch'
        figure.text(
            left / WIDTH, 1 - (top - 18) / height, name, size=12, weight='bold', color=INK, gid=f'stage.{stage}'
        )
        layers = [j for i, j in searched_layers(space) if i == stage]
        for layer in layers:
            bottom = height - top - layer * _ROW - (_ROW - _PANEL) / 2 - _PANEL - 4
            box = (left / WIDTH, bottom / height, width / WIDTH, _PANEL / height)
            axes = figure.add_axes(box, label=f'alpha.{stage}.{layer}')
            _draw_panel(axes, kept, space, (stage, layer), start)
            # Room for the width of a line that runs along the limit.
            margin = 0.02 * (limits[1] - limits[0])
            axes.set_ylim(limits[0] - margin, limits[1] + margin)
            axes.tick_params(labelleft=column == 0, labelbottom=layer == layers[-1])
    free = (_LEFT + (len(stages) - 1) * (width + _COLUMN_GAP), height - top - depths[-1] * _ROW - 46)
    _draw_legend(figure, space, free if beside else (_LEFT, height - 62), columns=1 if beside else 8)
    _draw_strips(figure, kept, start, height)
    return figure


def _thin(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """At most about `_POINTS` records, evenly chosen, the last among them."""
    step = ceil(len(records) / _POINTS)
    return records[::-1][::step][::-1]


def _limits(values: Iterable[float]) -> tuple[float, float]:
    """Limits that hold all probabilities, in steps of 0.05 and at least 0.1 apart.

    Otherwise the noise of alpha's first values would look like a movement.
    """
    finite = [value for value in values if isfinite(value)] or [0.0, 1.0]
    low = max(0.0, floor(min(finite) * 20 - 0.2) / 20)
    high = min(1.0, ceil(max(finite) * 20 + 0.2) / 20)
    return (low, high) if high - low >= 0.1 else (max(0.0, low - 0.05), low + 0.1)


def _draw_title(
    figure: Figure, records: tuple[Record, ...], space: SearchSpace, start: int | None, height: float
) -> None:
    first, last = records[0], records[-1]
    figure.text(_LEFT / WIDTH, 1 - 28 / height, 'How alpha moved', size=17, weight='bold', color=INK, va='center')
    layers = len(searched_layers(space))
    note = f'softmax(alpha) of {layers} searched layers, iterations {first.iteration} to {last.iteration}'
    note += f'; arch steps seen from {start}' if start is not None else ''
    figure.text(1 - _RIGHT / WIDTH, 1 - 28 / height, note, size=11.5, color=FAINT, va='center', ha='right', gid='note')


def _draw_panel(
    axes: Axes, records: tuple[Record, ...], space: SearchSpace, place: tuple[int, int], start: int | None
) -> None:
    """A line per candidate, titled with the most probable one."""
    stage, layer = place
    tokens = space.stages[stage].layers[layer]
    styles = candidate_styles(_tokens(space))
    values = [record.alpha[f'{stage}.{layer}'] for record in records]
    iterations = [record.iteration for record in records]
    best = max(range(len(tokens)), key=values[-1].__getitem__)
    for index, token in enumerate(tokens):
        colour, style = styles[token]
        axes.plot(
            iterations,
            [row[index] for row in values],
            color=colour,
            linestyle=style,
            linewidth=2.4 if index == best else 1.3,
            marker=_marker(records),
            zorder=3 if index == best else 2,
            label=token,
        )
    _dress(axes, iterations, start)
    axes.set_title(f'layer {layer}', loc='left', size=10, color=FAINT, pad=4)
    axes.set_title(f'{tokens[best]}  {values[-1][best]:.2f}', loc='right', size=10, color=INK, pad=4)


def _draw_legend(figure: Figure, space: SearchSpace, corner: tuple[float, float], columns: int) -> None:
    """Lines of all candidates; `corner` is the upper left one, in pixels."""
    tokens = _tokens(space)
    lines = [
        Line2D([], [], color=colour, linestyle=style, linewidth=2, label=token)
        for token, (colour, style) in candidate_styles(tokens).items()
    ]
    width, height = figure.get_size_inches() * _DPI
    legend = figure.legend(
        handles=lines,
        loc='upper left',
        bbox_to_anchor=(corner[0] / width, corner[1] / height),
        ncols=columns,
        fontsize=11,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=3.2,
        labelspacing=0.55,
        labelcolor=INK,
        title='candidate\n(bold: leads at the end)' if columns == 1 else None,
        title_fontsize=10,
        alignment='left',
    )
    legend.get_title().set_color(FAINT)


def _draw_strips(figure: Figure, records: tuple[Record, ...], start: int | None, height: float) -> None:
    iterations = [record.iteration for record in records]
    gap = 66
    width = (WIDTH - _LEFT - _RIGHT - 2 * gap) / 3
    for index, strip in enumerate(_strips(records)):
        left = _LEFT + index * (width + gap)
        box = (left / WIDTH, 48 / height, width / WIDTH, _STRIP / height)
        axes = figure.add_axes(box, label=strip.name)
        for label, values, colour, style in strip.lines:
            (line,) = axes.plot(iterations, values, color=colour, linestyle=style, linewidth=1.8, label=label)
            line.set_drawstyle('steps-post' if strip.name == 'skips' else 'default')
            line.set_marker(_marker(records))
        _dress(axes, iterations, start)
        axes.set_xlabel('iteration', size=10, color=FAINT, labelpad=2)
        axes.set_title(strip.heading, loc='left', size=12, weight='bold', color=INK, pad=8)
        if len(strip.lines) > 1:
            axes.legend(
                loc='lower right',
                bbox_to_anchor=(1.0, 1.0),
                ncols=2,
                fontsize=10,
                frameon=False,
                borderpad=0.2,
                handlelength=2,
                columnspacing=1.2,
                labelcolor=INK,
            )
        _scale(axes, strip)


def _strips(records: tuple[Record, ...]) -> tuple[_Strip, ...]:
    nan = float('nan')
    entropies = [tuple(record.entropy.values()) or (nan,) for record in records]
    mean = ('mean', tuple(sum(row) / len(row) for row in entropies), INK, SOLID)
    least = ('least of all layers', tuple(min(row) for row in entropies), ACCENT, DASHED)
    expected = ('expected', tuple(record.expected_macs for record in records), INK, SOLID)
    argmax = ('argmax', tuple(float(record.argmax_macs) for record in records), ACCENT, DASHED)
    skips = ('skips', tuple(float(record.skips) for record in records), INK, SOLID)
    return (
        _Strip('entropy', 'Entropy', (mean, least)),
        _Strip('macs', 'MAdds', (expected, argmax)),
        _Strip('skips', 'Layers where skip leads', (skips,)),
    )


def _scale(axes: Axes, strip: _Strip) -> None:
    """Ticks and limits that suit what a strip shows."""
    values = [value for line in strip.lines for value in line[1] if isfinite(value)]
    if strip.name == 'entropy':
        axes.set_ylim(0, 1.04)
    elif strip.name == 'skips':
        axes.set_ylim(-0.2, max([*values, 3.0]) * 1.1)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    else:
        middle = (max(values, default=1.0) + min(values, default=1.0)) / 2
        span = max(0.55 * (max(values, default=1.0) - min(values, default=1.0)), 0.02 * middle)
        axes.set_ylim(middle - span, middle + span)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.yaxis.set_major_formatter(_formatter(lambda value: format_count(value, digits=3)))


def _dress(axes: Axes, iterations: list[int], start: int | None) -> None:
    """Frame, ticks and grid that all plots share, and the line at which arch steps start."""
    axes.set_axisbelow(True)
    axes.grid(axis='y', color=RULE, linewidth=0.6)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(RULE)
    axes.tick_params(labelsize=9.5, colors=FAINT, length=3, color=RULE)
    # One record is a point, for which there are no limits that differ.
    axes.set_xlim(iterations[0], iterations[-1] if len(iterations) > 1 else iterations[0] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, prune='upper'))
    axes.xaxis.set_major_formatter(_formatter(_short))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    if start is not None:
        axes.axvline(start, color=FAINT, linewidth=1, linestyle=(0, (2, 2)), zorder=1, gid='start')


def _tokens(space: SearchSpace) -> tuple[str, ...]:
    """All candidates of searched layers, each once, in the order in which the space first names them."""
    return tuple(dict.fromkeys(token for i, j in searched_layers(space) for token in space.stages[i].layers[j]))


def _formatter(write: Callable[[float], str]) -> FuncFormatter:
    return FuncFormatter(lambda value, _: write(value) if value >= 0 else '')


def _marker(records: tuple[Record, ...]) -> str:
    """A line through a single record would not be seen."""
    return 'o' if len(records) == 1 else ''


def _short(value: float) -> str:
    return f'{value / 1000:g}k' if value >= 10000 else f'{value:g}'
