"""Figure of what segmentors predict, beside the images and their ground truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Patch

from mmnas_ext.reports.palette import FAINT, INK, PAPER, RULE

IGNORED = 255
"""Label of the pixels that do not count, MMSegmentation's default."""

_DPI = 100
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


@dataclass(frozen=True)
class Row:
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
        path: File to write; its folder must exist.
        mask_ignored: Whether predictions are blanked where the ground truth is ignored.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Numbers of files, sizes, labels or colours do not go together.
    """
    counts = {'truths': len(truths), **{f'predictions {title!r}': len(files) for title, files in predictions.items()}}
    for what, count in counts.items():
        if count != len(images):
            raise ValueError(f'{what} must be one file per image, {len(images)}, got {count}')
    rows = [
        Row(
            Path(image).stem,
            _read_image(Path(image)),
            _read_labels(Path(truth)),
            {title: _read_labels(Path(files[index])) for title, files in predictions.items()},
        )
        for index, (image, truth) in enumerate(zip(images, truths, strict=True))
    ]
    target = Path(path)
    predictions_figure(rows, classes, palette, mask_ignored=mask_ignored).savefig(target)
    return target


def predictions_figure(
    rows: Sequence[Row], classes: Sequence[str], palette: Sequence[Sequence[int]], *, mask_ignored: bool = False
) -> Figure:
    """The figure of `draw_predictions`, not yet saved.

    Axes are labelled ``image.<row>``, ``truth.<row>`` and ``prediction.<row>.<title>``; what stands beneath a panel
    is its axes' x label. The legend names the classes that occur.

    Raises:
        ValueError: There are no rows, or sizes, titles, labels or colours do not go together.
    """
    _check(rows, classes, palette)
    titles = list(rows[0].predictions)
    heights = [round(_PANEL * row.truth.shape[0] / row.truth.shape[1]) for row in rows]
    handles = _legend(rows, classes, palette, mask_ignored)
    width = 2 * _MARGIN + (2 + len(titles)) * (_PANEL + _GAP) - _GAP
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, (width - 2 * _MARGIN) // (60 + 8 * longest))
    legend = 16 + _LEGEND_ROW * -(-len(handles) // columns)
    height = _TITLE + _HEADING + sum(heights) + _CAPTION * len(rows) + legend + 12
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    _draw_title(figure, titles, width, height)
    colours = _colours(palette)
    top = float(height - _TITLE - _HEADING)
    for index, (row, high) in enumerate(zip(rows, heights, strict=True)):
        mask = row.truth == IGNORED
        panels = [(f'image.{index}', row.image, row.name), (f'truth.{index}', colours[row.truth], '')]
        for title, labels in row.predictions.items():
            shown = np.where(mask, IGNORED, labels) if mask_ignored else labels
            panels.append((f'prediction.{index}.{title}', colours[shown], _score(row.truth, labels, len(classes))))
        for column, (label, pixels, caption) in enumerate(panels):
            left = _MARGIN + column * (_PANEL + _GAP)
            box = (left / width, (top - high) / height, _PANEL / width, high / height)
            _draw_panel(figure.add_axes(box, label=label), pixels, caption, smooth=column == 0)
        top -= high + _CAPTION
    figure.legend(
        handles=handles,
        loc='upper left',
        bbox_to_anchor=(_MARGIN / width, (top - 8) / height),
        ncols=columns,
        fontsize=11,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.3,
        handleheight=1.1,
        labelcolor=INK,
    )
    return figure


def mean_iou(truth: np.ndarray, prediction: np.ndarray, classes: int) -> float:
    """Mean intersection over union of one image, over the classes that occur in it.

    A class occurs if the truth or the prediction has it on a pixel that is not ignored, so a class that is predicted
    and not there counts 0. This is what MMSegmentation's ``IoUMetric`` gives for a data set of this one image.

    Args:
        truth: (H, W) integers, indices of classes or `IGNORED`.
        prediction: (H, W) integers, indices of classes.
        classes: How many there are.

    Returns:
        0..1; not a number where all pixels are ignored.
    """
    counted = truth != IGNORED
    pairs = truth[counted].astype(np.int64) * classes + prediction[counted]
    confusion = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    shared = np.diag(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - shared
    occurs = union > 0
    return float((shared[occurs] / union[occurs]).mean()) if occurs.any() else float('nan')


def _read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8, RGB, of any file that matplotlib reads; grey is repeated, transparency dropped."""
    pixels = _read(path)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]


