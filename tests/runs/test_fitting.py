"""What reads the backbone gets the channels of the found network, in every kind of model, or it is said why not."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmnas_ext.archs import ArchSpec
from mmnas_ext.runs.derived import distilled_config
from mmnas_ext.runs.fitting import fit_channels
from tests.engine import tiny, tiny_distill, tiny_seg

# strides 2, 4, 8; the config was written for other channels
FOUND = ArchSpec.parse(tiny_distill.TEACHER)
CHANNELS = [8, 12, 16]
BACKBONE = dict(type='mmnas_ext.MBNet', arch=FOUND.format('fna'), out_indices=(0, 1, 2))
BN = dict(type='BN')
SEG = dict(channels=4, num_classes=3, norm_cfg=BN, align_corners=False)
FCN = dict(type='FCNHead', num_convs=1, concat_input=False, **SEG)
WRONG = [32, 64, 96]


def segmentor(**parts: Any) -> dict[str, Any]:
    return dict(tiny_seg.model_cfg(dict(BACKBONE)), **parts)


def distilled(folder: Path, ordinary: dict[str, Any], **derived: Any) -> Any:
    """The model that a distillation derives, `ordinary` being that of the config that it names."""
    cfg = Config(dict(default_scope='mmseg', model=ordinary, train_cfg=dict(max_iters=1)))
    (folder / 'ordinary.py').write_text(cfg.pretty_text)
    (folder / 'distill.py').touch()
    derived = dict(config='ordinary.py', **derived)
    return distilled_config(Config(dict(derived=derived), filename=str(folder / 'distill.py')), FOUND).model


def losses(model: Any) -> dict[str, torch.Tensor]:
    """A forward of every part, on two images."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        net = MODELS.build(copy.deepcopy(model)).train()
        labels = torch.zeros(1, *tiny.SIZE, dtype=torch.int64)
        samples = [SegDataSample(gt_sem_seg=PixelData(data=labels)) for _ in range(2)]
        inputs = [torch.randint(256, (3, *tiny.SIZE), dtype=torch.uint8) for _ in range(2)]
        return net(**net.data_preprocessor({'inputs': inputs, 'data_samples': samples}, True), mode='loss')


def test_a_head_of_several_features_and_auxiliary_heads(tmp_path: Path) -> None:
    upper = dict(type='UPerHead', in_channels=WRONG, in_index=[0, 1, 2], pool_scales=(1, 2), **SEG)
    auxiliary = [
        dict(FCN, in_channels=64, in_index=1),
        dict(FCN, in_channels=[32, 64], in_index=(0, -1), input_transform='resize_concat'),
        dict(FCN, in_channels=64),  # of the last
    ]
    for number, head in enumerate(auxiliary):
        head['loss_decode'] = dict(type='CrossEntropyLoss', loss_name=f'loss_{number}')
    model = distilled(tmp_path, segmentor(decode_head=upper, auxiliary_head=auxiliary))
    assert list(model.decode_head.in_channels) == CHANNELS
    assert [head.in_channels for head in model.auxiliary_head] == [12, [8, 16], 16]
    assert {'decode.loss_ce', 'aux_0.loss_0', 'aux_1.loss_1', 'aux_2.loss_2'} <= set(losses(model))


def test_an_auxiliary_head_alone_and_a_decoder(tmp_path: Path) -> None:
    plus = dict(type='DepthwiseSeparableASPPHead', in_channels=96, in_index=2, c1_in_channels=32, c1_channels=4, **SEG)
    plus['dilations'] = (1, 2)
    auxiliary = dict(FCN, in_channels=7, in_index=1)
    model = distilled(tmp_path, segmentor(decode_head=plus, auxiliary_head=auxiliary))
    assert (model.decode_head.in_channels, model.decode_head.c1_in_channels) == (16, 8)
    assert model.auxiliary_head.in_channels == 12
    assert 'aux.loss_ce' in losses(model)


