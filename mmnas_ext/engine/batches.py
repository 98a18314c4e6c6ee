"""Two endless streams of batches from one dataset: one trains weights, the other alpha."""

import copy
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.dataset import Compose
from mmengine.dist import get_dist_info, get_world_size
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import BatchSampler, DataLoader, Sampler

from mmnas_ext.datasets import DatasetView, check_files, originals, renewed, split_halves
from mmnas_ext.datasets.renewal import shallow
from mmnas_ext.engine.pipelines import without_left_out
from mmnas_ext.engine.seeding import common_seed, reseed, seed_worker
from mmnas_ext.registry import name_of

HALVES = ('weights', 'arch')


class Batches:
    """A loader's batches without end; which images come at a position depends on (seed, name, position) alone.

    How they are augmented depends on the number of the loader's workers, too.

    An epoch's transforms are new copies of the dataset's: what they remember of images (a mosaic's cache) is of this
    stream and of this epoch. Transforms that a hook puts in the place of the dataset's are read from the next batch on.

    Args:
        loader: A loader; its sampler has epochs (``set_epoch`` and ``epoch``), or its stream begins anew with it.
        seed: The run's seed, the same in all processes.
        name: Tells streams of one run apart.
        same_for_all: Whether images are augmented alike in all processes.

    Raises:
        ValueError: The loader has no batch.
    """

    def __init__(self, loader: DataLoader, seed: int, name: str, same_for_all: bool = False) -> None:
        if not len(loader):
            share = f'the {name} half of its dataset' if name in HALVES else 'its dataset'
            images: Any = loader.dataset
            raise ValueError(
                f'train_dataloader.batch_size is larger than {share}, which has {len(images)} images for '
                f'{get_world_size()} processes, and drop_last leaves none'
            )
        self.loader = loader
        self._key = (seed, name)
        self._rank = 0 if same_for_all else None
        self._position = 0
        self._iterator: Any = None
        self._originals: list[Any] = []

    def __iter__(self) -> 'Batches':
        return self

    def __next__(self) -> Any:
        """Returns the next batch.

        Raises:
            DataError: An image or its label cannot be used; the message names the file.
        """
        if self._iterator is None or self._replaced():
            self._begin()
        try:
            batch = self._next()
        except StopIteration:
            self._begin()
            batch = self._next()
        self._position += 1
        return batch

    def start(self, position: int) -> None:
        """Begins anew at `position`, with transforms that remember nothing, without reading what lies before it."""
        self._position = position
        self._iterator = None

    def seek(self, position: int) -> None:
        """Goes on at `position`; reads and drops the batches that lie between it and where its epoch began."""
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
        epoch, done = divmod(self._position, len(self.loader))
        # hooks see the loader; what is read is a copy of it
        reading = shallow(self.loader)
        self._originals = originals(self.loader.dataset)
        reading.__dict__['dataset'] = renewed(self.loader.dataset)
        if self._set_epoch(epoch) and self.loader.batch_sampler is not None:
            reading.__dict__['batch_sampler'] = _Rest(self.loader.batch_sampler, done, len(self.loader))
        # workers derive their seeds from this state
        reseed(*self._key, 'epoch', epoch, *((done,) if done else ()), rank=self._rank)
        self._iterator = iter(reading)

    def _replaced(self) -> bool:
        found = originals(self.loader.dataset)
        return list(map(id, found)) != list(map(id, self._originals))

    def _set_epoch(self, epoch: int) -> bool:
        samplers: tuple[Any, ...] = (self.loader.sampler, getattr(self.loader.batch_sampler, 'sampler', None))
        for sampler in samplers:
            # endless samplers have a set_epoch too, which does nothing
            if hasattr(sampler, 'set_epoch') and hasattr(sampler, 'epoch'):
                sampler.set_epoch(epoch)
                return True
        return False


class _Rest:
    """The batches of an epoch that are left, as many as the loader counts.

    Some batch samplers count more than they give (``AspectRatioBatchSampler`` with ``drop_last``): they begin again.

    Args:
        batch_sampler: What gives the batches; it is left as it is.
        done: Batches that are not given.
        count: Batches of an epoch.
    """

    def __init__(self, batch_sampler: Any, done: int, count: int) -> None:
        self.batch_sampler, self.done, self.count = batch_sampler, done, count

    def __iter__(self) -> Iterator[Any]:
        number, before = 0, -1
        while before < number < self.count:
            before = number
            for batch in self._fresh():
                if number >= self.done:
                    yield batch
                number += 1
                if number == self.count:
                    return

    def __len__(self) -> int:
        return self.count - self.done

    def _fresh(self) -> Any:
        """A batch sampler that remembers nothing: those that sort images by shape keep what was left over."""
        made = shallow(self.batch_sampler)
        for name, value in vars(made).items():
            if isinstance(value, (list, dict, set)):
                made.__dict__[name] = copy.deepcopy(value)
        return made


