"""For MMPretrain: the head that drops features, and the recipe that DNA's networks are trained with from scratch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmnas_ext import install_check
from mmnas_ext.remap.convert import convert
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.run import run
from tests.small import read, small

RETRAIN = 'dna_a_imagenet.py'
HEAD = dict(num_classes=3, in_channels=2000)


@pytest.fixture(autouse=True)
def mmpretrain_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def heads(**options: Any) -> list[nn.Module]:
    """Ours and MMPretrain's, with the same weights."""
    ours, theirs = (
        MODELS.build(dict(type=kind, **HEAD, **given))
        for kind, given in (('mmnas_ext.DropoutClsHead', options), ('LinearClsHead', {}))
    )
    assert list(ours.state_dict()) == ['fc.weight', 'fc.bias']
    ours.load_state_dict(theirs.state_dict())
    return [ours, theirs]


@pytest.fixture
def features() -> Tensor:
    return torch.rand(4, 2000) + 1


def test_nothing_is_dropped_in_eval(features: Tensor) -> None:
    ours, theirs = heads(dropout_ratio=0.5)
    assert torch.equal(ours.eval()((features,)), theirs.eval()((features,)))
    assert torch.equal(ours.train()((features,)), theirs((features,))) is False


@pytest.mark.parametrize('ratio', [0.2, 0.5])
def test_a_share_of_the_features_is_dropped_in_training(ratio: float, features: Tensor) -> None:
    ours, _ = heads(dropout_ratio=ratio)
    dropped = ours.train().pre_logits((features * 0, features))
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(1 - ratio, abs=0.03)
    torch.testing.assert_close(dropped[kept], features[kept] / (1 - ratio))


def test_default_is_the_recipes() -> None:
    assert MODELS.build(dict(type='mmnas_ext.DropoutClsHead', **HEAD)).dropout.p == 0.2


@pytest.mark.parametrize('ratio', [-0.1, 1.0, 20])
def test_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(ValueError, match=rf'dropout_ratio must be in \[0, 1\), got {ratio}'):
        MODELS.build(dict(type='mmnas_ext.DropoutClsHead', dropout_ratio=ratio, **HEAD))


def test_without_mmpretrain_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = install_check.find_installed()
    left = {line: {k: v for k, v in modules.items() if k != 'mmpretrain'} for line, modules in found.items()}
    monkeypatch.setattr(install_check, 'find_installed', lambda: left)
    monkeypatch.setattr(install_check, 'find_spec', lambda name: None if name == 'mmpretrain' else object())
    with pytest.raises(
        ImportError, match=r'mmnas_ext needs mmpretrain, not installed here(.|\n)*pip install .*pretrain'
    ):
        MODELS.build(dict(type='mmnas_ext.DropoutClsHead', **HEAD))


def test_the_recipe_is_the_papers() -> None:
    cfg = read(RETRAIN)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (
        500,
        128,
        1024,
    )
    assert cfg.optim_wrapper.optimizer.eps == 0.001 and cfg.optim_wrapper.optimizer.type == 'mmnas_ext.RMSpropTF'
    net = MODELS.build(small(cfg).model)
    layers = [layer for stage in net.backbone.layers() for layer in stage]
    assert layers[-2].drop_path.drop_prob == pytest.approx(0.2 * 20 / 22)
    assert len(layers) == 22 and net.head.dropout.p == 0.2
    assert net.head.loss_module.label_smooth_val == 0.1


@pytest.mark.parametrize('name', ['dna_a_imagenet.py', 'dna_a_cifar10.py', 'dna_a_cifar100.py'])
def test_pipelines_give_images_of_224_pixels(name: str, tmp_path: Path) -> None:
    from mmcv.transforms import Compose
    from mmpretrain.registry import TRANSFORMS

    cfg = read(name)
    side = 300 if 'imagenet' in name else 32
    pixels = np.random.randint(256, size=(side, side + 10 * (side > 32), 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), pixels)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        pipeline = Compose([TRANSFORMS.build(step) for step in loader.dataset.pipeline])
        done = pipeline(dict(img=pixels, img_path=str(tmp_path / 'a.png'), gt_label=1))
        assert done['inputs'].shape == (3, 224, 224)
        assert done['data_samples'].gt_label.item() == 1


def images(root: Path) -> None:
    """ImageNet's layout, two classes of three images."""
    for split in ('train', 'val'):
        for label in ('n01', 'n02'):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = np.random.randint(256, size=(48, 64, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / f'{number}.JPEG'), pixels)


def test_a_network_is_retrained_and_converted(tmp_path: Path) -> None:
    """The whole way through MMEngine's runner: average, validation, checkpoint, plain file."""
    images(tmp_path / 'imagenet')
    cfg = read(RETRAIN)
    cfg.work_dir = str(tmp_path / 'run')
    cfg.model.head.num_classes = 2
    cfg.model.head.topk = (1,)
    cfg.model.backbone.init_cfg = None
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.update(batch_size=3, num_workers=0)
        loader.dataset.update(data_root=str(tmp_path / 'imagenet'), metainfo=dict(classes=['a', 'b']))
        for step in loader.dataset.pipeline:
            step.update({key: 32 for key in ('scale', 'crop_size') if key in step})
    cfg.val_evaluator.topk = cfg.test_evaluator.topk = (1,)
    cfg.vis_backends = cfg.visualizer.vis_backends = []
    check_config(cfg)
    run(cfg)
    saved = torch.load(tmp_path / 'run' / 'epoch_2.pth', weights_only=False)
    # what it says it trained with: 3 images instead of 1024
    assert saved['optimizer']['param_groups'][0]['initial_lr'] == pytest.approx(0.064 * 3 / 1024)
    average = convert(tmp_path / 'run' / 'epoch_2.pth', tmp_path / 'a.pth', 'dna_a', classifier=True)
    raw = convert(tmp_path / 'run' / 'epoch_2.pth', tmp_path / 'b.pth', 'dna_a', classifier=True, ema=False)
    assert (average.container, raw.container) == ('state_dict', 'ema_state_dict')
    states = [torch.load(done.path, weights_only=True) for done in (average, raw)]
    for key in ('head.fc.weight', 'backbone.stem.conv.weight', 'backbone.stem.bn.running_mean'):
        assert torch.equal(states[0][key], saved['state_dict'][key]), key
        assert not torch.equal(states[0][key], states[1][key]), key


@pytest.mark.parametrize('prefix', [dict(img_path='train'), 'train'])
def test_data_that_are_not_there_are_named(prefix: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = read(RETRAIN)
    assert cfg.train_dataloader.dataset.data_prefix == dict(img_path='train')
    cfg.train_dataloader.dataset.data_prefix = prefix
    with pytest.raises(
        FileNotFoundError, match=r'train_dataloader\.dataset wants data/imagenet/train, which does not exist'
    ):
        check_config(cfg)
