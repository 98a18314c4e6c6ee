"""A distillation as a user starts it: what it trains, what it leaves behind, and that a killed one ends the same."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import IterBasedTrainLoop

from mmnas_ext.archs import ArchSpec, price
from mmnas_ext.distill import recalibrate, stitch
from mmnas_ext.engine import rating_loop
from mmnas_ext.engine.distill import preprocess
from mmnas_ext.registry import MODELS
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.distillation import rate_checkpoint
from mmnas_ext.runs.manifest import ResumeError
from mmnas_ext.runs.run import run
from mmnas_ext.runs.sharing import Alone
from mmnas_ext.runs.training import make_runner, open_runner
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.search.ratings import Ratings
from mmnas_ext.search.select import select
from mmnas_ext.workdir import WorkDir
from tests.engine import tiny_distill, tiny_seg
from tests.engine.kept import differences, last_checkpoint, loaded
from tests.runs.test_leases import quick

STOP = dict(custom_imports=dict(imports=['tests.engine.tiny_seg']))


@pytest.fixture(scope='module')
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of a whole run."""
    folder = tmp_path_factory.mktemp('distilled')
    run(tiny_distill.config(folder, max_iters=12))
    return folder / 'work'


def records(work_dir: Path) -> list[dict[str, Any]]:
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_run_leaves_ratings_front_network_weights_and_backbone(finished: Path) -> None:
    ratings = Ratings.parse(finished / 'ratings.json')
    assert tuple(sum(len(cell.paths) for cell in block.cells) for block in ratings.blocks) == tiny_distill.PATHS
    assert all(0 < value < 5 for block in ratings.blocks for cell in block.cells for value in cell.ratings)
    arch = ArchSpec.parse(finished / 'derived' / 'arch.json')
    assert arch == select(ratings).arch
    front = json.loads((finished / 'front.json').read_text())
    assert front['chosen']['costs']['macs'] == price(arch, tiny_distill.SIZE)
    assert front['ratings'] == sorted(front['ratings'], reverse=True)
    assert ArchSpec.parse(front['arch']) == arch
    net = MODELS.build(dict(type='mmnas_ext.MBNet', arch=arch, out_indices=(2,)))
    net.load_state_dict(torch.load(finished / 'derived' / 'distilled.pth', weights_only=True))
    assert {path.name for path in (finished / 'derived').iterdir()} >= {
        'dna_found.py',
        'dna_found.json',
        'dna_found.pth',
    }
    with np.load(finished / 'features.npz') as features:
        assert features['image'].shape == (2, *tiny_distill.SIZE, 3)
        assert features['teacher_0'].shape == features['student_0'].shape == (2, 12, 8, 8)
        assert features['teacher_1'].shape == features['student_1'].shape == (2, 16, 4, 4)


@torch.no_grad()
def test_networks_of_the_front_are_measured_as_the_networks_that_they_are(finished: Path) -> None:
    ratings, front = Ratings.parse(finished / 'ratings.json'), MeasuredFront.parse(finished)
    assert (front.metric, front.rank_by, front.rule, front.seed) == ('macs', 'feature_error', 'less', None)
    exact = json.loads((finished / 'front.json').read_text())
    archs = [ratings.arch(tuple(choice)) for choice in exact['choices']]
    assert [network.arch for network in front.points] == archs  # fewer than eight
    assert [network.origin for network in front.points] == ['front'] * (len(archs) - 1) + ['chosen']
    with open_runner(tiny_distill.config(finished.parent)) as runner:
        model, loop = runner.model, runner.val_loop
        model.load_state_dict(last_checkpoint(finished)[1]['state_dict'])
        model.eval()
        for network in front.points:
            arch, size = network.arch, tiny_distill.SIZE
            assert network.costs == {metric: price(arch, size, metric=metric) for metric in ('macs', 'params')}
            net = MODELS.build(dict(type='mmnas_ext.MBNet', arch=arch, out_indices=(2,)))
            net.load_state_dict(stitch(model, loop.find_cells(ratings, arch)))
            recalibrate(net, loop._calibration())
            images = list(preprocess(model, loop.dataloader))
            target = torch.cat([model.features(x)[2] for x in images]).double()
            error = torch.cat([net(x)[0] for x in images]).double().sub(target).abs().mean()
            wanted = (error / target.std(correction=0)).item()
            assert network.metrics == {'feature_error': pytest.approx(wanted, rel=1e-4)}
    assert [network.score for network in front.points] == exact['ratings']


