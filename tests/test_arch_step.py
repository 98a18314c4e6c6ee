"""The benchmark of the arch step measures what it says."""

import argparse
import io
import mmap
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import arch_step
from benchmarks.arch_step import Job, Side, Worker
from mmnas_ext.archs import SearchSpace, SpaceStage

CHANNELS = (8, 8, 8, 12, 12, 16, 16, 16)
# seven stages, since the benchmark reads features of the seventh
SPACE = SearchSpace(
    tuple(SpaceStage(CHANNELS[i], CHANNELS[i + 1], (('k3_e3', 'k5_e3'),), 2 if i in (1, 2, 3) else 1) for i in range(7))
)


@pytest.fixture
def _tiny_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arch_step, 'SPACE', SPACE.format())
    monkeypatch.setattr(arch_step, 'CHECK_SIZE', 32)


def weights(job: Job) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in job.model.named_parameters()}


@pytest.mark.usefixtures('_tiny_space')
def test_arch_steps_of_all_sides_have_the_same_gradients() -> None:
    jobs = {variant: Job(f'backbone-{variant}', 2, 32) for variant in ('plain', 'fast', 'checkpointed')}
    expected = jobs['plain'].gradients(torch.float64)
    assert len(expected) == 7 * 2
    assert max(map(abs, expected)) > 1e-3
    for variant in ('fast', 'checkpointed'):
        assert arch_step.difference(jobs[variant].gradients(torch.float64), expected) < 1e-9


@pytest.mark.usefixtures('_tiny_space')
@pytest.mark.parametrize('variant', ['plain', 'fast', 'checkpointed'])
def test_arch_step_computes_gradients_of_alpha_alone_and_touches_no_weight(variant: str) -> None:
    job = Job(f'backbone-{variant}', 2, 32)
    before = weights(job)
    job.step()
    assert all(torch.equal(value, before[name]) for name, value in job.model.named_parameters())
    graded = {name for name, value in job.model.named_parameters() if value.grad is not None}
    assert graded == {name for name in before if name.endswith('alpha')}


@pytest.mark.usefixtures('_tiny_space')
def test_checking_gradients_leaves_the_network_as_it_was() -> None:
    job = Job('backbone-fast', 2, 32)
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    job.gradients(torch.float64)
    after = job.model.state_dict()
    assert before['stem.bn.running_mean'].dtype == torch.float32
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


@pytest.mark.usefixtures('_tiny_space')
def test_weight_step_changes_one_path() -> None:
    job = Job('weight-supernet', 2, 32)
    before = weights(job)
    job.step()
    changed = {name for name, value in job.model.named_parameters() if not torch.equal(value, before[name])}
    drawn = {tuple(name.split('.')[1:5]) for name in changed if 'candidates' in name}
    assert len(drawn) == 7, f'one candidate of each of 7 layers, got {sorted(drawn)}'
    assert len({key[0] for key in drawn}) == 7
    assert not any(name.endswith('alpha') for name in changed)
    assert 'stem.conv.weight' in changed


@pytest.mark.usefixtures('_tiny_space')
def test_weight_step_is_of_the_same_path_on_both_sides() -> None:
    ours, theirs = Job('weight-supernet', 2, 32), Job('weight-mbnet', 2, 32)
    running = [next(iter(stage)) for stage in ours.model.stages]
    tokens = [layer.tokens[layer.choice] for layer in running]
    arch = theirs.model.arch
    assert [stage.layers[0] for stage in arch.stages] == tokens
    before = weights(theirs)
    theirs.step()
    assert all(not torch.equal(value, before[name]) for name, value in theirs.model.named_parameters())


def test_a_process_answers_and_ends(tmp_path: Path) -> None:
    worker = Worker(Side('a', 'weight-mbnet'), argparse.Namespace(batch=2, size=32, threads=1))
    try:
        assert worker.torch_version == torch.__version__
        assert 0 < worker.ask('step') < 60
        assert worker.ask('memory') > 0
        with pytest.raises(RuntimeError, match=r"worker of 'weight-mbnet' ended:\n[\s\S]*KeyError: 'sing'"):
            worker.ask('sing')
    finally:
        worker.close()


