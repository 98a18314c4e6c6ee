"""The last rung of a choice by losses: networks are adapted briefly; end to end, killed, and with another recipe."""

import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, price
from mmnas_ext.datasets import split_halves
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.gradient import GRADIENT
from mmnas_ext.runs.last_rung import LastRung, brief_config, check_adapting, describe_recipe, locked, split_data
from mmnas_ext.runs.manifest import ADAPT, SEARCH, ResumeError, read_manifest
from mmnas_ext.runs.run import run
from mmnas_ext.runs.select_again import select_again
from mmnas_ext.runs.session import front_settings
from mmnas_ext.search.choosing import AdaptPlan
from mmnas_ext.search.decision import Decision
from mmnas_ext.workdir import WorkDir, write_text
from tests.engine import tiny, tiny_seg, tiny_trials

PATHS = tiny_trials.PATHS
ADAPT_PLAN = dict(networks=3, share=0.5, repeats=2, certain=0.0, rank_by='closeness')
MEASURED = dict(
    type='measured', first=2, networks=3, rounds=2, batches=2, most=4, finalists=2, certain=0.0, window=0.5
)  # fmt: skip
COSTS = sorted(map(tiny_trials.macs, PATHS))
LIMIT = COSTS[7]
EXAMPLE = tiny.SPACE.arch(PATHS[0])


def config(work_dir, adapt=ADAPT_PLAN, limit=LIMIT, failing=(), **changes):
    """A search of eight iterations; an adaptation is of four epochs."""
    plain = {'sampler': {'type': 'DefaultSampler', 'shuffle': False}}
    cfg = tiny.search_cfg(work_dir, **{
        'train_cfg.max_epochs': 2, 'train_dataloader.dataset.count': 16, 'derived.train_cfg.max_epochs': 4,
        'custom_imports.imports': ['tests.engine.tiny_trials'],
        'model.type': 'TinyTried', 'model.failing': list(failing),
        'val_dataloader': {**tiny.loader_cfg(3, transform='TinyPlain', count=7), **plain},
        'val_cfg': {}, 'val_evaluator': {'type': 'TinyCloseness'},
    })  # fmt: skip
    cfg.optim_wrapper.cost = dict(weight=0.1, max=limit)
    cfg.optim_wrapper.selection = {**MEASURED, 'adapt': adapt}
    cfg.merge_from_dict(changes)
    return cfg


def records(work_dir):
    return [json.loads(line) for line in WorkDir(work_dir).brief.with_suffix('.jsonl').read_text().splitlines()]


def figures(work_dir):
    """What each network reached, by its text and the number of the training."""
    return {(r['arch'], r['repeat']): r['metrics'] for r in records(work_dir)}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('adapted') / 'work'
    run(config(folder))
    return folder


@pytest.fixture
def work_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / 'work')


def test_brief_adaptations_decide_and_what_they_decide_is_trained(finished):
    decision, known = Decision.parse(finished), figures(finished)
    adapted = decision.adapted
    assert (adapted.metric, adapted.share, adapted.reference) == ('closeness', 0.5, decision.reference)
    # three networks and the reference once, the better two of them once more
    reference = adapted.reference.format('fna')
    assert sorted(repeat for _, repeat in known) == [0] * 4 + [1] * 3
    assert {(reference, 0), (reference, 1)} < known.keys()
    assert decision.notes['trainings'] == 7
    for network in adapted.networks:
        text = network.arch.format('fna')
        differences = [
            known[text, n]['closeness'] - known[reference, n]['closeness'] for n in range(2) if (text, n) in known
        ]
        assert network.measured == pytest.approx(float(np.mean(differences)))
        assert network.batches == len(differences)
        assert network.cost <= LIMIT
    assert [n.expected for n in adapted.networks] == sorted((n.expected for n in adapted.networks), reverse=True)
    better = adapted.networks[0].expected > 0
    assert decision.arch == (adapted.networks[0].arch if better else adapted.reference)
    assert (decision.better is not None) == better
    trained = read_manifest(finished / 'run.json').parts[ADAPT].settings['model.backbone.arch']
    assert ArchSpec.parse(trained) == decision.arch.replace(bn_eps=None)
    # what is adapted is what losses find promising
    tried = {network.arch for network in decision.networks}
    assert {network.arch for network in adapted.networks} < tried
    assert not list(WorkDir(finished).brief.rglob('*.pth'))
    assert 'adapted for 50%' in decision.why
    # two networks beside the reference were trained twice: their second differences less their first say the noise
    twice = [reference, *(n.arch.format('fna') for n in adapted.networks if n.batches == 2)]
    base, *others = (known[text, 1]['closeness'] - known[text, 0]['closeness'] for text in twice)
    changes = np.array(others) - base
    # each change has four trainings' variance, half of it the reference's and so in both
    assert 2 * adapted.noise**2 * 2 == pytest.approx(
        float(changes @ np.linalg.solve(0.5 + 0.5 * np.eye(2), changes)) / 2
    )


