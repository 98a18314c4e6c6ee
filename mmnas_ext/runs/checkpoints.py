"""Which checkpoint to go on from: a run killed while it wrote one leaves half a file behind."""

import zipfile
from pathlib import Path


def find_checkpoint(work_dir: Path) -> Path | None:
    """The newest whole ``epoch_<n>.pth`` or ``iter_<n>.pth`` in a work dir; ``None`` where there is none.

    MMEngine's ``last_checkpoint`` file is not asked: it is rewritten in place, so it too may be half written.
    """
    numbered = []
    for path in work_dir.glob('*.pth'):
        kind, _, number = path.stem.partition('_')
        if kind in ('epoch', 'iter') and number.isdigit():
            numbered.append((int(number), path))
    for _, path in sorted(numbered, reverse=True):
        if is_whole(path):
            return path
    return None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint file was written to its end: a zip archive has its directory last."""
    return zipfile.is_zipfile(path)
