"""Which tensors a network has: names and shapes of an MBNet's or SuperNet's state dict, without building either."""

from collections.abc import Iterator
from dataclasses import dataclass

from mmnas_ext.archs import SKIP, ArchSpec, LayerSpec, SearchSpace, SpaceStage, StageSpec

Shapes = dict[str, tuple[int, ...]]
COUNTER = 'num_batches_tracked'
AFFINE_FIELDS = ('weight', 'bias')
NORM_FIELDS = (*AFFINE_FIELDS, 'running_mean', 'running_var', COUNTER)


@dataclass(frozen=True)
class Layer:
    """One MBConv layer and where its tensors are found.

    Args:
        prefix: Start of its tensors' names, with the dot: ``stages.1.0.`` or ``stages.1.0.candidates.k3_e6.``.
        stage: Index of its stage.
        index: Index in its stage.
        in_channels: Channels that enter.
        channels: Channels that leave.
        block: Kernel, expansion and squeeze-excite ratio.
        norms: Which tensors its norms have; those of a super-network's candidates have none, or affine ones alone.
    """

    prefix: str
    stage: int
    index: int
    in_channels: int
    channels: int
    block: LayerSpec
    norms: tuple[str, ...] = NORM_FIELDS

    @property
    def hidden(self) -> int:
        """Channels of the depthwise part."""
        return self.block.hidden(self.in_channels)

    def shapes(self) -> Shapes:
        """The layer's tensors, names without its prefix."""
        kernel = self.block.kernel
        tensors: Shapes = {}
        if self.block.expansion > 1:
            tensors |= conv_shapes('expand.', (self.hidden, self.in_channels, 1, 1), self.norms)
        tensors |= conv_shapes('depthwise.', (self.hidden, 1, kernel, kernel), self.norms)
        if self.block.se:
            squeezed = self.block.squeezed(self.in_channels)
            tensors['se.reduce.weight'] = (squeezed, self.hidden, 1, 1)
            tensors['se.reduce.bias'] = (squeezed,)
            tensors['se.expand.weight'] = (self.hidden, squeezed, 1, 1)
            tensors['se.expand.bias'] = (self.hidden,)
        return tensors | conv_shapes('project.', (self.channels, self.hidden, 1, 1), self.norms)


def conv_shapes(prefix: str, weight: tuple[int, int, int, int], norms: tuple[str, ...] = NORM_FIELDS) -> Shapes:
    """A convolution without bias of `weight` ``(O, I, K, K)`` and the batch norm after it."""
    tensors: Shapes = {f'{prefix}conv.weight': weight}
    return tensors | {f'{prefix}bn.{field}': () if field == COUNTER else weight[:1] for field in norms}


def layers(spec: ArchSpec | SearchSpace, affine: bool = False) -> Iterator[Layer]:
    """All layers of a network, or all candidates of a space, first stage first.

    Args:
        spec: The network or space.
        affine: Whether the norms of a space's candidates have weights and biases.
    """
    stages: tuple[StageSpec | SpaceStage, ...] = spec.stages
    for i, stage in enumerate(stages):
        for j, choices in enumerate(stage.layers):
            tokens = (choices,) if isinstance(choices, str) else choices
            in_channels = stage.in_channels if j == 0 else stage.channels
            prefix = f'stages.{i}.{j}.'
            if len(tokens) == 1:
                yield Layer(prefix, i, j, in_channels, stage.channels, LayerSpec.parse(tokens[0]))
                continue
            for token in tokens:
                if token != SKIP:
                    # module names cannot hold a dot
                    name = f'{prefix}candidates.{token.replace(".", "_")}.'
                    norms = AFFINE_FIELDS if affine else ()
                    yield Layer(name, i, j, in_channels, stage.channels, LayerSpec.parse(token), norms)


def stem_shapes(spec: ArchSpec | SearchSpace) -> Shapes:
    """Tensors of the 3x3 stem."""
    return conv_shapes('stem.', (spec.stem_channels, 3, 3, 3))


def head_shapes(spec: ArchSpec | SearchSpace) -> Shapes:
    """Tensors of the 1x1 head; none if there is no head."""
    if spec.head_channels is None:
        return {}
    return conv_shapes('head.', (spec.head_channels, spec.stages[-1].channels, 1, 1))


def tensor_shapes(arch: ArchSpec) -> Shapes:
    """All tensors of the network: what a checkpoint of it must hold."""
    tensors = stem_shapes(arch)
    for layer in layers(arch):
        tensors |= {layer.prefix + name: shape for name, shape in layer.shapes().items()}
    return tensors | head_shapes(arch)
