"""Writes a backbone of one's own: a small module that registers it by name, its architecture, and its weights."""

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
# a name of theirs would hide the new backbone in their configs
_HOSTS = ('mmdet', 'mmseg', 'mmpretrain')
_MODULE = '''"""{name}: a backbone that mmnas_ext builds from {stem}.json, which lies beside this file{and_weights}.

    custom_imports = dict(imports=['{stem}'])      # in a config; or import this file from a package of your own
    model = dict(backbone=dict(type='{name}', out_indices=(1, 2, 4, 6)))

With `import {stem}` done, every toolbox on MMEngine finds it. Written by mmnas_ext's tools/export_backbone.py.
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
    """`MBNet` of one architecture; takes all of its arguments but ``arch``{init_note}."""

    def __init__(self, *, init_cfg: Any = INIT_CFG, **kwargs: Any) -> None:
        super().__init__(arch=ARCH, init_cfg=init_cfg, **kwargs)
'''


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        name: Under which the backbone is registered, ``type=name``.
        module: Name of its module, ``custom_imports=dict(imports=[module])``.
        arch: Its architecture, the weights' own if there are weights.
        files: The module, its JSON, and its weights if there are any.
    """

    name: str
    module: str
    arch: ArchSpec
    files: tuple[Path, ...]


def export_backbone(
    arch: Any, name: str, folder: str | Path = FOLDER, weights: str | Path | None = None, overwrite: bool = False
) -> Exported:
    """Writes the backbone `name`: a module, its architecture as JSON and, with weights, those as its default.

    Args:
        arch: Anything that `ArchSpec.parse` reads, such as a search's ``derived/arch.json``.
        name: Name of the class, and under which it is registered in MMEngine's own registry, where every host looks
            last; the files are named alike, ``MyNet`` in ``my_net.py``.
        folder: Where to write to, made if missing; it has to be importable where the backbone is used.
        weights: A checkpoint of this network as `load_seed` takes it. Where it has no 1x1 head, the exported
            architecture has none either.
        overwrite: Replace what an earlier export wrote.

    Raises:
        ValueError: `name` is no name for a class or is taken, `arch` is malformed or `weights` are of another network.
        FileNotFoundError: `weights` do not exist.
        FileExistsError: The files are there already, and `overwrite` is not set.
        ConnectionError: The weights' URL cannot be read.
    """
    spec = ArchSpec.parse(arch)
    stem = _module_name(name)
    folder = Path(folder).expanduser()
    module, described, stored = (folder / f'{stem}{suffix}' for suffix in ('.py', '.json', '.pth'))
    _check_free(name, stem, module)
    there = [path for path in (module, described, stored) if path.exists()]
    if there and not overwrite:
        raise FileExistsError(f'{there[0]} is there already: pass --overwrite to replace it, or choose another --name')
    seed = None if weights is None else load_seed(weights, spec)
    spec = spec if seed is None else seed.arch
    folder.mkdir(parents=True, exist_ok=True)
    if seed is not None:
        save(as_state_dict(seed), stored)
    elif stored.exists():
        stored.unlink()  # an earlier export's, of weights that this one does not have
    write_text(described, spec.format('json'))
    write_text(module, _source(name, stem, weights is not None))
    return Exported(name, stem, spec, (module, described) if seed is None else (module, described, stored))


def _source(name: str, stem: str, weights: bool) -> str:
    return _MODULE.format(
        name=name,
        stem=stem,
        and_weights=f', with weights of its own in {stem}.pth' if weights else '',
        init_cfg="dict(type='Pretrained', checkpoint=str(_HERE.with_suffix('.pth')))" if weights else 'None',
        init_note='; ``init_cfg=None`` leaves its weights random' if weights else '',
    )


def _module_name(name: str) -> str:
    """``my_net`` of ``MyNet``."""
    if not isinstance(name, str) or not re.fullmatch(r'[A-Z][A-Za-z0-9_]*', name) or keyword.iskeyword(name):
        raise ValueError(
            f'name must be one for a class: a capital letter, then letters, digits and underscores, got {name!r}'
        )
    return re.sub(r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '_', name).lower()


def _check_free(name: str, stem: str, module: Path) -> None:
    """Raises ValueError where the name would clash: with a registered one, or the module with an importable one."""
    if keyword.iskeyword(stem):
        raise ValueError(f'name {name!r} gives a module {stem}.py, which cannot be imported; choose another')
    if OURS.get(f'{OURS.scope}.{name}') is not None:
        raise ValueError(f'name {name!r} is one of mmnas_ext already; choose another')
    for host in _HOSTS:
        # a host is imported by MMEngine when one of its names is looked up
        if importlib.util.find_spec(host) and MODELS.get(f'{host}.{name}') is not None:
            raise ValueError(f'name {name!r} is registered in {host} already; choose another')
    if name in MODELS.module_dict:
        raise ValueError(f'name {name!r} is registered in mmengine already; choose another')
    found = importlib.util.find_spec(stem)
    if found is not None and Path(str(found.origin)).resolve() != module.resolve():
        raise ValueError(
            f'name {name!r} gives a module {stem}.py, and {stem} is {found.origin} here, which it would hide or be '
            'hidden by; choose another'
        )
