"""Tells what reads a backbone, in a host's model, how many channels the backbone gives."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS as HOSTED

from mmnas_ext.archs import ArchSpec, SearchSpace, places
from mmnas_ext.backbones import MBNet, backbone_spec
from mmnas_ext.backbones.chain import default_outputs
from mmnas_ext.registry import MODELS, class_of, name_of
from mmnas_ext.runs.halves import host_of, package_of
from mmnas_ext.runs.keys import hints_of
from mmnas_ext.shipped import PACKAGE

# of MMSegmentation, of MMPretrain, and of MMDetection where nothing lies between backbone and head
_HEADS = ('decode_head', 'auxiliary_head', 'head', 'bbox_head', 'rpn_head', 'mask_head')
_LAST = -1  # what a head reads that does not say which: the last feature
_EXTRACTORS = ('bbox_roi_extractor', 'mask_roi_extractor')
_ROI_HEADS = ('bbox_head', 'mask_head')
_COARSEST_FIRST = ('YOLOV3Neck',)  # whose lists name the features in the other order


def fit_channels(model: Any, channels: Sequence[int]) -> None:
    """Sets ``in_channels`` of the neck that reads the backbone, or without one those of all heads.

    A list has an entry per feature, or per entry of the head's ``in_index``; a number is the feature of ``in_index``,
    by default the last. Heads behind a neck with ``in_channels`` read the neck, and stay as they are.

    Args:
        model: Config of a detector, segmentor or classifier; changed in place.
        channels: Of the backbone's features.

    Raises:
        ValueError: A part reads more or other features than the backbone gives.
    """
    necks = _listed(model.get('neck'))
    if necks and _fit('neck', necks[0], channels):
        return
    for key in _HEADS:
        for head in _listed(model.get(key)):
            _fit(key, head, channels)
            if head.get('c1_in_channels'):
                head['c1_in_channels'] = _pick(f'{key}.c1_in_index', head.get('c1_in_index', 0), channels)


def require_own_backbone(model: Mapping[str, Any], name: str) -> None:
    """Raises ValueError unless a model's backbone is one of this project, whose arguments an `MBNet` takes.

    Args:
        model: Config of the model.
        name: The config's file, for the message.
    """
    if not isinstance(model.get('backbone'), Mapping):
        raise ValueError(f'derived.config must describe a model with a backbone, got {name} with {model.get("type")!r}')
    kind = model['backbone'].get('type')
    found = class_of(MODELS, kind)
    ours = package_of(model['backbone']) == PACKAGE or (found is not None and issubclass(found, MBNet))
    if kind is not None and not ours:
        raise ValueError(
            f'the backbone of {name} is {kind!r}, whose arguments mean nothing to the found network: replace them, '
            'derived=dict(model=dict(backbone=dict(_delete_=True, out_indices=(1, 2, 4, 6))))'
        )


def _listed(part: Any) -> list[Any]:
    return [each for each in (part if isinstance(part, list | tuple) else [part]) if isinstance(each, Mapping)]


def _fit(name: str, part: Any, channels: Sequence[int]) -> bool:
    """Returns whether the part has ``in_channels``, which are set."""
    given = part.get('in_channels')
    index = part.get('in_index', _LAST)
    if given is None:
        return False
    if isinstance(given, list | tuple):
        wanted = list(index) if isinstance(index, list | tuple) else list(range(len(channels)))
        if len(given) != len(wanted):
            raise ValueError(
                f'model.{name}.in_channels has {len(given)} entries, {list(given)}, and there are {len(wanted)} '
                f'features to read, of {list(channels)} channels: let model.backbone.out_indices name as many'
            )
        part['in_channels'] = in_order(part, [_pick(f'{name}.in_index', i, channels) for i in wanted])
    elif isinstance(index, int):
        part['in_channels'] = _pick(f'{name}.in_index', index, channels)
    return True


def in_order(part: Mapping[str, Any], channels: Sequence[int]) -> list[int]:
    """Channels of features, the finest first, in the order in which a part's ``in_channels`` names them."""
    return list(channels)[::-1] if name_of(part) in _COARSEST_FIRST else list(channels)


def _pick(name: str, index: int, channels: Sequence[int]) -> int:
    if not -len(channels) <= index < len(channels):
        raise ValueError(
            f'model.{name} asks for feature {index}, and the backbone gives {len(channels)}, of {list(channels)} '
            'channels: let model.backbone.out_indices name as many'
        )
    return channels[index]


def channels_of(backbone: Mapping[str, Any], spec: ArchSpec | SearchSpace) -> tuple[int, ...]:
    """Channels of the features that a backbone of ours gives, of its config: nothing is built.

    Args:
        backbone: The config; its ``out_indices`` count.
        spec: What it describes.

    Raises:
        ValueError: ``out_indices`` asks for a stage that is not there.
    """
    walk, given = places(spec), backbone.get('out_indices')
    given = default_outputs(spec) if given is None else given
    found = []
    for index in [given] if isinstance(given, int | str) else given:
        number = int(str(index).partition('.')[0])
        stages = (*walk.stages, *([(walk.head,)] if walk.head is not None else []))
        if not 0 <= number < len(stages):
            raise ValueError(f'model.backbone.out_indices must lie in 0..{len(stages) - 1}, got {index!r}')
        place = stages[number][0 if isinstance(index, str) else -1]
        inside = isinstance(index, str)
        found.append(place.convs(place.tokens[0])[0].channels if inside else place.channels)
    return tuple(found)


