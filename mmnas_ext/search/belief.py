"""What is believed of every candidate of a space, after losses of some networks have been measured.

The model: the loss of a network, less that of a reference network on the same images, is a sum over its layers of what
each layer's candidate does, and a remainder of its own. What a candidate does is in part that the layer is there, its
expansion and its kernel, which candidates of one layer share: a `skip` is thus held against the convolutions together,
not against each of them. The other part is the candidate's alone.

Gaussian priors, with variances estimated from the losses themselves (empirical Bayes), shrink every effect towards zero
as far as noise and remainder demand, and say how uncertain it is; so the best of many noisy effects is not believed for
having been lucky.

Additive models of networks in blocks: LANA (arXiv 2107.10624), BINAS (2110.12399). Candidates that share parts: TF-NAS
(2008.05314). Shrinkage and linear models with normal priors: e.g. Gelman et al., Bayesian Data Analysis, chapter 5.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mmnas_ext.archs import SKIP, BlockSpec, Choices, SearchSpace

# of a layer's prior variance: that it is there, its expansion, its kernel
_SHARES = (0.45, 0.35, 0.2)
# shares of that variance that are tried for a candidate's own part, and per layer for what the sum leaves unexplained
_OWNS = (0.0, 0.1, 0.3, 1.0, 3.0)
_REMAINDERS = (0.0, 0.03, 0.1, 0.3, 1.0)
_LARGER = (3.0, 10.0, 30.0)  # of a whole network, not of a layer
# shares of a difference's variance that grow with the layers changed
_SLOPES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
_SCALES = tuple(10.0 ** (power / 3) for power in range(-9, 4))
_FAR = 10.0  # times what most differences keep within
_MOST, _NORMAL = 0.9, 1.645  # how many these are, and how many standard deviations of a normal that is
_ENOUGH = 3  # batches on which one that is far from the others can be told
_NOTHING = 1e-12  # the least variance of a difference


@dataclass(frozen=True)
class Measured:
    """Paired differences of networks from the reference, a row of batches each.

    Args:
        differences: Per path its loss less that of the reference on the same batch, by the batch's position.
    """

    differences: Mapping[Choices, Mapping[int, float]] = field(default_factory=dict)

    def mean(self, path: Choices) -> float:
        """Mean difference of a path."""
        return float(np.mean(list(self.differences[path].values())))

    def count(self, path: Choices) -> int:
        """Batches that a path was measured on."""
        return len(self.differences.get(path, {}))

    def repetitions(self) -> int:
        """Batches beyond the first of each path: so many differences say how large noise is."""
        return sum(max(0, len(row) - 1) for row in self.differences.values())


@dataclass(frozen=True)
class Variance:
    """What a batch's paired difference varies by: `base`, and `slope` for every layer in which networks differ.

    Half of `base` is the network's own and half the reference's, which all differences share; a batch's effect of a
    layer is shared by those that have its candidate, or lack the reference's.
    """

    base: float
    slope: float

    @property
    def single(self) -> float:
        """Standard deviation of one network's own value on a batch, beside what all share."""
        return math.sqrt(0.5 * self.base)

    def covariance(self, design: np.ndarray) -> np.ndarray:
        """Covariance of one batch's differences; `design` has a row of `Belief.row` per network."""
        return 0.5 * self.base * (1 + np.eye(len(design))) + 0.5 * self.slope * design @ design.T


