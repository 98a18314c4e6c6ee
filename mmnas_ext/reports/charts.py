"""Interactive charts of the page, as plotly's figures; what is drawn and how it looks on paper is plotly's work.

Colours are those of light paper (`mmnas_ext.reports.palette`); the page exchanges them where it is dark.
"""

from collections.abc import Iterable, Sequence
from math import isfinite
from statistics import quantiles
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mmnas_ext.archs import Limit, SearchSpace
from mmnas_ext.reports.distill_log import DistillLog
from mmnas_ext.reports.log import SearchLog, searched_layers
from mmnas_ext.reports.measured import undominated
from mmnas_ext.reports.palette import ACCENT, FAINT, FOUND, INK, PAPER, RULE, SEED, candidate_dashes, kernel_colour
from mmnas_ext.reports.result import Network, Result, short
from mmnas_ext.reports.table import cost_scale, format_cost, format_limit, name_metric
from mmnas_ext.reports.trials import Trials
from mmnas_ext.search.decision import SURE, Decision, whole_percent
from mmnas_ext.search.front_file import FrontFile
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.search.ratings import Ratings

# values of a line that a page shows: more than it has pixels, and the page stays small
_MOST = 240
_NUMBERED = 200  # trials whose numbers can be read beside their points
_ROW = 132  # pixels of a layer's panel
_LINE = 22  # pixels of a layer in a list
_COLOURS = (*(kernel_colour(side) for side in (3, 5, 7, 9, 1, 11)), INK)


def front_chart(front: MeasuredFront, result: Result) -> go.Figure:
    """What networks of a front reached over what they cost; a point's text names the network, its cost and metric."""
    scale = cost_scale(front.metric, max(each.costs[front.metric] for each in front.networks))
    name = front.rank_by if any(front.rank_by in each.metrics for each in front.networks) else ''
    figure = _figure(scale.name, f'{short(name)}, in the search' if name else 'score (lower is better)', 380)
    groups: dict[str, list[tuple[float, float, str, str]]] = {'front': [], 'chosen': [], 'seed': []}
    for number, each in front.numbered:
        height = each.metrics.get(name) if name else each.score
        if height is None:
            continue
        title = 'seed' if number is None else f'K = {number}'
        value = f'{short(name) or "score"} {height:.4g}'
        text = [f'<b>{title}{", chosen" if each.origin == "chosen" else ""}</b>', value, *_costs(each.costs)]
        text += [f'{len(each.arch.stages)} stages, {sum(each.arch.depths)} layers', *_trained_at(result, number)]
        point = (each.costs[front.metric] / scale.size, height, title, '<br>'.join(text))
        groups[each.origin].append(point)
    looks = {
        'front': dict(color=FOUND, size=10),
        'chosen': dict(color=ACCENT, size=15, symbol='diamond'),
        'seed': dict(color=SEED, size=12, symbol='square', line=dict(color=INK, width=1)),
    }
    shown = [point for kind in ('front', 'chosen') for point in groups[kind]]
    best = undominated(shown, front.sign if name else -1, lambda point: point[:2])
    line = dict(color=RULE, width=2, shape='hv')
    figure.add_scatter(x=[p[0] for p in best], y=[p[1] for p in best], mode='lines', line=line, hoverinfo='skip',
                       showlegend=False)  # fmt: skip
    for kind, points in groups.items():
        if points:
            x, y, titles, texts = zip(*points, strict=True)
            figure.add_scatter(
                x=x, y=y, text=titles, hovertext=texts, hoverinfo='text', mode='markers+text', marker=looks[kind],
                textposition='top center' if kind != 'seed' else 'bottom center', textfont=dict(size=11), name=kind,
                cliponaxis=False,
            )  # fmt: skip
    _add_limit(figure, front.metric, front.limits.get(front.metric, Limit()), scale.size)
    return figure


