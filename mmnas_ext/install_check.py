"""Says which commands to run if the OpenMMLab packages are missing, too old or mixed.

There are two lines of packages, which install the same modules: the frozen upstream (``mmengine``, ``mmcv``,
``mmdet``, …) and the maintained one (``onedl-mmengine``, …). Either works. pip does not know that they conflict: the
package that is installed last overwrites the other's files. This module only reads the metadata of installed
distributions and imports no package.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec

_ONEDL = {
    'mmengine': 'onedl-mmengine==0.10.12',
    'mmcv': 'onedl-mmcv==2.3.6',
    'mmdet': 'onedl-mmdetection==3.5.1',
    'mmseg': 'onedl-mmsegmentation==1.4.2',
    'mmpretrain': 'onedl-mmpretrain==1.3.6',
}
_UPSTREAM = {
    'mmengine': 'mmengine==0.10.7',
    'mmcv': 'mmcv==2.1.0',
    'mmdet': 'mmdet==3.3.0',
    'mmseg': 'mmsegmentation==1.2.2',
    'mmpretrain': 'mmpretrain==1.2.0',
}
FROZEN = 'frozen upstream'
_LINES: Mapping[str, Mapping[str, str]] = {'maintained (onedl-…)': _ONEDL, FROZEN: _UPSTREAM}
# what MMSegmentation 1.2.2 imports and does not ask for; later versions ask for it
_UNASKED = {_UPSTREAM['mmseg']: ('ftfy', 'regex')}
# distributions that install the same module as the upstream one
_VARIANTS = {'mmengine': ('mmengine-lite',), 'mmcv': ('mmcv-lite', 'mmcv-full')}
_WITHOUT_OPERATORS = 'mmcv-lite'
# the first versions with the OpenMMLab 2.x interface; the last frozen 2.x packages need mmengine 0.10
_OLDEST = {'mmengine': (0, 10), 'mmcv': (2, 0), 'mmdet': (3, 0), 'mmseg': (1, 0), 'mmpretrain': (1, 0)}
_ALL_BUT_PRETRAIN = ['mmengine', 'mmcv', 'mmdet', 'mmseg']
_TORCH = "'torch===2.13.0' 'setuptools<81' wheel ninja"
_NEEDS_CPP20 = (2, 14)


def require_mm(*modules: str) -> None:
    """Checks that mmengine and `modules` are installed, all from one line of OpenMMLab packages.

    Args:
        modules: Import names of the packages that will be used: ``'mmcv'``, ``'mmdet'``, ``'mmseg'``,
            ``'mmpretrain'``.

    Raises:
        ImportError: A package is missing, too old or without operators, or both lines are installed; the message
            gives the commands that fix it.
        ValueError: `modules` has an unknown name.
    """
    for module in modules:
        if module not in _ONEDL:
            raise ValueError(f'modules must be among {tuple(_ONEDL)}, got {module!r}')
    wanted = ('mmengine', *(module for module in modules if module != 'mmengine'))
    message = _find_problem(find_installed(), wanted)
    if message:
        raise ImportError(message)


@contextmanager
def explained() -> Iterator[None]:
    """Ends a tool with what to install where the imports inside lack an OpenMMLab package or torch.

    Any other failed import keeps its traceback.
    """
    try:
        yield
    except ImportError:
        try:
            require_mm('mmcv')
        except ImportError as known:
            sys.exit(f'error: {known}')
        if find_spec('torch') is None:
            sys.exit(f'error: mmnas_ext needs torch, not installed here. Run:\n  pip install {_TORCH}')
        raise


def find_installed() -> dict[str, dict[str, dict[str, str]]]:
    """Finds the installed distributions; returns their versions by line, module and distribution."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for line, pins in _LINES.items():
        found[line] = {}
        for module, pin in pins.items():
            names = (_pin_name(pin), *(_VARIANTS.get(module, ()) if pins is _UPSTREAM else ()))
            versions = {name: version for name in names if (version := _find_version(name)) is not None}
            if versions:
                found[line][module] = versions
    return found


