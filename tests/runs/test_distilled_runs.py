"""Exit 0 means done as asked, of a distillation: blocks trained to their end, any network of the front stitched."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec
from mmnas_ext.registry import MODELS
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.distillation import rate_checkpoint
from mmnas_ext.runs.manifest import NoNetworkError, ResumeError, read_manifest
from mmnas_ext.runs.run import run
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.search.ratings import Ratings
from tests.engine import tiny_distill, tiny_seg
from tests.engine.kept import differences, last_checkpoint
from tests.engine.test_distill import ordinary

STOP = dict(custom_imports=dict(imports=['tests.engine.tiny_seg']))


def config(folder: Path, stop: int | None = None, **changes: Any) -> Config:
    folder.mkdir(exist_ok=True)
    cfg = tiny_distill.config(folder, **{'max_iters': 6, **STOP, **changes})
    if stop is not None:
        cfg.custom_hooks = [dict(type='StopVisualizationHook', at=stop)]
    return cfg


def start(folder: Path, resume: bool = False, arch: str | None = None, **changes: Any) -> None:
    cfg = config(folder, **changes)
    if changes.get('stop') is None:
        run(cfg, resume=resume, arch=arch)
        return
    with pytest.raises(tiny_seg.KilledError):
        run(cfg, resume=resume, arch=arch)


def state(folder: Path) -> str:
    manifest = read_manifest(folder / 'work' / 'run.json')
    return manifest.state if manifest else ''


def results(folder: Path) -> tuple[Any, ...]:
    """All that a run came to: trained blocks, ratings, choice, weights."""
    work_dir = folder / 'work'
    return (
        last_checkpoint(work_dir)[1]['state_dict'],
        (work_dir / 'ratings.json').read_text(),
        (work_dir / 'front.json').read_text(),
        (work_dir / 'derived' / 'arch.json').read_text(),
        torch.load(work_dir / 'derived' / 'distilled.pth', weights_only=True),
    )


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted distillation of six iterations."""
    folder = tmp_path_factory.mktemp('whole')
    start(folder)
    return folder


def test_ratings_on_the_way_do_not_end_the_training(tmp_path: Path, whole: Path) -> None:
    every = {'train_cfg.val_interval': 2}
    start(tmp_path, stop=3, **every)
    assert (tmp_path / 'work' / 'front.json').is_file()  # of the second iteration
    assert state(tmp_path) == 'searching'
    start(tmp_path, resume=True, **every)
    assert differences(results(tmp_path), results(whole)) == []
    assert last_checkpoint(tmp_path / 'work')[1]['state_dict']['steps'].tolist() == [6, 6]


def test_more_iterations_are_trained_rated_and_chosen_again(tmp_path: Path) -> None:
    schedule = {'param_scheduler': []}
    start(tmp_path / 'a', max_iters=8, **schedule)
    start(tmp_path / 'b', max_iters=5, **schedule)
    short = results(tmp_path / 'b')
    start(tmp_path / 'b', resume=True, max_iters=8, **schedule)
    assert differences(results(tmp_path / 'b'), results(tmp_path / 'a')) == []
    assert differences(results(tmp_path / 'b'), short) != []


def test_a_new_distillation_never_takes_up_an_old_one(tmp_path: Path, whole: Path) -> None:
    start(tmp_path, **{'randomness.seed': 8})
    start(tmp_path, stop=1)
    with pytest.raises(ResumeError, match='randomness.seed 5 -> 8'):
        start(tmp_path, resume=True, **{'randomness.seed': 8})
    start(tmp_path, resume=True)
    assert differences(results(tmp_path), results(whole)) == []


