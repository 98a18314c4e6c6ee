"""Runs the rows of a comparison: each part a process of its own, some at a time, taken up where it stopped."""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmnas_ext.archs import ArchSpec
from mmnas_ext.archs.json_file import parse_json
from mmnas_ext.runs.children import ChildError, Children
from mmnas_ext.runs.compared import NAME, Results, read_results
from mmnas_ext.runs.later import quiet
from mmnas_ext.runs.manifest import ADAPT, DERIVE, SEARCH, read_manifest
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.repeated import NAME as SAME
from mmnas_ext.runs.repeated import find_same, note_same, trained_in
from mmnas_ext.runs.rows import SEED, Comparison, Row, find_seed, read_options
from mmnas_ext.runs.run import prepare
from mmnas_ext.runs.session import continue_run
from mmnas_ext.workdir import WorkDir, write_text

CHOSEN = WorkDir(Path()).selected.name  # folder of what a row chose from another row's search
_ASKED = 'asked.json'
_READING = threading.Lock()  # MMEngine reads one config at a time
_Task = tuple[int, str]  # random seed and row


@dataclass(frozen=True)
class RowRunner:
    """Runs rows.

    Args:
        comparison: What is compared.
        tools: Folder of ``train.py`` and ``select_network.py``.
        children: Starts their processes.
    """

    comparison: Comparison
    tools: Path
    children: Children

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
        with _READING, quiet():
            options = self.comparison.options_of(row, seed)
            arch = self._arch(row, seed)
        if row.search_of is not None:
            self._select(row, seed, options)
        (folder / SAME).unlink(missing_ok=True)
        if arch is not None:
            with _READING, quiet():
                same = find_same(self.comparison, row, seed, arch)
            if same is None:
                self._train(row, folder, 'adapt', ['--arch', arch], options)
            else:
                note_same(self.comparison, row, seed, same)
            return same
        manifest = read_manifest(WorkDir(folder).manifest)
        if manifest is None or not manifest.is_done(DERIVE) or not row.train:
            self._train(row, folder, 'search', ['--search-only'], options)
        if row.train:
            self._train(row, folder, 'adapt', [], options)
        return None

    def is_done(self, row: Row, seed: int) -> bool:
        """Whether a row has ended under the settings of now; where they are others, its run will say so."""
        files = WorkDir(self.comparison.folder(row, seed))
        try:
            with _READING, quiet():
                return self._is_done(row, seed, files)
        except (ValueError, OSError):
            return False

    def _is_done(self, row: Row, seed: int, files: WorkDir) -> bool:
        manifest, options = read_manifest(files.manifest), self.comparison.options_of(row, seed)
        if row.search_of is not None and not self._is_chosen(row, seed, options):
            return False
        arch = self._arch(row, seed)
        if arch is not None and (files.root / SAME).is_file():
            same = find_same(self.comparison, row, seed, arch)
            where = trained_in(self.comparison, row, seed)
            return same is not None and where == self.comparison.folder(same, seed)
        if manifest is None:
            return False
        cfg = prepare(self.comparison.config_of(row), str(files.root), options=read_options(options))
        given = None if arch is None else ArchSpec.parse(arch)
        manifest, _ = continue_run(manifest, cfg, method_of(cfg), given, not row.train)
        return manifest.state == 'done' if row.train else manifest.is_done(SEARCH)

    def _train(self, row: Row, folder: Path, part: str, asked: list[str], options: list[str]) -> None:
        manifest = read_manifest(WorkDir(folder).manifest)
        begun = manifest is not None and (SEARCH if part == 'search' else ADAPT) in manifest.parts
        resume = ['--resume'] if manifest is not None else []
        self._call(row, folder, folder, part, 'train.py', [*resume, *asked], options, known=not begun)

    def _select(self, row: Row, seed: int, options: list[str]) -> None:
        if self._is_chosen(row, seed, options):
            return
        folder = self.comparison.folder(row, seed)
        asked = ['--out', str(folder / CHOSEN)]
        asked += [] if row.selection is None else ['--selection', row.selection]
        searched = self.comparison.folder(self.comparison.row(str(row.search_of)), seed)
        self._call(row, folder, searched, 'selection', 'select_network.py', asked, options, known=True)
        write_text(folder / CHOSEN / _ASKED, self._asked(row, seed, options))

    def _call(
        self, row: Row, place: Path, work_dir: Path, part: str, tool: str, asked: list[str], options: list[str],
        known: bool,
    ) -> None:  # fmt: skip
        config = self.comparison.config_of(row)
        command = [sys.executable, str(self.tools / tool), config, '--work-dir', str(work_dir), *asked]
        self.children.run(place, part, [*command, '--cfg-options', *options], known)

    def _is_chosen(self, row: Row, seed: int, options: list[str]) -> bool:
        """Whether what is asked for now was chosen, from the search that is there now."""
        folder = self.comparison.folder(row, seed) / CHOSEN
        note = folder / _ASKED
        if not note.is_file() or not (folder / 'arch.json').is_file():
            return False
        try:
            return parse_json(note.read_text(encoding='utf-8')) == parse_json(self._asked(row, seed, options))
        except ValueError:
            return False

    def _asked(self, row: Row, seed: int, options: list[str]) -> str:
        searched = WorkDir(self.comparison.folder(self.comparison.row(str(row.search_of)), seed))
        manifest = read_manifest(searched.manifest)
        part = None if manifest is None else manifest.parts.get(SEARCH)
        search = None if part is None else part.id
        asked = {'search': search, 'selection': row.selection, 'config': self.comparison.config_of(row)}
        return json.dumps({**asked, 'options': options}, indent=1)

    def _arch(self, row: Row, seed: int) -> str | None:
        """What ``--arch`` is given; ``None`` of a row that searches in its own folder."""
        if row.search_of is not None:
            return str(self.comparison.folder(row, seed) / CHOSEN / 'arch.json')
        if row.arch == SEED:
            found = find_seed(self.comparison.read(row))
            if found is None:
                raise ValueError(
                    'the row seed needs model.backbone.init_cfg.seed=dict(arch=…, checkpoint=…) in the config, which '
                    'names no arch: give another by --network NAME=ARCH, and --rows without seed'
                )
            return found if isinstance(found, str) else ArchSpec.parse(found).format('fna')
        if row.needs is not None:
            other = self.comparison.row(row.needs)
            folder = self.comparison.folder(other, seed)
            return str(folder / CHOSEN / 'arch.json' if other.search_of is not None else WorkDir(folder).arch)
        return None if row.arch is None else row.arch.replace('{seed}', str(seed))


