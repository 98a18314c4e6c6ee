"""Does DNA's block-wise rating rank networks as training them alone does, and better than one-shot training?

    python benchmarks/rank.py --distilled work_dirs/dna_lite0_128 --work-dir work_dirs/rank

Takes a finished run of ``configs/dna_lite0_128.py`` for the block-wise ratings. All networks have the task of that
run: to predict the teacher's last feature on the same images. *Trained alone*: a network of the space, trained from
random weights end to end; its error on the held-out images is the truth. All see the same images in the same order.
*One-shot*: the whole super-network end to end, with one uniformly drawn path per step, as many steps and images as in
the distillation; a network's score is its path's error, with batch norms calibrated for it. Networks are drawn evenly
over the range of the space's multiply-adds. An interrupted part is continued. Prints Kendall's tau with its 95 %
bootstrap interval, and the partial tau (Kendall, Biometrika 1942), which is the tau among networks of one cost; writes
``rank.json``, which ``tools/report.py`` draws.
"""

import argparse
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from camvid_rank import interval, kendall
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import Tensor

from mmnas_ext.archs import price
from mmnas_ext.distill import BlockDistiller
from mmnas_ext.distill.cell import FlatPath
from mmnas_ext.distill.rating import rate_network
from mmnas_ext.distill.student import Student
from mmnas_ext.engine.batches import Batches, reproducible
from mmnas_ext.engine.distill import preprocess
from mmnas_ext.registry import MODELS
from mmnas_ext.remap.checkpoints import read_state
from mmnas_ext.reports import draw_rank
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.search.ratings import Ratings

CONFIG = 'configs/dna_lite0_128.py'
Network = tuple[tuple[int, FlatPath], ...]  # per block the cell and the path
Batch = tuple[Tensor, Tensor]  # images and the teacher's last feature


