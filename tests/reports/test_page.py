import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib import get_cachedir
from plotly.offline import get_plotlyjs

from mmnas_ext.archs import ArchSpec, SearchSpace, SpaceStage, zoo
from mmnas_ext.reports import write_report
from tests.reports.drawn import png_size
from tests.reports.simulated import search_log, work_dir, write_log

PROJECT = Path(__file__).resolve().parents[2]
DET = zoo.space('fna_det')
FOUND = zoo.arch('fna_retinanet')
EARLY = FOUND.replace(stages=(*FOUND.stages[:-1], zoo.arch('mobilenet_v2').stages[-1]))
RESULTS = {
    'rows': [
        {
            'network': 'MobileNetV2 <b>seed</b> & co',
            'macs': 4847148800,
            'params': 1811712,
            'metrics': {'bbox_mAP': 0.328},
        },
        {'network': 'found', 'macs': 4823403200, 'params': 2055712, 'metrics': {'bbox_mAP': 0.339}},
    ],
    'input_size': [800, 1088],
}


def without_plotly(text):
    """The page without the library in it, which is not ours to read."""
    return text.replace(get_plotlyjs(), '')


class Page(HTMLParser):
    """Tags with their attributes, text, and rows of tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.rows, self.stack = [], [], [], []
        self.feed(without_plotly(text))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ('meta', 'img', 'br', 'link'):
            self.stack.append(tag)
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ('script', 'style'):
            self.texts.append(data)
        if self.stack and self.stack[-1] in ('td', 'th'):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return ''.join(self.texts)

    def images(self):
        return [base64.b64decode(attrs['src'].partition(';base64,')[2]) for tag, attrs in self.tags if tag == 'img']


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'fna <demo> & more'
    folder.mkdir()
    snapshots = {2: EARLY.format('json'), 10: FOUND.format('json')}
    work_dir(folder, DET, found=FOUND.format('json'), snapshots=snapshots, count=10, start=300)
    (folder / 'results.json').write_text(json.dumps(RESULTS), encoding='utf-8')
    return folder


@pytest.fixture(scope='module')
def page(finished):
    *_, target = write_report(finished, seed=zoo.arch('mobilenet_v2'))
    assert target == finished / 'report.html'
    return target.read_text(encoding='utf-8')


def text_of(work_dir, **settings):
    """The page's text as it is written."""
    return write_report(work_dir, **settings)[-1].read_text(encoding='utf-8')


@pytest.fixture
def small(tmp_path):
    """A work dir of a search that has not derived anything yet."""
    layer = ('k3_e3', 'k7_e6')
    space = SearchSpace((SpaceStage(32, 16, (('k3_e1',),), 1), SpaceStage(16, 24, (layer, (*layer, 'skip')), 2)))
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'search_space.json').write_text(space.format(), encoding='utf-8')
    write_log(folder / 'search_log.jsonl', search_log(space, count=4, start=150, size=(64, 64)))
    return folder


def test_the_page_needs_nothing_else(page):
    read = Page(page)
    assert read.stack == []
    assert {tag for tag, _ in read.tags} & {'iframe', 'object', 'embed', 'base'} == set()
    sources = [
        attrs[name] for _, attrs in read.tags for name in ('src', 'href', 'srcset', 'action', 'data') if name in attrs
    ]
    assert {source[:1] if source.startswith('#') else source[:5] for source in sources} == {'#', 'data:'}
    outside = re.sub(r'base64,[A-Za-z0-9+/=]+', '', without_plotly(page))
    assert re.findall(r'https?:|@import|url\(', outside) == []
    assert len(page) < 6e6


def test_all_text_is_escaped(page):
    assert 'MobileNetV2 &lt;b&gt;seed&lt;/b&gt; &amp; co' in page
    assert '<h1>Search in fna &lt;demo&gt; &amp; more</h1>' in page
    assert '<title>Search in fna &lt;demo&gt; &amp; more</title>' in page
    assert {tag for tag, _ in Page(page).tags} & {'b', 'demo'} == set()


def test_the_page_says_the_size_of_the_space(page):
    # six first layers of 6 candidates, fifteen others of 7: 6**6 * 7**15 = 2.215e17
    assert (
        '21 searched layers in 7 stages, 6<sup>6</sup> \u00b7 7<sup>15</sup> \u2248 2.2 \u00b7 10<sup>17</sup> networks'
        in page
    )
    assert 'Candidates: k3_e3, k3_e6, k5_e3, k5_e6, k7_e3, k7_e6, skip.' in page