def test_images_are_kept_as_they_look(finished: Path) -> None:
    cfg = tiny_distill.config(finished.parent)
    runner = make_runner(cfg)
    first = runner.build_dataloader(dict(cfg.val_dataloader, dataset=dict(cfg.val_dataloader.dataset)), seed=0)
    wanted = next(iter(first))['inputs'][0].permute(1, 2, 0).numpy()[..., ::-1]  # files are read as BGR
    with np.load(finished / 'features.npz') as features:
        assert np.abs(features['image'][0].astype(int) - wanted).max() <= 1


def test_losses_of_every_block_are_logged_and_fall(finished: Path) -> None:
    logged = [record for record in records(finished) if 'loss_block0' in record]
    assert [record['step'] for record in logged] == [2, 4, 6, 8, 10, 12]
    for block in ('loss_block0', 'loss_block1'):
        assert logged[-1][block] < logged[0][block]
    assert logged[0]['loss'] == pytest.approx(logged[0]['loss_block0'] + logged[0]['loss_block1'], rel=1e-4)


def test_features_are_standardised_by_the_training_images(finished: Path) -> None:
    distiller = MODELS.build(tiny_distill.config(finished.parent).model)
    distiller.load_state_dict(last_checkpoint(finished)[1]['state_dict'])
    assert distiller.calibrated
    assert not any('teacher' in name for name in distiller.state_dict())
    # three batches of four images are all twelve of them, in flips of which only the place depends
    deviations = distiller.std_2.flatten()
    assert deviations.shape == (16,)
    assert (deviations > 0).all()
    assert not torch.equal(deviations, torch.ones(16))


def once(folder: Path, kill: int | None = None, **changes: Any) -> None:
    cfg = tiny_distill.config(folder, **STOP, **changes)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(97 if kill is None else kill)  # as in another process
    resume = (folder / 'work' / 'run.json').exists()
    if kill is None:
        run(cfg, resume=resume)
        return
    cfg.custom_hooks = [dict(type='StopVisualizationHook', at=kill)]
    with pytest.raises(tiny_seg.KilledError):
        run(cfg, resume=resume)


def test_a_run_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path) -> None:
    (tmp_path / 'killed').mkdir()
    (tmp_path / 'whole').mkdir()
    # a teacher in training mode sees other batches on its way, and a rating measures its batch norms
    changes = {'model.teacher.train_mode': True, 'train_cfg.val_interval': 4}
    once(tmp_path / 'whole', **changes)
    for kill in (2, 5, 7):
        once(tmp_path / 'killed', kill, **changes)
    once(tmp_path / 'killed', **changes)
    whole, killed = (last_checkpoint(tmp_path / name / 'work') for name in ('whole', 'killed'))
    assert whole[0] == killed[0] == 'iter_8.pth'
    assert differences(whole[1], killed[1]) == []
    ratings = [(tmp_path / name / 'work' / 'ratings.json').read_text() for name in ('whole', 'killed')]
    assert ratings[0] == ratings[1]
    # rated with batch norms of the teacher that the calibration images have measured
    runner = make_runner(tiny_distill.config(tmp_path / 'whole', **changes))
    runner.model.load_state_dict(whole[1]['state_dict'])
    teacher, loop = runner.model.eval().teacher, runner.val_loop
    images = next(preprocess(runner.model, loop.dataloader))
    with np.load(tmp_path / 'whole' / 'work' / 'features.npz') as features:
        shown = torch.from_numpy(features['teacher_1'])
    assert not torch.allclose(runner.model.features(images)[2], shown, atol=1e-3)
    teacher.recalibrate(loop._calibration())
    torch.testing.assert_close(runner.model.features(images)[2], shown)


