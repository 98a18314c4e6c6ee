import json

import pytest

from mmnas_ext.archs import ArchSpec, SearchSpace, SpaceStage, StageSpec
from mmnas_ext.reports.log import Record, SearchLog, argmax_path, check_records, read_log, searched_layers

SPACE = SearchSpace(
    (
        SpaceStage(32, 16, (('k3_e1',),), 1),
        SpaceStage(16, 24, (('k3_e3', 'k7_e6'), ('k3_e3', 'k5_e6', 'skip')), 2),
    )
)


def entry(iteration, first=(0.5, 0.5), second=(0.25, 0.25, 0.5), **changes):
    return {
        'iter': iteration,
        'epoch': 1,
        'alpha': {'1.0': list(first), '1.1': list(second)},
        'entropy': {'1.0': 1.0, '1.1': 0.9},
        'expected_macs': 1.5e6,
        'argmax_macs': 1000000,
        'skips': 1,
        'drawn': {'1.0': [3, 4], '1.1': [1, 2, 4]},
    } | changes


def record(iteration, **changes):
    return Record.parse(entry(iteration, **changes), 'test')


def log_of(folder, *lines):
    path = folder / 'search_log.jsonl'
    path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding='utf-8')
    return path


def test_a_log_is_read_from_its_file_or_its_work_dir(tmp_path):
    path = log_of(tmp_path, entry(10), entry(20, expected_macs=1.25e6))
    log = read_log(path)
    assert log == read_log(tmp_path) == read_log(str(tmp_path))
    assert [kept.iteration for kept in log.records] == [10, 20]
    assert log.records[1].expected == {'macs': 1.25e6}
    assert log.records[0].alpha == {'1.0': (0.5, 0.5), '1.1': (0.25, 0.25, 0.5)}
    assert log.records[0].entropy['1.1'] == 0.9
    assert (log.records[0].argmax, log.records[0].skips, log.records[0].epoch) == ({'macs': 1000000}, 1, 1)
    assert (log.count, log.unreadable, log.repeated) == (2, 0, 0)


@pytest.mark.parametrize('kept', [1, 12, 60, -1])
def test_a_half_written_last_line_is_left_out(tmp_path, kept):
    log = read_log(log_of(tmp_path, entry(10), entry(20), json.dumps(entry(30))[:kept]))
    assert [kept.iteration for kept in log.records] == [10, 20]
    assert log.unreadable == 1


def test_a_whole_last_line_counts_without_its_line_end(tmp_path):
    path = log_of(tmp_path, entry(10), entry(20))
    assert not path.read_bytes().endswith(b'\n')
    assert [kept.iteration for kept in read_log(path).records] == [10, 20]


def test_a_resumed_run_goes_on_behind_a_stump(tmp_path):
    stump = json.dumps(entry(30))[:50]
    log = read_log(log_of(tmp_path, entry(10), stump + json.dumps(entry(30)), entry(40), ''))
    assert [kept.iteration for kept in log.records] == [10, 40]
    assert log.unreadable == 1


def test_bytes_that_are_no_text_are_left_out(tmp_path):
    path = tmp_path / 'search_log.jsonl'
    path.write_bytes(json.dumps(entry(10)).encode() + b'\n\x00\x00\xff\xfe{"iter\n' + b'[' * 100000 + b'\n')
    log = read_log(path)
    assert [kept.iteration for kept in log.records] == [10]
    assert log.unreadable == 2


def test_of_a_repeated_iteration_the_last_counts(tmp_path):
    lines = [entry(10), entry(20, skips=5), entry(30, skips=6), entry(20, skips=7), entry(30, skips=8), entry(40)]
    log = read_log(log_of(tmp_path, *lines))
    assert [(kept.iteration, kept.skips) for kept in log.records] == [(10, 1), (20, 7), (30, 8), (40, 1)]
    assert log.repeated == 2


def test_what_a_killed_run_logged_beyond_its_checkpoint_is_dropped(tmp_path):
    # to 40, then on from 20, and not yet beyond 30
    lines = [entry(10), entry(20), entry(30, skips=6), entry(40, skips=7), entry(30, skips=8)]
    log = read_log(log_of(tmp_path, *lines))
    assert [(kept.iteration, kept.skips) for kept in log.records] == [(10, 1), (20, 1), (30, 8)]
    assert (log.count, log.repeated) == (3, 2)
    assert [kept.iteration for kept in read_log(log_of(tmp_path, entry(30), entry(10), entry(20))).records] == [10, 20]


def test_costs_are_read_by_metric(tmp_path):
    kept = read_log(log_of(tmp_path, entry(10, expected_latency=12.5, argmax_latency=11.0))).records[0]
    assert (kept.expected, kept.argmax) == ({'macs': 1.5e6, 'latency': 12.5}, {'macs': 1e6, 'latency': 11.0})


