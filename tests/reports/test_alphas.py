import pytest

from mmnas_ext.archs import SearchSpace, SpaceStage, zoo
from mmnas_ext.reports import draw_alphas, read_log
from mmnas_ext.reports.alphas import alphas_figure
from mmnas_ext.reports.log import Record, SearchLog
from tests.reports.drawn import by_gid, overlaps, png_size, texts
from tests.reports.simulated import search_log, write_log

DET = zoo.space('fna_det')
LAYERS = ('k3_e3', 'k5_e3', 'k7_e6')
SMALL = SearchSpace(
    (
        SpaceStage(32, 16, (('k3_e1',),), 1),
        SpaceStage(16, 24, (LAYERS, (*LAYERS, 'skip')), 2),
        SpaceStage(24, 40, (LAYERS,), 2),
    )
)


def records_of(space, **settings):
    return SearchLog.of(Record.parse(record, 'test') for record in search_log(space, **settings))


def record(iteration, rows, **changes):
    entry = {
        'iter': iteration,
        'epoch': 1,
        'alpha': rows,
        'entropy': {'1.0': 0.9, '1.1': 0.5, '2.0': 0.7},
        'expected_macs': 3e9,
        'argmax_macs': 2000000000,
        'skips': 0,
    }
    return Record.parse(entry | changes, 'test')


# written by hand: the first layer turns to k7_e6, the second to skip, the third rests
RECORDS = (
    record(100, {'1.0': [0.3, 0.3, 0.4], '1.1': [0.3, 0.3, 0.2, 0.2], '2.0': [0.5, 0.25, 0.25]}),
    record(200, {'1.0': [0.3, 0.3, 0.4], '1.1': [0.3, 0.3, 0.2, 0.2], '2.0': [0.5, 0.25, 0.25]}),
    record(300, {'1.0': [0.2, 0.2, 0.6], '1.1': [0.2, 0.2, 0.2, 0.4], '2.0': [0.5, 0.25, 0.25]}, skips=1),
    record(
        400,
        {'1.0': [0.1, 0.1, 0.8], '1.1': [0.1, 0.1, 0.1, 0.7], '2.0': [0.5, 0.25, 0.25]},
        expected_macs=2.5e9,
        argmax_macs=1500000000,
        skips=1,
        entropy={'1.0': 0.6, '1.1': 0.3, '2.0': 0.6},
    ),
)


HAND = SearchLog.of(RECORDS)


def axes_of(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines if line.get_gid() != 'start'}


def test_a_panel_a_searched_layer_and_three_strips():
    figure = alphas_figure(records_of(DET, count=8, start=150), DET)
    layers = [(stage, layer) for stage in range(1, 6) for layer in range(4)] + [(6, 0)]
    wanted = {f'alpha.{stage}.{layer}' for stage, layer in layers} | {'entropy', 'macs', 'skips'}
    assert set(axes_of(figure)) == wanted
    assert len(figure.axes) == 24


def test_a_line_a_candidate():
    panels = axes_of(alphas_figure(records_of(DET, count=8, start=150), DET))
    seven = ['k3_e3', 'k3_e6', 'k5_e3', 'k5_e6', 'k7_e3', 'k7_e6', 'skip']
    assert list(lines_of(panels['alpha.3.2'])) == seven
    assert list(lines_of(panels['alpha.3.0'])) == seven[:6]


def test_lines_show_the_values_of_the_log():
    panels = axes_of(alphas_figure(HAND, SMALL))
    skip = lines_of(panels['alpha.1.1'])['skip']
    assert list(skip.get_xdata()) == [100, 200, 300, 400]
    assert list(skip.get_ydata()) == [0.2, 0.2, 0.4, 0.7]
    assert list(lines_of(panels['alpha.2.0'])['k3_e3'].get_ydata()) == [0.5] * 4


def test_titles_name_the_leading_candidate():
    panels = axes_of(alphas_figure(HAND, SMALL))
    assert panels['alpha.1.0'].get_title('right') == 'k7_e6  0.80'
    assert panels['alpha.1.1'].get_title('right') == 'skip  0.70'
    assert panels['alpha.2.0'].get_title('right') == 'k3_e3  0.50'
    lines = lines_of(panels['alpha.1.0'])
    assert lines['k7_e6'].get_linewidth() > lines['k3_e3'].get_linewidth() == lines['k5_e3'].get_linewidth()


def test_strips_show_entropy_madds_and_skips():
    panels = axes_of(alphas_figure(HAND, SMALL))
    entropy = lines_of(panels['entropy'])
    # (0.9 + 0.5 + 0.7) / 3 and (0.6 + 0.3 + 0.6) / 3
    assert list(entropy['mean'].get_ydata()) == pytest.approx([0.7, 0.7, 0.7, 0.5])
    assert list(entropy['least layer'].get_ydata()) == [0.5, 0.5, 0.5, 0.3]
    macs = lines_of(panels['macs'])
    assert list(macs['expected'].get_ydata()) == [3e9, 3e9, 3e9, 2.5e9]
    assert list(macs['argmax'].get_ydata()) == [2e9, 2e9, 2e9, 1.5e9]
    assert list(lines_of(panels['skips'])['skips'].get_ydata()) == [0, 0, 1, 1]


