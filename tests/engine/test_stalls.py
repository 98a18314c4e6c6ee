"""A run that stands still ends and says whom it waits for."""

import json
import os
import re
import signal
import socket
import threading
import time
from typing import Any

import pytest
from torch.distributed import HashStore

from mmnas_ext.engine.progress import CountingBar
from mmnas_ext.engine.stalls import STEPS, StallWatch, StepHook, Steps
from mmnas_ext.runs.run import start_processes
from tests.engine import processes
from tests.engine.test_ddp import start_ranks


class Rank:
    """A process of a run as its watch sees it: a thread that works, and steps that it counts."""

    def __init__(self, store: Any, rank: int, patience: float = 0.5, ranks: int = 2) -> None:
        self.steps, self.ended, self.free = Steps(), threading.Event(), threading.Event()
        self.worker = threading.Thread(target=getattr(self, f'work_{rank}'), daemon=True)
        self.worker.start()
        self.watch = StallWatch(store, rank, ranks, patience, self.steps, self.end, self.worker.ident)
        self.codes: list[int] = []

    def end(self, code: int) -> None:
        self.codes.append(code)
        self.ended.set()

    def work_0(self) -> None:
        self.free.wait()

    def work_1(self) -> None:
        self.free.wait()


def test_where_each_process_is_said_and_all_end(capsys: pytest.CaptureFixture[str]) -> None:
    store = HashStore()
    ranks = [Rank(store, 0), Rank(store, 1)]
    for rank in ranks:
        rank.watch.start()
    assert all(rank.ended.wait(20) for rank in ranks)
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith('error: no process has made a step for 0.5 s') for line in lines) == 2
    shown = [line for line in lines if line.startswith('  rank 1')]
    assert f'({socket.gethostname()}, process {os.getpid()})' in shown[0]
    assert 'threading.py' in shown[0] and ' < engine/test_stalls.py:' in shown[0] and 'in work_1' in shown[0]
    assert ranks[0].codes == ranks[1].codes == [1]
    for rank in ranks:
        rank.free.set()


def test_one_that_goes_on_keeps_all_alive() -> None:
    store = HashStore()
    ranks = [Rank(store, 0), Rank(store, 1)]
    for rank in ranks:
        rank.watch.start()
    for _ in range(15):  # three times the patience: one process validates, the other waits for it
        time.sleep(0.1)
        ranks[0].steps.add()
    assert not any(rank.ended.is_set() for rank in ranks)
    for rank in ranks:
        rank.watch.close()
        rank.free.set()


def test_before_the_first_step_what_gets_on_keeps_all_alive() -> None:
    store = HashStore()
    ranks = [Rank(store, 0), Rank(store, 1)]
    places = iter(range(10**6))
    ranks[0].watch._place = lambda: f'own/data.py:{next(places)} in read'  # type: ignore[method-assign]
    for rank in ranks:
        rank.watch.start()
    time.sleep(1.5)  # three times the patience
    assert not any(rank.ended.is_set() for rank in ranks)
    ranks[1].steps.add()  # from here on steps alone count
    assert all(rank.ended.wait(20) for rank in ranks)
    for rank in ranks:
        rank.free.set()


def test_one_that_gives_no_sign_of_life_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    store = HashStore()
    frozen, alive = Rank(store, 1), Rank(store, 0)
    frozen.watch.start()
    alive.watch.start()
    time.sleep(0.2)
    frozen.watch.close()  # as a process that is stopped, or cut off
    assert alive.ended.wait(20)
    text = capsys.readouterr().err
    assert 'rank 1 gives no sign of life' in text
    assert 'rank 1 (' in text and '): no sign of life' in text
    alive.free.set()
    frozen.free.set()


@pytest.mark.parametrize(
    ('places', 'named'),
    [
        (['torch/autograd/graph.py:9 in _engine < a/b.py:1 in step', 'data/coco.py:3 in get'], 'rank 1 is elsewhere'),
        (['torch/distributed/c10d.py:1 in wait', 'torch/distributed/c10d.py:1 in wait'], 'no single one stands out'),
        (['a/b.py:1 in step', 'data/coco.py:3 in get'], 'no single one stands out'),
    ],
)
def test_who_is_not_in_a_collective_is_named(places: list[str], named: str) -> None:
    watch = StallWatch(HashStore(), 0, 2, 600, Steps())
    for rank, place in enumerate(places):
        watch._hear(rank, {'steps': 1, 'sign': 1, 'name': f'gpu{rank}, process 7', 'place': place})
    first, *rows = watch._describe(10.0).splitlines()
    assert named in first
    assert rows[:2] == [f'  rank {rank} (gpu{rank}, process 7): {place}' for rank, place in enumerate(places)]


