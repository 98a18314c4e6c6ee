"""Figure and table of a decision: per layer what was chosen, by how much, and how surely."""

from pathlib import Path

from matplotlib.figure import Figure

from mmnas_ext.reports import canvas as c
from mmnas_ext.reports.palette import ACCENT, FAINT, FOUND, INK, PAPER, RULE
from mmnas_ext.search.decision import SURE, Decision

_LINE = 30  # pixels a layer
_FRAME = 190
_WORDS = {
    'probability': 'lead in probability over the runner-up',
    'loss': 'lead in loss over the runner-up, costs at the price of the limit',
}


def draw_decision(decision: str | Path | Decision, out: str | Path) -> Path:
    """Draws `decision_figure` of a decision, its file or work dir into a file, and returns that."""
    return c.save(decision_figure(decision if isinstance(decision, Decision) else Decision.parse(decision)), out)


def decision_figure(decision: Decision) -> Figure:
    """Shows per layer the lead of the chosen candidate over the next one, with its standard deviation.

    A filled point is decided, an open one is not. The axes are labelled ``decision``; artists have the gids
    ``decided``, ``undecided`` and ``errors``.
    """
    rows = decision.layers
    height = _FRAME + _LINE * len(rows)
    note = (
        f'{decision.decided} of {len(rows)} layers are {SURE:.0%} certain, {decision.certainty:.0%} on average; '
        '50% is a coin'
    )
    figure = c.canvas(f'What was decided, by {decision.type}', note, height)
    axes = c.add_axes(figure, 'decision', 250, 62, c.WIDTH - 250 - 170, height - 62 - c.TITLE - 36)
    places = range(len(rows))
    errors = [row.error or 0.0 for row in rows]
    axes.errorbar(
        [row.lead for row in rows], places, xerr=errors, fmt='none', ecolor=RULE, elinewidth=2.4, zorder=2, gid='errors'
    )
    for sure, face in ((True, FOUND), (False, PAPER)):
        found = [(row.lead, place) for place, row in enumerate(rows) if (row.certainty >= SURE) == sure]
        if found:
            x, y = zip(*found, strict=True)
            gid = 'decided' if sure else 'undecided'
            axes.scatter(x, y, s=58, linewidths=1.6, zorder=4, facecolor=face, edgecolor=FOUND, gid=gid)
    axes.axvline(0, color=ACCENT, linewidth=1.2, zorder=1)
    axes.set_yticks(list(places), [f'{row.layer}   {row.chosen} over {row.runner_up}' for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(_WORDS[decision.score])
    for place, row in enumerate(rows):
        colour = INK if row.certainty >= SURE else FAINT
        axes.annotate(
            f'{row.certainty:.0%} certain',
            (1.012, place),
            xycoords=('axes fraction', 'data'),
            va='center',
            color=colour,
            annotation_clip=False,
        )
    return figure


def decision_cells(decision: Decision) -> list[list[str]]:
    """Head and rows of the networks that were compared as wholes, the best first."""
    rows = [['network', 'expected loss less the reference', 'measured', 'batches']]
    for each in decision.networks:
        measured = '–' if each.measured is None else f'{each.measured:+.4f}'
        network = each.arch.format('fna')
        rows.append([network, f'{each.expected:+.4f} ± {each.error:.4f}', measured, str(each.batches)])
    return rows