def run_all(runner: RowRunner, jobs: int = 2, say: Callable[[str], None] = print) -> dict[tuple[int, str], str]:
    """Runs all rows over all random seeds, a few at a time; a failure ends nothing but what needs that row.

    Args:
        runner: Runs a row.
        jobs: Runs at a time.
        say: Is told what begins and ends.

    Returns:
        Why a row failed, by random seed and name of the row.
    """
    comparison = runner.comparison
    waiting: list[_Task] = [(seed, row.name) for seed in comparison.seeds for row in comparison.rows]
    running: dict[Future[Row | None], _Task] = {}
    done: set[_Task] = set()
    failed: dict[_Task, str] = {}
    pool = ThreadPoolExecutor(jobs)
    try:
        while waiting or running:
            for task in list(waiting):
                if len(running) == jobs:
                    break
                seed, row = task[0], comparison.row(task[1])
                needed = (seed, str(row.needs))
                if row.needs is None or needed in done:
                    waiting.remove(task)
                    if runner.is_done(row, seed):
                        done.add(task)
                        say(f'seed {seed}, {row.name}: done already')
                    else:
                        say(f'seed {seed}, {row.name}: begins')
                        running[pool.submit(runner.run, row, seed)] = task
                elif needed in failed:
                    waiting.remove(task)
                    failed[task] = f'it needs row {row.needs}, which failed'
                    say(f'seed {seed}, {row.name}: {failed[task]}')
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                seed, name = task = running.pop(future)
                reason = _outcome(future)
                if reason:
                    failed[task] = reason
                else:
                    done.add(task)
                    same = future.result()
                    reason = 'done' if same is None else f'trained already, as {same.name}: the same to the bit'
                say(f'seed {seed}, {name}: {reason}')
    finally:
        runner.children.end()
        pool.shutdown(cancel_futures=True)
    return failed


def _outcome(future: Future[Row | None]) -> str:
    """Why a run failed; empty if it did not. What no user can cause is raised."""
    error = future.exception()
    if error is None or isinstance(error, ChildError | ValueError | OSError):
        return '' if error is None else str(error)
    raise error


def compare(comparison: Comparison, args: argparse.Namespace, tools: Path) -> None:
    """Runs what is not there yet of a comparison, prints its tables, and writes ``comparison.json``.

    Args:
        comparison: The comparison.
        args: What `mmnas_ext.cli.add_comparing` has read: which rows, how many at a time, which metric.
        tools: Folder of ``train.py`` and ``select_network.py``.

    Raises:
        ValueError: A row, the metric or the baseline is unknown, or nothing has ended and only the table was asked for.
        SystemExit: With status 1: a row has failed; what has ended is printed all the same.
    """
    for name in ('jobs', 'threads'):
        if getattr(args, name) < 1:
            raise ValueError(f'--{name} must be at least 1, got {getattr(args, name)}')
    asked = comparison if args.rows is None else comparison.only(args.rows)

    def read() -> Results:
        return read_results(asked, args.metric, args.baseline)

    read()  # a metric or baseline that is not there is said before hours of training
    failed: dict[_Task, str] = {}
    if not args.table:
        runner = RowRunner(asked, tools, Children(args.threads))

        def tell(text: str) -> None:
            print(text, flush=True)
            _write(comparison, read())

        with stopped_by_signals():
            failed = run_all(runner, args.jobs, tell)
    found = read()
    if args.table and not found.rows:
        raise ValueError(f'--table: nothing has ended yet in {comparison.work_dir}')
    if found.rows:
        _write(comparison, found)
        print(f'\n{found.show()}')
    for (seed, name), reason in failed.items():
        print(f'error: seed {seed}, {name}: {reason}', file=sys.stderr)
    if failed:
        sys.exit(1)


def _write(comparison: Comparison, found: Results) -> None:
    if found.rows:
        write_text(comparison.work_dir / NAME, found.format())


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Ends this process in order where it is told to end, by Ctrl-C or SIGTERM: its children end with it."""

    def stop(number: int, frame: object) -> None:
        print('stopped: the same command goes on', file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
