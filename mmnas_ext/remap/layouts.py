"""Checkpoint layouts of other projects: what their keys look like, and which tensors of a layer belong together."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from mmnas_ext.archs import ArchSpec

_FIELDS = r'(?P<field>weight|bias|running_mean|running_var|num_batches_tracked)'
_NUMBER = r'(0|[1-9]\d{0,3})'
_CONV_FIRST = {'conv': -2, 'bn': -1}
# of our own layers, in the order in which they run
_OURS = ('expand', 'enter', 'depthwise', 'conv', 'project')
_BESIDE = 'shortcut'
_SE_NAMES = {
    'se.conv_reduce': 'se.reduce', 'se.conv_expand': 'se.expand',
    '_se_reduce': 'se.reduce', '_se_expand': 'se.expand',
    'se.reduce': 'se.reduce', 'se.expand': 'se.expand',
    'se.conv1.conv': 'se.reduce', 'se.conv2.conv': 'se.expand',
}  # fmt: skip
_SE_NUMBERS = {'fc1': 'se.reduce', 'fc2': 'se.expand'}
_SHORTCUT = {'downsample.0': 'shortcut.conv', 'downsample.1': 'shortcut.bn'}


class Modules(NamedTuple):
    """The modules of one layer of a checkpoint, by the names that they have there.

    Args:
        pairs: Convolutions with their norms, in the order in which they run.
        named: Modules whose name in an `MBNet` is certain, with it: squeeze-excite and shortcut.
        names: Names of the convolutions in an `MBNet`, where they are certain.
    """

    pairs: tuple[tuple[str, str], ...]
    named: dict[str, str]
    names: tuple[str, ...] | None = None


Sort = Callable[[Iterable[str]], Modules]


def _usual_eps(arch: ArchSpec) -> float | None:
    return None


@dataclass(frozen=True)
class Layout:
    """The keys of one project's checkpoints.

    Args:
        name: Name of the layout in messages.
        markers: Keys of which every checkpoint of this layout has one, and none of another layout does.
        stem: Pattern of the stem's keys; its group ``slot`` names the convolution or the norm.
        layer: Pattern of the layers' keys, with the groups ``slot``, ``layer`` and ``stage``; without ``stage`` if
            the layers are numbered through the whole network.
        head: Pattern of the 1x1 head's keys.
        dropped: Pattern of keys that a backbone does not need: the classifier.
        sort: Function that sorts a layer's modules.
        family: Whose strides, stem and activations the networks have, see `mmnas_ext.remap.inference`.
        bn_eps: Epsilon of the batch norms that the weights of a network were trained with; ``None`` for 1e-5.
        eps_is_certain: Whether all files of this layout were trained with it.
        ends_in_head: Whether the last layer is the 1x1 head.
        flat: Whether stages follow from the widths although the keys number them.
    """

    name: str
    markers: tuple[str, ...]
    stem: str
    layer: str
    head: str
    dropped: str
    sort: Sort
    family: str = 'mbconv'
    bn_eps: Callable[[ArchSpec], float | None] = _usual_eps
    eps_is_certain: bool = False
    ends_in_head: bool = False
    flat: bool = False


def _by_name(slots: Iterable[str]) -> Modules:
    """Sorts modules that have MBNet's names."""
    slots = set(slots)
    found = {slot.rpartition('.')[0] for slot in slots if not slot.startswith('se.')}
    names = tuple(name for name in _OURS if name in found)
    named = {slot: slot for slot in slots if slot.startswith(('se.', f'{_BESIDE}.'))}
    return Modules(tuple((f'{name}.conv', f'{name}.bn') for name in names), named, names)


def _by_order(slots: Iterable[str]) -> Modules:
    """Sorts numbered modules: convolutions and norms alternate in the order in which they run."""
    slots = set(slots)
    named = {slot: _SE_NUMBERS[slot.rpartition('.')[2]] for slot in slots if slot.endswith(tuple(_SE_NUMBERS))}
    ordered = sorted(slots - named.keys(), key=_numbers)
    if len(ordered) not in (2, 4, 6):
        raise ValueError(f'expected 2 or 3 convolutions, each with its norm, got {len(ordered)} modules: {ordered}')
    return Modules(tuple(zip(ordered[::2], ordered[1::2], strict=True)), named)


