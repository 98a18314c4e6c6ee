"""Draws within a cost limit against brute force: every path of a small space, its network and its cost."""

import itertools
import random
from collections import Counter

import pytest

from mmnas_ext.archs import ArchSpec, Prices, SearchSpace, SpaceStage, prices, zoo
from mmnas_ext.search import sample_within

SIZE = (64, 96)
# skips in the middle, a layer without any, one without a choice, candidates that only some layers offer
SPACE = SearchSpace(
    (
        SpaceStage(8, 4, (('k3_e1',),), 1),
        SpaceStage(4, 8, (('k3_e3', 'k5_e6'), ('k3_e3', 'skip'), ('k3_e3', 'k7_e6', 'skip'), ('k3_e3', 'skip')), 2),
        SpaceStage(8, 8, (('k3_e3', 'k5_e3'), ('k3_e3', 'skip'), ('k3_e3',), ('k5_e6', 'skip')), 2),
    )
)
PRICES = prices(SPACE, SIZE)


def all_networks(space, priced):
    """Cost of every network, by trying every path."""
    found = {}
    layers = [layer for stage in space.stages for layer in stage.layers]
    for choice in itertools.product(*(range(len(layer)) for layer in layers)):
        left = iter(choice)
        path = tuple(tuple(next(left) for _ in stage.layers) for stage in space.stages)
        cost = found.setdefault(space.arch(path), priced.path(path))
        assert cost == priced.path(path)
    return found


NETWORKS = all_networks(SPACE, PRICES)


def within(low, high):
    return {arch for arch, cost in NETWORKS.items() if low <= cost <= high}


def drawn(count, seed=0, **limits):
    return [SPACE.arch(path) for path in sample_within(SPACE, PRICES, count, seed, **limits)]


def test_the_space_is_one_where_paths_and_networks_differ():
    # by hand: 2 x (2, 3 or 2 candidates) paths, of which words over the offered blocks stay
    assert SPACE.size == 2 * 2 * 3 * 2 * 2 * 2 * 2
    assert len(NETWORKS) < SPACE.size
    assert len(set(NETWORKS.values())) > 20


@pytest.mark.parametrize('seed', range(3))
def test_as_many_as_there_are_gives_each_once(seed):
    found = drawn(len(NETWORKS), seed)
    assert len(found) == len(NETWORKS)
    assert set(found) == NETWORKS.keys()


