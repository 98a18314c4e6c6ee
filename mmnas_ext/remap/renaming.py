"""Writes a network's tensors under the keys of other projects; `mmnas_ext.remap.formats` reads all of them back."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from torch import Tensor

from mmnas_ext.archs import ArchSpec, BlockSpec, LayerSpec
from mmnas_ext.archs.blocks import BasicSpec, BottleneckSpec, FusedSpec
from mmnas_ext.archs.convs import DEFAULT_STEM

_TIMM = {
    'expand.conv': 'conv_pw', 'expand.bn': 'bn1', 'depthwise.conv': 'conv_dw', 'depthwise.bn': 'bn2',
    'project.conv': 'conv_pwl', 'project.bn': 'bn3', 'se.reduce': 'se.conv_reduce', 'se.expand': 'se.conv_expand',
}  # fmt: skip
# of a layer without an expansion
_TIMM_FIRST = {**_TIMM, 'depthwise.bn': 'bn1', 'project.conv': 'conv_pw', 'project.bn': 'bn2'}
_TIMM_FUSED = {
    'conv.conv': 'conv_exp', 'conv.bn': 'bn1', 'project.conv': 'conv_pwl', 'project.bn': 'bn2',
    'se.reduce': 'se.conv_reduce', 'se.expand': 'se.conv_expand',
}  # fmt: skip
_TIMM_PLAIN = {'conv.conv': 'conv', 'conv.bn': 'bn1'}
_TIMM_ENDS = {'stem.conv': 'conv_stem', 'stem.bn': 'bn1', 'head.conv': 'conv_head', 'head.bn': 'bn2'}
_TORCHVISION = {'expand.conv': 'conv.0.0', 'expand.bn': 'conv.0.1', 'depthwise.conv': 'conv.1.0',
                'depthwise.bn': 'conv.1.1', 'project.conv': 'conv.2', 'project.bn': 'conv.3'}  # fmt: skip
_TORCHVISION_FIRST = {
    'depthwise.conv': 'conv.0.0', 'depthwise.bn': 'conv.0.1', 'project.conv': 'conv.1', 'project.bn': 'conv.2',
}  # fmt: skip
_RESNET_ENDS = {'stem.conv': 'conv1', 'stem.bn': 'bn1'}
_RESNET_SHORTCUT = {'shortcut.conv': 'downsample.0', 'shortcut.bn': 'downsample.1'}

Names = Callable[[ArchSpec], dict[str, str]]


def rename(state: Mapping[str, Tensor], arch: ArchSpec, keys: str) -> 'OrderedDict[str, Tensor]':
    """Returns an `MBNet`'s tensors under other keys.

    Args:
        state: Tensors under `MBNet`'s keys, of the whole network or without its head.
        arch: Its architecture.
        keys: One of `KEYS`: ``'mbnet'`` leaves them, ``'timm'`` are those of its EfficientNet, ``'torchvision'`` those
            of its MobileNetV2, or of its ResNet if all layers are a ResNet's.

    Raises:
        ValueError: There are no such keys, or they have none for a layer of this network.
    """
    if keys not in KEYS:
        raise ValueError(f'keys must be one of {", ".join(KEYS)}, got {keys!r:.60}')
    names = KEYS[keys](arch)
    renamed: OrderedDict[str, Tensor] = OrderedDict()
    for key, tensor in state.items():
        module, _, field = key.rpartition('.')
        renamed[f'{names.get(module, module)}.{field}'] = tensor
    return renamed


def _mbnet(arch: ArchSpec) -> dict[str, str]:
    return {}


def _timm(arch: ArchSpec) -> dict[str, str]:
    _check_stem(arch, 'timm', DEFAULT_STEM)
    names = dict(_TIMM_ENDS)
    for i, j, layer in _listed(arch):
        if not isinstance(layer, LayerSpec | FusedSpec) or layer.hard:
            raise ValueError(
                f"keys 'timm' are those of its EfficientNet, which has no {layer.format()} (layer {j} of stage {i})"
            )
        fused = _TIMM_FUSED if layer.expansion > 1 else _TIMM_PLAIN
        plain = _TIMM if layer.expansion > 1 else _TIMM_FIRST
        table = fused if isinstance(layer, FusedSpec) else plain
        names |= {f'stages.{i}.{j}.{ours}': f'blocks.{i}.{j}.{theirs}' for ours, theirs in table.items()}
    return names


def _torchvision(arch: ArchSpec) -> dict[str, str]:
    if all(isinstance(layer, BasicSpec | BottleneckSpec) for _, _, layer in _listed(arch)):
        return _resnet(arch)
    _check_stem(arch, 'torchvision', DEFAULT_STEM)
    last = 1 + sum(arch.depths)
    names = {f'{ours}.{part}': f'features.{number}.{at}' for ours, number in (('stem', 0), ('head', last))
             for at, part in enumerate(('conv', 'bn'))}  # fmt: skip
    for number, (i, j, layer) in enumerate(_listed(arch), start=1):
        if not isinstance(layer, LayerSpec):
            raise ValueError(
                f"keys 'torchvision' are those of MobileNetV2 or of ResNet, and layer {j} of stage {i} is a "
                f'{layer.title}'
            )
        if layer.se:
            raise ValueError(
                f"keys 'torchvision' have none for the squeeze-excite of layer {j} of stage {i}: take 'timm'"
            )
        table = _TORCHVISION if layer.expansion > 1 else _TORCHVISION_FIRST
        names |= {f'stages.{i}.{j}.{ours}': f'features.{number}.{theirs}' for ours, theirs in table.items()}
    return names


def _resnet(arch: ArchSpec) -> dict[str, str]:
    _check_stem(arch, 'torchvision', 'conv7_pool')
    if arch.head_channels is not None:
        raise ValueError(
            "keys 'torchvision' have none for the 1x1 head of a ResNet: leave out the head, or take 'mbnet'"
        )
    names = dict(_RESNET_ENDS)
    for i, j, layer in _listed(arch):
        width = arch.stages[i].channels
        inside = [conv.name for conv in layer.convs(width, width) if not conv.beside]
        table = {f'{name}.{part}': f'{part}{at}' for at, name in enumerate(inside, start=1) for part in ('conv', 'bn')}
        table |= _RESNET_SHORTCUT
        names |= {f'stages.{i}.{j}.{ours}': f'layer{i + 1}.{j}.{theirs}' for ours, theirs in table.items()}
    return names


def _check_stem(arch: ArchSpec, keys: str, stem: str) -> None:
    if arch.stem != stem:
        raise ValueError(f"keys {keys!r} have none for the stem {arch.stem!r} before these layers: take 'mbnet'")


def _listed(arch: ArchSpec) -> list[tuple[int, int, BlockSpec]]:
    """The layers, each with its stage and its index in the stage."""
    return [(i, j, layer) for i, stage in enumerate(arch.stages) for j, layer in enumerate(stage.specs)]


KEYS: dict[str, Names] = {'mbnet': _mbnet, 'timm': _timm, 'torchvision': _torchvision}
