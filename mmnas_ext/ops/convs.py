"""Convolutions with what follows them, as `mmnas_ext.archs` describes them."""

from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import build_activation_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmnas_ext.archs import Conv, Stem
from mmnas_ext.ops.dilated import DilatedDepthwiseConv2d

_ACT_LAYERS = {'relu6': 'ReLU6', 'swish': 'SiLU', 'relu': 'ReLU', 'hswish': 'HSwish'}


def act_layer_cfg(act: str) -> dict[str, Any]:
    """MMCV's config of an `ArchSpec.act`."""
    return dict(type=_ACT_LAYERS[act])


def build_conv(
    conv: Conv, norm_cfg: dict[str, Any], act_cfg: dict[str, Any], kind: type[ConvModule] = ConvModule
) -> ConvModule:
    """Builds a convolution with the norm and, where it has one, the activation after it."""
    module = kind(
        conv.in_channels,
        conv.channels,
        conv.kernel,
        stride=conv.stride,
        padding=conv.kernel // 2 * conv.dilation,
        dilation=conv.dilation,
        groups=conv.groups,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg if conv.act else None,
    )
    if conv.dilation > 1 and conv.stride == 1 and conv.groups == conv.channels == conv.in_channels:
        fast = DilatedDepthwiseConv2d(conv.channels, conv.kernel, conv.dilation)
        fast.load_state_dict(module.conv.state_dict())  # as ConvModule has initialised it
        module.conv = fast
    return module


def build_stem(stem: Stem, channels: int, norm_cfg: dict[str, Any], act_cfg: dict[str, Any]) -> ConvModule:
    """Builds what a network begins with.

    Args:
        stem: One of the values of `STEMS`.
        channels: Channels of its output.
        norm_cfg: Norm.
        act_cfg: Activation.
    """
    return build_conv(stem.conv(channels), norm_cfg, act_cfg, _PooledConv if stem.pooled else ConvModule)


class _PooledConv(ConvModule):
    """A convolution with norm and activation, and the maximum over 3x3 positions, with stride 2, behind them."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Maps ``(N, C, H, W)`` to half the size that the convolution gives, rounded up."""
        return F.max_pool2d(super().forward(x, *args, **kwargs), 3, stride=2, padding=1)


class SqueezeExcite(BaseModule):
    """Gates channels by their global mean (arXiv 1709.01507).

    Args:
        channels: Channels C of the input.
        squeezed: Channels of the bottleneck.
        act_cfg: Activation inside the bottleneck.
        hard: Whether the gate is a hard sigmoid, as in MobileNetV3.
    """

    def __init__(self, channels: int, squeezed: int, act_cfg: dict[str, Any], hard: bool = False) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = build_activation_layer(dict(act_cfg))
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.hard = hard

    def forward(self, x: Tensor) -> Tensor:
        """Scales ``(N, C, H, W)`` by a gate per channel."""
        gate = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * (F.hardsigmoid(gate) if self.hard else gate.sigmoid())
