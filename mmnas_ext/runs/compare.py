"""Runs the rows of a comparison: each part a process of its own, some at a time, taken up where it stopped."""

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmnas_ext.archs import ArchSpec
from mmnas_ext.runs.changes import LONGER, figure_changes, find_changes, list_changes
from mmnas_ext.runs.children import BusyError, ChildError, Children, visible_devices
from mmnas_ext.runs.compared import NAME, Results, read_results
from mmnas_ext.runs.gradient import read_space
from mmnas_ext.runs.last_rung import check_adapting
from mmnas_ext.runs.later import quiet
from mmnas_ext.runs.leases import Leases
from mmnas_ext.runs.manifest import ADAPT, DERIVE, SEARCH, read_manifest
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.repeated import NAME as SAME
from mmnas_ext.runs.repeated import find_same, note_same
from mmnas_ext.runs.row_states import CHOSEN, READING, RowStates
from mmnas_ext.runs.rows import Comparison, Row
from mmnas_ext.runs.session import training_then_and_now
from mmnas_ext.runs.stopping import stopped_by_signals
from mmnas_ext.search.choosing import Choosing
from mmnas_ext.workdir import WorkDir, write_text

_LOOK = 2.0  # seconds after which a row that another process is at is looked at again
_BUSY = 10.0  # seconds after which a folder that is locked is tried again
_Task = tuple[int, str]  # random seed and row


@dataclass(frozen=True)
class RowRunner:
    """Runs rows.

    Args:
        comparison: What is compared.
        tools: Folder of ``train.py`` and ``select_network.py``.
        children: Starts their processes.
        whole: All rows that there are, of which `comparison` may have some: the training of any may count for a row.
    """

    comparison: Comparison
    tools: Path
    children: Children
    whole: Comparison | None = None

    @cached_property
    def states(self) -> RowStates:
        """How far its rows are."""
        return RowStates(self.comparison, self.whole or self.comparison)

    def run(self, row: Row, seed: int) -> Row | None:
        """Runs a row with a random seed to its end; what is done of it is not done again.

        Returns:
            The row whose training has ended and is the same to the bit, and so is not repeated; ``None`` where the row
            was trained itself.

        Raises:
            ChildError: A process failed.
            ResumeError: What an earlier run left is damaged.
            ValueError: The config has no such row.
        """
        folder = self.comparison.folder(row, seed)
        with READING, quiet():
            options = self.comparison.options_of(row, seed)
            arch = self.states.arch_of(row, seed)
        if row.search_of is not None:
            self._select(row, seed, options)
        (folder / SAME).unlink(missing_ok=True)
        if arch is not None:
            with READING, quiet():
                same = find_same(self.states.whole, row, seed, arch)
            if same is None:
                self._train(row, folder, 'adapt', ['--arch', arch], options, ArchSpec.parse(arch))
            else:
                note_same(self.states.whole, row, seed, same)
            return same
        if not row.train or not self.states.is_found(row, folder, options):
            self._train(row, folder, 'search', ['--search-only'], options)
        if row.train:
            self._train(row, folder, 'adapt', [], options)
        return None

    def _train(
        self, row: Row, folder: Path, part: str, asked: list[str], options: list[str], arch: ArchSpec | None = None
    ) -> None:
        manifest = read_manifest(WorkDir(folder).manifest)
        if manifest is not None and manifest.state == 'done':
            with READING, quiet():
                cfg = self.states.prepare(row, folder, options)
                both = training_then_and_now(manifest, cfg, method_of(cfg))
                refused = [] if both is None else find_changes(*both)[1]
            changed = [] if both is None else figure_changes(*both)
            if other := [change for change in changed if change not in refused and change.key not in LONGER]:
                raise ValueError(
                    f'{folder} was validated otherwise than is asked for now, and its figure is not one of this '
                    f'comparison: {list_changes(other)}; take another --work-dir'
                )
        begun = manifest is not None and (SEARCH if part == 'search' else ADAPT) in manifest.parts
        resume = ['--resume'] if manifest is not None else []
        noted = manifest.parts[DERIVE].notes.get('arch') if manifest and DERIVE in manifest.parts else None
        # the former network's training is set aside, and its minutes with it
        differs = None not in (arch, noted) and ArchSpec.parse(str(noted)) != arch
        anew = part == 'adapt' and manifest is not None and (differs or ADAPT not in manifest.parts)
        self._call(row, folder, folder, part, 'train.py', [*resume, *asked], options, not begun or anew, anew)

    def _select(self, row: Row, seed: int, options: list[str]) -> None:
        if self.states.is_chosen(row, seed, options):
            return
        folder = self.comparison.folder(row, seed)
        self.states.forget_choice(row, seed)
        asked = ['--out', str(folder / CHOSEN)]
        asked += [] if row.selection is None else ['--selection', row.selection]
        searched = self.comparison.folder(self.comparison.row(str(row.search_of)), seed)
        self._call(row, folder, searched, 'selection', 'select_network.py', asked, options, known=True)
        self.states.note_choice(row, seed, options)

    def _call(
        self, row: Row, place: Path, work_dir: Path, part: str, tool: str, asked: list[str], options: list[str],
        known: bool, anew: bool = False,
    ) -> None:  # fmt: skip
        config = self.comparison.config_of(row)
        command = [sys.executable, str(self.tools / tool), config, '--work-dir', str(work_dir), *asked]
        self.children.run(place, part, [*command, '--cfg-options', *options], known, anew, work_dir)


