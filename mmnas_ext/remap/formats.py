"""Checkpoint layouts of other projects, recognised by their keys, and their translation to MBNet's keys.

A layout says what its keys look like. A layer's convolutions and norms are then identified by their names or by their
order, and the architecture by the shapes of the tensors.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mmnas_ext.archs import ArchSpec, StageSpec
from mmnas_ext.remap.layout import COUNTER, tensor_shapes

# the strides of MobileNetV2 and EfficientNet: no checkpoint says them
FAMILY_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_FIELDS = r'(?P<field>weight|bias|running_mean|running_var|num_batches_tracked)'
_NUMBER = r'(0|[1-9]\d{0,3})'
_LAYER_NAMES = {
    2: ('depthwise.conv', 'depthwise.bn', 'project.conv', 'project.bn'),
    3: ('expand.conv', 'expand.bn', 'depthwise.conv', 'depthwise.bn', 'project.conv', 'project.bn'),
}
_SE_NAMES = {
    'se.conv_reduce': 'se.reduce',
    'se.conv_expand': 'se.expand',
    '_se_reduce': 'se.reduce',
    '_se_expand': 'se.expand',
    'se.reduce': 'se.reduce',
    'se.expand': 'se.expand',
}
_CONV_FIRST = {'conv': -2, 'bn': -1}
SlotNames = Callable[[Iterable[str]], dict[str, str]]
Place = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The keys of one project's checkpoints.

    Args:
        name: Name of the layout in messages.
        marker: A key that every checkpoint of this layout has and that no other layout has.
        stem: Pattern of the stem's keys; its group ``slot`` names the convolution or the norm.
        layer: Pattern of the layers' keys, with the groups ``slot``, ``layer`` and ``stage``; without ``stage`` if
            the layers are numbered through the whole network.
        head: Pattern of the 1x1 head's keys.
        dropped: Pattern of keys that a backbone does not need: the classifier.
        slots: Function that maps a layer's slots to MBNet's names.
        bn_eps: Epsilon of the batch norms that these weights were trained with; ``None`` for 1e-5.
        headless_bn_eps: The same for checkpoints without a head.
        eps_is_certain: Whether all files of this layout were trained with these.
    """

    name: str
    marker: str
    stem: str
    layer: str
    head: str
    dropped: str
    slots: SlotNames
    bn_eps: float | None = None
    headless_bn_eps: float | None = None
    eps_is_certain: bool = False


@dataclass
class _Parts:
    """A checkpoint's tensors by their place in the network: stem, layers by (stage, layer) or (layer,), head."""

    stem: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    layers: dict[Place, dict[tuple[str, str], Tensor]] = field(default_factory=dict)
    head: dict[tuple[str, str], Tensor] = field(default_factory=dict)


def recognise(keys: Iterable[str]) -> tuple[Layout, str]:
    """Recognises the layout of a checkpoint with these keys; returns it and the prefix of the network's keys.

    Raises:
        ValueError: The layout is unknown, the checkpoint has several networks, or it has a super-network.
    """
    keys = list(keys)
    for layout in LAYOUTS:
        suffix = layout.marker
        prefixes = sorted({key.removesuffix(suffix) for key in keys if key == suffix or key.endswith('.' + suffix)})
        if not prefixes:
            continue
        if len(prefixes) > 1:
            plain = [prefix for prefix in prefixes if re.fullmatch(r'(module\.)?(backbone\.)?', prefix)]
            prefixes = plain or prefixes
        if len(prefixes) > 1:
            raise ValueError(
                f'the checkpoint must have one network, got several under {prefixes}: keep the keys of one'
            )
        prefix = prefixes[0]
        if any(key.startswith(f'{prefix}stages.') and '.candidates.' in key for key in keys):
            raise ValueError(
                'the checkpoint must have one network, got a super-network: remap from the seed that the search '
                'started from'
            )
        return layout, prefix
    known = ', '.join(layout.name for layout in LAYOUTS)
    raise ValueError(f'unknown checkpoint format: the first of {len(keys)} keys are {keys[:2]}; known formats: {known}')


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
    positions = _positions(sorted(parts.layers), layers, arch)
    for (i, j), tensors in zip(positions, layers, strict=True):
        named |= {f'stages.{i}.{j}.{name}': tensor for name, tensor in tensors.items()}
    if arch is None:
        arch = _infer_arch(named, positions, layers)
    elif arch.head_channels is None:
        named = {name: tensor for name, tensor in named.items() if not name.startswith('head.')}
    elif not parts.head:
        arch = arch.replace(head_channels=None)
    if arch.bn_eps is None:
        arch = arch.replace(bn_eps=layout.bn_eps if parts.head else layout.headless_bn_eps)
    return arch, _check_shapes(named, arch)


