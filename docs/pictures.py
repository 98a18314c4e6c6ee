"""Draws the pictures of docs/reading-a-search.md from the work dirs of two finished searches.

Example: ``python docs/pictures.py --by-alpha work_dirs/steel/seed0/search --by-losses work_dirs/demo``
"""

import argparse
from pathlib import Path

from mmnas_ext.archs import SearchSpace
from mmnas_ext.reports import draw_alphas
from mmnas_ext.reports.decision import draw_decision
from mmnas_ext.workdir import WorkDir

FOLDER = Path(__file__).parent


def main() -> None:
    """Draws the alphas of the one search and the decision of the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--by-alpha', required=True, help='work dir of a search whose alpha decided')
    parser.add_argument('--by-losses', required=True, help='work dir of a search whose losses decided')
    given = parser.parse_args()
    alpha, losses = WorkDir(given.by_alpha), WorkDir(given.by_losses)
    space = SearchSpace.parse(alpha.search_space)
    print(draw_alphas(alpha.root, space, FOLDER / 'reading_alphas.png'))
    print(draw_decision(losses.decision, FOLDER / 'reading_decision.png'))


if __name__ == '__main__':
    main()
