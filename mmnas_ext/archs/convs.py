"""A convolution as a value, and those that every network begins and may end with."""

from math import prod
from typing import NamedTuple

IMAGE_CHANNELS = 3
# what the channels of a convolution are; all that read or write those of a kind must agree on their order
INPUT, INNER, HIDDEN, SQUEEZED, OUTPUT = 'input', 'inner', 'hidden', 'squeezed', 'output'
# tokens of what stands before and after all layers
STEM = 'stem'
HEAD = 'head'


class Conv(NamedTuple):
    """One convolution, padded by half its kernel.

    Args:
        name: Its name in the layer, ``'se.reduce'`` for instance.
        kernel: Side of its square kernel.
        in_channels: Channels of its input.
        channels: Channels of its output.
        reads: What the channels of its input are: `INPUT`, `INNER`, `HIDDEN`, `SQUEEZED` or `OUTPUT`.
        makes: The same of its output.
        groups: Groups of channels that do not see each other.
        stride: Stride.
        dilation: Dilation.
        norm: Whether a norm follows; else it has a bias.
        act: Whether an activation follows.
        pooled: Whether it works on the mean over all positions.
        beside: Whether it reads the layer's input and is added at the end, as a shortcut is.
    """

    name: str
    kernel: int
    in_channels: int
    channels: int
    reads: str
    makes: str
    groups: int = 1
    stride: int = 1
    dilation: int = 1
    norm: bool = True
    act: bool = True
    pooled: bool = False
    beside: bool = False

    @property
    def weight(self) -> tuple[int, int, int, int]:
        """Shape of its weight, ``(O, I, K, K)``."""
        return self.channels, self.in_channels // self.groups, self.kernel, self.kernel

    @property
    def weights(self) -> int:
        """Number of its weights."""
        return prod(self.weight)

    @property
    def params(self) -> int:
        """All that it learns: weights, and a bias or the two numbers per channel of its norm."""
        return self.weights + self.channels * (2 if self.norm else 1)


class Stem(NamedTuple):
    """What a network begins with: a convolution of stride 2, and perhaps a pooling.

    Args:
        token: Its token, under which a latency table has it.
        kernel: Side of the convolution's kernel.
        pooled: Whether the maximum over 3x3 positions, with stride 2, follows.
    """

    token: str
    kernel: int
    pooled: bool

    @property
    def stride(self) -> int:
        """Pixels of the image per position of its output, along one side."""
        return 4 if self.pooled else 2

    def conv(self, channels: int) -> Conv:
        """Its convolution."""
        return Conv(STEM, self.kernel, IMAGE_CHANNELS, channels, INPUT, OUTPUT, stride=2)


DEFAULT_STEM = 'conv3'
STEMS = {
    DEFAULT_STEM: Stem(STEM, 3, pooled=False),
    # of ResNet (arXiv 1512.03385)
    'conv7_pool': Stem('stem_conv7_pool', 7, pooled=True),
}
STEM_TOKENS = {stem.token: stem for stem in STEMS.values()}


def head_conv(in_channels: int, channels: int) -> Conv:
    """The convolution after the last stage."""
    return Conv(HEAD, 1, in_channels, channels, INPUT, OUTPUT)
