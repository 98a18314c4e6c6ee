"""The figure, the table and the section of an evolution, drawn from a file that is written by hand."""

import json

import pytest

from mmnas_ext.archs import ArchSpec, Limit
from mmnas_ext.reports import draw_generations, write_report
from mmnas_ext.reports.evolution import generations_cells, generations_figure
from mmnas_ext.search.generations import Bred, Generations
from mmnas_ext.workdir import WorkDir
from tests.reports.distilled import drawn, words
from tests.reports.drawn import png_size
from tests.reports.test_page import Page

VALUES = ((0.5, 0.4, None), (0.3, 0.7), (0.6, 0.35, 0.45))
MADE = (('seed', 'drawn', 'drawn'), ('crossed', 'mutated'), ('crossed', 'mutated', 'drawn'))


def generations(values=VALUES, rule='less', rank_by='loss', **fields):
    rows = tuple(
        tuple(
            Bred(
                ArchSpec.parse(f'[[8, 4], {json.dumps(["k3_e1"] * (4 * number + place + 1))}, 1]'), 100 + place, v, made
            )
            for place, (v, made) in enumerate(zip(row, names, strict=True))
        )
        for number, (row, names) in enumerate(zip(values, MADE, strict=True))
    )
    given = dict(limit=Limit(95.0, 110.0), asked=4, metric='macs')
    return Generations(rank_by, rule, rows=rows, **{**given, **fields})


def test_values_of_a_generation_are_summed_up():
    less = generations()
    assert (less.count, less.bests, less.leads) == (8, (0.4, 0.3, 0.35), (0.4, 0.3, 0.3))
    assert less.means == pytest.approx((0.45, 0.5, 1.4 / 3))
    greater = generations(rule='greater', rank_by='mIoU')
    assert (greater.bests, greater.leads) == ((0.5, 0.7, 0.6), (0.5, 0.7, 0.7))
    failed = generations(((None,) * 3, (0.3, None), (None,) * 3))
    assert (failed.bests, failed.leads, failed.means) == ((None, 0.3, None), (None, 0.3, 0.3), (None, 0.3, None))


def test_the_file_says_what_it_is_written_from(tmp_path):
    known = generations()
    WorkDir(tmp_path).evolution.write_text(known.format())
    assert Generations.parse(tmp_path) == Generations.parse(tmp_path / 'evolution.json') == known
    content = json.loads(known.format())
    for change, said in (
        (dict(rule='more'), r"evolution: rule must be one of \('greater', 'less'\), got 'more'"),
        (dict(metric='size'), "evolution: metric must be one of .*, got 'size'"),
        (dict(generations=[]), 'evolution: rows must hold at least one generation, each of at least one network'),
        (dict(asked='4'), "evolution: asked must be an integer, got '4'"),
    ):
        with pytest.raises(ValueError, match=said):
            Generations.parse({**content, **change})
    content['generations'][1][0]['made'] = 'found'
    with pytest.raises(ValueError, match="generation 1: network 0: made must be one of .*, got 'found'"):
        Generations.parse(content)
    with pytest.raises(FileNotFoundError, match='a search by evolution writes it'):
        Generations.parse(tmp_path / 'other')


def test_every_network_stands_in_its_generation_and_the_best_so_far_never_gets_worse(tmp_path):
    figure = generations_figure(generations())
    networks, seed = drawn(figure, 'networks'), drawn(figure, 'seed')
    points = list(zip(networks.get_xdata(), networks.get_ydata(), strict=True))
    assert points == [(1, 0.4), (2, 0.3), (2, 0.7), (3, 0.6), (3, 0.35), (3, 0.45)]
    assert (list(seed.get_xdata()), list(seed.get_ydata())) == ([1], [0.5])
    assert list(drawn(figure, 'best').get_ydata()) == [0.4, 0.3, 0.3]
    assert list(drawn(figure, 'mean').get_ydata()) == pytest.approx([0.45, 0.5, 1.4 / 3])
    assert {'loss (lower is better)', 'generation', 'What each generation reached'} <= words(figure)
    assert 'mIoU (higher is better)' in words(generations_figure(generations(rule='greater', rank_by='mIoU')))
    assert png_size(draw_generations(generations(), tmp_path / 'evolution.png').read_bytes()) == (1400, 650)


def test_the_table_says_how_networks_came_about():
    assert generations_cells(generations()) == [
        ['generation', 'networks', 'seed', 'drawn', 'crossed', 'mutated', 'best loss', 'mean loss', 'best so far loss',
         'failed'],
        ['1', '3', '1', '2', '0', '0', '0.4000', '0.4500', '0.4000', '1'],
        ['2', '2', '0', '0', '1', '1', '0.3000', '0.5000', '0.3000', '0'],
        ['3', '3', '0', '1', '1', '1', '0.3500', '0.4667', '0.3000', '0'],
    ]  # fmt: skip


def test_the_page_of_a_run_has_a_section_of_generations(tmp_path):
    files = WorkDir(tmp_path)
    files.arch.parent.mkdir()
    files.arch.write_text(ArchSpec.parse('[[8, 4], ["k3_e1"], 1]').format('json'))
    files.evolution.write_text(generations().format())
    figures = write_report(tmp_path)
    assert tmp_path / 'evolution.png' in figures
    text = (tmp_path / 'report.html').read_text()
    assert 'generation 3 of 4, 8 networks measured by loss' in text
    assert Page(text).rows.count(['3', '3', '0', '1', '1', '1', '0.3500', '0.4667', '0.3000', '0']) == 1