def test_no_log_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no search log at .*search_log\.jsonl'):
        read_log(tmp_path)


@pytest.mark.parametrize(('lines', 'count'), [((), 0), (('', '  '), 0), (('{"iter": 1',), 1)])
def test_a_log_without_a_complete_record(tmp_path, lines, count):
    with pytest.raises(ValueError, match=rf'holds no complete record \({count} unreadable lines\)'):
        read_log(log_of(tmp_path, *lines))


@pytest.mark.parametrize(
    ('broken', 'message'),
    [
        ([1, 2], r'line 2 must be an object, got \[1, 2\]'),
        ({'iter': 3}, 'line 2: the record lacks epoch, alpha, entropy'),
        (entry(1, alpha=[1]), r'line 2: alpha must be an object, got \[1\]'),
        (entry(1, alpha={'1.0': 0.5}), r'line 2: alpha 1\.0 must be a list, got 0\.5'),
        (entry(1, alpha={'1.0': ['a']}), r"line 2: alpha 1\.0 must be a number, got 'a'"),
        (entry(1, entropy={'1.0': None}), r'line 2: entropy 1\.0 must be a number, got None'),
        (entry(1.5), r'line 2: iter must be an integer, got 1\.5'),
        (entry(1, skips=True), 'line 2: skips must be an integer, got True'),
        (entry(1, expected_macs='1 G'), "line 2: expected_macs must be a number, got '1 G'"),
        (
            entry(1, expected_latency=3.0),
            r"must have expected_<metric> and argmax_<metric>, got \['macs', 'latency'\] and \['macs'\]",
        ),
        ({k: v for k, v in entry(1).items() if not k.endswith('macs')}, 'argmax_<metric>, got none and none'),
        (entry(-1), r'a step must lie in 0\.\.2\*\*63 - 1, got -1'),
    ],
)
def test_a_complete_line_of_another_form_is_an_error(tmp_path, broken, message):
    with pytest.raises(ValueError, match=message):
        read_log(log_of(tmp_path, entry(10), broken, entry(20)))


def test_searched_layers_are_those_with_a_choice():
    assert searched_layers(SPACE) == ((1, 0), (1, 1))


def test_a_log_of_another_space_is_refused():
    other = SearchSpace((SpaceStage(32, 16, (('k3_e1', 'k5_e1', 'k7_e1'),), 1),))
    with pytest.raises(
        ValueError, match=r'iteration 10: layer 0\.0 has 3 candidates in the space, but 0 probabilities'
    ):
        check_records((record(10),), other)
    with pytest.raises(
        ValueError, match=r'iteration 20: layer 1\.0 has 2 candidates in the space, but 3 probabilities'
    ):
        check_records((record(10), record(20, first=(0.2, 0.3, 0.5))), SPACE)


def test_nothing_to_show_is_refused():
    fixed = SearchSpace((SpaceStage(32, 16, (('k3_e1',),), 1),))
    with pytest.raises(ValueError, match='got only fixed layers'):
        check_records((record(10),), fixed)
    with pytest.raises(ValueError, match='at least one record, got none'):
        SearchLog.of(())


@pytest.mark.parametrize(
    ('first', 'second', 'path', 'layers'),
    [
        ((0.4, 0.6), (0.2, 0.5, 0.3), ((0,), (1, 1)), ('k7_e6', 'k5_e6')),
        ((0.6, 0.4), (0.2, 0.3, 0.5), ((0,), (0, 2)), ('k3_e3',)),
        ((0.5, 0.5), (0.4, 0.4, 0.2), ((0,), (0, 0)), ('k3_e3', 'k3_e3')),
    ],
)
def test_the_leading_network(first, second, path, layers):
    found = argmax_path(record(10, first=first, second=second), SPACE)
    assert found == path
    wanted = ArchSpec((StageSpec(32, 16, ('k3_e1',), 1), StageSpec(16, 24, layers, 2)))
    assert SPACE.arch(found) == wanted


def test_arch_steps_start_where_alpha_first_moves():
    moved = [record(10), record(20), record(30, first=(0.4, 0.6)), record(40, first=(0.3, 0.7))]
    assert SearchLog.of(moved).start == 30
    # the run that moved at 30 was resumed from 20, and has moved at 40 this time
    again = [record(30), record(40, first=(0.2, 0.8))]
    assert SearchLog.of([*moved, *again]).start == 40
    assert SearchLog.of([*moved, record(30)]).start is None


@pytest.mark.parametrize('values', [(0.5,), (0.5, 0.5, 0.5), (0.5, 0.4, 0.3)])
def test_the_start_is_not_known_if_the_log_does_not_show_it(values):
    records = tuple(record(10 * index, first=(value, 1 - value)) for index, value in enumerate(values))
    assert SearchLog.of(records).start is None
