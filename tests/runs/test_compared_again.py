"""A comparison whose settings have changed since: what they decide is done again, and what they do not is not."""

import argparse
import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec
from mmnas_ext.runs import compared as compared_module
from mmnas_ext.runs.children import CLOCK, Children, Clock
from mmnas_ext.runs.compare import RowRunner, compare, run_all
from mmnas_ext.runs.compared import Results
from mmnas_ext.runs.row_states import RowStates
from mmnas_ext.runs.rows import Comparison, Row
from tests.runs.test_comparison import (
    ROWS,
    SEED,
    TOOLS,
    calls,
    read_calls,
    runner,
    write_config,
    write_settings,
)

__all__ = ['calls']
CHOSEN = (ROWS[0], Row('found', search_of='search'))


def change(file: str, **changes: object) -> None:
    """Edits a config file."""
    cfg = Config.fromfile(file)
    cfg.merge_from_dict(changes)
    cfg.dump(file)


@pytest.mark.parametrize('edit', [
    {'optim_wrapper.cost.max': 46016}, {'optim_wrapper.selection': dict(type='measured', first=2)},
])  # fmt: skip
def test_a_network_is_chosen_again_where_the_file_asks_for_another_choice(
    edit: dict[str, object], tmp_path: Path, calls: Path
) -> None:
    config = write_config(tmp_path / 'mine.py', seed=False)
    run_all(runner(config, tmp_path, CHOSEN, seeds=(0,)), say=lambda text: None)
    before = len(read_calls(calls)['seed0', 'found'])
    again = runner(config, tmp_path, CHOSEN, seeds=(0,))
    assert again.states.is_chosen(CHOSEN[1], 0, again.comparison.options_of(CHOSEN[1], 0))
    change(config, **edit)
    again = runner(config, tmp_path, CHOSEN, seeds=(0,))
    assert not again.states.is_chosen(CHOSEN[1], 0, again.comparison.options_of(CHOSEN[1], 0))
    run_all(again, say=lambda text: None)
    assert read_calls(calls)['seed0', 'found'][before][0] == 'select'


def test_a_network_is_chosen_again_from_a_search_that_went_on(tmp_path: Path, calls: Path) -> None:
    config = write_config(tmp_path / 'mine.py', seed=False)
    mine = runner(config, tmp_path, CHOSEN, seeds=(0,))
    run_all(mine, say=lambda text: None)
    file = tmp_path / 'all' / 'seed0' / 'search' / 'run.json'
    manifest = json.loads(file.read_text())
    manifest['parts']['search']['settings'] = {'train_cfg.max_epochs': 3}
    file.write_text(json.dumps(manifest))
    assert not mine.states.is_chosen(CHOSEN[1], 0, mine.comparison.options_of(CHOSEN[1], 0))


def test_a_training_counts_that_is_of_a_row_which_is_not_asked_for(tmp_path: Path, calls: Path) -> None:
    config = write_config(tmp_path / 'mine.py', seed=True)
    whole = Comparison(config, tmp_path / 'all', (Row('seed', arch='seed'), Row('given', arch=SEED)), (1,))
    assert RowRunner(whole, TOOLS, Children()).run(whole.row('seed'), 1) is None
    write_settings(whole, 'seed', 1)
    part = RowRunner(whole.only(['given']), TOOLS, Children(), whole)
    assert part.run(whole.row('given'), 1) == whole.row('seed')
    assert part.states.is_done(whole.row('given'), 1)
    assert ('seed1', 'given') not in read_calls(calls)


def test_minutes_of_a_network_that_was_set_aside_do_not_count(tmp_path: Path, calls: Path) -> None:
    config = write_config(tmp_path / 'mine.py', seed=False)
    other = SEED.replace("['k3_e3', 'k3_e3']", "['k3_e3', 'k5_e3']")
    folder = tmp_path / 'all' / 'seed1' / 'given'
    for arch, kept in ((SEED, 0.0), (SEED, 100.0), (other, 0.0)):
        runner(config, tmp_path, (Row('given', arch=arch),), seeds=(1,)).run(Row('given', arch=arch), 1)
        spent = Clock.parse(folder / CLOCK).seconds['adapt']
        assert kept < spent < kept + 5
        (folder / CLOCK).write_text(json.dumps({'adapt': 100.0}))
        manifest = json.loads((folder / 'run.json').read_text())  # as a run notes it; the stand-in does not
        manifest['parts']['derive']['notes']['arch'] = ArchSpec.parse(arch).format('fna')
        (folder / 'run.json').write_text(json.dumps(manifest))
    assert Clock({'adapt': 3.0, 'search': 2.0}, 'adapt').without('adapt') == Clock({'search': 2.0})


