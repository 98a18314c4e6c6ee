"""What the networks of a space cost by a metric of the user's choice: multiply-adds, parameters or measured latency.

Every metric adds up over layers. Of multiply-adds and parameters that is exact. Of latency it is a model: a network's
is the sum of its layers' latencies, each measured alone (`LatencyTable`), so what a device gains or loses between
layers (fusion, caches, the start of a kernel while another one runs) is not in it. Units are multiply-adds for one
image, parameters, and milliseconds for one batch; latencies count in whole nanoseconds, so that sums are exact in
any order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmnas_ext.archs.cost import (
    IMAGE_CHANNELS,
    STEM_STRIDE,
    Size,
    candidate_costs,
    check_size,
    cost,
    effective_strides,
    fixed_cost,
    shrink,
)
from mmnas_ext.archs.latency_table import STEM, Geometry, LatencyTable
from mmnas_ext.archs.space import Choices, SearchSpace, SpaceStage
from mmnas_ext.archs.spec import SKIP, ArchSpec, StageSpec

METRICS = ('macs', 'params', 'latency')


class Unit(NamedTuple):
    """How a metric's figures are written.

    Args:
        size: The figure that is written as 1; the arch loss takes the logarithm of figures over it.
        name: What stands behind a figure that is written so.
        plain: What a figure counts that is not divided.
        steps: Smallest steps per 1 of the metric's own figures.
    """

    size: float
    name: str
    plain: str
    steps: int


UNITS = {
    'macs': Unit(1e9, 'G multiply-adds', 'multiply-adds', 1),
    'params': Unit(1e6, 'M parameters', 'parameters', 1),
    # table entries are rounded to nanoseconds, far below what can be measured
    'latency': Unit(1.0, 'ms', 'milliseconds', 10**6),
}


@dataclass(frozen=True)
class Prices:
    """Prices of all networks of a space by one metric.

    Args:
        metric: One of `METRICS`.
        fixed: What every network pays: stem and layers with a single candidate.
        layers: Per stage, per layer, per candidate, in the space's order (layers with a single candidate as well);
            a skip is free.
    """

    metric: str
    fixed: float
    layers: tuple[tuple[tuple[float, ...], ...], ...]

    def __post_init__(self) -> None:
        check_metric(self.metric)

    @property
    def unit(self) -> Unit:
        """How figures are written."""
        return UNITS[self.metric]

    def searched(self) -> dict[str, tuple[float, ...]]:
        """Prices of the candidates of each searched layer by ``'<stage>.<layer>'``, in order."""
        return {
            f'{i}.{j}': layer for i, stage in enumerate(self.layers) for j, layer in enumerate(stage) if len(layer) > 1
        }

    def range(self) -> tuple[float, float]:
        """Price of the cheapest and of the dearest network, stem and fixed layers included."""
        searched = self.searched().values()
        return (
            total([self.fixed, *map(min, searched)], self.metric),
            total([self.fixed, *map(max, searched)], self.metric),
        )

    def path(self, path: Choices) -> float:
        """Price of a path's network, stem and fixed layers included.

        Raises:
            ValueError: The path does not fit the space.
        """
        wanted, got = tuple(map(len, self.layers)), tuple(map(len, path))
        if wanted != got:
            raise ValueError(f'path must have {wanted} entries per stage, got {got}')
        parts = [self.fixed]
        for i, (stage, choices) in enumerate(zip(self.layers, path, strict=True)):
            for j, (layer, choice) in enumerate(zip(stage, choices, strict=True)):
                if not 0 <= choice < len(layer):
                    raise ValueError(f'path[{i}][{j}] must lie in 0..{len(layer) - 1}, got {choice}')
                if len(layer) > 1:
                    parts.append(layer[choice])
        return total(parts, self.metric)

    def steps(self, figure: float) -> int:
        """A figure in the metric's smallest steps: multiply-adds, parameters, nanoseconds."""
        return round(figure * self.unit.steps)

    def steps_within(self, limit: float) -> int:
        """The most steps whose figure is at most `limit` (finite), itself allowed."""
        steps = self.steps(limit)
        return steps if steps / self.unit.steps <= limit else steps - 1

    def show(self, *figures: float) -> str:
        """One figure for people, ``'4.823 G multiply-adds'``, or a range of two, ``'20.1 to 37.5 ms'``."""
        return show(self.metric, *figures)


