"""Reads checkpoint files, of weights alone or of a whole training, without running any code that they name.

PyTorch's restricted unpickler reads them (``weights_only=True``). Its list of what a file may call is replaced by the
fixed one here, for whichever libraries have added to it: constructors of our own that check their arguments. So a
training's logs and numbers, NumPy's and MMEngine's, come back as what they were, and a run can go on from them.
MMEngine's own reader allows ``getattr`` and NumPy's object arrays, through which a pickle reaches any code, and reads
the rest without any restriction.
"""

import importlib.util
import logging
import math
import pickle
import pickletools
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor, nn

from mmnas_ext.remap.download import fetch
from mmnas_ext.remap.values import VALUES, Later, RefusedError, bounded_defaults

PACKAGE = 'package://'
_WEIGHT_FILES = ('.pth', '.pt')
_MAGIC = torch.serialization.MAGIC_NUMBER.to_bytes(10, 'little')  # of the format before the archives
_ZIP = b'PK\x03\x04'
# PyTorch does not compress; an archive that someone has packed again shrinks by a tenth
_MAX_RATIO, _MAX_UNPACKED = 4, 2**24
_MAX_NAMED = 2**20  # bytes of a pickle that are searched for what it calls
_MAX_DEPTH = 100  # of a state in a state; a training's has some ten
_NUMBERS = re.compile(r'b1|[iu][1248]|f[248]|f16|c(8|16|32)|[SU][0-9]{1,6}')
_ORDERS = ('<', '>', '=', '|')
_SCHEDULES = ('_annealing_cos', '_annealing_linear')  # what a one-cycle schedule keeps as attributes


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or is refused; the message names the file and says why."""


class _DType:
    """Stands for ``numpy.dtype``: a plain kind of number or text."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        del align, copy
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise RefusedError(f'it holds a NumPy array of kind {code!r:.20}, and only numbers and text are read')
        self.code, self.order = code, '='

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in _ORDERS or state[2:5] != (None,) * 3:
            raise RefusedError('it holds a NumPy array of records, and only numbers and text are read')
        self.order = state[1]

    def plain(self) -> 'np.dtype[Any]':
        """The real one."""
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for ``numpy.ndarray`` until the file is read."""

    value: 'np.ndarray[Any, Any] | None' = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType) or not isinstance(data, bytes):
            raise RefusedError('it holds a NumPy array of objects, and only numbers and text are read')
        read = np.frombuffer(data, dtype.plain())
        self.value = read.reshape(shape, order='F' if fortran else 'C').copy(order='A')


class _History:
    """Stands for MMEngine's ``HistoryBuffer`` until the file is read."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def plain(self) -> HistoryBuffer:
        """The real one, with the same numbers."""
        fields = self.state if isinstance(self.state, dict) else {}
        log, counts = (getattr(fields.get(name), 'value', None) for name in ('_log_history', '_count_history'))
        most = fields.get('max_length')
        numbers = [part is not None and part.ndim == 1 and part.dtype.kind in 'biuf' for part in (log, counts)]
        whole = all(numbers) and len(log) == len(counts) and type(most) is int  # type: ignore[arg-type]
        if not whole or most < max(1, len(log)):  # type: ignore[arg-type, operator]
            raise RefusedError('it holds a HistoryBuffer that MMEngine has not written')
        return HistoryBuffer(log, counts, most)


class _OneCycle:
    """Stands for the class of MMEngine's one-cycle schedules, which nothing can be made of."""

    def __new__(cls, *args: Any) -> '_OneCycle':
        raise RefusedError('it holds a schedule as an object')


class _Callable(type):
    """Kind of the classes below: objects of them can be made, and calling one is refused."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise RefusedError(f'it tries to run code ({cls.__name__})')


class _Foreign(metaclass=_Callable):
    """Stands for an object of a class that only its own code can make; it is left out in the end."""

    def __new__(cls, *args: Any, **kwargs: Any) -> '_Foreign':
        del args, kwargs
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        del state


def _foreign(name: str) -> type[_Foreign]:
    """A class that stands for the one of this name."""
    return _Callable(name, (_Foreign,), {})  # type: ignore[return-value]


def _new_array(kind: Any, shape: Any, code: Any) -> _Array:
    """Stands for NumPy's ``_reconstruct``; the content follows."""
    del shape, code
    if kind is not _Array:
        raise RefusedError('it makes an array of another class than numpy.ndarray')
    return _Array()


def _scalar(dtype: Any, data: Any = b'') -> Any:
    """Stands for NumPy's ``scalar``."""
    if not isinstance(dtype, _DType) or not isinstance(data, bytes) or len(data) != dtype.plain().itemsize:
        raise RefusedError('it holds a NumPy scalar that is neither a number nor text')
    return np.frombuffer(data, dtype.plain())[0]


