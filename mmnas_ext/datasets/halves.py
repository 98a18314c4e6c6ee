"""One dataset seen as two: a search trains its weights on one half and its architecture parameters on the other.

The halves are views that share the dataset object, so its annotations are read and held once. Nothing here looks at
ranks: the split depends on the seed and on the number of images alone, so every process finds the same one.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from torch.utils.data import Dataset

from mmnas_ext.datasets.renewal import checked_copy, shallow

_MAX_SEED = 2**32 - 1
_OWN = ('dataset', 'indices', 'seed', 'pipeline')
# what a view passes on to read: settings; lists and methods may speak of images that are not in the view
_SETTINGS = (str, int, float, bool, dict, tuple, type(None))


class DatasetView(Dataset):
    """Some of a dataset's items, in a given order, behaving as an MMEngine dataset of its own.

    It has what samplers, batch samplers, worker initialisation and ``Runner.build_dataloader`` ask of a dataset.

    A pipeline returns ``None`` for an image that it cannot use (no box left after a crop, a file that cannot be read).
    ``BaseDataset.__getitem__`` then takes a random other image *of the whole dataset*, which would let images of
    one half into the other. So a view never calls it: it asks the dataset for the prepared item and draws any
    replacement from its own items. The draw depends on the view's seed and the item asked for, not on a global random
    state, so it is the same in a resumed run and with any number of workers. If a dataset class overrides
    ``__getitem__``, the view calls that method and warns that it does not control the replacements.

    The dataset's transforms are originals that a view never runs: it runs copies of its own, which share nothing that
    they remember with those of another view (`renewed` makes new ones). An attribute that a hook sets, as MMDetection's
    ``PipelineSwitchHook`` sets ``pipeline``, is set on the datasets inside, and so holds for all views of them.

    Copies are shallow on purpose: ``Runner.build_dataloader`` deep-copies what it is given, and would otherwise hold
    the annotations once per loader.

    Args:
        dataset: A ``BaseDataset``, or MMEngine's RepeatDataset, ConcatDataset or ClassBalancedDataset around such
            datasets, nested to any depth.
        indices: Indices into `dataset`; the view's item ``i`` is the dataset's item ``indices[i]``.
        seed: Seeds the draw of replacements.
        pipeline: Transforms that this view runs instead of the dataset's, until a hook sets others.

    Raises:
        TypeError: `dataset` is of another type; its items cannot be traced to images.
        ValueError: `indices` is empty or out of range, or `seed` is.
    """

    def __init__(
        self,
        dataset: Any,
        indices: Sequence[int] | np.ndarray,
        seed: int = 0,
        pipeline: Callable[[Any], Any] | None = None,
    ) -> None:
        _check_seed(seed)
        self._leaves: list[BaseDataset] = []
        origins = _origins(dataset, self._leaves)
        chosen = np.asarray(indices, dtype=np.int64)
        if chosen.ndim != 1 or not len(chosen):
            raise ValueError(f'indices must be a non-empty list of integers, got shape {chosen.shape}')
        if chosen.min() < 0 or chosen.max() >= len(origins):
            raise ValueError(f'indices must lie in 0..{len(origins) - 1}, got {chosen.min()}..{chosen.max()}')
        for leaf in self._leaves:
            if not _keeps_getitem(leaf):
                warnings.warn(
                    f'{type(leaf).__name__} has a __getitem__ of its own: where it replaces an image that the '
                    'pipeline rejects, the replacement may come from outside this view',
                    stacklevel=2,
                )
        chosen.setflags(write=False)
        self.dataset = dataset
        self.indices = chosen
        self.seed = seed
        self._origins = origins[chosen]
        self._given = pipeline
        self._replaced = [leaf.pipeline for leaf in self._leaves]
        self._readers: dict[int, tuple[Any, BaseDataset]] = {}

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the dataset's meta information."""
        return self.dataset.metainfo

    @property
    def pipeline(self) -> Any:
        """The transforms that copies are made of; setting them does so for all views of the dataset."""
        return self._original(0)

    @pipeline.setter
    def pipeline(self, value: Callable[[Any], Any]) -> None:
        if not callable(value):
            raise TypeError(f'pipeline must be callable, as a Compose of transforms is, got {type(value).__name__}')
        for leaf in self._leaves:
            leaf.pipeline = value

    def originals(self) -> list[Any]:
        """Lists the transforms, per dataset inside, that this view runs copies of."""
        return [self._original(place) for place in range(len(self._leaves))]

    def distinct(self) -> np.ndarray:
        """Indices into the dataset of one item per image: what repeats images lists some of them more than once."""
        return self.once().indices

    def once(self) -> 'DatasetView':
        """Returns a view of one item per image."""
        _, first = np.unique(self._origins, axis=0, return_index=True)
        return self._of(np.sort(first))

    def leaves(self) -> tuple[Any, ...]:
        """The datasets inside, whose annotations this view reads."""
        return tuple(self._leaves)

    def renewed(self) -> 'DatasetView':
        """Returns a view of the same items whose transforms are new copies: they remember nothing."""
        made = shallow(self)
        made._readers = {}
        return made

    def part(self, count: int) -> 'DatasetView':
        """Returns a view of the first `count` items."""
        return self._of(slice(count))

    def every(self, step: int, first: int = 0) -> 'DatasetView':
        """Returns a view of every `step`-th item, from `first` on.

        Raises:
            ValueError: There is none.
        """
        if first >= len(self):
            raise ValueError(f'first must be less than the {len(self)} images of a view, got {first}')
        return self._of(slice(first, None, step))

    def _of(self, items: slice | np.ndarray) -> 'DatasetView':
        made = self.renewed()
        made.indices, made._origins = self.indices[items], self._origins[items]
        return made

    def full_init(self) -> None:
        """Does nothing: the dataset was fully initialised when the view was made."""

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Returns the dataset's annotation of item `idx`; its ``sample_idx`` is the index in the dataset."""
        leaf, number = self._origin(idx)
        return leaf.get_data_info(number)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Returns the categories in item `idx`, for samplers that balance classes."""
        leaf, number = self._origin(idx)
        return leaf.get_cat_ids(number)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, idx: int) -> Any:
        """Returns item `idx` after the dataset's pipeline, or its replacement from this view.

        Raises:
            IndexError: `idx` is out of range.
            DataError: The image or its label cannot be used; the message names the file.
            RuntimeError: The pipeline returned ``None`` in test mode, or for `max_refetch` replacements in a row.
        """
        leaf, _ = self._origin(idx)
        data = self._prepare(idx)
        if data is not None:
            return data
        if leaf.test_mode:
            raise RuntimeError(f'the test pipeline returned None for item {idx}: in test mode nothing may replace it')
        draw = np.random.RandomState([self.seed, idx % len(self)])
        for _ in range(leaf.max_refetch):
            data = self._prepare(draw.randint(len(self)))
            if data is not None:
                return data
        raise RuntimeError(
            f'the pipeline returned None for item {idx} and for {leaf.max_refetch} replacements out of the {len(self)} '
            'items of this view: check the paths of the images and the pipeline'
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> 'DatasetView':
        return self.renewed()

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets what is not this view's own on the datasets inside; readers see it when their next pass begins."""
        if name in _OWN or name.startswith('_'):
            super().__setattr__(name, value)
            return
        for leaf in self._leaves:
            setattr(leaf, name, value)
        self._readers.clear()

    def __getattr__(self, name: str) -> Any:
        """Passes on settings of the datasets inside that are the same in all of them."""
        if not name.startswith('_') and name not in _OWN and all(hasattr(leaf, name) for leaf in self._leaves):
            first, *others = (getattr(leaf, name) for leaf in self._leaves)
            if isinstance(first, _SETTINGS) and all(first == other for other in others):
                return first
        raise AttributeError(
            f'a view of some of the images of {type(self.__dict__.get("dataset")).__name__} has no attribute {name!r}: '
            'it passes on settings that hold for any of the images, and pipeline'
        )

    def _original(self, place: int) -> Any:
        pipeline = self._leaves[place].pipeline
        return self._given if self._given is not None and pipeline is self._replaced[place] else pipeline

    def _prepare(self, idx: int) -> Any:
        """Item `idx` after the transforms of this view, a copy of the dataset's; ``None`` where they reject it."""
        self._origin(idx)
        place, number = (int(value) for value in self._origins[idx])
        original = self._original(place)
        if self._readers.get(place, (None,))[0] is not original:
            reader = shallow(self._leaves[place])
            reader.pipeline = checked_copy(self._leaves[place], original)
            self._readers[place] = original, reader
        reader = self._readers[place][1]
        return reader.prepare_data(number) if _keeps_getitem(reader) else reader[number]

    def _origin(self, idx: int) -> tuple[BaseDataset, int]:
        if not -len(self) <= idx < len(self):
            raise IndexError(f'index must lie in {-len(self)}..{len(self) - 1}, got {idx}')
        leaf, number = self._origins[idx]
        return self._leaves[leaf], int(number)


