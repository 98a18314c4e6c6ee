"""What a space can cost, and the most probable network within a limit, against every path tried."""

import itertools
import math
from fractions import Fraction

import pytest
import torch

from mmnas_ext.archs import LatencyTable, Limit, SearchSpace, SpaceStage, cost, entries, price, prices
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine.limits import CostTerm, check_limit, derive, derive_path
from tests.engine import tiny

NAMES = ('1.0', '1.1', '2.0')
TABLES = {'macs': tiny.MACS, 'params': tiny.PARAMS, 'latency': tiny.LATENCY}
# what is 1 of the metric's smallest steps
STEPS = {'macs': Fraction(1), 'params': Fraction(1), 'latency': Fraction(1, 10**6)}


def priced_by(metric):
    return prices(tiny.SPACE, tiny.SIZE, 32, metric, tiny.latency_table() if metric == 'latency' else None)


def exact(figure):
    """The decimal that was written, not the float nearest to it."""
    return Fraction(str(figure))


def supernet(seed, scale=1.0):
    built = SuperNet(tiny.SPACE, out_indices=(2,), input_size=tiny.SIZE)
    draw = torch.Generator().manual_seed(seed)
    for alpha in built.arch_parameters():
        alpha.data = scale * torch.randn(len(alpha), generator=draw)
    return built


def tried(built, metric='macs'):
    """Every path with its cost and probability, from the hand-made tables."""
    found = []
    table = TABLES[metric]
    probabilities = [alpha.detach().double().softmax(0).tolist() for alpha in built.arch_parameters()]
    for choice in itertools.product(*(range(len(p)) for p in probabilities)):
        figure = exact(table['fixed']) + sum(exact(table[name][c]) for name, c in zip(NAMES, choice, strict=True))
        path = ((0,), choice[:2], choice[2:])
        found.append((path, figure, math.prod(p[c] for p, c in zip(probabilities, choice, strict=True))))
    return found


@pytest.mark.parametrize(
    ('metric', 'low', 'high'), [('macs', 36416, 77120), ('params', 1388, 4140), ('latency', 1.9, 13.1)]
)
def test_the_range_of_costs_is_that_of_the_table(metric, low, high):
    table = TABLES[metric]
    assert exact(low) == exact(table['fixed']) + sum(exact(min(table[name])) for name in NAMES)
    assert exact(high) == exact(table['fixed']) + sum(exact(max(table[name])) for name in NAMES)
    assert priced_by(metric).range() == (low, high)


@pytest.mark.parametrize('metric', ['macs', 'params', 'latency'])
@pytest.mark.parametrize('seed', range(5))
def test_a_limit_gives_the_most_probable_path_that_meets_it(seed, metric):
    built = supernet(seed)
    paths = tried(built, metric)
    assert len(paths) == 12
    limits = sorted({figure for _, figure, _ in paths})
    assert len(limits) > 6
    for limit in limits:
        # the figure itself as a user would write it, a little more, and as little less as makes it too small
        for target, reached in ((limit, True), (limit + STEPS[metric] / 2, True), (limit - STEPS[metric] / 2, False)):
            fitting = [p for p in paths if (p[1] <= limit if reached else p[1] < limit)]
            if fitting:
                best = max(fitting, key=lambda p: p[2])
                assert derive_path(built, float(target), priced_by(metric)) == best[0]
                assert derive(built, float(target), priced_by(metric)) == tiny.SPACE.arch(best[0]).replace(bn_eps=1e-5)


def test_without_prices_a_limit_is_in_multiply_adds():
    built = supernet(0)
    limit = sorted(figure for _, figure, _ in tried(built))[4]
    wanted = max((p for p in tried(built) if p[1] <= limit), key=lambda p: p[2])[0]
    assert derive_path(built, int(limit)) == wanted


@pytest.mark.parametrize('metric', ['macs', 'params', 'latency'])
def test_a_limit_that_binds_changes_the_network(metric):
    built = supernet(0)
    free = derive_path(built)
    costs = {path: figure for path, figure, _ in tried(built, metric)}
    limit = costs[free]
    assert derive_path(built, float(limit), priced_by(metric)) == free
    assert costs[derive_path(built, float(limit - STEPS[metric]), priced_by(metric))] < limit


