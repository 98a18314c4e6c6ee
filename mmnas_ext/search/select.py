"""From ratings to a network: the exact front, the best network within limits, and the file that tells of both."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmnas_ext.archs import METRICS, ArchSpec, CellPrices, CellSpace, Limit
from mmnas_ext.archs.metrics import show
from mmnas_ext.search.front import Front
from mmnas_ext.search.linked_front import ChainChoice, Link, Links, best_within, chain_front, cost_ranges
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.search.ratings import BlockRatings, Ratings
from mmnas_ext.workdir import WorkDir, write_text


@dataclass(frozen=True)
class Selection:
    """The best network of a rated space within limits.

    Args:
        ratings: The ratings.
        metric: What the front is drawn over: the first limited metric, or the first of all.
        front: The exact front of that metric's cost and the rating, whatever the limits.
        limits: Limit by metric.
        chosen: The network of the lowest rating within all limits.
    """

    ratings: Ratings
    metric: str
    front: Front
    limits: dict[str, Limit]
    chosen: ChainChoice

    @property
    def arch(self) -> ArchSpec:
        """The chosen network."""
        return self.ratings.arch(self.chosen.choice)

    @property
    def costs(self) -> dict[str, float]:
        """Its costs by metric."""
        return dict(zip(self.ratings.metrics, self.chosen.costs, strict=True))

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """By metric, the cost of the cheapest and of the most expensive network."""
        blocks = [links(block, self.ratings.metrics) for block in self.ratings.blocks]
        return dict(zip(self.ratings.metrics, cost_ranges(blocks), strict=True))

    def spread(self, count: int) -> list[tuple[int, ...]]:
        """Choices of up to `count` networks about evenly over the costs of the front, all different.

        The chosen one is among them, and takes the place that it is nearest to.
        """
        costs = self.front.costs.astype(float)
        targets = np.linspace(costs[0], costs[-1], count).tolist()
        own = self.costs[self.metric]
        targets.remove(min(targets, key=lambda target: abs(target - own)))
        found = {self.arch: self.chosen.choice}
        for target in targets:
            for index in np.argsort(abs(costs - target), kind='stable').tolist():
                choice = tuple(self.front.choices[index].tolist())
                arch = self.ratings.arch(choice)
                if arch not in found:
                    found[arch] = choice
                    break
        return sorted(found.values(), key=lambda choice: self.ratings.costs(choice)[self.metric])

    def slack(self) -> list[str]:
        """A sentence for each bound that all networks meet, so that it limits nothing."""
        ranges = self.ranges
        return [
            sentence
            for name, limit in self.limits.items()
            for sentence in limit.slack(METRICS[name], ranges[name], f'limits.{name}')
        ]

    def describe(self) -> str:
        """The choice in words."""
        limits = [limit.show(METRICS[name]) for name, limit in self.limits.items() if limit != Limit()]
        costs = ', '.join(show(metric, cost) for metric, cost in self.costs.items())
        lowest, highest = self.front.costs[0].item(), self.front.costs[-1].item()
        return (
            f'front of {len(self.front)} networks, {show(self.metric, lowest, highest)}; '
            f'chosen ({" and ".join(limits) or "no limit"}): rating {self.chosen.rating:.4f}, {costs}: '
            f'{self.arch.format("fna")}' + ''.join(f'\n{sentence}' for sentence in self.slack())
        )

    def format(self, measured: MeasuredFront | None = None) -> str:
        """The content of ``front.json``: the exact front, and what was measured of networks of it."""
        chosen = {'costs': self.costs, 'rating': self.chosen.rating, 'choice': self.chosen.choice}
        return json.dumps(
            {
                **({} if measured is None else measured.plain()),
                'metric': self.metric,
                'costs': self.front.costs.tolist(),
                'ratings': self.front.ratings.tolist(),
                'choices': self.front.choices.tolist(),
                'limits': {name: limit.plain() for name, limit in self.limits.items()},
                'chosen': chosen,
                'arch': self.arch.format('fna'),
            }
        )

    def write(self, folder: Path, measured: MeasuredFront | None = None) -> Path:
        """Writes ``front.json`` into a folder, whole or not at all."""
        file = WorkDir(folder).front
        write_text(file, self.format(measured))
        return file


class RatingError(ValueError):
    """Paths cannot be rated, or no network be chosen, as a rating's settings ask; what is rated is kept."""


