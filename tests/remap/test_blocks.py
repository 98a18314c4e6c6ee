"""Remapping of fused, basic and bottleneck layers: what the target computes, against the seed or a masked seed."""

import random
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmnas_ext.archs import ArchSpec, BlockSpec, BottleneckSpec, SearchSpace, SpaceStage, StageSpec
from mmnas_ext.backbones import SuperNet
from mmnas_ext.remap import Seed, policies, remap
from tests.filling import fill_image
from tests.remap.samples import features, features_of, seed_of

IMAGE = fill_image((2, 3, 24, 20))
TOKENS = (
    *('k3_e1.5_hse0.5_hswish', 'fused_k3_e1', 'fused_k3_e2', 'fused_k5_e1.5_se0.5', 'basic_k3_e0.5', 'basic_k5_e1'),
    *('bottleneck_k3_e0.5', 'bottleneck_k3_e1_g4', 'bottleneck_k5_e0.5_g2_swish'),
)


def arch_of(*stages: tuple[int, int, str], stem: str = 'conv3') -> ArchSpec:
    """A network: channels, stride and layers of each stage."""
    found, entering = [], 8
    for channels, stride, layers in stages:
        found.append(StageSpec(entering, channels, tuple(layers.split()), stride))
        entering = channels
    return ArchSpec(tuple(found), act='relu', stem=stem)


def random_blocks(rng: random.Random) -> ArchSpec:
    stages = [(8 * rng.randint(1, 3), rng.randint(1, 2), ' '.join(rng.choices(TOKENS, k=rng.randint(1, 3))))]
    stages.append((16, rng.randint(1, 2), ' '.join(rng.choices(TOKENS, k=2))))
    return arch_of(*stages, stem=rng.choice(['conv3', 'conv7_pool']))


def changed(arch: ArchSpec, change: Callable[[str], str]) -> ArchSpec:
    return arch.replace(
        stages=tuple(StageSpec(s.in_channels, s.channels, tuple(map(change, s.layers)), s.stride) for s in arch.stages)
    )


def same(seed: Seed, target: ArchSpec, state: dict[str, Tensor]) -> None:
    last = len(target.stages) - 1
    (before,), (after,) = features(seed, IMAGE, last), features_of(target, state, IMAGE, last)
    assert before.abs().max() > 0.01
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_onto_the_identical_network_it_is_the_identity_to_the_bit(number: int) -> None:
    arch = random_blocks(random.Random(number))
    seed = seed_of(arch)
    for width, kernel in product(('first', 'bn', 'l1', 'std'), ('center', 'dilated')):
        state, report = remap(seed, arch, width=width, kernel=kernel, noise=1.0)
        assert list(state) == list(seed.state_dict)
        assert all(torch.equal(state[name], tensor) for name, tensor in seed.state_dict.items())
        assert report.counts()['copied'] == len(state)
        assert (report.unused, report.notes) == ((), ('the seed lacks no channel: no noise anywhere',))


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_a_larger_kernel_computes_what_the_seeds_does(number: int) -> None:
    rng = random.Random(number)
    seed = seed_of(random_blocks(rng))

    def grown(token: str) -> str:
        kernel = BlockSpec.parse(token).kernel
        return token.replace(f'k{kernel}_', f'k{kernel + 2 * rng.randint(0, 2)}_')

    target = changed(seed.arch, grown)
    same(seed, target, remap(seed, target)[0])


@pytest.mark.parametrize(
    ('narrow', 'wide'),
    [
        ('fused_k3_e1.5', 'fused_k3_e3'),
        ('basic_k3_e0.5', 'basic_k3_e2'),
        ('bottleneck_k3_e0.5', 'bottleneck_k3_e1'),
        # of two groups of 4 channels, two groups of 8, of 12
        ('bottleneck_k3_e0.5_g2', 'bottleneck_k3_e1_g2'),
        ('bottleneck_k3_e0.5_g2', 'bottleneck_k5_e1.5_g2'),
        # what was divided into groups is a convolution with zeros between them
        ('bottleneck_k3_e0.5_g4', 'bottleneck_k3_e0.5'),
        ('bottleneck_k3_e0.5_g4', 'bottleneck_k3_e1'),
        ('bottleneck_k3_e0.5_g4', 'bottleneck_k3_e0.5_g2'),
        ('bottleneck_k3_e0.5_g8', 'bottleneck_k3_e0.5_g4'),
        # a projection, a gate that is nearly open
        ('fused_k3_e1', 'fused_k3_e2'),
    ],
)
def test_a_wider_layer_computes_what_the_seeds_does(narrow: str, wide: str) -> None:
    seed = seed_of(arch_of((16, 2, f'{narrow} {narrow}')))
    # a norm that passes its input on divides by the root of 1 + eps
    seed = Seed(seed.arch.replace(bn_eps=1e-9), seed.state_dict)
    target = changed(seed.arch, lambda _: wide)
    same(seed, target, remap(seed, target)[0])