def test_without_a_limit_every_layer_takes_its_largest_alpha():
    built = supernet(3)
    assert derive_path(built) == max(tried(built), key=lambda p: p[2])[0]
    for alpha in built.arch_parameters():
        alpha.data.zero_()
    assert derive_path(built) == ((0,), (0, 0), (0,))  # the first of equals


@pytest.mark.parametrize(('metric', 'shown', 'targets'), [
    ('macs', ('3.642e-05', '7.712e-05', ' G multiply-adds'), (36415, 0, -math.inf)),
    ('params', ('0.001388', '0.00414', ' M parameters'), (1387, 1387.5, -1)),
    ('latency', ('1.9', '13.1', ' ms'), (1.8999999, 1.899, 0)),
])  # fmt: skip
def test_a_limit_out_of_reach_names_the_range(metric, shown, targets):
    low, high, unit = shown
    message = (
        f'cost.{{}} must be at least {low}{unit}, got .*{unit}: '
        f'networks of this space cost {low} to {high}{unit} at 16x16'
    )
    for target in targets:
        with pytest.raises(ValueError, match=message.format('max')):
            check_limit(priced_by(metric), Limit(max=target), tiny.SIZE)
        with pytest.raises(ValueError, match=message.format('max')):
            derive_path(supernet(0), target, priced_by(metric))
        term = CostTerm(0.1, target, metric, tiny.latency_table() if metric == 'latency' else None)
        with pytest.raises(ValueError, match=message.format('target')):
            term.prices(tiny.SPACE, tiny.SIZE)


@pytest.mark.parametrize(
    ('metric', 'targets'),
    [('macs', (None, 36416, 36416.0, 77120, 1e12)), ('params', (None, 1388, 1e9)), ('latency', (None, 1.9, 2, 1e6))],
)
def test_a_limit_within_reach_is_accepted(metric, targets):
    for target in targets:
        check_limit(priced_by(metric), Limit(max=target), tiny.SIZE)


@pytest.mark.parametrize('target', [77120, 1e300, math.inf])
def test_a_limit_that_all_meet_is_none(target):
    built = supernet(1)
    assert derive_path(built, target) == derive_path(built)


@pytest.mark.parametrize('bound', ['small', True, [1], math.nan])
def test_a_limit_is_a_number(bound):
    for name in ('min', 'max'):
        with pytest.raises(ValueError, match=rf'cost.{name} must be a number or None, got '):
            CostTerm(**{name: bound})
        with pytest.raises(ValueError, match=rf'cost.{name} must be a number or None, got '):
            derive_path(supernet(0), {name: bound})
    with pytest.raises(ValueError, match='cost.target must be a number or None, got '):
        CostTerm(target=bound)


def test_a_cost_term_reads_what_a_config_says():
    assert CostTerm.parse(None) == CostTerm(0.0, None, 'macs', None)
    given = {'weight': 0.2, 'target': 5.0, 'metric': 'latency', 'table': tiny.latency_table().format()}
    kept = dict(given)
    assert CostTerm.parse(given) == CostTerm(0.2, 5.0, 'latency', tiny.latency_table())
    assert given == kept


def test_a_cost_term_prices_by_its_metric():
    assert CostTerm(metric='params').prices(tiny.SPACE, tiny.SIZE) == priced_by('params')
    latency = CostTerm(metric='latency', table=tiny.latency_table(), target=1.9)
    assert latency.prices(tiny.SPACE, tiny.SIZE).layers[1] == ((1.4, 0.7), (0.9, 3.3, 0.0))
    with pytest.raises(ValueError, match=r'lacks 3 of 9 layers.*output stride 8'):
        CostTerm(metric='latency', table=tiny.latency_table()).prices(tiny.STRIDED, tiny.SIZE, 8)


