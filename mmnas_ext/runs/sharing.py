"""Who has a run: one process, or several that share the trials of a search, each those that nobody is at.

What such processes have in common is the work dir, where three kinds of leases (`mmnas_ext.runs.leases`) keep them
apart. ``.lease`` in a trial's folder: who is at that trial. ``.turn.lease`` in the work dir, held for a moment: who
reads the manifest and writes it. ``.run.lease``: who has the run, a process that shares nothing, or of several the one
that ranks the trials when all have ended and goes on; while it is held nobody else writes the manifest.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process

from mmnas_ext.engine.stalls import STEPS
from mmnas_ext.runs.leases import NAME, Leases
from mmnas_ext.runs.manifest import SEARCH, Manifest, Part, ResumeError, read_manifest
from mmnas_ext.runs.method import Method
from mmnas_ext.runs.session import Session, agreed, say
from mmnas_ext.workdir import WorkDir, write_text

RUN, TURN = '.run.lease', '.turn.lease'
_LOOK = 1.0  # seconds after which trials that others are at are looked at again
_SOON = 0.05  # seconds after which a process tries again whether it is its turn


class LostTrialError(RuntimeError):
    """Another process took this one for dead and has its trial now."""


class Alone:
    """A run that one process has to itself, of any method; trials it makes in their order.

    Args:
        files: The work dir.
        leases: Of this process.
        end: Ends this process, given its exit status.

    Attributes:
        session: The run, once it is open.
        pace: What follows a time that was estimated from this process's trials.
    """

    pace = ''

    def __init__(self, files: WorkDir, leases: Leases | None = None, end: Callable[[int], Any] = os._exit) -> None:
        self.files, self.leases, self._end = files, leases or Leases(), end
        self.session: Session

    def __enter__(self) -> 'Alone':
        return self

    def __exit__(self, *_: object) -> None:
        self.leases.close()

    def open(self, begin: Callable[[bool], Session], resume: bool) -> Session | None:
        """Opens the run.

        Args:
            begin: Opens it, given whether it goes on.
            resume: Whether it is asked to go on.

        Raises:
            ResumeError: Other processes are at work on it.
        """
        self.take_run()
        self.session = begin(resume)
        self.session.work = self
        return self.session

    def take_run(self) -> None:
        """Takes the run and waits, where it cannot be told at once, whether others who seem to be at it live.

        Raises:
            ResumeError: One does.
        """

        def look() -> None:
            # the run first: who shares its trials takes a trial first and looks for the run's lease then
            trials = [(file.parent, NAME) for file in sorted(self.files.trials.glob(f'*/{NAME}'))]
            # a new choice may set aside what others train of the front
            parts = [*trials, *((file.parent, RUN) for file in sorted(self.files.adapted.glob(f'*/{RUN}')))]
            wanted = [(self.files.root, RUN), *parts]
            left = [(place, name) for place, name in wanted if not self.leases.take(place, self._lose_run, name)]
            for place, name in left:
                who = self.leases.holder(place, name) or 'another process'
                say(f'{who} was at work in {place}: waiting for a sign of life of it')
                if not self.leases.settle_on(place, self._lose_run, name):
                    raise ResumeError(
                        f'{self.files.root}: at work is {who}: wait for its end, take another --work-dir, or share '
                        'the trials of a random search by --join'
                    )
            for place, name in parts:
                self.leases.give_back(place, name)

        agreed(look)

    def begin(self) -> None:
        """Notes that the search has begun, or goes on."""
        self.session.begin(SEARCH, self.session.settings.search)

    def ended(self) -> list[int]:
        """The trials that have ended, by any process."""
        return list(self.session.manifest.parts[SEARCH].notes.get('trials', []))

    def take(self, left: Sequence[int]) -> int | None:
        """The trial that this process makes next; ``None`` where others are at all that are left.

        Args:
            left: Trials that have not ended.
        """
        return left[0]

    def lost(self) -> bool:
        """Whether another process has the trial that this one makes."""
        return False

    def note(self, index: int, result: Path, text: str) -> bool:
        """Writes down what a trial gave, and that it has ended.

        Args:
            index: Of the trial.
            result: The file.
            text: Its content.

        Returns:
            Whether it was this process's to write.
        """
        if is_main_process():
            write_text(result, text)
        self.session.note(SEARCH, trials=[*self.ended(), index])
        return True

    def give_back(self, index: int) -> None:
        """Lets go of a trial that has ended."""

    def lead(self) -> bool:
        """Whether this process ranks the trials, all of which have ended, and goes on."""
        return True

    def _lose_run(self) -> None:
        print(
            f'error: this process was taken for dead, and another one has the run in {self.files.root} now',
            file=sys.stderr, flush=True,
        )  # fmt: skip
        self._end(1)


class Shared(Alone):
    """Trials that several processes make, on one machine or many that share the work dir; arguments are the same."""

    pace = ' of one process'

    def __init__(self, files: WorkDir, leases: Leases | None = None, end: Callable[[int], Any] = os._exit) -> None:
        super().__init__(files, leases, end)
        self._lost = False
        self._told: set[int] = set()

    def open(self, begin: Callable[[bool], Session], resume: bool) -> Session | None:
        """Opens the run, which the first process begins; ``None`` where another one has ranked the trials already.

        Raises:
            ResumeError: Another process makes all trials, and shares none.
        """
        leads = False
        while True:
            with self._turn():
                if leads or not self._holder():
                    self.session = begin(agreed(self.files.manifest.is_file))
                    self.session.work = self
                    if self.session.found is None:
                        super().begin()
                        agreed(lambda: self.leases.give_back(self.files.root, RUN))
                    elif not leads:  # nothing is left to share
                        agreed(lambda: self.leases.take(self.files.root, self._lose_run, RUN))
                    return self.session
            leads = agreed(lambda: self.leases.settle_on(self.files.root, self._lose_run, RUN))
            if not leads:
                self._tell_holder()
                return None

    def begin(self) -> None:
        """Nothing: it was noted when the run was opened, in this process's turn."""

    def ended(self) -> list[int]:
        """The trials that have ended, as the manifest says now.

        Raises:
            ResumeError: It is another run's by now.
        """
        self.session.manifest = agreed(self._read)
        return super().ended()

    def take(self, left: Sequence[int]) -> int | None:
        """The first trial that nobody is at; where others are at all of them, waits a moment."""
        self._lost = False

        def look() -> int | None:
            for index in left:
                place = self._place(index)
                if self.leases.take(place, self._lose):
                    known = self._read().parts[SEARCH].notes.get('trials', [])
                    if index not in known and not self.leases.holder(self.files.root, RUN):
                        return index
                    self.leases.give_back(place)  # it has ended a moment ago, or somebody is about to take all
                elif index not in self._told:
                    self._told.add(index)
                    say(f'trial {index + 1}: at work is {self.leases.holder(place) or "another process"}')
            time.sleep(_LOOK)
            return None

        found: int | None = agreed(look)
        STEPS.add()  # waiting for others is no standstill
        return found

    def lost(self) -> bool:
        """Whether another process has the trial that this one makes; the main process alone knows."""
        return self._lost

    def note(self, index: int, result: Path, text: str) -> bool:
        """Writes down what a trial gave, in this process's turn, if the trial is still its own.

        Raises:
            ResumeError: Another process has ranked fewer trials and gone on.
        """
        while True:
            with self._turn():
                if not agreed(lambda: self.leases.holds(self._place(index))):
                    return False
                known, who = self.ended(), self._holder()
                if not who:
                    if is_main_process():
                        write_text(result, text)
                    self.session.note(SEARCH, trials=sorted({*known, index}))
                    return True
                if self.session.manifest.is_done(SEARCH):
                    raise ResumeError(
                        f'{who} has ended the search in {self.files.root} without trial {index:02d}, by another '
                        'random_search.count: --join again when it has ended'
                    )
            time.sleep(_LOOK)
            STEPS.add()

    def give_back(self, index: int) -> None:
        """Lets go of a trial that has ended."""
        agreed(lambda: self.leases.give_back(self._place(index)))

    def lead(self) -> bool:
        """Takes the run, if nobody has it or who had it is dead; says who has it otherwise."""
        if not agreed(lambda: self.leases.settle_on(self.files.root, self._lose_run, RUN)):
            self._tell_holder()
            return False
        with self._turn():  # who had its turn before this process had the run has written by now
            self.session.manifest = agreed(self._read)
        return True

    def _tell_holder(self) -> None:
        """Says who has the run, whose trials have ended.

        Raises:
            ResumeError: They have not.
        """
        manifest = agreed(lambda: read_manifest(self.files.manifest))
        who = self._holder() or 'another process'
        if manifest is None or (not manifest.parts.get(SEARCH, Part('')).done and not manifest.is_given):
            raise ResumeError(
                f'{self.files.root}: at work is {who}, which shares no trials: wait for its end, or end it and start '
                'each process with --join'
            )
        say(f'nothing is left to share: {who} goes on with the run; should it die, the same command takes it over')

    def _holder(self) -> str:
        """Who has the run; empty if nobody has."""
        found: str = agreed(lambda: self.leases.holder(self.files.root, RUN))
        return found

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Waits until no other process reads the manifest and writes it, and keeps others from it."""

        def wait() -> None:
            while not self.leases.take(self.files.root, name=TURN):
                time.sleep(_SOON)

        agreed(wait)
        try:
            yield
        finally:
            if is_main_process():
                self.leases.give_back(self.files.root, TURN)

    def _read(self) -> Manifest:
        manifest = read_manifest(self.files.manifest)
        if manifest is None or manifest.id != self.session.manifest.id:
            raise ResumeError(f'{self.files.root} holds another run by now: this one was set aside')
        return manifest

    def _place(self, index: int) -> Path:
        return place_of(self.files, index)

    def _lose(self) -> None:
        self._lost = True


def place_of(files: WorkDir, index: int) -> Path:
    """The folder of a trial."""
    return files.trials / f'{index:02d}'


def work_of(files: WorkDir, join: bool) -> Alone:
    """What keeps other processes from a run: from all of it, or by ``--join`` from the trials that this one makes."""
    return Shared(files) if join else Alone(files)


def check_join(method: Method, others: Sequence[str]) -> None:
    """Raises ValueError where trials cannot be shared.

    Args:
        method: Of the run.
        others: Options that are given beside ``--join`` and contradict it.
    """
    if not method.shares:
        raise ValueError(
            f'--join shares the trials of a random search among processes, and this config is of the method '
            f'{method.name!r}, whose processes are joined by --launcher'
        )
    if others:
        raise ValueError(f'--join begins the random search of a work dir or goes on with it: leave {others[0]} out')


def choose_gpu() -> None:
    """Gives each of the processes that a launcher has started on one machine, without joining them, a GPU."""
    count = torch.cuda.device_count()
    local = os.environ.get('LOCAL_RANK') if 'WORLD_SIZE' in os.environ else os.environ.get('SLURM_LOCALID')
    if count > 1 and local is not None:
        torch.cuda.set_device(int(local) % count)
