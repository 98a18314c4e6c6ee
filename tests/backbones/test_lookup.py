"""What a backbone's config stands for, by whatever name, and errors for names that nothing has."""

import importlib
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, StageSpec, zoo
from mmnas_ext.backbones import MBNet, SuperNet, backbone_spec
from mmnas_ext.backbones.export import export_backbone
from mmnas_ext.backbones.lookup import find_backbone
from mmnas_ext.backbones.named import NAMES
from mmnas_ext.runs.checks import check_config
from tests.remap.samples import seed_of

STRIDES = (1, 2, 2, 2, 1, 2, 1)
WIDTHS = (4, 2, 3, 4, 5, 6, 7, 8)
ARCH = ArchSpec(
    tuple(StageSpec(WIDTHS[i], WIDTHS[i + 1], ('k3_e2' if i else 'k3_e1',), stride) for i, stride in enumerate(STRIDES))
)


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a backbone that an export has registered."""
    folder = tmp_path_factory.mktemp('exported')
    done = export_backbone(ARCH, 'LookedUp', folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.import_module(done.module)
    return done.name


@pytest.fixture(scope='module')
def seed(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp('seed') / 'seed.pth'
    torch.save(seed_of(ARCH).state_dict, path)
    return str(path)


def config(**backbone: Any) -> Config:
    model = dict(type='ImageClassifier', backbone=backbone)
    return Config(dict(default_scope='mmpretrain', model=model))


@pytest.mark.parametrize('name', NAMES)
def test_a_named_network_may_start_from_a_local_seed(name: str, seed: str) -> None:
    backbone = dict(type=f'mmnas_ext.{name}', init_cfg=dict(type='mmnas_ext.Remapped', seed=dict(checkpoint=seed)))
    assert backbone_spec(backbone) == zoo.arch(NAMES[name])
    if len(zoo.arch(NAMES[name]).stages) == len(ARCH.stages):
        check_config(config(**backbone))
    else:
        with pytest.raises(
            ValueError, match=r'the target has \d stages and the seed has 7: stages are mapped one to one'
        ):
            check_config(config(**backbone))
    backbone['init_cfg'] = dict(type='mmnas_ext.Remapped', seed=f'{seed}.gone')
    with pytest.raises(FileNotFoundError, match=r'seed checkpoint does not exist: .*seed\.pth\.gone'):
        check_config(config(**backbone))


def test_an_exported_network_may_start_from_a_local_seed(exported: str, seed: str) -> None:
    backbone = dict(type=exported, out_indices=(1,), init_cfg=dict(type='mmnas_ext.Remapped', seed=seed))
    assert backbone_spec(backbone) == ARCH
    check_config(config(**backbone))
    assert backbone_spec(dict(type=f'mmengine.{exported}'), 'mmdet') == ARCH


def test_networks_that_are_described_where_they_stand() -> None:
    text = ARCH.format('fna')
    assert backbone_spec(dict(type='mmnas_ext.MBNet', arch=text)) == ARCH
    assert backbone_spec(dict(type=MBNet, arch=text)) == ARCH
    assert backbone_spec(dict(type='mmnas_ext.SuperNet', space='fna_det')) == zoo.space('fna_det')
    assert backbone_spec(dict(type='MBNet', arch=text), 'mmnas_ext') == ARCH
    assert find_backbone('SuperNet', 'mmnas_ext') is SuperNet
    with pytest.raises(ValueError, match=r"of type MBNet needs arch, got the keys \['type', 'space'\]"):
        backbone_spec(dict(type='mmnas_ext.MBNet', space='fna_det'))


@pytest.mark.parametrize('kind', ['mmdet.ResNet', 'mmseg.MobileNetV2', torch.nn.Identity, None])
def test_another_projects_backbone_is_none_of_ours(kind: Any) -> None:
    assert backbone_spec(dict(type=kind)) is None
    assert backbone_spec(dict(type='ResNet'), 'mmdet') is None


@pytest.mark.parametrize(
    ('kind', 'scope', 'near'),
    [
        ('mmnas_ext.FNA_RetinaNt', '', 'near names are mmnas_ext.FNA_RetinaNet'),
        ('mmnas_ext.dna_A', '', r'near names are mmnas_ext\.DNA_a'),
        ('FNA_RetinaNet', 'mmdet', r'near names are mmnas_ext\.FNA_RetinaNet'),
        ('LookdUp', '', 'near names are LookedUp'),
        ('mmnas_ext.Qwertz', '', r'mmnas_ext has MBNet, SuperNet, MobileNetV2MB, .*LookedUp'),
    ],
)
def test_unknown_names_are_refused_with_near_ones(kind: str, scope: str, near: str, exported: str) -> None:
    with pytest.raises(ValueError, match=rf"must be a registered backbone, got '{kind}': {near}"):
        backbone_spec(dict(type=kind), scope)
