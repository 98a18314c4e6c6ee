"""A layer of a super-network, one candidate of which runs at a call."""

import pytest
import torch
from torch import Tensor, nn

from mmnas_ext.archs import LayerSpec
from mmnas_ext.ops import MBConv
from mmnas_ext.ops.choice import ChoiceLayer, candidate_key

TOKENS = ('k3_e2', 'skip', 'k5_e3_se0.25')


@pytest.fixture
def layer() -> ChoiceLayer:
    return ChoiceLayer(4, 4, TOKENS)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 4, 6, 6)


def test_names_of_candidates(layer: ChoiceLayer) -> None:
    assert candidate_key('k5_e3_se0.25') == 'k5_e3_se0_25'
    assert list(layer.candidates) == ['k3_e2', 'k5_e3_se0_25']
    assert layer.tokens == TOKENS


def test_a_skip_has_no_module_and_hands_its_input_on(layer: ChoiceLayer, x: Tensor) -> None:
    assert layer.candidate(1) is None
    assert layer.run(1, x) is x


@pytest.mark.parametrize('index', [0, 2])
def test_each_candidate_is_the_layer_of_its_token(layer: ChoiceLayer, x: Tensor, index: int) -> None:
    alone = MBConv(4, 4, LayerSpec.parse(TOKENS[index]))
    alone.load_state_dict(layer.candidate(index).state_dict())
    assert torch.equal(layer.run(index, x), alone(x))


@pytest.mark.parametrize('index', [0, 2])
def test_only_the_candidate_that_ran_has_gradients(layer: ChoiceLayer, x: Tensor, index: int) -> None:
    layer.run(index, x).square().sum().backward()
    used = {name for name, p in layer.named_parameters() if p.grad is not None}
    assert used == {name for name, _ in layer.named_parameters() if candidate_key(TOKENS[index]) in name.split('.')}
    assert len(used) == {0: 9, 2: 13}[index]  # three convolutions and norms; two biased convolutions of a gate


def test_only_the_candidate_that_ran_moves_its_statistics(layer: ChoiceLayer, x: Tensor) -> None:
    layer.train().run(0, x)
    seen = {key: int(value) for key, value in layer.state_dict().items() if key.endswith('num_batches_tracked')}
    assert {key: count for key, count in seen.items() if count} == {
        f'candidates.k3_e2.{part}.bn.num_batches_tracked': 1 for part in ('expand', 'depthwise', 'project')
    }
    assert len(seen) == 6


def test_stride_dilation_norm_and_activation_reach_every_candidate() -> None:
    norm_cfg, act_cfg = dict(type='BN', eps=2e-3), dict(type='SiLU')
    layer = ChoiceLayer(4, 8, ('k3_e2', 'k7_e3'), 2, 2, norm_cfg, act_cfg)
    assert [layer.run(index, torch.randn(2, 4, 9, 7)).shape for index in (0, 1)] == [(2, 8, 5, 4)] * 2
    convs = [layer.candidate(index).depthwise.conv for index in (0, 1)]
    assert [(conv.stride, conv.dilation, conv.padding) for conv in convs] == [
        ((2, 2), (2, 2), (2, 2)),
        ((2, 2), (2, 2), (6, 6)),
    ]
    assert {m.eps for m in layer.modules() if isinstance(m, nn.BatchNorm2d)} == {2e-3}
    assert sum(isinstance(m, nn.SiLU) for m in layer.modules()) == 4


def test_a_wrong_token_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown layer token 'k3'"):
        ChoiceLayer(4, 4, ('k3_e2', 'k3'))