class Task:
    """Images, teacher and blocks of the distillation.

    Args:
        distilled: Work dir of the distillation.
        steps: Steps of a training.
    """

    def __init__(self, distilled: Path, steps: int) -> None:
        self.cfg = Config.fromfile(CONFIG)
        self.steps = steps
        self.distiller: BlockDistiller = MODELS.build(self.cfg.model)
        checkpoint = find_checkpoint(distilled).path
        if checkpoint is None:
            raise SystemExit(f'error: --distilled has no checkpoint in {distilled}: run tools/train.py {CONFIG} first')
        # only the moments that features are standardised by
        state, _ = read_state(checkpoint)
        moments = {name: value for name, value in state.items() if not name.startswith('blocks.')}
        self.distiller.load_state_dict(moments, strict=False)
        torch.manual_seed(0)
        self.distiller.init_weights()

    def images(self, name: str, first: int = 0) -> Iterator[Tensor]:
        """Yields training images from step `first` on without end, the same ones for the same name."""
        loader = reproducible(dict(self.cfg.train_dataloader, num_workers=0, drop_last=True))
        loader['dataset'] = DATASETS.build(loader['dataset'])
        batches = Batches(Runner.build_dataloader(loader, seed=0), 0, name)
        batches.seek(first)
        return preprocess(self.distiller, batches)

    def held_out(self) -> list[Tensor]:
        """Returns the held-out images."""
        loader = dict(self.cfg.val_dataloader)
        loader['dataset'] = DATASETS.build(loader['dataset'])
        return list(preprocess(self.distiller, Runner.build_dataloader(loader, seed=0)))

    def target(self, images: Tensor) -> Tensor:
        """Computes the teacher's last feature, standardised."""
        return self.distiller.features(images)[-1]

    def batches(self, name: str, first: int = 0) -> Iterator[Batch]:
        """Yields training images as `images` does, with their targets."""
        return ((x, self.target(x)) for x in self.images(name, first))

    def train(
        self,
        forward: Callable[[int, Tensor], Tensor],
        parameters: Any,
        batches: Callable[[int], Iterator[Batch]],
        name: str,
        file: Path | None = None,
    ) -> None:
        """Trains `parameters` so that `forward(step, images)` predicts the target; continues from `file` if it exists.

        Args:
            forward: The network.
            parameters: Its parameters.
            batches: Returns images and targets from a step on.
            name: Name in the log.
            file: File for the state of the training.
        """
        optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=self.steps, pct_start=0.05)
        first = 0
        parts: list[Any] = [self.distiller.blocks, optimizer, schedule]
        if file is not None and file.exists():
            kept = torch.load(file, map_location='cpu', weights_only=True)
            first = kept['step']
            for part, state in zip(parts, kept['parts'], strict=True):
                part.load_state_dict(state)
        for step, (images, target) in zip(range(first, self.steps), batches(first), strict=False):
            loss = F.mse_loss(forward(step, images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % 100 == 0 or step + 1 == self.steps:
                print(f'{name}: step {step + 1} of {self.steps}, loss {loss.item():.3f}', flush=True)
                if file is not None:
                    part = file.with_suffix('.part')
                    torch.save({'step': step + 1, 'parts': [each.state_dict() for each in parts]}, part)
                    os.replace(part, file)

    def error(self, network: Network) -> float:
        """Computes the relative error on the held-out images, with batch norms calibrated for this network."""
        chain = Student(self.distiller, network)
        stream = self.images('calibration')
        calibration = [next(stream) for _ in range(8)]
        return rate_network(chain, calibration, [(x, self.target(x)) for x in self.held_out()])


class Pool:
    """Training batches with their targets on disk: all networks that are trained alone read them in the same order."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.task = task
        self.files = [folder / f'{name}_{task.steps}.npy' for name in ('images', 'targets')]

    def write(self) -> None:
        """Writes the files unless they exist."""
        if all(file.exists() for file in self.files):
            return
        parts = [file.with_suffix('.part') for file in self.files]
        arrays: list[Any] = []
        for step, batch in enumerate(islice(self.task.batches('alone'), self.task.steps)):
            for i, values in enumerate(batch):
                if not step:
                    shape = (self.task.steps, *values.shape)
                    arrays.append(np.lib.format.open_memmap(parts[i], 'w+', np.float32, shape))
                arrays[i][step] = values.numpy()
        for part, file in zip(parts, self.files, strict=True):
            os.replace(part, file)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Yields images ``(N, 3, H, W)`` and targets of each step from `first` on."""
        for images, target in zip(*(np.load(file, mmap_mode='r')[first:] for file in self.files), strict=True):
            yield torch.from_numpy(images.copy()), torch.from_numpy(target.copy())


def draw(distiller: BlockDistiller, rng: random.Random) -> Network:
    """Draws a network: its cells and candidates uniformly."""
    network = []
    for block in distiller.all_blocks():
        number = rng.randrange(len(block.cells))
        network.append((number, tuple(rng.randrange(count) for count in block.all_cells()[number].choices)))
    return tuple(network)


def macs(distiller: BlockDistiller, network: Network) -> int:
    """Computes the multiply-adds of a network's backbone."""
    cells: list[int] = []
    path: list[FlatPath] = []
    for block, (number, flat) in zip(distiller.all_blocks(), network, strict=True):
        cell = block.all_cells()[number]
        cells += cell.cells
        path += cell.by_stage(flat)
    return int(price(distiller.space.arch(cells, tuple(path)), distiller.input_size))


def spread(distiller: BlockDistiller, ratings: Ratings, count: int) -> list[Network]:
    """Draws networks evenly over the range of the space's multiply-adds.

    Uniform draws would all cost about the same, so each of many draws prefers either expensive or cheap paths.
    """
    rng = random.Random(0)
    choices, costs = [], []
    for rated, block in zip(ratings.blocks, distiller.all_blocks(), strict=True):
        paths = [(pick.cell, block.all_cells()[pick.cell].paths[pick.path]) for pick in rated.picks()]
        each = np.array([rated.cells[pick.cell].costs['macs'][pick.path][0] for pick in rated.picks()])
        choices.append(paths)
        costs.append((each - each.mean()) / each.std())
    drawn = []
    for _ in range(2000):
        lean = rng.uniform(-3, 3)
        network = tuple(rng.choices(paths, np.exp(lean * cost))[0] for paths, cost in zip(choices, costs, strict=True))
        drawn.append((macs(distiller, network), network))
    low, high = min(drawn)[0], max(drawn)[0]
    targets = [low + (high - low) * i / (count - 1) for i in range(count)]
    return [min(drawn, key=lambda each, t=target: abs(each[0] - t))[1] for target in targets]  # type: ignore[misc]


def sum_ratings(ratings: Ratings, network: Network, distiller: BlockDistiller) -> float:
    """Sums the ratings of a network's blocks."""
    total = 0.0
    for rated, block, (number, flat) in zip(ratings.blocks, distiller.all_blocks(), network, strict=True):
        total += rated.cells[number].ratings[block.all_cells()[number].paths.index(flat)]
    return total


def train_alone(distilled: Path, steps: int, number: int, network: Network, file: Path) -> None:
    """Trains one network and writes its error, unless the file exists."""
    if file.exists():
        return
    torch.set_num_threads(1)
    task = Task(distilled, steps)
    torch.manual_seed(1000 + number)
    task.distiller.init_weights()
    chain = Student(task.distiller, network).train()
    batches = Pool(file.parent, task).batches
    task.train(lambda _step, x: chain(x), chain.parameters(), batches, f'network {number:02d}')
    file.write_text(json.dumps({'error': task.error(network)}))


def one_shot(distilled: Path, steps: int, networks: Sequence[Network], file: Path) -> None:
    """Trains the super-network by single paths and writes every network's error, unless the file exists."""
    if file.exists():
        return
    torch.set_num_threads(1)
    task = Task(distilled, steps)
    task.distiller.train()

    def forward(step: int, x: Tensor) -> Tensor:
        output: Tensor = Student(task.distiller, draw(task.distiller, random.Random(f'one-shot/{step}'))).train()(x)
        return output

    batches = partial(task.batches, 'one-shot')
    task.train(forward, task.distiller.parameters(), batches, 'one-shot', file.with_suffix('.pth'))
    file.write_text(json.dumps([task.error(network) for network in networks]))


def table(folder: Path, distilled: Path, task: Task, networks: Sequence[Network]) -> str:
    """Formats both rankings as Markdown; also writes ``rank.json``."""
    ratings = Ratings.parse(distilled / 'ratings.json')
    shot = json.loads((folder / 'one_shot.json').read_text())
    rows = []
    for number, network in enumerate(networks):
        truth = json.loads((folder / f'alone_{number:02d}.json').read_text())['error']
        scores = {'block-wise rating': sum_ratings(ratings, network, task.distiller), 'one-shot': shot[number]}
        rows.append(dict(title=f'{number:02d}', macs=macs(task.distiller, network), truth=truth, scores=scores))
    truths = [row['truth'] for row in rows]
    tau = {}
    for name in ('block-wise rating', 'one-shot'):
        scores = [row['scores'][name] for row in rows]
        tau[name] = [kendall(scores, truths), *interval(scores, truths)]
    content = dict(truth='trained alone, error', higher_is_better=False, networks=rows, tau=tau)
    (folder / 'rank.json').write_text(json.dumps(content))
    lines = [
        '| network | multiply-adds | trained alone, error | block-wise rating | one-shot, error |',
        '|---|---|---|---|---|',
    ]
    for row in sorted(rows, key=lambda row: row['truth']):
        a, b = row['scores'].values()
        lines.append(f'| {row["title"]} | {row["macs"] / 1e6:.1f} M | {row["truth"]:.4f} | {a:.4f} | {b:.4f} |')
    cheapness = [-row['macs'] for row in rows]
    alone = kendall(cheapness, truths)
    for name, (value, low, high) in tau.items():
        shared = kendall([row['scores'][name] for row in rows], cheapness)
        apart = (1 - shared**2) * (1 - alone**2)
        partial = (value - shared * alone) / math.sqrt(apart) if apart else math.nan
        lines.append(
            f"\n{name}: Kendall's tau {value:.2f}, 95 % interval {low:.2f} to {high:.2f}; "
            f'{partial:.2f} with multiply-adds held fixed'
        )
    lines.append(f'\nof multiply-adds alone, the most expensive first: tau {alone:.2f}')
    return '\n'.join(lines)


def main() -> None:
    """Runs the parts without a result, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--distilled', type=Path, default=Path('work_dirs/dna_lite0_128'))
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/rank'))
    parser.add_argument('--networks', type=int, default=14)
    parser.add_argument('--steps', type=int, default=1000, help='of each network alone')
    parser.add_argument('--one-shot-steps', type=int, default=4000, help='as many as the distillation had')
    parser.add_argument('--only', choices=['one-shot', 'alone'], help='run only this part')
    parser.add_argument('--jobs', type=int, default=2, help='trainings at a time, a thread each')
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    task = Task(args.distilled, args.steps)
    networks = spread(task.distiller, Ratings.parse(args.distilled / 'ratings.json'), args.networks)
    if args.only != 'one-shot':
        Pool(args.work_dir, task).write()
    with ProcessPoolExecutor(args.jobs) as pool:
        runs = []
        if args.only != 'alone':
            file = args.work_dir / 'one_shot.json'
            runs.append(pool.submit(one_shot, args.distilled, args.one_shot_steps, networks, file))
        for number, network in enumerate(networks if args.only != 'one-shot' else []):
            file = args.work_dir / f'alone_{number:02d}.json'
            runs.append(pool.submit(train_alone, args.distilled, args.steps, number, network, file))
        for done in runs:
            done.result()
    if args.only is None:
        print(table(args.work_dir, args.distilled, task, networks))
        print(f'\nfigure: {draw_rank(args.work_dir / "rank.json", args.work_dir / "rank.png")}')


if __name__ == '__main__':
    main()
