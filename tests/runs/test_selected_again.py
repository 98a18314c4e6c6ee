"""Choosing from a super-network once more: only losses that compare, images that differ, and what there is."""

import json
import shutil

import pytest

from mmnas_ext.runs import gradient
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.gradient import select_again
from mmnas_ext.runs.run import run
from mmnas_ext.workdir import WorkDir
from tests.engine import tiny
from tests.runs.test_selection import MEASURED, config, lines


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run to the end of its search."""
    folder = tmp_path_factory.mktemp('searched') / 'work'
    run(config(folder), search_only=True)
    return folder


@pytest.fixture
def work_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / 'work')


def test_alpha_that_was_never_trained_chooses_nothing(work_dir, tmp_path):
    never = {'train_cfg.arch_start': 2}
    with pytest.raises(ValueError, match='train_cfg.arch_start must be in 0..1, got 2: .* alpha would never'):
        select_again(config(work_dir, **never), tmp_path / 'alpha', 'argmax')
    assert not (tmp_path / 'alpha').exists()


def test_what_networks_are_held_against_without_a_seed_is_told(work_dir, tmp_path, capsys):
    said = 'warning: the seed is no network of this space and alpha was not trained'
    select_again(config(work_dir), tmp_path / 'trained')
    assert said not in capsys.readouterr().out
    untrained = config(tmp_path / 'untrained', **{'train_cfg.arch_start': 2})
    run(untrained, search_only=True)
    assert capsys.readouterr().out.count(said) == 1


def test_losses_of_other_augmentations_are_not_compared_with(work_dir, tmp_path, computed):
    """A worker's draws follow from its number: flips of the same image are others with more of them."""
    known = lines(work_dir)
    select_again(config(work_dir, **{'train_dataloader.num_workers': 1}), tmp_path / 'workers')
    assert computed['count'] >= len(known)
    stamps = {record['stamp'] for record in map(json.loads, WorkDir(work_dir).path_losses.open())}
    assert sorted(stamp.split('/')[3] for stamp in stamps) == ['0 workers', '1 workers']
    assert {stamp.split('/')[4] for stamp in stamps} == {'TinyFlip'}


def test_no_image_counts_twice_where_a_data_set_repeats_it(tmp_path, capsys):
    repeated = {'type': 'RepeatDataset', 'times': 3, 'dataset': tiny.loader_cfg(count=8)['dataset']}
    cfg = config(tmp_path / 'repeated', {**MEASURED, 'most': 24})
    cfg.train_dataloader.dataset = repeated
    run(cfg, search_only=True)
    assert 'the held-out images are 2 batches: ' in capsys.readouterr().out
    assert {batch for _, batch in lines(tmp_path / 'repeated')} == {0, 1}


def test_a_damaged_checkpoint_is_told_when_an_older_one_is_chosen_from(work_dir, tmp_path, capsys):
    last = find_checkpoint(work_dir).path
    last.write_bytes(last.read_bytes()[:-100])
    select_again(config(work_dir), tmp_path / 'older')
    out = capsys.readouterr().out
    assert f'warning: {last} cannot be used: it is truncated or damaged' in out
    assert f'chosen from {find_checkpoint(work_dir).path} instead' in out


def test_averaged_weights_are_not_chosen_from_afterwards(work_dir, tmp_path):
    cfg = config(work_dir)
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='EMAHook')]
    part = json.loads((work_dir / 'run.json').read_text())
    part['parts']['search']['settings'] = gradient._settings(cfg).search
    (work_dir / 'run.json').write_text(json.dumps(part))
    with pytest.raises(ValueError, match='custom_hooks: weights that EMAHook averages cannot be chosen from'):
        select_again(cfg, tmp_path / 'averaged')
