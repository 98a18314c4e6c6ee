"""What a run leaves in its checkpoints, and where two of them differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmnas_ext.runs.checkpoints import checkpoint_places, find_checkpoint
from mmnas_ext.runs.training import open_runner


def train(cfg: Config, resume: bool = False) -> None:
    """One training by itself, which is no part of a run."""
    with open_runner(cfg, find_checkpoint(checkpoint_places(cfg)).path if resume else None) as runner:
        runner.train()


def loaded(path: Path) -> dict[str, Any]:
    """All of a checkpoint that a test has made: by PyTorch alone, not by the reader that is tested."""
    return torch.load(path, map_location='cpu', weights_only=False)


def last_checkpoint(work_dir: Path) -> tuple[str, dict[str, Any]]:
    """Name of the newest, and all in it that a resumed run must repeat."""
    found = find_checkpoint(work_dir).path
    kept = loaded(found)
    wanted = ('state_dict', 'optimizer', 'param_schedulers', 'search_monitor')
    return found.name, {key: kept[key] for key in wanted if key in kept}


def differences(a: Any, b: Any, where: str = '') -> list[str]:
    """Where two nested values differ, floats and tensors compared by their bits."""
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            return [f'{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}']
        return [d for key in a for d in differences(a[key], b[key], f'{where}/{key}')]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f'{where}: lengths {len(a)} and {len(b)}']
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f'{where}/{i}')]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [where]
