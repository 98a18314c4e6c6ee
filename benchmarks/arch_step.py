"""Time and memory of an arch step and of a weight step, each side in a fresh process, sides taking turns.

    python benchmarks/arch_step.py [--rounds 7] [--size 320] [--batch 2] [--threads 2]

Under 5 minutes on 2 idle cores. Prints Markdown. A ratio is the median over the rounds of side / first side of its
table. Arch steps are measured on the super-network of the space ``fna_det`` under a mean-square loss of its features,
then inside MMDetection's RetinaNet; *plain* is ``benchmarks/plain_supernet.py``, with gradients of alpha alone, as the
authors' step has. All sides of a table have the caller's environment, but for the last table, which compares two.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

# only a worker imports torch: a child's peak memory starts at that of the process it was forked from
if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
SPACE = 'fna_det'
LAMBDA = 0.02  # weight of the cost term for RetinaNet (FNA, ICLR 2020)
CLASSES = 80  # of COCO
CHECK_SIZE = 128  # pixels: at 320 a step in double takes a minute
MARK = 'reply '
KEEPING = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': str(1 << 40)}  # as in the Makefile


@dataclass(frozen=True)
class Side:
    """One row of a table: its printed name, the worker's mode, the largest ratios allowed.

    `keeps_memory` says whether the C library keeps freed memory, as `make` has it; ``None`` leaves it to the caller.
    """

    name: str
    mode: str
    time_at_most: float | None = None
    memory_at_most: float | None = None
    keeps_memory: bool | None = None


TABLES = {
    'backbone': (
        'Arch step, super-network alone, mean-square loss',
        [
            Side('plain', 'backbone-plain'),
            Side('fast', 'backbone-fast', 0.65, 1.0),
            Side('fast, checkpointed', 'backbone-checkpointed', 0.9, 0.35),
        ],
    ),
    'retinanet': (
        'Arch step inside RetinaNet',
        [
            Side('plain', 'retinanet-plain'),
            Side('fast', 'retinanet-fast'),
            Side('fast, checkpointed', 'retinanet-checkpointed'),
        ],
    ),
    'weight': (
        'Weight step (SGD) of one path',
        [Side('MBNet', 'weight-mbnet'), Side('SuperNet', 'weight-supernet', 1.1)],
    ),
    'malloc': (
        'Weight step of SuperNet, freed memory given back or kept',
        [
            Side('given back', 'weight-supernet', keeps_memory=False),
            Side('kept', 'weight-supernet', keeps_memory=True),
        ],
    ),
}


# ---------------------------------------------------------------- worker


class Job:
    """The job of a worker: the network of its mode, its images and its loss.

    Args:
        mode: One of the modes in `TABLES`.
        batch: Images per step.
        size: Height and width of an image.
    """

    def __init__(self, mode: str, batch: int, size: int) -> None:
        import torch

        torch.manual_seed(0)
        self.kind, self.variant = mode.split('-')
        self.batch = batch
        self.model: nn.Module = _retinanet(self.variant) if self.kind == 'retinanet' else _backbone(mode)
        self.net: Any = self.model.backbone if self.kind == 'retinanet' else self.model
        self.model.train()
        self.optimizer: torch.optim.Optimizer | None = None
        if self.kind == 'weight':
            weights = [parameter for name, parameter in self.model.named_parameters() if not name.endswith('alpha')]
            self.optimizer = torch.optim.SGD(weights, 0.02, momentum=0.9, weight_decay=1e-4)
        else:
            # the authors, too, compute no gradients of weights in an arch step
            self.model.requires_grad_(False)
        for alpha in self.alphas():
            alpha.requires_grad_(self.kind != 'weight')
        self.images, self.samples = self._images(size)

    def alphas(self) -> list['nn.Parameter']:
        """Returns the alphas, in order."""
        return [parameter for name, parameter in self.net.named_parameters() if name.endswith('alpha')]

    def step(self) -> None:
        """Runs an arch step up to alpha's gradients, or a whole weight step."""
        self.model.zero_grad()
        self._loss(self.images, self.samples).backward()
        if self.optimizer is not None:
            self.optimizer.step()

    def gradients(self, dtype: 'torch.dtype') -> list[float]:
        """Computes alpha's gradients on images of `CHECK_SIZE` in `dtype`; the network stays as it is."""
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        images, samples = self._images(CHECK_SIZE)
        self.model.to(dtype).zero_grad()
        self._loss(images.to(dtype), samples).backward()
        values = [value for alpha in self.alphas() for value in alpha.grad.tolist()]
        self.model.float().load_state_dict(state)
        return values

    def _loss(self, images: 'Tensor', samples: list[Any]) -> 'Tensor':
        import torch

        if self.kind == 'retinanet':
            loss, _ = self.model.parse_losses(self.model.loss(images, samples))
        else:
            loss = sum(feature.square().mean() for feature in self.net(images))
        if self.kind != 'weight':
            loss = loss + LAMBDA * torch.log10(self.net.expected_cost() / 1e9)
        return loss

    def _images(self, size: int) -> tuple['Tensor', list[Any]]:
        import torch

        generator = torch.Generator().manual_seed(1)
        images = torch.randn(self.batch, 3, size, size, generator=generator)
        if self.kind != 'retinanet':
            return images, []
        return images, [_annotate(size, generator) for _ in range(self.batch)]


