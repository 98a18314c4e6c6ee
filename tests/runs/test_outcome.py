"""Results read back, the progress bar, and what is refused before a run: necks that do not fit."""

import json
import re

import pytest
from mmengine.config import Config

from mmnas_ext.archs import zoo
from mmnas_ext.engine.progress import ProgressHook
from mmnas_ext.reports import comparison_table
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.results import last_metrics, result_row, write_results
from tests.engine.terminal import Terminal


def write_scalars(work_dir, started, records):
    folder = work_dir / 'adapt' / started / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(record) + '\n' for record in records))


@pytest.fixture
def finished(tmp_path):
    write_scalars(tmp_path, '20260101_000000', [{'loss': 3.0, 'step': 1}, {'coco/bbox_mAP': 0.1, 'step': 1}])
    later = [{'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'step': 2}, {'loss': 1.0, 'lr': 0.1, 'step': 3}]
    write_scalars(tmp_path, '20260102_000000', later)
    (tmp_path / 'derived').mkdir()
    (tmp_path / 'derived' / 'arch.json').write_text(zoo.arch('fna_retinanet').format('json'))
    return tmp_path


def test_last_metrics_are_those_of_the_newest_validation(finished):
    assert last_metrics(finished) == {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5}


def test_a_run_without_a_validation_has_no_metrics(tmp_path):
    write_scalars(tmp_path, '20260101_000000', [{'loss': 3.0, 'step': 1}])
    assert last_metrics(tmp_path) == {}


def test_lines_that_are_no_records_are_passed_over(finished):
    scalars = finished / 'adapt' / '20260102_000000' / 'vis_data' / 'scalars.json'
    scalars.write_bytes(scalars.read_bytes() + b'3\n[1]\n\xff\xfe\n' + b'[' * 100_000 + b'\n{"coco/bbox_mAP": 0.')
    assert last_metrics(finished) == {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5}


def test_metrics_without_a_prefix_are_told_from_losses(tmp_path):
    """The records of a segmentation, as MMEngine's LoggerHook writes them."""
    training = {'lr': 0.01, 'base_lr': 0.01, 'data_time': 0.1, 'loss': 1.5, 'decode.acc_seg': 80.0, 'time': 0.5,
                'epoch': 1, 'iter': 10, 'memory': 900, 'step': 10}  # fmt: skip
    validation = {'aAcc': 91.5, 'mIoU': 61.25, 'mAcc': 70.0, 'data_time': 0.1, 'time': 0.2, 'step': 10}
    write_scalars(tmp_path, '20260101_000000', [training, validation, {**training, 'step': 20}])
    assert last_metrics(tmp_path) == {'aAcc': 91.5, 'mIoU': 61.25, 'mAcc': 70.0}
    write_scalars(tmp_path, '20260102_000000', [{'search/entropy': 0.5, 'step': 3}, {'lr': 0.01, 'step': 21}])
    assert last_metrics(tmp_path) == {'aAcc': 91.5, 'mIoU': 61.25, 'mAcc': 70.0}


def test_result_row_prices_the_trained_network(finished):
    row = result_row('found', finished, (800, 1088), ['coco/bbox_mAP'])
    # the authors' own figures of this network
    assert row == dict(network='found', macs=4823403200, params=2055712, metrics={'bbox_mAP': 0.25})


def test_result_row_prices_at_the_output_stride(finished):
    rows = [result_row('found', finished, (800, 1088), ['mIoU'], stride) for stride in (32, 16)]
    # the last five layers, whose input is twice as high and wide: 160 channels, and 96 -> 160 that no longer shrinks
    assert rows[0]['macs'] == 4823403200
    layers = [(96, 160, 7, 6), (160, 160, 7, 6), (160, 160, 7, 3), (160, 160, 7, 6), (160, 320, 7, 6)]
    fine, coarse = 50 * 68, 25 * 34
    added = 0
    for number, (channels, after, kernel, expansion) in enumerate(layers):
        hidden = channels * expansion
        rest = hidden * kernel**2 + hidden * after
        # the first one's expansion had the fine resolution before
        added += (rest if number == 0 else rest + channels * hidden) * (fine - coarse)
    assert rows[1]['macs'] - rows[0]['macs'] == added


def test_a_metric_that_was_not_given_is_left_out(finished):
    row = result_row('found', finished, (800, 1088), ['coco/bbox_mAP', 'coco/bbox_mAP_75'])
    assert list(row['metrics']) == ['bbox_mAP']
    other = dict(network='seed', macs=1, params=1, metrics={})
    assert comparison_table([other, row]).count('0.25') == 1


def test_results_are_written_as_the_report_reads_them(finished):
    rows = [result_row('found', finished, (800, 1088), ['coco/bbox_mAP'])]
    write_results(finished, rows, (800, 1088))
    written = json.loads((finished / 'results.json').read_text())
    assert written == {'rows': rows, 'input_size': [800, 1088]}
    assert not list(finished.glob('.*.part'))


class Runner:
    def __init__(self, max_iters, iteration=0):
        self.max_iters = max_iters
        self.iter = iteration


@pytest.mark.parametrize(('total', 'start', 'steps'), [(7, 0, 100), (50, 0, 10), (53, 0, 10), (40, 15, 5)])
def test_progress_reaches_its_end_and_stays_within_its_updates(monkeypatch, capsys, total, start, steps):
    terminal = Terminal()
    monkeypatch.setattr('sys.stderr', terminal)
    hook = ProgressHook('training', steps=steps)
    runner = Runner(total, start)
    hook.before_train(runner)
    for iteration in range(start, total):
        runner.iter = iteration
        hook.after_train_iter(runner, iteration)
    hook.after_train(runner)
    assert capsys.readouterr().out == 'training\n'
    shown = terminal.getvalue()
    assert f'{start}/{total}' in shown  # a resumed run begins where it stands
    assert re.search(rf'100%\|.*{total}/{total} .*\n$', shown)
    assert shown.count(f'/{total}') <= steps + 2


@pytest.fixture
def plain_config():
    head = dict(type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1)
    neck = dict(type='FPN', in_channels=[24, 32, 96, 320], out_channels=8, num_outs=5)
    backbone = dict(type='mmnas_ext.FNA_RetinaNet', out_indices=(1, 2, 4, 6))
    model = dict(type='RetinaNet', backbone=backbone, neck=neck, bbox_head=head)
    return Config(dict(default_scope='mmdet', model=model))


def test_a_neck_that_fits_passes(plain_config):
    check_config(plain_config)


def test_a_neck_of_other_channels_is_told_the_right_ones(plain_config):
    plain_config.model.neck.in_channels = [24, 40, 112, 320]
    with pytest.raises(ValueError, match=r'in_channels must be .* \[24, 32, 96, 320\], got \[24, 40, 112, 320\]'):
        check_config(plain_config)


def test_a_foreign_backbone_is_left_alone(plain_config):
    plain_config.model.backbone = dict(type='ResNet', depth=18, num_stages=1, strides=(1,), dilations=(1,),
                                       out_indices=(0,), base_channels=8, stem_channels=8)  # fmt: skip
    plain_config.model.neck.in_channels = [1, 2]
    check_config(plain_config)
