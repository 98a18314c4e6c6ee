"""Kinds of layers by hand: tokens, widths inside, convolutions, where each stands."""

from itertools import product
from typing import Any

import pytest

from mmnas_ext.archs import (
    ACTIVATIONS,
    ArchSpec,
    BasicSpec,
    BlockSpec,
    BottleneckSpec,
    Cell,
    CellSpace,
    CellStage,
    FusedSpec,
    LayerSpec,
    SearchSpace,
    SpaceStage,
    StageSpec,
    cell_places,
    cost,
    places,
)

RESNET = StageSpec(64, 256, ('bottleneck_k3_e0.25', 'bottleneck_k5_e0.5_g32', 'basic_k3_e1'), 1)


@pytest.mark.parametrize(
    ('token', 'block', 'canonical'),
    [
        ('k3_e2.3', LayerSpec(3, 2.3), 'k3_e2.3'),
        ('k3_e6.0', LayerSpec(3, 6), 'k3_e6'),
        ('k5_e3_hse0.25_relu', LayerSpec(5, 3, 0.25, True, act='relu'), 'k5_e3_hse0.25_relu'),
        ('k5_e3_se.5_hswish', LayerSpec(5, 3, 0.5, act='hswish'), 'k5_e3_se0.5_hswish'),
        ('fused_k3_e4', FusedSpec(3, 4), 'fused_k3_e4'),
        ('fused_k5_e1_swish', FusedSpec(5, 1, act='swish'), 'fused_k5_e1_swish'),
        ('fused_k3_e2.5_se0.25', FusedSpec(3, 2.5, 0.25), 'fused_k3_e2.5_se0.25'),
        ('basic_k3_e1', BasicSpec(3, 1), 'basic_k3_e1'),
        ('basic_k7_e0.50', BasicSpec(7, 0.5), 'basic_k7_e0.5'),
        ('bottleneck_k3_e0.25', BottleneckSpec(3, 0.25), 'bottleneck_k3_e0.25'),
        ('bottleneck_k3_e0.5_g32_relu', BottleneckSpec(3, 0.5, groups=32, act='relu'), 'bottleneck_k3_e0.5_g32_relu'),
        ('bottleneck_k3_e0.25_g1', BottleneckSpec(3, 0.25), 'bottleneck_k3_e0.25'),
        ('k3_e6_hse0.0', LayerSpec(3, 6), 'k3_e6'),
    ],
)
def test_token_of_any_kind_is_read_and_written(token: str, block: BlockSpec, canonical: str) -> None:
    assert BlockSpec.parse(token) == LayerSpec.parse(token) == block
    assert block.format() == canonical
    assert type(BlockSpec.parse(canonical)) is type(block)


def test_every_written_token_is_read_as_what_it_was() -> None:
    kinds: list[tuple[type[BlockSpec], Any, Any, Any]] = [
        (LayerSpec, (1, 1.5, 6), ((0.0, False), (0.25, False), (0.25, True)), (1,)),
        (FusedSpec, (2, 4.25), ((0.0, False), (0.5, True)), (1,)),
        (BasicSpec, (0.125, 1, 2), ((0.0, False),), (1,)),
        (BottleneckSpec, (0.25, 1), ((0.0, False),), (1, 32)),
    ]
    seen = {}
    for kind, expansions, gates, groups in kinds:
        for kernel, e, (se, hard), g, act in product((1, 3, 11), expansions, gates, groups, (None, *ACTIVATIONS)):
            block = kind(kernel, e, se, hard, g, act)
            assert BlockSpec.parse(block.format()) == block
            seen[block.format()] = block
    assert len(seen) == 3 * 5 * (9 + 4 + 3 + 4)


