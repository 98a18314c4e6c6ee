"""What ``benchmarks/scale.py`` measures of choices, trials and draws, and the sizes of a detector's search."""

import hashlib
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.scale_data import Meter, descriptors, resident, trim

ROOT = Path(__file__).resolve().parents[1]
MOST_GROWN = 30  # kB that a trial may leave: its result has one, PyTorch's caches fill over the first trainings

# ---------------------------------------------------------------- choices


def rated_space(stages: int) -> tuple[Any, int]:
    """Ratings of the first stages of DNA's space, all seven for the whole, and the number of its networks.

    A rating falls with a path's multiply-adds and is moved by a fifth of the range at random, as in
    ``benchmarks/front.py``; milliseconds are multiply-adds at a speed that is drawn for each candidate.
    """
    import numpy as np

    from mmnas_ext.archs import CellSpace, cell_prices
    from mmnas_ext.search.ratings import BlockRatings, CellRatings, Ratings

    space, draw = CellSpace.parse('dna'), np.random.default_rng(0)
    space = replace(space, stages=space.stages[:stages])
    priced = {metric: cell_prices(space, (224, 224), metric=metric) for metric in ('macs', 'params')}
    tokens = {token: None for stage in space.stages for cell in stage.cells for row in cell.layers for token in row}
    speeds = dict(zip(tokens, draw.uniform(1e7, 4e7, len(tokens)).tolist(), strict=True))
    blocks, networks = [], {space.stem_channels: 1}
    for number, stage in enumerate(space.stages):
        cells, reached = [], dict.fromkeys(stage.widths, 0)
        for index, cell in enumerate(stage.cells):
            paths = np.indices(tuple(map(len, cell.layers))).reshape(len(cell.layers), -1)
            costs: dict[str, list[Any]] = {'macs': [], 'params': [], 'latency': []}
            for width in networks:
                rows = {metric: by_stage[number][width, index] for metric, by_stage in priced.items()}
                slowed = [
                    [price / speeds[token] for price, token in zip(prices, tokens, strict=True)]
                    for prices, tokens in zip(rows['macs'].layers[0], cell.layers, strict=True)
                ]
                for metric, row in rows.items():
                    costs[metric].append(_sums(row.layers[0], row.stem, paths))
                costs['latency'].append(_sums(slowed, 0.0, paths))
            size = costs['macs'][0] / costs['macs'][0].max()
            ratings = 0.8 * (1 - size / (1 + index / 10)) + 0.2 * draw.random(size.shape)
            columns = {name: tuple(zip(*(each.tolist() for each in rows), strict=True)) for name, rows in costs.items()}
            listed = tuple((tuple(path),) for path in paths.T.tolist())
            cells.append(
                CellRatings((index,), tuple(networks), cell.channels, listed, tuple(ratings.tolist()), columns)
            )
            reached[cell.channels] += sum(networks.values()) * cell.size
        blocks.append(BlockRatings((number,), tuple(cells)))
        networks = reached
    found = Ratings(space, (224, 224), ('macs', 'params', 'latency'), tuple(blocks))
    return found, sum(networks.values())


def _sums(layers: Any, stem: float, paths: Any) -> Any:
    """Cost of every path, by a price per layer and candidate."""
    import numpy as np

    return stem + sum(np.asarray(row)[picks] for row, picks in zip(layers, paths, strict=True))


def choose(meter: Meter, stages: int, repeats: int) -> None:
    """The exact choice from DNA's space, under a lower and an upper limit of three metrics each."""
    from mmnas_ext.archs import Limit
    from mmnas_ext.search.select import select

    ratings, networks = rated_space(stages)
    entries = sum(len(block.picks()) for block in ratings.blocks)
    ranges = select(ratings).ranges
    for low, high in ((0.1, 0.3), (0.1, 0.5)):
        # the best network of all is an expensive one: the upper limits decide
        limits = {
            name: Limit(*(type(least)(least + share * (most - least)) for share in (low, high)))
            for name, (least, most) in ranges.items()
        }
        taken = []
        with meter.part(f'{repeats} choices from {low} to {high} of each range') as reading:
            for _ in range(repeats):
                begun = time.process_time()
                found = select(ratings, limits)
                taken.append(time.process_time() - begun)
        for name, limit in limits.items():
            if not limit.min <= found.costs[name] <= limit.max:
                raise RuntimeError(f'{name} must lie in {limit}, got {found.costs[name]}')
        reading['note'] = (
            f'{statistics.median(taken):.2f} s of CPU each, at most {max(taken):.2f} s; {networks:.2g} networks, '
            f'{entries} entries'
        )