def _empty(*args: Any) -> bytes:
    """Stands for ``bytes``, which a pickle calls for empty ones alone."""
    if args:
        raise RefusedError('it makes bytes of other things')
    return b''


def _attribute(owner: Any, name: Any) -> Any:
    """Stands for ``getattr``: by it MMEngine's objects name statistics and curves of their own classes."""
    if owner is _History and isinstance(name, str) and name.isalpha():
        return _Foreign.__new__(_foreign(f'HistoryBuffer.{name}'))
    if owner is _OneCycle and name in _SCHEDULES:
        return getattr(OneCycleParamScheduler, name)
    raise RefusedError(f'it tries to run code (getattr of {name!r:.40})')


def _path(*parts: Any) -> Path:
    """Stands for the classes of `pathlib`."""
    if not all(isinstance(part, str) for part in parts):
        raise RefusedError('it holds a path of other things than text')
    return Path(*parts)


_PATHS = ('', 'Pure', 'Posix', 'PurePosix', 'Windows', 'PureWindows')
_CORES = ('numpy.core.multiarray', 'numpy._core.multiarray')
_FACTORIES = ('dict', 'float', 'int', 'list', 'str')
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_DType, 'numpy.dtype'),
    (_Array, 'numpy.ndarray'),
    *((_new_array, f'{core}._reconstruct') for core in _CORES),
    *((_scalar, f'{core}.scalar') for core in _CORES),
    (_empty, 'builtins.bytes'),
    (_attribute, 'builtins.getattr'),
    (_History, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (_OneCycle, 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'),
    # what a training only notes, such as its command line, and what makes the items of a defaultdict
    *((_foreign(name), name) for name in ('argparse.Namespace', *(f'builtins.{kind}' for kind in _FACTORIES))),
    *VALUES,
    *((_path, f'{module}.{kind}Path') for module in ('pathlib', 'pathlib._local') for kind in _PATHS),
]


def read_checkpoint(file: Path, map_location: Any = 'cpu', what: str = 'checkpoint', mapped: bool = False) -> Any:
    """Reads a checkpoint file.

    Args:
        file: The file, in either of PyTorch's formats.
        map_location: As in `torch.load`.
        what: What the file is called in messages.
        mapped: Leave tensors on disk until they are looked at; of the zip format alone.

    Returns:
        What was saved: tensors, numbers, texts, dates and times, lists, tuples, sets and mappings of them, ranges and
        slices, paths, NumPy's numbers and arrays of numbers or text, MMEngine's `HistoryBuffer`. A `ConfigDict` and a
        `defaultdict` come back as a dict. Objects of other classes are left out, with a warning.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file cannot be opened, is no checkpoint, is damaged, unpacks to far more than it is, calls
            any function that is not on the list, or holds sparse or quantised tensors.
    """
    try:
        start = _start(file, 4)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f'{what} {file} cannot be opened: {error.strerror}') from None
    if not start:
        raise CheckpointError(f'{what} {file} is empty: it is truncated or not a checkpoint')
    if start == _ZIP:
        _check_archive(file, what)
    try:
        with _fixed_list():
            if start == _ZIP:
                names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
                torch.serialization.add_safe_globals([(_foreign(name), name) for name in names])
            content = torch.load(file, map_location=map_location, weights_only=True, mmap=mapped)
        plain = _Plain(_most_unpacked(file))
        content = plain.value(content, '', 0)
        if _foreign_name(content):
            raise RefusedError(f'it holds nothing but an object of class {_foreign_name(content):.80}')
    except RefusedError as error:
        raise CheckpointError(_refusal(what, file, str(error))) from None
    except pickle.UnpicklingError as error:
        wanted = re.search(r'GLOBAL (\S+)|unrecognized (function .*)', str(error))
        if wanted:
            raise CheckpointError(_refusal(what, file, f'it tries to run code ({wanted[1] or wanted[2]})')) from None
        called = '' if start == _ZIP or _protocol(file) > 2 else _named_in(file)
        if called:
            raise CheckpointError(_refusal(what, file, f'it tries to run code ({called})')) from None
        raise CheckpointError(f'{what} {file} {_reason(file, error)}') from None
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise CheckpointError(f'{what} {file} {_reason(file, error)}') from None
    if plain.left_out and not mapped:
        left = ', '.join(sorted(plain.left_out))
        print_log(
            f'{what} {file} holds objects that only code can make ({left:.120}): they are left out',
            logger='current',
            level=logging.WARNING,
        )
    return content


