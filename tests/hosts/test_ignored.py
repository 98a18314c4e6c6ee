"""Pixels labelled 255 count nowhere: in no loss or gradient, not as padding, after no transform, not in the metric."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, METRICS, MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmnas_ext.engine.optim import SearchOptimWrapper, SearchOptimWrapperConstructor
from tests.engine import tiny
from tests.engine.tiny_seg import CLASSES, MEAN, STD, model_cfg
from tests.small import CROP, read, small

COST_WEIGHT = 0.1


@pytest.fixture(autouse=True)
def mmseg_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def images(labelled: bool = True) -> dict[str, Any]:
    """Two images, one of which the preprocessor pads; part of either has no label."""
    draw = torch.Generator().manual_seed(5)
    inputs, samples = [], []
    for height, width in (tiny.SIZE, (tiny.SIZE[0] - 3, tiny.SIZE[1] - 5)):
        labels = torch.randint(len(CLASSES), (1, height, width), generator=draw)
        labels[:, :5] = 255
        labels[torch.rand(labels.shape, generator=draw) < 0.2] = 255
        inputs.append(torch.randint(256, (3, height, width), dtype=torch.uint8, generator=draw))
        data = labels if labelled else torch.full_like(labels, 255)
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=data)))
    return {'inputs': inputs, 'data_samples': samples}


def build() -> tuple[nn.Module, SearchOptimWrapper]:
    """A segmentor around the tiny super-network, and plain gradient descent at rate 1: steps are gradients."""
    torch.manual_seed(1)
    model = MODELS.build(model_cfg(tiny.supernet_cfg())).train()
    for number, alpha in enumerate(model.backbone.arch_parameters()):
        alpha.data = torch.linspace(-1, 1 + number, len(alpha))
    optimizer = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 1.0}}
    cfg = {'weights': optimizer, 'arch': optimizer, 'cost': {'weight': COST_WEIGHT}}
    return model, SearchOptimWrapperConstructor(cfg)(model)


def step(model: nn.Module, wrapper: SearchOptimWrapper, phase: str, **kind: Any) -> tuple[dict[str, Tensor], Any]:
    """One step; its losses, and by how much each parameter went down."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapper.start(phase, iteration=3)
    losses = model.train_step(images(**kind), wrapper)
    return losses, {name: before[name] - p.detach() for name, p in model.named_parameters()}


def task_loss_by_hand(model: nn.Module) -> Tensor:
    """Mean of -log p over the labelled pixels, taken from the logits one by one."""
    height, width = tiny.SIZE
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    padded, places = [], []
    data = images()
    for n, (image, sample) in enumerate(zip(data['inputs'], data['data_samples'], strict=True)):
        rgb = (image[[2, 1, 0]].float() - mean) / std
        padded.append(F.pad(rgb, (0, width - image.shape[2], 0, height - image.shape[1])))
        labels = sample.gt_sem_seg.data[0]
        places += [(n, y, x, int(labels[y, x])) for y, x in (labels != 255).nonzero().tolist()]
    assert 100 < len(places) < 300 and {place[3] for place in places} == {0, 1, 2}
    logits = F.interpolate(model(torch.stack(padded)), tiny.SIZE, mode='bilinear', align_corners=True)
    losses = [logits[n, :, y, x].logsumexp(0) - logits[n, label, y, x] for n, y, x, label in places]
    return torch.stack(losses).mean()


def cost_loss_by_hand(model: nn.Module) -> Tensor:
    layers = model.backbone.mixed_layers()
    expected = sum(layer.alpha.softmax(0) @ torch.tensor(tiny.MACS[place]).float() for place, layer in layers.items())
    return COST_WEIGHT * torch.log10(expected / 1e9)


@pytest.mark.parametrize('phase', ['weights', 'arch'])
def test_losses_and_gradients_are_those_of_labelled_pixels_alone(phase: str) -> None:
    model, wrapper = build()
    twin = copy.deepcopy(model)
    losses, moved = step(model, wrapper, phase)
    if phase == 'weights':
        for layer, stepped in zip(
            twin.backbone.mixed_layers().values(), model.backbone.mixed_layers().values(), strict=True
        ):
            layer.choice = stepped.choice
    task = task_loss_by_hand(twin)
    trained = [name for name, _ in twin.named_parameters() if name.endswith('alpha') == (phase == 'arch')]
    parameters = dict(twin.named_parameters())
    total = task + cost_loss_by_hand(twin) if phase == 'arch' else task
    gradients = torch.autograd.grad(total, [parameters[name] for name in trained], allow_unused=True)
    assert losses['decode.loss_ce'].item() == pytest.approx(task.item(), rel=1e-5)
    assert sum(gradient is not None and gradient.any().item() for gradient in gradients) >= 3
    for name, gradient in zip(trained, gradients, strict=True):
        wanted = torch.zeros_like(parameters[name]) if gradient is None else gradient
        torch.testing.assert_close(moved[name], wanted, rtol=1e-3, atol=2e-6)
    assert not any(moved[name].any() for name in moved if name not in trained)


