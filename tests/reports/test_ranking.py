import pytest

from mmnas_ext.reports import (
    draw_front,
    draw_rank,
)
from mmnas_ext.reports.blockwise import read_front, read_rank
from mmnas_ext.reports.canvas import cost_scale, format_cost
from mmnas_ext.reports.ranking import front_figure, rank_figure
from tests.reports.distilled import FRONT, RANK, changed, drawn, words, write
from tests.reports.drawn import by_gid


def test_the_front_is_a_staircase_in_millions(tmp_path):
    figure = front_figure(read_front(write(tmp_path, 'front.json', FRONT)))
    line = drawn(figure, 'front')
    assert line.get_drawstyle() == 'steps-post'
    # the last rating holds on for 0.06 of the range
    assert line.get_xdata().tolist() == pytest.approx([200, 300, 500, 518])
    assert line.get_ydata().tolist() == [1.4, 1.2, 1.0, 1.0]
    assert drawn(figure, 'limit').get_xdata() == [350, 350]
    marks = {
        gid: (a.get_xdata()[0], a.get_ydata()[0]) for gid in ('chosen', 'other.seed') for a in [drawn(figure, gid)]
    }
    assert marks == {'chosen': (300, 1.2), 'other.seed': (340, 1.5)}
    wanted = {'chosen: 300.0 M, 1.200', 'seed: 340.0 M, 1.500', 'limit 350.0 M', 'M multiply-adds'}
    assert wanted <= words(figure)


def test_a_front_alone_is_enough(tmp_path):
    bare = {'metric': 'latency', 'costs': [3.5], 'ratings': [1], 'chosen': None}
    figure = front_figure(read_front(write(tmp_path, 'front.json', bare)))
    assert drawn(figure, 'front').get_xdata()[0] == 3.5
    assert 'ms' in words(figure)
    assert by_gid(figure, 'limit') == {}


def test_a_long_front_is_thinned_and_keeps_its_end(tmp_path):
    long = {**FRONT, 'costs': list(range(10**6, 10**6 + 9000)), 'ratings': list(range(9000, 0, -1))}
    figure = front_figure(read_front(write(tmp_path, 'front.json', long | {'chosen': None, 'others': []})))
    ratings = drawn(figure, 'front').get_ydata()
    assert 2000 <= len(ratings) <= 4001
    assert ratings[-1] == 1


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (changed(FRONT, 'costs', to=[2e8, 3e8]), 'costs and ratings must be as many, got 2 and 3'),
        (changed(FRONT, 'costs', 2, to=3e8), r'costs must ascend, got 300000000\.0 before 300000000\.0'),
        (changed(FRONT, 'ratings', 1, to=1.5), r'ratings must descend, got 1\.4 before 1\.5'),
        (changed(FRONT, 'costs', to=[]), 'costs must hold at least one'),
        (changed(FRONT, 'metric', to='latency'), "network chosen must have the front's cost latency"),
        (changed(FRONT, 'limits', 'macs', to='much'), "limit macs must be a number, got 'much'"),
        (changed(FRONT, 'others', 0, to={'title': 'seed'}), r'front\.json: seed lacks costs'),
    ],
)
def test_fronts_of_another_form_are_refused(tmp_path, value, message):
    path = write(tmp_path, 'front.json', value)
    with pytest.raises(ValueError, match=message):
        draw_front(path, tmp_path / 'a.png')
    assert not (tmp_path / 'a.png').exists()


def test_costs_are_written_in_units_that_read_well():
    assert [cost_scale('macs', x) for x in (3.5e8, 4e9)] == [(1e6, 'M multiply-adds'), (1e9, 'G multiply-adds')]
    assert [cost_scale('params', x) for x in (5e5, 4e6)] == [(1e3, 'k parameters'), (1e6, 'M parameters')]
    assert cost_scale('energy', 7) == (1, 'energy')
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
        (changed(RANK, 'networks', to=[{**n, 'scores': {}} for n in RANK['networks']]), 'no network has a score'),
    ],
)
def test_ranks_of_another_form_are_refused(tmp_path, value, message):
    path = write(tmp_path, 'rank.json', value)
    with pytest.raises(ValueError, match=message):
        draw_rank(path, tmp_path / 'a.png')
    assert not (tmp_path / 'a.png').exists()