def _backbone(mode: str) -> 'nn.Module':
    from mmnas_ext.archs import SearchSpace
    from mmnas_ext.registry import MODELS

    space = SearchSpace.parse(SPACE)
    path = space.sample_path(random.Random(0))
    if mode == 'weight-mbnet':
        net = MODELS.build(dict(type='mmnas_ext.MBNet', arch=space.arch(path), channels_last=True))
        net.init_weights()
        return net
    net = MODELS.build(
        dict(type='mmnas_ext.SuperNet', space=SPACE, channels_last=True, with_cp=mode.endswith('checkpointed'))
    )
    net.init_weights()
    net.set_path(path if mode == 'weight-supernet' else None)
    return _plain(net) if mode.endswith('plain') else net


def _plain(net: Any) -> 'nn.Module':
    """Builds the plain implementation with the weights of `net`."""
    from benchmarks.plain_supernet import PlainSuperNet
    from mmnas_ext.archs import candidate_costs

    costs = candidate_costs(net.space, net.input_size)
    plain = PlainSuperNet(net.space, [[[cost.macs for cost in layer] for layer in stage] for stage in costs])
    plain.load_state_dict(net.state_dict())
    return plain


def _retinanet(variant: str) -> 'nn.Module':
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules()
    anchors = dict(
        type='AnchorGenerator',
        octave_base_scale=4,
        scales_per_octave=3,
        ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
    )
    head = dict(type='RetinaHead', num_classes=CLASSES, in_channels=256, anchor_generator=anchors)
    head['loss_bbox'] = dict(type='L1Loss')
    assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
    model = MODELS.build(
        dict(
            type='RetinaNet',
            backbone=dict(
                type='mmnas_ext.SuperNet', space=SPACE, channels_last=True, with_cp=variant == 'checkpointed'
            ),
            # from the second feature on, as the authors do
            neck=dict(
                type='FPN',
                in_channels=[24, 32, 96, 320],
                out_channels=256,
                start_level=1,
                add_extra_convs='on_input',
                num_outs=5,
            ),
            bbox_head=head,
            train_cfg=dict(assigner=assigner, sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1),
        )
    )
    model.init_weights()
    if variant == 'plain':
        model.backbone = _plain(model.backbone)
    return model


def _annotate(size: int, generator: 'torch.Generator') -> Any:
    """Annotates an image with eight random boxes of an eighth to half of its size."""
    import torch
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    corners = torch.rand(8, 2, generator=generator) / 2
    sides = 0.125 + 0.375 * torch.rand(8, 2, generator=generator)
    boxes = torch.cat([corners, corners + sides], 1) * size
    labels = torch.randint(CLASSES, (8,), generator=generator)
    shape = (size, size)
    sample = DetDataSample(metainfo=dict(img_shape=shape, pad_shape=shape, batch_input_shape=shape))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    return sample


def _work(mode: str, batch: int, size: int, threads: int) -> None:
    """Answers the commands ``step``, ``memory`` and ``gradients`` from standard input, a JSON line each."""
    import logging

    import torch

    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    job = Job(mode, batch, size)
    baseline = _resident()

    def once() -> float:
        start = time.perf_counter()
        job.step()
        return time.perf_counter() - start

    def step() -> float:
        # a weight step is short, so a single one is noisy
        return statistics.median(once() for _ in range(5 if job.kind == 'weight' else 1))

    commands: dict[str, Callable[[], Any]] = {
        'step': step,
        'memory': lambda: _peak() - baseline,
        'gradients': lambda: [job.gradients(torch.float64), job.gradients(torch.float32)],
    }
    _reply(torch.__version__)
    for line in sys.stdin:
        _reply(commands[line.strip()]())


def _reply(answer: Any) -> None:
    print(MARK + json.dumps(answer), flush=True)


def _resident() -> float:
    """Returns the memory in use in MB; without /proc, the largest so far."""
    statm = Path('/proc/self/statm')
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6 if statm.exists() else _peak()


def _peak() -> float:
    """Returns the largest memory in use so far in MB."""
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# ---------------------------------------------------------------- parent