def test_images_without_any_label_move_no_weight_and_alpha_by_its_cost_alone() -> None:
    model, wrapper = build()
    losses, moved = step(model, wrapper, 'weights', labelled=False)
    assert losses['loss'] == 0 and not any(change.any() for change in moved.values())
    twin = copy.deepcopy(model)
    expected = torch.autograd.grad(cost_loss_by_hand(twin), twin.backbone.arch_parameters())
    _, moved = step(model, wrapper, 'arch', labelled=False)
    for place, gradient in zip(model.backbone.mixed_layers(), expected, strict=True):
        torch.testing.assert_close(moved[f'backbone.stages.{place}.alpha'], gradient, rtol=1e-4, atol=1e-7)
        assert gradient.any()


@pytest.mark.parametrize('name', ['deeplabv3_fna_cityscapes.py', 'fna_deeplabv3_lite0_480.py'])
def test_padding_is_ignored(name: str) -> None:
    preprocessor = MODELS.build(small(read(name)).model.data_preprocessor)
    labels = torch.zeros(1, 40, 50, dtype=torch.int64)
    data = {
        'inputs': [torch.full((3, 40, 50), 200, dtype=torch.uint8)],
        'data_samples': [SegDataSample(gt_sem_seg=PixelData(data=labels))],
    }
    padded = preprocessor(data, training=True)
    expected = torch.full((1, *CROP), 255)
    expected[:, :40, :50] = 0
    assert torch.equal(padded['data_samples'][0].gt_sem_seg.data, expected)
    image = padded['inputs'][0]
    assert image.shape == (3, *CROP) and not image[:, 40:].any() and not image[:, :, 50:].any()
    assert image[:, :40, :50].all()


STRIPES = 20  # a stripe for each train id of Cityscapes, and one without
# the eleven classes of the small configuration: train ids of road, sidewalk, building, fence, pole, traffic sign,
# vegetation, sky, person, rider, car
ELEVEN = (0, 1, 2, 4, 5, 7, 8, 10, 11, 12, 13)


def write_scene(root: Path, height: int, width: int) -> None:
    """Vertical stripes, each of a grey of its own; the last has the label 255."""
    stripe = np.repeat(np.arange(STRIPES, dtype=np.uint8), -(-width // STRIPES))[:width][None].repeat(height, 0)
    for folder, suffix, content in (
        ('leftImg8bit', '_leftImg8bit.png', np.stack([10 + 12 * stripe] * 3, axis=2)),
        ('gtFine', '_gtFine_labelTrainIds.png', np.where(stripe == STRIPES - 1, 255, stripe).astype(np.uint8)),
    ):
        path = root / folder / 'train' / 'town' / f'scene{suffix}'
        path.parent.mkdir(parents=True)
        assert cv2.imwrite(str(path), content)


@pytest.mark.parametrize(
    ('name', 'size', 'kept'),
    [
        ('fna_deeplabv3_lite0_480.py', (360, 480), ELEVEN),
        ('deeplabv3_fna_cityscapes.py', (1024, 2048), tuple(range(19))),
    ],
)
def test_transforms_keep_labels_whole_and_in_place(
    name: str, size: tuple[int, int], kept: tuple[int, ...], tmp_path: Path
) -> None:
    write_scene(tmp_path, *size)
    cfg = read(name).train_dataloader.dataset
    cfg.data_root = str(tmp_path)
    dataset = DATASETS.build(cfg)
    label_of = torch.full((STRIPES,), 255)
    label_of[list(kept)] = torch.arange(len(kept))
    seen = set()
    for draw in (0, 2, 15):  # crops of 769 pixels see the last stripe in the third
        np.random.seed(draw)
        item = dataset[0]
        image, labels = item['inputs'][0].float(), item['data_samples'].gt_sem_seg.data[0]
        assert set(labels.unique().tolist()) <= {*range(len(kept)), 255}
        # two pixels inside of a stripe, where resizing mixes no greys
        lowest, highest = (sign * F.max_pool2d(sign * image[None], 5, 1, 2)[0] for sign in (-1, 1))
        inside = lowest == highest
        assert inside.float().mean() > 0.5
        stripes = ((image - 10) / 12).long()
        assert torch.equal(labels[inside], label_of[stripes[inside]])
        seen |= set(labels[inside].tolist())
    assert 255 in seen and len(seen) > 5


@pytest.mark.parametrize('at_ignored', [0, 1, 2])
def test_the_metric_leaves_ignored_pixels_out(at_ignored: int) -> None:
    metric = METRICS.build(read('deeplabv3_fna_cityscapes.py').val_evaluator)
    metric.dataset_meta = {'classes': CLASSES}
    label = torch.tensor([[0, 0, 1, 1, 2, 255, 255]])
    prediction = torch.tensor([[0, 1, 1, 1, 2, at_ignored, at_ignored]])
    metric.process({}, [{'pred_sem_seg': {'data': prediction}, 'gt_sem_seg': {'data': label}}])
    found = metric.evaluate(size=1)
    # intersections 1, 2, 1 of unions 2, 3, 1; of 2, 2, 1 pixels
    expected = {'mIoU': (1 / 2 + 2 / 3 + 1) / 3, 'mAcc': (1 / 2 + 1 + 1) / 3, 'aAcc': 4 / 5}
    assert {key: found[key] for key in expected} == {k: pytest.approx(100 * v, abs=0.01) for k, v in expected.items()}
