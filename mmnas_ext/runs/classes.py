"""Classes: whether names, annotations and heads of a config agree."""

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch import nn

from mmnas_ext.datasets.identity import list_datasets
from mmnas_ext.registry import class_of
from mmnas_ext.runs.keys import near

# parts of a model whose number of classes is none of the dataset's
_NOT_HEADS = ('backbone', 'neck', 'data_preprocessor', 'rpn_head', 'semantic_head')
_BOUNDARIES = 'STDCHead'  # a head of MMSegmentation that finds boundaries, whatever the classes
_SHOWN = 4
_FILES = 20_000  # XML files that are looked through for a class


def check_names(cfg: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for a class name that a segmentation dataset's class does not know.

    Args:
        cfg: Config of a dataset.
        where: Its key, for the message.
    """
    for leaf in list_datasets(cfg):
        kind: Any = class_of(DATASETS, leaf.get('type'))
        known = list((getattr(kind, 'METAINFO', None) or {}).get('classes') or [])
        if not known or not hasattr(kind, 'get_label_map'):
            continue
        for name in (leaf.get('metainfo') or {}).get('classes') or []:
            if name not in known:
                raise ValueError(
                    f'{where}: class {name!r} is none of the {len(known)} of {kind.__name__}{_suggest(name, known)}'
                )


def check_classes(dataset: Any, where: str) -> None:
    """Compares the class names of COCO and of XML datasets with those of their annotations.

    MMDetection leaves out a class that annotations do not have: those that follow it in COCO's are numbered otherwise,
    and a misspelt one is never learnt. In XML files no list says which classes there are, so one that they lack is an
    error only if they have another, unused name that is near to it; otherwise it is warned of.

    Args:
        dataset: A built dataset.
        where: Its key, for the message.

    Raises:
        ValueError: Annotations lack a class, or have it by another name.
    """
    for leaf in _leaves(dataset):
        classes, found = list((getattr(leaf, 'metainfo', None) or {}).get('classes') or []), _known(leaf)
        if found is None:
            continue
        known, listed = found
        unknown = [name for name in classes if name not in known]
        if not unknown:
            continue
        if len(unknown) == len(classes) and known:
            hint = next(filter(None, (near(name, known) for name in unknown)), '').replace(':', ';', 1)
            raise ValueError(f'{where}: {leaf.ann_file} has no class of metainfo.classes: it has {_show(known)}{hint}')
        unused = [name for name in known if name not in classes]
        name = unknown[0] if listed else next((each for each in unknown if near(each, unused)), None)
        if name is not None:
            raise ValueError(
                f'{where}: {leaf.ann_file} has no class {name!r}{_suggest(name, known if listed else unused)}'
            )
        print_log(
            f'{where}: no image of {leaf.ann_file} has an object of {_show(unknown)}',
            logger='current',
            level=logging.WARNING,
        )


def check_empty(cfg: Mapping[str, Any], where: str) -> None:
    """Raises ValueError where class names are why a dataset has no image; call it in the config's scope.

    Args:
        cfg: Config of a dataset that filters leave nothing of.
        where: Its key, for the message.
    """
    for leaf in list_datasets(cfg):
        try:
            dataset = DATASETS.build({**copy.deepcopy(dict(leaf)), 'lazy_init': True})
            dataset.load_data_list()
        except Exception:  # whatever else it is, its images are missing for another reason
            continue
        check_classes(dataset, where)


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
        if any(each.__name__ == _BOUNDARIES for each in type(module).__mro__):
            continue
        if name and count != len(named[first]) and not _is_loss(name):
            raise ValueError(
                f'{where}model.{name} has num_classes={count}, and {first}_dataloader.dataset has '
                f'{_show(named[first])}: set num_classes={len(named[first])}, or metainfo.classes of the datasets'
            )


def check_ignored(model: nn.Module, dataset: Any, cfg: Mapping[str, Any], where: str) -> None:
    """Raises ValueError where a head or its loss trains on the label by which a dataset says that there is none.

    Args:
        model: A built model.
        dataset: What it is trained on; one without ``ignore_index`` has no such label.
        cfg: The model's config: its heads are named by their keys in it.
        where: Stands before keys of the config in messages.
    """
    labels = {each.ignore_index for each in _leaves(dataset) if _is_index(getattr(each, 'ignore_index', None))}
    if not labels:
        return
    for name, module in model.named_modules():
        given = getattr(module, 'ignore_index', None)
        if name.partition('.')[0] not in cfg or not _is_index(given) or {given} == labels:
            continue
        if type(module).__name__ == 'DiceLoss':  # names a class by it, and counts no pixel without a label
            continue
        theirs = ', '.join(map(str, sorted(labels)))
        raise ValueError(
            f'{where}model.{name} has ignore_index={given}, and train_dataloader.dataset has ignore_index={theirs}: '
            'pixels without a label would be trained on; give both the same'
        )


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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


def _known(leaf: Any) -> tuple[list[str], bool] | None:
    """Class names of a dataset's annotations, and whether these list them; ``None`` if it is not known."""
    classes, ids = (getattr(leaf, 'metainfo', None) or {}).get('classes') or [], getattr(leaf, 'cat_ids', None)
    if ids is not None:
        return None if len(ids) >= len(classes) else (_categories(leaf.ann_file), True)
    if not hasattr(leaf, 'ann_subdir') or not classes or not Path(leaf.ann_file).is_file():
        return None
    return _objects(leaf, set(classes)), False


def _categories(file: str) -> list[str]:
    """Names of the categories in an annotation file; read again, since the dataset has let go of them."""
    with open(file, encoding='utf-8') as stream:
        return [category['name'] for category in json.load(stream)['categories']]


def _objects(leaf: Any, classes: set[str]) -> list[str]:
    """Names of the objects in an XML dataset's files, of which none is read once all classes are found."""
    found: dict[str, None] = {}
    folder = Path(leaf.sub_data_root, leaf.ann_subdir)
    for line in Path(leaf.ann_file).read_text(encoding='utf-8').splitlines()[:_FILES]:
        path = folder / f'{line.strip()}.xml'
        if not path.is_file():
            continue
        found.update({each.text or '': None for each in ElementTree.parse(path).iterfind('object/name')})
        if classes <= found.keys():
            break
    return list(found)


def _suggest(name: str, known: list[str]) -> str:
    return near(name, known) or f': it has {_show(known)}'


def _show(classes: list[str]) -> str:
    more = f', … ({len(classes)} in all)' if len(classes) > _SHOWN else ''
    return ', '.join(map(repr, classes[:_SHOWN])) + more
