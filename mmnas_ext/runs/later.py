"""Values of what a run builds later: schedules, loops, hooks and metrics, met before its first step."""

import copy
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS, LOOPS, METRICS, PARAM_SCHEDULERS, Registry

from mmnas_ext.runs.keys import describe_hint, fits, hints_of, near, own_name, takes
from mmnas_ext.runs.prepared import scope_of

# whose classes mean a number where their default is one
_STRICT = ('torch', 'mmengine')
# lengths that a loop counts in, which are at least 1
_LENGTHS = ('max_epochs', 'max_iters', 'val_interval')
_RUNNERS = {HOOKS: ('priority',), PARAM_SCHEDULERS: ('convert_to_iter_based',)}
_IOU = {'mIoU': ('mIoU', 'mAcc'), 'mDice': ('mDice', 'mAcc'), 'mFscore': ('mFscore', 'mPrecision', 'mRecall')}
_COCO_BOXES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
_COCO_PROPOSALS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')
# where metrics write: a check leaves nothing there
_OUTPUTS = ('output_dir', 'outfile_prefix')


def list_later(cfg: Config) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields dotted keys of what a runner builds later, each with a function that raises where it could not.

    Call both in the config's scope. Schedules are `list_schedules`.

    Args:
        cfg: Config of a part of a run.
    """
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        yield f'custom_hooks.{i}', partial(_check_hook, hook)
    for name, hook in (cfg.get('default_hooks') or {}).items():
        yield f'default_hooks.{name}', partial(_check_hook, hook)
    for name in ('train_cfg', 'val_cfg', 'test_cfg'):
        yield name, partial(_check_loop, cfg.get(name))
    for name in ('val_evaluator', 'test_evaluator'):
        for i, metric in enumerate(_listed(cfg.get(name))):
            yield f'{name}.{i}', partial(_check_metric, metric)
    yield from _list_monitored(cfg)


def list_schedules(cfg: Config, wrapper: Any, images: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields dotted keys of schedules, each with a function that builds it, as `list_later` does.

    Args:
        cfg: Config of a part of a run.
        wrapper: The optimizer wrapper whose rates are scheduled, which is used up; ``None`` for none.
        images: In the dataset of the training.
    """
    for i, each in enumerate(_listed(cfg.get('param_scheduler'))):
        yield f'param_scheduler.{i}', partial(_check_schedule, each, cfg, wrapper, images)


def check_optimizer(wrapper: Mapping[str, Any], where: str = '') -> None:
    """Raises ValueError for a number of an optimizer, or its wrapper, that is none or out of its range."""
    optimizer = wrapper.get('optimizer')
    kind = optimizer.get('type') if isinstance(optimizer, Mapping) else None
    if isinstance(optimizer, Mapping) and kind is not None:
        check_numbers(find(mmengine.registry.OPTIMIZERS, kind), optimizer, f'{where}optimizer.')
    count = wrapper.get('accumulative_counts', 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f'{where}accumulative_counts must be a positive integer, got {count!r:.60}')


def check_numbers(kind: Any, given: Mapping[str, Any], where: str = '') -> None:
    """Raises ValueError for a text, or a mapping, where a class wants a number.

    Args:
        kind: The class; of a function nothing is known.
        given: Its arguments.
        where: Dotted key of these, for the message.
    """
    if not inspect.isclass(kind):
        return
    hints, _ = hints_of(kind)
    defaults = _defaults(kind)
    for name, value in given.items():
        hint, default = hints.get(name, Any), defaults.get(name)
        means = isinstance(default, int | float) and not isinstance(default, bool)
        known = hint is not Any or kind.__module__.partition('.')[0] in _STRICT
        if not isinstance(value, str | Mapping) or not known or not (means or hint in (int, float)):
            continue
        if hint is Any or not fits(value, hint):
            wanted = describe_hint(hint if hint in (int, float) else float)
            raise ValueError(f'{where}{name} must be {wanted}, got {value!r:.60}')


def find(registry: Registry, kind: Any, scope: str | None = None) -> Any:
    """What a registry has under a type's name, of a scope, else the default one; raises MMEngine's KeyError for none.

    The scope is that of a config's ``_scope_``, which MMEngine writes into what is inherited from a host.
    """
    with registry.switch_scope_and_registry(scope) as scoped:
        found = scoped.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise KeyError(f'{kind} is not in the ::{registry.name} registry')
    return found


