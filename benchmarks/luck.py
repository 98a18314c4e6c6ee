"""How often luck replaces the seed in a choice by losses, among networks that are all worth the same.

    python benchmarks/luck.py --batches 1 2 3 24 --choices 100

Losses are drawn from the noise that the choice itself assumes: of each network, the seed's among them, and of each
candidate of a layer on each batch. Whatever is found to be better is so by luck; settings are the defaults of
``selection=dict(type='measured')``, with no more batches than are said. No super-network and no images are needed.
"""

import argparse
from collections.abc import Sequence
from functools import cache

import numpy as np

from mmnas_ext.archs import Choices, Limit, SearchSpace, SpaceStage, prices
from mmnas_ext.search.measure import Chooser, Measuring, window

TOKENS = ('k3_e3', 'k3_e6', 'k5_e6', 'k7_e6')
SPACE = SearchSpace(
    (
        SpaceStage(16, 16, (('k3_e1',),), 1),
        *(SpaceStage(a, b, (TOKENS, (*TOKENS, 'skip'), (*TOKENS, 'skip')), 2) for a, b in ((16, 24), (24, 32))),
    )
)
SEED: Choices = ((0,), (1, 1, 1), (1, 1, 1))
NOISE = 0.01  # variance of a difference of two networks that differ in one layer, on a batch


class Losses:
    """Losses of networks that are all worth the same.

    Args:
        share: Of the noise that is the layers' candidates'; the rest is the networks' own.
        draw: Number of the draw.
    """

    def __init__(self, share: float, draw: int) -> None:
        rng = np.random.default_rng(draw)

        @cache
        def layer(*place: int) -> float:
            return float(rng.normal(0, np.sqrt(share * NOISE / 2)))

        @cache
        def loss(path: Choices, batch: int) -> float:
            own = rng.normal(0, np.sqrt((1 - share) * NOISE / 2))
            return float(own + sum(layer(i, j, c, batch) for i, row in enumerate(path) for j, c in enumerate(row)))

        self._loss = loss

    def rate(self, paths: Sequence[Choices], batches: Sequence[int]) -> np.ndarray:
        """Losses ``(paths, batches)``."""
        return np.array([[self._loss(path, batch) for batch in batches] for path in paths])


def is_replaced(batches: int, share: float, draw: int) -> bool:
    """Whether a choice at the seed's cost takes another network."""
    priced = prices(SPACE, (64, 64))
    limit = Limit(None, priced.path(SEED))
    chooser = Chooser(SPACE, priced, SEED, Losses(share, draw).rate, Measuring().within(batches))
    chooser.explore()
    return chooser.decide(chooser.search(window(limit, 0.95, priced.range())), limit) != SEED


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 2, 3, 24], help='held-out batches that there are')
    parser.add_argument('--choices', type=int, default=100, help='of each kind')
    args = parser.parse_args()
    print('| held-out batches | noise of networks alone | half of it of layers |\n|---:|---:|---:|')
    for batches in args.batches:
        counts = [sum(is_replaced(batches, share, draw) for draw in range(args.choices)) for share in (0.0, 0.5)]
        print(f'| {batches} | ' + ' | '.join(f'{count} of {args.choices}' for count in counts) + ' |', flush=True)


if __name__ == '__main__':
    main()
