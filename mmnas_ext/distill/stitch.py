"""From trained blocks to one network: the chosen paths' weights in a row, adapters folded into what comes after."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.backbones import MBNet
from mmnas_ext.distill.cell import BlockCell, FlatPath
from mmnas_ext.distill.distiller import BlockDistiller


@torch.no_grad()
def stitch(distiller: BlockDistiller, chosen: Sequence[tuple[int, FlatPath]]) -> dict[str, Tensor]:
    """The distilled weights of a network, by `MBNet`'s keys, without a head.

    Each block was trained on the teacher's feature where now the block before stands, whose imitation it gets. Where a
    pair of 1x1 adapters stands between two blocks, they are one linear map, which the expansion after it takes up; what
    it adds to every position goes into that expansion's batch norm.

    Args:
        distiller: The trained distiller.
        chosen: Per block, the index of its cell, and the path in it.

    Returns:
        The tensors. Batch-norm statistics are shared by all paths: recalibrate the network before it is used.

    Raises:
        ValueError: There is not one choice per block, a block was trained at another width than now enters it, or
            adapters stand before a layer that cannot take them up.
    """
    blocks = distiller.all_blocks()
    if len(chosen) != len(blocks):
        raise ValueError(f'chosen must have one entry per block, {len(blocks)}, got {len(chosen)}')
    cells = [block.all_cells()[cell] for block, (cell, _) in zip(blocks, chosen, strict=True)]
    for number, (before, after) in enumerate(pairwise(cells), start=1):
        if before.leaves != after.enters:
            raise ValueError(
                f'block {number} was trained with {after.enters} channels entering it, and the chosen network has '
                f'{before.leaves} there: its distilled weights do not fit'
            )
    assert cells[0].enter is not None, 'the first block has the stem'
    state = _copied('stem', cells[0].enter)
    for block, behind, cell, (_, path) in zip(blocks, [None, *cells[:-1]], cells, chosen, strict=True):
        layers: Any = iter(cell.layers)
        for stage, choices in zip(block.plan.stages, cell.by_stage(path), strict=True):
            candidates = [next(layers).candidate(choice) for choice in choices]
            # skips are identities, and no layers of the network
            for j, layer in enumerate(layer for layer in candidates if layer is not None):
                state |= _copied(f'stages.{stage}.{j}', layer)
        if behind is not None:
            _fold(state, f'stages.{block.plan.stages[0]}.0', behind.leave, cell, path)
    return state


def _copied(key: str, module: nn.Module) -> dict[str, Tensor]:
    return {f'{key}.{name}': tensor.clone() for name, tensor in module.state_dict().items()}


def recalibrate(net: MBNet, images: Iterable[Tensor]) -> None:
    """Gives a network's batch norms the statistics of some images: averages over the batches.

    Args:
        net: The network; in eval mode afterwards.
        images: Batches ``(N, 3, H, W)``, preprocessed.

    Raises:
        ValueError: There are no images.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    net.train()
    for norm in norms:
        norm.train()  # frozen ones too
    count = 0
    with torch.no_grad():
        for batch in images:
            net(batch)
            count += 1
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    net.eval()
    if not count:
        raise ValueError('a network is recalibrated on at least one batch of images, got none')


def _fold(state: dict[str, Tensor], key: str, leave: nn.Module | None, cell: BlockCell, path: FlatPath) -> None:
    """Lets a layer's expansion take up the adapters before it: W(B(Ax + a) + b) = (WBA)x + W(Ba + b)."""
    if leave is None and cell.enter is None:
        return
    layer = cell.layers[0].candidate(path[0])  # type: ignore[operator]
    if layer.expand is None or layer.residual:
        raise ValueError(
            f'{key} has {"a residual" if layer.residual else "no expansion"}: no adapter can be folded into it'
        )
    weight = state[f'{key}.expand.conv.weight'].flatten(1)
    matrix = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    shift = weight.new_zeros(weight.shape[1])
    for adapter in (cell.enter, leave):
        if isinstance(adapter, nn.Conv2d):
            assert adapter.bias is not None
            # from the layer outwards: what stands nearest to it is multiplied first
            shift = shift + matrix @ adapter.bias
            matrix = matrix @ adapter.weight.flatten(1)
    state[f'{key}.expand.conv.weight'] = (weight @ matrix)[:, :, None, None]
    state[f'{key}.expand.bn.running_mean'] -= weight @ shift
