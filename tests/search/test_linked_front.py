"""Chains of cells against all of them tried one by one, hand answers, and the search problem of DNA's size."""

import importlib
import json
import time
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks import front as benchmark
from mmnas_ext.search import ChainChoice, Front, Link, Links, best_within, chain_front, front

# by name: the package exports the function under the name of its module
FRONT = importlib.import_module('mmnas_ext.search.front')
BRANCH = importlib.import_module('mmnas_ext.search.branch')
CASE = json.loads((Path(__file__).parents[1] / 'golden' / 'dna_traversal_case.json').read_text())
FIXED_COST = 74198
LIMIT = 460000

Blocks = list[list[Link]]
# rating, choice, costs: in the order in which chains are preferred
Chain = tuple[Any, tuple[int, ...], tuple[Any, ...]]


def _all_chains(blocks: Blocks) -> list[Chain]:
    """Every fitting chain with its sums, added block by block from the first."""
    found = []
    for choice in product(*(range(len(block)) for block in blocks)):
        links = [block[index] for block, index in zip(blocks, choice, strict=True)]
        if all(a.leaves == b.enters for a, b in pairwise(links)):
            rating, costs = 0, (0,) * len(links[0].costs)
            for link in links:
                rating += link.rating
                costs = tuple(a + b for a, b in zip(costs, link.costs, strict=True))
            found.append((rating, choice, costs))
    return found


def _within(chains: list[Chain], limits: list[Any]) -> list[Chain]:
    return [
        chain
        for chain in chains
        if all(limit is None or cost <= limit for cost, limit in zip(chain[2], limits, strict=True))
    ]


def _tried_one_by_one(blocks: Blocks, metric: int) -> list[tuple[Any, Any, tuple[int, ...]]]:
    """The front by definition: what no other chain beats, the first of equal ones."""
    first: dict[tuple[Any, Any], tuple[int, ...]] = {}
    for rating, choice, costs in _all_chains(blocks):
        first.setdefault((costs[metric], rating), choice)
    beaten = {p for p in first for q in first if p != q and q[0] <= p[0] and q[1] <= p[1]}
    return sorted((*point, first[point]) for point in first if point not in beaten)


def _points(found: Front) -> list[tuple[Any, Any, tuple[int, ...]]]:
    choices = [tuple(row) for row in found.choices.tolist()]
    return list(zip(found.costs.tolist(), found.ratings.tolist(), choices, strict=True))


FEW = st.integers(-2, 3)  # ties all over
MANY = st.integers(-1000, 1000)
EIGHTHS = st.integers(-20, 20).map(lambda n: n / 8)  # floats whose sums are not rounded
FLOATS = st.floats(-1e6, 1e6)
TENTHS = st.integers(-3, 6).map(lambda n: n / 10)  # floats whose sums are equal but for rounding
EXACT = {'few-few': (FEW, FEW), 'few-many': (FEW, MANY), 'many-eighths': (MANY, EIGHTHS), 'eighths-few': (EIGHTHS, FEW)}


@st.composite
def _problems(draw: st.DrawFn, cost: st.SearchStrategy[Any], rating: st.SearchStrategy[Any]) -> Blocks:
    """One to four blocks of one to five entries, up to three metrics and three widths."""
    metrics = draw(st.integers(1, 3))
    widths = st.integers(1, draw(st.integers(1, 3)))
    link = st.builds(Link, st.tuples(*[cost] * metrics), rating, widths, widths)
    return draw(st.lists(st.lists(link, min_size=1, max_size=5), min_size=1, max_size=4))


@st.composite
def _limited(draw: st.DrawFn, problems: st.SearchStrategy[Blocks]) -> tuple[Blocks, list[Any]]:
    """A problem with limits at, just above or just below the costs of one of its chains."""
    blocks = draw(problems)
    chains = _all_chains(blocks)
    assume(chains)
    near = draw(st.sampled_from(chains))[2]
    return blocks, [draw(st.sampled_from([None, cost, cost, cost + 1, cost - 1])) for cost in near]


def _checked_best(blocks: Blocks, limits: list[Any]) -> tuple[ChainChoice | None, list[Chain]]:
    """What is found, None only where trying all chains finds none within the limits either."""
    wanted = _within(_all_chains(blocks), limits)
    if wanted:
        return best_within(blocks, limits), wanted
    with pytest.raises(ValueError, match='must be at least|not together'):
        best_within(blocks, limits)
    return None, wanted


