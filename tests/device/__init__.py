"""Tests of behaviour that run on whatever device there is: `DEVICE`; without one the folder is not collected.

``MMNAS_DEVICE=cpu`` runs them on the CPU, where they show that they are sound, not that a GPU computes the same.
"""

import os
from functools import cache
from pathlib import Path

_CARDS = ('nvidia*', 'dxg', 'kfd')  # CUDA, CUDA under WSL, ROCm
LEFT_OUT = 'tests/device is left out: PyTorch sees no GPU (MMNAS_DEVICE=cpu runs it on the CPU)'


@cache
def find_device() -> str | None:
    """What ``MMNAS_DEVICE`` says, or a GPU where there is one; torch is imported only where there may be one."""
    said = os.environ.get('MMNAS_DEVICE')
    if said or not any(any(Path('/dev').glob(card)) for card in _CARDS):
        return said or None
    import torch

    return 'cuda' if torch.cuda.is_available() else None
