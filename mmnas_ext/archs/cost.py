"""What an architecture costs, counted from its description alone: no network is built, a call takes microseconds.

One multiply-add counts as one. Multiply-adds are those of convolutions, without biases, batch norms, activations or
pooling; parameters are all that a network learns: convolution weights, two numbers a channel for each batch norm, and
the weights and biases of squeeze-excite.
"""

from collections.abc import Iterable
from typing import NamedTuple

from mmnas_ext.archs.places import Place, Size, places
from mmnas_ext.archs.space import SearchSpace
from mmnas_ext.archs.spec import ArchSpec


class Cost(NamedTuple):
    """Multiply-adds for one image, and parameters."""

    macs: int
    params: int


def cost(arch: ArchSpec, size: Size, output_stride: int = 32, head: bool = False) -> Cost:
    """Prices a backbone: stem and stages, one image.

    Args:
        arch: The architecture.
        size: Height and width of the input image in pixels.
        output_stride: 8, 16 or 32. A stage that would exceed it keeps its input's resolution (its depthwise
            convolutions are dilated, which costs nothing by itself).
        head: Also count the 1x1 convolution after the last stage.

    Raises:
        ValueError: The size or output stride is out of range, or `head` is asked of an architecture without one.
    """
    walk = places(arch, size, output_stride)
    counted = [walk.stem, *walk.layers]
    if head:
        if walk.head is None:
            raise ValueError('head=True, but the architecture has no head (head_channels is None)')
        counted.append(walk.head)
    return total_cost(counted)


def candidate_costs(
    space: SearchSpace, size: Size, output_stride: int = 32
) -> tuple[tuple[tuple[Cost, ...], ...], ...]:
    """Prices every candidate of every layer: per stage, per layer, per candidate, in the space's order.

    A network's `cost` is the sum of its candidates' costs and of the stem's; a skip costs nothing.

    Args:
        space: The search space.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.

    Raises:
        ValueError: The size or output stride is out of range.
    """
    return tuple(
        tuple(tuple(token_cost(place, token) for token in place.tokens) for place in stage)
        for stage in places(space, size, output_stride).stages
    )


def fixed_cost(space: SearchSpace, size: Size, output_stride: int = 32) -> Cost:
    """What every network of a space pays: the stem and all layers that have a single candidate.

    Args:
        space: The search space.
        size: Height and width of the input image in pixels.
        output_stride: As in `cost`.

    Raises:
        ValueError: The size or output stride is out of range.
    """
    walk = places(space, size, output_stride)
    return total_cost([walk.stem, *(place for place in walk.layers if len(place.tokens) == 1)])


def token_cost(place: Place, token: str) -> Cost:
    """Prices one candidate of a place; each weight is used once per position that its convolution puts out."""
    counted = [(conv.weights * positions, conv.params) for conv, positions in place.outputs(token)]
    return Cost(sum(macs for macs, _ in counted), sum(params for _, params in counted))


def total_cost(counted: Iterable[Place]) -> Cost:
    """Prices places that have a single candidate, together."""
    costs = [token_cost(place, place.tokens[0]) for place in counted]
    return Cost(sum(each.macs for each in costs), sum(each.params for each in costs))
