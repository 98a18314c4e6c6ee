"""What a block-wise distillation wrote about itself, read from its files alone.

A block is a group of stages; a cell is one choice of depth and width for each of them; a path picks a candidate per
layer of a cell. An entry is a path together with the width that enters it, which is what a network picks per block.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

RATINGS_NAME = 'ratings.json'
FRONT_NAME = 'front.json'
RANK_NAME = 'rank.json'
VERSION = 1
_KINDS = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a text', list: 'a list', dict: 'an object'}

BlockPath = tuple[tuple[int, ...], ...]


class Entry(NamedTuple):
    """What a network picks in a block: indices of the cell, of its path and of the width that enters."""

    cell: int
    path: int
    width: int


@dataclass(frozen=True)
class Cell:
    """The rated paths of one choice of depth and width per stage of a block.

    Args:
        cell: Index of that choice, per stage.
        enters: Widths that may enter, in channels.
        leaves: Width that leaves, in channels.
        paths: Per path and stage the index of the candidate of each layer.
        ratings: Per path its error relative to the feature's spread, lower is better.
        costs: By metric, per path a figure for each width that enters.
    """

    cell: tuple[int, ...]
    enters: tuple[int, ...]
    leaves: int
    paths: tuple[BlockPath, ...]
    ratings: tuple[float, ...]
    costs: Mapping[str, tuple[tuple[float, ...], ...]]

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers per stage."""
        return tuple(len(stage) for stage in self.paths[0])


@dataclass(frozen=True)
class RatedBlock:
    """Stages of a block, by index, and its cells."""

    stages: tuple[int, ...]
    cells: tuple[Cell, ...]

    @property
    def entries(self) -> int:
        """How many a network may pick from."""
        return sum(len(cell.paths) * len(cell.enters) for cell in self.cells)

    @property
    def ratings(self) -> tuple[float, ...]:
        """Those of all paths, cell by cell."""
        return tuple(rating for cell in self.cells for rating in cell.ratings)

    @property
    def best(self) -> Entry:
        """The best rated path, as an entry of its first width."""
        places = [(rating, c, p) for c, cell in enumerate(self.cells) for p, rating in enumerate(cell.ratings)]
        return Entry(*min(places)[1:], 0)

    def entry(self, index: int) -> Entry:
        """The entry of an index, counted in the file's order: cells, in each its paths, in each its entering widths.

        Raises:
            ValueError: `index` is out of range.
        """
        if not 0 <= index < self.entries:
            raise ValueError(f'an entry of the block of stages {self.stages} is 0..{self.entries - 1}, got {index}')
        for number, cell in enumerate(self.cells):
            size = len(cell.paths) * len(cell.enters)
            if index < size:
                return Entry(number, *divmod(index, len(cell.enters)))
            index -= size
        raise AssertionError('an index below the number of entries is in a cell')

    def rating(self, entry: Entry) -> float:
        """Rating of an entry's path."""
        return self.cells[entry.cell].ratings[entry.path]


@dataclass(frozen=True)
class Ratings:
    """Content of ``ratings.json``.

    Args:
        input_size: Height and width that multiply-adds are given for.
        output_stride: As in `mmnas_ext.archs.cost`; 32 where the file says none.
        metrics: Names of the costs.
        blocks: From the image to the last feature.
    """

    input_size: tuple[int, int]
    output_stride: int
    metrics: tuple[str, ...]
    blocks: tuple[RatedBlock, ...]

    def entries(self, choice: Iterable[int]) -> tuple[Entry, ...]:
        """The entry that `choice`, an index per block, picks in each block.

        Raises:
            ValueError: There is not one index per block, or one is out of range.
        """
        indices = tuple(choice)
        if len(indices) != len(self.blocks):
            raise ValueError(f'a choice must be one entry per block, {len(self.blocks)}, got {len(indices)}')
        return tuple(block.entry(index) for block, index in zip(self.blocks, indices, strict=True))


class Network(NamedTuple):
    """A network in the picture of a front; `choice` is an index per block, empty where it is not known."""

    title: str
    costs: Mapping[str, float]
    rating: float
    choice: tuple[int, ...] = ()


@dataclass(frozen=True)
class FrontFile:
    """Content of ``front.json``.

    Args:
        metric: Name of the cost.
        costs: Ascending, at least one.
        ratings: Per cost the lowest rating that it buys, strictly descending.
        limits: By metric, only those that are set.
        chosen: The network that was derived, if one was.
        others: Networks to compare with.
    """

    metric: str
    costs: tuple[float, ...]
    ratings: tuple[float, ...]
    limits: Mapping[str, float]
    chosen: Network | None
    others: tuple[Network, ...]


