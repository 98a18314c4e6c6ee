"""Uniform draws of networks within a cost limit: what a random search tries (FNA, ICLR 2020, section 4.4).

Drawing paths until one fits would hardly end where few fit, and would prefer networks with many places for a skip.
Deliberately otherwise here: networks, not paths, are counted by their cost, and one is picked by its number, so each
within the limits is equally likely.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmnas_ext.archs import SKIP, ArchSpec, Choices, Limit, Prices, SearchSpace, StageSpec
from mmnas_ext.search.fields import check_count

# costs are counted in that many bins: 40 ms and some 10 MB for FNA's spaces, and of networks that are drawn within
# limits a thousandth of the whole range apart more than half lie within them
_BINS = 1 << 14
# up to that many networks are numbered one by one, so that an answer "there are no more" is certain: half a second
_LISTED = 20_000
# beyond them: draws in vain until the limits count as too narrow, half a second
_TRIES = 20_000
# FNA's spaces have some 30 states; only stages whose layers offer ever other candidates have many
_MAX_STATES = 2000

# numbers of networks exceed 64 bits: exact Python integers in an array
Counts = NDArray[Any]


class _Step(NamedTuple):
    """A block, or with an empty token the end of the stage."""

    token: str
    price: int
    target: int


@dataclass(frozen=True)
class _State:
    """Where a network stands inside a stage: all layers that its next block may take, skips before it included."""

    stage: int
    places: frozenset[int]
    steps: tuple[_Step, ...]


def sample_within(
    space: SearchSpace,
    prices: Prices,
    count: int,
    seed: int,
    max_cost: float | None = None,
    min_cost: float | None = None,
) -> list[Choices]:
    """Draws distinct networks, each one whose cost lies within the limits equally likely.

    Networks are distinct as `ArchSpec`: paths that differ only in where a skip stands are one network, and one of
    them is returned. The draw follows from the other arguments and `seed`; a larger `count` extends a smaller one's.

    Args:
        space: The search space.
        prices: Its prices; a cost is what `Prices.path` gives, in the metric's figures.
        count: How many.
        seed: Of the draw.
        max_cost: Highest cost, itself allowed; ``None`` is no limit.
        min_cost: Lowest cost, itself allowed; ``None`` is no limit.

    Raises:
        ValueError: An argument is out of range, `prices` are not of this space or give a network two costs, nothing
            that can be reached lies within the limits (names the range that can), fewer than `count` networks do
            (says how many), or the limits are too narrow to find them.
    """
    check_count('count', count, 1)
    counter, lowest, highest = _counted(space, prices, min_cost, max_cost)
    found = list(islice(_drawn(space, counter, seed, lowest, highest), count))
    if len(found) == count:
        return found
    wanted = _describe(prices, min_cost, max_cost)
    if counter.total > _LISTED:
        raise ValueError(
            f'found only {len(found)} of count={count} networks {wanted}, and none in {_TRIES} further draws: '
            'the limits are too narrow, widen them'
        )
    raise ValueError(f'count must be at most {len(found)}, got {count}: no more networks of this space cost {wanted}')


def draw_within(
    space: SearchSpace,
    prices: Prices,
    seed: int,
    max_cost: float | None = None,
    min_cost: float | None = None,
) -> Iterator[Choices]:
    """Yields the networks that `sample_within` draws, one by one, as long as it finds any.

    Args:
        space: The search space.
        prices: Its prices.
        seed: Of the draw.
        max_cost: As there.
        min_cost: As there.

    Raises:
        ValueError: As there, but for a `count`.
    """
    counter, lowest, highest = _counted(space, prices, min_cost, max_cost)
    return _drawn(space, counter, seed, lowest, highest)


def _counted(
    space: SearchSpace, prices: Prices, min_cost: float | None, max_cost: float | None
) -> tuple['_Counter', int, int]:
    """What numbers the networks within the limits, and both limits in steps."""
    lowest, highest = _limits(prices, min_cost, max_cost)
    states = _states(space, prices)
    return _Counter(states, lowest, highest, sum(len(stage.layers) for stage in space.stages)), lowest, highest


def _drawn(space: SearchSpace, counter: '_Counter', seed: int, lowest: int, highest: int) -> Iterator[Choices]:
    """Yields distinct networks; ends where all are drawn, or too many draws in a row lie outside the limits."""
    tries = 0
    for number in _numbers(counter.total, random.Random(seed)):
        walk = counter.network(number)
        tries += 1
        if lowest <= sum(step.price for _, step in walk) <= highest:
            yield _path(space, walk)
            tries = 0
        if counter.total > _LISTED and tries == _TRIES:
            return


def _limits(prices: Prices, min_cost: float | None, max_cost: float | None) -> tuple[int, int]:
    """Both limits in the metric's smallest steps, without the stem."""
    for name, bound in (('min_cost', min_cost), ('max_cost', max_cost)):
        if bound is None:
            continue
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise ValueError(f'{name} must be a finite number or None, got {bound!r}')
    if min_cost is not None and max_cost is not None and min_cost > max_cost:
        raise ValueError(f'min_cost must be at most max_cost, got {_describe(prices, min_cost, max_cost)}')
    cheapest, most_expensive = prices.range()
    low = cheapest if min_cost is None else max(min_cost, cheapest)
    high = most_expensive if max_cost is None else min(max_cost, most_expensive)
    if high < cheapest or low > most_expensive:
        raise ValueError(
            f'no network costs {_describe(prices, min_cost, max_cost)}: '
            f'those of this space cost {prices.show(cheapest, most_expensive)}'
        )
    stem = prices.by.steps(prices.stem)
    return prices.by.steps_from(low) - stem, prices.by.steps_within(high) - stem


