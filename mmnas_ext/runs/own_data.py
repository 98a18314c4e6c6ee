"""One's own data in one variable: ``data = dict(type='voc', root='…')`` sets datasets and evaluators of both halves.

Applied when a config is used (`mmnas_ext.runs.resolve`); what lies on the disk is checked before a run.
"""

import copy
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmnas_ext.datasets.annotations import forget
from mmnas_ext.datasets.identity import list_datasets
from mmnas_ext.datasets.labels import check_part, in_file_order
from mmnas_ext.datasets.layouts import DETECTION, LAYOUTS, PARTS, SEGMENTATION, OwnData, Part, read_names
from mmnas_ext.registry import name_of
from mmnas_ext.runs.halves import (
    LOADERS,
    count_classes,
    evaluators_of,
    host_of,
    is_ours,
    list_halves,
    models_of,
    tell,
    walk,
)
from mmnas_ext.runs.sources import depth_of, is_left_unused
from mmnas_ext.runs.trial_data import split_trials, take_boxes_from_samples

KEY, ROOT = 'data', 'data_root'
_TASKS = {'mmdet': DETECTION, 'mmseg': SEGMENTATION}
_HOSTS = {DETECTION: 'a detector', SEGMENTATION: 'a segmentor'}
# of a dataset that another takes the place of, what is not about its files
_KEPT = (
    'pipeline', 'filter_cfg', 'test_mode', 'backend_args', 'indices', 'lazy_init', 'serialize_data', 'max_refetch',
)  # fmt: skip
# per type of data, the evaluator that its users expect; of one of the same type in the config the settings are kept
_EVALUATORS: dict[str, dict[str, Any]] = {
    'coco': dict(type='CocoMetric', metric='bbox'),
    # average precision at an IoU of 0.5, the area under the curve as since VOC2010: what is quoted for data of VOC
    'voc': dict(type='VOCMetric', metric='mAP', eval_mode='area'),
    'folder-masks': dict(type='IoUMetric', iou_metrics=['mIoU']),
    'cityscapes': dict(type='IoUMetric', iou_metrics=['mIoU']),
}
# what MMDetection packs of an image for its evaluators
_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
_IGNORED = 255  # MMSegmentation's default everywhere
# transforms that know the value, and how they call it
_IGNORING = {'RandomCrop': 'ignore_index', 'RandomRotate': 'seg_pad_val'}


def check_data_form(value: Any) -> None:
    """Raises ValueError for a value of ``data`` that is malformed; nothing is looked for on the disk."""
    OwnData.parse(value)


def apply_data(cfg: Config, value: Any, classes: Any = None) -> bool:
    """Sets datasets, class names, ``num_classes`` and evaluators of both halves; returns whether anything takes it.

    Args:
        cfg: The config; changed.
        value: Its ``data``.
        classes: The variable ``classes`` where it belongs to this data, and not to those of a base.

    Raises:
        ValueError: The data are not of the kind that the host needs, contradict `classes`, or are too few to try
            networks on.
        FileNotFoundError: The names of the classes are to be read, and the labels are not there.
    """
    task = _task_of(cfg)
    if task is None:
        return False
    data = _complete(value, classes)
    if data.layout.task != task:
        fitting = [name for name, layout in LAYOUTS.items() if layout.task == task]
        raise ValueError(
            f'data.type of {_HOSTS[task]} must be one of {fitting}, got {data.type!r}, which is for '
            f'{_HOSTS[data.layout.task]}'
        )
    names = classes_of(data)
    parts = {name: data.find(name, sure=False) for name in PARTS}
    host = host_of(cfg)
    scope = {} if cfg.get('default_scope') == host else {'_scope_': host}  # where the host's parts are looked for
    for half in list_halves(cfg):
        for name, loader in zip(PARTS, LOADERS, strict=True):
            if (half.get(loader) or {}).get('dataset') is not None:
                placed = _placed(half[loader]['dataset'], parts[name], data, names, scope)
                half[loader] = {**half[loader], 'dataset': placed}
        for name, loader in zip(PARTS[1:], LOADERS[1:], strict=True):
            _set_evaluators(half, f'{name}_evaluator', parts[name], data, scope)
            if data.type == 'voc' and data.metric == 'coco':
                _hand_boxes_on((half.get(loader) or {}).get('dataset'))
    if split_trials(cfg, parts['train']) and 'coco' in (data.type, data.metric):
        take_boxes_from_samples(cfg)
        _hand_boxes_on(cfg.random_search.trial.val_dataloader.dataset)
    cfg['classes'] = names
    if task == SEGMENTATION:
        _set_ignored(cfg, data.ignore_index)
    return count_classes(cfg, len(names))