def prefix_of(metric: Mapping[str, Any]) -> str | None:
    """What stands before the slash in a metric's results, '' for nothing; ``None`` where it cannot be known."""
    if metric.get('prefix'):
        return str(metric['prefix'])
    try:
        kind = find(METRICS, metric.get('type'), metric.get('_scope_'))
    except KeyError:
        return None
    return getattr(kind, 'default_prefix', None) or '' if inspect.isclass(kind) else None


def check_ranking(cfg: Config, rank_by: str, where: str) -> None:
    """Raises ValueError for a metric that ranks networks and that no validation of a config gives, as far as is known.

    Args:
        cfg: The config that validates.
        rank_by: Name of the metric, as MMEngine reports it.
        where: The key that says so.
    """
    with scope_of(cfg):
        prefixes = [prefix_of(evaluator) for evaluator in _listed(cfg.get('val_evaluator'))]
    if None not in prefixes and rank_by.rpartition('/')[0] not in prefixes:
        names = [f"'{prefix}/…'" if prefix else 'no prefix' for prefix in prefixes]
        raise ValueError(
            f'{where} must be a metric that val_evaluator gives (with {", ".join(names) or "none"}), got {rank_by!r}'
        )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _bound(registry: Registry, part: Any) -> tuple[Any, dict[str, Any]]:
    """The class of a part of a config and its arguments; ``None`` where it names none."""
    if not isinstance(part, Mapping) or part.get('type') is None:
        return None, {}
    given = {name: value for name, value in part.items() if name not in _RUNNERS.get(registry, ())}
    kind = find(registry, part['type'], part.get('_scope_'))
    takes(kind, list(given))
    check_numbers(kind, given)
    return kind, given


def _check_hook(hook: Any) -> None:
    kind, given = _bound(HOOKS, hook)
    if kind is None:
        return
    if own_name(kind):
        HOOKS.build(copy.deepcopy(given))  # ours look at the values themselves
    interval = given.get('interval', -1)
    if getattr(kind, '__name__', '') == 'CheckpointHook' and (interval != -1 and not _is_length(interval)):
        raise ValueError(f'interval must be a positive integer, or -1 for never, got {interval!r:.60}')


def _check_loop(loop: Any) -> None:
    for name in _LENGTHS if isinstance(loop, Mapping) else ():
        if loop.get(name) is not None and not _is_length(loop[name]):
            raise ValueError(f'{name} must be a positive integer, got {loop[name]!r:.60}')
    _bound(LOOPS, loop)


def _is_length(value: Any) -> bool:
    """Whether MMEngine counts to a number: it takes 1e3 and infinity as well."""
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return whole and value >= 1 and (math.isinf(value) or value == int(value))


def _check_schedule(schedule: Any, cfg: Config, wrapper: Any, images: int) -> None:
    kind, given = _bound(PARAM_SCHEDULERS, schedule)
    if isinstance(wrapper, OptimWrapperDict):  # its optimizers have the same schedule each
        wrapper = next(iter(wrapper.values()))
    if kind is None or not isinstance(wrapper, OptimWrapper):
        return
    loop, length = cfg.get('train_cfg') or {}, _epoch_length(cfg, images)
    epochs, iterations = loop.get('max_epochs'), loop.get('max_iters')
    by_epoch = given.get('by_epoch', True)
    whole = dict(copy.deepcopy(given), **{key: schedule[key] for key in _RUNNERS[PARAM_SCHEDULERS] if key in schedule})
    end = (epochs or 1) if by_epoch else iterations or (epochs or 1) * length
    whole.setdefault('end', int(end))
    PARAM_SCHEDULERS.build(whole, default_args=dict(optimizer=wrapper, epoch_length=length))


def _epoch_length(cfg: Config, images: int) -> int:
    """Batches of an epoch, of a search those for weights."""
    loop, loader = cfg.get('train_cfg') or {}, cfg.get('train_dataloader') or {}
    if loader.get('num_batch_per_epoch') is not None:
        return int(loader['num_batch_per_epoch'])
    share = loop.get('weight_fraction', 0.5) if own_name(loop.get('type')).startswith('Search') else 1
    size = loader.get('batch_size')
    per_step = (size if isinstance(size, int) and size > 0 else 1) * get_world_size()
    return max(1, math.ceil(round(share * images) / per_step))


