"""A choice by measured losses: finds what is best, does not believe luck, uses what is allowed, says how sure it is.

Losses are made up: the sum of a true effect per candidate, and noise of each network on each batch.
"""

import itertools
import math

import numpy as np
import pytest

from mmnas_ext.archs import Limit, SearchSpace, SpaceStage, prices
from mmnas_ext.search.belief import distance
from mmnas_ext.search.decision import normal
from mmnas_ext.search.measure import Chooser, Measuring, caution, window

CONVS = ('k3_e3', 'k5_e3', 'k3_e6', 'k5_e6')
SPACE = SearchSpace(
    (
        SpaceStage(8, 8, (('k3_e1',),), 1),
        SpaceStage(8, 8, (CONVS, (*CONVS, 'skip')), 2),
        SpaceStage(8, 8, (CONVS, (*CONVS, 'skip')), 1),
    )
)
PRICED = prices(SPACE, (32, 32))
REFERENCE = ((0,), (0, 0), (0, 0))
FEW = Measuring(first=2, networks=4, rounds=1, batches=3, finalists=2, most=6)
EVERY = [((0,), (a, b), (c, d)) for a, b, c, d in itertools.product(range(4), range(5), range(4), range(5))]
CHEAP = Measuring(first=2, networks=4, rounds=2, batches=3, finalists=3, most=12)
COSTS = sorted(PRICED.path(path) for path in EVERY)
MIDDLE = COSTS[len(COSTS) // 2]


class World:
    """True effects by (stage, layer, candidate), and noise; what is measured is noted.

    Losses of a pair in `special` are as given there, by path or by path and batch.
    """

    def __init__(self, effects=None, noise=0.0, seed=0, special=None):
        self.effects, self.noise, self.rng = effects or {}, noise, np.random.default_rng(seed)
        self.special, self.known, self.calls = special or {}, {}, []

    def truth(self, path):
        choices = ((i, j, c) for i, row in enumerate(path) for j, c in enumerate(row))
        return sum(self.effects.get(key, 0.0) for key in choices)

    def loss(self, path, batch):
        if (path, batch) not in self.known:
            loss = 2.0 + batch + self.truth(path) + self.noise * self.rng.standard_normal()
            self.known[path, batch] = self.special.get(path, self.special.get((path, batch), loss))
        return self.known[path, batch]

    def rate(self, paths, positions):
        self.calls.append((len(paths), len(positions)))
        return np.array([[self.loss(path, batch) for batch in positions] for path in paths])

    def chooser(self, settings=CHEAP, reference=REFERENCE):
        return Chooser(SPACE, PRICED, reference, self.rate, settings)

    def decided(self, limit=None, settings=CHEAP):
        chooser = self.chooser(settings)
        chooser.explore()
        ranked = chooser.search(limit or Limit())
        return chooser.decide(ranked, limit or Limit()), ranked, chooser


def random_effects(seed):
    """Effects of which those of expensive candidates are mostly better, as they are."""
    rng = np.random.default_rng(seed)
    layers = [(1, 0, CONVS), (1, 1, (*CONVS, 'skip')), (2, 0, CONVS), (2, 1, (*CONVS, 'skip'))]
    worth = {'k3_e3': 0.0, 'k5_e3': -0.1, 'k3_e6': -0.2, 'k5_e6': -0.25, 'skip': 0.15}
    return {(i, j, c): worth[t] + 0.1 * rng.standard_normal() for i, j, row in layers for c, t in enumerate(row)}


@pytest.mark.parametrize(
    ('seed', 'limit'),
    list(enumerate([Limit(), Limit(None, MIDDLE), Limit(MIDDLE, None), Limit(0.7 * MIDDLE, MIDDLE)])),
)
def test_the_best_network_within_a_limit_is_found(seed, limit):
    world = World(random_effects(seed), noise=0.02, seed=seed)
    found, ranked, chooser = world.decided(limit, Measuring(first=3, networks=4, rounds=2, most=12))
    inside = [path for path in EVERY if limit.min is None or PRICED.path(path) >= limit.min]
    inside = [path for path in inside if limit.max is None or PRICED.path(path) <= limit.max]
    assert 0 < len(inside) <= len(EVERY)
    # within the noise of the mean over the last halving's batches, of the difference of two
    assert world.truth(found) - min(map(world.truth, inside)) < 3 * 0.02 * math.sqrt(2 / 12)
    assert found in inside
    assert all(chooser.meets(path, limit) for path in ranked)


def test_luck_alone_replaces_no_reference():
    """Winner's curse: of many networks that are all alike some seem better."""
    kept, lucky = 0, 0
    for seed in range(40):
        found, ranked, chooser = World(noise=1.0, seed=seed).decided(settings=FEW)
        kept += found == REFERENCE
        lucky += min(chooser.belief.measured.mean(path) for path in ranked) < -0.5
    assert lucky >= 16
    assert kept >= 36


@pytest.mark.parametrize('batches', [1, 2, 3])
def test_luck_alone_replaces_no_reference_where_images_are_few(batches):
    """What all networks share with the reference was seen on few batches, however many networks there are."""
    kept = [World(noise=1.0, seed=n).decided(settings=Measuring().within(batches))[0] == REFERENCE for n in range(30)]
    assert sum(kept) >= 29


def test_caution_is_students():
    assert [caution(2.0, n) for n in (2, 3, 24)] == pytest.approx([13.97, 4.53, 2.11], abs=0.01)
    assert caution(2.0, 1) == caution(math.inf, 24) == caution(40.0, 24) == math.inf
    assert caution(0.0, 1) == caution(0.0, 24) == 0.0


def test_one_bad_candidate_decides_nothing_about_the_others():
    better, bad = {(1, 1, 4): -0.5}, ((0,), (0, 0), (0, 3))
    spikes = [{}, {(bad, 1): 30.0}, {(bad, 1): math.inf}, {bad: 1e6}]
    for special in spikes:
        told = []
        chooser = World(better, noise=0.1, special=special).chooser(Measuring(networks=4, rounds=2))
        chooser.told = told.append
        chooser.explore()
        assert chooser.decide(chooser.search(Limit()), Limit())[1][1] == 4, special
        assert any('are far from all others' in text for text in told) == (special in spikes[1::2]), special
        nothing, _, _ = World(noise=0.1, special=special).decided(settings=Measuring(networks=4, rounds=2))
        assert nothing == REFERENCE, special


def test_a_network_of_few_batches_hides_no_surer_one():
    """Both are ranked by what they surely stay below, by as many batches as each has."""
    chooser = World(noise=0.1).chooser(Measuring(first=24))
    few, many = ((0,), (0, 1), (0, 0)), ((0,), (0, 0), (0, 1))
    rng = np.random.default_rng(0)
    chooser._differences = {
        path: dict(enumerate(mean + 0.1 * rng.standard_normal(count)))
        for path, mean, count in ((few, -0.5, 2), (many, -0.3, 24), *((s, 0.0, 24) for s in chooser.singles()[2:]))
        if path not in (few, many) or mean
    }
    ranked = chooser.ranked([few, many])
    assert ranked[0] == many == chooser.decide(ranked, Limit())


SKIPPABLE = SearchSpace((SpaceStage(8, 8, (CONVS[:2], *[(*CONVS[:2], 'skip')] * 3), 1),))


def test_a_network_is_one_whatever_the_places_of_its_skips():
    """Its layers' order is what weights are remapped by: else the reference might be found to beat itself."""
    priced, reference = prices(SKIPPABLE, (32, 32)), ((0, 0, 2, 2),)
    effects = {(0, 1, 2): -0.5, (0, 2, 0): -0.5, (0, 3, 1): -0.2}  # best is the reference's network, told otherwise
    world = World(effects, noise=0.01)
    chooser = Chooser(SKIPPABLE, priced, reference, world.rate, Measuring())
    chooser.explore()
    limit = Limit(None, priced.path(reference))
    ranked = chooser.search(limit)
    archs = [SKIPPABLE.arch(path) for path in (reference, *ranked)]
    assert len(set(archs)) == len(archs) > 2
    points = [chooser.point(Limit(None, share * limit.max), 4) for share in (0.6, 0.8, 1.0)]
    assert all(path is None or path == chooser.usual(path) for path in points)
    assert chooser.usual(((0, 2, 0, 2),)) == reference


def test_where_the_reference_is_the_best_at_a_cost_it_is_the_point():
    world = World({(i, j, c): 0.2 for i in (1, 2) for j in (0, 1) for c in range(1, 5)}, noise=0.01)
    chooser = world.chooser()
    chooser.explore()
    assert chooser.point(Limit(0.9 * PRICED.path(REFERENCE), PRICED.path(REFERENCE)), 4) == REFERENCE
    dearer = Limit(PRICED.path(REFERENCE) + 1)
    assert chooser.meets(chooser.point(dearer, 4), dearer)


def test_what_is_surely_better_replaces_it_where_the_limit_lets_it():
    world = World({(1, 1, 4): -1.0, (2, 0, 3): -2.0}, noise=0.3)
    found, _, chooser = world.decided()
    assert (found[1][1], found[2][0]) == (4, 3)
    expected, error = chooser.belief.network(found)
    assert expected == pytest.approx(-3, abs=0.5)
    assert expected + 2 * error < 0
    # one of no effect at all: no deviations are asked for, and the first is taken
    careless = World(noise=1.0, seed=3).decided(settings=Measuring(**{**vars(CHEAP), 'certain': 0.0}))
    assert careless[0] != REFERENCE
    assert careless[0] == careless[1][0]


def test_a_reference_outside_of_the_limit_is_never_kept():
    limit = Limit(PRICED.path(REFERENCE) + 1, None)
    found, ranked, _ = World(noise=1.0).decided(limit)
    assert found == ranked[0]
    assert PRICED.path(found) > PRICED.path(REFERENCE)


def test_where_only_the_reference_costs_as_much_it_is_kept():
    cheapest = min(EVERY, key=PRICED.path)
    world = World(noise=0.1)
    chooser = world.chooser(reference=cheapest)
    chooser.explore()
    limit = Limit(None, PRICED.path(cheapest))
    assert chooser.search(limit) == []
    assert chooser.decide([], limit) == cheapest
    with pytest.raises(ValueError, match='no network that costs at least .* multiply-adds has a finite loss'):
        chooser.decide([], Limit(PRICED.path(cheapest) + 1, None))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('bad', [math.inf, math.nan])
def test_a_network_of_infinite_loss_is_not_chosen(bad):
    best = ((0,), (3, 3), (3, 3))
    effects = {(i, j, 3): -1.0 for i in (1, 2) for j in (0, 1)}
    assert World(effects, noise=0.1).decided()[0] == best
    found, ranked, chooser = World(effects, noise=0.1, special={best: bad}).decided()
    assert best not in ranked
    assert found != best
    assert World(effects).truth(found) <= -2
    assert all(math.isfinite(chooser.belief.measured.mean(path)) for path in ranked)
    # a candidate that breaks whatever it is put into is the worst of its layer
    single = ((0,), (1, 0), (0, 0))
    chooser = World(effects, noise=0.1, special={single: bad}).chooser()
    chooser.explore()
    effects_of_first = chooser.belief.by_layer(chooser.belief.posterior[0])[0]
    assert np.argmax(effects_of_first) == 1
    assert np.isfinite(effects_of_first).all()


@pytest.mark.filterwarnings('error')
def test_batches_on_which_the_reference_has_no_loss_say_nothing():
    chooser = World({(1, 0, 1): 0.5}, special={(REFERENCE, 0): math.inf}).chooser()
    chooser.explore()
    path = ((0,), (1, 0), (0, 0))
    assert chooser.belief.measured.count(path) == 1
    assert chooser.belief.measured.mean(path) == pytest.approx(0.5)
    chooser = World(special={REFERENCE: math.nan}).chooser()
    with pytest.raises(ValueError, match='loss of the reference network must be finite, got none in 2 held-out'):
        chooser.explore()


def test_proposals_are_distinct_within_the_limit_and_not_the_reference():
    chooser = World(random_effects(0), noise=0.2).chooser()
    chooser.explore()
    limit = Limit(None, MIDDLE)
    found = chooser.propose(6, limit, np.random.default_rng(0))
    assert len(found) == len(set(found)) == 6
    assert REFERENCE not in found
    assert all(PRICED.path(path) <= MIDDLE for path in found)
    assert found == chooser.propose(6, limit, np.random.default_rng(0))
    # also where nothing was found that differs, networks are proposed
    flat = World(noise=1.0, seed=4).chooser()
    flat.explore()
    assert len(flat.propose(4, Limit(), np.random.default_rng(0))) == 4


@pytest.mark.parametrize('limit', [Limit(), Limit(None, MIDDLE), Limit(0.95 * MIDDLE, MIDDLE)])
def test_networks_near_the_best_one_have_the_second_best_among_them(limit):
    chooser = World(random_effects(1), noise=0.1).chooser()
    chooser.explore()
    effects = chooser.belief.cautious(2.0)
    inside = [path for path in EVERY if chooser.meets(path, limit)]
    best, second, *_ = sorted(inside, key=lambda path: chooser.belief.row(path) @ effects)
    near = chooser.near(limit)
    assert chooser.best_within(effects, limit) == best
    assert near[0] == second
    assert best not in near and len(near) <= 4


def test_where_the_reference_is_the_best_its_neighbours_are_measured():
    """The reference costs what is allowed and nothing is better: drawn effects alone would lead far away from it."""
    chooser = World({(i, j, 0): -0.5 for i, j in ((1, 0), (1, 1), (2, 0), (2, 1))}, noise=0.3).chooser()
    chooser.explore()
    limit = Limit(None, 1.2 * PRICED.path(REFERENCE))
    found = chooser.propose(4, limit, np.random.default_rng(0))
    changed = [distance(path, REFERENCE) for path in found]
    assert changed[:2] == [1, 1]
    # what has been measured as a whole is not measured again
    chooser.measure(found[:2], chooser.settings.batches)
    assert not set(found[:2]) & set(chooser.propose(4, limit, np.random.default_rng(0)))


def test_singles_replace_one_layer_each():
    singles = World().chooser().singles()
    assert len(singles) == len(set(singles)) == 3 + 4 + 3 + 4
    for path in singles:
        assert sum(a != b for one, two in zip(path, REFERENCE, strict=True) for a, b in zip(one, two, strict=True)) == 1


def test_batches_double_while_networks_are_halved():
    world = World(random_effects(1), noise=0.05)
    chooser = world.chooser(Measuring(first=2, networks=4, rounds=1, batches=3, finalists=4, most=20))
    chooser.explore()
    chooser.search(Limit())
    # with the reference each time: all singles, a round, then halvings up to the most that is asked for
    assert world.calls == [(15, 2), (5, 3), (5, 6), (3, 12), (2, 20)]


def test_the_same_losses_give_the_same_choice_and_none_is_asked_of_another_batch():
    worlds = [World(random_effects(2), noise=0.3, seed=7) for _ in range(2)]
    one, other = (world.decided(Limit(None, MIDDLE)) for world in worlds)
    assert one[:2] == other[:2]
    assert worlds[0].known == worlds[1].known
    assert max(batch for _, batch in worlds[0].known) == CHEAP.most - 1


def test_a_point_is_the_best_of_what_was_measured_within_its_limit():
    world = World(random_effects(0), noise=0.01)
    _, _, chooser = world.decided()
    limit = window(Limit(None, 0.7 * MIDDLE), 0.9, PRICED.range())
    found = chooser.point(limit, 4)
    inside = [path for path in EVERY if chooser.meets(path, limit)]
    assert world.truth(found) == pytest.approx(min(map(world.truth, inside)), abs=0.03)
    assert chooser.point(Limit(None, COSTS[0] - 1), 4) is None


def test_the_window_uses_what_is_allowed():
    reach = (100.0, 1000.0)
    assert window(Limit(None, 500), 0.95, reach) == Limit(475, 500)
    assert window(Limit(), 0.95, reach) == Limit()
    assert window(Limit(200, 500), 0.95, reach) == Limit(200, 500)
    assert window(Limit(200, None), 0.95, reach) == Limit(200, None)
    # a limit that all meet limits nothing
    assert window(Limit(None, 1000), 0.95, reach) == Limit(None, 1000)
    assert window(Limit(None, 2000), 0.95, reach) == Limit(None, 2000)


def test_layers_are_explained_by_lead_runner_up_and_certainty():
    effects = {(1, 0, c): v for c, v in enumerate((0.0, 0.4, -0.6, 0.2))}
    found, _, chooser = World(effects, noise=0.05).decided(settings=Measuring(most=12))
    first, *others = chooser.explain(found, Limit())
    assert (first.layer, first.chosen, first.runner_up) == ('1.0', 'k3_e6', 'k3_e3')
    assert list(first.scores) == list(CONVS)
    assert first.lead == pytest.approx(0.6, abs=0.1)
    assert first.scores['k3_e6'] == 0
    assert first.scores['k5_e3'] - first.scores['k3_e3'] == pytest.approx(0.4, abs=0.1)
    assert first.certainty == pytest.approx(normal(first.lead / first.error))
    assert first.certainty > 0.99
    assert [each.layer for each in others] == ['1.1', '2.0', '2.1']
    assert all(0.05 < each.certainty < 0.97 for each in others)


def test_the_limit_has_a_price_that_leads_are_counted_at():
    """Every candidate is worth its cost, so that within a limit all are equally good for the money."""
    costs = PRICED.searched()
    effects = {
        (i, j, c): -1e-5 * cost
        for (i, j), name in (((1, 0), '1.0'), ((1, 1), '1.1'), ((2, 0), '2.0'), ((2, 1), '2.1'))
        for c, cost in enumerate(costs[name])
    }
    chooser = World(effects, noise=1e-3).chooser(Measuring(most=8))
    chooser.explore()
    chooser.search(Limit(None, MIDDLE))
    bound = chooser.best_within(chooser.belief.posterior[0], Limit(None, MIDDLE))
    spread = 1e-5 * (max(costs['1.0']) - min(costs['1.0']))
    bare = chooser.explain(bound, Limit())[0].scores.values()
    priced = chooser.explain(bound, Limit(None, MIDDLE))[0].scores.values()
    assert max(bare) - min(bare) == pytest.approx(spread, rel=0.1)
    assert max(priced) - min(priced) < 0.2 * spread
    # where the best of all meets the limit, nothing is paid for it
    assert list(chooser.explain(bound, Limit(None, 1.02 * COSTS[-1]))[0].scores.values()) == list(bare)


def test_a_limit_that_the_best_network_meets_costs_nothing_though_it_is_near():
    effects = {(1, 0, 3): -1.0, (2, 0, 3): -1.0}
    _, _, chooser = World(effects, noise=1e-3).decided()
    mean = chooser.belief.posterior[0]
    best = chooser.best_within(mean, Limit())
    near = Limit(None, PRICED.path(best) + 1)
    assert chooser.explain(best, near) == chooser.explain(best, Limit())


def test_settings_are_read():
    assert Measuring.parse({}) == Measuring()
    assert Measuring.parse({'first': 5, 'window': 0, 'certain': 3, 'seed': 4}) == Measuring(
        first=5, window=0, certain=3, seed=4
    )


def test_no_image_is_measured_on_twice():
    """Seen again it counted as another one: a choice looked surer than it was."""
    wanted = Measuring(first=3, batches=4, most=24)
    assert wanted.within(24) == wanted
    assert wanted.within(10) == Measuring(first=3, batches=4, most=10)
    assert wanted.within(2) == Measuring(first=2, batches=2, most=2)
    assert {wanted.within(2).networks, wanted.within(2).rounds, wanted.within(2).finalists} == {8, 3, 6}


@pytest.mark.parametrize(('given', 'message'), [
    ({'first': 0}, 'selection.first must be a positive integer, got 0'),
    ({'networks': True}, 'selection.networks must be a positive integer, got True'),
    ({'rounds': 1.5}, 'selection.rounds must be a positive integer, got 1.5'),
    ({'batches': '4'}, "selection.batches must be a positive integer, got '4'"),
    ({'finalists': -1}, 'selection.finalists must be a positive integer, got -1'),
    ({'most': None}, 'selection.most must be a positive integer, got None'),
    ({'window': 1.1}, r'selection.window must be a number in 0..1.0, got 1.1'),
    ({'window': True}, r'selection.window must be a number in 0..1.0, got True'),
    ({'certain': math.nan}, 'selection.certain must be a number in 0..inf, got nan'),
    ({'certain': '2'}, "selection.certain must be a number in 0..inf, got '2'"),
    ({'seed': -1}, 'selection.seed must be an integer of at least 0, got -1'),
    ({'seed': False}, 'selection.seed must be an integer of at least 0, got False'),
    ({'frist': 3}, r"selection of type 'measured' takes \['first', .*\], got \['frist'\]"),
])  # fmt: skip
def test_settings_out_of_range_are_told(given, message):
    with pytest.raises(ValueError, match=message):
        Measuring.parse(given)
