"""Writes network.png, alphas.png and report.html about a search, for example: python tools/report.py work_dirs/demo."""

import argparse
from collections.abc import Sequence

from mmnas_ext.archs import ArchSpec
from mmnas_ext.reports import write_report


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and writes the report that it asks for."""
    parser = argparse.ArgumentParser(description='Write network.png, alphas.png and report.html about a search.')
    parser.add_argument('work_dir', help='work dir of a search, finished or running')
    parser.add_argument('--out', help='folder to write to, made if missing (default: the work dir)')
    parser.add_argument('--seed', help='network to compare with: a zoo name, a .json file or FNA text')
    parser.add_argument(
        '--input-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='input that MAdds are given for (default: that of results.json, or else 800 1088)',
    )
    parser.add_argument('--output-stride', type=int, default=32, choices=(8, 16, 32), help='32 for detection')
    given = parser.parse_args(argv)
    try:
        written = write_report(
            given.work_dir,
            given.out,
            seed=ArchSpec.parse(given.seed) if given.seed else None,
            input_size=tuple(given.input_size) if given.input_size else None,
            output_stride=given.output_stride,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print('\n'.join(str(path) for path in written))


if __name__ == '__main__':
    main()
