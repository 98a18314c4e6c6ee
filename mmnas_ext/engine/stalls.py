"""Ends a distributed run that stands still, and says which process it waits for.

Where one process hangs, the others wait inside a collective: PyTorch ends them after its timeout with a message that
names an operation, but nobody. Here a thread of each process tells the others how many steps it has made and where its
main thread is. Where none of them has made a step for too long, each prints that table and ends, and the launcher ends
what is left. Nothing is computed by it and nothing is exchanged on the GPU.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import Hook

from mmnas_ext.registry import HOOKS

PATIENCE = 1800.0  # seconds; PyTorch's own timeout of collectives on a CPU
GRACE = 60.0  # seconds by which PyTorch's timeout comes later
_PACKAGES = ('site-packages', 'dist-packages')
_STANDARD = str(Path(os.__file__).parent)  # Python's own library
# the code in which a main thread waits for other processes
_WAITING = ('torch/distributed/', 'torch/autograd/', 'torch/nn/parallel/', 'torch/_tensor.py')


class Steps:
    """Counts the steps that this process has made, of whatever loop."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        """Counts one."""
        self.count += 1


STEPS = Steps()  # of this process


@HOOKS.register_module()
class StepHook(Hook):
    """Counts the iterations of training, validation and test as signs of life."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Counts one."""
        STEPS.add()

    after_val_iter = after_test_iter = after_train_iter


class StallWatch:
    """The thread that watches.

    Args:
        store: What the processes tell each other through.
        rank: Of this process.
        ranks: How many there are.
        patience: Seconds without a step of any of them after which the run is ended. Before the first one, a main
            thread that gets elsewhere counts as one.
        steps: Counts this process's.
        end: Ends this process, given its exit status.
        thread: Number of the thread that works; by default the main one.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        ranks: int,
        patience: float,
        steps: Steps = STEPS,
        end: Callable[[int], Any] = os._exit,
        thread: int | None = None,
    ) -> None:
        self.rank, self.ranks, self.patience = rank, ranks, patience
        self._store, self._steps, self._end = store, steps, end
        self._worker = thread if thread is not None else threading.main_thread().ident
        self._name = f'{socket.gethostname()}, process {os.getpid()}'
        self._closed = threading.Event()
        self._told: dict[int, dict[str, Any]] = {}
        self._changed: dict[int, float] = {}
        self._answered = time.monotonic()
        self._interval = min(5.0, patience / 10)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._watch)]

    def start(self) -> None:
        """Begins to watch."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends it."""
        self._closed.set()
        for thread in self._threads:
            thread.join()

    def _watch(self) -> None:
        # the main process speaks first: what the others say when it has ended is noise
        patience = self.patience + (3 * self._interval if self.rank else 0)
        counts: dict[int, Any] = {}
        since = time.monotonic()
        while not self._closed.wait(self._interval):
            told_by = list(self._told.items())
            now: dict[int, Any] = {rank: told['steps'] for rank, told in told_by}
            if not any(now.values()):  # what is prepared before the first step makes none
                now = {rank: told['place'] for rank, told in told_by}
            if now != counts:
                counts, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                print(f'error: {self._describe(2.5 * self._interval)}', file=sys.stderr, flush=True)
                self._end(1)
                return

    def _talk(self) -> None:
        sign = 0
        while not self._closed.wait(self._interval):
            sign += 1
            try:
                self._exchange(sign)
            except (RuntimeError, ValueError):
                continue  # the store is in the process of rank 0, which has ended
            self._answered = time.monotonic()

    def _exchange(self, sign: int) -> None:
        """Tells the others, and hears of them; where rank 0 hangs, this may not return."""
        mine = {'steps': self._steps.count, 'sign': sign, 'name': self._name, 'place': self._place()}
        self._hear(self.rank, mine)
        self._store.set(f'rank {self.rank}', json.dumps(mine))
        for rank in range(self.ranks):
            if rank != self.rank and self._store.check([f'rank {rank}']):
                self._hear(rank, json.loads(self._store.get(f'rank {rank}')))

    def _hear(self, rank: int, told: dict[str, Any]) -> None:
        if told != self._told.get(rank):
            self._told[rank] = told
            self._changed[rank] = time.monotonic()

    def _place(self) -> str:
        """Where the main thread is: its innermost frame, and the first one outside of installed packages."""
        frame = sys._current_frames().get(self._worker or 0)
        shown: list[str] = []
        while frame is not None:
            foreign = any(part in frame.f_code.co_filename for part in (*_PACKAGES, _STANDARD))
            if not shown or not foreign:
                shown.append(_show(frame))
            if not foreign:
                break
            frame = frame.f_back
        return ' < '.join(shown)

    def _describe(self, quiet: float) -> str:
        now = time.monotonic()
        silent = [rank for rank in range(self.ranks) if now - self._changed.get(rank, 0.0) > quiet]
        if self.rank and now - self._answered > quiet:
            silent = [0]  # it keeps what the others say
        busy = [rank for rank, told in self._told.items() if not _waits(told['place'])]
        guilty = silent or [rank for rank in busy if len(busy) < self.ranks]
        names = ', '.join(f'rank {rank}' for rank in sorted(guilty)) or 'no single one'
        what = 'gives no sign of life' if silent else 'is elsewhere than in a collective'
        rows = [f'no process has made a step for {self.patience:g} s; {names} {what if guilty else "stands out"}']
        for rank in range(self.ranks):
            told = self._told.get(rank, {'name': 'never heard of', 'place': ''})
            rows.append(f'  rank {rank} ({told["name"]}): {"no sign of life" if rank in silent else told["place"]}')
        rows.append('  --resume goes on from the last checkpoint; env_cfg.dist_cfg.timeout sets the seconds')
        return '\n'.join(rows)


def watch_stalls(patience: float) -> StallWatch:
    """Begins to watch the processes that have been joined.

    Args:
        patience: Seconds without a step of any of them after which the run is ended.
    """
    rank, wait = get_rank(), timedelta(seconds=max(1.0, patience / 3))
    host = os.environ.get('MASTER_ADDR', '127.0.0.1')  # where rank 0 runs, with every launcher
    server = dist.TCPStore(host, 0, None, True, wait, wait_for_workers=False) if rank == 0 else None
    port: list[Any] = [server and server.port]
    broadcast_object_list(port)
    store = server or dist.TCPStore(host, port[0], None, False, wait, wait_for_workers=False)
    watch = StallWatch(store, rank, get_world_size(), patience)
    watch.start()
    return watch


def _waits(place: str) -> bool:
    """Whether a main thread at this place waits for other processes, as far as Python's frames tell."""
    return any(part in place for part in _WAITING)


def _show(frame: FrameType) -> str:
    """A frame as ``folder/file.py:12 in name``."""
    file = Path(frame.f_code.co_filename)
    parts = file.parts
    for name in _PACKAGES:
        if name in parts:
            parts = parts[parts.index(name) + 1 :]
    shown = '/'.join(parts if len(parts) < len(file.parts) else parts[-2:])
    return f'{shown}:{frame.f_lineno} in {frame.f_code.co_name}'
