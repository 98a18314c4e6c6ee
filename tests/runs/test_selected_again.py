"""Choosing from a super-network once more: only losses that compare, images that differ, and what there is."""

import json
import shutil

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.hooks import EMAHook
from mmengine.registry import DATASETS, TRANSFORMS
from torch.utils.data import DataLoader

from mmnas_ext.archs import ArchSpec, Limit, price
from mmnas_ext.engine.batches import describe_reading
from mmnas_ext.runs import gradient
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.manifest import ResumeError
from mmnas_ext.runs.run import run
from mmnas_ext.runs.select_again import select_again
from mmnas_ext.runs.selection import spread_limits, tell_fewer
from mmnas_ext.search.choosing import FrontPlan
from mmnas_ext.search.decision import Decision
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from mmnas_ext.workdir import WorkDir
from tests.engine import tiny, tiny_seg, tiny_trials
from tests.runs.test_selection import LIMIT, MEASURED, config, lines


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run to the end of its search."""
    folder = tmp_path_factory.mktemp('searched') / 'work'
    run(config(folder), search_only=True)
    return folder


@pytest.fixture
def work_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / 'work')


def test_alpha_that_was_never_trained_chooses_nothing(work_dir, tmp_path):
    never = {'train_cfg.arch_start': 2}
    with pytest.raises(ValueError, match='train_cfg.arch_start must be in 0..1, got 2: .* alpha would never'):
        select_again(config(work_dir, **never), tmp_path / 'alpha', 'argmax')
    assert not (tmp_path / 'alpha').exists()


def test_what_networks_are_held_against_without_a_seed_is_told(work_dir, tmp_path, capsys):
    said = 'warning: the seed is no network of this space and alpha was not trained'
    select_again(config(work_dir), tmp_path / 'trained')
    assert said not in capsys.readouterr().out
    untrained = config(tmp_path / 'untrained', **{'train_cfg.arch_start': 2})
    run(untrained, search_only=True)
    assert capsys.readouterr().out.count(said) == 1


def test_losses_of_other_augmentations_are_not_compared_with(work_dir, tmp_path, computed):
    """A worker's draws follow from its number: flips of the same image are others with more of them."""
    known = lines(work_dir)
    select_again(config(work_dir, **{'train_dataloader.num_workers': 1}), tmp_path / 'workers')
    assert computed['count'] >= len(known)
    stamps = {record['stamp'] for record in map(json.loads, WorkDir(work_dir).path_losses.open())}
    assert sorted(stamp.split('/')[3] for stamp in stamps) == ['0 workers', '1 workers']
    assert {stamp.split('/')[4].split()[0] for stamp in stamps} == {'TinyFlip'}


def test_no_image_counts_twice_where_a_data_set_repeats_it(tmp_path, capsys):
    repeated = {'type': 'RepeatDataset', 'times': 3, 'dataset': tiny.loader_cfg(count=8)['dataset']}
    cfg = config(tmp_path / 'repeated', {**MEASURED, 'most': 24})
    cfg.train_dataloader.dataset = repeated
    run(cfg, search_only=True)
    assert 'the held-out images are 2 batches: ' in capsys.readouterr().out
    assert {batch for _, batch in lines(tmp_path / 'repeated')} == {0, 1}


def test_a_damaged_checkpoint_is_told_when_an_older_one_is_chosen_from(work_dir, tmp_path, capsys):
    last = find_checkpoint(work_dir).path
    last.write_bytes(last.read_bytes()[:-100])
    select_again(config(work_dir), tmp_path / 'older')
    out = capsys.readouterr().out
    assert f'warning: {last} cannot be used: it is truncated or damaged' in out
    assert f'chosen from {find_checkpoint(work_dir).path} instead' in out


@pytest.mark.parametrize('kind', ['EMAHook', EMAHook])
def test_averaged_weights_are_not_chosen_from_afterwards(kind, work_dir, tmp_path):
    cfg = config(work_dir)
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type=kind)]
    part = json.loads((work_dir / 'run.json').read_text())
    part['parts']['search']['settings'] = gradient._settings(cfg).search
    (work_dir / 'run.json').write_text(json.dumps(part))
    with pytest.raises(ValueError, match='custom_hooks: weights that EMAHook averages cannot be chosen from'):
        select_again(cfg, tmp_path / 'averaged')


def test_a_search_of_another_length_is_not_chosen_from(work_dir, tmp_path):
    """It would be a choice from the shorter one, and alpha may be trained in the longer one alone."""
    cfg = config(work_dir, **{'train_cfg.max_epochs': 3})
    with pytest.raises(ResumeError, match='asks for another length .train_cfg.max_epochs 2 -> 3.: train it first'):
        select_again(cfg, tmp_path / 'longer', 'argmax')
    assert not (tmp_path / 'longer').exists()