@pytest.mark.parametrize('name', ['front.json', 'features.npz', 'arch.json', 'distilled.pth', 'dna_found.py'])
def test_a_run_that_ends_before_a_file_of_its_choice_goes_on(
    tmp_path: Path, whole: Path, monkeypatch: Any, name: str
) -> None:
    """A full disk, say."""

    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(28, 'No space left on device')
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr('mmnas_ext.workdir.os.replace', fail)  # every file that is written whole goes through it
        with pytest.raises(OSError, match='No space left'):
            start(tmp_path)
    assert state(tmp_path) in ('searching', 'rating', 'found')
    start(tmp_path, resume=True)
    assert differences(results(tmp_path), results(whole)) == []
    assert state(tmp_path) == 'derived'


def another_of_the_front(folder: Path) -> ArchSpec:
    """A network of the front that was not chosen."""
    front = json.loads((folder / 'work' / 'front.json').read_text())
    ratings = Ratings.parse(folder / 'work' / 'ratings.json')
    archs = [ratings.arch(tuple(choice)) for choice in front['choices']]
    return next(arch for arch in archs if arch != ArchSpec.parse(front['arch']))


@pytest.mark.parametrize('resume', [False, True])
def test_another_point_of_the_front_gets_its_own_weights(tmp_path: Path, resume: bool) -> None:
    ordinary(tmp_path)
    derived = dict(config='ordinary.py', train_cfg=dict(max_iters=1), weights='distilled')
    start(tmp_path, derived=derived)
    work_dir = tmp_path / 'work'
    arch = another_of_the_front(tmp_path)
    file = tmp_path / 'point.json'
    file.write_text(arch.format('json'))
    check_config(config(tmp_path, derived=derived), str(file), resume=resume)
    first = last_checkpoint(work_dir)
    start(tmp_path, resume=resume, arch=str(file), derived=derived)
    assert state(tmp_path) == 'done'
    assert differences(last_checkpoint(work_dir), first) == []  # the distillation stays
    assert ArchSpec.parse(work_dir / 'derived' / 'arch.json') == arch
    weights = torch.load(work_dir / 'derived' / 'distilled.pth', weights_only=True)
    net = MODELS.build(dict(type='mmnas_ext.MBNet', arch=arch, out_indices=(2,)))
    net.load_state_dict(weights)
    adapted = last_checkpoint(work_dir / 'adapt')[1]['state_dict']
    assert {name.removeprefix('backbone.') for name in adapted if name.startswith('backbone.')} == set(weights)
    (aside,) = work_dir.glob('before_*')
    assert sorted(path.name for path in aside.iterdir()) == ['adapt', 'derived']
    # without a network the given one stays the run's
    start(tmp_path, resume=True, derived=derived)
    assert ArchSpec.parse(work_dir / 'derived' / 'arch.json') == arch


def test_what_cannot_get_distilled_weights_is_refused_before_anything_is_set_aside(tmp_path: Path) -> None:
    ordinary(tmp_path)
    derived = dict(config='ordinary.py', train_cfg=dict(max_iters=1), weights='distilled')
    foreign = '[[8, 8], ["k3_e1"], 1]|[[8, 12], ["k7_e3"], 2]|[[12, 16], ["k3_e3"], 2]'
    with pytest.raises(ValueError, match="weights='distilled' with --arch needs a work dir whose distillation"):
        start(tmp_path, arch=foreign, derived=derived)
    start(tmp_path, derived=derived)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'work').rglob('*')}
    with pytest.raises(ValueError, match='--arch must be a network of model.space to have distilled weights'):
        start(tmp_path, arch=foreign, derived=derived)
    ours = another_of_the_front(tmp_path).format('fna')
    with pytest.raises(ValueError, match='its settings were others .randomness.seed 5 -> 6'):
        start(tmp_path, arch=ours, derived=derived, **{'randomness.seed': 6})
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'work').rglob('*')} == before


