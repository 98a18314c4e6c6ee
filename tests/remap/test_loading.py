"""MMEngine's loading inside our tools: by our reader while they run, as MMEngine has it before and after."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model.weight_init import PretrainedInit
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.runner import checkpoint as mm
from torch import nn

from mmnas_ext.registry import WEIGHT_INITIALIZERS
from mmnas_ext.remap.loading import safe_loading, strip_prefix
from mmnas_ext.remap.reader import CheckpointError
from tests.remap.traps import TRAPS


def test_every_loader_of_mmengines_is_ours_inside_and_theirs_again_after(tmp_path: Path) -> None:
    before = dict(CheckpointLoader._schemes)

    def mine(filename: str, map_location: Any = None) -> dict[str, int]:
        return {'mine': 1}

    try:
        with safe_loading():
            CheckpointLoader.register_scheme('mine://', mine)
            assert {CheckpointLoader._schemes[prefix].__name__ for prefix in before} == {'load_from_our_reader'}
            with pytest.raises(FileNotFoundError), safe_loading():
                CheckpointLoader.load_checkpoint('nowhere.pth')
            assert CheckpointLoader.load_checkpoint('mine://a') == {'mine': 1}
        assert dict(CheckpointLoader._schemes) == {**before, 'mine://': mine}
        # longer prefixes go first, or '' would take every name
        assert list(CheckpointLoader._schemes)[-1] == ''
        with safe_loading():
            assert list(CheckpointLoader._schemes)[-1] == ''
            assert CheckpointLoader._schemes['mine://'] is mine
    finally:
        CheckpointLoader._schemes = OrderedDict(before)


@pytest.mark.parametrize('trick', TRAPS)
def test_pretrained_of_any_model_runs_no_code(trick: str, tmp_path: Path) -> None:
    path, folder = tmp_path / 'a.pth', tmp_path / 'trap'
    TRAPS[trick](folder, path)
    for prefix in (None, 'backbone.'):
        theirs = PretrainedInit(str(path), prefix)
        with safe_loading(), pytest.raises(CheckpointError, match=r'checkpoint .*a\.pth'):
            theirs(nn.Linear(2, 2))
        ours = WEIGHT_INITIALIZERS.build(dict(type='mmnas_ext.Pretrained', checkpoint=str(path), prefix=prefix))
        with pytest.raises(CheckpointError, match=r'checkpoint .*a\.pth'):
            ours(nn.Linear(2, 2))
    assert not folder.exists()


def test_names_urls_and_mmpretrains_classifiers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Linear(2, 2)
    asked: list[str] = []

    def write(url: str, target: str, **_: Any) -> None:
        asked.append(url)
        torch.save({'state_dict': {f'backbone.{key}': tensor for key, tensor in net.state_dict().items()}}, target)

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', write)
    monkeypatch.setattr(mm, 'get_mmcls_models', lambda: {'net': 'https://example.org/net.pth'})
    with safe_loading():
        whole = CheckpointLoader.load_checkpoint('https://example.org/net.pth', map_location='cpu')
        loaded = nn.Linear(2, 2)
        load_checkpoint(loaded, 'mmcls://net', map_location='cpu', strict=True)
    assert asked == ['https://example.org/net.pth']
    assert list(whole['state_dict']) == ['backbone.weight', 'backbone.bias']
    assert torch.equal(loaded.weight, net.weight)


def test_what_is_no_mapping_or_not_there_is_said(tmp_path: Path) -> None:
    torch.save([1], tmp_path / 'a.pth')
    with safe_loading():
        with pytest.raises(CheckpointError, match=r'a\.pth must hold a state dict, got list'):
            CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))
        with pytest.raises(FileNotFoundError, match=r'checkpoint does not exist: .*b\.pth'):
            CheckpointLoader.load_checkpoint(str(tmp_path / 'b.pth'))


def test_a_prefix_takes_what_is_noted_of_the_modules_along() -> None:
    state: Any = OrderedDict({'backbone.a.weight': 1, 'backbones.a': 2, 'head.weight': 3})
    state._metadata = {'': {'v': 0}, 'backbone': {'v': 1}, 'backbone.a': {'v': 2}, 'backbones': {'v': 3}}
    below: Any = strip_prefix(state, 'backbone.')
    assert dict(below) == {'a.weight': 1}
    assert below._metadata == {'': {'v': 1}, 'a': {'v': 2}}
