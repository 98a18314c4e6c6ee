"""The figure and the table of measured networks, and where both stand in the reports, drawn from files."""

import json

import pytest

from mmnas_ext.archs import ArchSpec, Limit
from mmnas_ext.reports import draw_measured, front_table, write_report
from mmnas_ext.reports.measured import front_cells, measured_figure
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from tests.reports import distilled
from tests.reports.distilled import drawn, words
from tests.reports.drawn import boxes, by_gid, overlaps, png_size, texts
from tests.reports.test_page import Page

REACHED = (0.31, 0.335, 0.33, 0.345, 0.36, 0.37, 0.372, 0.371)


def arch(layers=1):
    return ArchSpec.parse(f'[[8, 4], {json.dumps(["k3_e1"] * layers)}, 1]')


def front(rule='greater', measured=8, **fields):
    """Eight networks of 100, 150, … M with the fifth chosen, a seed of 320 M, and a limit of 310 M."""
    networks = [
        MeasuredNetwork(
            arch(number + 1), {'macs': 10**8 + 5 * 10**7 * number, 'params': 10**5 * (number + 1)},
            {'coco/bbox_mAP': REACHED[number]} if number < measured else {}, 2 - number / 8,
            'chosen' if number == 4 else 'front',
        )
        for number in range(8)
    ]  # fmt: skip
    seed = MeasuredNetwork(arch(9), {'macs': 32 * 10**7, 'params': 10**6}, {'coco/bbox_mAP': 0.34}, None, 'seed')
    limits = {'macs': Limit(None, 310 * 10**6)}
    return MeasuredFront('macs', 'coco/bbox_mAP', rule, (*networks, seed), fields.get('limits', limits))


def test_networks_stand_at_their_cost_with_their_numbers():
    figure = measured_figure(front())
    points = drawn(figure, 'points').get_offsets().tolist()
    assert points == [pytest.approx([100 + 50 * k, REACHED[k]]) for k in range(8)]
    chosen, seed = drawn(figure, 'chosen'), drawn(figure, 'seed')
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == pytest.approx((300, 0.36))
    assert (seed.get_xdata()[0], seed.get_ydata()[0]) == pytest.approx((320, 0.34))
    assert chosen.get_marker() != seed.get_marker()
    assert drawn(figure, 'limit').get_xdata() == [310, 310]
    said = {*map(str, (0, 1, 2, 3, 5, 6, 7)), '4, chosen: 300.0 M, 0.36', 'seed: 320.0 M, 0.34', 'limit 310.0 M'}
    assert said <= words(figure)
    assert {'M multiply-adds', 'coco/bbox_mAP (higher is better)', '8 networks of one search'} <= words(figure)


@pytest.mark.parametrize(('rule', 'kept'), [('greater', [0, 1, 3, 4, 5, 6]), ('less', [0])])
def test_a_line_joins_what_no_cheaper_network_equals(rule, kept):
    line = drawn(measured_figure(front(rule)), 'best')
    assert line.get_xdata().tolist() == pytest.approx([100 + 50 * k for k in kept])
    assert line.get_ydata().tolist() == pytest.approx([REACHED[k] for k in kept])


def test_what_was_not_measured_is_left_out_or_shown_by_its_score():
    some = measured_figure(front(measured=5))
    assert len(drawn(some, 'points').get_offsets()) == 5
    assert '8 networks of one search; 3 of all not measured' in words(some)
    none = front(measured=0)
    networks = tuple(network for network in none.networks if network.origin != 'seed')
    figure = measured_figure(MeasuredFront('params', none.rank_by, 'greater', networks))
    assert drawn(figure, 'points').get_offsets().tolist()[7] == pytest.approx([800, 2 - 7 / 8])
    assert {'score (lower is better)', 'k parameters', '4, chosen: 500.0 k, 1.5'} <= words(figure)
    assert boxes(figure, 'limit') == {}