class Ranked(NamedTuple):
    """A network that was trained alone: its multiply-adds, what it reached, and its scores, lower is better."""

    title: str
    macs: float
    truth: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Rank:
    """Content of ``rank.json``.

    Args:
        truth: What was measured of networks trained alone.
        higher_is_better: Whether more of it is better.
        networks: At least two.
        tau: Per score Kendall's tau and both ends of its 95 % interval.
    """

    truth: str
    higher_is_better: bool
    networks: tuple[Ranked, ...]
    tau: Mapping[str, tuple[float, float, float]]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores, in the order in which the networks first give them."""
        return tuple(dict.fromkeys(name for network in self.networks for name in network.scores))


def read_ratings(source: str | Path) -> Ratings:
    """Reads ``ratings.json``.

    Args:
        source: The file, or the work dir that holds it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not of its form.
    """
    path, value = _read(source, RATINGS_NAME, 'rating the paths writes it')
    version = _take(value, 'version', int, path)
    if version != VERSION:
        raise ValueError(f'{path}: version must be {VERSION}, got {version}')
    size = _list(_take(value, 'input_size', list, path), int, f'{path}: input_size')
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f'{path}: input_size must be [height, width], two positive integers, got {list(size)}')
    metrics = _list(_take(value, 'metrics', list, path), str, f'{path}: metrics')
    blocks = _some(value, 'blocks', path)
    return Ratings(
        input_size=(size[0], size[1]),
        output_stride=_take(value, 'output_stride', int, path) if 'output_stride' in value else 32,
        metrics=metrics,
        blocks=tuple(_block(block, metrics, f'{path}: block {index}') for index, block in enumerate(blocks)),
    )


def read_front(source: str | Path) -> FrontFile:
    """Reads ``front.json``.

    Args:
        source: The file, or the work dir that holds it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not of its form, or is no staircase.
    """
    path, value = _read(source, FRONT_NAME, 'the search for networks writes it')
    costs = _list(_some(value, 'costs', path), float, f'{path}: costs')
    ratings = _list(_take(value, 'ratings', list, path), float, f'{path}: ratings')
    if len(costs) != len(ratings):
        raise ValueError(f'{path}: costs and ratings must be as many, got {len(costs)} and {len(ratings)}')
    for name, figures, sign in (('costs', costs, 1), ('ratings', ratings, -1)):
        wrong = next((i for i in range(1, len(figures)) if sign * (figures[i] - figures[i - 1]) <= 0), None)
        if wrong is not None:
            order = 'ascend' if sign == 1 else 'descend'
            raise ValueError(f'{path}: {name} must {order}, got {figures[wrong - 1]} before {figures[wrong]}')
    limits = _take(value, 'limits', dict, path) if value.get('limits') is not None else {}
    chosen = value.get('chosen')
    others = _take(value, 'others', list, path) if value.get('others') is not None else []
    return FrontFile(
        metric=_take(value, 'metric', str, path),
        costs=costs,
        ratings=ratings,
        limits={name: checked(x, float, f'{path}: limit {name}') for name, x in limits.items() if x is not None},
        chosen=None
        if chosen is None
        else _network({'title': 'chosen', **checked(chosen, dict, f'{path}: chosen')}, path),
        others=tuple(_network(other, path) for other in others),
    )


def read_rank(source: str | Path) -> Rank:
    """Reads ``rank.json``.

    Args:
        source: The file, or the work dir that holds it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not of its form, or holds fewer than two networks.
    """
    path, value = _read(source, RANK_NAME, 'the comparison with networks trained alone writes it')
    networks = []
    for index, entry in enumerate(_take(value, 'networks', list, path)):
        where = f'{path}: network {index}'
        scores = _take(entry, 'scores', dict, where)
        networks.append(
            Ranked(
                _take(entry, 'title', str, where),
                _take(entry, 'macs', float, where),
                _take(entry, 'truth', float, where),
                {name: checked(score, float, f'{where}: score {name}') for name, score in scores.items()},
            )
        )
    if len(networks) < 2:
        raise ValueError(f'{path}: networks must be at least two to be ranked, got {len(networks)}')
    tau = {}
    for name, row in (_take(value, 'tau', dict, path) if 'tau' in value else {}).items():
        figures = _list(checked(row, list, f'{path}: tau {name}'), float, f'{path}: tau {name}')
        if len(figures) != 3:
            raise ValueError(f'{path}: tau {name} must be [tau, low, high], got {len(figures)} numbers')
        tau[name] = (figures[0], figures[1], figures[2])
    rank = Rank(_take(value, 'truth', str, path), _take(value, 'higher_is_better', bool, path), tuple(networks), tau)
    if not rank.scores:
        raise ValueError(f'{path}: no network has a score')
    return rank


def checked(value: Any, kind: type, what: str, finite: bool = True) -> Any:
    """`value`, if it is of a kind.

    Args:
        value: What a file says.
        kind: ``bool``, ``int``, ``float`` (integers are numbers too), ``str``, ``list`` or ``dict``.
        what: Its name, for the message.
        finite: Whether a number must be.

    Raises:
        ValueError: It is of another kind.
    """
    wanted = (int, float) if kind is float else kind
    # True is an int to Python
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f'{what} must be {_KINDS[kind]}, got {value!r:.60}')
    if isinstance(value, float) and finite and not isfinite(value):
        raise ValueError(f'{what} must be a finite number, got {value}')
    return value


def _read(source: str | Path, name: str, writer: str) -> tuple[str, dict[str, Any]]:
    """The file's path, for messages, and its object."""
    path = Path(source)
    path = path / name if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f'no {name} at {path}: {writer}')
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is no JSON: {error}') from error
    return str(path), checked(value, dict, str(path))


