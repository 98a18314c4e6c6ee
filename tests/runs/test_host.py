"""Another detector or segmentor around the searched backbone needs no numbers of channels, in neither half."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope

from mmnas_ext.archs import SearchSpace, zoo
from mmnas_ext.runs.building import _check_neck as check_neck
from mmnas_ext.runs.fitting import pick_outputs
from mmnas_ext.runs.halves import walk
from mmnas_ext.runs.keys import check_shape
from mmnas_ext.runs.prepared import scope_of
from mmnas_ext.runs.resolve import resolve
from tests.own_data import DETECTOR, SEGMENTOR, both_halves, halves_of
from tests.small import small
from tests.test_configs import segmentations

LITE = {1: [320], 3: [40, 112, 320], 4: [24, 40, 112, 320]}
NARROW = dict(channels=16)
GROUPS = dict(feat_channels=8, stacked_convs=1, norm_cfg=dict(type='GN', num_groups=2))


def losses(half: Config) -> set[str]:
    """The names of a training step's losses on two images, of one path where several are searched."""
    half = small(half)
    with DefaultScope.overwrite_default_scope(half.default_scope):
        model = MODELS.build(half.model)
        if hasattr(model.backbone, 'space'):
            model.backbone.set_path(tuple((0,) * len(stage.layers) for stage in model.backbone.space.stages))
        detects = half.default_scope == 'mmdet'
        images = demo_mm_inputs(2, [(3, 64, 64)] * 2, num_classes=2) if detects else segmentations(half)
        data = model.data_preprocessor(images, True)
        found = model.loss(data['inputs'], data['data_samples'])
    terms = [each for value in found.values() for each in (value if isinstance(value, list) else [value])]
    sum(each.sum() for each in terms if each.requires_grad).backward()
    assert model.backbone.stem.conv.weight.grad.abs().sum() > 0
    return set(found)


def counted(model: Any) -> set[int]:
    """Numbers of classes in a model's config."""
    inside = list(model.values()) if isinstance(model, dict) else list(model) if isinstance(model, list) else []
    own = {model['num_classes']} if isinstance(model, dict) and 'num_classes' in model else set()
    return own.union(*map(counted, inside))


# ---------------------------------------------------------------- whole hosts by their configs


@pytest.mark.parametrize(
    ('config', 'features', 'keys'),
    [
        ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 4, {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox'}),
        ('atss/atss_r50_fpn_1x_coco.py', 4, {'loss_cls', 'loss_bbox', 'loss_centerness'}),
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 3, {'loss_cls', 'loss_bbox'}),
    ],
)
def test_a_detector_by_its_config(config: str, features: int, keys: set[str]) -> None:
    host = dict(config=f'mmdet::{config}')
    if 'faster' in config:
        host['roi_head'] = dict(bbox_head=dict(fc_out_channels=16))  # less to initialise
    for half in halves_of(DETECTOR, host=host, classes=('a', 'b')):
        assert list(half.model.neck.in_channels) == LITE[features]
        assert half.model.data_preprocessor['mean'] == [127.0] * 3  # the seed's
        assert counted(half.model) == {2}
        assert keys <= losses(half)


@pytest.mark.parametrize(
    ('config', 'kind', 'channels'),
    [
        ('fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py', 'FCNHead', 320),
        ('pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py', 'PSPHead', 320),
        ('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', 'SegformerHead', LITE[4]),
    ],
)
def test_a_segmentor_by_its_config(config: str, kind: str, channels: Any) -> None:
    for half in halves_of(SEGMENTOR, host=dict(config=f'mmseg::{config}', decode_head=NARROW), classes=('road', 'sky')):
        head = half.model.decode_head
        assert (head.type, head.in_channels, head.channels) == (kind, channels, 16)
        assert counted(half.model) == {2}
        assert half.model.test_cfg == dict(mode='whole')  # the size of images and crops is this config's
        assert 'pretrained' not in half.model
        assert 'decode.loss_ce' in losses(half)


def test_a_neck_of_another_width_is_followed_by_all_that_reads_it() -> None:
    host = dict(config='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', neck=dict(out_channels=16))
    for half in halves_of(DETECTOR, host=host):
        roi = half.model.roi_head
        found = [half.model.rpn_head.in_channels, roi.bbox_roi_extractor.out_channels, roi.bbox_head.in_channels]
        assert found == [16, 16, 16]
        assert counted(half.model) == {80}  # as the config had before


def test_a_host_counts_the_classes_of_the_config_and_norms_over_as_many_processes() -> None:
    host = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'  # 150 classes, SyncBN
    for base, norm in (('fna_deeplabv3_cityscapes.py', 'SyncBN'), (SEGMENTOR, 'BN')):
        changes = dict(classes=None) if base == SEGMENTOR else {}
        cfg, derived = halves_of(base, host=host, **changes)
        assert (counted(cfg.model), counted(derived.model)) == ({19}, {19})
        assert cfg.model.decode_head.norm_cfg.type == derived.model.decode_head.norm_cfg.type == norm


