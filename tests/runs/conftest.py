"""What several tests of runs have in common."""

from typing import Any

import pytest

from mmnas_ext.engine.path_losses import PathLosses
from tests.engine import tiny_seg, tiny_trials


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts losses that are computed; one more than `last` ends the process, so to speak."""
    done = {'count': 0, 'last': 10_000}
    keep = PathLosses._keep

    def counted(losses: PathLosses, path: Any, position: int, loss: float) -> None:
        if done['count'] == done['last']:
            raise tiny_seg.KilledError
        done['count'] += 1
        keep(losses, path, position, loss)

    monkeypatch.setattr(PathLosses, '_keep', counted)
    return done


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts the steps that train a network, no super-network; one more than `last` ends the process, so to speak."""
    done = {'count': 0, 'last': 10_000}
    step = tiny_trials.TinyTried.train_step

    def train_step(self: Any, data: Any, optim_wrapper: Any) -> Any:
        if hasattr(self.backbone, 'arch'):
            if done['count'] == done['last']:
                raise tiny_seg.KilledError
            done['count'] += 1
        return step(self, data, optim_wrapper)

    monkeypatch.setattr(tiny_trials.TinyTried, 'train_step', train_step)
    return done
