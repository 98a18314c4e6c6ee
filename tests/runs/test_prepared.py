"""What a check builds is what the run uses: nothing is indexed or built twice, and the bits stay the same."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.prepared import Prepared, random_states_kept
from mmnas_ext.runs.run import run
from tests.engine import tiny, tiny_trials
from tests.engine.kept import differences, last_checkpoint
from tests.runs.test_asked_is_done import config


@pytest.fixture
def counted(monkeypatch):
    """How often images were indexed and models built."""
    counts = {'indexed': 0, 'built': 0}
    index, build = tiny.TinyImages.load_data_list, tiny.TinyModel.__init__

    def load_data_list(self):
        counts['indexed'] += 1
        return index(self)

    def init(self, *args, **kwargs):
        counts['built'] += 1
        build(self, *args, **kwargs)

    monkeypatch.setattr(tiny.TinyImages, 'load_data_list', load_data_list)
    monkeypatch.setattr(tiny.TinyModel, '__init__', init)
    return counts


def test_a_checked_search_indexes_and_builds_once_and_ends_in_the_same_bits(tmp_path, counted):
    other_pipeline = {'derived.train_dataloader.dataset.pipeline': [{'type': 'TinyPlain'}]}
    checked, unchecked = (config(tmp_path / name, **other_pipeline) for name in ('a', 'b'))
    run(checked, prepared=check_config(checked))
    # of the second half a network of the space is built for the check: which one is found is not known by then
    assert counted == {'indexed': 1, 'built': 3}
    counted.update(indexed=0, built=0)
    run(unchecked)
    assert counted == {'indexed': 2, 'built': 2}
    for folder in ('', 'adapt'):
        (name, ours), (_, theirs) = (last_checkpoint(tmp_path / run / folder) for run in 'ab')
        assert name == 'epoch_2.pth'
        assert differences(ours, theirs) == []


def test_trials_of_a_random_search_share_their_images(tmp_path, counted):
    cfg = tiny_trials.random_cfg(tmp_path, **{'random_search.count': 2, 'random_search.trial.train_cfg.max_epochs': 1})
    run(cfg, search_only=True, prepared=check_config(cfg, search_only=True))
    # training and validation images; the first trial has the model of the check
    assert counted == {'indexed': 2, 'built': 2}


def images(pipeline='TinyFlip', **changes):
    return Config({'set': {'type': 'TinyImages', 'count': 5, 'pipeline': [{'type': pipeline}], **changes}}).set


def test_readers_of_one_dataset_share_annotations_and_no_pipeline(counted):
    prepared = Prepared()
    first, second, plain = (prepared.dataset(cfg) for cfg in (images(), images(), images('TinyPlain')))
    assert counted['indexed'] == 1
    assert first.data_bytes is second.data_bytes is plain.data_bytes
    first.pipeline.transforms.clear()
    assert len(second.pipeline.transforms) == 1
    fresh = DATASETS.build(images('TinyPlain'))
    assert all(torch.equal(plain[i]['inputs'], fresh[i]['inputs']) for i in range(5))
    # other items are another dataset
    assert len(prepared.dataset(images(indices=2))) == 2
    assert counted['indexed'] == 3


@pytest.mark.parametrize('wrapper', [
    lambda cfg: {'type': 'RepeatDataset', 'times': 2, 'dataset': cfg},
    lambda cfg: {'type': 'ConcatDataset', 'datasets': [cfg, cfg]},
])  # fmt: skip
def test_inside_wrappers_too(counted, wrapper):
    prepared, cfg = Prepared(), Config({'set': wrapper(images())}).set
    views = [prepared.dataset(cfg) for _ in range(2)]
    leaves = [getattr(view, 'dataset', None) or view.datasets[1] for view in views]
    assert leaves[0].data_bytes is leaves[1].data_bytes
    assert leaves[0].pipeline is not leaves[1].pipeline
    assert [len(view) for view in views] == [10, 10]


def test_a_check_leaves_random_states_alone(tmp_path):
    before = torch.get_rng_state()
    check_config(tiny.search_cfg(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)
    with random_states_kept():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
