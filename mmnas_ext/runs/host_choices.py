"""``host_choices=dict(…)`` of a search's config: what neck and head it has, what they cost, and the config of each.

The config's own model is the host that the limit ``'seed'`` means and that ``--arch`` trains. A search trains the
widest one (`search_config`); the second half gets the one that was chosen (`chosen_config`).
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.archs import METRICS, ArchSpec, HostChoice, HostChoices, LatencyTable, SearchSpace, cost, places
from mmnas_ext.archs.host_choices import show_option
from mmnas_ext.archs.places import Size
from mmnas_ext.backbones import backbone_spec
from mmnas_ext.datasets.identity import list_datasets
from mmnas_ext.datasets.inspect import random_states_kept
from mmnas_ext.engine.host_control import branches_of, outer_convs
from mmnas_ext.runs.fitting import channels_of
from mmnas_ext.runs.halves import counted_at
from mmnas_ext.runs.image_size import apply_image_size, former_size
from mmnas_ext.runs.method import FINDERS
from mmnas_ext.runs.prepared import scope_of

KEY, CHOSEN = 'host_choices', 'host_choice'
_READ = ('backbone', 'neck', 'bbox_head', 'train_cfg', 'test_cfg')
_COUNTED: dict[str, tuple[int, int]] = {}  # by neck, head and size: configs are read more than once
# what a choice sets, by part: places in the model
_PLACES = {
    'neck_width': (('neck', 'out_channels'), ('bbox_head', 'in_channels'), ('bbox_head', 'feat_channels')),
    'stacked_convs': (('bbox_head', 'stacked_convs'),),
}
# the settings of a training that a choice decides, beside its pipelines
SETTINGS = (
    *(f'model.{part}.{key}' for found in _PLACES.values() for part, key in found),
    'model.backbone.input_size',
)


def check_use(cfg: Mapping[str, Any]) -> None:
    """Raises ValueError where a config has choices of the host, or one of them, that nothing would read."""
    given = cfg.get(KEY)
    if given is None:
        if cfg.get(CHOSEN) is not None:
            raise ValueError(f'{CHOSEN} is one of host_choices=dict(…), and this config has none')
        return
    model = cfg.get('model') or {}
    for other in FINDERS:
        if cfg.get(other) is not None:
            raise ValueError(f'host_choices is chosen by a search by gradients: beside {other} it has no effect')
    if not cfg.get('derived') or 'space' not in (model.get('backbone') or {}):
        raise ValueError(
            'host_choices is chosen by a search by gradients, of a config with derived=dict(…) and a SuperNet: in this '
            'one it has no effect'
        )
    selection = (cfg.get('optim_wrapper') or {}).get('selection')
    kind = selection.get('type') if isinstance(selection, Mapping) else selection or 'argmax'
    if kind != 'measured':
        raise ValueError(
            "host_choices needs optim_wrapper.selection=dict(type='measured', …): alpha says nothing of neck, head and "
            f'image size, got {kind!r:.40}'
        )


def has_host(cfg: Mapping[str, Any]) -> bool:
    """Whether a config has choices of the host."""
    return cfg.get(KEY) is not None


def own_choice(cfg: Mapping[str, Any]) -> HostChoice:
    """The host that a config's own model is."""
    model = cfg['model']
    neck, head = (_mapping(model.get(name)) for name in ('neck', 'bbox_head'))
    size, _ = counted_at(model.get('backbone') or {})
    return HostChoice(size, neck.get('out_channels'), head.get('stacked_convs'))


def read_choices(cfg: Config) -> HostChoices | None:
    """Reads a config's choices, with what each neck and head costs; ``None`` of a config without any.

    Raises:
        ValueError: They are malformed, or the detector lacks a part that they offer, or has one that cannot be made
            smaller so.
    """
    given = cfg.get(KEY)
    if given is None:
        return None
    check_use(cfg)
    own = own_choice(cfg)
    if isinstance(given, Mapping):
        _check_parts(cfg, given)
    bare = HostChoices(given, own, {})
    costs: dict[str, dict[str, float]] = {}
    for choice in bare.all():
        macs, params = _counted(cfg, choice)
        costs[choice.format()] = {'macs': macs, 'params': params}
    for text, milliseconds in _latencies(cfg, costs):
        costs[text]['latency'] = milliseconds
    return HostChoices(given, own, costs)


