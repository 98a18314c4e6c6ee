"""What every network of the zoo keeps to, under its own name."""

import copy
import math
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS as MM_MODELS

from mmnas_ext.archs import cost, zoo
from mmnas_ext.backbones import MBNet
from mmnas_ext.backbones.named import NAMES
from mmnas_ext.registry import MODELS
from tests.backbones.reference import traced

torch.set_num_threads(2)
IMAGE = (2, 3, 64, 96)


def every_output(name: str) -> tuple[int | str, ...]:
    """Indices of all outputs that a network has."""
    arch = zoo.arch(NAMES[name])
    expansions = [f'{i}.expand' for i, stage in enumerate(arch.stages) if stage.blocks[0].expansion > 1]
    return (*range(len(arch.stages) + bool(arch.head_channels)), *expansions)


def test_every_network_of_the_zoo_has_a_name() -> None:
    spaces = {'fna_det', 'fna_seg', 'efficientnet_lite0_det'}
    assert sorted(NAMES.values()) == sorted(set(zoo.names()) - spaces)
    assert len(NAMES) == 11


@pytest.mark.parametrize('output_stride', [8, 16, 32])
@pytest.mark.parametrize('name', NAMES)
def test_outputs_are_as_published_and_multiply_adds_as_priced(name: str, output_stride: int) -> None:
    out_indices = every_output(name)
    net = MODELS.build(dict(type=name, out_indices=out_indices, output_stride=output_stride)).eval()
    outputs, macs = traced(net, torch.randn(IMAGE))
    assert len(outputs) == len(out_indices) >= 7
    assert net.out_channels == tuple(output.shape[1] for output in outputs)
    assert net.out_strides == tuple(64 // output.shape[2] for output in outputs)
    assert net.out_strides == tuple(96 // output.shape[3] for output in outputs)
    assert max(net.out_strides) == output_stride
    arch = zoo.arch(NAMES[name])
    priced = cost(arch, (64, 96), output_stride, head=len(arch.stages) in out_indices)
    assert priced.macs == macs
    assert priced.params == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize('name', NAMES)
def test_building_twice_from_one_dict(name: str) -> None:
    cfg: dict[str, Any] = dict(
        type=name,
        out_indices=[1, 2, 4, 6],
        norm_cfg=dict(type='BN', momentum=0.05),
        init_cfg=[dict(type='Kaiming', layer='Conv2d')],
    )
    given = copy.deepcopy(cfg)
    first, second = MODELS.build(cfg), MODELS.build(cfg)
    assert cfg == given
    assert isinstance(first, MBNet)
    assert first.arch == zoo.arch(NAMES[name])
    assert list(first.state_dict()) == list(second.state_dict())
    assert all(a is not b for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize('name', NAMES)
def test_default_outputs_feed_a_feature_pyramid(name: str) -> None:
    # as a host's registry meets it: by the scope in its name
    net = MM_MODELS.build(dict(type=f'mmnas_ext.{name}'))
    arch = zoo.arch(NAMES[name])
    assert net.out_strides == (4, 8, 16, 32)
    assert net.out_channels == tuple(arch.stages[i].channels for i in (1, 2, 4, 6))
    # no head where nobody reads it
    assert net.head is None


@pytest.mark.parametrize('name', ['MobileNetV2MB', 'FNA_RetinaNet', 'DNA_d'])
def test_odd_sizes_round_up(name: str) -> None:
    net = MODELS.build(dict(type=name)).eval()
    with torch.no_grad():
        outputs = net(torch.randn(1, 3, 33, 47))
    sizes = [(math.ceil(33 / stride), math.ceil(47 / stride)) for stride in (4, 8, 16, 32)]
    assert [tuple(output.shape[2:]) for output in outputs] == sizes


@pytest.mark.parametrize(
    ('name', 'eps'), [('MobileNetV2MB', 1e-5), ('EfficientNetLite0MB', 1e-3), ('FNA_SSDLite', 1e-5), ('DNA_a', 1e-5)]
)
def test_epsilon_of_the_batch_norms(name: str, eps: float) -> None:
    net = MODELS.build(dict(type=name))
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) > 20
    assert {norm.eps for norm in norms} == {eps}


def test_a_named_network_says_which_arguments_it_does_not_take() -> None:
    with pytest.raises(TypeError, match="multiple values for keyword argument 'arch'"):
        MODELS.build(dict(type='DNA_a', arch='dna_b'))
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        MODELS.build(dict(type='DNA_a', depth=50))