def exact_front_chart(front: FrontFile) -> go.Figure:
    """The lowest rating over the cost that buys it, with the chosen network."""
    chosen = front.chosen_costs[front.metric]
    scale = cost_scale(front.metric, max([*front.costs, chosen]))
    figure = _figure(scale.name, 'rating (lower is better)', 360)
    rows = thin(list(zip(front.costs, front.ratings, strict=True)), 4 * _MOST)
    texts = [f'{format_cost(front.metric, cost)}<br>rating {rating:.4f}' for cost, rating in rows]
    figure.add_scatter(
        x=[cost / scale.size for cost, _ in rows], y=[rating for _, rating in rows], hovertext=texts, hoverinfo='text',
        mode='lines+markers', line=dict(color=FOUND, width=2, shape='hv'), marker=dict(size=5), name='front',
    )  # fmt: skip
    words = '<br>'.join(['<b>chosen</b>', f'rating {front.rating:.4f}', *_costs(front.chosen_costs)])
    figure.add_scatter(
        x=[chosen / scale.size], y=[front.rating], hovertext=[words], hoverinfo='text', mode='markers', name='chosen',
        marker=dict(color=ACCENT, size=14, symbol='diamond'), cliponaxis=False,
    )  # fmt: skip
    _add_limit(figure, front.metric, front.limits.get(front.metric, Limit()), scale.size)
    return figure


def trials_chart(trials: Trials) -> go.Figure:
    """What the trials of a random search reached over what they cost, the best one marked; many have no numbers."""
    rows = trials.successes
    scale = cost_scale(trials.metric, max(row.cost for row in trials.rows))
    figure = _figure(scale.name, short(trials.rank_by), 380)
    looks = (dict(color=ACCENT, size=15, symbol='diamond'), dict(color=FOUND, size=10))
    # one trace for all others: each has a cost of its own, which thousands of trials would pay
    for marker, shown in zip(looks, (rows[:1], rows[1:]), strict=True):
        if not shown:
            continue
        values = [row.reached(trials.rank_by) or 0.0 for row in shown]
        texts = []
        for row, value in zip(shown, values, strict=True):
            text = f'<b>trial {row.number:02d}{", best" if row is rows[0] else ""}</b><br>'
            text += f'{short(trials.rank_by)} {value:.4g}<br>{format_cost(trials.metric, row.cost)}<br>'
            texts.append(f'{text}{sum(row.arch.depths)} layers, {row.minutes:.1f} minutes')
        figure.add_scatter(
            x=[row.cost / scale.size for row in shown], y=values, text=[f'{row.number:02d}' for row in shown],
            hovertext=texts, hoverinfo='text', mode='markers+text' if len(shown) <= _NUMBERED else 'markers',
            textposition='top center', marker=marker, showlegend=False, cliponaxis=False,
        )  # fmt: skip
    return figure


def losses_chart(lines: Iterable[tuple[str, Sequence[tuple[int, float]]]], across: str = 'iteration') -> go.Figure:
    """Losses, or other values, over iterations: a line per name."""
    figure = _figure(across, '', 300)
    values: list[float] = []
    for index, (name, rows) in enumerate(lines):
        kept = thin(rows)
        values += [y for _, y in kept if isfinite(y)]
        figure.add_scatter(
            x=[x for x, _ in kept], y=[_digits(y) for _, y in kept], name=name,
            mode='lines+markers' if len(kept) < 30 else 'lines', marker=dict(size=5),
            line=dict(color=_COLOURS[index % len(_COLOURS)], width=2),
            hovertemplate=f'{name}: %{{y:.4g}}<extra></extra>',
        )  # fmt: skip
    figure.update_layout(hovermode='x unified')
    if values and min(values) > 0 and max(values) > 8 * min(values):
        figure.update_yaxes(type='log', dtick='D2')
    return figure


def block_losses_chart(log: DistillLog) -> go.Figure:
    """Distillation losses per block; at 1 a block does no better than the feature's mean."""
    figure = losses_chart([(f'block {block}', rows) for block, rows in log.losses.items()], 'step')
    figure.add_hline(y=1, line=dict(color=FAINT, width=1, dash='dash'))
    return figure


def metric_chart(metric: str, networks: Iterable[Network]) -> go.Figure:
    """A metric of the validations over the training, a line per network."""
    rows = [(each.title, each.log.metrics[metric]) for each in networks if metric in each.log.metrics]
    figure = losses_chart(rows, 'epoch, or iteration where a training counts these')
    figure.update_yaxes(type='linear', title=short(metric), dtick=None)
    return figure


