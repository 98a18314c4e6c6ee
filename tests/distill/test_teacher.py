"""A teacher is any network, frozen; its features are found, not typed in."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmnas_ext.distill import Tap, Teacher
from mmnas_ext.distill.teacher import check_teacher
from mmnas_ext.registry import MODELS
from tests.distill import small

RESNET = {'type': 'mmdet.ResNet', 'depth': 18, 'out_indices': (0, 1, 2, 3)}
MBNET = {'type': 'mmnas_ext.MBNet', 'arch': small.ARCH, 'out_indices': (2,)}


@pytest.mark.parametrize(
    ('cfg', 'taps'),
    [
        ({'backbone': RESNET}, [(64, 4), (128, 8), (256, 16), (512, 32)]),
        ({'backbone': {**RESNET, 'type': 'mmpretrain.ResNet'}}, [(64, 4), (128, 8), (256, 16), (512, 32)]),
        ({'timm': 'resnet18'}, [(64, 2), (64, 4), (128, 8), (256, 16), (512, 32)]),
        (
            {'timm': 'efficientnet_lite0'},
            [(16, 2), (24, 4), (40, 8), (80, 16), (112, 16), (192, 32), (320, 32)],
        ),
        ({'timm': 'resnet18', 'taps': ['layer1', 'layer3.0']}, [(64, 4), (256, 16)]),
        ({'timm': 'mobilenetv3_small_050'}, [(8, 4), (16, 8), (24, 16), (24, 16), (48, 32), (288, 32)]),
        ({'backbone': {'type': 'mmnas_ext.DNA_b', 'out_indices': (6,)}},
         [(16, 2), (24, 4), (40, 8), (80, 16), (96, 16), (192, 32), (320, 32)]),
    ],
)  # fmt: skip
def test_channels_and_strides_are_read_off_the_network(cfg: dict[str, Any], taps: list[tuple[int, int]]) -> None:
    teacher = Teacher.parse(cfg)
    assert list(teacher.taps) == [Tap(*tap) for tap in taps]
    features = teacher(torch.randn(2, 3, 96, 64))
    assert [tuple(f.shape) for f in features] == [(2, c, 96 // s, 64 // s) for c, s in taps]


def test_it_is_frozen_and_stays_in_eval_mode() -> None:
    teacher = small.teacher().train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    (feature, *_) = teacher(small.images(2).requires_grad_())
    assert not feature.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize('kind', ['ours', 'mmdet.ResNet'])
def test_in_training_mode_it_follows_the_batch_and_keeps_nothing_of_it(kind: str) -> None:
    # MMDetection's keeps its batch norms in eval mode by itself, `norm_eval`
    own = small.teacher if kind == 'ours' else lambda **kwargs: Teacher(backbone=RESNET, **kwargs)
    teacher = own(train_mode=True)
    x, other = small.images(4), small.images(4, 9) * 3
    plain = copy.deepcopy(teacher.net)
    plain.train()
    for norm in plain.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.train()
    kept = {name: value.clone() for name, value in teacher.net.state_dict().items() if 'running' in name}
    before = teacher.eval()(x)
    first = teacher.train()(x)
    if kind == 'ours':
        here = plain.stem(x)
        for stage, feature in zip(plain.stages, first, strict=True):
            for layer in stage:
                here = layer(here)
            torch.testing.assert_close(feature, here)
    else:
        torch.testing.assert_close(first, plain(x))
    teacher(other)
    assert all(torch.equal(a, b) for a, b in zip(teacher(x), first, strict=True))
    state = teacher.net.state_dict()
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert all(torch.equal(a, b) for a, b in zip(teacher.eval()(x), before, strict=True))
    assert not torch.equal(first[-1], before[-1])


def test_its_batch_norms_are_measured_anew_over_all_batches() -> None:
    teacher = small.teacher(train_mode=True)
    plain = copy.deepcopy(teacher.net).train()
    for norm in plain.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None
    batches = [small.images(4, seed) for seed in (1, 2, 3)]
    for batch in batches:
        plain(batch)
    for _ in range(2):  # whatever was measured before
        teacher.train().recalibrate(iter(batches))
        assert not any(module.training for module in teacher.modules())
        torch.testing.assert_close(teacher(small.images(2))[-1], plain.eval()(small.images(2))[-1])
    with pytest.raises(ValueError, match='recalibrate needs at least one batch of images, got none'):
        teacher.recalibrate([])


def test_features_are_what_the_modules_give() -> None:
    teacher = small.teacher()
    x = small.images(2)
    net = teacher.net
    wanted, here = [], net.stem(x)
    for stage in net.stages:
        for layer in stage:
            here = layer(here)
        wanted.append(here)
    for got, feature in zip(teacher(x), wanted, strict=True):
        assert torch.equal(got, feature)


def test_nothing_behind_the_last_feature_is_computed() -> None:
    teacher = small.teacher()
    ran = []
    for index, stage in enumerate(teacher.net.stages):
        stage[0].register_forward_hook(lambda *_, index=index: ran.append(index))
    assert len(teacher(small.images(1), last=1)) == 2
    assert ran == [0, 1]
    assert len(teacher(small.images(1))) == 3


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.'])
def test_a_checkpoint_is_loaded_whole(tmp_path: Path, prefix: str) -> None:
    net = MODELS.build(RESNET)
    torch.manual_seed(9)
    state = {f'{prefix}{name}': torch.randn_like(v.float()).abs() for name, v in net.state_dict().items()}
    torch.save({'state_dict': {**state, 'head.weight': torch.ones(1)}}, tmp_path / 'net.pth')
    teacher = Teacher(backbone=RESNET, checkpoint=str(tmp_path / 'net.pth'))
    for name, value in teacher.net.state_dict().items():
        if not name.endswith('num_batches_tracked'):
            assert torch.equal(value, state[prefix + name])


def test_an_mbnet_takes_a_checkpoint_of_any_known_layout(tmp_path: Path) -> None:
    donor = small.teacher().net
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in donor.state_dict().items()}}, tmp_path / 'net.pth')
    teacher = Teacher(backbone=MBNET, checkpoint=str(tmp_path / 'net.pth'))
    x = small.images(2)
    assert torch.equal(teacher(x)[-1], donor.eval()(x)[-1])


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1).state_dict(), tmp_path / 'conv.pth')
    with pytest.raises(ValueError, match='belongs to another network: .* tensors are missing'):
        Teacher(backbone=RESNET, checkpoint=str(tmp_path / 'conv.pth'))
    with pytest.raises(ValueError, match=r'conv.pth'):
        Teacher(backbone=MBNET, checkpoint=str(tmp_path / 'conv.pth'))
    wide = MODELS.build({**MBNET, 'arch': small.ARCH.replace('16]', '24]')})
    torch.save(wide.state_dict(), tmp_path / 'wide.pth')
    with pytest.raises(ValueError, match=r'stages\.2\..* \(24, .* expects \(16, '):
        Teacher(backbone=MBNET, checkpoint=str(tmp_path / 'wide.pth'))
    other = MODELS.build({**RESNET, 'base_channels': 32})
    torch.save(other.state_dict(), tmp_path / 'narrow.pth')
    with pytest.raises(ValueError, match=r'narrow.pth belongs to another network'):
        Teacher(backbone=RESNET, checkpoint=str(tmp_path / 'narrow.pth'))
    with pytest.raises(FileNotFoundError, match='does not exist'):
        Teacher(backbone=RESNET, checkpoint=str(tmp_path / 'missing.pth'))


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        ({}, 'either backbone=.* or timm=NAME, got backbone=None and timm=None'),
        ({'backbone': RESNET, 'timm': 'resnet18'}, 'either backbone'),
        ({'timm': 'resnet_none_18'}, "timm has no network 'resnet_none_18'"),
        ({'backbone': RESNET, 'taps': ['layer9']}, "taps must name modules of the teacher, got 'layer9'"),
        ({'backbone': RESNET, 'weights': 'a.pth'}, "keys of teacher must be among .* got 'weights'"),
        # a list of layers is walked through, not called
        ({'backbone': MBNET, 'taps': ['stages.1']},
         "modules that run in the forward of the teacher, got 'stages.1'"),
        ({'timm': 'resnet18', 'taps': ['fc']}, r'must be maps \(N, C, H, W\), got \(1, 1000\)'),
    ],
)  # fmt: skip
def test_what_a_user_gets_wrong(cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Teacher.parse(cfg)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        ('resnet18', r"teacher must be dict\(backbone=…\) or dict\(timm=NAME\), got 'resnet18'"),
        ({'backbone': 'mmdet.ResNet'}, r"teacher.backbone must be dict\(type='…', …\), got 'mmdet.ResNet'"),
        ({'timm': {'type': 'resnet18'}}, 'teacher.timm must be the name of a timm network, got'),
        ({'timm': 'resnet18', 'pretrained': 'yes'}, "teacher.pretrained must be True or False, got 'yes'"),
        ({'timm': 'resnet18', 'taps': 'layer1'}, "teacher.taps must be a list of names of modules, got 'layer1'"),
        ({'timm': 'resnet18', 'train_mode': 1}, 'teacher.train_mode must be True or False, got 1'),
    ],
)
def test_what_has_a_wrong_type(cfg: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_teacher(cfg)
    with pytest.raises(TypeError, match=message):
        Teacher.parse(cfg)


def test_a_teacher_is_its_own_parse_and_configs_stay_as_they_are() -> None:
    cfg = {'backbone': dict(MBNET), 'taps': ['stages.0.0']}
    teacher = Teacher.parse(cfg)
    assert Teacher.parse(teacher) is teacher
    assert cfg == {'backbone': MBNET, 'taps': ['stages.0.0']}


def test_the_memory_layout_changes_no_feature() -> None:
    teacher = small.teacher()
    x = small.images(2)
    plain = teacher(x)
    teacher.channels_last = True
    for got, wanted in zip(teacher(x), plain, strict=True):
        assert got.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(got, wanted)
