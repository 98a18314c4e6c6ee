"""Makes one network from trained blocks: joins the chosen paths' weights and folds adapters into the next layer."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.backbones import MBNet
from mmnas_ext.distill.cell import BlockCell, FlatPath
from mmnas_ext.distill.distiller import BlockDistiller
from mmnas_ext.ops.statistics import averaged_statistics


@torch.no_grad()
def stitch(distiller: BlockDistiller, chosen: Sequence[tuple[int, FlatPath]]) -> dict[str, Tensor]:
    """Returns the distilled weights of a network under `MBNet`'s keys, without a head.

    Each block was trained on a feature of the teacher; in the network its input is the previous block's imitation of
    that feature. The 1x1 adapters between two blocks are one linear map. It is folded into the next expansion: its
    matrix into the weight, its bias into the running mean of the batch norm.

    Args:
        distiller: The trained distiller.
        chosen: The index of the cell and the path in it, per block.

    Returns:
        The tensors. Their batch-norm statistics are those of all paths: use `recalibrate` before using the network.

    Raises:
        ValueError: `chosen` does not have one entry per block, a block was trained with another input width than it
            has in the network, or a layer after adapters has no expansion or a residual.
    """
    blocks = distiller.all_blocks()
    if len(chosen) != len(blocks):
        raise ValueError(f'chosen must have one entry per block, {len(blocks)}, got {len(chosen)}')
    cells = [block.all_cells()[cell] for block, (cell, _) in zip(blocks, chosen, strict=True)]
    for number, (before, after) in enumerate(pairwise(cells), start=1):
        if before.leaves != after.enters:
            raise ValueError(
                f'the distilled weights of block {number} do not fit: it was trained with {after.enters} input '
                f'channels, and in the chosen network it has {before.leaves}'
            )
    assert cells[0].enter is not None, 'the first block has the stem'
    state = _copy('stem', cells[0].enter)
    for block, behind, cell, (_, path) in zip(blocks, [None, *cells[:-1]], cells, chosen, strict=True):
        layers: Any = iter(cell.layers)
        for stage, choices in zip(block.plan.stages, cell.by_stage(path), strict=True):
            candidates = [next(layers).candidate(choice) for choice in choices]
            # a skip is an identity, and the network has no layer for it
            for j, layer in enumerate(layer for layer in candidates if layer is not None):
                state |= _copy(f'stages.{stage}.{j}', layer)
        if behind is not None:
            _fold(state, f'stages.{block.plan.stages[0]}.0', behind.leave, cell, path)
    return state


def find_loose_widths(distiller: BlockDistiller) -> dict[int, tuple[int, ...]]:
    """Returns the widths with which networks of a space enter a block that was trained with another, by block.

    `stitch` refuses networks that have one of them: they have no distilled weights.
    """
    found = {}
    for number, (before, after) in enumerate(pairwise(distiller.all_blocks()), start=1):
        enters = after.all_cells()[0].enters
        widths = sorted({cell.leaves for cell in before.all_cells()} - {enters})
        if widths:
            found[number] = tuple(widths)
    return found


def _copy(key: str, module: nn.Module) -> dict[str, Tensor]:
    """Copies a module's tensors under the prefix `key`."""
    return {f'{key}.{name}': tensor.clone() for name, tensor in module.state_dict().items()}


def recalibrate(net: MBNet, images: Iterable[Tensor]) -> None:
    """Replaces a network's batch-norm statistics by those of some images, averaged over the batches.

    Args:
        net: The network; it is in eval mode afterwards.
        images: Batches ``(N, 3, H, W)``, preprocessed.

    Raises:
        ValueError: `images` is empty.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    net.train()
    count = 0
    with torch.no_grad(), averaged_statistics(norms):  # frozen ones too
        for batch in images:
            net(batch)
            count += 1
    net.eval()
    if not count:
        raise ValueError('recalibrate needs at least one batch of images, got none')


def _fold(state: dict[str, Tensor], key: str, leave: nn.Module | None, cell: BlockCell, path: FlatPath) -> None:
    """Folds the adapters before a layer into its expansion: W(B(Ax + a) + b) = (WBA)x + W(Ba + b)."""
    if leave is None and cell.enter is None:
        return
    layer = cell.layers[0].candidate(path[0])  # type: ignore[operator]
    if layer.expand is None or layer.residual:
        raise ValueError(
            f'{key} must have an expansion and no residual, so that adapters can be folded into it, got '
            f'{"a residual" if layer.residual else "no expansion"}'
        )
    weight = state[f'{key}.expand.conv.weight'].flatten(1)
    matrix = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    shift = weight.new_zeros(weight.shape[1])
    for adapter in (cell.enter, leave):
        if isinstance(adapter, nn.Conv2d):
            assert adapter.bias is not None
            # from the layer backwards: the adapter next to it is multiplied first
            shift = shift + matrix @ adapter.bias
            matrix = matrix @ adapter.weight.flatten(1)
    state[f'{key}.expand.conv.weight'] = (weight @ matrix)[:, :, None, None]
    state[f'{key}.expand.bn.running_mean'] -= weight @ shift
