"""Figures of whole networks by their ratings: the front that was searched, and how well ratings rank."""

from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmnas_ext.archs import Limit
from mmnas_ext.reports import canvas as c
from mmnas_ext.reports.canvas import LEFT, RIGHT, TITLE, WIDTH, Label
from mmnas_ext.reports.palette import FAINT, FOUND, INK, RULE, kernel_colour, tint
from mmnas_ext.reports.table import cost_scale, format_cost, format_limit, name_metric
from mmnas_ext.search.fields import check_kind, check_list_of, find_file, read_object, take
from mmnas_ext.search.front_file import FrontFile

# Steps of a staircase that differ by less than a pixel cannot be told apart, and a front may have a million.
_POINTS = 4000
_SCATTER = 400
_COLUMNS = 3
_BETWEEN = 76
_TICKS = 14  # what numbers of four decimals need beside a label
_BAR = 96


class TrainedAlone(NamedTuple):
    """A network: its multiply-adds, what it reached, and its scores, lower is better."""

    title: str
    macs: float
    truth: float
    scores: dict[str, float]


class Rank(NamedTuple):
    """Content of ``rank.json``: what was measured of networks trained alone, whether more of it is better, and those.

    `tau` holds, by score, Kendall's tau and both ends of its 95 % interval.
    """

    truth: str
    higher_is_better: bool
    networks: tuple[TrainedAlone, ...]
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
    path = find_file(source, 'rank', 'a comparison with networks trained alone')
    content, where = read_object(path), str(path)
    networks = []
    for index, row in enumerate(take(content, 'networks', list, where)):
        at = f'{where}: network {index}'
        given = take(row, 'scores', dict, at)
        scores = {name: check_kind(score, float, f'{at}: score {name}') for name, score in given.items()}
        macs, truth = take(row, 'macs', float, at), take(row, 'truth', float, at)
        networks.append(TrainedAlone(take(row, 'title', str, at), macs, truth, scores))
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
    """Draws `front_figure` of a front, its file or work dir into a file, and returns that; raises as its `parse`."""
    return c.save(front_figure(front if isinstance(front, FrontFile) else FrontFile.parse(front)), out)


def front_figure(front: FrontFile) -> Figure:
    """Shows the lowest rating over the cost that buys it, with the chosen network and the limit.

    The axes are labelled ``front``; artists have the gids ``front``, ``limit`` and ``chosen``.
    """
    limits = [f'{format_limit(name, limit)} {name_metric(name)}' for name, limit in front.limits.items()]
    note = f'networks that no other one beats: {len(front.costs)}'
    note += f'; limits: {", ".join(limits)}' if len(limits) > 1 else ''
    chosen = front.chosen_costs[front.metric]
    bounds = [bound for bound in front.limits.get(front.metric, Limit()) if bound is not None]
    reach = [*front.costs, chosen, *bounds]
    scale = cost_scale(front.metric, max(reach))
    up = 'rating, sum over blocks (lower is better)'
    figure, axes = c.plot('front', 'Rating a network can have at its cost', note, scale.name, up)
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
    for bound in bounds:
        c.draw_limit(axes, format_cost(front.metric, bound), bound / scale.size)
    axes.plot([chosen / scale.size], [front.rating], gid='chosen', **c.MARK)
    text = f'chosen: {format_cost(front.metric, chosen)}, {front.rating:.3f}'
    label = Label(text, chosen / scale.size, front.rating, bold=True)
    c.place_labels(axes, [label], c.along_stairs(axes, x, y, [bound / scale.size for bound in bounds]))
    return figure


def draw_rank(rank: str | Path | Rank, out: str | Path) -> Path:
    """Draws `rank_figure` of a rank, its file or work dir into a file, and returns that; raises as `read_rank`."""
    return c.save(rank_figure(rank if isinstance(rank, Rank) else read_rank(rank)), out)


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
    figure = c.canvas('How scores rank networks', note, height)
    free = WIDTH - LEFT - _TICKS - RIGHT - _BAR - _BETWEEN * (columns - 1)
    macs = [network.macs for network in rank.networks]
    unit = cost_scale('macs', max(macs))
    colours = LinearSegmentedColormap.from_list('macs', [tint(kernel_colour(3), 0.22), kernel_colour(3), INK])
    norm = Normalize(min(macs) / unit.size, max(macs) / unit.size)
    for index, name in enumerate(names):
        left = LEFT + _TICKS + (index % columns) * (free / columns + _BETWEEN)
        bottom = height - TITLE - (index // columns + 1) * cell + 60
        axes = c.add_axes(figure, f'rank.{name}', left, bottom, free / columns, _SCATTER)
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
        if name in rank.tau:
            tau, low, high = rank.tau[name]
            text = f'τ = {tau:.2f}  [{low:.2f}, {high:.2f}]'.replace('-', '\N{MINUS SIGN}')
            axes.text(0, above, text, size=11, color=INK, transform=axes.transAxes, gid=f'tau.{name}')
        c.place_labels(axes, [Label(n.title, s, t) for n, s, t in zip(networks, scores, truths, strict=True)])
    axes = c.add_axes(figure, 'macs', WIDTH - RIGHT - _BAR + 22, height - TITLE - _SCATTER - 60, 14, _SCATTER)
    figure.colorbar(points, cax=axes).outline.set(visible=False)
    axes.tick_params(labelsize=10, colors=FAINT, length=3, color=RULE)
    axes.set_ylabel(unit.name, size=11, color=FAINT)
    return figure
