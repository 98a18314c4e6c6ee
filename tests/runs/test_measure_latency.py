"""What is measured, in which order, and what is made of it; never how fast a layer is."""

import importlib.util
import json
import re
import statistics
from pathlib import Path

import pytest
import torch
from torch import nn

from mmnas_ext.archs import Geometry, LatencyTable, SearchSpace, SpaceStage, entries, prices
from mmnas_ext.backbones import SuperNet
from mmnas_ext.ops import MBConv
from mmnas_ext.runs import measure_latency as latency
from mmnas_ext.runs.measure_latency import Subject, build_layer, measure_latency, measure_to_file, time_in_rounds
from tests.engine import tiny
from tests.engine.terminal import Terminal

ROOT = Path(__file__).parents[2]
# every candidate is dilated somewhere at output stride 8, and one has squeeze-excite
SPACE = SearchSpace(
    (
        SpaceStage(8, 8, (('k3_e1',),), 2),
        SpaceStage(8, 12, (('k3_e2', 'k7_e6'), ('k3_e2', 'k5_e3_se0.25', 'skip')), 2),
        SpaceStage(12, 16, (('k3_e2',), ('k7_e6', 'skip')), 2),
    ),
    act='swish',
)
SIZE = (40, 52)


def seen_by_a_forward(net: SuperNet, size: tuple[int, int]) -> set[Geometry]:
    """Geometries of all convolution layers that run when all candidates do."""
    found = set()

    def record(token, first, last, middle):
        def hook(module, args, out):
            height, width = args[0].shape[2:]
            found.add(
                Geometry(
                    token, first.in_channels, last.out_channels, middle.stride[0], middle.dilation[0], height, width
                )
            )

        return hook

    net.stem.register_forward_hook(record('stem', net.stem.conv, net.stem.conv, net.stem.conv))
    for i, stage in enumerate(net.layers()):
        for j, layer in enumerate(stage):
            tokens = net.space.stages[i].layers[j]
            blocks = [layer] if len(tokens) == 1 else list(layer.candidates.values())
            for token, block in zip([token for token in tokens if token != 'skip'], blocks, strict=True):
                first = (block.expand or block.depthwise).conv
                block.register_forward_hook(record(token, first, block.project.conv, block.depthwise.conv))
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, *size))
    return found


@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_the_layers_are_those_of_a_super_network(output_stride):
    net = SuperNet(SPACE, out_indices=(2,), output_stride=output_stride, input_size=SIZE)
    wanted = seen_by_a_forward(net, SIZE)
    # the stem; one, two, two, one and one candidates in turn, none of which stands twice
    assert len(wanted) == 1 + 1 + 2 + 2 + 1 + 1
    assert set(entries(SPACE, SIZE, output_stride)) == wanted


@pytest.mark.parametrize('output_stride', [8, 32])
@pytest.mark.parametrize('channels_last', [False, True])
def test_a_table_covers_every_geometry_and_prices_the_space(output_stride, channels_last):
    subject = Subject(SPACE, SIZE, output_stride, channels_last)
    table = measure_latency(subject, threads=1, batch_size=2, repeats=1, warmup=0)
    assert tuple(geometry for geometry, _ in table.entries) == entries(SPACE, SIZE, output_stride)
    assert (table.batch_size, table.act, table.channels_last, table.threads) == (2, 'swish', channels_last, 1)
    assert table.device.startswith('cpu: ')
    assert table.device.endswith(f', torch {torch.__version__}')
    low, high = prices(SPACE, SIZE, output_stride, 'latency', table).range()
    assert 0 < low < high


