"""What a check builds of each part of a run: its datasets, a batch of each loader, its model and its optimizers."""

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import build_optim_wrapper
from mmengine.registry import LOOPS, OPTIMIZERS, Registry
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmnas_ext.backbones.chain import Chain
from mmnas_ext.datasets import check_sample
from mmnas_ext.distill import BlockDistiller
from mmnas_ext.engine.batches import build_halves
from mmnas_ext.engine.loops import SearchEpochLoop, SearchIterLoop
from mmnas_ext.registry import class_of
from mmnas_ext.runs.classes import check_classes, check_empty, check_heads, check_ignored, check_names
from mmnas_ext.runs.fitting import in_order
from mmnas_ext.runs.imitating import list_imitations
from mmnas_ext.runs.keys import is_told, near
from mmnas_ext.runs.later import check_optimizer, find, list_later, list_schedules, quiet
from mmnas_ext.runs.prepared import Half, Prepared, random_states_kept, scope_of, stand_in
from mmnas_ext.runs.readers import check_readers
from mmnas_ext.runs.scaling import read_base

# samples that a check reads of a loader's first batch
_SAMPLES = 8
_NOTHING = 'need at least one array to concatenate'  # what MMEngine says when it packs no annotations
_MISSING = re.compile(r'(\S+) is not in the \S*?::(.+?) registry|Failed to get (\S+)')
# what MMCV says of a layer that it does not know, without its name, and MMSegmentation of colours, with all of them
_UNNAMED, _PALETTE = 'Cannot find None in registry', 'palette does not match classes'
_TRIPLES = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}


def build_half(half: Half, prepared: Prepared, keep: bool, where: str = '') -> nn.Module:
    """Builds what a part of a run needs, and reads a batch of each of its loaders.

    Args:
        half: The part.
        prepared: Gets the datasets, and the model where it is kept.
        keep: Whether the run will train this very model.
        where: Stands before the keys of the config in messages.

    Returns:
        The model; its weights are not initialised.

    Raises:
        ValueError: Something cannot be built, a loader gives no batch, or classes do not agree; says what, in one
            sentence.
    """
    cfg = half.cfg
    for names in _TRIPLES.values():
        lacking = [name for name in names if cfg.get(name) is None]
        if lacking and len(lacking) < len(names):
            given = next(name for name in names if name not in lacking)
            raise ValueError(f'{where}{given} needs {" and ".join(lacking)} beside it, which this config lacks')
    if (cfg.get('auto_scale_lr') or {}).get('enable'):
        read_base(cfg.auto_scale_lr)
    with random_states_kept(), quiet(), scope_of(cfg):
        with built(f'{where}model'):
            model = prepared.model(cfg, keep)
        _check_neck(model, cfg, where)
        check_readers(model, where)
        with built(f'{where}optim_wrapper'):
            wrapper = _build_optimizers(model, cfg)
        for place, check in (*list_later(cfg), *list_imitations(cfg, model, wrapper)):
            with built(f'{where}{place}'):
                check()
        sets = {}
        for name in ('train', 'val'):
            if cfg.get(f'{name}_dataloader') is not None:
                sets[name], batch = read_loader(cfg, f'{name}_dataloader', prepared, where)
                _look_at(model, batch)
        for place, check in list_schedules(cfg, wrapper, len(sets.get('train', ()))):
            with built(f'{where}{place}'):
                check()
        if cfg.get('test_dataloader') is not None:
            # a training goes on without it
            try:
                with built(f'{where}test_dataloader.dataset'):
                    sets['test'] = prepared.dataset(cfg.test_dataloader.dataset)
            except FileNotFoundError:
                pass  # it has been warned of, with all that is missing
            except ValueError as error:
                warn(f'{error}; the training does without it')
        check_heads(model, sets, where)
        if 'train' in sets:
            check_ignored(model, sets['train'], cfg.model, where)
        return model


def read_loader(cfg: Config, name: str, prepared: Prepared, where: str) -> tuple[Any, Any]:
    """Reads samples of a loader's first batch; returns its dataset and these. Call it in the config's scope.

    Args:
        cfg: The config.
        name: Key of the loader.
        prepared: Gets the dataset.
        where: Stands before the key in messages.

    Raises:
        ValueError: There is no batch, a sample cannot be read, or a class has no annotations; says what.
    """
    place = f'{where}{name}'
    loader = cfg[name]
    check_names(loader.dataset, f'{place}.dataset')
    size = loader.get('batch_size')
    if loader.get('batch_sampler') is None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ValueError(f'{place}.batch_size must be a positive integer, got {size!r}')
    try:
        with built(f'{place}.dataset'):
            dataset = prepared.dataset(loader.dataset)
            count = len(dataset)
    except ValueError as error:
        if _NOTHING not in str(error):
            raise
        count = 0
    if count:
        check_classes(dataset, f'{place}.dataset')
    else:
        check_empty(loader.dataset, f'{place}.dataset')
        raise ValueError(f'{place}.dataset has no image: its files, filter_cfg, indices or metainfo.classes leave none')
    seed, found = (cfg.get('randomness') or {}).get('seed') or 0, []
    given = {**copy.deepcopy(dict(loader)), 'dataset': stand_in(loader.dataset, lambda: dataset)}
    with built(place):
        for each in _loaders(cfg, name, given, seed):
            sampler: Any = each.sampler
            if not len(each):
                raise ValueError(
                    f'batch_size={loader.get("batch_size")} is more than the {len(sampler)} images that a process '
                    'has, and drop_last leaves no batch: take a smaller one'
                )
            batch = _read_batch(each)
            found.append(len(each))
    if len(found) > 1:
        prepared.batches_of_halves = tuple(found)
    return dataset, batch


