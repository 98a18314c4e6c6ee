"""The architecture of a checkpoint, from the shapes of its tensors; what these do not tell, from known networks."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from mmnas_ext.archs import ArchSpec, BlockSpec, StageSpec, zoo
from mmnas_ext.remap.layouts import Modules

# strides of families by the number of stages: no checkpoint says them. The first are MobileNetV2's
_STRIDES: dict[str, dict[int, tuple[int, ...]]] = {
    'mbconv': {7: (1, 2, 2, 2, 1, 2, 1)},
    'timm': {7: (1, 2, 2, 2, 1, 2, 1)},
    'efficientnet': {6: (1, 2, 2, 2, 1, 2), 7: (1, 2, 2, 2, 1, 2, 1)},
    'resnet': {4: (1, 2, 2, 2)},
}
_ACTS = {'efficientnet': 'swish', 'resnet': 'relu'}
# networks whose activations differ from layer to layer
_MIXED = {'mobilenet_v3': ('mobilenet_v3_large', 'mobilenet_v3_small')}
# networks without squeeze-excite whose keys timm's MnasNets share, with another activation
_PLAIN = ('mobilenet_v2', 'efficientnet_lite0')
_NAMES = (
    ('expand', 'depthwise', 'project'), ('depthwise', 'project'), ('conv',), ('conv', 'project'),
    ('enter', 'conv', 'project'),
)  # fmt: skip
_RATIOS = (0.25, 0.5, 0.125)
_DIGITS = 6

Tensors = Mapping[str, Tensor]


def name_convs(modules: Modules, weights: Sequence[Tensor], family: str) -> tuple[str, ...]:
    """Names a layer's convolutions as `MBNet` does.

    Args:
        modules: The layer's modules.
        weights: Weights ``(O, I, K, K)`` of its convolutions, in the order in which they run.
        family: The layout's family.

    Raises:
        ValueError: Names that are certain are those of no layer.
    """
    if modules.names is not None:
        if modules.names not in _NAMES:
            raise ValueError(
                f'its convolutions are {list(modules.names)}, and those of a layer {list(map(list, _NAMES))}'
            )
        return modules.names
    if family == 'resnet':
        return ('enter', 'conv', 'project')[-len(weights) :]
    if len(weights) == 1:
        return ('conv',)
    # of a depthwise convolution each channel has weights of its own
    depthwise = weights[-2].shape[1] == 1
    if len(weights) == 2 and not depthwise:
        return ('conv', 'project')
    return ('expand', 'depthwise', 'project')[-len(weights) :]


def infer_arch(stem: Tensor, head: Tensor | None, stages: Sequence[Sequence[Tensors]], family: str) -> ArchSpec:
    """Infers an architecture.

    Args:
        stem: Weight of the stem's convolution.
        head: Weight of the head's; ``None`` without one.
        stages: Per stage its layers' tensors under `MBNet`'s names.
        family: The layout's family; ``'ours'`` is told by the layers.

    Raises:
        ValueError: It does not follow from the shapes, or no network of the family has them.
    """
    if family == 'ours':
        family = 'resnet' if all('shortcut.conv.weight' in stage[0] for stage in stages[1:]) else 'mbconv'
    known = _find_known(stages, family)
    strides = _strides(len(stages), family) if known is None else tuple(stage.stride for stage in known.stages)
    found = []
    entering = stem.shape[0]
    for i, (stage, stride) in enumerate(zip(stages, strides, strict=True)):
        channels = out_channels(stage[0])
        tokens = []
        for j, tensors in enumerate(stage):
            token = _token(tensors, channels if j else entering, family, f'layer {j} of stage {i}')
            act = None if known is None else known.stages[i].specs[j].act
            tokens.append(token if act is None else f'{token}_{act}')
        found.append(StageSpec(entering, channels, tuple(tokens), stride))
        entering = channels
    _check_activation(found, family)
    gated = any('se.reduce.weight' in tensors for stage in stages for tensors in stage)
    act = known.act if known is not None else _ACTS.get(family, 'swish' if gated else 'relu6')
    return ArchSpec(tuple(found), None if head is None else head.shape[0], act, stem=_stem(stem, family))


def out_channels(tensors: Tensors) -> int:
    """Channels of a layer's output."""
    return next(tensors[key] for key in ('project.conv.weight', 'conv.conv.weight') if key in tensors).shape[0]


def _main(tensors: Tensors) -> Tensor:
    """Weight of a layer's first k x k convolution."""
    return next(tensors[key] for key in ('depthwise.conv.weight', 'conv.conv.weight') if key in tensors)


def _stem(weight: Tensor, family: str) -> str:
    """The stem; a small one of a ResNet, for small images, is followed by no pooling."""
    if family != 'resnet':
        return 'conv3'
    if weight.shape[-1] != 7:
        raise ValueError(
            f'the stem of a ResNet must be a 7x7 convolution, which max pooling follows, got a weight of shape '
            f'{tuple(weight.shape)}'
        )
    return 'conv7_pool'


