"""``mmnas report``."""

import argparse

from mmnas_ext.archs import ArchSpec
from mmnas_ext.cli.messages import shorten
from mmnas_ext.cli.options import Command, add_size, pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a report can be told."""
    parser.add_argument('work_dir', help='work dir of a run, finished or running')
    parser.add_argument(
        '--out', help='folder to write to, made if missing (default: the work dir, of a distillation report/ in it)'
    )
    parser.add_argument(
        '--seed', help="network to compare with: a zoo name, a .json file or FNA text (default: the run's seed)"
    )
    add_size(parser, "the run's, or that of results.json, or else 800 1088", "the run's, or else 32")


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Writes the report that is asked for."""
    from mmnas_ext.reports import write_any_report

    try:
        seed = ArchSpec.parse(args.seed) if args.seed else None
        size = pick(args.input_size)
        written = write_any_report(
            args.work_dir, args.out, seed=seed, input_size=size, output_stride=args.output_stride
        )
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))
    print('\n'.join(str(path) for path in written))


COMMAND = Command(
    'draw figures and write a page about a search or a distillation',
    'work_dirs/mine',
    add_arguments,
    run,
    """
Of a search, by gradients or at random, and of a run that was given its network, these are network.png,
alphas.png or trials.png, and report.html in its work dir; of a block-wise distillation,
distillation.html and its figures in report/ there. What a run was is read from its run.json, and
without one from the other files in its work dir.
""",
)
