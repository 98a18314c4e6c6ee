"""What travels with the weights: the epsilon of the batch norms; and the head that not every network has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import load_checkpoint, save_checkpoint
from torch import Tensor, nn

from mmnas_ext.archs import ArchSpec, SearchSpace, SpaceStage, StageSpec
from mmnas_ext.backbones import MBNet, SuperNet
from tests.filling import fill_state

ARCH = ArchSpec((StageSpec(8, 6, ('k3_e1',), 1), StageSpec(6, 8, ('k3_e2', 'k5_e3'), 2)), head_channels=16)
SPACE = SearchSpace((SpaceStage(8, 6, (('k3_e1',),), 1), SpaceStage(6, 8, (('k3_e2', 'k5_e3'),), 2)), head_channels=16)


class Detector(nn.Module):
    """Something with a backbone in it, as every host has."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(8, 4, 1)


def net(kind: str, eps: float, out_indices: tuple[int, ...] = (1,)) -> Any:
    build, description = (MBNet, ARCH) if kind == 'MBNet' else (SuperNet, SPACE)
    built = build(description, out_indices=out_indices, norm_cfg=dict(type='BN', eps=eps))
    # nearly constant features, where epsilon matters
    built.load_state_dict({k: 1e-2 * v if 'running_var' in k else v for k, v in fill_state(built.state_dict()).items()})
    return built.eval()


def outputs(network: Any) -> Tensor:
    with torch.no_grad():
        return network(torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16))[0]


@pytest.mark.parametrize('kind', ['MBNet', 'SuperNet'])
def test_epsilon_travels_through_a_state_dict(kind: str) -> None:
    saved, loaded = net(kind, 1e-3), net(kind, 1e-5)
    assert not torch.allclose(outputs(saved), outputs(loaded), rtol=1e-3)
    loaded.load_state_dict(saved.state_dict())
    assert loaded.bn_eps == 1e-3
    assert {m.eps for m in loaded.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert torch.equal(outputs(saved), outputs(loaded))


@pytest.mark.parametrize('kind', ['MBNet', 'SuperNet'])
def test_epsilon_travels_through_a_file(kind: str, tmp_path: Path) -> None:
    saved, loaded = net(kind, 1e-3), net(kind, 1e-5)
    torch.save(saved.state_dict(), tmp_path / 'net.pth')
    loaded.load_state_dict(torch.load(tmp_path / 'net.pth', weights_only=True))
    assert torch.equal(outputs(saved), outputs(loaded))


@pytest.mark.parametrize('kind', ['MBNet', 'SuperNet'])
def test_epsilon_travels_through_a_detectors_checkpoint(kind: str, tmp_path: Path) -> None:
    saved, loaded = Detector(net(kind, 1e-3)), Detector(net(kind, 1e-5))
    path = str(tmp_path / 'epoch_1.pth')
    save_checkpoint(dict(state_dict=saved.state_dict(), meta=dict(epoch=1)), path)
    load_checkpoint(loaded, path, strict=True)
    assert loaded.backbone.bn_eps == 1e-3
    assert torch.equal(outputs(saved.backbone), outputs(loaded.backbone))


def test_a_plain_state_dict_leaves_epsilon_alone() -> None:
    loaded = net('MBNet', 2e-4)
    loaded.load_state_dict(dict(net('MBNet', 1e-3).state_dict()))
    assert loaded.bn_eps == 2e-4


def test_head_of_a_checkpoint_is_ignored_where_there_is_none(tmp_path: Path) -> None:
    whole, headless = net('MBNet', 1e-5, (1, 2)), net('MBNet', 1e-5)
    assert 'head.conv.weight' in whole.state_dict()
    result = headless.load_state_dict(whole.state_dict())
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    detector = Detector(net('MBNet', 1e-5))
    result = detector.load_state_dict(Detector(whole).state_dict())
    assert (result.missing_keys, result.unexpected_keys) == ([], [])


def test_other_strange_keys_are_reported() -> None:
    headless = net('MBNet', 1e-5)
    state = {**headless.state_dict(), 'heads.weight': torch.ones(1), 'stages.1.2.expand.conv.weight': torch.ones(1)}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"heads\.weight".*"stages\.1\.2\.expand\.conv\.weight"'):
        headless.load_state_dict(state)


def test_a_missing_head_is_reported() -> None:
    with pytest.raises(RuntimeError, match=r'Missing key.*"head\.conv\.weight"'):
        net('MBNet', 1e-5, (2,)).load_state_dict(net('MBNet', 1e-5).state_dict())
