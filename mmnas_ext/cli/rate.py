"""``mmnas rate``."""

import argparse

from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import Command, add_limits, add_run, begin_run, read_limits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a rating can be told."""
    add_run(parser)
    parser.add_argument(
        'checkpoints',
        nargs='*',
        help='of the distillation, several if runs trained some blocks each (default: the newest in the work dir)',
    )
    parser.add_argument('--max-memory', type=float, help="GiB that features may take (default: the config's)")
    add_limits(parser)


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Reads the config, then rates."""
    begin_run(args)
    from mmnas_ext.runs.distillation import rate_checkpoint
    from mmnas_ext.runs.run import prepare

    with errors():
        cfg = prepare(args.config, args.work_dir, args.launcher, options=args.cfg_options)
        limits = {name: limit.plain() for name, limit in read_limits(args).items()}
        rate_checkpoint(cfg, args.checkpoints, args.max_memory, limits)


COMMAND = Command(
    'rate every path of a trained distillation, find the front and the best network within limits',
    'dna_coco work_dirs/dna_coco/iter_100000.pth --max-macs 3.5e8',
    add_arguments,
    run,
    stopped='stopped: the same command begins again',
)
