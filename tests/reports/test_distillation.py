import io
import zipfile

import numpy as np
import pytest

from mmnas_ext.reports import draw_features, draw_ratings
from mmnas_ext.reports.charts import block_losses_chart, ratings_chart
from mmnas_ext.reports.distill_log import collect_losses, find_losses
from mmnas_ext.reports.distillation import ratings_figure
from mmnas_ext.reports.imitation import features_figure, read_features
from mmnas_ext.search.ratings import Ratings
from tests.reports import distilled
from tests.reports.distilled import axes_of, drawn, hand, record, words
from tests.reports.drawn import boxes, png_size


def test_losses_are_read_by_block_and_step(tmp_path):
    validation = {'mIoU': 40.0, 'step': 2}
    epochs = {'loss_block0': 0.7, 'iter': 20}
    path = distilled.write_log(tmp_path, '1', [record(10, loss_block0=0.9, loss_block1=1.0), validation, epochs])
    log = find_losses(tmp_path)
    assert log.losses == {0: ((10, 0.9), (20, 0.7)), 1: ((10, 1.0),)}
    assert (log.unreadable, log.repeated) == (0, 0)
    assert find_losses(path) == log


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path):
    first = [record(step, loss_block0=1 - step / 100) for step in (10, 20, 30, 40)]
    second = [record(30, loss_block0=0.2)]
    # written in the other order: the folders' names count
    distilled.write_log(tmp_path, '20250102_000000', second)
    distilled.write_log(tmp_path, '20250101_120000', first, tail='{"lr": 0.1, "loss_bl')
    log = find_losses(tmp_path)
    assert log.losses == {0: ((10, 0.9), (20, 0.8), (30, 0.2))}
    assert (log.repeated, log.unreadable) == (2, 1)


def test_blocks_may_be_trained_in_runs_of_their_own(tmp_path):
    distilled.write_log(tmp_path, '1', [record(10, loss_block0=0.9), record(20, loss_block0=0.8)])
    distilled.write_log(tmp_path, '2', [record(10, loss_block1=0.7), record(20, loss_block1=0.6)])
    assert find_losses(tmp_path).losses == {0: ((10, 0.9), (20, 0.8)), 1: ((10, 0.7), (20, 0.6))}


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ({'loss_block0': 'low', 'step': 1}, r"scalars\.json line 1: loss_block0 must be a number, got 'low'"),
        ({'loss_block0': 0.5}, r'scalars\.json line 1: the record has neither step nor iter'),
        ({'loss_block0': 0.5, 'step': 1.5}, r'scalars\.json line 1: step must be an integer, got 1\.5'),
    ],
)
def test_logs_of_another_form_are_refused(tmp_path, line, message):
    distilled.write_log(tmp_path, '1', [line])
    with pytest.raises(ValueError, match=message):
        find_losses(tmp_path)


def test_a_log_of_another_training_has_none(tmp_path):
    assert find_losses(tmp_path) is None
    distilled.write_log(tmp_path, '1', [{'loss': 1.0, 'step': 1}])
    assert find_losses(tmp_path) is None


def chart_of(records):
    return block_losses_chart(collect_losses(enumerate(records)))


def test_lines_show_the_losses_of_each_block():
    records = [record(10 * i, loss_block3=0.5 + i / 100, loss_block4=2.0) for i in range(1, 21)]
    three, four = chart_of(records).data
    assert (three.name, four.name) == ('block 3', 'block 4')
    assert three.x == tuple(range(10, 201, 10))
    assert three.y[:2] == (0.51, 0.52)
    assert set(four.y) == {2.0}


def test_losses_far_apart_get_a_logarithmic_axis():
    far = chart_of([record(i, loss_block0=9 / i**2) for i in range(1, 31)])
    near = chart_of([record(i, loss_block0=0.5 + i / 100) for i in range(1, 31)])
    assert (far.layout.yaxis.type, near.layout.yaxis.type) == ('log', None)
    assert far.layout.shapes[0].y0 == 1  # no better than the mean


def test_a_loss_that_is_nan_leaves_a_gap():
    (line,) = chart_of([record(i, loss_block0=value) for i, value in enumerate([0.9, float('nan'), 0.5])]).data
    assert line.y == (0.9, None, 0.5)