def choose_by_alpha(meter: Meter, repeats: int) -> None:
    """The exact choice from FNA's space: the whole front, from which six limits take their networks."""
    import numpy as np

    from mmnas_ext.archs import prices, zoo
    from mmnas_ext.search import front

    space = zoo.space('fna_det')
    draw = np.random.default_rng(0)
    rows = prices(space, (800, 1088)).searched().values()
    blocks = [
        [(cost, -float(logit)) for cost, logit in zip(row, draw.normal(size=len(row)), strict=True)] for row in rows
    ]
    taken = []
    with meter.part(f'{repeats} times six limits') as reading:
        for _ in range(repeats):
            begun = time.process_time()
            points = front(blocks)
            low, high = points.costs[0].item(), points.costs[-1].item()
            found = [points.best(low + share * (high - low) / 7) for share in range(1, 7)]
            taken.append(time.process_time() - begun)
    reading['note'] = (
        f'{1e3 * statistics.median(taken):.0f} ms of CPU for all six, at most {1e3 * max(taken):.0f} ms; '
        f'{space.size:.2g} networks, {len({*found})} chosen'
    )


# ---------------------------------------------------------------- trials


def _tiny(folder: Path, count: int) -> Any:
    """A random search of the tiny network of the tests, in a space of 324 networks, or FNA's where more are drawn."""
    from mmnas_ext.archs import SearchSpace, SpaceStage, zoo
    from tests.engine import tiny, tiny_trials

    layer = ('k3_e3', 'k5_e3', 'skip')
    small = SearchSpace((tiny.SPACE.stages[0], SpaceStage(4, 8, (layer[:2], *[layer] * 4), 2), tiny.SPACE.stages[2]))
    cfg = tiny_trials.random_cfg(folder, **{'random_search.count': count, 'random_search.limit.max': None})
    cfg.model.backbone.space = (small if count <= 100 else zoo.space('fna_det')).format()
    cfg.model.backbone.out_indices = (2,) if count <= 100 else (6,)
    return cfg


