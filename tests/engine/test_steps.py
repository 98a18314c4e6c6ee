"""What one step changes, and by how much: every expected gradient comes from a plain step written out here."""

import copy
import json
import math
import warnings

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import LinearLR, MultiStepLR
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmnas_ext.engine import NonFiniteLossError, SearchOptimWrapperConstructor
from mmnas_ext.engine.optim import find_supernet
from tests.engine import tiny

SGD = {'type': 'SGD', 'lr': 1.0}
COST_WEIGHT = 0.1


class Recomputed(nn.Module):
    """Runs a module once more in the backward pass."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


def recorded(model, action):
    """Gradients that arrive at each parameter while `action` runs."""
    found = {}
    handles = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_hook(lambda grad, name=name: found.__setitem__(name, grad.clone())))
    action()
    for handle in handles:
        handle.remove()
    return found


def step(model, wrapper, phase, batch=None, iteration=0, policy='uniform', seed=0):
    wrapper.start(phase, iteration, seed, policy)
    return model.train_step(batch or tiny.batch(), optim_wrapper=wrapper)


def expected_cost(alphas, table):
    """A table of `tiny`, weighted by softmax, in plain floats."""
    total = 0.0
    for name, alpha in alphas.items():
        powers = [math.exp(value) for value in alpha]
        total += sum(p * m for p, m in zip(powers, table[name], strict=True)) / sum(powers)
    return total


def alphas_of(model):
    return {name: layer.alpha.detach().tolist() for name, layer in model.backbone.mixed_layers().items()}


def drawn(model):
    return {name: layer.choice for name, layer in model.backbone.mixed_layers().items()}


def values(model):
    """All tensors, those that no state dict keeps included."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def plain_arch_gradients(batch, cost_weight, **model):
    """Every gradient computed, statistics moving: the step that the optimised one stands for."""
    reference, _ = tiny.build(**model)
    reference.backbone.set_path(None)
    loss = reference(**batch, mode='loss')['loss_square']
    macs = 0.0
    for name, layer in reference.backbone.mixed_layers().items():
        macs = macs + (layer.alpha.softmax(0) * torch.tensor(tiny.MACS[name])).sum()
    (loss + cost_weight * torch.log10(macs / 1e9)).backward()
    assert reference.backbone.stem.conv.weight.grad.abs().sum() > 0, 'the reference computes all gradients'
    return {name: parameter.grad for name, parameter in reference.named_parameters() if name.endswith('alpha')}


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('channels_last', [False, True])
def test_an_arch_step_gives_alpha_the_gradients_of_a_plain_step(with_cp, channels_last):
    wanted = plain_arch_gradients(tiny.batch(), COST_WEIGHT, norm=True)
    model, wrapper = tiny.build(
        {'with_cp': with_cp, 'channels_last': channels_last}, tiny.optim_cfg(cost={'weight': COST_WEIGHT}), norm=True
    )
    got = recorded(model, lambda: step(model, wrapper, 'arch'))
    assert got.keys() == wanted.keys()
    assert len(got) == 3
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize('with_cp', [False, True])
def test_an_arch_step_changes_alpha_alone(with_cp):
    model, wrapper = tiny.build({'with_cp': with_cp}, norm=True)
    step(model, wrapper, 'weights')  # so that there is momentum
    before, optimizer = values(model), copy.deepcopy(wrapper.wrappers['weights'].optimizer.state_dict())
    step(model, wrapper, 'arch', iteration=1)
    names = {'backbone.stages.1.0.alpha', 'backbone.stages.1.1.alpha', 'backbone.stages.2.0.alpha'}
    assert changed(before, values(model)) == names
    after = wrapper.wrappers['weights'].optimizer.state_dict()
    assert after['param_groups'] == optimizer['param_groups']
    assert optimizer['state']
    for number, state in optimizer['state'].items():
        assert torch.equal(after['state'][number]['momentum_buffer'], state['momentum_buffer'])


def test_an_arch_step_keeps_statistics_of_layers_that_run_again_in_the_backward():
    model, wrapper = tiny.build(norm=True)
    model.norm = Recomputed(model.norm)
    before = values(model)
    step(model, wrapper, 'arch')
    after = values(model)
    assert {name for name in changed(before, after) if not name.endswith('alpha')} == set()
    step(model, wrapper, 'weights')
    assert not torch.equal(values(model)['norm.inner.running_mean'], after['norm.inner.running_mean'])


