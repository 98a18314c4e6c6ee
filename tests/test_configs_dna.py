"""Every distillation config of ours builds and takes a step on the CPU, and so does what it derives."""

from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import Tensor

from mmnas_ext.archs import CellSpace, cost, zoo
from mmnas_ext.distill import BlockDistiller
from mmnas_ext.engine.block_optim import BlockOptimWrapperConstructor
from mmnas_ext.registry import MODELS
from mmnas_ext.runs.derived import distilled_config
from mmnas_ext.runs.training import is_distillation
from tests.small import CONFIGS, CROP, read
from tests.test_configs import one_step

DISTILLATIONS = [name for name in CONFIGS if is_distillation(read(name))]


def small(cfg: Config) -> dict[str, Any]:
    """The override: no download. All else is the config's."""
    model = dict(cfg.model)
    teacher = dict(model['teacher'])
    if 'timm' in teacher:
        teacher['pretrained'] = False
    return {**model, 'teacher': teacher}


def values(model: BlockDistiller) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_there_are_distillation_configs() -> None:
    assert {'dna_imagenet.py', 'dna_coco.py', 'dna_lite0_128.py', 'demo_dna.py'} <= set(DISTILLATIONS)


@pytest.mark.parametrize('name', DISTILLATIONS)
def test_a_distillation_takes_a_step(name: str) -> None:
    cfg = read(name)
    model = MODELS.build(small(cfg))
    model.init_weights()
    model.train()
    build = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
    wrapper = BlockOptimWrapperConstructor(build)(model)
    images = {'inputs': [torch.randint(256, (3, *CROP), dtype=torch.uint8) for _ in range(2)]}
    model.calibrate([model.data_preprocessor(images, False)['inputs']])
    before, taught = values(model), [p.clone() for p in model.teacher.parameters()]
    model.start(0, 0)
    losses = model.train_step(images, optim_wrapper=wrapper)
    assert set(losses) == {'loss', *(f'loss_block{k}' for k in range(len(model.blocks)))}
    assert all(torch.isfinite(value) and value > 0 for value in losses.values())
    moved = {name.split('.')[1] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {str(k) for k in range(len(model.blocks))}
    assert all(torch.equal(p, kept) for p, kept in zip(model.teacher.parameters(), taught, strict=True))


@pytest.mark.parametrize('name', [name for name in DISTILLATIONS if read(name).get('derived')])
def test_what_a_distillation_derives_takes_a_step(name: str) -> None:
    cfg = read(name)
    space = CellSpace.parse(cfg.model.space)
    cells = [len(stage.cells) - 1 for stage in space.stages]
    path = tuple((0,) * len(stage.layers) for stage in space.space(cells).stages)
    derived = distilled_config(cfg, space.arch(cells, path))
    derived.optim_wrapper.pop('accumulative_counts', None)
    one_step(derived)


def test_limits_and_sizes_are_those_of_the_networks_they_name() -> None:
    # the limits in the configs' comments, counted anew
    assert read('dna_lite0_128.py').val_cfg.limits.macs == cost(zoo.arch('efficientnet_lite0'), (128, 128)).macs
    dna_a = cost(zoo.arch('dna_a'), (224, 224)).macs
    assert abs(read('dna_imagenet.py').val_cfg.limits.macs - dna_a) < 1e6
    demo = read('demo_dna.py').val_cfg.limits.macs / cost(zoo.arch('efficientnet_lite0'), (128, 128)).macs
    assert demo == pytest.approx(0.8, abs=0.01)
