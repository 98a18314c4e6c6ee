"""RMSprop as TensorFlow has it, built by MMEngine from a config of any host."""

import sys
from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

SETTINGS = dict(lr=0.064, alpha=0.9, momentum=0.9, eps=0.001)


def wrapper(model: nn.Module, **options: Any) -> Any:
    cfg = dict(type='OptimWrapper', optimizer=dict(type='mmnas_ext.RMSpropTF', **SETTINGS), **options)
    return build_optim_wrapper(model, cfg)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain', 'mmengine'])
def test_steps_are_tensorflows(scope: str) -> None:
    """By hand: mean of squares from 1 on, epsilon inside the root, momentum of what the learning rate has scaled."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.5)
    with DefaultScope.overwrite_default_scope(scope):
        optim = wrapper(model)
    weight, squares, moved = 0.5, 1.0, 0.0
    for step, gradient in enumerate((0.3, -0.2, 0.7)):
        if step == 2:
            optim.param_groups[0]['lr'] = 0.032
        rate = optim.param_groups[0]['lr']
        squares += 0.1 * (gradient**2 - squares)
        moved = 0.9 * moved + rate * gradient / (squares + 0.001) ** 0.5
        weight -= moved
        optim.update_params(model(torch.tensor([[gradient]])).sum())
        assert model.weight.item() == pytest.approx(weight, rel=1e-6)


def test_pytorchs_is_another() -> None:
    models = [nn.Linear(1, 1, bias=False) for _ in range(2)]
    for model in models:
        nn.init.constant_(model.weight, 0.5)
    optimizers = [wrapper(models[0]).optimizer, torch.optim.RMSprop(models[1].parameters(), **SETTINGS)]
    for model, optimizer in zip(models, optimizers, strict=True):
        model(torch.tensor([[0.3]])).sum().backward()
        optimizer.step()
    moved = [0.5 - model.weight.item() for model in models]
    assert moved[0] == pytest.approx(0.064 * 0.3 / (0.909 + 0.001) ** 0.5, rel=1e-5)
    assert moved[1] > 5 * moved[0]


def test_groups_of_parameters_have_their_own_decay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    cfg = dict(type='OptimWrapper', optimizer=dict(type='mmnas_ext.RMSpropTF', weight_decay=1e-4, **SETTINGS))
    optim = build_optim_wrapper(model, {**cfg, 'paramwise_cfg': dict(norm_decay_mult=0, bias_decay_mult=0)})
    names = {id(p): name for name, p in model.named_parameters()}
    decays = {names[id(group['params'][0])]: group['weight_decay'] for group in optim.optimizer.param_groups}
    assert decays == {'0.weight': 1e-4, '0.bias': 0, '1.weight': 0, '1.bias': 0}
    assert {(group['eps'], group['momentum'], group['alpha']) for group in optim.optimizer.param_groups} == {
        (0.001, 0.9, 0.9)
    }


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'timm.optim', None)
    with pytest.raises(ImportError, match=r"optimizer type='mmnas_ext\.RMSpropTF' is timm's: run pip install timm"):
        wrapper(nn.Linear(1, 1))
