"""What a checkpoint may hold: a training's state comes back as it was, and no code that a file names is run."""

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler import OneCycleLR

from mmnas_ext.remap import load_seed
from mmnas_ext.remap.reader import CheckpointError, read_checkpoint
from tests.remap.traps import TRAPS, Reduced, in_a_tar, program, text, zipped


def refused(path: Path, **options: Any) -> str:
    """The one sentence that says why."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **options)
    message = str(caught.value)
    assert message.startswith(f'checkpoint {path} ') and '\n' not in message
    assert len(message.removeprefix(f'checkpoint {path} ')) < 300
    return message


@pytest.mark.parametrize('zip_format', [True, False])
def test_what_a_training_saves_comes_back(zip_format: bool, tmp_path: Path) -> None:
    history = HistoryBuffer([0.5, np.float64(2)], [1, 3])
    state = OrderedDict(weight=torch.arange(6.0).reshape(2, 3))
    state._metadata = OrderedDict({'': dict(version=1, bn_eps=1e-3)})
    turned = np.asfortranarray(np.arange(6, dtype='>i2').reshape(2, 3))
    content = dict(
        state_dict=state,
        message_hub=dict(log_scalars=OrderedDict(loss=history, none=HistoryBuffer()), runtime_info=dict(iter=3)),
        meta=dict(classes=('a', 'b'), palette=turned, none=np.array([]), words=np.array(['a', 'bc']), flag=np.True_),
        optimizer=dict(state={0: dict(step=torch.tensor(2.0))}, param_groups=[dict(lr=np.float32(0.1), params=[0])]),
        folder=Path('a') / 'b',
        twice=[history, history],
    )
    path = tmp_path / 'epoch_1.pth'
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    read = read_checkpoint(path)
    assert list(read) == list(content)
    assert torch.equal(read['state_dict']['weight'], state['weight'])
    assert read['state_dict']._metadata == {'': dict(version=1, bn_eps=1e-3)}
    loss = read['message_hub']['log_scalars']['loss']
    assert type(loss) is HistoryBuffer and loss.data[0].tolist() == [0.5, 2.0] and loss.data[1].tolist() == [1, 3]
    loss.update(3.5)
    assert (loss.mean(2), loss.max()) == ((2.0 + 3.5) / (3 + 1), 3.5)
    assert read['twice'][0] is read['twice'][1] is loss
    meta = read['meta']
    assert meta['classes'] == ('a', 'b') and meta['flag'] is np.True_
    assert type(meta['palette']) is np.ndarray and meta['palette'].dtype == turned.dtype
    assert np.array_equal(meta['palette'], turned) and meta['words'].tolist() == ['a', 'bc']
    assert meta['none'].shape == (0,)
    assert pickle.dumps(meta['words']) == pickle.dumps(content['meta']['words'])
    (group,) = read['optimizer']['param_groups']
    assert type(group['lr']) is np.float32 and group['lr'] == np.float32(0.1)
    assert read['folder'] == Path('a/b')


def test_a_one_cycle_schedule_goes_on(tmp_path: Path) -> None:
    def schedule() -> OneCycleLR:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        return OneCycleLR(optimizer, eta_max=0.1, total_steps=10)

    first, second = schedule(), schedule()
    for _ in range(3):
        first.step()
    zipped(first.state_dict(), tmp_path / 'a.pth')
    second.load_state_dict(read_checkpoint(tmp_path / 'a.pth'))
    for each in (first, second):
        each.step()
    assert second.get_last_value() == first.get_last_value()
    assert second.optimizer.param_groups[0]['lr'] == first.optimizer.param_groups[0]['lr']


@pytest.mark.parametrize('trick', TRAPS)
def test_code_of_a_file_never_runs(trick: str, tmp_path: Path) -> None:
    path, folder = tmp_path / 'epoch_1.pth', tmp_path / 'trap'
    TRAPS[trick](folder, path)
    refused(path)
    with pytest.raises(CheckpointError, match=r'seed checkpoint .*epoch_1.pth'):
        load_seed(path)
    assert not folder.exists()


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_a_plain_pickle_that_calls_code_is_called_that(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps({'a': os.path.join}, protocol))
    assert ' tries to run code (posixpath.join) and was refused' in refused(path)
    path.write_bytes(pickle.dumps([{1}], 4))
    assert 'weights_only' not in refused(path)


@pytest.mark.parametrize('trick', ['zip', 'legacy', 'object array', 'object scalar', 'eval'])
def test_the_traps_are_real_ones(trick: str, tmp_path: Path) -> None:
    TRAPS[trick](tmp_path / 'trap', tmp_path / 'a.pth')
    try:
        torch.load(tmp_path / 'a.pth', weights_only=False)
    except AttributeError:
        assert trick == 'eval'  # it has run, and returned None
    assert (tmp_path / 'trap').is_dir()


def test_what_other_libraries_allow_is_not_allowed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def open_door(folder: str) -> None:
        os.mkdir(folder)

    open_door.__module__, open_door.__qualname__ = 'lib', 'open_door'
    program(b'\x80\x02clib\nopen_door\nX\x04\x00\x00\x00trap\x85R.', tmp_path / 'a.pth')
    before = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([(open_door, 'lib.open_door')]):
        assert r'tries to run code (lib.open_door) and was refused' in refused(tmp_path / 'a.pth')
        assert (open_door, 'lib.open_door') in torch.serialization.get_safe_globals()
    assert set(torch.serialization.get_safe_globals()) == set(before)
    assert not Path('trap').exists()


class Mine:
    """What a hook of the user's may leave in a checkpoint."""

    def __setstate__(self, state: Any) -> None:
        raise AssertionError('code of a file has run')

    def __getstate__(self) -> dict[str, int]:
        return {'a': 1}


