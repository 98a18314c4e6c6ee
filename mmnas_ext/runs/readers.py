"""What reads a backbone in a model, asked with features of zeros: a neck or a head of another number of channels."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mmnas_ext.backbones.chain import Chain

_HEADS = ('decode_head', 'auxiliary_head', 'bbox_head', 'rpn_head')
_SIZES = (128, 512)  # pixels of an image's side; the larger is for parts that need one
_LONGEST = 160


def check_readers(model: nn.Module, where: str = '') -> None:
    """Raises ValueError where the neck or a head cannot read the features that a backbone of ours gives it.

    Neither weights nor statistics change. A part that takes more than features is not asked.

    Args:
        model: A built detector, segmentor or classifier.
        where: Stands before keys of the config in messages.
    """
    backbone = getattr(model, 'backbone', None)
    heads = [(name, head) for name in _HEADS for head in _modules(getattr(model, name, None))]
    neck = getattr(model, 'neck', None)
    if not isinstance(backbone, Chain) or (neck is None and not heads):
        return
    with _evaluating(model), torch.no_grad():
        errors = []
        crop = getattr(getattr(model, 'data_preprocessor', None), 'size', None)
        largest = min(crop) if isinstance(crop, list | tuple) else max(_SIZES)  # that of training, where it is smaller
        for size in sorted({min(size, largest) for size in _SIZES}):
            try:
                _read(backbone, neck, heads, size, f'{where}model.')
                return
            except ValueError as error:
                errors.append(error)
        raise errors[0]


def _read(backbone: Chain, neck: Any, heads: list[tuple[str, nn.Module]], size: int, place: str) -> None:
    """Raises ValueError where neck or heads cannot read the features of an image of a size."""
    given = f'what the backbone gives, {list(backbone.out_channels)} channels at strides {list(backbone.out_strides)}'
    features: Any = tuple(
        torch.zeros(1, channels, -(-size // stride), -(-size // stride))
        for channels, stride in zip(backbone.out_channels, backbone.out_strides, strict=True)
    )
    if isinstance(neck, nn.Module):
        features, given = _ask(neck, features, f'{place}neck', given), 'what the neck gives'
    for name, head in heads if features is not None else []:
        if _ask(head, features, f'{place}{name}', given) is not None:
            _check_levels(head, features, f'{place}{name}')


def _ask(part: nn.Module, features: Any, place: str, given: str) -> Any:
    """What a part makes of features; ``None`` if it takes more than those."""
    try:
        return part(features)
    except Exception as error:  # whatever a host makes of other shapes
        if isinstance(error, TypeError) and 'required positional argument' in str(error):
            return None
        text = ' '.join(f'{type(error).__name__}: {error}'.split())[:_LONGEST]
        raise ValueError(f'{place} ({type(part).__name__}) cannot read {given}: {text}') from error


def _check_levels(part: nn.Module, features: Any, place: str) -> None:
    """Raises ValueError where a head has anchors or points for another number of features."""
    levels = getattr(getattr(part, 'prior_generator', None), 'num_levels', None)
    if isinstance(levels, int) and isinstance(features, list | tuple) and len(features) != levels:
        raise ValueError(
            f'{place} ({type(part).__name__}) has strides for {levels} features, and gets {len(features)}: let the '
            'neck give as many (num_outs), or change the strides of its anchors or points'
        )


def _modules(part: Any) -> list[nn.Module]:
    if isinstance(part, nn.ModuleList):
        return list(part)
    return [part] if isinstance(part, nn.Module) else []


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Has a model compute without dropout and batch statistics, and leaves each module's mode as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
