"""The whole student: one path of each block, one after the other, each taking what the one before gives."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmnas_ext.distill.cell import FlatPath
from mmnas_ext.distill.distiller import BlockDistiller


class Student(nn.Module):
    """A network of the super-network's own blocks and adapters; in training each block takes the teacher's feature.

    It computes what the network of `stitch` does, and ends with the imitation of the teacher's last feature.

    Args:
        distiller: The super-network; its parts are shared.
        chosen: The index of the cell and the path in it, per block.
    """

    def __init__(self, distiller: BlockDistiller, chosen: Sequence[tuple[int, FlatPath]]) -> None:
        super().__init__()
        self.channels_last = distiller.channels_last
        self.cells = nn.ModuleList(
            block.all_cells()[cell] for block, (cell, _) in zip(distiller.all_blocks(), chosen, strict=True)
        )
        self.paths = [path for _, path in chosen]

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(N, 3, H, W)`` to the imitation of the teacher's last feature ``(N, C, h, w)``."""
        x = x.contiguous(memory_format=torch.channels_last) if self.channels_last else x
        for cell, path in zip(self.cells, self.paths, strict=True):
            x = cell(x, path)
        return x
