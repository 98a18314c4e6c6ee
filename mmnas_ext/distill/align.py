"""Which stages of a student imitate which feature of a teacher: found by stride, channels read off the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmnas_ext.archs import CellSpace, places


@dataclass(frozen=True)
class Tap:
    """A feature of the teacher.

    Args:
        channels: Its channels.
        stride: Pixels of the image per position.
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class BlockPlan:
    """One block of the super-network (DNA, arXiv 1911.13053, section 3.1).

    Args:
        stages: Its stages, one after the other.
        source: Which of the teacher's features enters it; ``None`` for the image.
        target: Which one it imitates.
    """

    stages: tuple[int, ...]
    source: int | None
    target: int


def align(space: CellSpace, taps: Sequence[Tap]) -> tuple[BlockPlan, ...]:
    """Cuts a space into blocks, each of which ends where the teacher has a feature of the same stride.

    Where teacher and student have several features of one stride, they are paired evenly, the last with the last.
    Stages of a stride that the teacher does not give, and blocks with nothing to search, join the block after them.

    Args:
        space: The space.
        taps: The teacher's features, from the image on.

    Raises:
        ValueError: The teacher has no feature of the space's last stride, or its strides do not ascend.
    """
    strides = [tap.stride for tap in taps]
    if sorted(strides) != strides:
        raise ValueError(f'the teacher gives features of strides {strides}, and they must ascend')
    student = [stage[0].reached for stage in places(space.space()).stages]
    if student[-1] not in strides:
        raise ValueError(
            f'the space ends at stride {student[-1]}, of which the teacher has no feature: it gives strides {strides}'
        )
    ends = {}
    for stride in dict.fromkeys(student):
        ours = [i for i, each in enumerate(student) if each == stride]
        theirs = [i for i, each in enumerate(strides) if each == stride]
        count = min(len(ours), len(theirs))
        for pair in range(count):
            ends[ours[_share(pair, count, len(ours))]] = theirs[_share(pair, count, len(theirs))]
    return _blocks(space, ends)


def _share(pair: int, count: int, length: int) -> int:
    """The last index of the `pair`-th of `count` equal shares of `length` things."""
    return -(-(pair + 1) * length // count) - 1


def _blocks(space: CellSpace, ends: dict[int, int]) -> tuple[BlockPlan, ...]:
    """Blocks that end at the stages `ends`, by the tap that each imitates."""
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
