"""A layer of any kind: the convolutions that its description lists, and what is added to what."""

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

from mmnas_ext.archs import BlockSpec, layer_convs
from mmnas_ext.ops.convs import SqueezeExcite, act_layer_cfg, build_conv

_SHORTCUT = 'shortcut'


class ConvBlock(BaseModule):
    """A layer as its description has it; each convolution is a child of its name, ``se`` holds those of squeeze-excite.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        spec: The layer's free choices.
        stride: Its stride.
        dilation: Dilation of its k x k convolutions.
        norm_cfg: Norm of every convolution.
        act_cfg: Activation, where the layer does not name its own.
        drop_path: Probability to drop, in training, what a sample's convolutions add to its input.
        with_cp: Recompute the layer in the backward pass instead of keeping its activations.

    Attributes:
        residual: Whether the input itself is added at the end.
        adds: Whether the input, or what a shortcut makes of it, is.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        spec: BlockSpec,
        stride: int = 1,
        dilation: int = 1,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        drop_path: float = 0.0,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='BN')
        act_cfg = act_layer_cfg(spec.act) if spec.act else act_cfg or dict(type='ReLU6')
        self.with_cp = with_cp
        self.adds = spec.adds(in_channels, channels, stride)
        self.shortcut: nn.Module | None = None
        self.se: nn.Module | None = None
        names = []
        # in the order in which they run: it decides what each is initialised with
        for conv in layer_convs(spec, in_channels, channels, stride, dilation):
            name = conv.name.partition('.')[0]
            if conv.norm:
                setattr(self, name, build_conv(conv, norm_cfg, act_cfg))
            elif name not in names:
                inside = dict(type='ReLU') if spec.hard else act_cfg
                setattr(self, name, SqueezeExcite(conv.in_channels, conv.channels, inside, spec.hard))
            if name not in names:
                names.append(name)
        self.in_order = tuple(name for name in names if name != _SHORTCUT)
        self.residual = self.adds and self.shortcut is None
        self.act = build_activation_layer(dict(act_cfg)) if spec.ends_active else None
        self.drop_path = DropPath(drop_path) if drop_path and self.adds else None

    @property
    def last(self) -> ConvModule:
        """The convolution whose output the input is added to, with its norm."""
        found = self.get_submodule(self.in_order[-1])
        assert isinstance(found, ConvModule), 'squeeze-excite is never the last'
        return found

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

    def _forward(self, x: Tensor) -> Tensor:
        return self._finish(x, x, 0)

    def _finish(self, hidden: Tensor, x: Tensor, start: int) -> Tensor:
        """The rest from one of the convolutions on; `x` is the layer's input."""
        for name in self.in_order[start:]:
            hidden = getattr(self, name)(hidden)
        if not self.adds:
            return hidden
        if self.drop_path is not None:
            hidden = self.drop_path(hidden)
        out = (x if self.shortcut is None else self.shortcut(x)) + hidden
        return out if self.act is None else self.act(out)


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
