"""What a comparison came to, as values, JSON and Markdown; rows that contradict themselves; the usual rows."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmnas_ext.archs import ArchSpec, cost
from mmnas_ext.runs.compared import NAME, Outcome, Results, RowResult, read_results
from mmnas_ext.runs.rows import Comparison, Row, read_options
from mmnas_ext.runs.run import prepare
from mmnas_ext.runs.usual_rows import draw_near, usual_rows
from tests.engine import tiny, tiny_trials
from tests.runs.test_comparison import SEED, write_config

ROOT = Path(__file__).resolve().parents[2]


def outcome(seed: int, mean: float | None, macs: int = 279_423_872, **seconds: float) -> Outcome:
    return Outcome(seed, 'network', macs, 1_812_000, {'coco/bbox_mAP': mean, 'coco/bbox_mAP_50': 0.7}, seconds)


# differences of `found`: +1, +2 and +3 on random seeds 0 to 2; of `other` +1 on seed 2 alone
RESULTS = Results(
    'coco/bbox_mAP',
    'seed',
    (
        RowResult('seed', 'the seed', (outcome(0, 0.30, adapt=600), outcome(1, 0.31, adapt=720), outcome(2, 0.29))),
        RowResult(
            'found',
            'found',
            (
                outcome(0, 0.31, 200_000_000, search=60, selection=30, adapt=600),
                outcome(1, 0.33, 210_000_000, search=120, selection=30, adapt=600),
                outcome(2, 0.32, 200_000_000, search=90, selection=30, adapt=600),
            ),
        ),
        RowResult('other', 'other', (outcome(2, 0.30), outcome(3, 0.5), outcome(4, None))),
    ),
)


def test_tables_by_hand() -> None:
    """Deviations of 30, 31, 29 and of 31, 33, 32 are 1; 4.303 / sqrt(3) is 2.48."""
    assert RESULTS.table().splitlines() == [
        '| network | seeds | mAP | multiply-adds | parameters | search, CPU minutes | selection, CPU minutes | '
        'adaptation, CPU minutes |',
        '|---|---:|---:|---:|---:|---:|---:|---:|',
        '| the seed | 3 | 30.00 ± 1.00 | 279.4 M | 1.812 M | – | – | 11.0 ± 1.4 |',
        '| found | 3 | 32.00 ± 1.00 | 200.0 M, 210.0 M | 1.812 M | 1.5 ± 0.5 | 0.5 ± 0.0 | 10.0 ± 0.0 |',
        '| other | 2 of 3 | 40.00 ± 14.14 | 279.4 M | 1.812 M | – | – | – |',
    ]
    assert RESULTS.pairs().splitlines() == [
        '| random seed | the seed | found | other |',
        '|---|---:|---:|---:|',
        '| 0 | 30.00 | 31.00 (+1.00) | – |',
        '| 1 | 31.00 | 33.00 (+2.00) | – |',
        '| 2 | 29.00 | 32.00 (+3.00) | 30.00 (+1.00) |',
        '| 3 | – | – | 50.00 |',
        '| 4 | – | – | – |',
        '| mean difference | – | +2.00 (-0.48 to +4.48), n = 3 | +1.00, n = 1 |',
    ]


def test_another_baseline_and_metric() -> None:
    turned = replace(RESULTS, baseline='found')
    assert turned.pairs().splitlines()[-1] == ('| mean difference | -2.00 (-4.48 to +0.48), n = 3 | – | -2.00, n = 1 |')
    percent = replace(RESULTS, metric='mIoU')
    assert percent.scale == 1 and percent.label == 'mIoU'
    assert percent.values('found') == {}
    assert replace(RESULTS, metric='coco/bbox_mAP_50').label == 'mAP_50'
    assert replace(RESULTS, metric='coco/bbox_mAP_50').values('other') == pytest.approx({2: 70, 3: 70, 4: 70})


def test_many_costs_are_a_range() -> None:
    row = RowResult('a', 'a', tuple(outcome(n, 0.1, 1000 * (n + 1)) for n in range(4)))
    assert '| 1.000 k to 4.000 k |' in Results('coco/bbox_mAP', 'a', (row,)).table()


def test_json_is_read_back() -> None:
    assert Results.parse(RESULTS.format()) == RESULTS
    content = json.loads(RESULTS.format())
    assert content['paired']['found'] == pytest.approx({'n': 3, 'mean': 2, 'low': -0.4841, 'high': 4.4841}, abs=1e-3)
    assert content['paired']['other'] == pytest.approx({'n': 1, 'mean': 1, 'low': None, 'high': None})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda content: content.update(version=2), 'must be an object of version 1'),
        (lambda content: content.pop('metric'), "a field is missing .*'metric'"),
        (lambda content: content['rows'][0]['outcomes'][0].update(macs='many'), 'macs must be'),
        (lambda content: content['rows'][0]['outcomes'][0].update(more=1), "unexpected keyword argument 'more'"),
    ],
)
def test_other_json(change: Any, message: str) -> None:
    content = json.loads(RESULTS.format())
    change(content)
    with pytest.raises(ValueError, match=message):
        Results.parse(json.dumps(content))


def finish(folder: Path, record: dict[str, float]) -> None:
    """Leaves the files of a training that has ended."""
    logs = folder / 'adapt' / 'now' / 'vis_data'
    logs.mkdir(parents=True)
    (logs / 'scalars.json').write_text(json.dumps({**record, 'step': 1}))
    (folder / 'derived').mkdir()
    (folder / 'derived' / 'arch.json').write_text(ArchSpec.parse(SEED).format('json'))
    part = {'id': 'a', 'settings': {}, 'done': True, 'notes': {}}
    given = {**part, 'notes': {'origin': 'given', 'arch': ArchSpec.parse(SEED).format('fna')}}
    parts = {'derive': given, 'adapt': part}
    manifest = {'version': 1, 'id': 'a', 'method': 'gradient', 'state': 'done', 'parts': parts}
    manifest |= {'report': {'input_size': [32, 16], 'output_stride': 8}, 'versions': {}}
    (folder / 'run.json').write_text(json.dumps(manifest))


def test_what_a_validation_gives_is_read(tmp_path: Path) -> None:
    comparison = Comparison('c.py', tmp_path, (Row('a'), Row('seed')), (0, 1))
    finish(tmp_path / 'seed0' / 'a', {'aAcc': 0.5, 'mIoU': 40.0})
    finish(tmp_path / 'seed1' / 'a', {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_s': -1.0})
    found = read_results(comparison)
    assert (found.metric, found.baseline) == ('coco/bbox_mAP', 'seed')
    assert found.values('a') == {1: 25.0}  # the other one has none, and still counts as ended
    (row,) = found.rows
    assert [each.metrics for each in row.outcomes][1] == {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_s': None}
    assert row.outcomes[0].macs == cost(ArchSpec.parse(SEED), (32, 16), 8).macs
    assert read_results(comparison, 'mIoU', 'a').values('a') == {0: 40.0}
    with pytest.raises(ValueError, match='--metric must be one that the validations gave, .*mIoU.*, got .miou.'):
        read_results(comparison, 'miou')
    with pytest.raises(ValueError, match="--baseline must be among .'a', 'seed'., got 'b'"):
        read_results(comparison, baseline='b')


@pytest.mark.parametrize(
    ('row', 'message'),
    [
        (dict(name='a/b'), "named by letters, .* got 'a/b'"),
        (dict(name='a', selection='argmax'), 'row a: selection must be .* and needs search_of'),
        (dict(name='a', search_of='b', selection='best'), "selection must be one of .*'measured'.* got 'best'"),
        (dict(name='a', arch='x', search_of='b'), 'row a: a given arch is trained, not searched'),
        (dict(name='a', arch='x', train=False), 'row a: a given arch is trained, not searched'),
    ],
)
def test_rows_that_contradict_themselves(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Row(**row)


SEARCH = Row('search', train=False)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(rows=()), 'rows must be at least one'),
        (dict(rows=(Row('a'), Row('a'))), "each of another name, got 'a' twice"),
        (dict(rows=(Row('a', search_of='search'), SEARCH)), "row a needs a row 'search' before it"),
        (dict(rows=(Row('a', arch='found:b'),)), "row a needs a row 'b' before it"),
        (dict(rows=(Row('a', after=['b']), Row('b'))), "row a needs a row 'b' before it"),
        (dict(rows=(SEARCH, Row('a', arch='found:search'))), "only searches: say search_of='search' instead"),
        (dict(rows=(Row('s', arch='seed'), Row('a', search_of='s'))), 'search_of must be a row that searches itself'),
        (dict(rows=(SEARCH,), seeds=(0, 0)), '--seeds must be distinct integers of at least 0, got .0, 0.'),
        (dict(rows=(SEARCH,), seeds=(-1,)), '--seeds must be distinct'),
        (dict(rows=(SEARCH,), options=('randomness.seed=3',)), 'must not set randomness.seed, which --seeds does'),
        (dict(rows=(Row('a', options=('random_search.seed=3',)),)), 'must not set random_search.seed'),
    ],
)
def test_comparisons_that_contradict_themselves(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Comparison('c.py', Path('all'), **changes)


def test_some_rows_and_what_they_need() -> None:
    rows = (SEARCH, Row('seed', arch='seed'), Row('a', search_of='search'), Row('b', arch='found:a'))
    whole = Comparison('c.py', Path('all'), rows)
    assert [row.name for row in whole.only(['b']).rows] == ['search', 'a', 'b']
    after = Comparison('c.py', Path('all'), (*rows, Row('c', arch='found:a', after=['seed'])))
    assert [row.name for row in after.only(['c']).rows] == ['search', 'seed', 'a', 'c']
    assert [row.name for row in whole.only(['seed']).rows] == ['seed']
    with pytest.raises(ValueError, match="rows must be among .*'b'.*, got .'c'."):
        whole.only(['seed', 'c'])


def test_options_are_read_as_the_tools_do() -> None:
    assert read_options(['a.b=[1,2]', 'c=None', 'd=x']) == {'a.b': [1, 2], 'c': None, 'd': 'x'}
    assert read_options([]) == {}
    for wrong in ('a', 'a=[1,2'):
        with pytest.raises(ValueError, match='--cfg-options must be key=value with balanced brackets, got a'):
            read_options([wrong])


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_config(tmp_path_factory.mktemp('config') / 'tiny.py', seed=True)


def test_usual_rows(config: str, tmp_path: Path) -> None:
    limited = prepare(config, options={'optim_wrapper.cost.max': tiny_trials.MIDDLE})
    rows = usual_rows(limited, tmp_path, (3, 4), random=2, networks=['mine=mobilenet_v2'])
    assert [row.name for row in rows] == ['seed', 'search', 'found', 'mine', 'random0', 'random1']
    assert [row.train for row in rows] == [True, False, True, True, True, True]
    assert (rows[2].search_of, rows[3].arch) == ('search', 'mobilenet_v2')
    for seed in (3, 4):
        for row in rows[4:]:
            arch = ArchSpec.parse(str(row.arch).replace('{seed}', str(seed)))
            assert 0.9 * tiny_trials.MIDDLE <= cost(arch, tiny.SIZE).macs <= tiny_trials.MIDDLE
    # other random seeds draw other networks; two cost so much
    assert len({draw_near(limited, 1, seed)[0] for seed in range(8)}) == 2
    Comparison(config, tmp_path, tuple(rows))  # in an order in which each has what it needs
    # a longer draw extends a shorter one, with the epsilon of the seed
    (first,) = draw_near(limited, 1, 3)
    assert first == ArchSpec.parse(str(rows[4].arch).replace('{seed}', '3'))
    # another command's, of another limit, does not write over it
    cheaper = prepare(config, options={'optim_wrapper.cost.max': tiny_trials.macs(sorted(tiny_trials.PATHS)[0]) * 3})
    (other,) = (row for row in usual_rows(cheaper, tmp_path, (3, 4), random=1) if row.name == 'random0')
    assert other.arch != rows[4].arch and first == ArchSpec.parse(str(rows[4].arch).replace('{seed}', '3'))
    assert first.bn_eps == ArchSpec.parse(SEED).bn_eps


def test_a_search_that_trains_no_alpha_is_one_row(config: str, tmp_path: Path) -> None:
    options = {'train_cfg.arch_start': prepare(config).train_cfg.max_epochs, 'optim_wrapper.selection.type': 'measured'}
    assert [row.name for row in usual_rows(prepare(config, options=options), tmp_path, (0,))] == ['seed', 'found']


@pytest.mark.parametrize(
    ('asked', 'message'),
    [
        (dict(networks=['mine']), "--network must be NAME=ARCH, got 'mine'"),
        (dict(networks=['mine=nothing']), 'nothing'),
        (dict(random=-1), '--random must be at least 0, got -1'),
        (dict(random=99), '--random: count must be at most'),
    ],
)
def test_rows_that_cannot_be(config: str, tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        usual_rows(prepare(config), tmp_path, (0,), **asked)


def test_a_random_search_is_one_row_within_its_own_limit(tmp_path: Path) -> None:
    cfg = prepare(write_config(tmp_path / 'random.py', seed=False, **{'random_search.count': 2}))
    assert [row.name for row in usual_rows(cfg, tmp_path, (0,), random=1)] == ['seed', 'found', 'random0']
    (drawn,) = draw_near(cfg, 1, 0)
    assert 0.9 * tiny_trials.MIDDLE <= cost(drawn, tiny.SIZE).macs <= tiny_trials.MIDDLE


@pytest.fixture
def tool() -> Any:
    spec = importlib.util.spec_from_file_location('tools_compare', ROOT / 'tools' / 'compare.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tool_prints_what_there_is(tool: Any, config: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [config, '--work-dir', str(tmp_path), '--seeds', '0', '1', '--network', f'mine={SEED}', '--table']
    with pytest.raises(SystemExit, match='error: --table: nothing has ended yet in'):
        tool.main(arguments)
    finish(tmp_path / 'seed1' / 'mine', {'mIoU': 41.0})
    finish(tmp_path / 'seed1' / 'seed', {'mIoU': 40.0})
    tool.main(arguments)
    printed = capsys.readouterr().out
    assert '| 1 | 40.00 | 41.00 (+1.00) |' in printed
    assert "by Student's t over the n random seeds" in printed
    assert not (tmp_path / NAME).exists()  # it only prints
    tool.main([*arguments, '--rows', 'mine'])
    assert 'seed (' not in capsys.readouterr().out.splitlines()[1]


def test_the_tool_goes_on_after_a_failure_and_says_so(
    tool: Any, config: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmnas_ext.cli.compare.tools_folder', lambda: ROOT / 'tests' / 'runs' / 'fake_tools')
    monkeypatch.setenv('FAKE_CALLS', str(tmp_path / 'calls.jsonl'))
    monkeypatch.setenv('FAKE_FAIL', 'mine')
    arguments = [config, '--work-dir', str(tmp_path), '--seeds', '0', '--network', f'mine={SEED}']
    with pytest.raises(SystemExit) as end:
        tool.main([*arguments, '--rows', 'seed', 'mine', '--threads', '2'])
    out, err = capsys.readouterr()
    assert end.value.code == 1
    assert err.startswith('error: seed 0, mine: error: --resume: the search was begun with other settings')
    assert '| 0 | 40.00 |' in out
    assert json.loads((tmp_path / 'calls.jsonl').read_text().splitlines()[0])[2] == '2'


def test_a_metric_that_no_validation_gives_ends_no_training(
    tool: Any, config: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmnas_ext.cli.compare.tools_folder', lambda: ROOT / 'tests' / 'runs' / 'fake_tools')
    monkeypatch.setenv('FAKE_CALLS', str(tmp_path / 'calls.jsonl'))
    arguments = [config, '--work-dir', str(tmp_path), '--seeds', '0', '--network', f'mine={SEED}', '--jobs', '1']
    with pytest.raises(SystemExit, match='error: --metric must be one that the validations gave'):
        tool.main([*arguments, '--rows', 'seed', 'mine', '--metric', 'mAP'])
    out = capsys.readouterr().out
    assert 'seed 0, seed: done' in out and 'seed 0, mine: ' in out.partition('seed 0, seed: done')[2]


@pytest.mark.parametrize(
    ('asked', 'message'),
    [
        (['--jobs', '0'], '--jobs must be at least 1, got 0'),
        (['--threads', '0'], '--threads must be at least 1, got 0'),
        (['--rows', 'nothing'], 'rows must be among'),
        (['--cfg-options', 'a'], '--cfg-options must be key=value'),
        (['--seeds', '1', '1'], '--seeds must be distinct'),
    ],
)
def test_what_a_user_can_do_wrong(tool: Any, config: str, tmp_path: Path, asked: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=f'error: {message}'):
        tool.main([config, '--work-dir', str(tmp_path), *asked])


def test_a_config_that_only_trains(tool: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match='error: a comparison needs a config that searches, with derived'):
        tool.main([str(ROOT / 'configs' / 'retinanet_mbv2_coco.py'), '--work-dir', str(tmp_path)])
