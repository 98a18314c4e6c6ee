"""Which score of a super-network ranks networks as training them alone does? Kendall's tau at about equal cost.

    python benchmarks/few_rank.py --work-dir work_dirs/few/steel --seed-weights mobilenet_v2_imagenet.pth

Takes two super-networks of steel that ``benchmarks/few_images.py`` has trained, those of the rows ``search`` (paths
drawn uniformly, then by alpha) and ``near`` (paths near the seed), and trains networks alone that cost 95 to 100 % of
the seed: the seed, networks near it, and networks drawn uniformly. Each is trained once per random seed. What a score
that knew each network's true worth would reach with the mean of these trainings is simulated from how well they
agree: no tau can be expected above it. Runs go on where they stopped. Scores: the additive effect of a network's
candidates (`mmnas_ext.search.belief`, the network's own measurement left out), its own loss on held-out batches,
alpha's log-probability, multiply-adds.
"""

import argparse
import json
import os
import random
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from camvid_rank import interval, kendall
from few_images import BY_ALPHA, BY_LOSSES, seed_options

from mmnas_ext.archs import ArchSpec, Choices, Limit, Prices, SearchSpace, prices, zoo
from mmnas_ext.cli import add_comparing, errors
from mmnas_ext.runs.compare import compare
from mmnas_ext.runs.results import last_metrics
from mmnas_ext.runs.rows import Comparison, Row, read_options
from mmnas_ext.runs.run import prepare
from mmnas_ext.runs.select_again import open_searched
from mmnas_ext.runs.selection import Selector
from mmnas_ext.search import sample_within
from mmnas_ext.search.belief import Belief, Measured
from mmnas_ext.search.choosing import Choosing
from mmnas_ext.workdir import WorkDir

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/fna_retinanet_mbv2_steel.py'
SIZE, METRIC = (224, 224), 'coco/bbox_mAP'
SUPERNETS = {'search': BY_ALPHA, 'near': BY_LOSSES}
WINDOW = 0.95  # share of the seed's multiply-adds that networks cost at least


def near_seed(space: SearchSpace, priced: Prices, seed: Choices, count: int) -> list[Choices]:
    """Draws networks that differ from the seed in two to six layers and cost about as much."""
    rng, found = random.Random(0), dict[Choices, None]()
    places = [(i, j) for i, stage in enumerate(space.stages) for j, row in enumerate(stage.layers) if len(row) > 1]
    top = priced.path(seed)
    while len(found) < count:
        path = [list(row) for row in seed]
        for i, j in rng.sample(places, rng.randint(2, 6)):
            path[i][j] = rng.randrange(len(space.stages[i].layers[j]))
        made = tuple(map(tuple, path))
        if made != seed and WINDOW * top <= priced.path(made) <= top:
            found[made] = None
    return list(found)


