"""What a user can get wrong in a config, found before anything is built or trained."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from mmnas_ext.archs import METRICS, ArchSpec, CellSpace, Limit, SearchSpace, cell_prices
from mmnas_ext.backbones.chain import is_remapped
from mmnas_ext.engine.derive import derived_config, is_distillation
from mmnas_ext.engine.loops import SearchEpochLoop, SearchIterLoop
from mmnas_ext.engine.optim import SearchOptimWrapperConstructor
from mmnas_ext.registry import LOOPS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmnas_ext.remap import load_seed, remap
from mmnas_ext.runs.random_search import TRIALS_DIR, check_resumable
from mmnas_ext.runs.run import check_mode
from mmnas_ext.runs.trials import TrialPlan, read_space
from mmnas_ext.search.select import reachable

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
    halves = [cfg]
    if is_distillation(cfg):
        halves = _check_distillation(cfg, search_only, arch)
    elif cfg.get('derived'):
        space = read_space(cfg)
        if space.size == 1:
            raise ValueError('model.backbone.space has nothing to search: every layer has a single candidate')
        first = _check_trials(cfg, resume and arch is None) if cfg.get('random_search') is not None else cfg
        if first is cfg:
            _check_search(cfg, space)
        # the second half as well: it may begin days after the first
        adapt = derived_config(cfg, next(space.sample(0, 1)) if arch is None else ArchSpec.parse(arch))
        halves = [first] if search_only else [adapt] if arch is not None else [first, adapt]
    # distilled weights are yet to come; a distiller itself has no backbone
    seeded = not (is_distillation(cfg) and (cfg.get('derived') or {}).get('weights') == 'distilled')
    for half in halves:
        backbone = half.model.get('backbone') or {}
        if seeded:
            _check_seed(backbone)
        _check_neck(backbone, half.model.get('neck') or {})
        check_data(half)


def check_data(cfg: Config, loaders: tuple[str, ...] = LOADERS) -> None:
    """Raises FileNotFoundError for annotations or images that are not where the config says."""
    for name, dataset in _datasets(cfg, loaders):
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


def _check_trials(cfg: Config, resume: bool) -> Config:
    """Checks a random search; returns the config of its first trial."""
    plan = TrialPlan.of(cfg)
    if resume and cfg.get('work_dir'):
        check_resumable(plan, Path(cfg.work_dir) / TRIALS_DIR)
    plan.check()
    return plan.trial_config(plan.drawn[0][0])


def _check_distillation(cfg: Config, search_only: bool, arch: str | None) -> list[Config]:
    """Checks a distillation; returns the configs whose data will be needed."""
    model = cfg.model
    space = CellSpace.parse(model.get('space'))
    limits: dict[str, Any] = {}
    metrics = ('macs', 'params')
    if cfg.get('val_cfg'):
        limits, metrics = cfg.val_cfg.get('limits') or {}, cfg.val_cfg.get('metrics', metrics)
    for metric, given in limits.items():
        where = f'val_cfg.limits.{metric}'
        limit = Limit.parse(given, where)
        if limit == Limit() or metric not in metrics or metric not in METRICS:
            continue
        size, table = tuple(model.get('input_size', (224, 224))), cfg.val_cfg.get('table')
        by = METRICS[metric]
        reach = reachable(space, cell_prices(space, size, 32, metric, table if by.measured else None))
        limit.check(by, reach, where)
        for sentence in limit.slack(by, reach, where):
            print_log(sentence, logger='current', level=logging.WARNING)
    halves = [] if arch is not None else [cfg]
    if cfg.get('derived') and not search_only:
        first = space.arch([0] * len(space.stages), tuple((0,) * len(s.cells[0].layers) for s in space.stages))
        halves.append(derived_config(cfg, first if arch is None else ArchSpec.parse(arch)))
    return halves


def _check_search(cfg: Config, space: SearchSpace) -> None:
    backbone = cfg.model.backbone
    _check_loop(cfg.train_cfg)
    settings = dict(cfg.optim_wrapper)
    name, paramwise = settings.pop('constructor', None), settings.pop('paramwise_cfg', None)
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(name) if isinstance(name, str) else name
    if not (isinstance(constructor, type) and issubclass(constructor, SearchOptimWrapperConstructor)):
        raise ValueError(
            f"optim_wrapper.constructor must be 'mmnas_ext.SearchOptimWrapperConstructor' in a search, got {name!r}"
        )
    size = tuple(backbone.get('input_size', (800, 1088)))
    constructor(settings, paramwise).cost.prices(space, size, backbone.get('output_stride', 32))


def _check_loop(loop: dict[str, Any]) -> None:
    kind = loop.get('type')
    loop_class = LOOPS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(loop_class, type) and issubclass(loop_class, SearchEpochLoop | SearchIterLoop)):
        raise ValueError(
            "train_cfg.type must be a search loop, 'mmnas_ext.SearchEpochLoop' or 'mmnas_ext.SearchIterLoop', "
            f'got {kind!r}'
        )
    unit = 'epochs' if issubclass(loop_class, SearchEpochLoop) else 'iters'
    numbers: list[int] = []
    for key in (f'max_{unit}', 'arch_start'):
        value = loop.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f'train_cfg.{key} must be an integer, got {value!r}')
        numbers.append(value)
    last, start = numbers
    if not 0 <= start < last:
        raise ValueError(
            f'train_cfg.arch_start must be in 0..{last - 1}, got {start}: the search has {last} {unit}, '
            'and alpha would never be trained'
        )


def _check_seed(backbone: dict[str, Any]) -> None:
    init = backbone.get('init_cfg')
    if init is None or not is_remapped(init):
        return
    source = init['seed']
    checkpoint, arch = (source.get('checkpoint'), source.get('arch')) if isinstance(source, dict) else (source, None)
    if not isinstance(checkpoint, str) or checkpoint.partition('://')[0] in (
        'http',
        'https',
        'open-mmlab',
        'torchvision',
    ):
        return  # downloaded when it is needed, by one process for all
    seed = load_seed(checkpoint, arch)
    remap(seed, SearchSpace.parse(backbone['space']) if 'space' in backbone else ArchSpec.parse(backbone['arch']))


def _check_neck(backbone: dict[str, Any], neck: dict[str, Any]) -> None:
    wanted = neck.get('in_channels') if isinstance(neck, dict) else None
    if not str(backbone.get('type')).startswith('mmnas_ext.') or not isinstance(wanted, list | tuple):
        return
    given = MODELS.build({**backbone, 'init_cfg': None}).out_channels
    if list(wanted) != list(given):
        raise ValueError(f'model.neck.in_channels must be what the backbone gives, {list(given)}, got {list(wanted)}')


def _datasets(cfg: Config, loaders: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in loaders:
        dataset = (cfg.get(name) or {}).get('dataset')
        stack = [dataset] if dataset else []
        while stack:
            dataset = stack.pop()
            inner = dataset.get('datasets') or dataset.get('dataset')
            if inner is None:
                yield name, dataset
            else:
                stack.extend(inner if isinstance(inner, list) else [inner])


def _check_dataset(name: str, dataset: dict[str, Any]) -> None:
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
