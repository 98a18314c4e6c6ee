"""Tests a trained checkpoint with the config that trained it.

Example: ``python tools/test.py work_dirs/NAME/derived/config.py work_dirs/NAME/adapt/epoch_12.pth``
"""

import argparse
import sys
from pathlib import Path

from mmnas_ext.cli import make_parser, parse
from mmnas_ext.engine.runner import SafeRunner
from mmnas_ext.remap.download import DownloadError
from mmnas_ext.remap.reader import CheckpointError
from mmnas_ext.runs.checks import check_data
from mmnas_ext.runs.run import prepare


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('checkpoint', help='path of a checkpoint')
    return parse(parser)


def main() -> None:
    """Builds the runner and tests."""
    args = parse_args()
    try:
        cfg = prepare(args.config, args.work_dir, args.launcher, options=args.cfg_options)
        if not Path(args.checkpoint).is_file():
            raise FileNotFoundError(f'checkpoint {args.checkpoint} does not exist')
        if cfg.get('derived'):
            raise ValueError(f'{args.config} describes a search: test what it wrote, <work dir>/derived/config.py')
        if cfg.get('test_dataloader') is None or cfg.get('test_evaluator') is None:
            raise ValueError(f'{args.config} must have test_dataloader and test_evaluator to be tested, it lacks one')
        check_data(cfg, ('test_dataloader',))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
    cfg.load_from = args.checkpoint
    try:
        SafeRunner.from_cfg(cfg).test()
    except (CheckpointError, DownloadError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
