"""A run that was killed and resumed ends as one that was not, to the bit: in either half, wherever it was killed."""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mmnas_ext.reports.log import read_log
from mmnas_ext.runs.run import run
from tests.engine import processes, tiny
from tests.engine.kept import differences, last_checkpoint, loaded, train

ACCUMULATE = {'optim_wrapper.weights.accumulative_counts': 3, 'optim_wrapper.arch.accumulative_counts': 2}
INSIDE_EPOCHS = {'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 2}
# an epoch of the adaptation must end
ENDLESS = {
    'train_dataloader.sampler.type': 'InfiniteSampler',
    'derived.train_dataloader.sampler.type': 'DefaultSampler',
}
# loop, workers, what differs from the tiny search
VARIANTS = {
    'epochs': ('epoch', 0, {}),
    'epochs, two workers': ('epoch', 2, {}),
    'epochs, checkpoints inside them': ('epoch', 0, INSIDE_EPOCHS),
    'iterations, gradients pending': ('iter', 0, ACCUMULATE),
    'iterations, two workers, an arch step in two': ('iter', 2, {'train_cfg.arch_interval': 2, **ENDLESS}),
}


def search_and_adapt(work_dir, loop, workers, changes, resume):
    run(tiny.search_cfg(work_dir, loop, workers, **changes), resume=resume)


def one_run(work_dir, variant, resume=False, kill=''):
    """Runs both halves, or as far as `kill` lets it; returns the exit code."""
    work_dir.parent.mkdir(exist_ok=True)
    log = work_dir.parent / f'{work_dir.name}.txt'
    environ = {'TINY_KILL': kill} if kill else {}
    process = processes.start(search_and_adapt, str(work_dir), *VARIANTS[variant], resume, log=log, **environ)
    code = processes.finish(process, log)
    assert code in (0, -signal.SIGKILL), log.read_text()[-3000:]
    return code


def assert_same(work_dir, reference):
    for folder in ('', 'adapt'):
        (name, kept), (wanted_name, wanted) = (last_checkpoint(d / folder) for d in (work_dir, reference))
        assert name == wanted_name
        assert differences(kept, wanted) == []
    for file in ('derived/arch.json', 'derived/config.py', 'search_space.json'):
        text, wanted = ((d / file).read_text() for d in (work_dir, reference))
        assert text.replace(str(work_dir), str(reference)) == wanted
    assert read_log(work_dir).records == read_log(reference).records


@pytest.fixture(scope='module')
def references(tmp_path_factory):
    """Uninterrupted runs, made once each."""
    made = {}

    def get(variant):
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp('reference') / 'run'
            assert one_run(made[variant], variant) == 0
        return made[variant]

    return get


def kills(variant):
    """Seeded places to be killed at, one after the other: from the first iteration to inside the adaptation."""
    draw = random.Random(variant)
    places = ['before', 'between', 'saving', 'after', 'logging']
    search = [(place, draw.randrange(3, 12)) for place in draw.sample(places, 3)]
    # a later kill must lie behind the checkpoint that the one before leaves, or it would never come
    search.sort(key=lambda kill: kill[1])
    adapt = [('saving', draw.randrange(3, 12)), ('before', draw.randrange(6, 12))]
    if variant not in ('epochs', 'iterations, gradients pending'):  # the others take longer, or differ by little
        search, adapt = search[1:], adapt[1:]
    orders = [('search', 'before', 1), *(('search', *kill) for kill in search), ('search', 'end', 12)]
    return [':'.join(map(str, order)) for order in orders + [('adapt', *kill) for kill in adapt]]


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_run_killed_again_and_again_ends_like_one_that_was_not(tmp_path, references, variant):
    reference, work_dir = references(variant), tmp_path / 'run'
    died = 0
    for kill in kills(variant):
        died += one_run(work_dir, variant, resume=died > 0, kill=kill) == -signal.SIGKILL
    assert died >= 4
    assert one_run(work_dir, variant, resume=True) == 0
    assert_same(work_dir, reference)


def test_a_kill_from_outside_changes_nothing(tmp_path, references):
    variant, work_dir = 'epochs', tmp_path / 'run'
    log = tmp_path / 'log.txt'
    process = processes.start(search_and_adapt, str(work_dir), *VARIANTS[variant], False, log=log)
    until = time.monotonic() + processes.PATIENCE
    while not (work_dir / 'epoch_2.pth').exists() and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(random.Random(8).random() * 0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert processes.finish(process, log) == -signal.SIGKILL
    assert not (work_dir / 'adapt').exists()
    assert one_run(work_dir, variant, resume=True) == 0
    assert_same(work_dir, references(variant))


def test_an_interrupted_adaptation_goes_on_without_searching_again(tmp_path, references):
    work_dir = tmp_path / 'run'
    assert one_run(work_dir, 'epochs', kill='adapt:before:8') == -signal.SIGKILL
    names = ('epoch_4.pth', 'search_log.jsonl', 'derived/arch.json', 'derived/config.py', 'adapt/epoch_1.pth')
    files = [work_dir / name for name in names]
    before = [path.stat().st_mtime_ns for path in files]
    assert one_run(work_dir, 'epochs', resume=True) == 0
    assert [path.stat().st_mtime_ns for path in files] == before
    assert_same(work_dir, references('epochs'))


def test_a_finished_run_resumed_stays_as_it_is(tmp_path, references):
    work_dir = tmp_path / 'run'
    assert one_run(work_dir, 'epochs') == 0
    assert one_run(work_dir, 'epochs', resume=True) == 0
    assert_same(work_dir, references('epochs'))


def test_gradients_that_wait_are_in_the_checkpoint(references):
    optimizer = loaded(references('iterations, gradients pending') / 'iter_10.pth')['optimizer']
    assert optimizer['weights']['count'] == 10  # 9 are done by threes, one waits
    assert optimizer['arch']['count'] == 7  # from the third iteration on, one waits for its pair
    for phase in ('weights', 'arch'):
        waiting = [gradient for gradient in optimizer[phase]['gradients'] if gradient is not None]
        assert len(waiting) >= 3
        assert sum(float(gradient.abs().sum()) for gradient in waiting) > 0


def test_a_path_of_two_workers_augments_otherwise_than_one(references):
    """What makes the comparison above worth something: images depend on random states."""
    records = [read_log(references(variant)).records for variant in ('epochs', 'epochs, two workers')]
    assert records[0] != records[1]


def test_a_log_cut_short_is_read_on(references, tmp_path):
    work_dir = tmp_path / 'run'
    assert one_run(work_dir, 'epochs', kill='search:logging:7') == -signal.SIGKILL
    assert one_run(work_dir, 'epochs', resume=True) == 0
    lines = (work_dir / 'search_log.jsonl').read_text().splitlines()
    assert lines.count('{"iter": 3, "alph') == 1
    whole = [json.loads(line) for line in lines if not line.endswith('alph')]
    # to 6 before the kill, then on from the checkpoint at 6
    assert [record['iter'] for record in whole] == [2, 4, 6, 8, 10, 12]
    assert (
        whole[-1]['drawn']
        == json.loads((references('epochs') / 'search_log.jsonl').read_text().splitlines()[-1])['drawn']
    )


def test_a_new_run_in_an_old_work_dir_sets_all_of_the_old_one_aside(tmp_path):
    work_dir = tmp_path / 'run'
    assert one_run(work_dir, 'epochs') == 0
    first = {path.relative_to(work_dir): path.read_bytes() for path in work_dir.rglob('*') if path.is_file()}
    assert one_run(work_dir, 'epochs') == 0
    (aside,) = work_dir.glob('before_*')
    assert {path.relative_to(aside): path.read_bytes() for path in aside.rglob('*') if path.is_file()} == first
    assert {name.as_posix() for name in first} >= {
        'run.json', 'search_log.jsonl', 'epoch_4.pth', 'derived/config.py', 'adapt/epoch_2.pth',
    }  # fmt: skip
    assert (work_dir / 'search_log.jsonl').read_bytes() == first[Path('search_log.jsonl')]  # not first + first


def test_without_a_seed_a_run_is_repeatable_too(tmp_path):
    found = []
    for name in ('a', 'b'):
        cfg = tiny.search_cfg(tmp_path / name, **{'train_cfg.max_epochs': 2})
        cfg.pop('randomness')
        train(cfg, resume=False)
        found.append(last_checkpoint(tmp_path / name))
    assert found[0][0] == 'epoch_2.pth'
    assert differences(found[0], found[1]) == []
    assert loaded(tmp_path / 'a' / 'epoch_2.pth')['meta']['seed'] == 0


def test_the_comparison_sees_the_last_bit():
    a = {'x': [torch.ones(2), 1.0], 'y': np.float64(2)}
    assert differences(a, {'x': [torch.ones(2), 1.0], 'y': np.float64(2)}) == []
    assert differences(a, {'x': [torch.tensor([1.0, 1 + 1.2e-7]), 1.0], 'y': np.float64(2)}) == ['/x/0']
    assert differences(a, {'x': [torch.ones(2)], 'y': np.float64(2)}) == ['/x: lengths 2 and 1']
    assert differences(a, {'x': a['x']}) == [": keys ['y']"]
