"""A search by evolution from its super-network to the training of what it finds: killed, changed, ranked otherwise."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, Limit, price, prices
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine import subnet as subnets
from mmnas_ext.engine.path_losses import PathLosses
from mmnas_ext.runs import front_runs, selection
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.dry_run import dry_run
from mmnas_ext.runs.evolution import EVOLUTION, KEY
from mmnas_ext.runs.front_runs import pick_network
from mmnas_ext.runs.manifest import SEARCH, ResumeError, read_manifest
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.prepared import Prepared
from mmnas_ext.runs.rows import Comparison, Row
from mmnas_ext.runs.run import prepare, run
from mmnas_ext.runs.select_again import select_again
from mmnas_ext.runs.session import Session
from mmnas_ext.runs.usual_rows import draw_near
from mmnas_ext.search.decision import Decision
from mmnas_ext.search.evolution import SEED
from mmnas_ext.search.generations import Generations
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.workdir import WorkDir, write_text
from tests.engine import tiny, tiny_seg, tiny_trials
from tests.engine.kept import loaded
from tests.small import FOLDER

PRICED = prices(tiny.SPACE, tiny.SIZE)
COSTS = sorted(PRICED.path(path) for path in tiny_trials.PATHS)
LIMIT = COSTS[9]
BRED = dict(population=3, generations=2, parents=2, batches=2, finalists=2, final_batches=2, window=0.3, seed=1)
INSIDE = [path for path in tiny_trials.PATHS if 0.3 * LIMIT <= PRICED.path(path) <= LIMIT]


def config(work_dir, evolution=BRED, limit=LIMIT, **changes):
    """A super-network of four iterations, six networks measured, a training of two iterations."""
    cfg = tiny_trials.random_cfg(work_dir, **{
        'train_cfg.max_epochs': 2, 'train_cfg.arch_start': 2, 'train_dataloader.dataset.count': 8,
        'derived.train_cfg.max_epochs': 1, 'val_dataloader.dataset.count': 3,
    })  # fmt: skip
    cfg.pop('random_search')
    cfg.optim_wrapper.cost = dict(weight=0.1, max=limit)
    cfg.evolution = dict(evolution)
    cfg.merge_from_dict(changes)
    return cfg


def losses_of(work_dir):
    """Loss by network and batch, as they are written down; each once."""
    records = [json.loads(line) for line in WorkDir(work_dir).path_losses.read_text().splitlines()]
    found = {(arch_of(record['path']), record['batch']): record['loss'] for record in records}
    assert len(found) == len(records)
    return found


def arch_of(path):
    return tiny.SPACE.arch(tuple(map(tuple, path))).replace(bn_eps=1e-5)


def outcome(work_dir):
    """What a run came to, less the time that it took."""
    files = WorkDir(work_dir)
    decision = json.loads(files.decision.read_text())
    decision.pop('notes')
    checkpoint = loaded(find_checkpoint(files.adapt).path)['state_dict']
    weights = {name: value.tolist() for name, value in checkpoint.items()}
    texts = [file.read_text() for file in (files.evolution, files.front, files.arch)]
    return decision, weights, texts, read_manifest(files.manifest).state


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('evolved') / 'work'
    run(config(folder))
    return folder


@pytest.fixture
def work_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / 'work')


def test_what_is_measured_of_every_generation_is_written_down(finished):
    losses, told = losses_of(finished), Generations.parse(finished)
    assert (told.rank_by, told.rule, told.metric, told.asked) == ('loss', 'less', 'macs', 2)
    assert told.limit == Limit(0.3 * LIMIT, LIMIT)
    assert [len(row) for row in told.rows] == [3, 3]
    networks = [each for row in told.rows for each in row]
    assert len({each.arch for each in networks}) == 6
    assert {each.arch for each in networks} <= {arch_of(path) for path in INSIDE}
    for each in networks:
        assert each.cost == price(each.arch, tiny.SIZE)
        assert each.value == pytest.approx(np.mean([losses[each.arch, batch] for batch in range(2)]))
    assert told.bests == tuple(min(each.value for each in row) for row in told.rows)
    assert told.leads[-1] == min(each.value for each in networks)


def test_the_finalists_are_decided_on_batches_that_made_none_of_them_one(finished):
    losses, told, decision = losses_of(finished), Generations.parse(finished), Decision.parse(finished)
    finalists = sorted((each for row in told.rows for each in row), key=lambda each: each.value)[:2]
    fresh = [np.array([losses[each.arch, batch] for batch in (2, 3)]) for each in finalists]
    best, other = sorted((0, 1), key=lambda index: fresh[index].mean())
    assert decision.arch == finalists[best].arch == ArchSpec.parse(WorkDir(finished).arch)
    assert decision.type == 'evolution'
    assert [each.arch for each in decision.networks] == [finalists[best].arch, finalists[other].arch]
    pairs = fresh[best] - fresh[other]
    shown = f'{pairs.mean():+.4f} ± {pairs.std(ddof=1) / 2**0.5:.4f}'
    assert decision.why == (
        'the best of 6 networks in 2 generations; on 2 further batches its loss less that of the runner-up is ' + shown
    )
    # all others were never measured on those
    assert {arch for arch, batch in losses if batch in (2, 3)} == {*(f.arch for f in finalists), decision.reference}
    assert [each.layer for each in decision.layers] == ['1.0', '1.1', '2.0']
    assert decision.costs['macs'] == price(decision.arch, tiny.SIZE) <= LIMIT


def test_alpha_is_not_trained_and_weights_are(finished):
    first, last = (loaded(finished / f'epoch_{epoch}.pth') for epoch in (1, 2))
    alphas = {name for name in first['state_dict'] if name.endswith('alpha')}
    assert len(alphas) == 3
    same = {name for name, value in first['state_dict'].items() if torch.equal(value, last['state_dict'][name])}
    assert alphas <= same
    assert 'backbone.stages.0.0.depthwise.conv.weight' not in same
    assert (last['optimizer']['arch']['count'], last['optimizer']['weights']['count']) == (0, 4)
    # what alpha would have given, epoch by epoch, is no result here
    assert not WorkDir(finished).snapshots.exists()


def test_the_front_holds_what_no_measured_network_beats(finished):
    front, told = MeasuredFront.parse(finished), Generations.parse(finished)
    networks = [each for row in told.rows for each in row]
    points = {each.arch: (each.cost, each.value) for each in networks}
    beaten = {
        arch for arch, (cost, value) in points.items()
        if any(c <= cost and v <= value and (c, v) != (cost, value) for c, v in points.values())
    }  # fmt: skip
    better = set(points) - beaten
    chosen = Decision.parse(finished).arch
    assert {each.arch for each in front.points} == better | {chosen}
    assert (front.rank_by, front.rule, front.limits) == ('loss', 'less', {'macs': Limit(None, LIMIT)})
    assert [each.arch for each in front.points if each.origin == 'chosen'] == [chosen]
    values = {each.arch: each.value for each in networks}
    assert {each.arch: each.metrics['loss'] for each in front.points} == {a: values[a] for a in better | {chosen}}
    number = next(n for n, each in enumerate(front.points) if each.arch == chosen)
    assert ArchSpec.parse(pick_network(config(finished), number)).stages == chosen.stages


def test_a_run_killed_anywhere_repeats_itself_and_measures_nothing_twice(finished, tmp_path, computed):
    work_dir, whole = tmp_path / 'work', len(losses_of(finished))
    for last in (1, 8, whole - 1):
        computed['last'] = last
        with pytest.raises(tiny_seg.KilledError):
            run(config(work_dir), resume=work_dir.exists())
        assert read_manifest(work_dir / 'run.json').state == 'rating'
        assert not WorkDir(work_dir).decision.exists()
    with WorkDir(work_dir).path_losses.open('a') as file:
        file.write('{"stamp": "half of a')
    computed['last'] = 10_000
    run(config(work_dir), resume=True)
    assert computed['count'] == whole
    assert outcome(work_dir) == outcome(finished)
    assert outcome(work_dir)[-1] == 'done'


def test_a_run_killed_before_any_of_its_files_is_there_ends_as_if_it_had_not_been(finished, tmp_path, monkeypatch):
    """The n-th attempt dies before its n-th file is put in place, until one comes to the end."""
    left, replace_file = [1000], os.replace

    def replaced(source, target):
        left[0] -= not str(target).endswith('.pth')
        if not left[0]:
            raise tiny_seg.KilledError
        replace_file(source, target)

    def again(name, allowed):
        left[0] = allowed
        run(config(tmp_path / name, {**BRED, 'seed': 5, 'generations': 1}), resume=True, search_only=True)

    def found(name):
        files = WorkDir(tmp_path / name)
        decision = {key: value for key, value in json.loads(files.decision.read_text()).items() if key != 'notes'}
        return decision, [file.read_text() for file in (files.evolution, files.front, files.arch)]

    for name in ('whole', 'killed'):
        shutil.copytree(finished, tmp_path / name, ignore=shutil.ignore_patterns('adapt'))
    monkeypatch.setattr(os, 'replace', replaced)
    again('whole', 1000)
    for attempt in range(1, 40, 2):
        try:
            again('killed', attempt)
            break
        except tiny_seg.KilledError:
            continue
    assert attempt > 7
    assert found('killed') == found('whole')


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (dict(evolution={**BRED, 'generations': 3}), 'evolution.generations 2 -> 3'),
        (dict(limit=COSTS[8]), f'choice.macs.max {LIMIT} -> {COSTS[8]}'),
    ],
)
def test_other_settings_evolve_again_on_the_same_super_network(work_dir, change, said, computed, capsys):
    before, known = read_manifest(work_dir / 'run.json').parts, losses_of(work_dir)
    weights, generations = find_checkpoint(work_dir).path.read_bytes(), Generations.parse(work_dir)
    run(config(work_dir, **change), resume=True)
    assert f'the network is chosen again: {said}' in capsys.readouterr().out
    after = read_manifest(work_dir / 'run.json')
    assert after.parts[SEARCH].id == before[SEARCH].id
    assert after.state == 'done'
    assert find_checkpoint(work_dir).path.read_bytes() == weights
    told = Generations.parse(work_dir)
    if 'limit' in change:
        assert max(each.cost for row in told.rows for each in row) <= COSTS[8]
    else:
        assert told.rows[:2] == generations.rows
        assert len(told.rows) == 3
    # what is known is not measured again
    assert len(losses_of(work_dir)) == len(known) + computed['count']
    count = computed['count']
    run(config(work_dir, **change), resume=True)
    assert computed['count'] == count


def test_another_training_of_the_super_network_is_refused(work_dir):
    with pytest.raises(ResumeError, match=r'begun with other settings \(optim_wrapper.weights.optimizer.lr 0.05'):
        run(config(work_dir, **{'optim_wrapper.weights.optimizer.lr': 0.3}), resume=True)


def test_a_metric_ranks_instead_of_the_loss(tmp_path, monkeypatch, computed):
    by_metric = {key: value for key, value in BRED.items() if key != 'batches'}
    by_metric |= dict(rank_by='closeness', images=3, calibration=2)
    calibrated = []
    original = subnets.calibrate

    def counted(model, batches):
        batches = list(batches)
        calibrated.append(len(batches))
        original(model, batches)

    monkeypatch.setattr(selection, 'calibrate', counted)
    run(config(tmp_path, by_metric), search_only=True)
    told, decision, front = Generations.parse(tmp_path), Decision.parse(tmp_path), MeasuredFront.parse(tmp_path)
    assert (told.rank_by, told.rule, told.count) == ('closeness', 'greater', 6)
    networks = [each for row in told.rows for each in row]
    assert decision.arch == max(networks, key=lambda each: each.value).arch
    assert decision.why.startswith(f'the best of 6 networks in 2 generations by closeness, {told.leads[-1]:.4f}')
    assert calibrated == [2] * 6
    # the metric of one, computed by hand of its own model
    best = next(each for each in front.points if each.origin == 'chosen')
    assert best.metrics['closeness'] == pytest.approx(1 / (1 + best.metrics['distance']))
    assert best.metrics['closeness'] == told.leads[-1]
    assert (front.rank_by, front.rule) == ('closeness', 'greater')
    # finalists and the reference, on batches that tell how sure it is
    assert computed['count'] == 6
    # a smaller metric is better where the rule says so: the network with the largest of those is the best one now
    run(config(tmp_path, {**by_metric, 'rule': 'less', 'rank_by': 'distance'}), resume=True, search_only=True)
    least = Generations.parse(tmp_path)
    assert least.leads[-1] == min(each.value for row in least.rows for each in row)
    assert least.rows[0][0].value == pytest.approx(1 / told.rows[0][0].value - 1)
    before = len(calibrated)
    # other images are another metric
    run(config(tmp_path, {**by_metric, 'images': 2}), resume=True, search_only=True)
    assert len(calibrated) == before + 6


def test_a_validation_that_changes_is_measured_anew(tmp_path, monkeypatch):
    by_metric = {**BRED, 'rank_by': 'closeness', 'generations': 1}
    by_metric.pop('batches')
    run(config(tmp_path, by_metric), search_only=True)
    lines = WorkDir(tmp_path).validated.read_text()
    transform = {'val_dataloader.dataset.pipeline': [dict(type='TinyFlip')]}
    run(config(tmp_path, by_metric, **transform), resume=True, search_only=True)
    assert len(WorkDir(tmp_path).validated.read_text()) == pytest.approx(2 * len(lines), rel=0.05)


def test_the_seed_is_in_the_first_generation_where_it_is_known_and_fits(work_dir, tmp_path, monkeypatch):
    assert SEED not in {each.made for each in Generations.parse(work_dir).rows[0]}
    seed = INSIDE[3]
    monkeypatch.setattr(SuperNet, 'seed_path', lambda supernet: seed)
    again = dict(evolution={**BRED, 'generations': 1})
    run(config(work_dir, **again), resume=True, search_only=True)
    first = Generations.parse(work_dir).rows[0]
    assert [(each.arch, each.made) for each in first if each.made == SEED] == [(arch_of(seed), SEED)]
    assert len(first) == 3
    front, losses = MeasuredFront.parse(work_dir), losses_of(work_dir)
    known = front.seed or next(each for each in front.points if each.arch == arch_of(seed))
    assert known.metrics['loss'] == pytest.approx(np.mean([losses[arch_of(seed), batch] for batch in range(2)]))
    assert Decision.parse(work_dir).reference == arch_of(seed)
    run(config(work_dir, {**BRED, 'start_with_seed': False}), resume=True, search_only=True)
    assert SEED not in {each.made for row in Generations.parse(work_dir).rows for each in row}
    assert MeasuredFront.parse(work_dir).seed.arch == arch_of(seed)


@pytest.mark.parametrize('metric', ['params', 'latency', 'macs'])
def test_costs_are_limited_by_any_metric(metric, tmp_path):
    table = tmp_path / 'board.json'
    table.write_text(tiny.latency_table().format())
    term = dict(metric=metric, table=str(table) if metric == 'latency' else None)
    costs = sorted(map(prices(tiny.SPACE, tiny.SIZE, **term).path, tiny_trials.PATHS))
    bred = {**BRED, 'generations': 1}
    low, high = 0.3 * costs[8], costs[8]
    if metric == 'macs':  # a limit with a lowest cost of its own
        low = costs[3]
        term['min'] = low
        bred.pop('window')
    cfg = config(tmp_path / 'work', bred)
    cfg.optim_wrapper.cost = dict(max=high, **term)
    run(cfg, search_only=True)
    told, decision = Generations.parse(tmp_path / 'work'), Decision.parse(tmp_path / 'work')
    assert (told.metric, decision.metric, told.limit) == (metric, metric, Limit(low, high))
    for each in told.rows[0]:
        assert each.cost == price(each.arch, tiny.SIZE, metric=metric, table=term['table'])
        assert low <= each.cost <= high
    assert low <= decision.costs[metric] <= high


def refused(tmp_path, *args, **changes):
    with pytest.raises(ValueError, match=r'\w') as raised:
        check_config(config(tmp_path / 'work', *args, **changes))
    assert not (tmp_path / 'work').exists()
    return str(raised.value)


def test_what_cannot_be_done_is_told_at_the_start(tmp_path):
    assert 'cost.max must be at least' in refused(tmp_path, limit=10)
    few = refused(tmp_path, {**BRED, 'population': 30})
    assert f'evolution.population: count must be at most {len(INSIDE)}, got 30: no more networks of this space' in few
    narrow = refused(tmp_path, {**BRED, 'window': 1.0}, limit=COSTS[-1] - 1)
    assert 'no network of this space costs at least' in narrow
    assert 'though they cost' in narrow
    assert 'train_cfg.arch_start must be 2, the length of the search, got 1: evolution reads no alpha' in refused(
        tmp_path, **{'train_cfg.arch_start': 1}
    )
    assert "set it to None, got 'measured'" in refused(tmp_path, **{'optim_wrapper.selection': 'measured'})
    plain = config(tmp_path / 'work')
    plain.pop('derived')
    with pytest.raises(ValueError, match=r'evolution=dict\(…\) needs derived=dict\(…\)'):
        check_config(plain)
    assert 'evolution and random_search both say how a network is found' in refused(
        tmp_path, random_search=dict(rank_by='closeness')
    )
    assert "evolution takes ['population', " in refused(tmp_path, dict(generation=3))
    assert 'evolution.window is a share of cost.max' in refused(tmp_path, limit=None)
    assert 'evolution.window is a share of cost.max' in refused(tmp_path, **{'optim_wrapper.cost.min': 10})
    by_metric = {key: value for key, value in BRED.items() if key != 'batches'}
    assert 'the config has no val_dataloader' in refused(
        tmp_path, {**by_metric, 'rank_by': 'closeness'}, val_dataloader=None
    )
    assert 'evolution.rank_by must be a metric that val_evaluator gives (with no prefix)' in refused(
        tmp_path, {**by_metric, 'rank_by': 'coco/bbox_mAP'}
    )
    assert 'model.backbone.space has nothing to search' in refused(
        tmp_path, **{'model.backbone.space': one_candidate().format()}
    )


def one_candidate():
    stages = tuple(replace(stage, layers=tuple(row[:1] for row in stage.layers)) for stage in tiny.SPACE.stages)
    return replace(tiny.SPACE, stages=stages)


def test_a_metric_that_the_validation_does_not_give_is_told_with_those_that_it_does(work_dir):
    by_metric = {key: value for key, value in BRED.items() if key != 'batches'}
    with pytest.raises(ResumeError, match=r"evolution.rank_by must be one of \['closeness', 'distance'\], which the"):
        run(config(work_dir, {**by_metric, 'rank_by': 'mIoU'}), resume=True, search_only=True)


def test_a_super_network_whose_losses_are_infinite_gives_no_network(work_dir, monkeypatch):
    monkeypatch.setattr(PathLosses, 'rate', lambda losses, paths, places: np.full((len(paths), len(places)), np.inf))
    with pytest.raises(ResumeError, match='no network can be chosen: none of the 3 networks of the first generation'):
        run(config(work_dir, {**BRED, 'seed': 2}), resume=True, search_only=True)
    assert read_manifest(work_dir / 'run.json').state == 'rating'


def test_the_plan_says_what_will_be_measured_and_a_dry_run_leaves_nothing(tmp_path):
    cfg = config(tmp_path / 'work', **{'train_dataloader.dataset.count': 20})
    prepared = check_config(cfg)
    plan = dry_run(cfg, prepared)
    assert 'evolution    2 generations of 3 networks, ranked by loss on 2 batches of the held-out half' in plan
    assert 'limit        at least' in plan
    assert 'evolution.json' in plan
    assert not (tmp_path / 'work').exists()


def test_a_choice_by_alpha_is_refused_and_another_network_may_be_given(work_dir, tmp_path):
    with pytest.raises(ValueError, match='selected from a search by gradients, and this config describes none'):
        select_again(config(work_dir), tmp_path / 'other')
    given = next(arch_of(path) for path in INSIDE if arch_of(path) != Decision.parse(work_dir).arch)
    run(config(work_dir), resume=True, arch=given.format('fna'))
    assert not WorkDir(work_dir).decision.exists()
    assert ArchSpec.parse(WorkDir(work_dir).arch) == given
    assert method_of(config(work_dir)).name == read_manifest(work_dir / 'run.json').method == 'evolution'
    assert KEY not in Config.fromfile(WorkDir(work_dir).config)


def test_a_comparison_gives_each_random_seed_its_own_draws():
    row, steel = Row('found'), str(FOLDER / 'evolution_retinanet_mbv2_steel.py')
    compared = Comparison(steel, Path('none'), (row,), (3,), ())
    assert compared.options_of(row, 3) == ['randomness.seed=3', 'train_cfg.split_seed=3', 'evolution.seed=3']
    with pytest.raises(ValueError, match=r'evolution.seed'):
        Comparison(steel, Path('none'), (Row('found', options=('evolution.seed=1',)),), (3,), ())
    drawn = draw_near(prepare(steel), 2, 0)
    most = price(ArchSpec.parse('mobilenet_v2'), (224, 224))
    assert all(0.9 * most <= price(arch, (224, 224)) <= most for arch in drawn)


@pytest.mark.parametrize(
    ('metrics', 'best'),
    [
        ({0: {'coco/bbox_mAP': 0.3, 'time': 1}, 1: {'coco/bbox_mAP': 0.2, 'time': 2}}, 0),
        ({0: {}, 1: {}}, 1),
        # where a validation gives what ranked them, less is better
        ({0: {'loss': 1}, 1: {'loss': 2}}, 0),
    ],
)
def test_of_networks_of_a_front_of_losses_the_best_trained_one_is_told(metrics, best, work_dir, monkeypatch):
    cfg, files = config(work_dir), WorkDir(work_dir)
    for number in metrics:
        write_text(files.adapted / str(number) / 'run.json', files.manifest.read_text())
    monkeypatch.setattr(front_runs, 'last_metrics', lambda folder: metrics[int(Path(folder).name)])
    plan = front_runs.AdaptPlan(
        MeasuredFront.parse(work_dir), tuple(metrics), False, read_manifest(files.manifest), Prepared()
    )
    told = front_runs._best(cfg, plan, Session(cfg, EVOLUTION, plan.manifest))
    assert Path(told.cfg.work_dir).name == str(best)
