"""What trained segmentors say about some images, written as files beside the ground truth."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import load_checkpoint

from mmnas_ext.remap.loading import safe_loading
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.workdir import WorkDir


@dataclass(frozen=True)
class LabelMaps:
    """Files of some images, their ground truth and predictions.

    Args:
        images: As the data set has them.
        truths: Grey 8-bit PNG files in the data set's own numbering: a subset of classes is renumbered, others are 255.
        predictions: Per network, by its title, such files.
        classes: Names of the classes, by label.
        palette: Red, green and blue of each, 0..255.
    """

    images: tuple[Path, ...]
    truths: tuple[Path, ...]
    predictions: dict[str, tuple[Path, ...]]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...]


def predict_labels(
    runs: Mapping[str, str | Path], folder: str | Path, count: int = 4, names: Sequence[str] = ()
) -> LabelMaps:
    """Predicts validation images with the newest checkpoint of each run, as its config tests them.

    Args:
        runs: Work dirs of trainings by the networks' titles: each holds an MMEngine config and checkpoints.
        folder: Where the label maps go, ``truth/`` and a folder per run; made if missing.
        count: Images, the first and the last of the validation set and others at even distances between them.
        names: These images instead; each is the beginning of one image's file name.

    Raises:
        FileNotFoundError: A run has no config or no whole checkpoint.
        ValueError: A run is a search, or no segmentor with labelled images, or its checkpoint is of another network;
            runs differ in images or classes; `count` or `names` do not go with the validation set.
    """
    if not runs:
        raise ValueError('runs must name at least one training, got none')
    configs = {title: read_run(Path(run)) for title, run in runs.items()}  # all of them, before the first is run
    first = next(iter(runs))
    images: list[Path] = []
    truths: tuple[Path, ...] = ()
    predictions: dict[str, tuple[Path, ...]] = {}
    seen: dict[str, Any] = {}
    for number, (title, (cfg, checkpoint)) in enumerate(configs.items(), start=1):
        # an ordinary config has no scope of ours; its types are its host's
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
            dataset = DATASETS.build(cfg.val_dataloader.dataset)
            paths = [Path(dataset.get_data_info(index)['img_path']) for index in range(len(dataset))]
            chosen = choose([path.name for path in paths], count, names)
            seen, images = seen or dict(dataset.metainfo), images or [paths[index] for index in chosen]
            if list(dataset.metainfo['classes']) != list(seen['classes']) or [paths[i] for i in chosen] != images:
                raise ValueError(f'runs must validate on the same images and classes, {first!r} and {title!r} do not')
            found = list(_predict(cfg, checkpoint, dataset, chosen))
        files = [f'{index}_{path.stem}.png' for index, path in zip(chosen, images, strict=True)]
        if not predictions:
            truths = _write(Path(folder, 'truth'), files, [truth for truth, _ in found])
        place = Path(folder, f'{number}_{re.sub("[^0-9A-Za-z]+", "_", title).strip("_")}')
        predictions[title] = _write(place, files, [labels for _, labels in found])
    palette = tuple(tuple(int(part) for part in colour) for colour in seen['palette'])
    return LabelMaps(tuple(images), truths, predictions, tuple(seen['classes']), palette)


def read_run(folder: Path) -> tuple[Config, Path]:
    """The config that MMEngine wrote into a training's work dir, the newest if there are several, and its checkpoint.

    Raises:
        FileNotFoundError: There is none of either.
        ValueError: The config describes a search.
    """
    configs = sorted(folder.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise FileNotFoundError(f'{folder} must be the work dir of a training, but holds no config')
    cfg = Config.fromfile(configs[-1])
    if cfg.get('derived'):
        raise ValueError(
            f'{folder} is the work dir of a search, not of the training of one network: name {WorkDir(folder).adapt}, '
            'where what it found was trained'
        )
    found = find_checkpoint(folder)
    if found.path is None:
        why = ''.join(f'; of {path.name}, {reason}' for path, reason in found.refused[:1])
        raise FileNotFoundError(f'{folder} holds no whole checkpoint, epoch_<n>.pth or iter_<n>.pth{why}')
    return cfg, found.path


def choose(files: Sequence[str], count: int, names: Sequence[str] = ()) -> list[int]:
    """Positions of the images that are asked for.

    Args:
        files: File names of all images.
        count: How many, at even distances from the first to the last; not used where there are `names`.
        names: Beginnings of file names.

    Raises:
        ValueError: `count` is not in 1..number of files, or a name begins no file name, or several.
    """
    if names:
        matches = {name: [i for i, file in enumerate(files) if file.startswith(name)] for name in names}
        for name, found in matches.items():
            if len(found) != 1:
                raise ValueError(
                    f'images: {name!r} must begin one file name of the validation set, it begins {len(found)} of '
                    f'{len(files)}, the first of which is {files[0]}'
                )
        return [found[0] for found in matches.values()]
    if not 1 <= count <= len(files):
        raise ValueError(f'count must be in 1..{len(files)}, the validation images, got {count}')
    return [round(i * (len(files) - 1) / max(1, count - 1)) for i in range(count)]


@torch.no_grad()
def _predict(
    cfg: Config, checkpoint: Path, dataset: Any, chosen: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields truth and prediction, (H, W) both, of each chosen image."""
    # SyncBN works in a process group alone
    with safe_loading():
        model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(get_device()).eval()
    try:
        with safe_loading():
            load_checkpoint(model, str(checkpoint), map_location='cpu', strict=True, logger='silent')
    except RuntimeError as error:
        raise ValueError(f'{checkpoint} must hold the network of the config beside it: {error}') from None
    for index in chosen:
        (sample,) = model.test_step(pseudo_collate([dataset[index]]))
        missing = [field for field in ('gt_sem_seg', 'pred_sem_seg') if field not in sample]
        if missing:
            raise ValueError(
                f'{checkpoint.parent}: its config must test a segmentor on labelled images, '
                f'but its data samples lack {missing}'
            )
        truth, labels = (sample.get(field).data.squeeze(0).cpu().numpy() for field in ('gt_sem_seg', 'pred_sem_seg'))
        yield truth, labels


def _write(folder: Path, files: Sequence[str], maps: Sequence[np.ndarray]) -> tuple[Path, ...]:
    for file, labels in zip(files, maps, strict=True):
        mmcv.imwrite(labels.astype(np.uint8), str(folder / file))  # makes the folder
    return tuple(folder / file for file in files)
