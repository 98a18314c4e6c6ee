"""A backbone put into a host's config, or changed afterwards: what stood there before, fused and synchronised norms."""

import copy
from typing import Any

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS as ROOT
from torch import Tensor, nn

from mmnas_ext.archs import ArchSpec, SearchSpace, SpaceStage, StageSpec
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.registry import MODELS
from tests.filling import fill_state

ARCH = ArchSpec((StageSpec(8, 6, ('k3_e1',), 1), StageSpec(6, 8, ('k3_e2', 'k5_e3'), 2)), head_channels=16)
SPACE = SearchSpace((SpaceStage(8, 6, (('k3_e1',),), 1), SpaceStage(6, 8, (('k3_e2', 'k5_e3'),), 2)), head_channels=16)
RESNET = 'open-mmlab://resnet50_v1c'
KINDS: dict[str, dict[str, Any]] = {
    'MBNet': dict(arch=ARCH, out_indices=(1,)),
    'SuperNet': dict(space=SPACE, out_indices=(1,)),
    'FNA_DeepLabv3': dict(out_indices=(1,)),
}


def filled(**options: Any) -> MBNet:
    net = MBNet(ARCH, out_indices=(1, 2), **options)
    net.load_state_dict(fill_state(net.state_dict()))
    return net.eval()


def outputs(net: Any) -> Tensor:
    with torch.no_grad():
        return net(torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16))[0]


@pytest.mark.parametrize('kind', KINDS)
def test_weights_of_the_backbone_before_are_refused_and_none_is_taken(kind: str) -> None:
    cfg = dict(type=f'mmnas_ext.{kind}', **KINDS[kind])
    MODELS.build(dict(cfg, pretrained=None))
    with pytest.raises(ValueError, match=rf"pretrained must be None .*'{RESNET}'.*: set model\.pretrained=None") as got:
        MODELS.build(dict(cfg, pretrained=RESNET))
    assert '\n' not in str(got.value)


@pytest.mark.parametrize('pretrained', [None, RESNET])
def test_a_segmentor_hands_its_own_pretrained_down(pretrained: str | None) -> None:
    head = dict(type='mmseg.FCNHead', in_channels=320, in_index=0, channels=4, num_classes=3, num_convs=1)
    model = ConfigDict(
        type='mmseg.EncoderDecoder',
        pretrained=pretrained,
        backbone=dict(type='mmnas_ext.FNA_DeepLabv3', out_indices=(6,)),
        decode_head=head,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    if pretrained is None:
        assert isinstance(ROOT.build(model).backbone, MBNet)
        return
    with pytest.raises(ValueError, match=r'set model\.pretrained=None'):
        ROOT.build(model)


def test_a_fused_network_is_saved_and_loaded() -> None:
    net = filled(norm_cfg=dict(type='BN', eps=1e-2))
    wanted = outputs(net)
    fused = fuse_conv_bn(copy.deepcopy(net))
    assert fused.bn_eps is None
    assert torch.allclose(outputs(fused), wanted, rtol=1e-4, atol=1e-5)
    state = fused.state_dict()
    assert not any('.bn.' in key for key in state) and 'stem.conv.bias' in state
    assert 'bn_eps' not in state._metadata['']
    other = fuse_conv_bn(filled())
    other.load_state_dict({key: torch.zeros_like(tensor) for key, tensor in state.items()})
    assert not torch.equal(outputs(other), outputs(fused))
    other.load_state_dict(state)
    assert torch.equal(outputs(other), outputs(fused))


@pytest.mark.parametrize('norm_cfg', [dict(type='GN', num_groups=2), dict(type='IN')])
def test_other_norms_have_no_epsilon_to_travel(norm_cfg: dict[str, Any]) -> None:
    first, second = filled(norm_cfg=norm_cfg), filled(norm_cfg=norm_cfg)
    assert first.bn_eps is None
    second.load_state_dict(first.state_dict())
    assert torch.equal(outputs(second), outputs(first))
    assert SuperNet(SPACE, out_indices=(1,)).derive().bn_eps == 1e-5


def test_synchronised_norms_keep_the_epsilon() -> None:
    net = filled(norm_cfg=dict(type='BN', eps=1e-2))
    wanted = outputs(net)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    assert synced.bn_eps == 1e-2 and synced.state_dict()._metadata['']['bn_eps'] == 1e-2
    reverted = revert_sync_batchnorm(synced)
    assert reverted.bn_eps == 1e-2
    assert torch.equal(outputs(reverted), wanted)
    fresh = MBNet(ARCH, out_indices=(1, 2)).eval()
    fresh.load_state_dict(reverted.state_dict())
    assert torch.equal(outputs(fresh), wanted)


def test_the_stem_of_a_super_network_may_have_the_authors_activation() -> None:
    nets = [SuperNet(SPACE, out_indices=(1,), stem_act_cfg=cfg) for cfg in (None, dict(type='ReLU'))]
    assert [type(net.stem.activate) for net in nets] == [nn.ReLU6, nn.ReLU]
    assert [type(net.stages[0][0].depthwise.activate) for net in nets] == [nn.ReLU6, nn.ReLU6]
    for net in nets:
        net.load_state_dict(fill_state(net.state_dict()))
        net.stem.bn.weight.data.fill_(100.0)
    image = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    with torch.no_grad():
        assert [bool(net.eval().stem(image).max() > 6) for net in nets] == [False, True]
