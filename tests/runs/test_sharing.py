"""Processes that share the trials of a search: who takes which, what the manifest says, and who goes on."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmnas_ext.cli.main import main
from mmnas_ext.engine.stalls import STEPS
from mmnas_ext.runs.leases import NAME, Leases
from mmnas_ext.runs.manifest import DERIVE, SEARCH, Manifest, Part, ResumeError, new_id, read_manifest
from mmnas_ext.runs.method import Method, Settings
from mmnas_ext.runs.methods import METHODS
from mmnas_ext.runs.random_search import RANDOM_SEARCH
from mmnas_ext.runs.run import run
from mmnas_ext.runs.session import Session
from mmnas_ext.runs.sharing import RUN, TURN, Alone, Shared, check_join, choose_gpu
from mmnas_ext.workdir import WorkDir, write_text
from tests.engine import tiny, tiny_trials
from tests.runs.test_leases import elsewhere, quick

NETWORK = tiny.SPACE.arch(tiny_trials.PATHS[0]).format('fna')


def opener(root: Path) -> Callable[[bool], Session]:
    """Opens a run without any work, as `open_session` does."""

    def begin(resume: bool) -> Session:
        files = WorkDir(root)
        known = read_manifest(files.manifest) if resume else None
        manifest = known or Manifest(new_id(), 'random')
        session = Session(
            Config({'work_dir': str(root)}), Method('random', *[lambda *_: None] * 3), manifest, Settings()
        )
        session.write(manifest)
        return session

    return begin


def shared(root: Path, leases: Leases | None = None) -> Shared:
    return Shared(WorkDir(root), leases or quick(20.0))


def opened(root: Path, leases: Leases | None = None) -> Shared:
    work = shared(root, leases)
    session = work.open(opener(root), False)
    assert session is work.session
    return work


def note(work: Alone, index: int) -> bool:
    return work.note(index, work.files.trials / f'{index:02d}' / 'result.json', f'{index}')


def trials(root: Path) -> list[int]:
    """The trials that have ended, by the manifest alone."""
    return list(read_manifest(WorkDir(root).manifest).parts[SEARCH].notes.get('trials', []))


def held(folder: Path, name: str = NAME, **changes: object) -> None:
    """A lease of a process of another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    elsewhere(folder, **changes)
    (folder / NAME).rename(folder / name)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmnas_ext.runs.sharing._LOOK', 0.02)


def test_each_takes_what_nobody_is_at_and_one_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    assert one.session.manifest.id == other.session.manifest.id
    assert (one.take([0, 1, 2]), other.take([0, 1, 2])) == (0, 1)
    assert note(other, 1)
    other.give_back(1)
    assert note(one, 0) and trials(tmp_path) == one.ended() == other.ended() == [0, 1]
    one.give_back(0)
    assert other.take([2]) == 2
    steps = STEPS.count
    assert one.take([2]) is None and one.take([2]) is None
    assert STEPS.count == steps + 2  # who waits for others does not stand still
    assert capsys.readouterr().out.count('trial 3: at work is ') == 1
    assert note(other, 2)
    other.give_back(2)
    assert one.take([0, 2]) is None  # known to have ended, whatever this process has read before
    assert one.lead()
    one.session.finish(SEARCH)
    assert not other.lead()
    assert 'nothing is left to share: ' in capsys.readouterr().out
    assert read_manifest(WorkDir(tmp_path).manifest).parts[SEARCH].done and trials(tmp_path) == [0, 1, 2]
    for work in (one, other):
        work.__exit__()
    assert list(tmp_path.rglob('*lease*')) == []


def test_a_trial_that_another_process_has_taken_over_is_not_written(tmp_path: Path) -> None:
    mine, place = opened(tmp_path, quick()), WorkDir(tmp_path).trials / '00'
    assert mine.take([0]) == 0 and not mine.lost()
    with mine.leases._lock:
        elsewhere(place)
    deadline = time.monotonic() + 20
    while not mine.lost() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mine.lost() and not note(mine, 0)
    assert not (place / 'result.json').exists() and trials(tmp_path) == []
    mine.give_back(0)
    assert json.loads((place / NAME).read_text())['token'] == 'theirs'
    assert mine.take([1]) == 1 and not mine.lost()
    mine.__exit__()


def test_a_trial_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    held(WorkDir(tmp_path).trials / '00')
    mine = opened(tmp_path, quick())
    while (found := mine.take([0])) is None:
        pass
    assert found == 0 and note(mine, 0)
    mine.__exit__()


