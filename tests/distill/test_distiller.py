"""Every block learns alone: what is drawn, what is compared, and whose parameters move."""

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmnas_ext.archs import CellSpace
from mmnas_ext.distill import BlockDistiller, Teacher
from mmnas_ext.distill.distiller import _mean_work, check_arguments
from mmnas_ext.registry import MODELS
from tests.distill import small


def losses_at(model: BlockDistiller, iteration: int = 0, x: Tensor | None = None) -> dict[str, Tensor]:
    model.start(iteration, 0)
    return model(small.images(4, 50) if x is None else x, mode='loss')


def test_the_teacher_is_no_part_of_the_model() -> None:
    model = small.distiller()
    ours = {id(p) for p in model.parameters()}
    assert not any(id(p) in ours for p in model.teacher.parameters())
    assert not any(id(module) == id(model.teacher) for module in model.modules())
    assert {name.split('.')[0].rstrip('0123456789') for name in model.state_dict()} == {
        'blocks', 'mean_', 'std_', 'steps', 'calibrated',
    }  # fmt: skip
    model.double()
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}
    assert all(loss.dtype == torch.float32 for loss in losses_at(model, x=small.images(2).double()).values())


def test_a_loss_is_the_mean_square_of_what_the_path_misses() -> None:
    model = small.distiller()
    x = small.images(4, 50)
    losses = losses_at(model, 3, x)
    raw = model.teacher(x)
    features = [(f - getattr(model, f'mean_{k}')) / getattr(model, f'std_{k}') for k, f in enumerate(raw)]
    for index, (entering, target) in enumerate([(x, features[1]), (features[1], features[2])]):
        cell, path = model.draw(index)
        output = model.all_blocks()[index].all_cells()[cell](entering, path).detach()
        assert losses[f'loss_block{index}'].item() == pytest.approx(float(((output - target) ** 2).mean()), rel=1e-5)


@pytest.mark.parametrize('block', [0, 1])
def test_a_loss_reaches_the_drawn_path_of_its_block_and_nothing_else(block: int) -> None:
    model = small.distiller()
    losses_at(model, 5)[f'loss_block{block}'].backward()
    cell, path = model.draw(block)
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    module = model.all_blocks()[block].all_cells()[cell]
    drawn = [layer.candidate(choice) for layer, choice in zip(module.layers, path, strict=True)]
    wanted = {id(p) for part in (*drawn, module.enter, module.leave) if part is not None for p in part.parameters()}
    assert reached == {name for name, p in model.named_parameters() if id(p) in wanted}
    assert all(name.startswith(f'blocks.{block}.cells.{cell}.') for name in reached)


def test_chosen_blocks_alone_are_trained() -> None:
    model = small.distiller(blocks=[1])
    assert model.trained == (1,)
    losses = losses_at(model)
    assert set(losses) == {'loss_block1'}
    assert {name.split('.')[1] for name, p in model.named_parameters() if p.requires_grad} == {'1'}
    assert model.steps.tolist() == [0, 1]
    assert set(losses_at(model.eval())) == {'loss_block1'}
    assert model.steps.tolist() == [0, 1]  # what is not trained is not counted


def test_only_what_is_needed_of_the_teacher_is_computed() -> None:
    model = small.distiller(blocks=[0])
    asked = []
    forward = model.teacher.forward
    model.teacher.register_forward_pre_hook(lambda _m, args: asked.append(args[1]))
    losses_at(model)
    assert asked == [1]
    assert len(forward(small.images(1))) == 3


def test_draws_follow_from_seed_and_iteration() -> None:
    model = small.distiller()

    def draws(seed: int) -> list[Any]:
        found = []
        for iteration in range(20):
            model.start(iteration, seed)
            found.append([model.draw(block) for block in range(2)])
        return found

    torch.manual_seed(0)
    first = draws(1)
    torch.manual_seed(1)
    assert draws(1) == first
    assert draws(2) != first


def test_uniform_draws_are_uniform() -> None:
    model = small.distiller()
    cells, layers = Counter(), Counter()
    for iteration in range(1200):
        model.start(iteration, 0)
        cell, path = model.draw(0)
        cells[cell] += 1
        layers[path[1]] += 1
    assert all(abs(count - 600) < 90 for count in cells.values())  # five deviations
    assert all(abs(count - 400) < 85 for count in layers.values())
    assert len(cells) == 2
    assert len(layers) == 3


def test_fair_draws_take_each_candidate_once_a_round() -> None:
    model = small.distiller(small.space(depths=(1,)), sampling='fair')
    for start in range(0, 30, 3):
        seen = []
        for iteration in range(start, start + 3):
            model.start(iteration, 4)
            seen.append(model.draw(0)[1][1])
        assert sorted(seen) == [0, 1, 2]


