"""A run killed before any of its file operations, or in the middle of one, ends as if it had not been, or refuses.

What counts as the same: the networks, the choice, and weights and optimizer states of every part, to the bit.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec
from mmnas_ext.runs.manifest import ResumeError, read_manifest
from mmnas_ext.runs.results import trained_metrics
from mmnas_ext.runs.run import run
from tests.engine import tiny, tiny_distill, tiny_trials
from tests.engine.kept import differences, last_checkpoint
from tests.runs.kill import State, restore, watch


def plain(folder: Path) -> Config:
    cfg = tiny.search_cfg(folder / 'work', **{'train_dataloader.dataset.count': 4})
    cfg.pop('derived')
    cfg.model.backbone = dict(type='mmnas_ext.MBNet', arch=tiny.SPACE.arch(tiny_trials.PATHS[0]).format('fna'),
                              out_indices=(2,))  # fmt: skip
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
    cfg.custom_hooks = [dict(type='mmnas_ext.ReseedHook')]
    cfg.model.type, cfg.custom_imports = 'TinyTried', dict(imports=['tests.engine.tiny_trials'])
    cfg.val_cfg, cfg.val_evaluator = {}, dict(type='TinyCloseness')
    cfg.val_dataloader = {
        **tiny.loader_cfg(3, transform='TinyPlain', count=3), 'sampler': {'type': 'DefaultSampler', 'shuffle': False},
    }  # fmt: skip
    return cfg


def gradient(folder: Path) -> Config:
    return tiny.search_cfg(folder / 'work', **{
        'train_cfg.max_epochs': 2, 'train_dataloader.dataset.count': 4, 'derived.train_cfg.max_epochs': 1,
    })  # fmt: skip


def random(folder: Path) -> Config:
    return tiny_trials.random_cfg(folder / 'work', **{
        'random_search.count': 2, 'random_search.trial.train_cfg.max_epochs': 1, 'derived.train_cfg.max_epochs': 1,
        'train_dataloader.dataset.count': 4, 'val_dataloader.dataset.count': 3,
    })  # fmt: skip


def distillation(folder: Path) -> Config:
    return tiny_distill.config(folder, max_iters=3, **{'default_hooks.checkpoint.interval': 2, 'val_cfg.front': 1})


METHODS: dict[str, Callable[[Path], Config]] = {
    'plain': plain, 'gradient': gradient, 'random': random, 'distillation': distillation,
}  # fmt: skip


def outcome(folder: Path) -> dict[str, object]:
    """All that a run came to."""
    work_dir = folder / 'work'
    found: dict[str, object] = {'state': read_manifest(work_dir / 'run.json').state}
    for name in ('', 'adapt'):
        if list((work_dir / name).glob('*.pth')):
            found[f'weights {name}'] = last_checkpoint(work_dir / name)
    for name in ('derived/arch.json', 'ratings.json', 'front.json'):
        if (work_dir / name).is_file():
            found[name] = (work_dir / name).read_text()
    if (work_dir / 'derived' / 'config.py').is_file():
        arch = ArchSpec.parse(Config.fromfile(work_dir / 'derived' / 'config.py').model.backbone.arch)
        found['config'] = arch.format('fna')
    for name in ('', 'adapt'):  # what a run that was stopped while it validated would lack, or have of another epoch
        found[f'metrics {name}'] = trained_metrics(work_dir / name)
    found['weights of trials'] = sorted(path.name for path in work_dir.glob('trials/*/*.pth'))
    return found


@pytest.fixture(scope='module', params=METHODS)
def killed(request, tmp_path_factory):
    """A method's folder and config, what an uninterrupted run comes to, and what a kill of it may leave."""
    folder = tmp_path_factory.mktemp(request.param)
    make = METHODS[request.param]
    make(folder)  # a distillation's images
    states = watch(folder / 'work', lambda: run(make(folder)))
    return folder, make, outcome(folder), states


def test_a_run_killed_at_any_file_operation_ends_as_if_it_had_not_been(killed):
    folder, make, wanted, states = killed
    assert wanted['state'] in ('done', 'derived')
    assert len(states) >= 8
    assert sum(state.moment.startswith('half of') for state in states) >= 2
    refused = 0
    for state in states:
        restore(folder / 'work', state)
        (folder / 'work').mkdir(exist_ok=True)
        (folder / 'work' / '.run.json.part').write_text('{"half of a ma')
        try:
            run(make(folder), resume=True)
        except ResumeError as error:
            message = str(error)
            # before the manifest there is no run
            assert 'nothing to go on from' in message, state.moment
            assert not (folder / 'work' / 'run.json').exists(), state.moment
            refused += 1
            continue
        found = outcome(folder)
        assert found.keys() == wanted.keys(), state.moment
        assert differences(found, wanted) == [], state.moment
        assert not list(folder.glob('work/before_*')), state.moment
    assert 1 <= refused <= 3


def test_an_old_run_set_aside_halfway_is_never_taken_up(killed):
    """A new run in a used work dir is killed at each move: either run is whole, or none is there."""
    folder, make, wanted, _ = killed

    def begin() -> None:
        cfg = make(folder)
        cfg.randomness = dict(seed=11)
        run(cfg)

    restore(folder / 'work', State('', {}))
    run(make(folder))
    moves = [state for state in watch(folder / 'work', begin) if moved(state)]
    assert len(moves) >= 3
    for state in moves:
        restore(folder / 'work', state)
        manifest = read_manifest(folder / 'work' / 'run.json')
        assert manifest is None, state.moment
        with pytest.raises(ResumeError, match='nothing to go on from'):
            run(make(folder), resume=True)
    run(make(folder))
    assert differences(outcome(folder), wanted) == []


def moved(state: State) -> bool:
    """Whether an old run was being set aside."""
    return state.moment.startswith(('os.rename /before_', 'os.mkdir /before_')) and any(
        'before_' in str(path) for path in state.files
    )


def test_what_a_kill_would_leave_is_seen(tmp_path):
    """The harness itself, with files written by hand."""

    def write() -> None:
        (tmp_path / 'a').write_text('whole')
        (tmp_path / 'a').rename(tmp_path / 'b')
        (tmp_path / '20260101_000000').mkdir()
        (tmp_path / 'b').rename(tmp_path / 'c.pth')
        (tmp_path / 'c.pth').unlink()

    a, b, c, half = tmp_path / 'a', tmp_path / 'b', tmp_path / 'c.pth', b'PK\x03\x04{"half of a file": '
    assert watch(tmp_path, write) == [
        ('open /a', {}),
        ('half of open /a', {a: half}),
        ('os.rename /b', {a: b'whole'}),
        ('os.rename /c.pth', {b: b'whole'}),
        ('half of os.rename /c.pth', {b: b'whole', c: half}),
        ('os.remove /c.pth', {c: b'whole'}),
    ]  # fmt: skip
    restore(tmp_path, State('', {a: half}))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [half]