def test_iterations_and_bars_are_steps() -> None:
    before, hook = STEPS.count, StepHook()
    hook.after_train_iter(None, 0)
    hook.after_val_iter(None, 0)
    hook.after_test_iter(None, 0)
    CountingBar('', total=1, done=1).step()  # nothing is shown
    assert STEPS.count == before + 4


def join_all(timeout: float = 2) -> None:
    from mmengine.config import Config

    start_processes(Config({'launcher': 'pytorch', 'env_cfg': {'dist_cfg': {'backend': 'gloo', 'timeout': timeout}}}))


def wait_for_the_last() -> None:
    from torch import distributed

    ranks = int(os.environ['WORLD_SIZE'])
    join_all(ranks)  # seconds: the more they are, the less each of them gets of a small machine
    if distributed.get_rank() == ranks - 1:
        time.sleep(600)
    distributed.barrier()


@pytest.mark.parametrize('ranks', [2, 4])
def test_of_some_processes_one_hangs(ranks: int, tmp_path: Any) -> None:
    started = start_ranks(wait_for_the_last, tmp_path=tmp_path, ranks=ranks)
    assert [processes.finish(process, log) for process, log in started] == [1] * ranks
    text = started[0][1].read_text()  # the others have ended because this one has
    assert (
        f'error: no process has made a step for {ranks} s; rank {ranks - 1} is elsewhere than in a collective' in text
    )
    assert 'engine/test_stalls.py' in text and 'in wait_for_the_last' in text
    assert text.count('torch/distributed/') >= ranks - 1


def die_in_a_step() -> None:
    """The last process is killed after two steps, as by the system for its memory; the time is written down."""
    import torch
    from torch import distributed

    join_all(900)
    for step in range(100):
        if step == 2 and distributed.get_rank() == distributed.get_world_size() - 1:
            print(f'died {time.monotonic()}', flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            distributed.all_reduce(torch.ones(1))
        except RuntimeError:
            print(f'ended {time.monotonic()}', flush=True)
            raise


@pytest.mark.parametrize('ranks', [2, 4])
def test_of_some_processes_one_dies(ranks: int, tmp_path: Any) -> None:
    started = start_ranks(die_in_a_step, tmp_path=tmp_path, ranks=ranks)
    codes = [processes.finish(process, log) for process, log in started]
    assert codes == [1] * (ranks - 1) + [-signal.SIGKILL]
    died, *ended = [float(re.findall(r'^(?:died|ended) (\S+)', log.read_text(), re.M)[0]) for _, log in started[::-1]]
    assert len(ended) == ranks - 1
    # without a launcher that ends them; the time that a stall may take is 900 s
    assert max(ended) - died < 60


def test_a_stopped_process_that_holds_the_store_is_named(tmp_path: Any) -> None:
    (first, first_log), (second, second_log) = start_ranks(stop_itself, tmp_path=tmp_path)
    assert processes.finish(second, second_log) == 1
    os.kill(first.pid, signal.SIGKILL)
    processes.finish(first, first_log)
    assert 'rank 0 gives no sign of life' in second_log.read_text()


def stop_itself() -> None:
    from torch import distributed

    join_all()
    distributed.barrier()
    if distributed.get_rank() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    distributed.barrier()


@pytest.mark.parametrize('timeout', [0, -1, '1800', True, float('inf')])
def test_a_timeout_that_is_none(timeout: Any) -> None:
    from mmengine.config import Config

    cfg = Config({'launcher': 'pytorch', 'env_cfg': {'dist_cfg': {'timeout': timeout}}})
    with pytest.raises(ValueError, match=r'env_cfg.dist_cfg.timeout must be a number of seconds above 0, got'):
        start_processes(cfg)


def test_what_is_told_is_plain_text() -> None:
    store = HashStore()
    rank = Rank(store, 0, patience=10)
    rank.watch._exchange(1)
    told = json.loads(store.get('rank 0'))
    assert (told['steps'], told['sign']) == (0, 1)
    rank.free.set()
