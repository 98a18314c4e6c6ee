"""What trained detectors and segmentors say about some validation images, beside the ground truth."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import load_checkpoint

from mmnas_ext.remap.loading import safe_loading
from mmnas_ext.reports.beside import seed_folder
from mmnas_ext.reports.facts import read_facts
from mmnas_ext.reports.predictions import IGNORED, Box
from mmnas_ext.reports.samples import Sample, Samples
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.prepared import scope_of
from mmnas_ext.workdir import WorkDir

COUNT = 4
"""Images that a report shows by default."""
_LARGEST = 560  # pixels of an image's longer side on a page: a dozen of them stay below 1 MB
_QUALITY = 85  # of a JPEG
_UNLABELLED = (200, 204, 212)


@dataclass(frozen=True)
class Predicted:
    """Some images, their ground truth and what networks predict.

    Args:
        kind: ``'labels'`` of segmentors, ``'boxes'`` of detectors.
        images: Their files.
        names: Name of each, with its place in the data set.
        truths: Per image (H, W) labels in the data set's own numbering (a subset of classes is renumbered, others are
            255), or a tuple of `Box`.
        predictions: Per network, by its title, the same.
        classes: Names of the classes, by label.
        palette: Red, green and blue of each, 0..255.
        made: Checkpoints by title.
    """

    kind: str
    images: tuple[Path, ...]
    names: tuple[str, ...]
    truths: tuple[Any, ...]
    predictions: dict[str, tuple[Any, ...]]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...]
    made: dict[str, str]


def predict(
    runs: Mapping[str, str | Path], count: int = COUNT, names: Sequence[str] = (), fewer: bool = False
) -> Predicted:
    """Predicts validation images with the newest checkpoint of each run, as its config tests them.

    Args:
        runs: Work dirs of trainings by the networks' titles: each holds an MMEngine config and checkpoints.
        count: Images, the first and the last of the validation set and others at even distances between them.
        names: These images instead; each is the beginning of one image's file name.
        fewer: Take all images where there are fewer than `count`.

    Raises:
        FileNotFoundError: A run has no config or no whole checkpoint.
        ValueError: A run is a search, or neither a detector nor a segmentor with labelled images, or its checkpoint is
            of another network; runs differ in images or classes; `count` or `names` do not go with the validation set.
    """
    if not runs:
        raise ValueError('runs must name at least one training, got none')
    configs = {title: read_run(Path(run)) for title, run in runs.items()}  # all of them, before the first is run
    for title, (cfg, _) in configs.items():
        if not cfg.get('val_dataloader'):
            raise ValueError(
                f'{runs[title]} validates nothing: its config has no val_dataloader, whose images are shown'
            )
    first = next(iter(runs))
    found: dict[str, list[tuple[Any, Any]]] = {}
    seen: dict[str, Any] = {}
    stock: dict[str, Any] = {}
    images: list[Path] = []
    chosen: list[int] = []
    for title, (cfg, checkpoint) in configs.items():
        # an ordinary config has no scope of ours; its types are its host's
        with scope_of(cfg):
            dataset = DATASETS.build(cfg.val_dataloader.dataset)
            paths = [Path(dataset.get_data_info(index)['img_path']) for index in range(len(dataset))]
            chosen = choose([path.name for path in paths], min(count, len(paths)) if fewer else count, names)
            stock = getattr(type(dataset), 'METAINFO', {})
            seen, images = seen or dict(dataset.metainfo), images or [paths[index] for index in chosen]
            if list(dataset.metainfo['classes']) != list(seen['classes']) or [paths[i] for i in chosen] != images:
                raise ValueError(f'runs must validate on the same images and classes, {first!r} and {title!r} do not')
            found[title] = list(_predict(cfg, checkpoint, dataset, chosen))
    classes = tuple(seen['classes'])
    return Predicted(
        kind='boxes' if isinstance(found[first][0][0], tuple) else 'labels',
        images=tuple(images),
        names=tuple(f'{index}_{path.stem}' for index, path in zip(chosen, images, strict=True)),
        truths=tuple(truth for truth, _ in found[first]),
        predictions={title: tuple(said for _, said in rows) for title, rows in found.items()},
        classes=classes,
        palette=_palette(seen, stock),
        made={title: str(checkpoint) for title, (_, checkpoint) in configs.items()},
    )


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


def write_labels(predicted: Predicted, folder: str | Path) -> LabelMaps:
    """Writes label maps, ``truth/`` and a folder per network, made if missing."""
    files = [f'{name}.png' for name in predicted.names]
    truths = _write(Path(folder, 'truth'), files, predicted.truths)
    maps = {}
    for number, (title, labels) in enumerate(predicted.predictions.items(), start=1):
        maps[title] = _write(Path(folder, f'{number}_{_file_name(title)}'), files, labels)
    return LabelMaps(predicted.images, truths, maps, predicted.classes, predicted.palette)


def write_samples(predicted: Predicted, folder: str | Path) -> Path:
    """Writes small copies of the images with what is said of them, as a page shows it; returns ``samples.json``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    colours = np.array([*predicted.palette, *[_UNLABELLED] * (IGNORED + 1 - len(predicted.palette))], dtype=np.uint8)
    rows = []
    for index, (path, name) in enumerate(zip(predicted.images, predicted.names, strict=True)):
        image = mmcv.imread(str(path))
        scale = min(1.0, _LARGEST / max(image.shape[:2]))
        size = (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
        file = f'{name}.jpg'
        small = mmcv.imresize(image, size[::-1], interpolation='area') if scale < 1 else image
        mmcv.imwrite(small, str(folder / file), [1, _QUALITY])  # 1: OpenCV's IMWRITE_JPEG_QUALITY
        said = {'truth': predicted.truths[index]}
        said |= {f'{n}_{title}': maps[index] for n, (title, maps) in enumerate(predicted.predictions.items(), start=1)}
        shown: list[Any] = []
        for title, value in said.items():
            if predicted.kind == 'boxes':
                shown.append(tuple(_scaled(box, scale) for box in value))
                continue
            labels = mmcv.imresize(value.astype(np.uint8), size[::-1], interpolation='nearest')
            shown.append(f'{name}_{_file_name(title)}.png')
            mmcv.imwrite(colours[labels][..., ::-1], str(folder / shown[-1]))
        rows.append(Sample(file, size, shown[0], dict(zip(predicted.predictions, shown[1:], strict=True))))
    samples = Samples(predicted.kind, predicted.classes, predicted.palette, tuple(rows), predicted.made)
    return samples.write(folder)


def sample_run(work_dir: str | Path, count: int = COUNT) -> Path:
    """Predicts a few validation images with the network that a run trained, and with its seed where that was trained.

    Args:
        work_dir: The run's.
        count: Images, as in `predict`; of a smaller validation set all.

    Returns:
        ``samples.json``.

    Raises:
        FileNotFoundError: The network has no checkpoint yet.
        ValueError: As `predict`.
    """
    files, facts = WorkDir(Path(work_dir)), read_facts(work_dir)
    runs = {'given' if facts.given else 'found': files.adapt}
    seed = seed_folder(files, facts)
    if seed is not None and find_checkpoint(WorkDir(seed).adapt).path is not None:
        runs = {'seed': WorkDir(seed).adapt, **runs}
    try:
        predicted = predict(runs, count, fewer=True)
    except ValueError:
        if len(runs) == 1:
            raise
        # a seed that was trained on other data says nothing here
        predicted = predict({title: run for title, run in runs.items() if title != 'seed'}, count, fewer=True)
    return write_samples(predicted, files.samples)


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
def _predict(cfg: Config, checkpoint: Path, dataset: Any, chosen: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """Yields truth and prediction of each chosen image, (H, W) labels or boxes both."""
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
        if 'pred_instances' in sample:
            yield _true_boxes(dataset.get_data_info(index)), _found_boxes(sample.pred_instances)
            continue
        missing = [field for field in ('gt_sem_seg', 'pred_sem_seg') if field not in sample]
        if missing:
            raise ValueError(
                f'{checkpoint.parent}: its config must test a detector or a segmentor on labelled images, '
                f'but its data samples lack {missing}'
            )
        truth, labels = (sample.get(field).data.squeeze(0).cpu().numpy() for field in ('gt_sem_seg', 'pred_sem_seg'))
        yield truth, labels


def _true_boxes(info: Mapping[str, Any]) -> tuple[Box, ...]:
    """Boxes of the annotation, in pixels of the image's file; crowds and what is ignored are left out."""
    rows = [row for row in info.get('instances', ()) if not row.get('ignore_flag')]
    return tuple(_box(row['bbox'], row['bbox_label']) for row in rows)


def _found_boxes(instances: Any) -> tuple[Box, ...]:
    """Boxes that a detector found, in pixels of the image's file, the surest first."""
    boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
    rows = zip(boxes.tolist(), instances.labels.tolist(), instances.scores.tolist(), strict=True)
    return tuple(_box(box, label, score) for box, label, score in sorted(rows, key=lambda row: -row[2]))


def _box(sides: Sequence[float], label: int, score: float | None = None) -> Box:
    x0, y0, x1, y1 = map(float, sides)
    return Box(x0, y0, x1, y1, int(label), score)


def _scaled(box: Box, scale: float) -> Box:
    return _box([scale * side for side in box[:4]], box.label, box.score)


def _palette(given: Mapping[str, Any], stock: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """The data set's colours, or else ones that can be told apart.

    Args:
        given: What the data set says of itself: ``classes``, and perhaps a ``palette``.
        stock: What its class says by itself: with other classes than these, MMDetection keeps colours that are not
            theirs.
    """
    count, colours = len(given['classes']), given.get('palette')
    foreign = colours == stock.get('palette') and list(given['classes']) != list(stock.get('classes', ()))
    if colours and len(colours) >= count and not foreign:
        return tuple(tuple(int(part) for part in colour) for colour in colours[:count])
    # pairs of a strong and a pale colour: the strong ones first
    places = [*range(0, 20, 2), *range(1, 20, 2)]
    chosen = [matplotlib.colormaps['tab20'](places[index % 20])[:3] for index in range(count)]
    return tuple(tuple(round(255 * part) for part in colour) for colour in chosen)


def _file_name(title: str) -> str:
    return re.sub('[^0-9A-Za-z]+', '_', title).strip('_')


def _write(folder: Path, files: Sequence[str], maps: Sequence[np.ndarray]) -> tuple[Path, ...]:
    for file, labels in zip(files, maps, strict=True):
        mmcv.imwrite(labels.astype(np.uint8), str(folder / file))  # makes the folder
    return tuple(folder / file for file in files)
