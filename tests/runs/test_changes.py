"""Which settings decide a result, and which changes of them a run takes over."""

import pytest
from mmengine.config import Config

from mmnas_ext.datasets.identity import data_identity, list_datasets
from mmnas_ext.runs import changes
from mmnas_ext.runs.changes import (
    Change,
    figure_changes,
    find_changes,
    find_versions,
    flatten,
    list_changes,
    settings_of,
)
from tests.engine import tiny


def compare(**change):
    """What is taken over and what refused, of a change of the tiny search's config."""
    before = settings_of(tiny.search_cfg('w'), 'train_dataloader')
    taken, refused = find_changes(before, settings_of(tiny.search_cfg('w', **change), 'train_dataloader'))
    return [change.key for change in taken], [change.key for change in refused]


@pytest.mark.parametrize(('key', 'value'), [
    ('log_level', 'INFO'),
    ('default_hooks.logger.interval', 7),
    ('default_hooks.checkpoint.interval', 3),
    ('train_dataloader.num_workers', 2),
    ('train_dataloader.persistent_workers', True),
    ('train_cfg.max_epochs', 5),
    ('train_cfg.val_interval', 2),
    ('find_unused_parameters', True),
    ('model.backbone.with_cp', True),
    ('val_dataloader.batch_size', 3),
    ('env_cfg.cudnn_benchmark', True),
])  # fmt: skip
def test_what_makes_no_other_result_is_taken_over(key, value):
    assert compare(**{key: value}) == ([key], [])


@pytest.mark.parametrize(('key', 'value'), [
    ('randomness.seed', 4),
    ('train_cfg.split_seed', 1),
    ('train_cfg.weight_fraction', 0.6),
    ('train_cfg.arch_start', 2),
    ('train_cfg.max_epochs', 3),  # what is done cannot be undone
    ('train_dataloader.batch_size', 3),
    ('train_dataloader.dataset.count', 13),
    ('model.dropout', 0.2),
    ('optim_wrapper.weights.optimizer.lr', 0.1),
    ('optim_wrapper.cost.weight', 0.2),
    ('param_scheduler.0.end', 5),
    ('load_from', 'x.pth'),
    ('auto_scale_lr.enable', True),
    ('model.backbone.some_new_argument', 1),  # what nobody knows is not harmless
])  # fmt: skip
def test_what_makes_another_result_is_refused(key, value):
    if key.startswith('param_scheduler'):
        cfg = tiny.search_cfg('w')
        cfg.param_scheduler[0]['end'] = value
        before = settings_of(tiny.search_cfg('w'))
        assert find_changes(before, settings_of(cfg)) == ([], [Change(key, 4, value)])
        return
    assert compare(**{key: value}) == ([], [key])


def test_keys_that_no_runner_reads_are_not_compared():
    assert compare(my_own_variable=3, derived=dict(x=1)) == ([], [])


@pytest.mark.parametrize(('hook', 'refused'), [
    ('mmnas_ext.ProgressHook', False), ('mmdet.DetVisualizationHook', False), ('CheckpointHook', False),
    ('mmdet.NumClassCheckHook', False), ('my.package.LaterHook', True), ('PlateauMonitorHook', True), ('EMAHook', True),
    ('mmnas_ext.ReseedHook', True), ('mmdet.PipelineSwitchHook', True), ('mmdet.MeanTeacherHook', True),
    ('mmpretrain.PreciseBNHook', True), ('SyncBuffersHook', True), ('EarlyStoppingHook', True),
])  # fmt: skip
def test_a_later_hook_is_taken_over_where_it_is_known_to_change_no_weights(hook, refused):
    cfg = tiny.search_cfg('w')
    cfg.custom_hooks = [{'type': hook}, *cfg.custom_hooks]
    found = find_changes(settings_of(tiny.search_cfg('w')), settings_of(cfg))
    keys = [change.key for change in found[refused]]
    assert keys == [f'custom_hooks.{hook.rpartition(".")[2]}.type']
    assert found[not refused] == []