@pytest.mark.parametrize('policy', ['uniform', 'softmax'])
@pytest.mark.parametrize('iteration', [0, 1, 2])
def test_a_weight_step_reaches_the_drawn_path_alone(policy, iteration):
    model, wrapper = tiny.build()
    for earlier in range(10, 14):  # other paths leave momentum behind, weight decay would shrink everything
        step(model, wrapper, 'weights', iteration=earlier)
    before = values(model)
    got = recorded(model, lambda: step(model, wrapper, 'weights', iteration=iteration, policy=policy))
    path = set()
    for name, choice in drawn(model).items():
        stage, layer = name.split('.')
        token = tiny.SPACE.stages[int(stage)].layers[int(layer)][choice]
        path.add(f'backbone.stages.{name}.candidates.{token}.')
    weights = [name for name, _ in model.named_parameters() if not name.endswith('alpha')]
    wanted = {name for name in weights if '.candidates.' not in name or name.startswith(tuple(path))}
    assert len(wanted) < len(weights)
    assert got.keys() == wanted
    moved = changed(before, values(model))
    assert {name for name in moved if 'running' not in name and 'num_batches' not in name} == wanted


def test_a_weight_step_moves_the_drawn_path_as_sgd_does_by_hand():
    model, wrapper = tiny.build()
    before = values(model)
    got = recorded(model, lambda: step(model, wrapper, 'weights'))
    after = values(model)
    for name, gradient in got.items():  # lr 0.05, weight decay 1e-2, first step: momentum is the gradient itself
        torch.testing.assert_close(after[name], before[name] - 0.05 * (gradient + 1e-2 * before[name]))


def test_a_weight_step_trains_the_loss_of_the_drawn_path():
    model, wrapper = tiny.build()
    reference, _ = tiny.build()
    got = recorded(model, lambda: step(model, wrapper, 'weights', iteration=3))
    choices = drawn(model)
    reference.backbone.set_path(((0,), (choices['1.0'], choices['1.1']), (choices['2.0'],)))
    reference(**tiny.batch(), mode='loss')['loss_square'].backward()
    wanted = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient)


@pytest.mark.parametrize(('metric', 'table', 'unit'), [
    ('macs', tiny.MACS, 1e9), ('params', tiny.PARAMS, 1e6), ('latency', tiny.LATENCY, 1.0),
])  # fmt: skip
def test_the_cost_term_has_the_gradient_of_its_formula(metric, table, unit):
    weight, width = 0.3, 1e-4
    cost = {'metric': metric, 'table': tiny.latency_table() if metric == 'latency' else None}
    batch = tiny.batch()
    with_cost = plain = None
    for factor in (0.0, weight):
        model, wrapper = tiny.build(optim=tiny.optim_cfg(cost={'weight': factor, **cost}))
        alphas = alphas_of(model)
        gradients = recorded(model, lambda m=model, w=wrapper: step(m, w, 'arch', batch))
        plain, with_cost = with_cost, gradients
    for layer, alpha in alphas.items():
        for index in range(len(alpha)):
            shifted = [
                {**alphas, layer: [*alpha[:index], alpha[index] + d, *alpha[index + 1 :]]} for d in (width, -width)
            ]
            up, down = (weight * math.log10(expected_cost(a, table) / unit) for a in shifted)
            wanted = (up - down) / (2 * width)
            got = with_cost[f'backbone.stages.{layer}.alpha'][index] - plain[f'backbone.stages.{layer}.alpha'][index]
            assert abs(wanted) > 1e-5
            assert float(got) == pytest.approx(wanted, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(('metric', 'table', 'unit'), [
    ('macs', tiny.MACS, 1e9), ('params', tiny.PARAMS, 1e6), ('latency', tiny.LATENCY, 1.0),
])  # fmt: skip
def test_the_cost_term_is_in_the_metrics_unit(monkeypatch, metric, table, unit):
    losses = {}
    for weight in (0.0, 0.3):
        cost = {'weight': weight, 'metric': metric, 'table': tiny.latency_table() if metric == 'latency' else None}
        model, wrapper = tiny.build(optim=tiny.optim_cfg(cost=cost))
        wanted = 0.3 * math.log10(expected_cost(alphas_of(model), table) / unit)
        monkeypatch.setattr(wrapper, 'backward', lambda loss, w=weight: losses.__setitem__(w, float(loss)))
        wrapper.start('arch', 0)
        with wrapper.optim_context(model):
            loss = model(**tiny.batch(), mode='loss')['loss_square']
        wrapper.update_params(loss)
    assert losses[0.3] - losses[0.0] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize('given', [{}, {'metric': 'macs'}, {'metric': 'macs', 'table': None}])
def test_multiply_adds_are_the_default_to_the_bit(given):
    model, wrapper = tiny.build(optim=tiny.optim_cfg(cost={'weight': COST_WEIGHT, **given}))
    reference, _ = tiny.build()
    for name, parameter in reference.named_parameters():
        parameter.requires_grad_(name.endswith('alpha'))  # another function computes alpha's gradients alone
    reference.backbone.set_path(None)
    task = reference(**tiny.batch(), mode='loss')['loss_square']
    macs = torch.stack(
        [
            layer.alpha.double().softmax(0) @ torch.tensor(tiny.MACS[name], dtype=torch.float64)
            for name, layer in reference.backbone.mixed_layers().items()
        ]
    ).sum()
    (task + (COST_WEIGHT * (macs / 1e9).log10()).to(task.dtype)).backward()
    got = recorded(model, lambda: step(model, wrapper, 'arch'))
    wanted = {name: p.grad for name, p in reference.named_parameters() if name.endswith('alpha')}
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], gradient) for name, gradient in wanted.items())


