"""What a training knows of its validations when it is taken up again, and the weights that it stops early with."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmnas_ext.archs.json_file import parse_lines
from mmnas_ext.runs.session import agreed
from mmnas_ext.workdir import append_line


@dataclass(frozen=True)
class _Validated:
    """A validation that has ended: behind so many iterations, and what early stopping made of it, a pair per hook."""

    part: str
    iter: int
    stopping: list[tuple[int, float]]
    stopped: bool


class ValidationsHook(Hook):
    """Goes on with the validations of a training that is resumed as if it had never been interrupted.

    MMEngine saves before it validates: a run that is stopped in its last validation would end without one, and an
    earlier one's metrics, or none, would stand for it. So a validation that was missed is made up for. How long no
    metric has got better is in no checkpoint either: it is restored into an ``EarlyStoppingHook``. And where such a
    hook stops a training between two checkpoints, the weights that it stopped with are saved, so that the last metric
    is theirs. What was validated stands in a file, a line each: the steps of a log are epochs or iterations, as its
    hook is set.

    Args:
        folder: Work dir of the training.
        part: Id of the part of the run that it is.
    """

    priority = 'LOWEST'

    def __init__(self, folder: Path, part: str) -> None:
        self.file, self.part = folder / '.validated', part

    def before_train(self, runner: Runner) -> None:
        """Called when the checkpoint is loaded."""
        loop = runner.train_loop
        if runner.val_loop is None or not isinstance(loop, EpochBasedTrainLoop | IterBasedTrainLoop):
            return
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        place, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        if not place:
            return
        known = [each for each in agreed(self._read) if each.iter <= runner.iter]
        if known:
            self._restore(runner, known[-1])
        if place < loop.val_begin:
            return
        loop._decide_current_val_interval()
        due = place == last or place % loop.val_interval == 0
        if due and not (known and known[-1].iter == runner.iter):
            runner.val_loop.run()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Notes what was validated, after all other hooks have its metrics; keeps the weights of a training's end."""
        stopped = bool(getattr(runner.train_loop, 'stop_training', False))
        if stopped:
            _save(runner)
        if is_main_process():
            states = [(hook.wait_count, float(hook.best_score)) for hook in _stopping(runner)]
            append_line(self.file, json.dumps(asdict(_Validated(self.part, runner.iter, states, stopped))))

    def _read(self) -> list[_Validated]:
        """The validations of this part; lines of another, or damaged, are passed over."""
        records = list(parse_lines(self.file)) if self.file.is_file() else []
        found = []
        for record in records:
            if isinstance(record, dict) and record.get('part') == self.part and record.keys() >= {'iter', 'stopping'}:
                found.append(_Validated(self.part, record['iter'], record['stopping'], record.get('stopped', False)))
        return sorted(found, key=lambda each: each.iter)

    @staticmethod
    def _restore(runner: Runner, known: _Validated) -> None:
        for hook, (count, best) in zip(_stopping(runner), known.stopping, strict=False):
            hook.wait_count, hook.best_score = count, best
        if known.stopped and known.iter == runner.iter:
            runner.train_loop.stop_training = True


def _stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def _save(runner: Runner) -> None:
    """Saves the weights of now where a hook's interval has not done so."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            step = runner.epoch if hook.by_epoch else runner.iter
            if Path(str(hook.last_ckpt)).name != hook.filename_tmpl.format(step):
                # as the hook does itself, of an epoch that has been counted already
                hook._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))
