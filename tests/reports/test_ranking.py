import pytest

from mmnas_ext.reports import draw_front, draw_rank
from mmnas_ext.reports.ranking import front_figure, rank_figure, read_rank
from mmnas_ext.reports.table import cost_scale, format_cost, name_metric
from mmnas_ext.search.front_file import FrontFile
from mmnas_ext.search.select import select
from tests.reports.distilled import (
    HAND_COSTS,
    HAND_RATINGS,
    RANK,
    changed,
    drawn,
    hand,
    hand_front,
    words,
    write,
)
from tests.reports.drawn import by_gid


def test_the_front_is_a_staircase_in_millions(tmp_path):
    figure = front_figure(FrontFile.parse(hand_front().write(tmp_path)))
    line = drawn(figure, 'front')
    assert line.get_drawstyle() == 'steps-post'
    # the last rating holds on for 0.06 of the range, 54 M
    assert line.get_xdata().tolist() == pytest.approx([*HAND_COSTS, 70 + 0.06 * 54])
    assert line.get_ydata().tolist() == pytest.approx([*HAND_RATINGS, 1.0])
    assert drawn(figure, 'limit').get_xdata() == [55, 55]
    chosen = drawn(figure, 'chosen')
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == pytest.approx((50, 1.1))
    assert {'chosen: 50.00 M, 1.100', 'limit 55.00 M', 'M multiply-adds'} <= words(figure)
    assert by_gid(figure, 'note')['note'].get_text() == 'networks that no other one beats: 7'


def test_several_limits_are_named(tmp_path):
    found = select(hand(), {'params': 6000, 'macs': 60 * 10**6})
    figure = front_figure(FrontFile.parse(found.write(tmp_path)))
    note = by_gid(figure, 'note')['note'].get_text()
    assert note.endswith('; limits: 6.000 k parameters, 60.00 M MAdds')
    assert {'limit 6.000 k', 'k parameters'} <= words(figure)


def test_a_front_without_a_limit(tmp_path):
    figure = front_figure(FrontFile.parse(select(hand()).write(tmp_path)))
    # 0.3 for 30 M and 0.7 for 40 M
    assert {'chosen: 70.00 M, 1.000'} <= words(figure)
    assert by_gid(figure, 'limit') == {}


def test_a_long_front_is_thinned_and_keeps_its_end(tmp_path):
    content = {
        'metric': 'latency',
        'costs': [3 + i / 1000 for i in range(9000)],
        'ratings': list(range(9000, 0, -1)),
        'choices': [[0]] * 9000,
        'limits': {},
        'chosen': {'costs': {'latency': 3}, 'rating': 9000, 'choice': [0]},
        'arch': hand_front().arch.format('fna'),
    }
    figure = front_figure(FrontFile.parse(write(tmp_path, 'front.json', content)))
    ratings = drawn(figure, 'front').get_ydata()
    assert 2000 <= len(ratings) <= 4001
    assert ratings[-1] == 1
    assert {'ms', 'chosen: 3 ms, 9000.000'} <= words(figure)


def test_a_front_of_another_form_is_not_drawn(tmp_path):
    path = write(tmp_path, 'front.json', {'metric': 'macs'})
    with pytest.raises(ValueError, match=r'front\.json lacks costs'):
        draw_front(path, tmp_path / 'a.png')
    assert not (tmp_path / 'a.png').exists()


def test_costs_are_written_in_units_that_read_well():
    assert [cost_scale('macs', x) for x in (3.5e8, 4e9)] == [(1e6, 'M multiply-adds'), (1e9, 'G multiply-adds')]
    assert [cost_scale('params', x) for x in (5e5, 4e6)] == [(1e3, 'k parameters'), (1e6, 'M parameters')]
    assert cost_scale('energy', 7) == (1, 'energy')
    assert [name_metric(name) for name in ('macs', 'params', 'latency')] == ['MAdds', 'parameters', 'latency']
    assert [format_cost('macs', 3.5e8), format_cost('latency', 12.345)] == ['350.0 M', '12.3 ms']


def test_ranks_are_drawn_a_panel_a_score(tmp_path):
    figure = rank_figure(read_rank(write(tmp_path, 'rank.json', RANK)))
    assert drawn(figure, 'points.rated').get_offsets().tolist() == [[1.5, 60], [1.2, 62], [1.3, 61]]
    # b has no one-shot score
    assert drawn(figure, 'points.one-shot').get_offsets().tolist() == [[0.4, 60], [0.6, 61]]
    assert drawn(figure, 'points.rated').get_array().tolist() == [100, 200, 300]
    assert drawn(figure, 'tau.rated').get_text() == 'τ = 1.00  [\N{MINUS SIGN}0.25, 1.00]'
    assert {'mIoU (higher is better)', 'rated (lower is better)', 'M multiply-adds'} <= words(figure)
    lower = rank_figure(read_rank(write(tmp_path, 'rank.json', changed(RANK, 'higher_is_better', to=False))))
    assert 'mIoU (lower is better)' in words(lower)


def test_figures_of_many_decimals_leave_room_for_what_they_are(tmp_path):
    networks = [{**network, 'truth': 0.59 + 0.0004 * i} for i, network in enumerate(RANK['networks'])]
    figure = rank_figure(read_rank(write(tmp_path, 'rank.json', changed(RANK, 'networks', to=networks))))
    figure.draw_without_rendering()
    (axes,) = (axes for axes in figure.axes if axes.get_label() == 'rank.rated')
    assert any(len(label.get_text()) == 6 for label in axes.get_yticklabels())
    assert axes.yaxis.label.get_window_extent().x0 >= 0


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (changed(RANK, 'networks', to=RANK['networks'][:1]), 'networks must be at least two to be ranked, got 1'),
        (changed(RANK, 'tau', 'rated', to=[1.0]), r'tau rated must be \[tau, low, high\], got 1 numbers'),
        (changed(RANK, 'higher_is_better', to=1), 'higher_is_better must be true or false, got 1'),
        (changed(RANK, 'networks', 1, 'truth', to=None), r'rank\.json: network 1: truth must be a number, got None'),
        (
            changed(RANK, 'networks', to=[{**n, 'scores': {}} for n in RANK['networks']]),
            'a network must have a score, got none',
        ),
    ],
)
def test_ranks_of_another_form_are_refused(tmp_path, value, message):
    path = write(tmp_path, 'rank.json', value)
    with pytest.raises(ValueError, match=message):
        draw_rank(path, tmp_path / 'a.png')
    assert not (tmp_path / 'a.png').exists()
