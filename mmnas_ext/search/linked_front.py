"""Exact search over blocks whose cells differ in depth and width, also under several cost limits at once.

DNA (arXiv 1911.13053, section 3.4) rates every path of every cell of a block. Costs and ratings add up over blocks, but
what a cell's first layer costs depends on the width that enters it, so a path stands in its block once per width that
may enter, and two entries fit one after the other only where the widths agree. What is dominated among sums that leave
with the same width stays dominated whatever follows: `chain_front` keeps one front per width.

Sums over several metrics have no front of useful length. `best_within` searches instead, best bound first: what the
blocks to come must add to a rating is bounded from below by their exact front in each limited metric alone, and in a
weighted sum of the metrics. The authors' traversal knows one limit, no width, and can miss the optimum; deliberately
otherwise here.

Exact means: integer sums are integers, and a float sum is the one that adding block by block from the first gives.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from numbers import Real
from operator import add
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmnas_ext.search.branch import lowest
from mmnas_ext.search.front import (
    ANY,
    Arcs,
    Entries,
    Figures,
    Front,
    Indices,
    check_length,
    exact_figures,
    follow,
    grow,
    read_only,
    start,
    summable,
    undominated,
)


class Link(NamedTuple):
    """A path of a cell, for one width that may enter it.

    Args:
        costs: One per metric, each in its unit.
        rating: Lower is better.
        enters: The width that must enter; anything hashable.
        leaves: The width that leaves.
    """

    costs: tuple[float, ...]
    rating: float
    enters: Hashable
    leaves: Hashable


@dataclass(frozen=True, eq=False)
class Links:
    """All entries of a block by columns, which is faster than a list of `Link`.

    Args:
        costs: Per metric one column (entries,); an array (metrics, entries) will do.
        ratings: Lower is better, (entries,).
        enters: The widths that must enter, (entries,).
        leaves: The widths that leave, (entries,).
    """

    costs: Sequence[Sequence[float] | Figures]
    ratings: Sequence[float] | Figures
    enters: Sequence[Hashable] | NDArray[Any]
    leaves: Sequence[Hashable] | NDArray[Any]

    @classmethod
    def of(cls, rows: Iterable[Link]) -> 'Links':
        """Columns of the same entries, in their order; at least one."""
        costs, ratings, enters, leaves = zip(*rows, strict=True)
        return cls(tuple(zip(*costs, strict=True)), ratings, enters, leaves)


class ChainChoice(NamedTuple):
    """One entry per block, each fitting the one before.

    Args:
        costs: Per metric the sum of the blocks' costs, in its unit.
        rating: Sum of the blocks' ratings, lower is better.
        choice: Per block the index of the picked entry.
    """

    costs: tuple[float, ...]
    rating: float
    choice: tuple[int, ...]


ChainBlock = Links | Iterable[Link]


class _Block(NamedTuple):
    """Entries that are part of a fitting chain, with the widths as numbers.

    `costs` are columns per metric, `indices` the places in the block as it came, of which there were `size`.
    """

    costs: list[Figures]
    ratings: Figures
    indices: Indices
    arcs: Arcs
    size: int


def chain_front(blocks: Iterable[ChainBlock], metric: int = 0) -> Front:
    """Finds every fitting chain of one entry per block that no other one beats in cost and rating.

    Among chains of equal cost and rating the one with the lexicographically smallest choice is kept (of float sums: as
    far as they are not rounded).

    Args:
        blocks: Per block its entries, `Links` or rows of `Link`. Costs and ratings add up over blocks, lower is better,
            negative ones are allowed. Integers are never rounded; one float among the costs in a metric (or the
            ratings) of any block makes them all float64. What enters the first block is not constrained.
        metric: Which of the costs.

    Raises:
        ValueError: No blocks, a block without entries, entries that are not links of finite numbers, numbers of metrics
            that differ, no `metric` of that number, no fitting chain (says between which blocks), integer sums beyond
            64 bits, or a front of more than four million points.
    """
    parts = _parsed(blocks)
    metrics = len(parts[0].costs)
    if isinstance(metric, bool) or not isinstance(metric, int) or not 0 <= metric < metrics:
        raise ValueError(f'metric must be an integer from 0 to {metrics - 1}, got {metric!r}')
    fronts = start(parts[0].costs[metric].dtype, parts[0].ratings.dtype, [ANY])
    trail = []
    for number, part in enumerate(parts):
        fronts, points = grow(fronts, part.arcs, Entries(part.costs[metric], part.ratings, part.indices), part.size)
        check_length(f'blocks[0] to blocks[{number}]', len(points.costs))
        trail.append((points.parents, points.picked))
    last = undominated(fronts.costs, fronts.ratings, fronts.ranks)
    return read_only(Front(fronts.costs[last], fronts.ratings[last], follow(trail, last)))


def cost_ranges(blocks: Iterable[ChainBlock]) -> tuple[tuple[float, float], ...]:
    """Cost of the cheapest and of the most expensive fitting chain, per metric.

    Args:
        blocks: As for `chain_front`; ratings do not matter.

    Raises:
        ValueError: What `chain_front` refuses in blocks.
    """
    parts = _parsed(blocks)
    return tuple(_range(parts, metric) for metric in range(len(parts[0].costs)))


def best_within(
    blocks: Iterable[ChainBlock], limits: Sequence[float | None], names: Sequence[str] | None = None
) -> ChainChoice:
    """Finds the fitting chain with the lowest rating whose cost is at most the limit in every metric.

    Of equal ratings the lexicographically smallest choice is taken, whatever it costs within the limits (of float
    sums: as far as they are not rounded); `chain_front` and `Front.best` take the cheapest. With one limit both find
    the same rating.

    How long it takes depends on how closely costs and ratings go together. DNA's blocks, where they do, take 0.2 to
    0.3 seconds with fifty thousand entries; figures drawn independently of each other can take minutes.

    Args:
        blocks: As for `chain_front`.
        limits: One per metric in its unit, itself allowed; ``None`` is no limit.
        names: Of the metrics, for messages; ``costs[0]``, ``costs[1]`` and so on if not given.

    Raises:
        ValueError: What `chain_front` refuses in blocks, other numbers of limits or names than of metrics, a limit
            that is not finite, that is below the cost of all chains (names the reachable range), or that no chain
            meets together with the others (names the ranges, and for each metric the least cost under the other
            limits); or a quarter of a million beginnings of chains do not suffice to tell the best one.
        TypeError: A limit is neither a number nor ``None``.
    """
    parts = _parsed(blocks)
    metrics = len(parts[0].costs)
    labels = [f'costs[{metric}]' for metric in range(metrics)] if names is None else list(names)
    if isinstance(names, str) or len(labels) != metrics:
        raise ValueError(f'names must hold one per metric, {metrics}, got {names!r}')
    if isinstance(limits, str) or not isinstance(limits, Iterable) or len(list(limits)) != metrics:
        raise ValueError(f'limits must hold one per metric ({", ".join(labels)}), got {limits!r}')
    ranges = {metric: _range(parts, metric) for metric, limit in enumerate(limits) if limit is not None}
    ceilings = {metric: _ceiling(labels[metric], limits[metric], *ranges[metric]) for metric in ranges}
    if len(ceilings) > 1:
        _check_together(parts, ceilings, {m: (f'{labels[m]} {limits[m]}', labels[m], *ranges[m]) for m in ranges})
    rows = _lowest(parts, [part.ratings for part in parts], ceilings)
    assert rows is not None, 'limits that can be met together hold a chain'
    costs = tuple(_sum([part.costs[metric] for part in parts], rows) for metric in range(metrics))
    choice = tuple(part.indices[row].item() for part, row in zip(parts, rows, strict=True))
    return ChainChoice(costs, _sum([part.ratings for part in parts], rows), choice)


def _lowest(parts: Sequence[_Block], values: Sequence[Figures], ceilings: dict[int, float]) -> tuple[int, ...] | None:
    """Rows of the chain with the lowest sum of values within the ceilings, None if there is none."""
    costs = [[part.costs[metric] for part in parts] for metric in ceilings]
    return lowest(values, costs, list(ceilings.values()), [part.arcs for part in parts])


def _sum(columns: Sequence[Figures], rows: Sequence[int]) -> Any:
    """As a Python number, added block by block from the first."""
    # not sum(): from Python 3.12 on that makes up for the rounding of floats
    return reduce(add, (column[row].item() for column, row in zip(columns, rows, strict=True)), 0)


def _range(parts: Sequence[_Block], metric: int) -> tuple[float, float]:
    """Lowest and highest cost of a fitting chain; rounding keeps order, so these are exact sums as well."""
    zero = parts[0].costs[metric].dtype.type(0)
    ends = {ANY: (zero, zero)}
    for part in parts:
        column = part.costs[metric]
        reached: dict[int, list[tuple[Any, Any]]] = {}
        for (enters, leaves), rows in part.arcs.items():
            low, high = ends[enters]
            reached.setdefault(leaves, []).append((low + column[rows].min(), high + column[rows].max()))
        ends = {
            leaves: (min(low for low, _ in found), max(high for _, high in found)) for leaves, found in reached.items()
        }
    return min(low for low, _ in ends.values()).item(), max(high for _, high in ends.values()).item()


def _ceiling(label: str, limit: Any, cheapest: float, most_expensive: float) -> float:
    """The limit, or the most expensive cost where that is lower, in the type of the costs without admitting more."""
    given: Any = limit.item() if isinstance(limit, np.generic) else limit
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    if not is_number:
        raise TypeError(f'limit of {label} must be a number or None, got {limit!r}')
    # math.isfinite() would refuse an integer that no float holds
    if given != given or abs(given) == math.inf:
        raise ValueError(f'limit of {label} must be finite or None, got {limit!r}')
    if given < cheapest:
        raise ValueError(
            f'limit of {label} must be at least {cheapest}, got {limit}: '
            f'chains whose widths fit cost from {cheapest} to {most_expensive}'
        )
    if given >= most_expensive:
        return most_expensive
    if isinstance(most_expensive, int):
        return math.floor(given)
    near = float(given)
    # Python compares exactly: an integer or fraction between two floats may have been rounded up
    return near if near <= given else math.nextafter(near, -math.inf)


def _check_together(
    parts: Sequence[_Block], ceilings: dict[int, float], shown: dict[int, tuple[str, str, float, float]]
) -> None:
    """Raises ValueError if no chain is within all ceilings; `shown`: limit, name and range per metric."""

    def least(metric: int) -> float | None:
        others = {other: ceiling for other, ceiling in ceilings.items() if other != metric}
        columns = [part.costs[metric] for part in parts]
        rows = _lowest(parts, columns, others)
        return None if rows is None else _sum(columns, rows)

    first = next(iter(ceilings))
    found = least(first)
    if found is not None and found <= ceilings[first]:
        return
    lines = []
    for metric, (_, label, cheapest, most_expensive) in shown.items():
        under = found if metric == first else least(metric)
        rest = 'no chain meets the other limits' if under is None else f'at least {under} under the other limits'
        lines.append(f'{label} from {cheapest} to {most_expensive}, {rest}')
    given = ', '.join(limit for limit, *_ in shown.values())
    raise ValueError(
        f'limits can be met one by one but not together, got {given}: chains whose widths fit cost {"; ".join(lines)}'
    )


def _parsed(blocks: Iterable[ChainBlock]) -> list[_Block]:
    """Blocks in common types, without the entries that no fitting chain passes."""
    if not isinstance(blocks, Iterable):
        raise ValueError(f'blocks must be a sequence of blocks, got {blocks!r}')
    named = [(f'blocks[{number}]', block) for number, block in enumerate(blocks)]
    columns = [_columns(name, block) for name, block in named]
    if not columns:
        raise ValueError('blocks must hold at least one block, got none')
    metrics = len(columns[0].costs)
    for number, links in enumerate(columns):
        if len(links.costs) != metrics:
            raise ValueError(f'blocks[{number}] must have {metrics} metrics as blocks[0] has, got {len(links.costs)}')
    ratings = summable('ratings', [links.ratings for links in columns])  # type: ignore[misc]
    costs = [summable(f'costs[{m}]', [links.costs[m] for links in columns]) for m in range(metrics)]  # type: ignore[misc]
    enters, leaves = _numbered(columns)
    parts = []
    for number, keep in enumerate(_fitting(columns, enters, leaves)):
        ways = np.stack([enters[number][keep], leaves[number][keep]])
        found = [tuple(way) for way in np.unique(ways, axis=1).T.tolist()]
        arcs = {(a, b): np.flatnonzero((ways[0] == a) & (ways[1] == b)) for a, b in found}
        parts.append(_Block([c[number][keep] for c in costs], ratings[number][keep], keep, arcs, len(enters[number])))
    return parts


def _columns(name: str, block: Any) -> Links:
    """The entries of a block with checked figures, and widths in lists."""
    if not isinstance(block, Links):
        block = _by_columns(name, block)
    metrics = [_plain(column) for column in _plain(block.costs)]
    if not metrics:
        raise ValueError(f'{name} must have at least one metric, got none')
    lengths = {len(column) for column in (*metrics, block.ratings, block.enters, block.leaves)}
    if len(lengths) > 1:
        raise ValueError(f'columns of {name} must be equally long, got lengths {sorted(lengths)}')
    if lengths == {0}:
        raise ValueError(f'{name} must have at least one entry, got none')
    figures = [exact_figures(name, f'costs[{metric}]', column) for metric, column in enumerate(metrics)]
    ratings = exact_figures(name, 'rating', _plain(block.ratings))
    enters, leaves = (w.tolist() if isinstance(w, np.ndarray) else list(w) for w in (block.enters, block.leaves))
    return Links(figures, ratings, enters, leaves)


def _plain(column: Any) -> Any:
    """An array of objects, which may hold exact integers beside floats, as a list."""
    return column.tolist() if isinstance(column, np.ndarray) and column.dtype.kind not in 'iuf' else column


def _by_columns(name: str, block: Any) -> Links:
    if isinstance(block, str) or not isinstance(block, Iterable):
        raise ValueError(f'{name} must be Links or a sequence of Link, got {block!r}')
    rows = list(block)
    if not rows:
        raise ValueError(f'{name} must have at least one entry, got none')
    metrics = None
    for index, row in enumerate(rows):
        try:
            costs, _, _, _ = row
            metrics = len(costs) if metrics is None else metrics
            alike = len(costs) == metrics
        except (TypeError, ValueError):
            raise ValueError(f'{name}[{index}] must be a Link (costs, rating, enters, leaves), got {row!r}') from None
        if not alike:
            raise ValueError(f'{name}[{index}] must have {metrics} costs as {name}[0] has, got {costs!r}')
    return Links.of(rows)


def _numbered(columns: Sequence[Links]) -> tuple[list[Indices], list[Indices]]:
    """Per block the numbers of the widths that enter and that leave; equal widths have one number."""
    numbers: dict[Hashable, int] = {}
    found: tuple[list[Indices], list[Indices]] = ([], [])
    for number, links in enumerate(columns):
        for word, column, kept in zip(('enters', 'leaves'), (links.enters, links.leaves), found, strict=True):
            try:
                kept.append(np.array([numbers.setdefault(width, len(numbers)) for width in column], np.int64))
            except TypeError:
                wrong = next(index for index, width in enumerate(column) if not _is_hashable(width))
                message = f'{word} of blocks[{number}][{wrong}] must be hashable, got {column[wrong]!r}'
                raise ValueError(message) from None
    found[0][0] = np.full_like(found[0][0], ANY)
    return found


def _is_hashable(width: Any) -> bool:
    # isinstance(width, Hashable) holds for a tuple with a list in it
    try:
        hash(width)
    except TypeError:
        return False
    return True


def _fitting(columns: Sequence[Links], enters: Sequence[Indices], leaves: Sequence[Indices]) -> list[Indices]:
    """Per block the indices of the entries that some fitting chain passes."""
    arriving = np.array([ANY])
    reached: list[Indices] = []
    for number, (first, last) in enumerate(zip(enters, leaves, strict=True)):
        keep = np.flatnonzero(np.isin(first, arriving))
        if not len(keep):
            before, after = reached[-1], columns[number]
            left = dict.fromkeys(columns[number - 1].leaves[index] for index in before.tolist())
            wanted = dict.fromkeys(after.enters)
            raise ValueError(
                f'no chain fits: widths do not meet between blocks[{number - 1}] and blocks[{number}], '
                f'chains leave with {_listed(left)}, entries want {_listed(wanted)}'
            )
        reached.append(keep)
        arriving = np.unique(last[keep])
    for number in reversed(range(len(reached) - 1)):
        wanted_next = np.unique(enters[number + 1][reached[number + 1]])
        reached[number] = reached[number][np.isin(leaves[number][reached[number]], wanted_next)]
    return reached


def _listed(widths: Iterable[Hashable]) -> str:
    return ', '.join(map(repr, widths))
