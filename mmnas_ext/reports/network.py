"""Figure of a network as a chain of stages, on its own or beneath the seed that it was made from."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from mmnas_ext.archs import STEMS, ArchSpec, BlockSpec, cost, places
from mmnas_ext.archs.cost import total_cost
from mmnas_ext.reports.canvas import DPI, WIDTH, Style, canvas, save
from mmnas_ext.reports.palette import FAINT, FOUND, INK, PANEL, PAPER, RULE, SEED, kernel_colour, tint
from mmnas_ext.reports.table import format_count, format_size

_MARGIN = 32
_TITLE = 84
_ROW = 240
_BARS = 190
_GAP = 20
_PAD = 9
_BOX_GAP = 5
_MIN_COLUMN = 84
_END_COLUMN = 80
_BASE = 104


@dataclass(frozen=True)
class _Row:
    """One network of the figure: its name, parts and place."""

    name: str
    kind: str
    arch: ArchSpec
    shares: tuple[int, ...]
    macs: int
    params: int
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]


class _Column(NamedTuple):
    """Left edge, width and middle in pixels: the stem's, each stage's, the head's."""

    left: float
    width: float
    middle: float


def draw_network(arch: ArchSpec, out: str | Path, **options: Any) -> Path:
    """Draws `network_figure` with these options into a file, which is returned."""
    return save(network_figure(arch, **options), out)


def network_figure(
    arch: ArchSpec,
    *,
    seed: ArchSpec | None = None,
    input_size: tuple[int, int],
    output_stride: int = 32,
    head: bool = False,
    title: str = 'Found network',
) -> Figure:
    """Shows a network as a chain of stages, 1400 pixels wide, a box per layer, and the MAdds of every stage beneath.

    Artists carry a ``gid``: ``found.layer.<stage>.<layer>`` is a layer's box, ``found.bar.<part>`` a part's MAdds
    (part 0 is the stem), and so with ``seed``.

    Args:
        arch: The network.
        seed: Network to show above it on the same scale, if any.
        input_size: Height and width in pixels that MAdds and resolutions are given for.
        output_stride: As in `mmnas_ext.archs.cost`.
        head: Whether the 1x1 head convolution of networks that have one is drawn and counted.
        title: Heading of the figure.

    Raises:
        ValueError: `input_size` or `output_stride` is out of range.
    """
    rows = [_row('Found', 'found', arch, input_size, output_stride, head)]
    if seed is not None:
        rows.insert(0, _row('Seed', 'seed', seed, input_size, output_stride, head))
    scale, columns = _layout(rows)
    height = _TITLE + _ROW * len(rows) + _BARS
    figure = canvas(title, f'multiply-adds at {format_size(input_size)} input', height, left=_MARGIN)
    # One axes whose units are pixels, y upwards: places below are then plain arithmetic.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
    axes.set_axis_off()
    _draw_legend(axes, rows, height - 58)
    for index, row in enumerate(rows):
        _draw_row(axes, row, columns, scale, top=height - _TITLE - index * _ROW, heading=len(rows) > 1, base=rows[0])
    _draw_bars(axes, rows, columns, top=_BARS)
    return figure


def stage_macs(
    arch: ArchSpec, input_size: tuple[int, int], output_stride: int = 32, head: bool = False
) -> tuple[int, ...]:
    """MACs of the stem, of each stage and, if `head` and there is one, of the head: they sum up to the network's."""
    walk = places(arch, input_size, output_stride)
    parts = [(walk.stem,), *walk.stages, *([(walk.head,)] if head and walk.head else [])]
    return tuple(total_cost(part).macs for part in parts)


def _row(name: str, kind: str, arch: ArchSpec, size: tuple[int, int], output_stride: int, head: bool) -> _Row:
    total = cost(arch, size, output_stride, head=head and arch.head_channels is not None)
    walk = places(arch, size, output_stride)
    ends = [walk.stem, *(stage[-1] for stage in walk.stages)]
    sizes, strides = (tuple(place.out_size for place in ends), tuple(place.reached for place in ends))
    return _Row(name, kind, arch, stage_macs(arch, size, output_stride, head), *total, sizes, strides)


def _box_width(kernel: int) -> float:
    return 14 + 5.5 * min(kernel, 11)


def _box_height(expansion: float) -> float:
    return 42 + 10 * min(expansion - 1, 6)