def test_the_network_is_chosen_that_reaches_most(tmp_path, monkeypatch):
    """By a metric that is made up, of which the losses know nothing."""
    worth, done = {}, []

    def rated(self, arch, repeat):
        text = arch.format('fna')
        done.append((text, repeat))
        worth.setdefault(text, 0.1 * (1 + len(worth)))  # the later, the better
        self.known[text, repeat] = {'closeness': worth[text] + 1e-3 * repeat}

    monkeypatch.setattr(LastRung, '_train', rated)
    run(config(tmp_path / 'more'), search_only=True)
    decision = Decision.parse(tmp_path / 'more')
    best = max(worth, key=worth.get)
    assert decision.arch.format('fna') == best != decision.reference.format('fna')
    assert done[0] == (decision.reference.format('fna'), 0)
    assert decision.better > 0.5
    worth.clear()
    run(config(tmp_path / 'less', {**ADAPT_PLAN, 'rule': 'less'}), search_only=True)
    decision = Decision.parse(tmp_path / 'less')
    assert decision.arch == decision.reference == decision.adapted.reference
    assert decision.why.startswith('the network that stood is kept: ')
    assert all(network.expected > 0 for network in decision.adapted.networks)
    # where the reference costs too much, what losses chose is to be beaten
    worth.clear()
    limit = price(decision.reference, tiny.SIZE) - 1
    run(config(tmp_path / 'cheap', limit=limit), search_only=True)
    cheap = Decision.parse(tmp_path / 'cheap')
    assert (cheap.reference, cheap.limit.max) == (decision.reference, limit)
    assert cheap.reference.format('fna') not in worth
    assert cheap.adapted.reference == cheap.rival == cheap.networks[0].arch
    assert cheap.arch.format('fna') == max(worth, key=worth.get)


def test_training_and_validation_images_are_the_searchs_halves(tmp_path):
    cfg = config(tmp_path, **{'train_cfg.split_seed': 5, 'train_cfg.weight_fraction': 0.75})
    trained, held_out = split_data(derived_config(cfg, EXAMPLE), cfg.train_cfg, 3)
    weights, arch = split_halves(trained.dataset, 5, 0.75)
    assert set(trained.indices) == set(weights.indices)
    assert set(held_out.indices) < set(arch.indices)
    # as many items as there are images, spread evenly over the half's
    assert (len(trained), len(weights), len(held_out)) == (16, 12, 3)
    assert list(trained.indices) == sorted(trained.indices)
    assert max(np.bincount(trained.indices)) == 2
    # a hook that exchanges the transforms of the one leaves the other
    assert trained.dataset is not held_out.dataset


