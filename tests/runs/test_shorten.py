"""A training made shorter goes through the whole of its schedules, and does what hooks do once at the same share."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS

from mmnas_ext.engine.pace import PacedScheduleHook
from mmnas_ext.runs.shorten import length_of, shorten

EPOCH = 10  # iterations


class Walked:
    """Stands for a runner: walks through epochs, and notes the learning rate of each iteration."""

    def __init__(self, schedules, epochs, hook):
        parameter = torch.nn.Parameter(torch.zeros(1))
        self.wrapper = OptimWrapper(torch.optim.SGD([parameter], lr=1.0))
        made = [
            PARAM_SCHEDULERS.build(each, default_args=dict(optimizer=self.wrapper, epoch_length=EPOCH))
            for each in schedules
        ]
        self.param_schedulers, self.iter, self.epoch, self.rates = made, 0, 0, []
        for _ in range(epochs):
            for index in range(EPOCH):
                self.rates.append(self.wrapper.get_lr()['lr'][0])
                hook.after_train_iter(self, index)
                self.iter += 1
            hook.after_train_epoch(self)
            self.epoch += 1


def config(*schedules, epochs=8, **changes):
    return Config(dict(
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=epochs), param_scheduler=list(schedules), **changes
    ))  # fmt: skip


@pytest.mark.parametrize('schedules', [
    [dict(type='LinearLR', start_factor=1e-3, begin=0, end=5)],
    [dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=40)],
    [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=20),
     dict(type='CosineAnnealingLR', eta_min=0, begin=2, end=8, T_max=6, convert_to_iter_based=True)],
    [dict(type='CosineAnnealingLR', begin=0, T_max=8)],
    [dict(type='CosineRestartLR', periods=[4, 4], restart_weights=[1, 0.5], eta_min=0)],
    [dict(type='MultiStepLR', milestones=[4, 6], gamma=0.1)],
    [dict(type='StepLR', step_size=1, gamma=0.5)],
    [dict(type='ExponentialLR', gamma=0.9)],
    [dict(type='ConstantLR', factor=0.5, begin=0, end=4)],
    [dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=True)],
    [dict(type='OneCycleLR', eta_max=2.0, total_steps=80, by_epoch=False, end=80)],
])  # fmt: skip
def test_a_shorter_training_sees_the_same_rates(schedules):
    cfg = config(*schedules)
    whole = [dict(each, end=each.get('end', 8)) for each in schedules]
    slow = Walked(whole, 8, ParamSchedulerHook()).rates
    assert shorten(cfg, 0.25) == 0.25
    assert cfg.train_cfg.max_epochs == 2
    paced = HOOKS.build(cfg.default_hooks.param_scheduler)
    assert isinstance(paced, PacedScheduleHook)
    fast = Walked(cfg.param_scheduler, 2, paced)
    by_epoch = all(scheduler.by_epoch for scheduler in fast.param_schedulers)
    # by epochs every fourth epoch's, by iterations every fourth iteration's
    wanted = [slow[40 * epoch] for epoch in (0, 1) for _ in range(EPOCH)] if by_epoch else slow[::4]
    assert fast.rates == pytest.approx(wanted)
    assert len(set(slow)) > 1


def test_steps_add_up_where_lengths_do_not_divide():
    hook = PacedScheduleHook(whole=7, brief=3)
    assert [hook._steps(n) for n in range(3)] == [2, 2, 3]
    assert sum(PacedScheduleHook(80_000, 300)._steps(n) for n in range(300)) == 80_000
    for whole, brief in ((2, 3), (3, 0)):
        with pytest.raises(ValueError, match=f'brief must be in 1..whole, got {brief} of {whole}'):
            PacedScheduleHook(whole, brief)


@pytest.mark.parametrize(('share', 'left'), [(0.5, 5), (0.01, 1), (1, 10), (0.24, 2)])
def test_whole_iterations_are_left(share, left):
    cfg = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=10), param_scheduler=None))
    assert shorten(cfg, share) == pytest.approx(left / 10)
    assert cfg.train_cfg.max_iters == left
    assert cfg.default_hooks.param_scheduler == dict(type='mmnas_ext.PacedScheduleHook', whole=10, brief=left)


def test_schedules_that_end_with_the_training_end_with_the_whole_one():
    cfg = config(dict(type='PolyLR', power=0.9), dict(type='StepLR', step_size=2, end=math.inf))
    shorten(cfg, 0.5)
    assert [each.end for each in cfg.param_scheduler] == [8, math.inf]
    several = Config(dict(
        train_cfg=dict(max_epochs=8), param_scheduler=dict(a=[dict(type='PolyLR')], b=dict(type='PolyLR', end=3))
    ))  # fmt: skip
    shorten(several, 0.5)
    assert (several.param_scheduler.a[0].end, several.param_scheduler.b.end) == (8, 3)


def test_hooks_do_what_they_do_once_at_the_same_share():
    cfg = config(
        epochs=300,
        custom_hooks=[
            dict(type='PipelineSwitchHook', switch_epoch=280),
            dict(type='EMAHook', begin_epoch=8, interval=4),
            dict(type='YOLOXModeSwitchHook', num_last_epochs=15),
            dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=30), dict(action_epoch=299)]),
        ],
        default_hooks=dict(ema=dict(type='EMAHook', begin_epoch=299), logger=dict(type='LoggerHook', interval=30)),
    )
    shorten(cfg, 0.25)
    assert [each.action_epoch for each in cfg.custom_hooks[3].schedule] == [8, 74]  # inside of 75, as in 300
    assert (cfg.default_hooks.ema.begin_epoch, cfg.default_hooks.logger.interval) == (74, 30)
    assert [hook.get('switch_epoch') for hook in cfg.custom_hooks] == [70, None, None, None]
    assert cfg.custom_hooks[1] == dict(type='EMAHook', begin_epoch=2, interval=4)
    assert cfg.custom_hooks[2].num_last_epochs == 4


def test_a_loop_of_iterations_and_several_optimizers_are_stepped():
    cfg = Config(dict(
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=80),
        param_scheduler=[
            dict(type='PolyLR', by_epoch=False), dict(type='LinearLR', by_epoch=False, start_factor=0.1, end=7)
        ],
    ))  # fmt: skip
    whole = [dict(each, end=each.get('end', 80)) for each in cfg.to_dict()['param_scheduler']]
    slow = Walked(whole, 8, ParamSchedulerHook()).rates
    shorten(cfg, 0.375)
    fast = Walked(cfg.param_scheduler, 3, paced := HOOKS.build(cfg.default_hooks.param_scheduler))
    assert fast.rates == pytest.approx([slow[int(n * 80 / 30)] for n in range(30)])
    several = Walked(cfg.param_scheduler, 0, paced)
    several.param_schedulers = {'a': several.param_schedulers}
    paced.after_train_iter(several, 0)
    assert [each.last_step for each in several.param_schedulers['a']] == [2, 2]


@pytest.mark.parametrize(('cfg', 'message'), [
    (config(dict(type='ReduceOnPlateauLR', monitor='mAP')), 'ReduceOnPlateauLR waits for validations'),
    (config(dict(type='PolyLR', by_epoch=False)), 'PolyLR must say its end, since it counts otherwise than max_epochs'),
    (config(default_hooks=dict(param_scheduler=dict(type='MyHook'))), "must be a ParamSchedulerHook .*, got 'MyHook'"),
    (Config(dict(train_cfg=dict(type='X'))), r"derived.train_cfg must say how long it trains, .*, got {'type': 'X'}"),
])  # fmt: skip
def test_what_cannot_be_shortened_is_told(cfg, message):
    with pytest.raises(ValueError, match=message):
        shorten(cfg, 0.5)


def test_lengths_are_whole_numbers():
    assert length_of(dict(max_iters=4e4)) == ('max_iters', 40_000)
    assert length_of(dict(max_epochs=12)) == ('max_epochs', 12)
    for wrong in (dict(max_epochs=True), dict(max_iters=2.5), dict(max_iters='3'), dict(max_epochs=0), {}):
        assert length_of(wrong) is None
    without = config(default_hooks=dict(param_scheduler=None))
    shorten(without, 0.5)
    assert without.default_hooks.param_scheduler is None
