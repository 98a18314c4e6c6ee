"""Trainings that follow each other in one process share nothing, however short they are."""

import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmnas_ext.cli.main import main as cli
from mmnas_ext.engine import NonFiniteLossError
from mmnas_ext.engine.finite import FiniteLossHook
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.evolution import EVOLUTION
from mmnas_ext.runs.manifest import read_manifest
from mmnas_ext.runs.run import run
from mmnas_ext.runs.training import make_runner
from tests.engine import tiny, tiny_trials
from tests.runs.test_evolution import BRED
from tests.runs.test_evolution import config as evolving


@pytest.fixture
def one_second(monkeypatch):
    """All runners begin in the same second, which is as fine as MMEngine's names are."""
    clock = SimpleNamespace(time=lambda: 1.7e9, strftime=time.strftime, localtime=time.localtime)
    monkeypatch.setattr('mmengine.runner.runner.time', clock)


@pytest.mark.parametrize('named', [{}, {'name': 'visualizer'}])
def test_trainings_of_one_second_write_into_their_own_folders(tmp_path, one_second, named):
    places, runners = [tmp_path / 'a' / 'adapt', tmp_path / 'b' / 'adapt'], []
    for place in places:
        cfg = tiny.search_cfg(place)
        cfg.visualizer = {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}], **named}
        before = cfg.pretty_text
        runners.append(make_runner(cfg))
        assert cfg.pretty_text == before
        runners[-1].visualizer.add_scalar('number', len(runners))
        runners[-1].message_hub.update_info('number', len(runners))
    assert runners[0].timestamp == runners[1].timestamp
    for number, (place, runner) in enumerate(zip(places, runners, strict=True), 1):
        (scalars,) = place.glob('*/vis_data/scalars.json')
        assert scalars.read_text() == f'{{"number": {number}, "step": 0}}\n'
        assert runner.message_hub.get_info('number') == number


def test_a_name_that_the_config_gives_stays(tmp_path):
    runner = make_runner(tiny.search_cfg(tmp_path, experiment_name='mine'))
    assert runner.experiment_name.startswith('mine_')


def test_the_config_in_a_work_dir_describes_the_same_evolution(tmp_path):
    cfg = evolving(tmp_path, {**BRED, 'generations': 1})
    cfg.custom_hooks = [dict(type='mmnas_ext.DeriveHook')]
    run(cfg, search_only=True)
    (file,) = tmp_path.glob('*.py')
    again = Config.fromfile(file)
    assert (again.optim_wrapper, again.custom_hooks) == (cfg.optim_wrapper, cfg.custom_hooks)
    EVOLUTION.check(again, None, False)


