"""Two processes, or four, (gloo, CPU) search as one: same paths, same weights, gradients of the combined batch."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel

from mmnas_ext.runs.manifest import ADAPT, read_manifest
from mmnas_ext.runs.run import run
from tests.engine import processes, tiny

SGD = {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}
# normalises each image alone, so that a batch split over two ranks is the batch
NO_BATCH_NORM = {'norm_cfg': {'type': 'IN'}}
DISTRIBUTED = {'launcher': 'pytorch', 'find_unused_parameters': True}


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def both_ranks(function, *args, tmp_path, joined=True, ranks=2):
    """Calls `function` on two ranks, or more, in a group unless it joins them itself, and waits for all."""
    call = (in_group, function, args) if joined else (function, *args)
    for process, log in start_ranks(*call, tmp_path=tmp_path, ranks=ranks):
        processes.complete(process, log)


def start_ranks(function, *args, tmp_path, ranks=2):
    """Calls `function` on each of some ranks; returns each process with its log."""
    shared = {'WORLD_SIZE': str(ranks), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}
    logs = [tmp_path / f'rank_{rank}.txt' for rank in range(ranks)]
    return [
        (processes.start(function, *args, log=log, RANK=str(rank), LOCAL_RANK=str(rank), **shared), log)
        for rank, log in enumerate(logs)
    ]


def in_group(function, args):
    dist.init_process_group('gloo')
    function(*args)


def some_steps(model, wrapper, rank, ranks):
    """Four iterations of both phases, each rank with its share of the batch."""
    for iteration in range(4):
        for phase in ('arch', 'weights'):
            whole = tiny.batch(8, seed=10 * iteration + (phase == 'arch'))
            share = {name: tensor[rank::ranks] for name, tensor in whole.items()}
            wrapper.start(phase, iteration, 0, 'softmax')
            model.train_step(share, optim_wrapper=wrapper)


def train_by_hand(folder, accumulate):
    model, wrapper = tiny.build(NO_BATCH_NORM, optim(accumulate))
    wrapped = MMDistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False)
    some_steps(wrapped, wrapper, dist.get_rank(), 2)
    torch.save(model.state_dict(), f'{folder}/rank_{dist.get_rank()}.pth')


def optim(accumulate):
    clip = {'max_norm': 0.5}
    return tiny.optim_cfg(
        weights={'optimizer': SGD, 'accumulative_counts': accumulate, 'clip_grad': clip},
        arch={'optimizer': SGD, 'accumulative_counts': accumulate, 'clip_grad': clip},
    )


def states(folder, ranks=2):
    return [torch.load(folder / f'rank_{rank}.pth', weights_only=True) for rank in range(ranks)]


@pytest.mark.parametrize('accumulate', [1, 2])
def test_two_ranks_step_as_one_with_both_batches(tmp_path, accumulate):
    both_ranks(train_by_hand, str(tmp_path), accumulate, tmp_path=tmp_path)
    first, second = states(tmp_path)
    single, wrapper = tiny.build(NO_BATCH_NORM, optim(accumulate))
    before = {name: tensor.clone() for name, tensor in single.state_dict().items()}
    some_steps(single, wrapper, 0, 1)
    assert first.keys() == single.state_dict().keys()
    moved = 0
    for name, tensor in single.state_dict().items():
        assert torch.equal(first[name], second[name])
        # rounding of sums in another order, over four steps
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5)
        moved += not torch.equal(tensor, before[name])
    assert moved > 12


def steps_of(model, wrapper, ranks):
    """Three updates in the order of a search: of each of these ranks' batches an arch and a weight step."""
    for iteration in range(3 * len(ranks)):
        for phase in ('arch', 'weights'):
            rank = ranks[iteration % len(ranks)]
            wrapper.start(phase, iteration, 0)
            seed = 100 * (iteration // len(ranks)) + 10 * rank + (phase == 'arch')
            model.train_step(tiny.batch(3, seed), optim_wrapper=wrapper)


def search_by_hand(folder):
    model, wrapper = tiny.build(optim=optim(1), norm=True)
    wrapped = MMDistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False)
    steps_of(wrapped, wrapper, [dist.get_rank()])
    torch.save(model.state_dict(), f'{folder}/rank_{dist.get_rank()}.pth')


