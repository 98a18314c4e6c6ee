"""Transforms that differ from the dataset's: some are left out in a half of a search, or a hook exchanges them."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import Hook

from mmnas_ext.registry import name_of

_LEAVE_OUT = 'leave_out'
_INNER = ('dataset', 'datasets')


def without_left_out(pipelines: Any, dataset: Any) -> Any:
    """Replaces each ``dict(leave_out=[types])`` of ``train_cfg.pipelines`` by the dataset's transforms without those.

    So a half follows the dataset's pipeline, whichever config sets it.

    Args:
        pipelines: ``dict(weights=…, arch=…)`` or ``None``; what is not of this form is kept. Left as it is.
        dataset: Config of the dataset, or of wrappers around one or several.

    Raises:
        TypeError: `leave_out` is not a list of names.
        ValueError: There is another key beside it, the datasets inside have different pipelines, or no transform of
            that type.
    """
    if not isinstance(pipelines, Mapping):
        return pipelines
    return {half: _reduced(half, given, dataset) for half, given in pipelines.items()}


class InnerPipelineHook(Hook):
    """Gives the datasets inside wrappers the transforms that another hook has set on the wrapper.

    MMDetection's ``PipelineSwitchHook`` sets ``pipeline`` of the loader's dataset. A ``RepeatDataset`` or
    ``ConcatDataset`` runs none, so its images would stay as they were. The halves of a search, and datasets that mix
    images, do as they are told themselves.
    """

    priority = 'LOW'  # after hooks that switch, before `ReseedHook`, which copies what is there

    def before_train_epoch(self, runner: Any) -> None:
        """Looks whether there are such transforms."""
        _hand_down(getattr(getattr(runner.train_loop, 'dataloader', None), 'dataset', None), None)


def _hand_down(dataset: Any, pipeline: Any) -> None:
    held = getattr(dataset, '__dict__', {})
    inside = [held[key] for key in _INNER if key in held]
    if hasattr(type(dataset), 'renewed') or 'pipeline_types' in held:
        return
    if inside:
        pipeline = pipeline or held.get('pipeline')
        for each in inside:
            for inner in each if isinstance(each, list | tuple) else [each]:
                _hand_down(inner, pipeline)
    elif callable(pipeline) and 'pipeline' in held:
        dataset.pipeline = pipeline


def _reduced(half: str, given: Any, dataset: Any) -> Any:
    place = f'train_cfg.pipelines.{half}'
    if not isinstance(given, Mapping) or _LEAVE_OUT not in given:
        return given
    names = given[_LEAVE_OUT]
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f'{place}.leave_out must be a list of types of transforms, got {str(names)[:80]}')
    if len(given) > 1:
        raise ValueError(f'{place} must have leave_out alone or be a list of transforms, got {sorted(given)}')
    found = list(_pipelines(dataset))
    if not found or any(pipeline != found[0] for pipeline in found):
        raise ValueError(
            f'{place}.leave_out needs datasets of one pipeline, got {len(found)}: list the transforms of the half'
        )
    types = [_type(step) for step in found[0]]
    missing = [name for name in names if name not in types]
    if missing:
        raise ValueError(
            f'{place}.leave_out names {missing}, but train_dataloader.dataset.pipeline has {types}: name those of them '
            'that this half shall not have, or set train_cfg.pipelines=None'
        )
    return [copy.deepcopy(step) for step, kind in zip(found[0], types, strict=True) if kind not in names]


def _pipelines(dataset: Any) -> Iterator[list[Any]]:
    """Yields the pipelines of a dataset's config and of those inside it."""
    if isinstance(dataset, list | tuple):
        for each in dataset:
            yield from _pipelines(each)
    elif isinstance(dataset, Mapping):
        if dataset.get('pipeline'):
            yield list(dataset['pipeline'])
        for key in _INNER:
            yield from _pipelines(dataset.get(key))


def _type(step: Any) -> str:
    """Name of a transform's type, without its scope."""
    return name_of(step) if isinstance(step, Mapping) else type(step).__name__
