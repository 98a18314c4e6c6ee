"""Pictures and page of a block-wise distillation, from the files in its work dir."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median

from mmnas_ext.archs import ArchSpec
from mmnas_ext.reports.blockwise import (
    FRONT_NAME,
    RANK_NAME,
    RATINGS_NAME,
    FrontFile,
    Ratings,
    read_front,
    read_rank,
    read_ratings,
)
from mmnas_ext.reports.canvas import format_cost
from mmnas_ext.reports.distill_log import DistillLog, has_losses, read_losses
from mmnas_ext.reports.distillation import draw_ratings, losses_figure, stage_names
from mmnas_ext.reports.imitation import draw_features
from mmnas_ext.reports.network import draw_network
from mmnas_ext.reports.page import DEFAULT_SIZE, image_html, network_html, table_html, write_html
from mmnas_ext.reports.ranking import draw_front, draw_rank
from mmnas_ext.reports.table import format_size

FEATURES_NAME = 'features.npz'
PAGE_NAME = 'distillation.html'
_NAMES = {'macs': 'MAdds', 'params': 'parameters', 'latency': 'latency'}


def is_distillation(work_dir: str | Path) -> bool:
    """Whether a work dir is of a block-wise distillation: it holds its ratings, or a log of its losses.

    Raises:
        ValueError: A logged loss is no number.
    """
    return (Path(work_dir) / RATINGS_NAME).is_file() or has_losses(work_dir)


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
        out: Folder to write to, made if missing; by default ``report`` in the work dir.
        seed: Network to draw above the derived one.
        input_size: Height and width that the drawn network's MAdds are given for; by default those of the ratings.
        output_stride: As in `mmnas_ext.archs.cost`; by default that of the ratings.

    Returns:
        The files written: those of ``losses.png``, ``ratings.png``, ``front.png``, ``features.png``, ``rank.png`` and
        ``network.png`` whose source there is, and last the page.

    Raises:
        FileNotFoundError: There is no work dir, or none of these files.
        ValueError: A file is not of its form, or two of them do not belong together.
    """
    folder = Path(work_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f'no work dir at {folder}')
    log = read_losses(folder) if has_losses(folder) else None
    ratings = read_ratings(folder) if (folder / RATINGS_NAME).is_file() else None
    front = read_front(folder) if (folder / FRONT_NAME).is_file() else None
    derived = folder / 'derived' / 'arch.json'
    features = folder / FEATURES_NAME
    ranked = (folder / RANK_NAME).is_file()
    if not (log or ratings or front or ranked or features.is_file() or derived.is_file()):
        wanted = f'a log with distillation losses, {RATINGS_NAME}, {FRONT_NAME}, {FEATURES_NAME} or {RANK_NAME}'
        raise FileNotFoundError(f'nothing of a distillation in {folder}: wanted {wanted}')
    target = folder / 'report' if out is None else Path(out)
    target.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    parts = [_heading(folder, log)]
    if log:
        losses_figure(log).savefig(target / 'losses.png')
        parts.append(_shown('Losses', target / 'losses.png', 'Distillation loss per block over the steps', written))
    if ratings:
        choice = front.chosen.choice if front and front.chosen else ()
        picture = draw_ratings(ratings, target / 'ratings.png', choice or None)
        parts.append(_shown('Ratings', picture, 'Ratings of all paths, per block and cell', written))
        parts.append(table_html(_block_cells(ratings)))
    if front:
        picture = draw_front(front, target / 'front.png')
        parts.append(_shown('Front', picture, 'Lowest rating over the cost that buys it', written))
        parts.append(_chosen(front, ratings))
    if features.is_file():
        picture = draw_features(features, target / 'features.png')
        parts.append(_shown('Features', picture, 'Features of the teacher and their imitations', written))
    if ranked:
        picture = draw_rank(read_rank(folder), target / 'rank.png')
        parts.append(_shown('Ranking', picture, 'What networks reach trained alone over their scores', written))
    if derived.is_file():
        size = input_size or (ratings.input_size if ratings else DEFAULT_SIZE)
        stride = output_stride or (ratings.output_stride if ratings else 32)
        arch = ArchSpec.parse(derived.read_text(encoding='utf-8'))
        written.append(draw_network(arch, target / 'network.png', seed=seed, input_size=size, output_stride=stride))
        parts.append(network_html(arch, True, seed, size, stride))
    return (*written, write_html(target / PAGE_NAME, f'Distillation in {folder.resolve().name}', parts))


