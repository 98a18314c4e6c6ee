"""Schedules of a whole training, gone through in a shorter one."""

from fractions import Fraction
from typing import Any

from mmengine.hooks import ParamSchedulerHook

from mmnas_ext.registry import HOOKS


@HOOKS.register_module()
class PacedScheduleHook(ParamSchedulerHook):
    """Steps the schedules of a training so often that a shorter one goes through all of them, at whole steps.

    Whatever a schedule does (warm up, anneal, restart, multiply), the shorter training sees the same values of it in
    the same order, evenly chosen.

    Args:
        whole: Length of the training that the schedules are of, in epochs or iterations.
        brief: Length of this one.

    Raises:
        ValueError: The lengths are not positive integers, or this one is the longer.
    """

    def __init__(self, whole: int, brief: int) -> None:
        if not 0 < brief <= whole:
            raise ValueError(f'brief must be in 1..whole, got {brief} of {whole}')
        self._pace = Fraction(whole, brief)

    def _steps(self, done: int) -> int:
        """Steps after so many iterations, or epochs, and one more."""
        return int((done + 1) * self._pace) - int(done * self._pace)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Steps schedules by iteration."""
        for _ in range(self._steps(runner.iter)):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def after_train_epoch(self, runner: Any) -> None:
        """Steps schedules by epoch."""
        for _ in range(self._steps(runner.epoch)):
            super().after_train_epoch(runner)
