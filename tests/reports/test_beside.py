"""Which other trainings belong to a run: by what was trained there and how, not by where it lies."""

import json
import os

import pytest

from mmnas_ext.reports.beside import front_folder, reference, same_recipe, seed_folder
from mmnas_ext.reports.facts import read_facts
from mmnas_ext.reports.result import read_result
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from mmnas_ext.workdir import WorkDir
from tests.reports import kinds
from tests.reports.kinds import FOUND, METRIC, SEED, SMALL, SPACE, count

RECIPE = {
    'data.train_dataloader': 'a1', 'train_cfg.max_epochs': 3, 'optim_wrapper.optimizer.lr': 0.1,
    'param_scheduler.0.end': 3, 'train_dataloader.batch_size': 8, 'val_evaluator.type': 'CocoMetric',
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / 'runs' / 'search'
    root.mkdir(parents=True)
    kinds.finished(root)
    return root


def note(folder, part, **content):
    """Writes a part into ``run.json``."""
    file = folder / 'run.json'
    known = json.loads(file.read_text()) if file.is_file() else {'parts': {}}
    known['parts'].setdefault(part, {}).update(content)
    file.write_text(json.dumps(known))


def test_a_number_of_the_front_that_stands_for_another_network_by_now_has_no_training(folder):
    files, facts = WorkDir(folder), read_facts(folder)
    (small,) = [each for each in MeasuredFront.parse(folder).points if each.arch == SMALL]
    assert front_folder(files, 0, small) == folder / 'front' / '0'
    assert front_folder(files, 1, small) is None
    trained = {row.title: row.trained for row in read_result(files, facts, FOUND).networks}
    assert trained['front, K = 0'] == {METRIC: 0.24, f'{METRIC}_50': 0.44, f'{METRIC}_s': -1.0}
    # chosen by another limit: a network has the number that was never trained
    other = SPACE.arch(((0,), (2, 2), (2,)))
    rows = [(other, 'front', 0.21), (FOUND, 'chosen', 0.25), (SEED, 'seed', 0.27)]
    networks = [MeasuredNetwork(arch, count(arch), {METRIC: value}, None, origin) for arch, origin, value in rows]
    MeasuredFront('macs', METRIC, 'greater', tuple(networks), {}).write(folder)
    number = next(k for k in range(2) if MeasuredFront.parse(folder).pick(k).arch == other)
    (folder / 'front' / '0').rename(folder / 'front' / 'kept')
    (folder / 'front' / 'kept').rename(folder / 'front' / str(number))
    (row,) = [row for row in read_result(files, facts, FOUND).networks if row.kind == 'front']
    assert (row.arch, row.number, row.trained) == (other, number, {})


def test_what_began_with_weights_that_the_search_has_replaced_since_is_none_of_the_front(folder):
    files = WorkDir(folder)
    (small,) = [each for each in MeasuredFront.parse(folder).points if each.arch == SMALL]
    note(folder, 'search', id='s', settings={'train_cfg.max_iters': 5})
    note(folder / 'front' / '0', 'derive', notes={'follows': 's/5'})
    assert front_folder(files, 0, small) == folder / 'front' / '0'
    note(folder, 'search', settings={'train_cfg.max_iters': 6})
    assert front_folder(files, 0, small) is None


def test_which_data_validate_counts_where_both_say_it(folder):
    seed = folder / 'seed'
    for mine, theirs, same in (('a', 'a', True), ('a', 'b', False), (None, 'b', True)):
        for place, data in ((folder, mine), (seed, theirs)):
            note(place, 'adapt', settings=RECIPE if data is None else {**RECIPE, 'val_data': data})
        assert same_recipe(folder, seed) == same


def test_without_a_training_of_its_own_the_newest_of_the_front_counts(folder):
    """As after --search-only and --adapt-all."""
    small, large, seed = folder / 'front' / '0', folder / 'front' / '1', folder / 'seed'
    content = json.loads((folder / 'run.json').read_text())
    del content['parts']['adapt']
    (folder / 'run.json').write_text(json.dumps(content))
    assert reference(WorkDir(folder)) == folder
    for place, epochs in ((seed, 50), (small, 12)):
        note(place, 'adapt', settings={**RECIPE, 'train_cfg.max_epochs': epochs})
    assert reference(WorkDir(folder)) == small
    assert seed_folder(WorkDir(folder), read_facts(folder)) is None
    large.mkdir()
    note(large, 'adapt', settings={**RECIPE, 'train_cfg.max_epochs': 50})
    os.utime(small / 'run.json', (1, 1))
    assert reference(WorkDir(folder)) == large
    assert seed_folder(WorkDir(folder), read_facts(folder)) == seed
    (row,) = [row for row in read_result(WorkDir(folder), read_facts(folder), FOUND).networks if row.kind == 'front']
    assert row.title == 'front, K = 0, another recipe'


@pytest.mark.parametrize(('host', 'same'), [('width=32', True), (None, False)])
def test_images_of_the_size_of_another_host_are_no_other_recipe(folder, host, same):
    small, key = folder / 'front' / '0', 'train_dataloader.dataset.pipeline.2.scale'
    note(folder, 'adapt', settings={**RECIPE, key: [320, 320]})
    note(small, 'adapt', settings={**RECIPE, key: [256, 256]})
    note(small, 'derive', notes={'host': host})
    assert same_recipe(folder, small) == same
    note(small, 'adapt', settings={**RECIPE, key: [256, 256], 'custom_hooks.SeedImitationHook.weight': 1.0})
    assert not same_recipe(folder, small)


def test_a_network_of_the_front_that_was_trained_otherwise_says_so(folder):
    small = folder / 'front' / '0'
    for lr, title in ((0.1, 'front, K = 0'), (0.2, 'front, K = 0, another recipe')):
        note(folder, 'adapt', settings=RECIPE)
        note(small, 'adapt', settings={**RECIPE, 'optim_wrapper.optimizer.lr': lr})
        (row,) = [
            row for row in read_result(WorkDir(folder), read_facts(folder), FOUND).networks if row.kind == 'front'
        ]
        assert row.title == title and row.trained


def test_a_network_that_was_trained_in_another_host_is_another(folder):
    files = WorkDir(folder)
    small = MeasuredNetwork(SMALL, count(SMALL), {}, None, 'front')
    note(folder / 'front' / '0', 'derive', notes={'host': 'width=64'})
    assert front_folder(files, 0, small) is None
    hosted = MeasuredNetwork(SMALL, count(SMALL), {}, None, 'front', 'width=64')
    assert front_folder(files, 0, hosted) == folder / 'front' / '0'


@pytest.mark.parametrize(('key', 'value', 'same'), [
    ('data.train_dataloader', 'b2', False), ('train_cfg.max_epochs', 4, False), ('val_evaluator.type', 'Other', False),
    ('optim_wrapper.optimizer.lr', 0.2, False), ('param_scheduler.0.end', 4, False),
    ('auto_scale_lr.enable', True, False), ('load_from', 'a.pth', False),
    ('custom_hooks.SeedImitationHook.weight', 1.0, False),
    ('custom_hooks.MineHook.type', 'MineHook', False), ('custom_hooks.DetVisualizationHook.draw', True, True),
    ('model.backbone.arch', 'another', True), ('randomness.seed', 5, True), ('train_dataloader.num_workers', 4, True),
    ('train_dataloader.dataset.data_root', '/elsewhere', True), ('log_level', 'ERROR', True),
])  # fmt: skip
def test_the_seed_beside_a_run_is_its_own_where_the_recipe_is_the_same(folder, key, value, same):
    seed = folder / 'seed'
    assert seed_folder(WorkDir(folder), read_facts(folder)) == seed  # nothing says otherwise
    note(folder, 'adapt', settings={**RECIPE, 'model.backbone.arch': 'one'})
    note(seed, 'adapt', settings={**RECIPE, 'model.backbone.arch': 'one', key: value})
    assert same_recipe(folder, seed) == same
    assert seed_folder(WorkDir(folder), read_facts(folder)) == (seed if same else None)
    trained = [row.trained for row in read_result(WorkDir(folder), read_facts(folder), FOUND).networks]
    assert bool(trained[0]) == same
