"""DNA's networks as FNA's seed: squeeze-excite and swish arrive whole, in a network and in a super-network."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmnas_ext.archs import SKIP, LayerSpec, zoo
from mmnas_ext.backbones import SuperNet
from mmnas_ext.registry import MODELS
from mmnas_ext.remap import load_seed, remap
from mmnas_ext.remap.convert import convert
from tests.filling import fill_image, filled
from tests.remap.samples import features_of, golden

SPACE = zoo.space('dna_a_det')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authors' file, as the configs have it converted."""
    folder = tmp_path_factory.mktemp('checkpoints')
    torch.save(dict(state_dict_ema=filled(golden('dna.json')['DNA_a']['tensors'])), folder / 'DNA_a.pth.tar')
    return convert(folder / 'DNA_a.pth.tar', folder / 'dna_a.pth').path


def outputs(net: torch.nn.Module) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return net.train()(fill_image((2, 3, 96, 64)))


def built(checkpoint: Path, **cfg: object) -> torch.nn.Module:
    net = MODELS.build(
        dict(init_cfg=dict(type='mmnas_ext.Remapped', seed=dict(arch='dna_a', checkpoint=str(checkpoint))), **cfg)
    )
    net.init_weights()
    return net


def test_onto_itself_it_is_the_identity_to_the_bit(checkpoint: Path) -> None:
    seed = load_seed(checkpoint)
    net = built(checkpoint, type='mmnas_ext.DNA_a', out_indices=(7,)).eval()
    image = fill_image((1, 3, 64, 64))
    with torch.no_grad():
        assert torch.equal(net(image)[0], features_of(seed.arch, seed.state_dict, image, 7)[0])
    assert all(torch.equal(tensor, seed.state_dict[name]) for name, tensor in net.state_dict().items())


def test_the_seeds_path_of_the_super_network_computes_what_the_seed_does(checkpoint: Path) -> None:
    supernet = built(checkpoint, type='mmnas_ext.SuperNet', space='dna_a_det', affine=True, input_size=(96, 64))
    assert isinstance(supernet, SuperNet)
    supernet.set_path(SPACE.path(zoo.arch('dna_a').replace(head_channels=None)))
    for output, expected in zip(outputs(supernet), outputs(built(checkpoint, type='mmnas_ext.DNA_a')), strict=True):
        assert torch.equal(output, expected)


def test_every_candidate_has_the_seeds_gate(checkpoint: Path) -> None:
    seed = load_seed(checkpoint)
    state, report = remap(seed, SPACE, affine=True)
    # layer 3 of the stage of 40 channels is the seed's k3_e6; of a narrower one the gate has the first channels
    theirs = {part: seed.state_dict[f'stages.2.3.se.{part}.weight'] for part in ('reduce', 'expand')}
    assert theirs['reduce'].shape == (10, 240, 1, 1)
    prefix = 'stages.2.3.candidates.k7_e{}_se0_25.se.'
    assert torch.equal(state[prefix.format(6) + 'reduce.weight'], theirs['reduce'])
    assert torch.equal(state[prefix.format(3) + 'reduce.weight'], theirs['reduce'][:, :120])
    assert torch.equal(state[prefix.format(3) + 'expand.weight'], theirs['expand'][:120])
    assert [entry.name for entry in report.entries if entry.action == 'new'] == []


def test_space_is_the_detection_space_with_gates() -> None:
    assert tuple(stage.channels for stage in SPACE.stages) == tuple(s.channels for s in zoo.arch('dna_a').stages)
    assert tuple(len(stage.layers) for stage in SPACE.stages) == (1, 4, 4, 4, 4, 5, 1)
    assert (SPACE.act, SPACE.bn_eps, SPACE.head_channels) == ('swish', None, None)
    for stage, plain in zip(SPACE.stages[1:], zoo.space('fna_det').stages[1:], strict=True):
        for layer in stage.layers:
            blocks = [LayerSpec.parse(token) for token in layer if token != SKIP]
            assert {block.se for block in blocks} == {0.25}
            assert [LayerSpec(block.kernel, block.expansion).format() for block in blocks] == list(plain.layers[0])
        assert [SKIP in layer for layer in stage.layers] == [False] + [True] * (len(stage.layers) - 1)
