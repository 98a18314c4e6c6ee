"""Two processes that share the blocks out end with what one process ends with; a checkpoint holds all of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmnas_ext.engine.distill import SameForAll
from mmnas_ext.registry import MODELS
from mmnas_ext.runs.distillation import rate_checkpoint
from mmnas_ext.runs.run import run
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.search.ratings import Ratings
from tests.engine import tiny_distill, tiny_seg
from tests.engine.kept import differences, last_checkpoint, loaded
from tests.engine.test_ddp import DISTRIBUTED, both_ranks

GLOO = {'launcher': 'pytorch', 'env_cfg': {'dist_cfg': {'backend': 'gloo'}}}
# a learning rate that follows the batch, which two processes on the same images do not enlarge; batch norms of the
# teacher that follow it too
TRAIN_MODE = {'model.teacher.train_mode': True}
SETTINGS = {'auto_scale_lr': dict(enable=True, base_batch_size=8), **TRAIN_MODE}


def shared(folder: str, max_iters: int = 6, **changes: Any) -> None:
    """A run in which every process trains blocks of its own."""
    torch.set_num_threads(1)
    cfg = tiny_distill.config(Path(folder), max_iters, **{'model.block_parallel': True, **GLOO, **SETTINGS, **changes})
    run(cfg, resume=Path(cfg.work_dir, 'run.json').exists())


def interrupted(folder: str) -> None:
    """The same, ended before its fifth iteration."""
    stop = dict(
        custom_imports=dict(imports=['tests.engine.tiny_seg']), custom_hooks=[dict(type='StopVisualizationHook', at=4)]
    )
    with pytest.raises(tiny_seg.KilledError):
        shared(folder, **stop)


@pytest.fixture(scope='module')
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('both')
    tiny_distill.config(folder)  # makes the images once
    both_ranks(shared, str(folder), tmp_path=folder)
    return folder / 'work'


def test_two_processes_end_as_one_does(both: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    run(tiny_distill.config(tmp_path, 6, **SETTINGS))
    (name, ours), (_, theirs) = last_checkpoint(tmp_path / 'work'), last_checkpoint(both)
    assert name == 'iter_6.pth'
    for key in ('state_dict', 'optimizer'):
        assert differences(ours[key], theirs[key]) == []
    for file in ('ratings.json', 'front.json'):
        assert (tmp_path / 'work' / file).read_text() == (both / file).read_text()


def test_the_log_has_every_block(both: Path) -> None:
    files = sorted(both.glob('*/vis_data/scalars.json'))
    last = [json.loads(line) for file in files for line in file.read_text().splitlines()][-1]
    assert {'loss_block0', 'loss_block1'} <= last.keys()


def test_a_checkpoint_on_the_way_goes_on_to_the_same_end(both: Path, tmp_path: Path) -> None:
    tiny_distill.config(tmp_path)
    both_ranks(interrupted, str(tmp_path), tmp_path=tmp_path)
    assert last_checkpoint(tmp_path / 'work')[0] == 'iter_3.pth'
    both_ranks(shared, str(tmp_path), tmp_path=tmp_path)
    kept = [loaded(folder / 'iter_6.pth') for folder in (both, tmp_path / 'work')]
    for key in ('state_dict', 'optimizer'):
        assert differences(kept[0][key], kept[1][key]) == []


def averaged(folder: str) -> None:
    """A run in which every process trains all blocks on its own share of the images, gradients averaged."""
    torch.set_num_threads(1)
    run(tiny_distill.config(Path(folder), 4, **DISTRIBUTED, **TRAIN_MODE))


def test_gradients_can_be_averaged_instead_and_rating_is_shared_out(tmp_path: Path) -> None:
    tiny_distill.config(tmp_path)
    both_ranks(averaged, str(tmp_path), tmp_path=tmp_path)
    assert last_checkpoint(tmp_path / 'work')[1]['state_dict']['steps'].tolist() == [4, 4]
    parts = {path.name: path.read_text().splitlines() for path in sorted((tmp_path / 'work' / 'ratings').iterdir())}
    assert [len(lines) for name, lines in parts.items() if 'front' not in name] == [2, 1]  # three cells, a piece each
    measured = [len(lines) for name, lines in parts.items() if 'front' in name]
    front = MeasuredFront.parse(tmp_path / 'work')
    assert (sum(measured), measured[0] - measured[1] in (0, 1)) == (len(front.points), True)
    cfg = tiny_distill.config(tmp_path, 4, work_dir=str(tmp_path / 'alone'), **TRAIN_MODE)
    rate_checkpoint(cfg, [tmp_path / 'work' / 'iter_4.pth'])
    assert MeasuredFront.parse(tmp_path / 'alone') == front
    ours, theirs = (Ratings.parse(tmp_path / name / 'ratings.json') for name in ('work', 'alone'))
    for a, b in zip(ours.blocks, theirs.blocks, strict=True):
        assert [c.ratings for c in a.cells] == [c.ratings for c in b.cells]


def test_more_processes_than_blocks_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr('mmnas_ext.distill.distiller.get_world_size', lambda: 3)
    with pytest.raises(ValueError, match='got 2 blocks and 3 processes'):
        MODELS.build({**tiny_distill.config(tmp_path).model, 'block_parallel': True})


def test_the_sampler_gives_every_process_the_same_images(monkeypatch: Any) -> None:
    orders = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dist.get_rank', lambda rank=rank: rank)
        sampler = SameForAll(range(10), seed=3)
        first = list(sampler)
        sampler.set_epoch(1)
        orders.append((first, list(sampler)))
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]
    assert sorted(orders[0][0]) == list(range(10)) == list(SameForAll(range(10), shuffle=False))
    assert len(SameForAll(range(10))) == 10
