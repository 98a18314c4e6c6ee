"""Cost limits of a search: by what it is priced, and the most probable network within a limit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmnas_ext.archs import ArchSpec, Choices, LatencyTable, Prices, SearchSpace, cost, price, prices
from mmnas_ext.archs.metrics import metric_of, show
from mmnas_ext.backbones import SuperNet
from mmnas_ext.search import front


@dataclass(frozen=True)
class CostTerm:
    """What a search is told about cost: ``optim_wrapper.cost``.

    Args:
        weight: λ of the arch loss.
        target: What the derived network may cost at most, in multiply-adds, parameters or milliseconds; ``None`` for no
            limit.
        metric: ``'macs'`` as in the paper, ``'params'`` or ``'latency'``.
        table: Of the latency, anything that `LatencyTable.parse` reads.

    Raises:
        ValueError: An argument is out of range, or the table does not go with the metric.
        FileNotFoundError: The table is a path that does not exist.
    """

    weight: float = 0.0
    target: float | None = None
    metric: str = 'macs'
    table: LatencyTable | None = None

    def __post_init__(self) -> None:
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float) or math.isnan(self.weight):
            raise ValueError(f'cost.weight must be a number, got {self.weight!r}')
        if self.weight < 0:
            raise ValueError(f'cost.weight must not be negative, got {self.weight}')
        try:
            object.__setattr__(self, 'table', metric_of(self.metric).read_table(self.table))
        except (ValueError, TypeError) as error:
            raise ValueError(f'optim_wrapper.cost: {error}') from None

    @classmethod
    def parse(cls, cfg: Mapping[str, Any] | None) -> 'CostTerm':
        """Reads ``dict(weight=λ, target=…, metric=…, table=…)``, all of which may be left out.

        Raises:
            ValueError: As above, or a key is unknown.
            FileNotFoundError: As above.
        """
        cfg = dict(cfg or {})
        if set(cfg) - {field.name for field in fields(cls)}:
            raise ValueError(f'optim_wrapper.cost takes weight, target, metric and table, got {sorted(cfg)}')
        return cls(**cfg)

    def prices(self, space: SearchSpace, size: tuple[int, int], output_stride: int = 32) -> Prices:
        """What the space costs by this metric, the limit seen to be within its reach.

        Raises:
            ValueError: No network meets the limit, or the table lacks layers of this space.
        """
        priced = prices(space, size, output_stride, self.metric, self.table)
        check_target(priced, self.target, size)
        return priced

    def describe(self, arch: ArchSpec, size: tuple[int, int], output_stride: int = 32) -> str:
        """What a network costs, in words: multiply-adds, parameters and, where that is the metric, latency."""
        macs, params = cost(arch, size, output_stride)
        text = f'{show("macs", macs)}, {show("params", params)}'
        if self.metric != 'latency':
            return text
        try:
            return f'{text}, {show("latency", price(arch, size, output_stride, "latency", self.table))}'
        except ValueError:  # a seed need not be a network of the space that was measured
            return f'{text}, latency not known: the table lacks some of its layers'


def check_target(priced: Prices, target: float | None, size: tuple[int, int]) -> None:
    """Raises ValueError, naming the reachable range, where no network costs at most `target`.

    Args:
        priced: Prices of the space.
        target: Limit in the metric's unit, itself allowed, or ``None``.
        size: Height and width that were priced, for the message.
    """
    if target is None:
        return
    if isinstance(target, bool) or not isinstance(target, int | float):
        raise ValueError(f'cost.target must be a number of {priced.unit.plain}, got {target!r}')
    low, high = priced.range()
    if not target >= low:
        raise ValueError(
            f'cost.target must be at least {priced.show(low)}, got {priced.show(target)}: '
            f'networks of this space cost {priced.show(low, high)} at {size[0]}x{size[1]}'
        )


def derive_path(supernet: SuperNet, target: float | None = None, priced: Prices | None = None) -> Choices:
    """The most probable path under softmax(alpha), of those that cost at most `target`.

    Without a target that is each layer's argmax (the first of equals). With one, the product of probabilities is
    maximised exactly: minus log-probabilities and costs both add up over layers.

    Args:
        supernet: The super-network.
        target: Limit in the unit of `priced`, itself allowed.
        priced: Prices of its space; multiply-adds by default.

    Raises:
        ValueError: No path costs at most `target`; names the reachable range.
    """
    layers = supernet.mixed_layers()
    if target is None:
        chosen = {name: int(layer.alpha.argmax()) for name, layer in layers.items()}
    else:
        priced = priced or prices(supernet.space, supernet.input_size, supernet.output_stride)
        check_target(priced, target, supernet.input_size)
        blocks = []
        for name, costs in priced.searched().items():
            surprise = (-layers[name].alpha.detach().double().cpu().log_softmax(0)).tolist()
            blocks.append(list(zip(map(priced.by.steps, costs), surprise, strict=True)))
        # whole steps add up exactly; beyond the dearest network a limit, possibly infinite, means nothing
        limit = priced.by.steps_within(min(target, priced.range()[1]))
        best = front(blocks).best(limit - priced.by.steps(priced.fixed))
        chosen = dict(zip(layers, (int(c) for c in best.choice), strict=True))
    return tuple(
        tuple(chosen.get(f'{i}.{j}', 0) for j in range(len(stage))) for i, stage in enumerate(supernet.layers())
    )


def derive(supernet: SuperNet, target: float | None = None, priced: Prices | None = None) -> ArchSpec:
    """The network of `derive_path`, with the batch-norm epsilon that the super-network computes with."""
    return supernet.space.arch(derive_path(supernet, target, priced)).replace(bn_eps=supernet.bn_eps)
