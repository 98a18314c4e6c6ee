"""Exit 0 means done as asked: what a run goes on from, what it takes over, what it refuses. Searches by gradients."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import VISUALIZERS

from mmnas_ext.archs import ArchSpec
from mmnas_ext.runs.changes import get_world_size
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.manifest import ResumeError, read_manifest
from mmnas_ext.runs.run import run
from mmnas_ext.runs.session import command_line
from tests.engine import tiny, tiny_seg
from tests.engine.kept import differences, last_checkpoint, loaded

A = tiny.SPACE.arch(((0,), (0, 2), (0,)))
B = tiny.SPACE.arch(((0,), (1, 1), (1,)))


def config(work_dir, stop=None, half='search', **changes):
    """The tiny search, shorter: four iterations and two; it may be killed before an iteration of a half."""
    cfg = tiny.search_cfg(work_dir, **{
        'train_cfg.max_epochs': 2, 'train_dataloader.dataset.count': 8, 'derived.train_cfg.max_epochs': 2, **changes,
    })  # fmt: skip
    if stop is not None:
        hook = {'type': 'StopVisualizationHook', 'at': stop}
        hooks = cfg.custom_hooks if half == 'search' else cfg.derived.custom_hooks
        hooks.append(hook)
        cfg.custom_imports.imports = [*cfg.custom_imports.imports, 'tests.engine.tiny_seg']
    return cfg


def start(work_dir, **changes):
    """A run that is killed where its `stop` says, or ends."""
    resume, arch = changes.pop('resume', False), changes.pop('arch', None)
    cfg = config(work_dir, **changes)
    if changes.get('stop') is None:
        run(cfg, resume=resume, arch=arch)
        return
    with pytest.raises(tiny_seg.KilledError):
        run(cfg, resume=resume, arch=arch)


def refuses(work_dir, message, **changes):
    """A resumption that is refused, by the check as by the run, and changes nothing."""
    before = {path: path.read_bytes() for path in Path(work_dir).rglob('*') if path.is_file()}
    arch = changes.pop('arch', None)
    cfg = config(work_dir, **changes)
    for attempt in (lambda: run(cfg, resume=True, arch=arch), lambda: check_config(cfg, arch, resume=True)):
        with pytest.raises(ResumeError, match=message) as error:
            attempt()
        assert len(str(error.value)) < 500 + len(str(work_dir))
    assert {path: path.read_bytes() for path in Path(work_dir).rglob('*') if path.is_file()} == before


def state(work_dir):
    return read_manifest(Path(work_dir) / 'run.json').state


def trained_arch(work_dir):
    """The network that the checkpoint of the adaptation holds, as its own config says."""
    meta = loaded(find_checkpoint(Path(work_dir) / 'adapt').path)['meta']
    return re.search(r"arch=\s*'([^']*(?:\\'[^']*)*)'|arch=\s*\"([^\"]*)\"", meta['cfg'])[0]


def same_run(work_dir, reference):
    """Whether two runs found and trained the same, to the bit."""
    for folder in ('', 'adapt'):
        (name, kept), (wanted_name, wanted) = (last_checkpoint(Path(d) / folder) for d in (work_dir, reference))
        if name != wanted_name or differences(kept, wanted):
            return False
    archs = [ArchSpec.parse(Path(d) / 'derived' / 'arch.json') for d in (work_dir, reference)]
    return archs[0] == archs[1]


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    """An uninterrupted run."""
    work_dir = tmp_path_factory.mktemp('reference') / 'run'
    start(work_dir)
    return work_dir


@pytest.fixture(scope='module')
def other(tmp_path_factory):
    """An uninterrupted run of another seed."""
    work_dir = tmp_path_factory.mktemp('other') / 'run'
    start(work_dir, **{'randomness.seed': 4})
    return work_dir


def test_a_run_says_what_it_is(reference):
    manifest = read_manifest(reference / 'run.json')
    assert (manifest.method, manifest.state) == ('gradient', 'done')
    assert list(manifest.parts) == ['adapt', 'derive', 'search']
    assert len({manifest.id, *(part.id for part in manifest.parts.values())}) == 4
    assert manifest.parts['search'].settings['randomness.seed'] == 3
    assert manifest.parts['search'].settings['position.processes'] == get_world_size() == 1
    assert manifest.parts['derive'].notes['arch'] == ArchSpec.parse(reference / 'derived/arch.json').format('fna')
    assert manifest.report['input_size'] == list(tiny.SIZE)
    assert manifest.report['commands'] == [command_line()]
    for folder, part in (('', 'search'), ('adapt', 'adapt')):
        meta = loaded(find_checkpoint(reference / folder).path)['meta']
        assert meta['mmnas_ext_part'] == manifest.parts[part].id


@pytest.mark.parametrize(('half', 'stop'), [('search', 1), ('search', 3), ('adapt', 1), ('adapt', 5)])
def test_a_new_run_in_a_used_work_dir_never_takes_up_the_old_one(tmp_path, reference, other, half, stop):
    work_dir = tmp_path / 'run'
    start(work_dir)
    start(work_dir, stop=stop, half=half, **{'randomness.seed': 4})
    refuses(work_dir, 'randomness.seed 4 -> 3')
    start(work_dir, resume=True, **{'randomness.seed': 4})
    assert same_run(work_dir, other)
    assert not same_run(work_dir, reference)
    (aside,) = work_dir.glob('before_*')
    assert same_run(aside, reference)


def test_nothing_to_go_on_from_is_an_error(tmp_path, reference):
    refuses(tmp_path / 'none', 'nothing to go on from in .*, which holds no run.json; start without --resume')
    torch.save({}, tmp_path / 'epoch_1.pth')
    refuses(tmp_path, 'nothing to go on from')
    (tmp_path / 'run.json').write_text((reference / 'run.json').read_text()[:100])
    refuses(tmp_path, 'is no manifest of a run')


def test_another_method_is_refused(tmp_path):
    plain = config(tmp_path)
    plain.pop('derived')
    plain.model.backbone = dict(type='mmnas_ext.MBNet', arch=A.format('fna'), out_indices=(2,))
    plain.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    plain.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
    plain.custom_hooks = []
    run(plain)
    assert state(tmp_path) == 'done'
    refuses(tmp_path, "a run of the method 'plain', and this config is one of 'gradient'")


def test_a_killed_start_says_that_it_begins_anew(tmp_path, reference, capsys):
    start(tmp_path / 'run', stop=1)
    capsys.readouterr()
    start(tmp_path / 'run', resume=True)
    assert 'no checkpoint of the search yet: it begins at iteration 0' in capsys.readouterr().out
    assert same_run(tmp_path / 'run', reference)


def test_another_given_network_is_trained_and_the_former_set_aside(tmp_path):
    work_dir = tmp_path / 'run'
    start(work_dir, arch=A.format('fna'))
    assert str(A.stages[1].layers[0]) in trained_arch(work_dir)
    before = last_checkpoint(work_dir / 'adapt')
    start(work_dir, arch=B.format('fna'), resume=True)
    assert ArchSpec.parse(work_dir / 'derived' / 'arch.json') == B
    kept = loaded(find_checkpoint(work_dir / 'adapt').path)
    assert kept['state_dict']['backbone.stages.2.0.expand.conv.weight'].shape[0] == 48  # k5_e6
    assert kept['meta']['epoch'] == 2
    (aside,) = work_dir.glob('before_*')
    assert differences(last_checkpoint(aside / 'adapt')[1], before[1]) == []
    assert ArchSpec.parse(aside / 'derived' / 'arch.json') == A
    # and without a network, or with the same, nothing is left to do
    files = {path: path.stat().st_mtime_ns for path in work_dir.rglob('*.pth')}
    start(work_dir, resume=True)
    start(work_dir, arch=B.format('fna'), resume=True)
    assert {path: path.stat().st_mtime_ns for path in work_dir.rglob('*.pth')} == files


def test_an_earlier_choice_of_a_finished_search_is_trained_and_the_search_stays(tmp_path, reference):
    work_dir = tmp_path / 'run'
    start(work_dir)
    chosen = ArchSpec.parse(work_dir / 'derived' / 'arch.json').replace(bn_eps=None)
    another = A if chosen != A else B
    (work_dir / 'derived' / 'snapshots' / 'epoch_9.json').write_text(another.format('json'))
    start(work_dir, arch=str(work_dir / 'derived' / 'snapshots' / 'epoch_9.json'))
    assert ArchSpec.parse(work_dir / 'derived' / 'arch.json') == another
    assert (work_dir / 'derived' / 'snapshots' / 'epoch_1.json').is_file()
    assert last_checkpoint(work_dir)[0] == 'epoch_2.pth'
    (aside,) = work_dir.glob('before_*')
    assert sorted(path.name for path in aside.iterdir()) == ['adapt', 'derived']
    assert differences(last_checkpoint(aside / 'adapt')[1], last_checkpoint(reference / 'adapt')[1]) == []


@pytest.mark.parametrize(('change', 'message'), [
    ({'model.dropout': 0.3}, 'the search in .* was begun with other settings .*model.dropout 0.1 -> 0.3'),
    ({'train_cfg.split_seed': 5}, 'train_cfg.split_seed None -> 5'),
    ({'train_dataloader.batch_size': 4}, 'train_dataloader.batch_size 2 -> 4'),
    ({'optim_wrapper.cost.weight': 0.3}, 'optim_wrapper.cost.weight 0.1 -> 0.3'),
    ({'model.backbone.space': tiny.STRIDED.format()}, 'model.backbone.space'),
    ({'derived.optim_wrapper.optimizer.lr': 0.1}, 'the adaptation in .*optim_wrapper.optimizer.lr 0.05 -> 0.1'),
    ({'derived.train_cfg.max_epochs': 1}, 'train_cfg.max_epochs 2 -> 1'),
])  # fmt: skip
def test_a_finished_run_is_not_resumed_under_other_settings(reference, change, message):
    refuses(reference, message, **change)


@pytest.mark.parametrize('ranks', [4, 2])
def test_a_search_is_not_resumed_on_other_ranks(tmp_path, monkeypatch, ranks):
    start(tmp_path, stop=3)
    monkeypatch.setattr('mmnas_ext.runs.changes.get_world_size', lambda: ranks)
    refuses(tmp_path, f'position.processes 1 -> {ranks}')


def test_what_is_harmless_is_taken_over_and_named(tmp_path, reference, capsys):
    work_dir = tmp_path / 'run'
    start(work_dir, stop=3)
    start(work_dir, resume=True, **{'default_hooks.logger.interval': 3})
    said = capsys.readouterr().out
    assert 'search: taken over: custom_hooks.StopVisualizationHook.at' in said
    assert 'default_hooks.logger.interval 1 -> 3' in said
    assert same_run(work_dir, reference)


def test_more_epochs_are_trained_on(tmp_path, capsys):
    whole, work_dir = tmp_path / 'whole', tmp_path / 'run'
    longer = {'derived.train_cfg.max_epochs': 3}
    start(whole, **longer)
    start(work_dir)
    first = (work_dir / 'epoch_2.pth').stat().st_mtime_ns
    start(work_dir, resume=True, **longer)
    assert 'taken over: train_cfg.max_epochs 2 -> 3' in capsys.readouterr().out
    assert same_run(work_dir, whole)
    assert last_checkpoint(work_dir / 'adapt')[0] == 'epoch_3.pth'
    assert (work_dir / 'epoch_2.pth').stat().st_mtime_ns == first
    assert Config.fromfile(work_dir / 'derived' / 'config.py').train_cfg.max_epochs == 3
    assert list(work_dir.glob('before_*')) == []


def test_a_longer_search_goes_on_and_what_follows_is_done_anew(tmp_path):
    whole, work_dir = tmp_path / 'whole', tmp_path / 'run'
    start(whole, **{'train_cfg.max_epochs': 3})
    start(work_dir)
    start(work_dir, resume=True, **{'train_cfg.max_epochs': 3})
    assert same_run(work_dir, whole)
    assert state(work_dir) == 'done'


def test_a_changed_limit_chooses_again_without_searching(tmp_path, capsys):
    work_dir = tmp_path / 'run'
    start(work_dir)
    space = tiny.SPACE
    cheapest = space.arch(((0,), (0, 2), (0,)))
    search = (work_dir / 'epoch_2.pth').stat().st_mtime_ns
    limit = tiny.MACS['fixed'] + tiny.MACS['1.0'][0] + tiny.MACS['2.0'][0]
    start(work_dir, resume=True, **{'optim_wrapper.cost.target': limit})
    assert 'the network is chosen again: choice.macs' in capsys.readouterr().out
    assert ArchSpec.parse(work_dir / 'derived' / 'arch.json').replace(bn_eps=None) == cheapest
    kept = loaded(find_checkpoint(work_dir / 'adapt').path)
    assert kept['state_dict']['backbone.stages.2.0.expand.conv.weight'].shape[0] == 24  # k3_e3
    assert (work_dir / 'epoch_2.pth').stat().st_mtime_ns == search
    assert state(work_dir) == 'done'


def test_weights_to_start_from_survive_a_kill(tmp_path):
    """A learning rate of 0 leaves the weights that the second half loaded."""
    seed = tmp_path / 'seed.pth'
    first = {'derived.optim_wrapper.optimizer.lr': 0.0, 'derived.custom_hooks': [{'type': 'mmnas_ext.ReseedHook'}]}
    start(tmp_path / 'a', **first)
    state_dict = loaded(find_checkpoint(tmp_path / 'a' / 'adapt').path)['state_dict']
    torch.save({'state_dict': {name: torch.full_like(t, 2) for name, t in state_dict.items()}}, seed)
    start(tmp_path / 'b', stop=3, **first, **{'derived.load_from': str(seed)})
    start(tmp_path / 'b', resume=True, **first, **{'derived.load_from': str(seed)})
    found = loaded(find_checkpoint(tmp_path / 'b' / 'adapt').path)['state_dict']
    weights = [name for name in found if name.endswith(('conv.weight', 'head.weight', 'bn.bias'))]
    assert len(weights) > 5
    assert all((found[name] == 2).all() for name in weights)


def test_checkpoints_in_another_folder_are_resumed_from_and_set_aside(tmp_path, reference):
    out = {'default_hooks.checkpoint.out_dir': str(tmp_path / 'big'), 'default_hooks.checkpoint.filename_tmpl': 'n{}.x'}
    work_dir = tmp_path / 'run'
    start(work_dir, stop=3, **out)
    assert [path.name for path in (tmp_path / 'big' / 'run').iterdir()] == ['n1.x']
    start(work_dir, resume=True, **out)
    steps = [
        json.loads(line)['step']
        for file in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in file.read_text().splitlines()
        if 'loss' in line
    ]
    assert steps == [1, 2, 3, 3, 4]  # the third had no checkpoint behind it
    found = loaded(tmp_path / 'big' / 'run' / 'n2.x')
    assert differences(found['state_dict'], loaded(reference / 'epoch_2.pth')['state_dict']) == []
    start(work_dir, stop=1, **out)
    assert sorted(p.name for p in (tmp_path / 'big' / 'run').glob('before_*/*')) == ['n1.x', 'n2.x']
    assert list((tmp_path / 'big' / 'run').glob('*.x')) == []


def damage(path):
    """Zeroes 4 KB inside a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, reference, capsys):
    inside = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 1}
    work_dir = tmp_path / 'run'
    start(work_dir, stop=3, **inside)
    damage(work_dir / 'iter_3.pth')
    start(work_dir, resume=True, **inside)
    said = capsys.readouterr().out
    assert re.search(r'warning: \S*iter_3.pth cannot be used: .*; goes on from \S*iter_2.pth instead', said)
    kept = [loaded(path)['state_dict'] for path in (work_dir / 'iter_4.pth', reference / 'epoch_2.pth')]
    assert differences(*kept) == []