def norms(part: Any) -> set[str]:
    return {each['type'] for each in walk(part) if each.get('type') in ('BN', 'SyncBN')}


def test_each_half_has_synchronised_norms_in_its_host_where_it_has_some_itself() -> None:
    # MMDetection's own RTMDet has SyncBN throughout; FNA searches with the norms of one GPU, and adapts with SyncBN
    for half, norm in zip(halves_of('examples/fna_rtmdet_coco.py'), ('BN', 'SyncBN'), strict=True):
        assert norms(half.model.neck) == norms(half.model.bbox_head) == norms(half.model.backbone) | {norm} == {norm}
    host = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
    for half in halves_of('fna_retinanet_coco_1gpu.py', host=host):
        assert norms(half.model) == {'BN'}
    # what the second half says itself stays
    own = dict(model=dict(neck=dict(norm_cfg=dict(type='GN', num_groups=2))))
    _, second = halves_of('fna_retinanet_coco.py', host=host, derived=own)
    assert second.model.neck.norm_cfg == dict(type='GN', num_groups=2)
    assert norms(second.model.bbox_head) == {'SyncBN'}


def test_norms_of_a_list_of_heads_are_told_apart_by_half() -> None:
    host = 'mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py'
    own = dict(model=dict(backbone=dict(norm_cfg=dict(type='SyncBN'))))
    search, second = halves_of(SEGMENTOR, host=host, derived=own)
    assert [norms(head) for head in search.model.decode_head] == [{'BN'}] * 2
    assert [norms(head) for head in second.model.decode_head] == [{'SyncBN'}] * 2
    assert second.model.decode_head[1].type == 'OCRHead'


def test_a_list_of_necks_is_wired_at_its_first(tmp_path: Path) -> None:
    host = dict(config='mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py', neck={'1': dict(num_blocks=1)})
    for half in halves_of(DETECTOR, host=host):
        assert list(half.model.neck[0].in_channels) == LITE[4]
        assert half.model.neck[1].num_blocks == 1
        check_shape(half)
    with pytest.raises(ValueError, match=r"one of a list is named by its number, neck=\{'0': …\}"):
        halves_of(DETECTOR, host=dict(host, neck=dict(out_channels=64)))
    with pytest.raises(ValueError, match='model.neck must be a dict or a list of them, got 3'):
        check_shape(dict(model=dict(neck=3)))


def test_a_neck_that_names_the_coarsest_feature_first_keeps_its_order() -> None:
    for half in halves_of(
        DETECTOR, host='mmdet::yolo/yolov3_mobilenetv2_8xb24-ms-416-300e_coco.py', classes=('a', 'b')
    ):
        assert list(half.model.neck.in_channels) == LITE[3][::-1]
        assert losses(half) == {'loss_cls', 'loss_conf', 'loss_xy', 'loss_wh'}
        with scope_of(half):
            check_neck(MODELS.build(half.model), half, '')
        half.model.neck.in_channels = LITE[3]
        with pytest.raises(
            ValueError, match=r'must be what the backbone gives, \[320, 112, 40\], got \[40, 112, 320\]'
        ):
            check_neck(SimpleNamespace(backbone=MODELS.build(half.model.backbone)), half, '')


