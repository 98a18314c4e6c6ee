"""What a user can do wrong ends a command with one readable line."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 500  # characters of a message
_END = 160  # of these the last, which say what to do
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # a disk takes no more


@contextmanager
def errors(*kinds: type[Exception]) -> Iterator[None]:
    """Ends a tool with one readable line, exit code 1, for what a user can do wrong.

    Whatever else is raised inside keeps its traceback: it is a fault of this project, or of a training under way. That
    a disk is full is told whenever it is found out.

    Args:
        kinds: What is told so; by default what checks raise before a run.
    """
    told = kinds or (ValueError, TypeError, OSError, ImportError, RecursionError)
    try:
        yield
    except BrokenPipeError:
        raise  # who read our words has enough of them: no mistake of the user's
    except told as error:
        # an ImportError has the commands that install what is missing, a line each
        sys.exit(f'error: {error if isinstance(error, ImportError) else shorten(str(error))}')
    except OSError as error:
        if error.errno not in _FULL:
            raise
        file = error.filename or 'a file'
        sys.exit(f'error: {file} cannot be written: {error.strerror}; once there is room, a run goes on with --resume')


def shorten(text: str) -> str:
    """A message on one line, of a length that can be read; what to do stands at its end, so that stays."""
    line = ' '.join(text.split())
    return line if len(line) <= _LONGEST else f'{line[: _LONGEST - _END - 3]} … {line[-_END:]}'
