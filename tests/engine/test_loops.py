"""Which path is drawn, who steps when, and which batch comes at which position."""

import math
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmnas_ext.datasets import split_halves
from mmnas_ext.engine import NonFiniteLossError, seeding
from mmnas_ext.engine.batches import Batches
from mmnas_ext.engine.loops import Alternation, _totals
from tests.engine import tiny
from tests.engine.kept import train


def paths(wrapper, count, policy, seed=0):
    drawn = []
    for iteration in range(count):
        wrapper.start('weights', iteration, seed, policy)
        with wrapper.optim_context(wrapper.supernet):
            layers = wrapper.supernet.mixed_layers()
        drawn.append(tuple(layer.choice for layer in layers.values()))
    return drawn


@pytest.mark.parametrize('policy', ['uniform', 'softmax'])
def test_a_path_follows_from_seed_and_iteration_on_every_rank(policy, monkeypatch):
    _, wrapper = tiny.build()
    first = paths(wrapper, 40, policy)
    _, other = tiny.build()
    monkeypatch.setattr(seeding, 'get_rank', lambda: 1)
    seeding.reseed('somewhere else')
    assert paths(other, 40, policy) == first
    assert paths(other, 40, policy, seed=1) != first
    assert len(set(first)) > 2


def test_paths_are_drawn_uniformly_or_by_alpha():
    model, wrapper = tiny.build()
    count = 3000
    for policy in ('uniform', 'softmax'):
        drawn = paths(wrapper, count, policy)
        for number, alpha in enumerate(model.backbone.arch_parameters()):
            found = Counter(path[number] for path in drawn)
            powers = np.exp(alpha.detach().numpy()) if policy == 'softmax' else np.ones(len(alpha))
            for index, share in enumerate(powers / powers.sum()):
                # five standard deviations of a binomial
                assert abs(found[index] / count - share) < 5 * (share * (1 - share) / count) ** 0.5


class Recorder:
    """Stands for a runner; notes what is asked of model and wrapper."""

    def __init__(self):
        self.seed = 0
        self.steps = []
        self.model = torch.nn.Identity()
        self.model.train_step = self.train_step
        self.optim_wrapper = SimpleNamespace(start=self.start)

    def start(self, phase, iteration, seed, policy):
        self.steps.append((phase, iteration, policy))

    def train_step(self, batch, optim_wrapper):
        self.steps[-1] = (*self.steps[-1], batch)
        return {'loss': len(self.steps)}


class Numbers:
    """A half whose batches are their own positions."""

    def __init__(self):
        self.position = 0

    def __next__(self):
        self.position += 1
        return self.position - 1

    def seek(self, position):
        self.position = position


@pytest.mark.parametrize('interval', [1, 2, 5])
@pytest.mark.parametrize('start', [0, 1, 4, 7])
def test_arch_steps_come_from_their_start_on_at_their_interval(start, interval):
    runner = Recorder()
    alternation = Alternation(runner, Numbers(), start, interval)
    for iteration in range(20):
        alternation.step(iteration, f'w{iteration}')
    wanted, arch = [], 0
    for iteration in range(20):
        if iteration in range(start, 20, interval):
            wanted.append(('arch', iteration, 'softmax', arch))
            arch += 1
        wanted.append(('weights', iteration, 'softmax' if iteration >= start else 'uniform', f'w{iteration}'))
    assert runner.steps == wanted


@given(start=st.integers(0, 60), interval=st.integers(1, 9), iteration=st.integers(0, 80))
def test_arch_steps_are_counted_as_by_hand(start, interval, iteration):
    alternation = Alternation(None, Numbers(), start, interval)
    assert alternation.arch_steps(iteration) == sum(1 for i in range(iteration) if i in range(start, 1000, interval))


def test_an_alternation_resumes_at_the_batch_that_comes_next():
    whole = Recorder()
    alternation = Alternation(whole, Numbers(), 2, 3)
    for iteration in range(12):
        alternation.step(iteration, None)
    for stop in range(12):
        runner = Recorder()
        alternation = Alternation(runner, Numbers(), 2, 3)
        alternation.resume(stop)
        for iteration in range(stop, 12):
            alternation.step(iteration, None)
        assert runner.steps == [entry for entry in whole.steps if entry[1] >= stop]


def test_what_both_steps_log_is_told_apart():
    alternation = Alternation(Recorder(), Numbers(), 1, 1)
    assert alternation.step(0, None) == {'loss': 1}
    assert alternation.step(1, None) == {'arch_loss': 2, 'loss': 3}


@pytest.mark.parametrize('interval', [0, -1, 1.5, True, '1'])
def test_an_interval_must_be_a_positive_integer(interval):
    with pytest.raises(ValueError, match=f'arch_interval must be a positive integer, got {interval!r}'):
        Alternation(None, Numbers(), 0, interval)


