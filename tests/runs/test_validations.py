"""A training that is stopped while it validates, or by early stopping, ends with that validation and its weights."""

import json

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmnas_ext.reports.training_log import read_training
from mmnas_ext.runs.checkpoints import find_checkpoint, read_places
from mmnas_ext.runs.manifest import ADAPT, read_manifest
from mmnas_ext.runs.results import last_metrics, trained_metrics
from mmnas_ext.runs.run import run
from tests.engine import tiny_seg
from tests.engine.kept import loaded
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


@HOOKS.register_module()
class StopEpochHook(Hook):
    """Ends the process before an epoch, so to speak."""

    at = None

    def before_train_epoch(self, runner):
        if runner.epoch == type(self).at:
            raise tiny_seg.KilledError


def impatient(work_dir, interval=1, at=None):
    """Ten epochs of which the third is the last: the metric gets no better for two."""
    StopEpochHook.at = at
    early = dict(type='EarlyStoppingHook', monitor=NAME, rule='greater', min_delta=0.5, patience=2)
    return config(work_dir, **{
        'derived.train_cfg.max_epochs': 10, 'derived.default_hooks.checkpoint.interval': interval,
        'derived.optim_wrapper.optimizer.lr': 1e-9,
        'derived.custom_hooks': [dict(type='mmnas_ext.ReseedHook'), dict(type='StopEpochHook'), early],
    })  # fmt: skip


@pytest.mark.parametrize('interval', [1, 2, 5])
def test_weights_that_a_training_stops_early_with_are_kept(tmp_path, interval):
    run(impatient(tmp_path / 'run', interval), arch=ARCH)
    assert [step for step, _ in read_training(tmp_path / 'run' / 'adapt').metrics[NAME]] == [1, 2, 3]
    notes = read_manifest(tmp_path / 'run' / 'run.json').parts[ADAPT].notes
    places = read_places(notes['checkpoints'], tmp_path / 'run')
    checkpoint = find_checkpoint(places)
    assert checkpoint.path.name == 'epoch_3.pth'
    meta = loaded(checkpoint.path)['meta']
    assert (meta['epoch'], meta['iter']) == (3, 6)
    assert (tmp_path / 'run' / 'adapt' / 'last_checkpoint').read_text().endswith('epoch_3.pth')


@pytest.mark.parametrize(('interval', 'at'), [(1, 2), (2, 2), (1, 1), (2, 1)])
def test_a_resumed_training_stops_as_early_as_one_that_was_not_interrupted(tmp_path, interval, at):
    with pytest.raises(tiny_seg.KilledError):
        run(impatient(tmp_path / 'run', interval, at), arch=ARCH)
    run(impatient(tmp_path / 'run', interval), arch=ARCH, resume=True)
    assert [step for step, _ in read_training(tmp_path / 'run' / 'adapt').metrics[NAME]] == [1, 2, 3]


def test_a_training_that_had_stopped_goes_no_further(tmp_path):
    run(impatient(tmp_path / 'run'), arch=ARCH)
    manifest = json.loads((tmp_path / 'run' / 'run.json').read_text())
    manifest['parts']['adapt']['done'], manifest['state'] = False, 'adapting'  # killed behind its stop
    (tmp_path / 'run' / 'run.json').write_text(json.dumps(manifest))
    (tmp_path / 'run' / 'adapt' / '.validated').open('a').write('{"part": "half of a line\n[1]\n{"part": "another"}\n')
    run(impatient(tmp_path / 'run'), arch=ARCH, resume=True)
    assert [step for step, _ in read_training(tmp_path / 'run' / 'adapt').metrics[NAME]] == [1, 2, 3]
    assert read_manifest(tmp_path / 'run' / 'run.json').state == 'done'
