import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, DefaultSampler, RepeatDataset
from mmengine.runner import Runner

from mmnas_ext.datasets import DatasetView, split_halves


class Images(BaseDataset):
    """`count` images whose item is their own number; those in `broken` are rejected by the pipeline."""

    METAINFO: ClassVar[dict] = {'classes': ('even', 'odd')}

    def __init__(self, count: int = 20, broken: tuple[int, ...] = (), offset: int = 0, **kwargs) -> None:
        self.count, self.offset, self.loads = count, offset, 0
        super().__init__(pipeline=[lambda info: None if info['number'] in broken else info], **kwargs)

    def load_data_list(self) -> list[dict]:
        self.loads += 1
        return [
            {'number': self.offset + i, 'width': 4 if i % 3 else 8, 'height': 6, 'instances': []}
            for i in range(self.count)
        ]

    def get_cat_ids(self, idx: int) -> list[int]:
        return [(self.offset + idx) % 2]


def numbers(view) -> list[int]:
    return [view.get_data_info(i)['number'] for i in range(len(view))]


@pytest.mark.parametrize('count', [2, 3, 10, 11, 501])
@pytest.mark.parametrize('seed', [0, 7, 2**32 - 1])
def test_halves_are_disjoint_and_cover_and_differ_by_at_most_one(count, seed):
    first, second = split_halves(Images(count), seed)
    assert sorted(numbers(first) + numbers(second)) == list(range(count))
    assert {len(first), len(second)} == {count // 2, count - count // 2}


@pytest.mark.parametrize(
    ('count', 'fraction', 'sizes'), [(10, 0.3, (3, 7)), (10, 0.01, (1, 9)), (10, 0.99, (9, 1)), (8, 0.75, (6, 2))]
)
def test_fraction_is_the_share_of_the_first_view(count, fraction, sizes):
    assert tuple(map(len, split_halves(Images(count), 3, fraction))) == sizes


def test_the_split_is_one_of_numpys_frozen_permutations():
    # RandomState(0).permutation(10) is the documented 2 8 4 9 1 6 7 3 0 5; a view keeps the dataset's order
    first, second = split_halves(Images(10), 0)
    assert (numbers(first), numbers(second)) == ([1, 2, 4, 8, 9], [0, 3, 5, 6, 7])


def test_split_depends_on_the_seed():
    splits = {tuple(numbers(split_halves(Images(20), seed)[0])) for seed in range(10)}
    assert len(splits) == 10


def test_global_random_states_neither_matter_nor_change():
    np.random.seed(1)
    torch.manual_seed(1)
    one = numbers(split_halves(Images(30), 5)[0])
    after = (np.random.randint(10**9), torch.randint(10**9, (1,)).item())
    np.random.seed(1)
    torch.manual_seed(1)
    assert after == (np.random.randint(10**9), torch.randint(10**9, (1,)).item())
    np.random.seed(2)
    assert numbers(split_halves(Images(30), 5)[0]) == one


RANK_SCRIPT = """
from mmengine.dataset import BaseDataset
from mmnas_ext.datasets import split_halves
class Numbers(BaseDataset):
    def load_data_list(self):
        return [{'number': i} for i in range(17)]
print(split_halves(Numbers(), 11)[0].indices.tolist())
"""


def test_every_rank_finds_the_same_split():
    # this process is the other one
    environment = os.environ | {'RANK': '1', 'LOCAL_RANK': '1', 'WORLD_SIZE': '2', 'PYTHONHASHSEED': '1'}
    environment['PYTHONPATH'] = str(Path(__file__).parents[2])
    command = [sys.executable, '-c', RANK_SCRIPT]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert output == f'{split_halves(Images(17), 11)[0].indices.tolist()}\n'


def test_annotations_are_loaded_once_even_through_a_loader_that_copies():
    dataset = Images(lazy_init=True)
    assert dataset.loads == 0
    views = split_halves(dataset, 0)
    assert dataset.loads == 1
    for view in views:
        loader = Runner.build_dataloader(loader_settings(view), seed=0)
        assert loader.dataset.dataset is dataset
        assert copy.deepcopy(view).dataset is dataset
        list(loader)
    assert dataset.loads == 1


def loader_settings(view, **changes) -> dict:
    settings = {
        'dataset': view,
        'batch_size': 3,
        'num_workers': 0,
        'sampler': {'type': 'DefaultSampler', 'shuffle': True},
        'collate_fn': {'type': 'pseudo_collate'},
    }
    return settings | changes


@pytest.mark.parametrize('workers', [0, 2])
def test_runner_loads_each_half_and_nothing_else(workers):
    views = split_halves(Images(21, broken=(3,)), 4)
    for view in views:
        loader = Runner.build_dataloader(loader_settings(view, num_workers=workers), seed=0)
        seen = [number for batch in loader for number in batch['number']]
        assert len(seen) == len(view)
        assert set(seen) == set(numbers(view)) - {3}


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_aspect_ratio_batches_hold_one_shape(sampler):
    view, _ = split_halves(Images(41), 4)
    settings = loader_settings(
        view, sampler={'type': sampler, 'shuffle': True}, batch_sampler={'type': 'mmdet.AspectRatioBatchSampler'}
    )
    loader = Runner.build_dataloader(settings, seed=0)
    assert isinstance(loader.batch_sampler, AspectRatioBatchSampler)
    batches = iter(loader)
    for _ in range(4):
        batch = next(batches)
        assert len({width > 6 for width in batch['width']}) == 1
        assert set(batch['number']) <= set(numbers(view))


def test_default_sampler_shards_a_view_between_ranks(monkeypatch):
    view, _ = split_halves(Images(20), 0)
    seen = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        seen += list(DefaultSampler(view, shuffle=True, seed=0))
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize('seed', range(5))
def test_a_rejected_image_is_replaced_from_its_own_half(seed):
    # all but two images of each half are rejected: a draw from the whole dataset would soon bring one of the other
    first, second = split_halves(Images(40), seed)
    kept = {*numbers(first)[:2], *numbers(second)[:2]}
    broken = tuple(set(range(40)) - kept)
    for view in split_halves(Images(40, broken=broken), seed):
        got = {view[i]['number'] for i in range(len(view))}
        assert got == set(numbers(view)[:2])


def test_plain_dataset_would_leak_where_the_view_does_not():
    broken = tuple(range(10))
    np.random.seed(0)
    assert all(Images(20, broken=broken)[i]['number'] >= 10 for i in range(10))
    view = DatasetView(Images(20, broken=broken), [0, 1, 2, 13])
    assert [view[i]['number'] for i in range(4)] == [13, 13, 13, 13]


def test_replacements_do_not_depend_on_the_global_state_or_on_what_was_read_before():
    view = DatasetView(Images(40, broken=tuple(range(20))), range(40), seed=9)
    np.random.seed(0)
    forward = [view[i]['number'] for i in range(40)]
    np.random.seed(1)
    backward = [view[i]['number'] for i in reversed(range(40))][::-1]
    assert forward == backward
    assert forward[20:] == list(range(20, 40))
    assert len(set(forward[:20])) > 5
    other = DatasetView(Images(40, broken=tuple(range(20))), range(40), seed=10)
    assert [other[i]['number'] for i in range(20)] != forward[:20]


def test_replacing_ends_after_max_refetch():
    view = DatasetView(Images(6, broken=tuple(range(6)), max_refetch=5), [0, 2])
    with pytest.raises(RuntimeError, match='item 1 and for 5 replacements out of the 2 items of this view'):
        view[1]


def test_nothing_stands_in_for_a_image_in_test_mode():
    view = DatasetView(Images(6, broken=(2,), test_mode=True), [0, 2])
    assert view[0]['number'] == 0
    with pytest.raises(RuntimeError, match='None for item 1'):
        view[1]


@pytest.mark.parametrize('times', [2, 5])
def test_copies_in_a_repeat_dataset_stay_together(times):
    plain = split_halves(Images(11), 6)
    halves = split_halves(RepeatDataset(Images(11), times), 6)
    for inner, repeated in zip(plain, halves, strict=True):
        assert numbers(repeated) == numbers(inner) * times
        assert [repeated[i]['number'] for i in range(len(repeated))] == numbers(inner) * times


def test_a_rejected_image_of_a_repeat_dataset_is_replaced_from_its_own_half():
    first, second = split_halves(RepeatDataset(Images(12, broken=(0, 1, 2, 3)), 3), 1)
    for view in (first, second):
        assert {view[i]['number'] for i in range(len(view))} == set(numbers(view)) - {0, 1, 2, 3}
    assert set(numbers(first)).isdisjoint(numbers(second))


def test_a_concat_dataset_is_split_as_a_whole():
    one, two = Images(5), Images(8, broken=(104,), offset=100)
    first, second = split_halves(ConcatDataset([one, two]), 2)
    assert sorted(numbers(first) + numbers(second)) == [*range(5), *range(100, 108)]
    assert {len(first), len(second)} == {6, 7}
    for view in (first, second):
        assert {view[i]['number'] for i in range(len(view))} == set(numbers(view)) - {104}
    assert (one.loads, two.loads) == (1, 1)


def test_a_dataset_that_is_concatenated_twice_counts_once():
    dataset = Images(9)
    first, second = split_halves(ConcatDataset([dataset, dataset]), 2)
    assert set(numbers(first)).isdisjoint(numbers(second))
    assert {len(first), len(second)} == {8, 10}


def test_copies_in_a_class_balanced_dataset_stay_together():
    class OneRare(Images):
        def get_cat_ids(self, idx: int) -> list[int]:
            return [int(idx == 0)]

    # class 1 is in 1 of 16 images: its repeat factor is sqrt(0.5 / (1 / 16)) = 2.83, so 3 copies
    first, second = split_halves(ClassBalancedDataset(OneRare(16), oversample_thr=0.5), 0)
    together = numbers(first) + numbers(second)
    assert sorted(together) == [0, 0, *range(16)]
    assert set(numbers(first)).isdisjoint(numbers(second))


def test_a_view_answers_as_its_dataset():
    dataset = Images(10, metainfo={'extra': 3})
    view = DatasetView(dataset, [7, 2, 4])
    assert len(view) == 3
    assert view.metainfo == {'classes': ('even', 'odd'), 'extra': 3}
    assert view.get_data_info(1) == dataset.get_data_info(2)
    assert [view[i]['number'] for i in (0, -1, -3)] == [7, 4, 7]
    assert [view.get_cat_ids(i) for i in range(3)] == [[1], [0], [0]]
    assert [item['number'] for item in view] == [7, 2, 4]
    view.full_init()
    assert dataset.loads == 1
    with pytest.raises(ValueError, match='read-only'):
        view.indices[0] = 1


@pytest.mark.parametrize('idx', [3, -4, 100])
def test_index_out_of_range(idx):
    view = DatasetView(Images(10), [7, 2, 4])
    with pytest.raises(IndexError, match=rf'-3\.\.2, got {idx}'):
        view[idx]
    with pytest.raises(IndexError, match=rf'-3\.\.2, got {idx}'):
        view.get_data_info(idx)


@pytest.mark.parametrize('fraction', [0, 1, -0.1, 1.5, float('nan'), '0.5', True])
def test_fraction_outside_is_refused(fraction):
    with pytest.raises(ValueError, match='fraction must be greater than 0 and less than 1'):
        split_halves(Images(), 0, fraction)


@pytest.mark.parametrize('seed', [-1, 2**32, 0.5, None, True])
def test_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match='seed must be an integer'):
        split_halves(Images(), seed)


