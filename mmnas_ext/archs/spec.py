"""What an architecture is: a frozen value that describes a chain of stages of layers.

Nothing here builds, prices or loads anything; `notation.py` reads and writes texts, `cost.py` prices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from mmnas_ext.archs import forms
from mmnas_ext.archs.blocks import ACTIVATIONS, SKIP, BlockSpec
from mmnas_ext.archs.convs import DEFAULT_STEM, STEMS

MAX_STAGES = 64
MAX_LAYERS = 1024
_MAX_CHANNELS = 65536


@dataclass(frozen=True)
class StageSpec:
    """Layers of one width: the first changes channels and stride, the others keep both.

    ``skip`` layers are identities, without weights or cost: they are accepted and dropped, so that equal
    networks are equal values.

    Args:
        in_channels: Channels that enter the stage.
        channels: Channels that leave it.
        layers: Tokens of the layers, first layer first.
        stride: Stride of the first layer, 1 or 2.
    """

    in_channels: int
    channels: int
    layers: tuple[str, ...]
    stride: int

    def __post_init__(self) -> None:
        check_widths(self.in_channels, self.channels, self.stride)
        if not self.layers:
            raise ValueError('a stage needs at least one layer, got none')
        if self.layers[0] == SKIP:
            raise ValueError(
                f'the first layer of a stage cannot be {SKIP!r}: '
                f'it changes channels {self.in_channels} -> {self.channels} or the stride'
            )
        kept = read_tokens([token for token in self.layers if token != SKIP], self.in_channels, self.channels)
        object.__setattr__(self, 'layers', kept)

    @property
    def specs(self) -> tuple[BlockSpec, ...]:
        """The layers' tokens, read."""
        return tuple(BlockSpec.parse(token) for token in self.layers)


@dataclass(frozen=True)
class ArchSpec:
    """A whole backbone: stem, stages, and the 1x1 head that the network would end in, if any.

    Args:
        stages: In order; the channels of each must be the input channels of the next. The stem has as many
            channels as the first stage takes.
        head_channels: Channels of the 1x1 convolution after the last stage, ``None`` for a network without.
        act: Activation of every layer whose token names no other, one of `ACTIVATIONS`.
        bn_eps: Epsilon of every batch norm that the weights were trained with; ``None`` where the
            architecture does not ask for a certain one (then 1e-5 is built).
        stem: What it begins with, one of `STEMS`: ``'conv3'`` is a 3x3 convolution of stride 2, ``'conv7_pool'``
            ResNet's 7x7 convolution of stride 2 and 3x3 max pooling of stride 2.

    Raises:
        ValueError: Channels do not chain, a number is out of range, a token is unknown.
    """

    stages: tuple[StageSpec, ...]
    head_channels: int | None = None
    act: str = 'relu6'
    bn_eps: float | None = None
    stem: str = DEFAULT_STEM

    def __post_init__(self) -> None:
        object.__setattr__(self, 'stages', tuple(self.stages))
        check_chain(self.stages)
        check_network(self.head_channels, self.act, self.bn_eps, self.stem)

    @property
    def stem_channels(self) -> int:
        """Channels of the stem."""
        return self.stages[0].in_channels

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers per stage."""
        return tuple(len(stage.layers) for stage in self.stages)

    def replace(self, **changes: Any) -> 'ArchSpec':
        """A copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def parse(cls, source: Any) -> 'ArchSpec':
        """Reads FNA text, timm block strings, JSON text or dict, a ``.json`` path, or a zoo name.

        Raises:
            ValueError: Says what is wrong and where.
            FileNotFoundError: A ``.json`` path that does not exist.
        """
        return forms.read(cls, source)

    def format(self, notation: str = 'fna') -> str:
        """Writes the architecture as ``'json'``, ``'fna'`` or ``'timm'`` text; `parse` reads each back."""
        return forms.write(self, notation)


def check_chain(stages: Sequence[Any]) -> None:
    """Raises ValueError unless each stage takes the channels that the one before gives, or if there are too many."""
    if not 1 <= len(stages) <= MAX_STAGES:
        raise ValueError(f'an architecture needs 1..{MAX_STAGES} stages, got {len(stages) or "none"}')
    layers = sum(len(stage.layers) for stage in stages)
    if layers > MAX_LAYERS:
        raise ValueError(f'an architecture has at most {MAX_LAYERS} layers, got {layers}')
    for index, (before, after) in enumerate(pairwise(stages), start=1):
        if before.channels != after.in_channels:
            raise ValueError(
                f'stages[{index}] takes {after.in_channels} channels, but stages[{index - 1}] gives {before.channels}'
            )


def read_tokens(tokens: Sequence[str], in_channels: int, channels: int) -> tuple[str, ...]:
    """The canonical tokens of a stage's layers.

    Raises:
        ValueError: A token is unknown, or at these channels its width inside is no whole number.
    """
    found = []
    for token in tokens:
        block = BlockSpec.parse(token)
        block.hidden(in_channels, channels)
        found.append(block.format())
    return tuple(found)


def check_network(head_channels: int | None, act: str, bn_eps: float | None, stem: str) -> None:
    """Raises ValueError unless these fields, which an architecture and a space share, are in range."""
    if head_channels is not None and not _is_whole(head_channels, _MAX_CHANNELS):
        raise ValueError(f'head_channels must be an integer in 1..{_MAX_CHANNELS} or None, got {head_channels!r}')
    if act not in ACTIVATIONS:
        raise ValueError(f'act must be one of {ACTIVATIONS}, got {act!r}')
    if bn_eps is not None and not (isinstance(bn_eps, float) and 0 < bn_eps < 1):
        raise ValueError(f'bn_eps must be a number in (0, 1) or None, got {bn_eps!r}')
    if not isinstance(stem, str) or stem not in STEMS:
        raise ValueError(f'stem must be one of {tuple(STEMS)}, got {stem!r}')


def check_widths(in_channels: int, channels: int, stride: int) -> None:
    """Raises ValueError unless a stage's numbers are in range."""
    for name, value in (('in_channels', in_channels), ('channels', channels)):
        if not _is_whole(value, _MAX_CHANNELS):
            raise ValueError(f'stage {name} must be an integer in 1..{_MAX_CHANNELS}, got {value!r}')
    if not _is_whole(stride, 2):
        raise ValueError(f'stage stride must be 1 or 2, got {stride!r}')


def _is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
