"""The best choice between two bounds, against every choice tried."""

import importlib
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnas_ext.search.between import best_between

Blocks = list[list[tuple[int, float]]]
# ratings in eighths: sums are exact in any order
BLOCKS = st.lists(
    st.lists(st.tuples(st.integers(-20, 40), st.integers(0, 30).map(lambda n: n / 8)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)
BOUND = st.none() | st.integers(-60, 120)


def every(blocks: Blocks, least: int | None, most: int | None) -> list[float]:
    """Ratings of all choices within the bounds."""
    found = []
    for entries in itertools.product(*blocks):
        cost = sum(cost for cost, _ in entries)
        if (least is None or cost >= least) and (most is None or cost <= most):
            found.append(sum(rating for _, rating in entries))
    return found


@given(BLOCKS, BOUND, BOUND)
def test_it_is_the_best_of_all_choices_between(blocks: Blocks, least: int | None, most: int | None) -> None:
    fitting = every(blocks, least, most)
    choice = best_between(blocks, least, most)
    if not fitting:
        assert choice is None
        return
    picked = [block[index] for block, index in zip(blocks, choice or (), strict=True)]
    assert sum(rating for _, rating in picked) == min(fitting)
    assert every([[entry] for entry in picked], least, most) == [min(fitting)]


def test_where_both_bounds_bind_the_best_within_either_is_not_it() -> None:
    # the best below is the cheap one, the best above the expensive one: both are outside
    blocks = [[(1, 0.0), (5, 2.0), (9, 0.5)]]
    assert (best_between(blocks, None, 6), best_between(blocks, 4, None)) == ((0,), (2,))
    assert best_between(blocks, 4, 6) == (1,)
    assert best_between(blocks, 6, 8) is None


def test_many_layers_and_a_narrow_window_are_solved() -> None:
    rng = random.Random(0)
    blocks = [[(rng.randrange(10**6), rng.random()) for _ in range(7)] for _ in range(16)]
    middle = sum(sorted(cost for cost, _ in block)[3] for block in blocks)
    choice = best_between(blocks, middle, middle + 2000)
    assert middle <= sum(block[index][0] for block, index in zip(blocks, choice or (), strict=True)) <= middle + 2000


def test_bounds_too_close_together_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    branch = importlib.import_module('mmnas_ext.search.branch')
    assert branch._MAX_CHAINS == 2**18  # six seconds
    monkeypatch.setattr(branch, '_MAX_CHAINS', 2**12)
    rng = random.Random(0)
    blocks = [[(rng.randrange(10**12), 0.0) for _ in range(7)] for _ in range(16)]
    middle = sum(sorted(cost for cost, _ in block)[3] for block in blocks)
    with pytest.raises(ValueError, match='not known after 4096 beginnings'):
        best_between(blocks, middle, middle)
