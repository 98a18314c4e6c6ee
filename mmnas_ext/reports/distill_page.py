"""What the page says of a block-wise distillation: losses, ratings, the exact front, features and ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from mmnas_ext.archs import Limit
from mmnas_ext.reports import charts
from mmnas_ext.reports.distill_log import DistillLog, find_losses
from mmnas_ext.reports.distillation import draw_ratings, list_stages
from mmnas_ext.reports.facts import Facts
from mmnas_ext.reports.imitation import draw_features
from mmnas_ext.reports.markup import chart_html, image_html, note_html, section_html, table_html
from mmnas_ext.reports.ranking import draw_front, draw_rank
from mmnas_ext.reports.table import format_cost, format_limit, format_size, name_metric
from mmnas_ext.search.front_file import FrontFile
from mmnas_ext.search.ratings import CellRatings, Ratings
from mmnas_ext.workdir import WorkDir

_WIDE = 900  # pixels that an image of many panels needs


@dataclass(frozen=True)
class Distilled:
    """What a distillation has left so far; ``None`` for what it has not.

    Args:
        files: Its work dir.
        log: Its losses.
        ratings: Of all paths.
        front: The exact front of cost and rating.
    """

    files: WorkDir
    log: DistillLog | None = None
    ratings: Ratings | None = None
    front: FrontFile | None = None

    @classmethod
    def read(cls, files: WorkDir) -> 'Distilled':
        """Reads the files of a work dir.

        Raises:
            FileNotFoundError: There is nothing of a distillation in it.
            ValueError: A file is not of its form, or two of them do not belong together.
        """
        log = find_losses(files.root)
        ratings = Ratings.parse(files.ratings) if files.ratings.is_file() else None
        front = FrontFile.parse(files.front, ratings) if files.front.is_file() else None
        if not (log or ratings or front or any(path.is_file() for path in (files.features, files.rank, files.arch))):
            names = ', '.join(path.name for path in (files.ratings, files.front, files.features, files.rank))
            raise FileNotFoundError(f'nothing of a distillation in {files.root}: wanted its logged losses, or {names}')
        return cls(files, log, ratings, front)

    def settle(self, facts: Facts) -> Facts:
        """The facts, with the input size of the ratings and the limits of the front where no other file says them."""
        if self.ratings and facts.assumed:
            facts = replace(facts, input_size=self.ratings.input_size, assumed=False)
        if self.front and not facts.limits:
            limits = {name: (limit.min, limit.max) for name, limit in self.front.limits.items()}
            facts = replace(facts, limits=limits, metric=facts.metric or self.front.metric)
        return facts

    def notes(self) -> list[str]:
        """How far it is, and what was left out of its log."""
        if self.log is None:
            return []
        blocks = f'{len(self.log.losses)} {"block" if len(self.log.losses) == 1 else "blocks"}'
        notes = [f'{blocks}, logged up to step {max(rows[-1][0] for rows in self.log.losses.values())}']
        left_out = ((self.log.repeated, 'losses repeated by a resumed run'), (self.log.unreadable, 'unreadable lines'))
        return [*notes, *(f'{what}: {count}' for count, what in left_out if count)]

    def sections(self, target: Path) -> tuple[list[Path], list[str]]:
        """Draws figures into a folder; returns these, and the sections of the page."""
        figures, sections = [], []
        front, ratings, files = self.front, self.ratings, self.files
        if front:
            figures.append(draw_front(front, target / 'front.png'))
            text = 'The lowest rating that a network can have, over what it costs; point at a step for its figures.'
            chart = chart_html(charts.exact_front_chart(front), text)
            sections.append(section_html('Rated front', note_html(text), chart, _tell_choice(front, ratings)))
        if ratings:
            choice = front.choice if front else None
            figures.insert(0, draw_ratings(ratings, target / 'ratings.png', choice))
            text = 'How the ratings of all paths spread, per block: the box holds the middle half of them.'
            chart = chart_html(charts.ratings_chart(ratings, choice), text)
            sections.append(section_html('Ratings', note_html(text), chart, table_html(_block_cells(ratings))))
        if self.log:
            text = "Squared error over the variance of the teacher's feature; at 1 (dashed) a block does no better "
            text += "than the feature's mean."
            chart = chart_html(charts.block_losses_chart(self.log), text)
            sections.append(section_html('Losses of the blocks', note_html(text), chart))
        if files.features.is_file():
            figures.append(draw_features(files.features, target / 'features.png'))
            text = 'Features of the teacher, and beneath them their imitations'
            sections.append(section_html('Features', image_html(figures[-1], text, _WIDE)))
        if files.rank.is_file():
            figures.append(draw_rank(files.rank, target / 'rank.png'))
            text = 'What networks reach trained alone over their scores'
            sections.append(section_html('Ranking', image_html(figures[-1], text, _WIDE)))
        return figures, sections


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
    cells = [['block', 'stages', 'layers', 'enters', 'leaves', 'chosen candidates', 'rating', 'better paths']]
    for index, (block, pick) in enumerate(zip(ratings.blocks, ratings.picks(choice), strict=True)):
        cell = block.cells[pick.cell]
        rating = block.rating(pick)
        better = f'{sum(other < rating for other in block.ratings)} of {len(block.ratings)}'
        shape = ['+'.join(map(str, cell.depths)), str(pick.enters), str(cell.leaves)]
        path = _name_path(ratings, block.stages, cell, pick.path)
        cells.append([str(index), list_stages(block.stages), *shape, path, f'{rating:.4f}', better])
    return f'<h3>Chosen paths</h3>\n{table_html(cells, texts=(5,))}'


def _name_path(ratings: Ratings, stages: Sequence[int], cell: CellRatings, path: int) -> str:
    """The candidates of a path by their tokens, stages apart."""
    words = []
    for stage, index, choices in zip(stages, cell.cell, cell.paths[path], strict=True):
        layers = ratings.space.stages[stage].cells[index].layers
        words.append(' '.join(layer[choice] for layer, choice in zip(layers, choices, strict=True)))
    return ' | '.join(words)
