"""Sample predictions beside the ground truth, as a run leaves them in a folder, and as the page shows them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

from mmnas_ext.reports.markup import data_uri, note_html
from mmnas_ext.reports.predictions import IGNORED, LEAST_SCORE, Box
from mmnas_ext.search.fields import check_kind, check_list_of, read_object, take, take_list
from mmnas_ext.workdir import write_text

KINDS = ('boxes', 'labels')
_MOST_BOXES = 40
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: Rec. 601


@dataclass(frozen=True)
class Sample:
    """An image and what is said about it.

    Args:
        image: File of the image, beside ``samples.json``.
        size: Height and width in pixels.
        truth: The ground truth: boxes, or the file of a coloured label map.
        predictions: The same per network, by its title.
    """

    image: str
    size: tuple[int, int]
    truth: Any
    predictions: Mapping[str, Any]


@dataclass(frozen=True)
class Samples:
    """Content of ``samples.json``.

    Args:
        kind: One of `KINDS`.
        classes: Names of the classes, by label.
        palette: Red, green and blue of each, 0..255.
        samples: The images.
        made: What the predictions were made of: checkpoints by title.
    """

    kind: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...]
    samples: tuple[Sample, ...]
    made: Mapping[str, str]

    def write(self, folder: Path) -> Path:
        """Writes ``samples.json`` into a folder, last of all that is in it."""
        rows = []
        for each in self.samples:
            predictions = {title: _plain(said) for title, said in each.predictions.items()}
            row = {'image': each.image, 'size': list(each.size), 'truth': _plain(each.truth)}
            rows.append({**row, 'predictions': predictions})
        content = {'kind': self.kind, 'classes': self.classes, 'palette': self.palette, 'made': dict(self.made)}
        write_text(folder / 'samples.json', json.dumps({**content, 'samples': rows}))
        return folder / 'samples.json'


def read_samples(folder: Path) -> Samples | None:
    """Reads ``samples.json`` of a folder; ``None`` where there is none.

    Raises:
        ValueError: It is not of its form, or an image that it names is missing.
    """
    file = folder / 'samples.json'
    if not file.is_file():
        return None
    content, where = read_object(file), str(file)
    kind = take(content, 'kind', str, where)
    if kind not in KINDS:
        raise ValueError(f'{where}: kind must be one of {KINDS}, got {kind!r}')
    classes = take_list(content, 'classes', str, where, least=1)
    palette = tuple(check_list_of(row, int, f'{where}: palette') for row in take(content, 'palette', list, where))
    if len(palette) != len(classes) or any(len(row) != 3 for row in palette):
        raise ValueError(f'{where}: palette must have 3 numbers for each of {len(classes)} classes, got {len(palette)}')
    made = take(content, 'made', dict, where)
    samples = []
    for number, row in enumerate(take_list(content, 'samples', dict, where, least=1)):
        at = f'{where}: sample {number}'
        size = take_list(row, 'size', int, at)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f'{at}: size must be height and width, got {list(size)}')
        said = {'': take(row, 'truth', list if kind == 'boxes' else str, at), **take(row, 'predictions', dict, at)}
        boxes = kind == 'boxes'
        parsed = {t: _boxes(x, len(classes), at) if boxes else check_kind(x, str, at) for t, x in said.items()}
        image = take(row, 'image', str, at)
        for name in [image, *(parsed.values() if kind == 'labels' else ())]:
            if Path(name).name != name or not (folder / name).is_file():
                raise ValueError(f'{at}: there must be an image {name} beside it')
        truth = parsed.pop('')
        samples.append(Sample(image, (size[0], size[1]), truth, parsed))
    return Samples(kind, classes, palette, tuple(samples), {name: str(value) for name, value in made.items()})


def samples_html(samples: Samples | None, folder: Path) -> str:
    """The images, each with its ground truth and what the networks predict, side by side; empty without samples."""
    if samples is None:
        return ''
    note = f'boxes of a score of at least {LEAST_SCORE:g}' if samples.kind == 'boxes' else 'grey: not labelled'
    parts = [note_html(f'{len(samples.samples)} images of the validation set; {note}.'), _legend(samples)]
    for each in samples.samples:
        image = data_uri(folder / each.image)
        panes = {'ground truth': each.truth, **each.predictions}
        figures = [_figure(samples, folder, each, image, title, said) for title, said in panes.items()]
        if samples.kind == 'labels':
            figures.insert(0, f'<figure><div class="pane"><img alt="image" src="{image}"></div><figcaption>image'
                              '</figcaption></figure>')  # fmt: skip
        parts.append(f'<div class="samples">\n{"".join(figures)}</div>\n')
    return ''.join(parts)


def _figure(samples: Samples, folder: Path, sample: Sample, image: str, title: str, said: Any) -> str:
    over = ''
    caption = title
    if samples.kind == 'labels':
        over = f'<img alt="" src="{data_uri(folder / said)}">'
    else:
        shown = [box for box in said if box.score is None or box.score >= LEAST_SCORE]
        shown = sorted(shown, key=lambda box: -(box.score or 1))[:_MOST_BOXES]
        over = ''.join(_box(box, sample.size, samples) for box in reversed(shown))
        caption += f' · {len(shown)} {"box" if len(shown) == 1 else "boxes"}'
    words = f'{title} of {sample.image}'
    return (
        f'<figure><div class="pane"><img alt="{escape(words)}" src="{image}">{over}</div>'
        f'<figcaption>{escape(caption)}</figcaption></figure>\n'
    )


def _box(box: Box, size: tuple[int, int], samples: Samples) -> str:
    high, wide = size
    left, top = max(0.0, 100 * box.x0 / wide), max(0.0, 100 * box.y0 / high)
    right, bottom = min(100.0, 100 * box.x1 / wide), min(100.0, 100 * box.y1 / high)
    name = samples.classes[box.label]
    score = '' if box.score is None else f' {box.score:.2f}'
    place = f'left:{left:.2f}%;top:{top:.2f}%;width:{right - left:.2f}%;height:{bottom - top:.2f}%'
    colour = _colours(samples.palette[box.label])
    return f'<div class="box" style="{place};{colour}" title="{escape(name)}{score}"><b>{escape(name)}{score}</b></div>'


def _colours(colour: Sequence[int]) -> str:
    """A class's colour, and one in which text on it can be read."""
    light = sum(share * part for share, part in zip(_LUMA, colour, strict=True)) > 140
    return f'--c:rgb({colour[0]} {colour[1]} {colour[2]});--t:{"#000" if light else "#fff"}'


