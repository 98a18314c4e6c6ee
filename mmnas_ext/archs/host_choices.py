"""What may be chosen of a detector beside its backbone: size of its images, width of its neck, depth of its head.

A choice is a value with a text form, ``'288x288-w48-c2'``: images of 288x288 pixels, a neck and a head of 48 channels,
two stacked convolutions in each branch of the head. Width and convolutions are left out where nothing is said of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from mmnas_ext.archs.places import Size

PARTS = ('input_size', 'neck_width', 'stacked_convs')
MOST = 64  # combinations: for each the best backbone is found, and validated
_SMALLEST = 32  # pixels: a position of the coarsest feature
_FORM = re.compile(r'(\d+)x(\d+)(?:-w(\d+))?(?:-c(\d+))?')


class HostChoice(NamedTuple):
    """One choice.

    Args:
        input_size: Height and width of the images in pixels.
        neck_width: Channels of the neck's features and of the head; ``None`` of a host without such a width.
        stacked_convs: Convolutions before the predictions of the head; ``None`` of a host without them.
    """

    input_size: Size
    neck_width: int | None = None
    stacked_convs: int | None = None

    def format(self) -> str:
        """The choice as text; `parse` reads it back."""
        width = '' if self.neck_width is None else f'-w{self.neck_width}'
        convs = '' if self.stacked_convs is None else f'-c{self.stacked_convs}'
        return f'{show_option(self.input_size)}{width}{convs}'

    @classmethod
    def parse(cls, source: Any) -> 'HostChoice':
        """Reads ``'288x288-w48-c2'``; a choice is returned as it is.

        Raises:
            ValueError: It is of another form.
        """
        if isinstance(source, HostChoice):
            return source
        match = _FORM.fullmatch(source) if isinstance(source, str) else None
        if match is None:
            raise ValueError(f"a host choice must be a text like '288x288-w48-c2', got {source!r:.80}")
        height, width, neck, convs = match.groups()
        numbers = [None if each is None else int(each) for each in (neck, convs)]
        return cls((int(height), int(width)), *numbers)


@dataclass(frozen=True)
class HostChoices:
    """All that a search chooses among, ``host_choices=dict(input_size=[…], neck_width=[…], stacked_convs=[…])``.

    Args:
        options: By name in `PARTS` the options of what is offered, at least two of one of them, ascending.
        own: The config's own settings, each among the options of its part.
        costs: Of neck and head, by the text of a choice and the metric; the backbone's are not in them.

    Raises:
        ValueError: A part is unknown or not there in the host, an option is out of its range or twice there, the own
            setting is not among them, there is nothing to choose, or more than `MOST` combinations.
    """

    options: Mapping[str, tuple[Any, ...]]
    own: HostChoice
    costs: Mapping[str, Mapping[str, float]]

    def __post_init__(self) -> None:
        if not isinstance(self.options, Mapping) or set(self.options) - set(PARTS) or not self.options:
            got = sorted(map(str, self.options)) if isinstance(self.options, Mapping) else self.options
            raise ValueError(f'host_choices must be a dict of {", ".join(PARTS)}, got {got!r:.80}')
        kept = {name: _read(name, self.options[name]) for name in PARTS if name in self.options}
        object.__setattr__(self, 'options', kept)
        for name, options in kept.items():
            own = getattr(self.own, name)
            if own not in options:
                raise ValueError(
                    f"host_choices.{name} must have the config's own {show_option(own)} among its options, "
                    f'got {[*map(show_option, options)]}'
                )
        sizes = kept.get('input_size', ())
        if sizes and any(size[axis] > sizes[-1][axis] for size in sizes for axis in (0, 1)):
            raise ValueError(
                'host_choices.input_size must have one that is the largest in both directions: the others are scaled '
                f'from its images, got {[*map(show_option, sizes)]}'
            )
        count = len(self.all())
        if not 2 <= count <= MOST:
            raise ValueError(f'host_choices must offer 2 to {MOST} combinations, got {count}')

    @classmethod
    def parse(cls, given: Any) -> 'HostChoices | None':
        """Reads what the config of a search's optimizer wrapper holds: the options, ``own`` and ``costs``.

        Raises:
            ValueError: As above.
        """
        if given is None or isinstance(given, cls):
            return given
        lacking = [name for name in ('own', 'costs') if name not in given]
        if lacking:
            raise ValueError('host_choices must stand at the top of the config, not in optim_wrapper')
        options = {name: value for name, value in given.items() if name not in ('own', 'costs')}
        return cls(options, HostChoice.parse(given['own']), given['costs'])

    def all(self) -> list[HostChoice]:
        """Every combination, in a fixed order."""
        rows = [self.options.get(name, (getattr(self.own, name),)) for name in PARTS]
        return [HostChoice(*each) for each in product(*rows)]

    @property
    def widest(self) -> HostChoice:
        """The choice that contains all others: the super-network's own."""
        return self.all()[-1]

    def offered(self) -> list[str]:
        """Names of the parts with more than one option."""
        return [name for name, options in self.options.items() if len(options) > 1]

    def cost(self, choice: HostChoice, metric: str) -> float:
        """What neck and head cost in a metric.

        Raises:
            ValueError: It is not known, since a latency table lacks it.
        """
        if metric not in self.costs[choice.format()]:
            raise ValueError(
                f'host_choices: the latency table has no neck and head of {choice.format()}: measure it again, by '
                'mmnas latency with this config'
            )
        return self.costs[choice.format()][metric]

    def check(self, choice: HostChoice) -> HostChoice:
        """Returns a choice that is among these.

        Raises:
            ValueError: It is not; says which part.
        """
        for name in PARTS:
            options = self.options.get(name, (getattr(self.own, name),))
            if getattr(choice, name) not in options:
                raise ValueError(f'host_choice {choice.format()}: {name} must be one of {[*map(show_option, options)]}')
        return choice


def show_option(value: Any) -> str:
    """An option as text: ``'288x288'`` of a size, else the number."""
    return 'x'.join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _read(name: str, given: Any) -> tuple[Any, ...]:
    """Options of a part, ascending: sizes by their area."""
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f'host_choices.{name} must be a list of options, got {given!r:.60}')
    found = [_size(each) if name == 'input_size' else _count(name, each) for each in given]
    if len(set(found)) < len(found):
        raise ValueError(f'host_choices.{name} must list each option once, got {[*map(show_option, found)]}')
    return tuple(sorted(found, key=lambda each: each[0] * each[1] if isinstance(each, tuple) else each))


def _size(given: Any) -> Size:
    pair = given if isinstance(given, list | tuple) and len(given) == 2 else ()
    if not pair or not all(type(side) is int and side >= _SMALLEST for side in pair):
        raise ValueError(
            f'host_choices.input_size must list (height, width) of at least {_SMALLEST} pixels, got {given!r:.60}'
        )
    return pair[0], pair[1]


def _count(name: str, given: Any) -> int:
    if type(given) is not int or given < 1:
        raise ValueError(f'host_choices.{name} must list positive integers, got {given!r:.60}')
    return int(given)