@pytest.mark.parametrize(
    ('length', 'rated'),
    [
        (dict(max_iters=1002), [1002]),
        (dict(max_iters=None, max_epochs=334), [1002]),
        (dict(max_iters=1002, val_interval=900), [900, 1002]),
    ],
)
def test_paths_are_rated_once_at_the_end_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: dict[str, Any], rated: list[int]
) -> None:
    """More iterations than MMEngine's own interval; they take nothing, and nothing is rated."""
    cfg = tiny_distill.config(tmp_path)
    cfg.train_cfg = {key: value for key, value in {**cfg.train_cfg, **length}.items() if value is not None}
    runner = make_runner(cfg)
    loop, found = runner.train_loop, []

    def step(batch: Any) -> None:
        loop._iter += 1

    monkeypatch.setattr(loop, 'run_iter', step)
    monkeypatch.setattr(loop, 'dataloader_iterator', itertools.repeat(None))
    monkeypatch.setattr(runner.model, 'train', lambda: None)
    monkeypatch.setattr(runner.val_loop, 'run', lambda: found.append(loop.iter))
    IterBasedTrainLoop.run(loop)
    assert found == rated


def test_a_run_killed_while_it_rates_goes_on_with_the_next_piece(tmp_path: Path, monkeypatch: Any) -> None:
    rated: list[int] = []
    original = rating_loop.rate

    def counted(*args: Any) -> list[float]:
        if len(rated) == 1 and not (tmp_path / 'again').exists():
            raise tiny_seg.KilledError
        rated.append(1)
        return original(*args)

    monkeypatch.setattr(rating_loop, 'rate', counted)
    cfg = tiny_distill.config(tmp_path, max_iters=2)
    with pytest.raises(tiny_seg.KilledError):
        run(cfg)
    assert not (tmp_path / 'work' / 'ratings.json').exists()
    (tmp_path / 'again').touch()
    (part,) = (tmp_path / 'work' / 'ratings').iterdir()
    part.write_text(part.read_text() + '{"piece": "0.1:", "rat')  # a line that the kill has cut
    run(cfg, resume=True)
    assert len(rated) == 3  # two cells and one cell; the first of them before the kill
    assert (tmp_path / 'work' / 'front.json').is_file()
    run(cfg, resume=True)
    assert len(rated) == 3


