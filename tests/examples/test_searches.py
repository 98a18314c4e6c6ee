"""Every example searches and adapts 20 iterations on a CPU: on two sets of data, in its host's scope and in another."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmnas_ext.workdir import WorkDir
from tests.examples.outcome import assert_done
from tests.examples.small import BOXES, CASES, COMMON, DETECTOR, ON_PAGES, SEGMENTOR, make, read, search

# the last epoch of RTMDet's training is without mosaics
CHANGES = {
    'fna_rtmdet_coco': {
        'derived.train_cfg.max_epochs': 2, 'derived.train_dataloader.batch_size': 4,
        'derived.custom_hooks.2.switch_epoch': 1, 'derived.train_cfg.dynamic_intervals': None,
        'derived.train_cfg.val_interval': 2, 'derived.default_hooks.checkpoint.interval': 1,
    },
}  # fmt: skip


@pytest.fixture(scope='module')
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make(tmp_path_factory.mktemp('examples'))


@pytest.fixture(autouse=True)
def scope_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner's host stays MMEngine's default scope otherwise."""
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())


def config(name: str, layout: str, scope: str, given: dict[str, Any]) -> Config:
    short = DETECTOR if layout in BOXES else SEGMENTOR
    changes = {'seed': given['seed'], 'data': given[layout], **CHANGES.get(name, {})}
    return read(name, {**COMMON, **short, **changes}, scope)


@pytest.mark.parametrize(('name', 'layout', 'scope'), [each for each in CASES if each[:2] not in ON_PAGES])
def test_an_example_searches_and_adapts(
    name: str, layout: str, scope: str, given: dict[str, Any], tmp_path: Path
) -> None:
    cfg = config(name, layout, scope, given)
    assert cfg.default_scope == (scope or ('mmdet' if layout in BOXES else 'mmseg'))
    files = WorkDir(tmp_path / 'w')
    search(cfg, files.root)
    assert_done(name, layout, files, given['seed'])


def test_the_last_epochs_of_rtmdet_are_without_mosaics(given: dict[str, Any]) -> None:
    cfg = config('fna_rtmdet_coco', 'coco', '', given)
    derived = cfg.derived
    kinds = [[step['type'] for step in pipeline] for pipeline in (
        cfg.train_dataloader.dataset.pipeline,
        derived.train_dataloader.dataset.pipeline,
        derived.custom_hooks[2].switch_pipeline,
    )]  # fmt: skip
    assert ['CachedMosaic' in each for each in kinds] == [False, True, False]
    assert ['CachedMixUp' in each for each in kinds] == [False, True, False]
    # all of them in the size that `image_size` says
    for pipeline in (cfg.train_dataloader.dataset.pipeline, derived.custom_hooks[2].switch_pipeline):
        sizes = [step[key] for step in pipeline for key in ('scale', 'crop_size', 'size') if key in step]
        assert sizes == [(64, 64)] * 3