def test_heads_behind_a_neck_read_the_neck(tmp_path: Path) -> None:
    neck = dict(type='FPN', in_channels=WRONG, out_channels=6, num_outs=3)
    head = dict(FCN, in_channels=6, in_index=1)
    model = distilled(tmp_path, segmentor(neck=neck, decode_head=head, auxiliary_head=copy.deepcopy(head)))
    assert list(model.neck.in_channels) == CHANNELS
    assert (model.decode_head.in_channels, model.auxiliary_head.in_channels) == (6, 6)
    assert 'aux.loss_ce' in losses(model)


def test_the_second_neck_reads_the_first() -> None:
    necks = [dict(type='FPN', in_channels=WRONG, out_channels=6), dict(type='BFP', in_channels=6)]
    model = ConfigDict(neck=necks, bbox_head=dict(in_channels=6), rpn_head=dict(in_channels=6))
    fit_channels(model, CHANNELS)
    assert [neck.in_channels for neck in model.neck] == [CHANNELS, 6]
    assert (model.bbox_head.in_channels, model.rpn_head.in_channels) == (6, 6)


@pytest.mark.parametrize(
    ('model', 'wanted'),
    [
        (dict(neck=dict(type='DilatedEncoder', in_channels=64)), {'neck': 16}),
        (dict(bbox_head=dict(type='SSDHead', in_channels=(32, 64, 96))), {'bbox_head': CHANNELS}),
        (dict(decode_head=dict(type='Mask2FormerHead', in_channels=WRONG)), {'decode_head': CHANNELS}),
        (dict(neck=dict(type='GlobalAveragePooling'), head=dict(in_channels=64)), {'head': 16}),
        (
            dict(neck=dict(type='LinearNeck', in_channels=64, out_channels=5), head=dict(in_channels=5)),
            {'neck': 16, 'head': 5},
        ),
        (dict(bbox_head=dict(type='OwnHead')), {'bbox_head': None}),
    ],
)
def test_what_reads_the_backbone(model: dict[str, Any], wanted: dict[str, Any]) -> None:
    model = ConfigDict(model)
    fit_channels(model, CHANNELS)
    assert {name: model[name].get('in_channels') for name in wanted} == wanted


def test_a_classifier_runs(tmp_path: Path) -> None:
    model = dict(
        type='ImageClassifier', backbone=dict(BACKBONE), neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', in_channels=1280, num_classes=3),
    )  # fmt: skip
    fitted = distilled(tmp_path, model)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        net = MODELS.build(fitted)
        samples = [DataSample().set_gt_label(1) for _ in range(2)]
        assert net(torch.randn(2, 3, *tiny.SIZE), samples, mode='loss')['loss'] > 0


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(decode_head=dict(FCN, in_channels=64, in_index=3)), r'head.in_index asks for feature 3, .* gives 3'),
        (dict(decode_head=dict(FCN, in_channels=[8, 8], in_index=[0, 5])), 'asks for feature 5'),
        (dict(neck=dict(type='FPN', in_channels=[8] * 4)), r'neck.in_channels has 4 entries, .* there are 3 fea'),
        (dict(auxiliary_head=dict(FCN, in_channels=[8, 8], in_index=[1])), r'auxiliary_head.in_channels has 2 entr'),
        (dict(backbone=dict(type='ResNetV1c', depth=50)), r"backbone of ordinary.py is 'ResNetV1c', .*_delete_=True"),
        (dict(backbone=None), r"must describe a model with a backbone, got ordinary.py with 'EncoderDecoder'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distilled(tmp_path, segmentor(**changes))


def test_a_hosts_own_config_is_used_once_its_backbone_is_replaced(tmp_path: Path) -> None:
    host = segmentor(backbone=dict(type='ResNetV1c', depth=50), pretrained='open-mmlab://resnet50_v1c')
    host['decode_head'] = dict(FCN, in_channels=2048, in_index=2)
    model = distilled(tmp_path, host, model=dict(backbone=dict(_delete_=True, out_indices=(0, 1, 2))))
    assert model.decode_head.in_channels == 16
    assert ArchSpec.parse(model.backbone.arch) == FOUND
    assert losses(model)['decode.loss_ce'] > 0
