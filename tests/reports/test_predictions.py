import cv2
import numpy as np
import pytest

from mmnas_ext.reports import draw_predictions
from mmnas_ext.reports.predictions import Row, mean_iou, predictions_figure
from tests.reports.drawn import by_gid, overlaps, png_size, texts

CLASSES = ('road', 'car', 'sky', 'pole')
PALETTE = ((128, 64, 128), (0, 0, 142), (70, 130, 180), (153, 153, 153))
ROAD, CAR, SKY = PALETTE[:3]
NEUTRAL = (0xC9, 0xCE, 0xD8)
TRUTH = np.array([[0, 0, 1, 1], [0, 255, 1, 2]], dtype=np.uint8)
# on the seven pixels that count: road 2 of 3, car 3 of 5, sky 0 of 1; the pole stands on the ignored one
LABELS = np.array([[0, 1, 1, 1], [0, 3, 1, 1]], dtype=np.uint8)
SCORE = (2 / 3 + 3 / 5 + 0) / 3
IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def row(name='street', truth=TRUTH, **predictions):
    return Row(name, IMAGE, truth, predictions or {'seed': LABELS, 'found': TRUTH % 255})


def panels(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def pixels(axes):
    return np.asarray(axes.images[0].get_array()).tolist()


def coloured(rows):
    return [[list(colour) for colour in row] for row in rows]


def legend(figure):
    (box,) = figure.legends
    return [text.get_text() for text in box.get_texts()]


# The score


def test_iou_by_hand():
    assert mean_iou(TRUTH, LABELS, 4) == pytest.approx(SCORE)


def test_a_class_that_occurs_nowhere_does_not_count_and_one_that_is_only_predicted_counts_nothing():
    truth = np.zeros((2, 2), dtype=np.uint8)
    assert mean_iou(truth, truth, 2) == 1
    # class 0: 3 of 4; class 1: 0 of 1
    assert mean_iou(truth, np.array([[0, 0], [0, 1]]), 2) == 0.375


def test_many_classes_do_not_overflow_a_byte():
    truth = np.array([[199, 200]], dtype=np.uint8)
    assert mean_iou(truth, truth, 250) == 1
    assert mean_iou(truth, truth[:, ::-1], 250) == 0


def test_nothing_labelled_has_no_score():
    truth = np.full((2, 4), 255, dtype=np.uint8)
    assert np.isnan(mean_iou(truth, LABELS, 4))
    assert panels(predictions_figure([row(truth=truth)], CLASSES, PALETTE))['prediction.0.seed'].get_xlabel() == (
        'nothing labelled'
    )


# The figure


def test_a_row_per_image_and_a_panel_per_network():
    figure = predictions_figure([row('one'), row('two')], CLASSES, PALETTE)
    shown = panels(figure)
    kinds = ('image.{}', 'truth.{}', 'prediction.{}.seed', 'prediction.{}.found')
    assert list(shown) == [kind.format(index) for index in (0, 1) for kind in kinds]
    lefts = [shown[kind.format(0)].get_position().x0 for kind in kinds]
    assert lefts == sorted(lefts)
    assert shown['image.0'].get_position().y0 > shown['image.1'].get_position().y1
    assert [text.get_text() for text in figure.findobj(lambda artist: artist.get_gid() == 'heading')] == [
        'image',
        'ground truth',
        'seed',
        'found',
    ]


def test_panels_show_the_colours_of_the_labels():
    shown = panels(predictions_figure([row()], CLASSES, PALETTE))
    assert pixels(shown['image.0']) == IMAGE.tolist()
    assert pixels(shown['truth.0']) == coloured([[ROAD, ROAD, CAR, CAR], [ROAD, NEUTRAL, CAR, SKY]])
    assert pixels(shown['prediction.0.seed']) == coloured([[ROAD, CAR, CAR, CAR], [ROAD, PALETTE[3], CAR, CAR]])
    assert {axes.images[0].get_interpolation() for name, axes in shown.items() if name != 'image.0'} == {'nearest'}


def test_predictions_are_masked_where_the_truth_is_ignored_if_asked():
    figure = predictions_figure([row()], CLASSES, PALETTE, mask_ignored=True)
    assert pixels(panels(figure)['prediction.0.seed']) == coloured([[ROAD, CAR, CAR, CAR], [ROAD, NEUTRAL, CAR, CAR]])
    assert legend(figure) == ['road', 'car', 'sky', 'ignored']


def test_captions_give_the_name_and_the_score_in_percent():
    shown = panels(predictions_figure([row('street 1')], CLASSES, PALETTE))
    captions = [axes.get_xlabel() for axes in shown.values()]
    # (2/3 + 3/5) / 3 = 0.4222
    assert captions == ['street 1', '', 'mIoU 42.2', 'mIoU 100.0']


def test_the_legend_has_the_classes_that_occur_alone():
    assert legend(predictions_figure([row()], CLASSES, PALETTE)) == ['road', 'car', 'sky', 'pole', 'ignored']
    whole = np.array([[0, 0, 1, 1], [0, 1, 1, 1]], dtype=np.uint8)
    figure = predictions_figure([row(truth=whole, seed=whole)], CLASSES, PALETTE)
    assert legend(figure) == ['road', 'car']
    assert [tuple(round(255 * part) for part in patch.get_facecolor()[:3]) for patch in figure.legends[0].get_patches()
            ] == [ROAD, CAR]  # fmt: skip


def test_a_panel_has_the_shape_of_its_image():
    figure = predictions_figure([row()], CLASSES, PALETTE)
    width, height = figure.get_size_inches() * figure.dpi
    for axes in figure.axes:
        box = axes.get_position()
        assert box.width * width == pytest.approx(2 * box.height * height)


@pytest.mark.parametrize('networks', [1, 2, 4])
def test_texts_neither_overlap_nor_leave_the_figure(networks):
    titles = ['EfficientNet-Lite0, the seed of the search $a_1$', 'found by FNA', 'x', 'a random network'][:networks]
    names = [f'{"frankfurt_" * 4}{index}_leftImg8bit' for index in range(3)]
    classes = (*CLASSES[:3], 'a class that has a rather long name')
    rows = [row(name, **dict.fromkeys(titles, LABELS)) for name in names]
    figure = predictions_figure(rows, classes, PALETTE)
    shown = texts(figure)
    assert overlaps(shown) == []
    assert {titles[0], names[2], classes[3]} <= {text.get_text() for text in shown}
    width, height = figure.get_size_inches() * figure.dpi
    extents = [text.get_window_extent() for text in shown]
    assert min(min(box.x0, box.y0) for box in extents) > 0
    assert max(box.x1 for box in extents) < width
    assert max(box.y1 for box in extents) < height
    legend_box = figure.legends[0].get_window_extent()
    assert all(axes.get_window_extent().y0 > legend_box.y1 for axes in figure.axes)
    assert 'note' in by_gid(figure, 'note')


@pytest.mark.parametrize(
    ('rows', 'palette', 'message'),
    [
        ([], PALETTE, 'rows must hold at least one image'),
        ([row()], PALETTE[:3], r'palette a colour for each, got 4 and 3'),
        ([row(), row('b', other=LABELS)], PALETTE, r"b: predictions must be those of \['seed', 'found'\]"),
        ([row(a=LABELS[:, :3])], PALETTE, r'street: a must be as large as the image, \(2, 4\), got \(2, 3\)'),
        ([row(a=LABELS + 1)], PALETTE, r'street: a must have labels below 4, got 4'),
        ([row(a=TRUTH)], PALETTE, r'a must have labels below 4, got 255'),
        ([row(truth=np.where(TRUTH == 2, 9, TRUTH))], PALETTE, r'truth must have labels below 4, got 9'),
    ],
)
def test_what_does_not_go_together_is_refused(rows, palette, message):
    with pytest.raises(ValueError, match=message):
        predictions_figure(rows, CLASSES, palette)


# From files


def put(path, image):
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def files(tmp_path):
    """Image, truth and labels in files; the image's first pixel is red."""
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[0, 0] = (0, 0, 255)
    large = np.kron(TRUTH, np.ones((30, 20), dtype=np.uint8))
    return put(tmp_path / 'a.png', image), put(tmp_path / 'truth.png', large), put(tmp_path / 'b.png', large % 255)


def drawn(monkeypatch, files, **settings):
    """The rows that `draw_predictions` reads from files."""
    kept = []
    monkeypatch.setattr(
        'mmnas_ext.reports.predictions.predictions_figure',
        lambda rows, *rest, **more: kept.extend(rows) or predictions_figure(rows, *rest, **more),
    )
    image, truth, labels = files
    target = draw_predictions(
        [image], [truth], {'found': [labels]}, CLASSES, PALETTE, image.with_name('out.png'), **settings
    )
    return target, kept[0]


def test_files_are_read_to_the_byte(monkeypatch, files):
    target, read = drawn(monkeypatch, files)
    assert read.name == 'a'
    assert read.image.dtype == read.truth.dtype == np.uint8
    assert read.image[0, :2].tolist() == [[255, 0, 0], [0, 0, 0]]
    assert read.truth[::30, ::20].tolist() == TRUTH.tolist()
    assert read.predictions['found'][::30, ::20].tolist() == (TRUTH % 255).tolist()
    # three panels of 250, two gaps of 10, two margins of 28
    assert png_size(target.read_bytes())[0] == 826


@pytest.mark.parametrize('ending', ['.jpg', '.png'])
def test_a_grey_image_is_shown_in_grey(monkeypatch, files, tmp_path, ending):
    grey = put(tmp_path / f'grey{ending}', np.full((60, 80), 119, dtype=np.uint8))
    _, read = drawn(monkeypatch, (grey, *files[1:]))
    assert read.image.shape == (60, 80, 3)
    assert np.unique(read.image).tolist() == [119]


def test_four_rows_of_detailed_images_stay_small(tmp_path):
    # smooth noise at the scale of a photograph's texture, of the shape of a street scene
    rng = np.random.RandomState(0)
    for index in range(4):
        noise = cv2.resize(rng.randint(0, 256, (64, 128, 3)).astype(np.uint8), (512, 256))
        put(tmp_path / f'{index}.png', noise)
        put(tmp_path / f'{index}_truth.png', cv2.resize(TRUTH % 255, (512, 256), interpolation=cv2.INTER_NEAREST))
    images, truths = ([tmp_path / f'{i}{end}.png' for i in range(4)] for end in ('', '_truth'))
    target = draw_predictions(images, truths, {'a': truths, 'b': truths}, CLASSES, PALETTE, tmp_path / 'out.png')
    assert 20_000 < target.stat().st_size < 400_000


def test_files_that_do_not_go_together_are_refused(files, tmp_path):
    image, truth, labels = files
    with pytest.raises(ValueError, match=r"predictions 'found' must be one file per image, 1, got 2"):
        draw_predictions([image], [truth], {'found': [labels] * 2}, CLASSES, PALETTE, tmp_path / 'out.png')
    with pytest.raises(ValueError, match=r'truths must be one file per image, 1, got 0'):
        draw_predictions([image], [], {'found': [labels]}, CLASSES, PALETTE, tmp_path / 'out.png')
    with pytest.raises(ValueError, match=r'a\.png must be a grey image whose pixels are labels, got 3 channels'):
        draw_predictions([image], [image], {'found': [labels]}, CLASSES, PALETTE, tmp_path / 'out.png')
    with pytest.raises(FileNotFoundError, match=r'gone\.png does not exist'):
        draw_predictions([tmp_path / 'gone.png'], [truth], {'found': [labels]}, CLASSES, PALETTE, tmp_path / 'out.png')
    assert not (tmp_path / 'out.png').exists()
