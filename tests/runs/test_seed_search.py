"""The ResNet example searches and adapts 20 iterations from small ResNets: the seed is the one field that differs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmnas_ext.archs import ArchSpec, SearchSpace, cost
from mmnas_ext.archs.from_seed import space_from
from mmnas_ext.backbones import MBNet
from mmnas_ext.remap import load_seed, remap
from mmnas_ext.remap.renaming import rename
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.resolve import resolve
from mmnas_ext.runs.run import run
from mmnas_ext.workdir import WorkDir
from tests.own_data import CONFIGS, COUNTS, make_coco

SIZE = (64, 64)
CLASSES = ('one', 'two')
BASIC = ArchSpec.parse(
    "[[8, 8], ['basic_k3_e1', 'basic_k3_e1'], 1]|[[8, 12], ['basic_k3_e1'], 2]|[[12, 16], ['basic_k3_e1'], 2]"
    "|[[16, 20], ['basic_k3_e1'], 2]|act=relu|stem=conv7_pool"
)
GROUPED = ArchSpec.parse(
    "[[8, 16], ['bottleneck_k3_e0.5_g2'], 1]|[[16, 16], ['bottleneck_k3_e0.5_g2', 'bottleneck_k3_e0.5_g2'], 2]"
    "|[[16, 24], ['bottleneck_k3_e0.5_g2'], 2]|[[24, 32], ['bottleneck_k3_e0.5_g2'], 2]|act=relu|stem=conv7_pool"
)
OPTIONS: dict[str, Any] = {
    'image_size': SIZE, 'train_dataloader.batch_size': 1, 'train_dataloader.num_workers': 0,
    'val_dataloader.batch_size': 1, 'val_dataloader.num_workers': 0, 'test_dataloader.num_workers': 0,
    'train_cfg.max_epochs': 4, 'train_cfg.arch_start': 4, 'derived.train_cfg.max_epochs': 2,
    'derived.train_cfg.val_interval': 2, 'derived.train_dataloader.batch_size': 1,
    'derived.train_dataloader.num_workers': 0, 'log_level': 'WARNING', 'default_hooks.logger.interval': 1,
    'visualizer.vis_backends': [{'type': 'LocalVisBackend'}], 'model.neck.out_channels': 8,
    'model.bbox_head.in_channels': 8, 'model.bbox_head.feat_channels': 8, 'model.bbox_head.stacked_convs': 1,
    'optim_wrapper.selection': dict(type='measured', networks=2, rounds=1, batches=1),
}  # fmt: skip


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, before = tmp_path_factory.mktemp('data') / 'coco', dict(COUNTS)
    COUNTS.update(train=10, val=2)  # more have no shade of their own
    try:
        make_coco(folder, CLASSES)
    finally:
        COUNTS.update(before)
    return dict(type='coco', root=str(folder), classes=CLASSES)


@pytest.fixture(autouse=True)
def scope_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())


def losses(folder: Path) -> list[float]:
    file = next(folder.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row['loss'] for row in rows if 'loss' in row]


@pytest.mark.parametrize('arch', [BASIC, GROUPED], ids=['basic', 'grouped'])
def test_the_example_searches_and_adapts(arch: ArchSpec, data: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(5)
    net = MBNet(arch, out_indices=(3,))
    net.init_weights()
    # as torchvision's file has them
    torch.save(rename(net.state_dict(), arch, 'torchvision'), tmp_path / 'seed.pth')
    cfg = Config.fromfile(CONFIGS / 'examples/fna_retinanet_resnet18_steel.py')
    cfg = resolve(cfg, {**OPTIONS, 'data': data, 'seed': str(tmp_path / 'seed.pth')})
    files = WorkDir(tmp_path / 'w')
    cfg.work_dir, cfg.launcher = str(files.root), 'none'
    run(cfg, prepared=check_config(cfg))

    space = SearchSpace.parse(cfg.model.backbone.space)
    found = ArchSpec.parse(files.arch)
    assert space == space_from(arch, (3, 5))
    assert found.replace(bn_eps=None) in space
    assert cost(found, SIZE).macs <= cost(arch, SIZE).macs  # at most the seed's
    assert [len(losses(files.root)), len(losses(files.adapt))] == [20, 20]
    assert torch.isfinite(torch.tensor(losses(files.root) + losses(files.adapt))).all()

    # what was trained began at the seed's weights, remapped: others are at a distance of some 1.4
    trained = torch.load(next(files.adapt.glob('epoch_2.pth')), weights_only=False)['state_dict']
    start, _ = remap(load_seed(tmp_path / 'seed.pth'), found)
    convs = [key for key in start if key.endswith('conv.weight')]
    assert len(convs) == len([key for key in trained if key.startswith('backbone.') and key.endswith('conv.weight')])
    for key in convs:
        distance = (trained[f'backbone.{key}'] - start[key]).norm() / start[key].norm()
        assert 0 < distance < 1, key
    # and is a seed in turn
    assert load_seed(next(files.adapt.glob('epoch_2.pth')), found).arch == found
