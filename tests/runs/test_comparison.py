"""A comparison from its rows to its tables: real rows and processes, tools that take milliseconds."""

import json
import os
import re
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mmnas_ext.archs import ArchSpec
from mmnas_ext.runs.changes import settings_of
from mmnas_ext.runs.children import CLOCK, LOG, ChildError, Children, Clock
from mmnas_ext.runs.compare import RowRunner, run_all
from mmnas_ext.runs.compared import read_results
from mmnas_ext.runs.leases import NAME
from mmnas_ext.runs.manifest import read_manifest
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.rows import Comparison, Row, read_options
from mmnas_ext.runs.run import prepare, run
from mmnas_ext.runs.stopping import stopped_by_signals
from tests.engine import tiny_trials

TOOLS = Path(__file__).parent / 'fake_tools'
SEED = "[[8, 4], ['k3_e1'], 1]|[[4, 8], ['k3_e3', 'k3_e3'], 2]|[[8, 8], ['k3_e3'], 1]"
ROWS = (
    Row('search', options=('optim_wrapper.selection=None',), train=False),
    Row('seed', 'the seed', arch='seed'),
    Row('argmax', search_of='search', selection='argmax'),
    Row('plain', arch='found:argmax', options=('derived.model.backbone.init_cfg=None',)),
)


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search of a known seed, which has no weights: no run of it is real."""
    return write_config(tmp_path_factory.mktemp('config') / 'tiny.py', seed=True)


def write_config(path: Path, seed: bool, **changes: Any) -> str:
    cfg = tiny_trials.random_cfg(path.parent, **changes)
    if not changes:
        cfg.pop('random_search')
    if seed:
        init = dict(type='mmnas_ext.Remapped', seed=dict(arch=SEED, checkpoint='seed.pth'))
        cfg.model.backbone.init_cfg = init
    cfg.pop('work_dir')
    cfg.dump(path)
    return str(path)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / 'calls.jsonl'
    file.touch()
    monkeypatch.setenv('FAKE_CALLS', str(file))
    return file


def read_calls(file: Path) -> dict[tuple[str, str], list[list[str]]]:
    """What was called, by random seed and row."""
    found: dict[tuple[str, str], list[list[str]]] = {}
    for line in file.read_text().splitlines():
        seed, row, *given = json.loads(line)
        found.setdefault((seed, row), []).append(given)
    return found


def runner(config: str, tmp_path: Path, rows: tuple[Row, ...] = ROWS, **changes: Any) -> RowRunner:
    comparison = Comparison(config, tmp_path / 'all', rows, **{'seeds': (0, 1), **changes})
    return RowRunner(comparison, TOOLS, Children())


def test_every_row_is_run_as_it_says(config: str, tmp_path: Path, calls: Path) -> None:
    said: list[str] = []
    mine = runner(config, tmp_path, options=('log_level=ERROR',))
    assert run_all(mine, jobs=2, say=said.append) == {}
    found, folder = read_calls(calls), tmp_path / 'all' / 'seed1'
    assert set(found) == {(f'seed{n}', row.name) for n in (0, 1) for row in ROWS}
    common = ['--cfg-options', 'randomness.seed=1', 'train_cfg.split_seed=1', 'log_level=ERROR']
    assert found['seed1', 'search'] == [['1', '--search-only', *common, 'optim_wrapper.selection=None']]
    assert found['seed1', 'seed'] == [['1', '--arch', SEED, *common]]
    chosen = str(folder / 'argmax' / 'selected' / 'arch.json')
    select, adapt = found['seed1', 'argmax']
    assert select == ['select', 'argmax', 'search', *common[1:]]
    assert adapt == ['1', '--arch', chosen, *common]
    assert found['seed1', 'plain'] == [['1', '--arch', chosen, *common, *ROWS[3].options]]
    # the stand-in for argmax chooses another kernel than its search
    assert ArchSpec.parse(folder / 'plain' / 'derived' / 'arch.json').stages[1].layers == ('k3_e3',)
    assert said.index('seed 1, argmax: done') < said.index('seed 1, plain: begins')
    results = read_results(mine.comparison)
    assert [row.name for row in results.rows] == ['seed', 'argmax', 'plain']
    assert results.values('argmax') == {0: 60.0, 1: 61.0}
    assert results.differences('plain') == {0: 10.0, 1: 10.0}
    for row in ('seed', 'argmax'):
        seconds = Clock.parse(tmp_path / 'all' / 'seed0' / row / CLOCK).seconds
        assert set(seconds) == ({'adapt'} if row == 'seed' else {'selection', 'adapt'})
        assert all(0 < spent < 5 for spent in seconds.values())
    # the search is that of another row, and counts there
    (outcome, _) = results.rows[1].outcomes
    assert outcome.seconds['search'] == Clock.parse(tmp_path / 'all' / 'seed0' / 'search' / CLOCK).seconds['search']


def test_a_row_waits_for_those_that_it_comes_after(
    config: str, tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    after = Row('last', arch=SEED.replace('k3', 'k5'), after=('seed', 'other'))
    rows = (Row('seed', arch='seed'), Row('other', arch='seed', options=('log_level=ERROR',)), after)
    run_all(runner(config, tmp_path, rows, seeds=(0,)), jobs=3, say=said.append)
    assert said[-2:] == ['seed 0, last: begins', 'seed 0, last: done']
    monkeypatch.setenv('FAKE_FAIL', 'other')
    failed = run_all(runner(config, tmp_path / 'failing', rows, seeds=(0,)), jobs=3, say=said.append)
    assert failed[0, 'last'] == 'it needs row other, which failed' and (0, 'seed') not in failed


def test_a_search_and_its_adaptation_in_one_folder(config: str, tmp_path: Path, calls: Path) -> None:
    random = write_config(tmp_path / 'random.py', seed=False, **{'random_search.count': 2})
    mine = runner(config, tmp_path, (Row('fna'), Row('random', config=random)), seeds=(4,))
    assert run_all(mine, jobs=1, say=lambda text: None) == {}
    common = ['--cfg-options', 'randomness.seed=4', 'train_cfg.split_seed=4']
    assert read_calls(calls)['seed4', 'fna'] == [['1', '--search-only', *common], ['1', '--resume', *common]]
    assert read_calls(calls)['seed4', 'random'][0] == ['1', '--search-only', *common, 'random_search.seed=4']
    assert set(Clock.parse(tmp_path / 'all' / 'seed4' / 'fna' / CLOCK).seconds) == {'search', 'adapt'}


def test_trials_tell_the_time_of_their_search(config: str, tmp_path: Path, calls: Path) -> None:
    mine = runner(config, tmp_path, (Row('fna'),), seeds=(0,))
    run_all(mine, say=lambda text: None)
    for number, seconds in enumerate((40.0, 2.5)):
        trial = tmp_path / 'all' / 'seed0' / 'fna' / 'trials' / f'0{number}'
        trial.mkdir(parents=True)
        (trial / 'result.json').write_text(json.dumps({'cpu_seconds': seconds}))
    (row,) = read_results(mine.comparison).rows
    assert row.outcomes[0].seconds['search'] == 42.5


def write_settings(comparison: Comparison, name: str, seed: int, **others: str) -> None:
    """Gives the manifest that a stand-in wrote the settings of the training that it stands for."""
    row = comparison.row(name)
    folder = comparison.folder(row, seed)
    cfg = prepare(row.config or comparison.config, options=read_options(comparison.options_of(row, seed)))
    arch = ArchSpec.parse(row.arch if row.arch not in (None, 'seed') else SEED)
    trained = method_of(cfg).derive(cfg, arch)
    manifest = json.loads((folder / 'run.json').read_text())
    manifest['parts']['derive']['notes']['arch'] = arch.format('fna')
    part = manifest['parts']['adapt']
    part.update(id='first', settings={**settings_of(trained, 'train_dataloader', root=folder), **others})
    (folder / 'run.json').write_text(json.dumps(manifest))


def test_the_same_training_is_not_repeated(config: str, tmp_path: Path, calls: Path) -> None:
    again = (
        Row('seed', arch='seed'),
        Row('given', arch=SEED, options=('optim_wrapper.selection=None',)),  # an option of the search alone
        Row('slower', arch=SEED, options=('derived.log_processor.window_size=7',)),
        Row('other', arch=SEED.replace("['k3_e3', 'k3_e3']", "['k3_e3', 'k5_e3']")),
    )
    mine = runner(config, tmp_path, again, seeds=(1,))
    assert mine.run(again[0], 1) is None
    write_settings(mine.comparison, 'seed', 1)
    assert [mine.run(row, 1) for row in again[1:]] == [again[0], None, None]
    assert set(read_calls(calls)) == {('seed1', 'seed'), ('seed1', 'slower'), ('seed1', 'other')}
    results = read_results(mine.comparison)
    assert results.values('given') == results.values('seed') == {1: 41.0}
    seed, given, *_ = (row.outcomes[0] for row in results.rows)
    assert given.seconds == seed.seconds and given.arch == seed.arch
    assert mine.states.is_done(again[1], 1)
    # a training that is gone counts no longer
    manifest = tmp_path / 'all/seed1/seed/run.json'
    manifest.write_text(manifest.read_text().replace('"first"', '"second"'))
    assert read_results(mine.comparison).values('given') == {}
    assert not mine.states.is_done(again[1], 1)
    write_settings(mine.comparison, 'seed', 1, log_level='DEBUG')
    assert mine.run(again[1], 1) is None
    assert set(read_calls(calls)) == {('seed1', row.name) for row in again}


@pytest.mark.parametrize('used', [False, True])
def test_a_head_that_is_not_built_makes_no_other_training(used: bool, tmp_path: Path, calls: Path) -> None:
    stages = 1 + SEED.count('|')
    outputs = {'derived.model.backbone.out_indices': [0, stages]} if used else {}
    config = write_config(tmp_path / 'tiny.py', seed=True, **outputs)
    rows = (Row('other'), Row('seed', arch=f'{SEED}|head=24'), Row('chosen', arch=f'{SEED}|head=32' if used else SEED))
    mine = runner(config, tmp_path, rows, seeds=(1,))
    # a backbone of another package has an arch of its own
    for row, arch in ((rows[0], 'b0'), (rows[1], f'{SEED}|head=24')):
        assert mine.run(row, 1) is None
        write_settings(mine.comparison, row.name, 1, **{'model.backbone.arch': arch})
    assert mine.run(rows[2], 1) == (None if used else rows[1])


def test_a_row_that_is_trained_already_says_so(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = runner(config, tmp_path, (ROWS[1], Row('given', arch=SEED)), seeds=(0,))
    monkeypatch.setattr(RowRunner, 'run', lambda self, row, seed: None if row.name == 'seed' else ROWS[1])
    said: list[str] = []
    run_all(mine, jobs=1, say=said.append)
    assert said[1::2] == ['seed 0, seed: done', 'seed 0, given: trained already, as seed: the same to the bit']


def test_a_failing_row_ends_only_what_needs_it(
    config: str, tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('FAKE_FAIL', 'argmax')
    mine = runner(config, tmp_path, seeds=(0,))
    failed = run_all(mine, say=lambda text: None)
    assert set(failed) == {(0, 'argmax'), (0, 'plain')}
    log = tmp_path / 'all' / 'seed0' / 'argmax' / LOG
    assert failed[0, 'argmax'] == (
        f'error: --resume: the search was begun with other settings (model.x 1 -> 2) (exit status 1, {log})'
    )
    assert failed[0, 'plain'] == 'it needs row argmax, which failed'
    assert [row.name for row in read_results(mine.comparison).rows] == ['seed']
    monkeypatch.delenv('FAKE_FAIL')
    calls.write_text('')
    assert run_all(RowRunner(mine.comparison, TOOLS, Children()), say=lambda text: None) == {}
    # what was chosen is not chosen again, what had begun goes on, and the time of both starts adds up
    assert [call[:2] for call in read_calls(calls)['seed0', 'argmax']] == [['1', '--arch']]
    assert len(read_results(mine.comparison).rows) == 3


def test_another_choice_is_made_again(config: str, tmp_path: Path, calls: Path) -> None:
    rows = (*ROWS[:2], Row('argmax', search_of='search', selection='argmax'))
    run_all(runner(config, tmp_path, rows, seeds=(0,)), say=lambda text: None)
    calls.write_text('')
    rows = (*ROWS[:2], Row('argmax', search_of='search', selection='measured'))
    run_all(runner(config, tmp_path, rows, seeds=(0,)), say=lambda text: None)
    select, adapt = read_calls(calls)['seed0', 'argmax']
    assert select[:2] == ['select', 'measured']
    assert adapt[:2] == ['1', '--resume']
    file = tmp_path / 'all' / 'seed0' / 'argmax' / 'derived' / 'arch.json'
    assert ArchSpec.parse(file).stages[1].layers == ('k5_e3',)


@pytest.fixture(scope='module')
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Runs that `tools/train.py` has made without a comparison: a search, and a training of a given network."""
    folder = tmp_path_factory.mktemp('real')
    config = write_config(folder / 'tiny.py', seed=False)
    options = read_options(['randomness.seed=0', 'train_cfg.split_seed=0', 'train_cfg.max_epochs=2'])
    run(prepare(config, str(folder / 'all' / 'seed0' / 'search'), options=options), search_only=True)
    run(prepare(config, str(folder / 'all' / 'seed0' / 'net'), options=options), arch=SEED)
    return config, folder


