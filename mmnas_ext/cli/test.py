"""``mmnas test``."""

import argparse

from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import Command, add_run, begin_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a test can be told."""
    add_run(parser)
    parser.add_argument('checkpoint', help='path of a checkpoint')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Checks that the checkpoint belongs to the config, then tests it."""
    begin_run(args)
    from mmnas_ext.remap.download import DownloadError
    from mmnas_ext.remap.reader import CheckpointError
    from mmnas_ext.runs.run import prepare, start_processes
    from mmnas_ext.runs.testing import check_test, run_test

    with errors():
        cfg = prepare(args.config, args.work_dir, args.launcher, options=args.cfg_options)
        start_processes(cfg)
        prepared = check_test(cfg, args.checkpoint)
    with errors(CheckpointError, DownloadError):
        run_test(cfg, args.checkpoint, prepared)


COMMAND = Command(
    'test a trained checkpoint with the config that trained it',
    'work_dirs/mine/derived/config.py work_dirs/mine/adapt/epoch_12.pth',
    add_arguments,
    run,
)