def test_four_ranks_step_as_one_process_that_gathers_their_batches(tmp_path):
    """Batch norms too: either way they normalise by one rank's batch."""
    ranks = 4
    both_ranks(search_by_hand, str(tmp_path), tmp_path=tmp_path, ranks=ranks)
    found = states(tmp_path, ranks)
    single, wrapper = tiny.build(optim=optim(ranks), norm=True)
    before = {name: tensor.clone() for name, tensor in single.state_dict().items()}
    steps_of(single, wrapper, range(ranks))
    trained = [name for name, _ in single.named_parameters()]
    assert sum(name.endswith('.alpha') for name in trained) == 3
    for name in trained:
        assert all(torch.equal(found[0][name], other[name]) for other in found[1:])
        # rounding of sums in another order, over three updates
        torch.testing.assert_close(found[0][name], single.state_dict()[name], rtol=1e-4, atol=1e-5)
    moved = [name for name in trained if not torch.equal(single.state_dict()[name], before[name])]
    assert len(moved) > 12 and {name for name in trained if name.endswith('.alpha')} <= set(moved)


def search(work_dir, changes):
    run(tiny.search_cfg(work_dir, **DISTRIBUTED, **changes), search_only=True)


GATHERED = {'optim_wrapper.weights.accumulative_counts': 2, 'randomness.diff_rank_seed': True}


@pytest.mark.parametrize('changes', [{}, GATHERED])
def test_two_ranks_draw_the_same_paths_and_find_the_same_network(tmp_path, changes):
    work_dir = tmp_path / 'run'
    hooks = [
        {'type': 'mmnas_ext.DeriveHook'}, {'type': 'mmnas_ext.SearchMonitorHook', 'interval': 2}, {'type': 'TraceHook'},
    ]  # fmt: skip
    changes = {'train_dataloader.batch_size': 1, 'custom_hooks': hooks, **changes}
    both_ranks(search, str(work_dir), changes, tmp_path=tmp_path, joined=False)
    texts = [(work_dir / f'trace_{rank}.jsonl').read_text() for rank in (0, 1)]
    traces = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert len(traces[0]) == 12
    assert [record['drawn'] for record in traces[0]] == [record['drawn'] for record in traces[1]]
    if changes.keys() & GATHERED.keys():  # an update has one path
        assert all(a['drawn'] == b['drawn'] for a, b in zip(traces[0][::2], traces[0][1::2], strict=True))
    assert len({str(record['drawn']) for record in traces[0]}) > 2
    # an epoch of the six images that train weights: three for each rank, and none for both
    for first in range(0, 12, 3):
        assert len({record['target'] for trace in traces for record in trace[first : first + 3]}) == 6
    first, second = states(work_dir)
    names = [name for name in first if 'running' not in name]  # statistics are those of a rank's own images
    assert sum(name.endswith('.alpha') for name in names) == 3
    assert all(torch.equal(first[name], second[name]) for name in names)
    assert not torch.equal(first['backbone.stem.bn.running_mean'], second['backbone.stem.bn.running_mean'])
    assert (work_dir / 'derived' / 'config.py').is_file()
    assert len((work_dir / 'search_log.jsonl').read_text().splitlines()) == 6  # one process writes


def test_two_nodes_train_a_given_network_and_one_process_writes_it_down(tmp_path):
    """Two machines with a process each, as far as the launcher can tell."""
    work_dir = tmp_path / 'run'
    (work_dir / 'derived').mkdir(parents=True)
    (work_dir / 'derived' / 'arch.json').write_text('old')
    config = tmp_path / 'tiny.py'
    cfg = tiny.search_cfg(work_dir, find_unused_parameters=True)
    cfg.dump(config)
    arch = tiny.SPACE.arch(((0,), (1, 2), (0,))).format('fna')
    command = ['bash', str(processes.ROOT / 'tools' / 'dist_train.sh'), str(config), '1', '--arch', arch]
    environ = {
        **os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(processes.ROOT), 'PORT': str(free_port()),
        'NNODES': '2', 'MASTER_ADDR': '127.0.0.1',
    }  # fmt: skip
    logs, nodes = [tmp_path / f'node_{rank}.txt' for rank in range(2)], []
    for rank, log in enumerate(logs):
        with log.open('w') as out:
            own = {**environ, 'NODE_RANK': str(rank)}
            nodes.append(subprocess.Popen(command, cwd=tmp_path, env=own, stdout=out, stderr=subprocess.STDOUT))
    for node, log in zip(nodes, logs, strict=True):
        assert node.wait(processes.PATIENCE) == 0, log.read_text()[-3000:]
    assert ['the processes are joined by gloo' in log.read_text() for log in logs] == [True, False]
    assert (work_dir / 'adapt' / 'epoch_2.pth').is_file()
    assert 'k5_e3' in (work_dir / 'derived' / 'arch.json').read_text()
    assert len(list(work_dir.glob('before_*/derived/arch.json'))) == 1
    settings = read_manifest(work_dir / 'run.json').parts[ADAPT].settings
    assert {settings.get(f'{key}.processes') for key in ('launch', 'position')} == {2, None}
