"""Host choices as values: their text, what they take and what they refuse."""

import pytest

from mmnas_ext.archs import HostChoice, HostChoices, LatencyTable
from tests.engine import tiny

OWN = HostChoice((320, 320), 64, 2)
OPTIONS = dict(input_size=[(384, 384), [320, 320]], neck_width=[64, 32], stacked_convs=[2, 1])


def test_a_choice_is_read_as_it_is_written():
    for choice, text in (
        (HostChoice((288, 320), 48, 2), '288x320-w48-c2'), (HostChoice((288, 320), 48), '288x320-w48'),
        (HostChoice((288, 320), None, 3), '288x320-c3'), (HostChoice((64, 96)), '64x96'),
    ):  # fmt: skip
        assert choice.format() == text
        assert HostChoice.parse(text) == HostChoice.parse(choice) == choice
    for wrong in ('288', '288x288-w', '288x288-c2-w48', 3, None):
        with pytest.raises(ValueError, match="like '288x288-w48-c2', got"):
            HostChoice.parse(wrong)


def test_all_combinations_are_offered_the_widest_last():
    choices = HostChoices(OPTIONS, OWN, {})
    assert [each.format() for each in choices.all()] == [
        '320x320-w32-c1', '320x320-w32-c2', '320x320-w64-c1', '320x320-w64-c2',
        '384x384-w32-c1', '384x384-w32-c2', '384x384-w64-c1', '384x384-w64-c2',
    ]  # fmt: skip
    assert choices.widest == HostChoice((384, 384), 64, 2)
    # a part that is not offered, or offered once, stays as it is
    some = HostChoices(dict(neck_width=[64], stacked_convs=[1, 2, 3]), OWN, {})
    assert [each.format() for each in some.all()] == ['320x320-w64-c1', '320x320-w64-c2', '320x320-w64-c3']
    assert some.offered() == ['stacked_convs']


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(OPTIONS, depth=[1]), 'must be a dict of input_size, neck_width, stacked_convs, got'),
        ([1, 2], 'must be a dict of'),
        ({}, 'must be a dict of'),
        (dict(neck_width=[]), r'host_choices.neck_width must be a list of options, got \[\]'),
        (dict(neck_width=64), 'host_choices.neck_width must be a list of options, got 64'),
        (dict(neck_width=[64, 64]), r"must list each option once, got \['64', '64'\]"),
        (dict(neck_width=[64, 0]), 'neck_width must list positive integers, got 0'),
        (dict(stacked_convs=[2, True]), 'stacked_convs must list positive integers, got True'),
        (dict(neck_width=[32, 48]), r"own 64 among its options, got \['32', '48'\]"),
        (dict(input_size=[(320, 320), (288, 16)]), 'of at least 32 pixels, got'),
        (dict(input_size=[(320, 320), 288]), r'must list \(height, width\) of at least 32 pixels, got 288'),
        (dict(input_size=[(320, 320), (640, 288)]), 'the largest in both directions'),
        (dict(neck_width=[64]), 'must offer 2 to 64 combinations, got 1'),
        (dict(neck_width=[*range(60, 68)], stacked_convs=[*range(1, 10)]), 'combinations, got 72'),
    ],
)
def test_what_cannot_be_offered_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        HostChoices(options, OWN, {})


def test_a_choice_that_is_not_offered_and_a_cost_that_is_not_known_are_refused():
    choices = HostChoices(OPTIONS, OWN, {OWN.format(): {'macs': 7}})
    assert choices.check(OWN) == OWN
    assert choices.cost(OWN, 'macs') == 7
    with pytest.raises(ValueError, match=r"320x320-w48-c2: neck_width must be one of \['32', '64'\]"):
        choices.check(OWN._replace(neck_width=48))
    with pytest.raises(ValueError, match='latency table has no neck and head of 320x320-w64-c2'):
        choices.cost(OWN, 'latency')
    with pytest.raises(ValueError, match='must stand at the top of the config'):
        HostChoices.parse(OPTIONS)
    given = {**OPTIONS, 'own': '320x320-w64-c2', 'costs': {}}
    assert HostChoices.parse(given) == HostChoices(OPTIONS, OWN, {})


def test_a_latency_table_keeps_necks_and_heads():
    plain = tiny.latency_table()
    assert 'hosts' not in plain.format()  # tables of backbones are as they were
    table = LatencyTable(plain.device, 1, plain.entries, hosts=(('320x320-w64-c2', 9, 1.25), ('64x64', 7, 0.5)))
    assert LatencyTable.parse(table.format()) == table
    for hosts, said in (
        ((('a', 9, 1.0),), 'a host choice must be a text'), ((('64x64', 0, 1.0),), r'hosts\[0\].macs must'),
        ((('64x64', 9, 0.0),), r'hosts\[0\].ms must be a number'), ((('64x64', 9, 1.0),) * 2, 'hosts hold one twice'),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            LatencyTable(plain.device, 1, plain.entries, hosts=hosts)
    with pytest.raises(ValueError, match=r'hosts\[0\] must be a mapping'):
        LatencyTable.parse(table.format().replace('{"host": "320x320-w64-c2", "macs": 9, "ms": 1.25}', '3'))
