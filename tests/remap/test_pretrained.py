"""``init_cfg=dict(type='Pretrained')`` of our backbones: the same features, or an error; never part of the weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from mmnas_ext.archs import ArchSpec, StageSpec
from mmnas_ext.backbones import MBNet, SuperNet
from tests.filling import fill_state

ARCH = ArchSpec((StageSpec(8, 6, ('k3_e1',), 1), StageSpec(6, 8, ('k3_e2', 'k5_e3'), 2)), head_channels=16)
TEXT = ARCH.format('fna')
IMAGE = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)


class Detector(BaseModule):
    """Something with a backbone in it, as every host has."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone) if isinstance(backbone, dict) else backbone


def trained(eps: float) -> MBNet:
    net = MBNet(ARCH.replace(bn_eps=eps), out_indices=(1,))
    # nearly constant features, where epsilon matters
    net.load_state_dict({k: 1e-2 * v if 'running_var' in k else v for k, v in fill_state(net.state_dict()).items()})
    return net.eval()


def features(net: Any) -> Tensor:
    with torch.no_grad():
        return net.eval()(IMAGE)[0]


def saved(path: Path, state: Any) -> str:
    torch.save(dict(state_dict=state, meta=dict(epoch=1)), path)
    return str(path)


@pytest.mark.parametrize('kind', ['Pretrained', 'mmengine.Pretrained', 'mmnas_ext.Pretrained'])
@pytest.mark.parametrize('listed', [False, True])
def test_the_text_of_a_network_and_the_weights_of_a_detector_give_its_features(
    kind: str, listed: bool, tmp_path: Path
) -> None:
    net = trained(1e-3)
    init: Any = dict(type=kind, prefix='backbone.', checkpoint=saved(tmp_path / 'a.pth', Detector(net).state_dict()))
    init = [dict(type='Constant', layer='Conv2d', val=7.0), init] if listed else init
    model = Detector(dict(type='mmnas_ext.MBNet', arch=TEXT, out_indices=(1,), init_cfg=init))
    assert model.backbone.bn_eps == 1e-5
    model.init_weights()
    assert model.backbone.bn_eps == 1e-3
    assert torch.equal(features(model.backbone), features(net))
    # with the other epsilon they would be far off
    model.backbone.set_bn_eps(1e-5)
    off = (features(model.backbone) - features(net)).abs().mean() / features(net).abs().mean()
    assert off > 0.03


def test_without_a_prefix_and_from_parallel_training(tmp_path: Path) -> None:
    net = trained(1e-3)
    plain = saved(tmp_path / 'a.pth', net.state_dict())
    parallel = saved(tmp_path / 'b.pth', torch.nn.DataParallel(net).state_dict())
    for path in (plain, parallel):
        loaded = MBNet(TEXT, out_indices=(1,), init_cfg=dict(type='Pretrained', checkpoint=path))
        loaded.init_weights()
        assert torch.equal(features(loaded), features(net))


def test_an_epsilon_that_is_asked_for_is_built_and_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmnas_ext.remap.epsilon.print_log', lambda text, **_: said.append(text))
    path = saved(tmp_path / 'a.pth', trained(1e-3).state_dict())
    net = MBNet(
        TEXT, out_indices=(1,), norm_cfg=dict(type='BN', eps=1e-5), init_cfg=dict(type='Pretrained', checkpoint=path)
    )
    net.init_weights()
    assert net.bn_eps == 1e-5
    (line,) = said
    assert 'norm_cfg asks for a batch-norm eps of 1e-05, and' in line and 'was trained with 0.001' in line


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('prefix', r"has no tensor of MBNet, its first are \['backbone.*prefix='backbone.' may be what is meant"),
        ('other', r'has no tensor of MBNet, .*Remapped may be what is meant'),
        ('missing', r'it has stages\.1\.1\.project\.bn\.bias as \(8,\), the file lacks it \(1 missing, 0 of other'),
        ('shape', r'it has stem\.conv\.weight as \(8, 3, 3, 3\), the file has it as \(9, 3, 3, 3\) \(0 missing, 1'),
    ],
)
def test_weights_of_another_network_are_refused(change: str, message: str, tmp_path: Path) -> None:
    state: Any = dict(trained(1e-3).state_dict())
    if change == 'prefix':
        state = {f'backbone.{key}': tensor for key, tensor in state.items()}
    elif change == 'other':
        state = {f'layer1.{key}': tensor for key, tensor in state.items()}
    elif change == 'missing':
        del state['stages.1.1.project.bn.bias']
    else:
        state['stem.conv.weight'] = torch.zeros(9, 3, 3, 3)
    init = dict(type='Pretrained', checkpoint=saved(tmp_path / 'a.pth', state))
    with pytest.raises(ValueError, match=message):
        MBNet(TEXT, out_indices=(1,), init_cfg=init).init_weights()


def test_a_super_network_keeps_its_alphas(tmp_path: Path) -> None:
    space = dict(
        stages=[
            dict(in_channels=8, channels=6, layers=[['k3_e1']], stride=1),
            dict(in_channels=6, channels=8, layers=[['k3_e2', 'k5_e2']], stride=2),
        ]
    )
    first = SuperNet(space, out_indices=(1,))
    state = {key: tensor for key, tensor in first.state_dict().items() if not key.endswith('.alpha')}
    init = dict(type='Pretrained', checkpoint=saved(tmp_path / 'a.pth', state))
    second = SuperNet(space, out_indices=(1,), init_cfg=init)
    alpha = second.arch_parameters()[0].clone()
    second.init_weights()
    assert torch.equal(second.arch_parameters()[0], alpha)
    assert torch.equal(second.stem.conv.weight, first.stem.conv.weight)
