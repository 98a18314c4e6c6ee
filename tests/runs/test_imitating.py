"""One line of a config has a found network imitate its seed; without it nothing changes; errors come first."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from mmengine.config import Config

from mmnas_ext.backbones import MBNet
from mmnas_ext.engine import SeedImitationHook
from mmnas_ext.runs.changes import find_changes, settings_of
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.configs import check_halves
from mmnas_ext.runs.derived import derived_config, distilled_config
from mmnas_ext.runs.manifest import ADAPT, Manifest
from mmnas_ext.runs.run import run
from mmnas_ext.runs.trials import TrialPlan
from tests.engine import tiny, tiny_distill
from tests.engine.tiny_trials import random_cfg

ARCH = tiny.SPACE.arch(((0,), (1, 2), (0,)))
HOOK = {'type': 'mmnas_ext.SeedImitationHook', 'weight': 2.0, 'until': 0.5}
LINE = {'derived.imitate': {'weight': 2.0, 'until': 0.5}}


@pytest.fixture(scope='module')
def seeded(tmp_path_factory):
    """What has a config start from a seed, in both halves."""
    path = tmp_path_factory.mktemp('seed') / 'seed.pth'
    torch.manual_seed(2)
    net = MBNet(tiny.SPACE.arch(((0,), (0, 0), (0,))), out_indices=(2,))
    torch.save(net.state_dict(), path)
    seed = {'arch': net.arch.format('fna'), 'checkpoint': str(path)}
    return {'model.backbone.init_cfg': {'type': 'mmnas_ext.Remapped', 'seed': seed}}


def test_the_line_adds_a_hook_and_changes_nothing_else(tmp_path, seeded):
    cfg = tiny.search_cfg(tmp_path, **seeded)
    before = derived_config(cfg, ARCH).to_dict()
    after = derived_config(tiny.search_cfg(tmp_path, **seeded, **LINE), ARCH).to_dict()
    assert [hook['type'] for hook in before['custom_hooks']] == ['mmnas_ext.ReseedHook', 'KillVisualizationHook']
    assert after == {**before, 'custom_hooks': [*before['custom_hooks'], HOOK]}
    off = derived_config(tiny.search_cfg(tmp_path, **seeded, **{'derived.imitate': None}), ARCH)
    assert off.to_dict() == before
    # the hook's own defaults
    default = derived_config(tiny.search_cfg(tmp_path, **seeded, **{'derived.imitate': {}}), ARCH)
    assert default.custom_hooks[-1] == {'type': 'mmnas_ext.SeedImitationHook'}


def test_trials_of_a_random_search_imitate_too_unless_they_are_told_not_to(tmp_path):
    for change, wanted in (({}, [HOOK]), ({'random_search.trial.imitate': None}, [])):
        cfg = random_cfg(tmp_path, **LINE, **change)
        check_halves(cfg)
        trial = TrialPlan.of(cfg).trial_config(ARCH)
        assert [hook for hook in trial.custom_hooks if 'Imitation' in hook['type']] == wanted
        adapted = derived_config(cfg, ARCH, 'random_search')
        assert [hook for hook in adapted.custom_hooks if 'Imitation' in hook['type']] == [HOOK]


def losses(work_dir):
    """The last iteration of the adaptation's log, by the names of its losses."""
    (file,) = work_dir.glob('adapt/*/vis_data/scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line.get('loss_imitation') for line in lines if 'loss' in line]


LOGGED = {
    'visualizer': {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]},
    'log_processor': {'window_size': 1},
}


def test_a_search_and_a_given_network_imitate_and_a_changed_line_is_refused(tmp_path, seeded):
    text = {}
    for name, arch in (('searched', None), ('given', ARCH.format('fna'))):
        run(tiny.search_cfg(tmp_path / name, **seeded, **LINE, **LOGGED), arch=arch)
        found = losses(tmp_path / name)
        assert all(value > 0 for value in found[:6])
        assert found[6:] == [0] * 6
        text[name] = Config.fromfile(tmp_path / name / 'derived' / 'config.py')
        assert text[name].custom_hooks[-1] == HOOK
    old, new = (settings_of(each, 'train_dataloader') for each in (text['given'], text['given']))
    key = 'custom_hooks.SeedImitationHook.weight'
    assert (old[key], find_changes(old, new)) == (2.0, ([], []))
    for changed in ({**new, key: 1.0}, {name: value for name, value in new.items() if 'Imitation' not in name}):
        assert key in [change.key for change in find_changes(old, changed)[1]]


