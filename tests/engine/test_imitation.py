"""Features that are pulled towards the seed's: gradients by hand, a training's files, and nothing left behind."""

import copy
import gc
import json
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import MODELS

from mmnas_ext.backbones import MBNet
from mmnas_ext.engine import SeedImitationHook, imitation
from mmnas_ext.remap import Seed
from tests.engine import tiny, tiny_seg
from tests.engine.kept import differences, last_checkpoint, loaded, train
from tests.engine.test_ddp import both_ranks

SEED_ARCH = tiny.SPACE.arch(((0,), (0, 0), (0,)))
ARCH = tiny.SPACE.arch(((0,), (1, 1), (1,)))
# in the third of eight iterations: 3 * (1 - 2 / (0.5 * 8))
WEIGHT, UNTIL, AT, LENGTH, FACTOR = 3.0, 0.5, 2, 8, 1.5


def make_seed(arch=SEED_ARCH, eps=1e-2):
    """A seed whose batch norms have statistics of their own."""
    torch.manual_seed(11)
    net = MBNet(arch, out_indices=(2,))
    net.init_weights()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return Seed(arch.replace(bn_eps=eps), net.state_dict())


def make_model(outputs=(1, 2), **backbone):
    """A model that reads the last output alone."""
    torch.manual_seed(3)
    init = {'type': 'mmnas_ext.Remapped', 'seed': make_seed()}
    cfg = {'type': 'mmnas_ext.MBNet', 'arch': ARCH, 'out_indices': outputs, 'init_cfg': init, **backbone}
    model = MODELS.build({'type': 'TinyModel', 'norm': True, 'backbone': cfg})
    model.init_weights()
    return model.train()


class Spy(torch.optim.SGD):
    """Takes no step, and shows the gradients that it would have used."""

    def step(self, closure=None):
        self.seen = [None if p.grad is None else p.grad.clone() for p in self.param_groups[0]['params']]


def runner_of(model, wrapper, iteration=AT):
    logged = {}
    hub = SimpleNamespace(update_scalar=lambda name, value: logged.setdefault(name, []).append(value))
    return SimpleNamespace(
        model=model, optim_wrapper=wrapper, iter=iteration, max_iters=LENGTH, message_hub=hub, logged=logged,
        logger=SimpleNamespace(info=lambda text: None),
    )  # fmt: skip


def step(model, wrapper, batches, hook, inner=None):
    """Steps on batches in one iteration; returns the runner."""
    runner = runner_of(inner or model, wrapper)
    hook.before_train(runner)
    for batch in batches:
        hook.before_train_iter(runner, 0)
        model.train_step(batch, wrapper)
        hook.after_train_iter(runner, 0)
    return runner


def by_hand(model, batch, factor=FACTOR, seed=None, outputs=(1, 2)):
    """The sum of both losses, and the loss of the imitation."""
    seed = seed or make_seed()
    teacher = MBNet(seed.arch, out_indices=outputs, norm_cfg={'type': 'BN', 'eps': 1e-2})
    teacher.load_state_dict(seed.state_dict)
    teacher.eval()
    features = model.backbone(batch['inputs'])
    out = model.head(model.norm(features[-1]).mean((2, 3)))
    total = 0.0
    for feature, goal in zip(features, teacher(batch['inputs']), strict=True):
        goal = goal.detach().float()
        rows = goal.transpose(0, 1).flatten(1)
        variance = ((rows - rows.mean(1, keepdim=True)) ** 2).mean(1).mean()
        total = total + ((feature.float() - goal) ** 2).mean() / variance / len(features)
    return (out - batch['target']).square().mean() + factor * total, factor * total


def amp(model, monkeypatch, **settings):
    """Mixed precision on a CPU: MMEngine's wrapper, as if there were a GPU, with a scaler for the CPU."""
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available', lambda: True)
    wrapper = AmpOptimWrapper(optimizer=Spy(model.parameters(), lr=1.0), dtype='bfloat16', **settings)
    wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    return wrapper


CASES = {
    'plain': ({}, {}),
    'gathered': ({}, {'accumulative_counts': 2}),
    'frozen': ({'frozen_stages': 2}, {}),
    'mixed precision': ({}, {}),
    'mixed precision, gathered': ({}, {'accumulative_counts': 2}),
}


@pytest.mark.parametrize('case', CASES)
def test_gradients_are_those_of_a_summand_of_the_loss(monkeypatch, case):
    backbone, settings = CASES[case]
    mixed, count = 'mixed' in case, settings.get('accumulative_counts', 1)
    batches = [tiny.batch(seed=number) for number in range(count)]
    model, twin, bare = (make_model(**backbone) for _ in range(3))
    make = (lambda m: amp(m, monkeypatch, **settings)) if mixed else (
        lambda m: OptimWrapper(Spy(m.parameters(), lr=1.0), **settings))  # fmt: skip
    wrapper = make(model)
    runner = step(model, wrapper, batches, SeedImitationHook(WEIGHT, UNTIL))
    logged = []
    for batch in batches:
        with torch.autocast('cpu', torch.bfloat16, enabled=mixed):
            whole, part = by_hand(twin, batch)
        (whole / count).backward()
        logged.append(float(part.detach()))
    found, wanted = wrapper.optimizer.seen, [p.grad for p in twin.parameters()]
    assert [each is None for each in found] == [each is None for each in wanted]
    assert sum(each is None for each in found) == (0 if 'frozen' not in case else 9)
    # scaled by a power of two; in bfloat16 a division of the loss rounds elsewhere
    tight = {'rtol': 2e-2, 'atol': 2e-3} if mixed else {'rtol': 1e-3, 'atol': 1e-4}
    for ours, theirs in zip(found, wanted, strict=True):
        if ours is not None:
            torch.testing.assert_close(ours, theirs, **tight)
    torch.testing.assert_close(runner.logged, {'train/loss_imitation': logged}, rtol=1e-3, atol=0)
    # and it counts: without the hook they are others
    plain = make(bare)
    for batch in batches:
        bare.train_step(batch, plain)
    far = [(a - b).abs().max() / b.abs().max() for a, b in zip(plain.optimizer.seen, wanted, strict=True) if b is not None]
    assert max(far) > 0.3
