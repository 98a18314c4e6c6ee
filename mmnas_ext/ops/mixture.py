"""The mixture of a layer's candidates in an arch step, with gradients for the input and the shares alone.

An arch step on a CPU waits for memory: for batch norms, activations, and what is kept for the backward pass. Here a
candidate is computed in NHWC, as rows of channels, and

- an expansion's batch statistics follow from the covariance of the layer's input, since the expansion is linear: they
  are known before it is computed, and become a part of its weights, in both directions;
- the shares' gradients are inner products that the backward pass of the last batch norm computes anyway;
- of a candidate, the projection, the normalised output of the depthwise convolution and, where they are expensive to
  compute again, the expansion are kept: one tensor where autograd keeps two. With `recompute` only the projection is;
- small candidates are computed together and large ones in pieces, so that neither calls nor caches bound the speed.

Outputs and gradients are those of the modules, up to rounding.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmnas_ext.ops.frozen import Frozen, Norm, image_of, pointwise, rows_of

_DTYPES = (torch.float32, torch.float64)
_CACHED = 1 << 20  # values of a tensor: a few of 4 MB fit into most caches
_INNER = 5  # tensors of each piece for the backward pass, see `_run`
_MANY = 2000  # rows, from which on several are reduced as one
WIDE = 24  # channels from which on an expansion is faster to fetch from memory than to compute again


def mixture(
    candidates: Sequence[nn.Module | None], x: Tensor, shares: Tensor, recompute: bool = False
) -> Tensor | None:
    """Sums the candidates' outputs, each multiplied by its share, where this can be done faster than one by one.

    That is on a CPU, in float or double, when a gradient is wanted but none for weights, and for candidates of
    expansion, depthwise convolution and projection with ReLU or ReLU6 and batch norms that normalise by the batch.

    Args:
        candidates: The modules; ``None`` is the input itself.
        x: ``(N, in_channels, H, W)``.
        shares: ``(candidates,)``.
        recompute: Keep little for the backward pass, and compute the rest again.

    Returns:
        ``(N, channels, ceil(H / stride), ceil(W / stride))`` in the memory layout of `x`; ``None`` where it is left to
        the modules.
    """
    if not torch.is_grad_enabled() or not (x.requires_grad or shares.requires_grad):
        return None
    if x.device.type != 'cpu' or x.dtype not in _DTYPES or shares.dtype != x.dtype or torch.is_autocast_enabled('cpu'):
        return None
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return None
    found = [Frozen.of(module, i, x.dtype) for i, module in enumerate(candidates) if module is not None]
    parts = [part for part in found if part is not None]
    if not parts or len(parts) < len(found):
        return None
    values = x.shape[0] * -(-x.shape[2] // parts[0].stride) * -(-x.shape[3] // parts[0].stride)
    if values < 2:  # no statistics, which a batch norm says itself
        return None
    direct = [i for i, module in enumerate(candidates) if module is None or module.residual]
    return _Mixture.apply(x, shares, _sized(parts, x.shape[0] * x.shape[2] * x.shape[3]), direct, recompute)


def _sized(parts: Sequence[Frozen], values: int) -> list[list[Frozen]]:
    """Joins what is small and splits what is large, so that neither calls nor memory bound the computation."""
    most = max(_CACHED // values // 8 * 8, 8)
    sized = []
    for part in _joined(parts, most):
        hidden = len(part.expand)
        # pieces of equal size, each a multiple of what a processor takes at a time
        size = -(-hidden // -(-hidden // most) // 8) * 8 if len(part.members) == 1 else hidden
        sized.append(part.split(size) if hidden > most else [part])
    return sized


def _joined(parts: Sequence[Frozen], most: int) -> list[Frozen]:
    """Joins what can be computed together, up to `most` hidden channels."""
    joined: list[Frozen] = []
    for part in parts:
        fitting = [
            i for i, other in enumerate(joined) if other.fits(part) and len(other.expand) + len(part.expand) <= most
        ]
        if fitting:
            joined[fitting[0]] = joined[fitting[0]].join(part)
        else:
            joined.append(part)
    return joined


class _Mixture(torch.autograd.Function):
    """See `mixture`; `direct` are the candidates to which the input is added."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shares: Tensor, parts: list[list[Frozen]], direct: list[int], recompute: bool
    ) -> Tensor:
        rows, mean, covariance = _centred(x)
        scratch = _Scratch(rows)
        keeps = ctx.needs_input_grad[0] and not recompute
        mixed = rows_of(x) * shares[direct].sum() if direct else None
        spread = _spread(parts, shares)
        kept: list[Tensor | None] = []
        for pieces in parts:
            narrow = None
            for piece in pieces:
                reduced, inner = _run(piece, rows, covariance, x.shape, scratch, keeps)
                narrow = reduced if narrow is None else narrow.add_(reduced)
                kept += inner if ctx.needs_input_grad[0] else []
            assert narrow is not None, 'a part has at least one piece'
            center, factor = _statistics(rows_of(narrow), pieces[0].norms[2].eps)
            kept += [narrow, center, factor]
            mixed = _add(pieces[0], next(spread), narrow, center, factor, mixed)
        assert mixed is not None, 'there is at least one part'
        ctx.parts, ctx.direct, ctx.shape = parts, direct, x.shape
        ctx.layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        ctx.save_for_backward(rows, mean, shares, *kept)
        height, width = (-(-side // parts[0][0].stride) for side in x.shape[2:])
        return image_of(mixed, (len(x), 0, height, width)).contiguous(memory_format=ctx.layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, mean, shares, *kept = ctx.saved_tensors
        grads = rows_of(grad.contiguous(memory_format=torch.channels_last))
        through = _Through(rows, ctx.shape) if ctx.needs_input_grad[0] else None
        by_share = torch.zeros_like(shares)
        if ctx.direct:
            by_share[ctx.direct] = torch.dot(grads.flatten(), (rows + mean).flatten())
        left, spread, found = list(reversed(kept)), _spread(ctx.parts, shares), []
        for pieces in ctx.parts:
            inner = [[left.pop() for _ in range(_INNER)] for _ in pieces if through is not None]
            narrow, center, factor = left.pop(), left.pop(), left.pop()
            count, norm = len(pieces[0].members), pieces[0].norms[2]
            repeated = grads.repeat(1, count) if count > 1 else grads
            product, total = _sums(repeated, rows_of(narrow), center)
            if through is not None:
                weight = next(spread) * norm.scale * factor
                slope = -weight * factor.square() * product / len(repeated)
                inwards = torch.addcmul(-weight * total / len(repeated) - slope * center, rows_of(narrow), slope)
                inwards = image_of(inwards.addcmul_(repeated, weight), narrow.shape)
                for piece, its in zip(pieces, inner, strict=True):
                    through.add(piece, piece.reduce_back(inwards), its)
            product = product * factor
            found.append((product * norm.scale + total * norm.shift).view(count, -1).sum(1))
        by_share[[member for pieces in ctx.parts for member in pieces[0].members]] += torch.cat(found)
        by_x = None
        if through is not None:
            by_rows = through.result()
            if ctx.direct:
                by_rows.addcmul_(grads, shares[ctx.direct].sum())
            by_x = image_of(by_rows, ctx.shape).contiguous(memory_format=ctx.layout)
        return by_x, by_share, None, None, None


def _run(
    piece: Frozen, rows: Tensor, covariance: Tensor, shape: Sequence[int], scratch: '_Scratch', keeps: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """A piece up to its projections, and what the backward pass needs of it."""
    keeps_expanded = keeps and rows.shape[1] >= WIDE
    expanded, scale = _expand_and_measure(piece, rows, covariance, None if keeps_expanded else scratch)
    active = scratch.rows('second', *expanded.shape) if keeps_expanded else expanded
    hidden = piece.convolve(image_of(torch.clamp(expanded, *piece.bounds, out=active), shape))
    center, factor = _statistics(rows_of(hidden), piece.norms[1].eps)
    _normalise(hidden, center, factor)
    active = _activate(piece, rows_of(hidden), scratch)
    reduced = piece.reduce(image_of(active, hidden.shape))
    return reduced, [expanded if keeps_expanded else None, scale, center, factor, hidden if keeps else None]


class _Through:
    """The gradient for a layer's input that comes through its candidates' expansions.

    A norm subtracts from its incoming gradient g the mean of g and, times its output y, the mean of g * y. Of an
    expansion y is a matrix times the centred input: so what is subtracted in the end is, summed over all candidates,
    one matrix times the input and a constant.
    """

    def __init__(self, rows: Tensor, shape: Sequence[int]) -> None:
        self.rows, self.shape = rows, shape
        self.scratch = _Scratch(rows)
        channels = rows.shape[1]
        self.direct: Tensor | None = None
        self.matrix = rows.new_zeros(channels, channels)
        self.constant = rows.new_zeros(channels)

    def add(self, part: Frozen, grad: Tensor, inner: Sequence[Tensor | None]) -> None:
        """Adds a part's, from the gradient for its activated depthwise output; `grad` is overwritten."""
        expanded, scale, center, factor, hidden = inner
        assert scale is not None and center is not None and factor is not None, 'kept where the input needs a gradient'
        first, second, _ = part.norms
        if expanded is None:
            expanded = _expand(part, self.rows, scale, self.scratch)
        if hidden is None:
            active = torch.clamp(expanded, *part.bounds, out=self.scratch.rows('second', *expanded.shape))
            hidden = part.convolve(image_of(active, self.shape))
            _normalise(hidden, center, factor)
        wide = rows_of(hidden)
        _mask(part, rows_of(grad), _affine(second, wide, self.scratch) if second.affine else wide)
        _subtract_statistics(rows_of(grad), wide, self.scratch)
        grad = part.convolve_back(grad, second.scale * factor, *self.shape[2:])
        _mask(part, rows_of(grad), expanded)
        weight = part.expand * scale[:, None]
        if _by_matrix(part, self.rows):
            product, total = _sums(rows_of(grad), expanded, first.shift)
            self.matrix += weight.t() @ (weight * (product / len(self.rows))[:, None])
            self.constant += (total / len(self.rows) * first.scale) @ weight
        else:
            _subtract_statistics(rows_of(grad), expanded, self.scratch)
        direct = rows_of(pointwise(grad, (weight * first.scale[:, None]).t()))
        self.direct = direct if self.direct is None else self.direct.add_(direct)

    def result(self) -> Tensor:
        """The sum, ``(N * H * W, C)``."""
        assert self.direct is not None, 'there is at least one part'
        return self.direct.sub_(torch.addmm(self.constant, self.rows, self.matrix))


class _Scratch:
    """Memory that one part after the other works in: new memory has to be cleared by the system first."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._held: dict[str, Tensor] = {}

    def rows(self, name: str, count: int, channels: int) -> Tensor:
        """Memory for ``(count, channels)``; what was in it is lost."""
        held = self._held.get(name)
        if held is None or held.numel() < count * channels:
            held = self._held[name] = self._like.new_empty(count * channels)
        return held[: count * channels].view(count, channels)


def _spread(parts: Sequence[Sequence[Frozen]], shares: Tensor) -> Iterator[Tensor]:
    """Of each part, the members' shares, each for all its channels."""
    members = [member for pieces in parts for member in pieces[0].members]
    spread = shares[members].repeat_interleave(parts[0][0].project[0].shape[0])
    return iter(spread.split([pieces[0].norms[2].scale.shape[0] for pieces in parts]))


def _add(part: Frozen, share: Tensor, narrow: Tensor, center: Tensor, factor: Tensor, mixed: Tensor | None) -> Tensor:
    """Adds the members' outputs, normalised and multiplied by their shares, to `mixed`, ``(N * H * W, channels)``."""
    norm, rows = part.norms[2], rows_of(narrow)
    weight = share * norm.scale * factor
    count = len(part.members)
    constant = (share * norm.shift - weight * center).view(count, -1).sum(0)
    mixed = constant.repeat(len(rows), 1) if mixed is None else mixed.add_(constant)
    for part_rows, part_weight in zip(rows.chunk(count, 1), weight.chunk(count), strict=True):
        mixed.addcmul_(part_rows, part_weight)
    return mixed


def _centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of `x` minus their mean, the mean, and the covariance as doubles."""
    # the variance of a sum of correlated channels can be a small difference: hence doubles
    rows = rows_of(x).double()
    mean = rows.mean(0)
    rows = rows - mean
    return rows.to(x.dtype), mean.to(x.dtype), rows.t() @ rows / len(rows)


def _by_matrix(part: Frozen, rows: Tensor) -> bool:
    """Whether an expansion's statistics follow from the covariance; over few values they are as fast to compute."""
    return part.norms[0].affine or 8 * len(rows) > rows.shape[1] ** 2


def _expand_and_measure(
    part: Frozen, rows: Tensor, covariance: Tensor, scratch: _Scratch | None
) -> tuple[Tensor, Tensor]:
    """The expansion after its norm, before its activation, and one over its standard deviation before the norm."""
    eps = part.norms[0].eps
    if _by_matrix(part, rows):
        weight = part.expand.double()
        scale = (((weight @ covariance) * weight).sum(1) + eps).rsqrt_().to(rows.dtype)
        return _expand(part, rows, scale, scratch), scale
    expanded = _expand(part, rows, torch.ones_like(part.norms[0].scale), scratch)
    _, scale = _statistics(expanded, eps)
    return expanded.mul_(scale), scale


def _expand(part: Frozen, rows: Tensor, scale: Tensor, scratch: _Scratch | None) -> Tensor:
    """The expansion after its norm, before its activation."""
    norm = part.norms[0]
    shape = len(rows), len(scale)
    out = rows.new_empty(shape) if scratch is None else scratch.rows('first', *shape)
    weight = (part.expand * (scale * norm.scale)[:, None]).t()
    return torch.addmm(norm.shift, rows, weight, out=out) if norm.affine else torch.mm(rows, weight, out=out)


def _normalise(x: Tensor, center: Tensor, factor: Tensor) -> None:
    rows = rows_of(x)
    torch.addcmul(-center * factor, rows, factor, out=rows)


def _affine(norm: Norm, rows: Tensor, scratch: _Scratch) -> Tensor:
    return torch.addcmul(norm.shift, rows, norm.scale, out=scratch.rows('second', *rows.shape))


def _activate(part: Frozen, rows: Tensor, scratch: _Scratch) -> Tensor:
    """Scale, shift and activation of the depthwise convolution's normalised output."""
    if part.norms[1].affine:
        return _affine(part.norms[1], rows, scratch).clamp_(*part.bounds)
    return torch.clamp(rows, *part.bounds, out=scratch.rows('second', *rows.shape))


def _mask(part: Frozen, grads: Tensor, rows: Tensor) -> None:
    """Clears gradients where the activation clamped."""
    torch.ops.aten.hardtanh_backward.grad_input(grads, rows, *part.bounds, grad_input=grads)


def _folded(rows: Tensor) -> tuple[Tensor, int]:
    """``(rows, C)`` as ``(rows / n, n * C, 1, 1)``, and n: PyTorch reduces slowly over many rows of few channels."""
    count, channels = rows.shape
    times = 1
    while times < 16 and count % (2 * times) == 0 and count >= _MANY * times and 2 * times * channels <= 512:
        times *= 2
    return rows.view(count // times, times * channels, 1, 1), times


def _statistics(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and one over standard deviation, per channel."""
    folded, times = _folded(rows)
    mean, variance = torch.batch_norm_update_stats(folded, None, None, 0.0)
    if times > 1:
        means, variances = mean.view(times, -1), variance.view(times, -1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square_().mean(0)
    return mean, (variance + eps).rsqrt_()


def _sums(grads: Tensor, rows: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel the sums of grads * (rows - center) and of grads, in one pass."""
    folded, times = _folded(rows)
    if times > 1:
        center = center.repeat(times)
    _, product, total = torch.ops.aten.native_batch_norm_backward(
        grads.view(folded.shape), folded, None, None, None, center, torch.ones_like(center), True, 0.0,
        [False, True, True],
    )  # fmt: skip
    return (product, total) if times == 1 else (product.view(times, -1).sum(0), total.view(times, -1).sum(0))


def _subtract_statistics(grads: Tensor, rows: Tensor, scratch: _Scratch) -> None:
    """Subtracts from `grads` what a norm with the output `rows` subtracts, in place."""
    count, channels = rows.shape
    product, total = _sums(grads, rows, rows.new_zeros(channels))
    product.mul_(-1 / count)
    grads.add_(torch.addcmul(total.mul_(-1 / count), rows, product, out=scratch.rows('second', count, channels)))