def test_objects_of_foreign_classes_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmnas_ext.remap.reader.print_log', lambda text, **_: said.append(text))
    content = dict(hub=dict(mine=Mine(), kind=Reduced, iter=4), several=[1, Mine()], pair=(Mine(), 2))
    zipped(content, tmp_path / 'a.pth')
    assert read_checkpoint(tmp_path / 'a.pth') == dict(hub=dict(iter=4), several=[1], pair=(2,))
    (line,) = said
    assert 'objects that only code can make (tests.remap.test_reader.Mine, tests.remap.traps.Reduced)' in line


@pytest.mark.parametrize('zip_format', [True, False])
def test_plain_values_of_other_classes_come_back(zip_format: bool, tmp_path: Path) -> None:
    zone = timezone(timedelta(hours=-3, microseconds=5), 'here')
    grouped = defaultdict(list, {'a': [1]})
    same = dict(
        moment=datetime(2024, 2, 29, 23, 59, 58, 123456, zone), naive=datetime(1, 1, 1), day=date(9999, 12, 31),
        clock=time(1, 2, 3, 4, timezone.utc), long=timedelta(-3, 4, 5), part=slice(None, 4, -1), steps=range(9, 1, -2),
        names=frozenset(['a', (1, 2)]), numbers={1, 2}, raw=bytearray(b'\x00\xff'), bytes=b'\x00\xff', none=b'',
    )  # fmt: skip
    path = tmp_path / 'a.pth'
    content = dict(same, config=ConfigDict(a=dict(b=[1])), grouped=grouped, said=argparse.Namespace(a=1))
    content[range(2)] = 1  # type: ignore[index]
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    read = read_checkpoint(path)
    assert {name: read[name] for name in same} == same
    assert all(type(read[name]) is type(value) for name, value in same.items())
    assert read['moment'].tzname() == 'here'
    assert type(read['config']) is type(read['grouped']) is dict
    assert (read['config'], read['grouped'], read[range(2)]) == ({'a': {'b': [1]}}, {'a': [1]}, 1)
    assert 'said' not in read


def number(value: int) -> bytes:
    return b'\x8a\x08' + value.to_bytes(8, 'little')


@pytest.mark.parametrize(
    ('code', 'reason'),
    [
        (b'cbuiltins\nbytearray\n' + number(2**40) + b'\x85R', 'it makes bytes of other things than text'),
        (
            b'c_codecs\nencode\nc_codecs\nencode\n' + text('a') + text('latin1') + b'\x86R' + text('hex') + b'\x86R',
            'it makes bytes of other things than text',
        ),
        (b'ctorch\nByteTensor\n' + number(2**26) + b'\x85R', 'said to have more numbers than the file holds'),
        (
            b'(' + (b'ctorch\nByteTensor\n' + number(9 * 10**6) + b'\x85R') * 2 + b't',
            'said to have more numbers than the file holds',
        ),
        (b'ctorch.storage\nUntypedStorage\n' + number(2**26) + b'\x85R', 'is a storage without a tensor'),
        (b'cbuiltins\nset\ncbuiltins\nrange\n' + number(2**40) + b'\x85R\x85R', "'Later' object is not iterable"),
        (b'cbuiltins\nfrozenset\ncbuiltins\nrange\n' + number(2**40) + b'\x85R\x85R', 'a frozenset of other things'),
        (
            b'ctorch._utils\n_rebuild_device_tensor_from_cpu_tensor\n()R'.replace(b'()', b'(t'),
            'a tensor of another kind of device',
        ),
        (b'cdatetime\ndatetime\n' + text('2024') + b'\x85R', 'a date or time that Python has not written'),
        (b'cbuiltins\nslice\n' + text('a') + b'\x85R', 'a slice of other things'),
        (b'cargparse\nNamespace\n)\x81', 'nothing but an object of class argparse.Namespace'),
        (b'cbuiltins\nlist\n)R', r'tries to run code (builtins.list)'),
    ],
)
def test_nothing_takes_memory_by_a_number(code: bytes, reason: str, tmp_path: Path) -> None:
    program(b'\x80\x02' + code + b'.', tmp_path / 'a.pth')
    assert reason in refused(tmp_path / 'a.pth')


