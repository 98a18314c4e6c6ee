"""Runs each loop for 2000 iterations on tiny networks, and says what grows: memory, objects, descriptors, threads.

Run: python benchmarks/long_runs.py [--iterations 2000] [--every 100] [--only search ...]

Every loop runs in a process of its own, with loader workers, validation, checkpoints and TensorBoard where it has them.
Every so many iterations, of whatever loop, it is counted: resident memory of the process and of its workers, objects
that Python's collector knows (tensors are among them), open descriptors, threads. What grows is the slope of a line
through the samples behind the first quarter. Prints a table; ends with status 1 where something grows beyond `BOUNDS`.
"""

import argparse
import gc
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmnas_ext.engine.stalls import STEPS  # noqa: E402
from mmnas_ext.runs.run import run  # noqa: E402
from tests.engine import tiny, tiny_distill, tiny_seg, tiny_trials  # noqa: E402

_PAGE = os.sysconf('SC_PAGE_SIZE') / 2**20
WARM = 0.25  # of the samples: allocators and caches fill
HELD_OUT = 300  # batches of two images that losses are measured on


@dataclass(frozen=True)
class Sample:
    """What a process holds.

    Args:
        steps: Iterations that it has made.
        memory: Resident memory, MB.
        workers: That of its children, MB: the mean, since their number changes.
        objects: Those that Python's collector knows, those frozen at the start excepted.
        descriptors: Open ones.
        threads: Of the process.
    """

    steps: int
    memory: float
    workers: float
    objects: int
    descriptors: int
    threads: int


# what may grow in a thousand iterations. One leaked object an iteration would be 1000
BOUNDS = {'memory': 2.0, 'workers': 2.0, 'objects': 300.0, 'descriptors': 0.5, 'threads': 0.5}


def sample(steps: int) -> Sample:
    """Counts what this process holds now."""
    gc.collect()
    children = [_memory(child.pid) for child in multiprocessing.active_children()]
    workers = float(np.mean(children)) if children else float('nan')
    descriptors, threads = (len(os.listdir(f'/proc/self/{name}')) for name in ('fd', 'task'))
    return Sample(steps, _memory(os.getpid()), workers, len(gc.get_objects()), descriptors, threads)


def _memory(pid: int | None) -> float:
    try:
        return int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * _PAGE
    except OSError:  # it has just ended
        return float('nan')


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """What grows in a thousand steps, by name: the slope of a line through the samples behind the first quarter.

    Raises:
        ValueError: There are fewer than eight samples.
    """
    if len(samples) < 8:
        raise ValueError(f'growth needs at least 8 samples, got {len(samples)}')
    late = samples[int(WARM * len(samples)) :]
    found = {}
    for name in BOUNDS:
        rows = np.array([(each.steps, getattr(each, name)) for each in late], dtype=float)
        rows = rows[~np.isnan(rows[:, 1])]
        found[name] = float(np.polyfit(*rows.T, 1)[0] * 1000) if len(rows) > 2 else 0.0
    return found


@contextmanager
def sampled(every: int) -> Iterator[list[Sample]]:
    """Takes a sample every so many steps, of whatever loop; gives the list that they go to."""
    taken: list[Sample] = []
    begun = STEPS.count
    kept = type(STEPS).add

    def add(steps: Any) -> None:
        kept(steps)
        if (steps.count - begun) % every == 0:
            taken.append(sample(steps.count - begun))

    gc.collect()
    gc.freeze()
    type(STEPS).add = add  # type: ignore[method-assign]
    try:
        yield taken
    finally:
        type(STEPS).add = kept  # type: ignore[method-assign]
        gc.unfreeze()


def _watched(cfg: Config, checkpoint: int) -> Config:
    """With TensorBoard, and a checkpoint every so many iterations or epochs."""
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    cfg.visualizer = dict(type='Visualizer', vis_backends=backends)
    cfg.default_hooks.checkpoint.update(interval=checkpoint, max_keep_ckpts=2)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=10)
    return cfg


