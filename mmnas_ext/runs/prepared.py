"""What a check has built: the run uses it, so that no dataset is indexed twice and no model built twice."""

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner, set_random_seed
from torch import nn

from mmnas_ext.datasets.inspect import random_states_kept
from mmnas_ext.remap.loading import safe_loading

_LOADERS = ('_train_dataloader', '_val_dataloader', '_test_dataloader')


class Half(NamedTuple):
    """A part of a run that trains.

    Args:
        name: What it is called in messages: ``'search'``, ``'trial'``, ``'adaptation'``, ``'training'``.
        cfg: Its config; of a network that is not found yet, that of another one of the space.
    """

    name: str
    cfg: Config


class Prepared:
    """Datasets and models by their configs.

    A dataset is indexed once, whichever loaders and parts of a run read it. Each reader gets a view of its own, which
    shares the annotations and has its own pipeline: hooks change pipelines, and transforms may have a state. A model is
    given away once, with the states of the random generators that building it left, so its weights are initialised to
    the same bits as those of one that the runner builds.

    Attributes:
        halves: The parts of the run that were checked, in their order.
        batches_of_halves: Batches of an epoch of the images that train weights, and of those held out from them; empty
            where images are not parted.
    """

    def __init__(self) -> None:
        self.halves: tuple[Half, ...] = ()
        self.batches_of_halves: tuple[int, ...] = ()
        self._datasets: dict[str, Any] = {}
        self._models: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {}

    def dataset(self, cfg: Mapping[str, Any]) -> Any:
        """A view of the dataset of a config, which is indexed unless it is here; call it in the config's scope."""
        known = self._find(cfg)
        if known is not None:
            return known
        dataset = DATASETS.build(copy.deepcopy(cfg))
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        self._datasets[_key(cfg)] = dataset
        # the pipeline of another host's dataset is not found in the default scope
        if isinstance(dataset, BaseDataset) and '.' not in str(cfg.get('type')):
            self._datasets[_key(_unprocessed(cfg))] = dataset
        return _own(dataset, {})

    def model(self, cfg: Config, keep: bool) -> nn.Module:
        """Builds the model of a config as its runner would, on the CPU; its weights are not initialised yet.

        Args:
            cfg: The config.
            keep: Whether the run will get this model.
        """
        randomness = cfg.get('randomness') or {}
        model_cfg = copy.deepcopy(cfg.model)
        if cfg.get('data_preprocessor') is not None:
            model_cfg.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
        with random_states_kept(), scope_of(cfg), safe_loading():
            set_random_seed(randomness.get('seed') or 0, diff_rank_seed=bool(randomness.get('diff_rank_seed')))
            built = MODELS.build(model_cfg)
            if keep:
                self._models[_model_key(cfg)] = (built, _states())
        return built

    def lend(self, cfg: Config, kind: type[Runner] = Runner) -> Runner:
        """Builds the runner of a config with what is here; the rest it builds itself.

        Args:
            cfg: The config of a part, as `Runner.from_cfg` takes it; left as it is.
            kind: The class of the runner.
        """
        model, states = self._models.pop(_model_key(cfg), (None, ()))
        self._models.clear()  # a part that was done already will not ask for its model
        if model is None:
            runner = kind.from_cfg(cfg)
        else:
            given: Any = type(kind.__name__, (kind,), {'build_model': lambda self, cfg: model})
            runner = given.from_cfg(cfg)
            _set_states(states)
        for name in _LOADERS:
            loader = getattr(runner, name)
            dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
            if isinstance(dataset, Mapping) and self._knows(dataset):
                changed = copy.copy(loader)
                changed['dataset'] = stand_in(dataset, self._giver(dataset))
                setattr(runner, name, changed)
        return runner

    def _knows(self, cfg: Mapping[str, Any]) -> bool:
        return any(_key(each) in self._datasets for each in (cfg, _unprocessed(cfg)))

    def _find(self, cfg: Mapping[str, Any]) -> Any:
        whole = self._datasets.get(_key(cfg))
        if whole is not None:
            return _own(whole, {})
        indexed = self._datasets.get(_key(_unprocessed(cfg)))
        if indexed is None:
            return None
        view = _own(indexed, {})
        view.pipeline = Compose(copy.deepcopy(cfg.get('pipeline')) or [])
        return view

    def _giver(self, cfg: Mapping[str, Any]) -> Callable[[], Any]:
        """A type for a config that gives the dataset: unlike the dataset itself, copying a config leaves it alone."""

        def give() -> Any:
            return self._find(cfg)

        return give


def stand_in(cfg: Mapping[str, Any], give: Callable[[], Any]) -> dict[str, Any]:
    """Config of a dataset that is there: building it gives that, and what it says of its images can still be read.

    Args:
        cfg: The dataset's config.
        give: Returns the dataset.
    """

    def given(**settings: Any) -> Any:
        return give()

    return {**cfg, 'type': given}


@contextmanager
def scope_of(cfg: Config) -> Iterator[None]:
    """Makes the host that a config names MMEngine's default scope, as its runner does."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        yield


def _states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_states(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _unprocessed(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What decides which items a dataset has."""
    return {**{key: value for key, value in cfg.items() if key != 'pipeline'}, 'pipeline': 'any'}


def _own(dataset: Any, copies: dict[int, Any]) -> Any:
    """A copy of a dataset that shares its annotations and has a pipeline of its own, inside wrappers too."""
    if id(dataset) in copies:
        return copies[id(dataset)]
    view = copies[id(dataset)] = copy.copy(dataset)
    for name, value in vars(dataset).items():
        if name == 'dataset':
            setattr(view, name, _own(value, copies))
        elif name == 'datasets':
            setattr(view, name, [_own(each, copies) for each in value])
        elif name == 'pipeline':
            setattr(view, name, copy.deepcopy(value))
    return view


def _model_key(cfg: Config) -> str:
    randomness = dict(cfg.get('randomness') or {})
    decides = {key: cfg.get(key) for key in ('model', 'data_preprocessor', 'default_scope')}
    return _key({**decides, 'seed': randomness.get('seed') or 0, 'ranks': bool(randomness.get('diff_rank_seed'))})


def _key(value: Any) -> str:
    """Settings as text; those that are equal give the same."""
    return json.dumps(value, default=_text, sort_keys=True)


def _text(value: Any) -> str:
    qualified = getattr(value, '__qualname__', None)
    return f'{value.__module__}.{qualified}' if qualified else repr(value)
