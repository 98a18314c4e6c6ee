"""The best choice between two bounds, against every choice tried."""

import importlib
import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnas_ext.archs import Choices, Limit, SearchSpace, SpaceStage, prices
from mmnas_ext.engine.limits import check_limit
from mmnas_ext.search.between import best_between, best_network, best_path, meets

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


@pytest.mark.parametrize('ask', ['check_limit', 'best_path', 'best_network'])
def test_bounds_too_close_together_are_named_as_they_were_given(ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside, costs are of the searched layers alone, which no user has seen."""

    def lowest(*args: object) -> None:
        raise ValueError('not known after many beginnings')

    space = SearchSpace(tuple(SpaceStage(8, 8, STAGES[number], 1) for number in (0, 2)))
    priced = prices(space, (32, 32))
    low, high = priced.range()
    limit = Limit(low + 0.499 * (high - low), low + 0.5 * (high - low))
    ratings = [np.random.default_rng(3).normal(size=len(row)) for row in priced.searched().values()]
    monkeypatch.setattr('mmnas_ext.search.between.lowest', lowest)
    monkeypatch.setattr('mmnas_ext.search.between._up_to', lambda points, most: (0,) * len(ratings))
    asks = {
        'check_limit': lambda: check_limit(priced, limit, (32, 32)),
        'best_path': lambda: best_path(priced, ratings, limit),
        'best_network': lambda: best_network(space, priced, ratings, limit),
    }
    figures = [f'{bound / 1e9:.4g} G multiply-adds' for bound in limit]
    with pytest.raises(ValueError, match=f'at least {figures[0]} and at most {figures[1]}: the bounds are too close'):
        asks[ask]()


K3, K5 = 'k3_e3', 'k5_e6'
# several skips in a row; a layer without any between two; one without any behind them; layers that offer other kernels
STAGES = [
    ((K3,), (K3, K5, 'skip'), (K3, K5, 'skip'), (K3, K5, 'skip')),
    ((K3, K5), (K3, 'skip'), (K5,), (K3, 'skip')),
    ((K3,), (K3, K5, 'skip'), (K3, K5)),
    ((K3,), (K3, 'skip'), (K5, 'skip'), (K3, K5, 'skip')),
]


@pytest.mark.parametrize('bounds', [(None, None), (None, 0.6), (0.4, None), (0.3, 0.7), (0.45, 0.5), (0.499, 0.5)])
@pytest.mark.parametrize('stages', [*itertools.combinations(range(4), 2), (3,), (2,)])
def test_the_best_network_is_that_of_all_paths_whose_layers_stand_first(
    stages: tuple[int, ...], bounds: tuple[float | None, ...]
) -> None:
    space = SearchSpace(tuple(SpaceStage(8, 8, STAGES[number], 1) for number in stages))
    priced = prices(space, (32, 32))
    low, high = priced.range()
    limit = Limit(*(None if share is None else low + share * (high - low) for share in bounds))
    rows = [list(itertools.product(*(range(len(layer)) for layer in stage.layers))) for stage in space.stages]
    usual = {space.path(space.arch(path)) for path in itertools.product(*rows)}
    inside = [path for path in usual if meets(priced, path, limit)]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        ratings = {name: rng.normal(size=len(row)) for name, row in priced.searched().items()}

        def rating(path: Choices, ratings: dict[str, np.ndarray] = ratings) -> float:
            return sum(row[path[int(name[0])][int(name[2])]] for name, row in ratings.items())

        found = best_network(space, priced, [row.tolist() for row in ratings.values()], limit)
        if not inside:
            assert found is None
            continue
        assert found in inside
        assert rating(found) == pytest.approx(min(map(rating, inside)))
