"""A metric is one entry of the table: what is added here for a test works wherever a metric may be named."""

import argparse
import json
import math
from types import SimpleNamespace

import pytest
import torch

from mmnas_ext.archs import (
    METRICS,
    CellSpace,
    Metric,
    Prices,
    SearchSpace,
    SpaceStage,
    Unit,
    cell_prices,
    price,
    prices,
)
from mmnas_ext.backbones import SuperNet
from mmnas_ext.cli import add_limits, read_limits
from mmnas_ext.engine.limits import CostTerm, derive_path
from mmnas_ext.engine.monitor import measure, scalars
from mmnas_ext.search.ratings import BlockRatings, CellRatings, Ratings, price_paths
from mmnas_ext.search.select import reachable, select

SIZE = (16, 16)
SPACE = SearchSpace((SpaceStage(8, 12, (('k3_e2', 'k5_e1'), ('k3_e2', 'skip')), 2),))
# by hand: the stem leaves 8x8, the stage 4x4; what expansion, depthwise and projection put out
STEM = 8 * 64
ROWS = ((16 * 64 + 16 * 16 + 12 * 16, 8 * 16 + 12 * 16), (24 * 16 + 24 * 16 + 12 * 16, 0))


@pytest.fixture(autouse=True)
def activations(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """The values that convolutions put out."""
    metric = Metric(
        'activations', Unit(1e6, 'M activations', 'activations', 1), 'activations', 'mactivations',
        lambda place, token: sum(conv.channels * positions for conv, positions in place.outputs(token)),
    )  # fmt: skip
    monkeypatch.setitem(METRICS, metric.name, metric)
    return metric


def test_networks_are_priced() -> None:
    priced = prices(SPACE, SIZE, metric='activations')
    assert priced == Prices('activations', STEM, (ROWS,))
    assert priced.range() == (STEM + ROWS[0][1], STEM + ROWS[0][0] + ROWS[1][0])
    assert price(SPACE.arch(((1, 0),)), SIZE, metric='activations') == STEM + ROWS[0][1] + ROWS[1][0]
    assert priced.show(2.5e6) == '2.5 M activations'
    with pytest.raises(ValueError, match="table goes with metric='latency' alone, got one with metric='activations'"):
        prices(SPACE, SIZE, metric='activations', table={})


def test_a_search_is_limited() -> None:
    net = SuperNet(SPACE, out_indices=(0,), input_size=SIZE)
    for alpha in net.arch_parameters():
        alpha.data = torch.tensor([1.0, 0.0])
    term = CostTerm.parse({'metric': 'activations', 'max': STEM + ROWS[0][1] + ROWS[1][0], 'weight': 0.1})
    priced = term.prices(SPACE, SIZE)
    # both largest alphas cost too much, and giving either up costs the same: the first of equals in cost is the cheaper
    assert derive_path(net) == ((0, 0),)
    found = derive_path(net, term.limit, priced)
    assert priced.path(found) <= STEM + ROWS[0][1] + ROWS[1][0]
    assert found in (((0, 1),), ((1, 0),))
    assert term.describe(SPACE.arch(((1, 1),)), SIZE).endswith(f', {(STEM + ROWS[0][1]) / 1e6:.4g} M activations')
    expected = 1 / (1 + math.exp(-1))
    wanted = sum(expected * row[0] + (1 - expected) * row[1] for row in ROWS)
    assert net.expected_cost(priced).item() == pytest.approx(wanted)
    record = {**measure(net, priced), 'drawn': {}}
    assert record['argmax_activations'] == STEM + ROWS[0][0] + ROWS[1][0]
    assert scalars(record)['search/expected_mactivations'] == pytest.approx((STEM + wanted) / 1e6)


def test_a_network_is_selected() -> None:
    cells = CellSpace.of(SPACE)
    priced = {'activations': cell_prices(cells, SIZE, metric='activations')}
    paths = tuple(((a, b),) for a in (0, 1) for b in (0, 1))
    costs = price_paths(cells, priced, (0,), (0,), 8, paths)['activations']
    assert costs == [STEM + ROWS[0][a] + ROWS[1][b] for ((a, b),) in paths]
    cell = CellRatings((0,), (8,), 12, paths, (0.1, 0.2, 0.3, 0.4), {'activations': tuple((cost,) for cost in costs)})
    value = Ratings(cells, SIZE, ('activations',), (BlockRatings((0,), (cell,)),))
    assert Ratings.parse(value.format()) == value
    assert reachable(cells, priced['activations']) == (min(costs), max(costs))
    found = select(value, {'activations': {'max': max(costs) - 1}})
    assert found.chosen.choice == (1,)
    assert f'at most {(max(costs) - 1) / 1e6:.4g} M activations' in found.describe()
    assert json.loads(found.format())['limits'] == {'activations': max(costs) - 1}


def test_a_tool_takes_its_limits() -> None:
    parser = argparse.ArgumentParser()
    add_limits(parser)
    args = parser.parse_args(['--max-activations', '2e6', '--min-activations', '1e6', '--max-macs', '3e8'])
    assert read_limits(args) == {'macs': (None, 3e8), 'activations': (1e6, 2e6)}
    assert 'activations that the chosen network has at most' in ' '.join(parser.format_help().split())
    assert read_limits(SimpleNamespace(**{**vars(args), 'max_macs': None})).keys() == {'activations'}
    with pytest.raises(ValueError, match=r'^macs.min must be at most macs.max, got 4.0 and 3.0'):
        read_limits(parser.parse_args(['--max-macs', '3', '--min-macs', '4']))
    with pytest.raises(ValueError, match='--max-macs must be a finite number, got inf: leave it out for no limit'):
        read_limits(parser.parse_args(['--max-macs', 'inf']))
