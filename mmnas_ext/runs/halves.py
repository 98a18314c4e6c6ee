"""The places of a config that its halves have in common: loaders and their datasets, evaluators, models."""

import copy
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmnas_ext.archs import INPUT_SIZE, OUTPUT_STRIDE
from mmnas_ext.datasets.identity import list_datasets
from mmnas_ext.shipped import PACKAGE

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
TESTED = ('test_dataloader', 'test_cfg', 'test_evaluator')  # what a test needs


def is_ours(cfg: Config) -> bool:
    """Whether a config searches, or names one of our backbones: in any other the variables are the user's own."""
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    return bool(cfg.get('derived')) or any(package_of(part) == PACKAGE for part in (model, backbone))


def host_of(cfg: Mapping[str, Any]) -> str:
    """The package that a config's model is of, such as ``'mmdet'``, whatever its default scope is; empty if unknown."""
    model = cfg.get('model') or {}
    named = package_of(model) if not isinstance(model.get('type'), str) or '.' in model['type'] else ''
    found = [model.get('_scope_'), named if named != PACKAGE else '', cfg.get('default_scope')]
    return next((str(each) for each in found if each), '')


def package_of(part: Any) -> str:
    """Package that a type belongs to: of ``'mmnas_ext.MBNet'``, and of the class itself in a pure-Python config."""
    kind = part.get('type') if isinstance(part, Mapping) else None
    return (kind if isinstance(kind, str) else str(getattr(kind, '__module__', ''))).partition('.')[0]


def list_halves(cfg: Mapping[str, Any]) -> list[Any]:
    """The config, its ``derived`` and the trials of a random search; the latter two say only what differs."""
    derived, search = cfg.get('derived') or {}, cfg.get('random_search') or {}
    trial = search.get('trial') if isinstance(search, Mapping) else None
    return [half for half in (cfg, derived, trial) if half]


def models_of(cfg: Config) -> list[dict[str, Any]]:
    """The models of both halves; what ``derived`` says of its model is only what differs."""
    halves = (cfg.get('model'), (cfg.get('derived') or {}).get('model'))
    return [half for half in halves if isinstance(half, dict)]


def backbones_of(cfg: Config) -> list[dict[str, Any]]:
    """The backbones of both halves."""
    return [half['backbone'] for half in models_of(cfg) if isinstance(half.get('backbone'), dict)]


def counted_at(backbone: Mapping[str, Any]) -> tuple[tuple[int, int], int]:
    """Height and width of the image, and the output stride, at which the costs of a backbone are counted."""
    height, width = backbone.get('input_size') or INPUT_SIZE
    return (height, width), backbone.get('output_stride') or OUTPUT_STRIDE


def seed_arch(backbone: Mapping[str, Any]) -> Any:
    """The architecture of the seed whose weights a backbone is given, as its config has it, or ``None``."""
    init: Any = backbone.get('init_cfg')
    seed: Any = init.get('seed') if isinstance(init, Mapping) else None
    return seed.get('arch') if isinstance(seed, Mapping) else None


def evaluators_of(half: Mapping[str, Any], name: str) -> list[Any]:
    """The evaluators of a part of a half.

    Args:
        half: Of the config.
        name: ``'val_evaluator'`` or ``'test_evaluator'``.
    """
    given = half.get(name)
    return [each for each in (given if isinstance(given, list | tuple) else [given]) if isinstance(each, Mapping)]


def check_validating(cfg: Mapping[str, Any], asked: str) -> None:
    """Raises ValueError where networks cannot be validated on held-out training images.

    Args:
        cfg: The config of a search.
        asked: The key that asks for it, for the message.
    """
    missing = [key for key in ('val_dataloader', 'val_evaluator') if not cfg.get(key)]
    if missing:
        raise ValueError(f'{asked} validates networks, but the config has no {missing[0]}')
    leaves = list_datasets(cfg['train_dataloader']['dataset'])
    files = {os.path.join(leaf.get('data_root') or '', leaf.get('ann_file') or '') for leaf in leaves}
    if len(files) > 1 and any('ann_file' in each for each in evaluators_of(cfg, 'val_evaluator')):
        raise ValueError(
            f'{asked} validates networks on held-out training images, whose annotations are in {len(files)} files, '
            'and val_evaluator reads one ann_file: merge these files'
        )


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yields the mappings inside a config, the outer first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from walk(each)


def count_classes(cfg: Config, count: int) -> bool:
    """Sets ``num_classes`` of all that counts the data's classes, in both halves; returns whether anything does."""
    owners = [part for half in models_of(cfg) for part in walk(half) if isinstance(part.get('num_classes'), int)]
    # those of the data's classes have the most; one of a proposal or boundary head counts other things
    former = max((owner['num_classes'] for owner in owners), default=0)
    for owner in owners:
        if owner['num_classes'] == former:
            if former != count:  # the model's is often that of the data that its base was written for
                print_log(f'num_classes: {count}, one for each class', logger='current', level=logging.INFO)
            owner['num_classes'] = count
    return bool(owners)


def plain(value: Any) -> Any:
    """A value without MMEngine's dicts, to compare and to show."""
    return {key: plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else copy.copy(value)


def tell(name: str, old: Any, new: Any) -> None:
    """Says that a variable wins over another value that files say."""
    if old is not None and plain(old) != plain(new) and not (isinstance(old, list) and tuple(old) == new):
        print_log(f'{name}: {new!r:.120} instead of {old!r:.120}', logger='current', level=logging.INFO)