def _heading(folder: Path, log: DistillLog | None) -> str:
    notes = []
    if log:
        last = max(rows[-1][0] for rows in log.losses.values())
        notes.append(f'{len(log.losses)} blocks, logged up to step {last}')
        left_out = ((log.repeated, 'losses repeated by a resumed run'), (log.unreadable, 'unreadable lines'))
        notes += [f'{what}: {count}' for count, what in left_out if count]
    note = f'<p class="note">{"; ".join(notes)}</p>\n' if notes else ''
    return f'<h1>Distillation in {escape(folder.resolve().name)}</h1>\n{note}'


def _shown(heading: str, picture: Path, text: str, written: list[Path]) -> str:
    """A section with a picture, which is noted as written."""
    written.append(picture)
    return f'<h2>{heading}</h2>\n{image_html(picture.read_bytes(), text)}'


def _block_cells(ratings: Ratings) -> list[list[str]]:
    cells = [['block', 'stages', 'cells', 'layers', 'channels', 'paths', 'best', 'median', 'worst']]
    for index, block in enumerate(ratings.blocks):
        depths = dict.fromkeys('+'.join(map(str, cell.depths)) for cell in block.cells)
        widths = dict.fromkeys(str(cell.leaves) for cell in block.cells)
        rated = [min(block.ratings), median(block.ratings), max(block.ratings)]
        cells.append(
            [
                str(index),
                stage_names(block.stages).partition(' ')[2],
                str(len(block.cells)),
                ', '.join(depths),
                ', '.join(widths),
                str(len(block.ratings)),
                *(f'{rating:.4f}' for rating in rated),
            ]
        )
    return cells


def _chosen(front: FrontFile, ratings: Ratings | None) -> str:
    """The chosen network beside the others, and what it picks in each block."""
    if front.chosen is None:
        return '<p class="note">No network is chosen yet.</p>\n'
    networks = (front.chosen, *front.others)
    metrics = dict.fromkeys(metric for network in networks for metric in network.costs)
    cells = [['network', *(_NAMES.get(metric, metric) for metric in metrics), 'rating']]
    for network in networks:
        costs = [format_cost(metric, network.costs[metric]) if metric in network.costs else '–' for metric in metrics]
        cells.append([network.title, *costs, f'{network.rating:.4f}'])
    limits = [format_cost(metric, front.limits[metric]) if metric in front.limits else '–' for metric in metrics]
    if front.limits:
        cells.append(['limit', *limits, '–'])
    size = f'<p class="note">MAdds at {format_size(ratings.input_size)}.</p>\n' if ratings else ''
    return f'{size}{table_html(cells)}{_picked(front.chosen.choice, ratings) if ratings else ""}'


def _picked(choice: Sequence[int], ratings: Ratings) -> str:
    if not choice:
        return ''
    cells = [['block', 'stages', 'layers', 'enters', 'leaves', 'candidates', 'rating', 'better paths']]
    for index, (block, entry) in enumerate(zip(ratings.blocks, ratings.entries(choice), strict=True)):
        cell = block.cells[entry.cell]
        rating = block.rating(entry)
        cells.append(
            [
                str(index),
                stage_names(block.stages).partition(' ')[2],
                '+'.join(map(str, cell.depths)),
                str(cell.enters[entry.width]),
                str(cell.leaves),
                ' | '.join(' '.join(map(str, stage)) for stage in cell.paths[entry.path]),
                f'{rating:.4f}',
                f'{sum(other < rating for other in block.ratings)} of {len(block.ratings)}',
            ]
        )
    return f'<h2>Chosen paths</h2>\n<p class="note">Candidates by their index per layer.</p>\n{table_html(cells)}'