def _find_problem(found: dict[str, dict[str, dict[str, str]]], wanted: tuple[str, ...]) -> str:
    """Returns what is wrong with the installation and the commands that fix it; an empty text if nothing is wrong."""
    lines = [line for line, modules in found.items() if modules]
    if len(lines) > 1:
        return _describe_mix(found)
    modules = found[lines[0]] if lines else {}
    pins = _LINES[lines[0]] if lines else _ONEDL
    if _WITHOUT_OPERATORS in modules.get('mmcv', {}):
        return (
            f'{_WITHOUT_OPERATORS} is installed, which lacks the operators that detectors need. Run:\n'
            f'  pip uninstall -y {" ".join(modules["mmcv"])}\n{_install_commands([pins["mmcv"]])}'
        )
    for module, versions in modules.items():
        for name, version in versions.items():
            if _parse_version(version) < _OLDEST[module]:
                oldest = '.'.join(map(str, _OLDEST[module]))
                return (
                    f'{name} {version} is too old: mmnas_ext needs {module} {oldest} or newer (OpenMMLab 2.x). Run:\n'
                    f'  pip uninstall -y {" ".join(versions)}\n{_install_commands([pins[module]])}'
                )
    # a source checkout on the path can be imported but has no metadata
    missing = [module for module in wanted if module not in modules and find_spec(module) is None]
    if missing:
        line = f' (the other packages are from the {lines[0]} line)' if lines else ''
        # if nothing is installed, name all packages that the tools use, so that the next import does not ask again
        needed = [module for module in _add_required(missing) if module not in modules] if lines else _ALL_BUT_PRETRAIN
        return f'mmnas_ext needs {" and ".join(missing)}, not installed here{line}. Run:\n' + _install_commands(
            [pins[module] for module in needed]
        )
    return ''


def _describe_mix(found: dict[str, dict[str, dict[str, str]]]) -> str:
    """Returns the message for an environment with packages of both lines."""
    versions = {line: {k: v for names in modules.values() for k, v in names.items()} for line, modules in found.items()}
    listed = '\n'.join(
        f'  {line}: ' + ', '.join(f'{name} {version}' for name, version in names.items())
        for line, names in versions.items()
    )
    modules = [module for module in _ONEDL if any(module in line for line in found.values())]
    names = ' '.join(name for line in versions.values() for name in line)
    return (
        'OpenMMLab packages of both lines are installed, and they overwrite each other:\n'
        f'{listed}\nKeep one line. For the maintained line run:\n  pip uninstall -y {names}\n'
        + _install_commands([_ONEDL[module] for module in _add_required(modules)])
        + '\nFor the frozen line install these packages instead: '
        + _listed([_UPSTREAM[module] for module in _add_required(modules)])
    )


def _add_required(modules: list[str]) -> list[str]:
    """Returns `modules` and the modules that all of them need, in the order of installation."""
    return [module for module in _ONEDL if module in modules or module in ('mmengine', 'mmcv')]


def _install_commands(pins: list[str]) -> str:
    """Returns the commands that install `pins`; torch comes first, since mmcv compiles against the installed torch."""
    if not any(_pin_name(pin).endswith('mmcv') for pin in pins):
        return f'  pip install --no-build-isolation {_listed(pins)}'
    torch = _find_version('torch')
    note = ''
    if torch is not None and _parse_version(torch) >= _NEEDS_CPP20:
        note = (
            f'\n(torch {torch} is installed. torch 2.14 and later require C++20, which the build of mmcv does not '
            'turn on, so the first command installs torch 2.13.)'
        )
    return (
        f'  pip install {_TORCH}\n  pip install --no-build-isolation {_listed(pins)}\n'
        f'This compiles mmcv, which takes about 10 minutes on two cores.{note}'
    )


def _listed(pins: list[str]) -> str:
    """Pins as a command's arguments, with what the packages need and do not ask for."""
    return ' '.join([*pins, *(name for pin in pins for name in _UNASKED.get(pin, ()))])


def _pin_name(pin: str) -> str:
    return pin.split('==')[0]


def _find_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _parse_version(version: str) -> tuple[int, int]:
    """Returns major and minor of a version such as ``'2.14.0+cu130'``; a version without numbers counts as new."""
    match = re.match(r'(\d+)\.(\d+)', version)
    return (int(match[1]), int(match[2])) if match else (sys.maxsize, 0)


def main() -> int:
    """Prints what is installed and, if something is wrong, what to run; returns the exit code."""
    for line, modules in find_installed().items():
        for module, versions in modules.items():
            for name, version in versions.items():
                print(f'{module:<11} {name} {version}  [{line}]')
    print(f'{"torch":<11} {_find_version("torch") or "not installed"}')
    try:
        require_mm('mmcv', 'mmdet', 'mmseg')
    except ImportError as error:
        print(f'\n{error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
