"""Output strides of the super-network: a path computes and costs what the network of that path does, dilated alike."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmnas_ext.archs import SKIP, Choices, SearchSpace, SpaceStage, zoo
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.ops import MBConv, MixedLayer
from tests.filling import fill_state

# stride of a stage's first layer and dilation of all its layers, by hand: what is past the output stride is dilated
SHAPES = {
    32: ((1, 1), (2, 1), (2, 1), (2, 1), (1, 1), (2, 1), (1, 1)),
    16: ((1, 1), (2, 1), (2, 1), (2, 1), (1, 1), (1, 2), (1, 2)),
    8: ((1, 1), (2, 1), (2, 1), (1, 2), (1, 2), (1, 4), (1, 4)),
}
# narrow, with the strides of every published network and a fixed layer in the stage that is dilated most
FIRST, OTHERS = ('k3_e2', 'k5_e3'), ('k3_e2', 'k7_e2', 'skip')
SPACE = SearchSpace(
    (
        SpaceStage(8, 4, (('k3_e1',),), 1),
        SpaceStage(4, 6, (FIRST, OTHERS), 2),
        SpaceStage(6, 6, (FIRST, OTHERS), 2),
        SpaceStage(6, 8, (FIRST, OTHERS, OTHERS), 2),
        SpaceStage(8, 8, (FIRST, OTHERS), 1),
        SpaceStage(8, 10, (FIRST, ('k5_e2',), OTHERS), 2),
        SpaceStage(10, 12, (FIRST,), 1),
    )
)
PATHS: list[Choices] = [
    ((0,), (0, 1), (1, 0), (0, 2, 1), (1, 1), (1, 0, 0), (0,)),
    ((0,), (1, 2), (0, 2), (1, 1, 0), (0, 2), (0, 0, 1), (1,)),
]


def path_state(net: SuperNet, path: Choices) -> dict[str, Tensor]:
    """Tensors of a path's layers, under the keys of its network: there, no layer is left between two."""
    state = {f'stem.{key}': tensor for key, tensor in net.stem.state_dict().items()}
    for i, (stage, choices) in enumerate(zip(net.layers(), path, strict=True)):
        number = 0
        for layer, choice in zip(stage, choices, strict=True):
            token = layer.tokens[choice] if isinstance(layer, MixedLayer) else None
            if token == SKIP:
                continue
            module = layer if token is None else layer.candidates[token]
            state |= {f'stages.{i}.{number}.{key}': tensor for key, tensor in module.state_dict().items()}
            number += 1
    return state


def shapes(stage: list[Any]) -> list[tuple[Any, Any]]:
    """Stride and dilation of each layer; those of a searched layer's candidates are one."""
    found = []
    for layer in stage:
        convs = [block.depthwise.conv for block in layer.modules() if isinstance(block, MBConv)]
        assert all(c.padding == (c.kernel_size[0] // 2 * c.dilation[0],) * 2 for c in convs)
        (shape,) = {(c.stride[0], c.dilation[0]) for c in convs}
        found.append(shape)
    return found


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('output_stride', SHAPES)
def test_a_path_computes_what_its_network_does(output_stride: int, path: Choices) -> None:
    outputs = tuple(range(7))
    net = SuperNet(SPACE, out_indices=outputs, output_stride=output_stride, input_size=(64, 64))
    net.load_state_dict(fill_state(net.state_dict()))
    single = MBNet(SPACE.arch(path), out_indices=outputs, output_stride=output_stride)
    loaded = single.load_state_dict(path_state(net, path), strict=False)
    # a candidate's norms have no tensors: weight 1 and bias 0, as a new network's
    assert loaded.unexpected_keys == []
    assert {key.split('.')[-2] for key in loaded.missing_keys} == {'bn'}
    for model in (net, single):
        for stage, (stride, dilation) in zip(model.layers(), SHAPES[output_stride], strict=True):
            assert shapes(stage) == [(stride, dilation)] + [(1, dilation)] * (len(stage) - 1)
    net.set_path(path)
    image = torch.randn(2, 3, 65, 94)
    # candidates normalise by the batch, so both do
    for output, expected in zip(net.train()(image), single.train()(image), strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    assert net.out_strides == single.out_strides
    assert net.out_strides[-1] == output_stride


def counted(net: SuperNet, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-adds of every candidate, ``<stage>.<layer>.<token>``, and of all else, while all candidates run."""
    found = {f'{place}.{token}': 0 for place, layer in net.mixed_layers().items() for token in layer.tokens}
    found['fixed'] = 0

    def hook(key: str) -> Any:
        def count(conv: nn.Module, _: Any, output: Tensor) -> None:
            found[key] += output[0].numel() * conv.weight[0].numel()

        return count

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            place, _, rest = name.removeprefix('stages.').partition('.candidates.')
            module.register_forward_hook(hook(f'{place}.{rest.split(".")[0]}' if rest else 'fixed'))
    with torch.no_grad():
        net.set_path(None)
        net(torch.empty(1, 3, *size, device='meta'))
    return found


@pytest.mark.parametrize(('output_stride', 'size'), [(32, (65, 97)), (16, (1024, 2048)), (8, (769, 769))])
@pytest.mark.parametrize('space', ['fna_seg', 'narrow'])
def test_the_table_of_costs_is_what_the_convolutions_do(space: str, output_stride: int, size: tuple[int, int]) -> None:
    spec = SPACE if space == 'narrow' else zoo.space(space)
    net = SuperNet(spec, out_indices=(6,), output_stride=output_stride, input_size=size)
    table = {
        f'{place}.{token}': macs
        for place, layer in net.mixed_layers().items()
        for token, macs in zip(layer.tokens, layer.macs.tolist(), strict=True)
    }
    table['fixed'] = net.fixed_cost().macs
    assert counted(net.to('meta'), size) == table
    assert [token for token, macs in table.items() if macs == 0] == [token for token in table if token.endswith('skip')]
