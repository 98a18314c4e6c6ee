"""Trained blocks in a row are one network: an MBNet with their weights computes what they compute."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.archs import CellSpace
from mmnas_ext.backbones import MBNet
from mmnas_ext.distill import BlockDistiller, recalibrate, stitch
from mmnas_ext.distill.stitch import find_loose_widths
from tests.distill import small

CHOSEN = [(1, (0, 2, 1)), (0, (1,))]


def disturbed(model: BlockDistiller) -> BlockDistiller:
    """Random statistics in all batch norms and random shifts in all adapters, in eval mode."""
    torch.manual_seed(8)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def in_a_row(model: BlockDistiller, x: Tensor, chosen: list = CHOSEN) -> Tensor:
    for block, (cell, path) in zip(model.all_blocks(), chosen, strict=True):
        x = block(x, cell, path)
    return x


def network(model: BlockDistiller, chosen: list = CHOSEN) -> MBNet:
    cells = [index for block, (cell, _) in zip(model.all_blocks(), chosen, strict=True)
             for index in block.all_cells()[cell].cells]  # fmt: skip
    path = [choices for block, (cell, flat) in zip(model.all_blocks(), chosen, strict=True)
            for choices in block.all_cells()[cell].by_stage(flat)]  # fmt: skip
    net = MBNet(model.space.arch(cells, tuple(path)), out_indices=(2,))
    net.load_state_dict(stitch(model, chosen))
    return net.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    'space',
    [small.space(), small.space(second=10), small.space(second=20)],
    ids=['equal widths', 'adapters, narrower', 'adapters, wider'],
)
def test_the_network_computes_what_its_blocks_compute(space: CellSpace) -> None:
    model = disturbed(small.distiller(space))
    net = network(model)
    x = small.images(3, 7)
    (output,) = net(x)
    assert output == pytest.approx(in_a_row(model, x), abs=1e-4)
    assert [stage.layers for stage in net.arch.stages] == [('k3_e1',), ('k3_e6', 'k5_e6'), ('k5_e6',)]


@torch.no_grad()
def test_the_last_adapter_is_left_out() -> None:
    model = disturbed(small.distiller(small.space(third=18)))
    (output,) = network(model)(small.images(2))
    assert output.shape[1] == 18
    adapter = model.all_blocks()[1].all_cells()[0].leave
    assert adapter(output) == pytest.approx(in_a_row(model, small.images(2)), abs=1e-4)


@torch.no_grad()
def test_skips_are_no_layers() -> None:
    space = CellSpace.parse(
        {'stem_channels': 8, 'stages': [
            {'stride': 1, 'cells': [{'channels': 8, 'layers': [['k3_e1']]}]},
            {'stride': 2, 'cells': [{'channels': 12, 'layers': [['k3_e3', 'k5_e3'], ['k3_e3', 'skip'], ['k3_e3']]}]},
            {'stride': 2, 'cells': [{'channels': 16, 'layers': [['k3_e3', 'k5_e3']]}]},
        ]}
    )  # fmt: skip
    model = disturbed(small.distiller(space))
    chosen = [(0, (0, 1, 1, 0)), (0, (0,))]
    net = network(model, chosen)
    assert net.arch.depths == (1, 2, 1)
    assert net(small.images(2))[0] == pytest.approx(in_a_row(model, small.images(2), chosen), abs=1e-4)


def test_the_distiller_is_left_alone() -> None:
    model = disturbed(small.distiller(small.space(second=10)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = stitch(model, CHOSEN)
    for value in state.values():
        value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_widths_that_do_not_meet_are_refused() -> None:
    space = CellSpace.parse(
        {'stem_channels': 8, 'stages': [
            {'stride': 1, 'channels': [8], 'depths': [1], 'candidates': ['k3_e1']},
            {'stride': 2, 'channels': [10, 12], 'depths': [1], 'candidates': small.CANDIDATES},
            {'stride': 2, 'channels': [16], 'depths': [1], 'candidates': small.CANDIDATES},
        ]}
    )  # fmt: skip
    model = small.distiller(space)
    stitch(model, [(1, (0, 0)), (0, (0,))])
    with pytest.raises(ValueError, match='block 1 do not fit: it was trained with 12 input channels, .* it has 10'):
        stitch(model, [(0, (0, 0)), (0, (0,))])
    with pytest.raises(ValueError, match='chosen must have one entry per block, 2, got 1'):
        stitch(model, [(0, (0, 0))])


@pytest.mark.parametrize(
    ('stride', 'tokens', 'message'),
    [
        (2, ['k3_e1', 'k5_e1'], 'no residual, so that .* got no expansion'),
        (1, ['k3_e3', 'k5_e3'], 'no residual, so that .* got a residual'),
    ],
)
def test_adapters_that_cannot_be_folded_are_refused(stride: int, tokens: list[str], message: str) -> None:
    space = CellSpace.parse(
        {'stem_channels': 8, 'stages': [
            {'stride': 2, 'channels': [10], 'depths': [1], 'candidates': ['k3_e3', 'k5_e3']},
            {'stride': stride, 'channels': [10], 'depths': [1], 'candidates': tokens},
        ]}
    )  # fmt: skip
    taps = ['stages.1.0', 'stages.1.1'] if stride == 1 else ['stages.1.1', 'stages.2.0']
    model = BlockDistiller(small.teacher(taps=taps), space, standardize=None)
    with pytest.raises(ValueError, match=message):
        stitch(model, [(0, (0,)), (0, (0,))])


@pytest.mark.parametrize('token', ['fused_k3_e2', 'basic_k3_e1', 'bottleneck_k3_e0.5'])
def test_layers_that_adapters_never_fold_into_are_refused_before_training(token: str) -> None:
    def space(width: int) -> CellSpace:
        return CellSpace.parse(
            {'stem_channels': 8, 'act': 'relu', 'stages': [
                {'stride': 2, 'channels': [width], 'depths': [1], 'candidates': ['k3_e3', token]},
                {'stride': 2, 'channels': [16], 'depths': [1], 'candidates': ['k3_e3', token]},
            ]}
        )  # fmt: skip

    teacher = small.teacher(taps=['stages.1.1', 'stages.2.0'])
    with pytest.raises(
        ValueError, match=f'the first layer of block 1 offers {token}, into which the adapters before it'
    ):
        BlockDistiller(teacher, space(10), standardize=None)
    # of the teacher's width there are no adapters
    model = disturbed(BlockDistiller(teacher, space(12), standardize=None))
    chosen = [(0, (1,)), (0, (1,))]
    net = MBNet(model.space.arch((0, 0), ((1,), (1,))), out_indices=(1,))
    net.load_state_dict(stitch(model, chosen))
    with torch.no_grad():
        (output,) = net.eval()(small.images(2))
        assert output == pytest.approx(in_a_row(model, small.images(2), chosen), abs=1e-4)


def test_statistics_are_averages_over_the_batches() -> None:
    net = MBNet(small.ARCH, out_indices=(2,))
    net.train()(5 + small.images(4))  # what was seen before does not count
    batches = [small.images(4, 1), 3 * small.images(4, 2)]
    recalibrate(net, batches)
    assert not any(module.training for module in net.modules())
    with torch.no_grad():
        outputs = [net.stem.conv(batch) for batch in batches]
    means = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variances = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    assert net.stem.bn.running_mean == pytest.approx(means, abs=1e-5)
    assert net.stem.bn.running_var == pytest.approx(variances, rel=1e-4)
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


@torch.no_grad()
def test_adapters_fold_in_double_precision_as_well() -> None:
    model = disturbed(small.distiller(small.space(second=10))).double()
    state = stitch(model, CHOSEN)
    assert {value.dtype for value in state.values()} == {torch.float64, torch.int64}
    net = network(model).double()
    net.load_state_dict(state)
    x = small.images(2).double()
    assert net(x)[0] == pytest.approx(in_a_row(model, x), abs=1e-10)


@torch.no_grad()
def test_a_stage_beyond_stride_32_is_dilated_as_in_the_network() -> None:
    stage = {'stride': 2, 'channels': [8], 'depths': [2], 'candidates': ['k3_e2', 'k5_e2']}
    space = CellSpace.parse({'stem_channels': 8, 'stages': [stage] * 5})
    arch = '|'.join(["[[8, 8], ['k3_e2', 'k3_e2'], 2]"] * 5)
    teacher = dict(backbone=dict(type='mmnas_ext.MBNet', arch=arch, out_indices=(4,)))
    model = disturbed(BlockDistiller(teacher, space, standardize=None))
    chosen = [(0, (1, 0))] * 5
    net = MBNet(space.arch((0,) * 5, ((1, 0),) * 5), out_indices=(4,))
    net.load_state_dict(stitch(model, chosen))
    x = nn.functional.interpolate(small.images(2), scale_factor=6)
    (output,) = net.eval()(x)
    assert output.shape == (2, 8, 6, 6)
    assert output == pytest.approx(in_a_row(model, x, chosen), abs=1e-4)


def test_frozen_norms_are_recalibrated_as_well() -> None:
    free, frozen = MBNet(small.ARCH, out_indices=(2,)), MBNet(small.ARCH, (2,), frozen_stages=2, norm_eval=True)
    frozen.load_state_dict(free.state_dict())
    for net in (free, frozen):
        recalibrate(net, [small.images(4, 1), small.images(4, 2)])
    torch.testing.assert_close(dict(frozen.state_dict()), dict(free.state_dict()))
    assert free.stem.bn.num_batches_tracked == 2


def test_nothing_is_recalibrated_by_nothing() -> None:
    with pytest.raises(ValueError, match='recalibrate needs at least one batch of images, got none'):
        recalibrate(MBNet(small.ARCH, out_indices=(2,)), [])


def test_widths_that_have_no_distilled_weights_are_found() -> None:
    assert find_loose_widths(small.distiller()) == {}
    wide = {
        'stem_channels': 8,
        'stages': [
            {'stride': 1, 'channels': [8], 'depths': [1], 'candidates': ['k3_e1']},
            {'stride': 2, 'channels': [6, 10, 14], 'depths': [1], 'candidates': small.CANDIDATES},
            {'stride': 2, 'channels': [16], 'depths': [1], 'candidates': small.CANDIDATES},
        ],
    }
    # trained with 14, the nearest to the teacher's 12
    assert find_loose_widths(small.distiller(CellSpace.parse(wide))) == {1: (6, 10)}