def _numbers(slot: str) -> list[int]:
    return [_CONV_FIRST.get(part) or int(part) for part in slot.split('.')]


def _by_table(kind: str, *tables: tuple[str, ...]) -> Sort:
    """Returns a function that sorts named modules.

    Args:
        kind: What such a layer is called.
        tables: The modules of one kind of layer each, in the order in which they run.
    """
    known = _SE_NAMES | _SHORTCUT

    def sort(slots: Iterable[str]) -> Modules:
        slots = set(slots)
        plain = sorted(slots - known.keys())
        for table in tables:
            if plain == sorted(table):
                named = {slot: known[slot] for slot in slots & known.keys()}
                return Modules(tuple(zip(table[::2], table[1::2], strict=True)), named)
        raise ValueError(f'expected the modules of {kind}, {" or ".join(map(str, tables))}, got {plain[:6]}')

    return sort


def _lite_eps(arch: ArchSpec) -> float:
    return 1e-3


def _fna_eps(arch: ArchSpec) -> float | None:
    # the authors' ImageNet seed and SSDLite backbone, which have a head, use 1e-3, their RetinaNet and DeepLab
    # backbones 1e-5
    return 1e-3 if arch.head_channels else None


def _torchvision_efficientnet_eps(arch: ArchSpec) -> float | None:
    """1e-3 from B5 on, which has three layers in its first stage, and in V2, which begins with fused layers."""
    first = arch.stages[0]
    return 1e-3 if len(first.layers) > 2 or first.layers[0].startswith('fused_') else None


