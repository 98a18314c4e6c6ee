"""Branch and bound, best bound first: the lowest sum of values over fitting chains under several limits on costs.

The bound of a chain's first blocks is their sum of values plus what the blocks to come must add at least. That is read
off the exact fronts of the blocks to come, one per width that enters them: by each limited cost alone, and by a
weighted sum of the costs whose limit is the same sum of the limits. Each of these fronts leaves out all but one limit
(or joins them to one), so none of them is above the true value, and the largest is taken.

Sums of floats are rounded in another order from the back than from the front. Bounds allow for that; complete chains
are compared by their sums from the first block on, and by nothing else.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmnas_ext.search.front import ANY, Arcs, Entries, Figures, Indices, check_length, grow, start

Floats = NDArray[np.float64]
# costs and values of a front, the values with an infinite one before them: what no place on it can offer
_Bound = tuple[Floats, Floats]

_EPS = float(np.finfo(np.float64).eps)
# of a search for weights that need not be exact, a millisecond each
_ROUNDS = 50
# costs are weighted where they, their ranges and that of the values lie between: products of four stay in float64
_SMALL, _LARGE = 1e-60, 1e60
# beginnings of chains followed; 2 GB and a minute or two. DNA's spaces with cells of several widths need some ten
_MAX_CHAINS = 1 << 18
# entries compared with all others at once: bounds the working memory to some MB
_COMPARED = 256


class _Part(NamedTuple):
    """Entries of one block that can be part of the result, grouped by the widths they lead from and to.

    `costs` are columns per limit and `rounded` the same as floats, (limits, entries); `rows` are the places in the
    block as it came, `leaves` the widths that leave. `whole` are the entries of a width that enters, `spans` those of a
    width that enters and one that leaves.
    """

    values: Figures
    costs: list[Figures]
    rounded: Floats
    rows: Indices
    leaves: Indices
    whole: dict[int, slice]
    spans: dict[int, list[tuple[int, slice]]]


@dataclass(frozen=True, eq=False)
class _Problem:
    """Parts with what bounds need.

    Args:
        parts: One per block.
        ceilings: Limit per cost, in the type of its columns.
        slack: What rounding may move a sum of values by.
        weights: Of the costs in sums that bound beside the costs themselves, (sums, limits); there may be no sum.
        slacks: What rounding may move each cost and each of those sums by, (limits + sums, 1).
        suffixes: Per block but the last and width that leaves it, the fronts of the blocks to come, one per cost and
            sum.
    """

    parts: list[_Part]
    ceilings: list[float]
    slack: float
    weights: Floats
    slacks: Floats
    suffixes: list[dict[int, list[_Bound]]]


class _Chain(NamedTuple):
    """The beginning of a chain with its exact sums, and the width that it leaves."""

    rows: tuple[int, ...]
    value: float
    costs: list[float]
    leaves: int


class _Family(NamedTuple):
    """A chain's continuations by one block, best bound first, of equal ones the smallest row."""

    chain: _Chain
    bounds: Floats
    entries: Indices


def lowest(
    values: Sequence[Figures], costs: Sequence[Sequence[Figures]], ceilings: Sequence[float], arcs: Sequence[Arcs]
) -> tuple[int, ...] | None:
    """Finds the fitting chain of the lowest value among those whose costs are within all limits.

    Of equal values the lexicographically smallest rows are taken.

    Args:
        values: Per block, (entries,), in one type; sums do not overflow.
        costs: Per limit and block, (entries,), likewise.
        ceilings: One per limit, itself allowed: no more than a chain can cost, in the type of the columns.
        arcs: Per block which entries lead from which width to which; the first block's begin at `ANY`. Each entry is
            part of a fitting chain.

    Returns:
        The picked row of each block, or None where no chain is within all limits.

    Raises:
        ValueError: A front has more than four million points, or a quarter of a million beginnings of chains do not
            suffice to tell.
    """
    if not costs:
        costs, ceilings = [[np.zeros(len(column), np.int64) for column in values]], [0]
    problem = _problem(values, costs, ceilings, arcs)
    best: tuple[float, tuple[int, ...]] = (np.inf, ())
    waiting: list[tuple[float, tuple[int, ...], int, _Family]] = []
    chain = _Chain((), 0, [0] * len(costs), ANY)
    for _ in range(_MAX_CHAINS):
        if len(chain.rows) + 1 < len(values):
            _wait(problem, waiting, 0, _family(problem, chain, best[0]))
        else:
            best = min(best, _completed(problem, chain))
        # a beginning stands before its continuations: what is not before the best chain does not lead before it
        if not waiting or waiting[0][:2] > best:
            return best[1] or None
        _, _, place, family = heapq.heappop(waiting)
        _wait(problem, waiting, place + 1, family)
        chain = _continued(problem, family.chain, family.entries[place])
    raise ValueError(
        f'the best chain is not known after {_MAX_CHAINS} beginnings: limit fewer costs or offer fewer entries'
    )


