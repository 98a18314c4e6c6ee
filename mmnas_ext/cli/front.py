"""``mmnas front``."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmnas_ext.archs import METRICS, Limit
from mmnas_ext.archs.metrics import show
from mmnas_ext.cli.messages import errors
from mmnas_ext.cli.options import Command, add_limits, read_limits
from mmnas_ext.workdir import WorkDir

if TYPE_CHECKING:
    from mmnas_ext.search.measured import MeasuredFront
    from mmnas_ext.search.select import Selection


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a look at a front can be told."""
    parser.add_argument('ratings', help='ratings.json, or the work dir that holds it')
    add_limits(parser)
    parser.add_argument('--out', help='where files go (default: front/ beside the ratings)')
    parser.add_argument('--rows', type=int, default=12, help='rows of the printed front')


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Reads ratings, prints the front and writes ``front.json``, ``front.png`` and ``arch.json``.

    Where networks of the front have been measured in the ratings' work dir, they are shown and drawn too.
    """
    from mmnas_ext.reports import draw_front, draw_measured, front_table
    from mmnas_ext.search.measured import MeasuredFront
    from mmnas_ext.search.ratings import Ratings
    from mmnas_ext.search.select import select

    file = Path(args.ratings)
    file = WorkDir(file).ratings if file.is_dir() else file
    with errors():
        selection = select(Ratings.parse(file), read_limits(args))
    out = Path(args.out) if args.out else file.parent / 'front'
    measured = MeasuredFront.find(WorkDir(file.parent).front)
    if measured is not None:
        measured = choose_again(measured, selection)
    written = selection.write(out, measured)
    (out / 'arch.json').write_text(selection.arch.format('json'))
    figure = draw_front(written, out / 'front.png')
    reach = ', '.join(show(metric, *ends) for metric, ends in selection.ranges.items())
    print(f'networks of this space: {reach}\n\n{table(selection, args.rows)}\n\n{selection.describe()}\n')
    if measured is not None:
        drawn = draw_measured(measured, out / 'measured.png')
        print(f'measured networks of the front, drawn in {drawn}:\n{front_table(measured)}\n')
    print(f'the front: {written}\nits figure: {figure}\nthe network: {out / "arch.json"}')


def choose_again(measured: 'MeasuredFront', selection: 'Selection') -> 'MeasuredFront':
    """The measured networks of a work dir under other limits; none of them may be the chosen one."""
    networks = tuple(
        replace(network, origin='chosen' if network.arch == selection.arch else 'front') for network in measured.points
    )
    limits = {name: limit for name, limit in selection.limits.items() if limit != Limit()}
    return replace(measured, metric=selection.metric, networks=networks, limits=limits)


def table(selection: 'Selection', rows: int) -> str:
    """The front as text: at most `rows` points, evenly over it, the cheapest and the best rated among them."""
    from mmnas_ext.reports import format_cells

    front = selection.front
    count = min(max(rows, 2), len(front))
    steps = sorted({round(i * (len(front) - 1) / max(1, count - 1)) for i in range(count)})
    cells = [[METRICS[selection.metric].unit.plain, 'rating', 'network']]
    for index in steps:
        choice = tuple(front.choices[index].tolist())
        cost = show(selection.metric, front.costs[index].item())
        stages = selection.ratings.arch(choice).stages
        network = '; '.join(f'{stage.channels}: {" ".join(stage.layers)}' for stage in stages)
        cells.append([cost, f'{front.ratings[index].item():.4f}', network])
    return format_cells(cells)


COMMAND = Command(
    'find the exact front of cost and rating in a file of ratings, and the best network within limits',
    'work_dirs/dna_coco --max-macs 3.5e8 --max-params 5e6',
    add_arguments,
    run,
)
