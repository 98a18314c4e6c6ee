"""Spaces of cells: both ways of writing them, the published ones, sizes by hand, and what is refused."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnas_ext.archs import ArchSpec, Cell, CellSpace, CellStage, SearchSpace, SpaceStage, StageSpec, zoo

A, B = 'k3_e3', 'k5_e6_se0.25'
SMALL = CellSpace(
    8,
    (
        CellStage(1, (Cell(8, (('k3_e1',),)),)),
        CellStage(
            2, (Cell(12, ((A, B),)), Cell(12, ((A, B), (A, B))), Cell(16, ((A, B),)), Cell(16, ((A, B), (A, B))))
        ),
        CellStage(2, (Cell(24, ((A, B), (A, 'skip'))), Cell(32, ((A,),)))),
    ),
    head_channels=48,
    act='swish',
    bn_eps=1e-3,
)
SHORT = {
    'stem_channels': 8,
    'stages': [
        {'stride': 1, 'channels': [8], 'depths': [1], 'candidates': ['k3_e1']},
        {'stride': 2, 'channels': [12, 16], 'depths': [1, 2], 'candidates': [A, B]},
        {
            'stride': 2,
            'cells': [{'channels': 24, 'layers': [[A, B], [A, 'skip']]}, {'channels': 32, 'layers': [[A]]}],
        },
    ],
    'head_channels': 48,
    'act': 'swish',
    'bn_eps': 1e-3,
    'source': 'a test',
}
# as published: channels and layers of a stage, every one with squeeze-excite
PUBLISHED = {
    'dna_a': [
        (24, 'k5_e3 k3_e3 k3_e6'),
        (40, 'k3_e3 k3_e3 k5_e3 k3_e6'),
        (80, 'k7_e6 k3_e3 k5_e3 k3_e6'),
        (96, 'k5_e6 k5_e3 k5_e3 k5_e6'),
        (160, 'k5_e6 k5_e3 k5_e3 k5_e3 k5_e6'),
        (320, 'k3_e6'),
    ],
    'dna_b': [
        (24, 'k3_e3 k5_e3 k7_e6'),
        (40, 'k7_e6 k5_e3 k7_e6'),
        (80, 'k5_e6 k5_e3 k5_e3 k3_e6'),
        (96, 'k5_e6 k5_e3 k5_e3 k5_e6'),
        (192, 'k7_e6 k5_e3 k5_e3 k5_e3 k7_e6'),
        (320, 'k3_e6'),
    ],
    'dna_c': [
        (24, 'k5_e6 k3_e6'),
        (40, 'k5_e6 k5_e6 k3_e6 k5_e6'),
        (80, 'k5_e6 k3_e6 k5_e6 k5_e6'),
        (112, 'k3_e6 k5_e6 k5_e6 k5_e3'),
        (192, 'k5_e6 k5_e3 k5_e6 k5_e6'),
        (320, 'k3_e6'),
    ],
    'dna_d': [
        (24, 'k7_e6 k5_e6 k7_e6'),
        (40, 'k7_e6 k7_e6 k7_e6 k7_e6'),
        (80, 'k7_e6 k5_e6 k5_e6 k7_e6'),
        (112, 'k7_e6 k5_e6 k7_e6 k5_e6'),
        (192, 'k7_e6 k5_e6 k5_e6 k5_e6 k7_e6'),
        (320, 'k3_e6'),
    ],
}
# as EfficientNet-Lite0 is published: the layers of a stage are alike
LITE0 = [(24, ['k3_e6'] * 2), (40, ['k5_e6'] * 2), (80, ['k3_e6'] * 3), (112, ['k5_e6'] * 3), (192, ['k5_e6'] * 4)]


def found(space: CellSpace, stages: list[tuple[int, list[str]]]) -> ArchSpec:
    """The network of the cells that have these channels and depths, and of these candidates."""
    cells, path = [0], [(0,)]
    for stage, (channels, layers) in zip(space.stages[1:], stages, strict=True):
        (cell,) = (i for i, c in enumerate(stage.cells) if (c.channels, len(c.layers)) == (channels, len(layers)))
        cells.append(cell)
        offered = stage.cells[cell].layers
        path.append(tuple(candidates.index(token) for candidates, token in zip(offered, layers, strict=True)))
    return space.arch(cells, tuple(path))


def test_sizes_by_hand() -> None:
    assert [cell.size for cell in SMALL.stages[1].cells] == [2, 4, 2, 4]
    # 1 path, then 2 + 4 + 2 + 4, then 4 + 1
    assert SMALL.size == 1 * 12 * 5
    assert SMALL.stages[1].widths == (12, 16)


def test_the_short_form_is_a_cell_per_width_and_depth() -> None:
    assert CellSpace.parse(SHORT) == SMALL


def test_parsing_leaves_its_source_alone() -> None:
    before = json.dumps(SHORT)
    CellSpace.parse(SHORT)
    assert json.dumps(SHORT) == before


@pytest.mark.parametrize('space', [SMALL, *map(zoo.cells, ('dna', 'dna_lite', 'fna_det'))])
def test_text_is_read_back(space: CellSpace, tmp_path: Path) -> None:
    assert CellSpace.parse(space.format()) == space
    assert CellSpace.parse(json.loads(space.format())) == space
    assert CellSpace.parse(space) is space
    file = tmp_path / 'space.json'
    file.write_text(space.format())
    assert CellSpace.parse(file) == CellSpace.parse(str(file)) == space


TOKENS = st.sampled_from(['k3_e1', 'k3_e3', 'k5_e6', 'k7_e3_se0.25'])
LAYERS = st.lists(st.lists(TOKENS, min_size=1, max_size=3, unique=True).map(tuple), min_size=1, max_size=3).map(tuple)
CELLS = st.lists(st.builds(Cell, st.integers(1, 40), LAYERS), min_size=1, max_size=3, unique=True).map(tuple)
STAGES = st.lists(st.builds(CellStage, st.integers(1, 2), CELLS), min_size=1, max_size=3)


@given(
    st.integers(1, 64),
    STAGES,
    st.none() | st.integers(1, 99),
    st.sampled_from(['relu6', 'swish', 'relu']),
    st.none() | st.floats(1e-6, 0.5),
)
def test_any_space_survives_its_text(
    stem: int, stages: list[CellStage], head: int | None, act: str, eps: float | None
) -> None:
    space = CellSpace(stem, tuple(stages), head, act, eps)
    assert CellSpace.parse(space.format()) == space


def test_tokens_are_written_in_one_way() -> None:
    cells = (Cell(8, (('k3_e6_se0.50',),)), Cell(8, (('k3_e6_se0.5', 'k3_e3'),)))
    assert CellStage(1, cells).cells[0] == Cell(8, (('k3_e6_se0.5',),))
    with pytest.raises(ValueError, match=r'cells\[1\] is cells\[0\] again'):
        CellStage(1, (cells[0], Cell(8, (('k3_e6_se0.5',),))))


def test_a_plain_space_is_one_cell_per_stage() -> None:
    plain = SearchSpace((SpaceStage(8, 8, (('k3_e1',),), 1), SpaceStage(8, 12, ((A, B), (A, 'skip')), 2)), 48, 'swish')
    stages = (CellStage(1, (Cell(8, (('k3_e1',),)),)), CellStage(2, (Cell(12, ((A, B), (A, 'skip'))),)))
    space = CellSpace.parse(plain)
    assert space == CellSpace(8, stages, 48, 'swish')
    assert space.space() == plain
    assert space.size == plain.size == 4


def test_the_network_of_cells_and_path() -> None:
    stages = (
        StageSpec(8, 8, ('k3_e1',), 1),
        StageSpec(8, 16, (A, B), 2),
        StageSpec(16, 24, (B,), 2),
    )
    assert SMALL.arch((0, 3, 0), ((0,), (0, 1), (1, 1))) == ArchSpec(stages, 48, 'swish', 1e-3)


def test_cells_make_plain_spaces_whose_sizes_add_up() -> None:
    chosen = list(product(range(1), range(4), range(2)))
    spaces = [SMALL.space(cells) for cells in chosen]
    assert len(set(spaces)) == 8
    assert sum(space.size for space in spaces) == 60
    # the third stage takes what the second one gives
    assert [space.stages[2].in_channels for space in spaces] == [12, 12, 12, 12, 16, 16, 16, 16]
    assert SMALL.space() == spaces[0]


def test_names_in_the_zoo() -> None:
    assert zoo.cell_spaces() == ('dna', 'dna_lite')
    assert CellSpace.parse('dna_lite') == zoo.cells('dna_lite')
    assert zoo.cells('fna_det') == CellSpace.parse(zoo.space('fna_det'))


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_published_networks_lie_in_the_dna_space(name: str) -> None:
    stages = [(channels, [f'{token}_se0.25' for token in layers.split()]) for channels, layers in PUBLISHED[name]]
    arch = found(zoo.cells('dna'), stages)
    assert arch == zoo.arch(name)
    assert [stage.channels for stage in arch.stages] == [16, *(channels for channels, _ in stages)]
    assert [stage.stride for stage in arch.stages] == [1, 2, 2, 2, 1, 2, 1]


def test_efficientnet_lite0_lies_in_the_space_without_squeeze_excite() -> None:
    arch = found(zoo.cells('dna_lite'), [*LITE0, (320, ['k3_e6'])])
    assert arch == zoo.arch('efficientnet_lite0')


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        # per stage the sum over its cells, of six to the power of the depth
        ('dna', (6**2 + 6**3) * (6**3 + 6**4) * 6**4 * (2 * 6**4) * (2 * 6**4 + 2 * 6**5) * 6),
        ('dna_lite', (6**2 + 6**3) ** 2 * (6**3 + 6**4) ** 3 * 6),
    ],
)
def test_sizes_of_the_published_spaces(name: str, size: int) -> None:
    assert zoo.cells(name).size == size


def with_stage(**changes: Any) -> dict[str, Any]:
    """`SHORT` with its second stage changed; ``None`` takes a key out."""
    stage = {key: value for key, value in (SHORT['stages'][1] | changes).items() if value is not None}
    return SHORT | {'stages': [SHORT['stages'][0], stage, SHORT['stages'][2]]}


def with_cells(*cells: Any) -> dict[str, Any]:
    return with_stage(channels=None, depths=None, candidates=None, cells=list(cells))


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ({'stages': SHORT['stages']}, "key 'stem_channels' is missing"),
        (SHORT | {'head': 3}, "unknown key 'head', allowed are stem_channels"),
        (SHORT | {'stages': 3}, 'stages must be a list of stages, got 3'),
        (SHORT | {'stages': []}, '1..64 stages, got none'),
        (SHORT | {'stages': [7]}, r'stages\[0\] must be a mapping, got 7'),
        (SHORT | {'stem_channels': 0}, 'in_channels must be an integer in 1..65536, got 0'),
        (SHORT | {'act': 'gelu'}, 'act must be one of'),
        (SHORT | {'source': 3}, 'source must be a string, got 3'),
        (with_stage(stride=3), r'stages\[1\]: stage stride must be 1 or 2, got 3'),
        (with_stage(stride=None), r"stages\[1\]: key 'stride' is missing"),
        (with_stage(depths=None), r"stages\[1\]: key 'depths' is missing"),
        (with_stage(layers=[]), r"stages\[1\]: unknown key 'layers'"),
        (with_stage(cells=[]), r"stages\[1\]: unknown key 'channels'"),
        (with_stage(channels=12), r'stages\[1\]\.channels must be a list of channels, got 12'),
        (with_stage(channels=[0]), r'stages\[1\]: stage channels must be an integer in 1..65536, got 0'),
        (with_stage(channels=[]), r'stages\[1\]: a stage needs 1..64 cells, got none'),
        (with_stage(channels=[12, 12]), r'stages\[1\]: cells\[2\] is cells\[0\] again'),
        (with_stage(depths=[2, 0]), r'stages\[1\]\.depths must be integers in 1..1024, got 0'),
        (with_stage(depths=[True]), r'stages\[1\]\.depths must be integers in 1..1024, got True'),
        (with_stage(depths=[10**8]), r'stages\[1\]\.depths must be integers in 1..1024, got 100000000'),
        (with_stage(candidates=[A, 'k3x']), r"stages\[1\]\.candidates\[1\]: unknown layer token 'k3x'"),
        (with_stage(candidates=[A, 'skip']), r"stages\[1\]: the first layer of a stage cannot offer 'skip'"),
        (with_stage(channels=list(range(1, 34))), r'stages\[1\]: a stage needs 1..64 cells, got 66'),
        (with_stage(channels=list(range(1, 4000))), r'stages\[1\]: a stage needs 1..64 cells, got 7998'),
        (with_cells(), r'stages\[1\]: a stage needs 1..64 cells, got none'),
        (with_cells(5), r'stages\[1\]\.cells\[0\] must be a mapping, got 5'),
        (with_cells({'channels': 8}), r"stages\[1\]\.cells\[0\]: key 'layers' is missing"),
        (
            with_cells({'channels': 8, 'layers': [[A]]}, {'channels': 8, 'layers': [[A], A]}),
            r'stages\[1\]\.cells\[1\]\.layers\[1\] must be a list of candidates',
        ),
        (
            with_cells({'channels': 8, 'layers': [[A, 'k3_e']]}),
            r"stages\[1\]\.cells\[0\]\.layers\[0\]\[1\]: unknown layer token 'k3_e'",
        ),
        (with_cells({'channels': 8, 'layers': [[A, A]]}), r'stages\[1\]: layer 0 names a candidate twice'),
        (
            with_stage(channels=None, depths=None, candidates=None, cells=8),
            r'stages\[1\]\.cells must be a list of cells, got 8',
        ),
        ('[1]', r"space of cells: character 0: expected '\{'"),
        ('{"stem_channels": 8', r"space of cells: character 19: expected ',' or '\}'"),
        (json.dumps(with_cells(5)), r'space of cells: stages\[1\]\.cells\[0\] must be a mapping'),
        ('no_such', "unknown space of cells 'no_such': the zoo has dna, dna_a_det, dna_lite"),
        ('dna_a', "unknown space of cells 'dna_a'.*that is an architecture, see zoo.arch"),
    ],
)
def test_wrong_spaces_are_refused_with_the_place(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CellSpace.parse(source)


def test_a_file_that_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='space of cells file does not exist: .*none.json'):
        CellSpace.parse(tmp_path / 'none.json')
    file = tmp_path / 'wrong.json'
    file.write_text(json.dumps(with_stage(stride=3)))
    with pytest.raises(ValueError, match=r'space of cells file .*wrong.json: stages\[1\]: stage stride must be 1 or 2'):
        CellSpace.parse(str(file))


@pytest.mark.parametrize('source', [None, 3, [SHORT]])
def test_another_type_is_refused(source: Any) -> None:
    with pytest.raises(TypeError, match=f'space of cells must be given as JSON text.*got {type(source).__name__}'):
        CellSpace.parse(source)


@pytest.mark.parametrize(
    ('cells', 'path', 'message'),
    [
        ((0, 0), ((0,), (0,), (0, 0)), 'one index per stage, 3, got 2'),
        ((0, 4, 0), ((0,), (0,), (0, 0)), r'cells\[1\] must lie in 0\.\.3, got 4'),
        ((0, -1, 0), ((0,), (0,), (0, 0)), r'cells\[1\] must lie in 0\.\.3, got -1'),
        ((0, 0, 0), ((0,), (0, 0), (0, 0)), r'path must have \(1, 1, 2\) entries per stage, got \(1, 2, 2\)'),
        ((0, 0, 0), ((0,), (2,), (0, 0)), r'path\[1\]\[0\] must lie in 0\.\.1, got 2'),
    ],
)
def test_wrong_choices_are_refused(cells: tuple[int, ...], path: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.arch(cells, path)