def test_runs_that_are_there_are_taken_up(real: tuple[str, Path], calls: Path, capfd: pytest.CaptureFixture) -> None:
    config, folder = real
    rows = (Row('search', options=('optim_wrapper.selection=None',), train=False), Row('net', arch=SEED))
    mine = runner(config, folder, rows, seeds=(0,), options=('train_cfg.max_epochs=2',))
    said: list[str] = []
    assert run_all(mine, say=said.append) == {}
    assert said == ['seed 0, search: done already', 'seed 0, net: done already']
    assert calls.read_text() == ''
    results = read_results(mine.comparison, 'closeness')
    (outcome,) = results.rows[0].outcomes
    # by hand, and the linear layer after the backbone does not count
    assert outcome.macs == tiny_trials.macs(((0,), (0, 0), (0,)))
    assert 0 < results.values('net')[0] < 1
    assert outcome.seconds == {}
    assert results.table().splitlines()[2].endswith('| – | – | – |')


@pytest.mark.parametrize(
    ('row', 'option', 'change'),
    [
        (
            'search',
            'train_cfg.weight_fraction=0.25',
            'search .* other settings .train_cfg.weight_fraction None -> 0.25',
        ),
        ('net', 'derived.optim_wrapper.optimizer.lr=0.5', 'adaptation .* other settings .*optimizer.lr 0.05 -> 0.5'),
        ('net', 'model.dropout=0.3', 'adaptation .* begun with other settings .model.dropout .* -> 0.3'),
        ('net', 'derived.train_cfg.max_epochs=9', 'trained or validated otherwise: train_cfg.max_epochs 3 -> 9'),
        ('net', 'derived.val_dataloader.dataset.count=2', 'validated otherwise: val_dataloader.dataset.count 7 -> 2'),
    ],
)
def test_other_settings_are_no_longer_that_run(
    real: tuple[str, Path], calls: Path, row: str, option: str, change: str
) -> None:
    config, folder = real
    rows = (Row('search', train=False), Row('net', arch=SEED))
    mine = runner(config, folder, rows, seeds=(0,), options=('train_cfg.max_epochs=2', option))
    assert not mine.states.is_done(mine.comparison.row(row), 0)
    assert re.search(change, mine.states.why_other(mine.comparison.row(row), 0))
    other = runner(config, folder, rows, seeds=(0,), options=('train_cfg.max_epochs=2', 'log_level=ERROR'))
    assert other.states.is_done(other.comparison.row(row), 0)
    assert other.states.why_other(other.comparison.row(row), 0) == ''