def test_staged_training_trains_one_block_after_the_other(tmp_path: Path) -> None:
    cfg = tiny_distill.config(tmp_path, max_iters=6, val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg.train_cfg.staged = True
    run(cfg)
    half, end = (loaded(tmp_path / 'work' / f'iter_{n}.pth')['state_dict'] for n in (3, 6))
    weights = {name for name in half if name.endswith('weight')}
    moved = {name.split('.')[1] for name in weights if not torch.equal(half[name], end[name])}
    assert moved == {'1'}
    logged = records(tmp_path / 'work')
    assert 'loss_block1' not in logged[0]
    assert 'loss_block1' in logged[-1]


def test_chosen_blocks_alone_are_trained_for_whole_epochs_by_their_schedule(tmp_path: Path) -> None:
    cfg = tiny_distill.config(tmp_path, val_cfg=None, val_dataloader=None, val_evaluator=None)
    cfg.model.blocks = [1]
    del cfg.train_cfg['max_iters']
    cfg.train_cfg.max_epochs = 2  # of twelve images, four at a time
    cfg.param_scheduler = [
        dict(type='StepLR', step_size=1, gamma=0.5, by_epoch=True, begin=0, end=2, convert_to_iter_based=True)
    ]
    cfg.default_hooks.logger.interval = 1
    run(cfg)
    logged = records(tmp_path / 'work')
    assert all('loss_block0' not in record for record in logged)
    assert [record['step'] for record in logged] == [1, 2, 3, 4, 5, 6]
    assert [record['block1.lr'] for record in logged] == [1e-2] * 3 + [5e-3] * 3
    runner_weights = loaded(tmp_path / 'work' / 'iter_6.pth')
    assert len(runner_weights['optimizer']['block0']['state']) == 0
    assert len(runner_weights['optimizer']['block1']['state']) > 0


def test_rating_again_with_less_memory_and_a_limit(finished: Path, tmp_path: Path) -> None:
    cfg = tiny_distill.config(finished.parent, max_iters=12, work_dir=str(tmp_path / 'rated'))
    everything = Ratings.parse(finished / 'ratings.json')
    macs = sorted(macs for block in everything.blocks[:1] for cell in block.cells for (macs,) in cell.costs['macs'])
    rest = min(macs for cell in everything.blocks[1].cells for (macs,) in cell.costs['macs'])
    # a limit that only the cheapest path of the first block meets, with the cheapest of the second
    rate_checkpoint(cfg, [finished / 'iter_12.pth'], max_memory=0.002, limits={'macs': macs[0] + rest})
    again = Ratings.parse(tmp_path / 'rated' / 'ratings.json')
    for ours, theirs in zip(again.blocks, everything.blocks, strict=True):
        for one, other in zip(ours.cells, theirs.cells, strict=True):
            assert one.ratings == pytest.approx(other.ratings, rel=1e-5)
    chosen = json.loads((tmp_path / 'rated' / 'front.json').read_text())
    assert chosen['chosen']['costs']['macs'] == macs[0] + rest
    assert chosen['limits'] == {'macs': macs[0] + rest}


def test_a_rating_beside_a_run_is_refused(finished: Path, tmp_path: Path) -> None:
    cfg = tiny_distill.config(finished.parent, max_iters=12, work_dir=str(tmp_path))
    with Alone(WorkDir(tmp_path), quick(20.0)) as other:
        other.take_run()
        with pytest.raises(ResumeError, match='at work is '):
            rate_checkpoint(cfg, [finished / 'iter_12.pth'])
        assert not (tmp_path / 'run.json').exists()


def test_runs_that_trained_some_blocks_each_are_joined(tmp_path: Path, capsys: Any) -> None:
    without = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
    whole = tiny_distill.config(tmp_path, 4, work_dir=str(tmp_path / 'whole'))
    run(whole)
    for block in (0, 1):
        folder = str(tmp_path / f'block{block}')
        # one of them as the config stands: it cannot rate, and says so before it trains
        changes = {'model.blocks': [block], **(without if block else {})}
        run(tiny_distill.config(tmp_path, 4, work_dir=folder, **changes))
        assert not (tmp_path / f'block{block}' / 'ratings.json').exists()
    assert 'blocks [0] of 2 are trained here; nothing is rated: give mmnas rate the' in capsys.readouterr().out
    files = [tmp_path / f'block{block}' / 'iter_4.pth' for block in (0, 1)]
    cfg = tiny_distill.config(tmp_path, 4, work_dir=str(tmp_path / 'joined'))
    with pytest.raises(ValueError, match='block 1 has not been trained: give mmnas rate the checkpoints'):
        rate_checkpoint(cfg, files[:1])
    rate_checkpoint(cfg, files)
    texts = [(tmp_path / name / 'ratings.json').read_text() for name in ('whole', 'joined')]
    assert texts[0] == texts[1]
    with pytest.raises(FileNotFoundError, match='no checkpoint of the distillation'):
        rate_checkpoint(cfg, [files[0], tmp_path / 'missing.pth'])
    other = tiny_distill.config(tmp_path, 4, work_dir=str(tmp_path / 'other'), **{'randomness.seed': 6, **without})
    run(other)
    with pytest.raises(ValueError, match='standardises features otherwise'):
        rate_checkpoint(cfg, [files[0], tmp_path / 'other' / 'iter_4.pth'])
    torch.save({'stem.conv.weight': torch.ones(1)}, tmp_path / 'net.pth')
    with pytest.raises(ValueError, match='no checkpoint of this distillation'):
        rate_checkpoint(cfg, [tmp_path / 'net.pth'])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'val_cfg.max_memory': 1e-7}, 'a calibration batch of 4 images takes .* GiB: raise max_memory'),
        ({'val_cfg.limits': {'latency': 3.0}}, 'metrics must be among .* and limits among metrics'),
        ({'val_cfg.calibration_batches': 0}, 'calibration_batches must be a positive integer, got 0'),
        ({'val_cfg.front': 0}, 'front must be a positive integer, got 0'),
    ],
)
def test_rating_refuses(finished: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    cfg = tiny_distill.config(finished.parent, max_iters=12, work_dir=str(tmp_path / 'rated'), **changes)
    with pytest.raises(ValueError, match=message):
        rate_checkpoint(cfg, [finished / 'iter_12.pth'])


def test_rating_needs_a_checkpoint_of_a_distillation(tmp_path: Path) -> None:
    cfg = tiny_distill.config(tmp_path)
    with pytest.raises(FileNotFoundError, match='no checkpoint of the distillation'):
        rate_checkpoint(cfg)
    with pytest.raises(ValueError, match='BlockDistiller'):
        rate_checkpoint(tiny_seg.training_cfg(tmp_path))
    for changes, message in (
        ({'train_cfg.calibration_batches': 0}, 'calibration_batches must be a positive integer, got 0'),
        ({'train_dataloader.batch_size': 13, 'train_dataloader.drop_last': True}, 'batch_size is larger than its data'),
    ):
        with pytest.raises(ValueError, match=message):
            run(tiny_distill.config(tmp_path, **changes))


@pytest.mark.parametrize('standardize', ['channel', None])
def test_a_teacher_that_teaches_nothing_ends_a_run_before_its_first_step(tmp_path: Path, standardize: Any) -> None:
    cfg = tiny_distill.config(tmp_path, **{'model.standardize': standardize})
    file = Path(cfg.model.teacher.checkpoint)
    state = loaded(file)
    state.update({name: value * 0 for name, value in state.items() if 'stages.2.' in name and 'weight' in name})
    torch.save(state, file)
    with pytest.raises(ValueError, match="the teacher's feature 'stages.2.0' .* nothing to learn"):
        run(cfg)
    assert not list((tmp_path / 'work').glob('*.pth')) and not records(tmp_path / 'work')


def ordinary(folder: Path) -> Config:
    """An ordinary segmentor's config as a file, for `derived`."""
    cfg = tiny_seg.training_cfg(folder / 'none')
    cfg.model.backbone = dict(type='mmnas_ext.MBNet', arch=tiny_distill.TEACHER, out_indices=(2,))
    cfg.model.decode_head.update(in_channels=16, in_index=0)
    cfg.train_cfg.max_iters = 2
    cfg.pop('work_dir')
    (folder / 'ordinary.py').write_text(cfg.pretty_text)
    return cfg


@pytest.mark.parametrize('weights', [None, 'distilled'])
def test_what_is_found_is_trained_as_derived_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str | None
) -> None:
    ordinary(tmp_path)
    derived = dict(config='ordinary.py', train_cfg=dict(max_iters=1), name='TinyFound')
    cfg = tiny_distill.config(tmp_path, max_iters=2, derived=dict(derived, weights=weights))
    check_config(cfg)
    run(cfg, draw=weights is None)
    work_dir = tmp_path / 'work'
    assert (work_dir / 'report.html').is_file() == (weights is None)
    # drawn again at the end; this training validates nothing
    lost = f'warning: no predictions on the page, since ValueError: {work_dir}/adapt validates nothing'
    assert (lost in capsys.readouterr().out) == (weights is None)
    written = Config.fromfile(work_dir / 'derived' / 'config.py')
    assert 'BlockDistiller' not in written.pretty_text
    assert ArchSpec.parse(written.model.backbone.arch) == ArchSpec.parse(work_dir / 'derived' / 'arch.json')
    assert written.train_cfg.max_iters == 1
    assert (work_dir / 'adapt' / 'iter_1.pth').is_file()
    assert (work_dir / 'derived' / 'tiny_found.py').is_file()
    backbone = MODELS.build(written.model.backbone)
    backbone.init_weights()
    distilled = torch.load(work_dir / 'derived' / 'distilled.pth', weights_only=True)
    same = torch.equal(backbone.stem.conv.weight, distilled['stem.conv.weight'])
    assert same == (weights == 'distilled')


