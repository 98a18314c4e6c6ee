"""Draws what trained detectors or segmentors predict, beside the images and their ground truth.

Example: ``python tools/show_predictions.py --run found=work_dirs/demo_seg/adapt`` (and a second ``--run`` for the seed)
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmnas_ext.install_check import explained

with explained():
    from mmnas_ext.cli import errors
    from mmnas_ext.reports import draw_boxes, draw_predictions
    from mmnas_ext.runs.predict import COUNT, predict, write_labels


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, predicts, and draws; label maps go beside the image, into ``<its name>_labels``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--run', action='append', required=True, metavar='TITLE=FOLDER', help='work dir of a training; may be repeated'
    )
    parser.add_argument('--count', type=int, default=COUNT, help=f'validation images, evenly spaced (default: {COUNT})')
    parser.add_argument('--images', nargs='+', metavar='NAME', default=(), help='these, by how their names begin')
    parser.add_argument('--mask-ignored', action='store_true', help='blank predictions where no label counts')
    parser.add_argument('--out', type=Path, default=Path('predictions.png'), help='(default: predictions.png)')
    args = parser.parse_args(argv)
    runs = dict(run.partition('=')[::2] for run in args.run)
    if len(runs) < len(args.run) or not all([*runs, *runs.values()]):
        parser.error(f'--run must be TITLE=FOLDER, each title once, got {args.run}')
    with errors():
        predicted = predict(runs, args.count, args.images)
        if predicted.kind == 'boxes':
            boxes = (predicted.images, predicted.truths, predicted.predictions)
            print(draw_boxes(*boxes, predicted.classes, predicted.palette, args.out))
            return
        maps = write_labels(predicted, args.out.with_name(f'{args.out.stem}_labels'))
        files = (maps.images, maps.truths, maps.predictions)
        print(draw_predictions(*files, maps.classes, maps.palette, args.out, mask_ignored=args.mask_ignored))


if __name__ == '__main__':
    main()
