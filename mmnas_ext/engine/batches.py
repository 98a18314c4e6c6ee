"""Two endless streams of batches from one dataset: one trains weights, the other alpha."""

import copy
from typing import Any

from mmengine.registry import DATASETS
from torch.utils.data import DataLoader

from mmnas_ext.datasets import split_halves
from mmnas_ext.engine.seeding import reseed, seed_worker


class Batches:
    """A loader's batches without end; which comes at a position depends on (seed, name, position) alone.

    Args:
        loader: A loader; its sampler has epochs (``set_epoch`` and ``epoch``), or its stream begins anew with it.
        seed: The run's seed.
        name: Tells streams of one run apart.
        same_for_all: Whether images are augmented alike in all processes.
    """

    def __init__(self, loader: DataLoader, seed: int, name: str, same_for_all: bool = False) -> None:
        self.loader = loader
        self._key = (seed, name)
        self._rank = 0 if same_for_all else None
        self._position = 0
        self._iterator: Any = None

    def __iter__(self) -> 'Batches':
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._begin()
        try:
            batch = self._next()
        except StopIteration:
            self._begin()
            batch = self._next()
        self._position += 1
        return batch

    def seek(self, position: int) -> None:
        """Goes on at `position`; reads and drops the batches of its epoch that lie before it."""
        if position == self._position:
            return
        # a sampler whose epoch cannot be set is read from its start
        start = position - position % len(self.loader) if self._set_epoch(0) else 0
        if not start <= self._position < position:
            self._position = start
            self._iterator = None
        while self._position < position:
            next(self)

    def skip_iter(self, position: int) -> None:
        """What MMEngine's iteration loop calls when it resumes."""
        self.seek(position)

    def close(self) -> None:
        """Lets go of the workers, and begins anew if it is read again.

        Left to the garbage collector, which takes apart their queues first, PyTorch waits five seconds for each.
        """
        self._iterator = None
        self._position = 0

    def _next(self) -> Any:
        # a loader without workers augments here: by the position, however it was reached
        reseed(*self._key, 'batch', self._position, rank=self._rank)
        return next(self._iterator)

    def _begin(self) -> None:
        epoch = self._position // len(self.loader)
        self._set_epoch(epoch)
        reseed(*self._key, 'epoch', epoch, rank=self._rank)  # workers derive their seeds from this state
        self._iterator = iter(self.loader)

    def _set_epoch(self, epoch: int) -> bool:
        samplers: tuple[Any, ...] = (self.loader.sampler, getattr(self.loader.batch_sampler, 'sampler', None))
        for sampler in samplers:
            # endless samplers have a set_epoch too, which does nothing
            if hasattr(sampler, 'set_epoch') and hasattr(sampler, 'epoch'):
                sampler.set_epoch(epoch)
                return True
        return False


def reproducible(dataloader: dict[str, Any]) -> dict[str, Any]:
    """A loader's config whose `Batches` follow from their position alone; the one given is left as it is."""
    cfg = copy.deepcopy(dict(dataloader))
    # workers that live over epochs hold random states that no checkpoint has
    cfg['persistent_workers'] = False
    cfg.setdefault('worker_init_fn', dict(type=seed_worker))
    sampler = cfg.get('sampler')
    if isinstance(sampler, dict) and 'InfiniteSampler' in str(sampler.get('type')):
        # these batches never end anyhow, and an epoch is found again without reading what came before it
        cfg['sampler'] = dict(sampler, type='DefaultSampler')
    return cfg


def build_halves(runner: Any, dataloader: dict[str, Any], fraction: float, split_seed: int) -> tuple[Batches, Batches]:
    """Builds one dataset, splits it, and makes a loader for each half.

    Args:
        runner: The runner, for its seed and `build_dataloader`.
        dataloader: Config of both loaders; its dataset is built once.
        fraction: Share of the images that train weights.
        split_seed: Seed of the split.

    Returns:
        The batches for the weights, and those for alpha.
    """
    cfg = reproducible(dataloader)
    dataset = DATASETS.build(cfg.pop('dataset'))
    halves = split_halves(dataset, split_seed, fraction)
    names = ('weights', 'arch')
    loaders = [runner.build_dataloader(dict(cfg, dataset=half), seed=runner.seed) for half in halves]
    for name, loader in zip(names, loaders, strict=True):
        if not len(loader):
            raise ValueError(f'train_dataloader.batch_size is larger than the {name} half of its dataset')
    weights, arch = (Batches(loader, runner.seed, name) for name, loader in zip(names, loaders, strict=True))
    return weights, arch
