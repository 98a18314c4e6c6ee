"""Architectures as values: what they are, how they are written, what they cost. Standard library only."""

from mmnas_ext.archs import sources, zoo
from mmnas_ext.archs.blocks import ACTIVATIONS, SKIP, BasicSpec, BlockSpec, BottleneckSpec, FusedSpec, LayerSpec
from mmnas_ext.archs.cells import Cell, CellSpace, CellStage
from mmnas_ext.archs.convs import STEMS, Conv, Stem
from mmnas_ext.archs.cost import Cost, candidate_costs, cost, fixed_cost
from mmnas_ext.archs.from_seed import space_from
from mmnas_ext.archs.host_choices import HostChoice, HostChoices
from mmnas_ext.archs.latency_table import Geometry, LatencyTable
from mmnas_ext.archs.limit import Limit
from mmnas_ext.archs.metrics import METRICS, Metric, Unit
from mmnas_ext.archs.places import Place, cell_places, layer_convs, places, pyramid
from mmnas_ext.archs.prices import CellPrices, Prices, cell_prices, entries, price, prices
from mmnas_ext.archs.space import INPUT_SIZE, OUTPUT_STRIDE, Choices, SearchSpace, SpaceStage
from mmnas_ext.archs.spec import ArchSpec, StageSpec

__all__ = [
    'ACTIVATIONS',
    'INPUT_SIZE',
    'METRICS',
    'OUTPUT_STRIDE',
    'SKIP',
    'STEMS',
    'ArchSpec',
    'BasicSpec',
    'BlockSpec',
    'BottleneckSpec',
    'Cell',
    'CellPrices',
    'CellSpace',
    'CellStage',
    'Choices',
    'Conv',
    'Cost',
    'FusedSpec',
    'Geometry',
    'HostChoice',
    'HostChoices',
    'LatencyTable',
    'LayerSpec',
    'Limit',
    'Metric',
    'Place',
    'Prices',
    'SearchSpace',
    'SpaceStage',
    'StageSpec',
    'Stem',
    'Unit',
    'candidate_costs',
    'cell_places',
    'cell_prices',
    'cost',
    'entries',
    'fixed_cost',
    'layer_convs',
    'places',
    'price',
    'prices',
    'pyramid',
    'sources',
    'space_from',
    'zoo',
]
