"""What an architecture costs, counted from its description alone: no network is built, a call takes microseconds.

One multiply-add counts as one. Multiply-adds are those of convolutions, without biases, batch norms, activations or
pooling; parameters are all that a network learns: convolution weights, two numbers a channel for each batch norm, and
the weights and biases of squeeze-excite.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from mmnas_ext.archs.space import SearchSpace
from mmnas_ext.archs.spec import SKIP, ArchSpec, LayerSpec

OUTPUT_STRIDES = (8, 16, 32)
STEM_STRIDE = 2
_STEM_KERNEL = 3
IMAGE_CHANNELS = 3

Size = tuple[int, int]


class Cost(NamedTuple):
    """Multiply-adds for one image, and parameters."""

    macs: int
    params: int


class _Strided(Protocol):
    """Anything with a stride: a stage of an architecture or of a space."""

    @property
    def stride(self) -> int: ...


def cost(arch: ArchSpec, size: Size, output_stride: int = 32, head: bool = False) -> Cost:
    """Prices a backbone: stem and stages, one image.

    Args:
        arch: The architecture.
        size: Height and width of the input image in pixels.
        output_stride: 8, 16 or 32. A stage that would exceed it keeps its input's resolution (its depthwise
            convolutions are dilated, which costs nothing by itself).
        head: Also count the 1x1 convolution after the last stage.

    Raises:
        ValueError: The size or output stride is out of range, or `head` is asked of an architecture without one.
    """
    check_size(size)
    height, width = shrink(size, STEM_STRIDE)
    parts = [_stem_cost(arch.stem_channels, (height, width))]
    for stage, stride in zip(arch.stages, effective_strides(arch.stages, output_stride), strict=True):
        channels = stage.in_channels
        for block in stage.specs:
            parts.append(_block_cost(block, channels, stage.channels, (height, width), stride))
            height, width = shrink((height, width), stride)
            channels, stride = stage.channels, 1
    if head:
        if arch.head_channels is None:
            raise ValueError('head=True, but the architecture has no head (head_channels is None)')
        parts.append(_conv_cost(arch.stages[-1].channels * arch.head_channels, arch.head_channels, (height, width)))
    return _total(parts)


def candidate_costs(
    space: SearchSpace, size: Size, output_stride: int = 32
) -> tuple[tuple[tuple[Cost, ...], ...], ...]:
    """Prices every candidate of every layer: per stage, per layer, per candidate, in the space's order.

    A network's `cost` is the sum of its candidates' costs and of the stem's; a skip costs nothing.

    Args:
        space: The search space.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.

    Raises:
        ValueError: The size or output stride is out of range.
    """
    check_size(size)
    here = shrink(size, STEM_STRIDE)
    table = []
    for stage, stride in zip(space.stages, effective_strides(space.stages, output_stride), strict=True):
        rows = []
        channels = stage.in_channels
        for candidates in stage.layers:
            rows.append(tuple(_token_cost(token, channels, stage.channels, here, stride) for token in candidates))
            here = shrink(here, stride)
            channels, stride = stage.channels, 1
        table.append(tuple(rows))
    return tuple(table)


def fixed_cost(space: SearchSpace, size: Size, output_stride: int = 32) -> Cost:
    """What every network of a space pays: the stem and all layers that have a single candidate.

    Args:
        space: The search space.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.

    Raises:
        ValueError: The size or output stride is out of range.
    """
    table = candidate_costs(space, size, output_stride)
    stem = _stem_cost(space.stem_channels, shrink(size, STEM_STRIDE))
    return _total([stem, *(layer[0] for stage in table for layer in stage if len(layer) == 1)])


def effective_strides(stages: Iterable[_Strided], output_stride: int) -> Iterator[int]:
    """Yields the stride that each stage really has once the output stride caps the product of all.

    Raises:
        ValueError: `output_stride` is none of 8, 16, 32.
    """
    if not isinstance(output_stride, int) or output_stride not in OUTPUT_STRIDES:
        raise ValueError(f'output_stride must be one of {OUTPUT_STRIDES}, got {output_stride!r}')
    reached = STEM_STRIDE
    for stage in stages:
        stride = stage.stride if reached * stage.stride <= output_stride else 1
        reached *= stride
        yield stride


def _stem_cost(channels: int, size: Size) -> Cost:
    return _conv_cost(_STEM_KERNEL * _STEM_KERNEL * IMAGE_CHANNELS * channels, channels, size)


def _token_cost(token: str, in_channels: int, channels: int, size: Size, stride: int) -> Cost:
    if token == SKIP:
        return Cost(0, 0)
    return _block_cost(LayerSpec.parse(token), in_channels, channels, size, stride)


def _block_cost(block: LayerSpec, in_channels: int, channels: int, size: Size, stride: int) -> Cost:
    """An MBConv whose input has the given size."""
    hidden = block.hidden(in_channels)
    squeezed = block.squeezed(in_channels)
    after = shrink(size, stride)
    parts = [
        _conv_cost(hidden * block.kernel * block.kernel, hidden, after),
        _conv_cost(hidden * channels, channels, after),
    ]
    if block.expansion != 1:
        parts.append(_conv_cost(in_channels * hidden, hidden, size))
    if squeezed:
        weights = 2 * hidden * squeezed
        parts.append(Cost(weights, weights + hidden + squeezed))
    return _total(parts)


def _conv_cost(weights: int, channels: int, size: Size) -> Cost:
    """A convolution without bias and the batch norm after it; each weight is used once per output position."""
    return Cost(weights * size[0] * size[1], weights + 2 * channels)


def _total(parts: Iterable[Cost]) -> Cost:
    listed = list(parts)
    return Cost(sum(part.macs for part in listed), sum(part.params for part in listed))


def shrink(size: Size, stride: int) -> Size:
    """Output size of a convolution padded by half its kernel: rounded up."""
    return -(-size[0] // stride), -(-size[1] // stride)


def check_size(size: Size) -> None:
    """Raises ValueError unless `size` is a pair of positive integers."""
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError(f'size must be a pair of positive integers (height, width), got {size!r}')