def test_a_killed_run_goes_on_to_the_same_bits(finished, tmp_path, steps):
    work_dir, whole = tmp_path / 'work', len(records(finished))
    for last in (5, 30):
        steps['last'] = last
        with pytest.raises(tiny_seg.KilledError):
            run(config(work_dir), resume=work_dir.exists())
        assert read_manifest(work_dir / 'run.json').state == 'rating'
    begun = len(records(work_dir))
    assert 0 < begun < whole
    with WorkDir(work_dir).brief.with_suffix('.jsonl').open('a') as file:
        file.write('{"stamp": "half of a\n{"stamp": 3, "arch": 4}')
    steps['last'] = 10_000
    run(config(work_dir), resume=True)
    text = WorkDir(work_dir).brief.with_suffix('.jsonl').read_text()
    assert len(re.findall('"repeat"', text)) == whole
    kept = [json.loads(line) for line in text.splitlines() if 'repeat' in line]
    assert {(r['arch'], r['repeat']): r['metrics'] for r in kept} == figures(finished)
    assert Decision.parse(work_dir).adapted == Decision.parse(finished).adapted
    assert Decision.parse(work_dir).notes['trainings'] == whole - begun


def test_weights_that_nobody_goes_on_with_do_not_stay(work_dir, tmp_path):
    """A run may be killed after it has written the record down, or in a training of a network that is tried no more."""
    known = next(path for path in WorkDir(work_dir).brief.iterdir() if path.is_dir())
    other, busy = WorkDir(work_dir).brief / 'other_0', WorkDir(work_dir).brief / 'busy_0'
    for folder in (known, other, busy):
        folder.mkdir(exist_ok=True)
        (folder / 'epoch_2.pth').write_bytes(b'weights')
    with locked(busy):
        select_again(config(work_dir), tmp_path / 'same')
    assert list(WorkDir(work_dir).brief.rglob('*.pth')) == [busy / 'epoch_2.pth']


def test_what_another_process_trains_meanwhile_is_not_trained_again(tmp_path, monkeypatch, capsys):
    rung = LastRung(config(tmp_path), AdaptPlan(**ADAPT_PLAN), tiny.SPACE.arch, EXAMPLE, WorkDir(tmp_path))
    text = EXAMPLE.format('fna')
    assert rung.known == {}
    folder = Path(rung._config(EXAMPLE, 0).work_dir)
    waiting, ended = threading.Event(), []

    def train():
        rung._train(EXAMPLE, 0)
        ended.append(True)

    monkeypatch.setattr(
        'mmnas_ext.runs.last_rung.say', lambda line: waiting.set() if 'waiting for it' in line else None
    )
    monkeypatch.setattr('mmnas_ext.runs.last_rung.adapt_briefly', None)  # nothing is trained here
    with locked(folder):
        thread = threading.Thread(target=train)
        thread.start()
        assert waiting.wait(30)
        record = dict(stamp=rung.stamp, arch=text, repeat=0, metrics={'closeness': 0.5})
        write_text(WorkDir(tmp_path).brief.with_suffix('.jsonl'), json.dumps(record) + '\n')
        assert not ended
    thread.join(30)
    assert ended
    assert rung.known == {(text, 0): {'closeness': 0.5}}
    assert rung.trained == 0


@pytest.mark.parametrize('found', [{}, {'closeness': 0.0, 'distance': 3.0}])
def test_where_no_network_finds_anything_nothing_is_decided(tmp_path, monkeypatch, found):
    trained = []

    def nothing(self, arch, repeat):
        trained.append(arch)
        self.known[arch.format('fna'), repeat] = found

    monkeypatch.setattr(LastRung, '_train', nothing)
    with pytest.raises(
        ResumeError, match='no brief adaptation reached more than 0 closeness: .* must be more than 0.5'
    ):
        run(config(tmp_path), search_only=True)
    assert len(trained) == 4  # the first round says it


