"""A step on the device changes what it should and nothing else, by the gradients of a CPU in double precision."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from mmnas_ext.engine.path_losses import PathLosses
from mmnas_ext.engine.seeding import generator
from tests.engine import tiny

WAYS = {
    'plain': {},
    'channels_last': {'channels_last': True},
    'checkpointed': {'with_cp': True},
    'affine': {'affine': True},
}
HALVES = {'fp16': {'dtype': 'float16'}, 'bf16': {'dtype': 'bfloat16'}}


def on(device: str, optim: dict[str, Any] | None = None, **backbone: Any) -> tuple[Any, Any]:
    """A model on the device, and its optimizers."""
    model, wrapper = tiny.build(backbone, optim, norm=True)
    return model.to(device), wrapper


def step(model: Any, wrapper: Any, phase: str, iteration: int = 0, policy: str = 'uniform') -> dict[str, Tensor]:
    wrapper.start(phase, iteration, 0, policy)
    return model.train_step(tiny.batch(), optim_wrapper=wrapper)


def values(model: Any) -> dict[str, Tensor]:
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def changed(before: dict[str, Tensor], model: Any) -> set[str]:
    return {name for name, tensor in values(model).items() if not torch.equal(before[name], tensor)}


def in_double(phase: str, iteration: int = 0) -> tuple[Any, dict[str, Tensor]]:
    """The model on a CPU in double precision after a step's backward pass, without an optimizer, and its gradients."""
    model, wrapper = tiny.build({'affine': False}, norm=True)
    model.double()
    wrapper.start(phase, iteration)
    with wrapper.optim_context(model):
        batch = {name: tensor.double() for name, tensor in tiny.batch().items()}
        loss = model(**batch, mode='loss')['loss_square']
        if phase == 'arch':
            loss = loss + 0.1 * torch.log10(model.backbone.expected_cost() / 1e9)
        loss.backward()
    return model, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gradients(model: Any, action: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    handles = [
        p.register_hook(lambda grad, name=name: found.__setitem__(name, grad.detach().cpu().double()))
        for name, p in model.named_parameters()
    ]
    action()
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize('way', WAYS)
def test_an_arch_step_changes_alpha_alone(device: str, way: str) -> None:
    model, wrapper = on(device, **WAYS[way])
    step(model, wrapper, 'weights')  # so that there is momentum
    before = values(model)
    step(model, wrapper, 'arch')
    assert changed(before, model) == {name for name in before if name.endswith('alpha')}
    assert {tensor.device.type for tensor in values(model).values()} == {torch.device(device).type}


@pytest.mark.parametrize('way', WAYS)
def test_a_weight_step_changes_the_drawn_path_alone(device: str, way: str) -> None:
    model, wrapper = on(device, **WAYS[way])
    for iteration in range(3):
        before = values(model)
        step(model, wrapper, 'weights', iteration)
        layers = model.backbone.mixed_layers().values()
        drawn = {id(p) for layer in layers if layer.choice is not None for p in _candidate(layer).parameters()}
        named = {name: p for name, p in model.named_parameters() if 'candidates' in name}
        moved = {name for name in changed(before, model) if name in named}
        assert moved == {name for name, p in named.items() if id(p) in drawn} != set()
        assert not any(name.endswith('alpha') for name in changed(before, model))


def _candidate(layer: Any) -> torch.nn.Module:
    return layer.candidate(layer.choice) or torch.nn.Identity()


@pytest.mark.parametrize('phase', ['arch', 'weights'])
@pytest.mark.parametrize('way', ['plain', 'channels_last', 'checkpointed'])
def test_gradients_are_those_of_double_precision(device: str, way: str, phase: str) -> None:
    _, wanted = in_double(phase)
    model, wrapper = on(device, **WAYS[way])
    got = gradients(model, lambda: step(model, wrapper, phase))
    compared = [name for name in got if phase == 'weights' or name.endswith('alpha')]
    assert len(compared) == (3 if phase == 'arch' else len(wanted)) > 2
    for name in compared:
        scale = float(wanted[name].abs().max())
        assert float((got[name] - wanted[name]).abs().max()) <= 1e-3 * scale + 1e-7, name


@pytest.mark.parametrize('policy', ['uniform', 'softmax'])
def test_paths_are_drawn_as_on_a_cpu(device: str, policy: str) -> None:
    there, here = (on(place)[0].backbone for place in (device, 'cpu'))
    draws = [[net.sample_path(policy, generator('path', 3, number)) for number in range(40)] for net in (there, here)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 2


@pytest.mark.usefixtures('amp')
@pytest.mark.parametrize('half', HALVES)
def test_mixed_precision_in_both_phases(device: str, half: str) -> None:
    cfg = {'type': 'AmpOptimWrapper', 'loss_scale': {'init_scale': 1024.0, 'growth_interval': 2}, **HALVES[half]}
    model, wrapper = on(device, tiny.optim_cfg(weights=cfg, arch=cfg))
    seen = set()
    for conv in (module for module in model.modules() if isinstance(module, torch.nn.Conv2d)):
        conv.register_forward_hook(lambda _m, _i, output: seen.add(output.dtype))
    for iteration, phase in enumerate(['weights', 'arch', 'weights', 'arch']):
        before = values(model)
        losses = step(model, wrapper, phase, iteration)
        assert all(torch.isfinite(loss).all() for loss in losses.values())
        assert any(name.endswith('alpha') for name in changed(before, model)) == (phase == 'arch')
    assert seen == {getattr(torch, HALVES[half]['dtype'])}
    state = wrapper.state_dict()
    scales = {name: state[name]['wrapper']['loss_scaler'] for name in ('weights', 'arch')}
    # two steps of each phase without an overflow
    assert {name: scaler['scale'] for name, scaler in scales.items()} == {'weights': 2048.0, 'arch': 2048.0}
    _, again = on(device, tiny.optim_cfg(weights=cfg, arch=cfg))
    assert again.wrappers['arch'].loss_scaler.get_scale() == 1024
    again.load_state_dict(copy.deepcopy(state))
    assert {name: again.wrappers[name].state_dict()['loss_scaler'] for name in scales} == scales


def test_a_compiled_network_computes_the_same(device: str) -> None:
    path = ((0,), (1, 0), (1,))
    model, _ = on(device, channels_last=True)
    net = model.backbone
    net.set_path(path)
    image = tiny.batch(2)['inputs'].to(device)
    wanted = net(image)[-1]
    torch._dynamo.reset()
    # Inductor compiles C++ on a CPU, for a minute
    compiled = torch.compile(net, backend='aot_eager' if device == 'cpu' else 'inductor')
    got = compiled(image)[-1]
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
    got.square().mean().backward()
    by_compiled = net.stem.conv.weight.grad.clone()
    net.zero_grad()
    net(image)[-1].square().mean().backward()
    torch.testing.assert_close(by_compiled, net.stem.conv.weight.grad, rtol=1e-2, atol=1e-4)


class _Batches:
    def __init__(self) -> None:
        self.place = 0

    def seek(self, position: int) -> None:
        self.place = position

    def __next__(self) -> dict[str, Tensor]:
        self.place += 1
        return tiny.batch(4, self.place - 1)


def test_a_selection_measures_the_losses_of_a_cpu(device: str) -> None:
    paths = [((0,), (i, j), (k,)) for i in range(2) for j in range(3) for k in range(2)]
    there, here = (PathLosses(on(place)[0], _Batches()).rate(paths, [0, 2]) for place in (device, 'cpu'))
    assert there.shape == (12, 2)
    assert there == pytest.approx(here, rel=1e-4)
    assert there.mean(1).argsort().tolist() == here.mean(1).argsort().tolist()