@pytest.mark.parametrize('name', EXACT)
def test_front_is_what_trying_every_chain_finds(name: str) -> None:
    @settings(max_examples=200)
    @given(_problems(*EXACT[name]))
    def check(blocks: Blocks) -> None:
        assume(_all_chains(blocks))
        for metric in range(len(blocks[0][0].costs)):
            assert _points(chain_front(blocks, metric)) == _tried_one_by_one(blocks, metric)

    check()


@settings(max_examples=200)
@given(_problems(FLOATS, FLOATS))
def test_rounded_fronts_are_those_of_adding_block_by_block(blocks: Blocks) -> None:
    sums = {choice: (costs[0], rating) for rating, choice, costs in _all_chains(blocks)}
    assume(sums)
    found = _points(chain_front(blocks))
    assert [point[:2] for point in found] == [point[:2] for point in _tried_one_by_one(blocks, 0)]
    assert [sums[choice] for _, _, choice in found] == [point[:2] for point in found]


@pytest.mark.parametrize('name', EXACT)
def test_best_is_the_lowest_rating_within_all_limits(name: str) -> None:
    @settings(max_examples=300)
    @given(_limited(_problems(*EXACT[name])))
    def check(problem: tuple[Blocks, list[Any]]) -> None:
        found, wanted = _checked_best(*problem)
        if found:
            assert (found.rating, found.choice, found.costs) == min(wanted)

    check()


@pytest.mark.parametrize('name, figures', [('floats', FLOATS), ('tenths', TENTHS), ('huge', st.floats(-4e307, 4e307))])
def test_rounding_loses_no_best_chain(name: str, figures: st.SearchStrategy[float]) -> None:
    @settings(max_examples=300)
    @given(_limited(_problems(figures, figures)))
    def check(problem: tuple[Blocks, list[Any]]) -> None:
        found, wanted = _checked_best(*problem)
        if found:
            assert found.rating == min(wanted)[0]
            assert (found.rating, found.choice, found.costs) in wanted

    check()


@pytest.mark.parametrize(
    ('figures', 'limits'),
    [
        # 0.5 + 0.1 + 0.4 is less than 1.0, 0.5 + (0.1 + 0.4) is not
        (
            [[(9, 4), (2, 7), (6, 5)], [(7, 6), (4, 1), (2, 7), (5, 4)], [(2, 6), (1, 7), (7, 3), (5, 4)], [(1, 1)]],
            [19],
        ),
        # 1.0 - 0.8 is less than 0.2
        ([[(7, 4), (8, 3), (8, 5)], [(2, 2), (4, 3)]], [10]),
        # the only chain within the limits
        ([[(3, 8, 2), (6, 1, 8)], [(6, 6, 8), (6, 9, 7)]], [9, 17]),
    ],
)
def test_bounds_allow_for_the_rounding_of_tenths(figures: list[list[tuple[int, ...]]], limits: list[int]) -> None:
    blocks = [
        [Link(tuple(cost / 10 for cost in costs), rating / 10, 0, 0) for *costs, rating in block] for block in figures
    ]
    # limits exactly at sums, as they are rounded
    chains = _all_chains(blocks)
    near = [max(c[2][m] for c in chains if c[2][m] < limit / 10 + 0.01) for m, limit in enumerate(limits)]
    rating, choice, costs = min(_within(chains, near))
    assert best_within(blocks, near) == (costs, rating, choice)


def test_an_equal_rating_found_first_does_not_end_the_search() -> None:
    # the second entry looks better at first: each limit alone would admit a rating of 0 behind it, not both
    blocks = [
        [Link((0, 0), 1, 0, 0), Link((1, 1), 0, 0, 0)],
        [Link((2, 0), 0, 0, 0), Link((0, 2), 0, 0, 0), Link((1, 1), 1, 0, 0)],
    ]
    assert best_within(blocks, [2, 2]) == ((2, 0), 1, (0, 0))


@given(_limited(_problems(MANY, EIGHTHS)), st.integers(0, 2))
def test_one_limit_finds_the_rating_of_the_front(problem: tuple[Blocks, list[Any]], metric: int) -> None:
    blocks, limits = problem
    metric %= len(limits)
    found = chain_front(blocks, metric)
    limit = max(found.costs[0].item(), limits[metric] or 0)
    alone = [limit if other == metric else None for other in range(len(limits))]
    best, chain = found.best(limit), best_within(blocks, alone)
    assert (chain.rating, chain.costs[metric] <= limit) == (best.rating, True)
    if chain.costs[metric] == best.cost:
        assert chain.choice == best.choice


