"""The front against all choices tried one by one, hand answers, and the search problem of DNA's size."""

import importlib
import json
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmnas_ext.search import Choice, Front, front

# by name: the package exports the function under the name of its module
MODULE = importlib.import_module('mmnas_ext.search.front')
CASE = json.loads((Path(__file__).parents[1] / 'golden' / 'dna_traversal_case.json').read_text())
FIXED_COST = 74198
LIMIT = 460000

Pairs = list[tuple[Any, Any]]
Point = tuple[Any, Any, tuple[int, ...]]


def _all_choices(blocks: list[Pairs]) -> list[Point]:
    """Every choice with its sums, in lexicographic order."""
    found = []
    for choice in product(*(range(len(block)) for block in blocks)):
        cost = rating = 0
        for block, index in zip(blocks, choice, strict=True):
            cost, rating = cost + block[index][0], rating + block[index][1]
        found.append((cost, rating, choice))
    return found


def _tried_one_by_one(blocks: list[Pairs]) -> list[Point]:
    """The front by definition: what no other choice beats, the first of equal ones."""
    first: dict[tuple[Any, Any], tuple[int, ...]] = {}
    for cost, rating, choice in _all_choices(blocks):
        first.setdefault((cost, rating), choice)
    beaten = {p for p in first for q in first if p != q and q[0] <= p[0] and q[1] <= p[1]}
    return sorted((*point, first[point]) for point in first if point not in beaten)


def _points(found: Front) -> list[Point]:
    choices = [tuple(row) for row in found.choices.tolist()]
    return list(zip(found.costs.tolist(), found.ratings.tolist(), choices, strict=True))


def _case() -> list[Pairs]:
    """Per block every path's cost and loss, paths counted as `itertools.product` does."""
    blocks = []
    for block in CASE:
        costs = [sum(path) for path in product(*block['table'])]
        blocks.append(list(zip(costs, block['loss'], strict=True)))
    return blocks


def _problems(cost: st.SearchStrategy[Any], rating: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Pairs]]:
    block = st.lists(st.tuples(cost, rating), min_size=1, max_size=5)
    return st.lists(block, min_size=1, max_size=4)


FEW = st.integers(-2, 3)  # ties all over
MANY = st.integers(-1000, 1000)
EIGHTHS = st.integers(-20, 20).map(lambda n: n / 8)  # floats whose sums are not rounded
FLOATS = st.floats(-1e6, 1e6)
EXACT = {
    'few-few': (FEW, FEW),
    'few-many': (FEW, MANY),
    'many-many': (MANY, MANY),
    'many-eighths': (MANY, EIGHTHS),
    'eighths-few': (EIGHTHS, FEW),
}


def _generated(name: str, count: int = 150) -> Callable[[Callable[..., None]], Callable[..., None]]:
    problems = _problems(*EXACT[name])

    def wrap(check: Callable[..., None]) -> Callable[..., None]:
        return settings(max_examples=count)(given(problems)(check))

    return wrap


@pytest.mark.parametrize('name', EXACT)
def test_front_is_what_trying_every_choice_finds(name: str) -> None:
    @_generated(name)
    def check(blocks: list[Pairs]) -> None:
        assert _points(front(blocks)) == _tried_one_by_one(blocks)

    check()


@settings(max_examples=150)
@given(_problems(FLOATS, FLOATS))
def test_rounded_sums_are_those_of_adding_block_by_block(blocks: list[Pairs]) -> None:
    found = front(blocks)
    wanted = _tried_one_by_one(blocks)
    assert [point[:2] for point in _points(found)] == [point[:2] for point in wanted]
    sums = {choice: (cost, rating) for cost, rating, choice in _all_choices(blocks)}
    assert [sums[choice] for _, _, choice in _points(found)] == [point[:2] for point in wanted]


