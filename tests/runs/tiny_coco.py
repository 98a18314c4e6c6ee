"""COCO's layout in small: a few images of 40x48 pixels, each with a box."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def coco_of(root: Path, part: str, names: Sequence[str], count: int = 8) -> None:
    """Writes images with a box each, of the first category, and their annotations: ``train2017`` or ``val2017``."""
    (root / part).mkdir(parents=True)
    (root / 'annotations').mkdir(exist_ok=True)
    ids = range(1, count + 1)
    for number in ids:
        cv2.imwrite(str(root / part / f'{number}.png'), np.full((40, 48, 3), number, np.uint8))
    images = [{'id': i, 'file_name': f'{i}.png', 'height': 40, 'width': 48} for i in ids]
    boxes = [{'id': i, 'image_id': i, 'category_id': 1, 'bbox': [4, 4, 30, 30], 'area': 900, 'iscrowd': 0} for i in ids]
    categories = [{'id': i, 'name': name} for i, name in enumerate(names, 1)]
    content = {'images': images, 'annotations': boxes, 'categories': categories}
    (root / 'annotations' / f'instances_{part}.json').write_text(json.dumps(content))
