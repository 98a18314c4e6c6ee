"""What a search writes about itself, and when it warns."""

import json
import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmnas_ext.archs import SearchSpace, prices
from mmnas_ext.engine import SearchMonitorHook
from mmnas_ext.engine.limits import CostTerm
from mmnas_ext.engine.loops import Alternation
from mmnas_ext.engine.monitor import chance_of, measure, scalars
from mmnas_ext.reports.log import read_log
from mmnas_ext.runs.results import last_metrics
from mmnas_ext.runs.run import run
from mmnas_ext.search.choosing import Choosing
from mmnas_ext.workdir import append_line, write_text
from tests.engine import tiny


def supernet(*alphas):
    built = tiny.build()[0].backbone
    for parameter, alpha in zip(built.arch_parameters(), alphas, strict=True):
        parameter.data = torch.tensor(alpha, dtype=torch.float32)
    return built


def test_a_record_holds_what_follows_from_alpha_by_hand():
    # probabilities: 1/4, 3/4; 1/2, 1/4, 1/4; decided
    record = measure(supernet([0.0, math.log(3)], [math.log(2), 0.0, 0.0], [60.0, -60.0]))
    assert record['alpha'] == {'1.0': [0.25, 0.75], '1.1': [0.5, 0.25, 0.25], '2.0': [1.0, 0.0]}
    first = (0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / math.log(2)
    second = (0.5 * math.log(2) + 0.5 * math.log(4)) / math.log(3)
    assert record['entropy'] == pytest.approx({'1.0': first, '1.1': second, '2.0': 0.0}, abs=1e-6)
    a, b, c = (tiny.MACS[name] for name in ('1.0', '1.1', '2.0'))
    expected = tiny.MACS['fixed'] + 0.25 * a[0] + 0.75 * a[1] + 0.5 * b[0] + 0.25 * b[1] + c[0]
    assert record['expected_macs'] == pytest.approx(expected, rel=1e-6)
    assert record['argmax_macs'] == tiny.MACS['fixed'] + a[1] + b[0] + c[0]
    assert record['skips'] == 0


def test_entropy_is_one_where_all_are_equal_and_skips_are_counted():
    record = measure(supernet([2.0, 2.0], [-1.0, -1.0, 3.0], [5.0, 5.0]))
    assert record['entropy']['1.0'] == 1
    assert record['entropy']['2.0'] == 1
    assert record['skips'] == 1
    assert record['argmax_macs'] == tiny.MACS['fixed'] + tiny.MACS['1.0'][0] + 0 + tiny.MACS['2.0'][0]


@pytest.mark.parametrize('metric', ['params', 'latency'])
def test_another_metric_is_recorded_beside_multiply_adds(tmp_path, metric):
    net = supernet([0.0, math.log(3)], [math.log(2), 0.0, 0.0], [60.0, -60.0])
    table = {'params': tiny.PARAMS, 'latency': tiny.LATENCY}[metric]
    cost = CostTerm(metric=metric, table=tiny.latency_table() if metric == 'latency' else None)
    hook, runner = monitored(tmp_path, net, cost=cost, interval=1)
    iterate(hook, runner, 1)
    (record,) = [json.loads(line) for line in (tmp_path / 'search_log.jsonl').read_text().splitlines()]
    a, b, c = (table[name] for name in ('1.0', '1.1', '2.0'))
    expected = table['fixed'] + 0.25 * a[0] + 0.75 * a[1] + 0.5 * b[0] + 0.25 * b[1] + c[0]
    assert record[f'expected_{metric}'] == pytest.approx(expected, rel=1e-6)
    assert record[f'argmax_{metric}'] == table['fixed'] + a[1] + b[0] + c[0]
    assert record['argmax_macs'] == tiny.MACS['fixed'] + tiny.MACS['1.0'][1] + tiny.MACS['1.1'][0] + tiny.MACS['2.0'][0]
    name, unit = {'params': ('mparams', 1e6), 'latency': ('latency_ms', 1)}[metric]
    scalars = runner.shown[-1][1]
    assert scalars[f'search/expected_{name}'] == pytest.approx(expected / unit)
    assert scalars[f'search/argmax_{name}'] == pytest.approx(record[f'argmax_{metric}'] / unit)
    assert scalars['search/argmax_gmacs'] == record['argmax_macs'] / 1e9
    # the report reads these records as any other
    assert read_log(tmp_path).records[0].argmax['macs'] == record['argmax_macs']


def test_multiply_adds_alone_add_no_other_figures():
    net = supernet([0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0])
    record = measure(net, CostTerm().prices(net.space, net.input_size))
    costs = [name for name in record if name.startswith(('expected', 'argmax'))]
    assert costs == ['expected_macs', 'argmax_macs']


class Messages(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, record.getMessage()))


