"""The command that a user types next, as this process was started: it runs as it is printed."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_world_size

from mmnas_ext.reports.going_on import has_flag, options_of
from mmnas_ext.shipped import PACKAGE, find_config

# scripts of a checkout that are not called as their command
_SCRIPTS = {'select': 'select_network', 'front': 'search_front', 'latency': 'measure_latency'}
# what a command line says beside config, work dir and options that decides a run's settings
_KEPT = ('--amp', '--auto-scale-lr')


def command(name: str, *arguments: str | Path, argv: Sequence[str] | None = None) -> str:
    """The call of a command of `mmnas`, or of its script where this process is one in a folder of scripts.

    Args:
        name: Of the command, such as ``'test'``.
        arguments: What follows it.
        argv: How this process was started; by default ``sys.argv``.
    """
    return shlex.join([*_start(name, list(sys.argv if argv is None else argv)), *map(str, arguments)])


def run_command(
    name: str, cfg: Config, *more: str | Path, files: Sequence[str | Path] = (), argv: Sequence[str] | None = None
) -> str | None:
    """The call of a command for the config of this run, in its work dir and with its options.

    Args:
        name: ``'train'`` or ``'rate'``.
        cfg: The config, ``work_dir`` and ``launcher`` set.
        more: Further arguments.
        files: What stands behind the config.
        argv: How this process was started; by default ``sys.argv``.

    Returns:
        The call; ``None`` where it cannot be told: the config is no file, or several machines were started.
    """
    argv = list(sys.argv if argv is None else argv)
    config = _config(cfg, argv[1:])
    launcher = cfg.get('launcher', 'none')
    if config is None or launcher not in ('none', 'pytorch'):
        return None
    words = [name, config, *map(str, files)]
    if Path(cfg.work_dir) != Path('work_dirs', Path(config).stem):
        words += ['--work-dir', str(cfg.work_dir)]
    if name == 'train':
        words += [flag for flag in _KEPT if has_flag(argv[1:], flag)]
    words += map(str, more)
    options = options_of(argv[1:])  # the host of a given network is kept by the run, or by a file beside it
    words += ['--cfg-options', *options] if options else []
    if launcher == 'none':
        return command(*words, argv=argv)
    processes = get_world_size()
    if int(os.environ.get('LOCAL_WORLD_SIZE', processes)) != processes:
        return None
    started = _start(words[0], argv)
    script = started[1:] if len(started) == 2 and started[1].endswith('.py') else ['-m', PACKAGE, words[0]]
    launched = ['torchrun', f'--nproc_per_node={processes}', *script, *words[1:]]
    at = len(launched) if not options else launched.index('--cfg-options')
    return shlex.join([*launched[:at], '--launcher', 'pytorch', *launched[at:]])


def _start(name: str, argv: list[str]) -> list[str]:
    """The words that start a command."""
    script = Path(argv[0])
    beside = script.with_name(f'{_SCRIPTS.get(name, name)}.py')
    if script.suffix == '.py' and script.with_name('train.py').is_file() and beside.is_file():
        return [_python(), str(beside)]
    if script.name == 'mmnas':
        return [_found(script), name]
    if _is_same(shutil.which('mmnas'), Path(sys.executable).with_name('mmnas')):
        return ['mmnas', name]
    return [_python(), '-m', PACKAGE, name]


def _python() -> str:
    """What starts this interpreter: its name where the shell finds it by that."""
    return _found(Path(sys.executable))


def _found(program: Path) -> str:
    """A program's name where the shell finds it by that, else its path, from here if it lies below."""
    names = ('python', 'python3') if program.name.startswith('python') else (program.name,)
    for name in names:
        if _is_same(shutil.which(name), program.with_name(name)):
            return name
    path = Path(os.path.abspath(program))
    return f'./{path.relative_to(Path.cwd())}' if path.is_relative_to(Path.cwd()) else str(path)


def _is_same(found: str | None, program: Path) -> bool:
    """Whether that is what the shell finds; links are not followed: environments link to one interpreter."""
    return found is not None and os.path.abspath(found) == os.path.abspath(program)


def _config(cfg: Config, words: Sequence[str]) -> str | None:
    """The config as the command line names it, else its file."""
    file = Path(str(cfg.filename or ''))
    if not file.is_file():
        return None
    for word in words:
        if Path(word.removesuffix('.py')).name != file.stem:
            continue
        try:
            if find_config(word).samefile(file):
                return word
        except OSError:
            continue
    return str(file)