def test_fair_draws_take_each_cell_and_its_candidates_once_a_round() -> None:
    model = small.distiller(sampling='fair')
    for start in range(0, 24, 6):
        seen: dict[int, list[int]] = {0: [], 1: []}
        for iteration in range(start, start + 6):
            model.start(iteration, 4)
            cell, path = model.draw(0)
            seen[cell].append(path[1])
        assert {cell: sorted(choices) for cell, choices in seen.items()} == {0: [0, 1, 2], 1: [0, 1, 2]}


@pytest.mark.parametrize('standardize', ['channel', 'feature'])
def test_features_are_standardised(standardize: str) -> None:
    model = small.distiller(standardize=standardize)
    for feature in model.features(small.images(16)):
        values = feature.double().transpose(0, 1).flatten(1)
        if standardize == 'feature':
            values = values.flatten()[None]
        assert values.mean(1) == pytest.approx(torch.zeros(len(values)), abs=1e-4)
        assert values.std(1, unbiased=False) == pytest.approx(torch.ones(len(values)), rel=1e-3)


def test_without_standardisation_features_are_the_teachers() -> None:
    model = small.distiller(standardize=None)
    x = small.images(2)
    assert model.calibrated
    assert all(torch.equal(a, b) for a, b in zip(model.features(x), model.teacher(x), strict=True))


class Scaled(nn.Module):
    """A network whose features are another's, scaled."""

    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.scale * f for f in self.net(x))


@MODELS.register_module()
class ScaledTeacher(Scaled):
    def __init__(self, scale: float) -> None:
        super().__init__(small.teacher(), scale)

    def init_weights(self) -> None:
        """Has its weights."""


def test_a_teacher_of_another_scale_gives_the_same_losses() -> None:
    found = []
    for scale in (1.0, 1000.0):
        teacher = Teacher(backbone=dict(type='mmnas_ext.ScaledTeacher', scale=scale))
        torch.manual_seed(2)
        model = BlockDistiller(teacher, small.space(), input_size=(32, 32))
        torch.manual_seed(2)
        model.init_weights()
        model.calibrate([small.images(16)])
        found.append({name: float(loss.detach()) for name, loss in losses_at(model.train()).items()})
    assert found[0] == pytest.approx(found[1], rel=1e-3)


# around 1234.567 neighbouring floats are 1.2e-4 apart: there it varies by what rounding leaves
@pytest.mark.parametrize(('weight', 'value'), [(0, 0), (0, 7), (0, 1234.567), (1e-3, 1234.567)])
def test_a_channel_that_never_varies_does_no_harm(weight: float, value: float) -> None:
    model = small.distiller()
    last = model.teacher.net.stages[2][0].project.bn
    last.weight[3], last.bias[3] = weight, value
    model.calibrate([small.images(8)])
    assert model.std_2.flatten()[3] == 1
    feature = model.features(small.images(4))[2]
    # of the mean, in single precision
    assert feature[:, 3] == pytest.approx(torch.zeros_like(feature[:, 3]), abs=1e-6 * max(value, 1))


