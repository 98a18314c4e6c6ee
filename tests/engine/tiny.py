"""A search small enough to run in a second: a space of twelve networks, a mean-square loss, twelve random images."""

import json
import os
import signal
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS, TRANSFORMS
from torch import Tensor, nn

from mmnas_ext.archs import Geometry, LatencyTable, SearchSpace, SpaceStage
from mmnas_ext.engine import SearchOptimWrapper, SearchOptimWrapperConstructor

SIZE = (16, 16)
SPACE = SearchSpace(
    (
        SpaceStage(8, 4, (('k3_e1',),), 1),
        SpaceStage(4, 8, (('k3_e3', 'k5_e3'), ('k3_e3', 'k5_e3', 'skip')), 2),
        SpaceStage(8, 8, (('k3_e3', 'k5_e6'),), 1),
    )
)
# its last stage would pass output stride 8; a table of `SPACE` lacks both candidates of the third stage and the fourth
STRIDED = SearchSpace(
    (*SPACE.stages[:2], SpaceStage(8, 8, (('k3_e3', 'k5_e6'),), 2), SpaceStage(8, 8, (('k3_e3',),), 2))
)
# by hand at 16x16: the stem leaves 8x8, the stride leaves 4x4
MACS = {
    'fixed': 27 * 8 * 64 + (9 * 8 + 8 * 4) * 64,
    '1.0': (4 * 12 * 64 + (9 * 12 + 12 * 8) * 16, 4 * 12 * 64 + (25 * 12 + 12 * 8) * 16),
    '1.1': ((8 * 24 + 9 * 24 + 24 * 8) * 16, (8 * 24 + 25 * 24 + 24 * 8) * 16, 0),
    '2.0': ((8 * 24 + 9 * 24 + 24 * 8) * 16, (8 * 48 + 25 * 48 + 48 * 8) * 16),
}
# by hand: convolutions, and two numbers a channel for each of their batch norms
PARAMS = {
    'fixed': 27 * 8 + 16 + (9 * 8 + 16 + 8 * 4 + 8),
    '1.0': (48 + 24 + 9 * 12 + 24 + 96 + 16, 48 + 24 + 25 * 12 + 24 + 96 + 16),
    '1.1': (192 + 48 + 9 * 24 + 48 + 192 + 16, 192 + 48 + 25 * 24 + 48 + 192 + 16, 0),
    '2.0': (192 + 48 + 9 * 24 + 48 + 192 + 16, 384 + 96 + 25 * 48 + 96 + 384 + 16),
}
# made up, with decimals whose float sums are off in the last bit (0.1 + 0.2 + …); 2.0 repeats a geometry of 1.1, and in
# 1.0 the larger kernel is the faster one
LATENCY = {'fixed': 0.3, '1.0': (1.4, 0.7), '1.1': (0.9, 3.3, 0.0), '2.0': (0.9, 8.1)}


def latency_table() -> LatencyTable:
    """`LATENCY` as a table of the layers of `SPACE`."""
    layers = [
        (('stem', 3, 8, 2, 1, 16, 16), 0.1),
        (('k3_e1', 8, 4, 1, 1, 8, 8), 0.2),
        (('k3_e3', 4, 8, 2, 1, 8, 8), 1.4),
        (('k5_e3', 4, 8, 2, 1, 8, 8), 0.7),
        (('k3_e3', 8, 8, 1, 1, 4, 4), 0.9),
        (('k5_e3', 8, 8, 1, 1, 4, 4), 3.3),
        (('k5_e6', 8, 8, 1, 1, 4, 4), 8.1),
    ]
    return LatencyTable('a board', 1, tuple((Geometry(*layer), ms) for layer, ms in layers))


@MODELS.register_module()
class TinyModel(BaseModel):
    """A backbone, the mean of its feature, a linear layer, and the mean-square distance to an image's target."""

    def __init__(self, backbone: dict[str, Any], dropout: float = 0.0, norm: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backbone = MODELS.build(backbone)
        channels = self.backbone.out_channels[-1]
        # a norm after the searched layers: its statistics depend on which of them ran
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, 2)

    def forward(self, inputs: Tensor, target: Tensor, mode: str = 'tensor') -> Any:
        out = self.head(self.dropout(self.norm(self.backbone(inputs)[-1]).mean((2, 3))))
        if mode == 'loss':
            return {'loss_square': (out - target).square().mean(), 'error': (out - target).abs().mean()}
        return out