def classes_of(data: OwnData) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers, read from the labels of the training part if need be."""
    names = data.classes or data.read_classes()
    part = data.find('train', sure=False)
    if data.type == 'coco' and part.labels.is_file():
        ordered = in_file_order(part, names)
        if ordered != names:
            print_log(
                f'data.classes: {ordered!r:.200}, in the order of {part.labels}, by which MMDetection numbers them',
                logger='current',
                level=logging.WARNING,
            )
        return ordered
    return names


def check_own_data(cfg: Mapping[str, Any]) -> None:
    """Checks the files of a config's ``data``, which has been applied.

    Raises:
        FileNotFoundError: The root, a part or files of it are not there; the message has what was looked for.
        ValueError: Labels are malformed or of other classes; the message has the file.
    """
    if cfg.get(KEY) is None or not is_ours(cfg):
        return
    data = OwnData.parse({**cfg[KEY], 'classes': cfg['classes']})
    found: dict[str, Part] = {name: data.find(name) for name in PARTS}
    for name, part in found.items():
        if name == 'test' and data.test is None:
            continue
        for warning in check_part(data, name, part, data.classes or ()):
            print_log(warning, logger='current', level=logging.WARNING)
    forget()
    if found['train'] == found['val']:
        print_log('data.train and data.val are the same images', logger='current', level=logging.WARNING)


def move_data(cfg: Config, given: bool) -> None:
    """Gives ``data_root`` of a child config, or of a command line, its effect: all datasets and evaluators move there.

    A file that builds its datasets with its ``data_root`` has had that effect, and is left alone.

    Args:
        cfg: The config; changed.
        given: Whether the command line says it.

    Raises:
        ValueError: The config has ``data``, which says where the data are; or it is no text, or nothing takes it.
    """
    if not given and not is_left_unused(cfg, ROOT):
        return
    root = cfg.get(ROOT)
    if cfg.get(KEY) is not None:
        raise ValueError(f'data_root has no effect beside data=dict(…): write data.root={root!r:.120} instead')
    if not isinstance(root, str | os.PathLike) or not str(root):
        raise ValueError(f'data_root must be a folder, got {root!r:.80}')
    halves = list_halves(cfg)
    loaders = [(loader, half.get(loader) or {}) for half in halves for loader in LOADERS]
    leaves: list[Any] = [leaf for _, loader in loaders for leaf in list_datasets(loader.get('dataset'))]
    former = {str(leaf[ROOT]) for leaf in leaves if leaf.get(ROOT) is not None}
    for leaf in leaves:
        if leaf.get(ROOT) is not None:
            leaf[ROOT] = str(root)
    for half in halves:
        for evaluator in (each for name in PARTS[1:] for each in evaluators_of(half, f'{name}_evaluator')):
            for key in ('ann_file', 'seg_prefix'):
                if isinstance(evaluator.get(key), str):
                    evaluator[key] = _moved(evaluator[key], former, str(root))
    tell('data_root of the datasets', ', '.join(sorted(former)), str(root))
    if not former:
        raise ValueError('data_root has no effect: no dataset of this config has one; set train_dataloader.dataset')


def belonging_classes(cfg: Config) -> Any:
    """The variable ``classes`` where it is said with ``data`` or after it; a base's are those of the base's data."""
    said, data = depth_of(cfg, 'classes'), depth_of(cfg, KEY)
    if said is not None and data is not None:
        return cfg.get('classes') if said <= data else None
    return cfg.get('classes') if not getattr(cfg, 'filename', None) else None


def _moved(file: str, former: set[str], root: str) -> str:
    """A file below one of the former roots, below the new one."""
    for each in sorted(former, key=len, reverse=True):
        if Path(file).is_relative_to(each):
            return str(Path(root, Path(file).relative_to(each)))
    return file


def _complete(value: Any, classes: Any) -> OwnData:
    """What is said of the data, with the classes that a variable of their own says."""
    own = value.get('classes')
    if own is None:
        return OwnData.parse({**value, 'classes': classes})
    if classes is not None and read_names(classes) != read_names(own):
        raise ValueError(f'data.classes is {own!r:.80} and classes is {classes!r:.80}: say the first alone')
    return OwnData.parse(value)


def _task_of(cfg: Config) -> str | None:
    model = cfg.get('model') or {}
    if not any((cfg.get(loader) or {}).get('dataset') is not None for loader in LOADERS):
        return None
    if 'decode_head' in model:
        return SEGMENTATION
    return _TASKS.get(host_of(cfg)) if 'backbone' in model else None


def _placed(
    former: Mapping[str, Any], part: Part, data: OwnData, classes: tuple[str, ...], scope: Mapping[str, str]
) -> dict[str, Any]:
    """A dataset's config with the data of a part in the place of its own; wrappers of one dataset stay."""
    if former.get('dataset') is not None:
        return {**former, 'dataset': _placed(former['dataset'], part, data, classes, scope)}
    first = next(iter(list_datasets(former)), former)
    metainfo: dict[str, Any] = {'classes': classes}
    if data.palette is not None:
        metainfo['palette'] = [tuple(colour) for colour in data.palette]
    kept = {key: copy.deepcopy(first[key]) for key in _KEPT if key in first}
    return {**copy.deepcopy(part.dataset), 'metainfo': metainfo, **kept, **scope}


