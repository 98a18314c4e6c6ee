"""What decides the result of a part of a run, and what a user may change of it when the run goes on.

A change is *taken over* where it makes no other result (logging, workers, a moved data set) or is followed correctly
(more iterations); every other one is refused, since the part would be neither the former nor the new one. What is not
listed here as harmless is refused: an unknown key never slips through.
"""

import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dist import get_world_size

from mmnas_ext.datasets.identity import data_identity, digest_files
from mmnas_ext.registry import name_of
from mmnas_ext.reports.beside import LENGTHS, SPEED, only_watches

# the keys of a config that MMEngine's Runner reads; all others are a config file's own variables
RUNNER_KEYS = (
    'model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg',
    'auto_scale_lr', 'optim_wrapper', 'param_scheduler', 'val_evaluator', 'test_evaluator', 'default_hooks',
    'custom_hooks', 'data_preprocessor', 'load_from', 'env_cfg', 'log_processor', 'log_level', 'visualizer',
    'default_scope', 'randomness', 'find_unused_parameters', 'model_wrapper_cfg', 'sync_bn', 'compile',
)  # fmt: skip
# Of these a change makes no other weights. Validation is among them: where it chooses the result, the method says so.
HARMLESS = (
    'log_level', 'log_processor*', 'visualizer*', 'env_cfg*', 'find_unused_parameters',
    'val_*', 'test_*', 'train_cfg.val_*', 'train_cfg.dynamic_intervals*', 'train_cfg.log_interval',
    'default_hooks.logger*', 'default_hooks.timer*', 'default_hooks.visualization*', 'default_hooks.checkpoint*',
    'custom_hooks', '*.num_workers', '*.persistent_workers', '*.pin_memory', '*.prefetch_factor', '*.with_cp',
    'launch.*', 'versions.*',
)  # fmt: skip
# where data lie: what they are is compared by itself
_PLACES = ('data_root', 'ann_file', 'data_prefix', 'sources', 'img_path', 'seg_map_path', 'img', 'seg')
# more of these is trained on, up to the new end
LONGER = LENGTHS
_LONGEST_PATH = 1024
EVALUATION = 'selection.evaluation'  # how networks of a front are validated, or whole detectors
RECIPE = 'selection.adapt.recipe'  # how networks are adapted briefly, which is how the chosen one is
TRIAL = 'random_search.trial.'  # before the settings of a trial
_VALIDATION = ('val_*', 'custom_hooks')
VALIDATED = 'val_data'  # which data validate a training
_VALIDATES = (VALIDATED, 'val_dataloader.', 'val_evaluator', 'val_cfg')
_SHOWN = 3  # changes that a message names
_SHORT = reprlib.Repr()
_SHORT.maxstring = 24
_PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'mmpretrain')


class Change(NamedTuple):
    """A setting that differs; ``None`` stands for one that is not given."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f'{self.key} {_SHORT.repr(self.old)} -> {_SHORT.repr(self.new)}'


def settings_of(cfg: Mapping[str, Any], *loaders: str, root: Path | None = None) -> dict[str, Any]:
    """The settings of a part: of its config what a runner reads, its data, and the processes that share it.

    A file that a setting names counts by its name and content, wherever it lies.

    Args:
        cfg: Config of the part.
        loaders: Those whose data decide its result, such as ``'train_dataloader'``.
        root: Work dir of the run, whose own files count by their place in it.
    """
    plain = _as_json({key: cfg[key] for key in RUNNER_KEYS if cfg.get(key) is not None})
    plain.setdefault('randomness', {}).setdefault('seed', 0)
    plain['custom_hooks'] = _by_type(plain.get('custom_hooks') or [])
    where = 'position' if _counts_positions(plain) else 'launch'
    plain[where] = {'processes': get_world_size()}
    plain['data'] = {name: data_identity(cfg[name]['dataset']) for name in loaders if _dataset(cfg, name)}
    return flatten(plain, root=root)


def training_settings(cfg: Mapping[str, Any], root: Path | None = None) -> dict[str, Any]:
    """The settings of a training, and which data validate it: other ones make no other weights, but another figure.

    Args:
        cfg: Its config.
        root: As of `settings_of`.
    """
    found = settings_of(cfg, 'train_dataloader', root=root)
    validated = _dataset(cfg, 'val_dataloader')
    return {**found, VALIDATED: data_identity(validated)} if validated else found


def figure_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What has changed between the settings of two trainings that makes another figure: of weights or of validation.

    Where data lie does not count where it is known which they are, nor how many images are validated at a time.

    Args:
        old: Those of a training that has ended; of before the data of its validation were noted without these.
        new: Those of now.
    """
    taken, refused = find_changes(old, new)
    return [*refused, *(each for each in taken if each.key in LONGER or _validates(each, VALIDATED in old, new))]


