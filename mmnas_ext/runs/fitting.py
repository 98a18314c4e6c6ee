"""Tells what reads a backbone, in a host's model, how many channels the backbone gives."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmnas_ext.backbones import MBNet
from mmnas_ext.registry import MODELS

# of MMSegmentation, of MMPretrain, and of MMDetection where nothing lies between backbone and head
_HEADS = ('decode_head', 'auxiliary_head', 'head', 'bbox_head', 'rpn_head', 'mask_head')
_LAST = -1  # what a head reads that does not say which: the last feature


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
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    ours = str(kind).startswith('mmnas_ext.') or (isinstance(found, type) and issubclass(found, MBNet))
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
        part['in_channels'] = [_pick(f'{name}.in_index', i, channels) for i in wanted]
    elif isinstance(index, int):
        part['in_channels'] = _pick(f'{name}.in_index', index, channels)
    return True


def _pick(name: str, index: int, channels: Sequence[int]) -> int:
    if not -len(channels) <= index < len(channels):
        raise ValueError(
            f'model.{name} asks for feature {index}, and the backbone gives {len(channels)}, of {list(channels)} '
            'channels: let model.backbone.out_indices name as many'
        )
    return channels[index]