def test_a_second_hook_of_a_kind_changes_weights_as_the_first_does():
    cfg = tiny.search_cfg('w')
    cfg.custom_hooks = [*cfg.custom_hooks, {'type': 'EMAHook'}]
    before = settings_of(cfg)
    cfg.custom_hooks = [*cfg.custom_hooks, {'type': 'EMAHook', 'momentum': 0.1}]
    taken, refused = find_changes(before, settings_of(cfg))
    assert (taken, {change.key for change in refused}) == (
        [], {'custom_hooks.EMAHook+.type', 'custom_hooks.EMAHook+.momentum'}
    )  # fmt: skip


def test_a_staged_distillation_is_not_prolonged():
    """Which block is trained at an iteration depends on how many there are."""
    before = {'train_cfg.max_iters': 8, 'train_cfg.staged': True}
    assert find_changes(before, {**before, 'train_cfg.max_iters': 9})[1] == [Change('train_cfg.max_iters', 8, 9)]


def test_a_trial_is_neither_prolonged_nor_validated_otherwise():
    prefix = 'random_search.trial.'
    before = {f'{prefix}train_cfg.max_epochs': 2, f'{prefix}val_dataloader.batch_size': 2, f'{prefix}log_level': 'A'}
    for key, value, refused in (
        ('train_cfg.max_epochs', 3, True), ('val_dataloader.batch_size', 3, True), ('log_level', 'B', False),
        ('train_dataloader.num_workers', 3, False),
    ):  # fmt: skip
        taken, others = find_changes(before, {**before, prefix + key: value})
        assert [change.key for change in (others if refused else taken)] == [prefix + key]
        assert len(taken) + len(others) == 1


@pytest.mark.parametrize(('loop', 'refused'), [
    ({'type': 'mmnas_ext.SearchEpochLoop', 'max_epochs': 4}, True),
    ({'type': 'mmnas_ext.SearchIterLoop', 'max_iters': 4}, True),
    ({'type': 'mmnas_ext.ResumableIterLoop', 'max_iters': 4}, True),
    ({'by_epoch': False, 'max_iters': 4}, True),
    ({'type': 'EpochBasedTrainLoop', 'max_epochs': 4}, False),
    ({'by_epoch': True, 'max_epochs': 4}, False),
])  # fmt: skip
def test_other_ranks_are_refused_where_positions_follow_from_them(monkeypatch, loop, refused):
    cfg = {'train_cfg': loop}
    before = settings_of(cfg)
    monkeypatch.setattr(changes, 'get_world_size', lambda: 4)
    found = find_changes(before, settings_of(cfg))
    assert [[(change.old, change.new) for change in each] for each in found] == [
        [] if refused else [(1, 4)], [(1, 4)] if refused else [],
    ]  # fmt: skip


def test_blocks_that_are_shared_out_may_be_shared_out_anew(monkeypatch):
    cfg = {'train_cfg': {'type': 'mmnas_ext.DistillLoop', 'max_iters': 4}, 'model': {'block_parallel': True}}
    before = settings_of(cfg)
    monkeypatch.setattr(changes, 'get_world_size', lambda: 2)
    assert find_changes(before, settings_of(cfg))[1] == []


def dataset(root, **more):
    return {'data_root': str(root), 'ann_file': 'a.json', 'data_prefix': {'img': 'images/'}, **more}


def make_data(root, names=('1.jpg', '2.jpg'), annotations='[]'):
    (root / 'images').mkdir(parents=True)
    for name in names:
        (root / 'images' / name).write_bytes(b'x')
    (root / 'a.json').write_text(annotations)
    return root


def test_data_are_the_same_wherever_they_lie(tmp_path):
    here, there = make_data(tmp_path / 'here'), make_data(tmp_path / 'there')
    assert data_identity(dataset(here)) == data_identity(dataset(there))
    configs = [{'train_dataloader': {'dataset': dataset(root)}} for root in (here, there)]
    taken, refused = find_changes(*(settings_of(cfg, 'train_dataloader') for cfg in configs))
    assert [change.key for change in taken] == ['train_dataloader.dataset.data_root']
    assert refused == []