def _read_labels(path: Path) -> np.ndarray:
    pixels = _read(path)
    if pixels.ndim != 2:
        raise ValueError(f'{path} must be a grey image whose pixels are labels, got {pixels.shape[2]} channels')
    return pixels


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist')
    pixels = imread(path)
    # Matplotlib gives a PNG's bytes as fractions of 255.
    return pixels if pixels.dtype == np.uint8 else np.round(255 * pixels).astype(np.uint8)


def _check(rows: Sequence[Row], classes: Sequence[str], palette: Sequence[Sequence[int]]) -> None:
    if not rows:
        raise ValueError('rows must hold at least one image, got none')
    if len(palette) != len(classes) or not 1 <= len(classes) <= IGNORED:
        raise ValueError(
            f'classes must be 1..{IGNORED} names and palette a colour for each, got {len(classes)} and {len(palette)}'
        )
    for row in rows:
        if list(row.predictions) != list(rows[0].predictions):
            raise ValueError(
                f'{row.name}: predictions must be those of {list(rows[0].predictions)}, got {list(row.predictions)}'
            )
        for what, labels in {'truth': row.truth, **row.predictions}.items():
            if labels.shape != row.image.shape[:2]:
                raise ValueError(
                    f'{row.name}: {what} must be as large as the image, {row.image.shape[:2]}, got {labels.shape}'
                )
            counted = labels[labels != IGNORED] if what == 'truth' else labels
            if counted.size and counted.max() >= len(classes):
                raise ValueError(f'{row.name}: {what} must have labels below {len(classes)}, got {counted.max()}')


def _legend(
    rows: Sequence[Row], classes: Sequence[str], palette: Sequence[Sequence[int]], mask_ignored: bool
) -> list[Patch]:
    """A patch per class that is seen in a panel, and one for ignored pixels if there are any."""
    seen: set[int] = set()
    for row in rows:
        seen.update(np.unique(row.truth).tolist())
        for labels in row.predictions.values():
            seen.update(np.unique(labels[row.truth != IGNORED] if mask_ignored else labels).tolist())
    colours = _colours(palette) / 255
    names = {index: name for index, name in enumerate(classes) if index in seen}
    names |= {IGNORED: 'ignored'} if IGNORED in seen else {}
    return [
        Patch(facecolor=tuple(colours[index]), edgecolor=FAINT, linewidth=0.6, label=name)
        for index, name in names.items()
    ]


def _colours(palette: Sequence[Sequence[int]]) -> np.ndarray:
    """(256, 3) uint8: a label's colour; what is no class has a light grey that no usual palette uses."""
    colours = np.empty((256, 3), dtype=np.uint8)
    colours[:] = [int(RULE[i : i + 2], 16) for i in (1, 3, 5)]
    colours[: len(palette)] = palette
    return colours


def _score(truth: np.ndarray, prediction: np.ndarray, classes: int) -> str:
    score = mean_iou(truth, prediction, classes)
    return 'nothing labelled' if isnan(score) else f'mIoU {100 * score:.1f}'


def _draw_title(figure: Figure, titles: Sequence[str], width: int, height: int) -> None:
    left = _MARGIN / width
    heading = 'Predictions beside the ground truth'
    figure.text(left, 1 - 28 / height, heading, size=17, weight='bold', color=INK, va='center')
    note = "mIoU: that image's, in percent, over the classes that occur in it"
    figure.text(left, 1 - 56 / height, note, size=11, color=FAINT, va='center', gid='note')
    for column, title in enumerate(('image', 'ground truth', *titles)):
        x = (_MARGIN + column * (_PANEL + _GAP)) / width
        y = 1 - (_TITLE + _HEADING / 2) / height
        figure.text(
            x, y, title, size=_fit(title, 12), weight='bold', color=INK, va='center', parse_math=False, gid='heading'
        )


def _draw_panel(axes: Axes, pixels: np.ndarray, caption: str, smooth: bool) -> None:
    # Colours between two labels' would be another class, or none.
    axes.imshow(pixels, interpolation='antialiased' if smooth else 'nearest', aspect='auto')
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_color(RULE)
    axes.set_xlabel(caption, size=_fit(caption, 10), color=FAINT, loc='left', labelpad=4, parse_math=False)


def _fit(text: str, size: float) -> float:
    """The font size at which `text` is no wider than a panel, `size` at most."""
    return min(size, _PANEL * 72 / _DPI / (_LETTER * max(1, len(text))))
