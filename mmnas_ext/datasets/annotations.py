"""Files of annotations and lists of images, read as MMDetection and MMSegmentation read them, and kept until changed.

What these would stumble over, or read as something else, is refused: the message has the file.
"""

import json
import math
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

_MARK = '\ufeff'  # which some editors begin a text with
# faults of boxes that are in other units, or given by two corners
MISPLACED = SMALL, OUTSIDE = 'less than a pixel wide or high', 'outside their image'
_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


class VocObject(NamedTuple):
    """An object of VOC's.

    Args:
        name: Its class.
        difficult: Whether it is left out of training and evaluation.
    """

    name: str
    difficult: bool


def forget() -> None:
    """Lets go of the files that were read: those of a large set take gigabytes."""
    _read_coco.cache_clear()
    _voc_objects.cache_clear()


def read_list(file: Path, stripped: bool) -> list[str]:
    """Reads the names in a list, one a line.

    Args:
        file: The list.
        stripped: Whether the host strips blanks off a line; otherwise they are refused.

    Raises:
        ValueError: It is not UTF-8, begins with a mark, or a line is empty or has blanks around its name.
    """
    lines = _text(file).split('\n')
    if lines[-1] == '':  # what follows the last line's end
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise ValueError(f'{file}, line {number} is empty: remove it, a line must be the name of an image')
        if line != line.strip() and not stripped:
            raise ValueError(f'{file}, line {number} has blanks around its name: remove them, got {line!r:.100}')
    return [line.strip() for line in lines]


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise ValueError(f'{file} must be a text in UTF-8: {error}') from None
    if text.startswith(_MARK):
        raise ValueError(f'{file} begins with a byte order mark (BOM), which its readers trip over: save it without')
    return text


# ---------------------------------------------------------------- COCO


def read_coco(file: Path) -> dict[str, Any]:
    """Reads an annotation file of COCO's format; that of a path is kept until the file changes.

    Raises:
        ValueError: It is not of this format; says what it lacks.
    """
    return _read_coco(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read_coco(file: Path, changed: int) -> dict[str, Any]:
    text = _text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{file} is not a COCO file: the text is not JSON: {error}') from None
    for key in ('images', 'annotations', 'categories'):
        listed = content.get(key) if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise ValueError(f'{file} is not a COCO file of boxes: it must have a list {key!r} of objects')
    for key, needed in (
        ('images', ('id', 'file_name', 'width', 'height')),
        ('annotations', ('id',)),
        ('categories', ('id', 'name')),
    ):
        for each in content[key]:
            absent = [name for name in needed if name not in each]
            if absent:
                kind = {'images': 'an image', 'annotations': 'an annotation', 'categories': 'a category'}[key]
                raise ValueError(f'{file}: {kind} has no {absent[0]}: {each!r:.80}')
            if isinstance(each['id'], dict | list):
                raise ValueError(f'{file}: an id in {key} must be a number, got {each["id"]!r:.80}')
    for each in content['categories']:
        if not isinstance(each['name'], str):
            raise ValueError(f'{file}: the name of a category must be a text, got {each["name"]!r:.80}')
    for image in content['images']:
        if not all(is_number(image[key]) and image[key] > 0 for key in ('width', 'height')):
            raise ValueError(f'{file}: width and height of an image must be numbers above 0: {image!r:.120}')
    for box in content['annotations']:
        corner = box.get('bbox')
        numbers = corner if isinstance(corner, list) and len(corner) == 4 else [None]
        if not all(map(is_number, (*numbers, box.get('area')))):
            raise ValueError(
                f'{file}: annotation {box["id"]} must have bbox [x, y, width, height] and area in numbers, got bbox '
                f'{corner!r:.60} and area {box.get("area")!r:.20}'
            )
    return content


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def coco_fault(box: dict[str, Any], image: dict[str, Any]) -> str | None:
    """Why an annotation is not trained on, by MMDetection's ``CocoDataset``; ``None`` where it is.

    Args:
        box: The annotation.
        image: Its image.
    """
    left, top, width, height = box['bbox']
    across = min(left + width, image['width']) - max(left, 0)
    down = min(top + height, image['height']) - max(top, 0)
    faults = {
        'marked ignore': box.get('ignore', False),
        SMALL: width < 1 or height < 1,
        OUTSIDE: across <= 0 or down <= 0,
        'of an area of 0 or less': box['area'] <= 0,
        'crowds (iscrowd)': box.get('iscrowd', False),
    }
    return next((fault for fault, is_so in faults.items() if is_so), None)


# ---------------------------------------------------------------- VOC


def voc_objects(file: Path) -> tuple[VocObject, ...]:
    """The objects in a file of annotations.

    Raises:
        ValueError: It is not XML, an object lacks its name or a corner of its box, or one of them or the size is not
            what it must be.
    """
    return _voc_objects(file, file.stat().st_mtime_ns)


@cache
def _voc_objects(file: Path, changed: int) -> tuple[VocObject, ...]:
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f'{file} is not XML: {error}') from None
    size = root.find('size')
    for key in ('width', 'height') if size is not None else ():
        text = root.findtext(f'size/{key}') or ''
        if not text.strip().isdecimal() or int(text) < 1:
            raise ValueError(f'{file}: size/{key} must be a number of pixels, got {text!r:.40}; it may have no size')
    return tuple(_voc_object(file, each) for each in root.iterfind('object'))


def _voc_object(file: Path, item: ElementTree.Element) -> VocObject:
    texts = {path: item.findtext(path) or '' for path in ('name', *(f'bndbox/{corner}' for corner in _CORNERS))}
    for path, text in texts.items():
        if not text.strip():
            raise ValueError(f'{file}: an object has no {path}')
    name = texts.pop('name')
    if name != name.strip():
        raise ValueError(f'{file}: an object has blanks around its name, {name!r:.80}: write {name.strip()!r:.80}')
    difficult = item.find('difficult')
    if difficult is not None and (difficult.text or '').strip() not in ('0', '1'):
        raise ValueError(f'{file}: difficult of an object must be 0 or 1, got {difficult.text!r:.40}')
    corners = []
    for path, text in texts.items():
        try:
            corners.append(int(float(text)))
        except (ValueError, OverflowError):
            raise ValueError(f'{file}: {path} of an object must be a number of pixels, got {text!r:.40}') from None
    if corners[0] >= corners[2] or corners[1] >= corners[3]:
        raise ValueError(f'{file}: a box must have xmin < xmax and ymin < ymax in whole pixels, got {corners}')
    return VocObject(name, difficult is not None and int(difficult.text or 0) == 1)
