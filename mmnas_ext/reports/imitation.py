"""Figure of a teacher's features beside the student's imitations of them."""

import math
import re
import zlib
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from mmnas_ext.reports import canvas as c
from mmnas_ext.reports.canvas import LEFT, RIGHT, TITLE, WIDTH
from mmnas_ext.reports.palette import ACCENT, FAINT, INK, PAPER, kernel_colour
from mmnas_ext.search.fields import find_file

_GAP = 12
_BETWEEN = 22
_HEADING = 66
# A portrait's panels would be higher than the screen otherwise, and a heading must fit above each.
_HIGH = 190
_PITCH = 96
_BAR = 62
# Share of positions whose values the colours tell apart; a few outliers would grey out all others.
_REACH = 99.0
# the members of a features file that are read, and bytes that they may take; a large rating's take some 100 MB
_MEMBERS, _MOST = re.compile(r'image|(teacher|student)_[0-9]{1,4}'), 2**30
_COLOURS = LinearSegmentedColormap.from_list('component', [kernel_colour(3), PAPER, ACCENT])


class Component(NamedTuple):
    """A block's features along the teacher's first principal component over channels.

    Args:
        teacher: (N, H, W), zero on average.
        student: (N, H, W), along the same direction, from the same origin.
        share: Of the teacher's variance, what the component holds, 0..1.
        error: Mean absolute error over all channels relative to the teacher's standard deviation.
    """

    teacher: np.ndarray
    student: np.ndarray
    share: float
    error: float


def draw_features(npz: str | Path, out: str | Path, count: int = 3) -> Path:
    """Draws `features_figure` of the first `count` images of a file; returns its file; raises as `read_features`."""
    images, components = read_features(npz)
    return c.save(features_figure(images[:count], components), out)


def read_features(npz: str | Path) -> tuple[np.ndarray, dict[int, Component]]:
    """Reads the images, and by block its features along their first component.

    The file holds ``image`` (N, H, W, 3) uint8, and per block k ``teacher_k`` and ``student_k`` (N, C, Hk, Wk).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not of that form.
    """
    path = find_file(npz, 'features', 'the rating of a distillation')
    arrays = _read_arrays(path)
    image = arrays.get('image')
    if image is None or image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] != 3 or not len(image):
        got = 'none' if image is None else f'{image.shape} {image.dtype}'
        raise ValueError(f'{path}: image must be (N, H, W, 3) uint8 of at least one image, got {got}')
    blocks = sorted(int(name[8:]) for name in arrays if name.startswith('teacher_') and name[8:].isdigit())
    if not blocks:
        raise ValueError(f'{path}: there must be a teacher_<block>, got {", ".join(sorted(arrays))}')
    components = {}
    for block in blocks:
        teacher, student = arrays[f'teacher_{block}'], arrays.get(f'student_{block}')
        if student is None or student.shape != teacher.shape or teacher.ndim != 4 or len(teacher) != len(image):
            got = 'none' if student is None else str(student.shape)
            raise ValueError(
                f'{path}: teacher_{block} and student_{block} must both be (N, C, H, W) of {len(image)} images, '
                f'got {teacher.shape} and {got}'
            )
        components[block] = first_component(teacher, student)
    return image, components


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a features file by name, and no other member of it.

    Raises:
        ValueError: It is no archive of arrays, or says of them that they are larger than `_MOST` bytes together.
    """
    try:
        with ZipFile(path) as archive:
            held = {entry.filename.removesuffix('.npy'): entry for entry in archive.infolist()}
            wanted = {name: entry for name, entry in held.items() if _MEMBERS.fullmatch(name)}
            size = sum(entry.file_size for entry in wanted.values())
            if size > _MOST:
                raise ValueError(f'its arrays would take {size} bytes, and {_MOST} are read')
            for name, entry in wanted.items():
                _check_header(archive, entry, name)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in wanted}
    except (BadZipFile, ValueError, EOFError, TypeError, RuntimeError, zlib.error) as error:
        raise ValueError(f'{path} is not an .npz file of arrays: {error}') from error


def _check_header(archive: ZipFile, entry: ZipInfo, name: str) -> None:
    """Raises ValueError if an array says that it is larger than its member of the archive."""
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f'{name} holds objects')
    # Python's whole numbers, which do not overflow
    if math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError(f'{name} says that it is {shape} {dtype}, and is {entry.file_size} bytes long')


def first_component(teacher: np.ndarray, student: np.ndarray) -> Component:
    """Projects features (N, C, H, W) on the teacher's first principal component over channels."""
    channels = teacher.shape[1]
    rows = teacher.transpose(0, 2, 3, 1).reshape(-1, channels).astype(np.float64)
    origin = rows.mean(axis=0)
    spreads, directions = np.linalg.eigh((rows - origin).T @ (rows - origin) / len(rows))
    direction = directions[:, -1]
    # an eigenvector's sign is arbitrary: more activation is to be more
    direction = direction if direction.sum() >= 0 else -direction

    def along(features: np.ndarray) -> np.ndarray:
        projected: np.ndarray = np.tensordot(features.astype(np.float64), direction, (1, 0)) - origin @ direction
        return projected

    # a feature that is the same everywhere has no spread to relate to
    error = np.abs(student.astype(np.float64) - teacher).mean() / max(float(teacher.std(dtype=np.float64)), 1e-12)
    total = max(float(spreads.sum()), 1e-12)
    return Component(along(teacher), along(student), float(spreads[-1]) / total, float(error))


