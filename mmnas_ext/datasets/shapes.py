"""Small generated data sets for detection and segmentation, in which the choice of the network makes a difference.

Every class has a twin that a small receptive field cannot distinguish from it. Colours, outlines, sizes and the covered
share have the same distribution in both; only structure of a certain width (`RECEPTIVE_FIELD`) differs:

    fine_stripes / coarse_stripes   the same outline, stripes with a period of 4 or 16 pixels, half of them dark
    fine_dots / coarse_dots         the same outline, dots with a period of 6 or 18 pixels, the same share covered
    ring / frame                    a large thin line, round or square, with background inside
    bar_same / bar_mixed            a bar whose end caps have the same colour or two: a network must see both at once

For segmentation, a ring or a frame is `outline`, and the area inside, which looks like the ground, is `enclosed`.
The seed decides everything: the same settings give the same bytes.
"""

import colorsys
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

DETECTION_CLASSES = (
    'fine_stripes',
    'coarse_stripes',
    'fine_dots',
    'coarse_dots',
    'ring',
    'frame',
    'bar_same',
    'bar_mixed',
)
SEGMENTATION_CLASSES = (
    'ground',
    'fine_stripes',
    'coarse_stripes',
    'fine_dots',
    'coarse_dots',
    'outline',
    'enclosed',
    'bar_same',
    'bar_mixed',
)
_PALETTE = (
    (90, 90, 90),
    (230, 60, 60),
    (240, 160, 40),
    (60, 160, 230),
    (40, 60, 200),
    (60, 190, 90),
    (190, 220, 70),
    (170, 80, 200),
    (240, 120, 190),
)
DETECTION_METAINFO = {'classes': DETECTION_CLASSES, 'palette': _PALETTE[1:]}
SEGMENTATION_METAINFO = {'classes': SEGMENTATION_CLASSES, 'palette': _PALETTE}

PERIOD = {'fine_stripes': 4, 'coarse_stripes': 16, 'fine_dots': 6, 'coarse_dots': 18}
"""Pixels from one stripe, or dot, to the next."""
MIN_SIDE = 36
"""Smallest side of a shape in pixels: twice the largest period."""

_OUTLINE, _LINE = 1.4, 7  # rings and frames: length over side; thickness in pixels, the ignored border eats two
_BAR, _CAP = 1.6, 0.6  # bars: length over side; where the caps begin, from 0 in the middle to 1 at the end
RECEPTIVE_FIELD = PERIOD | {
    'ring': math.ceil(_OUTLINE * MIN_SIDE - 2 * _LINE),
    'frame': math.ceil(_OUTLINE * MIN_SIDE - 2 * _LINE),
    'bar_same': math.ceil(_BAR * _CAP * MIN_SIDE),
    'bar_mixed': math.ceil(_BAR * _CAP * MIN_SIDE),
}
"""Width in pixels that a feature in the middle of the smallest shape must see to know its class: a whole period, the
line around the hole, both caps. For rings, frames and bars it grows with the shape; periods never change."""

IGNORED = 255
_MIN_SIZE = 96  # pixels; a smaller image has no room for the shapes
_MAX_SIZE = 4096
_VERSION = 1  # of the images; raise it whenever a change here changes them
_MANIFEST = 'shapes.json'


@dataclass(frozen=True)
class Shape:
    """One drawn shape, cropped to its bounding box.

    Args:
        kind: One of `DETECTION_CLASSES`.
        pixels: (h, w, 3) uint8, BGR; meaningful where `covered`.
        covered: (h, w) bool, what the shape paints.
        enclosed: (h, w) bool, what it surrounds without painting it.
    """

    kind: str
    pixels: np.ndarray
    covered: np.ndarray
    enclosed: np.ndarray