def alpha_charts(log: SearchLog, space: SearchSpace) -> list[tuple[str, go.Figure]]:
    """Per stage its name and how softmax(alpha) of its layers moved, a panel per layer."""
    places = searched_layers(space)
    styles = candidate_dashes(tuple(dict.fromkeys(t for i, j in places for t in space.stages[i].layers[j])))
    records = thin(log.records)
    x = [record.iteration for record in records]
    charts = []
    for stage in sorted({i for i, _ in places}):
        layers = [j for i, j in places if i == stage]
        finals = [log.records[-1].alpha[f'{stage}.{j}'] for j in layers]
        leads = [max(range(len(row)), key=row.__getitem__) for row in finals]
        names = [space.stages[stage].layers[j][lead] for j, lead in zip(layers, leads, strict=True)]
        titles = [
            f'layer {stage}.{j}: {name} {row[lead]:.2f}'
            for j, name, row, lead in zip(layers, names, finals, leads, strict=True)
        ]
        gap = min(0.3, 34 / (_ROW * len(layers)))
        figure = make_subplots(len(layers), 1, shared_xaxes=True, vertical_spacing=gap, subplot_titles=titles)
        for row, j in enumerate(layers, start=1):
            for index, token in enumerate(space.stages[stage].layers[j]):
                colour, dash = styles[token]
                width = 3 if index == leads[row - 1] else 1.4
                y = [_digits(record.alpha[f'{stage}.{j}'][index]) for record in records]
                figure.add_scatter(
                    x=x, y=y, row=row, col=1, showlegend=False,
                    mode='lines' if len(x) > 1 else 'markers',
                    line=dict(color=colour, dash=dash, width=width),
                    hovertemplate=f'{token}: %{{y:.3f}}, iteration %{{x}}<extra></extra>',
                )  # fmt: skip
            if log.start is not None:
                figure.add_vline(x=log.start, line=dict(color=FAINT, width=1, dash='dot'), row=row, col=1)
        figure.update_annotations(x=0, xanchor='left', font=dict(size=12, color=INK))
        _dress(figure, _ROW * len(layers) + 40)
        figure.update_layout(margin=dict(l=8, r=12, t=24, b=28))
        figure.update_yaxes(nticks=4, rangemode='tozero')
        figure.update_xaxes(nticks=4)
        charts.append((f'Stage {stage}', figure))
    return charts


def decision_chart(decision: Decision) -> go.Figure:
    """Per layer how certain it is that the chosen candidate is better than the runner-up."""
    parts = () if decision.host is None else decision.host.parts
    rows = (*decision.layers, *parts)
    figure = _figure('certainty (50% is a coin)', '', _LINE * len(rows) + 90)
    texts = []
    for row in rows:
        error = '' if row.error is None else f' ± {row.error:.4f}'
        of_host = decision.host is not None and row in parts
        kind, unit = ('', decision.host.metric) if of_host and decision.host else ('layer ', decision.score)
        words = [f'<b>{kind}{row.layer}: {row.chosen} over {row.runner_up}</b>', f'{row.certainty:.1%} certain']
        words += [f'lead {row.lead:+.4f}{error} in {unit}', 'all candidates:']
        words += [f'  {token}: {score:.4f}' for token, score in row.scores.items()]
        texts.append('<br>'.join(words))
    figure.add_bar(
        x=[round(row.certainty, 4) for row in rows], y=[f'{row.layer}  {row.chosen} > {row.runner_up}' for row in rows],
        orientation='h', hovertext=texts, hoverinfo='text', showlegend=False,
        text=[whole_percent(row.certainty) for row in rows], textposition='inside', insidetextanchor='end', textangle=0,
        insidetextfont=dict(color=[PAPER if row.certainty >= SURE else INK for row in rows], size=11),
        marker=dict(color=[FOUND if row.certainty >= SURE else SEED for row in rows]),
    )  # fmt: skip
    figure.add_vline(x=0.5, line=dict(color=FAINT, width=1))
    figure.add_vline(x=SURE, line=dict(color=ACCENT, width=1.5, dash='dash'))
    figure.update_xaxes(range=[0, 1.02], tickvals=[0, 0.25, 0.5, 0.75, 1], tickformat='.0%')
    figure.update_yaxes(autorange='reversed', dtick=1, tickfont=dict(size=11), showgrid=False)
    return figure


