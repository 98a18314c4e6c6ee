"""The best choice whose cost lies between two bounds: what the front, which only knows an upper one, cannot tell."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from mmnas_ext.archs import SKIP, Choices, Limit, Prices, SearchSpace
from mmnas_ext.search.branch import lowest
from mmnas_ext.search.front import ANY, Arcs, Figures, Front, front
from mmnas_ext.search.linked_front import Links, chain_front

Row = Sequence[tuple[int, float]]


def best_between(blocks: Sequence[Row], least: int | None, most: int | None) -> tuple[int, ...] | None:
    """Finds the lowest sum of ratings among choices of one entry per block that cost from `least` to `most`, exactly.

    Args:
        blocks: Per block its entries' (cost, rating); costs are integers, both add up.
        least: Lowest cost, itself allowed; ``None`` is no bound.
        most: Highest cost, itself allowed; ``None`` is no bound.

    Returns:
        The index of the entry per block, or ``None`` where no choice costs as much.

    Raises:
        ValueError: Telling the best choice would take too long: the bounds are too close together.
    """
    if least is None and most is None:
        return tuple(min(range(len(block)), key=lambda i: block[i][1]) for block in blocks)
    costs = [np.array([cost for cost, _ in block], np.int64) for block in blocks]
    ratings = [np.array([rating for _, rating in block], np.float64) for block in blocks]

    def points(sign: int) -> Front:
        return front([(sign * cost, rating) for cost, rating in block] for block in blocks)

    def arcs() -> list[Arcs]:
        return [{(0 if number else ANY, 0): np.arange(len(block))} for number, block in enumerate(blocks)]

    return _solve(points, costs, ratings, arcs, least, most)


def best_path(priced: Prices, ratings: Sequence[Sequence[float]], limit: Limit) -> Choices | None:
    """The path of the lowest sum of ratings whose cost lies within a limit, exactly; ``None`` where there is none.

    Args:
        priced: Prices of the space.
        ratings: Per searched layer, in the order of `Prices.searched`, its candidates' ratings; they add up.
        limit: In the metric's own figures.
    """
    searched = priced.searched()
    blocks = [
        [(priced.by.steps(cost), float(rating)) for cost, rating in zip(costs, row, strict=True)]
        for costs, row in zip(searched.values(), ratings, strict=True)
    ]
    with telling(priced, limit):
        found = best_between(blocks, *steps_between(priced, limit))
    if found is None:
        return None
    chosen = dict(zip(searched, found, strict=True))
    return tuple(tuple(chosen.get(f'{i}.{j}', 0) for j in range(len(stage))) for i, stage in enumerate(priced.layers))


def best_network(
    space: SearchSpace, priced: Prices, ratings: Sequence[Sequence[float]], limit: Limit
) -> Choices | None:
    """As `best_path`, among paths of which no layer could take the place of a skip before it.

    Paths that differ in the places of skips alone are one network: weights are remapped onto its layers in their order.
    Every network has such a path, and only one where the layers of a stage offer the same, a first one and skips aside.

    Args:
        space: The space.
        priced: Its prices.
        ratings: As of `best_path`.
        limit: In the metric's own figures.
    """
    searched = priced.searched()
    blocks = _linked(space, [tuple(map(int, name.split('.'))) for name in searched])
    steps = [[priced.by.steps(cost) for cost in row] for row in searched.values()]
    costs = [
        np.array([row[each.candidate] for each in block], np.int64) for row, block in zip(steps, blocks, strict=True)
    ]
    values = [
        np.array([float(row[each.candidate]) for each in block]) for row, block in zip(ratings, blocks, strict=True)
    ]
    with telling(priced, limit):
        rows = _best_linked(blocks, costs, values, *steps_between(priced, limit))
    if rows is None:
        return None
    chosen = {name: block[row].candidate for name, block, row in zip(searched, blocks, rows, strict=True)}
    return tuple(tuple(chosen.get(f'{i}.{j}', 0) for j in range(len(stage))) for i, stage in enumerate(priced.layers))


@contextmanager
def telling(priced: Prices, limit: Limit) -> Iterator[None]:
    """Puts before an error of a choice the limit in the metric's own figures: inside, costs are of layers, in steps."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'a limit of {limit.show(priced.by)}: {error}') from None


class _Entry(NamedTuple):
    """A candidate of a layer, for what stands before it: so many layers in a row that are skipped."""

    candidate: int
    enters: int
    leaves: int


