"""Settings that belong to both halves of a run, set in one place and resolved when a config is used.

MMEngine substitutes ``_base_.name`` when the base is read, so a variable that a child config sets changes nothing in
what the base made of it. Here the variables ``seed``, ``output_stride``, ``space`` and ``classes`` of a config are
applied when it is used: they win over what its files say in ``model``, in ``derived`` and in the datasets, and what a
command line says of these places wins over them. Without them ``model.backbone`` of a search is the one place, which
``derived.model.backbone`` inherits from.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmnas_ext.backbones.chain import is_remapped
from mmnas_ext.runs.changes import list_datasets
from mmnas_ext.runs.keys import check_shape

# what a search's backbone hands on to the network that is derived from it, unless `derived` says otherwise
INHERITED = ('out_indices', 'output_stride', 'channels_last', 'frozen_stages', 'norm_eval', 'act_cfg', 'init_cfg')
VARIABLES = ('seed', 'output_stride', 'space', 'classes')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_SEED_KEYS = ('arch', 'checkpoint')
_STRIDES = (8, 16, 32)


def resolve(cfg: Config, options: Mapping[str, Any] | None = None) -> Config:
    """Applies a config's variables to both halves, then the options of a command line, and settles the heads' stride.

    Args:
        cfg: Config of any method; it is changed.
        options: Values by dotted key. Of the variables they are merged before, of all else after these are applied.

    Returns:
        The same config.

    Raises:
        ValueError: A variable is of a wrong type or has no place in this config, or two places disagree.
    """
    check_shape(cfg)
    given = dict(options or {})
    derived = cfg.get('derived') or {}
    for name in VARIABLES:
        # that of a distillation names another config, whose variables these are
        if name in derived and 'config' not in derived:
            raise ValueError(f'derived.{name} has no effect: set {name} beside derived, for both halves')
    own = {key: value for key, value in given.items() if key.partition('.')[0] in VARIABLES}
    cfg.merge_from_dict(own)
    for name, (check, apply) in _APPLIED.items():
        value = cfg.get(name)
        if value is not None and _is_ours(cfg):
            check(value)
            if not apply(cfg, value):
                raise ValueError(
                    f'{name} of this config has no effect: there is nothing in it that takes it (no {_PLACES[name]}); '
                    'rename it if it is a variable of your own'
                )
    cfg.merge_from_dict({key: value for key, value in given.items() if key not in own})
    check_shape(cfg)
    for half in _models(cfg):
        _tell_heads(half, (cfg.get('model') or {}).get('backbone') or {})
    return cfg


def inherit(searched: Mapping[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    """The backbone of ``derived``, completed by what it shares with the super-network that it was searched in.

    Args:
        searched: ``model.backbone`` of the search; left as it is.
        derived: ``derived.model.backbone``; left as it is.

    Raises:
        ValueError: Both name a seed or an output stride, and not the same.
    """
    result = copy.deepcopy(dict(derived))
    for key in INHERITED:
        if key in searched and key not in result:
            result[key] = copy.deepcopy(searched[key])
    ours: Any = result.get('init_cfg')
    theirs: Any = searched.get('init_cfg')
    if is_remapped(ours) and is_remapped(theirs) and 'seed' not in ours and 'seed' in theirs:
        ours['seed'] = copy.deepcopy(theirs['seed'])
    both_remapped = is_remapped(ours) and is_remapped(theirs)
    places = {
        'init_cfg.seed': (theirs.get('seed'), ours.get('seed')) if both_remapped else (None, None),
        'output_stride': (searched.get('output_stride', 32), result.get('output_stride', 32)),
    }
    for key, (first, second) in places.items():
        if _plain(first) != _plain(second):
            raise ValueError(
                f'model.backbone.{key} is {first!r:.80} and derived.model.backbone.{key} is {second!r:.80}: '
                'searched with the one, trained with the other; set the first alone, which both halves use'
            )
    return result


def _is_ours(cfg: Config) -> bool:
    """Whether a config searches, or names one of our backbones: in any other the variables are the user's own."""
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    return bool(cfg.get('derived')) or any(_module_of(part) == 'mmnas_ext' for part in (model, backbone))


def _module_of(part: Any) -> str:
    """Package that a type belongs to: of ``'mmnas_ext.MBNet'``, and of the class itself in a pure-Python config."""
    kind = part.get('type') if isinstance(part, Mapping) else None
    return (kind if isinstance(kind, str) else str(getattr(kind, '__module__', ''))).partition('.')[0]


def _models(cfg: Config) -> list[dict[str, Any]]:
    """The models of both halves; what ``derived`` says of its model is only what differs."""
    halves = (cfg.get('model'), (cfg.get('derived') or {}).get('model'))
    return [half for half in halves if isinstance(half, dict)]


def _backbones(cfg: Config) -> list[dict[str, Any]]:
    return [half['backbone'] for half in _models(cfg) if isinstance(half.get('backbone'), dict)]


