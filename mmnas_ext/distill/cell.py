"""The parts of the student: a cell is one depth and width of a block with all paths; a block has several cells."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmnas_ext.archs import STEMS, CellSpace, cell_places
from mmnas_ext.distill.align import BlockPlan, Tap
from mmnas_ext.ops import ChoiceLayer, build_stem

FlatPath = tuple[int, ...]
# the modules that a step of a cell chooses from; ``None`` is an identity
Alternatives = tuple[nn.Module | None, ...]


class BlockCell(BaseModule):
    """One cell of a block: stages of layers with candidates, and 1x1 adapters where its width is not the teacher's.

    Args:
        space: The space.
        cells: Index of the cell per stage of the block.
        stages: Indices of the block's stages.
        enters: Input channels of the first layer.
        source: Channels of the teacher's feature that enters the block; ``None`` for the image, which needs a stem.
        target: Channels of the feature to imitate.
        norm_cfg: Config of the norms.
        act_cfg: Config of the activations.
    """

    def __init__(
        self,
        space: CellSpace,
        cells: Sequence[int],
        stages: Sequence[int],
        enters: int,
        source: int | None,
        target: int,
        norm_cfg: dict[str, Any],
        act_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.cells = tuple(cells)
        self.enters = enters
        parts = [space.stages[i].cells[cell] for i, cell in zip(stages, cells, strict=True)]
        self.leaves = parts[-1].channels
        self.depths = tuple(len(part.layers) for part in parts)
        self.enter: nn.Module | None = None
        if source is None:
            self.enter = build_stem(STEMS[space.stem], enters, norm_cfg, act_cfg)
        elif source != enters:
            self.enter = nn.Conv2d(source, enters, 1)
        self.layers = nn.ModuleList()
        walk = cell_places(space)[1]  # as the network that is stitched from it
        width = enters
        for i, cell, part in zip(stages, cells, parts, strict=True):
            for place in walk[i][width, cell]:
                self.layers.append(
                    ChoiceLayer(
                        place.in_channels, place.channels, place.tokens, place.stride, place.dilation, norm_cfg, act_cfg
                    )
                )
            width = part.channels
        self.leave = nn.Conv2d(self.leaves, target, 1) if self.leaves != target else None

    @property
    def choices(self) -> tuple[int, ...]:
        """Number of candidates per layer."""
        return tuple(len(layer.tokens) for layer in self._choice_layers())

    @property
    def paths(self) -> tuple[FlatPath, ...]:
        """All paths, each a candidate index per layer; the index of the last layer changes fastest."""
        return tuple(product(*(range(count) for count in self.choices)))

    def by_stage(self, path: FlatPath) -> tuple[FlatPath, ...]:
        """Divides a path into the block's stages."""
        found, start = [], 0
        for depth in self.depths:
            found.append(tuple(path[start : start + depth]))
            start += depth
        return tuple(found)

    def steps(self) -> list[Alternatives]:
        """Lists the modules in the order in which they run: adapter or stem, candidates of each layer, adapter."""
        layers: list[Alternatives] = [
            tuple(layer.candidate(index) for index in range(len(layer.tokens))) for layer in self._choice_layers()
        ]
        return [(self.enter,), *layers, (self.leave,)]

    def forward(self, x: Tensor, path: FlatPath) -> Tensor:
        """Maps the block's input ``(N, C, H, W)`` to the imitation of the teacher's feature along a path."""
        if self.enter is not None:
            x = self.enter(x)
        for layer, choice in zip(self._choice_layers(), path, strict=True):
            x = layer.run(choice, x)
        return x if self.leave is None else self.leave(x)

    def _choice_layers(self) -> list[ChoiceLayer]:
        return list(self.layers)  # type: ignore[arg-type]


class Block(BaseModule):
    """One block of the super-network: cells of which each step runs one.

    Args:
        space: The space.
        plan: The block's stages and features.
        taps: The teacher's features.
        norm_cfg: Config of the norms.
        act_cfg: Config of the activations.
    """

    def __init__(
        self,
        space: CellSpace,
        plan: BlockPlan,
        taps: Sequence[Tap],
        norm_cfg: dict[str, Any],
        act_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.plan = plan
        source = None if plan.source is None else taps[plan.source].channels
        enters = _nominal_width(space, plan.stages[0], source)
        indices = product(*(range(len(space.stages[i].cells)) for i in plan.stages))
        self.cells = nn.ModuleList(
            BlockCell(space, cells, plan.stages, enters, source, taps[plan.target].channels, norm_cfg, act_cfg)
            for cells in indices
        )

    @property
    def size(self) -> int:
        """Number of paths over all cells."""
        return sum(len(cell.paths) for cell in self.all_cells())

    def all_cells(self) -> list[BlockCell]:
        """Returns the cells."""
        return list(self.cells)  # type: ignore[arg-type]

    def forward(self, x: Tensor, cell: int, path: FlatPath) -> Tensor:
        """Runs one path of one cell."""
        output: Tensor = self.cells[cell](x, path)
        return output


def _nominal_width(space: CellSpace, first: int, source: int | None) -> int:
    """Returns the input width at which a block is trained: the possible one that is closest to the teacher's.

    Of two equally close widths it is the larger one. A found network may have another width there; its rating is
    assumed to be the same.
    """
    if first == 0:
        return space.stem_channels
    widths = space.stages[first - 1].widths
    return min(widths, key=lambda width: (abs(width - (source or width)), -width))