def chosen_of(cfg: Config) -> HostChoice:
    """The host that a config trains a network with: what ``host_choice`` says, else its own.

    Raises:
        ValueError: ``host_choice`` is none of its choices.
    """
    choices = HostChoices(cfg[KEY], own_choice(cfg), {})
    text = cfg.get(CHOSEN)
    return choices.own if text is None else choices.check(HostChoice.parse(text))


def search_config(cfg: Config) -> Config:
    """The config of the search: with choices of the host, that of the widest one, told what may be chosen.

    Raises:
        ValueError: As `read_choices`.
    """
    choices = read_choices(cfg)
    if choices is None:
        return cfg
    found = with_host(cfg, choices.widest)
    options = {name: [*map(_plain, row)] for name, row in choices.options.items()}
    found.optim_wrapper[KEY] = {**options, 'own': choices.own.format(), 'costs': choices.costs}
    return found


def chosen_config(cfg: Config) -> Config:
    """The config whose second half has the chosen host; one without choices as it is."""
    if not has_host(cfg):
        return cfg
    return with_host(cfg, chosen_of(cfg))


def with_host(cfg: Config, choice: HostChoice) -> Config:
    """A copy of a config, in both halves, with another host."""
    found, own = copy.deepcopy(cfg), own_choice(cfg)
    _set_parts(found.model, choice)
    if choice.input_size != own.input_size:
        former = former_size(found) or own.input_size
        sides = zip(former, choice.input_size, own.input_size, strict=True)
        apply_image_size(found, [round(side * new / old) for side, new, old in sides])
        found.model.backbone.input_size = choice.input_size
        for name in ('train', 'test'):  # which tools of a host read
            dataset = next(list_datasets((found.get(f'{name}_dataloader') or {}).get('dataset')), {})
            if f'{name}_pipeline' in found and 'pipeline' in dataset:
                found[f'{name}_pipeline'] = copy.deepcopy(dataset['pipeline'])
    return found


def own_cost(cfg: Config, metric: str) -> float:
    """What neck and head of the config's own host cost: 0 of a config without choices, whose limit is a backbone's.

    Raises:
        ValueError: As `read_choices`, or a latency table lacks them.
    """
    choices = read_choices(cfg)
    return 0.0 if choices is None else choices.cost(choices.own, metric)


def whole_cost(cfg: Config) -> tuple[int, int]:
    """Multiply-adds for one image and parameters of the single-stage detector of a config that trains a network.

    Args:
        cfg: The config, whose test images are resized.

    Raises:
        ValueError: No transform resizes them, or neck or head cannot be counted.
    """
    found = former_size(cfg)
    if found is None:
        raise ValueError(
            'the cost of a whole detector is counted at the size of a Resize in the test pipeline, got none'
        )
    size = int(found[0]), int(found[1])
    with random_states_kept(), scope_of(cfg):
        module = build_neck_and_head(cfg.model)
    backbone = cfg.model.backbone
    alone = cost(ArchSpec.parse(backbone.arch), size, counted_at(backbone)[1])
    macs, params = count_costs(module, features_of(backbone, size))
    return alone.macs + macs, alone.params + params


def list_hosts(cfg: Config) -> Iterator[tuple[HostChoice, Mapping[str, Any], int]]:
    """Yields the choices of a config, each with the model's config and the multiply-adds of its neck and head.

    Raises:
        ValueError: As `read_choices`.
    """
    bare = copy.deepcopy(cfg)
    term = (bare.get('optim_wrapper') or {}).get('cost') or {}
    term.pop('table', None)  # which is about to be measured
    choices = read_choices(bare)
    for choice in choices.all() if choices is not None else ():
        model = copy.deepcopy(cfg.model)
        _set_parts(model, choice)
        yield choice, model, int(choices.cost(choice, 'macs')) if choices is not None else 0