def test_a_measured_layer_is_the_layer_of_the_space():
    cfg = {'type': 'HSwish'}
    subject = Subject(SPACE, SIZE, act_cfg=cfg, norm_cfg={'type': 'BN', 'eps': 1e-3})
    for geometry in entries(SPACE, SIZE, 8):
        layer = build_layer(geometry, subject)
        assert not layer.training
        assert any(isinstance(module, nn.Hardswish) for module in layer.modules())
        assert {module.eps for module in layer.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}
        out = layer(torch.zeros(1, geometry.in_channels, geometry.height, geometry.width))
        ends = [-(-side // geometry.stride) for side in (geometry.height, geometry.width)]
        assert out.shape == (1, geometry.channels, *ends)
    plain = build_layer(entries(SPACE, SIZE)[1], Subject(SPACE, SIZE))
    assert isinstance(plain, MBConv)
    assert any(isinstance(module, nn.SiLU) for module in plain.modules())
    dilated = build_layer(Geometry('k5_e2', 8, 8, 1, 4, 16, 16), Subject(SPACE, SIZE))
    assert dilated.depthwise.conv.dilation == (4, 4)


def test_layers_run_in_eval_without_gradients_in_the_asked_layout(monkeypatch):
    calls = []

    def clock(layer, x):
        calls.append((layer.training, torch.is_inference_mode_enabled(), tuple(x.shape), x.is_contiguous(
            memory_format=torch.channels_last), torch.get_num_threads()))  # fmt: skip
        return 1.0

    monkeypatch.setattr(latency, 'time_on_cpu', clock)
    before = torch.get_num_threads()
    measure_latency(Subject(SPACE, SIZE, channels_last=True), batch_size=3, threads=before + 1, repeats=1, warmup=0)
    assert torch.get_num_threads() == before
    assert len(calls) == 8
    assert {(training, inference, last, threads) for training, inference, _, last, threads in calls} == {
        (False, True, True, before + 1)
    }
    assert (3, 3, *SIZE) in [shape for _, _, shape, _, _ in calls]
    calls.clear()
    measure_latency(Subject(SPACE, SIZE), repeats=1, warmup=0)
    assert {threads for *_, threads in calls} == {before}
    assert not any(last for _, _, shape, last, _ in calls if shape[1] > 1)


# rounds


JOBS = {Geometry(token, 8, 8, 1, 1, 4, 4): (token, None) for token in ('k3_e1', 'k5_e1', 'k7_e1')}
TRUE = {'k3_e1': 1.0, 'k5_e1': 2.0, 'k7_e1': 4.0}


def test_every_round_times_every_layer_once_and_warm_up_counts_nothing():
    calls = []

    def clock(token, _):
        calls.append(token)
        return 1000.0 if len(calls) <= 4 * 3 else TRUE[token]

    # more rounds of warm-up than count: the median would be theirs
    times = time_in_rounds(JOBS, repeats=3, warmup=4, clock=clock)
    assert {geometry.token: ms for geometry, ms in times.items()} == TRUE
    assert list(times) == list(JOBS)
    rounds = [calls[start : start + 3] for start in range(0, len(calls), 3)]
    assert len(rounds) == 7
    assert all(sorted(one) == sorted(TRUE) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_a_machine_that_slows_down_does_so_to_all_layers_alike():
    calls = []

    def clock(token, _):
        calls.append(token)
        return TRUE[token] * (1 + len(calls) / 100)

    times = {geometry.token: ms for geometry, ms in time_in_rounds(JOBS, repeats=41, warmup=0, clock=clock).items()}
    # it ends more than twice as slow as it began, and the ratios of layers stay
    assert times['k5_e1'] / times['k3_e1'] == pytest.approx(2, rel=0.02)
    assert times['k7_e1'] / times['k3_e1'] == pytest.approx(4, rel=0.02)


def test_the_median_counts():
    found = iter([5.0, 900.0, 1.0, 3.0, 2.0])
    times = time_in_rounds(dict([next(iter(JOBS.items()))]), repeats=5, warmup=0, clock=lambda *_: next(found))
    assert list(times.values()) == [statistics.median([5.0, 900.0, 1.0, 3.0, 2.0])] == [3.0]


def test_progress_and_remaining_time_are_shown_to_one_who_watches(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr('sys.stderr', terminal)
    time_in_rounds(JOBS, repeats=200, warmup=10, clock=lambda *_: 1.0)
    assert capsys.readouterr().out == 'measuring 3 layers in 200 rounds and 10 before them:\n'
    assert re.search(r'100%\|.* 630/630 \[\d+:\d+<\d+:\d+', terminal.getvalue())


class Tell(nn.Module):
    """A layer that says when it runs."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def forward(self, x):
        self.log.append('layer')
        return x


def test_a_call_on_the_cpu_is_timed_after_one_that_is_not(monkeypatch):
    log = []
    ticks = iter([5_000_000, 7_500_000])
    monkeypatch.setattr(latency.time, 'perf_counter_ns', lambda: log.append('clock') or next(ticks))
    assert latency.time_on_cpu(Tell(log), torch.zeros(1)) == 2.5
    assert log == ['layer', 'clock', 'layer', 'clock']


def test_a_call_on_the_gpu_is_timed_by_its_events_once_it_has_ended(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            self.timed = enable_timing

        def record(self, stream):
            log.append(f'event on {stream}')

        def elapsed_time(self, other):
            assert self.timed and other.timed and self is not other
            log.append('read')
            return 1.25

    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: f'stream of {device}')
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: log.append(f'wait for {device}'))
    assert latency.time_on_cuda(Tell(log), torch.zeros(1)) == 1.25
    event = 'event on stream of cpu'
    assert log == ['layer', 'wait for cpu', event, 'layer', event, 'wait for cpu', 'read']


# the file and the command


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('tools_measure_latency', ROOT / 'tools' / 'measure_latency.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


QUICK = ['--repeats', '1', '--warmup', '0', '--threads', '1']


def test_the_command_measures_a_space(tool, tmp_path, capsys):
    space, out = tmp_path / 'space.json', tmp_path / 'made' / 'latency.json'
    space.write_text(SPACE.format())
    tool(['--space', str(space), '--input-size', '40', '52', '--output-stride', '8', '--out', str(out), *QUICK])
    table = LatencyTable.parse(out)
    assert [geometry for geometry, _ in table.entries] == list(entries(SPACE, SIZE, 8))
    assert [path.name for path in out.parent.iterdir()] == ['latency.json']
    low, high = prices(SPACE, SIZE, 8, 'latency', out).range()
    assert capsys.readouterr().out.endswith(
        f'{out}: 8 layers on {table.device}; networks of this space take {low:.4g} to {high:.4g} ms '
        'for 1 image(s) of 40x52\n'
    )


def test_the_command_reads_a_config_as_the_search_does(tool, tmp_path):
    cfg = tiny.search_cfg(tmp_path)
    cfg.model.backbone.update(channels_last=True, output_stride=8, act_cfg={'type': 'Swish'})
    file, out = tmp_path / 'search.py', tmp_path / 'latency.json'
    cfg.dump(file)
    assert Subject.of_config(str(file)) == Subject(
        tiny.SPACE, tiny.SIZE, 8, channels_last=True, act_cfg={'type': 'Swish'}
    )
    tool([str(file), '--out', str(out), '--batch-size', '2', *QUICK])
    table = LatencyTable.parse(out)
    assert [geometry for geometry, _ in table.entries] == list(entries(tiny.SPACE, tiny.SIZE, 8))
    assert (table.batch_size, table.channels_last, table.threads) == (2, True, 1)
    # and the search takes it
    cfg.optim_wrapper.cost = {'weight': 0.1, 'metric': 'latency', 'table': str(out)}
    _, wrapper = tiny.build({'output_stride': 8}, cfg.optim_wrapper.to_dict())
    assert wrapper.prices == prices(tiny.SPACE, tiny.SIZE, 8, 'latency', table)


def test_the_command_line_comes_before_the_config(tool, tmp_path):
    file, out = tmp_path / 'search.py', tmp_path / 'latency.json'
    tiny.search_cfg(tmp_path).dump(file)
    tool([str(file), '--out', str(out), '--input-size', '24', '32', '--channels-last', *QUICK])
    table = LatencyTable.parse(out)
    assert [geometry for geometry, _ in table.entries] == list(entries(tiny.SPACE, (24, 32)))
    assert table.channels_last


def test_a_run_that_is_stopped_leaves_the_old_table(monkeypatch, tmp_path):
    out = tmp_path / 'latency.json'
    out.write_text(tiny.latency_table().format())

    def stop(layer, x):
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, 'time_on_cpu', stop)
    with pytest.raises(KeyboardInterrupt):
        measure_to_file(str(out), Subject(SPACE, SIZE))
    assert LatencyTable.parse(out) == tiny.latency_table()


@pytest.mark.parametrize(('arguments', 'message'), [
    ([], 'give either a config or --space'),
    (['a.py', '--space', 'fna_det'], 'give either a config or --space'),
    (['--space', 'fna_det'], '--space needs --input-size H W'),
    (['gone.py'], 'config gone.py does not exist'),
    (['--space', 'fna_dte', '--input-size', '64', '64'], "unknown search space 'fna_dte'"),
    (['--space', 'fna_det', '--input-size', '0', '64'], 'size must be a pair of positive integers'),
    (['--space', 'fna_det', '--input-size', '64', '64', '--repeats', '0'],
     'repeats must be a positive integer, got 0'),
    (['--space', 'fna_det', '--input-size', '64', '64', '--device', 'tpu'],
     "device must be 'cpu', 'cuda' or 'cuda:<n>', got 'tpu'"),
])  # fmt: skip
def test_a_command_that_cannot_be(tool, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        tool([*arguments, '--out', 'latency.json'])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_does_not_search():
    path = str(ROOT / 'configs' / 'retinanet_mbv2_coco.py')
    with pytest.raises(
        ValueError, match=r"must have model.backbone=dict\(type='mmnas_ext.SuperNet', space=…\), got type"
    ):
        Subject.of_config(path)


@pytest.mark.parametrize('out', ['latency.txt', 'latency'])
def test_a_table_ends_in_json(out):
    with pytest.raises(ValueError, match=f'out must be a file that ends in .json, got {out}'):
        measure_to_file(out, Subject(SPACE, SIZE))


def test_a_folder_is_no_table(tmp_path):
    (tmp_path / 'a.json').mkdir()
    with pytest.raises(ValueError, match=r'out must be a file that ends in .json, got .*a.json'):
        measure_to_file(str(tmp_path / 'a.json'), Subject(SPACE, SIZE))


@pytest.mark.parametrize(('name', 'value', 'least'), [
    ('batch_size', 0, 1), ('batch_size', True, 1), ('threads', 0, 1), ('repeats', 1.5, 1), ('warmup', -1, 0),
])  # fmt: skip
def test_counts_are_whole(name, value, least):
    wanted = 'a positive integer' if least else 'an integer of at least 0'
    with pytest.raises(ValueError, match=f'{name} must be {wanted}, got {value}'):
        measure_latency(Subject(SPACE, SIZE), **{name: value})


@pytest.mark.parametrize(('device', 'count'), [('cuda', 0), ('cuda:2', 2)])
def test_a_gpu_that_is_not_there(monkeypatch, device, count):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    with pytest.raises(ValueError, match=f"device must be one that PyTorch sees, got '{device}': it sees {count} GPUs"):
        measure_latency(Subject(SPACE, SIZE), device)


@pytest.mark.parametrize('device', ['mps', 'cup', 'cuda:x', 'meta'])
def test_a_device_that_is_none_of_ours(device):
    with pytest.raises(ValueError, match=rf"device must be 'cpu', 'cuda' or 'cuda:<n>', got '{device}'"):
        measure_latency(Subject(SPACE, SIZE), device)


def test_the_names_of_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda place: f'card {place.index}')
    assert latency._device_name(torch.device('cuda:1')) == f'cuda: card 1, torch {torch.__version__}'


def test_a_table_says_how_it_was_measured(tmp_path):
    out = tmp_path / 'latency.json'
    measure_to_file(str(out), Subject(tiny.SPACE, tiny.SIZE), threads=1, repeats=1, warmup=0)
    said = {key: value for key, value in json.loads(out.read_text()).items() if key not in ('entries', 'device')}
    assert said == {'batch_size': 1, 'act': 'relu6', 'channels_last': False, 'threads': 1}
