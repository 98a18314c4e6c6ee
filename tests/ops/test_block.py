"""Layers of every kind against plain functional PyTorch, torchvision's modules, and what training needs of them."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.models.efficientnet as tv_efficientnet
import torchvision.models.mobilenetv3 as tv_mobilenet
import torchvision.models.resnet as tv_resnet
from torch import Tensor, nn

from mmnas_ext.archs import STEMS, BlockSpec
from mmnas_ext.ops import ConvBlock, MBConv, build_layer, build_stem
from tests.filling import fill_state

KINDS = ('k3_e2', 'fused_k3_e4', 'fused_k3_e2_se0.5', 'fused_k3_e1', 'basic_k3_e1', 'bottleneck_k3_e0.5_g2')
RELU = dict(type='ReLU')


def filled(module: nn.Module) -> nn.Module:
    module.load_state_dict(fill_state(module.state_dict()))
    return module.eval()


def copied(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """Loads another implementation's tensors, which lists its convolutions in the same order."""
    values = list(filled(theirs).state_dict().values())
    keys = list(ours.state_dict())
    assert [tuple(v.shape) for v in ours.state_dict().values()] == [tuple(v.shape) for v in values]
    ours.load_state_dict(dict(zip(keys, values, strict=True)))
    return ours.eval()


