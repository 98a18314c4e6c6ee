"""What is believed of host choices, against figures that are made up of known effects."""

import numpy as np
import pytest

from mmnas_ext.archs import HostChoice, HostChoices
from mmnas_ext.search.host_belief import HostBelief, Validated, rank

OWN = HostChoice((320, 320), 64, 2)
CHOICES = HostChoices(
    dict(input_size=[(256, 256), (320, 320)], neck_width=[32, 64], stacked_convs=[1, 2]), OWN, {}
)  # fmt: skip
SIZE, WIDTH, CONVS, WORTH = {256: -0.05, 320: 0.0}, {32: 0.03, 64: 0.0}, {1: -0.01, 2: 0.0}, -2.0
PARTS = np.array([0.0, 0.2, -0.1, 0.05])  # what is hard about a part is common to all


def figure(choice, loss):
    """Worked out by hand: the sum that the model is meant to find."""
    return 0.4 + SIZE[choice.input_size[0]] + WIDTH[choice.neck_width] + CONVS[choice.stacked_convs] + WORTH * loss


def measured(noise, seed=0, detectors=None):
    rng = np.random.default_rng(seed)
    rows = detectors or [(OWN, 0.0), *((c, 0.002 * n) for n, c in enumerate(CHOICES.all())), (OWN, 0.04), (OWN, 0.02)]
    return [
        Validated(choice, loss, tuple(figure(choice, loss) + PARTS + noise * rng.standard_normal(4)))
        for choice, loss in rows
    ]


def test_effects_and_the_worth_of_a_loss_are_found():
    belief = HostBelief(CHOICES, measured(0.001))
    assert belief.worth == pytest.approx(WORTH, rel=0.05)
    for choice in CHOICES.all():
        for loss in (0.0, 0.05):  # of detectors that were not validated
            wanted = figure(choice, loss) - figure(OWN, 0.0)
            assert belief.predict(choice, loss) == pytest.approx(wanted, abs=0.006)
    narrow = HostChoice((320, 320), 32, 2)
    number = next(n for n, each in enumerate(belief.validated) if each.choice == narrow)
    expected, error = belief.compare(number)
    assert expected == pytest.approx(figure(narrow, belief.validated[number].loss) - figure(OWN, 0.0), abs=0.003)
    assert 0 < error < 0.003
    rows = {row.layer: row for row in belief.explain(narrow)}
    assert [*rows] == ['input_size', 'neck_width', 'stacked_convs']
    assert (rows['neck_width'].chosen, rows['neck_width'].runner_up) == ('32', '64')
    assert rows['neck_width'].lead == pytest.approx(0.03, abs=0.003)
    assert rows['input_size'].scores['256x256'] == pytest.approx(-0.05, abs=0.003)
    assert rows['neck_width'].certainty > 0.99


def test_noise_shrinks_and_the_reference_is_kept_unless_another_one_is_surely_better():
    sure, unsure = HostBelief(CHOICES, measured(0.001)), HostBelief(CHOICES, measured(0.3, seed=3))
    assert rank(sure, range(11), 2.0)[0] != 0
    best = sure.validated[rank(sure, range(11), 2.0)[0]].choice
    assert best == HostChoice((320, 320), 32, 2)
    assert rank(unsure, range(11), 2.0)[0] == 0
    # without caution, the one that is expected to be best; of those alone that meet the limit
    assert rank(unsure, range(11), 0.0)[0] == max(range(11), key=lambda n: unsure.compare(n)[0] if n else 0.0)
    assert 0 not in rank(sure, [1, 2, 3], 2.0)
    gaps = [abs(unsure.compare(n)[0]) for n in range(1, 11)]
    means = [np.mean(unsure.validated[n].figures) - np.mean(unsure.validated[0].figures) for n in range(1, 11)]
    assert max(gaps) < 0.7 * max(map(abs, means))


def test_a_higher_loss_is_never_worth_more():
    rows = [(OWN, 0.0), *((choice, 0.0) for choice in CHOICES.all()), (OWN, 0.05)]
    given = measured(0.0001, detectors=rows)
    better = Validated(OWN, 0.05, tuple(0.5 + PARTS))
    belief = HostBelief(CHOICES, [*given[:-1], better])
    assert belief.worth == 0
    assert belief.predict(OWN, 0.05) == 0


def test_too_few_detectors_or_parts_are_refused():
    rows = measured(0.01)
    short = Validated(OWN, 0.0, (0.1,))
    for given in (rows[:1], [rows[0], short], [short, short]):
        with pytest.raises(ValueError, match='validated on the same parts, two or more, got'):
            HostBelief(CHOICES, given)
