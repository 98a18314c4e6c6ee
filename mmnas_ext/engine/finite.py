"""Ends an ordinary training whose loss is NaN or infinite; the steps of a search look at theirs themselves."""

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook

from mmnas_ext.engine.optim import NonFiniteLossError

# iterations in a row: while a scale for float16 is being found, steps of losses that overflow are left out
_SCALED = 10


class FiniteLossHook(Hook):
    """Looks at the loss of each iteration, and at the parameters before they are saved.

    With a loss scale (`AmpOptimWrapper`) ten losses in a row must be NaN or infinite: PyTorch leaves such steps out.

    Args:
        saved: Whether it looks at what is saved. The main process alone saves: where the error is to be survived, all
            must meet it at once, in the next loss or, after the last one, by `check_parameters`.
    """

    priority = 'NORMAL'  # before checkpoints are written

    def __init__(self, saved: bool = True) -> None:
        self.saved = saved
        self._broken = 0

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Raises on all ranks at once.

        Raises:
            NonFiniteLossError: One of them has a loss that is NaN or infinite.
        """
        loss = torch.as_tensor((outputs or {}).get('loss', 0.0)).detach().float()
        broken = (~torch.isfinite(loss).all()).float().reshape(1)
        all_reduce(broken, 'max')
        # MMEngine has read the loss for its log: nothing more is waited for
        self._broken = self._broken + 1 if broken.item() else 0
        if self._broken >= (_SCALED if hasattr(runner.optim_wrapper, 'loss_scaler') else 1):
            raise NonFiniteLossError(f'the loss was not finite at iteration {runner.iter + 1}')

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Looks at the parameters, which the last step may have broken.

        Raises:
            NonFiniteLossError: One is NaN or infinite.
        """
        if self.saved:
            check_parameters(runner.model, checkpoint['meta']['iter'])


def check_parameters(model: Any, done: int) -> None:
    """Raises NonFiniteLossError for a parameter that is NaN or infinite.

    Args:
        model: The model.
        done: Iterations that are done.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NonFiniteLossError(f'parameter {name} was not finite after iteration {done}')
