"""``decision.json``: read back as it was written, every damage told, and the same in words."""

import copy
import json
import math
from dataclasses import replace

import pytest

from mmnas_ext.archs import Limit, SearchSpace, SpaceStage
from mmnas_ext.search.decision import Adapted, Compared, Decision, LayerChoice, aligned, normal, whole_percent

SPACE = SearchSpace(
    (SpaceStage(8, 8, (('k3_e1', 'k5_e1'), ('k3_e3', 'k5_e3', 'skip')), 1), SpaceStage(8, 8, (('k3_e3',),), 2))
)
CHEAP, MIDDLE = SPACE.arch(((0, 2), (0,))), SPACE.arch(((0, 1), (0,))).replace(bn_eps=1e-3)
LAYERS = (
    LayerChoice('1.0', 'k3_e3', 'k5_e3', 0.25, 0.1, 0.99, {'k3_e3': 0.0, 'k5_e3': 0.25}),
    LayerChoice('1.1', 'skip', 'k3_e3', -0.0125, None, 0.5, {'k3_e3': -0.0125, 'k5_e3': 0.5, 'skip': 0}),
)


ADAPTED = Adapted('bbox_mAP', 0.2, CHEAP, (Compared(MIDDLE, 3e6, 0.0125, 0.01, 0.02, 3),), 0.015)


def decision(**changes):
    fields = dict(
        type='measured', score='loss', arch=MIDDLE, metric='macs', costs={'macs': 3e6, 'params': 4000},
        limit=Limit(None, 4e6), layers=LAYERS,
        networks=(Compared(MIDDLE, 3e6, -0.2, 0.05, -0.3, 12), Compared(CHEAP, 1e6, 0.1, 0.2)),
        reference=CHEAP, better=0.975, why='because', notes={'minutes': 3.5},
    )  # fmt: skip
    return Decision(**{**fields, **changes})


def content():
    return json.loads(decision().format())


@pytest.mark.parametrize('value', [
    decision(),
    decision(type='argmax', score='probability', networks=(), reference=None, better=None, why='', notes={}),
    decision(limit=Limit(), layers=()),
    decision(adapted=ADAPTED),
    decision(adapted=Adapted('mIoU', 1.0, CHEAP, ())),
    decision(limit=Limit(1e6, 2e6), metric='latency', costs={'macs': 1, 'params': 2, 'latency': 0.125}),
])  # fmt: skip
def test_what_is_written_is_read_back(value, tmp_path):
    assert Decision.parse(json.loads(value.format())) == value
    file = tmp_path / 'decision.json'
    file.write_text(value.format())
    assert Decision.parse(file) == value


def test_a_work_dir_is_read_and_a_missing_file_told(tmp_path):
    with pytest.raises(FileNotFoundError, match='decision file does not exist: .*; the end of a search writes it'):
        Decision.parse(tmp_path)
    (tmp_path / 'derived').mkdir()
    (tmp_path / 'derived' / 'decision.json').write_text(decision().format())
    assert Decision.parse(str(tmp_path)) == decision()
    (tmp_path / 'derived' / 'decision.json').write_text('{"type": ')
    with pytest.raises(ValueError, match='decision.json: the text is not JSON'):
        Decision.parse(tmp_path)


_GONE = object()


