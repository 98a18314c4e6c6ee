"""Times steps, ratings and layers on a GPU, at the sizes of the papers; prints Markdown with the card's name.

    python benchmarks/device.py                       # ends within 20 minutes; --list names the rows
    python benchmarks/device.py --minutes 9           # stops in time; the next call goes on where this one stopped
    python benchmarks/device.py --quick --device cpu  # shows that it runs: tiny sizes, figures without meaning

*authors* is the step of the FNA authors: every candidate of a layer by itself (``benchmarks/plain_supernet.py``), in
single precision and NCHW; their weight step runs one path, and its optimizer steps through all. Times are medians of
steps between two synchronisations, memory is the peak of PyTorch's allocator. Convolutions may use TF32, PyTorch's
default. Weights and images are random; nothing is read from disk or downloaded. Rows are appended to
``<out>/rows.jsonl`` as they come; one that runs out of memory or time says so.
"""

import argparse
import json
import platform
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ROWS_FILE = 'rows.jsonl'
_START = 60  # seconds that a worker may take to start
FNA, DEEPLAB = 'fna_retinanet_coco', 'fna_deeplabv3_cityscapes'
SIZES = {FNA: (800, 1088), DEEPLAB: (769, 769), 'retinanet_fna_coco': (800, 1088)}
SIZES |= {'deeplabv3_fna_cityscapes': (769, 769), 'dna_a_imagenet': (224, 224), 'dna_imagenet': (224, 224)}
# the way of a side: NHWC, precision, checkpointing, compilation
WAYS: dict[str, dict[str, Any]] = {
    'authors': {},
    'NCHW, fp32': {},
    'NHWC, fp32': dict(nhwc=True),
    'NHWC, bf16': dict(nhwc=True, half='bfloat16'),
    'NHWC, fp16': dict(nhwc=True, half='float16'),
    'NHWC, bf16, checkpointed': dict(nhwc=True, half='bfloat16', with_cp=True),
    'NHWC, bf16, compiled': dict(nhwc=True, half='bfloat16', compiled=True),
}


class Row(NamedTuple):
    """What a row measures: its table, its name, the function and its arguments, and the seconds that it may take."""

    table: str
    name: str
    measure: str
    arguments: dict[str, Any]
    limit: int = 90

    @property
    def key(self) -> str:
        """Its place in the file."""
        return f'{self.table}: {self.name}'


def list_rows() -> list[Row]:
    """All rows, those that others are compared with first."""
    found = []
    for phase in ('arch', 'weights'):
        for config, batch in ((FNA, 1), (DEEPLAB, 4)):
            ways = [way for way in WAYS if way != 'authors' or config == FNA]
            ways = [way for way in ways if phase == 'arch' or not WAYS[way].get('with_cp')]
            title = f'{"arch" if phase == "arch" else "weight"} step of {config}, {batch} x {_size(SIZES[config])}'
            for way in ways:
                limit = 150 if WAYS[way].get('compiled') else 90
                found.append(Row(title, way, 'search', dict(config=config, phase=phase, batch=batch, way=way), limit))
    for config, batch in (('retinanet_fna_coco', 4), ('deeplabv3_fna_cityscapes', 4), ('dna_a_imagenet', 128)):
        for way in ('NCHW, fp32', 'NHWC, fp32', 'NHWC, bf16'):
            arguments = dict(config=config, phase='train', batch=batch, way=way)
            title = f'training step of {config}, {batch} x {_size(SIZES[config])}'
            found.append(Row(title, way, 'search', arguments))
    for way in ('NCHW, fp32', 'NHWC, fp32', 'NHWC, bf16'):
        title = f'distillation step of dna_imagenet, teacher tf_efficientnet_b7, 64 x {_size(SIZES["dna_imagenet"])}'
        found.append(Row(title, way, 'distillation', dict(batch=64, way=way)))
    for images in (16, 128):
        found.append(
            Row('rating of 1296 paths', f'{images} + {images} images of 128x128', 'rating', dict(images=images))
        )
    for channels_last in (False, True):
        title = 'latency table of fna_det, 800x1088'
        found.append(Row(title, 'NHWC' if channels_last else 'NCHW', 'latency', dict(channels_last=channels_last)))
    return found


