"""Does the super-network rank networks as training them alone does? Kendall's tau, with its interval.

    python benchmarks/camvid_rank.py --work-dir work_dirs/camvid

Takes what ``benchmarks/camvid.py`` has left: the super-network of the row ``fna`` at the end of its search, and the
networks that the row ``random`` drew from the same space, none more expensive than the seed, and some more. Each is
trained alone for a short time and validated on images that it was not trained on. A network's rating is the
super-network's cross entropy along its path, over crops of the half of the images that trained alpha and no weights.
Every batch norm uses the batch's statistics there: the running statistics of stem and head are those of many paths.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmnas_ext.archs import ArchSpec, cost
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine.batches import build_halves
from mmnas_ext.engine.optim import find_supernet, statistics_kept
from mmnas_ext.engine.runner import SafeRunner
from mmnas_ext.reports import format_count
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.manifest import SEARCH, read_manifest
from mmnas_ext.runs.run import prepare
from mmnas_ext.workdir import WorkDir

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/fna_deeplabv3_lite0_480.py'
RANDOM = 'configs/random_deeplabv3_lite0_480.py'
SIZE, OUTPUT_STRIDE = (360, 480), 16


def kendall(x: Sequence[float], y: Sequence[float]) -> float:
    """Computes Kendall's tau-b of two rankings; NaN if one of them is all ties."""
    a, b = (np.sign(np.subtract.outer(np.asarray(v), np.asarray(v))) for v in (x, y))
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())) if a.any() and b.any() else float('nan')


def interval(x: Sequence[float], y: Sequence[float], draws: int = 10_000) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of `kendall`: networks drawn with replacement."""
    rng = np.random.RandomState(0)
    picks = rng.randint(len(x), size=(draws, len(x)))
    low, high = np.nanpercentile([kendall(np.asarray(x)[p], np.asarray(y)[p]) for p in picks], [2.5, 97.5])
    return float(low), float(high)


def rate(model: nn.Module, supernet: SuperNet, arch: ArchSpec, batches: Sequence[Any]) -> float:
    """Computes the super-network's mean cross entropy along a network's path."""
    # the found networks have the seed's batch-norm epsilon, the space has its own
    supernet.set_path(supernet.space.path(arch.replace(bn_eps=supernet.space.bn_eps)))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.eval()
    losses = []
    with torch.no_grad(), statistics_kept(model):
        for batch in batches:
            losses.append(float(model(**model.data_preprocessor(batch, training=True), mode='loss')['decode.loss_ce']))
    return float(np.mean(losses))


def train_alone(folder: Path, seed: int, count: int) -> list[Path]:
    """Continues a copy of the trials of the row ``random`` up to `count`; returns their folders."""
    ours = folder / 'rank'
    if not (ours / 'trials').exists():
        shutil.copytree(folder / 'random' / 'trials', ours / 'trials')
        shutil.copy(WorkDir(folder / 'random').manifest, WorkDir(ours).manifest)
    command = [sys.executable, 'tools/train.py', RANDOM, '--work-dir', str(ours), '--resume', '--search-only']
    command += ['--cfg-options', f'randomness.seed={seed}', f'train_cfg.split_seed={seed}']
    command += [f'random_search.seed={seed}', f'random_search.count={count}']
    with open(ours / 'run.log', 'a') as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True)
    return sorted((ours / 'trials').glob('[0-9]*'))[:count]


def main() -> None:
    """Rates the drawn networks and prints both rankings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/camvid'))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--networks', type=int, default=12)
    parser.add_argument('--batches', type=int, default=12, help='of 8 crops each')
    args = parser.parse_args()
    folder = args.work_dir.resolve() / f'seed{args.seed}'
    manifest = read_manifest(WorkDir(folder / 'fna').manifest)
    part = manifest.parts[SEARCH] if manifest is not None and manifest.is_done(SEARCH) else None
    checkpoint = None if part is None else find_checkpoint(folder / 'fna', part.id).path
    if checkpoint is None:
        parser.error(f'--work-dir has no finished search in {folder / "fna"}: run benchmarks/camvid.py first')
    options = {
        'train_dataloader.batch_size': 8,
        'randomness.seed': args.seed,
        'train_cfg.split_seed': args.seed,
        'model.backbone.init_cfg': None,
        'optim_wrapper.cost.target': None,  # which the seed would say
    }
    cfg = prepare(CONFIG, str(folder / 'rank' / 'supernet'), options=options)
    places = train_alone(folder, args.seed, args.networks)
    cfg.load_from, cfg.log_level = str(checkpoint), 'WARNING'
    runner = SafeRunner.from_cfg(cfg)
    runner.load_or_resume()
    _, held_out = build_halves(runner, cfg.train_dataloader, 0.5, args.seed)
    batches = [next(held_out) for _ in range(args.batches)]
    supernet = find_supernet(runner.model)
    rows = []
    for place in places:
        arch = ArchSpec.parse(place / 'arch.json')
        alone = json.loads((place / 'result.json').read_text())['metrics']['mIoU']
        rows.append(
            (place.name, cost(arch, SIZE, OUTPUT_STRIDE).macs, rate(runner.model, supernet, arch, batches), alone)
        )
    print('| network | multiply-adds | super-network, cross entropy | trained alone, mIoU |\n|---|---|---|---|')
    for name, macs, rating, alone in sorted(rows, key=lambda row: row[2]):
        print(f'| {name} | {format_count(macs)} | {rating:.4f} | {alone:.2f} |')
    ratings, metrics = [-row[2] for row in rows], [row[3] for row in rows]
    low, high = interval(ratings, metrics)
    print(
        f"\n{len(rows)} networks: Kendall's tau {kendall(ratings, metrics):.2f}, 95 % interval {low:.2f} to {high:.2f}"
    )
    macs = [float(row[1]) for row in rows]
    print(f'of multiply-adds alone: tau {kendall(macs, metrics):.2f}')


if __name__ == '__main__':
    main()