@pytest.mark.parametrize(('keeps', 'expected'), [(None, '7'), (False, None), (True, '0')])
def test_a_side_can_say_what_the_c_library_does_with_freed_memory(
    keeps: bool | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MALLOC_MMAP_MAX_', '7')
    started = []

    class Process:
        stdin, stdout = io.StringIO(), ['reply "2"']

        def __init__(self, _command: list[str], **more: Any) -> None:
            started.append(more['env'])

    monkeypatch.setattr(arch_step.subprocess, 'Popen', Process)
    Worker(Side('a', 'weight-mbnet', keeps_memory=keeps), argparse.Namespace(batch=2, size=32, threads=1))
    assert started[0].get('MALLOC_MMAP_MAX_') == expected
    assert started[0]['OMP_NUM_THREADS'] == '1'


def test_make_keeps_freed_memory_as_the_benchmark_does() -> None:
    makefile = (arch_step.ROOT / 'Makefile').read_text()
    assert 'KEEP := ' + ' '.join(f'{name}={value}' for name, value in arch_step.KEEPING.items()) in makefile
    assert 'RUN := $(KEEP) ' in makefile


def test_memory_is_counted_in_megabytes() -> None:
    before = arch_step._resident()
    # memory of its own: a tensor's might be what an earlier one has left
    with mmap.mmap(-1, 200_000_000) as held:
        held[:: mmap.PAGESIZE] = b'1' * -(-len(held) // mmap.PAGESIZE)
        grown = arch_step._resident() - before
    assert 195 < grown < 230
    assert arch_step._peak() >= before + 195


@pytest.mark.parametrize(
    ('values', 'expected', 'result'),
    [([1.0, 2.0], [1.0, 2.0], 0.0), ([1.0, -3.0], [1.0, -4.0], 0.25), ([0.5, 2.0], [1.0, 2.0], 0.25)],
)
def test_difference_is_relative_to_the_largest(values: list[float], expected: list[float], result: float) -> None:
    assert arch_step.difference(values, expected) == result


@pytest.mark.parametrize(
    ('ratio', 'at_most', 'printed'),
    [(0.4449, 0.45, '0.44 (at most 0.45)'), (0.46, 0.45, '0.46 (**not** at most 0.45)'), (0.5, None, '0.50')],
)
def test_a_missed_target_is_said(ratio: float, at_most: float | None, printed: str) -> None:
    assert arch_step._verdict(ratio, at_most) == printed


class Scripted:
    """Stands in for a worker: answers from a list, in the order of the rounds."""

    torch_version = '2'
    closed = 0

    def __init__(self, side: Side, _args: argparse.Namespace) -> None:
        self.answers = {
            'a-plain': [9.0, 9.0, 1.0, 2.0, 4.0, 100.0, [[2.0], [2.5]]],
            'a-fast': [9.0, 9.0, 0.5, 0.5, 3.0, 40.0, [[2.0], [1.0]]],
        }[side.mode]

    def ask(self, _command: str) -> object:
        return self.answers.pop(0)

    def close(self) -> None:
        Scripted.closed += 1


def test_ratio_is_the_median_of_each_rounds_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arch_step, 'Worker', Scripted)
    sides = [Side('plain', 'a-plain'), Side('fast', 'a-fast', 0.45, 0.45)]
    rows, version = arch_step.measure(sides, argparse.Namespace(rounds=3))
    # ratios 0.5, 0.25, 0.75; the two steps of warm-up count nowhere
    assert rows[1] == [
        'fast',
        '0.500 s',
        '0.50 (**not** at most 0.45)',
        '40 MB',
        '0.40 (at most 0.45)',
        '0e+00',
        '5e-01',
    ]
    assert rows[0] == ['plain', '2.000 s', '1.00', '100 MB', '1.00', '0e+00', '2e-01']
    assert (version, Scripted.closed) == ('2', 2)


def test_machine_names_its_cores() -> None:
    assert arch_step.machine().endswith(f', {os.cpu_count()} cores')


def test_markdown_has_a_rule_below_the_head() -> None:
    assert arch_step.markdown(['a', 'b'], [['1', '2']]) == '| a | b |\n| --- | --- |\n| 1 | 2 |'
