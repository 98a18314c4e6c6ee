"""From ratings to the network within limits: by hand, and against all networks of a small space."""

import json
import math
import random
from itertools import product
from pathlib import Path

import pytest

from mmnas_ext.archs import CellSpace, cell_prices, price
from mmnas_ext.search import ChainChoice
from mmnas_ext.search.front_file import FrontFile
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from mmnas_ext.search.ratings import BlockRatings, CellRatings, Ratings
from mmnas_ext.search.select import Selection, reachable, select
from tests.search.test_ratings import SIZE, SPACE, ratings


def networks(value: Ratings) -> list[tuple[dict[str, float], float, tuple[int, ...]]]:
    """Costs, rating and choice of every network whose widths fit."""
    found = []
    for choice in product(*(range(len(block.picks())) for block in value.blocks)):
        picks = [block.picks()[index] for block, index in zip(value.blocks, choice, strict=True)]
        cells = [block.cells[pick.cell] for block, pick in zip(value.blocks, picks, strict=True)]
        if picks[1].enters != cells[0].leaves:
            continue
        arch = value.arch(choice)
        rating = cells[0].ratings[picks[0].path] + cells[1].ratings[picks[1].path]
        found.append(({m: price(arch, SIZE, metric=m) for m in value.metrics}, rating, choice))
    return found


def test_the_best_within_any_limit_is_the_best_of_all_networks() -> None:
    value = ratings()
    every = networks(value)
    for limit in sorted({costs['macs'] for costs, _, _ in every}):
        within = [(rating, choice) for costs, rating, choice in every if costs['macs'] <= limit]
        found = select(value, {'macs': limit})
        assert (found.chosen.rating, found.chosen.choice) == min(within)
        assert found.costs['macs'] <= limit


