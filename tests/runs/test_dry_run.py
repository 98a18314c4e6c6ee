"""``--dry-run``: one step of each half of every method, the plan in words, and no file left behind."""

import copy
import importlib.util
import sys
from pathlib import Path

import pytest

from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.dry_run import dry_run
from mmnas_ext.runs.run import run
from tests.engine import tiny, tiny_distill, tiny_seg, tiny_trials

ROOT = Path(__file__).parents[2]


@pytest.fixture
def steps(monkeypatch):
    """The kind of every training step, in order."""
    seen = []
    step = tiny.TinyModel.train_step

    def train_step(self, data, optim_wrapper):
        seen.append(getattr(optim_wrapper, 'phase', 'train'))
        return step(self, data, optim_wrapper)

    monkeypatch.setattr(tiny.TinyModel, 'train_step', train_step)
    return seen


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob('*') if path.is_file()}


def test_a_search_takes_a_weight_step_and_an_arch_step_and_its_second_half_one(tmp_path, steps):
    cfg = tiny.search_cfg(tmp_path / 'run')
    plan = dry_run(cfg, check_config(cfg))
    assert steps == ['weights', 'arch', 'weights', 'train']
    assert list(tmp_path.iterdir()) == []
    lines = plan.splitlines()
    assert lines[0] == 'method       gradient'
    assert '  weights only  3 iterations of 2 images' in lines
    assert '  alternating   9 iterations with 9 arch steps' in lines
    assert any('space' in line and ' 12 networks, ' in line for line in lines)
    assert '  limit         none' in lines
    search, adaptation = (line for line in lines if ' iterations; ' in line)
    assert search.startswith('search       6 images for weights and 6 for alpha in batches of 2; 12 iterations; ')
    assert 'weight step ' in search
    assert ' s, arch and weight step ' in search
    assert adaptation.startswith('adaptation   12 images in batches of 2; 12 iterations')
    assert lines[-1] == (
        'writes       run.json, search_space.json, search_log.jsonl, derived/decision.json, derived/arch.json, '
        'derived/config.py, adapt in '
        f'{tmp_path}/run'
    )


def test_a_search_that_begins_with_arch_steps_takes_one_iteration(tmp_path, steps):
    cfg = tiny.search_cfg(tmp_path, **{'train_cfg.arch_start': 0})
    assert 'adapt in' not in dry_run(cfg, check_config(cfg, search_only=True), search_only=True)
    assert steps == ['arch', 'weights']


def test_a_random_search_takes_a_step_of_a_trial_and_of_the_whole(tmp_path, steps):
    cfg = tiny_trials.random_cfg(tmp_path)
    plan = dry_run(cfg, check_config(cfg))
    assert steps == ['train', 'train']
    assert list(tmp_path.iterdir()) == []
    assert 'space        12 networks, ' in plan
    assert 'trials       3 networks of ' in plan
    assert 'ranked by closeness' in plan
    assert 'trial        12 images in batches of 2, validated on 7; 12 iterations' in plan
    assert 'trials, trials.md, ' in plan


def test_a_distillation_calibrates_by_one_batch_and_takes_a_step(tmp_path, monkeypatch):
    batches = []
    calibrate = tiny_distill.MODELS.get('mmnas_ext.BlockDistiller').calibrate
    monkeypatch.setattr(
        'mmnas_ext.distill.BlockDistiller.calibrate',
        lambda self, images: calibrate(self, (batches.append(len(each)) or each for each in images)),
    )
    cfg = tiny_distill.config(tmp_path)
    plan = dry_run(cfg, check_config(cfg))
    assert batches == [4]
    assert not (tmp_path / 'work').exists()
    assert 'what this distillation will do:\n  space         12 networks, ' in plan
    assert 'distillation 12 images in batches of 4, validated on 4; 8 iterations' in plan
    assert 'run.json, ratings.json, front.json, features.npz' in plan


def test_a_training_takes_one_step_even_with_workers(tmp_path):
    cfg = tiny_seg.training_cfg(tmp_path, workers=2, **{'train_dataloader.persistent_workers': True})
    before = copy.deepcopy(cfg.to_dict())
    plan = dry_run(cfg, check_config(cfg))
    assert 'training     9 images in batches of 2; 8 iterations' in plan
    assert plan.endswith(f'writes       run.json in {tmp_path}')
    assert list(tmp_path.iterdir()) == []
    assert cfg.to_dict() == before


def test_a_run_that_is_there_stays_as_it_is(tmp_path):
    cfg = tiny.search_cfg(tmp_path, **{'train_cfg.max_epochs': 2, 'derived.train_cfg.max_epochs': 1})
    run(cfg)
    before = contents(tmp_path)
    assert 'derived/arch.json' in dry_run(cfg, check_config(cfg))
    plan = dry_run(cfg, check_config(cfg, resume=True), resume=True)
    assert plan.splitlines() == [
        'method       gradient',
        'search       done: its network is found',
        'adaptation   done: nothing is left to train',
        f'writes       run.json in {tmp_path}',
    ]
    cfg.derived.train_cfg.max_epochs = 2
    longer = dry_run(cfg, check_config(cfg, resume=True), resume=True).splitlines()
    assert longer[-3] == 'search       done: its network is found'
    assert longer[-2].startswith('adaptation   12 images in batches of 2; 12 iterations')
    assert longer[-1] == f'writes       run.json, adapt in {tmp_path}'
    assert contents(tmp_path) == before


def test_a_given_network_is_searched_for_by_nothing(tmp_path, capsys):
    cfg = tiny.search_cfg(tmp_path)
    arch = next(tiny.SPACE.sample(0, 1)).format('fna')
    lines = dry_run(cfg, check_config(cfg, arch), arch=arch).splitlines()
    assert lines[-1] == f'writes       run.json, derived/arch.json, derived/config.py, adapt in {tmp_path}'
    assert not any('space' in line for line in lines)
    assert 'ETA' not in capsys.readouterr().out


def test_a_step_that_fails_is_told_with_its_part(tmp_path):
    cfg = tiny.search_cfg(tmp_path, **{'derived.train_dataloader': {'dataset': {'nan': 0}}})
    cfg.derived.train_dataloader.batch_size = 12
    cfg.derived.model.update(type='TinyWrong')
    tiny.MODELS.register_module(name='TinyWrong', module=_Wrong, force=False)
    with pytest.raises(ValueError, match='the first step of the adaptation failed: RuntimeError: out of everything'):
        dry_run(cfg, check_config(cfg))


class _Wrong(tiny.TinyModel):
    """Fails in its first step."""

    def forward(self, inputs, target, mode='tensor'):
        raise RuntimeError('out of everything')


def test_the_tool_prints_the_plan_and_runs_nothing(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('tools_train', ROOT / 'tools' / 'train.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    file = tmp_path / 'tiny.py'
    tiny.search_cfg(tmp_path / 'run').dump(file)
    monkeypatch.setattr(sys, 'argv', ['train.py', str(file), '--dry-run', '--search-only'])
    tool.main()
    assert capsys.readouterr().out.startswith('method       gradient\nwhat this search will do:\n')
    assert list(tmp_path.iterdir()) == [file]
