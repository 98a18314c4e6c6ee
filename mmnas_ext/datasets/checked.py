"""Data that cannot be trained on is named by its file: images that cannot be read, labels that no class has."""

import os
from collections.abc import Callable
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image

_LONGEST = 300
_NAMES = ('img_path', 'seg_map_path', 'sample_idx')
# files of other endings (arrays, packed labels) may be sound although no image library reads them
_DECODED = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.ppm', '.pgm', '.tif', '.tiff', '.gif')


class DataError(ValueError):
    """An image or its labels cannot be used; the message is one sentence that names the file.

    Args:
        message: The sentence; or the traceback that PyTorch makes the message of an error in a worker, at whose end it
            stands.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rstrip().rsplit(f'{type(self).__name__}: ', 1)[-1])


class CheckedPipeline:
    """A pipeline whose errors name the file, and that refuses labels which no class has.

    Args:
        pipeline: What turns an annotation into a sample.
        classes: Number of classes; ``None`` leaves labels unchecked.
        ignore_index: Label of pixels that count for nothing.
        shift: What ``reduce_zero_label`` took from the labels: 1, or 0 without it.
    """

    def __init__(
        self,
        pipeline: Callable[[Any], Any],
        classes: int | None = None,
        ignore_index: int = 255,
        shift: int = 0,
    ) -> None:
        self.pipeline = pipeline
        self.classes = classes
        self.ignore_index = ignore_index
        self.shift = shift

    def __call__(self, info: Any) -> Any:
        """Runs the pipeline.

        Raises:
            DataError: It fails, or a label is out of range.
        """
        files = {key: info.get(key) for key in _NAMES} if isinstance(info, dict) else {}
        try:
            data = self.pipeline(info)
        except DataError:
            raise
        except Exception as error:
            raise DataError(_explain(files, error)) from error
        if self.classes is not None and isinstance(data, dict) and 'data_samples' in data:
            self._check_labels(data['data_samples'], files)
        return data

    def __getattr__(self, name: str) -> Any:
        """What a hook asks of the pipeline, as its list of transforms."""
        if name == 'pipeline':  # not set yet, where a copy is being made
            raise AttributeError(name)
        return getattr(self.pipeline, name)

    def _check_labels(self, sample: Any, files: dict[str, Any]) -> None:
        """Refuses labels of pixels, boxes or the image that lie outside of 0..classes - 1."""
        assert self.classes is not None
        segmented = getattr(getattr(sample, 'gt_sem_seg', None), 'data', None)
        if segmented is not None:
            found = _outside(segmented, self.classes, self.ignore_index)
            if found is not None:
                raw = f' ({found + self.shift} in the file: reduce_zero_label)' if self.shift else ''
                raise DataError(
                    f'{files.get("seg_map_path") or _name(files)} has label {found}{raw}, but num_classes is '
                    f'{self.classes}, labels 0..{self.classes - 1}: pixels that count for nothing must have '
                    f'{self.ignore_index} (ignore_index)'
                )
        boxes = getattr(getattr(sample, 'gt_instances', None), 'labels', None)
        for labels in (boxes, getattr(sample, 'gt_label', None)):
            found = None if labels is None else _outside(labels, self.classes, None)
            if found is not None:
                raise DataError(
                    f'the annotation of {_name(files)} has label {found}, but num_classes is {self.classes}, labels '
                    f'0..{self.classes - 1}'
                )


def unreadable(path: str) -> str | None:
    """Says why a local image file cannot be read, or returns ``None`` where nothing is wrong with it."""
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        return f'cannot be opened: {error.strerror or error}'
    if not content:
        return 'is empty (0 bytes)'
    if path.lower().endswith(_DECODED) and not _decodes(content):
        return 'cannot be read as an image: it is damaged or of another format'
    return None


def _decodes(content: bytes) -> bool:
    if cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) is not None:
        return True
    try:
        Image.open(BytesIO(content)).load()
    except (OSError, ValueError, SyntaxError):  # Pillow raises each of them for damaged files
        return False
    return True


def _explain(files: dict[str, Any], error: Exception) -> str:
    for key, kind in (('img_path', 'image'), ('seg_map_path', 'label map')):
        path = files.get(key)
        if not isinstance(path, str) or '://' in path:
            continue
        # a storage backend may know files that are not on this disk
        problem = unreadable(path) if os.path.exists(path) or isinstance(error, FileNotFoundError) else None
        if problem:
            return f'the {kind} {path} {problem}'
    said = ' '.join(f'{type(error).__name__}: {error}'.split())
    return f'the pipeline fails on {_name(files)}: {said}'[:_LONGEST]


def _name(files: dict[str, Any]) -> str:
    return str(files.get('img_path') or f'item {files.get("sample_idx")}')


def _outside(labels: Any, classes: int, ignored: int | None) -> int | None:
    """A label that is not in 0..classes - 1 and not ignored."""
    found = np.asarray(labels)
    if not found.size:
        return None
    wrong = (found >= classes) | (found < 0)
    if ignored is not None:
        wrong &= found != ignored
    return int(found[wrong][0]) if wrong.any() else None
