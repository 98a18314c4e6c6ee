"""``--auto-scale-lr``: the batch of an update is processes x images x accumulated steps."""

import pytest

from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.scaling import PartRunner
from mmnas_ext.runs.training import make_runner
from tests.engine import tiny, tiny_distill, tiny_seg

BASE = {'auto_scale_lr': {'enable': True, 'base_batch_size': 16}}


def rates(cfg):
    """Learning rates after scaling, by wrapper."""
    runner = make_runner(cfg)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(wrapper, runner.auto_scale_lr)
    wrappers = getattr(wrapper, 'wrappers', None) or (dict(wrapper.items()) if hasattr(wrapper, 'optim_wrappers') else
                                                      {'all': wrapper})  # fmt: skip
    return {name: {round(group['lr'], 9) for group in each.optimizer.param_groups} for name, each in wrappers.items()}


@pytest.mark.parametrize(('steps', 'rate'), [(1, 0.05 * 2 / 16), (8, 0.05)])
def test_a_training_counts_accumulated_steps(tmp_path, steps, rate):
    cfg = tiny_seg.training_cfg(tmp_path, **BASE, **{'optim_wrapper.accumulative_counts': steps})
    assert rates(cfg) == {'all': {rate}}


def test_a_search_counts_those_of_the_weights_and_leaves_alphas_rate_alone(tmp_path):
    cfg = tiny.search_cfg(tmp_path, **BASE, **{
        'optim_wrapper.weights.accumulative_counts': 8, 'optim_wrapper.arch.accumulative_counts': 4,
    })  # fmt: skip
    assert rates(cfg) == {'weights': {0.05}, 'arch': {0.01}}


def test_every_block_of_a_distillation_is_scaled(tmp_path):
    assert rates(tiny_distill.config(tmp_path, **BASE)) == {f'block{index}': {1e-2 * 4 / 16} for index in range(2)}


def test_without_being_asked_nothing_is_scaled(tmp_path):
    off = {'auto_scale_lr': {'enable': False, 'base_batch_size': 16}}
    assert rates(tiny_seg.training_cfg(tmp_path, **off)) == {'all': {0.05}}


def test_the_factor_is_logged(tmp_path, monkeypatch):
    lines = []
    runner = make_runner(tiny_seg.training_cfg(tmp_path, **BASE, **{'optim_wrapper.accumulative_counts': 8}))
    assert isinstance(runner, PartRunner)
    monkeypatch.setattr(runner.logger, 'info', lines.append)
    runner.scale_lr(runner.build_optim_wrapper(runner.optim_wrapper), runner.auto_scale_lr)
    assert lines == [
        'auto_scale_lr: 1 processes x 2 images x 8 accumulated steps, for a base of 16: learning rates times 1'
    ]


@pytest.mark.parametrize('base', [0, -4, 'many', None, True])
def test_a_base_that_is_no_number_is_refused(tmp_path, base):
    cfg = tiny_seg.training_cfg(tmp_path, auto_scale_lr={'enable': True, 'base_batch_size': base})
    for attempt in (rates, check_config):
        with pytest.raises(ValueError, match=f'auto_scale_lr.base_batch_size must be a positive number, got {base!r}'):
            attempt(cfg)
