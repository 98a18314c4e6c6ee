"""Networks that are adapted briefly: the promising ones, halved from training to training, luck discounted."""

import math
from dataclasses import replace

import pytest

from mmnas_ext.archs import Limit, zoo
from mmnas_ext.search.belief import Belief, Measured, distance
from mmnas_ext.search.decision import normal
from mmnas_ext.search.measure import Chooser, Measuring
from mmnas_ext.search.statistics import t_probability
from tests.search.test_measure import EVERY, PRICED, REFERENCE, SPACE, World

OTHERS = [((0,), (0, 1), (0, 0)), ((0,), (1, 0), (2, 2)), ((0,), (3, 1), (0, 0)), ((0,), (2, 0), (0, 1))]


def judge(world, certain=1.0, told=None):
    return Chooser(SPACE, PRICED, REFERENCE, world.rate, Measuring(certain=certain), told, alike=True)


def made(world):
    """How often each network was trained."""
    return {path: sum(each == path for each, _ in world.known) for path, _ in world.known}


def test_the_better_half_goes_on():
    world, told = World({(1, 0, 1): -1.0, (1, 0, 3): -0.4, (1, 0, 2): 0.5}, noise=0.01), []
    chooser = judge(world, told=told.append)
    order = chooser.halve(OTHERS, 3)
    assert order[0] == OTHERS[1]
    assert made(world) == {REFERENCE: 3, OTHERS[1]: 3, OTHERS[2]: 2, OTHERS[0]: 1, OTHERS[3]: 1}
    assert sorted(order) == sorted(OTHERS)
    assert told == [f'{n} networks and the reference, training {k} of at most 3' for n, k in ((4, 1), (2, 2), (1, 3))]
    assert chooser.decide(order, Limit()) == OTHERS[1]


def test_luck_of_one_training_is_not_believed():
    kept = sum(
        chooser.decide(chooser.halve(OTHERS, 3), Limit()) == REFERENCE
        for chooser in (judge(World(noise=1.0, seed=seed)) for seed in range(60))
    )
    assert kept >= 45


def test_what_is_better_by_more_than_luck_is_mostly_found():
    """By twice what two trainings of one network differ by; the others are as good as the reference."""
    found = 0
    for seed in range(40):
        chooser = judge(World({(1, 0, 1): -2.0}, noise=0.7, seed=seed))
        found += chooser.decide(chooser.halve(OTHERS, 3), Limit()) == OTHERS[1]
    assert found >= 28


def test_repetitions_of_all_say_how_large_luck_is():
    """Student's t of three trainings alone would be 4.5 deviations, and so many are never reached."""
    pooled, alone = [], []
    for alike, kept in ((True, pooled), (False, alone)):
        for seed in range(20):
            world = World({(1, 0, 1): -1.2}, noise=0.5, seed=seed)
            chooser = Chooser(SPACE, PRICED, REFERENCE, world.rate, Measuring(certain=2.0), alike=alike)
            kept.append(chooser.decide(chooser.halve(OTHERS, 3), Limit()) == OTHERS[1])
    assert sum(pooled) > sum(alone) + 3
    assert Measured({OTHERS[0]: {0: 1.0, 1: 2.0, 2: 0.5}, OTHERS[1]: {0: 3.0}, OTHERS[2]: {}}).repetitions() == 2


def test_how_sure_it_is_follows_from_all_repetitions():
    world = World({(1, 0, 1): -1.0}, noise=0.5)
    chooser = judge(world)
    best = chooser.halve(OTHERS, 3)[0]
    expected, error = chooser.belief.network(best)
    assert chooser.belief.noise.slope == 0.0  # noise of trainings is no layer's
    seen = chooser.belief.measured.repetitions()
    assert chooser.better(best) == pytest.approx(t_probability(-expected / error, seen))
    assert 0.5 < chooser.better(best) < normal(-expected / error)