def test_where_no_checkpoint_is_whole_a_part_begins_anew_and_says_so(tmp_path, reference, capsys):
    work_dir = tmp_path / 'run'
    start(work_dir, stop=3)
    damage(work_dir / 'epoch_1.pth')
    start(work_dir, resume=True)
    said = capsys.readouterr().out
    assert re.search(r'warning: \S*epoch_1.pth cannot be used: it is damaged: the checksum', said)
    assert 'no whole checkpoint of the search: it begins at iteration 0' in said
    assert same_run(work_dir, reference)


def test_from_an_alpha_that_is_nan_no_network_is_derived(tmp_path):
    start(tmp_path, stop=0, half='adapt')
    path = tmp_path / 'epoch_2.pth'
    content = loaded(path)
    content['state_dict']['backbone.stages.1.1.alpha'][1] = float('nan')
    torch.save(content, path)
    manifest = json.loads((tmp_path / 'run.json').read_text())
    with pytest.raises(ValueError, match=r'alpha of layer 1\.1'):
        start(tmp_path, resume=True, **{'optim_wrapper.cost.target': 1e9})
    assert state(tmp_path) == 'searching'
    assert manifest['state'] == 'adapting'


def test_the_derived_config_is_ordinary_and_complete(tmp_path):
    backends = [{'type': 'LocalVisBackend'}]
    start(tmp_path, visualizer={'type': 'Visualizer', 'vis_backends': backends, 'name': 'mine'}, stop=0, half='adapt')
    cfg = Config.fromfile(tmp_path / 'derived' / 'config.py')
    assert cfg.visualizer == {'type': 'Visualizer', 'vis_backends': backends, 'name': 'mine'}
    assert not {'experiment_name', 'work_dir', 'launcher', 'derived', 'resume', 'load_from'} & set(cfg)
    assert cfg.randomness == {'seed': 3}
    # what MMDetection's tools do with it
    visualizer = VISUALIZERS.build({**cfg.visualizer, 'save_dir': str(tmp_path / 'browse')})
    assert visualizer.instance_name == 'mine'


