"""``mmnas convert``."""

import argparse

from mmnas_ext.cli.messages import shorten
from mmnas_ext.cli.options import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a conversion can be told."""
    parser.add_argument('source', metavar='IN', help='file, URL or package:// address of the checkpoint')
    parser.add_argument('target', metavar='OUT', help='file to write, replaced if it is there')
    parser.add_argument(
        '--classifier', action='store_true', help="keep the classifier too: an MMPretrain ImageClassifier's file"
    )
    parser.add_argument('--no-ema', action='store_true', help='take the trained weights, not their moving average')
    parser.add_argument(
        '--arch', help='the network: a zoo name, a .json path, FNA text (default: the one that the file tells)'
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Converts the file that is named."""
    from mmnas_ext.remap.convert import convert

    try:
        written = convert(args.source, args.target, args.arch, args.classifier, ema=not args.no_ema)
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))
    print(written)


COMMAND = Command(
    'write a checkpoint of any known layout as a plain backbone file',
    'DNA_a.pth.tar checkpoints/dna_a.pth',
    add_arguments,
    run,
    """
Read are the DNA authors' and timm's files, torchvision's, MMPretrain's, the FNA authors' and our own,
each recognised by its keys; the moving average of the weights is preferred where there is one.
""",
)
