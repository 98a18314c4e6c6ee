"""Spaces that are made from a network: written out by hand, against a published one, and what is refused."""

import json
from pathlib import Path

import pytest

from mmnas_ext.archs import ArchSpec, SearchSpace, StageSpec, zoo
from mmnas_ext.archs.from_seed import space_from

TINY = ArchSpec(
    (
        StageSpec(16, 16, ('k3_e1_hse0.25_relu',), 1),
        StageSpec(16, 24, ('k3_e4_relu', 'k5_e3_hse0.25'), 2),
        StageSpec(24, 32, ('fused_k3_e1', 'basic_k3_e0.5', 'bottleneck_k3_e0.5_g4'), 2),
    ),
    head_channels=64,
    act='hswish',
    bn_eps=1e-3,
    stem='conv7_pool',
)


def test_of_mobilenet_v2_it_is_the_published_space() -> None:
    made = space_from(zoo.arch('mobilenet_v2'), (3, 5, 7), expansions=(3, 6), depth=(0, 2, 1, 0, 1, 1, 0))
    assert made == zoo.space('fna_det')


def test_each_layer_has_candidates_of_its_own_kind() -> None:
    made = space_from(TINY, kernels=(3, 5), widths=(0.5, 1))
    assert [stage.layers for stage in made.stages] == [
        (('k3_e1_hse0.25_relu',),),
        (
            ('k3_e2_relu', 'k3_e4_relu', 'k5_e2_relu', 'k5_e4_relu'),
            ('k3_e1.5_hse0.25', 'k3_e3_hse0.25', 'k5_e1.5_hse0.25', 'k5_e3_hse0.25', 'skip'),
        ),
        (
            ('fused_k3_e1',),
            ('basic_k3_e0.25', 'basic_k3_e0.5', 'basic_k5_e0.25', 'basic_k5_e0.5', 'skip'),
            (
                'bottleneck_k3_e0.25_g4', 'bottleneck_k3_e0.5_g4', 'bottleneck_k5_e0.25_g4', 'bottleneck_k5_e0.5_g4',
                'skip',
            ),
        ),
    ]  # fmt: skip
    assert (made.act, made.stem, made.head_channels, made.bn_eps) == ('hswish', 'conv7_pool', None, None)
    assert [(stage.in_channels, stage.channels, stage.stride) for stage in made.stages] == [
        (16, 16, 1), (16, 24, 2), (24, 32, 2),
    ]  # fmt: skip


def test_the_networks_own_layer_is_offered_whatever_is_asked() -> None:
    made = space_from(TINY, kernels=(7,), expansions=(6,))
    assert made.stages[1].layers == (('k3_e4_relu', 'k7_e6_relu'), ('k5_e3_hse0.25', 'k7_e6_hse0.25', 'skip'))


def test_a_network_of_every_kind_is_one_of_its_space() -> None:
    for name in zoo.names():
        arch = zoo.arch(name)
        made = space_from(arch, depth=1)
        bare = arch.replace(head_channels=None, bn_eps=None)
        assert made.arch(made.path(bare)) == bare
        assert SearchSpace.parse(made.format()) == made


def test_depth_adds_layers_that_may_be_skipped_but_not_to_what_stays() -> None:
    made = space_from(TINY, kernels=(3,), widths=(1,), depth=1)  # the depth alone
    assert made.stages[2].layers[1:] == (('basic_k3_e0.5', 'skip'), *[('bottleneck_k3_e0.5_g4', 'skip')] * 2)
    made = space_from(TINY, kernels=(3, 5), widths=(1,), depth=2)
    assert [len(stage.layers) for stage in made.stages] == [1, 4, 5]
    assert made.stages[1].layers[2:] == (('k3_e3_hse0.25', 'k5_e3_hse0.25', 'skip'),) * 2
    # the first layer has two candidates, each of the three others two and skip
    assert made.size == (2 * 3**3) * (1 * 3 * 3 * 3 * 3)
    assert [len(stage.layers) for stage in space_from(TINY, depth=[0, 0, 1]).stages] == [1, 2, 4]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(kernels=()), r'kernels must list different numbers, at least one, got \(\)'),
        (dict(kernels=3), 'kernels must list different numbers'),
        (dict(kernels=(3, 3)), 'kernels must list different numbers'),
        (dict(kernels=(3, 4)), r'kernels must be odd whole numbers, got \(3, 4\)'),
        (dict(kernels=(True,)), 'kernels must be odd whole numbers'),
        (dict(expansions=(0,)), r'expansions must be positive numbers below 100, got \(0,\)'),
        (dict(widths=('1',)), 'widths must be positive numbers'),
        (dict(widths=(0.5, 0.5)), 'widths must list different numbers'),
        (dict(widths=(1,), expansions=(3,)), "takes expansions or widths .multiples of the seed's"),
        (dict(depth=-1), 'depth must be one number of layers from 0 to 99, or one for each of the 3 stages, got -1'),
        (dict(depth=(1, 1)), r'depth must be .* got \(1, 1\)'),
        (dict(depth=True), 'depth must be'),
        (dict(depth=(1, 0, 0)), r'depth must leave stage 0 as it is, whose layers have no expansion, got \(1, 0, 0\)'),
        # less than no expansion
        (dict(widths=(0.1,)), r'stages\[1\]: expansion of MBConv layers must lie in 1..99, got 0.4'),
        (dict(expansions=(0.01,)), r'stages\[1\]: expansion of MBConv'),
    ],
)
def test_what_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space_from(TINY, **arguments)


def test_a_width_that_groups_do_not_divide_is_refused_with_its_stage() -> None:
    arch = ArchSpec((StageSpec(32, 32, ('bottleneck_k3_e1_g32', 'bottleneck_k3_e1_g32'), 1),))
    with pytest.raises(ValueError, match=r'stages\[0\]: bottleneck_k3_e0.5_g32 .* 16 inside, which 32 groups'):
        space_from(arch)


def test_a_description_is_read_wherever_a_space_is(tmp_path: Path) -> None:
    described = dict(seed='mobilenet_v2', kernels=[3, 5], expansions=[3, 6], depth=1)
    made = space_from(zoo.arch('mobilenet_v2'), (3, 5), expansions=(3, 6), depth=1)
    assert SearchSpace.parse(described) == made
    assert SearchSpace.parse(json.dumps(described)) == made
    (tmp_path / 'my.json').write_text(json.dumps(described))
    assert SearchSpace.parse(str(tmp_path / 'my.json')) == made
    # defaults, and a network that is written out
    assert SearchSpace.parse(dict(seed=TINY.format('fna'))) == space_from(TINY)


@pytest.mark.parametrize(
    ('described', 'message'),
    [
        (dict(seed='resnet_18'), "search space: seed: unknown architecture 'resnet_18'|seed: unknown architecture"),
        (dict(seed='mobilenet_v2', kernel=[3]), "unknown key 'kernel', allowed are seed, kernels, expansions, widths"),
        (dict(kernels=[3]), "key 'seed' is missing"),
    ],
)
def test_a_description_that_cannot_be_read(described: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace.parse(described)
