"""What OpenMMLab's two lines do otherwise: each difference is there where its name says so, and is met."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, IterBasedTrainLoop, Runner

from mmnas_ext import upstream
from mmnas_ext.install_check import FROZEN, find_installed
from mmnas_ext.remap.loading import safe_loading
from tests.engine import tiny_seg

SEARCH = tiny_seg.search_changes()


class Stream:
    """Endless numbers that can be skipped."""

    def __init__(self) -> None:
        self.position, self.skipped = 0, []

    def __next__(self) -> int:
        self.position += 1
        return self.position - 1

    def skip_iter(self, position: int) -> None:
        self.skipped.append(position)
        self.position = position


def test_one_line_is_installed_and_the_flag_says_which() -> None:
    lines = [line for line, modules in find_installed().items() if modules]
    assert len(lines) == 1
    assert (lines == [FROZEN]) == upstream.IS_FROZEN


def test_mmengines_own_reader_refuses_its_trainings_where_it_is_said_to(tmp_path: Path) -> None:
    """The effect that the name stands for; our reader reads them on both lines."""
    content = dict(
        state_dict=dict(a=torch.ones(2)), message_hub=dict(loss=HistoryBuffer([0.5], [1])), meta=dict(iter=3)
    )
    file = tmp_path / 'iter_3.pth'
    torch.save(content, file)
    if upstream.READS_TRAININGS:
        assert CheckpointLoader.load_checkpoint(str(file))['meta'] == dict(iter=3)
    else:
        with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
            CheckpointLoader.load_checkpoint(str(file))
    with safe_loading():
        found = CheckpointLoader.load_checkpoint(str(file))
    assert found['meta'] == dict(iter=3)
    assert found['message_hub']['loss'].data[0].tolist() == [0.5]


@pytest.mark.parametrize('changes', [{}, SEARCH], ids=['training', 'search'])
def test_building_a_loop_reads_nothing_and_leaves_the_random_state(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are initialised from this state next: with one seed they are the same on both lines."""
    runner = Runner.from_cfg(tiny_seg.training_cfg(tmp_path, **changes))
    begun: list[Any] = []
    begin = torch.utils.data.DataLoader.__iter__
    monkeypatch.setattr(torch.utils.data.DataLoader, '__iter__', lambda self: begun.append(self) or begin(self))
    before = torch.random.get_rng_state()
    loop = runner.build_train_loop(runner.cfg.train_cfg)
    assert isinstance(loop, IterBasedTrainLoop)
    assert torch.equal(before, torch.random.get_rng_state()) and begun == []
    assert loop.dataloader.batch_size == 2
    next(loop.dataloader_iterator)
    assert len(begun) == 1


def test_what_was_trained_on_is_skipped_at_once_where_mmengine_asks_for_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, 'SKIPS_TO_RESUME', False)
    stream = Stream()
    read = upstream.resumable(stream, 70_000)
    assert stream.skipped == []
    assert [next(read) for _ in range(70_000)] == [None] * 70_000
    assert stream.skipped == [70_000]
    assert [next(read) for _ in range(3)] == [70_000, 70_001, 70_002]
    assert upstream.resumable(stream, 0) is stream
    monkeypatch.setattr(upstream, 'SKIPS_TO_RESUME', True)
    assert upstream.resumable(stream, 5) is stream
