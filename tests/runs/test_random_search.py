"""A random search from its draw to the adaptation of the best, killed and resumed, with trials that fail."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec
from mmnas_ext.runs.brief import _Watch
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.manifest import SEARCH, read_manifest
from mmnas_ext.runs.run import run
from mmnas_ext.runs.sharing import Shared
from tests.engine import processes, tiny, tiny_trials
from tests.engine.test_ddp import DISTRIBUTED, both_ranks
from tests.engine.tiny_trials import random_cfg


def results(work_dir):
    """Results by trial, without what no two runs have in common."""
    found = {}
    for path in sorted(work_dir.glob('trials/*/result.json')):
        found[path.parent.name] = json.loads(path.read_text())
        assert found[path.parent.name].pop('seconds') > 0
        assert found[path.parent.name].pop('cpu_seconds') > 0
    return found


def chosen(work_dir):
    """The network that is adapted, as text."""
    return ArchSpec.parse(work_dir / 'derived' / 'arch.json').replace(bn_eps=None).format('fna')


def set_metric(work_dir, trial, value, name='closeness'):
    path = work_dir / 'trials' / trial / 'result.json'
    result = json.loads(path.read_text())
    result['metrics'][name] = value
    path.write_text(json.dumps(result))


def search_and_adapt(work_dir, changes, resume, search_only, join=False):
    run(random_cfg(work_dir, **changes), resume=resume, search_only=search_only, join=join)


def one_run(work_dir, resume=False, kill='', search_only=False, **changes):
    """Runs it in a process of its own, or as far as `kill` lets it; returns the exit code."""
    log = work_dir.parent / f'{work_dir.name}.txt'
    environ = {'TINY_KILL': kill} if kill else {}
    process = processes.start(search_and_adapt, str(work_dir), changes, resume, search_only, log=log, **environ)
    code = processes.finish(process, log)
    assert code in (0, -signal.SIGKILL), log.read_text()[-3000:]
    return code


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    """An uninterrupted run, with what it printed."""
    work_dir = tmp_path_factory.mktemp('reference') / 'run'
    assert one_run(work_dir) == 0
    return work_dir


@pytest.fixture
def finished(tmp_path, reference):
    """A copy of the uninterrupted run."""
    return Path(shutil.copytree(reference, tmp_path / 'finished'))


def test_networks_within_the_limit_are_tried_and_the_best_is_adapted(reference):
    found = results(reference)
    assert list(found) == ['00', '01', '02']
    allowed = {tiny.SPACE.arch(path): tiny_trials.macs(path) for path in tiny_trials.PATHS}
    archs = [ArchSpec.parse(result['arch']) for result in found.values()]
    assert len(set(archs)) == 3
    for arch, result in zip(archs, found.values(), strict=True):
        assert result['macs'] == result['cost'] == allowed[arch] <= tiny_trials.MIDDLE
        assert result['iterations'] == 12
        assert result['failure'] == ''
        assert result['metrics']['closeness'] == pytest.approx(1 / (1 + result['metrics']['distance']))
    best = max(found.values(), key=lambda result: result['metrics']['closeness'])
    assert chosen(reference) == best['arch']
    assert ArchSpec.parse(reference / 'derived' / 'arch.json').bn_eps == 1e-5
    adapted = Config.fromfile(reference / 'derived' / 'config.py')
    assert adapted.model.backbone.arch == best['arch']
    assert adapted.model.backbone.norm_cfg.eps == 1e-5
    assert 'random_search' not in adapted
    assert (reference / 'adapt' / 'epoch_3.pth').is_file()


def test_each_trial_has_its_files_and_no_weights(reference):
    for number, result in results(reference).items():
        place = reference / 'trials' / number
        assert list(place.glob('*.pth')) == []
        assert ArchSpec.parse(place / 'arch.json') == ArchSpec.parse(result['arch'])
        trial = Config.fromfile(place / 'config.py')
        assert trial.model.backbone.arch == result['arch']
        assert trial.model.backbone.type == 'mmnas_ext.MBNet'
        assert trial.train_cfg == dict(type='EpochBasedTrainLoop', max_epochs=2)
        assert trial.optim_wrapper.optimizer.lr == 0.05
        (scalars,) = place.glob('*/vis_data/scalars.json')
        validations = [line for line in scalars.read_text().splitlines() if 'closeness' in line]
        assert len(validations) == 1
        assert json.loads(validations[0])['closeness'] == result['metrics']['closeness']


def test_the_table_is_written_and_printed(reference):
    table = (reference / 'trials.md').read_text()
    printed = (reference.parent / 'run.txt').read_text()
    assert table in printed
    lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines()]
    assert lines[0] == [
        'trial', 'MAdds', 'parameters', 'closeness', 'distance', 'iterations', 'minutes', 'CPU minutes',
    ]  # fmt: skip
    order = sorted(results(reference).items(), key=lambda item: -item[1]['metrics']['closeness'])
    assert [line[0] for line in lines[2:]] == [number for number, _ in order]
    assert [line[3] for line in lines[2:]] == [f'{result["metrics"]["closeness"]:.3f}' for _, result in order]
    assert f'best: trial {order[0][0]}, {order[0][1]["arch"]}' in printed
    assert printed.index('trial 1 of 3: ') < printed.index('trial 3 of 3: ') < printed.index('best: ')


KILLS = ['00:before:3', '01:before:7', '01:trained:12', '02:validating:12']


def test_a_search_killed_again_and_again_ends_like_one_that_was_not(tmp_path, reference):
    work_dir = tmp_path / 'run'
    for kill in KILLS:
        assert one_run(work_dir, resume=work_dir.exists(), kill=kill) == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in work_dir.glob('trials/0[01]/*')}
    assert {path.name for path in before} >= {'result.json', 'config.py'}
    assert one_run(work_dir, resume=True) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert results(work_dir) == results(reference)
    tables = [(folder / 'trials.md').read_text().splitlines() for folder in (work_dir, reference)]
    # but for the minutes, which stand last
    assert [line.split('|')[:7] for line in tables[0]] == [line.split('|')[:7] for line in tables[1]]
    for name in ('arch.json', 'config.py'):
        assert (work_dir / 'derived' / name).read_text() == (reference / 'derived' / name).read_text()
    weights = [torch.load(folder / 'adapt' / 'epoch_3.pth', weights_only=False) for folder in (work_dir, reference)]
    assert tiny_trials.same_weights(*(each['state_dict'] for each in weights))


def test_processes_that_share_the_trials_end_as_one_does(tmp_path, reference):
    """One is killed in a trial; two others take it over and divide the rest, and one of them goes on."""
    work_dir, logs = tmp_path / 'run', [tmp_path / f'{name}.txt' for name in ('killed', 'one', 'other')]
    call = (search_and_adapt, str(work_dir), {}, False, False, True)
    first = processes.start(*call, log=logs[0], TINY_KILL='00:before:7')
    assert processes.finish(first, logs[0]) == -signal.SIGKILL
    started = [processes.start(*call, log=log, TINY_WAIT='00:01') for log in logs[1:]]
    for process, log in zip(started, logs[1:], strict=True):
        processes.complete(process, log)
    said = [log.read_text() for log in logs[1:]]
    # whoever has the first trial waits in it until somebody else has made the second
    made = [{number for number in (1, 2, 3) if f'trial {number} of 3: ' in text} for text in said]
    assert (
        made[0] | made[1] == {1, 2, 3} and not made[0] & made[1] and {1, 2} not in (made[0] & {1, 2}, made[1] & {1, 2})
    )
    assert sum('the trial 00 goes on from' in text for text in said) == 1
    assert results(work_dir) == results(reference)
    assert read_manifest(work_dir / 'run.json').parts[SEARCH].notes['trials'] == [0, 1, 2]
    assert read_manifest(work_dir / 'run.json').state == 'done'
    assert (work_dir / 'derived' / 'config.py').read_text() == (reference / 'derived' / 'config.py').read_text()
    weights = [torch.load(folder / 'adapt' / 'epoch_3.pth', weights_only=False) for folder in (work_dir, reference)]
    assert tiny_trials.same_weights(*(each['state_dict'] for each in weights))
    assert len(list(work_dir.glob('adapt/*/vis_data'))) == 1  # trained once
    assert list(work_dir.rglob('*lease*')) == [] and list(work_dir.glob('trials/*/*.pth')) == []


def test_a_trial_that_another_process_has_taken_is_left_midway(tmp_path, monkeypatch, capsys):
    asked = []

    def lost(work):
        asked.append(work.leases.holds(tmp_path / 'trials' / '00'))
        if len(asked) == 1:  # the other one has given it back by the time that it is asked for again
            work.leases.give_back(tmp_path / 'trials' / '00')
        return len(asked) == 1

    monkeypatch.setattr(Shared, 'lost', lost)
    run(random_cfg(tmp_path, **{'random_search.count': 1}), search_only=True, join=True)
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith('trial 1')] == [
        said[0], 'trial 1: this process was taken for dead, and another one makes it now', said[0],
    ]  # fmt: skip
    # ten of twelve iterations were done, and six are in the checkpoint
    assert sum('the trial 00 goes on from' in line and '6 iterations are done' in line for line in said) == 1
    assert asked == [True, True, True] and results(tmp_path)['00']['iterations'] == 12


def test_an_interrupted_trial_goes_on_from_its_checkpoint(tmp_path):
    work_dir = tmp_path / 'run'
    assert one_run(work_dir, kill='00:before:7') == -signal.SIGKILL
    assert (work_dir / 'trials' / '00' / 'epoch_1.pth').is_file()
    assert one_run(work_dir, resume=True, search_only=True) == 0
    logs = sorted((work_dir / 'trials' / '00').glob('*/vis_data/scalars.json'))
    steps = [[json.loads(line)['step'] for line in log.read_text().splitlines() if 'loss' in line] for log in logs]
    # both in one file if they began in the same second
    # the seventh had no checkpoint behind it
    assert [step for each in steps for step in each] == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12]


def test_a_larger_count_tries_more_and_a_better_network_is_adapted_anew(tmp_path, reference):
    work_dir = tmp_path / 'run'
    run(random_cfg(work_dir, **{'random_search.count': 2}))
    assert list(results(work_dir)) == ['00', '01']
    set_metric(work_dir, '00', 0.0)
    set_metric(work_dir, '01', 0.001)
    set_aside = {*work_dir.glob('before_*')}
    run(random_cfg(work_dir), resume=True)
    found = results(work_dir)
    # sums of floats in another process may differ in the last bits, by where its memory lies
    wanted = results(reference)['02']
    assert found['02'].pop('metrics') == pytest.approx(wanted.pop('metrics'), rel=1e-5)
    assert found['02'] == wanted
    assert chosen(work_dir) == found['02']['arch']
    (fresh,) = {*work_dir.glob('before_*')} - set_aside
    assert {path.name for path in fresh.iterdir()} == {'derived', 'adapt'}
    assert Config.fromfile(work_dir / 'derived' / 'config.py').model.backbone.arch == found['02']['arch']


def test_what_is_finished_stays_as_it_is(finished):
    files = [*finished.glob('derived/*.*'), *finished.glob('adapt/*.pth')]
    assert {path.name for path in files} >= {'arch.json', 'config.py', 'epoch_3.pth'}
    before = [path.stat().st_mtime_ns for path in files]
    run(random_cfg(finished), resume=True)
    assert [path.stat().st_mtime_ns for path in files] == before
    assert list(finished.glob('before_*')) == []


def test_a_smaller_count_ranks_the_first_alone(finished):
    set_metric(finished, '02', 1.0)
    run(random_cfg(finished, **{'random_search.count': 2}), resume=True, search_only=True)
    assert chosen(finished) in {results(finished)[number]['arch'] for number in ('00', '01')}


def test_a_metric_of_which_less_is_better(finished):
    for trial, value in (('00', 3.0), ('01', 1.0), ('02', 2.0)):
        set_metric(finished, trial, value, 'distance')
    changes = {'random_search.rank_by': 'distance', 'random_search.rule': 'less'}
    run(random_cfg(finished, **changes), resume=True, search_only=True)
    found = results(finished)
    assert chosen(finished) == found['01']['arch']
    lines = (finished / 'trials.md').read_text().splitlines()
    assert [line.split('|')[1].strip() for line in lines[2:]] == ['01', '02', '00']


def test_a_new_run_in_an_old_work_dir_sets_the_old_trials_aside(tmp_path):
    work_dir = tmp_path / 'run'
    run(random_cfg(work_dir), search_only=True)
    run(random_cfg(work_dir, **{'random_search.seed': 2, 'random_search.count': 1}), search_only=True)
    (aside,) = work_dir.glob('before_*')
    assert {path.name for path in aside.iterdir()} == {'derived', 'run.json', 'trials', 'trials.md'}
    assert len(list(aside.glob('trials/0*'))) == 3
    assert list(results(work_dir)) == ['00']


@pytest.mark.parametrize(('changes', 'message'), [
    ({'random_search.seed': 5}, 'random_search.seed 1 -> 5'),
    ({'random_search.limit.max': 150_000}, f'random_search.limit.max {tiny_trials.MIDDLE} -> 150000'),
    ({'random_search.trial.train_cfg.max_epochs': 3}, 'random_search.trial.train_cfg.max_epochs 2 -> 3'),
    ({'model.backbone.input_size': (15, 16)}, r'random_search.input_size \[16, 16\] -> \[15, 16\]'),
    ({'val_dataloader.dataset.count': 6}, 'random_search.trial.val_dataloader.dataset.count 7 -> 6'),
])  # fmt: skip
def test_trials_of_other_settings_are_not_mixed(reference, changes, message):
    cfg = random_cfg(reference, **changes)
    for attempt in (lambda: run(cfg, resume=True), lambda: check_config(cfg, resume=True)):
        with pytest.raises(ValueError, match=message):
            attempt()
    check_config(random_cfg(reference), resume=True)
    check_config(cfg)


def test_a_trial_of_another_network_is_not_taken_over(finished):
    path = finished / 'trials' / '00' / 'result.json'
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, 'arch': 'another'}))
    with pytest.raises(ValueError, match='holds the trial of another, drawn is'):
        run(random_cfg(finished, **{'random_search.count': 4}), resume=True, search_only=True)


def failing_run(work_dir, archs, **changes):
    """Tries networks of which the first three fail as told."""
    failing = list(zip(archs, ('diverge', 'nan', 'silent'), strict=True))
    run(random_cfg(work_dir, failing, **changes), search_only=True)
    return results(work_dir)


def test_trials_that_fail_are_recorded_and_ranked_last(tmp_path, reference):
    archs = [result['arch'] for result in results(reference).values()]
    found = failing_run(tmp_path, archs, **{'random_search.count': 4})
    assert found['00']['failure'] == 'the loss was not finite at iteration 1'
    assert (found['00']['iterations'], found['00']['metrics']) == (1, {})
    assert found['01']['metrics'] == {'closeness': None, 'distance': None}
    assert found['02']['metrics'] == {}
    lines = [
        [cell.strip() for cell in line.split('|')[1:-1]] for line in (tmp_path / 'trials.md').read_text().splitlines()
    ]
    assert lines[0][-1] == 'failed'
    assert [(line[0], line[-1]) for line in lines[2:]] == [
        ('03', ''), ('00', 'the loss was not finite at iteration 1'), ('01', 'closeness is not a finite number'),
        ('02', 'the validation gave no closeness'),
    ]  # fmt: skip
    assert chosen(tmp_path) == found['03']['arch']
    assert list(tmp_path.glob('trials/*/*.pth')) == []


def test_a_search_whose_trials_all_fail_says_why(tmp_path, reference):
    archs = [result['arch'] for result in results(reference).values()]
    reasons = 'closeness is not a finite number; the loss was not finite at .*; the validation gave no closeness'
    with pytest.raises(RuntimeError, match=f'all 3 trials failed: {reasons}'):
        failing_run(tmp_path, archs)
    assert not (tmp_path / 'derived').exists()
    # and does not try them again
    failing = list(zip(archs, ('diverge', 'nan', 'silent'), strict=True))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob('trials/*/*')}
    with pytest.raises(RuntimeError, match='all 3 trials failed'):
        run(random_cfg(tmp_path, failing), resume=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob('trials/*/*')} == before


def test_a_metric_that_the_validation_does_not_give_ends_the_search_at_once(tmp_path):
    changes = {'random_search.rank_by': 'mIoU'}
    with pytest.raises(ValueError, match=r"rank_by must be one of \['closeness', 'distance'\].* got 'mIoU'"):
        run(random_cfg(tmp_path, **changes), search_only=True)
    assert list(results(tmp_path)) == ['00']
    changes = {'random_search.count': 1}
    run(random_cfg(tmp_path, **changes), resume=True, search_only=True)
    assert (tmp_path / 'derived' / 'config.py').is_file()


def test_the_last_checkpoint_of_each_trial_is_kept_when_asked(tmp_path):
    run(random_cfg(tmp_path, **{'random_search.keep_checkpoints': True, 'random_search.count': 2}), search_only=True)
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob('trials/**/*.pth'))
    assert kept == ['trials/00/epoch_2.pth', 'trials/01/epoch_2.pth']


def test_a_given_network_needs_no_trials(tmp_path):
    arch = tiny.SPACE.arch(((0,), (1, 2), (0,))).format('fna')
    run(random_cfg(tmp_path), arch=arch)
    assert not (tmp_path / 'trials').exists()
    assert chosen(tmp_path) == arch
    # and its training goes on, without trials
    run(random_cfg(tmp_path, **{'derived.train_cfg.max_epochs': 4}), resume=True)
    assert (tmp_path / 'adapt' / 'epoch_4.pth').is_file()
    assert chosen(tmp_path) == arch
    assert not (tmp_path / 'trials').exists()


def test_a_seconds_counter_goes_on_where_a_checkpoint_left_it():
    watch = _Watch()
    checkpoint = {}
    watch.after_load_checkpoint(None, {'trial_seconds': [1000.0, 500.0]})
    watch.before_save_checkpoint(None, checkpoint)
    wall, cpu = checkpoint['trial_seconds']
    assert 1000 < wall < 1060
    assert 499.99 < cpu < 560
    sum(number * number for number in range(2_000_000))
    later_wall, later_cpu = watch.spent()
    assert later_wall > wall
    assert later_cpu > cpu
    watch.after_load_checkpoint(None, {})
    assert watch.spent()[0] < 60


def search_on_two(work_dir):
    changes = {**DISTRIBUTED, 'train_dataloader.batch_size': 1}
    run(random_cfg(work_dir, **changes), search_only=True, join=True)
    run(random_cfg(work_dir, **changes, **{'random_search.count': 4}), resume=True)


def test_two_ranks_try_the_same_networks_and_agree(tmp_path, reference):
    work_dir = tmp_path / 'run'
    both_ranks(search_on_two, str(work_dir), tmp_path=tmp_path)
    found = results(work_dir)
    assert [found[number]['arch'] for number in ('00', '01', '02')] == [r['arch'] for r in results(reference).values()]
    assert list(found) == ['00', '01', '02', '03']
    assert {result['iterations'] for result in found.values()} == {12}
    best = max(found.values(), key=lambda result: result['metrics']['closeness'])
    assert chosen(work_dir) == best['arch']
    assert (work_dir / 'adapt' / 'epoch_3.pth').is_file()
    assert 'best: trial' in (tmp_path / 'rank_0.txt').read_text()
    assert 'trial' not in (tmp_path / 'rank_1.txt').read_text()  # one process speaks


def diverge_on_one(work_dir, arch):
    changes = {**DISTRIBUTED, 'train_dataloader.batch_size': 1, 'random_search.count': 2}
    cfg = random_cfg(work_dir, **changes)
    # the other rank sees a finite loss
    if torch.distributed.get_rank() == 1:
        cfg.model.failing = [(arch, 'diverge')]
    run(cfg, search_only=True)


def test_a_loss_that_diverges_on_one_rank_ends_the_trial_on_both(tmp_path, reference):
    arch = results(reference)['00']['arch']
    both_ranks(diverge_on_one, str(tmp_path / 'run'), arch, tmp_path=tmp_path)
    found = results(tmp_path / 'run')
    assert found['00']['failure'] == 'the loss was not finite at iteration 1'
    assert found['01']['failure'] == ''


def test_a_limit_that_every_network_meets_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmnas_ext.runs.random_search.print_log', lambda text, **_: said.append(text))
    highest = max(map(tiny_trials.macs, tiny_trials.PATHS))
    check_config(random_cfg(tmp_path, **{'random_search.limit.max': highest}))
    check_config(random_cfg(tmp_path))
    (sentence,) = said
    assert sentence.startswith('random_search.limit.max of ')
    assert 'limits nothing: no network of this space costs more than ' in sentence


def test_an_ended_trial_leaves_neither_open_files_nor_weights(tmp_path):
    def count():
        return len(os.listdir('/proc/self/fd'))

    run(random_cfg(tmp_path / 'a', **{'random_search.count': 1}), search_only=True)
    before = count()
    run(random_cfg(tmp_path / 'b', **{'random_search.count': 3}), search_only=True)
    assert count() <= before
    # killed after its result, before its weights are deleted
    place = tmp_path / 'b' / 'trials' / '01'
    torch.save({}, place / 'epoch_2.pth')
    run(random_cfg(tmp_path / 'b', **{'random_search.count': 4}), resume=True, search_only=True)
    assert list(tmp_path.glob('b/trials/*/*.pth')) == []
