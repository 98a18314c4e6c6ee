"""What a long run may not gather: the benchmark's own counting, for a few iterations, and with a leak of each kind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from benchmarks import long_runs
from benchmarks.long_runs import BOUNDS, Sample, growth, row, sampled
from tests.engine import tiny
from tests.engine.kept import train

ROOT = Path(__file__).parents[2]


@HOOKS.register_module()
class LeakHook(Hook):
    """Keeps a descriptor and a tensor of every iteration."""

    kept: list[Any] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.kept += [os.open(os.devnull, os.O_RDONLY), torch.ones(1)]


@pytest.fixture
def leaked() -> Iterator[list[Any]]:
    LeakHook.kept.clear()
    yield LeakHook.kept
    for each in LeakHook.kept:
        if isinstance(each, int):
            os.close(each)
    LeakHook.kept.clear()


@pytest.mark.parametrize('leaks', [(), ('objects', 'descriptors')])
def test_a_search_gathers_nothing_and_a_leak_is_seen(tmp_path: Path, leaked: list[Any], leaks: tuple[str, ...]) -> None:
    """Weight and arch steps, checkpoints and TensorBoard; 60 iterations, of which the last 45 count."""
    cfg = tiny.search_cfg(tmp_path, 'iter', **{
        'train_cfg.max_iters': 60, 'train_dataloader.sampler.type': 'InfiniteSampler', 'custom_hooks.1.interval': 5,
    })  # fmt: skip
    cfg = long_runs._watched(cfg, 10)
    cfg.custom_hooks = [*cfg.custom_hooks, *([dict(type='LeakHook')] if leaks else [])]
    with sampled(every=5) as taken:
        train(cfg)
    assert [each.steps for each in taken] == list(range(5, 65, 5))
    beyond = {name for name in ('objects', 'descriptors', 'threads') if growth(taken)[name] > BOUNDS[name]}
    assert beyond == set(leaks), growth(taken)
    assert len(leaked) == (120 if leaks else 0)


def test_growth_is_that_of_a_thousand_steps_behind_the_first_quarter() -> None:
    # by hand: 3 objects and half a megabyte a step; a jump at first, and one worker that has ended, do not count
    samples = [
        Sample(step, 100 + step / 2 - 50 * (step < 3), float('nan') if step == 7 else 5.0, 3 * step, 9, 1)
        for step in range(12)
    ]
    assert growth(samples) == pytest.approx(
        {'memory': 500.0, 'workers': 0.0, 'objects': 3000.0, 'descriptors': 0.0, 'threads': 0.0}, abs=1e-6
    )
    text, beyond = row('loop', samples, 2.0)
    assert text.startswith('| loop | 11 | 50 to 106 | +500.00 | +0.00 | +3000.0 | ')
    assert beyond == [
        'loop: memory grows by 500.00 in 1000 iterations, at most 2.0 is allowed',
        'loop: objects grows by 3000.00 in 1000 iterations, at most 300.0 is allowed',
    ]
    with pytest.raises(ValueError, match='growth needs at least 8 samples, got 7'):
        growth(samples[:7])


# what other tests have left open, or the allocator still holds, would be counted along: a process of its own
COUNTED = """
import mmap
from benchmarks.long_runs import sample
sample(0)
before = sample(0)
held = [open('/dev/null') for _ in range(3)]
kept = [[] for _ in range(1000)]
block = mmap.mmap(-1, 50 * 2**20)
block.write(b'x' * len(block))
after = sample(1)
print(*(getattr(after, name) - getattr(before, name) for name in ('descriptors', 'objects', 'memory')))
"""


def test_what_is_counted_is_what_there_is() -> None:
    # a C library that is told to keep freed memory grows by what importing has freed
    environ = {name: value for name, value in os.environ.items() if not name.startswith('MALLOC_')}
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', COUNTED], cwd=ROOT, capture_output=True, text=True, timeout=240,
        check=False, env=environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    descriptors, objects, memory = map(float, done.stdout.split()[-3:])
    assert descriptors == 3
    assert 950 < objects < 1100  # a few of Python's own come and go
    assert 45 < memory < 60