def test_minutes_of_a_search_that_chose_again_do_not_count_either(tmp_path: Path, calls: Path) -> None:
    config, row = write_config(tmp_path / 'mine.py', seed=False), Row('fna')
    runner(config, tmp_path, (row,), seeds=(1,)).run(row, 1)
    folder = tmp_path / 'all' / 'seed1' / 'fna'
    (folder / CLOCK).write_text(json.dumps({'search': 50.0, 'adapt': 100.0}))
    content = json.loads((folder / 'run.json').read_text())
    del content['parts']['adapt']  # as where the limit has changed
    (folder / 'run.json').write_text(json.dumps({**content, 'state': 'derived'}))
    runner(config, tmp_path, (row,), seeds=(1,)).run(row, 1)
    spent = Clock.parse(folder / CLOCK).seconds
    assert spent['adapt'] < 5 and 50 <= spent['search'] < 55


def test_a_choice_of_before_its_settings_were_noted_is_not_made_again(tmp_path: Path, calls: Path) -> None:
    config = write_config(tmp_path / 'mine.py', seed=False)
    mine = runner(config, tmp_path, CHOSEN, seeds=(0,))
    run_all(mine, say=lambda text: None)
    file = tmp_path / 'all' / 'seed0' / 'found' / 'selected' / 'asked.json'
    asked = json.loads(file.read_text())
    assert asked.pop('choice') and asked['search'][0] == 'a'
    for search, same in (('a', True), ('b', False)):
        file.write_text(json.dumps({**asked, 'search': search}))
        assert mine.states.is_chosen(CHOSEN[1], 0, mine.comparison.options_of(CHOSEN[1], 0)) == same


@pytest.mark.parametrize(('changes', 'where'), [
    ({'derived.randomness': dict(seed=0)}, 'derived.randomness.seed=0, which every random seed of the comparison'),
    ({'random_search.trial.randomness': dict(seed=4)}, 'random_search.trial.randomness.seed=4, which every random'),
    ({'default_hooks.checkpoint.out_dir': 'o'}, "has default_hooks.checkpoint.out_dir=o, where .* by another's"),
    ({'derived.default_hooks': dict(checkpoint=dict(out_dir='o'))}, 'derived.default_hooks.checkpoint.out_dir=o'),
    ({'derived.custom_hooks': [dict(type='CheckpointHook', out_dir='o')]}, 'derived.custom_hooks.0.out_dir=o, where'),
])  # fmt: skip
@pytest.mark.parametrize('seeds', [(0, 1), (1,)])
def test_what_all_random_seeds_would_share_is_refused(
    changes: dict[str, object], where: str, seeds: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / 'mine.py', seed=False, **changes)
    comparison = Comparison(config, tmp_path / 'all', (Row('search'),), seeds)
    args = argparse.Namespace(rows=None, jobs=1, threads=1, metric=None, baseline='search', table=False)
    with pytest.raises(ValueError, match=where):
        compare(comparison, args, TOOLS)
    assert not (tmp_path / 'all').exists()
    args.table = True  # what has ended is shown, and what it is told
    with pytest.raises(ValueError, match='nothing has ended yet'):
        compare(comparison, args, TOOLS)
    assert re.search(f'warning: .*{where}', capsys.readouterr().err)


@pytest.mark.parametrize(('option', 'is_refused'), [
    ('train_cfg.max_epochs=1', True), ('train_cfg.max_epochs.a=1', True), ('train_cfg={}', True),
    ('train_cfg.max_epochs_more=1', False), ('log_level=ERROR', False),
])  # fmt: skip
def test_an_override_that_a_row_would_not_follow_is_told(option: str, is_refused: bool, tmp_path: Path) -> None:
    rows = (Row('one'), Row('two', options=('train_cfg.max_epochs=5',)))
    comparison = Comparison('any.py', tmp_path, rows)
    if is_refused:
        with pytest.raises(ValueError, match='would not be of row two, which sets train_cfg.max_epochs itself'):
            comparison.check_overrides([option])
    else:
        comparison.check_overrides([option])
    comparison.only(['one']).check_overrides([option])