def _size(size: tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


# ---------------------------------------------------------------- a worker


class Place(NamedTuple):
    """Where rows are measured: the device, and whether all is small."""

    device: str
    quick: bool

    @property
    def kind(self) -> str:
        """``'cuda'`` or ``'cpu'``."""
        return self.device.partition(':')[0]

    def wait(self) -> None:
        """Waits until the device has computed what it was given."""
        import torch

        if self.device != 'cpu':
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        """Gives memory back, and begins a new peak."""
        import gc

        import torch

        gc.collect()
        torch._dynamo.reset()
        if self.device != 'cpu':
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float | None:
        """Largest memory of PyTorch's allocator in GiB; of a CPU it is not known."""
        import torch

        return None if self.device == 'cpu' else torch.cuda.max_memory_allocated(self.device) / 2**30

    def time(self, step: Callable[[], Any], least: int = 8, seconds: float = 6.0) -> float:
        """Median seconds of a step, after three that do not count: `least` at least, as many as `seconds` allow."""
        for _ in range(1 if self.quick else 3):
            step()
        taken: list[float] = []
        while len(taken) < (1 if self.quick else least) or (
            sum(taken) < seconds and not self.quick and len(taken) < 50
        ):
            self.wait()
            begun = time.perf_counter()
            step()
            self.wait()
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken)


def search(place: Place, config: str, phase: str, batch: int, way: str) -> dict[str, Any]:
    """Times a step of a host: an arch step, a weight step of one path, or a step of an ordinary training."""
    import torch
    from mmengine.registry import MODELS, DefaultScope

    from mmnas_ext.runs.run import prepare

    settings, size = WAYS[way], (64, 64) if place.quick else SIZES[config]
    batch = min(batch, 2) if place.quick else batch
    cfg = prepare(config)
    _without_files(cfg.model)
    if cfg.model.data_preprocessor.get('size'):
        cfg.model.data_preprocessor.size = size
    cfg.model.backbone.channels_last = bool(settings.get('nhwc'))
    if phase == 'arch':
        cfg.model.backbone.with_cp = bool(settings.get('with_cp'))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
        if way == 'authors' and phase == 'arch':
            from benchmarks.arch_step import _plain

            model.backbone = _plain(model.backbone)
        net: Any = model.backbone
        model.to(place.device).train()
        alphas = [p for name, p in net.named_parameters() if name.endswith('alpha')]
        for p in model.parameters():
            p.requires_grad_(phase != 'arch')
        for p in alphas:
            p.requires_grad_(phase == 'arch')
        if phase == 'weights':
            net.set_path(net.sample_path('uniform', torch.Generator().manual_seed(0)))
        if settings.get('compiled'):
            net.compile(backend='aot_eager' if place.quick else 'inductor')
        data = model.data_preprocessor(_images(cfg, batch, size), True)
        step = _stepper(place, model, data, phase, way)
        seconds = place.time(step)
    return dict(ms=1000 * seconds, images=batch / seconds, memory=place.peak())


def _stepper(place: Place, model: Any, data: Any, phase: str, way: str) -> Callable[[], None]:
    """A whole step: forward, loss with the cost term, backward, and an update of what is trained."""
    import copy

    import torch

    half, keeps = WAYS[way].get('half'), way == 'authors'
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained if keeps else ():  # as if each candidate had been drawn before
        p.grad = torch.zeros_like(p)
    optimizer: Any = torch.optim.Adam(trained, 1e-4) if phase == 'arch' else torch.optim.SGD(trained, 1e-5, 0.9)
    scaler = torch.amp.GradScaler(place.kind, enabled=half == 'float16')

    def step() -> None:
        context: Any = nullcontext() if half is None else torch.autocast(place.kind, getattr(torch, half))
        with context:
            samples = copy.deepcopy(data['data_samples'])  # heads change them
            loss, _ = model.parse_losses(model(data['inputs'], samples, mode='loss'))
        if phase == 'arch':
            loss = loss + 0.02 * torch.log10(model.backbone.expected_cost().to(loss.device) / 1e9).to(loss.dtype)
        optimizer.zero_grad(set_to_none=not keeps)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _without_files(part: Any) -> None:
    """Takes out of a model's config what is read from disk, and norms that need several processes."""
    if isinstance(part, dict):
        if part.get('type') == 'SyncBN':
            part['type'] = 'BN'
        if 'Remapped' in str(
            (part.get('init_cfg') or {}).get('type') if isinstance(part.get('init_cfg'), dict) else ''
        ):
            part['init_cfg'] = None
        for inner in part.values():
            _without_files(inner)