@DATASETS.register_module()
class TinyImages(BaseDataset):
    """Random images, the same for the same number; one of them may have a target that is not a number."""

    METAINFO = {'classes': ('a', 'b')}

    def __init__(self, count: int = 12, nan: int | None = None, **kwargs: Any) -> None:
        self.count, self.nan = count, nan
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        rng = np.random.RandomState(5)
        made = []
        for number in range(self.count):
            image = rng.randn(3, *SIZE).astype(np.float32)
            target = rng.randn(2).astype(np.float32)
            made.append({'image': image, 'target': target * (np.nan if number == self.nan else 1)})
        return made


@TRANSFORMS.register_module()
class TinyFlip:
    """Flips by NumPy's state and brightens by PyTorch's: a loader that draws otherwise gives other images."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        image = torch.from_numpy(item['image'].copy())
        if np.random.rand() < 0.5:
            image = image.flip(2)
        return {'inputs': image + 0.1 * torch.rand(()), 'target': torch.from_numpy(item['target'])}


@TRANSFORMS.register_module()
class TinyPlain:
    """No augmentation."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return {'inputs': torch.from_numpy(item['image'].copy()), 'target': torch.from_numpy(item['target'])}


@HOOKS.register_module()
class KillVisualizationHook(Hook):
    """Ends the process as the kernel would, where ``TINY_KILL`` says: ``<half>:<place>:<iteration>``."""

    def __init__(self, half: str) -> None:
        self.half = half

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self._due('before', runner.iter):
            _die()
        if self._due('between', runner.iter):  # after an arch step, inside the forward of its weight step
            runner.model.head.register_forward_pre_hook(
                lambda *_: _die() if runner.optim_wrapper.phase == 'weights' else None
            )

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self._due('after', runner.iter):
            _die()
        if self._due('logging', runner.iter):
            with open(Path(runner.work_dir, 'search_log.jsonl'), 'a') as file:
                file.write('{"iter": 3, "alph')
            _die()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if self._due('saving', runner.iter):
            stream = BytesIO()
            torch.save(checkpoint, stream)
            whole = stream.getvalue()
            Path(runner.message_hub.get_info('last_ckpt')).write_bytes(whole[: len(whole) // 2])
            _die()

    def after_train(self, runner: Any) -> None:
        if self._due('end', runner.iter):
            _die()

    def _due(self, place: str, iteration: int) -> bool:
        half, wanted, number = os.environ.get('TINY_KILL', '::-1').split(':')
        return (half, wanted) == (self.half, place) and iteration >= int(number)


@HOOKS.register_module()
class TraceHook(Hook):
    """Writes what this rank has drawn, and its model at the end."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        supernet = runner.model.module.backbone
        drawn = {name: layer.choice for name, layer in supernet.mixed_layers().items()}
        record = {'iter': runner.iter, 'drawn': drawn, 'target': float(data_batch['target'].sum())}
        with open(Path(runner.work_dir, f'trace_{runner.rank}.jsonl'), 'a') as file:
            file.write(json.dumps(record) + '\n')

    def after_train(self, runner: Any) -> None:
        torch.save(runner.model.module.state_dict(), Path(runner.work_dir, f'rank_{runner.rank}.pth'))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def supernet_cfg(**changes: Any) -> dict[str, Any]:
    return {
        'type': 'mmnas_ext.SuperNet', 'space': SPACE.format(), 'out_indices': (2,), 'input_size': SIZE, **changes,
    }  # fmt: skip


def optim_cfg(**changes: Any) -> dict[str, Any]:
    """A search's optimizers; `changes` are for ``weights``, ``arch`` and ``cost``, merged one level deep."""
    cfg = {
        'constructor': 'mmnas_ext.SearchOptimWrapperConstructor',
        'weights': {
            'type': 'OptimWrapper',
            'optimizer': {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9, 'weight_decay': 1e-2},
        },
        'arch': {
            'type': 'OptimWrapper',
            'optimizer': {'type': 'Adam', 'lr': 0.01, 'betas': (0.5, 0.999), 'weight_decay': 1e-3},
        },
        'cost': {'weight': 0.1},
    }
    for name, change in changes.items():
        cfg[name] = {**cfg[name], **change}
    return cfg


def loader_cfg(batch: int = 2, workers: int = 0, transform: str = 'TinyFlip', count: int = 12) -> dict[str, Any]:
    return {
        'batch_size': batch,
        'num_workers': workers,
        'sampler': {'type': 'DefaultSampler', 'shuffle': True},
        'collate_fn': {'type': 'default_collate'},
        'dataset': {'type': 'TinyImages', 'count': count, 'pipeline': [{'type': transform}]},
    }


def search_cfg(work_dir: Any, loop: str = 'epoch', workers: int = 0, **changes: Any) -> Config:
    """A whole search of twelve iterations, with an adaptation of six; `changes` are merged in."""
    steps = (
        {'type': 'mmnas_ext.SearchEpochLoop', 'max_epochs': 4, 'arch_start': 1}
        if loop == 'epoch'
        else {'type': 'mmnas_ext.SearchIterLoop', 'max_iters': 12, 'arch_start': 3}
    )
    checkpoint = {'type': 'CheckpointHook', 'interval': 1 if loop == 'epoch' else 2, 'by_epoch': loop == 'epoch'}
    cfg = Config(
        {
            'custom_imports': {'imports': ['tests.engine.tiny']},
            'default_scope': 'mmengine',
            'model': {'type': 'TinyModel', 'dropout': 0.1, 'norm': True, 'backbone': supernet_cfg()},
            'train_dataloader': loader_cfg(workers=workers),
            'train_cfg': steps,
            'optim_wrapper': optim_cfg(),
            'param_scheduler': [
                {'type': 'LinearLR', 'start_factor': 0.3, 'by_epoch': False, 'begin': 0, 'end': 4},
                {'type': 'MultiStepLR', 'by_epoch': False, 'begin': 0, 'end': 99, 'milestones': [8], 'gamma': 0.1},
            ],
            'default_hooks': {
                'checkpoint': {**checkpoint, 'max_keep_ckpts': 2},
                'logger': {'type': 'LoggerHook', 'interval': 1},
            },
            'custom_hooks': [
                {'type': 'mmnas_ext.DeriveHook'},
                {'type': 'mmnas_ext.SearchMonitorHook', 'interval': 2},
                {'type': 'KillVisualizationHook', 'half': 'search'},
            ],
            'randomness': {'seed': 3},
            'log_level': 'WARNING',
            'work_dir': str(work_dir),
            'derived': {
                'model': {'backbone': {'type': 'mmnas_ext.MBNet', 'out_indices': (2,)}},
                'train_cfg': {'type': 'EpochBasedTrainLoop', 'max_epochs': 2},
                'optim_wrapper': {
                    'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9},
                },
                'default_hooks': {'checkpoint': {'interval': 1, 'by_epoch': True}},
                'custom_hooks': [{'type': 'mmnas_ext.ReseedHook'}, {'type': 'KillVisualizationHook', 'half': 'adapt'}],
            },
        },
        format_python_code=False,  # MMEngine formats it for every checkpoint, longer than training takes here
    )  # fmt: skip
    cfg.merge_from_dict(changes)
    return cfg


def build(
    backbone: dict[str, Any] | None = None, optim: dict[str, Any] | None = None, **model: Any
) -> tuple[TinyModel, SearchOptimWrapper]:
    """A model in training mode and its optimizer wrapper, the same weights each time."""
    torch.manual_seed(1)
    built = MODELS.build({'type': 'TinyModel', 'backbone': supernet_cfg(**(backbone or {})), **model})
    built.init_weights()
    # far enough apart that no candidate's gradient is lost in rounding
    for number, alpha in enumerate(built.backbone.arch_parameters()):
        alpha.data = torch.linspace(-1, 1 + number, len(alpha))
    built.train()
    cfg = optim or optim_cfg()
    return built, SearchOptimWrapperConstructor({k: v for k, v in cfg.items() if k != 'constructor'})(built)


def batch(size: int = 4, seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {'inputs': torch.randn(size, 3, *SIZE, generator=draw), 'target': torch.randn(size, 2, generator=draw)}
