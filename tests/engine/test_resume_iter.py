"""A segmentor's training or search, killed and resumed, ends as one that was not interrupted: to the bit."""

import multiprocessing
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmseg.datasets.transforms import PackSegInputs

from mmnas_ext.engine.batches import Batches, EndlessSampler, reproducible
from tests.engine import tiny, tiny_seg
from tests.engine.kept import differences, last_checkpoint, loaded, train

ENDLESS = {'train_dataloader.sampler.type': 'InfiniteSampler'}
SEARCH = tiny_seg.search_changes()
# workers, what differs from the tiny training
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    'gradients gathered': (0, {'optim_wrapper.accumulative_counts': 3}),
    'a worker, endless sampler': (1, ENDLESS),
    'search, endless sampler': (0, {**ENDLESS, **SEARCH}),
    'search, a worker': (1, SEARCH),
}
# checkpoints are made after 3, 6 and 8 iterations, epochs end after 4 and 8 (a search's halves: after 2, 4, …)
KILLS = (5, 7)


def once(folder: Path, variant: str, kill: int | None = None, **changes: Any) -> None:
    """Trains on from what is there, to its end or to before an iteration."""
    workers, others = VARIANTS[variant]
    cfg = tiny_seg.training_cfg(folder, workers, **others, **changes)
    cfg.experiment_name = f'{folder.parent.name} {folder.name} {kill}'
    # as in another process
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(97 if kill is None else kill)
    if kill is None:
        train(cfg, resume=True)
        return
    cfg.custom_hooks = [{'type': 'StopVisualizationHook', 'at': kill}]
    with pytest.raises(tiny_seg.KilledError):
        train(cfg, resume=True)


def interrupted(folder: Path, variant: str, **changes: Any) -> None:
    for kill in KILLS:
        once(folder, variant, kill, **changes)
    once(folder, variant, **changes)


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_run_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path, variant: str) -> None:
    once(tmp_path / 'whole', variant)
    interrupted(tmp_path / 'killed', variant)
    (name, kept), (wanted_name, wanted) = (last_checkpoint(tmp_path / run) for run in ('killed', 'whole'))
    assert name == wanted_name == 'iter_8.pth'
    assert differences(kept, wanted) == []
    # each step moved something, so that there was something to repeat
    (first, last) = (loaded(tmp_path / 'whole' / f'iter_{n}.pth')['state_dict'] for n in (6, 8))
    assert len(differences(first, last)) > 20


# images that the two last steps of eight read, and what lies in their epoch before them: in a training they are the
# last two of an epoch of four; of a search's halves, 4 and 5 images, one has epochs of two batches, the other of three
READ = {'gradients gathered': 2 * (2 + 2), 'search, endless sampler': 2 * 2 + 2 * (1 + 2)}


