"""An expansion inside a searched layer as a feature, and the temperature of the mixture, against plain arithmetic."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmnas_ext.archs import Prices, SearchSpace, SpaceStage, zoo
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.engine.limits import derive_path
from mmnas_ext.engine.monitor import measure
from mmnas_ext.engine.subnet import subnet
from mmnas_ext.registry import MODELS
from mmnas_ext.remap import Seed, remap
from tests.backbones.reference import alpha_state, backbone_state, golden, plain_features
from tests.filling import fill_image, fill_state, fill_value

OTHERS = ('k3_e2', 'k5_e3', 'skip')
# as SSDLite's: the first layer of the stage that is read inside has one expansion, and there is a head
SPACE = SearchSpace(
    (
        SpaceStage(8, 6, (('k3_e1',),), 1),
        SpaceStage(6, 8, (('k3_e2', 'k5_e3'), OTHERS), 2),
        SpaceStage(8, 12, (('k3_e3', 'k5_e3', 'k7_e3'), OTHERS), 2),
    ),
    head_channels=20,
    bn_eps=1e-3,
)
COUNTS = {'1.0': 2, '1.1': 3, '2.0': 3, '2.1': 3}
OUTPUTS = ('2.expand', 3)
ALPHAS = {place: [1.5 * math.sin(3 * i + n) for i in range(n)] for place, n in COUNTS.items()}


def build(**options: Any) -> SuperNet:
    given = dict(type='mmnas_ext.SuperNet', space=SPACE, out_indices=OUTPUTS, input_size=(32, 48), **options)
    net = MODELS.build(given)
    net.load_state_dict(fill_state(net.state_dict()))
    with torch.no_grad():
        for place, values in ALPHAS.items():
            net.mixed_layers()[place].alpha.copy_(torch.tensor(values))
    return net.train()


@pytest.fixture
def image() -> Tensor:
    return fill_image((2, 3, 32, 48))


def plain(net: SuperNet, state: dict[str, Tensor], image: Tensor, temperature: float) -> list[Tensor]:
    stages, inside = plain_features(SPACE, state, image, eps=1e-3, temperature=temperature)
    wide = F.conv2d(stages[-1], state['head.conv.weight'])
    head = F.batch_norm(wide, None, None, state['head.bn.weight'], state['head.bn.bias'], True, 0.1, 1e-3)
    return [inside[2], head.clamp(0, 6)]


@pytest.mark.parametrize('temperature', [1.0, 0.9])
@pytest.mark.parametrize('graded', [False, True])
def test_features_of_an_arch_step(temperature: float, graded: bool, image: Tensor) -> None:
    net = build(temperature=temperature)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.endswith('.alpha'))  # which is what `ops.mixture` computes itself
    with torch.set_grad_enabled(graded):
        features = net(image)
    assert (net.out_channels, net.out_strides) == ((24, 20), (4, 8))
    for feature, expected in zip(features, plain(net, net.state_dict(), image, temperature), strict=True):
        torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('with_cp', [False, True])
def test_gradients_of_alpha_come_through_the_expansion(with_cp: bool, image: Tensor) -> None:
    net = build(with_cp=with_cp, temperature=0.9)
    state = {key: tensor.detach().clone() for key, tensor in net.state_dict().items()}
    alphas = [state[f'stages.{place}.alpha'].requires_grad_() for place in COUNTS]
    loss = sum(feature.square().mean() for feature in plain(net, state, image, 0.9))
    expected = torch.autograd.grad(loss, alphas)
    sum(feature.square().mean() for feature in net(image)).backward()
    for alpha, gradient in zip(net.arch_parameters(), expected, strict=True):
        torch.testing.assert_close(alpha.grad, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


def test_a_checkpointed_expansion_keeps_nothing_of_the_candidates(image: Tensor) -> None:
    held = {}
    for with_cp in (False, True):
        layer = build(with_cp=with_cp).mixed_layers()['2.0']
        x = torch.randn(2, 8, 8, 12)
        counted: list[int] = []

        def pack(tensor: Tensor, counted: list[int] = counted) -> Tensor:
            counted.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer.forward_with_expansion(x)
        held[with_cp] = sum(counted)
    assert held[True] <= x.numel() + 20
    assert held[False] > 10 * x.numel()


def test_a_path_hands_out_the_expansion_of_its_candidate(image: Tensor) -> None:
    net = build()
    for choice in range(3):
        net.set_path(((0,), (1, 2), (choice, 2)))
        token = SPACE.stages[2].layers[0][choice]
        single = MBNet(SPACE.arch(((0,), (1, 2), (choice, 2))), out_indices=OUTPUTS, norm_cfg=dict(type='BN', eps=1e-3))
        ours, copied = net.state_dict(), {}
        for key in single.state_dict():
            searched = {'stages.1.0': 'k5_e3', 'stages.2.0': token}
            place = '.'.join(key.split('.')[:3])
            if place in searched and key.endswith('conv.weight'):
                copied[key] = ours[f'{place}.candidates.{searched[place]}.{key.split(".", 3)[3]}']
            elif place not in searched:
                copied[key] = ours[key]
        single.load_state_dict(copied, strict=False)
        for feature, expected in zip(net(image), single.train()(image), strict=True):
            torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-4)
        # and so does the network that is cut out of it to be measured
        model = torch.nn.ModuleDict(dict(backbone=net))
        for feature, expected in zip(
            subnet(model, ((0,), (1, 2), (choice, 2))).backbone(image), net(image), strict=True
        ):
            torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-4)


def test_the_cost_that_is_expected_is_that_of_the_mixture() -> None:
    prices = {'1.0': (3.0, 8.0), '1.1': (2.0, 4.0, 0.0), '2.0': (1.0, 5.0, 9.0), '2.1': (1.0, 6.0, 0.0)}
    layers = tuple(
        tuple(prices.get(f'{i}.{j}', (0.0,)) for j in range(len(stage.layers))) for i, stage in enumerate(SPACE.stages)
    )
    for temperature in (1.0, 0.5):
        wanted = 0.0
        for place, values in ALPHAS.items():
            weights = [math.exp(value / temperature) for value in values]
            wanted += math.fsum(w * p for w, p in zip(weights, prices[place], strict=True)) / math.fsum(weights)
        found = build(temperature=temperature).expected_cost(Prices('latency', 7.0, layers))
        assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_draws_and_what_is_derived_know_no_temperature() -> None:
    cold, usual = build(temperature=0.1), build()
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    drawn = [
        [net.sample_path('softmax', g) for _ in range(30)] for net, g in zip((cold, usual), generators, strict=True)
    ]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 5
    assert cold.derive() == usual.derive()
    # under a limit probabilities decide, not the order alone: the limit takes the best two networks away
    most = cold.space.arch(cold.best_path())
    assert most == usual.space.arch(usual.best_path())
    limits = [derive_path(net, {'max': 900_000}) for net in (cold, usual)]
    assert limits[0] == limits[1]
    logged = [measure(net) for net in (cold, usual)]
    assert logged[0]['alpha'] == logged[1]['alpha']
    assert logged[0]['expected_macs'] != logged[1]['expected_macs']


@pytest.mark.parametrize('temperature', [0, -1.0, math.inf, math.nan, True, '0.9', None])
def test_a_temperature_is_a_positive_number(temperature: Any) -> None:
    with pytest.raises(ValueError, match=r'temperature must be a positive number, got '):
        SuperNet(SPACE, out_indices=(1,), temperature=temperature)


def test_an_expansion_needs_one_width() -> None:
    with pytest.raises(
        ValueError,
        match=r"must be among \[0, 1, 2, 3, '2.expand'\], got '1.expand': candidates of that layer have expansions 2 "
        r'and 3, and a feature needs one$',
    ):
        SuperNet(SPACE, out_indices=('1.expand',))
    with pytest.raises(ValueError, match=r"got '5.expand': .* have expansions 3 and 6, .*; this network has no head"):
        SuperNet('fna_det', out_indices=('5.expand',))
    with pytest.raises(ValueError, match=r"got '0.expand'$"):  # which expands nothing
        SuperNet(SPACE, out_indices=('0.expand',))


# ---------------------------------------------------------------- the space of FNA's SSDLite


def test_the_space_of_ssdlite() -> None:
    ours, retinanets = zoo.space('fna_det_ssdlite'), zoo.space('fna_det')
    assert (ours.head_channels, retinanets.head_channels) == (1280, None)
    assert ours.stages[5].layers[0] == ('k3_e6', 'k5_e6', 'k7_e6')
    rest = ours.stages[5].layers[1:]
    assert rest == retinanets.stages[5].layers[1:]
    assert ours.stages[:5] + ours.stages[6:] == retinanets.stages[:5] + retinanets.stages[6:]
    assert zoo.arch('fna_ssdlite') in ours and zoo.arch('mobilenet_v2') in ours
    assert ours.size == 6**5 * 3 * 7**15


@pytest.fixture(scope='module')
def ssdlite() -> SuperNet:
    return MODELS.build(
        dict(type='SuperNet', space='fna_det_ssdlite', out_indices=('5.expand', 7), input_size=(320, 320),
             temperature=0.9)
    )  # fmt: skip


def test_features_of_ssdlites_super_network(ssdlite: SuperNet) -> None:
    assert (ssdlite.out_channels, ssdlite.out_strides) == ((576, 1280), (16, 32))
    assert len(ssdlite.mixed_layers()['5.0'].tokens) == 3
    # the authors' candidates, alphas and stem; their first layer of that stage has three of its six
    tensors = golden('backbones_fna_super.json')['tensors']
    state = {**backbone_state(tensors), **alpha_state(tensors)}
    state['stages.5.0.alpha'] = state['stages.5.0.alpha'][[1, 3, 5]]
    own = ssdlite.state_dict()
    head = {key: fill_value(key, own[key].shape, 7) for key in own if key.startswith('head.')}
    ssdlite.load_state_dict({**{key: value for key, value in state.items() if key in own}, **head})
    # batch norms over six positions would amplify what single precision rounds
    ssdlite.double()
    own, image = ssdlite.state_dict(), fill_image((1, 3, 64, 96)).double()
    stages, inside = plain_features(ssdlite.space, own, image, 1e-5, 0.9)
    wide = F.conv2d(stages[-1], own['head.conv.weight'])
    last = F.batch_norm(wide, None, None, own['head.bn.weight'], own['head.bn.bias'], True).clamp(0, 6)
    with torch.no_grad():
        features = ssdlite.train()(image)
    for feature, expected in zip(features, (inside[5], last), strict=True):
        torch.testing.assert_close(feature, expected, rtol=1e-6, atol=1e-6)


def test_the_seeds_head_is_remapped_too() -> None:
    seed_net = MODELS.build(dict(type='MBNet', arch='mobilenet_v2', out_indices=(7,)))
    seed = Seed(zoo.arch('mobilenet_v2'), fill_state(seed_net.state_dict()))
    state, _ = remap(seed, zoo.space('fna_det_ssdlite'))
    for part in ('conv.weight', 'bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var'):
        assert torch.equal(state[f'head.{part}'], seed.state_dict[f'head.{part}'])
    assert torch.equal(
        state['stages.5.0.candidates.k3_e6.expand.conv.weight'], seed.state_dict['stages.5.0.expand.conv.weight']
    )
