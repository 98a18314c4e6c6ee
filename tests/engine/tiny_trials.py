"""A random search small enough to run in seconds: the tiny search's space and images, and a metric."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, METRICS, MODELS
from torch import Tensor

from tests.engine import tiny


@MODELS.register_module()
class TinyTried(tiny.TinyModel):
    """Predicts, and can be told which networks fail, and how.

    Args:
        failing: Pairs of a network's FNA text and of 'diverge' (its loss becomes NaN), 'nan' (it predicts NaN) or
            'silent' (it predicts infinities, of which the metric makes nothing).
    """

    def __init__(self, failing: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        text = self.backbone.arch.format('fna') if hasattr(self.backbone, 'arch') else ''
        self.failing = {how for failed, how in failing if failed == text}

    def forward(self, inputs: Tensor, target: Tensor, mode: str = 'tensor') -> Any:
        out = super().forward(inputs, target, mode)
        if mode == 'loss' and 'diverge' in self.failing:
            out['loss_square'] = out['loss_square'] * float('nan')
        if mode == 'predict':
            wrong = {'nan': float('nan'), 'silent': float('inf')}
            return list(torch.full_like(out, wrong[next(iter(self.failing))]) if self.failing else out)
        return out


@METRICS.register_module()
class TinyCloseness(BaseMetric):
    """Mean distance to the targets, and how close that is; nothing of nothing, as MMDetection does."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        for row, target in zip(data_samples, data_batch['target'], strict=False):
            distance = float((row - target).abs().mean())
            self.results += [] if distance == float('inf') else [distance]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        if not results:
            return {}
        distance = sum(results) / len(results)
        return {'distance': distance, 'closeness': 1 / (1 + distance)}


@HOOKS.register_module()
class KillTrial(Hook):
    """Ends the process where ``TINY_KILL`` says: ``<trial>:<place>:<iteration>``."""

    priority = 'HIGHEST'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._die_if_due(runner, 'before')

    def after_train(self, runner: Any) -> None:
        self._die_if_due(runner, 'trained')

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._die_if_due(runner, 'validating')

    def _die_if_due(self, runner: Any, place: str) -> None:
        trial, wanted, iteration = os.environ.get('TINY_KILL', '::-1').split(':')
        if (trial, wanted) == (Path(runner.work_dir).name, place) and runner.iter >= int(iteration):
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class WaitForTrial(Hook):
    """Holds a trial up until another one has ended, as ``TINY_WAIT`` says: ``<trial>:<other>``."""

    def before_train(self, runner: Any) -> None:
        trial, other = os.environ.get('TINY_WAIT', ':').split(':')
        place = Path(runner.work_dir)
        while place.name == trial and not (place.parent / other / 'result.json').is_file():
            time.sleep(0.02)


def random_cfg(work_dir: Any, failing: Sequence[tuple[str, str]] = (), **changes: Any) -> Config:
    """A random search of three networks, two epochs of six iterations each; `changes` are merged in."""
    cfg = tiny.search_cfg(work_dir)
    hooks = [{'type': 'mmnas_ext.ReseedHook'}, {'type': 'KillTrial'}, {'type': 'WaitForTrial'}]
    cfg.merge_from_dict(
        {
            'custom_imports': {'imports': ['tests.engine.tiny_trials']},
            'model': {'type': 'TinyTried', 'failing': list(failing)},
            'val_dataloader': {
                **tiny.loader_cfg(3, transform='TinyPlain', count=7),
                'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            },
            'val_cfg': {},
            'val_evaluator': {'type': 'TinyCloseness'},
            'derived.train_cfg': {'type': 'EpochBasedTrainLoop', 'max_epochs': 3},
            'derived.custom_hooks': hooks,
            'random_search': {
                'rank_by': 'closeness',
                'count': 3,
                'seed': 1,
                'limit': {'max': MIDDLE},
                'trial': {'train_cfg': {'type': 'EpochBasedTrainLoop', 'max_epochs': 2}},
            },
        }
    )
    cfg.merge_from_dict(changes)
    return cfg


def macs(path: tuple[tuple[int, ...], ...]) -> int:
    """Multiply-adds of a path, from the figures that are written out by hand."""
    parts = zip(('1.0', '1.1', '2.0'), (*path[1], *path[2]), strict=True)
    return tiny.MACS['fixed'] + sum(tiny.MACS[layer][choice] for layer, choice in parts)


PATHS = [((0,), (i, j), (k,)) for i in range(2) for j in range(3) for k in range(2)]
# the seventh of twelve costs: three networks have less, or more
MIDDLE = sorted(map(macs, PATHS))[6]


def same_weights(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
