"""A search space made from a network: its stages, and in each layer other kernels, widths and depths beside its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmnas_ext.archs.blocks import SKIP, BlockSpec
from mmnas_ext.archs.literal import abbreviate, call_at, check_keys
from mmnas_ext.archs.space import SearchSpace, SpaceStage
from mmnas_ext.archs.spec import ArchSpec

KERNELS = (3, 5, 7)
WIDTHS = (0.5, 1)
SEED = 'seed'
KEYS = (SEED, 'kernels', 'expansions', 'widths', 'depth')
_DIGITS = 6


def space_from(
    arch: ArchSpec,
    kernels: Sequence[int] = KERNELS,
    expansions: Sequence[float] | None = None,
    widths: Sequence[float] | None = None,
    depth: int | Sequence[int] = 0,
) -> SearchSpace:
    """Makes a search space around a network, which is one of its networks.

    A layer offers every kernel with every expansion, in blocks of its own kind, and the network's own layer. From the
    second layer of a stage on it also offers ``skip``. A layer without an expansion, such as the first of MobileNetV2,
    EfficientNet and MobileNetV3, stays as it is, as in FNA (ICLR 2020, section 4.1). Of MobileNetV2 with
    ``expansions=(3, 6)`` and FNA's depths this is FNA's space.

    Args:
        arch: The network: its channels, strides, stem and activations are those of the space.
        kernels: Sides of the square kernels, odd.
        expansions: Expansions, as they stand in a token; not together with `widths`.
        widths: Expansions as multiples of the one that the network has in this layer; by default half of it, and all.
        depth: Layers that each stage gets in addition, which may be skipped and offer what the network's last layer
            of the stage does: one number, or one per stage. A stage that stays as it is gets none of one number.

    Raises:
        ValueError: An argument is empty, out of range or names a value twice; a stage that stays as it is should get
            layers; an expansion is none for a block of its kind.
    """
    factors = _positive('widths', WIDTHS if widths is None else widths)
    absolute = None if expansions is None else _positive('expansions', expansions)
    if absolute is not None and widths is not None:
        raise ValueError("a space takes expansions or widths (multiples of the seed's expansions), and got both")
    sides = _sides(kernels)
    added = _added(depth, arch)
    stages = []
    for index, stage in enumerate(arch.stages):
        layers = [call_at(f'stages[{index}]', _candidates, layer, sides, absolute, factors) for layer in stage.specs]
        varied = [_varies(layer) for layer in stage.specs]
        if added[index] and not varied[-1] and not isinstance(depth, int):
            raise ValueError(f'depth must leave stage {index} as it is, whose layers have no expansion, got {depth}')
        more = added[index] if varied[-1] else 0
        skips = [False, *varied[1:], *[True] * more]
        offered = [
            (*layer, SKIP) if skip else tuple(layer)
            for layer, skip in zip([*layers, *[layers[-1]] * more], skips, strict=True)
        ]
        shape = stage.in_channels, stage.channels, tuple(offered), stage.stride
        stages.append(call_at(f'stages[{index}]', SpaceStage, *shape))
    return SearchSpace(tuple(stages), **{key: getattr(arch, key) for key in _kept(arch)})


def read_made(fields: Mapping[Any, Any], read: Callable[[Any], ArchSpec]) -> SearchSpace:
    """Makes the space that a mapping describes: ``seed``, a network, and arguments of `space_from`.

    Args:
        fields: The mapping.
        read: Reads a network.

    Raises:
        ValueError: A key is unknown, or a value out of range.
    """
    check_keys(fields, '', (SEED,), KEYS)
    given = {key: value for key, value in fields.items() if key != SEED and value is not None}
    return space_from(call_at(SEED, read, fields[SEED]), **given)


def is_made(fields: Any) -> bool:
    """Whether a mapping describes a space by how it is made, and not by its stages."""
    return isinstance(fields, Mapping) and 'stages' not in fields and any(key in fields for key in KEYS)


def _kept(arch: ArchSpec) -> list[str]:
    """Fields of a network that are its space's: no head, which a detector does not use, and no epsilon, see below.

    An epsilon is that of weights, and comes with them (`mmnas_ext.remap.epsilon`).
    """
    return [name for name in type(arch).__dataclass_fields__ if name not in ('stages', 'head_channels', 'bn_eps')]


def _candidates(
    layer: BlockSpec, sides: tuple[int, ...], expansions: tuple[float, ...] | None, factors: tuple[float, ...]
) -> list[str]:
    """Tokens of a layer's candidates by kernel and expansion, the network's own among them."""
    if not _varies(layer):
        return [layer.format()]
    asked = expansions or tuple(round(layer.expansion * factor, _DIGITS) for factor in factors)
    wanted = {(side, _plain(expansion)) for side in sides for expansion in asked} | {(layer.kernel, layer.expansion)}
    return [replace(layer, kernel=side, expansion=expansion).format() for side, expansion in sorted(wanted)]


def _varies(layer: BlockSpec) -> bool:
    """Whether a layer is searched: an MBConv or a fused one of the smallest expansion, 1, is not."""
    return layer.expansion != layer.least


def _plain(number: float) -> float:
    """A whole number as one: tokens tell them apart."""
    return int(number) if float(number).is_integer() else number


def _sides(kernels: Any) -> tuple[int, ...]:
    sides = _listed('kernels', kernels)
    if not all(isinstance(side, int) and not isinstance(side, bool) and side % 2 for side in sides):
        raise ValueError(f'kernels must be odd whole numbers, got {abbreviate(kernels)}')
    return sides


def _positive(name: str, values: Any) -> tuple[float, ...]:
    found = _listed(name, values)
    if not all(isinstance(each, int | float) and not isinstance(each, bool) and 0 < each < 100 for each in found):
        raise ValueError(f'{name} must be positive numbers below 100, got {abbreviate(values)}')
    return found


def _listed(name: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple) or not values or len({str(each) for each in values}) < len(values):
        raise ValueError(f'{name} must list different numbers, at least one, got {abbreviate(values)}')
    return tuple(values)


def _added(depth: Any, arch: ArchSpec) -> tuple[int, ...]:
    """How many layers each stage gets in addition."""
    count = len(arch.stages)
    found = (depth,) * count if isinstance(depth, int) else tuple(depth) if isinstance(depth, list | tuple) else ()
    whole = all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 100 for each in found)
    if len(found) != count or not whole:
        raise ValueError(
            f'depth must be one number of layers from 0 to 99, or one for each of the {count} stages, got '
            f'{abbreviate(depth)}'
        )
    return found
