"""Options of a built network: outputs, dilation, freezing, memory, layout, epsilon; and what it refuses."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.archs import ArchSpec, StageSpec
from mmnas_ext.backbones import MBNet
from mmnas_ext.ops import MBConv
from tests.filling import fill_state

# seven stages with the strides of the published networks, and a head; layer counts 1 2 1 3 1 2 1
WIDTHS = (8, 6, 8, 8, 12, 12, 16, 20)
LAYERS = (
    ('k3_e1',),
    ('k3_e3', 'k5_e2'),
    ('k5_e3_se0.25',),
    ('k3_e2', 'k7_e3', 'k3_e2'),
    ('k3_e3',),
    ('k5_e2', 'k3_e2'),
    ('k7_e2',),
)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
ARCH = ArchSpec(tuple(StageSpec(WIDTHS[i], WIDTHS[i + 1], LAYERS[i], STRIDES[i]) for i in range(7)), head_channels=32)


def filled_net(arch: Any = ARCH, **options: Any) -> MBNet:
    """A network whose weights follow the rule, so that two of them with other options are comparable."""
    net = MBNet(arch, **options)
    net.load_state_dict(fill_state(net.state_dict()))
    return net


def norms(module: nn.Module) -> list[_BatchNorm]:
    found = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    assert found
    return found


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 64, 96)


def test_outputs_come_in_the_order_asked_for(image: Tensor) -> None:
    net = filled_net(out_indices=(7, '5.expand', 0, 5)).eval()
    assert net.out_channels == (32, 24, 6, 16)
    assert net.out_strides == (32, 16, 2, 32)
    with torch.no_grad():
        outputs = net(image)
        again = filled_net(out_indices=(0, 5, '5.expand', 7)).eval()(image)
    for output, same in zip(outputs, (again[3], again[2], again[0], again[1]), strict=True):
        assert torch.equal(output, same)


def test_a_single_index_need_not_be_a_list(image: Tensor) -> None:
    assert filled_net(out_indices=3).out_channels == (12,)
    assert filled_net(out_indices='3.expand').out_channels == (16,)


def test_expansion_is_the_first_layers_hidden_part(image: Tensor) -> None:
    net = filled_net(out_indices=(2, '3.expand')).eval()
    with torch.no_grad():
        before, hidden = net(image)
        state = net.state_dict()
        expected = F.conv2d(before, state['stages.3.0.expand.conv.weight'])
        bn = {k: state[f'stages.3.0.expand.bn.{k}'] for k in ('running_mean', 'running_var', 'weight', 'bias')}
        expected = F.batch_norm(expected, **bn, eps=1e-5).clamp(0, 6)
    torch.testing.assert_close(hidden, expected)


@pytest.mark.parametrize(
    ('out_indices', 'got'),
    [
        ((1, 8), '8'),
        ((-1,), '-1'),
        # its expansion is 1: there is no such convolution
        (('1.expand', '0.expand'), "'0.expand'"),
        (('7.expand',), "'7.expand'"),
        (('5.project',), "'5.project'"),
        ((True,), 'True'),
    ],
)
def test_outputs_that_do_not_exist(out_indices: tuple[int | str, ...], got: str) -> None:
    with pytest.raises(ValueError, match=rf'out_indices must be among \[0, 1, .*\], got {got}'):
        MBNet(ARCH, out_indices=out_indices)


def test_head_of_a_network_without() -> None:
    with pytest.raises(ValueError, match='got 7; this network has no head, so no 7'):
        MBNet(ARCH.replace(head_channels=None), out_indices=(7,))


def test_no_outputs() -> None:
    with pytest.raises(ValueError, match=r'out_indices must name at least one output, got none; allowed are \[0, 1'):
        MBNet(ARCH, out_indices=())


# stride and dilation of each stage's layers: a stage that would pass the output stride dilates, and so do all after it
@pytest.mark.parametrize(
    ('output_stride', 'strides', 'dilations'),
    [
        (32, (1, 2, 2, 2, 1, 2, 1), (1, 1, 1, 1, 1, 1, 1)),
        (16, (1, 2, 2, 2, 1, 1, 1), (1, 1, 1, 1, 1, 2, 2)),
        (8, (1, 2, 2, 1, 1, 1, 1), (1, 1, 1, 2, 2, 4, 4)),
    ],
)
def test_dilation_replaces_stride(output_stride: int, strides: tuple[int, ...], dilations: tuple[int, ...]) -> None:
    net = MBNet(ARCH, output_stride=output_stride)
    for stage, stride, dilation in zip(net.layers(), strides, dilations, strict=True):
        convs = [layer.depthwise.conv for layer in stage]
        assert [conv.stride for conv in convs] == [(stride,) * 2] + [(1, 1)] * (len(convs) - 1)
        assert {conv.dilation for conv in convs} == {(dilation,) * 2}


@pytest.mark.parametrize('output_stride', [4, 64, 16.0, None])
def test_other_output_strides(output_stride: Any) -> None:
    with pytest.raises(ValueError, match=rf'output_stride must be one of \(8, 16, 32\), got {output_stride}'):
        MBNet(ARCH, output_stride=output_stride)


def test_frozen_stages_out_of_range() -> None:
    with pytest.raises(ValueError, match=r'frozen_stages must lie in -1\.\.7, got 8'):
        MBNet(ARCH, frozen_stages=8)


def test_recomputing_layers_keeps_fewer_activations(image: Tensor) -> None:
    def kept(net: MBNet) -> int:
        held = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal held
            held += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net.train()(image)
        return held

    assert kept(filled_net(out_indices=(6,), with_cp=True)) < 0.5 * kept(filled_net(out_indices=(6,)))


def test_drop_path_grows_linearly_over_the_layers() -> None:
    net = MBNet(ARCH, drop_path_rate=0.2)
    layers = [layer for stage in net.layers() for layer in stage]
    assert len(layers) == 11
    rates = {i: layer.drop_path.drop_prob for i, layer in enumerate(layers) if layer.drop_path}
    # only where there is a residual: equal channels and stride 1
    assert sorted(rates) == [2, 5, 6, 7, 9]
    assert rates == pytest.approx({i: 0.2 * i / 11 for i in rates})


def test_drop_path_of_dnas_retraining_is_the_authors() -> None:
    # their drop-connect: 0.2 * i / 22 over the 22 layers of DNA-a, the last of which has no shortcut to drop beside
    layers = [layer for stage in MBNet('dna_a', drop_path_rate=0.2).layers() for layer in stage]
    assert len(layers) == 22
    assert layers[-1].drop_path is None
    assert layers[20].drop_path.drop_prob == pytest.approx(0.2 * 20 / 22)
    assert layers[2].drop_path.drop_prob == pytest.approx(0.2 * 2 / 22)


def test_drop_path_acts_in_training_only(image: Tensor) -> None:
    plain, dropping = filled_net(out_indices=(6,)), filled_net(out_indices=(6,), drop_path_rate=0.5)
    assert not any(isinstance(m, DropPath) for m in plain.modules())
    with torch.no_grad():
        assert torch.equal(plain.eval()(image)[0], dropping.eval()(image)[0])
        assert not torch.allclose(plain.train()(image)[0], dropping.train()(image)[0], rtol=1e-2)


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_drop_path_out_of_range(rate: float) -> None:
    with pytest.raises(ValueError, match=rf'drop_path_rate must lie in \[0, 1\), got {rate}'):
        MBNet(ARCH, drop_path_rate=rate)


@pytest.mark.parametrize('training', [False, True])
def test_memory_layout_changes_no_value(training: bool, image: Tensor) -> None:
    plain, nhwc = filled_net(out_indices=(2, 7)), filled_net(out_indices=(2, 7), channels_last=True)
    with torch.no_grad():
        expected, outputs = plain.train(training)(image), nhwc.train(training)(image)
    for output, other in zip(outputs, expected, strict=True):
        assert output.is_contiguous(memory_format=torch.channels_last)
        assert other.is_contiguous()
        # in training the last stages' norms see 12 values a channel: rounding is amplified
        torch.testing.assert_close(output, other, rtol=1e-4, atol=2e-4 if training else 1e-5)


@pytest.mark.parametrize(
    ('arch', 'options', 'eps'),
    [
        ('fna_retinanet', {}, 1e-5),
        ('efficientnet_lite0', {}, 1e-3),
        ('efficientnet_lite0', dict(norm_cfg=dict(type='BN', momentum=0.01)), 1e-3),
        ('efficientnet_lite0', dict(norm_cfg=dict(type='SyncBN')), 1e-3),
        ('efficientnet_lite0', dict(norm_cfg=dict(type='BN', eps=2e-4)), 2e-4),
        ('fna_retinanet', dict(init_cfg=dict(type='mmnas_ext.Remapped', seed=dict(arch='efficientnet_lite0'))), 1e-3),
        ('fna_retinanet', dict(init_cfg=dict(type='Remapped', seed=dict(arch='mobilenet_v2'))), 1e-5),
        ('fna_retinanet', dict(init_cfg=dict(type='Kaiming', layer='Conv2d')), 1e-5),
    ],
)
def test_epsilon_is_as_given_else_the_architectures_else_the_seeds(
    arch: str, options: dict[str, Any], eps: float
) -> None:
    net = MBNet(arch, **options)
    assert {norm.eps for norm in norms(net)} == {eps}
    assert net.bn_eps == eps


def test_other_norms_and_activations(image: Tensor) -> None:
    net = MBNet(ARCH, norm_cfg=dict(type='GN', num_groups=2), act_cfg=dict(type='LeakyReLU')).eval()
    assert sum(isinstance(m, nn.GroupNorm) for m in net.modules()) == 1 + 11 * 3 - 1
    assert any(isinstance(m, nn.LeakyReLU) for m in net.modules())
    assert not any(isinstance(m, nn.ReLU6 | _BatchNorm) for m in net.modules())
    assert [output.shape[1] for output in net(image)] == [8, 8, 12, 20]


def test_default_initialisation_is_kaimings_over_outputs() -> None:
    net = MBNet(ARCH, out_indices=(7,))
    net.init_weights()
    weight = net.head.conv.weight
    # 32 outputs of 1x1: standard deviation sqrt(2 / 32) over 640 values
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 32), rel=0.1)
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms(net))


@pytest.mark.parametrize(('act', 'kind'), [('relu6', nn.ReLU6), ('swish', nn.SiLU), ('relu', nn.ReLU)])
def test_activation_is_the_architectures(act: str, kind: type[nn.Module]) -> None:
    net = MBNet(ARCH.replace(act=act), out_indices=(7,))
    parts = [net.stem, net.head, net.stages[3][0].expand, net.stages[3][0].depthwise]
    assert {type(part.activate) for part in parts} == {kind}
    assert type(net.stages[2][0].se.act) is kind
    assert all(not layer.project.with_activation for stage in net.layers() for layer in stage)
    assert all(isinstance(layer, MBConv) for stage in net.layers() for layer in stage)


def test_malformed_architecture_is_named() -> None:
    with pytest.raises(ValueError, match='no_such_network'):
        MBNet('no_such_network')
