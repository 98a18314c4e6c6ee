"""The main job as a user runs it: the demo's command, then MMEngine's own files read back."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, zoo
from mmnas_ext.datasets import shapes
from mmnas_ext.runs.resolve import resolve
from tests.demos import FEW_MEASUREMENTS, run_demo

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Case:
    """A task's demo made small, and what it must leave behind."""

    options: tuple[str, ...]
    snapshots: tuple[str, ...]
    logged: tuple[int, ...]
    checkpoint: str
    loss: str
    seed_row: str
    images: tuple[str, ...]


CASES = {
    'det': Case(
        options=(
            'train_dataloader.dataset.indices=16',
            'train_dataloader.batch_size=2',
            'train_cfg.max_epochs=2',
            'train_cfg.arch_start=1',
            'val_dataloader.dataset.indices=4',
            *FEW_MEASUREMENTS,
            'derived.train_cfg.max_epochs=1',
            'derived.train_cfg.val_interval=1',
            'derived.train_dataloader.batch_size=4',
        ),
        snapshots=('epoch_1.json', 'epoch_2.json'),
        logged=(2, 4, 6, 8),
        checkpoint='epoch_1.pth',
        loss='loss_bbox',
        seed_row=r'207\.0 M \| *2\.959 M',
        images=('network.png', 'alphas.png'),
    ),
    'seg': Case(
        options=(
            'train_dataloader.batch_size=2',
            'train_dataloader.dataset.pipeline.2.crop_size=(64,64)',
            'model.data_preprocessor.size=(64,64)',
            'default_hooks.logger.interval=2',
            'train_cfg.max_iters=4',
            'train_cfg.arch_start=2',
            'val_dataloader.dataset.indices=4',
            'custom_hooks.0.interval=2',
            'derived.train_cfg.max_iters=2',
            'derived.train_cfg.val_interval=2',
            'derived.default_hooks.checkpoint.interval=2',
        ),
        snapshots=('iter_2.json', 'iter_4.json'),
        logged=(2, 4),
        checkpoint='iter_2.pth',
        loss='decode.loss_ce',
        # multiply-adds of the network's convolutions as they run at output stride 16
        seed_row=r'667\.4 M \| *2\.959 M',
        images=('network.png', 'alphas.png', 'predictions.png'),
    ),
}


@pytest.mark.parametrize('task', CASES)
def test_the_demo_searches_adapts_compares_and_draws(tmp_path, monkeypatch, capsys, task):
    case = CASES[task]
    run_demo(monkeypatch, '--task', task, '--work-dir', str(tmp_path), '--cfg-options', *case.options)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith('| network '))
    table = [line for line in lines[start:] if line.startswith('|')]
    assert len(table) == 4  # heading, rule, seed, found
    assert re.search(rf'seed \(EfficientNet-Lite0\) *\| *{case.seed_row} ', table[2])
    arch = ArchSpec.parse(tmp_path / 'derived' / 'arch.json')
    assert arch.replace(bn_eps=1e-3) in zoo.space('efficientnet_lite0_det')
    config = (tmp_path / 'derived' / 'config.py').read_text()
    assert 'SuperNet' not in config
    assert 'Search' not in config
    snapshots = sorted(path.name for path in (tmp_path / 'derived' / 'snapshots').iterdir())
    assert snapshots == list(case.snapshots)
    lines = [json.loads(line) for line in (tmp_path / 'search_log.jsonl').read_text().splitlines()]
    assert [line['iter'] for line in lines] == list(case.logged)
    for image in case.images:
        assert (tmp_path / image).read_bytes().startswith(b'\x89PNG')
        assert str(tmp_path / image) in printed
    assert 'ground truth' in (tmp_path / 'report.html').read_text()
    assert (tmp_path / 'adapt' / case.checkpoint).is_file()
    searched, adapted = (list(folder.glob('2*/vis_data/scalars.json')) for folder in (tmp_path, tmp_path / 'adapt'))
    assert 'arch_loss' in searched[0].read_text()
    assert 'arch_loss' not in adapted[0].read_text()
    assert case.loss in adapted[0].read_text()


@pytest.mark.parametrize(
    ('name', 'metainfo'),
    [
        ('demo_fna_retinanet.py', {'classes': shapes.DETECTION_CLASSES}),
        ('demo_fna_deeplabv3.py', shapes.SEGMENTATION_METAINFO),
    ],
)
def test_the_configs_name_the_generated_classes(name, metainfo):
    cfg = resolve(Config.fromfile(ROOT / 'configs' / name))
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        written = cfg[loader].dataset.metainfo
        assert {key: [*map(tuple, value)] if key == 'palette' else value for key, value in written.items()} == {
            key: list(value) if key == 'palette' else value for key, value in metainfo.items()
        }