def pick_outputs(
    spec: ArchSpec | SearchSpace, count: int, wanted: int | Sequence[int] | None = None
) -> tuple[int, ...]:
    """The stages that a host of so many features reads: the last ones of their strides, up to the coarsest.

    Args:
        spec: The network or space.
        count: How many features; four are strides 4, 8, 16 and 32 of FNA's networks, three the last of these.
        wanted: Strides of them all, or of the first, where the host is written for features of certain strides.

    Raises:
        ValueError: There are not so many strides, or not these.
    """
    last = {stage[-1].reached: index for index, stage in enumerate(places(spec).stages)}
    if isinstance(wanted, Sequence):
        missing = [stride for stride in wanted if stride not in last]
        if missing or len(wanted) != count:
            raise ValueError(f'the host reads {count} features, the backbone has strides {list(last)}, got {wanted}')
        return tuple(last[stride] for stride in wanted)
    if not 1 <= count <= len(last):
        raise ValueError(f'the host reads {count} features, and the backbone has strides {list(last)}')
    strides = list(last)
    if wanted in strides and strides.index(wanted) + count <= len(strides):
        return tuple(last.values())[strides.index(wanted) :][:count]
    return tuple(last.values())[-count:]


def rewire(model: Any, channels: Sequence[int]) -> None:
    """Sets the channels of all that reads a backbone, and of all that reads the neck behind it.

    Args:
        model: Config of a detector or segmentor; changed in place.
        channels: Of the backbone's features.

    Raises:
        ValueError: A part reads more or other features than the backbone gives.
    """
    fit_channels(model, channels)
    necks = _listed(model.get('neck'))
    if not necks:
        return
    if name_of(necks[0]) == 'SSDNeck':  # hands the backbone's features on as they are
        # a list as its in_channels are: it compares the two
        necks[0]['out_channels'] = [*channels, *necks[0]['out_channels'][len(channels) :]]
    given = _given(necks)
    for part, key in _behind(model) if given is not None else ():
        if part.get(key) is not None:
            part[key] = _like(part[key], given)


def complete_channels(cfg: Config) -> None:
    """Fills in the numbers of channels that the neck and heads of a config do not say, from those of its backbone.

    A config whose backbone is of another project, or malformed, is left alone: that is said where it is built.

    Args:
        cfg: The config; only what its parts leave out, and their classes take, is added.
    """
    model, scope = cfg.get('model') or {}, host_of(cfg)
    necks, heads = _listed(model.get('neck')), [(key, head) for key in _HEADS for head in _listed(model.get(key))]
    behind = [(part, key) for part, key in _behind(model) if part.get(key) is None]
    if not behind and all(each.get('in_channels') is not None for each in (*necks[:1], *(head for _, head in heads))):
        return
    try:
        spec = backbone_spec(model.get('backbone') or {}, scope)
        channels = None if spec is None else channels_of(model['backbone'], spec)
    except (ValueError, TypeError, KeyError, OSError):
        return
    if channels is None:
        return
    if necks and necks[0].get('in_channels') is None and _takes(necks[0], 'in_channels', scope) is not None:
        hint = _takes(necks[0], 'in_channels', scope)
        necks[0]['in_channels'] = channels[_LAST] if hint is int else in_order(necks[0], channels)
    given = _given(necks) if necks and necks[0].get('in_channels') is not None else None
    if given is not None:
        for part, key in behind:
            if _takes(part, key, scope) is not None:
                part[key] = given
        return
    for key, head in heads:
        if head.get('in_channels') is None and _takes(head, 'in_channels', scope) is not None:
            index = head.get('in_index', _LAST)
            several = isinstance(index, list | tuple)
            head['in_channels'] = (
                [_pick(f'{key}.in_index', i, channels) for i in index]
                if several
                else _pick(f'{key}.in_index', index, channels)
            )


def _behind(model: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yields the parts that read a neck, each with the key of its channels."""
    for key in _HEADS:
        yield from ((head, 'in_channels') for head in _listed(model.get(key)))
    for roi in _listed(model.get('roi_head')):
        yield from ((part, 'out_channels') for key in _EXTRACTORS for part in _listed(roi.get(key)))
        yield from ((part, 'in_channels') for key in _ROI_HEADS for part in _listed(roi.get(key)))


def _given(necks: list[Any]) -> Any:
    """Channels that the last neck says it gives: one number for all its features, or one each."""
    return next((neck['out_channels'] for neck in reversed(necks) if neck.get('out_channels') is not None), None)


def _like(former: Any, given: Any) -> Any:
    """The neck's channels as a part that reads it has them."""
    if isinstance(former, list | tuple) and isinstance(given, int):
        return [given] * len(former)
    return given if isinstance(former, list | tuple) or isinstance(given, int) else former


def _takes(part: Mapping[str, Any], key: str, scope: str) -> Any:
    """The annotated type of an argument of a part's class; ``None`` if it takes no such."""
    kind = part.get('type')
    if isinstance(kind, str):
        try:
            kind = HOSTED.get(kind if '.' in kind or not scope else f'{scope}.{kind}')
        except (ImportError, KeyError):
            return None
    if not inspect.isclass(kind):
        return object if kind is not None else None  # a part of ours, which imports its host when it is built
    return hints_of(kind)[0].get(key)
