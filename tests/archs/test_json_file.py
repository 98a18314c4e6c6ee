"""JSON that anyone may have written: bounded, and never a traceback of Python's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmnas_ext.archs import ArchSpec, CellSpace, LatencyTable, SearchSpace
from mmnas_ext.archs.json_file import parse_json, parse_lines, read_json
from mmnas_ext.search.front_file import FrontFile
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.search.ratings import Ratings

READERS: dict[str, Callable[[Any], Any]] = {
    'arch.json': ArchSpec.parse,
    'space.json': SearchSpace.parse,
    'cells.json': CellSpace.parse,
    'latency.json': LatencyTable.parse,
    'ratings.json': Ratings.parse,
    'front.json': FrontFile.parse,
    'measured.json': MeasuredFront.parse,
}


def test_what_is_json_is_read(tmp_path: Path) -> None:
    text = '\ufeff{"a": [1, 2.5, "ü", null, true], "b": {"a": {}}}'
    (tmp_path / 'a.json').write_text(text, encoding='utf-8')
    wanted = {'a': [1, 2.5, 'ü', None, True], 'b': {'a': {}}}
    assert parse_json(text) == read_json(tmp_path / 'a.json') == wanted
    assert parse_json('[' * 64 + ']' * 64) != []


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[' * 65 + ']' * 65, 'brackets are nested deeper than 64'),
        ('{"a": ' * 65 + '1' + '}' * 65, 'brackets are nested deeper than 64'),
        ('[' * 100_000, 'brackets are nested deeper than 64'),
        ('{"a":' * 100_000, 'brackets are nested deeper than 64'),
        ('{"b": {"a": 1, "a": 2}}', "the text is not JSON: key 'a' stands twice in one object"),
        ('{', 'the text is not JSON: Expecting'),
        ('', 'the text is not JSON: Expecting'),
        ('9' * 5000, 'the text is not JSON: Exceeds the limit'),
    ],
)
def test_what_is_not_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f'^{message}'):
        parse_json(text)
    path = tmp_path / 'a.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=rf'a\.json: {message}') as got:
        read_json(path)
    assert '\n' not in str(got.value)


def test_files_are_bounded_and_text(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    path.write_bytes(b'"\xff"')
    with pytest.raises(ValueError, match=r"a\.json: the text is not JSON: 'utf-8' codec can't decode"):
        read_json(path)
    path.write_text('[1, 2]')
    with pytest.raises(ValueError, match=r'a\.json: the file is too large, 6 bytes; 5 are read'):
        read_json(path, most=5)
    with pytest.raises(FileNotFoundError, match='gone'):
        read_json(tmp_path / 'gone.json')


@pytest.mark.parametrize('opening', ['[', '{"a":', '{"stages":[', "[('"])
@pytest.mark.parametrize('name', READERS)
def test_no_file_of_ours_makes_python_recurse(name: str, opening: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(opening * 40_000)
    with pytest.raises(ValueError, match=rf'{name}: ') as got:
        READERS[name](path)
    assert '\n' not in str(got.value) and len(str(got.value)) < 300 + len(str(path))
    if opening != '[':
        with pytest.raises((ValueError, FileNotFoundError)) as got:
            READERS[name](opening * 10_000)
        assert '\n' not in str(got.value) and len(str(got.value)) < 300


def test_lines_that_are_no_json_are_passed_over(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b'[' * 100_000, b'\xff\xfe', b'9' * 5000, b'{"a": 1, "a": 2}', b'', b'[1]', b'{"cut": ']
    (tmp_path / 'a.jsonl').write_bytes(b'\n'.join(lines))
    assert list(parse_lines(tmp_path / 'a.jsonl')) == [{'a': 1}, [1]]
