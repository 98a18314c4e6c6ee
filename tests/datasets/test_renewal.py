"""Transforms that remember images: each reader has its own, and those of the dataset itself are never run."""

from typing import Any

import pytest
from mmdet.datasets import MultiImageMixDataset
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.dataset import BaseDataset, Compose, ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.runner.runner import _SlicedDataset
from mmpretrain.engine.hooks import SwitchRecipeHook
from torch.utils.data import Subset

from mmnas_ext.datasets import DatasetView, originals, renewed, split_halves


@TRANSFORMS.register_module()
class Remember:
    """An item is what this transform has seen so far, itself included, after a mark."""

    def __init__(self, mark: str = '') -> None:
        self.mark, self.seen = mark, []

    def __call__(self, info: dict[str, Any]) -> dict[str, Any]:
        self.seen.append(info['number'])
        return {'seen': (self.mark, *self.seen)}


@DATASETS.register_module()
class Numbered(BaseDataset):
    """Items that are their own number."""

    def __init__(self, count: int = 8, offset: int = 0, **kwargs: Any) -> None:
        self.count, self.offset, self.loads = count, offset, 0
        super().__init__(**{'pipeline': [{'type': 'Remember'}], **kwargs})

    def load_data_list(self) -> list[dict[str, Any]]:
        self.loads += 1
        return [{'number': self.offset + number} for number in range(self.count)]


def joined(*datasets: Numbered) -> RepeatDataset:
    """Datasets in two wrappers: from instances MMEngine builds but one."""
    made = RepeatDataset({'type': 'ConcatDataset', 'datasets': [{'type': 'Numbered'}]}, 2, lazy_init=True)
    made.dataset.datasets = list(datasets)
    return made


def seen(dataset: Any, *indices: int) -> list[tuple[Any, ...]]:
    return [dataset[index]['seen'] for index in indices]


def test_a_renewed_dataset_remembers_nothing_and_leaves_the_other_alone() -> None:
    dataset = Numbered()
    first = renewed(dataset)
    assert seen(first, 3, 4) == [('', 3), ('', 3, 4)]
    assert seen(renewed(dataset), 5) == [('', 5)]
    assert dataset.pipeline.transforms[0].seen == []
    assert (first.loads, first.data_bytes is dataset.data_bytes) == (1, True)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda dataset: RepeatDataset(dataset, 2),
        lambda dataset: ConcatDataset([dataset, Numbered()]),
        lambda dataset: joined(dataset, Numbered()),
        lambda dataset: _SlicedDataset(dataset, 4),
        lambda dataset: Subset(dataset, [0, 1, 2]),
        lambda dataset: DatasetView(dataset, range(8)),
    ],
    ids=['repeated', 'joined', 'both', 'sliced', 'subset', 'view'],
)
def test_wrappers_are_followed(wrap: Any) -> None:
    dataset = Numbered()
    wrapped = wrap(dataset)
    wrapped.full_init() if hasattr(wrapped, 'full_init') else None
    assert seen(renewed(wrapped), 0, 1) == [('', 0), ('', 0, 1)]
    assert seen(renewed(wrapped), 2) == [('', 2)]
    assert dataset.pipeline.transforms[0].seen == []
    assert originals(wrapped)[0] is dataset.pipeline


def test_a_dataset_that_mixes_images_has_all_its_transforms_renewed() -> None:
    dataset = Numbered(pipeline=[])
    mixed = MultiImageMixDataset(dataset, [{'type': 'Remember'}])
    assert seen(renewed(mixed), 3, 4) == [('', 3), ('', 3, 4)]
    assert seen(renewed(mixed), 5) == [('', 5)]


def test_transforms_set_on_a_wrapper_are_those_of_the_datasets_inside() -> None:
    """MMDetection's hook sets them there; a RepeatDataset of MMEngine's would not look at them."""
    wrapped = joined(Numbered(4), Numbered(4, offset=4))
    PipelineSwitchHook(0, [{'type': 'Remember', 'mark': 'new'}]).before_train_epoch(Runner(wrapped, 0))
    wrapped.full_init()
    assert {item[0] for item in seen(renewed(wrapped), *range(16))} == {'new'}
    assert wrapped[0]['seen'][0] == ''


