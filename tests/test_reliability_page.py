"""Every promise of the page has tests, and they exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs/reliability.md').read_text(encoding='utf-8')
NAMED = re.findall(r'`(tests/[\w/]+\.py)(?:::(\w+))?`', PAGE)


def promises() -> list[tuple[str, str]]:
    """Rows of the tables of promises: what is promised, and what tests it."""
    rows = []
    for section in PAGE.split('\n## '):
        lines = [line for line in section.splitlines() if line.startswith('| ')]
        if lines and lines[0] == '| promised | tests |':
            rows += [tuple(line.strip('| ').split(' | ')) for line in lines[1:]]
    return rows


def test_every_promise_is_tested() -> None:
    found = promises()
    assert len(found) > 25
    assert [row for row in found if len(row) != 2 or '`tests/' not in row[1]] == []


@pytest.mark.parametrize('file', sorted({file for file, _ in NAMED}))
def test_the_tests_that_it_names_exist(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding='utf-8'))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {name for each, name in NAMED if each == file and name} <= defined
