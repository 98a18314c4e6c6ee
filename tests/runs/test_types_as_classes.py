"""A ``type`` is text or, as in a pure-Python config, the class itself: both mean the same."""

from pathlib import Path
from typing import Any

import pytest
from mmcv.transforms import Resize
from mmdet.models.dense_heads import SSDHead
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn

from mmnas_ext.archs import zoo
from mmnas_ext.backbones import MBNet
from mmnas_ext.backbones.chain import norm_with_eps
from mmnas_ext.distill import BlockDistiller
from mmnas_ext.engine.batches import EndlessSampler, reproducible
from mmnas_ext.hosts.ssd import SSDHead as OurHead
from mmnas_ext.registry import MODELS, class_of, name_of
from mmnas_ext.runs.checkpoints import Places, checkpoint_places
from mmnas_ext.runs.checks import _check_device
from mmnas_ext.runs.fitting import require_own_backbone
from mmnas_ext.runs.host import mend_heads
from mmnas_ext.runs.image_size import former_size
from mmnas_ext.runs.training import is_distillation


@pytest.mark.parametrize(
    ('part', 'name'),
    [
        ({'type': 'EMAHook'}, 'EMAHook'),
        ({'type': 'mmdet.a.EMAHook'}, 'EMAHook'),
        ({'type': EMAHook}, 'EMAHook'),
        ({'type': None}, ''),
        ({}, ''),
        (None, ''),
        ('EMAHook', ''),
    ],
)
def test_the_name_of_a_part(part: Any, name: str) -> None:
    assert name_of(part) == name


def test_the_class_of_a_type() -> None:
    assert class_of(MODELS, 'mmnas_ext.MBNet') is MBNet
    assert class_of(MODELS, MBNet) is MBNet
    assert class_of(MODELS, None) is class_of(MODELS, 'NoSuch') is class_of(MODELS, 3) is None


@pytest.mark.parametrize('kind', ['CheckpointHook', CheckpointHook])
def test_checkpoints_of_another_hook_are_looked_for(kind: Any, tmp_path: Path) -> None:
    hooks = [dict(type=kind, by_epoch=False, out_dir=str(tmp_path / 'big'))]
    cfg = Config(dict(work_dir=str(tmp_path / 'mine'), custom_hooks=hooks))
    assert checkpoint_places(cfg)[1:] == [Places(str(tmp_path / 'big' / 'mine'), 'iter_{}.pth', False)]


@pytest.mark.parametrize('kind', ['Resize', Resize])
def test_the_size_that_a_config_was_written_for(kind: Any) -> None:
    loader = dict(dataset=dict(pipeline=[dict(type=kind, scale=(96, 64))]))
    assert former_size(Config(dict(test_dataloader=loader))) == (64, 96)


@pytest.mark.parametrize('kind', ['InfiniteSampler', InfiniteSampler])
def test_an_endless_sampler_is_one_that_is_found_again(kind: Any) -> None:
    assert reproducible(dict(batch_size=2, sampler=dict(type=kind)))['sampler']['type'] is EndlessSampler


@pytest.mark.parametrize('kind', ['BN', nn.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_norms_have_the_epsilon_of_their_network(kind: Any) -> None:
    arch = zoo.arch('mobilenet_v2').replace(bn_eps=1e-3)
    assert norm_with_eps(dict(type=kind), arch, None)['eps'] == 1e-3


@pytest.mark.parametrize('kind', ['mmnas_ext.BlockDistiller', 'BlockDistiller', BlockDistiller])
def test_a_distillation_is_told_by_its_model(kind: Any) -> None:
    assert is_distillation(Config(dict(model=dict(type=kind))))


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', AmpOptimWrapper])
@pytest.mark.parametrize('half', [False, True], ids=['whole', 'a half'])
def test_mixed_precision_needs_a_device(kind: Any, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmnas_ext.runs.checks.is_cuda_available', lambda: False)
    wrapper = dict(weights=dict(type=kind)) if half else dict(type=kind)
    with pytest.raises(ValueError, match='needs a GPU'):
        _check_device(Config(dict(optim_wrapper=wrapper)))
    _check_device(Config(dict(optim_wrapper=dict(type=OptimWrapper))))


@pytest.mark.parametrize('kind', ['SSDHead', 'mmdet.SSDHead', SSDHead])
def test_heads_of_an_ssd_are_exchanged(kind: Any) -> None:
    cfg = Config(dict(default_scope='mmdet', model=dict(bbox_head=dict(type=kind))))
    mend_heads(cfg)
    assert cfg.model.bbox_head.type == 'mmnas_ext.SSDHead'


class MySSDHead(SSDHead):
    """A head of somebody else."""


MySSDHead.__name__ = 'SSDHead'


@pytest.mark.parametrize('kind', ['mmnas_ext.SSDHead', OurHead, 'mine.SSDHead', MySSDHead])
def test_heads_of_others_stay(kind: Any) -> None:
    cfg = Config(dict(default_scope='mmdet', model=dict(bbox_head=dict(type=kind))))
    mend_heads(cfg)
    assert cfg.model.bbox_head.type is kind


@pytest.mark.parametrize('kind', ['mmnas_ext.SuperNet', MODELS.get('mmnas_ext.SuperNet'), MBNet, None])
def test_a_backbone_of_ours_may_be_completed(kind: Any) -> None:
    require_own_backbone(dict(backbone=dict(type=kind)), 'a.py')
    with pytest.raises(ValueError, match='arguments mean nothing to the found network'):
        require_own_backbone(dict(backbone=dict(type=nn.Conv2d)), 'a.py')
