"""The mixture of a layer's candidates in an arch step, with gradients for the input and the shares alone.

What an arch step costs on a CPU is memory traffic: batch norms, activations, and what is kept for the backward pass. Here
a candidate is computed in NHWC, as rows of channels, and

- an expansion's batch statistics follow from the covariance of the layer's input, since the expansion is linear: they are
  known before it is computed, and become a part of its weights, in both directions;
- the shares' gradients are inner products that the backward pass of the last batch norm computes anyway;
- of a candidate, the projection and the normalised output of the depthwise convolution are kept. The expansion is
  computed again; and with `recompute` all but the projection.

Outputs and gradients are those of the modules, up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmnas_ext.ops.frozen import Frozen

_DTYPES = (torch.float32, torch.float64)


def mixture(
    candidates: Sequence[nn.Module | None], x: Tensor, shares: Tensor, recompute: bool = False
) -> Tensor | None:
    """Sums the candidates' outputs, each multiplied by its share, where this can be done faster than one by one.

    That is on a CPU, in float or double, when a gradient is wanted but none for weights, and for candidates of expansion,
    depthwise convolution and projection with ReLU or ReLU6 and batch norms that normalise by the batch.

    Args:
        candidates: The modules; ``None`` is the input itself.
        x: ``(N, in_channels, H, W)``.
        shares: ``(candidates,)``.
        recompute: Keep little for the backward pass, and compute the rest again.

    Returns:
        ``(N, channels, ceil(H / stride), ceil(W / stride))`` in the memory layout of `x`; ``None`` where it cannot be done.
    """
    if not torch.is_grad_enabled() or not (x.requires_grad or shares.requires_grad):
        return None
    if x.device.type != 'cpu' or x.dtype not in _DTYPES or shares.dtype != x.dtype or torch.is_autocast_enabled('cpu'):
        return None
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return None
    parts = [None if module is None else Frozen.of(module, x.dtype) for module in candidates]
    computed = [part for part in parts if part is not None]
    if not computed or len(computed) < sum(module is not None for module in candidates):
        return None
    # over a single value there are no statistics, which a batch norm says itself
    if x.shape[0] * -(-x.shape[2] // computed[0].stride) * -(-x.shape[3] // computed[0].stride) < 2:
        return None
    return _Mixture.apply(x, shares, parts, recompute)


class _Mixture(torch.autograd.Function):
    """See `mixture`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shares: Tensor, parts: list[Frozen | None], recompute: bool) -> Tensor:
        rows, mean, covariance = _centred(x)
        scratch = _Scratch(rows)
        direct = torch.stack([s for s, part in zip(shares, parts, strict=True) if _adds_input(part)] or [shares[0] * 0])
        mixed, constant = None, 0
        kept: list[Tensor | None] = []
        for part, share in zip(parts, shares, strict=True):
            if part is None:
                kept += [None] * _KEPT
                continue
            expanded, scale = _expand_and_measure(part, rows, covariance, scratch)
            hidden = part.convolve(_image(expanded.clamp_(*part.bounds), x.shape))
            center, factor = _statistics(hidden, part.norms[1].eps)
            _normalise(hidden, center, factor)
            active = scratch.rows('second', hidden.numel() // len(scale), len(scale))
            narrow = _pointwise(_image(_activate(part, _rows(hidden), active), hidden.shape), part.project)
            norm = part.norms[2]
            last_center, last_factor = _statistics(narrow, norm.eps)
            weight = share * norm.scale * last_factor
            mixed = narrow * _channels(weight) if mixed is None else mixed.addcmul_(narrow, _channels(weight))
            constant = constant + share * norm.shift - weight * last_center
            kept += [narrow, last_center, last_factor]
            if ctx.needs_input_grad[0]:
                kept += [scale, center, factor, None if recompute else hidden]
            else:
                kept += [None] * 4
        assert mixed is not None, 'there is at least one module'
        mixed += _channels(constant)
        if any(map(_adds_input, parts)):
            mixed.add_(x * direct.sum())
        ctx.parts, ctx.shape, ctx.layout = parts, x.shape, _layout(x)
        ctx.save_for_backward(rows, mean, shares, *kept)
        return mixed.contiguous(memory_format=ctx.layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, mean, shares, *kept = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        scratch = _Scratch(rows)
        # of the input: what goes through expansions, a matrix and a constant that stand for their norms' statistics
        through = _Through(rows, ctx.shape) if ctx.needs_input_grad[0] else None
        by_input = None
        if any(map(_adds_input, ctx.parts)):
            by_input = torch.dot(_rows(grad).flatten(), (rows + mean).flatten())
        by_share: list[Tensor] = []
        for index, (part, share) in enumerate(zip(ctx.parts, shares, strict=True)):
            if part is None:
                by_share.append(by_input)
                continue
            narrow, center, factor, *inner = kept[_KEPT * index : _KEPT * (index + 1)]
            norm = part.norms[2]
            if through is None:
                product, total = _sums(grad, narrow, center)
                product *= factor
            else:
                inwards, product, total = torch.ops.aten.native_batch_norm_backward(
                    grad, narrow, share * norm.scale, None, None, center, factor, True, norm.eps, [True, True, True]
                )
                through.add(part, _pointwise(inwards, part.project.t()), inner, scratch)
            by_share.append(product @ norm.scale + total @ norm.shift + (by_input if part.residual else 0))
        by_x = None
        if through is not None:
            by_x = through.result()
            if by_input is not None:
                by_x.add_(grad * sum(s for s, part in zip(shares, ctx.parts, strict=True) if _adds_input(part)))
            by_x = by_x.contiguous(memory_format=ctx.layout)
        return by_x, torch.stack(by_share), None, None


class _Through:
    """The gradient for a layer's input that comes through its candidates' expansions.

    A norm subtracts from its incoming gradient g the mean of g and, times its output y, the mean of g * y. Of an expansion
    y is a matrix times the centred input: so what is subtracted in the end is, summed over all candidates, one matrix
    times the input and a constant.
    """

    def __init__(self, rows: Tensor, shape: Sequence[int]) -> None:
        self.rows, self.shape = rows, shape
        channels = rows.shape[1]
        self.direct: Tensor | None = None
        self.matrix = rows.new_zeros(channels, channels)
        self.constant = rows.new_zeros(channels)

    def add(self, part: Frozen, grad: Tensor, inner: Sequence[Tensor], scratch: '_Scratch') -> None:
        """Adds a candidate's, from the gradient for its activated depthwise output; `grad` is overwritten."""
        scale, center, factor, hidden = inner
        first, second, _ = part.norms
        expanded = _expand(part, self.rows, scale, scratch)
        if hidden is None:
            active = torch.clamp(expanded, *part.bounds, out=scratch.rows('second', *expanded.shape))
            hidden = part.convolve(_image(active, self.shape))
            _normalise(hidden, center, factor)
        wide = _rows(hidden)
        _mask(part, _rows(grad), _affine(second, wide, scratch) if second.affine else wide)
        _subtract_statistics(grad, hidden, scratch)
        grad = part.convolve_back(grad, second.scale * factor, *self.shape[2:])
        _mask(part, _rows(grad), expanded)
        weight = part.expand * scale[:, None]
        if _by_matrix(part, self.rows):
            product, total = _sums(grad, _image(expanded, self.shape), first.shift)
            self.matrix += weight.t() @ (weight * (product / len(self.rows))[:, None])
            self.constant += (total / len(self.rows) * first.scale) @ weight
        else:
            _subtract_statistics(grad, _image(expanded, self.shape), scratch)
        direct = _pointwise(grad, (weight * first.scale[:, None]).t())
        self.direct = direct if self.direct is None else self.direct.add_(direct)

    def result(self) -> Tensor:
        """The sum, ``(N, C, H, W)``."""
        assert self.direct is not None, 'there is at least one module'
        _rows(self.direct).sub_(torch.addmm(self.constant, self.rows, self.matrix))
        return self.direct


class _Scratch:
    """Memory that one candidate after the other works in: new memory has to be cleared by the system first."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._held: dict[str, Tensor] = {}

    def rows(self, name: str, count: int, channels: int) -> Tensor:
        """Memory for ``(count, channels)``; what was in it is lost."""
        held = self._held.get(name)
        if held is None or held.numel() < count * channels:
            held = self._held[name] = self._like.new_empty(count * channels)
        return held[: count * channels].view(count, channels)


_KEPT = 7  # of each candidate


def _adds_input(part: Frozen | None) -> bool:
    return part is None or part.residual


def _layout(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def _rows(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N * H * W, C)``: a view where `x` is in NHWC."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _image(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """What undoes `_rows`, for images of `shape`."""
    return rows.view(shape[0], shape[2], shape[3], -1).permute(0, 3, 1, 2)


def _channels(values: Tensor) -> Tensor:
    return values[:, None, None]


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution; as such it is faster than as a product of matrices where it has few outputs."""
    return F.conv2d(x, weight[:, :, None, None]).contiguous(memory_format=torch.channels_last)


def _centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of `x` minus their mean, the mean, and the covariance as doubles."""
    # the variance of a sum of correlated channels can be a small difference: hence doubles
    rows = _rows(x).double()
    mean = rows.mean(0)
    rows = rows - mean
    return rows.to(x.dtype), mean.to(x.dtype), rows.t() @ rows / len(rows)


def _by_matrix(part: Frozen, rows: Tensor) -> bool:
    """Whether an expansion's statistics follow from the covariance; over few values they are as fast to compute."""
    return part.norms[0].affine or 8 * len(rows) > rows.shape[1] ** 2


def _expand_and_measure(
    part: Frozen, rows: Tensor, covariance: Tensor, scratch: '_Scratch'
) -> tuple[Tensor, Tensor]:
    """The expansion after its norm, before its activation, and one over its standard deviation before the norm."""
    eps = part.norms[0].eps
    if _by_matrix(part, rows):
        weight = part.expand.double()
        scale = (((weight @ covariance) * weight).sum(1) + eps).rsqrt_().to(rows.dtype)
        return _expand(part, rows, scale, scratch), scale
    expanded = torch.mm(rows, part.expand.t(), out=scratch.rows('first', len(rows), len(part.expand)))
    _, scale = _statistics(expanded[:, :, None, None], eps)
    return expanded.mul_(scale), scale


def _expand(part: Frozen, rows: Tensor, scale: Tensor, scratch: '_Scratch') -> Tensor:
    """The expansion after its norm, before its activation."""
    norm = part.norms[0]
    out = scratch.rows('first', len(rows), len(scale))
    weight = (part.expand * (scale * norm.scale)[:, None]).t()
    return torch.addmm(norm.shift, rows, weight, out=out) if norm.affine else torch.mm(rows, weight, out=out)


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and one over standard deviation, per channel."""
    mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
    return mean, (variance + eps).rsqrt_()


def _normalise(x: Tensor, center: Tensor, factor: Tensor) -> None:
    rows = _rows(x)
    torch.addcmul(-center * factor, rows, factor, out=rows)


def _affine(norm: Any, rows: Tensor, scratch: _Scratch) -> Tensor:
    return torch.addcmul(norm.shift, rows, norm.scale, out=scratch.rows('second', *rows.shape))


def _activate(part: Frozen, rows: Tensor, out: Tensor) -> Tensor:
    """Scale, shift and activation of the depthwise convolution's normalised output."""
    norm = part.norms[1]
    if norm.affine:
        return torch.addcmul(norm.shift, rows, norm.scale, out=out).clamp_(*part.bounds)
    return torch.clamp(rows, *part.bounds, out=out)


def _mask(part: Frozen, grads: Tensor, rows: Tensor) -> None:
    """Clears gradients where the activation clamped."""
    torch.ops.aten.hardtanh_backward.grad_input(grads, rows, *part.bounds, grad_input=grads)


def _sums(grad: Tensor, x: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel the sums of grad * (x - center) and of grad, in one pass."""
    _, product, total = torch.ops.aten.native_batch_norm_backward(
        grad, x, None, None, None, center, torch.ones_like(center), True, 0.0, [False, True, True]
    )
    return product, total


def _subtract_statistics(grad: Tensor, x: Tensor, scratch: _Scratch) -> None:
    """Subtracts from `grad` what a norm with the output `x` subtracts, in place."""
    grads, rows = _rows(grad), _rows(x)
    product, total = _sums(grad, x, torch.zeros_like(x[0, :, 0, 0]))
    grads.add_(torch.addcmul(-total / len(rows), rows, -product / len(rows), out=scratch.rows('second', *rows.shape)))
