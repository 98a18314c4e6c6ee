"""Lets MMEngine load checkpoints with our own reader, so that no load in our tools runs what a file names."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.fileio import get_local_path
from mmengine.runner import CheckpointLoader

from mmnas_ext.remap.reader import CheckpointError, find_file, read_checkpoint

_MMENGINES = 'mmengine.runner.checkpoint'
_REMOTE = ('s3://', 'petrel://')


@contextmanager
def safe_loading() -> Iterator[None]:
    """While it is open, MMEngine's `CheckpointLoader` reads every file with `read_checkpoint`.

    ``load_checkpoint``, ``init_cfg=dict(type='Pretrained')`` of any model and the Runner's ``load_from`` and resume all
    ask it. Loaders that a user has registered for schemes of their own are left as they are.

    Raises:
        CheckpointError: Inside, where a file cannot be read or is refused.
        FileNotFoundError: Inside, where there is no such file.
        ConnectionError: Inside, where a URL cannot be read.
    """
    theirs = dict(CheckpointLoader._schemes)
    ours = {prefix: load_from_our_reader for prefix, loader in theirs.items() if loader.__module__ == _MMENGINES}
    # MMEngine has no public way to take a loader back
    CheckpointLoader._schemes = OrderedDict({**theirs, **ours})
    try:
        yield
    finally:
        # what was registered meanwhile stays
        kept = ((prefix, theirs.get(prefix, loader)) for prefix, loader in CheckpointLoader._schemes.items())
        CheckpointLoader._schemes = OrderedDict(kept)


def load_from_our_reader(filename: Any, map_location: Any = None) -> Mapping[str, Any]:
    """Loads a checkpoint as MMEngine's loaders do: its content, of which ``state_dict`` is a key or all.

    Args:
        filename: A path, a URL, a model name with ``open-mmlab://`` and the like, or ``package://NAME``.
        map_location: As in `torch.load`.

    Raises:
        CheckpointError: The file cannot be read or is refused, or holds no mapping.
        FileNotFoundError: There is no such file.
        ConnectionError: A URL cannot be read.
    """
    source = str(filename)
    if any(scheme in source for scheme in _REMOTE):
        with get_local_path(source) as local:
            return _read(Path(local), source, map_location)
    content = _read(find_file(source), source, map_location)
    if source.startswith('mmcls://'):
        # as MMEngine does: of MMPretrain's classifiers the backbone
        state = content.get('state_dict', content)
        return {'state_dict': strip_prefix(state, 'backbone.')}
    return content


def strip_prefix(state: Mapping[str, Any], prefix: str) -> 'OrderedDict[str, Any]':
    """Returns the tensors below a prefix, named without it, with what the state dict notes of their modules."""
    below = OrderedDict((key.removeprefix(prefix), value) for key, value in state.items() if key.startswith(prefix))
    noted = getattr(state, '_metadata', None) or {}
    whole, inner = prefix.removesuffix('.'), prefix if prefix.endswith('.') or not prefix else f'{prefix}.'
    below._metadata = OrderedDict(  # type: ignore[attr-defined]
        (name.removeprefix(whole).removeprefix('.'), note)
        for name, note in noted.items()
        if name == whole or name.startswith(inner)
    )
    return below


def _read(file: Path, source: str, map_location: Any) -> Mapping[str, Any]:
    content = read_checkpoint(file, map_location)
    if not isinstance(content, Mapping):
        raise CheckpointError(f'checkpoint {source} must hold a state dict, got {type(content).__name__}')
    return content