def features_figure(images: np.ndarray, components: dict[int, Component]) -> Figure:
    """Shows images and, per block, the teacher's feature above the student's imitation, in the same colours.

    Axes are labelled ``image.<n>``, ``teacher.<n>.<block>`` and ``student.<n>.<block>``.
    """
    columns = 1 + len(components)
    aspect = images.shape[1] / images.shape[2]
    width = min((WIDTH - LEFT - RIGHT - _GAP * (columns - 1)) / columns, _HIGH / aspect)
    high = width * aspect
    row = 2 * high + 5 + _BETWEEN
    height = TITLE + _HEADING + row * len(images) + _BAR
    note = "the teacher's first principal component over channels; the student's feature along the same one"
    figure = c.canvas('Features of teacher and student', note, height)
    lefts = [LEFT + column * (max(width, _PITCH) + _GAP) for column in range(columns)]
    y = 1 - (TITLE + 8) / height
    heading: c.Style = {'size': 12, 'weight': 'bold', 'color': INK, 'va': 'center'}
    small: c.Style = {'size': 10, 'color': FAINT}
    figure.text(lefts[0] / WIDTH, y, 'image', **heading)
    for left, (block, component) in zip(lefts[1:], components.items(), strict=True):
        figure.text(left / WIDTH, y, f'block {block}', **heading)
        words = f'error {component.error:.2f}\n{100 * component.share:.0f} % of variance'
        figure.text(left / WIDTH, y - 12 / height, words, va='top', gid=f'note.{block}', **small)
    for n, image in enumerate(images):
        top = height - TITLE - _HEADING - n * row
        # twice as high as a feature: the image stands in the middle of the pair
        axes = c.add_axes(figure, f'image.{n}', lefts[0], top - high * 1.5 - 2.5, width, high)
        c.draw_pixels(axes, image, 'antialiased')
        for line, name in enumerate(('teacher', 'student')):
            bottom = top - (line + 1) * high - line * 5
            for left, (block, component) in zip(lefts[1:], components.items(), strict=True):
                reach = max(float(np.percentile(np.abs(component.teacher), _REACH)), 1e-12)
                axes = c.add_axes(figure, f'{name}.{n}.{block}', left, bottom, width, high)
                # the positions of a feature are what is compared: nothing is made up between them
                c.draw_pixels(axes, getattr(component, name)[n], vmin=-reach, vmax=reach, cmap=_COLOURS)
            place = ((lefts[-1] + width + 12) / WIDTH, (bottom + high / 2) / height)
            figure.text(*place, name, rotation=270, ha='center', va='center', **small)
    c.draw_pixels(c.add_axes(figure, 'colours', LEFT, 36, 150, 12), np.linspace(-1, 1, 256)[None], cmap=_COLOURS)
    above = f"below to above the teacher's mean; one scale per block, up to its {_REACH:g}th percentile"
    figure.text((LEFT + 162) / WIDTH, 42 / height, above, va='center', **small)
    beneath = "error: mean absolute error over the teacher's standard deviation, all channels; "
    beneath += "of variance: what the component holds of the teacher's"
    figure.text(LEFT / WIDTH, 18 / height, beneath, va='center', **small)
    return figure
