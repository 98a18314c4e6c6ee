"""Settings of a random search and what is refused, the config of a trial, ranks and the table."""

import json

import pytest
from mmengine.registry import METRICS

from mmnas_ext.archs import ArchSpec
from mmnas_ext.runs.brief import keep_numbers
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.random_search import RANDOM_SEARCH
from mmnas_ext.runs.run import prepare
from mmnas_ext.runs.trials import Trial, TrialPlan, TrialSettings, rank_trials, trials_table
from tests.engine import tiny
from tests.engine.tiny_trials import MIDDLE, PATHS, TinyCloseness, macs, random_cfg


@METRICS.register_module()
def of_someone_else(**kwargs):
    """Makes a metric; what stands before its names nobody knows."""
    return TinyCloseness(**kwargs)


CHEAPEST, DEAREST = min(map(macs, PATHS)), max(map(macs, PATHS))


def made(index, metrics, failure='', **changes):
    known = dict(
        index=index, arch=f'network {index}', macs=4_823_403_200 + index, params=2_055_712, cost=1.0, metrics=metrics,
        failure=failure, iterations=100, seconds=90.0, cpu_seconds=150.0, bn_eps=1e-5,
    )  # fmt: skip
    return Trial(**{**known, **changes})


@pytest.mark.parametrize(('changes', 'message'), [
    ({'count': 0}, 'random_search.count must be a positive integer, got 0'),
    ({'count': 2.5}, 'random_search.count must be a positive integer, got 2.5'),
    ({'count': True}, 'random_search.count must be a positive integer, got True'),
    ({'seed': -1}, 'random_search.seed must be an integer of at least 0, got -1'),
    ({'rule': 'more'}, "random_search.rule must be one of ('greater', 'less'), got 'more'"),
    ({'rank_by': ''}, "random_search.rank_by must name a metric, such as 'mIoU', got ''"),
    ({'rank_by': 3}, "random_search.rank_by must name a metric, such as 'mIoU', got 3"),
    ({'limit': 3e9}, 'random_search.limit must be a dict, got 3000000000.0'),
    ({'trial': 'short'}, "random_search.trial must be a dict, got 'short'"),
    ({'limit.most': 3e9}, "random_search.limit takes ('metric', 'max', 'min', 'table'), got ['most']"),
    ({'keep_checkpoints': 1}, 'random_search.keep_checkpoints must be True or False, got 1'),
    ({'networks': 3}, "random_search takes ['rank_by', 'count', 'seed', 'rule', 'limit', 'trial', 'keep_checkpoints'], "
     "got ['networks']"),
    ({'limit.metric': 'flops'}, "random_search.limit: metric must be one of ('macs', 'params', 'latency'), got"),
    ({'limit.metric': 'latency'}, "random_search.limit: metric='latency' needs table="),
    ({'limit.max': CHEAPEST - 1}, 'no network costs at most'),
    ({'limit.max': 'small'}, "random_search.limit.max must be a number in the unit of its metric, got 'small'"),
    ({'limit.min': True}, 'random_search.limit.min must be a number in the unit of its metric, got True'),
    ({'limit.max': float('inf')}, 'random_search: max_cost must be a finite number or None, got inf'),
    ({'limit.min': DEAREST + 1, 'limit.max': None}, f'those of this space cost {CHEAPEST / 1e9:.4g} to '
     f'{DEAREST / 1e9:.4g} G multiply-adds'),
    ({'limit.min': MIDDLE + 1}, 'min_cost must be at most max_cost'),
    ({'count': 13, 'limit.max': None}, 'random_search: count must be at most 12, got 13: no more networks of this'),
    ({'rank_by': 'coco/bbox_mAP'}, 'random_search.rank_by must be a metric that val_evaluator gives (with no prefix), '
     "got 'coco/bbox_mAP'"),
    ({'trial.train_cfg': {'_delete_': True, 'type': 'EpochBasedTrainLoop'}}, 'random_search.trial.train_cfg must be a '
     "whole training loop with max_epochs or max_iters, got {'type': 'EpochBasedTrainLoop'}"),
    ({'trial.val_cfg': None}, "random_search ranks trials by their validation, but the config has no ['val_cfg']"),
    ({'trial.custom_hooks': {'type': 'KillTrial'}}, 'random_search.trial cannot be merged into derived=dict(…)'),
])  # fmt: skip
def test_what_is_refused_before_anything_is_trained(tmp_path, changes, message):
    cfg = random_cfg(tmp_path, **{f'random_search.{name}': value for name, value in changes.items()})
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        check_config(cfg)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_metric_has_to_be_named(tmp_path):
    cfg = random_cfg(tmp_path)
    cfg.random_search = {'count': 3}
    with pytest.raises(ValueError, match=r"must name the metric that ranks trials, rank_by='mIoU', got \['count'\]"):
        check_config(cfg)
    cfg.random_search = 20
    with pytest.raises(ValueError, match='random_search must be a dict, got 20'):
        check_config(cfg)


