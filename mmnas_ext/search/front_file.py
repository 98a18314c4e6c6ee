"""Reads back what `Selection` writes: the front of a rated space, and the choice on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmnas_ext.archs import METRICS, ArchSpec, Limit
from mmnas_ext.archs.literal import call_at
from mmnas_ext.search.fields import check_kind, check_list_of, find_file, read_object, take, take_list
from mmnas_ext.search.ratings import Ratings


@dataclass(frozen=True)
class FrontFile:
    """Content of ``front.json``.

    Args:
        metric: What the front is drawn over.
        costs: Of the networks that no other one beats, ascending, at least one.
        ratings: Theirs, descending.
        limits: By metric, those that are set.
        chosen_costs: Costs of the chosen network, by metric.
        rating: Its rating.
        choice: Per block the index of its entry, counted as `BlockRatings.picks` lists them.
        arch: The chosen network.
    """

    metric: str
    costs: tuple[float, ...]
    ratings: tuple[float, ...]
    limits: Mapping[str, Limit]
    chosen_costs: Mapping[str, float]
    rating: float
    choice: tuple[int, ...]
    arch: ArchSpec

    @classmethod
    def parse(cls, source: str | Path | Mapping[str, Any], ratings: Ratings | None = None) -> 'FrontFile':
        """Reads a ``front.json``, the work dir that holds it, or its content.

        Args:
            source: See above.
            ratings: Those that it was found in, to hold it against them.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not of this form, or does not belong to `ratings`.
        """
        if isinstance(source, Mapping):
            return _from_mapping(source, 'front', ratings)
        file = find_file(source, 'front', 'the rating of a distillation')
        return _from_mapping(read_object(file), str(file), ratings)


def _from_mapping(content: Mapping[str, Any], where: str, ratings: Ratings | None) -> FrontFile:
    metric = take(content, 'metric', str, where)
    if metric not in METRICS:
        raise ValueError(f'{where}: metric must be among {tuple(METRICS)}, got {metric!r}')
    costs, heights = (take_list(content, name, float, where, least=1) for name in ('costs', 'ratings'))
    choices = [check_list_of(row, int, f'{where}: choices') for row in take(content, 'choices', list, where)]
    if not len(costs) == len(heights) == len(choices):
        got = f'{len(costs)}, {len(heights)} and {len(choices)}'
        raise ValueError(f'{where}: costs, ratings and choices must be as many, got {got}')
    for name, figures, sign in (('costs', costs, 1), ('ratings', heights, -1)):
        wrong = next((i for i in range(1, len(figures)) if sign * (figures[i] - figures[i - 1]) <= 0), None)
        if wrong is not None:
            order = 'ascend' if sign == 1 else 'descend'
            raise ValueError(f'{where}: {name} must {order}, got {figures[wrong - 1]} before {figures[wrong]}')
    given = take(content, 'limits', dict, where)
    _check_metrics(given, f'{where}: limits')
    parsed = {name: Limit.parse(limit, f'{where}: limits {name}') for name, limit in given.items()}
    limits = {name: limit for name, limit in parsed.items() if limit != Limit()}
    chosen = take(content, 'chosen', dict, where)
    chosen_costs = _costs(take(chosen, 'costs', dict, f'{where}: chosen'), f'{where}: chosen: costs')
    if metric not in chosen_costs:
        raise ValueError(f"{where}: chosen: costs must have the front's metric {metric}, got {[*chosen_costs]}")
    choice = take_list(chosen, 'choice', int, f'{where}: chosen')
    arch = call_at(f'{where}: arch', ArchSpec.parse, take(content, 'arch', str, where))
    if ratings is not None:
        found = call_at(f'{where}: chosen', ratings.arch, choice)
        if found.format('fna') != arch.format('fna'):
            raise ValueError(
                f'{where}: chosen: choice {list(choice)} must be its arch by the ratings, got '
                f'{found.format("fna"):.80} and {arch.format("fna"):.80}; do both files belong together?'
            )
    rating = take(chosen, 'rating', float, f'{where}: chosen')
    return FrontFile(metric, costs, heights, limits, chosen_costs, rating, choice, arch)


def _costs(given: Mapping[str, Any], where: str) -> dict[str, float]:
    """Reads figures by metric; those that are ``None`` are left out."""
    _check_metrics(given, where)
    return {name: check_kind(value, float, f'{where}: {name}') for name, value in given.items() if value is not None}


def _check_metrics(given: Mapping[str, Any], where: str) -> None:
    foreign = sorted(set(given) - set(METRICS))
    if foreign:
        raise ValueError(f'{where} must be by metric, {tuple(METRICS)}, got {foreign}')
