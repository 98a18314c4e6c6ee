"""Times the exact front, beside the same merge in plain Python where that ends in reasonable time.

Run: python benchmarks/front.py [--repeats 5]

The case is a search problem of DNA's size (5 blocks, up to 1296 paths each); its larger relatives repeat each block's
paths, or the blocks, ten times with figures moved at random by up to a tenth. Prints a table of medians.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmnas_ext.search import front

CASE = Path(__file__).parents[1] / 'tests' / 'golden' / 'dna_traversal_case.json'
Pairs = list[tuple[int, float]]


def _case() -> list[Pairs]:
    blocks = []
    for block in json.loads(CASE.read_text()):
        costs = (sum(path) for path in product(*block['table']))
        blocks.append(list(zip(costs, block['loss'], strict=True)))
    return blocks


def _moved(block: Pairs, times: int, rng: np.random.Generator) -> Pairs:
    """The block's entries `times` over, cost and rating moved by up to a tenth."""
    figures = np.tile(np.array(block, float), (times, 1))
    figures *= rng.uniform(0.9, 1.1, figures.shape)
    return [(round(cost), rating) for cost, rating in figures.tolist()]


def _random_blocks(blocks: int, entries: int, rng: np.random.Generator) -> list[Pairs]:
    """Blocks whose ratings fall with cost, as networks' do, plus noise; costs up to 30000 kMACs."""
    costs: NDArray[Any] = rng.integers(1000, 30000, (blocks, entries))
    ratings = 0.8 * (1 - costs / 30000) + 0.2 * rng.random((blocks, entries))
    return [list(zip(*pair, strict=True)) for pair in zip(costs.tolist(), ratings.tolist(), strict=True)]


def plain_front(blocks: list[Pairs]) -> list[tuple[int, float, tuple[int, ...]]]:
    """The same front, written the obvious way: every sum of a merge in one sorted list."""
    points: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
    for block in blocks:
        sums = [(c + cost, r + rating, (*ch, i)) for c, r, ch in points for i, (cost, rating) in enumerate(block)]
        points = []
        for point in sorted(sums):
            if not points or point[1] < points[-1][1]:
                points.append(point)
    return points


def _median(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), result


def _line(name: str, blocks: list[Pairs], repeats: int, plain: bool) -> str:
    seconds, found = _median(lambda: front(blocks), repeats)
    beside = '-', '-'
    if plain:
        plain_seconds, points = _median(lambda: plain_front(blocks), 1)
        if [list(point[2]) for point in points] != found.choices.tolist():
            raise RuntimeError(f'{name}: the plain merge finds another front')
        beside = f'{1e3 * plain_seconds:.1f}', f'{seconds / plain_seconds:.4f}'
    paths = sum(len(block) for block in blocks)
    return (
        f'{name:<34} {len(blocks):>6} {paths:>8} {len(found):>8} {1e3 * seconds:>10.1f} {beside[0]:>10} {beside[1]:>8}'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description='Times the exact front of cost and rating.')
    parser.add_argument('--repeats', type=int, default=5, help='runs per line, of which the median is printed')
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    case = _case()
    problems = [
        ('DNA case', case, True),
        ('DNA case, 10x paths per block', [_moved(block, 10, rng) for block in case], False),
        ('DNA case, 10x blocks of 36 paths', [_moved(case[0], 1, rng) for _ in range(50)], False),
        ('6 blocks of 1296 paths', _random_blocks(6, 1296, rng), False),
        ('21 layers of 7 candidates', _random_blocks(21, 7, rng), True),
        ('60 layers of 7 candidates', _random_blocks(60, 7, rng), False),
    ]
    print(f'Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}; median of {repeats}')
    print(f'{"problem":<34} {"blocks":>6} {"entries":>8} {"points":>8} {"front ms":>10} {"plain ms":>10} {"ratio":>8}')
    for name, blocks, plain in problems:
        print(_line(name, blocks, repeats, plain))


if __name__ == '__main__':
    main()
