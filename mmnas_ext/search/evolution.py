"""Evolution over the networks of a space within a limit (SPOS, arXiv 1904.00420, algorithm 1).

The first generation is drawn uniformly among the networks within the limit. Each later one is bred from the best that
were measured so far: some children cross two of them, the others mutate one. A child that was measured before, or that
costs too much or too little, is bred again, so that all that is measured lies within the limit, exactly, and nothing is
measured twice; where none comes out of many tries, a network is drawn instead.

Everything follows from the seed, the generation and the place of the child in it, and from what was measured: where
that is kept, a search that was killed repeats itself without measuring anything again.

Deliberately otherwise than the authors: the network that the weights come from may be in the first generation, where
it lies within the limit. The super-network was remapped from it, so that nothing worse need be found.

No torch here: what a network is worth comes from a function.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmnas_ext.archs import Choices, Prices, SearchSpace
from mmnas_ext.archs.limit import Limit
from mmnas_ext.search.between import meets
from mmnas_ext.search.fields import check_count, check_known
from mmnas_ext.search.measured import RULES
from mmnas_ext.search.sampling import draw_within

SEED, DRAWN, CROSSED, MUTATED = MADE = ('seed', 'drawn', 'crossed', 'mutated')
"""How a member came about."""
LOSS = 'loss'
"""What ranks networks where no metric does."""
_COUNTS = {
    'population': 1, 'generations': 1, 'parents': 1, 'seed': 0, 'batches': 1, 'images': 1, 'calibration': 1,
    'finalists': 1, 'final_batches': 2,
}  # fmt: skip
_OF_LOSSES, _OF_METRICS = ('batches',), ('rule', 'images', 'calibration')
_TRIES = 200  # that give no new network within the limit, before one is drawn instead

Fitness = Callable[[Sequence[Choices]], Sequence[float]]


@dataclass(frozen=True)
class Evolving:
    """``evolution=dict(…)`` of a config. Where the authors have a setting, the default is theirs.

    Args:
        population: Networks that are measured in each generation.
        generations: Generations, the one that is drawn included.
        parents: The best networks so far, from which a generation is bred.
        mutate: Probability with which a searched layer of a mutated parent takes a candidate that is drawn anew.
        crossover: Share of a generation's children that cross two parents, each layer from either; the others mutate.
        seed: Of all draws.
        start_with_seed: Put the network that the weights come from into the first generation.
        window: Share of the limit that a network must cost at least: what is allowed should be used.
        rank_by: What networks are measured by on the held-out half of the images: ``'loss'``, or a metric of the
            validation as MMEngine names it, such as ``'coco/bbox_mAP'``.
        rule: Whether a ``'greater'`` or a ``'less'`` metric is better; ``None`` takes the usual one.
        batches: Batches that a loss is the mean of.
        images: Images that a metric is measured on; ``None`` takes all of the half.
        calibration: Batches that batch-norm statistics are measured on, for a metric.
        finalists: The best networks of all generations, whose losses are compared on further batches.
        final_batches: Those batches. By losses, their mean decides among the finalists.

    Raises:
        ValueError: An argument is out of its range.
    """

    population: int = 50
    generations: int = 20
    parents: int = 10
    mutate: float = 0.1
    crossover: float = 0.5
    seed: int = 0
    start_with_seed: bool = True
    window: float = 0.95
    rank_by: str = LOSS
    rule: str | None = None
    batches: int = 8
    images: int | None = 256
    calibration: int = 8
    finalists: int = 4
    final_batches: int = 16

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if (name, getattr(self, name)) != ('images', None):
                check_count(f'evolution.{name}', getattr(self, name), _COUNTS[name])
        for name, most in (('parents', 'population'), ('finalists', 'population')):
            if getattr(self, name) > getattr(self, most):
                raise ValueError(
                    f'evolution.{name} must be at most evolution.{most}, {getattr(self, most)}, '
                    f'got {getattr(self, name)}'
                )
        for name, least in (('mutate', 0), ('crossover', None), ('window', None)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 or value == least:
                span = '(0, 1]' if least == 0 else '[0, 1]'
                raise ValueError(f'evolution.{name} must be a number in {span}, got {value!r}')
        if not isinstance(self.start_with_seed, bool):
            raise ValueError(f'evolution.start_with_seed must be True or False, got {self.start_with_seed!r}')
        if not isinstance(self.rank_by, str) or not self.rank_by:
            raise ValueError(f"evolution.rank_by must be 'loss' or name a metric, got {self.rank_by!r}")
        if self.rule not in (None, *RULES) or (self.by_loss and self.rule == 'greater'):
            allowed = ("'less' of a loss",) if self.by_loss else RULES
            raise ValueError(f'evolution.rule must be one of {allowed}, got {self.rule!r}')
        if self.crossed and self.parents == 1 and self.generations > 1:
            raise ValueError(f'evolution.parents must be at least 2 where crossover is {self.crossover}, got 1')

    @property
    def crossed(self) -> int:
        """Children of a generation that cross two parents."""
        return round(self.crossover * self.population)

    @property
    def by_loss(self) -> bool:
        """Whether the super-network's loss ranks, not a metric."""
        return self.rank_by == LOSS

    @property
    def better(self) -> str:
        """The rule that ranks."""
        return self.rule or ('less' if self.by_loss else 'greater')

    @classmethod
    def parse(cls, given: Any) -> 'Evolving':
        """Reads a config's ``evolution``.

        Raises:
            ValueError: It is no dict, a key is unknown, has no effect beside the others, or as above.
        """
        if not isinstance(given, Mapping):
            raise ValueError(f'evolution must be a dict, got {given!r:.60}')
        check_known('evolution', given, cls)
        found = cls(**{key: value for key, value in given.items() if value is not None or key == 'images'})
        idle = [key for key in idle_beside(found.rank_by) if given.get(key) is not None]
        if idle:
            raise ValueError(
                f'evolution.{idle[0]} has no effect where networks are ranked by {found.rank_by!r}: leave it out, or '
                'set it to None where a base has it'
            )
        return found

    def check_batches(self, count: int) -> None:
        """Raises ValueError where the finalists' further batches would repeat images, such as made them finalists.

        Args:
            count: Batches of an epoch of the held-out half.
        """
        first = self.batches if self.by_loss else 0
        if first + self.final_batches > count:
            given = f'{first} and {self.final_batches}' if first else str(self.final_batches)
            raise ValueError(
                f'evolution.{"batches and evolution." if first else ""}final_batches must be at most {count}'
                f'{" together" if first else ""}, the batches of the held-out half, got {given}: the last ones would '
                'repeat images'
            )


