"""Prices against arithmetic and hand-written tables; latencies of a network against those of its layers."""

import itertools
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnas_ext.archs import (
    METRICS,
    ArchSpec,
    Geometry,
    LatencyTable,
    Prices,
    SearchSpace,
    SpaceStage,
    StageSpec,
    entries,
    price,
    prices,
    zoo,
)

# stem 3 -> 8, one fixed layer, then two searched ones; 7x9 pixels leave 4x5, then 2x3
SPACE = SearchSpace(
    (SpaceStage(8, 8, (('k3_e1',),), 1), SpaceStage(8, 12, (('k3_e2', 'k5_e1'), ('k3_e2', 'k5_e2_se0.25', 'skip')), 2))
)
SIZE = (7, 9)
ROWS = [
    (('stem', 3, 8, 2, 1, 7, 9), 0.1),
    (('k3_e1', 8, 8, 1, 1, 4, 5), 0.2),
    (('k3_e2', 8, 12, 2, 1, 4, 5), 0.7),
    (('k5_e1', 8, 12, 2, 1, 4, 5), 0.4),
    (('k3_e2', 12, 12, 1, 1, 2, 3), 0.6),
    (('k5_e2_se0.25', 12, 12, 1, 1, 2, 3), 1.3),
]
TABLE = LatencyTable('a board', 1, tuple((Geometry(*layer), ms) for layer, ms in ROWS))
PATHS = [((0,), choice) for choice in itertools.product((0, 1), (0, 1, 2))]


def table_of(found: tuple[Geometry, ...]) -> LatencyTable:
    """A table whose latencies differ, with decimals that floats do not have."""
    return LatencyTable('a board', 1, tuple((geometry, (7 * n % 101 + 1) / 10) for n, geometry in enumerate(found)))


def test_multiply_adds_and_parameters_by_hand() -> None:
    macs, params = prices(SPACE, SIZE), prices(SPACE, SIZE, metric='params')
    assert tuple(METRICS) == ('macs', 'params', 'latency')
    assert macs.metric == 'macs'
    # 20 positions after the stem, 6 after the stride
    stem, fixed = 27 * 8 * 20, (9 * 8 + 8 * 8) * 20
    first = (8 * 16 * 20 + 9 * 16 * 6 + 16 * 12 * 6, 25 * 8 * 6 + 8 * 12 * 6)
    plain = 12 * 24 + 9 * 24 + 24 * 12
    second = (plain * 6, (12 * 24 + 25 * 24 + 24 * 12) * 6 + 2 * 24 * 3, 0)
    assert macs == Prices('macs', stem, (((fixed,),), (first, second)))
    assert macs.fixed == stem + fixed
    stem, fixed = 27 * 8 + 16, 9 * 8 + 16 + 8 * 8 + 16
    first = (8 * 16 + 32 + 9 * 16 + 32 + 16 * 12 + 24, 25 * 8 + 16 + 8 * 12 + 24)
    norms = 48 + 48 + 24
    second = (plain + norms, 12 * 24 + 25 * 24 + 24 * 12 + norms + 2 * 24 * 3 + 24 + 3, 0)
    assert params == Prices('params', stem, (((fixed,),), (first, second)))
    assert params.fixed == stem + fixed


def test_latency_by_hand() -> None:
    latency = prices(SPACE, SIZE, 32, 'latency', TABLE)
    # 0.1 + 0.2 is 0.30000000000000004 in floats
    assert latency.fixed == 0.3
    assert latency == Prices('latency', 0.1, (((0.2,),), ((0.7, 0.4), (0.6, 1.3, 0.0))))
    assert latency.range() == (0.7, 2.3)
    assert latency.searched() == {'1.0': (0.7, 0.4), '1.1': (0.6, 1.3, 0.0)}
    assert latency.path(((0,), (0, 1))) == 2.3
    assert latency.path(((0,), (0, 0))) == 1.6
    assert price(SPACE.arch(((0,), (0, 0))), SIZE, 32, 'latency', TABLE) == 1.6


@pytest.mark.parametrize('metric', METRICS)
def test_the_range_is_that_of_all_paths(metric: str) -> None:
    priced = prices(SPACE, SIZE, metric=metric, table=TABLE if metric == 'latency' else None)
    rows = [priced.layers[1][0], priced.layers[1][1]]
    # of the decimals, not of the floats
    figures = [sum(Fraction(str(f)) for f in (priced.fixed, rows[0][a], rows[1][b])) for (_, (a, b)) in PATHS]
    assert [Fraction(str(priced.path(path))) for path in PATHS] == figures
    assert tuple(Fraction(str(end)) for end in priced.range()) == (min(figures), max(figures))