@given(_problems(MANY, EIGHTHS))
def test_costs_ascend_and_ratings_descend(blocks: Blocks) -> None:
    assume(_all_chains(blocks))
    found = chain_front(blocks)
    assert len(found) == len(found.costs) == len(found.ratings)
    assert found.choices.shape == (len(found), len(blocks))
    assert (np.diff(found.costs) > 0).all()
    assert (np.diff(found.ratings) < 0).all()


@given(_problems(FEW, MANY))
def test_with_one_width_it_is_the_plain_front(blocks: Blocks) -> None:
    alike = [[link._replace(enters='w', leaves='w') for link in block] for block in blocks]
    plain = front([[(link.costs[0], link.rating) for link in block] for block in blocks])
    assert _points(chain_front(alike)) == _points(plain)


# a narrow and a wide cell in the first block; in the second the wide one is cheap to enter only from the wide one
BY_HAND = [
    [Link((1, 5), 4, 3, 16), Link((3, 1), 2, 3, 24)],
    [Link((1, 1), 3, 16, 32), Link((4, 2), 3, 24, 32), Link((9, 1), 0, 16, 64), Link((2, 9), 0, 24, 64)],
    [Link((10, 10), 0, 32, 1), Link((10, 10), 1, 64, 1)],
]


def test_chains_by_hand() -> None:
    # costs and ratings: (12, 16) 7, (20, 16) 5, (17, 13) 5, (15, 20) 3
    assert _points(chain_front(BY_HAND)) == [(12, 7, (0, 0, 0)), (15, 3, (1, 3, 1))]
    assert _points(chain_front(BY_HAND, 1)) == [(13, 5, (1, 1, 0)), (20, 3, (1, 3, 1))]
    assert best_within(BY_HAND, [None, None]) == ((15, 20), 3, (1, 3, 1))
    assert best_within(BY_HAND, [15, 20]).rating == 3
    # both of rating 5 fit: the smaller choice, though the other one is cheaper
    assert best_within(BY_HAND, [20, 19]) == ((20, 16), 5, (0, 2, 1))
    assert best_within(BY_HAND, [19.9, 19]) == ((17, 13), 5, (1, 1, 0))
    assert best_within(BY_HAND, [16, 19]) == ((12, 16), 7, (0, 0, 0))


def test_what_enters_the_first_block_does_not_matter() -> None:
    other = [[link._replace(enters=None) for link in BY_HAND[0]], *BY_HAND[1:]]
    assert _points(chain_front(other)) == _points(chain_front(BY_HAND))


def test_the_smallest_choice_is_found_whatever_width_it_leaves() -> None:
    # widths are numbered as they come: the first entry's is the last one, its row the first
    first = [Link((0,), 0, 8, 24), Link((1,), 0, 8, 8), Link((0,), 0, 8, 8)]
    assert best_within([first, [Link((0,), 0, 8, 1), Link((0,), 0, 24, 1)]], [1]) == ((0,), 0, (0, 1))


def _case(cells: int = 1) -> list[Links]:
    """The case as chains, the fixed cost as a last block; parameters are drawn. Cells after the first are 'wide'."""
    rng = np.random.default_rng(0)
    blocks = []
    enters = ['narrow']
    for block in CASE:
        costs = np.array([sum(path) for path in product(*block['table'])])
        widths = ['narrow', 'wide'][:cells]
        ways = [(a, b) for a in enters for b in widths]
        params = rng.integers(1, 1000, len(costs)) + costs // 100
        rows = [
            # entering wide, and leaving wide, costs more; a wide cell is rated better
            (costs + 999 * ways.index(way), params, np.array(block['loss']) - (way[1] == 'wide') / 64)
            for way in ways
        ]
        macs, params, ratings = (np.concatenate(column) for column in zip(*rows, strict=True))
        starts, ends = ([width for width in column for _ in costs] for column in zip(*ways, strict=True))
        blocks.append(Links((macs, params), ratings, starts, ends))
        enters = widths
    fixed = [Link((FIXED_COST, 0), 0.0, width, 'head') for width in enters]
    return [*blocks, Links.of(fixed)]


