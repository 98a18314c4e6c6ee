"""Figures of whole networks by their ratings: the front that was searched, and how well ratings rank."""

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmnas_ext.reports.canvas import (
    LEFT,
    RIGHT,
    TITLE,
    WIDTH,
    Label,
    Style,
    add_axes,
    annotate,
    canvas,
    place_labels,
    save,
)
from mmnas_ext.reports.palette import ACCENT, FAINT, FOUND, INK, PAPER, RULE, kernel_colour, tint
from mmnas_ext.reports.table import cost_scale, format_cost, name_metric
from mmnas_ext.search.fields import check_kind, check_list_of, read_object, take
from mmnas_ext.search.front_file import FrontFile
from mmnas_ext.workdir import WorkDir

_PLOT = 520
# Steps of a staircase that differ by less than a pixel cannot be told apart, and a front may have a million.
_POINTS = 4000
_BUSY = 400
_SCATTER = 400
_COLUMNS = 3
_BETWEEN = 76
_TICKS = 14  # what numbers of four decimals need beside a label
_BAR = 96


class Ranked(NamedTuple):
    """A network that was trained alone: its multiply-adds, what it reached, and its scores, lower is better."""

    title: str
    macs: float
    truth: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Rank:
    """Content of ``rank.json``.

    Args:
        truth: What was measured of networks trained alone.
        higher_is_better: Whether more of it is better.
        networks: At least two.
        tau: Per score Kendall's tau and both ends of its 95 % interval.
    """

    truth: str
    higher_is_better: bool
    networks: tuple[Ranked, ...]
    tau: dict[str, tuple[float, ...]]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores, in the order in which the networks first give them."""
        return tuple(dict.fromkeys(name for network in self.networks for name in network.scores))


def read_rank(source: str | Path) -> Rank:
    """Reads ``rank.json``, or that of a work dir.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not of its form, or holds fewer than two networks.
    """
    path = Path(source)
    path = WorkDir(path).rank if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f'rank file does not exist: {path}; a comparison with networks trained alone writes it')
    content, where = read_object(path), str(path)
    networks = []
    for index, row in enumerate(take(content, 'networks', list, where)):
        at = f'{where}: network {index}'
        given = take(row, 'scores', dict, at)
        scores = {name: check_kind(score, float, f'{at}: score {name}') for name, score in given.items()}
        macs, truth = take(row, 'macs', float, at), take(row, 'truth', float, at)
        networks.append(Ranked(take(row, 'title', str, at), macs, truth, scores))
    if len(networks) < 2:
        raise ValueError(f'{where}: networks must be at least two to be ranked, got {len(networks)}')
    tau = {}
    for name, row in take(content, 'tau', dict, where).items():
        tau[name] = check_list_of(row, float, f'{where}: tau {name}')
        if len(tau[name]) != 3:
            raise ValueError(f'{where}: tau {name} must be [tau, low, high], got {len(tau[name])} numbers')
    higher = take(content, 'higher_is_better', bool, where)
    rank = Rank(take(content, 'truth', str, where), higher, tuple(networks), tau)
    if not rank.scores:
        raise ValueError(f'{where}: a network must have a score, got none')
    return rank


def draw_front(front: str | Path | FrontFile, out: str | Path) -> Path:
    """Draws `front_figure` of ``front.json``, of its work dir or its content, into a file, which is returned.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not of its form.
    """
    return save(front_figure(front if isinstance(front, FrontFile) else FrontFile.parse(front)), out)


def front_figure(front: FrontFile) -> Figure:
    """Shows the lowest rating over the cost that buys it, with the chosen network and the limit.

    The axes are labelled ``front``; artists have the gids ``front``, ``limit`` and ``chosen``.
    """
    figure = canvas('Rating a network can have at its cost', _note(front), TITLE + _PLOT + 86)
    axes = add_axes(figure, 'front', LEFT, 56, WIDTH - LEFT - RIGHT, _PLOT)
    limit, chosen = front.limits.get(front.metric), front.chosen_costs[front.metric]
    reach = [*front.costs, chosen, *([] if limit is None else [limit])]
    scale = cost_scale(front.metric, max(reach))
    step = ceil(len(front.costs) / _POINTS)
    kept = slice((len(front.costs) - 1) % step, None, step)
    costs, ratings = np.array(front.costs)[kept] / scale.size, np.array(front.ratings)[kept]
    low, end = min(reach) / scale.size, max(reach) / scale.size
    # beyond the last step its rating still holds
    end += 0.06 * (end - low)
    x, y = np.append(costs, end), np.append(ratings, ratings[-1])
    axes.plot(x, y, drawstyle='steps-post', color=FOUND, linewidth=1.8, zorder=3, gid='front')
    if len(costs) <= 60:
        axes.plot(costs, ratings, linestyle='', marker='o', markersize=4, color=FOUND, zorder=3, gid='steps')
    axes.set_xlim(low - 0.04 * (end - low or 1), end if end > low else low + 1)
    heights = [*front.ratings, front.rating]
    room = 0.08 * (max(heights) - min(heights) or 1)
    axes.set_ylim(min(heights) - room, max(heights) + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9))
    axes.set_xlabel(scale.name, size=11, color=FAINT)
    axes.set_title('rating, sum over blocks (lower is better)', loc='left', size=11, color=FAINT, pad=8)
    if limit is not None:
        _draw_limit(axes, front.metric, limit, scale.size)
    style: Style = {'linestyle': '', 'marker': 'D', 'markersize': 11, 'color': ACCENT, 'markeredgecolor': PAPER}
    axes.plot([chosen / scale.size], [front.rating], zorder=5, gid='chosen', **style)
    text = f'chosen: {format_cost(front.metric, chosen)}, {front.rating:.3f}'
    label = Label(text, chosen / scale.size, front.rating, bold=True)
    place_labels(axes, [label], _busy(axes, x, y, None if limit is None else limit / scale.size))
    return figure


def draw_rank(rank: str | Path | Rank, out: str | Path) -> Path:
    """Draws `rank_figure` of ``rank.json``, of its work dir or its content, into a file, which is returned.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not of its form.
    """
    return save(rank_figure(rank if isinstance(rank, Rank) else read_rank(rank)), out)


def rank_figure(rank: Rank) -> Figure:
    """Shows what networks reach when trained alone over their scores, a panel per score, with Kendall's tau.

    Axes are labelled ``rank.<score>``, their points have the gid ``points.<score>``; the bar of colours is ``macs``.
    """
    names = rank.scores
    columns = min(_COLUMNS, len(names))
    rows = ceil(len(names) / columns)
    cell = _SCATTER + 120
    height = TITLE + rows * cell
    note = f"{len(rank.networks)} networks, each trained alone; Kendall's τ and its 95 % interval"
    figure = canvas('How scores rank networks', note, height)
    free = WIDTH - LEFT - _TICKS - RIGHT - _BAR - _BETWEEN * (columns - 1)
    macs = [network.macs for network in rank.networks]
    unit = cost_scale('macs', max(macs))
    colours = LinearSegmentedColormap.from_list('macs', [tint(kernel_colour(3), 0.22), kernel_colour(3), INK])
    norm = Normalize(min(macs) / unit.size, max(macs) / unit.size)
    for index, name in enumerate(names):
        left = LEFT + _TICKS + (index % columns) * (free / columns + _BETWEEN)
        bottom = height - TITLE - (index // columns + 1) * cell + 60
        axes = add_axes(figure, f'rank.{name}', left, bottom, free / columns, _SCATTER)
        networks = [network for network in rank.networks if name in network.scores]
        scores, truths = [n.scores[name] for n in networks], [n.truth for n in networks]
        shades = [network.macs / unit.size for network in networks]
        points = axes.scatter(scores, truths, s=58, c=shades, cmap=colours, norm=norm, zorder=3, gid=f'points.{name}')
        points.set(edgecolor=INK, linewidth=0.6)
        axes.margins(0.12)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.set_xlabel(f'{name} (lower is better)', size=11, color=FAINT, parse_math=False)
        if index % columns == 0:
            better = 'higher' if rank.higher_is_better else 'lower'
            axes.set_ylabel(f'{rank.truth} ({better} is better)', size=11, color=FAINT, parse_math=False)
        axes.set_title(name, loc='left', size=12, weight='bold', color=INK, pad=26, parse_math=False)
        above = 1 + 11 / _SCATTER
        axes.text(0, above, _tau(rank, name), size=11, color=INK, transform=axes.transAxes, gid=f'tau.{name}')
        place_labels(axes, [Label(n.title, s, t) for n, s, t in zip(networks, scores, truths, strict=True)])
    _draw_bar(figure, points, unit.name, height)
    return figure


def _note(front: FrontFile) -> str:
    limits = [f'{format_cost(name, limit)} {name_metric(name)}' for name, limit in front.limits.items()]
    points = f'networks that no other one beats: {len(front.costs)}'
    return f'{points}; limits: {", ".join(limits)}' if len(limits) > 1 else points


def _draw_limit(axes: Axes, metric: str, limit: float, size: float) -> None:
    axes.axvline(limit / size, color=ACCENT, linewidth=1.4, linestyle=(0, (4, 2)), zorder=2, gid='limit')
    # to the left of its line where there is no room to the right
    late = axes.transLimits.transform((limit / size, 0))[0] > 0.85
    style: Style = {'ha': 'right' if late else 'left', 'va': 'top', 'size': 10.5, 'color': ACCENT}
    at, coords = (limit / size, 1), ('data', 'axes fraction')
    annotate(axes, f'limit {format_cost(metric, limit)}', at, (-5 if late else 5, -3), coords, **style)


def _busy(axes: Axes, x: np.ndarray, y: np.ndarray, limit: float | None) -> list[tuple[float, float]]:
    """Places along the staircase, and along the limit, close enough that no label fits between two."""
    across = np.linspace(x[0], x[-1], _BUSY)
    stairs = y[np.searchsorted(x, across, side='right').clip(1) - 1]
    low, high = axes.get_ylim()
    upright = [(limit, value) for value in np.linspace(low, high, 60)] if limit is not None else []
    # a long step down has no places of its own
    falls = [(a, v) for a, b, c in zip(x[1:], y[:-1], y[1:], strict=True) for v in np.arange(c, b, (high - low) / 60)]
    return [*zip(across.tolist(), stairs.tolist(), strict=True), *upright, *falls]


def _tau(rank: Rank, name: str) -> str:
    if name not in rank.tau:
        return ''
    tau, low, high = rank.tau[name]
    return f'τ = {tau:.2f}  [{low:.2f}, {high:.2f}]'.replace('-', '\N{MINUS SIGN}')


def _draw_bar(figure: Figure, points: PathCollection, name: str, height: float) -> None:
    """Which colour stands for how many multiply-adds."""
    axes = add_axes(figure, 'macs', WIDTH - RIGHT - _BAR + 22, height - TITLE - _SCATTER - 60, 14, _SCATTER)
    bar = figure.colorbar(points, cax=axes)
    bar.outline.set(visible=False)
    axes.tick_params(labelsize=10, colors=FAINT, length=3, color=RULE)
    axes.set_ylabel(name, size=11, color=FAINT)