def test_the_run_itself_is_not_written_over(work_dir):
    before = {path: path.read_bytes() for path in work_dir.rglob('*') if path.is_file()}
    with pytest.raises(ValueError, match='--out must be another folder than the work dir'):
        select_again(config(work_dir), work_dir / 'derived' / '..')
    assert {path: path.read_bytes() for path in work_dir.rglob('*') if path.is_file()} == before


def test_a_former_front_does_not_stay_beside_a_choice_without_one(tmp_path):
    with_front = {**MEASURED, 'front': dict(networks=2, images=4, calibration=1, candidates=1)}
    validated = {
        'val_dataloader': {**tiny.loader_cfg(2, transform='TinyPlain', count=4),
                           'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        'val_cfg': {}, 'val_evaluator': {'type': 'TinyCloseness'}, 'model.type': 'TinyTried',
        'custom_imports.imports': ['tests.engine.tiny_trials'],
    }  # fmt: skip
    run(config(tmp_path / 'tried', **validated), search_only=True)
    select_again(config(tmp_path / 'tried', with_front, **validated), tmp_path / 'again')
    kept = {file.name for file in (tmp_path / 'again').iterdir()}
    assert kept == {'arch.json', 'decision.json', 'front.json', 'front.png'}
    select_again(config(tmp_path / 'tried', **validated), tmp_path / 'again')
    assert {file.name for file in (tmp_path / 'again').iterdir()} == {'arch.json', 'decision.json'}


@TRANSFORMS.register_module()
class TinyShift:
    """Moves the target by so much."""

    def __init__(self, by):
        self.by = by

    def __call__(self, item):
        return {**item, 'target': item['target'] + np.float32(self.by)}

    def __repr__(self):
        return f'TinyShift({self.by})'


def switched(work_dir, by, epoch=1):
    """A search whose transforms are exchanged in its last epoch."""
    steps = [{'type': 'TinyShift', 'by': by}, {'type': 'TinyPlain'}]
    hook = {'type': 'mmdet.PipelineSwitchHook', 'switch_epoch': epoch, 'switch_pipeline': steps}
    cfg = config(work_dir)
    cfg.train_dataloader.dataset.pipeline = [{'type': 'TinyShift', 'by': 0.0}, {'type': 'TinyPlain'}]
    cfg.custom_hooks = [*cfg.custom_hooks, hook]
    return cfg


def losses(work_dir):
    records = map(json.loads, WorkDir(work_dir).path_losses.open())
    return {(json.dumps(each['path']), each['batch']): each['loss'] for each in records}


def test_held_out_images_are_read_as_the_last_epoch_read_them(tmp_path, computed):
    """Also where the search has ended before, so that no epoch is left in which a hook would exchange transforms."""
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    run(switched(whole, 3.0), search_only=True)
    computed['count'], computed['last'] = 0, 5
    with pytest.raises(tiny_seg.KilledError):
        run(switched(killed, 3.0), search_only=True)
    computed['last'] = 10_000
    run(switched(killed, 3.0), resume=True, search_only=True)
    assert losses(killed) == losses(whole)
    assert len(WorkDir(killed).path_losses.read_text().splitlines()) == len(losses(whole))
    count = computed['count']
    select_again(switched(whole, 3.0), tmp_path / 'again')
    assert computed['count'] == count
    plain = tmp_path / 'plain'
    run(switched(plain, 0.0), search_only=True)
    assert losses(plain) != losses(whole)


def test_the_same_transforms_with_other_arguments_are_told_apart():
    loader = DataLoader(DATASETS.build(tiny.loader_cfg(count=2)['dataset']), batch_size=1)
    said = []
    for by in (1.0, 2.0, 1.0):
        loader.dataset.pipeline = Compose([TinyShift(by), {'type': 'TinyPlain'}])
        said.append(describe_reading(loader))
    assert said[0] == said[2] != said[1]  # and an object that says where it lies is no other one elsewhere
    assert all(each.startswith('0 workers/TinyShift+TinyPlain ') for each in said)


def test_an_endless_sampler_repeats_no_image_in_what_is_measured(tmp_path, capsys):
    """It fills the last batch of a pass up: ten held-out images are two batches of four, and not three."""
    cfg = config(tmp_path / 'endless', {**MEASURED, 'most': 24})
    cfg.train_dataloader.update(batch_size=4, sampler={'type': 'InfiniteSampler', 'shuffle': True})
    cfg.train_dataloader.dataset.count = 20
    run(cfg, search_only=True)
    assert 'the held-out images are 2 batches: ' in capsys.readouterr().out
    assert {batch for _, batch in lines(tmp_path / 'endless')} == {0, 1}


def test_a_network_that_is_set_aside_keeps_its_own_description(tmp_path):
    """Where alpha alone decides, a run with another limit gives another network, from the same search."""
    work_dir = tmp_path / 'work'
    run(config(work_dir, None, LIMIT))
    former, dearest = (work_dir / 'derived' / 'arch.json').read_text(), Decision.parse(work_dir).costs['macs']
    run(config(work_dir, None, dearest - 1), resume=True)
    assert (work_dir / 'derived' / 'arch.json').read_text() != former
    (aside,) = work_dir.glob('before_*')
    assert (aside / 'derived' / 'arch.json').read_text() == former
    assert Decision.parse(aside / 'derived' / 'decision.json').arch == ArchSpec.parse(aside / 'derived' / 'arch.json')


@pytest.mark.parametrize(('low', 'wanted'), [
    (10.0, [40.0, 60.0, 80.0]), (70.0, [70.0, 80.0, 90.0]), (100.0, [100.0] * 3), (120.0, [120.0] * 3),
])  # fmt: skip
def test_a_front_lies_evenly_over_the_costs_that_there_are(low, wanted):
    limits = spread_limits(FrontPlan(networks=4, least=0.4), low, 100.0)
    assert [limit.min for limit in limits] == [None] * 3
    assert [limit.max for limit in limits] == pytest.approx(wanted)


@pytest.mark.parametrize(('count', 'said'), [(3, ''), (5, 'the front has 3 of the 5 networks asked for: at the other')])
def test_a_front_of_fewer_networks_than_asked_for_says_so(count, said, capsys):
    networks = [MeasuredNetwork(tiny.SPACE.arch(path), {'macs': 1.0}, {}) for path in tiny_trials.PATHS[:3]]
    seed = MeasuredNetwork(tiny.SPACE.arch(tiny_trials.PATHS[3]), {'macs': 1.0}, {}, None, 'seed')
    tell_fewer(MeasuredFront('macs', 'mIoU', 'greater', (*networks, seed)), FrontPlan(networks=count))
    out = capsys.readouterr().out
    assert out.startswith(said) and bool(out) == bool(said)


def test_a_limit_that_is_given_leaves_the_other_bound_of_the_config(work_dir, tmp_path, capsys):
    low, high = min(price(tiny.SPACE.arch(path), tiny.SIZE) for path in tiny_trials.PATHS), LIMIT
    cfg = config(work_dir)
    select_again(cfg, tmp_path / 'least', limits={'macs': Limit(low, None)})
    assert Decision.parse(tmp_path / 'least' / 'decision.json').limit == Limit(low, high)
    with pytest.raises(ValueError, match="macs.min must be at most macs.max, .*; the config's own limit is at most 6"):
        select_again(cfg, tmp_path / 'none', limits={'macs': Limit(high + 1, None)})
    # one of another metric replaces it, and says so
    capsys.readouterr()
    select_again(cfg, tmp_path / 'params', limits={'params': Limit(None, 1e6)})
    assert Decision.parse(tmp_path / 'params' / 'decision.json').limit == Limit(None, 1e6)
    left = f"the config's limit of at most {high / 1e9:.4g} G multiply-adds is left: what is given takes its place"
    assert capsys.readouterr().out.count(left) == 1
    free = config(work_dir, **{'optim_wrapper.cost.max': None})
    select_again(free, tmp_path / 'free', limits={'params': Limit(None, 1e6)})
    assert 'is left: what is given' not in capsys.readouterr().out


def test_a_limit_that_no_network_meets_is_said_before_the_super_network_is_read(work_dir, tmp_path, monkeypatch):
    monkeypatch.setattr('mmnas_ext.runs.select_again.open_runner', None)
    with pytest.raises(ValueError, match='cost.max must be at least 3.\\d+e-05 G multiply-adds, got 1e-08 G'):
        select_again(config(work_dir), tmp_path / 'none', limits={'macs': Limit(None, 10)})


def test_a_search_of_other_settings_is_told_without_options_that_this_command_lacks(work_dir, tmp_path):
    with pytest.raises(ResumeError) as told:
        select_again(config(work_dir, **{'randomness.seed': 9}), tmp_path / 'other')
    assert 'was begun with other settings (randomness.seed' in str(told.value)
    assert '--cfg-options' in str(told.value) and '--resume' not in str(told.value)