def run_all(
    runner: RowRunner,
    jobs: int = 2,
    say: Callable[[str], None] = print,
    leases: Leases | None = None,
    ended: Callable[[], None] = lambda: None,
) -> dict[tuple[int, str], str]:
    """Runs all rows over all random seeds, a few at a time; a failure ends nothing but what needs that row.

    Other processes may run the same comparison in the same folder, on this machine or another: each takes rows that
    nobody is at, and takes over the rows of one that has died.

    Args:
        runner: Runs a row.
        jobs: Runs at a time.
        say: Is told what begins and ends.
        leases: Of this process.
        ended: Is called when a row has ended that was run here.

    Returns:
        Why a row failed, by random seed and name of the row.
    """
    table = _Table(runner, leases or Leases(), say)
    running: dict[Future[Row | None], _Task] = {}
    pool = ThreadPoolExecutor(jobs)
    try:
        while table.waiting or running:
            while len(running) < jobs and (task := table.begin()) is not None:
                running[pool.submit(runner.run, runner.comparison.row(task[1]), task[0])] = task
            if not running:
                time.sleep(_LOOK if table.waiting else 0)
            for future in wait(running, _LOOK if table.elsewhere else None, FIRST_COMPLETED).done:
                table.end(running.pop(future), future)
                ended()
    finally:
        runner.children.end()
        pool.shutdown(cancel_futures=True)
        table.leases.close()
    return table.failed


def _check_adapting(comparison: Comparison) -> None:
    """Raises ValueError for brief adaptations that a row asks for and that would fail, after the search."""
    for row in comparison.rows:
        cfg = comparison.read(row)
        plan = Choosing.parse((cfg.get('optim_wrapper') or {}).get('selection')).adapt if cfg.get('derived') else None
        if row.search_of is not None and row.selection != 'argmax' and plan is not None:
            check_adapting(cfg, plan, read_space(cfg))


class _Table:
    """What is to be done of a comparison.

    Args:
        runner: Runs a row.
        leases: Of this process.
        say: Is told what begins and ends.

    Attributes:
        waiting: What has not begun here.
        elsewhere: What of it another process is at.
        failed: Why a row failed.
    """

    def __init__(self, runner: RowRunner, leases: Leases, say: Callable[[str], None]) -> None:
        self.runner, self.leases, self.say = runner, leases, say
        comparison = runner.comparison
        self.waiting: list[_Task] = [(seed, row.name) for seed in comparison.seeds for row in comparison.rows]
        self.elsewhere: set[_Task] = set()
        self.failed: dict[_Task, str] = {}
        self._done: set[_Task] = set()
        self._busy: dict[_Task, float] = {}

    def begin(self) -> _Task | None:
        """The next row that can begin here, its lease taken; ``None`` if none can now."""
        for task in list(self.waiting):
            seed, name = task
            row = self.runner.comparison.row(name)
            failed = next((needed for needed in row.waits_for if (seed, needed) in self.failed), None)
            if failed is not None:
                self._close(task, f'it needs row {failed}, which failed', failed=True)
            elif all((seed, needed) in self._done for needed in row.waits_for) and self._take(task, row):
                if self.runner.states.is_done(row, seed):
                    self._close(task, 'done already')
                else:
                    self.waiting.remove(task)
                    self.say(f'seed {seed}, {name}: begins')
                    return task
        return None

    def end(self, task: _Task, future: Future[Row | None]) -> None:
        """Notes how a row has ended."""
        reason = _outcome(future)
        if not reason:
            same = future.result()
            self._close(task, 'done' if same is None else f'trained already, as {same.name}: the same to the bit')
        elif task in self.elsewhere:
            self.waiting.append(task)  # this process was taken for dead: it waits for the other now
        elif isinstance(future.exception(), BusyError):
            # what a process without a lease has begun, or one whose parent was killed
            self.waiting.append(task)
            self.elsewhere.add(task)
            self._busy[task] = time.monotonic() + _BUSY
            self.leases.give_back(self._folder(task))
            self.say(f'seed {task[0]}, {task[1]}: {reason}')
        else:
            self._close(task, reason, failed=True)

    def _take(self, task: _Task, row: Row) -> bool:
        folder = self._folder(task)
        if time.monotonic() < self._busy.get(task, 0.0):
            return False
        if self.leases.take(folder, lambda: self._lose(task, folder)):
            self.elsewhere.discard(task)
            return True
        if task not in self.elsewhere:
            self.elsewhere.add(task)
            self.say(f'seed {task[0]}, {row.name}: at work is {self.leases.holder(folder) or "another process"}')
        return False

    def _folder(self, task: _Task) -> Path:
        comparison = self.runner.comparison
        return comparison.folder(comparison.row(task[1]), task[0])

    def _lose(self, task: _Task, folder: Path) -> None:
        self.elsewhere.add(task)
        self.runner.children.end_in(folder)

    def _close(self, task: _Task, said: str, failed: bool = False) -> None:
        seed, name = task
        if task in self.waiting:
            self.waiting.remove(task)
        if failed:
            self.failed[task] = said
        else:
            self._done.add(task)
        self.elsewhere.discard(task)
        self.leases.give_back(self._folder(task))
        self.say(f'seed {seed}, {name}: {said}')


