"""Sample predictions: read back as they were written, every damage told, and where a box stands on the page."""

import json
import re

import pytest

from mmnas_ext.reports.predictions import Box, draw_boxes
from mmnas_ext.reports.samples import read_samples, samples_html
from tests.reports.drawn import png_size
from tests.reports.kinds import CLASSES, PALETTE, predict


def test_samples_are_read_back_as_they_were_written(tmp_path):
    predict(tmp_path / 'boxes', 'boxes')
    predict(tmp_path / 'labels', 'labels')
    boxes, labels = (read_samples(tmp_path / kind) for kind in ('boxes', 'labels'))
    assert (boxes.kind, boxes.classes, boxes.palette) == ('boxes', CLASSES, PALETTE)
    assert boxes.samples[0].size == (40, 60)
    assert boxes.samples[1].truth == (Box(5, 5, 30, 30, 0), Box(50, 20, 60, 40, 1))
    assert boxes.samples[1].predictions['found'] == (Box(6, 5, 29, 31, 0, 0.875), Box(0, 0, 9, 9, 1, 0.1))
    assert labels.samples[1].predictions == {'seed': '1_seed.png', 'found': '1_found.png'}
    assert labels.made == {'found': 'adapt/epoch_3.pth'}
    assert read_samples(tmp_path) is None


def test_boxes_stand_in_their_place_with_class_and_score(tmp_path):
    predict(tmp_path / 'boxes', 'boxes')
    text = samples_html(read_samples(tmp_path / 'boxes'), tmp_path / 'boxes')
    # 6 of 60 columns and 5 of 40 rows; red is dark enough for white letters
    place = 'left:10.00%;top:12.50%;width:38.33%;height:65.00%;--c:rgb(220 20 60);--t:#fff'
    assert text.count(f'<div class="box" style="{place}" title="dot 0.88"><b>dot 0.88</b></div>') == 4
    assert text.count('--t:#000') == 3  # letters on yellow: two boxes of the truth, and the legend
    assert 'a &lt;long&gt; &amp; winding name' in text and '<long>' not in text
    assert '0.10' not in text  # of too low a score
    assert text.count('<figcaption>ground truth · 2 boxes</figcaption>') == 2
    assert text.count('<figcaption>found · 1 box</figcaption>') == 2
    assert samples_html(None, tmp_path) == ''


def test_label_maps_lie_over_their_image(tmp_path):
    predict(tmp_path / 'labels', 'labels')
    text = samples_html(read_samples(tmp_path / 'labels'), tmp_path / 'labels')
    assert re.findall('<figcaption>(.*?)</figcaption>', text) == ['image', 'ground truth', 'seed', 'found'] * 2
    assert text.count('<img') == 2 * (1 + 2 * 3)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'kind': 'points'}, r"kind must be one of \('boxes', 'labels'\), got 'points'"),
        ({'palette': [[1, 2, 3]]}, 'palette must have 3 numbers for each of 2 classes, got 1'),
        ({'samples': []}, 'samples must hold at least 1, got 0'),
        ({'size': [40]}, r'sample 0: size must be height and width, got \[40\]'),
        ({'image': '../secret.png'}, r'sample 0: there must be an image \.\./secret\.png beside it'),
        ({'image': 'none.png'}, 'there must be an image none.png beside it'),
        (
            {'truth': [[1, 2, 3, 4, 2]]},
            r'a box must be x0, y0, x1, y1, a label below 2 and perhaps a score, got \[1, 2',
        ),
        ({'truth': [[1, 2, 3]]}, 'a box must be x0'),
    ],
)
def test_samples_of_another_form_are_refused(tmp_path, change, message):
    predict(tmp_path / 'boxes', 'boxes')
    file = tmp_path / 'boxes' / 'samples.json'
    content = json.loads(file.read_text())
    holder = content if set(change) <= set(content) else content['samples'][0]
    holder.update(change)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_samples(tmp_path / 'boxes')


def test_boxes_are_drawn_into_a_file(tmp_path):
    predict(tmp_path / 'boxes', 'boxes')
    images = [tmp_path / 'boxes' / f'{n}.png' for n in range(2)]
    rows = [[Box(5, 5, 30, 30, 0)]] * 2
    found = [[Box(6, 5, 29, 31, 1, 0.9), Box(0, 0, 9, 9, 1, 0.1)]] * 2
    drawn = draw_boxes(images, rows, {'found': found}, CLASSES, PALETTE, tmp_path / 'a.png')
    # two panels of 250 and a gap of 10 between margins of 28; rows of 250 * 40 / 60 and what stands around them
    assert png_size(drawn.read_bytes()) == (566, 76 + 26 + 2 * (167 + 26))
    with pytest.raises(ValueError, match='found must have boxes for each image, 2, got 1'):
        draw_boxes(images, rows, {'found': found[:1]}, CLASSES, PALETTE, tmp_path / 'b.png')
    with pytest.raises(FileNotFoundError, match='nowhere.png does not exist'):
        draw_boxes([tmp_path / 'nowhere.png'], rows[:1], {}, CLASSES, PALETTE, tmp_path / 'b.png')
