"""The super-network against plain arithmetic: mixing, paths, draws, expected cost, the derived network."""

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from mmnas_ext.archs import ArchSpec, Prices, SearchSpace, SpaceStage, StageSpec, cost, prices
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.registry import MODELS
from tests.backbones.reference import golden, plain_supernet, traced
from tests.filling import fill_state

FIRST = ('k3_e2', 'k5_e3')
OTHERS = ('k3_e2', 'k5_e3', 'k7_e2', 'skip')
# a fixed first block, searched layers with and without skip, and a fixed layer among them
SPACE = SearchSpace(
    (
        SpaceStage(8, 6, (('k3_e1',),), 1),
        SpaceStage(6, 8, (FIRST, OTHERS, OTHERS), 2),
        SpaceStage(8, 12, (FIRST, ('k5_e2',), OTHERS), 2),
        SpaceStage(12, 12, (FIRST, OTHERS), 1),
    ),
    act='relu6',
    bn_eps=1e-3,
)
COUNTS = {'1.0': 2, '1.1': 4, '1.2': 4, '2.0': 2, '2.2': 4, '3.0': 2, '3.1': 4}
SEARCHED = list(COUNTS)
PATH = ((0,), (1, 3, 0), (0, 0, 2), (1, 3))


def build(**options: Any) -> SuperNet:
    net = MODELS.build(
        dict(type='mmnas_ext.SuperNet', space=SPACE, out_indices=(1, 2, 3), input_size=(64, 96), **options)
    )
    net.load_state_dict(fill_state(net.state_dict()))
    return net.train()


@pytest.fixture
def net() -> SuperNet:
    return build()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 32, 48)


def set_alphas(net: SuperNet, alphas: dict[str, list[float]]) -> None:
    with torch.no_grad():
        for place, values in alphas.items():
            net.mixed_layers()[place].alpha.copy_(torch.tensor(values))


def test_the_seeds_path_is_found_in_every_form_of_init_cfg() -> None:
    remapped = dict(type='mmnas_ext.Remapped', seed=dict(arch=SPACE.arch(PATH), checkpoint='seed.pth'))
    other = dict(type='Kaiming', layer='Conv2d')
    for init in (remapped, [other, remapped]):
        assert SPACE.arch(build(init_cfg=init).seed_path()) == SPACE.arch(PATH)
    for init in (None, other, [other]):
        assert build(init_cfg=init).seed_path() is None