def _images(cfg: Any, batch: int, size: tuple[int, int]) -> dict[str, Any]:
    """Random images with eight boxes, a map of labels or a label each."""
    import torch

    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randint(256, (3, *size), generator=draw, dtype=torch.uint8) for _ in range(batch)]
    samples: list[Any] = []
    for _ in inputs:
        if cfg.default_scope == 'mmdet':
            from benchmarks.arch_step import _annotate

            samples.append(_annotate(min(size), draw))
            samples[-1].set_metainfo(dict(img_shape=size, pad_shape=size, batch_input_shape=size))
        elif cfg.default_scope == 'mmseg':
            from mmengine.structures import PixelData
            from mmseg.structures import SegDataSample

            labels = torch.randint(cfg.model.decode_head.num_classes, (1, *size), generator=draw)
            samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels)))
        else:
            from mmpretrain.structures import DataSample

            samples.append(DataSample().set_gt_label(torch.randint(cfg.model.head.num_classes, (1,), generator=draw)))
    return {'inputs': inputs, 'data_samples': samples}


def distillation(place: Place, batch: int, way: str) -> dict[str, Any]:
    """Times a step of all blocks of DNA's super-network with the teacher's forward pass."""
    import torch

    from mmnas_ext.distill import BlockDistiller
    from mmnas_ext.engine.block_optim import BlockOptimWrapperConstructor

    settings = WAYS[way]
    size, teacher = (224, 224), dict(timm='tf_efficientnet_b7', train_mode=True)
    space: Any = 'dna'
    if place.quick:
        batch, size, space = 2, (64, 64), 'dna_lite'
        teacher = dict(backbone=dict(type='mmnas_ext.MBNet', arch='efficientnet_lite0', out_indices=(6,)))
    nhwc = bool(settings.get('nhwc'))
    torch.manual_seed(0)
    distiller: Any = BlockDistiller(dict(teacher, channels_last=nhwc), space, input_size=size, channels_last=nhwc)
    distiller.init_weights()
    distiller.to(place.device).train()
    images = torch.randn(batch, 3, *size, device=place.device)
    distiller.calibrate([images])
    half = {'amp': True, 'dtype': settings['half']} if settings.get('half') else {}
    wrapper = BlockOptimWrapperConstructor(dict(optimizer=dict(type='AdamW', lr=1e-4), **half))(distiller)
    numbers = iter(range(10**9))

    def step() -> None:
        distiller.start(next(numbers), 0)
        with wrapper.optim_context(distiller):
            losses = distiller(images, mode='loss')
        wrapper.update_params(torch.stack(list(losses.values())).sum())

    place.forget()
    seconds = place.time(step)
    return dict(ms=1000 * seconds, images=batch / seconds, memory=place.peak())


def rating(place: Place, images: int) -> dict[str, Any]:
    """Times the rating of all paths of a cell, `benchmarks/rating_speed.py`'s, in one go."""
    import torch

    from benchmarks.rating_speed import prepare_batches
    from mmnas_ext.distill.rating import rate, units

    torch.manual_seed(0)
    distiller, batches = prepare_batches(2 if place.quick else images, place.device)
    cell = distiller.all_blocks()[-1].all_cells()[0]
    parts = units(cell)[: 1 if place.quick else None]
    rate(cell, cell.paths[0], lambda: batches, lambda: batches)  # first calls allocate
    place.wait()
    begun = time.perf_counter()
    paths = sum(len(rate(cell, part.prefix, lambda: batches, lambda: batches)) for part in parts)
    seconds = time.perf_counter() - begun
    return dict(seconds=seconds, paths=paths / seconds, memory=place.peak())


