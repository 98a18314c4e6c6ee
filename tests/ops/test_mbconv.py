"""The inverted residual layer against plain functional PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmnas_ext.archs import ACTIVATIONS, LayerSpec
from mmnas_ext.ops import MBConv, SqueezeExcite, act_layer_cfg
from tests.filling import fill_state

ACTS = {
    'relu6': lambda x: x.clamp(0, 6),
    'relu': lambda x: x.clamp_min(0),
    'swish': lambda x: x / (1 + (-x).exp()),
    'hswish': lambda x: x * (x + 3).clamp(0, 6) / 6,
}


def layer(in_channels: int, channels: int, token: str, **options: object) -> MBConv:
    module = MBConv(in_channels, channels, LayerSpec.parse(token), **options)
    module.load_state_dict(fill_state(module.state_dict()))
    return module


def plain(module: MBConv, x: Tensor, act: str = 'relu6', stride: int = 1, dilation: int = 1) -> Tensor:
    """The residual branch in eval mode, from the layer's state dict and its definition."""
    state = module.state_dict()

    def conv_norm(x: Tensor, name: str, groups: int = 1, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = state[f'{name}.conv.weight']
        padding = (weight.shape[-1] - 1) * dilation // 2
        x = F.conv2d(x, weight, None, stride, padding, dilation, groups)
        mean, var, gamma, beta = (state[f'{name}.bn.{k}'] for k in ('running_mean', 'running_var', 'weight', 'bias'))
        scale = gamma / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (beta - mean * scale)[:, None, None]

    hidden = ACTS[act](conv_norm(x, 'expand')) if 'expand.conv.weight' in state else x
    hidden = ACTS[act](conv_norm(hidden, 'depthwise', hidden.shape[1], stride, dilation))
    if 'se.reduce.weight' in state:
        squeezed = hidden.flatten(2).mean(2)
        squeezed = ACTS[act](squeezed @ state['se.reduce.weight'].flatten(1).T + state['se.reduce.bias'])
        gate = 1 / (1 + (-(squeezed @ state['se.expand.weight'].flatten(1).T + state['se.expand.bias'])).exp())
        hidden = hidden * gate[:, :, None, None]
    return conv_norm(hidden, 'project')


@pytest.mark.parametrize('act', ACTIVATIONS)
@pytest.mark.parametrize(
    ('in_channels', 'channels', 'token', 'stride', 'dilation', 'residual'),
    [
        (8, 8, 'k3_e6', 1, 1, True),
        (8, 8, 'k5_e1', 1, 2, True),
        (8, 8, 'k7_e2_se0.25', 1, 1, True),
        (8, 12, 'k3_e3', 1, 1, False),
        (8, 8, 'k5_e3_se0.5', 2, 1, False),
        (8, 12, 'k7_e4', 1, 4, False),
        (8, 6, 'k1_e2', 2, 1, False),
    ],
)
def test_layer_computes_its_definition(
    act: str, in_channels: int, channels: int, token: str, stride: int, dilation: int, residual: bool
) -> None:
    module = layer(in_channels, channels, token, stride=stride, dilation=dilation, act_cfg=act_layer_cfg(act)).eval()
    x = torch.randn(2, in_channels, 9, 14)
    with torch.no_grad():
        out = module(x)
    expected = plain(module, x, act, stride, dilation)
    assert out.shape == (2, channels, -(-9 // stride), -(-14 // stride))
    torch.testing.assert_close(out, x + expected if residual else expected)


def test_input_is_left_alone() -> None:
    module = layer(8, 8, 'k3_e1').eval()
    x = torch.randn(1, 8, 5, 5)
    before = x.clone()
    with torch.no_grad():
        module(x)
    assert torch.equal(x, before)


def test_expansion_comes_along_with_the_output() -> None:
    module = layer(4, 4, 'k3_e3').eval()
    x = torch.randn(1, 4, 6, 6)
    with torch.no_grad():
        out, hidden = module.forward_with_expansion(x)
        assert torch.equal(out, module(x))
        assert torch.equal(hidden, module.expand(x))
    assert hidden.shape == (1, 12, 6, 6)


def test_parts_and_parameters() -> None:
    module = MBConv(8, 12, LayerSpec.parse('k5_e3_se0.25'))
    # 1x1 to 24, 5x5 depthwise, squeeze to a quarter of the 8 input channels and back, 1x1 to 12; norms have 2 a channel
    expected = 8 * 24 + 48 + 24 * 25 + 48 + (24 * 2 + 2) + (2 * 24 + 24) + 24 * 12 + 24
    assert sum(p.numel() for p in module.parameters()) == expected
    first = MBConv(8, 12, LayerSpec.parse('k3_e1'))
    assert first.expand is None
    assert first.se is None
    assert sum(p.numel() for p in first.parameters()) == 8 * 9 + 16 + 8 * 12 + 24
    assert not first.project.with_activation


def test_squeeze_excite_gates_channels_by_their_mean() -> None:
    gate = SqueezeExcite(2, 1, dict(type='ReLU'))
    with torch.no_grad():
        gate.reduce.weight.copy_(torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1))
        gate.reduce.bias.fill_(0.5)
        gate.expand.weight.copy_(torch.tensor([2.0, 0.0]).reshape(2, 1, 1, 1))
        gate.expand.bias.copy_(torch.tensor([-1.0, 0.0]))
        x = torch.tensor([[[[1.0, 5.0]], [[2.0, 0.0]]]])
        # means 3 and 1 -> relu(3 - 1 + 0.5) = 2.5 -> gates sigmoid(2 * 2.5 - 1) and sigmoid(0) = 0.5
        expected = torch.tensor([[[[1.0, 5.0]], [[1.0, 0.0]]]])
        expected[:, 0] *= 0.9820138
        torch.testing.assert_close(gate(x), expected)


def test_drop_path_drops_whole_samples_and_scales_the_rest() -> None:
    module = layer(4, 4, 'k3_e2', drop_path=0.25).train()
    x = torch.randn(64, 4, 3, 3)
    with torch.no_grad():
        branch = module._forward(x) - x
        module.drop_path.drop_prob = 0.0
        whole = module(x) - x
    dropped = branch.flatten(1).abs().amax(1) == 0
    assert 4 <= dropped.sum() <= 30
    torch.testing.assert_close(branch[~dropped], whole[~dropped] / 0.75, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('channels', 'stride'), [(6, 1), (4, 2)])
def test_drop_path_needs_a_residual(channels: int, stride: int) -> None:
    assert MBConv(4, channels, LayerSpec.parse('k3_e2'), stride=stride, drop_path=0.5).drop_path is None
    assert MBConv(4, 4, LayerSpec.parse('k3_e2'), drop_path=0.0).drop_path is None


@pytest.mark.parametrize('token', ['k3_e2', 'k3_e1', 'k5_e3_se0.25'])
@pytest.mark.parametrize('training', [True, False])
def test_recomputed_layer_is_the_same_layer(token: str, training: bool) -> None:
    results = []
    for with_cp in (False, True):
        module = layer(4, 4, token, with_cp=with_cp).train(training)
        x = torch.linspace(-2, 2, 200).reshape(2, 4, 5, 5).requires_grad_()
        out = module(x)
        out.square().sum().backward()
        # a batch that is computed twice enters the running statistics once
        results.append([out, x.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_a_compiled_layer_that_recomputes_is_the_same_layer() -> None:
    plain, recomputed = layer(4, 4, 'k3_e2').train(), layer(4, 4, 'k3_e2', with_cp=True).train()
    recomputed.load_state_dict(plain.state_dict())
    compiled = torch.compile(recomputed, backend='aot_eager', fullgraph=True)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    ours, theirs = compiled(x), plain(x)
    torch.testing.assert_close(ours, theirs)
    mine = torch.autograd.grad(ours.square().sum(), (x, *recomputed.parameters()))
    wanted = torch.autograd.grad(theirs.square().sum(), (x, *plain.parameters()))
    torch.testing.assert_close(mine, wanted)
    # the norms have seen the batch once
    torch.testing.assert_close(dict(recomputed.named_buffers()), dict(plain.named_buffers()))


def test_recomputed_layer_leaves_its_norms_as_they_were() -> None:
    module = layer(4, 4, 'k3_e2', with_cp=True, norm_cfg=dict(type='BN', momentum=0.3)).train()
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    for _ in range(3):
        module(x).sum().backward()
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [(norm.momentum, norm.num_batches_tracked.item()) for norm in norms] == [(0.3, 3)] * 3


@pytest.mark.parametrize(
    ('act', 'kind'), [('relu6', nn.ReLU6), ('swish', nn.SiLU), ('relu', nn.ReLU), ('hswish', nn.Hardswish)]
)
def test_activation_configs(act: str, kind: type[nn.Module]) -> None:
    module = MBConv(4, 4, LayerSpec.parse('k3_e2_se0.5'), act_cfg=act_layer_cfg(act))
    assert {type(m) for m in (module.expand.activate, module.depthwise.activate, module.se.act)} == {kind}
