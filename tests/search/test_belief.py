"""What is believed of candidates: against the textbook's posterior by another road, and how far luck is believed."""

import itertools

import numpy as np
import pytest

from mmnas_ext.archs import SearchSpace, SpaceStage
from mmnas_ext.search.belief import Belief, Measured, Variance, distance, shared, tamed
from mmnas_ext.search.decision import normal

CONVS = ('k3_e3', 'k5_e3', 'k3_e6')
# two searched layers of three and four candidates
SPACE = SearchSpace((SpaceStage(8, 8, (('k3_e1',), CONVS, (*CONVS, 'skip')), 1),))
REFERENCE = ((0, 0, 0),)
SINGLES = [((0, 1, 0),), ((0, 2, 0),), ((0, 0, 1),), ((0, 0, 2),), ((0, 0, 3),)]
PATHS = [((0, a, b),) for a in range(3) for b in range(4) if (a, b) != (0, 0)]


def measured(values, paths, batches=4, noise=0.05, seed=0):
    """Differences of paths, of the sums of their candidates' values, with noise of each network, the reference too."""
    rng = np.random.default_rng(seed)
    less, found = noise * rng.standard_normal(batches), {}
    for path in paths:
        effect = sum(values.get((layer, choice), 0.0) for layer, choice in enumerate(path[0]))
        found[path] = dict(enumerate(effect + noise * rng.standard_normal(batches) - less))
    return Measured(found)


