"""Settings that belong to both halves of a run, set in one place and resolved when a config is used.

MMEngine substitutes ``_base_.name`` when the base is read, so a variable that a child config sets changes nothing in
what the base made of it. Here the variables of a config (`VARIABLES`) are applied when it is used: they win over what
its files say in ``model``, in ``derived``, in the datasets and evaluators, and what a command line says of these places
wins over them. Without them ``model.backbone`` of a search is the one place, which ``derived.model.backbone`` inherits
from.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmnas_ext.backbones import backbone_spec
from mmnas_ext.backbones.chain import is_remapped
from mmnas_ext.datasets.identity import list_datasets
from mmnas_ext.datasets.layouts import read_names
from mmnas_ext.registry import name_of
from mmnas_ext.runs.class_weights import drop_weights
from mmnas_ext.runs.fitting import channels_of, complete_channels, rewire
from mmnas_ext.runs.halves import (
    LOADERS,
    backbones_of,
    count_classes,
    is_ours,
    list_halves,
    models_of,
    plain,
    tell,
    walk,
)
from mmnas_ext.runs.host import apply_host, check_host, mend_heads
from mmnas_ext.runs.host_choices import CHOSEN, KEY, check_use, own_cost
from mmnas_ext.runs.image_size import apply_image_size, check_image_size, settle_limits
from mmnas_ext.runs.keys import check_shape
from mmnas_ext.runs.own_data import ROOT, apply_data, belonging_classes, check_data_form, move_data
from mmnas_ext.runs.seed_space import check_made, complete_space, has_no_stages, keep_strides, name_seed
from mmnas_ext.runs.sources import list_sources
from mmnas_ext.search.evolution import LOSS, idle_beside

# what a search's backbone hands on to the network that is derived from it, unless `derived` says otherwise
INHERITED = ('out_indices', 'output_stride', 'channels_last', 'frozen_stages', 'norm_eval', 'act_cfg', 'init_cfg')
VARIABLES = ('seed', 'output_stride', 'space', 'host', 'image_size', 'data', 'classes')
_SEED_KEYS = ('arch', 'checkpoint')
_STRIDES = (8, 16, 32)
_OUTPUTS = 'model.backbone.out_indices'


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
    for name in (*VARIABLES, ROOT, KEY, CHOSEN):
        # that of a distillation names another config, whose variables these are
        if name in derived and 'config' not in derived:
            raise ValueError(f'derived.{name} has no effect: set {name} beside derived, for both halves')
    # the scope, too: it decides what a host's parts are called
    first = (*VARIABLES, ROOT, 'default_scope')
    own = {key: value for key, value in given.items() if key.partition('.')[0] in first}
    _spread_seed(cfg, own)
    cfg.merge_from_dict(own)
    if is_ours(cfg):
        _settle_inits(cfg)
        _apply_variables(cfg, own)
    rest = {key: value for key, value in given.items() if key not in own}
    cfg.merge_from_dict(rest)
    _drop_idle(cfg, given)
    check_shape(cfg)
    backbone: Any = (cfg.get('model') or {}).get('backbone')
    if is_ours(cfg):
        _settle_inits(cfg)
    if is_ours(cfg) and isinstance(backbone, dict):
        if has_no_stages(backbone.get('space')):
            check_made(backbone['space'])
            backbone['space'] = complete_space(cfg, backbone['space'])
        name_seed(cfg)
        if _OUTPUTS in rest and 'space' in backbone and not any('in_channels' in key for key in rest):
            _rewire(cfg)
    for half in models_of(cfg):
        _tell_heads(half, (cfg.get('model') or {}).get('backbone') or {})
        _drop_average(half, cfg.get('model') or {})
    check_use(cfg)
    if is_ours(cfg):
        mend_heads(cfg)
        complete_channels(cfg)
        settle_limits(cfg, own_cost)
    return cfg


def _settle_inits(cfg: Config) -> None:
    """Takes a list of a single initializer for that: what is said of the seed holds for both halves.

    Raises:
        ValueError: A seed is remapped beside other initializers, where nothing would see to that.
    """
    for backbone in backbones_of(cfg):
        init = backbone.get('init_cfg')
        if isinstance(init, list | tuple) and any(map(is_remapped, init)):
            if len(init) > 1:
                raise ValueError(
                    "model.backbone.init_cfg must be type='mmnas_ext.Remapped' alone, which sets all weights, got "
                    f'{len(init)} initializers'
                )
            backbone['init_cfg'] = init[0]


def _drop_idle(cfg: Config, given: Mapping[str, Any]) -> None:
    """Drops a base's settings of an evolution that a ``rank_by`` nearer than they are leaves without effect."""
    evolution = cfg.get('evolution')
    if not isinstance(evolution, dict) or 'rank_by' not in evolution:
        return
    said = {key.partition('.')[2] for key in given if key.startswith('evolution.')}
    for source in list_sources(cfg):  # the nearest first; a base may be one that they do not list
        if 'rank_by' in said:
            break
        said |= {''.join(keys[:1]) for first, *keys in source.said if first == 'evolution'}
    if 'rank_by' not in said or '' in said:  # or what is said is no dict that is written out
        return
    rank_by = evolution.get('rank_by') or LOSS
    for key in idle_beside(rank_by):
        if evolution.get(key) is not None and key not in said:
            words = f'evolution.{key} of a base is left out: networks are ranked by {rank_by}'
            print_log(words, logger='current', level=logging.INFO)
            evolution.pop(key)


