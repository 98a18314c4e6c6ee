"""Ctrl-C and SIGTERM end a command with its status, leave no process and no half of a file, and `--resume` goes on."""

import itertools
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmnas_ext.cli.main import main
from mmnas_ext.runs.manifest import read_manifest
from mmnas_ext.runs.stopping import stopped_by_signals
from tests.engine import processes, tiny, tiny_trials
from tests.engine.kept import differences
from tests.runs import stops
from tests.runs.test_kill import METHODS, outcome
from tests.runs.test_selection import MEASURED

# a place, and the state of the run there
PLACES = {
    'search:weights': 'searching',
    'search:arch': 'searching',
    'saving': 'searching',
    'measuring': 'rating',
    'adapt:weights': 'adapting',
    'adapt:validating': 'adapting',
}
INT, TERM = signal.SIGINT, signal.SIGTERM


def measured(folder: Path) -> Config:
    """A search of four iterations with loader workers, measured losses, a training with validation."""
    cfg = tiny_trials.random_cfg(folder / 'work', **{
        'train_cfg.max_epochs': 2, 'train_dataloader.dataset.count': 8, 'derived.train_cfg.max_epochs': 2,
        'val_dataloader.dataset.count': 3, 'train_dataloader.num_workers': 1,
    })  # fmt: skip
    cfg.pop('random_search')
    cfg.optim_wrapper.selection = MEASURED
    cfg.optim_wrapper.cost = dict(weight=0.1, max=tiny_trials.MIDDLE)
    return cfg


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp('whole')
    argv = ['train', str(stops.write_config(folder / 'tiny.py', measured(folder)))]
    processes.complete(processes.start(stops.command, argv, log=folder / 'log.txt'), folder / 'log.txt')
    return folder


@pytest.mark.parametrize('first', [INT, TERM])
def test_a_run_told_to_end_everywhere_ends_like_one_that_was_not(tmp_path: Path, whole: Path, first: int) -> None:
    """Twelve of twelve: six places, both signals; one of them comes to the loaders' workers too.

    As Ctrl-C does from a terminal, and SIGTERM from torchrun, which tells all that a process has started.
    """
    numbers = itertools.cycle([first, INT + TERM - first])
    file, log = stops.write_config(tmp_path / 'tiny.py', measured(tmp_path)), tmp_path / 'log.txt'
    argv = ['train', str(file)]
    for place, state in PLACES.items():
        number = next(numbers)
        code, said = stops.stop_at(place, number, stops.command, argv, log=log, group=number == first)
        assert code == stops.ENDS[number], (place, said)
        assert said.splitlines() == ['stopped: --resume goes on from the last checkpoint'], place
        assert stops.damaged(tmp_path / 'work') == [], place
        assert read_manifest(tmp_path / 'work' / 'run.json').state == state, place
        argv = ['train', str(file), '--resume']
    processes.complete(processes.start(stops.command, argv, log=log), log)
    assert differences(outcome(tmp_path), outcome(whole)) == []


@pytest.fixture(scope='module', params=['random', 'distillation'])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Another method's small config, and the folder of an uninterrupted run."""
    make, folder = METHODS[request.param], tmp_path_factory.mktemp(request.param)
    argv = ['train', str(stops.write_config(folder / 'distill.py', make(folder)))]
    processes.complete(processes.start(stops.command, argv, log=folder / 'log.txt'), folder / 'log.txt')
    return make, folder


@pytest.mark.parametrize('number', [INT, TERM])
def test_trials_and_distillations_end_in_order_too(tmp_path: Path, other: tuple[Any, Path], number: int) -> None:
    make, reference = other
    cfg = make(tmp_path)
    place = 'search:weights' if cfg.get('random_search') is None else 'adapt:validating'
    file, log = stops.write_config(tmp_path / 'distill.py', cfg), tmp_path / 'log.txt'
    code, said = stops.stop_at(place, number, stops.command, ['train', str(file)], log=log)
    assert code == stops.ENDS[number], said
    assert 'Traceback' not in said
    assert stops.damaged(tmp_path / 'work') == []
    assert read_manifest(tmp_path / 'work' / 'run.json').state == 'searching'
    processes.complete(processes.start(stops.command, ['train', str(file), '--resume'], log=log), log)
    assert differences(outcome(tmp_path), outcome(reference)) == []


