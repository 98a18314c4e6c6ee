"""Our networks inside MMDetection and MMSegmentation, as their own configs build them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from tests.small import read, small

ROOT = Path(__file__).resolve().parents[1]

# run on its own, so that nothing has imported us when the host meets the name
DETECTOR = """
import json, sys
import torch
from mmengine.registry import init_default_scope
from mmdet.registry import MODELS

init_default_scope('mmdet')
head = dict(type='RetinaHead', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1,
    anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128]),
    bbox_coder=dict(type='DeltaXYWHBBoxCoder'))
def detector(name, channels):
    return dict(type='RetinaNet', backbone=dict(type=f'mmnas_ext.{name}'),
        neck=dict(type='FPN', in_channels=channels, out_channels=16, start_level=1, add_extra_convs='on_input',
            num_outs=5),
        bbox_head=head, test_cfg=dict(nms_pre=10, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=10))
def shapes(model):
    with torch.no_grad():
        return [list(x.shape) for x in model.eval().extract_feat(torch.zeros(1, 3, 64, 96))]
NETWORKS = [('DNA_a', [24, 40, 96, 320]), ('FNA_RetinaNet', [24, 32, 96, 320])]
build = detector
"""

SEGMENTOR = """
import json, sys
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

init_default_scope('mmseg')
def segmentor(name, channels):
    return dict(type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 96)),
        backbone=dict(type=f'mmnas_ext.{name}', out_indices=(6,), output_stride=16),
        decode_head=dict(type='FCNHead', in_channels=channels, in_index=0, channels=16, num_convs=1, num_classes=19,
            norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss')),
        train_cfg=dict(), test_cfg=dict(mode='whole'))
def shapes(model):
    with torch.no_grad():
        features = model.eval().extract_feat(torch.zeros(1, 3, 64, 96))
        return [list(features[0].shape), list(model.decode_head(features).shape)]
NETWORKS = [('DNA_a', 320), ('FNA_DeepLabv3', 320)]
build = segmentor
"""

REPORT = """
result = dict(before=[name for name in sys.modules if name.startswith('mmnas_ext')])
for name, channels in NETWORKS:
    model = MODELS.build(build(name, channels))
    result[name] = dict(kind=type(model).__name__, backbone=type(model.backbone).__name__,
        arch=len(model.backbone.arch.stages), shapes=shapes(model))
result['imported'] = [name for name in ('mmdet', 'mmseg', 'mmnas_ext.hosts.seg') if name in sys.modules]
print('RESULT' + json.dumps(result))
"""


def in_fresh_process(code: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.partition('RESULT')[2])


def test_detector_finds_a_network_by_the_scope_in_its_name(tmp_path: Path) -> None:
    result = in_fresh_process(DETECTOR + REPORT, tmp_path)
    assert (result.pop('before'), result.pop('imported')) == ([], ['mmdet'])
    # FPN of 64x96 pixels from stride 8 on, two levels more
    pyramid = [[1, 16, 8, 12], [1, 16, 4, 6], [1, 16, 2, 3], [1, 16, 1, 2], [1, 16, 1, 1]]
    expected = dict(kind='RetinaNet', backbone='MBNet', arch=7, shapes=pyramid)
    assert result == {'DNA_a': expected, 'FNA_RetinaNet': expected}


def test_segmentor_finds_a_network_by_the_scope_in_its_name(tmp_path: Path) -> None:
    result = in_fresh_process(SEGMENTOR + REPORT, tmp_path)
    # it has no head of ours; MMSegmentation itself imports MMDetection where that is installed
    imported = result.pop('imported')
    assert 'mmseg' in imported
    assert 'mmnas_ext.hosts.seg' not in imported
    assert result.pop('before') == []
    expected = dict(kind='EncoderDecoder', backbone='MBNet', arch=7, shapes=[[1, 320, 4, 6], [1, 19, 4, 6]])
    assert result == {'DNA_a': expected, 'FNA_DeepLabv3': expected}


@pytest.fixture
def mmdet_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


# published: parameters in M and multiply-adds in B, of FNA's table 2
@pytest.mark.parametrize(
    ('name', 'params', 'madds'),
    [('retinanet_fna_coco.py', '11.73', '133.03'), ('retinanet_mbv2_coco.py', '11.49', '133.05')],
)
def test_published_cost_of_the_detectors(name: str, params: str, madds: str, mmdet_scope: None) -> None:
    with torch.device('meta'):
        model = MODELS.build(small(read(name)).model).eval()
    assert model.bbox_head.num_classes == 80
    total = 0

    def count(conv: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * conv.weight[0].numel()
        # the authors' counter takes a bias for one more operation per output element; FPN and head have biases.
        # Norms and activations are not in their figures.
        if conv.bias is not None:
            total += output[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        # the head's convolutions run once per pyramid level, so they count five times
        model.bbox_head(model.extract_feat(torch.empty(1, 3, 800, 1088, device='meta')))
    assert f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f}' == params
    assert f'{total / 1e9:.2f}' == madds
