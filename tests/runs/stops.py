"""Commands that reach a place, say so and wait there to be told to end; what they must not leave behind."""

import json
import multiprocessing
import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from tests.engine import processes

HERE, PLACE = 'TINY_HERE', 'TINY_PLACE'  # the file that says that a process waits, and where it is to wait


def wait_if(place: str) -> None:
    """Waits for ever where this is the place."""
    if os.environ.get(PLACE) == place:
        Path(os.environ[HERE]).touch()
        while True:
            time.sleep(0.01)


@HOOKS.register_module()
class WaitVisualizationHook(Hook):
    """Waits at a place of a training: ``<part>:<place>``.

    Args:
        part: Of the run.
        at: Iterations that are done by then.
    """

    def __init__(self, part: str, at: int) -> None:
        self.part, self.at = part, at

    def before_train(self, runner: Any) -> None:
        model = getattr(runner.model, 'module', runner.model)

        def inside(*_: Any) -> None:
            phase = getattr(runner.optim_wrapper, 'phase', 'weights')
            if model.training and runner.iter >= self.at:
                wait_if(f'{self.part}:{phase}')

        getattr(model, 'head', model).register_forward_pre_hook(inside)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        wait_if(f'{self.part}:validating')


def command(argv: list[str]) -> None:
    """Runs ``mmnas`` in a session of its own, as from a terminal; ends with its exit status."""
    os.setsid()
    spare_time()
    wait_inside_files()
    from mmnas_ext.cli.main import main

    raise SystemExit(main(argv))


def ranks(argv: list[str]) -> None:
    """Runs ``mmnas`` in two processes under torchrun's own agent, forked here; ends as torchrun does."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.setsid()
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend='c10d', rdzv_endpoint='localhost:0',
        run_id='tiny', max_restarts=0, monitor_interval=0.05, start_method='fork',
    )  # fmt: skip
    elastic_launch(config, rank)([*argv, '--launcher', 'pytorch'])


def rank(argv: list[str]) -> None:
    """One of the processes that the agent starts; those of a console's torchrun have a session each."""
    spare_time()
    wait_inside_files()
    from mmnas_ext.cli.main import main

    raise SystemExit(main(argv))


def demo(argv: list[str], config: str) -> None:
    """Runs ``mmnas demo`` with another search, which needs no images."""
    from dataclasses import replace

    from mmnas_ext import datasets
    from mmnas_ext.cli import demo

    datasets.make_nothing = lambda folder: False
    demo.TASKS['det'] = replace(demo.TASKS['det'], config=config, seed_config=config, maker='make_nothing')
    command(['demo', *argv])


def hang(folder: str) -> None:
    """Waits in a library where no signal gets through: for a lock that this thread holds."""
    import ctypes

    from mmnas_ext.runs.stopping import stopped_by_signals

    os.setsid()
    library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    with stopped_by_signals(grace=0.2):
        child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,), daemon=True)
        child.start()
        library.pthread_mutex_lock(lock)
        Path(os.environ[HERE]).touch()
        library.pthread_mutex_lock(lock)


def clean_up(folder: str) -> None:
    """Takes its time at its end, so that it can be told to end once more."""
    from mmnas_ext.runs.stopping import stopped_by_signals

    os.setsid()
    try:
        with stopped_by_signals():
            try:
                wait_if('working')
            finally:
                Path(folder, 'ending').touch()
                wait_if('working')
    finally:
        Path(folder, 'ended').touch()


def spare_time() -> None:
    """Leaves out what takes half a second each and decides nothing: see ``tests/conftest.py``; and the figures."""
    from mmengine.runner import runner
    from yapf.yapflib import yapf_api

    from mmnas_ext.backbones import export
    from mmnas_ext.runs import run

    yapf_api.FormatCode = lambda code, **_settings: (code, False)
    runner.collect_env = dict
    export._check_free = lambda *_args: None  # it imports every host
    for name in ('draw_page', '_draw_result'):
        setattr(run, name, lambda *_args, **_settings: None)


