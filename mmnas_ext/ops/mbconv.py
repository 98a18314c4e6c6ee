"""The inverted residual layer of MobileNetV2 (arXiv 1801.04381), with EfficientNet's squeeze-excite as an option."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks import DropPath, build_activation_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmnas_ext.archs import Conv, LayerSpec, layer_convs
from mmnas_ext.ops.dilated import DilatedDepthwiseConv2d

_ACT_LAYERS = {'relu6': 'ReLU6', 'swish': 'SiLU', 'relu': 'ReLU'}


def act_layer_cfg(act: str) -> dict[str, Any]:
    """MMCV's config of an `ArchSpec.act`."""
    return dict(type=_ACT_LAYERS[act])


def build_conv(conv: Conv, norm_cfg: dict[str, Any], act_cfg: dict[str, Any]) -> ConvModule:
    """Builds a convolution with the norm and, where it has one, the activation after it."""
    module = ConvModule(
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
    if conv.dilation > 1 and conv.stride == 1 and conv.groups == conv.channels:
        fast = DilatedDepthwiseConv2d(conv.channels, conv.kernel, conv.dilation)
        fast.load_state_dict(module.conv.state_dict())  # as ConvModule has initialised it
        module.conv = fast
    return module


class SqueezeExcite(BaseModule):
    """Gates channels by their global mean (arXiv 1709.01507).

    Args:
        channels: Channels C of the input.
        squeezed: Channels of the bottleneck.
        act_cfg: Activation inside the bottleneck.
    """

    def __init__(self, channels: int, squeezed: int, act_cfg: dict[str, Any]) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = build_activation_layer(dict(act_cfg))
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scales ``(N, C, H, W)`` by a gate per channel."""
        gate = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class MBConv(BaseModule):
    """1x1 expansion, depthwise k x k, optional squeeze-excite, 1x1 projection; a residual where shapes allow.

    Each convolution is followed by a norm, the first two by the activation also.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        spec: Kernel, expansion and squeeze-excite ratio.
        stride: Stride of the depthwise convolution.
        dilation: Dilation of the depthwise convolution.
        norm_cfg: Norm of every convolution.
        act_cfg: Activation.
        drop_path: Probability to drop the residual branch of a sample in training.
        with_cp: Recompute the layer in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        spec: LayerSpec,
        stride: int = 1,
        dilation: int = 1,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        drop_path: float = 0.0,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='BN')
        act_cfg = act_cfg or dict(type='ReLU6')
        self.with_cp = with_cp
        self.residual = stride == 1 and in_channels == channels
        convs = {conv.name: conv for conv in layer_convs(spec, in_channels, channels, stride, dilation)}
        # in the order in which they run: it decides what each is initialised with
        self.expand = build_conv(convs['expand'], norm_cfg, act_cfg) if 'expand' in convs else None
        self.depthwise = build_conv(convs['depthwise'], norm_cfg, act_cfg)
        self.se = None
        if 'se.reduce' in convs:
            self.se = SqueezeExcite(convs['se.reduce'].in_channels, convs['se.reduce'].channels, act_cfg)
        self.project = build_conv(convs['project'], norm_cfg, act_cfg)
        self.drop_path = DropPath(drop_path) if drop_path and self.residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, channels, ceil(H / stride), ceil(W / stride))``."""
        if self.with_cp and x.requires_grad:
            if torch.compiler.is_compiling():
                # it takes no context of ours, and needs none: what is written to a buffer is written once, at the end
                return checkpoint(self._forward, x, use_reentrant=False)
            return checkpoint(
                self._forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_seen(self))
            )
        return self._forward(x)

    def forward_with_expansion(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the expansion ``(N, in_channels * e, H, W)`` that SSDLite reads (arXiv 1801.04381, 6.2)."""
        assert self.expand is not None, 'a backbone checks this when it is built'
        hidden = self.expand(x)
        return self._finish(hidden, x), hidden

    def _forward(self, x: Tensor) -> Tensor:
        return self._finish(x if self.expand is None else self.expand(x), x)

    def _finish(self, hidden: Tensor, x: Tensor) -> Tensor:
        hidden = self.depthwise(hidden)
        if self.se is not None:
            hidden = self.se(hidden)
        out: Tensor = self.project(hidden)
        if not self.residual:
            return out
        return x + (out if self.drop_path is None else self.drop_path(out))


@contextmanager
def _statistics_seen(module: nn.Module) -> Iterator[None]:
    """Keeps running statistics as they are while a batch that they have seen is computed again."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # without the statistics other tensors would be saved than in the first pass, and PyTorch refuses that
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
