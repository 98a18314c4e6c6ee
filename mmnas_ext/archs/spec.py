"""What an architecture is: a frozen value that describes a chain of stages of MBConv layers.

Nothing here builds, prices or loads anything; `notation.py` reads and writes texts, `cost.py` prices.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from mmnas_ext.archs import forms

SKIP = 'skip'
ACTIVATIONS = ('relu6', 'swish', 'relu')
MAX_STAGES = 64
MAX_LAYERS = 1024
_MAX_CHANNELS = 65536
_MAX_FACTOR = 99
_SE_DIGITS = 6
_TOKEN = re.compile(r'k([0-9]{1,2})_e([0-9]{1,2})(?:_se(0?\.[0-9]{1,6}|1(?:\.0)?))?')


@dataclass(frozen=True)
class LayerSpec:
    """One MBConv layer's free choices: ``k5_e3_se0.25`` is kernel 5, expansion 3, squeeze-excite ratio 0.25.

    Args:
        kernel: Side of the square depthwise kernel, odd.
        expansion: Width of the depthwise part over the layer's input channels; 1 means no expansion convolution.
        se: Squeeze-excite width over the layer's *input* channels (as in EfficientNet); 0 means none.
    """

    kernel: int
    expansion: int
    se: float = 0.0

    def __post_init__(self) -> None:
        if not _is_whole(self.kernel, _MAX_FACTOR) or self.kernel % 2 == 0:
            raise ValueError(f'layer kernel must be odd and in 1..{_MAX_FACTOR}, got {self.kernel!r}')
        if not _is_whole(self.expansion, _MAX_FACTOR):
            raise ValueError(f'layer expansion must be an integer in 1..{_MAX_FACTOR}, got {self.expansion!r}')
        if isinstance(self.se, bool) or not isinstance(self.se, (int, float)) or not 0 <= self.se <= 1:
            raise ValueError(f'layer se ratio must be a number in [0, 1], got {self.se!r}')
        if round(self.se, _SE_DIGITS) != self.se:
            raise ValueError(f'layer se ratio must have at most {_SE_DIGITS} decimals, got {self.se!r}')

    @classmethod
    def parse(cls, token: str) -> 'LayerSpec':
        """Reads ``k{kernel}_e{expansion}[_se{ratio}]``.

        Raises:
            ValueError: The token is not of that form (``skip`` is not a layer).
        """
        match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if match is None:
            shown = repr(token)[:60]
            raise ValueError(f'unknown layer token {shown}: expected k<kernel>_e<expansion>[_se<ratio>] or {SKIP!r}')
        return cls(int(match[1]), int(match[2]), float(match[3] or 0))

    def format(self) -> str:
        """The canonical token, e.g. ``k5_e3_se0.25``."""
        ratio = f'{self.se:.{_SE_DIGITS}f}'.rstrip('0').rstrip('.')
        return f'k{self.kernel}_e{self.expansion}' + (f'_se{ratio}' if self.se else '')

    def hidden(self, in_channels: int) -> int:
        """Channels of the depthwise part."""
        return in_channels * self.expansion

    def squeezed(self, in_channels: int) -> int:
        """Channels of the squeeze-excite bottleneck; 0 without one."""
        return max(1, round(in_channels * self.se)) if self.se else 0


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
        kept = tuple(LayerSpec.parse(token).format() for token in self.layers if token != SKIP)
        object.__setattr__(self, 'layers', kept)

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        """The layers' tokens, read."""
        return tuple(LayerSpec.parse(token) for token in self.layers)


@dataclass(frozen=True)
class ArchSpec:
    """A whole backbone: 3x3 stride-2 stem, stages, and the 1x1 head that the network would end in, if any.

    Args:
        stages: In order; the channels of each must be the input channels of the next. The stem has as many
            channels as the first stage takes.
        head_channels: Channels of the 1x1 convolution after the last stage, ``None`` for a network without.
        act: Activation of every layer, one of `ACTIVATIONS`.
        bn_eps: Epsilon of every batch norm that the weights were trained with; ``None`` where the
            architecture does not ask for a certain one (then 1e-5 is built).

    Raises:
        ValueError: Channels do not chain, a number is out of range, a token is unknown.
    """

    stages: tuple[StageSpec, ...]
    head_channels: int | None = None
    act: str = 'relu6'
    bn_eps: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'stages', tuple(self.stages))
        check_chain(self.stages)
        check_network(self.head_channels, self.act, self.bn_eps)

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


def check_network(head_channels: int | None, act: str, bn_eps: float | None) -> None:
    """Raises ValueError unless these fields, which an architecture and a space share, are in range."""
    if head_channels is not None and not _is_whole(head_channels, _MAX_CHANNELS):
        raise ValueError(f'head_channels must be an integer in 1..{_MAX_CHANNELS} or None, got {head_channels!r}')
    if act not in ACTIVATIONS:
        raise ValueError(f'act must be one of {ACTIVATIONS}, got {act!r}')
    if bn_eps is not None and not (isinstance(bn_eps, float) and 0 < bn_eps < 1):
        raise ValueError(f'bn_eps must be a number in (0, 1) or None, got {bn_eps!r}')


def check_widths(in_channels: int, channels: int, stride: int) -> None:
    """Raises ValueError unless a stage's numbers are in range."""
    for name, value in (('in_channels', in_channels), ('channels', channels)):
        if not _is_whole(value, _MAX_CHANNELS):
            raise ValueError(f'stage {name} must be an integer in 1..{_MAX_CHANNELS}, got {value!r}')
    if not _is_whole(stride, 2):
        raise ValueError(f'stage stride must be 1 or 2, got {stride!r}')


def _is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
