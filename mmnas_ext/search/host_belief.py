"""What is believed of a detector's host choices, after some detectors with them have been validated.

Losses cannot compare them: at another image size a detector has other anchors, of which other shares are positive, and
its loss is another function. What the validation counts, such as mAP, means the same at every size, on the same images.
So some detectors, each with a backbone that is good for its limit, are validated on parts of the held-out images; what
is hard about a part is common to all and cancels.

The model: the validated figure is a sum over the options of a choice, plus what the backbone's expected loss is worth,
plus a remainder of the detector's own, plus noise per part. So the options are blocks of the same front as the
backbone's layers: `worth` turns these losses into the figure's unit, and costs of both add up. Normal priors with
variances estimated from the figures themselves shrink everything towards zero (see `mmnas_ext.search.belief`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmnas_ext.archs import HostChoice, HostChoices
from mmnas_ext.archs.host_choices import show_option
from mmnas_ext.search.decision import LayerChoice, normal

_SCALES = tuple(10.0 ** (power / 3) for power in range(-9, 7))  # of the figures' own variance
_FREE = 1e4  # prior variance of what all have in common, of the figures' own


@dataclass(frozen=True)
class Validated:
    """A detector that was validated.

    Args:
        choice: Its host.
        loss: Expected loss of its backbone less that of the reference, by the belief of the layers' losses.
        figures: What the validation counts on each part of the images; higher is better.
    """

    choice: HostChoice
    loss: float
    figures: tuple[float, ...]


class HostBelief:
    """The posterior of every option's effect, of a loss's worth and of each validated detector.

    Args:
        choices: What is chosen among.
        validated: The detectors; the first one is the reference. All have figures of the same parts, two or more.

    Attributes:
        noise: Variance of a figure that its detector and its part do not explain.
        scale: Prior variance of an option's effect.
        remainder: Variance of what the sum of effects leaves unexplained of a detector.

    Raises:
        ValueError: There are fewer than two detectors or parts, or their numbers of parts differ.
    """

    def __init__(self, choices: HostChoices, validated: Sequence[Validated]) -> None:
        parts = {len(each.figures) for each in validated}
        if len(validated) < 2 or len(parts) > 1 or min(parts) < 2:
            raise ValueError(
                f'two detectors or more must be validated on the same parts, two or more, got {len(validated)} on '
                f'{sorted(parts)}'
            )
        self.choices, self.validated = choices, tuple(validated)
        self.names = [(name, option) for name in choices.offered() for option in choices.options[name]]
        figures = np.array([each.figures for each in validated], np.float64)
        self._means = figures.mean(1)
        rest = figures - self._means[:, None] - figures.mean(0) + figures.mean()
        degrees = (len(figures) - 1) * (figures.shape[1] - 1)
        self.noise = max(float((rest**2).sum() / degrees), 1e-12)
        self._error = self.noise / figures.shape[1]
        self._losses = np.array([each.loss for each in validated])
        self._unit = max(float(np.ptp(self._losses)), 1e-12)  # losses are counted in their spread
        rows = [self._row(each.choice, each.loss) for each in validated]
        self._design = np.hstack([np.array(rows), np.eye(len(rows))])
        self.scale, self.remainder = self._fit()

    def _row(self, choice: HostChoice, loss: float) -> np.ndarray:
        """What a detector's figure is the sum of, but for its own remainder."""
        known = [float(getattr(choice, name) == option) for name, option in self.names]
        return np.array([1.0, loss / self._unit, *known])

    def _prior(self, scale: float, remainder: float) -> np.ndarray:
        size = self._design.shape[1] - len(self.validated)
        variances = np.full(self._design.shape[1], remainder)
        variances[:size] = scale
        variances[0] = _FREE * max(float(self._means.var()), self._error)
        return np.diag(variances)

    def _fit(self) -> tuple[float, float]:
        """The variances under which the figures are most probable."""
        best = (-math.inf, 0.0, 0.0)
        unit = max(float(self._means.var()), self._error, 1e-12)
        for scale in (unit * factor for factor in _SCALES):
            for remainder in (scale * share for share in (0.0, 0.03, 0.1, 0.3, 1.0)):
                covariance = self._covariance(scale, remainder)
                _, logarithm = np.linalg.slogdet(covariance)
                evidence = -0.5 * float(logarithm + self._means @ np.linalg.solve(covariance, self._means))
                best = max(best, (evidence, scale, remainder))
        return best[1:]

    def _covariance(self, scale: float, remainder: float) -> np.ndarray:
        design = self._design
        return np.asarray(design @ self._prior(scale, remainder) @ design.T + self._error * np.eye(len(design)))

    @cached_property
    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of all effects and remainders."""
        prior = self._prior(self.scale, self.remainder)
        gain = prior @ self._design.T @ np.linalg.inv(self._covariance(self.scale, self.remainder))
        return gain @ self._means, prior - gain @ self._design @ prior

    @property
    def worth(self) -> float:
        """By how much the figure changes with a unit of loss: at most 0, a higher loss is not worth more."""
        return min(0.0, float(self.posterior[0][1]) / self._unit)

    def predict(self, choice: HostChoice, loss: float) -> float:
        """The expected figure of a detector less that of the reference, whether or not it was validated.

        Args:
            choice: Its host.
            loss: Expected loss of its backbone less that of the reference of the losses.
        """
        reference = self.validated[0]
        row = self._row(choice, 0.0) - self._row(reference.choice, 0.0)
        return float(row @ self.posterior[0][: len(row)]) + self.worth * (loss - reference.loss)

    def compare(self, number: int, other: int = 0) -> tuple[float, float]:
        """Expected figure of one validated detector less that of another, and the difference's standard deviation."""
        mean, covariance = self.posterior
        row = self._design[number] - self._design[other]
        return float(row @ mean), math.sqrt(max(0.0, float(row @ covariance @ row)))

    def explain(self, chosen: HostChoice) -> list[LayerChoice]:
        """Per offered part the chosen option and the best other one; leads and scores in the figure's unit.

        They are effects beside equal backbones: that a larger image leaves less for the backbone is not in them.
        """
        mean, covariance = self.posterior
        found = []
        for name in self.choices.offered():
            places = {option: 2 + self.names.index((name, option)) for option in self.choices.options[name]}
            own = getattr(chosen, name)
            scores = {show_option(option): float(mean[place] - mean[places[own]]) for option, place in places.items()}
            other = max((each for each in places if each != own), key=lambda each: mean[places[each]])
            a, b = places[own], places[other]
            error = math.sqrt(max(0.0, float(covariance[a, a] + covariance[b, b] - 2 * covariance[a, b])))
            lead = float(mean[a] - mean[b])
            sure = normal(lead / error) if error else 0.5
            found.append(LayerChoice(name, show_option(own), show_option(other), lead, error, sure, scores))
        return found


def rank(belief: HostBelief, feasible: Sequence[int], certain: float) -> list[int]:
    """Validated detectors by the difference to the reference that they surely exceed, the best first.

    The reference's own difference is 0, so it is kept unless another one beats it by `certain` standard deviations.

    Args:
        belief: The belief.
        feasible: Their numbers: those that meet the limit.
        certain: Standard deviations of caution.
    """

    def bound(number: int) -> float:
        if number == 0:
            return 0.0
        expected, error = belief.compare(number)
        return expected - certain * error

    return sorted(feasible, key=bound, reverse=True)