def test_a_search_by_latency_shows_its_latency():
    with_latency = [
        record(10 * index, RECORDS[0].alpha and {k: list(v) for k, v in RECORDS[0].alpha.items()},
               expected_latency=20.0 - index, argmax_latency=18.0 - index)
        for index in (1, 2)
    ]  # fmt: skip
    panels = axes_of(alphas_figure(SearchLog.of(with_latency), SMALL))
    assert [name for name in panels if not name.startswith('alpha')] == ['entropy', 'macs', 'latency', 'skips']
    latency = lines_of(panels['latency'])
    assert list(latency['expected'].get_ydata()) == [19, 18]
    assert list(latency['argmax'].get_ydata()) == [17, 16]
    panels['latency'].figure.draw_without_rendering()
    assert [text.get_text() for text in panels['latency'].get_yticklabels()][1].endswith(' ms')
    assert panels['latency'].get_title('left') == 'Latency'


def test_a_vertical_line_stands_where_arch_steps_start():
    figure = alphas_figure(HAND, SMALL)
    starts = {
        axes.get_label(): list(line.get_xdata())
        for axes in figure.axes
        for line in axes.lines
        if line.get_gid() == 'start'
    }
    assert starts == {name: [300, 300] for name in axes_of(figure)}
    assert by_gid(figure, 'note')['note'].get_text().endswith('iterations 100 to 400; arch steps seen from 300')


def test_no_vertical_line_where_the_start_is_not_known():
    figure = alphas_figure(SearchLog.of(RECORDS[1:]), SMALL)
    assert [line for axes in figure.axes for line in axes.lines if line.get_gid() == 'start'] == []
    assert by_gid(figure, 'note')['note'].get_text().endswith('iterations 200 to 400')


def test_all_panels_share_their_limits():
    panels = axes_of(alphas_figure(HAND, SMALL))
    limits = {axes.get_ylim() for name, axes in panels.items() if name.startswith('alpha')}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low <= 0.1
    assert 0.8 <= high <= 0.9


def test_the_noise_of_first_values_does_not_look_like_a_movement():
    rows = {'1.0': [0.333, 0.334, 0.333], '1.1': [0.25] * 4, '2.0': [0.334, 0.333, 0.333]}
    still = SearchLog.of([record(1, rows), record(2, rows)])
    low, high = axes_of(alphas_figure(still, SMALL))['alpha.1.0'].get_ylim()
    assert high - low >= 0.1
    low, high = axes_of(alphas_figure(still, SMALL))['macs'].get_ylim()
    assert low < 2e9
    assert high > 3e9


def test_one_legend_names_every_candidate():
    for space, records in ((DET, records_of(DET, count=4, start=100)), (SMALL, HAND)):
        figure = alphas_figure(records, space)
        assert len(figure.legends) == 1
        named = [text.get_text() for text in figure.legends[0].get_texts()]
        wanted = ['k3_e3', 'k3_e6', 'k5_e3', 'k5_e6', 'k7_e3', 'k7_e6', 'skip'] if space is DET else [*LAYERS, 'skip']
        assert named == wanted


def test_a_single_record_is_seen():
    line = lines_of(axes_of(alphas_figure(SearchLog.of(RECORDS[:1]), SMALL))['alpha.1.0'])['k3_e3']
    assert line.get_marker() == 'o'
    assert lines_of(axes_of(alphas_figure(HAND, SMALL))['alpha.1.0'])['k3_e3'].get_marker() == ''


def test_values_that_are_nan_leave_a_gap(tmp_path):
    nan = float('nan')
    rows = {'1.0': [nan] * 3, '1.1': [nan] * 4, '2.0': [nan] * 3}
    broken = SearchLog.of([*RECORDS, record(500, rows, expected_macs=nan, entropy={'1.0': nan})])
    assert png_size(draw_alphas(broken, SMALL, tmp_path / 'a.png').read_bytes())[0] == 1400


@pytest.mark.parametrize(
    ('space', 'settings'),
    [('fna_det', {}), ('fna_det', {'latency': 20.0}), ('fna_seg', {'every': 20000, 'count': 6}), ('small', {})],
)
def test_no_text_covers_another_or_leaves_the_figure(space, settings):
    found = SMALL if space == 'small' else zoo.space(space)
    records = HAND if space == 'small' else records_of(found, **({'count': 10, 'start': 300} | settings))
    figure = alphas_figure(records, found)
    shown = texts(figure)
    assert len(shown) > 20
    assert overlaps(shown) == []
    width, height = figure.canvas.get_width_height()
    extents = [text.get_window_extent() for text in shown]
    assert [e for e in extents if e.x0 < 0 or e.y0 < 0 or e.x1 > width or e.y1 > height] == []


def test_the_figure_of_a_work_dir(tmp_path):
    write_log(tmp_path / 'search_log.jsonl', search_log(SMALL, count=6, start=150))
    for source, name in ((tmp_path, 'a.png'), (read_log(tmp_path), 'b.png')):
        assert draw_alphas(source, SMALL, tmp_path / name) == tmp_path / name
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()
    # two layers high: title and legend 130, rows 134, strips 250
    assert png_size((tmp_path / 'a.png').read_bytes()) == (1400, 648)


def test_a_missing_log_and_a_foreign_space_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='no search log at'):
        draw_alphas(tmp_path, SMALL, tmp_path / 'a.png')
    with pytest.raises(ValueError, match='do log and space belong together'):
        draw_alphas(HAND, DET, tmp_path / 'a.png')
    assert not (tmp_path / 'a.png').exists()


def test_legends_of_four_strips_leave_their_headings_free():
    figure = alphas_figure(records_of(DET, count=8, start=150, latency=20.0), DET)
    figure.draw_without_rendering()
    strips = [axes_of(figure)[name] for name in ('entropy', 'macs', 'latency')]
    for axes in strips:
        headings = [text for text in texts(figure) if text.get_text() == axes.get_title('left')]
        assert len(headings) == 1
        assert headings[0].get_window_extent().x1 < axes.get_legend().get_window_extent().x0