@pytest.mark.parametrize(('place', 'value', 'message'), [
    (('type',), 'best', r"decision: type must be one of \('argmax', 'measured', 'evolution'\), got 'best'"),
    (('type',), 3, 'decision: type must be a text, got 3'),
    (('type',), _GONE, 'decision lacks type'),
    (('score',), 'share', r"decision: score must be one of \('probability', 'loss'\), got 'share'"),
    (('metric',), 'flops', r"decision: metric must be one of \('macs', 'params', 'latency'\), got 'flops'"),
    (('metric',), _GONE, 'decision lacks metric'),
    (('arch',), 'k3_e3', 'decision: arch'),
    (('arch',), None, 'decision: arch must be a text, got None'),
    (('reference',), 'k3_e3', 'decision: reference'),
    (('reference',), 4, 'decision: reference'),
    (('costs',), [1], 'decision: costs must be an object'),
    (('costs', 'macs'), 'many', "decision: costs: macs must be a number, got 'many'"),
    (('costs', 'macs'), math.nan, 'decision: costs: macs must be a finite number, got nan'),
    (('costs', 'flops'), 1, r"decision: costs must be by metric, \('macs', 'params', 'latency'\), got \['flops'\]"),
    (('limit',), 4e6, 'decision: limit must be an object'),
    (('limit', 'most'), 4e6, 'decision: limit takes min and max'),
    (('limit', 'min'), 5e6, 'decision: limit.min must be at most decision: limit.max'),
    (('layers',), {}, 'decision: layers must be a list'),
    (('layers', 0), 3, 'decision: layers must be an object, got 3'),
    (('layers', 0, 'layer'), 1.0, 'decision: layers 0: layer must be a text, got 1.0'),
    (('layers', 1, 'chosen'), _GONE, 'decision: layers 1 lacks chosen'),
    (('layers', 1, 'chosen'), 'k7_e3', r"decision: layers 1: scores must have 'k7_e3', got \['k3_e3', "),
    (('layers', 0, 'runner_up'), 'k7_e3', "decision: layers 0: scores must have 'k7_e3'"),
    (('layers', 0, 'lead'), None, 'decision: layers 0: lead must be a number, got None'),
    (('layers', 0, 'error'), 'x', "decision: layers 0: error must be a number, got 'x'"),
    (('layers', 0, 'certainty'), 1.5, 'decision: layers 0: certainty must be a probability, got 1.5'),
    (('layers', 0, 'scores'), [], 'decision: layers 0: scores must be an object'),
    (('layers', 0, 'scores', 'k3_e3'), True, 'decision: layers 0: scores: k3_e3 must be a number, got True'),
    (('networks',), None, 'decision: networks must be a list, got None'),
    (('networks', 0, 'arch'), 'x', 'decision: networks 0: arch'),
    (('networks', 1, 'cost'), _GONE, 'decision: networks 1 lacks cost'),
    (('networks', 1, 'expected'), math.inf, 'decision: networks 1: expected must be a finite number, got inf'),
    (('networks', 0, 'error'), '1', "decision: networks 0: error must be a number, got '1'"),
    (('networks', 0, 'measured'), [], 'decision: networks 0: measured must be a number'),
    (('networks', 0, 'batches'), 1.5, 'decision: networks 0: batches must be an integer, got 1.5'),
    (('better',), -0.1, 'decision: better must be a probability, got -0.1'),
    (('better',), 'yes', "decision: better must be a number, got 'yes'"),
    (('why',), None, 'decision: why must be a text, got None'),
    (('notes',), _GONE, 'decision lacks notes'),
    (('notes', 'minutes'), 'few', "decision: notes: minutes must be a number, got 'few'"),
])  # fmt: skip
def test_every_field_that_is_malformed_is_told(place, value, message):
    given = content()
    holder = given
    for key in place[:-1]:
        holder = holder[key]
    if value is _GONE:
        del holder[place[-1]]
    else:
        holder[place[-1]] = copy.deepcopy(value)
    with pytest.raises(ValueError, match=message) as raised:
        Decision.parse(given)
    assert len(str(raised.value)) <= 300


def test_a_decision_in_words():
    value = decision()
    assert value.certainty == pytest.approx((0.99 + 0.5) / 2)
    assert value.decided == 1
    text = value.describe()
    assert text.startswith(f'chosen by measured: {MIDDLE.format("fna")}: 0.003 G multiply-adds, 0.004 M parameters; ')
    assert '1 of 2 layers decided with 95% certainty, mean 74%' in text
    assert text.endswith(
        '; in the super-network its loss is below that of the reference with a probability of 97%. because'
    )
    plain = decision(better=None, why='')
    assert plain.describe().endswith('mean 74%')
    assert decision(layers=()).certainty == 0


