"""Draws figures and writes a page about a run, for example: python tools/report.py work_dirs/demo.

The page is report.html in the work dir, one file that needs no other and no network. Figures beside it, or of a
block-wise distillation in report/ there, are network.png, alphas.png and others. What a run was is read from its
run.json, and without one from the other files in its work dir.
"""

import argparse
from collections.abc import Sequence

from mmnas_ext.archs import ArchSpec
from mmnas_ext.cli import shorten
from mmnas_ext.reports import write_report


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the report that it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', help='work dir of a run, finished or running')
    parser.add_argument('--out', help='folder to write to, made if missing (default: the work dir)')
    parser.add_argument(
        '--seed', help="network to compare with: a zoo name, a .json file or FNA text (default: the run's seed)"
    )
    parser.add_argument(
        '--input-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help="input that MAdds are given for (default: the run's, or that of results.json, or else 800 1088)",
    )
    parser.add_argument('--output-stride', type=int, choices=(8, 16, 32), help="default: the run's, or else 32")
    parser.add_argument(
        '--predictions',
        type=int,
        metavar='N',
        help='predict N validation images anew with what the run trained, and with its seed if that was trained; needs '
        'the checkpoints and the data (default: the page shows what the end of the run has predicted)',
    )
    given = parser.parse_args(argv)
    try:
        seed = ArchSpec.parse(given.seed) if given.seed else None
        size = tuple(given.input_size) if given.input_size else None
        if given.predictions is not None:
            from mmnas_ext.runs.predict import sample_run  # torch and OpenMMLab, which a page does not need

            sample_run(given.work_dir, given.predictions)
        written = write_report(given.work_dir, given.out, seed=seed, input_size=size, output_stride=given.output_stride)
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))
    print('\n'.join(str(path) for path in written))


if __name__ == '__main__':
    main()
