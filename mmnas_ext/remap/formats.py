"""Translates checkpoints of other projects to MBNet's keys.

A layout says what its keys look like (`mmnas_ext.remap.layouts`). A layer's convolutions and norms are then identified
by their names or by their order, and the architecture by the shapes of the tensors (`mmnas_ext.remap.inference`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mmnas_ext.archs import ArchSpec
from mmnas_ext.archs.literal import call_at
from mmnas_ext.remap.inference import infer_arch, name_convs, out_channels
from mmnas_ext.remap.layout import COUNTER, tensor_shapes
from mmnas_ext.remap.layouts import Layout

Place = tuple[int, ...]


@dataclass
class _Parts:
    """A checkpoint's tensors by their place in the network: stem, layers by (stage, layer) or (layer,), head."""

    stem: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    layers: dict[Place, dict[tuple[str, str], Tensor]] = field(default_factory=dict)
    head: dict[tuple[str, str], Tensor] = field(default_factory=dict)


def translate(
    state: Mapping[str, Tensor], layout: Layout, prefix: str, arch: ArchSpec | None = None
) -> tuple[ArchSpec, dict[str, Tensor]]:
    """Renames a checkpoint's tensors to MBNet's keys and infers the architecture from their shapes.

    Args:
        state: The checkpoint's tensors, including those of other modules.
        layout: The checkpoint's layout.
        prefix: Prefix of the backbone's keys.
        arch: The architecture, if it is known; the shapes are then checked against it.

    Returns:
        The architecture, and the tensors in MBNet's order. The head is kept if both the checkpoint and `arch` have
        one. ``bn_eps`` is that of `arch`, or else the layout's.

    Raises:
        ValueError: A key does not fit the layout, a shape does not fit the architecture, or the architecture
            does not follow from the shapes.
    """
    parts = _collect(state, layout, prefix)
    named = {**_name_pair('stem.', parts.stem), **_name_pair('head.', parts.head)}
    layers = [_name_layer(parts.layers[place], layout, place) for place in sorted(parts.layers)]
    positions = _positions(sorted(parts.layers), layers, arch, layout.flat)
    for (i, j), tensors in zip(positions, layers, strict=True):
        named |= {f'stages.{i}.{j}.{name}': tensor for name, tensor in tensors.items()}
    if arch is None:
        arch = _infer_arch(named, positions, layers, layout.family)
    elif arch.head_channels is None:
        named = {name: tensor for name, tensor in named.items() if not name.startswith('head.')}
    elif not parts.head:
        arch = arch.replace(head_channels=None)
    if arch.bn_eps is None:
        arch = arch.replace(bn_eps=layout.bn_eps(arch))
    return arch, _check_shapes(named, arch)


def _collect(state: Mapping[str, Tensor], layout: Layout, prefix: str) -> _Parts:
    """Sorts the tensors below a prefix by their place in the network."""
    parts = _Parts()
    patterns = [re.compile(pattern) for pattern in (layout.stem, layout.layer, layout.head, layout.dropped)]
    for name in _below(state, prefix):
        stem, layer, head, dropped = (pattern.fullmatch(name) for pattern in patterns)
        tensor = state[prefix + name]
        if head:
            parts.head[head['slot'], head['field']] = tensor
        elif layer:
            place = tuple(int(layer[group]) for group in ('stage', 'layer') if group in layer.re.groupindex)
            parts.layers.setdefault(place, {})[layer['slot'], layer['field']] = tensor
        elif stem:
            parts.stem[stem['slot'], stem['field']] = tensor
        elif not dropped:
            raise ValueError(
                f'unexpected tensor {prefix + name!r} of shape {tuple(tensor.shape)} in a checkpoint that looks like '
                f'{layout.name}: that network has only stem, layers, head and classifier'
            )
    if layout.ends_in_head and parts.layers:
        parts.head = parts.layers.pop(max(parts.layers))
    if not any(name == 'weight' and tensor.ndim == 4 for (_, name), tensor in parts.stem.items()):
        raise ValueError(f'the checkpoint looks like {layout.name}, but it has no stem')
    return parts


def _below(state: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in state if key.startswith(prefix)]


