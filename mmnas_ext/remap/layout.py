"""Which tensors a network has: names and shapes of an MBNet's or SuperNet's state dict, without building either."""

from collections.abc import Iterator
from dataclasses import dataclass

from mmnas_ext.archs import SKIP, ArchSpec, BlockSpec, Conv, SearchSpace, places

Shapes = dict[str, tuple[int, ...]]
COUNTER = 'num_batches_tracked'
AFFINE_FIELDS = ('weight', 'bias')
NORM_FIELDS = (*AFFINE_FIELDS, 'running_mean', 'running_var', COUNTER)


@dataclass(frozen=True)
class Layer:
    """One layer and where its tensors are found.

    Args:
        prefix: Start of its tensors' names, with the dot: ``stages.1.0.`` or ``stages.1.0.candidates.k3_e6.``.
        stage: Index of its stage.
        index: Index in its stage.
        block: Its free choices.
        convs: Its convolutions.
        norms: Which tensors its norms have; those of a super-network's candidates have none, or affine ones alone.
    """

    prefix: str
    stage: int
    index: int
    block: BlockSpec
    convs: tuple[Conv, ...]
    norms: tuple[str, ...] = NORM_FIELDS

    def shapes(self) -> Shapes:
        """The layer's tensors, names without its prefix."""
        return {name: shape for conv in self.convs for name, shape in conv_shapes(conv, self.norms).items()}


def conv_shapes(conv: Conv, norms: tuple[str, ...] = NORM_FIELDS) -> Shapes:
    """The tensors of a convolution: its weight ``(O, I, K, K)``, and its bias or those of the norm after it."""
    if not conv.norm:
        return {f'{conv.name}.weight': conv.weight, f'{conv.name}.bias': (conv.channels,)}
    fields: Shapes = {f'bn.{field}': () if field == COUNTER else (conv.channels,) for field in norms}
    return {f'{conv.name}.{name}': shape for name, shape in ({'conv.weight': conv.weight} | fields).items()}


def layers(spec: ArchSpec | SearchSpace, affine: bool = False) -> Iterator[Layer]:
    """All layers of a network, or all candidates of a space, first stage first.

    Args:
        spec: The network or space.
        affine: Whether the norms of a space's candidates have weights and biases.
    """
    for place in places(spec).layers:
        prefix = f'stages.{place.stage}.{place.layer}.'
        if len(place.tokens) == 1:
            token = place.tokens[0]
            yield Layer(prefix, place.stage, place.layer, BlockSpec.parse(token), place.convs(token))
            continue
        for token in place.tokens:
            if token != SKIP:
                # module names cannot hold a dot
                name = f'{prefix}candidates.{token.replace(".", "_")}.'
                norms = AFFINE_FIELDS if affine else ()
                yield Layer(name, place.stage, place.layer, BlockSpec.parse(token), place.convs(token), norms)


def end_shapes(spec: ArchSpec | SearchSpace) -> tuple[Shapes, Shapes]:
    """The tensors of the stem, and those of the head, none if there is none."""
    walk = places(spec)
    stem, head = (
        {} if place is None else conv_shapes(place.convs(place.tokens[0])[0]) for place in (walk.stem, walk.head)
    )
    return stem, head


def tensor_shapes(arch: ArchSpec) -> Shapes:
    """All tensors of the network: what a checkpoint of it must hold."""
    tensors, head = end_shapes(arch)
    for layer in layers(arch):
        tensors |= {layer.prefix + name: shape for name, shape in layer.shapes().items()}
    return tensors | head