def test_several_limits_hold_together() -> None:
    value = ratings()
    every = networks(value)
    macs = sorted(costs['macs'] for costs, _, _ in every)[len(every) // 2]
    params = sorted(costs['params'] for costs, _, _ in every)[len(every) // 2]
    within = [
        (rating, choice) for costs, rating, choice in every if costs['macs'] <= macs and costs['params'] <= params
    ]
    found = select(value, {'macs': macs, 'params': params})
    assert (found.chosen.rating, found.chosen.choice) == min(within)
    assert found.metric == 'macs'
    assert select(value, {'macs': None, 'params': params}).metric == 'params'


@pytest.mark.parametrize('metric', ['macs', 'params'])
def test_the_front_is_that_of_all_networks(metric: str) -> None:
    value = ratings()
    points = sorted((costs[metric], rating) for costs, rating, _ in networks(value))
    front: list[tuple[float, float]] = []
    for cost, rating in points:
        if not front or rating < front[-1][1]:
            front.append((cost, rating))
    found = select(value, {metric: 10**9}).front
    assert found.costs.tolist() == [cost for cost, _ in front]
    assert found.ratings.tolist() == [rating for _, rating in front]


def test_the_reachable_range_is_that_of_all_networks() -> None:
    value = ratings()
    every = networks(value)
    for metric in ('macs', 'params'):
        figures = [costs[metric] for costs, _, _ in every]
        ends = (min(figures), max(figures))
        assert reachable(SPACE, cell_prices(SPACE, SIZE, metric=metric)) == ends
        assert select(value).ranges[metric] == ends


def test_what_is_written_down(tmp_path: Path) -> None:
    found = select(ratings(), {'macs': 1e9})
    content = json.loads(found.write(tmp_path / 'new').read_text())
    assert content['limits'] == {'macs': 1e9}
    assert content['chosen'] == {
        'costs': found.costs, 'rating': found.chosen.rating, 'choice': list(found.chosen.choice),
    }  # fmt: skip
    assert content['costs'] == sorted(content['costs'])
    assert len(content['costs']) == len(content['ratings']) == len(content['choices']) == len(found.front)
    assert content['arch'] == found.arch.format('fna')
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['front.json']
    assert 'chosen (at most 1 G multiply-adds)' in found.describe()
    assert 'chosen (no limit)' in select(ratings()).describe()


@pytest.mark.parametrize(
    ('limits', 'message'),
    [
        ({'latency': 3.0}, r"among the metrics that were counted, \('macs', 'params'\), got 'latency'"),
        # the stem's 27 * 8 * 256, then 12 channels by (8 * 24 * 256 + 9 * 24 * 64 + 24 * 12 * 64), and 20 by
        # (12 * 36 * 64 + 9 * 36 * 16 + 36 * 20 * 16)
        ({'macs': 10}, r'macs must be at least 181056, got 10: chains whose widths fit cost from 181056 to \d+$'),
        ({'params': 10, 'macs': 10**9}, 'params must be at least .*, got 10'),
    ],
)
def test_limits_that_cannot_be_met(limits: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(ratings(), limits)


def test_lower_limits_are_exact() -> None:
    value = ratings()
    every = networks(value)
    figures = sorted({costs['macs'] for costs, _, _ in every})
    params = sorted({costs['params'] for costs, _, _ in every})
    low, high = figures[len(figures) // 3], figures[2 * len(figures) // 3]
    for limits in (
        {'macs': {'min': low, 'max': high}},
        {'macs': {'min': high}},
        {'macs': {'min': low + 1}, 'params': {'max': params[len(params) // 2]}},
        {'macs': {'max': high}, 'params': {'min': params[len(params) // 3]}},
    ):
        read = {name: (limit.get('min', 0), limit.get('max', 10**12)) for name, limit in limits.items()}
        fitting = [
            rating
            for costs, rating, _ in every
            if all(least <= costs[name] <= most for name, (least, most) in read.items())
        ]
        found = select(value, limits)
        assert found.chosen.rating == min(fitting)
        assert all(least <= found.costs[name] <= most for name, (least, most) in read.items())
        assert set(found.costs) == {'macs', 'params'}
        assert json.loads(found.format())['limits'].keys() == limits.keys()
    with pytest.raises(ValueError, match=r'limits.macs.min must be at most .*, got .*: networks of this space cost'):
        select(value, {'macs': {'min': figures[-1] + 10**6}})


def test_a_lower_limit_binds_where_the_best_within_an_upper_one_is_too_cheap() -> None:
    rows = [(10, 0.1), (15, 0.5), (20, 0.2)]
    costs = {'macs': tuple((cost,) for cost, _ in rows)}
    cell = CellRatings((0,), (8,), 12, (((0,),), ((1,),), ((2,),)), tuple(rating for _, rating in rows), costs)
    value = Ratings(SPACE, SIZE, ('macs',), (BlockRatings((0,), (cell,)),))
    picked = {
        (12, 18): 1, (11, None): 2, (None, 19): 0, (10, 20): 0,
    }  # fmt: skip
    for (least, most), index in picked.items():
        assert select(value, {'macs': {'min': least, 'max': most}}).chosen.choice == (index,)
    with pytest.raises(ValueError, match='not together'):
        select(value, {'macs': {'min': 16, 'max': 18}})


def test_a_limit_that_limits_nothing_is_said() -> None:
    most = select(ratings()).ranges['macs'][1]
    for limit in (most, math.inf):
        found = select(ratings(), {'macs': limit})
        assert found.chosen == select(ratings()).chosen
        assert f'limits.macs.max of {limit / 1e9:.4g} G multiply-adds limits nothing' in found.describe()
    assert 'limits nothing' not in select(ratings(), {'macs': most - 1}).describe()


def test_limits_that_cannot_be_met_together() -> None:
    # by hand: the cheap entry of one metric is the expensive one of the other
    cells = (
        CellRatings((0,), (8,), 12, (((0,),), ((1,),)), (0.1, 0.2), {'macs': ((10,), (20,)), 'params': ((6,), (3,))}),
    )
    value = Ratings(SPACE, SIZE, ('macs', 'params'), (BlockRatings((0,), cells),))
    assert select(value, {'macs': 10}).chosen == ChainChoice((10, 6), 0.1, (0,))
    assert select(value, {'params': 3}).chosen == ChainChoice((20, 3), 0.2, (1,))
    assert select(value, {'params': 6, 'macs': 20}).chosen.choice == (0,)
    with pytest.raises(
        ValueError, match='not together, got macs 10, params 3: .* macs from 10 to 20, at least 20 under'
    ):
        select(value, {'macs': 10, 'params': 3})


def test_the_range_of_many_networks_is_found_without_listing_them() -> None:
    rng = random.Random(0)
    blocks, ends = [], [0, 0]
    for stage in range(4):
        figures = [(rng.randrange(10**7),) for _ in range(1296)]
        ends = [ends[0] + min(figures)[0], ends[1] + max(figures)[0]]
        paths = tuple(((number,),) for number in range(1296))
        # one rating for all of them: the front is a single network, but the sums are 1296**4
        cell = CellRatings((0,), (12,), 12, paths, (1.0,) * 1296, {'macs': tuple(figures)})
        blocks.append(BlockRatings((stage,), (cell,)))
    selection = Selection(Ratings(SPACE, SIZE, ('macs',), tuple(blocks)), 'macs', None, {}, None)
    assert selection.ranges == {'macs': tuple(ends)}


def test_networks_of_the_front_are_spread_over_its_costs() -> None:
    # by hand: costs 0..100 in steps of 10, each a network of its own
    cells = [{'channels': 4 * (n + 1), 'layers': [['k3_e3']]} for n in range(11)]
    space = CellSpace.parse({'stem_channels': 8, 'stages': [{'stride': 1, 'cells': cells}]})
    rated = tuple(
        CellRatings((n,), (8,), 4 * (n + 1), (((0,),),), (1 - n / 100,), {'macs': ((10 * n,),)}) for n in range(11)
    )
    value = Ratings(space, SIZE, ('macs',), (BlockRatings((0,), rated),))

    def costs(count: int, limit: int | None = None) -> list[int]:
        selection = select(value, {'macs': limit} if limit else {})
        choices = selection.spread(count)
        assert selection.chosen.choice in choices
        assert [value.costs(choice)['macs'] for choice in choices] == sorted(10 * c for (c,) in choices)
        return [10 * c for (c,) in choices]

    assert costs(3) == [0, 50, 100]
    assert costs(6) == [0, 20, 40, 60, 80, 100]
    assert costs(3, 70) == [0, 70, 100]  # the chosen one stands for the target that it is nearest to
    assert costs(1, 70) == [70]
    assert costs(11) == costs(99) == list(range(0, 101, 10))  # as many as there are


def test_the_chosen_network_is_among_them_where_it_is_not_on_the_front() -> None:
    value = ratings()
    most = select(value).ranges['params'][1]
    selection = select(value, {'macs': {'min': 1}, 'params': {'min': most}})
    on_front = [tuple(row) for row in selection.front.choices.tolist()]
    for count in (1, 2, 4):
        found = selection.spread(count)
        assert selection.chosen.choice in found
        assert len({value.arch(choice) for choice in found}) == len(found) == count
        assert set(found) <= {*on_front, selection.chosen.choice}
    assert value.rating(selection.chosen.choice) == selection.chosen.rating
    assert value.costs(selection.chosen.choice) == selection.costs


def test_one_file_holds_the_exact_front_and_the_measured_networks(tmp_path: Path) -> None:
    selection = select(ratings(), {'macs': 10**9})
    network = MeasuredNetwork(selection.arch, selection.costs, {'feature_error': 0.5}, 1.0, 'chosen')
    measured = MeasuredFront('macs', 'feature_error', 'less', (network,), selection.limits)
    selection.write(tmp_path, measured)
    assert MeasuredFront.parse(tmp_path) == measured
    with_, without = json.loads((tmp_path / 'front.json').read_text()), json.loads(selection.format())
    assert {name: with_[name] for name in without} == without
    assert FrontFile.parse(tmp_path, ratings()).choice == selection.chosen.choice