@pytest.mark.parametrize('phase', ['arch', 'weights'])
def test_all_may_have_gradients_again_after_a_step(phase):
    model, wrapper = tiny.build()
    step(model, wrapper, phase)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize('phase', ['arch', 'weights'])
def test_a_loss_that_is_not_finite_changes_no_parameter(phase):
    model, wrapper = tiny.build()
    bad = tiny.batch()
    bad['target'][0, 0] = math.nan
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with pytest.raises(NonFiniteLossError, match=rf'the {phase} step of iteration 7 gave loss nan'):
        step(model, wrapper, phase, bad, iteration=7)
    assert changed(before, dict(model.named_parameters())) == set()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize('phase', ['arch', 'weights'])
def test_accumulating_two_batches_is_one_step_of_their_mean_loss(phase):
    optim = tiny.optim_cfg(
        weights={'optimizer': SGD, 'accumulative_counts': 2}, arch={'optimizer': SGD, 'accumulative_counts': 2}
    )
    batches = [tiny.batch(seed=1), tiny.batch(seed=2)]
    gradients = []
    for one in batches:
        single, single_wrapper = tiny.build(optim=tiny.optim_cfg(weights={'optimizer': SGD}, arch={'optimizer': SGD}))
        gradients.append(recorded(single, lambda m=single, w=single_wrapper, b=one: step(m, w, phase, b)))
    model, wrapper = tiny.build(optim=optim)
    before = values(model)
    step(model, wrapper, phase, batches[0])
    parameters = {name for name, _ in model.named_parameters()}
    assert changed(before, values(model)) & parameters == set()
    step(model, wrapper, phase, batches[1])
    after = values(model)
    assert changed(before, after) & parameters == gradients[0].keys()
    for name, gradient in gradients[0].items():
        mean = (gradient + gradients[1][name]) / 2
        torch.testing.assert_close(before[name] - after[name], mean, rtol=1e-4, atol=1e-6)


def test_each_phase_counts_its_own_batches():
    optim = tiny.optim_cfg(
        weights={'optimizer': SGD, 'accumulative_counts': 2}, arch={'optimizer': SGD, 'accumulative_counts': 3}
    )
    model, wrapper = tiny.build(optim=optim)
    seen = []
    for iteration in range(6):
        for phase in ('arch', 'weights'):
            before = values(model)
            step(model, wrapper, phase, iteration=iteration)
            moved = changed(before, values(model))
            seen.append((phase, any(n.endswith('alpha') for n in moved), any(n.endswith('conv.weight') for n in moved)))
    arch, weights = seen[::2], seen[1::2]
    assert [alpha for _, alpha, _ in arch] == [False, False, True] * 2
    assert [weight for _, _, weight in weights] == [False, True] * 3
    assert not any(weight for _, _, weight in arch)
    assert not any(alpha for _, alpha, _ in weights)


def paths_drawn(model, wrapper, iterations, policy='softmax'):
    found = []
    for iteration in iterations:
        step(model, wrapper, 'weights', iteration=iteration, policy=policy)
        found.append(tuple(drawn(model).values()))
    return found


def gathering(counts, **changes):
    # still weights: what differs comes from the draws
    still = {'optimizer': {'type': 'SGD', 'lr': 0.0}, 'accumulative_counts': counts}
    return tiny.build(optim={**tiny.optim_cfg(weights=still), **changes})


def test_weight_steps_that_are_gathered_share_a_path():
    single = paths_drawn(*gathering(1), range(12), 'uniform')
    gathered = paths_drawn(*gathering(4), range(48), 'uniform')
    # the path of an update is that of the iteration of its number where nothing is gathered
    assert gathered == [path for path in single for _ in range(4)]
    assert len(set(single)) > 4
    assert paths_drawn(*gathering(4, path_per='iteration'), range(12), 'uniform') == single


