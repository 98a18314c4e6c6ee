"""A file of ratings: read back as it was written, and turned into networks."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmnas_ext.archs import CellSpace, cell_prices, price
from mmnas_ext.search.ratings import BlockRatings, CellRatings, Pick, Ratings, price_paths

SPACE = CellSpace.parse(
    {
        'stem_channels': 8,
        'stages': [
            {'stride': 2, 'channels': [12, 16], 'depths': [1], 'candidates': ['k3_e3', 'k5_e3']},
            {'stride': 2, 'channels': [20], 'depths': [1, 2], 'candidates': ['k3_e3', 'k5_e3']},
        ],
    }
)
SIZE = (32, 32)


def ratings() -> Ratings:
    """Costs by the price model, ratings made up: an eighth less for each path, so that sums are exact."""
    priced = {metric: cell_prices(SPACE, SIZE, metric=metric) for metric in ('macs', 'params')}
    blocks = []
    for stage, enters in ((0, (8,)), (1, (12, 16))):
        cells = []
        for index, cell in enumerate(SPACE.stages[stage].cells):
            paths = tuple(
                (path,)
                for path in ([(0,), (1,)] if len(cell.layers) == 1 else [(a, b) for a in (0, 1) for b in (0, 1)])
            )
            by_width = [price_paths(SPACE, priced, (stage,), (index,), width, paths) for width in enters]
            costs = {m: tuple(zip(*(each[m] for each in by_width), strict=True)) for m in ('macs', 'params')}
            figures = tuple(1.0 - number / 8 for number in range(len(paths)))
            cells.append(CellRatings((index,), enters, cell.channels, paths, figures, costs))
        blocks.append(BlockRatings((stage,), tuple(cells)))
    return Ratings(SPACE, SIZE, ('macs', 'params'), tuple(blocks))


def test_a_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    value = ratings()
    (tmp_path / 'ratings.json').write_text(value.format())
    assert Ratings.parse(tmp_path / 'ratings.json') == value
    assert Ratings.parse(json.loads(value.format())) == value
    assert Ratings.parse(value.format()) == value


def test_entries_are_counted_cell_by_cell_path_by_path_width_by_width() -> None:
    first, second = ratings().blocks
    assert first.picks() == [Pick(0, 0, 8), Pick(0, 1, 8), Pick(1, 0, 8), Pick(1, 1, 8)]
    assert second.picks()[:4] == [Pick(0, 0, 12), Pick(0, 0, 16), Pick(0, 1, 12), Pick(0, 1, 16)]
    assert len(second.picks()) == 2 * 2 + 2 * 4


@pytest.mark.parametrize('metric', ['macs', 'params'])
def test_a_networks_cost_is_the_sum_of_its_entries(metric: str) -> None:
    value = ratings()
    for first, pick in enumerate(value.blocks[0].picks()):
        leaves = value.blocks[0].cells[pick.cell].leaves
        for second, after in enumerate(value.blocks[1].picks()):
            if after.enters != leaves:
                continue
            cells = [value.blocks[0].cells[pick.cell], value.blocks[1].cells[after.cell]]
            cost = cells[0].costs[metric][pick.path][0]
            cost += cells[1].costs[metric][after.path][cells[1].enters.index(leaves)]
            assert cost == price(value.arch((first, second)), SIZE, metric=metric)
            assert isinstance(cost, int)  # both are counted


@pytest.mark.parametrize('metric', ['macs', 'params'])
def test_a_block_of_several_stages_costs_what_its_layers_do(metric: str) -> None:
    priced = {metric: cell_prices(SPACE, SIZE, metric=metric)}
    for cells in ((0, 0), (1, 0), (1, 1)):
        deep = (1,) * (cells[1] + 1)
        paths = (((0,), (0,) * len(deep)), ((1,), deep))
        found = price_paths(SPACE, priced, (0, 1), cells, 8, paths)
        assert found == {metric: [price(SPACE.arch(cells, path), SIZE, metric=metric) for path in paths]}


def test_a_choice_is_a_network() -> None:
    arch = ratings().arch((3, 5))  # 16 channels by k5, then the second cell's first path after 16 channels
    assert [(stage.channels, stage.layers) for stage in arch.stages] == [(16, ('k5_e3',)), (20, ('k3_e3', 'k3_e3'))]


@pytest.mark.parametrize(
    ('choice', 'message'),
    [
        ((0,), 'one index per block, 2, got 1'),
        ((0, 12), r'choice\[1\] must lie in 0\.\.11, got 12'),
        ((0, 1), r'choice\[1\] must be an entry for 12 channels, got one for 16'),
    ],
)
def test_a_choice_that_does_not_fit(choice: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ratings().arch(choice)


# what stands where in the file; the second block has cells of one and of two layers, which 12 or 16 channels enter
CELL = ('blocks', 1, 'cells', 0)
DEEP = ('blocks', 1, 'cells', 1)


@pytest.mark.parametrize(
    ('place', 'value', 'message'),
    [
        (('version',), 2, 'version must be 1, got 2'),
        (('version',), True, 'version must be an integer, got True'),
        (('metrics',), ['watts'], r"metrics must be among .*, each once, got \('watts',\)"),
        (('metrics',), ['macs', 'macs'], 'metrics must be among .*, each once'),
        (('metrics',), [], 'metrics must hold at least 1, got 0'),
        (('space',), {'stages': []}, 'space: .*stem_channels'),
        (('input_size',), [3], r'input_size must be \[height, width\], two positive integers, got \[3\]'),
        (('input_size',), [0, 3], r'two positive integers, got \[0, 3\]'),
        (('input_size',), [1.5, 3], r'input_size must be an integer, got 1\.5'),
        (('blocks',), [], 'blocks must hold at least 1, got 0'),
        (('blocks', 1, 'stages'), [0], 'block 1, cell 0: enters must be'),
        (('blocks', 1, 'stages'), [2], r'block 1: stages must lie in 0\.\.1, got \[2\]'),
        (('blocks', 1, 'stages'), [], 'block 1: stages must hold at least 1'),
        ((*CELL, 'cell'), [2], r'block 1, cell 0: cell must have an index below \[2\] for each stage, got \[2\]'),
        ((*CELL, 'cell'), [-1], r'got \[-1\]'),
        ((*CELL, 'cell'), [0, 0], r'got \[0, 0\]'),
        ((*CELL, 'enters'), [12], r'enters must be \[12, 16\], the widths of the space, got \[12\]'),
        ((*CELL, 'enters'), [12, 12], r'got \[12, 12\]'),
        ((*CELL, 'leaves'), 24, 'leaves must be 20, the width of the space, got 24'),
        ((*CELL, 'leaves'), True, 'leaves must be an integer, got True'),
        ((*CELL, 'paths'), [[[0]]], 'paths must be all 2 of the space, each once, got 1, 1 of them different'),
        ((*CELL, 'paths'), [[[0]], [[0]]], 'got 2, 1 of them different'),
        ((*CELL, 'paths', 1), [[2]], r'path 1 must have, .* an index below \[\[2\]\], got \[\[2\]\]'),
        ((*CELL, 'paths', 1), [[0], [0]], r'path 1 must have, .* got \[\[0\], \[0\]\]'),
        ((*CELL, 'paths', 1), [['0']], "path 1 must be an integer, got '0'"),
        ((*DEEP, 'paths', 3), [[1]], r'block 1, cell 1: path 3 must have, .* below \[\[2, 2\]\], got \[\[1\]\]'),
        ((*CELL, 'ratings'), [0.9], 'ratings must be one number per path, 2, got 1'),
        ((*CELL, 'ratings', 1), -0.5, r'block 1, cell 0: ratings must be at least 0, got -0\.5'),
        ((*CELL, 'ratings', 1), float('nan'), 'ratings must be a finite number, got nan'),
        ((*CELL, 'ratings', 1), '0.5', "ratings must be a number, got '0.5'"),
        ((*CELL, 'costs'), {'macs': []}, 'costs macs must be one list per path, 2, got 0'),
        ((*CELL, 'costs', 'params'), None, 'costs: params must be a list, got None'),
        ((*CELL, 'costs', 'macs', 1), [5], 'costs macs, path 1 must be one number per width, 2, got 1'),
        ((*CELL, 'costs', 'macs', 1), [5, -5], 'costs macs, path 1 must be at least 0, got -5'),
        ((*CELL, 'costs', 'macs', 0), [5, float('inf')], 'costs macs, path 0 must be a finite number, got inf'),
    ],
)
def test_what_does_not_fit_its_own_space_is_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: Any, message: str
) -> None:
    content = json.loads(ratings().format())
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (tmp_path / 'ratings.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf'ratings\.json.*{message}') as caught:
        Ratings.parse(tmp_path)
    assert len(str(caught.value)) <= 300 + len(str(tmp_path))


def test_cells_and_blocks_are_there_once_and_in_order() -> None:
    content = json.loads(ratings().format())
    first, second = content['blocks']
    with pytest.raises(ValueError, match=r'blocks must cover stages 0\.\.1 once in order, got \[1, 0\]'):
        Ratings.parse({**content, 'blocks': [second, first]})
    with pytest.raises(ValueError, match=r'once in order, got \[0\]'):
        Ratings.parse({**content, 'blocks': [first]})
    for cells, count in ((second['cells'][:1], '1, 1'), ([second['cells'][0]] * 2, '2, 1')):
        with pytest.raises(ValueError, match=rf'block 1: cells must be all 2 of stages \[1\], .* got {count} of'):
            Ratings.parse({**content, 'blocks': [first, {**second, 'cells': cells}]})


def test_a_block_of_several_stages_is_held_against_all_of_them() -> None:
    # both stages in one block: 2 * 2 cells, the first of 2 * 2 paths
    cells = []
    for index in ((0, 0), (0, 1), (1, 0), (1, 1)):
        deep = [(0,), (1,)] if index[1] == 0 else [(0, 0), (0, 1), (1, 0), (1, 1)]
        paths = tuple(((first,), rest) for first in (0, 1) for rest in deep)
        costs = {'macs': ((1,),) * len(paths)}
        cells.append(CellRatings(index, (8,), 20, paths, (0.5,) * len(paths), costs))
    value = Ratings(SPACE, SIZE, ('macs',), (BlockRatings((0, 1), tuple(cells)),))
    assert Ratings.parse(value.format()) == value
    content = json.loads(value.format())
    content['blocks'][0]['cells'][3]['paths'].pop()
    with pytest.raises(ValueError, match='block 0, cell 3: paths must be all 8 of the space, each once, got 7'):
        Ratings.parse(content)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / 'ratings.json'):
        with pytest.raises(FileNotFoundError, match=r'ratings file does not exist: .*ratings\.json; the rating'):
            Ratings.parse(place)
    (tmp_path / 'cut.json').write_text(ratings().format()[:-40])
    with pytest.raises(ValueError, match=r'cut\.json: the text is not JSON'):
        Ratings.parse(tmp_path / 'cut.json')
    content = json.loads(ratings().format())
    with pytest.raises(ValueError, match='ratings lacks blocks'):
        Ratings.parse({key: each for key, each in content.items() if key != 'blocks'})
    (tmp_path / 'list.json').write_text('[1]')
    with pytest.raises(ValueError, match=r'list\.json must be an object, got \[1\]'):
        Ratings.parse(str(tmp_path / 'list.json'))


def test_the_best_path_of_a_block() -> None:
    # an eighth less for each path: the fourth of the second cell's four, 1 - 3/8
    second = ratings().blocks[1]
    assert second.best == Pick(1, 3, 12)
    assert second.rating(second.best) == 0.625
    assert second.ratings == (1.0, 0.875, 1.0, 0.875, 0.75, 0.625)
    assert [cell.depths for cell in second.cells] == [(1,), (2,)]