def test_a_cost_in_words_has_the_metric_where_it_is_another():
    arch = tiny.SPACE.arch(((0,), (1, 2), (1,)))
    macs = tiny.MACS['fixed'] + tiny.MACS['1.0'][1] + tiny.MACS['2.0'][1]
    params = tiny.PARAMS['fixed'] + tiny.PARAMS['1.0'][1] + tiny.PARAMS['2.0'][1]
    words = f'{macs / 1e9:.4g} G multiply-adds, {params / 1e6:.4g} M parameters'
    assert CostTerm().describe(arch, tiny.SIZE) == words
    assert CostTerm(metric='params').describe(arch, tiny.SIZE) == words
    latency = CostTerm(metric='latency', table=tiny.latency_table())
    assert latency.describe(arch, tiny.SIZE) == f'{words}, 9.1 ms'
    assert latency.describe(arch, (32, 32)).endswith('latency not known: the table lacks some of its layers')


def test_the_output_stride_counts_in_words():
    arch = tiny.STRIDED.arch(((0,), (0, 0), (0,), (0,)))
    by_stride = {stride: cost(arch, (64, 64), stride).macs for stride in (8, 32)}
    # stem 32x32, then 16x16 and 8x8; the last stage makes 4x4 of it, or keeps it
    last = 9 * 24 + 24 * 8
    assert by_stride[8] - by_stride[32] == last * (64 - 16)
    for stride, macs in by_stride.items():
        table = LatencyTable('a board', 1, tuple((g, stride / 10) for g in entries(tiny.STRIDED, (64, 64), stride)))
        words = CostTerm(metric='latency', table=table).describe(arch, (64, 64), stride)
        assert words.startswith(f'{macs / 1e9:.4g} G multiply-adds')
        # stem and five layers
        assert words.endswith(f', {6 * stride / 10:.4g} ms')


def test_the_output_stride_counts():
    stages = tuple(SpaceStage(8, 8, (('k3_e1', 'k5_e1'),), 2) for _ in range(4))
    # strides 2, 4, 8, 8, 8: the last two stages stay at 64/8
    sizes = [16, 8, 8, 8]
    low = 27 * 8 * 32**2 + sum((9 * 8 + 64) * s * s for s in sizes)
    high = 27 * 8 * 32**2 + sum((25 * 8 + 64) * s * s for s in sizes)
    assert prices(SearchSpace(stages), (64, 64), 8).range() == (low, high)


def made_up(geometry):
    """Milliseconds with six decimals, different for every geometry."""
    return (
        0.05 + (sum(ord(c) for c in geometry.token) * 7919 + geometry.channels * 104729 + geometry.height) % 9973 / 1e4
    )


@pytest.mark.parametrize('metric', ['macs', 'params', 'latency'])
def test_a_space_of_full_size_is_solved_in_time(metric):
    built = SuperNet('fna_det')
    table = None
    if metric == 'latency':
        layers = entries(built.space, built.input_size)
        table = LatencyTable('a board', 1, tuple((g, made_up(g)) for g in layers))
    priced = prices(built.space, built.input_size, 32, metric, table)
    # half of what the most probable network costs above the cheapest one
    low, free = priced.range()[0], priced.path(derive_path(built))
    target = (low + free) / 2
    path = derive_path(built, target, priced)
    # priced anew, as a network
    found = price(built.space.arch(path), built.input_size, 32, metric, table)
    assert low < found <= target < free
    # no single layer could take a more probable candidate and stay within
    better = 0
    for name, layer in built.mixed_layers().items():
        i, j = map(int, name.split('.'))
        for other in range(len(layer.tokens)):
            if layer.alpha[other] > layer.alpha[path[i][j]]:
                changed = [list(choices) for choices in path]
                changed[i][j] = other
                assert priced.path(changed) > target
                better += 1
    assert better > 0


# lower bounds


@pytest.mark.parametrize('metric', ['macs', 'params', 'latency'])
@pytest.mark.parametrize('seed', range(3))
def test_between_two_bounds_is_the_most_probable_path_there(seed, metric):
    built = supernet(seed, scale=3.0)
    paths = tried(built, metric)
    figures = sorted({figure for _, figure, _ in paths})
    found = 0
    for low, high in itertools.product([None, *figures], [None, *figures]):
        if low is not None and high is not None and low > high:
            continue
        fitting = [p for p in paths if (low is None or p[1] >= low) and (high is None or p[1] <= high)]
        limit = {'min': None if low is None else float(low), 'max': None if high is None else float(high)}
        assert derive_path(built, limit, priced_by(metric)) == max(fitting, key=lambda p: p[2])[0]
        found += 1
    assert found > 50