def _describe(prices: Prices, min_cost: float | None, max_cost: float | None) -> str:
    limit = Limit(min_cost, max_cost)
    return 'anything at all' if limit == Limit() else limit.show(prices.by)


def _states(space: SearchSpace, prices: Prices) -> list[_State]:
    """All states, every step's target before the state itself; the last one is where networks begin.

    Two paths of one network differ in the places of skips alone. Following all places that its blocks may take at
    once, as an automaton is made deterministic, leaves one way for each network.
    """
    shape = tuple(tuple(len(layer) for layer in stage.layers) for stage in space.stages)
    if shape != tuple(tuple(len(layer) for layer in stage) for stage in prices.layers):
        raise ValueError('prices must be those of the space: they have other layers or candidates')
    states = [_State(len(space.stages), frozenset(), ())]
    for stage in reversed(range(len(space.stages))):
        layers = space.stages[stage].layers
        table = [
            {token: prices.by.steps(price) for token, price in zip(layer, row, strict=True)}
            for layer, row in zip(layers, prices.layers[stage], strict=True)
        ]
        following = len(states) - 1
        reached = _reachable(layers, _MAX_STATES - len(states))
        known: dict[frozenset[int], int] = {}
        # a block moves the first place on: what lies further back is known already
        for places in sorted(reached, key=min, reverse=True):
            steps = [
                _Step(token, _one_price(table, places, token, stage), known[target])
                for token, target in reached[places].items()
            ]
            if len(layers) in places:
                steps.append(_Step('', 0, following))
            known[places] = len(states)
            states.append(_State(stage, places, tuple(steps)))
    return states


def _reachable(layers: tuple[tuple[str, ...], ...], most: int) -> dict[frozenset[int], dict[str, frozenset[int]]]:
    """Sets of places inside a stage that blocks lead to from its start, and where each block leads on to."""
    found: dict[frozenset[int], dict[str, frozenset[int]]] = {}
    waiting = [_with_skips(layers, {0})]
    while waiting:
        places = waiting.pop()
        if places in found:
            continue
        if len(found) == most:
            raise ValueError(
                f'the space has more than {_MAX_STATES} ways to place skips: offer alike layers in a stage'
            )
        tokens = {token: None for place in sorted(places) if place < len(layers) for token in layers[place]}
        found[places] = {
            token: _with_skips(layers, {q + 1 for q in places if q < len(layers) and token in layers[q]})
            for token in tokens
            if token != SKIP
        }
        waiting.extend(found[places].values())
    return found