@pytest.mark.parametrize(
    ('token', 'message'),
    [
        ('basic_k3_e1_se0.25', 'basic blocks have no squeeze-excite, got basic_k3_e1_se0.25'),
        ('bottleneck_k3_e0.25_hse0.5', 'bottleneck blocks have no squeeze-excite'),
        ('basic_k3_e1_g2', 'basic blocks have no groups, got basic_k3_e1_g2'),
        ('k3_e6_g2', 'MBConv layers have no groups, got k3_e6_g2'),
        ('fused_k3_e4_g2', 'fused MBConv layers have no groups'),
        ('fused_k3_e1_se0.25', 'of expansion 1 have no squeeze-excite, got fused_k3_e1_se0.25'),
        ('k3_e0.5', r'expansion of MBConv layers must lie in 1\.\.99, got 0.5'),
        ('fused_k3_e0.25', r'expansion of fused MBConv layers must lie in 1\.\.99, got 0.25'),
        ('basic_k3_e0', 'expansion must be an integer in 1..99 or a decimal number, got 0'),
        ('basic_k4_e1', 'kernel must be odd'),
        ('k3_e1.1234567', 'unknown layer token'),
        ('k3_e6_gelu', 'unknown layer token'),
        ('dense_k3_e1', r"unknown layer token 'dense_k3_e1': expected \[fused_\|basic_\|bottleneck_\]k<kernel>"),
        ('bottleneck_k3_e0.25_g0', r'groups must be an integer in 1\.\.9999, got 0'),
    ],
)
def test_what_a_kind_does_not_have_is_refused(token: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockSpec.parse(token)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'hard': True}, 'hard must be False without squeeze-excite'),
        ({'act': 'gelu'}, r"act must be one of .* or None, got 'gelu'"),
        ({'expansion': 1.23456789}, 'expansion must be an integer in .* or a decimal number'),
        ({'expansion': float('nan')}, 'expansion must be an integer'),
        ({'expansion': 100.5}, r'expansion of MBConv layers must lie in 1\.\.99, got 100.5'),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerSpec(**{'kernel': 3, 'expansion': 3, **fields})


@pytest.mark.parametrize(
    # the widths of MobileNetV3-Large, table 1 of arXiv 1905.02244, and two that torchvision's rounding gives
    ('in_channels', 'expansion', 'hidden'),
    [(16, 4, 64), (24, 3, 72), (80, 2.5, 200), (80, 2.3, 184), (10, 1.5, 16), (36, 1.25, 48), (3, 6, 18)],
)
def test_width_inside_counts_from_the_input(in_channels: int, expansion: float, hidden: int) -> None:
    assert LayerSpec(3, expansion).hidden(in_channels) == FusedSpec(3, expansion).hidden(in_channels) == hidden


@pytest.mark.parametrize(
    # MobileNetV3-Large's, from torchvision's modules: a quarter of 72 is 18, of which 16 would be below 90 %
    ('in_channels', 'expansion', 'squeezed'),
    [(24, 3, 24), (40, 3, 32), (80, 6, 120), (112, 6, 168), (160, 6, 240)],
)
def test_hard_squeeze_excite_counts_from_the_width_inside(in_channels: int, expansion: int, squeezed: int) -> None:
    assert LayerSpec(5, expansion, 0.25, hard=True).squeezed(in_channels) == squeezed


@pytest.mark.parametrize(
    ('token', 'convs'),
    [
        # name, kernel, in, out, groups, stride, dilation, activation, beside the others
        ('fused_k3_e4', [('conv', 3, 16, 64, 1, 2, 3, True, False), ('project', 1, 64, 24, 1, 1, 1, False, False)]),
        ('fused_k5_e1', [('conv', 5, 16, 24, 1, 2, 3, True, False)]),
        (
            'basic_k3_e0.5',
            [
                ('conv', 3, 16, 12, 1, 2, 3, True, False),
                ('project', 3, 12, 24, 1, 1, 3, False, False),
                ('shortcut', 1, 16, 24, 1, 2, 1, False, True),
            ],
        ),
        (
            'bottleneck_k5_e0.5_g4',
            [
                ('enter', 1, 16, 12, 1, 1, 1, True, False),
                ('conv', 5, 12, 12, 4, 2, 3, True, False),
                ('project', 1, 12, 24, 1, 1, 1, False, False),
                ('shortcut', 1, 16, 24, 1, 2, 1, False, True),
            ],
        ),
    ],
)
def test_convolutions_of_a_layer(token: str, convs: list[tuple[Any, ...]]) -> None:
    got = BlockSpec.parse(token).convs(16, 24, 2, 3)
    assert [(c.name, c.kernel, c.in_channels, c.channels, c.groups, c.stride, c.dilation, c.act, c.beside)
            for c in got] == convs  # fmt: skip
    assert all(conv.norm for conv in got)


def test_a_shortcut_is_there_where_shapes_differ() -> None:
    for kind in (BasicSpec(3, 1), BottleneckSpec(3, 0.25)):
        assert 'shortcut' not in [conv.name for conv in kind.convs(32, 32)]
        assert kind.adds(32, 64, 2)
        assert [conv.name for conv in kind.convs(32, 32, 2)][-1] == 'shortcut'
    assert FusedSpec(3, 4).adds(32, 32, 1)
    assert not FusedSpec(3, 4).adds(32, 32, 2)


