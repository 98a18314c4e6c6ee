"""Whole trainings on the device: killed and resumed to the same bits, in mixed precision and without."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmnas_ext.runs.run import run
from mmnas_ext.search.ratings import Ratings
from tests.engine import tiny, tiny_distill, tiny_seg
from tests.engine.kept import differences, last_checkpoint, loaded, train

SAME_BITS = {'randomness.deterministic': True}
AMP = {'type': 'AmpOptimWrapper', 'loss_scale': {'init_scale': 512.0, 'growth_interval': 3}, 'dtype': 'float16'}


def detector(folder: Path, **changes: Any) -> Config:
    cfg = tiny.search_cfg(folder, loop='iter', **SAME_BITS, **changes)
    cfg.custom_imports.imports.append('tests.engine.tiny_seg')
    return cfg


def in_half(folder: Path) -> Config:
    return detector(folder, optim_wrapper=tiny.optim_cfg(weights=AMP, arch=AMP))


def recomputed(folder: Path) -> Config:
    return detector(folder, **{'model.backbone.with_cp': True, 'model.backbone.channels_last': True})


def segmentor(folder: Path) -> Config:
    return tiny_seg.training_cfg(folder, **tiny_seg.search_changes(), **SAME_BITS)


def adaptation(folder: Path) -> Config:
    return tiny_seg.training_cfg(folder, **SAME_BITS)


def distillation(folder: Path) -> Config:
    folder.mkdir(exist_ok=True)
    cfg = tiny_distill.config(folder, **SAME_BITS, custom_imports={'imports': ['tests.engine.tiny_seg']})
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    return cfg


KINDS = {
    'search': detector, 'search in half precision': in_half, 'search checkpointed in NHWC': recomputed,
    'search in a segmentor': segmentor, 'segmentor': adaptation, 'distillation': distillation,
}  # fmt: skip


def once(make: Any, folder: Path, kill: int | None = None) -> str:
    """Trains on from what is there, to its end or to before an iteration; returns its work dir."""
    cfg = make(folder)
    cfg.experiment_name = f'{folder} {kill}'
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if hook['type'] != 'mmnas_ext.DeriveHook']
    for seed in (random.seed, np.random.seed, torch.manual_seed):  # as in another process
        seed(97 if kill is None else kill)
    if kill is None:
        train(cfg, resume=True)
    else:
        cfg.custom_hooks.append({'type': 'StopVisualizationHook', 'at': kill})
        with pytest.raises(tiny_seg.KilledError):
            train(cfg, resume=True)
    return cfg.work_dir


@pytest.mark.usefixtures('amp')
@pytest.mark.parametrize('kind', KINDS)
def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path, kind: str) -> None:
    whole = once(KINDS[kind], tmp_path / 'whole')
    once(KINDS[kind], tmp_path / 'killed', 5)
    killed = once(KINDS[kind], tmp_path / 'killed')
    (name, kept), (wanted_name, wanted) = (last_checkpoint(Path(work)) for work in (killed, whole))
    assert name == wanted_name
    assert differences(kept, wanted) == []
    assert torch.are_deterministic_algorithms_enabled()
    if kind == 'search in half precision':
        scaler = kept['optimizer']['weights']['wrapper']['loss_scaler']
        assert scaler['scale'] > 512  # it has grown, so a resumed one that began anew would have another


def test_a_run_begins_and_ends_on_the_device(tmp_path: Path, device: str) -> None:
    seen = set()

    def look(model: torch.nn.Module, *_: Any) -> None:
        seen.update(p.device.type for p in model.parameters())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        run(tiny.search_cfg(tmp_path, **{'train_cfg.max_epochs': 2, 'derived.train_cfg.max_epochs': 1}))
    finally:
        handle.remove()
    assert seen == {torch.device(device).type}
    final = loaded(next((tmp_path / 'adapt').glob('epoch_1.pth')))
    assert {tensor.device.type for tensor in final['state_dict'].values()} == {'cpu'}


def test_a_distillation_is_rated_and_its_network_found(tmp_path: Path) -> None:
    cfg = tiny_distill.config(tmp_path)
    run(copy.deepcopy(cfg))
    ratings = Ratings.parse((tmp_path / 'work' / 'ratings.json').read_text())
    found = [rating for block in ratings.blocks for cell in block.cells for rating in cell.ratings]
    assert len(found) == sum(tiny_distill.PATHS)
    assert all(0 < rating < 10 for rating in found)
    assert (tmp_path / 'work' / 'front.json').is_file() and (tmp_path / 'work' / 'features.npz').is_file()