def test_no_text_covers_another_or_leaves_the_figure():
    both = {'macs': Limit(90 * 10**6, 440 * 10**6), 'params': Limit(5, 10**7)}
    for value in (front(), front('less'), front(limits=both)):
        figure = measured_figure(value)
        shown = texts(figure)
        assert overlaps(shown) == []
        width, height = figure.canvas.get_width_height()
        extents = [text.get_window_extent() for text in shown]
        assert [e for e in extents if e.x0 < 0 or e.y0 < 0 or e.x1 > width or e.y1 > height] == []
    assert (
        by_gid(figure, 'note')['note']
        .get_text()
        .endswith('; limits: 90.00 M to 440.0 M MAdds, 5 to 10.00 M parameters')
    )
    assert sorted(line.get_xdata()[0] for line in figure.findobj(lambda a: a.get_gid() == 'limit')) == [90, 440]


def test_a_figure_is_drawn_from_a_file(tmp_path):
    front().write(tmp_path)
    assert draw_measured(tmp_path, tmp_path / 'a.png') == tmp_path / 'a.png'
    assert png_size((tmp_path / 'a.png').read_bytes()) == (1400, 650)
    (tmp_path / 'front.json').write_text('{}')
    with pytest.raises(ValueError, match=r'front\.json has no measured networks'):
        draw_measured(tmp_path, tmp_path / 'b.png')


def test_the_table_has_the_seed_at_its_cost_and_what_was_trained():
    rows = front_cells(front(measured=7), {1: {'coco/bbox_mAP': 0.4, 'loss': 3.0}})
    assert rows[0] == [
        'K', 'MAdds', 'parameters', 'coco/bbox_mAP', 'score', 'coco/bbox_mAP, trained', 'origin', 'network',
    ]  # fmt: skip
    assert [row[0] for row in rows[1:]] == ['0', '1', '2', '3', '4', '', '5', '6', '7']
    assert rows[2] == ['1', '150.0 M', '200.0 k', '0.3350', '1.8750', '0.4000', 'front', '4: k3_e1 k3_e1']
    assert rows[6][:7] == ['', '320.0 M', '1.000 M', '0.3400', '–', '–', 'seed']
    assert rows[9][3] == '–'
    text = front_table(front(), networks=False)
    assert 'k3_e1' not in text
    assert 'trained' not in text
    assert len(text.splitlines()) == 2 + 9
    # a trained metric of another name than the measured one
    assert [row[5] for row in front_cells(front(), {0: {'mIoU': 41.5}})[:2]] == ['mIoU, trained', '41.50']


def test_the_page_of_a_search_shows_them(tmp_path):
    front().write(tmp_path)
    (tmp_path / 'derived').mkdir()
    (tmp_path / 'derived' / 'arch.json').write_text(arch(5).format('json'))
    (tmp_path / 'run.json').write_text('{"report": {"method": "gradient", "input_size": [64, 64]}}')
    written = write_report(tmp_path)
    assert [path.name for path in written] == ['network.png', 'front.png', 'report.html']
    assert written[1] == tmp_path / 'front.png'
    check_page(written, 8)


def test_the_page_of_a_distillation_shows_them_beside_the_exact_front(tmp_path):
    selection = distilled.hand_front()
    ratings = selection.ratings
    networks = tuple(
        MeasuredNetwork(ratings.arch(choice), ratings.costs(choice), {'feature_error': 0.5}, ratings.rating(choice))
        for choice in selection.spread(3)
    )
    selection.write(tmp_path, MeasuredFront('macs', 'feature_error', 'less', networks))
    written = write_report(tmp_path)
    assert written == (tmp_path / 'report/front.png', tmp_path / 'front.png', tmp_path / 'report.html')
    check_page(written, 3)
    elsewhere = write_report(tmp_path, tmp_path / 'out')
    assert [path.name for path in elsewhere] == ['front.png', 'measured.png', 'report.html']


def check_page(written, count):
    """The page has a row and a point for each network of the front, and says how one of them is trained."""
    page = Page(written[-1].read_text(encoding='utf-8'))
    numbers = [row[0] for row in page.rows if 'K = ' in row[0]]
    assert len(numbers) >= count - 1  # the found one has its own title
    assert '--pick K trains network K' in page.text
