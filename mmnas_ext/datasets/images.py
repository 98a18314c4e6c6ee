"""Images without labels, from folders and lists of any layout: the training data of a distillation."""

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from mmnas_ext.datasets.checked import CheckedPipeline
from mmnas_ext.datasets.inspect import Listing, missing
from mmnas_ext.registry import DATASETS, TRANSFORMS

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff')
PARTS = ('all', 'train', 'held_out')
_HASHES = 2**32


@DATASETS.register_module()
class UnlabelledImages(BaseDataset):
    """A dataset of all images in the given folders and lists; annotations are ignored.

    Any folder tree can be read: ImageNet's class folders, ``leftImg8bit/train`` of Cityscapes, COCO's flat folders.
    A source that ends in ``.txt`` has one image per line, and what may follow it after a space is ignored: the label in
    ImageNet's lists, or a label map's path. Names may have spaces themselves: the longest beginning of the line that is
    a file is the image. A source that ends in ``.json`` is a COCO annotation file. The images of both are below
    `data_prefix`. Any other source is a folder.

    Args:
        sources: Folders and lists, relative to `data_root`.
        data_root: Folder of the sources.
        data_prefix: Folder of the images that lists name, relative to `data_root`.
        held_out: Share of the images that are held out from training. An image's name alone decides whether it is
            held out, so the decision stays the same when images are added.
        part: ``'train'``, ``'held_out'``, or ``'all'``.
        suffixes: File endings of images in folders, lower case.
        kwargs: Arguments of MMEngine's ``BaseDataset``: ``pipeline``, ``indices``, ``serialize_data``, …

    Raises:
        ValueError: An argument is out of range, a COCO file is malformed, or the part has no images.
        FileNotFoundError: A source, or an image of a list, does not exist: how many, and the first, each with its line.
    """

    def __init__(
        self,
        sources: str | Sequence[str],
        data_root: str = '',
        data_prefix: str = '',
        held_out: float = 0.0,
        part: str = 'all',
        suffixes: str | Sequence[str] = SUFFIXES,
        **kwargs: Any,
    ) -> None:
        if part not in PARTS:
            raise ValueError(f'part must be one of {PARTS}, got {part!r}')
        if not 0 <= held_out < 1:
            raise ValueError(f'held_out must be in [0, 1), got {held_out!r}')
        if part == 'held_out' and not held_out:
            raise ValueError("held_out must be greater than 0 where part='held_out', got 0")
        self.sources = [sources] if isinstance(sources, str) else list(sources)
        self.held_out, self.part = held_out, part
        self.suffixes = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)
        self.images_root = Path(data_root, data_prefix)
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Returns one ``dict(img_path=…)`` per image: each image once, a folder's sorted by path, a list's in order."""
        found: dict[str, str] = {}
        for source in self.sources:
            for path, name in self._read(Path(self.data_root or '', source)):
                found.setdefault(path, name)
        kept = [{'img_path': path} for path, name in found.items() if self._belongs(name)]
        if not kept:
            raise ValueError(
                f'sources {self.sources} in {self.data_root or "."} must have images of part {self.part!r}, got '
                f'{len(found)} images and none of that part (suffixes {self.suffixes})'
            )
        return kept

    def prepare_data(self, idx: int) -> Any:
        """Runs the pipeline on an image.

        Raises:
            DataError: The image cannot be read; the message names the file.
        """
        return CheckedPipeline(self.pipeline)(self.get_data_info(idx))

    def _read(self, source: Path) -> Iterator[tuple[str, str]]:
        """Yields the paths of a source's images, each with the name that decides about its part."""
        if source.suffix in ('.txt', '.json') and source.is_file():
            names, lost = _read_list(source, self.images_root)
            if lost:
                raise FileNotFoundError(
                    f'{source}: {missing(lost, len(names) + len(lost))}; they are looked for in {self.images_root}: '
                    'set data_prefix'
                )
            yield from ((str(self.images_root / name), name) for name in names)
            return
        if not source.is_dir():
            raise FileNotFoundError(
                f'sources must be folders, .txt lists or COCO .json files, got {source}, which does not exist or is '
                'another file'
            )
        for folder, below, files in os.walk(source, followlinks=True):
            below.sort()
            for file in sorted(files):
                if file.lower().endswith(self.suffixes):
                    path = Path(folder, file)
                    yield str(path), path.relative_to(source).as_posix()

    def _belongs(self, name: str) -> bool:
        if self.part == 'all':
            return True
        held = zlib.crc32(name.encode()) < self.held_out * _HASHES
        return held == (self.part == 'held_out')


def _read_list(source: Path, root: Path) -> tuple[list[str], list[str]]:
    """Reads the names of the images from a ``.txt`` list or a COCO file.

    Returns:
        The names of those that exist in `root`, and what is known of the others.
    """
    listing = Listing()

    def exists(name: str) -> bool:
        return listing.holds(os.path.join(root, name))

    names: list[str] = []
    lost: list[str] = []
    if source.suffix == '.txt':
        # not splitlines(): some characters that it takes for the end of a line may be in a name
        for number, line in enumerate(_text(source).split('\n'), 1):
            line = line.removesuffix('\r')
            if line.strip():
                name = next((name for name in _beginnings(line) if exists(name)), None)
                if name is None:
                    lost.append(f'{_without_label(line.strip())} (line {number})')
                else:
                    names.append(name)
        return names, lost
    for name in _read_coco(source):
        (names if exists(name) else lost).append(name)
    return names, lost


def _beginnings(line: str) -> Iterator[str]:
    """Yields what a line may name, the longest first: all of it, then without its last words."""
    for text in dict.fromkeys((line, line.lstrip())):
        yield text
        rest = text.rstrip()
        while rest:
            yield rest
            rest = rest[: len(rest) - len(rest.split()[-1])].rstrip()


def _without_label(line: str) -> str:
    words = line.rsplit(maxsplit=1)
    return words[0] if len(words) == 2 and words[1].lstrip('+-').isdecimal() else line


def _read_coco(file: Path) -> list[str]:
    try:
        content = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{file} is not a COCO file: the text is not JSON: {error}') from None
    if not isinstance(content, dict) or not isinstance(content.get('images'), list):
        raise ValueError(f"{file} is not a COCO file: it must have a list 'images'")
    for image in content['images']:
        if not isinstance(image, dict) or not isinstance(image.get('file_name'), str):
            raise ValueError(f"{file} is not a COCO file: an image must have a 'file_name', got {str(image)[:100]}")
    return [image['file_name'] for image in content['images']]


def _text(file: Path) -> str:
    """Reads a text in UTF-8, with or without the mark that some editors begin it with."""
    content = file.read_bytes()
    try:
        return content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b'\n') + 1
        raise ValueError(f'{file}, line {line}: the text must be UTF-8, got byte {content[error.start]:#04x}') from None


@TRANSFORMS.register_module()
class PackImages:
    """The last transform of a pipeline: gives ``dict(inputs=…)``, the image as a ``(3, H, W)`` tensor of its dtype."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Packs ``results['img']`` ``(H, W, 3)``.

        Raises:
            ValueError: The image does not have three channels.
        """
        image = results['img']
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'an image must be (H, W, 3), got {image.shape} from {results.get("img_path")}')
        return {'inputs': torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))}
