"""What a rating leaves behind: for every path of every cell its rating and its cost, as a value and as a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from mmnas_ext.archs import METRICS, ArchSpec, CellPrices, CellSpace, Choices
from mmnas_ext.archs.json_file import parse_json
from mmnas_ext.archs.literal import call_at
from mmnas_ext.search.fields import check_kind, check_list_of, find_file, read_object, read_size, take, take_list

VERSION = 1


class Pick(NamedTuple):
    """One entry of a block.

    Args:
        cell: Index of the cell in the block.
        path: Index of the path in the cell.
        enters: Width that enters it.
    """

    cell: int
    path: int
    enters: int


@dataclass(frozen=True)
class CellRatings:
    """All paths of one cell of a block.

    Args:
        cell: Index of the space's cell, per stage of the block.
        enters: Widths that may enter it.
        leaves: Width that leaves it.
        paths: Per path, per stage of the block, a candidate index per layer.
        ratings: Per path, lower is better.
        costs: By metric, per path one cost for each of `enters`; the first block's include the stem's.
    """

    cell: tuple[int, ...]
    enters: tuple[int, ...]
    leaves: int
    paths: tuple[Choices, ...]
    ratings: tuple[float, ...]
    costs: dict[str, tuple[tuple[float, ...], ...]]

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers per stage."""
        return tuple(map(len, self.paths[0]))


@dataclass(frozen=True)
class BlockRatings:
    """All cells of a block.

    Args:
        stages: The block's stages.
        cells: Its cells.
    """

    stages: tuple[int, ...]
    cells: tuple[CellRatings, ...]

    @property
    def ratings(self) -> tuple[float, ...]:
        """Those of all paths, cell by cell."""
        return tuple(rating for cell in self.cells for rating in cell.ratings)

    @property
    def best(self) -> Pick:
        """The path of the lowest rating, as an entry of its cell's first width."""
        ranks = [(rating, c, p) for c, cell in enumerate(self.cells) for p, rating in enumerate(cell.ratings)]
        _, cell, path = min(ranks)
        return Pick(cell, path, self.cells[cell].enters[0])

    def rating(self, pick: Pick) -> float:
        """Rating of an entry's path."""
        return self.cells[pick.cell].ratings[pick.path]

    def picks(self) -> list[Pick]:
        """The block's entries: cells in order, in each its paths, in each path the widths that may enter."""
        return [
            Pick(number, path, width)
            for number, cell in enumerate(self.cells)
            for path in range(len(cell.paths))
            for width in cell.enters
        ]


