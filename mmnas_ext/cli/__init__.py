"""The command lines: `mmnas` and its subcommands, which the scripts in ``tools/`` call by name.

Modules here import what is quick alone: libraries come in when a command runs, so that help is there at once and a
missing library is met with what installs it.
"""

from mmnas_ext.cli.messages import errors, shorten
from mmnas_ext.cli.options import add_comparing, add_limits, add_run, read_limits

__all__ = ['add_comparing', 'add_limits', 'add_run', 'errors', 'read_limits', 'shorten']
