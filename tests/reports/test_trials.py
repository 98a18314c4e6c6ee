"""The report of a random search, and of a run that was given its network."""

import json

import pytest

from mmnas_ext.archs import SearchSpace, SpaceStage, cost, zoo
from mmnas_ext.reports import write_report
from mmnas_ext.reports.charts import trials_chart
from mmnas_ext.reports.trials import read_trials, trials_cells
from tests.reports import distilled
from tests.reports.drawn import png_size
from tests.reports.simulated import search_log, write_log
from tests.reports.test_page import Page, run_tool

FOUND = zoo.arch('fna_retinanet')
OTHER = zoo.arch('mobilenet_v2')
# as `mmnas_ext.runs.trials.Trial.format` writes it
ROW = {
    'index': 0,
    'arch': OTHER.format('fna'),
    'macs': 300_000_000,
    'params': 2_000_000,
    'cost': 300_000_000,
    'metrics': {'aAcc': 0.8, 'mIoU': 0.4},
    'failure': '',
    'iterations': 100,
    'seconds': 90.0,
    'cpu_seconds': 80.0,
    'bn_eps': None,
}
ROWS = (
    ROW,
    {**ROW, 'index': 1, 'cost': 400_000_000, 'macs': 400_000_000, 'metrics': {'aAcc': 0.7, 'mIoU': 0.6}},
    {**ROW, 'index': 2, 'metrics': {'aAcc': 0.9, 'mIoU': None}},
    {**ROW, 'index': 3, 'metrics': {}, 'failure': 'the loss is NaN or infinite at iteration 40'},
)


def tried(folder, rows=ROWS, **report):
    for number, row in enumerate(rows):
        place = folder / 'trials' / f'{number:02d}'
        place.mkdir(parents=True)
        (place / 'result.json').write_text(json.dumps(row))
    # one that has not ended
    (folder / 'trials' / '99').mkdir()
    if report:
        (folder / 'run.json').write_text(json.dumps({'report': {'method': 'random', **report}}))
    return folder


def test_trials_are_ranked_and_those_that_failed_come_last(tmp_path):
    trials = read_trials(tried(tmp_path), 'mIoU')
    assert [row.number for row in trials.rows] == [1, 0, 2, 3]
    assert [row.number for row in trials.successes] == [1, 0]
    assert (trials.rank_by, trials.metric, trials.guessed) == ('mIoU', 'macs', False)
    assert [row.number for row in read_trials(tmp_path, 'mIoU', 'less').rows] == [0, 1, 2, 3]
    # the first metric that was logged
    guess = read_trials(tmp_path)
    assert (guess.rank_by, guess.guessed, guess.rows[0].number) == ('aAcc', True, 2)


def test_the_costs_are_those_of_the_limit(tmp_path):
    assert read_trials(tried(tmp_path / 'a', [{**ROW, 'cost': 2_000_000}])).metric == 'params'
    assert read_trials(tried(tmp_path / 'b', [{**ROW, 'cost': 12.5}])).metric == 'latency'
    assert read_trials(tried(tmp_path / 'c'), metric='params').metric == 'params'
    (tmp_path / 'd').mkdir()
    assert read_trials(tmp_path / 'd') is None


def test_the_chart_shows_each_trial_and_marks_the_best(tmp_path):
    best, other = trials_chart(read_trials(tried(tmp_path), 'mIoU')).data
    assert [(best.x, best.y), (other.x, other.y)] == [((400.0,), (0.6,)), ((300.0,), (0.4,))]
    assert (best.marker.symbol, other.marker.symbol) == ('diamond', None)
    assert best.hovertext == ('<b>trial 01, best</b><br>mIoU 0.6<br>400.0 M<br>17 layers, 1.5 minutes',)
    assert other.hovertext[0].startswith('<b>trial 00</b><br>mIoU 0.4<br>300.0 M<br>')


def test_the_chart_of_many_trials_has_one_trace_beside_the_best(tmp_path):
    found = read_trials(tried(tmp_path), 'mIoU')
    row = found.rows[0]
    rows = tuple(row._replace(number=number, metrics={'mIoU': 1 - number / 1000}) for number in range(202))
    for count, mode in ((201, 'markers+text'), (202, 'markers')):
        best, others = trials_chart(found._replace(rows=rows[:count])).data
        assert (best.text, best.mode) == (('00',), 'markers+text')
        assert others.text == tuple(f'{number:02d}' for number in range(1, count))
        assert others.y == tuple(1 - number / 1000 for number in range(1, count))
        assert others.hovertext[-1].startswith(f'<b>trial {count - 1}</b><br>mIoU 0.')
        assert others.mode == mode
    (alone,) = trials_chart(found._replace(rows=rows[:1])).data
    assert alone.marker.symbol == 'diamond'


def test_a_search_whose_trials_all_failed_has_no_chart(tmp_path):
    text = write_report(tried(tmp_path, ROWS[3:]))[-1].read_text(encoding='utf-8')
    assert 'the loss is NaN or infinite at iteration 40' in text
    assert '<div class="chart"' not in text
    assert 'leads so far' not in text and '1 trial, all failed; nothing is derived yet' in text


