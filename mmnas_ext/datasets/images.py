"""Images without labels, from folders and lists of any layout: what a distillation learns from."""

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
    """All images below some folders, or named by lists; annotations are not looked at.

    ImageNet's class folders, ``leftImg8bit/train`` of Cityscapes, COCO's flat folders and any other tree are read
    alike. A source that ends in ``.txt`` lists an image per line (of ImageNet's lists the first word), one in
    ``.json`` is a COCO file, whose ``images`` are taken from `data_prefix`; any other is a folder.

    Args:
        sources: Folders and lists, relative to `data_root`.
        data_root: Where the sources are.
        data_prefix: Where the images of lists are, relative to `data_root`.
        held_out: Share of the images that are kept from training; which they are follows from their names alone, so
            that it stays the same when images are added.
        part: ``'train'``, ``'held_out'``, or ``'all'``.
        suffixes: Endings of images in folders, lower case.
        kwargs: MMEngine's ``pipeline``, ``indices``, ``serialize_data``, …

    Raises:
        ValueError: An argument is out of range, or no image is left.
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
            raise ValueError(f'held_out must lie in [0, 1), got {held_out!r}')
        if part == 'held_out' and not held_out:
            raise ValueError("part='held_out' needs held_out=…, the share of the images that are kept, got 0")
        self.sources = [sources] if isinstance(sources, str) else list(sources)
        self.held_out, self.part = held_out, part
        self.suffixes = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)
        self.images_root = Path(data_root, data_prefix)
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One ``dict(img_path=…)`` per image, each image once, sorted by path within a source."""
        found: dict[str, str] = {}
        for source in self.sources:
            for path, name in self._read(Path(self.data_root or '', source)):
                found.setdefault(path, name)
        kept = [{'img_path': path} for path, name in found.items() if self._belongs(name)]
        if not kept:
            raise ValueError(
                f'sources {self.sources} in {self.data_root or "."} have {len(found)} images, none of them in part '
                f'{self.part!r} (suffixes {self.suffixes})'
            )
        return kept

    def _read(self, source: Path) -> Iterator[tuple[str, str]]:
        """Paths of a source's images, and the names by which they are told apart."""
        if source.suffix in ('.txt', '.json') and source.is_file():
            names = _listed(source)
            if names and not (self.images_root / names[0]).is_file():
                raise FileNotFoundError(
                    f'{source} names {names[0]}, which is not in {self.images_root}: set data_prefix'
                )
            yield from ((str(self.images_root / name), name) for name in names)
            return
        if not source.is_dir():
            raise FileNotFoundError(
                f'sources must be folders, .txt lists or COCO .json files: {source} does not exist or is none of these'
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


def _listed(file: Path) -> list[str]:
    if file.suffix == '.txt':
        return [line.split()[0] for line in file.read_text(encoding='utf-8').splitlines() if line.strip()]
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{file} is no COCO file: {error}') from None
    if not isinstance(content, dict) or not isinstance(content.get('images'), list):
        raise ValueError(f'{file} is no COCO file: it has no list of images')
    for image in content['images']:
        if not isinstance(image, dict) or not isinstance(image.get('file_name'), str):
            raise ValueError(f'{file} is no COCO file: an image has no file_name: {image}')
    return [image['file_name'] for image in content['images']]


@TRANSFORMS.register_module()
class PackImages:
    """The end of a pipeline: ``dict(inputs=…)``, an image as a ``(3, H, W)`` tensor of its own type."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Takes ``results['img']`` ``(H, W, 3)``.

        Raises:
            ValueError: The image has no three channels.
        """
        image = results['img']
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'an image must be (H, W, 3), got {image.shape} from {results.get("img_path")}')
        return {'inputs': torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))}