@pytest.mark.parametrize('number', [INT, TERM])
def test_two_processes_under_torchrun_end_in_order(tmp_path: Path, number: int) -> None:
    cfg = tiny.search_cfg(tmp_path / 'work', workers=1, **{'train_dataloader.dataset.count': 8})
    cfg.env_cfg, cfg.find_unused_parameters = dict(dist_cfg=dict(backend='gloo')), True
    file, log = stops.write_config(tmp_path / 'tiny.py', cfg), tmp_path / 'log.txt'
    code, said = stops.stop_at('saving', number, stops.ranks, ['train', str(file)], log=log)
    assert code == 1, said  # the agent says what it was told by an error; a console's torchrun ends so too
    assert f'got signal: {number}' in said
    assert said.count('stopped: --resume goes on from the last checkpoint') == 1
    assert stops.damaged(tmp_path / 'work') == []
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['epoch_1.pth']
    assert read_manifest(tmp_path / 'work' / 'run.json').state == 'searching'


def test_a_demo_ends_in_order(tmp_path: Path) -> None:
    file, log = stops.write_config(tmp_path / 'tiny.py', measured(tmp_path)), tmp_path / 'log.txt'
    argv = ['--work-dir', str(tmp_path / 'work')]
    code, said = stops.stop_at('saving', INT, stops.demo, argv, str(file), log=log, group=True)
    assert (code, said) == (130, 'stopped: --resume goes on from the last checkpoint\n')
    assert stops.damaged(tmp_path / 'work') == []


def test_workers_of_a_killed_process_end_by_themselves(tmp_path: Path) -> None:
    file, log = stops.write_config(tmp_path / 'tiny.py', measured(tmp_path)), tmp_path / 'log.txt'
    place = {stops.PLACE: 'search:weights', stops.HERE: str(tmp_path / 'here')}
    process = processes.start(stops.command, ['train', str(file)], log=log, **place)
    while not (tmp_path / 'here').exists():
        assert process.is_alive(), log.read_text()
        time.sleep(0.01)
    assert len(stops.session(process.pid)) == 3  # two loaders have a worker each
    os.kill(process.pid, signal.SIGKILL)
    assert processes.finish(process, log) == -signal.SIGKILL
    until = time.monotonic() + processes.PATIENCE
    while stops.session(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert stops.session(process.pid) == []


@pytest.mark.parametrize('number', [INT, TERM])
def test_one_that_hangs_in_a_library_ends_all_the_same(tmp_path: Path, number: int) -> None:
    code, said = stops.stop_at('', number, stops.hang, str(tmp_path), log=tmp_path / 'log.txt')
    assert (code, said) == (stops.ENDS[number], '')  # and its child with it


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    log = tmp_path / 'log.txt'
    place = {stops.PLACE: 'working', stops.HERE: str(tmp_path / 'here')}
    process = processes.start(stops.clean_up, str(tmp_path), log=log, **place)
    for number, file in ((TERM, 'here'), (INT, 'ending')):
        while not (tmp_path / file).exists():
            assert process.is_alive(), log.read_text()
            time.sleep(0.01)
        os.kill(process.pid, number)
    assert processes.finish(process, log) == -INT
    assert not (tmp_path / 'ended').exists()


def test_signals_are_as_they_were_afterwards() -> None:
    before = [signal.getsignal(number) for number in (INT, TERM, signal.SIGCHLD)]
    threads = threading.active_count()
    with stopped_by_signals():
        assert signal.getsignal(INT) != before[0]
    assert [signal.getsignal(number) for number in (INT, TERM, signal.SIGCHLD)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_another_thread_leaves_signals_alone() -> None:
    found = []

    def work() -> None:
        with stopped_by_signals():
            found.append(signal.getsignal(INT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(INT)]


# what is written when the disk is full, and whether a run is there then to go on with
FULL = {'.run.json.part': False, '.search_space.json.part': True, '.epoch_2.pth.part': True}


@pytest.mark.parametrize('name', FULL)
def test_a_full_disk_is_told_and_costs_nothing(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str
) -> None:
    """The kernel itself says that there is no room: what is written goes to ``/dev/full``."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    for figures in ('draw_page', '_draw_result'):
        monkeypatch.setattr(f'mmnas_ext.runs.run.{figures}', lambda *_args, **_settings: None)
    argv = ['train', str(stops.write_config(tmp_path / 'tiny.py', measured(tmp_path)))]
    full = tmp_path / 'work' / name
    full.parent.mkdir()
    full.symlink_to('/dev/full')
    file = full.with_name(full.name[1:].removesuffix('.part'))
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == (
        f'error: {file} cannot be written: No space left on device; once there is room, a run goes on with --resume'
    )
    assert not file.exists()
    assert stops.damaged(tmp_path / 'work') == []
    main([*argv, '--resume'] if FULL[name] else argv)
    assert differences(outcome(tmp_path), outcome(whole)) == []
