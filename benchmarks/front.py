"""Times the exact front, and the same merge in plain Python where this ends in reasonable time.

Run: python benchmarks/front.py [--repeats 5]

The case is a search problem of DNA's size (5 blocks, up to 1296 paths each). The larger problems repeat each block's
paths, or the blocks, ten times with numbers changed at random by up to a tenth. Prints a table of medians.

A second table has the case with cells of several depths and widths, ten times its entries, whose costs depend on the
input width: the front of each metric, and the search under limits on all three. Costs in MACs are those of the case,
scaled by the widths; parameters follow from each block's resolution; latencies are MACs at speeds drawn per candidate.
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

from mmnas_ext.search import Links, best_within, chain_front, front

NAMES = ('kMACs', 'params', 'ms')
# the cells of each block by problem: number of layers fewer than in the case, and width as a share of the case's
CELLS = {
    '1 cell': [(0, 1.0)],
    '3 cells, 2 widths': [(0, 1.0), (1, 1.0), (1, 0.75)],
    '5 cells, 3 widths': [(0, 1.0), (0, 0.75), (0, 1.25), (1, 0.75), (1, 1.0)],
}
# pixels of each block's features at 224 x 224
AREAS = (56**2, 28**2, 14**2, 14**2, 7**2)
# shares of the range from the cheapest chain to the chain with the best rating
LIMITS = {'loose': (0.6, 0.9, 0.9), 'middle': (0.3, 0.1, 0.2), 'tight': (0.05, 0.01, 0.04)}
CASE = Path(__file__).parents[1] / 'tests' / 'golden' / 'dna_traversal_case.json'
Pairs = list[tuple[int, float]]


def _case() -> list[Pairs]:
    blocks = []
    for block in json.loads(CASE.read_text()):
        costs = (sum(path) for path in product(*block['table']))
        blocks.append(list(zip(costs, block['loss'], strict=True)))
    return blocks


def _move(block: Pairs, times: int, rng: np.random.Generator) -> Pairs:
    """Repeats the block's entries `times` times, with cost and rating changed by up to a tenth."""
    figures = np.tile(np.array(block, float), (times, 1))
    figures *= rng.uniform(0.9, 1.1, figures.shape)
    return [(round(cost), rating) for cost, rating in figures.tolist()]


def _random_blocks(blocks: int, entries: int, rng: np.random.Generator) -> list[Pairs]:
    """Draws blocks whose ratings fall with cost, as those of networks do, plus noise; costs up to 30000 kMACs."""
    costs: NDArray[Any] = rng.integers(1000, 30000, (blocks, entries))
    ratings = 0.8 * (1 - costs / 30000) + 0.2 * rng.random((blocks, entries))
    return [list(zip(*pair, strict=True)) for pair in zip(costs.tolist(), ratings.tolist(), strict=True)]


def plain_front(blocks: list[Pairs]) -> list[tuple[int, float, tuple[int, ...]]]:
    """Computes the same front in the obvious way: all sums of a merge in one sorted list."""
    points: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
    for block in blocks:
        sums = [(c + cost, r + rating, (*ch, i)) for c, r, ch in points for i, (cost, rating) in enumerate(block)]
        points = []
        for point in sorted(sums):
            if not points or point[1] < points[-1][1]:
                points.append(point)
    return points


def _cells(cells: list[tuple[int, float]], rng: np.random.Generator) -> list[Links]:
    """Makes the case with several cells per block; a path's rating is the same for every input width.

    Fewer and narrower layers have worse ratings, and all ratings are changed by up to a tenth.
    """
    blocks = []
    widths = [1.0]
    for area, block in zip(AREAS, json.loads(CASE.read_text()), strict=True):
        table = np.array(block['table'], float)
        speeds = rng.uniform(10_000, 40_000, table.shape)
        losses = np.array(block['loss']).reshape([table.shape[1]] * len(table))
        parts = []
        for fewer, width in cells:
            depth = max(1, len(table) - fewer)
            # a path without the last layers has the mean rating of the paths that begin with it
            rated = losses.mean(axis=tuple(range(depth, len(table)))).ravel() * (1.05**fewer / width**0.2)
            rated *= rng.uniform(0.9, 1.1, len(rated))
            for enters in widths:
                scales = np.full((depth, 1), width**2)
                scales[0] = enters * (enters + width) / 2
                layers = table[:depth] * scales
                paths = np.array(list(product(range(layers.shape[1]), repeat=depth)))
                sums = [figures[np.arange(depth), paths].sum(axis=1) for figures in (layers, layers / speeds[:depth])]
                parts.append((sums[0].round(), (1000 * sums[0] / area).round(), sums[1], rated, enters, width))
        counts = [len(part[3]) for part in parts]
        macs, params, ms, ratings = (np.concatenate([part[place] for part in parts]) for place in range(4))
        ends = (np.repeat([part[place] for part in parts], counts) for place in (4, 5))
        blocks.append(Links((macs.astype(int), params.astype(int), ms), ratings, *ends))
        widths = sorted({width for _, width in cells})
    return blocks


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


def _cell_lines(name: str, blocks: list[Links], repeats: int) -> list[str]:
    """Measures one line per metric's front, and one per set of limits on all metrics."""
    entries = sum(len(block.ratings) for block in blocks)
    start = f'{name:<20} {entries:>8}'
    lines = []
    ranges = []
    for metric, word in enumerate(NAMES):
        seconds, found = _median(lambda metric=metric: chain_front(blocks, metric), repeats)
        lines.append(f'{start} {"front of " + word:<24} {len(found):>8} {1e3 * seconds:>10.1f}')
        # up to the best rating: a higher limit has no effect
        ranges.append((found.costs[0].item(), found.costs[-1].item()))
    for word, shares in LIMITS.items():
        limits = [low + share * (high - low) for share, (low, high) in zip(shares, ranges, strict=True)]
        seconds, best = _median(lambda limits=limits: best_within(blocks, limits, NAMES), repeats)
        lines.append(f'{start} {"best of 3 limits, " + word:<24} {best.rating:>8.4f} {1e3 * seconds:>10.1f}')
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description='Times the exact front of cost and rating.')
    parser.add_argument('--repeats', type=int, default=5, help='runs per line, of which the median is printed')
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    case = _case()
    problems = [
        ('DNA case', case, True),
        ('DNA case, 10x paths per block', [_move(block, 10, rng) for block in case], False),
        ('DNA case, 10x blocks of 36 paths', [_move(case[0], 1, rng) for _ in range(50)], False),
        ('6 blocks of 1296 paths', _random_blocks(6, 1296, rng), False),
        ('21 layers of 7 candidates', _random_blocks(21, 7, rng), True),
        ('60 layers of 7 candidates', _random_blocks(60, 7, rng), False),
    ]
    print(f'Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}; median of {repeats}')
    print(f'{"problem":<34} {"blocks":>6} {"entries":>8} {"points":>8} {"front ms":>10} {"plain ms":>10} {"ratio":>8}')
    for name, blocks, plain in problems:
        print(_line(name, blocks, repeats, plain))
    print(f'\n{"cells per block":<20} {"entries":>8} {"search":<24} {"result":>8} {"ms":>10}   (points or rating)')
    for name, cells in CELLS.items():
        for line in _cell_lines(name, _cells(cells, np.random.default_rng(0)), repeats):
            print(line)


if __name__ == '__main__':
    main()
