"""``mmnas report``."""

import argparse

from mmnas_ext.archs import ArchSpec
from mmnas_ext.cli.messages import shorten
from mmnas_ext.cli.options import Command, add_size, pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a report can be told."""
    parser.add_argument('work_dir', help='work dir of a run, finished or running')
    parser.add_argument('--out', help='folder to write to, made if missing (default: the work dir)')
    parser.add_argument(
        '--seed', help="network to compare with: a zoo name, a .json file or FNA text (default: the run's seed)"
    )
    parser.add_argument(
        '--predictions',
        type=int,
        metavar='N',
        help='predict N validation images anew with what the run trained, and with its seed if that was trained; needs '
        'the checkpoints and the data (default: the page shows what the end of the run has predicted)',
    )
    add_size(parser, "the run's, or that of results.json, or else 800 1088", "the run's, or else 32")


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Writes the report that is asked for."""
    from mmnas_ext.reports import write_report

    try:
        seed = ArchSpec.parse(args.seed) if args.seed else None
        size = pick(args.input_size)
        if args.predictions is not None:
            from mmnas_ext.runs.predict import sample_run  # torch and OpenMMLab, which a page does not need

            sample_run(args.work_dir, args.predictions)
        written = write_report(args.work_dir, args.out, seed=seed, input_size=size, output_stride=args.output_stride)
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))
    print('\n'.join(str(path) for path in written))


COMMAND = Command(
    'draw figures and write a page about a run, finished or not',
    'work_dirs/mine',
    add_arguments,
    run,
    """
The page is report.html in the work dir, one file that needs no other and no network. Figures beside it,
or of a block-wise distillation in report/ there, are network.png, alphas.png and others. What a run was
is read from its run.json, and without one from the other files in its work dir.
""",
)
