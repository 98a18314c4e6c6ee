"""A segmentor small enough for a step in milliseconds: three classes, random scenes of 24x28 pixels, crops of 16x16."""

import copy
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS

from tests.engine import tiny

CLASSES = ('a', 'b', 'c')
MEAN, STD = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]


@DATASETS.register_module()
class TinyScenes(BaseDataset):
    """Random scenes, the same for the same number; a tenth of the pixels has no label."""

    METAINFO = {'classes': CLASSES}

    def __init__(self, count: int, **kwargs: Any) -> None:
        self.count = count
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        rng = np.random.RandomState(6)
        made = []
        for _ in range(self.count):
            labels = rng.choice([0, 1, 2, 255], (24, 28), p=[0.3, 0.3, 0.3, 0.1]).astype(np.uint8)
            image = rng.randint(0, 256, (24, 28, 3)).astype(np.uint8)
            made.append({'img': image, 'gt_seg_map': labels, 'seg_fields': ['gt_seg_map']})
        return made


class KilledError(BaseException):
    """The process is gone."""


@HOOKS.register_module()
class StopVisualizationHook(Hook):
    """Ends a run before an iteration, without a word to anyone."""

    priority = 'VERY_HIGH'

    def __init__(self, at: int) -> None:
        self.at = at

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.at:
            raise KilledError


def model_cfg(backbone: dict[str, Any], dropout: float = 0.0) -> dict[str, Any]:
    return {
        'type': 'EncoderDecoder',
        'data_preprocessor': {
            'type': 'SegDataPreProcessor', 'mean': MEAN, 'std': STD, 'bgr_to_rgb': True,
            'size': tiny.SIZE, 'pad_val': 0, 'seg_pad_val': 255,
        },
        'backbone': backbone,
        'decode_head': {
            'type': 'mmnas_ext.FNASegHead', 'in_channels': 8, 'channels': 6, 'num_classes': len(CLASSES),
            'dilations': (1, 2), 'dropout_ratio': dropout, 'norm_cfg': {'type': 'BN'}, 'align_corners': True,
            'loss_decode': {'type': 'mmnas_ext.SegCrossEntropyLoss'},
        },
        'train_cfg': {},
        'test_cfg': {'mode': 'whole'},
    }  # fmt: skip


def training_cfg(work_dir: Any, workers: int = 0, **changes: Any) -> Config:
    """Eight iterations with a checkpoint every three; an epoch of the nine scenes is four. `changes` are merged in."""
    arch = tiny.SPACE.arch(((0,), (1, 0), (1,))).format('fna')
    cfg = Config(
        {
            'custom_imports': {'imports': ['tests.engine.tiny_seg']},
            'default_scope': 'mmseg',
            'model': model_cfg({'type': 'mmnas_ext.MBNet', 'arch': arch, 'out_indices': (2,)}, dropout=0.3),
            'train_dataloader': {
                'batch_size': 2,
                'num_workers': workers,
                'drop_last': True,
                'sampler': {'type': 'DefaultSampler', 'shuffle': True},
                'dataset': {
                    'type': 'TinyScenes',
                    'count': 9,
                    'pipeline': [
                        {'type': 'RandomResize', 'scale': (28, 24), 'ratio_range': (0.75, 2.0), 'keep_ratio': True},
                        {'type': 'RandomCrop', 'crop_size': tiny.SIZE, 'cat_max_ratio': 0.75},
                        {'type': 'RandomFlip', 'prob': 0.5},
                        {'type': 'PackSegInputs', 'meta_keys': ('sample_idx',)},
                    ],
                },
            },
            'train_cfg': {'type': 'mmnas_ext.ResumableIterLoop', 'max_iters': 8},
            'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9}},
            'param_scheduler': [
                {'type': 'LinearLR', 'start_factor': 0.3, 'by_epoch': False, 'begin': 0, 'end': 3},
                {'type': 'PolyLR', 'power': 0.9, 'eta_min': 0, 'by_epoch': False, 'begin': 3, 'end': 8},
            ],
            'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'interval': 3, 'by_epoch': False}},
            'custom_hooks': [],
            'randomness': {'seed': 4},
            'log_level': 'WARNING',
            'work_dir': str(work_dir),
        },
        format_python_code=False,  # MMEngine formats it for every checkpoint, longer than training takes here
    )
    cfg.merge_from_dict(copy.deepcopy(changes))  # merging takes `_delete_` out of what it is given
    return cfg


def search_changes() -> dict[str, Any]:
    """What makes a search of it."""
    return {
        'model.backbone': {'_delete_': True, **tiny.supernet_cfg()},
        'train_cfg': {'_delete_': True, 'type': 'mmnas_ext.SearchIterLoop', 'max_iters': 8, 'arch_start': 2},
        'optim_wrapper': {'_delete_': True, **tiny.optim_cfg()},
    }
