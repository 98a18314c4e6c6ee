"""Whole students of a distillation, measured on held-out images: the part of its front that ratings cannot say.

Ratings of blocks add up to a score that was never measured of a network: each block was rated on the teacher's own
features. A whole student takes its own. It is measured where it exists, that is where `stitch` can join its blocks.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from mmengine.dist import get_rank, get_world_size

from mmnas_ext.archs import Limit
from mmnas_ext.engine.pieces import Pieces
from mmnas_ext.engine.progress import CountingBar
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from mmnas_ext.search.ratings import Ratings
from mmnas_ext.search.select import Selection
from mmnas_ext.workdir import WorkDir

FEATURE_ERROR = 'feature_error'
COUNT = 8
Choice = tuple[int, ...]


def open_measured(files: WorkDir, ratings: Ratings) -> Pieces:
    """What was measured already of networks of these ratings, by `name_choice`; empty where one has no student."""
    # ratings follow from the weights, the images and the settings that a measurement follows from
    digest = hashlib.sha256(ratings.format().encode()).hexdigest()[:16]
    return Pieces(files.rating_parts, f'front_{digest}')


def measure_students(choices: Sequence[Choice], error: Callable[[Choice], float | None], pieces: Pieces) -> None:
    """Measures what is missing, each network on one process, which writes it down.

    Args:
        choices: The networks, the same on all processes.
        error: Measures one; ``None`` where it has no student.
        pieces: Where results are kept; of all processes afterwards.
    """
    missing = [choice for choice in choices if name_choice(choice) not in pieces.done]
    mine = missing[get_rank() :: get_world_size()]
    bar = CountingBar(f'measuring {len(missing)} networks of the front, {len(mine)} of them here:', len(mine))
    for choice in mine:
        found = error(choice)
        pieces.add(name_choice(choice), [] if found is None else [found])
        bar.step()
    pieces.done = pieces.gather()


def assemble(selection: Selection, choices: Sequence[Choice], done: Mapping[str, list[float]]) -> MeasuredFront:
    """The front of networks with what was measured of them.

    Args:
        selection: Where they were chosen.
        choices: The networks.
        done: Measured errors by `name_choice`: the rating of the whole student on the teacher's last feature.
    """
    ratings, networks = selection.ratings, []
    for choice in choices:
        found = done.get(name_choice(choice))
        metrics = {FEATURE_ERROR: found[0]} if found else {}
        origin = 'chosen' if choice == selection.chosen.choice else 'front'
        arch, score = ratings.arch(choice), ratings.rating(choice)
        networks.append(MeasuredNetwork(arch, ratings.costs(choice), metrics, score, origin))
    limits = {name: limit for name, limit in selection.limits.items() if limit != Limit()}
    return MeasuredFront(selection.metric, FEATURE_ERROR, 'less', tuple(networks), limits)


def name_choice(choice: Choice) -> str:
    """Name of the piece that a network is."""
    return ','.join(map(str, choice))
