"""Which stages imitate which feature: answers written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnas_ext.archs import CellSpace, zoo
from mmnas_ext.distill import BlockPlan, Tap, align


def taps(*strides: int) -> list[Tap]:
    return [Tap(10 * number, stride) for number, stride in enumerate(strides, 1)]


# stages end at strides 2, 4, 8, 16, 16, 32, 32; the first has a single path
DNA = zoo.cells('dna')


@pytest.mark.parametrize(
    ('strides', 'plans'),
    [
        # one feature a stage: the fixed stage joins the second
        ((2, 4, 8, 16, 16, 32, 32), [((0, 1), None, 1), ((2,), 1, 2), ((3,), 2, 3), ((4,), 3, 4), ((5,), 4, 5),
                                     ((6,), 5, 6)]),
        # one feature a stride: stages of one stride are one block
        ((4, 8, 16, 32), [((0, 1), None, 0), ((2,), 0, 1), ((3, 4), 1, 2), ((5, 6), 2, 3)]),
        # three features of stride 16 for two stages: the second and the last
        ((4, 8, 16, 16, 16, 32), [((0, 1), None, 0), ((2,), 0, 1), ((3,), 1, 3), ((4,), 3, 4), ((5, 6), 4, 5)]),
        # a stride that the teacher does not give: its stage joins the next
        ((4, 16, 32), [((0, 1), None, 0), ((2, 3, 4), 0, 1), ((5, 6), 1, 2)]),
        # the last feature alone
        ((32,), [((0, 1, 2, 3, 4, 5, 6), None, 0)]),
        # strides that the space does not reach are not imitated
        ((2, 4, 8, 16, 32, 64), [((0, 1), None, 1), ((2,), 1, 2), ((3, 4), 2, 3), ((5, 6), 3, 4)]),
    ],
)  # fmt: skip
def test_blocks_end_where_strides_meet(strides: tuple[int, ...], plans: list) -> None:
    assert align(DNA, taps(*strides)) == tuple(BlockPlan(*plan) for plan in plans)


def test_a_fixed_last_stage_joins_the_block_before() -> None:
    space = CellSpace.parse(
        {
            'stem_channels': 8,
            'stages': [
                {'stride': 2, 'channels': [8], 'depths': [1], 'candidates': ['k3_e3', 'k5_e3']},
                {'stride': 2, 'channels': [8], 'depths': [1], 'candidates': ['k3_e3']},
            ],
        }
    )
    assert align(space, taps(4, 8)) == (BlockPlan((0, 1), None, 1),)


def test_a_space_with_nothing_to_search_is_one_block() -> None:
    stage = {'stride': 2, 'channels': [8], 'depths': [1], 'candidates': ['k3_e3']}
    fixed = CellSpace.parse({'stem_channels': 8, 'stages': [stage, stage, stage]})
    assert align(fixed, taps(4, 8, 16)) == (BlockPlan((0, 1, 2), None, 2),)


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.booleans()), min_size=1, max_size=7),
    st.lists(st.sampled_from([2, 4, 8, 16, 32]), max_size=6),
)
def test_blocks_are_a_chain_over_all_stages(stages: list[tuple[int, bool]], strides: list[int]) -> None:
    space = CellSpace.parse(
        {
            'stem_channels': 8,
            'stages': [
                {'stride': stride, 'channels': [8], 'depths': [1], 'candidates': ['k3_e3', 'k5_e3'][: 1 + searched]}
                for stride, searched in stages
            ],
        }
    )
    reached = [2]
    for stride, _ in stages:
        reached.append(min(reached[-1] * stride, 32))
    given_taps = taps(*sorted([*strides, reached[-1]]))
    plans = align(space, given_taps)
    assert [stage for plan in plans for stage in plan.stages] == list(range(len(stages)))
    assert [plan.source for plan in plans] == [None, *(plan.target for plan in plans[:-1])]
    # every block ends where its feature has its stride, the last one with the last such feature
    assert [given_taps[plan.target].stride for plan in plans] == [reached[plan.stages[-1] + 1] for plan in plans]
    assert plans[-1].target == max(i for i, tap in enumerate(given_taps) if tap.stride == reached[-1])
    # and has something to search, if anything has
    searched = [any(stages[i][1] for i in plan.stages) for plan in plans]
    assert all(searched) or (len(plans) == 1 and not any(searched for _, searched in stages))


@pytest.mark.parametrize(
    ('strides', 'message'),
    [
        ((4, 8, 16), r'feature of stride 32, where the space ends, got features of strides \[4, 8, 16\]'),
        ((8, 4, 32), r'features must ascend, got \[8, 4, 32\]'),
    ],
)
def test_what_does_not_meet_is_refused(strides: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align(DNA, taps(*strides))