class Drawing(torch.utils.data.Dataset):
    """An item is its index and a draw from each generator."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return [index, random.random(), np.random.rand(), torch.rand(()).item()]


def stream(workers=0, sampler=DefaultSampler, seed=0, name='weights'):
    data = Drawing()
    loader = DataLoader(
        data, batch_size=2, sampler=sampler(data, seed=4), num_workers=workers, collate_fn=lambda items: items,
        worker_init_fn=seeding.seed_worker, multiprocessing_context='fork' if workers else None,
    )  # fmt: skip
    return Batches(loader, seed, name)


@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
@pytest.mark.parametrize('workers', [0, 2])
def test_a_batch_follows_from_its_position_alone(workers, sampler):
    whole = stream(workers, sampler)
    wanted = [next(whole) for _ in range(10)]
    assert len({str(batch) for batch in wanted}) == 10
    positions = (1, 4, 5, 8) if workers == 0 else (4, 6)
    for position in positions:
        random.seed(position)
        torch.manual_seed(position)
        other = stream(workers, sampler)
        other.seek(position)
        torch.rand(3)
        assert [next(other) for _ in range(10 - position)] == wanted[position:]


def test_an_epoch_holds_every_item_once_in_a_new_order():
    batches = stream()
    epochs = [[item[0] for _ in range(4) for item in next(batches)] for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_seeking_back_and_on_gives_the_same():
    batches = stream()
    wanted = [next(batches) for _ in range(6)]
    batches.seek(2)
    assert next(batches) == wanted[2]
    batches.skip_iter(5)
    assert next(batches) == wanted[5]
    assert iter(batches) is batches


def test_streams_of_other_names_and_seeds_augment_otherwise():
    first = next(stream())
    for other in (stream(name='arch'), stream(seed=1)):
        batch = next(other)
        assert [item[0] for item in batch] == [item[0] for item in first]
        assert [item[1:] for item in batch] != [item[1:] for item in first]


def test_ranks_draw_apart_and_a_key_draws_alike(monkeypatch):
    def draw():
        seeding.reseed(5, 'x')
        return random.random(), np.random.rand(), torch.rand(()).item()

    first = draw()
    assert draw() == first
    monkeypatch.setattr(seeding, 'get_rank', lambda: 1)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
    # CRC-32 of the text (1, 'a'), on every machine
    assert seeding.mix(1, 'a') == 0x1C8DFEBC
    assert torch.equal(torch.rand(3, generator=seeding.generator(1)), torch.rand(3, generator=seeding.generator(1)))


@pytest.mark.parametrize(('phase', 'iteration'), [('weights', 0), ('arch', 1)])
def test_a_search_stops_where_a_loss_is_not_finite(tmp_path, phase, iteration):
    halves = split_halves(tiny.TinyImages(pipeline=[]), 0)
    bad = int(halves[phase == 'arch'].indices[2])
    cfg = tiny.search_cfg(tmp_path, **{'train_dataloader.batch_size': 6, 'train_dataloader.dataset.nan': bad})
    runner = Runner.from_cfg(cfg)
    message = rf"the {phase} step of iteration {iteration} gave loss nan; losses: .'loss_square': nan, 'error': nan"
    with pytest.raises(NonFiniteLossError, match=message):
        runner.train()
    assert all(parameter.isfinite().all() for parameter in runner.model.parameters())
    assert len(list(tmp_path.glob('*.pth'))) == iteration  # one epoch an iteration


def test_losses_of_several_levels_are_named_once():
    losses = {'loss_cls': [torch.tensor([1.0, 3.0]), torch.tensor(math.inf)], 'loss_box': torch.tensor(2.0)}
    assert _totals(losses) == {'loss_cls': math.inf, 'loss_box': 2.0}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'train_cfg.arch_start': 4}, r'train_cfg.arch_start must lie in 0..3 \(epochs of 4\), got 4'),
        ({'train_cfg.arch_start': 1.5}, r'arch_start must lie in 0..3 .*got 1.5'),
        ({'train_cfg.weight_fraction': 1}, 'train_cfg.weight_fraction must be greater than 0 and less than 1, got 1'),
        ({'train_cfg.split_seed': -1}, 'train_cfg.split_seed must be an integer in 0..4294967295, got -1'),
        ({'train_cfg.pipelines': {'both': []}}, r"train_cfg.pipelines must have one or both of .*, got \['both'\]"),
        ({'train_dataloader.batch_size': 7, 'train_dataloader.drop_last': True},
         'train_dataloader.batch_size is larger than the weights half'),
        ({'optim_wrapper': {'_delete_': True, 'optimizer': {'type': 'SGD', 'lr': 0.1}}},
         "a search loop needs optim_wrapper=dict.constructor='mmnas_ext.SearchOptimWrapperConstructor'"),
    ],
)  # fmt: skip
def test_a_loop_says_what_is_wrong(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train(tiny.search_cfg(tmp_path, **change), resume=False)