def test_noise_is_in_the_channels_that_the_seed_lacks_alone() -> None:
    seed = seed_of(arch_of((16, 1, 'bottleneck_k3_e0.5_g2')))
    target = arch_of((16, 1, 'bottleneck_k3_e1_g2'))
    plain, noisy = (remap(seed, target, noise=noise)[0]['stages.0.0.conv.conv.weight'] for noise in (0, 1e-3))
    rows = [channel % 8 < 4 for channel in range(16)]
    for row, known in enumerate(rows):
        assert (noisy[row, 4:] != 0).all()
        assert torch.equal(noisy[row, :4], plain[row, :4]) == known
    assert plain[rows][:, :4].ne(0).any()
    assert not plain[[not known for known in rows]].any()


@pytest.mark.parametrize('width', ['first', 'bn', 'l1', 'std'])
@pytest.mark.parametrize(
    ('wide', 'narrow', 'groups'),
    [
        ('basic_k3_e1', 'basic_k3_e0.5', 1),
        ('fused_k3_e3', 'fused_k3_e2', 1),
        ('bottleneck_k3_e1', 'bottleneck_k3_e0.5', 1),
        ('bottleneck_k3_e1_g2', 'bottleneck_k3_e0.5_g2', 2),
        ('bottleneck_k3_e1.5_g3', 'bottleneck_k3_e0.75_g3', 3),
    ],
)
def test_a_narrower_layer_computes_what_the_seed_does_without_the_channels_left_out(
    wide: str, narrow: str, groups: int, width: str
) -> None:
    seed = seed_of(arch_of((16, 1, wide)))
    target = arch_of((16, 1, narrow))
    state, _ = remap(seed, target, width=width)
    masked = {name: tensor.clone() for name, tensor in seed.state_dict.items()}
    makers = {'enter': 'conv', 'conv': 'project'} if 'enter' in str(list(masked)) else {'conv': 'project'}
    tensors = {name.removeprefix('stages.0.0.'): t for name, t in masked.items() if name.startswith('stages')}
    for maker, reader in makers.items():
        kept = by_hand(tensors, maker, reader, groups, state[f'stages.0.0.{maker}.conv.weight'].shape[0], width)
        gone = [c for c in range(len(tensors[f'{maker}.bn.weight'])) if c not in kept]
        for part in ('weight', 'bias'):  # a channel that is 0 after its norm
            masked[f'stages.0.0.{maker}.bn.{part}'][gone] = 0
    same(Seed(seed.arch, masked), target, state)


