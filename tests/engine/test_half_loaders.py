"""What each half of a search reads: its own images through its own transforms, whatever remembers or switches them."""

import copy
from collections import Counter
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.engine.hooks import PipelineSwitchHook
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.runner.priority import get_priority
from torch.utils.data import DataLoader

from mmnas_ext.datasets import DataError, UnlabelledImages
from mmnas_ext.engine import ReseedHook
from mmnas_ext.engine.batches import Batches, EndlessSampler, build_halves, reproducible, whole_batches
from tests.engine import tiny, tiny_seg
from tests.engine.kept import differences, last_checkpoint, train

MOSAIC = {'type': 'mmdet.CachedMosaic', 'img_scale': (8, 8), 'max_cached_images': 8, 'pad_val': 0}


@DATASETS.register_module()
class Shades(BaseDataset):
    """Images of one shade, 1 to 60, with a box; the first third is upright."""

    METAINFO = {'classes': ('a', 'b')}

    def __init__(self, count: int = 60, **kwargs: Any) -> None:
        self.count = count
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [
            {'number': number, 'width': 8, 'height': 12 if number <= self.count // 3 else 8}
            for number in range(1, self.count + 1)
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        return [int(self.get_data_info(idx)['number'] > 50)]


@TRANSFORMS.register_module()
class Paint:
    """Draws the image."""

    def __call__(self, info: dict[str, Any]) -> dict[str, Any]:
        return {
            'img': np.full((8, 8, 3), info['number'], np.uint8),
            'img_shape': (8, 8),
            'gt_bboxes': HorizontalBoxes(torch.tensor([[1.0, 1.0, 7.0, 7.0]])),
            'gt_bboxes_labels': np.zeros(1, np.int64),
            'gt_ignore_flags': np.zeros(1, bool),
            'number': info['number'],
        }


@TRANSFORMS.register_module()
class Marked:
    """Ends a pipeline with its mark and what was drawn."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __call__(self, item: dict[str, Any]) -> tuple[Any, ...]:
        return self.mark, item['number'], item['img'].tobytes()


def config(workers: int = 0, pipeline: Any = None, **changes: Any) -> dict[str, Any]:
    pipeline = [{'type': 'Paint'}, MOSAIC, {'type': 'Marked', 'mark': 'own'}] if pipeline is None else pipeline
    return {
        'batch_size': 4, 'num_workers': workers, 'sampler': {'type': 'DefaultSampler', 'shuffle': True},
        'dataset': {'type': 'Shades', 'pipeline': pipeline}, 'collate_fn': {'type': list}, **changes,
    }  # fmt: skip


PLAIN = [{'type': 'Paint'}, {'type': 'Marked', 'mark': ''}]
RUNNER: Any = SimpleNamespace(seed=3, build_dataloader=Runner.build_dataloader)


def halves(cfg: dict[str, Any], pipelines: Any = None) -> tuple[Batches, Batches]:
    return build_halves(RUNNER, cfg, 0.5, 0, pipelines)


def shades(batches: list[Any]) -> set[int]:
    """Which images are in batches, mixed or not; 0 is what a mosaic leaves empty."""
    return {shade for batch in batches for _, _, image in batch for shade in image} - {0}


def numbers(batches: Batches) -> set[int]:
    view: Any = batches.loader.dataset
    return {view.get_data_info(index)['number'] for index in range(len(view))}


@pytest.mark.parametrize('workers', [0, 2])
def test_a_mosaic_mixes_images_of_its_own_half_alone(workers: int) -> None:
    weights, arch = halves(config(workers))
    read: tuple[list[Any], list[Any]] = ([], [])
    for _ in range(16):  # in turns, as a search reads them; an epoch has eight batches
        for batches, found in zip((weights, arch), read, strict=True):
            found.append(next(batches))
    assert shades(read[0]) <= numbers(weights)
    assert shades(read[1]) <= numbers(arch)
    # several images in one, or the mosaic would not have worked
    assert sum(len(set(image) - {0}) > 1 for batch in read[0] for _, _, image in batch) > 10
    weights.close()
    arch.close()


@pytest.mark.parametrize('workers', [0, 2])
def test_what_a_mosaic_remembers_is_the_same_in_a_resumed_run(workers: int) -> None:
    wanted: dict[str, list[Any]] = {}
    whole = halves(config(workers))
    for name, batches in zip(('weights', 'arch'), whole, strict=True):
        for first in (0, 5, 10):  # epochs of the weights begin here, those of either loader after 8
            batches.start(first)
            wanted.setdefault(name, []).extend(next(batches) for _ in range(5))
        batches.close()
    for position in (3, 9, 11) if workers == 0 else (9,):
        for name, batches in zip(('weights', 'arch'), halves(config(workers)), strict=True):
            batches.start(position // 5 * 5)
            batches.seek(position)
            after = [next(batches) for _ in range(5 - position % 5)]
            batches.close()
            assert after == wanted[name][position : position // 5 * 5 + 5]


def test_an_epoch_begun_in_its_middle_reads_the_rest_of_it_alone() -> None:
    cfg = config(pipeline=PLAIN)
    batches, _ = halves(cfg)
    wanted = [[number for _, number, _ in next(batches)] for _ in range(8)]
    view: Any = batches.loader.dataset
    batches.start(6)
    prepared = []
    view._leaves[0].get_data_info = lambda index: prepared.append(index) or Shades.get_data_info(view._leaves[0], index)
    assert [number for _, number, _ in next(batches)] == wanted[6]
    assert len(prepared) == 4


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_half_may_have_transforms_of_its_own(wrapped: bool) -> None:
    own = [{'type': 'Paint'}, {'type': 'Marked', 'mark': 'dataset'}]
    cfg = config(pipeline=own)
    if wrapped:
        cfg['dataset'] = {'type': 'RepeatDataset', 'times': 2, 'dataset': {
            'type': 'ConcatDataset', 'datasets': [cfg['dataset'], copy.deepcopy(cfg['dataset'])]}}  # fmt: skip
    for pipelines, wanted in (
        (None, ('dataset', 'dataset')),
        ({'weights': [{'type': 'Paint'}, {'type': 'Marked', 'mark': 'w'}]}, ('w', 'dataset')),
        ({'arch': [{'type': 'Paint'}, {'type': 'Marked', 'mark': 'a'}]}, ('dataset', 'a')),
        ({'weights': [Paint(), Marked('w')], 'arch': [Paint(), Marked('a')]}, ('w', 'a')),
    ):
        marks = [{mark for _ in range(6) for mark, _, _ in next(batches)} for batches in halves(cfg, pipelines)]
        assert marks == [{each} for each in wanted]


@pytest.mark.parametrize(
    ('pipelines', 'error', 'message'),
    [
        ([], TypeError, r'train_cfg.pipelines must be dict\(weights=\[…\], arch=\[…\]\), got list'),
        ({}, ValueError, r"must have one or both of \('weights', 'arch'\), got \[\]"),
        ({'weight': []}, ValueError, r"must have one or both of \('weights', 'arch'\), got \['weight'\]"),
        ({'arch': {'type': 'Paint'}}, TypeError, 'train_cfg.pipelines.arch must be a list of transforms, got dict'),
        ({'arch': ['Paint']}, TypeError, r'train_cfg.pipelines.arch must be transforms, dict\(type=…, …\), got Paint'),
        ({'weights': [{'type': 'Pain'}]}, ValueError, 'train_cfg.pipelines.weights cannot be built: .*Pain'),
        ({'weights': [{'type': 'Marked'}]}, ValueError, 'train_cfg.pipelines.weights cannot be built: .*mark'),
    ],
)
def test_wrong_transforms_of_a_half_are_refused(pipelines: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        halves(config(), pipelines)


def test_an_endless_sampler_has_whole_batches_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, batch, world in ((10, 4, 1), (3, 8, 1), (10, 3, 2), (7, 7, 2)):
        ranks = []
        for rank in range(world):
            monkeypatch.setattr('mmnas_ext.engine.batches.get_dist_info', lambda r=rank, w=world: (r, w))
            sampler = EndlessSampler(range(size), batch, seed=5)
            assert len(sampler) % batch == 0
            assert len(sampler) * world >= size > (len(sampler) - batch) * world
            stream = []
            for epoch in range(6):
                sampler.set_epoch(epoch)
                found = list(sampler)
                assert len(found) == len(sampler)
                stream += found
            ranks.append(stream)
        joined = [index for together in zip(*ranks, strict=True) for index in together]
        passes = [joined[first : first + size] for first in range(0, len(joined) - size + 1, size)]
        assert all(sorted(each) == list(range(size)) for each in passes)
        assert len({tuple(each) for each in passes}) > 1
    monkeypatch.undo()
    assert list(EndlessSampler(range(3), 2, shuffle=False)) == [0, 1, 2, 0]


class Shaped(list[int]):
    """Numbers of images of which some are wide."""

    def __init__(self, size: int, wide: int) -> None:
        super().__init__(range(size))
        self.wide = wide

    def get_data_info(self, index: int) -> dict[str, int]:
        return {'width': 1 + (index < self.wide), 'height': 1 + (index >= self.wide)}


@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize(('size', 'wide', 'batch'), [(8, 5, 4), (16, 9, 4), (32, 17, 16), (12, 6, 4), (9, 9, 4)])
def test_batches_of_one_shape_repeat_no_image_in_a_pass(size: int, wide: int, batch: int, shuffle: bool) -> None:
    sampler = EndlessSampler(Shaped(size, wide), batch, shuffle)
    loader = DataLoader(sampler.dataset, batch_sampler=AspectRatioBatchSampler(sampler, batch, drop_last=True))
    batches = Batches(loader, 0, 'selection')
    read = [number for _ in range(whole_batches(loader)) for number in next(batches).tolist()]
    assert len(set(read)) == len(read) >= batch
    plain = DataLoader(sampler.dataset, batch, sampler=sampler)
    assert whole_batches(plain) == size // batch


@pytest.mark.parametrize('batch', [7, 40])
def test_an_endless_sampler_gives_no_short_batch_in_either_half(batch: int) -> None:
    """A stock segmentation loader; the last batch of 30 images would have two, and 40 are more than there are."""
    cfg = config(pipeline=PLAIN, batch_size=batch, sampler={'type': 'InfiniteSampler', 'shuffle': True})
    for batches in halves(cfg):
        read = [next(batches) for _ in range(10)]
        assert {len(each) for each in read} == {batch}
        counted = Counter(number for each in read for _, number, _ in each)
        assert counted.keys() == numbers(batches)
        assert max(counted.values()) - min(counted.values()) <= 1
        batches.seek(6)
        assert next(batches) == read[6]


def test_batches_of_one_shape_are_as_many_as_counted_and_found_again() -> None:
    """MMDetection's sampler gives fewer than it counts, and keeps what is left of an epoch that was broken off."""
    for kind in ('DefaultSampler', 'InfiniteSampler'):
        cfg = config(
            pipeline=PLAIN, batch_sampler={'type': 'mmdet.AspectRatioBatchSampler', 'drop_last': True},
            sampler={'type': kind, 'shuffle': True},
        )  # fmt: skip
        for batches in halves(cfg):
            count = len(batches.loader)
            read = [[number for _, number, _ in next(batches)] for _ in range(4 * count)]
            assert {len(each) for each in read} == {4}
            epochs = [read[first : first + count] for first in range(0, 4 * count, count)]
            assert len({str(epoch) for epoch in epochs}) == 4
            for position in (1, count + 3, 3 * count - 1):
                batches.seek(position)
                assert [number for _, number, _ in next(batches)] == read[position]


def test_a_sampler_that_balances_classes_draws_from_its_half() -> None:
    cfg = config(pipeline=PLAIN, sampler={'type': 'mmdet.ClassAwareSampler'})
    for batches in halves(cfg):
        read = [number for _ in range(8) for _, number, _ in next(batches)]
        assert set(read) <= numbers(batches)
        assert abs(sum(number > 50 for number in read) - 16) <= 2  # half of the draws are of the rare class


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'sampler': {'type': 'mmdet.MultiSourceSampler', 'batch_size': 4, 'source_ratio': [1, 1]}},
         'cannot be built for a half of the images .sampler mmdet.MultiSourceSampler.: The dataset must be Concat'),
        ({'sampler': {'type': 'mmdet.CustomSampleSizeSampler', 'dataset_size': [-1]}},
         "cannot be built for a half of the images .*has no attribute 'datasets'"),
        ({'sampler': {'type': 'mmdet.TrackImgSampler'}}, 'cannot be built for a half of the images'),
        ({'sampler': {'type': torch.utils.data.RandomSampler}}, r'half of the images \(sampler RandomSampler\): '),
        ({'batch_size': 31, 'drop_last': True},
         'batch_size is larger than the weights half of its dataset, which has 30 images for 1 processes'),
        ({'num_batch_per_epoch': 8}, 'num_batch_per_epoch needs 32 images, but the weights half has 30'),
    ],
)  # fmt: skip
def test_a_loader_that_cannot_be_halved_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        halves(config(**changes))


