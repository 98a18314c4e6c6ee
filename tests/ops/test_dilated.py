"""The dilated depthwise convolution, against PyTorch's own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmnas_ext.archs import LayerSpec
from mmnas_ext.ops import DilatedDepthwiseConv2d, MBConv


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('size', [(8, 12), (7, 12), (9, 11), (2, 1)])
@pytest.mark.parametrize('dilation', [2, 3, 4])
@pytest.mark.parametrize('kernel', [3, 5, 7])
def test_output_and_gradients_are_those_of_a_dilated_convolution(
    kernel: int, dilation: int, size: tuple[int, int], layout: Any
) -> None:
    torch.manual_seed(0)
    conv = DilatedDepthwiseConv2d(5, kernel, dilation).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    ours = conv(x)
    weight = conv.weight.detach().clone().requires_grad_()
    theirs = F.conv2d(x, weight, None, 1, kernel // 2 * dilation, dilation, 5)
    assert ours.shape == (2, 5, *size)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    factor = torch.randn_like(theirs)
    mine = torch.autograd.grad((ours * factor).sum(), (x, conv.weight))
    wanted = torch.autograd.grad((theirs * factor).sum(), (x, weight))
    for got, expected in zip(mine, wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ('trained', 'grad', 'expected'),
    [(True, True, [(8, 4, 3, 3)]), (False, True, [(2, 4, 6, 6)]), (True, False, [(2, 4, 6, 6)])],
)
def test_only_for_a_backward_pass_is_the_image_rearranged(
    trained: bool, grad: bool, expected: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    plain = F.conv2d

    def spy(x: torch.Tensor, *args: Any) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return plain(x, *args)

    monkeypatch.setattr(F, 'conv2d', spy)
    conv = DilatedDepthwiseConv2d(4, 3, 2)
    conv.requires_grad_(trained)
    with torch.set_grad_enabled(grad):
        conv(torch.randn(2, 4, 6, 6))
    # four images of every second row and column for each of the two
    assert seen == expected


def test_meta_tensors_pass_as_in_any_convolution() -> None:
    with torch.device('meta'):
        conv = DilatedDepthwiseConv2d(4, 5, 2)
        assert conv(torch.empty(3, 4, 7, 9)).shape == (3, 4, 7, 9)


def test_a_dilated_layer_uses_it_and_keeps_keys_and_initialisation() -> None:
    torch.manual_seed(0)
    dilated = MBConv(4, 4, LayerSpec.parse('k5_e3'), dilation=2)
    torch.manual_seed(0)
    plain = MBConv(4, 4, LayerSpec.parse('k5_e3'))
    assert isinstance(dilated.depthwise.conv, DilatedDepthwiseConv2d)
    assert (dilated.depthwise.conv.dilation, dilated.depthwise.conv.padding) == ((2, 2), (4, 4))
    assert not isinstance(plain.depthwise.conv, DilatedDepthwiseConv2d)
    theirs = plain.state_dict()
    assert list(dilated.state_dict()) == list(theirs)
    assert torch.equal(dilated.depthwise.conv.weight, theirs['depthwise.conv.weight'])
    # of stride 2 there are no phases to speak of: it stays an ordinary convolution
    assert not isinstance(MBConv(4, 8, LayerSpec.parse('k5_e3'), 2, 2).depthwise.conv, DilatedDepthwiseConv2d)


def test_a_graph_with_gradients_holds_for_sides_of_every_remainder() -> None:
    conv = DilatedDepthwiseConv2d(3, 3, 4)
    first, *others = (torch.randn(n, 3, *size) for n, size in ((2, (8, 12)), (1, (7, 10)), (3, (9, 5))))
    assert torch.is_grad_enabled() and conv.weight.requires_grad
    sides = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(conv, (first,), dynamic_shapes=(sides,), strict=False).module()
    traced = torch.jit.trace(conv, first)
    for x in (first, *others):
        wanted = F.conv2d(x, conv.weight, None, 1, 4, 4, 3)
        torch.testing.assert_close(exported(x), wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(traced(x), wanted, rtol=1e-6, atol=1e-6)