def _layout(rows: list[_Row]) -> tuple[float, list[_Column]]:
    """Scale of the boxes' widths and the columns, the same for all rows so that stages stand beneath each other."""
    count = max(len(row.arch.stages) for row in rows)
    ends = 1 + any(len(row.shares) > len(row.arch.stages) + 1 for row in rows)
    room = WIDTH - 2 * _MARGIN - ends * _END_COLUMN - _GAP * (count + ends - 1)

    def widths(scale: float) -> list[float]:
        found = [float(_MIN_COLUMN)] * count
        for row in rows:
            for index, stage in enumerate(row.arch.stages):
                boxes = sum(scale * _box_width(spec.kernel) for spec in stage.specs)
                found[index] = max(found[index], boxes + _BOX_GAP * (len(stage.layers) - 1) + 2 * _PAD)
        return found

    scale = next((s / 100 for s in range(115, 10, -1) if sum(widths(s / 100)) <= room), 0.1)
    stages = widths(scale)
    spare = max(0.0, room - sum(stages)) / count
    left = float(_MARGIN)
    columns = []
    for width in [_END_COLUMN, *(width + spare for width in stages), *[_END_COLUMN] * (ends - 1)]:
        columns.append(_Column(left, width, left + width / 2))
        left += width + _GAP
    return scale, columns


def _draw_legend(axes: Axes, rows: list[_Row], y: float) -> None:
    """Colour and width of the kernels, height of the expansions that occur."""
    specs = [spec for row in rows for stage in row.arch.stages for spec in stage.specs]
    x, style = float(_MARGIN), {'size': 11, 'color': FAINT, 'ha': 'left'}
    for kernel in sorted({spec.kernel for spec in specs}):
        _draw_box(axes, x, y, 0.42 * _box_width(kernel), 17, kernel, gid=f'legend.kernel.{kernel}')
        x += 0.42 * _box_width(kernel) + 6
        _write(axes, x, y, f'{format_size((kernel, kernel))} kernel', **style)
        x += 100
    for expansion in sorted({spec.expansion for spec in specs}):
        height = 0.26 * _box_height(expansion)
        axes.add_patch(Rectangle((x, y - height / 2), 12, height, facecolor=PANEL, edgecolor=FAINT, linewidth=1))
        end = _write(axes, x + 18, y, f'expansion {expansion}', **style)
        x = max(x + 124, end + 22)
    words = ['se  squeeze-excite'] if any(spec.se for spec in specs) else []
    for text in [*words, *sorted({f'{spec.title}s' for spec in specs if spec.prefix})]:
        x = _write(axes, x, y, text, **style) + 22


def _draw_row(
    axes: Axes, row: _Row, columns: list[_Column], scale: float, *, top: float, heading: bool, base: _Row
) -> None:
    """Heading, chain of boxes, and channels and resolution of every stage; `top` is the row's upper edge."""
    facts = f'{format_count(row.macs)} MAdds   {format_count(row.params)} parameters   {sum(row.arch.depths)} layers'
    if row is not base:
        facts += f'   ({_change(row.macs, base.macs)} MAdds, {_change(row.params, base.params)} parameters)'
    name = f'{row.name}:  ' if heading else ''
    y = top - 18
    style: Style = {'size': 12.5, 'ha': 'left'}
    end = _write(axes, _MARGIN, y, name, weight='bold', gid=f'{row.kind}.name', **style)
    _write(axes, end if name else _MARGIN, y, facts, gid=f'{row.kind}.facts', **style)
    middle = top - 136
    used = columns[: len(row.arch.stages) + 1]
    stem = STEMS[row.arch.stem]
    text = f'{format_size((stem.kernel, stem.kernel))} /{stem.stride}\n{row.arch.stem_channels} ch'
    _draw_end(axes, used[0], middle, 'stem', text, row, 0)
    for index, column in enumerate(used[1:]):
        _draw_stage(axes, row, index, column, scale, middle)
    if len(row.shares) > len(used):
        used = [*used, columns[-1]]
        text = f'{format_size((1, 1))}\n{row.arch.head_channels} ch'
        _draw_end(axes, columns[-1], middle, 'head', text, row, len(row.sizes) - 1)
    for before, after in pairwise(used):
        ends = ((before.left + before.width + 2, middle), (after.left - 2, middle))
        arrow: Style = {'arrowstyle': '-|>', 'mutation_scale': 10, 'linewidth': 1.2, 'color': FAINT}
        axes.add_patch(FancyArrowPatch(*ends, shrinkA=0, shrinkB=0, **arrow))


def _draw_stage(axes: Axes, row: _Row, index: int, column: _Column, scale: float, middle: float) -> None:
    _write(axes, column.middle, middle + 69, f'stage {index}', size=10, color=FAINT)
    _write(axes, column.middle, middle + 85, f'{row.arch.stages[index].channels} ch', size=11.5, weight='bold')
    low = middle - _BASE / 2 - _PAD / 2
    _draw_round(axes, column.left, low, column.width, _BASE + _PAD, 8, facecolor=PANEL, edgecolor='none')
    specs = row.arch.stages[index].specs
    widths = [scale * _box_width(spec.kernel) for spec in specs]
    x = column.middle - (sum(widths) + _BOX_GAP * (len(widths) - 1)) / 2
    for layer, (spec, width) in enumerate(zip(specs, widths, strict=True)):
        _draw_layer(axes, x, middle, width, spec, gid=f'{row.kind}.layer.{index}.{layer}')
        x += width + _BOX_GAP
    _draw_size(axes, column, middle, row, index + 1)


