"""A layer of candidates: one, or all mixed."""

import pytest
import torch
from torch import Tensor, nn

from mmnas_ext.ops import MixedLayer, candidate_key

TOKENS = ('k3_e2', 'k5_e3_se0.5', 'skip')
MACS = (100, 3_000_000_019, 0)


@pytest.fixture
def mixed() -> MixedLayer:
    layer = MixedLayer(4, 4, TOKENS, MACS)
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([0.0, 1.0, -1.0]))
    return layer


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 4, 6, 6)


def shares() -> Tensor:
    # e^0, e^1, e^-1 over their sum
    return torch.tensor([1.0, 2.718281828, 0.367879441]) / 4.086161269


def test_names_of_candidates(mixed: MixedLayer) -> None:
    assert candidate_key('k5_e3_se0.5') == 'k5_e3_se0_5'
    assert list(mixed.candidates) == ['k3_e2', 'k5_e3_se0_5']
    assert 'macs' not in mixed.state_dict()


def test_all_candidates_mixed(mixed: MixedLayer, x: Tensor) -> None:
    results = [mixed.candidates['k3_e2'](x), mixed.candidates['k5_e3_se0_5'](x), x]
    expected = sum(share * result for share, result in zip(shares(), results, strict=True))
    torch.testing.assert_close(mixed.probabilities(), shares())
    torch.testing.assert_close(mixed(x), expected)


@pytest.mark.parametrize('choice', [0, 1])
def test_one_candidate(mixed: MixedLayer, x: Tensor, choice: int) -> None:
    mixed.choice = choice
    out = mixed(x)
    assert torch.equal(out, list(mixed.candidates.values())[choice](x))
    out.sum().backward()
    used = {name for name, p in mixed.named_parameters() if p.grad is not None}
    assert used == {name for name, _ in mixed.named_parameters() if candidate_key(TOKENS[choice]) in name}


def test_a_skip_hands_its_input_on(mixed: MixedLayer, x: Tensor) -> None:
    mixed.choice = 2
    assert mixed(x) is x


def test_norms_have_neither_weights_nor_statistics(mixed: MixedLayer, x: Tensor) -> None:
    norms = [m for m in mixed.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 6
    assert all(norm.weight is None and norm.running_mean is None for norm in norms)
    # so that evaluation normalises by the batch, as training does
    with torch.no_grad():
        assert torch.equal(mixed.train()(x), mixed.eval()(x))


def test_expected_multiply_adds_are_doubles(mixed: MixedLayer) -> None:
    expected = mixed.expected_macs()
    assert expected.dtype == torch.float64
    # (100 e^0 + 3000000019 e^1) / (e^0 + e^1 + e^-1)
    assert expected.item() == pytest.approx((100 + 3_000_000_019 * 2.718281828459045) / 4.086161269630487, rel=1e-14)
    expected.backward()
    assert mixed.alpha.grad.dtype == torch.float32


def test_expected_prices_of_any_kind(mixed: MixedLayer) -> None:
    # softmax of 0, ln 3, 0 is 1/5, 3/5, 1/5
    mixed.alpha.data = torch.tensor([1.0, 3.0, 1.0]).log()
    expected = mixed.expected(torch.tensor([1.5, 0.25, 0.0]))
    assert expected.dtype == torch.float64
    assert expected.item() == pytest.approx(0.2 * 1.5 + 0.6 * 0.25, rel=1e-6)


def test_alpha_starts_small_and_differs_between_layers() -> None:
    alphas = torch.stack([MixedLayer(4, 4, TOKENS, MACS).alpha.detach() for _ in range(40)])
    # 1e-3 * normal, 120 draws
    assert alphas.std().item() == pytest.approx(1e-3, rel=0.3)
    assert alphas.unique().numel() == 120


def test_recomputed_mix_is_the_same_mix(mixed: MixedLayer, x: Tensor) -> None:
    grads = []
    for with_cp in (False, True):
        mixed.with_cp = with_cp
        leaf = x.clone().requires_grad_()
        mixed.zero_grad()
        out = mixed(leaf)
        out.square().sum().backward()
        grads.append([out, leaf.grad, *(p.grad.clone() for p in mixed.parameters())])
    assert len(grads[0]) == 2 + 1 + 2 * 3 + 4
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_recomputed_mix_keeps_little(mixed: MixedLayer, x: Tensor) -> None:
    held = {}
    for with_cp in (False, True):
        mixed.with_cp = with_cp
        counted = []

        def pack(tensor: Tensor, counted: list[int] = counted) -> Tensor:
            counted.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            mixed(x)
        held[with_cp] = sum(counted)
    # nothing of a candidate's inside: at most the input and the few numbers of alpha
    assert held[True] <= x.numel() + 10
    assert held[False] > 20 * x.numel()


def test_stride_dilation_and_norm_reach_every_candidate() -> None:
    layer = MixedLayer(4, 8, ('k3_e2', 'k7_e3'), (1, 2), stride=2, dilation=2, norm_cfg=dict(type='BN', eps=2e-3))
    assert layer(torch.randn(2, 4, 9, 9)).shape == (2, 8, 5, 5)
    convs = [candidate.depthwise.conv for candidate in layer.candidates.values()]
    assert [(conv.stride, conv.dilation, conv.padding) for conv in convs] == [
        ((2, 2), (2, 2), (2, 2)),
        ((2, 2), (2, 2), (6, 6)),
    ]
    assert {m.eps for m in layer.modules() if isinstance(m, nn.BatchNorm2d)} == {2e-3}
