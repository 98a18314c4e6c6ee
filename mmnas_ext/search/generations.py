"""The generations of an evolution as a file says them, ``evolution.json``."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmnas_ext.archs import METRICS, ArchSpec, Limit
from mmnas_ext.archs.literal import call_at
from mmnas_ext.search.evolution import MADE
from mmnas_ext.search.fields import check_kind, check_list_of, find_file, read_object, take
from mmnas_ext.search.measured import RULES

_WRITER = 'a search by evolution'


@dataclass(frozen=True)
class Bred:
    """A network of a generation.

    Args:
        arch: The network.
        cost: In the limit's metric.
        value: What was measured of it; ``None`` where that failed.
        made: How it came about, one of `mmnas_ext.search.evolution.MADE`.
    """

    arch: ArchSpec
    cost: float
    value: float | None
    made: str

    def __post_init__(self) -> None:
        if self.made not in MADE:
            raise ValueError(f'made must be one of {MADE}, got {self.made!r}')


@dataclass(frozen=True)
class Generations:
    """Content of ``evolution.json``.

    Args:
        rank_by: What networks were ranked by: ``'loss'``, or a metric of the validation.
        rule: Whether a ``'greater'`` or a ``'less'`` value is better.
        metric: What `Bred.cost` is.
        limit: What every network costs at least and at most.
        asked: How many generations were asked for.
        rows: Those that were measured, at least one network in each.

    Raises:
        ValueError: A field is out of its range; says which.
    """

    rank_by: str
    rule: str
    metric: str
    limit: Limit
    asked: int
    rows: tuple[tuple[Bred, ...], ...]

    def __post_init__(self) -> None:
        for name, value, allowed in (('rule', self.rule, RULES), ('metric', self.metric, tuple(METRICS))):
            if value not in allowed:
                raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
        if not self.rows or not all(self.rows):
            raise ValueError('rows must hold at least one generation, each of at least one network')

    @property
    def count(self) -> int:
        """Networks that were measured."""
        return sum(map(len, self.rows))

    @property
    def bests(self) -> tuple[float | None, ...]:
        """Per generation the best value in it; ``None`` where all failed."""
        choose = max if self.rule == 'greater' else min
        return tuple(choose(values) if values else None for values in self._values())

    @property
    def leads(self) -> tuple[float | None, ...]:
        """Per generation the best value up to it."""
        choose, found = max if self.rule == 'greater' else min, list[float | None]()
        for best in self.bests:
            known = [each for each in (best, *found[-1:]) if each is not None]
            found.append(choose(known) if known else None)
        return tuple(found)

    @property
    def means(self) -> tuple[float | None, ...]:
        """Per generation the mean value of those that did not fail."""
        return tuple(math.fsum(values) / len(values) if values else None for values in self._values())

    def _values(self) -> list[list[float]]:
        return [[each.value for each in row if each.value is not None] for row in self.rows]

    def format(self) -> str:
        """As JSON text; `parse` reads it back."""
        rows = [
            [
                {'arch': each.arch.format('fna'), 'cost': each.cost, 'value': each.value, 'made': each.made}
                for each in row
            ]
            for row in self.rows
        ]
        said = {'rank_by': self.rank_by, 'rule': self.rule, 'metric': self.metric, 'limit': self.limit._asdict()}
        return json.dumps({**said, 'asked': self.asked, 'generations': rows}, indent=1) + '\n'

    @classmethod
    def parse(cls, source: str | Path | Mapping[str, Any]) -> 'Generations':
        """Reads an ``evolution.json``, the work dir that holds it, or its content.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not of this form; says where, what came and what is allowed.
        """
        if isinstance(source, Mapping):
            return _parse(source, 'evolution')
        file = find_file(source, 'evolution', _WRITER)
        return _parse(read_object(file), str(file))


def _parse(content: Mapping[str, Any], where: str) -> Generations:
    rank_by, rule, metric = (take(content, name, str, where) for name in ('rank_by', 'rule', 'metric'))
    limit = Limit.parse(take(content, 'limit', dict, where), f'{where}: limit')
    asked, rows = take(content, 'asked', int, where), take(content, 'generations', list, where)
    found = tuple(
        tuple(
            _measured(each, f'{where}: generation {number}: network {place}')
            for place, each in enumerate(check_list_of(row, dict, f'{where}: generation {number}'))
        )
        for number, row in enumerate(check_list_of(rows, list, f'{where}: generations'))
    )
    return call_at(where, Generations, rank_by, rule, metric, limit, asked, found)


def _measured(row: Mapping[str, Any], where: str) -> Bred:
    arch = call_at(f'{where}: arch', ArchSpec.parse, take(row, 'arch', str, where))
    value = row.get('value')
    return call_at(
        where,
        Bred,
        arch,
        take(row, 'cost', float, where),
        None if value is None else check_kind(value, float, f'{where}: value'),
        take(row, 'made', str, where),
    )
