"""A seed's weights arrive in a segmentor: bit for bit, at every output stride, in the search and in what it derives.

The authors' segmentation code left remapped convolutions out without a word.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmnas_ext.archs import zoo
from mmnas_ext.backbones import MBNet
from mmnas_ext.remap import load_seed, remap
from mmnas_ext.runs.derived import derived_config
from tests.filling import fill_image
from tests.remap.samples import reference
from tests.small import read, small

SEED = 'torchvision/mobilenet_v2'
SEARCH, FOUND, OWN = 'fna_deeplabv3_cityscapes.py', 'deeplabv3_fna_cityscapes.py', 'deeplabv3_mbv2_cityscapes.py'
# sides that no stride divides, of an even and an odd number of pixels at stride 16
IMAGES = [(1, 3, 97, 130), (1, 3, 64, 95)]


@pytest.fixture(autouse=True)
def mmseg_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision's download is."""
    path = tmp_path_factory.mktemp('seed') / 'mobilenet_v2.pth'
    torch.save(reference(SEED), path)
    return path


def segmentor(cfg: Config, checkpoint: Path, random_state: int = 0, **backbone: Any) -> nn.Module:
    """A model as the runner makes it: built, then initialised; only the seed's file is another."""
    init_cfg = cfg.model.backbone.init_cfg
    assert init_cfg.type == 'mmnas_ext.Remapped' and init_cfg.seed.arch == 'mobilenet_v2'
    init_cfg.seed.checkpoint = str(checkpoint)
    small(cfg)
    cfg.model.backbone.update(backbone, init_cfg=init_cfg)
    torch.manual_seed(random_state)
    net = MODELS.build(cfg.model)
    net.init_weights()
    return net


def torchvisions(image: Tensor) -> Tensor:
    """The 320-channel feature of torchvision's own network."""
    net = torchvision.models.mobilenet_v2().eval()
    net.load_state_dict(reference(SEED))
    with torch.no_grad():
        return net.features[:18](image)


@pytest.mark.parametrize('shape', IMAGES)
def test_at_output_stride_32_the_seeds_features_come_out_to_the_bit(checkpoint: Path, shape: Any) -> None:
    net = segmentor(read(OWN), checkpoint, output_stride=32).eval()
    with torch.no_grad():
        (feature,) = net.extract_feat(fill_image(shape))
    assert torch.equal(feature, torchvisions(fill_image(shape)))


