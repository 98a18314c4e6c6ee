"""The report of a block-wise distillation: its figures, and one self-contained HTML page with all of them."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from mmnas_ext.archs import ArchSpec, Limit
from mmnas_ext.reports.distill_log import find_losses
from mmnas_ext.reports.distillation import draw_ratings, list_stages, losses_figure
from mmnas_ext.reports.facts import read_facts
from mmnas_ext.reports.imitation import draw_features
from mmnas_ext.reports.markup import figure_html, note_html, table_html, write_html
from mmnas_ext.reports.measured import draw_measured
from mmnas_ext.reports.page import tell_measured, write_network, write_report
from mmnas_ext.reports.ranking import draw_front, draw_rank
from mmnas_ext.reports.table import format_cost, format_limit, format_size, name_metric
from mmnas_ext.search.front_file import FrontFile
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.search.ratings import Ratings
from mmnas_ext.workdir import WorkDir


def is_distillation(work_dir: str | Path) -> bool:
    """Tells whether a work dir is of a block-wise distillation; raises as `read_facts`."""
    return read_facts(work_dir).method == 'distillation'


def write_any_report(work_dir: str | Path, out: str | Path | None = None, **options: Any) -> tuple[Path, ...]:
    """Writes the report of a run, of the method that `read_facts` tells, and returns the files written.

    `out` and the other options are those of `write_report` and `write_distill_report`.

    Raises:
        FileNotFoundError: There is no work dir, or nothing to report in it.
        ValueError: A file is not of its form, or the run is a plain training.
    """
    method = read_facts(work_dir).method
    if method == 'plain':
        raise ValueError(
            f'{work_dir} is the work dir of a plain training: a report tells of a search, and none was made here; '
            'its losses and metrics are in <timestamp>/vis_data/scalars.json'
        )
    return (write_distill_report if method == 'distillation' else write_report)(work_dir, out, **options)


def write_distill_report(
    work_dir: str | Path,
    out: str | Path | None = None,
    *,
    seed: ArchSpec | None = None,
    input_size: tuple[int, int] | None = None,
    output_stride: int | None = None,
) -> tuple[Path, ...]:
    """Draws what there is of a block-wise distillation, and writes ``distillation.html`` with all of it.

    Args:
        work_dir: Folder with logs of MMEngine, ``ratings.json``, ``front.json``, ``features.npz``, ``rank.json`` and
            ``derived/arch.json``; each may be missing, but not all.
        out: Folder to write to, made if missing; by default ``report`` in the work dir, and ``front.png`` beside it.
        seed: As in `write_report`, like the next two.
        input_size: By default the run's, or that of the ratings.
        output_stride: By default the run's.

    Returns:
        A figure of each file that there is, and last the page.

    Raises:
        FileNotFoundError: There is no work dir, or none of these files.
        ValueError: A file is not of its form, or two of them do not belong together.
    """
    files = WorkDir(Path(work_dir))
    facts = read_facts(files.root, input_size, output_stride)
    log = find_losses(files.root)
    ratings = Ratings.parse(files.ratings) if files.ratings.is_file() else None
    front = FrontFile.parse(files.front, ratings) if files.front.is_file() else None
    measured = MeasuredFront.find(files.root)
    if ratings and facts.assumed:
        facts = replace(facts, input_size=ratings.input_size, assumed=False)
    if not (log or ratings or front or any(path.is_file() for path in (files.features, files.rank, files.arch))):
        names = ', '.join(path.name for path in (files.ratings, files.front, files.features, files.rank))
        raise FileNotFoundError(f'nothing of a distillation in {files.root}: wanted its logged losses, or {names}')
    target = files.report if out is None else Path(out)
    target.mkdir(parents=True, exist_ok=True)
    figures: list[Path] = []
    notes = []
    if log:
        notes.append(f'{len(log.losses)} blocks, logged up to step {max(rows[-1][0] for rows in log.losses.values())}')
        left_out = ((log.repeated, 'losses repeated by a resumed run'), (log.unreadable, 'unreadable lines'))
        notes += [f'{what}: {count}' for count, what in left_out if count]
    name = f'Distillation in {files.root.resolve().name}'
    parts = [f'<h1>{escape(name)}</h1>\n{note_html("; ".join(notes))}']

    def add(heading: str, file: Path, text: str) -> None:
        figures.append(file)
        parts.append(figure_html(heading, '', file, text))

    if log:
        losses_figure(log).savefig(target / 'losses.png')
        add('Losses', target / 'losses.png', 'Distillation loss per block over the steps')
    if ratings:
        file = draw_ratings(ratings, target / 'ratings.png', front.choice if front else None)
        add('Ratings', file, 'Ratings of all paths, per block and cell')
        parts.append(table_html(_block_cells(ratings)))
    if front:
        add('Front', draw_front(front, target / 'front.png'), 'Lowest rating over the cost that buys it')
        parts.append(_tell_choice(front, ratings))
    if measured:
        # of the work dir itself, since all methods leave it there
        file = files.front_figure if out is None else target / 'measured.png'
        figures.append(draw_measured(measured, file))
        parts.append(tell_measured(measured, file, facts))
    if files.features.is_file():
        file = draw_features(files.features, target / 'features.png')
        add('Features', file, 'Features of the teacher and their imitations')
    if files.rank.is_file():
        file = draw_rank(files.rank, target / 'rank.png')
        add('Ranking', file, 'What networks reach trained alone over their scores')
    if files.arch.is_file():
        arch = ArchSpec.parse(files.arch.read_text(encoding='utf-8'))
        file, section = write_network(arch, target / 'network.png', 'Found network', facts, seed)
        figures.append(file)
        parts.append(section)
    return (*figures, write_html(target / 'distillation.html', name, parts))


def _block_cells(ratings: Ratings) -> list[list[str]]:
    cells = [['block', 'stages', 'cells', 'layers', 'channels', 'paths', 'best', 'median', 'worst']]
    for index, block in enumerate(ratings.blocks):
        depths = dict.fromkeys('+'.join(map(str, cell.depths)) for cell in block.cells)
        widths = dict.fromkeys(str(cell.leaves) for cell in block.cells)
        counts = [str(len(block.cells)), ', '.join(depths), ', '.join(widths), str(len(block.ratings))]
        rated = [f'{rating:.4f}' for rating in (min(block.ratings), median(block.ratings), max(block.ratings))]
        cells.append([str(index), list_stages(block.stages), *counts, *rated])
    return cells


def _tell_choice(front: FrontFile, ratings: Ratings | None) -> str:
    """The chosen network with its limits, and what it picks in each block."""
    metrics = [*front.chosen_costs]
    costs = [format_cost(metric, cost) for metric, cost in front.chosen_costs.items()]
    cells = [['network', *map(name_metric, metrics), 'rating'], ['chosen', *costs, f'{front.rating:.4f}']]
    if front.limits:
        limits = [format_limit(metric, front.limits.get(metric, Limit())) for metric in metrics]
        cells.append(['limit', *limits, '–'])
    note = note_html(f'MAdds at {format_size(ratings.input_size)}.') if ratings else ''
    return f'{note}{table_html(cells)}{_tell_paths(front.choice, ratings) if ratings else ""}'


def _tell_paths(choice: Sequence[int], ratings: Ratings) -> str:
    cells = [['block', 'stages', 'layers', 'enters', 'leaves', 'candidates', 'rating', 'better paths']]
    for index, (block, pick) in enumerate(zip(ratings.blocks, ratings.picks(choice), strict=True)):
        cell = block.cells[pick.cell]
        rating = block.rating(pick)
        path = ' | '.join(' '.join(map(str, stage)) for stage in cell.paths[pick.path])
        better = f'{sum(other < rating for other in block.ratings)} of {len(block.ratings)}'
        shape = ['+'.join(map(str, cell.depths)), str(pick.enters), str(cell.leaves)]
        cells.append([str(index), list_stages(block.stages), *shape, path, f'{rating:.4f}', better])
    return f'<h2>Chosen paths</h2>\n{note_html("Candidates by their index per layer.")}{table_html(cells)}'