def _wait(problem: _Problem, waiting: list[Any], place: int, family: _Family) -> None:
    """Queues a family by its next chain; the others need not be queued before that is taken."""
    if place < len(family.entries):
        row = problem.parts[len(family.chain.rows)].rows[family.entries[place]].item()
        heapq.heappush(waiting, (family.bounds[place].item(), (*family.chain.rows, row), place, family))


def _continued(problem: _Problem, chain: _Chain, entry: int) -> _Chain:
    part = problem.parts[len(chain.rows)]
    costs = [cost + column[entry].item() for cost, column in zip(chain.costs, part.costs, strict=True)]
    row, leaves = part.rows[entry].item(), part.leaves[entry].item()
    return _Chain((*chain.rows, row), chain.value + part.values[entry].item(), costs, leaves)


def _completed(problem: _Problem, chain: _Chain) -> tuple[float, tuple[int, ...]]:
    """Value and rows of the best continuation by the last block, infinite if none is within the limits."""
    part = problem.parts[-1]
    span = part.whole[chain.leaves]
    within = np.ones(span.stop - span.start, bool)
    for cost, column, ceiling in zip(chain.costs, part.costs, problem.ceilings, strict=True):
        within &= cost + column[span] <= ceiling
    if not within.any():
        return np.inf, ()
    values = (chain.value + part.values[span])[within]
    value = values.min()
    return value.item(), (*chain.rows, part.rows[span][within][values == value].min().item())


def _family(problem: _Problem, chain: _Chain, most: float) -> _Family:
    """The continuations whose bound is at most `most`."""
    depth = len(chain.rows)
    part = problem.parts[depth]
    span = part.whole[chain.leaves]
    left = np.array([ceiling - cost for ceiling, cost in zip(problem.ceilings, chain.costs, strict=True)], float)
    with np.errstate(over='ignore'):  # infinite is right there
        rooms = left[:, None] - part.rounded[:, span]
    rooms = np.concatenate([rooms, problem.weights @ rooms]) + problem.slacks
    added = np.full(span.stop - span.start, -np.inf)
    for leaves, inner in part.spans[chain.leaves]:
        place = slice(inner.start - span.start, inner.stop - span.start)
        for (costs, values), room in zip(problem.suffixes[depth][leaves], rooms[:, place], strict=True):
            # no room at all is place 0, where the value is infinite
            np.maximum(added[place], values[np.searchsorted(costs, room, 'right')], out=added[place])
    bounds = (chain.value + part.values[span]) + added - problem.slack
    good = np.flatnonzero((bounds <= most) & (bounds < np.inf))
    good = good[np.lexsort((part.rows[span][good], bounds[good]))]
    return _Family(chain, bounds[good], good + span.start)


def _problem(
    values: Sequence[Figures], costs: Sequence[Sequence[Figures]], ceilings: Sequence[float], arcs: Sequence[Arcs]
) -> _Problem:
    by_block = zip(values, zip(*costs, strict=True), arcs, strict=True)
    parts = [_part(column, list(columns), ways) for column, columns, ways in by_block]
    totals = np.array([_total(columns) for columns in costs])
    weights = _weights(parts, np.array(ceilings, float), totals)
    bounds = [_suffixes(parts, row) for row in (*np.eye(len(costs)), *weights)]
    suffixes = [{width: [bound[width] for bound in step] for width in step[0]} for step in zip(*bounds, strict=True)]
    # per sum of figures up to a total: an addition per block from either end, and the products of the weights
    rounding = 4 * (len(parts) + len(costs) + 1) * _EPS
    slacks = rounding * np.concatenate([totals, 2 * weights @ totals])
    slack = 0.0 if _adds_up(values) else rounding * _total(values)
    return _Problem(parts, list(ceilings), slack, weights, slacks[:, None], suffixes)


def _total(columns: Sequence[Figures]) -> float:
    """Above all sums of one figure per block, and of any of its parts."""
    return float(sum(max(abs(column.min().item()), abs(column.max().item())) for column in columns))


def _adds_up(columns: Sequence[Figures]) -> bool:
    """Whether float64 holds every sum of one figure per block, in any order, without rounding.

    Integers below 2**53 do, and so do floats that are multiples of a power of two, e.g. means over float32.
    """
    figures = np.concatenate(columns)
    total = sum(Fraction(max(abs(column.min().item()), abs(column.max().item()))) for column in columns)
    if figures.dtype.kind == 'i' or not figures.any():
        return total <= 2**53
    mantissas, exponents = np.frexp(figures[figures != 0])
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    lowest_bits = np.frexp((whole & -whole).astype(float))[1] - 1
    step = Fraction(2) ** (int((lowest_bits + exponents).min()) - 53)
    return total <= 2**53 * step


