"""What command lines share: a command as a value, its parser, and the options that several of them have."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmnas_ext.archs import METRICS, Limit
from mmnas_ext.cli.messages import errors, shorten
from mmnas_ext.install_check import require_mm
from mmnas_ext.shipped import find_config

# read by shell completion: names of shipped configs, and files
CONFIG = {'bash': '_mmnas_configs', 'zsh': '_mmnas_configs'}


@dataclass(frozen=True)
class Command:
    """A subcommand of ``mmnas``.

    Args:
        summary: What it does, one line.
        example: Arguments of one call, as a user would type them.
        add_arguments: Gives a parser its arguments.
        run: Does what the arguments say; gets the parser too, whose ``error`` ends it with the usage.
        details: What else is to be known, lines of at most 100 characters.
        stopped: Said where Ctrl-C or SIGTERM end it; empty where Python's own way does, or the command has its own.
    """

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, argparse.ArgumentParser], int | None]
    details: str = ''
    stopped: str = ''

    def fill(self, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Gives a parser the help and the arguments of this command."""
        parser.formatter_class = HelpFormatter
        parser.description = f'{self.summary[0].upper()}{self.summary[1:]}.'
        if self.details:
            parser.description += f'\n\n{self.details.strip()}'
        parser.epilog = f'example:\n  {parser.prog} {self.example}'
        self.add_arguments(parser)
        parser.set_defaults(command=self, parser=parser)
        return parser


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows the default of every option that has one and does not say it in words."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ''
        silent = any(action.default is each for each in (None, False, argparse.SUPPRESS)) or not action.option_strings
        return text if silent or 'default' in text else f'{text} (default: %(default)s)'


class _Options(argparse.Action):
    """MMEngine's ``key=value`` pairs, read by its own action; its errors are told as those of any other option."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        from mmengine.config import DictAction

        try:
            DictAction(self.option_strings, self.dest, nargs='+')(parser, namespace, values, option_string)
        except Exception:  # no sign of equality, or brackets that do not close
            parser.error(f'--cfg-options must be key=value with balanced brackets, got {shorten(repr(values))}')


def add_config(parser: argparse.ArgumentParser, help: str = 'config file, or the name of a shipped one') -> None:
    """Adds the config, which a shell completes by file and by the names of those that come with the package."""
    parser.add_argument('config', help=help).complete = CONFIG  # type: ignore[attr-defined]


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options``, as OpenMMLab's tools have it."""
    parser.add_argument(
        '--cfg-options', nargs='+', action=_Options, metavar='KEY=VALUE', help='override config entries (default: none)'
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the config, the work dir, overrides and the launcher, as OpenMMLab's tools have them."""
    add_config(parser)
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='what has started the processes'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by some launchers')


def begin_run(args: argparse.Namespace) -> None:
    """Looks at what `add_run` has read before libraries are loaded, which takes seconds.

    A launcher's ``--local_rank`` goes where MMEngine looks for it; a missing package or config ends the command.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with errors():
        require_mm('mmcv')
        find_config(args.config)


def add_size(parser: argparse.ArgumentParser, size: str, stride: str = 'its own, or else 32') -> None:
    """Adds ``--input-size`` and ``--output-stride``, by which multiply-adds are counted.

    Args:
        parser: The parser.
        size: What the size is without the option, in words.
        stride: What the output stride is without.
    """
    parser.add_argument(
        '--input-size', type=int, nargs=2, metavar=('H', 'W'), help=f'image in pixels (default: {size})'
    )
    parser.add_argument('--output-stride', type=int, choices=(8, 16, 32), help=f'of the backbone (default: {stride})')


def add_limits(parser: argparse.ArgumentParser, otherwise: str = 'no limit') -> None:
    """Adds ``--max-<name>`` and ``--min-<name>`` for every metric.

    Args:
        parser: The parser.
        otherwise: What limits without the option, in words.
    """
    for name, metric in METRICS.items():
        for word, bound in (('most', 'max'), ('least', 'min')):
            parser.add_argument(
                f'--{bound}-{name}',
                type=float,
                metavar='X',
                help=f'{metric.unit.plain} that the chosen network has at {word} (default: {otherwise})',
            )


def add_comparing(parser: argparse.ArgumentParser, seeds: Sequence[int] = (0, 1, 2)) -> None:
    """Adds what every comparison can be told: which rows, over which random seeds, how many at a time, by which metric.

    Args:
        parser: The parser.
        seeds: The random seeds where none are said.
    """
    said = ' '.join(map(str, seeds))
    parser.add_argument('--seeds', type=int, nargs='+', default=[*seeds], help=f'random seeds (default: {said})')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='rows to run and show (default: all)')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time (default: 2)')
    parser.add_argument('--threads', type=int, default=1, help='threads of each (default: 1)')
    parser.add_argument('--metric', help='of the validation, such as coco/bbox_mAP (default: the usual one)')
    parser.add_argument('--baseline', metavar='ROW', help='row that the others are held against (default: seed)')
    parser.add_argument('--table', action='store_true', help='only print what there is')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',  # as MMEngine's action of the other commands
        default=[],
        metavar='KEY=VALUE',
        help='override config entries of all rows (default: none)',
    )


def read_limits(args: argparse.Namespace) -> dict[str, Limit]:
    """The limits that a command line gives, by metric.

    Raises:
        ValueError: A limit is NaN or infinite, or its lowest cost is above its highest.
    """
    for name in METRICS:
        for end in ('min', 'max'):
            if (value := getattr(args, f'{end}_{name}')) is not None and not math.isfinite(value):
                raise ValueError(f'--{end}-{name} must be a finite number, got {value}: leave it out for no limit')
    given = {name: Limit(getattr(args, f'min_{name}'), getattr(args, f'max_{name}')) for name in METRICS}
    return {name: Limit.parse(limit, name) for name, limit in given.items() if limit != Limit()}


def pick(values: Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width from a command line."""
    return None if values is None else (values[0], values[1])
