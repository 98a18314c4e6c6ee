"""Running statistics of batch norms, measured anew."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def averaged_statistics(norms: Iterable[Any]) -> Iterator[None]:
    """Forgets the running statistics of batch norms, and averages those of the batches that are computed within.

    The norms are in training mode within and afterwards; their momentum is as before.
    """
    kept = [(norm, norm.momentum) for norm in norms]
    for norm, _ in kept:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in kept:
            norm.momentum = momentum
