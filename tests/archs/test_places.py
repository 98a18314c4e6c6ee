"""Where layers stand and what they consist of, by hand."""

import subprocess
import sys
from typing import Any

import pytest

from mmnas_ext.archs import (
    ArchSpec,
    Cell,
    CellSpace,
    CellStage,
    Conv,
    LayerSpec,
    SearchSpace,
    SpaceStage,
    StageSpec,
    cell_places,
    layer_convs,
    places,
)

ARCH = ArchSpec((StageSpec(8, 6, ('k3_e1',), 1), StageSpec(6, 12, ('k5_e2', 'k3_e3_se0.25'), 2)), head_channels=20)
SPACE = SearchSpace((SpaceStage(8, 12, (('k3_e2', 'k5_e1'), ('k3_e2', 'skip')), 2),))


def test_a_layer_is_its_convolutions_in_the_order_in_which_they_run() -> None:
    # 16 * 3 hidden channels, a quarter of the 16 that enter in the bottleneck
    assert layer_convs(LayerSpec.parse('k5_e3_se0.25'), 16, 24, 2, 1) == (
        Conv('expand', 1, 16, 48, 'input', 'hidden'),
        Conv('depthwise', 5, 48, 48, 'hidden', 'hidden', groups=48, stride=2),
        Conv('se.reduce', 1, 48, 4, 'hidden', 'squeezed', norm=False, pooled=True),
        Conv('se.expand', 1, 4, 48, 'squeezed', 'hidden', norm=False, act=False, pooled=True),
        Conv('project', 1, 48, 24, 'hidden', 'output', act=False),
    )
    assert [conv.name for conv in layer_convs(LayerSpec.parse('k3_e1'), 16, 16)] == ['depthwise', 'project']


def test_what_a_convolution_learns() -> None:
    expand, depthwise, reduce, *_ = layer_convs(LayerSpec.parse('k5_e3_se0.25'), 16, 24, 1, 2)
    assert (expand.weight, expand.weights, expand.params) == ((48, 16, 1, 1), 768, 768 + 96)
    assert (depthwise.weight, depthwise.params) == ((48, 1, 5, 5), 48 * 25 + 96)
    assert depthwise.dilation == 2
    # a bias instead of a norm
    assert (reduce.weight, reduce.params) == ((4, 48, 1, 1), 4 * 48 + 4)


def test_a_network_is_walked_from_the_image_to_the_head() -> None:
    walk = places(ARCH, (15, 20))
    assert walk.stem == (-1, 0, 3, 8, 2, 1, (15, 20), 2, ('stem',))
    assert walk.stages == (
        ((0, 0, 8, 6, 1, 1, (8, 10), 2, ('k3_e1',)),),
        ((1, 0, 6, 12, 2, 1, (8, 10), 4, ('k5_e2',)), (1, 1, 12, 12, 1, 1, (4, 5), 4, ('k3_e3_se0.25',))),
    )
    assert walk.head == (2, 0, 12, 20, 1, 1, (4, 5), 4, ('head',))
    assert places(ARCH.replace(head_channels=None), (15, 20)).head is None
    assert [place.stage for place in walk.layers] == [0, 1, 1]
    assert walk.stem.convs('stem') == (Conv('stem', 3, 3, 8, 'input', 'output', stride=2),)
    assert walk.head.convs('head') == (Conv('head', 1, 12, 20, 'input', 'output'),)


def test_convolutions_know_how_many_positions_they_put_out() -> None:
    first, second = places(ARCH, (15, 20)).stages[1]
    assert [(conv.name, positions) for conv, positions in first.outputs('k5_e2')] == [
        ('expand', 80), ('depthwise', 20), ('project', 20),
    ]  # fmt: skip
    assert [positions for _, positions in second.outputs('k3_e3_se0.25')] == [20, 20, 1, 1, 20]
    assert (first.out_size, second.out_size) == ((4, 5), (4, 5))


def test_a_space_has_its_candidates_and_a_skip_no_convolutions() -> None:
    first, second = places(SPACE, (16, 16)).layers
    assert (first.tokens, second.tokens) == (('k3_e2', 'k5_e1'), ('k3_e2', 'skip'))
    assert second.convs('skip') == ()
    assert list(second.outputs('skip')) == []
    assert first.convs('k5_e1')[0].stride == 2
    with pytest.raises(ValueError, match="unknown layer token 'k9'"):
        first.convs('k9')


@pytest.mark.parametrize(('output_stride', 'wanted'), [
    # per stage: stride, dilation, pixels per position behind it, side of what enters
    (32, [(2, 1, 4, 32), (2, 1, 8, 16), (2, 1, 16, 8), (2, 1, 32, 4), (1, 2, 32, 2)]),
    (8, [(2, 1, 4, 32), (2, 1, 8, 16), (1, 2, 8, 8), (1, 4, 8, 8), (1, 8, 8, 8)]),
])  # fmt: skip
def test_the_output_stride_turns_strides_into_dilations(output_stride: int, wanted: list[Any]) -> None:
    deep = ArchSpec(tuple(StageSpec(8, 8, ('k3_e1',), 2) for _ in range(5)))
    found = [row[0] for row in places(deep, (64, 64), output_stride).stages]
    assert [(place.stride, place.dilation, place.reached, place.size[0]) for place in found] == wanted


def test_cells_are_walked_for_every_width_that_may_enter() -> None:
    narrow, wide = Cell(6, (('k3_e2',),)), Cell(10, (('k3_e2',), ('k5_e1', 'skip')))
    space = CellSpace(4, (CellStage(1, (narrow, wide)), CellStage(2, (narrow,))))
    stem, stages = cell_places(space, (16, 12))
    assert stem == places(space.space(), (16, 12)).stem
    assert [list(stage) for stage in stages] == [[(4, 0), (4, 1)], [(6, 0), (10, 0)]]
    assert stages[0][4, 1] == (
        (0, 0, 4, 10, 1, 1, (8, 6), 2, ('k3_e2',)), (0, 1, 10, 10, 1, 1, (8, 6), 2, ('k5_e1', 'skip')),
    )  # fmt: skip
    # each choice of cells is a space of its own, and stands where that does
    for index, width in enumerate((6, 10)):
        assert stages[1][width, 0] == places(space.space((index, 0)), (16, 12)).stages[1]


@pytest.mark.parametrize('size', [(0, 9), (7.0, 9), 7, None, (3, 4, 5)])
def test_a_wrong_size(size: Any) -> None:
    for walk in (lambda: places(ARCH, size), lambda: cell_places(CellSpace.of(SPACE), size)):
        with pytest.raises(ValueError, match='size must be a pair of positive integers'):
            walk()


@pytest.mark.parametrize('output_stride', [4, 64, 16.0, None])
def test_a_wrong_output_stride(output_stride: Any) -> None:
    with pytest.raises(ValueError, match=r'output_stride must be one of \(8, 16, 32\), got'):
        places(ARCH, (64, 64), output_stride)


@pytest.mark.parametrize(
    ('module', 'kind', 'name'),
    [('spec', 'ArchSpec', 'mobilenet_v2'), ('space', 'SearchSpace', 'fna_det'), ('cells', 'CellSpace', 'dna')],
)
def test_a_module_imported_alone_reads_and_writes_its_values(module: str, kind: str, name: str) -> None:
    code = f'from mmnas_ext.archs.{module} import {kind} as V; v = V.parse({name!r}); print(V.parse(v.format()) == v)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == 'True\n'
