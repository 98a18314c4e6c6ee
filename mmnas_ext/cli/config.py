"""``mmnas config``."""

import argparse
from fnmatch import fnmatch

from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import CONFIG, Command
from mmnas_ext.shipped import MARK, called, configs, find_shipped, headline

START = """# My own {name}: {headline}.
#
#   mmnas train my.py --dry-run     all checks, one step of each half, the plan; leaves no file
#   mmnas train my.py
#
# Written by: mmnas config {name} > my.py
# It runs as it is, from a folder in which its data lie. What is set below takes effect in every part of a run.
_base_ = '{mark}{name}.py'
"""
_BOXES, _MASKS = (
    """
# Your own images, one line for all of loaders, classes, heads and evaluators ('coco' or 'voc'):
# data = dict(type='coco', root='boxes')
""",
    """
# Your own images, one line for all of loaders, classes, heads and evaluators ('folder-masks' or 'cityscapes'):
# data = dict(type='folder-masks', root='fields', classes=('ground', 'crop', 'weed'))
""",
)
# of a detector and of a segmentor, by names of configs
DATA = {
    '*retinanet*': _BOXES, 'examples/*_coco': _BOXES, '*deeplab*': _MASKS, 'examples/*_cityscapes': _MASKS,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a copy can be told."""
    name = parser.add_argument('name', nargs='?', metavar='NAME', help='print a start from this one, not the list')
    name.complete = CONFIG  # type: ignore[attr-defined]
    parser.add_argument(
        '--full', action='store_true', help='print the whole of it, without _base_, for tools that do not know ours'
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Prints the list, or one start."""
    with errors():
        if args.name is None and args.full:
            raise ValueError('--full needs the NAME of a config')
        print(list_configs() if args.name is None else whole(args.name) if args.full else start(args.name), end='')


def list_configs() -> str:
    """The shipped configs, a line each: name and headline."""
    found = configs()
    width = max(map(len, found))
    return ''.join(f'{name:<{width}}  {headline(file)}\n' for name, file in found.items())


def start(name: str) -> str:
    """A short config that inherits a shipped one.

    Raises:
        FileNotFoundError: None has this name; the message has the nearest.
    """
    file = find_shipped(name)
    full = called(file)
    hint = next((text for names, text in DATA.items() if fnmatch(full, names)), '')
    return START.format(name=full, headline=headline(file), mark=MARK) + hint


def whole(name: str) -> str:
    """A shipped config with all that it inherits, as text.

    Raises:
        FileNotFoundError: None has this name; the message has the nearest.
    """
    file = find_shipped(name)
    from mmengine.config import Config

    text = Config.fromfile(file).pretty_text
    return f'# {called(file)}: {headline(file)}.\n# Written by: mmnas config {called(file)} --full\n{text}'


COMMAND = Command(
    'list the shipped configs, or print one as a start of your own',
    'fna_retinanet_coco > my.py',
    add_arguments,
    run,
    """
What is printed inherits the shipped config, so that what you add to it is all that differs: mmnas and
the scripts in tools/ read it from any folder, your own code after import mmnas_ext.registry.
With --full it is the whole config, which tools of MMDetection and MMSegmentation read as well. They
train what trains a network; a search needs mmnas train.
""",
)
