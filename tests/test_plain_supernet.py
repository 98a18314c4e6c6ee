"""An arch step of SuperNet gives what the plain implementation of the benchmarks gives."""

import pytest
import torch
from torch import nn

from benchmarks.plain_supernet import PlainBlock, PlainMixed, PlainSuperNet
from mmnas_ext.archs import SearchSpace, SpaceStage, zoo
from mmnas_ext.registry import MODELS

SPACE = SearchSpace(
    (
        SpaceStage(8, 8, (('k3_e1',),), 1),
        SpaceStage(8, 12, (('k3_e3', 'k5_e6'), ('k3_e3', 'k7_e6', 'skip')), 2),
        SpaceStage(12, 16, (('k3_e6', 'k7_e3'), ('skip', 'k5_e3')), 2),
    )
)
# multiply-adds of the candidates at 32x32, by hand: expand at the size of the input, depthwise and project at that of
# the output; stage 1 goes 16 -> 8, stage 2 goes 8 -> 4
TABLE = (
    ((0,),),
    (
        (
            256 * 8 * 24 + 64 * (24 * 9 + 24 * 12),
            256 * 8 * 48 + 64 * (48 * 25 + 48 * 12),
        ),
        (
            64 * (12 * 36 + 36 * 9 + 36 * 12),
            64 * (12 * 72 + 72 * 49 + 72 * 12),
            0,
        ),
    ),
    (
        (
            64 * 12 * 72 + 16 * (72 * 9 + 72 * 16),
            64 * 12 * 36 + 16 * (36 * 49 + 36 * 16),
        ),
        (
            0,
            16 * (16 * 48 + 48 * 25 + 48 * 16),
        ),
    ),
)


def supernet(**kwargs: object) -> nn.Module:
    config = dict(type='mmnas_ext.SuperNet', space=SPACE, out_indices=(1, 2), input_size=(32, 32), **kwargs)
    net = MODELS.build(config)
    with torch.no_grad():
        for alpha in net.arch_parameters():
            alpha.normal_()  # far from uniform, where errors in the mixture would cancel
    return net.train()


def plain_of(net: nn.Module) -> PlainSuperNet:
    plain = PlainSuperNet(SPACE, TABLE, out_indices=(1, 2))
    plain.load_state_dict(net.state_dict())
    return plain.train()


def arch_step(net: nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Features and alpha gradients of the loss that the search uses, with a random target as the task."""
    features = net(x)
    target = torch.Generator().manual_seed(3)
    loss = torch.log10(net.expected_cost() / 1e9) * 0.02
    for feature in features:
        loss = loss + (feature - torch.randn(feature.shape, generator=target).to(x)).square().mean()
    net.zero_grad()
    loss.backward()
    gradients = {name: value.grad for name, value in net.named_parameters() if name.endswith('alpha')}
    return [feature.detach() for feature in features], gradients


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_arch_step_equals_the_plain_one(with_cp: bool, channels_last: bool, dtype: torch.dtype) -> None:
    net = supernet(with_cp=with_cp, channels_last=channels_last).to(dtype)
    plain = plain_of(net).to(dtype)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.endswith('alpha'))
    x = torch.randn(4, 3, 32, 32, dtype=dtype)
    features, gradients = arch_step(net, x)
    plain_features, plain_gradients = arch_step(plain, x)

    assert [tuple(f.shape) for f in plain_features] == [(4, 12, 8, 8), (4, 16, 4, 4)]
    for ours, theirs in zip(features, plain_features, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert list(gradients) == [f'stages.{i}.{j}.alpha' for i in (1, 2) for j in (0, 1)]
    for name, ours in gradients.items():
        largest = plain_gradients[name].abs().max().item()
        assert largest > 1e-3, f'{name} has no gradient to compare'
        torch.testing.assert_close(ours, plain_gradients[name], rtol=0, atol=1e-4 * largest)


def test_both_steps_compute_gradients_of_alpha_alone() -> None:
    net = supernet()
    plain = plain_of(net)
    x = torch.randn(2, 3, 32, 32)
    for model in (net, plain):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith('alpha'))
        arch_step(model, x)
        with_gradient = {name for name, value in model.named_parameters() if value.grad is not None}
        assert with_gradient == {f'stages.{i}.{j}.alpha' for i in (1, 2) for j in (0, 1)}


def test_expected_cost_is_the_table_weighted_by_hand() -> None:
    plain = plain_of(supernet())
    with torch.no_grad():
        for stage in plain.stages:
            for layer in stage:
                if isinstance(layer, PlainMixed):
                    layer.alpha.zero_()
    means = [sum(row) / len(row) for stage in TABLE[1:] for row in stage]
    assert plain.expected_cost().item() == pytest.approx(sum(means), rel=1e-6)


def test_expected_cost_agrees_with_the_supernets_own_table() -> None:
    net = supernet()
    assert plain_of(net).expected_cost().item() == pytest.approx(net.expected_cost().item(), rel=1e-6)


def test_one_candidate_can_take_all() -> None:
    mixed = PlainMixed(8, 8, ('k3_e3', 'skip'), 1, 'relu6', 1e-5)
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        mixed.alpha.copy_(torch.tensor([-100.0, 0.0]))
        torch.testing.assert_close(mixed(x), x)
        mixed.alpha.copy_(torch.tensor([0.0, -100.0]))
        torch.testing.assert_close(mixed(x), mixed.candidates['k3_e3'](x))


def test_keys_of_the_whole_detection_space_are_the_supernets() -> None:
    space = zoo.space('fna_det')
    with torch.device('meta'):
        plain = PlainSuperNet(space, ())
        net = MODELS.build(dict(type='mmnas_ext.SuperNet', space='fna_det'))
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in plain.state_dict().items()} == shapes
    assert shapes['stages.6.0.candidates.k7_e6.depthwise.conv.weight'] == (960, 1, 7, 7)


def test_squeeze_excite_is_refused() -> None:
    with pytest.raises(ValueError, match=r"without squeeze-excite or own activation, got 'k3_e3_se0\.25'"):
        PlainBlock(8, 8, 'k3_e3_se0.25', 1, 'relu6', True, 1e-5)
