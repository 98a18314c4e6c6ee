"""Logs in bounded memory: which records are kept, and what reading a long log takes."""

import json
import tracemalloc

import pytest

from mmnas_ext.reports import read_log
from mmnas_ext.reports.distill_log import find_losses
from mmnas_ext.reports.series import LIMIT, JsonLines, Series
from tests.reports import distilled
from tests.reports.distilled import record

LAYERS = [f'{stage}.{layer}' for stage in (1, 2) for layer in range(3)]


def filled(steps):
    series = Series()
    for step in steps:
        series.add(step, f'at {step}')
    return series


def test_a_short_series_is_kept_whole():
    series = filled([3, 5, 8])
    assert series.rows() == [(3, 'at 3'), (5, 'at 5'), (8, 'at 8')]
    assert (len(series), series.stride, series.repeated) == (3, 1, 0)


def test_a_long_series_is_thinned_evenly_between_its_ends():
    series = filled(range(0, 50_000, 10))
    # 5000 values: every second would be 2500, more than the limit; every fourth is 1250
    assert LIMIT == 2000
    assert series.stride == 4
    assert [step for step, _ in series.rows()] == [*range(0, 50_000, 40), 49_990]
    assert all(value == f'at {step}' for step, value in series.rows())
    assert len(series) == 5000


def test_a_resumed_run_drops_what_came_after_its_checkpoint():
    series = filled([*range(0, 30_000, 10), *range(20_000, 30_000, 10), 40_000])
    assert series.repeated == 1000
    assert len(series) == 3001
    assert [step for step, _ in series.rows()] == [*range(0, 30_000, 20), 40_000]
    again = filled([10, 20, 5])
    assert (again.rows(), again.repeated) == ([(5, 'at 5')], 2)


def test_a_deep_drop_is_known_to_a_stride(monkeypatch):
    monkeypatch.setattr('mmnas_ext.reports.series.RECENT', 100)
    monkeypatch.setattr('mmnas_ext.reports.series.LIMIT', 50)
    series = filled(range(0, 10_000, 10))
    stride = series.stride
    # among the newest it is exact: 20 values are dropped
    assert series.add(9_800, 'again') == 980
    assert (series.repeated, len(series)) == (20, 981)
    # 5001 is in place 501, which is no longer known: what follows the last kept value before it is dropped too
    place = series.add(5_001, 'far back')
    assert 501 - stride < place <= 501 and (place - 1) % stride == 0
    assert len(series) == place + 1
    assert series.repeated == 20 + 981 - place
    steps = [step for step, _ in series.rows()]
    assert steps == [*range(0, 10 * place, 10 * stride), 5_001]
    assert series.add(5_011, 'on') == place + 1


def test_lines_that_are_not_json_are_passed_over(tmp_path):
    (tmp_path / 'a').write_bytes(b'{"a": 1}\n\n{"a"\n')
    (tmp_path / 'b').write_bytes(b'\xff\xfe\n[2]')
    lines = JsonLines(tmp_path / 'a', tmp_path / 'b')
    assert list(lines) == [(f'{tmp_path / "a"} line 1', {'a': 1}), (f'{tmp_path / "b"} line 2', [2])]
    assert lines.unreadable == 2


def test_lines_that_no_parser_takes_are_counted(tmp_path):
    (tmp_path / 'a').write_bytes(b'[' * 100_000 + b'\n' + b'9' * 5000 + b'\n\xff\xfe\n3\n')
    lines = JsonLines(tmp_path / 'a')
    assert [value for _, value in lines] == [3]
    assert lines.unreadable == 3


def search_log(path, count):
    """A log of 6 layers of 7 candidates."""
    row = json.dumps({name: [0.142857] * 7 for name in LAYERS})
    entropy = json.dumps({name: 0.99 for name in LAYERS})
    with path.open('w') as file:
        for index in range(count):
            file.write(
                f'{{"iter": {index}, "epoch": 1, "alpha": {row}, "entropy": {entropy}, '
                '"expected_macs": 3e9, "argmax_macs": 2e9, "skips": 0}\n'
            )
    return path


def peak(read, path):
    """What a reader returns, and the most memory that it held, in bytes."""
    tracemalloc.start()
    found = read(path)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, size


def test_the_memory_of_a_search_log_does_not_grow_with_it(tmp_path, monkeypatch):
    # a smaller limit than in use, so that logs are long beside it
    monkeypatch.setattr('mmnas_ext.reports.series.LIMIT', 60)
    short, less = peak(read_log, search_log(tmp_path / 'short', 600))
    long, more = peak(read_log, search_log(tmp_path / 'long', 2400))
    assert (short.count, long.count) == (600, 2400)
    assert 30 <= len(long.records) <= 61
    assert [long.records[place].iteration for place in (0, -1)] == [0, 2399]
    # a record takes about 3 kB: 2400 of them would be 7 MB; a line needs some kB while it is read
    assert more < 500_000
    assert more - less < 50_000


def test_the_memory_of_a_distillation_log_does_not_grow_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr('mmnas_ext.reports.series.LIMIT', 100)
    found = []
    for count in (4000, 12_000):
        folder = tmp_path / str(count)
        path = distilled.write_log(folder, '1', [record(i, loss_block0=0.5, loss_block1=0.7) for i in range(count)])
        log, size = peak(find_losses, path)
        assert [[rows[place][0] for place in (0, -1)] for rows in log.losses.values()] == [[0, count - 1]] * 2
        found.append(size)
    # 24000 losses with their steps would take 3 MB
    assert found[1] < 600_000
    assert found[1] - found[0] < 200_000


def test_a_step_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r'a step must lie in 0\.\.2\*\*63 - 1, got 9223372036854775808'):
        Series().add(2**63, 0)
