"""MMEngine's Runner, which loads checkpoints with our own reader."""

from typing import Any

from mmengine.runner import Runner

from mmnas_ext.remap.loading import safe_loading


class SafeRunner(Runner):
    """A `Runner` that runs no code of any checkpoint: not to resume, not for ``load_from`` or ``Pretrained``.

    Raises:
        CheckpointError: From whichever method loads a file that cannot be read or is refused.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with safe_loading():  # a model may load its teacher when it is built
            super().__init__(*args, **kwargs)

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
