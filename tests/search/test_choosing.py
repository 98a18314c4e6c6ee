"""How a config says that a network is chosen."""

import pytest

from mmnas_ext.search.choosing import AdaptPlan, Choosing, FrontPlan
from mmnas_ext.search.measure import Measuring


@pytest.mark.parametrize(('given', 'wanted'), [
    (None, Choosing()),
    ('argmax', Choosing('argmax')),
    ('measured', Choosing('measured')),
    ({'type': 'argmax'}, Choosing('argmax')),
    ({'type': 'measured', 'first': 2, 'seed': 3}, Choosing('measured', Measuring(first=2, seed=3))),
    ({'type': 'argmax', 'front': 5}, Choosing('argmax', front=FrontPlan(networks=5))),
    ({'type': 'measured', 'front': {}}, Choosing('measured', front=FrontPlan())),
    (
        {'type': 'measured', 'front': {'networks': 3, 'least': 1, 'images': None, 'rank_by': 'mIoU', 'rule': 'less'}},
        Choosing('measured', front=FrontPlan(3, 1, None, rank_by='mIoU', rule='less')),
    ),
    ({'type': 'measured', 'adapt': 5}, Choosing('measured', adapt=AdaptPlan(networks=5))),
    (
        {'type': 'measured', 'adapt': {'share': 1, 'repeats': 2, 'images': None, 'rank_by': 'NME', 'rule': 'less'}},
        Choosing('measured', adapt=AdaptPlan(6, 1, 2, 1.0, None, 'NME', 'less')),
    ),
    (Choosing('measured'), Choosing('measured')),
])  # fmt: skip
def test_a_selection_is_read(given, wanted):
    assert Choosing.parse(given) == wanted


def test_the_default_is_the_papers_and_measures_nothing():
    assert Choosing().type == 'argmax'
    assert not Choosing().measures
    assert Choosing.parse('measured').measures
    assert Choosing.parse({'type': 'argmax', 'front': 2}).measures


def test_what_is_given_is_left_as_it_is():
    given = {'type': 'measured', 'first': 2, 'front': {'networks': 3}}
    assert Choosing.parse(given) == Choosing.parse(given)
    assert given == {'type': 'measured', 'first': 2, 'front': {'networks': 3}}


@pytest.mark.parametrize(('given', 'message'), [
    ('best', r"selection.type must be one of \('argmax', 'measured'\), got 'best'"),
    ({'type': None}, r"selection.type must be one of \('argmax', 'measured'\), got None"),
    ({'type': ['argmax']}, r"selection.type must be one of \('argmax', 'measured'\), got \['argmax'\]"),
    ({'first': 3}, r"selection must be dict\(type='argmax' or 'measured', …\), got {'first': 3}"),
    (3, r"selection must be dict\(type='argmax' or 'measured', …\), got 3"),
    (['measured'], r"selection must be dict\(type='argmax' or 'measured', …\), got \['measured'\]"),
    ({'type': 'argmax', 'first': 3}, r"selection of type 'argmax' takes type and front, got \['first'\]"),
    ({'type': 'best', 'first': 3}, r"selection of type 'best' takes type and front, got \['first'\]"),
    ({'type': 'measured', 'fronts': 3}, r"selection of type 'measured' takes \[.*\], got \['fronts'\]"),
    ({'type': 'measured', 'first': 0}, 'selection.first must be a positive integer, got 0'),
    ({'type': 'argmax', 'front': True}, r'selection.front takes a number of networks or dict\(.*\), got True'),
    ({'type': 'argmax', 'front': [3]}, r'selection.front takes a number of networks or dict\(.*\), got \[3\]'),
    ({'type': 'argmax', 'front': {'count': 3}}, r"selection.front takes .*, got {'count': 3}"),
    ({'type': 'argmax', 'front': 0}, 'selection.front.networks must be a positive integer, got 0'),
    ({'type': 'argmax', 'front': {'images': 0}}, 'selection.front.images must be a positive integer, got 0'),
    ({'type': 'argmax', 'front': {'networks': None}}, 'selection.front.networks must be a positive integer, got None'),
    ({'type': 'argmax', 'front': {'calibration': 1.0}}, 'selection.front.calibration must be a positive integer'),
    ({'type': 'argmax', 'front': {'candidates': -2}}, 'selection.front.candidates must be a positive integer, got -2'),
    ({'type': 'argmax', 'front': {'least': 0}}, r'selection.front.least must be a share in \(0, 1\], got 0'),
    ({'type': 'argmax', 'front': {'least': '0.5'}}, r"selection.front.least must be a share in \(0, 1\], got '0.5'"),
    ({'type': 'argmax', 'front': {'rank_by': ''}}, "selection.front.rank_by must name a metric of the validation"),
    ({'type': 'argmax', 'front': {'rule': 'more'}}, r"selection.front.rule must be one of \('greater', 'less'\)"),
    ({'type': 'argmax', 'adapt': 3}, r"selection of type 'argmax' takes type and front, got \['adapt'\]"),
    ({'type': 'measured', 'adapt': True}, r'selection.adapt takes a number of networks or dict\(.*\), got True'),
    ({'type': 'measured', 'adapt': {'count': 3}}, r"selection.adapt takes .*, got {'count': 3}"),
    ({'type': 'measured', 'adapt': 0}, 'selection.adapt.networks must be a positive integer, got 0'),
    ({'type': 'measured', 'adapt': {'repeats': 1}}, 'selection.adapt.repeats must be an integer of at least 2, got 1'),
    ({'type': 'measured', 'adapt': {'share': 1.5}}, r'selection.adapt.share must be a share in \(0, 1\], got 1.5'),
    ({'type': 'measured', 'adapt': {'certain': -1}}, 'selection.adapt.certain must be a number in 0..inf, got -1'),
    ({'type': 'measured', 'adapt': {'images': 0}}, 'selection.adapt.images must be a positive integer, got 0'),
    ({'type': 'measured', 'adapt': {'rank_by': 3}}, 'selection.adapt.rank_by must name a metric of the validation'),
    ({'type': 'measured', 'adapt': {'rule': 'less'}}, "selection.adapt.rule 'less' needs selection.adapt.rank_by"),
    ({'type': 'argmax', 'front': {'rule': 'less'}}, "selection.front.rule 'less' needs selection.front.rank_by"),
    ({'type': 'measured', 'adapt': {'rule': 'more'}}, r"selection.adapt.rule must be one of \('greater', 'less'\)"),
])  # fmt: skip
def test_every_wrong_key_and_value_is_told(given, message):
    with pytest.raises(ValueError, match=message) as raised:
        Choosing.parse(given)
    assert len(str(raised.value)) <= 300