def prices(space: SearchSpace, size: Size, output_stride: int = 32, metric: str = 'macs', table: Any = None) -> Prices:
    """Prices every candidate of a space.

    Args:
        space: The search space.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.
        metric: ``'macs'`` (multiply-adds for one image), ``'params'`` or ``'latency'`` (milliseconds for one batch of
            the table's size; additive, see above).
        table: Of the latency: anything that `LatencyTable.parse` reads.

    Raises:
        ValueError: An argument is out of range, a table is missing or given to another metric, or it lacks an entry
            for this space, size and output stride.
        FileNotFoundError: The table is a path that does not exist.
    """
    measured = read_table(metric, table)
    if measured is None:
        # `Cost` has the fields that these two metrics are named by
        layers = tuple(
            tuple(tuple(getattr(each, metric) for each in layer) for layer in stage)
            for stage in candidate_costs(space, size, output_stride)
        )
        return Prices(metric, getattr(fixed_cost(space, size, output_stride), metric), layers)
    _check_entries(measured, space.act, entries(space, size, output_stride), size, output_stride)
    layers = tuple(
        tuple(
            tuple(0.0 if token == SKIP else measured[place._replace(token=token)] for token in tokens)
            for tokens, place in zip(stage.layers, places, strict=True)
        )
        for stage, places in zip(space.stages, _places(space, size, output_stride), strict=True)
    )
    single = [layer[0] for stage in layers for layer in stage if len(layer) == 1]
    return Prices(metric, total([measured[_stem(space, size)], *single], metric), layers)


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
    measured = read_table(metric, table)
    if measured is None:
        return int(getattr(cost(arch, size, output_stride), metric))
    layers = [_stem(arch, size)]
    for stage, places in zip(arch.stages, _places(arch, size, output_stride), strict=True):
        layers += [place._replace(token=token) for place, token in zip(places, stage.layers, strict=True)]
    _check_entries(measured, arch.act, layers, size, output_stride)
    return total([measured[layer] for layer in layers], metric)


def entries(space: SearchSpace, size: Size, output_stride: int = 32) -> tuple[Geometry, ...]:
    """What a latency table of a space holds: the stem and every candidate of every layer, equal geometries once.

    Args:
        space: The search space.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.

    Raises:
        ValueError: The size or output stride is out of range.
    """
    found = [_stem(space, size)]
    for stage, places in zip(space.stages, _places(space, size, output_stride), strict=True):
        for place, tokens in zip(places, stage.layers, strict=True):
            found += [place._replace(token=token) for token in tokens if token != SKIP]
    return tuple(dict.fromkeys(found))


def check_metric(metric: Any) -> None:
    """Raises ValueError unless `metric` is one of `METRICS`."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(f'metric must be one of {METRICS}, got {metric!r}')


def read_table(metric: Any, table: Any) -> LatencyTable | None:
    """The latency table where the metric is latency, else ``None``.

    Raises:
        ValueError: Another metric than `METRICS`, a table is missing or given to a metric that has none, or malformed.
        FileNotFoundError: The table is a path that does not exist.
    """
    check_metric(metric)
    if metric != 'latency':
        if table is not None:
            raise ValueError(f"table goes with metric='latency' alone, got one with metric={metric!r}")
        return None
    if table is None:
        raise ValueError("metric='latency' needs table=…, what tools/measure_latency.py wrote, got none")
    return LatencyTable.parse(table)


def show(metric: str, *figures: float) -> str:
    """Figures of a metric for people, as `Prices.show`."""
    size, name = UNITS[metric].size, UNITS[metric].name
    return f'{" to ".join(f"{figure / size:.4g}" for figure in figures)} {name}'


def _stem(spec: ArchSpec | SearchSpace, size: Size) -> Geometry:
    check_size(size)
    return Geometry(STEM, IMAGE_CHANNELS, spec.stem_channels, STEM_STRIDE, 1, *size)


def _places(spec: ArchSpec | SearchSpace, size: Size, output_stride: int) -> list[list[Geometry]]:
    """Where each layer of each stage stands: geometries without a token."""
    stages: tuple[StageSpec | SpaceStage, ...] = spec.stages
    here, dilation = shrink(size, STEM_STRIDE), 1
    found = []
    for stage, stride in zip(stages, effective_strides(stages, output_stride), strict=True):
        # what the output stride takes from the strides widens all depthwise kernels from there on
        dilation *= stage.stride // stride
        channels, row = stage.in_channels, []
        for _ in stage.layers:
            row.append(Geometry('', channels, stage.channels, stride, dilation, *here))
            here = shrink(here, stride)
            channels, stride = stage.channels, 1
        found.append(row)
    return found


def _check_entries(table: LatencyTable, act: str, layers: Sequence[Geometry], size: Size, output_stride: int) -> None:
    """Raises ValueError where a table was not measured for what is to be priced."""
    again = (
        f'measure this space with tools/measure_latency.py at input size {size[0]} {size[1]} '
        f'and output stride {output_stride}'
    )
    if table.act != act:
        raise ValueError(
            f'the latency table of {table.device} has activation {table.act!r}, wanted is {act!r}: {again}'
        )
    missing = [layer for layer in layers if layer not in table]
    if missing:
        raise ValueError(
            f'the latency table of {table.device} lacks {len(missing)} of {len(layers)} layers, '
            f'the first is {missing[0]}: {again}'
        )


def total(parts: Iterable[float], metric: str) -> float:
    """A sum of figures of a metric, exact in its smallest steps, so the same in any order."""
    steps = UNITS[metric].steps
    if steps == 1:
        return sum(parts)
    # in whole steps: the sum is the same in any order, and the one that its decimals give
    return sum(round(part * steps) for part in parts) / steps