def _note_missing(found: Results, asked: Comparison, failed: dict[_Task, str]) -> None:
    """Notes rows that were run and are in no table: they have been begun anew since, or their config has changed."""
    there = {(outcome.seed, row.name) for row in found.rows for outcome in row.outcomes}
    for each in found.left_out:
        failed.setdefault((each.seed, each.name), f'it has ended and is left out: {each.why}')
    for row in asked.rows:
        for seed in asked.seeds:
            if row.train and (seed, row.name) not in there:
                failed.setdefault((seed, row.name), 'it has ended, and has been begun anew since: by another process?')


def _outcome(future: Future[Row | None]) -> str:
    """Why a run failed; empty if it did not. What no user can cause is raised."""
    error = future.exception()
    if error is None or isinstance(error, ChildError | ValueError | OSError):
        return '' if error is None else str(error)
    raise error


def compare(comparison: Comparison, args: argparse.Namespace, tools: Path, name: str = NAME) -> None:
    """Runs what is not there yet of a comparison, prints its tables, and writes ``comparison.json``.

    Args:
        comparison: The comparison.
        args: What `mmnas_ext.cli.add_comparing` has read: which rows, how many at a time, which metric.
        tools: Folder of ``train.py`` and ``select_network.py``.
        name: Another name of that file, where the folder is another comparison's too.

    Raises:
        ValueError: A row, the metric or the baseline is unknown, a config has a random seed that none of the
            comparison's would change, or nothing has ended and only the table was asked for.
        SystemExit: With status 1: a row has failed; what has ended is printed all the same.
    """
    for option in ('jobs', 'threads'):
        if getattr(args, option) < 1:
            raise ValueError(f'--{option} must be at least 1, got {getattr(args, option)}')
    asked = comparison.only(args.rows)

    states = RowStates(comparison, comparison)

    def read(rows: Comparison) -> Results:
        return read_results(rows, args.metric, args.baseline, states.why_other)

    def write() -> None:
        """Of all rows, whichever are asked for now."""
        found = read(comparison)
        if found.rows or found.left_out:
            write_text(comparison.work_dir / name, found.format(), leases.token)

    try:
        with READING, quiet():
            asked.check_shared()
            _check_adapting(asked)
    except ValueError as error:
        if not args.table:
            raise
        print(f'warning: {error}', file=sys.stderr)
    # a metric or baseline that is not there is said before hours of training
    read_results(asked, args.metric, args.baseline)
    failed: dict[_Task, str] = {}
    leases = Leases()
    if not args.table:
        runner = RowRunner(asked, tools, Children(args.threads, visible_devices()), comparison)

        def tell(text: str) -> None:
            print(text, flush=True)

        def keep() -> None:
            with suppress(ValueError):  # a metric that no validation gives: what is being trained is not lost for that
                write()

        with stopped_by_signals():
            failed = run_all(runner, args.jobs, tell, leases, keep)
    found = read(asked)
    for each in found.left_out if not found.rows else ():
        print(f'warning: {each}', file=sys.stderr)
    if args.table and not found.rows:
        other = ' under the settings of now' if found.left_out else ''
        raise ValueError(f'--table: nothing has ended yet in {comparison.work_dir}{other}')
    if found.rows:
        print(f'\n{found.show()}')
    if not args.table:
        _note_missing(found, asked, failed)
    for (seed, row), reason in failed.items():
        print(f'error: seed {seed}, {row}: {reason}', file=sys.stderr)
    if not args.table:
        try:
            write()
        except ValueError as error:  # of a row that was not asked for
            print(f'warning: {name} is not written: {error}', file=sys.stderr)
    if failed:
        sys.exit(1)
