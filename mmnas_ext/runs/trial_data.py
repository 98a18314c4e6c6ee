"""Which of one's own images a random search tries networks with: training images, for training and for ranking."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope

from mmnas_ext.datasets.identity import list_datasets
from mmnas_ext.datasets.layouts import Part
from mmnas_ext.runs.halves import LOADERS, evaluators_of, host_of
from mmnas_ext.runs.sources import depth_of, said_keys

_SEARCH, _TRIAL = 'random_search', 'trial'
# every other image trains, and a quarter of the rest ranks
_TRAINED, _RANKED = slice(0, None, 2), slice(1, None, 8)
_FILES = ('type', 'data_root', 'ann_file', 'data_prefix')


def split_trials(cfg: Config, train: Part) -> bool:
    """Has the trials of a random search train on half of the training images, and be ranked on an eighth of them.

    The validation images have no part in the choice, so that what the found network reaches on them counts. Indices
    that the file with ``data`` says for itself stay. Where the images are not there nothing is counted.

    Args:
        cfg: The config, with its data in place; changed.
        train: The training part.

    Returns:
        Whether the config is of a random search.

    Raises:
        ValueError: There are too few images, or the file with ``data`` names others to rank on.
    """
    search = cfg.get(_SEARCH)
    if not isinstance(search, Mapping):
        return False
    said = _said_of_trial(cfg)
    trial = search.get(_TRIAL) or {}
    search[_TRIAL] = trial  # type: ignore[index]
    trained, ranked = (_leaf(trial, loader) for loader in LOADERS[:2])
    whole = _leaf(cfg, LOADERS[0])
    count = _count(cfg, whole) if train.labels.exists() else None
    for leaf, share, loader in ((trained, _TRAINED, LOADERS[0]), (ranked, _RANKED, LOADERS[1])):
        if (loader, 'dataset', 'indices') in said:
            continue
        leaf.pop('indices', None)
        if count is not None:
            leaf['indices'] = list(range(count))[share]
            if not leaf['indices']:
                raise ValueError(
                    f'data.train must have more images, got {count}: networks are tried on half, ranked on an eighth'
                )
    ranked.update(copy.deepcopy({key: whole[key] for key in (*_FILES, 'metainfo') if key in whole}))
    if host_of(cfg) == 'mmdet':
        # MMDetection leaves images out of training alone, and indices count those that are left
        ranked.update(test_mode=False, filter_cfg=copy.deepcopy(whole.get('filter_cfg')))
        pipelines = [_leaf(half, LOADERS[1]).get('pipeline') for half in (trial, cfg.get('derived') or {}, cfg)]
        ranked['pipeline'] = copy.deepcopy(next((each for each in pipelines if each is not None), []))
    for half, loader, leaf in ((trial, LOADERS[0], trained), (trial, LOADERS[1], ranked)):
        half[loader] = {**(half.get(loader) or {}), 'dataset': _nested(cfg, loader, leaf)}
    if count is not None:
        given = [leaf.get('indices') for leaf in (trained, ranked)]
        numbers = [len(each) if isinstance(each, list | tuple) else each for each in given]
        print_log(
            f'trials train on {numbers[0]} and are ranked on {numbers[1]} of the {count} training images',
            logger='current',
            level=logging.INFO,
        )
    return True


def take_boxes_from_samples(cfg: Config) -> None:
    """Has COCO's evaluators of trials count the boxes that come with the samples: a file has other images, too."""
    trial = cfg[_SEARCH][_TRIAL]
    found = [*(evaluators_of(half, 'val_evaluator') for half in (trial, cfg.get('derived') or {}, cfg))]
    evaluators = copy.deepcopy(next((each for each in found if each), []))
    for evaluator in evaluators:
        if 'ann_file' in evaluator:
            evaluator['ann_file'] = None
    if evaluators:
        trial['val_evaluator'] = evaluators if len(evaluators) > 1 else evaluators[0]


def _said_of_trial(cfg: Config) -> set[tuple[str, ...]]:
    """Keys of the trials' settings that the file with the data says."""
    depth = depth_of(cfg, 'data')
    keys = [] if depth is None else said_keys(cfg, depth)
    said = {path[2:] for path in keys if path[:2] == (_SEARCH, _TRIAL)}
    for path in said:
        if path[:2] == (LOADERS[1], 'dataset') and {*path[2:3]} & {*_FILES}:
            raise ValueError(
                f'{_SEARCH}.{_TRIAL}.{".".join(path)} has no effect beside data: trials are ranked on training images, '
                'so leave it out; indices=[…] there says on which'
            )
    return said


def _leaf(half: Mapping[str, Any], loader: str) -> dict[str, Any]:
    """The innermost dataset of a loader."""
    dataset = (half.get(loader) or {}).get('dataset')
    found: Any = next(list_datasets(dataset), None)
    return {} if found is None else found


def _nested(cfg: Config, loader: str, leaf: dict[str, Any]) -> dict[str, Any]:
    """A dataset's settings inside the wrappers that the config has around it."""
    inside: Any = (cfg.get(loader) or {}).get('dataset') or {}
    depth = 0
    while inside.get('dataset') is not None:
        inside, depth = inside['dataset'], depth + 1
    for _ in range(depth):
        leaf = {'dataset': leaf}
    return leaf


def _count(cfg: Config, leaf: Mapping[str, Any]) -> int | None:
    """How many images a dataset has that its filter leaves; ``None`` if it cannot be read, which is told of later."""
    plain = {key: copy.deepcopy(value) for key, value in leaf.items() if key != 'indices'}
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            return len(DATASETS.build({**plain, 'pipeline': [], 'lazy_init': False}))
    except Exception:  # whatever is wrong with the labels, their own check says it in a sentence
        return None