def test_limits_are_met_and_themselves_allowed():
    costs = sorted(set(NETWORKS.values()))
    low, high = costs[len(costs) // 3], costs[2 * len(costs) // 3]
    wanted = within(low, high)
    assert 5 < len(wanted) < len(NETWORKS) - 5
    assert set(drawn(len(wanted), min_cost=low, max_cost=high)) == wanted
    inside = within(low + 1, high - 1)
    assert len(inside) < len(wanted)
    assert set(drawn(len(inside), min_cost=low + 0.5, max_cost=high - 0.5)) == inside


@pytest.mark.parametrize('name', ['max_cost', 'min_cost'])
def test_one_limit_alone(name):
    for limit in sorted(set(NETWORKS.values()))[::5]:
        wanted = within(0, limit) if name == 'max_cost' else within(limit, float('inf'))
        assert set(drawn(len(wanted), **{name: limit})) == wanted


def test_a_single_network_at_its_own_cost():
    cheapest = min(NETWORKS, key=NETWORKS.get)
    limit = NETWORKS[cheapest]
    assert drawn(1, min_cost=limit, max_cost=limit) == [cheapest]


def test_every_network_within_the_limits_is_equally_likely():
    costs = sorted(NETWORKS.values())
    limits = dict(min_cost=costs[10], max_cost=costs[-10])
    wanted = within(costs[10], costs[-10])
    counts = Counter(drawn(1, seed, **limits)[0] for seed in range(12 * len(wanted)))
    assert counts.keys() == wanted
    chi_square = sum((count - 12) ** 2 / 12 for count in counts.values())
    freedom = len(wanted) - 1
    # mean and deviation of the statistic; a skip's places counted apart would give several times the mean
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


def test_second_draws_are_uniform_too():
    limit = sorted(NETWORKS.values())[4]
    wanted = within(0, limit)
    pairs = Counter(tuple(drawn(2, seed, max_cost=limit)) for seed in range(25 * len(wanted) * (len(wanted) - 1)))
    assert pairs.keys() == set(itertools.permutations(wanted, 2))
    freedom = len(pairs) - 1
    assert abs(sum((count - 25) ** 2 / 25 for count in pairs.values()) - freedom) < 4 * (2 * freedom) ** 0.5


def test_a_longer_draw_extends_a_shorter_one():
    for space, limit in ((SPACE, None), (zoo.space('fna_det'), 3.2e9)):
        priced = prices(space, (800, 1088))
        longest = sample_within(space, priced, 30, 4, max_cost=limit)
        for count in (1, 2, 17, 29):
            assert sample_within(space, priced, count, 4, max_cost=limit) == longest[:count]


def test_the_seed_alone_decides():
    state = random.getstate()
    first, again, other = drawn(12, 7), drawn(12, 7), drawn(12, 8)
    assert first == again
    assert first != other
    assert random.getstate() == state


def coarse(name, low, high, count=40):
    """Draws from a published space, whose costs are counted in bins."""
    space = zoo.space(name)
    priced = prices(space, (800, 1088), 16)
    paths = sample_within(space, priced, count, 1, low, high)
    return space, priced, paths


@pytest.mark.parametrize(('name', 'high', 'low'), [('fna_det', 3e9, 2.99e9), ('fna_seg', 8e9, 7.99e9)])
def test_narrow_limits_of_a_large_space_are_met(name, high, low):
    space, priced, paths = coarse(name, high, low)
    assert all(low <= priced.path(path) <= high for path in paths)
    archs = [space.arch(path) for path in paths]
    assert len(set(archs)) == 40
    assert len({priced.path(path) for path in paths}) > 20


def test_a_large_space_is_drawn_from_uniformly():
    """Lengths of the third stage: 6 first blocks, then words of 0 to 3 over 6 blocks; no limit, so no other weights."""
    space, _, paths = coarse('fna_det', None, None, 6000)
    lengths = Counter(len(space.arch(path).stages[2].specs) for path in paths)
    total = sum(6**n for n in range(4))
    expected = {n + 1: 6000 * 6**n / total for n in range(4)}
    chi_square = sum((lengths[n] - wanted) ** 2 / wanted for n, wanted in expected.items())
    assert chi_square < 16.3  # 3 degrees of freedom, one in a thousand


def test_the_same_network_is_not_drawn_again_in_a_large_space():
    space = zoo.space('fna_det')
    priced = prices(space, (800, 1088))
    # some 45 000 networks: too many to be listed, and of 3000 draws with repetition 100 would be repeated
    limit = priced.range()[0] * 1.25
    archs = [space.arch(path) for path in sample_within(space, priced, 3000, 0, limit)]
    assert len(set(archs)) == 3000


def test_skips_stand_last_where_all_layers_are_alike():
    for path in coarse('fna_det', 4e9, None)[2]:
        for stage in path[1:6]:
            skips = [choice == 6 for choice in stage]
            assert skips == sorted(skips)


def test_latencies_are_limited_to_the_nanosecond():
    space = SearchSpace((SpaceStage(8, 4, (('k3_e3', 'k5_e3', 'k7_e3'),) * 3, 1),))
    priced = Prices('latency', 0.1, (((0.303, 0.305, 0.307),) * 3,))
    # kernels add up to 9, 11, 13 …: 0.1 + 0.9 + 0.009 or 0.011 is allowed, in floats that is hardly 1.011
    found = sample_within(space, priced, 4, 0, max_cost=1.011)
    kernels = [sorted(3 + 2 * choice for choice in path[0]) for path in found]
    assert sorted(kernels) == [[3, 3, 3], [3, 3, 5], [3, 3, 5], [3, 3, 5]]
    with pytest.raises(ValueError, match=r'count must be at most 4, got 5'):
        sample_within(space, priced, 5, 0, max_cost=1.011)


def test_a_limit_out_of_reach_names_the_range():
    cheapest, most_expensive = min(NETWORKS.values()), max(NETWORKS.values())
    reach = f'those of this space cost {cheapest / 1e9:.4g} to {most_expensive / 1e9:.4g} G multiply-adds'
    with pytest.raises(ValueError, match=f'no network costs at most .*: {reach}'):
        drawn(1, max_cost=cheapest - 1)
    with pytest.raises(ValueError, match=f'no network costs at least .*: {reach}'):
        drawn(1, min_cost=most_expensive + 1)


def test_more_than_there_are_says_how_many_there_are():
    with pytest.raises(ValueError, match=f'count must be at most {len(NETWORKS)}, got {len(NETWORKS) + 1}'):
        drawn(len(NETWORKS) + 1)
    costs = sorted(set(NETWORKS.values()))
    gap = max(range(len(costs) - 1), key=lambda i: costs[i + 1] - costs[i])
    with pytest.raises(ValueError, match=r'count must be at most 0, got 1: no more networks .* at least .* at most'):
        drawn(1, min_cost=costs[gap] + 1, max_cost=costs[gap + 1] - 1)


def test_limits_too_narrow_for_a_large_space():
    with pytest.raises(ValueError, match=r'found only \d+ of count=20 networks at least 3 G .*too narrow'):
        coarse('fna_det', 3e9 + 2, 3e9, 20)


@pytest.mark.parametrize('count', [0, -1, 1.0, True, '3'])
def test_a_count_that_is_none(count):
    with pytest.raises(ValueError, match=f'count must be a positive integer, got {count!r}'):
        sample_within(SPACE, PRICES, count, 0)


@pytest.mark.parametrize('name', ['min_cost', 'max_cost'])
@pytest.mark.parametrize('limit', ['3G', float('nan'), float('inf'), True])
def test_a_limit_that_is_none(name, limit):
    with pytest.raises(ValueError, match=f'{name} must be a finite number or None, got {limit!r}'):
        drawn(1, **{name: limit})


def test_limits_the_wrong_way_round():
    with pytest.raises(ValueError, match=r'min_cost must be at most max_cost, got at least 0.002 G .* at most 0.001 G'):
        drawn(1, min_cost=2e6, max_cost=1e6)


def test_prices_of_another_space():
    with pytest.raises(ValueError, match='prices must be those of the space'):
        sample_within(zoo.space('fna_det'), PRICES, 1, 0)


def test_prices_that_give_one_network_two_costs():
    space = SearchSpace((SpaceStage(8, 8, (('k3_e3',), ('k3_e3', 'skip'), ('k3_e3', 'skip')), 1),))
    uneven = Prices('macs', 1, (((1,), (5, 0), (6, 0)),))
    with pytest.raises(ValueError, match=r"prices of 'k3_e3' must be equal in layers \[1, 2\] of stage 0"):
        sample_within(space, uneven, 1, 0)
    paid = Prices('macs', 1, (((1,), (5, 1), (5, 1)),))
    with pytest.raises(ValueError, match='a skip free'):
        sample_within(space, paid, 1, 0)


def test_a_stage_that_places_skips_in_too_many_ways():
    kinds = ['k3_e1', 'k3_e2', 'k3_e3', 'k3_e4', 'k3_e5', 'k3_e6']
    draw = random.Random(1)
    layers = [tuple(draw.sample(kinds, 3)) + ('skip',) * (draw.random() < 0.7) for _ in range(60)]
    space = SearchSpace((SpaceStage(8, 8, (('k3_e1',), *layers), 1),))
    with pytest.raises(ValueError, match='more than 2000 ways to place skips'):
        sample_within(space, prices(space, SIZE), 1, 0)


def test_what_is_drawn_is_a_network_of_the_space():
    for arch in drawn(20, 3):
        assert isinstance(arch, ArchSpec)
        assert arch in SPACE
