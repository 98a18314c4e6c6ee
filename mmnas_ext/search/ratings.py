"""What a rating leaves behind: for every path of every cell its rating and its cost, as a value and as a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmnas_ext.archs import METRICS, ArchSpec, CellPrices, CellSpace, Choices

VERSION = 1
RATINGS_NAME = 'ratings.json'


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


@dataclass(frozen=True)
class BlockRatings:
    """All cells of a block.

    Args:
        stages: The block's stages.
        cells: Its cells.
    """

    stages: tuple[int, ...]
    cells: tuple[CellRatings, ...]

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
            ValueError: There is not one index in range per block.
        """
        if len(choice) != len(self.blocks):
            raise ValueError(f'choice must have one index per block, {len(self.blocks)}, got {len(choice)}')
        cells: list[int] = []
        path: list[tuple[int, ...]] = []
        for number, (block, index) in enumerate(zip(self.blocks, choice, strict=True)):
            picks = block.picks()
            if not 0 <= index < len(picks):
                raise ValueError(f'choice[{number}] must lie in 0..{len(picks) - 1}, got {index}')
            rated = block.cells[picks[index].cell]
            cells += rated.cell
            path += rated.paths[picks[index].path]
        return self.space.arch(cells, tuple(path))

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
        """Reads a ``ratings.json``, or its content as a mapping or text.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no such file, or of another version.
        """
        name: str | Path = 'the content'
        try:
            if isinstance(source, Mapping):
                return _from_mapping(source)
            if isinstance(source, str) and source.lstrip().startswith('{'):
                return _from_mapping(json.loads(source))
            name = file = Path(source)
            if not file.is_file():
                raise FileNotFoundError(f'ratings file does not exist: {file}')
            content = json.loads(file.read_text(encoding='utf-8'))
            if not isinstance(content, Mapping):
                raise ValueError('expected a mapping')
            return _from_mapping(content)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{name} is no file of ratings: {type(error).__name__} {error}') from None


def priced_paths(
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


def _from_mapping(content: Mapping[str, Any]) -> Ratings:
    if content.get('version') != VERSION:
        raise ValueError(f'version must be {VERSION}, got {content.get("version")!r}')
    metrics = tuple(content['metrics'])
    if not metrics or any(metric not in METRICS for metric in metrics):
        raise ValueError(f'metrics must be among {tuple(METRICS)}, got {metrics}')
    height, width = content['input_size']
    blocks = tuple(
        BlockRatings(tuple(block['stages']), tuple(_cell(cell, metrics) for cell in block['cells']))
        for block in content['blocks']
    )
    return Ratings(CellSpace.parse(content['space']), (height, width), metrics, blocks)


def _cell(cell: Mapping[str, Any], metrics: tuple[str, ...]) -> CellRatings:
    paths = tuple(tuple(tuple(choices) for choices in path) for path in cell['paths'])
    costs = {metric: tuple(tuple(each) for each in cell['costs'][metric]) for metric in metrics}
    if any(len(figures) != len(paths) for figures in (cell['ratings'], *costs.values())):
        raise ValueError(f'cell {cell["cell"]} has {len(paths)} paths and not as many ratings and costs')
    return CellRatings(tuple(cell['cell']), tuple(cell['enters']), cell['leaves'], paths, tuple(cell['ratings']), costs)
