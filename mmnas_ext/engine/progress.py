"""A progress bar for runs that someone watches."""

import sys
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.utils import ProgressBar

from mmnas_ext.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows iterations done and remaining time.

    Args:
        title: What is going on, written before the bar.
        steps: Updates of the bar over the whole run: a log file gets no more lines than that.
    """

    priority = 'LOW'

    def __init__(self, title: str, steps: int = 100) -> None:
        self.title = title
        self.steps = steps
        self._bar: ProgressBar | None = None

    def before_train(self, runner: Any) -> None:
        """Starts the bar where a resumed run stands."""
        if is_main_process():
            print(self.title, flush=True)
            self._bar = ProgressBar(runner.max_iters - runner.iter, bar_width=30, file=sys.stdout)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Moves the bar on."""
        if self._bar is None:
            return
        interval = max(1, self._bar.task_num // self.steps)
        done = runner.max_iters - runner.iter - 1
        if done % interval == 0:
            self._bar.update(min(interval, self._bar.task_num - self._bar.completed))

    def after_train(self, runner: Any) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            print(flush=True)


class CountingBar:
    """A bar over a number of equal steps, which a log file gets few lines of; only the main process shows it.

    Args:
        title: What is going on, written before the bar; nothing where it has been said.
        total: Steps.
        updates: Updates of the bar over all of them.
    """

    def __init__(self, title: str, total: int, updates: int = 50) -> None:
        self.interval, self.left, self.done = max(1, total // updates), total, 0
        self._bar: ProgressBar | None = None
        if total and is_main_process():
            if title:
                print(title, flush=True)
            self._bar = ProgressBar(total, bar_width=30, file=sys.stdout)

    def step(self, count: int = 1) -> None:
        """Counts steps that are done."""
        self.done += count
        self.left -= count
        if self._bar is not None and (self.done >= self.interval or self.left <= 0):
            self._bar.update(min(self.done, self._bar.task_num - self._bar.completed))
            self.done = 0
            if self.left <= 0:
                print(flush=True)
                self._bar = None