def test_a_certainty_is_never_rounded_up():
    told = {0.29: '29%', 0.57: '57%', 0.9499: '94%', 0.95: '95%', 0.9999999: '99%', 1.0: '100%', 0.0: '0%'}
    assert {value: whole_percent(value) for value in told} == told
    (row,) = decision(layers=(replace(LAYERS[0], certainty=0.949),)).table().splitlines()[2:]
    assert row.split()[-2] == '94%'


def test_the_table_has_a_row_per_layer():
    lines = decision().table().splitlines()
    assert [[cell.strip() for cell in line.strip('|').split('|')] for line in (lines[0], *lines[2:])] == [
        ['layer', 'chosen', 'runner-up', 'lead', 'certainty'],
        ['1.0', 'k3_e3', 'k5_e3', '+0.2500 ± 0.1000', '99%'],
        ['1.1', 'skip', 'k3_e3', '-0.0125', '50%'],
    ]
    assert len(set(map(len, lines))) == 1
    assert set(lines[1]) == {'|', '-'}
    assert aligned([('a', 'long'), ('b', 'c')]).splitlines() == ['| a   | long |', '|-----|------|', '| b   | c    |']


def test_the_normal_distribution_by_its_table():
    assert [round(normal(z), 4) for z in (-1.96, 0, 1, 1.6449)] == [0.025, 0.5, 0.8413, 0.95]


def test_what_brief_adaptations_decided_is_told():
    told = decision(adapted=ADAPTED, notes={'losses': 9, 'trainings': 5, 'seconds': 70})
    assert '9 losses and 5 brief adaptations in 70 s' in told.describe()
    assert ADAPTED.describe() == (
        'adapted for 20% of the whole length and validated on held-out images, the best other network is expected to '
        'differ by +0.0125 ± 0.0100 bbox_mAP; one training of a network varies by 0.0150'
    )
    assert replace(ADAPTED, noise=None).describe().endswith('0.0100 bbox_mAP')
    row = told.table().splitlines()[-1]
    assert [cell.strip() for cell in row.split('|')[-5:-1]] == ['3e+06', '+0.0125 ± 0.0100', '+0.0200', '3']
    assert decision().table() in told.table()
    assert row.startswith('| 0: k3_e1 k5_e3 ')
    assert Adapted('mIoU', 1.0, CHEAP, ()).describe() == 'no brief adaptation of another network succeeded'
    # files of a choice without them are as they were
    assert 'adapted' not in content()


def test_the_rival_is_the_network_that_had_to_be_beaten():
    """Where the seed costs too much that is what losses have chosen."""
    assert decision().rival == decision(adapted=ADAPTED).rival == CHEAP
    stood = decision(adapted=Adapted('mIoU', 0.2, MIDDLE, ADAPTED.networks))
    assert (stood.rival, stood.reference, stood.beats) == (MIDDLE, CHEAP, None)
    assert decision(adapted=ADAPTED).beats == 0.975


@pytest.mark.parametrize(('place', 'value', 'message'), [
    (('metric',), None, 'decision: adapted: metric must be a text, got None'),
    (('noise',), 'some', "decision: adapted: noise must be a number, got 'some'"),
    (('share',), 1.5, 'decision: adapted: share must be a probability, got 1.5'),
    (('reference',), 'k3', 'decision: adapted: reference'),
    (('networks',), {}, 'decision: adapted: networks must be a list'),
    (('networks', 0, 'batches'), 0.5, 'decision: adapted: networks 0: batches must be an integer, got 0.5'),
])  # fmt: skip
def test_damage_to_brief_adaptations_is_told(place, value, message):
    damaged = json.loads(decision(adapted=ADAPTED).format())
    holder = damaged['adapted']
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    with pytest.raises(ValueError, match=message):
        Decision.parse(damaged)
