"""Policies that select the seed's layers, channels and kernel positions for a smaller or larger network.

FNA (arXiv 2001.02525, section 3.1) and FNA++ (arXiv 2006.12986) compare them and choose ``last``, ``first`` and
``center``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmnas_ext.archs import Conv
from mmnas_ext.archs.convs import HIDDEN

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


def hidden_channels(
    tensors: dict[str, Tensor], convs: Sequence[Conv], keep: int, width: str, what: str = HIDDEN, groups: int = 1
) -> Tensor:
    """Selects channels inside a seed's layer, in ascending order, for all convolutions that make or read them.

    Args:
        tensors: The layer's tensors: ``depthwise.conv.weight``, ``depthwise.bn.weight``, ``project.…`` for instance.
        convs: The layer's convolutions.
        keep: Largest number of channels to keep.
        width: ``first``: the first channels; ``bn``: the channels with the largest scale ``|weight|`` in the norm
            behind the last convolution that makes them; ``l1`` and ``std``: the channels with the largest L1 norm, or
            standard deviation, of all weights that produce or read them.
        what: Which channels, as `Conv.makes` has them.
        groups: Of how many groups of channels as many are kept as of each other.

    Returns:
        Indices ``(min(keep, channels),)``.
    """
    makers = [conv for conv in convs if conv.makes == what and conv.norm]
    channels = makers[-1].channels
    keep = min(keep, channels)
    if keep == channels:
        return torch.arange(channels)
    if width == 'first':
        score = -torch.arange(channels)
    elif width == 'bn':
        score = tensors[f'{makers[-1].name}.bn.weight'].abs()
    else:
        readers = [conv for conv in convs if conv.reads == what and conv.norm and conv not in makers]
        weights = _weights(tensors, makers, readers)
        score = weights.abs().sum(1) if width == 'l1' else weights.std(1, correction=0)
    # stable, so that every machine keeps the first of equal channels
    order = score.view(groups, -1).argsort(dim=1, descending=True, stable=True)[:, : keep // groups]
    starts = torch.arange(groups)[:, None] * (channels // groups)
    return (order + starts).flatten().sort().values


def channel_places(have: int, want: int, groups: int = 1) -> Tensor:
    """Where the channels that are taken of `have` go among `want`: to the first places of their group.

    Returns:
        Indices ``(min(have, want),)``.
    """
    each = min(have, want) // groups
    return (torch.arange(groups)[:, None] * (want // groups) + torch.arange(each)).flatten()


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


def _weights(tensors: dict[str, Tensor], makers: Sequence[Conv], readers: Sequence[Conv]) -> Tensor:
    """All weights that produce or read each channel, ``(channels, weights)``."""
    rows = [tensors[f'{conv.name}.conv.weight'] for conv in makers]
    for conv in readers:
        # (O, I / groups, …) as (groups, I / groups, O / groups, …): whose channels come first
        parts = tensors[f'{conv.name}.conv.weight'].unflatten(0, (conv.groups, -1)).transpose(1, 2)
        rows.append(parts.flatten(0, 1))
    # in double, so that the ranking does not depend on the order of additions
    return torch.cat([row.flatten(1).double() for row in rows], 1)


def _check_one(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