def wait_inside_files() -> None:
    """Lets a process wait in the middle of what it writes, and behind a loss that is measured."""
    from mmengine.fileio import LocalBackend

    from mmnas_ext.engine.path_losses import PathLosses

    put, fsync, keep = LocalBackend.put, os.fsync, PathLosses._keep

    def put_half(self: Any, content: Any, filepath: Any) -> None:
        if 'epoch_2' in Path(filepath).name and os.environ.get(PLACE) == 'saving':
            Path(filepath).write_bytes(bytes(content)[: len(content) // 2])
            wait_if('saving')
        put(self, content, filepath)

    def slow(number: int) -> None:
        if 'run.json' in os.readlink(f'/proc/self/fd/{number}'):
            wait_if('manifest')
        fsync(number)

    def kept(*args: Any) -> None:
        keep(*args)
        wait_if('measuring')

    LocalBackend.put, os.fsync, PathLosses._keep = put_half, slow, kept  # type: ignore[method-assign]


def write_config(file: Path, cfg: Config) -> Path:
    """Writes a config whose parts wait where they are told to."""
    hooks = [dict(type='WaitVisualizationHook', part='search', at=2)]
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *hooks]
    if cfg.get('derived', {}).get('custom_hooks'):
        cfg.derived.custom_hooks = [*cfg.derived.custom_hooks, dict(type='WaitVisualizationHook', part='adapt', at=1)]
    imports = (cfg.get('custom_imports') or dict(imports=[]))['imports']
    cfg.custom_imports = dict(imports=[*imports, 'tests.runs.stops'])
    file.parent.mkdir(parents=True, exist_ok=True)
    cfg.dump(file)
    return file


def stop_at(
    place: str, number: int, run: Callable[..., None], *args: Any, log: Path, group: bool = False
) -> tuple[int, str]:
    """Starts a process, tells it to end where it waits; returns its exit status and what it said.

    Args:
        place: Where.
        number: Of the signal.
        run: What it runs.
        args: Of that.
        log: Takes what it says.
        group: Whether all its processes get the signal, as from a terminal.
    """
    here = log.with_suffix('.here')
    process = processes.start(run, *args, log=log, **{PLACE: place, HERE: str(here)})
    until = time.monotonic() + processes.PATIENCE
    while not here.exists():
        if not process.is_alive() or time.monotonic() > until:
            process.kill()
            raise AssertionError(f'never came to {place}:\n{log.read_text()[-3000:]}')
        time.sleep(0.01)
    here.unlink()
    begun = log.stat().st_size
    if group:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    code = processes.finish(process, log)
    until = time.monotonic() + 2  # one that was killed takes a moment; PyTorch's workers look for a parent every 5 s
    while session(process.pid) and time.monotonic() < until:
        time.sleep(0.01)
    left = session(process.pid)
    for each in left:
        os.kill(each, signal.SIGKILL)
    assert not left, f'{len(left)} processes were left at {place}'
    with log.open('rb') as file:
        file.seek(begun)
        return code, file.read().decode()


def session(first: int | None) -> list[int]:
    """Processes that live in the session that a process has begun."""
    found = []
    for entry in Path('/proc').iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / 'stat').read_text().rsplit(')', 1)[1].split()
            except OSError:
                continue
            if fields[0] != 'Z' and int(fields[3]) == first:
                found.append(int(entry.name))
    return found


def damaged(root: Path) -> list[str]:
    """Files below a folder that are halves, or that are left over from writing."""
    return [path.relative_to(root).as_posix() for path in sorted(root.rglob('*')) if path.is_file() and _broken(path)]


def _broken(path: Path) -> bool:
    try:
        if path.suffix == '.pth':
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is not None
        if path.suffix in ('.json', '.jsonl'):
            text = path.read_text()
            lines = path.suffix == '.jsonl' or 'vis_data' in path.parts
            for each in text.splitlines() if lines else [text]:
                json.loads(each)
        elif path.suffix == '.py':
            compile(path.read_text(), str(path), 'exec')
        elif path.name == 'last_checkpoint':
            return not Path(path.read_text()).is_file()
    except (ValueError, SyntaxError, zipfile.BadZipFile):
        return True
    return path.suffix == '.part'


ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143}