def test_the_constructors_of_pytorch_stand_again_afterwards(tmp_path: Path) -> None:
    zipped({'a': 1}, tmp_path / 'a.pth')
    allowed = torch._weights_only_unpickler._get_allowed_globals()
    assert read_checkpoint(tmp_path / 'a.pth') == {'a': 1}
    assert allowed['builtins.bytearray'] is bytearray


@pytest.mark.parametrize('zip_format', [True, False])
def test_a_newer_pickle_protocol_is_named(zip_format: bool, tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save({'a': torch.ones(2)}, path, pickle_protocol=4, _use_new_zipfile_serialization=zip_format)
    message = refused(path)
    assert 'was saved with pickle protocol 4, and only 2 is read' in message and 'without pickle_protocol' in message


class Own(dict[str, int]):
    """A mapping that only its own class can fill."""


@pytest.mark.filterwarnings('ignore')
def test_files_that_are_no_checkpoint_are_called_what_they_are(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / 'a.pt'))
    assert 'was refused: it is a TorchScript program' in refused(tmp_path / 'a.pt')
    in_a_tar(tmp_path / 'trap', tmp_path / 'b.pth')
    assert "was refused: it is of PyTorch's first format, a .tar" in refused(tmp_path / 'b.pth')
    zipped({'meta': Own(a=1)}, tmp_path / 'c.pth')
    assert 'was refused: it holds a container of a class of its own' in refused(tmp_path / 'c.pth')


def kinds() -> dict[str, tuple[Any, str]]:
    plain = torch.ones(3, 4)
    return {
        'sparse': (plain.to_sparse(), 'sparse or nested'),
        'compressed': (plain.to_sparse_csr(), 'sparse or nested'),
        'quantised': (torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8), 'quantised'),
        'meta': (plain.to('meta'), r'empty \(meta\)'),
        'expanded': (torch.ones(1).expand(2**40), 'more numbers than the file holds'),
    }


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['sparse', 'compressed', 'quantised', 'meta', 'expanded'])
def test_tensors_that_are_not_dense_are_refused(kind: str, tmp_path: Path) -> None:
    tensor, reason = kinds()[kind]
    zipped({'state_dict': {'stem.conv.weight': tensor}}, tmp_path / 'seed.pth')
    with pytest.raises(ValueError, match=rf"seed.pth was refused: its tensor 'stem.conv.weight' is .*{reason}"):
        load_seed(tmp_path / 'seed.pth')


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'bomb.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/data.pkl', bytes(2**25))
    # the directory says so much more than that
    whole = path.read_bytes()
    path.write_bytes(whole.replace((2**25).to_bytes(4, 'little'), (2**32 - 2).to_bytes(4, 'little')))
    assert f'of {len(whole)} bytes would unpack to 4294967294 and was refused' in refused(path)
    path.write_bytes(whole)
    assert 'would unpack to 33554432 and was refused' in refused(path)


def test_an_archive_that_was_packed_again_is_read(tmp_path: Path) -> None:
    zipped({'a': torch.zeros(10_000)}, tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth') as plain, zipfile.ZipFile(tmp_path / 'b.pth', 'w', 8) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert (tmp_path / 'b.pth').stat().st_size < 5000
    assert torch.equal(read_checkpoint(tmp_path / 'b.pth')['a'], torch.zeros(10_000))


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    assert 'cannot be opened: Is a directory' in refused(tmp_path)
    with pytest.raises(FileNotFoundError, match='gone'):
        read_checkpoint(tmp_path / 'gone.pth')


@pytest.mark.parametrize('make', [lambda inner: [inner], lambda inner: {'a': inner}, lambda inner: (inner,)])
def test_deep_nesting_is_refused(make: Any, tmp_path: Path) -> None:
    value: Any = []
    for _ in range(300):
        value = make(value)
    zipped({'state_dict': value}, tmp_path / 'a.pth')
    assert 'was refused: it is nested deeper than 100' in refused(tmp_path / 'a.pth')


def test_shared_parts_cost_nothing(tmp_path: Path) -> None:
    value: Any = (1.0,)
    for _ in range(60):
        value = (value, value)
    zipped({'a': value}, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')['a']
    assert read[0] is read[1]


@pytest.mark.parametrize(
    ('code', 'reason'),
    [
        # a HistoryBuffer without anything in it
        (b'cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81}b', 'it holds a HistoryBuffer that MMEngine has not'),
        (b'cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85NN\x87R', 'truncated or not a checkpoint'),
        (b'cnumpy\nndarray\n)\x81', 'it holds a NumPy array without content'),
        (b'cnumpy\ndtype\nX\x02\x00\x00\x00V4\x89\x88\x87R', "it holds a NumPy array of kind 'V4'"),
        (b'cbuiltins\nbytes\nK\x05\x85R', 'it makes bytes of other things'),
        (b'cpathlib\nPosixPath\nK\x05\x85R', 'it holds a path of other things than text'),
    ],
)
def test_stand_ins_check_what_they_are_given(code: bytes, reason: str, tmp_path: Path) -> None:
    program(b'\x80\x02' + code + b'.', tmp_path / 'a.pth')
    assert reason in refused(tmp_path / 'a.pth')