def build_neck_and_head(model: Mapping[str, Any]) -> nn.Sequential:
    """Neck and head of a detector's config as a module that reads the backbone's features; weights as they come."""
    neck = MODELS.build(copy.deepcopy(dict(model['neck'])))
    settings = {key: model[key] for key in ('train_cfg', 'test_cfg') if model.get(key) is not None}
    head = MODELS.build({**copy.deepcopy(dict(model['bbox_head'])), **copy.deepcopy(settings)})
    return nn.Sequential(neck, head).eval()


def features_of(backbone: Mapping[str, Any], size: Size) -> list[tuple[int, int, int]]:
    """Channels, height and width of each feature that a backbone gives for images of a size.

    Raises:
        ValueError: An output lies inside a stage.
    """
    spec = backbone_spec(dict(backbone))
    assert spec is not None, 'a search has a space'
    indices = backbone.get('out_indices', (1, 2, 4, 6))
    wrong = [index for index in indices if not isinstance(index, int) or index >= len(spec.stages)]
    if wrong:
        raise ValueError(f'host_choices needs backbone.out_indices that are stages, got {wrong[0]!r}')
    stages = places(spec, size, counted_at(backbone)[1]).stages
    channels = channels_of(dict(backbone), spec)
    return [(width, *stages[index][-1].out_size) for index, width in zip(indices, channels, strict=True)]


def _check_parts(cfg: Config, given: Mapping[str, Any]) -> None:
    """Raises ValueError where the model is no single-stage detector with what the choices offer."""
    model, derived = cfg['model'], (cfg.get('derived') or {}).get('model') or {}
    two_stage = [name for name in ('decode_head', 'rpn_head', 'roi_head') if name in model]
    if two_stage or not all(isinstance(model.get(name), Mapping) for name in ('neck', 'bbox_head')):
        raise ValueError(
            'host_choices is for single-stage detectors, with model.neck and model.bbox_head: this one has '
            f'{two_stage or sorted(model)}, whose parts are not offered'
        )
    for name, places_of in _PLACES.items():
        if name not in given:
            continue
        values = {f'{part}.{key}': model[part].get(key) for part, key in places_of}
        if len(set(values.values())) != 1 or None in values.values():
            said = ', '.join(f'{key}={value}' for key, value in values.items())
            raise ValueError(f'host_choices.{name} needs the same number written in {", ".join(values)}, got {said}')
        twice = [f'{part}.{key}' for part, key in places_of if key in (derived.get(part) or {})]
        if twice:
            raise ValueError(f'derived.model.{twice[0]} has no effect beside host_choices.{name}, which sets it')
    space = SearchSpace.parse(model['backbone']['space'])
    if 'neck_width' in given or 'stacked_convs' in given:
        with random_states_kept(), scope_of(cfg):
            built = build_neck_and_head(model)
        _check_structure(built[0], built[1], given, model, channels_of(dict(model['backbone']), space))


def _check_structure(
    neck: nn.Module, head: nn.Module, given: Mapping[str, Any], model: Mapping[str, Any], channels: Sequence[int]
) -> None:
    """Raises ValueError where a masked host would compute something else than the smaller one."""
    rows, kind = branches_of(head), type(head).__name__
    if not rows or len({len(row) for row in rows}) > 1:
        raise ValueError(
            f'host_choices needs a head whose branches cls_convs and reg_convs are stacked convolutions, as those of '
            f'RetinaHead, ATSSHead, GFLHead and FCOSHead; {kind} has none'
        )
    if 'neck_width' not in given:
        return
    width = model['neck']['out_channels']
    if any(isinstance(each, nn.GroupNorm) for part in (neck, head) for each in part.modules()):
        raise ValueError(
            f'host_choices.neck_width needs norms by channel: {kind} or its neck has GroupNorm, whose groups are '
            "others in a narrower one; leave neck_width out, or set norm_cfg=dict(type='BN') there"
        )
    inside = [layer for row in rows for layer in row]
    for owner, layers, enters in ((neck, outer_convs(neck), {width, *channels}), (head, inside, {width})):
        for conv in (each for layer in layers for each in layer.modules() if isinstance(each, nn.Conv2d)):
            if conv.out_channels != width or conv.in_channels not in enters or conv.groups != 1:
                raise ValueError(
                    f'host_choices.neck_width cannot narrow {type(owner).__name__}: it has a convolution '
                    f'{conv.in_channels} -> {conv.out_channels} in {conv.groups} groups, where all must give {width}'
                )
    foreign = [
        type(each).__name__ for each in neck.modules()
        if [*each.parameters(recurse=False)] and not isinstance(each, nn.Conv2d | _BatchNorm)
    ]  # fmt: skip
    if foreign:
        raise ValueError(f'host_choices.neck_width cannot narrow {type(neck).__name__}: it has a {foreign[0]}')
    known = {id(each) for layer in inside for each in layer.modules()}
    for conv in (each for each in head.modules() if isinstance(each, nn.Conv2d) and id(each) not in known):
        if conv.in_channels == width and conv.out_channels == width:
            raise ValueError(
                f'host_choices.neck_width cannot narrow {kind}: beside its branches it has a convolution '
                f'{width} -> {width}'
            )


