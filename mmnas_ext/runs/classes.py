"""Classes: whether names, annotations and heads of a config agree."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.registry import DATASETS
from torch import nn

from mmnas_ext.runs.changes import list_datasets
from mmnas_ext.runs.keys import near

# parts of a model whose number of classes is none of the dataset's
_NOT_HEADS = ('backbone', 'neck', 'data_preprocessor', 'rpn_head', 'semantic_head')
_SHOWN = 4


def check_names(cfg: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for a class name that a segmentation dataset's class does not know.

    Args:
        cfg: Config of a dataset.
        where: Its key, for the message.
    """
    for leaf in list_datasets(cfg):
        kind: Any = DATASETS.get(leaf['type']) if isinstance(leaf.get('type'), str) else leaf.get('type')
        known = list((getattr(kind, 'METAINFO', None) or {}).get('classes') or [])
        if not known or not hasattr(kind, 'get_label_map'):
            continue
        for name in (leaf.get('metainfo') or {}).get('classes') or []:
            if name not in known:
                raise ValueError(
                    f'{where}: class {name!r} is none of the {len(known)} of {kind.__name__}{_suggest(name, known)}'
                )


def check_classes(dataset: Any, where: str) -> None:
    """Raises ValueError for a class that the annotations of a COCO dataset do not have.

    MMDetection leaves such a class out, and numbers those that follow it otherwise.

    Args:
        dataset: A built dataset.
        where: Its key, for the message.
    """
    for leaf in _leaves(dataset):
        classes, found = list(leaf.metainfo.get('classes') or []), getattr(leaf, 'cat_ids', None)
        if found is None or len(found) >= len(classes):
            continue
        known = _categories(leaf.ann_file)
        unknown = [name for name in classes if name not in known]
        if unknown:
            none = 'no class of metainfo.classes' if len(unknown) == len(classes) else f'no class {unknown[0]!r}'
            raise ValueError(f'{where}: {leaf.ann_file} has {none}{_suggest(unknown[0], known)}')


def check_heads(model: nn.Module, datasets: Mapping[str, Any], where: str = '') -> None:
    """Raises ValueError where heads and datasets differ in classes.

    Args:
        model: A built model.
        datasets: Datasets by ``'train'``, ``'val'`` and ``'test'``; those without named classes do not count.
        where: Stands before keys of the config in messages.
    """
    named = {name: list(each.metainfo['classes']) for name, each in datasets.items() if _has_classes(each)}
    if not named:
        return
    first = next(iter(named))
    for name, classes in named.items():
        if classes != named[first]:
            raise ValueError(
                f'{where}{first}_dataloader and {name}_dataloader must have the same classes in the same order, got '
                f'{_show(named[first])} and {_show(classes)}: set metainfo.classes of both'
            )
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        if isinstance(count, bool) or not isinstance(count, int) or not set(name.split('.')).isdisjoint(_NOT_HEADS):
            continue
        if name and count != len(named[first]) and not _is_loss(name):
            raise ValueError(
                f'{where}model.{name} has num_classes={count}, and {first}_dataloader.dataset has '
                f'{_show(named[first])}: set num_classes={len(named[first])}, or metainfo.classes of the datasets'
            )


def _is_loss(name: str) -> bool:
    return any(part.startswith('loss') for part in name.split('.'))


def _has_classes(dataset: Any) -> bool:
    return bool((getattr(dataset, 'metainfo', None) or {}).get('classes'))


def _leaves(dataset: Any) -> Iterator[Any]:
    inside = [*getattr(dataset, 'datasets', []), *([dataset.dataset] if hasattr(dataset, 'dataset') else [])]
    if not inside:
        yield dataset
    for each in inside:
        yield from _leaves(each)


def _categories(file: str) -> list[str]:
    """Names of the categories in an annotation file; read again, since the dataset has let go of them."""
    with open(file, encoding='utf-8') as stream:
        return [category['name'] for category in json.load(stream)['categories']]


def _suggest(name: str, known: list[str]) -> str:
    return near(name, known) or f': it has {_show(known)}'


def _show(classes: list[str]) -> str:
    more = f', … ({len(classes)} in all)' if len(classes) > _SHOWN else ''
    return ', '.join(map(repr, classes[:_SHOWN])) + more