def test_ssds_hand_the_features_on_at_the_strides_of_their_anchors() -> None:
    for half in halves_of(DETECTOR, host='mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'):
        assert half.model.backbone.out_indices == (4, 6)  # strides 16 and 32
        assert list(half.model.neck.out_channels) == list(half.model.bbox_head.in_channels)
        assert list(half.model.neck.out_channels) == [112, 320, 512, 256, 256, 128]
        assert losses(half) == {'loss_cls', 'loss_bbox'}
    for half in halves_of(DETECTOR, host='mmdet::ssd/ssd300_coco.py'):
        assert half.model.backbone.out_indices == (2, 4)  # strides 8 and 16
        with DefaultScope.overwrite_default_scope('mmdet'):
            neck = MODELS.build(half.model.neck)
        features = neck([torch.rand(1, 40, 38, 38), torch.rand(1, 112, 19, 19)])
        assert [tuple(each.shape[1:3]) for each in features] == [
            (40, 38), (112, 19), (512, 10), (256, 5), (256, 3), (256, 1),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ('host', 'message'),
    [
        (3, r"host must name a config, such as 'mmdet::faster_rcnn/.*', or be a dict\(config='…', …\) .* got 3"),
        (
            'mmdet::atss/atss_r50_1x.py',
            r'host mmdet::atss/atss_r50_1x.py does not exist: did you mean mmdet::atss/atss_r50',
        ),
        ('nowhere::a.py', r'host nowhere::a.py: there is no package nowhere'),
        (
            'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py',
            r'host must be a config of mmdet, as this one, and mms',
        ),
        (
            'mmdet::_base_/default_runtime.py',
            r'host must describe a model with a backbone, and mmdet::_base_/.* has none',
        ),
        (
            'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
            r'learns masks of objects, and LoadAnnotations of this config l',
        ),
    ],
)
def test_a_host_that_cannot_be_is_told_of(host: Any, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        halves_of(DETECTOR, host=host)


@pytest.mark.parametrize(
    ('config', 'backbone'),
    [
        ('bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py', 'BiSeNetV1'),
        ('stdc/stdc1_4xb12-80k_cityscapes-512x1024.py', 'STDCContextPathNet'),
    ],
)
def test_a_host_that_is_its_backbone_is_refused(config: str, backbone: str) -> None:
    with pytest.raises(ValueError, match=f'backbone {backbone} is replaced, which has in it what makes it that model'):
        halves_of(SEGMENTOR, host=f'mmseg::{config}')


@pytest.mark.parametrize(
    ('said', 'message'),
    [
        (
            'test_cfg=dict(score_thr=0.3, max_per_img=7)',
            r'^model.test_cfg.score_thr has .* host=dict\(.*, test_cfg',
        ),
        (
            'bbox_head=dict(loss_cls=dict(alpha=0.9))',
            r"head.loss_cls.alpha .*dict\(config='mmdet::atss/.*, bbox_head=…",
        ),
    ],
)
def test_what_a_file_says_of_the_model_beside_its_host_is_refused(tmp_path: Path, said: str, message: str) -> None:
    host = "host = 'mmdet::atss/atss_r50_fpn_1x_coco.py'"
    with pytest.raises(ValueError, match=message):
        both_halves(tmp_path, DETECTOR, host, f'model = dict({said})')


def test_what_the_places_beside_a_host_say_has_its_effect(tmp_path: Path) -> None:
    lines = [
        "host = dict(config='mmdet::atss/atss_r50_fpn_1x_coco.py', test_cfg=dict(score_thr=0.3))",
        # the backbone's own, what count classes, and what the host says alike
        'model = dict(backbone=dict(with_cp=True), bbox_head=dict(num_classes=3), neck=dict(out_channels=256))',
        'derived = dict(model=dict(test_cfg=dict(max_per_img=7)))',
    ]
    search, derived = both_halves(tmp_path, DETECTOR, *lines)
    assert search.model.backbone.with_cp is True
    for half, most in ((search, 100), (derived, 7)):
        assert (half.model.test_cfg.score_thr, half.model.test_cfg.max_per_img) == (0.3, most)
        assert counted(half.model) == {3}


# ---------------------------------------------------------------- parts that leave their channels out


def test_heads_and_necks_of_a_detector_that_say_no_channels() -> None:
    head = dict(_delete_=True, type='FCOSHead', num_classes=2, feat_channels=16, norm_cfg=None)
    neck = dict(_delete_=True, type='FPN', out_channels=24, num_outs=5, start_level=1)
    for half in halves_of(DETECTOR, model=dict(type='FCOS', neck=neck, bbox_head=head)):
        assert (half.model.neck.in_channels, half.model.bbox_head.in_channels) == (LITE[4], 24)
        assert losses(half) == {'loss_cls', 'loss_bbox', 'loss_centerness'}


@pytest.mark.parametrize(
    ('head', 'channels'),
    [
        (dict(type='FCNHead', in_index=1, num_convs=1), 40),
        (dict(type='PSPHead', pool_scales=(1, 2)), 320),
        (dict(type='SegformerHead', in_index=[0, 1, 2, 3]), LITE[4]),
    ],
)
def test_heads_of_a_segmentor_that_say_no_channels(head: dict[str, Any], channels: Any) -> None:
    auxiliary = dict(type='FCNHead', in_index=2, num_classes=19, num_convs=1, **NARROW)
    model = dict(
        backbone=dict(out_indices=(1, 2, 4, 6)),
        decode_head=dict(_delete_=True, num_classes=19, **NARROW, **head),
        auxiliary_head=auxiliary,
    )
    for half in halves_of(SEGMENTOR, model=model):
        assert (half.model.decode_head.in_channels, half.model.auxiliary_head.in_channels) == (channels, 112)
        assert {'decode.loss_ce', 'aux.loss_ce'} <= losses(half)


def test_what_a_head_does_not_take_it_is_not_given() -> None:
    neck = dict(_delete_=True, type='ChannelMapper', kernel_size=1, out_channels=32, num_outs=4)
    cfg, _ = halves_of(DETECTOR, model=dict(neck=neck, bbox_head=dict(_delete_=True, type='DINOHead', num_classes=2)))
    assert cfg.model.neck.in_channels == LITE[4]
    assert 'in_channels' not in cfg.model.bbox_head


def test_another_space_rewires_what_reads_it() -> None:
    for half in halves_of('fna_retinanet_coco.py', space='efficientnet_lite0_det'):
        assert half.model.neck.in_channels == LITE[4]


def test_outputs_are_the_last_stages_of_their_strides() -> None:
    space = zoo.space('fna_det')
    assert isinstance(space, SearchSpace)
    assert [pick_outputs(space, count) for count in (1, 2, 3, 4, 5)] == [
        (6,), (4, 6), (2, 4, 6), (1, 2, 4, 6), (0, 1, 2, 4, 6),
    ]  # fmt: skip
    with pytest.raises(
        ValueError, match=r'the host reads 6 features, and the backbone has strides \[2, 4, 8, 16, 32\]'
    ):
        pick_outputs(space, 6)


def test_a_backbone_of_another_project_is_left_alone() -> None:
    model = dict(backbone=dict(type='ResNet', depth=18), neck=dict(type='FPN', out_channels=8))
    cfg = Config(dict(default_scope='mmdet', model=model, derived=dict(a=1)))
    assert resolve(cfg).model == ConfigDict(model)


# ---------------------------------------------------------------- strides, and scopes

LRASPP = 'mmseg::mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py'


def test_a_host_of_certain_strides_reads_the_last_stages_of_these() -> None:
    for strides, outputs, channels in (((2, 4, 32), (0, 1, 6), [16, 24, 320]), (None, (2, 4, 6), [40, 112, 320])):
        host = dict(config=LRASPP, strides=strides) if strides else LRASPP
        for half in halves_of(SEGMENTOR, host=host, classes=('road', 'sky')):
            assert tuple(half.model.backbone.out_indices) == outputs
            assert list(half.model.decode_head.in_channels) == channels
            assert 'strides' not in half.model


@pytest.mark.parametrize(
    ('strides', 'message'),
    [
        ((4, 2, 32), r'host.strides must be rising numbers, of the features to read, got \(4, 2, 32\)'),
        (8, 'host.strides must be rising numbers'),
        ((2, 4), r'the host reads 3 features, the backbone has strides \[2, 4, 8, 16, 32\], got \(2, 4\)'),
        ((2, 4, 64), r'the host reads 3 features, the backbone has strides \[2, 4, 8, 16, 32\], got \(2, 4, 64\)'),
    ],
)
def test_strides_that_are_not_there_are_told_of(strides: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        halves_of(SEGMENTOR, host=dict(config=LRASPP, strides=strides))


def test_a_host_follows_the_space_that_is_set_beside_it() -> None:
    """Of a space without a last stage of stride 32 at the same place, other stages are read."""
    space = json.loads(zoo.space('fna_det').format())
    space['stages'] = space['stages'][:6]
    for half in halves_of(DETECTOR, host='mmdet::atss/atss_r50_fpn_1x_coco.py', space=space):
        assert tuple(half.model.backbone.out_indices) == (1, 2, 4, 5)
        assert list(half.model.neck.in_channels) == [24, 32, 96, 160]


@pytest.mark.parametrize('scope', ['mmseg', 'mmnas_ext', 'mmengine'])
def test_a_detector_in_another_default_scope_is_still_one(scope: str) -> None:
    """Its parts are MMDetection's, though others have some of the same name: FocalLoss, LoadAnnotations."""
    host = dict(config='mmdet::atss/atss_r50_fpn_1x_coco.py', neck=dict(out_channels=8), bbox_head=GROUPS)
    for half in halves_of(DETECTOR, host=host, default_scope=scope, classes=('a', 'b')):
        assert (half.default_scope, half.model['_scope_'], counted(half.model)) == (scope, 'mmdet', {2})
        with DefaultScope.overwrite_default_scope(scope):
            model = MODELS.build({**half.model, 'backbone': {**half.model.backbone, 'init_cfg': None}})
        parts = (model, model.bbox_head, model.bbox_head.loss_cls, model.bbox_head.assigner.iou_calculator)
        assert {type(part).__module__.partition('.')[0] for part in parts} == {'mmdet'}


def test_windows_of_other_heads_are_averaged_as_these_do() -> None:
    host = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    for half in halves_of('fna_deeplabv3_cityscapes.py'):
        assert half.model.test_cfg.average == 'softmax'
    for half in halves_of('fna_deeplabv3_cityscapes.py', host=host):
        assert half.model.test_cfg == dict(mode='slide', crop_size=(769, 769), stride=(513, 513))