def same(ours: nn.Module, theirs: nn.Module, channels: int) -> None:
    x = torch.randn(2, channels, 11, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def narrowed(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


@pytest.mark.parametrize(('in_channels', 'stride'), [(16, 1), (16, 2), (8, 1)])
def test_resnet_blocks_are_torchvisions(in_channels: int, stride: int) -> None:
    shape = (in_channels, 16, stride, 1, None, RELU)
    theirs: nn.Module = tv_resnet.BasicBlock(in_channels, 16, stride, narrowed(in_channels, 16, stride))
    same(copied(theirs, build_layer('basic_k3_e1', *shape)), theirs, in_channels)
    theirs = tv_resnet.Bottleneck(in_channels, 4, stride, narrowed(in_channels, 16, stride))
    same(copied(theirs, build_layer('bottleneck_k3_e0.25', *shape)), theirs, in_channels)
    theirs = tv_resnet.Bottleneck(in_channels, 4, stride, narrowed(in_channels, 16, stride), groups=4, base_width=128)
    same(copied(theirs, build_layer('bottleneck_k3_e2_g4', *shape)), theirs, in_channels)


@pytest.mark.parametrize(('in_channels', 'stride', 'expansion'), [(16, 1, 4), (16, 2, 4), (8, 1, 2.5), (16, 1, 1)])
def test_fused_layers_are_torchvisions(in_channels: int, stride: int, expansion: float) -> None:
    cfg = tv_efficientnet.FusedMBConvConfig(expansion, 3, stride, in_channels, 16, 1)
    theirs = tv_efficientnet.FusedMBConv(cfg, 0.0, nn.BatchNorm2d)
    ours = build_layer(f'fused_k3_e{expansion}', in_channels, 16, stride, 1, None, dict(type='SiLU'))
    same(copied(theirs, ours), theirs, in_channels)


@pytest.mark.parametrize(
    ('token', 'expanded', 'se', 'act'),
    [('k5_e3_hse0.25_relu', 72, True, 'RE'), ('k3_e2.3', 56, False, 'HS'), ('k3_e1_hse0.25', 24, True, 'HS')],
)
def test_mobilenetv3_layers_are_torchvisions(token: str, expanded: int, se: bool, act: str) -> None:
    cfg = tv_mobilenet.InvertedResidualConfig(24, int(token[1]), expanded, 24, se, act, 1, 1, 1.0)
    theirs = tv_mobilenet.InvertedResidual(cfg, nn.BatchNorm2d)
    ours = build_layer(token, 24, 24, 1, 1, None, dict(type='HSwish'))
    same(copied(theirs, ours), theirs, 24)


def test_squeeze_excite_of_a_fused_layer_gates_what_is_inside() -> None:
    layer = filled(build_layer('fused_k3_e2_se0.5', 4, 6, 2, act_cfg=RELU))
    x = torch.randn(2, 4, 7, 7)
    with torch.no_grad():
        hidden = layer.conv(x)
        inner = F.conv2d(hidden.mean((2, 3), keepdim=True), layer.se.reduce.weight, layer.se.reduce.bias).clamp_min(0)
        gate = F.conv2d(inner, layer.se.expand.weight, layer.se.expand.bias)
        expected = layer.project(hidden / (1 + (-gate).exp()))
        torch.testing.assert_close(layer(x), expected)
    assert layer.se.reduce.weight.shape == (2, 8, 1, 1)  # half of the four channels that come in


def test_pooled_stem_is_resnets() -> None:
    whole = tv_resnet.resnet18()
    theirs = nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool)
    ours = build_stem(STEMS['conv7_pool'], 64, dict(type='BN'), RELU)
    assert [name for name, _ in ours.named_parameters()] == ['conv.weight', 'bn.weight', 'bn.bias']
    same(copied(theirs, ours), theirs, 3)


@pytest.mark.parametrize('token', KINDS)
def test_children_are_the_convolutions_of_the_description(token: str) -> None:
    layer = build_layer(token, 8, 16, 2, 1)
    listed = {}
    for conv in BlockSpec.parse(token).convs(8, 16, 2):
        listed[f'{conv.name}.conv.weight' if conv.norm else f'{conv.name}.weight'] = conv.weight
    found = {key: tuple(value.shape) for key, value in layer.state_dict().items() if value.ndim == 4}
    assert found == listed


@pytest.mark.parametrize('token', KINDS)
def test_dilation_keeps_the_size_and_widens_every_k_x_k_kernel(token: str) -> None:
    layer = build_layer(token, 8, 8, 1, 3).eval()
    kernels = [m for m in layer.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert {(m.dilation, m.padding) for m in kernels} == {((3, 3), (3, 3))}
    assert layer(torch.zeros(1, 8, 9, 7)).shape == (1, 8, 9, 7)


@pytest.mark.parametrize('token', KINDS)
@pytest.mark.parametrize(('channels', 'stride'), [(8, 1), (12, 2)])
def test_recomputing_gives_the_same_gradients_and_statistics(token: str, channels: int, stride: int) -> None:
    made = [build_layer(token, 8, channels, stride, with_cp=with_cp) for with_cp in (False, True)]
    made[1].load_state_dict(made[0].state_dict())
    x = torch.randn(3, 8, 6, 6, requires_grad=True)
    outs = [layer(x) for layer in made]
    grads = [torch.autograd.grad(out.square().sum(), (x, *m.parameters())) for out, m in zip(outs, made, strict=True)]
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)
    torch.testing.assert_close(dict(made[0].named_buffers()), dict(made[1].named_buffers()), rtol=0, atol=0)


@pytest.mark.parametrize('token', ['fused_k3_e4', 'basic_k3_e1', 'bottleneck_k3_e0.5'])
def test_drop_path_drops_what_is_added_to_the_input(token: str) -> None:
    layer = filled(build_layer(token, 8, 8, act_cfg=RELU, drop_path=0.999999))
    layer.drop_path.train()
    x = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x if token.startswith('fused') else x.clamp_min(0), rtol=0, atol=0)
    wider = filled(build_layer(token, 8, 16, 2, act_cfg=RELU, drop_path=0.999999))
    if token.startswith('fused'):
        assert wider.drop_path is None
        return
    wider.drop_path.train()
    with torch.no_grad():
        torch.testing.assert_close(wider(x), wider.shortcut(x).clamp_min(0), rtol=0, atol=0)


def test_a_layers_own_activation_wins_over_the_networks() -> None:
    for token in ('k3_e2_hswish', 'basic_k3_e1_hswish', 'fused_k3_e1_hswish'):
        layer = build_layer(token, 8, 8, act_cfg=dict(type='SiLU'))
        assert any(isinstance(m, nn.Hardswish) for m in layer.modules())
        assert not any(isinstance(m, nn.SiLU) for m in layer.modules())


def test_only_mbconv_gives_its_expansion() -> None:
    assert type(build_layer('k3_e2', 8, 8)) is MBConv
    assert {type(build_layer(token, 8, 8)) for token in KINDS[1:]} == {ConvBlock}
    assert build_layer('k3_e1', 8, 8).expand is None


@pytest.mark.parametrize('token', KINDS)
def test_half_precision_on_a_cpu(token: str) -> None:
    layer = build_layer(token, 8, 8)
    x = torch.randn(2, 8, 6, 6).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        out: Tensor = layer(x)
    out.float().sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize('token', KINDS)
def test_memory_layout_is_kept(token: str) -> None:
    layer = filled(build_layer(token, 8, 8))
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        out = layer(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(out, layer(x), rtol=1e-5, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)
