"""What ``benchmarks/scale.py`` measures of data and logs, and `Meter`, which measures; the inputs are generated."""

import ctypes
import gc
import json
import os
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CLASSES = 80
# of COCO's train2017, as its own files count
COCO = dict(images=118_287, boxes=860_001, empty=1_021)
_SIZES = ((480, 640), (427, 640), (640, 480), (375, 500), (640, 427))  # height and width, the usual ones
Reading = dict[str, Any]


class Meter:
    """Takes the time, the memory and the open descriptors of parts of a process."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    @contextmanager
    def part(self, name: str) -> Iterator[Reading]:
        """Measures what happens inside; what is put into the reading is shown beside it.

        Memory is resident memory in MB: ``peak`` is the most that was added at any time, ``kept`` what is still there
        when the part has ended and unused memory is given back.
        """
        trim()
        before, files = resident(), descriptors()
        whole = reset_peak()
        reading: Reading = {'name': name}
        wall, cpu = time.perf_counter(), time.process_time()
        yield reading
        reading['wall'], reading['cpu'] = time.perf_counter() - wall, time.process_time() - cpu
        peak = highest()
        trim()
        reading |= dict(
            peak=peak - before if whole else None, whole=peak, kept=resident() - before, files=[files, descriptors()]
        )
        self.readings.append(reading)


def trim() -> None:
    """Gives memory that is not in use back to the system, so that what is resident is in use."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL('libc.so.6').malloc_trim(0)


def resident() -> float:
    """Resident memory in MB."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize() / 1e6


def highest() -> float:
    """The most resident memory since `reset_peak`, in MB."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM'):
            return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def reset_peak() -> bool:
    """Counts the most resident memory from now on; ``False`` where the kernel does not allow it."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return False
    return True


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir('/proc/self/fd')) - 1  # the one that lists them


# ---------------------------------------------------------------- annotations


def make_coco(folder: Path, share: float) -> None:
    """Writes an annotation file of COCO's size and layout, and a file without content for each image.

    Args:
        folder: Where to.
        share: Of COCO's numbers.
    """
    images, boxes, empty = (max(8, round(share * COCO[key])) for key in ('images', 'boxes', 'empty'))
    draw = random.Random(0)
    (folder / 'annotations').mkdir(parents=True, exist_ok=True)
    (folder / 'train2017').mkdir(exist_ok=True)
    sizes = [_SIZES[draw.randrange(len(_SIZES))] for _ in range(images)]
    names = [f'{number:012d}.jpg' for number in range(1, images + 1)]
    for name in names:
        (folder / 'train2017' / name).touch()
    with (folder / 'annotations' / 'instances_train2017.json').open('w') as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for number, (name, (height, width)) in enumerate(zip(names, sizes, strict=True), start=1):
            image = dict(license=3, file_name=name, height=height, width=width, date_captured='2013-11-14', id=number)
            file.write(',\n' * (number > 1) + json.dumps({**image, 'coco_url': f'http://images/train2017/{name}'}))
        file.write('], "annotations": [')
        for number in range(1, boxes + 1):
            image_id = 1 + (number % (images - empty))
            file.write(',\n' * (number > 1) + json.dumps(_box(number, image_id, *sizes[image_id - 1], draw)))
        file.write('], "categories": ')
        file.write(json.dumps([dict(supercategory='a', id=n, name=f'class {n}') for n in range(1, CLASSES + 1)]) + '}')


def _box(number: int, image: int, height: int, width: int, draw: random.Random) -> dict[str, Any]:
    x, y = draw.uniform(0, width - 40), draw.uniform(0, height - 40)
    across, down = draw.uniform(8, width - x), draw.uniform(8, height - y)
    x, y, across, down = (round(value, 2) for value in (x, y, across, down))
    corners = [[x, y, x + across, y, x + across, y + down, x, y + down]]
    return dict(
        segmentation=corners, area=across * down, iscrowd=0, image_id=image, bbox=[x, y, across, down],
        category_id=1 + number % CLASSES, id=number,
    )  # fmt: skip


def _loader(folder: Path) -> dict[str, Any]:
    import mmdet.datasets  # noqa: F401

    dataset = dict(
        type='mmdet.CocoDataset', data_root=str(folder), ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'), filter_cfg=dict(filter_empty_gt=True, min_size=32), pipeline=[],
        metainfo=dict(classes=tuple(f'class {number}' for number in range(1, CLASSES + 1))),
    )  # fmt: skip
    sampler, batch_sampler = dict(type='DefaultSampler', shuffle=True), dict(type='mmdet.AspectRatioBatchSampler')
    return dict(batch_size=1, num_workers=0, dataset=dataset, sampler=sampler, batch_sampler=batch_sampler)


def their_loader(meter: Meter, folder: Path) -> None:
    """MMDetection's own dataset and loader."""
    from mmengine.runner import Runner

    cfg = _loader(folder)
    with meter.part("MMDetection's dataset and loader") as reading:
        loader = Runner.build_dataloader(cfg, seed=0)
        reading['note'] = f'{len(loader.dataset)} images'


def both_halves(meter: Meter, folder: Path) -> None:
    """The loaders of both halves of a search, as a search builds them."""
    from mmengine.runner import Runner

    from mmnas_ext.engine.batches import build_halves

    cfg = _loader(folder)
    with meter.part('both halves, as a search builds them') as reading:
        runner = SimpleNamespace(seed=0, build_dataloader=Runner.build_dataloader)
        halves = build_halves(runner, cfg, 0.5, 0)
        reading['note'] = f'{" and ".join(str(len(half.loader.dataset)) for half in halves)} images'