def _check_metric(metric: Any) -> None:
    kind, given = _bound(METRICS, metric)
    if kind is None:
        return
    given = copy.deepcopy(given)
    if given.get('ann_file') is not None:
        given['ann_file'] = None  # it has been looked for, and takes seconds to read
    with TemporaryDirectory() as folder, quiet(logging.WARNING):  # the run itself will give its warnings
        given.update({key: f'{folder}/{key}' for key in _OUTPUTS if given.get(key) is not None})
        METRICS.build(given)
    unknown = sorted(set(_listed(given.get('iou_metrics'))) - {*_IOU}) if _is_named(kind, 'mmseg', 'IoUMetric') else []
    if unknown:
        raise ValueError(f'iou_metrics must be of {tuple(_IOU)}, got {unknown[0]!r}{near(unknown[0], tuple(_IOU))}')


def _list_monitored(cfg: Config) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields the keys that name a result of the validation."""
    hooks = {f'default_hooks.{name}': hook for name, hook in (cfg.get('default_hooks') or {}).items()}
    hooks |= {f'custom_hooks.{i}': hook for i, hook in enumerate(cfg.get('custom_hooks') or [])}
    metrics = [metric for metric in _listed(cfg.get('val_evaluator')) if isinstance(metric, Mapping)]
    if not metrics or not all(metric.get('type') for metric in metrics):
        return
    for place, hook in hooks.items():
        for name in ('save_best', 'monitor') if isinstance(hook, Mapping) else ():
            for wanted in _listed(hook.get(name)):
                if isinstance(wanted, str) and wanted != 'auto':
                    yield f'{place}.{name}', partial(_check_monitored, wanted, metrics)


def _check_monitored(wanted: str, metrics: Sequence[Mapping[str, Any]]) -> None:
    prefixes = [prefix_of(metric) for metric in metrics]
    names: list[str] = []
    for metric, prefix in zip(metrics, prefixes, strict=True):
        given = _results(metric)
        if prefix is None or (given is None and wanted.rpartition('/')[0] == prefix):
            return  # it may give anything
        names += [f'{prefix}/{name}' if prefix else name for name in given or ()]
    if wanted not in names:
        said = f', such as {names[0]}' if names else f' (with {", ".join(f"{each}/…" for each in prefixes if each)})'
        raise ValueError(f'{wanted!r} is no metric that val_evaluator gives{said}{near(wanted, names)}')


def _results(metric: Mapping[str, Any]) -> list[str] | None:
    """Names of all that a metric gives; ``None`` where only its evaluation tells."""
    kind = find(METRICS, metric.get('type'), metric.get('_scope_'))
    if _is_named(kind, 'mmseg', 'IoUMetric'):
        return ['aAcc', *(name for each in _listed(metric.get('iou_metrics', 'mIoU')) for name in _IOU.get(each, ()))]
    if not _is_named(kind, 'mmdet', 'CocoMetric') or metric.get('classwise'):
        return None
    names: list[str] = []
    for each in _listed(metric.get('metric', 'bbox')):
        if each == 'proposal_fast':
            return None
        chosen = _listed(metric.get('metric_items'))
        if each == 'proposal':
            names += chosen or _COCO_PROPOSALS
        else:
            names += [f'{each}_{item}' for item in chosen or _COCO_BOXES]
    return names


def _is_named(kind: Any, package: str, name: str) -> bool:
    return getattr(kind, '__module__', '').partition('.')[0] == package and getattr(kind, '__name__', '') == name


def _defaults(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in kind.__mro__:
        begin = vars(each).get('__init__')
        if begin is not None and each is not object:
            for parameter in inspect.signature(begin).parameters.values():
                found.setdefault(parameter.name, parameter.default)
    return found


@contextmanager
def quiet(level: int = logging.INFO) -> Iterator[None]:
    """Keeps what is logged up to a level out of the log, by default what hosts tell of every module."""
    before = logging.root.manager.disable
    _disable(level)
    try:
        yield
    finally:
        _disable(before)


def _disable(level: int) -> None:
    logging.disable(level)
    for logger in MMLogger._instance_dict.values():  # which logging does not know of: they keep what it was
        logger._cache.clear()
