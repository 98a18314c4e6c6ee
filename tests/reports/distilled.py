"""A made-up block-wise distillation: the files that one leaves in its work dir, as their producers write them."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmnas_ext.archs import CellSpace, cell_prices
from mmnas_ext.search.ratings import BlockRatings, CellRatings, Ratings, price_paths
from mmnas_ext.search.select import Selection, select
from tests.reports.drawn import by_gid, texts

CANDIDATES = ('k3_e3', 'k3_e6', 'k5_e3', 'k5_e6', 'k7_e3', 'k7_e6')
# per stage its cells, channels and layers of each; and the stages of each block: 6 blocks of 36 to 1296 paths a cell
STAGES = (
    ((16, 1),),
    ((24, 2), (24, 3)),
    ((40, 2), (40, 3), (48, 3)),
    ((80, 2), (80, 3), (80, 4)),
    ((96, 3), (96, 4), (112, 3), (112, 4)),
    ((192, 4),),
    ((320, 2),),
)
BLOCKS = ((0, 1), (2,), (3,), (4,), (5,), (6,))
SMALL = STAGES[:3]
SMALL_BLOCKS = BLOCKS[:2]
SIZE = (224, 224)

# stage 1 leaves 16 or 24 channels, which enter stage 2: so an entry there is a path for one of the two
HAND_SPACE = CellSpace.parse(
    {
        'stem_channels': 8,
        'stages': [
            {'stride': 1, 'cells': [{'channels': 8, 'layers': [['k3_e1']]}]},
            {
                'stride': 2,
                'cells': [
                    {'channels': 16, 'layers': [['k3_e3', 'k5_e3', 'k3_e6']]},
                    {'channels': 24, 'layers': [['k3_e3']]},
                ],
            },
            {
                'stride': 2,
                'cells': [
                    {'channels': 32, 'layers': [['k3_e3', 'k5_e3']]},
                    {'channels': 40, 'layers': [['k3_e3'], ['k3_e3', 'k5_e3', 'k3_e6']]},
                ],
            },
        ],
    }
)


def hand() -> Ratings:
    """Ratings and costs written by hand: millions of multiply-adds, thousands of parameters."""

    def cell(index: tuple[int, ...], enters: tuple[int, ...], leaves: int, rows: dict[tuple, tuple]) -> CellRatings:
        macs = tuple(tuple(10**6 * macs for macs in row[1]) for row in rows.values())
        params = tuple(tuple(1000 * row[2] for _ in enters) for row in rows.values())
        ratings = tuple(row[0] for row in rows.values())
        return CellRatings(index, enters, leaves, tuple(rows), ratings, {'macs': macs, 'params': params})

    first = (
        cell(
            (0, 0),
            (8,),
            16,
            {((0,), (0,)): (0.5, (10,), 1), ((0,), (1,)): (0.3, (30,), 3), ((0,), (2,)): (0.4, (20,), 2)},
        ),
        cell((0, 1), (8,), 24, {((0,), (0,)): (0.6, (5,), 1)}),
    )
    second = (
        cell((0,), (16, 24), 32, {((0,),): (0.9, (10, 11), 1), ((1,),): (0.8, (20, 21), 2)}),
        cell(
            (1,),
            (16, 24),
            40,
            {((0, 0),): (0.75, (30, 31), 3), ((0, 1),): (0.7, (40, 41), 4), ((0, 2),): (0.72, (50, 51), 5)},
        ),
    )
    blocks = (BlockRatings((0, 1), first), BlockRatings((2,), second))
    return Ratings(HAND_SPACE, (64, 96), ('macs', 'params'), blocks)


# within 55 M: 0.3 for 30 M and 0.8 for 20 M, which 16 channels enter
HAND_LIMITS = {'macs': 55 * 10**6, 'params': None}
HAND_CHOICE = (1, 2)
# by hand, over all networks whose widths fit
HAND_COSTS = [16, 20, 30, 40, 50, 60, 70]
HAND_RATINGS = [1.5, 1.4, 1.3, 1.2, 1.1, 1.05, 1.0]


def hand_front() -> Selection:
    """The front of `hand`, and the choice within `HAND_LIMITS`."""
    return select(hand(), HAND_LIMITS)


RANK = {
    'truth': 'mIoU',
    'higher_is_better': True,
    'networks': [
        {'title': 'a', 'macs': 1e8, 'truth': 60.0, 'scores': {'rated': 1.5, 'one-shot': 0.4}},
        {'title': 'b', 'macs': 2e8, 'truth': 62.0, 'scores': {'rated': 1.2}},
        {'title': 'c', 'macs': 3e8, 'truth': 61.0, 'scores': {'rated': 1.3, 'one-shot': 0.6}},
    ],
    'tau': {'rated': [1.0, -0.25, 1.0]},
}


def write(folder: Path, name: str, value: Any) -> Path:
    """Writes the content of a file."""
    path = folder / name
    path.write_text(json.dumps(value), encoding='utf-8')
    return path


def changed(value: Any, *keys: str | int, to: Any) -> Any:
    """A copy of a file's content in which one place says something else."""
    copy = json.loads(json.dumps(value))
    holder = copy
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = to
    return copy


