"""A search of SSDLite's kind goes on where it was killed: a feature inside a layer, a temperature, repeated images."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from tests.engine import tiny
from tests.engine.kept import differences, last_checkpoint, train
from tests.engine.tiny_seg import KilledError


def search(folder: Path, kill: int | None) -> Config:
    """Six images, each twice: three iterations a pass of either half, an arch step every third iteration."""
    loader = tiny.loader_cfg(count=6)
    loader['dataset'] = dict(type='RepeatDataset', times=2, dataset=loader['dataset'])
    backbone = dict(out_indices=(2, '1.expand'), temperature=0.9, with_cp=True)
    cfg = tiny.search_cfg(
        folder,
        'iter',
        model=dict(backbone=backbone, norm=True),
        train_cfg=dict(arch_interval=3),
        default_hooks=dict(checkpoint=dict(interval=1)),
    )
    cfg.train_dataloader = loader
    optimizer = dict(type='RMSprop', lr=0.05, alpha=0.99, eps=1.0, momentum=0.9, weight_decay=4e-5)
    cfg.optim_wrapper.weights.optimizer = optimizer
    stop: list[Any] = [] if kill is None else [dict(type='StopVisualizationHook', at=kill)]
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook['type'] != 'KillVisualizationHook'] + stop
    cfg.experiment_name = f'{folder} {kill}'
    return cfg


def test_it_resumes_to_the_same_bits(tmp_path: Path) -> None:
    train(search(tmp_path / 'whole', None))
    for kill in (4, 7, None):  # inside a pass, and just after an arch step
        cfg = search(tmp_path / 'killed', kill)
        if kill is None:
            train(cfg, resume=True)
        else:
            with pytest.raises(KilledError):
                train(cfg, resume=True)
    (name, kept), (wanted_name, wanted) = (last_checkpoint(tmp_path / run) for run in ('killed', 'whole'))
    assert name == wanted_name == 'iter_12.pth'
    assert differences(kept, wanted) == []
    assert any(value.abs().sum() > 0 for key, value in kept['state_dict'].items() if key.endswith('.alpha'))