def _legend(samples: Samples) -> str:
    if samples.kind == 'boxes':
        boxes = [box for each in samples.samples for row in (each.truth, *each.predictions.values()) for box in row]
        seen = sorted({box.label for box in boxes if box.score is None or box.score >= LEAST_SCORE})
    else:
        seen = list(range(min(len(samples.classes), IGNORED)))
    named = [(_colours(samples.palette[label]), escape(samples.classes[label])) for label in seen]
    keys = ''.join(f'<span><i class="swatch" style="{colours}"></i>{name}</span>' for colours, name in named)
    return f'<div class="legend">{keys}</div>\n'


def _boxes(rows: Any, classes: int, where: str) -> tuple[Box, ...]:
    boxes = []
    for row in check_kind(rows, list, where):
        values = check_list_of(row, float, f'{where}: box')
        if len(values) not in (5, 6) or not 0 <= values[4] < classes or not all(map(isfinite, values)):
            wanted = f'x0, y0, x1, y1, a label below {classes} and perhaps a score'
            raise ValueError(f'{where}: a box must be {wanted}, got {row}')
        x0, y0, x1, y1, label = values[:5]
        boxes.append(Box(x0, y0, x1, y1, int(label), values[5] if len(values) == 6 else None))
    return tuple(boxes)


def _plain(said: Any) -> Any:
    """Boxes as rows of numbers; the name of a file as it is."""
    if isinstance(said, str):
        return said
    rows = []
    for box in said:
        row = [*(round(float(each), 1) for each in (box.x0, box.y0, box.x1, box.y1)), box.label]
        rows.append(row if box.score is None else [*row, round(float(box.score), 3)])
    return rows
