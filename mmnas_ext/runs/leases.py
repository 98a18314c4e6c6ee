"""Leases: of all processes that share a folder, on one machine or many, one at a time does a piece of work.

A lease is a file in the folder of the work. Its holder writes it anew every few seconds with a number that grows. Whose
number no longer grows has died or is cut off, and another process takes the work over. What is compared is whether the
number changes while one looks at it, by the looker's own clock: clocks of different machines need not agree, and a file
that is opened is up to date on a network's file system too, where its time may not be.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mmnas_ext.workdir import write_text

NAME = '.lease'
_GAP = 10.0  # seconds between two looks that leave no doubt of what happened between them


@dataclass(frozen=True)
class Note:
    """What a lease's file says.

    Args:
        token: Of its holder, unlike all others.
        holder: Machine and process, for people.
        where: Which system's processes its number counts among; empty where that cannot be told.
        process: Its number there.
        beat: How often it has been written.
    """

    token: str
    holder: str = 'an unknown process'
    where: str = ''
    process: int = 0
    beat: int = 0

    @classmethod
    def read(cls, file: Path) -> 'Note | None':
        """Reads a file; ``None`` where there is none. What cannot be understood is a note like any other."""
        try:
            text = file.read_text(encoding='utf-8')
        except FileNotFoundError:
            return None
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError):
            return cls(text)

    def format(self) -> str:
        """As JSON text; `read` reads it back."""
        return json.dumps(vars(self))

    def has_ended(self) -> bool:
        """Whether its holder is known to be gone: it ran on this system and its number belongs to nobody."""
        if not self.where or self.where != _system():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's
        return False


class Leases:
    """The leases of this process.

    Args:
        beat: Seconds between two writings of what is held.
        patience: Seconds after which a holder that writes no more is taken for dead.
        settle: Seconds after which two that take over at once see which of them has.

    Attributes:
        token: Of this process.
    """

    def __init__(self, beat: float = 5.0, patience: float = 60.0, settle: float = 1.0) -> None:
        if not 0 < 2 * beat < patience:
            raise ValueError(f'patience must be more than two beats of {beat} seconds, got {patience}')
        self.beat, self.patience, self.settle = beat, patience, settle
        self.token = uuid.uuid4().hex
        holder = f'{socket.gethostname()}, process {os.getpid()}'
        self._note = Note(self.token, holder, _system(), os.getpid())
        self._held: dict[Path, Callable[[], None]] = {}
        self._seen: dict[Path, tuple[Note, float, float]] = {}  # since when it says so, and when it was looked at
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, folder: Path, on_lost: Callable[[], None] = lambda: None, name: str = NAME) -> bool:
        """Takes the work of a folder, if nobody is at it.

        Args:
            folder: The folder; it is made if it is missing.
            on_lost: Called, in another thread, if this process was taken for dead and the work is another's now.
            name: Of the file, where a folder has leases for several pieces of work.

        Returns:
            Whether this process has it now. Where the holder may be dead, a later call finds that out.
        """
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / name
        if not (self._create(file) or self._take_over(file)):
            return False
        with self._lock:
            self._held[file] = on_lost
            self._seen.pop(file, None)
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name='leases', daemon=True)
                self._thread.start()
        return True

    def settle_on(self, folder: Path, on_lost: Callable[[], None] = lambda: None, name: str = NAME) -> bool:
        """Takes the work of a folder, or sees that its holder lives; arguments are those of `take`.

        Returns:
            Whether this process has it now, which takes `patience` seconds at most to tell.
        """
        seen: Note | None = None
        while not self.take(folder, on_lost, name):
            note = Note.read(folder / name)
            if note is not None and seen is not None and note.token == seen.token and note.beat != seen.beat:
                return False
            seen = note
            time.sleep(min(0.5, self.beat / 2))
        return True

    def holds(self, folder: Path, name: str = NAME) -> bool:
        """Whether the work of a folder is this process's, as the file says now."""
        note = Note.read(folder / name)
        return note is not None and note.token == self.token

    def give_back(self, folder: Path, name: str = NAME) -> None:
        """Gives the work of a folder back; a lease that is another's by now stays."""
        file = folder / name
        with self._lock:
            self._held.pop(file, None)
            if self.holds(folder, name):
                file.unlink(missing_ok=True)

    def holder(self, folder: Path, name: str = NAME) -> str:
        """Who has the work of a folder, for people; empty if nobody has."""
        note = Note.read(folder / name)
        return '' if note is None else note.holder

    def close(self) -> None:
        """Gives all back."""
        self._closed.set()
        for file in list(self._held):
            self.give_back(file.parent, file.name)

    def _create(self, file: Path) -> bool:
        try:
            # exclusive: of two that create it at once one fails, on a network's file system too
            with file.open('x', encoding='utf-8') as out:
                out.write(self._note.format())
        except FileExistsError:
            return False
        except OSError as error:  # a full disk: an empty lease would be waited for
            file.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(file)) from error
        return True

    def _take_over(self, file: Path) -> bool:
        """Takes a lease whose holder has shown no life for long enough."""
        note, now = Note.read(file), time.monotonic()
        if note is None:
            return self._create(file)
        before, since, looked = self._seen.get(file, (None, now, now))
        if note != before or now - looked > max(self.patience / 2, _GAP):
            since = now  # a sign of life; or this process itself was cut off, or busy, and has not looked for long
        self._seen[file] = note, since, now
        if not note.has_ended() and now - since < self.patience:
            return False
        write_text(file, self._note.format(), self.token)
        time.sleep(self.settle)
        written = Note.read(file)
        return written is not None and written.token == self.token

    def _keep(self) -> None:
        """Writes what is held anew, until all is given back."""
        count = 0
        while not self._closed.wait(self.beat):
            count += 1
            for file in list(self._held):
                on_lost = self._write(file, count)
                if on_lost is not None:
                    on_lost()

    def _write(self, file: Path, count: int) -> Callable[[], None] | None:
        """Writes a lease anew; what is to be called if it is another's by now."""
        with self._lock:
            if file not in self._held:
                return None
            with suppress(OSError):  # a file system that is away for a moment: others wait longer than that
                note = Note.read(file)
                if note is None or note.token != self.token:
                    return self._held.pop(file)
                write_text(file, replace(self._note, beat=count).format(), self.token)
        return None


def _system() -> str:
    """Names this start of this system and the process numbers that this process sees; empty where it has no name."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()
        return f'{boot}/{os.stat("/proc/self/ns/pid").st_ino}'
    except OSError:
        return ''
