"""What the cells of a stage cost, by the width that enters them: the first layer's cost depends on the stage before."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mmnas_ext.archs.cells import CellSpace
from mmnas_ext.archs.cost import Size
from mmnas_ext.archs.prices import prices, total

# per layer, per candidate
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class CellPrices:
    """Prices of all cells of a space by one metric.

    Args:
        metric: One of `METRICS`.
        stem: Price of the stem.
        stages: Per stage, by (entering width, cell): the price of every candidate of every layer.
        widths: Per stage and cell: the width that leaves it.
    """

    metric: str
    stem: float
    stages: tuple[dict[tuple[int, int], Rows], ...]
    widths: tuple[tuple[int, ...], ...]

    def total(self, parts: Iterable[float]) -> float:
        """A sum of prices, the same in any order."""
        return total(parts, self.metric)


def cell_prices(
    space: CellSpace, size: Size, output_stride: int = 32, metric: str = 'macs', table: Any = None
) -> CellPrices:
    """Prices every candidate of every cell for every width that may enter it.

    A network's `price` is the sum of the stem's and of its candidates'.

    Args:
        space: The space.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.
        metric: As in `prices`.
        table: As in `prices`.

    Raises:
        ValueError: As in `prices`.
        FileNotFoundError: The table is a path that does not exist.
    """
    plain = prices(space.space(), size, output_stride, metric, table)
    # what every network pays, without its layers of a single candidate
    single = [row[0] for rows in plain.layers for row in rows if len(row) == 1]
    stem = total([plain.fixed, *(-each for each in single)], metric)
    stages = []
    entering = {space.stem_channels: 0}
    for number, stage in enumerate(space.stages):
        found: dict[tuple[int, int], Rows] = {}
        for width, before in entering.items():
            for index in range(len(stage.cells)):
                cells = [0] * len(space.stages)
                cells[number] = index
                if number:
                    cells[number - 1] = before
                found[width, index] = prices(space.space(cells), size, output_stride, metric, table).layers[number]
        stages.append(found)
        entering = {cell.channels: index for index, cell in reversed(list(enumerate(stage.cells)))}
    widths = tuple(tuple(cell.channels for cell in stage.cells) for stage in space.stages)
    return CellPrices(metric, stem, tuple(stages), widths)
