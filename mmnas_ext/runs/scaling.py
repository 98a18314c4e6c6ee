"""The runner of a part: MMEngine's, which counts accumulated steps when it scales a learning rate with the batch."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch.utils.data import DataLoader

from mmnas_ext.engine import SearchOptimWrapper
from mmnas_ext.engine.runner import SafeRunner


class PartRunner(SafeRunner):
    """MMEngine's runner but for `scale_lr`.

    MMEngine's takes processes x ``batch_size`` for the batch that an update sees. With ``accumulative_counts`` an
    update gathers as many batches, and the rate would be scaled to a fraction of what was asked.
    """

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict[str, Any] | None = None) -> None:
        """Multiplies learning rates by (processes x images a step x steps an update) / ``base_batch_size``.

        In a search these are the weights' rates alone.

        Args:
            optim_wrapper: The built wrapper, before its schedules.
            auto_scale_lr: ``dict(enable=True, base_batch_size=…)``; nothing happens without either.

        Raises:
            ValueError: ``base_batch_size`` is no positive number.
        """
        if not auto_scale_lr or not auto_scale_lr.get('enable', False):
            return
        base = read_base(auto_scale_lr)
        loader: Any = self._train_dataloader
        images = loader.batch_size if isinstance(loader, DataLoader) else loader['batch_size']
        for wrapper in _weight_wrappers(optim_wrapper):
            steps = wrapper._accumulative_counts
            ratio = self.world_size * images * steps / base
            self.logger.info(
                f'auto_scale_lr: {self.world_size} processes x {images} images x {steps} accumulated steps, for a base '
                f'of {base}: learning rates times {ratio:g}'
            )
            for group in wrapper.optimizer.param_groups:
                group['lr'] *= ratio


def read_base(auto_scale_lr: Mapping[str, Any]) -> float:
    """The batch size that a config's learning rates are meant for.

    Raises:
        ValueError: It is no positive number.
    """
    base = auto_scale_lr.get('base_batch_size')
    if isinstance(base, bool) or not isinstance(base, int | float) or not base > 0:
        raise ValueError(f'auto_scale_lr.base_batch_size must be a positive number, got {base!r}')
    return base


def _weight_wrappers(optim_wrapper: OptimWrapper) -> Iterator[OptimWrapper]:
    """The wrappers whose rates follow the batch: not that of alpha."""
    if isinstance(optim_wrapper, SearchOptimWrapper):
        yield optim_wrapper.wrappers['weights']
    elif isinstance(optim_wrapper, OptimWrapperDict):
        yield from optim_wrapper.values()
    else:
        yield optim_wrapper
