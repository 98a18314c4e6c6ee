"""One optimizer per block: each block's gradients, learning rate, clipping and state are its own."""

from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmnas_ext.distill import BlockDistiller
from mmnas_ext.engine.block_optim import BlockOptimWrapper, BlockOptimWrapperConstructor
from mmnas_ext.engine.optim import NonFiniteLossError
from mmnas_ext.registry import MODELS
from tests.engine import tiny_distill


@pytest.fixture
def distiller(tmp_path: Any) -> BlockDistiller:
    model = MODELS.build(tiny_distill.config(tmp_path).model)
    model.init_weights()
    return model.train()


def build(model: nn.Module, **cfg: Any) -> BlockOptimWrapper:
    return BlockOptimWrapperConstructor({'optimizer': {'type': 'SGD', 'lr': 0.5}, **cfg})(model)


def step(model: BlockDistiller, wrapper: BlockOptimWrapper, active: tuple[int, ...] | None = None) -> Tensor:
    torch.manual_seed(0)
    model.start(0, 0, active)
    losses = model(torch.randn(4, 3, *tiny_distill.SIZE), mode='loss')
    total = torch.stack(list(losses.values())).sum()
    wrapper.update_params(total)
    return total


def weights(model: BlockDistiller) -> list[dict[str, Tensor]]:
    return [{name: p.detach().clone() for name, p in block.named_parameters()} for block in model.all_blocks()]


def moved(model: BlockDistiller, before: list[dict[str, Tensor]]) -> list[float]:
    """Largest change of a parameter, per block."""
    return [
        max(float((p.detach() - kept[name]).abs().max()) for name, p in block.named_parameters())
        for block, kept in zip(model.all_blocks(), before, strict=True)
    ]


def test_a_block_has_its_own_learning_rate(distiller: BlockDistiller) -> None:
    wrapper = build(distiller, blocks={1: {'optimizer': {'type': 'SGD', 'lr': 0.0}}})
    assert sorted(wrapper.keys()) == ['block0', 'block1']
    before = weights(distiller)
    step(distiller, wrapper)
    first, second = moved(distiller, before)
    assert first > 0
    assert second == 0


def test_a_block_says_only_what_differs(distiller: BlockDistiller) -> None:
    adam = {'type': 'Adam', 'lr': 0.5, 'betas': (0.5, 0.9)}
    groups = [
        build(distiller, optimizer=adam, clip_grad={'max_norm': 5}, blocks={'1': own})['block1']
        for own in ({'optimizer': {'lr': 0.1}}, {'optimizer': {'type': 'SGD', 'lr': 0.2}, 'clip_grad': None})
    ]
    assert [(w.param_groups[0]['lr'], w.param_groups[0].get('betas')) for w in groups] == [
        (0.1, (0.5, 0.9)),
        (0.2, None),
    ]
    assert [w.clip_grad_kwargs for w in groups] == [{'max_norm': 5}, None]


def test_a_step_is_that_of_plain_gradients(distiller: BlockDistiller) -> None:
    wrapper = build(distiller)
    before = weights(distiller)
    torch.manual_seed(0)
    distiller.start(0, 0)
    losses = distiller(torch.randn(4, 3, *tiny_distill.SIZE), mode='loss')
    drawn = [p for p in distiller.all_blocks()[1].parameters()]
    gradients = torch.autograd.grad(losses['loss_block1'], drawn, allow_unused=True)
    step(distiller, wrapper)
    for (name, p), gradient in zip(distiller.all_blocks()[1].named_parameters(), gradients, strict=True):
        wanted = before[1][name] - (0 if gradient is None else 0.5 * gradient)
        assert torch.allclose(p, wanted, atol=1e-6)
        assert p.grad is None


def test_each_block_is_clipped_by_its_own_norm(distiller: BlockDistiller) -> None:
    wrapper = build(distiller, clip_grad={'max_norm': 1e-3})
    before = weights(distiller)
    step(distiller, wrapper)
    for block, kept in zip(distiller.all_blocks(), before, strict=True):
        change = torch.cat([(p - kept[name]).flatten() for name, p in block.named_parameters()])
        assert float(change.norm()) == pytest.approx(0.5e-3, rel=1e-3)


