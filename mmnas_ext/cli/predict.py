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
    from mmnas_ext.reports import draw_predictions
    from mmnas_ext.runs.predict import predict_labels

    with errors():
        maps = predict_labels(runs, args.out.with_name(f'{args.out.stem}_labels'), args.count, args.images)
        files = (maps.images, maps.truths, maps.predictions)
        print(draw_predictions(*files, maps.classes, maps.palette, args.out, mask_ignored=args.mask_ignored))


COMMAND = Command(
    'draw what trained segmentors predict, beside the images and their ground truth',
    '--run found=work_dirs/mine/adapt --run seed=work_dirs/seed/adapt --out predictions.png',
    add_arguments,
    run,
)