def _apply_variables(cfg: Config, given: Mapping[str, Any]) -> None:
    """Applies the variables of a config, those that a command line gives among them."""
    if cfg.get('data') is not None and 'classes' not in given:
        # a base's are those of the base's data
        belonging = belonging_classes(cfg)
        cfg.pop('classes', None)
        if belonging is not None:
            cfg['classes'] = belonging
    for name, (check, apply) in _APPLIED.items():
        value = cfg.get(name)
        if value is not None:
            check(value)
            if not apply(cfg, value):
                raise ValueError(
                    f'{name} of this config has no effect: there is nothing in it that takes it (no {_PLACES[name]}); '
                    'rename it if it is a variable of your own'
                )
    if cfg.get('classes') is not None:
        drop_weights(cfg, given, len(cfg['classes']))
    move_data(cfg, ROOT in given)
    for name in ('train', 'test'):  # which inference in MMSegmentation reads
        dataset = next(list_datasets((cfg.get(f'{name}_dataloader') or {}).get('dataset')), {})
        if cfg.get('image_size') is not None and f'{name}_pipeline' in cfg and 'pipeline' in dataset:
            cfg[f'{name}_pipeline'] = copy.deepcopy(dataset['pipeline'])


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
    if isinstance(ours, dict) and 'type' not in ours and is_remapped(theirs):
        ours = result['init_cfg'] = _completed(theirs, ours)  # derived.model.backbone.init_cfg.width=l1, say
    if is_remapped(ours) and is_remapped(theirs) and 'seed' not in ours and 'seed' in theirs:
        ours['seed'] = copy.deepcopy(theirs['seed'])
    both_remapped = is_remapped(ours) and is_remapped(theirs)
    places = {
        'init_cfg.seed': (theirs.get('seed'), ours.get('seed')) if both_remapped else (None, None),
        'output_stride': (searched.get('output_stride', 32), result.get('output_stride', 32)),
    }
    for key, (first, second) in places.items():
        if plain(first) != plain(second):
            raise ValueError(
                f'model.backbone.{key} is {first!r:.80} and derived.model.backbone.{key} is {second!r:.80}: '
                'searched with the one, trained with the other; set the first alone, which both halves use'
            )
    return result


