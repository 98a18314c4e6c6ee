"""What grows stays bounded: small versions of ``benchmarks/scale.py``, and the benchmark itself."""

import json
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from benchmarks import scale, scale_data, scale_search
from mmnas_ext.reports.training_log import read_training
from mmnas_ext.runs import random_search
from mmnas_ext.runs import trials as plans
from mmnas_ext.runs.manifest import read_manifest
from mmnas_ext.runs.run import run
from mmnas_ext.runs.trials import Trial
from tests.engine import tiny


def allocated(read: Any, *args: Any) -> tuple[Any, int]:
    """What a function returns, and the most memory that it held, in bytes."""
    tracemalloc.start()
    found = read(*args)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, size


# ---------------------------------------------------------------- annotations


@pytest.fixture(scope='module')
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('coco')
    scale_data.make_coco(folder, 2e-3)
    return folder


def test_generated_annotations_have_the_numbers_and_the_layout_of_coco(coco: Path) -> None:
    content = json.loads((coco / 'annotations' / 'instances_train2017.json').read_text())
    assert [len(content[key]) for key in ('images', 'annotations', 'categories')] == [237, 1720, 80]
    with_boxes = {box['image_id'] for box in content['annotations']}
    assert len(with_boxes) == 237 - 8
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    for box in content['annotations']:
        x, y, width, height = box['bbox']
        across, down = sizes[box['image_id']]
        assert 0 <= x < x + width <= across and 0 <= y < y + height <= down
    assert len([*(coco / 'train2017').iterdir()]) == 237
    assert dict(images=118_287, boxes=860_001, empty=1_021) == scale_data.COCO


def test_both_halves_hold_the_annotations_once(coco: Path) -> None:
    from mmengine.registry import DATASETS

    from mmnas_ext.datasets import split_halves

    dataset = DATASETS.build(scale_data._loader(coco)['dataset'])
    held = sum(array.nbytes for array in (dataset.data_bytes, dataset.data_address))
    halves, size = allocated(split_halves, dataset, 0)
    assert sum(map(len, halves)) == len(dataset) == 229
    assert all(half.leaves() == (dataset,) for half in halves)
    # some arrays of numbers of images, a tenth of what the annotations take
    assert size < held / 2
    assert held > 100_000


def test_the_rows_of_annotations_say_what_they_measured(coco: Path) -> None:
    meter = scale_data.Meter()
    scale_data.their_loader(meter, coco)
    scale_data.both_halves(meter, coco)
    scale_data.halves_in_parts(meter, coco)
    scale_data.checks(meter, coco)
    notes = [reading.get('note') for reading in meter.readings]
    assert notes[:2] == ['229 images', '114 and 115 images']
    assert notes[3] == '114 and 115 images'
    assert notes[7] == '0 warnings'
    for reading in meter.readings:
        assert reading['wall'] >= 0 and reading['cpu'] >= 0 and reading['files'][0] == reading['files'][1]


# ---------------------------------------------------------------- logs


def test_the_memory_of_a_training_log_does_not_grow_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # smaller limits than in use, so that logs are long beside them
    monkeypatch.setattr('mmnas_ext.reports.series.LIMIT', 100)
    monkeypatch.setattr('mmnas_ext.reports.series.RECENT', 500)
    sizes = []
    for lines in (2_000, 6_000):
        folder = tmp_path / str(lines)
        scale_data.write_training(folder, lines, {'arch_loss': 0.3})
        log, size = allocated(read_training, folder)
        rows = log.losses['loss']
        assert [rows[0], rows[-1]] == [(50, 1.0), (50 * lines, 1 / lines)]
        assert 50 <= len(rows) <= 101 and set(log.losses) == {'loss', 'arch_loss'}
        assert (log.iteration, log.last) == (50 * lines, {'coco/bbox_mAP': 1.0})
        sizes.append(size)
    # eight bytes for each line of each of two losses would be 64 kB
    assert sizes[1] - sizes[0] < 20_000


def test_the_run_of_the_benchmark_has_a_page(tmp_path: Path) -> None:
    scale_data.make_run(tmp_path, lines=2_000, records=30)
    meter = scale_data.Meter()
    scale_data.page(meter, tmp_path)
    text = (tmp_path / 'report.html').read_text()
    assert 'Training of the networks' in text and 'How alpha moved' in text
    assert meter.readings[0]['note'].startswith('logs of 1 MB, page of ')


def test_a_distillation_and_buffers_are_measured(tmp_path: Path) -> None:
    meter = scale_data.Meter()
    scale_data.distilled(meter, tmp_path, 50)
    scale_data.buffers(meter, 1_000)
    assert meter.readings[0]['note'] == '300 values kept'
    # two arrays of eight bytes for each of twelve values and 1,020 iterations
    assert meter.readings[1]['note'].endswith(f'{12 * 2 * 8 * 1_020 / 1e6:.0f} MB in a checkpoint')