def latency(place: Place, channels_last: bool) -> dict[str, Any]:
    """Measures the latency table of a space, and says what its networks take."""
    from mmnas_ext.archs import SearchSpace, prices
    from mmnas_ext.runs.measure_latency import Subject, measure_latency

    size = (64, 64) if place.quick else SIZES[FNA]
    space = SearchSpace.parse('fna_det')
    begun = time.perf_counter()
    rounds = dict(repeats=1, warmup=0) if place.quick else {}
    table = measure_latency(Subject(space, size, channels_last=channels_last), place.device, **rounds)
    seconds = time.perf_counter() - begun
    least, most = prices(space, size, 32, 'latency', table).range()
    return dict(seconds=seconds, layers=len(table.entries), least=least, most=most)


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    each.__name__: each for each in (search, distillation, rating, latency)
}


def work(place: Place, keys: list[str]) -> None:
    """Measures rows one after the other; prints a line of JSON before and after each."""
    import torch

    rows = {row.key: row for row in list_rows()}
    card = platform.processor() or platform.machine()
    if place.device != 'cpu':
        if ':' in place.device:
            torch.cuda.set_device(place.device)
        card = torch.cuda.get_device_name(place.device)
    for key in keys:
        print(json.dumps({'begin': key}), flush=True)
        place.forget()
        found: dict[str, Any]
        try:
            found = MEASURES[rows[key].measure](place, **rows[key].arguments)
        except torch.OutOfMemoryError:
            found = dict(error='out of memory')
        except Exception as error:  # the other rows are measured all the same
            found = dict(error=f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'[:200])
        print(json.dumps({'key': key, 'card': card, 'torch': torch.__version__, **found}), flush=True)


# ---------------------------------------------------------------- the command


class Measuring:
    """Has rows measured in a process of their own, which is ended where one takes too long.

    Args:
        place: The device.
        file: Where rows are written as they come.
        until: When the last row has to be done, by `time.monotonic`.
    """

    def __init__(self, place: Place, file: Path, until: float) -> None:
        self.place, self.file, self.until = place, file, until

    def run(self, rows: list[Row]) -> list[Row]:
        """Measures what there is time for; returns the rest."""
        left = list(rows)
        while left and time.monotonic() + left[0].limit < self.until:
            left = self._one_process(left)
        return left

    def _one_process(self, left: list[Row]) -> list[Row]:
        command = [sys.executable, '-m', 'benchmarks.device', '--device', self.place.device]
        command += ['--quick'] * self.place.quick + ['--worker', json.dumps([row.key for row in left])]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pass_on, args=(process, lines), daemon=True).start()
        left = list(left)
        try:
            while left:
                wait = min(left[0].limit + _START, self.until - time.monotonic())
                try:
                    line = lines.get(timeout=max(wait, 0.1))
                except queue.Empty:
                    if time.monotonic() < self.until:
                        self._write({'key': left.pop(0).key, 'error': f'not done in {int(wait)} s'})
                    return left
                if line is None:  # the process has died in this row
                    self._write({'key': left.pop(0).key, 'error': f'the process ended with {process.wait()}'})
                    return left
                if line.startswith('{"key"'):
                    self._write(json.loads(line))
                    left.pop(0)
            return left
        finally:
            process.kill()
            process.wait()

    def _write(self, record: dict[str, Any]) -> None:
        record = {**record, 'quick': self.place.quick, 'device': self.place.device}
        with self.file.open('a') as file:
            file.write(json.dumps(record) + '\n')
        print(f'{record["key"]}: {record.get("error") or "done"}', file=sys.stderr, flush=True)


