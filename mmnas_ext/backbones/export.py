"""Writes a network as a backbone of its own: a module that registers it by name, its architecture and weights."""

import importlib.util
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.registry import MODELS

from mmnas_ext.archs import ArchSpec
from mmnas_ext.registry import MODELS as OURS
from mmnas_ext.remap import load_seed
from mmnas_ext.remap.convert import as_state_dict, save
from mmnas_ext.workdir import write_text

FOLDER = Path('work_dirs') / 'backbones'
# a backbone of a host with the same name would hide the new backbone in the host's configs
_HOSTS = ('mmdet', 'mmseg', 'mmpretrain')
_MODULE = '''"""{name}: a backbone that mmnas_ext builds from {stem}.json, which lies beside this file{and_weights}.

    custom_imports = dict(imports=['{stem}'])      # in a config; or import this file from a package of your own
    model = dict(backbone=dict(type='{name}', out_indices=(1, 2, 4, 6)))

After `import {stem}` every toolbox on MMEngine finds it. Written by mmnas_ext's mmnas export.
"""

from pathlib import Path
from typing import Any

from mmengine.registry import MODELS

from mmnas_ext.backbones import MBNet

_HERE = Path(__file__).resolve()
ARCH = _HERE.with_suffix('.json').read_text(encoding='utf-8')
INIT_CFG = {init_cfg}


@MODELS.register_module()
class {name}(MBNet):
    """An `MBNet` of one architecture; takes all arguments of `MBNet` except ``arch``{init_note}."""

    def __init__(self, *, init_cfg: Any = INIT_CFG, **kwargs: Any) -> None:
        super().__init__(arch=ARCH, init_cfg=init_cfg, **kwargs)
'''


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Args:
        name: Name under which the backbone is registered, ``type=name``.
        module: Name of its module, ``custom_imports=dict(imports=[module])``.
        arch: Its architecture; with weights, the architecture of the weights.
        files: The module, the architecture's JSON, and the weights if there are any.
    """

    name: str
    module: str
    arch: ArchSpec
    files: tuple[Path, ...]


def export_backbone(
    arch: Any, name: str, folder: str | Path = FOLDER, weights: str | Path | None = None, overwrite: bool = False
) -> Exported:
    """Writes the backbone `name`: a module, its architecture as JSON and, if given, its weights.

    Args:
        arch: Anything that `ArchSpec.parse` reads, such as a search's ``derived/arch.json``.
        name: Name of the class. The class is registered under this name in MMEngine's own registry, where every host
            looks last. The files are named after it: ``MyNet`` is in ``my_net.py``.
        folder: Folder to write to, created if missing. It must be on the Python path where the backbone is used.
        weights: A checkpoint of this network as in `load_seed`; the backbone starts from it by default. If it has no
            1x1 head, the exported architecture has none either.
        overwrite: Whether to replace the files of an earlier export.

    Raises:
        ValueError: `name` is not a class name or is in use, `arch` is malformed, or `weights` belong to another
            network.
        FileNotFoundError: `weights` does not exist.
        FileExistsError: The files exist, and `overwrite` is not set.
        ConnectionError: The weights' URL cannot be read.
    """
    spec = ArchSpec.parse(arch)
    stem = _module_name(name)
    folder = Path(folder).expanduser()
    module, described, stored = (folder / f'{stem}{suffix}' for suffix in ('.py', '.json', '.pth'))
    _check_free(name, stem, module)
    there = [path for path in (module, described, stored) if path.exists()]
    if there and not overwrite:
        raise FileExistsError(f'{there[0]} exists: pass --overwrite to replace it, or choose another --name')
    seed = None if weights is None else load_seed(weights, arch)
    spec = spec if seed is None else seed.arch
    folder.mkdir(parents=True, exist_ok=True)
    if seed is not None:
        save(as_state_dict(seed), stored)
    elif stored.exists():
        stored.unlink()  # an earlier export had weights, this one has none
    write_text(described, spec.format('json'))
    write_text(module, _format_module(name, stem, weights is not None))
    return Exported(name, stem, spec, (module, described) if seed is None else (module, described, stored))


def check_name(name: str, folder: str | Path) -> None:
    """Raises ValueError for a name that `export_backbone` would refuse, before there is anything to export.

    Args:
        name: Name of the class.
        folder: Folder that it will be written to.
    """
    stem = _module_name(name)
    _check_free(name, stem, Path(folder).expanduser() / f'{stem}.py')


def _format_module(name: str, stem: str, weights: bool) -> str:
    """Returns the text of the module."""
    return _MODULE.format(
        name=name,
        stem=stem,
        and_weights=f', with its weights in {stem}.pth' if weights else '',
        init_cfg="dict(type='Pretrained', checkpoint=str(_HERE.with_suffix('.pth')))" if weights else 'None',
        init_note='; ``init_cfg=None`` leaves its weights random' if weights else '',
    )


def _module_name(name: str) -> str:
    """Returns the module's name for a class name: ``my_net`` for ``MyNet``."""
    if not isinstance(name, str) or not re.fullmatch(r'[A-Z][A-Za-z0-9_]*', name) or keyword.iskeyword(name):
        raise ValueError(
            f'name must be a class name: a capital letter, then letters, digits and underscores, got {name!r}'
        )
    return re.sub(r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '_', name).lower()


def _check_free(name: str, stem: str, module: Path) -> None:
    """Raises ValueError if the name is registered already, or if the module has the name of another module."""
    if keyword.iskeyword(stem):
        raise ValueError(f'name {name!r} gives a module {stem}.py, which cannot be imported; choose another name')
    if OURS.get(f'{OURS.scope}.{name}') is not None:
        raise ValueError(f'name {name!r} is registered in mmnas_ext already; choose another name')
    for host in _HOSTS:
        # MMEngine imports a host when one of its names is looked up
        if importlib.util.find_spec(host) and MODELS.get(f'{host}.{name}') is not None:
            raise ValueError(f'name {name!r} is registered in {host} already; choose another name')
    if name in MODELS.module_dict:
        raise ValueError(f'name {name!r} is registered in mmengine already; choose another name')
    found = importlib.util.find_spec(stem)
    if found is not None and Path(str(found.origin)).resolve() != module.resolve():
        raise ValueError(
            f'name {name!r} gives a module {stem}.py, but there is a module {stem} already, {found.origin}, and one '
            'would hide the other; choose another name'
        )