def test_an_ordinary_start_is_refused_while_trials_are_shared(tmp_path: Path) -> None:
    worker = opened(tmp_path)
    assert worker.take([0, 1]) == 0
    ordinary = Alone(WorkDir(tmp_path), quick(20.0))
    for resume in (False, True):
        with pytest.raises(ResumeError, match=r'at work is .*: wait for its end, take another --work-dir, or share'):
            ordinary.open(opener(tmp_path), resume)
        assert (tmp_path / RUN).exists()  # until it ends
    assert worker.take([1]) is None  # nobody begins a trial while somebody asks for the run
    ordinary.__exit__()
    assert worker.take([1]) == 1 and note(worker, 1) and trials(tmp_path) == [1]
    worker.__exit__()


def test_two_ordinary_starts(tmp_path: Path) -> None:
    first, second = Alone(WorkDir(tmp_path), quick(20.0)), Alone(WorkDir(tmp_path), quick(20.0))
    first.open(opener(tmp_path), False)
    run = first.session.manifest.id
    with pytest.raises(ResumeError, match='at work is '):
        second.open(opener(tmp_path), False)
    assert read_manifest(WorkDir(tmp_path).manifest).id == run
    first.__exit__()
    second.open(opener(tmp_path), True)
    assert second.session.manifest.id == run
    second.__exit__()


@pytest.mark.parametrize('given', [{}, {'arch': NETWORK}])
def test_two_starts_of_any_method(given: dict[str, str], tmp_path: Path) -> None:
    cfg = tiny.search_cfg(tmp_path)
    with Alone(WorkDir(tmp_path), quick(20.0)) as first:
        first.take_run()
        with pytest.raises(ResumeError, match=r'at work is .*: wait for its end, take another --work-dir'):
            run(cfg, **given)
        # and what a sign of life is written to at this moment
        assert [path.name for path in tmp_path.iterdir() if path.suffix != '.part'] == [RUN]
    run(cfg, **given)
    assert not (tmp_path / RUN).exists() and list((tmp_path / 'adapt').glob('*.pth'))


def test_an_ordinary_start_takes_over_from_the_dead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held(tmp_path, RUN)
    held(WorkDir(tmp_path).trials / '03')
    alone = Alone(WorkDir(tmp_path), quick())
    alone.open(opener(tmp_path), False)
    assert capsys.readouterr().out.count('node7, process 12 was at work in ') == 2
    assert [path.name for path in tmp_path.rglob('*lease')] == [RUN]
    alone.__exit__()


def test_beside_a_process_that_shares_nothing(tmp_path: Path) -> None:
    alone, worker = Alone(WorkDir(tmp_path), quick(20.0)), shared(tmp_path)
    alone.open(opener(tmp_path), False)
    alone.begin()
    with pytest.raises(ResumeError, match=r'at work is .*, which shares no trials: wait for its end, or end it and'):
        worker.open(opener(tmp_path), False)
    alone.__exit__()


def found(root: Path) -> None:
    """A run whose trials were ranked."""
    notes = {'arch': NETWORK, 'origin': 'search'}
    parts = {SEARCH: Part('s', done=True, notes={'trials': [0]}), DERIVE: Part('d', notes=notes)}
    write_text(WorkDir(root).manifest, Manifest('run', 'random', parts).format())


def test_who_comes_late_ends_or_takes_the_rest_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found(tmp_path)
    leader, late = shared(tmp_path), shared(tmp_path)
    assert leader.open(opener(tmp_path), False).found.format('fna') == NETWORK
    assert late.open(opener(tmp_path), False) is None
    assert ' goes on with the run; should it die, the same command takes it over' in capsys.readouterr().out
    leader.__exit__()
    held(tmp_path, RUN)  # as one that has died leaves it
    heir = shared(tmp_path, quick())
    assert heir.open(opener(tmp_path), False).found.format('fna') == NETWORK
    assert heir.leases.holds(tmp_path, RUN) and read_manifest(WorkDir(tmp_path).manifest).parts[SEARCH].done
    heir.__exit__()


def test_where_who_ranked_has_died_before_it_wrote_that_the_trials_are_ranked_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert first.take([0]) == 0 and note(first, 0)
    first.__exit__()
    held(tmp_path, RUN)
    heir = opened(tmp_path, quick())
    assert heir.session.found is None and heir.ended() == [0]
    assert not (tmp_path / RUN).exists()  # others may join
    assert heir.lead() and (tmp_path / RUN).exists()
    heir.__exit__()


def test_a_run_that_was_set_aside(tmp_path: Path) -> None:
    worker = opened(tmp_path)
    write_text(WorkDir(tmp_path).manifest, Manifest('another', 'random').format())
    with pytest.raises(ResumeError, match='holds another run by now: this one was set aside'):
        worker.take([0])
    worker.__exit__()
    assert list(tmp_path.rglob('*lease*')) == []


