"""The kinds of layers, each described once: its token, its convolutions, and what is added to what.

A token says the kind, then what is free: ``[fused_|basic_|bottleneck_]k<kernel>_e<expansion>[_g<groups>]``, then
``[_se<ratio>|_hse<ratio>]`` and ``[_<activation>]``. Which of the options a kind has is said by its class.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from mmnas_ext.archs.convs import HIDDEN, INNER, INPUT, OUTPUT, SQUEEZED, Conv

SKIP = 'skip'
ACTIVATIONS = ('relu6', 'swish', 'relu', 'hswish')
_MAX_FACTOR = 99
_MAX_GROUPS = 9999
_DIGITS = 6
_DIVISOR = 8
_TOKEN = re.compile(
    r'(?:(fused|basic|bottleneck)_)?k([0-9]{1,2})_e([0-9]{1,2}(?:\.[0-9]{1,6})?)(?:_g([0-9]{1,4}))?'
    rf'(?:_(h?)se(0?\.[0-9]{{1,6}}|1(?:\.0)?))?(?:_({"|".join(ACTIVATIONS)}))?'
)
_FORM = '[fused_|basic_|bottleneck_]k<kernel>_e<expansion>[_g<groups>][_se<ratio>|_hse<ratio>][_<activation>]'


@dataclass(frozen=True)
class BlockSpec(ABC):
    """One layer's free choices, of any kind; its subclasses are the kinds.

    Args:
        kernel: Side of the square kernel of its k x k convolutions, odd.
        expansion: Width inside over the width that the kind counts from.
        se: Ratio of the squeeze-excite width; 0 means no squeeze-excite.
        hard: Whether squeeze-excite is MobileNetV3's: its width counts from the *hidden* channels and is rounded to a
            multiple of 8, a ReLU is inside, and the gate is a hard sigmoid. Else its width counts from the layer's
            *input* (as in EfficientNet), the layer's activation is inside, and the gate is a sigmoid.
        groups: Groups of the k x k convolution.
        act: Activation, one of `ACTIVATIONS`; ``None`` takes the network's.

    Raises:
        ValueError: A value is out of its range, or the kind does not have that option.
    """

    kernel: int
    expansion: int | float
    se: float = 0.0
    hard: bool = False
    groups: int = 1
    act: str | None = None

    prefix: ClassVar[str] = ''
    """What its tokens begin with."""
    title: ClassVar[str] = ''
    """What it is called."""
    ends_active: ClassVar[bool] = False
    """Whether the activation follows the sum at the end."""
    folds: ClassVar[bool] = False
    """Whether a linear map of its input can become a part of its expansion, where it has one and adds no input."""
    takes_se: ClassVar[bool] = False
    takes_groups: ClassVar[bool] = False
    least: ClassVar[int] = 1
    """What an expansion must at least be; 0 stands for anything above it."""

    def __post_init__(self) -> None:
        if not _is_whole(self.kernel, _MAX_FACTOR) or self.kernel % 2 == 0:
            raise ValueError(f'layer kernel must be odd and in 1..{_MAX_FACTOR}, got {self.kernel!r}')
        self._check_expansion()
        if isinstance(self.se, bool) or not isinstance(self.se, (int, float)) or not 0 <= self.se <= 1:
            raise ValueError(f'layer se ratio must be a number in [0, 1], got {self.se!r}')
        if round(self.se, _DIGITS) != self.se:
            raise ValueError(f'layer se ratio must have at most {_DIGITS} decimals, got {self.se!r}')
        if not _is_whole(self.groups, _MAX_GROUPS):
            raise ValueError(f'layer groups must be an integer in 1..{_MAX_GROUPS}, got {self.groups!r}')
        if self.act is not None and self.act not in ACTIVATIONS:
            raise ValueError(f'layer act must be one of {ACTIVATIONS} or None, got {self.act!r}')
        if self.se and not self.takes_se:
            raise ValueError(f'{self.title}s have no squeeze-excite, got {self.format()}')
        if self.hard and not self.se:
            raise ValueError('layer hard must be False without squeeze-excite, got True')
        if self.groups > 1 and not self.takes_groups:
            raise ValueError(f'{self.title}s have no groups, got {self.format()}')

    def _check_expansion(self) -> None:
        value = self.expansion
        decimal = isinstance(value, float) and not value.is_integer() and round(value, _DIGITS) == value
        if not decimal and not _is_whole(value, _MAX_FACTOR):
            raise ValueError(
                f'layer expansion must be an integer in 1..{_MAX_FACTOR} or a decimal number, got {value!r}'
            )
        if not self.least <= value <= _MAX_FACTOR:
            raise ValueError(f'expansion of {self.title}s must lie in {self.least}..{_MAX_FACTOR}, got {value!r}')

    @staticmethod
    def parse(token: str) -> 'BlockSpec':
        """Reads a token of any kind.

        Raises:
            ValueError: The token is not of that form (``skip`` is not a layer), or has what its kind does not have.
        """
        match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if match is None:
            shown = repr(token)[:60]
            raise ValueError(f'unknown layer token {shown}: expected {_FORM} or {SKIP!r}')
        kind, kernel, expansion, groups, hard, se, act = match.groups()
        factor = float(expansion)
        ratio = float(se or 0)
        return KINDS[kind or ''](
            int(kernel), int(factor) if factor.is_integer() else factor, ratio, bool(hard and ratio),
            int(groups or 1), act,
        )  # fmt: skip

    def format(self) -> str:
        """The canonical token, e.g. ``k5_e3_se0.25``."""
        parts = [f'{self.prefix}k{self.kernel}', f'e{decimals(self.expansion)}']
        parts += [f'g{self.groups}'] if self.groups > 1 else []
        parts += [f'{"h" if self.hard else ""}se{decimals(self.se)}'] if self.se else []
        return '_'.join(parts + ([self.act] if self.act else []))

    @property
    def look(self) -> tuple[float, float, str, bool, int, str]:
        """All but the kernel, the widest the largest: what tells candidates of one kernel apart."""
        return self.expansion, self.se, self.prefix, self.hard, self.groups, self.act or ''

    @property
    def expands(self) -> bool:
        """Whether it begins with a 1x1 convolution named ``expand``, which another part of a model may read."""
        return False

    @abstractmethod
    def hidden(self, in_channels: int, channels: int = 0) -> int:
        """Channels inside.

        Args:
            in_channels: Channels of the layer's input.
            channels: Channels of its output; only where the kind counts from them.

        Raises:
            ValueError: There is no such width.
        """

    def squeezed(self, in_channels: int) -> int:
        """Channels of the squeeze-excite bottleneck; 0 without one."""
        if not self.se:
            return 0
        if self.hard:
            return divisible(round(self.se * self.hidden(in_channels), _DIGITS))
        return max(1, round(in_channels * self.se))

    def adds(self, in_channels: int, channels: int, stride: int) -> bool:
        """Whether the input, or what a shortcut makes of it, is added to the last convolution's output."""
        return stride == 1 and in_channels == channels

    @abstractmethod
    def convs(self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> tuple[Conv, ...]:
        """Lists the convolutions in the order in which they run; a shortcut, which runs beside them, is the last.

        Args:
            in_channels: Channels of the layer's input.
            channels: Channels of its output.
            stride: Its stride.
            dilation: Dilation of its k x k convolutions.

        Raises:
            ValueError: There is no such width inside.
        """

    def _gate(self, in_channels: int) -> list[Conv]:
        """The convolutions of squeeze-excite, if there are any."""
        hidden, squeezed = self.hidden(in_channels), self.squeezed(in_channels)
        if not squeezed:
            return []
        return [
            Conv('se.reduce', 1, hidden, squeezed, HIDDEN, SQUEEZED, norm=False, pooled=True),
            Conv('se.expand', 1, squeezed, hidden, SQUEEZED, HIDDEN, norm=False, act=False, pooled=True),
        ]

    def _shortcut(self, in_channels: int, channels: int, stride: int) -> list[Conv]:
        """The 1x1 convolution that brings the input to the output's shape, where it has another."""
        if stride == 1 and in_channels == channels:
            return []
        return [Conv('shortcut', 1, in_channels, channels, INPUT, OUTPUT, stride=stride, act=False, beside=True)]


class LayerSpec(BlockSpec):
    """MobileNetV2's inverted residual: 1x1 expansion, depthwise k x k, 1x1 projection (arXiv 1801.04381).

    ``k5_e3_se0.25`` is kernel 5, expansion 3, squeeze-excite ratio 0.25. The width inside counts from the layer's
    input; that of a decimal expansion is rounded to a multiple of 8. Expansion 1 means no expansion convolution.
    """

    title = 'MBConv layer'
    folds = True
    takes_se = True

    @property
    def expands(self) -> bool:
        """Whether it has an expansion convolution."""
        return self.expansion != 1

    def hidden(self, in_channels: int, channels: int = 0) -> int:
        """Channels of the depthwise part."""
        return _widened(in_channels, self.expansion)

    def convs(self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> tuple[Conv, ...]:
        """Lists ``expand``, ``depthwise``, ``se.reduce``, ``se.expand`` and ``project``, those that there are."""
        hidden = self.hidden(in_channels)
        convs = [Conv('expand', 1, in_channels, hidden, INPUT, HIDDEN)] if self.expands else []
        convs.append(Conv('depthwise', self.kernel, hidden, hidden, HIDDEN, HIDDEN, hidden, stride, dilation))
        return (*convs, *self._gate(in_channels), Conv('project', 1, hidden, channels, HIDDEN, OUTPUT, act=False))


class FusedSpec(BlockSpec):
    """EfficientNetV2's fused MBConv: k x k expansion, 1x1 projection (arXiv 2104.00298).

    ``fused_k3_e4`` has four times the input's channels inside, rounded as in `LayerSpec`. Of expansion 1 it is a single
    k x k convolution with its activation.
    """

    prefix = 'fused_'
    title = 'fused MBConv layer'
    takes_se = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.expansion == 1 and self.se:
            raise ValueError(f'{self.title}s of expansion 1 have no squeeze-excite, got {self.format()}')

    def hidden(self, in_channels: int, channels: int = 0) -> int:
        """Channels between its two convolutions."""
        return _widened(in_channels, self.expansion)

    def convs(self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> tuple[Conv, ...]:
        """Lists ``conv``, ``se.reduce``, ``se.expand`` and ``project``, those that there are."""
        if self.expansion == 1:
            return (Conv('conv', self.kernel, in_channels, channels, INPUT, OUTPUT, 1, stride, dilation),)
        hidden = self.hidden(in_channels)
        return (
            Conv('conv', self.kernel, in_channels, hidden, INPUT, HIDDEN, 1, stride, dilation),
            *self._gate(in_channels),
            Conv('project', 1, hidden, channels, HIDDEN, OUTPUT, act=False),
        )


class BasicSpec(BlockSpec):
    """ResNet's basic block: two k x k convolutions, a shortcut, an activation after the sum (arXiv 1512.03385).

    ``basic_k3_e1`` has as many channels inside as come out.
    """

    prefix = 'basic_'
    title = 'basic block'
    ends_active = True
    least = 0

    def hidden(self, in_channels: int, channels: int = 0) -> int:
        """Channels between its two convolutions."""
        return _exactly(self, channels)

    def adds(self, in_channels: int, channels: int, stride: int) -> bool:
        """Always."""
        return True

    def convs(self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> tuple[Conv, ...]:
        """Lists ``conv``, ``project`` and, where shapes differ, ``shortcut``."""
        hidden = self.hidden(in_channels, channels)
        return (
            Conv('conv', self.kernel, in_channels, hidden, INPUT, HIDDEN, 1, stride, dilation),
            Conv('project', self.kernel, hidden, channels, HIDDEN, OUTPUT, 1, 1, dilation, act=False),
            *self._shortcut(in_channels, channels, stride),
        )


class BottleneckSpec(BlockSpec):
    """ResNet's bottleneck block: 1x1, k x k, 1x1, a shortcut, an activation after the sum (arXiv 1512.03385).

    ``bottleneck_k3_e0.25`` has a quarter of the output's channels inside. ``_g32`` divides the k x k convolution into
    32 groups (arXiv 1611.05431). The stride is that of the k x k convolution, as in torchvision.
    """

    prefix = 'bottleneck_'
    title = 'bottleneck block'
    ends_active = True
    takes_groups = True
    least = 0

    def hidden(self, in_channels: int, channels: int = 0) -> int:
        """Channels that its k x k convolution reads and makes."""
        hidden = _exactly(self, channels)
        if hidden % self.groups:
            raise ValueError(
                f'{self.format()} to {channels} channels has {hidden} inside, which {self.groups} groups do not divide'
            )
        return hidden

    def adds(self, in_channels: int, channels: int, stride: int) -> bool:
        """Always."""
        return True

    def convs(self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> tuple[Conv, ...]:
        """Lists ``enter``, ``conv``, ``project`` and, where shapes differ, ``shortcut``."""
        hidden = self.hidden(in_channels, channels)
        return (
            Conv('enter', 1, in_channels, hidden, INPUT, INNER),
            Conv('conv', self.kernel, hidden, hidden, INNER, HIDDEN, self.groups, stride, dilation),
            Conv('project', 1, hidden, channels, HIDDEN, OUTPUT, act=False),
            *self._shortcut(in_channels, channels, stride),
        )


KINDS: dict[str, type[BlockSpec]] = {
    kind.prefix.rstrip('_'): kind for kind in (LayerSpec, FusedSpec, BasicSpec, BottleneckSpec)
}


def divisible(value: float) -> int:
    """The multiple of 8 that is nearest, or the next one where that is below 90 % (as MobileNetV3 counts channels)."""
    nearest = max(_DIVISOR, int(value + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return nearest if nearest >= 0.9 * value else nearest + _DIVISOR


def decimals(value: float) -> str:
    """A number with at most six decimals and no zeros behind."""
    return f'{value:.{_DIGITS}f}'.rstrip('0').rstrip('.')


def _widened(channels: int, factor: float) -> int:
    """Times a whole factor exactly; times a decimal one as a multiple of 8."""
    return channels * factor if isinstance(factor, int) else divisible(round(channels * factor, _DIGITS))


def _exactly(block: BlockSpec, channels: int) -> int:
    """A block's width inside, counted from its output.

    Raises:
        ValueError: It is no whole number.
    """
    hidden = round(channels * block.expansion, _DIGITS)
    if hidden < 1 or hidden != int(hidden):
        raise ValueError(
            f'{block.format()} to {channels} channels has {decimals(hidden)} inside: expansion times channels must be '
            'a whole number'
        )
    return int(hidden)


def _is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most
