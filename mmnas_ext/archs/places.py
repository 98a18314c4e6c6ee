"""Where the layers of a network stand: written here alone, as `blocks` alone has the convolutions of each kind.

Costs, prices, tensor shapes, memory and figures are sums over `places` and over the convolutions of each place.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

from mmnas_ext.archs.blocks import SKIP, BlockSpec
from mmnas_ext.archs.cells import CellSpace
from mmnas_ext.archs.convs import HEAD, IMAGE_CHANNELS, STEM_TOKENS, STEMS, Conv, head_conv
from mmnas_ext.archs.space import SearchSpace, SpaceStage
from mmnas_ext.archs.spec import ArchSpec, StageSpec

Size = tuple[int, int]

OUTPUT_STRIDES = (8, 16, 32)


@lru_cache(maxsize=1 << 14)
def layer_convs(
    layer: BlockSpec, in_channels: int, channels: int, stride: int = 1, dilation: int = 1
) -> tuple[Conv, ...]:
    """Lists the convolutions of a layer, as `BlockSpec.convs` does, and remembers them.

    Args:
        layer: The layer's free choices.
        in_channels: Channels of the layer's input.
        channels: Channels of its output.
        stride: Its stride.
        dilation: Dilation of its k x k convolutions.
    """
    return layer.convs(in_channels, channels, stride, dilation)


class Place(NamedTuple):
    """Where one layer stands.

    Args:
        stage: Index of its stage; -1 for the stem, the number of stages for the head.
        layer: Index in the stage.
        in_channels: Channels of its input.
        channels: Channels of its output.
        stride: Its stride.
        dilation: Dilation of its k x k convolutions.
        size: Height and width of its input.
        reached: Pixels of the image per position of its output, along one side.
        tokens: Its candidates; one in a network.
    """

    stage: int
    layer: int
    in_channels: int
    channels: int
    stride: int
    dilation: int
    size: Size
    reached: int
    tokens: tuple[str, ...]

    @property
    def out_size(self) -> Size:
        """Height and width of its output."""
        return shrink(self.size, self.stride)

    def convs(self, token: str) -> tuple[Conv, ...]:
        """Lists the convolutions of a candidate; a skip has none.

        Raises:
            ValueError: The token is unknown.
        """
        if token == SKIP:
            return ()
        if token in STEM_TOKENS:
            return (STEM_TOKENS[token].conv(self.channels),)
        if token == HEAD:
            return (head_conv(self.in_channels, self.channels),)
        return layer_convs(_layer(token), self.in_channels, self.channels, self.stride, self.dilation)

    def outputs(self, token: str) -> Iterator[tuple[Conv, int]]:
        """Yields the convolutions of a candidate, each with the number of positions that it puts out."""
        size = self.size
        for conv in self.convs(token):
            size = shrink(self.size if conv.beside else size, conv.stride)
            yield conv, 1 if conv.pooled else prod(size)


class Places(NamedTuple):
    """All places of a network or space.

    Args:
        stem: The stem's.
        stages: Per stage its layers'.
        head: The head's, ``None`` without one.
    """

    stem: Place
    stages: tuple[tuple[Place, ...], ...]
    head: Place | None

    @property
    def layers(self) -> tuple[Place, ...]:
        """Those of all layers in a row."""
        return tuple(place for stage in self.stages for place in stage)


def places(spec: ArchSpec | SearchSpace, size: Size = (1, 1), output_stride: int = 32) -> Places:
    """Walks a network or space once, from the image to the head.

    Args:
        spec: The network or space.
        size: Height and width of the input image in pixels; needed only where sizes are read.
        output_stride: 8, 16 or 32. A stage that would exceed it keeps its input's resolution, and its k x k
            convolutions and those after it are dilated instead.

    Raises:
        ValueError: The size or output stride is out of range.
    """
    stages: tuple[StageSpec | SpaceStage, ...] = spec.stages
    steps = _steps(spec.stem, stages, size, output_stride)
    rows = tuple(
        _row(step, stage.in_channels, stage.channels, stage.layers) for stage, step in zip(stages, steps, strict=True)
    )
    last, wide = rows[-1][-1], spec.head_channels
    head = (
        None if wide is None else Place(len(rows), 0, last.channels, wide, 1, 1, last.out_size, last.reached, (HEAD,))
    )
    return Places(_stem(spec.stem, spec.stem_channels, size), rows, head)


def pyramid(spec: ArchSpec | SearchSpace) -> tuple[int, ...]:
    """The last stage of each stride from 4 on, which detectors and segmentors read: 1, 2, 4, 6 of MobileNetV2."""
    last = {stage[-1].reached: index for index, stage in enumerate(places(spec).stages)}
    return tuple(index for reached, index in last.items() if reached >= 4)


def cell_places(
    space: CellSpace, size: Size = (1, 1), output_stride: int = 32
) -> tuple[Place, tuple[dict[tuple[int, int], tuple[Place, ...]], ...]]:
    """Walks a space of cells once.

    Args:
        space: The space.
        size: As in `places`.
        output_stride: As in `places`.

    Returns:
        The stem's place, and per stage, by (entering width, index of the cell), the places of the cell's layers.

    Raises:
        ValueError: As in `places`.
    """
    found = []
    widths: tuple[int, ...] = (space.stem_channels,)
    for stage, step in zip(space.stages, _steps(space.stem, space.stages, size, output_stride), strict=True):
        found.append(
            {
                (width, index): _row(step, width, cell.channels, cell.layers)
                for width in widths
                for index, cell in enumerate(stage.cells)
            }
        )
        widths = stage.widths
    return _stem(space.stem, space.stem_channels, size), tuple(found)


def shrink(size: Size, stride: int) -> Size:
    """Output size of a convolution padded by half its kernel: rounded up."""
    return -(-size[0] // stride), -(-size[1] // stride)


def _steps(stem: str, stages: Sequence[Any], size: Size, output_stride: int) -> Iterator[Place]:
    """Yields where each stage's first layer stands, without channels and tokens."""
    if not isinstance(output_stride, int) or output_stride not in OUTPUT_STRIDES:
        raise ValueError(f'output_stride must be one of {OUTPUT_STRIDES}, got {output_stride!r}')
    before = _stem(stem, 0, size)
    dilation = 1
    for number, stage in enumerate(stages):
        stride = stage.stride if before.reached * stage.stride <= output_stride else 1
        # what the output stride takes from the strides widens all k x k kernels from there on
        dilation *= stage.stride // stride
        before = Place(number, 0, 0, 0, stride, dilation, before.out_size, before.reached * stride, ())
        yield before


def _row(first: Place, in_channels: int, channels: int, layers: Iterable[str | tuple[str, ...]]) -> tuple[Place, ...]:
    """The places of a stage's layers: the first changes channels and stride, the others keep both."""
    rest = first._replace(in_channels=channels, channels=channels, stride=1, size=first.out_size)
    first = first._replace(in_channels=in_channels, channels=channels)
    return tuple(
        (rest if number else first)._replace(layer=number, tokens=(choices,) if isinstance(choices, str) else choices)
        for number, choices in enumerate(layers)
    )


def _stem(name: str, channels: int, size: Size) -> Place:
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError(f'size must be a pair of positive integers (height, width), got {size!r}')
    stem = STEMS[name]
    return Place(-1, 0, IMAGE_CHANNELS, channels, stem.stride, 1, (size[0], size[1]), stem.stride, (stem.token,))


@lru_cache(maxsize=1 << 14)
def _layer(token: str) -> BlockSpec:
    return BlockSpec.parse(token)
