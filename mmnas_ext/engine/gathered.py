"""Gradients that wait for the rest of their accumulation, kept over a checkpoint."""

from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import is_model_wrapper
from torch import nn

from mmnas_ext.registry import HOOKS

_KEY = 'gathered_gradients'


@HOOKS.register_module()
class GatherHook(Hook):
    """Lets a training with ``accumulative_counts`` be resumed from a checkpoint between two updates, to the same bits.

    MMEngine's checkpoints lack the gradients gathered so far: a resumed run would update with a part of them. The end
    of an epoch is such a place unless its batches are a multiple of ``accumulative_counts``. In a distributed training
    each process has gradients of its own until the update: where a checkpoint is due they take their mean, whether the
    run is ever interrupted or not. A search has no need of this hook: its optimizers keep their gradients themselves.
    """

    def after_train_epoch(self, runner: Any) -> None:
        """Averages over the processes where checkpoints are made by epochs."""
        self._share(runner)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Averages over the processes where a checkpoint is made by iterations."""
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and not hook.by_epoch]
        if any(self.every_n_train_iters(runner, hook.interval) for hook in hooks):
            self._share(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the gradients, by the parameters' names."""
        if _waiting(runner):
            named = _module(runner).named_parameters()
            checkpoint[_KEY] = {name: p.grad.detach().cpu() for name, p in named if p.grad is not None}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Gives them back in a run that is resumed."""
        gradients = checkpoint.get(_KEY) or {}
        if runner._resume:
            for name, parameter in _module(runner).named_parameters():
                if name in gradients:
                    parameter.grad = gradients[name].to(parameter.device)

    def _share(self, runner: Any) -> None:
        if get_world_size() == 1 or not _waiting(runner):
            return
        parameters = [p for p in _module(runner).parameters() if p.requires_grad]
        # a process may have used other parameters than the rest
        known = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
        all_reduce(known, 'max')
        for parameter, has in zip(parameters, known.tolist(), strict=True):
            if has:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                all_reduce(parameter.grad, 'mean')


def _waiting(runner: Any) -> bool:
    """Whether gradients have been gathered and not been used yet."""
    wrapper = runner.optim_wrapper
    steps = getattr(wrapper, '_accumulative_counts', 1)
    return bool(steps > 1 and wrapper.inner_count % steps)


def _module(runner: Any) -> nn.Module:
    module: nn.Module = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return module