def test_a_path_lasts_for_its_update_though_alpha_moves_and_the_run_is_resumed():
    model, wrapper = gathering(4)
    first = paths_drawn(model, wrapper, range(4, 6))
    state = copy.deepcopy(wrapper.state_dict())
    resumed, again = gathering(4)
    again.load_state_dict(state)
    for each in (model, resumed):
        for alpha in each.backbone.arch_parameters():
            # another candidate than the one drawn becomes certain
            alpha.data = torch.where(torch.arange(len(alpha)) == (first[0][0] + 1) % 2, 60.0, -60.0)
    rest = paths_drawn(model, wrapper, range(6, 12))
    assert rest[:2] == first == [first[0]] * 2
    assert rest[2:] == [rest[2]] * 4
    assert rest[2] != first[0]
    assert paths_drawn(resumed, again, range(6, 12)) == rest


@pytest.mark.parametrize('clipped', ['arch', 'weights'])
def test_each_phase_is_clipped_alone(clipped):
    limit = 1e-3
    change = {'optimizer': SGD, 'clip_grad': {'max_norm': limit, 'norm_type': 2}}
    optim = tiny.optim_cfg(**{'weights': {'optimizer': SGD}, 'arch': {'optimizer': SGD}, clipped: change})
    model, wrapper = tiny.build(optim=optim)
    for phase in ('arch', 'weights'):
        before = values(model)
        got = recorded(model, lambda p=phase: step(model, wrapper, p))
        norm = math.sqrt(sum(float(g.square().sum()) for g in got.values()))
        assert norm > 10 * limit
        after = values(model)
        moved = math.sqrt(sum(float((after[n] - before[n]).square().sum()) for n in got))
        assert moved == pytest.approx(limit if phase == clipped else norm, rel=1e-3)


def test_the_norms_of_both_phases_are_logged_apart():
    hub = MessageHub.get_instance('norms')
    clip = {'clip_grad': {'max_norm': 35, 'norm_type': 2}}
    model, wrapper = tiny.build(optim=tiny.optim_cfg(weights=clip, arch=clip))
    for phase, name in (('arch', 'train/arch_grad_norm'), ('weights', 'train/grad_norm')):
        got = recorded(model, lambda p=phase: step(model, wrapper, p))
        norm = math.sqrt(sum(float(g.square().sum()) for g in got.values()))
        assert hub.get_scalar(name).current() == pytest.approx(norm, rel=1e-4)


def test_frozen_stages_stay_frozen_in_both_phases():
    model, wrapper = tiny.build({'frozen_stages': 1})
    before = values(model)
    frozen = [n for n, _ in model.named_parameters() if n.startswith(('backbone.stem', 'backbone.stages.0'))]
    assert len(frozen) == 3 + 6
    for iteration in range(3):
        model.train()
        step(model, wrapper, 'arch', iteration=iteration)
        step(model, wrapper, 'weights', iteration=iteration)
        assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if name in frozen)
    moved = changed(before, values(model))
    assert 'backbone.stages.1.0.alpha' in moved
    assert not any(name.startswith(('backbone.stem', 'backbone.stages.0')) for name in moved)


def test_schedulers_see_the_weights_alone():
    model, wrapper = tiny.build()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        schedulers = [LinearLR(wrapper, start_factor=0.5, end=2, by_epoch=False), MultiStepLR(wrapper, [3], 0.1)]
        rates = []
        for iteration in range(4):
            step(model, wrapper, 'arch', iteration=iteration)
            step(model, wrapper, 'weights', iteration=iteration)
            rates.append(wrapper.param_groups[0]['lr'])
            for scheduler in schedulers:
                scheduler.step()
    assert rates == pytest.approx([0.025, 0.05, 0.05, 0.005])
    assert wrapper.get_lr()['lr'] == pytest.approx([0.005])
    assert wrapper.wrappers['arch'].get_lr()['lr'] == [0.01]


def test_the_logged_rate_of_grouped_parameters_is_saved_with_the_rest():
    grouped = tiny.optim_cfg(weights={'paramwise_cfg': {'norm_decay_mult': 0.0}})
    model, wrapper = tiny.build(optim=grouped)
    schedulers = [MultiStepLR(wrapper, [1, 2], 0.1)]
    step(model, wrapper, 'weights')
    schedulers[0].step()
    assert wrapper.get_lr()['base_lr'] == pytest.approx([0.005])
    state = copy.deepcopy(wrapper.state_dict())
    _, resumed = tiny.build(optim=grouped)
    again = MultiStepLR(resumed, [1, 2], 0.1)
    resumed.load_state_dict(state)
    again.load_state_dict(schedulers[0].state_dict())
    assert resumed.get_lr()['base_lr'] == pytest.approx([0.005])
    again.step()
    assert resumed.get_lr()['base_lr'] == pytest.approx([0.0005])