def test_a_sampler_without_epochs_is_refused() -> None:
    def build(cfg: dict[str, Any], seed: int) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(cfg['dataset'])

    runner = SimpleNamespace(seed=0, build_dataloader=build)
    with pytest.raises(ValueError, match='sampler of a search must draw by epochs, .* got DefaultSampler'):
        build_halves(runner, config(), 0.5, 0)


def test_an_epoch_may_be_cut_to_some_batches() -> None:
    cfg = config(pipeline=PLAIN, num_batch_per_epoch=2)
    weights, arch = halves(cfg)
    assert (len(weights.loader), len(arch.loader), len(numbers(weights)), len(numbers(arch))) == (2, 2, 8, 8)
    assert {number for _ in range(4) for _, number, _ in next(weights)} == numbers(weights)
    assert weights.loader.dataset.pipeline is arch.loader.dataset.pipeline


@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_that_cannot_be_read_ends_a_distillation_in_a_sentence(tmp_path: Any, workers: int) -> None:
    for number in range(2):
        cv2.imwrite(str(tmp_path / f'{number}.png'), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / '1.png').write_bytes(b'')
    dataset = UnlabelledImages(str(tmp_path), pipeline=[{'type': 'LoadImageFromFile'}])
    cfg = {'dataset': dataset, 'batch_size': 2, 'num_workers': workers, 'sampler': {'type': 'DefaultSampler'}}
    batches = Batches(Runner.build_dataloader(reproducible(cfg), seed=0), 0, 'train')
    with pytest.raises(DataError, match=r'^the image \S+/1\.png is empty \(0 bytes\)$'):
        next(batches)


