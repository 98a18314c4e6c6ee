"""Where the images and labels of one's own data are: the layouts that people have, found in a folder by its names."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mmnas_ext.datasets.annotations import read_coco, read_list, voc_objects

PARTS = ('train', 'val', 'test')
METRICS = ('voc', 'coco')
DETECTION, SEGMENTATION = 'detection', 'segmentation'
# what people call a part of their data
_NAMES = {'train': ('train', 'training'), 'val': ('val', 'valid', 'validation'), 'test': ('test',)}
_COCO = (
    'annotations/{}.json', 'annotations/instances_{}.json', 'annotations/instances_{}2017.json', '{}.json',
    '{}/_annotations.coco.json', '{}/annotations.json',
)  # fmt: skip
_IMAGES = ('images', 'imgs', 'img', 'img_dir', 'JPEGImages')
_MASKS = ('masks', 'mask', 'ann_dir', 'labels', 'annotations', 'SegmentationClass')
_LISTS = ('{}.txt', 'splits/{}.txt', 'ImageSets/Segmentation/{}.txt')
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_UNREAD = ('.gif', '.heic', '.heif', '.avif', '.jp2', '.jfif', '.ppm', '.pgm')  # other images, in folders of masks
_FIRST_NAME = re.compile(r'"file_name"\s*:\s*"((?:[^"\\]|\\.)*)"')
_PEEKED = 1 << 20  # characters of an annotation file in which an image's name is looked for
_PEEKED_FILES = 1000  # files of a folder in which the ending of its images is looked for
_PEEKED_MASKS = 20  # images whose masks are looked for, to know how these end
VOC_LINE = 'a line must be a name without an ending, and nothing else'
# MMSegmentation's, whose masks are numbered by them
CITYSCAPES = (
    'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign', 'vegetation', 'terrain',
    'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle',
)  # fmt: skip


class Part(NamedTuple):
    """Where a part of the data is.

    Args:
        dataset: Arguments of a host's dataset, ``data_root`` and places relative to it among them.
        labels: The annotation file or list, or the folder of the masks.
    """

    dataset: dict[str, Any]
    labels: Path


@dataclass(frozen=True)
class OwnData:
    """What the variable ``data`` of a config says.

    Args:
        type: The layout, a key of `LAYOUTS`.
        root: Its folder.
        classes: Names of the classes, in the order of their numbers; ``None`` reads them where labels have names.
        train: What is trained on: the name of a part, its annotation file or list, or a dict of places.
        val: What is validated on.
        test: What is tested on; ``None`` is `val`.
        palette: A colour (red, green, blue) per class, for figures.
        ignore_index: Value of a mask where a pixel counts for nothing.
        reduce_zero_label: Whether 0 in a mask counts for nothing, and 1 is the first class.
        img_suffix: How the names of images end; by default as the first ones do.
        seg_map_suffix: How those of masks end.
        metric: Of VOC data ``'voc'``, average precision at an IoU of 0.5, or ``'coco'``, the mean over IoUs up to 0.95.

    Raises:
        ValueError: An argument is of another type or out of range.
    """

    type: str
    root: str
    classes: tuple[str, ...] | None = None
    train: Any = 'train'
    val: Any = 'val'
    test: Any = None
    palette: Any = None
    ignore_index: int = 255
    reduce_zero_label: bool = False
    img_suffix: str | None = None
    seg_map_suffix: str | None = None
    metric: str = 'voc'

    def __post_init__(self) -> None:
        if not isinstance(self.root, str | os.PathLike) or not str(self.root):
            raise ValueError(f'data.root must be a folder, got {self.root!r:.80}')
        if self.classes is not None:
            object.__setattr__(self, 'classes', read_names(self.classes))
        for name in PARTS:
            given = getattr(self, name)
            if not (isinstance(given, str) and given) and not isinstance(given, Mapping):
                if name == 'test' and given is None:
                    continue
                raise ValueError(f'data.{name} must name a part, a file or a dict of places, got {given!r:.80}')
        index = self.ignore_index
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= 255:
            raise ValueError(f'data.ignore_index must be an integer in 0..255, got {index!r:.80}')
        if not isinstance(self.reduce_zero_label, bool):
            raise ValueError(f'data.reduce_zero_label must be True or False, got {self.reduce_zero_label!r:.80}')
        if self.reduce_zero_label and index != 255:
            raise ValueError(f'data.reduce_zero_label makes 0 the ignored 255, so ignore_index stays 255, got {index}')
        if self.classes is not None and index < len(self.classes):
            raise ValueError(
                f'data.ignore_index={index} is the number of class {self.classes[index]!r}: take one of no class; '
                'where 0 counts for nothing and 1 is the first class, reduce_zero_label=True'
            )
        if self.metric not in METRICS:
            raise ValueError(f'data.metric must be one of {METRICS}, got {self.metric!r:.80}')
        if self.palette is not None and (
            not isinstance(self.palette, Sequence) or len(self.palette) != len(self.classes or self.palette)
        ):
            count = len(self.classes or ())
            raise ValueError(f'data.palette must have a colour per class, {count}, got {self.palette!r:.80}')

    @classmethod
    def parse(cls, value: Any) -> 'OwnData':
        """Reads the variable.

        Raises:
            ValueError: It is no dict, has a key that its type does not take, or as above.
        """
        example = "dict(type='coco', root='/my/data')"
        if not isinstance(value, Mapping) or not {'type', 'root'} <= {*value}:
            raise ValueError(
                f'data must be a dict with type and root, such as {example}, got {value!r:.80}; rename it if it is a '
                'variable of your own'
            )
        if value['type'] not in LAYOUTS:
            raise ValueError(f'data.type must be one of {list(LAYOUTS)}, got {value["type"]!r:.80}')
        known = ('type', 'root', 'classes', 'palette', *PARTS, *LAYOUTS[value['type']].options)
        unknown = [name for name in value if name not in known]
        if unknown:
            raise ValueError(f'data.{unknown[0]} has no effect: data of type {value["type"]!r} takes {list(known)}')
        return cls(**value)

    @property
    def layout(self) -> 'Layout':
        """How data of this type lie."""
        return LAYOUTS[self.type]

    def part(self, name: str) -> Any:
        """What is said of a part; of a test set that is not said the validation."""
        return self.val if name == 'test' and self.test is None else getattr(self, name)

    def find(self, name: str, sure: bool = True) -> Part:
        """Finds a part.

        Args:
            name: One of `PARTS`.
            sure: Whether its files must exist; otherwise the first place where they might be is taken.

        Raises:
            FileNotFoundError: `sure`, and the root or the part is not there; says what was looked for.
            ValueError: Places cannot be told from each other.
        """
        root = Path(self.root)
        if sure and not root.is_dir():
            what = 'is a file' if root.exists() else 'does not exist'
            raise FileNotFoundError(f'data.root {self.root} {what}: name the folder that has the images and labels')
        return self.layout.find(self, root, name, sure)

    def read_classes(self) -> tuple[str, ...]:
        """The names that the labels of the training part have, in the order in which they are numbered.

        Raises:
            FileNotFoundError: The part is not there.
            ValueError: Labels of this type have no names, or they cannot be read.
        """
        return self.layout.names(self.find('train'))


class Layout(NamedTuple):
    """A kind of data.

    Args:
        task: `DETECTION` or `SEGMENTATION`.
        options: Keys of the variable that it takes beside those of all.
        find: Finds a part, as `OwnData.find` says.
        names: Reads the names of the classes from the labels of a part.
    """

    task: str
    options: tuple[str, ...]
    find: Callable[[OwnData, Path, str, bool], Part]
    names: Callable[[Part], tuple[str, ...]]


def read_names(value: Any) -> tuple[str, ...]:
    """Reads the names of classes.

    Raises:
        ValueError: They are no sequence of distinct names.
    """
    names = list(value) if isinstance(value, list | tuple) else []
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ValueError(f'classes must be a sequence of distinct names, got {value!r:.80}')
    return tuple(names)


# ---------------------------------------------------------------- COCO


def _find_coco(data: OwnData, root: Path, name: str, sure: bool) -> Part:
    given = data.part(name)
    if isinstance(given, Mapping):
        _check_places(given, ('ann_file', 'img'), name)
        file, folders = given['ann_file'], [given['img']]
    elif given.endswith('.json'):
        file, folders = given, _image_folders(given, name)
    else:
        file = _first(root, [text.format(each) for each in _names_of(given) for text in _COCO], sure, name, 'file')
        folders = _image_folders(file, given)
    if sure and not (root / file).is_file():
        raise FileNotFoundError(f'data.{name}: there is no annotation file {root / file}')
    folder = _holding(root, folders, root / file)
    return Part(
        dict(type='CocoDataset', data_root=str(data.root), ann_file=file, data_prefix=dict(img=folder)), root / file
    )


def _image_folders(file: str, name: str) -> list[str]:
    """Folders in which the images of an annotation file may lie, relative to the root, the likeliest first."""
    stem = Path(file).stem.removeprefix('instances_')
    beside = Path(file).parent.as_posix()
    found = [each for base in dict.fromkeys((stem, name)) for each in (base, f'images/{base}', f'{base}/images')]
    return [f'{each}/' if each else '' for each in (*found, 'images', beside if beside != '.' else '', '')]


def _holding(root: Path, folders: list[str], file: Path) -> str:
    """The folder that holds the first image of an annotation file; without one the first that exists."""
    first = None
    if file.is_file():
        with file.open(encoding='utf-8', errors='replace') as stream:
            match = _FIRST_NAME.search(stream.read(_PEEKED))
        first = json.loads(f'"{match[1]}"') if match else None
    there = [folder for folder in folders if (root / folder).is_dir()]
    holding = [folder for folder in there if first and (root / folder / first).is_file()]
    return (holding or there or folders)[0]


def _coco_names(part: Part) -> tuple[str, ...]:
    names = tuple(str(each.get('name')) for each in read_coco(part.labels)['categories'])
    if not names or len(set(names)) < len(names):
        raise ValueError(f'{part.labels} must have categories of distinct names, got {list(names)!r:.100}')
    return names


# ---------------------------------------------------------------- VOC


def _find_voc(data: OwnData, root: Path, name: str, sure: bool) -> Part:
    given = data.part(name)
    if not isinstance(given, str):
        raise ValueError(f'data.{name} of VOC data must be a list such as train or lists/a.txt, got {given!r:.80}')
    years = [each.name for each in sorted(root.glob('*/')) if (each / 'Annotations').is_dir()] if root.is_dir() else []
    if (root / 'Annotations').is_dir() or (not years and not sure):
        inside = ''
    elif len(years) == 1:
        inside = f'{years[0]}/'
    elif years:
        raise ValueError(f'data.root {data.root} has {", ".join(years)}: name one, data.root={root / years[0]}')
    else:
        raise FileNotFoundError(
            f"data.root {data.root} is not of VOC's layout: it has no folder Annotations, nor has a folder in it"
        )
    file = (
        given
        if given.endswith('.txt')
        else _first(root, [f'{inside}ImageSets/Main/{each}.txt' for each in _names_of(given)], sure, name, 'list')
    )
    if sure and not (root / file).is_file():
        raise FileNotFoundError(f'data.{name}: there is no list {root / file}')
    # MMDetection's own reads images that end in .jpg
    others = any(Path(name).suffix != '.jpg' for name in walk_images(root / inside / 'JPEGImages'))
    kind = 'mmnas_ext.XMLImages' if others else 'XMLDataset'
    return Part(
        dict(type=kind, data_root=str(data.root), ann_file=file, data_prefix=dict(sub_data_root=inside)), root / file
    )


def voc_files(part: Part) -> list[tuple[Path, Path]]:
    """Image and annotations of every line of a part's list; the image may not exist."""
    folder = Path(part.dataset['data_root'], part.dataset['data_prefix']['sub_data_root'])
    lines = read_list(part.labels, stripped=False)
    images = {name.removesuffix(Path(name).suffix): name for name in walk_images(folder / 'JPEGImages')}
    return [
        (folder / 'JPEGImages' / images.get(line, f'{line}.jpg'), folder / f'Annotations/{line}.xml') for line in lines
    ]


