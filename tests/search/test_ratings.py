"""A file of ratings: read back as it was written, and turned into networks."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmnas_ext.archs import CellSpace, cell_prices, price
from mmnas_ext.search.ratings import BlockRatings, CellRatings, Pick, Ratings, priced_paths

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
            by_width = [priced_paths(SPACE, priced, (stage,), (index,), width, paths) for width in enters]
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
        found = priced_paths(SPACE, priced, (0, 1), cells, 8, paths)
        assert found == {metric: [price(SPACE.arch(cells, path), SIZE, metric=metric) for path in paths]}


def test_a_choice_is_a_network() -> None:
    arch = ratings().arch((3, 5))  # 16 channels by k5, then the second cell's first path after 16 channels
    assert [(stage.channels, stage.layers) for stage in arch.stages] == [(16, ('k5_e3',)), (20, ('k3_e3', 'k3_e3'))]


@pytest.mark.parametrize(
    ('choice', 'message'),
    [((0,), 'one index per block, 2, got 1'), ((0, 12), r'choice\[1\] must lie in 0\.\.11, got 12')],
)
def test_a_choice_that_does_not_fit(choice: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ratings().arch(choice)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'version': 2}, 'version must be 1, got 2'),
        ({'metrics': ['watts']}, r"metrics must be among .* got \('watts',\)"),
        ({'metrics': []}, 'metrics must be among'),
        ({'space': {'stages': []}}, 'stem_channels'),
        ({'input_size': [3]}, 'unpack'),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = {**json.loads(ratings().format()), **change}
    (tmp_path / 'ratings.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f'is no file of ratings: .*{message}'):
        Ratings.parse(tmp_path / 'ratings.json')


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='ratings file does not exist'):
        Ratings.parse(tmp_path / 'ratings.json')
    (tmp_path / 'cut.json').write_text(ratings().format()[:-40])
    with pytest.raises(ValueError, match='cut.json is no file of ratings'):
        Ratings.parse(tmp_path / 'cut.json')
    content = json.loads(ratings().format())
    with pytest.raises(ValueError, match="the content is no file of ratings: KeyError 'blocks'"):
        Ratings.parse({key: each for key, each in content.items() if key != 'blocks'})
    (tmp_path / 'list.json').write_text('[1]')
    with pytest.raises(ValueError, match='list.json is no file of ratings: ValueError expected a mapping'):
        Ratings.parse(str(tmp_path / 'list.json'))
    content['blocks'][0]['cells'][0]['ratings'].pop()
    with pytest.raises(ValueError, match='has 2 paths and not as many ratings'):
        Ratings.parse(content)
