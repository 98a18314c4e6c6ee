"""Trains a config; one with ``derived=dict(…)`` is searched first, and what it finds is trained.

Example: ``python tools/train.py configs/fna_retinanet_coco.py``
"""

import argparse
import os
import sys

from mmengine.config import DictAction

from mmnas_ext.engine.checks import check_config
from mmnas_ext.engine.run import prepare, run
from mmnas_ext.install_check import require_mm


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of a config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go; default work_dirs/<config name>')
    parser.add_argument('--resume', action='store_true', help='go on where the last run in the work dir stopped')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the real batch')
    parser.add_argument('--search-only', action='store_true', help='stop when the network is found')
    parser.add_argument('--arch', help='skip the search and train this network: a .json path, FNA text, a zoo name')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override config entries, key=value')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by some launchers')
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    """Checks the config, then runs it."""
    args = parse_args()
    try:
        require_mm('mmcv')
        cfg = prepare(args.config, args.work_dir, args.launcher, args.amp, args.auto_scale_lr, args.cfg_options)
        check_config(cfg, args.arch, args.search_only)
    except (ValueError, FileNotFoundError, ImportError) as error:
        sys.exit(f'error: {error}')
    run(cfg, args.resume, args.search_only, args.arch)


if __name__ == '__main__':
    main()
