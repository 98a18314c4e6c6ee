"""Output stride 8 and 16 of FNA's DeepLab: a plain computation, and a head that refuses a feature of another stride.

Multiply-adds cannot tell the rates of dilated convolutions: a kernel has the same number of weights, and is used at the
same positions, whatever the distance between its taps. Only outputs show them.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmnas_ext.archs import zoo
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.resolve import resolve
from mmnas_ext.runs.run import prepare
from tests.backbones.reference import golden, traced
from tests.filling import assert_described, fill_image, fill_state
from tests.hosts.reference import FIGURES, segmentor_state
from tests.small import CROP, FOLDER, read, small

V3, PLUS = 'deeplabv3_fna_cityscapes.py', 'deeplabv3plus_fna_cityscapes.py'
# DeepLabv3, arXiv 1706.05587, section 3.3: rates are doubled where the stride is halved
RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
# layers of the published network, kernel and expansion, and stride of each stage; the first three pixels' strides are
# the stem's 2 and those of the stages of 24 and 32 channels
STAGES = (
    ('31', 1), ('36 36', 2), ('76 36 36 36', 2), ('76 76 56 76 76 56', 2), ('76 76 76 76', 1), ('76 56', 2), ('73', 1),
)  # fmt: skip


@pytest.fixture(autouse=True)
def mmseg_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def segmentor(config: str, stride: int, device: str = 'cpu') -> nn.Module:
    """As a run builds it, the stride set in one place."""
    cfg = read(config)
    cfg.model.backbone.output_stride = stride
    cfg.model.decode_head.pop('output_stride', None)
    with torch.device(device):
        return MODELS.build(small(resolve(cfg)).model).eval()


def plain_conv(x: Tensor, state: dict[str, Tensor], key: str, act: str = '', norm: str = '', **kwargs: Any) -> Tensor:
    """A convolution that keeps the size at stride 1, then a norm of epsilon 1e-5, then ReLU or ReLU6."""
    weight = state[f'{key}.weight']
    reach = kwargs.get('dilation', 1) * (weight.shape[2] // 2)
    x = F.conv2d(x, weight, padding=reach, groups=x.shape[1] // weight.shape[1], **kwargs)
    mean, var, scale, shift = (state[f'{norm}.{name}'] for name in ('running_mean', 'running_var', 'weight', 'bias'))
    x = (x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + 1e-5).sqrt() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    return x.clamp(0, 6) if act == 'relu6' else x.clamp(min=0) if act == 'relu' else x


def plain_backbone(image: Tensor, state: dict[str, Tensor], output_stride: int) -> list[Tensor]:
    """Output of each stage: one that would pass the stride keeps its size, and it and all after it are dilated."""

    def conv(x: Tensor, key: str, act: str = 'relu6', **kwargs: Any) -> Tensor:
        return plain_conv(x, state, f'backbone.{key}.conv', act, f'backbone.{key}.bn', **kwargs)

    x, reached, dilation, outputs = conv(image, 'stem', stride=2), 2, 1, []
    for stage, (layers, stride) in enumerate(STAGES):
        if reached * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        for layer, (_, expansion) in enumerate(layers.split()):
            key = f'stages.{stage}.{layer}'
            hidden = x if expansion == '1' else conv(x, f'{key}.expand')
            hidden = conv(hidden, f'{key}.depthwise', stride=stride if layer == 0 else 1, dilation=dilation)
            out = conv(hidden, f'{key}.project', '')
            x = x + out if x.shape == out.shape else out
        outputs.append(x)
    return outputs


def plain_logits(features: list[Tensor], state: dict[str, Tensor], rates: tuple[int, ...]) -> Tensor:
    """DeepLabv3's head with separable branches, or DeepLabv3+'s with ordinary ones and a decoder of the 24 channels."""
    head = {key.removeprefix('decode_head.'): value for key, value in state.items()}

    def conv(x: Tensor, key: str, conv_name: str = 'conv', norm: str = 'bn', **kwargs: Any) -> Tensor:
        return plain_conv(x, head, f'{key}.{conv_name}', 'relu', f'{key}.{norm}', **kwargs)

    x = features[-1]
    plus = 'decoder.0.conv.weight' in head
    pooled = conv(x.mean(dim=(2, 3), keepdim=True), 'image_pool.1')
    branches = [pooled.expand(-1, -1, *x.shape[2:]), conv(x, 'aspp_modules.0')]
    for number, rate in enumerate(rates, start=1):
        key = f'aspp_modules.{number}'
        if plus:
            branches.append(conv(x, key, dilation=rate))
        else:
            branches.append(conv(conv(x, f'{key}.depthwise_conv', dilation=rate), f'{key}.pointwise_conv'))
    x = conv(torch.cat(branches, dim=1), 'bottleneck')
    if plus:
        detail = conv(features[1], 'c1_bottleneck')
        x = F.interpolate(x, detail.shape[2:], mode='bilinear', align_corners=True)
        x = conv(conv(torch.cat([x, detail], dim=1), 'decoder.0'), 'decoder.1')
    return F.conv2d(x, head['conv_seg.weight'], head['conv_seg.bias'])


def test_the_plain_computation_is_the_authors_at_stride_16() -> None:
    state, figures = segmentor_state('fna_deeplabv3'), golden('backbones_fna_seg.json')['fna_deeplabv3']
    features = plain_backbone(fill_image(figures['input']), state, 16)
    assert_described(features[-1], figures['backbone'])
    assert_described(plain_logits(features, state, RATES[16]), golden(FIGURES)['fna_deeplabv3'])


@pytest.mark.parametrize('config', [V3, PLUS])
def test_outputs_at_stride_8_are_those_of_the_plain_computation(config: str) -> None:
    net = segmentor(config, 8)
    state = segmentor_state('fna_deeplabv3') if config == V3 else fill_state(net.state_dict())
    net.load_state_dict(state)
    image = fill_image((1, 3, 97, 129))
    features = plain_backbone(image, state, 8)
    expected = plain_logits(features, state, RATES[8])
    with torch.no_grad():
        found = net.extract_feat(image)
        logits = net.decode_head(found)
    assert found[-1].shape == (1, 320, 13, 17)
    torch.testing.assert_close(found[-1], features[-1], rtol=0, atol=1e-6)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    # the rates of stride 16 give other logits; of filled weights, which vary little over an image, by percents of them
    wrong = plain_logits(features, state, RATES[16])
    assert (wrong - expected).abs().max() > 5e-3


def test_multiply_adds_do_not_see_the_rates() -> None:
    size = torch.empty(1, 3, 1024, 2048, device='meta')
    net = segmentor(PLUS, 8, 'meta')
    assert net.decode_head.dilations == (1, 12, 24, 36)
    assert traced(net, size)[1] == 313_834_160_128  # published 313.87 G: see test_published_cost_of_deeplabv3plus
    for branch, rate in zip(list(net.decode_head.aspp_modules)[1:], RATES[16], strict=True):
        branch.conv.dilation = branch.conv.padding = (rate, rate)
    assert traced(net, size)[1] == 313_834_160_128


HEAD: dict[str, Any] = dict(
    type='mmnas_ext.FNASegHead', in_channels=8, channels=4, num_classes=3, norm_cfg=dict(type='BN'), align_corners=True,
    in_index=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ('arguments', 'dilations'),
    [
        ({}, (1, 6, 12, 18)),
        (dict(output_stride=16), (1, 6, 12, 18)),
        (dict(output_stride=8), (1, 12, 24, 36)),
        (dict(output_stride=32), (1, 3, 6, 9)),
        (dict(output_stride=8, dilations=[1, 2, 4]), (1, 2, 4)),
    ],
)
def test_rates_follow_the_output_stride_unless_they_are_given(arguments: Any, dilations: Any) -> None:
    head = MODELS.build(dict(HEAD, **arguments))
    assert head.dilations == dilations
    depthwise = [m.dilation[0] for m in head.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert depthwise == list(dilations[1:])


@pytest.mark.parametrize('given', [0, 12, 64, True, '8', None])
def test_output_strides_that_no_backbone_has(given: Any) -> None:
    with pytest.raises(ValueError, match=rf'output_stride must be one of \(8, 16, 32\), got {given!r}'):
        MODELS.build(dict(HEAD, output_stride=given))


def losses(head: nn.Module, feature: tuple[int, int], image: tuple[int, int]) -> dict[str, Tensor]:
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *image, dtype=torch.int64)))
    return head.loss([torch.randn(2, 8, *feature)], [sample, sample], None)


# sides that the strides divide or not; the last one is of a backbone that rounds down
@pytest.mark.parametrize(
    ('stride', 'feature', 'image'),
    [(16, (49, 49), (769, 769)), (8, (97, 97), (769, 769)), (16, (2, 5), (17, 65)), (16, (6, 8), (97, 129))],
)
def test_a_feature_of_the_expected_stride(stride: int, feature: tuple[int, int], image: tuple[int, int]) -> None:
    head = MODELS.build(dict(HEAD, output_stride=stride))
    assert torch.isfinite(losses(head, feature, image)['loss_ce'])


@pytest.mark.parametrize(
    ('stride', 'feature', 'found'), [(16, (97, 97), 8), (8, (49, 49), 16), (16, (25, 25), 32), (8, (193, 193), 4)]
)
def test_a_feature_of_another_stride_is_refused(stride: int, feature: tuple[int, int], found: int) -> None:
    message = rf'output_stride is {stride}, .*769x769 gives a feature of {feature[0]}x{feature[1]}: set it to {found}'
    head = MODELS.build(dict(HEAD, output_stride=stride)).eval()
    with pytest.raises(ValueError, match=message) as raised:
        losses(head, feature, (769, 769))
    assert len(str(raised.value)) <= 300
    for meta in (dict(img_shape=(769, 769)), dict(img_shape=(5, 5), pad_shape=(769, 769, 3))):
        with pytest.raises(ValueError, match=message):
            head.predict([torch.randn(1, 8, *feature)], [meta], None)


def test_given_rates_go_with_any_feature() -> None:
    head = MODELS.build(dict(HEAD, output_stride=8, dilations=(1, 2)))
    assert torch.isfinite(losses(head, (49, 49), (769, 769))['loss_ce'])


@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_a_host_tool_that_tells_only_the_backbone_is_stopped(mode: str) -> None:
    """MMSegmentation's own tools do not fill in the head's stride."""
    cfg = small(read(V3))
    cfg.model.decode_head.update(channels=4, norm_cfg=dict(type='BN'), output_stride=16)
    cfg.model.backbone.output_stride = 8
    cfg.model.test_cfg = ConfigDict(mode=mode, crop_size=(64, 64), stride=(48, 48))
    net = MODELS.build(cfg.model).eval()
    with torch.no_grad(), pytest.raises(ValueError, match='gives a feature of .* set it to 8, as in the backbone'):
        net.predict(torch.zeros(1, 3, 96, 128))


def test_one_option_sets_the_stride_of_search_and_adaptation() -> None:
    """The command in the header of the DeepLabv3+ config: both halves take a step at stride 8."""
    options = {'model.backbone.output_stride': 8}
    cfg = prepare(str(FOLDER / 'fna_deeplabv3plus_cityscapes.py'), options=options)
    for half in (cfg, derived_config(cfg, zoo.arch('fna_deeplabv3'))):
        net = MODELS.build(small(half).model).train()
        assert net.backbone.out_strides == (4, 8) and net.decode_head.dilations == (1, 12, 24, 36)
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *CROP, dtype=torch.int64)))
        assert net.loss(torch.randn(2, 3, *CROP), [sample, sample])['decode.loss_ce'] > 0
