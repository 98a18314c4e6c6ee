"""The whole of FNA on small generated pictures: search, derive, adapt, and the seed beside what was found.

Example: ``python tools/demo.py`` (``make demo``); files in ``work_dirs/demo``.
"""

import argparse
import sys
import time
from pathlib import Path

from mmengine.config import DictAction

from mmnas_ext.archs import ArchSpec
from mmnas_ext.datasets import make_detection
from mmnas_ext.engine.checks import check_config
from mmnas_ext.engine.results import result_row, write_results
from mmnas_ext.engine.run import prepare, run
from mmnas_ext.reports import comparison_table, write_report

CONFIG = 'configs/demo_fna_retinanet.py'
SEED = 'efficientnet_lite0'
METRICS = ('coco/bbox_mAP', 'coco/bbox_mAP_50')
DATA = 'data/shapes_det'


def main() -> None:
    """Runs the demo; what an interrupted one has finished is not done again with ``--resume``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', default='work_dirs/demo')
    parser.add_argument('--resume', action='store_true', help='go on where the last demo stopped')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override config entries, key=value')
    args = parser.parse_args()
    begun = time.monotonic()
    work_dir, seed_dir = Path(args.work_dir), Path(args.work_dir, 'seed')
    options = {'log_level': 'WARNING', **(args.cfg_options or {})}  # the whole of MMEngine's log would bury the table
    print(f'1. pictures: {"made" if make_detection(DATA) else "there already"}, in {DATA}', flush=True)
    try:
        cfg = prepare(CONFIG, str(work_dir), options=options)
        check_config(cfg)
    except (ValueError, FileNotFoundError, ImportError) as error:
        sys.exit(f'error: {error}')
    print('2. search, derive, adapt', flush=True)
    run(cfg, args.resume)
    print('3. the seed, with the same recipe', flush=True)
    run(prepare(CONFIG, str(seed_dir), options=options), args.resume, arch=SEED)
    size = tuple(cfg.model.backbone.input_size)
    rows = [
        result_row('seed (EfficientNet-Lite0)', seed_dir, size, METRICS),
        result_row('found by FNA', work_dir, size, METRICS),
    ]
    write_results(work_dir, rows, size)
    network, alphas, page = write_report(work_dir, seed=ArchSpec.parse(SEED), input_size=size)
    print(f'\n{comparison_table(rows)}\n')
    print(f'the found network: {network}\nhow alpha moved:   {alphas}\nall of it:         {page}')
    print(f'{(time.monotonic() - begun) / 60:.1f} minutes')


if __name__ == '__main__':
    main()