@given(
    st.integers(min_value=0, max_value=10**6),
    st.sampled_from(['fna_det', 'efficientnet_lite0_det']),
    st.sampled_from([8, 16, 32]),
    st.sampled_from(tuple(METRICS)),
)
def test_a_path_costs_what_its_network_costs(seed: int, name: str, stride: int, metric: str) -> None:
    space = zoo.space(name)
    table = table_of(entries(space, (65, 90), stride)) if metric == 'latency' else None
    path = space.sample_path(random.Random(seed))
    assert prices(space, (65, 90), stride, metric, table).path(path) == price(
        space.arch(path), (65, 90), stride, metric, table
    )


def test_multiply_adds_are_the_default() -> None:
    space, arch = zoo.space('fna_det'), zoo.arch('fna_retinanet')
    assert prices(space, (96, 128)) == prices(space, (96, 128), 32, 'macs', None)
    assert price(arch, (800, 1088)) == price(arch, (800, 1088), 32, 'macs')
    assert isinstance(price(arch, (800, 1088)), int)


# what is measured


def test_entries_are_the_stem_and_every_candidate_once() -> None:
    assert entries(SPACE, SIZE) == tuple(Geometry(*layer) for layer, _ in ROWS)
    # the third layer of a stage stands where the second does
    longer = SearchSpace((SPACE.stages[0], SpaceStage(8, 12, (*SPACE.stages[1].layers, ('k3_e2', 'k3_e1')), 2)))
    assert entries(longer, SIZE) == (*entries(SPACE, SIZE), Geometry('k3_e1', 12, 12, 1, 1, 2, 3))


DOWN = SearchSpace(tuple(SpaceStage(8, 8, (('k3_e1', 'k5_e1'), ('k3_e1', 'skip')), 2) for _ in range(5)))


@pytest.mark.parametrize(('output_stride', 'wanted'), [
    # per stage: stride, dilation and input of the first layer; input of the second, which has stride 1
    (32, [(2, 1, 64, 32), (2, 1, 32, 16), (2, 1, 16, 8), (2, 1, 8, 4), (1, 2, 4, 4)]),
    (16, [(2, 1, 64, 32), (2, 1, 32, 16), (2, 1, 16, 8), (1, 2, 8, 8), (1, 4, 8, 8)]),
    (8, [(2, 1, 64, 32), (2, 1, 32, 16), (1, 2, 16, 16), (1, 4, 16, 16), (1, 8, 16, 16)]),
])  # fmt: skip
def test_the_output_stride_sets_strides_dilations_and_sizes(output_stride: int, wanted: list[Any]) -> None:
    listed = [Geometry('stem', 3, 8, 2, 1, 128, 128)]
    for stride, dilation, before, after in wanted:
        listed += [Geometry(token, 8, 8, stride, dilation, before, before) for token in ('k3_e1', 'k5_e1')]
        listed.append(Geometry('k3_e1', 8, 8, 1, dilation, after, after))
    assert set(entries(DOWN, (128, 128), output_stride)) == set(listed)
    table = table_of(entries(DOWN, (128, 128), output_stride))
    layers = prices(DOWN, (128, 128), output_stride, 'latency', table).layers
    assert len(layers) == 5
    for stage, (stride, dilation, before, after) in zip(layers, wanted, strict=True):
        first = [table[Geometry(token, 8, 8, stride, dilation, before, before)] for token in ('k3_e1', 'k5_e1')]
        assert stage == (tuple(first), (table[Geometry('k3_e1', 8, 8, 1, dilation, after, after)], 0.0))


@pytest.mark.parametrize(('name', 'count'), [('fna_det', 68), ('efficientnet_lite0_det', 68)])
def test_a_space_of_the_zoo_has_few_layers_to_measure(name: str, count: int) -> None:
    # stem and first layer; six stages of six candidates each where the channels change, and five of these stages once
    # more where they do not: the last one has a single layer
    assert count == 2 + 6 * 6 + 5 * 6
    assert len(entries(zoo.space(name), (800, 1088))) == count


# figures for people


@pytest.mark.parametrize(('metric', 'figures', 'text'), [
    ('macs', (4.823e9,), '4.823 G multiply-adds'),
    ('macs', (1260339200, 8753667200), '1.26 to 8.754 G multiply-adds'),
    ('params', (1811712,), '1.812 M parameters'),
    ('latency', (12.3,), '12.3 ms'),
    ('latency', (20.1, 37.53), '20.1 to 37.53 ms'),
])  # fmt: skip
def test_figures_are_shown_in_the_metrics_unit(metric: str, figures: tuple[float, ...], text: str) -> None:
    assert Prices(metric, 0, ()).show(*figures) == text