def test_a_metric_of_which_nobody_knows_whether_more_is_better_must_be_named(tmp_path, steps):
    cfg = config(tmp_path, {**ADAPT_PLAN, 'rank_by': None})
    with pytest.raises(ResumeError, match=r'rank_by must name the metric that decides, one of .*, got None'):
        run(cfg, search_only=True)
    # no training more is spent on saying it again
    known, count = records(tmp_path), steps['count']
    for wrong in (None, 'closest'):
        with pytest.raises(ResumeError, match=rf'one of \[.distance., .closeness.\], .* got {wrong!r}'):
            run(config(tmp_path, {**ADAPT_PLAN, 'rank_by': wrong}), resume=True, search_only=True)
    assert (records(tmp_path), steps['count']) == (known, count)


def test_parameters_that_break_in_the_last_step_are_a_failure(finished, tmp_path, monkeypatch):
    """On all processes at once: what the main process alone saves is not looked at."""
    lost = Decision.parse(finished).adapted.networks[0].arch.format('fna')
    step = tiny_trials.TinyTried.train_step

    def train_step(self, data, optim_wrapper):
        found = step(self, data, optim_wrapper)
        if (
            getattr(self.backbone, 'arch', None) is not None
            and self.backbone.arch.replace(bn_eps=1e-5).format('fna') == lost
        ):
            self.steps = getattr(self, 'steps', 0) + 1
            if self.steps == 16:  # two epochs
                next(self.parameters()).data.fill_(float('nan'))
        return found

    monkeypatch.setattr(tiny_trials.TinyTried, 'train_step', train_step)
    run(config(tmp_path), search_only=True)
    assert figures(tmp_path)[lost, 0] is None
    assert lost not in {network.arch.format('fna') for network in Decision.parse(tmp_path).adapted.networks}


def test_other_services_and_checkpoints_are_left_out(tmp_path):
    cfg = config(tmp_path, **{
        'visualizer': {'type': 'Visualizer', 'vis_backends': [{'type': 'WandbVisBackend'}]},
        'derived.custom_hooks': [{'type': 'CheckpointHook', 'interval': 1}, {'type': 'mmnas_ext.ReseedHook'}],
    })  # fmt: skip
    brief = brief_config(cfg, AdaptPlan(), EXAMPLE)
    assert brief.visualizer == {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]}
    assert brief.custom_hooks == [{'type': 'mmnas_ext.ReseedHook'}]


def test_a_given_network_needs_no_brief_adaptations(tmp_path):
    cfg = config(tmp_path, **{'derived.param_scheduler': [{'type': 'ReduceOnPlateauLR', 'monitor': 'closeness'}]})
    with pytest.raises(ValueError, match='ReduceOnPlateauLR waits for validations'):
        run(cfg)
    run(cfg, arch=EXAMPLE.format('fna'))
    assert read_manifest(tmp_path / 'run.json').state == 'done'


def test_where_nothing_can_be_compared_the_failure_is_told(tmp_path, monkeypatch):
    failing = [(tiny.SPACE.arch(path).format('fna'), 'diverge') for path in PATHS]
    failing += [(tiny.SPACE.arch(path).replace(bn_eps=1e-5).format('fna'), 'diverge') for path in PATHS]
    with pytest.raises(ResumeError, match=r'the brief adaptation of \[\[.* failed, and others are compared with it'):
        run(config(tmp_path, failing=failing), search_only=True)


def test_a_recipe_that_cannot_be_trained_names_its_place(tmp_path, monkeypatch):
    def refused(*_args, **_kwargs):
        raise ValueError('Tried to step 17 times')

    monkeypatch.setattr('mmnas_ext.runs.last_rung.adapt_briefly', refused)
    with pytest.raises(ResumeError, match=r'the brief adaptation in .*selection/brief/\w+_0 cannot be trained: Tried'):
        run(config(tmp_path), search_only=True)


def test_another_choice_trains_what_is_new_alone(work_dir, tmp_path, steps):
    before = records(work_dir)
    select_again(config(work_dir), tmp_path / 'same')
    assert records(work_dir) == before
    assert steps['count'] == 0
    again = Decision.parse(tmp_path / 'same' / 'decision.json')
    assert again.adapted == Decision.parse(work_dir).adapted
    assert again.notes['trainings'] == 0
    select_again(config(work_dir, {**ADAPT_PLAN, 'repeats': 3}), tmp_path / 'more')
    assert records(work_dir)[: len(before)] == before
    assert {record['repeat'] for record in records(work_dir)[len(before) :]} == {2}
    assert len(records(work_dir)) == len(before) + 2