def _pass_on(process: 'subprocess.Popen[str]', lines: 'queue.Queue[str | None]') -> None:
    assert process.stdout is not None, 'opened as a pipe'
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def read_rows(file: Path, place: Place) -> dict[str, dict[str, Any]]:
    """Rows of this device that are there already, by key."""
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {r['key']: r for r in records if (r['quick'], r['device']) == (place.quick, place.device)}


def tables(rows: list[Row], found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Markdown of the rows that there are."""
    for title in dict.fromkeys(row.table for row in rows):
        records = [(row.name, found[row.key]) for row in rows if row.table == title and row.key in found]
        if not records:
            continue
        kind = next(row.measure for row in rows if row.table == title)
        yield f'### {title[0].upper()}{title[1:]}\n\n{_table(kind, records)}'


_HEADS = {
    'search': ['', 'a step', 'ratio', 'images/s', 'peak memory'],
    'distillation': ['', 'a step', 'ratio', 'images/s', 'peak memory'],
    'rating': ['', 'time', 'paths/s', 'peak memory'],
    'latency': ['', 'layers', 'measured in', 'networks take'],
}


def _table(kind: str, records: list[tuple[str, dict[str, Any]]]) -> str:
    head = _HEADS[kind]
    lines = [head, ['---'] + ['---:'] * (len(head) - 1)]
    first = next((r['ms'] for _, r in records if 'ms' in r), None)
    for name, r in records:
        cells = [r['error']] if 'error' in r else _cells(kind, r, first)
        lines.append([name, *cells, *[''] * (len(head) - 1 - len(cells))])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _cells(kind: str, r: dict[str, Any], first: float | None) -> list[str]:
    memory = '–' if r.get('memory') is None else f'{r["memory"]:.2f} GiB'
    if kind == 'rating':
        return [f'{r["seconds"]:.1f} s', f'{r["paths"]:.0f}', memory]
    if kind == 'latency':
        return [str(r['layers']), f'{r["seconds"]:.0f} s', f'{r["least"]:.2f} to {r["most"]:.2f} ms']
    return [f'{r["ms"]:.1f} ms', f'{r["ms"] / (first or r["ms"]):.2f}', f'{r["images"]:.1f}', memory]


def main(argv: list[str] | None = None) -> None:
    """Measures the rows that are not there yet, then prints all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda', help='cuda, cuda:<n>, or cpu with --quick')
    parser.add_argument('--out', type=Path, default=ROOT / 'work_dirs' / 'device')
    parser.add_argument('--minutes', type=float, default=19.0, help='no row is begun that might end later')
    parser.add_argument('--only', default='', help='rows whose table or name has this in it')
    parser.add_argument('--quick', action='store_true', help='tiny sizes: figures without meaning')
    parser.add_argument('--list', action='store_true', help='name the rows')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    place = Place(args.device, args.quick)
    rows = [row for row in list_rows() if args.only in row.key]
    if args.worker:
        work(place, json.loads(args.worker))
        return
    if not rows:
        parser.error(f'--only must be a part of the name of a row, got {args.only!r}: --list names them')
    if args.device == 'cpu' and not args.quick and not args.list:
        parser.error('--device cpu needs --quick: the sizes are those of a GPU')
    if args.list:
        print('\n'.join(row.key for row in rows))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / ROWS_FILE
    done = read_rows(file, place)
    until = time.monotonic() + 60 * args.minutes
    left = Measuring(place, file, until).run([row for row in rows if row.key not in done])
    found = read_rows(file, place)
    about = {(r['card'], r['torch']) for r in found.values() if 'card' in r}
    said = ' and '.join(f'{card}, torch {version}' for card, version in sorted(about))
    print(f'`benchmarks/device.py`: {said}{"; tiny sizes, no figure has a meaning" if args.quick else ""}\n')
    print('\n\n'.join(tables(rows, found)))
    if left:
        print(f'\n{len(left)} of {len(rows)} rows are not measured yet: the same command goes on')


if __name__ == '__main__':
    main()