def test_a_config_edited_by_the_user_is_what_was_asked(tmp_path):
    """Before its training has begun, another recipe is simply the recipe."""
    start(tmp_path, stop=3)
    start(tmp_path, resume=True, **{'derived.optim_wrapper.optimizer.lr': 0.01})
    assert Config.fromfile(tmp_path / 'derived' / 'config.py').optim_wrapper.optimizer.lr == 0.01
    (group,) = loaded(find_checkpoint(tmp_path / 'adapt').path)['optimizer']['param_groups']
    assert group['initial_lr'] == 0.01


def test_files_of_the_user_are_left_where_they_are(tmp_path):
    work_dir = tmp_path / 'run'
    start(work_dir, stop=1)
    (work_dir / 'notes.txt').write_text('mine')
    (work_dir / 'seed').mkdir()
    start(work_dir, stop=1)
    assert (work_dir / 'notes.txt').read_text() == 'mine'
    assert (work_dir / 'seed').is_dir()
    assert len(os.listdir(work_dir)) == len({*os.listdir(work_dir)})


def test_files_that_settings_name_count_by_their_content(tmp_path, reference):
    space = tmp_path / 'space.json'
    space.write_text(tiny.SPACE.format())
    given = {'model.backbone.space': str(space)}
    start(tmp_path / 'run', stop=3, **given)
    space.write_text(tiny.SPACE.format().replace('k5_e6', 'k5_e3'))
    refuses(tmp_path / 'run', r'model.backbone.space .space.jso.* -> .space.jso', **given)
    space.unlink()
    moved = tmp_path / 'elsewhere' / 'space.json'
    moved.parent.mkdir()
    moved.write_text(tiny.SPACE.format())
    start(tmp_path / 'run', resume=True, **{'model.backbone.space': str(moved)})
    assert same_run(tmp_path / 'run', reference)


