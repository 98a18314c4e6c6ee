"""Figures of what segmentors and detectors predict, beside the images and their ground truth."""

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Patch, Rectangle

from mmnas_ext.reports.canvas import DPI, Style, add_axes, add_legend, canvas, draw_pixels, save
from mmnas_ext.reports.palette import FAINT, INK, PAPER, RULE

IGNORED = 255
"""Label of the pixels that do not count, MMSegmentation's default."""

LEAST_SCORE = 0.3
"""Score from which a box is shown."""

# Four panels a row and four rows of photographs then stay below 400 kB.
_PANEL = 250
_MARGIN = 28
_GAP = 10
_TITLE = 76
_HEADING = 26
_CAPTION = 26
_LEGEND_ROW = 24
# Of an average letter, in em.
_LETTER = 0.58


class Box(NamedTuple):
    """A box in pixels of the image, the index of its class, and its score; a box of the ground truth has none."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: int
    score: float | None = None


class Row(NamedTuple):
    """One image and what is said about it.

    Args:
        name: Written beneath the image.
        image: (H, W, 3) uint8, RGB.
        truth: (H, W) integers, indices of classes or `IGNORED`.
        predictions: Per network, by its title, (H, W) integers, indices of classes.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    predictions: Mapping[str, np.ndarray]


def draw_predictions(
    images: Sequence[str | Path],
    truths: Sequence[str | Path],
    predictions: Mapping[str, Sequence[str | Path]],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    path: str | Path,
    *,
    mask_ignored: bool = False,
) -> Path:
    """Draws a row per image: the image, its ground truth, and what each network predicts, with its mIoU.

    Args:
        images: Files of the images.
        truths: Grey 8-bit PNG files of the same sizes, whose pixels are indices of classes or `IGNORED`.
        predictions: Such files per network, by its title; every pixel is an index of a class.
        classes: Names of the classes, in the order of their indices.
        palette: Red, green and blue, 0..255, of each class.
        path: File to write, and to return; its folder must exist.
        mask_ignored: Whether predictions are blanked where the ground truth is ignored.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Numbers of files, sizes, labels or colours do not go together.
    """
    counts = {'truths': len(truths), **{f'predictions {title!r}': len(files) for title, files in predictions.items()}}
    for what, count in counts.items():
        if count != len(images):
            raise ValueError(f'{what} must be one file per image, {len(images)}, got {count}')
    rows = []
    for index, (image, truth) in enumerate(zip(images, truths, strict=True)):
        labels = {title: _read(Path(files[index]), labels=True) for title, files in predictions.items()}
        rows.append(Row(Path(image).stem, _read(Path(image)), _read(Path(truth), labels=True), labels))
    return save(predictions_figure(rows, classes, palette, mask_ignored=mask_ignored), path)