def _strides(count: int, family: str) -> tuple[int, ...]:
    known = _STRIDES[family]
    if count not in known:
        raise ValueError(
            f'the checkpoint has {count} stages: strides do not follow from the weights and are known for '
            f'{" or ".join(map(str, known))} stages only, so give arch'
        )
    return known[count]


def _find_known(stages: Sequence[Sequence[Tensors]], family: str) -> ArchSpec | None:
    """The network of the zoo whose activations these layers have: one with the same kernels and gates.

    Raises:
        ValueError: Its family has none such.
    """
    if family not in _MIXED:
        return None
    layers = [[(_main(t).shape[-1], 'se.reduce.weight' in t) for t in stage] for stage in stages]
    for name in _MIXED[family]:
        arch = zoo.arch(name)
        if layers == [[(layer.kernel, bool(layer.se)) for layer in stage.specs] for stage in arch.stages]:
            return arch
    raise ValueError(
        'activations and strides do not follow from the weights, and its kernels and squeeze-excites are not those '
        f'of {" or ".join(_MIXED[family])}: give arch'
    )


def _check_activation(stages: Sequence[StageSpec], family: str) -> None:
    """Raises ValueError where keys that several families share leave open whose activation the layers have.

    Swish is that of networks whose MBConv layers all have squeeze-excite: EfficientNets and DNA's. Of timm's without
    any, ReLU6 is that of the kernels and expansions of MobileNetV2 and EfficientNet-Lite, and of networks found in a
    space of their widths.
    """
    if family not in ('timm', 'efficientnet'):
        return
    gates = {bool(block.se) for stage in stages for block in stage.specs if not block.prefix}
    if False not in gates:
        return
    plain = [zoo.arch(name).stages for name in _PLAIN] if family == 'timm' and True not in gates else []
    if not any(_choices(stages) == _choices(each) or _widths(stages) == _widths(each) for each in plain):
        raise ValueError(
            'the activation does not follow from the weights: kernels, expansions and squeeze-excites are not those of '
            'MobileNetV2, EfficientNet(-Lite) or DNA, but of a network such as MnasNet: give arch'
        )


def _choices(stages: Sequence[StageSpec]) -> list[set[tuple[int, float]]]:
    return [{(block.kernel, block.expansion) for block in stage.specs} for stage in stages]


def _widths(stages: Sequence[StageSpec]) -> list[int]:
    return [stage.channels for stage in stages]


def _token(tensors: Tensors, in_channels: int, family: str, where: str) -> str:
    """The token of a layer with these shapes, without an activation."""
    channels = out_channels(tensors)
    weight, prefix = _main(tensors), ''
    if 'conv.conv.weight' in tensors:
        basic = family == 'resnet' or tensors.get('project.conv.weight', weight[..., :1, :1]).shape[-1] > 1
        prefix = 'bottleneck_' if 'enter.conv.weight' in tensors else 'basic_' if basic else 'fused_'
    inside = weight.shape[0] if 'project.conv.weight' in tensors else in_channels
    groups = inside // weight.shape[1] if prefix == 'bottleneck_' else 1
    suffix = f'_g{groups}' if groups > 1 else ''
    token = _expanded(f'{prefix}k{weight.shape[-1]}_e', suffix, inside, in_channels, channels)
    block = BlockSpec.parse(token) if token else None
    if block is None or block.expands != ('expand.conv.weight' in tensors):
        raise ValueError(
            f'{where} expands {in_channels} channels to {inside}: the expansion must be a whole number, or one that '
            'is rounded to a multiple of 8'
        )
    if 'se.reduce.weight' not in tensors:
        return token
    return _gated(block, tensors['se.reduce.weight'].shape[0], in_channels, family, where)


def _expanded(start: str, end: str, inside: int, in_channels: int, channels: int) -> str:
    """The token with the shortest expansion that gives this width inside; empty if none does."""
    base = channels if BlockSpec.parse(f'{start}1').least < 1 else in_channels
    for digits in range(_DIGITS + 1):
        factor = round(inside / base, digits)
        token = f'{start}{factor:.{digits}f}{end}'
        try:
            if BlockSpec.parse(token).hidden(in_channels, channels) == inside:
                return BlockSpec.parse(token).format()
        except ValueError:
            continue
    return ''


def _gated(block: BlockSpec, squeezed: int, in_channels: int, family: str, where: str) -> str:
    """The token with the squeeze-excite that has so many channels."""
    kind, base = ('hse', block.hidden(in_channels)) if family in _MIXED else ('se', in_channels)
    for ratio in (*_RATIOS, round(squeezed / base, _DIGITS)):
        if 0 < ratio <= 1:
            gated = BlockSpec.parse(f'{block.format()}_{kind}{ratio:.{_DIGITS}f}')
            if gated.squeezed(in_channels) == squeezed:
                return gated.format()
    what = 'its' if kind == 'hse' else f'its {in_channels} input'
    raise ValueError(f'{where} squeezes to {squeezed} channels: it must be at most {what} channels')
