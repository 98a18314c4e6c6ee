"""The device of these tests, and mixed precision on it; nothing is collected where there is none."""

import os
from collections.abc import Iterator

import pytest

from tests.device import find_device

# the line that says so is in tests/conftest.py: a process that only hands out tests reads this file too late
collect_ignore_glob = [] if find_device() else ['test_*.py']
if find_device() == 'cpu':
    os.environ['CUDA_VISIBLE_DEVICES'] = ''  # MMEngine would take a GPU


@pytest.fixture(scope='session')
def device() -> str:
    found = find_device()
    if found is None:
        raise LookupError('nothing is collected without a device')
    return found


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Undoes what ``randomness.deterministic`` sets for the whole process, and keeps TF32 out of comparisons."""
    import torch

    kept = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = kept


@pytest.fixture
def amp(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets MMEngine's mixed precision run on a CPU too, which it refuses though PyTorch has it there."""
    if device != 'cpu':
        return
    import torch
    from mmengine.optim.optimizer import amp_optimizer_wrapper as module
    from mmengine.runner import amp

    def autocast(dtype: torch.dtype | None = None, **settings: object) -> torch.autocast:
        return torch.autocast('cpu', dtype or torch.float16)

    monkeypatch.setattr(module, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(module, 'GradScaler', lambda **settings: torch.amp.GradScaler('cpu', **settings))
    monkeypatch.setattr(amp, 'autocast', autocast)
    monkeypatch.setattr('mmnas_ext.runs.checks.is_cuda_available', lambda: True)