def _set_parts(model: Any, choice: HostChoice) -> None:
    """Gives a detector's config the neck and head of a choice, in place."""
    for name, places_of in _PLACES.items():
        for part, key in places_of:
            if getattr(choice, name) is not None and model[part].get(key) != getattr(choice, name):
                model[part][key] = getattr(choice, name)


def _counted(cfg: Config, choice: HostChoice) -> tuple[int, int]:
    """Multiply-adds for one image and parameters of neck and head of a choice."""
    model = {key: copy.deepcopy(cfg.model[key]) for key in _READ if key in cfg.model}
    _set_parts(model, choice)
    key = json.dumps([model, choice.input_size], default=str)
    if key not in _COUNTED:
        with random_states_kept(), scope_of(cfg):
            module = build_neck_and_head(model)
        _COUNTED[key] = count_costs(module, features_of(model['backbone'], choice.input_size))
    return _COUNTED[key]


def count_costs(module: nn.Module, features: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """Multiply-adds for one image and parameters of a neck and head; one multiply-add counts as one, no bias does.

    Counted on meta tensors, where nothing is computed.

    Args:
        module: Neck and head, which read a tuple of features; its weights are gone afterwards.
        features: Channels, height and width of each.

    Raises:
        ValueError: A layer with weights is neither a convolution nor linear, or the forward fails there.
    """
    total = [0]

    def count(layer: Any, args: tuple[Any, ...], output: Any) -> None:
        total[0] += output.numel() * layer.weight[0].numel()

    for each in module.to('meta').modules():
        if all(weight.dim() < 2 for weight in each.parameters(recurse=False)):
            continue  # norms and scales: folded away, as in a backbone's costs
        if type(each) not in (nn.Conv2d, nn.Linear):
            raise ValueError(f'host_choices cannot count the multiply-adds of {type(each).__name__} in neck or head')
        each.register_forward_hook(count)
    try:
        with torch.no_grad():
            module(tuple(torch.empty((1, *shape), device='meta') for shape in features))
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'host_choices cannot count what neck and head cost: {error}'[:300]) from error
    return total[0], sum(each.numel() for each in module.parameters())


def _latencies(cfg: Config, costs: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    """Yields the milliseconds of each neck and head that the config's table has.

    Raises:
        ValueError: The table is of necks and heads of other costs.
    """
    term = (cfg.get('optim_wrapper') or {}).get('cost') or {}
    metric = METRICS.get(str(term.get('metric', 'macs')))
    if metric is None or not metric.measured or term.get('table') is None:
        return
    for text, macs, milliseconds in LatencyTable.parse(term['table']).hosts:
        if text in costs and costs[text]['macs'] != macs:
            raise ValueError(
                f'the latency table has a neck and head of {text} with {macs} multiply-adds, and those of this config '
                f'have {costs[text]["macs"]}: measure it again, by mmnas latency with this config'
            )
        if text in costs:
            yield text, milliseconds


def describe_choices(choices: HostChoices) -> str:
    """The choices in words."""
    rows = [f'{name} {", ".join(map(show_option, choices.options[name]))}' for name in choices.offered()]
    return f'{"; ".join(rows)}: {len(choices.all())} combinations'


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