@pytest.mark.parametrize('shape', IMAGES)
@pytest.mark.parametrize(
    ('output_stride', 'undone'),
    # of each stage that lost its stride, the dilation that its first layer has to have instead
    [(16, {5: 1}), (8, {3: 1, 5: 2})],
)
def test_at_smaller_output_strides_they_come_out_up_to_dilation(
    checkpoint: Path, output_stride: int, undone: dict[int, int], shape: Any
) -> None:
    """Dilated by r, a network computes at every r-th position what the strided one computes there.

    That holds from the first layer after a lost stride on, whose own kernel is to be one dilation less.
    """
    image = fill_image(shape)
    strided = segmentor(read(OWN), checkpoint, output_stride=32).eval()
    net = segmentor(read(OWN), checkpoint, output_stride=output_stride).eval()
    states = [model.backbone.state_dict() for model in (strided, net)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with torch.no_grad():
        (expected,) = strided.extract_feat(image)
        (dilated,) = net.extract_feat(image)
        for stage, dilation in undone.items():
            first = net.backbone.stages[stage][0].depthwise.conv
            assert (first.dilation, first.padding) == ((2 * dilation,) * 2, (2 * dilation,) * 2)
            first.dilation = first.padding = (dilation, dilation)
        (feature,) = net.extract_feat(image)
    step = 32 // output_stride
    assert feature.shape[2] == -(-shape[2] // output_stride) and feature.shape[3] == -(-shape[3] // output_stride)
    rounding = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(feature[:, :, ::step, ::step], expected, rtol=0, atol=rounding)
    # as it is, it sees further; that is what a wrong border would look like as well
    assert (dilated[:, :, ::step, ::step] - expected).abs().max() > 1000 * rounding


def fitted(weight: Tensor, out_channels: int, in_channels: int, kernel: int) -> Tensor:
    """A convolution's weight by hand: the first channels, the centre of the kernel or zeros around it."""
    result = torch.zeros(out_channels, in_channels, kernel, kernel)
    had = weight.shape[2]
    low, high = max(0, (kernel - had) // 2), max(0, (had - kernel) // 2)
    span = min(had, kernel)
    part = weight[:out_channels, :in_channels, high : high + span, high : high + span]
    result[: part.shape[0], : part.shape[1], low : low + span, low : low + span] = part
    return result


def assert_layer(backbone: nn.Module, prefix: str, feature: int, token: str) -> None:
    """A layer's three convolutions are those of torchvision's ``features.<feature>``, cropped and padded by hand."""
    theirs, ours = reference(SEED), backbone.state_dict()
    kernel, expansion = int(token[1]), int(token[4])
    expand = theirs[f'features.{feature}.conv.0.0.weight']
    project = theirs[f'features.{feature}.conv.2.weight']
    in_channels, channels = expand.shape[1], project.shape[0]
    hidden = in_channels * expansion
    depthwise = theirs[f'features.{feature}.conv.1.0.weight']
    assert torch.equal(ours[f'{prefix}.expand.conv.weight'], fitted(expand, hidden, in_channels, 1))
    assert torch.equal(ours[f'{prefix}.depthwise.conv.weight'], fitted(depthwise, hidden, 1, kernel))
    assert torch.equal(ours[f'{prefix}.project.conv.weight'], fitted(project, channels, hidden, 1))


def convolutions(backbone: nn.Module) -> dict[str, Tensor]:
    """Weights of all convolutions by name, found by their type and not by their key."""
    return {f'{name}.weight': m.weight for name, m in backbone.named_modules() if isinstance(m, nn.Conv2d)}


def assert_arrived(cfg: Config, checkpoint: Path, target: Any, count: int) -> nn.Module:
    """Every convolution holds what `remap` gives; none depends on the random state."""
    nets = [segmentor(cfg, checkpoint, random_state) for random_state in (1, 2)]
    expected, _ = remap(load_seed(checkpoint, 'mobilenet_v2'), target)
    found = [convolutions(net.backbone) for net in nets]
    assert len(found[0]) == count and found[0].keys() <= expected.keys()
    for name, weight in found[0].items():
        assert torch.equal(weight, expected[name]), name
        assert torch.equal(weight, found[1][name]), name
        assert weight.any(), name
    # the head, which no seed has, does
    heads = [net.decode_head.state_dict() for net in nets]
    assert not torch.equal(heads[0]['bottleneck.conv.weight'], heads[1]['bottleneck.conv.weight'])
    return nets[0]


def test_super_network_of_the_search(checkpoint: Path) -> None:
    # a stem, the first block's two, and three for each of six candidates in 4 + 4 + 6 + 6 + 4 + 1 layers
    net = assert_arrived(read(SEARCH), checkpoint, zoo.space('fna_seg'), 1 + 2 + 3 * 6 * 25)
    stages = 'stages.{}.{}.candidates.{}'
    # torchvision counts layers through: 2 and 3 have 24 channels, then 3 of 32, 4 of 64, 3 of 96, 3 of 160, 1 of 320
    for stage, layer, feature in ((1, 0, 2), (1, 3, 3), (2, 1, 5), (3, 5, 10), (4, 2, 13), (5, 3, 16), (6, 0, 17)):
        for token in ('k3_e6', 'k5_e3', 'k7_e6'):
            assert_layer(net.backbone, stages.format(stage, layer, token), feature, token)
    assert torch.equal(net.backbone.stem.conv.weight, reference(SEED)['features.0.0.weight'])


def test_published_network(checkpoint: Path) -> None:
    net = assert_arrived(read(FOUND), checkpoint, 'fna_deeplabv3', 1 + 2 + 3 * 19)
    layers = [(1, 1, 3, 'k3_e6'), (2, 3, 6, 'k3_e6'), (3, 5, 10, 'k5_e6'), (4, 3, 13, 'k7_e6'), (6, 0, 17, 'k7_e3')]
    for stage, layer, feature, token in layers:
        assert_layer(net.backbone, f'stages.{stage}.{layer}', feature, token)


def test_network_that_a_search_derives(checkpoint: Path) -> None:
    """The derived config starts from the seed's file, not from the super-network."""
    arch = zoo.arch('fna_deeplabv3')
    derived = derived_config(read(SEARCH), arch)
    net = assert_arrived(derived, checkpoint, arch, 1 + 2 + 3 * 19)
    assert isinstance(net.backbone, MBNet) and net.backbone.arch.stages == arch.stages
    assert net.backbone.output_stride == 16
