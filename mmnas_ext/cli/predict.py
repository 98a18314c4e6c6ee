"""``mmnas predict``."""

import argparse
from pathlib import Path

from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a drawing of predictions can be told."""
    parser.add_argument(
        '--run', action='append', required=True, metavar='TITLE=FOLDER', help='work dir of a training; may be repeated'
    )
    parser.add_argument('--count', type=int, default=4, help='validation images, evenly spaced')
    parser.add_argument(
        '--images', nargs='+', metavar='NAME', default=(), help='these, by how their names begin (default: by count)'
    )
    parser.add_argument('--mask-ignored', action='store_true', help='blank predictions where no label counts')
    parser.add_argument('--out', type=Path, default=Path('predictions.png'), help='file to write')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Predicts, and draws; label maps go beside the image, into ``<its name>_labels``."""
    runs = dict(each.partition('=')[::2] for each in args.run)
    if len(runs) < len(args.run) or not all([*runs, *runs.values()]):
        parser.error(f'--run must be TITLE=FOLDER, each title once, got {args.run}')
    from mmnas_ext.reports import draw_boxes, draw_predictions
    from mmnas_ext.runs.predict import predict, write_labels

    with errors():
        predicted = predict(runs, args.count, args.images)
        if predicted.kind == 'boxes':
            boxes = (predicted.images, predicted.truths, predicted.predictions)
            print(draw_boxes(*boxes, predicted.classes, predicted.palette, args.out))
            return
        maps = write_labels(predicted, args.out.with_name(f'{args.out.stem}_labels'))
        files = (maps.images, maps.truths, maps.predictions)
        print(draw_predictions(*files, maps.classes, maps.palette, args.out, mask_ignored=args.mask_ignored))


COMMAND = Command(
    'draw what trained detectors or segmentors predict, beside the images and their ground truth',
    '--run found=work_dirs/mine/adapt --run seed=work_dirs/seed/adapt --out predictions.png',
    add_arguments,
    run,
)
