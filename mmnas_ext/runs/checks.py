"""What a user can get wrong, found before the first step; what that takes to build, the run goes on with."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from mmengine.config import Config
from mmengine.device import is_cuda_available, is_mlu_available, is_musa_available, is_npu_available
from mmengine.dist import all_gather_object, is_main_process

from mmnas_ext.archs import ArchSpec
from mmnas_ext.backbones import backbone_spec
from mmnas_ext.backbones.chain import is_remapped
from mmnas_ext.datasets.identity import list_datasets
from mmnas_ext.registry import name_of
from mmnas_ext.remap import remap
from mmnas_ext.remap.download import locate
from mmnas_ext.remap.initializer import RemappedInit
from mmnas_ext.remap.reader import PACKAGE
from mmnas_ext.runs.building import build_half, warn
from mmnas_ext.runs.configs import check_halves
from mmnas_ext.runs.halves import LOADERS
from mmnas_ext.runs.imitating import list_imitated
from mmnas_ext.runs.keys import check_keys, check_shape, is_told
from mmnas_ext.runs.loading import check_load_from
from mmnas_ext.runs.manifest import read_manifest
from mmnas_ext.runs.method import Method
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.own_data import check_own_data
from mmnas_ext.runs.prepared import Half, Prepared
from mmnas_ext.runs.run import check_mode
from mmnas_ext.runs.session import continue_run, say
from mmnas_ext.runs.training import check_runner
from mmnas_ext.workdir import WorkDir

_SHOWN = 6  # missing files that a message names
# what a config can do wrong on purpose or by mistake; anything else that a check stumbles over is said with its type
_SAID = (ValueError, OSError, ImportError)


def check_config(cfg: Config, arch: str | None = None, search_only: bool = False, resume: bool = False) -> Prepared:
    """Raises one clear error for what would fail later, and builds what can be built before the first step.

    Keys and their types come first, then limits, files, seeds and the work dir, then what takes time: of each half the
    model, its optimizers, its datasets and a batch of each loader (docs/design.md, "Checks before a run"). On several
    processes all raise if one does.

    Args:
        cfg: The config.
        arch: The network that is to be trained instead of searched, if any.
        search_only: Whether the run ends with the search.
        resume: Whether the run goes on with what its work dir holds.

    Returns:
        What was built, for `mmnas_ext.runs.run.run`.

    Raises:
        ValueError: Something in the config is out of its range, of another type, or does not go with the rest.
        TypeError: A value is of another type.
        FileNotFoundError: A file that is needed does not exist.
    """
    error: Exception | None = None
    prepared = Prepared()
    try:
        _check(cfg, arch, search_only, resume, prepared)
    except _SAID as known:
        error = known
    except Exception as unforeseen:
        error = unforeseen
        if not (isinstance(unforeseen, TypeError) and is_told(unforeseen)):  # of a value that no check has thought of
            error = ValueError(f'this config cannot be run: {type(unforeseen).__name__}: {unforeseen}')
            error.__cause__ = unforeseen
    _raise_together(error)
    return prepared


def _check(cfg: Config, arch: str | None, search_only: bool, resume: bool, prepared: Prepared) -> None:
    check_shape(cfg)
    check_mode(cfg, search_only, arch)
    check_keys(cfg)
    check_halves(cfg)
    check_own_data(cfg)
    method, given = method_of(cfg), None if arch is None else ArchSpec.parse(arch)
    configs = method.check(cfg, given, search_only)
    prepared.halves = tuple(map(Half, _names(method, given), configs))
    for half in prepared.halves:
        check_runner(half.cfg, 'derived: ' if half.name == 'adaptation' else '')
    _fetch_seeds(configs)
    for half in configs:
        _check_seed(half.model.get('backbone') or {})
        for start in list_imitated(half):
            start.seed_at_hand()
        _check_device(half)
    check_data_of(configs)
    if cfg.get('work_dir'):
        _on_main(lambda: check_work_dir(cfg.work_dir))
    if resume and cfg.get('work_dir'):
        continue_run(read_manifest(WorkDir(cfg.work_dir).manifest), cfg, method, given, search_only)
    for number, half in enumerate(prepared.halves):
        where = 'derived: ' if half.name == 'adaptation' else ''
        model = build_half(half, prepared, keep=not number, where=where)
        if method.check_batches is not None and prepared.batches_of_halves and not number:
            method.check_batches(cfg, prepared.batches_of_halves)
        file = half.cfg.get('load_from')
        if file and '://' not in str(file):
            say(check_load_from(model, str(file), f'{where}load_from'))


def _names(method: Method, arch: ArchSpec | None) -> tuple[str, str]:
    if method.find is None:
        return 'training', ''
    return ('adaptation', '') if arch is not None else (method.first, 'adaptation')


def check_data_of(halves: Sequence[Config]) -> None:
    """Raises FileNotFoundError with all files and folders that the halves of a run lack; of a test set it warns."""
    tested, root = 'test_dataloader', next((half.get('data_root') for half in halves), None)
    lacking = _find_lacking(halves, [name for name in LOADERS if name != tested])
    tests = {path: place for path, place in _find_lacking(halves, [tested]).items() if path not in lacking}
    if tests:
        warn(f'{_say_missing(tests, root)}; the training does without it')
    if lacking:
        raise FileNotFoundError(_say_missing(lacking, root))


def check_data(cfg: Config, loaders: tuple[str, ...] = LOADERS) -> None:
    """Raises FileNotFoundError for annotations or images that are not where the config says, all of them at once."""
    lacking = _find_lacking([cfg], loaders)
    if lacking:
        raise FileNotFoundError(_say_missing(lacking, cfg.get('data_root')))


def _find_lacking(halves: Sequence[Config], loaders: Sequence[str]) -> dict[str, str]:
    """Files that loaders of configs want and do not find, each with the key of the first that wants it."""
    lacking: dict[str, str] = {}
    for half in halves:
        for name in loaders:
            for place, path in _missing(half, name):
                lacking.setdefault(path, place)
    return lacking


def check_work_dir(folder: str) -> None:
    """Raises ValueError where a work dir cannot be made or written to; leaves nothing."""
    path = Path(folder).absolute()
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir():
        raise ValueError(f'work_dir {folder} cannot be a folder: {there} is a file; take another --work-dir')
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f'work_dir {folder} cannot be written: no permission in {there}; take another --work-dir')
    made = [each for each in (path, *path.parents) if not each.exists()]
    try:  # some file systems take no files whatever the permissions are
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f'work_dir {folder} cannot be written: {error.strerror}; take another --work-dir') from None
    finally:
        for each in made:
            with suppress(OSError):  # another run's by now
                each.rmdir()


def _say_missing(lacking: Mapping[str, str], root: Any = None) -> str:
    """Names files that are missing, by the key of the config that wants each; `root` is the config's ``data_root``."""
    (path, place), *others = lacking.items()
    more = f' and {len(others) - _SHOWN} more' if len(others) > _SHOWN else ''
    named = [f'{other} of {key}' if key != place else other for other, key in others[:_SHOWN]]
    also = f', nor does {", ".join(named)}{more}' if others else ''
    key, _, end = place.rpartition('.')
    setting = f'{place}.data_root'
    if root and all(Path(each).is_relative_to(str(root)) for each in lacking):
        setting = 'data_root'  # moves them all
    how = (
        f'put the data there, or say where it is, e.g. --cfg-options {setting}=/path/to/data'
        if key and end == 'dataset'
        else f'say where it is, e.g. --cfg-options {place}.ann_file=/path/to/annotations.json'
    )
    return f'{place} wants {path}, which does not exist{also}: {how}'


