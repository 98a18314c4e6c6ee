"""What the recipes of FNA's papers do, in values: losses, learning rates, decay, augmentation."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, TRANSFORMS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.engine.optim import SearchOptimWrapperConstructor
from tests.fidelity.render import halves
from tests.small import CONFIGS, read, small

RETINANETS = [name for name in CONFIGS if 'retinanet' in name]
DEEPLABS = ['deeplabv3_fna_cityscapes.py', 'deeplabv3plus_fna_cityscapes.py']


def test_both_kinds_are_there() -> None:
    assert {'fna_retinanet_coco.py', 'fna_retinanet_coco_1gpu.py', 'retinanet_mbv2_coco.py'} <= set(RETINANETS)


@pytest.fixture
def mmseg_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.mark.parametrize('name', RETINANETS)
def test_box_loss_is_smooth_l1_with_beta_0_11(name: str) -> None:
    """0.5 d^2 / 0.11 for d < 0.11, else d - 0.055."""
    expected = ((0.0025 + 0.01) / 0.22 + 0.2 - 0.055 + 0.5 - 0.055) / 2
    found = [box_loss(half.model.bbox_head) for half in halves(name).values()]
    searches = name.startswith(('fna', 'demo', 'random', 'evolution'))
    assert found == pytest.approx([expected] * (2 if searches else 1), rel=1e-5)


def box_loss(cfg: dict[str, Any]) -> float:
    """Of one box that is off by 0.05, 0.1, 0.2 and 0.5, divided by 2."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = MODELS.build(dict(cfg, in_channels=4, feat_channels=4, stacked_convs=1, num_classes=2))
    anchors = 9
    boxes = torch.zeros(1, 4 * anchors, 1, 1)
    boxes[0, :4, 0, 0] = torch.tensor([0.05, -0.1, 0.2, -0.5])
    counted = torch.zeros(anchors, 4)
    counted[0] = 1
    _, loss = head.loss_by_feat_single(
        torch.zeros(1, 2 * anchors, 1, 1), boxes, torch.zeros(anchors, 4), torch.full((anchors,), 2),
        torch.ones(anchors), torch.zeros(anchors, 4), counted, avg_factor=2,
    )  # fmt: skip
    return float(loss)


def groups(model: nn.Module, optimizer: Any) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by the parameter's name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (g['lr'], g['weight_decay']) for g in optimizer.param_groups for p in g['params']}


def assert_paramwise(model: nn.Module, found: dict[str, tuple[float, float]]) -> None:
    """The head learns at 0.1, the rest at 0.01; norms do not decay, all else by 5e-4."""
    norms = {
        f'{name}.{p}' for name, m in model.named_modules() if isinstance(m, _BatchNorm) for p in ('weight', 'bias')
    }
    assert len(norms & set(found)) > 10
    assert found == {
        name: (0.1 if name.startswith('decode_head.') else 0.01, 0.0 if name in norms else 5e-4) for name in found
    }


@pytest.mark.parametrize('name', DEEPLABS)
def test_deeplab_heads_learn_ten_times_as_fast_and_norms_do_not_decay(name: str, mmseg_scope: None) -> None:
    cfg = small(read(name))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    found = groups(model, build_optim_wrapper(model, cfg.optim_wrapper).optimizer)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert_paramwise(model, found)


def test_so_do_the_weights_of_a_deeplab_search(mmseg_scope: None) -> None:
    cfg = small(read('fna_deeplabv3plus_cityscapes.py'))
    model = MODELS.build(cfg.model)
    build = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
    wrapper = SearchOptimWrapperConstructor(build)(model)
    found = groups(model, wrapper.wrappers['weights'].optimizer)
    alphas = {name for name, _ in model.named_parameters() if name.endswith('.alpha')}
    assert set(found) == {name for name, _ in model.named_parameters()} - alphas
    assert_paramwise(model, found)
    assert set(groups(model, wrapper.wrappers['arch'].optimizer).values()) == {(3e-3, 1e-3)}


@pytest.mark.parametrize('half', ['', 'derived.'])
def test_few_road_scenes_keep_the_recipe_that_was_measured_on_them(half: str) -> None:
    wrapper = halves('fna_deeplabv3_lite0_480.py')[half].optim_wrapper
    weights = wrapper if half else wrapper.weights
    assert weights.optimizer == dict(type='AdamW', lr=2e-3, weight_decay=1e-2)
    assert weights.paramwise_cfg is None


