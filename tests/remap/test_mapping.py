"""What remapping does to tensors: the authors' figures, hand-made cases, and properties of random networks."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmnas_ext.archs import ArchSpec, SearchSpace, SpaceStage, StageSpec, zoo
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.remap import Seed, remap
from mmnas_ext.remap.layout import end_shapes, layers, tensor_shapes
from tests.filling import fill_image
from tests.remap.samples import features, features_of, golden, loaded, random_arch, seed_of

_PARTS = {3: ('expand', 'depthwise', 'project'), 2: ('depthwise', 'project')}


def authors_key(name: str) -> str:
    """The FNA authors' key of one of ours, in their networks and their super-network."""
    words = name.split('.')
    if words[0] in ('stem', 'head'):
        module = 'blocks.0' if words[0] == 'stem' else 'blocks.8.conv'
        return f'{module}.{int(words[1] == "bn")}.{words[2]}'
    stage, layer, rest = int(words[1]) + 1, words[2], words[3:]
    middle = f'layers.{layer}.op'
    if rest[0] == 'candidates':
        middle, rest = f'layers.{layer}._ops.{rest[1]}.op', rest[2:]
    # their modules are numbered conv, norm, activation, conv, …; the first layer has no expansion
    order = _PARTS[2 if stage == 1 else 3]
    number = 3 * order.index(rest[0]) + (rest[1] == 'bn')
    return f'blocks.{stage}.{middle}.{number}.{rest[2]}'


def compare_with_authors(ours: dict[str, Tensor], figures: dict[str, Any], rename: Any = authors_key) -> None:
    translated = {rename(name): tensor for name, tensor in ours.items() if not name.endswith('num_batches_tracked')}
    assert translated.keys() == figures.keys()
    for key, (total, absolute) in figures.items():
        tensor = translated[key].double()
        assert tensor.sum().item() == pytest.approx(total, rel=1e-6, abs=1e-6 * absolute), key
        assert tensor.abs().sum().item() == pytest.approx(absolute, rel=1e-6), key


@pytest.mark.parametrize('task', ['retinanet', 'ssdlite'])
def test_adaptation_remaps_as_the_authors_code(task: str) -> None:
    figures = golden('remap_fna.json')[f'paramadapt_{task}']
    # SSDLite's layers after the backbone, which no seed reaches
    figures = {k: v for k, v in figures.items() if not k.startswith('extra.')}
    ours, report = remap(loaded('fna/mbv2_imagenet'), f'fna_{task}')
    compare_with_authors(ours, figures)
    assert report.counts()['new'] == 0


def test_search_remaps_as_the_authors_code() -> None:
    figures = golden('remap_fna.json')['archadapt']
    ours, _ = remap(loaded('fna/mbv2_imagenet'), 'fna_det')

    def rename(name: str) -> str:
        # their super-network's fixed block is not a stage of layers
        return authors_key(name).replace('blocks.1.layers.0.op.', 'blocks.1.op.')

    compare_with_authors(ours, figures, rename)


