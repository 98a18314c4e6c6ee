"""The command `mmnas`: its subcommands by name, and its call from a script in ``tools/``."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mmnas_ext import __version__
from mmnas_ext.cli import (
    compare,
    config,
    convert,
    demo,
    doctor,
    export,
    front,
    latency,
    predict,
    rate,
    report,
    select,
    shapes,
    space,
    test,
    train,
    zoo,
)
from mmnas_ext.cli.options import CONFIG, Command
from mmnas_ext.install_check import explained
from mmnas_ext.shipped import configs

# in the order of a user's work
COMMANDS: dict[str, Command] = {
    'train': train.COMMAND,
    'test': test.COMMAND,
    'select': select.COMMAND,
    'rate': rate.COMMAND,
    'front': front.COMMAND,
    'report': report.COMMAND,
    'predict': predict.COMMAND,
    'export': export.COMMAND,
    'latency': latency.COMMAND,
    'compare': compare.COMMAND,
    'convert': convert.COMMAND,
    'zoo': zoo.COMMAND,
    'space': space.COMMAND,
    'config': config.COMMAND,
    'demo': demo.COMMAND,
    'shapes': shapes.COMMAND,
    'doctor': doctor.COMMAND,
}
SHELLS = ('bash', 'zsh', 'tcsh')


class _PrintCompletion(argparse.Action):
    """Prints the script that completes this command in a shell, made by shtab."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("--print-completion needs shtab: pip install 'mmnas_ext[completion]'")
        words = ' '.join(configs())
        bash = f'{CONFIG["bash"]}() {{\n  compgen -W "{words}" -- "$1"\n  compgen -f -- "$1"\n}}'
        zsh = f'{CONFIG["zsh"]}() {{\n  _alternative "configs:config:({words})" "files:file:_files"\n}}'
        print(shtab.complete(parser, values, preamble={'bash': bash, 'zsh': zsh}.get(values, '')))
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """The parser of `mmnas` with all subcommands."""
    parser = argparse.ArgumentParser(
        prog='mmnas',
        description='Architecture search for MMDetection and MMSegmentation.',
        epilog='example:\n  mmnas train fna_retinanet_coco\n\nmmnas COMMAND --help says more of each.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mmnas_ext {__version__}')
    parser.add_argument(
        '--print-completion',
        choices=SHELLS,
        action=_PrintCompletion,
        help='print what completes this command in a shell, as in: eval "$(mmnas --print-completion bash)" '
        '(default: run a command)',
    )
    added = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for name, command in COMMANDS.items():
        command.fill(added.add_parser(name, help=command.summary))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `mmnas` and returns its exit code.

    Args:
        argv: Arguments; by default those of the process.
    """
    parser = make_parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return 2
    return _run(parser, argv)


def tool(name: str) -> Callable[..., None]:
    """The main function of the script in ``tools/`` that stands for a subcommand.

    Args:
        name: Of the subcommand.
    """

    def call(argv: Sequence[str] | None = None) -> None:
        parser = argparse.ArgumentParser(prog=f'python {Path("tools", Path(sys.argv[0]).name)}')
        if code := _run(COMMANDS[name].fill(parser), argv):
            sys.exit(code)

    return call


def _stopped(words: str) -> AbstractContextManager[None]:
    if not words:
        return nullcontext()
    from mmnas_ext.runs.stopping import stopped_by_signals

    return stopped_by_signals(words)


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    try:
        with explained():
            args = parser.parse_args(argv)
            with _stopped(args.command.stopped):
                code = args.command.run(args, args.parser) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        # who read our words has enough of them, as in `mmnas zoo | head`; what Python still holds goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code
