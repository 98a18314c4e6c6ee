"""What DNA finds on few real images: networks at three limits, and one as a DeepLabv3 backbone on road scenes.

    python tools/train.py configs/dna_lite0_128.py
    python benchmarks/dna_images.py --distilled work_dirs/dna_lite0_128 --work-dir work_dirs/dna_images

Takes the ratings of that run. The network at the teacher's own multiply-adds is trained inside DeepLabv3 by the recipe
of ``configs/fna_deeplabv3_lite0_480.py``, once from the teacher's ImageNet weights, remapped, and once from its
distilled weights; beside it, by the same recipe, the teacher's own network and a random network of the same space and
cost. Two runs at a time, a thread each; every run goes on where it stopped. Prints Markdown tables.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from camvid import FNA, OUTPUT_STRIDE, SEED_ARCH, SIZE, cell, load_seconds, run

from mmnas_ext.archs import ArchSpec, CellSpace, cost, zoo
from mmnas_ext.reports import format_count
from mmnas_ext.runs.results import last_metrics
from mmnas_ext.search.ratings import Ratings
from mmnas_ext.search.select import Selection, select
from mmnas_ext.workdir import WorkDir

SHARES = (0.6, 0.8, 1.0)  # of the teacher's multiply-adds
TITLES = {
    'seed': 'teacher (EfficientNet-Lite0)',
    'dna': 'found by DNA, remapped',
    'random': 'random, equal multiply-adds, remapped',
    'distilled': 'found by DNA, distilled weights',
}


def selections(ratings: Ratings) -> list[Selection]:
    """Selects the best networks at the shares of the teacher's multiply-adds."""
    teacher = cost(zoo.arch(SEED_ARCH), ratings.input_size).macs
    return [select(ratings, {'macs': share * teacher}) for share in SHARES]


def random_network(space: CellSpace, like: ArchSpec, size: tuple[int, int], seed: int) -> ArchSpec:
    """Draws a network uniformly among those whose multiply-adds differ by at most a hundredth from those of `like`."""
    rng = random.Random(seed)
    wanted = cost(like, size).macs
    while True:
        plain = space.space([rng.randrange(len(stage.cells)) for stage in space.stages])
        arch = plain.arch(plain.sample_path(rng))
        if abs(cost(arch, size).macs - wanted) <= wanted / 100:
            return arch


def train(row: str, seed: int, work_dir: Path, arch: ArchSpec, weights: Path) -> None:
    """Trains one row to its end, unless its result exists."""
    folder = work_dir / f'seed{seed}' / row
    if last_metrics(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / 'arch.json'
    file.write_text(arch.format('json'))
    command = [sys.executable, 'tools/train.py', FNA, '--work-dir', str(folder), '--arch', str(file)]
    command += ['--resume'] if WorkDir(folder).manifest.is_file() else []
    options = [f'randomness.seed={seed}']
    if row == 'distilled':
        init = 'model.backbone.init_cfg.seed'
        options += [f'{init}.checkpoint={weights}', f'{init}.arch={file}']
    run(folder, 'adapt', [*command, '--cfg-options', *options])


def table(work_dir: Path, seeds: Sequence[int]) -> str:
    """What has ended, as Markdown."""
    lines = [
        '| network | seeds | mIoU | each | multiply-adds at 360x480 | parameters | CPU minutes |',
        '|---|---|---|---|---|---|---|',
    ]
    for row, title in TITLES.items():
        folders = [work_dir / f'seed{seed}' / row for seed in seeds]
        folders = [folder for folder in folders if last_metrics(folder)]
        if not folders:
            continue
        found = [last_metrics(folder)['mIoU'] for folder in folders]
        costs = [cost(ArchSpec.parse(f / 'derived' / 'arch.json'), SIZE, OUTPUT_STRIDE) for f in folders]
        minutes = [load_seconds(folder)['adapt'] / 60 for folder in folders if 'adapt' in load_seconds(folder)]
        cells = [
            title,
            str(len(folders)),
            cell(found, '.2f'),
            ', '.join(f'{value:.2f}' for value in found),
            ', '.join(format_count(macs) for macs in sorted({entry.macs for entry in costs})),
            format_count(statistics.mean(entry.params for entry in costs)),
            cell(minutes, '.1f') if minutes else 'not measured',
        ]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def limits_table(found: Sequence[Selection]) -> str:
    """Formats the networks at the three limits as Markdown."""
    lines = ['| limit | multiply-adds | parameters | rating | network |', '|---|---|---|---|---|']
    for share, each in zip(SHARES, found, strict=True):
        network = '; '.join(f'{stage.channels}: {" ".join(stage.layers)}' for stage in each.arch.stages[1:])
        costs = each.costs
        lines.append(
            f'| {share:.0%} | {format_count(costs["macs"])} | {format_count(costs["params"])} | '
            f'{each.chosen.rating:.4f} | {network} |'
        )
    return '\n'.join(lines)


def main() -> None:
    """Prints the networks at three limits, trains the rows without a result, prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--distilled', type=Path, default=Path('work_dirs/dna_lite0_128'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/dna_images'))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--rows', nargs='+', choices=sorted(TITLES), default=list(TITLES))
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time, a thread each')
    parser.add_argument('--table', action='store_true', help='only print what there is')
    args = parser.parse_args()
    ratings = Ratings.parse(args.distilled / 'ratings.json')
    found = selections(ratings)
    print(f'{limits_table(found)}\n', flush=True)
    best, weights = found[-1].arch, (args.distilled / 'derived' / 'distilled.pth').resolve()
    if not args.table:
        with ThreadPoolExecutor(args.jobs) as pool:
            runs = []
            for seed in args.seeds:
                archs = dict(dna=best, distilled=best, seed=zoo.arch(SEED_ARCH))
                archs['random'] = random_network(ratings.space, best, ratings.input_size, seed)
                runs += [
                    pool.submit(train, row, seed, args.work_dir.resolve(), archs[row], weights) for row in args.rows
                ]
            for done in runs:
                done.result()
    print(table(args.work_dir.resolve(), args.seeds))


if __name__ == '__main__':
    main()