@TRANSFORMS.register_module()
class Neighbour:
    """Adds the images before to an image, each half as much as the one after it, and shifts it."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift, self.last = shift, None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        image = torch.from_numpy(item['image'].copy())
        mixed = image if self.last is None else image + 0.5 * self.last
        self.last = mixed
        return {'inputs': mixed + self.shift, 'target': torch.from_numpy(item['target'])}


SWITCH = {
    'type': 'mmdet.PipelineSwitchHook',
    'switch_epoch': 2,
    'switch_pipeline': [{'type': 'Neighbour', 'shift': 9.0}],
}


def switched(work_dir: Any, workers: int, kill: int | None = None) -> Config:
    """Four epochs of three iterations, the transforms exchanged after two; checkpoints every two iterations."""
    changes = {'train_dataloader.dataset.pipeline': [{'type': 'Neighbour'}]}
    cfg = tiny.search_cfg(work_dir, workers=workers, **changes)
    cfg.default_hooks.checkpoint = {'type': 'CheckpointHook', 'interval': 2, 'by_epoch': False}
    cfg.train_cfg.update(arch_interval=2, weight_fraction=0.45)  # so that the halves' epochs fall apart
    cfg.custom_hooks = [SWITCH, *([] if kill is None else [{'type': 'StopVisualizationHook', 'at': kill}])]
    cfg.experiment_name = f'{work_dir} {kill}'
    return cfg


@pytest.mark.parametrize('workers', [0, 1])
def test_a_switch_takes_effect_in_both_halves_and_after_a_resume(tmp_path: Any, workers: int) -> None:
    runner = Runner.from_cfg(switched(tmp_path / 'whole', workers))
    shifts: dict[str, list[bool]] = {'weights': [], 'arch': []}
    runner.model.register_forward_pre_hook(
        lambda _m, args, kwargs: shifts[runner.optim_wrapper.phase].append(bool(kwargs['inputs'].mean() > 4)),
        with_kwargs=True,
    )
    runner.train()
    assert shifts == {'weights': [False] * 6 + [True] * 6, 'arch': [False] * 2 + [True] * 3}
    for kill in (5, 9, None):
        cfg = switched(tmp_path / 'killed', workers, kill)
        if kill is None:
            train(cfg, resume=True)
        else:
            with pytest.raises(tiny_seg.KilledError):
                train(cfg, resume=True)
    (name, kept), (wanted_name, wanted) = (last_checkpoint(tmp_path / run) for run in ('killed', 'whole'))
    assert name == wanted_name == 'iter_12.pth'
    assert differences(kept, wanted) == []


def test_transforms_that_are_set_inside_an_epoch_are_read_from_the_next_batch_on() -> None:
    for batches, other in zip(halves(config(pipeline=PLAIN)), reversed(halves(config(pipeline=PLAIN))), strict=True):
        wanted = [[number for _, number, _ in next(batches)] for _ in range(8)]
        batches.seek(3)
        batches.loader.dataset.pipeline = lambda info: ('new', info['number'], b'')
        read = [next(batches) for _ in range(5)]
        assert {mark for batch in read for mark, _, _ in batch} == {'new'}
        assert [[number for _, number, _ in batch] for batch in read] == wanted[3:]
        assert next(other)[0][0] == ''


RECIPE = {'type': 'mmpretrain.SwitchRecipeHook', 'schedule': [{'action_epoch': 3, 'train_pipeline': []}]}
YOLOX = {'type': 'mmdet.YOLOXModeSwitchHook'}


@pytest.mark.parametrize(
    ('loop', 'hook', 'message'),
    [
        ('iter', SWITCH, 'custom_hooks has PipelineSwitchHook, which counts epochs, but train_cfg counts iterations'),
        ('iter', RECIPE, 'custom_hooks has SwitchRecipeHook, which counts epochs'),
        ('epoch', YOLOX, 'custom_hooks has YOLOXModeSwitchHook, which needs a MultiImageMixDataset, whose images mix'),
        ('iter', YOLOX, 'custom_hooks has YOLOXModeSwitchHook, which counts epochs'),
    ],
)
def test_a_switch_that_cannot_work_is_refused_before_the_run(
    tmp_path: Any, loop: str, hook: dict[str, Any], message: str
) -> None:
    cfg = tiny.search_cfg(tmp_path, loop, custom_hooks=[hook])
    with pytest.raises(ValueError, match=message):
        Runner.from_cfg(cfg).train()


def test_a_switch_after_the_end_is_warned_of(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner.from_cfg(tiny.search_cfg(tmp_path, custom_hooks=[{**SWITCH, 'switch_epoch': 4}]))
    said: list[str] = []
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    runner.build_train_loop(runner.cfg.train_cfg)
    assert said == ['PipelineSwitchHook switches in epoch 4, but there are 4, from 0: it never will']


@pytest.mark.parametrize('persistent', [False, True])
def test_ordinary_epochs_have_transforms_that_remember_nothing(persistent: bool) -> None:
    def epochs(first: int) -> list[Any]:
        """Reads two epochs as MMEngine's loop does, from `first` on."""
        cfg = config(int(persistent), persistent_workers=persistent)
        loop = object.__new__(EpochBasedTrainLoop)
        loop.dataloader = loader = Runner.build_dataloader(cfg, seed=1)
        dataset, original = loader.dataset, loader.dataset.pipeline
        hook, found = ReseedHook(), []
        for epoch in (first, first + 1):
            runner = SimpleNamespace(seed=1, epoch=epoch, train_loop=loop)
            loader.sampler.set_epoch(epoch)
            hook.before_train_epoch(runner)
            found.append([])
            for number, batch in enumerate(loader):
                hook.before_train_iter(runner, number)
                assert loader.dataset is dataset
                found[-1].append(batch)
        assert original.transforms[1].results_cache == []
        return found

    whole = epochs(0)
    assert epochs(1)[0] == whole[1]
    assert whole[0] != whole[1]
    # whatever exchanges transforms at an epoch's start has done so before
    assert get_priority(ReseedHook.priority) > get_priority(PipelineSwitchHook.priority)