@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        ({'val_cfg.limits': {'macs': 10.0}}, ValueError, 'val_cfg.limits.macs.max must be at least .* cost'),
        ({'val_cfg.limits': {'macs': {'min': 1e12}}}, ValueError, 'val_cfg.limits.macs.min must be at most .* cost'),
        ({'val_cfg.limits': {'macs': {'least': 1}}}, ValueError, 'val_cfg.limits.macs takes min and max, got'),
        ({'derived': {'config': 'missing.py'}}, FileNotFoundError, 'derived.config is missing.py'),
        ({'derived': {'train_cfg': {}}}, ValueError, 'must name the config'),
        ({'derived': {'config': 'ordinary.py', 'weights': 'good'}}, ValueError, "weights must be one of .* got 'good'"),
        ({'derived': {'config': 'ordinary.py', 'weights': 'remapped'}}, ValueError, 'needs a backbone with a remapped'),
        (
            {'train_dataloader.dataset.sources': 'nowhere'},
            FileNotFoundError,
            'train_dataloader.dataset wants .*nowhere',
        ),
        ({'derived': {'config': 'ordinary.py', 'name': 'my net'}}, ValueError, "must be a class name: .* got 'my net'"),
        ({'derived': {'config': 'ordinary.py', 'name': 'MBNet'}}, ValueError, "'MBNet' is registered in mmnas_ext"),
        ({'derived': {'config': 'ordinary.py', 'name': 3}}, ValueError, 'must be a class name: .* got 3'),
        ({'derived': ['ordinary.py']}, ValueError, r"derived must be a dict, got \['o"),
        ({'val_cfg.type': 'ValLoop'}, ValueError, "val_cfg.type of a distillation must be 'mmnas_ext.RatingLoop', got"),
        ({'val_cfg.batches': 3}, ValueError, 'val_cfg.batches is no argument of RatingLoop'),
        ({'val_cfg.max_memory': '4 GB'}, ValueError, "val_cfg.max_memory must be a number, got '4 GB'"),
        ({'val_cfg.calibration_batches': 2.5}, ValueError, 'calibration_batches must be an integer, got 2.5'),
        ({'val_cfg.limits': 1e6}, ValueError, 'val_cfg.limits must be a dict or None, got 1000000.0'),
        ({'val_cfg.metrics': 'macs'}, TypeError, r"val_cfg.metrics must be a list such as .* got 'macs'"),
        ({'val_cfg.limits': {'flops': 1e6}}, ValueError, 'metrics must be among .* and limits among metrics'),
        ({'train_cfg.type': 'IterBasedTrainLoop'}, ValueError, "train_cfg.type of a distillation must be 'mmnas_ext.D"),
        ({'train_cfg.max_epochs': 3}, ValueError, 'either max_iters or max_epochs, got'),
        ({'train_cfg.max_iters': '8'}, ValueError, "train_cfg.max_iters must be an integer or None, got '8'"),
        ({'train_cfg.stages': True}, ValueError, "train_cfg.stages is no argument of DistillLoop: did you mean 'stag"),
        ({'train_cfg.staged': 'yes'}, ValueError, "train_cfg.staged must be True or False, got 'yes'"),
        ({'train_cfg.log_interval': 0}, ValueError, 'train_cfg.log_interval must be a positive integer, got 0'),
        ({'model.sample': 'fair'}, ValueError, "model.sample is no argument of BlockDistiller: did you mean 'sam"),
        ({'model.input_size': 32}, ValueError, r'model.input_size must be tuple\[int, int\], got 32'),
        ({'model.teacher.backbon': 1}, ValueError, "keys of teacher must be among .* got 'backbon'"),
        ({'optim_wrapper.blocks': {'7th': {}}}, ValueError, "optim_wrapper.blocks must have indices .* got '7th'"),
    ],
)
def test_a_config_is_checked_before_it_runs(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    ordinary(tmp_path)
    with pytest.raises(error, match=message):
        check_config(tiny_distill.config(tmp_path, **changes))


def test_a_seed_that_is_to_be_remapped_after_the_search_is_checked_before_it(tmp_path: Path) -> None:
    cfg = ordinary(tmp_path)
    seed = dict(arch=tiny_distill.TEACHER, checkpoint=str(tmp_path / 'missing.pth'))
    cfg.model.backbone.init_cfg = dict(type='mmnas_ext.Remapped', seed=seed)
    (tmp_path / 'ordinary.py').write_text(cfg.pretty_text)
    derived = dict(config='ordinary.py', weights='remapped')
    with pytest.raises(FileNotFoundError, match='missing.pth'):
        check_config(tiny_distill.config(tmp_path, derived=derived))
    check_config(tiny_distill.config(tmp_path, derived=derived), search_only=True)


def test_a_teacher_that_teaches_nothing_is_met_before_the_run(tmp_path: Path) -> None:
    file = tiny_distill.teacher_file(tmp_path)
    weights = torch.load(file, weights_only=True)
    weights['stages.2.0.project.bn.weight'].zero_()
    torch.save(weights, file)
    with pytest.raises(ValueError, match=r"model.teacher: the teacher's feature 'stages.2.0' .* nothing to learn"):
        check_config(tiny_distill.config(tmp_path))
    assert not (tmp_path / 'work').exists()