def record(step: int, **values: float) -> dict[str, Any]:
    """One training record; the losses of its blocks by name."""
    return {'lr': 0.1, 'loss': sum(values.values()), **values, 'step': step}


def losses(
    blocks: int = 6, *, count: int = 400, every: int = 50, first: int = 1, seed: int = 0
) -> list[dict[str, Any]]:
    """Training records as MMEngine logs them: every block's loss falls towards its own floor."""
    rng = np.random.default_rng(seed)
    records = []
    for step in range(first * every, (first + count) * every, every):
        record: dict[str, Any] = {'lr': 0.002, 'data_time': 0.01, 'time': 0.2, 'iter': step, 'memory': 1000}
        for block in range(blocks):
            floor = 0.12 + 0.07 * block
            falls = (1.05 - floor) / (1 + step / (400 * (block + 1)))
            record[f'loss_block{block}'] = float((floor + falls) * rng.lognormal(0, 0.06))
        record['loss'] = sum(value for name, value in record.items() if name.startswith('loss_block'))
        records.append({**record, 'step': step})
    return records


def write_log(folder: Path, run: str, records: list[dict[str, Any]], tail: str = '') -> Path:
    """Writes the log of one run of a work dir, `tail` behind it."""
    path = folder / run / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(record) + '\n' for record in records) + tail, encoding='utf-8')
    return path


def ratings(
    stages: tuple = STAGES, blocks: tuple = BLOCKS, *, seed: int = 0, candidates: tuple = CANDIDATES
) -> Ratings:
    """Ratings that fall with what a path costs, and with chance."""
    rng = np.random.default_rng(seed)
    cells = [[{'channels': c, 'layers': [candidates] * depth} for c, depth in stage] for stage in stages]
    space = CellSpace.parse({'stem_channels': 32, 'stages': [{'stride': 1, 'cells': stage} for stage in cells]})
    priced = {metric: cell_prices(space, SIZE, metric=metric) for metric in ('macs', 'params')}
    found = []
    for number, block in enumerate(blocks):
        enters = space.stages[block[0] - 1].widths if block[0] else (32,)
        rated = []
        for cell in product(*(range(len(space.stages[stage].cells)) for stage in block)):
            chosen = [space.stages[stage].cells[index] for stage, index in zip(block, cell, strict=True)]
            rows = [list(product(range(len(candidates)), repeat=len(each.layers))) for each in chosen]
            paths = tuple(product(*rows))
            by_width = [price_paths(space, priced, block, cell, width, paths) for width in enters]
            costs = {m: tuple(zip(*(each[m] for each in by_width), strict=True)) for m in priced}
            work = [sum(sum(choices) for choices in path) for path in paths]
            values = tuple(round(0.8 + 0.06 * number - 0.01 * w + 0.008 * float(rng.normal()), 6) for w in work)
            rated.append(CellRatings(cell, enters, chosen[-1].channels, paths, values, costs))
        found.append(BlockRatings(block, tuple(rated)))
    return Ratings(space, SIZE, ('macs', 'params'), tuple(found))


