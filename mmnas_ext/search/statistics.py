"""Means, deviations and paired differences of a few values, with Student's intervals. Standard library only."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_HALVINGS = 60  # of an interval of angles: below the last bit


@dataclass(frozen=True)
class Paired:
    """The mean of paired differences.

    Args:
        n: Pairs.
        mean: Of the differences.
        low: Lower end of the interval; ``None`` of a single pair, which says nothing of how pairs differ.
        high: Upper end.
    """

    n: int
    mean: float
    low: float | None
    high: float | None


def deviation(values: Sequence[float]) -> float | None:
    """The sample's standard deviation; ``None`` of a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def paired(differences: Sequence[float], level: float = 0.95) -> Paired:
    """The mean of paired differences and its interval, by Student's t over the pairs.

    Args:
        differences: One per pair, at least one.
        level: Probability of the interval.

    Raises:
        ValueError: There is no difference, or `level` is no probability.
    """
    if not differences:
        raise ValueError('differences must hold at least one pair, got none')
    mean, spread, n = statistics.mean(differences), deviation(differences), len(differences)
    if spread is None:
        return Paired(n, mean, None, None)
    half = t_quantile(n - 1, level) * spread / math.sqrt(n)
    return Paired(n, mean, mean - half, mean + half)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """The value that Student's t exceeds in absolute size with probability ``1 - level``.

    The distribution is a finite sum for whole degrees of freedom (Abramowitz & Stegun, 1964, 26.7.3 and 26.7.4), which
    grows with the angle whose tangent is ``t / sqrt(freedom)``; so halving finds the angle.

    Args:
        freedom: Degrees of freedom.
        level: Two-sided probability.

    Raises:
        ValueError: An argument is out of its range.
    """
    if isinstance(freedom, bool) or not isinstance(freedom, int) or freedom < 1:
        raise ValueError(f'freedom must be a positive integer, got {freedom!r}')
    if not 0 < level < 1:
        raise ValueError(f'level must be in (0, 1), got {level!r}')
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _within(middle, freedom) < level:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def t_probability(value: float, freedom: int) -> float:
    """Probability that Student's t is below a value.

    Args:
        value: The value.
        freedom: Degrees of freedom.
    """
    return 0.5 + math.copysign(_within(math.atan(abs(value) / math.sqrt(freedom)), freedom), value) / 2


def _within(angle: float, freedom: int) -> float:
    """Probability that the absolute value of t is at most ``sqrt(freedom) * tan(angle)``."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = 0.0
    for power in range(odd, freedom - 1, 2):  # cos^0, cos^2, … or cos^1, cos^3, … up to cos^(freedom - 2)
        term = cosine**odd if power == odd else term * cosine**2 * (power - 1) / power
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