def _voc_names(part: Part) -> tuple[str, ...]:
    files = [file for _, file in voc_files(part)]
    there = [file for file in files if file.is_file()]
    if files and not there:
        raise FileNotFoundError(
            f'{part.labels}: of the annotations that it lists 0 of {len(files)} exist, the first would be {files[0]}; '
            f'{VOC_LINE}'
        )
    names = {each.name for file in there for each in voc_objects(file)}
    if not names:
        raise ValueError(f'{part.labels}: no file that it lists has an object, so data.classes must name the classes')
    return tuple(sorted(names))


# ---------------------------------------------------------------- masks


def _find_masks(data: OwnData, root: Path, name: str, sure: bool) -> Part:
    given, file = data.part(name), ''
    if isinstance(given, Mapping):
        _check_places(given, ('img_path', 'seg_map_path'), name, ('ann_file',))
        images, masks, file = given['img_path'], given['seg_map_path'], given.get('ann_file', '')
    else:
        names = _names_of(given)
        folders = [
            (f'{a}/{each}', f'{b}/{each}') for each in names for a in _IMAGES for b in _MASKS if not _is_list(given)
        ]
        there = [pair for pair in folders if all((root / each).is_dir() for each in pair)]
        lists = [given] if _is_list(given) else [text.format(each) for each in names for text in _LISTS]
        listed = [each for each in lists if (root / each).is_file()]
        if there:
            images, masks = there[0]
        elif listed:
            file = listed[0]
            images = _first(root, _IMAGES, sure, name, 'folder')
            masks = _first(root, _MASKS, sure, name, 'folder')
        elif sure:
            asked = f'the list {given}' if _is_list(given) else f'images/{given} with masks/{given}, and {given}.txt'
            raise FileNotFoundError(
                f'data.{name}: {root} has no part {given!r}; looked for {asked} (also {", ".join(_IMAGES[1:])}; '
                f'{", ".join(_MASKS[1:])})'
            )
        else:
            images, masks = folders[0] if folders else ('images', 'masks')
    ending = data.img_suffix or _ending(root / images) or '.jpg'
    dataset: dict[str, Any] = dict(
        type='BaseSegDataset',
        data_root=str(data.root),
        ann_file=file,
        data_prefix=dict(img_path=images, seg_map_path=masks),
        img_suffix=ending,
        seg_map_suffix=data.seg_map_suffix or _mask_ending(root / images, root / masks, ending),
    )
    if data.reduce_zero_label or data.ignore_index != 255:
        dataset.update(reduce_zero_label=data.reduce_zero_label, ignore_index=data.ignore_index)
    return Part(dataset, root / masks)


