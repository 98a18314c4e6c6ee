"""FNA's SSDLite inside MMDetection: neck, head, anchors and losses against figures that come from elsewhere."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import SSDHead
from mmdet.models.necks import SSDNeck
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tests.backbones.reference import backbone_state, golden
from tests.filling import assert_described, fill_image, fill_state, fill_value

DET, OWN = 'backbones_fna_det.json', 'hosts_fna_ssdlite.json'
CHANNELS = [576, 1280, 512, 256, 256, 128]
SIZES = [20, 10, 5, 3, 2, 1]
STRIDES = [16, 32, 64, 107, 160, 320]
MINIMA, MAXIMA = [30, 60, 114, 168, 222, 276], [60, 114, 168, 222, 276, 330]
RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
COUNTS = [4, 6, 6, 6, 4, 4]
ANCHORS = dict(
    type='mmnas_ext.SSDLiteAnchorGenerator',
    scale_major=False,
    strides=STRIDES,
    ratios=RATIOS,
    min_sizes=MINIMA,
    max_sizes=MAXIMA,
)
TRAINING = dict(
    assigner=dict(
        type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.0, ignore_iof_thr=-1,
        gt_max_assign_all=False,
    ),
    sampler=dict(type='PseudoSampler'), smoothl1_beta=1.0, allowed_border=-1, pos_weight=-1, neg_pos_ratio=3,
    debug=False,
)  # fmt: skip
TESTING = ConfigDict(
    nms_pre=1000, nms=dict(type='nms', iou_threshold=0.6), min_bbox_size=0, score_thr=0.02, max_per_img=200
)
CODER = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def build_head(kind: str = 'mmnas_ext.SSDLiteHead', **options: Any) -> Any:
    given = dict(
        num_classes=80, in_channels=CHANNELS, anchor_generator=ANCHORS, bbox_coder=CODER, train_cfg=TRAINING,
        test_cfg=TESTING,
    )  # fmt: skip
    return MODELS.build({'type': kind, **given, **options})


def learned(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ---------------------------------------------------------------- the neck


def test_the_neck_is_mmdetections_and_gives_the_authors_features() -> None:
    neck = SSDNeck(
        CHANNELS[:2], CHANNELS, (2,) * 4, (1,) * 4, l2_norm_scale=None, use_depthwise=True,
        norm_cfg=dict(type='BN', eps=1e-3), act_cfg=dict(type='ReLU6'),
    ).eval()  # fmt: skip
    assert learned(neck) == 656_960
    names = {(0, '0'): 'conv', (0, '1'): 'bn', (1, '0'): 'depthwise_conv.conv', (1, '1'): 'depthwise_conv.bn'}
    names |= {(1, '3'): 'pointwise_conv.conv', (1, '4'): 'pointwise_conv.bn'}
    state = {}
    for index, key, shape in golden(OWN)['extra']:
        _, number, position, name = key.split('.')
        level, second = divmod(int(number), 2)
        state[f'extra_layers.{level}.{second}.{names[second, position]}.{name}'] = fill_value(key, shape, index)
    neck.load_state_dict(state)
    for layers in neck.extra_layers:
        layers[0].bn.eps = 1e-5  # in these figures the 1x1 convolutions have the backbone's
    figures = golden(DET)['fna_ssdlite_backbone']
    net = MODELS.build(dict(type='mmnas_ext.MBNet', arch='fna_ssdlite', out_indices=('5.expand', 7))).eval()
    net.load_state_dict(backbone_state(figures['tensors']))
    with torch.no_grad():
        features = neck(net(fill_image(figures['input'])))
    assert [feature.shape[1:] for feature in features] == [
        (c, s, s) for c, s in zip(CHANNELS, SIZES, strict=True)
    ]  # fmt: skip
    for feature, description in zip(features[2:], golden(OWN)['outputs'], strict=True):
        assert_described(feature, description)


# ---------------------------------------------------------------- the head


def test_parameters_of_the_head_and_of_mmdetections() -> None:
    by_hand = 0
    for channels, count in zip(CHANNELS, COUNTS, strict=True):
        for outputs in (81 * count, 4 * count):
            by_hand += 9 * channels + 2 * channels + channels * outputs + 2 * outputs
    with torch.device('meta'):
        ours, theirs = build_head(), build_head('SSDHead', use_depthwise=True, norm_cfg=dict(type='BN'))
    assert learned(ours) == by_hand == 1_442_156
    assert learned(theirs) == 1_439_606
    assert {m.eps for m in ours.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    lasts = [layers[-1] for convs in (ours.cls_convs, ours.reg_convs) for layers in convs]
    assert len(lasts) == 12
    assert all(last.conv.bias is None and not last.with_activation and last.with_norm for last in lasts)


def small_head(kind: str = 'mmnas_ext.SSDLiteHead', **options: Any) -> Any:
    head = build_head(kind, num_classes=2, in_channels=[4, 3, 2, 2, 2, 2], **options)
    head.load_state_dict(fill_state(head.state_dict()))
    return head.eval()


def small_features(images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, c, s, s, generator=generator) for c, s in zip((4, 3, 2, 2, 2, 2), SIZES, strict=True)]


def test_outputs_of_the_head_are_plain_arithmetic() -> None:
    head, features = small_head(), small_features()
    state = head.state_dict()

    def normed(x: Tensor, key: str) -> Tensor:
        mean, var, weight, bias = (
            state[f'{key}.bn.{name}'] for name in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    with torch.no_grad():
        found = head(features)
    for outputs, kind, width in zip(found, ('cls', 'reg'), (3, 4), strict=True):
        for level, (output, x, count) in enumerate(zip(outputs, features, COUNTS, strict=True)):
            key = f'{kind}_convs.{level}'
            x = F.conv2d(x, state[f'{key}.0.conv.weight'], padding=1, groups=x.shape[1])
            x = normed(x, f'{key}.0').clamp(0, 6)
            x = normed(F.conv2d(x, state[f'{key}.1.conv.weight']), f'{key}.1')
            assert output.shape[1] == width * count
            torch.testing.assert_close(output, x)


def test_with_a_norm_that_only_adds_it_is_mmdetections_head() -> None:
    ours = small_head()
    theirs: SSDHead = small_head('SSDHead', use_depthwise=True, norm_cfg=dict(type='BN', eps=1e-3),
                                 act_cfg=dict(type='ReLU6'))  # fmt: skip
    for convs, others in ((ours.cls_convs, theirs.cls_convs), (ours.reg_convs, theirs.reg_convs)):
        for mine, other in zip(convs, others, strict=True):
            mine[0].load_state_dict(other[0].state_dict())
            mine[1].conv.weight.data = other[1].weight.data
            mine[1].bn.bias.data = other[1].bias.data
            nn.init.ones_(mine[1].bn.weight)
            nn.init.zeros_(mine[1].bn.running_mean)
            nn.init.constant_(mine[1].bn.running_var, 1 - 1e-3)
    with torch.no_grad():
        for mine, other in zip(ours(small_features()), theirs(small_features()), strict=True):
            for a, b in zip(mine, other, strict=True):
                torch.testing.assert_close(a, b)


def test_a_head_is_depthwise_always() -> None:
    with pytest.raises(ValueError, match=r'use_depthwise must be left out of SSDLiteHead, .* got False; SSDHead has'):
        build_head(use_depthwise=False)


# ---------------------------------------------------------------- anchors


def test_anchors_are_those_of_arithmetic() -> None:
    generator = TASK_UTILS.build(ANCHORS)
    levels = generator.grid_priors([(size, size) for size in SIZES], device='cpu')
    assert [len(level) for level in levels] == [s * s * c for s, c in zip(SIZES, COUNTS, strict=True)]
    assert sum(map(len, levels)) == 2424
    for index, level in enumerate(levels):
        small, large = MINIMA[index], math.sqrt(MINIMA[index] * MAXIMA[index])
        sides = [(small, small), (large, large)]
        for ratio in RATIOS[index]:
            root = math.sqrt(ratio)
            sides += [(small * root, small / root), (small / root, small * root)]
        row, column = SIZES[index] // 2, SIZES[index] - 1
        place = (row * SIZES[index] + column) * COUNTS[index]
        center = [(STRIDES[index] - 1) / 2 + STRIDES[index] * each for each in (column, row)]
        for anchor, (width, height) in zip(level[place : place + COUNTS[index]].tolist(), sides, strict=True):
            expected = [center[0] - width / 2, center[1] - height / 2, center[0] + width / 2, center[1] + height / 2]
            assert anchor == pytest.approx(expected, abs=1e-3)


def test_sizes_are_those_of_300_pixels_between_a_fifth_and_nineteen_twentieths() -> None:
    usual = TASK_UTILS.build(
        dict(type='SSDAnchorGenerator', scale_major=False, input_size=300, basesize_ratio_range=(0.2, 0.95),
             strides=STRIDES, ratios=RATIOS)
    )  # fmt: skip
    ours = TASK_UTILS.build(ANCHORS)
    for anchors, others in zip(ours.base_anchors, usual.base_anchors, strict=True):
        torch.testing.assert_close(anchors + 0.5, others)  # and centres half a pixel before MMDetection's


# ---------------------------------------------------------------- losses


def boxes_of(head: Any) -> np.ndarray:
    levels = head.prior_generator.grid_priors([(size, size) for size in SIZES], device='cpu')
    return torch.cat(levels).numpy().astype(np.float64)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    inter = np.clip(np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2]), 0, None)
    area = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    common = inter.prod(2)
    return common / (area[0][:, None] + area[1][None] - common)


def losses_by_hand(
    anchors: np.ndarray, scores: np.ndarray, deltas: np.ndarray, truth: list[Any]
) -> tuple[float, float]:
    """Of 2 classes and background: SSD's loss (arXiv 1512.02325, section 2.2), divided by all positives.

    Args:
        anchors: ``(A, 4)``.
        scores: ``(N, A, 3)``.
        deltas: ``(N, A, 4)``.
        truth: Per image boxes ``(G, 4)`` and labels ``(G,)``.
    """
    by_class, by_box, positives = 0.0, 0.0, 0
    for score, delta, (boxes, labels) in zip(scores, deltas, truth, strict=True):
        iou = overlaps(anchors, boxes)
        owner = np.where(iou.max(1) >= 0.5, iou.argmax(1), -1)
        for number in range(len(boxes)):  # each box has its best anchor, however little they overlap
            owner[iou[:, number].argmax()] = number
        target = np.where(owner >= 0, labels[owner], 2)
        log = score - np.log(np.exp(score).sum(1, keepdims=True))
        cost = -log[np.arange(len(anchors)), target]
        taken = owner >= 0
        hard = np.sort(cost[~taken])[::-1][: 3 * taken.sum()]
        by_class += cost[taken].sum() + hard.sum()
        mine, box = anchors[taken], boxes[owner[taken]]
        side, goal = mine[:, 2:] - mine[:, :2], box[:, 2:] - box[:, :2]
        shift = ((box[:, 2:] + box[:, :2]) - (mine[:, 2:] + mine[:, :2])) / 2 / side / 0.1
        wanted = np.concatenate([shift, np.log(goal / side) / 0.2], axis=1)
        off = np.abs(delta[taken] - wanted)
        by_box += np.where(off < 1, off**2 / 2, off - 0.5).sum()
        positives += taken.sum()
    return by_class / positives, by_box / positives


def sample(boxes: Any, labels: Any) -> DetDataSample:
    found = DetDataSample(metainfo=dict(img_shape=(320, 320), pad_shape=(320, 320), ori_shape=(320, 320),
                                        scale_factor=(1.0, 1.0), img_id=0, batch_input_shape=(320, 320)))  # fmt: skip
    found.gt_instances = InstanceData(bboxes=torch.tensor(boxes), labels=torch.tensor(labels))
    return found


def flat(levels: Any, width: int) -> np.ndarray:
    rows = [level.permute(0, 2, 3, 1).reshape(len(level), -1, width) for level in levels]
    return torch.cat(rows, 1).detach().double().numpy()


def test_losses_are_those_of_the_formulas() -> None:
    head = small_head()
    truth = [
        ([[10.0, 20.0, 90.0, 150.0], [200.0, 200.0, 210.0, 209.0], [0.0, 0.0, 310.0, 300.0]], [1, 0, 0]),
        ([[100.0, 90.0, 160.0, 140.0]], [1]),
    ]
    features = small_features()
    found = head.loss(features, [sample(*each) for each in truth])
    scores, deltas = head(features)
    expected = losses_by_hand(
        boxes_of(head), flat(scores, 3), flat(deltas, 4), [(np.array(b), np.array(n)) for b, n in truth]
    )
    for name, value in zip(('loss_cls', 'loss_bbox'), expected, strict=True):
        assert sum(each.sum().item() for each in found[name]) == pytest.approx(value, rel=1e-4)


def test_features_of_other_strides_than_the_anchors_are_refused() -> None:
    head, features = small_head(), small_features()
    finer = [features[0], torch.randn(2, 3, 20, 20), *features[2:]]
    images = [sample([[0.0, 0.0, 9.0, 9.0]], [0])] * 2
    for given, count in ((finer, 6), (features[:5], 5)):
        with pytest.raises(ValueError, match=rf'anchors for 6 features of strides \[16, 32, .*, and reads {count}, '):
            head.loss(tuple(given), images)


# ---------------------------------------------------------------- prediction


def test_mmdetections_own_head_cannot_predict_and_ours_can() -> None:
    """If this fails, MMDetection has mended it, and `mmnas_ext.SSDHead` may go."""
    options = dict(use_depthwise=True, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU6'))
    theirs, ours = small_head('SSDHead', **options), small_head('mmnas_ext.SSDHead', **options)
    features, images = small_features(1), [sample([[0.0, 0.0, 9.0, 9.0]], [0])]
    with pytest.raises(AttributeError, match='loss_cls'):
        theirs.predict(tuple(features), images)
    with torch.no_grad():
        (found,) = ours.predict(tuple(features), images)
        for mine, other in zip(ours(features), theirs(features), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))
    assert len(found.bboxes) > 0


def test_predicted_boxes_and_scores() -> None:
    head = small_head()
    features = [torch.zeros(1, c, s, s) for c, s in zip((4, 3, 2, 2, 2, 2), SIZES, strict=True)]
    with torch.no_grad():
        scores, deltas = head(features)
        for level in (*scores, *deltas):
            level.zero_()
        for level in scores:
            level.view(1, -1, 3, *level.shape[2:])[:, :, 2] = 9.0  # background
        # at the third place of the last but one feature the second anchor is class 1, shifted and widened
        place = scores[4].view(1, 4, 3, 2, 2)
        place[0, 1, :, 1, 0] = torch.tensor([0.0, math.log(8.0), 0.0])
        deltas[4].view(1, 4, 4, 2, 2)[0, 1, :, 1, 0] = torch.tensor([1.0, -2.0, 0.5, 0.0])
        meta = [sample([[0.0, 0.0, 9.0, 9.0]], [0]).metainfo]
        (found,) = head.predict_by_feat(scores, deltas, batch_img_metas=meta, cfg=head.test_cfg)
    # two classes clear 0.02: 8/10 and 1/10, at one place
    assert found.scores.tolist() == pytest.approx([0.8, 0.1]) and found.labels.tolist() == [1, 0]
    side = math.sqrt(222 * 276)
    middle = (159 / 2 + 0.1 * side, 160 + 159 / 2 - 0.2 * side)
    half = (side * math.exp(0.1) / 2, side / 2)
    expected = [middle[0] - half[0], middle[1] - half[1], middle[0] + half[0], middle[1] + half[1]]
    clipped = [min(max(each, 0.0), 320.0) for each in expected]
    assert found.bboxes[0].tolist() == pytest.approx(clipped, abs=1e-3)
