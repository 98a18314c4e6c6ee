"""Whether a checkpoint belongs to a model: MMEngine loads what matches, and says nothing of the rest but in its log."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from mmnas_ext.remap.reader import read_checkpoint

_SHOWN = 3
# old checkpoints lack it, and it changes no output
_UNREAD = 'num_batches_tracked'


class Match(NamedTuple):
    """Which tensors of a model a checkpoint gives.

    Args:
        given: Names of those with the right shape.
        missing: Names of those that it lacks.
        misshapen: Those of another shape, in words.
        unused: Names of tensors in the checkpoint that the model does not have.
    """

    given: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unused: tuple[str, ...]


def match(model: nn.Module, state: Mapping[str, Any]) -> Match:
    """Compares a model with the tensors of a checkpoint by name and shape, as MMEngine does when it loads them."""
    given: dict[str, Tensor] = {
        name.removeprefix('module.'): value for name, value in state.items() if isinstance(value, Tensor)
    }
    wanted = model.state_dict()
    shared = [name for name in wanted if name in given]
    fits = [name for name in shared if wanted[name].shape == given[name].shape]
    misshapen = [
        f'{name} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}' for name in shared if name not in fits
    ]
    missing = [name for name in wanted if name not in given and not name.endswith(_UNREAD)]
    return Match(tuple(fits), tuple(missing), tuple(misshapen), tuple(name for name in given if name not in wanted))


def check_load_from(model: nn.Module, file: str, where: str = 'load_from') -> str:
    """Says how much of a model a checkpoint gives that training is to begin with; as a warning if that is below half.

    Args:
        model: The built model.
        file: The checkpoint, a local file.
        where: Key of the config, for messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint, or gives the model nothing.
    """
    found = match(model, read_weights(file, where)[0])
    count = len(model.state_dict())
    if not found.given:
        theirs = _some(found.unused or found.misshapen)
        raise ValueError(
            f'{where}: no tensor of {file} fits this model, which has {_some(tuple(model.state_dict()))}; it has '
            f'{theirs}: another network, or another prefix of its keys'
        )
    rest = [
        f'{len(names)} {what}: {_some(names)}'
        for names, what in ((found.missing, 'are not in it'), (found.misshapen, 'have another shape'))
        if names
    ]
    little = ''
    if 2 * len(found.given) < count:
        fed = [name for name in model.state_dict() if name.startswith('backbone.')]
        lost = len(fed) - len({*fed} & {*found.given})
        little = f'; {lost} of the {len(fed)} of its backbone are missing' if fed else '; most of it is missing'
    begin = (
        f'{"warning: " if little else ""}{where}: {file} gives {len(found.given)} of the {count} tensors of the model'
    )
    return '; '.join([f'{begin}{little}', *rest])


def check_tested(model: nn.Module, file: str, classes: Sequence[str] | None = None) -> str:
    """Raises unless a checkpoint holds every tensor of a model that is to be tested.

    Args:
        model: The built model.
        file: The checkpoint, a local file.
        classes: Of the dataset that it is tested on.

    Returns:
        A warning: what else the checkpoint holds; empty if nothing.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint, of another model, or of one trained for other classes.
    """
    state, meta = read_weights(file, 'checkpoint')
    found = match(model, state)
    if found.missing or found.misshapen:
        parts = [
            f'{len(names)} {what}: {_some(names)}'
            for names, what in ((found.missing, 'are missing'), (found.misshapen, 'have another shape'))
            if names
        ]
        raise ValueError(
            f'checkpoint {file} is not of the model of this config: of {len(model.state_dict())} tensors '
            f'{"; ".join(parts)}'
        )
    described = meta.get('dataset_meta')
    theirs = described.get('classes') if isinstance(described, Mapping) else None
    if isinstance(theirs, list | tuple) and classes is not None and list(theirs) != list(classes):
        differ = next((pair for pair in zip(theirs, classes, strict=False) if pair[0] != pair[1]), None)
        what = f'the first that differs is {differ[0]!r} for {differ[1]!r}' if differ else 'the others are the same'
        raise ValueError(
            f'checkpoint {file} was trained for {len(theirs)} classes and test_dataloader has {len(classes)}: {what}; '
            'set metainfo.classes of the test dataset to those of the training'
        )
    return f'{len(found.unused)} tensors of {file} are not used: {_some(found.unused)}' if found.unused else ''


def read_weights(file: str, where: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The tensors of a checkpoint, as MMEngine takes them, and its ``meta``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or holds no tensors by name.
    """
    place = '' if where == 'checkpoint' else f'{where}: '
    if not Path(file).is_file():
        raise FileNotFoundError(f'{place}checkpoint {file} does not exist')
    try:
        content = read_checkpoint(Path(file), mapped=zipfile.is_zipfile(file))
    except ValueError as error:
        raise ValueError(f'{place}{error}') from None
    if not isinstance(content, Mapping):
        raise ValueError(f'{place}checkpoint {file} must hold tensors by name, got {type(content).__name__}')
    state, meta = content.get('state_dict', content), content.get('meta')
    if not isinstance(state, Mapping):
        raise ValueError(f'{place}state_dict of {file} must hold tensors by name, got {type(state).__name__}')
    return state, meta if isinstance(meta, Mapping) else {}


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', …' if len(names) > _SHOWN else '')
