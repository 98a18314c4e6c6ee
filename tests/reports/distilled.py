"""A made-up block-wise distillation: the files that one leaves in its work dir, from a seed."""

import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.reports.drawn import by_gid, texts

# per block its stages, and per cell the choice, depths and widths that enter and leave: 6 blocks of 36 to 1296 paths
BLOCKS = (
    ((0, 1), (((0, 0), (1, 2), (32,), 24), ((0, 1), (1, 3), (32,), 24))),
    ((2,), (((0,), (2,), (24,), 40), ((1,), (3,), (24,), 40), ((2,), (3,), (24,), 48))),
    ((3,), (((0,), (2,), (40, 48), 80), ((1,), (3,), (40, 48), 80), ((2,), (4,), (40, 48), 80))),
    ((4,), (((0,), (3,), (80,), 96), ((1,), (4,), (80,), 96), ((2,), (3,), (80,), 112), ((3,), (4,), (80,), 112))),
    ((5,), (((0,), (4,), (96, 112), 192),)),
    ((6,), (((0,), (2,), (192,), 320),)),
)
# two stages of one layer each; then two cells, of 1 and 2 layers, that 16 or 24 channels may enter
HAND = {
    'version': 1,
    'space': {},
    'input_size': [64, 96],
    'output_stride': 32,
    'metrics': ['macs', 'params'],
    'blocks': [
        {
            'stages': [0, 1],
            'cells': [
                {
                    'cell': [0, 0],
                    'enters': [8],
                    'leaves': 16,
                    'paths': [[[0], [0]], [[0], [1]], [[0], [2]]],
                    'ratings': [0.5, 0.3, 0.4],
                    'costs': {'macs': [[10], [30], [20]], 'params': [[1], [3], [2]]},
                }
            ],
        },
        {
            'stages': [2],
            'cells': [
                {
                    'cell': [0],
                    'enters': [16, 24],
                    'leaves': 32,
                    'paths': [[[0]], [[1]]],
                    'ratings': [0.9, 0.8],
                    'costs': {'macs': [[10, 11], [20, 21]], 'params': [[1, 1], [2, 2]]},
                },
                {
                    'cell': [1],
                    'enters': [16, 24],
                    'leaves': 40,
                    'paths': [[[0, 0]], [[0, 1]], [[1, 1]]],
                    'ratings': [0.75, 0.7, 0.72],
                    'costs': {'macs': [[30, 31], [40, 41], [50, 51]], 'params': [[3, 3], [4, 4], [5, 5]]},
                },
            ],
        },
    ],
}
FRONT = {
    'metric': 'macs',
    'costs': [2e8, 3e8, 5e8],
    'ratings': [1.4, 1.2, 1.0],
    'choices': [[0, 0], [1, 1], [2, 2]],
    'limits': {'macs': 3.5e8, 'params': None},
    'chosen': {'costs': {'macs': 3e8, 'params': 2e6}, 'rating': 1.2, 'choice': [1, 7]},
    'others': [{'title': 'seed', 'costs': {'macs': 3.4e8, 'params': 3e6}, 'rating': 1.5}],
}
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

SMALL = BLOCKS[:1] + BLOCKS[2:3]
SIZE = (224, 224)


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


