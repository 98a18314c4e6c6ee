"""Ends a command in order where Ctrl-C or SIGTERM tell it to end: no worker and no half of a file is left."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 20.0  # seconds; torchrun and Slurm end a process for good 30 s after they have told it to end
_TOLD = (signal.SIGINT, signal.SIGTERM)
_ACTIVE: list['_Deadline'] = []


@contextmanager
def stopped_by_signals(words: str = 'stopped: the same command goes on', grace: float = GRACE) -> Iterator[None]:
    """Ends this process in order where it is told to end: with status 130 by Ctrl-C, with 143 by SIGTERM.

    What is open is closed as after an error, and workers of loaders end. A process that cannot, since it hangs in a
    library, ends all the same, with its workers and the same status. A second signal ends it at once. Outside of the
    main thread nothing is changed: Python tells the main thread alone of signals.

    Args:
        words: Said on standard error when it is told to end.
        grace: Seconds that it has.

    Raises:
        SystemExit: It was told to end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deadline = _Deadline(grace)

    def stop(number: int, frame: FrameType | None) -> None:
        for each in _TOLD:
            signal.signal(each, signal.SIG_DFL)
        # workers that were told to end too: PyTorch would raise an error for each
        signal.signal(signal.SIGCHLD, _ignore)
        if os.environ.get('RANK', '0') == '0':
            os.write(2, f'{words}\n'.encode())  # a print may have been under way when the signal came
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in _TOLD}
    _ACTIVE.append(deadline)
    try:
        yield
    except SystemExit as end:
        traceback.clear_frames(end.__traceback__)  # loaders end their workers when nothing holds them
        raise
    finally:
        _ACTIVE.remove(deadline)
        for number, handler in before.items():
            signal.signal(number, handler)
        deadline.close()


class _Deadline:
    """Ends this process some time after a signal, even where Python gets no chance to.

    Args:
        grace: Seconds.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._over = threading.Event()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # Python's own C code writes a signal's number there, whatever the main thread is doing
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while number := os.read(self._read, 1):
            if number[0] in _TOLD and not self._over.wait(self._grace):
                children = multiprocessing.active_children()
                for child in children:
                    child.kill()
                for child in children:
                    child.join(1)
                os._exit(128 + number[0])

    def close(self) -> None:
        """Lets the process live."""
        self._over.set()
        signal.set_wakeup_fd(self._before)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Does nothing, which children of this process do not inherit as they would `signal.SIG_IGN`."""


def _forget() -> None:
    """Lets a process that was forked be told to end as any other: a loader's worker, say."""
    if _ACTIVE:
        _ACTIVE.clear()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)