def test_a_part_of_the_rows_leaves_the_others_in_the_file(tmp_path: Path, calls: Path, capsys: object) -> None:
    comparison = seed_and_other(tmp_path)
    args = argparse.Namespace(rows=None, jobs=1, threads=1, metric=None, baseline='seed', table=False)
    compare(comparison, args, TOOLS)
    whole = (tmp_path / 'all' / 'comparison.json').read_text()
    args.rows = ['seed']
    compare(comparison, args, TOOLS, 'another.json')
    compare(comparison, args, TOOLS)
    assert (tmp_path / 'all' / 'comparison.json').read_text() == whole
    assert (tmp_path / 'all' / 'another.json').read_text() == whole
    assert '"other"' in whole


ADAPTED = {'optim_wrapper.selection': dict(type='measured', adapt=dict(networks=2, rank_by='closeness'))}


def test_another_recipe_chooses_again_until_the_network_is_trained(tmp_path: Path, calls: Path) -> None:
    config = write_config(tmp_path / 'mine.py', seed=False)
    change(config, **ADAPTED)
    run_all(runner(config, tmp_path, CHOSEN, seeds=(0,)), say=lambda text: None)

    def is_chosen(**changes: object) -> bool:
        change(config, **changes)
        again = runner(config, tmp_path, CHOSEN, seeds=(0,))
        return again.states.is_chosen(CHOSEN[1], 0, again.comparison.options_of(CHOSEN[1], 0))

    file = tmp_path / 'all' / 'seed0' / 'found' / 'run.json'
    trained = file.read_text()
    assert 'adapt' in json.loads(trained)['parts']
    file.unlink()
    assert is_chosen()
    assert not is_chosen(**{'derived.optim_wrapper.optimizer.lr': 0.01})
    file.write_text(trained)
    assert is_chosen(**{'derived.optim_wrapper.optimizer.lr': 0.02})
    assert not is_chosen(**{'optim_wrapper.selection.adapt.networks': 3})


def test_brief_adaptations_that_would_fail_are_refused_before_anything_is_trained(tmp_path: Path, calls: Path) -> None:
    config = write_config(tmp_path / 'mine.py', seed=False)
    change(config, **ADAPTED, **{'derived.param_scheduler': [dict(type='ReduceOnPlateauLR', monitor='closeness')]})
    args = argparse.Namespace(rows=None, jobs=1, threads=1, metric=None, baseline='search', table=False)
    rows = (Row('search', train=False), Row('found', search_of='search'), Row('given', arch=SEED))
    with pytest.raises(ValueError, match='ReduceOnPlateauLR waits for validations'):
        compare(Comparison(config, tmp_path / 'all', rows, (0,)), args, TOOLS)
    assert not read_calls(calls)
    alpha = (rows[0], Row('found', search_of='search', selection='argmax'))
    run_all(runner(config, tmp_path, alpha, seeds=(0,)), say=lambda text: None)
    assert read_calls(calls)['seed0', 'found'][0][0] == 'select'


def seed_and_other(tmp_path: Path) -> Comparison:
    """The seed and a network of larger kernels, of one random seed."""
    config = write_config(tmp_path / 'mine.py', seed=True)
    rows = (Row('seed', arch='seed'), Row('other', arch=SEED.replace('k3_e3', 'k5_e3')))
    return Comparison(config, tmp_path / 'all', rows, (0,))


def compared(comparison: Comparison, **changes: object) -> Results:
    """What ``comparison.json`` has after all rows were run, and whether any failed."""
    args = argparse.Namespace(rows=None, jobs=1, threads=1, metric=None, baseline='seed', table=False)
    vars(args).update(changes)
    with suppress(SystemExit):
        compare(comparison, args, TOOLS)
    return Results.parse((comparison.work_dir / 'comparison.json').read_text())


