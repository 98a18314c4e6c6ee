"""One's own data in small, as people have them: a few images of 48x40 pixels in each layout."""

import copy
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from PIL import Image

from mmnas_ext.archs import SearchSpace
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.resolve import resolve
from mmnas_ext.runs.run import prepare

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
DETECTOR, SEGMENTOR = 'fna_retinanet_lite0_320.py', 'fna_deeplabv3_lite0_480.py'
HEIGHT, WIDTH = 40, 48
COUNTS = {'train': 4, 'val': 2}


def scenes(part: str, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Iterator[tuple[str, np.ndarray, tuple[int, ...]]]:
    """Yields name, image and box (left, top, right, bottom) of the images of a part."""
    height, width = size
    for number in range(COUNTS[part]):
        shade = number % 12
        image = np.full((height, width, 3), 20 * shade, np.uint8)
        box = (4 + shade, 4, width - 8, height - 6)
        image[box[1] : box[3], box[0] : box[2]] = 200
        yield f'{part}_{number}', image, box


def make_voc(root: Path, names: Sequence[str] = ('cat', 'dog', 'cow'), size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True)
    for part in COUNTS:
        stems = []
        for number, (stem, image, box) in enumerate(scenes(part, size)):
            cv2.imwrite(str(root / f'JPEGImages/{stem}.jpg'), image)
            corners = ''.join(f'<{k}>{v + 1}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True))
            objects = f'<object><name>{names[number % len(names)]}</name><bndbox>{corners}</bndbox></object>'
            shape = f'<size><width>{size[1]}</width><height>{size[0]}</height></size>'
            (root / f'Annotations/{stem}.xml').write_text(f'<annotation>{shape}{objects}</annotation>')
            stems.append(stem)
        (root / f'ImageSets/Main/{part}.txt').write_text('\n'.join(stems) + '\n')
    return root


def make_coco(
    root: Path,
    names: Sequence[str] = ('dog', 'cat'),
    files: str = 'annotations/{}.json',
    images: str = '{}',
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Path:
    for part in COUNTS:
        folder, file = root / images.format(part), root / files.format(part)
        folder.mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        listed, boxes = [], []
        for number, (stem, image, (left, top, right, bottom)) in enumerate(scenes(part, size)):
            cv2.imwrite(str(folder / f'{stem}.jpg'), image)
            listed.append(dict(id=number, file_name=f'{stem}.jpg', height=size[0], width=size[1]))
            box = [left, top, right - left, bottom - top]
            label = 7 + number % len(names)  # ids that do not begin at 0
            boxes.append(dict(id=number, image_id=number, category_id=label, bbox=box, area=box[2] * box[3], iscrowd=0))
        categories = [dict(id=7 + number, name=name) for number, name in enumerate(names)]
        file.write_text(json.dumps(dict(images=listed, annotations=boxes, categories=categories)))
    return root


def make_masks(
    root: Path,
    images: str = 'images/{}/{}.jpg',
    masks: str = 'masks/{}/{}.png',
    values: Sequence[int] = (0, 1, 2),
    ignored: int = 255,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Path:
    for part in COUNTS:
        for stem, image, (left, top, right, bottom) in scenes(part, size):
            for path in (root / images.format(part, stem), root / masks.format(part, stem)):
                path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / images.format(part, stem)), image)
            labels = np.full(size, values[0], np.uint8)
            labels[top:bottom, left:right] = values[1]
            labels[top : top + 8, left : left + 8] = values[-1]
            labels[:2] = ignored
            Image.fromarray(labels).save(root / masks.format(part, stem))
    return root


def make_cityscapes(root: Path) -> Path:
    return make_masks(
        root, 'leftImg8bit/{}/town/{}_leftImg8bit.png', 'gtFine/{}/town/{}_gtFine_labelTrainIds.png', (0, 8, 10)
    )


@cache
def _parse(name: str) -> Config:
    return Config.fromfile(CONFIGS / name)


def halves_of(base: str, **changes: Any) -> tuple[Config, Config]:
    """The search and what it derives, of a config of ours with these changes: reading a file anew takes a second."""
    cfg = copy.deepcopy(_parse(base))
    cfg.merge_from_dict(changes)
    return resolve(cfg), derive_any(cfg)


def both_halves(folder: Path, base: str, *lines: str, **options: Any) -> tuple[Config, Config]:
    """The search and what it derives, of a config that inherits one of ours and has these lines, as tools read it."""
    file = folder / 'child.py'
    file.write_text('\n'.join([f'_base_ = {str(CONFIGS / base)!r}', *lines, '']))
    cfg = prepare(str(file), options=options)
    return cfg, derive_any(cfg)


def derive_any(cfg: Config) -> Config:
    """What a search would derive if it found the first network of its space."""
    space = SearchSpace.parse(cfg.model.backbone.space)
    return derived_config(cfg, space.arch(tuple((0,) * len(stage.layers) for stage in space.stages)))
