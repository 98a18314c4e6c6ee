"""What a run came to: which networks are compared, by what, and what the page says first."""

import json
import re
import shutil
from dataclasses import replace
from html import unescape

import pytest

from mmnas_ext.archs import ArchSpec, Limit
from mmnas_ext.reports import write_report
from mmnas_ext.reports.charts import alpha_charts, decision_chart, front_chart, losses_chart
from mmnas_ext.reports.facts import Length, read_facts
from mmnas_ext.reports.log import Record, SearchLog, read_log
from mmnas_ext.reports.networks import candidates_html, networks_html
from mmnas_ext.reports.palette import FOUND as DARK_BLUE
from mmnas_ext.reports.palette import SEED as GREY
from mmnas_ext.reports.palette import kernel_colour
from mmnas_ext.reports.result import (
    certainty_note,
    find_decision,
    headline,
    limit_words,
    read_result,
    result_cells,
    result_details,
)
from mmnas_ext.reports.training_log import main_metric, read_training
from mmnas_ext.workdir import WorkDir
from tests.reports import distilled, kinds
from tests.reports.kinds import FOUND, METRIC, SEED, SIZE, SMALL, SPACE, count
from tests.reports.simulated import search_log
from tests.reports.test_page import Page

LOG = SearchLog.of(Record.parse(row, 'log') for row in search_log(SPACE, count=2, every=10, start=30, size=SIZE))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('result') / 'run'
    root.mkdir()
    kinds.finished(root)
    return root


@pytest.fixture
def facts(folder):
    return read_facts(folder)


def millions(arch):
    return f'{count(arch)["macs"] / 1e6:#.4g} M'


def test_seed_found_and_front_stand_side_by_side(folder, facts):
    result = read_result(WorkDir(folder), facts, FOUND)
    thousands = [f'{count(arch)["params"] / 1e3:.2f} k' for arch in (SEED, FOUND, SMALL)]
    head = ['network', 'MAdds at 64×96', 'parameters', 'bbox_mAP, trained', 'bbox_mAP_50, trained']
    assert result_cells(result, facts) == [
        [*head, 'bbox_mAP, in the search'],
        ['seed', millions(SEED), thousands[0], '0.330', '0.530', '0.270'],
        ['found', millions(FOUND), thousands[1], '0.310', '0.510', '0.250'],
        ['front, K = 0', millions(SMALL), thousands[2], '0.240', '0.440', '0.210'],
    ]
    assert result_details(result, facts) == [4, 2]
    assert [network.number for network in result.networks] == [None, 1, 0]


def test_the_first_sentence_says_cost_and_metric_beside_the_seeds(folder, facts):
    result = read_result(WorkDir(folder), facts, FOUND)
    share = round(100 - 100 * count(FOUND)['macs'] / count(SEED)['macs'])
    assert headline(result, facts) == (
        f'The found network has {millions(FOUND)} MAdds at 64×96, {share}% less than the seed; trained, it reached '
        'bbox_mAP 0.310, the seed with the same recipe 0.330.'
    )
    assert limit_words(facts) == f'{millions(FOUND)} MAdds'
    # another choice from the same search may have had another limit
    assert limit_words(facts, replace(result.decision, limit=Limit(1e6, 2e6))) == '1.000 M to 2.000 M MAdds'
    # (0.99 + 0.5) / 2
    note = 'partly decided: 1 of 2 layers at least 95% certain, 74% on average (50% is a coin)'
    assert certainty_note(result.decision) == note
    # a high mean decides no layer
    high = tuple(replace(layer, certainty=0.94) for layer in result.decision.layers)
    assert certainty_note(replace(result.decision, layers=high)).startswith('undecided: 0 of 2 layers')
    page = Page(write_report(folder)[-1].read_text())
    order = [
        'The found network has',
        'partly decided',
        'front, K = 0',
        'ground truth',
        'Training of the networks',
        'To go on',
    ]
    places = [page.text.index(words) for words in [*order, '(expansion 6)']]
    assert places == sorted(places)
    assert 'python tools/train.py a.py' in page.text and 'mmengine 0.10.12, torch 2.13.0' in page.text


def test_a_cost_in_milliseconds_is_told_by_the_front(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'run')
    content = json.loads((tmp_path / 'run' / 'front.json').read_text())
    for row, latency in zip(content['networks'], (4.0, 6.0, 8.0), strict=True):
        row['costs']['latency'] = latency
    (tmp_path / 'run' / 'front.json').write_text(json.dumps({**content, 'metric': 'latency', 'limits': {}}))
    kinds.manifest(tmp_path / 'run', metric='latency')
    facts = read_facts(tmp_path / 'run')
    result = read_result(WorkDir(tmp_path / 'run'), facts, FOUND)
    assert headline(result, facts).startswith('The found network takes 6 ms, 25% less than the seed; trained, it')
    assert [row[3] for row in result_cells(result, facts)] == ['latency', '8 ms', '6 ms', '4 ms']