def ratings(blocks: tuple = BLOCKS, *, seed: int = 0) -> dict[str, Any]:
    """Ratings that fall with what a path costs, and with chance."""
    rng = np.random.default_rng(seed)
    parts = []
    for number, (stages, cells) in enumerate(blocks):
        part: dict[str, Any] = {'stages': list(stages), 'cells': []}
        for choice, depths, enters, leaves in cells:
            paths, rated, macs, params = [], [], [], []
            for flat in product(range(6), repeat=sum(depths)):
                edges = np.cumsum((0, *depths))
                paths.append([list(flat[a:b]) for a, b in pairwise(edges)])
                work = sum((1 + index % 2) * (1 + 0.12 * (index // 2)) for index in flat)
                gain = 0.012 * (work - len(flat)) + 0.02 * len(flat) + 0.0003 * leaves
                rated.append(round(0.42 + 0.06 * number - gain + 0.008 * float(rng.normal()), 6))
                macs.append([round(9e6 * work * (1 + width / 400)) for width in enters])
                params.append([round(3e4 * work * (number + 1) * (1 + width / 400)) for width in enters])
            part['cells'].append(
                {
                    'cell': list(choice),
                    'enters': list(enters),
                    'leaves': leaves,
                    'paths': paths,
                    'ratings': rated,
                    'costs': {'macs': macs, 'params': params},
                }
            )
        parts.append(part)
    return {
        'version': 1,
        'space': {},
        'input_size': list(SIZE),
        'output_stride': 32,
        'metrics': ['macs', 'params'],
        'blocks': parts,
    }


def front(rated: dict[str, Any], limit: float = 3.5e8) -> dict[str, Any]:
    """The front as if any width could enter, the best network below `limit`, and two to compare with."""
    points = [(0, 0, 0.0, ())]
    for block in rated['blocks']:
        entries = [
            (macs, params, rating)
            for cell in block['cells']
            for rating, row, weights in zip(
                cell['ratings'], cell['costs']['macs'], cell['costs']['params'], strict=True
            )
            for macs, params in zip(row, weights, strict=True)
        ]
        numbered = _unbeaten([(*entry, (number,)) for number, entry in enumerate(entries)])
        points = _unbeaten([(a + c, b + d, x + y, p + q) for (a, b, x, p), (c, d, y, q) in product(points, numbered)])
    chosen = [point for point in points if point[0] <= limit][-1]
    middle = points[len(points) // 2]
    return {
        'metric': 'macs',
        'costs': [point[0] for point in points],
        'ratings': [point[2] for point in points],
        'choices': [list(point[3]) for point in points],
        'limits': {'macs': limit, 'params': None},
        'chosen': {
            'costs': {'macs': chosen[0], 'params': chosen[1]},
            'rating': chosen[2],
            'choice': list(chosen[3]),
        },
        'others': [
            {'title': 'seed', 'costs': {'macs': 1.03 * chosen[0], 'params': 5e6}, 'rating': chosen[2] + 0.16},
            {'title': 'random', 'costs': {'macs': middle[0], 'params': 4e6}, 'rating': middle[2] + 0.11},
        ],
    }


def _unbeaten(points: list[tuple]) -> list[tuple]:
    kept: list[tuple] = []
    for point in sorted(points, key=lambda point: (point[0], point[2])):
        if not kept or point[2] < kept[-1][2]:
            kept.append(point)
    return kept


def features(blocks: int = 6, *, count: int = 3, size: tuple[int, int] = (128, 256), seed: int = 0) -> dict[str, Any]:
    """Pictures of rectangles, and features that see them, through channels of random weights; students blur them."""
    rng = np.random.default_rng(seed)
    picture = np.empty((count, *size, 3), dtype=np.uint8)
    picture[:] = np.linspace(90, 170, size[0])[None, :, None, None]
    for image in picture:
        for _ in range(7):
            y, x = rng.integers(0, size[0] - 20), rng.integers(0, size[1] - 20)
            image[y : y + rng.integers(20, 70), x : x + rng.integers(15, 90)] = rng.integers(0, 255, 3)
    arrays: dict[str, Any] = {'picture': picture}
    for block in range(blocks):
        stride = min(32, 2 ** (block + 2))
        high, wide = size[0] // stride, size[1] // stride
        cells = picture[:, : high * stride, : wide * stride] / 255
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


def work_dir(folder: Path, blocks: tuple = SMALL, **log: Any) -> Path:
    """Fills `folder` with all that a finished distillation leaves, but for the derived network."""
    write_log(folder, '20250101_000000', losses(len(blocks), **log))
    rated = ratings(blocks)
    (folder / 'ratings.json').write_text(json.dumps(rated), encoding='utf-8')
    (folder / 'front.json').write_text(json.dumps(front(rated, 3.5e8 * len(blocks) / 6)), encoding='utf-8')
    (folder / 'rank.json').write_text(json.dumps(rank()), encoding='utf-8')
    np.savez(folder / 'features.npz', **features(len(blocks)))
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
