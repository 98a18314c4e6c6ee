"""DeepLab heads as the FNA authors have them: outputs, parameters, multiply-adds; and the published figures."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import nn

from tests.backbones.reference import golden, traced
from tests.filling import assert_described, fill_image
from tests.hosts.reference import FIGURES, segmentor_state, traced_parts
from tests.small import read, small

CITYSCAPES = (1024, 2048)
NAMES = {'fna_deeplabv3': 'deeplabv3_fna_cityscapes.py', 'mbv2_deeplabv3': 'deeplabv3_mbv2_cityscapes.py'}
PLUS = 'deeplabv3plus_fna_cityscapes.py'


@pytest.fixture(autouse=True)
def mmseg_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def segmentor(config: str, device: str = 'cpu') -> nn.Module:
    cfg = small(read(config))
    with torch.device(device):
        return MODELS.build(cfg.model).eval()


@pytest.mark.parametrize('name', NAMES)
def test_outputs_are_the_authors(name: str) -> None:
    net = segmentor(NAMES[name])
    net.load_state_dict(segmentor_state(name))
    figures = golden('backbones_fna_seg.json')[name]
    with torch.no_grad():
        features = net.extract_feat(fill_image(figures['input']))
        logits = net.decode_head(features)
    assert_described(features[0], figures['backbone'])
    assert_described(logits, golden(FIGURES)[name])


# published: parameters in M and multiply-adds in B at 1024x2048, of FNA's table 3
@pytest.mark.parametrize(
    ('name', 'params', 'macs', 'published'),
    [
        ('fna_deeplabv3', 2_466_419, 24_174_739_456, ('2.47', '24.17')),
        ('mbv2_deeplabv3', 2_567_507, 24_521_555_968, ('2.57', '24.52')),
    ],
)
def test_deeplabv3_costs_what_the_authors_count(name: str, params: int, macs: int, published: tuple[str, str]) -> None:
    net = segmentor(NAMES[name], 'meta')
    figures = golden('archs_costs.json')['fna_seg'][name]
    assert sum(p.numel() for p in net.parameters()) == params == figures['params']
    for size, expected in ((CITYSCAPES, macs), ((769, 769), figures['macs_769x769'])):
        assert traced(net, torch.empty(1, 3, *size, device='meta'))[1] == expected
    assert figures['macs_1024x2048'] == macs
    assert (f'{params / 1e6:.2f}', f'{macs / 1e9:.2f}') == published


def conv(in_channels: int, channels: int, kernel: int, positions: int, bias: bool = False) -> tuple[int, int]:
    """Parameters, with those of the norm where there is no bias, and multiply-adds."""
    weights = in_channels * channels * kernel**2
    return weights + channels * (1 if bias else 2), weights * positions


def separable(in_channels: int, channels: int, positions: int) -> tuple[int, int]:
    halves = conv(1, in_channels, 3, positions), conv(in_channels, channels, 1, positions)
    return halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]


# channels, layers and stride of each stage as published; kernel and expansion of a layer
PUBLISHED = (
    (16, '31', 1), (24, '36 36', 2), (32, '76 36 36 36', 2), (64, '76 76 56 76 76 56', 2), (96, '76 76 76 76', 1),
    (160, '76 56', 2), (320, '73', 1),
)  # fmt: skip


def backbone_by_hand(output_stride: int) -> tuple[int, int]:
    parts = [conv(3, 32, 3, 1024 * 2048 // 2**2)]
    channels, reached = 32, 2
    for out_channels, layers, stride in PUBLISHED:
        for number, (kernel, expansion) in enumerate(map(tuple, layers.split())):
            before = 1024 * 2048 // reached**2
            if number == 0 and reached * stride <= output_stride:
                reached *= stride
            after, hidden = 1024 * 2048 // reached**2, channels * int(expansion)
            if hidden > channels:
                parts.append(conv(channels, hidden, 1, before))
            parts += [conv(1, hidden, int(kernel), after), conv(hidden, out_channels, 1, after)]
            channels = out_channels
    return sum(params for params, _ in parts), sum(macs for _, macs in parts)


def plus_by_hand(stride: int, theirs: bool) -> dict[str, tuple[int, int]]:
    """Every part of a DeepLabv3+ segmentor; `theirs` is MMSegmentation's head in place of ours."""
    coarse, fine = 1024 * 2048 // stride**2, 1024 * 2048 // 4**2
    branch = separable(320, 256, coarse) if theirs else conv(320, 256, 3, coarse)
    decoder = ('sep_bottleneck', separable) if theirs else ('decoder', lambda a, b, n: conv(a, b, 3, n))
    return {
        'backbone.': backbone_by_hand(stride),
        'decode_head.aspp_modules.0.': conv(320, 256, 1, coarse),
        **{f'decode_head.aspp_modules.{i}.': branch for i in (1, 2, 3)},
        'decode_head.image_pool.': conv(320, 256, 1, 1),
        'decode_head.bottleneck.': conv(5 * 256, 256, 3 if theirs else 1, coarse),
        'decode_head.c1_bottleneck.': conv(24, 48, 1, fine),
        f'decode_head.{decoder[0]}.0.': decoder[1](256 + 48, 256, fine),
        f'decode_head.{decoder[0]}.1.': decoder[1](256, 256, fine),
        'decode_head.conv_seg': conv(256, 19, 1, fine, bias=True),
    }


