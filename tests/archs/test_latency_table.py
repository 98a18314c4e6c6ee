"""Latency tables: written, read back, and what cannot be read."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mmnas_ext.archs import Geometry, LatencyTable

STEM = Geometry('stem', 3, 8, 2, 1, 64, 96)
LAYER = Geometry('k5_e3_se0.25', 8, 12, 1, 2, 32, 48)
TABLE = LatencyTable('a board', 4, ((STEM, 0.25), (LAYER, 1.5)), act='swish', channels_last=True, threads=2)
ROW = {'token': 'k3_e1', 'in_channels': 8, 'channels': 8, 'stride': 1, 'dilation': 1, 'height': 4, 'width': 5, 'ms': 1}
PLAIN = {'device': 'a board', 'batch_size': 1, 'entries': [ROW]}


def changed(**changes: Any) -> dict[str, Any]:
    return {**PLAIN, 'entries': [{**ROW, **changes}]}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    text = TABLE.format()
    file = tmp_path / 'latency.json'
    file.write_text(text)
    for source in (text, json.loads(text), file, str(file), TABLE):
        assert LatencyTable.parse(source) == TABLE


def test_the_text_is_json_with_a_line_a_layer() -> None:
    text = TABLE.format()
    assert json.loads(text) == {
        'device': 'a board', 'batch_size': 4, 'act': 'swish', 'channels_last': True, 'threads': 2,
        'entries': [
            {'token': 'stem', 'in_channels': 3, 'channels': 8, 'stride': 2, 'dilation': 1, 'height': 64, 'width': 96,
             'ms': 0.25},
            {'token': 'k5_e3_se0.25', 'in_channels': 8, 'channels': 12, 'stride': 1, 'dilation': 2, 'height': 32,
             'width': 48, 'ms': 1.5},
        ],
    }  # fmt: skip
    assert sum('"ms"' in line for line in text.splitlines()) == 2


def test_what_may_be_left_out() -> None:
    table = LatencyTable.parse(PLAIN)
    assert (table.act, table.channels_last, table.threads) == ('relu6', False, None)
    assert table == LatencyTable('a board', 1, ((Geometry('k3_e1', 8, 8, 1, 1, 4, 5), 1.0),))


def test_reading_leaves_what_is_read_alone() -> None:
    given = json.loads(json.dumps(PLAIN))
    LatencyTable.parse(given)
    assert given == PLAIN


def test_layers_are_looked_up() -> None:
    assert TABLE[LAYER] == 1.5
    assert STEM in TABLE
    assert LAYER._replace(dilation=1) not in TABLE
    assert str(LAYER) == 'k5_e3_se0.25 8 -> 12, stride 1, dilation 2, of 32x48'
    assert str(STEM) == 'stem 3 -> 8, stride 2, of 64x96'


def test_latencies_are_kept_to_the_nanosecond_and_tokens_in_one_form() -> None:
    table = LatencyTable('a board', 1, ((LAYER._replace(token='k5_e3_se.250'), 1.23456789),))
    assert table.entries == ((LAYER, 1.234568),)
    assert LatencyTable.parse(table.format()) == table


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r'latency table does not exist: gone.json; mmnas latency'):
        LatencyTable.parse('gone.json')


def test_errors_in_a_file_name_it(tmp_path: Path) -> None:
    file = tmp_path / 'latency.json'
    file.write_text('{"device": ')
    with pytest.raises(ValueError, match=r'latency table .*latency.json: the text is not JSON: '):
        LatencyTable.parse(file)


@pytest.mark.parametrize(('source', 'message'), [
    ('', 'latency table: the text is not JSON'),
    ('[1]', r'latency table: must be a JSON object, got \[1\]'),
    ('[' * 200_000, 'brackets are nested deeper than 64'),
    ('[' * 1_000_001, 'the text is too long, 1000001 characters; 1000000 are read'),
    ({}, "key 'device' is missing"),
    ({**PLAIN, 'dtype': 'half'}, "unknown key 'dtype', allowed are device, batch_size, entries, act, channels_"),
    ({**PLAIN, 'device': ''}, "device must be a name, got ''"),
    ({**PLAIN, 'device': 3}, 'device must be a name, got 3'),
    ({**PLAIN, 'batch_size': 0}, 'batch_size must be a positive integer, got 0'),
    ({**PLAIN, 'batch_size': True}, 'batch_size must be a positive integer, got True'),
    ({**PLAIN, 'threads': 1.5}, 'threads must be a positive integer, got 1.5'),
    ({**PLAIN, 'channels_last': 'yes'}, "channels_last must be true or false, got 'yes'"),
    ({**PLAIN, 'act': 'gelu'}, r"act must be one of \('relu6', 'swish', 'relu', 'hswish'\), got 'gelu'"),
    ({**PLAIN, 'entries': []}, 'entries must hold at least one layer, got none'),
    ({**PLAIN, 'entries': 'k3_e1'}, "entries must be a list of layers, got 'k3_e1'"),
    ({**PLAIN, 'entries': [ROW, 1]}, r'entries\[1\] must be a mapping, got 1'),
    ({**PLAIN, 'entries': [ROW, ROW]}, 'entries hold a layer twice: k3_e1 8 -> 8, stride 1, of 4x5'),
    ({**PLAIN, 'entries': [{'token': 'stem'}]}, r"entries\[0\]: key 'in_channels' is missing"),
    (changed(macs=1), r"entries\[0\]: unknown key 'macs', allowed are token, in_channels, .*, width, ms"),
    (changed(token='skip'), r"entries\[0\]: unknown layer token 'skip'"),
    (changed(token=3), r'entries\[0\]: unknown layer token 3'),
    (changed(dilation=0), r'entries\[0\].dilation must be a positive integer, got 0'),
    (changed(height=4.0), r'entries\[0\].height must be a positive integer, got 4.0'),
    (changed(ms=0), r'entries\[0\].ms must be a number of milliseconds, at least a nanosecond, got 0'),
    (changed(ms=1e-7), r'entries\[0\].ms must be a number of milliseconds, at least a nanosecond, got 1e-07'),
    (changed(ms=-1.0), r'entries\[0\].ms must be a number of milliseconds, at least a nanosecond, got -1.0'),
    (changed(ms='1'), r"entries\[0\].ms must be a number of milliseconds, at least a nanosecond, got '1'"),
    (changed(ms=True), r'entries\[0\].ms must be a number of milliseconds, at least a nanosecond, got True'),
    (json.dumps(changed(ms=float('nan'))), r'entries\[0\].ms must be a number .* got nan'),
    (json.dumps(changed(ms=float('inf'))), r'entries\[0\].ms must be a number .* got inf'),
])  # fmt: skip
def test_what_cannot_be_read_says_where_and_why(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatencyTable.parse(source)


@pytest.mark.parametrize('source', [3, None, [ROW]])
def test_another_type(source: Any) -> None:
    with pytest.raises(
        TypeError, match='a latency table must be given as a LatencyTable, a dict, JSON text or a .json p'
    ):
        LatencyTable.parse(source)


def test_a_table_is_a_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TABLE.device = 'another'  # type: ignore[misc]
    assert hash(TABLE) == hash(dataclasses.replace(TABLE))
