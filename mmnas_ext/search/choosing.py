"""How a search chooses its network: ``optim_wrapper.selection`` of a config, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mmnas_ext.search.decision import KINDS
from mmnas_ext.search.fields import check_count
from mmnas_ext.search.measure import Measuring
from mmnas_ext.search.measured import RULES


@dataclass(frozen=True)
class FrontPlan:
    """Which networks a search hands over beside the chosen one, and how they are measured.

    Args:
        networks: How many, the chosen one among them.
        least: Cost of the cheapest, as a share of that of the most expensive; what the space reaches permitting.
        images: Held-out images that each is validated on; ``None`` takes all.
        calibration: Batches that batch-norm statistics are measured on.
        candidates: Networks that are compared for each, where losses are measured.
        rank_by: The validation's metric that is shown and ranks; by default the usual one of a detector, a segmentor or
            a classifier, else its first.
        rule: Whether a ``'greater'`` or a ``'less'`` one is better.

    Raises:
        ValueError: An argument is out of its range.
    """

    networks: int = 8
    least: float = 0.4
    images: int | None = 256
    calibration: int = 8
    candidates: int = 4
    rank_by: str | None = None
    rule: str = 'greater'

    def __post_init__(self) -> None:
        for name in ('networks', 'images', 'calibration', 'candidates'):
            value = getattr(self, name)
            if name != 'images' or value is not None:
                check_count(f'selection.front.{name}', value, 1)
        if isinstance(self.least, bool) or not isinstance(self.least, int | float) or not 0 < self.least <= 1:
            raise ValueError(f'selection.front.least must be a share in (0, 1], got {self.least!r}')
        if self.rank_by is not None and (not isinstance(self.rank_by, str) or not self.rank_by):
            raise ValueError(f'selection.front.rank_by must name a metric of the validation, got {self.rank_by!r}')
        if self.rule not in RULES:
            raise ValueError(f'selection.front.rule must be one of {RULES}, got {self.rule!r}')


@dataclass(frozen=True)
class Choosing:
    """``selection=dict(type=…, …)``, beside ``cost`` in a search's ``optim_wrapper``.

    Args:
        type: ``'argmax'``: the most probable network under softmax(alpha), within the limit (FNA, ICLR 2020);
            ``'measured'``: that of the lowest loss on held-out images, see `mmnas_ext.search.measure`.
        measuring: Settings of ``'measured'``.
        front: What else is handed over; ``None`` for nothing.

    Raises:
        ValueError: The type is unknown.
    """

    type: str = 'argmax'
    measuring: Measuring = field(default_factory=Measuring)
    front: FrontPlan | None = None

    def __post_init__(self) -> None:
        if self.type not in KINDS:
            raise ValueError(f'selection.type must be one of {KINDS}, got {self.type!r}')

    @property
    def measures(self) -> bool:
        """Whether networks are measured, which takes minutes."""
        return self.type != 'argmax' or self.front is not None

    @classmethod
    def parse(cls, given: Any) -> 'Choosing':
        """Reads a config's ``selection``: ``None``, a type, a dict of a type and its settings, or a `Choosing`.

        Raises:
            ValueError: It is something else, a key is unknown or a value out of range.
        """
        if given is None:
            return cls()
        if isinstance(given, cls):
            return given
        if isinstance(given, str):
            given = {'type': given}
        if not isinstance(given, Mapping) or 'type' not in given:
            raise ValueError(f"selection must be dict(type='argmax' or 'measured', …), got {given!r:.100}")
        rest = dict(given)
        kind, front = rest.pop('type'), _read_front(rest.pop('front', None))
        if kind != 'measured' and rest:
            raise ValueError(f'selection of type {kind!r:.40} takes type and front, got {sorted(map(str, rest))}')
        return cls(kind, Measuring.parse(rest), front)


def _read_front(given: Any) -> FrontPlan | None:
    if given is None:
        return None
    if isinstance(given, int) and not isinstance(given, bool):
        given = {'networks': given}
    known = [entry.name for entry in fields(FrontPlan)]
    if not isinstance(given, Mapping) or set(given) - set(known):
        raise ValueError(f'selection.front takes a number of networks or dict({", ".join(known)}), got {given!r:.100}')
    return FrontPlan(**given)
