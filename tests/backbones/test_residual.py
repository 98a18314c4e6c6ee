"""Networks of fused, basic and bottleneck layers as backbones, and the zoo's against torchvision's own modules."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mmnas_ext.archs import ArchSpec, StageSpec, cost, zoo
from mmnas_ext.backbones import MBNet
from mmnas_ext.backbones.chain import default_outputs
from mmnas_ext.registry import MODELS
from mmnas_ext.remap import Seed
from mmnas_ext.remap.initializer import RemappedInit
from mmnas_ext.remap.layout import tensor_shapes
from tests.backbones.reference import traced
from tests.filling import fill_image, fill_state

ARCH = ArchSpec(
    (
        StageSpec(8, 16, ('bottleneck_k3_e0.5', 'bottleneck_k5_e0.5_g2'), 1),
        StageSpec(16, 24, ('basic_k3_e1', 'basic_k3_e0.5'), 2),
        StageSpec(24, 24, ('fused_k3_e2', 'fused_k3_e1'), 2),
        StageSpec(24, 32, ('k3_e2.5_hse0.25_hswish', 'basic_k5_e1'), 2),
    ),
    head_channels=40,
    act='relu',
    stem='conv7_pool',
)
IMAGE = fill_image((2, 3, 64, 96))


def net(**options: Any) -> MBNet:
    made = MBNet(ARCH, **options)
    made.load_state_dict(fill_state(made.state_dict()))
    return made


@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_outputs_and_multiply_adds_are_as_priced(output_stride: int) -> None:
    built = net(out_indices=(0, 1, 2, 3, 4), output_stride=output_stride).eval()
    outputs, macs = traced(built, IMAGE)
    assert built.out_strides == tuple(min(stride, output_stride) for stride in (4, 8, 16, 32, 32))
    assert built.out_channels == tuple(output.shape[1] for output in outputs) == (16, 24, 24, 32, 40)
    assert built.out_strides == tuple(64 // output.shape[2] for output in outputs)
    priced = cost(ARCH, (64, 96), output_stride, head=True)
    assert (priced.macs, priced.params) == (macs, sum(p.numel() for p in built.parameters()))


def test_state_dict_has_the_keys_that_are_promised() -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in net(out_indices=(4,)).state_dict().items()}
    assert list(shapes.items()) == list(tensor_shapes(ARCH).items())
    layer = {key.removeprefix('stages.0.0.').partition('.')[0] for key in shapes if key.startswith('stages.0.0.')}
    assert layer == {'enter', 'conv', 'project', 'shortcut'}


def test_outputs_by_default_are_those_of_a_feature_pyramid() -> None:
    assert net().out_strides == (4, 8, 16, 32)
    assert net().out_indices == default_outputs(ARCH) == (0, 1, 2, 3)
    assert default_outputs(zoo.arch('mobilenet_v3_large')) == (1, 2, 4, 5)
    assert default_outputs(zoo.arch('dna_a')) == default_outputs(zoo.space('fna_det')) == (1, 2, 4, 6)


def test_only_an_mbconvs_expansion_is_an_output() -> None:
    assert net(out_indices=('3.expand',)).out_channels == (64,)
    assert net(out_indices=('3.expand',)).eval()(IMAGE)[0].shape == (2, 64, 4, 6)
    for stage in range(3):
        with pytest.raises(ValueError, match=r"out_indices must be among \[0, 1, 2, 3, 4, '3.expand'\], got"):
            net(out_indices=(f'{stage}.expand',))


@pytest.mark.parametrize('frozen', [0, 2, 4])
def test_frozen_stages_do_not_learn(frozen: int) -> None:
    built = net(out_indices=(4,), frozen_stages=frozen).train()
    before = {key: tensor.clone() for key, tensor in built.state_dict().items()}
    built(IMAGE)[0].square().mean().backward()
    torch.optim.SGD(built.parameters(), lr=0.1).step()
    parts = ['stem.', *(f'stages.{i}.' for i in range(4)), 'head.']
    after = built.state_dict()
    changed = [p for p in parts if any(not torch.equal(before[k], after[k]) for k in before if k.startswith(p))]
    assert changed == parts[frozen + 1 :]


def test_norm_eval_keeps_statistics() -> None:
    built = net(norm_eval=True).train()
    assert not any(m.training for m in built.modules() if isinstance(m, nn.BatchNorm2d))
    assert built.training


def test_recomputing_layers_changes_nothing() -> None:
    found = []
    for with_cp in (False, True):
        built = net(with_cp=with_cp).train()
        outputs = built(IMAGE)
        sum(output.square().mean() for output in outputs).backward()
        found.append([*outputs, *built.state_dict().values(), *(p.grad for p in built.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_memory_layout_and_drop_path() -> None:
    with torch.no_grad():
        plain, fast = (net(channels_last=last).eval()(IMAGE) for last in (False, True))
    torch.testing.assert_close(plain, fast, rtol=1e-4, atol=1e-4)
    rates = [
        layer.drop_path and layer.drop_path.drop_prob for stage in net(drop_path_rate=0.8).layers() for layer in stage
    ]
    # the i-th of 8 layers has 0.8 i / 8; the first fused and the MBConv layer add nothing
    assert rates == [None, *map(pytest.approx, (0.1, 0.2, 0.3)), None, pytest.approx(0.5), None, pytest.approx(0.7)]


def test_weights_saved_and_loaded_give_equal_outputs(tmp_path: Path) -> None:
    saved = net().eval()
    torch.save(saved.state_dict(), tmp_path / 'net.pth')
    loaded = MBNet(ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'net.pth')))
    loaded.init_weights()
    with torch.no_grad():
        assert all(map(torch.equal, loaded.eval()(IMAGE), saved(IMAGE)))


def tv_features(name: str) -> nn.Module:
    model = getattr(torchvision.models, name)()
    if name.startswith('resnet'):
        return nn.Sequential(*list(model.children())[:-2])
    return model.features


@pytest.mark.parametrize(
    # torchvision.models' own counts of the classifiers' parameters are 513,000 and 2,049,000 for ResNet-18 and -50
    ('name', 'params', 'macs'),
    [
        ('resnet18', 11_176_512, 1_813_561_344),
        ('resnet34', 21_284_672, 3_663_249_408),
        ('resnet50', 23_508_032, 4_087_136_256),
        ('efficientnet_b0', 4_007_548, 384_534_752),
        ('mobilenet_v3_large', 2_971_952, 214_080_960),
        ('mobilenet_v3_small', 927008, 54896576),
    ],
)
def test_the_zoos_networks_are_torchvisions(name: str, params: int, macs: int) -> None:
    arch = zoo.arch(name)
    with torch.device('meta'):
        theirs = tv_features(name).eval()
        ours = MBNet(arch, out_indices=(len(arch.stages) - (arch.head_channels is None),)).eval()
        counted = []
        for module in (theirs, ours):
            _, found = traced(module, torch.zeros(1, 3, 224, 224))
            counted.append((sum(p.numel() for p in module.parameters()), found))
    assert counted == [(params, macs)] * 2
    assert cost(arch, (224, 224), head=arch.head_channels is not None) == (macs, params)


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_large'])
def test_torchvisions_weights_give_torchvisions_features(name: str) -> None:
    theirs = tv_features(name).eval()
    theirs.load_state_dict(fill_state(theirs.state_dict()))
    arch = zoo.arch(name)
    ours = MBNet(arch, out_indices=(len(arch.stages) - (arch.head_channels is None),)).eval()
    # both list their tensors in the order in which they run
    pairs = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(dict(pairs))
    image = fill_image((1, 3, 64, 64))
    with torch.no_grad():
        torch.testing.assert_close(ours(image)[0], theirs(image), rtol=1e-4, atol=1e-4)


def test_onto_the_identical_resnet_outputs_are_the_seeds_to_the_bit() -> None:
    seed = MODELS.build(dict(type='mmnas_ext.ResNet18MB')).eval()
    seed.load_state_dict(fill_state(seed.state_dict()))
    target = MODELS.build(dict(type='mmnas_ext.ResNet18MB')).eval()
    report = RemappedInit(Seed(seed.arch, seed.state_dict()))(target)
    assert report.counts()['copied'] == len(target.state_dict())
    image: Tensor = fill_image((1, 3, 64, 64))
    with torch.no_grad():
        assert all(map(torch.equal, target(image), seed(image)))
