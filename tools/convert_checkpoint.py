"""Writes a checkpoint of any known layout as a plain file, e.g. python tools/convert_checkpoint.py DNA_a.pth.tar a.pth.

Read are the DNA authors' and timm's files, torchvision's, MMPretrain's, the FNA authors' and our own, each recognised
by its keys; the moving average of the weights is preferred where there is one.
"""

import argparse
from collections.abc import Sequence

from mmnas_ext.install_check import explained

with explained():
    from mmnas_ext.cli import shorten
    from mmnas_ext.remap.convert import convert


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and converts the file that it names."""
    parser = argparse.ArgumentParser(description='Write a checkpoint of any known layout as a plain backbone file.')
    parser.add_argument('source', metavar='IN', help='file, URL or package:// address of the checkpoint')
    parser.add_argument('target', metavar='OUT', help='file to write, replaced if it is there')
    parser.add_argument(
        '--classifier', action='store_true', help="keep the classifier too: an MMPretrain ImageClassifier's file"
    )
    parser.add_argument('--no-ema', action='store_true', help='take the trained weights, not their moving average')
    parser.add_argument('--arch', help='the network, where the file does not tell: a zoo name, a .json path, FNA text')
    given = parser.parse_args(argv)
    try:
        written = convert(given.source, given.target, given.arch, given.classifier, ema=not given.no_ema)
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))
    print(written)


if __name__ == '__main__':
    main()
