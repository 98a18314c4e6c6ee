"""A small work dir of each kind of run, as runs leave them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave

from mmnas_ext.archs import ArchSpec, Limit, SearchSpace, SpaceStage, cost
from mmnas_ext.reports.predictions import Box
from mmnas_ext.reports.samples import Sample, Samples
from mmnas_ext.search.decision import Compared, Decision, LayerChoice
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from tests.reports import distilled
from tests.reports.simulated import search_log, write_log

SIZE = (64, 96)
LAYER = ('k3_e3', 'k5_e6', 'k7_e6')
FIRST, LAST = SpaceStage(32, 16, (('k3_e1',),), 1), SpaceStage(24, 40, (LAYER,), 2)
SPACE = SearchSpace((FIRST, SpaceStage(16, 24, (LAYER, (*LAYER, 'skip')), 2), LAST))
SEED, FOUND, SMALL = (SPACE.arch(((0,), pair, (last,))) for pair, last in (((1, 1), 1), ((0, 3), 1), ((0, 3), 0)))
METRIC = 'coco/bbox_mAP'
CLASSES, PALETTE = ('dot', 'a <long> & winding name'), ((220, 20, 60), (255, 220, 0))


def count(arch: ArchSpec) -> dict[str, float]:
    """Costs at `SIZE`."""
    return dict(cost(arch, SIZE)._asdict())


def manifest(folder: Path, state: str = 'done', method: str = 'gradient', given: bool = False, **report: Any) -> None:
    """Writes ``run.json`` as far as a page reads it."""
    said = {'method': method, 'input_size': SIZE, 'metric': 'macs', 'seed': SEED.format('fna'), **report}
    said |= {'limits': {'macs': {'min': None, 'max': count(FOUND)['macs']}}, 'commands': ['python tools/train.py a.py']}
    lengths = {'search': 4, 'adapt': 3}
    parts: dict[str, Any] = {
        name: {'settings': {'train_cfg.max_epochs': length}, 'notes': {}} for name, length in lengths.items()
    }
    parts['derive'] = {'settings': {}, 'notes': {'origin': 'given' if given else 'search'}}
    content = {'state': state, 'parts': parts, 'report': said, 'versions': {'mmengine': '0.10.12', 'torch': '2.13.0'}}
    (folder / 'run.json').write_text(json.dumps(content))


def train(folder: Path, arch: ArchSpec, *reached: float) -> None:
    """Leaves a network and the log of its training, an epoch per value that it reached."""
    (folder / 'derived').mkdir(parents=True, exist_ok=True)
    (folder / 'derived' / 'arch.json').write_text(arch.format('json'))
    records: list[dict[str, Any]] = []
    for epoch, value in enumerate(reached, start=1):
        steps = [epoch * 10 - 5, epoch * 10]
        records += [{'lr': 0.1, 'loss': 2.0 / step, 'epoch': epoch, 'iter': step, 'step': step} for step in steps]
        records.append({METRIC: value, f'{METRIC}_50': value + 0.2, f'{METRIC}_s': -1.0, 'step': epoch})
    distilled.write_log(folder / 'adapt', '1', records)


def choose(folder: Path) -> None:
    """Leaves a decision and a measured front."""
    layers = (
        LayerChoice('1.0', 'k3_e3', 'k5_e6', 0.25, 0.1, 0.99, {'k3_e3': 0.0, 'k5_e6': 0.25, 'k7_e6': 0.5}),
        LayerChoice('1.1', 'skip', 'k3_e3', -0.01, None, 0.5, {'k3_e3': -0.01, 'skip': 0.0}),
    )
    compared = (Compared(FOUND, count(FOUND)['macs'], -0.2, 0.05, -0.3, 12),)
    decision = Decision(
        'measured', 'loss', FOUND, 'macs', count(FOUND), Limit(max=count(FOUND)['macs']), layers, compared, SEED, 0.9
    )
    (folder / 'derived' / 'decision.json').write_text(decision.format())
    rows = [(SMALL, 'front', 0.21), (FOUND, 'chosen', 0.25), (SEED, 'seed', 0.27)]
    networks = [MeasuredNetwork(arch, count(arch), {METRIC: value}, None, origin) for arch, origin, value in rows]
    limits = {'macs': Limit(max=count(FOUND)['macs'])}
    MeasuredFront('macs', METRIC, 'greater', tuple(networks), limits).write(folder)


def predict(folder: Path, kind: str, titles: tuple[str, ...] = ('seed', 'found')) -> None:
    """Leaves two images with what is said of them."""
    folder.mkdir()
    rows = []
    for number in range(2):
        imsave(folder / f'{number}.png', np.full((40, 60, 3), 90 + 40 * number, np.uint8))
        if kind == 'boxes':
            truth: Any = (Box(5, 5, 30, 30, 0), Box(50, 20, 60, 40, 1))
            said: dict[str, Any] = {t: (Box(6, 5, 29, 31, 0, 0.875), Box(0, 0, 9, 9, 1, 0.1)) for t in titles}
        else:
            for name in ('truth', *titles):
                imsave(folder / f'{number}_{name}.png', np.full((40, 60, 3), PALETTE[number], np.uint8))
            truth, said = f'{number}_truth.png', {title: f'{number}_{title}.png' for title in titles}
        rows.append(Sample(f'{number}.png', (40, 60), truth, said))
    Samples(kind, CLASSES, PALETTE, tuple(rows), {'found': 'adapt/epoch_3.pth'}).write(folder)


def search(folder: Path) -> None:
    """Leaves the log of a search by gradients."""
    (folder / 'search_space.json').write_text(SPACE.format())
    write_log(folder / 'search_log.jsonl', search_log(SPACE, count=6, every=10, start=30, size=SIZE))
    losses = [
        {'lr': 0.1, 'loss': 3.0 / step, 'arch_loss': 4.0 / step, 'iter': step, 'step': step} for step in (1, 2, 3)
    ]
    distilled.write_log(folder, '1', losses)


def running(folder: Path) -> None:
    """A search by gradients that has not ended."""
    search(folder)
    manifest(folder, 'searching')


def finished(folder: Path) -> None:
    """A search by gradients that has ended, its network and its seed trained, with predictions of a detector."""
    search(folder)
    train(folder, FOUND, 0.2, 0.28, 0.31)
    train(folder / 'seed', SEED, 0.25, 0.3, 0.33)
    train(folder / 'front' / '0', SMALL, 0.1, 0.2, 0.24)
    choose(folder)
    predict(folder / 'samples', 'boxes')
    (folder / 'derived' / 'snapshots').mkdir()
    (folder / 'derived' / 'snapshots' / 'epoch_1.json').write_text(SEED.format('json'))
    manifest(folder)


def given(folder: Path) -> None:
    """A run that was given its network and is being trained."""
    train(folder, FOUND, 0.2)
    manifest(folder, 'adapting', given=True)


def drawn_at_random(folder: Path) -> None:
    """A random search whose network is found, not trained."""
    for number, (arch, reached) in enumerate(((FOUND, 0.3), (SMALL, 0.2), (SEED, None))):
        place = folder / 'trials' / f'{number:02d}'
        place.mkdir(parents=True)
        row = {'index': number, 'arch': arch.format('fna'), 'cost': count(arch)['macs'], 'seconds': 60.0, **count(arch)}
        failure = '' if reached else 'the loss is NaN or infinite at iteration 40'
        metrics = {'mIoU': reached} if reached else {}
        (place / 'result.json').write_text(json.dumps({**row, 'metrics': metrics, 'failure': failure}))
    (folder / 'derived').mkdir()
    (folder / 'derived' / 'arch.json').write_text(FOUND.format('json'))
    manifest(folder, 'derived', 'random', rank_by='mIoU', rule='greater')


def distillation(folder: Path) -> None:
    """A distillation that has ended, with predictions of a segmentor."""
    distilled.work_dir(folder, count=30)
    train(folder, FOUND, 0.2, 0.3, 0.4)
    predict(folder / 'samples', 'labels', ('found',))
    manifest(folder, method='distillation', seed=None)


KINDS = {each.__name__: each for each in (running, finished, given, drawn_at_random, distillation)}
