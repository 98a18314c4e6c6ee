"""The main job as a user runs it: the demo's command, then MMEngine's own files read back."""

import json
import re
import subprocess
import sys
from pathlib import Path

from mmnas_ext.archs import ArchSpec, zoo

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    'train_dataloader.dataset.indices=16',
    'train_dataloader.batch_size=2',
    'train_cfg.max_epochs=2',
    'train_cfg.arch_start=1',
    'val_dataloader.dataset.indices=4',
    'derived.train_cfg.max_epochs=1',
    'derived.train_cfg.val_interval=1',
    'derived.train_dataloader.batch_size=4',
]


def test_the_demo_searches_adapts_compares_and_draws(tmp_path):
    command = [sys.executable, 'tools/demo.py', '--work-dir', str(tmp_path), '--cfg-options', *SMALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    table = [line for line in done.stdout.splitlines() if line.startswith('|')]
    assert len(table) == 4  # heading, rule, seed, found
    assert re.search(r'seed \(EfficientNet-Lite0\) *\|', table[2])
    arch = ArchSpec.parse(tmp_path / 'derived' / 'arch.json')
    assert arch.replace(bn_eps=1e-3) in zoo.space('efficientnet_lite0_det')
    config = (tmp_path / 'derived' / 'config.py').read_text()
    assert 'SuperNet' not in config
    assert 'Search' not in config
    assert [p.name for p in sorted((tmp_path / 'derived' / 'snapshots').iterdir())] == ['epoch_1.json', 'epoch_2.json']
    lines = [json.loads(line) for line in (tmp_path / 'search_log.jsonl').read_text().splitlines()]
    assert [line['iter'] for line in lines] == [2, 4, 6, 8]
    for picture in ('network.png', 'alphas.png'):
        assert (tmp_path / picture).read_bytes().startswith(b'\x89PNG')
    assert (tmp_path / 'report.html').stat().st_size > 50_000
    assert (tmp_path / 'adapt' / 'epoch_1.pth').is_file()
    searched, adapted = (list(folder.glob('2*/vis_data/scalars.json')) for folder in (tmp_path, tmp_path / 'adapt'))
    assert 'arch_loss' in searched[0].read_text()
    assert 'arch_loss' not in adapted[0].read_text()
    assert 'loss_bbox' in adapted[0].read_text()