def trials(meter: Meter, folder: Path, count: int, real: bool) -> None:
    """Random search from its draw to the end of its last trial.

    Args:
        meter: Measures.
        folder: Work dir.
        count: Trials.
        real: Whether each is trained; otherwise a stand-in takes no time, and all else is done.
    """
    from mmnas_ext.archs import cost
    from mmnas_ext.runs import random_search
    from mmnas_ext.runs.run import run
    from mmnas_ext.runs.trials import Trial

    cfg, train = _tiny(folder, count), random_search._try
    seen: list[tuple[float, int, float]] = []

    def instead(plan: Any, index: int, arch: Any, price: float, *others: Any) -> Trial:
        if index % max(1, count // 10) == 0:
            trim()
            seen.append((resident(), descriptors(), time.process_time()))
        if real:
            return train(plan, index, arch, price, *others)
        macs, params = cost(arch, plan.size, plan.output_stride)
        reached = {'closeness': 1 / (1 + index), 'distance': float(index)}
        return Trial(index, arch.format('fna'), macs, params, price, reached, '', 12, 1.0, 1.0, 1e-5)

    with (
        meter.part('trained' if real else 'a stand-in for the training') as reading,
        quiet(),
        mock.patch.object(random_search, '_try', instead),
    ):
        run(cfg, search_only=True)
    tenths = [after[2] - before[2] for before, after in pairwise(seen[1:])]
    grown = 1e3 * (seen[-1][0] - seen[1][0]) / max(1, count * 8 // 10)
    if seen[-1][1] > seen[1][1] + 2 or (count >= 50 and grown > MOST_GROWN):
        raise RuntimeError(f'a trial leaves {grown:.1f} kB, and there are {seen[1][1]} to {seen[-1][1]} descriptors')
    reading['note'] = (
        f'from a tenth of the trials to nine: {grown:.2f} kB a trial, '
        f'{seen[1][1]} to {seen[-1][1]} descriptors, {10 * tenths[0] / count * 1e3:.1f} to '
        f'{10 * tenths[-1] / count * 1e3:.1f} ms of CPU a trial'
    )
    if not real:
        with meter.part('page of it') as reading:
            from mmnas_ext.reports import write_report

            reading['note'] = f'{write_report(folder)[-1].stat().st_size / 1e6:.1f} MB'


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what is printed inside to itself."""
    with open(os.devnull, 'w') as nothing, mock.patch.object(sys, 'stdout', nothing):
        yield


def draws_within(meter: Meter, count: int) -> None:
    """Networks of FNA's space within limits."""
    from mmnas_ext.archs import prices, zoo
    from mmnas_ext.search import sample_within

    space = zoo.space('fna_det')
    priced = prices(space, (800, 1088))
    low, high = priced.range()
    limits = [low + share * (high - low) for share in (0.45, 0.5)]
    with meter.part('drawn within a twentieth of the range') as reading:
        found = sample_within(space, priced, count, 0, limits[1], limits[0])
        reading['note'] = f'{len({*found})} distinct of {space.size:.2g}'


def generations(meter: Meter, folder: Path, number: int) -> None:
    """An evolution with a stand-in for the measuring; its file is written after each generation, as a run does."""
    from mmnas_ext.archs import Limit, prices, zoo
    from mmnas_ext.search.evolution import Evolution, Evolving
    from mmnas_ext.search.generations import Bred, Generations
    from mmnas_ext.workdir import write_text

    space = zoo.space('fna_det')
    priced = prices(space, (800, 1088))
    limit = Limit(None, sum(priced.range()) / 2)
    evolution = Evolution(
        space, priced, limit, Evolving(generations=number), lambda paths: [1e9 / priced.path(path) for path in paths]
    )
    told: list[tuple[Bred, ...]] = []
    with meter.part('bred and written down') as reading:
        for row in evolution.run():
            told.append(tuple(Bred(space.arch(each.path), each.cost, each.value, each.made) for each in row))
            text = Generations('loss', 'less', 'macs', limit, number, tuple(told)).format()
            write_text(folder / 'evolution.json', text)
        count = len(evolution.members)
        reading['note'] = f'{count} networks, {len({each.path for each in evolution.members})} distinct'


# ---------------------------------------------------------------- draws


def ranks(meter: Meter, count: int, iterations: int) -> None:
    """Whether ranks that each know their number alone draw the same paths, whatever else is random about them."""
    import torch

    from mmnas_ext.engine import seeding
    from tests.engine import tiny

    model, wrapper = tiny.build()
    digests = set()
    with meter.part('paths of weight steps') as reading:
        for rank in range(count):
            disturb(rank)
            found: list[Any] = [None] * iterations
            # each begins elsewhere, as resumed from another checkpoint
            first = rank * iterations // count
            device = 'meta' if rank % 2 else 'cpu'
            with mock.patch.object(seeding, 'get_rank', lambda rank=rank: rank), torch.device(device):
                for step in (*range(first, iterations), *range(first)):
                    wrapper.start('weights', step, 7, 'softmax' if step % 2 else 'uniform')
                    found[step] = model.backbone.sample_path(wrapper.policy, wrapper.draw)
            digests.add(hashlib.sha256(repr(found).encode()).hexdigest())
        distinct = len({*found})
        reading['note'] = f'{count} ranks draw {len(digests)} sequence of {iterations} paths, {distinct} distinct'
    if len(digests) > 1:
        raise RuntimeError(f'{count} ranks draw {len(digests)} different sequences of paths')


def shares(meter: Meter, count: int, images: int) -> None:
    """Whether ranks split the images alike, and share each half among them without an overlap."""
    from mmengine.dataset import BaseDataset, DefaultSampler, sampler

    from mmnas_ext.datasets import split_halves

    class Plain(BaseDataset):
        def load_data_list(self) -> list[dict[str, Any]]:
            return [dict(number=number) for number in range(images)]

    dataset, found, taken = Plain(pipeline=[]), set(), ([], [])  # type: ignore[var-annotated]
    with meter.part('halves, and what each rank reads of them') as reading:
        for rank in range(count):
            disturb(rank)
            halves = split_halves(dataset, 3)
            found.add(tuple(hashlib.sha256(half.indices.tobytes()).hexdigest() for half in halves))
            with mock.patch.object(sampler, 'get_dist_info', lambda rank=rank: (rank, count)):
                for half, numbers in zip(halves, taken, strict=True):
                    numbers += half.indices[[*DefaultSampler(half, seed=3, round_up=False)]].tolist()
        both = sorted(taken[0] + taken[1])
        reading['note'] = f'{count} ranks split {len(found)} way; of {images} images each is read by one rank'
    if len(found) > 1 or both != list(range(images)):
        raise RuntimeError(f'{count} ranks split {len(found)} ways, and read {len({*both})} of {images} images')


def disturb(rank: int) -> None:
    """Gives a rank random states of its own."""
    import numpy as np
    import torch

    random.seed(rank)
    np.random.seed(rank)
    torch.manual_seed(rank)
    torch.rand(rank % 17)


# ---------------------------------------------------------------- a detector's search


def detector(meter: Meter, folder: Path, config: str) -> None:
    """The sizes that a search's communication and checkpoints have, and the time of a checkpoint.

    Args:
        meter: Measures.
        folder: Where the checkpoint is written.
        config: Name of a config of ours.
    """
    import torch
    from mmengine.registry import MODELS, DefaultScope

    from mmnas_ext.engine import SearchOptimWrapperConstructor
    from mmnas_ext.runs.run import prepare

    cfg = prepare(str(ROOT / 'configs' / config))
    cfg.model.backbone.init_cfg = None
    with meter.part('model and optimizers'), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        settings = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
        wrapper = SearchOptimWrapperConstructor(settings)(model)
    supernet = model.backbone
    whole = sum(p.numel() for p in model.parameters())
    searched = {id(p) for layer in supernet.mixed_layers().values() for p in layer.parameters()}
    shared = sum(p.numel() for p in model.parameters() if id(p) not in searched)
    drawn = []
    for seed in range(20):
        path = supernet.sample_path('uniform', torch.Generator().manual_seed(seed))
        supernet.set_path(path)
        drawn.append(shared + sum(_run(layer) for layer in supernet.mixed_layers().values()))
    alphas = sum(p.numel() for p in supernet.arch_parameters())
    meter.readings[-1]['note'] = (
        f'{whole / 1e6:.2f} M parameters, of them drawn by a path {statistics.mean(drawn) / 1e6:.2f} M on average and '
        f'{max(drawn) / 1e6:.2f} M at most of 20; {alphas} of alpha'
    )
    for phase, word in (('weights', 'weight'), ('arch', 'arch')):
        with meter.part(f'backward of {"an" if word == "arch" else "a"} {word} step, DDP') as reading:
            reading['note'] = f'{reduced(model, wrapper, phase, folder) / 1e6:.1f} MB of gradients are reduced'
    # as after the first steps: momentum for all weights
    for each in wrapper.wrappers.values():
        for group in each.optimizer.param_groups:
            for parameter in group['params']:
                parameter.grad = torch.zeros_like(parameter)
        each.optimizer.step()
        each.optimizer.zero_grad()
    file = folder / 'checkpoint.pth'
    with meter.part('its checkpoint') as reading:
        torch.save(dict(state_dict=model.state_dict(), optimizer=wrapper.state_dict()), file)
        reading['note'] = f'{file.stat().st_size / 1e6:.0f} MB'


def reduced(model: Any, wrapper: Any, phase: str, folder: Path) -> int:
    """Bytes of gradients that DDP reduces in a step of a search, where unused parameters are looked for."""
    import torch
    from torch import distributed

    sent: list[int] = []

    def keep(_state: None, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sent.append(bucket.buffer().nbytes)
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    distributed.init_process_group('gloo', init_method=f'file://{folder / phase}', rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        wrapped.register_comm_hook(None, keep)
        wrapper.start(phase, 0)
        with wrapper.optim_context(wrapped):
            outputs = wrapped(torch.zeros(1, 3, 64, 64), mode='tensor')
        sum(each.mean() for level in outputs for each in level).backward()
    finally:
        wrapper._require_grad(weights=True, arch=True)
        distributed.destroy_process_group()
    return sum(sent)


def _run(layer: Any) -> int:
    """Parameters of the candidate that runs; a skip has none."""
    name = layer.tokens[layer.choice].replace('.', '_')
    return sum(p.numel() for p in layer.candidates[name].parameters()) if name in layer.candidates else 0


def images(meter: Meter, folder: Path, config: str, count: int) -> None:
    """Images a second of a config's training pipeline, on one core, from a JPEG of COCO's usual size.

    Args:
        meter: Measures.
        folder: Where the image is written.
        config: Name of a config of ours.
        count: Images.
    """
    import cv2
    import numpy as np
    from mmengine.dataset import Compose
    from mmengine.registry import DefaultScope

    from mmnas_ext.runs.run import prepare

    cv2.setNumThreads(0)
    draw = np.random.default_rng(0)
    coarse = cv2.resize(draw.uniform(0, 255, (15, 20, 3)).astype(np.float32), (640, 480), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(draw.normal(0, 60, coarse.shape).astype(np.float32), (0, 0), 1.0)
    file = folder / 'image.jpg'
    cv2.imwrite(str(file), np.clip(coarse + fine, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
    cfg = prepare(str(ROOT / 'configs' / config))
    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        import mmdet.datasets  # noqa: F401

        pipeline = Compose(dataset.pipeline)
    box = dict(bbox=[100.0, 100.0, 300.0, 300.0], bbox_label=1, ignore_flag=0)
    with meter.part(f'pipeline of {config}') as reading:
        for number in range(count):
            pipeline(dict(img_path=str(file), img_id=number, height=480, width=640, instances=[dict(box)] * 7))
    size = file.stat().st_size / 1e3
    reading['note'] = f'{count / reading["cpu"]:.1f} images a second of CPU, from a JPEG of 640x480, {size:.0f} kB'
