"""Images that are files already, shown in TensorBoard too."""

from collections.abc import Iterable
from pathlib import Path

import mmcv
from torch.utils.tensorboard import SummaryWriter


def log_images(files: Iterable[Path], folder: Path) -> None:
    """Writes an event file that shows images under their names.

    Args:
        files: Those that end in ``.png`` are shown.
        folder: Where the event file goes.
    """
    with SummaryWriter(str(folder)) as writer:
        for file in files:
            if file.suffix == '.png':
                image = mmcv.imread(str(file), channel_order='rgb')
                writer.add_image(file.stem, image, dataformats='HWC')