class EndlessSampler(Sampler[int]):
    """Passes over a dataset without a gap between them, as MMEngine's ``InfiniteSampler``, found again by their epoch.

    The passes of all processes are cut into epochs of whole batches: none is short, also where a batch holds more
    images than the dataset.

    Args:
        dataset: The dataset.
        batch_size: Images per process and batch.
        shuffle: Whether each pass has an order of its own.
        seed: Of the orders, the same in all processes.
        round_up: MMEngine passes it to samplers; there is nothing to round here.
    """

    def __init__(
        self, dataset: Any, batch_size: int, shuffle: bool = True, seed: int | None = None, round_up: bool = True
    ) -> None:
        del round_up
        self.rank, self.world_size = get_dist_info()
        self.dataset, self.shuffle, self.seed, self.epoch = dataset, shuffle, seed or 0, 0
        self.batch_size = batch_size
        self.count = math.ceil(len(dataset) / (self.world_size * batch_size)) * batch_size

    def __iter__(self) -> Iterator[int]:
        size, order, known = len(self.dataset), [], -1
        for number in range(self.epoch * self.count, (self.epoch + 1) * self.count):
            turn, place = divmod(number * self.world_size + self.rank, size)
            if turn != known:
                order, known = self._order(turn), turn
            yield order[place]

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes next."""
        self.epoch = epoch

    def _order(self, turn: int) -> list[int]:
        if not self.shuffle:
            return list(range(len(self.dataset)))
        generator = torch.Generator().manual_seed(self.seed + turn)
        order: list[int] = torch.randperm(len(self.dataset), generator=generator).tolist()
        return order


def reproducible(dataloader: dict[str, Any], seed: int | None = None) -> dict[str, Any]:
    """A loader's config whose `Batches` follow from their position alone; the one given is left as it is.

    Args:
        dataloader: The config.
        seed: Of the sampler, if its config has none.
    """
    cfg = copy.deepcopy(dict(dataloader))
    # workers that live over epochs hold random states that no checkpoint has
    cfg['persistent_workers'] = False
    cfg.setdefault('worker_init_fn', dict(type=seed_worker))
    sampler = cfg.get('sampler')
    if not isinstance(sampler, dict):
        return cfg
    if seed is not None:
        sampler = dict(sampler, seed=seed if sampler.get('seed') is None else sampler['seed'])
    if 'InfiniteSampler' in name_of(sampler):
        # an epoch of it is found again without reading what came before
        sampler = dict(sampler, type=EndlessSampler, batch_size=cfg['batch_size'])
        if 'AspectRatio' in name_of(cfg.get('batch_sampler')):
            cfg['batch_sampler'] = dict(cfg['batch_sampler'], drop_last=True)
    return dict(cfg, sampler=sampler)


def build_halves(
    runner: Any,
    dataloader: dict[str, Any],
    fraction: float,
    split_seed: int,
    pipelines: dict[str, Any] | None = None,
) -> tuple[Batches, Batches]:
    """Builds one dataset, splits it, and makes a loader for each half.

    Args:
        runner: The runner, for its seed and `build_dataloader`.
        dataloader: Config of both loaders; its dataset is built once.
        fraction: Share of the images that train weights.
        split_seed: Seed of the split.
        pipelines: Transforms of either half, ``dict(weights=[…], arch=[…])``; a half that is not named has the
            dataset's, one with ``dict(leave_out=['RandomFlip'])`` the dataset's without those.

    Returns:
        The batches for the weights, and those for alpha.

    Raises:
        TypeError: `pipelines` is malformed.
        ValueError: `fraction` or `split_seed` is out of its range, a half has too few images, or a sampler cannot
            draw from a part of the images.
        FileNotFoundError: Images do not exist.
    """
    _check_split(fraction, split_seed)
    seed = common_seed(runner)
    own = build_pipelines(without_left_out(pipelines, dataloader['dataset']), named_scope(dataloader['dataset']))
    cfg = reproducible(dataloader, seed)
    dataset = DATASETS.build(cfg.pop('dataset'))
    halves = split_halves(dataset, split_seed, fraction, (own.get('weights'), own.get('arch')))
    check_files(dataset)
    wanted = cfg.pop('num_batch_per_epoch', None)
    found = []
    for name, half in zip(HALVES, halves, strict=True):
        if wanted is not None:
            half = _first(half, wanted * cfg['batch_size'] * get_world_size(), name)
        found.append(Batches(_build_loader(runner, dict(cfg, dataset=half), seed), seed, name))
    return found[0], found[1]


def without_repeats(runner: Any, loader: DataLoader) -> DataLoader:
    """A loader of a half of the training images that reads each image once in a pass, also where the data set does not.

    Args:
        runner: The runner, for its seed, its config of the loader and `build_dataloader`.
        loader: The half's loader; it is returned where its data set repeats no image.
    """
    half = loader.dataset
    if not isinstance(half, DatasetView):
        return loader
    once = half.once()
    if len(once) == len(half):
        return loader
    seed = common_seed(runner)
    cfg = reproducible(runner.cfg.train_dataloader, seed)
    cfg.pop('num_batch_per_epoch', None)
    return _build_loader(runner, dict(cfg, dataset=once), seed)


def describe_reading(loader: DataLoader) -> str:
    """What an augmented image depends on beside its position: the workers, and the transforms in force.

    A worker's draws follow from its number, and hooks exchange transforms while a search runs: by others, or by the
    same with other arguments, of which there is a digest.
    """
    transforms = [each for pipe in originals(loader.dataset) for each in getattr(pipe, 'transforms', ())]
    names = '+'.join(type(each).__name__ for each in transforms)
    # an object that does not say what it is says where it is, and that is another place each time
    said = re.sub('0x[0-9a-fA-F]+', '', repr(transforms))
    return f'{loader.num_workers} workers/{names} {hashlib.sha256(said.encode()).hexdigest()[:8]}'


def whole_batches(loader: DataLoader) -> int:
    """Batches of a pass that repeat no image of it, at least one: an endless sampler fills the last of a pass up.

    What batches images of one shape, wide or high, leaves an incomplete batch of each at the end of a pass, and so may
    have one less than the images would fill.
    """
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    if not isinstance(sampler, EndlessSampler):
        return len(loader)
    whole = len(sampler.dataset) // (sampler.world_size * sampler.batch_size)
    grouped = type(loader.batch_sampler) is not BatchSampler
    return max(1, min(len(loader), whole - grouped))


def _check_split(fraction: Any, seed: Any) -> None:
    """Raises ValueError, by their names in a config, for a share or a seed of the split that is out of its range."""
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise ValueError(f'train_cfg.weight_fraction must be greater than 0 and less than 1, got {fraction!r:.60}')
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f'train_cfg.split_seed must be an integer in 0..{2**32 - 1}, got {seed!r:.60}')


def named_scope(dataset: Any) -> str | None:
    """Scope that a dataset's config names for all that is inside it; ``None`` for the default scope."""
    return dataset.get('_scope_') if isinstance(dataset, Mapping) else None


