"""Randomness as a function of (seed, position): what makes a resumed run repeat an uninterrupted one to the bit."""

import random
import zlib
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from torch import Generator

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

    MMEngine's checkpoints do not hold the states of the random generators. Loaders must not keep workers over
    epochs (``persistent_workers=False``): those hold states of their own.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Any) -> None:
        """Seeds by the runner's seed and the epoch."""
        reseed(runner.seed, 'epoch', runner.epoch)
