"""``mmnas select``."""

import argparse
from pathlib import Path

from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import Command, add_limits, add_run, begin_run, read_limits
from mmnas_ext.workdir import WorkDir

KINDS = ('argmax', 'measured')  # those of mmnas_ext.search.decision, which would import numpy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a choice can be told."""
    add_run(parser)
    parser.add_argument('--selection', choices=KINDS, help="how to choose (default: the config's way)")
    parser.add_argument('--out', help='where both files go (default: selected/ in the work dir)')
    add_limits(parser, "the config's, of that metric")


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Chooses, and writes ``arch.json`` and ``decision.json``."""
    begin_run(args)
    from mmnas_ext.runs.manifest import ResumeError
    from mmnas_ext.runs.run import prepare, start_processes
    from mmnas_ext.runs.select_again import select_again

    with errors():
        cfg = prepare(args.config, args.work_dir, args.launcher, options=args.cfg_options)
        start_processes(cfg)
        limits = read_limits(args)
    with errors(ResumeError, ValueError, OSError):
        folder = Path(args.out) if args.out else WorkDir(cfg.work_dir).selected
        select_again(cfg, folder, args.selection, limits)


COMMAND = Command(
    'choose a network again from a finished search: by other limits, or in another way',
    'fna_retinanet_coco --work-dir work_dirs/mine --max-macs 4e9',
    add_arguments,
    run,
    """
It reads the super-network's last checkpoint in the work dir and leaves the run as it is. What was
measured for an earlier choice is not measured again. mmnas train CONFIG --arch FILE trains the result.
""",
    stopped='stopped: the same command goes on',
)
