"""Every path is rated as if it stood alone, however much of the work is shared."""

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.archs import CellSpace
from mmnas_ext.distill import BlockDistiller
from mmnas_ext.distill.cell import BlockCell
from mmnas_ext.distill.rating import imitate, rate, rate_network, rate_path, units, walk_memory
from mmnas_ext.search.ratings import BlockRatings, CellRatings, Ratings
from mmnas_ext.search.select import select
from tests.distill import small

SKIPPING = CellSpace.parse(
    {
        'stem_channels': 8,
        'stages': [
            {'stride': 1, 'cells': [{'channels': 8, 'layers': [['k3_e1', 'k5_e1']]}]},
            {'stride': 2, 'cells': [{'channels': 10, 'layers': [['k3_e3', 'k5_e3'], ['k3_e3', 'skip', 'k5_e6']]}]},
            {'stride': 2, 'cells': [{'channels': 16, 'layers': [['k3_e3', 'k5_e3'], ['skip', 'k3_e3']]}]},
        ],
    }
)


def plain(cell: BlockCell, path: tuple[int, ...], calibration: list, images: list) -> float:
    """A path's rating by itself: a copy of its layers, calibrated and run by PyTorch's own means."""
    layers = [copy.deepcopy(layer.candidate(choice)) for layer, choice in zip(cell.layers, path, strict=True)]
    parts = [copy.deepcopy(cell.enter), *layers, copy.deepcopy(cell.leave)]
    net = nn.Sequential(*(part for part in parts if part is not None))
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
    with torch.no_grad():
        net.train()
        for x, _ in calibration:
            net(x)
        net.eval()
        outputs = torch.cat([net(x) for x, _ in images])
    targets = torch.cat([target for _, target in images])
    return float((outputs - targets).abs().double().mean() / targets.double().std(unbiased=False))


def cells_of(model: BlockDistiller) -> list[tuple[int, BlockCell]]:
    return [(index, cell) for index, block in enumerate(model.all_blocks()) for cell in block.all_cells()]


@pytest.mark.parametrize('space', [small.space(), small.space(second=10, third=18), SKIPPING])
def test_every_path_is_rated_as_by_itself(space: CellSpace) -> None:
    model = small.distiller(space)
    for index, cell in cells_of(model):
        calibration = small.batches(model, index, (4, 4, 4), seed=100)
        images = small.batches(model, index, (5, 3), seed=200)
        ratings = rate(cell, (), lambda c=calibration: c, lambda p=images: p)
        assert cell.paths == tuple(product(*(range(count) for count in cell.choices)))
        wanted = [plain(cell, path, calibration, images) for path in cell.paths]
        assert ratings == pytest.approx(wanted, rel=1e-5)
        alone = [rate_path(cell, path, lambda c=calibration: c, lambda p=images: p) for path in cell.paths]
        assert alone == pytest.approx(ratings, rel=1e-6)
        assert len({round(rating, 6) for rating in ratings}) == len(ratings)


def test_a_skip_is_an_identity() -> None:
    model = small.distiller(SKIPPING).eval()
    cell = model.all_blocks()[2].all_cells()[0]
    ((x, _),) = small.batches(model, 2, (3,), seed=2)
    assert cell.steps()[2][0] is None
    with torch.no_grad():
        assert torch.equal(cell(x, (1, 0)), cell.layers[0].run(1, cell.enter(x)))
        assert not torch.equal(cell(x, (1, 1)), cell(x, (1, 0)))


def test_how_images_are_cut_makes_no_difference() -> None:
    model = small.distiller()
    cell = model.all_blocks()[0].all_cells()[1]
    calibration = small.batches(model, 0, (4, 4), seed=1)
    ((x, target),) = small.batches(model, 0, (8,), seed=2)
    whole = rate(cell, (), lambda: calibration, lambda: [(x, target)])
    cut = rate(cell, (), lambda: calibration, lambda: zip(x.split(3), target.split(3), strict=True))
    assert whole == pytest.approx(cut, rel=1e-5)
    # while calibration batches are what they are
    other = rate(cell, (), lambda: [(x, target)], lambda: [(x, target)])
    assert other != pytest.approx(whole, rel=1e-5)


