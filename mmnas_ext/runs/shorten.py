"""A training made shorter: fewer epochs or iterations, the whole of its schedules, hooks that count to scale."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmnas_ext.registry import name_of
from mmnas_ext.runs.halves import walk

LENGTHS = ('max_epochs', 'max_iters')
# what hooks of MMEngine and its hosts do once: exchange transforms or losses, begin to average, warm up
_MOMENTS = ('switch_epoch', 'switch_iter', 'action_epoch', 'begin_epoch', 'begin_iter', 'warmup_epochs', 'warmup_iters')
_LAST = ('num_last_epochs', 'num_last_iters')
_USUAL_HOOK = 'ParamSchedulerHook'


def length_of(loop: Mapping[str, Any]) -> tuple[str, int] | None:
    """Which of `LENGTHS` says how long a loop trains, and its number; ``None`` where neither does."""
    for key in LENGTHS:
        value = loop.get(key)
        if not isinstance(value, bool) and isinstance(value, int | float) and value == int(value) > 0:
            return key, int(value)
    return None


def shorten(cfg: Config, share: float) -> float:
    """Makes a training shorter; at least one epoch or iteration is left.

    Its schedules are gone through as a whole (`mmnas_ext.engine.pace`), and hooks that do something once do it at the
    same share of the way.

    Args:
        cfg: The config; changed.
        share: Of its length.

    Returns:
        The share that it was made, in whole epochs or iterations.

    Raises:
        ValueError: The loop does not say how long it trains, or a schedule cannot be gone through faster.
    """
    found = length_of(cfg.train_cfg)
    if found is None:
        raise ValueError(
            f'derived.train_cfg must say how long it trains, by one of {LENGTHS}, to be made shorter, got '
            f'{dict(cfg.train_cfg)}'
        )
    key, whole = found
    brief = max(1, round(share * whole))
    cfg.train_cfg[key] = brief
    made = brief / whole
    for schedule in _schedules(cfg.get('param_scheduler')):
        _keep_whole(schedule, key, whole)
    hooks = dict(cfg.get('default_hooks') or {})
    given = hooks.get('param_scheduler', {})
    if given is not None:
        if name_of(given) not in ('', _USUAL_HOOK):
            raise ValueError(
                f'derived.default_hooks.param_scheduler must be a {_USUAL_HOOK} in a training that is made shorter, '
                f'got {name_of(given)!r}'
            )
        paced = dict(type='mmnas_ext.PacedScheduleHook', whole=whole, brief=brief)
        cfg.default_hooks = {**hooks, 'param_scheduler': paced}
    for part in walk([cfg.get('custom_hooks') or [], cfg.get('default_hooks') or {}]):
        for name in (*_MOMENTS, *_LAST):
            moment = part.get(name)
            if isinstance(moment, int) and not isinstance(moment, bool):
                part[name] = _scaled(moment, made, whole, brief, name in _LAST)
    return made


def _scaled(moment: int, made: float, whole: int, brief: int, last: bool) -> int:
    """A moment at the same share of the way; one that lies within the whole training lies within the shorter one."""
    if last:
        return max(1, round(made * moment)) if moment > 0 else moment
    within = brief - 1 if moment < whole else round(made * moment)
    return min(round(made * moment), within)


def _schedules(given: Any) -> Iterator[dict[str, Any]]:
    """Yields the schedules of a config: one, a list, or those of several optimizers by name."""
    if isinstance(given, list | tuple):
        for each in given:
            yield from _schedules(each)
    elif isinstance(given, dict):
        if 'type' in given:
            yield given
        else:
            yield from _schedules(list(given.values()))


def _keep_whole(schedule: dict[str, Any], key: str, whole: int) -> None:
    """Says when a schedule ends that ends with the training: MMEngine would take the shorter one's end for it."""
    name = name_of(schedule)
    if 'ReduceOnPlateau' in name:
        raise ValueError(
            f'derived.param_scheduler: {name} waits for validations, and a training that is made shorter is validated '
            'at its end alone: take another schedule, or leave selection.adapt out'
        )
    if schedule.get('end') is not None:
        return
    if schedule.get('by_epoch', True) != (key == LENGTHS[0]):
        raise ValueError(
            f'derived.param_scheduler: {name} must say its end, since it counts otherwise than {key} does and the '
            'training is made shorter'
        )
    schedule['end'] = whole
