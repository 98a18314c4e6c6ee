"""Policies that select the seed's layers, channels and kernel positions for a smaller or larger network.

FNA (arXiv 2001.02525, section 3.1) and FNA++ (arXiv 2006.12986) compare them and choose ``last``, ``first`` and
``center``.
"""

from typing import Any

import torch
from torch import Tensor

DEPTHS = ('last',)
WIDTHS = ('first', 'bn', 'l1', 'std')
KERNELS = ('center', 'dilated')


def check(depth: str, width: str, kernel: str) -> None:
    """Raises ValueError unless each value is a known policy."""
    for name, value, allowed in (('depth', depth, DEPTHS), ('width', width, WIDTHS), ('kernel', kernel, KERNELS)):
        _check_one(name, value, allowed)


def source_layer(index: int, seed_layers: int) -> int:
    """Returns the seed's layer for layer `index` of the same stage: the layer of that index, or else the last one."""
    return min(index, seed_layers - 1)


def hidden_channels(tensors: dict[str, Tensor], keep: int, width: str) -> Tensor:
    """Selects the hidden channels of a seed's layer, in ascending order, for all of its convolutions.

    Args:
        tensors: The layer's tensors: ``depthwise.conv.weight``, ``depthwise.bn.weight``, ``expand.…``, ``project.…``.
        keep: Largest number of channels to keep.
        width: ``first``: the first channels; ``bn``: the channels with the largest scale ``|weight|`` in the depthwise
            norm; ``l1`` and ``std``: the channels with the largest L1 norm, or standard deviation, of all weights that
            produce or read them.

    Returns:
        Indices ``(min(keep, hidden),)``.
    """
    hidden = tensors['depthwise.conv.weight'].shape[0]
    if keep >= hidden or width == 'first':
        return torch.arange(min(keep, hidden))
    if width == 'bn':
        score = tensors['depthwise.bn.weight'].abs()
    else:
        weights = _weights(tensors)
        score = weights.abs().sum(1) if width == 'l1' else weights.std(1, correction=0)
    # stable, so that every machine keeps the first of equal channels
    return score.argsort(descending=True, stable=True)[:keep].sort().values


def kernel_positions(seed_kernel: int, kernel: int, policy: str) -> tuple[range, range]:
    """Returns which positions of the seed's kernel go to which positions of the new kernel, along one side.

    A larger kernel has the seed's kernel in its centre, or (``dilated``) spread as far as whole steps allow, and
    zeros elsewhere. A smaller kernel is the centre of the seed's kernel under both policies.
    """
    if kernel <= seed_kernel:
        start = (seed_kernel - kernel) // 2
        return range(start, start + kernel), range(kernel)
    step = (kernel - 1) // (seed_kernel - 1) if policy == 'dilated' and seed_kernel > 1 else 1
    start = (kernel - 1 - step * (seed_kernel - 1)) // 2
    return range(seed_kernel), range(start, start + step * (seed_kernel - 1) + 1, step)


def _weights(tensors: dict[str, Tensor]) -> Tensor:
    """All weights that produce or read each hidden channel, ``(hidden, weights)``."""
    rows = [tensors['depthwise.conv.weight'], tensors['project.conv.weight'].transpose(0, 1)]
    rows += [tensors['expand.conv.weight']] if 'expand.conv.weight' in tensors else []
    # in double, so that the ranking does not depend on the order of additions
    return torch.cat([row.flatten(1).double() for row in rows], 1)


def _check_one(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
