"""What a network may be priced by: one entry of `METRICS` each, which holds all that differs from metric to metric.

Every metric adds up over layers. Of multiply-adds and parameters that is exact. Of latency it is a model: a network's
is the sum of its layers' latencies, each measured alone (`LatencyTable`), so what a device gains or loses between
layers (fusion, caches, the start of a kernel while another one runs) is not in it. Units are multiply-adds for one
image, parameters, and milliseconds for one batch; latencies count in whole nanoseconds, so that sums are exact in
any order.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmnas_ext.archs.blocks import SKIP
from mmnas_ext.archs.cost import token_cost
from mmnas_ext.archs.latency_table import Geometry, LatencyTable
from mmnas_ext.archs.places import Place

# what a candidate of a place costs
Pricing = Callable[[Place, str], float]


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


@dataclass(frozen=True)
class Metric:
    """One way to price networks.

    Args:
        name: Its name in configs, files and options.
        unit: How its figures are written.
        title: Head of its column in a table.
        curve: Name of its curves, whose figures are in the unit's size.
        price: What a candidate of a place costs, a skip nothing; ``None`` where a table of measurements says it.
        small: Size and name of the unit on the axes of figures whose costs are all below the unit's own size.
    """

    name: str
    unit: Unit
    title: str
    curve: str
    price: Pricing | None = None
    small: tuple[float, str] | None = None

    @property
    def measured(self) -> bool:
        """Whether prices are read off a `LatencyTable`."""
        return self.price is None

    def read_table(self, table: Any) -> LatencyTable | None:
        """The table of a measured metric, ``None`` for another one.

        Raises:
            ValueError: A table is missing, given to a metric that has none, or malformed.
            FileNotFoundError: The table is a path that does not exist.
        """
        if self.measured and table is None:
            raise ValueError(f'metric={self.name!r} needs table=…, what mmnas latency wrote, got none')
        if not self.measured and table is not None:
            takers = ' or '.join(f'metric={name!r}' for name, metric in METRICS.items() if metric.measured)
            raise ValueError(f'table goes with {takers} alone, got one with metric={self.name!r}')
        return None if table is None else LatencyTable.parse(table)

    def pricing(self, table: LatencyTable | None = None) -> Pricing:
        """The function that prices a candidate of a place, by this table where the metric is measured."""
        if self.price is not None:
            return self.price
        assert table is not None, 'read_table has seen to it'
        measured = table
        return lambda place, token: 0.0 if token == SKIP else measured[Geometry.of(place, token)]

    def total(self, parts: Iterable[float]) -> float:
        """A sum of figures, exact in the metric's smallest steps, so the same in any order."""
        steps = self.unit.steps
        if steps == 1:
            return sum(parts)
        # in whole steps: the sum is the same in any order, and the one that its decimals give
        return sum(round(part * steps) for part in parts) / steps

    def steps(self, figure: float) -> int:
        """A figure in the metric's smallest steps: multiply-adds, parameters, nanoseconds."""
        return round(figure * self.unit.steps)

    def steps_within(self, limit: float) -> int:
        """The most steps whose figure is at most `limit` (finite), itself allowed."""
        steps = self.steps(limit)
        return steps if steps / self.unit.steps <= limit else steps - 1

    def steps_from(self, limit: float) -> int:
        """The fewest steps whose figure is at least `limit` (finite), itself allowed."""
        return -self.steps_within(-limit)

    def show(self, *figures: float) -> str:
        """One figure for people, ``'4.823 G multiply-adds'``, or a range of two, ``'20.1 to 37.5 ms'``."""
        return f'{" to ".join(f"{figure / self.unit.size:.4g}" for figure in figures)} {self.unit.name}'


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            'macs', Unit(1e9, 'G multiply-adds', 'multiply-adds', 1), 'MAdds', 'gmacs',
            lambda place, token: token_cost(place, token).macs, (1e6, 'M multiply-adds'),
        ),
        Metric(
            'params', Unit(1e6, 'M parameters', 'parameters', 1), 'parameters', 'mparams',
            lambda place, token: token_cost(place, token).params, (1e3, 'k parameters'),
        ),
        # table entries are rounded to nanoseconds, far below what can be measured
        Metric('latency', Unit(1.0, 'ms', 'milliseconds', 10**6), 'latency', 'latency_ms'),
    )
}  # fmt: skip


def metric_of(name: Any) -> Metric:
    """The metric of a name.

    Raises:
        ValueError: There is no such metric; the message lists those that there are.
    """
    if not isinstance(name, str) or name not in METRICS:
        raise ValueError(f'metric must be one of {tuple(METRICS)}, got {name!r}')
    return METRICS[name]


def show(metric: str, *figures: float) -> str:
    """Figures of a metric for people, as `Metric.show`."""
    return METRICS[metric].show(*figures)