@contextmanager
def built(what: str) -> Iterator[None]:
    """Says in one sentence why something of a config cannot be built.

    Raises:
        ValueError: Anything was raised inside; a name that no registry knows comes with what is near to it.
    """
    try:
        yield
    except Exception as error:  # whatever a host makes of a wrong argument
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        missing = _MISSING.match(text)
        if missing:
            name = missing[1] or missing[3]
            text = f'type {name!r} is not known{_hint(name, _names(missing[2]))}'
        elif text.startswith(_UNNAMED):
            name = str(_local(error, 'layer_type', 'padding_type'))
            text = f'type {name!r} is not known{_hint(name, _names("model"))}'
        elif text.startswith(_PALETTE):
            counts = [len(_local(error, name) or ()) for name in ('palette', 'classes')]
            text = (
                f'metainfo.palette has {counts[0]} colours for the {counts[1]} names of metainfo.classes: give a '
                'colour for each, or palette=[], which draws them'
            )
        elif isinstance(error, KeyError) and ' ' in text:
            pass  # a sentence, not a key
        elif not isinstance(error, ValueError | FileNotFoundError | ImportError) and not is_told(error):
            text = f'{type(error).__name__}: {text}'
        if isinstance(error, FileNotFoundError | ImportError):
            raise
        where, _, name = what.rpartition(': ')
        if text.startswith((f'{name}.', 'train_cfg.')):  # it says itself where
            what = where
        raise ValueError(f'{what}: {" ".join(text.split())}'.removeprefix(': ')) from error


def warn(text: str) -> None:
    """Says on the main process what does not stop a run."""
    print_log(text, logger='current', level=logging.WARNING)


def _local(error: BaseException, *names: str) -> Any:
    """The variable of one of these names where an error was raised: what its message does not tell."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    there = last.tb_frame.f_locals if last is not None else {}
    return next((there[name] for name in names if name in there), None)


def _hint(name: str, names: list[str]) -> str:
    """What may have been meant by a name that the default scope does not know: another scope's, or one near to it."""
    elsewhere = [each for each in names if each.endswith(f'.{name}')]
    if elsewhere:
        scope = elsewhere[0].partition('.')[0]
        return f" in this config's default_scope: write {elsewhere[0]!r}, or set default_scope={scope!r}"
    return near(name, names)


def _check_neck(model: Any, cfg: Config, where: str) -> None:
    backbone, necks = getattr(model, 'backbone', None), cfg.model.get('neck')
    neck = necks[0] if isinstance(necks, list | tuple) and necks else necks
    wanted = neck.get('in_channels') if isinstance(neck, Mapping) else None
    if not isinstance(backbone, Chain) or not isinstance(wanted, list | tuple):
        return
    given = in_order(neck, backbone.out_channels)
    if list(wanted) != given:
        raise ValueError(f'{where}model.neck.in_channels must be what the backbone gives, {given}, got {list(wanted)}')


def _look_at(model: Any, batch: Any) -> None:
    """Raises ValueError where a teacher's features give its student nothing to learn."""
    if isinstance(model, BlockDistiller):
        with built('model.teacher'):
            model.check_features([model.data_preprocessor(batch, False)['inputs']])


def _build_optimizers(model: nn.Module, cfg: Config) -> Any:
    """Builds the optimizers of a part; returns the wrapper whose rates are scheduled."""
    given = copy.deepcopy(cfg.get('optim_wrapper'))
    if given is None:
        return None
    found = []
    # of a search each by itself: its constructor has been asked, and would warn of limits again
    for name, wrapper in [(f'{name}.', given[name]) for name in ('weights', 'arch') if name in given] or [('', given)]:
        optimizer = wrapper.get('optimizer')
        if not isinstance(optimizer, Mapping) and 'constructor' not in wrapper:
            raise ValueError(f'{name}optimizer must be a dict, got {optimizer!r:.60}')
        find(OPTIMIZERS, (optimizer or {}).get('type'))
        check_optimizer(wrapper, name)
        found.append(build_optim_wrapper(model, {'type': 'OptimWrapper', **wrapper}))
    return found[0]


def _loaders(cfg: Config, name: str, loader: dict[str, Any], seed: int) -> list[DataLoader]:
    """The loaders that a part makes of a loader's config: two of a search's training images."""
    kind = cfg.train_cfg.get('type') if name == 'train_dataloader' else None
    found = class_of(LOOPS, kind)
    if found is None or not issubclass(found, SearchEpochLoop | SearchIterLoop):
        return [Runner.build_dataloader(loader, seed=seed)]
    loop, runner = cfg.train_cfg, SimpleNamespace(seed=seed, build_dataloader=Runner.build_dataloader)
    fraction, split_seed = loop.get('weight_fraction', 0.5), loop.get('split_seed', 0)
    return [half.loader for half in build_halves(runner, loader, fraction, split_seed, loop.get('pipelines'))]


def _read_batch(loader: DataLoader) -> Any:
    """Reads and collates the first samples in this process: no worker is started for them."""
    batches: Any = loader.batch_sampler
    chosen = next(iter(batches)) if batches is not None else [next(iter(loader.sampler))]
    return loader.collate_fn([check_sample(loader.dataset, index) for index in chosen[:_SAMPLES]])


def _names(registry: str | None) -> list[str]:
    """Names that a registry of MMEngine, or any, and its hosts' know."""
    every = [each for each in vars(mmengine.registry).values() if isinstance(each, Registry)]
    roots = [each for each in every if registry in (None, each.name)]
    return [
        name
        for root in roots
        for each, prefix in [(root, ''), *((child, f'{scope}.') for scope, child in root.children.items())]
        for name in (*each.module_dict, *(f'{prefix}{name}' for name in each.module_dict))
    ]
