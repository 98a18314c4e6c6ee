"""Another detector or segmentor in one variable: ``host = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'``.

Neck, heads and losses are that config's, the backbone and the training are the search's, and channels are wired from
the backbone. Applied when a config is used (`mmnas_ext.runs.resolve`).
"""

import copy
import difflib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmnas_ext.backbones import backbone_spec
from mmnas_ext.registry import name_of
from mmnas_ext.runs.fitting import channels_of, pick_outputs, rewire
from mmnas_ext.runs.halves import LOADERS, backbones_of, host_of, models_of, package_of, plain, tell, walk
from mmnas_ext.runs.sources import depth_of, list_sources, said_keys

_EXAMPLE = "'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'"
# of a preprocessor what the seed, the images and the training decide, not the host
_OURS = ('type', 'mean', 'std', 'bgr_to_rgb', 'rgb_to_bgr', 'size', 'size_divisor', 'batch_augments')
_DEFAULT_FEATURES = 4
_SHARED = ('backbone', 'data_preprocessor')  # of a model, what stays beside a host
_ABOUT = ('config', 'strides')  # of ``host``, what is no change of the model
_SYNCED = 'SyncBN'
# backbones that end in what makes their model: without them a head of any other is left
_WHOLE = ('BiSeNetV1', 'BiSeNetV2', 'CGNet', 'ERFNet', 'FastSCNN', 'ICNet', 'STDCContextPathNet', 'UNet')


def check_host(value: Any) -> None:
    """Raises ValueError for a value of ``host`` that names no config, or strides that are none."""
    named = value.get('config') if isinstance(value, Mapping) else value
    if not isinstance(named, str) or not named.endswith('.py'):
        raise ValueError(
            f"host must name a config, such as {_EXAMPLE}, or be a dict(config='…', …) with changes of its model, got "
            f'{value!r:.80}'
        )
    strides = value.get('strides') if isinstance(value, Mapping) else None
    numbers = list(strides) if isinstance(strides, list | tuple) and all(type(each) is int for each in strides) else []
    if strides is not None and (not numbers or numbers != sorted({*numbers})):
        raise ValueError(f'host.strides must be rising numbers, of the features to read, got {strides!r:.80}')


def apply_host(cfg: Config, value: Any) -> bool:
    """Puts the model of another config around the backbone of a config; returns whether there is one of ours.

    Args:
        cfg: The config; changed.
        value: Its ``host``: a config's name, or a dict with that as ``config``, the ``strides`` of the features to read
            (before ``output_stride`` dilates them) where these are not the coarsest ones, and changes of its model.

    Raises:
        FileNotFoundError: There is no such config; the message has near names.
        ValueError: It is of another host, has no model with a backbone, needs what the config does not load, or takes
            the place of what the config's own file says of its model.
    """
    model = cfg.get('model') or {}
    spec = backbone_spec(model.get('backbone') or {}, host_of(cfg))
    if spec is None:
        return False
    said: Any = value if isinstance(value, Mapping) else {'config': value}
    changes, name = {key: each for key, each in said.items() if key not in _ABOUT}, said['config']
    theirs = Config.fromfile(_find(cfg, name))
    if not isinstance((theirs.get('model') or {}).get('backbone'), Mapping):
        raise ValueError(f'host must describe a model with a backbone, and {name} has none')
    whole = name_of(theirs.model.backbone)
    if whole in _WHOLE:
        raise ValueError(
            f'host must be a model with any backbone: of {name} the backbone {whole} is replaced, which has in it what '
            f'makes it that model; take another host'
        )
    scope, other = host_of(cfg), theirs.get('default_scope')
    if other not in (None, scope):
        raise ValueError(f'host must be a config of {scope}, as this one, and {name} is of {other}')
    host = theirs.model.to_dict()
    count = _count_features(host)
    host.pop('pretrained', None)  # weights of the backbone that was there
    former = max((part['num_classes'] for part in walk(model) if isinstance(part.get('num_classes'), int)), default=0)
    host.update(backbone=model['backbone'], data_preprocessor=_preprocessor(host, model))
    if 'decode_head' in host:  # how images are cut is a matter of their size
        host.update({key: copy.deepcopy(model[key]) for key in ('train_cfg', 'test_cfg') if key in model})
    if cfg.get('default_scope') != scope:
        host['_scope_'] = scope  # where its parts are looked for
    merged = Config(dict(model=host))
    try:
        merged.merge_from_dict(dict(model=copy.deepcopy(changes)))
    except (TypeError, KeyError) as error:
        raise ValueError(
            "host has changes of its model that cannot be merged, one of a list is named by its number, neck={'0': …}: "
            f'{error}'
        ) from None
    _settle_norms(cfg, merged.model)
    _keep_classes(merged.model, former)
    _check_loaded(cfg, merged.model, name)
    _check_unsaid(cfg, merged.model, name)
    tell('model', model.get('type'), merged.model.get('type'))
    cfg.model = merged.model
    outputs = pick_outputs(spec, count, said.get('strides') or _finest(cfg.model))
    for backbone in backbones_of(cfg):
        if backbone is cfg.model.backbone or 'out_indices' in backbone:
            backbone['out_indices'] = outputs
    rewire(cfg.model, channels_of(cfg.model.backbone, spec))
    return True