def test_another_recipe_is_another_choice_of_the_same_search(finished, tmp_path, steps, capsys):
    work_dir, changed = tmp_path / 'work', {'derived.optim_wrapper.optimizer.lr': 0.01}
    run(config(work_dir), search_only=True)
    part, before = read_manifest(work_dir / 'run.json').parts[SEARCH].id, records(work_dir)
    run(config(work_dir, **changed), resume=True, search_only=True)
    assert 'the network is chosen again' in capsys.readouterr().out
    assert read_manifest(work_dir / 'run.json').parts[SEARCH].id == part
    new = records(work_dir)[len(before) :]
    assert len(new) >= 7
    assert {record['stamp'] for record in new}.isdisjoint(record['stamp'] for record in before)
    count = steps['count']
    run(config(work_dir, **changed), resume=True, search_only=True)
    assert steps['count'] == count


def test_a_training_that_has_begun_is_not_set_aside_for_another_recipe(work_dir, steps, capsys):
    """It goes on, or is refused, as any that is configured otherwise."""
    before, adapted = records(work_dir), Decision.parse(work_dir).adapted
    with pytest.raises(ResumeError, match='the adaptation in .* was begun with other settings .*lr 0.05 -> 0.01'):
        run(config(work_dir, **{'derived.optim_wrapper.optimizer.lr': 0.01}), resume=True)
    assert steps['count'] == 0
    run(config(work_dir, **{'derived.train_cfg.max_epochs': 5}), resume=True)
    said = capsys.readouterr().out
    assert 'the choice stays, though brief adaptations of this recipe might choose another network' in said
    assert 'chosen again' not in said
    assert records(work_dir) == before
    assert Decision.parse(work_dir).adapted == adapted
    assert steps['count'] == 8  # an epoch more


def test_nor_for_another_validation(tmp_path, steps, capsys):
    front = {'optim_wrapper.selection.front': dict(networks=2, images=3, calibration=1, rank_by='closeness')}
    run(config(tmp_path, **front))
    before, count = records(tmp_path), steps['count']
    plain = {'val_dataloader.dataset.pipeline': [dict(type='TinyPlain'), dict(type='TinyPlain')]}
    run(config(tmp_path, **front, **plain), resume=True)
    assert 'the choice stays, though' in capsys.readouterr().out
    assert (records(tmp_path), steps['count']) == (before, count)
    assert read_manifest(tmp_path / 'run.json').state == 'done'


def test_a_front_stays_that_of_a_search_under_another_recipe(tmp_path):
    """Its networks are validated with the super-network's weights."""
    one, other = (
        GRADIENT.settings(config(tmp_path, **change)).choice
        for change in ({}, {'derived.optim_wrapper.optimizer.lr': 0.01})
    )
    assert one != other
    assert front_settings(one) == front_settings(other) != front_settings({})