def _check_seed(value: Any) -> None:
    fits = isinstance(value, str) or (isinstance(value, Mapping) and {'checkpoint'} <= {*value} <= {*_SEED_KEYS})
    if not fits:
        raise ValueError(
            'seed must be dict(arch=…, checkpoint=…) or a checkpoint, the network whose weights a search starts from, '
            f'got {value!r:.80}; the seed of random numbers is randomness=dict(seed=…)'
        )


def _apply_seed(cfg: Config, value: Any) -> bool:
    found = False
    for backbone in _backbones(cfg):
        init: Any = backbone.get('init_cfg')
        if is_remapped(init):
            _say('seed', init.get('seed'), value)
            init['seed'] = copy.deepcopy(value)
            found = True
    return found


def _check_output_stride(value: Any) -> None:
    if isinstance(value, bool) or value not in _STRIDES:
        raise ValueError(f'output_stride must be one of {_STRIDES}, got {value!r:.80}')


def _apply_output_stride(cfg: Config, value: int) -> bool:
    searched = (cfg.get('model') or {}).get('backbone')
    for backbone in _backbones(cfg):
        # the second half's inherits it
        if backbone is searched or 'output_stride' in backbone:
            _say('output_stride', backbone.get('output_stride'), value)
            backbone['output_stride'] = value
    for head in (head for half in _models(cfg) for head in _fna_heads(half)):
        head.pop('output_stride', None)  # follows the backbone
    return bool(_backbones(cfg))


def _check_space(value: Any) -> None:
    if not isinstance(value, str | Mapping):
        raise ValueError(f'space must be a name, a .json file or a dict, got {value!r:.80}')


def _apply_space(cfg: Config, value: Any) -> bool:
    model = cfg.get('model') or {}
    owners = [part for part in (model, model.get('backbone') or {}) if 'space' in part]
    for owner in owners:
        _say('space', owner['space'], value)
        owner['space'] = copy.deepcopy(value)
    return bool(owners)


def _check_classes(value: Any) -> None:
    names = list(value) if isinstance(value, list | tuple) else []
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ValueError(f'classes must be a sequence of distinct names, got {value!r:.80}')


def _apply_classes(cfg: Config, value: Any) -> bool:
    classes = tuple(value)
    for half in (cfg, cfg.get('derived') or {}):
        for loader in LOADERS:
            for leaf in list_datasets((half.get(loader) or {}).get('dataset')):
                given: Any = leaf.get('metainfo') or {}
                _say(f'{loader}.dataset.metainfo.classes', given.get('classes'), classes)
                leaf['metainfo'] = {**given, 'classes': classes}  # type: ignore[index]
    owners = [part for half in _models(cfg) for part in _walk(half) if isinstance(part.get('num_classes'), int)]
    # those of the data's classes have the most; one of a proposal or boundary head counts other things
    former = max((owner['num_classes'] for owner in owners), default=0)
    for owner in owners:
        if owner['num_classes'] == former:
            _say('num_classes', former, len(classes))
            owner['num_classes'] = len(classes)
    return bool(owners)


def _tell_heads(model: dict[str, Any], backbone: Mapping[str, Any]) -> None:
    """Gives FNA's segmentation heads the stride of the features, which decides their dilations."""
    own = model.get('backbone') if isinstance(model.get('backbone'), dict) else {}
    stride = (own or {}).get('output_stride', backbone.get('output_stride'))
    for head in _fna_heads(model):
        told = head.get('output_stride')
        if stride is not None and told is not None and told != stride:
            raise ValueError(
                f'model.backbone.output_stride is {stride} and that of FNASegHead is {told}: leave the latter out, it '
                'follows the backbone'
            )
        if stride is not None and told is None:
            head['output_stride'] = stride


def _fna_heads(model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in _walk(model):
        kind = part.get('type')
        name = kind if isinstance(kind, str) else str(getattr(kind, '__name__', ''))
        if name.rpartition('.')[2] == 'FNASegHead':
            yield part


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yields the mappings inside a config, the outer first."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _walk(each)


def _plain(value: Any) -> Any:
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _say(name: str, old: Any, new: Any) -> None:
    if old is not None and _plain(old) != _plain(new) and not (isinstance(old, list) and tuple(old) == new):
        print_log(f'{name}: {new!r:.120} instead of {old!r:.120}', logger='current', level=logging.INFO)


_APPLIED: dict[str, tuple[Callable[[Any], None], Callable[[Config, Any], bool]]] = {
    'seed': (_check_seed, _apply_seed),
    'output_stride': (_check_output_stride, _apply_output_stride),
    'space': (_check_space, _apply_space),
    'classes': (_check_classes, _apply_classes),
}
_PLACES = {
    'seed': "backbone whose init_cfg is of type 'Remapped'",
    'output_stride': 'model.backbone',
    'space': 'space in model or model.backbone',
    'classes': 'num_classes in model',
}
