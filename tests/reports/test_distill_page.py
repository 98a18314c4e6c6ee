import json
import re

import pytest

from mmnas_ext.archs import SearchSpace, SpaceStage, zoo
from mmnas_ext.reports import (
    draw_features,
    draw_front,
    draw_rank,
    draw_ratings,
    write_report,
)
from mmnas_ext.reports.distillation import ratings_figure
from mmnas_ext.reports.facts import read_facts
from mmnas_ext.reports.imitation import features_figure, read_features
from mmnas_ext.reports.ranking import front_figure, rank_figure, read_rank
from mmnas_ext.search.front_file import FrontFile
from mmnas_ext.search.ratings import Ratings
from tests.reports import distilled
from tests.reports.distilled import HAND_CHOICE, hand, hand_front, record, write
from tests.reports.drawn import overlaps, texts
from tests.reports.simulated import search_log
from tests.reports.simulated import write_log as write_search_log
from tests.reports.test_page import Page, run_tool


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'dna <demo>'
    folder.mkdir()
    return distilled.work_dir(folder, count=60)


def _is_distillation(folder):
    return read_facts(folder).method == 'distillation'


def test_no_text_covers_another_or_leaves_the_figure(finished):
    figures = [
        ratings_figure(Ratings.parse(finished), FrontFile.parse(finished).choice),
        front_figure(FrontFile.parse(finished)),
        rank_figure(read_rank(finished)),
        features_figure(*read_features(finished / 'features.npz')),
    ]
    for figure in figures:
        shown = texts(figure)
        assert len(shown) > 8
        assert overlaps(shown) == []
        width, height = figure.canvas.get_width_height()
        extents = [text.get_window_extent() for text in shown]
        assert [e for e in extents if e.x0 < 0 or e.y0 < 0 or e.x1 > width or e.y1 > height] == []


def test_the_report_of_all_files(finished):
    (finished / 'derived').mkdir()
    (finished / 'derived' / 'arch.json').write_text(zoo.arch('dna_a').format('json'))
    written = write_report(finished)
    names = ['ratings', 'front', 'features', 'rank', 'network']
    assert written == (*(finished / 'report' / f'{name}.png' for name in names), finished / 'report.html')
    text = written[-1].read_text(encoding='utf-8')
    page = Page(text)
    assert page.stack == []
    assert page.images() == [path.read_bytes() for path in written[2:4]]  # of images; the others are charts
    assert '<h1>Distillation in dna &lt;demo&gt;</h1>' in text
    rows = page.rows
    rated = json.loads((finished / 'ratings.json').read_text())['blocks'][0]['cells']
    values = sorted(rating for cell in rated for rating in cell['ratings'])
    # 6 ** 3 paths of the first cell and 6 ** 4 of the second
    middle = (values[755] + values[756]) / 2
    numbers = [f'{value:.4f}' for value in (values[0], middle, values[-1])]
    assert ['0', '0–1', '2', '1+2, 1+3', '24', '1512', *numbers] in rows
    chosen = json.loads((finished / 'front.json').read_text())['chosen']
    costs = [f'{chosen["costs"]["macs"] / 1e6:.4g} M', f'{chosen["costs"]["params"] / 1e3:.4g} k']
    assert ['chosen', *costs, f'{chosen["rating"]:.4f}'] in rows


def test_the_page_says_what_is_chosen_in_each_block(tmp_path):
    write(tmp_path, 'ratings.json', json.loads(hand().format()))
    hand_front().write(tmp_path)
    written = write_report(tmp_path)
    marked = draw_ratings(tmp_path, tmp_path / 'marked.png', HAND_CHOICE)
    assert written[0].read_bytes() == marked.read_bytes()
    rows = Page(written[-1].read_text(encoding='utf-8')).rows
    assert ['chosen', '50.00 M', '5.000 k', '1.1000'] in rows
    assert ['limit', '55.00 M', '–', '–'] in rows
    # entry 1 of the first block, and of the second its first cell's second path, for 16 channels
    start = next(n for n, row in enumerate(rows) if 'chosen candidates' in row) + 1
    assert rows[start : start + 2] == [
        ['0', '0–1', '1+1', '8', '16', 'k3_e1 | k5_e3', '0.3000', '0 of 4'],
        ['1', '2', '1', '16', '32', 'k5_e3', '0.8000', '3 of 5'],
    ]