@pytest.mark.parametrize('train_mode', [False, True])
def test_the_teacher_is_in_training_mode_while_blocks_learn_if_that_is_asked_for(train_mode: bool) -> None:
    model = small.distiller(train_mode=train_mode)
    x = small.images(4, 50)
    losses = losses_at(model, 3, x)
    # of the half of a batch, by batch norms that see that half
    halves = model.features(x[:2])
    assert torch.allclose(halves[2], model.features(x)[2][:2], atol=1e-5) is not train_mode
    losses_at(model, 4, small.images(4, 51) * 2)
    assert all(torch.equal(value, losses[name]) for name, value in losses_at(model, 3, x).items())
    model.eval()
    torch.testing.assert_close(model.features(x[:2])[2], model.features(x)[2][:2])
    # standardised by what is imitated
    model.train().calibrate([x])
    for feature in model.features(x):
        torch.testing.assert_close(feature.mean((0, 2, 3)), torch.zeros(feature.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(feature.std((0, 2, 3), unbiased=False), torch.ones(feature.shape[1]))


@pytest.mark.parametrize('standardize', ['channel', 'feature', None])
@pytest.mark.parametrize(('tap', 'value'), [('stages.1.1', 0.0), ('stages.2.0', 3.5), ('stages.2.0', float('nan'))])
def test_a_feature_that_teaches_nothing_is_named(standardize: str | None, tap: str, value: float) -> None:
    model = small.distiller(standardize=standardize)
    for layer in model.teacher.net.stages[int(tap.split('.')[1])]:
        norm = layer.project.bn
        norm.weight.data.zero_()
        norm.bias.data.fill_(value).mul_(torch.arange(1.0, len(norm.bias) + 1))  # constant, another in each channel
    what = 'each channel is constant' if value == value else 'not finite'
    for measure in (model.check_features, model.calibrate):
        with pytest.raises(ValueError, match=f"the teacher's feature '{tap}' .* nothing to learn: .*{what}"):
            measure([small.images(4)])


def test_a_feature_that_no_block_reads_or_imitates_may_be_anything() -> None:
    model = small.distiller()
    assert {(block.plan.source, block.plan.target) for block in model.all_blocks()} == {(None, 1), (1, 2)}
    model.teacher.register_forward_hook(lambda _m, _a, features: (features[0] * 0, *features[1:]))
    model.check_features([small.images(4)])
    model.calibrate([small.images(4)])
    assert torch.equal(model.std_0, torch.ones_like(model.std_0))


@pytest.mark.parametrize('standardize', ['channel', 'feature'])
def test_all_images_count_alike_however_they_are_cut(standardize: str) -> None:
    model = small.distiller(standardize=standardize)
    found = []
    for sizes in ([9], [1, 6, 2]):
        model.calibrate(iter(small.images(9, 3).split(sizes)))
        found.append({name: b.clone() for name, b in model.named_buffers() if name[:4] in ('mean', 'std_')})
    assert len(found[0]) == 6
    torch.testing.assert_close(*found)


@MODELS.register_module()
class IdentityTeacher(nn.Module):
    """Two features, the second of which is the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.second = nn.Identity()

    def init_weights(self) -> None:
        """Has its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize('standardize', ['channel', None])
def test_a_teacher_that_is_the_identity_gives_zero_loss(standardize: str | None) -> None:
    candidates = ['k3_e3', 'k5_e3']
    space = CellSpace.parse(
        {
            'stem_channels': 8,
            'stages': [
                {'stride': 2, 'channels': [8], 'depths': [1], 'candidates': candidates},
                {'stride': 1, 'channels': [8], 'depths': [2], 'candidates': candidates},
            ],
        }
    )
    teacher = dict(backbone=dict(type='mmnas_ext.IdentityTeacher'), taps=['first', 'second'])
    model = BlockDistiller(teacher, space, standardize=standardize)
    model.init_weights()  # residual branches begin at zero: the second block is the identity
    if standardize:
        model.calibrate([small.images(8)])
    losses = losses_at(model.train())
    assert losses['loss_block1'].item() == 0
    assert losses['loss_block0'].item() > 0


def test_adapters_stand_where_widths_differ_and_nowhere_else() -> None:
    plain = small.distiller()
    assert all(cell.leave is None for block in plain.all_blocks() for cell in block.all_cells())
    assert all(cell.enter is None for cell in plain.all_blocks()[1].all_cells())
    narrow = small.distiller(small.space(second=10, third=16))
    first, second = narrow.all_blocks()
    assert [(c.leave.in_channels, c.leave.out_channels) for c in first.all_cells()] == [(10, 12), (10, 12)]
    assert [(c.enter.in_channels, c.enter.out_channels) for c in second.all_cells()] == [(12, 10)]
    assert all(cell.leave is None for cell in second.all_cells())
    assert losses_at(narrow)['loss_block1'] > 0


def test_a_block_is_trained_at_the_width_nearest_to_the_teachers() -> None:
    space = CellSpace.parse(
        {
            'stem_channels': 8,
            'stages': [
                {'stride': 1, 'channels': [8], 'depths': [1], 'candidates': ['k3_e1']},
                {'stride': 2, 'channels': [6, 10, 14], 'depths': [1], 'candidates': small.CANDIDATES},
                {'stride': 2, 'channels': [16], 'depths': [1], 'candidates': small.CANDIDATES},
            ],
        }
    )
    # 12 of the teacher lies between 10 and 14: the larger
    assert {cell.enters for cell in small.distiller(space).all_blocks()[1].all_cells()} == {14}


def test_blocks_are_shared_out_evenly() -> None:
    teacher = dict(backbone=dict(type='mmnas_ext.MBNet', arch='efficientnet_lite0', out_indices=(6,)))
    model = BlockDistiller(teacher, 'dna_lite', input_size=(128, 128))
    owners = model.owners(2)
    assert set(owners) == {0, 1}
    assert model.owners(1) == (0,) * 6
    assert sorted(model.owners(6)) == list(range(6))
    # a block that is not to be trained is no work
    few = BlockDistiller(model.teacher, 'dna_lite', blocks=[1, 4, 5], input_size=(128, 128))
    assert sorted(few.owners(3)[k] for k in (1, 4, 5)) == [0, 1, 2]
    # taking the largest first leaves them no further apart than one block is large
    prices = _mean_work(model.space, model.all_blocks(), (128, 128))
    loads = [sum(p for p, owner in zip(prices, owners, strict=True) if owner == rank) for rank in range(2)]
    assert abs(loads[0] - loads[1]) <= max(prices)
    assert sum(loads) == pytest.approx(sum(prices))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'sampling': 'softmax'}, "sampling must be one of .* got 'softmax'"),
        ({'standardize': 'batch'}, "standardize must be one of .* got 'batch'"),
        ({'blocks': [2]}, r'blocks must be distinct indices in 0\.\.1, or None, got \[2\]'),
        ({'blocks': [0, 0]}, 'distinct'),
        ({'blocks': []}, 'distinct'),
        ({'space': 'nowhere'}, "unknown space of cells 'nowhere'"),
        (
            {'space': small.space(stages=small.DEEP)},
            'the teacher must have a feature of stride 16, where the space ends',
        ),
    ],
)
def test_what_a_user_gets_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockDistiller(**{'teacher': small.teacher(), 'space': small.space(), **changes})


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'teacher': None}, r'teacher must be dict\(backbone=…\) or dict\(timm=NAME\), got None'),
        ({'blocks': 1}, 'blocks must be a list of indices, or None, got 1'),
        ({'blocks': ['0']}, r"blocks must be a list of indices, or None, got \['0'\]"),
        ({'input_size': 224}, 'input_size must be height and width in pixels, got 224'),
        ({'input_size': (224, 0)}, r'input_size must be height and width in pixels, got \(224, 0\)'),
        ({'norm_cfg': 'BN'}, r"norm_cfg must be dict\(type='…', …\) or None, got 'BN'"),
        ({'act_cfg': {'inplace': True}}, r"act_cfg must be dict\(type='…', …\) or None"),
        ({'block_parallel': 'yes'}, "block_parallel must be True or False, got 'yes'"),
    ],
)
def test_what_has_a_wrong_type(changes: dict[str, Any], message: str) -> None:
    given = {'teacher': small.teacher(), **changes}
    with pytest.raises(TypeError, match=message):
        check_arguments(**given)
    with pytest.raises(TypeError, match=message):
        BlockDistiller(space=small.space(), **given)


