"""DNA's demo as a user runs it, made small: distil, rate, choose, train, compare, draw."""

import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, CellSpace, cost
from tests.demos import run_demo

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = (
    'train_dataloader.batch_size=4',
    'train_cfg.max_iters=4',
    'val_dataloader.dataset.indices=4',
    'default_hooks.logger.interval=2',
    'derived.train_cfg.max_iters=2',
    'derived.train_cfg.val_interval=2',
    'derived.val_dataloader.dataset.indices=4',
    'derived.default_hooks.checkpoint.interval=2',
)
IMAGES = ('ratings.png', 'front.png', 'features.png', 'network.png')


def test_the_demo_distils_rates_chooses_trains_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_demo(monkeypatch, '--task', 'dna', '--work-dir', str(tmp_path), '--cfg-options', *OPTIONS)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith('| network '))
    table = [line for line in lines[start:] if line.startswith('|')]
    assert len(table) == 4  # heading, rule, seed, found
    assert re.search(r'seed \(EfficientNet-Lite0\) *\| *667\.4 M \| *2\.959 M ', table[2])
    assert table[3].startswith('| found by DNA')
    arch = ArchSpec.parse(tmp_path / 'derived' / 'arch.json')
    cfg = Config.fromfile(ROOT / 'configs' / 'demo_dna.py')
    space = CellSpace.parse(cfg.model.space)
    assert cost(arch, tuple(cfg.model.input_size)).macs <= cfg.val_cfg.limits.macs
    depths = [{len(cell.layers) for cell in stage.cells} for stage in space.stages]
    assert all(len(stage.layers) in allowed for stage, allowed in zip(arch.stages, depths, strict=True))
    ratings = json.loads((tmp_path / 'ratings.json').read_text())
    rated = [sum(len(cell['paths']) for cell in block['cells']) for block in ratings['blocks']]
    # four candidates: 4 + 16 paths of one or two layers, 16 + 64 of two or three, 4 of one
    assert rated == [20, 20, 80, 80, 80, 4]
    written = Config.fromfile(tmp_path / 'derived' / 'config.py')
    assert written.model.backbone.type == 'mmnas_ext.MBNet'
    assert written.model.backbone.init_cfg.seed.checkpoint.startswith('package://')
    for image in IMAGES:
        assert (tmp_path / 'report' / image).read_bytes().startswith(b'\x89PNG')
        assert str(tmp_path / 'report' / image) in printed
    assert (tmp_path / 'report.html').stat().st_size > 50_000
    assert (tmp_path / 'adapt' / 'iter_2.pth').is_file()
    assert (tmp_path / 'seed' / 'adapt' / 'iter_2.pth').is_file()
    assert (tmp_path / 'predictions.png').is_file()
    assert (tmp_path / 'derived' / 'dna_found.py').is_file()