def _linked(space: SearchSpace, places: Sequence[tuple[int, ...]]) -> list[list[_Entry]]:
    """Per searched layer its candidates, each for what may stand before it; all are part of some path.

    A candidate is left out behind skips of which one could take its place, where its own layer could be skipped then.
    Every network has a path without such candidates: that whose layers stand first.
    """
    blocks, left = [], {0}
    for number, (i, j) in enumerate(places):
        layers = space.stages[i].layers
        follows = number > 0 and places[number - 1] == (i, j - 1)  # else nothing before it could take its place
        block = []
        for enters in sorted(left):
            run = enters if follows else 0
            offered = {token for layer in layers[j - run : j] for token in layer} if SKIP in layers[j] else set()
            for candidate, token in enumerate(layers[j]):
                if token == SKIP or token not in offered:
                    block.append(_Entry(candidate, enters, run + 1 if token == SKIP else 0))
        blocks.append(block)
        left = {each.leaves for each in block}
    return blocks


def _best_linked(
    blocks: Sequence[Sequence[_Entry]], costs: list[Figures], values: list[Figures], least: int | None, most: int | None
) -> tuple[int, ...] | None:
    """The rows of the lowest sum of values among linked entries that cost from `least` to `most`."""

    def points(sign: int) -> Front:
        return chain_front(
            Links([sign * cost], value, [each.enters for each in block], [each.leaves for each in block])
            for block, cost, value in zip(blocks, costs, values, strict=True)
        )

    def arcs() -> list[Arcs]:
        return [_ways(block, first=not number) for number, block in enumerate(blocks)]

    if least is None and most is None:
        found = points(1)
        return found.best(found.costs[-1].item()).choice
    return _solve(points, costs, values, arcs, least, most)


def _ways(block: Sequence[_Entry], first: bool) -> Arcs:
    """The entries of a block by what stands before them and what they leave."""
    ways = [(ANY if first else each.enters, each.leaves) for each in block]
    return {way: np.flatnonzero([each == way for each in ways]) for way in ways}


def _solve(
    points: Callable[[int], Front],
    costs: Sequence[Figures],
    values: Sequence[Figures],
    arcs: Callable[[], list[Arcs]],
    least: int | None,
    most: int | None,
) -> tuple[int, ...] | None:
    """The rows, one per block, of the lowest sum of values that cost from `least` to `most`; one of them is given.

    Args:
        points: The front, of costs that are multiplied by a sign.
        costs: Per block, (entries,).
        values: Per block, (entries,).
        arcs: As of `lowest`.
        least: Lowest cost, itself allowed.
        most: Highest cost, itself allowed.

    Raises:
        ValueError: Telling the best choice would take too long: the bounds are too close together.
    """
    # mostly one of two bounds decides: the best choice within it meets the other one too
    for sign, bound in ((1, most), (-1, None if least is None else -least)):
        if bound is None:
            continue
        found = _up_to(points(sign), bound)
        if found is None:
            return None
        cost = sum(column[row].item() for column, row in zip(costs, found, strict=True))
        if (least is None or least <= cost) and (most is None or cost <= most):
            return found
    assert least is not None and most is not None, 'one bound alone is met by its own best choice'
    try:
        return lowest(values, [costs, [-each for each in costs]], [most, -least], arcs())
    except ValueError as error:
        raise ValueError(f'the bounds are too close together to find what lies between: {error}') from None


def _up_to(points: Front, most: int) -> tuple[int, ...] | None:
    return points.best(most).choice if points.costs[0].item() <= most else None


def steps_between(priced: Prices, limit: Limit) -> tuple[int | None, int | None]:
    """What the searched layers must and may cost, in whole steps, which add up exactly; slack bounds are left out."""
    by, fixed, binding = priced.by, priced.by.steps(priced.fixed), limit.binding(priced.range())
    return (
        None if binding.min is None else by.steps_from(binding.min) - fixed,
        None if binding.max is None else by.steps_within(binding.max) - fixed,
    )


def meets(priced: Prices, path: Choices, limit: Limit) -> bool:
    """Whether the network of a path lies within a limit, itself allowed."""
    by, figure = priced.by, priced.path(path)
    return (limit.min is None or by.steps(figure) >= by.steps_from(limit.min)) and (
        limit.max is None or by.steps(figure) <= by.steps_within(limit.max)
    )