def test_what_has_no_transforms_is_read_as_it_is() -> None:
    plain = [1, 2]
    assert renewed(plain) is plain
    assert originals(plain) == []


def test_a_view_runs_copies_of_its_own() -> None:
    dataset = Numbered()
    weights, arch = split_halves(dataset, 0)
    own, other = (set(view.indices.tolist()) for view in (weights, arch))
    for _ in range(2):
        for view, numbers in ((weights, own), (arch, other)):
            assert {number for item in seen(view, *range(4)) for number in item[1:]} == numbers
    assert dataset.pipeline.transforms[0].seen == []
    assert seen(weights.renewed(), 1) == [('', int(weights.indices[1]))]


class Runner:
    """What hooks ask of a runner."""

    def __init__(self, dataset: Any, epoch: int) -> None:
        self.epoch, self._resume = epoch, False
        self.train_dataloader = self.dataloader = type('Loader', (), {'dataset': dataset})()
        self.train_loop = self
        self.logger = type('Logger', (), {'info': lambda *_: None})()


SWITCHES = {
    'mmdet': lambda: PipelineSwitchHook(2, [{'type': 'Remember', 'mark': 'new'}]),
    'mmpretrain': lambda: SwitchRecipeHook(
        [{'action_epoch': 3, 'train_pipeline': [{'type': 'Remember', 'mark': 'new'}]}]
    ),
}


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('hook', SWITCHES)
def test_a_hook_that_exchanges_the_transforms_does_so_in_both_halves(hook: str, wrapped: bool) -> None:
    dataset = joined(Numbered(4), Numbered(4, offset=4)) if wrapped else Numbered()
    halves = split_halves(dataset, 0)
    switch = SWITCHES[hook]()
    switch.before_train_epoch(Runner(halves[0], 1))
    assert {item[0] for view in halves for item in seen(view, *range(len(view)))} == {''}
    switch.before_train_epoch(Runner(halves[0], 2))
    for view in halves:
        items = seen(view, *range(len(view)))
        assert {item[0] for item in items} == {'new'}
        # what the new transforms remember is of one half too
        numbers = {view.get_data_info(index)['number'] for index in range(len(view))}
        assert {number for item in items for number in item[1:]} == numbers


def test_a_view_may_run_other_transforms_until_a_hook_sets_some() -> None:
    dataset = Numbered()
    other = Compose([{'type': 'Remember', 'mark': 'arch'}])
    weights, arch = split_halves(dataset, 0, pipelines=(None, other))
    assert [view[0]['seen'][0] for view in (weights, arch)] == ['', 'arch']
    assert (weights.pipeline, arch.pipeline) == (dataset.pipeline, other)
    weights.pipeline = Compose([{'type': 'Remember', 'mark': 'new'}])
    assert [view[0]['seen'][0] for view in (weights, arch)] == ['new', 'new']
    assert other.transforms[0].seen == []


def test_a_change_inside_the_transforms_reaches_both_halves_at_their_next_pass() -> None:
    weights, arch = split_halves(Numbered(), 0)
    seen(weights, 0)
    weights.pipeline.transforms[0].mark = 'changed'
    assert [view.renewed()[0]['seen'][0] for view in (weights, arch)] == ['changed', 'changed']


def test_attributes_go_through_a_view_to_the_datasets_and_settings_back() -> None:
    dataset = ConcatDataset([Numbered(4), Numbered(4, offset=4)])
    view, other = split_halves(dataset, 0)
    view.test_mode = True
    assert [leaf.test_mode for leaf in dataset.datasets] == [True, True]
    assert (view.test_mode, other.test_mode, view.count) == (True, True, 4)
    # the datasets differ in it; it lists images of both halves; it is a method
    for name in ('offset', 'data_address', 'get_subset', 'cumulative_sizes', 'update_skip_type_keys'):
        assert not hasattr(view, name)
    with pytest.raises(AttributeError, match="ConcatDataset has no attribute 'flag': it passes on settings"):
        view.flag  # noqa: B018
    with pytest.raises(TypeError, match='pipeline must be callable, as a Compose of transforms is, got list'):
        view.pipeline = [{'type': 'Remember'}]