def _search(folder: Path, iterations: int, **changes: Any) -> Config:
    """Epochs of 20 iterations with an arch step each from the first epoch on; two workers at a time."""
    epochs = max(2, iterations // 20)
    cfg = tiny.search_cfg(folder / 'work', workers=1, **{
        'train_dataloader.dataset.count': 80, 'train_cfg.max_epochs': epochs, 'custom_hooks.1.interval': 20, **changes,
    })  # fmt: skip
    return _watched(cfg, 10)


def _with_validation(folder: Path, iterations: int, held_out: int) -> Config:
    """A search, and held-out images with a metric."""
    cfg = tiny_trials.random_cfg(folder / 'work', **{
        'train_dataloader.dataset.count': 80, 'train_dataloader.num_workers': 1,
        'val_dataloader.num_workers': 1, 'val_dataloader.dataset.count': held_out, 'val_dataloader.batch_size': 2,
        'derived.train_cfg.max_epochs': max(2, iterations // 40), 'derived.train_cfg.val_interval': 5,
    })  # fmt: skip
    return _watched(cfg, 10)


def search(folder: Path, iterations: int) -> None:
    """Weight and arch steps, by epochs."""
    run(_search(folder, iterations), search_only=True)


def search_iters(folder: Path, iterations: int) -> None:
    """Weight and arch steps, by iterations: each worker lives as long as the run, its half having an image a step."""
    cfg = tiny.search_cfg(folder / 'work', 'iter', workers=1, **{
        'train_cfg.max_iters': iterations, 'train_dataloader.sampler.type': 'InfiniteSampler',
        'train_dataloader.dataset.count': 4 * iterations, 'custom_hooks.1.interval': 20,
    })  # fmt: skip
    run(_watched(cfg, 200), search_only=True)


def gathered(folder: Path, iterations: int) -> None:
    """Gradients of three batches for an update of the weights, of two for one of alpha."""
    counts = {'optim_wrapper.weights.accumulative_counts': 3, 'optim_wrapper.arch.accumulative_counts': 2}
    run(_search(folder, iterations, **counts), search_only=True)


def adaptation(folder: Path, iterations: int) -> None:
    """The training of a given network by epochs, with validation."""
    cfg = _with_validation(folder, iterations, held_out=6)
    cfg.pop('random_search')
    run(cfg, arch=tiny.SPACE.arch(tiny_trials.PATHS[0]).format('fna'))


def adaptation_iters(folder: Path, iterations: int) -> None:
    """A training by iterations of a segmentor."""
    cfg = tiny_seg.training_cfg(folder / 'work', workers=1, **{'train_cfg.max_iters': iterations})
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=10)
    run(_watched(cfg, 200))


def distillation(folder: Path, iterations: int) -> None:
    """Blocks that imitate a teacher, a new worker every twelve iterations; then the few paths are rated."""
    run(_watched(_distillation(folder, iterations, 1, **{'train_dataloader.batch_size': 1}), 200))


def rating(folder: Path, iterations: int) -> None:
    """Every path of a distillation is rated, again and again while it is trained: about half of the steps.

    Without workers: the few images of a rating take less time than the six workers that it would start.
    """
    # the pieces of the cells, and some networks of the front, which are measured as wholes
    steps = len(tiny_distill.PATHS) + 1 + 4
    run(_watched(_distillation(folder, iterations // 2, 0, **{'train_cfg.val_interval': steps}), 200))


def _distillation(folder: Path, iterations: int, workers: int, **changes: Any) -> Config:
    loader = {'num_workers': workers, 'persistent_workers': workers > 0}
    loaders = {f'{name}_dataloader.{key}': value for name in ('train', 'val') for key, value in loader.items()}
    return tiny_distill.config(folder, max_iters=iterations, **loaders, **changes)


def trials(folder: Path, iterations: int) -> None:
    """Trials of a random search, each with a training and a validation of its own."""
    cfg = _with_validation(folder, iterations, held_out=6)
    cfg.random_search.update(count=7, limit=dict(max=tiny_trials.MIDDLE))
    cfg.random_search.trial.train_cfg.max_epochs = max(1, iterations // 40 // 7)
    run(cfg, search_only=True)


def selection(folder: Path, iterations: int) -> None:
    """Losses of networks on held-out batches, after a search of a few iterations."""
    cfg = _with_validation(folder, iterations, held_out=2 * HELD_OUT)
    cfg.pop('random_search')
    cfg.merge_from_dict({'train_cfg.max_epochs': 2, 'train_dataloader.dataset.count': 4 * HELD_OUT})
    cfg.optim_wrapper.cost = dict(weight=0.1, max=tiny_trials.MIDDLE)
    cfg.optim_wrapper.selection = dict(
        type='measured', first=iterations // 7, networks=5, rounds=2, batches=iterations // 7, most=iterations // 7,
        finalists=2,
    )  # fmt: skip
    run(cfg, search_only=True)


def evolution(folder: Path, iterations: int) -> None:
    """Networks that are bred, each measured by its losses."""
    cfg = _with_validation(folder, iterations, held_out=6)
    cfg.pop('random_search')
    cfg.merge_from_dict(
        {'train_cfg.max_epochs': 2, 'train_cfg.arch_start': 2, 'train_dataloader.dataset.count': 4 * HELD_OUT}
    )
    cfg.optim_wrapper.cost = dict(weight=0.1, max=sorted(map(tiny_trials.macs, tiny_trials.PATHS))[9])
    cfg.evolution = dict(
        population=3, generations=3, parents=2, batches=iterations // 10, finalists=2, final_batches=iterations // 10,
        window=0.3, seed=1,
    )  # fmt: skip
    run(cfg, search_only=True)


LOOPS: dict[str, Callable[[Path, int], None]] = {
    loop.__name__: loop
    for loop in (
        search, search_iters, gathered, adaptation, adaptation_iters,
        distillation, rating, trials, selection, evolution,
    )
}  # fmt: skip


def measure(loop: str, iterations: int, every: int) -> list[Sample]:
    """Runs a loop in a process of its own; returns its samples.

    Raises:
        RuntimeError: It failed.
    """
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(loop, iterations, every, sender))
    process.start()
    sender.close()
    try:
        rows = receiver.recv()
    except EOFError:
        raise RuntimeError(f'{loop} failed') from None
    finally:
        process.join()
    return [Sample(*row) for row in rows]


def _measure(loop: str, iterations: int, every: int, sender: Any) -> None:
    from yapf.yapflib import yapf_api

    torch.set_num_threads(1)
    yapf_api.FormatCode = lambda code, **_settings: (code, False)  # of every checkpoint's config: longer than training
    os.environ['TINY_KILL'] = '::-1'
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, 'said.txt')
        shown = os.dup(1)
        with said.open('wb') as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            with sampled(every) as taken:
                LOOPS[loop](Path(folder), iterations)
        except BaseException:
            os.write(shown, said.read_bytes()[-1000:] + traceback.format_exc().encode())
            raise
    sender.send([astuple(each) for each in taken])


def row(loop: str, samples: Sequence[Sample], seconds: float) -> tuple[str, list[str]]:
    """A row of the table, and what grows beyond its bound."""
    grown, first, last = growth(samples), samples[0], samples[-1]
    cells = [f'{grown[name]:+.{2 if name in ("memory", "workers") else 1}f}' for name in BOUNDS]
    beyond = [
        f'{loop}: {name} grows by {grown[name]:.2f} in 1000 iterations, at most {most} is allowed'
        for name, most in BOUNDS.items()
        if grown[name] > most
    ]
    held = f'{first.memory:.0f} to {last.memory:.0f}'
    return f'| {loop} | {last.steps} | {held} | {" | ".join(cells)} | {seconds:.0f} |', beyond


def main() -> None:
    """Runs the loops one after the other and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=2000, help='of each loop')
    parser.add_argument('--every', type=int, default=100, help='iterations between two samples')
    parser.add_argument('--only', nargs='+', choices=LOOPS, default=list(LOOPS), help='these loops')
    args = parser.parse_args()
    print(f'{platform.machine()}, one thread, PyTorch {torch.__version__}; growth is that of 1000 iterations\n')
    names = [field.name for field in fields(Sample)][1:]
    print(f'| loop | iterations | memory, MB | {" | ".join(names)} | s |')
    print(f'| --- {"| ---: " * (len(names) + 3)}|')
    beyond = []
    for loop in args.only:
        begun = time.monotonic()
        text, grown = row(loop, measure(loop, args.iterations, args.every), time.monotonic() - begun)
        beyond += grown
        print(text, flush=True)
    for line in beyond:
        print(f'error: {line}', file=sys.stderr)
    sys.exit(bool(beyond))


if __name__ == '__main__':
    main()
