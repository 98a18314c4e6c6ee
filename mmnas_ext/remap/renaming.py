"""Writes a network's tensors under the keys of other projects; `mmnas_ext.remap.formats` reads all of them back."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

from torch import Tensor

from mmnas_ext.archs import ArchSpec

_TIMM = {
    'expand.conv': 'conv_pw', 'expand.bn': 'bn1', 'depthwise.conv': 'conv_dw', 'depthwise.bn': 'bn2',
    'project.conv': 'conv_pwl', 'project.bn': 'bn3', 'se.reduce': 'se.conv_reduce', 'se.expand': 'se.conv_expand',
}  # fmt: skip
# of a layer without an expansion
_TIMM_FIRST = {**_TIMM, 'depthwise.bn': 'bn1', 'project.conv': 'conv_pw', 'project.bn': 'bn2'}
_TIMM_ENDS = {'stem.conv': 'conv_stem', 'stem.bn': 'bn1', 'head.conv': 'conv_head', 'head.bn': 'bn2'}
_TORCHVISION = {'expand.conv': 'conv.0.0', 'expand.bn': 'conv.0.1', 'depthwise.conv': 'conv.1.0',
                'depthwise.bn': 'conv.1.1', 'project.conv': 'conv.2', 'project.bn': 'conv.3'}  # fmt: skip
_TORCHVISION_FIRST = {
    'depthwise.conv': 'conv.0.0', 'depthwise.bn': 'conv.0.1', 'project.conv': 'conv.1', 'project.bn': 'conv.2',
}  # fmt: skip

Names = Callable[[ArchSpec], dict[str, str]]


def rename(state: Mapping[str, Tensor], arch: ArchSpec, keys: str) -> 'OrderedDict[str, Tensor]':
    """Returns an `MBNet`'s tensors under other keys.

    Args:
        state: Tensors under `MBNet`'s keys, of the whole network or without its head.
        arch: Its architecture.
        keys: One of `KEYS`: ``'mbnet'`` leaves them, ``'timm'`` are those of its EfficientNet, ``'torchvision'`` those
            of its MobileNetV2.

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
    names = dict(_TIMM_ENDS)
    for i, stage in enumerate(arch.stages):
        for j, layer in enumerate(stage.specs):
            table = _TIMM if layer.expansion > 1 else _TIMM_FIRST
            names |= {f'stages.{i}.{j}.{ours}': f'blocks.{i}.{j}.{theirs}' for ours, theirs in table.items()}
    return names


def _torchvision(arch: ArchSpec) -> dict[str, str]:
    last = 1 + sum(arch.depths)
    names = {f'{ours}.{part}': f'features.{number}.{at}' for ours, number in (('stem', 0), ('head', last))
             for at, part in enumerate(('conv', 'bn'))}  # fmt: skip
    number = 0
    for i, stage in enumerate(arch.stages):
        for j, layer in enumerate(stage.specs):
            number += 1
            if layer.se:
                raise ValueError(
                    f"keys 'torchvision' have none for the squeeze-excite of layer {j} of stage {i}: take 'timm'"
                )
            table = _TORCHVISION if layer.expansion > 1 else _TORCHVISION_FIRST
            names |= {f'stages.{i}.{j}.{ours}': f'features.{number}.{theirs}' for ours, theirs in table.items()}
    return names


KEYS: dict[str, Names] = {'mbnet': _mbnet, 'timm': _timm, 'torchvision': _torchvision}
