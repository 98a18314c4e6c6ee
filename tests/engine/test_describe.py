"""What a search says before it starts, and its estimate of memory held against what is really kept."""

import math
from types import SimpleNamespace

import pytest
import torch

from mmnas_ext.archs import SearchSpace, SpaceStage
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine.describe import arch_step_memory, describe_search
from mmnas_ext.engine.limits import CostTerm
from mmnas_ext.engine.loops import Alternation
from tests.engine import tiny

CANDIDATES = ('k3_e3', 'k3_e6', 'k5_e3', 'k5_e6', 'k7_e3', 'k7_e6')
WIDER = SearchSpace(
    (
        SpaceStage(16, 8, (('k3_e1',),), 1),
        SpaceStage(8, 12, (CANDIDATES, (*CANDIDATES, 'skip'), (*CANDIDATES, 'skip')), 2),
        SpaceStage(12, 24, (CANDIDATES, (*CANDIDATES, 'skip')), 2),
        SpaceStage(24, 32, (('k3_e6',), (*CANDIDATES, 'skip')), 2),
    )
)
FIRST_SEARCHED = SearchSpace((SpaceStage(16, 16, (('k3_e1', 'k5_e1'), ('k3_e6', 'k5_e6', 'skip')), 1),))
RESIDUAL = SearchSpace(
    (
        SpaceStage(16, 24, (('basic_k3_e1', 'fused_k3_e2'), ('basic_k3_e1', 'basic_k3_e0.5', 'skip')), 1),
        SpaceStage(
            24, 48, (('bottleneck_k3_e0.25', 'bottleneck_k3_e0.5'), ('bottleneck_k3_e0.25', 'k3_e3', 'skip')), 2
        ),
    ),
    act='relu',
)


def described(iteration=0, init_cfg=None, with_cp=False, size=(800, 1088), **cost):
    net = SuperNet(tiny.SPACE, out_indices=(2,), input_size=size, init_cfg=init_cfg, with_cp=with_cp)
    term = CostTerm(**cost)
    runner = SimpleNamespace(
        train_loop=SimpleNamespace(alternation=Alternation(None, None, 300, 5), max_iters=1000, iter=iteration),
        train_dataloader=SimpleNamespace(batch_size=None, batch_sampler=SimpleNamespace(batch_size=4)),
        optim_wrapper=SimpleNamespace(cost=term, prices=term.prices(net.space, size), host=None),
    )
    return describe_search(runner, net)


def test_the_plan_states_what_follows_by_hand(monkeypatch):
    monkeypatch.setattr('mmnas_ext.engine.describe.get_world_size', lambda: 3)
    text = described()
    # 800x1088: stem at 400x544, then 200x272
    large, small = 400 * 544, 200 * 272
    fixed = 27 * 8 * large + (9 * 8 + 8 * 4) * large
    low = fixed + 4 * 12 * large + (9 * 12 + 12 * 8) * small + 0 + (8 * 24 + 9 * 24 + 24 * 8) * small
    high = fixed + 4 * 12 * large + (25 * 12 + 12 * 8) * small + (8 * 24 + 25 * 24 + 24 * 8) * small
    high += (8 * 48 + 25 * 48 + 48 * 8) * small
    assert f'12 networks, {low / 1e9:.4g} to {high / 1e9:.4g} G multiply-adds at 800x1088' in text
    assert 'seed          none named' in text
    assert 'limit         none' in text
    assert 'weights only  300 iterations of 12 images' in text
    assert 'alternating   700 iterations with 140 arch steps' in text
    gib = arch_step_memory(tiny.SPACE, (800, 1088), 4, fused=True) / 2**30
    assert f'memory        about {gib:.2g} GiB' in text
    assert 'resumed' not in text


def test_the_plan_states_limit_seed_and_what_is_done():
    seed = {'arch': 'mobilenet_v2', 'checkpoint': 'torchvision://mobilenet_v2'}
    text = described(400, {'type': 'mmnas_ext.Remapped', 'seed': seed}, with_cp=True, target=3e9)
    assert 'limit         at most 3 G multiply-adds' in text
    # stem and stages of MobileNetV2 as torchvision builds it: 3.505 M less classifier (1.281 M) and head (0.412 M)
    assert 'G multiply-adds, 1.812 M parameters' in text
    assert 'resumed       400 of 1000 iterations are done' in text
    gib = arch_step_memory(tiny.SPACE, (800, 1088), 4, with_cp=True, fused=True) / 2**30
    assert f'memory        about {gib:.2g} GiB' in text


def test_the_plan_of_another_metric_states_its_figures_and_multiply_adds():
    # by hand: stem 216 + 16; k3_e1 of 8 to 4 channels; then the cheapest and the most expensive candidates
    text = described(metric='params', target=2500)
    low, high = tiny.PARAMS['fixed'], tiny.PARAMS['fixed']
    for name in ('1.0', '1.1', '2.0'):
        low, high = low + min(tiny.PARAMS[name]), high + max(tiny.PARAMS[name])
    assert f'G multiply-adds, {low / 1e6:.4g} to {high / 1e6:.4g} M parameters at 800x1088' in text
    assert 'limit         at most 0.0025 M parameters' in text


