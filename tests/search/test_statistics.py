"""Student's t and paired differences against printed tables and textbook examples."""

import pytest

from mmnas_ext.search.statistics import Paired, deviation, paired, t_probability, t_quantile

# printed tables of the two-sided t, 95 % and 99 %
PRINTED = [
    (1, 12.706, 63.657), (2, 4.303, 9.925), (3, 3.182, 5.841), (4, 2.776, 4.604), (5, 2.571, 4.032), (9, 2.262, 3.250),
    (10, 2.228, 3.169), (30, 2.042, 2.750), (120, 1.980, 2.617),
]  # fmt: skip


@pytest.mark.parametrize(('freedom', 'at_95', 'at_99'), PRINTED)
def test_quantiles_are_those_of_a_printed_table(freedom: int, at_95: float, at_99: float) -> None:
    assert t_quantile(freedom) == pytest.approx(at_95, abs=6e-4)
    assert t_quantile(freedom, 0.99) == pytest.approx(at_99, abs=6e-4)


def test_student_s_own_example() -> None:
    """Hours of sleep gained, Student (Biometrika 1908): a mean of 1.58, t = 4.06, and 0.70 to 2.46."""
    found = paired([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert (found.n, round(found.mean, 2), round(found.low, 2), round(found.high, 2)) == (10, 1.58, 0.70, 2.46)


def test_a_single_pair_has_no_interval() -> None:
    assert paired([0.5]) == Paired(1, 0.5, None, None)
    assert deviation([0.5]) is None
    assert deviation([1.0, 3.0]) == pytest.approx(2**0.5)


def test_a_wider_interval_is_surer() -> None:
    """Two differences, 1 and 3: mean 2, standard error 1, so the half widths are the quantiles themselves."""
    narrow, wide = paired([1.0, 3.0], 0.95), paired([1.0, 3.0], 0.99)
    assert narrow.high - narrow.mean == pytest.approx(12.706, abs=6e-4)
    assert wide.mean - wide.low == pytest.approx(63.657, abs=6e-4)


def test_equal_differences_have_an_interval_of_no_width() -> None:
    assert paired([2.0, 2.0, 2.0]) == Paired(3, 2.0, 2.0, 2.0)


@pytest.mark.parametrize('freedom', [0, -1, 2.0, True])
def test_degrees_of_freedom_are_positive_integers(freedom: object) -> None:
    with pytest.raises(ValueError, match='freedom must be a positive integer, got'):
        t_quantile(freedom)


@pytest.mark.parametrize('level', [0, 1, 95])
def test_a_level_is_a_probability(level: float) -> None:
    with pytest.raises(ValueError, match=r'level must be in \(0, 1\), got'):
        t_quantile(2, level)


def test_no_pairs() -> None:
    with pytest.raises(ValueError, match='differences must hold at least one pair, got none'):
        paired([])


@pytest.mark.parametrize(('value', 'freedom', 'wanted'), [
    (0.0, 3, 0.5), (1.0, 1, 0.75), (-1.0, 1, 0.25), (2.015, 5, 0.95), (-2.776, 4, 0.025), (1e6, 2, 1.0),
])  # fmt: skip
def test_probabilities_are_those_of_tables(value, freedom, wanted):
    assert t_probability(value, freedom) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize('freedom', [1, 2, 5, 30])
def test_a_probability_is_that_of_its_quantile(freedom):
    assert t_probability(t_quantile(freedom, 0.9), freedom) == pytest.approx(0.95)