def test_calls_that_cannot_be_answered() -> None:
    model = small.distiller()
    with pytest.raises(ValueError, match="mode must be 'loss' or 'tensor', got 'predict'"):
        model(small.images(1), mode='predict')
    with pytest.raises(ValueError, match='at least one batch of images, got none'):
        model.calibrate([])
    tensors = model(small.images(1))
    assert [f.shape[1] for f in tensors] == [8, 12, 16]


def test_a_draw_does_not_depend_on_which_blocks_are_trained() -> None:
    everything, one = small.distiller(), small.distiller(blocks=[1])
    drawn = []
    for iteration in range(12):
        for model in (everything, one):
            model.start(iteration, 3)
        drawn.append(one.draw(1))
        assert everything.draw(1) == drawn[-1]
    assert len(set(drawn)) == 2


def test_the_memory_layout_changes_no_loss() -> None:
    model = small.distiller()
    plain = losses_at(model, 2)
    model.channels_last = model.teacher.channels_last = True
    torch.testing.assert_close(losses_at(model, 2), plain)


@pytest.mark.parametrize('sampling', ['uniform', 'fair'])
def test_layers_and_blocks_are_drawn_independently(sampling: str) -> None:
    stages = [{'stride': 2, 'channels': [8], 'depths': [2], 'candidates': small.CANDIDATES}] * 2
    model = small.distiller(small.space(stages=stages), sampling=sampling)
    seen = Counter()
    for iteration in range(2700):
        model.start(iteration, 1)
        seen[model.draw(0)[1] + model.draw(1)[1]] += 1
    pairs = [Counter() for _ in range(6)]
    for path, count in seen.items():
        for number, (a, b) in enumerate(combinations(range(4), 2)):
            pairs[number][path[a], path[b]] += count
    # of any two layers, in a block or in two, 9 joint choices of 300 each, five deviations
    assert all(len(pair) == 9 and all(abs(count - 300) < 82 for count in pair.values()) for pair in pairs)


def test_a_feature_of_another_size_is_refused() -> None:
    model = small.distiller()
    # a teacher that rounds down where the student rounds up
    model.teacher.register_forward_hook(lambda _m, _a, features: (*features[:2], features[2][..., :4, :4]))
    odd = small.images(1)[..., :31]
    losses_at(model, x=small.images(1)[..., :16, :16])
    message = r'block 1 has output \(1, 16, 4, 4\), its target is \(1, 16, 4, 3\): .* the images, got \(32, 31\)'
    model.teacher.register_forward_hook(lambda _m, _a, features: (*features[:2], features[2][..., :3]))
    with pytest.raises(ValueError, match=message):
        losses_at(model, x=odd)
