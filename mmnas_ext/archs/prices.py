"""What the networks of a space cost by one of `METRICS`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmnas_ext.archs.blocks import SKIP
from mmnas_ext.archs.cells import CellSpace
from mmnas_ext.archs.latency_table import Geometry
from mmnas_ext.archs.metrics import Metric, Pricing, Unit, metric_of
from mmnas_ext.archs.places import Place, Size, cell_places, places
from mmnas_ext.archs.space import Choices, SearchSpace
from mmnas_ext.archs.spec import ArchSpec


@dataclass(frozen=True)
class Prices:
    """Prices of all networks of a space by one metric.

    Args:
        metric: One of `METRICS`.
        stem: Price of the stem.
        layers: Per stage, per layer, per candidate, in the space's order (layers with a single candidate as well);
            a skip is free.
    """

    metric: str
    stem: float
    layers: tuple[tuple[tuple[float, ...], ...], ...]

    def __post_init__(self) -> None:
        metric_of(self.metric)

    @property
    def by(self) -> Metric:
        """The metric."""
        return metric_of(self.metric)

    @property
    def unit(self) -> Unit:
        """How figures are written."""
        return self.by.unit

    @cached_property
    def fixed(self) -> float:
        """What every network pays: stem and layers with a single candidate."""
        return self.by.total([self.stem, *(row[0] for stage in self.layers for row in stage if len(row) == 1)])

    def searched(self) -> dict[str, tuple[float, ...]]:
        """Prices of the candidates of each searched layer by ``'<stage>.<layer>'``, in order."""
        return {
            f'{i}.{j}': layer for i, stage in enumerate(self.layers) for j, layer in enumerate(stage) if len(layer) > 1
        }

    def range(self) -> tuple[float, float]:
        """Price of the cheapest and of the most expensive network, stem and fixed layers included."""
        rows = [row for stage in self.layers for row in stage]
        return self.by.total([self.stem, *map(min, rows)]), self.by.total([self.stem, *map(max, rows)])

    def path(self, path: Choices) -> float:
        """Price of the network of a candidate per layer, stem and fixed layers included.

        Raises:
            ValueError: The path does not fit the space.
        """
        wanted, got = tuple(map(len, self.layers)), tuple(map(len, path))
        if wanted != got:
            raise ValueError(f'path must have {wanted} entries per stage, got {got}')
        parts = [self.stem]
        for i, (stage, choices) in enumerate(zip(self.layers, path, strict=True)):
            for j, (layer, choice) in enumerate(zip(stage, choices, strict=True)):
                if not 0 <= choice < len(layer):
                    raise ValueError(f'path[{i}][{j}] must lie in 0..{len(layer) - 1}, got {choice}')
                parts.append(layer[choice])
        return self.by.total(parts)

    def show(self, *figures: float) -> str:
        """Figures for people, as `Metric.show`."""
        return self.by.show(*figures)


# per stage, by (entering width, index of the cell): the cell's prices, in the first stage with the stem's
CellPrices = tuple[dict[tuple[int, int], Prices], ...]


def prices(space: SearchSpace, size: Size, output_stride: int = 32, metric: str = 'macs', table: Any = None) -> Prices:
    """Prices every candidate of a space.

    Args:
        space: The search space.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.
        metric: ``'macs'`` (multiply-adds for one image), ``'params'``, ``'latency'`` (milliseconds for one batch of
            the table's size; additive) or another name in `METRICS`.
        table: Of the latency: anything that `LatencyTable.parse` reads.

    Raises:
        ValueError: An argument is out of range, a table is missing or given to another metric, or it lacks an entry
            for this space, size and output stride.
        FileNotFoundError: The table is a path that does not exist.
    """
    walk = places(space, size, output_stride)
    pricing = _pricing(metric, table, space.act, [walk.stem, *walk.layers], output_stride)
    (stem,) = _price(walk.stem, pricing)
    return Prices(metric, stem, tuple(tuple(_price(place, pricing) for place in stage) for stage in walk.stages))


def cell_prices(
    space: CellSpace, size: Size, output_stride: int = 32, metric: str = 'macs', table: Any = None
) -> CellPrices:
    """Prices every candidate of every cell for every width that may enter it.

    Args:
        space: The space.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.
        metric: As in `prices`.
        table: As in `prices`.

    Returns:
        Per stage the prices of its cells, each a `Prices` of one stage, by (entering width, index of the cell). What
        enters the first stage has paid the stem. A network's `price` is the sum over its cells.

    Raises:
        ValueError: As in `prices`.
        FileNotFoundError: The table is a path that does not exist.
    """
    stem, stages = cell_places(space, size, output_stride)
    everywhere = [stem, *(place for stage in stages for row in stage.values() for place in row)]
    pricing = _pricing(metric, table, space.act, everywhere, output_stride)
    (paid,) = _price(stem, pricing)
    return tuple(
        {
            key: Prices(metric, 0 if number else paid, (tuple(_price(place, pricing) for place in row),))
            for key, row in stage.items()
        }
        for number, stage in enumerate(stages)
    )


def price(arch: ArchSpec, size: Size, output_stride: int = 32, metric: str = 'macs', table: Any = None) -> float:
    """Prices one network: stem and stages, in multiply-adds, parameters or milliseconds.

    Of a network of a space this is what `Prices.path` gives for its path.

    Args:
        arch: The network.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.
        metric: As in `prices`.
        table: As in `prices`.

    Raises:
        ValueError: As in `prices`.
        FileNotFoundError: The table is a path that does not exist.
    """
    walk = places(arch, size, output_stride)
    layers = [walk.stem, *walk.layers]
    pricing = _pricing(metric, table, arch.act, layers, output_stride)
    return metric_of(metric).total([pricing(place, place.tokens[0]) for place in layers])


def entries(space: SearchSpace, size: Size, output_stride: int = 32) -> tuple[Geometry, ...]:
    """What a latency table of a space holds: the stem and every candidate of every layer, equal geometries once.

    Args:
        space: The search space.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.

    Raises:
        ValueError: The size or output stride is out of range.
    """
    walk = places(space, size, output_stride)
    return _geometries([walk.stem, *walk.layers])


def _price(place: Place, pricing: Pricing) -> tuple[float, ...]:
    return tuple(pricing(place, token) for token in place.tokens)


def _geometries(layers: Iterable[Place]) -> tuple[Geometry, ...]:
    found = (Geometry.of(place, token) for place in layers for token in place.tokens if token != SKIP)
    return tuple(dict.fromkeys(found))


def _pricing(metric: str, table: Any, act: str, layers: Sequence[Place], output_stride: int) -> Pricing:
    """What prices these layers; raises ValueError where a table was not measured for them."""
    measured = metric_of(metric).read_table(table)
    if measured is not None:
        height, width = layers[0].size
        again = (
            f'measure this space with mmnas latency at input size {height} {width} and output stride {output_stride}'
        )
        if measured.act != act:
            raise ValueError(
                f'the latency table of {measured.device} has activation {measured.act!r}, wanted is {act!r}: {again}'
            )
        wanted = _geometries(layers)
        missing = [layer for layer in wanted if layer not in measured]
        if missing:
            raise ValueError(
                f'the latency table of {measured.device} lacks {len(missing)} of {len(wanted)} layers, '
                f'the first is {missing[0]}: {again}'
            )
    return metric_of(metric).pricing(measured)