def test_outputs_and_searched_layers(net: SuperNet, image: Tensor) -> None:
    outputs = net(image)
    assert net.out_channels == (8, 12, 12) == tuple(output.shape[1] for output in outputs)
    assert net.out_strides == (4, 8, 8) == tuple(32 // output.shape[2] for output in outputs)
    assert list(net.mixed_layers()) == SEARCHED
    assert [alpha.numel() for alpha in net.arch_parameters()] == list(COUNTS.values())
    assert net.space == SPACE


def test_without_a_path_all_candidates_are_mixed_by_softmax(net: SuperNet, image: Tensor) -> None:
    expected = plain_supernet(SPACE, net.state_dict(), image, eps=1e-3)[1:]
    net.set_path(PATH)
    net.set_path(None)
    for output, plain in zip(net(image), expected, strict=True):
        torch.testing.assert_close(output, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('channels_last', [False, True])
def test_gradients_of_alpha_are_those_of_plain_arithmetic(with_cp: bool, channels_last: bool, image: Tensor) -> None:
    net = build(with_cp=with_cp, channels_last=channels_last)
    state = {key: tensor.detach().clone() for key, tensor in net.state_dict().items()}
    alphas = [state[f'stages.{place}.alpha'].requires_grad_() for place in SEARCHED]
    plain_loss = sum(output.square().mean() for output in plain_supernet(SPACE, state, image, eps=1e-3)[1:])
    expected = torch.autograd.grad(plain_loss, alphas)
    sum(output.square().mean() for output in net(image)).backward()
    for alpha, gradient in zip(net.arch_parameters(), expected, strict=True):
        assert gradient.abs().max() > 1e-5
        torch.testing.assert_close(alpha.grad, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item())


def test_recomputed_arch_step_is_the_same_to_the_bit(image: Tensor) -> None:
    results = []
    for with_cp in (False, True):
        net = build(with_cp=with_cp)
        outputs = net(image)
        sum(output.square().mean() for output in outputs).backward()
        results.append([*outputs, *(p.grad for p in net.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_path_is_the_network_of_its_candidates(net: SuperNet, image: Tensor) -> None:
    single = MBNet(SPACE.arch(PATH), out_indices=(1, 2, 3)).train()
    ours, copied = net.state_dict(), {}
    tokens = {(1, 0): 'k5_e3', (1, 1): 'k3_e2', (2, 0): 'k3_e2', (2, 2): 'k7_e2', (3, 0): 'k5_e3'}
    # layer 1 of stage 1 is skipped, so what the path calls layer 2 is the network's layer 1
    source = {(1, 1): (1, 2)}
    for key in single.state_dict():
        i, j = (int(n) for n in key.split('.')[1:3]) if key.startswith('stages.') else (-1, -1)
        if (i, j) not in tokens:
            copied[key] = ours[key]
        elif key.endswith('conv.weight'):
            a, b = source.get((i, j), (i, j))
            copied[key] = ours[f'stages.{a}.{b}.candidates.{tokens[i, j]}.{key.split(".", 3)[3]}']
    missing = single.load_state_dict(copied, strict=False).missing_keys
    # a candidate's norms have no weights: 1 and 0, as a fresh network's
    assert {key.rpartition('.')[0].rpartition('.')[2] for key in missing} == {'bn'}
    net.set_path(PATH)
    for output, expected in zip(net(image), single(image), strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_only_the_path_gets_gradients(net: SuperNet, image: Tensor) -> None:
    net.set_path(PATH)
    sum(output.square().mean() for output in net(image)).backward()
    used = {name.split('.conv')[0].rpartition('.')[0] for name, p in net.named_parameters() if p.grad is not None}
    used = {name for name in used if 'candidates' in name}
    chosen = ['1.0.candidates.k5_e3', '1.2.candidates.k3_e2', '2.0.candidates.k3_e2', '2.2.candidates.k7_e2']
    assert used == {f'stages.{name}' for name in [*chosen, '3.0.candidates.k5_e3']}
    assert all(alpha.grad is None for alpha in net.arch_parameters())


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        (((0,), (0, 0), (0, 0, 0), (0, 0)), r'path must have \(1, 3, 3, 2\) entries per stage, got \(1, 2, 3, 2\)'),
        (((0,), (2, 0, 0), (0, 0, 0), (0, 0)), r'path\[1\]\[0\] must lie in 0\.\.1, got 2'),
        (((0,), (0, 0, 0), (0, 1, 0), (0, 0)), r'path\[2\]\[1\] must lie in 0\.\.0, got 1'),
        (((0,), (0, -1, 0), (0, 0, 0), (0, 0)), r'path\[1\]\[1\] must lie in 0\.\.3, got -1'),
    ],
)
def test_paths_that_do_not_fit(net: SuperNet, image: Tensor, path: Any, message: str) -> None:
    net.set_path(PATH)
    before = net(image)[2]
    with pytest.raises(ValueError, match=message):
        net.set_path(path)
    # a refused path leaves the one before in place
    torch.testing.assert_close(net(image)[2], before)


@pytest.mark.parametrize('policy', ['uniform', 'softmax'])
def test_draws_follow_from_the_generators_state(net: SuperNet, policy: str) -> None:
    def drawn(seed: int) -> list[Any]:
        generator = Generator().manual_seed(seed)
        torch.manual_seed(torch.seed() % 1000)  # the global state must not matter
        return [net.sample_path(policy, generator) for _ in range(20)]

    assert drawn(3) == drawn(3) != drawn(4)
    for path in drawn(3):
        SPACE.check_path(path)
        assert (path[0], path[2][1]) == ((0,), 0)


@pytest.mark.parametrize('policy', ['uniform', 'softmax'])
def test_draws_have_the_policys_frequencies(net: SuperNet, policy: str) -> None:
    alphas = {place: [0.7 * math.sin(3 * i + n) for i in range(n)] for place, n in COUNTS.items()}
    set_alphas(net, alphas)
    generator = Generator().manual_seed(11)
    draws = 2000
    paths = [net.sample_path(policy, generator) for _ in range(draws)]
    for place, values in alphas.items():
        i, j = (int(n) for n in place.split('.'))
        weights = [1.0] * len(values) if policy == 'uniform' else [math.exp(value) for value in values]
        expected = [draws * weight / sum(weights) for weight in weights]
        counts = [sum(path[i][j] == choice for path in paths) for choice in range(len(values))]
        distance = sum((count - e) ** 2 / e for count, e in zip(counts, expected, strict=True))
        # chi-square of up to 3 degrees of freedom: above 16.3 once in 1000; the other policy gives over 50
        assert distance < 16.3
        spread = [draws * weight / sum(map(math.exp, values)) for weight in map(math.exp, values)]
        uniform = draws / len(values)
        assert policy == 'softmax' or sum((uniform - e) ** 2 / e for e in spread) > 50


def test_other_policies(net: SuperNet) -> None:
    with pytest.raises(ValueError, match=r"policy must be one of \('uniform', 'softmax'\), got 'greedy'"):
        net.sample_path('greedy', Generator())


def candidate_macs(in_channels: int, channels: int, token: str, height: int, width: int, stride: int) -> int:
    if token == 'skip':
        return 0
    kernel, expansion = (int(part[1:]) for part in token.split('_'))
    hidden, before, after = in_channels * expansion, height * width, height * width // stride**2
    return in_channels * hidden * before * (expansion > 1) + hidden * kernel**2 * after + hidden * channels * after


def expected_by_hand(alphas: dict[str, list[float]]) -> float:
    # 64x96 pixels: stem 32x48, then strides 1 2 2 1
    sizes = {'1.0': (6, 8, 32, 48, 2), '1': (8, 8, 16, 24, 1), '2.0': (8, 12, 16, 24, 2)}
    sizes |= {'2': (12, 12, 8, 12, 1), '3': (12, 12, 8, 12, 1)}
    total = 0.0
    for place, values in alphas.items():
        ins, outs, height, width, stride = sizes.get(place) or sizes[place[0]]
        tokens = FIRST if place.endswith('.0') else OTHERS
        macs = [candidate_macs(ins, outs, token, height, width, stride) for token in tokens]
        exponentials = [math.exp(value) for value in values]
        total += math.fsum(e * m for e, m in zip(exponentials, macs, strict=True)) / math.fsum(exponentials)
    return total


def test_expected_cost_and_its_gradient(net: SuperNet) -> None:
    # steps of 2 ** -10 are exact in single precision
    alphas = {
        place: [(5 * i * i + 7 * k) % 32 / 16 - 1 for i in range(COUNTS[place])] for k, place in enumerate(SEARCHED)
    }
    set_alphas(net, alphas)
    ours = net.expected_cost()
    assert ours.dtype == torch.float64
    assert ours.item() == pytest.approx(expected_by_hand(alphas), rel=1e-13)
    gradients = torch.autograd.grad(ours, net.arch_parameters())
    step = 2**-10
    for place, gradient in zip(SEARCHED, gradients, strict=True):
        for i in range(len(gradient)):
            moved = []
            for sign in (1, -1):
                values = {k: list(v) for k, v in alphas.items()}
                values[place][i] += sign * step
                moved.append(expected_by_hand(values))
            slope = (moved[0] - moved[1]) / (2 * step)
            assert gradient[i].item() == pytest.approx(slope, rel=1e-4, abs=1e-2)


def test_expected_cost_under_other_prices(net: SuperNet) -> None:
    # softmax of ln 1, ln 2, … ln n is 1, 2, … n over n (n + 1) / 2
    set_alphas(net, {place: [math.log(i + 1) for i in range(n)] for place, n in COUNTS.items()})
    layers = tuple(
        tuple(tuple(10.0 * i + j + k / 8 for k in range(len(layer))) for j, layer in enumerate(stage.layers))
        for i, stage in enumerate(net.space.stages)
    )
    wanted = 0.0
    for place, n in COUNTS.items():
        row = layers[int(place[0])][int(place[2])]
        wanted += sum((k + 1) * figure for k, figure in enumerate(row)) / (n * (n + 1) / 2)
    assert net.expected_cost(Prices('latency', 99.0, layers)).item() == pytest.approx(wanted, rel=1e-6)
    # those of multiply-adds are the ones that it has without any
    macs = prices(net.space, net.input_size, net.output_stride)
    assert torch.equal(net.expected_cost(macs), net.expected_cost())


def test_cost_of_a_path_is_fixed_plus_chosen(net: SuperNet) -> None:
    chosen_index = {place: PATH[int(place[0])][int(place[2])] for place in SEARCHED}
    set_alphas(net, {place: [60.0 * (i == chosen_index[place]) for i in range(n)] for place, n in COUNTS.items()})
    chosen = net.expected_cost().item()
    net.set_path(PATH)
    _, macs = traced(net, torch.randn(2, 3, 64, 96))
    assert chosen + net.fixed_cost().macs == pytest.approx(macs, rel=1e-12)
    # stem, the first stage's block, and the fixed layer of stage 2
    stem, first = 27 * 8 * 32 * 48, (8 * 9 + 8 * 6) * 32 * 48
    fixed = (12 * 24 + 24 * 25 + 24 * 12) * 8 * 12
    assert net.fixed_cost().macs == stem + first + fixed
    assert cost(net.derive(), (64, 96)).macs == macs


def test_cost_follows_input_size_and_output_stride() -> None:
    table = golden('archs_fna_super.json')['flops_table_96x128']
    for output_stride in (32, 16):
        net = SuperNet('fna_det', input_size=(96, 128), output_stride=output_stride)
        with torch.no_grad():
            for alpha in net.arch_parameters():
                alpha.zero_()
        # no skip among six: an even mix costs the mean; at output stride 16 what follows the last stride costs 4 times,
        # and of the layer that had it the expansion still sees what it saw
        quarter = [sum(layer) / len(layer) for stage in table[4:] for layer in stage]
        mean_width = (3 + 6) / 2
        expansion = mean_width * 96 * 96 * (96 // 16) * (128 // 16)
        expected = sum(sum(layer) / len(layer) for stage in table for layer in stage)
        if output_stride == 16:
            expected += 3 * (sum(quarter) - expansion)
        assert net.expected_cost().item() == pytest.approx(expected, rel=1e-9)


def test_derived_network_has_the_largest_alphas(net: SuperNet) -> None:
    alphas = {
        '1.0': [0.5, 0.5],  # the first of equals
        '1.1': [0.0, 0.1, 0.2, 0.3],
        '1.2': [-1.0, -0.1, -0.5, -0.2],
        '2.0': [0.0, 1e-6],
        '2.2': [0.0, -3.0, 4.0, 3.9],
        '3.0': [-2.0, -3.0],
        '3.1': [0.0, 1.0, 1.0, 1.0],
    }
    set_alphas(net, alphas)
    expected = ArchSpec(
        (
            StageSpec(8, 6, ('k3_e1',), 1),
            StageSpec(6, 8, ('k3_e2', 'k5_e3'), 2),
            StageSpec(8, 12, ('k5_e3', 'k5_e2', 'k7_e2'), 2),
            StageSpec(12, 12, ('k3_e2', 'k5_e3'), 1),
        ),
        bn_eps=1e-3,
    )
    assert net.derive() == expected
    assert net.derive() in SPACE


def test_a_search_that_collapses_to_skips_still_derives_a_network(net: SuperNet) -> None:
    set_alphas(net, {place: [0.0, 0.0, 0.0, 1.0] for place in SEARCHED if not place.endswith('.0')})
    assert net.derive().depths == (1, 1, 2, 1)


def test_fixed_layers_are_ordinary_layers(net: SuperNet) -> None:
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    affine = {name for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d) and m.affine}
    places = ('stages.0.0.depthwise', 'stages.0.0.project', 'stages.2.1.expand', 'stages.2.1.depthwise')
    assert affine == {f'{place}.bn' for place in ('stem', *places, 'stages.2.1.project')}
    assert {norm.eps for norm in norms} == {1e-3}
    assert all(m.track_running_stats == m.affine for m in norms)


def test_norm_eval_and_frozen_stages(image: Tensor) -> None:
    net = build(norm_eval=True, frozen_stages=2).train()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items() if 'running' in key}
    net(image)[2].sum().backward()
    assert all(torch.equal(net.state_dict()[key], tensor) for key, tensor in before.items())
    learned = {name.split('.')[1] for name, p in net.named_parameters() if p.grad is not None}
    assert learned == {'2', '3'}


@pytest.mark.parametrize('out_indices', [(4,), ('2.expand',)])
def test_outputs_that_a_space_has_not(out_indices: tuple[int | str, ...]) -> None:
    with pytest.raises(ValueError, match=r'out_indices must be among \[0, 1, 2, 3\], got .*no head, so no 4'):
        SuperNet(SPACE, out_indices=out_indices)


def test_other_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match=r'frozen_stages must lie in -1\.\.4, got -2'):
        SuperNet(SPACE, out_indices=(1,), frozen_stages=-2)
    with pytest.raises(ValueError, match='size must be a pair of positive integers'):
        SuperNet(SPACE, out_indices=(1,), input_size=(0, 96))
    with pytest.raises(ValueError, match='fna_nowhere'):
        SuperNet('fna_nowhere')