def _block(value: Any, metrics: tuple[str, ...], where: str) -> RatedBlock:
    stages = _list(_take(value, 'stages', list, where), int, f'{where}: stages')
    cells = _some(value, 'cells', where)
    return RatedBlock(
        stages, tuple(_cell(cell, stages, metrics, f'{where}, cell {index}') for index, cell in enumerate(cells))
    )


def _cell(value: Any, stages: tuple[int, ...], metrics: tuple[str, ...], where: str) -> Cell:
    paths = []
    for index, path in enumerate(_some(value, 'paths', where)):
        rows = checked(path, list, f'{where}: path {index}')
        what = f'{where}: path {index}'
        paths.append(tuple(_list(checked(row, list, what), int, what) for row in rows))
    if any(len(path) != len(stages) for path in paths):
        raise ValueError(f'{where}: a path must be one list per stage, {len(stages)}, got {len(paths[0])}')
    enters = _list(_some(value, 'enters', where), int, f'{where}: enters')
    ratings = _list(_take(value, 'ratings', list, where), float, f'{where}: ratings')
    if len(ratings) != len(paths):
        raise ValueError(f'{where}: ratings must be one per path, {len(paths)}, got {len(ratings)}')
    given = _take(value, 'costs', dict, where)
    costs = {}
    for metric in metrics:
        rows = _take(given, metric, list, f'{where}: costs')
        costs[metric] = tuple(
            _list(checked(row, list, f'{where}: costs {metric}'), float, f'{where}: costs {metric}') for row in rows
        )
        if len(rows) != len(paths) or any(len(row) != len(enters) for row in costs[metric]):
            raise ValueError(
                f'{where}: costs {metric} must be {len(paths)} paths of {len(enters)} entering widths each'
            )
    cell = _list(_take(value, 'cell', list, where), int, f'{where}: cell')
    return Cell(cell, enters, _take(value, 'leaves', int, where), tuple(paths), ratings, costs)


def _network(value: Any, path: str, title: str | None = None) -> Network:
    name = title or _take(value, 'title', str, f'{path}: others')
    costs = _take(value, 'costs', dict, f'{path}: {name}')
    choice = _take(value, 'choice', list, f'{path}: {name}') if 'choice' in value else []
    return Network(
        name,
        {metric: checked(x, float, f'{path}: {name}: cost {metric}') for metric, x in costs.items() if x is not None},
        _take(value, 'rating', float, f'{path}: {name}'),
        _list(choice, int, f'{path}: {name}: choice'),
    )


def _take(holder: Any, name: str, kind: type, where: str) -> Any:
    """`holder[name]`, checked to be of a kind."""
    if name not in checked(holder, dict, where):
        raise ValueError(f'{where} lacks {name}')
    return checked(holder[name], kind, f'{where}: {name}')


def _some(holder: Any, name: str, where: str) -> list[Any]:
    """As `_take` of a list, which must not be empty."""
    values: list[Any] = _take(holder, name, list, where)
    if not values:
        raise ValueError(f'{where}: {name} must hold at least one, got none')
    return values


def _list(values: list[Any], kind: type, what: str) -> tuple[Any, ...]:
    return tuple(checked(value, kind, what) for value in values)