# ---------------------------------------------------------------- choices


def test_six_limits_on_the_space_of_dna() -> None:
    ratings, networks = scale_search.rated_space(3)
    # by hand: one path, 6^2 + 6^3 paths, 6^3 + 6^4 paths
    assert networks == (36 + 216) * (216 + 1296)
    meter = scale_data.Meter()
    scale_search.choose(meter, 3, 1)
    assert len(meter.readings) == 2
    assert ratings.metrics == ('macs', 'params', 'latency')


def test_a_choice_out_of_the_limits_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmnas_ext.search import select as choosing

    found = choosing.select
    monkeypatch.setattr(choosing, 'select', lambda ratings, limits=None: found(ratings))
    with pytest.raises(RuntimeError, match='macs must lie in'):
        scale_search.choose(scale_data.Meter(), 3, 1)


def test_the_front_of_the_space_of_fna_serves_six_limits() -> None:
    meter = scale_data.Meter()
    scale_search.choose_by_alpha(meter, 1)
    assert meter.readings[0]['note'].endswith('2.2e+17 networks, 6 chosen')


# ---------------------------------------------------------------- trials


def stand_in(plan: Any, index: int, arch: Any, price: float, *others: Any) -> Trial:
    """A trial whose training takes no time."""
    return Trial(index, arch.format('fna'), 1, 1, price, {'closeness': 1 / (1 + index)}, '', 1, 1.0, 1.0, 1e-5)


@pytest.fixture
def searched(tmp_path: Path) -> tuple[Path, list[int], list[int]]:
    """A search of 120 trials, the descriptors before each, and how many trials each table had."""
    cfg = scale_search._tiny(tmp_path / 'run', 120)
    files, rows = [], []

    def seen(*args: Any) -> Trial:
        files.append(scale_data.descriptors())
        return stand_in(*args)

    def table(trials: Any, plan: Any) -> str:
        rows.append(len(trials))
        return plans.trials_table(trials, plan)

    with mock.patch.object(random_search, '_try', seen), mock.patch.object(random_search, 'trials_table', table):
        run(cfg, search_only=True)
    return tmp_path / 'run', files, rows


def test_a_search_of_many_trials_keeps_its_files_small_and_closed(searched: tuple[Path, list[int], list[int]]) -> None:
    work_dir, files, rows = searched
    assert len(files) == 120 and len({*files}) == 1
    # from the hundredth trial on after every second one; the last is that which is printed
    assert rows == [*range(1, 101), *range(102, 121, 2), 120]
    assert len((work_dir / 'trials.md').read_text().splitlines()) == 122
    manifest = read_manifest(work_dir / 'run.json')
    assert manifest is not None and manifest.parts['search'].notes['trials'] == [*range(120)]
    assert json.loads((work_dir / 'run.json').read_text())['parts']['search']['notes']['trials'] == '0-119'


def test_the_table_is_due_after_each_trial_then_seldom_and_after_the_last() -> None:
    due = [ended for ended in range(1, 10_001) if plans.table_is_due(ended, 9_999)]
    assert due[:99] == [*range(1, 100)]
    assert 200 < len(due) < 500
    # never a fiftieth behind
    assert all(later - earlier <= 1 + earlier / 50 for earlier, later in pairwise(due))
    assert 9_999 in due


def test_networks_are_drawn_once_for_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def sample(*args: Any) -> Any:
        drawn.append(args[2])
        return scale_search_sample(*args)

    scale_search_sample = plans.sample_within
    monkeypatch.setattr(plans, 'sample_within', sample)
    with mock.patch.object(random_search, '_try', stand_in):
        run(scale_search._tiny(tmp_path, 7), search_only=True)
    assert drawn == [7]


def test_trainings_leave_no_descriptor_and_no_instance(tmp_path: Path) -> None:
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.visualization import Visualizer

    known = [dict(kind._instance_dict) for kind in (MMLogger, MessageHub, Visualizer)]
    meter = scale_data.Meter()
    scale_search.trials(meter, tmp_path, 3, real=True)
    first, last = meter.readings[0]['files']
    assert first == last
    left = [{*kind._instance_dict} for kind in (MMLogger, MessageHub, Visualizer)]
    # MMEngine's own of no name may be made once
    assert all(len(now - {*before}) <= 1 for now, before in zip(left, known, strict=True))


def test_draws_and_generations_are_measured(tmp_path: Path) -> None:
    meter = scale_data.Meter()
    scale_search.draws_within(meter, 30)
    scale_search.generations(meter, tmp_path, 2)
    assert [reading['note'] for reading in meter.readings] == ['30 distinct of 2.2e+17', '100 networks, 100 distinct']


# ---------------------------------------------------------------- ranks


def test_ranks_draw_the_same_paths_and_share_the_images() -> None:
    meter = scale_data.Meter()
    scale_search.ranks(meter, 6, 40)
    scale_search.shares(meter, 6, 120)
    assert meter.readings[0]['note'].startswith('6 ranks draw 1 sequence of 40 paths, ')
    assert meter.readings[1]['note'] == '6 ranks split 1 way; of 120 images each is read by one rank'


