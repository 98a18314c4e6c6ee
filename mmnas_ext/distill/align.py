"""Assigns stages of a student to features of a teacher by their strides."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmnas_ext.archs import CellSpace, places


@dataclass(frozen=True)
class Tap:
    """A feature of the teacher.

    Args:
        channels: Number of channels.
        stride: Pixels of the image per position of the feature.
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class BlockPlan:
    """One block of the super-network (DNA, arXiv 1911.13053, section 3.1).

    Args:
        stages: Indices of its stages, in order.
        source: Index of the teacher's feature that enters the block; ``None`` for the image.
        target: Index of the teacher's feature that the block imitates.
    """

    stages: tuple[int, ...]
    source: int | None
    target: int


def align(space: CellSpace, taps: Sequence[Tap]) -> tuple[BlockPlan, ...]:
    """Divides a space into blocks; each ends where the teacher has a feature of the same stride.

    If teacher and student have several features of one stride, they are paired evenly, the last with the last.
    Stages with a stride that no feature of the teacher has, and blocks without a choice, join the next block.

    Args:
        space: The space.
        taps: The teacher's features, from the image to the last.

    Raises:
        ValueError: The teacher has no feature of the space's last stride, or its strides do not ascend.
    """
    strides = [tap.stride for tap in taps]
    if sorted(strides) != strides:
        raise ValueError(f"the strides of the teacher's features must ascend, got {strides}")
    student = [stage[0].reached for stage in places(space.space()).stages]
    if student[-1] not in strides:
        raise ValueError(
            f'the teacher must have a feature of stride {student[-1]}, where the space ends, got features of strides '
            f'{strides}'
        )
    ends = {}
    for stride in dict.fromkeys(student):
        ours = [i for i, each in enumerate(student) if each == stride]
        theirs = [i for i, each in enumerate(strides) if each == stride]
        count = min(len(ours), len(theirs))
        for pair in range(count):
            ends[ours[_share(pair, count, len(ours))]] = theirs[_share(pair, count, len(theirs))]
    return _plan_blocks(space, ends)


def _share(pair: int, count: int, length: int) -> int:
    """Returns the last index of share number `pair` if `length` items are divided into `count` equal shares."""
    return -(-(pair + 1) * length // count) - 1


def _plan_blocks(space: CellSpace, ends: dict[int, int]) -> tuple[BlockPlan, ...]:
    """Plans the blocks; `ends` maps the last stage of each block to the tap that the block imitates."""
    blocks: list[BlockPlan] = []
    first: int = 0
    source: int | None = None
    for last, target in sorted(ends.items()):
        stages = tuple(range(first, last + 1))
        searched = any(sum(cell.size for cell in space.stages[i].cells) > 1 for i in stages)
        if not searched and last < max(ends):
            continue
        if not searched and blocks:
            blocks[-1] = BlockPlan((*blocks[-1].stages, *stages), blocks[-1].source, target)
            continue
        blocks.append(BlockPlan(stages, source, target))
        first, source = last + 1, target
    return tuple(blocks)
