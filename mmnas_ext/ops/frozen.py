"""Candidates whose weights are frozen, as the numbers that a fused computation needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmnas_ext.ops.dilated import DilatedDepthwiseConv2d, join_phases, split_phases
from mmnas_ext.ops.mbconv import MBConv

_BOUNDS = {nn.ReLU6: (0.0, 6.0), nn.ReLU: (0.0, float('inf'))}


@dataclass(frozen=True)
class Norm:
    """A batch norm that normalises by the batch: epsilon, scale and shift ``(channels,)``."""

    eps: float
    scale: Tensor
    shift: Tensor
    affine: bool

    @classmethod
    def of(cls, norm: Any, like: Tensor) -> 'Norm':
        """Reads a module; one without scale and shift has 1 and 0."""
        if norm.weight is None:
            return cls(norm.eps, *_constants(norm.num_features, like.dtype), False)
        return cls(norm.eps, norm.weight.detach(), norm.bias.detach(), True)

    @classmethod
    def join(cls, norms: Sequence['Norm']) -> 'Norm':
        """Norms side by side."""
        if not norms[0].affine:
            channels = sum(norm.scale.shape[0] for norm in norms)
            return cls(norms[0].eps, *_constants(channels, norms[0].scale.dtype), False)
        scale, shift = torch.cat([norm.scale for norm in norms]), torch.cat([norm.shift for norm in norms])
        return cls(norms[0].eps, scale, shift, True)

    def part(self, part: slice) -> 'Norm':
        """Some of its channels."""
        return replace(self, scale=self.scale[part], shift=self.shift[part])


@dataclass(frozen=True)
class Frozen:
    """Candidates that can be computed together: expansion, depthwise convolution and projection of each, side by side.

    Attributes:
        members: Which candidates of the layer they are.
        expand: ``(hidden, in_channels)``, `hidden` the sum of all members'.
        depthwise: ``(hidden, 1, k, k)``.
        project: ``(channels, hidden of the member)`` of each.
        norms: After each of the three.
        bounds: What the activation clamps to.
        stride: Of the depthwise convolution.
        dilation: Of the depthwise convolution.
        residual: Whether the input is added.
    """

    members: tuple[int, ...]
    expand: Tensor
    depthwise: Tensor
    project: tuple[Tensor, ...]
    norms: tuple[Norm, Norm, Norm]
    bounds: tuple[float, float]
    stride: int
    dilation: int
    residual: bool

    @classmethod
    def of(cls, module: nn.Module, index: int, dtype: torch.dtype) -> 'Frozen | None':
        """Reads a module; ``None`` if it computes anything else, in another type, or is to be trained or watched."""
        if type(module) is not MBConv or module.expand is None or module.se is not None or module.drop_path is not None:
            return None
        units = [module.expand, module.depthwise, module.project]
        if _watched(module) or not all(_is_plain(unit, dtype) for unit in units):
            return None
        acts = [type(unit.activate) if unit.with_activation else None for unit in units]
        if acts[0] not in _BOUNDS or acts != [acts[0], acts[0], None]:
            return None
        expand, depthwise, project = (unit.conv.weight.detach() for unit in units)
        first, second, third = (Norm.of(unit.norm, expand) for unit in units)
        conv = module.depthwise.conv
        return cls(
            (index,), expand.flatten(1), depthwise, (project.flatten(1),), (first, second, third), _BOUNDS[acts[0]],
            conv.stride[0], conv.dilation[0], module.residual,
        )  # fmt: skip

    def fits(self, other: 'Frozen') -> bool:
        """Whether both can be computed together."""
        return (
            self.depthwise.shape[2:] == other.depthwise.shape[2:]
            and (self.bounds, self.stride, self.dilation) == (other.bounds, other.stride, other.dilation)
            and [(norm.eps, norm.affine) for norm in self.norms] == [(norm.eps, norm.affine) for norm in other.norms]
        )

    def join(self, other: 'Frozen') -> 'Frozen':
        """Both, side by side."""
        first, second, third = (Norm.join(pair) for pair in zip(self.norms, other.norms, strict=True))
        return replace(
            self,
            members=self.members + other.members,
            expand=torch.cat([self.expand, other.expand]),
            depthwise=torch.cat([self.depthwise, other.depthwise]),
            project=self.project + other.project,
            norms=(first, second, third),
        )

    def split(self, most: int) -> 'list[Frozen]':
        """Pieces of at most `most` hidden channels, whose projections add up to this one's; a single member's."""
        assert len(self.members) == 1, 'what was joined is small'
        first, second, third = self.norms
        pieces = []
        for start in range(0, len(self.expand), most):
            part = slice(start, start + most)
            pieces.append(
                replace(
                    self,
                    expand=self.expand[part],
                    depthwise=self.depthwise[part],
                    project=(self.project[0][:, part],),
                    norms=(first.part(part), second.part(part), third),
                )
            )
        return pieces

    def convolve(self, hidden: Tensor) -> Tensor:
        """The depthwise convolution: ``(N, hidden, H, W)`` to ``(N, hidden, ceil(H / stride), …)`` in NHWC."""
        padding, groups = self._padding, hidden.shape[1]
        if self.stride == self.dilation == 1 and hidden.shape[2] * hidden.shape[3] >= 1000:
            # the transposed convolution of the kernel turned round is the same; of large images oneDNN's is the faster
            out = F.conv_transpose2d(hidden, self.depthwise.flip(2, 3), padding=padding, groups=groups)
        else:
            out = F.conv2d(hidden, self.depthwise, None, self.stride, padding, self.dilation, groups)
        return out.contiguous(memory_format=torch.channels_last)

    def convolve_back(self, grad: Tensor, scale: Tensor, height: int, width: int) -> Tensor:
        """Gradient of `convolve` for its input of `height` x `width`, times `scale` per channel, in NHWC."""
        weight, padding, groups = self.depthwise * scale[:, None, None, None], self._padding, grad.shape[1]
        if self.stride == 1 and self.dilation > 1:
            # see DilatedDepthwiseConv2d
            phases = split_phases(grad, self.dilation)
            phases = F.conv_transpose2d(phases, weight, padding=padding // self.dilation, groups=groups)
            out = join_phases(phases, self.dilation)[:, :, :height, :width]
        else:
            rest = [(side - 1) % self.stride for side in (height, width)]
            out = F.conv_transpose2d(grad, weight, None, self.stride, padding, rest, groups, self.dilation)
        return out.contiguous(memory_format=torch.channels_last)

    def reduce(self, hidden: Tensor) -> Tensor:
        """The projections: ``(N, hidden, H, W)`` to ``(N, members * channels, H, W)``, both in NHWC."""
        if len(self.project) == 1:
            return pointwise(hidden, self.project[0])
        wide, channels = rows_of(hidden), len(self.project[0])
        out = wide.new_empty(len(wide), len(self.project) * channels)
        start = 0
        for i, weight in enumerate(self.project):
            part = wide[:, start : start + weight.shape[1]]
            torch.mm(part, weight.t(), out=out[:, i * channels : (i + 1) * channels])
            start += weight.shape[1]
        return image_of(out, hidden.shape)

    def reduce_back(self, grad: Tensor) -> Tensor:
        """Gradient of `reduce` for its input."""
        if len(self.project) == 1:
            return pointwise(grad, self.project[0].t())
        narrow, channels = rows_of(grad), len(self.project[0])
        out = narrow.new_empty(len(narrow), len(self.expand))
        start = 0
        for i, weight in enumerate(self.project):
            part = narrow[:, i * channels : (i + 1) * channels]
            torch.mm(part, weight, out=out[:, start : start + weight.shape[1]])
            start += weight.shape[1]
        return image_of(out, grad.shape)

    @property
    def _padding(self) -> int:
        return self.depthwise.shape[2] // 2 * self.dilation


@cache
def _constants(channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Ones and zeros; nobody writes to them."""
    return torch.ones(channels, dtype=dtype, device='cpu'), torch.zeros(channels, dtype=dtype, device='cpu')


