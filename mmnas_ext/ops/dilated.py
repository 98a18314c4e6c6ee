"""A dilated depthwise convolution whose backward pass is fast on a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DilatedDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution of stride 1, dilation d and 'same' padding; parameters and outputs are ``nn.Conv2d``'s.

    A CPU's backward pass is several times slower with dilation than without: oneDNN has no kernels for it. So where
    gradients are wanted on a CPU, the image is read as d x d images of every d-th row and column, which a
    dilated convolution never mixes, and they go through an ordinary convolution as a larger batch. The forward pass is
    slower by the copying and is left as it is elsewhere, and where a compiler, an export or a tracer follows it: a
    graph of the copying would hold for sides of one remainder alone, and takes minutes to find where sides are open.

    Args:
        channels: Channels.
        kernel: Side of the kernel, odd.
        dilation: d.
    """

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__(
            channels, channels, kernel, padding=kernel // 2 * dilation, dilation=dilation, groups=channels, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` to ``(N, C, H, W)``."""
        wants_gradient = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        followed = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if input.device.type != 'cpu' or not wants_gradient or followed:
            return super().forward(input)
        step: Any = self.dilation[0]
        height, width = input.shape[2:]
        phases = split_phases(input, step)
        phases = F.conv2d(phases, self.weight, None, 1, self.kernel_size[0] // 2, 1, self.groups)
        return join_phases(phases, step)[:, :, :height, :width]


def split_phases(x_NCHW: Tensor, step: int) -> Tensor:
    """``(N, C, H, W)`` to ``(N * step^2, C, ceil(H / step), ceil(W / step))``, zeros where a side does not divide."""
    n, c, height, width = x_NCHW.shape
    below, right = -height % step, -width % step
    if below or right:
        x_NCHW = F.pad(x_NCHW, (0, right, 0, below))
    rows, columns = (height + below) // step, (width + right) // step
    x = x_NCHW.permute(0, 2, 3, 1).reshape(n, rows, step, columns, step, c)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n * step * step, rows, columns, c).permute(0, 3, 1, 2)


def join_phases(x_NCHW: Tensor, step: int) -> Tensor:
    """What undoes `split_phases`."""
    n, c, rows, columns = x_NCHW.shape
    n //= step * step
    x = x_NCHW.permute(0, 2, 3, 1).reshape(n, step, step, rows, columns, c)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(n, rows * step, columns * step, c).permute(0, 3, 1, 2)