def test_a_moved_work_dir_goes_on(tmp_path, reference):
    start(tmp_path / 'first', stop=3)
    (tmp_path / 'first').rename(tmp_path / 'second')
    start(tmp_path / 'second', resume=True)
    assert same_run(tmp_path / 'second', reference)


def test_a_limit_counts_again_after_a_given_network_was_replaced(tmp_path):
    start(tmp_path)
    start(tmp_path, arch=B.format('fna'))
    start(tmp_path, resume=True, **{'train_cfg.max_epochs': 3})
    limit = tiny.MACS['fixed'] + tiny.MACS['1.0'][0] + tiny.MACS['2.0'][0]
    start(tmp_path, resume=True, **{'train_cfg.max_epochs': 3, 'optim_wrapper.cost.max': limit})
    assert ArchSpec.parse(tmp_path / 'derived' / 'arch.json').replace(bn_eps=None) == A


def test_the_way_back_from_a_given_network_to_the_search(tmp_path, reference, capsys):
    work_dir = tmp_path / 'run'
    start(work_dir, stop=3)
    start(work_dir, arch=B.format('fna'))
    start(work_dir, resume=True)
    assert '--resume --search-only goes back to the search' in capsys.readouterr().out
    run(config(work_dir), resume=True, search_only=True)
    assert state(work_dir) == 'derived'
    start(work_dir, resume=True)
    assert same_run(work_dir, reference)