def _set_evaluators(half: Any, name: str, part: Part, data: OwnData, scope: Mapping[str, str]) -> None:
    if half.get(name) is None:
        return
    usual = dict(_EVALUATORS['coco' if data.type == 'voc' and data.metric == 'coco' else data.type])
    same = [each for each in evaluators_of(half, name) if name_of(each) == usual['type']]
    wanted = [{**usual, **each, **scope} for each in same] or [{**usual, **scope}]
    for evaluator in wanted:
        if usual['type'] == 'CocoMetric':
            # without a file it is computed from the boxes that come with the samples
            evaluator['ann_file'] = str(part.labels) if data.type == 'coco' else None
        if data.ignore_index != _IGNORED:
            evaluator['ignore_index'] = data.ignore_index
    half[name] = wanted if len(wanted) > 1 else wanted[0]


def _hand_boxes_on(dataset: Any) -> None:
    """Has a pipeline give the boxes of an image, in its own size, to evaluators that have no file of them."""
    for step in walk(dataset):
        if name_of(step) == 'PackDetInputs' and 'instances' not in step.get('meta_keys', ()):
            step['meta_keys'] = (*step.get('meta_keys', _META_KEYS), 'instances')


def _set_ignored(cfg: Config, index: int) -> None:
    """Has heads, padding and crops leave out the pixels whose value counts for nothing."""
    for model in models_of(cfg):
        for part in (part for key in ('decode_head', 'auxiliary_head') for part in _parts(model.get(key))):
            if index != _IGNORED or 'ignore_index' in part:
                part['ignore_index'] = index
        preprocessor = model.get('data_preprocessor')
        if isinstance(preprocessor, dict) and (index != _IGNORED or 'seg_pad_val' in preprocessor):
            preprocessor['seg_pad_val'] = index
    if index == _IGNORED:
        return
    for half in list_halves(cfg):
        for loader in LOADERS:
            for part in walk((half.get(loader) or {}).get('dataset')):
                kind = name_of(part)
                if kind in _IGNORING:
                    part[_IGNORING[kind]] = index
                elif kind == 'Pad':
                    given = part.get('pad_val', 0)
                    part['pad_val'] = {**(given if isinstance(given, dict) else {'img': given}), 'seg': index}


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    yield from (each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, dict))
