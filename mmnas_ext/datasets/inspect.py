"""What is wrong with a dataset, found before a run: files that are missing, a sample that cannot be prepared."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mmnas_ext.datasets.renewal import renewed

_SHOWN = 3


class Listing:
    """Knows which files exist: it reads each folder once, where asking for each of a million files takes minutes."""

    def __init__(self) -> None:
        self._folders: dict[str, set[str] | None] = {}

    def holds(self, path: str) -> bool:
        """Returns whether there is such a file."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = _files(folder or '.')
        names = self._folders[folder]
        if names is None:
            return os.path.isdir(folder) and os.path.isfile(path)  # a folder that may not be listed
        # file systems that ignore case, or normalise names, find what the listing spells otherwise
        return name in names or os.path.isfile(path)


def missing(lost: list[str], total: int) -> str:
    """Says how many files of how many do not exist, and which are the first of them."""
    return f'{len(lost)} of {total} files do not exist, the first: {", ".join(lost[:_SHOWN])}'


def check_files(dataset: Any, name: str = 'train_dataloader.dataset') -> None:
    """Looks for the files of all images of a dataset, and of their label maps.

    Files behind a storage backend (``backend_args``, ``s3://…``) are left to it.

    Args:
        dataset: Any dataset; those inside wrappers are looked through.
        name: What the message calls it.

    Raises:
        FileNotFoundError: Files do not exist: how many, and the first.
    """
    listing, lost, total = Listing(), [], 0
    seen: set[int] = set()
    for leaf in _leaves(dataset):
        if id(leaf) in seen or _elsewhere(leaf):
            continue
        seen.add(id(leaf))
        # only MMSegmentation's datasets read label maps whatever their pipeline
        keys = ('img_path', 'seg_map_path') if hasattr(leaf, 'ignore_index') else ('img_path',)
        for index in range(len(leaf)):
            info = leaf.get_data_info(index)
            for path in (info.get(key) for key in keys):
                if isinstance(path, str) and '://' not in path:
                    total += 1
                    if not listing.holds(path):
                        lost.append(path)
    if lost:
        raise FileNotFoundError(f'{name}: {missing(lost, total)}; check data_root and data_prefix')


def check_sample(dataset: Any, index: int, num_classes: int | None = None) -> Any:
    """Prepares one item as a training would, and leaves random states and transforms as they were.

    Args:
        dataset: Any dataset.
        index: The item.
        num_classes: Classes of the model; by default as many as the dataset's ``metainfo`` names.

    Returns:
        The sample.

    Raises:
        DataError: A file cannot be read, a label is not in 0..`num_classes` - 1, or the pipeline fails; the message
            names the file.
    """
    with random_states_kept():
        return renewed(dataset, num_classes)[index]


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Leaves the random generators of the CPU as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _files(folder: str) -> set[str] | None:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.is_dir()}
    except OSError:
        return None


def _leaves(dataset: Any) -> Iterator[Any]:
    """Yields the datasets inside all wrappers that can tell their annotations."""
    held = getattr(dataset, '__dict__', {})
    inner = [held[key] for key in ('dataset', '_dataset') if key in held]
    inner += held['datasets'] if isinstance(held.get('datasets'), (list, tuple)) else []
    for each in inner:
        yield from _leaves(each)
    if not inner and hasattr(dataset, 'get_data_info'):
        yield dataset


def _elsewhere(leaf: Any) -> bool:
    """Returns whether a storage backend reads the files."""
    parts = [leaf, *getattr(getattr(leaf, 'pipeline', None), 'transforms', [])]
    return any(getattr(part, key, None) for part in parts for key in ('backend_args', 'file_client_args'))