def test_the_case_of_the_authors_size_has_its_optimum() -> None:
    blocks = _case()
    best = chain_front(blocks).best(LIMIT - 1)
    assert best.cost == 459198
    assert best.rating == pytest.approx(2.86816, abs=5e-6)
    found = best_within(blocks, [LIMIT - 1, None])
    assert (found.costs[0], found.rating, found.choice) == (best.cost, best.rating, best.choice)
    assert found.costs[1] == sum(block.costs[1][index] for block, index in zip(blocks, best.choice, strict=True))


def test_the_case_takes_a_fraction_of_a_second() -> None:
    blocks = _case()
    taken = []
    for _ in range(5):
        # of the processor, ten times what it takes on an idle Xeon: other work on the machine slows it as well
        begin = time.process_time()
        best_within(blocks, [LIMIT - 1, 5000])
        taken.append(time.process_time() - begin)
    assert min(taken) < 0.25


def test_the_case_with_widths_holds_at_random_chains() -> None:
    blocks = _case(2)
    rng = np.random.default_rng(1)
    checked = 0
    for _ in range(12):
        width, rating, costs = None, 0.0, np.zeros(2, int)
        for block in blocks:
            fitting = [index for index, enters in enumerate(block.enters) if width in (None, enters)]
            index = rng.choice(fitting)
            width = block.leaves[index]
            rating, costs = rating + block.ratings[index], costs + [column[index] for column in block.costs]
        best = best_within(blocks, costs.tolist())
        assert best.rating <= rating
        assert (np.array(best.costs) <= costs).all()
        assert best.rating >= max(chain_front(blocks, metric).best(costs[metric]).rating for metric in (0, 1))
        links = [(block.enters[i], block.leaves[i]) for block, i in zip(blocks, best.choice, strict=True)]
        assert all(a[1] == b[0] for a, b in pairwise(links))
        checked += len(set(links)) > 3
    # some of them change the width on their way
    assert checked


@pytest.mark.parametrize('compared, rounds', [(1, 0), (3, 1), (256, 50)])
def test_neither_weights_nor_pieces_change_what_is_found(
    monkeypatch: pytest.MonkeyPatch, compared: int, rounds: int
) -> None:
    monkeypatch.setattr(BRANCH, '_COMPARED', compared)
    monkeypatch.setattr(BRANCH, '_ROUNDS', rounds)
    rng = np.random.default_rng(2)
    blocks = [
        [Link(tuple(row[:3]), row[3], *way) for row, way in zip(rows, ways, strict=True)]
        for rows, ways in zip(rng.integers(0, 30, (4, 9, 4)).tolist(), rng.integers(0, 2, (4, 9, 2)), strict=True)
    ]
    chains = _all_chains(blocks)
    for limits in ([50, 60, 55], [70, 60, 70], [90, None, 45]):
        rating, choice, costs = min(_within(chains, limits))
        assert best_within(blocks, limits) == (costs, rating, choice)


def test_sums_beyond_the_floats_are_exact() -> None:
    big = 2**60
    blocks = [[Link((big + 1, 0.5), big + 1, 0, 0), Link((big, 1), big + 2, 0, 0)], [Link((big, 1), big, 0, 0)]]
    assert chain_front(blocks).costs.tolist() == [2 * big, 2 * big + 1]
    assert best_within(blocks, [2 * big + 1, None]) == ((2 * big + 1, 1.5), 2 * big + 1, (0, 0))
    for limit in (2 * big, np.int64(2 * big), float(2 * big + 1), Fraction(4 * big + 1, 2)):
        assert best_within(blocks, [limit, None]) == ((2 * big, 2), 2 * big + 2, (1, 0))
    assert type(best_within(blocks, [10**30, None]).costs[0]) is int
    assert best_within(blocks, [None, 10**400]).choice == (0, 0)
    # the nearest float lies above this limit and is a cost
    third = Fraction(0.1) - Fraction(1, 10**30)
    small = [[Link((0.1,), 1, 0, 0), Link((0.05,), 2, 0, 0), Link((0.2,), 0, 0, 0)]]
    assert best_within(small, [third]).choice == (1,)
    assert best_within(small, [0.1]).choice == (0,)


