"""What DNA finds on few real images: networks at three limits, and one as a DeepLabv3 backbone on road scenes.

    python tools/train.py configs/dna_lite0_128.py
    python benchmarks/dna_images.py --distilled work_dirs/dna_lite0_128 --work-dir work_dirs/dna_images

Takes the ratings of that run. The network at the teacher's own multiply-adds is trained inside DeepLabv3 by the recipe
of ``configs/fna_deeplabv3_lite0_480.py``, once from the teacher's ImageNet weights, remapped, and once from its
distilled weights; beside it, by the same recipe, the teacher's own network and a random network of the same space and
cost. Two runs at a time, a thread each; every run goes on where it stopped. Prints Markdown tables.
"""

import argparse
import os
import random
from collections.abc import Sequence
from pathlib import Path

from camvid import FNA, ROOT, SEED_ARCH

from mmnas_ext.archs import ArchSpec, CellSpace, cost, zoo
from mmnas_ext.cli import add_comparing, errors
from mmnas_ext.reports import format_count
from mmnas_ext.runs.compare import compare
from mmnas_ext.runs.rows import Comparison, Row
from mmnas_ext.search.ratings import Ratings
from mmnas_ext.search.select import Selection, select
from mmnas_ext.workdir import write_text

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


def rows(work_dir: Path, weights: Path) -> tuple[Row, ...]:
    """Lists the rows; the network of each lies in its folder."""
    init = 'model.backbone.init_cfg.seed'
    files = {name: str(work_dir / 'seed{seed}' / name / 'arch.json') for name in TITLES}
    distilled = (f'{init}.checkpoint={weights}', f'{init}.arch={files["distilled"]}')
    return tuple(
        Row(name, title, arch=files[name], options=distilled if name == 'distilled' else ())
        for name, title in TITLES.items()
    )


def write_networks(comparison: Comparison, best: ArchSpec, ratings: Ratings) -> None:
    """Writes the network of each row and random seed into its folder."""
    for seed in comparison.seeds:
        archs = dict(dna=best, distilled=best, seed=zoo.arch(SEED_ARCH))
        archs['random'] = random_network(ratings.space, best, ratings.input_size, seed)
        for row in comparison.rows:
            write_text(comparison.folder(row, seed) / 'arch.json', archs[row.name].format('json'))


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
    add_comparing(parser, seeds=(0, 1))
    args = parser.parse_args()
    with errors():
        ratings = Ratings.parse(args.distilled / 'ratings.json')
        found = selections(ratings)
        print(f'{limits_table(found)}\n', flush=True)
        work_dir, weights = args.work_dir.resolve(), (args.distilled / 'derived' / 'distilled.pth').resolve()
        os.chdir(ROOT)  # where the configs' data lie
        comparison = Comparison(FNA, work_dir, rows(work_dir, weights), args.seeds, args.cfg_options)
        comparison.only(args.rows).check_overrides(args.cfg_options)
        write_networks(comparison, found[-1].arch, ratings)
        compare(comparison, args, ROOT / 'tools')


if __name__ == '__main__':
    main()