def mend_heads(cfg: Config) -> None:
    """Exchanges MMDetection's SSD heads, in both halves, for the same that predict: see `mmnas_ext.hosts.ssd.SSDHead`.

    Theirs trains, and ends the first validation with an AttributeError.
    """
    for model in models_of(cfg) if cfg.get('default_scope') == 'mmdet' else ():
        for part in walk(model.get('bbox_head')):
            if name_of(part) == 'SSDHead' and package_of(part) in ('SSDHead', 'mmdet'):
                part['type'] = 'mmnas_ext.SSDHead'


def _find(cfg: Config, name: str) -> Path:
    """The file of a config, of a package or beside the config that names it."""
    package, _, inside = name.rpartition('::')
    if package:
        found = importlib.util.find_spec(package)
        places = list(found.submodule_search_locations or []) if found else []
        roots = [Path(place, below, 'configs') for place in places for below in ('.mim', '..')]
        if not roots:
            raise FileNotFoundError(f'host {name}: there is no package {package}')
    else:
        inside, roots = name, [Path(str(getattr(cfg, 'filename', None) or '.')).parent, Path()]
    files = [root / inside for root in roots]
    for file in files:
        if file.is_file():
            return file
    names = [each.relative_to(roots[0]).as_posix() for each in files[0].parent.glob('*.py')]
    near = difflib.get_close_matches(inside, names, 1, 0.0)
    prefix = f'{package}::' if package else ''
    raise FileNotFoundError(
        f'host {name} does not exist' + (f': did you mean {prefix}{near[0]}?' if near else f': looked for {files[0]}')
    )


def _count_features(host: Mapping[str, Any]) -> int:
    """How many features of its backbone a model reads, or counts from."""
    neck = host.get('neck')
    first: Any = neck[0] if isinstance(neck, list | tuple) and neck else neck
    if isinstance(first, Mapping) and isinstance(first.get('in_channels'), list | tuple):
        return len(first['in_channels'])
    outputs = host['backbone'].get('out_indices')
    if outputs is None:
        return _DEFAULT_FEATURES
    return len(outputs) if isinstance(outputs, list | tuple) else 1


def _finest(model: Any) -> int | None:
    """Stride of the finest feature that an SSD has anchors for: its neck makes the coarser ones by fixed strides."""
    necks = [part for part in walk(model.get('neck')) if name_of(part) == 'SSDNeck']
    strides = [part['strides'][0] for part in walk(model.get('bbox_head')) if part.get('strides')] if necks else []
    return next(iter(strides), None)