class Belief:
    """The posterior of every candidate's effect.

    Args:
        space: The space.
        reference: The network that all are compared with, such as the seed.
        measured: Differences from it.
        alike: Whether noise is each network's own, and no layer's, as that of trainings. What the sum of effects leaves
            unexplained is each network's own then too, however far it is from the reference: how good a network becomes
            when it is trained is no small thing where one layer is changed.

    Attributes:
        noise: Variance of a single batch's difference.
        scale: Prior variance of a layer's shared effects.
        own: That of a candidate's own part.
        remainder: Variance of what the sum of effects leaves unexplained: per layer changed; if `alike`, of a network.
    """

    def __init__(self, space: SearchSpace, reference: Choices, measured: Measured, alike: bool = False) -> None:
        self.space, self.reference, self.measured = space, reference, measured
        self.layers = [
            (i, j) for i, stage in enumerate(space.stages) for j, row in enumerate(stage.layers) if len(row) > 1
        ]
        self._offsets = np.cumsum([0, *(len(space.stages[i].layers[j]) for i, j in self.layers)])
        self._paths = [path for path, found in measured.differences.items() if found and path != reference]
        self._design = np.array([self.row(path) for path in self._paths]).reshape(len(self._paths), self._offsets[-1])
        self.noise = _pool(measured, self._paths, self._design, (0.0,) if alike else _SLOPES)
        self._values = np.array([measured.mean(path) for path in self._paths])
        self._alike = alike
        self._changed = np.array([self._far(path) for path in self._paths], np.float64)
        counts = np.array([measured.count(path) for path in self._paths], np.float64)
        # all are measured on the first batches: of two means, the one of more batches has those of the other in it
        self._errors = self.noise.covariance(self._design) / np.maximum.outer(counts, counts)
        self.scale, self.own, self.remainder = self._fit()

    def row(self, path: Choices) -> np.ndarray:
        """The entries of a path's layers, less those of the reference: its effect is this row times the effects."""
        row = np.zeros(self._offsets[-1])
        for offset, (i, j) in zip(self._offsets, self.layers, strict=False):
            row[offset + path[i][j]] += 1
            row[offset + self.reference[i][j]] -= 1
        return row

    @cached_property
    def prior(self) -> np.ndarray:
        """Prior covariance of all effects."""
        return self.scale * self._shared + self.own * np.eye(len(self._shared))

    @cached_property
    def _shared(self) -> np.ndarray:
        """Prior covariance of what candidates share, at scale 1, a block a layer."""
        whole = np.zeros((self._offsets[-1],) * 2)
        for offset, (i, j) in zip(self._offsets, self.layers, strict=False):
            block = shared(self.space.stages[i].layers[j])
            whole[offset : offset + len(block), offset : offset + len(block)] = block
        return whole

    @cached_property
    def posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of all effects."""
        prior = self.prior
        if not self._paths:
            return np.zeros(len(prior)), prior
        gain = prior @ self._design.T
        return gain @ self._inverse @ self._values, prior - gain @ self._inverse @ gain.T

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Effects drawn from the posterior."""
        mean, _ = self.posterior
        return mean + self._root @ rng.standard_normal(len(mean))

    @cached_property
    def _root(self) -> np.ndarray:
        """The symmetric square root of the posterior covariance.

        Of all roots it alone does not depend on which eigenvectors a LAPACK returns, and so neither do draws.
        """
        values, vectors = np.linalg.eigh(self.posterior[1])
        return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)

    def cautious(self, deviations: float) -> np.ndarray:
        """Effects against the reference's, each the worse for so many standard deviations; 0 for the reference's own.

        The best network under these keeps the reference's candidate wherever another is not surely better.
        """
        mean, covariance = self.posterior
        found = np.zeros(len(mean))
        for offset, end, (i, j) in zip(self._offsets, self._offsets[1:], self.layers, strict=False):
            own = offset + self.reference[i][j]
            for index in range(offset, end):
                variance = covariance[index, index] + covariance[own, own] - 2 * covariance[index, own]
                found[index] = mean[index] - mean[own] + deviations * math.sqrt(max(0.0, float(variance)))
        return found

    def by_layer(self, effects: np.ndarray) -> list[np.ndarray]:
        """Effects of each searched layer's candidates."""
        return [effects[a:b] for a, b in zip(self._offsets, self._offsets[1:], strict=False)]

    def network(self, path: Choices) -> tuple[float, float]:
        """Posterior mean and standard deviation of a network's difference, what was measured of itself included."""
        row, remainder = self.row(path), self.remainder * self._far(path)
        prior = float(row @ self.prior @ row) + remainder
        if not self._paths:
            return 0.0, math.sqrt(prior)
        cross = self._design @ self.prior @ row
        if path in self._places:
            cross[self._places[path]] += remainder
        gain = cross @ self._inverse
        return float(gain @ self._values), math.sqrt(max(0.0, prior - float(gain @ cross)))

    def compare(self, layer: int, one: int, other: int) -> tuple[float, float]:
        """Posterior mean and standard deviation of one candidate's effect less another's, of a searched layer."""
        mean, covariance = self.posterior
        a, b = self._offsets[layer] + one, self._offsets[layer] + other
        variance = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
        return float(mean[a] - mean[b]), math.sqrt(max(0.0, float(variance)))

    def _far(self, path: Choices) -> int:
        """How often the remainder's variance counts for a network."""
        return 1 if self._alike else distance(path, self.reference)

    @cached_property
    def _places(self) -> dict[Choices, int]:
        return {path: index for index, path in enumerate(self._paths)}

    @cached_property
    def _inverse(self) -> np.ndarray:
        """Inverse covariance of what was measured."""
        return np.linalg.inv(self._covariance(self.scale, self.own, self.remainder))

    def _covariance(self, scale: float, own: float, remainder: float) -> np.ndarray:
        shared_part, own_part = self._parts
        return scale * shared_part + own * own_part + self._errors + np.diag(remainder * self._changed)

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Covariances of the measured networks at scale 1: by what candidates share, and by what is their own."""
        return self._design @ self._shared @ self._design.T, self._design @ self._design.T

    def _fit(self) -> tuple[float, float, float]:
        """The variances under which the measured losses are most probable."""
        if not self._paths:
            return 0.0, 0.0, 0.0
        unit = max(float(np.mean(self._values**2 / np.maximum(1, self._changed))), 1e-12)
        best = (-math.inf, 0.0, 0.0, 0.0)
        for scale in (unit * factor for factor in _SCALES):
            remainders = _REMAINDERS if not self._alike else (*_REMAINDERS, *_LARGER)
            tried = [(scale, scale * own, scale * remainder) for own in _OWNS for remainder in remainders]
            evidence = _evidence(np.array([self._covariance(*variances) for variances in tried]), self._values)
            best = max(best, *((float(found), *each) for found, each in zip(evidence, tried, strict=True)))
        return best[1:]


def shared(tokens: Sequence[str]) -> np.ndarray:
    """Prior covariance ``(candidates, candidates)`` of what a layer's candidates share, at scale 1.

    Layers share that they are there, those of one kernel, or of one kind and expansion, more; a skip stands for itself.
    """
    there, expansion, kernel = _SHARES
    found = np.zeros((len(tokens), len(tokens)))
    for a, one in enumerate(tokens):
        for b, other in enumerate(tokens):
            if SKIP in (one, other):
                found[a, b] = sum(_SHARES) * (one == other)
                continue
            x, y = BlockSpec.parse(one), BlockSpec.parse(other)
            alike = (x.prefix, x.expansion) == (y.prefix, y.expansion)
            found[a, b] = there + expansion * alike + kernel * (x.kernel == y.kernel)
    return found


def distance(path: Choices, other: Choices) -> int:
    """Layers in which two paths differ."""
    return sum(a != b for one, two in zip(path, other, strict=True) for a, b in zip(one, two, strict=True))


def _pool(
    measured: Measured, paths: Sequence[Choices], design: np.ndarray, slopes: Sequence[float] = _SLOPES
) -> Variance:
    """Variance of a batch's difference: of all that are tried the one under which contrasts of batches are most likely.

    What a network differs by on a batch, less its mean over the batches before, is noise alone, whatever the network is
    worth; scaled, such contrasts have the covariance of one batch and are independent of each other: restricted maximum
    likelihood (Patterson and Thompson, Biometrika 58, 1971). So what all differences share with the reference's loss is
    not counted as often as there are networks.
    """
    if not paths:
        return Variance(1.0, 0.0)
    places = sorted({place for path in paths for place in measured.differences[path]})
    rows = [[measured.differences[path].get(place, math.nan) for place in places] for path in paths]
    values = np.array(rows, np.float64)
    known = np.logical_and.accumulate(np.isfinite(values), axis=1)
    contrasts = [
        (on, math.sqrt(number / (number + 1)) * (values[on, number] - values[on, :number].mean(1)))
        for number in range(1, len(places))
        if (on := known[:, number]).any()
    ]
    if not contrasts:
        # a batch each: what they differ by is all that is known of their spread, of which half is the network's own
        first = values[known[:, 0], 0]
        return Variance(max(2 * float(np.var(first)), float(np.mean(first**2)), _NOTHING), 0.0)
    total = sum(len(contrast) for _, contrast in contrasts)
    if sum(float(contrast @ contrast) for _, contrast in contrasts) <= _NOTHING * total:
        return Variance(_NOTHING, 0.0)
    best = (-math.inf, Variance(1.0, 0.0))
    for share in slopes:
        shape = Variance(1 - share, share).covariance(design)
        parts = [(shape[np.ix_(on, on)], contrast) for on, contrast in contrasts]
        squares = sum(float(contrast @ np.linalg.solve(part, contrast)) for part, contrast in parts)
        size = squares / total
        fit = -total * math.log(size) - sum(float(np.linalg.slogdet(part)[1]) for part, _ in parts)
        best = max(best, (fit, Variance((1 - share) * size, share * size)), key=lambda found: found[0])
    return best[1]


def tamed(
    differences: Mapping[Choices, Mapping[int, float]], reference: Choices
) -> tuple[dict[Choices, dict[int, float]], int]:
    """Differences of which none is so far from all others that it alone would decide what is believed of these.

    On a batch, a network that was measured on three or more keeps within ten deviations of its own median: noise is
    pooled over all networks. And none is worse, for each layer in which it differs, by more than ten times what nine in
    ten networks are: how bad one diverging network is must not say how far the others may be believed. An infinite
    difference counts as worse by as much as any other differs.

    Args:
        differences: Per path, by the batch's position; infinite ones too.
        reference: The path that they are differences from.

    Returns:
        The same, drawn in, and how many of them were.
    """
    rows = {path: dict(row) for path, row in differences.items()}
    finite = {path: {place: d for place, d in row.items() if math.isfinite(d)} for path, row in rows.items()}
    changed = {path: max(1, distance(path, reference)) for path in rows}
    middle = {path: float(np.median(list(row.values()))) for path, row in finite.items() if row}
    apart = [
        abs(d - middle[path]) / math.sqrt(changed[path])
        for path, row in finite.items()
        for d in row.values()
        if len(row) >= _ENOUGH
    ]
    spread = float(np.quantile(apart, _MOST)) / _NORMAL if apart else 0.0
    worse = [abs(m) / changed[path] for path, m in middle.items()]
    far = max(float(np.quantile(worse, _MOST)), spread) if worse else 0.0
    for path, row in finite.items():
        reach, top = _FAR * spread * math.sqrt(changed[path]), _FAR * far * changed[path]
        for place, d in row.items():
            near = min(max(d, middle[path] - reach), middle[path] + reach) if reach and len(row) >= _ENOUGH else d
            rows[path][place] = min(near, top) if top else near
    worst = max((abs(rows[path][place]) for path, row in finite.items() for place in row), default=0.0)
    for path, row in rows.items():
        row.update({place: worst for place in row.keys() - finite[path].keys()})
    count = sum(rows[path][place] != d for path, row in finite.items() for place, d in row.items())
    return rows, count


def _evidence(covariances: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Logarithms of normal densities of values with mean zero and each of these covariances, up to a constant."""
    signs, logarithms = np.linalg.slogdet(covariances)
    given = np.broadcast_to(values[:, None], (len(covariances), len(values), 1))
    squares = np.linalg.solve(covariances, given)[..., 0] @ values
    return np.where(signs > 0, -0.5 * (logarithms + squares), -math.inf)
