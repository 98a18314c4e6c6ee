"""The inverted residual layer of MobileNetV2 (arXiv 1801.04381), with EfficientNet's squeeze-excite as an option."""

from typing import Any

from torch import Tensor

from mmnas_ext.ops.block import ConvBlock


class MBConv(ConvBlock):
    """1x1 expansion, depthwise k x k, optional squeeze-excite, 1x1 projection; a residual where shapes allow.

    Each convolution is followed by a norm, the first two by the activation also. ``expand`` and ``se`` are ``None``
    in a layer without. Arguments are those of `ConvBlock`, of a `LayerSpec`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if 'expand' not in self.in_order:
            self.expand = None

    def forward_with_expansion(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the expansion ``(N, in_channels * e, H, W)`` that SSDLite reads (arXiv 1801.04381, 6.2)."""
        assert self.expand is not None, 'a backbone checks this when it is built'
        hidden = self.expand(x)
        return self._finish(hidden, x, 1), hidden