def _find_cityscapes(data: OwnData, root: Path, name: str, sure: bool) -> Part:
    given = data.part(name)
    if not isinstance(given, str):
        raise ValueError(f'data.{name} of Cityscapes data must name a folder such as train, got {given!r:.80}')
    images, masks = f'leftImg8bit/{given}', f'gtFine/{given}'
    for folder in (images, masks):
        if sure and not (root / folder).is_dir():
            raise FileNotFoundError(f'data.{name}: there is no folder {root / folder}')
    own = data.classes is not None and not {*data.classes} <= {*CITYSCAPES}
    dataset = dict(
        type='BaseSegDataset' if own else 'CityscapesDataset',
        data_root=str(data.root),
        data_prefix=dict(img_path=images, seg_map_path=masks),
        img_suffix=data.img_suffix or '_leftImg8bit.png',
        seg_map_suffix=data.seg_map_suffix or '_gtFine_labelTrainIds.png',
    )
    return Part(dataset, root / masks)


def mask_files(part: Part) -> list[tuple[Path, Path]]:
    """Image and mask of every item of a part, as MMSegmentation names them."""
    dataset = part.dataset
    images, masks = (Path(dataset['data_root'], dataset['data_prefix'][key]) for key in ('img_path', 'seg_map_path'))
    ending, other = dataset['img_suffix'], dataset['seg_map_suffix']
    if dataset.get('ann_file'):
        stems = read_list(Path(dataset['data_root'], dataset['ann_file']), stripped=True)
    else:
        stems = sorted(name.removesuffix(ending) for name in _walk(images, (ending,)) if _is_listed(name, ending))
    return [(images / f'{stem}{ending}', masks / f'{stem}{other}') for stem in stems]


