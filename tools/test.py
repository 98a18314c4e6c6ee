"""Tests a trained checkpoint with the config that trained it.

Example: ``python tools/test.py work_dirs/fna_retinanet_coco/derived/config.py work_dirs/…/adapt/epoch_12.pth``
"""

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import DictAction
from mmengine.runner import Runner

from mmnas_ext.engine.checks import check_data
from mmnas_ext.engine.run import prepare


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of a config file')
    parser.add_argument('checkpoint', help='path of a checkpoint')
    parser.add_argument('--work-dir', help='where logs go; default work_dirs/<config name>')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override config entries, key=value')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by some launchers')
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    """Builds the runner and tests."""
    args = parse_args()
    try:
        cfg = prepare(args.config, args.work_dir, args.launcher, options=args.cfg_options)
        if not Path(args.checkpoint).is_file():
            raise FileNotFoundError(f'checkpoint {args.checkpoint} does not exist')
        if cfg.get('derived'):
            raise ValueError(
                f'{args.config} describes a search; test the config it wrote, <work dir>/derived/config.py'
            )
        check_data(cfg, ('test_dataloader',))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
    cfg.load_from = args.checkpoint
    Runner.from_cfg(cfg).test()


if __name__ == '__main__':
    main()
