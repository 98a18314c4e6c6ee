"""Makes a small generated data set, for example: python tools/make_shapes.py --task det --root data/shapes_det."""

import argparse
from collections.abc import Sequence

from mmnas_ext.install_check import explained

with explained():
    from mmnas_ext.cli import shorten
    from mmnas_ext.datasets import make_detection, make_segmentation

_MAKERS = {'det': make_detection, 'seg': make_segmentation}


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and makes the set that it asks for."""
    parser = argparse.ArgumentParser(description='Make a small detection (COCO) or segmentation (Cityscapes) data set.')
    parser.add_argument('--task', choices=sorted(_MAKERS), required=True, help='det: COCO, seg: Cityscapes')
    parser.add_argument('--root', required=True, help='folder to make; left alone if it holds this very set already')
    parser.add_argument('--train', type=int, help='training images')
    parser.add_argument('--val', type=int, help='validation images')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='height and width of an image in pixels')
    parser.add_argument('--seed', type=int, help='any other gives other images')
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    task, root = given.pop('task'), given.pop('root')
    try:
        made = _MAKERS[task](root, **given)
    except (ValueError, OSError) as error:
        parser.error(shorten(str(error)))
    print(f'{root}: made' if made else f'{root}: there already, left as it is')


if __name__ == '__main__':
    main()
