"""One dataset seen as two: a search trains its weights on one half and its architecture parameters on the other.

The halves are views that share the dataset object, so its annotations are read and held once. Nothing here looks at
ranks: the split depends on the seed and on the number of images alone, so every process finds the same one.
"""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from torch.utils.data import Dataset

_MAX_SEED = 2**32 - 1


class DatasetView(Dataset):
    """Some of a dataset's items, in a given order, behaving as an MMEngine dataset of its own.

    It has what samplers, batch samplers, worker initialisation and ``Runner.build_dataloader`` ask of a dataset.

    A pipeline gives ``None`` for an image that it cannot use (no box left after a crop, a file that cannot be read).
    ``BaseDataset.__getitem__`` then takes a random other image *of the whole dataset*, which would let images of
    one half into the other. So a view never calls it: it asks the dataset for the prepared item and draws any
    replacement from its own items. The draw depends on the view's seed and the item asked for, not on a global random
    state, so it is the same in a resumed run and with any number of workers. A dataset class that overrides
    ``__getitem__`` is called through its own method, and the view can only warn that replacements are out of its hands.

    Copies are shallow on purpose: ``Runner.build_dataloader`` deep-copies what it is given, and would otherwise hold
    the annotations once per loader.

    Args:
        dataset: A ``BaseDataset`` or MMEngine's Repeat-, Concat- or ClassBalancedDataset around some, nested as liked.
        indices: Indices into `dataset`; the view's item ``i`` is the dataset's item ``indices[i]``.
        seed: Seeds the draw of replacements.

    Raises:
        TypeError: `dataset` is of another kind; its items cannot be followed to images.
        ValueError: `indices` is empty or out of range, or `seed` is.
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray, seed: int = 0) -> None:
        _check_seed(seed)
        self._leaves: list[BaseDataset] = []
        origins = _origins(dataset, self._leaves)
        chosen = np.asarray(indices, dtype=np.int64)
        if chosen.ndim != 1 or not len(chosen):
            raise ValueError(f'indices must be a non-empty list of integers, got shape {chosen.shape}')
        if chosen.min() < 0 or chosen.max() >= len(origins):
            raise ValueError(f'indices must lie in 0..{len(origins) - 1}, got {chosen.min()}..{chosen.max()}')
        for leaf in self._leaves:
            if not _plain(leaf):
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

    @property
    def metainfo(self) -> dict[str, Any]:
        """Meta information of the dataset, a copy."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Does nothing: the dataset was fully initialised when the view was made."""

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The annotation of item `idx` as the dataset gives it; its ``sample_idx`` is the dataset's own."""
        leaf, number = self._origin(idx)
        return leaf.get_data_info(number)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Categories in item `idx`, for samplers that balance classes."""
        leaf, number = self._origin(idx)
        return leaf.get_cat_ids(number)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, idx: int) -> Any:
        """Item `idx` after the dataset's pipeline, or its replacement from this view.

        Raises:
            IndexError: `idx` is out of range.
            RuntimeError: The pipeline gave ``None`` in test mode, or for as many items as the dataset may refetch.
        """
        leaf, number = self._origin(idx)
        data = _prepare(leaf, number)
        if data is not None:
            return data
        if leaf.test_mode:
            raise RuntimeError(f'the test pipeline gave None for item {idx}; in test mode no other may stand in for it')
        draw = np.random.RandomState([self.seed, idx % len(self)])
        for _ in range(leaf.max_refetch):
            data = _prepare(*self._origin(draw.randint(len(self))))
            if data is not None:
                return data
        raise RuntimeError(
            f'the pipeline gave None for item {idx} and for {leaf.max_refetch} others of the {len(self)} in this view: '
            'check the paths of the images and the pipeline'
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> 'DatasetView':
        return copy.copy(self)

    def _origin(self, idx: int) -> tuple[BaseDataset, int]:
        if not -len(self) <= idx < len(self):
            raise IndexError(f'index must lie in {-len(self)}..{len(self) - 1}, got {idx}')
        leaf, number = self._origins[idx]
        return self._leaves[leaf], int(number)


def split_halves(dataset: Any, seed: int, fraction: float = 0.5) -> tuple[DatasetView, DatasetView]:
    """Splits a dataset's images at random in two views, disjoint and covering.

    It is the images that are split: the copies that a RepeatDataset or ClassBalancedDataset makes of one, or a
    ConcatDataset that holds a dataset twice, all go to the same view. (Two dataset objects that list the same file
    count as different images.) Within a view the items keep the dataset's order. No global random state is used.

    Args:
        dataset: As `DatasetView` takes it; fully initialised here if it is not yet.
        seed: Equal seeds and equal numbers of images give equal splits.
        fraction: Share of the images in the first view, rounded, and at least one image on either side. At 0.5
            the views differ by at most one image.

    Returns:
        Two views that share `dataset`.

    Raises:
        TypeError: `dataset` is of a kind that cannot be split.
        ValueError: `fraction` is not in (0, 1), `seed` is out of range, or there are less than two images.
    """
    _check_seed(seed)
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise ValueError(f'fraction must lie between 0 and 1, both excluded, got {fraction!r}')
    _, image = np.unique(_origins(dataset, []), axis=0, return_inverse=True)
    image = image.reshape(-1)
    count = int(image.max()) + 1 if len(image) else 0
    if count < 2:
        raise ValueError(f'dataset must have at least 2 images to be split, got {count}')
    # RandomState, not default_rng: numpy promises that its stream never changes, so a run resumed under another numpy
    # finds the same halves
    order = np.random.RandomState(seed).permutation(count)
    first = np.zeros(count, dtype=bool)
    first[order[: min(max(round(fraction * count), 1), count - 1)]] = True
    return (
        DatasetView(dataset, np.flatnonzero(first[image]), seed),
        DatasetView(dataset, np.flatnonzero(~first[image]), seed),
    )


def _origins(dataset: Any, leaves: list[BaseDataset]) -> np.ndarray:
    """Follows every item of `dataset` through its wrappers; adds the datasets met to `leaves`.

    Returns:
        (items, 2): position of the leaf in `leaves`, and the item's index in that leaf.
    """
    if not isinstance(dataset, (BaseDataset, ConcatDataset, RepeatDataset, ClassBalancedDataset)):
        raise TypeError(
            f'dataset must be an mmengine BaseDataset, or RepeatDataset, ConcatDataset or ClassBalancedDataset around '
            f'some, got {type(dataset).__name__}: its items cannot be followed to images (one that mixes several '
            'images into an item would carry them from one half into the other)'
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


def _plain(leaf: BaseDataset) -> bool:
    return type(leaf).__getitem__ is BaseDataset.__getitem__


def _prepare(leaf: BaseDataset, number: int) -> Any:
    return leaf.prepare_data(number) if _plain(leaf) else leaf[number]


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= _MAX_SEED:
        raise ValueError(f'seed must be an integer in 0..{_MAX_SEED}, got {seed!r}')