def test_room_beyond_the_largest_float_is_no_error() -> None:
    # 1.6e308 is a sum, and 0.8e308 more than that is left after the first entry
    blocks = [[Link((-8e307, 1), 1, 0, 0), Link((8e307, 1), 0, 0, 0)]] * 2
    assert best_within(blocks, [1.6e308, 2]) == ((1.6e308, 2), 0, (1, 1))
    assert best_within(blocks, [0.0, None]) == ((0.0, 2), 1, (0, 1))


def test_any_form_of_the_same_blocks_gives_the_same() -> None:
    columns = [Links.of(block) for block in BY_HAND]
    arrays = [Links(np.array(b.costs), np.array(b.ratings), np.array(b.enters), np.array(b.leaves)) for b in columns]
    objects = [Links(np.array(b.costs, object), b.ratings, np.array(b.enters, object), b.leaves) for b in columns]
    before = [block.costs.copy() for block in arrays]
    for blocks in (columns, arrays, objects, (iter(block) for block in BY_HAND), [columns[0], *BY_HAND[1:]]):
        assert best_within(blocks, [16, 19]) == ((12, 16), 7, (0, 0, 0))
    assert _points(chain_front(arrays)) == _points(chain_front(BY_HAND))
    assert all((block.costs == old).all() for block, old in zip(arrays, before, strict=True))
    with pytest.raises(ValueError, match='read-only'):
        chain_front(arrays).costs[0] = 7


def test_the_benchmark_times_cells_whose_cost_depends_on_the_width_that_enters() -> None:
    blocks = benchmark._cells(benchmark.CELLS['3 cells, 2 widths'], np.random.default_rng(0))
    # cells of 4, 3 and 3 layers (2, 1 and 1 in the first block), for one width that enters at first, then two
    assert [len(block.ratings) for block in blocks] == [6**2 + 2 * 6, *[2 * (6**4 + 2 * 6**3)] * 4]
    costs, enters = np.array(blocks[1].costs[0]), np.array(blocks[1].enters)
    narrow, wide = costs[enters == 0.75], costs[enters == 1.0]
    assert (narrow < wide).all()
    assert len({*zip(blocks[1].enters.tolist(), blocks[1].leaves.tolist(), strict=True)}) == 4
    lines = benchmark._cell_lines('small', blocks[:2], 1)
    assert len(lines) == 6 and all(line.startswith('small') for line in lines)


NAN, INF = float('nan'), float('inf')
A, B = Link((1, 2), 3, 8, 8), Link((1.5, 2), 3, 8, 16)