def _completed(init: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An initialisation of which a config says a part alone; of the seed, too."""
    result = {**copy.deepcopy(dict(init)), **own}
    first, second = init.get('seed'), own.get('seed')
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        result['seed'] = {**copy.deepcopy(dict(first)), **second}
    return result


def _check_seed(value: Any) -> None:
    fits = isinstance(value, str) or (isinstance(value, Mapping) and {'checkpoint'} <= {*value} <= {*_SEED_KEYS})
    if not fits:
        raise ValueError(
            'seed must be dict(arch=…, checkpoint=…) or a checkpoint, the network whose weights a search starts from, '
            f'got {value!r:.80}; the seed of random numbers is randomness=dict(seed=…)'
        )


def _spread_seed(cfg: Config, given: Mapping[str, Any]) -> None:
    """Makes a variable of the seed that a config has in its backbone if a command line changes a part of it."""
    if not any(key.startswith('seed.') for key in given):
        return
    init: Any = ((cfg.get('model') or {}).get('backbone') or {}).get('init_cfg')
    seed = cfg.get('seed') or (init.get('seed') if is_remapped(init) else None)
    if seed is not None:
        cfg['seed'] = dict(checkpoint=seed) if isinstance(seed, str) else copy.deepcopy(seed)


def _apply_seed(cfg: Config, value: Any) -> bool:
    found = False
    for backbone in backbones_of(cfg):
        init: Any = backbone.get('init_cfg')
        if is_remapped(init):
            tell('seed', init.get('seed'), value)
            init['seed'] = copy.deepcopy(value)
            found = True
    return found


def _check_output_stride(value: Any) -> None:
    if isinstance(value, bool) or value not in _STRIDES:
        raise ValueError(f'output_stride must be one of {_STRIDES}, got {value!r:.80}')


def _apply_output_stride(cfg: Config, value: int) -> bool:
    searched = (cfg.get('model') or {}).get('backbone')
    for backbone in backbones_of(cfg):
        # the second half's inherits it
        if backbone is searched or 'output_stride' in backbone:
            tell('output_stride', backbone.get('output_stride'), value)
            backbone['output_stride'] = value
    for head in (head for half in models_of(cfg) for head in _fna_heads(half)):
        head.pop('output_stride', None)  # follows the backbone
    return bool(backbones_of(cfg))


def _check_space(value: Any) -> None:
    if not isinstance(value, str | Mapping):
        raise ValueError(f'space must be a name, a .json file or a dict, got {value!r:.80}')
    if has_no_stages(value):
        check_made(value)


def _apply_space(cfg: Config, value: Any) -> bool:
    model = cfg.get('model') or {}
    owners = [part for part in (model, model.get('backbone') or {}) if 'space' in part]
    searches = 'backbone' in model and model['backbone'] in owners
    if searches:
        value = complete_space(cfg, value) if has_no_stages(value) else value
        keep_strides(cfg, model['backbone']['space'], value)
    for owner in owners:
        tell('space', owner['space'], value)
        owner['space'] = copy.deepcopy(value)
    if searches:
        _rewire(cfg)
    return bool(owners)


def _rewire(cfg: Config) -> None:
    """Gives what reads the backbone the channels of another space; a malformed one is told of later, with the rest."""
    backbone = cfg.model.backbone
    try:
        spec = backbone_spec(backbone)
        channels = None if spec is None else channels_of(backbone, spec)
    except (ValueError, TypeError, OSError):
        return
    if channels is not None:
        rewire(cfg.model, channels)


def _check_classes(value: Any) -> None:
    read_names(value)


def _apply_classes(cfg: Config, value: Any) -> bool:
    classes = tuple(value)
    for half in list_halves(cfg):
        for loader in LOADERS:
            for leaf in list_datasets((half.get(loader) or {}).get('dataset')):
                given: Any = leaf.get('metainfo') or {}
                tell(f'{loader}.dataset.metainfo.classes', given.get('classes'), classes)
                leaf['metainfo'] = {**given, 'classes': classes}  # type: ignore[index]
    return count_classes(cfg, len(classes))


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


def _drop_average(model: dict[str, Any], searched: dict[str, Any]) -> None:
    """Drops what only FNA's heads read of a test: those of MMSegmentation average logits, whatever a base says."""
    tested = model.get('test_cfg')
    if not isinstance(tested, dict) or 'average' not in tested or any(_fna_heads({**searched, **model})):
        return
    if tested.pop('average') != 'logits':
        print_log('test_cfg.average: logits, as all heads but FNASegHead do', logger='current', level=logging.INFO)


def _fna_heads(model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in walk(model):
        if name_of(part) == 'FNASegHead':
            yield part


_APPLIED: dict[str, tuple[Callable[[Any], None], Callable[[Config, Any], bool]]] = {
    'seed': (_check_seed, _apply_seed),
    'output_stride': (_check_output_stride, _apply_output_stride),
    'space': (_check_space, _apply_space),
    'host': (check_host, apply_host),  # wired from the space
    'image_size': (check_image_size, apply_image_size),
    'data': (check_data_form, lambda cfg, value: apply_data(cfg, value, cfg.get('classes'))),
    'classes': (_check_classes, _apply_classes),
}
_PLACES = {
    'host': 'backbone of ours in model',
    'image_size': 'Resize in the test pipeline, nor model.backbone.input_size',
    'data': 'dataset of a detector or segmentor',
    'seed': "backbone whose init_cfg is of type 'Remapped'",
    'output_stride': 'model.backbone',
    'space': 'space in model or model.backbone',
    'classes': 'num_classes in model',
}
