"""A space whose stages differ in depth and width too: per stage several *cells*, each with its own layers and channels.

DNA (arXiv 1911.13053, section 3.3) trains, for every block of the super-network, cells of different layer counts and
channels side by side, so that a search chooses depth and width together with the operations.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from mmnas_ext.archs.literal import abbreviate, call_at, check_list
from mmnas_ext.archs.notation import (
    SPACE_FORMS,
    build,
    check_keys,
    check_token,
    from_text,
    read_layers,
    read_mapping,
)
from mmnas_ext.archs.space import Choices, SearchSpace, SpaceStage
from mmnas_ext.archs.spec import MAX_LAYERS, ArchSpec, check_network

_KEYS = ('stem_channels', 'stages', 'head_channels', 'act', 'bn_eps', 'source')
_CELL_KEYS = ('channels', 'layers')
_SHORT_KEYS = ('channels', 'depths', 'candidates')
_MAX_CELLS = 64


@dataclass(frozen=True)
class Cell:
    """One depth and width of a stage.

    Args:
        channels: Channels that leave it.
        layers: Per layer its candidates' tokens.
    """

    channels: int
    layers: tuple[tuple[str, ...], ...]

    @property
    def size(self) -> int:
        """Number of its paths."""
        return prod(len(layer) for layer in self.layers)


@dataclass(frozen=True)
class CellStage:
    """A stage with its cells side by side.

    Args:
        stride: Stride of the first layer of every cell, 1 or 2.
        cells: The cells, no two alike.
    """

    stride: int
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.cells) <= _MAX_CELLS:
            raise ValueError(f'a stage needs 1..{_MAX_CELLS} cells, got {len(self.cells) or "none"}')
        # a stage of a plain space checks and canonicalises what a cell holds
        stages = [SpaceStage(1, cell.channels, cell.layers, self.stride) for cell in self.cells]
        cells = tuple(Cell(stage.channels, stage.layers) for stage in stages)
        for index, cell in enumerate(cells):
            if cell in cells[:index]:
                raise ValueError(f'cells[{index}] is cells[{cells.index(cell)}] again')
        object.__setattr__(self, 'cells', cells)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that may leave the stage, each once, in the order of the cells."""
        return tuple(dict.fromkeys(cell.channels for cell in self.cells))


@dataclass(frozen=True)
class CellSpace:
    """All networks that pick one cell per stage and one candidate per layer of it.

    Args:
        stem_channels: Channels of the stem.
        stages: The stages.
        head_channels: As in `ArchSpec`, like the next two.
        act: Activation.
        bn_eps: Epsilon of the batch norms.

    Raises:
        ValueError: A number is out of range, a token is unknown, or a stage has a cell twice.
    """

    stem_channels: int
    stages: tuple[CellStage, ...]
    head_channels: int | None = None
    act: str = 'relu6'
    bn_eps: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'stages', tuple(self.stages))
        check_network(self.head_channels, self.act, self.bn_eps)
        self.space()  # checks the stem and the chain

    @property
    def size(self) -> int:
        """Number of paths over all cells."""
        return prod(sum(cell.size for cell in stage.cells) for stage in self.stages)

    @classmethod
    def parse(cls, source: Any) -> 'CellSpace':
        """Reads JSON text or dict, a ``.json`` path, a zoo name, or a `SearchSpace` (one cell per stage).

        A stage is written ``{"stride": 2, "cells": [{"channels": 24, "layers": [["k3_e6", …], …]}, …]}``, or, where all
        layers of all cells have the same candidates, ``{"stride": 2, "channels": [24, 32], "depths": [2, 3],
        "candidates": ["k3_e6", …]}``: a cell per width and depth.

        Raises:
            ValueError: Says what is wrong and where.
            TypeError: `source` is of another type.
            FileNotFoundError: A ``.json`` path that does not exist.
        """
        if isinstance(source, CellSpace):
            return source
        if isinstance(source, SearchSpace):
            return _of_space(source)
        if isinstance(source, Mapping):
            return _from_mapping(source)
        from mmnas_ext.archs import zoo

        return from_text(source, 'space of cells', SPACE_FORMS, _read, zoo.cells)

    def format(self) -> str:
        """The space as JSON text; `parse` reads it back."""
        stages = [
            {'stride': stage.stride, 'cells': [{'channels': c.channels, 'layers': c.layers} for c in stage.cells]}
            for stage in self.stages
        ]
        rest = {key: getattr(self, key) for key in ('head_channels', 'act', 'bn_eps')}
        return json.dumps({'stem_channels': self.stem_channels, 'stages': stages, **rest})

    def space(self, cells: Sequence[int] | None = None) -> SearchSpace:
        """The plain space of one cell per stage.

        Args:
            cells: Index of the cell per stage; ``None`` takes the first of each.

        Raises:
            ValueError: `cells` does not fit.
        """
        chosen = (0,) * len(self.stages) if cells is None else tuple(cells)
        if len(chosen) != len(self.stages):
            raise ValueError(f'cells must have one index per stage, {len(self.stages)}, got {len(chosen)}')
        entering, stages = self.stem_channels, []
        for number, (stage, index) in enumerate(zip(self.stages, chosen, strict=True)):
            if not 0 <= index < len(stage.cells):
                raise ValueError(f'cells[{number}] must lie in 0..{len(stage.cells) - 1}, got {index}')
            cell = stage.cells[index]
            stages.append(SpaceStage(entering, cell.channels, cell.layers, stage.stride))
            entering = cell.channels
        return SearchSpace(tuple(stages), self.head_channels, self.act, self.bn_eps)

    def arch(self, cells: Sequence[int], path: Choices) -> ArchSpec:
        """The network of one cell per stage and one candidate per layer.

        Raises:
            ValueError: `cells` or `path` does not fit.
        """
        return self.space(cells).arch(path)


