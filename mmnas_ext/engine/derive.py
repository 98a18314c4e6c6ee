"""The network that a search by gradients has found, written down at its end and along the way."""

from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from mmnas_ext.archs import ArchSpec
from mmnas_ext.engine.limits import derive
from mmnas_ext.engine.optim import find_supernet
from mmnas_ext.registry import HOOKS
from mmnas_ext.workdir import WorkDir, write_text

_SNAPSHOTS = 50


@HOOKS.register_module()
class DeriveHook(Hook):
    """Writes the network that the search has found.

    At its end ``derived/arch.json``, where alpha alone decides (``selection``); along the way a snapshot of what it
    would be, ``derived/snapshots/epoch_<n>.json`` (of an iteration loop: ``iter_<n>.json``); none where neck and head
    are searched too, of which alpha says nothing. The config that trains the network is written by the run
    (`mmnas_ext.runs`), from what the user wrote: a runner edits its own copy.

    Args:
        interval: Epochs (of an iteration loop: iterations) from one snapshot to the next; by default 1 epoch, or a
            fiftieth of all iterations.
    """

    priority = 'LOW'

    def __init__(self, interval: int | None = None) -> None:
        if interval is not None and interval < 1:
            raise ValueError(f'interval must be at least 1, got {interval}')
        self.interval = interval

    def before_train(self, runner: Any) -> None:
        """Makes sure that the network will be trained, before it is searched for."""
        if not runner.cfg.get('derived'):
            raise ValueError('this config has no derived=dict(…), which says how the found network is trained')

    @master_only
    def after_train_epoch(self, runner: Any) -> None:
        """Writes a snapshot."""
        if _counts_epochs(runner) and self.every_n_epochs(runner, self.interval or 1):
            self._snapshot(runner, f'epoch_{runner.epoch + 1}')

    @master_only
    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Writes a snapshot in an iteration loop."""
        if _counts_epochs(runner):
            return
        interval = self.interval or max(1, runner.max_iters // _SNAPSHOTS)
        if self.every_n_train_iters(runner, interval):
            self._snapshot(runner, f'iter_{runner.iter + 1}')

    @master_only
    def after_train(self, runner: Any) -> None:
        """Writes the found network, unless losses are yet to be measured that decide."""
        if runner.optim_wrapper.selection.type != 'argmax':
            return
        arch = self._arch(runner)
        files = WorkDir(runner.work_dir)
        alone = not files.manifest.is_file()
        if alone:  # a run writes it itself, once what is there of another network is set aside
            write_text(files.arch, arch.format('json'))
        supernet = find_supernet(runner.model)
        costs = runner.optim_wrapper.cost.describe(arch, supernet.input_size, supernet.output_stride)
        runner.logger.info(f'found {arch.format("fna")}: {costs}' + (f'; written to {files.arch}' if alone else ''))

    def _snapshot(self, runner: Any, name: str) -> None:
        if runner.optim_wrapper.host is not None:
            return  # alpha says nothing of neck and head
        path = WorkDir(runner.work_dir).snapshots / f'{name}.json'
        write_text(path, self._arch(runner).format('json'))

    def _arch(self, runner: Any) -> ArchSpec:
        wrapper = runner.optim_wrapper
        return derive(find_supernet(runner.model), wrapper.cost.limit, wrapper.prices)


def _counts_epochs(runner: Any) -> bool:
    # an iteration loop calls the epoch hooks as well, once
    return isinstance(runner.train_loop, EpochBasedTrainLoop)
