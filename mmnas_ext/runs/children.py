"""Processes that run a tool for hours: one at a time in a folder, their processor time noted, none left behind."""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from mmnas_ext.archs.json_file import read_json
from mmnas_ext.runs.leases import NAME as LEASE
from mmnas_ext.search.fields import check_kind
from mmnas_ext.workdir import write_text

CLOCK, LOG, LOCK = 'seconds.json', 'run.log', '.lock'
PARTS = ('search', 'selection', 'adapt')
_PR_SET_PDEATHSIG = 1  # of Linux
_PRCTL = getattr(ctypes.CDLL(None), 'prctl', None) if sys.platform == 'linux' else None
_GRACE = 10.0  # seconds between asking a process to end and ending it
_LONGEST = 300  # characters of what a process said at its end
# as in the Makefile: the C library keeps what PyTorch frees (glibc alone reads these)
_KEEP = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': str(1 << 40), 'MPLBACKEND': 'Agg'}


class ChildError(RuntimeError):
    """A process has failed, or may not begin."""


class BusyError(ChildError):
    """Another process of this machine is at work in the folder."""


@dataclass(frozen=True)
class Clock:
    """Processor seconds of a run's parts, over all its starts.

    Args:
        seconds: By part; ``None`` of a part of which some start was not measured to its end.
        running: The part that was under way when this was written.
    """

    seconds: Mapping[str, float | None] = field(default_factory=dict)
    running: str = ''

    @classmethod
    def parse(cls, source: Path) -> 'Clock':
        """Reads a ``seconds.json``; a folder without one has measured nothing.

        Raises:
            ValueError: The file is something else.
        """
        if not source.is_file():
            return cls()
        content = dict(check_kind(read_json(source), dict, str(source)))
        running = check_kind(content.pop('running', ''), str, f'{source}: running')
        for part, spent in content.items():
            if spent is not None and check_kind(spent, float, f'{source}: {part}') < 0:
                raise ValueError(f'{source}: {part} must not be negative, got {spent}')
        return cls(content, running)

    def format(self) -> str:
        """As JSON text; `parse` reads it back."""
        return json.dumps({**self.seconds, **({'running': self.running} if self.running else {})})

    @property
    def known(self) -> dict[str, float]:
        """Seconds of the parts that were measured to their end."""
        return {part: spent for part, spent in self.seconds.items() if spent is not None and part != self.running}

    def without(self, part: str) -> 'Clock':
        """The clock as if a part had never begun."""
        seconds = {name: spent for name, spent in self.seconds.items() if name != part}
        return Clock(seconds, '' if self.running == part else self.running)

    def begin(self, part: str, known: bool) -> 'Clock':
        """The clock while a part runs.

        Args:
            part: The part.
            known: Whether all that was done of it before was measured here.
        """
        lost = {self.running} if self.running else set()
        if not known and part not in self.seconds:
            lost.add(part)
        return Clock({**self.seconds, **dict.fromkeys(lost)}, part)

    def end(self, spent: float) -> 'Clock':
        """The clock after the part that runs has taken `spent` seconds more."""
        before = self.seconds.get(self.running, 0.0)
        return Clock({**self.seconds, self.running: None if before is None else before + spent})


