"""What a kill at any file operation of a run would leave, and what half a write would: taken from one run.

Python tells of each operation before it is done (PEP 578), so what is counted is what really happens: files opened for
writing, renamed, deleted, folders made. A process that is killed there leaves the files as they are at that moment: so
they are copied, and the run goes on. What is written into logs, and into files that are about to be renamed, makes no
state of its own, and of equal states one is kept.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_HALF = b'PK\x03\x04{"half of a file": '
# MMEngine's logs, and what is about to be renamed: nothing reads either; leases, since who held them lives on here
_LOGS = re.compile(r'/\d{8}_\d{6}(_\d+)?(/|$)|/last_checkpoint$|\.part$|\.lease$')


class State(NamedTuple):
    """Files of a work dir at a moment.

    Args:
        moment: The operation that was about to be done, for messages.
        files: Content by path.
    """

    moment: str
    files: dict[Path, bytes]


class Witness:
    """Keeps what a kill at each file operation below a folder would leave.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.states: list[State] = []
        self._busy = False

    def see(self, event: str, args: tuple[object, ...]) -> None:
        """Called before an operation."""
        path = None if self._busy else _target(event, args)
        if path is None or not path.startswith(self.root) or _LOGS.search(path.removeprefix(self.root)):
            return
        self._busy = True
        try:
            moment = f'{event} {path.removeprefix(self.root)}'
            self._keep(State(moment, read_files(Path(self.root))))
            # a checkpoint gets its name when it is written; a machine that loses power may not have it on the disk yet
            if event == 'open' or (event == 'os.rename' and path.endswith('.pth')):
                half = _half(path, args) if event == 'open' else _HALF
                self._keep(State(f'half of {moment}', {**self.states[-1].files, Path(path): half}))
        finally:
            self._busy = False

    def _keep(self, state: State) -> None:
        if all(state.files != each.files for each in self.states):
            self.states.append(state)


_WATCHING: list[Witness] = []
_INSTALLED: list[bool] = []


def watch(root: Path, run: Callable[[], None]) -> list[State]:
    """Calls `run`; returns the states that a kill of it may leave below `root`."""
    if not _INSTALLED:  # an audit hook stays for ever
        sys.addaudithook(lambda event, args: [each.see(event, args) for each in tuple(_WATCHING)] and None)
        _INSTALLED.append(True)
    witness = Witness(root)
    _WATCHING.append(witness)
    try:
        run()
    finally:
        _WATCHING.remove(witness)
    return witness.states


def read_files(root: Path) -> dict[Path, bytes]:
    """Content of all files below a folder, those of logs without figures excepted."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            # figures of validations are read back from MMEngine's log
            if name == 'scalars.json' or not _LOGS.search(str(path).removeprefix(str(root))):
                found[path] = path.read_bytes()
    return found


def restore(root: Path, state: State) -> None:
    """Puts a folder into a state."""
    shutil.rmtree(root, ignore_errors=True)
    for path, content in state.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _target(event: str, args: tuple[object, ...]) -> str | None:
    """The path that an operation would change, if it is one."""
    if event == 'open':
        path, _, flags = args
        writes = isinstance(flags, int) and flags & _WRITES
        return os.fspath(path) if writes and isinstance(path, str | os.PathLike) else None
    if event in ('os.rename', 'os.remove', 'os.mkdir', 'os.rmdir'):
        path = args[1] if event == 'os.rename' else args[0]
        return os.fspath(path) if isinstance(path, str | os.PathLike) else None
    return None


def _half(path: str, args: tuple[object, ...]) -> bytes:
    """What a write that is cut short leaves."""
    flags = args[2]
    if isinstance(flags, int) and flags & os.O_APPEND:
        return (Path(path).read_bytes() if Path(path).is_file() else b'') + b'{"iter": 3, "alph'
    return _HALF