@pytest.mark.parametrize(
    ('blocks', 'message'),
    [
        ([], 'blocks must hold at least one block, got none'),
        (None, 'blocks must be a sequence of blocks, got None'),
        ([[A], []], r'blocks\[1\] must have at least one entry, got none'),
        ([Links(([],), [], [], [])], r'blocks\[0\] must have at least one entry, got none'),
        ([[Link((), 3, 8, 8)]], r'blocks\[0\] must have at least one metric, got none'),
        ([[A], 'ab'], r"blocks\[1\] must be Links or a sequence of Link, got 'ab'"),
        ([[A], [A, (1, 2)]], r'blocks\[1\]\[1\] must be a Link \(costs, rating, enters, leaves\), got \(1, 2\)'),
        ([[Link(1, 3, 8, 8)]], r'blocks\[0\]\[0\] must be a Link .* got Link\(costs=1'),
        ([[A, Link((1,), 3, 8, 8)]], r'blocks\[0\]\[1\] must have 2 costs as blocks\[0\]\[0\] has, got \(1,\)'),
        ([[A], [Link((1,), 3, 8, 8)]], r'blocks\[1\] must have 2 metrics as blocks\[0\] has, got 1'),
        ([Links(([1, 2],), [1], [8], [8])], r'columns of blocks\[0\] must be equally long, got lengths \[1, 2\]'),
        ([[A, Link((1, NAN), 3, 8, 8)]], r'costs\[1\] of blocks\[0\]\[1\] must be finite, got nan'),
        ([[A], [A, Link((1, 2), INF, 8, 8)]], r'rating of blocks\[1\]\[1\] must be finite, got inf'),
        ([[A, Link(('1', 2), 3, 8, 8)]], r"costs\[0\] of blocks\[0\]\[1\] must be a number .* got '1'"),
        ([[A, Link((2**63, 2), 3, 8, 8)]], r'costs\[0\] of blocks\[0\]\[1\] must be .* 64 bits'),
        ([[Link((1, 2**62), 3, 8, 8)]] * 2, r'sums of costs\[1\] must fit 64 bits'),
        ([[Link((1e308, 2), 3, 8, 8)]] * 2, r'sums of costs\[0\] must be finite'),
        ([[A, A._replace(enters=(8, [8]))], [A]], r'enters of blocks\[0\]\[1\] must be hashable, got \(8, \[8\]\)'),
        ([[A], [A, A._replace(leaves={})]], r'leaves of blocks\[1\]\[1\] must be hashable, got \{\}'),
        # blocks[1] could leave with 24, but nothing leads there
        (
            [[A, B], [A._replace(enters=16, leaves=32), A._replace(enters=9, leaves=24)], [A._replace(enters=24)]],
            r'no chain fits: widths do not meet between blocks\[1\] and blocks\[2\], '
            r'chains leave with 32, entries want 24',
        ),
        ([[A, B], [A._replace(enters='8')]], r"blocks\[0\] and blocks\[1\], chains leave with 8, 16, entries want '8'"),
    ],
)
def test_wrong_blocks_are_named(blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chain_front(blocks)
    with pytest.raises(ValueError, match=message):
        best_within(blocks, [None, None])


@pytest.mark.parametrize('metric', [2, -1, True, 0.0])
def test_a_metric_that_is_not_there_is_refused(metric: Any) -> None:
    with pytest.raises(ValueError, match=f'metric must be an integer from 0 to 1, got {metric}'):
        chain_front([[A]], metric)


NAMES = ('macs', 'params')


@pytest.mark.parametrize(
    ('limits', 'names', 'message'),
    [
        ([1], NAMES, r'limits must hold one per metric \(macs, params\), got \[1\]'),
        (None, NAMES, 'limits must hold one per metric .* got None'),
        ('12', None, r"limits must hold one per metric \(costs\[0\], costs\[1\]\), got '12'"),
        ([1, 2], ('macs',), r"names must hold one per metric, 2, got \('macs',\)"),
        ([1, 2], 'mp', "names must hold one per metric, 2, got 'mp'"),
        ([20, NAN], NAMES, 'limit of params must be finite or None, got nan'),
        ([INF, 20], NAMES, 'limit of macs must be finite or None, got inf'),
        ([11.5, 20], NAMES, 'limit of macs must be at least 12, got 11.5: .* cost from 12 to 20'),
        ([None, 12], NAMES, 'limit of params must be at least 13, got 12: .* cost from 13 to 20'),
        ([None, 12], None, r'limit of costs\[1\] must be at least 13'),
        (
            [16, 15],
            NAMES,
            'one by one but not together, got macs 16, params 15: chains whose widths fit cost '
            'macs from 12 to 20, at least 17 under the other limits; '
            'params from 13 to 20, at least 16 under the other limits',
        ),
    ],
)
def test_limits_that_nothing_meets_name_what_can_be_reached(limits: Any, names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_within(BY_HAND, limits, names)


@pytest.mark.parametrize('limit', ['20', True, [20]])
def test_a_limit_that_is_no_number_is_refused(limit: Any) -> None:
    with pytest.raises(TypeError, match='limit of params must be a number or None, got'):
        best_within(BY_HAND, [20, limit], NAMES)


def test_limits_that_exclude_each_other_in_pairs_are_said_to() -> None:
    block = [Link(tuple(0 if metric == other else 5 for other in range(3)), 1, 0, 0) for metric in range(3)]
    message = 'costs\\[2\\] from 0 to 5, no chain meets the other limits'
    with pytest.raises(ValueError, match=message):
        best_within([block], [4, 4, 4])
    assert best_within([block], [5, 5, 4]).choice == (2,)


def test_what_would_take_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    binary = [[Link((0, 1), 2**bit, 0, 0), Link((2**bit, 1), 0, 0, 0)] for bit in range(60)]
    monkeypatch.setattr(FRONT, '_MAX_POINTS', 100)
    with pytest.raises(ValueError, match=r'blocks\[0\] to blocks\[6\] has more than 100 points'):
        chain_front(binary)
    with pytest.raises(ValueError, match=r'blocks\[53\] to blocks\[59\] has more than 100 points'):
        best_within(binary, [2**59, None])
    monkeypatch.setattr(BRANCH, '_MAX_CHAINS', 2)
    with pytest.raises(ValueError, match='not known after 2 beginnings'):
        best_within(BY_HAND, [20, 19])