def ratings_chart(ratings: Ratings, chosen: Sequence[int] | None) -> go.Figure:
    """How the ratings of all paths of a block spread, a box per block, with the best and the chosen path."""
    figure = _figure('', 'rating (lower is better)', 360)
    blocks = [f'block {index}' for index in range(len(ratings.blocks))]
    spread = []
    for block in ratings.blocks:
        values = sorted(block.ratings)
        middle = quantiles(values, n=4) if len(values) > 1 else values * 3
        spread.append((values[0], *middle, values[-1]))
    low, first, median, third, high = (list(column) for column in zip(*spread, strict=True))
    figure.add_box(
        x=blocks, lowerfence=low, q1=first, median=median, q3=third, upperfence=high, name='all paths',
        line=dict(color=FOUND), fillcolor='rgba(0,0,0,0)',
    )  # fmt: skip
    picks = {'best path': ([block.best for block in ratings.blocks], dict(color=INK, size=11, symbol='star'))}
    if chosen is not None:
        ring = dict(color=ACCENT, size=15, symbol='circle-open', line=dict(width=2.5))
        picks['chosen path'] = (list(ratings.picks(chosen)), ring)
    for name, (found, marker) in picks.items():
        values = [block.rating(pick) for block, pick in zip(ratings.blocks, found, strict=True)]
        figure.add_scatter(
            x=blocks, y=values, mode='markers', marker=marker, name=name,
            hovertemplate=f'{name} of %{{x}}: %{{y:.4f}}<extra></extra>',
        )  # fmt: skip
    return figure


def thin(rows: Sequence[Any], most: int = _MOST) -> list[Any]:
    """At most that many evenly chosen entries of a sequence, its first and last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)]


def _figure(across: str, up: str, height: int) -> go.Figure:
    figure = go.Figure()
    _dress(figure, height)
    figure.update_xaxes(title=across)
    figure.update_yaxes(title=up)
    return figure


def _dress(figure: go.Figure, height: int) -> None:
    """The look that all charts share."""
    figure.update_layout(
        template='none', height=height, autosize=True, paper_bgcolor='rgba(0,0,0,0)', plot_bgcolor='rgba(0,0,0,0)',
        font=dict(family='system-ui, sans-serif', size=12, color=INK), margin=dict(l=10, r=16, t=28, b=10),
        legend=dict(orientation='h', y=1.0, yanchor='bottom', x=0, font=dict(size=12)),
        hoverlabel=dict(bgcolor=PAPER, bordercolor=RULE, font=dict(color=INK, size=12), align='left'),
    )  # fmt: skip
    axis: dict[str, Any] = dict(gridcolor=RULE, linecolor=RULE, zeroline=False, automargin=True, ticks='outside')
    axis |= dict(tickcolor=RULE, tickfont=dict(color=FAINT, size=11), title=dict(font=dict(color=FAINT, size=12)))
    figure.update_xaxes(showgrid=False, showline=True, **axis)
    figure.update_yaxes(gridwidth=1, **axis)


def _add_limit(figure: go.Figure, metric: str, limit: Limit, size: float) -> None:
    for bound in limit:
        if bound is not None:
            text = f'limit {format_limit(metric, Limit(max=bound))}'
            line = dict(color=ACCENT, width=1.5, dash='dash')
            figure.add_vline(x=bound / size, line=line, annotation=dict(text=text, font=dict(color=ACCENT, size=11)),
                             annotation_position='bottom left')  # fmt: skip


def _costs(costs: Any) -> list[str]:
    return [f'{name_metric(name)} {format_cost(name, value)}' for name, value in costs.items()]


def _trained_at(result: Result, number: int | None) -> list[str]:
    """What a network of the front reached once trained."""
    seed = result.find('seed')
    row = seed if number is None else next((each for each in result.networks if each.number == number), None)
    if row is None or result.metric is None or result.metric not in row.trained:
        return []
    return [f'trained: {short(result.metric)} {row.trained[result.metric]:.4g}']


def _digits(value: float) -> float | None:
    """Four digits, which keep the page small; nothing for what is NaN or infinite, which leaves a gap."""
    return float(f'{value:.4g}') if isfinite(value) else None
