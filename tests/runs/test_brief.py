"""A training made shorter: its schedules keep their shape."""

import pytest
from mmengine.config import Config

from mmnas_ext.runs.brief import keep_few_checkpoints, shorten


def test_schedules_shrink_with_the_loop():
    cfg = Config(dict(
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=4),
        param_scheduler=[
            dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=500),
            dict(type='CosineAnnealingLR', eta_min=0, begin=2, end=12, T_max=10),
            dict(type='MultiStepLR', begin=0, end=12, milestones=[8, 11], gamma=0.1),
            dict(type='StepLR', step_size=3, gamma=0.1),
            dict(type='ConstantLR', factor=0.5, begin=1, end=2),
        ],
    ))  # fmt: skip
    assert shorten(cfg, 0.25) == 0.25
    assert cfg.train_cfg == dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=4)
    warm, cosine, steps, step, constant = cfg.param_scheduler
    assert (warm.begin, warm.end, warm.start_factor) == (0, 125, 1e-2)
    assert (cosine.begin, cosine.end, cosine.T_max, cosine.eta_min) == (0, 3, 2, 0)
    assert (steps.end, steps.milestones, step.step_size) == (3, [2, 3], 1)
    assert constant.begin < constant.end


@pytest.mark.parametrize(('share', 'left', 'made'), [(0.5, 5, 0.5), (0.01, 1, 0.1), (1, 10, 1.0), (0.24, 2, 0.2)])
def test_whole_iterations_are_left(share, left, made):
    cfg = Config(dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=10), param_scheduler=dict(type='StepLR')))
    assert shorten(cfg, share) == pytest.approx(made)
    assert cfg.train_cfg.max_iters == left
    assert cfg.param_scheduler == dict(type='StepLR')


def test_a_loop_without_a_length_is_told():
    with pytest.raises(
        ValueError, match=r"derived.train_cfg must be a training loop with one of .*, got {'type': 'X'}"
    ):
        shorten(Config(dict(train_cfg=dict(type='X'))), 0.5)


def test_the_newest_checkpoints_are_kept_alone():
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=4, save_best='auto'))))
    keep_few_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='CheckpointHook', interval=4, save_best=None, max_keep_ckpts=2)
    none, without = Config(dict(default_hooks=dict(checkpoint=None))), Config()
    for each in (none, without):
        keep_few_checkpoints(each)
    assert none.default_hooks.checkpoint is None
    assert without.default_hooks.checkpoint.max_keep_ckpts == 2
