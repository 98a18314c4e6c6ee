"""Draws the pictures of docs/reading-a-search.md from the work dirs of two finished searches.

Example: ``python docs/pictures.py --by-alpha work_dirs/steel/seed0/search --by-losses work_dirs/demo``
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mmnas_ext.archs import SearchSpace
from mmnas_ext.reports import draw_alphas
from mmnas_ext.search.decision import SURE, Decision, whole_percent
from mmnas_ext.workdir import WorkDir

BLUE, GREY, ORANGE = '#35506b', '#c6cad6', '#c2611f'


def decision_figure(decision: Decision) -> Figure:
    """Shows per layer the lead of the chosen candidate over the next one, and its standard deviation."""
    layers = decision.layers
    places = range(len(layers), 0, -1)
    leads = [layer.lead for layer in layers]
    sure = [layer.certainty >= SURE for layer in layers]
    figure = Figure(figsize=(9, 1.2 + 0.26 * len(layers)), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    axes.axvline(0, color=ORANGE)
    axes.errorbar(leads, places, xerr=[layer.error or 0 for layer in layers], fmt='none', ecolor=GREY, elinewidth=3)
    axes.scatter(leads, places, c=[BLUE if each else 'white' for each in sure], edgecolors=BLUE, zorder=3)
    axes.set_yticks(places, [f'{layer.layer}  {layer.chosen} over {layer.runner_up}' for layer in layers])
    certainties = axes.secondary_yaxis('right')
    certainties.set_yticks(places, [f'{whole_percent(layer.certainty)} certain' for layer in layers])
    certainties.tick_params(length=0)
    axes.set_xlabel(f'lead in {decision.score}: the bar is one standard deviation')
    axes.set_title(f'{sum(sure)} of {len(layers)} layers are {SURE:.0%} certain', loc='left')
    axes.spines[['top', 'right']].set_visible(False)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Draws the alphas of the one search and the decision of the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--by-alpha', required=True, help='work dir of a search whose alpha decided')
    parser.add_argument('--by-losses', required=True, help='work dir of a search whose losses decided')
    parser.add_argument('--out', type=Path, default=Path(__file__).parent, help='folder of both (default: docs/)')
    given = parser.parse_args(argv)
    alpha, losses = WorkDir(given.by_alpha), WorkDir(given.by_losses)
    print(draw_alphas(alpha.root, SearchSpace.parse(alpha.search_space), given.out / 'reading_alphas.png'))
    decision_figure(Decision.parse(losses.decision)).savefig(given.out / 'reading_decision.png')
    print(given.out / 'reading_decision.png')


if __name__ == '__main__':
    main()
