"""Whether the labels of one's own data are what their classes say: of every file that is missing or wrong its name."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mmnas_ext.datasets.annotations import MISPLACED, coco_fault, read_coco, voc_objects
from mmnas_ext.datasets.inspect import Listing, missing
from mmnas_ext.datasets.layouts import CITYSCAPES, VOC_LINE, OwnData, Part, left_out, mask_files, voc_files

_MASKS = 256  # masks of a part that are read, at even distances: all of a million would take hours
_SHOWN = 6
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # of EXIF data
_BINARY = {0, 255}  # what programs write where there are two classes


def check_part(data: OwnData, name: str, part: Part, classes: Sequence[str]) -> list[str]:
    """Looks at the files of a part.

    Args:
        data: What is said of the data.
        name: The part's, for messages.
        part: Where it is.
        classes: Names of the classes, in the order of their numbers.

    Returns:
        What is worth a warning, a sentence each.

    Raises:
        FileNotFoundError: Images, annotations or masks do not exist: how many, and the first.
        ValueError: A label is malformed, is none of the classes, or a class is not in the file; says which.
    """
    return _CHECKS[data.type](data, name, part, classes)


def in_file_order(part: Part, classes: Sequence[str]) -> tuple[str, ...]:
    """Classes in the order of a COCO file's categories, by which MMDetection numbers them.

    Raises:
        ValueError: The file lacks one; the message has the nearest.
    """
    known = [str(each.get('name')) for each in read_coco(part.labels)['categories']]
    for each in classes:
        if each not in known:
            raise ValueError(f'data.classes: {part.labels} has no class {each!r}{_suggest(each, known)}')
    return tuple(each for each in known if each in classes)


def _check_coco(data: OwnData, name: str, part: Part, classes: Sequence[str]) -> list[str]:
    content = read_coco(part.labels)
    ordered = in_file_order(part, classes)
    if ordered != tuple(classes):
        raise ValueError(
            f'data.{name}: {part.labels} lists the classes as {_show(ordered)}, and data.train as {_show(classes)}: '
            'MMDetection numbers them in the order of the file, so both must have the same'
        )
    folder = Path(data.root, part.dataset['data_prefix']['img'])
    _check_exist(name, [folder / image['file_name'] for image in content['images']], 'images', folder)
    images, categories = ({each['id']: each for each in content[key]} for key in ('images', 'categories'))
    used: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for box in content['annotations']:
        for key, known in (('image_id', images), ('category_id', categories)):
            if box.get(key) not in known:
                raise ValueError(
                    f'{part.labels}: annotation {box.get("id")} has {key} {box.get(key)!r}, which is not in the file'
                )
        label = categories[box['category_id']]['name']
        if label in classes:
            fault = coco_fault(box, images[box['image_id']])
            (faults if fault else used)[fault or label] += 1
    if not content['annotations']:
        dropped = _no_label(name, f'{part.labels} has no annotations')
    elif not used and not faults:
        dropped = _no_label(name, f'{part.labels} has no box of {_show(tuple(classes))}')
    else:
        dropped = _dropped(name, part.labels, used.total(), faults)
    return dropped + _unseen(name, part.labels, classes, {*used})


def _check_voc(data: OwnData, name: str, part: Part, classes: Sequence[str]) -> list[str]:
    files = voc_files(part)
    if not files:
        raise ValueError(f'data.{name}: {part.labels} lists no image')
    _check_exist(name, [file for _, file in files], 'annotations', part.labels, f'; {VOC_LINE}')
    _check_exist(name, [image for image, _ in files], 'images', part.labels)
    objects = [each for _, file in files for each in voc_objects(file)]
    if not objects:
        return _no_label(name, f'no file of {part.labels} has an object')
    seen = {each.name for each in objects}
    unused = sorted(seen - {*classes})
    for each in classes:
        near = difflib.get_close_matches(each.lower(), [other.lower() for other in unused], 1)
        if each not in seen and (near or not seen & {*classes}):
            raise ValueError(f'data.{name}: no object of {part.labels} is a {each!r}{_suggest(each, unused)}')
    hard = [each.difficult for each in objects if each.name in classes]
    faults = Counter({'marked difficult': sum(hard)} if any(hard) else {})
    dropped = _dropped(name, part.labels, len(hard) - sum(hard), faults)
    left = [f'data.{name}: objects of {_show(unused)} are not among data.classes and left out'] if unused else []
    return dropped + left + _unseen(name, part.labels, classes, seen)


def _check_masks(data: OwnData, name: str, part: Part, classes: Sequence[str]) -> list[str]:
    files = mask_files(part)
    folder, ending = Path(data.root, part.dataset['data_prefix']['img_path']), part.dataset['img_suffix']
    if not files:
        raise FileNotFoundError(f'data.{name}: {folder} has no image that ends in {ending}: set data.img_suffix')
    if not part.dataset.get('ann_file'):
        others = left_out(part)
        if others:
            raise ValueError(
                f'data.{name}: {folder} has {len(files)} images that end in {ending}, and others such as {others[0]}, '
                'which MMSegmentation would leave out: convert or rename them'
            )
    elif any(image.name.endswith(ending * 2) for image, _ in files):
        raise ValueError(f'data.{name}: the lines of {part.dataset["ann_file"]} must be names without {ending}')
    _check_exist(name, [image for image, _ in files], 'images', folder)
    _check_exist(name, [mask for _, mask in files], 'masks', part.labels)
    step = max(1, len(files) // _MASKS)
    known = len(CITYSCAPES) if part.dataset['type'] == 'CityscapesDataset' else len(classes)
    seen: set[int] = set()
    for image, mask in files[::step]:
        values = {int(value) for value in np.unique(_read_mask(image, mask))}
        _check_values(data, mask, values, known)
        seen |= values
    if seen <= _BINARY and 255 in seen and data.ignore_index == 255 and len(classes) == 2:
        raise ValueError(
            f'data.{name}: the masks in {part.labels} have 0 and 255 only, and 255 counts for nothing '
            '(data.ignore_index): write the second class as 1'
        )
    labels = {value - data.reduce_zero_label for value in seen - {data.ignore_index}}
    if step > 1 or known != len(classes):
        return []
    return _unseen(name, part.labels, classes, {classes[label] for label in labels if label >= 0})


def _check_values(data: OwnData, mask: Path, values: set[int], count: int) -> None:
    """Raises ValueError for a value of a mask that is none of `count` classes."""
    first = int(data.reduce_zero_label)
    wrong = sorted(value for value in values - {data.ignore_index} if value >= count + first)
    if wrong:
        zero = ', 0 counts for nothing' if first else ''
        raise ValueError(
            f'{mask} has the value {wrong[0]}, and data.classes has {count} names, values {first}..'
            f'{count + first - 1}{zero}: name all classes in data.classes; what counts for nothing must have '
            f'{data.ignore_index} (data.ignore_index)'
        )


def _read_mask(image: Path, mask: Path) -> Any:
    """Reads a mask, (H, W), as MMSegmentation does."""
    try:
        with Image.open(mask) as opened, Image.open(image) as pictured:
            values, size, turn = np.asarray(opened), pictured.size, pictured.getexif().get(_ORIENTATION, 1)
    except OSError as error:
        raise ValueError(f'{mask} or its image {image.name} cannot be read: {error}') from None
    if values.ndim != 2:
        raise ValueError(
            f'{mask} is a colour image, {" x ".join(map(str, values.shape))}: a mask must have one number per pixel, '
            'the index of its class in data.classes, as PNG of 8 bits'
        )
    if values.dtype != np.uint8:
        if values.dtype != bool:
            raise ValueError(f'{mask} has values of {values.dtype}: a mask must be a PNG of 8 bits')
        values = values.astype(np.uint8)
    if turn in _ON_ITS_SIDE:  # whose images are turned when read depends on the reader
        decoded = cv2.imread(str(image))
        if decoded is None:
            raise ValueError(f'{image} cannot be read, though its EXIF data say how it is turned')
        size = decoded.shape[1::-1]
    if values.shape != size[::-1]:
        turned = ', for its EXIF data turn it, and not the mask: turn the mask, or take the orientation off the image'
        raise ValueError(
            f'{mask} is {values.shape[1]}x{values.shape[0]} pixels, and its image {image.name} {size[0]}x{size[1]}'
            f'{turned if turn in _ON_ITS_SIDE else ""}'
        )
    return values


def _check_exist(name: str, files: Sequence[Path], kind: str, where: Path, advice: str = '') -> None:
    listing = Listing()
    lost = [str(file) for file in files if not listing.holds(str(file))]
    if lost:
        raise FileNotFoundError(f'data.{name}: of the {kind} of {where} {missing(lost, len(files))}{advice}')
    if not files:
        raise ValueError(f'data.{name}: {where} has no {kind}')


def _dropped(name: str, where: Path, used: int, faults: Counter[str]) -> list[str]:
    """Says how many boxes are left where a host leaves some out, and why; raises ValueError where none is."""
    if not faults:
        return []
    why = ', '.join(f'{count} {fault}' for fault, count in faults.items())
    total = used + faults.total()
    if not used:
        advice = ': bbox must be [x, y, width, height] in pixels' if {*faults} & {*MISPLACED} else ''
        return _no_label(name, f'none of the {total} boxes of {where} can be used, {why}{advice}')
    return [f'data.{name}: of the {total} boxes of {where} {used} are used; left out are {why}']


def _no_label(name: str, text: str) -> list[str]:
    """Raises ValueError for a part without labels; of a test, whose images can be looked at without, it is returned."""
    if name == 'test':
        return [f'data.{name}: {text}']
    raise ValueError(f'data.{name}: {text}')


def _unseen(name: str, where: Path, classes: Iterable[str], seen: set[str]) -> list[str]:
    absent = [each for each in classes if each not in seen]
    return [f'data.{name}: nothing in {where} is {_show(absent)}'] if absent else []


def _suggest(name: str, known: Sequence[str]) -> str:
    lowered = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), lowered, 1)
    return f': did you mean {lowered[found[0]]!r}?' if found else f': it has {_show(known)}'


def _show(names: Sequence[str]) -> str:
    more = f', … ({len(names)} in all)' if len(names) > _SHOWN else ''
    return ', '.join(map(repr, names[:_SHOWN])) + more


_CHECKS: dict[str, Callable[[OwnData, str, Part, Sequence[str]], list[str]]] = {
    'coco': _check_coco,
    'voc': _check_voc,
    'folder-masks': _check_masks,
    'cityscapes': _check_masks,
}
