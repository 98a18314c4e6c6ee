"""Architectures as values: what they are, how they are written, what they cost. Standard library only."""

from mmnas_ext.archs import zoo
from mmnas_ext.archs.cells import Cell, CellSpace, CellStage
from mmnas_ext.archs.cost import Cost, candidate_costs, cost, fixed_cost
from mmnas_ext.archs.latency_table import Geometry, LatencyTable
from mmnas_ext.archs.prices import METRICS, Prices, entries, price, prices
from mmnas_ext.archs.space import Choices, SearchSpace, SpaceStage
from mmnas_ext.archs.spec import ACTIVATIONS, SKIP, ArchSpec, LayerSpec, StageSpec

__all__ = [
    'ACTIVATIONS',
    'METRICS',
    'SKIP',
    'ArchSpec',
    'Cell',
    'CellSpace',
    'CellStage',
    'Choices',
    'Cost',
    'Geometry',
    'LatencyTable',
    'LayerSpec',
    'Prices',
    'SearchSpace',
    'SpaceStage',
    'StageSpec',
    'candidate_costs',
    'cost',
    'entries',
    'fixed_cost',
    'price',
    'prices',
    'zoo',
]