def _with_skips(layers: tuple[tuple[str, ...], ...], places: set[int]) -> frozenset[int]:
    reached = set(places)
    for place, layer in enumerate(layers):
        if place in reached and SKIP in layer:
            reached.add(place + 1)
    return frozenset(reached)


def _one_price(table: list[dict[str, int]], places: frozenset[int], token: str, stage: int) -> int:
    """What a block costs, wherever among `places` it stands."""
    offered = [place for place in sorted(places) if place < len(table) and token in table[place]]
    found = {table[place][token] for place in offered}
    if len(found) > 1 or any(table[place].get(SKIP, 0) for place in range(len(table))):
        raise ValueError(
            f'prices of {token!r} must be equal in layers {offered} of stage {stage}, and a skip free: '
            'one network would have several costs'
        )
    return found.pop()


class _Counter:
    """Numbers the networks whose cost, summed over rounded prices, can lie within the limits.

    Args:
        states: As `_states` gives them.
        lowest: In steps, itself allowed.
        highest: In steps, itself allowed.
        layers: Of the space: as many prices are rounded down at most.
    """

    def __init__(self, states: list[_State], lowest: int, highest: int, layers: int) -> None:
        self.states = states
        self.unit = max(1, -(-highest // _BINS))
        # rounded sums fall behind by less than a bin a layer; bins of one step are not rounded at all
        behind = layers if self.unit > 1 else 0
        self.first, self.last = max(0, lowest // self.unit - behind), max(0, highest // self.unit)
        # per state and bin: networks from there on that cost at most that
        self.counts: list[Counts] = []
        for state in states:
            counts = np.zeros(self.last + 1, object)
            for step in state.steps:
                bins = step.price // self.unit
                if bins <= self.last:
                    counts[bins:] += self.counts[step.target][: self.last + 1 - bins]
            self.counts.append(counts if state.steps else counts + 1)
        self.total = self._within(len(states) - 1, self.first, self.last)

    def network(self, number: int) -> list[tuple[_State, _Step]]:
        """The steps of a network by its number in ``0..total - 1``, each with the state that it leaves."""
        walk = []
        index, first, last = len(self.states) - 1, self.first, self.last
        while self.states[index].steps:
            for step in self.states[index].steps:
                bins = step.price // self.unit
                inside = self._within(step.target, first - bins, last - bins)
                if number < inside:
                    break
                number -= inside
            walk.append((self.states[index], step))
            index, first, last = step.target, first - bins, last - bins
        return walk

    def _within(self, state: int, first: int, last: int) -> int:
        if last < 0:
            return 0
        counts = self.counts[state]
        return int(counts[last]) - (int(counts[first - 1]) if first > 0 else 0)


def _numbers(total: int, rng: random.Random) -> Iterator[int]:
    """Numbers below `total` in random order, none twice; how many will be taken changes none of them."""
    if total <= _LISTED:
        order = list(range(total))
        rng.shuffle(order)
        yield from order
        return
    seen: set[int] = set()
    while True:
        number = rng.randrange(total)
        if number not in seen:
            seen.add(number)
            yield number


def _path(space: SearchSpace, walk: list[tuple[_State, _Step]]) -> Choices:
    """A path of a network."""
    blocks: list[list[str]] = [[] for _ in space.stages]
    for state, step in walk:
        if step.token:
            blocks[state.stage].append(step.token)
    stages = tuple(
        StageSpec(stage.in_channels, stage.channels, tuple(tokens), stage.stride)
        for stage, tokens in zip(space.stages, blocks, strict=True)
    )
    return space.path(ArchSpec(stages, space.head_channels, space.act, space.bn_eps, space.stem))
