"""The FNA authors' networks: their figures, their keys in our words; and a plain super-network to hold ours against."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmnas_ext.archs import SKIP, LayerSpec, SearchSpace
from tests.filling import fill_value

_GOLDEN = Path(__file__).parent.parent / 'golden'
# position in their sequence -> convolution or its norm; the first stage's block has no expansion
_PARTS = ('expand', 'depthwise', 'project')
_FIRST_PARTS = ('depthwise', 'project')


@cache
def golden(name: str) -> dict[str, Any]:
    return json.loads((_GOLDEN / name).read_text())


def translated(key: str) -> str | None:
    """Our key for the authors'; ``None`` where the backbone has no such tensor (SSDLite's extra layers, alphas)."""
    key = key.removeprefix('backbone.')
    outside = re.fullmatch(r'blocks\.(0|8\.conv)\.([01])\.(\w+)', key)
    if outside:
        return f'{"stem" if outside[1] == "0" else "head"}.{("conv", "bn")[int(outside[2])]}.{outside[3]}'
    inside = re.fullmatch(r'blocks\.(\d)\.(?:layers\.(\d)\.)?(?:_ops\.(\w+)\.)?op\.(\d)\.(\w+)', key)
    if not inside:
        return None
    block, layer, token, position, name = inside.groups()
    parts = _FIRST_PARTS if block == '1' else _PARTS
    place = f'{parts[int(position) // 3]}.{("conv", "bn")[int(position) % 3]}.{name}'
    candidate = f'candidates.{token}.' if token else ''
    return f'stages.{int(block) - 1}.{layer or 0}.{candidate}{place}'


def backbone_state(tensors: list[list[Any]]) -> dict[str, Tensor]:
    """The authors' tensors, filled by the rule, under our keys."""
    named = [(translated(key), key, shape, index) for index, (key, shape) in enumerate(tensors)]
    return {ours: fill_value(key, shape, index) for ours, key, shape, index in named if ours}


def alpha_state(tensors: list[list[Any]]) -> dict[str, Tensor]:
    """The authors' alphas (rows of ``alphas_reduce.S``: first layer of a stage, ``alphas_normal.S``: the others)."""
    state = {}
    for index, (key, shape) in enumerate(tensors):
        kind, _, stage = key.partition('.')
        if kind in ('alphas_reduce', 'alphas_normal'):
            first = int(kind == 'alphas_normal')
            for row, alpha in enumerate(fill_value(key, shape, index)):
                state[f'stages.{int(stage) + 1}.{row + first}.alpha'] = alpha
    return state


def plain_supernet(
    space: SearchSpace, state: dict[str, Tensor], x: Tensor, eps: float, temperature: float = 1.0
) -> list[Tensor]:
    """Output of each stage, in training mode, from the state dict alone: all candidates, weighted by softmax(alpha)."""
    return plain_features(space, state, x, eps, temperature)[0]


def plain_features(
    space: SearchSpace, state: dict[str, Tensor], x: Tensor, eps: float, temperature: float = 1.0
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """As `plain_supernet`, and by stage the weighted expansions of its first layer, of a space that has one width.

    Args:
        space: The space, with ReLU6 and without squeeze-excite.
        state: Keys of a `SuperNet`'s state dict.
        x: Images ``(N, 3, H, W)``.
        eps: Of every batch norm.
        temperature: What alpha is divided by first.
    """
    inside: dict[int, Tensor] = {}

    def conv_norm(x: Tensor, key: str, stride: int = 1, groups: int = 1, act: bool = True) -> Tensor:
        weight = state[f'{key}.conv.weight']
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
        x = F.batch_norm(x, None, None, state.get(f'{key}.bn.weight'), state.get(f'{key}.bn.bias'), True, 0.1, eps)
        return x.clamp(0, 6) if act else x

    def layer(x: Tensor, key: str, expansion: int, stride: int) -> Tensor:
        hidden = x if expansion == 1 else conv_norm(x, f'{key}.expand')
        hidden = conv_norm(hidden, f'{key}.depthwise', stride, hidden.shape[1])
        out = conv_norm(hidden, f'{key}.project', act=False)
        return x + out if x.shape == out.shape else out

    x = conv_norm(x, 'stem', stride=2)
    outputs = []
    for i, stage in enumerate(space.stages):
        for j, tokens in enumerate(stage.layers):
            key, stride = f'stages.{i}.{j}', stage.stride if j == 0 else 1
            if len(tokens) == 1:
                x = layer(x, key, LayerSpec.parse(tokens[0]).expansion, stride)
                continue
            exponentials = (state[f'{key}.alpha'] / temperature).exp()
            shares = exponentials / exponentials.sum()
            if len({LayerSpec.parse(token).expansion for token in tokens if token != SKIP}) == 1 and j == 0:
                wide = [conv_norm(x, f'{key}.candidates.{token}.expand') for token in tokens]
                inside[i] = sum(share * each for share, each in zip(shares, wide, strict=True))
            results = [
                x if token == SKIP else layer(x, f'{key}.candidates.{token}', LayerSpec.parse(token).expansion, stride)
                for token in tokens
            ]
            x = sum(share * result for share, result in zip(shares, results, strict=True))
        outputs.append(x)
    return outputs, inside


def traced(net: torch.nn.Module, image: Tensor) -> tuple[tuple[Tensor, ...], int]:
    """A forward pass, and the multiply-adds of one image in it: a convolution uses each weight once per position."""
    macs = 0

    def count(conv: torch.nn.Module, _: Any, output: Tensor) -> None:
        nonlocal macs
        macs += output[0].numel() * conv.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        outputs = net(image)
    for hook in hooks:
        hook.remove()
    return outputs, macs
