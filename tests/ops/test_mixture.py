"""The fused mixture of candidates, against the modules one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmnas_ext.ops import MixedLayer, mixture

SAME = ('k3_e3', 'k5_e6', 'k3_e6', 'skip', 'k7_e3')
REDUCED = ('k3_e3', 'k5_e2', 'k5_e3')
NHWC = torch.channels_last


def layer(tokens: tuple[str, ...], *shape: Any, dtype: torch.dtype = torch.float64, **more: Any) -> MixedLayer:
    """A layer in an arch step: alpha alone is trained."""
    torch.manual_seed(0)
    made = MixedLayer(4, 4 if 'skip' in tokens else 6, tokens, [1] * len(tokens), *shape, **more).to(dtype)
    for name, parameter in made.named_parameters():
        if name == 'alpha' or parameter.dim() == 1:
            nn.init.normal_(parameter)
        parameter.requires_grad_(name == 'alpha')
    for name, parameter in made.named_parameters():
        if name.endswith('bn.weight'):
            parameter[0] = 0  # of what is scaled by 0 nothing can be divided
    return made


def image(size: tuple[int, int] = (7, 9), layout: torch.memory_format = NHWC, **more: Any) -> Tensor:
    # far from zero, where errors in the mean would show
    return (3 * torch.randn(2, 4, *size, dtype=torch.float64) + 5).contiguous(memory_format=layout).to(**more)


def is_fused(out: Tensor) -> bool:
    return type(out.grad_fn).__name__ == '_MixtureBackward'


def step(made: MixedLayer, x: Tensor, fused: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Output and gradients, of alpha and of the input, for a random gradient of the output."""
    x = x.clone().requires_grad_()
    made.zero_grad()
    out = made(x) if fused else made._mix(x, made.probabilities())
    assert is_fused(out) == fused
    generator = torch.Generator().manual_seed(1)
    out.backward(torch.randn(out.shape, generator=generator, dtype=out.dtype) + 0.5)
    return out.detach(), made.alpha.grad, x.grad