@pytest.mark.parametrize(
    ('stride', 'theirs', 'params', 'macs'),
    [
        (16, False, 5_714_451, 210_073_108_480),
        (8, False, 5_714_451, 313_834_160_128),
        (16, True, 5_239_651, 65_849_344_000),
        (8, True, 5_239_651, 185_928_859_648),
    ],
)
def test_deeplabv3plus_part_by_part(stride: int, theirs: bool, params: int, macs: int) -> None:
    cfg = small(read(PLUS))
    cfg.model.backbone.output_stride = stride
    if theirs:
        head = {
            k: v for k, v in cfg.model.decode_head.items() if k not in ('separable', 'c1_in_index', 'output_stride')
        }
        cfg.model.decode_head = dict(head, type='DepthwiseSeparableASPPHead')
    with torch.device('meta'):
        net = MODELS.build(cfg.model).eval()
    expected = plus_by_hand(stride, theirs)
    assert traced_parts(net, expected, CITYSCAPES) == expected
    assert tuple(map(sum, zip(*expected.values(), strict=True))) == (params, macs)


def test_published_cost_of_deeplabv3plus() -> None:
    ours = {stride: sum(macs for _, macs in plus_by_hand(stride, theirs=False).values()) for stride in (16, 8)}
    params = sum(params for params, _ in plus_by_hand(16, theirs=False).values())
    assert f'{params / 1e6:.2f}' == '5.71'
    assert {stride: f'{macs / 1e9:.2f}' for stride, macs in ours.items()} == {16: '210.07', 8: '313.83'}
    # the published 210.11 and 313.87 are 0.04 more at either output stride, so that something of the decoder is counted
    # that is none here: biases of one of its 3x3 convolutions, redundant before a norm, make up both figures
    biases = 256 * 256 * 512
    assert {stride: f'{(macs + biases) / 1e9:.2f}' for stride, macs in ours.items()} == {16: '210.11', 8: '313.87'}


HEAD: dict[str, Any] = dict(
    type='mmnas_ext.FNASegHead', in_channels=8, channels=4, num_classes=3, norm_cfg=dict(type='BN'), align_corners=True,
    dropout_ratio=0.0,
)  # fmt: skip


def test_low_level_feature_is_the_one_named() -> None:
    torch.manual_seed(0)
    head = MODELS.build(dict(HEAD, dilations=(1, 2), c1_in_channels=5, c1_in_index=1, c1_channels=2)).eval()
    inputs = [torch.randn(2, 3, 16, 24), torch.randn(2, 5, 8, 12), torch.randn(2, 8, 4, 6)]
    with torch.no_grad():
        logits = head(inputs)
        others = [torch.randn_like(inputs[0]), *inputs[1:]]
        assert torch.equal(head(others), logits)
        for changed in (1, 2):
            others = [x + (i == changed) for i, x in enumerate(inputs)]
            assert not torch.allclose(head(others), logits)
    assert logits.shape == (2, 3, 8, 12)


@pytest.mark.parametrize('separable_branches', [True, False])
def test_branches_are_separable_where_asked(separable_branches: bool) -> None:
    head = MODELS.build(dict(HEAD, dilations=(1, 6, 12), separable=separable_branches))
    weights = {name: list(p.shape) for name, p in head.aspp_modules.named_parameters() if p.dim() == 4}
    if separable_branches:
        expected = {'0.conv.weight': [4, 8, 1, 1]}
        for branch in (1, 2):
            expected[f'{branch}.depthwise_conv.conv.weight'] = [8, 1, 3, 3]
            expected[f'{branch}.pointwise_conv.conv.weight'] = [4, 8, 1, 1]
    else:
        expected = {'0.conv.weight': [4, 8, 1, 1], '1.conv.weight': [4, 8, 3, 3], '2.conv.weight': [4, 8, 3, 3]}
    assert weights == expected
    dilated = [m.dilation[0] for m in head.aspp_modules.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] == 3]
    assert dilated == [6, 12]
    assert list(head.bottleneck.conv.weight.shape) == [4, 4 * (3 + 1), 1, 1]


def test_a_config_is_left_as_it_is() -> None:
    cfg = dict(HEAD, dilations=[1, 6], loss_decode=dict(type='mmnas_ext.SegCrossEntropyLoss'))
    keys = [list(MODELS.build(cfg).state_dict()) for _ in range(2)]
    assert keys[0] == keys[1] and len(keys[0]) > 20
    assert cfg == dict(HEAD, dilations=[1, 6], loss_decode=dict(type='mmnas_ext.SegCrossEntropyLoss'))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(dilations=()), r'dilations must be a non-empty list of positive integers, got \(\)'),
        (dict(dilations=(1, 0)), r'dilations must be .*got \(1, 0\)'),
        (dict(dilations=(1, 6.0)), r'dilations must be .*got \(1, 6\.0\)'),
        (dict(dilations=(True,)), r'dilations must be .*got \(True,\)'),
        (dict(dilations=6), 'dilations must be a non-empty list of positive integers, got 6'),
        (dict(c1_in_channels=-1), 'c1_in_channels must be at least 0 and c1_channels at least 1, got -1 and 48'),
        (dict(c1_in_channels=24, c1_channels=0), 'c1_channels at least 1, got 24 and 0'),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(HEAD, **arguments))