def find_file(source: str, what: str = 'checkpoint') -> Path:
    """Returns the local file for a path, a URL, a model name of MMEngine or an installed package.

    Args:
        source: As in `load_seed`.
        what: What the file is called in messages.

    Raises:
        FileNotFoundError: The file or package does not exist.
        ValueError: It is a folder, or of an unknown scheme.
        ConnectionError: The URL cannot be read.
    """
    if source.startswith(PACKAGE):
        return _package_file(source.removeprefix(PACKAGE))
    if '://' in source:
        return fetch(source)
    file = Path(source).expanduser()
    if file.is_dir():
        raise ValueError(f'{what} must be a file, got the folder {file}')
    if not file.is_file():
        raise FileNotFoundError(f'{what} does not exist: {file}')
    return file


def _package_file(name: str) -> Path:
    """Finds the weight file in an installed package without importing the package."""
    if not re.fullmatch(r'[A-Za-z_]\w*', name):
        raise ValueError(f'{PACKAGE} must be followed by the name of a Python package, got {name!r}')
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f'package {name!r} is not installed: run pip install {name.replace("_", "-")}')
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    files = sorted(file for folder in folders for file in folder.rglob('*') if file.suffix in _WEIGHT_FILES)
    if len(files) != 1:
        names = [file.name for file in files[:4]]
        raise ValueError(f'package {name!r} must have one file of {_WEIGHT_FILES}, got {len(files)}: {names}')
    return files[0]


@contextmanager
def _fixed_list() -> Iterator[None]:
    """Lets files call what is on our list alone, and nothing that another library has allowed in this process."""
    kept = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_ALLOWED)
    try:
        with bounded_defaults():
            yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(kept)


def _check_archive(file: Path, what: str) -> None:
    """Raises CheckpointError for an archive without an end, or that would unpack to much more than the file."""
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f'{what} {file} is truncated: its end is missing, fetch it again')
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # a damaged directory can make the reader fail in any way
        raise CheckpointError(f'{what} {file} is truncated or not a checkpoint: {_first_line(error)}') from None
    with archive:
        check_unpacked(archive, file, what)


def check_unpacked(archive: zipfile.ZipFile, file: Path, what: str = 'checkpoint') -> None:
    """Raises CheckpointError for an archive that would unpack to far more than the file."""
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _most_unpacked(file):
        raise CheckpointError(
            f'{what} {file} of {file.stat().st_size} bytes would unpack to {unpacked} and was refused: PyTorch does '
            'not compress what it saves'
        )


def _most_unpacked(file: Path) -> int:
    return _MAX_RATIO * file.stat().st_size + _MAX_UNPACKED


class _Plain:
    """Puts real values for what stood in for them, and looks at every tensor; what is met twice stays one thing."""

    def __init__(self, most: int) -> None:
        self.known: dict[int, tuple[Any, Any]] = {}
        self.left_out: set[str] = set()
        self.most = most  # bytes that all tensors may take
        self.storages: set[int] = set()

    def value(self, given: Any, where: str, depth: int) -> Any:
        """The value of what the reader has made, which stands under the key `where`."""
        if isinstance(given, str | int | float | None):
            return given
        if id(given) in self.known:
            return self.known[id(given)][1]
        if depth > _MAX_DEPTH:
            raise RefusedError(f'it is nested deeper than {_MAX_DEPTH}')
        if isinstance(given, dict):
            self.known[id(given)] = given, given
            return self._mapping(given, depth)
        if isinstance(given, list):
            self.known[id(given)] = given, given
            given[:] = self._items(given, where, depth)
            return given
        found = self._single(given, where, depth)
        self.known[id(given)] = given, found
        return found

    def _mapping(self, given: dict[Any, Any], depth: int) -> Any:
        for key in list(given):
            item = given.pop(key)
            foreign = _foreign_name(item) or _foreign_name(key)
            if foreign:
                self.left_out.add(foreign)
            else:
                given[self.value(key, 'a key', depth + 1)] = self.value(item, str(key), depth + 1)
        if isinstance(given, OrderedDict | Counter):
            # of the attributes that a file gives it, those of a state dict
            noted = vars(given).get('_metadata')
            vars(given).clear()
            if isinstance(noted, dict):
                vars(given)['_metadata'] = self.value(noted, '_metadata', depth + 1)
        return given

    def _single(self, given: Any, where: str, depth: int) -> Any:
        if isinstance(given, Tensor):
            _check_tensor(given, where)
            self._count(given.untyped_storage(), where)
        if isinstance(given, _Array):
            if given.value is None:
                raise RefusedError('it holds a NumPy array without content')
            return given.value
        if isinstance(given, _History):
            return given.plain()
        if isinstance(given, Later):
            return given.make(self._items(given.parts, where, depth))
        if type(given) in (tuple, set):
            return type(given)(self._items(given, where, depth))
        if isinstance(given, torch.UntypedStorage | torch.storage.TypedStorage):
            raise RefusedError(f'its {where!r:.80} is a storage without a tensor')
        return given

    def _count(self, storage: torch.UntypedStorage, where: str) -> None:
        """Adds the bytes of a tensor, which a file could also ask for by their number."""
        if storage._cdata not in self.storages:
            self.storages.add(storage._cdata)
            self.most -= storage.nbytes()
        if self.most < 0:
            raise RefusedError(f'its tensor {where!r:.80} is said to have more numbers than the file holds')

    def _items(self, given: Collection[Any], where: str, depth: int) -> list[Any]:
        foreign = [_foreign_name(each) for each in given]
        self.left_out.update(filter(None, foreign))
        kept = (each for each, name in zip(given, foreign, strict=True) if not name)
        return [self.value(each, where, depth + 1) for each in kept]