class Worker:
    """A fresh process of one side; it is idle between two commands.

    Args:
        side: The side.
        args: Command line arguments of the whole run.
    """

    def __init__(self, side: Side, args: argparse.Namespace) -> None:
        self.side = side
        self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115, closed by `close`
        command = [sys.executable, '-m', 'benchmarks.arch_step', '--worker', side.mode]
        for name in ('batch', 'size', 'threads'):
            command += [f'--{name}', str(getattr(args, name))]
        threads = str(args.threads)
        env = {**os.environ, 'OMP_NUM_THREADS': threads, 'MKL_NUM_THREADS': threads}
        if side.keeps_memory is not None:
            env = {name: value for name, value in env.items() if name not in KEEPING}
            env.update(KEEPING if side.keeps_memory else {})
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.torch_version = self._answer()

    def ask(self, command: str) -> Any:
        """Sends a command and returns the answer.

        Raises:
            RuntimeError: The process ended; the message has the end of its errors.
        """
        assert self._process.stdin is not None, 'opened as a pipe'
        with contextlib.suppress(BrokenPipeError):  # `_answer` raises with the reason
            print(command, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None, 'opened as a pipe'
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        self._errors.seek(0)
        raise RuntimeError(f'the worker of {self.side.mode!r} ended:\n{self._errors.read()[-3000:]}')


def measure(sides: list[Side], args: argparse.Namespace) -> tuple[list[list[str]], str]:
    """Measures the rows of a table; returns them and the version of torch."""
    workers: list[Worker] = []
    try:
        for side in sides:
            workers.append(Worker(side, args))
            workers[-1].ask('step')
            workers[-1].ask('step')
        times: list[list[float]] = [[] for _ in workers]
        for turn in range(args.rounds):
            # the sides take turns in going first
            for index in sorted(range(len(workers)), key=lambda i: (i + turn) % len(workers)):
                times[index].append(workers[index].ask('step'))
            print(f'{sides[0].mode.split("-")[0]}: round {turn + 1}/{args.rounds}', file=sys.stderr, flush=True)
        peaks = [worker.ask('memory') for worker in workers]
        searched = not sides[0].mode.startswith('weight')
        gradients = [worker.ask('gradients') for worker in workers] if searched else []
        rows = []
        for i, side in enumerate(sides):
            ratio = statistics.median(own / first for own, first in zip(times[i], times[0], strict=True))
            row = [
                side.name,
                f'{statistics.median(times[i]):.3f} s',
                _verdict(ratio, side.time_at_most),
                f'{peaks[i]:.0f} MB',
                _verdict(peaks[i] / peaks[0], side.memory_at_most),
            ]
            if gradients:
                row += [f'{difference(values, gradients[0][0]):.0e}' for values in gradients[i]]
            rows.append(row)
        return rows, workers[0].torch_version
    finally:
        for worker in workers:
            worker.close()


def difference(values: list[float], expected: list[float]) -> float:
    """Computes the largest difference, relative to the largest expected magnitude."""
    scale = max(abs(value) for value in expected)
    return max(abs(value - other) for value, other in zip(values, expected, strict=True)) / scale


def _verdict(ratio: float, at_most: float | None) -> str:
    if at_most is None:
        return f'{ratio:.2f}'
    return f'{ratio:.2f} ({"at most" if ratio <= at_most else "**not** at most"} {at_most})'


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Formats a Markdown table."""
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in [head, ['---'] * len(head), *rows])


def machine() -> str:
    """Returns the CPU's name and the number of cores."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return f'{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n\n')[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=7, help='turns of every side')
    parser.add_argument('--batch', type=int, default=2, help='images per step')
    parser.add_argument('--size', type=int, default=320, help='height and width of an image')
    parser.add_argument('--threads', type=int, default=2, help='threads of each side')
    parser.add_argument('--tables', nargs='+', choices=TABLES, default=list(TABLES), help='what to measure')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        _work(args.worker, args.batch, args.size, args.threads)
        return
    if args.rounds < 1:
        parser.error(f'--rounds must be at least 1, got {args.rounds}')
    load = os.getloadavg()[0]
    parts = []
    for name in args.tables:
        title, sides = TABLES[name]
        rows, torch_version = measure(sides, args)
        head = ['', 'time', 'ratio', 'peak memory', 'ratio']
        if not sides[0].mode.startswith('weight'):
            head += ['alpha gradients off, float64', 'float32']
        parts.append(f'### {title}\n\n{markdown(head, rows)}')
    print(
        f'`benchmarks/arch_step.py`, {datetime.now(timezone.utc):%Y-%m-%d}: {machine()}, load {load:.1f} at the start, '
        f'{args.threads} threads, torch {torch_version}, {args.batch}x3x{args.size}x{args.size}, '
        f'{args.rounds} rounds, medians; freed memory is '
        f'{"kept" if os.environ.get("MALLOC_MMAP_MAX_") == "0" else "given back"}. Peak memory is '
        f"above that of the built network. Last two columns of an arch step: largest difference of alpha's gradients "
        f'from plain in float64, relative to the largest, at {CHECK_SIZE}x{CHECK_SIZE}, in each precision. '
        'In float32 plain itself is off by rounding.\n'
    )
    print('\n\n'.join(parts))


if __name__ == '__main__':
    main()