class Children:
    """The processes of this one.

    Args:
        threads: Of each.
        devices: GPUs as ``CUDA_VISIBLE_DEVICES`` names them. Each process sees one: that which fewest others see.
    """

    def __init__(self, threads: int = 1, devices: Sequence[str] = ()) -> None:
        numbers = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), str(threads))
        self.env = {**_KEEP, **os.environ, **numbers}
        self._devices = dict.fromkeys(devices, 0)
        self._living: dict[int, Path] = {}
        self._ended = False
        self._lock = threading.Lock()

    def run(
        self,
        place: Path,
        part: str,
        command: Sequence[str],
        known: bool,
        anew: bool = False,
        work_dir: Path | None = None,
    ) -> float:
        """Runs a command to its end; what it says is added to ``run.log`` of a folder.

        Args:
            place: The folder; one process at a time runs in it.
            part: Whose processor time that is.
            command: The command.
            known: Whether all that was done of that part before was measured here.
            anew: Whether the part begins anew: what was spent on it before was for something else.
            work_dir: Another folder that the command writes into.

        Returns:
            Seconds of the processor, by the process and those that it has waited for. Those of one that wrote nothing,
            such as a start that was refused, are of no part.

        Raises:
            BusyError: Another process runs in the folder.
            ChildError: It failed; says what it said last.
        """
        place.mkdir(parents=True, exist_ok=True)
        with (place / LOCK).open('w') as lock, (place / LOG).open('ab') as log:
            try:
                # the child inherits it: it is held as long as anything of this start lives
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BusyError(f'another process is at work in {place}: wait for its end') from None
            clock = Clock.parse(place / CLOCK)
            before, written = clock, _newest(place, work_dir)
            clock = (clock.without(part) if anew else clock).begin(part, known)
            write_text(place / CLOCK, clock.format())
            begun, spent, code = log.tell(), 0.0, -1
            try:
                code, spent = self._wait(place, command, log, lock)
            finally:
                idle = code >= 0 and _newest(place, work_dir) == written  # it ended by itself
                write_text(place / CLOCK, (before if idle else clock.end(spent)).format())
        if code:
            raise ChildError(f'{_last_words(place / LOG, begun)} (exit status {code}, {place / LOG})')
        return spent

    def _wait(self, place: Path, command: Sequence[str], log: IO[bytes], lock: IO[str]) -> tuple[int, float]:
        settings: dict[str, Any] = dict(stdout=log, stderr=subprocess.STDOUT)
        with self._lock:
            if self._ended:
                raise ChildError('stopped before it began')
            device = min(self._devices, key=self._devices.__getitem__, default=None)
            settings['env'] = self.env if device is None else {**self.env, 'CUDA_VISIBLE_DEVICES': device}
            # a session of its own: it and its loaders' workers end together, and at our word
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=[lock.fileno()],
                preexec_fn=_die_with_parent, **settings,
            )  # fmt: skip
            self._living[process.pid] = place
            if device is not None:
                self._devices[device] += 1
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # workers that it has left; its number is not given away yet
        finally:
            with self._lock:
                self._living.pop(process.pid)
                if device is not None:
                    self._devices[device] -= 1
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_utime + usage.ru_stime

    def end(self) -> None:
        """Ends all processes, and lets none begin."""
        with self._lock:
            self._ended = True
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE
        while self._living and time.monotonic() < deadline:
            time.sleep(0.05)
        self._signal(signal.SIGKILL)

    def end_in(self, place: Path) -> None:
        """Ends the process in a folder at once: its work is another's."""
        self._signal(signal.SIGKILL, place)

    def _signal(self, number: int, place: Path | None = None) -> None:
        with self._lock:
            for pid, where in self._living.items():
                if place in (None, where):
                    with suppress(ProcessLookupError):
                        os.killpg(pid, number)


def _newest(*folders: Path | None) -> int:
    """When something was last written into folders, but for what is noted here of every start."""
    newest = 0
    for folder in (folder for folder in folders if folder is not None):
        for place, _, names in os.walk(folder):
            for name in (name for name in names if not name.startswith((CLOCK, LOG, LOCK, LEASE))):
                with suppress(FileNotFoundError):  # another process may be at work in the other folder
                    newest = max(newest, os.stat(os.path.join(place, name)).st_mtime_ns)
    return newest


def _die_with_parent() -> None:
    """Lets the process that is about to begin end if this one is killed outright, as by the system for its memory."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)


def visible_devices() -> tuple[str, ...]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; none on a CPU."""
    said = os.environ.get('CUDA_VISIBLE_DEVICES')
    if said is None:
        return tuple(str(index) for index in range(torch.cuda.device_count()))
    return tuple(name.strip() for name in said.split(',') if name.strip()) if torch.cuda.device_count() else ()


def _last_words(log: Path, begun: int) -> str:
    """What a process said of its failure: its line ``error: …``, else its last line."""
    with log.open('rb') as file:
        file.seek(begun)
        lines = [line.strip() for line in file.read().decode(errors='replace').splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith('error:')), lines[-1] if lines else 'no word')
    return said if len(said) <= _LONGEST else f'{said[:_LONGEST]} …'
