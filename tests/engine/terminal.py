"""What stands for a terminal that someone watches."""

import io


class Terminal(io.StringIO):
    """Keeps what is shown on it."""

    def isatty(self) -> bool:
        return True
