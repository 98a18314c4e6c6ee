"""A plain implementation of the super-network: the baseline of `arch_step.py`.

The FNA authors' step is this one, with the weights' gradients switched off before it: only alpha's are computed.

It shares nothing with `mmnas_ext.ops` or `mmnas_ext.backbones`, so equal numbers from both confirm each other. The keys
of the state dict are those of `SuperNet`: weights can be copied by key.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmnas_ext.archs import SKIP, LayerSpec, SearchSpace

_ACTS = {'relu6': nn.ReLU6, 'relu': nn.ReLU, 'swish': nn.SiLU}


class PlainUnit(nn.Module):
    """Convolution, batch norm and, unless `act` is None, the activation.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        kernel: Kernel size.
        stride: Stride.
        groups: Groups of the convolution.
        act: Name of the activation.
        searched: The norm is a candidate's: no affine parameters, no running statistics.
        eps: Epsilon of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int,
        groups: int,
        act: str | None,
        searched: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps, affine=not searched, track_running_stats=not searched)
        self.act = _ACTS[act](inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, channels, ceil(H / stride), ceil(W / stride))``."""
        return self.act(self.bn(self.conv(x)))


class PlainBlock(nn.Module):
    """An inverted residual: expand, depthwise, project."""

    def __init__(
        self, in_channels: int, channels: int, token: str, stride: int, act: str, searched: bool, eps: float
    ) -> None:
        super().__init__()
        block = LayerSpec.parse(token)
        if block.se or block.act or not isinstance(block, LayerSpec):
            raise ValueError(f'token must be an MBConv layer without squeeze-excite or own activation, got {token!r}')
        hidden = block.hidden(in_channels)
        self.residual = stride == 1 and in_channels == channels
        if block.expansion > 1:
            self.expand = PlainUnit(in_channels, hidden, 1, 1, 1, act, searched, eps)
        self.depthwise = PlainUnit(hidden, hidden, block.kernel, stride, hidden, act, searched, eps)
        self.project = PlainUnit(hidden, channels, 1, 1, 1, None, searched, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, channels, ceil(H / stride), ceil(W / stride))``."""
        out = x
        for unit in self.children():
            out = unit(out)
        return x + out if self.residual else out


class PlainMixed(nn.Module):
    """All candidates of a layer, summed under softmax(alpha); ``skip`` is the input itself."""

    def __init__(
        self, in_channels: int, channels: int, tokens: Sequence[str], stride: int, act: str, eps: float
    ) -> None:
        super().__init__()
        self.tokens = tuple(tokens)
        self.alpha = nn.Parameter(1e-3 * torch.randn(len(tokens)))
        self.candidates = nn.ModuleDict(
            {
                token.replace('.', '_'): PlainBlock(in_channels, channels, token, stride, act, True, eps)
                for token in tokens
                if token != SKIP
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, channels, ceil(H / stride), ceil(W / stride))``."""
        outputs = [x if token == SKIP else self.candidates[token.replace('.', '_')](x) for token in self.tokens]
        return sum(weight * output for weight, output in zip(self.alpha.softmax(0), outputs, strict=True))


class PlainSuperNet(nn.Module):
    """Every candidate of every layer, one after the other, memory layout NCHW, output stride 32.

    Args:
        space: Anything that `SearchSpace.parse` reads; without squeeze-excite.
        table: Multiply-adds per stage, layer and candidate.
        out_indices: Stages whose features are returned.

    Raises:
        ValueError: A layer of the space has squeeze-excite.
    """

    def __init__(
        self,
        space: SearchSpace | str,
        table: Sequence[Sequence[Sequence[int]]],
        out_indices: Sequence[int] = (1, 2, 4, 6),
    ) -> None:
        super().__init__()
        spec = space if isinstance(space, SearchSpace) else SearchSpace.parse(space)
        eps = spec.bn_eps or 1e-5
        self.out_indices = tuple(out_indices)
        self.table = table
        self.stem = PlainUnit(3, spec.stem_channels, 3, 2, 1, spec.act, False, eps)
        self.stages = nn.ModuleList()
        for stage in spec.stages:
            layers = nn.ModuleList()
            for j, tokens in enumerate(stage.layers):
                widths = (stage.in_channels if j == 0 else stage.channels, stage.channels)
                stride = stage.stride if j == 0 else 1
                if len(tokens) == 1:
                    layers.append(PlainBlock(*widths, tokens[0], stride, spec.act, False, eps))
                else:
                    layers.append(PlainMixed(*widths, tokens, stride, spec.act, eps))
            self.stages.append(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps images ``(N, 3, H, W)`` to the features of `out_indices`."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            for layer in stage:
                x = layer(x)
            features.append(x)
        return tuple(features[index] for index in self.out_indices)

    def expected_cost(self) -> Tensor:
        """Computes the expected multiply-adds of the searched layers under softmax(alpha): a scalar."""
        total = torch.zeros((), dtype=torch.float64)
        for stage, rows in zip(self.stages, self.table, strict=True):
            for layer, row in zip(stage, rows, strict=True):
                if isinstance(layer, PlainMixed):
                    for probability, macs in zip(layer.alpha.softmax(0), row, strict=True):
                        total = total + probability * macs
        return total
