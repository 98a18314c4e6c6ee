"""Costs against figures of the authors' code, of timm and torchvision, and against arithmetic."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnas_ext.archs import ArchSpec, Cost, SearchSpace, SpaceStage, StageSpec, candidate_costs, cost, fixed_cost, zoo

GOLDEN = Path(__file__).parents[1] / 'golden'
FIGURES: dict[str, Any] = json.loads((GOLDEN / 'archs_costs.json').read_text())
SUPER: dict[str, Any] = json.loads((GOLDEN / 'archs_fna_super.json').read_text())
CLASSES = 1000

TINY = ArchSpec((StageSpec(8, 8, ('k3_e1',), 1), StageSpec(8, 12, ('k5_e2_se0.25', 'k3_e2'), 2)), head_channels=10)


def _classifier(width: int) -> Cost:
    """A linear layer with bias; the bias is no multiply-add."""
    return Cost(width * CLASSES, width * CLASSES + CLASSES)


def test_tiny_network_by_hand() -> None:
    # 7x9 pixels -> stem 4x5 -> second stage 2x3
    stem = 3 * 3 * 3 * 8 * 20
    first = 8 * 9 * 20 + 8 * 8 * 20
    second = 8 * 16 * 20 + 16 * 25 * 6 + 16 * 2 + 2 * 16 + 16 * 12 * 6
    third = 12 * 24 * 6 + 24 * 9 * 6 + 24 * 12 * 6
    params = 216 + 16 + (72 + 16 + 64 + 16)
    params += 128 + 32 + 400 + 32 + (32 + 2) + (32 + 16) + 192 + 24
    params += 288 + 48 + 216 + 48 + 288 + 24
    assert cost(TINY, (7, 9)) == Cost(macs=stem + first + second + third, params=params) == (17968, 2202)


def test_head_is_added_only_on_request() -> None:
    without, with_head = cost(TINY, (7, 9)), cost(TINY, (7, 9), head=True)
    assert with_head.macs - without.macs == 12 * 10 * 6
    assert with_head.params - without.params == 12 * 10 + 2 * 10


@pytest.mark.parametrize(
    ('entry', 'name'), [('fna_retinanet_backbone', 'fna_retinanet'), ('mbv2_retinanet_backbone', 'mobilenet_v2')]
)
def test_retinanet_backbones(entry: str, name: str) -> None:
    figures = FIGURES['fna_det'][entry]
    assert cost(zoo.arch(name), (800, 1088)) == (figures['backbone_macs_800x1088'], figures['params'])


def test_ssdlite_backbone_with_its_extra_layers() -> None:
    figures = FIGURES['fna_det']['fna_ssdlite_backbone']
    # after the 1280-channel head, 10x10: 1x1 to the middle, 3x3 depthwise of stride 2, 1x1 to the output; BN after each
    macs = params = 0
    channels, side = 1280, 10
    for middle, out in [(256, 512), (128, 256), (128, 256), (64, 128)]:
        after = (side + 1) // 2
        macs += channels * middle * side**2 + middle * 9 * after**2 + middle * out * after**2
        params += channels * middle + middle * 9 + middle * out + 2 * (middle + middle + out)
        channels, side = out, after
    whole = cost(zoo.arch('fna_ssdlite'), (320, 320), head=True)
    assert (whole.macs + macs, whole.params + params) == (figures['backbone_macs_320x320'], figures['params'])


def test_imagenet_seed() -> None:
    figures = FIGURES['fna_det']['mbv2_imagenet']
    whole, classifier = cost(zoo.arch('mobilenet_v2'), (224, 224), head=True), _classifier(1280)
    assert (whole.macs + classifier.macs, whole.params + classifier.params) == (figures['macs_224'], figures['params'])


@pytest.mark.parametrize('letter', 'abcd')
def test_dna_networks(letter: str) -> None:
    figures = FIGURES['dna'][f'DNA_{letter}']
    whole, classifier = cost(zoo.arch(f'dna_{letter}'), (224, 224), head=True), _classifier(1280)
    assert (whole.macs + classifier.macs, whole.params + classifier.params) == (figures['macs_224'], figures['params'])


@pytest.mark.parametrize(
    ('name', 'params'),
    [
        ('mobilenet_v2', FIGURES['seeds']['torchvision/mobilenet_v2']['params']),
        ('efficientnet_lite0', FIGURES['seeds']['timm/efficientnet_lite0']['params']),
        # counted on timm 1.0's tf_efficientnet_lite1 and _lite2
        ('efficientnet_lite1', 5416680),
        ('efficientnet_lite2', 6092072),
    ],
)
def test_classifiers_parameters(name: str, params: int) -> None:
    assert cost(zoo.arch(name), (224, 224), head=True).params + _classifier(1280).params == params


@pytest.mark.parametrize(('entry', 'name'), [('fna_deeplabv3', 'fna_deeplabv3'), ('mbv2_deeplabv3', 'mobilenet_v2')])
@pytest.mark.parametrize(('height', 'width'), [(769, 769), (1024, 2048)])
def test_deeplab_at_output_stride_16(entry: str, name: str, height: int, width: int) -> None:
    figures = FIGURES['fna_seg'][entry]
    # separable ASPP of 256: a 1x1 branch, three depthwise-separable ones, one of the pooled image; 1x1 over all
    branch, separable, merge, classes = 320 * 256, 320 * 9 + 320 * 256, 5 * 256 * 256, 256 * 19
    positions = -(-height // 16) * -(-width // 16)
    macs = (branch + 3 * separable + merge + classes) * positions + branch
    params = 2 * branch + 3 * separable + merge + classes + 19 + 2 * (2 * 256 + 3 * (320 + 256) + 256)
    backbone = cost(zoo.arch(name), (height, width), output_stride=16)
    assert (backbone.macs + macs, backbone.params + params) == (figures[f'macs_{height}x{width}'], figures['params'])


def test_output_stride_moves_no_parameter_and_keeps_resolution() -> None:
    arch = zoo.arch('mobilenet_v2')
    by_stride = {stride: cost(arch, (64, 64), output_stride=stride) for stride in (8, 16, 32)}
    assert len({one.params for one in by_stride.values()}) == 1
    # at 16 only the stages of 160 and 320 channels grow, to 4x4 from 2x2: all of them but the first expansion
    per_position = 9 * 576 + 576 * 160
    per_position += 2 * (160 * 960 + 9 * 960 + 960 * 160)
    per_position += 160 * 960 + 9 * 960 + 960 * 320
    assert by_stride[16].macs - by_stride[32].macs == per_position * (16 - 4)
    assert by_stride[8].macs > 3 * by_stride[16].macs


def test_candidate_table_of_the_authors() -> None:
    ours = candidate_costs(zoo.space('fna_det'), (96, 128))
    theirs = SUPER['flops_table_96x128']
    # the authors' table is in floats of 1e6 and does not list the fixed first stage
    assert [[[one.macs for one in layer] for layer in stage] for stage in ours[1:]] == [
        [[round(figure) for figure in layer] for layer in stage] for stage in theirs
    ]
    assert [len(layer) for layer in ours[0]] == [1]


def test_cost_of_the_authors_path() -> None:
    space = zoo.space('fna_det')
    path = ((0,), *(tuple(choices) for choices in SUPER['weight_step']['path']))
    searched = cost(space.arch(path), (96, 128)).macs - fixed_cost(space, (96, 128)).macs
    assert searched == pytest.approx(SUPER['weight_step']['macs'], rel=1e-6)


def test_fixed_cost_is_stem_and_single_candidates() -> None:
    # 96x128 -> 48x64: stem 3->32, then k3_e1 32->16
    macs = (27 * 32 + 9 * 32 + 32 * 16) * 48 * 64
    params = 27 * 32 + 64 + 9 * 32 + 64 + 32 * 16 + 32
    assert fixed_cost(zoo.space('fna_det'), (96, 128)) == (macs, params)


@given(
    st.integers(min_value=0, max_value=10**6),
    st.sampled_from(['fna_det', 'fna_seg', 'efficientnet_lite0_det']),
    st.tuples(st.integers(min_value=1, max_value=700), st.integers(min_value=1, max_value=700)),
    st.sampled_from([8, 16, 32]),
)
def test_cost_is_the_sum_of_the_paths_candidates(seed: int, name: str, size: tuple[int, int], stride: int) -> None:
    space = zoo.space(name)
    path = space.sample_path(random.Random(seed))
    table = candidate_costs(space, size, stride)
    picked = [table[i][j][choice] for i, choices in enumerate(path) for j, choice in enumerate(choices)]
    stem = fixed_cost(space, size, stride).macs - table[0][0][0].macs
    whole = cost(space.arch(path), size, stride)
    assert whole.macs == stem + sum(one.macs for one in picked)
    assert whole.params == 27 * 32 + 64 + sum(one.params for one in picked)


def test_skip_and_a_fixed_layer_in_a_small_space() -> None:
    space = SearchSpace((SpaceStage(8, 8, (('k3_e1',), ('k3_e2', 'skip'), ('k3_e1',)), 1),))
    table = candidate_costs(space, (4, 4))
    assert table[0][1] == ((4 * (128 + 144 + 128), 128 + 32 + 144 + 32 + 128 + 16), (0, 0))
    assert table[0][0] == table[0][2] == ((4 * (72 + 64), 72 + 16 + 64 + 16),)
    assert fixed_cost(space, (4, 4)).macs == 4 * (216 + 2 * (72 + 64))


@pytest.mark.parametrize(
    'size', [(0, 64), (64, -1), (64.0, 64), (True, 64), (64,), (64, 64, 3), 64, None, '64', ('64', '64'), [64, None]]
)
def test_wrong_size_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match='size must be a pair of positive integers'):
        cost(TINY, size)
    with pytest.raises(ValueError, match='size must be a pair of positive integers'):
        candidate_costs(zoo.space('fna_det'), size)
    with pytest.raises(ValueError, match='size must be a pair of positive integers'):
        fixed_cost(zoo.space('fna_det'), size)


@pytest.mark.parametrize('stride', [0, 4, 64, -16, 16.0, True, None, '16'])
def test_wrong_output_stride_is_refused(stride: Any) -> None:
    with pytest.raises(ValueError, match=r'output_stride must be one of \(8, 16, 32\), got'):
        cost(TINY, (64, 64), output_stride=stride)
    with pytest.raises(ValueError, match=r'output_stride must be one of \(8, 16, 32\), got'):
        candidate_costs(zoo.space('fna_det'), (64, 64), output_stride=stride)


def test_head_of_a_network_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match='the architecture has no head'):
        cost(zoo.arch('fna_retinanet'), (64, 64), head=True)
