"""Measures on the machine at hand what a search for latency needs: milliseconds of every layer that a space offers."""

import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmnas_ext import ops
from mmnas_ext.archs import Geometry, HostChoice, LatencyTable, SearchSpace, entries, prices
from mmnas_ext.archs.convs import STEM_TOKENS
from mmnas_ext.engine.progress import CountingBar
from mmnas_ext.runs.configs import read_config
from mmnas_ext.runs.halves import counted_at
from mmnas_ext.runs.host_choices import build_neck_and_head, features_of, list_hosts
from mmnas_ext.runs.resolve import resolve
from mmnas_ext.search.fields import check_count
from mmnas_ext.workdir import write_text

# times one call of a layer: milliseconds
Clock = Callable[[nn.Module, Tensor], float]


@dataclass(frozen=True)
class Subject:
    """Whose layers are measured, and how the backbone would compute them.

    Args:
        space: The search space.
        size: Height and width of the input image in pixels.
        output_stride: 8, 16 or 32.
        channels_last: Activations in memory layout NHWC.
        norm_cfg: Norm; ``None`` is batch norm.
        act_cfg: Activation; ``None`` takes the space's.
        hosts: Of a search that chooses neck and head too, each choice's config of the model, and what its neck and head
            cost in multiply-adds; the layers are measured at the size of each.
        scope: MMEngine's default scope, in which these are built.
    """

    space: SearchSpace
    size: tuple[int, int]
    output_stride: int = 32
    channels_last: bool = False
    norm_cfg: Mapping[str, Any] | None = None
    act_cfg: Mapping[str, Any] | None = None
    hosts: tuple[tuple[HostChoice, Mapping[str, Any], int], ...] = ()
    scope: str = 'mmengine'

    @classmethod
    def of_config(cls, path: str) -> 'Subject':
        """Reads the super-network of a search's config.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: Its backbone is no super-network, or its space is malformed.
        """
        cfg = resolve(read_config(path))
        backbone = cfg.get('model', {}).get('backbone') or {}
        if 'space' not in backbone:
            raise ValueError(
                f"config {path} must have model.backbone=dict(type='mmnas_ext.SuperNet', space=…), "
                f'got type {backbone.get("type")!r}'
            )
        hosts = tuple(list_hosts(cfg))
        return cls(
            SearchSpace.parse(backbone['space']), *counted_at(backbone),
            backbone.get('channels_last', False), backbone.get('norm_cfg'), backbone.get('act_cfg'),
            hosts, cfg.get('default_scope', 'mmengine') if hosts else 'mmengine',
        )  # fmt: skip

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Sizes of images at which layers are measured."""
        return tuple(dict.fromkeys([choice.input_size for choice, _, _ in self.hosts] or [self.size]))


def measure_to_file(out: str, subject: Subject, **how: Any) -> LatencyTable:
    """Measures a table, shows how far it is, and writes it whole or not at all.

    Args:
        out: File to write, ``.json``.
        subject: What is measured.
        how: Of `measure_latency`.

    Raises:
        ValueError: `out` is no ``.json`` file, or an argument of `measure_latency` is out of range.
    """
    path = Path(out)
    if path.suffix != '.json' or path.is_dir():
        raise ValueError(f'out must be a file that ends in .json, got {out}')
    path.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after all the measuring
    table = measure_latency(subject, **how)
    write_text(path, table.format())
    priced = prices(subject.space, subject.size, subject.output_stride, 'latency', table)
    print(
        f'{path}: {len(table.entries)} layers on {table.device}; networks of this space take '
        f'{priced.show(*priced.range())} for {table.batch_size} image(s) of {subject.size[0]}x{subject.size[1]}'
    )
    return table


def measure_latency(
    subject: Subject,
    device: str = 'cpu',
    batch_size: int = 1,
    threads: int | None = None,
    repeats: int = 30,
    warmup: int = 3,
) -> LatencyTable:
    """Times the stem and every candidate of every layer in inference, equal geometries once.

    Args:
        subject: What is measured.
        device: ``'cpu'``, ``'cuda'`` or ``'cuda:<n>'``.
        batch_size: Images per batch.
        threads: Threads of the CPU; ``None`` leaves PyTorch's. Without meaning on a GPU.
        repeats: Times that each layer is timed; the median of these counts.
        warmup: Rounds before that whose times are dropped.

    Raises:
        ValueError: An argument is out of range, or PyTorch does not see the device.
    """
    for name, value, least in (('batch_size', batch_size, 1), ('repeats', repeats, 1), ('warmup', warmup, 0)):
        check_count(name, value, least)
    if threads is not None:
        check_count('threads', threads, 1)
    place = _device(device)
    layout = torch.channels_last if subject.channels_last else torch.contiguous_format
    layers = {}
    inputs: dict[tuple[int, int, int], Tensor] = {}
    measured = (entries(subject.space, size, subject.output_stride) for size in subject.sizes)
    for geometry in dict.fromkeys(each for row in measured for each in row):
        layers[geometry] = build_layer(geometry, subject).to(place)
        shape = (geometry.in_channels, geometry.height, geometry.width)
        if shape not in inputs:
            inputs[shape] = torch.randn(batch_size, *shape, device=place).contiguous(memory_format=layout)
    jobs: dict[Any, tuple[nn.Module, Any]] = {
        g: (layer, inputs[g.in_channels, g.height, g.width]) for g, layer in layers.items()
    }
    for choice, model, _ in subject.hosts:
        shapes = features_of(model['backbone'], choice.input_size)
        features = [torch.randn(batch_size, *shape, device=place).contiguous(memory_format=layout) for shape in shapes]
        with DefaultScope.overwrite_default_scope(subject.scope):
            jobs[choice] = build_neck_and_head(model).to(place), tuple(features)
    on_cpu = place.type == 'cpu'
    with _threads(threads if on_cpu else None), torch.inference_mode():
        used = torch.get_num_threads() if on_cpu else None
        milliseconds = time_in_rounds(jobs, repeats, warmup, time_on_cpu if on_cpu else time_on_cuda)
    hosts = tuple((choice.format(), macs, milliseconds.pop(choice)) for choice, _, macs in subject.hosts)
    return LatencyTable(
        _device_name(place),
        batch_size,
        tuple(milliseconds.items()),
        subject.space.act,
        subject.channels_last,
        used,
        hosts,
    )


def build_layer(geometry: Geometry, subject: Subject) -> nn.Module:
    """The layer that a found network has there, in eval mode."""
    norm_cfg = dict(subject.norm_cfg or dict(type='BN'))
    act_cfg = dict(subject.act_cfg or ops.act_layer_cfg(subject.space.act))
    stem = STEM_TOKENS.get(geometry.token)
    if stem is not None:
        return ops.build_stem(stem, geometry.channels, norm_cfg, act_cfg).eval()
    return ops.build_layer(
        geometry.token, geometry.in_channels, geometry.channels, geometry.stride, geometry.dilation, norm_cfg, act_cfg
    ).eval()


def time_in_rounds(
    jobs: Mapping[Any, tuple[nn.Module, Any]], repeats: int, warmup: int, clock: Clock
) -> dict[Any, float]:
    """Median milliseconds of each job, all of them timed once a round.

    A machine whose speed drifts, or that another process slows down for a while, so does it to all layers alike: what
    a search reads off a table is which layer is faster than which.

    Args:
        jobs: Layers and their inputs.
        repeats: Rounds that count.
        warmup: Rounds before them that do not.
        clock: Times one call.
    """
    times: dict[Any, list[float]] = {geometry: [] for geometry in jobs}
    rounds = f'{repeats} rounds and {warmup} before them'
    bar = CountingBar(f'measuring {len(jobs)} layers in {rounds}:', (warmup + repeats) * len(jobs))
    for turn in range(-warmup, repeats):
        # another order each time: no layer always finds the caches as the same one left them
        for geometry in random.Random(turn).sample(list(jobs), len(jobs)):
            took = clock(*jobs[geometry])
            if turn >= 0:
                times[geometry].append(took)
            bar.step()
    return {geometry: statistics.median(measured) for geometry, measured in times.items()}


def time_on_cpu(layer: nn.Module, x: Tensor) -> float:
    """Milliseconds of one call, after one that is not timed and leaves input and weights in the caches."""
    layer(x)
    start = time.perf_counter_ns()
    layer(x)
    return (time.perf_counter_ns() - start) / 1e6


def time_on_cuda(layer: nn.Module, x: Tensor) -> float:
    """Milliseconds of one call as the GPU's own events tell them, after one that is not timed."""
    layer(x)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # named, as the input need not be on the current GPU
    stream = torch.cuda.current_stream(x.device)
    torch.cuda.synchronize(x.device)
    start.record(stream)
    layer(x)
    end.record(stream)
    torch.cuda.synchronize(x.device)
    return float(start.elapsed_time(end))


def _device(name: str) -> torch.device:
    try:
        place = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:<n>', got {name!r}") from None
    if place.type not in ('cpu', 'cuda'):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:<n>', got {name!r}")
    if place.type == 'cuda' and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f'device must be one that PyTorch sees, got {name!r}: it sees {torch.cuda.device_count()} GPUs'
        )
    return place


def _device_name(place: torch.device) -> str:
    if place.type == 'cuda':
        name = torch.cuda.get_device_name(place)
    else:
        name = platform.processor() or platform.machine()
        info = Path('/proc/cpuinfo')  # Linux, where `platform` knows the architecture alone
        lines = info.read_text().splitlines() if info.exists() else []
        name = next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), name)
    return f'{place.type}: {name}, torch {torch.__version__}'


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
