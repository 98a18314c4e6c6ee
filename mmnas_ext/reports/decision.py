"""Table of the networks that a decision compared as wholes."""

from mmnas_ext.search.decision import Decision


def decision_cells(decision: Decision) -> list[list[str]]:
    """Head and rows of the networks that were compared as wholes, the best first."""
    rows = [['network', 'expected loss less the reference', 'measured', 'batches']]
    for each in decision.networks:
        measured = '–' if each.measured is None else f'{each.measured:+.4f}'
        network = each.arch.format('fna')
        rows.append([network, f'{each.expected:+.4f} ± {each.error:.4f}', measured, str(each.batches)])
    return rows
