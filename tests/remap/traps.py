"""Checkpoint files that would make a folder if they were read the ordinary way, each by another trick."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Reduced:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def zipped(content: object, path: Path) -> None:
    torch.save(content, path)


def program(code: bytes, path: Path) -> None:
    """An archive of PyTorch's with this pickle."""
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in (('data.pkl', code), ('version', b'3\n'), ('byteorder', b'little')):
            archive.writestr(f'archive/{name}', data)


def text(value: str) -> bytes:
    return b'X' + len(value).to_bytes(4, 'little') + value.encode()


def by_getattr(folder: Path, path: Path) -> None:
    """The first step of getattr(HistoryBuffer.min, '__globals__')['np'] …: what MMEngine's own reader allows."""
    history = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
    first = b'cbuiltins\ngetattr\n' + history + text('min') + b'\x86R'
    program(b'\x80\x02cbuiltins\ngetattr\n' + first + text('__globals__') + b'\x86R.', path)
    del folder


def by_objects(folder: Path, path: Path) -> None:
    zipped({'state_dict': {}, 'array': np.array([Reduced(folder)], dtype=object)}, path)


def by_scalar(folder: Path, path: Path) -> None:
    """numpy.scalar(dtype('O'), trap)."""
    inner = pickle.dumps(Reduced(folder), protocol=2)[2:-1]
    dtype = b'cnumpy\ndtype\n' + text('O8') + b'\x89\x88\x87R'
    program(b'\x80\x02cnumpy._core.multiarray\nscalar\n' + dtype + inner + b'\x86R.', path)


def by_eval(folder: Path, path: Path) -> None:
    program(b'\x80\x02cbuiltins\neval\n' + text(f'__import__("os").mkdir({str(folder)!r})') + b'\x85R.', path)


def in_a_tar(folder: Path, path: Path) -> None:
    """PyTorch's first format."""
    with tarfile.open(path, 'w') as archive:
        for name in ('storages', 'tensors', 'pickle'):
            data = pickle.dumps(Reduced(folder), protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


TRAPS: dict[str, Callable[[Path, Path], None]] = {
    'zip': lambda folder, path: zipped({'state_dict': {}, 'extra': Reduced(folder)}, path),
    'legacy': lambda folder, path: torch.save(
        {'state_dict': {}, 'extra': Reduced(folder)}, path, _use_new_zipfile_serialization=False
    ),
    'bare pickle': lambda folder, path: path.write_bytes(pickle.dumps(Reduced(folder), protocol=2)) and None,
    'getattr': by_getattr,
    'object array': by_objects,
    'object scalar': by_scalar,
    'eval': by_eval,
    'tar': in_a_tar,
}
