"""Ratings that are written down piece by piece: what is no rating is passed over, and rated again."""

from pathlib import Path

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