def test_a_moved_distillation_goes_on(tmp_path: Path) -> None:
    ordinary(tmp_path)
    derived = dict(config='ordinary.py', train_cfg=dict(max_iters=1), weights='distilled')
    start(tmp_path, derived=derived)
    (tmp_path / 'work').rename(tmp_path / 'moved')
    moved = config(tmp_path, derived={**derived, 'train_cfg': dict(max_iters=2)}, work_dir=str(tmp_path / 'moved'))
    run(moved, resume=True)
    assert last_checkpoint(tmp_path / 'moved' / 'adapt')[0] == 'iter_2.pth'


def test_blocks_that_were_rated_half_trained_are_trained_on(tmp_path: Path, whole: Path) -> None:
    start(tmp_path, stop=4)
    rate_checkpoint(config(tmp_path))
    assert state(tmp_path) == 'searching'
    start(tmp_path, resume=True)
    assert differences(results(tmp_path), results(whole)) == []


def test_a_changed_limit_chooses_again_and_rates_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    start(tmp_path)
    work_dir = tmp_path / 'work'
    front = json.loads((work_dir / 'front.json').read_text())
    cheapest = front['costs'][0]
    ratings = (work_dir / 'ratings.json').stat().st_mtime_ns
    monkeypatch.setattr('mmnas_ext.engine.rating_loop.rate', lambda *args: pytest.fail('nothing is to be rated'))
    start(tmp_path, resume=True, **{'val_cfg.limits': dict(macs=cheapest)})
    chosen = json.loads((work_dir / 'front.json').read_text())['chosen']
    assert chosen['costs']['macs'] == cheapest
    assert (work_dir / 'ratings.json').stat().st_mtime_ns == ratings
    arch = ArchSpec.parse(work_dir / 'derived' / 'arch.json')
    net = MODELS.build(dict(type='mmnas_ext.MBNet', arch=arch, out_indices=(2,)))
    net.load_state_dict(torch.load(work_dir / 'derived' / 'distilled.pth', weights_only=True))


def test_a_longer_front_is_measured_and_nothing_else_is_done_again(tmp_path: Path, monkeypatch: Any) -> None:
    # of two widths before the last block, which was trained with 12: a network with 10 has no distilled weights
    space = dict(tiny_distill.SPACE, stages=[dict(stage) for stage in tiny_distill.SPACE['stages']])
    space['stages'][1].update(channels=[10, 12], depths=[1])
    changes = {'model.space': space, 'max_iters': 3}
    start(tmp_path / 'whole', **changes)
    whole = MeasuredFront.parse(tmp_path / 'whole' / 'work')
    fits = [network.arch.stages[1].channels == 12 for network in whole.points]
    assert {True, False} == set(fits)
    assert ['feature_error' in network.metrics for network in whole.points] == fits
    start(tmp_path / 'longer', **changes, **{'val_cfg.front': 1})
    work_dir = tmp_path / 'longer' / 'work'
    assert [network.origin for network in MeasuredFront.parse(work_dir).points] == ['chosen']
    ratings = (work_dir / 'ratings.json').stat().st_mtime_ns
    monkeypatch.setattr('mmnas_ext.engine.rating_loop.rate', lambda *args: pytest.fail('nothing is to be rated'))
    start(tmp_path / 'longer', resume=True, **changes, **{'val_cfg.front': 8})
    assert MeasuredFront.parse(work_dir) == whole
    assert (work_dir / 'ratings.json').stat().st_mtime_ns == ratings
    assert state(tmp_path / 'longer') == 'derived'
    # without a checkpoint the front is what is known of it
    for file in work_dir.glob('*.pth'):
        file.unlink()
    limit = {'val_cfg.limits': dict(macs=whole.points[0].costs['macs'])}
    start(tmp_path / 'longer', resume=True, **changes, **{'val_cfg.front': 8}, **limit)
    again = MeasuredFront.parse(work_dir)
    assert [network.metrics for network in again.points] == [network.metrics for network in whole.points]
    assert again.points[0].origin == 'chosen'


