"""Progress bars with the remaining time, for someone who watches: under a pipe, or in a log file, there are none."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from tqdm import tqdm

from mmnas_ext.engine.stalls import STEPS
from mmnas_ext.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows iterations done and remaining time, for a training whose log is silent: MMEngine's own says both.

    Args:
        title: What is going on, written before the bar.
        steps: Updates of the bar over the whole run, at most.
    """

    priority = 'LOW'

    def __init__(self, title: str, steps: int = 100) -> None:
        self.title = title
        self.steps = steps
        self._bar: CountingBar | None = None

    def before_train(self, runner: Any) -> None:
        """Starts the bar where a resumed run stands."""
        self._bar = CountingBar(self.title, runner.max_iters, runner.iter, self.steps)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Moves the bar on."""
        if self._bar is not None:
            self._bar.step()

    def after_train(self, runner: Any) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()


class CountingBar:
    """A bar over a number of equal steps on a terminal's standard error; only the main process shows it.

    Args:
        title: What is going on, written to standard output before the bar; nothing where it has been said.
        total: Steps.
        done: Those that were done before.
        updates: Updates of the bar over all of them, at most; by default as often as can be read.
    """

    def __init__(self, title: str, total: int, done: int = 0, updates: int | None = None) -> None:
        self._bar: Any = None
        if total <= done or not is_main_process():
            return
        if title:
            print(title, flush=True)
        # disable=None: where standard error is no terminal
        interval = max(1, total // updates) if updates else None
        self._bar = tqdm(total=total, initial=done, miniters=interval, disable=None, dynamic_ncols=True)

    def step(self, count: int = 1) -> None:
        """Counts steps that are done; the last one ends the line. On all processes it is a sign of life."""
        STEPS.add()
        if self._bar is None:
            return
        self._bar.update(min(count, self._bar.total - self._bar.n))
        if not self._bar.disable and self._bar.n >= self._bar.total:
            self.close()

    def close(self) -> None:
        """Ends the bar's line, wherever it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
