"""What an example leaves behind that has searched and adapted 20 iterations: that both halves did what they say."""

import json
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor
from torch.nn import functional

from mmnas_ext.archs import ArchSpec
from mmnas_ext.remap import load_seed, remap
from mmnas_ext.workdir import WorkDir
from tests.examples.small import BOXES, MASKS, SPACE

# parameters of the classifiers, and channels per class: two-stage heads have one for the background
CLASSIFIERS = {
    'fna_faster_rcnn_coco': ('roi_head.bbox_head.fc_cls', 1),
    'fna_atss_coco': ('bbox_head.atss_cls', 0),
    'fna_fcos_coco': ('bbox_head.conv_cls', 0),
    'fna_gfl_coco': ('bbox_head.gfl_cls', 0),
    'fna_rtmdet_coco': ('bbox_head.rtm_cls.0', 0),
    'fna_fcn_cityscapes': ('decode_head.conv_seg', 0),
    'fna_pspnet_cityscapes': ('auxiliary_head.conv_seg', 0),
    'fna_lraspp_cityscapes': ('decode_head.conv_seg', 0),
    'fna_segformer_cityscapes': ('decode_head.conv_seg', 0),
}
LOSSES = {
    'fna_faster_rcnn_coco': {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox'},
    'fna_atss_coco': {'loss_cls', 'loss_bbox', 'loss_centerness'},
    'fna_fcos_coco': {'loss_cls', 'loss_bbox', 'loss_centerness'},
    'fna_gfl_coco': {'loss_cls', 'loss_bbox', 'loss_dfl'},
    'fna_rtmdet_coco': {'loss_cls', 'loss_bbox'},
    'fna_fcn_cityscapes': {'decode.loss_ce', 'aux.loss_ce'},
    'fna_pspnet_cityscapes': {'decode.loss_ce', 'aux.loss_ce'},
    'fna_lraspp_cityscapes': {'decode.loss_ce'},
    'fna_segformer_cityscapes': {'decode.loss_ce'},
}
METRICS = {'coco': 'coco/bbox_mAP', 'voc': 'pascal_voc/mAP', 'folder-masks': 'mIoU', 'cityscapes': 'mIoU'}


def logged(folder: Path) -> list[dict[str, Any]]:
    """What MMEngine's logger wrote of each iteration, and of the validation."""
    file = next(folder.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in file.read_text().splitlines()]


def assert_done(name: str, layout: str, files: WorkDir, seed: dict[str, Any]) -> None:
    """Asserts that an example has searched and adapted, on data of a layout, from a seed."""
    # the search: 20 iterations, of which the second half trained alpha
    rows = [row for row in logged(files.root) if 'loss' in row]
    assert len(rows) == 20
    assert all(LOSSES[name] <= set(row) for row in rows)
    assert ['arch_loss' in row for row in rows] == [False] * 10 + [True] * 10
    assert all(torch.isfinite(torch.tensor(row['loss'])) for row in rows)
    checkpoint = next(iter(sorted(files.root.glob('*_2*.pth'))))
    searched = torch.load(checkpoint, weights_only=False)['state_dict']
    alphas = {key: value for key, value in searched.items() if key.endswith('alpha')}
    assert len(alphas) == 3
    assert all(value.abs().sum() > 0 for value in alphas.values())  # they begin at 0

    # what it found, and from where that was trained
    arch = ArchSpec.parse(files.arch)
    assert arch in SPACE
    derived = Config.fromfile(files.config)
    classes = {**BOXES, **MASKS}[layout]['classes']
    assert tuple(derived.train_dataloader.dataset.metainfo.classes) == classes
    start, _ = remap(load_seed(seed['checkpoint'], seed['arch']), arch)
    rows = logged(files.adapt)
    assert len([row for row in rows if 'loss' in row]) == 20
    assert all(torch.isfinite(torch.tensor(row['loss'])) for row in rows if 'loss' in row)
    assert 0 <= next(row[METRICS[layout]] for row in rows if METRICS[layout] in row) <= 100
    newest = max(files.adapt.glob('*.pth'), key=lambda path: path.stat().st_mtime)
    trained = torch.load(newest, weights_only=False)['state_dict']
    _assert_trained({key[9:]: value for key, value in trained.items() if key.startswith('backbone.')}, start)
    key, more = CLASSIFIERS[name]
    assert trained[f'{key}.weight'].shape[0] == len(classes) + more


def _assert_trained(trained: dict[str, Tensor], start: dict[str, Tensor]) -> None:
    """Every convolution of the network was trained, and began at the remapped seed: others have a cosine near 0.

    How far 20 steps lead a depthwise convolution of 36 weights depends on the processor's rounding.
    """
    convs = [key for key in trained if key.endswith('conv.weight')]
    assert len(convs) == len([key for key in start if key.endswith('conv.weight')])
    for key in convs:
        cosine = functional.cosine_similarity(trained[key].flatten(), start[key].flatten(), dim=0)
        assert not torch.equal(trained[key], start[key]) and cosine > 0.4, (key, cosine)