def test_the_size_is_that_of_the_ratings(tmp_path):
    write(tmp_path, 'ratings.json', json.loads(hand().format()))
    found = hand_front()
    found.write(tmp_path)
    (tmp_path / 'derived').mkdir()
    (tmp_path / 'derived' / 'arch.json').write_text(found.arch.format('json'))
    text = write_report(tmp_path)[-1].read_text(encoding='utf-8')
    assert text.count('MAdds at 64×96.') == 3  # of the headline, the networks and the choice
    assert 'a default' not in text
    again = write_report(tmp_path, input_size=(32, 48))[-1].read_text(encoding='utf-8')
    assert (again.count('MAdds at 64×96.'), again.count('MAdds at 32×48.')) == (1, 2)


def test_a_distillation_that_still_runs_shows_its_losses(tmp_path):
    distilled.write_log(tmp_path, '1', distilled.losses(2, count=5))
    distilled.write_log(tmp_path, '2', distilled.losses(2, count=2, first=4), tail='{"lr"')
    written = write_report(tmp_path, tmp_path / 'made' / 'here')
    assert [path.name for path in written] == ['report.html']
    assert {path.parent for path in written} == {tmp_path / 'made' / 'here'}
    text = written[-1].read_text(encoding='utf-8')
    assert '2 blocks, logged up to step 250; losses repeated by a resumed run: 4; unreadable lines: 1' in text
    assert 'Ratings' not in text


def test_a_folder_without_a_distillation_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='no work dir at .*nowhere'):
        write_report(tmp_path / 'nowhere')
    write(tmp_path, 'run.json', {'report': {'method': 'distillation'}})
    with pytest.raises(FileNotFoundError, match=r'nothing of a distillation in .*: wanted .*ratings\.json'):
        write_report(tmp_path)
    assert not (tmp_path / 'report').exists()


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write(tmp_path, 'ratings.json', json.loads(hand().format()))
    content = json.loads(hand_front().format())
    content['chosen']['choice'] = [1, 10]
    write(tmp_path, 'front.json', content)
    with pytest.raises(ValueError, match=r'front\.json: chosen: choice\[1\] must lie in 0\.\.9, got 10'):
        write_report(tmp_path)
    assert not (tmp_path / 'report').exists()


def test_a_distillation_is_known_by_its_ratings_or_its_losses(tmp_path):
    assert not _is_distillation(tmp_path)
    distilled.write_log(tmp_path, '1', [{'loss': 1.0, 'step': 1}])
    assert not _is_distillation(tmp_path)
    distilled.write_log(tmp_path, '2', [record(1, loss_block0=1.0)])
    assert _is_distillation(tmp_path)
    other = tmp_path / 'other'
    other.mkdir()
    write(other, 'ratings.json', json.loads(hand().format()))
    assert _is_distillation(other)


def test_the_tool_tells_a_distillation_from_a_search(tmp_path):
    (tmp_path / 'dna').mkdir()
    write(tmp_path / 'dna', 'ratings.json', json.loads(hand().format()))
    done = run_tool(tmp_path / 'dna')
    assert (done.returncode, done.stderr) == (0, '')
    names = ['report/ratings.png', 'report.html']
    assert done.stdout.split() == [str(tmp_path / 'dna' / name) for name in names]
    write(tmp_path / 'dna', 'ratings.json', [])
    refused = run_tool(tmp_path / 'dna')
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].endswith('ratings.json must be an object, got []')


def test_a_search_that_logs_scalars_stays_a_search(tmp_path):
    space = SearchSpace((SpaceStage(32, 16, (('k3_e1', 'k5_e1'),), 1),))
    (tmp_path / 'search_space.json').write_text(space.format())
    write_search_log(tmp_path / 'search_log.jsonl', search_log(space, count=4, start=150, size=(64, 64)))
    distilled.write_log(tmp_path, '1', [{'loss': 1.0, 'lr': 0.1, 'step': 1}])
    done = run_tool(tmp_path, '--input-size', 64, 64)
    assert [line.rpartition('/')[2] for line in done.stdout.split()] == ['network.png', 'alphas.png', 'report.html']


@pytest.mark.parametrize(
    ('draw', 'name'),
    [(draw_ratings, 'ratings.json'), (draw_front, 'front.json'), (draw_rank, 'rank.json'), (draw_features, 'f.npz')],
)
def test_missing_and_broken_files_are_named(tmp_path, draw, name):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / name))):
        draw(tmp_path / name, tmp_path / 'a.png')
    (tmp_path / name).write_text('{')
    with pytest.raises(ValueError, match=f'{re.escape(name)}(: the text is not JSON| is not an )'):
        draw(tmp_path / name, tmp_path / 'a.png')