def test_a_long_log_is_thinned_and_keeps_its_ends():
    log = collect_losses(enumerate([record(i, loss_block0=0.5) for i in range(1, 4002)]))
    assert log.stride == 4
    (line,) = block_losses_chart(log).data
    assert (len(line.x), line.x[0], line.x[-1]) == (240, 1, 4001)


def test_the_chart_of_ratings_has_a_box_per_block_and_marks_the_picks():
    spread, best, chosen = ratings_chart(hand(), [3, 5]).data
    assert spread.x == ('block 0', 'block 1')
    assert (spread.lowerfence, spread.upperfence) == ((0.3, 0.7), (0.6, 0.9))
    assert spread.median == pytest.approx((0.45, 0.75))  # of 0.3 0.4 0.5 0.6, and of 0.7 0.72 0.75 0.8 0.9
    assert (best.y, chosen.y) == ((0.3, 0.7), (0.6, 0.75))


def test_ratings_are_drawn_by_block_and_cell():
    # entry 5 of the second block: its second cell, first path, for 24 channels, which entry 3 of the first leaves
    figure = ratings_figure(hand(), [3, 5])
    points = {gid: artist.get_offsets()[:, 1].tolist() for gid, artist in boxes(figure, 'points').items()}
    assert points == {
        'points.0.0': [0.5, 0.3, 0.4],
        'points.0.1': [0.6],
        'points.1.0': [0.9, 0.8],
        'points.1.1': [0.75, 0.7, 0.72],
    }
    medians = {gid: artist.get_ydata()[0] for gid, artist in boxes(figure, 'median').items()}
    assert medians == pytest.approx({'median.0.0': 0.4, 'median.0.1': 0.6, 'median.1.0': 0.85, 'median.1.1': 0.72})
    marks = {gid: artist.get_ydata()[0] for name in ('best', 'chosen') for gid, artist in boxes(figure, name).items()}
    assert marks == {'best.0': 0.3, 'best.1': 0.7, 'chosen.0': 0.6, 'chosen.1': 0.75}
    # a mark lies on its own point
    assert drawn(figure, 'chosen.1').get_xdata()[0] == drawn(figure, 'points.1.1').get_offsets()[0, 0]
    assert 0.5 < drawn(figure, 'best.1').get_xdata()[0] < 1.5
    wanted = {'block 0 · stages 0–1', '4 paths', 'best 0.300, chosen 0.600', 'block 1 · stage 2', '1+1', '40'}
    assert wanted <= words(figure)


def test_a_lead_is_as_long_in_every_panel():
    panels = axes_of(ratings_figure(hand()))
    spans = [np.ptp(panels[f'ratings.{block}'].get_ylim()) for block in (0, 1)]
    # the blocks spread over 0.3 and 0.2
    assert spans == pytest.approx([1.16 * 0.3] * 2)


def test_many_cells_go_into_rows(tmp_path):
    stages = tuple(tuple((8 * (cell + 1), 1) for cell in range(12)) for _ in range(4))
    value = distilled.ratings(stages, tuple((stage,) for stage in range(4)), candidates=('k3_e3', 'k5_e3'))
    (tmp_path / 'ratings.json').write_text(value.format())
    assert png_size(draw_ratings(tmp_path, tmp_path / 'a.png').read_bytes()) == (1400, 64 + 30 + 2 * 422 + 8)


def test_a_choice_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / 'ratings.json').write_text(hand().format())
    for choice, message in (
        ([0], 'choice must have one index per block, 2, got 1'),
        ([-1, 0], r'choice\[0\] must lie in 0\.\.3, got -1'),
        ([0, 1], r'choice\[1\] must be an entry for 16 channels, got one for 24'),
    ):
        with pytest.raises(ValueError, match=message):
            draw_ratings(Ratings.parse(tmp_path), tmp_path / 'a.png', choice)
    assert not (tmp_path / 'a.png').exists()


def rank_one(tmp_path):
    """A teacher that is one map times one direction over channels, so that its first component is that map."""
    field = np.array([[[-1.0, 2.0], [0.0, -1.0]]] * 4)
    teacher = np.einsum('nhw,c->nchw', field, [3.0, 4.0])
    image = np.zeros((4, 6, 8, 3), np.uint8)
    np.savez(tmp_path / 'f.npz', image=image, teacher_1=teacher, student_1=teacher / 2)
    return tmp_path / 'f.npz', field