def _part(values: Figures, costs: list[Figures], arcs: Arcs) -> _Part:
    ways = sorted(arcs)
    kept = [arcs[way][_undominated(values[arcs[way]], [column[arcs[way]] for column in costs])] for way in ways]
    ends = np.cumsum([len(rows) for rows in kept]).tolist()
    whole: dict[int, slice] = {}
    spans: dict[int, list[tuple[int, slice]]] = {}
    for (enters, leaves), rows, end in zip(ways, kept, ends, strict=True):
        first = whole[enters].start if enters in whole else end - len(rows)
        whole[enters] = slice(first, end)
        spans.setdefault(enters, []).append((leaves, slice(end - len(rows), end)))
    rows = np.concatenate(kept)
    leaving = np.repeat([leaves for _, leaves in ways], [len(rows) for rows in kept])
    costs = [column[rows] for column in costs]
    return _Part(values[rows], costs, np.array(costs, float), rows, leaving, whole, spans)


def _undominated(values: Figures, costs: list[Figures]) -> Indices:
    """Indices of the entries that may be part of the result, of those with the same widths.

    Another one of lower value (or of equal value, but earlier) that costs no more in any limited metric may always take
    an entry's place.
    """
    order = np.argsort(values, kind='stable')
    kept = order[:0]
    for begin in range(0, len(order), _COMPARED):
        new = order[begin : begin + _COMPARED]
        beaten = np.ones((len(kept), len(new)), bool)
        among = np.triu(np.ones((len(new), len(new)), bool), 1)
        for column in costs:
            beaten &= column[kept][:, None] <= column[new]
            among &= column[new][:, None] <= column[new]
        kept = np.concatenate([kept, new[~(beaten.any(axis=0) | among.any(axis=0))]])
    return np.sort(kept)


def _suffixes(parts: Sequence[_Part], weights: Floats) -> list[dict[int, _Bound]]:
    """Per block but the last and width that leaves it: the front of all that may follow, by one weighted cost."""
    ends = {leaves for spans in parts[-1].spans.values() for leaves, _ in spans}
    fronts = start(np.dtype(float), np.dtype(float), sorted(ends))
    found = []
    for depth in range(len(parts) - 1, 0, -1):
        part = parts[depth]
        entries = Entries(weights @ part.rounded, part.values.astype(float), np.arange(len(part.rows)))
        back = {
            (leaves, enters): np.arange(span.start, span.stop)
            for enters, spans in part.spans.items()
            for leaves, span in spans
        }
        fronts, _ = grow(fronts, back, entries, len(part.rows))
        check_length(f'blocks[{depth}] to blocks[{len(parts) - 1}]', len(fronts.costs))
        found.append(
            {
                width: (fronts.costs[span], np.concatenate([[np.inf], fronts.ratings[span]]))
                for width, span in fronts.spans.items()
            }
        )
    return found[::-1]


def _weights(parts: Sequence[_Part], ceilings: Floats, totals: Floats) -> Floats:
    """Weights of the costs whose bound on all chains is high, (1, limits), or (0, limits) if one cost does as well.

    Steps along the subgradient of the Lagrangian: the chain of the lowest value plus weighted costs tells which limits
    it passes, and their weights grow. Whatever comes out is valid, good weights only save time.
    """
    chosen = np.zeros(len(ceilings))
    flat = [part.values.astype(float) for part in parts]
    with np.errstate(over='ignore'):
        scales = sum(np.ptp(part.rounded, axis=1) for part in parts)
        reach = sum(np.ptp(column) for column in flat)
    figures = np.array([*scales, *totals, reach])
    if len(ceilings) == 1 or not ((figures > _SMALL) & (figures < _LARGE)).all():
        return chosen[None][:0]
    weights, best = chosen, -np.inf
    for number in range(_ROUNDS):
        prices = [column + weights / scales @ part.rounded for column, part in zip(flat, parts, strict=True)]
        chain = _cheapest(prices, parts)
        costs = sum(part.rounded[:, entry] for entry, part in zip(chain, parts, strict=True))
        over = (costs - ceilings) / scales
        bound = sum(column[entry] for entry, column in zip(chain, flat, strict=True)) + weights @ over
        if bound > best:
            best, chosen = bound, weights
        length = np.linalg.norm(over)
        if not length > _SMALL:
            break
        weights = np.maximum(0, weights + reach / (number + 1) * over / length)
    found = (chosen / scales)[None]
    return found if np.count_nonzero(chosen) > 1 and found @ totals > _SMALL**2 else found[:0]


def _cheapest(prices: Sequence[Floats], parts: Sequence[_Part]) -> list[int]:
    """Entries of the fitting chain with the lowest sum of prices."""
    behind: dict[int, float] = {}
    picked: list[dict[int, int]] = []
    for column, part in zip(reversed(prices), reversed(parts), strict=True):
        column = column + np.array([behind.get(leaves, 0.0) for leaves in part.leaves.tolist()])
        step = {enters: span.start + int(np.argmin(column[span])) for enters, span in part.whole.items()}
        behind = {enters: column[entry].item() for enters, entry in step.items()}
        picked.append(step)
    chain, width = [], ANY
    for step, part in zip(reversed(picked), parts, strict=True):
        chain.append(step[width])
        width = part.leaves[step[width]].item()
    return chain