def _validates(change: Change, known: bool, new: Mapping[str, Any]) -> bool:
    parts = set(change.key.split('.'))
    free = (*SPEED, *(_PLACES if known else ()), *(() if new.get('val_dataloader.drop_last') else ('batch_size',)))
    return change.key.startswith(_VALIDATES) and not parts & set(free)


def flatten(value: Mapping[str, Any], key: str = '', root: Path | None = None) -> dict[str, Any]:
    """Values by dotted key, as JSON has them and files by their content; `key` stands before all."""
    return {name: _identify(each, root) for name, each in _flat(_as_json(value), key)} if value else {}


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[Change], list[Change]]:
    """Compares settings; returns the changes that are taken over, and those that are refused.

    Of before the data of a validation were noted nothing is said of these.
    """
    # as the manifest has them, so that read and given ones compare
    new = {key: value for key, value in _as_json(new).items() if key != VALIDATED or key in old}
    both = [Change(key, old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    harmless = [change for change in both if _is_harmless(change, new)]
    return harmless, [change for change in both if change not in harmless]


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a training's settings that decide its weights."""
    return {key: v for key, v in settings.items() if key in LONGER or not _is_harmless(Change(key, None, v), settings)}


def list_changes(changes: Iterable[Change]) -> str:
    """Changes in words, the first few of many."""
    texts = list(map(str, changes))
    more = f' and {len(texts) - _SHOWN} more' if len(texts) > _SHOWN else ''
    return '; '.join(texts[:_SHOWN]) + more


def _identify(value: Any, root: Path | None) -> Any:
    """A setting, or what identifies the file that it names."""
    if not isinstance(value, str) or len(value) > _LONGEST_PATH or not value.strip():
        return value
    path = Path(value)
    if root is not None and path.resolve().is_relative_to(root.resolve()):
        return path.resolve().relative_to(root.resolve()).as_posix()
    return f'{path.name}, content {digest_files((path,))}' if os.path.isfile(value) else value


def find_versions() -> dict[str, str]:
    """Versions of what a run computes with."""
    found = {}
    for name in _PACKAGES:
        for distribution in (name, f'onedl-{name}', 'onedl-mmdetection' if name == 'mmdet' else name):
            try:
                found[name] = version(distribution)
                break
            except PackageNotFoundError:
                continue
    return found


def _dataset(cfg: Mapping[str, Any], loader: str) -> Any:
    return (cfg.get(loader) or {}).get('dataset')


def _counts_positions(plain: Mapping[str, Any]) -> bool:
    """Whether a loop counts on in the middle of an epoch, so that a position means other images on other ranks."""
    loop = str((plain.get('train_cfg') or {}).get('type') or '').rpartition('.')[2]
    if (plain.get('model') or {}).get('block_parallel'):
        return False  # all processes see the same images
    return loop not in ('', 'EpochBasedTrainLoop') or bool((plain.get('train_cfg') or {}).get('max_iters'))


def _is_harmless(change: Change, new: Mapping[str, Any]) -> bool:
    key = change.key
    if key.startswith(TRIAL):
        # a trial is not prolonged, and its validation is what ranks it
        inner = key.removeprefix(TRIAL)
        return inner not in LONGER and any(fnmatchcase(inner, p) for p in HARMLESS if p not in _VALIDATION)
    if key in LONGER:
        return isinstance(change.new, int) and change.new > (change.old or 0) and not new.get('train_cfg.staged')
    if any(part in _PLACES for part in key.split('.')) and '_dataloader.dataset' in key:
        return True
    if key.startswith('custom_hooks.'):
        return only_watches(key)
    return any(fnmatchcase(key, pattern) for pattern in HARMLESS)


def _by_type(hooks: Any) -> dict[str, Any]:
    """Hooks by their type, so that one more of them moves no other's place."""
    found: dict[str, Any] = {}
    for hook in hooks:
        name = name_of(hook) or str(hook)
        while name in found:
            name += '+'
        found[name] = hook if isinstance(hook, dict) else {'type': name}
    return found


def _as_json(value: Any) -> Any:
    """Settings as JSON has them: tuples are lists, types and functions their names."""
    plain = value.to_dict() if isinstance(value, Config) else value
    return json.loads(json.dumps(plain, default=_name))


def _name(value: Any) -> str:
    qualified = getattr(value, '__qualname__', None)
    return f'{value.__module__}.{qualified}' if qualified else repr(value)


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yields dotted keys and what stands there; lists that hold no mapping stay whole."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f'{key}.{name}' if key else str(name))
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f'{key}.{number}')
    else:
        yield key, value
