"""Rates every path of a trained distillation, finds the front and the best network within limits.

Example: ``python tools/rate.py configs/dna_coco.py work_dirs/dna_coco/iter_100000.pth --max-macs 3.5e8``
"""

import argparse
import sys

from mmnas_ext.cli import make_parser, parse
from mmnas_ext.install_check import require_mm
from mmnas_ext.runs.run import prepare, rate_checkpoint


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        'checkpoints',
        nargs='*',
        help='of the distillation, several if runs trained some blocks each; default: the newest',
    )
    parser.add_argument('--max-memory', type=float, help="GiB that features may take; default: the config's")
    parser.add_argument('--max-macs', type=float, help='multiply-adds that the chosen network may have')
    parser.add_argument('--max-params', type=float, help='parameters that it may have')
    parser.add_argument('--max-latency', type=float, help='milliseconds that it may take')
    return parse(parser)


def main() -> None:
    """Reads the config, then rates."""
    args = parse_args()
    limits = {'macs': args.max_macs, 'params': args.max_params, 'latency': args.max_latency}
    try:
        require_mm('mmcv')
        cfg = prepare(args.config, args.work_dir, args.launcher, options=args.cfg_options)
        rate_checkpoint(cfg, args.checkpoints, args.max_memory, {k: v for k, v in limits.items() if v is not None})
    except (ValueError, FileNotFoundError, ImportError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
