"""A super-network of fused, basic and bottleneck layers: its paths, mixture, costs, networks, seeds and latencies."""

import pytest
import torch
from torch import nn

from mmnas_ext.archs import ArchSpec, LatencyTable, SearchSpace, SpaceStage, StageSpec, cost, entries, price, prices
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.ops import candidate_key
from mmnas_ext.remap import Seed, remap
from mmnas_ext.runs.measure_latency import Subject, measure_latency
from tests.backbones.reference import traced
from tests.filling import fill_image, fill_state

FIRST = ('bottleneck_k3_e0.5', 'bottleneck_k5_e0.25', 'fused_k3_e2.5')
SPACE = SearchSpace(
    (
        SpaceStage(8, 16, (('basic_k3_e1',), ('basic_k3_e1', 'basic_k5_e0.5', 'skip')), 1),
        SpaceStage(16, 32, (FIRST, (*FIRST, 'bottleneck_k3_e1_g4', 'k3_e3_hse0.25_hswish', 'skip')), 2),
    ),
    act='relu',
    stem='conv7_pool',
)
SIZE = (64, 48)
IMAGE = fill_image((3, 3, *SIZE))
PATHS = [((0, 0), (0, 0)), ((0, 1), (2, 3)), ((0, 2), (1, 4)), ((0, 2), (0, 5))]


def supernet(**options: bool) -> SuperNet:
    net = SuperNet(SPACE, out_indices=(0, 1), input_size=SIZE, **options)
    net.load_state_dict(fill_state(net.state_dict()))
    return net.train()


def on_path(net: SuperNet, path: tuple[tuple[int, ...], ...]) -> MBNet:
    """The network of a path with the super-network's weights; norms without any are as they start."""
    arch = SPACE.arch(path)
    found = MBNet(arch, out_indices=(0, 1)).train()
    state = net.state_dict()
    wanted = {name: tensor for name, tensor in state.items() if name.startswith('stem')}
    for i, (stage, choices) in enumerate(zip(SPACE.stages, path, strict=True)):
        kept = [(j, layer[choice]) for j, (layer, choice) in enumerate(zip(stage.layers, choices, strict=True))]
        for target, (j, token) in enumerate((j, token) for j, token in kept if token != 'skip'):
            inner = f'candidates.{candidate_key(token)}.' if len(stage.layers[j]) > 1 else ''
            source = f'stages.{i}.{j}.{inner}'
            wanted |= {
                f'stages.{i}.{target}.{k.removeprefix(source)}': v for k, v in state.items() if k.startswith(source)
            }
    unexpected = found.load_state_dict(wanted, strict=False).unexpected_keys
    assert unexpected == []
    return found


@pytest.mark.parametrize('path', PATHS)
def test_a_path_computes_what_its_network_does(path: tuple[tuple[int, ...], ...]) -> None:
    net = supernet()
    net.set_path(path)
    outputs, macs = traced(net, IMAGE)
    expected, _ = traced(on_path(net, path), IMAGE)
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-4)
    assert macs == cost(SPACE.arch(path), SIZE).macs


def test_an_arch_step_mixes_all_candidates_and_learns_alpha_alone() -> None:
    net = supernet()
    layer = net.mixed_layers()['1.1']
    alphas = net.arch_parameters()
    for parameter in net.parameters():
        parameter.requires_grad_(any(parameter is alpha for alpha in alphas))
    x = torch.randn(2, 32, 6, 6)
    net.set_path(None)
    shares = layer.alpha.detach().softmax(0)
    expected = sum(share * layer.run(i, x).detach() for i, share in enumerate(shares))
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    net(IMAGE)[1].square().mean().backward()
    assert all(alpha.grad.abs().min() > 0 for alpha in alphas)
    assert all(p.grad is None for p in net.parameters() if not any(p is alpha for alpha in alphas))


def test_checkpoints_change_nothing_in_an_arch_step() -> None:
    grads = []
    for with_cp in (False, True):
        net = supernet(with_cp=with_cp)
        net.set_path(None)
        net(IMAGE)[1].square().mean().backward()
        grads.append([alpha.grad for alpha in net.arch_parameters()])
    torch.testing.assert_close(*grads)


def test_expected_cost_is_the_mean_over_all_networks() -> None:
    net = supernet()
    shares = {name: layer.alpha.detach().double().softmax(0) for name, layer in net.mixed_layers().items()}
    assert list(shares) == ['0.1', '1.0', '1.1']
    mean = 0.0
    for a, b, c in torch.cartesian_prod(*(torch.arange(len(each)) for each in shares.values())).tolist():
        weight = shares['0.1'][a] * shares['1.0'][b] * shares['1.1'][c]
        mean += float(weight) * cost(SPACE.arch(((0, a), (b, c))), SIZE).macs
    assert float(net.expected_cost() + net.fixed_cost().macs) == pytest.approx(mean, rel=1e-9)


def test_the_derived_network_is_that_of_the_largest_alphas() -> None:
    net = supernet()
    for layer, best in zip(net.mixed_layers().values(), (2, 1, 4), strict=True):
        layer.alpha.data = nn.functional.one_hot(torch.tensor(best), len(layer.tokens)).float()
    assert net.derive() == ArchSpec(
        (
            StageSpec(8, 16, ('basic_k3_e1',), 1),
            StageSpec(16, 32, ('bottleneck_k5_e0.25', 'k3_e3_hse0.25_hswish'), 2),
        ),
        act='relu',
        bn_eps=1e-5,
        stem='conv7_pool',
    )


def test_the_seeds_path_computes_what_the_seed_does() -> None:
    arch = SPACE.arch(((0, 0), (0, 0)))
    seed = MBNet(arch, out_indices=(0, 1))
    seed.load_state_dict(fill_state(seed.state_dict()))
    state, _ = remap(Seed(arch, seed.state_dict()), SPACE, affine=True)
    net = supernet(affine=True)
    net.load_state_dict(state, strict=False)
    net.set_path(SPACE.path(arch))
    with torch.no_grad():  # by the statistics of the batch, both
        for output, wanted in zip(net.train()(IMAGE), seed.train()(IMAGE), strict=True):
            torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-4)


def test_latencies_of_all_layers_are_measured_and_priced() -> None:
    table = measure_latency(Subject(SPACE, SIZE), threads=1, repeats=1, warmup=0)
    assert [geometry for geometry, _ in table.entries] == list(entries(SPACE, SIZE))
    stem = table.entries[0][0]
    assert (stem.token, stem.stride, stem.in_channels, stem.channels) == ('stem_conv7_pool', 4, 3, 8)
    assert LatencyTable.parse(table.format()) == table
    priced = prices(SPACE, SIZE, metric='latency', table=table)
    for path in PATHS:
        assert priced.path(path) == price(SPACE.arch(path), SIZE, metric='latency', table=table)
    # a table of the other stem has another geometry for it
    other = SearchSpace(SPACE.stages, act='relu')
    with pytest.raises(ValueError, match=r'the first is stem 3 -> 8, stride 2, of 64x48'):
        prices(other, SIZE, metric='latency', table=table)