def _collect(state: Mapping[str, Tensor], layout: Layout, prefix: str) -> _Parts:
    """Sorts the tensors below a prefix by their place in the network."""
    parts = _Parts()
    patterns = [re.compile(pattern) for pattern in (layout.stem, layout.layer, layout.head, layout.dropped)]
    for name in _below(state, prefix):
        stem, layer, head, dropped = (pattern.fullmatch(name) for pattern in patterns)
        tensor = state[prefix + name]
        if layer:
            place = tuple(int(layer[group]) for group in ('stage', 'layer') if group in layer.re.groupindex)
            parts.layers.setdefault(place, {})[layer['slot'], layer['field']] = tensor
        elif stem:
            parts.stem[stem['slot'], stem['field']] = tensor
        elif head:
            parts.head[head['slot'], head['field']] = tensor
        elif not dropped:
            raise ValueError(
                f'unexpected tensor {prefix + name!r} of shape {tuple(tensor.shape)} in a checkpoint that looks like '
                f'{layout.name}: that network has only stem, MBConv layers, head and classifier'
            )
    if not parts.stem:
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
    slots = {slot for slot, _ in tensors}
    try:
        names = layout.slots(slots)
    except ValueError as error:
        raise ValueError(f'layer {".".join(map(str, place))} of the checkpoint ({layout.name}): {error}') from None
    named = {f'{names[slot]}.{name}': tensor for (slot, name), tensor in tensors.items()}
    for conv in ('depthwise.conv.weight', 'project.conv.weight'):
        if conv not in named or named[conv].ndim != 4:
            raise ValueError(f'layer {".".join(map(str, place))} of the checkpoint ({layout.name}) has no {conv}')
    return named


def _by_name(slots: Iterable[str]) -> dict[str, str]:
    """Maps slots that have MBNet's names to themselves."""
    return {slot: _SE_NAMES.get(slot, slot) for slot in slots}