def test_what_a_run_has_trained_is_imitated(tmp_path, seeded):
    """The seed as the task has it: a better model than its own weights of before."""
    seed = seeded['model.backbone.init_cfg']['seed']
    line = {'derived.imitate': {'weight': 2.0, 'until': 0.5, 'seed': str(tmp_path / 'seed')}}
    cfg = partial(tiny.search_cfg, tmp_path / 'run', **seeded, **LOGGED, **line)
    (tmp_path / 'seed').mkdir()
    with pytest.raises(ValueError, match='derived.imitate: seed must be a checkpoint, or the .*, got no run in .*seed'):
        check_config(cfg())
    run(tiny.search_cfg(tmp_path / 'seed', **seeded), arch=seed['arch'])
    hook = derived_config(cfg(), ARCH).custom_hooks[-1]
    file, arch = tmp_path / 'seed' / 'adapt' / 'epoch_2.pth', tmp_path / 'seed' / 'derived' / 'arch.json'
    assert hook == {**HOOK, 'seed': {'arch': str(arch), 'checkpoint': str(file)}}
    check_config(cfg())
    run(cfg(), arch=ARCH.format('fna'))
    assert all(value > 0 for value in losses(tmp_path / 'run')[:6])
    # another training of it is another recipe
    before, weights = settings_of(derived_config(cfg(), ARCH), 'train_dataloader'), torch.load(file, weights_only=False)
    next(iter(weights['state_dict'].values())).add_(1)
    torch.save(weights, file)
    changed = find_changes(before, settings_of(derived_config(cfg(), ARCH), 'train_dataloader'))[1]
    assert [change.key for change in changed] == ['custom_hooks.SeedImitationHook.seed.checkpoint']
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match='imitate: seed: no whole checkpoint of the end of the training is left'):
        derived_config(cfg(), ARCH)
    manifest = tmp_path / 'seed' / 'run.json'
    content = Manifest.parse(manifest.read_text())
    manifest.write_text(content.with_part(ADAPT, replace(content.parts[ADAPT], done=False)).format())
    with pytest.raises(ValueError, match="the work dir of a run that has ended, got a run that is 'adapting' in"):
        derived_config(cfg(), ARCH)


BOTH = [{'type': 'mmnas_ext.ReseedHook'}, {'type': SeedImitationHook, 'weight': 1.0}]
WRONG = {
    'no dict': (
        {'derived.imitate': 1.0},
        r'derived.imitate must be a dict\(weight=…, until=…, seed=…\) or None, got 1.0',
    ),
    'a key': ({'derived.imitate': {'wieght': 1}}, "derived.imitate: wieght is no argument of .* did you mean 'weight'"),
    'a weight': ({'derived.imitate': {'weight': -1}}, 'derived.imitate: weight must be a positive number, got -1'),
    'an end': ({'derived.imitate': {'until': 2}}, r'derived.imitate: until must be a share .* \(0, 1\], got 2'),
    'a type': ({'derived.imitate': {'seed': 3}}, 'derived.imitate: seed must be a dict of'),
    'the place': ({'derived.imitation': {'weight': 1}}, "derived.imitation has no effect: .* did you mean 'imitate'"),
    'twice': ({**LINE, 'derived.custom_hooks': BOTH}, 'derived.imitate adds a SeedImitationHook, and custom_hooks has'),
    'no seed': (
        {**LINE, 'derived.model.backbone.init_cfg': None},
        r'derived: custom_hooks.2 \(SeedImitationHook\): no seed to imitate',
    ),
    'no file': (
        {'derived.imitate': {'seed': 'nowhere/seed.pth'}},
        'seed checkpoint does not exist: nowhere/seed.pth',
    ),
    'in the search': (
        {'custom_hooks': [{'type': 'mmnas_ext.DeriveHook'}, HOOK]},
        r'^custom_hooks.1 \(SeedImitationHook\): an imitation needs a model whose backbone is an MBNet, got SuperNet',
    ),
    'frozen': (
        {**LINE, 'derived.model.backbone.frozen_stages': 3},
        r'derived: custom_hooks.2 .*leaves nothing to train',
    ),
}


@pytest.mark.parametrize('what', WRONG)
def test_what_is_wrong_is_told_before_the_search(tmp_path, seeded, what):
    changes, message = WRONG[what]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_config(tiny.search_cfg(tmp_path / 'run', **seeded, **changes))
    assert not (tmp_path / 'run').exists()


def test_a_seed_of_its_own_is_fetched_and_compared_before_the_search(tmp_path, seeded, monkeypatch):
    """A seed that a URL names, of other widths than the networks of the space."""
    net = MBNet("[[8, 4], ['k3_e1'], 1]|[[4, 8], ['k3_e3'], 2]|[[8, 12], ['k3_e3'], 1]", out_indices=(2,))
    fetched = []

    def fetch(address, target):
        fetched.append(address)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), target)

    monkeypatch.setattr('mmnas_ext.remap.download._download', fetch)
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path / 'hub'))
    seed = {'arch': net.arch.format('fna'), 'checkpoint': 'https://example.org/other.pth'}
    cfg = partial(tiny.search_cfg, tmp_path / 'run', **seeded)
    with pytest.raises(ValueError, match='output 2 of the network has 8 channels at stride 4, that of the seed 12 at'):
        check_config(cfg(**{'derived.imitate': {'seed': seed}}))
    assert fetched == ['https://example.org/other.pth']


def test_what_a_distillation_has_found_imitates_a_seed_by_either_line(tmp_path, seeded):
    cfg = tiny_distill.config(tmp_path)
    for inner, outer, wanted in (
        ({}, {}, []),
        ({}, {'imitate': {'weight': 2.0, 'until': 0.5}}, [HOOK]),
        (LINE, {}, [HOOK]),
        (LINE, {'imitate': {'weight': 1.0}}, [{**HOOK, 'weight': 1.0}]),
        (LINE, {'imitate': None}, []),
        (LINE, {'custom_hooks': []}, [HOOK]),
    ):
        tiny.search_cfg(tmp_path / 'base', **seeded, **inner).dump(tmp_path / 'base.py')
        cfg.derived = {'config': 'base.py', 'weights': 'remapped', **outer}
        hooks = distilled_config(cfg, ARCH).custom_hooks
        assert [hook for hook in hooks if 'Imitation' in hook['type']] == wanted
