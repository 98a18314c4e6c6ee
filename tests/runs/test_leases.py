"""Leases: one process at a time does a piece of work, and that of a dead one is taken over."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmnas_ext.runs.children import LOG, BusyError, ChildError, Children, visible_devices
from mmnas_ext.runs.compare import run_all
from mmnas_ext.runs.leases import NAME, Leases, Note
from mmnas_ext.runs.row_states import RowStates
from tests.runs.test_comparison import ROWS, calls, config, read_calls, runner  # noqa: F401

HOLD = """
import sys, time
from pathlib import Path
from mmnas_ext.runs.leases import Leases
print(Leases(beat=0.05, patience=60).take(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


def quick(patience: float = 0.4) -> Leases:
    return Leases(beat=0.05, patience=patience, settle=0.05)


def take_within(leases: Leases, folder: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if leases.take(folder):
            return True
        time.sleep(0.02)
    return False


def elsewhere(folder: Path, **changes: object) -> None:
    """A lease of a process of another machine."""
    note = {'token': 'theirs', 'holder': 'node7, process 12', 'where': 'another/1', 'process': 12, 'beat': 3, **changes}
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_text(json.dumps(note))


def take_from(leases: Leases, folder: Path) -> None:
    """A process of another machine takes over what `leases` hold.

    Not between their reading and writing the file: they would write over it, and a process that takes over looks again
    after `settle` and finds that it has not.
    """
    with leases._lock:
        elsewhere(folder)


def test_one_at_a_time(tmp_path: Path) -> None:
    first, second = quick(), quick()
    assert first.take(tmp_path / 'work') and not second.take(tmp_path / 'work')
    assert second.holder(tmp_path / 'work').endswith(f'process {os.getpid()}')
    # its holder writes on: it is not taken for dead however long one looks
    assert not take_within(second, tmp_path / 'work', 1.0)
    first.give_back(tmp_path / 'work')
    assert second.holder(tmp_path / 'work') == '' and second.take(tmp_path / 'work')
    first.give_back(tmp_path / 'work')  # it is another's: it stays
    assert second.holder(tmp_path / 'work')
    second.close()
    assert not (tmp_path / 'work' / NAME).exists()


def test_one_of_another_machine_that_writes_no_more_is_taken_over(tmp_path: Path) -> None:
    elsewhere(tmp_path / 'work')
    mine = quick()
    begun = time.monotonic()
    assert not mine.take(tmp_path / 'work') and mine.holder(tmp_path / 'work') == 'node7, process 12'
    elsewhere(tmp_path / 'work', beat=4)  # a sign of life: the time begins again
    assert take_within(mine, tmp_path / 'work', 10)
    assert time.monotonic() - begun > 0.4
    mine.close()


def test_who_was_cut_off_itself_takes_nothing_over_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr('mmnas_ext.runs.leases.time', SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda _: None))
    elsewhere(tmp_path)
    mine = Leases(patience=60.0)
    assert not mine.take(tmp_path)
    clock[0] += 300  # a file system that answered neither of them: the other one has not come to write yet
    assert not mine.take(tmp_path)
    for _ in range(3):
        clock[0] += 15
        assert not mine.take(tmp_path)
    clock[0] += 15
    assert mine.take(tmp_path)
    mine.close()


@pytest.mark.parametrize('text', ['', 'half a li', '[1]'])
def test_a_damaged_lease_is_taken_over(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text)
    mine = quick()
    assert not mine.take(tmp_path) and take_within(mine, tmp_path, 10)
    mine.close()


def test_a_killed_process_of_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == 'True\n'
    mine = Leases()  # patience is a minute
    assert not mine.take(tmp_path)
    process.kill()
    process.wait()
    process.stdout.close()
    assert mine.take(tmp_path)
    mine.close()


def test_of_two_that_take_over_one_does(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    both = [quick(), quick()]
    taken: list[bool] = []
    threads = [threading.Thread(target=lambda one=one: taken.append(take_within(one, tmp_path, 2))) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False, True]
    for one in both:
        one.close()


def test_who_was_taken_for_dead_is_told(tmp_path: Path) -> None:
    mine, told = quick(), threading.Event()
    assert mine.take(tmp_path, told.set)
    take_from(mine, tmp_path)
    assert told.wait(10)
    mine.give_back(tmp_path)
    assert Note.read(tmp_path / NAME) == Note('theirs', 'node7, process 12', 'another/1', 12, 3)
    mine.close()


def test_who_writes_while_another_takes_over_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(tmp_path)
    mine = quick(patience=0.11)
    assert not mine.take(tmp_path)
    time.sleep(0.12)
    # its holder was slow, not dead: it had read the file before it was taken over, and writes it after that
    monkeypatch.setattr('mmnas_ext.runs.leases.time.sleep', lambda seconds: elsewhere(tmp_path, beat=4))
    assert not mine.take(tmp_path)
    assert mine.holder(tmp_path) == 'node7, process 12'
    mine.close()
    assert Note.read(tmp_path / NAME).token == 'theirs'


def test_a_full_disk_leaves_no_empty_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Note) -> str:
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(Note, 'format', full)
        with pytest.raises(OSError, match='No space left') as error:
            quick().take(tmp_path)
    assert error.value.filename == str(tmp_path / NAME)
    mine = quick()
    assert mine.take(tmp_path)
    mine.close()


def test_patience_of_less_than_a_beat() -> None:
    with pytest.raises(ValueError, match=r'patience must be more than two beats of 5.0 seconds, got 6'):
        Leases(patience=6)


def test_two_processes_divide_a_comparison(
    config: str, tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    # the fake tools' runs have no settings that could be the config's
    monkeypatch.setattr(
        RowStates, 'is_done', lambda self, row, seed: (self.comparison.folder(row, seed) / 'run.json').is_file()
    )
    said: list[str] = []
    pair = [runner(config, tmp_path), runner(config, tmp_path)]
    failures: list[object] = []
    threads = [
        threading.Thread(target=lambda one=one: failures.append(run_all(one, 1, said.append, quick(20.0))))
        for one in pair
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [{}, {}]
    begun = [line for line in said if line.endswith('begins')]
    assert sorted(begun) == sorted(f'seed {seed}, {row.name}: begins' for seed in (0, 1) for row in ROWS)
    done = {(f'seed{seed}', row.name) for seed in (0, 1) for row in ROWS}
    assert set(read_calls(calls)) == done and not list((tmp_path / 'all').rglob(NAME))


def test_a_row_at_work_elsewhere_is_waited_for_and_taken_over(config: str, tmp_path: Path, calls: Path) -> None:  # noqa: F811
    mine = runner(config, tmp_path, ROWS[1:2], seeds=(0,))
    folder = mine.comparison.folder(ROWS[1], 0)
    folder.mkdir(parents=True)
    elsewhere(folder)
    said: list[str] = []
    assert run_all(mine, say=said.append, leases=quick()) == {}
    assert said == ['seed 0, seed: at work is node7, process 12', 'seed 0, seed: begins', 'seed 0, seed: done']


def test_a_row_that_is_taken_from_this_process_is_ended_here(
    config: str, tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setenv('FAKE_SLEEP', 'seed')
    mine = runner(config, tmp_path, ROWS[1:2], seeds=(0,))
    folder, leases = mine.comparison.folder(ROWS[1], 0), quick()
    said: list[str] = []

    def take() -> None:
        while not calls.read_text():
            time.sleep(0.01)
        monkeypatch.delenv('FAKE_SLEEP')
        mine.children.env.pop('FAKE_SLEEP')
        take_from(leases, folder)

    thread = threading.Thread(target=take)
    thread.start()
    assert run_all(mine, say=said.append, leases=leases) == {}
    thread.join()
    # the tool sleeps for a minute and ends well: had it not been ended, it would not have begun again
    assert said.count('seed 0, seed: begins') == 2 and said[-1] == 'seed 0, seed: done'
    assert len(read_calls(calls)['seed0', 'seed']) == 2


def test_a_folder_that_is_locked_is_waited_for(
    config: str, tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr('mmnas_ext.runs.compare._BUSY', 0.2)
    mine = runner(config, tmp_path, ROWS[1:2], seeds=(0,))
    folder, other, said = mine.comparison.folder(ROWS[1], 0), Children(), list[str]()

    def say(text: str) -> None:
        said.append(text)
        if 'another process is at work' in text:
            (tmp_path / 'go').touch()

    command = ['/bin/sh', '-c', f'echo begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done']
    thread = threading.Thread(target=other.run, args=(folder, 'adapt', command), kwargs={'known': True})
    thread.start()
    while not (folder / LOG).is_file() or not (folder / LOG).read_text():
        time.sleep(0.01)
    assert run_all(mine, say=say, leases=quick()) == {}
    thread.join()
    assert said[0] == 'seed 0, seed: begins' and said[-1] == 'seed 0, seed: done'


def test_what_a_killed_process_has_begun_ends_with_it(tmp_path: Path) -> None:
    code = (
        'import sys; from pathlib import Path; from mmnas_ext.runs.children import Children;'
        "Children().run(Path(sys.argv[1]), 'adapt', ['/bin/sh', '-c', 'echo $$; exec sleep 60'], True)"
    )
    process = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)])
    log = tmp_path / LOG
    while not log.is_file() or not log.read_text().endswith('\n'):
        time.sleep(0.01)
    process.kill()
    process.wait()
    # its lock is free as soon as the child has gone
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert Children().run(tmp_path, 'adapt', ['true'], True) < 1
            break
        except BusyError:
            time.sleep(0.02)
    else:
        raise AssertionError('the child lives on')


def test_processes_share_the_gpus(tmp_path: Path) -> None:
    children, seen = Children(devices=('GPU-a', '3')), []

    def work(name: str) -> None:
        place = tmp_path / name
        command = ['/bin/sh', '-c', f'echo $CUDA_VISIBLE_DEVICES; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done']
        children.run(place, 'adapt', command, known=True)
        seen.append((place / 'run.log').read_text().strip())

    threads = [threading.Thread(target=work, args=(name,)) for name in 'abc']
    for thread in threads:
        thread.start()
    while len([log for log in tmp_path.rglob('run.log') if log.read_text()]) < 3:
        time.sleep(0.01)
    (tmp_path / 'go').touch()
    for thread in threads:
        thread.join()
    assert sorted(seen) in (['3', '3', 'GPU-a'], ['3', 'GPU-a', 'GPU-a'])
    children.run(tmp_path / 'd', 'adapt', ['/bin/sh', '-c', 'test $CUDA_VISIBLE_DEVICES = GPU-a'], known=True)


@pytest.mark.parametrize(
    ('said', 'count', 'names'),
    [(None, 2, ('0', '1')), ('5, 7', 2, ('5', '7')), ('', 0, ()), ('5,7', 0, ()), (None, 0, ())],
)
def test_which_gpus_there_are(
    said: str | None, count: int, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torch.cuda.device_count', lambda: count)
    if said is None:
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    else:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', said)
    assert visible_devices() == names


def test_only_the_process_in_that_folder_is_ended(tmp_path: Path) -> None:
    children, ended = Children(), []

    def work(name: str) -> None:
        try:
            children.run(tmp_path / name, 'adapt', ['/bin/sh', '-c', 'echo begun; sleep 60'], known=True)
        except ChildError as error:
            ended.append((name, f'exit status {-signal.SIGKILL}' in str(error)))

    threads = [threading.Thread(target=work, args=(name,)) for name in 'ab']
    for thread in threads:
        thread.start()
    while len([log for log in tmp_path.rglob('run.log') if log.read_text()]) < 2:
        time.sleep(0.01)
    children.end_in(tmp_path / 'a')
    threads[0].join()
    assert ended == [('a', True)] and threads[1].is_alive()
    children.end()
    threads[1].join()
