"""What a config says of an imitation of the seed: the key of ``derived``, and what is looked at before a run."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import HOOKS
from torch import nn

from mmnas_ext.engine.imitation import SeedImitationHook
from mmnas_ext.remap.initializer import RemappedInit
from mmnas_ext.runs.checkpoints import find_checkpoint, read_places
from mmnas_ext.runs.keys import own_name, takes
from mmnas_ext.runs.manifest import ADAPT, read_manifest
from mmnas_ext.workdir import WorkDir

KEY = 'imitate'
_NAME = SeedImitationHook.__name__


def add_imitation(cfg: Config, imitate: Any) -> None:
    """Adds the hook of ``derived.imitate`` to those of a derived config, whose list a child would have to repeat.

    Args:
        cfg: Config that trains a found network; it is changed.
        imitate: Arguments of `SeedImitationHook`; ``None`` adds nothing. Its seed may also be the work dir of a run
            that has ended: the backbone that was trained there is imitated.

    Raises:
        ValueError: It is no mapping, an argument is unknown or out of its range, or there is such a hook already.
    """
    if imitate is None:
        return
    if not isinstance(imitate, Mapping):
        raise ValueError(f'derived.{KEY} must be a dict(weight=…, until=…, seed=…) or None, got {imitate!r:.60}')
    try:
        takes(SeedImitationHook, list(imitate))
        if isinstance(imitate.get('seed'), str) and Path(imitate['seed']).is_dir():
            imitate = {**imitate, 'seed': _trained_in(Path(imitate['seed']))}
        SeedImitationHook(**imitate)
    except (ValueError, TypeError) as error:
        raise ValueError(f'derived.{KEY}: {error}') from None
    if list(_hooks(cfg)):
        raise ValueError(f'derived.{KEY} adds a {_NAME}, and custom_hooks has one already: keep one of the two')
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type=f'mmnas_ext.{_NAME}', **imitate)]


def list_imitations(cfg: Config, model: nn.Module, wrapper: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields keys of hooks that imitate, each with a function that raises where it could not; in the config's scope.

    Args:
        cfg: Config of a part of a run.
        model: Its model.
        wrapper: Its optimizer wrapper.
    """
    for place, hook in _hooks(cfg):
        yield f'{place} ({_NAME})', partial(_check, hook, model, wrapper)


def list_imitated(cfg: Config) -> list[RemappedInit]:
    """The seeds that hooks of a config name, where that is not the backbone's own."""
    return [RemappedInit(seed=hook['seed']) for _, hook in _hooks(cfg) if hook.get('seed') is not None]


def _trained_in(folder: Path) -> dict[str, str]:
    """What a run has trained, as a seed.

    Raises:
        ValueError: It has trained no network of ours to the end, or its last checkpoint is gone or damaged.
    """
    files = WorkDir(folder)
    manifest = read_manifest(files.manifest)
    if manifest is None or manifest.state != 'done' or not files.arch.is_file():
        state = 'no run' if manifest is None else f'a run that is {manifest.state!r}'
        raise ValueError(f'seed must be a checkpoint, or the work dir of a run that has ended, got {state} in {folder}')
    part = manifest.parts[ADAPT]
    found = find_checkpoint(read_places(part.notes.get('checkpoints', []), files.root), part.id)
    if found.path is None or found.unusable():
        raise ValueError(f'seed: no whole checkpoint of the end of the training is left in {folder}')
    return {'arch': str(files.arch), 'checkpoint': str(found.path)}


def _hooks(cfg: Config) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, Mapping) and own_name(hook.get('type')) == _NAME:
            yield f'custom_hooks.{number}', hook


def _check(hook: Mapping[str, Any], model: nn.Module, wrapper: Any) -> None:
    HOOKS.build({key: value for key, value in hook.items() if key != 'priority'}).check(model, wrapper)
