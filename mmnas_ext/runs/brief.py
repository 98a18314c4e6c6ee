"""A brief adaptation: a network is trained for a while from its seed and validated once; networks are compared so."""

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmnas_ext.engine.finite import FiniteLossHook, check_parameters
from mmnas_ext.engine.optim import NonFiniteLossError
from mmnas_ext.engine.runner import SafeRunner
from mmnas_ext.runs.checkpoints import checkpoint_places
from mmnas_ext.runs.prepared import Prepared
from mmnas_ext.runs.session import resume_from
from mmnas_ext.runs.sharing import LostTrialError
from mmnas_ext.runs.shorten import LENGTHS
from mmnas_ext.runs.training import open_runner

_LOOK_INTERVAL = 10  # iterations after which ranks agree whether the training is theirs still
_KEPT_CHECKPOINTS = 2  # one to go on from while the next is being written


class Brief(NamedTuple):
    """What a brief adaptation gave.

    Args:
        metrics: By name, as MMEngine reports them; ``None`` stands for what was NaN or infinite.
        failure: What ended its training early; empty if nothing did.
        iterations: Done in all.
        seconds: From its beginning to its end, of what its result came from: what a kill threw away is not counted.
        cpu_seconds: The same in seconds of the processor, by the main process and its loaders' workers.
        bn_eps: Batch-norm epsilon that the backbone computed with.
    """

    metrics: dict[str, float | None]
    failure: str
    iterations: int
    seconds: float
    cpu_seconds: float
    bn_eps: float | None


def adapt_briefly(
    cfg: Config,
    part: str,
    name: str,
    prepared: Prepared | None = None,
    ready: Callable[[SafeRunner], None] = lambda _runner: None,
    lost: Callable[[], bool] = lambda: False,
) -> Brief:
    """Trains a network from where that was interrupted, and validates it at the end.

    Args:
        cfg: Config of the training, ``work_dir`` set, with one of `LENGTHS`; changed.
        part: What its checkpoints are stamped with.
        name: What it is called in the log.
        prepared: What a check has built already.
        ready: Told of the runner before it trains, and may give it other data.
        lost: Says whether another process has this training by now; the main process's word counts.

    Raises:
        LostTrialError: Another process has it.
    """
    # validated once, at the end, by the watch: also where it was killed between its last step and that
    cfg.train_cfg.val_begin = 1 + max(cfg.train_cfg.get(key) or 0 for key in LENGTHS)
    watch, failure = _Watch(lost), ''
    checkpoint = resume_from(checkpoint_places(cfg), part, name)
    with open_runner(cfg, checkpoint, part, prepared) as runner:
        ready(runner)
        runner.register_hook(FiniteLossHook(saved=False))
        runner.register_hook(watch, priority='LOWEST')
        try:
            runner.train()
        except NonFiniteLossError as error:
            failure = str(error)
        model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
        seconds, cpu_seconds = watch.spent()
        return Brief(
            metrics=keep_numbers(watch.metrics),
            failure=failure,
            iterations=runner.iter + bool(failure),  # the one that failed was done as well
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            bn_eps=getattr(model.backbone, 'bn_eps', None),
        )


def keep_few_checkpoints(cfg: Config) -> None:
    """Has a training keep its newest checkpoints alone, to go on from, and none for being the best."""
    hooks = cfg.get('default_hooks') or {}
    if hooks.get('checkpoint', {}) is not None:
        given = hooks.get('checkpoint') or dict(type='CheckpointHook', interval=1)
        few = {**given, 'max_keep_ckpts': _KEPT_CHECKPOINTS, 'save_best': None}
        cfg.default_hooks = {**hooks, 'checkpoint': few}


def drop_weights(cfg: Config, keep_last: bool) -> None:
    """Deletes the checkpoints of a brief adaptation that has ended: its weights are of no more use."""
    if is_main_process():
        written = {path for place in checkpoint_places(cfg) for _, _, path in place.numbered()}
        with suppress(FileNotFoundError):  # another process deletes them at this moment
            checkpoints = sorted(
                {*written, *Path(cfg.work_dir).glob('*.pth')}, key=lambda path: path.stat().st_mtime_ns
            )
            for path in checkpoints[:-1] if keep_last else checkpoints:
                path.unlink()
    barrier()


def keep_numbers(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers among metrics, ``None`` in place of those that are not finite."""
    return {
        name: float(value) if math.isfinite(value) else None
        for name, value in metrics.items()
        if isinstance(value, int | float) or getattr(value, 'ndim', None) == 0
    }


class _Watch(Hook):
    """Validates at a trial's end, counts its time over resumptions, and ends it when another process has it.

    Args:
        lost: Says whether another process has the trial by now; the main process's word counts.

    Attributes:
        metrics: Of the validation, empty before it.
    """

    def __init__(self, lost: Callable[[], bool] = lambda: False) -> None:
        self.metrics: dict[str, Any] = {}
        self._lost = lost
        self._begun = _clocks()
        self._before = (0.0, 0.0)

    def spent(self) -> tuple[float, float]:
        """Seconds, and seconds of the processor, up to now."""
        now = _clocks()
        wall, cpu = (before + n - b for before, n, b in zip(self._before, now, self._begun, strict=True))
        return wall, cpu

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Raises LostTrialError, on all ranks at once, if another process has the trial."""
        if runner.iter + 1 < runner.max_iters and not self.every_n_train_iters(runner, _LOOK_INTERVAL):
            return
        lost = torch.tensor([float(self._lost())])
        all_reduce(lost, 'max')
        if lost.item():
            raise LostTrialError

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keeps the time in the checkpoint."""
        checkpoint['trial_seconds'] = list(self.spent())

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Takes the time up again."""
        wall, cpu = checkpoint.get('trial_seconds') or (0.0, 0.0)
        self._before = (wall, cpu)

    def after_train(self, runner: Any) -> None:
        """Validates.

        Raises:
            NonFiniteLossError: A parameter is NaN or infinite.
        """
        check_parameters(runner.model, runner.iter)
        self.metrics = runner.val_loop.run()


def _clocks() -> tuple[float, float]:
    """Seconds on the clock, and seconds of the processor that this process and its ended children took."""
    return time.monotonic(), sum(os.times()[:4])
