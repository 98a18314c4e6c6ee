"""What a space can cost, and the most probable network within a limit, against every path tried."""

import itertools
import math

import pytest
import torch

from mmnas_ext.archs import SearchSpace, SpaceStage
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine.limits import check_target, cost_range, derive, derive_path
from tests.engine import tiny

LOW = tiny.MACS['fixed'] + sum(min(tiny.MACS[name]) for name in ('1.0', '1.1', '2.0'))
HIGH = tiny.MACS['fixed'] + sum(max(tiny.MACS[name]) for name in ('1.0', '1.1', '2.0'))


def supernet(seed, scale=1.0):
    built = SuperNet(tiny.SPACE, out_indices=(2,), input_size=tiny.SIZE)
    draw = torch.Generator().manual_seed(seed)
    for alpha in built.arch_parameters():
        alpha.data = scale * torch.randn(len(alpha), generator=draw)
    return built


def tried(built):
    """Every path with its cost and probability, from the hand-made table."""
    found = []
    probabilities = [alpha.detach().double().softmax(0).tolist() for alpha in built.arch_parameters()]
    for choice in itertools.product(*(range(len(p)) for p in probabilities)):
        macs = sum(tiny.MACS[name][c] for name, c in zip(('1.0', '1.1', '2.0'), choice, strict=True))
        path = ((0,), choice[:2], choice[2:])
        found.append(
            (path, tiny.MACS['fixed'] + macs, math.prod(p[c] for p, c in zip(probabilities, choice, strict=True)))
        )
    return found


def test_the_range_of_costs_is_that_of_the_table():
    assert cost_range(tiny.SPACE, tiny.SIZE) == (LOW, HIGH) == (36416, 77120)


@pytest.mark.parametrize('seed', range(5))
def test_a_limit_gives_the_most_probable_path_that_meets_it(seed):
    built = supernet(seed)
    paths = tried(built)
    assert len(paths) == 12
    for limit in sorted({macs for _, macs, _ in paths}):
        for target in (limit, limit + 0.5):
            best = max((p for p in paths if p[1] <= target), key=lambda p: p[2])
            assert derive_path(built, target) == best[0]
            assert derive(built, target) == tiny.SPACE.arch(best[0]).replace(bn_eps=1e-5)


def test_a_limit_that_binds_changes_the_network():
    built = supernet(0)
    free = derive_path(built)
    costs = {path: macs for path, macs, _ in tried(built)}
    assert derive_path(built, costs[free]) == free
    assert costs[derive_path(built, costs[free] - 1)] < costs[free]


def test_without_a_limit_every_layer_takes_its_largest_alpha():
    built = supernet(3)
    assert derive_path(built) == max(tried(built), key=lambda p: p[2])[0]
    for alpha in built.arch_parameters():
        alpha.data.zero_()
    assert derive_path(built) == ((0,), (0, 0), (0,))  # the first of equals


@pytest.mark.parametrize('target', [LOW - 1, 0, math.nan])
def test_a_limit_out_of_reach_names_the_range(target):
    message = (
        r'cost.target must be at least 3.642e-05 G multiply-adds, got .* G: '
        r'networks of this space cost 3.642e-05 G to 7.712e-05 G at 16x16'
    )
    with pytest.raises(ValueError, match=message):
        check_target(tiny.SPACE, tiny.SIZE, 32, target)
    with pytest.raises(ValueError, match=message):
        derive_path(supernet(0), target)


@pytest.mark.parametrize('target', [None, LOW, float(LOW), HIGH, 1e12])
def test_a_limit_within_reach_is_accepted(target):
    check_target(tiny.SPACE, tiny.SIZE, 32, target)


def test_the_output_stride_counts():
    stages = tuple(SpaceStage(8, 8, (('k3_e1', 'k5_e1'),), 2) for _ in range(4))
    # strides 2, 4, 8, 8, 8: the last two stages stay at 64/8
    sizes = [16, 8, 8, 8]
    low = 27 * 8 * 32**2 + sum((9 * 8 + 64) * s * s for s in sizes)
    high = 27 * 8 * 32**2 + sum((25 * 8 + 64) * s * s for s in sizes)
    assert cost_range(SearchSpace(stages), (64, 64), 8) == (low, high)


def test_a_space_of_full_size_is_solved_in_time():
    built = SuperNet('fna_det')
    low, high = cost_range(built.space, built.input_size)
    target = (low + high) / 2
    path = derive_path(built, target)
    macs = {name: layer.macs for name, layer in built.mixed_layers().items()}
    assert sum(int(macs[name][path[int(name[0])][int(name[2])]]) for name in macs) + built.fixed_cost().macs <= target
