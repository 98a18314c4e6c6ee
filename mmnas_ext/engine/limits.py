"""Cost limits of a search: by what it is priced, and the most probable network within a limit."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmengine.logging import print_log

from mmnas_ext.archs import ArchSpec, Choices, LatencyTable, Limit, Prices, SearchSpace, cost, price, prices
from mmnas_ext.archs.metrics import Metric, metric_of, show
from mmnas_ext.backbones import SuperNet
from mmnas_ext.search.between import best_between, best_path, steps_between, telling


@dataclass(frozen=True)
class CostTerm:
    """What a search is told about cost: ``optim_wrapper.cost``.

    Args:
        weight: λ of the arch loss.
        target: Another name of `max`.
        metric: ``'macs'`` as in the paper, ``'params'``, ``'latency'`` or another name in `METRICS`.
        table: Of the latency, anything that `LatencyTable.parse` reads.
        min: What the derived network must cost at least, in the metric's own figures; ``None`` for no bound.
        max: What it may cost at most.

    Raises:
        ValueError: An argument is out of range, both names of `max` are given, or the table does not go with the
            metric.
        FileNotFoundError: The table is a path that does not exist.
    """

    weight: float = 0.0
    target: float | None = None
    metric: str = 'macs'
    table: LatencyTable | None = None
    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float) or math.isnan(self.weight):
            raise ValueError(f'cost.weight must be a number, got {self.weight!r}')
        if self.weight < 0:
            raise ValueError(f'cost.weight must not be negative, got {self.weight}')
        if self.target is not None and self.max is not None:
            raise ValueError(f'cost.target is another name of cost.max, got both: {self.target!r} and {self.max!r}')
        try:
            object.__setattr__(self, 'table', self.by.read_table(self.table))
        except (ValueError, TypeError) as error:
            raise ValueError(f'optim_wrapper.cost: {error}') from None
        _ = self.limit  # refuses bounds that are not numbers or that cross

    @property
    def by(self) -> Metric:
        """The metric."""
        return metric_of(self.metric)

    @property
    def limit(self) -> Limit:
        """What the derived network may cost."""
        highest = self.max if self.target is None else self.target
        return Limit.parse({'min': self.min, 'max': highest}, 'cost', self.max_name)

    @property
    def max_name(self) -> str:
        """What the highest cost was called."""
        return 'max' if self.target is None else 'target'

    def slack(self, priced: Prices) -> list[str]:
        """Says of each bound that all networks meet that it limits nothing, a sentence each."""
        return self.limit.slack(self.by, priced.range(), 'cost', self.max_name)

    @classmethod
    def parse(cls, cfg: Mapping[str, Any] | None) -> 'CostTerm':
        """Reads ``dict(weight=λ, min=…, max=…, metric=…, table=…)``, all of which may be left out.

        Raises:
            ValueError: As above, or a key is unknown.
            FileNotFoundError: As above.
        """
        cfg = dict(cfg or {})
        known = [field.name for field in fields(cls)]
        if set(cfg) - set(known):
            raise ValueError(f'optim_wrapper.cost takes {", ".join(known)}, got {sorted(cfg)}')
        return cls(**cfg)

    def prices(self, space: SearchSpace, size: tuple[int, int], output_stride: int = 32) -> Prices:
        """What the space costs by this metric, the limit seen to be within its reach; a slack one is warned of.

        Raises:
            ValueError: No network meets the limit, or the table lacks layers of this space.
        """
        priced = prices(space, size, output_stride, self.metric, self.table)
        check_limit(priced, self.limit, size, self.max_name)
        for sentence in self.slack(priced):
            print_log(sentence, logger='current', level=logging.WARNING)
        return priced

    def describe(self, arch: ArchSpec, size: tuple[int, int], output_stride: int = 32) -> str:
        """What a network costs, in words: multiply-adds, parameters and the metric where that is another one."""
        macs, params = cost(arch, size, output_stride)
        text = f'{show("macs", macs)}, {show("params", params)}'
        if self.metric in ('macs', 'params'):
            return text
        try:
            return f'{text}, {self.by.show(price(arch, size, output_stride, self.metric, self.table))}'
        except ValueError:  # a seed need not be a network of the space that was measured
            return f'{text}, {self.by.title} not known: the table lacks some of its layers'


def check_limit(priced: Prices, limit: Limit, size: tuple[int, int], max_name: str = 'max') -> None:
    """Raises ValueError, naming the reachable range, where no network lies within a limit.

    Args:
        priced: Prices of the space.
        limit: The limit.
        size: Height and width that were priced, for the message.
        max_name: What the highest cost is called, for the message.
    """
    reach, at = priced.range(), f' at {size[0]}x{size[1]}'
    limit.check(priced.by, reach, 'cost', max_name, at)
    undecided = [[(priced.by.steps(figure), 0.0) for figure in row] for row in priced.searched().values()]
    with telling(priced, limit):
        found = best_between(undecided, *steps_between(priced, limit))
    if found is None:
        raise ValueError(
            f'no network of this space costs {limit.show(priced.by)}, though they cost {priced.show(*reach)}{at}: '
            'widen the limit'
        )


def derive_path(supernet: SuperNet, limit: Any = None, priced: Prices | None = None) -> Choices:
    """The most probable candidates under softmax(alpha), of those networks whose cost lies within a limit.

    Without one that is each layer's argmax (the first of equals). With one, the product of probabilities is
    maximised exactly: minus log-probabilities and costs both add up over layers.

    Args:
        supernet: The super-network.
        limit: What `Limit.parse` reads, in the metric's own figures.
        priced: Prices of its space; multiply-adds by default.

    Raises:
        ValueError: No network lies within the limit (names the reachable range), or an alpha is NaN or infinite.
    """
    wanted = Limit.parse(limit, 'cost')
    best = supernet.best_path()
    if wanted == Limit():
        return best
    priced = priced or prices(supernet.space, supernet.input_size, supernet.output_stride)
    check_limit(priced, wanted, supernet.input_size)
    layers = supernet.mixed_layers()
    surprises = [(-layers[name].alpha.detach().double().cpu().log_softmax(0)).tolist() for name in priced.searched()]
    found = best_path(priced, surprises, wanted)
    assert found is not None, 'check_limit has seen to it'
    return found


def derive(supernet: SuperNet, limit: Any = None, priced: Prices | None = None) -> ArchSpec:
    """The network of `derive_path`, with the batch-norm epsilon that the super-network computes with."""
    return supernet.space.arch(derive_path(supernet, limit, priced)).replace(bn_eps=supernet.bn_eps)
