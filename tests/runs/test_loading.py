"""A checkpoint belongs to the model that is tested or trained: what matches, and what is said of the rest."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.loading import check_load_from, check_tested, match
from mmnas_ext.runs.testing import check_test, run_test
from mmnas_ext.runs.training import make_runner
from tests.engine import tiny, tiny_trials

ROOT = Path(__file__).parents[2]
ARCH = tiny.SPACE.arch(((0,), (1, 0), (1,))).format('fna')
OTHER = tiny.SPACE.arch(((0,), (0, 2), (0,))).format('fna')


def config(work_dir, arch=ARCH, **changes):
    """A training and test of one tiny network."""
    cfg = tiny_trials.random_cfg(work_dir)
    for key in ('derived', 'random_search'):
        cfg.pop(key)
    cfg.merge_from_dict(
        {
            'model.backbone': {'_delete_': True, 'type': 'mmnas_ext.MBNet', 'arch': arch, 'out_indices': (2,)},
            'train_cfg': {'_delete_': True, 'type': 'EpochBasedTrainLoop', 'max_epochs': 1},
            'optim_wrapper': {'_delete_': True, 'optimizer': {'type': 'SGD', 'lr': 0.0}},
            'custom_hooks': [],
            'test_dataloader': cfg.val_dataloader,
            'test_cfg': {},
            'test_evaluator': cfg.val_evaluator,
            **changes,
        }
    )
    return cfg


@pytest.fixture
def saved(tmp_path):
    """Writes a checkpoint of a network, changed."""

    def write(arch=ARCH, change=lambda state: state, **meta):
        torch.manual_seed(4)
        model = tiny.MODELS.build(config(tmp_path, arch).model)
        file = tmp_path / 'a.pth'
        torch.save({'state_dict': change(model.state_dict()), 'meta': meta}, file)
        return str(file)

    return write


def test_a_test_wants_every_tensor(tmp_path, saved):
    cfg = config(tmp_path / 'run')
    check_test(cfg, saved())
    missing = saved(change=lambda s: {k: v for k, v in s.items() if k not in ('head.weight', 'head.bias')})
    with pytest.raises(ValueError, match=r'is not of the model of this config: of \d+ tensors 2 are missing: '
                                         'head.weight, head.bias$'):  # fmt: skip
        check_test(cfg, missing)
    with pytest.raises(
        ValueError, match=r'have another shape: backbone.stages.\S+ \(12, 1, 3, 3\) for \(12, 1, 5, 5\)'
    ):
        check_test(cfg, saved(OTHER))
    with pytest.raises(ValueError, match=r'of \d+ tensors \d+ are missing: backbone.stem'):
        check_test(cfg, saved(change=lambda s: {f'other.{k}': v for k, v in s.items()}))


def test_a_test_passes_over_counters_and_wrappers_and_names_what_is_unused(tmp_path, saved):
    model = tiny.MODELS.build(config(tmp_path).model)
    lean = saved(change=lambda s: {f'module.{k}': v for k, v in s.items() if not k.endswith('num_batches_tracked')})
    assert check_tested(model, lean) == ''
    extra = saved(change=lambda s: {**s, 'auxiliary.weight': torch.ones(1)})
    assert check_tested(model, extra) == f'1 tensors of {extra} are not used: auxiliary.weight'


def test_a_test_on_other_classes_is_refused(tmp_path, saved):
    cfg = config(tmp_path / 'run')
    check_test(cfg, saved(dataset_meta={'classes': ('a', 'b')}))
    with pytest.raises(ValueError, match="was trained for 2 classes and test_dataloader has 2: the first that differs "
                                         "is 'c' for 'b'"):  # fmt: skip
        check_test(cfg, saved(dataset_meta={'classes': ['a', 'c']}))
    with pytest.raises(ValueError, match='was trained for 3 classes and test_dataloader has 2: the others'):
        check_test(cfg, saved(dataset_meta={'classes': ['a', 'b', 'c']}))


@pytest.mark.parametrize(('content', 'message'), [
    (b'', 'a.pth is empty'), (b'no checkpoint', 'truncated or not a checkpoint'),
])  # fmt: skip
def test_a_file_that_is_no_checkpoint(tmp_path, content, message):
    (tmp_path / 'a.pth').write_bytes(content)
    for attempt in (check_tested, check_load_from):
        with pytest.raises(ValueError, match=message):
            attempt(tiny.MODELS.build(config(tmp_path).model), str(tmp_path / 'a.pth'))


def test_training_may_begin_with_a_part_and_says_which(tmp_path, saved):
    model = tiny.MODELS.build(config(tmp_path).model)
    count = len(model.state_dict())
    assert check_load_from(model, saved()).endswith(f'gives {count} of the {count} tensors of the model')
    said = check_load_from(model, saved(OTHER))
    given = int(re.search(r'gives (\d+) of', said)[1])
    assert 0 < given < count
    assert re.search(r'; \d+ have another shape: backbone.stages', said)
    with pytest.raises(ValueError, match='no tensor of .* fits this model, which has backbone.*; it has x.b'):
        check_load_from(model, saved(change=lambda s: {f'x.{k}': v for k, v in s.items()}))


def test_a_checkpoint_that_gives_less_than_half_is_warned_of(tmp_path, saved):
    model = tiny.MODELS.build(config(tmp_path).model)
    names = list(model.state_dict())
    inside = sum(name.startswith('backbone.') for name in names)
    kept = [name for name in names if name.startswith('backbone.')][:5]
    said = check_load_from(model, saved(change=lambda s: {name: s[name] for name in kept}))
    assert said.startswith('warning: load_from: ')
    assert f'gives 5 of the {len(names)} tensors of the model; {inside - 5} of the {inside} of its backbone are' in said


def test_the_check_of_a_training_looks_at_load_from(tmp_path, saved, capsys):
    cfg = config(tmp_path / 'run', load_from=saved())
    check_config(cfg)
    assert 'load_from: ' in capsys.readouterr().out
    cfg.load_from = saved(change=lambda s: {'x': torch.ones(1)})
    with pytest.raises(ValueError, match='load_from: no tensor of'):
        check_config(cfg)
    search = tiny.search_cfg(tmp_path / 'run', **{'derived.load_from': cfg.load_from})
    with pytest.raises(ValueError, match='derived: load_from: no tensor of'):
        check_config(search)


def test_the_same_tensors_match_as_mmengine_loads(tmp_path, saved):
    """What `match` calls given is what differs after loading."""
    cfg = config(tmp_path / 'run', load_from=saved(OTHER))
    runner = make_runner(cfg)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    found = match(runner.model, torch.load(cfg.load_from, weights_only=True)['state_dict'])
    for value in runner.model.state_dict().values():
        value.fill_(7)
    runner.load_checkpoint(cfg.load_from)
    after = runner.model.state_dict()
    assert {name for name in before if not (after[name] == 7).all()} == set(found.given)


def test_the_tool_refuses_and_tests(tmp_path, saved, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('tools_test', ROOT / 'tools' / 'test.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tested = []
    monkeypatch.setattr('mmnas_ext.runs.testing.run_test', lambda *args: tested.append(run_test(*args)))

    def call(cfg, checkpoint):
        cfg.dump(tmp_path / 'cfg.py')
        monkeypatch.setattr(sys, 'argv', ['test.py', str(tmp_path / 'cfg.py'), checkpoint])
        try:
            tool.main()
        except SystemExit as end:
            return end.code
        return tested.pop()

    cfg = config(tmp_path / 'run')
    assert call(cfg, 'gone.pth') == 'error: checkpoint gone.pth does not exist'
    assert 'have another shape' in call(cfg, saved(OTHER))
    assert 'describes a search' in call(tiny.search_cfg(tmp_path / 'run'), saved())
    assert list(tmp_path.glob('run*')) == []
    assert 0 < call(cfg, saved())['closeness'] < 1
    away = {'data_root': str(tmp_path), 'ann_file': 'gone.json'}
    gone = config(tmp_path / 'run', **{f'test_dataloader.dataset.{key}': value for key, value in away.items()})
    assert 'test_dataloader.dataset wants' in call(gone, saved())
    lacking = config(tmp_path / 'run')
    lacking.pop('test_evaluator')
    assert call(lacking, saved()).endswith('this one lacks test_evaluator')
