"""Fills networks by a rule instead of with shipped weights, so that figures of other implementations can be compared.

The rule gives every float of a tensor from its flat index and the tensor's position in its network's state dict.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

_TURN = 6.283185307


def fill_value(key: str, shape: Sequence[int], index: int) -> Tensor:
    """The float32 tensor of state-dict entry `key`, the `index`-th of its network (``num_batches_tracked``: int64)."""
    if key.endswith('num_batches_tracked'):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    numel = prod(shape)
    i = torch.arange(numel, dtype=torch.float64)
    if key.startswith('alphas_'):
        return (0.5 * torch.sin(1.3 * i + 0.7 * index)).float().reshape(tuple(shape))
    s = torch.sin(1.7 * i + 0.3 * index + torch.remainder(0.001 * i * i, _TURN))
    if key.endswith('running_var'):
        value = 1 + 0.3 * s**2
    elif key.endswith('running_mean'):
        value = 0.1 * s
    elif len(shape) >= 2:
        value = s * (2 / (numel / shape[0])) ** 0.5
    elif key.endswith('weight'):
        value = 1 + 0.1 * s
    else:
        value = 0.1 * s
    return value.float().reshape(tuple(shape))


def filled(tensors: Iterable[Sequence[Any]]) -> dict[str, Tensor]:
    """A state dict from ``[key, shape]`` pairs in the network's own order."""
    values = _fill(tuple((key, tuple(shape)) for key, shape in tensors))
    return {key: value.clone() for key, value in values.items()}


@lru_cache(maxsize=2)  # tests that compare two networks fill the same one several times in a row
def _fill(tensors: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, Tensor]:
    return {key: fill_value(key, shape, index) for index, (key, shape) in enumerate(tensors)}


def fill_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the same keys and shapes as `state`, filled by its own order."""
    return filled([key, list(value.shape)] for key, value in state.items())


def fill_image(shape: Sequence[int]) -> Tensor:
    """The input image ``(N, 3, H, W)`` of the rule."""
    i = torch.arange(prod(shape), dtype=torch.float64)
    return torch.sin(0.37 * i + torch.remainder(0.0003 * i * i, _TURN)).float().reshape(tuple(shape))


def describe(tensor: Tensor) -> dict[str, Any]:
    """Shape, sum, absolute sum and the first and last eight values of a tensor."""
    flat = tensor.detach().double().flatten()
    return {
        'shape': list(tensor.shape),
        'sum': flat.sum().item(),
        'abs_sum': flat.abs().sum().item(),
        'first': flat[:8].tolist(),
        'last': flat[-8:].tolist(),
    }


def assert_described(tensor: Tensor, description: dict[str, Any], rtol: float = 1e-4) -> None:
    """Fails unless `tensor` is the one described, within `rtol`.

    A sum is held against the absolute sum, and an element against the mean magnitude, as both may cancel to nearly 0.
    """
    got = describe(tensor)
    assert got['shape'] == list(description['shape']), f'shape {got["shape"]}, expected {description["shape"]}'
    scale = description['abs_sum']
    for name in ('sum', 'abs_sum'):
        assert abs(got[name] - description[name]) <= rtol * scale, f'{name} {got[name]}, expected {description[name]}'
    mean = scale / max(1, tensor.numel())
    for name in ('first', 'last'):
        pairs = list(zip(got[name], description[name], strict=True))
        assert all(abs(a - b) <= rtol * max(abs(b), mean) for a, b in pairs), f'{name}: {pairs}'
