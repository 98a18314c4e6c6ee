"""A parameter schedule goes on where a training was killed, and says when it keeps the end of a shorter one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmnas_ext.runs.training import open_runner
from tests.runs.test_safe_tools import plain_cfg


def cfg_of(folder: Path, epochs: int) -> Any:
    cfg = plain_cfg(folder)
    cfg.train_cfg.max_epochs = epochs
    cfg.param_scheduler = [dict(type='OneCycleLR', eta_max=0.1, total_steps=18, by_epoch=False)]
    return cfg


def trained(cfg: Any, checkpoint: Path | None, monkeypatch: Any) -> tuple[dict[str, Any], float, list[str]]:
    """Weights, last rate, and what was warned of schedules."""
    said: list[str] = []
    with open_runner(cfg, checkpoint) as runner:
        warn: Callable[..., Any] = runner.logger.warning
        monkeypatch.setattr(runner.logger, 'warning', lambda text, *args: said.append(text) or warn(text, *args))
        runner.train()
        rate = runner.optim_wrapper.param_groups[0]['lr']
        return runner.model.state_dict(), rate, [line for line in said if 'schedules' in line]


def test_a_one_cycle_schedule_of_a_killed_training_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    whole, rate, said = trained(cfg_of(tmp_path / 'a', 2), None, monkeypatch)
    first = tmp_path / 'a' / 'epoch_1.pth'
    again, rate_again, said_again = trained(cfg_of(tmp_path / 'b', 2), first, monkeypatch)
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert rate == rate_again and not said and not said_again
    # a longer one keeps the end of the shorter: MMEngine's own way
    _, held, warned = trained(cfg_of(tmp_path / 'c', 3), first, monkeypatch)
    assert held == rate
    assert len(warned) == 1 and 'end at [12] as in the checkpoint, and in the config at [18]' in warned[0]