def left_out(part: Part) -> list[str]:
    """Images in a part's folder that MMSegmentation does not list: those of other endings, and hidden ones."""
    folder = Path(part.dataset['data_root'], part.dataset['data_prefix']['img_path'])
    return [name for name in _walk(folder, _SUFFIXES + _UNREAD) if not _is_listed(name, part.dataset['img_suffix'])]


def walk_images(folder: Path) -> Iterator[str]:
    """Yields the images in a folder and below, relative to it, whatever the case of their endings."""
    return _walk(folder, _SUFFIXES)


def _is_listed(name: str, ending: str) -> bool:
    return name.endswith(ending) and not Path(name).name.startswith('.')


def _walk(folder: Path, endings: tuple[str, ...]) -> Iterator[str]:
    lowered = tuple(each.lower() for each in endings)
    for place, below, files in os.walk(folder, followlinks=True):
        below.sort()
        for file in sorted(files):
            # beside each file macOS may write one of what it knows of it, ._ before its name
            if file.lower().endswith(lowered) and not file.startswith('._'):
                yield Path(place, file).relative_to(folder).as_posix()


def _no_names(part: Part) -> tuple[str, ...]:
    raise ValueError(
        "data.classes must name the classes, in the order of their numbers in the masks: classes=('ground', 'road'); "
        f'masks such as those in {part.labels} have numbers only'
    )