def by_hand(tensors: dict[str, Tensor], maker: str, reader: str, groups: int, keep: int, width: str) -> set[int]:
    """Channels that stay, ranked one by one; a convolution that reads them in groups sees its own group's."""
    weight, scale = tensors[f'{maker}.conv.weight'].double(), tensors[f'{maker}.bn.weight']
    read = tensors[f'{reader}.conv.weight'].double()
    count = len(weight)
    scores = []
    for channel in range(count):
        if read.shape[1] < count:
            group, place = divmod(channel, read.shape[1])
            size = len(read) // groups
            seen = read[group * size : (group + 1) * size, place]
        else:
            seen = read[:, channel]
        values = torch.cat([weight[channel].flatten(), seen.flatten()])
        score = {
            'first': -channel,
            'bn': abs(scale[channel]),
            'l1': values.abs().sum(),
            'std': values.std(correction=0),
        }
        scores.append(float(score[width]))
    kept, size = set(), count // groups
    for group in range(groups):
        members = range(group * size, (group + 1) * size)
        kept |= set(sorted(members, key=lambda c: -scores[c])[: keep // groups])
    return kept


def test_channels_of_groups_are_as_many_of_each() -> None:
    convs = BottleneckSpec(1, 1, groups=2).convs(6, 6)
    tensors = {'conv.bn.weight': torch.tensor([5.0, 4, 6, 1, 3, 2])}
    assert policies.hidden_channels(tensors, convs, 4, 'bn', groups=2).tolist() == [0, 2, 4, 5]
    assert policies.hidden_channels(tensors, convs, 4, 'bn').tolist() == [0, 1, 2, 4]
    assert policies.hidden_channels(tensors, convs, 4, 'first', groups=2).tolist() == [0, 1, 3, 4]
    assert policies.channel_places(6, 10, 2).tolist() == [0, 1, 2, 5, 6, 7]
    assert policies.channel_places(6, 4, 2).tolist() == [0, 1, 2, 3]


def test_depth_takes_the_seeds_last_layer_and_a_shortcut_passes_on() -> None:
    seed = seed_of(arch_of((8, 1, 'basic_k3_e1')))
    state, report = remap(seed, arch_of((16, 2, 'basic_k3_e1 basic_k3_e1')))
    weight = state['stages.0.0.shortcut.conv.weight'].flatten(1)
    assert torch.equal(weight, torch.eye(16, 8))
    assert torch.equal(state['stages.0.1.conv.conv.weight'][:8, :8], seed.state_dict['stages.0.0.conv.conv.weight'])
    assert not state['stages.0.1.conv.conv.weight'][:, 8:].any()
    assert [entry.action for entry in report.entries if 'shortcut' in entry.name] == ['new'] * 6


def test_layers_of_another_kind_are_new_and_the_report_says_so() -> None:
    seed = seed_of(arch_of((16, 1, 'basic_k3_e1 basic_k3_e1')))
    space = SearchSpace(
        (SpaceStage(8, 16, (('basic_k3_e1',), ('basic_k5_e1', 'fused_k3_e2', 'k3_e2', 'skip')), 1),), act='relu'
    )
    state, report = remap(seed, space)
    assert report.notes == (
        "layers of another kind than the seed's, whose weights are new: 1 fused MBConv layers, 1 MBConv layers",
    )
    entries = {entry.name.split('.candidates.')[1]: entry for entry in report.entries if 'candidates' in entry.name}
    assert {name: entry.action for name, entry in entries.items() if name.endswith('conv.weight')} == {
        'basic_k5_e1.conv.conv.weight': 'padded', 'basic_k5_e1.project.conv.weight': 'padded',
        'fused_k3_e2.conv.conv.weight': 'new', 'fused_k3_e2.project.conv.weight': 'new',
        'k3_e2.expand.conv.weight': 'new', 'k3_e2.depthwise.conv.weight': 'new', 'k3_e2.project.conv.weight': 'new',
    }  # fmt: skip
    net = SuperNet(space, out_indices=(0,))
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert ([name for name in missing if not name.endswith('alpha')], unexpected) == ([], [])
    again, _ = remap(seed, space)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_one_convolution_where_the_seed_has_two_is_new() -> None:
    _, report = remap(seed_of(arch_of((16, 1, 'fused_k3_e2'))), arch_of((16, 1, 'fused_k3_e1')))
    assert {e.action for e in report.entries if e.name.startswith('stages')} == {'new'}


def test_notes_name_what_no_tensor_tells() -> None:
    seed = seed_of(arch_of((16, 1, 'k3_e2_se0.5 k3_e2'), stem='conv7_pool'))
    _, report = remap(seed, arch_of((16, 1, 'k3_e2_hse0.5 k3_e2_hswish')))
    assert report.notes == (
        "the seed's stem is conv7_pool, the target's conv3",
        "layers with another activation than the seed's: 1",
        "layers with another squeeze-excite than the seed's: 1",
    )


def test_a_stem_takes_the_centre_of_the_seeds_kernel() -> None:
    seed = seed_of(arch_of((16, 1, 'basic_k3_e1'), stem='conv7_pool'))
    state, _ = remap(seed, arch_of((16, 1, 'basic_k3_e1')))
    assert torch.equal(state['stem.conv.weight'], seed.state_dict['stem.conv.weight'][:, :, 2:5, 2:5])
