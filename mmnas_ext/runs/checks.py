"""What a user can get wrong in a config, found before anything is built or trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmnas_ext.archs import ArchSpec
from mmnas_ext.backbones import backbone_spec
from mmnas_ext.backbones.chain import is_remapped
from mmnas_ext.registry import MODELS
from mmnas_ext.remap import Seed, load_seed, remap
from mmnas_ext.remap.initializer import RemappedInit
from mmnas_ext.remap.reader import PACKAGE
from mmnas_ext.runs.changes import list_datasets
from mmnas_ext.runs.manifest import read_manifest
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.run import check_mode
from mmnas_ext.runs.session import continue_run
from mmnas_ext.workdir import WorkDir

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def check_config(cfg: Config, arch: str | None = None, search_only: bool = False, resume: bool = False) -> None:
    """Raises one clear error for what would fail later: data that is not there, a seed that does not fit, limits.

    Args:
        cfg: The config.
        arch: The network that is to be trained instead of searched, if any.
        search_only: Whether the run ends with the search.
        resume: Whether the run goes on with what its work dir holds.

    Raises:
        ValueError: An argument is out of its range, a seed does not fit its network, ``derived`` leaves a search class,
            a random search is resumed with other settings.
        FileNotFoundError: A data set's or seed's file does not exist.
    """
    check_mode(cfg, search_only, arch)
    method, given = method_of(cfg), None if arch is None else ArchSpec.parse(arch)
    for half in method.check(cfg, given, search_only):
        backbone = half.model.get('backbone') or {}
        _check_seed(backbone)
        _check_neck(backbone, half.model.get('neck') or {})
        check_data(half)
    if resume and cfg.get('work_dir'):
        continue_run(read_manifest(WorkDir(cfg.work_dir).manifest), cfg, method, given, search_only)


def check_data(cfg: Config, loaders: tuple[str, ...] = LOADERS) -> None:
    """Raises FileNotFoundError for annotations or images that are not where the config says."""
    for name in loaders:
        for dataset in list_datasets((cfg.get(name) or {}).get('dataset')):
            _check_dataset(name, dataset)
    for name in (loader.replace('_dataloader', '_evaluator') for loader in loaders):
        evaluators = cfg.get(name) or []
        for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
            file = evaluator.get('ann_file')
            if isinstance(file, str) and '://' not in file and not Path(file).exists():
                raise FileNotFoundError(
                    f'{name} wants {file}, which does not exist: say where it is, e.g. '
                    f'--cfg-options {name}.ann_file=/path/to/annotations.json'
                )


def _check_seed(backbone: dict[str, Any]) -> None:
    init = backbone.get('init_cfg')
    if init is None or not is_remapped(init):
        return
    start = RemappedInit(**{key: value for key, value in init.items() if key not in ('type', '_scope_')})
    target = backbone_spec(backbone)
    if isinstance(start.source, Seed) or ('://' in str(start.source) and not str(start.source).startswith(PACKAGE)):
        return  # downloaded when it is needed, by one process for all
    seed = load_seed(start.source, start.arch)
    if target is not None:
        remap(seed, target)


def _check_neck(backbone: dict[str, Any], neck: dict[str, Any]) -> None:
    wanted = neck.get('in_channels') if isinstance(neck, dict) else None
    if not str(backbone.get('type')).startswith('mmnas_ext.') or not isinstance(wanted, list | tuple):
        return
    given = MODELS.build({**backbone, 'init_cfg': None}).out_channels
    if list(wanted) != list(given):
        raise ValueError(f'model.neck.in_channels must be what the backbone gives, {list(given)}, got {list(wanted)}')


def _check_dataset(name: str, dataset: Mapping[str, Any]) -> None:
    root = dataset.get('data_root') or ''
    if '://' in root:
        return
    prefix = dataset.get('data_prefix') or {}
    # MMPretrain takes a single folder as well
    sources = dataset.get('sources') or []
    listed = [sources] if isinstance(sources, str) else list(sources)
    wanted = [*listed, dataset.get('ann_file') or '', *([prefix] if isinstance(prefix, str) else prefix.values())]
    for entry in wanted:
        if not isinstance(entry, str) or not entry or '://' in entry:
            continue
        path = Path(entry) if Path(entry).is_absolute() else Path(root, entry)
        if not path.exists():
            raise FileNotFoundError(
                f'{name}.dataset wants {path}, which does not exist: put the data there, or say where it is, e.g. '
                f'--cfg-options {name}.dataset.data_root=/path/to/data'
            )
