"""How a search chooses its network: ``optim_wrapper.selection`` of a config, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from mmnas_ext.search.decision import KINDS
from mmnas_ext.search.fields import check_count, check_number, check_share
from mmnas_ext.search.measure import Measuring
from mmnas_ext.search.measured import RULES

Plan = TypeVar('Plan', 'FrontPlan', 'AdaptPlan')


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
        for name in ('networks', 'calibration', 'candidates'):
            check_count(f'selection.front.{name}', getattr(self, name), 1)
        check_share('selection.front.least', self.least)
        _check_validation('selection.front', self.images, self.rank_by, self.rule)


@dataclass(frozen=True)
class AdaptPlan:
    """Which networks are adapted briefly before one is chosen, and for how long; ``selection.adapt`` of a config.

    Each is trained as the chosen one will be, for a share of that length and on the half of the images that trained the
    super-network's weights, and is validated on the other half.

    Args:
        networks: How many, beside the reference.
        share: Of the adaptation's length, to whole epochs or iterations.
        repeats: Trainings of those that are left in the end, each with another random seed; the better half of the
            networks goes on from one to the next.
        certain: Standard deviations by which a network must beat the reference, where that meets the limit. One is
            enough here: what is measured is what counts, and an error costs little.
        images: Held-out images that each is validated on; ``None`` takes all.
        rank_by: The validation's metric that decides; by default the usual one of a detector, a segmentor or a
            classifier, else its first.
        rule: Whether a ``'greater'`` or a ``'less'`` one is better.

    Raises:
        ValueError: An argument is out of its range.
    """

    networks: int = 6
    share: float = 0.25
    repeats: int = 3
    certain: float = 1.0
    images: int | None = 1024
    rank_by: str | None = None
    rule: str = 'greater'

    def __post_init__(self) -> None:
        check_count('selection.adapt.networks', self.networks, 1)
        check_count('selection.adapt.repeats', self.repeats, 2)  # one training says nothing of its luck
        check_share('selection.adapt.share', self.share)
        check_number('selection.adapt.certain', self.certain)
        _check_validation('selection.adapt', self.images, self.rank_by, self.rule)


@dataclass(frozen=True)
class Choosing:
    """``selection=dict(type=…, …)``, beside ``cost`` in a search's ``optim_wrapper``.

    Args:
        type: ``'argmax'``: the most probable network under softmax(alpha), within the limit (FNA, ICLR 2020);
            ``'measured'``: that of the lowest loss on held-out images, see `mmnas_ext.search.measure`.
        measuring: Settings of ``'measured'``.
        front: What else is handed over; ``None`` for nothing.
        adapt: What is adapted briefly before ``'measured'`` decides; ``None`` for nothing.

    Raises:
        ValueError: The type is unknown.
    """

    type: str = 'argmax'
    measuring: Measuring = field(default_factory=Measuring)
    front: FrontPlan | None = None
    adapt: AdaptPlan | None = None

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
        kind, front = rest.pop('type'), _read('front', FrontPlan, rest.pop('front', None))
        adapt = _read('adapt', AdaptPlan, rest.pop('adapt', None)) if kind == 'measured' else None
        if kind != 'measured' and rest:
            raise ValueError(f'selection of type {kind!r:.40} takes type and front, got {sorted(map(str, rest))}')
        return cls(kind, Measuring.parse(rest), front, adapt)


def _read(name: str, plan: type[Plan], given: Any) -> Plan | None:
    """Reads a part of a selection: ``None``, a number of networks, or its settings."""
    if given is None:
        return None
    if isinstance(given, int) and not isinstance(given, bool):
        given = {'networks': given}
    known = [entry.name for entry in fields(plan)]
    if not isinstance(given, Mapping) or set(given) - set(known):
        raise ValueError(f'selection.{name} takes a number of networks or dict({", ".join(known)}), got {given!r:.100}')
    return plan(**given)


def _check_validation(where: str, images: Any, rank_by: Any, rule: Any) -> None:
    """Raises ValueError for settings of a validation on held-out images that are out of their range."""
    if images is not None:
        check_count(f'{where}.images', images, 1)
    if rank_by is not None and (not isinstance(rank_by, str) or not rank_by):
        raise ValueError(f'{where}.rank_by must name a metric of the validation, got {rank_by!r}')
    if rule not in RULES:
        raise ValueError(f'{where}.rule must be one of {RULES}, got {rule!r}')
    if rule != RULES[0] and rank_by is None:
        raise ValueError(f'{where}.rule {rule!r} needs {where}.rank_by: of the usual metrics more is better')