def test_what_candidates_share_by_hand():
    # there 0.45, an expansion 0.35, a kernel 0.2
    rows = [[1, 0.8, 0.65, 0], [0.8, 1, 0.45, 0], [0.65, 0.45, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(shared((*CONVS, 'skip')), rows)


def test_layers_of_another_kind_share_no_expansion():
    rows = [[1, 0.65, 0.45], [0.65, 1, 0.45], [0.45, 0.45, 1]]
    np.testing.assert_allclose(shared(('k3_e4', 'fused_k3_e4', 'basic_k5_e4')), rows)


def test_distance_counts_layers():
    assert [distance(path, REFERENCE) for path in (REFERENCE, SINGLES[0], ((0, 2, 3),))] == [0, 1, 2]


def test_noise_that_networks_share():
    design = np.array([[1, -1, 0, 0], [1, 0, -1, 0], [0, 0, 1, -1]])
    found = Variance(2.0, 0.5).covariance(design)
    # on the diagonal the base and a slope per layer; beside it the reference's half, and half a slope per shared entry
    np.testing.assert_allclose(found, [[2.5, 1.25, 1], [1.25, 2.5, 0.75], [1, 0.75, 2.5]])


def test_the_posterior_is_that_of_a_regression_with_a_normal_prior():
    """By precisions, where the code goes by the covariance of what was measured."""
    belief = Belief(SPACE, REFERENCE, measured({(1, 1): 0.3, (2, 3): -0.4}, PATHS, noise=0.1))
    design = np.zeros((len(PATHS), 7))
    for row, ((_, a, b),) in zip(design, PATHS, strict=True):
        row[a] += 1
        row[0] -= 1
        row[3 + b] += 1
        row[3] -= 1
    block = np.zeros((7, 7))
    block[:3, :3], block[3:, 3:] = shared(CONVS), shared((*CONVS, 'skip'))
    prior = belief.scale * block + belief.own * np.eye(7)
    changed = np.abs(design).sum(1) / 2
    errors = belief.noise.covariance(design) / 4 + np.diag(belief.remainder * changed)
    values = np.array([belief.measured.mean(path) for path in PATHS])
    precision = np.linalg.inv(prior) + design.T @ np.linalg.solve(errors, design)
    mean = np.linalg.solve(precision, design.T @ np.linalg.solve(errors, values))
    np.testing.assert_allclose(belief.posterior[0], mean, atol=1e-6)
    np.testing.assert_allclose(belief.posterior[1], np.linalg.inv(precision), atol=1e-6)
    one, error = belief.compare(1, 3, 0)
    assert one == pytest.approx(mean[6] - mean[3])
    direction = np.array([0, 0, 0, -1, 0, 0, 1])
    assert error == pytest.approx(np.sqrt(direction @ np.linalg.inv(precision) @ direction), rel=1e-4)


def test_a_network_is_believed_by_its_own_measurement_too():
    """The joint normal of a remainder per network, all written out."""
    data = measured({(1, 2): -0.2}, SINGLES, noise=0.02)
    odd = ((0, 2, 1),)
    differences = {**data.differences, odd: dict.fromkeys(range(4), 0.9)}
    belief = Belief(SPACE, REFERENCE, Measured(differences))
    assert belief.remainder > 0
    paths = [*SINGLES, odd]
    design = np.array([belief.row(path) for path in paths])
    own = np.diag([belief.remainder * distance(path, REFERENCE) for path in paths])
    truth = design @ belief.prior @ design.T + own
    seen = truth + belief.noise.covariance(design) / 4
    values = np.array([data.mean(path) if path in data.differences else 0.9 for path in paths])
    wanted = truth @ np.linalg.solve(seen, values)
    left = truth - truth @ np.linalg.solve(seen, truth)
    for index, path in enumerate(paths):
        expected, error = belief.network(path)
        assert expected == pytest.approx(wanted[index], abs=1e-6)
        assert error == pytest.approx(np.sqrt(left[index, index]), abs=1e-6)
    # the same candidates in another network: the sum of their effects alone
    assert belief.network(odd)[0] > belief.row(odd) @ belief.posterior[0]


def test_luck_is_not_believed_and_a_strong_effect_is():
    shown, believed, surest = [], [], []
    for seed in range(20):
        nothing = Belief(SPACE, REFERENCE, measured({}, PATHS, noise=1.0, seed=seed))
        shown.append(min(nothing.measured.mean(path) for path in PATHS))
        believed.append(min(nothing.network(path)[0] for path in PATHS))
        lead, error = nothing.compare(1, 3, 0)
        surest.append(normal(abs(lead) / error))
    assert np.mean(shown) < -0.5
    assert np.mean(believed) > 0.5 * np.mean(shown)
    assert np.median(surest) < 0.7
    strong = Belief(SPACE, REFERENCE, measured({(2, 3): -2.0}, PATHS, noise=0.5))
    lead, error = strong.compare(1, 3, 0)
    assert lead == pytest.approx(-2.0, abs=0.4)
    assert lead + 4 * error < 0
    assert np.argmin(strong.by_layer(strong.posterior[0])[1]) == 3


def test_a_skip_is_held_against_the_convolutions_together():
    """Of a layer's convolutions one is lucky: it is drawn to its siblings, while a skip keeps what it showed."""
    layer = ('k3_e3', 'k5_e3', 'k3_e6', 'k5_e6', 'skip')
    space = SearchSpace((SpaceStage(8, 8, (('k3_e1',), layer), 1),))
    shown = {1: 0.01, 2: -0.01, 3: -0.3, 4: -0.3}
    rows = {((0, choice),): {0: value - 0.2, 1: value + 0.2} for choice, value in shown.items()}
    belief = Belief(space, ((0, 0),), Measured(rows))
    mean = belief.posterior[0]
    conv, skip = mean[3] - mean[0], mean[4] - mean[0]
    assert -0.3 < skip < conv < 0


def test_a_candidate_that_was_never_measured_is_judged_by_its_siblings():
    data = measured({(2, 1): -1.0, (2, 2): -1.0}, SINGLES[2:4], noise=0.05)
    belief = Belief(SPACE, REFERENCE, data)
    lead, error = belief.compare(1, 3, 0)
    sure = belief.compare(1, 1, 0)
    assert sure[0] < -0.8
    assert error > 3 * sure[1]
    assert abs(lead) < abs(sure[0])


def test_nothing_measured_says_nothing():
    belief = Belief(SPACE, REFERENCE, Measured())
    assert belief.network(((0, 2, 3),)) == (0.0, 0.0)
    assert not belief.posterior[0].any()
    assert belief.measured.count(SINGLES[0]) == 0
    assert belief.draw(np.random.default_rng(0)).tolist() == [0.0] * 7


@pytest.mark.filterwarnings('error')
def test_a_single_batch_and_one_network_are_enough():
    one = Belief(SPACE, REFERENCE, Measured({SINGLES[0]: {0: -0.5}}))
    expected, error = one.network(SINGLES[0])
    assert -0.5 <= expected <= 0
    assert np.isfinite(error)
    several = Belief(SPACE, REFERENCE, measured({(1, 1): -3.0}, SINGLES, batches=1))
    assert min(SINGLES, key=lambda path: several.network(path)[0]) == SINGLES[0]
    assert several.noise.slope == 0


@pytest.mark.filterwarnings('error')
def test_losses_without_any_noise_are_believed_to_the_digit():
    values = {(1, 1): 0.25, (1, 2): -0.5, (2, 3): 1.0}
    belief = Belief(SPACE, REFERENCE, measured(values, PATHS, noise=0.0))
    for path in PATHS:
        assert belief.network(path)[0] == pytest.approx(belief.measured.mean(path), abs=1e-3)


def test_more_batches_leave_less_doubt():
    errors = [Belief(SPACE, REFERENCE, measured({}, PATHS, n, 1.0)).network(SINGLES[0])[1] for n in (3, 300)]
    assert errors[1] < errors[0]


def noisy(base, slope, batches, rng):
    """Differences of networks that are worth the same, with the noise that the model knows: own, shared, layers'."""
    shown = {}
    reference, layers = rng.normal(0, np.sqrt(base / 2), batches), rng.normal(0, np.sqrt(slope / 2), (3, 4, batches))
    for path in PATHS:
        own = rng.normal(0, np.sqrt(base / 2), batches)
        pairs = [(j, a, b) for j, (a, b) in enumerate(zip(path[0], REFERENCE[0], strict=True)) if a != b]
        shown[path] = dict(enumerate(own - reference + sum(layers[j, a] - layers[j, b] for j, a, b in pairs)))
    return Measured(shown)


@pytest.mark.parametrize(('base', 'slope'), [(1, 0), (0.5, 0.5), (0.1, 0.9)])
def test_how_noise_grows_with_the_layers_changed_is_found(base, slope):
    found = Belief(SPACE, REFERENCE, noisy(base, slope, 400, np.random.default_rng(1))).noise
    assert (found.base, found.slope) == (pytest.approx(base, abs=0.1), pytest.approx(slope, abs=0.1))


@pytest.mark.parametrize('batches', [2, 3, 6])
def test_noise_that_all_share_is_not_found_to_be_less_for_few_batches(batches):
    """Of what all share with the reference there are as many draws as batches, not as there are networks."""
    found = [Belief(SPACE, REFERENCE, noisy(1, 0, batches, np.random.default_rng(n))).noise for n in range(200)]
    assert np.mean([each.base + each.slope for each in found]) == pytest.approx(1, abs=0.1)
    assert np.quantile([each.base + each.slope for each in found], 0.05) > 0.4


def test_one_batch_has_all_that_networks_differ_by_for_its_noise():
    found = [Belief(SPACE, REFERENCE, noisy(1, 0, 1, np.random.default_rng(n))).noise.base for n in range(200)]
    assert np.mean(found) > 1
    alone = Belief(SPACE, REFERENCE, Measured({SINGLES[0]: {0: -0.5}}))
    assert alone.noise.base == 0.25  # not none, though a single value has no spread
    expected, error = alone.network(SINGLES[0])
    assert expected + 2 * error > 0


def test_networks_of_more_batches_than_others_tell_of_noise_by_all_of_them():
    data = noisy(1, 0, 200, np.random.default_rng(3)).differences
    few = {path: {b: row[b] for b in range(2 if path != SINGLES[0] else 200)} for path, row in data.items()}
    assert Belief(SPACE, REFERENCE, Measured(few)).noise.base == pytest.approx(1, abs=0.2)


def single(number):
    """A path that differs from the reference, all zeros, in one layer."""
    return ((0, 1 + number),)


ALIKE = ((0, 0),)


def test_a_spike_and_one_diverging_network_are_drawn_in():
    rng = np.random.default_rng(0)
    rows = {single(n): dict(enumerate(rng.normal(0, 0.1, 4))) for n in range(40)}
    odd = single(3)
    assert tamed(rows, ALIKE) == (rows, 0)
    found, count = tamed({**rows, odd: {**rows[odd], 1: 20.0}}, ALIKE)
    assert count == 1 and {p: row for p, row in found.items() if p != odd} == {p: rows[p] for p in rows if p != odd}
    assert {place: d for place, d in found[odd].items() if place != 1} == {b: rows[odd][b] for b in (0, 2, 3)}
    assert 0.5 < found[odd][1] < 1.5
    found, count = tamed({**rows, odd: dict.fromkeys(range(4), 1e6)}, ALIKE)
    assert count == 4 and all(0.5 < d < 1.5 for d in found[odd].values())
    # one that is as much better is a finding
    assert tamed({**rows, odd: dict.fromkeys(range(4), -50.0)}, ALIKE)[1] == 0
    found, count = tamed({**rows, odd: {**rows[odd], 1: np.inf}}, ALIKE)
    assert count == 0 and found[odd][1] == max(abs(d) for row in found.values() for d in row.values())


def test_whole_networks_may_differ_by_as_much_more_as_they_change():
    """Eight that a tight limit asks about, beside many replacements of one layer that hardly matter."""
    rng = np.random.default_rng(0)
    reference = ((0,) * 12,)
    rows = {((0,) * 11 + (1 + n,),): dict(enumerate(rng.normal(0, 0.01, 3))) for n in range(150)}
    wholes = {((1 + n,) * 12,): dict(enumerate(0.3 + 0.05 * n + rng.normal(0, 0.03, 3))) for n in range(8)}
    assert tamed({**rows, **wholes}, reference) == ({**rows, **wholes}, 0)


def test_differences_that_are_none_draw_nothing_in():
    """Kernels that are padded with zeros compute the same: half of the candidates may differ by rounding alone."""
    same = {single(n): dict(enumerate([0.0, 1e-9, 0.0])) for n in range(30)}
    rows = {**same, **{single(100 + n): dict(enumerate(row)) for n, row in enumerate(np.full((10, 3), 0.05))}}
    assert tamed(rows, ALIKE) == (rows, 0)
    assert tamed({single(1): {0: 0.5}}, ALIKE) == ({single(1): {0: 0.5}}, 0)
    assert tamed({single(1): {}, single(2): {0: np.inf}}, ALIKE) == ({single(1): {}, single(2): {0: 0.0}}, 0)


def test_caution_adds_deviations_to_all_but_the_reference():
    belief = Belief(SPACE, REFERENCE, measured({(2, 3): -0.5}, PATHS, noise=0.3))
    for deviations in (0.0, 1.5):
        found = belief.by_layer(belief.cautious(deviations))
        assert (found[0][0], found[1][0]) == (0, 0)
        for layer, choice in itertools.chain(((0, c) for c in (1, 2)), ((1, c) for c in (1, 2, 3))):
            lead, error = belief.compare(layer, choice, 0)
            assert found[layer][choice] == pytest.approx(lead + deviations * error)


def test_the_same_losses_are_believed_the_same_and_draws_follow_the_posterior():
    data = measured({(2, 3): -0.5}, PATHS, noise=0.3)
    one, other = (Belief(SPACE, REFERENCE, data) for _ in range(2))
    assert np.array_equal(one.posterior[0], other.posterior[0])
    drawn = np.array([one.draw(np.random.default_rng(seed)) for seed in range(2000)])
    assert np.array_equal(drawn[5], other.draw(np.random.default_rng(5)))
    deviations = np.sqrt(np.diag(one.posterior[1]))
    assert (np.abs(drawn.mean(0) - one.posterior[0]) < 0.1 * deviations).all()
    np.testing.assert_allclose(np.cov(drawn.T), one.posterior[1], atol=0.1 * float(deviations.max()) ** 2)


def test_draws_do_not_depend_on_which_eigenvectors_a_lapack_returns(monkeypatch):
    """Their signs are free, and so are all directions in the space of equal eigenvalues: machines differ in both."""
    belief = Belief(SPACE, REFERENCE, measured({(0, 1): 0.2, (1, 3): -0.1}, PATHS))
    covariance, rng = belief.posterior[1], np.random.default_rng(0)
    values, vectors = np.linalg.eigh(covariance)
    turned = vectors * rng.choice([-1.0, 1.0], len(values))
    drawn = belief.draw(np.random.default_rng(5))
    monkeypatch.setattr(np.linalg, 'eigh', lambda _: (values, turned))
    other = Belief(SPACE, REFERENCE, belief.measured)
    np.testing.assert_allclose(other.draw(np.random.default_rng(5)), drawn, atol=1e-12)
    np.testing.assert_allclose(other._root @ other._root.T, covariance, atol=1e-12)
