"""Transforms that are left out or exchanged, from the check of a config to the batches that its run trains on."""

import copy

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS

from mmnas_ext.datasets import make_detection
from mmnas_ext.engine.loops import Alternation
from mmnas_ext.runs import building
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.prepared import Prepared, scope_of
from mmnas_ext.runs.run import run
from tests.engine import tiny
from tests.small import read

MARK = 100.0


@TRANSFORMS.register_module()
class TinyMark:
    """Marks an image that it has seen by its target."""

    def __call__(self, item):
        return {**item, 'target': item['target'] * 0 + MARK}


@pytest.fixture
def marked(monkeypatch):
    """Whether the batches of a search's steps were marked, by what they train."""
    seen = {'weights': [], 'arch': []}
    step = Alternation._train_step

    def train_step(self, phase, iteration, batch, policy):
        seen[phase] += (batch['target'] == MARK).all(1).tolist()
        return step(self, phase, iteration, batch, policy)

    monkeypatch.setattr(Alternation, '_train_step', train_step)
    return seen


@pytest.mark.parametrize('wrapped', [False, True])
@pytest.mark.parametrize('without', ['weights', 'arch'])
def test_the_half_that_is_named_goes_without(tmp_path, marked, wrapped, without):
    leaf = {'type': 'TinyImages', 'count': 4, 'pipeline': [{'type': 'TinyMark'}, {'type': 'TinyPlain'}]}
    cfg = tiny.search_cfg(
        tmp_path, **{'train_cfg.max_epochs': 1, 'train_cfg.arch_start': 0,
                     'train_cfg.pipelines': {without: {'leave_out': ['TinyMark']}}},
    )  # fmt: skip
    cfg.train_dataloader.dataset = {'type': 'RepeatDataset', 'times': 2, 'dataset': leaf} if wrapped else leaf
    run(cfg, search_only=True, prepared=check_config(cfg, search_only=True))
    assert {half: set(found) for half, found in marked.items()} == {
        half: {half != without} for half in ('weights', 'arch')
    }


@HOOKS.register_module()
class TinySeen(Hook):
    """Notes of each epoch whether its images were marked."""

    epochs = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.epochs.append((runner.epoch, bool((data_batch['target'] == MARK).all())))


@pytest.mark.parametrize('more', [[], [{'type': 'mmnas_ext.ReseedHook'}]])
@pytest.mark.parametrize('wrap', [
    lambda leaf: leaf, lambda leaf: {'type': 'RepeatDataset', 'times': 2, 'dataset': leaf},
    lambda leaf: {'type': 'ConcatDataset', 'datasets': [leaf, {'type': 'RepeatDataset', 'times': 2, 'dataset': leaf}]},
])  # fmt: skip
def test_a_hook_exchanges_the_transforms_of_an_adaptation(tmp_path, wrap, more):
    """With MMEngine's own loop, which reads a wrapped dataset as it is, and of views that share their images."""
    TinySeen.epochs.clear()
    switch = {'type': 'mmdet.PipelineSwitchHook', 'switch_epoch': 1,
              'switch_pipeline': [{'type': 'TinyMark'}, {'type': 'TinyPlain'}]}  # fmt: skip
    cfg = tiny.search_cfg(tmp_path, **{'derived.custom_hooks': [switch, {'type': 'TinySeen'}, *more]})
    cfg.train_dataloader.dataset = wrap({'type': 'TinyImages', 'count': 4, 'pipeline': [{'type': 'TinyPlain'}]})
    arch = tiny.SPACE.arch(((0,), (0, 2), (0,))).format('fna')
    run(cfg, arch=arch, prepared=check_config(cfg, arch))
    assert set(TinySeen.epochs) == {(0, False), (1, True)}


@pytest.mark.parametrize('name', ['fna_retinanet_coco.py', 'fna_retinanet_coco_1gpu.py'])
def test_the_loader_of_our_own_configs_is_checked_and_lent(tmp_path, monkeypatch, name):
    """The check builds both halves of the real config, of a few images of its own layout."""
    make_detection(tmp_path / 'coco', train=6, val=1, size=(96, 128))
    cfg, made = read(name), []
    build = building.build_halves

    def build_halves(*arguments):
        made.extend(build(*arguments))
        return made

    monkeypatch.setattr(building, 'build_halves', build_halves)
    dataset = cfg.train_dataloader.dataset
    dataset.update(data_root=f'{tmp_path}/coco/', metainfo=dict(classes=('ring', 'frame')), filter_cfg=None)
    before = copy.deepcopy(cfg.to_dict())
    with scope_of(cfg):
        building.read_loader(cfg, 'train_dataloader', Prepared(), '')
    names = [[type(step).__name__ for step in each.loader.dataset.pipeline.transforms] for each in made]
    assert names[1] == [step.type for step in dataset.pipeline]
    assert names[0] == [kind for kind in names[1] if kind != 'RandomFlip'] and 'RandomFlip' in names[1]
    assert cfg.to_dict() == before