@pytest.mark.parametrize('chunk', (1, 3, 16))
def test_a_merge_in_pieces_finds_the_same(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(MODULE, '_CHUNK', chunk)

    @_generated('few-many', 60)
    def check(blocks: list[Pairs]) -> None:
        assert _points(front(blocks)) == _tried_one_by_one(blocks)

    check()


@given(_problems(FEW, MANY), st.integers(-10, 15))
def test_best_is_the_lowest_rating_within_the_limit(blocks: list[Pairs], limit: int) -> None:
    fitting = [(rating, cost, choice) for cost, rating, choice in _all_choices(blocks) if cost <= limit]
    found = front(blocks)
    if fitting:
        rating, cost, choice = min(fitting)
        assert found.best(limit) == Choice(cost, rating, choice)
    else:
        with pytest.raises(ValueError, match='max_cost must be at least'):
            found.best(limit)


@given(_problems(MANY, EIGHTHS))
def test_costs_ascend_and_ratings_descend(blocks: list[Pairs]) -> None:
    found = front(blocks)
    assert len(found) == len(found.costs) == len(found.ratings)
    assert found.choices.shape == (len(found), len(blocks))
    assert (np.diff(found.costs) > 0).all()
    assert (np.diff(found.ratings) < 0).all()


def test_front_by_hand() -> None:
    # sums: 11/9, 12/9, 13/5 from the first entry of the first block, 21/8, 22/8, 23/1 from its second;
    # 12/9 is beaten by 11/9, 21/8 and 22/8 by 13/5
    found = front([[(10, 5), (20, 4)], [(1, 4), (2, 4), (3, 0)], [(100, -3)]])
    assert _points(found) == [(111, 6, (0, 0, 0)), (113, 2, (0, 2, 0)), (123, 1, (1, 2, 0))]
    assert found.best(113) == found.best(122.9) == (113, 2, (0, 2, 0))
    assert found.best(111).choice == (0, 0, 0)
    assert found.best(float('inf')).rating == 1


@pytest.mark.parametrize(
    ('blocks', 'wanted'),
    [
        # the same entry twice
        ([[(1, 1), (1, 1)], [(0, 0), (0, 0)]], [(1, 1, (0, 0))]),
        # equal rating: the cheaper; equal cost: the better rated
        ([[(2, 1), (1, 1)], [(0, 5), (0, 4)]], [(1, 5, (1, 1))]),
        # 2/2 comes from (0, 1) and (1, 0), whichever way the entries are ordered
        ([[(0, 2), (2, 0)]] * 2, [(0, 4, (0, 0)), (2, 2, (0, 1)), (4, 0, (1, 1))]),
        ([[(2, 0), (0, 2)]] * 2, [(0, 4, (1, 1)), (2, 2, (0, 1)), (4, 0, (0, 0))]),
        # the smallest of (0, 0, 1), (0, 1, 0), (1, 0, 0), whose first two blocks differ in cost
        ([[(1, 0), (0, 1)]] * 3, [(0, 3, (1, 1, 1)), (1, 2, (0, 1, 1)), (2, 1, (0, 0, 1)), (3, 0, (0, 0, 0))]),
        # negative zero is zero
        ([[(0.0, 1.0), (-0.0, 1.0)]], [(0, 1, (0,))]),
    ],
)
def test_ties_go_to_the_cheapest_then_to_the_smallest_choice(blocks: list[Pairs], wanted: list[Point]) -> None:
    assert _points(front(blocks)) == wanted


def test_the_case_of_the_authors_size_has_its_optimum() -> None:
    blocks = [*_case(), [(FIXED_COST, 0.0)]]
    found = front(blocks)
    best = found.best(LIMIT - 1)
    assert best.cost == 459198
    assert best.rating == pytest.approx(2.86816, abs=5e-6)
    # better than the authors' traversal, and by its own choice
    assert best.rating < 2.99170
    assert len(best.choice) == len(blocks)
    picked = [block[index] for block, index in zip(blocks, best.choice, strict=True)]
    assert sum(cost for cost, _ in picked) == best.cost
    assert sum(rating for _, rating in picked) == best.rating


def test_the_case_holds_at_random_choices_and_limits() -> None:
    blocks = _case()
    found = front(blocks)
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.integers(len(block), size=5000) for block in blocks], axis=1)
    tables = [np.array(block) for block in blocks]
    sums = sum(table[drawn[:, number]] for number, table in enumerate(tables))
    for cost, rating in sums[np.argsort(sums[:, 1])[:200]]:
        assert found.best(cost).rating <= rating
    for limit in rng.integers(found.costs[0], found.costs[-1], size=200).tolist():
        assert found.best(limit).cost <= limit


def test_the_case_takes_under_50_ms() -> None:
    blocks = _case()
    taken = []
    for _ in range(7):
        start = time.perf_counter()
        front(blocks)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.05