def test_a_search_that_was_ended_without_a_trial(tmp_path: Path) -> None:
    worker, other = opened(tmp_path), opened(tmp_path)
    assert worker.take([4]) == 4
    assert other.lead()
    other.session.finish(SEARCH)
    with pytest.raises(ResumeError, match=r'without trial 04, by another random_search.count: --join again when'):
        note(worker, 4)
    other.__exit__()
    worker.__exit__()


def test_a_result_waits_while_an_ordinary_start_asks_for_the_run(tmp_path: Path) -> None:
    worker = opened(tmp_path)
    assert worker.take([0]) == 0
    asking = quick(20.0)
    assert asking.take(tmp_path, name=RUN)
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(note(worker, 0)))
    steps = STEPS.count
    thread.start()
    while STEPS.count < steps + 2:
        time.sleep(0.01)
    assert not done and trials(tmp_path) == []
    asking.close()
    thread.join()
    assert done == [True] and trials(tmp_path) == [0]
    worker.__exit__()


@pytest.mark.parametrize('kind', [Alone, Shared])
def test_who_loses_the_run_ends(kind: type[Alone], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found(tmp_path)
    ended, codes = threading.Event(), list[int]()
    work = kind(WorkDir(tmp_path), quick(), lambda code: (codes.append(code), ended.set()))
    work.open(opener(tmp_path), True)
    with work.leases._lock:
        held(tmp_path, RUN)
    assert ended.wait(20) and codes == [1]
    assert (
        f'error: this process was taken for dead, and another one has the run in {tmp_path}' in capsys.readouterr().err
    )
    work.__exit__()


def test_one_at_a_time_has_its_turn(tmp_path: Path) -> None:
    works = [shared(tmp_path) for _ in range(4)]
    inside: list[int] = []
    most: list[int] = []

    def write(work: Shared) -> None:
        for _ in range(5):
            with work._turn():
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.002)
                inside.pop()

    threads = [threading.Thread(target=write, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20 and not (tmp_path / TURN).exists()


def test_what_cannot_be_shared() -> None:
    for method in METHODS:
        if method is not RANDOM_SEARCH:
            with pytest.raises(ValueError, match=f'--join shares the trials of a random search .*{method.name!r}'):
                check_join(method, [])
    with pytest.raises(
        ValueError, match='--join begins the random search of a work dir or goes on with it: leave --pick'
    ):
        check_join(RANDOM_SEARCH, ['--pick', '--arch'])
    check_join(RANDOM_SEARCH, [])


@pytest.mark.parametrize(
    ('environ', 'count', 'chosen'),
    [
        ({'WORLD_SIZE': '8', 'LOCAL_RANK': '3', 'SLURM_LOCALID': '5'}, 8, [3]),
        ({'SLURM_LOCALID': '5', 'LOCAL_RANK': '0'}, 4, [1]),
        ({'LOCAL_RANK': '0'}, 4, []),
        ({'SLURM_LOCALID': '5'}, 1, []),
        ({'SLURM_LOCALID': '5'}, 0, []),
    ],
)
def test_each_process_of_a_machine_gets_a_gpu(
    environ: dict[str, str], count: int, chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('WORLD_SIZE', 'LOCAL_RANK', 'SLURM_LOCALID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    set_to: list[int] = []
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    monkeypatch.setattr(torch.cuda, 'set_device', set_to.append)
    choose_gpu()
    assert set_to == chosen


def test_the_command_shares_and_goes_on_with_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, told = tmp_path / 'own.py', list[object]()
    tiny_trials.random_cfg(tmp_path / 'run').dump(file)
    monkeypatch.setattr('mmnas_ext.runs.checks.check_config', lambda cfg, arch, only, resume: told.append(resume))
    monkeypatch.setattr('mmnas_ext.runs.run.run', lambda *args, join, **_: told.append((*args[1:], join)))
    monkeypatch.setattr('mmnas_ext.runs.sharing.choose_gpu', lambda: told.append('gpu'))
    assert main(['train', str(file), '--join']) == 0
    assert told == ['gpu', False, (False, False, None, True)]
    found(tmp_path / 'run')
    assert main(['train', str(file), '--join', '--search-only']) == 0
    assert told[3:] == ['gpu', True, (False, True, None, True)]
    assert main(['train', str(file)]) == 0
    assert told[6:] == [False, (False, False, None, False)]
    for option in ('--resume', '--arch=mobilenet_v2', '--pick=1', '--adapt-all'):
        with pytest.raises(SystemExit, match=f'error: --join begins .*leave {option.partition("=")[0]} out'):
            main(['train', str(file), '--join', option])
