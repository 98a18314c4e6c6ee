"""Whose batch-norm epsilon counts: the one asked for, the one known of the weights, or the one that is assumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor
from torchvision.models import MobileNetV2

from mmnas_ext.archs import ArchSpec, SearchSpace, SpaceStage, zoo
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.backbones.export import export_backbone
from mmnas_ext.distill.teacher import _load
from mmnas_ext.engine.limits import derive
from mmnas_ext.remap import Seed, load_seed
from mmnas_ext.remap.convert import convert
from mmnas_ext.runs.derived import derived_config

# like MobileNetV2, and small: expansion, channels, layers, stride
SETTING = [[1, 4, 1, 1], [2, 6, 1, 2], [2, 8, 1, 2], [2, 10, 1, 2], [2, 12, 1, 1], [2, 14, 1, 2], [2, 16, 1, 1]]


@pytest.fixture(scope='module')
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with torchvision's keys, which does not tell its epsilon."""
    torch.manual_seed(0)
    net = MobileNetV2(num_classes=2, round_nearest=2, inverted_residual_setting=SETTING)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(1e-3)
    path = tmp_path_factory.mktemp('seeds') / 'silent.pth'
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope='module')
def arch(silent: Path) -> ArchSpec:
    return load_seed(silent).arch.replace(head_channels=None)


def space(arch: ArchSpec) -> SearchSpace:
    stages = [
        SpaceStage(s.in_channels, s.channels, tuple((t, t.replace('k3', 'k5')) for t in s.layers), s.stride)
        for s in arch.stages
    ]
    return SearchSpace(tuple(stages), None, arch.act, arch.bn_eps)


def remapped(path: Path, **more: Any) -> dict[str, Any]:
    return dict(type='mmnas_ext.Remapped', seed=dict(checkpoint=str(path), **more))


def features(net: Any) -> Tensor:
    with torch.no_grad():
        return net.eval()(torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64))[0]


