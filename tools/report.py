"""Writes pictures and a page about a search, for example: python tools/report.py work_dirs/demo.

Of a search by gradients these are network.png, alphas.png and report.html in its work dir; of a block-wise
distillation, known by its ratings.json or its logged losses, distillation.html and its pictures in report/ there.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmnas_ext.archs import ArchSpec
from mmnas_ext.reports import is_distillation, write_distill_report, write_report


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the report that it asks for."""
    parser = argparse.ArgumentParser(
        description='Write pictures and a page about a search, or about a block-wise distillation.'
    )
    parser.add_argument('work_dir', help='work dir of a search or a distillation, finished or running')
    parser.add_argument(
        '--out', help='folder to write to, made if missing (default: the work dir, of a distillation report/ in it)'
    )
    parser.add_argument('--seed', help='network to compare with: a zoo name, a .json file or FNA text')
    parser.add_argument(
        '--input-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='input that MAdds are given for (default: that of results.json or ratings.json, or else 800 1088)',
    )
    parser.add_argument(
        '--output-stride', type=int, choices=(8, 16, 32), help='default: that of ratings.json, or else 32'
    )
    given = parser.parse_args(argv)
    try:
        seed = ArchSpec.parse(given.seed) if given.seed else None
        size = tuple(given.input_size) if given.input_size else None
        written: tuple[Path, ...]
        if is_distillation(given.work_dir):
            written = write_distill_report(
                given.work_dir, given.out, seed=seed, input_size=size, output_stride=given.output_stride
            )
        else:
            written = write_report(
                given.work_dir, given.out, seed=seed, input_size=size, output_stride=given.output_stride or 32
            )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print('\n'.join(str(path) for path in written))


if __name__ == '__main__':
    main()
