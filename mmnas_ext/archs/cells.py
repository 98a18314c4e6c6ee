"""A space whose stages differ in depth and width too: per stage several *cells*, each with its own layers and channels.

DNA (arXiv 1911.13053, section 3.3) trains, for every block of the super-network, cells of different layer counts and
channels side by side, so that a search chooses depth and width together with the operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from mmnas_ext.archs import forms
from mmnas_ext.archs.convs import DEFAULT_STEM
from mmnas_ext.archs.space import Choices, SearchSpace, SpaceStage
from mmnas_ext.archs.spec import ArchSpec, check_network

MAX_CELLS = 64


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
        if not 1 <= len(self.cells) <= MAX_CELLS:
            raise ValueError(f'a stage needs 1..{MAX_CELLS} cells, got {len(self.cells) or "none"}')
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
        head_channels: As in `ArchSpec`, like the next three.
        act: Activation.
        bn_eps: Epsilon of the batch norms.
        stem: What the networks begin with.

    Raises:
        ValueError: A number is out of range, a token is unknown, or a stage has a cell twice.
    """

    stem_channels: int
    stages: tuple[CellStage, ...]
    head_channels: int | None = None
    act: str = 'relu6'
    bn_eps: float | None = None
    stem: str = DEFAULT_STEM

    def __post_init__(self) -> None:
        object.__setattr__(self, 'stages', tuple(self.stages))
        check_network(self.head_channels, self.act, self.bn_eps, self.stem)
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
        return forms.read(cls, source)

    def format(self) -> str:
        """The space as JSON text; `parse` reads it back."""
        return forms.write(self)

    @classmethod
    def of(cls, space: SearchSpace) -> 'CellSpace':
        """The same networks as those of a search space: one cell per stage."""
        stages = tuple(CellStage(stage.stride, (Cell(stage.channels, stage.layers),)) for stage in space.stages)
        return cls(space.stem_channels, stages, space.head_channels, space.act, space.bn_eps, space.stem)

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
        return SearchSpace(tuple(stages), self.head_channels, self.act, self.bn_eps, self.stem)

    def arch(self, cells: Sequence[int], path: Choices) -> ArchSpec:
        """The network of one cell per stage and one candidate per layer.

        Raises:
            ValueError: `cells` or `path` does not fit.
        """
        return self.space(cells).arch(path)
