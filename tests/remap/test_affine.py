"""A super-network whose candidates' norms have weights and biases: the seed's function arrives whole."""

from collections.abc import Iterable

import torch

from mmnas_ext.archs import SearchSpace, SpaceStage
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.remap import remap
from mmnas_ext.remap.initializer import RemappedInit
from tests.filling import fill_image
from tests.remap.samples import seed_of

SPACE = SearchSpace(
    (
        SpaceStage(4, 3, (('k3_e1',),), 1),
        SpaceStage(3, 5, (('k3_e2', 'k5_e4'), ('k5_e4', 'k3_e2', 'skip'), ('k3_e2', 'skip')), 2),
    ),
    bn_eps=1e-3,
)
SEED = seed_of(SPACE.arch(((0,), (0, 0, 1))))  # k3_e2, then k5_e4


def last_stage(net: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return net.train()(fill_image((2, 3, 16, 20)))[0]


def initialised(net: MBNet | SuperNet) -> MBNet | SuperNet:
    RemappedInit(SEED)(net)
    return net


def test_the_seeds_path_computes_what_the_seed_computes() -> None:
    seed = last_stage(initialised(MBNet(SEED.arch, out_indices=(1,))))
    affine, plain = (initialised(SuperNet(SPACE, out_indices=(1,), affine=affine)) for affine in (True, False))
    for net in (affine, plain):
        net.set_path(SPACE.path(SEED.arch))
    assert torch.equal(last_stage(affine), seed)
    # without them it is another function: what the seed's norms scale and shift is missing
    assert (last_stage(plain) - seed).abs().max() > 0.1


def test_norms_of_candidates_are_cropped_and_padded_as_their_convolutions() -> None:
    state, report = remap(SEED, SPACE, affine=True)
    # the seed's first layer has 3 x 2 hidden channels, the candidate k5_e4 has 12
    theirs = SEED.state_dict['stages.1.0.depthwise.bn.weight']
    ours = state['stages.1.0.candidates.k5_e4.depthwise.bn.weight']
    assert torch.equal(ours, torch.cat([theirs, torch.ones(6)]))
    # its second layer has 5 x 4, the candidate k3_e2 has 10
    theirs = SEED.state_dict['stages.1.1.expand.bn.bias']
    assert torch.equal(state['stages.1.1.candidates.k3_e2.expand.bn.bias'], theirs[:10])
    assert not [name for name in state if 'candidates' in name and 'running' in name]
    done = {entry.name: entry.action for entry in report.entries}
    assert done['stages.1.0.candidates.k5_e4.depthwise.bn.weight'] == 'padded'
    assert done['stages.1.1.candidates.k3_e2.expand.bn.bias'] == 'cropped'


def candidates_norms(names: Iterable[str]) -> list[str]:
    return [name for name in names if 'candidates' in name and '.bn.' in name]


def test_without_it_candidates_norms_have_no_tensors() -> None:
    state, _ = remap(SEED, SPACE)
    plain, affine = (SuperNet(SPACE, out_indices=(1,), affine=affine).state_dict() for affine in (False, True))
    assert candidates_norms(state) == candidates_norms(plain) == []
    # two candidates, then two, then one: three norms each, a weight and a bias
    assert len(candidates_norms(affine)) == (2 + 2 + 1) * 3 * 2
