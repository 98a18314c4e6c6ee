"""Tests a trained checkpoint with the config that trained it.

Example: ``python tools/test.py work_dirs/NAME/derived/config.py work_dirs/NAME/adapt/epoch_12.pth``
"""

import argparse

from mmnas_ext.install_check import explained

with explained():
    from mmnas_ext.cli import errors, make_parser, parse
    from mmnas_ext.install_check import require_mm
    from mmnas_ext.remap.download import DownloadError
    from mmnas_ext.remap.reader import CheckpointError
    from mmnas_ext.runs.run import prepare, start_processes
    from mmnas_ext.runs.testing import check_test, run_test


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('checkpoint', help='path of a checkpoint')
    return parse(parser)


def main() -> None:
    """Checks that the checkpoint belongs to the config, then tests it."""
    args = parse_args()
    with errors():
        require_mm('mmcv')
        cfg = prepare(args.config, args.work_dir, args.launcher, options=args.cfg_options)
        start_processes(cfg)
        prepared = check_test(cfg, args.checkpoint)
    with errors(CheckpointError, DownloadError):
        run_test(cfg, args.checkpoint, prepared)


if __name__ == '__main__':
    main()
