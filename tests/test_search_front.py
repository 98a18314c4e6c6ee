"""`tools/search_front.py` as a user calls it, on ratings made by hand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmnas_ext.archs import ArchSpec, CellSpace, Limit, price
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from mmnas_ext.search.ratings import BlockRatings, CellRatings, Ratings
from mmnas_ext.search.select import select

ROOT = Path(__file__).resolve().parents[1]
SPACE = CellSpace.parse(
    dict(
        stem_channels=8,
        stages=[
            dict(stride=1, channels=[8], depths=[1], candidates=['k3_e1', 'k5_e1']),
            dict(stride=2, channels=[12], depths=[1], candidates=['k3_e3', 'k7_e6']),
        ],
    )
)


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """Two blocks of two paths each; the more expensive one is better."""
    first = CellRatings(
        (0,), (8,), 8, (((0,),), ((1,),)), (0.5, 0.4), {'macs': ((100,), (200,)), 'params': ((7,), (9,))}
    )
    second = CellRatings(
        (0,), (8,), 12, (((0,),), ((1,),)), (0.9, 0.3), {'macs': ((10,), (50,)), 'params': ((1,), (5,))}
    )
    value = Ratings(SPACE, (32, 32), ('macs', 'params'), (BlockRatings((0,), (first,)), BlockRatings((1,), (second,))))
    (tmp_path / 'ratings.json').write_text(value.format())
    return tmp_path


def call(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, 'tools/search_front.py', *args], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_the_front_the_choice_and_the_files(ratings: Path) -> None:
    done = call(str(ratings), '--max-macs', '180', '--max-params', '20')
    assert done.returncode == 0, done.stderr
    assert 'networks of this space: 1.1e-07 to 2.5e-07 G multiply-adds, 8e-06 to 1.4e-05 M parameters' in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith('|')]
    # by hand: 110 at 1.4, 150 at 0.8, 250 at 0.7; 210 at 1.3 is dominated
    assert len(rows) == 2 + 3
    assert [row.split('|')[2].strip() for row in rows[2:]] == ['1.4000', '0.8000', '0.7000']
    front = json.loads((ratings / 'front' / 'front.json').read_text())
    assert front['costs'] == [110, 150, 250]
    assert front['chosen'] == {'costs': {'macs': 150, 'params': 12}, 'rating': pytest.approx(0.8), 'choice': [0, 1]}
    arch = ArchSpec.parse(ratings / 'front' / 'arch.json')
    assert [stage.layers for stage in arch.stages] == [('k3_e1',), ('k7_e6',)]
    assert price(arch, (32, 32)) > 0
    assert (ratings / 'front' / 'front.png').read_bytes().startswith(b'\x89PNG')


def test_measured_networks_of_the_work_dir_are_shown_under_other_limits(ratings: Path) -> None:
    known = Ratings.parse(ratings)
    networks = tuple(
        MeasuredNetwork(known.arch(choice), known.costs(choice), {'feature_error': error}, known.rating(choice), origin)
        for choice, error, origin in (((0, 0), 0.9, 'front'), ((0, 1), 0.8, 'front'), ((1, 1), 0.7, 'chosen'))
    )
    select(known).write(ratings, MeasuredFront('macs', 'feature_error', 'less', networks))
    done = call(str(ratings), '--max-params', '12')
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in done.stdout.splitlines() if line[:1] == '|']
    head = rows.index(['K', 'MAdds', 'parameters', 'feature_error', 'score', 'origin', 'network'])
    assert [row[3:6] for row in rows[head + 2 :]] == [
        ['0.9000', '1.4000', 'front'], ['0.8000', '0.8000', 'chosen'], ['0.7000', '0.7000', 'front'],
    ]  # fmt: skip
    out = ratings / 'front'
    assert (out / 'measured.png').read_bytes().startswith(b'\x89PNG')
    written = MeasuredFront.parse(out)
    assert (written.metric, written.limits) == ('params', {'params': Limit(None, 12.0)})
    assert written.points[1].arch == ArchSpec.parse(out / 'arch.json')


def test_a_file_and_another_folder(ratings: Path, tmp_path: Path) -> None:
    done = call(str(ratings / 'ratings.json'), '--out', str(tmp_path / 'elsewhere'), '--rows', '2')
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith('|')]
    assert [row.split('|')[2].strip() for row in rows[2:]] == ['1.4000', '0.7000']  # both ends
    assert (tmp_path / 'elsewhere' / 'arch.json').is_file()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--max-macs', '100'], 'macs must be at least 110.* 250'),
        (['--max-latency', '3'], "limits must be among the metrics that were counted, .* got 'latency'"),
    ],
)
def test_what_cannot_be_met_is_said_in_one_line(ratings: Path, args: list[str], message: str) -> None:
    done = call(str(ratings), *args)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert re.match(f'error: .*{message}', line)


def test_no_ratings(tmp_path: Path) -> None:
    done = call(str(tmp_path))
    assert done.returncode == 1
    assert 'error: ratings file does not exist' in done.stderr