def _of_space(space: SearchSpace) -> CellSpace:
    stages = tuple(CellStage(stage.stride, (Cell(stage.channels, stage.layers),)) for stage in space.stages)
    return CellSpace(space.stem_channels, stages, space.head_channels, space.act, space.bn_eps)


def _read(text: str) -> CellSpace:
    return _from_mapping(read_mapping(text))


def _from_mapping(fields: Mapping[Any, Any]) -> CellSpace:
    check_keys(fields, '', ('stem_channels', 'stages'), _KEYS)
    stages = [_stage(stage, f'stages[{i}]') for i, stage in enumerate(check_list(fields['stages'], 'stages', 'stages'))]
    return build(CellSpace, stages, fields, stem_channels=fields['stem_channels'])


def _stage(stage: Any, where: str) -> CellStage:
    if not isinstance(stage, Mapping):
        raise ValueError(f'{where} must be a mapping, got {abbreviate(stage)}')
    if 'cells' in stage:
        check_keys(stage, where, ('stride', 'cells'), ('stride', 'cells'))
        cells = [
            _cell(cell, f'{where}.cells[{i}]')
            for i, cell in enumerate(check_list(stage['cells'], f'{where}.cells', 'cells'))
        ]
    else:
        check_keys(stage, where, ('stride', *_SHORT_KEYS), ('stride', *_SHORT_KEYS))
        widths, depths, candidates = (tuple(check_list(stage[key], f'{where}.{key}', key)) for key in _SHORT_KEYS)
        for depth in depths:
            # before cells are made of them: an absurd depth must not fill the memory
            if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= MAX_LAYERS:
                raise ValueError(f'{where}.depths must be integers in 1..{MAX_LAYERS}, got {abbreviate(depth)}')
        if len(widths) * len(depths) > _MAX_CELLS:
            raise ValueError(f'{where}: a stage needs 1..{_MAX_CELLS} cells, got {len(widths) * len(depths)}')
        for k, token in enumerate(candidates):
            check_token(token, f'{where}.candidates[{k}]')
        cells = [Cell(width, (candidates,) * depth) for width, depth in product(widths, depths)]
    return call_at(where, CellStage, stage['stride'], tuple(cells))


def _cell(cell: Any, where: str) -> Cell:
    if not isinstance(cell, Mapping):
        raise ValueError(f'{where} must be a mapping, got {abbreviate(cell)}')
    check_keys(cell, where, _CELL_KEYS, _CELL_KEYS)
    return Cell(cell['channels'], read_layers(cell['layers'], f'{where}.layers'))
