"""What whole detectors cost: the networks of a space, each with the neck and head of a host choice."""

import logging
from dataclasses import replace

from mmengine.logging import print_log

from mmnas_ext.archs import HostChoice, HostChoices, Prices, SearchSpace, prices
from mmnas_ext.engine.limits import CostTerm, check_limit


def price_wholes(
    term: CostTerm, choices: HostChoices, space: SearchSpace, output_stride: int = 32
) -> dict[HostChoice, Prices]:
    """Prices of the space at each choice's size, with its neck and head as a part of what all networks pay.

    So `Prices.path` is a whole detector's cost, and the best one under a limit is the best of the choices' best ones.

    Args:
        term: The metric.
        choices: The choices.
        space: The space.
        output_stride: As in `cost`.

    Raises:
        ValueError: A latency table lacks a layer, or a neck and head.
    """
    sizes = dict.fromkeys(choice.input_size for choice in choices.all())
    priced = {size: prices(space, size, output_stride, term.metric, term.table) for size in sizes}
    return {choice: _whole(priced[choice.input_size], choices, choice) for choice in choices.all()}


def within_reach(term: CostTerm, wholes: dict[HostChoice, Prices]) -> dict[HostChoice, Prices]:
    """Those choices with which some network meets the limit; a limit that all meet is warned of.

    Raises:
        ValueError: There is none; names what whole detectors cost.
    """
    found = {}
    for choice, priced in wholes.items():
        try:
            check_limit(priced, term.limit, choice.input_size, term.max_name)
        except ValueError:
            continue
        found[choice] = priced
    by = term.by
    reaches = [priced.range() for priced in wholes.values()]
    reach = min(low for low, _ in reaches), max(high for _, high in reaches)
    if not found:
        raise ValueError(
            f'optim_wrapper.cost: no whole detector of host_choices costs {term.limit.show(by)}, though they cost '
            f'{by.show(*reach)}, neck and head included: widen the limit'
        )
    for sentence in term.limit.slack(by, reach, 'cost', term.max_name):
        print_log(f'{sentence}, neck and head included', logger='current', level=logging.WARNING)
    return found


def _whole(priced: Prices, choices: HostChoices, choice: HostChoice) -> Prices:
    added = choices.cost(choice, priced.metric)
    return replace(priced, stem=priced.by.total([priced.stem, added]))