def test_the_page_holds_the_networks_as_text(page):
    text = Page(page).text
    first, second = [match.start() for match in re.finditer(re.escape('[[32, 16]'), text)][:2]
    end = text.index('How alpha moved', second)
    assert ArchSpec.parse(text[second:end].strip()) == FOUND
    assert text.index('As text, which --arch takes') < first
    assert 'MAdds at 800\u00d71088.' in text


def test_the_page_begins_with_the_result(page):
    read = Page(page)
    # 1 - 4823403200 / 4847148800 is half a percent
    words = 'The found network has 4.823 G MAdds at 800×1088, as much as the seed; trained, it reached bbox_mAP 0.339, '
    assert words + 'the seed with the same recipe 0.328.' in read.text
    assert read.rows[:3] == [
        ['network', 'MAdds at 800×1088', 'parameters', 'bbox_mAP, trained'],
        ['MobileNetV2 <b>seed</b> & co', '4.847 G', '1.812 M', '0.328'],
        ['found', '4.823 G', '2.056 M', '0.339'],
    ]
    assert read.text.index(words) < read.text.index('Networks') < read.text.index('Words')


def test_the_page_sums_up_how_alpha_ended(page, finished):
    last = json.loads((finished / 'search_log.jsonl').read_text().splitlines()[-1])
    rows = dict(row for row in Page(page).rows if len(row) == 2)
    assert rows['arch steps seen from iteration'] == '300'
    assert rows['expected MAdds'] == f'{last["expected_macs"] / 1e9:.3f} G'
    assert rows['argmax MAdds'] == f'{last["argmax_macs"] / 1e9:.3f} G'
    assert rows['layers where skip leads'] == f'{last["skips"]} of 15 that may'
    layer, least = min(last['entropy'].items(), key=lambda item: item[1])
    assert rows['least entropy'] == f'{least:.3f} in layer {layer}'


def test_snapshots_come_by_epoch_with_their_madds(page):
    rows = [row for row in Page(page).rows if len(row) == 5]
    # k7 -> k3 in the last layer: 40 fewer taps on 960 channels at 25x34 positions, and 40 * 960 fewer weights
    macs, params = 4823403200 - 40 * 960 * 25 * 34, 2055712 - 40 * 960
    assert rows[0] == ['epoch', 'MAdds', 'parameters', 'layers', 'network']
    assert rows[1][:4] == ['2', f'{macs / 1e9:.3f} G', f'{params / 1e6:.3f} M', '16']
    assert rows[1][4].endswith('160: k7_e6 k7_e6 k7_e3 k7_e6 | 320: k3_e6')
    assert rows[2][:4] == ['10 (as found)', '4.823 G', '2.056 M', '16']
    assert len(rows) == 3


def test_snapshots_of_a_search_by_iterations_come_by_iteration(small):
    arch = SearchSpace.parse((small / 'search_space.json').read_text()).arch(((0,), (0, 2)))
    (small / 'derived' / 'snapshots').mkdir(parents=True)
    for iteration in (20, 100):
        (small / 'derived' / 'snapshots' / f'iter_{iteration}.json').write_text(arch.format('json'))
    rows = [row for row in Page(text_of(small, input_size=(64, 64))).rows if len(row) == 5]
    assert [row[0] for row in rows] == ['iteration', '20', '100']


def test_predictions_are_on_the_page_where_they_are_drawn(small):
    assert 'id="predictions"' not in text_of(small, input_size=(64, 64))
    (small / 'predictions.png').write_bytes(b'\x89PNG not a whole one')
    read = Page(text_of(small, input_size=(64, 64)))
    assert read.images() == [b'\x89PNG not a whole one']


def test_a_running_search_shows_its_leading_network(small):
    text = Page(text_of(small, input_size=(64, 64))).text
    assert 'The network that leads so far has ' in text
    assert 'nothing is derived yet: below is what leads so far' in text
    assert 'Snapshots' not in text
    assert '2 searched layers in 2 stages' in text