# ---------------------------------------------------------------- places


def _ending(folder: Path) -> str | None:
    """How the names of most images in a folder end."""
    found = [Path(name).suffix for name in islice(walk_images(folder), _PEEKED_FILES)]
    return max(sorted(set(found)), key=found.count, default=None)


def _mask_ending(images: Path, masks: Path, ending: str) -> str:
    """What follows the names of most images in those of their masks: ``.png``, or ``_mask.png``."""
    names: dict[Path, list[str]] = {}
    found = []
    for image in islice((name for name in walk_images(images) if _is_listed(name, ending)), _PEEKED_MASKS):
        place = masks / image.removesuffix(ending)
        folder, stem = place.parent, place.name
        if folder not in names:
            names[folder] = sorted(os.listdir(folder)) if folder.is_dir() else []
        rests = [name.removeprefix(stem) for name in names[folder] if name.startswith(stem)]
        found.extend(sorted((rest for rest in rests if rest[:1] in ('.', '_', '-')), key=len)[:1])
    return max(sorted(set(found)), key=found.count, default='.png')


def _is_list(given: str) -> bool:
    return given.endswith('.txt')


def _names_of(given: str) -> tuple[str, ...]:
    return _NAMES.get(given, (given,))


def _first(root: Path, places: Sequence[str], sure: bool, name: str, kind: str) -> str:
    """The first place that exists."""
    found = next((place for place in places if (root / place).exists()), None)
    if found is None and sure:
        what = {'file': 'annotation file', 'list': 'list of images', 'folder': 'folder'}[kind]
        raise FileNotFoundError(f'data.{name}: no {what} in {root}; looked for {", ".join(dict.fromkeys(places))}')
    return found or places[0]


def _check_places(given: Mapping[str, Any], keys: tuple[str, ...], name: str, more: tuple[str, ...] = ()) -> None:
    texts = all(isinstance(value, str) for value in given.values())
    if not texts or not {*keys} <= {*given} <= {*keys, *more}:
        raise ValueError(f'data.{name} must be a dict of the places {", ".join(keys + more)}, got {dict(given)!r:.80}')


_MASK_OPTIONS = ('ignore_index', 'reduce_zero_label', 'img_suffix', 'seg_map_suffix')
LAYOUTS = {
    'coco': Layout(DETECTION, (), _find_coco, _coco_names),
    'voc': Layout(DETECTION, ('metric',), _find_voc, _voc_names),
    'folder-masks': Layout(SEGMENTATION, _MASK_OPTIONS, _find_masks, _no_names),
    'cityscapes': Layout(SEGMENTATION, ('img_suffix', 'seg_map_suffix'), _find_cityscapes, lambda part: CITYSCAPES),
}
