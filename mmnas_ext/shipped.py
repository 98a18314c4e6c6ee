"""The configs and tools that come with the package: where they are, and what a config is called.

They lie in ``mmnas_ext/.mim``, as those of OpenMMLab's packages do: copies in a wheel, links in a checkout. Standard
library only; MMEngine is touched by `teach_mmengine` alone.
"""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = 'mmnas_ext'
MARK = f'{PACKAGE}::'
EXAMPLES = 'examples'
"""Folder of the configs around other hosts, below that of all."""
_FOLDERS = ('_base_/', f'{EXAMPLES}/', f'{EXAMPLES}/_base_/')
_HERE = Path(__file__).with_name('.mim')


def tools_folder() -> Path:
    """Folder of the scripts, such as ``train.py`` and ``dist_train.sh``."""
    return _HERE / 'tools'


def configs() -> dict[str, Path]:
    """The configs that a user runs, by name without ``.py``, sorted; what they share, ``_base_``, is not among them.

    Those of ``configs/examples`` have names with that folder, and come last.
    """
    folder = _HERE / 'configs'
    files = [*sorted(folder.glob('*.py')), *sorted((folder / EXAMPLES).glob('*.py'))]
    return {called(file): file for file in files}


def called(config: Path) -> str:
    """What a shipped config is called: its place below ``configs``, without ``.py``."""
    return config.relative_to(_HERE / 'configs').with_suffix('').as_posix()


def headline(config: Path) -> str:
    """The first sentence of a config's header, on one line."""
    words = []
    for line in config.read_text(encoding='utf-8').splitlines():
        if not line.startswith('# '):
            break
        words.append(line[2:].strip())
        if line.endswith(('.', ':')):
            break
    text = ' '.join(words)
    return text.partition('. ')[0].rstrip('.:')


def find_shipped(name: str) -> Path:
    """A config that comes with the package.

    Args:
        name: Its name, with or without ``.py`` and ``mmnas_ext::`` or ``configs/`` before it; of ``_base_`` and of
            ``examples`` with that.

    Raises:
        FileNotFoundError: There is none of this name; the message has the nearest.
    """
    plain = name.removeprefix(MARK).removeprefix('configs/').removesuffix('.py')
    file = _HERE / 'configs' / f'{plain}.py'
    # only names: a path that leads out of the folder is the user's own, and not there
    inside = max((each for each in ('', *_FOLDERS) if plain.startswith(each)), key=len)
    if plain.removeprefix(inside).isidentifier() and file.is_file():
        return file
    names = {each.rpartition('/')[2]: each for each in configs()}
    near = [names[each] for each in get_close_matches(Path(plain).name, names, 3, 0.5)]
    hint = f'did you mean {", ".join(near)}? ' if near else ''
    raise FileNotFoundError(
        f'config {name} does not exist, neither as a file nor among those of {PACKAGE}: {hint}mmnas config lists them'
    )


def find_config(name: str | Path) -> Path:
    """The config that a command line names: a file, or one that comes with the package where no such file is there.

    Args:
        name: Of the file, with or without ``.py``.

    Raises:
        FileNotFoundError: There is neither.
    """
    # `mmnas config X > X.py` and `mmnas train X` must not train the shipped one
    own = [Path(name), Path(f'{name}.py')]
    return next((path for path in own if path.is_file()), None) or find_shipped(str(name))


def teach_mmengine() -> None:
    """Lets MMEngine find ``mmnas_ext::NAME.py``: in ``_base_`` of a config, and in `mmengine.hub.get_config`.

    MMEngine resolves such addresses for a list of its own packages only, wants a folder before the name, and takes the
    package for the scope of everything that is inherited: the parts of a host in our configs would be looked for here.
    MMEngine 0.10.7 looks for an installed package where pip notes it, and misses one that is installed from a checkout.
    So its function of one line each is wrapped, for our addresses alone. It reads a package's YAML files of all models
    for each address, most of the time that a config takes: the answer is kept. Calling this again changes nothing.
    """
    from mmengine import utils as helpers
    from mmengine.config import Config, utils

    if PACKAGE in utils.MODULE2PACKAGE:
        return
    utils.MODULE2PACKAGE[PACKAGE] = PACKAGE
    resolve: Callable[[str, str], tuple[str, str | None]] = Config._get_cfg_path
    split: Callable[[str], tuple[str, str]] = utils._get_package_and_cfg_path
    locate: Callable[[str], str] = helpers.get_installed_path

    @cache
    def resolve_package(cfg_path: str) -> tuple[str, str | None]:
        return resolve(cfg_path, '')

    def resolve_ours(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(MARK):
            return str(find_shipped(cfg_path)), None
        return resolve_package(cfg_path) if '::' in cfg_path else resolve(cfg_path, filename)

    def split_ours(cfg_path: str) -> tuple[str, str]:
        return (PACKAGE, find_shipped(cfg_path).name) if cfg_path.startswith(MARK) else split(cfg_path)

    def locate_ours(package: str) -> str:
        return str(_HERE.parent) if package == PACKAGE else locate(package)

    places: list[tuple[Any, str, Any]] = [
        (helpers, 'get_installed_path', locate_ours),
        (Config, '_get_cfg_path', staticmethod(resolve_ours)),
        (utils, '_get_package_and_cfg_path', split_ours),
    ]
    # imported only by those who use it, and then it has its own names for the functions
    if hub := sys.modules.get('mmengine.hub.hub'):
        places += [(hub, '_get_package_and_cfg_path', split_ours), (hub, 'get_installed_path', locate_ours)]
    for owner, name, function in places:
        setattr(owner, name, function)
