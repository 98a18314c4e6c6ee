"""What several tests of runs have in common."""

from typing import Any

import pytest

from mmnas_ext.engine.path_losses import PathLosses
from tests.engine import tiny_seg


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
