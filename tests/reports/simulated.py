"""A simulated search: the files that one leaves in its work dir, from a seed."""

import json
import math
import random
from pathlib import Path
from typing import Any

from mmnas_ext.archs import SKIP, SearchSpace, candidate_costs, fixed_cost


def softmax(values: list[float]) -> list[float]:
    """Probabilities of logits."""
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    return [power / sum(powers) for power in powers]


def search_log(
    space: SearchSpace,
    *,
    seed: int = 0,
    count: int = 120,
    every: int = 50,
    start: int = 2000,
    size: tuple[int, int] = (800, 1088),
    latency: float = 0.0,
) -> list[dict[str, Any]]:
    """Records as a search writes them: alpha rests before `start`, then drifts towards a favourite in each layer.

    With a `latency` they are of a search that is limited by it, and say it as well.
    """
    rng = random.Random(seed)
    table, fixed = candidate_costs(space, size), fixed_cost(space, size).macs
    places = [(i, j) for i, stage in enumerate(space.stages) for j, layer in enumerate(stage.layers) if len(layer) > 1]
    alpha = {place: [1e-3 * rng.gauss(0, 1) for _ in space.stages[place[0]].layers[place[1]]] for place in places}
    pull = {place: [rng.gauss(0, 0.022) for _ in alpha[place]] for place in places}
    records = []
    for index in range(count):
        iteration = (index + 1) * every
        if iteration >= start:
            for place in places:
                alpha[place] = [a + p + rng.gauss(0, 0.015) for a, p in zip(alpha[place], pull[place], strict=True)]
        soft = {place: softmax(alpha[place]) for place in places}
        best = {place: max(range(len(row)), key=row.__getitem__) for place, row in soft.items()}
        records.append(
            {
                'iter': iteration,
                'epoch': 1 + iteration // 1000,
                'alpha': {f'{i}.{j}': row for (i, j), row in soft.items()},
                'entropy': {
                    f'{i}.{j}': -sum(p * math.log(p) for p in row) / math.log(len(row)) for (i, j), row in soft.items()
                },
                'expected_macs': fixed
                + sum(p * c.macs for (i, j), row in soft.items() for p, c in zip(row, table[i][j], strict=True)),
                'argmax_macs': fixed + sum(table[i][j][k].macs for (i, j), k in best.items()),
                'skips': sum(space.stages[i].layers[j][k] == SKIP for (i, j), k in best.items()),
                'drawn': {f'{i}.{j}': [iteration // len(row)] * len(row) for (i, j), row in soft.items()},
            }
        )
    for record in records if latency else ():
        share = record['expected_macs'] / records[0]['expected_macs']
        record |= {'expected_latency': latency * share, 'argmax_latency': 0.9 * latency * share}
    return records


def write_log(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes records one a line."""
    path.write_text(''.join(json.dumps(record) + '\n' for record in records), encoding='utf-8')


def work_dir(
    folder: Path, space: SearchSpace, *, found: str, snapshots: dict[int, str], count: int = 120, **log: Any
) -> Path:
    """Fills `folder` with all that a finished search leaves; architectures are JSON texts."""
    (folder / 'derived' / 'snapshots').mkdir(parents=True)
    (folder / 'search_space.json').write_text(space.format(), encoding='utf-8')
    write_log(folder / 'search_log.jsonl', search_log(space, count=count, **log))
    (folder / 'derived' / 'arch.json').write_text(found, encoding='utf-8')
    for epoch, text in snapshots.items():
        (folder / 'derived' / 'snapshots' / f'epoch_{epoch}.json').write_text(text, encoding='utf-8')
    return folder