def split_halves(
    dataset: Any,
    seed: int,
    fraction: float = 0.5,
    pipelines: tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None] = (None, None),
) -> tuple[DatasetView, DatasetView]:
    """Splits a dataset's images at random into two views; each image is in exactly one of them.

    Images are split, not items: all copies of an image that a RepeatDataset, a ClassBalancedDataset or a repeated
    entry of a ConcatDataset makes go to the same view. (Two dataset objects that list the same file count as
    different images.) Within a view the items keep the dataset's order. No global random state is used.

    Args:
        dataset: As in `DatasetView`; it is fully initialised here if necessary.
        seed: Equal seeds and equal numbers of images give equal splits.
        fraction: Share of the images in the first view, rounded, and at least one image on either side. At 0.5
            the views differ by at most one image.
        pipelines: Transforms of either view, ``None`` for the dataset's own.

    Returns:
        Two views that share `dataset`.

    Raises:
        TypeError: `dataset` is of a type that cannot be split.
        ValueError: `fraction` is not in (0, 1), `seed` is out of range, or there are fewer than two images.
    """
    _check_seed(seed)
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise ValueError(f'fraction must be greater than 0 and less than 1, got {fraction!r}')
    _, image = np.unique(_origins(dataset, []), axis=0, return_inverse=True)
    image = image.reshape(-1)
    count = int(image.max()) + 1 if len(image) else 0
    if count < 2:
        raise ValueError(f'dataset must have at least 2 images, got {count}')
    # RandomState, not default_rng: numpy promises that its stream never changes, so a run resumed under another numpy
    # finds the same halves
    order = np.random.RandomState(seed).permutation(count)
    first = np.zeros(count, dtype=bool)
    first[order[: min(max(round(fraction * count), 1), count - 1)]] = True
    return (
        DatasetView(dataset, np.flatnonzero(first[image]), seed, pipelines[0]),
        DatasetView(dataset, np.flatnonzero(~first[image]), seed, pipelines[1]),
    )


