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

from mmnas_ext.registry import DATASETS, TRANSFORMS

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff')
PARTS = ('all', 'train', 'held_out')
_HASHES = 2**32


@DATASETS.register_module()
class UnlabelledImages(BaseDataset):
    """A dataset of all images in the given folders and lists; annotations are ignored.

    Any folder tree can be read: ImageNet's class folders, ``leftImg8bit/train`` of Cityscapes, COCO's flat folders.
    A source that ends in ``.txt`` has one image per line, in the line's first word (as ImageNet's lists have). A
    source that ends in ``.json`` is a COCO annotation file. The images of both are below `data_prefix`. Any other
    source is a folder.

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
        FileNotFoundError: A source, or the first image of a list, does not exist.
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

    def _read(self, source: Path) -> Iterator[tuple[str, str]]:
        """Yields the paths of a source's images, each with the name that decides about its part."""
        if source.suffix in ('.txt', '.json') and source.is_file():
            names = _read_list(source)
            if names and not (self.images_root / names[0]).is_file():
                raise FileNotFoundError(
                    f'{source} lists {names[0]}, which does not exist in {self.images_root}: set data_prefix'
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


def _read_list(file: Path) -> list[str]:
    """Reads the names of the images from a ``.txt`` list or a COCO file."""
    if file.suffix == '.txt':
        return [line.split()[0] for line in file.read_text(encoding='utf-8').splitlines() if line.strip()]
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{file} is not a COCO file: the text is not JSON: {error}') from None
    if not isinstance(content, dict) or not isinstance(content.get('images'), list):
        raise ValueError(f"{file} is not a COCO file: it must have a list 'images'")
    for image in content['images']:
        if not isinstance(image, dict) or not isinstance(image.get('file_name'), str):
            raise ValueError(f"{file} is not a COCO file: an image must have a 'file_name', got {str(image)[:100]}")
    return [image['file_name'] for image in content['images']]


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