SHARDED = {'model_wrapper_cfg': dict(type='MMFullyShardedDataParallel')}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (SHARDED, r'^model_wrapper_cfg must keep all parameters on every process, got MMFullyShardedDataParallel: '),
        (
            {'strategy': dict(type='FSDPStrategy')},
            r"^strategy must be left out: .* got {'type': 'FSDPStrategy'}; see FS",
        ),
        (
            {'runner_type': 'FlexibleRunner'},
            r"^runner_type must be left out: .*Runner, got 'FlexibleRunner'; see FSDP in",
        ),
    ],
)
def test_another_runner_and_sharded_parameters_are_refused(tmp_path, changes, message):
    cfg = tiny.search_cfg(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        check_config(cfg, search_only=True)
    with pytest.raises(ValueError, match=message):
        make_runner(cfg)
    # in the second half, before the first begins
    ((key, value),) = changes.items()
    derived = tiny.search_cfg(tmp_path, **{f'derived.{key}': value})
    unread = rf'^derived.{key} has no effect: nothing reads a key of this name'
    with pytest.raises(ValueError, match=message.replace('^', '^derived: ') if changes == SHARDED else unread):
        check_config(derived)


def test_the_usual_runner_and_wrapper_may_be_named(tmp_path):
    cfg = tiny.search_cfg(tmp_path, runner_type='Runner', model_wrapper_cfg=dict(type='MMDistributedDataParallel'))
    assert make_runner(cfg).max_epochs == 4


def test_a_training_whose_loss_is_not_finite_ends_with_a_line(tmp_path):
    arch = tiny.SPACE.arch(((0,), (1, 2), (0,))).format('fna')

    def start(failing):
        cfg = tiny_trials.random_cfg(tmp_path / 'run', failing)
        cfg.pop('work_dir')
        cfg.dump(tmp_path / 'config.py')
        cli(['train', str(tmp_path / 'config.py'), '--work-dir', str(tmp_path / 'run'), '--arch', arch])

    start([])
    assert (tmp_path / 'run' / 'adapt' / 'epoch_3.pth').is_file()
    with pytest.raises(SystemExit) as end:
        start([(arch, 'diverge')])
    assert end.value.code == (
        f'error: the loss was not finite at iteration 1 of the adaptation in {tmp_path}/run/adapt; checkpoints before '
        'that are kept. A lower learning rate or optim_wrapper.clip_grad may help'
    )
    assert list(tmp_path.glob('run/adapt/*.pth')) == []
    assert read_manifest(tmp_path / 'run' / 'run.json').state == 'adapting'


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    arch = tiny.SPACE.arch(((0,), (1, 2), (0,))).format('fna')
    cfg = tiny_trials.random_cfg(tmp_path)
    cfg.derived.train_cfg = {'type': 'IterBasedTrainLoop', 'max_iters': 20}
    cfg.derived.default_hooks.checkpoint = {
        'type': 'CheckpointHook',
        'by_epoch': False,
        'interval': 4,
        'max_keep_ckpts': 1,
    }
    step = tiny_trials.TinyTried.train_step

    def broken(self, data, optim_wrapper):
        out = step(self, data, optim_wrapper)
        broken.count += 1
        if broken.count == 8:  # by the step before a checkpoint
            self.backbone.stem.conv.weight.data[0] = float('nan')
        return out

    broken.count = 0
    monkeypatch.setattr(tiny_trials.TinyTried, 'train_step', broken)
    with pytest.raises(
        NonFiniteLossError, match=r'parameter backbone.stem.conv.weight was not finite after iteration 8'
    ):
        run(cfg, arch=arch)
    assert [path.name for path in tmp_path.glob('adapt/*.pth')] == ['iter_4.pth']


def test_with_a_loss_scale_ten_losses_in_a_row_must_be_broken():
    for scaled, first in ((False, 1), (True, 10)):
        wrapper = SimpleNamespace(loss_scaler=None) if scaled else SimpleNamespace()
        runner, hook = SimpleNamespace(optim_wrapper=wrapper, iter=40), FiniteLossHook()
        losses = [float('inf')] * (first - 1) + [1.0] + [float('nan')] * (first - 1)
        for loss in losses:
            hook.after_train_iter(runner, 0, outputs={'loss': torch.tensor(loss)})
        with pytest.raises(NonFiniteLossError, match='not finite at iteration 41'):
            hook.after_train_iter(runner, 0, outputs={'loss': torch.tensor(float('nan'))})


def test_what_a_checkpoint_replaces_stays_until_that_is_whole(tmp_path, monkeypatch):
    arch = tiny.SPACE.arch(((0,), (1, 2), (0,))).format('fna')
    kept = {'max_keep_ckpts': 1, 'save_best': 'closeness', 'rule': 'greater'}

    def cfg():
        return tiny_trials.random_cfg(tmp_path, **{f'derived.default_hooks.checkpoint.{k}': v for k, v in kept.items()})

    save = Runner.save_checkpoint

    def full(self, out_dir, filename, *args, **kwargs):
        if 'epoch_2' in filename:
            raise OSError(28, 'No space left on device')
        save(self, out_dir, filename, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, 'save_checkpoint', full)
        with pytest.raises(OSError, match='No space left'):
            run(cfg(), arch=arch)
    assert {path.name for path in tmp_path.glob('adapt/*.pth')} == {'epoch_1.pth', 'best_closeness_epoch_1.pth'}
    run(cfg(), arch=arch, resume=True)
    names = {path.name for path in tmp_path.glob('adapt/*.pth')}
    assert 'epoch_3.pth' in names and len(names) == 2  # the newest and the best
