"""What is otherwise with OpenMMLab's frozen upstream than with its maintained line: each difference has its name here.

Nothing else in the package asks which of them is installed. A difference is found by what the installed package can do,
not by its version, so a line that takes up a change of the other is met as well. What needs no difference is done the
same way on both: checkpoints are read by `mmnas_ext.remap.reader` everywhere, since MMEngine 0.10.7 cannot read those
of its own trainings where PyTorch 2.6 or newer is installed.
"""

from collections.abc import Iterator
from typing import Any

from mmengine.runner import checkpoint, loops

from mmnas_ext.install_check import FROZEN, find_installed

IS_FROZEN = bool(find_installed()[FROZEN])
"""Whether the packages are the frozen ones; only what no package can be asked for goes by it."""

WEIGHS_IGNORED = IS_FROZEN
"""MMSegmentation's class-weighted loss takes the ignored label for a class, whatever ``avg_non_ignore`` is; later
versions fail with ``avg_non_ignore`` alone. `mmnas_ext.SegCrossEntropyLoss` stands in its place in all our configs."""

READS_TRAININGS = hasattr(checkpoint, '_safe_torch_load')
"""MMEngine's own ``CheckpointLoader`` reads a training's checkpoint under PyTorch 2.6 and later; 0.10.7 refuses it."""

SKIPS_TO_RESUME = hasattr(loops._InfiniteDataloaderIterator, 'skip_iter')
"""A loop of iterations that is resumed skips what it was trained on; 0.10.7 loads every batch of it again."""


class Unread:
    """A loader that a loop of iterations is built with in the place of the real one: nothing comes of reading it.

    MMEngine 0.10.7 begins to read as soon as a loop is built: workers load batches that nobody takes, and the global
    random state, from which weights are initialised next, moves on.

    Args:
        loader: The real one.
    """

    def __init__(self, loader: Any) -> None:
        self.dataset = loader.dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Skipping:
    """Batches of which the first are skipped at once, as MMEngine 0.10.7 asks for each of them and drops it.

    Args:
        batches: They have ``skip_iter``, and are endless.
        count: Batches to be skipped.
    """

    def __init__(self, batches: Any, count: int) -> None:
        self.batches, self.count, self.asked = batches, count, 0

    def __next__(self) -> Any:
        if self.asked == self.count:
            return next(self.batches)
        # not before: hooks may exchange transforms until the first is asked for
        if not self.asked:
            self.batches.skip_iter(self.count)
        self.asked += 1
        return None


def resumable(batches: Any, done: int) -> Any:
    """What a loop of iterations has to read from so that it goes on behind the batches that it was trained on.

    Args:
        batches: They have ``skip_iter``, and are endless.
        done: Iterations that are done.

    Returns:
        `batches` themselves where MMEngine skips.
    """
    return batches if SKIPS_TO_RESUME or not done else _Skipping(batches, done)
