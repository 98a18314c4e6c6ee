"""Rates every path of a trained distillation, finds the front and the best network within limits.

Example: ``python tools/rate.py configs/dna_coco.py work_dirs/dna_coco/iter_100000.pth --max-macs 3.5e8``
"""

import argparse

from mmnas_ext.install_check import explained

with explained():
    from mmnas_ext.cli import add_limits, errors, make_parser, parse, read_limits
    from mmnas_ext.install_check import require_mm
    from mmnas_ext.runs.distillation import rate_checkpoint
    from mmnas_ext.runs.run import prepare


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        'checkpoints',
        nargs='*',
        help='of the distillation, several if runs trained some blocks each; default: the newest',
    )
    parser.add_argument('--max-memory', type=float, help="GiB that features may take; default: the config's")
    add_limits(parser)
    return parse(parser)


def main() -> None:
    """Reads the config, then rates."""
    args = parse_args()
    with errors():
        require_mm('mmcv')
        cfg = prepare(args.config, args.work_dir, args.launcher, options=args.cfg_options)
        limits = {name: limit.plain() for name, limit in read_limits(args).items()}
        rate_checkpoint(cfg, args.checkpoints, args.max_memory, limits)


if __name__ == '__main__':
    main()
