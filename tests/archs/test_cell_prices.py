"""Prices of cells, by hand and against whole networks."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnas_ext.archs import (
    Cell,
    CellPrices,
    CellSpace,
    CellStage,
    Geometry,
    LatencyTable,
    cell_prices,
    entries,
    price,
    zoo,
)

SIZE = (9, 12)
SPACE = CellSpace(
    4,
    (
        CellStage(1, (Cell(4, (('k3_e1',),)),)),
        CellStage(2, (Cell(6, (('k3_e2', 'k5_e3'),)), Cell(8, (('k3_e2', 'k5_e3'), ('k3_e2', 'skip'))))),
        CellStage(2, (Cell(10, (('k3_e2', 'k3_e6_se0.25'),)), Cell(6, (('k3_e2',), ('k7_e2', 'skip'))))),
        CellStage(1, (Cell(12, (('k5_e3',),)),)),
    ),
    act='swish',
)
CHOSEN = [(0, a, b, 0) for a in range(2) for b in range(2)]


def table() -> LatencyTable:
    """Of all layers of the space; latencies differ, and have decimals that floats do not have."""
    found = dict.fromkeys(layer for cells in CHOSEN for layer in entries(SPACE.space(cells), SIZE))
    return LatencyTable('a board', 1, tuple((g, (7 * n % 101 + 1) / 10) for n, g in enumerate(found)), act='swish')


METRICS = [('macs', None), ('params', None), ('latency', table())]


def priced_by_parts(prices: CellPrices, cells: tuple[int, ...], path: tuple[tuple[int, ...], ...]) -> Fraction:
    """Stem and layers, each looked up by the width that enters its stage; of the decimals, not of the floats."""
    parts, width = [prices[0][SPACE.stem_channels, cells[0]].stem], SPACE.stem_channels
    for number, (cell, choices) in enumerate(zip(cells, path, strict=True)):
        (rows,) = prices[number][width, cell].layers
        parts += [row[choice] for row, choice in zip(rows, choices, strict=True)]
        width = SPACE.stages[number].cells[cell].channels
    return sum((Fraction(str(part)) for part in parts), Fraction(0))


def rows_of(prices: CellPrices, stage: int) -> dict[tuple[int, int], tuple[tuple[float, ...], ...]]:
    return {key: found.layers[0] for key, found in prices[stage].items()}


def test_multiply_adds_by_hand() -> None:
    prices = cell_prices(SPACE, SIZE)
    # the stem leaves 5x6 positions, the first stride 3x3, the second 2x2
    assert [[found.stem for found in stage.values()] for stage in prices] == [[27 * 4 * 30], [0, 0], [0] * 4, [0] * 2]
    assert rows_of(prices, 0) == {(4, 0): (((9 * 4 + 4 * 4) * 30,),)}
    narrow, wide = 4 * 8 * 30 + 9 * 8 * 9, 4 * 12 * 30 + 25 * 12 * 9
    assert rows_of(prices, 1) == {
        (4, 0): ((narrow + 8 * 6 * 9, wide + 12 * 6 * 9),),
        (4, 1): ((narrow + 8 * 8 * 9, wide + 12 * 8 * 9), ((8 * 16 + 9 * 16 + 16 * 8) * 9, 0)),
    }
    # what the first layer costs depends on the width that enters, what the second costs does not
    assert set(prices[2]) == {(6, 0), (6, 1), (8, 0), (8, 1)}
    second = ((6 * 12 + 49 * 12 + 12 * 6) * 4, 0)
    for width in (6, 8):
        first = width * 2 * width * 9 + 9 * 2 * width * 4 + 2 * width * 6 * 4
        assert rows_of(prices, 2)[width, 1] == ((first,), second)


def test_latencies_by_hand() -> None:
    measured = table()
    prices = cell_prices(SPACE, SIZE, metric='latency', table=measured)
    assert prices[0][4, 0].stem == measured[Geometry('stem', 3, 4, 2, 1, 9, 12)]
    assert rows_of(prices, 1)[4, 1] == (
        (measured[Geometry('k3_e2', 4, 8, 2, 1, 5, 6)], measured[Geometry('k5_e3', 4, 8, 2, 1, 5, 6)]),
        (measured[Geometry('k3_e2', 8, 8, 1, 1, 3, 3)], 0.0),
    )
    assert rows_of(prices, 3)[6, 0] == ((measured[Geometry('k5_e3', 6, 12, 1, 1, 2, 2)],),)


@pytest.mark.parametrize(('metric', 'measured'), METRICS)
@given(seed=st.integers(0, 2**32))
def test_parts_add_up_to_the_network(metric: str, measured: LatencyTable | None, seed: int) -> None:
    rng = random.Random(seed)
    cells = tuple(rng.randrange(len(stage.cells)) for stage in SPACE.stages)
    path = SPACE.space(cells).sample_path(rng)
    prices = cell_prices(SPACE, SIZE, metric=metric, table=measured)
    whole = price(SPACE.arch(cells, path), SIZE, metric=metric, table=measured)
    assert priced_by_parts(prices, cells, path) == Fraction(str(whole))
    assert {found.metric for stage in prices for found in stage.values()} == {metric}
    # a stage alone is priced as any space is
    first = prices[0][4, 0]
    assert first.path(path[:1]) == first.range()[0]


def test_the_output_stride_counts() -> None:
    strided = CellSpace(4, tuple(CellStage(2, (Cell(8, (('k3_e2',),)),)) for _ in range(4)))
    arch = strided.arch((0,) * 4, ((0,),) * 4)
    for output_stride in (8, 16, 32):
        prices = cell_prices(strided, (64, 64), output_stride)
        rows = [stage[width, 0].path(((0,),)) for stage, width in zip(prices, (4, 8, 8, 8), strict=True)]
        assert sum(rows) == price(arch, (64, 64), output_stride)
    assert price(arch, (64, 64), 8) > price(arch, (64, 64), 16) > price(arch, (64, 64), 32)


def test_published_networks_have_their_published_cost() -> None:
    space = zoo.cells('dna_lite')
    prices = cell_prices(space, (224, 224), metric='params')
    # EfficientNet-Lite0 has 4.65 M parameters, of which head and classifier 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    tokens = (['k3_e1'], ['k3_e6'] * 2, ['k5_e6'] * 2, ['k3_e6'] * 3, ['k5_e6'] * 3, ['k5_e6'] * 4, ['k3_e6'])
    parts, width = [prices[0][space.stem_channels, 0].stem], space.stem_channels
    for number, layers in enumerate(tokens):
        cells = space.stages[number].cells
        cell = next(i for i, each in enumerate(cells) if len(each.layers) == len(layers))
        offered = cells[cell].layers
        for row, tokens_of, token in zip(prices[number][width, cell].layers[0], offered, layers, strict=True):
            parts.append(row[tokens_of.index(token)])
        width = cells[cell].channels
    assert sum(parts) == 4_652_008 - (320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'metric': 'flops'}, "metric must be one of .*'latency'.*got 'flops'"),
        ({'metric': 'latency'}, "metric='latency' needs table="),
        ({'table': table()}, "table goes with metric='latency' alone"),
        ({'metric': 'latency', 'table': table(), 'size': (32, 32)}, 'the latency table of a board lacks'),
        ({'output_stride': 4}, r'output_stride must be one of \(8, 16, 32\), got 4'),
        ({'size': (0, 8)}, 'size'),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cell_prices(SPACE, **{'size': SIZE, **changes})
