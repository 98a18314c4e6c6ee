"""What the command lines of the tools share."""

import argparse
import os

from mmengine.config import DictAction

from mmnas_ext.archs import METRICS, Limit


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the config, the work dir, overrides and the launcher, as OpenMMLab's tools have them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of a config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go; default work_dirs/<config name>')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override config entries, key=value')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by some launchers')
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Reads the command line; a launcher's ``--local_rank`` goes where MMEngine looks for it."""
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Adds ``--max-<name>`` and ``--min-<name>`` for every metric."""
    for name, metric in METRICS.items():
        for word, bound in (('most', 'max'), ('least', 'min')):
            parser.add_argument(
                f'--{bound}-{name}', type=float, help=f'{metric.unit.plain} that the chosen network has at {word}'
            )


def read_limits(args: argparse.Namespace) -> dict[str, Limit]:
    """The limits that a command line gives, by metric.

    Raises:
        ValueError: A limit is NaN, or its lowest cost is above its highest.
    """
    given = {name: Limit(getattr(args, f'min_{name}'), getattr(args, f'max_{name}')) for name in METRICS}
    return {name: Limit.parse(limit, name) for name, limit in given.items() if limit != Limit()}