@pytest.mark.parametrize(('metric', 'limit', 'steps'), [
    ('macs', 100, 100), ('macs', 100.9, 100), ('params', 99.9999, 99),
    ('latency', 0.3, 300_000), ('latency', 0.3000004, 300_000), ('latency', 0.3000006, 300_000),
    ('latency', 0.2999999, 299_999), ('latency', 0.1 + 0.2, 300_000),
])  # fmt: skip
def test_a_limit_in_steps_is_never_above_it(metric: str, limit: float, steps: int) -> None:
    by = METRICS[metric]
    assert by.steps_within(limit) == steps
    assert steps / by.unit.steps <= limit < (steps + 1) / by.unit.steps


# what can be wrong


@pytest.mark.parametrize('metric', ['flops', None, 1, ['macs']])
def test_an_unknown_metric(metric: Any) -> None:
    message = r"metric must be one of \('macs', 'params', 'latency'\), got "
    with pytest.raises(ValueError, match=message):
        prices(SPACE, SIZE, metric=metric)
    with pytest.raises(ValueError, match=message):
        price(SPACE.arch(PATHS[0]), SIZE, metric=metric)
    with pytest.raises(ValueError, match=message):
        Prices(metric, 0, ())


def test_a_table_goes_with_latency_and_latency_with_a_table() -> None:
    for metric in ('macs', 'params'):
        with pytest.raises(ValueError, match=f"table goes with metric='latency' alone, got one with metric='{metric}'"):
            prices(SPACE, SIZE, metric=metric, table=TABLE)
    with pytest.raises(ValueError, match=r"metric='latency' needs table=…, what mmnas latency wrote"):
        prices(SPACE, SIZE, metric='latency')


@pytest.mark.parametrize(('size', 'stride', 'lacks', 'first'), [
    ((8, 9), 32, '1 of 6', 'stem 3 -> 8, stride 2, of 8x9'),
    ((20, 9), 32, '6 of 6', 'stem 3 -> 8, stride 2, of 20x9'),
])  # fmt: skip
def test_a_table_of_another_size(size: tuple[int, int], stride: int, lacks: str, first: str) -> None:
    message = (
        f'the latency table of a board lacks {lacks} layers, the first is {first}: measure this space with '
        f'mmnas latency at input size {size[0]} {size[1]} and output stride {stride}'
    )
    with pytest.raises(ValueError, match=message):
        prices(SPACE, size, stride, 'latency', TABLE)


def test_a_table_of_another_output_stride() -> None:
    # at 16 the last two stages stay at 8x8 with dilations 2 and 4: two candidates each, and the k3_e1 of their second
    # layer is that of the first
    table = table_of(entries(DOWN, (128, 128), 32))
    message = r'lacks 4 of 14 layers, the first is k3_e1 8 -> 8, stride 1, dilation 2, of 8x8: .* output stride 16'
    with pytest.raises(ValueError, match=message):
        prices(DOWN, (128, 128), 16, 'latency', table)


def test_a_table_of_another_space() -> None:
    arch = ArchSpec((StageSpec(8, 8, ('k3_e1',), 1), StageSpec(8, 12, ('k7_e2', 'k3_e2'), 2)))
    with pytest.raises(ValueError, match='lacks 1 of 4 layers, the first is k7_e2 8 -> 12, stride 2, of 4x5'):
        price(arch, SIZE, metric='latency', table=TABLE)
    swish = SearchSpace(SPACE.stages, act='swish')
    with pytest.raises(ValueError, match="table of a board has activation 'relu6', wanted is 'swish': measure"):
        prices(swish, SIZE, metric='latency', table=TABLE)


@pytest.mark.parametrize('size', [(0, 9), (7.0, 9), 7, None])
def test_a_wrong_size(size: Any) -> None:
    message = 'size must be a pair of positive integers'
    with pytest.raises(ValueError, match=message):
        entries(SPACE, size)
    with pytest.raises(ValueError, match=message):
        prices(SPACE, size, metric='latency', table=TABLE)


def test_a_wrong_output_stride() -> None:
    with pytest.raises(ValueError, match=r'output_stride must be one of \(8, 16, 32\), got 4'):
        entries(SPACE, SIZE, 4)


def test_a_path_that_does_not_fit() -> None:
    priced = prices(SPACE, SIZE)
    with pytest.raises(ValueError, match=r'path must have \(1, 2\) entries per stage, got \(1, 1\)'):
        priced.path(((0,), (0,)))
    for choice in (3, -1):
        with pytest.raises(ValueError, match=rf'path\[1\]\[1\] must lie in 0..2, got {choice}'):
            priced.path(((0,), (0, choice)))