def test_what_was_trained_with_another_recipe_is_left_out_and_named(
    tmp_path: Path, calls: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = seed_and_other(tmp_path)
    assert compared(both).differences('other') == {0: 10.0}
    for row in both.rows:
        write_settings(both, row.name, 0)
    assert compared(both, rows=['seed']).differences('other') == {0: 10.0}
    lr = 'derived.optim_wrapper.optimizer.lr'
    otherwise = Comparison(both.config, both.work_dir, both.rows, both.seeds, (f'{lr}=0.5',))
    write_settings(otherwise, 'seed', 0)
    capsys.readouterr()
    found = compared(otherwise, rows=['seed'])
    assert [(row.name, found.differences(row.name)) for row in found.rows] == [('seed', {0: 0.0})]
    (left,) = found.left_out
    assert (left.name, left.seed) == ('other', 0)
    assert 'seed0/other was begun with other settings (optim_wrapper.optimizer.lr 0.05 -> 0.5)' in left.why
    monkeypatch.setenv('FAKE_FAIL', 'other')
    # a row that is asked for fails, and is left out of what is printed too
    assert 'left out' not in capsys.readouterr().out
    assert compared(otherwise).left_out == found.left_out
    assert f'left out: seed 0, other: {left.why}' in capsys.readouterr().out
    # the table alone writes nothing, and has of these settings what they gave
    kept = (tmp_path / 'all' / 'comparison.json').read_text()
    compared(both, table=True)
    assert (tmp_path / 'all' / 'comparison.json').read_text() == kept
    printed = capsys.readouterr().out
    assert '| 0 | 50.00 |' in printed and 'left out: seed 0, seed: ' in printed
    write_settings(otherwise, 'other', 0)
    assert compared(otherwise, table=True) == found
    with pytest.raises(ValueError, match='nothing has ended yet in .*all under the settings of now'):
        compared(both, rows=['seed'], baseline=None, table=True)
    assert 'warning: left out: seed 0, seed: ' in capsys.readouterr().err


def test_a_choice_that_was_killed_midway_is_made_again(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network of another limit beside the note of the former one would pass for that one's."""
    config = write_config(tmp_path / 'mine.py', seed=False)
    mine = runner(config, tmp_path, CHOSEN, seeds=(0,))
    run_all(mine, say=lambda text: None)
    other = runner(config, tmp_path, CHOSEN, seeds=(0,), options=('optim_wrapper.cost.max=46016',))
    monkeypatch.setattr(RowStates, 'note_choice', lambda *args: None)  # it ends before
    other.run(CHOSEN[1], 0)
    assert not mine.states.is_chosen(CHOSEN[1], 0, mine.comparison.options_of(CHOSEN[1], 0))


def test_a_row_that_trained_for_another_may_be_gone(tmp_path: Path, calls: Path) -> None:
    config = write_config(tmp_path / 'mine.py', seed=True)
    whole = Comparison(config, tmp_path / 'all', (Row('mine', arch=SEED), Row('seed', arch='seed')), (1,))
    first = RowRunner(whole, TOOLS, Children())
    first.run(whole.row('mine'), 1)
    write_settings(whole, 'mine', 1)
    assert first.run(whole.row('seed'), 1) == whole.row('mine')
    alone = Comparison(config, tmp_path / 'all', whole.rows[1:], (1,))
    assert RowStates(alone, alone).why_other(alone.row('seed'), 1) == ''
    slower = Comparison(config, tmp_path / 'all', whole.rows[1:], (1,), ('derived.optim_wrapper.optimizer.lr=0.5',))
    why = RowStates(slower, slower).why_other(slower.row('seed'), 1)
    assert why == 'it was trained as mine, and is another now: optim_wrapper.optimizer.lr 0.05 -> 0.5'


def test_rows_that_were_run_and_are_in_no_table_are_told(
    tmp_path: Path, calls: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has begun one anew; of the other, the config was edited meanwhile."""
    both = seed_and_other(tmp_path)
    why = {'seed': '', 'other': 'lr 1 -> 2'}
    monkeypatch.setattr(RowStates, 'why_other', lambda self, row, seed: why[row.name])
    outcome = compared_module.read_outcome
    monkeypatch.setattr(
        compared_module, 'read_outcome', lambda all, row, seed: None if row.name == 'seed' else outcome(all, row, seed)
    )
    args = argparse.Namespace(rows=None, jobs=1, threads=1, metric=None, baseline='seed', table=False)
    with pytest.raises(SystemExit) as end:
        compare(both, args, TOOLS)
    assert end.value.code == 1
    told = capsys.readouterr().err
    assert 'error: seed 0, other: it has ended and is left out: lr 1 -> 2' in told
    assert 'error: seed 0, seed: it has ended, and has been begun anew since' in told


def test_a_damaged_row_is_left_out_and_the_others_are_shown(
    tmp_path: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = seed_and_other(tmp_path)
    compared(both)
    (tmp_path / 'all' / 'seed0' / 'other' / 'run.json').write_text('{')
    capsys.readouterr()
    compared(both, table=True)
    printed = capsys.readouterr().out
    assert '| 0 | 40.00 |' in printed and 'left out: seed 0, other: ' in printed
