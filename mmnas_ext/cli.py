"""What the command lines of the tools share."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mmnas_ext.archs import METRICS, Limit

_LONGEST = 500  # characters of a message
_END = 160  # of these the last, which say what to do


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the config, the work dir, overrides and the launcher, as OpenMMLab's tools have them."""
    from mmengine.config import DictAction

    class Options(DictAction):
        """MMEngine's, whose errors are told as those of any other option."""

        def __call__(self, parser: argparse.ArgumentParser, *args: object) -> None:
            try:
                super().__call__(parser, *args)
            except Exception:  # no sign of equality, or brackets that do not close
                parser.error(f'--cfg-options must be key=value with balanced brackets, got {shorten(repr(args[1]))}')

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of a config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go; default work_dirs/<config name>')
    parser.add_argument('--cfg-options', nargs='+', action=Options, help='override config entries, key=value')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by some launchers')
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Reads the command line; a launcher's ``--local_rank`` goes where MMEngine looks for it."""
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


@contextmanager
def errors(*kinds: type[Exception]) -> Iterator[None]:
    """Ends a tool with one readable line, exit code 1, for what a user can do wrong.

    Whatever else is raised inside keeps its traceback: it is a fault of this project, or of a training under way.

    Args:
        kinds: What is told so; by default what checks raise before a run.
    """
    told = kinds or (ValueError, TypeError, OSError, ImportError, RecursionError)
    try:
        yield
    except told as error:
        # an ImportError has the commands that install what is missing, a line each
        sys.exit(f'error: {error if isinstance(error, ImportError) else shorten(str(error))}')


def shorten(text: str) -> str:
    """A message on one line, of a length that can be read; what to do stands at its end, so that stays."""
    line = ' '.join(text.split())
    return line if len(line) <= _LONGEST else f'{line[: _LONGEST - _END - 3]} … {line[-_END:]}'


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Adds ``--max-<name>`` and ``--min-<name>`` for every metric."""
    for name, metric in METRICS.items():
        for word, bound in (('most', 'max'), ('least', 'min')):
            parser.add_argument(
                f'--{bound}-{name}', type=float, help=f'{metric.unit.plain} that the chosen network has at {word}'
            )


def add_comparing(parser: argparse.ArgumentParser) -> None:
    """Adds what every comparison can be told: which rows, how many at a time, by which metric."""
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='rows to run and show (default: all)')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time (default: 2)')
    parser.add_argument('--threads', type=int, default=1, help='threads of each (default: 1)')
    parser.add_argument('--metric', help='metric of the validation, such as coco/bbox_mAP; default the usual one')
    parser.add_argument('--baseline', metavar='ROW', help='row that the others are held against (default: seed)')
    parser.add_argument('--table', action='store_true', help='only print what there is')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override config entries of all rows'
    )


def read_limits(args: argparse.Namespace) -> dict[str, Limit]:
    """The limits that a command line gives, by metric.

    Raises:
        ValueError: A limit is NaN, or its lowest cost is above its highest.
    """
    given = {name: Limit(getattr(args, f'min_{name}'), getattr(args, f'max_{name}')) for name in METRICS}
    return {name: Limit.parse(limit, name) for name, limit in given.items() if limit != Limit()}