def test_results_of_another_size_give_titles_and_no_costs(folder, facts, tmp_path):
    shutil.copytree(folder, tmp_path / 'run')
    rows = [
        {'network': 'the seed', 'macs': 7, 'params': count(SEED)['params'], 'metrics': {'AP': 0.5}},
        {'network': 'another', 'macs': 9, 'params': 1, 'metrics': {'bbox_mAP': 0.1}},
    ]
    (tmp_path / 'run' / 'results.json').write_text(json.dumps({'rows': rows, 'input_size': [640, 640]}))
    result = read_result(WorkDir(tmp_path / 'run'), facts, FOUND)
    seed, other = result.networks[0], result.networks[-1]
    assert (seed.title, seed.costs['macs'], seed.trained['AP']) == ('the seed', count(SEED)['macs'], 0.5)
    assert (other.title, dict(other.costs), other.trained) == ('another', {'params': 1}, {METRIC: 0.1})
    assert result_cells(result, facts)[-1][1:4] == ['–', '1', '0.100']


def test_the_seed_of_a_comparison_is_found_beside_a_run(tmp_path):
    for name, arch, reached in (('seed', SEED, 0.3), ('chosen', FOUND, 0.2)):
        kinds.train(tmp_path / name, arch, reached)
        kinds.manifest(tmp_path / name, given=True)
    facts = read_facts(tmp_path / 'chosen')
    result = read_result(WorkDir(tmp_path / 'chosen'), facts, FOUND)
    assert [network.trained.get(METRIC) for network in result.networks] == [0.3, 0.2]
    # another network's run in a folder of that name is none of this one's seed
    (tmp_path / 'seed' / 'derived' / 'arch.json').write_text(SMALL.format('json'))
    assert read_result(WorkDir(tmp_path / 'chosen'), facts, FOUND).find('seed').adapted is None


def test_what_is_trained_as_one_of_the_front_alone_counts(folder, facts, tmp_path):
    shutil.copytree(folder, tmp_path / 'run')
    (tmp_path / 'run' / 'adapt').rename(tmp_path / 'elsewhere')
    assert read_result(WorkDir(tmp_path / 'run'), facts, FOUND).find('found').trained == {}
    kinds.train(tmp_path / 'run' / 'front' / '1', FOUND, 0.29)
    found = read_result(WorkDir(tmp_path / 'run'), facts, FOUND).find('found')
    assert (found.number, found.trained[METRIC], found.measured[METRIC]) == (1, 0.29, 0.25)


def test_trained_networks_are_compared_by_what_the_search_ranks_by(folder, facts, tmp_path):
    shutil.copytree(folder, tmp_path / 'run')
    files = WorkDir(tmp_path / 'run')
    files.front.write_text(files.front.read_text().replace(METRIC, f'{METRIC}_50'))
    assert read_result(files, facts, FOUND).metric == f'{METRIC}_50'
    files.front.unlink()
    assert read_result(files, facts, FOUND).metric == METRIC
    assert read_result(files, replace(facts, rank_by=f'{METRIC}_50'), FOUND).metric == f'{METRIC}_50'


def test_what_was_selected_from_another_search_has_its_decision(folder, tmp_path):
    kinds.train(tmp_path, FOUND)
    (tmp_path / 'selected').mkdir()
    shutil.copy(folder / 'derived' / 'decision.json', tmp_path / 'selected')
    assert find_decision(WorkDir(tmp_path), FOUND).why == ''
    assert find_decision(WorkDir(tmp_path), SMALL) is None


def test_charts_say_what_their_points_are(folder, facts):
    result = read_result(WorkDir(folder), facts, FOUND)
    line, *groups = front_chart(result.front, result).data
    assert [group.name for group in groups] == ['front', 'chosen', 'seed']
    assert line.y == (0.21, 0.25)  # the seed is not on the front
    assert groups[1].x[0] == pytest.approx(count(FOUND)['macs'] / 1e6, rel=1e-3)
    words = groups[1].hovertext[0].split('<br>')
    assert words[:2] == ['<b>K = 1, chosen</b>', 'bbox_mAP 0.25']
    assert f'MAdds {millions(FOUND)}' in words and 'trained: bbox_mAP 0.31' in words
    chart = decision_chart(result.decision)
    assert (chart.layout.xaxis.title.text, chart.layout.xaxis.tickvals[-1]) == ('certainty (50% is a coin)', 1)
    (bars,) = chart.data
    assert bars.x == (0.99, 0.5) and bars.marker.color == (DARK_BLUE, GREY)
    assert bars.y[1] == '1.1  skip > k3_e3'
    assert '<b>layer 1.0: k3_e3 over k5_e6</b><br>99.0% certain<br>lead +0.2500 ± 0.1000 in loss' in bars.hovertext[0]