def test_a_network_next_to_the_reference_may_be_as_much_better_as_one_far_from_it(monkeypatch):
    """Shrunk as the effect of one layer of many it would not be believed, however often it is seen."""
    space = zoo.space('fna_det')
    arch = zoo.arch('mobilenet_v2').replace(bn_eps=space.bn_eps, head_channels=space.head_channels)

    def network(**stages):
        layers = {int(key[1:]): tuple(text.split()) for key, text in stages.items()}
        made = [replace(stage, layers=layers.get(n, stage.layers)) for n, stage in enumerate(arch.stages)]
        return space.path(arch.replace(stages=tuple(made)))

    # differences of mAP as brief adaptations on photographs of steel gave them
    near = network(s1='k3_e6 k3_e3')
    rows = {
        near: {0: -0.024, 1: -0.032, 2: -0.011}, network(s6='k3_e3'): {0: -0.011, 1: -0.031, 2: -0.013},
        network(s3='k3_e6 k3_e6 k3_e3 k3_e6'): {0: 0.0},
        network(s2='k3_e6 k3_e3 k3_e6', s3='k3_e6 k3_e6 k3_e6 k5_e6', s5='k3_e6 k3_e3 k3_e6'): {0: -0.021, 1: 0.015},
        network(s2='k3_e6 k3_e3 k5_e3', s3='k3_e6 k7_e6 k7_e6 k3_e6', s5='k3_e6 k5_e3 k7_e6 k3_e3'): {0: -0.005},
        network(
            s1='k3_e6 k3_e3', s2='k3_e6 k3_e6 k7_e6', s3='k3_e6 k7_e6 k7_e6 k5_e6', s5='k5_e6 k3_e3 k7_e6'
        ): {0: 0.022},
    }  # fmt: skip
    own, _ = Belief(space, network(), Measured(rows), alike=True).network(near)
    assert -0.022 < own < -0.006
    monkeypatch.setattr(Belief, '_far', lambda belief, path: distance(path, belief.reference))
    by_layer, _ = Belief(space, network(), Measured(rows), alike=True).network(near)
    assert by_layer > -0.004


def test_a_training_that_failed_is_no_candidate():
    world = World({(1, 0, 3): -1.0}, special={OTHERS[2]: math.inf})
    order = judge(world).halve(OTHERS, 2)
    assert OTHERS[2] not in order
    world = World(special=dict.fromkeys(OTHERS, math.inf))
    chooser = judge(world)
    assert chooser.halve(OTHERS, 2) == []
    assert chooser.decide([], Limit()) == REFERENCE
    with pytest.raises(ValueError, match='the reference network must be finite, got none in 1 trainings'):
        judge(World(special={REFERENCE: math.inf})).halve(OTHERS, 2)


def test_a_second_training_that_failed_says_nothing_of_luck():
    failed = World({(1, 0, 1): -0.1}, noise=0.01, special={(OTHERS[0], 1): math.inf, (OTHERS[2], 1): math.inf})
    order = (chooser := judge(failed)).halve(OTHERS, 3)
    assert not {OTHERS[0], OTHERS[2]} & {order[0]}
    assert chooser.decide(order, Limit()) == OTHERS[1]
    assert chooser.belief.noise.base < 0.01
    assert chooser.belief.measured.repetitions() <= 3


def test_networks_of_which_little_is_known_are_promising():
    world = World(noise=0.2, special={EVERY[30]: math.inf})
    chooser = Chooser(SPACE, PRICED, REFERENCE, world.rate, Measuring(certain=2.0))
    chooser.explore()
    far, near = ((0,), (3, 3), (3, 3)), ((0,), (0, 1), (0, 0))
    chooser.measure([far, EVERY[30]], 1)
    chooser.measure([near], 24)
    found = chooser.promising([near, far, EVERY[30]], 2)
    assert found == [far, near]
    expected = {path: chooser.belief.network(path) for path in found}
    assert expected[far][1] > expected[near][1]
    assert chooser.promising([near, far], 1) == [far]