def test_the_two_optimizers_share_out_all_parameters():
    model, wrapper = tiny.build(optim=tiny.optim_cfg(weights={'paramwise_cfg': {'bypass_duplicate': True}}))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = {
        phase: [names[id(p)] for group in wrapper.wrappers[phase].optimizer.param_groups for p in group['params']]
        for phase in ('weights', 'arch')
    }
    assert sorted(held['arch']) == sorted(name for name in names.values() if name.endswith('.alpha'))
    assert sorted(held['weights'] + held['arch']) == sorted(names.values())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'lr': 1}, r"missing \[\], unknown \['lr'\]"),
        ({'path_per': 'epoch'}, r"path_per must be one of \('update', 'iteration'\), got 'epoch'"),
        ({'arch': None}, r"missing \['arch'\], unknown \[\]"),
        ({'cost': {'wieght': 1}}, r"cost takes weight, target, metric, table, min, max, got \['wieght'\]"),
        ({'cost': {'weight': -1}}, r'cost.weight must not be negative, got -1'),
        ({'cost': {'weight': '1'}}, r"cost.weight must be a number, got '1'"),
        ({'cost': {'weight': math.nan}}, r'cost.weight must be a number, got nan'),
        ({'cost': {'target': 5}}, r'cost.target must be at least 3.642e-05 G multiply-adds, got 5e-09 G'),
        (
            {'cost': {'metric': 'flops'}},
            r"optim_wrapper.cost: metric must be one of \('macs', 'params', 'latency'\), got 'flops'",
        ),
        (
            {'cost': {'metric': 'latency'}},
            r"optim_wrapper.cost: metric='latency' needs table=…, what mmnas latency wrote, got none",
        ),
        (
            {'cost': {'metric': 'params', 'table': 'latency.json'}},
            r"optim_wrapper.cost: table goes with metric='latency' alone, got one with metric='params'",
        ),
        ({'cost': {'table': {}}}, r"optim_wrapper.cost: table goes with metric='latency' alone, got .* metric='macs'"),
        (
            {'cost': {'metric': 'latency', 'table': 7}},
            r'optim_wrapper.cost: a latency table must be given as a LatencyTable, a dict, .* got int',
        ),
        (
            {'cost': {'metric': 'latency', 'table': tiny.latency_table(), 'target': 1.5}},
            r'cost.target must be at least 1.9 ms, got 1.5 ms: networks of this space cost 1.9 to 13.1 ms at 16x16',
        ),
    ],
)
def test_the_constructor_says_what_is_wrong(change, message):
    model, _ = tiny.build()
    cfg = {k: v for k, v in {**tiny.optim_cfg(), **change}.items() if k != 'constructor' and v is not None}
    with pytest.raises(ValueError, match=message):
        SearchOptimWrapperConstructor(cfg)(model)


def test_a_table_that_is_not_there():
    cfg = {'weights': {}, 'arch': {}, 'cost': {'metric': 'latency', 'table': 'gone.json'}}
    with pytest.raises(FileNotFoundError, match=r'latency table does not exist: gone.json'):
        SearchOptimWrapperConstructor(cfg)


def test_a_table_of_another_input_size_is_refused_before_the_search():
    cfg = tiny.optim_cfg(cost={'metric': 'latency', 'table': json.loads(tiny.latency_table().format())})
    with pytest.raises(ValueError, match='lacks 7 of 7 layers, the first is stem 3 -> 8, stride 2, of 32x32'):
        tiny.build({'input_size': (32, 32)}, cfg)


def test_settings_per_parameter_belong_to_the_weights():
    with pytest.raises(ValueError, match="paramwise_cfg belongs into optim_wrapper's weights"):
        SearchOptimWrapperConstructor({'weights': {}, 'arch': {}}, {'norm_decay_mult': 0})


def test_a_search_wants_one_super_network():
    model, _ = tiny.build()
    assert find_supernet(nn.ModuleList([model])) is model.backbone
    with pytest.raises(ValueError, match='exactly one SuperNet, got 0 in Linear'):
        find_supernet(nn.Linear(1, 1))
    with pytest.raises(ValueError, match='got 2 in ModuleList'):
        find_supernet(nn.ModuleList([model, tiny.build()[0]]))
