"""Runs in fresh processes that may be killed; they are forked from one that has imported everything once."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 240  # seconds; nothing here takes ten on a quiet machine
# PyTorch imports the second when it makes an optimizer
_IMPORTED = (
    'tests.engine.tiny_trials', 'torch._dynamo', 'mmnas_ext.runs.run', 'mmnas_ext.runs.front_runs',
    'mmnas_ext.runs.checks', 'mmnas_ext.runs.dry_run', 'mmnas_ext.remap', 'mmnas_ext.cli.main',
    'tensorboard',
)  # fmt: skip
_CONTEXT = multiprocessing.get_context('forkserver')


def start(function: Callable[..., None], *args: Any, log: Path, **environ: str) -> BaseProcess:
    """Calls `function` in a new process with these environment variables; its output goes to `log`."""
    # the server does not take over this process's sys.path
    os.environ['PYTHONPATH'] = str(ROOT)
    _CONTEXT.set_forkserver_preload(list(_IMPORTED))
    process = _CONTEXT.Process(target=_call, args=(function, args, str(log), environ))
    process.start()
    return process


def finish(process: BaseProcess, log: Path) -> int:
    """Waits for the end; returns the exit code, negative for a signal."""
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f'no end after {PATIENCE} s:\n{log.read_text()[-3000:]}')
    return int(process.exitcode)


def complete(process: BaseProcess, log: Path) -> None:
    """Waits for the end, which must be a success."""
    code = finish(process, log)
    assert code == 0, f'exit code {code}:\n{log.read_text()[-3000:]}'


def _call(function: Callable[..., None], args: tuple[Any, ...], log: str, environ: dict[str, str]) -> None:
    with open(log, 'ab') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environ)
    import gc

    import torch

    gc.freeze()  # what the server has imported
    torch.set_num_threads(1)
    try:
        function(*args)
    except SystemExit:
        raise  # its exit status
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
