"""A front of networks that were measured, as a value and as the part of ``front.json`` that all methods share."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmnas_ext.archs import METRICS, ArchSpec, HostChoice, Limit
from mmnas_ext.archs.literal import call_at
from mmnas_ext.search.fields import check_kind, find_file, read_object, take, take_list
from mmnas_ext.workdir import WorkDir, write_text

ORIGINS = ('front', 'seed', 'chosen')
RULES = ('greater', 'less')
_WRITER = 'a search that measures its front'


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network with what it costs and what was measured of it.

    Args:
        arch: The network.
        costs: By metric of `METRICS`, in its own figures.
        metrics: What was measured, by name; empty where it could not be.
        score: What the search thought of it, if it has a figure for that; lower is better.
        origin: ``'front'``, ``'chosen'``, the one that the search gives, or ``'seed'``, the one that it started from.
        host: Where neck and head are searched too, the text of the `HostChoice` that it is one detector with, whose
            costs these are.
    """

    arch: ArchSpec
    costs: Mapping[str, float]
    metrics: Mapping[str, float]
    score: float | None = None
    origin: str = 'front'
    host: str | None = None

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise ValueError(f'origin must be one of {ORIGINS}, got {self.origin!r}')
        foreign = sorted(set(self.costs) - set(METRICS))
        if foreign or not self.costs:
            raise ValueError(f'costs must be by metric, {tuple(METRICS)}, got {foreign or "none"}')
        if min(self.costs.values()) < 0:
            raise ValueError(f'costs must be at least 0, got {min(self.costs.values())}')


@dataclass(frozen=True)
class MeasuredFront:
    """Measured networks along the axis of a cost; those that can be picked have the numbers 0, 1, … by that cost.

    Args:
        metric: The cost that orders them.
        rank_by: Name of the measured metric on the other axis.
        rule: Whether a ``'greater'`` or a ``'less'`` one is better.
        networks: At least one beside the seed, at most one seed and at most one that is chosen, in any order.
        limits: By metric, those of the search.

    Raises:
        ValueError: A field is out of its range; says which.
    """

    metric: str
    rank_by: str
    rule: str
    networks: tuple[MeasuredNetwork, ...]
    limits: Mapping[str, Limit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f'metric must be among {tuple(METRICS)}, got {self.metric!r}')
        if self.rule not in RULES:
            raise ValueError(f'rule must be one of {RULES}, got {self.rule!r}')
        foreign = sorted(set(self.limits) - set(METRICS))
        if foreign:
            raise ValueError(f'limits must be by metric, {tuple(METRICS)}, got {foreign}')
        for number, network in enumerate(self.networks):
            if self.metric not in network.costs:
                raise ValueError(f'network {number}: costs lack {self.metric}, got {[*network.costs]}')
        ordered = sorted(self.networks, key=lambda network: network.costs[self.metric])
        object.__setattr__(self, 'networks', tuple(ordered))
        if not self.points:
            raise ValueError('networks must hold at least one beside the seed, got none')
        for origin in ('seed', 'chosen'):
            count = sum(network.origin == origin for network in self.networks)
            if count > 1:
                raise ValueError(f'networks must hold at most one whose origin is {origin!r}, got {count}')

    @property
    def points(self) -> tuple[MeasuredNetwork, ...]:
        """The networks that can be picked, the cheapest first: their places are their numbers."""
        return tuple(network for network in self.networks if network.origin != 'seed')

    @property
    def numbered(self) -> tuple[tuple[int | None, MeasuredNetwork], ...]:
        """All networks, the cheapest first, each with its number; the seed has none."""
        numbers = iter(range(len(self.networks)))
        return tuple((None if each.origin == 'seed' else next(numbers), each) for each in self.networks)

    @property
    def seed(self) -> MeasuredNetwork | None:
        """The network that the search started from, if it was measured too."""
        return next((network for network in self.networks if network.origin == 'seed'), None)

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, else -1."""
        return 1 if self.rule == 'greater' else -1

    def pick(self, number: int) -> MeasuredNetwork:
        """The network of a number.

        Raises:
            ValueError: There is none of that number; names those that there are.
        """
        if not 0 <= number < len(self.points):
            raise ValueError(f'the front has networks 0..{len(self.points) - 1}, got {number}')
        return self.points[number]

    def plain(self) -> dict[str, Any]:
        """The front as JSON has it, and as `parse` reads it."""
        networks = [
            {
                'arch': network.arch.format('fna'),
                'costs': dict(network.costs),
                'metrics': dict(network.metrics),
                'score': network.score,
                'origin': network.origin,
                **({} if network.host is None else {'host': network.host}),
            }
            for network in self.networks
        ]
        return {
            'metric': self.metric,
            'rank_by': self.rank_by,
            'rule': self.rule,
            'limits': {name: limit.plain() for name, limit in self.limits.items()},
            'networks': networks,
        }

    def format(self) -> str:
        """The content of a ``front.json`` that holds nothing else."""
        return json.dumps(self.plain(), indent=1)

    def write(self, folder: Path) -> Path:
        """Writes ``front.json`` into a folder, whole or not at all."""
        file = WorkDir(folder).front
        write_text(file, self.format())
        return file

    @classmethod
    def parse(cls, source: 'str | Path | Mapping[str, Any]') -> 'MeasuredFront':
        """Reads a ``front.json``, the work dir that holds it, or its content; other fields of it are let be.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not of this form; says where, what came and what is allowed.
        """
        if isinstance(source, Mapping):
            return _from_mapping(source, 'front')
        file = find_file(source, 'front', _WRITER)
        return _from_mapping(read_object(file), str(file))

    @classmethod
    def find(cls, source: str | Path) -> 'MeasuredFront | None':
        """As `parse` of a file or a work dir; ``None`` where there is no file, or no network in it was measured."""
        path = Path(source)
        file = WorkDir(path).front if path.is_dir() else path
        if not file.is_file() or 'networks' not in read_object(file):
            return None
        return cls.parse(file)


def _from_mapping(content: Mapping[str, Any], where: str) -> MeasuredFront:
    if 'networks' not in content:
        raise ValueError(f'{where} has no measured networks: {_WRITER} writes them')
    rows = take_list(content, 'networks', dict, where, least=1)
    networks = tuple(_network(row, f'{where}: network {number}') for number, row in enumerate(rows))
    given = take(content, 'limits', dict, where) if 'limits' in content else {}
    limits = {name: Limit.parse(limit, f'{where}: limits {name}') for name, limit in given.items()}
    metric, rank_by, rule = (take(content, name, str, where) for name in ('metric', 'rank_by', 'rule'))
    set_limits = {name: limit for name, limit in limits.items() if limit != Limit()}
    return call_at(where, MeasuredFront, metric, rank_by, rule, networks, set_limits)


def _network(row: Mapping[str, Any], where: str) -> MeasuredNetwork:
    arch = call_at(f'{where}: arch', ArchSpec.parse, take(row, 'arch', str, where))
    costs, metrics = (_figures(take(row, name, dict, where), f'{where}: {name}') for name in ('costs', 'metrics'))
    score = None if row.get('score') is None else take(row, 'score', float, where)
    host = None if row.get('host') is None else call_at(where, HostChoice.parse, row['host']).format()
    return call_at(where, MeasuredNetwork, arch, costs, metrics, score, take(row, 'origin', str, where), host)


def _figures(given: Mapping[str, Any], where: str) -> dict[str, float]:
    return {name: check_kind(value, float, f'{where}: {name}') for name, value in given.items()}