def _missing(cfg: Config, loader: str) -> Iterator[tuple[str, str]]:
    """Yields key and path of the files that a loader and its evaluator want and do not find."""
    name = loader.replace('_dataloader', '_evaluator')
    for dataset in list_datasets((cfg.get(loader) or {}).get('dataset')):
        yield from ((f'{loader}.dataset', path) for path in _missing_data(dataset))
    evaluators = cfg.get(name) or []
    for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
        file = evaluator.get('ann_file') if isinstance(evaluator, Mapping) else None
        if isinstance(file, str) and '://' not in file and not Path(file).exists():
            yield name, file


def _missing_data(dataset: Mapping[str, Any]) -> Iterator[str]:
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
            yield str(path)


def _fetch_seeds(configs: Sequence[Config]) -> None:
    """Downloads seeds that are URLs, on the main process.

    Raises:
        ConnectionError: One cannot be read; on the other processes a ValueError.
    """
    starts = [
        start for half in configs for start in (_start_of(half.model.get('backbone') or {}), *list_imitated(half))
    ]
    sources = {str(start.source) for start in starts if start is not None}
    urls = sorted(source for source in sources if '://' in source and not source.startswith(PACKAGE))
    if not urls:
        return
    _on_main(lambda: [locate(url, download=True) for url in urls])


def _on_main(check: Callable[[], Any]) -> None:
    """Runs a check on the main process alone; where it raises all do, since later the processes wait for each other."""
    error: Exception | None = None
    if is_main_process():
        try:
            check()
        except (ValueError, OSError) as failed:
            error = failed
    _raise_together(error)


def _raise_together(error: Exception | None) -> None:
    """Raises this process's error; without one, a ValueError with what another process has met."""
    said = all_gather_object(None if error is None else str(error))
    if error is not None:
        raise error
    others = [text for text in said if text is not None]
    if others:
        raise ValueError(f'another process: {others[0]}')


def _start_of(backbone: Mapping[str, Any]) -> RemappedInit | None:
    init = backbone.get('init_cfg')
    if init is None or not is_remapped(init):
        return None
    return RemappedInit(**{key: value for key, value in init.items() if key not in ('type', '_scope_')})


def _check_seed(backbone: dict[str, Any]) -> None:
    start = _start_of(backbone)
    if start is None:
        return
    # one that is not at hand another machine's process has, and this one fetches it when it is needed
    seed, target = start.seed_at_hand(), backbone_spec(backbone)
    if seed is not None and target is not None:
        remap(seed, target)


def _check_device(cfg: Config) -> None:
    """Raises ValueError where mixed precision is asked for and no device has it."""
    wrapper = cfg.get('optim_wrapper') or {}
    asked = any(name_of(each) == 'AmpOptimWrapper' for each in (wrapper, *wrapper.values()))
    if asked and not any(has() for has in (is_cuda_available, is_npu_available, is_mlu_available, is_musa_available)):
        raise ValueError(
            "--amp (optim_wrapper.type='AmpOptimWrapper') needs a GPU, and PyTorch sees none: train without it, or see "
            'to it that torch.cuda.is_available()'
        )
