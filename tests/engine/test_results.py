"""What is read back from a finished run, and the bar that shows a running one."""

import json
from types import SimpleNamespace

import pytest

from mmnas_ext.engine import ProgressHook
from mmnas_ext.engine.derive import write_text
from mmnas_ext.engine.results import last_metrics, result_row, write_results
from tests.engine import tiny

ARCH = tiny.SPACE.arch(((0,), (1, 2), (0,)))
MACS = tiny.MACS['fixed'] + tiny.MACS['1.0'][1] + tiny.MACS['2.0'][0]


@pytest.fixture
def finished(tmp_path):
    lines = [
        {'lr': 0.1, 'loss': 3.0, 'step': 5},
        {'coco/bbox_mAP': 0.1, 'coco/bbox_mAP_50': 0.2, 'step': 1},
        {'search/skips': 1, 'step': 7},
        {'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_50': 0.4, 'step': 2},
    ]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    write_text(tmp_path / 'adapt' / '20200101_000001' / 'vis_data' / 'scalars.json', text + '{"coco/bbox_mAP": 0.9')
    write_text(tmp_path / 'derived' / 'arch.json', ARCH.format('json'))
    return tmp_path


def test_the_last_validation_counts(finished):
    assert last_metrics(finished) == {'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_50': 0.4, 'step': 2}
    resumed = finished / 'adapt' / '20200101_000002' / 'vis_data' / 'scalars.json'
    write_text(resumed, '{"coco/bbox_mAP": 0.5, "step": 3}\n{"loss": 1.0, "step": 9}\n')
    assert last_metrics(finished) == {'coco/bbox_mAP': 0.5, 'step': 3}


def test_a_row_of_the_table_holds_costs_and_metrics(finished):
    row = result_row('found', finished, tiny.SIZE, ['coco/bbox_mAP'])
    # weights, two numbers per channel of each batch norm: stem, k3_e1, k5_e3 from 4 to 8, k3_e3
    params = 27 * 8 + 16 + 9 * 8 + 8 * 4 + 2 * (8 + 4)
    params += 4 * 12 + 25 * 12 + 12 * 8 + 2 * (12 + 12 + 8) + 8 * 24 + 9 * 24 + 24 * 8 + 2 * (24 + 24 + 8)
    assert row == {'network': 'found', 'macs': MACS, 'params': params, 'metrics': {'bbox_mAP': 0.3}}
    write_results(finished, [row], tiny.SIZE)
    written = json.loads((finished / 'results.json').read_text())
    assert written == {'rows': [row], 'input_size': [16, 16]}


def test_a_run_without_a_validation_says_so(finished):
    with pytest.raises(ValueError, match=r"holds no \['coco/segm_mAP'\] of a validation, only \['coco/bbox_mAP'"):
        result_row('found', finished, tiny.SIZE, ['coco/segm_mAP'])


@pytest.mark.parametrize(
    ('done', 'total', 'steps', 'updates'), [(0, 10, 100, 10), (4, 10, 100, 6), (0, 1000, 100, 100)]
)
def test_a_bar_ends_full(capsys, done, total, steps, updates):
    hook = ProgressHook('what goes on', steps)
    runner = SimpleNamespace(iter=done, max_iters=total)
    hook.before_train(runner)
    seen = []
    for iteration in range(done, total):
        runner.iter = iteration
        before = hook._bar.completed
        hook.after_train_iter(runner, 0)
        seen.append(hook._bar.completed - before)
    hook.after_train(runner)
    assert sum(seen) == total - done
    assert sum(step > 0 for step in seen) == updates
    assert capsys.readouterr().out.startswith('what goes on\n')