def test_the_module_is_left_as_it_was() -> None:
    model = small.distiller()
    cell = model.all_blocks()[0].all_cells()[1]
    cell.layers[0].eval()
    state = {name: value.clone() for name, value in cell.state_dict().items()}
    modes = [module.training for module in cell.modules()]
    momenta = [module.momentum for module in cell.modules() if isinstance(module, _BatchNorm)]
    data = small.batches(model, 0, (4,), seed=1)
    rate(cell, (), lambda: data, lambda: data)
    assert all(torch.equal(value, state[name]) for name, value in cell.state_dict().items())
    assert [module.training for module in cell.modules()] == modes
    assert [module.momentum for module in cell.modules() if isinstance(module, _BatchNorm)] == momenta


def test_a_tree_evaluates_what_paths_share_once() -> None:
    six = [f'k{kernel}_e{expansion}' for kernel in (1, 3, 5) for expansion in (1, 2)]
    space = CellSpace.parse(
        {'stem_channels': 8, 'stages': [
            {'stride': 1, 'channels': [8], 'depths': [1], 'candidates': ['k3_e1']},
            {'stride': 2, 'channels': [12], 'depths': [1], 'candidates': ['k3_e1']},
            {'stride': 2, 'channels': [4], 'depths': [4], 'candidates': six},
        ]}
    )  # fmt: skip
    teacher = small.teacher(taps=['stages.1.1', 'stages.2.0'])
    model = BlockDistiller(teacher, space, standardize=None)
    cell = model.all_blocks()[0].all_cells()[0]
    assert len(cell.paths) == 6**4
    pieces = units(cell)
    # four layers of six candidates, behind the two fixed ones: 6 + 36 + 216 + 1296 against 4 * 1296
    searched = [piece.evaluations - sum(1 for _ in piece.prefix[:-1]) for piece in pieces]
    assert len(pieces) == 6
    assert sum(searched) == 6 + 36 + 216 + 1296 == 1554
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    for layer in list(cell.layers)[2:]:
        for index in range(6):
            layer.candidate(index).register_forward_hook(count)
    data = [(torch.randn(1, 3, 32, 32), torch.randn(1, 16, 4, 4))]
    rate(cell, pieces[2].prefix, lambda: data, lambda: data)
    assert calls == 2 * (1 + 6 + 36 + 216)  # once to calibrate, once to rate


def test_pieces_cover_all_paths_in_order() -> None:
    model = small.distiller()
    for _, cell in cells_of(model):
        assert [path for piece in units(cell) for path in piece.paths] == list(cell.paths)
        assert len(units(cell)) == 1


def test_ratings_of_the_pieces_are_those_of_the_whole() -> None:
    model = small.distiller()
    cell = model.all_blocks()[0].all_cells()[1]
    data = small.batches(model, 0, (4, 4), seed=1)
    whole = rate(cell, (), lambda: data, lambda: data)
    pieces = [rating for choice in range(3) for rating in rate(cell, (0, choice), lambda: data, lambda: data)]
    assert pieces == pytest.approx(whole, rel=1e-6)


def test_the_rating_is_the_error_over_the_spread() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    x = torch.tensor([1.0, -3.0, 5.0, 1.0]).reshape(4, 1, 1, 1)
    # |x / 2 - x| = 0.5, 1.5, 2.5, 0.5; the mean is 1.25, the deviation of x is 2 * sqrt(2)
    assert rate_network(Half(), [x], [(x, x)]) == pytest.approx(1.25 / 8**0.5)


def test_what_the_chosen_path_gives() -> None:
    model = small.distiller()
    cell = model.all_blocks()[1].all_cells()[0]
    calibration = small.batches(model, 1, (4, 4), seed=1)
    images = small.batches(model, 1, (6,), seed=2)
    ((x, target),) = images
    output = imitate(cell, (1,), lambda: calibration, x)
    error = float((output - target).abs().double().mean() / target.double().std(unbiased=False))
    assert error == pytest.approx(rate_path(cell, (1,), lambda: calibration, lambda: images), rel=1e-5)


