"""The best choice between two bounds, against every choice tried."""

import importlib
import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnas_ext.archs import Choices, Limit, SearchSpace, SpaceStage, prices
from mmnas_ext.search.between import best_between, best_network, meets

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


K3, K5 = 'k3_e3', 'k5_e6'
# several skips in a row, a layer without any between two, and layers that offer what those before do not
SKIPPING = SearchSpace(
    (
        SpaceStage(8, 8, ((K3,), (K3, K5, 'skip'), (K3, K5, 'skip'), (K3, K5, 'skip')), 1),
        SpaceStage(8, 8, ((K3, K5), (K3, 'skip'), (K5,), (K3, 'skip')), 2),
        SpaceStage(8, 8, ((K3,), (K3, 'skip'), (K5, 'skip'), (K3, K5, 'skip')), 1),
    )
)


@pytest.mark.parametrize('bounds', [(None, None), (None, 0.6), (0.4, None), (0.3, 0.7), (0.45, 0.5), (0.499, 0.5)])
def test_the_best_network_is_that_of_all_paths_whose_skips_stand_last(bounds: tuple[float | None, ...]) -> None:
    priced = prices(SKIPPING, (32, 32))
    low, high = priced.range()
    limit = Limit(*(None if share is None else low + share * (high - low) for share in bounds))
    choices = [[range(len(layer)) for layer in stage.layers] for stage in SKIPPING.stages]
    stages = [list(itertools.product(*layers)) for layers in choices]
    for seed in range(8):
        rng = np.random.default_rng(seed)
        ratings = {name: rng.normal(size=len(row)) for name, row in priced.searched().items()}

        def rating(path: Choices, ratings: dict[str, np.ndarray] = ratings) -> float:
            return sum(row[path[int(name[0])][int(name[2])]] for name, row in ratings.items())

        usual = [
            path
            for path in itertools.product(*stages)
            if meets(priced, path, limit) and not any(moves(i, row) for i, row in enumerate(path))
        ]
        found = best_network(SKIPPING, priced, [row.tolist() for row in ratings.values()], limit)
        if not usual:
            assert found is None
            continue
        assert found in usual
        assert rating(found) == pytest.approx(min(map(rating, usual)))


def moves(stage: int, row: tuple[int, ...]) -> bool:
    """Whether a layer of a row could take the place of a skip right before it."""
    layers = SKIPPING.stages[stage].layers
    tokens = [layer[choice] for layer, choice in zip(layers, row, strict=True)]
    searched = [len(layer) > 1 for layer in layers]
    pairs = zip(range(len(tokens)), range(1, len(tokens)), strict=False)
    return any(
        tokens[a] == 'skip' != tokens[b] and searched[a] and searched[b] and tokens[b] in layers[a] for a, b in pairs
    )