def identical(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_onto_the_identical_architecture_it_is_the_identity(number: int) -> None:
    seed = seed_of(random_arch(random.Random(number), se=True))
    for width in ('first', 'bn', 'l1', 'std'):
        for kernel in ('center', 'dilated'):
            ours, report = remap(seed, seed.arch, width=width, kernel=kernel, noise=1.0)
            assert identical(ours, seed.state_dict)
            assert report.counts()['copied'] == len(seed.state_dict)
            assert report.unused == ()


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_growing_only_kernels_keeps_the_outputs(number: int) -> None:
    rng = random.Random(number)
    arch = random_arch(rng, se=True)
    grown = arch.replace(
        stages=tuple(
            StageSpec(s.in_channels, s.channels, tuple(grown_token(t, rng) for t in s.layers), s.stride)
            for s in arch.stages
        )
    )
    seed = seed_of(arch)
    ours, report = remap(seed, grown)
    image = fill_image((1, 3, 16, 24))
    last = len(arch.stages) - 1
    before, after = features(seed, image, *range(last + 1)), features_of(grown, ours, image, *range(last + 1))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    assert report.counts()['cropped'] == 0


def grown_token(token: str, rng: random.Random) -> str:
    kernel, _, rest = token.partition('_')
    return f'k{int(kernel[1:]) + 2 * rng.randint(0, 2)}_{rest}'


@given(st.integers(0, 10**6))
def test_any_network_takes_any_seed_of_as_many_stages(number: int) -> None:
    rng = random.Random(number)
    seed, target = seed_of(random_arch(rng, se=True)), random_arch(rng, se=True)
    before = {name: tensor.clone() for name, tensor in seed.state_dict.items()}
    policies = dict(width=rng.choice(['first', 'bn', 'l1', 'std']), kernel=rng.choice(['center', 'dilated']))
    ours, report = remap(seed, target, **policies, noise=rng.choice([0.0, 1e-3]))
    fresh = seed_of(target).state_dict
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {k: (v.shape, v.dtype) for k, v in fresh.items()}
    assert all(tensor.isfinite().all() for tensor in ours.values())
    # pure: nothing of the seed is changed, and nothing of it is shared
    assert identical(seed.state_dict, before)
    assert not {v.data_ptr() for v in ours.values()} & {v.data_ptr() for v in seed.state_dict.values()}
    assert [entry.name for entry in report.entries] == list(ours)
    assert {entry.source for entry in report.entries} - {None} | set(report.unused) == set(seed.state_dict)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_layout_names_what_a_network_builds(number: int) -> None:
    arch = random_arch(random.Random(number), se=True)
    built = MBNet(arch, out_indices=(len(arch.stages) - (arch.head_channels is None),)).state_dict()
    assert [(name, tuple(tensor.shape)) for name, tensor in built.items()] == list(tensor_shapes(arch).items())


def test_layout_names_what_a_super_network_builds() -> None:
    space = zoo.space('fna_det')
    built = SuperNet(space, out_indices=(6,), input_size=(64, 64)).state_dict()
    named, _ = end_shapes(space)
    for layer in layers(space):
        named |= {layer.prefix + name: shape for name, shape in layer.shapes().items()}
    expected = {name: tuple(tensor.shape) for name, tensor in built.items() if not name.endswith('.alpha')}
    assert list(named.items()) == list(expected.items())


def one_stage(*tokens: str, widths: tuple[int, int] = (2, 3), head: int | None = None) -> ArchSpec:
    return ArchSpec((StageSpec(*widths, tokens, 1),), head)


def test_shallower_stage_repeats_its_last_layer() -> None:
    seed = seed_of(one_stage('k3_e2', 'k3_e2'))
    ours, report = remap(seed, one_stage(*['k3_e2'] * 4))
    sources = {entry.name: entry.source for entry in report.entries}
    for j, expected in enumerate([0, 1, 1, 1]):
        name = f'stages.0.{j}.project.conv.weight'
        assert sources[name] == f'stages.0.{expected}.project.conv.weight'
        assert torch.equal(ours[name], seed.state_dict[sources[name]])


def test_deeper_stage_leaves_the_rest_unused() -> None:
    seed = seed_of(one_stage('k3_e2', 'k3_e2'))
    _, report = remap(seed, one_stage('k3_e2'))
    assert set(report.unused) == {name for name in seed.state_dict if name.startswith('stages.0.1.')}
    assert report.counts()['unused'] == 18


def test_fewer_channels_are_the_first() -> None:
    seed = seed_of(one_stage('k3_e4', widths=(4, 6)))
    ours, report = remap(seed, one_stage('k3_e4', widths=(3, 5)))
    theirs = seed.state_dict
    assert torch.equal(ours['stem.conv.weight'], theirs['stem.conv.weight'][:3])
    assert torch.equal(ours['stages.0.0.expand.conv.weight'], theirs['stages.0.0.expand.conv.weight'][:12, :3])
    assert torch.equal(ours['stages.0.0.project.conv.weight'], theirs['stages.0.0.project.conv.weight'][:5, :12])
    assert torch.equal(ours['stages.0.0.project.bn.running_var'], theirs['stages.0.0.project.bn.running_var'][:5])
    assert report.counts() == {
        'copied': 4, 'cropped': 20, 'padded': 0, 'cropped+padded': 0, 'new': 0, 'unused': 0
    }  # fmt: skip


def test_more_channels_hold_zeros_and_untouched_norms() -> None:
    seed = seed_of(one_stage('k3_e2', widths=(2, 3)))
    ours, report = remap(seed, one_stage('k3_e2', widths=(3, 5)))
    theirs = seed.state_dict
    project = ours['stages.0.0.project.conv.weight']
    assert torch.equal(project[:3, :4], theirs['stages.0.0.project.conv.weight'])
    assert project[3:].abs().sum() == 0 and project[:, 4:].abs().sum() == 0
    for field, initial in (('weight', 1), ('bias', 0), ('running_mean', 0), ('running_var', 1)):
        name = f'stages.0.0.project.bn.{field}'
        assert torch.equal(ours[name][:3], theirs[name])
        assert ours[name][3:].tolist() == [initial] * 2
    assert report.counts()['padded'] == 20


def test_kernels_are_centred_or_spread_in_either_direction() -> None:
    kernel3 = torch.arange(1.0, 10).view(3, 3)
    for policy, size, expected in [
        ('center', 5, torch.nn.functional.pad(kernel3, (1, 1, 1, 1))),
        ('center', 7, torch.nn.functional.pad(kernel3, (2, 2, 2, 2))),
        ('dilated', 5, torch.tensor([[1, 0, 2, 0, 3], [0] * 5, [4, 0, 5, 0, 6], [0] * 5, [7, 0, 8, 0, 9.0]])),
        ('center', 1, torch.tensor([[5.0]])),
        ('dilated', 1, torch.tensor([[5.0]])),
    ]:
        seed = seed_of(one_stage('k3_e2'))
        seed.state_dict['stages.0.0.depthwise.conv.weight'][:] = kernel3
        ours, report = remap(seed, one_stage(f'k{size}_e2'), kernel=policy)
        assert torch.equal(ours['stages.0.0.depthwise.conv.weight'], expected.expand(4, 1, size, size)), (policy, size)
        entry = next(e for e in report.entries if e.name == 'stages.0.0.depthwise.conv.weight')
        assert entry.action == ('padded' if size > 3 else 'cropped')
        assert (entry.seed_shape, entry.shape) == ((4, 1, 3, 3), (4, 1, size, size))


def test_dilated_kernel_of_7_holds_a_3_at_every_third_position() -> None:
    seed = seed_of(one_stage('k3_e2'))
    ours, _ = remap(seed, one_stage('k7_e2'), kernel='dilated')
    name = 'stages.0.0.depthwise.conv.weight'
    assert torch.equal(ours[name][..., ::3, ::3], seed.state_dict[name])
    assert ours[name].count_nonzero() == seed.state_dict[name].count_nonzero()


@pytest.mark.parametrize('width', ['bn', 'l1', 'std'])
def test_ranked_channels_agree_in_all_convolutions_and_keep_their_order(width: str) -> None:
    seed = seed_of(one_stage('k3_e4_se0.5'))
    theirs = seed.state_dict
    if width == 'bn':
        scales = torch.tensor([0.1, -3.0, 0.2, 2.0, 0.3, 1.0, 0.4, -0.9])
        theirs['stages.0.0.depthwise.bn.weight'][:] = scales
    else:
        factors = torch.tensor([0.1, 9, 0.2, 8, 0.3, 7, 0.4, 6])
        for name in ('expand', 'depthwise'):
            theirs[f'stages.0.0.{name}.conv.weight'][:] = factors.view(-1, 1, 1, 1)
    kept = [1, 3, 5, 7]
    ours, _ = remap(seed, one_stage('k3_e2_se0.5'), width=width)
    for name in ('expand.conv.weight', 'expand.bn.bias', 'depthwise.conv.weight', 'depthwise.bn.weight',
                 'depthwise.bn.running_mean', 'se.expand.weight', 'se.expand.bias'):  # fmt: skip
        assert torch.equal(ours[f'stages.0.0.{name}'], theirs[f'stages.0.0.{name}'][kept]), name
    for name in ('project.conv.weight', 'se.reduce.weight'):
        assert torch.equal(ours[f'stages.0.0.{name}'], theirs[f'stages.0.0.{name}'][:, kept]), name
    assert torch.equal(ours['stages.0.0.se.reduce.bias'], theirs['stages.0.0.se.reduce.bias'])
    # channels between layers have no rank: their meaning is shared by all layers of a stage
    assert torch.equal(ours['stages.0.0.project.bn.weight'], theirs['stages.0.0.project.bn.weight'])


def test_l1_counts_what_reads_a_channel_too() -> None:
    seed = seed_of(one_stage('k1_e1', widths=(4, 1)))
    name = 'stages.0.0.{}.conv.weight'
    seed.state_dict[name.format('depthwise')][:] = torch.tensor([3.0, 1, 1, 2]).view(4, 1, 1, 1)
    seed.state_dict[name.format('project')][:] = torch.tensor([0.0, 9, 1, 4]).view(1, 4, 1, 1)
    ours, _ = remap(seed, ArchSpec((StageSpec(2, 1, ('k1_e1',), 1),)), width='l1')
    # norms 3, 10, 2, 6
    assert ours[name.format('depthwise')].flatten().tolist() == [1, 2]
    assert ours[name.format('project')].flatten().tolist() == [9, 4]


def test_equal_ranks_keep_the_first() -> None:
    seed = seed_of(one_stage('k3_e4'))
    seed.state_dict['stages.0.0.depthwise.bn.weight'][:] = 1
    ours, _ = remap(seed, one_stage('k3_e2'), width='bn')
    assert identical(ours, remap(seed, one_stage('k3_e2'), width='first')[0])


def test_noise_is_only_in_channels_that_the_seed_lacks() -> None:
    seed = seed_of(one_stage('k3_e2'))
    target = one_stage('k5_e3', widths=(2, 4))
    plain, _ = remap(seed, target)
    noisy, report = remap(seed, target, noise=1e-2)
    assert report.notes == ("the seed's stages have [3] channels, the target's [4]: cropped and padded",)
    for name in ('expand', 'depthwise', 'project'):
        key = f'stages.0.0.{name}.conv.weight'
        changed = (plain[key] != noisy[key]).nonzero()[:, :2].unique(dim=0).tolist()
        lacking = {
            'expand': [[4, 0], [4, 1], [5, 0], [5, 1]],
            'depthwise': [[4, 0], [5, 0]],
            'project': [[i, j] for i in range(4) for j in range(6) if i == 3 or j >= 4],
        }[name]
        assert changed == lacking, name
    # kaiming_uniform over 2 inputs of a 1x1 convolution lies within sqrt(6 / 2)
    bound = 1e-2 * 3**0.5
    fresh = noisy['stages.0.0.expand.conv.weight'][4:]
    assert fresh.abs().max() <= bound and fresh.abs().max() > bound / 10
    rest = {k: v for k, v in noisy.items() if not k.endswith('conv.weight')}
    assert identical(rest, {k: v for k, v in plain.items() if k in rest})


def test_noise_that_goes_nowhere_is_told() -> None:
    seed, larger = seed_of(one_stage('k3_e2')), one_stage('k5_e1')
    noisy, report = remap(seed, larger, noise=1e-2)
    assert identical(noisy, remap(seed, larger)[0])
    assert report.notes == ('the seed lacks no channel: no noise anywhere',)
    assert str(report).endswith('; the seed lacks no channel: no noise anywhere')
    assert remap(seed, larger)[1].notes == ()


def test_noise_does_not_depend_on_the_random_state() -> None:
    seed, target = seed_of(one_stage('k3_e2')), one_stage('k3_e3', head=5)
    torch.manual_seed(1)
    first, _ = remap(seed, target, noise=1.0)
    state = torch.get_rng_state()
    second, _ = remap(seed, target, noise=1.0)
    assert identical(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_new_head_is_drawn_and_an_old_one_dropped() -> None:
    with_head, without = seed_of(one_stage('k3_e2', head=5)), seed_of(one_stage('k3_e2'))
    ours, report = remap(without, with_head.arch)
    assert [e.name for e in report.entries if e.action == 'new'] == [k for k in ours if k.startswith('head.')]
    assert ours['head.conv.weight'].std() > 0.1
    assert ours['head.bn.weight'].tolist() == [1] * 5
    ours, report = remap(with_head, without.arch)
    assert list(ours) == list(without.state_dict)
    assert set(report.unused) == {k for k in with_head.state_dict if k.startswith('head.')}


def test_expansion_that_the_seed_lacks_passes_its_input_on() -> None:
    # behind a stem with ReLU6 inputs lie in [0, 6], where an identity under ReLU6 is one
    seed = seed_of(one_stage('k3_e1', widths=(3, 4)).replace(bn_eps=1e-12))
    ours, report = remap(seed, one_stage('k3_e2', widths=(3, 4)).replace(bn_eps=1e-12))
    actions = {e.action for e in report.entries if '.expand.' in e.name}
    assert actions == {'new'}
    image = fill_image((1, 3, 16, 16))
    (expected,) = features(seed, image, 0)
    (got,) = features_of(one_stage('k3_e2', widths=(3, 4)).replace(bn_eps=1e-12), ours, image, 0)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    noisy, _ = remap(seed, one_stage('k3_e2', widths=(3, 4)), noise=0.1)
    weight = noisy['stages.0.0.expand.conv.weight'].flatten(1)
    assert torch.equal(weight[:3], torch.eye(3)) and weight[3:].abs().min() > 0


def test_expansion_that_the_target_lacks_leaves_the_first_hidden_channels() -> None:
    seed = seed_of(one_stage('k3_e2'))
    ours, report = remap(seed, one_stage('k3_e1'))
    name = 'stages.0.0.depthwise.conv.weight'
    assert torch.equal(ours[name], seed.state_dict[name][:2])
    assert {n for n in report.unused} == {n for n in seed.state_dict if '.expand.' in n}


def test_squeeze_excite_that_the_seed_lacks_starts_open() -> None:
    seed = seed_of(one_stage('k3_e2'))
    target = one_stage('k3_e2_se0.5')
    ours, report = remap(seed, target)
    assert sorted(e.name for e in report.entries if e.action == 'new') == [
        f'stages.0.0.se.{part}.{field}' for part in ('expand', 'reduce') for field in ('bias', 'weight')
    ]
    hidden = torch.rand(4)
    reduced = torch.relu(ours['stages.0.0.se.reduce.weight'].flatten(1) @ hidden)
    gate = (ours['stages.0.0.se.expand.weight'].flatten(1) @ reduced + ours['stages.0.0.se.expand.bias']).sigmoid()
    assert gate.min() > 0.98
    assert ours['stages.0.0.se.reduce.weight'].abs().min() > 0


def test_a_super_network_gets_convolutions_of_candidates_and_no_alphas() -> None:
    choices = (('k3_e2', 'k5_e1_se0.5'), ('k3_e2', 'skip'), ('k3_e1',))
    space = SearchSpace((SpaceStage(2, 3, choices, 1),))
    ours, _ = remap(seed_of(one_stage('k3_e2_se0.5')), space)
    own = [name for name in ours if name.startswith('stages.') and not name.startswith('stages.0.2.')]
    assert own == [
        'stages.0.0.candidates.k3_e2.expand.conv.weight',
        'stages.0.0.candidates.k3_e2.depthwise.conv.weight',
        'stages.0.0.candidates.k3_e2.project.conv.weight',
        'stages.0.0.candidates.k5_e1_se0_5.depthwise.conv.weight',
        'stages.0.0.candidates.k5_e1_se0_5.se.reduce.weight',
        'stages.0.0.candidates.k5_e1_se0_5.se.reduce.bias',
        'stages.0.0.candidates.k5_e1_se0_5.se.expand.weight',
        'stages.0.0.candidates.k5_e1_se0_5.se.expand.bias',
        'stages.0.0.candidates.k5_e1_se0_5.project.conv.weight',
        'stages.0.1.candidates.k3_e2.expand.conv.weight',
        'stages.0.1.candidates.k3_e2.depthwise.conv.weight',
        'stages.0.1.candidates.k3_e2.project.conv.weight',
    ]
    assert {name.split('.')[4] for name in ours if name.startswith('stages.0.2.depthwise.bn')} == {'bn'}


def test_targets_are_read_in_any_form() -> None:
    seed, arch = seed_of(one_stage('k3_e2')), one_stage('k5_e3', 'k3_e2')
    expected, _ = remap(seed, arch)
    for form in (arch.format('json'), arch.format('fna')):
        assert identical(remap(seed, form)[0], expected)
    space = SearchSpace((SpaceStage(2, 3, (('k3_e2', 'k5_e1'),), 1),))
    assert identical(remap(seed, space.format())[0], remap(seed, space)[0])
    with pytest.raises(ValueError, match='unknown architecture'):
        remap(seed, 'no_such_network')


def test_what_tensors_do_not_show_is_noted() -> None:
    seed = seed_of(one_stage('k3_e2'))
    target = ArchSpec((StageSpec(2, 3, ('k3_e2',), 2),), act='swish')
    _, report = remap(seed, target)
    assert report.notes == (
        "the seed's activation is relu6, the target's swish",
        "the seed's strides are (1,), the target's (2,)",
    )


def test_dna_seeds_a_search_of_fna() -> None:
    ours, report = remap(loaded('timm/DNA_a'), 'fna_det')
    assert report.counts()['new'] == 0
    assert 'stages.6.0.candidates.k7_e6.depthwise.conv.weight' in ours
    assert "the seed's activation is swish" in str(report)


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (dict(depth='first'), ValueError, r"depth must be one of \('last',\), got 'first'"),
        (dict(width='max'), ValueError, r"width must be one of .*'std'.*got 'max'"),
        (dict(kernel='corner'), ValueError, r"kernel must be one of .*'dilated'.*got 'corner'"),
        (dict(noise=-1.0), ValueError, 'noise must be at least 0 and finite, got -1.0'),
        (dict(noise=float('nan')), ValueError, 'noise must be at least 0 and finite, got nan'),
        (dict(target=zoo.arch('mobilenet_v2')), ValueError, 'the target has 7 stages and the seed has 1'),
        (dict(seed={'stem.conv.weight': torch.zeros(1)}), TypeError, 'seed must be a Seed.*got dict'),
        (dict(target=3), TypeError, 'got int'),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given_arguments = dict(seed=seed_of(one_stage('k3_e2')), target=one_stage('k3_e2')) | arguments
    with pytest.raises(error, match=message):
        remap(**given_arguments)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'stem.bn.bias': None}, r'seed has no tensor stem.bn.bias, .* with shape \(2,\)'),
        ({'stem.bn.bias': torch.zeros(3)}, r'seed tensor stem.bn.bias has shape \(3,\), .* expects \(2,\)'),
        ({'head.bn.bias': torch.zeros(3)}, r'seed tensor head.bn.bias has no place in its architecture'),
    ],
)
def test_a_seed_holds_what_its_architecture_has(change: dict[str, Tensor | None], message: str) -> None:
    seed = seed_of(one_stage('k3_e2'))
    state = {k: v for k, v in (seed.state_dict | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        Seed(seed.arch, state)
