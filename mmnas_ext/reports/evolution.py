"""Figure and table of the generations of an evolution."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmnas_ext.reports import canvas as c
from mmnas_ext.reports.palette import ACCENT, FOUND, RULE
from mmnas_ext.reports.table import format_limit, metric_column, name_metric
from mmnas_ext.search.evolution import SEED
from mmnas_ext.search.generations import Generations
from mmnas_ext.workdir import WorkDir


def read_generations(files: WorkDir) -> Generations | None:
    """The generations in a work dir; ``None`` where there are none.

    Raises:
        ValueError: The file is not of its form.
    """
    return Generations.parse(files.evolution) if files.evolution.is_file() else None


def draw_generations(generations: str | Path | Generations, out: str | Path) -> Path:
    """Draws `generations_figure` of generations, their file or work dir into a file, and returns that."""
    return c.save(generations_figure(_read(generations)), out)


def generations_figure(generations: Generations) -> Figure:
    """Shows what the networks of each generation were worth, their mean, and the best one so far.

    The axes are labelled ``generations``; artists have the gids ``networks``, ``seed``, ``mean`` and ``best``.
    """
    better = 'higher' if generations.rule == 'greater' else 'lower'
    limit = f'{format_limit(generations.metric, generations.limit)} {name_metric(generations.metric)}'
    note = f'{generations.count} networks, {limit}' if any(generations.limit) else f'{generations.count} networks'
    up = f'{generations.rank_by} ({better} is better)'
    figure, axes = c.plot('generations', 'What each generation reached', note, 'generation', up)
    for name, colour, wanted in (('networks', RULE, False), ('seed', ACCENT, True)):
        points = [
            (number, each.value)
            for number, row in enumerate(generations.rows, start=1)
            for each in row
            if each.value is not None and (each.made == SEED) == wanted
        ]
        if points:
            x, y = zip(*points, strict=True)
            marker = 's' if wanted else 'o'
            axes.plot(x, y, linestyle='', marker=marker, markersize=6, color=colour, zorder=3, gid=name, label=name)
    numbers = range(1, len(generations.rows) + 1)
    for name, colour, values in (('mean', FOUND, generations.means), ('best', ACCENT, generations.leads)):
        known = [(number, value) for number, value in zip(numbers, values, strict=True) if value is not None]
        x, y = zip(*known, strict=True) if known else ((), ())
        label = 'best so far' if name == 'best' else name
        axes.plot(x, y, marker='.', linewidth=2, color=colour, zorder=4, gid=name, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=11, ncols=4, loc='upper right')
    return figure


def describe_generations(generations: Generations) -> str:
    """How far an evolution is, in words."""
    done = f'generation {len(generations.rows)} of {generations.asked}'
    return f'{done}, {generations.count} networks measured by {generations.rank_by}'


def generations_cells(generations: Generations) -> list[list[str]]:
    """Head and rows of a table: of each generation how its networks came about, its best, its mean, the best so far."""
    columns = [['generation', *map(str, range(1, len(generations.rows) + 1))]]
    columns.append(['networks', *(str(len(row)) for row in generations.rows)])
    made = dict.fromkeys(each.made for row in generations.rows for each in row)
    columns += [[name, *(str(sum(each.made == name for each in row)) for row in generations.rows)] for name in made]
    for name, values in (('best', generations.bests), ('mean', generations.means), ('best so far', generations.leads)):
        columns.append([f'{name} {generations.rank_by.rpartition("/")[2]}', *_figures(list(values))])
    failed = [sum(each.value is None for each in row) for row in generations.rows]
    columns += [['failed', *map(str, failed)]] if any(failed) else []
    return [list(row) for row in zip(*columns, strict=True)]


def _figures(values: list[float | None]) -> list[str]:
    """A metric's figures: what is no percentage in four digits, since losses of one super-network are close."""
    if any(value is not None and abs(value) >= 10 for value in values):
        return metric_column(values)
    return ['–' if value is None else f'{value:.4f}' for value in values]


def _read(source: str | Path | Generations) -> Generations:
    return source if isinstance(source, Generations) else Generations.parse(source)