def _draw_size(axes: Axes, column: _Column, middle: float, row: _Row, part: int) -> None:
    _write(axes, column.middle, middle - 70, format_size(row.sizes[part]), size=10.5)
    _write(axes, column.middle, middle - 87, f'stride {row.strides[part]}', size=10, color=FAINT)


def _draw_end(axes: Axes, column: _Column, middle: float, name: str, text: str, row: _Row, part: int) -> None:
    """Stem or head: one plain box."""
    width, style = column.width - 2 * _PAD + 8, {'facecolor': PAPER, 'edgecolor': FAINT, 'linewidth': 1.1}
    _draw_round(axes, column.middle - width / 2, middle - 34, width, 68, 4, gid=f'{row.kind}.{name}', **style)
    _write(axes, column.middle, middle, text, size=9.5, linespacing=1.4)
    _write(axes, column.middle, middle + 77, name, size=11.5, weight='bold')
    _draw_size(axes, column, middle, row, part)


def _draw_layer(axes: Axes, x: float, middle: float, width: float, layer: BlockSpec, gid: str) -> None:
    _draw_box(axes, x, middle, width, _box_height(layer.expansion), layer.kernel, gid)
    lines = [f'k{layer.kernel}', f'e{layer.expansion}', *(['se'] if layer.se else [])]
    # Two characters take about 1.4 em; below 6 points a label is noise, and the legend tells colour and height anyway.
    room = (0.84 * width / 1.4, (_box_height(layer.expansion) - 8) / (1.15 * len(lines)))
    size = min(11.0, *(pixels * 72 / DPI for pixels in room))
    if size >= 6:
        _write(axes, x + width / 2, middle, '\n'.join(lines), gid=f'{gid}.label', size=size, linespacing=1.15)


def _draw_box(axes: Axes, x: float, middle: float, width: float, height: float, kernel: int, gid: str) -> None:
    face, edge = tint(kernel_colour(kernel), 0.38), kernel_colour(kernel)
    _draw_round(axes, x, middle - height / 2, width, height, 3, facecolor=face, edgecolor=edge, linewidth=1.4, gid=gid)


def _draw_round(axes: Axes, left: float, low: float, width: float, height: float, radius: int, **style: Any) -> None:
    shape = f'round,pad=0,rounding_size={radius}'
    axes.add_patch(FancyBboxPatch((left, low), width, height, boxstyle=shape, **style))


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> float:
    """Writes a text, centred unless `style` says otherwise; returns where it ends."""
    return axes.text(x, y, text, **{'color': INK, 'ha': 'center', 'va': 'center', **style}).get_window_extent().x1


def _draw_bars(axes: Axes, rows: list[_Row], columns: list[_Column], top: float) -> None:
    """MAdds of every part, one bar a network, beneath the part's column."""
    floor, room = 22.0, 84.0
    y, title = top - 26, 'MAdds per stage and share of the total'
    x = _write(axes, _MARGIN, y, title, size=12.5, weight='bold', ha='left') + 26
    colours = {'seed': SEED, 'found': FOUND}
    for row in rows if len(rows) > 1 else ():
        axes.add_patch(Rectangle((x, y - 6), 12, 12, facecolor=colours[row.kind]))
        x = _write(axes, x + 18, y, row.name, size=11, color=FAINT, ha='left') + 22
    axes.plot((_MARGIN - 6, WIDTH - _MARGIN + 6), (floor, floor), color=RULE, linewidth=1)
    highest = max(share for row in rows for share in row.shares)
    for index, row in enumerate(rows):
        for part, share in enumerate(row.shares):
            column = columns[-1] if part > len(row.arch.stages) else columns[part]
            slot = min(56.0, (column.width + _GAP - 6) / len(rows))
            x = column.middle + slot * (index - len(rows) / 2)
            height = room * share / highest
            gid = f'{row.kind}.bar.{part}'
            axes.add_patch(Rectangle((x + 4, floor), slot - 8, height, facecolor=colours[row.kind], gid=gid))
            text = f'{format_count(share, digits=3)}\n{100 * share / row.macs:.0f} %'
            style: Style = {'size': 9.0 if slot >= 50 else 8.0, 'va': 'bottom', 'linespacing': 1.25}
            _write(axes, x + slot / 2, floor + height + 4, text, gid=f'{gid}.label', **style)


def _change(value: int, base: int) -> str:
    return f'{100 * (value / base - 1):+.1f} %'.replace('-', '\N{MINUS SIGN}')