def test_21_layers_of_7_candidates_against_a_table_over_costs() -> None:
    rng = np.random.default_rng(1)
    blocks = [
        list(zip(rng.integers(0, 40, 7).tolist(), rng.integers(0, 999, 7).tolist(), strict=True)) for _ in range(21)
    ]
    table = {0: 0}
    for block in blocks:
        longer: dict[int, int] = {}
        for cost, rating in table.items():
            for more, worse in block:
                longer[cost + more] = min(rating + worse, longer.get(cost + more, 10**9))
        table = longer
    wanted: Pairs = []
    for cost in sorted(table):
        if not wanted or table[cost] < wanted[-1][1]:
            wanted.append((cost, table[cost]))
    found = front(blocks)
    assert len(wanted) > 100
    assert list(zip(found.costs.tolist(), found.ratings.tolist(), strict=True)) == wanted
    for number, block in enumerate(np.array(blocks).transpose(2, 0, 1)):
        sums = np.take_along_axis(block, found.choices.T, axis=1).sum(axis=0)
        assert sums.tolist() == (found.costs, found.ratings)[number].tolist()


def test_the_order_of_blocks_does_not_change_the_points() -> None:
    blocks = _case()
    there, back = front(blocks), front(blocks[::-1])
    assert there.costs.tolist() == back.costs.tolist()
    assert there.ratings.tolist() == back.ratings.tolist()


@pytest.mark.parametrize(
    ('blocks', 'costs', 'ratings'),
    [
        ([[(1, 2)], [(3, 4)]], np.int64, np.int64),
        ([[(1, 2)], [(3, 4.0)]], np.int64, np.float64),
        ([[(1.5, 2)], [(3, 4)]], np.float64, np.int64),
        ([np.array([[1, 2]], np.uint8), np.array([[3, 4]], np.int16)], np.int64, np.int64),
        ([np.array([[1, 2]], np.float32)], np.float64, np.float64),
        ([np.array([[1, 2.5]], object)], np.int64, np.float64),
        ([[(np.int32(1), np.float16(2))]], np.int64, np.float64),
    ],
)
def test_integers_stay_integers(blocks: list[Any], costs: type, ratings: type) -> None:
    found = front(blocks)
    assert (found.costs.dtype, found.ratings.dtype, found.choices.dtype) == (costs, ratings, np.int64)
    best = found.best(10)
    kinds = {np.int64: int, np.float64: float}
    assert (type(best.cost), type(best.rating), type(best.choice[0])) == (kinds[costs], kinds[ratings], int)


def test_sums_beyond_the_floats_are_exact() -> None:
    big = 2**60
    found = front([[(big + 1, 3), (big, 4)], [(big, 0.5)]])
    assert found.costs.tolist() == [2 * big, 2 * big + 1]
    assert found.best(2 * big).cost == 2 * big
    assert found.best(np.int64(2 * big)).cost == 2 * big
    assert found.best(Fraction(4 * big + 1, 2)).cost == 2 * big
    # as a float the limit is 2**61 to the unit, which the more expensive choice passes
    assert found.best(float(2 * big + 1)).cost == 2 * big
    assert found.best(np.float64(2 * big + 1)).cost == 2 * big
    assert found.best(10**30).cost == 2 * big + 1
    with pytest.raises(ValueError, match=f'at least {2 * big}, .* got {2 * big - 1}'):
        found.best(2 * big - 1)


def test_any_form_of_the_same_blocks_gives_the_same() -> None:
    pairs = [[(4, 1), (2, 2)], [(8, 0), (1, 9), (2, 3)]]
    wanted = _tried_one_by_one(pairs)
    arrays = [np.array(block) for block in pairs]
    before = [array.copy() for array in arrays]
    assert _points(front(pairs)) == wanted
    assert _points(front(tuple(tuple(list(pair) for pair in block) for block in pairs))) == wanted
    assert _points(front(iter(block) for block in pairs)) == wanted
    assert _points(front(arrays)) == wanted
    assert _points(front(np.array([pairs[0], pairs[0]]))) == _tried_one_by_one([pairs[0], pairs[0]])
    assert all((array == old).all() for array, old in zip(arrays, before, strict=True))


def test_a_front_cannot_be_changed() -> None:
    array = np.array([[1, 2]])
    found = front([array])
    for figures in (found.costs, found.ratings, found.choices):
        with pytest.raises(ValueError, match='read-only'):
            figures[0] = 7
    array[0] = 9
    assert found.best(1) == (1, 2, (0,))
    with pytest.raises(AttributeError):
        found.costs = array


NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
    ('blocks', 'message'),
    [
        ([], 'blocks must hold at least one block, got none'),
        (None, 'blocks must be a sequence of blocks, got None'),
        ([[(1, 2)], []], r'blocks\[1\] must have at least one entry'),
        ([np.zeros((0, 2))], r'blocks\[0\] must have at least one entry'),
        ([[(1, 2)], 5], r'blocks\[1\] must be a sequence of \(cost, rating\) pairs, got 5'),
        (['12'], r"blocks\[0\] must be a sequence .* got '12'"),
        ([[(1, 2), (3,)]], r'blocks\[0\]\[1\] must be a \(cost, rating\) pair, got \(3,\)'),
        ([[(1, 2)], [(1, 2), (1, 2, 3)]], r'blocks\[1\]\[1\] must be a \(cost, rating\) pair'),
        ([[4, 5]], r'blocks\[0\]\[0\] must be a \(cost, rating\) pair, got 4'),
        ([np.zeros((4, 3))], r'blocks\[0\] must be an array of shape \(entries, 2\), got \(4, 3\)'),
        ([[(1, 2)], np.zeros(2)], r'blocks\[1\] must be an array .* got \(2,\)'),
        ([[(1, 2), (NAN, 2)]], r'cost of blocks\[0\]\[1\] must be finite, got nan'),
        ([[(1, 2)], [(1, 2.0), (2, 1), (1, INF)]], r'rating of blocks\[1\]\[2\] must be finite, got inf'),
        ([np.array([[1, 2], [-INF, 2]])], r'cost of blocks\[0\]\[1\] must be finite, got -inf'),
        ([[(1, 2), ('3', 2)]], r"cost of blocks\[0\]\[1\] must be a number of at most 64 bits, got '3'"),
        ([[(1, 2), (1, None)]], r'rating of blocks\[0\]\[1\] must be a number .* got None'),
        ([[(1, 2), ([1], 2)]], r'cost of blocks\[0\]\[1\] must be a number .* got \[1\]'),
        ([[([1], 2)]], r'cost of blocks\[0\]\[0\] must be a number .* got \[1\]'),
        ([[(True, 2)]], r'cost of blocks\[0\]\[0\] must be a number .* got True'),
        ([[(1, 2), (1j, 2)]], r'cost of blocks\[0\]\[1\] must be a number .* got 1j'),
        ([[(1, 2), (2**63, 2)]], rf'cost of blocks\[0\]\[1\] must be .* 64 bits, got {2**63}'),
        ([[(-1, 2), (2**63, 2)]], rf'cost of blocks\[0\]\[1\] must be .* 64 bits, got {2**63}'),
        ([[(1, 2), (1, 2**70)]], rf'rating of blocks\[0\]\[1\] must be .* 64 bits, got {2**70}'),
        ([[(2**62, 2)], [(2**62, 2)]], rf'sums of costs must fit 64 bits, got up to {2**63}'),
        ([[(1, -(2**62))], [(1, 0), (1, -(2**62))]], rf'sums of ratings must fit 64 bits, got up to {2**63}'),
        ([[(1e308, 1)], [(1e308, 1)]], 'sums of costs must be finite'),
    ],
)
def test_wrong_blocks_are_named(blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        front(blocks)


def test_the_largest_sum_that_fits_is_allowed() -> None:
    assert front([[(2**62, 0)], [(2**62 - 1, 0)]]).costs.tolist() == [2**63 - 1]


def test_a_limit_that_nothing_meets_names_the_reachable_range() -> None:
    found = front([[(10, 5), (20, 1)], [(1, 4), (3, 0)]])
    message = 'max_cost must be at least 11, the cheapest choice, got 10.9: the front reaches from cost 11 to 23'
    with pytest.raises(ValueError, match=message):
        found.best(10.9)


def test_a_limit_that_is_no_number_is_refused() -> None:
    found = front([[(10, 5)]])
    with pytest.raises(ValueError, match='max_cost must be a number, got nan'):
        found.best(NAN)
    with pytest.raises(TypeError, match="max_cost must be a number, got '20'"):
        found.best('20')


def test_a_front_too_long_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # binary numbers: all 2**n sums are on the front
    blocks = [[(0, 2**bit), (2**bit, 0)] for bit in range(60)]
    monkeypatch.setattr(MODULE, '_MAX_POINTS', 100)
    with pytest.raises(ValueError, match=r'blocks\[0\] to blocks\[6\] has more than 100 points: round the costs'):
        front(blocks)
    assert len(front(blocks[:6])) == 64
