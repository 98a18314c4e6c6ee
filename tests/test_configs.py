"""Every config of ours builds and takes a step on the CPU, a search one of each phase, and so does what it derives."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmnas_ext.archs import SearchSpace
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine.optim import SearchOptimWrapperConstructor
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.trials import TrialPlan
from tests.small import CONFIGS, CROP, read, small

# what a model of each host consists of
PARTS = {
    'mmdet': {'backbone', 'neck', 'bbox_head'},
    'mmseg': {'backbone', 'decode_head'},
    'mmpretrain': {'backbone', 'head'},  # its neck pools, and learns nothing
}
# a distiller is a model of its own, with a teacher and without a host: it has tests of its own
HOSTED = [name for name in CONFIGS if not str(read(name).model.type).endswith('BlockDistiller')]
SEARCHES = [name for name in HOSTED if read(name).get('derived')]
# one that draws networks takes no steps of its own, only its trials do
RANDOM = [name for name in SEARCHES if read(name).get('random_search')]


def detections(cfg: Config) -> dict[str, Any]:
    return demo_mm_inputs(2, [(3, *CROP)] * 2, num_classes=cfg.model.bbox_head.num_classes)


def segmentations(cfg: Config) -> dict[str, Any]:
    """Two images, one smaller than the crop; a third of each has no label."""
    inputs, samples = [], []
    for height, width in (CROP, (CROP[0] - 7, CROP[1] - 20)):
        labels = torch.randint(cfg.model.decode_head.num_classes, (1, height, width))
        labels[:, : height // 3] = 255
        inputs.append(torch.randint(256, (3, height, width), dtype=torch.uint8))
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels)))
    return {'inputs': inputs, 'data_samples': samples}


def classifications(cfg: Config) -> dict[str, Any]:
    labels = torch.randint(cfg.model.head.num_classes, (2,))
    inputs = [torch.randint(256, (3, *CROP), dtype=torch.uint8) for _ in labels]
    return {'inputs': inputs, 'data_samples': [DataSample().set_gt_label(label) for label in labels]}


IMAGES = {'mmdet': detections, 'mmseg': segmentations, 'mmpretrain': classifications}


@contextmanager
def built(cfg: Config) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """A small model in training mode, in its host's scope, and images for it."""
    host = cfg.default_scope
    with DefaultScope.overwrite_default_scope(host):
        model = MODELS.build(small(cfg).model)
        assert {name.partition('.')[0] for name, _ in model.named_parameters()} == PARTS[host]
        yield model.train(), IMAGES[host](cfg)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def parts(names: set[str]) -> set[str]:
    return {name.partition('.')[0] for name in names}


def assert_losses(losses: dict[str, Tensor]) -> None:
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert losses['loss'] > 0


def one_step(cfg: Config) -> None:
    """Trains an ordinary config for one step; every part of the model moves."""
    cfg.optim_wrapper.pop('accumulative_counts', None)  # it would only put the update off
    with built(cfg) as (model, images):
        before = values(model)
        assert_losses(model.train_step(images, build_optim_wrapper(model, cfg.optim_wrapper)))
        assert parts(moved(model, before)) == PARTS[cfg.default_scope]


def test_there_are_configs_of_both_kinds_for_each_host() -> None:
    ordinary = {name for name in HOSTED if name not in SEARCHES}
    assert {'retinanet_fna_coco.py', 'retinanet_mbv2_coco.py', 'deeplabv3_fna_cityscapes.py'} <= ordinary
    assert {f'dna_{letter}_imagenet.py' for letter in 'abcd'} | {'dna_a_cifar10.py', 'dna_a_cifar100.py'} <= ordinary
    assert {'fna_retinanet_coco.py', 'fna_retinanet_coco_1gpu.py', 'fna_deeplabv3_cityscapes.py'} <= set(SEARCHES)
    assert 'random_deeplabv3_cityscapes.py' in RANDOM
    assert {read(name).default_scope for name in HOSTED} == set(PARTS)


@pytest.mark.parametrize('name', [name for name in HOSTED if name not in SEARCHES])
def test_ordinary_config_takes_a_step(name: str) -> None:
    one_step(read(name))


@pytest.mark.parametrize('name', [name for name in SEARCHES if name not in RANDOM])
def test_search_config_takes_a_step_of_each_phase(name: str) -> None:
    cfg = read(name)
    # accumulation would only put the update off
    for phase in ('weights', 'arch'):
        cfg.optim_wrapper[phase].pop('accumulative_counts', None)
    with built(cfg) as (model, images):
        supernet = model.backbone
        assert isinstance(supernet, SuperNet)
        build = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
        wrapper = SearchOptimWrapperConstructor(build)(model)
        alphas = {f'backbone.stages.{place}.alpha' for place in supernet.mixed_layers()}
        for phase in ('weights', 'arch'):
            before = values(model)
            wrapper.start(phase, iteration=0)
            assert_losses(model.train_step(images, wrapper))
            if phase == 'arch':
                assert moved(model, before) == alphas
            else:
                assert not moved(model, before) & alphas
                assert parts(moved(model, before)) == PARTS[cfg.default_scope]


@pytest.mark.parametrize('name', SEARCHES)
def test_what_a_search_derives_takes_a_step(name: str) -> None:
    cfg = read(name)
    space = SearchSpace.parse(cfg.model.backbone.space)
    derived = derived_config(cfg, space.arch(tuple((0,) * len(stage.layers) for stage in space.stages)))
    derived.optim_wrapper.pop('accumulative_counts', None)
    one_step(derived)


@pytest.mark.parametrize('name', RANDOM)
def test_trial_of_a_random_search_takes_a_step(name: str) -> None:
    plan = TrialPlan.of(read(name))
    arch, _ = plan.drawn[0]
    one_step(plan.trial_config(arch))
