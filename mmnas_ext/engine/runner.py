"""MMEngine's Runner, which loads checkpoints with our own reader."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.device import get_device
from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.runner import Runner
from torch import nn

from mmnas_ext.remap.loading import safe_loading
from mmnas_ext.workdir import in_one_step


class SafeRunner(Runner):
    """A `Runner` that runs no code of any checkpoint: not to resume, not for ``load_from`` or ``Pretrained``.

    Raises:
        CheckpointError: From whichever method loads a file that cannot be read or is refused.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._removals: list[tuple[Callable[[str], None], str]] = []
        with safe_loading():  # a model may load its teacher when it is built
            super().__init__(*args, **kwargs)

    def set_randomness(self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False) -> None:
        """Seeds as MMEngine does; for deterministic algorithms on a GPU cuBLAS is told as well, which PyTorch requires.

        A value that ``CUBLAS_WORKSPACE_CONFIG`` has stays.
        """
        if deterministic:
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        super().set_randomness(seed, diff_rank_seed, deterministic)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> Any:
        """Wraps as MMEngine does; of several processes on CPUs too, where MMEngine's own wrapper names a GPU."""
        if self.distributed and get_device() == 'cpu' and not is_model_wrapper(model):
            if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
                self.logger.warning('SyncBN needs GPUs: on CPUs each process normalises by its own images')
                model = revert_sync_batchnorm(model)
            unused = dict(find_unused_parameters=self.cfg.get('find_unused_parameters', False))
            given = model_wrapper_cfg or dict(broadcast_buffers=False, **unused)
            if given.get('type', 'MMDistributedDataParallel') == 'MMDistributedDataParallel':
                model_wrapper_cfg = {'device_ids': None, **given}
        return super().wrap_model(model_wrapper_cfg, model)

    def train(self) -> Any:
        """Trains; weights are initialised and checkpoints loaded before the first step."""
        with safe_loading():
            return super().train()

    def val(self) -> Any:
        """Validates."""
        with safe_loading():
            return super().val()

    def test(self) -> Any:
        """Tests."""
        with safe_loading():
            return super().test()

    def resume(self, *args: Any, **kwargs: Any) -> None:
        """Resumes as MMEngine does, and warns of a parameter schedule that goes on to another end than the config's.

        A schedule without ``end`` ends with the training. MMEngine takes its end from the checkpoint, so in a training
        that is made longer when it is resumed the rate stays at the last value of the shorter one.
        """
        before = _ends(self.param_schedulers)
        super().resume(*args, **kwargs)
        after = _ends(self.param_schedulers)
        if before and before != after:
            self.logger.warning(
                f'parameter schedules end at {after} as in the checkpoint, and in the config at {before}: the training '
                'is of another length than it was; begin it anew for schedules of the new length'
            )

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Saves as MMEngine does; in a local folder in one step, so that no half of a checkpoint has its name."""
        if '://' in str(out_dir):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        file = Path(out_dir, filename)
        with in_one_step(file) as part:
            super().save_checkpoint(out_dir, os.path.relpath(part, out_dir), *args, **kwargs)
        while self._removals:
            remove, path = self._removals.pop()
            if Path(path) != file:
                remove(path)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Calls the hooks as MMEngine does; what a `CheckpointHook` removes stays until the next file is whole.

        MMEngine removes first: with ``max_keep_ckpts=1``, and of best checkpoints always, a run that ends meanwhile, or
        for which the disk has no room, would have none.
        """
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_train':  # when they have opened their backends
            for hook in self.hooks:
                if isinstance(hook, CheckpointHook):
                    hook.file_backend = _RemovesLater(hook.file_backend, self._removals)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Loads as MMEngine does; returns the checkpoint without the config in its ``meta``.

        `Runner.resume` runs that config as Python code, to compare the number of GPUs that versions before MMEngine
        noted in it.
        """
        with safe_loading():
            checkpoint = super().load_checkpoint(*args, **kwargs)
        meta = checkpoint.get('meta')
        if isinstance(meta, dict):
            meta.pop('config', None)
        return checkpoint


class _RemovesLater:
    """A file backend that notes what is to be removed.

    Args:
        backend: MMEngine's.
        removals: Where it notes them, each with what removes it.
    """

    def __init__(self, backend: Any, removals: list[tuple[Callable[[str], None], str]]) -> None:
        self._backend, self._removals = backend, removals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        """Notes a file."""
        self._removals.append((self._backend.remove, path))

    def rmtree(self, path: str) -> None:
        """Notes a folder."""
        self._removals.append((self._backend.rmtree, path))


def _ends(schedulers: Any) -> list[int]:
    """Last step of each schedule that has been built, in order; of several optimizers, one after the other."""
    groups = schedulers.values() if isinstance(schedulers, dict) else [schedulers or []]
    return [each.end for group in groups for each in group if hasattr(each, 'end')]