def test_features_are_projected_on_the_teachers_first_component(tmp_path):
    path, field = rank_one(tmp_path)
    component = read_features(path)[1][1]
    # the direction is (3, 4) / 5, and 3 * 3/5 + 4 * 4/5 = 5
    assert component.teacher == pytest.approx(5 * field)
    assert component.student == pytest.approx(2.5 * field)
    assert component.share == pytest.approx(1)
    # mean |t| / 2 = (3 + 4) / 4 = 1.75 of |field| 1 on average; var = 6/4 * (9 + 16) / 2 as all means are 0
    assert component.error == pytest.approx(1.75 / np.sqrt(18.75))


def test_features_are_drawn_in_the_teachers_colours(tmp_path):
    path, field = rank_one(tmp_path)
    images, components = read_features(path)
    figure = features_figure(images[:2], components)
    panels = axes_of(figure)
    wanted = {f'{name}.{n}.1' for name in ('teacher', 'student') for n in (0, 1)} | {
        'image.0',
        'image.1',
        'colours',
    }
    assert set(panels) == wanted
    maps = [panels[f'{name}.1.1'].images[0] for name in ('teacher', 'student')]
    assert np.asarray(maps[1].get_array()) == pytest.approx(2.5 * field[1])
    assert maps[0].get_clim() == maps[1].get_clim() == pytest.approx((-10, 10))
    assert drawn(figure, 'note.1').get_text() == 'error 0.40\n100 % of variance'


def test_a_portrait_does_not_get_higher_than_a_screen(tmp_path):
    np.savez(tmp_path / 'f.npz', **distilled.features(1, count=4, size=(192, 128)))
    # three rows of two panels of 190
    size = png_size(draw_features(tmp_path / 'f.npz', tmp_path / 'a.png').read_bytes())
    assert size == (1400, 64 + 66 + 3 * (2 * 190 + 5 + 22) + 62)


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'teacher_0': np.zeros((1, 2, 3, 3))}, 'image must be .* of at least one image, got none'),
        ({'image': np.zeros((1, 4, 4, 3))}, r'got \(1, 4, 4, 3\) float64'),
        ({'image': np.zeros((1, 4, 4, 3), np.uint8)}, 'there must be a teacher_<block>, got image'),
        (
            {'image': np.zeros((1, 4, 4, 3), np.uint8), 'teacher_2': np.zeros((1, 2, 3, 3))},
            r'teacher_2 and student_2 must both be .* of 1 images, got \(1, 2, 3, 3\) and none',
        ),
    ],
)
def test_features_of_another_form_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / 'f.npz', **arrays)
    with pytest.raises(ValueError, match=message):
        draw_features(tmp_path / 'f.npz', tmp_path / 'a.png')
    (tmp_path / 'g.npz').write_bytes(b'PK\x03\x04 cut short')
    with pytest.raises(ValueError, match=r'g\.npz is not an \.npz file'):
        draw_features(tmp_path / 'g.npz', tmp_path / 'a.png')


def packed(path, **members):
    """An archive of arrays; of a pair `(shape, data)` the header says the shape, whatever follows."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, data) in members.items():
            header = io.BytesIO()
            entry = {'descr': '|u1', 'fortran_order': False, 'shape': shape}
            np.lib.format.write_array_header_1_0(header, entry)
            archive.writestr(name, header.getvalue() + data)


def test_arrays_that_are_larger_than_they_can_be_are_refused(tmp_path, monkeypatch):
    path = tmp_path / 'f.npz'
    packed(path, **{'image.npy': ((2**48,), b'1')})
    with pytest.raises(ValueError, match=r'f\.npz is not .*: image says that it is \(281474976710656,\) uint8'):
        read_features(path)
    monkeypatch.setattr('mmnas_ext.reports.imitation._MOST', 2**20)
    packed(path, **{'image.npy': ((2**20 + 1,), bytes(2**20 + 1))})
    with pytest.raises(ValueError, match=r'f\.npz is not .*: its arrays would take 10487\d\d bytes, and 1048576 are'):
        read_features(path)


def test_members_of_other_names_are_not_read(tmp_path, monkeypatch):
    path, field = rank_one(tmp_path)
    with zipfile.ZipFile(path, 'a', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('junk.npy', bytes(2**21))
        archive.writestr('teacher_x.npy', b'no array')
    monkeypatch.setattr('mmnas_ext.reports.imitation._MOST', 2**20)
    assert read_features(path)[1][1].teacher == pytest.approx(5 * field)