@dataclass(frozen=True)
class Ratings:
    """Ratings of a whole space.

    Args:
        space: The space.
        input_size: Height and width at which costs are counted.
        metrics: What is counted: the keys of all `costs`.
        blocks: The blocks.
    """

    space: CellSpace
    input_size: tuple[int, int]
    metrics: tuple[str, ...]
    blocks: tuple[BlockRatings, ...]

    def arch(self, choice: tuple[int, ...]) -> ArchSpec:
        """The network of one entry per block, entries counted as `BlockRatings.picks` lists them.

        Raises:
            ValueError: As `picks`.
        """
        cells: list[int] = []
        path: list[tuple[int, ...]] = []
        for block, pick in zip(self.blocks, self.picks(choice), strict=True):
            cells += block.cells[pick.cell].cell
            path += block.cells[pick.cell].paths[pick.path]
        return self.space.arch(cells, tuple(path))

    def costs(self, choice: Sequence[int]) -> dict[str, float]:
        """Costs by metric of the network of one entry per block, summed from the first block on.

        Raises:
            ValueError: As `picks`.
        """
        rows = [(block.cells[pick.cell], pick) for block, pick in zip(self.blocks, self.picks(choice), strict=True)]
        return {
            metric: sum(cell.costs[metric][pick.path][cell.enters.index(pick.enters)] for cell, pick in rows)
            for metric in self.metrics
        }

    def rating(self, choice: Sequence[int]) -> float:
        """Rating of that network, summed from the first block on; raises as `picks`."""
        return sum(block.rating(pick) for block, pick in zip(self.blocks, self.picks(choice), strict=True))

    def picks(self, choice: Sequence[int]) -> tuple[Pick, ...]:
        """The entries of one index per block, counted as `BlockRatings.picks` lists them.

        Raises:
            ValueError: There is not one index in range per block, or an entry is for another width than enters it.
        """
        if len(choice) != len(self.blocks):
            raise ValueError(f'choice must have one index per block, {len(self.blocks)}, got {len(choice)}')
        found: list[Pick] = []
        width = self.space.stem_channels
        for number, (block, index) in enumerate(zip(self.blocks, choice, strict=True)):
            picks = block.picks()
            if not 0 <= index < len(picks):
                raise ValueError(f'choice[{number}] must lie in 0..{len(picks) - 1}, got {index}')
            pick = picks[index]
            if pick.enters != width:
                raise ValueError(f'choice[{number}] must be an entry for {width} channels, got one for {pick.enters}')
            found.append(pick)
            width = block.cells[pick.cell].leaves
        return tuple(found)

    def format(self) -> str:
        """The ratings as JSON text; `parse` reads it back."""
        blocks = [
            {
                'stages': block.stages,
                'cells': [{name: getattr(cell, name) for name in CellRatings.__annotations__} for cell in block.cells],
            }
            for block in self.blocks
        ]
        return json.dumps(
            {
                'version': VERSION,
                'space': json.loads(self.space.format()),
                'input_size': self.input_size,
                'metrics': self.metrics,
                'blocks': blocks,
            }
        )

    @classmethod
    def parse(cls, source: 'str | Path | Mapping[str, Any]') -> 'Ratings':
        """Reads a ``ratings.json``, the work dir that holds it, or its content as a mapping or text.

        The content is held against its own space: every path of every cell is there once, with the widths that the
        space gives it, and with as many ratings and costs, finite and at least 0.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not of this form; says where, what came and what is allowed.
        """
        if isinstance(source, Mapping):
            return _from_mapping(source, 'ratings')
        if isinstance(source, str) and source.lstrip().startswith('{'):
            return _from_mapping(call_at('ratings', parse_json, source), 'ratings')
        file = find_file(source, 'ratings', 'the rating of a distillation')
        return _from_mapping(read_object(file), str(file))


def price_paths(
    space: CellSpace,
    priced: Mapping[str, CellPrices],
    stages: tuple[int, ...],
    cell: tuple[int, ...],
    enters: int,
    paths: tuple[Choices, ...],
) -> dict[str, list[float]]:
    """Cost of paths of a block's cell, by metric.

    Args:
        space: The space.
        priced: Its `cell_prices`, by metric.
        stages: The block's stages.
        cell: Index of the cell, per stage.
        enters: Width that enters.
        paths: Per stage of the block a candidate index per layer.
    """
    found = {}
    for metric, by_stage in priced.items():
        width, parts = enters, []
        for stage, index in zip(stages, cell, strict=True):
            parts.append(by_stage[stage][width, index])
            width = space.stages[stage].cells[index].channels
        found[metric] = [
            METRICS[metric].total([part.path((choices,)) for part, choices in zip(parts, path, strict=True)])
            for path in paths
        ]
    return found


def _from_mapping(content: Mapping[str, Any], where: str) -> Ratings:
    version = take(content, 'version', int, where)
    if version != VERSION:
        raise ValueError(f'{where}: version must be {VERSION}, got {version}')
    metrics = take_list(content, 'metrics', str, where, least=1)
    if not set(metrics) <= set(METRICS) or len(set(metrics)) < len(metrics):
        raise ValueError(f'{where}: metrics must be among {tuple(METRICS)}, each once, got {metrics}')
    space = call_at(f'{where}: space', CellSpace.parse, take(content, 'space', dict, where))
    rows = take_list(content, 'blocks', dict, where, least=1)
    blocks = tuple(_block(row, space, metrics, f'{where}: block {index}') for index, row in enumerate(rows))
    stages = [stage for block in blocks for stage in block.stages]
    if stages != list(range(len(space.stages))):
        raise ValueError(f'{where}: blocks must cover stages 0..{len(space.stages) - 1} once in order, got {stages}')
    return Ratings(space, read_size(content, 'input_size', where), metrics, blocks)