def halves_in_parts(meter: Meter, folder: Path) -> None:
    """What a search adds to MMDetection's dataset, part by part, in one process."""
    from mmengine.registry import DATASETS

    from mmnas_ext.datasets import check_files, split_halves

    cfg = _loader(folder)
    with meter.part("MMDetection's dataset"):
        dataset = DATASETS.build(cfg['dataset'])
    with meter.part('added: two views of it') as reading:
        halves = split_halves(dataset, 0)
        reading['note'] = f'{len(halves[0])} and {len(halves[1])} images'
    with meter.part('added: every image is looked for'):
        check_files(dataset)


def checks(meter: Meter, folder: Path) -> None:
    """What is read and checked of one's own data before a run."""
    from mmnas_ext.datasets.annotations import forget
    from mmnas_ext.datasets.labels import check_part
    from mmnas_ext.datasets.layouts import OwnData

    data = OwnData.parse(dict(type='coco', root=str(folder)))
    with meter.part('where the training part is'):
        part = data.find('train')
    with meter.part('names of the classes, by the whole file'):
        classes = data.read_classes()
    with meter.part('every label and file of the part') as reading:
        reading['note'] = f'{len(check_part(data, "train", part, classes))} warnings'
    with meter.part('what was read is let go'):
        forget()


# ---------------------------------------------------------------- logs


def make_run(folder: Path, lines: int, records: int) -> None:
    """Writes a search by gradients and the training of what it found.

    Args:
        folder: Where to.
        lines: In each of MMEngine's two logs.
        records: In the log of alpha, of 2 kB each.
    """
    from mmnas_ext.archs import zoo
    from mmnas_ext.reports.log import searched_layers

    space = zoo.space('fna_det')
    (folder / 'derived').mkdir(parents=True)
    (folder / 'search_space.json').write_text(space.format())
    (folder / 'derived' / 'arch.json').write_text(zoo.arch('fna_retinanet').format('json'))
    sizes = {f'{i}.{j}': len(space.stages[i].layers[j]) for i, j in searched_layers(space)}
    entropy = json.dumps(dict.fromkeys(sizes, 0.991234))
    with (folder / 'search_log.jsonl').open('w') as file:
        for number in range(1, records + 1):
            if number % 100 == 1:
                ahead = 0.1 * number / records
                alpha = {
                    name: [round(1 / size + ahead, 6)] + [round((1 - 1 / size - ahead) / (size - 1), 6)] * (size - 1)
                    for name, size in sizes.items()
                }
                text = json.dumps(alpha)
            file.write(
                f'{{"iter": {50 * number}, "epoch": {number // 1000}, "alpha": {text}, "entropy": {entropy}, '
                '"expected_macs": 3e9, "argmax_macs": 2e9, "skips": 3}\n'
            )
    for place, name in ((folder, 'arch_loss'), (folder / 'adapt', 'loss_bbox')):
        write_training(place, lines, {name: 0.4})


def write_training(folder: Path, lines: int, also: dict[str, float]) -> None:
    """Writes a log as MMEngine writes it, a validation after every thousand lines."""
    file = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    always = json.dumps(dict(lr=0.02, data_time=0.01, loss_cls=0.5, **also, time=0.3, memory=8000)).rstrip('}')
    with file.open('w') as log:
        for number in range(1, lines + 1):
            step = 50 * number
            log.write(
                f'{always}, "loss": {1 / number}, "epoch": {1 + number // 1000}, "iter": {step}, "step": {step}}}\n'
            )
            if number % 1000 == 0:
                log.write(json.dumps({'coco/bbox_mAP': number / lines, 'step': number // 1000}) + '\n')


def page(meter: Meter, folder: Path) -> None:
    """The page of a run with long logs."""
    from mmnas_ext.reports import write_report

    with meter.part('figures and page') as reading:
        written = write_report(folder)
        sizes = sum(file.stat().st_size for file in folder.rglob('*') if file.suffix in ('.json', '.jsonl'))
        reading['note'] = f'logs of {sizes / 1e6:.0f} MB, page of {written[-1].stat().st_size / 1e6:.1f} MB'


def distilled(meter: Meter, folder: Path, lines: int) -> None:
    """The losses of a distillation's six blocks."""
    from mmnas_ext.reports.distill_log import find_losses

    write_training(folder, lines, {f'loss_block{block}': 0.3 for block in range(6)})
    with meter.part('losses of six blocks') as reading:
        found = find_losses(folder)
        assert found is not None, 'written just now'
        reading['note'] = f'{sum(map(len, found.losses.values()))} values kept'


def buffers(meter: Meter, iterations: int) -> None:
    """What MMEngine's own buffers of logged values take in each iteration, and in each checkpoint."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

    scalars, updates = 12, 20
    made = [HistoryBuffer(np.ones(iterations), np.ones(iterations), 1_000_000) for _ in range(scalars)]
    with meter.part(f'{updates} iterations of {scalars} values') as reading:
        for _ in range(updates):
            for each in made:
                each.update(1.0)
    held = sum(array.nbytes for each in made for array in each.data)
    reading['note'] = f'{1e3 * reading["wall"] / updates:.1f} ms an iteration, {held / 1e6:.0f} MB in a checkpoint'