def test_ranks_that_draw_otherwise_end_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmnas_ext.engine import optim, seeding

    # as if the rank were part of the seed, which `reseed` rightly does for augmentation
    monkeypatch.setattr(optim, 'generator', lambda *key: torch.Generator().manual_seed(seeding.get_rank()))
    with pytest.raises(RuntimeError, match='3 ranks draw [23] different sequences of paths'):
        scale_search.ranks(scale_data.Meter(), 3, 20)


@pytest.mark.parametrize('policy', ['uniform', 'softmax'])
def test_the_default_device_changes_no_draw(policy: str) -> None:
    _, wrapper = tiny.build()
    wrapper.seed_path, wrapper.keep_seed = ((0,), (0, 1), (0,)), 0.5
    drawn = []
    for device in ('cpu', 'meta'):
        with torch.device(device):
            for step in range(20):
                wrapper.start('weights', step, 3, policy)
                drawn.append(wrapper._path())
    assert drawn[:20] == drawn[20:]
    assert len({*drawn}) > 2


def test_the_whole_super_network_is_reduced_in_either_step(tmp_path: Path) -> None:
    class Outputs(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, inputs: torch.Tensor, mode: str) -> Any:
            return [[self.inner(inputs[..., :16, :16], None, mode)]]

    model, wrapper = tiny.build()
    whole = 4 * sum(p.numel() for p in model.parameters())
    sent = [scale_search.reduced(Outputs(model), wrapper, phase, tmp_path) for phase in ('weights', 'arch')]
    assert sent == [whole, whole]
    assert all(p.requires_grad for p in model.parameters())


# ---------------------------------------------------------------- the benchmark


def test_rows_are_written_as_they_come_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['--quick', '--only', "FNA's space", '--out', str(tmp_path)]
    scale.main(words)
    (line,) = (tmp_path / 'rows.jsonl').read_text().splitlines()
    (part,) = json.loads(line)['parts']
    assert part['whole'] > 20 and part['cpu'] > 0
    table = capsys.readouterr().out
    assert '### Choices' in table and 'tiny sizes, no figure has a meaning' in table
    monkeypatch.setattr(scale, 'measure', lambda *_: pytest.fail('measured again'))
    scale.main(words)
    assert capsys.readouterr().out == table
    assert not (tmp_path / 'input').exists()


def test_a_row_that_fails_ends_the_benchmark_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, 'list_rows', lambda quick: [scale.Row('a', 'b', 'nothing', {})])
    monkeypatch.setattr(scale, 'measure', lambda row, *_: {'key': row.key, 'quick': True, 'error': 'broken'})
    with pytest.raises(SystemExit, match='failed: a: b'):
        scale.main(['--quick', '--out', str(tmp_path)])
    assert 'a: b: broken' in capsys.readouterr().err


def test_a_row_that_takes_more_than_its_half_ends_the_benchmark() -> None:
    rows = [row for row in scale.list_rows(False) if row.half]
    keys = {row.key for row in scale.list_rows(False)}
    assert [f'logs: {row.half}' in keys for row in rows] == [True, True]
    found = {f'logs: {rows[0].half}': {'parts': [{'peak': 70.0}]}, rows[0].key: {'parts': [{'peak': 74.0}]}}
    assert scale.grown(rows, found) == []
    found[rows[0].key]['parts'][0]['peak'] = 90.0
    assert scale.grown(rows, found) == [f'{rows[0].key} takes 90 MB, and half of it 70 MB']


def test_a_descriptor_that_a_trial_leaves_open_ends_the_benchmark(tmp_path: Path) -> None:
    left = []

    def leaky(*args: Any) -> Trial:
        left.append((tmp_path / 'left').open('w'))
        return stand_in(*args)

    with mock.patch.object(random_search, '_try', leaky), pytest.raises(RuntimeError, match='to [0-9]+ descriptors'):
        scale_search.trials(scale_data.Meter(), tmp_path / 'run', 12, real=True)
    for file in left:
        file.close()


def test_rows_have_the_sizes_that_are_promised() -> None:
    rows = {row.key: row for row in scale.list_rows(False)}
    assert rows['annotations of COCO train2017: both halves'].files == ('make_coco', dict(share=1))
    assert rows['trials: 10,000 trials'].arguments == dict(count=10_000, real=False)
    assert rows['ranks: 1,000 ranks: paths'].arguments == dict(count=1_000, iterations=1_000)
    assert {'logs: a run, two logs of 1,000,000 lines', 'logs: a run, two logs of 2,000,000 lines'} <= set(rows)
    for row in rows.values():
        assert hasattr(scale_data, row.measure) or hasattr(scale_search, row.measure)
    with pytest.raises(SystemExit):
        scale.main(['--only', 'no such row'])