def test_other_held_out_images_are_rated_anew(tmp_path: Path, capsys: Any) -> None:
    start(tmp_path)
    before = results(tmp_path)
    first = last_checkpoint(tmp_path / 'work')
    start(tmp_path, resume=True, **{'val_cfg.calibration_batches': 1})
    assert 'rating: done again, rating.calibration_batches 2 -> 1' in capsys.readouterr().out
    assert differences(last_checkpoint(tmp_path / 'work'), first) == []
    assert results(tmp_path)[1] != before[1]


def test_held_out_images_that_were_exchanged_in_place_are_rated_anew(tmp_path: Path, capsys: Any) -> None:
    start(tmp_path / 'a')
    before = results(tmp_path / 'a')
    shutil.rmtree(tmp_path / 'a' / 'images' / 'val' / 'class_0')
    start(tmp_path / 'a', resume=True)
    assert 'rating: done again, rating.data.val_dataloader' in capsys.readouterr().out
    config(tmp_path / 'b')  # makes the images
    shutil.rmtree(tmp_path / 'b' / 'images' / 'val' / 'class_0')
    start(tmp_path / 'b')
    assert results(tmp_path / 'a')[1:3] == results(tmp_path / 'b')[1:3] != before[1:3]


def test_limits_that_no_network_meets_together_end_in_one_line_and_lose_no_rating(
    tmp_path: Path, monkeypatch: Any
) -> None:
    start(tmp_path / 'free')
    ratings = Ratings.parse(tmp_path / 'free' / 'work' / 'ratings.json')
    front = json.loads((tmp_path / 'free' / 'work' / 'front.json').read_text())
    cheapest, dearest = (ratings.costs(tuple(front['choices'][k])) for k in (0, -1))
    macs, least, most = cheapest['macs'], cheapest['params'], dearest['params']
    assert least < most
    both = {'val_cfg.limits': dict(macs=macs, params=dict(min=most))}
    for _ in range(2):
        with pytest.raises(NoNetworkError, match='the rating gives no network: limits can be met one by one but'):
            start(tmp_path / 'both', resume=(tmp_path / 'both').exists(), **both)
    monkeypatch.setattr('mmnas_ext.engine.rating_loop.rate', lambda *args: pytest.fail('nothing is to be rated'))
    start(tmp_path / 'both', resume=True, **{'val_cfg.limits': dict(macs=macs)})
    assert ArchSpec.parse(tmp_path / 'both' / 'work' / 'derived' / 'arch.json') == ratings.arch(
        tuple(front['choices'][0])
    )


def test_a_network_chosen_by_the_rating_tool_is_gone_on_with(tmp_path: Path) -> None:
    start(tmp_path)
    work_dir = tmp_path / 'work'
    cheapest = json.loads((work_dir / 'front.json').read_text())['costs'][0]
    rate_checkpoint(config(tmp_path), limits=dict(macs=cheapest))
    arch = ArchSpec.parse(work_dir / 'derived' / 'arch.json')
    assert json.loads((work_dir / 'front.json').read_text())['chosen']['costs']['macs'] == cheapest
    assert state(tmp_path) == 'derived'
    start(tmp_path, resume=True)
    assert ArchSpec.parse(work_dir / 'derived' / 'arch.json') == arch
    # until the config's own limits change
    front = json.loads((work_dir / 'front.json').read_text())
    start(tmp_path, resume=True, **{'val_cfg.limits': dict(macs=front['costs'][-1])})
    assert ArchSpec.parse(work_dir / 'derived' / 'arch.json') != arch


@pytest.mark.parametrize('key', ['evolution', 'random_search'])
def test_what_finds_a_network_otherwise_is_refused_beside_a_distillation(tmp_path: Path, key: str) -> None:
    cfg = config(tmp_path, **{key: dict(population=8)})
    with pytest.raises(ValueError, match=f'^{key} has no effect beside a distillation, .*: set it to None'):
        check_config(cfg)
    cfg[key] = None
    check_config(cfg)
