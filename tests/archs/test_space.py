"""Size, drawing and membership of a search space, against counting by hand."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnas_ext.archs import ArchSpec, SearchSpace, SpaceStage, StageSpec, zoo

SMALL = SearchSpace(
    (
        SpaceStage(8, 8, (('k3_e1',),), 1),
        SpaceStage(8, 12, (('k3_e3', 'k5_e3'), ('k3_e3', 'k5_e6', 'skip'), ('k5_e6', 'skip')), 2),
        SpaceStage(12, 16, (('k3_e6', 'k7_e6'), ('k3_e6', 'skip')), 1),
    ),
    head_channels=32,
    act='swish',
    bn_eps=1e-3,
)
# written out: layers of the second and of the third stage that some path leaves after its skips fall away
MIDDLES = {
    (first, *rest)
    for first in ('k3_e3', 'k5_e3')
    for rest in [(), ('k3_e3',), ('k5_e6',), ('k3_e3', 'k5_e6'), ('k5_e6', 'k5_e6')]
}
LASTS = {('k3_e6',), ('k7_e6',), ('k3_e6', 'k3_e6'), ('k7_e6', 'k3_e6')}


def _network(middle: tuple[str, ...], last: tuple[str, ...]) -> ArchSpec:
    stages = (
        StageSpec(8, 8, ('k3_e1',), 1),
        StageSpec(8, 12, middle, 2),
        StageSpec(12, 16, last, 1),
    )
    return ArchSpec(stages, head_channels=32, act='swish', bn_eps=1e-3)


NETWORKS = {_network(middle, last) for middle in MIDDLES for last in LASTS}


def _all_paths(space: SearchSpace) -> list[tuple[tuple[int, ...], ...]]:
    per_stage = [itertools.product(*(range(len(layer)) for layer in stage.layers)) for stage in space.stages]
    return list(itertools.product(*per_stage))


def test_paths_are_counted_and_give_the_networks_written_out() -> None:
    paths = _all_paths(SMALL)
    assert SMALL.size == 1 * (2 * 3 * 2) * (2 * 2) == len(paths)
    assert {SMALL.arch(path) for path in paths} == NETWORKS
    assert SMALL.stem_channels == 8


@pytest.mark.parametrize(
    ('name', 'size'),
    [('fna_det', 6**6 * 7**15), ('fna_seg', 6**6 * 7**19), ('efficientnet_lite0_det', 6**6 * 7**15)],
)
def test_size_of_published_spaces(name: str, size: int) -> None:
    # six stages; the first layer of each has six candidates, every other one seven
    assert zoo.space(name).size == size


def test_membership_equals_brute_force() -> None:
    tokens = ('k3_e3', 'k5_e3', 'k5_e6')
    middles = [m for n in (1, 2, 3, 4) for m in itertools.product(tokens, repeat=n)]
    lasts = [m for n in (1, 2, 3) for m in itertools.product(('k3_e6', 'k7_e6'), repeat=n)]
    inside = {_network(m, one) for m in middles for one in lasts if _network(m, one) in SMALL}
    assert inside == NETWORKS


@pytest.mark.parametrize(
    'changes',
    [
        {'head_channels': None},
        {'act': 'relu6'},
        {'bn_eps': None},
        {'stages': _network(('k3_e3',), ('k3_e6',)).stages[:2]},
    ],
)
def test_membership_looks_at_every_field(changes: dict[str, object]) -> None:
    arch = _network(('k3_e3',), ('k3_e6',))
    assert arch in SMALL
    assert arch.replace(**changes) not in SMALL


def test_membership_looks_at_widths_and_strides() -> None:
    first, _, last = _network(('k3_e3',), ('k3_e6',)).stages
    other_stride = ArchSpec((first, StageSpec(8, 12, ('k3_e3',), 1), last), 32, 'swish', 1e-3)
    other_width = ArchSpec(
        (first, StageSpec(8, 13, ('k3_e3',), 2), StageSpec(13, 16, ('k3_e6',), 1)), 32, 'swish', 1e-3
    )
    assert other_stride not in SMALL
    assert other_width not in SMALL
    assert 'fna_det' not in SMALL


def test_published_networks_lie_in_their_spaces() -> None:
    assert zoo.arch('fna_retinanet') in zoo.space('fna_det')
    assert zoo.arch('fna_ssdlite').replace(head_channels=None, bn_eps=None) in zoo.space('fna_det')
    assert zoo.arch('fna_deeplabv3') in zoo.space('fna_seg')
    assert zoo.arch('fna_deeplabv3') not in zoo.space('fna_det')  # six layers of 64 channels, det has four
    assert zoo.arch('efficientnet_lite0').replace(head_channels=None) in zoo.space('efficientnet_lite0_det')
    assert zoo.arch('efficientnet_lite1').replace(head_channels=None) not in zoo.space('efficientnet_lite0_det')


def test_sampling_is_seeded_and_stays_inside() -> None:
    drawn = list(SMALL.sample(7, 50))
    assert drawn == list(SMALL.sample(7, 50))
    assert drawn[:10] == list(SMALL.sample(7, 10))
    assert drawn != list(SMALL.sample(8, 50))
    assert len(drawn) == 50
    assert set(drawn) <= NETWORKS


def test_sampling_draws_every_candidate_about_equally() -> None:
    rng = random.Random(3)
    paths = [SMALL.sample_path(rng) for _ in range(3000)]
    counts = [sum(path[1][1] == candidate for path in paths) for candidate in range(3)]
    assert sum(counts) == 3000
    # five standard deviations of a binomial of 1/3: 5 * sqrt(3000 * 2/9) = 129
    assert all(abs(count - 1000) < 129 for count in counts)


@given(st.integers(min_value=0, max_value=2**32))
def test_drawn_network_is_a_member_and_survives_its_text(seed: int) -> None:
    space = zoo.space('fna_det')
    (arch,) = space.sample(seed, 1)
    assert arch in space
    assert ArchSpec.parse(arch.format('fna')) == arch


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        (((0,), (0, 0, 0)), r'must have \(1, 3, 2\) entries per stage, got \(1, 3\)'),
        (((0,), (0, 0), (0, 0)), r'entries per stage, got \(1, 2, 2\)'),
        (((0,), (0, 3, 0), (0, 0)), r'path\[1\]\[1\] must lie in 0\.\.2, got 3'),
        (((0,), (0, 0, 0), (0, -1)), r'path\[2\]\[1\] must lie in 0\.\.1, got -1'),
    ],
)
def test_wrong_path_is_refused(path: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.arch(path)


@pytest.mark.parametrize(
    ('layers', 'message'),
    [
        ((), 'at least one layer'),
        ((('k3_e6',), ()), 'each layer at least one candidate'),
        ((('k3_e6', 'skip'),), "first layer of a stage cannot offer 'skip'"),
        ((('k3_e6', 'k3_e6'),), 'layer 0 names a candidate twice'),
        ((('k3_e6_se0.50', 'k3_e6_se0.5'),), 'layer 0 names a candidate twice'),
        ((('k3_e6',), ('k3x',)), "unknown layer token 'k3x'"),
    ],
)
def test_wrong_stage_is_refused(layers: tuple[tuple[str, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpaceStage(8, 8, layers, 1)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'stages': (SMALL.stages[0], SMALL.stages[2])}, r'stages\[1\] takes 12 channels, but stages\[0\] gives 8'),
        ({'stages': ()}, 'stages, got none'),
        ({'act': 'gelu'}, 'act must be one of'),
        ({'head_channels': -1}, 'head_channels must be'),
        ({'bn_eps': 2.0}, 'bn_eps must be'),
    ],
)
def test_wrong_space_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace(**{'stages': SMALL.stages, **changes})


def test_too_many_candidates_are_refused() -> None:
    many = tuple(f'k{kernel}_e{expansion}' for kernel in (3, 5, 7, 9, 11) for expansion in range(1, 90))
    with pytest.raises(ValueError, match='at most 4000 candidates in all, got 4450'):
        SearchSpace((SpaceStage(8, 8, (many,) * 10, 1),))


@pytest.mark.parametrize(
    ('middle', 'last', 'path'),
    [
        # the first layer alone, then both skip
        (('k5_e3',), ('k7_e6',), ((0,), (1, 2, 1), (1, 1))),
        # the second layer does not offer a second k5_e6 before the first: both stand
        (('k3_e3', 'k5_e6', 'k5_e6'), ('k3_e6', 'k3_e6'), ((0,), (0, 1, 0), (0, 0))),
        # either the second or the third layer could be k5_e6: the skip stands last
        (('k3_e3', 'k5_e6'), ('k3_e6',), ((0,), (0, 1, 1), (0, 1))),
        # of the two layers only the second offers k3_e3
        (('k3_e3', 'k3_e3'), ('k3_e6',), ((0,), (0, 0, 1), (0, 1))),
    ],
)
def test_path_of_a_network(middle: tuple[str, ...], last: tuple[str, ...], path: tuple[tuple[int, ...], ...]) -> None:
    assert SMALL.path(_network(middle, last)) == path


def test_path_is_found_wherever_the_skips_must_stand() -> None:
    # k5_e6 is offered by the third layer alone: the second must skip
    stage = SpaceStage(8, 12, (('k3_e3',), ('k7_e3', 'skip'), ('k5_e6', 'skip')), 2)
    space = SearchSpace((SMALL.stages[0], stage))
    network = ArchSpec((StageSpec(8, 8, ('k3_e1',), 1), StageSpec(8, 12, ('k3_e3', 'k5_e6'), 2)))
    assert space.path(network) == ((0,), (0, 1, 0))


def test_every_network_has_a_path_that_gives_it() -> None:
    assert len(NETWORKS) == 2 * 5 * 4
    assert {SMALL.arch(SMALL.path(network)) for network in NETWORKS} == NETWORKS


def test_a_foreign_network_has_no_path() -> None:
    with pytest.raises(ValueError, match=r'arch must be a network of this space, got .*k3_e6.*k7_e6'):
        SMALL.path(_network(('k3_e3',), ('k3_e6', 'k7_e6')))