def monitored(tmp_path, net, arch_start=0, max_iters=20, cost=None, selection='argmax', **settings):
    """A hook, and a runner that it watches without training anything."""
    logger = logging.getLogger(f'monitor {tmp_path.name}')
    logger.setLevel(logging.INFO)
    logger.handlers = [Messages()]
    shown = []
    cost = cost or CostTerm()
    runner = SimpleNamespace(
        model=net,
        iter=0,
        epoch=0,
        max_iters=max_iters,
        work_dir=str(tmp_path),
        logger=logger,
        train_loop=SimpleNamespace(alternation=Alternation(None, None, arch_start, 1), iter=0, max_iters=max_iters),
        train_dataloader=SimpleNamespace(batch_size=2),
        optim_wrapper=SimpleNamespace(
            cost=cost, prices=cost.prices(net.space, net.input_size), selection=Choosing.parse(selection), host=None
        ),
        visualizer=SimpleNamespace(add_scalars=lambda scalars, step: shown.append((step, scalars))),
        shown=shown,
        lines=logger.handlers[0].lines,
    )
    hook = SearchMonitorHook(**settings)
    hook.before_train(runner)
    return hook, runner


def iterate(hook, runner, count, path=((0,), (0, 0), (0,))):
    for _ in range(count):
        runner.model.set_path(path)
        hook.after_train_iter(runner, 0)
        runner.iter += 1


def warnings_of(runner):
    return [text for level, text in runner.lines if level == 'WARNING']


def test_drawn_candidates_are_counted_and_written_at_the_interval(tmp_path):
    hook, runner = monitored(tmp_path, supernet([0.0] * 2, [0.0] * 3, [0.0] * 2), interval=4, max_iters=10)
    iterate(hook, runner, 3)
    iterate(hook, runner, 7, ((0,), (1, 2), (0,)))
    records = [json.loads(line) for line in (tmp_path / 'search_log.jsonl').read_text().splitlines()]
    assert [record['iter'] for record in records] == [4, 8, 10]  # the last iteration always
    assert [record['drawn']['1.1'] for record in records] == [[3, 0, 1], [3, 0, 5], [3, 0, 7]]
    assert records[-1]['drawn'] == {'1.0': [3, 7], '1.1': [3, 0, 7], '2.0': [10, 0]}
    assert [step for step, _ in runner.shown] == [4, 8, 10]
    scalars = runner.shown[-1][1]
    assert scalars['search/drawn_1.0/1'] == pytest.approx(0.7)
    assert scalars['search/entropy'] == pytest.approx(1)
    assert scalars['search/expected_gmacs'] == pytest.approx(records[-1]['expected_macs'] / 1e9)
    assert SearchSpace.parse(tmp_path / 'search_space.json') == tiny.SPACE


def test_a_search_that_skips_all_it_may_is_called_collapsed_once(tmp_path):
    net = supernet([0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0])
    hook, runner = monitored(tmp_path, net, arch_start=5, interval=1)
    iterate(hook, runner, 5)
    assert warnings_of(runner) == []  # alpha has not been trained yet
    iterate(hook, runner, 5)
    assert len(warnings_of(runner)) == 1
    text = 'iteration 6: the search has collapsed: the found network skips all 1 layers that it may'
    assert text in warnings_of(runner)[0]


def test_many_skips_are_a_drift(tmp_path):
    net = tiny.build({'space': MANY_SKIPS.format()})[0].backbone
    for alpha, skipped in zip(net.arch_parameters(), (True, True, True, False), strict=True):
        alpha.data = torch.tensor([0.0, 3.0 if skipped else -1.0])
    hook, runner = monitored(tmp_path, net, interval=1)
    iterate(hook, runner, 2, ((0,), (0,), (0, 0, 0, 0, 0)))
    assert warnings_of(runner) == ['iteration 1: the search drifts towards collapse: 3 of 4 layers are skips']
    net.arch_parameters()[0].data = torch.tensor([1.0, 0.0])
    hook, runner = monitored(tmp_path, net, interval=1)
    iterate(hook, runner, 2, ((0,), (0,), (0, 0, 0, 0, 0)))
    assert warnings_of(runner) == []


