"""Every example searches and adapts 20 iterations on a CPU: on two sets of data, in its host's scope and in another."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from mmnas_ext.archs import ArchSpec
from mmnas_ext.remap import load_seed, remap
from mmnas_ext.workdir import WorkDir
from tests.examples.small import BOXES, CASES, COMMON, DETECTOR, MASKS, SEGMENTOR, SPACE, logged, make, read, search

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
# the last epoch of RTMDet's training is without mosaics
CHANGES = {
    'fna_rtmdet_coco': {
        'derived.train_cfg.max_epochs': 2, 'derived.train_dataloader.batch_size': 4,
        'derived.custom_hooks.2.switch_epoch': 1, 'derived.train_cfg.dynamic_intervals': None,
        'derived.train_cfg.val_interval': 2, 'derived.default_hooks.checkpoint.interval': 1,
    },
}  # fmt: skip


@pytest.fixture(scope='module')
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make(tmp_path_factory.mktemp('examples'))


@pytest.fixture(autouse=True)
def scope_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner's host stays MMEngine's default scope otherwise."""
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())


def config(name: str, layout: str, scope: str, given: dict[str, Any]) -> Config:
    short = DETECTOR if layout in BOXES else SEGMENTOR
    changes = {'seed': given['seed'], 'data': given[layout], **CHANGES.get(name, {})}
    return read(name, {**COMMON, **short, **changes}, scope)


@pytest.mark.parametrize(('name', 'layout', 'scope'), CASES)
def test_an_example_searches_and_adapts(
    name: str, layout: str, scope: str, given: dict[str, Any], tmp_path: Path
) -> None:
    cfg = config(name, layout, scope, given)
    assert cfg.default_scope == (scope or ('mmdet' if layout in BOXES else 'mmseg'))
    files = WorkDir(tmp_path / 'w')
    search(cfg, files.root)

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
    start, _ = remap(load_seed(given['seed']['checkpoint'], given['seed']['arch']), arch)
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
    """Every convolution of the network was trained, and began at the remapped seed: others are at 1.4."""
    convs = [key for key in trained if key.endswith('conv.weight')]
    assert len(convs) == len([key for key in start if key.endswith('conv.weight')])
    for key in convs:
        distance = (trained[key] - start[key]).norm() / start[key].norm()
        assert 0 < distance < 1, key


def test_the_last_epochs_of_rtmdet_are_without_mosaics(given: dict[str, Any]) -> None:
    cfg = config('fna_rtmdet_coco', 'coco', '', given)
    derived = cfg.derived
    kinds = [[step['type'] for step in pipeline] for pipeline in (
        cfg.train_dataloader.dataset.pipeline,
        derived.train_dataloader.dataset.pipeline,
        derived.custom_hooks[2].switch_pipeline,
    )]  # fmt: skip
    assert ['CachedMosaic' in each for each in kinds] == [False, True, False]
    assert ['CachedMixUp' in each for each in kinds] == [False, True, False]
    # all of them in the size that `image_size` says
    for pipeline in (cfg.train_dataloader.dataset.pipeline, derived.custom_hooks[2].switch_pipeline):
        sizes = [step[key] for step in pipeline for key in ('scale', 'crop_size', 'size') if key in step]
        assert sizes == [(64, 64)] * 3