@pytest.mark.parametrize(
    ('dataset', 'count'),
    [(Images(1), 1), (Images(0, serialize_data=False), 0), (RepeatDataset(Images(1), 4), 1)],
)
def test_too_few_images_are_refused(dataset, count):
    with pytest.raises(ValueError, match=f'at least 2 images, got {count}'):
        split_halves(dataset, 0)


@pytest.mark.parametrize(('indices', 'message'), [([], 'non-empty'), ([0, 10], r'0\.\.9'), ([-1], r'0\.\.9')])
def test_bad_indices_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        DatasetView(Images(10), indices)


@pytest.mark.parametrize('dataset', [list(range(10)), torch.utils.data.TensorDataset(torch.zeros(4))])
def test_datasets_that_cannot_be_followed_are_refused(dataset):
    with pytest.raises(TypeError, match=f'got {type(dataset).__name__}'):
        split_halves(dataset, 0)


def test_a_dataset_with_its_own_getitem_is_used_through_it_with_a_warning():
    class Named(Images):
        def __getitem__(self, idx: int) -> str:
            return f'image {idx}'

    with pytest.warns(UserWarning, match='Named has a __getitem__ of its own'):
        view = DatasetView(Named(5), [3, 1])
    assert list(view) == ['image 3', 'image 1']