def predictions_figure(
    rows: Sequence[Row], classes: Sequence[str], palette: Sequence[Sequence[int]], *, mask_ignored: bool = False
) -> Figure:
    """Shows what `draw_predictions` draws, and raises ValueError as that.

    Axes are labelled ``image.<row>``, ``truth.<row>`` and ``prediction.<row>.<title>``; what stands beneath a panel
    is its axes' x label. The legend names the classes that occur.
    """
    _check(rows, classes, palette)
    titles = list(rows[0].predictions)
    heights = [round(_PANEL * row.truth.shape[0] / row.truth.shape[1]) for row in rows]
    colours = _colours(palette)
    # what is seen of a prediction
    masked = [
        {t: np.where(row.truth == IGNORED, IGNORED, p) if mask_ignored else p for t, p in row.predictions.items()}
        for row in rows
    ]
    panes = [pane for row, maps in zip(rows, masked, strict=True) for pane in (row.truth, *maps.values())]
    seen = sorted({label for pane in panes for label in np.unique(pane).tolist()})
    names = {**dict(enumerate(classes)), IGNORED: 'ignored'}
    handles = [
        Patch(facecolor=tuple(colours[index] / 255), edgecolor=FAINT, linewidth=0.6, label=names[index])
        for index in seen
    ]
    width = 2 * _MARGIN + (2 + len(titles)) * (_PANEL + _GAP) - _GAP
    columns = max(1, (width - 2 * _MARGIN) // (60 + 8 * max(len(names[index]) for index in seen)))
    legend = 16 + _LEGEND_ROW * -(-len(handles) // columns)
    height = _TITLE + _HEADING + sum(heights) + _CAPTION * len(rows) + legend + 12
    note = "mIoU: that image's, in percent, over the classes that occur in it"
    figure = canvas('Predictions beside the ground truth', note, height, width, _MARGIN, beneath=True)
    lefts = [_MARGIN + column * (_PANEL + _GAP) for column in range(2 + len(titles))]
    for left, title in zip(lefts, ('image', 'ground truth', *titles), strict=True):
        style: Style = {'size': _fit(title, 12), 'weight': 'bold', 'va': 'center', 'parse_math': False}
        figure.text(left / width, 1 - (_TITLE + _HEADING / 2) / height, title, color=INK, gid='heading', **style)
    bottom = float(height - _TITLE - _HEADING)
    for index, (row, high, maps) in enumerate(zip(rows, heights, masked, strict=True)):
        bottom -= high
        panels = [(f'image.{index}', row.image, row.name), (f'truth.{index}', colours[row.truth], '')]
        for title, labels in row.predictions.items():
            score = mean_iou(row.truth, labels, len(classes))
            caption = 'nothing labelled' if isnan(score) else f'mIoU {100 * score:.1f}'
            panels.append((f'prediction.{index}.{title}', colours[maps[title]], caption))
        for left, (label, pixels, caption) in zip(lefts, panels, strict=True):
            axes = add_axes(figure, label, left, bottom, _PANEL, high)
            # colours between two labels' would be another class, or none
            draw_pixels(axes, pixels, 'antialiased' if pixels is row.image else 'nearest')
            style = {'size': _fit(caption, 10), 'loc': 'left', 'labelpad': 4, 'parse_math': False}
            axes.set_xlabel(caption, color=FAINT, **style)
        bottom -= _CAPTION
    add_legend(figure, handles, _MARGIN, bottom - 8, columns, handlelength=1.3, handleheight=1.1)
    return figure


def draw_boxes(
    images: Sequence[str | Path],
    truths: Sequence[Sequence[Box]],
    predictions: Mapping[str, Sequence[Sequence[Box]]],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    path: str | Path,
) -> Path:
    """Draws a row per image: the boxes of its ground truth, and those that each network finds, with their scores.

    Args:
        images: Files of the images.
        truths: Per image its boxes.
        predictions: The same per network, by its title; those of a score below `LEAST_SCORE` are left out.
        classes: Names of the classes, in the order of their indices.
        palette: Red, green and blue, 0..255, of each class.
        path: File to write, and to return; its folder must exist.

    Raises:
        FileNotFoundError: An image is missing.
        ValueError: Numbers of images and of rows of boxes differ.
    """
    said = {'ground truth': truths, **predictions}
    for what, rows in said.items():
        if len(rows) != len(images):
            raise ValueError(f'{what} must have boxes for each image, {len(images)}, got {len(rows)}')
    pixels = [_read(Path(image)) for image in images]
    heights = [round(_PANEL * each.shape[0] / each.shape[1]) for each in pixels]
    width = 2 * _MARGIN + len(said) * (_PANEL + _GAP) - _GAP
    height = _TITLE + _HEADING + sum(heights) + _CAPTION * len(images)
    note = f'boxes of a score of at least {LEAST_SCORE:g}'
    figure = canvas('Predictions beside the ground truth', note, height, width, _MARGIN, beneath=True)
    for column, (title, rows) in enumerate(said.items()):
        left, bottom = _MARGIN + column * (_PANEL + _GAP), float(height - _TITLE - _HEADING)
        style: Style = {'size': _fit(title, 12), 'weight': 'bold', 'va': 'center', 'parse_math': False}
        figure.text(left / width, 1 - (_TITLE + _HEADING / 2) / height, title, color=INK, gid='heading', **style)
        for index, (boxes, high) in enumerate(zip(rows, heights, strict=True)):
            bottom -= high
            axes = add_axes(figure, f'boxes.{index}.{title}', left, bottom, _PANEL, high)
            draw_pixels(axes, pixels[index], 'antialiased')
            _add_boxes(axes, boxes, classes, palette)
            bottom -= _CAPTION
    return save(figure, path)


def _add_boxes(axes: Axes, boxes: Sequence[Box], classes: Sequence[str], palette: Sequence[Sequence[int]]) -> None:
    shown = [box for box in boxes if box.score is None or box.score >= LEAST_SCORE]
    for box in sorted(shown, key=lambda box: box.score or 1):
        colour = tuple(part / 255 for part in palette[box.label])
        place = (box.x0, box.y0), box.x1 - box.x0, box.y1 - box.y0
        axes.add_patch(Rectangle(*place, fill=False, edgecolor=colour, linewidth=1.6, gid='box'))
        text = classes[box.label] if box.score is None else f'{classes[box.label]} {box.score:.2f}'
        style: Style = {'size': 6.5, 'va': 'bottom', 'parse_math': False, 'clip_on': True}
        axes.text(
            box.x0, box.y0, text, color=INK, bbox=dict(facecolor=PAPER, edgecolor='none', alpha=0.7, pad=0.5), **style
        )


def mean_iou(truth: np.ndarray, prediction: np.ndarray, classes: int) -> float:
    """Mean intersection over union of one image, over the classes that occur in it.

    A class occurs if the truth or the prediction has it on a pixel that is not ignored, so a class that is predicted
    and not there counts 0. This is what MMSegmentation's ``IoUMetric`` gives for a data set of this one image.

    Args:
        truth: (H, W) integers, indices of classes or `IGNORED`.
        prediction: (H, W) integers, indices of classes.
        classes: How many there are.

    Returns:
        0..1; NaN where all pixels are ignored.
    """
    counted = truth != IGNORED
    pairs = truth[counted].astype(np.int64) * classes + prediction[counted]
    confusion = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    shared = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - shared
    occurs = union > 0
    return float((shared[occurs] / union[occurs]).mean()) if occurs.any() else float('nan')


def _read(path: Path, labels: bool = False) -> np.ndarray:
    """(H, W, 3) uint8, RGB, of any file that matplotlib reads; of labels the (H, W) of a grey one."""
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist')
    pixels = imread(path)
    # Matplotlib gives a PNG's bytes as fractions of 255.
    pixels = pixels if pixels.dtype == np.uint8 else np.round(255 * pixels).astype(np.uint8)
    if not labels:
        return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
    if pixels.ndim != 2:
        raise ValueError(f'{path} must be a grey image whose pixels are labels, got {pixels.shape[2]} channels')
    return pixels


def _check(rows: Sequence[Row], classes: Sequence[str], palette: Sequence[Sequence[int]]) -> None:
    if not rows:
        raise ValueError('rows must hold at least one image, got none')
    if len(palette) != len(classes) or not 1 <= len(classes) <= IGNORED:
        counts = f'{len(classes)} and {len(palette)}'
        raise ValueError(f'classes must be 1..{IGNORED} names and palette a colour for each, got {counts}')
    wanted = list(rows[0].predictions)
    for row in rows:
        if list(row.predictions) != wanted:
            raise ValueError(f'{row.name}: predictions must be those of {wanted}, got {list(row.predictions)}')
        for what, labels in {'truth': row.truth, **row.predictions}.items():
            size = row.image.shape[:2]
            if labels.shape != size:
                raise ValueError(f'{row.name}: {what} must be as large as the image, {size}, got {labels.shape}')
            counted = labels[labels != IGNORED] if what == 'truth' else labels
            if counted.size and counted.max() >= len(classes):
                raise ValueError(f'{row.name}: {what} must have labels below {len(classes)}, got {counted.max()}')


def _colours(palette: Sequence[Sequence[int]]) -> np.ndarray:
    """(256, 3) uint8: a label's colour; what is no class has a light grey that no usual palette uses."""
    colours = np.empty((256, 3), dtype=np.uint8)
    colours[:] = [int(RULE[i : i + 2], 16) for i in (1, 3, 5)]
    colours[: len(palette)] = palette
    return colours


def _fit(text: str, size: float) -> float:
    """The font size at which `text` is no wider than a panel, `size` at most."""
    return min(size, _PANEL * 72 / DPI / (_LETTER * max(1, len(text))))
