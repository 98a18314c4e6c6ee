import json

import pytest

from mmnas_ext.archs import ArchSpec, SearchSpace, SpaceStage, StageSpec
from mmnas_ext.reports import Record, read_log
from mmnas_ext.reports.log import arch_start, argmax_path, check_records, searched_layers

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
    assert log.records[1].expected_macs == 1.25e6
    assert log.records[0].alpha == {'1.0': (0.5, 0.5), '1.1': (0.25, 0.25, 0.5)}
    assert log.records[0].entropy['1.1'] == 0.9
    assert (log.records[0].argmax_macs, log.records[0].skips, log.records[0].epoch) == (1000000, 1, 1)
    assert (log.unreadable, log.repeated) == (0, 0)


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


def test_records_come_by_rising_iteration(tmp_path):
    log = read_log(log_of(tmp_path, entry(30), entry(10), entry(20)))
    assert [kept.iteration for kept in log.records] == [10, 20, 30]


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
        ([1, 2], 'line 2: a record must be a JSON object, got list'),
        ({'iter': 3}, 'line 2: the record lacks epoch, alpha, entropy'),
        (entry(1, alpha=[1]), r'line 2: alpha must be an object keyed "<stage>\.<layer>", got \[1\]'),
        (entry(1, alpha={'1.0': 0.5}), r'line 2: alpha 1\.0 must be a list of probabilities, got 0\.5'),
        (entry(1, alpha={'1.0': ['a']}), r"line 2: alpha 1\.0 must be a number, got 'a'"),
        (entry(1, entropy={'1.0': None}), r'line 2: entropy 1\.0 must be a number, got None'),
        (entry(1.5), r'line 2: iter must be an integer, got 1\.5'),
        (entry(1, skips=True), 'line 2: skips must be an integer, got True'),
        (entry(1, expected_macs='1 G'), "line 2: expected_macs must be a number, got '1 G'"),
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
        check_records((), SPACE)


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
    assert arch_start(tuple(moved)) == 30


@pytest.mark.parametrize('values', [(0.5,), (0.5, 0.5, 0.5), (0.5, 0.4, 0.3)])
def test_the_start_is_not_known_if_the_log_does_not_show_it(values):
    records = tuple(record(10 * index, first=(value, 1 - value)) for index, value in enumerate(values))
    assert arch_start(records) is None