def test_the_plan_says_both_bounds_and_which_of_them_limits_nothing():
    text = described(min=1, max=math.inf)
    assert 'limit         at least 1e-09 G multiply-adds and at most inf G multiply-adds; cost.max of inf G' in text
    assert text.count('limits nothing') == 2
    assert 'limits nothing' not in described(target=2.5e8)


def test_the_plan_of_latency_prices_a_seed_that_the_table_covers():
    inside = tiny.SPACE.arch(((0,), (1, 2), (1,))).format()
    text = described(
        init_cfg={'type': 'mmnas_ext.Remapped', 'seed': {'arch': inside, 'checkpoint': 'none.pth'}},
        size=tiny.SIZE, metric='latency', table=tiny.latency_table(), target=9.1,
    )  # fmt: skip
    assert 'G multiply-adds, 1.9 to 13.1 ms at 16x16' in text
    assert 'M parameters, 9.1 ms\n' in text  # 0.1 + 0.2 + 0.7 + 0 + 8.1
    assert 'limit         at most 9.1 ms' in text
    outside = {'arch': 'mobilenet_v2', 'checkpoint': 'torchvision://mobilenet_v2'}
    text = described(
        init_cfg={'type': 'mmnas_ext.Remapped', 'seed': outside},
        size=tiny.SIZE, metric='latency', table=tiny.latency_table(),
    )  # fmt: skip
    assert '1.812 M parameters, latency not known: the table lacks some of its layers' in text


def saved_bytes(modules, run):
    """Bytes of distinct storages that autograd saves for the backward pass while `run` builds a graph."""
    parameters = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    assert out.requires_grad
    return sum(size for size, _ in saved.values())


def kept_bytes(space, size, batch, with_cp, fused):
    """What an arch step keeps: all that it saves, or inputs of layers and the largest layer's inside."""
    net = SuperNet(space, out_indices=(len(space.stages) - 1,), with_cp=with_cp)
    net.train()
    net.set_path(None)
    alphas = {id(alpha) for alpha in net.arch_parameters()}
    for parameter in net.parameters():
        parameter.requires_grad_(id(parameter) in alphas)
    inputs = {}
    for layer in net.mixed_layers().values():
        if not fused:  # what is watched is computed by the modules, as on a GPU
            next(iter(layer.candidates.values())).register_forward_hook(lambda *_: None)
        layer.register_forward_pre_hook(lambda module, args: inputs.__setitem__(module, args[0].detach()))
    kept = saved_bytes([net], lambda: net(torch.randn(batch, 3, *size))[0].square().mean())
    if not with_cp:
        return kept
    inside = [0]
    for number, (layer, x) in enumerate(list(inputs.items())):
        if type(layer(x.requires_grad_(number > 0)).grad_fn).__name__ == '_MixtureBackward':
            continue  # one candidate after the other is computed again
        layer.with_cp = False
        inside.append(saved_bytes([layer], lambda m=layer, i=x, n=number: m(i.requires_grad_(n > 0))))
    return kept + max(inside)


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize(
    ('space', 'size', 'batch'), [(WIDER, (96, 64), 2), (FIRST_SEARCHED, (64, 64), 3), (RESIDUAL, (96, 64), 2)]
)
def test_the_estimate_is_near_what_is_kept(space, size, batch, with_cp, fused):
    kept = kept_bytes(space, size, batch, with_cp, fused)
    estimated = arch_step_memory(space, size, batch, with_cp=with_cp, fused=fused)
    assert kept > 100_000
    assert kept / 1.25 < estimated < kept * 1.25


def test_a_layer_that_is_read_inside_is_left_to_the_modules():
    inside = SearchSpace((*WIDER.stages[:2], SpaceStage(12, 24, (CANDIDATES[1::2], (*CANDIDATES, 'skip')), 2)))
    net = SuperNet(inside, out_indices=('2.expand', 2)).train()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    for alpha in net.arch_parameters():
        alpha.requires_grad_()
    image = torch.randn(2, 3, 96, 64)
    kept = saved_bytes([net], lambda: sum(feature.square().mean() for feature in net(image)))
    estimates = [arch_step_memory(inside, (96, 64), 2, fused=True, read_inside=read) for read in ((), (2,))]
    assert kept / 1.25 < estimates[1] < kept * 1.25
    assert estimates[0] < 0.8 * estimates[1]


def test_checkpoints_keep_less():
    with_cp, without = (kept_bytes(WIDER, (96, 64), 2, cp, False) for cp in (True, False))
    assert with_cp < 0.6 * without
    estimates = [arch_step_memory(WIDER, (96, 64), 2, with_cp=cp) for cp in (True, False)]
    assert estimates[0] < 0.6 * estimates[1]
    fused = [arch_step_memory(WIDER, (96, 64), 2, with_cp=cp, fused=True) for cp in (True, False)]
    assert fused[0] < 0.6 * fused[1] < 0.4 * estimates[1]


def test_the_estimate_grows_with_images_and_resolution():
    one = arch_step_memory(WIDER, (96, 64), 1)
    assert arch_step_memory(WIDER, (96, 64), 6) == 6 * one
    assert arch_step_memory(WIDER, (192, 128), 1) == 4 * one
    # the last stage keeps 1/8 instead of 1/16, so it has four times the positions
    assert arch_step_memory(WIDER, (96, 64), 1, output_stride=8) > one
