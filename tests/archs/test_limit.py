"""Limits: read, checked, told."""

import math
from typing import Any

import pytest

from mmnas_ext.archs import METRICS, Limit

MACS = METRICS['macs']


@pytest.mark.parametrize(('source', 'wanted'), [
    (None, Limit(None, None)), (3e8, Limit(None, 3e8)), ({'min': 1, 'max': 2}, Limit(1, 2)),
    ({'min': 1}, Limit(1, None)),
    (Limit(1, 2), Limit(1, 2)), ({}, Limit()), (math.inf, Limit(None, math.inf)), ({'min': 2, 'max': 2}, Limit(2, 2)),
])  # fmt: skip
def test_what_is_read(source: Any, wanted: Limit) -> None:
    assert Limit.parse(source, 'cost') == wanted
    assert Limit.parse(wanted.plain(), 'cost') == wanted


@pytest.mark.parametrize(('source', 'message'), [
    ('small', "cost.max must be a number or None, got 'small'"),
    ('80% seed', "cost.max must be a number or None, got '80% seed'; a share of the seed's is written '0.8 seed'"),
    (True, 'cost.max must be a number or None, got True'),
    ({'min': math.nan}, 'cost.min must be a number or None, got nan'),
    ({'most': 3}, r"cost takes min and max, got \['most'\]"),
    ({'min': 3, 'max': 2}, 'cost.min must be at most cost.max, got 3 and 2'),
])  # fmt: skip
def test_what_is_refused(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limit.parse(source, 'cost')


def test_a_limit_that_no_network_meets_names_what_can_be_reached() -> None:
    reach = (1e9, 3e9)
    for kept in (Limit(), Limit(1e9, 1e9), Limit(3e9, 5e9), Limit(0, 3e9)):
        kept.check(MACS, reach, 'cost')
    told = 'networks of this space cost 1 to 3 G multiply-adds'
    with pytest.raises(
        ValueError, match=f'^cost.target must be at least 1 G multiply-adds, got 0.9 G .*: {told} at 8x8$'
    ):
        Limit(None, 0.9e9).check(MACS, reach, 'cost', 'target', ' at 8x8')
    with pytest.raises(ValueError, match=f'^a.min must be at most 3 G multiply-adds, got 3.1 G multiply-adds: {told}$'):
        Limit(3.1e9, None).check(MACS, reach, 'a')


def test_a_bound_that_all_networks_meet_limits_nothing() -> None:
    reach = (1e9, 3e9)
    assert Limit(1e9 + 1, 3e9 - 1).slack(MACS, reach, 'cost') == []
    assert Limit(1e9 + 1, 3e9 - 1).binding(reach) == Limit(1e9 + 1, 3e9 - 1)
    told = Limit(1e9, math.inf).slack(MACS, reach, 'cost')
    assert told == [
        'cost.max of inf G multiply-adds limits nothing: no network of this space costs more than 3 G multiply-adds',
        'cost.min of 1 G multiply-adds limits nothing: no network of this space costs less than 1 G multiply-adds',
    ]
    assert Limit(1e9, math.inf).binding(reach) == Limit()


def test_a_limit_in_words() -> None:
    assert Limit(1e9, 2.5e9).show(MACS) == 'at least 1 G multiply-adds and at most 2.5 G multiply-adds'
    assert (Limit(None, 1e9).show(MACS), Limit().show(MACS)) == ('at most 1 G multiply-adds', 'no limit')
