"""Two processes check as one: they build the same, both raise if one does, and the first alone prints."""

from pathlib import Path

import torch.distributed as dist

from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.dry_run import dry_run
from mmnas_ext.runs.session import say
from tests.engine import tiny
from tests.engine.test_ddp import DISTRIBUTED, both_ranks


def check_twice(folder):
    rank = dist.get_rank()
    cfg = tiny.search_cfg(Path(folder) / 'run', **DISTRIBUTED, derived={
        **tiny.search_cfg(folder).derived.to_dict(),
    })  # fmt: skip
    plan = dry_run(cfg, check_config(cfg))
    say(f'plan: {plan}')
    Path(folder, f'plan_{rank}').write_text(plan)
    if rank:
        tiny.TinyFlip.__call__ = broken
    try:
        check_config(cfg)
    except ValueError as error:
        Path(folder, f'error_{rank}').write_text(str(error))


def broken(self, item):
    """Reads no image, as a process whose disk is gone."""
    raise OSError('no such disk')


def test_two_processes_check_as_one(tmp_path):
    both_ranks(check_twice, str(tmp_path), tmp_path=tmp_path)
    assert not (tmp_path / 'run').exists()
    plans = [(tmp_path / f'plan_{rank}').read_text() for rank in range(2)]
    assert all('in batches of 2 on each of 2 processes; 8 iterations' in plan for plan in plans)
    assert [(tmp_path / f'rank_{rank}.txt').read_text().count('plan: ') for rank in range(2)] == [1, 0]
    ours, theirs = ((tmp_path / f'error_{rank}').read_text() for rank in (1, 0))
    assert 'no such disk' in ours
    assert theirs == f'another process: {ours}'