def test_epochs_and_records_are_counted_from_one(small):
    log = small / 'search_log.jsonl'
    record = {**json.loads(log.read_text().splitlines()[0]), 'epoch': 2}  # the third, as MMEngine counts
    log.write_text(json.dumps(record) + '\n')
    settings = {'settings': {'train_cfg.max_epochs': 3}}
    (small / 'run.json').write_text(json.dumps({'state': 'searching', 'parts': {'search': settings}}))
    text = Page(text_of(small, input_size=(64, 64))).text
    assert 'search not finished; searched up to epoch 3 of 3, iteration 50; 1 record;' in text


def test_what_was_left_out_of_the_log_is_said(small):
    log = small / 'search_log.jsonl'
    text = log.read_text()
    log.write_text(text + text.splitlines()[-1] + '\n{"iter": 9')
    page = text_of(small, input_size=(64, 64))
    assert 'searched up to epoch 2, iteration 200; 4 records (1 repeated by a resumed run; 1 unreadable)' in page


def test_results_say_the_input_size(small):
    row = {'network': 'x', 'macs': 10, 'params': 5, 'metrics': {}}
    (small / 'results.json').write_text(json.dumps({'rows': [row], 'input_size': [96, 128]}))
    read = Page(text_of(small))
    assert 'MAdds at 96\u00d7128.' in read.text
    assert ['x', '10', '5'] in read.rows


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', r'results\.json: the text is not JSON'),
        ('[]', r'results\.json must be an object, got \[\]'),
        ('{"rows": 3}', 'rows must be a list, got 3'),
        (
            '{"rows": [], "input_size": [800]}',
            r'input_size must be \[height, width\], two positive integers, got \[800\]',
        ),
        ('{"rows": [], "input_size": [0, 800]}', r'got \[0, 800\]'),
        ('{"rows": [{"network": "x"}]}', r'row 0 \(x\) lacks macs'),
    ],
)
def test_results_of_another_form_are_refused(small, text, message):
    (small / 'results.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        write_report(small)
    assert [path.name for path in small.iterdir() if path.suffix in ('.html', '.png')] == []


def test_what_is_not_the_work_dir_of_a_search_is_refused(small, tmp_path):
    with pytest.raises(FileNotFoundError, match='no work dir at .*nowhere'):
        write_report(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match=r'nothing of a search in .*: wanted search_log\.jsonl, trials'):
        write_report(tmp_path)
    space = (small / 'search_space.json').read_text()
    (small / 'search_space.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'no search space at .*search_space\.json'):
        write_report(small)
    (small / 'search_space.json').write_text(space)
    (small / 'search_log.jsonl').unlink()
    with pytest.raises(FileNotFoundError, match='no search log at'):
        write_report(small)


def test_the_report_is_three_files(small, tmp_path):
    written = write_report(small, tmp_path / 'made' / 'here', input_size=(64, 64))
    assert [path.name for path in written] == ['network.png', 'alphas.png', 'report.html']
    assert {path.parent for path in written} == {(tmp_path / 'made' / 'here')}
    assert Page(written[2].read_text(encoding='utf-8')).images() == []  # charts and text stand for both


def run_tool(*arguments):
    command = [sys.executable, str(PROJECT / 'tools' / 'report.py'), *map(str, arguments)]
    # the fonts that this process has found: looking for them anew takes long, and on a busy machine is announced
    env = {'PYTHONPATH': str(PROJECT), 'MPLCONFIGDIR': get_cachedir()}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_the_tool_writes_into_the_work_dir(small):
    shutil.copy(PROJECT / 'mmnas_ext' / 'archs' / 'zoo' / 'mobilenet_v2.json', small / 'seed.json')
    done = run_tool(small, '--seed', small / 'seed.json', '--input-size', 64, 64)
    assert (done.returncode, done.stderr) == (0, '')
    names = ['network.png', 'alphas.png', 'report.html']
    assert done.stdout.split() == [str(small / name) for name in names]
    assert png_size((small / 'network.png').read_bytes()) == (1400, 754)


def test_the_tool_meets_a_mistake_with_one_sentence(tmp_path):
    done = run_tool(tmp_path / 'nowhere')
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f'python tools/report.py: error: no work dir at {tmp_path / "nowhere"}'
    assert 'Traceback' not in done.stderr


def test_the_room_needs_neither_torch_nor_pyplot():
    code = 'import sys, mmnas_ext.reports; print({"torch", "mmengine", "matplotlib.pyplot"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.strip() == 'set()'
