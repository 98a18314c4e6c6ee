"""The FNA authors' DeepLab head under our keys; and multiply-adds by part of a network."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tests.backbones.reference import backbone_state, golden
from tests.filling import fill_value

FIGURES = 'hosts_fna_seg.json'
_CHANNELS = 256
_RULES = (
    (r'head\.branch1\.0', 'aspp_modules.0.conv'),
    (r'head\.branch1\.1', 'aspp_modules.0.bn'),
    (r'head\.branch(\d)\.0\.depthwise', r'aspp_modules.\1.depthwise_conv.conv'),
    (r'head\.branch(\d)\.0\.bn1', r'aspp_modules.\1.depthwise_conv.bn'),
    (r'head\.branch(\d)\.0\.pointwise', r'aspp_modules.\1.pointwise_conv.conv'),
    (r'head\.branch(\d)\.0\.bn2', r'aspp_modules.\1.pointwise_conv.bn'),
    (r'head\.branch5_conv', 'image_pool.1.conv'),
    (r'head\.branch5_bn', 'image_pool.1.bn'),
    (r'head\.conv_cat\.0', 'bottleneck.conv'),
    (r'head\.conv_cat\.1', 'bottleneck.bn'),
    (r'cls_conv', 'conv_seg'),
)


def translated(key: str) -> str:
    """Our key for the authors'; their branches count from 1."""
    module, _, name = key.rpartition('.')
    for theirs, ours in _RULES:
        found = re.fullmatch(theirs, module)
        if found:
            return f'{re.sub(r"(?<=aspp_modules.)[2-4]", _one_less, found.expand(ours))}.{name}'
    raise KeyError(key)


def _one_less(found: re.Match[str]) -> str:
    return str(int(found[0]) - 1)


def segmentor_state(name: str) -> dict[str, Tensor]:
    """A segmentor's state dict: the authors' tensors, filled by the rule, under our keys."""
    tensors = golden('backbones_fna_seg.json')[name]['tensors']
    state = {f'backbone.{key}': tensor for key, tensor in backbone_state(tensors).items()}
    for index, (key, shape) in enumerate(golden(FIGURES)['head'], start=len(tensors)):
        tensor = fill_value(key, shape, index)
        if key == 'head.conv_cat.0.weight':
            # they join the branches 1 to 5, image pooling last; MMSegmentation puts it first
            tensor = torch.cat([tensor[:, -_CHANNELS:], tensor[:, :-_CHANNELS]], dim=1)
        state[f'decode_head.{translated(key)}'] = tensor
    return state


def traced_parts(net: nn.Module, parts: Iterable[str], size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Parameters and multiply-adds of one image, without biases, by the prefix that a module's name begins with.

    Args:
        net: A segmentor on the device ``meta``, in eval mode.
        parts: Prefixes.
        size: Height and width of the image.
    """
    found = {part: [sum(p.numel() for n, p in net.named_parameters() if n.startswith(part)), 0] for part in parts}

    def hook(part: str) -> Any:
        def count(conv: nn.Module, _: Any, output: Tensor) -> None:
            found[part][1] += output[0].numel() * conv.weight[0].numel()

        return count

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            (part,) = (part for part in found if name.startswith(part))
            module.register_forward_hook(hook(part))
    with torch.no_grad():
        net(torch.empty(1, 3, *size, device='meta'))
    return {part: (params, macs) for part, (params, macs) in found.items()}
