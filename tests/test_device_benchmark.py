"""The benchmark of a GPU: its rows, its file, what it says of a row that fails; on tiny sizes on a CPU."""

import json
import sys
import time

import pytest
import torch

from benchmarks import device
from benchmarks.device import Measuring, Place, Row

CPU = Place('cpu', True)
LATENCY = 'latency table of fna_det, 800x1088: NCHW'


def test_rows_have_the_sizes_of_the_papers_and_fit_their_time() -> None:
    rows = device.list_rows()
    assert len({row.key for row in rows}) == len(rows)
    titles = ' '.join(row.table for row in rows)
    for wanted in (
        'arch step of fna_retinanet_coco, 1 x 800x1088', 'weight step of fna_deeplabv3_cityscapes, 4 x 769x769',
        'training step of dna_a_imagenet, 128 x 224x224', 'teacher tf_efficientnet_b7', 'rating', 'latency table',
    ):  # fmt: skip
        assert wanted in titles
    for phase in ('arch', 'weight'):
        table = [row.name for row in rows if row.table.startswith(f'{phase} step of fna_retinanet_coco')]
        assert table[0] == 'authors' and {'NHWC, fp32', 'NHWC, bf16', 'NHWC, bf16, compiled'} <= set(table)


def test_rows_are_written_as_they_come_and_not_measured_again(tmp_path, monkeypatch, capsys) -> None:
    words = ['--device', 'cpu', '--quick', '--only', LATENCY, '--out', str(tmp_path)]
    device.main(words)
    (line,) = (tmp_path / 'rows.jsonl').read_text().splitlines()
    record = json.loads(line)
    assert (record['key'], record['quick'], record['device']) == (LATENCY, True, 'cpu')
    assert record['layers'] > 40 and 0 < record['least'] < record['most']
    table = capsys.readouterr().out
    assert '### Latency table of fna_det, 800x1088' in table and f'| NCHW | {record["layers"]} |' in table
    assert f'torch {torch.__version__}; tiny sizes, no figure has a meaning' in table
    monkeypatch.setattr(Measuring, '_one_process', lambda *_: pytest.fail('measured again'))
    device.main(words)
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(
    ('error', 'said'),
    [(torch.OutOfMemoryError('CUDA out of memory'), 'out of memory'), (ValueError('x'), 'ValueError: x')],
)
def test_a_row_that_fails_says_so_and_the_next_is_measured(monkeypatch, capsys, error, said) -> None:
    rows = [Row('t', 'a', 'bad', {}), Row('t', 'b', 'good', {})]
    monkeypatch.setattr(device, 'list_rows', lambda: rows)

    def bad(place: Place) -> None:
        raise error

    monkeypatch.setattr(device, 'MEASURES', {'bad': bad, 'good': lambda place: {'ms': 2.0, 'images': 1.0}})
    device.work(CPU, ['t: a', 't: b'])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get('begin') for line in lines] == ['t: a', None, 't: b', None]
    assert lines[1]['error'] == said and lines[3]['ms'] == 2.0


@pytest.mark.parametrize(
    ('code', 'said'), [('time.sleep(60)', 'not done in'), ('os._exit(9)', 'the process ended with 9')]
)
def test_a_row_that_hangs_or_dies_is_ended_and_left_behind(tmp_path, monkeypatch, code, said) -> None:
    program = tmp_path / 'python'
    program.write_text(f'#!{sys.executable}\nimport os, time\nprint(\'{{"begin": "t: a"}}\', flush=True)\n{code}\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(program))
    monkeypatch.setattr(device, '_START', 0)
    measuring = Measuring(CPU, tmp_path / 'rows.jsonl', float('inf'))
    left = measuring._one_process([Row('t', 'a', 'search', {}, limit=1), Row('t', 'b', 'search', {})])
    assert [row.name for row in left] == ['b']
    assert said in json.loads((tmp_path / 'rows.jsonl').read_text())['error']


def test_no_row_is_begun_that_might_end_too_late(tmp_path) -> None:
    rows = [Row('t', 'a', 'search', {}, limit=90)]
    assert Measuring(CPU, tmp_path / 'rows.jsonl', time.monotonic() + 60).run(rows) == rows
    assert not (tmp_path / 'rows.jsonl').exists()


def test_ratios_are_of_the_first_row() -> None:
    rows = [Row('steps', name, 'search', {}) for name in ('authors', 'ours', 'large')]
    found = {
        'steps: authors': {'ms': 200.0, 'images': 5.0, 'memory': 4.0},
        'steps: ours': {'ms': 50.0, 'images': 20.0, 'memory': 1.5},
        'steps: large': {'error': 'out of memory'},
    }
    (table,) = device.tables(rows, found)
    assert table.splitlines()[4:] == [
        '| authors | 200.0 ms | 1.00 | 5.0 | 4.00 GiB |',
        '| ours | 50.0 ms | 0.25 | 20.0 | 1.50 GiB |',
        '| large | out of memory |  |  |  |',
    ]


@pytest.mark.parametrize(
    ('words', 'message'),
    [(['--only', 'nothing'], '--only must be a part of the name'), (['--device', 'cpu'], 'needs --quick')],
)
def test_a_wrong_call_is_refused(words, message, capsys) -> None:
    with pytest.raises(SystemExit):
        device.main(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    'key',
    [
        'arch step of fna_retinanet_coco, 1 x 800x1088: authors',
        'weight step of fna_deeplabv3_cityscapes, 4 x 769x769: NHWC, bf16',
        'training step of dna_a_imagenet, 128 x 224x224: NHWC, fp32',
    ],
)
def test_a_step_is_measured(key: str) -> None:
    (row,) = (row for row in device.list_rows() if row.key == key)
    found = device.search(CPU, **{**row.arguments, 'batch': 2})
    assert found['ms'] > 0 and found['images'] == pytest.approx(2000 / found['ms']) and found['memory'] is None


@pytest.mark.parametrize('way', ['authors', 'NCHW, fp32'])
def test_the_authors_optimizer_steps_through_candidates_that_were_not_drawn(way: str) -> None:
    weights = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))]
    seen = []

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.ParameterList(weights)

        def forward(self, inputs, samples, mode):
            seen.append([weight.grad is not None for weight in weights])
            return {'loss': self.weights[0].sum()}

        def parse_losses(self, losses):
            return losses['loss'], {}

    step = device._stepper(CPU, Model(), {'inputs': None, 'data_samples': []}, 'weights', way)
    step()
    assert weights[0].tolist() != [1.0, 1.0] and weights[1].tolist() == [1.0, 1.0]
    assert (weights[1].grad is not None) == (way == 'authors') == seen[0][1]
