"""``mmnas compare``."""

import argparse
from pathlib import Path

from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import Command, add_comparing, add_config
from mmnas_ext.shipped import tools_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a comparison can be told."""
    add_config(parser, 'of a search, whose second half trains every network: a file, or the name of a shipped one')
    parser.add_argument('--work-dir', help='folder of all runs (default: work_dirs/<config name>_compared)')
    parser.add_argument(
        '--random',
        type=int,
        default=0,
        metavar='N',
        help='also N networks drawn near the limit, per random seed',
    )
    parser.add_argument(
        '--network',
        action='append',
        default=[],
        metavar='NAME=ARCH',
        help='also this one; may be repeated (default: none)',
    )
    add_comparing(parser)


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Runs what is not there yet, then prints the tables."""
    from mmnas_ext.runs.compare import compare
    from mmnas_ext.runs.rows import Comparison, read_options
    from mmnas_ext.runs.run import prepare
    from mmnas_ext.runs.usual_rows import usual_rows

    with errors():
        work_dir = Path(args.work_dir or f'work_dirs/{Path(args.config).stem}_compared')
        cfg = prepare(args.config, options=read_options(args.cfg_options))
        rows = usual_rows(cfg, work_dir, args.seeds, args.random, args.network)
        comparison = Comparison(args.config, work_dir, tuple(rows), tuple(args.seeds), tuple(args.cfg_options))
        compare(comparison, args, tools_folder())


COMMAND = Command(
    'compare the seed, the found network, random and given ones under one recipe, over several random seeds',
    'fna_retinanet_mbv2_steel --work-dir work_dirs/steel --seeds 0 1 2',
    add_arguments,
    run,
    """
Each is a training in <work dir>/seed<n>/<row>, a process of its own; what is done is not done again,
and what was interrupted goes on. Prints means and deviations, and the differences to the seed in pairs
of one random seed, with their 95 % intervals; the same is in comparison.json. With several GPUs each
training sees one. Started more than once on one folder, also on other machines that share it, the
processes divide the trainings among them, and those of one that has died are taken over.
""",
)
