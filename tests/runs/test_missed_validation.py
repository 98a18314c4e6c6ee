"""A training that is stopped while it validates ends with that validation, not with an earlier one's figures."""

import json

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmnas_ext.reports.training_log import read_training
from mmnas_ext.runs.manifest import read_manifest
from mmnas_ext.runs.results import last_metrics, trained_metrics
from mmnas_ext.runs.run import run
from tests.engine import tiny_seg
from tests.runs.test_front_runs import ARCHS, config

ARCH = ARCHS[0].format('fna')
NAME = 'closeness'


@HOOKS.register_module()
class StopValidationHook(Hook):
    """Ends the process in a validation, so to speak, behind so many iterations; counts those that end."""

    at, ended = -1, 0

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == type(self).at:
            type(self).at = -1
            raise tiny_seg.KilledError

    def after_val_epoch(self, runner, metrics=None):
        type(self).ended += 1


def validating(work_dir, loop, interval, at, by_epoch=None):
    """Four iterations, two of an epoch, validated at an interval."""
    StopValidationHook.at, StopValidationHook.ended = at, 0
    cfg = config(work_dir)
    lengths = dict(max_epochs=2) if loop == 'epoch' else dict(max_iters=4)
    kind = 'EpochBasedTrainLoop' if loop == 'epoch' else 'IterBasedTrainLoop'
    cfg.derived.train_cfg = dict(type=kind, val_interval=interval, **lengths)
    saved = dict(by_epoch=loop == 'epoch', interval=1)
    logged = dict(interval=1, log_metric_by_epoch=loop == 'epoch' if by_epoch is None else by_epoch)
    cfg.derived.default_hooks = dict(checkpoint=saved, logger=logged)
    cfg.derived.log_processor = dict(by_epoch=loop == 'epoch')
    cfg.derived.custom_hooks = [*(cfg.derived.get('custom_hooks') or []), dict(type='StopValidationHook')]
    return cfg


@pytest.mark.parametrize(('loop', 'interval', 'at'), [
    ('epoch', 1, 4), ('epoch', 1, 2), ('epoch', 5, 4), ('iter', 2, 4), ('iter', 2, 2), ('iter', 100, 4),
])  # fmt: skip
def test_a_training_stopped_while_it_validates_has_the_metrics_of_one_that_was_not(tmp_path, loop, interval, at):
    run(validating(tmp_path / 'whole', loop, interval, -1), arch=ARCH)
    count = StopValidationHook.ended
    with pytest.raises(tiny_seg.KilledError):
        run(validating(tmp_path / 'stopped', loop, interval, at), arch=ARCH)
    done = StopValidationHook.ended
    run(validating(tmp_path / 'stopped', loop, interval, -1), arch=ARCH, resume=True)
    assert done + StopValidationHook.ended == count
    rows = [read_training(tmp_path / name / 'adapt').metrics[NAME] for name in ('stopped', 'whole')]
    assert [step for step, _ in rows[0]] == [step for step, _ in rows[1]]
    if loop == 'epoch' or at == 4:  # between iterations MMEngine's loop goes on with other random numbers
        assert rows[0] == rows[1]
        assert last_metrics(tmp_path / 'stopped') == last_metrics(tmp_path / 'whole') != {}
    assert read_manifest(tmp_path / 'stopped' / 'run.json').state == 'done'


@pytest.mark.parametrize(('loop', 'by_epoch'), [('iter', True), ('epoch', False)])
def test_the_unit_of_the_log_does_not_matter(tmp_path, loop, by_epoch):
    """MMEngine's default writes epoch 0 beside each validation of a loop of iterations."""
    run(validating(tmp_path / 'whole', loop, 2 if loop == 'iter' else 1, -1, by_epoch), arch=ARCH)
    with pytest.raises(tiny_seg.KilledError):
        run(validating(tmp_path / 'stopped', loop, 2 if loop == 'iter' else 1, 4, by_epoch), arch=ARCH)
    run(validating(tmp_path / 'stopped', loop, 2 if loop == 'iter' else 1, -1, by_epoch), arch=ARCH, resume=True)
    assert last_metrics(tmp_path / 'stopped') == last_metrics(tmp_path / 'whole') != {}


def test_what_was_validated_is_not_validated_again(tmp_path):
    run(validating(tmp_path / 'run', 'epoch', 1, -1), arch=ARCH)
    manifest = json.loads((tmp_path / 'run' / 'run.json').read_text())
    manifest['parts']['adapt']['done'], manifest['state'] = False, 'adapting'  # killed behind its last validation
    (tmp_path / 'run' / 'run.json').write_text(json.dumps(manifest))
    run(validating(tmp_path / 'run', 'epoch', 1, -1), arch=ARCH, resume=True)
    assert StopValidationHook.ended == 0


def test_a_last_validation_that_gave_nothing_has_no_metrics(tmp_path):
    """MMDetection gives none where nothing is detected."""
    file = tmp_path / '1' / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    training = {'lr': 0.1, 'loss': 1.0, 'data_time': 0.1, 'time': 0.2, 'iter': 5, 'step': 5}
    records = [training, {NAME: 0.5, 'data_time': 0.1, 'time': 0.2, 'step': 1}, training]
    file.write_text('\n'.join(map(json.dumps, records)))
    assert trained_metrics(tmp_path) == read_training(tmp_path).last == {NAME: 0.5}
    records.append({'data_time': 0.1, 'time': 0.2, 'step': 2})
    file.write_text('\n'.join(map(json.dumps, [*records, {'search/entropy': 1.0, 'step': 9}])))
    assert trained_metrics(tmp_path) == read_training(tmp_path).last == {}
