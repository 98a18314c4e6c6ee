"""The whole detector searched, beside the backbone alone, at equal multiply-adds of the whole detector, on photos5.

    python benchmarks/whole_detector.py --work-dir work_dirs/whole --seed-weights mobilenet_v2_imagenet.pth

``backbone`` searches the backbone of ``configs/fna_retinanet_mbv2_photos5.py`` within the seed's multiply-adds, neck
and head as they are; ``whole`` searches size of the images, width of neck and head and the head's convolutions too
(``configs/fna_retinanet_mbv2_photos5_whole.py``), within the multiply-adds of the same detector with the seed in it.
``seed`` is that detector. All are adapted by one recipe, over several random seeds. Prints the comparison's Markdown
tables, whose multiply-adds are those of the backbones, and one with those of the whole detectors. Every run goes on
where it stopped when the script is started again.

``--seed-weights`` is that of ``benchmarks/few_images.py``.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from few_images import ROOT, seed_options
from mmengine.config import Config

from mmnas_ext.cli import add_comparing, errors
from mmnas_ext.runs.compare import compare
from mmnas_ext.runs.compared import read_results
from mmnas_ext.runs.host_choices import whole_cost
from mmnas_ext.runs.repeated import trained_in
from mmnas_ext.runs.rows import Comparison, Row
from mmnas_ext.search.decision import aligned
from mmnas_ext.workdir import WorkDir

BACKBONE = 'configs/fna_retinanet_mbv2_photos5.py'
WHOLE = 'configs/fna_retinanet_mbv2_photos5_whole.py'
# a front of validated networks is not needed for the comparison
OPTIONS = ('optim_wrapper.selection.front=None',)
ROWS = (
    Row('seed', 'seed (MobileNetV2), 320 px, width 64, two convolutions', arch='seed', options=OPTIONS),
    # trainings in rows of their own: where a search keeps the seed, its training is the first row's and is not repeated
    Row('search', options=OPTIONS, train=False),
    Row('search_whole', config=WHOLE, options=OPTIONS, train=False),
    Row('backbone', 'backbone searched', search_of='search', options=OPTIONS),
    Row('whole', 'whole detector searched', search_of='search_whole', config=WHOLE, options=OPTIONS),
)


def wholes(comparison: Comparison) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Yields row, random seed and the costs of each whole detector that was trained."""
    for row in (each for each in comparison.rows if each.train):
        for seed in comparison.seeds:
            file = WorkDir(trained_in(comparison, row, seed)).config
            if file.is_file():
                yield row.title, seed, whole_cost(Config.fromfile(file))


def table(comparison: Comparison, metric: str | None) -> str:
    """Costs of whole detectors and what each reached, as Markdown."""
    metric = metric or 'coco/bbox_mAP'
    reached = {
        (each.title, outcome.seed): outcome.metrics.get(metric)
        for each in read_results(comparison, None, None).rows
        for outcome in each.outcomes
    }
    rows = [['row', 'random seed', 'whole detector, M multiply-adds', 'M parameters', metric]]
    for title, seed, (macs, params) in wholes(comparison):
        value = reached.get((title, seed))
        figures = f'{macs / 1e6:.1f}', f'{params / 1e6:.3f}', '–' if value is None else f'{value:.3f}'
        rows.append([title, str(seed), *figures])
    return aligned(rows)


def main() -> None:
    """Runs the rows that are not there yet, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/whole'), help='folder of all runs')
    parser.add_argument('--seed-weights', type=Path, help="the seed's weights (default: the config's)")
    add_comparing(parser)
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    with errors():
        _, _, options = seed_options(work_dir, args.seed_weights)
        options += args.cfg_options
        os.chdir(ROOT)  # where the configs' data lie
        comparison = Comparison(BACKBONE, work_dir, ROWS, args.seeds, options)
        comparison.only(args.rows).check_overrides(args.cfg_options)
        compare(comparison, args, ROOT / 'tools')
        print(f'\n{table(comparison, args.metric)}')


if __name__ == '__main__':
    main()
