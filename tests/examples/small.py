"""What makes a search of an example short: a space of a few channels with its seed, small data in two layouts each."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmnas_ext.archs import SearchSpace, SpaceStage
from mmnas_ext.backbones import MBNet
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.resolve import resolve
from mmnas_ext.runs.run import run
from tests.own_data import CONFIGS, COUNTS, make_cityscapes, make_coco, make_masks, make_voc

SIZE = (64, 64)
# the strides of MobileNetV2's seven stages
_CHANNELS, _STRIDES = (4, 6, 6, 8, 10, 12, 14, 16), (1, 2, 2, 2, 1, 2, 1)
_SEARCHED = (2, 4, 6)  # of these stages a layer is searched
SPACE = SearchSpace(
    tuple(
        SpaceStage(_CHANNELS[i], _CHANNELS[i + 1], (('k3_e2', 'k5_e2') if i in _SEARCHED else ('k3_e2',),), _STRIDES[i])
        for i in range(7)
    ),
    bn_eps=1e-5,
)
SEED = SPACE.arch(((0,),) * 7)
# 20 iterations of 2 images in each half: the 40 images are two epochs of 10 for a search, one of 20 for a training
COMMON = {
    'space': json.loads(SPACE.format()), 'image_size': SIZE, 'auto_scale_lr.enable': False,
    'derived.auto_scale_lr.enable': False, 'train_dataloader.batch_size': 2, 'train_dataloader.num_workers': 0,
    'val_dataloader.batch_size': 1, 'val_dataloader.num_workers': 0, 'test_dataloader.num_workers': 0,
    'visualizer.vis_backends': [{'type': 'LocalVisBackend'}], 'default_hooks.logger.interval': 1,
    'log_level': 'WARNING',
}  # fmt: skip
DETECTOR = {
    'train_cfg.max_epochs': 2, 'train_cfg.arch_start': 1, 'derived.train_cfg.max_epochs': 1,
    'derived.train_cfg.val_interval': 1, 'derived.train_dataloader.batch_size': 2,
    'derived.train_dataloader.num_workers': 0,
}  # fmt: skip
SEGMENTOR = {
    'train_cfg.max_iters': 20, 'train_cfg.arch_start': 10, 'default_hooks.checkpoint.interval': 20,
    'derived.train_cfg.max_iters': 20, 'derived.train_cfg.val_interval': 20,
    'derived.default_hooks.checkpoint.interval': 20,
}  # fmt: skip
IMAGES = {'train': 40, 'val': 2}
BOXES = {
    'coco': dict(type='coco', classes=('crazing', 'inclusion', 'patches', 'pits', 'scale', 'scratches')),
    'voc': dict(type='voc', classes=('apple', 'banana', 'orange')),
}
MASKS = {
    'folder-masks': dict(type='folder-masks', classes=('ground', 'crop', 'weed')),
    'cityscapes': dict(type='cityscapes', classes=('road', 'vegetation', 'sky', 'car')),
}


def make(root: Path) -> dict[str, dict[str, Any]]:
    """Writes the seed's checkpoint and all data; returns ``data`` of each layout, and ``seed``."""
    root.mkdir(parents=True, exist_ok=True)
    before = dict(COUNTS)
    COUNTS.update(IMAGES)
    try:
        names = BOXES['coco']['classes'], BOXES['voc']['classes']
        make_coco(root / 'coco', names[0])
        make_voc(root / 'voc', names[1], (48, 64))
        make_masks(root / 'folder-masks')
        make_cityscapes(root / 'cityscapes')
    finally:
        COUNTS.update(before)
    torch.manual_seed(3)
    torch.save(MBNet(SEED, out_indices=(6,)).state_dict(), root / 'seed.pth')
    every = {name: {**data, 'root': str(root / name)} for name, data in {**BOXES, **MASKS}.items()}
    return {**every, 'seed': dict(arch=SEED.format('fna'), checkpoint=str(root / 'seed.pth'))}


# each host with narrow parts: at full width they cost many times such a backbone
_FPN = dict(out_channels=8)
_TESTED = dict(score_thr=0.0, max_per_img=5)  # something is found, whatever was learned
_HEAD = dict(feat_channels=8, stacked_convs=1, norm_cfg=dict(type='GN', num_groups=2))
HOSTS: dict[str, dict[str, Any]] = {
    'fna_faster_rcnn_coco': dict(
        neck=_FPN,
        rpn_head=dict(feat_channels=8),
        roi_head=dict(bbox_head=dict(fc_out_channels=8)),
        train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=20), rcnn=dict(sampler=dict(num=16))),
        test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20), rcnn=_TESTED),
    ),
    'fna_atss_coco': dict(neck=_FPN, bbox_head=_HEAD, test_cfg=_TESTED),
    'fna_fcos_coco': dict(neck=_FPN, bbox_head=_HEAD, test_cfg=_TESTED),
    'fna_gfl_coco': dict(neck=_FPN, bbox_head=_HEAD, test_cfg=_TESTED),
    'fna_rtmdet_coco': dict(neck=_FPN, bbox_head=dict(feat_channels=8), test_cfg=_TESTED),
    'fna_fcn_cityscapes': dict(decode_head=dict(channels=8), auxiliary_head=dict(channels=8)),
    'fna_pspnet_cityscapes': dict(decode_head=dict(channels=8), auxiliary_head=dict(channels=8)),
    'fna_lraspp_cityscapes': dict(decode_head=dict(channels=8, branch_channels=(4, 8))),
    'fna_segformer_cityscapes': dict(decode_head=dict(channels=8)),
}
OTHER = 'mmnas_ext'  # a default scope in which no part of a host is found by its bare name

# each host with both sets of data, and in both scopes
CASES = [
    case
    for name in HOSTS
    for first, second in [tuple(BOXES) if name.endswith('_coco') else tuple(MASKS)]
    for case in ((name, first, ''), (name, second, OTHER))
]

ON_PAGES = (('fna_atss_coco', 'coco'), ('fna_lraspp_cityscapes', 'folder-masks'))  # searched by the pages' commands


@cache
def parse(name: str) -> Config:
    """An example as MMEngine reads it; do not change it."""
    return Config.fromfile(CONFIGS / 'examples' / f'{name}.py')


def read(name: str, options: dict[str, Any], scope: str = '') -> Config:
    """An example with narrow parts and these options, as a run reads it; in another default scope if one is named."""
    cfg = copy.deepcopy(parse(name))
    if scope:
        _rescope(cfg._cfg_dict, cfg.default_scope)
        cfg.default_scope = scope
    return resolve(cfg, {'host': copy.deepcopy(HOSTS[name]), **options})


def _rescope(part: Any, host: str) -> None:
    """Names the host of each outermost part, as MMEngine does where a config is inherited from a package."""
    if isinstance(part, dict):
        kind = part.get('type')
        for hooked in part.get('switch_pipeline') or ():  # built when it is switched to, in no one's scope
            hooked['type'] = f'{host}.{hooked["type"]}'
            if 'ratio_range' in hooked and 'scale' in hooked:
                hooked['resize_type'] = f'{host}.Resize'
        if isinstance(kind, str) and '.' not in kind:
            part.setdefault('_scope_', host)
        else:
            for key, value in part.items():
                if key not in ('optim_wrapper', 'model') or 'type' in value:  # inside are not only parts of a host
                    _rescope(value, host)
    elif isinstance(part, list | tuple):
        for each in part:
            _rescope(each, host)


def search(cfg: Config, work_dir: Path) -> None:
    """Searches and adapts, as `mmnas train` does."""
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    run(cfg, prepared=check_config(cfg))
