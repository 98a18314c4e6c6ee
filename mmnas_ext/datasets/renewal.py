"""Datasets whose transforms begin anew: each reader of a dataset has transforms, and what they remember, of its own.

Transforms that cache images (MMDetection's ``CachedMosaic``, ``CachedMixUp``) remember what they have seen. Shared by
two readers they would carry images from one into the other, and a resumed run would miss what an earlier process has
put into them. So the transforms that a dataset was built with are never run: they are the originals, which hooks may
change or replace, and every reader runs a copy.
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from mmnas_ext.datasets.checked import CheckedPipeline

_T = TypeVar('_T')
_INNER = ('dataset', '_dataset')


def renewed(dataset: Any, num_classes: int | None = None, pipeline: Callable[[Any], Any] | None = None) -> Any:
    """Returns the dataset with copies of its transforms as they were built, and with errors that name the file.

    Annotations are shared. Wrappers are followed to the datasets inside them; whatever has neither transforms nor a
    dataset inside is returned itself. Transforms that a hook has set on a wrapper, which runs none, are those of the
    datasets inside.

    Args:
        dataset: Any dataset.
        num_classes: Classes that labels are checked against; by default as many as the dataset's ``metainfo`` names.
        pipeline: Transforms to copy instead of the dataset's.
    """
    if hasattr(type(dataset), 'renewed'):
        return dataset.renewed()
    held = getattr(dataset, '__dict__', {})
    inner = {key: held[key] for key in _INNER if _is_dataset(held.get(key))}
    several = held['datasets'] if isinstance(held.get('datasets'), (list, tuple)) else []
    changes: dict[str, Any] = {}
    if 'pipeline_types' in held:  # a MultiImageMixDataset has transforms beside those of the dataset inside
        changes['pipeline'] = copy.deepcopy(held['pipeline'], {id(dataset): dataset})
    elif callable(pipeline or held.get('pipeline')):
        pipeline = pipeline or held['pipeline']
        if not inner and not several:
            changes['pipeline'] = checked_copy(dataset, pipeline, num_classes)
    changes.update({key: renewed(each, num_classes, pipeline) for key, each in inner.items()})
    if several:
        changes['datasets'] = [renewed(each, num_classes, pipeline) for each in several]
    if not changes:
        return dataset
    made = shallow(dataset)
    made.__dict__.update(changes)
    return made


def checked_copy(leaf: Any, pipeline: Callable[[Any], Any], num_classes: int | None = None) -> CheckedPipeline:
    """Copies the transforms that a dataset runs, or that run in their place, and has their errors name the file.

    Args:
        leaf: The dataset whose annotations the transforms are given.
        pipeline: The transforms.
        num_classes: As in `renewed`.
    """
    names = (getattr(leaf, 'metainfo', None) or {}).get('classes')
    if num_classes is None and isinstance(names, (list, tuple)) and names:
        num_classes = len(names)
    copied = copy.deepcopy(pipeline, {id(leaf): leaf})
    shift = int(bool(getattr(leaf, 'reduce_zero_label', False)))
    return CheckedPipeline(copied, num_classes, getattr(leaf, 'ignore_index', 255), shift)


def originals(dataset: Any) -> list[Any]:
    """Lists the transforms that `renewed` copies: the same objects as long as no hook replaces one."""
    if hasattr(type(dataset), 'originals'):
        return list(dataset.originals())
    held = getattr(dataset, '__dict__', {})
    found = [] if held.get('pipeline') is None else [held['pipeline']]
    inner = [held[key] for key in _INNER if _is_dataset(held.get(key))]
    inner += held['datasets'] if isinstance(held.get('datasets'), (list, tuple)) else []
    return found + [pipeline for each in inner for pipeline in originals(each)]


def shallow(thing: _T) -> _T:
    """Copies an object but not what it holds, whatever its class makes of copying or of setting attributes."""
    made = object.__new__(type(thing))
    made.__dict__.update(thing.__dict__)
    return made


def _is_dataset(value: Any) -> bool:
    return hasattr(value, '__getitem__') and hasattr(value, '__len__') and hasattr(value, '__dict__')