def test_alpha_has_a_chart_per_stage_and_a_line_per_candidate(folder):
    log = read_log(folder)
    charts = dict(alpha_charts(log, SPACE))
    assert list(charts) == ['Stage 1', 'Stage 2']
    assert len(charts['Stage 1'].data) == 3 + 4 and len(charts['Stage 2'].data) == 3
    first = charts['Stage 2'].data[0]
    assert first.x == (10, 20, 30, 40, 50, 60)
    assert first.y == pytest.approx([record.alpha['2.0'][0] for record in log.records], rel=1e-3)
    last = log.records[-1].alpha['2.0']
    widths = [line.line.width for line in charts['Stage 2'].data]
    assert widths.index(max(widths)) == last.index(max(last))


def test_a_line_of_few_values_has_markers():
    short, long = losses_chart([('a', [(1, 1.0)]), ('b', [(n, 1.0) for n in range(99)])]).data
    assert (short.mode, long.mode) == ('lines+markers', 'lines')


def test_a_training_is_read_by_its_losses_and_validations(tmp_path):
    records = [
        {'lr': 0.1, 'loss': 2.0, 'arch_loss': float('nan'), 'epoch': 1, 'iter': 5, 'step': 5},
        {'search/entropy': 1.0, 'step': 5},
        {METRIC: 0.25, 'bbox_mAP_copypaste': 'text', 'time': 0.1, 'step': 1},
        {'lr': 0.1, 'loss': 1.0, 'epoch': 2, 'iter': 10, 'step': 10},
        {'loss': 9.0, 'step': 'ten'},
    ]
    distilled.write_log(tmp_path, '1', records, tail='[3]\n{"lo')
    log = read_training(tmp_path)
    assert log.losses == {'loss': [(5, 2.0), (10, 1.0)]}
    assert (log.metrics, log.last, log.main) == ({METRIC: [(1, 0.25)]}, {METRIC: 0.25}, METRIC)
    assert (log.epoch, log.iteration) == (2, 10)
    assert read_training(tmp_path / 'nowhere').last == {}


def test_the_usual_metric_of_a_task_is_the_main_one():
    assert main_metric(['aAcc', 'mIoU']) == 'mIoU'
    assert main_metric(['bbox_mAP_50', 'bbox_mAP']) == 'bbox_mAP'
    assert main_metric(['closeness']) == 'closeness'
    assert main_metric([]) is None


def test_the_manifest_says_how_far_the_run_is(folder, facts, tmp_path):
    assert (facts.state, facts.given, facts.commands) == ('done', False, ('python tools/train.py a.py',))
    assert facts.lengths == {'search': Length(4, 'epoch'), 'adapt': Length(3, 'epoch')}
    assert facts.input_size == SIZE
    (tmp_path / 'run.json').write_text('{"parts": []}')
    with pytest.raises(ValueError, match=r'run\.json: parts must be an object, got \[\]'):
        read_facts(tmp_path)
    (tmp_path / 'run.json').write_text('{"report": {"commands": [1]}}')
    with pytest.raises(ValueError, match=r'run\.json: report: commands'):
        read_facts(tmp_path)


def test_networks_stand_side_by_side_with_what_differs(folder, facts):
    grid, folded, texts = networks_html(read_result(WorkDir(folder), facts, FOUND), facts).split('<details>')
    chips = re.findall(r'<span class="(chip(?: other)?)" style="--kernel:(\S+)" title="([^"]+)">([^<]+)<', grid)
    same = ('chip', kernel_colour(5), '5×5 kernel, expansion 6', 'k5_e6')
    other = ('chip other', kernel_colour(3), '3×3 kernel, expansion 3', 'k3_e3')
    assert [chip for chip in chips if chip[3] != 'k3_e1'] == [same, same, other, same, same]
    assert grid.count('title="a layer less">skip<') == 1
    assert '--nets:2' in grid and 'width:100.0%' in grid
    assert 'stage 1 · 24 channels<br>16×24' in grid  # of 64x96, after the stem and a stage of stride 2
    assert folded.startswith('<summary>1 other network of the front, each beside') and 'front, K = 0' in folded
    written = [unescape(text) for text in re.findall('<pre>(.*?)</pre>', texts, re.DOTALL)]
    assert [*map(ArchSpec.parse, written)] == [SEED, FOUND, SMALL]


def test_candidates_have_the_lines_that_they_have_in_the_charts():
    keys = re.findall(r'border-top:3px (\w+) (\S+)"></i>(\w+)', candidates_html(SPACE))
    colours = {token: (border, colour) for border, colour, token in keys}
    assert colours == {
        'k3_e3': ('dashed', kernel_colour(3)), 'k5_e6': ('solid', kernel_colour(5)),
        'k7_e6': ('solid', kernel_colour(7)), 'skip': ('dotted', 'var(--ink)'),
    }  # fmt: skip
    dashes = {
        line.hovertemplate.partition(':')[0]: line.line.dash
        for _, chart in alpha_charts(LOG, SPACE)
        for line in chart.data
    }
    assert dashes == {'k3_e3': 'dash', 'k5_e6': 'solid', 'k7_e6': 'solid', 'skip': 'dot'}