def test_without_a_second_half_there_is_nothing_to_try(tmp_path):
    cfg = random_cfg(tmp_path)
    cfg.pop('derived')
    with pytest.raises(ValueError, match=r'random_search=dict\(…\) needs derived=dict\(…\)'):
        check_config(cfg)


def test_a_backbone_that_is_no_super_network(tmp_path):
    cfg = random_cfg(tmp_path)
    cfg.model.backbone = {'type': 'mmnas_ext.MBNet', 'arch': 'mobilenet_v2'}
    with pytest.raises(
        ValueError, match=r"must be dict\(type='mmnas_ext.SuperNet', space=…\), got type 'mmnas_ext.MBNet'"
    ):
        check_config(cfg)


def test_data_of_a_trial_is_looked_at(tmp_path):
    cfg = random_cfg(tmp_path)
    cfg.random_search.trial.train_dataloader = {'dataset': {'data_root': '/nowhere', 'ann_file': 'a.json'}}
    with pytest.raises(FileNotFoundError, match='train_dataloader.dataset wants /nowhere/a.json'):
        check_config(cfg, search_only=True)


def test_settings_of_the_gradient_search_are_not_asked_for(tmp_path):
    cfg = random_cfg(tmp_path)
    cfg.train_cfg = {'type': 'EpochBasedTrainLoop', 'max_epochs': 1}
    cfg.pop('optim_wrapper')
    check_config(cfg)


@pytest.mark.parametrize(('evaluator', 'metric', 'fits'), [
    ({'type': 'mmdet.CocoMetric', 'ann_file': None}, 'coco/bbox_mAP', True),
    ({'type': 'mmdet.CocoMetric', 'ann_file': None}, 'bbox_mAP', False),
    ({'type': 'mmdet.CocoMetric', 'ann_file': None, 'prefix': 'val'}, 'val/bbox_mAP', True),
    ({'type': 'mmdet.CocoMetric', 'ann_file': None, 'prefix': 'val'}, 'coco/bbox_mAP', False),
    ({'type': 'mmseg.IoUMetric'}, 'mIoU', True),
    ({'type': 'mmseg.IoUMetric'}, 'coco/bbox_mAP', False),
    ([{'type': 'mmseg.IoUMetric'}, {'type': 'mmdet.CocoMetric', 'ann_file': None}], 'coco/bbox_mAP', True),
    ({'type': 'of_someone_else'}, 'own/metric', True),
])  # fmt: skip
def test_a_metric_of_another_prefix_than_the_evaluators(tmp_path, evaluator, metric, fits):
    cfg = random_cfg(tmp_path, **{'random_search.rank_by': metric})
    cfg.val_evaluator = evaluator
    if fits:
        check_config(cfg, search_only=True)
        return
    with pytest.raises(ValueError, match='rank_by must be a metric that val_evaluator gives'):
        check_config(cfg, search_only=True)