def rates(cfg: Config, iterations: int, base: float) -> list[float]:
    """The learning rate of each iteration of a config whose schedulers count iterations."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    schedulers = [PARAM_SCHEDULERS.build(dict(step, optimizer=optimizer)) for step in cfg.param_scheduler]
    found = []
    for _ in range(iterations):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


@pytest.mark.parametrize(
    ('name', 'half'), [('deeplabv3_fna_cityscapes.py', ''), ('fna_deeplabv3_cityscapes.py', 'derived.')]
)
@pytest.mark.parametrize('base', [1e-2, 1e-1])
def test_deeplab_warms_up_from_a_hundredth_and_then_decays(name: str, half: str, base: float) -> None:
    found = rates(halves(name)[half], 6002, base)
    assert found[0] == pytest.approx(base / 100)
    assert found[2500] == pytest.approx(base * (0.01 + 0.99 * 2500 / 4999))
    assert found[4999] == found[5000] == pytest.approx(base)
    # power 0.9 over the 95000 iterations that are left, of which the last ends at 0
    for done in (1, 1000):
        assert found[5000 + done] == pytest.approx(base * (1 - done / 94999) ** 0.9)


def step_of(name: str, kind: str) -> Any:
    """A transform of a config's training pipeline."""
    (step,) = (step for step in read(name).train_dataloader.dataset.pipeline if step.type == kind)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return TRANSFORMS.build(step)


def test_deeplab_crops_come_at_six_scales() -> None:
    resize = step_of('deeplabv3_fna_cityscapes.py', 'RandomChoiceResize')
    np.random.seed(0)
    seen = {
        resize(dict(img=np.zeros((2, 4), np.uint8), gt_seg_map=np.zeros((2, 4), np.uint8), seg_fields=[]))['img'].shape
        for _ in range(40)
    }
    assert seen == {(int(1024 * s), int(2048 * s)) for s in (0.75, 1, 1.25, 1.5, 1.75, 2)}


def test_a_crop_of_one_class_is_taken() -> None:
    crop = step_of('deeplabv3_fna_cityscapes.py', 'RandomCrop')
    image = np.arange(900 * 1000).reshape(900, 1000)
    np.random.seed(1)
    first = np.random.randint(0, 900 - 769 + 1), np.random.randint(0, 1000 - 769 + 1)
    np.random.seed(1)
    found = crop(dict(img=image, gt_seg_map=np.zeros((900, 1000), np.uint8), seg_fields=['gt_seg_map']))['img']
    assert found.shape == (769, 769)
    assert divmod(int(found[0, 0]), 1000) == first


@pytest.mark.parametrize('name', ['fna_retinanet_coco.py', 'fna_deeplabv3_cityscapes.py'])
def test_the_super_networks_stem_has_the_seeds_activation(name: str) -> None:
    """ReLU6, where the authors' search network has ReLU: values above 6 are what tells them apart."""
    backbone = dict(read(name).model.backbone, init_cfg=None)
    seed = dict(type='mmnas_ext.MobileNetV2MB', out_indices=backbone['out_indices'])
    nets = [MODELS.build(cfg).eval() for cfg in (backbone, seed)]
    nets[0].stem.load_state_dict(nets[1].stem.state_dict())
    with torch.no_grad():
        ours, seeds = (net.stem(torch.full((1, 3, 8, 8), 60.0)) for net in nets)
    assert torch.equal(ours, seeds) and ours.max() == 6


@pytest.mark.parametrize(
    ('name', 'gathered'), [('fna_retinanet_coco_1gpu.py', 8), ('fna_deeplabv3_cityscapes_1gpu.py', 4)]
)
def test_an_update_on_one_gpu_trains_one_path(name: str, gathered: int) -> None:
    cfg = small(read(name))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        build = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
        wrapper = SearchOptimWrapperConstructor(build)(model)
    paths = []
    for iteration in range(3 * gathered):
        wrapper.start('weights', iteration)
        with wrapper.optim_context(model):
            paths.append(tuple(layer.choice for layer in model.backbone.mixed_layers().values()))
    updates = [set(paths[first : first + gathered]) for first in range(0, len(paths), gathered)]
    assert [len(update) for update in updates] == [1, 1, 1]
    assert len(set(paths)) == 3
