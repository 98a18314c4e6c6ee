import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations as LoadBoxes
from mmseg.datasets import BaseSegDataset, CityscapesDataset
from mmseg.datasets.transforms import LoadAnnotations as LoadLabels

from mmnas_ext.datasets import DETECTION_CLASSES, SEGMENTATION_CLASSES, make_detection, make_segmentation, shapes
from mmnas_ext.datasets.shapes import MIN_SIDE, PERIOD, RECEPTIVE_FIELD, draw_shape

GOLDEN_SCENE = [(82, 43, 'fine_stripes', (59, 59)), (10, 63, 'coarse_dots', (67, 67)), (204, 89, 'bar_same', (69, 29))]


@pytest.fixture(scope='module')
def detection(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('sets') / 'det'
    assert make_detection(root, train=40, val=16)
    return root


@pytest.fixture(scope='module')
def segmentation(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('sets') / 'seg'
    assert make_segmentation(root, train=24, val=8, size=(160, 224))
    return root


def annotations(root: Path, split: str) -> dict:
    return json.loads((root / 'annotations' / f'instances_{split}2017.json').read_text())


def labels_of(root: Path) -> list[np.ndarray]:
    return [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(root.rglob('*_labelTrainIds.png'))]


def test_images_differ_from_each_other(detection):
    images = [path.read_bytes() for path in detection.rglob('*.jpg')]
    assert len(images) == len(set(images)) == 56


def test_images_are_those_of_version_1():
    # measured when version 1 was settled: if it fails, the images changed, and so must the version in the manifest
    _, placed = shapes._scene((192, 256), [0, 1, 0], 0)
    assert shapes._VERSION == 1
    assert [(left, top, shape.kind, shape.covered.shape) for left, top, shape in placed] == GOLDEN_SCENE


# What detection holds


def test_coco_layout(detection):
    assert sorted(path.name for path in detection.iterdir()) == ['annotations', 'shapes.json', 'train2017', 'val2017']
    for split, count in (('train', 40), ('val', 16)):
        held = annotations(detection, split)
        assert [image['id'] for image in held['images']] == list(range(count))
        assert sorted(path.name for path in (detection / f'{split}2017').iterdir()) == [
            image['file_name'] for image in held['images']
        ]
        assert [(c['id'], c['name']) for c in held['categories']] == list(enumerate(DETECTION_CLASSES, start=1))
        assert [box['id'] for box in held['annotations']] == list(range(1, len(held['annotations']) + 1))
        image = cv2.imread(str(detection / f'{split}2017' / f'{count - 1:012d}.jpg'), cv2.IMREAD_UNCHANGED)
        assert image.shape == (192, 256, 3)


def test_boxes_lie_inside_apart_and_are_large(detection):
    held = annotations(detection, 'train')
    for image in held['images']:
        boxes = [box for box in held['annotations'] if box['image_id'] == image['id']]
        assert 1 <= len(boxes) <= 5
        taken = np.zeros((image['height'], image['width']), dtype=int)
        for box in boxes:
            left, top, wide, tall = box['bbox']
            assert 0 <= left <= image['width'] - wide
            assert 0 <= top <= image['height'] - tall
            assert (box['area'], box['iscrowd']) == (wide * tall, 0)
            assert min(wide, tall) >= 18
            assert max(wide, tall) >= MIN_SIDE
            taken[top : top + tall, left : left + wide] += 1
        assert taken.max() == 1


@pytest.mark.parametrize('split', ['train', 'val'])
def test_every_class_occurs_often_enough(detection, split):
    held = annotations(detection, split)
    counts = np.bincount([box['category_id'] for box in held['annotations']], minlength=9)
    assert counts[0] == 0
    # image n is given class n mod 8 first, so 40 and 16 images hold 5 and 2 of each at least
    assert counts[1:].min() >= len(held['images']) // 8


def test_pixels_in_a_box_are_those_of_the_shape(detection):
    # a hatched or dotted shape holds near-black and near-white, which the ground never reaches
    held = annotations(detection, 'val')
    boxes = [box for box in held['annotations'] if box['category_id'] <= 4]
    assert len(boxes) > 8
    for box in boxes:
        left, top, wide, tall = box['bbox']
        image = cv2.imread(str(detection / 'val2017' / f'{box["image_id"]:012d}.jpg'))
        brightest = image[top : top + tall, left : left + wide].max(axis=2)
        assert brightest.min() < 80
        assert brightest.max() > 225


def test_mmdet_reads_it(detection):
    dataset = CocoDataset(
        ann_file='annotations/instances_train2017.json',
        data_root=str(detection),
        data_prefix={'img': 'train2017/'},
        metainfo={'classes': DETECTION_CLASSES},
        filter_cfg={'filter_empty_gt': True, 'min_size': 16},
        pipeline=[LoadImageFromFile(), LoadBoxes(with_bbox=True)],
    )
    held = annotations(detection, 'train')
    assert len(dataset) == 40
    for number in (0, 39):
        item = dataset[number]
        boxes = [box for box in held['annotations'] if box['image_id'] == number]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (box['bbox'] for box in boxes)]
        assert item['img'].shape == (192, 256, 3)
        assert item['gt_bboxes'].tensor.tolist() == corners
        assert item['gt_bboxes_labels'].tolist() == [box['category_id'] - 1 for box in boxes]
        assert not item['gt_ignore_flags'].any()


# What segmentation holds


def test_cityscapes_layout(segmentation):
    for split, count in (('train', 24), ('val', 8)):
        images = sorted(path.name for path in (segmentation / 'leftImg8bit' / split / 'shapes').iterdir())
        labels = sorted(path.name for path in (segmentation / 'gtFine' / split / 'shapes').iterdir())
        assert len(images) == count
        assert [name.replace('_leftImg8bit.png', '_gtFine_labelTrainIds.png') for name in images] == labels


def test_labels_are_train_ids_with_a_thin_ignored_border(segmentation):
    maps = labels_of(segmentation)
    assert len(maps) == 32
    counts = sum(np.bincount(labels.ravel(), minlength=256) for labels in maps)
    assert np.flatnonzero(counts).tolist() == [*range(9), 255]
    assert counts[1:9].min() > 1000
    assert counts[255] < 0.1 * counts.sum()
    for labels in maps:
        assert (labels.dtype, labels.shape) == (np.uint8, (160, 224))
        # no patch of 4x4 pixels is ignored altogether: the border is at most three wide, on a slope
        assert not cv2.erode((labels == 255).astype(np.uint8), np.ones((4, 4), np.uint8)).any()


def test_two_labels_never_touch(segmentation):
    for labels in labels_of(segmentation):
        for one, two in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            assert ((one == two) | (one == 255) | (two == 255)).all()


def test_enclosed_looks_like_the_ground_and_lies_inside_an_outline(segmentation):
    enclosed, outline = SEGMENTATION_CLASSES.index('enclosed'), SEGMENTATION_CLASSES.index('outline')
    seen = 0
    for path in sorted(segmentation.rglob('*_leftImg8bit.png')):
        image = cv2.imread(str(path)).astype(float)
        stem = path.name.replace('_leftImg8bit.png', '_gtFine_labelTrainIds.png')
        labels = cv2.imread(str(segmentation / 'gtFine' / path.parts[-3] / 'shapes' / stem), cv2.IMREAD_UNCHANGED)
        if not (labels == enclosed).any():
            continue
        seen += 1
        # clouds swing by 40 at most; a line stands out by more
        ground = image[labels == 0].mean(axis=0)
        assert abs(image[labels == enclosed].mean(axis=0) - ground).max() < 40
        # from the outermost enclosed pixels, one comes over the border onto an outline, never onto anything else
        grown = cv2.dilate((labels == enclosed).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        assert set(np.unique(labels[grown])) == {enclosed, outline, 255}
    assert seen >= 5


def test_mmseg_reads_it_as_cityscapes(segmentation):
    prefix = {'img_path': 'leftImg8bit/train', 'seg_map_path': 'gtFine/train'}
    pipeline = [LoadImageFromFile(), LoadLabels()]
    dataset = CityscapesDataset(data_root=str(segmentation), data_prefix=prefix, pipeline=pipeline)
    train = sorted((segmentation / 'gtFine' / 'train').rglob('*.png'))
    assert len(dataset) == len(train) == 24
    for number in (0, 23):
        item = dataset[number]
        assert item['img'].shape == (160, 224, 3)
        assert np.array_equal(item['gt_seg_map'], cv2.imread(str(train[number]), cv2.IMREAD_UNCHANGED))


def test_mmseg_reads_it_under_its_own_names(segmentation):
    dataset = BaseSegDataset(
        data_root=str(segmentation),
        data_prefix={'img_path': 'leftImg8bit/val', 'seg_map_path': 'gtFine/val'},
        img_suffix='_leftImg8bit.png',
        seg_map_suffix='_gtFine_labelTrainIds.png',
        metainfo=dict(shapes.SEGMENTATION_METAINFO),
        pipeline=[LoadImageFromFile(), LoadLabels()],
    )
    assert len(dataset) == 8
    assert dataset.metainfo['classes'] == SEGMENTATION_CLASSES
    assert set(np.unique(dataset[0]['gt_seg_map'])) <= {*range(9), 255}


def test_metainfo_has_a_colour_per_class():
    for held, classes in (
        (shapes.DETECTION_METAINFO, DETECTION_CLASSES),
        (shapes.SEGMENTATION_METAINFO, SEGMENTATION_CLASSES),
    ):
        assert held['classes'] == classes
        assert len(set(classes)) == len(set(held['palette'])) == len(classes)


# Classes that need different receptive fields


def is_light(shape) -> np.ndarray:
    """Which pixels of a two-tone shape have its lighter colour."""
    return shape.pixels.max(axis=2) > 150


def windows(grid: np.ndarray, side: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(grid, (side, side)).reshape(-1, side * side)


@pytest.mark.parametrize(
    ('kind', 'period'), [('fine_stripes', 4), ('coarse_stripes', 16), ('fine_dots', 6), ('coarse_dots', 18)]
)
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_the_strongest_frequency_is_one_over_the_period(kind, period, seed):
    shape = draw_shape(kind, 240, np.random.RandomState(seed))
    height, width = shape.covered.shape
    # the middle square lies inside a disc or a square at any angle; a Hann window keeps its edges out of the spectrum
    grid = is_light(shape)[height // 2 - 72 : height // 2 + 72, width // 2 - 72 : width // 2 + 72].astype(float)
    hann = np.hanning(144)
    spectrum = abs(np.fft.fft2((grid - grid.mean()) * hann[:, None] * hann[None, :], (1024, 1024)))
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    frequency = np.hypot(np.fft.fftfreq(1024)[row], np.fft.fftfreq(1024)[column])
    assert frequency == pytest.approx(1 / period, rel=0.03)
    assert RECEPTIVE_FIELD[kind] == PERIOD[kind] == period


def test_a_narrow_window_is_uniform_on_coarse_stripes_and_never_on_fine_ones():
    # a stripe is half a period wide: 8 or 2 pixels. A 4x4 window fits into the former at any angle (its diagonal is
    # 5.7), never into the latter
    for seed in range(4):
        uniform = {}
        for kind in ('fine_stripes', 'coarse_stripes'):
            shape = draw_shape(kind, 60, np.random.RandomState(seed))
            inside = windows(shape.covered, 4).all(axis=1)
            light = windows(is_light(shape), 4).sum(axis=1)
            uniform[kind] = np.isin(light[inside], (0, 16)).mean()
        assert uniform['fine_stripes'] == 0
        assert uniform['coarse_stripes'] > 0.2


@pytest.mark.parametrize(('what', 'share'), [('stripes', 0.5), ('dots', np.pi * 0.35**2)])
def test_twins_are_light_on_the_same_share(what, share):
    for kind in (f'fine_{what}', f'coarse_{what}'):
        drawn = [draw_shape(kind, 72, np.random.RandomState(seed)) for seed in range(30)]
        measured = np.mean([is_light(shape)[shape.covered].mean() for shape in drawn])
        assert measured == pytest.approx(share, abs=0.02)


def test_coarse_shapes_show_two_periods_at_the_least_side():
    assert 2 * max(PERIOD.values()) <= MIN_SIDE
    assert PERIOD['coarse_stripes'] == 4 * PERIOD['fine_stripes']
    assert PERIOD['coarse_dots'] == 3 * PERIOD['fine_dots']


@pytest.mark.parametrize('kind', ['ring', 'frame'])
def test_the_middle_of_an_outline_is_empty_as_far_as_stated(kind):
    # 1.4 · 36 pixels across, less 7 of line on both sides: 36.4
    assert RECEPTIVE_FIELD[kind] == 37
    for seed in range(4):
        shape = draw_shape(kind, MIN_SIDE, np.random.RandomState(seed))
        height, width = shape.covered.shape
        rows, columns = np.mgrid[:height, :width]
        from_middle = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2)
        assert 18 <= from_middle[shape.covered].min() <= 37 / 2 + 0.5
        assert shape.enclosed[from_middle < 18].all()


@pytest.mark.parametrize(('kind', 'different'), [('bar_same', False), ('bar_mixed', True)])
def test_bars_are_told_by_both_caps_and_by_no_single_one(kind, different):
    # caps begin at 0.6 of half of 1.6 · 36 pixels, so they are 34.56 apart
    assert RECEPTIVE_FIELD[kind] == 35
    light_caps = []
    for seed in range(40):
        shape = draw_shape(kind, MIN_SIDE, np.random.RandomState(seed))
        # caps are nearly grey, the bar between them is not
        pixels = shape.pixels.astype(int)
        grey = (pixels.max(axis=2) - pixels.min(axis=2) < 60) & shape.covered
        _, parts, _, _ = cv2.connectedComponentsWithStats(grey.astype(np.uint8))
        spots = [np.argwhere(parts == number) for number in (1, 2)]
        assert parts.max() == 2
        apart = np.hypot(*(spots[0][:, None] - spots[1][None]).transpose(2, 0, 1)).min()
        assert 34 <= apart <= 37
        light = [bool(shape.pixels[tuple(spot.mean(axis=0).round().astype(int))].max() > 128) for spot in spots]
        assert (light[0] != light[1]) == different
        light_caps += light
    assert 0.3 < np.mean(light_caps) < 0.7


@pytest.mark.parametrize('kind', DETECTION_CLASSES)
def test_shapes_are_cut_tight(kind):
    shape = draw_shape(kind, 50, np.random.RandomState(3))
    assert shape.kind == kind
    assert shape.pixels.shape == (*shape.covered.shape, 3)
    assert all(edge.any() for edge in (*shape.covered[[0, -1]], *shape.covered.T[[0, -1]]))
    assert not (shape.covered & shape.enclosed).any()
    assert shape.enclosed.any() == (kind in ('ring', 'frame'))


@pytest.mark.parametrize(('kind', 'side', 'message'), [('star', 50, "got 'star'"), ('ring', 35, 'at least 36 pixels')])
def test_shapes_that_do_not_exist_are_refused(kind, side, message):
    with pytest.raises(ValueError, match=message):
        draw_shape(kind, side, np.random.RandomState(0))