_MBCONV = 'an MBConv layer'
_TIMM_LAYER = ('conv_pw', 'bn1', 'conv_dw', 'bn2', 'conv_pwl', 'bn3')
_TIMM_FIRST = ('conv_dw', 'bn1', 'conv_pw', 'bn2')
_TIMM_FUSED = ('conv_exp', 'bn1', 'conv_pwl', 'bn2')
_TIMM_PLAIN = ('conv', 'bn1')
_LITE_LAYER = ('_expand_conv', '_bn0', '_depthwise_conv', '_bn1', '_project_conv', '_bn2')
_MMDET_LAYER = tuple(f'{conv}_conv.{part}' for conv in ('expand', 'depthwise', 'linear') for part in ('conv', 'bn'))
_RESNET_LAYER = ('conv1', 'bn1', 'conv2', 'bn2', 'conv3', 'bn3')
_MM_SLOT = r'(?P<slot>\w+_conv\.(?:conv|bn)|se\.conv[12]\.conv)'
_TIMM = Layout(
    # timm has two families with these keys: ``efficientnet_lite0`` uses 1e-5, ``tf_efficientnet_lite0`` 1e-3. They have
    # the same keys, so the former is assumed, whose padding is symmetric like ours; ``arch`` overrides it.
    name='timm MobileNetV2, EfficientNet(-Lite), DNA',
    markers=('blocks.0.0.conv_dw.weight',),
    stem=rf'(?P<slot>conv_stem|bn1)\.{_FIELDS}',
    layer=rf'blocks\.(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.(?P<slot>(?:se\.)?\w+)\.{_FIELDS}',
    head=rf'(?P<slot>conv_head|bn2)\.{_FIELDS}',
    dropped=r'classifier\..*',
    sort=_by_table(_MBCONV, _TIMM_LAYER, _TIMM_FIRST),
    family='timm',
)
LAYOUTS = (
    Layout(
        name='mmnas_ext MBNet',
        markers=('stages.0.0.depthwise.conv.weight', 'stages.0.0.conv.conv.weight'),
        stem=rf'stem\.(?P<slot>conv|bn)\.{_FIELDS}',
        layer=rf'stages\.(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.'
        rf'(?P<slot>(?:{"|".join(_OURS)}|{_BESIDE})\.(?:conv|bn)|se\.(?:reduce|expand))\.{_FIELDS}',
        head=rf'head\.(?P<slot>conv|bn)\.{_FIELDS}',
        dropped=r'(head\.fc|classifier|fc)\..*',
        sort=_by_name,
        family='ours',
    ),
    Layout(
        name='torchvision MobileNetV2',
        markers=('features.1.conv.0.0.weight',),
        stem=rf'features\.0\.(?P<slot>[01])\.{_FIELDS}',
        layer=rf'features\.(?P<layer>{_NUMBER})\.conv\.(?P<slot>[01]\.[01]|[123])\.{_FIELDS}',
        head=rf'features\.[1-9]\d*\.(?P<slot>[01])\.{_FIELDS}',
        dropped=r'classifier\..*',
        sort=_by_order,
    ),
    Layout(
        name='torchvision MobileNetV3',
        markers=('features.1.block.0.0.weight',),
        stem=rf'features\.0\.(?P<slot>[01])\.{_FIELDS}',
        layer=rf'features\.(?P<layer>{_NUMBER})\.block\.(?P<slot>[0-3]\.(?:[01]|fc[12]))\.{_FIELDS}',
        head=rf'features\.[1-9]\d*\.(?P<slot>[01])\.{_FIELDS}',
        dropped=r'classifier\..*',
        sort=_by_order,
        family='mobilenet_v3',
        bn_eps=_lite_eps,
        eps_is_certain=True,
    ),
    Layout(
        name='torchvision EfficientNet',
        markers=('features.1.0.block.0.0.weight',),
        stem=rf'features\.0\.(?P<slot>[01])\.{_FIELDS}',
        layer=rf'features\.(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.block\.'
        rf'(?P<slot>[0-3]\.(?:[01]|fc[12]))\.{_FIELDS}',
        head=rf'features\.[1-9]\d*\.(?P<slot>[01])\.{_FIELDS}',
        dropped=r'classifier\..*',
        sort=_by_order,
        family='efficientnet',
        bn_eps=_torchvision_efficientnet_eps,
    ),
    # torchvision, timm and OpenMMLab have the same keys. Where a bottleneck has its stride they do not tell: in its
    # 3x3 convolution, as in all of torchvision's and timm's, and OpenMMLab's of style 'pytorch'
    Layout(
        name='ResNet of torchvision, timm, MMPretrain, MMDetection and MMSegmentation',
        markers=('layer1.0.conv1.weight',),
        stem=rf'(?P<slot>conv1|bn1)\.{_FIELDS}',
        layer=rf'layer(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.(?P<slot>(?:conv|bn)[123]|downsample\.[01])\.{_FIELDS}',
        head=r'(?!)',
        dropped=r'(fc|head)\..*',
        sort=_by_table("a ResNet's layer", _RESNET_LAYER, _RESNET_LAYER[:4]),
        family='resnet',
    ),
    # its last stage is the 1x1 convolution that is the head elsewhere, and what it calls its head has no norm. The same
    # holds as of EfficientNet: 1e-5 is assumed, and timm's ``tf_`` networks have 1e-3
    replace(
        _TIMM,
        name='timm MobileNetV3',
        markers=('conv_head.bias',),
        head=r'(?!)',
        dropped=r'(classifier|conv_head)\..*',
        family='mobilenet_v3',
        ends_in_head=True,
    ),
    _TIMM,
    replace(
        _TIMM,
        name='timm EfficientNetV2',
        markers=('blocks.0.0.conv.weight',),
        sort=_by_table('an MBConv or fused layer', _TIMM_LAYER, _TIMM_FUSED, _TIMM_PLAIN),
        family='efficientnet',
    ),
    Layout(
        name='MMDetection MobileNetV2',
        markers=('layer1.0.depthwise_conv.conv.weight',),
        stem=rf'conv1\.(?P<slot>conv|bn)\.{_FIELDS}',
        layer=rf'layer(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.(?P<slot>\w+_conv\.(?:conv|bn))\.{_FIELDS}',
        head=rf'conv2\.(?P<slot>conv|bn)\.{_FIELDS}',
        dropped=r'(head|fc)\..*',
        sort=_by_table(_MBCONV, _MMDET_LAYER, _MMDET_LAYER[2:]),
    ),
    Layout(
        name='MMPretrain and MMSegmentation MobileNetV2',
        markers=('layer1.0.conv.0.conv.weight',),
        stem=rf'conv1\.(?P<slot>conv|bn)\.{_FIELDS}',
        layer=rf'layer(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.conv\.(?P<slot>[012]\.(?:conv|bn))\.{_FIELDS}',
        head=rf'conv2\.(?P<slot>conv|bn)\.{_FIELDS}',
        dropped=r'(head|fc)\..*',
        sort=_by_order,
    ),
    Layout(
        name='MMPretrain MobileNetV3',
        markers=('layer1.depthwise_conv.conv.weight',),
        stem=rf'layer0\.(?P<slot>conv|bn)\.{_FIELDS}',
        layer=rf'layer(?P<layer>{_NUMBER})\.{_MM_SLOT}\.{_FIELDS}',
        head=rf'layer[1-9]\d*\.(?P<slot>conv|bn)\.{_FIELDS}',
        dropped=r'(head|fc)\..*',
        sort=_by_table(_MBCONV, _MMDET_LAYER, _MMDET_LAYER[2:]),
        family='mobilenet_v3',
        bn_eps=_lite_eps,
    ),
    # two of its ``layers`` hold two stages each
    Layout(
        name='MMPretrain and MMDetection EfficientNet',
        markers=('layers.1.0.depthwise_conv.conv.weight',),
        stem=rf'layers\.0\.(?P<slot>conv|bn)\.{_FIELDS}',
        layer=rf'layers\.(?P<stage>{_NUMBER})\.(?P<layer>{_NUMBER})\.{_MM_SLOT}\.{_FIELDS}',
        head=rf'layers\.[1-9]\d*\.(?P<slot>conv|bn)\.{_FIELDS}',
        dropped=r'(head|fc)\..*',
        sort=_by_table(_MBCONV, _MMDET_LAYER, _MMDET_LAYER[2:]),
        family='efficientnet',
        bn_eps=_lite_eps,
        flat=True,
    ),
    Layout(
        name='efficientnet_lite_pytorch',
        markers=('_blocks.0._depthwise_conv.weight',),
        stem=rf'(?P<slot>_conv_stem|_bn0)\.{_FIELDS}',
        layer=rf'_blocks\.(?P<layer>{_NUMBER})\.(?P<slot>\w+)\.{_FIELDS}',
        head=rf'(?P<slot>_conv_head|_bn1)\.{_FIELDS}',
        dropped=r'_fc\..*',
        sort=_by_table(_MBCONV, _LITE_LAYER, _LITE_LAYER[2:]),
        bn_eps=_lite_eps,
        eps_is_certain=True,
    ),
    # ``extra`` are SSDLite's layers after the backbone
    Layout(
        name="FNA authors' networks",
        markers=('blocks.1.layers.0.op.0.weight',),
        stem=rf'blocks\.0\.(?P<slot>[01])\.{_FIELDS}',
        layer=rf'blocks\.(?P<stage>{_NUMBER})\.layers\.(?P<layer>{_NUMBER})\.op\.(?P<slot>[0-9])\.{_FIELDS}',
        head=rf'blocks\.{_NUMBER}\.conv\.(?P<slot>[01])\.{_FIELDS}',
        dropped=r'(classifier|extra)\..*',
        sort=_by_order,
        bn_eps=_fna_eps,
        eps_is_certain=True,
    ),
)


def recognise(keys: Iterable[str]) -> tuple[Layout, str]:
    """Recognises the layout of a checkpoint with these keys; returns it and the prefix of the network's keys.

    Raises:
        ValueError: The layout is unknown, the checkpoint has several networks, or it has a super-network.
    """
    keys = list(keys)
    for layout in LAYOUTS:
        prefixes = sorted({prefix for marker in layout.markers for prefix in _prefixes(keys, marker)})
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


def _prefixes(keys: list[str], marker: str) -> set[str]:
    return {key.removesuffix(marker) for key in keys if key == marker or key.endswith('.' + marker)}