def select(ratings: Ratings, limits: Mapping[str, Any] | None = None) -> Selection:
    """Finds the front, and the best network within limits; exactly, ties broken stably.

    Args:
        ratings: The ratings.
        limits: By metric what `Limit.parse` reads: the highest cost, or ``dict(min=…, max=…)``.

    Raises:
        ValueError: A limit's metric was not counted, or no network meets the limits (`RatingError`): the message names
            the range that can be reached.
    """
    given = {name: Limit.parse(limit, f'limits.{name}') for name, limit in (limits or {}).items()}
    unknown = [name for name in given if name not in ratings.metrics]
    if unknown:
        raise ValueError(f'limits must be among the metrics that were counted, {ratings.metrics}, got {unknown[0]!r}')
    metric = next((name for name, limit in given.items() if limit != Limit()), ratings.metrics[0])
    blocks = [links(block, ratings.metrics) for block in ratings.blocks]
    try:
        chosen = _choose(blocks, ratings.metrics, given)
    except ValueError as error:
        raise RatingError(str(error)) from None
    return Selection(ratings, metric, chain_front(blocks, ratings.metrics.index(metric)), given, chosen)


def _choose(blocks: list[Links], metrics: tuple[str, ...], limits: Mapping[str, Limit]) -> ChainChoice:
    """The best chain; what must cost at least so much has a negative cost that is at most so much."""
    reach = dict(zip(metrics, cost_ranges(blocks), strict=True))
    binding = {name: limit.binding(reach[name]) for name, limit in limits.items()}
    least = [name for name, limit in binding.items() if limit.min is not None]
    for name in least:
        limits[name].check(METRICS[name], reach[name], f'limits.{name}')
    highest = [binding.get(name, Limit()).max for name in metrics]
    found = best_within(blocks, highest, names=metrics)
    lowest = {name: binding[name].min or 0 for name in least}
    if all(found.costs[metrics.index(name)] >= bound for name, bound in lowest.items()):
        return found
    mirrored = [
        replace(block, costs=[*block.costs, *([-cost for cost in block.costs[metrics.index(name)]] for name in least)])
        for block in blocks
    ]
    names = (*metrics, *(f'minus {name}' for name in least))
    found = best_within(mirrored, [*highest, *(-bound for bound in lowest.values())], names=names)
    return found._replace(costs=found.costs[: len(metrics)])


def reachable(space: CellSpace, priced: CellPrices) -> tuple[float, float]:
    """Cost of the cheapest and of the most expensive network of a space by one metric, stem included.

    Args:
        space: The space.
        priced: Its prices.
    """
    blocks = [
        [
            Link((figure,), 0, enters, stage.cells[cell].channels)
            for (enters, cell), prices in rows.items()
            for figure in prices.range()
        ]
        for stage, rows in zip(space.stages, priced, strict=True)
    ]
    (ends,) = cost_ranges(blocks)
    return ends


def links(block: BlockRatings, metrics: tuple[str, ...]) -> Links:
    """A block's entries in the order of `BlockRatings.picks`."""
    picks = block.picks()
    cells = [block.cells[pick.cell] for pick in picks]
    places = [cell.enters.index(pick.enters) for cell, pick in zip(cells, picks, strict=True)]
    rows = list(zip(cells, picks, places, strict=True))
    return Links(
        costs=[[cell.costs[metric][pick.path][place] for cell, pick, place in rows] for metric in metrics],
        ratings=[cell.ratings[pick.path] for cell, pick, _ in rows],
        enters=[pick.enters for pick in picks],
        leaves=[cell.leaves for cell in cells],
    )