def build_pipelines(pipelines: Any, scope: str | None = None) -> dict[str, Compose]:
    """Builds the transforms of each half.

    Args:
        pipelines: Of ``train_cfg``.
        scope: Where transforms are looked for first, as the dataset's are; ``None`` for the default scope.

    Raises:
        TypeError: `pipelines` is no dict of lists of transforms.
        ValueError: A half or a transform is unknown, or an argument of it is wrong.
    """
    if pipelines is None:
        return {}
    if not isinstance(pipelines, dict):
        raise TypeError(f'train_cfg.pipelines must be dict(weights=[…], arch=[…]), got {type(pipelines).__name__}')
    unknown = sorted(str(name) for name in pipelines if name not in HALVES)
    if unknown or not pipelines:
        raise ValueError(f'train_cfg.pipelines must have one or both of {HALVES}, got {unknown}')
    built = {}
    for name, transforms in pipelines.items():
        if not isinstance(transforms, (list, tuple)):
            raise TypeError(f'train_cfg.pipelines.{name} must be a list of transforms, got {type(transforms).__name__}')
        wrong = [each for each in transforms if not callable(each) and not (isinstance(each, dict) and 'type' in each)]
        if wrong:
            raise TypeError(f'train_cfg.pipelines.{name} must be transforms, dict(type=…, …), got {str(wrong[0])[:80]}')
        try:
            with DefaultScope.overwrite_default_scope(scope):
                built[name] = Compose(copy.deepcopy(list(transforms)))
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise ValueError(f'train_cfg.pipelines.{name} cannot be built: {error}'[:300]) from error
    return built


def _first(half: DatasetView, count: int, name: str) -> DatasetView:
    """The first images of a half, as ``num_batch_per_epoch`` asks for."""
    if count > len(half):
        raise ValueError(
            f'train_dataloader.num_batch_per_epoch needs {count} images, but the {name} half has {len(half)}'
        )
    return half.part(count)


def _build_loader(runner: Any, cfg: dict[str, Any], seed: int) -> DataLoader:
    kind = (cfg.get('sampler') or {}).get('type')
    kind = getattr(kind, '__name__', kind)
    try:
        loader: DataLoader = runner.build_dataloader(cfg, seed=seed)
    except (AttributeError, AssertionError, ValueError, TypeError) as error:
        raise ValueError(
            f'train_dataloader of a search cannot be built for a half of the images (sampler {kind}): {error}'[:300]
        ) from error
    samplers = loader.sampler, getattr(loader.batch_sampler, 'sampler', None)
    if not any(hasattr(each, 'set_epoch') and hasattr(each, 'epoch') for each in samplers):
        raise ValueError(
            f'train_dataloader.sampler of a search must draw by epochs, as DefaultSampler and ClassAwareSampler do, or '
            f'be InfiniteSampler, got {kind}: a resumed search could not find its place again'
        )
    return loader