def test_blocks_that_take_no_part_stay(distiller: BlockDistiller) -> None:
    wrapper = build(distiller)
    before = weights(distiller)
    step(distiller, wrapper, active=(0,))
    first, second = moved(distiller, before)
    assert first > 0
    assert second == 0


def test_a_loss_that_is_no_number_changes_nothing(distiller: BlockDistiller) -> None:
    wrapper = build(distiller)
    before = weights(distiller)
    with pytest.raises(NonFiniteLossError, match='gave loss nan'):
        wrapper.update_params(torch.tensor(float('nan'), requires_grad=True))
    assert moved(distiller, before) == [0, 0]


@pytest.mark.parametrize('cfg', [{'amp': True, 'dtype': 'bfloat16'}, {'type': 'AmpOptimWrapper', 'dtype': 'bfloat16'}])
def test_mixed_precision_computes_in_it(distiller: BlockDistiller, cfg: dict[str, Any]) -> None:
    wrapper = build(distiller, **cfg)
    seen = []
    for conv in (m for m in distiller.blocks.modules() if isinstance(m, nn.Conv2d)):
        conv.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    before = weights(distiller)
    with wrapper.optim_context(distiller):
        torch.manual_seed(0)
        distiller.start(0, 0)
        losses = distiller(torch.randn(4, 3, *tiny_distill.SIZE), mode='loss')
    wrapper.update_params(torch.stack(list(losses.values())).sum())
    assert set(seen) == {torch.bfloat16}
    assert min(moved(distiller, before)) > 0


def test_one_scaler_serves_all_blocks(distiller: BlockDistiller) -> None:
    wrapper = build(distiller, amp=True)
    assert wrapper.scaler.is_enabled()
    plain = build(distiller)
    before = weights(distiller)
    step(distiller, plain)
    wanted = weights(distiller)
    for block, kept in zip(distiller.all_blocks(), before, strict=True):
        block.load_state_dict(kept, strict=False)
    step(distiller, wrapper)  # outside the context: the gradients are those of full precision, scaled and unscaled
    for block, kept in zip(distiller.all_blocks(), wanted, strict=True):
        for name, p in block.named_parameters():
            assert torch.allclose(p, kept[name], atol=1e-5)


def test_an_overflow_skips_the_step_and_lowers_the_scale(distiller: BlockDistiller) -> None:
    wrapper = build(distiller, amp=True)
    scale = wrapper.scaler.get_scale()
    before = weights(distiller)
    parameter = next(distiller.all_blocks()[0].parameters())
    wrapper.update_params((parameter * 1e38).sum())  # finite, until it is scaled
    assert moved(distiller, before) == [0, 0]
    assert wrapper.scaler.get_scale() == scale / 2


@pytest.mark.parametrize(('scale', 'before', 'after'), [(64.0, 64, 64), ({'init_scale': 32.0}, 32, 16)])
def test_the_loss_scale_is_the_one_asked_for(
    distiller: BlockDistiller, scale: Any, before: float, after: float
) -> None:
    wrapper = build(distiller, type='AmpOptimWrapper', loss_scale=scale)
    assert wrapper.scaler.get_scale() == before
    wrapper.update_params((next(distiller.all_blocks()[0].parameters()) * 1e38).sum())  # overflows once it is scaled
    assert wrapper.scaler.get_scale() == after  # a fixed scale stays