def test_skips_of_an_undecided_alpha_are_chance_where_they_are_no_surprise(tmp_path):
    net = tiny.build({'space': MANY_SKIPS.format()})[0].backbone
    for alpha in net.arch_parameters():
        alpha.data = torch.tensor([0.0, 0.01])
    hook, runner = monitored(tmp_path, net, interval=1)
    iterate(hook, runner, 2, ((0,), (0,), (0, 0, 0, 0, 0)))
    assert warnings_of(runner) == []  # all four of two candidates: one in sixteen
    assert chance_of([0.5] * 4, 4) == pytest.approx(1 / 16) and chance_of([0.5] * 4, 3) == pytest.approx(5 / 16)
    assert chance_of([1 / 7] * 10, 8) < 1e-4
    stage = MANY_SKIPS.stages[2]
    deep = replace(
        MANY_SKIPS, stages=(*MANY_SKIPS.stages[:2], replace(stage, layers=stage.layers[:1] + stage.layers[1:2] * 8))
    )
    net = tiny.build({'space': deep.format()})[0].backbone
    for alpha in net.arch_parameters():
        alpha.data = torch.tensor([0.0, 0.01])
    hook, runner = monitored(tmp_path, net, interval=1)
    iterate(hook, runner, 1, ((0,), (0,), (0,) * 9))
    assert 'skips all 8 layers' in warnings_of(runner)[0]


@pytest.mark.parametrize(
    ('settings', 'warned'),
    [
        (dict(), True),
        (dict(selection='measured'), False),  # what alpha says decides nothing
        (dict(cost=CostTerm(min=prices(tiny.SPACE, tiny.SIZE).range()[1])), False),
    ],
)
def test_skips_are_those_of_the_network_that_alpha_chooses_within_the_limit(tmp_path, settings, warned):
    hook, runner = monitored(tmp_path, supernet([0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0]), interval=1, **settings)
    iterate(hook, runner, 1)
    assert any('has collapsed' in text for text in warnings_of(runner)) == warned


MANY_SKIPS = SearchSpace(
    (*tiny.SPACE.stages[:1], type(tiny.SPACE.stages[0])(4, 8, (('k3_e3',),), 2),
     type(tiny.SPACE.stages[0])(8, 8, (('k3_e3',), *[('k3_e3', 'skip')] * 4), 1))
)  # fmt: skip


@pytest.mark.parametrize(('done', 'warned'), [(9, True), (10, False), (15, False)])
def test_alpha_that_settles_in_the_first_half_is_warned_of(tmp_path, done, warned):
    net = supernet([30.0, 0.0], [30.0, 0.0, 0.0], [30.0, 0.0])
    hook, runner = monitored(tmp_path, net, interval=1, max_iters=20)
    runner.iter = done - 1  # as many arch steps are done after this iteration
    iterate(hook, runner, 1)
    text = f'alpha has settled early: mean certainty 100.0% after {done} of 20 arch steps'
    assert [text in line for line in warnings_of(runner)] == [True] * warned


def test_warnings_and_counts_go_on_after_a_resume(tmp_path):
    net = supernet([30.0, 0.0], [30.0, 0.0, 60.0], [30.0, 0.0])
    hook, runner = monitored(tmp_path, net, interval=1, max_iters=40)
    iterate(hook, runner, 3)
    assert len(warnings_of(runner)) == 1 + 1  # collapsed, and settled early
    checkpoint = {}
    hook.before_save_checkpoint(runner, checkpoint)
    other, resumed = SearchMonitorHook(interval=1), runner
    other.after_load_checkpoint(resumed, json.loads(json.dumps(checkpoint)))
    other.before_train(resumed)
    iterate(other, resumed, 3)
    assert len(warnings_of(resumed)) == 2
    last = json.loads((tmp_path / 'search_log.jsonl').read_text().splitlines()[-1])
    assert (last['iter'], last['drawn']['1.0']) == (6, [6, 0])
    fresh = SearchMonitorHook(interval=1)
    fresh.after_load_checkpoint(resumed, {})
    fresh.before_train(resumed)
    iterate(fresh, resumed, 1)
    assert len(warnings_of(resumed)) == 4