def features(blocks: int = 6, *, count: int = 3, size: tuple[int, int] = (128, 256), seed: int = 0) -> dict[str, Any]:
    """Images of rectangles, and features that see them, through channels of random weights; students blur them."""
    rng = np.random.default_rng(seed)
    image = np.empty((count, *size, 3), dtype=np.uint8)
    image[:] = np.linspace(90, 170, size[0])[None, :, None, None]
    for each in image:
        for _ in range(7):
            y, x = rng.integers(0, size[0] - 20), rng.integers(0, size[1] - 20)
            each[y : y + rng.integers(20, 70), x : x + rng.integers(15, 90)] = rng.integers(0, 255, 3)
    arrays: dict[str, Any] = {'image': image}
    for block in range(blocks):
        stride = min(32, 2 ** (block + 2))
        high, wide = size[0] // stride, size[1] // stride
        cells = image[:, : high * stride, : wide * stride] / 255
        small = cells.reshape(count, high, stride, wide, stride, 3).mean(axis=(2, 4))
        teacher = np.einsum('nhwk,kc->nchw', small - small.mean(), rng.normal(size=(3, 24)))
        teacher += 0.3 * teacher.std() * rng.normal(size=teacher.shape)
        teacher = ((teacher - teacher.mean()) / teacher.std()).astype(np.float32)
        noise = rng.normal(size=teacher.shape)
        arrays[f'teacher_{block}'] = teacher
        arrays[f'student_{block}'] = ((1 - 0.05 * block) * teacher + (0.1 + 0.07 * block) * noise).astype(np.float32)
    return arrays


def rank(count: int = 12, *, seed: int = 0) -> dict[str, Any]:
    """Networks trained alone; one score follows their truth, another one hardly."""
    rng = np.random.default_rng(seed)
    networks = []
    for index in range(count):
        truth = 60 + 8 * float(rng.random())
        networks.append(
            {
                'title': f'{index:02}',
                'macs': 2.2e8 + 2e7 * (truth - 60) + 3e7 * float(rng.random()),
                'truth': truth,
                'scores': {
                    'block-wise rating': 2.6 - 0.08 * (truth - 60) + 0.06 * float(rng.normal()),
                    'one-shot': 0.5 - 0.01 * (truth - 60) + 0.06 * float(rng.normal()),
                },
            }
        )
    return {
        'truth': 'trained alone, mIoU',
        'higher_is_better': True,
        'networks': networks,
        'tau': {'block-wise rating': [0.71, 0.42, 0.9], 'one-shot': [0.3, -0.1, 0.7]},
    }


def work_dir(folder: Path, **log: Any) -> Path:
    """Fills `folder` with all that a finished distillation of two blocks leaves, but for the derived network."""
    write_log(folder, '20250101_000000', losses(len(SMALL_BLOCKS), **log))
    rated = ratings(SMALL, SMALL_BLOCKS)
    (folder / 'ratings.json').write_text(rated.format(), encoding='utf-8')
    found = select(rated).front.costs
    select(rated, {'macs': int(found[len(found) // 2]), 'params': None}).write(folder)
    (folder / 'rank.json').write_text(json.dumps(rank()), encoding='utf-8')
    np.savez(folder / 'features.npz', **features(len(SMALL_BLOCKS)))
    return folder


def axes_of(figure: Figure) -> dict[str, Axes]:
    """Axes by their label."""
    return {axes.get_label(): axes for axes in figure.axes}


def drawn(figure: Figure, gid: str) -> Any:
    """The artist of a gid."""
    return by_gid(figure, gid)[gid]


def words(figure: Figure) -> set[str]:
    """Texts that are seen."""
    return {text.get_text() for text in texts(figure)}
