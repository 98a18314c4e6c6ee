"""Chooses a network by measured losses of a super-network: which networks to measure next, and which one is the best.

Networks are compared with a reference (the seed) on the same batches. First every candidate takes the place of the
reference's, one layer at a time, on a few batches. Then rounds: effects are drawn from what is believed by now
(`mmnas_ext.search.belief`), the best network under the drawn effects is found exactly within the limits (Thompson
sampling: a network is measured as often as it may be the best), and these are measured as wholes, beside networks near
the one that careful estimates prefer, where a difference is most likely to be real. The best half of them
is measured on twice as many batches, and so on (successive halving, arXiv 1502.07943). What is chosen in the end is the
network whose loss most surely is low, given all of that and its own measurement: what it owes to luck is discounted,
and the reference is kept unless another network is surely better.

No torch here: losses come from a function.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmnas_ext.archs import Choices, Prices, SearchSpace
from mmnas_ext.archs.limit import Limit
from mmnas_ext.search.belief import Belief, Measured, tamed
from mmnas_ext.search.between import best_network, meets
from mmnas_ext.search.decision import LayerChoice, normal
from mmnas_ext.search.fields import check_count, check_known, check_number
from mmnas_ext.search.statistics import t_probability, t_quantile

Rate = Callable[[Sequence[Choices], Sequence[int]], np.ndarray]
_STEP = 0.9  # of the way from the cheapest network to the limit: where the front's slope is taken
_CAUTIONS = (2.0, 1.0, 0.5, 0.0)  # standard deviations
_TRIES = 20  # draws in a row that give no new network, before fewer are taken


@dataclass(frozen=True)
class Measuring:
    """How a selection by measured losses goes about it; ``selection=dict(type='measured', …)`` of a config.

    Args:
        first: Batches for every candidate in the reference's place.
        networks: Networks that are measured as wholes in each round.
        rounds: Rounds.
        batches: Batches for each of these.
        finalists: Networks among which the last halvings decide.
        most: Batches for the last ones.
        window: Share of the limit that a network must cost at least: what is allowed should be used.
        certain: Standard deviations of caution: networks are ranked by the loss that they stay below with these, and
            one must beat the reference by as many (of Student's t, where batches are few) to be taken instead of it,
            where that meets the limit.
        seed: Of the draws.

    Raises:
        ValueError: An argument is out of its range.
    """

    first: int = 3
    networks: int = 8
    rounds: int = 3
    batches: int = 4
    finalists: int = 6
    most: int = 24
    window: float = 0.95
    certain: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('first', 'networks', 'rounds', 'batches', 'finalists', 'most'):
            check_count(f'selection.{name}', getattr(self, name), 1)
        for name, highest in (('window', 1.0), ('certain', math.inf)):
            check_number(f'selection.{name}', getattr(self, name), highest)
        check_count('selection.seed', self.seed, 0)

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> 'Measuring':
        """Reads a config's settings.

        Raises:
            ValueError: A key is unknown, or as above.
        """
        check_known("selection of type 'measured'", given, cls)
        return cls(**given)

    def within(self, batches: int) -> 'Measuring':
        """These settings where there are only so many batches without repeating an image.

        An image that is seen again says little that is new; counted as another one, it would make a choice look surer
        than it is.
        """
        return replace(self, **{name: min(getattr(self, name), batches) for name in ('first', 'batches', 'most')})


class Chooser:
    """A choice under way: measures, believes, proposes.

    Args:
        space: The space.
        priced: Its prices by the limited metric.
        reference: The path that all are compared with.
        rate: Losses ``(paths, batches)`` of paths on batches by position; the batches are the same for all paths.
        settings: How to go about it.
        told: Told in words what is being done.
        alike: Whether a batch is a training, whose noise is each network's own and of one size for all: what
            repetitions of any of them say of it then counts for all.
    """

    def __init__(
        self,
        space: SearchSpace,
        priced: Prices,
        reference: Choices,
        rate: Rate,
        settings: Measuring | None = None,
        told: Callable[[str], None] | None = None,
        alike: bool = False,
    ) -> None:
        self.alike = alike
        self.space, self.priced, self.reference, self.rate = space, priced, reference, rate
        self.settings = settings or Measuring()
        self.told = told or (lambda _text: None)
        self._differences: dict[Choices, dict[int, float]] = {}
        self._belief: Belief | None = None
        self._drawn_in = 0

    @property
    def belief(self) -> Belief:
        """What is believed by now, of losses that are infinite or far from all others within bounds."""
        if self._belief is None:
            rows = self._differences
            if self.alike:  # a training that failed says nothing of luck, and its network is no candidate
                rows = {path: row for path, row in rows.items() if self._is_finite(path)}
            known, drawn_in = tamed(rows, self.reference)
            if drawn_in > self._drawn_in:
                total = sum(map(len, known.values()))
                self.told(f'{drawn_in} of {total} differences are far from all others and count as less far')
            self._drawn_in = drawn_in
            self._belief = Belief(self.space, self.reference, Measured(known), self.alike)
        return self._belief

    def measure(self, paths: Sequence[Choices], batches: int) -> None:
        """Measures paths, and the reference, on the first batches.

        Raises:
            ValueError: The reference's loss is infinite on all of them.
        """
        losses = self.rate([self.reference, *paths], range(batches))
        usable = [place for place in range(batches) if math.isfinite(losses[0][place])]
        if not usable:
            raise ValueError(
                f'the loss of the reference network must be finite, got none in {batches} '
                f'{"trainings" if self.alike else "held-out batches"}: nothing can be compared with it'
            )
        for path, row in zip(paths, losses[1:], strict=True):
            found = {place: float(row[place] - losses[0][place]) for place in usable}
            self._differences.setdefault(path, {}).update(found)
        self._belief = None

    def explore(self) -> None:
        """Measures every candidate in the reference's place."""
        singles = self.singles()
        self.told(f'every candidate in the place of the reference: {len(singles)} networks')
        self.measure(singles, self.settings.first)

    def singles(self) -> list[Choices]:
        """The networks that differ from the reference in one layer."""
        return [
            _replaced(self.reference, i, j, choice)
            for i, stage in enumerate(self.space.stages)
            for j, layer in enumerate(stage.layers)
            for choice in range(len(layer))
            if choice != self.reference[i][j]
        ]

    def best_within(self, effects: np.ndarray, limit: Limit) -> Choices | None:
        """The network of the lowest sum of effects within a limit, exactly; ``None`` where there is none.

        Paths that differ in the places of skips alone are one network: its path is the one whose skips stand last.
        """
        ratings = [row.tolist() for row in self.belief.by_layer(effects)]
        found = best_network(self.space, self.priced, ratings, limit)
        return None if found is None else self.usual(found)

    def usual(self, path: Choices) -> Choices:
        """The path that stands for all of the same network."""
        return self.space.path(self.space.arch(path))

    def propose(self, count: int, limit: Limit, rng: np.random.Generator) -> list[Choices]:
        """Distinct networks within a limit, each the best one under some effects that may be true.

        The first ones keep the reference's candidates the more the less sure others are; the next, up to half of all,
        are those next to the most careful one, which may be the reference itself; the effects of the others are drawn
        from what is believed.
        """
        belief, found, idle = self.belief, dict[Choices, None](), 0
        for effects in map(belief.cautious, _CAUTIONS):
            path = self.best_within(effects, limit)
            if path is not None and path != self.reference and self._is_finite(path) and len(found) < count:
                found[path] = None
        room = (count + 1) // 2 - len(found)
        if room > 0:
            near = [p for p in self.near(limit) if p not in (*found, self.reference) and self._is_open(p)]
            found |= dict.fromkeys(near[:room])
        for effects in (belief.draw(rng) for _ in range(_TRIES * count)):
            path = self.best_within(effects, limit)
            idle += 1
            if path is not None and path not in (*found, self.reference) and self._is_finite(path):
                found[path], idle = None, 0
            if len(found) >= count or idle > _TRIES:
                break
        return list(found)

    def near(self, limit: Limit) -> list[Choices]:
        """The networks next to the best one within a limit under the most careful effects, the best of them first.

        Per layer the best network that has another candidate there, and so the second best of all (Lawler, 1972).
        """
        effects = self.belief.cautious(_CAUTIONS[0])
        best = self.best_within(effects, limit)
        if best is None:
            return []
        far = 1.0 + 2.0 * float(np.abs(effects).sum())
        starts = np.cumsum([0, *map(len, self.belief.by_layer(effects))])
        found: dict[Choices, float] = {}
        for start, (i, j) in zip(starts, self.belief.layers, strict=False):
            without = effects.copy()
            without[start + best[i][j]] += far
            path = self.best_within(without, limit)
            if path is not None and path != best:
                found[path] = float(self.belief.row(path) @ effects)
        return sorted(found, key=lambda path: found[path])

    def promising(self, paths: Iterable[Choices], count: int) -> list[Choices]:
        """Those of paths that may be the best: by the loss that is `certain` deviations below what is expected.

        A network of which little is known may be better than one that is known to be as good as the reference.
        """
        certain = self.settings.certain
        lowest = {path: expected - certain * error for path in paths for expected, error in [self.belief.network(path)]}
        return sorted(filter(self._is_finite, lowest), key=lambda path: lowest[path])[:count]

    def halve(self, paths: Sequence[Choices], most: int) -> list[Choices]:
        """Measures networks once more and goes on with the better half of them, until the last have `most`.

        Returns:
            All of a finite loss, the best first.
        """
        left = list(paths)
        for batches in range(1, most + 1):
            self.told(f'{len(left)} networks and the reference, training {batches} of at most {most}')
            self.measure(left, batches)
            left = self.ranked(left)[: max(1, (len(left) + 1) // 2)]
            if not left:
                break
        return self.ranked(paths)

    def search(self, limit: Limit) -> list[Choices]:
        """Measures networks within a limit by rounds and halvings.

        Returns:
            All that were measured as wholes and have a finite loss, the best first.
        """
        wanted, known = self.settings, dict[Choices, None]()
        rng = np.random.default_rng(wanted.seed)
        for number in range(wanted.rounds):
            proposed = self.propose(wanted.networks, limit, rng)
            self.told(f'round {number + 1} of {wanted.rounds}: {len(proposed)} networks')
            self.measure(proposed, wanted.batches)
            known.update(dict.fromkeys(proposed))
        left, batches = self.ranked(known)[: wanted.finalists], wanted.batches
        while left and batches < wanted.most:
            batches = min(2 * batches, wanted.most)
            self.told(f'{len(left)} networks on {batches} batches each')
            self.measure(left, batches)
            left = self.ranked(left)[: max(1, len(left) // 2)]
        return self.ranked(known)

    def point(self, limit: Limit, count: int) -> Choices | None:
        """The network whose loss most surely is the lowest within a limit, of a few that are measured.

        The reference, where that meets the limit and none is surely better; ``None`` without any.
        """
        known = self._differences
        proposed = self.propose(count, limit, np.random.default_rng(self.settings.seed))
        self.measure(proposed, self.settings.batches)
        inside = [path for path in known if self.meets(path, limit) and path == self.usual(path)]
        ranked = self.ranked(inside or proposed)
        return self.decide(ranked, limit) if ranked or self.meets(self.reference, limit) else None

    def meets(self, path: Choices, limit: Limit) -> bool:
        """Whether a network lies within a limit."""
        return meets(self.priced, path, limit)

    def decide(self, ranked: Sequence[Choices], limit: Limit) -> Choices:
        """The first of ranked networks; the reference, where that meets the limit and none is surely better.

        Raises:
            ValueError: There is none, and the reference does not meet the limit.
        """
        kept = self.meets(self.reference, limit)
        if not ranked and not kept:
            raise ValueError(f'no network that costs {limit.show(self.priced.by)} has a finite loss')
        if not ranked:
            return self.reference
        return self.reference if kept and not self._bound(ranked[0]) < 0 else ranked[0]

    def ranked(self, paths: Iterable[Choices]) -> list[Choices]:
        """Paths by the loss that they surely stay below, the lowest first; those of an infinite one are left out."""
        return sorted(filter(self._is_finite, paths), key=self._order)

    def better(self, path: Choices) -> float | None:
        """Probability that a network is better than the reference; ``None`` where nothing says."""
        expected, error = self.belief.network(path)
        if not error:
            return None
        seen = self.belief.measured.repetitions() if self.alike else 0
        return t_probability(-expected / error, seen) if seen else normal(-expected / error)

    def _bound(self, path: Choices) -> float:
        """The difference that a network surely stays below."""
        expected, error = self.belief.network(path)
        known = self.belief.measured
        seen = known.repetitions() + 1 if self.alike else known.count(path)
        wanted = caution(self.settings.certain, seen)
        return expected + wanted * error if error else expected

    def _order(self, path: Choices) -> tuple[float, float]:
        """By what it surely stays below; where nothing is sure, by what is expected."""
        return self._bound(path), self.belief.network(path)[0]

    def _is_open(self, path: Choices) -> bool:
        return self._is_finite(path) and len(self._differences.get(path, {})) < self.settings.batches

    def _is_finite(self, path: Choices) -> bool:
        return all(map(math.isfinite, self._differences.get(path, {}).values()))

    def explain(self, path: Choices, limit: Limit) -> list[LayerChoice]:
        """Per layer what was chosen and what came next, costs counted at the price that the limit puts on them."""
        belief = self.belief
        mean, _ = belief.posterior
        toll = self._toll(limit, mean)
        found = []
        rows = zip(belief.layers, self.priced.searched().items(), belief.by_layer(mean), strict=True)
        for number, ((i, j), (name, costs), effects) in enumerate(rows):
            tokens, chosen = self.space.stages[i].layers[j], path[i][j]
            totals = [
                float(effect - effects[chosen]) + toll * (cost - costs[chosen])
                for effect, cost in zip(effects, costs, strict=True)
            ]
            other = min((c for c in range(len(tokens)) if c != chosen), key=lambda c: totals[c])
            _, error = belief.compare(number, other, chosen)
            lead = totals[other]
            found.append(
                LayerChoice(
                    layer=name,
                    chosen=tokens[chosen],
                    runner_up=tokens[other],
                    lead=lead,
                    error=error,
                    certainty=normal(lead / error) if error else 0.5,
                    scores={token: total for token, total in zip(tokens, totals, strict=True)},
                )
            )
        return found

    def _toll(self, limit: Limit, effects: np.ndarray) -> float:
        """What a unit of cost is worth at the limit, in effects: the slope of the front there; 0 without a limit."""
        free = self.best_within(effects, Limit(limit.min))
        if limit.max is None or free is None or self.meets(free, limit):
            return 0.0
        less = self.priced.range()[0] + _STEP * (limit.max - self.priced.range()[0])
        here, below = (self.best_within(effects, Limit(None, most)) for most in (limit.max, less))
        if here is None or below is None:
            return 0.0
        gained = self.belief.row(below) @ effects - self.belief.row(here) @ effects
        paid = self.priced.path(here) - self.priced.path(below)
        return float(gained / paid) if paid > 0 and gained > 0 else 0.0


def caution(certain: float, batches: int) -> float:
    """Standard deviations by which a network must beat the reference: `certain` ones of a normal, by Student's t.

    What all networks share with the reference, and with each other layer by layer, was seen on so many batches alone;
    one says nothing of how batches differ, so nothing is sure then. Without caution none is added.
    """
    if not certain:
        return 0.0
    level = 2 * normal(certain) - 1
    return t_quantile(batches - 1, level) if batches > 1 and level < 1 else math.inf


def window(limit: Limit, share: float, reach: tuple[float, float]) -> Limit:
    """A limit whose lowest cost is a share of its highest, where it has none itself and some network costs more."""
    if limit.max is None or limit.min is not None or limit.max >= reach[1]:
        return limit
    return Limit(share * limit.max, limit.max)


def _replaced(path: Choices, stage: int, layer: int, choice: int) -> Choices:
    return tuple(
        tuple(choice if (i, j) == (stage, layer) else old for j, old in enumerate(row)) for i, row in enumerate(path)
    )
