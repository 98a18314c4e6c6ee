"""Tables of the networks that a decision compared as wholes: by losses of the super-network, and adapted briefly."""

from collections.abc import Sequence

from mmnas_ext.search.decision import Adapted, Compared, Decision


def decision_cells(decision: Decision) -> list[list[str]]:
    """Head and rows of the networks that were compared as wholes, the best first."""
    return [['network', 'expected loss less the reference', 'measured', 'batches'], *_rows(decision.networks)]


def adapted_cells(adapted: Adapted) -> list[list[str]]:
    """Head and rows of the networks that were adapted briefly, the best first."""
    return [
        ['network', f'expected {adapted.metric} less the reference', 'measured', 'trainings'],
        *_rows(adapted.networks),
    ]


def _rows(networks: Sequence[Compared]) -> list[list[str]]:
    return [[each.arch.format('fna'), *each.cells()] for each in networks]
