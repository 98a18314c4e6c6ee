"""The exact front of cost and rating over networks that pick one entry per block.

DNA (arXiv 1911.13053, section 3.4) rates the paths of each block alone and looks for the network with the lowest sum of
ratings under a cost limit. The authors' traversal prunes its loops and can miss the optimum. Deliberately otherwise
here: both figures add up over blocks, so what is dominated inside a block, or among sums over the first blocks, stays
dominated whatever follows. Keeping the rest, block by block, gives the best network for every limit at once.

Exact means: integer sums are integers, and a float sum is the one that adding block by block from the first gives
(rounding keeps order, so nothing better is lost).
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# figures are int64 or float64
Figures = NDArray[Any]
Indices = NDArray[np.int64]
Block = Sequence[tuple[float, float]] | NDArray[Any]
# from one width to another: rows of the entries that lead there, ascending
Arcs = dict[tuple[int, int], Indices]

# the width that enters a first block
ANY = -1

_LARGEST = np.iinfo(np.int64).max
# sums looked at together: bounds a merge's working memory to some 100 MB, unless the front itself is longer
_CHUNK = 1 << 20
# 1.3 GB at its peak over 22 blocks; costs in kMACs of 210 layers of 7 candidates have 0.1 million points
_MAX_POINTS = 1 << 22


class Choice(NamedTuple):
    """One point of a front.

    Args:
        cost: Sum of the blocks' costs, in their unit.
        rating: Sum of the blocks' ratings, lower is better.
        choice: Per block the index of the picked entry.
    """

    cost: float
    rating: float
    choice: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Front:
    """All choices that no other one beats, from the cheapest to the best rated.

    Args:
        costs: Sums of costs, ascending, (points,), int64 where every block's costs are integers, else float64.
        ratings: Sums of ratings, strictly descending, (points,), int64 or float64 likewise.
        choices: Index of the picked entry per point and block, (points, blocks).
    """

    costs: Figures
    ratings: Figures
    choices: Indices

    def __len__(self) -> int:
        return len(self.costs)

    def best(self, max_cost: float) -> Choice:
        """The lowest rating whose cost is at most `max_cost`.

        Args:
            max_cost: Limit in the unit of the costs, itself allowed.

        Raises:
            ValueError: Nothing fits, or the limit is NaN.
            TypeError: The limit is not a number.
        """
        # Python compares int with float exactly, numpy rounds the int first
        limit = max_cost.item() if isinstance(max_cost, np.generic) else max_cost
        if not isinstance(limit, Real):
            raise TypeError(f'max_cost must be a number, got {max_cost!r}')
        if math.isnan(limit):
            raise ValueError('max_cost must be a number, got nan')
        index = bisect_right(range(len(self)), limit, key=lambda point: self.costs[point].item()) - 1
        if index < 0:
            raise ValueError(
                f'max_cost must be at least {self.costs[0]}, the cheapest choice, got {max_cost}: '
                f'the front reaches from cost {self.costs[0]} to {self.costs[-1]}'
            )
        return Choice(self.costs[index].item(), self.ratings[index].item(), tuple(self.choices[index].tolist()))


class Entries(NamedTuple):
    """Entries of one block with their indices in it, all of one length."""

    costs: Figures
    ratings: Figures
    indices: Indices


class Points(NamedTuple):
    """Sums over the first blocks, all of one length: how each came from the points before it and an entry.

    `ties` orders them as their choices are ordered lexicographically.
    """

    costs: Figures
    ratings: Figures
    ties: Indices
    parents: Indices
    picked: Indices


class Fronts(NamedTuple):
    """One front per width that leaves, end to end; `spans` tell which points are whose.

    `ranks` are the places of the points' choices in lexicographic order, over all widths.
    """

    costs: Figures
    ratings: Figures
    ranks: Indices
    spans: dict[int, slice]


def front(blocks: Iterable[Block]) -> Front:
    """Finds every choice of one entry per block that no other choice beats in cost and rating.

    A fixed cost is a block of one entry. Among choices of equal cost and rating the lexicographically smallest is
    kept (of float sums: as far as they are not rounded).

    Args:
        blocks: Per block its entries as (cost, rating) pairs, or as an array (entries, 2). Both figures add up over
            blocks, lower is better, negative ones are allowed. Integers are never rounded; one float among the costs
            (or the ratings) of any block makes them all float64.

    Raises:
        ValueError: No blocks, a block without entries, entries that are not pairs of finite numbers, integer sums
            beyond 64 bits, or a front of more than four million points.
    """
    if not isinstance(blocks, Iterable):
        raise ValueError(f'blocks must be a sequence of blocks, got {blocks!r}')
    entries = _common_types([_parse(number, block) for number, block in enumerate(blocks)])
    if not entries:
        raise ValueError('blocks must hold at least one block, got none')
    costs: Figures = np.zeros(1, entries[0].costs.dtype)
    ratings: Figures = np.zeros(1, entries[0].ratings.dtype)
    ranks: Indices = np.zeros(1, np.int64)
    trail = []
    for number, block in enumerate(entries):
        points = merge(costs, ratings, ranks * len(block.indices), block)
        check_length(f'blocks[0] to blocks[{number}]', len(points.costs))
        costs, ratings, ranks = points.costs, points.ratings, ranked(points.ties)
        trail.append((points.parents, points.picked))
    return read_only(Front(costs, ratings, follow(trail, np.arange(len(costs)))))


def check_length(blocks: str, points: int) -> None:
    """Refuses a front that would not fit the memory.

    Args:
        blocks: Those that its sums hold, for messages.
        points: How many it has.

    Raises:
        ValueError: They are more than four million.
    """
    if points > _MAX_POINTS:
        raise ValueError(
            f'the front of {blocks} has more than {_MAX_POINTS} points: '
            'round the costs to a coarser unit or offer fewer entries'
        )


def read_only(found: Front) -> Front:
    """The front itself, its arrays closed to changes."""
    for array in (found.costs, found.ratings, found.choices):
        array.flags.writeable = False
    return found


def ranked(ties: Indices) -> Indices:
    """Place of each tie among all of them, (points,)."""
    ranks = np.empty_like(ties)
    ranks[np.argsort(ties)] = np.arange(len(ranks))
    return ranks


def merge(costs: Figures, ratings: Figures, ties: Indices, block: Entries) -> Points:
    """Adds each entry of a block to each point and keeps what is undominated.

    Args:
        costs: Of the points so far, ascending, (points,).
        ratings: Of the points so far, (points,).
        ties: Place of each point's choice in lexicographic order, times a number above all indices of the entries,
            (points,).
        block: At least one entry.
    """
    best = undominated(*block)
    block = Entries(*(column[best] for column in block))
    kept = Points(costs[:0], ratings[:0], ties[:0], ties[:0], ties[:0])
    step = max(1, _CHUNK // len(costs))
    for start in range(0, len(best), step):
        part = Entries(*(column[start : start + step] for column in block))
        # a row per entry: each is ascending, which the stable sort makes use of
        pairs = zip(part, (costs, ratings, ties), strict=True)
        sums = [np.add.outer(ours, theirs).ravel() for ours, theirs in pairs]
        good = undominated(*sums)
        rows, parents = np.divmod(good, len(costs))
        found = Points(sums[0][good], sums[1][good], sums[2][good], parents, part.indices[rows])
        joined = Points(*(np.concatenate(pair) for pair in zip(kept, found, strict=True)))
        order = undominated(joined.costs, joined.ratings, joined.ties)
        kept = Points(*(column[order] for column in joined))
        if len(order) > _MAX_POINTS:
            break
    return kept


def start(costs: np.dtype[Any], ratings: np.dtype[Any], widths: Iterable[int]) -> Fronts:
    """Per width the front before any block: one point at zero, in the types of the costs and ratings to come."""
    spans = {width: slice(place, place + 1) for place, width in enumerate(widths)}
    return Fronts(np.zeros(len(spans), costs), np.zeros(len(spans), ratings), np.arange(len(spans)), spans)


def grow(fronts: Fronts, arcs: Arcs, block: Entries, size: int) -> tuple[Fronts, Points]:
    """Adds the entries of a block to the fronts that they fit, and keeps per width that leaves what is undominated.

    Args:
        fronts: Of the widths where the arcs begin.
        arcs: At least one, each of at least one of the block's entries.
        block: Entries with indices below `size`.
        size: Of the whole block.

    Returns:
        The fronts of the widths where the arcs end, and the same points with their way back.
    """
    kept = []
    spans = {}
    place = 0
    for end in sorted({end for _, end in arcs}):
        found = []
        for begin in (begin for begin, other in arcs if other == end):
            span = fronts.spans[begin]
            entries = Entries(*(column[arcs[begin, end]] for column in block))
            points = merge(fronts.costs[span], fronts.ratings[span], fronts.ranks[span] * size, entries)
            found.append(points._replace(parents=points.parents + span.start))
        joined = Points(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
        order = undominated(joined.costs, joined.ratings, joined.ties)
        kept.append(Points(*(column[order] for column in joined)))
        spans[end] = slice(place, place + len(order))
        place += len(order)
    points = Points(*(np.concatenate(columns) for columns in zip(*kept, strict=True)))
    return Fronts(points.costs, points.ratings, ranked(points.ties), spans), points


def undominated(costs: Figures, ratings: Figures, ties: Indices) -> Indices:
    """Indices of the undominated of one or more points, costs ascending; of equal ones that with the lowest tie.

    Args:
        costs: Of the points, (points,).
        ratings: Of the points, (points,).
        ties: All of them different, (points,).
    """
    order = np.argsort(costs, kind='stable')
    ordered = ratings[order]
    order = order[ordered == np.minimum.accumulate(ordered)]
    # costs ascend and ratings descend now, neither strictly: equal points stand together
    costs, ratings, ties = costs[order], ratings[order], ties[order]
    changes = (costs[1:] != costs[:-1]) | (ratings[1:] != ratings[:-1])
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    lowest = np.minimum.reduceat(ties, starts)
    order = order[ties == np.repeat(lowest, np.diff(starts, append=len(order)))]
    costs, ratings = costs[starts], ratings[starts]
    keep = np.ones(len(order), bool)
    keep[1:] &= ratings[1:] < ratings[:-1]
    keep[:-1] &= costs[:-1] < costs[1:]
    return order[keep]


def follow(trail: Sequence[tuple[Indices, Indices]], rows: Indices) -> Indices:
    """Reads the choices (rows, blocks) of some of the last points off the back-pointers of all blocks."""
    choices = np.empty((len(rows), len(trail)), np.int64)
    for number in reversed(range(len(trail))):
        parents, picked = trail[number]
        choices[:, number] = picked[rows]
        rows = parents[rows]
    return choices


def _parse(number: int, block: Any) -> Entries:
    name = f'blocks[{number}]'
    if isinstance(block, np.ndarray):
        if block.ndim != 2 or block.shape[1] != 2:
            raise ValueError(f'{name} must be an array of shape (entries, 2), got {block.shape}')
        # an array of objects may hold exact integers beside floats
        columns = block.T.tolist() if block.dtype.kind == 'O' else list(block.T)
    else:
        columns = _columns(name, block)
    if not len(columns[0]):
        raise ValueError(f'{name} must have at least one entry, got none')
    costs, ratings = (exact_figures(name, word, col) for word, col in zip(('cost', 'rating'), columns, strict=True))
    return Entries(costs, ratings, np.arange(len(costs)))


def _columns(name: str, block: Any) -> list[Any]:
    if isinstance(block, str) or not isinstance(block, Iterable):
        raise ValueError(f'{name} must be a sequence of (cost, rating) pairs, got {block!r}')
    costs, ratings = [], []
    for index, pair in enumerate(block):
        try:
            cost, rating = pair
        except (TypeError, ValueError):
            raise ValueError(f'{name}[{index}] must be a (cost, rating) pair, got {pair!r}') from None
        costs.append(cost)
        ratings.append(rating)
    return [costs, ratings]


def exact_figures(name: str, word: str, column: Any) -> Figures:
    """One column as int64 or float64, all of it finite.

    Args:
        name: Of the block, for messages.
        word: What the figures are, for messages.
        column: One number per entry, (entries,).

    Raises:
        ValueError: Something that is no finite number of at most 64 bits.
    """
    try:
        figures = np.asarray(column)
    except ValueError:  # a list stands where a number should
        figures = np.asarray(column, object)
    kind = figures.dtype.kind
    # numpy turns integers beyond 64 bits beside negative ones into floats
    rounded = kind == 'f' and all(isinstance(figure, int) for figure in column)
    if figures.ndim != 1 or kind not in 'iuf' or rounded or (kind == 'u' and figures.max() > _LARGEST):
        wrong = next((index for index, figure in enumerate(column) if not _is_number(figure)), 0)
        raise ValueError(f'{word} of {name}[{wrong}] must be a number of at most 64 bits, got {column[wrong]!r}')
    finite = np.isfinite(figures)
    if not finite.all():
        wrong = int(np.argmin(finite))
        raise ValueError(f'{word} of {name}[{wrong}] must be finite, got {figures[wrong]}')
    return figures.astype(np.float64 if kind == 'f' else np.int64)


def _is_number(figure: Any) -> bool:
    shown = np.asarray(figure)
    return shown.ndim == 0 and shown.dtype.kind in 'iuf' and not (shown.dtype.kind == 'u' and shown > _LARGEST)


def _common_types(blocks: Sequence[Entries]) -> list[Entries]:
    """Blocks with costs of one type and ratings of one type, whose sums cannot overflow."""
    costs = summable('costs', [block.costs for block in blocks])
    ratings = summable('ratings', [block.ratings for block in blocks])
    return [Entries(*columns) for columns in zip(costs, ratings, (block.indices for block in blocks), strict=True)]


def summable(word: str, columns: Sequence[Figures]) -> list[Figures]:
    """Columns of all blocks in one type, float64 if one of them is.

    Args:
        word: What the figures are, for messages.
        columns: As `exact_figures` gives them, one per block.

    Raises:
        ValueError: Sums of one figure per block might overflow.
    """
    whole = all(column.dtype.kind == 'i' for column in columns)
    largest = (max(abs(column.min().item()), abs(column.max().item())) for column in columns)
    total = sum(largest)
    if whole and total > _LARGEST:
        raise ValueError(f'sums of {word} must fit 64 bits, got up to {total}: use a coarser unit or floats')
    if not math.isfinite(total):
        raise ValueError(f'sums of {word} must be finite, got figures whose sum overflows')
    return list(columns) if whole else [column.astype(np.float64) for column in columns]
