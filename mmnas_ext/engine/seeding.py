"""Randomness as a function of (seed, position): what makes a resumed run repeat an uninterrupted one to the bit."""

import random
import zlib
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from torch import Generator

from mmnas_ext.datasets import renewed
from mmnas_ext.registry import HOOKS


def mix(*key: int | str) -> int:
    """A seed in 0..2**32-1 from any key, the same in every process and Python version."""
    return zlib.crc32(repr(key).encode())


def generator(*key: int | str) -> Generator:
    """A CPU generator seeded by a key."""
    return Generator().manual_seed(mix(*key))


def reseed(*key: int | str, rank: int | None = None) -> None:
    """Seeds Python's, NumPy's and PyTorch's global generators by a key and a rank, by default this process's."""
    seed = mix(*key, get_rank() if rank is None else rank)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def common_seed(runner: Any) -> int:
    """The main process's seed, in all processes; all must call it.

    With ``randomness.diff_rank_seed`` MMEngine gives each process a seed of its own. What all must draw alike, paths
    and the order of images, follows from this one.
    """
    seeds = [runner.seed]
    if get_world_size() > 1:
        broadcast_object_list(seeds)
    return int(seeds[0])


def seed_worker(_worker: int) -> None:
    """Seeds a loader's worker from PyTorch's own seed, which differs per epoch and follows from the main process's.

    MMEngine's default gives a worker the same seed in each epoch: the same flips, epoch after epoch.
    """
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


@HOOKS.register_module()
class ReseedHook(Hook):
    """Reseeds at each epoch's start, so that ordinary training resumed from an epoch's checkpoint repeats itself.

    MMEngine's checkpoints hold neither the states of the random generators nor what transforms remember (a mosaic's
    cache), and workers that live over epochs (``persistent_workers``) have both. So each epoch of MMEngine's
    `EpochBasedTrainLoop` has new workers, and new copies of the transforms that the dataset has after all other hooks.
    Errors of the data name the file.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._dataset: Any = None

    def before_train_epoch(self, runner: Any) -> None:
        """Seeds by the runner's seed and the epoch, and has the epoch's transforms remember nothing."""
        reseed(runner.seed, 'epoch', runner.epoch)
        if getattr(type(runner.train_loop), 'run_epoch', None) is EpochBasedTrainLoop.run_epoch:
            loader = runner.train_loop.dataloader
            loader._iterator = None
            self._dataset = loader.dataset
            loader.__dict__['dataset'] = renewed(loader.dataset)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Shows hooks the dataset itself again: what the epoch reads is under way."""
        if self._dataset is not None:
            runner.train_loop.dataloader.__dict__['dataset'] = self._dataset
            self._dataset = None