def test_memory_grows_with_the_images() -> None:
    model = small.distiller()
    cell = model.all_blocks()[1].all_cells()[0]
    x = torch.randn(8, 12, 8, 8)
    memory = walk_memory(cell, x)
    assert walk_memory(cell, x[:4]) == memory / 2
    # at least what is held: the input and the output
    assert memory > 4 * (x.numel() + 8 * 16 * 4 * 4)


def test_what_cannot_be_rated() -> None:
    model = small.distiller()
    cell = model.all_blocks()[1].all_cells()[0]
    data = small.batches(model, 1, (4,), seed=1)
    with pytest.raises(ValueError, match='calibration needs at least one batch of images, got none'):
        rate(cell, (), lambda: [], lambda: data)
    with pytest.raises(ValueError, match='at least one batch of held-out images, got none'):
        rate(cell, (), lambda: data, lambda: [])
    # around 1234.567 neighbouring floats are 1.2e-4 apart: there the feature varies by what rounding leaves
    for value, noise in ((0.0, 0.0), (0.3, 0.0), (1234.567, 5e-5)):
        with pytest.raises(ValueError, match='all values of .* are equal'):
            rate(cell, (), lambda: data, lambda v=value, n=noise: [(x, v + n * torch.randn_like(y)) for x, y in data])


def test_the_teachers_own_block_is_found_among_the_candidates() -> None:
    """A space of one block to search; one path has the teacher's weights."""
    space = CellSpace.parse(
        {'stem_channels': 8, 'stages': [
            {'stride': 1, 'channels': [8], 'depths': [1], 'candidates': ['k3_e1']},
            {'stride': 2, 'cells': [{'channels': 12, 'layers': [['k3_e3', 'k5_e6', 'k7_e3'], ['k3_e3', 'k5_e3']]}]},
        ]}
    )  # fmt: skip
    teacher = small.teacher(taps=['stages.1.1'])
    model = BlockDistiller(teacher, space, standardize=None)
    torch.manual_seed(5)
    model.init_weights()
    (block,) = model.all_blocks()
    (cell,) = block.all_cells()
    cell.enter.load_state_dict(teacher.net.stem.state_dict())
    known = (0, 0, 1)  # k3_e1, then the teacher's k3_e3 and k5_e3
    for layer, choice, own in zip(cell.layers, known, [teacher.net.stages[0][0], *teacher.net.stages[1]], strict=True):
        layer.candidate(choice).load_state_dict(own.state_dict())
    # the teacher works by its running statistics: let them be those of the images
    x = small.images(16, 30)
    for norm in (m for m in teacher.modules() if isinstance(m, _BatchNorm)):
        norm.momentum = 1.0
        norm.train()
    teacher.net(x)
    teacher.eval()
    data = [(x, teacher(x)[0])]
    ratings = rate(cell, (), lambda: data, lambda: data)
    assert ratings[cell.paths.index(known)] < 1e-3
    assert sorted(ratings)[1] > 0.1
    paths = tuple(cell.by_stage(path) for path in cell.paths)
    free = {'macs': tuple((1,) for _ in paths)}
    rated = Ratings(space, (32, 32), ('macs',), (BlockRatings((0, 1), (
        CellRatings((0, 0), (8,), 12, paths, tuple(ratings), free),)),))  # fmt: skip
    found = select(rated).arch
    assert [stage.layers for stage in found.stages] == [('k3_e1',), ('k3_e3', 'k5_e3')]


def test_an_error_on_the_way_leaves_the_module_as_it_was_too() -> None:
    model = small.distiller()
    cell = model.all_blocks()[1].all_cells()[0]
    state = {name: value.clone() for name, value in cell.state_dict().items()}
    data = small.batches(model, 1, (4,), seed=1)
    with pytest.raises(RuntimeError, match='channels'):
        rate(cell, (), lambda: data, lambda: [(x[:, :3], target) for x, target in data])
    assert all(torch.equal(value, state[name]) for name, value in cell.state_dict().items())
    assert all(module.training for module in cell.modules())


def test_constant_shifts_and_scales_of_feature_and_output_leave_a_rating() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1000 * x + 7

    x, target = torch.randn(2, 4, 4, 3, 3)
    rating = rate_network(nn.Identity(), [x], [(x, target)])
    assert rate_network(Scaled(), [x], [(x, 1000 * target + 7)]) == pytest.approx(rating, rel=1e-4)