def _foreign_name(value: Any) -> str:
    """Name of the class, or function, that the reader has put a stand-in for; empty for all else."""
    kind = value if isinstance(value, _Callable) else type(value)
    return kind.__name__ if isinstance(kind, _Callable) else ''


def _check_tensor(tensor: Tensor, name: str) -> None:
    """Raises RefusedError for anything but an ordinary tensor, all of whose numbers are in the file."""
    kind = ''
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = 'sparse or nested'
    elif tensor.is_quantized:
        kind = 'quantised'
    elif tensor.is_meta:
        kind = 'empty (meta)'
    elif type(tensor) not in (Tensor, nn.Parameter):
        kind = type(tensor).__name__
    if kind:
        raise RefusedError(f'its tensor {name!r:.80} is {kind}, and only dense ones are read: convert it before saving')
    bytes_there = tensor.untyped_storage().nbytes()
    if math.prod(tensor.shape) * tensor.element_size() > max(bytes_there, 2**20):
        raise RefusedError(f'its tensor {name!r:.80} is said to have more numbers than the file holds')


def _reason(file: Path, error: Exception) -> str:
    """What is wrong with a file that PyTorch cannot read, as the end of a sentence."""
    protocol = _protocol(file) if 'Unsupported operand' in str(error) else 2
    if protocol > 2:
        return (
            f'was saved with pickle protocol {protocol}, and only 2 is read: load it where you trust it and save it '
            'again with torch.save, without pickle_protocol'
        )
    if 'torchscript' in str(error).lower():
        return (
            'was refused: it is a TorchScript program; where you trust it, save the state_dict() of what '
            'torch.jit.load gives'
        )
    if '.tar format' in str(error) and _start(file, 262)[257:] == b'ustar':
        return (
            "was refused: it is of PyTorch's first format, a .tar; load it where you trust it, and save it again with "
            'torch.save'
        )
    if re.search('Can only (SETITEM|append|extend)', str(error)):
        return 'was refused: it holds a container of a class of its own; save its state_dict alone'
    reason = str(error).partition('WeightsUnpickler error:')[2] or str(error)  # not PyTorch's advice to trust it
    return f'is truncated or not a checkpoint: {_first_line(reason or type(error).__name__)}'


def _refusal(what: str, file: Path, reason: str) -> str:
    if 'code (' in reason:
        reason = reason.removeprefix('it ')
        return f'{what} {file} {reason} and was refused: only plain data is read; save its state_dict alone'
    return f'{what} {file} was refused: {reason}'


def _protocol(file: Path) -> int:
    """Pickle protocol that `torch.save` has written; 0 where it has not."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.endswith('/data.pkl')]
            start = archive.open(names[0]).read(2) if names else b''
    else:
        head = _start(file, 64)
        start = head[:2] if _MAGIC in head else b''
    return start[1] if start[:1] == pickle.PROTO and len(start) == 2 else 0


def _start(file: Path, count: int) -> bytes:
    with file.open('rb') as stream:
        return stream.read(count)


def _named_in(file: Path) -> str:
    """The first function or class that a plain pickle names, of any protocol; read as text, nothing is called."""
    texts: list[str] = []
    with file.open('rb') as stream, suppress(Exception):  # damaged ones end anywhere
        for code, value, _ in pickletools.genops(stream.read(_MAX_NAMED)):
            if code.name in ('GLOBAL', 'INST'):
                return str(value).replace(' ', '.')
            if code.name == 'STACK_GLOBAL' and len(texts) > 1:
                return '.'.join(texts[-2:])
            if isinstance(value, str):
                texts.append(value)
    return ''


def _first_line(error: Exception | str) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