def networks(count: int) -> dict[str, Choices]:
    """The networks by name: the seed, half of the others near it, the rest drawn uniformly."""
    space = zoo.space('fna_det')
    priced = prices(space, SIZE)
    arch = zoo.arch('mobilenet_v2').replace(bn_eps=space.bn_eps, head_channels=space.head_channels)
    seed = space.path(arch)
    near = near_seed(space, priced, seed, count // 2)
    top = priced.path(seed)
    drawn = sample_within(space, priced, count - 1 - len(near), 123, top, WINDOW * top)
    named = {f'near{i}': path for i, path in enumerate(near)} | {f'drawn{i}': path for i, path in enumerate(drawn)}
    return {'seed': seed, **named}


def read_losses(file: Path) -> dict[Choices, dict[int, float]]:
    """Losses of paths by batch, as the last selection has kept them: those of an earlier search are passed over."""
    found: dict[Choices, dict[int, float]] = {}
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        if record['stamp'] != records[-1]['stamp']:
            continue
        path = tuple(map(tuple, record['path']))
        found.setdefault(path, {})[record['batch']] = float('inf') if record['loss'] is None else record['loss']
    return found


def additive(folder: Path, drawn: Sequence[Choices], seed: Choices) -> list[float]:
    """Scores networks by what is believed of their candidates; what was measured of these networks is not used."""
    losses = read_losses(folder / 'selection' / 'losses.jsonl')
    reference = losses[seed]
    differences = {
        path: {batch: loss - reference[batch] for batch, loss in rows.items() if batch in reference}
        for path, rows in losses.items()
        if path != seed and path not in set(drawn)
    }
    belief = Belief(zoo.space('fna_det'), seed, Measured(differences))
    mean, _ = belief.posterior
    return [float(belief.row(path) @ mean) for path in drawn]


def alphas(folder: Path) -> dict[str, list[float]]:
    """softmax(alpha) of every searched layer at the end of a search."""
    last = (folder / 'search_log.jsonl').read_text().splitlines()[-1]
    return json.loads(last)['alpha']  # type: ignore[no-any-return]


def log_probability(folder: Path, drawn: Sequence[Choices]) -> list[float]:
    """Scores networks by minus the logarithm of their probability under softmax(alpha)."""
    shares = alphas(folder)
    return [
        -float(sum(np.log(shares[name][path[i][j]]) for name in shares for i, j in [tuple(map(int, name.split('.')))]))
        for path in drawn
    ]


def scores(work_dir: Path, seed: int, named: dict[str, Choices]) -> dict[str, list[float]]:
    """Scores by name, lower is better, of what there is."""
    drawn, reference = list(named.values()), named['seed']
    priced = prices(zoo.space('fna_det'), SIZE)
    found: dict[str, list[float]] = {'multiply-adds': [-priced.path(path) for path in drawn]}
    for name in SUPERNETS:
        folder = work_dir / f'seed{seed}' / name
        if (folder / 'selection' / 'losses.jsonl').is_file():
            found[f'{name}: additive'] = additive(folder, drawn, reference)
            losses = read_losses(folder / 'selection' / 'losses.jsonl')
            if all(path in losses for path in drawn):
                batches = set.intersection(*(set(losses[path]) for path in drawn))
                found[f'{name}: own loss, {len(batches)} batches'] = [
                    float(np.mean([losses[path][batch] for batch in batches])) for path in drawn
                ]
    if (work_dir / f'seed{seed}' / 'search' / 'search_log.jsonl').is_file():
        found['search: alpha'] = log_probability(work_dir / f'seed{seed}' / 'search', drawn)
    return found


def bound(truths: Sequence[Sequence[float]], draws: int = 2000) -> float:
    """The tau that a score which knows every network's true worth has, on average, with the mean of its trainings.

    Simulated: worths and what a training adds by chance are drawn from normal distributions whose variances are
    those of the trainings (analysis of variance by network and random seed).

    Args:
        truths: One row per random seed, one column per network, at least two of each.
        draws: Of all networks and their trainings.
    """
    table = np.asarray(truths)
    table = table - table.mean(axis=1, keepdims=True)  # what a random seed does to all networks ranks none
    seeds, count = table.shape
    chance = float(((table - table.mean(axis=0)) ** 2).sum() / ((seeds - 1) * (count - 1)))
    worth = max(0.0, float(table.mean(axis=0).var(ddof=1)) - chance / seeds)
    rng = np.random.RandomState(0)
    drawn = rng.normal(0, np.sqrt(worth), (draws, count))
    trained = drawn + rng.normal(0, np.sqrt(chance / seeds), (draws, count))
    return float(np.nanmean([kendall(*pair) for pair in zip(drawn, trained, strict=True)]))


def rankings(named: Sequence[str], truths: Sequence[Sequence[float]], found: dict[str, list[float]]) -> list[str]:
    """Lines of a Markdown table: Kendall's tau of scores, with all networks and with the seed and those near it.

    Args:
        named: Names of the networks.
        truths: The metric of each, one row per random seed.
        found: Scores by name, lower is better.
    """
    near = [k for k, name in enumerate(named) if not name.startswith('drawn')]
    parts = [range(len(named)), near]

    def line(title: str, taus: Sequence[float], spans: Sequence[tuple[float, float]] | None = None) -> str:
        cells = [f'{tau:.2f}' for tau in taus]
        if spans is not None:
            cells = [f'{cell} ({low:.2f} to {high:.2f})' for cell, (low, high) in zip(cells, spans, strict=True)]
        return f'| {title} | {" | ".join(cells)} |'

    parted = [[[row[k] for k in part] for row in truths] for part in parts]
    means = [np.mean(rows, axis=0).tolist() for rows in parted]
    lines = [f'| score | all {len(named)} | the {len(near)} near the seed |', '|---|---|---|']
    for first, second in pairwise(range(len(truths))):
        pairs = [kendall(rows[first], rows[second]) for rows in parted]
        lines.append(line(f'training {second + 1}, with training {first + 1}', pairs))
    lines.append(line('true worth, simulated', [bound(rows) for rows in parted]))
    for score, values in found.items():
        better = [[-values[k] for k in part] for part in parts]
        pairs = list(zip(better, means, strict=True))
        lines.append(line(score, [kendall(*pair) for pair in pairs], [interval(*pair) for pair in pairs]))
    return lines


def table(work_dir: Path, epochs: int, seeds: Sequence[int], named: dict[str, Choices]) -> str:
    """Truths, how they agree, and the tau of each score, as Markdown."""
    folder = work_dir / f'rank_e{epochs}'
    truths = {seed: {name: last_metrics(folder / f'seed{seed}' / name).get(METRIC) for name in named} for seed in seeds}
    kept = [name for name in named if all(truths[seed][name] is not None for seed in seeds)]
    if 'seed' not in kept:
        raise ValueError(f'{folder}: the network seed has not been trained with random seeds {list(seeds)} yet')
    lines = [
        '| network | ' + ' | '.join(f'mAP, random seed {seed}' for seed in seeds) + ' |',
        '|---|' + '---|' * len(seeds),
    ]
    mean = {name: float(np.mean([truths[seed][name] for seed in seeds])) for name in kept}  # type: ignore[arg-type]
    for name in sorted(kept, key=lambda each: -mean[each]):
        lines.append(f'| {name} | ' + ' | '.join(f'{100 * truths[seed][name]:.1f}' for seed in seeds) + ' |')  # type: ignore[operator]
    wanted: dict[str, Any] = {name: named[name] for name in kept}
    found = scores(work_dir, seeds[0], wanted)
    lines.append("\nKendall's tau with the mean mAP (95 % bootstrap interval):\n")
    rows: list[list[float]] = [[truths[seed][name] for name in kept] for seed in seeds]  # type: ignore[misc]
    lines += rankings(kept, rows, found)
    return '\n'.join(lines)


def check_searched(work_dir: Path, seed: int) -> None:
    """Raises ValueError where a super-network is not there, before networks are trained for hours."""
    missing = [name for name in SUPERNETS if not (work_dir / f'seed{seed}' / name / 'run.json').is_file()]
    if missing:
        raise ValueError(
            f'{work_dir}/seed{seed} has no {" and no ".join(missing)}: train them by few_images.py steel --rows '
            f'{" ".join(missing)} --seeds {seed}'
        )


def measure(work_dir: Path, seed: int, options: Sequence[str], named: dict[str, Choices], batches: int) -> None:
    """Measures every candidate in the seed's place and the networks' own losses on both super-networks."""
    for name, row in SUPERNETS.items():
        folder = work_dir / f'seed{seed}' / name
        given = [f'randomness.seed={seed}', f'train_cfg.split_seed={seed}', *options, *row]
        cfg = prepare(CONFIG, str(folder), options=read_options(given))
        with open_searched(cfg) as (runner, stamp):
            priced = prices(zoo.space('fna_det'), SIZE)
            selector = Selector(runner, Choosing('measured'), Limit(), priced, WorkDir(folder), stamp)
            with closing(selector.held_out):
                selector.chooser.explore()
                selector.losses.rate(list(named.values()), range(batches))


def main() -> None:
    """Trains what is not there yet, measures, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/few/steel'))
    parser.add_argument('--seed-weights', type=Path, help="the seed's weights (default: the config's)")
    parser.add_argument('--networks', type=int, default=16)
    parser.add_argument('--epochs', type=int, default=4, help='of each network alone')
    parser.add_argument('--batches', type=int, default=24, help='held-out batches for a network on a super-network')
    add_comparing(parser, seeds=(0, 1))
    args = parser.parse_args()
    work_dir, named = args.work_dir.resolve(), networks(args.networks)
    with errors():
        arch, _, given = seed_options(work_dir.parent, args.seed_weights)
        options = [*given, *args.cfg_options]
        if longer := [text for text in args.cfg_options if text.startswith(('derived.train_cfg', 'derived.param_sch'))]:
            raise ValueError(f'--epochs says how long networks are trained, and so does {longer[0]}: give one of them')
        os.chdir(ROOT)  # where the configs' data lie
        if not args.table:
            check_searched(work_dir, args.seeds[0])
            schedule = 'derived.param_scheduler.1'
            short = [f'derived.train_cfg.{key}={args.epochs}' for key in ('max_epochs', 'val_interval')]
            short += [f'{schedule}.{key}={args.epochs}' for key in ('end', 'T_max')]
            space, folder = zoo.space('fna_det'), work_dir / f'rank_e{args.epochs}'
            eps = ArchSpec.parse(arch).bn_eps
            made = [Row(name, arch=space.arch(path).replace(bn_eps=eps).format('fna')) for name, path in named.items()]
            compare(Comparison(CONFIG, folder, made, args.seeds, [*options, *short]), args, ROOT / 'tools')
            measure(work_dir, args.seeds[0], options, named, args.batches)
        print(table(work_dir, args.epochs, args.seeds, named))


if __name__ == '__main__':
    main()