def assert_exact(made: MixedLayer, x: Tensor, tolerance: float = 1e-10) -> None:
    for ours, theirs in zip(step(made, x), step(made, x, fused=False), strict=True):
        assert theirs.abs().max() > 1e-2
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize('cached', [1, 1000, 1 << 20], ids=['pieces', 'some_of_both', 'joined'])
@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('affine', [False, True])
@pytest.mark.parametrize(
    ('tokens', 'stride', 'dilation'), [(SAME, 1, 1), (REDUCED, 2, 1), (SAME, 1, 2), (REDUCED, 1, 3), (REDUCED, 2, 2)]
)
def test_outputs_and_gradients_are_those_of_the_modules(
    tokens: tuple[str, ...], stride: int, dilation: int, affine: bool, with_cp: bool, cached: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(mixture, '_CACHED', cached)
    assert_exact(layer(tokens, stride, dilation, affine=affine, with_cp=with_cp), image())


@pytest.mark.parametrize('wide', [1, 5])
@pytest.mark.parametrize('few', [True, False])
def test_however_statistics_are_computed_and_what_is_kept(wide: int, few: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(mixture, 'WIDE', wide)
    monkeypatch.setattr(mixture, '_by_matrix', lambda part, rows: not few)
    assert_exact(layer(SAME), image())


@pytest.mark.parametrize('size', [(8, 8), (1, 2), (16, 5)])
@pytest.mark.parametrize('act', ['ReLU6', 'ReLU'])
def test_other_activations_and_sizes(act: str, size: tuple[int, int]) -> None:
    assert_exact(layer(SAME, act_cfg=dict(type=act)), image(size))


@pytest.mark.parametrize('layout', [torch.contiguous_format, NHWC])
def test_the_memory_layout_stays(layout: torch.memory_format) -> None:
    out, _, grad = step(layer(SAME), image(layout=layout))
    assert out.is_contiguous(memory_format=layout)
    assert grad.is_contiguous(memory_format=layout)
    assert_exact(layer(REDUCED, 2), image(layout=layout))


def test_an_input_without_gradient() -> None:
    made, x = layer(SAME), image()
    made(x).square().sum().backward()
    ours = made.alpha.grad.clone()
    made.zero_grad()
    made._mix(x, made.probabilities()).square().sum().backward()
    torch.testing.assert_close(ours, made.alpha.grad, rtol=1e-10, atol=1e-10)


def test_floats_are_no_worse_than_the_modules() -> None:
    # four channels that are nearly one: the variance of their differences is a millionth of their own
    common = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    x = (common + 1e-3 * torch.randn(2, 4, 16, 16, dtype=torch.float64) + 3).contiguous(memory_format=NHWC)
    exact = step(layer(SAME), x, fused=False)
    made = layer(SAME, dtype=torch.float32)
    made.load_state_dict(layer(SAME).state_dict())
    errors = [
        [
            ((value - wanted).abs().max() / wanted.abs().max()).item()
            for value, wanted in zip(step(made, x.float(), fused), exact, strict=True)
        ]
        for fused in (True, False)
    ]
    for ours, theirs in zip(*errors, strict=True):
        assert ours <= 3 * theirs + 1e-6


def test_a_second_backward_pass_gives_the_same() -> None:
    made, x = layer(SAME), image().requires_grad_()
    out = made(x).square().sum()
    first = torch.autograd.grad(out, (x, made.alpha), retain_graph=True)
    second = torch.autograd.grad(out, (x, made.alpha))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def kept(made: MixedLayer, x: Tensor, fused: bool) -> int:
    """Numbers that wait for the backward pass, each memory counted once."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made(x) if fused else made._mix(x, made.probabilities())
    return sum(held.values())


def test_less_is_kept_than_by_the_modules() -> None:
    x = image((16, 16)).requires_grad_()
    positions, hidden, outputs = 2 * 16 * 16, 4 * (3 + 6 + 6 + 3), 4 * 4
    few = 2000  # statistics, and weights that the modules keep
    by_modules = kept(layer(SAME), x, fused=False)
    fused = kept(layer(SAME), x, fused=True)
    lean = kept(layer(SAME, with_cp=True), x, fused=True)
    # the modules keep what goes into each norm and activation; here it is the depthwise convolution's output, the
    # projection's and the input; checkpointed the latter two
    assert by_modules > positions * 4 * hidden
    assert positions * (hidden + outputs + 4) <= fused <= positions * (hidden + outputs + 4) + few
    assert positions * (outputs + 4) <= lean <= positions * (outputs + 4) + few


def test_nothing_inside_is_kept_where_the_input_needs_no_gradient() -> None:
    assert kept(layer(SAME), image((16, 16)), fused=True) <= 512 * (4 * 4 + 4) + 500


def watched(made: MixedLayer) -> None:
    made.candidates['k3_e3'].depthwise.register_forward_hook(lambda *_: None)


def watched_itself(made: MixedLayer) -> None:
    made.candidates['k3_e3'].register_forward_pre_hook(lambda *_: None)


def trained(made: MixedLayer) -> None:
    made.candidates['k5_e2'].project.conv.weight.requires_grad_()


def swapped(made: MixedLayer) -> None:
    made.candidates['k5_e2'].project.bn = nn.GroupNorm(2, 6).double().requires_grad_(False)


@pytest.mark.parametrize('change', [watched, watched_itself, trained, swapped])
def test_what_asks_for_more_is_computed_by_the_modules(change: Any) -> None:
    made = layer(REDUCED)
    assert is_fused(made(image()))
    change(made)
    assert not is_fused(made(image()))


@pytest.mark.parametrize(
    ('tokens', 'more'),
    [
        (('k3_e3', 'k3_e3_se0.25'), {}),
        (('k3_e3', 'k5_e1'), {}),
        (REDUCED, dict(act_cfg=dict(type='SiLU'))),
        (REDUCED, dict(norm_cfg=dict(type='SyncBN'))),
    ],
)
def test_other_candidates_are_computed_by_the_modules(tokens: tuple[str, ...], more: dict[str, Any]) -> None:
    made, x = layer(tokens, **more), image()
    if 'norm_cfg' in more:
        assert mixture.mixture(list(made.candidates.values()), x, made.probabilities()) is None
        return
    out = made(x)
    assert out.requires_grad and not is_fused(out)
    torch.testing.assert_close(out, made._mix(x, made.probabilities()))


def test_autocast_half_and_no_gradient_are_left_to_the_modules() -> None:
    made, x = layer(REDUCED, dtype=torch.float32), image(dtype=torch.float32)
    assert is_fused(made(x))
    with torch.autocast('cpu', torch.bfloat16):
        assert not is_fused(made(x))
    with torch.no_grad():
        assert made(x).grad_fn is None
    assert not is_fused(made.to(torch.bfloat16)(x.bfloat16()))


def test_a_single_value_has_no_statistics() -> None:
    made = layer(REDUCED, 2)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        made(image((2, 2))[:1])