def test_state_comes_back(distiller: BlockDistiller) -> None:
    cfg = {'optimizer': {'type': 'SGD', 'lr': 0.5, 'momentum': 0.9}, 'amp': True}
    wrapper = build(distiller, **cfg)
    step(distiller, wrapper)
    state = wrapper.state_dict()
    again = build(distiller, **cfg)
    again.load_state_dict(state)
    assert again.state_dict()['scaler'] == state['scaler']
    buffers = again['block0'].optimizer.state_dict()['state']
    assert buffers.keys() == state['block0']['state'].keys()
    assert any(float(entry['momentum_buffer'].abs().max()) > 0 for entry in buffers.values())
    assert again['block0'] is not wrapper['block0']


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        ({'weights': {}}, r"takes .* unknown \['weights'\]"),
        ({'blocks': {5: {}}}, r'blocks must name blocks in 0\.\.1, got 5'),
        ({'blocks': {0: {'accumulative_counts': 2}}}, r"some of .* got 0 with \['accumulative_counts'\]"),
        ({'type': 'ApexOptimWrapper'}, 'type of a distillation must be OptimWrapper or AmpOptimWrapper, got Apex'),
        ({'dtype': 'float8'}, "dtype must be 'float16' or 'bfloat16', got 'float8'"),
        ({'blocks': {0: {'lr': 0.1}}}, r"each with some of \('optimizer', .* got 0 with \['lr'\]"),
        ({'blocks': {'first': {}}}, "must have indices of blocks, .* got 'first'"),
        ({'blocks': [0.1, 0.2]}, r'blocks must be \{k: dict\(…\)\}, got \[0.1, 0.2\]'),
        ({'optimizer': 'Adam'}, r"optimizer must be dict\(type='…', …\), got Adam"),
        ({'optimizer': {'lr': 0.1}}, 'optimizer must be dict'),
        ({'loss_scale': 'big'}, "loss_scale must be 'dynamic', a positive number or .* got 'big'"),
    ],
)
def test_wrong_settings_are_refused(distiller: BlockDistiller, cfg: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        build(distiller, **cfg)


def test_only_a_distiller_has_blocks() -> None:
    with pytest.raises(ValueError, match='got Linear'):
        build(nn.Linear(1, 1))
    with pytest.raises(ValueError, match='needs optimizer'):
        BlockOptimWrapperConstructor({'clip_grad': {}})


def test_wrappers_are_ordinary_ones(distiller: BlockDistiller) -> None:
    cfg = {'optimizer': {'type': 'SGD', 'lr': 0.5, 'weight_decay': 0.1}}
    for wrapper in BlockOptimWrapperConstructor(cfg, {'norm_decay_mult': 0.0})(distiller).values():
        assert type(wrapper) is OptimWrapper
        decays = [group['weight_decay'] for group in wrapper.optimizer.param_groups]
        assert sorted(decays) == [0.0, 0.1]  # two groups, not hundreds


def test_parameters_of_one_dimension_are_not_decayed_in_blocks_of_others_either(distiller: BlockDistiller) -> None:
    distiller.all_blocks()[0].requires_grad_(False)  # another process trains it: the state that it sends must fit
    own = {0: {'paramwise_cfg': {'flat_decay_mult': 0.5}}}
    cfg = {'optimizer': {'type': 'SGD', 'lr': 0.5, 'weight_decay': 0.1}, 'blocks': own}
    wrapper = BlockOptimWrapperConstructor(cfg, {'flat_decay_mult': 0.0})(distiller)
    for index, (block, flat) in enumerate(zip(distiller.all_blocks(), (0.05, 0.0), strict=True)):
        groups = wrapper[f'block{index}'].optimizer.param_groups
        decays = {p: group['weight_decay'] for group in groups for p in group['params']}
        assert decays == {p: flat if p.ndim == 1 else 0.1 for p in block.parameters()}
    assert {p.requires_grad for p in distiller.all_blocks()[0].parameters()} == {False}
    assert {p.requires_grad for p in distiller.all_blocks()[1].parameters()} == {True}


def test_a_block_may_decay_its_norms_otherwise(distiller: BlockDistiller) -> None:
    cfg = {'optimizer': {'type': 'SGD', 'lr': 0.5, 'weight_decay': 0.1}}
    cfg['blocks'] = {1: {'paramwise_cfg': {'norm_decay_mult': 0.5}}}
    _, second = BlockOptimWrapperConstructor(cfg, {'norm_decay_mult': 0.0})(distiller).values()
    assert {group['weight_decay'] for group in second.param_groups} == {0.1, 0.05}
