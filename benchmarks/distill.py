"""Times distillation: all blocks in one pass beside staged training, and two processes with blocks of their own.

Run: python benchmarks/distill.py [--steps 8] [--rounds 3]

One pass trains every block in each step, with one teacher forward. Staged training, as the authors do it, trains one
block after the other. If the teacher's stages are known by name, it runs the teacher up to the block's end only, or
else completely. Both make the same number of updates of each block, on the same paths. Images are random and in memory:
staged training must read them again for every block, which is not counted. The second table compares
``block_parallel`` in two processes with one thread each to one process with one thread. Prints two tables.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmnas_ext.distill import BlockDistiller
from mmnas_ext.engine.block_optim import BlockOptimWrapper, BlockOptimWrapperConstructor

LITE0: dict[str, Any] = dict(
    backbone=dict(type='mmnas_ext.MBNet', arch='efficientnet_lite0', out_indices=(6,)), channels_last=True
)
# time does not depend on weights, so none are downloaded
CASES: dict[str, dict[str, Any]] = {
    'EfficientNet-Lite0, space dna_lite': dict(teacher=LITE0, space='dna_lite'),
    'EfficientNet-Lite0 without named stages, space dna_lite': dict(
        teacher=dict(backbone=dict(LITE0['backbone'], out_indices=(1, 2, 3, 4, 5, 6)), taps=[], channels_last=True),
        space='dna_lite',
    ),
    'EfficientNet-B3, space dna': dict(teacher=dict(timm='efficientnet_b3', channels_last=True), space='dna'),
}
SIZE = (128, 128)
BATCH = 16


def _build(case: str, **kwargs: Any) -> tuple[BlockDistiller, BlockOptimWrapper, Tensor]:
    torch.manual_seed(0)
    distiller = BlockDistiller(**CASES[case], input_size=SIZE, channels_last=True, **kwargs)
    distiller.init_weights()
    distiller.train()
    images = torch.randn(BATCH, 3, *SIZE)
    distiller.calibrate([images])
    wrapper = BlockOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=1e-3)))(distiller)
    return distiller, wrapper, images


def _step(built: tuple[BlockDistiller, BlockOptimWrapper, Tensor], number: int, active: Sequence[int] | None) -> None:
    distiller, wrapper, images = built
    distiller.start(number, 0, active)
    losses = distiller(images, mode='loss')
    wrapper.update_params(torch.stack(list(losses.values())).sum())


def _staged_and_one_pass(case: str, steps: int, rounds: int) -> tuple[float, float]:
    """Measures the median seconds of `steps` updates of every block: staged, and in one pass."""
    built = _build(case)
    _step(built, 0, None)  # first calls allocate
    taken: dict[str, list[float]] = {'staged': [], 'one pass': []}
    for number in range(rounds):
        numbers = range(number * steps, (number + 1) * steps)
        start = time.perf_counter()
        for block in built[0].trained:
            for each in numbers:
                _step(built, each, (block,))
        middle = time.perf_counter()
        for each in numbers:
            _step(built, each, None)
        taken['staged'].append(middle - start)
        taken['one pass'].append(time.perf_counter() - middle)
    return statistics.median(taken['staged']), statistics.median(taken['one pass'])


def _worker(case: str, steps: int) -> None:
    """Runs one process with `block_parallel`; the main process prints the seconds of the slowest."""
    dist.init_process_group('gloo')
    built = _build(case, block_parallel=True)
    _step(built, 0, None)
    dist.barrier()
    start = time.perf_counter()
    for number in range(steps):
        _step(built, number, None)
    taken = torch.tensor(time.perf_counter() - start)
    dist.all_reduce(taken, dist.ReduceOp.MAX)
    if dist.get_rank() == 0:
        print(f'seconds {taken.item()}', flush=True)
    dist.destroy_process_group()


def _processes(case: str, steps: int, ranks: int) -> float:
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}', __file__]
    env = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).parents[1]))
    command += ['--worker', case, '--steps', str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith('seconds '))
    return float(line.split()[1])


def main() -> None:
    """Measures and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=8, help='updates of every block in a round')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        torch.set_num_threads(1)
        _worker(args.worker, args.steps)
        return
    torch.set_num_threads(args.threads)
    images = f'{BATCH} images of {SIZE[0]}x{SIZE[1]}'
    print(f'{platform.machine()}, {args.threads} threads, {images}, PyTorch {torch.__version__}\n')
    print(f'| teacher, space | {args.steps} updates of every block, staged | one pass | ratio |')
    print('| --- | ---: | ---: | ---: |')
    for case in CASES:
        staged, one = _staged_and_one_pass(case, args.steps, args.rounds)
        print(f'| {case} | {staged:.2f} s | {one:.2f} s | {one / staged:.2f} (at most 0.60) |', flush=True)
    print('\n| teacher, space | one process | two processes, block_parallel | throughput |')
    print('| --- | ---: | ---: | ---: |')
    for case in list(CASES)[:1]:
        pairs = [tuple(_processes(case, 3 * args.steps, ranks) for ranks in (1, 2)) for _ in range(args.rounds)]
        one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f'| {case} | {one:.2f} s | {two:.2f} s | {one / two:.2f} (at least 1.7) |', flush=True)


if __name__ == '__main__':
    main()