def test_a_figure_of_another_validation_is_not_compared(real: tuple[str, Path], calls: Path) -> None:
    config, folder = real
    options = ('train_cfg.max_epochs=2', 'derived.val_dataloader.dataset.count=2')
    failed = run_all(runner(config, folder, (Row('net', arch=SEED),), seeds=(0,), options=options), say=lambda _: None)
    assert 'was validated otherwise than is asked for now' in failed[0, 'net']
    assert 'val_dataloader.dataset.count 7 -> 2; take another --work-dir' in failed[0, 'net']
    assert calls.read_text() == ''


def test_another_network_is_no_longer_that_run(real: tuple[str, Path]) -> None:
    config, folder = real
    (row,) = rows = (Row('net', arch=SEED.replace("'k3_e3', 'k3_e3'", "'k5_e3'")),)
    states = runner(config, folder, rows, options=('train_cfg.max_epochs=2',)).states
    assert not states.is_done(row, 0)
    assert states.why_other(row, 0).endswith('seed0/net has the training of another network than the one of now')


def test_what_follows_from_another_search_is_told(real: tuple[str, Path], tmp_path: Path, calls: Path) -> None:
    """A row's network is chosen from what another one searched: that counts too."""
    config, folder = real
    shutil.copytree(folder / 'all', tmp_path / 'all')
    rows = (Row('search', train=False), Row('net', search_of='search'), Row('again', arch='found:net'))

    def why(row: int, *options: str) -> str:
        mine = runner(config, tmp_path, rows, seeds=(0,), options=('train_cfg.max_epochs=2', *options))
        return mine.states.why_other(rows[row], 0)

    chosen = tmp_path / 'all' / 'seed0' / 'net' / 'selected'
    chosen.mkdir()
    (chosen / 'arch.json').write_text(ArchSpec.parse(SEED).format('json'))
    assert why(1) == 'how its network was chosen is not written down'
    mine = runner(config, tmp_path, rows, seeds=(0,), options=('train_cfg.max_epochs=2',))
    mine.states.note_choice(rows[1], 0, mine.comparison.options_of(rows[1], 0))
    assert why(1) == why(1, 'log_level=ERROR') == ''
    assert re.search('of row search, .*: the search in .*weight_fraction', why(1, 'train_cfg.weight_fraction=0.25'))
    assert re.search('chosen by other settings: .*macs.max None -> 9', why(1, 'optim_wrapper.cost.max=99999'))
    shutil.copytree(tmp_path / 'all' / 'seed0' / 'net', tmp_path / 'all' / 'seed0' / 'again')
    assert why(2) == ''
    assert why(2, 'optim_wrapper.cost.max=99999').startswith('of row net, which it follows from: its network')
    searched = tmp_path / 'all' / 'seed0' / 'search' / 'run.json'
    searched.write_text(searched.read_text().replace(read_manifest(searched).parts['search'].id, 'other'))
    assert why(1) == 'its network was chosen from another search of row search, or before that went on'


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_being_told_to_end_ends_the_children(
    config: str, tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, number: int
) -> None:
    monkeypatch.setenv('FAKE_SLEEP', 'seed')
    mine = runner(config, tmp_path, ROWS[1:2], seeds=(0, 1, 2))

    def stop() -> None:
        while len(calls.read_text().splitlines()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    begun = time.monotonic()
    with pytest.raises(SystemExit) as end, stopped_by_signals():
        run_all(mine, jobs=2, say=lambda text: None)
    assert end.value.code == 128 + number
    assert time.monotonic() - begun < 30  # they sleep for 60 seconds
    assert 'stopped: the same command goes on' in capfd.readouterr().err
    assert set(read_calls(calls)) == {('seed0', 'seed'), ('seed1', 'seed')}
    clock = Clock.parse(tmp_path / 'all' / 'seed0' / 'seed' / CLOCK)
    assert clock.seconds['adapt'] > 0 and not clock.running
    assert read_manifest(tmp_path / 'all' / 'seed0' / 'seed' / 'run.json') is None


def test_one_process_at_a_time_in_a_folder(tmp_path: Path) -> None:
    first, second = Children(), Children()
    command = ['/bin/sh', '-c', 'echo begun; sleep 60']

    def work() -> None:
        with suppress(ChildError):  # it is ended
            first.run(tmp_path, 'adapt', command, known=True)

    thread = threading.Thread(target=work)
    thread.start()
    while not (tmp_path / LOG).is_file() or not (tmp_path / LOG).read_text():
        time.sleep(0.01)
    with pytest.raises(ChildError, match='another process is at work in .*: wait for its end'):
        second.run(tmp_path, 'adapt', ['true'], known=True)
    first.end()
    thread.join()
    assert second.run(tmp_path, 'adapt', ['true'], known=True) < 1
    with pytest.raises(ChildError, match='stopped before it began'):
        first.run(tmp_path, 'adapt', ['true'], known=True)
    assert not Clock.parse(tmp_path / CLOCK).running


@pytest.mark.parametrize(
    ('command', 'counted'),
    [
        ('false', False),  # refused
        ('true', False),  # nothing was left to do
        ('touch {place}/x', True),
        ('touch {other}/x; false', True),
        ('kill -9 $$', True),
    ],
)
def test_a_start_that_wrote_nothing_is_of_no_part(tmp_path: Path, command: str, counted: bool) -> None:
    place, other = tmp_path / 'place', tmp_path / 'other'
    other.mkdir()
    Children().run(place, 'adapt', ['/bin/sh', '-c', f'touch {place}/begun'], known=True)
    before = Clock.parse(place / CLOCK)
    (other / NAME).touch()  # who waits for it writes it anew all the time
    command += f'; c=$?; touch {other}/{NAME} {place}/{NAME}.part; exit $c' if 'kill' not in command else ''
    with suppress(ChildError):
        call = ['/bin/sh', '-c', command.format(place=place, other=other)]
        Children().run(place, 'adapt', call, known=True, work_dir=other)
    assert (Clock.parse(place / CLOCK) != before) == counted


def test_what_a_process_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    command = ['/bin/sh', '-c', f'sleep 60 & echo $! > {tmp_path}/pid']
    Children().run(tmp_path, 'adapt', command, known=True)
    worker = int((tmp_path / 'pid').read_text())
    deadline = time.monotonic() + 10
    while Path(f'/proc/{worker}').exists() and time.monotonic() < deadline:
        if Path(f'/proc/{worker}/stat').read_text().split()[2] == 'Z':  # ended; who takes it in is not ours
            break
        time.sleep(0.01)
    else:
        assert not Path(f'/proc/{worker}').exists()


def test_threads_and_last_words(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match='^3 3 0 .exit status 7, .*run.log.$'):
        Children(threads=3).run(
            tmp_path,
            'adapt',
            ['/bin/sh', '-c', 'echo $OMP_NUM_THREADS $MKL_NUM_THREADS $MALLOC_MMAP_MAX_; exit 7'],
            True,
        )
    with pytest.raises(ChildError, match='^no word'):
        Children().run(tmp_path, 'adapt', ['false'], known=True)


@pytest.mark.parametrize(
    ('text', 'known', 'after'),
    [
        ('{}', True, {'adapt': 5.0}),
        ('{"search": 2.0, "adapt": 3.0}', True, {'search': 2.0, 'adapt': 8.0}),
        ('{"adapt": 3.0}', False, {'adapt': 8.0}),
        # begun by hand, or its last start did not live to write down its time
        ('{}', False, {'adapt': None}),
        ('{"adapt": 3.0, "running": "adapt"}', True, {'adapt': None}),
        ('{"search": 3.0, "running": "search"}', True, {'search': None, 'adapt': 5.0}),
        ('{"adapt": null}', True, {'adapt': None}),
    ],
)
def test_times_add_up_or_are_not_known(text: str, known: bool, after: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / CLOCK).write_text(text)
    begun = Clock.parse(tmp_path / CLOCK).begin('adapt', known)
    assert 'adapt' not in begun.known
    ended = begun.end(5.0)
    assert ended == Clock(after)
    assert ended.known == {part: spent for part, spent in after.items() if spent is not None}
    (tmp_path / CLOCK).write_text(begun.format())
    assert Clock.parse(tmp_path / CLOCK) == begun


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[1]', 'must be an object'),
        ('{"adapt": "long"}', 'adapt must be a number'),
        ('{"adapt": -1}', 'must not be negative'),
    ],
)
def test_a_damaged_clock(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / CLOCK).write_text(text)
    with pytest.raises(ValueError, match=message):
        Clock.parse(tmp_path / CLOCK)
