"""Evolution on fitness that is known for every network, so that the best one is found by looking at all."""

import itertools
import math
from dataclasses import replace

import pytest

from mmnas_ext.archs import Limit, SearchSpace, SpaceStage, prices
from mmnas_ext.search import sample_within
from mmnas_ext.search.evolution import CROSSED, DRAWN, MUTATED, SEED, Evolution, Evolving, Member, undominated
from mmnas_ext.search.sampling import draw_within

SIZE = (32, 32)
ROW = ('k3_e3', 'k5_e3', 'k3_e6', 'k5_e6', 'skip')
SPACE = SearchSpace(
    (
        SpaceStage(8, 4, (('k3_e1',),), 1),
        SpaceStage(4, 8, (ROW[:4], ROW, ROW), 2),
        SpaceStage(8, 8, (ROW[:4], ROW), 1),
    )
)
PRICED = prices(SPACE, SIZE)
PATHS = [((0,), row[:3], row[3:]) for row in itertools.product(range(4), range(5), range(5), range(4), range(5))]
# one path for each network, and what it costs
COSTS = {SPACE.path(SPACE.arch(path)): PRICED.path(path) for path in PATHS}
LIMIT = Limit(1.2 * min(COSTS.values()), sorted(COSTS.values())[len(COSTS) // 2])
INSIDE = {path for path, cost in COSTS.items() if LIMIT.min <= cost <= LIMIT.max}
SMALL = Evolving(population=10, generations=6, parents=4, seed=3)
# what a candidate of a layer is worth: any numbers, but for `skip` none that a limit would ask for
WORTH = [[math.sin(7 * layer + 3 * choice) for choice in range(5)] for layer in range(5)]


def value(path):
    """Lower is better; a sum over layers, as if each had an effect of its own."""
    return sum(row[choice] for row, choice in zip(WORTH, (*path[1], *path[2]), strict=True))


def evolved(settings=SMALL, limit=LIMIT, start=None, fitness=lambda paths: list(map(value, paths))):
    evolution = Evolution(SPACE, PRICED, limit, settings, fitness, start)
    assert list(evolution.run()) == evolution.generations
    return evolution


def changed(one, other):
    return sum(a != b for a, b in zip((*one[1], *one[2]), (*other[1], *other[2]), strict=True))


@pytest.mark.parametrize('seed', range(4))
def test_the_best_network_within_the_limit_is_found_and_few_are_measured(seed):
    best = min(INSIDE, key=value)
    assert value(best) > min(map(value, COSTS))  # the limit matters
    found = evolved(replace(SMALL, generations=16, seed=seed))
    assert len(found.members) == 160 < len(INSIDE) / 3
    assert found.ranked()[0].path == best
    assert found.ranked()[0].cost == COSTS[best]
    # uniform draws of as many networks do worse on average than what is bred
    means = [sum(each.value for each in row) / len(row) for row in found.generations]
    assert means[-1] < means[0]


def test_nothing_is_measured_twice_and_everything_lies_within_the_limit():
    asked = []
    found = evolved(fitness=lambda paths: (asked.append(paths), list(map(value, paths)))[1])
    paths = [path for row in asked for path in row]
    assert paths == [each.path for each in found.members]
    assert [len(row) for row in asked] == [10] * 6
    assert len({SPACE.arch(path) for path in paths}) == len(paths)
    assert set(paths) <= INSIDE
    assert [(each.cost, each.value) for each in found.members] == [(COSTS[p], value(p)) for p in paths]
    assert [each.made for each in found.generations[0]] == [DRAWN] * 10
    for row in found.generations[1:]:
        # where nothing new can be bred of the parents, a network is drawn
        assert {each.made for each in row[:5]} <= {CROSSED, DRAWN}
        assert {each.made for each in row[5:]} <= {MUTATED, DRAWN}
    assert {CROSSED, MUTATED, DRAWN} == {each.made for row in found.generations for each in row}


def test_the_first_generation_is_the_uniform_draw():
    drawn = sample_within(SPACE, PRICED, 10, 3, LIMIT.max, LIMIT.min)
    assert [SPACE.arch(each.path) for each in evolved().generations[0]] == list(map(SPACE.arch, drawn))
    more = itertools.islice(draw_within(SPACE, PRICED, 3, LIMIT.max, LIMIT.min), 14)
    assert list(more) == sample_within(SPACE, PRICED, 14, 3, LIMIT.max, LIMIT.min)


def test_the_seed_starts_where_the_limit_lets_it():
    inside, outside = max(INSIDE, key=value), max(set(COSTS) - INSIDE, key=value)
    first = evolved(start=inside).generations[0]
    assert [(each.path, each.made) for each in first[:2]] == [(inside, SEED), (evolved().generations[0][0].path, DRAWN)]
    assert len(first) == 10
    assert evolved(start=outside).generations == evolved().generations


def test_equal_settings_give_equal_generations_and_each_setting_others():
    base = evolved()
    assert evolved().generations == base.generations
    # a longer one extends a shorter one
    assert evolved(replace(SMALL, generations=3)).generations == base.generations[:3]
    for change in (dict(seed=4), dict(parents=2), dict(mutate=0.5), dict(crossover=0.2), dict(population=9)):
        other = evolved(replace(SMALL, **change))
        assert other.generations[1:] != base.generations[1:], change
        # only the seed changes what is drawn
        assert (other.generations[0][:9] == base.generations[0][:9]) == ('seed' not in change), change


def test_crossed_children_have_each_layer_from_one_of_the_best():
    found = evolved(replace(SMALL, parents=3, crossover=1.0))
    known = []
    for row in found.generations:
        best = [each.path for each in sorted(known, key=lambda each: each.value)[:3]]
        known += row
        for child in (each.path for each in row if each.made == CROSSED):
            # the layers behind it may move up to where a skip was: those of this stage cannot
            assert all(any(child[2][j] == parent[2][j] for parent in best) for j in range(2))
    assert sum(each.made == CROSSED for each in known) >= 10


def test_mutated_children_are_the_nearer_to_a_parent_the_less_is_mutated():
    def distance(share):
        found = evolved(replace(SMALL, mutate=share, crossover=0.0, generations=2))
        best = [each.path for each in sorted(found.generations[0], key=lambda each: each.value)[:4]]
        bred = [each.path for each in found.generations[1]]
        assert {each.made for each in found.generations[1]} == {MUTATED}
        return sum(min(changed(child, parent) for parent in best) for child in bred) / len(bred)

    assert distance(0.02) < 1.7 < distance(1.0)


def test_what_failed_has_no_children():
    bad = {each.path for each in evolved().generations[0][:9]}
    seen = []

    def fitness(paths):
        seen.extend(paths)
        return [math.nan if path in bad else value(path) for path in paths]

    found = evolved(replace(SMALL, generations=2, mutate=0.05), fitness=fitness)
    (parent,) = [each.path for each in found.generations[0] if math.isfinite(each.value)]
    assert all(each.value == math.inf for each in found.generations[0] if each.path in bad)
    assert all(changed(e.path, parent) <= 3 for e in found.generations[1] if e.made == MUTATED)
    # one parent cannot be crossed
    assert CROSSED not in {each.made for each in found.generations[1]}
    assert bad.isdisjoint(each.path for each in found.ranked())
    with pytest.raises(ValueError, match='none of the 10 networks of the first generation has a finite value'):
        evolved(fitness=lambda paths: [math.inf] * len(paths))


def test_it_ends_where_no_network_is_left():
    costs = sorted(set(COSTS.values()))
    narrow = Limit(costs[20], costs[24])
    inside = {path for path, cost in COSTS.items() if narrow.min <= cost <= narrow.max}
    found = evolved(replace(SMALL, population=4, generations=40), narrow)
    assert {each.path for each in found.members} == inside
    assert len(found.generations) < 40


def test_the_undominated_are_those_that_none_beats():
    rows = [(1, 5.0), (2, 5.0), (2, 4.0), (3, 4.5), (4, 1.0), (4, 2.0), (5, math.inf)]
    members = [Member(((n,),), cost, worth, DRAWN) for n, (cost, worth) in enumerate(rows)]
    assert [(each.cost, each.value) for each in undominated(members)] == [(1, 5.0), (2, 4.0), (4, 1.0)]


def test_settings_are_read():
    read = Evolving.parse(dict(population=8, parents=8, rank_by='mIoU', rule='less', images=None, seed=0))
    assert (read.population, read.rank_by, read.better, read.by_loss) == (8, 'mIoU', 'less', False)
    # what a base has is taken back by None
    assert Evolving.parse(dict(rank_by='mIoU', batches=None, window=None)) == Evolving(rank_by='mIoU')
    assert Evolving.parse(dict(rank_by=None, images=None)) == Evolving(images=None)
    assert (Evolving().better, Evolving(rank_by='mIoU').better) == ('less', 'greater')
    # SPOS, section 4: of 50 networks in each of 20 generations the 10 best, of whose children half cross
    assert (Evolving().population, Evolving().generations, Evolving().parents, Evolving().crossed) == (50, 20, 10, 25)


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (7, 'evolution must be a dict, got 7'),
        (dict(populations=3), r"evolution takes \['population', .*, got \['populations'\]"),
        (dict(population=0), 'evolution.population must be a positive integer, got 0'),
        (dict(generations=True), 'evolution.generations must be a positive integer, got True'),
        (dict(seed=-1), 'evolution.seed must be an integer of at least 0, got -1'),
        (dict(final_batches=1), 'evolution.final_batches must be an integer of at least 2, got 1'),
        (dict(parents=51), 'evolution.parents must be at most evolution.population, 50, got 51'),
        (dict(finalists=60), 'evolution.finalists must be at most evolution.population, 50, got 60'),
        (dict(mutate=0), r'evolution.mutate must be a number in \(0, 1\], got 0'),
        (dict(crossover=1.5), r'evolution.crossover must be a number in \[0, 1\], got 1.5'),
        (dict(window='x'), r"evolution.window must be a number in \[0, 1\], got 'x'"),
        (dict(start_with_seed=1), 'evolution.start_with_seed must be True or False, got 1'),
        (dict(rank_by=''), "evolution.rank_by must be 'loss' or name a metric, got ''"),
        (dict(rank_by='mIoU', rule='more'), r"evolution.rule must be one of \('greater', 'less'\), got 'more'"),
        (dict(rule='greater'), "evolution.rule must be one of .*'less' of a loss.*, got 'greater'"),
        (dict(parents=1), 'evolution.parents must be at least 2 where crossover is 0.5, got 1'),
        (dict(images=8), "evolution.images has no effect where networks are ranked by 'loss'"),
        (dict(rank_by='mIoU', batches=8), "evolution.batches has no effect where networks are ranked by 'mIoU'"),
    ],
)
def test_settings_out_of_range_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Evolving.parse(given)


def test_further_batches_are_no_more_than_the_half_has():
    settings = Evolving(batches=4, final_batches=16)
    settings.check_batches(20)
    with pytest.raises(ValueError, match=r'final_batches must be at most 19 together, the batches .*, got 4 and 16'):
        settings.check_batches(19)
    by_metric = Evolving(rank_by='mIoU', final_batches=16)
    by_metric.check_batches(16)
    with pytest.raises(ValueError, match='^evolution.final_batches must be at most 15, the batches of the .*, got 16'):
        by_metric.check_batches(15)
