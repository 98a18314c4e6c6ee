"""Ends an ordinary training whose loss is NaN or infinite; the steps of a search look at theirs themselves."""

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook

from mmnas_ext.engine.optim import NonFiniteLossError

# iterations: reading a loss makes a GPU wait for it, and of weights that are NaN it stays so
_INTERVAL = 10


class FiniteLossHook(Hook):
    """Looks at the loss every ten iterations and before a checkpoint of an epoch, or of the last iteration."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Raises on all ranks at once.

        Raises:
            NonFiniteLossError: One of them has a loss that is NaN or infinite.
        """
        ends = runner.iter + 1 == runner.max_iters or self.end_of_epoch(runner.train_dataloader, batch_idx)
        if not ends and not self.every_n_train_iters(runner, _INTERVAL):
            return
        loss = torch.as_tensor((outputs or {}).get('loss', 0.0)).detach().float()
        broken = (~torch.isfinite(loss).all()).float().reshape(1)
        all_reduce(broken, 'max')
        if broken.item():
            raise NonFiniteLossError(f'the loss was not finite at iteration {runner.iter + 1}')
