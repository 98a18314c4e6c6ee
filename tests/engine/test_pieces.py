"""Figures that are written down piece by piece: what is none is passed over, and what is there is not found again."""

import gc
from pathlib import Path

import pytest

from mmnas_ext.engine.measuring import measure_students
from mmnas_ext.engine.pieces import Pieces


def test_lines_that_are_no_ratings_are_passed_over(tmp_path: Path) -> None:
    good = b'{"piece": "0.0:", "ratings": [0.5, 1]}'
    bad = [
        b'[1]', b'[' * 100_000, b'\xff\xfe', b'{"piece": "a"}', b'{"piece": ["a"], "ratings": []}',
        b'{"piece": "b", "ratings": 3}', b'{"piece": "c", "ratings": [null]}', b'{"piece": "d", "rat',
    ]  # fmt: skip
    (tmp_path / 'k_0.jsonl').write_bytes(b'\n'.join([good, *bad, b'{"piece": "0.1:", "ratings": []}\n']))
    (tmp_path / 'other_0.jsonl').write_bytes(good.replace(b'0.0', b'9.9'))
    store = Pieces(tmp_path, 'k')
    assert store.done == {'0.0:': [0.5, 1], '0.1:': []}
    store.add('1.0:', [2.0])
    assert Pieces(tmp_path, 'k').done == {'0.0:': [0.5, 1], '0.1:': [], '1.0:': [2.0]}


def test_networks_that_were_measured_before_a_kill_are_not_measured_again(tmp_path: Path) -> None:
    measured = []

    def error(choice: tuple[int, ...]) -> float | None:
        if len(measured) == 2 and not (tmp_path / 'again').exists():
            raise KeyboardInterrupt
        measured.append(choice)
        return None if choice == (1, 0) else sum(choice) / 8

    choices = [(0, 0), (1, 0), (2, 1), (2, 3)]
    with pytest.raises(KeyboardInterrupt):
        measure_students(choices, error, Pieces(tmp_path, 'k'))
    (tmp_path / 'again').touch()
    pieces = Pieces(tmp_path, 'k')
    measure_students(choices, error, pieces)
    assert measured == choices
    assert pieces.done == {'0,0': [0.0], '1,0': [], '2,1': [0.375], '2,3': [0.625]}
    measure_students(choices, lambda choice: pytest.fail('all are measured'), Pieces(tmp_path, 'k'))


def test_what_is_found_under_many_keys_leaves_nothing_behind(tmp_path: Path) -> None:
    Pieces(tmp_path, 'k').add('0', [1.0])
    (tmp_path / 'k_1.jsonl').write_text('{"piece": "1", "ratings": [2.0]}\n')
    for other in ('k_0.jsonl.part', 'k_more_0.jsonl', 'kk_0.jsonl'):
        (tmp_path / other).write_text('{"piece": "2", "ratings": [3.0]}\n')
    assert Pieces(tmp_path, 'k').done == {'0': [1.0], '1': [2.0]}
    gc.collect()
    before = len(gc.get_objects())
    for number in range(100):
        assert not Pieces(tmp_path, f'key{number}').done
    gc.collect()
    assert len(gc.get_objects()) < before + 50