def test_an_assumed_epsilon_gives_way_in_backbone_found_and_derived_network(
    silent: Path, arch: ArchSpec, tmp_path: Path
) -> None:
    asked = dict(type='BN', eps=1e-3)
    supernet = SuperNet(space(arch), norm_cfg=asked, init_cfg=remapped(silent))
    supernet.init_weights()
    assert {m.eps for m in supernet.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
    found = derive(supernet)
    assert found.bn_eps == supernet.derive().bn_eps == 1e-3
    (tmp_path / 'arch.json').write_text(found.format('json'))
    search = dict(
        model=dict(backbone=dict(type='mmnas_ext.SuperNet', norm_cfg=asked)),
        derived=dict(model=dict(backbone=dict(type='mmnas_ext.MBNet', init_cfg=remapped(silent)))),
    )
    backbone = derived_config(Config(search), ArchSpec.parse(tmp_path / 'arch.json')).model.backbone
    net = MODELS.build(backbone)
    net.init_weights()
    assert net.bn_eps == 1e-3
    # the architecture alone says it, too
    for written in (tmp_path / 'arch.json', found.format('fna'), found):
        other = MBNet(written, init_cfg=remapped(silent))
        other.init_weights()
        assert torch.equal(features(other), features(net))
    plain = MBNet(arch, init_cfg=remapped(silent))
    plain.init_weights()
    assert plain.bn_eps == 1e-5
    assert not torch.allclose(features(plain), features(net), rtol=1e-2)


def test_a_named_network_says_nothing_of_other_weights(silent: Path, arch: ArchSpec) -> None:
    # the zoo's epsilon is that of the weights that the network was published with
    net = MBNet('efficientnet_lite0', out_indices=(1,), init_cfg=remapped(silent))
    assert net.bn_eps == zoo.arch('efficientnet_lite0').bn_eps == 1e-3
    net.init_weights()
    assert net.bn_eps == 1e-5


@pytest.mark.parametrize('how', ['noted', 'noted as usual', 'given'])
def test_a_known_epsilon_counts_unless_another_is_asked_for(
    how: str, silent: Path, arch: ArchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmnas_ext.remap.epsilon.print_log', lambda text, **_: said.append(text))
    known = 1e-5 if how == 'noted as usual' else 2e-3
    if how == 'given':
        init = remapped(silent, arch=arch.replace(bn_eps=known).format('fna'))
    else:
        torch.save(MBNet(arch.replace(bn_eps=known)).state_dict(), tmp_path / 'known.pth')
        init = remapped(tmp_path / 'known.pth')
    written = arch.replace(bn_eps=5e-4)
    net = MBNet(written, init_cfg=init)
    net.init_weights()
    assert net.bn_eps == known and said == []
    net = MBNet(written, norm_cfg=dict(type='BN', eps=1e-2), init_cfg=init)
    net.init_weights()
    assert net.bn_eps == 1e-2
    (line,) = said
    assert f'norm_cfg asks for a batch-norm eps of 0.01, and {init["seed"]["checkpoint"]} was trained' in line
    assert f'leave eps out of norm_cfg to take {known:g}' in line


def test_a_seed_tells_whether_its_epsilon_is_known(silent: Path, arch: ArchSpec, tmp_path: Path) -> None:
    seed = load_seed(silent)
    assert (seed.bn_eps, seed.eps_known) == (1e-5, False)
    assert load_seed(silent, arch.replace(bn_eps=1e-5)).eps_known
    assert Seed(arch.replace(bn_eps=1e-3), load_seed(silent, arch).state_dict).eps_known
    torch.save(MBNet(arch).state_dict(), tmp_path / 'noted.pth')
    seed = load_seed(tmp_path / 'noted.pth')
    assert (seed.bn_eps, seed.eps_known, seed.arch.bn_eps) == (1e-5, True, None)
    torch.save(dict(MBNet(arch).state_dict()), tmp_path / 'bare.pth')
    assert not load_seed(tmp_path / 'bare.pth').eps_known


def test_converting_makes_no_fact_of_an_assumption(silent: Path, arch: ArchSpec, tmp_path: Path) -> None:
    done = convert(silent, tmp_path / 'plain.pth')
    assert not load_seed(done.path).eps_known
    init = dict(type='Pretrained', checkpoint=str(done.path))
    for norm_cfg, wanted in ((dict(type='BN', eps=1e-3), 1e-3), (None, 1e-5)):
        net = MBNet(arch, norm_cfg=norm_cfg, init_cfg=init)
        net.init_weights()
        assert net.bn_eps == wanted
        net = MBNet(arch, norm_cfg=norm_cfg)
        net.load_state_dict(torch.load(done.path, weights_only=True))
        assert net.bn_eps == wanted


def test_the_name_of_a_zoo_network_says_nothing_of_other_weights_epsilon(tmp_path: Path) -> None:
    """The zoo's MobileNetV3 has 1e-3; these weights were trained with 1e-5, which their file notes."""
    name, file = 'mobilenet_v3_small', tmp_path / 'own.pth'
    net = MBNet(name, norm_cfg=dict(type='BN', eps=1e-5))
    torch.save(net.state_dict(), file)
    for arch in (name, zoo.arch(name).replace(bn_eps=None)):
        seed = load_seed(file, arch)
        assert (seed.bn_eps, seed.eps_known) == (1e-5, True)
    assert load_seed(convert(file, tmp_path / 'converted.pth', name).path, name).bn_eps == 1e-5
    teacher = MBNet(name)
    _load(teacher, str(file))
    assert {module.eps for module in teacher.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {1e-5}
    exported = export_backbone(name, 'OwnSmall', tmp_path, file)
    assert exported.arch.bn_eps in (None, 1e-5)
    # one that is written out counts, as the documentation has it of timm's tf_ networks
    written = ArchSpec.parse(name).replace(bn_eps=2e-3).format('fna')
    assert load_seed(file, written).bn_eps == 2e-3


def test_a_zoo_network_of_a_silent_file_has_the_assumed_epsilon(tmp_path: Path) -> None:
    """timm's mobilenetv3_small_100 has its keys, and 1e-5; its file does not tell."""
    import timm

    torch.save(timm.create_model('mobilenetv3_small_100').state_dict(), tmp_path / 'timm.pth')
    seed = load_seed(tmp_path / 'timm.pth', 'mobilenet_v3_small')
    assert (seed.bn_eps, seed.eps_known) == (1e-5, False)