def test_a_trial_is_the_derived_config_changed(tmp_path):
    wrapper = {'type': 'OptimWrapper', 'optimizer': {'type': 'Adam', 'lr': 0.1}}
    schedule = [{'type': 'ConstantLR', 'factor': 0.5}]
    trial = {'optim_wrapper': wrapper, 'param_scheduler': schedule, 'model': {'dropout': 0.3}}
    cfg = random_cfg(tmp_path, **{f'random_search.trial.{name}': value for name, value in trial.items()})
    before = cfg.pretty_text
    arch = tiny.SPACE.arch(PATHS[3])
    made_cfg = TrialPlan.of(cfg).trial_config(arch)
    assert cfg.pretty_text == before
    # replaced whole: no momentum of the adaptation's, no loop of its length
    assert made_cfg.optim_wrapper == wrapper
    assert made_cfg.train_cfg == {'type': 'EpochBasedTrainLoop', 'max_epochs': 2}
    assert made_cfg.param_scheduler == schedule
    assert (made_cfg.model.dropout, made_cfg.model.norm) == (0.3, True)
    assert made_cfg.model.backbone == {'type': 'mmnas_ext.MBNet', 'out_indices': (2,), 'arch': arch.format('fna')}
    assert made_cfg.default_hooks.checkpoint.max_keep_ckpts == 2
    assert made_cfg.default_hooks.checkpoint.save_best is None
    assert 'random_search' not in made_cfg


def test_what_stands_for_nothing_may_be_left_out(tmp_path):
    cfg = random_cfg(tmp_path)
    cfg.random_search = {'rank_by': 'closeness', 'limit': None, 'trial': None, 'count': 12}
    plan = TrialPlan.of(cfg)
    assert plan.settings == TrialSettings('closeness', 12, 0, 'greater', {}, {}, False)
    assert {arch for arch, _ in plan.drawn} == {tiny.SPACE.arch(path) for path in PATHS}
    assert plan.trial_config(plan.drawn[0][0]).train_cfg.max_epochs == 3


def test_networks_are_priced_where_and_as_the_config_says(tmp_path):
    table = tiny.latency_table()
    limit = {'metric': 'latency', 'max': 2.6, 'table': json.loads(table.format())}
    cfg = random_cfg(tmp_path)
    cfg.random_search.limit = limit
    # by hand, fixed 0.3: 1.4 or 0.7, 0.9 or 3.3 or nothing, 0.9 or 8.1
    wanted = {((0,), (0, 2), (0,)): 2.6, ((0,), (1, 2), (0,)): 1.9}
    cfg.random_search.count = 2
    assert dict(TrialPlan.of(cfg).drawn) == {tiny.SPACE.arch(path): cost for path, cost in wanted.items()}
    cfg.random_search.count = 3
    with pytest.raises(ValueError, match='count must be at most 2, got 3'):
        check_config(cfg)


def test_a_trial_in_mixed_precision_when_asked(tmp_path):
    path = tmp_path / 'tiny.py'
    wrapper = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}}
    random_cfg(tmp_path, **{'random_search.trial.optim_wrapper': wrapper}).dump(path)
    cfg = prepare(str(path), amp=True)
    for half in (cfg.derived, cfg.random_search.trial):
        assert half.optim_wrapper.type == 'AmpOptimWrapper'
        assert half.optim_wrapper.optimizer.type == 'SGD'


TRIALS = [
    made(0, {'mIoU': 61.25, 'aAcc': 90.0}),
    made(1, {'mIoU': None, 'aAcc': 90.5}),
    made(2, {'mIoU': 63.5, 'aAcc': 91.125}, seconds=3600.0),
    made(3, {}, 'the loss was not finite at iteration 10', iterations=10),
    made(4, {'mIoU': 61.25, 'aAcc': 12.0}),
    made(5, {'aAcc': 1.0}),
]


