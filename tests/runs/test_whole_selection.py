"""Whole detectors: what their necks and heads cost in milliseconds, and how figures that decide are shown."""

from types import SimpleNamespace

import pytest

from mmnas_ext.archs import LatencyTable
from mmnas_ext.engine.limits import CostTerm
from mmnas_ext.engine.whole import price_wholes
from mmnas_ext.runs.host_choices import list_hosts, read_choices
from mmnas_ext.runs.measure_latency import Subject, measure_latency
from mmnas_ext.runs.whole_selection import WholeSelector
from mmnas_ext.search.host_belief import HostBelief, Validated
from tests.runs.test_host_choices import FEW, OWN, SPACE, config, counted


def test_the_latency_of_necks_and_heads_is_measured_and_is_part_of_the_whole(tmp_path):
    cfg = config(choices=FEW)
    subject = Subject(SPACE, (64, 64), hosts=tuple(list_hosts(cfg)), scope='mmdet')
    assert subject.sizes == ((48, 48), (64, 64))
    table = measure_latency(subject, threads=1, repeats=1, warmup=0)
    assert [(text, macs) for text, macs, _ in table.hosts] == [
        (choice.format(), counted(choice)) for choice in read_choices(cfg).all()
    ]
    file = tmp_path / 'latency.json'
    file.write_text(table.format())
    cfg.optim_wrapper.cost = dict(metric='latency', table=str(file), max=1e3)
    choices = read_choices(cfg)
    term = CostTerm.parse(cfg.optim_wrapper.cost)
    for choice, priced in price_wholes(term, choices, SPACE).items():
        milliseconds = next(ms for text, _, ms in table.hosts if text == choice.format())
        backbone = [
            ms for geometry, ms in table.entries if geometry.token == 'stem' and geometry.height == choice[0][0]
        ]
        assert choices.cost(choice, 'latency') == milliseconds
        assert priced.stem == pytest.approx(backbone[0] + milliseconds)
    # a neck and head of another cost, or none
    other = LatencyTable(table.device, 1, table.entries, table.act, hosts=((OWN.format(), 5, 1.0),))
    file.write_text(other.format())
    with pytest.raises(ValueError, match='has a neck and head of 64x64-w8-c1 with 5 multiply-adds, and those of this'):
        read_choices(cfg)
    file.write_text(LatencyTable(table.device, 1, table.entries, table.act).format())
    with pytest.raises(ValueError, match='latency table has no neck and head of 48x48-w8-c1'):
        price_wholes(term, read_choices(cfg), SPACE)


@pytest.mark.parametrize(('rule', 'sign'), [('greater', 1), ('less', -1)])
def test_figures_are_shown_as_the_validation_counts_them(rule, sign):
    """A belief takes higher for better, whatever the rule; what is written down is the metric itself."""
    choices = read_choices(config(choices=FEW))
    own, other = choices.own, next(each for each in choices.all() if each != choices.own)
    rows = [Validated(own, 0.0, (sign * 0.5, sign * 0.4)), Validated(other, 0.0, (sign * 0.7, sign * 0.8))]
    selector = SimpleNamespace(wholes=dict.fromkeys((own, other), SimpleNamespace(path=lambda path: 1.0)), _sign=sign)
    found = WholeSelector._compared(selector, HostBelief(choices, rows), [(own, None), (other, None)], 1)
    assert found.measured == pytest.approx(0.3)
    assert 0 < found.expected <= 0.3 + 1e-6
    assert WholeSelector._sign.fget(SimpleNamespace(plan=SimpleNamespace(rule=rule))) == sign