def test_the_scalars_arrive_in_tensorboard(tmp_path):
    cfg = tiny.search_cfg(tmp_path)
    cfg.visualizer = {'type': 'Visualizer', 'vis_backends': [{'type': 'TensorboardVisBackend'}]}
    run(cfg, search_only=True)
    events = EventAccumulator(str(next(tmp_path.glob('*/vis_data'))))
    events.Reload()
    records = read_log(tmp_path).records
    for name, wanted in (
        ('search/expected_gmacs', [record.expected['macs'] / 1e9 for record in records]),
        ('search/argmax_gmacs', [record.argmax['macs'] / 1e9 for record in records]),
        ('search/entropy_1.1', [record.entropy['1.1'] for record in records]),
        ('search/skips', [record.skips for record in records]),
    ):
        found = events.Scalars(name)
        assert [event.step for event in found] == [2, 4, 6, 8, 10, 12]
        assert [event.value for event in found] == pytest.approx(wanted, rel=1e-6)
    last = json.loads((tmp_path / 'search_log.jsonl').read_text().splitlines()[-1])['drawn']['2.0']
    assert events.Scalars('search/drawn_2.0/1')[-1].value == pytest.approx(last[1] / 12)
    assert sum(last) == 12
    assert {'arch_loss', 'loss', 'lr'} <= {tag.removeprefix('train/') for tag in events.Tags()['scalars']}


@pytest.mark.parametrize(('before', 'after'), [
    (None, 'new\n'), ('', 'new\n'), ('a\n', 'a\nnew\n'), ('a\nha', 'a\nha\nnew\n'), ('ha', 'ha\nnew\n'),
])  # fmt: skip
def test_a_line_after_half_a_line_stands_alone(tmp_path, before, after):
    path = tmp_path / 'log'
    if before is not None:
        path.write_text(before)
    append_line(path, 'new')
    assert path.read_text() == after


def test_metrics_cut_short_by_a_kill_are_not_read(tmp_path):
    file = tmp_path / 'adapt' / '20200101_000000' / 'vis_data' / 'scalars.json'
    write_text(file, '{"coco/bbox_mAP": 0.3, "step": 1}\n{"coco/bbox_mAP": 0.4, "st')
    assert last_metrics(tmp_path) == {'coco/bbox_mAP': 0.3}


@pytest.mark.parametrize('interval', [0, -1])
def test_an_interval_is_positive(interval):
    with pytest.raises(ValueError, match=f'interval must be at least 1, got {interval}'):
        SearchMonitorHook(interval=interval)


@pytest.mark.parametrize(('largest', 'selection', 'warned'), [
    (0.1, 'argmax', True), (3.0, 'argmax', False), (0.1, 'measured', False)
])  # fmt: skip
def test_undecided_alpha_is_warned_of_at_the_end_where_it_decides(tmp_path, largest, selection, warned):
    net = supernet([largest, 0.0], [largest, 0.0, 0.0], [largest, 0.0])
    hook, runner = monitored(tmp_path, net, interval=1, max_iters=20, selection=selection)
    runner.iter = 18
    iterate(hook, runner, 1)
    assert warnings_of(runner) == []
    iterate(hook, runner, 1)
    sure = 100 / (1 + math.exp(-largest))
    text = f'alpha is undecided: 0 of 3 layers are 95% certain, {sure:.1f}% on average after 20 arch steps'
    assert [text in line for line in warnings_of(runner)] == [True] * warned


def test_certainty_is_the_leading_candidate_against_the_next():
    record = measure(supernet([math.log(3), 0.0], [math.log(4), math.log(2), 0.0], [0.0, 0.0]))
    assert record['certainty'] == pytest.approx({'1.0': 3 / 4, '1.1': 4 / 6, '2.0': 1 / 2}, abs=1e-6)
    assert scalars({**record, 'drawn': {}})['search/certainty'] == pytest.approx((3 / 4 + 4 / 6 + 1 / 2) / 3, abs=1e-6)


@pytest.mark.parametrize(('name', 'value'), [('early_certainty', 1.5), ('late_certainty', '1')])
def test_certainties_are_probabilities(name, value):
    with pytest.raises(ValueError, match=f'{name} must be a probability in 0..1, got'):
        SearchMonitorHook(**{name: value})
