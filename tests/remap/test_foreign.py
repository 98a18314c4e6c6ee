"""ResNet, MobileNetV3 and EfficientNet of other projects: read by their keys, they compute what those projects do."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import mmpretrain.models as mmpretrain
import pytest
import timm
import torch
import torchvision.models as torchvision
from torch import Tensor, nn

from mmnas_ext.archs import ArchSpec, zoo
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.remap import load_seed, remap
from mmnas_ext.remap.checkpoints import Seed, as_seed
from mmnas_ext.remap.download import locate
from mmnas_ext.remap.renaming import rename
from tests.filling import fill_image
from tests.remap.samples import features, features_of

Build = Callable[[], nn.Module]
SYMMETRIC: dict[str, Any] = dict(conv_cfg=None)  # its own pads as TensorFlow does
STAGES4 = ('layer1', 'layer2', 'layer3', 'layer4')


def mm(name: str, **arguments: Any) -> Build:
    return partial(getattr(mmpretrain, name), **arguments)


def of_timm(name: str) -> Build:
    return partial(timm.create_model, name, pretrained=False)


def of_torchvision(name: str) -> Build:
    return partial(getattr(torchvision, name), weights=None)


# name -> how it is built, the modules that end a stage each, the architecture, the epsilon that is known of it
LARGE, SMALL = (1, 3, 6, 10, 12, 15), (1, 3, 6, 8, 11)
KNOWN: dict[str, tuple[Build, tuple[str, ...], str, float | None]] = {
    'torchvision resnet18': (of_torchvision('resnet18'), STAGES4, 'resnet18', None),
    'torchvision resnet50': (of_torchvision('resnet50'), STAGES4, 'resnet50', None),
    'timm resnet18': (of_timm('resnet18'), STAGES4, 'resnet18', None),
    'mmpretrain resnet18': (mm('ResNet', depth=18), STAGES4, 'resnet18', None),
    'torchvision mobilenet_v3_large': (
        of_torchvision('mobilenet_v3_large'), tuple(f'features.{i}' for i in LARGE), 'mobilenet_v3_large', 1e-3,
    ),
    'torchvision mobilenet_v3_small': (
        of_torchvision('mobilenet_v3_small'), tuple(f'features.{i}' for i in SMALL), 'mobilenet_v3_small', 1e-3,
    ),
    'timm mobilenetv3_large_100': (
        of_timm('mobilenetv3_large_100'), tuple(f'blocks.{i}' for i in range(6)), 'mobilenet_v3_large', None,
    ),
    'timm mobilenetv3_small_100': (
        of_timm('mobilenetv3_small_100'), tuple(f'blocks.{i}' for i in range(5)), 'mobilenet_v3_small', None,
    ),
    'mmpretrain MobileNetV3 large': (
        mm('MobileNetV3', arch='large'), tuple(f'layer{i}' for i in LARGE), 'mobilenet_v3_large', 1e-3,
    ),
    'mmpretrain MobileNetV3 small': (
        mm('MobileNetV3', arch='small'), tuple(f'layer{i}' for i in SMALL), 'mobilenet_v3_small', 1e-3,
    ),
    'torchvision efficientnet_b0': (
        of_torchvision('efficientnet_b0'), tuple(f'features.{i}' for i in range(1, 8)), 'efficientnet_b0', None,
    ),
    'timm efficientnet_b0': (
        of_timm('efficientnet_b0'), tuple(f'blocks.{i}' for i in range(7)), 'efficientnet_b0', None,
    ),
    'mmpretrain EfficientNet b0': (
        mm('EfficientNet', arch='b0', **SYMMETRIC),
        ('layers.1', 'layers.2', 'layers.3', 'layers.4.2', 'layers.4', 'layers.5.3', 'layers.5'),
        'efficientnet_b0', 1e-3,
    ),
}  # fmt: skip
# what no network of the zoo is: the tokens that are expected, each stage's first and last layer
OTHERS: dict[str, tuple[Build, tuple[str, ...], tuple[tuple[str, str], ...], float | None]] = {
    'torchvision resnext50_32x4d': (
        of_torchvision('resnext50_32x4d'), STAGES4, (('bottleneck_k3_e0.5_g32',) * 2,) * 4, None,
    ),
    'torchvision efficientnet_v2_s': (
        of_torchvision('efficientnet_v2_s'), tuple(f'features.{i}' for i in range(1, 7)),
        (('fused_k3_e1',) * 2, ('fused_k3_e4',) * 2, ('fused_k3_e4',) * 2, ('k3_e4_se0.25',) * 2,
         ('k3_e6_se0.25',) * 2, ('k3_e6_se0.25',) * 2), 1e-3,
    ),
    'timm efficientnetv2_rw_t': (
        of_timm('efficientnetv2_rw_t'), tuple(f'blocks.{i}' for i in range(6)),
        (('fused_k3_e1',) * 2, ('fused_k3_e4',) * 2, ('fused_k3_e4',) * 2, ('k3_e4_se0.25',) * 2,
         ('k3_e6_se0.25',) * 2, ('k3_e6_se0.25',) * 2), None,
    ),
}  # fmt: skip


@cache
def network(name: str) -> nn.Module:
    """The other project's network with random weights and statistics, whose activations keep their size."""
    net = (KNOWN.get(name) or OTHERS[name])[0]()
    net.eval()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if key.endswith(('running_var', 'weight')) and tensor.ndim == 1 else (-0.2, 0.2)
            edge = (6 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else high
            tensor.uniform_(-edge if tensor.ndim > 1 else low, edge, generator=generator)
    return net


@cache
def seed(name: str) -> Seed:
    return as_seed(network(name).state_dict(), name)


def stages_of(name: str, image: Tensor) -> list[Tensor]:
    """What the network's own modules give at the end of each stage."""
    found: dict[str, Tensor] = {}
    net, ends = network(name), (KNOWN.get(name) or OTHERS[name])[1]
    hooks = [
        net.get_submodule(end).register_forward_hook(lambda _, __, out, end=end: found.update({end: out}))
        for end in ends
    ]
    with torch.no_grad():
        net(image)
    for hook in hooks:
        hook.remove()
    return [found[end] for end in ends]


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < 1e-5


@pytest.mark.parametrize('name', [*KNOWN, *OTHERS])
def test_every_stage_computes_what_the_other_project_does(name: str) -> None:
    image = fill_image((1, 3, 64, 64))
    found = seed(name)
    expected = stages_of(name, image)
    assert len(expected) == len(found.arch.stages)
    for ours, theirs in zip(features(found, image, *range(len(expected))), expected, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize('name', KNOWN)
def test_architecture_is_the_zoos_and_the_epsilon_what_is_known(name: str) -> None:
    _, _, known, eps = KNOWN[name]
    arch = zoo.arch(known)
    found = seed(name).arch
    assert found.replace(bn_eps=None) == arch.replace(bn_eps=None)
    assert found.bn_eps == eps
    norms = [module.eps for module in network(name).modules() if isinstance(module, nn.BatchNorm2d)]
    assert set(norms) == {seed(name).bn_eps}


@pytest.mark.parametrize('name', OTHERS)
def test_architecture_of_others(name: str) -> None:
    _, _, ends, eps = OTHERS[name]
    found = seed(name).arch
    assert tuple((stage.layers[0], stage.layers[-1]) for stage in found.stages) == ends
    assert found.bn_eps == eps


@pytest.mark.parametrize(
    ('build', 'first', 'depths', 'eps'),
    [
        (of_torchvision('resnet34'), 'basic_k3_e1', (3, 4, 6, 3), None),
        (of_torchvision('resnet101'), 'bottleneck_k3_e0.25', (3, 4, 23, 3), None),
        (of_torchvision('wide_resnet50_2'), 'bottleneck_k3_e0.5', (3, 4, 6, 3), None),
        (of_torchvision('resnext101_32x8d'), 'bottleneck_k3_e1_g32', (3, 4, 23, 3), None),
        # torchvision builds B5 to B7 with 1e-3
        (of_torchvision('efficientnet_b4'), 'k3_e1_se0.25', (2, 4, 4, 6, 6, 8, 2), None),
        (of_torchvision('efficientnet_b5'), 'k3_e1_se0.25', (3, 5, 5, 7, 7, 9, 3), 1e-3),
        (of_torchvision('efficientnet_v2_m'), 'fused_k3_e1', (3, 5, 5, 7, 14, 18, 5), 1e-3),
        (of_timm('mobilenetv3_large_075'), 'k3_e1_relu', (1, 2, 3, 4, 2, 3), None),
    ],
    ids=lambda value: value.args[0] if isinstance(value, partial) and value.args else None,
)
def test_larger_networks_by_their_shapes(build: Build, first: str, depths: tuple[int, ...], eps: float | None) -> None:
    with torch.device('meta'):
        net = build()
    found = as_seed(net.state_dict(), 'a file').arch
    assert (found.stages[0].layers[0], found.depths, found.bn_eps) == (first, depths, eps)
    if eps is not None:
        assert {module.eps for module in net.modules() if isinstance(module, nn.BatchNorm2d)} == {eps}


# timm's networks with the keys of those that are read, all of ReLU
@pytest.mark.parametrize(
    'name', ['mnasnet_100', 'mnasnet_small', 'spnasnet_100', 'semnasnet_100', 'mobilenet_edgetpu_100']
)
def test_a_network_with_another_ones_keys_is_not_given_its_activation(name: str) -> None:
    with torch.device('meta'):
        net = of_timm(name)()
    assert 'ReLU' in {type(module).__name__ for module in net.modules()}
    with pytest.raises(ValueError, match=f'{name}: the activation does not follow .*MnasNet: give arch'):
        as_seed(net.state_dict(), name)


def test_with_arch_such_a_network_is_read() -> None:
    with torch.device('meta'):
        net = of_timm('mnasnet_100')()
    stages = [
        '[[32, 16], ["k3_e1"], 1]', '[[16, 24], ["k3_e3", "k3_e3", "k3_e3"], 2]',
        '[[24, 40], ["k5_e3", "k5_e3", "k5_e3"], 2]', '[[40, 80], ["k5_e6", "k5_e6", "k5_e6"], 2]',
        '[[80, 96], ["k3_e6", "k3_e6"], 1]', '[[96, 192], ["k5_e6", "k5_e6", "k5_e6", "k5_e6"], 2]',
        '[[192, 320], ["k3_e6"], 1]',
    ]  # fmt: skip
    arch = ArchSpec.parse('|'.join([*stages, 'head=1280', 'act=relu']))
    assert as_seed(net.state_dict(), 'mnasnet_100', arch).arch == arch


@pytest.mark.parametrize(
    ('name', 'act'),
    [
        ('mobilenetv2_050', nn.ReLU6), ('mobilenetv2_110d', nn.ReLU6), ('efficientnet_lite4', nn.ReLU6),
        ('tinynet_a', nn.SiLU), ('tinynet_e', nn.SiLU), ('tf_efficientnetv2_b0', nn.SiLU),
    ],
)  # fmt: skip
def test_networks_of_a_known_family_have_its_activation(name: str, act: type[nn.Module]) -> None:
    with torch.device('meta'):
        net = of_timm(name)()
    assert any(isinstance(module, act) for module in net.modules())
    assert as_seed(net.state_dict(), name).arch.act == {nn.ReLU6: 'relu6', nn.SiLU: 'swish'}[act]


@pytest.mark.parametrize('name', ['fna_retinanet', 'fna_deeplabv3', 'dna_d'])
def test_a_network_found_in_a_space_of_such_widths_is_read_under_timms_keys(name: str) -> None:
    arch = zoo.arch(name).replace(head_channels=None, bn_eps=None)
    with torch.device('meta'):
        state = MBNet(arch, out_indices=(len(arch.stages) - 1,)).state_dict()
    assert as_seed(rename(state, arch, 'timm'), name).arch == arch


def test_remapped_onto_itself_a_resnet_computes_the_same_to_the_bit() -> None:
    image = fill_image((2, 3, 48, 64))
    found = seed('torchvision resnet18')
    state, report = remap(found, 'resnet18')
    assert {entry.action for entry in report.entries} == {'copied'}
    ours = features_of(zoo.arch('resnet18'), state, image, 0, 1, 2, 3)
    assert all(map(torch.equal, ours, features(found, image, 0, 1, 2, 3)))
    assert all(map(torch.equal, ours, stages_of('torchvision resnet18', image)))


def test_the_seeds_path_of_a_space_made_from_it_computes_what_the_seed_does() -> None:
    found = seed('torchvision resnet18')
    image = fill_image((2, 3, 48, 64))
    shared: dict[str, Any] = dict(out_indices=(0, 1, 2, 3), init_cfg=dict(type='Remapped', seed=found))
    made = SuperNet(dict(seed='resnet18', kernels=(3, 5)), affine=True, **shared)
    plain = MBNet('resnet18', **shared)
    for net in (made, plain):
        net.init_weights()
    made.set_path(made.space.path(zoo.arch('resnet18')))
    with torch.no_grad():
        # by the batch's statistics, since candidates have none of their own
        for ours, theirs in zip(made.train()(image), plain.train()(image), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize('name', ['torchvision resnet18', 'torchvision resnext50_32x4d'])
def test_the_keys_of_torchvision_are_written_as_they_were_read(name: str) -> None:
    written = rename(seed(name).state_dict, seed(name).arch, 'torchvision')
    theirs = {k: v for k, v in network(name).state_dict().items() if not k.startswith('fc.')}
    assert list(written) == list(theirs)
    assert all(torch.equal(written[key], tensor) for key, tensor in theirs.items())


def test_the_keys_of_timm_are_written_for_fused_layers_too() -> None:
    found = seed('timm efficientnetv2_rw_t')
    theirs = {k: v for k, v in network('timm efficientnetv2_rw_t').state_dict().items() if 'classifier' not in k}
    written = rename(found.state_dict, found.arch, 'timm')
    assert written.keys() == theirs.keys()
    assert all(torch.equal(written[key], tensor) for key, tensor in theirs.items())


@pytest.mark.parametrize(
    ('name', 'keys', 'message'),
    [
        ('torchvision resnet18', 'timm', "keys 'timm' have none for the stem 'conv7_pool'"),
        ('torchvision mobilenet_v3_small', 'timm', r"keys 'timm' .* has no k3_e1_hse0.25_relu"),
        ('torchvision efficientnet_v2_s', 'torchvision', "keys 'torchvision' are those of MobileNetV2 or of ResNet"),
    ],
)
def test_keys_of_what_the_other_project_has_not(name: str, keys: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rename(seed(name).state_dict, seed(name).arch, keys)


@pytest.mark.parametrize(
    ('name', 'change', 'keys', 'message'),
    [
        ('resnet18', dict(stem='conv3'), 'torchvision', "keys 'torchvision' have none for the stem 'conv3'"),
        ('resnet18', dict(head_channels=64), 'torchvision', "keys 'torchvision' have none for the 1x1 head"),
        ('mobilenet_v2', dict(stem='conv7_pool'), 'torchvision', 'have none for the stem .conv7_pool.'),
        ('mobilenet_v2', dict(stem='conv7_pool'), 'timm', "keys 'timm' have none for the stem .conv7_pool."),
    ],
)
def test_keys_of_ends_that_the_other_project_has_not(
    name: str, change: dict[str, Any], keys: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rename({}, zoo.arch(name).replace(**change), keys)


def test_a_resnet_inside_a_detector_of_openmmlab() -> None:
    state = {f'backbone.{key}': tensor for key, tensor in network('mmpretrain resnet18').state_dict().items()}
    found = as_seed({**state, 'neck.lateral_convs.0.conv.weight': torch.ones(4, 64, 1, 1)}, 'a detector')
    assert found.arch == zoo.arch('resnet18')
    theirs = state['backbone.layer2.0.downsample.0.weight']
    assert torch.equal(found.state_dict['stages.1.0.shortcut.conv.weight'], theirs)


def test_our_own_resnet_is_read_without_its_architecture() -> None:
    found = seed('torchvision resnet18')
    lost = {key: tensor for key, tensor in found.state_dict.items() if not key.startswith('stages.1.0.conv.')}
    with pytest.raises(ValueError, match=r"layer 1.0 of .*: its convolutions are .'project'., and those of a layer"):
        as_seed(lost, 'a part of it')
    again = as_seed({f'backbone.{key}': tensor for key, tensor in found.state_dict.items()}, 'a detector of ours')
    assert again.arch == found.arch


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        # a stem for small images, and those of other networks with a ResNet's layers
        ('torchvision resnet18', {'conv1.weight': (64, 3, 3, 3)}, r'stem of a ResNet must be a 7x7 .*\(64, 3, 3, 3\)'),
        ('torchvision resnet18', {'layer1.0.se.fc1.weight': (4, 64, 1, 1)}, "unexpected tensor 'layer1.0.se.fc1"),
        ('torchvision resnet18', {'conv1.0.weight': (32, 3, 3, 3)}, "unexpected tensor 'conv1.0.weight'"),
        (
            'torchvision mobilenet_v3_small', {'features.4.block.1.0.weight': (96, 1, 3, 3)},
            'activations and strides do not follow.*mobilenet_v3_large or mobilenet_v3_small: give arch',
        ),
        ('torchvision resnet18', {'layer5.0.conv1.weight': (9, 9, 3, 3)}, 'layer 5.0 of .*expected the modules of a'),
    ],
)  # fmt: skip
def test_what_is_no_such_network_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    state = {**network(name).state_dict(), **{key: torch.zeros(shape) for key, shape in change.items()}}
    with pytest.raises(ValueError, match=message):
        as_seed(state, 'a file')


def test_an_architecture_that_is_given_counts_and_is_checked() -> None:
    state = dict(network('torchvision mobilenet_v3_small').state_dict())
    known = zoo.arch('mobilenet_v3_small')
    layers = tuple(token.replace('_relu', '_swish') for token in known.stages[0].layers)
    other = known.replace(stages=(replace(known.stages[0], layers=layers), *known.stages[1:]), bn_eps=2e-3)
    assert as_seed(state, 'a file', other).arch == other
    with pytest.raises(ValueError, match='must have the 15 layers of arch'):
        as_seed(state, 'a file', zoo.arch('mobilenet_v3_large'))


def test_caffe_style_names_are_refused() -> None:
    with pytest.raises(ValueError, match='caffe-style ResNet has the stride of a bottleneck in its first 1x1'):
        load_seed('open-mmlab://detectron2/resnet50_caffe')


@pytest.mark.parametrize(
    ('url', 'file'),
    [
        ('torchvision://resnet18', 'resnet18-f37072fd.pth'),
        ('torchvision://resnet50', 'resnet50-0676ba61.pth'),
        ('torchvision://mobilenet_v3_large', 'mobilenet_v3_large-8738ca79.pth'),
        ('torchvision://efficientnet_b0', 'efficientnet_b0_rwightman-3dd342df.pth'),
        ('open-mmlab://resnext50_32x4d', 'resnext50-32x4d-0ab1a123.pth'),
        ('mmcls://resnet18', 'resnet18_8xb32_in1k_20210831-fbbb1da6.pth'),
    ],
)
def test_model_names_stand_for_files(url: str, file: str) -> None:
    assert locate(url).name == file