@pytest.mark.parametrize('other', [
    {'names': ('1.jpg', '3.jpg')}, {'names': ('1.jpg',)}, {'annotations': '[1]'},
])  # fmt: skip
def test_other_images_or_annotations_are_other_data(tmp_path, other):
    before, after = make_data(tmp_path / 'here'), make_data(tmp_path / 'there', **other)
    configs = [{'train_dataloader': {'dataset': dataset(root)}} for root in (before, after)]
    _, refused = find_changes(*(settings_of(cfg, 'train_dataloader') for cfg in configs))
    assert [change.key for change in refused] == ['data.train_dataloader']


def test_datasets_inside_wrappers_are_found():
    leaves = [{'type': 'A'}, {'type': 'B'}]
    wrapped = {'type': 'RepeatDataset', 'dataset': {'type': 'ConcatDataset', 'datasets': leaves}}
    assert list(list_datasets(wrapped)) == leaves
    assert list(list_datasets(None)) == []


def test_values_are_compared_as_the_manifest_has_them():
    assert flatten({'a': (1, 2), 'b': {'c': dict, 'd': [{'e': None}]}}, 'x') == {
        'x.a': [1, 2], 'x.b.c': 'builtins.dict', 'x.b.d.0.e': None,
    }  # fmt: skip
    assert find_changes({'size': [1, 2]}, {'size': (1, 2)}) == ([], [])
    assert settings_of(Config({'randomness': {}}))['randomness.seed'] == 0  # what a run without one takes


def test_many_changes_are_named_in_short():
    text = list_changes(Change(f'key{n}', None, 'x' * 500) for n in range(6))
    assert text.startswith("key0 None -> 'xxx")
    assert text.endswith(' and 3 more')
    assert len(text) < 150
    assert list_changes([Change('a', 1, 2)]) == 'a 1 -> 2'


def test_versions_are_known():
    assert {'torch', 'mmengine', 'mmcv', 'mmdet'} <= set(find_versions())


OLD = {'model.x': 1, 'val_dataloader.batch_size': 4, 'val_dataloader.dataset.data_root': 'a', 'val_data': 'digest'}


@pytest.mark.parametrize(('change', 'changed'), [
    ({'val_data': 'other'}, ['val_data']), ({'val_dataloader.dataset.data_root': 'b'}, []),
    ({'val_dataloader.batch_size': 3}, []), ({'val_dataloader.num_workers': 2}, []),
    ({'val_dataloader.drop_last': True, 'val_dataloader.batch_size': 3},
     ['val_dataloader.batch_size', 'val_dataloader.drop_last']),
    ({'val_dataloader.num_batch_per_epoch': 1}, ['val_dataloader.num_batch_per_epoch']),
    ({'val_dataloader.sampler.type': 'X'}, ['val_dataloader.sampler.type']), ({'val_cfg.fp16': True}, ['val_cfg.fp16']),
    ({'val_evaluator.metric': 'm'}, ['val_evaluator.metric']), ({'log_level': 'ERROR'}, []),
    ({'model.x': 2}, ['model.x']), ({'train_cfg.max_epochs': 3}, ['train_cfg.max_epochs']),
    ({'test_dataloader.dataset.x': 1, 'train_cfg.val_interval': 2}, []),
])  # fmt: skip
def test_what_makes_another_figure_of_a_training(change, changed):
    found = figure_changes(OLD, {**OLD, **change})
    assert [each.key for each in found] == changed


def test_a_training_of_before_its_validation_data_were_noted_is_held_against_what_it_says():
    old = {key: value for key, value in OLD.items() if key != 'val_data'}
    assert figure_changes(old, OLD) == []
    moved = figure_changes(old, {**OLD, 'val_dataloader.dataset.data_root': 'b'})
    assert [each.key for each in moved] == ['val_dataloader.dataset.data_root']