@pytest.mark.parametrize(('change', 'same'), [
    ({'derived.optim_wrapper.optimizer.lr': 0.01}, False),
    ({'derived.train_dataloader': {'batch_size': 3}}, False),
    ({'derived.train_cfg.max_epochs': 6}, False),
    ({'train_cfg.split_seed': 1}, False),
    ({'val_evaluator': {'type': 'TinyCloseness', 'prefix': 'x'}}, False),
    ({'randomness.seed': 4}, False),
    ({'derived.train_dataloader': {'num_workers': 1}}, True),
    ({'val_evaluator': {'type': 'TinyCloseness', 'collect_device': 'cpu'}}, True),
    ({'val_dataloader.batch_size': 2}, True),
    ({'derived.default_hooks': {'logger': {'type': 'LoggerHook', 'interval': 9}}}, True),
    ({'default_hooks.logger.interval': 7}, True),
    ({'optim_wrapper.cost.max': LIMIT - 1}, True),
])  # fmt: skip
def test_what_makes_another_recipe(tmp_path, change, same):
    plan, cfg = AdaptPlan(share=0.5), config(tmp_path)
    known = describe_recipe(cfg, plan, EXAMPLE)
    assert (describe_recipe(config(tmp_path, **change), plan, EXAMPLE) == known) == same
    assert describe_recipe(cfg, plan, tiny.SPACE.arch(PATHS[-1])) == known
    assert describe_recipe(cfg, AdaptPlan(share=0.25), EXAMPLE) != known
    assert describe_recipe(cfg, AdaptPlan(share=0.5, images=3), EXAMPLE) != known
    # how many are compared, and how carefully, changes no training
    assert describe_recipe(cfg, AdaptPlan(networks=2, share=0.5, certain=3.0), EXAMPLE) == known


def test_networks_whose_training_fails_are_no_candidates(finished, tmp_path, capsys):
    stood = Decision.parse(finished)
    lost = [network.arch for network in stood.adapted.networks]
    # the adaptation's own network is built without its epsilon
    failing = [(arch.format('fna'), 'diverge') for arch in lost]
    failing += [(arch.replace(bn_eps=None).format('fna'), 'diverge') for arch in lost]
    run(config(tmp_path, failing=failing), search_only=True)
    decision = Decision.parse(tmp_path)
    assert decision.arch == decision.reference
    assert decision.adapted.networks == ()
    assert decision.why == 'the network that stood is kept: no brief adaptation of another network succeeded'
    assert capsys.readouterr().out.count('warning: it failed: ') == 3
    assert [record['metrics'] for record in records(tmp_path)].count(None) == 3


def test_a_metric_that_no_validation_gives_is_told_and_trained_networks_stay(tmp_path):
    with pytest.raises(
        ResumeError, match=r"selection.adapt.rank_by must name .* one of \['distance', 'closeness'\], .*'mAP'"
    ):
        run(config(tmp_path, {**ADAPT_PLAN, 'rank_by': 'mAP'}), search_only=True)
    known = records(tmp_path)
    run(config(tmp_path), resume=True, search_only=True)
    assert records(tmp_path)[: len(known)] == known


def test_brief_trainings_are_the_adaptation_made_shorter(tmp_path):
    cfg = config(tmp_path, **{'derived.default_hooks.checkpoint.save_best': 'auto'})
    whole, brief = derived_config(cfg, EXAMPLE), brief_config(cfg, AdaptPlan(share=0.5), EXAMPLE)
    assert (whole.train_cfg.max_epochs, brief.train_cfg.max_epochs) == (4, 2)
    assert brief.default_hooks.checkpoint.save_best is None
    assert {key for key in whole if whole[key] != brief[key]} == {'train_cfg', 'default_hooks'}


def test_what_cannot_be_adapted_is_told_before_the_search(tmp_path):
    mosaic = {'type': 'MultiImageMixDataset', 'dataset': config(tmp_path).train_dataloader.dataset}
    cases = [
        ({'train_dataloader': {'dataset': {'_delete_': True, **mosaic}}}, "may be .*, got 'MultiImageMixDataset'"),
        ({'train_cfg': {'_delete_': True, 'type': 'EpochBasedTrainLoop'}}, 'train_cfg must say how long it trains'),
    ]  # fmt: skip
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            run(config(tmp_path, derived=change))
    blind = Config({key: value for key, value in config(tmp_path).to_dict().items() if not key.startswith('val_')})
    with pytest.raises(ValueError, match='selection.adapt validates networks, but the config has no val_dataloader'):
        run(blind)
    with pytest.raises(ValueError, match='selection.adapt goes with one host, and host_choices searches that too'):
        check_adapting(Config({**config(tmp_path).to_dict(), 'host_choices': {}}), AdaptPlan(), tiny.SPACE)
    assert not WorkDir(tmp_path).manifest.exists()