@pytest.mark.parametrize(
    ('token', 'channels', 'message'),
    [
        ('basic_k3_e0.3', 64, 'basic_k3_e0.3 to 64 channels has 19.2 inside: .* must be a whole number'),
        ('bottleneck_k3_e0.01', 64, 'has 0.64 inside'),
        ('bottleneck_k3_e0.25_g32', 64, 'to 64 channels has 16 inside, which 32 groups do not divide'),
    ],
)
def test_a_width_that_is_none_is_refused_where_it_stands(token: str, channels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageSpec(32, channels, (token,), 1)
    with pytest.raises(ValueError, match=message):
        SpaceStage(32, channels, (('k3_e6', token),), 1)
    with pytest.raises(ValueError, match=rf'stages\[0\].*{message}'):
        ArchSpec.parse({'stages': [{'in_channels': 8, 'channels': channels, 'layers': [token], 'stride': 1}]})


def test_positions_of_a_shortcut_are_those_of_its_input() -> None:
    arch = ArchSpec((StageSpec(4, 8, ('basic_k3_e1', 'basic_k3_e1'), 2),))
    (first, second) = places(arch, (18, 10)).stages[0]
    # 18x10 -> 9x5 by the stem -> 5x3
    assert [(conv.name, positions) for conv, positions in first.outputs(first.tokens[0])] == [
        ('conv', 15), ('project', 15), ('shortcut', 15),
    ]  # fmt: skip
    assert [name for name, _ in second.outputs(second.tokens[0])] == list(second.convs(second.tokens[0]))
    stem = 27 * 4 * 45
    convs = (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8 + 2 * 9 * 8 * 8) * 15
    params = 27 * 4 + 9 * 4 * 8 + 3 * 9 * 8 * 8 + 4 * 8 + 2 * (4 + 5 * 8)
    assert cost(arch, (18, 10)) == (stem + convs, params)


def test_stem_with_pooling_reaches_four_pixels() -> None:
    arch = ArchSpec(
        (StageSpec(64, 64, ('basic_k3_e1',), 1), StageSpec(64, 128, ('basic_k3_e1',), 2)), stem='conv7_pool'
    )
    walk = places(arch, (33, 50), 8)
    assert (walk.stem.stride, walk.stem.reached, walk.stem.out_size) == (4, 4, (9, 13))
    assert [(conv.kernel, conv.weights, positions) for conv, positions in walk.stem.outputs('stem_conv7_pool')] == [
        (7, 49 * 3 * 64, 17 * 25)
    ]
    assert [place.reached for place in walk.layers] == [4, 8]
    assert [place.size for place in walk.layers] == [(9, 13), (9, 13)]
    cells = CellSpace(8, (CellStage(1, (Cell(8, (('basic_k3_e1',),)),)),), stem='conv7_pool')
    assert cell_places(cells, (33, 50))[0].out_size == (9, 13)


@pytest.mark.parametrize('stem', ['conv5', None, 7])
def test_unknown_stem_is_refused(stem: Any) -> None:
    for make in (
        lambda: ArchSpec((RESNET,), stem=stem),
        lambda: SearchSpace((SpaceStage(8, 8, (('k3_e1',),), 1),), stem=stem),
    ):
        with pytest.raises(ValueError, match=r"stem must be one of \('conv3', 'conv7_pool'\), got"):
            make()


def test_a_space_of_blocks_gives_and_knows_its_networks() -> None:
    offered = ('bottleneck_k3_e0.25', 'bottleneck_k5_e0.5', 'fused_k3_e4')
    space = SearchSpace((SpaceStage(64, 256, (offered, (*offered, 'skip')), 1),), act='relu', stem='conv7_pool')
    arch = space.arch(((2, 3),))
    assert arch == ArchSpec((StageSpec(64, 256, ('fused_k3_e4',), 1),), act='relu', stem='conv7_pool')
    assert arch in space
    assert arch.replace(stem='conv3') not in space
    assert space.path(arch) == ((2, 3),)
    assert SearchSpace.parse(space.format()) == space
    cells = CellSpace.of(space)
    assert cells.space() == space
    assert CellSpace.parse(cells.format()) == cells