@pytest.mark.parametrize('variant', READ)
def test_a_resumed_run_loads_nothing_of_the_epochs_before(
    tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MMEngine 0.10.7 reads all batches again: 16 and 22 images here, and as many as a long run has had."""
    once(tmp_path, variant, kill=7)
    read: list[Any] = []
    pack = PackSegInputs.transform
    monkeypatch.setattr(PackSegInputs, 'transform', lambda self, results: read.append(self) or pack(self, results))
    once(tmp_path, variant)
    assert len(read) == READ[variant]


def test_mmengines_own_loop_does_not_repeat_itself(tmp_path: Path) -> None:
    """What makes the comparison above worth something: crops, flips and dropout follow from random states."""
    own = {'train_cfg.type': 'IterBasedTrainLoop', **ENDLESS}
    once(tmp_path / 'whole', 'gradients gathered', **own)
    interrupted(tmp_path / 'killed', 'gradients gathered', **own)
    kept, wanted = (last_checkpoint(tmp_path / run)[1]['state_dict'] for run in ('killed', 'whole'))
    assert differences(kept, wanted)


def test_epochs_hold_every_scene_once_whatever_the_sampler(tmp_path: Path) -> None:
    """An endless sampler's stream is cut into epochs, none of which repeats another's order or crops."""
    changes = {'train_dataloader.batch_size': 3, **ENDLESS}
    runner = Runner.from_cfg(tiny_seg.training_cfg(tmp_path, **changes))
    loop = runner.build_train_loop(runner.cfg.train_cfg)
    assert isinstance(loop.dataloader.sampler, EndlessSampler)
    epochs = []
    for _ in range(2):
        batches = [next(loop.dataloader_iterator) for _ in range(3)]
        epochs.append([sample for batch in batches for sample in batch['data_samples']])
    orders = [[sample.sample_idx for sample in epoch] for epoch in epochs]
    assert [sorted(order) for order in orders] == [list(range(9))] * 2
    assert orders[0] != orders[1]


class Counting(torch.utils.data.Dataset):
    """Notes which items are read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        self.read.append(index)
        return index


def test_an_epoch_is_found_again_without_reading_those_before_it() -> None:
    cfg = reproducible(
        {
            'dataset': Counting(),
            'batch_size': 2,
            'num_workers': 0,
            'sampler': {'type': 'InfiniteSampler', 'shuffle': True},
        }
    )
    loader = Runner.build_dataloader(cfg, seed=3)
    whole = Batches(loader, 3, 'train')
    wanted = [next(whole) for _ in range(12)]
    loader.dataset.read.clear()
    resumed = Batches(loader, 3, 'train')
    resumed.skip_iter(9)
    # two epochs of four batches lie before the tenth, which is the second of its own
    assert len(loader.dataset.read) == 2
    assert [next(resumed) for _ in range(3)] == wanted[9:]


@pytest.mark.parametrize('kill', [None, 5])
@pytest.mark.parametrize('loop', ['training', 'search by iterations', 'search by epochs'])
def test_no_worker_outlives_its_run(tmp_path: Path, loop: str, kill: int | None) -> None:
    """They are let go while the runner still stands: the garbage collector would wait five seconds for each."""
    if loop == 'search by epochs':
        cfg = tiny.search_cfg(tmp_path, 'epoch', workers=1, custom_hooks=[])
    else:
        cfg = tiny_seg.training_cfg(tmp_path, workers=1, **(SEARCH if 'search' in loop else {}))
    workers_seen: list[int] = []
    cfg.custom_hooks = [{'type': 'StopVisualizationHook', 'at': -1 if kill is None else kill}]
    before = set(multiprocessing.active_children())

    def seen(*_: Any) -> None:
        workers_seen.append(len(set(multiprocessing.active_children()) - before))

    runner = Runner.from_cfg(cfg)
    runner.model.register_forward_hook(seen)
    with nullcontext() if kill is None else pytest.raises(tiny_seg.KilledError):
        runner.train()
    assert max(workers_seen) == (1 if loop == 'training' else 2)
    assert set(multiprocessing.active_children()) == before


def test_closed_batches_begin_anew() -> None:
    loader = Runner.build_dataloader(
        {'dataset': Counting(), 'batch_size': 2, 'num_workers': 0, 'sampler': {'type': 'DefaultSampler'}}, seed=3
    )
    batches = Batches(loader, 3, 'train')
    wanted = [next(batches) for _ in range(6)]
    batches.close()
    assert [next(batches) for _ in range(2)] == wanted[:2]
    batches.close()
    batches.seek(5)
    assert next(batches) == wanted[5]


def test_a_loaders_config_is_left_as_it_is() -> None:
    def given() -> dict[str, Any]:
        return {
            'persistent_workers': True, 'worker_init_fn': {'type': 'other'}, 'dataset': {'type': 'A'}, 'batch_size': 5,
            'sampler': {'type': 'mmengine.InfiniteSampler', 'shuffle': False},
        }  # fmt: skip

    cfg = given()
    made = reproducible(cfg)
    assert cfg == given()
    endless = {'type': EndlessSampler, 'shuffle': False, 'batch_size': 5}
    assert made == {**given(), 'persistent_workers': False, 'sampler': endless}
    # without one of their own, workers are seeded from the epoch; a batch sampler stays what it is
    plain = reproducible(Config({'batch_sampler': {'type': 'InfiniteGroupBatchSampler'}}))
    assert plain['worker_init_fn']['type'].__name__ == 'seed_worker'
    assert plain['batch_sampler'] == {'type': 'InfiniteGroupBatchSampler'}


def test_scenes_are_augmented() -> None:
    """Crops, scales and flips differ from draw to draw, or nothing above would be shown."""
    cfg = tiny_seg.training_cfg('nowhere')
    dataset = DATASETS.build({**cfg.train_dataloader.dataset, '_scope_': 'mmseg'})
    drawn = [dataset[0]['inputs'] for _ in range(4)]
    assert all(image.shape[1] <= tiny.SIZE[0] for image in drawn)
    assert not any(torch.equal(drawn[0], image) for image in drawn[1:])