def test_a_finished_search_is_not_searched_again_where_its_checkpoints_are_gone(tmp_path):
    start(tmp_path)
    for path in tmp_path.glob('epoch_*.pth'):
        path.unlink()
    with pytest.raises(ResumeError, match='is done, and no whole checkpoint is left to choose from'):
        start(tmp_path, resume=True, **{'optim_wrapper.cost.max': 1e9})
    assert state(tmp_path) == 'found'
    assert (tmp_path / 'adapt' / 'epoch_2.pth').is_file()


def test_what_was_deleted_by_hand_is_written_again_or_said(tmp_path, capsys):
    start(tmp_path)
    for path in (tmp_path / 'derived').glob('*.*'):
        path.unlink()
    start(tmp_path, resume=True)
    assert (tmp_path / 'derived' / 'config.py').is_file()
    (tmp_path / 'adapt' / 'epoch_1.pth').unlink()
    (tmp_path / 'adapt' / 'epoch_2.pth').unlink()
    capsys.readouterr()
    start(tmp_path, resume=True)
    assert 'warning: the adaptation left no whole checkpoint in ' in capsys.readouterr().out


def test_a_damaged_manifest_is_set_aside_by_a_new_run(tmp_path, reference):
    work_dir = tmp_path / 'run'
    start(work_dir)
    (work_dir / 'run.json').write_text('{"half of a ma')
    refuses(work_dir, 'start without --resume to set it aside')
    start(work_dir)
    assert same_run(work_dir, reference)
    (aside,) = work_dir.glob('before_*')
    assert (aside / 'run.json').read_text() == '{"half of a ma'


def test_runs_that_share_a_folder_of_checkpoints_keep_theirs_apart(tmp_path):
    out = {'default_hooks.checkpoint.out_dir': str(tmp_path / 'big')}
    for name in ('a', 'b'):
        start(tmp_path / name, **out)
    found = sorted(path.relative_to(tmp_path / 'big').as_posix() for path in (tmp_path / 'big').rglob('epoch_2.pth'))
    assert found == ['a/adapt/epoch_2.pth', 'a/epoch_2.pth', 'b/adapt/epoch_2.pth', 'b/epoch_2.pth']


def test_a_finished_run_is_not_trained_for_a_harmless_change(tmp_path, capsys):
    start(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.pth')}
    start(tmp_path, resume=True, log_level='ERROR', **{'derived.default_hooks.logger': {'interval': 2}})
    assert 'the adaptation is done: nothing is left to train' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.pth')} == before