def test_ranks():
    assert [trial.index for trial in rank_trials(TRIALS, 'mIoU', 'greater')] == [2, 0, 4, 1, 3, 5]
    assert [trial.index for trial in rank_trials(TRIALS, 'mIoU', 'less')] == [0, 4, 2, 1, 3, 5]
    assert [trial.index for trial in rank_trials(TRIALS, 'aAcc', 'less')] == [5, 4, 0, 1, 2, 3]
    assert [trial.why_failed('mIoU') for trial in TRIALS] == [
        '', 'mIoU is not a finite number', '', 'the loss was not finite at iteration 10', '',
        'the validation gave no mIoU',
    ]  # fmt: skip


def plan_of(tmp_path, **changes):
    return TrialPlan.of(random_cfg(tmp_path, **{'random_search.rank_by': 'mIoU', **changes}))


def test_the_table(tmp_path):
    table = trials_table([TRIALS[0], TRIALS[2], TRIALS[3]], plan_of(tmp_path))
    assert table.splitlines() == [
        '| trial |   MAdds | parameters |  mIoU |  aAcc | iterations | minutes | CPU minutes |'
        '                                  failed |',
        '| ----: | ------: | ---------: | ----: | ----: | ---------: | ------: | ----------: |'
        ' --------------------------------------: |',
        '|    02 | 4.823 G |    2.056 M | 63.50 | 91.12 |        100 |    60.0 |         2.5 |'
        '                                         |',
        '|    00 | 4.823 G |    2.056 M | 61.25 | 90.00 |        100 |     1.5 |         2.5 |'
        '                                         |',
        '|    03 | 4.823 G |    2.056 M |     – |     – |         10 |     1.5 |         2.5 |'
        ' the loss was not finite at iteration 10 |',
    ]


def test_a_table_without_failures_shows_fractions_finely_and_the_limits_metric(tmp_path):
    limit = {'metric': 'latency', 'max': 9.0, 'table': json.loads(tiny.latency_table().format())}
    cfg = random_cfg(tmp_path, **{'random_search.rank_by': 'mAP'})
    cfg.random_search.limit = limit
    lines = trials_table([made(11, {'mAP': 0.33912}, cost=12.345)], TrialPlan.of(cfg)).splitlines()
    assert [cell.strip() for cell in lines[0].split('|')[1:-1]] == [
        'trial', 'latency', 'MAdds', 'parameters', 'mAP', 'iterations', 'minutes', 'CPU minutes',
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[2].split('|')[1:-1]][:5] == ['11', '12.35 ms', '4.823 G', '2.056 M', '0.339']


def test_a_result_is_read_as_it_was_written():
    for trial in TRIALS:
        assert Trial.parse(trial.format()) == trial
    for text in ('', '{}', '[1]', '{"index": 1}'):
        with pytest.raises(ValueError, match='not the result of a trial'):
            Trial.parse(text)


def test_numbers_among_metrics():
    class Scalar:
        ndim = 0

        def __float__(self):
            return 0.5

    found = keep_numbers({'a': 1, 'b': float('nan'), 'c': float('inf'), 'd': 'text', 'e': [1, 2], 'f': Scalar()})
    assert found == {'a': 1.0, 'b': None, 'c': None, 'f': 0.5}
    assert isinstance(found['a'], float)


def test_what_must_not_change(tmp_path):
    known = RANDOM_SEARCH.settings(random_cfg(tmp_path)).search
    assert json.loads(json.dumps(known)) == known
    same = random_cfg(tmp_path, **{'random_search.count': 2, 'random_search.rule': 'less'})
    assert RANDOM_SEARCH.settings(same).search == known
    for changes in ({'random_search.seed': 3}, {'random_search.limit.min': 1}, {'model.backbone.input_size': (20, 16)}):
        assert RANDOM_SEARCH.settings(random_cfg(tmp_path, **changes)).search != known


def test_drawn_networks_parse_as_they_are_written(tmp_path):
    for arch, price in TrialPlan.of(random_cfg(tmp_path)).drawn:
        assert ArchSpec.parse(arch.format('fna')) == arch
        assert price <= MIDDLE