def _block(row: Mapping[str, Any], space: CellSpace, metrics: tuple[str, ...], where: str) -> BlockRatings:
    """Reads a block, and checks that it holds every cell of its stages once."""
    stages = take_list(row, 'stages', int, where, least=1)
    if not set(stages) <= set(range(len(space.stages))):
        raise ValueError(f'{where}: stages must lie in 0..{len(space.stages) - 1}, got {list(stages)}')
    rows = take_list(row, 'cells', dict, where)
    cells = tuple(_cell(each, stages, space, metrics, f'{where}, cell {i}') for i, each in enumerate(rows))
    wanted = prod(len(space.stages[stage].cells) for stage in stages)
    found = len({cell.cell for cell in cells})
    if not len(cells) == found == wanted:
        raise ValueError(
            f'{where}: cells must be all {wanted} of stages {list(stages)}, each once, got {len(cells)}, {found} of '
            'them different'
        )
    return BlockRatings(stages, cells)


def _cell(
    row: Mapping[str, Any], stages: tuple[int, ...], space: CellSpace, metrics: tuple[str, ...], where: str
) -> CellRatings:
    """Reads a cell, and checks that its widths are the space's and that it holds every path once."""
    cell = take_list(row, 'cell', int, where)
    counts = [len(space.stages[stage].cells) for stage in stages]
    if len(cell) != len(counts) or not all(0 <= index < count for index, count in zip(cell, counts, strict=True)):
        raise ValueError(f'{where}: cell must have an index below {counts} for each stage, got {list(cell)}')
    chosen = [space.stages[stage].cells[index] for stage, index in zip(stages, cell, strict=True)]
    enters = take_list(row, 'enters', int, where)
    widths = space.stages[stages[0] - 1].widths if stages[0] else (space.stem_channels,)
    if sorted(enters) != sorted(widths):
        raise ValueError(f'{where}: enters must be {list(widths)}, the widths of the space, got {list(enters)}')
    leaves = take(row, 'leaves', int, where)
    if leaves != chosen[-1].channels:
        raise ValueError(f'{where}: leaves must be {chosen[-1].channels}, the width of the space, got {leaves}')
    layers = [[len(candidates) for candidates in each.layers] for each in chosen]
    paths = tuple(_path(each, layers, f'{where}: path {i}') for i, each in enumerate(take(row, 'paths', list, where)))
    # all are in range and differ: as many as there are means that none is missing
    wanted, found = prod(each.size for each in chosen), len(set(paths))
    if not len(paths) == found == wanted:
        raise ValueError(
            f'{where}: paths must be all {wanted} of the space, each once, got {len(paths)}, {found} of them different'
        )
    ratings = _figures(take(row, 'ratings', list, where), len(paths), f'{where}: ratings', 'path')
    given = take(row, 'costs', dict, where)
    costs = {}
    for metric in metrics:
        what = f'{where}: costs {metric}'
        rows = take(given, metric, list, f'{where}: costs')
        if len(rows) != len(paths):
            raise ValueError(f'{what} must be one list per path, {len(paths)}, got {len(rows)}')
        costs[metric] = tuple(_figures(each, len(enters), f'{what}, path {i}', 'width') for i, each in enumerate(rows))
    return CellRatings(cell, enters, leaves, paths, ratings, costs)


def _path(row: Any, layers: list[list[int]], where: str) -> Choices:
    path = tuple(check_list_of(stage, int, where) for stage in check_kind(row, list, where))
    fits = list(map(len, path)) == list(map(len, layers)) and all(
        0 <= choice < count
        for choices, counts in zip(path, layers, strict=True)
        for choice, count in zip(choices, counts, strict=True)
    )
    if not fits:
        raise ValueError(f'{where} must have, per stage and layer, an index below {layers}, got {row!s:.80}')
    return path


def _figures(values: Any, count: int, where: str, each: str) -> tuple[float, ...]:
    """Reads finite figures of at least 0, one for each of `count` paths or widths."""
    figures = check_list_of(values, float, where)
    if len(figures) != count:
        raise ValueError(f'{where} must be one number per {each}, {count}, got {len(figures)}')
    if figures and min(figures) < 0:
        raise ValueError(f'{where} must be at least 0, got {min(figures)}')
    return figures