def _name_pair(prefix: str, tensors: Mapping[tuple[str, str], Tensor]) -> dict[str, Tensor]:
    """Names the tensors of a convolution and its norm, which differ in the number of dimensions of their weights."""
    convs = {slot for (slot, name), tensor in tensors.items() if name == 'weight' and tensor.ndim == 4}
    return {f'{prefix}{"conv" if slot in convs else "bn"}.{name}': t for (slot, name), t in tensors.items()}


def _name_layer(tensors: Mapping[tuple[str, str], Tensor], layout: Layout, place: Place) -> dict[str, Tensor]:
    """Names the tensors of a layer as MBNet does, without the layer's own prefix."""
    where = f'layer {".".join(map(str, place))} of the checkpoint ({layout.name})'
    modules = call_at(where, layout.sort, {slot for slot, _ in tensors})
    weights = []
    for conv, _ in modules.pairs:
        weight = tensors.get((conv, 'weight'))
        if weight is None or weight.ndim != 4:
            raise ValueError(f'{where} has no {conv}.weight of a convolution')
        weights.append(weight)
    names = dict(modules.named)
    for name, (conv, norm) in zip(
        call_at(where, name_convs, modules, weights, layout.family), modules.pairs, strict=True
    ):
        names |= {conv: f'{name}.conv', norm: f'{name}.bn'}
    return {f'{names[slot]}.{name}': tensor for (slot, name), tensor in tensors.items()}


def _positions(
    places: list[Place], layers: list[dict[str, Tensor]], arch: ArchSpec | None, flat: bool
) -> list[tuple[int, int]]:
    """Returns the stage and the index in the stage of every layer.

    For layers that are numbered through the network they follow from `arch`, or else from the layers' widths.
    """
    if not flat and all(len(place) == 2 for place in places):
        return _renumber([(place[0], place[1]) for place in places])
    if arch is not None:
        expected = [(i, j) for i, depth in enumerate(arch.depths) for j in range(depth)]
        if len(expected) != len(layers):
            raise ValueError(
                f'the checkpoint must have the {len(expected)} layers of arch, {arch.depths} per stage, got '
                f'{len(layers)}'
            )
        return expected
    positions: list[tuple[int, int]] = []
    before = None
    for tensors in layers:
        channels = out_channels(tensors)
        i, j = positions[-1] if positions else (-1, 0)
        positions.append((i, j + 1) if channels == before else (i + 1, 0))
        before = channels
    return positions


def _renumber(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Renumbers stages and layers from 0: in some layouts the numbers start at 1."""
    stages = {stage: i for i, stage in enumerate(sorted({stage for stage, _ in places}))}
    counted: dict[int, int] = {}
    positions = []
    for stage, _ in places:
        positions.append((stages[stage], counted.get(stage, 0)))
        counted[stage] = counted.get(stage, 0) + 1
    return positions


def _infer_arch(
    named: Mapping[str, Tensor], positions: list[tuple[int, int]], layers: list[dict[str, Tensor]], family: str
) -> ArchSpec:
    stages: list[list[dict[str, Tensor]]] = [[] for _ in range(1 + max(i for i, _ in positions))]
    for (i, _), tensors in zip(positions, layers, strict=True):
        stages[i].append(tensors)
    return infer_arch(named['stem.conv.weight'], named.get('head.conv.weight'), stages, family)


def _check_shapes(named: Mapping[str, Tensor], arch: ArchSpec) -> dict[str, Tensor]:
    """Checks every tensor against its shape in `arch`; returns the tensors in MBNet's order."""
    shapes = tensor_shapes(arch)
    ordered = {}
    for name, shape in shapes.items():
        tensor = named.get(name)
        if tensor is None and name.endswith(COUNTER):
            # checkpoints of PyTorch before 0.4.1 have none
            continue
        if tensor is None:
            raise ValueError(f'tensor {name} is not in the checkpoint; the architecture expects shape {shape}')
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f'tensor {name} has shape {tuple(tensor.shape)}, and the architecture expects {shape}: the '
                'checkpoint is of another network'
            )
        ordered[name] = tensor
    for name, tensor in named.items():
        if name not in shapes:
            raise ValueError(
                f'tensor {name} of shape {tuple(tensor.shape)} has no place in the architecture: the checkpoint is '
                'of another network'
            )
    return ordered