def _origins(dataset: Any, leaves: list[BaseDataset]) -> np.ndarray:
    """Traces every item of `dataset` through the wrappers and appends the datasets found there to `leaves`.

    Returns:
        An array (items, 2): the position of the item's dataset in `leaves`, and the item's index in that dataset.
    """
    if not isinstance(dataset, (BaseDataset, ConcatDataset, RepeatDataset, ClassBalancedDataset)):
        raise TypeError(
            f'dataset must be an mmengine BaseDataset, or a RepeatDataset, ConcatDataset or ClassBalancedDataset of '
            f'them, got {type(dataset).__name__}: the images of its items are unknown (a dataset that mixes several '
            'images into one item would carry images from one half into the other)'
        )
    dataset.full_init()
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([_origins(inner, leaves) for inner in dataset.datasets])
    if isinstance(dataset, RepeatDataset):
        return np.tile(_origins(dataset.dataset, leaves), (dataset.times, 1))
    if isinstance(dataset, ClassBalancedDataset):
        return _origins(dataset.dataset, leaves)[np.asarray(dataset.repeat_indices, dtype=np.int64)]
    place = next((i for i, leaf in enumerate(leaves) if leaf is dataset), len(leaves))
    if place == len(leaves):
        leaves.append(dataset)
    numbers = np.arange(len(dataset), dtype=np.int64)
    return np.stack([np.full_like(numbers, place), numbers], axis=1)


def _keeps_getitem(leaf: BaseDataset) -> bool:
    """Returns whether the dataset's class inherits ``BaseDataset.__getitem__`` unchanged."""
    return type(leaf).__getitem__ is BaseDataset.__getitem__


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= _MAX_SEED:
        raise ValueError(f'seed must be an integer in 0..{_MAX_SEED}, got {seed!r}')