def rows_of(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N * H * W, C)``: a view where `x` is in NHWC."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def image_of(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """What undoes `rows_of`, for images of `shape`."""
    return rows.view(shape[0], shape[2], shape[3], -1).permute(0, 3, 1, 2)


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution in NHWC."""
    if x.shape[0] * x.shape[2] * x.shape[3] < 1000:
        return image_of(torch.mm(rows_of(x), weight.t()), x.shape)
    # where a product of matrices would be slower: it is many rows times few columns
    return F.conv2d(x, weight[:, :, None, None]).contiguous(memory_format=torch.channels_last)


def _is_plain(unit: ConvModule, dtype: torch.dtype) -> bool:
    """Whether a unit is a frozen convolution without bias and a frozen batch norm of the batch's own statistics."""
    if type(unit) is not ConvModule:
        return False
    modules = unit._modules  # not by attribute: this is asked of every candidate at every step
    conv, norm = modules['conv'], modules.get(unit.norm_name or '')
    if type(norm) is not nn.BatchNorm2d or norm.running_mean is not None:
        return False
    if type(conv) not in (nn.Conv2d, DilatedDepthwiseConv2d) or conv.bias is not None:
        return False
    for value in (*conv._parameters.values(), *norm._parameters.values()):
        if value is not None and (value.dtype != dtype or value.requires_grad):
            return False
    return not (_watched(unit) or any(map(_watched, modules.values())))


def _watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
