"""Weights of classes in losses: those of other classes than the data's are dropped."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmnas_ext.runs.halves import models_of, tell
from mmnas_ext.runs.sources import depth_of, is_said, list_sources, said_keys

_KEY = 'class_weight'
_PATHS: tuple[tuple[str, ...], ...] = (('data', 'classes'), ('classes',))
_MODELS: tuple[tuple[str, ...], ...] = (('model',), ('derived', 'model'))


def drop_weights(cfg: Config, given: Mapping[str, Any], count: int) -> None:
    """Drops the class weights that belong to the classes of a base, and keeps those that are said with the classes.

    Args:
        cfg: The config; changed.
        given: What a command line says of the variables, by dotted key.
        count: How many classes there are.

    Raises:
        ValueError: Weights that are said with the classes are not as many.
    """
    said = said_keys(cfg, _depth_of_classes(cfg, given))
    # changes that a host is given are of the model
    said += [('model', *keys[1:]) for keys in said if keys[0] == 'host' and len(keys) > 1]
    for model, root in zip((cfg.get('model'), (cfg.get('derived') or {}).get('model')), _MODELS, strict=True):
        for keys, part in _weighted(model, root) if model in models_of(cfg) else ():
            weights = part[_KEY]
            if not isinstance(weights, list | tuple) or _is_even(weights, count):
                continue
            if not is_said(keys, said):
                tell(_KEY, weights, 'none: they are those of other classes')
                part[_KEY] = None
            elif len(weights) not in (count, count + 1):
                raise ValueError(
                    f'{".".join(keys)} must have one weight for each of the {count} classes, got {len(weights)}'
                )


def _depth_of_classes(cfg: Config, given: Mapping[str, Any]) -> int:
    """How far the file is that says which classes there are; -1 where a command line says so."""
    begins = _first_depth(cfg)
    if begins < 0 and cfg.get('data') is not None:
        return -1
    sources = list(list_sources(cfg))
    depths = [each.depth for each in sources for path in _PATHS if is_said(path, list(each.said))]
    depths = [depth for depth in depths if begins < 0 or depth <= begins]  # a base's are those of its data
    if depths and any(key in given for key in ('data.classes', 'classes', 'data')):
        return -1
    return min(depths, default=begins)


def _first_depth(cfg: Config) -> int:
    """How far the file is in which ``data`` begins; -1 where there is none."""
    if depth_of(cfg, 'data') is None:
        return -1
    return max(source.depth for source in list_sources(cfg) if 'data' in source.assigned)


def _weighted(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yields what has class weights in a model, each with the keys of these."""
    if isinstance(value, dict):
        if value.get(_KEY) is not None:
            yield (*keys, _KEY), value
        for key, each in value.items():
            yield from _weighted(each, (*keys, str(key)))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _weighted(each, (*keys, str(number)))


def _is_even(weights: Any, count: int) -> bool:
    """Whether there are enough weights and no class weighs more than another; one more is that of the background."""
    return len(weights) in (count, count + 1) and len(set(weights[:count])) == 1