def _preprocessor(host: Mapping[str, Any], model: Mapping[str, Any]) -> ConfigDict:
    """The preprocessor: what the seed was trained with, and how the host pads."""
    theirs = {key: value for key, value in (host.get('data_preprocessor') or {}).items() if key not in _OURS}
    return ConfigDict({**theirs, **copy.deepcopy(dict(model.get('data_preprocessor') or {}))})


def _keep_classes(model: Any, count: int) -> None:
    owners = [part for part in walk(model) if isinstance(part.get('num_classes'), int)]
    most = max((owner['num_classes'] for owner in owners), default=0)
    for owner in owners:
        if count and owner['num_classes'] == most:
            owner['num_classes'] = count


def _settle_norms(cfg: Config, host: Any) -> None:
    """Gives each half the host's synchronised norms where it has some itself; else it is written for one process."""
    derived = cfg.get('derived') or {}
    searched = _SYNCED in _norms(cfg.model)
    said = _norms(derived.get('model'))
    second = _SYNCED in said if said else searched
    for keys in list(_synced_places({key: part for key, part in host.items() if key != 'backbone'})):
        if not searched:
            _part_at(host, keys)['type'] = 'BN'
        if second != searched and isinstance(derived, dict):
            _say(derived, ('model', *keys), _SYNCED if second else 'BN')


def _norms(model: Any) -> set[str]:
    return {name_of(part) for part in walk(model)} & {_SYNCED, 'BN'}


def _synced_places(value: Any, *keys: str | int) -> Iterator[tuple[str | int, ...]]:
    """Yields the keys of all that is a synchronised norm."""
    if isinstance(value, Mapping) and value.get('type') == _SYNCED:
        yield keys
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from _synced_places(each, *keys, key)


def _part_at(value: Any, keys: Sequence[str | int]) -> Any:
    for key in keys:
        value = value[key]
    return value


def _say(half: Any, keys: Sequence[str | int], kind: str) -> None:
    """Gives a norm of the second half its type, where that says no other and does not replace what is around it."""
    for key in map(str, keys):  # MMEngine merges a dict of numbers into a list
        if key not in half:
            half[key] = {}
        half = half[key]
        if not isinstance(half, dict) or half.get('_delete_'):
            return
    half.setdefault('type', kind)


def _check_loaded(cfg: Config, model: Any, name: str) -> None:
    """Raises ValueError where a host learns masks of objects, and the config loads boxes alone."""
    if 'decode_head' in model or not any('mask_head' in part for part in walk(model)):
        return
    loads = [part for part in walk((cfg.get(LOADERS[0]) or {}).get('dataset')) if part.get('with_mask')]
    if not loads:
        raise ValueError(f'host {name} learns masks of objects, and LoadAnnotations of this config loads boxes alone')


def _check_unsaid(cfg: Config, model: Any, name: str) -> None:
    """Raises ValueError for what the file that names a host, or one that inherits it, says of ``model`` in vain."""
    depth = depth_of(cfg, 'host')
    nearest = next((source for source in list_sources(cfg) if source.depth == depth), None)
    if depth is None or nearest is None or not nearest.inherits:
        return  # a command line's, or a whole config that MMEngine has written down
    for first, *keys in said_keys(cfg, depth):
        if first != 'model' or not keys or keys[0] in _SHARED:
            continue
        (given, there), (kept, still) = _at(cfg.model, keys), _at(model, keys)
        if there and not (still and plain(given) == plain(kept)):
            raise ValueError(
                f'model.{".".join(keys)} has no effect beside host: write it there, host=dict(config={name!r}, '
                f'{keys[0]}=…)'
            )


def _at(value: Any, keys: Sequence[str]) -> tuple[Any, bool]:
    """What a config has at these keys, and whether it has anything there."""
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            return None, False
        value = value[key]
    return value, True