def idle_beside(rank_by: Any) -> tuple[str, ...]:
    """The settings that have no effect beside what ranks networks."""
    return _OF_METRICS if rank_by == LOSS else _OF_LOSSES


@dataclass(frozen=True)
class Member:
    """A network of a generation.

    Args:
        path: A candidate index per layer, per stage; of the paths of one network always the same.
        cost: In the limit's metric.
        value: What was measured of it, lower is better; infinite where it failed.
        made: How it came about, one of `MADE`.
    """

    path: Choices
    cost: float
    value: float
    made: str


Generation = tuple[Member, ...]


class Evolution:
    """An evolution under way.

    Args:
        space: The space.
        priced: Its prices by the limited metric.
        limit: What every network costs at least and at most.
        settings: How to go about it.
        fitness: What networks are worth, lower is better; infinite of what failed. Called once for each generation,
            with networks that were not measured before.
        start: A network of the first generation, if it lies within the limit: the seed.

    Attributes:
        generations: Those that have been measured.
    """

    def __init__(
        self,
        space: SearchSpace,
        priced: Prices,
        limit: Limit,
        settings: Evolving,
        fitness: Fitness,
        start: Choices | None = None,
    ) -> None:
        self.space, self.priced, self.limit, self.settings, self.fitness = space, priced, limit, settings, fitness
        self.start = None if start is None else self._same(start)
        self.generations: list[Generation] = []
        self._draws: Iterator[Choices] = draw_within(space, priced, settings.seed, limit.max, limit.min)
        self._looked_at: dict[Choices, Choices | None] = {}
        self._searched = [
            (i, j) for i, stage in enumerate(space.stages) for j, row in enumerate(stage.layers) if len(row) > 1
        ]

    def run(self) -> Iterator[Generation]:
        """Yields each generation when it is measured; fewer than asked for where no network is left to measure.

        Raises:
            ValueError: No network of the first generation could be measured.
        """
        for number in range(self.settings.generations):
            bred = self._first() if not number else self._next(number)
            if not bred:
                return
            values = self.fitness(list(bred))
            members = [
                Member(path, self.priced.path(path), _known(value), made)
                for (path, made), value in zip(bred.items(), values, strict=True)
            ]
            if not number and all(math.isinf(each.value) for each in members):
                raise ValueError(f'none of the {len(members)} networks of the first generation has a finite value')
            self.generations.append(tuple(members))
            yield self.generations[-1]

    @property
    def members(self) -> list[Member]:
        """All that were measured, in their order."""
        return [member for generation in self.generations for member in generation]

    def ranked(self) -> list[Member]:
        """Those that did not fail, the best first; of equals the one that was measured first."""
        return sorted((each for each in self.members if math.isfinite(each.value)), key=lambda each: each.value)

    def _first(self) -> dict[Choices, str]:
        """The networks of the first generation, and how each came about."""
        found: dict[Choices, str] = {}
        if self.start is not None and meets(self.priced, self.start, self.limit):
            found[self.start] = SEED
        while len(found) < self.settings.population and (drawn := self._draw(found)) is not None:
            found[drawn] = DRAWN
        return found

    def _next(self, number: int) -> dict[Choices, str]:
        """The networks of a later generation; the order of the keys is that of the children."""
        self._looked_at.clear()
        parents = [each.path for each in self.ranked()[: self.settings.parents]]
        known = {each.path for each in self.members}
        found: dict[Choices, str] = {}
        for index in range(self.settings.population):
            rng = random.Random(f'{self.settings.seed}/{number}/{index}')
            made = CROSSED if index < self.settings.crossed else MUTATED
            child = self._bear(parents, made, rng, known)
            if child is None:
                child, made = self._draw(known), DRAWN
            if child is None:
                continue  # another child may still come out of its own tries
            known.add(child)
            found[child] = made
        return found

    def _bear(self, parents: list[Choices], made: str, rng: random.Random, known: set[Choices]) -> Choices | None:
        """A child that is new and lies within the limit; ``None`` where many tries give none."""
        if made == CROSSED and len(parents) < 2:
            return None
        for _ in range(_TRIES):
            path = self._cross(parents, rng) if made == CROSSED else self._mutate(rng.choice(parents), rng)
            if path not in self._looked_at:  # parents that are alike give the same children again and again
                self._looked_at[path] = self._same(path) if meets(self.priced, path, self.limit) else None
            child = self._looked_at[path]
            if child is not None and child not in known:
                return child
        return None

    def _cross(self, parents: list[Choices], rng: random.Random) -> Choices:
        one, other = rng.sample(parents, 2)
        return tuple(
            tuple(rng.choice(pair) for pair in zip(*rows, strict=True)) for rows in zip(one, other, strict=True)
        )

    def _mutate(self, parent: Choices, rng: random.Random) -> Choices:
        rows = [list(row) for row in parent]
        for i, j in self._searched:
            if rng.random() < self.settings.mutate:
                rows[i][j] = rng.randrange(len(self.space.stages[i].layers[j]))
        return tuple(map(tuple, rows))

    def _draw(self, known: Mapping[Choices, Any] | set[Choices]) -> Choices | None:
        """The next network of the uniform draw that is not known; ``None`` where none is left."""
        return next((path for path in map(self._same, self._draws) if path not in known), None)

    def _same(self, path: Choices) -> Choices:
        """The one path that stands for all paths of a network: they differ in the places of skips."""
        return self.space.path(self.space.arch(path))


def undominated(members: Sequence[Member]) -> list[Member]:
    """Those of finite value that no other one beats in cost and value, the cheapest first."""
    kept: list[Member] = []
    for member in sorted(members, key=lambda each: (each.cost, each.value)):
        if math.isfinite(member.value) and (not kept or member.value < kept[-1].value):
            kept.append(member)
    return kept


def _known(value: float) -> float:
    """A value, infinite where it is NaN: what cannot be compared has failed."""
    return math.inf if math.isnan(value) else float(value)