@pytest.mark.parametrize(('metric', 'bound', 'wanted', 'unit', 'ends'), [
    ('macs', 77121, '7.712e-05', ' G multiply-adds', '3.642e-05 to 7.712e-05'),
    ('params', 4140.5, '0.00414', ' M parameters', '0.001388 to 0.00414'),
    ('latency', 13.2, '13.1', ' ms', '1.9 to 13.1'),
])  # fmt: skip
def test_a_lower_bound_out_of_reach_names_the_range(metric, bound, wanted, unit, ends):
    message = (
        f'cost.min must be at most {wanted}{unit}, got .*{unit}: networks of this space cost {ends}{unit} at 16x16'
    )
    term = CostTerm(min=bound, metric=metric, table=tiny.latency_table() if metric == 'latency' else None)
    with pytest.raises(ValueError, match=message):
        term.prices(tiny.SPACE, tiny.SIZE)
    with pytest.raises(ValueError, match=message):
        derive_path(supernet(0), {'min': bound}, priced_by(metric))


def test_bounds_without_a_network_between_them_are_refused_before_the_search():
    figures = sorted({figure for _, figure, _ in tried(supernet(0))})
    low, high = max(itertools.pairwise(figures), key=lambda pair: pair[1] - pair[0])
    term = CostTerm(min=float(low + 1), max=float(high - 1))
    with pytest.raises(ValueError, match='no network of this space costs at least .* and at most .*: widen the limit'):
        term.prices(tiny.SPACE, tiny.SIZE)
    CostTerm(min=float(low), max=float(high)).prices(tiny.SPACE, tiny.SIZE)


def test_bounds_that_cross_and_two_names_of_one_are_refused():
    with pytest.raises(ValueError, match=r'cost.min must be at most cost.max, got 5 and 4'):
        CostTerm.parse({'min': 5, 'max': 4})
    with pytest.raises(ValueError, match=r'cost.target is another name of cost.max, got both: 4 and 4'):
        CostTerm.parse({'target': 4, 'max': 4})
    with pytest.raises(ValueError, match=r'takes weight, target, metric, table, min, max, got \[.least.\]'):
        CostTerm.parse({'least': 4})
    assert CostTerm(target=4).limit == CostTerm(max=4).limit == Limit(None, 4)


# limits that limit nothing


@pytest.mark.parametrize(('given', 'sentence'), [
    ({'target': 77120}, 'cost.target of 7.712e-05 G multiply-adds limits nothing: no network of this space costs more'),
    ({'max': math.inf}, 'cost.max of inf G multiply-adds limits nothing'),
    ({'min': 36416}, 'cost.min of 3.642e-05 G multiply-adds limits nothing: no network of this space costs less than'),
])  # fmt: skip
def test_a_slack_limit_is_warned_of(monkeypatch, given, sentence):
    said = []
    monkeypatch.setattr('mmnas_ext.engine.limits.print_log', lambda text, logger, level: said.append((level, text)))
    CostTerm(**given).prices(tiny.SPACE, tiny.SIZE)
    ((level, text),) = said
    assert (level, text[: len(sentence)]) == (30, sentence)
    said.clear()
    CostTerm(min=36417, max=77119).prices(tiny.SPACE, tiny.SIZE)
    assert said == []


# alpha that says nothing


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_no_network_is_derived_from_an_alpha_that_is_not_finite(value):
    built = supernet(0)
    built.arch_parameters()[1].data[2] = value
    message = rf'alpha of layer 1.1 must be finite, got {value} in 1 of 3 candidates: no network can be derived from it'
    for derived in (
        lambda: derive_path(built),
        lambda: derive_path(built, 5e4),
        lambda: derive(built, {'min': 4e4}),
        built.derive,
    ):
        with pytest.raises(ValueError, match=message):
            derived()
