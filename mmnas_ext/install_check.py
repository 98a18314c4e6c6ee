"""Says what to run where the OpenMMLab packages are missing, too old or mixed.

They come in two lines that install the same modules: the frozen upstream (``mmengine``, ``mmcv``, ``mmdet``, …) and the
maintained one (``onedl-mmengine``, …). Either works; pip knows nothing of the clash, and whichever was installed last
overwrites the other's files. Only the metadata of installed distributions is read: no package is imported.
"""

import re
import sys
from collections.abc import Mapping
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
_LINES: Mapping[str, Mapping[str, str]] = {'maintained (onedl-…)': _ONEDL, 'frozen upstream': _UPSTREAM}
# distributions that install the same module as the upstream one
_VARIANTS = {'mmengine': ('mmengine-lite',), 'mmcv': ('mmcv-lite', 'mmcv-full')}
_WITHOUT_OPERATORS = 'mmcv-lite'
# where the OpenMMLab 2.x interface begins; mmengine 0.10 is what the frozen 2.x packages end with
_OLDEST = {'mmengine': (0, 10), 'mmcv': (2, 0), 'mmdet': (3, 0), 'mmseg': (1, 0), 'mmpretrain': (1, 0)}
_ALL_BUT_PRETRAIN = ['mmengine', 'mmcv', 'mmdet', 'mmseg']
_TORCH = "'torch===2.13.0' 'setuptools<81' wheel ninja"
_NEEDS_CPP20 = (2, 14)


def require_mm(*modules: str) -> None:
    """Checks that mmengine and `modules` are installed, all from one line of OpenMMLab packages.

    Args:
        modules: Import names that are about to be used: ``'mmcv'``, ``'mmdet'``, ``'mmseg'``, ``'mmpretrain'``.

    Raises:
        ImportError: Something is missing, too old, without operators, or from both lines; the message names the
            commands that mend it.
        ValueError: A module that this check does not know.
    """
    for module in modules:
        if module not in _ONEDL:
            raise ValueError(f'modules must be among {tuple(_ONEDL)}, got {module!r}')
    wanted = ('mmengine', *(module for module in modules if module != 'mmengine'))
    message = _problem(installed(), wanted)
    if message:
        raise ImportError(message)


def installed() -> dict[str, dict[str, dict[str, str]]]:
    """Versions found: line, then module, then distribution, then version."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for line, pins in _LINES.items():
        found[line] = {}
        for module, pin in pins.items():
            names = (_name(pin), *(_VARIANTS.get(module, ()) if pins is _UPSTREAM else ()))
            versions = {name: version for name in names if (version := _version(name)) is not None}
            if versions:
                found[line][module] = versions
    return found


def _problem(found: dict[str, dict[str, dict[str, str]]], wanted: tuple[str, ...]) -> str:
    lines = [line for line, modules in found.items() if modules]
    if len(lines) > 1:
        return _mixed(found)
    modules = found[lines[0]] if lines else {}
    pins = _LINES[lines[0]] if lines else _ONEDL
    if _WITHOUT_OPERATORS in modules.get('mmcv', {}):
        return (
            f'{_WITHOUT_OPERATORS} is installed, which has no operators, and detectors need them. Run:\n'
            f'  pip uninstall -y {" ".join(modules["mmcv"])}\n{_install([pins["mmcv"]])}'
        )
    for module, versions in modules.items():
        for name, version in versions.items():
            if _numbers(version) < _OLDEST[module]:
                oldest = '.'.join(map(str, _OLDEST[module]))
                return (
                    f'{name} {version} is too old: mmnas_ext needs {module} {oldest} or newer (OpenMMLab 2.x). Run:\n'
                    f'  pip uninstall -y {" ".join(versions)}\n{_install([pins[module]])}'
                )
    # a source checkout on the path has no metadata, but is there
    missing = [module for module in wanted if module not in modules and find_spec(module) is None]
    if missing:
        line = f' (the rest is from the {lines[0]} line)' if lines else ''
        # where nothing is there, all that the tools use, so that the next import does not ask again
        needed = [module for module in _base(missing) if module not in modules] if lines else _ALL_BUT_PRETRAIN
        return f'mmnas_ext needs {" and ".join(missing)}, not installed here{line}. Run:\n' + _install(
            [pins[module] for module in needed]
        )
    return ''


def _mixed(found: dict[str, dict[str, dict[str, str]]]) -> str:
    versions = {line: {k: v for names in modules.values() for k, v in names.items()} for line, modules in found.items()}
    listed = '\n'.join(
        f'  {line}: ' + ', '.join(f'{name} {version}' for name, version in names.items())
        for line, names in versions.items()
    )
    modules = [module for module in _ONEDL if any(module in line for line in found.values())]
    names = ' '.join(name for line in versions.values() for name in line)
    return (
        'OpenMMLab packages of both lines are installed; they overwrite each other:\n'
        f'{listed}\nKeep one line. For the maintained one run:\n  pip uninstall -y {names}\n'
        + _install([_ONEDL[module] for module in _base(modules)])
        + f'\nFor the frozen one name instead: {" ".join(_UPSTREAM[module] for module in _base(modules))}'
    )


def _base(modules: list[str]) -> list[str]:
    """`modules` and what each of them cannot do without, in order of installation."""
    return [module for module in _ONEDL if module in modules or module in ('mmengine', 'mmcv')]


def _install(pins: list[str]) -> str:
    """The commands; mmcv compiles against the torch that it finds, so torch comes first."""
    if not any(_name(pin).endswith('mmcv') for pin in pins):
        return f'  pip install --no-build-isolation {" ".join(pins)}'
    torch = _version('torch')
    note = ''
    if torch is not None and _numbers(torch) >= _NEEDS_CPP20:
        note = (
            f'\n(torch {torch} is installed: torch 2.14 and later want C++20, which mmcv does not ask its compiler '
            'for, so the first command takes it back to 2.13)'
        )
    return (
        f'  pip install {_TORCH}\n  pip install --no-build-isolation {" ".join(pins)}\n'
        f'mmcv is compiled there, about 10 minutes on two cores.{note}'
    )


def _name(pin: str) -> str:
    return pin.split('==')[0]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, int]:
    """Major and minor, as ``'2.14.0+cu130'`` states them; a version without numbers counts as new."""
    match = re.match(r'(\d+)\.(\d+)', version)
    return (int(match[1]), int(match[2])) if match else (sys.maxsize, 0)


def main() -> int:
    """Prints what is installed and, if it does not fit, what to run; returns the exit code."""
    for line, modules in installed().items():
        for module, versions in modules.items():
            for name, version in versions.items():
                print(f'{module:<11} {name} {version}  [{line}]')
    print(f'{"torch":<11} {_version("torch") or "not installed"}')
    try:
        require_mm('mmcv', 'mmdet', 'mmseg')
    except ImportError as error:
        print(f'\n{error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