def _by_order(slots: Iterable[str]) -> dict[str, str]:
    """Maps numbered slots: convolutions and norms alternate in the order in which they run."""
    ordered = sorted(slots, key=lambda slot: [_CONV_FIRST.get(part) or int(part) for part in slot.split('.')])
    if len(ordered) not in (4, 6):
        raise ValueError(f'expected 2 or 3 convolutions, each with its norm, got {len(ordered)} modules: {ordered}')
    return dict(zip(ordered, _LAYER_NAMES[len(ordered) // 2], strict=True))


def _by_table(*tables: tuple[str, ...]) -> SlotNames:
    """Returns a function that maps named slots; each table has a kind of layer's slots in the order they run in."""

    def names(slots: Iterable[str]) -> dict[str, str]:
        slots = set(slots)
        plain = sorted(slots - _SE_NAMES.keys())
        for table in tables:
            if plain == sorted(table):
                found = dict(zip(table, _LAYER_NAMES[len(table) // 2], strict=True))
                return found | {slot: _SE_NAMES[slot] for slot in slots & _SE_NAMES.keys()}
        raise ValueError(f'expected the modules of an MBConv layer, {" or ".join(map(str, tables))}, got {plain[:6]}')

    return names


def _positions(places: list[Place], layers: list[dict[str, Tensor]], arch: ArchSpec | None) -> list[tuple[int, int]]:
    """Returns the stage and the index in the stage of every layer.

    For layers that are numbered through the network they follow from `arch`, or else from the layers' widths.
    """
    if all(len(place) == 2 for place in places):
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
        channels = tensors['project.conv.weight'].shape[0]
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
    named: Mapping[str, Tensor], positions: list[tuple[int, int]], layers: list[dict[str, Tensor]]
) -> ArchSpec:
    """Infers the architecture from the shapes of the layers."""
    count = 1 + max(i for i, _ in positions)
    if count != len(FAMILY_STRIDES):
        raise ValueError(
            f'the checkpoint has {count} stages: strides do not follow from the weights and are known for '
            f'{len(FAMILY_STRIDES)} stages only, so give arch'
        )
    stages = []
    entering = named['stem.conv.weight'].shape[0]
    for i, stride in enumerate(FAMILY_STRIDES):
        inside = [tensors for (stage, _), tensors in zip(positions, layers, strict=True) if stage == i]
        channels = inside[0]['project.conv.weight'].shape[0]
        tokens = tuple(_token(tensors, channels if j else entering, i, j) for j, tensors in enumerate(inside))
        stages.append(StageSpec(entering, channels, tokens, stride))
        entering = channels
    head = named['head.conv.weight'].shape[0] if 'head.conv.weight' in named else None
    swish = any('se.reduce.weight' in tensors for tensors in layers)
    return ArchSpec(tuple(stages), head, 'swish' if swish else 'relu6')


def _token(tensors: Mapping[str, Tensor], in_channels: int, stage: int, index: int) -> str:
    """Returns the token of a layer with these shapes."""
    hidden, _, kernel, _ = tensors['depthwise.conv.weight'].shape
    expansion = hidden // in_channels
    if hidden % in_channels or ('expand.conv.weight' in tensors) != (expansion > 1):
        raise ValueError(
            f'layer {index} of stage {stage} expands {in_channels} channels to {hidden}: the expansion must be a '
            'whole number'
        )
    token = f'k{kernel}_e{expansion}'
    if 'se.reduce.weight' not in tensors:
        return token
    squeezed = tensors['se.reduce.weight'].shape[0]
    for ratio in (0.25, 0.5, 0.125, round(squeezed / in_channels, 6)):
        if 0 < ratio <= 1 and max(1, round(in_channels * ratio)) == squeezed:
            return f'{token}_se{ratio:g}'
    raise ValueError(
        f'layer {index} of stage {stage} squeezes to {squeezed} channels: it must be at most its {in_channels} input '
        'channels'
    )


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


_TIMM_LAYER = ('conv_pw', 'bn1', 'conv_dw', 'bn2', 'conv_pwl', 'bn3')
_TIMM_FIRST = ('conv_dw', 'bn1', 'conv_pw', 'bn2')
_LITE_LAYER = ('_expand_conv', '_bn0', '_depthwise_conv', '_bn1', '_project_conv', '_bn2')
_MMDET_LAYER = tuple(f'{conv}_conv.{part}' for conv in ('expand', 'depthwise', 'linear') for part in ('conv', 'bn'))
LAYOUTS = (
    Layout(
        name='mmnas_ext MBNet',
        marker='stages.0.0.depthwise.conv.weight',
        stem=rf'stem\.(?P<slot>conv|bn)\.{_FIELDS}',
        layer=rf'stages\.(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.'
        rf'(?P<slot>(?:expand|depthwise|project)\.(?:conv|bn)|se\.(?:reduce|expand))\.{_FIELDS}',
        head=rf'head\.(?P<slot>conv|bn)\.{_FIELDS}',
        dropped=r'(head\.fc|classifier|fc)\..*',
        slots=_by_name,
    ),
    Layout(
        name='torchvision MobileNetV2',
        marker='features.1.conv.0.0.weight',
        stem=rf'features\.0\.(?P<slot>[01])\.{_FIELDS}',
        layer=rf'features\.(?P<layer>{_NUMBER})\.conv\.(?P<slot>[01]\.[01]|[123])\.{_FIELDS}',
        head=rf'features\.[1-9]\d*\.(?P<slot>[01])\.{_FIELDS}',
        dropped=r'classifier\..*',
        slots=_by_order,
    ),
    # timm has two families with these keys: ``efficientnet_lite0`` uses 1e-5, ``tf_efficientnet_lite0`` 1e-3. They have
    # the same keys, so the former is assumed, whose padding is symmetric like ours; ``arch`` overrides it.
    Layout(
        name='timm MobileNetV2, EfficientNet(-Lite), DNA',
        marker='blocks.0.0.conv_dw.weight',
        stem=rf'(?P<slot>conv_stem|bn1)\.{_FIELDS}',
        layer=rf'blocks\.(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.(?P<slot>(?:se\.)?\w+)\.{_FIELDS}',
        head=rf'(?P<slot>conv_head|bn2)\.{_FIELDS}',
        dropped=r'classifier\..*',
        slots=_by_table(_TIMM_LAYER, _TIMM_FIRST),
    ),
    Layout(
        name='MMDetection MobileNetV2',
        marker='layer1.0.depthwise_conv.conv.weight',
        stem=rf'conv1\.(?P<slot>conv|bn)\.{_FIELDS}',
        layer=rf'layer(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.(?P<slot>\w+_conv\.(?:conv|bn))\.{_FIELDS}',
        head=rf'conv2\.(?P<slot>conv|bn)\.{_FIELDS}',
        dropped=r'(head|fc)\..*',
        slots=_by_table(_MMDET_LAYER, _MMDET_LAYER[2:]),
    ),
    Layout(
        name='MMPretrain and MMSegmentation MobileNetV2',
        marker='layer1.0.conv.0.conv.weight',
        stem=rf'conv1\.(?P<slot>conv|bn)\.{_FIELDS}',
        layer=rf'layer(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.conv\.(?P<slot>[012]\.(?:conv|bn))\.{_FIELDS}',
        head=rf'conv2\.(?P<slot>conv|bn)\.{_FIELDS}',
        dropped=r'(head|fc)\..*',
        slots=_by_order,
    ),
    Layout(
        name='efficientnet_lite_pytorch',
        marker='_blocks.0._depthwise_conv.weight',
        stem=rf'(?P<slot>_conv_stem|_bn0)\.{_FIELDS}',
        layer=rf'_blocks\.(?P<layer>{_NUMBER})\.(?P<slot>\w+)\.{_FIELDS}',
        head=rf'(?P<slot>_conv_head|_bn1)\.{_FIELDS}',
        dropped=r'_fc\..*',
        slots=_by_table(_LITE_LAYER, _LITE_LAYER[2:]),
        bn_eps=1e-3,
        headless_bn_eps=1e-3,
        eps_is_certain=True,
    ),
    # the authors' ImageNet seed and SSDLite backbone, which have a head, use 1e-3, their RetinaNet and DeepLab
    # backbones 1e-5; ``extra`` are SSDLite's layers after the backbone
    Layout(
        name="FNA authors' networks",
        marker='blocks.1.layers.0.op.0.weight',
        stem=rf'blocks\.0\.(?P<slot>[01])\.{_FIELDS}',
        layer=rf'blocks\.(?P<stage>{_NUMBER})\.layers\.(?P<layer>{_NUMBER})\.op\.(?P<slot>[0-9])\.{_FIELDS}',
        head=rf'blocks\.{_NUMBER}\.conv\.(?P<slot>[01])\.{_FIELDS}',
        dropped=r'(classifier|extra)\..*',
        slots=_by_order,
        bn_eps=1e-3,
        eps_is_certain=True,
    ),
)
