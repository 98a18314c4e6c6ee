"""``mmnas shapes``."""

import argparse

from mmnas_ext.cli.messages import shorten
from mmnas_ext.cli.options import Command

_NUMBERS = ('train', 'val', 'size', 'seed')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a data set can be told."""
    parser.add_argument('--task', choices=('det', 'seg'), required=True, help='det: COCO, seg: Cityscapes')
    parser.add_argument('--root', required=True, help='folder to make; left alone if it holds this very set already')
    parser.add_argument('--train', type=int, help='training images (default: 160 of det, 96 of seg)')
    parser.add_argument('--val', type=int, help='validation images (default: 160 of det, 32 of seg)')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of an image in pixels (default: 192 256)',
    )
    parser.add_argument('--seed', type=int, help='any other gives other images (default: 0)')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Makes the set that is asked for."""
    from mmnas_ext.datasets import make_detection, make_segmentation

    make = {'det': make_detection, 'seg': make_segmentation}[args.task]
    given = {name: getattr(args, name) for name in _NUMBERS if getattr(args, name) is not None}
    try:
        made = make(args.root, **given)
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))
    print(f'{args.root}: made' if made else f'{args.root}: there already, left as it is')


COMMAND = Command(
    'make a small generated data set, for detection (COCO) or segmentation (Cityscapes)',
    '--task det --root data/shapes_det',
    add_arguments,
    run,
)