def test_the_table_of_trials(tmp_path):
    assert trials_cells(read_trials(tried(tmp_path), 'mIoU')) == [
        ['trial', 'MAdds', 'parameters', 'mIoU', 'aAcc', 'minutes', 'failed'],
        ['01', '400.0 M', '2.000 M', '0.600', '0.700', '1.5', ''],
        ['00', '300.0 M', '2.000 M', '0.400', '0.800', '1.5', ''],
        ['02', '300.0 M', '2.000 M', '–', '0.900', '1.5', 'no finite mIoU'],
        ['03', '300.0 M', '2.000 M', '–', '–', '1.5', 'the loss is NaN or infinite at iteration 40'],
    ]
    one = read_trials(tried(tmp_path / 'latency', [{**ROW, 'cost': 12.5}]), 'mIoU')
    assert trials_cells(one)[0][:3] == ['trial', 'latency', 'MAdds']
    assert trials_cells(one)[1][:3] == ['00', '12.5 ms', '300.0 M']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'metrics': {'mIoU': 'high'}}, "metrics: mIoU must be a number, got 'high'"),
        ({'cost': None}, 'cost must be a number, got None'),
        ({'index': None}, 'index must be an integer, got None'),
        ({'arch': 'nothing'}, 'arch: '),
    ],
)
def test_a_result_of_another_form_is_refused(tmp_path, change, message):
    tried(tmp_path, [{**ROW, **change}])
    with pytest.raises(ValueError, match=rf'00.result\.json: {message}'):
        read_trials(tmp_path)


def test_a_random_search_has_a_page(tmp_path):
    tried(tmp_path, rank_by='mIoU', rule='greater', metric='macs', input_size=[320, 320], seed=OTHER.format('fna'),
          limits={'macs': {'min': 2.5e8, 'max': 4e8}})  # fmt: skip
    running = write_report(tmp_path)
    assert [path.name for path in running] == ['network.png', 'report.html']
    text = Page(running[-1].read_text(encoding='utf-8')).text
    assert 'The network that leads so far has ' in text and '; in its trial it reached mIoU 0.600' in text
    assert 'mIoU, in its trial0.600not trained yet' in text
    assert '4 trials, ranked by mIoU; nothing is derived yet: below is what leads so far' in text
    (tmp_path / 'derived').mkdir()
    (tmp_path / 'derived' / 'arch.json').write_text(FOUND.format('json'))
    written = write_report(tmp_path)
    page = Page(written[-1].read_text(encoding='utf-8'))
    assert png_size(written[0].read_bytes()) == (1400, 754)  # with its seed
    macs, params = cost(FOUND, (320, 320))
    assert page.rows[0] == ['network', 'MAdds at 320×320', 'parameters', 'mIoU, in its trial']
    assert page.rows[1][-1] == '0.600'  # the seed is the network of the trials
    assert ['found', f'{macs / 1e6:.1f} M', f'{params / 1e6:.3f} M', '–'] in page.rows
    share = round(100 * abs(1 - macs / cost(OTHER, (320, 320)).macs))
    word = 'less' if macs < cost(OTHER, (320, 320)).macs else 'more'
    said = f'{share}% {word} than the seed' if share else 'as much as the seed'
    assert f'The found network has {macs / 1e6:.1f} M MAdds at 320×320, {said}.' in page.text
    assert '250.0 M to 400.0 M MAdds' in page.text
    assert ['01', '400.0 M', '2.000 M', '0.600', '0.700', '1.5', ''] in page.rows


def test_what_ranks_is_said_to_be_a_guess(tmp_path):
    text = Page(write_report(tried(tmp_path))[-1].read_text(encoding='utf-8')).text
    assert 'No file says what ranks the trials: taken is aAcc.' in text
    assert 'MAdds at 800×1088, a default: no file of the work dir says the input size.' in text


def test_a_run_that_was_given_its_network_shows_it(tmp_path):
    (tmp_path / 'derived').mkdir()
    (tmp_path / 'derived' / 'arch.json').write_text(FOUND.format('json'))
    # the space lies there from an earlier search, its log was set aside
    (tmp_path / 'search_space.json').write_text(zoo.space('fna_det').format())
    written = write_report(tmp_path, tmp_path / 'out', input_size=(64, 64))
    assert [path.name for path in written] == ['network.png', 'report.html']
    text = Page(written[-1].read_text(encoding='utf-8')).text
    assert 'the network was given, and not searched here' in text
    assert 'Space' not in text


def test_a_search_is_priced_at_the_size_that_it_used(tmp_path):
    space = SearchSpace((SpaceStage(32, 16, (('k3_e1', 'k5_e1'),), 1),))
    (tmp_path / 'search_space.json').write_text(space.format())
    write_log(tmp_path / 'search_log.jsonl', search_log(space, count=4, start=150, size=(64, 64), latency=20.0))
    report = {'method': 'gradient', 'input_size': [64, 64], 'metric': 'latency', 'limits': {'latency': {'max': 25}}}
    (tmp_path / 'run.json').write_text(json.dumps({'report': report}))
    page = Page(write_report(tmp_path)[-1].read_text(encoding='utf-8'))
    assert 'MAdds at 64×64.' in page.text
    assert 'limit25 ms' in page.text
    last = json.loads((tmp_path / 'search_log.jsonl').read_text().splitlines()[-1])
    rows = dict(row for row in page.rows if len(row) == 2)
    assert rows['expected latency'] == f'{last["expected_latency"]:.3g} ms'
    assert rows['argmax latency'] == f'{last["argmax_latency"]:.3g} ms'
    assert rows['expected MAdds'] == f'{last["expected_macs"] / 1e6:.3f} M'


@pytest.mark.parametrize('said', [True, False])
def test_a_plain_training_is_refused_in_one_sentence(tmp_path, said):
    distilled.write_log(tmp_path, '1', [{'loss': 1.0, 'step': 1}])
    if said:
        (tmp_path / 'run.json').write_text(json.dumps({'report': {'method': 'plain'}}))
    done = run_tool(tmp_path)
    assert done.returncode == 2
    assert 'is the work dir of a plain training: a report tells of a search' in done.stderr.splitlines()[-1]


def test_the_tool_reports_a_random_search(tmp_path):
    done = run_tool(tried(tmp_path), '--input-size', 64, 64)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.split() == [str(tmp_path / name) for name in ('network.png', 'report.html')]