@dataclass(frozen=True)
class _Settings:
    task: str
    train: int
    val: int
    size: tuple[int, int]
    seed: int
    version: int = _VERSION

    def __post_init__(self) -> None:
        for name, low, high in (('train', 1, 100_000), ('val', 1, 100_000), ('seed', 0, 2**32 - 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f'{name} must be an integer in {low}..{high}, got {value!r}')
        size = self.size
        pair = isinstance(size, (tuple, list)) and len(size) == 2 and all(type(side) is int for side in size)
        if not pair or not all(_MIN_SIZE <= side <= _MAX_SIZE for side in size):
            raise ValueError(f'size must be (height, width) in {_MIN_SIZE}..{_MAX_SIZE} pixels, got {size!r}')


def make_detection(
    root: str | Path, train: int = 160, val: int = 160, size: tuple[int, int] = (192, 256), seed: int = 0
) -> bool:
    """Makes a detection set in COCO's layout.

    ``annotations/instances_{train,val}2017.json`` and ``{train,val}2017/*.jpg``.
    Category ids are 1, 2, … in the order of `DETECTION_CLASSES`; a box's ``area`` is the area of the box; there are
    no masks and no crowds. A set that is already there, whole and with the same settings, is left alone.

    Args:
        root: Folder of the set; appears only when complete.
        train: Images to train on. The validation images do not depend on it.
        val: Images to validate on.
        size: (height, width) of every image, pixels.
        seed: Another seed gives other images.

    Returns:
        Whether anything was written.

    Raises:
        ValueError: A number is out of range, or `root` holds something else or a set made with other settings.
    """
    return _make(Path(root), _Settings('detection', train, val, size, seed), _write_detection)


def make_segmentation(
    root: str | Path, train: int = 96, val: int = 32, size: tuple[int, int] = (192, 256), seed: int = 0
) -> bool:
    """Makes a segmentation set in Cityscapes' layout.

    ``leftImg8bit/{train,val}/shapes/*_leftImg8bit.png`` and ``gtFine/{train,val}/shapes/*_gtFine_labelTrainIds.png``.
    Train ids are the indices of `SEGMENTATION_CLASSES`, so they are within Cityscapes' 19; the border between two
    labels is 255. The arguments are those of `make_detection`.

    Returns:
        Whether anything was written.

    Raises:
        ValueError: As `make_detection`.
    """
    return _make(Path(root), _Settings('segmentation', train, val, size, seed), _write_segmentation)


def draw_shape(kind: str, side: int, rng: np.random.RandomState) -> Shape:
    """Draws one shape in random colours at a random angle.

    Args:
        kind: One of `DETECTION_CLASSES`.
        side: Diameter of a disc or side of a square in pixels; rings and frames are 1.4 times, bars 1.6 times as long.
        rng: Random state that colours, angle and outline are drawn from.

    Raises:
        ValueError: `kind` is unknown or `side` is less than `MIN_SIDE`.
    """
    if kind not in DETECTION_CLASSES:
        raise ValueError(f'kind must be one of {DETECTION_CLASSES}, got {kind!r}')
    if side < MIN_SIDE:
        raise ValueError(f'side must be at least {MIN_SIDE} pixels, got {side}')
    reach = side * 1.2  # half a frame's diagonal is 1.4·√2/2 ≈ 1 side, the longest reach of all
    steps = np.arange(-np.ceil(reach), np.ceil(reach) + 1)
    angle = rng.uniform(0, np.pi)
    across = steps[None, :] * np.cos(angle) + steps[:, None] * np.sin(angle)
    along = steps[:, None] * np.cos(angle) - steps[None, :] * np.sin(angle)
    nothing = np.zeros(across.shape, dtype=bool)
    if kind in PERIOD:
        covered, enclosed = _disc_or_square(across, along, side / 2, bool(rng.randint(2))), nothing
        pixels = _two_tone(_pattern(kind, across + rng.uniform(0, 18), along + rng.uniform(0, 18)), rng)
    elif kind in ('ring', 'frame'):
        half = _OUTLINE / 2 * side
        square = kind == 'frame'
        enclosed = _disc_or_square(across, along, half - _LINE, square)
        covered = _disc_or_square(across, along, half, square) & ~enclosed
        pixels = _two_tone(np.full_like(covered, bool(rng.randint(2))), rng)
    else:
        half = _BAR / 2 * side
        covered, enclosed = (abs(across) <= half) & (abs(along) <= half / 3.2), nothing
        pixels = _bar(across / half, kind == 'bar_mixed', rng)
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    cut = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Shape(kind, pixels[cut], covered[cut], enclosed[cut])


def _disc_or_square(across: np.ndarray, along: np.ndarray, half: float, square: bool) -> np.ndarray:
    if square:
        return np.maximum(abs(across), abs(along)) <= half
    return np.hypot(across, along) <= half


def _pattern(kind: str, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Returns where the lighter colour goes, (h, w) bool: half of the area for stripes, π·0.35² ≈ 0.38 for dots."""
    period = PERIOD[kind]
    if kind.endswith('stripes'):
        return across % period < period / 2
    return np.hypot(across % period - period / 2, along % period - period / 2) < 0.35 * period


def _bar(place: np.ndarray, mixed: bool, rng: np.random.RandomState) -> np.ndarray:
    """Draws a coloured bar with end caps; `place` runs from -1 to 1 along it. A cap is light as often as dark."""
    pixels = np.empty((*place.shape, 3), dtype=np.uint8)
    pixels[:] = _colour(rng.uniform(), rng.uniform(0.7, 0.9), 0.7)
    light = bool(rng.randint(2))
    for end, is_light in ((place < -_CAP, light), (place > _CAP, light != mixed)):
        pixels[end] = _colour(rng.uniform(), 0.1, 0.97 if is_light else 0.08)
    return pixels


def _two_tone(light: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    colours = np.stack(
        [_colour(rng.uniform(), rng.uniform(0.5, 0.9), 0.22), _colour(rng.uniform(), rng.uniform(0.2, 0.6), 0.97)]
    )
    return colours[light.astype(np.int64)]


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return np.round(255 * np.array([blue, green, red])).astype(np.uint8)


def _ground(size: tuple[int, int], rng: np.random.RandomState) -> np.ndarray:
    """Draws a background (h, w, 3) uint8: a muted colour with darker and lighter clouds of two sizes."""
    height, width = size
    clouds = np.zeros(size, dtype=np.float32)
    for cell, swing in ((10, 12.0), (48, 28.0)):
        coarse = rng.uniform(-1, 1, (height // cell + 3, width // cell + 3)).astype(np.float32)
        whole = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_LINEAR)
        clouds += swing * whole[cell : cell + height, cell : cell + width]
    base = _colour(rng.uniform(), rng.uniform(0.1, 0.35), rng.uniform(0.45, 0.6))
    return np.clip(base.astype(np.float32) + clouds[..., None], 0, 255).astype(np.uint8)


def _scene(size: tuple[int, int], key: list[int], first: int) -> tuple[np.ndarray, list[tuple[int, int, Shape]]]:
    """Draws an image; returns it and its shapes as (left, top, shape), whose boxes do not overlap or leave the image.

    Args:
        size: (height, width), pixels.
        key: Integers that seed the image.
        first: Index of a class that the image has at least once, so that a small set has all classes.
    """
    rng = np.random.RandomState(key)
    image = _ground(size, rng)
    height, width = size
    low = max(MIN_SIDE, round(0.22 * min(size)))
    high = max(low, round(0.36 * min(size)))
    taken = np.zeros(size, dtype=bool)
    placed: list[tuple[int, int, Shape]] = []
    for number in range(rng.randint(2, 6)):
        kind = DETECTION_CLASSES[first if number == 0 else rng.randint(len(DETECTION_CLASSES))]
        shape = draw_shape(kind, rng.randint(low, high + 1), rng)
        tall, wide = shape.covered.shape
        for _ in range(20):
            top, left = rng.randint(2, height - tall - 1), rng.randint(2, width - wide - 1)
            if not taken[max(top - 4, 0) : top + tall + 4, max(left - 4, 0) : left + wide + 4].any():
                taken[top : top + tall, left : left + wide] = True
                image[top : top + tall, left : left + wide][shape.covered] = shape.pixels[shape.covered]
                placed.append((left, top, shape))
                break
    return image, placed


def _labels(size: tuple[int, int], placed: list[tuple[int, int, Shape]]) -> np.ndarray:
    """Draws the label map (h, w) uint8: train ids, and `IGNORED` where two of them meet."""
    labels = np.zeros(size, dtype=np.uint8)
    for left, top, shape in placed:
        tall, wide = shape.covered.shape
        name = 'outline' if shape.kind in ('ring', 'frame') else shape.kind
        here = labels[top : top + tall, left : left + wide]
        here[shape.enclosed] = SEGMENTATION_CLASSES.index('enclosed')
        here[shape.covered] = SEGMENTATION_CLASSES.index(name)
    around = np.ones((3, 3), dtype=np.uint8)
    labels[cv2.dilate(labels, around) != cv2.erode(labels, around)] = IGNORED
    return labels


def _write_detection(root: Path, settings: _Settings) -> None:
    for split, (name, count) in enumerate((('train', settings.train), ('val', settings.val))):
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        for number in tqdm(range(count), f'{name} images', disable=None):  # quiet where nobody watches
            image, placed = _scene(settings.size, [settings.seed, split, number], number % len(DETECTION_CLASSES))
            file_name = f'{number:012d}.jpg'
            _write_image(root / f'{name}2017' / file_name, image)
            height, width = settings.size
            images.append({'id': number, 'file_name': file_name, 'height': height, 'width': width})
            for left, top, shape in placed:
                tall, wide = shape.covered.shape
                boxes.append(
                    {
                        'id': len(boxes) + 1,
                        'image_id': number,
                        'category_id': DETECTION_CLASSES.index(shape.kind) + 1,
                        'bbox': [left, top, wide, tall],
                        'area': wide * tall,
                        'iscrowd': 0,
                    }
                )
        categories = [{'id': i, 'name': kind} for i, kind in enumerate(DETECTION_CLASSES, start=1)]
        annotations = {'info': {}, 'licenses': [], 'images': images, 'annotations': boxes, 'categories': categories}
        _write_text(root / 'annotations' / f'instances_{name}2017.json', json.dumps(annotations))


def _write_segmentation(root: Path, settings: _Settings) -> None:
    for split, (name, count) in enumerate((('train', settings.train), ('val', settings.val))):
        for number in tqdm(range(count), f'{name} images', disable=None):  # quiet where nobody watches
            image, placed = _scene(settings.size, [settings.seed, split, number], number % len(DETECTION_CLASSES))
            stem = f'shapes_{number:06d}'
            _write_image(root / 'leftImg8bit' / name / 'shapes' / f'{stem}_leftImg8bit.png', image)
            labels = _labels(settings.size, placed)
            _write_image(root / 'gtFine' / name / 'shapes' / f'{stem}_gtFine_labelTrainIds.png', labels)


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # encoded here and written by Python: cv2.imwrite only returns False for a full disk or a missing permission
    _, coded = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    path.write_bytes(coded.tobytes())


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def _make(root: Path, settings: _Settings, write: Callable[[Path, _Settings], None]) -> bool:
    """Writes a set beside `root` and moves it there: `root` never holds half a set, even if two processes make it."""
    root = root.resolve()  # follows a link once, so that the set is made on the disk where it will be
    if _is_made(root, settings):
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
    try:
        write(beside, settings)
        files = sorted(str(path.relative_to(beside)) for path in beside.rglob('*') if path.is_file())
        _write_text(beside / _MANIFEST, json.dumps({'settings': asdict(settings), 'files': files}, indent=1))
        beside.chmod(0o755)  # mkdtemp's folder is the owner's alone
        if _is_made(root, settings):
            return False  # another process was faster
        if root.exists():
            _fill(root, beside)
        else:
            os.replace(beside, root)
    except OSError:
        # another process may just have put the same set there; its set is as good
        if not _is_made(root, settings):
            raise
        return False
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return True


def _fill(root: Path, beside: Path) -> None:
    """Moves a new set's files into an empty folder, or over an incomplete copy of the set; the manifest goes last."""
    files = json.loads((beside / _MANIFEST).read_text(encoding='utf-8'))['files']
    for name in (*files, _MANIFEST):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(beside / name, root / name)


def _is_made(root: Path, settings: _Settings) -> bool:
    """Returns whether `root` holds this set and all of its files; a missing folder and missing files give ``False``.

    Raises:
        ValueError: `root` holds anything else. Nothing is ever deleted: it could be the user's data.
    """
    if not root.exists():
        return False
    if not root.is_dir():
        raise ValueError(f'root must be a folder, got the file {root}')
    manifest = root / _MANIFEST
    if not manifest.is_file():
        if any(root.iterdir()):
            raise ValueError(f'root must be empty or hold a generated set, and {root} has files and no {_MANIFEST}')
        return False
    try:
        held = json.loads(manifest.read_text(encoding='utf-8'))
        there, files = held['settings'], held['files']
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{manifest} is not a manifest made here: delete {root} or name another root') from error
    wanted = json.loads(json.dumps(asdict(settings)))
    if there != wanted:
        raise ValueError(f'{root} holds a set made with {there}, not {wanted}: delete it or name another root')
    return all((root / name).is_file() for name in files)
