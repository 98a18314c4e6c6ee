"""The loop that rates every path of a distillation, and what follows from the ratings: front, choice, config."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache, cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, get_world_size, is_main_process
from mmengine.runner import BaseLoop
from torch import Tensor
from torch.utils.data import DataLoader

from mmnas_ext.archs import METRICS, SKIP, ArchSpec, cell_prices
from mmnas_ext.backbones import MBNet
from mmnas_ext.datasets.identity import data_identity
from mmnas_ext.distill import BlockDistiller, recalibrate, stitch
from mmnas_ext.distill.cell import BlockCell, FlatPath
from mmnas_ext.distill.rating import Batch, Batches, Unit, imitate, rate, rate_network, units, walk_memory
from mmnas_ext.distill.student import Student
from mmnas_ext.engine.batches import Batches as Stream
from mmnas_ext.engine.block_optim import find_distiller
from mmnas_ext.engine.distill import preprocess, same_for_all
from mmnas_ext.engine.measuring import COUNT, Choice, assemble, measure_students, open_measured
from mmnas_ext.engine.pieces import Pieces
from mmnas_ext.engine.progress import CountingBar
from mmnas_ext.engine.seeding import common_seed
from mmnas_ext.registry import LOOPS
from mmnas_ext.remap.convert import save
from mmnas_ext.search.fields import check_count
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.search.ratings import BlockRatings, CellRatings, Ratings, price_paths
from mmnas_ext.search.select import RatingError, Selection, select
from mmnas_ext.workdir import WorkDir, write_bytes, write_text

_SHOWN = 4  # images whose feature maps are kept to be looked at
_GIB = 2**30
_METRICS = ('macs', 'params')
_RATING_KEYS = ('type', 'calibration', 'calibration_batches', 'max_memory', 'metrics', 'table', 'limits', 'front')
# paths are calibrated, so these say nothing; processes that average gradients differ in them
_UNREAD = ('running_mean', 'running_var', 'num_batches_tracked', 'steps')


@LOOPS.register_module()
class RatingLoop(BaseLoop):
    """Rates every path of every cell of a `BlockDistiller` on held-out images, then finds the best network.

    It stands where a validation loop does. Files in the work dir: ``ratings.json`` (each path's rating and costs),
    ``front.json`` (the exact front, the choice, and the measured error of some whole networks along the front),
    ``features.npz`` (a few feature maps of teacher and student). What is rated and measured is written down piece by
    piece in ``ratings/`` and not done again when a killed run goes on.

    Args:
        runner: The runner.
        dataloader: Config of the held-out images' loader; how it batches makes no difference to the ratings.
        evaluator: MMEngine's; there is nothing to evaluate here.
        calibration: Config of the loader of the images that batch-norm statistics are measured on; by default the
            training images'. Its batch size matters: statistics are averages over batches.
        calibration_batches: Batches of it.
        max_memory: GiB that features may take in each process.
        metrics: What is counted beside the rating, among `METRICS`.
        table: Of the latency, as in `prices`.
        limits: Limits of the chosen network by metric, ``dict(macs=3.5e8, params=dict(min=2e6))``; without any
            the network of the lowest rating is chosen.
        front: Networks that are measured as whole students, about evenly over the cost of the front.

    Attributes:
        rated: Iterations that the blocks had been trained for when they were rated; -1 before that.

    Raises:
        ValueError: The model is no `BlockDistiller`, or an argument is out of range.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any = None,
        calibration: dict[str, Any] | None = None,
        calibration_batches: int = 4,
        max_memory: float = 4.0,
        metrics: Sequence[str] = _METRICS,
        table: Any = None,
        limits: dict[str, Any] | None = None,
        front: int = COUNT,
    ) -> None:
        del evaluator
        self.distiller = find_distiller(runner.model)
        check_rating(
            calibration=calibration, calibration_batches=calibration_batches, max_memory=max_memory, metrics=metrics,
            limits=limits, front=front,
        )  # fmt: skip
        loader = same_for_all(dataloader, shuffle=False) if isinstance(dataloader, dict) else dataloader
        super().__init__(runner, loader)
        self.seed = common_seed(runner)
        self.files = WorkDir(runner.work_dir)
        self.rated = -1
        self.calibration = calibration
        self.calibration_batches = calibration_batches
        self.max_memory = max_memory
        self.metrics = tuple(metrics)
        self.limits = dict(limits or {})
        self.front = front
        # before hours of training end in an error
        self.priced = {
            metric: cell_prices(
                self.distiller.space, self.distiller.input_size, 32, metric, table if METRICS[metric].measured else None
            )
            for metric in self.metrics
        }

    def run(self) -> Ratings:
        """Rates what is not rated yet, writes the files and returns the ratings."""
        self.runner.call_hook('before_val')
        if not self.distiller.calibrated:
            raise ValueError('the distiller has not been trained: load a checkpoint of one that has')
        untrained = [index for index, steps in enumerate(self.distiller.steps.tolist()) if not steps]
        if untrained:
            raise ValueError(
                f'block {untrained[0]} has not been trained: give mmnas rate the checkpoints of all runs that '
                'trained some'
            )
        self.prepare()
        ratings = self._ratings(self._rate_all())
        if is_main_process():
            write_text(self.files.ratings, ratings.format())
        selection = self.choose(ratings)
        if is_main_process():
            self._write_features(self.find_cells(ratings, selection.arch))
        barrier()
        self.rated = self.runner.iter
        self.runner.call_hook('after_val')
        return ratings

    def prepare(self) -> None:
        """Brings student and teacher into the state in which they are rated."""
        self.runner.model.eval()
        if self.distiller.teacher.train_mode:
            self.distiller.teacher.recalibrate(self._calibration())

    def choose(self, ratings: Ratings) -> Selection:
        """Finds the front and the best network within the limits, and writes ``front.json``."""
        selection = select(ratings, self.limits)
        measured = self.measure(selection)
        if is_main_process():
            selection.write(self.files.root, measured)
            self.runner.logger.info(f'{self.files.front}: {selection.describe()}')
        return selection

    def measure(self, selection: Selection) -> MeasuredFront:
        """Measures networks along the front as whole students, those that are not measured yet; call `prepare` before.

        The error is that of a rating: mean absolute difference to the teacher's last feature on the held-out images,
        in standard deviations of it, with the network's own batch-norm statistics.
        """
        ratings, last = selection.ratings, self.distiller.all_blocks()[-1].plan.target
        # computed once, and only if a network is measured
        images = cache(lambda: self._kept(0, last, lambda: preprocess(self.distiller, self.dataloader)))

        def error(choice: Choice) -> float | None:
            chosen = self.find_cells(ratings, ratings.arch(choice))
            try:
                stitch(self.distiller, chosen)
            except ValueError:  # the weights of its blocks make no network
                return None
            return rate_network(Student(self.distiller, chosen), self._calibration(), images()())

        choices, pieces = selection.spread(self.front), open_measured(self.files, ratings)
        measure_students(choices, error, pieces)
        return assemble(selection, choices, pieces.done)

    def find_cells(self, ratings: Ratings, arch: ArchSpec) -> list[tuple[int, FlatPath]]:
        """The cell and the path in it that give a network, per block; of several that do, the best rated.

        Raises:
            ValueError: The network is not one of this space.
        """
        found = []
        for number, (rated, block) in enumerate(zip(ratings.blocks, self.distiller.all_blocks(), strict=True)):
            stages = [arch.stages[i] for i in rated.stages if i < len(arch.stages)]
            wanted = [(stage.channels, stage.layers) for stage in stages]
            places = [
                (rating, c, p)
                for c, cell in enumerate(rated.cells)
                for p, (path, rating) in enumerate(zip(cell.paths, cell.ratings, strict=True))
                if wanted == self._layers(rated.stages, cell.cell, path)
            ]
            if not places:
                raise ValueError(f'no path of block {number}, stages {rated.stages}, gives {arch.format("fna")}')
            _, c, p = min(places)
            found.append((c, block.all_cells()[c].paths[p]))
        return found

    def write_weights(self, ratings: Ratings, arch: ArchSpec, file: Path) -> bool:
        """Writes the distilled weights of a network, its batch-norm statistics measured anew.

        Returns:
            Whether there are such weights: the blocks' widths must fit one another, and each block have that path.
        """
        try:
            state = stitch(self.distiller, self.find_cells(ratings, arch))
        except ValueError as error:
            self.runner.logger.warning(f'no distilled weights of {arch.format("fna")}: {error}')
            return False
        net = MBNet(arch.replace(head_channels=None), out_indices=(len(arch.stages) - 1,))
        net.load_state_dict(state)
        net.to(next(self.distiller.parameters()).device)
        recalibrate(net, self._calibration())
        save(net.cpu().state_dict(), file)
        return True

    def _layers(
        self, stages: Sequence[int], cells: Sequence[int], path: Sequence[Sequence[int]]
    ) -> list[tuple[int, tuple[str, ...]]]:
        """Channels and layers of each stage of a block's path; skips fall away."""
        parts = [self.distiller.space.stages[i].cells[cell] for i, cell in zip(stages, cells, strict=True)]
        return [
            (
                part.channels,
                tuple(t for t in (layer[c] for layer, c in zip(part.layers, row, strict=True)) if t != SKIP),
            )
            for part, row in zip(parts, path, strict=True)
        ]

    def _rate_all(self) -> dict[tuple[int, int], list[float]]:
        """Ratings of each (block, cell), in the order of its paths."""
        jobs = [
            (b, c, unit)
            for b, block in enumerate(self.distiller.all_blocks())
            for c, cell in enumerate(block.all_cells())
            for unit in units(cell)
        ]
        store = Pieces(self.files.rating_parts, self._key())
        mine = [job for job in jobs[get_rank() :: get_world_size()] if _name(*job) not in store.done]
        paths = sum(len(unit.paths) for _, _, unit in jobs)
        title = f'rating {paths} paths, {len(mine)} of {len(jobs)} pieces of the trees here:'
        bar = CountingBar(title, sum(unit.evaluations for _, _, unit in mine))
        for block, group in itertools.groupby(mine, key=lambda job: job[0]):
            sources = self._sources(block)
            for _, number, unit in group:
                cell = self.distiller.all_blocks()[block].all_cells()[number]
                images = self._cut(cell, sources)
                store.add(_name(block, number, unit), rate(cell, unit.prefix, sources[0], images))
                bar.step(unit.evaluations)
        everything = store.gather()
        found: dict[tuple[int, int], list[float]] = {}
        for b, c, unit in jobs:
            found.setdefault((b, c), []).extend(everything[_name(b, c, unit)])
        return found

    def _sources(self, block: int) -> tuple[Batches, Batches]:
        """Calibration and held-out batches of a block, kept in memory where half of what is allowed holds them."""
        target = self.distiller.all_blocks()[block].plan.target
        return self._kept(block, target, self._calibration), self._kept(
            block, target, lambda: preprocess(self.distiller, self.dataloader)
        )

    def _calibration(self) -> Iterator[Tensor]:
        """Always the same images, on all processes."""
        with closing(Stream(self._calibration_loader, self.seed, 'rating', same_for_all=True)) as stream:
            yield from preprocess(self.distiller, stream, self.calibration_batches)

    @cached_property
    def _calibration_loader(self) -> DataLoader:
        # once: listing the images of a large data set takes a while
        loader = self.calibration or self.runner.cfg.train_dataloader
        return self.runner.build_dataloader(same_for_all(dict(loader), shuffle=True), seed=self.seed)

    def _kept(self, block: int, target: int, images: Any) -> Batches:
        """What enters a block, and the feature of an index, of each batch; in memory where that is allowed."""

        def produce() -> Iterator[Batch]:
            for inputs in images():
                with torch.no_grad():
                    features = self.distiller.features(inputs, target)
                yield self.distiller.entering(block, inputs, features), features[target]

        kept, held = [], 0
        for batch in produce():
            held += sum(tensor.numel() * tensor.element_size() for tensor in batch)
            if held > self.max_memory * _GIB / 4:
                return produce  # computed anew for each piece
            kept.append(batch)
        return lambda: kept

    def _cut(self, cell: BlockCell, sources: tuple[Batches, Batches]) -> Batches:
        """The held-out batches, cut so that walking the tree with one stays within the memory."""
        calibration, images = sources
        allowed = self.max_memory * _GIB / 2
        first = next(iter(calibration()))[0]
        needed = walk_memory(cell, first)
        if needed > allowed:
            raise RatingError(
                f'a calibration batch of {len(first)} images takes {2 * needed / _GIB:.2g} GiB: raise max_memory '
                f'(now {self.max_memory:g}), or calibrate with smaller batches'
            )
        size = max(1, int(len(first) * allowed // needed))

        def cut() -> Iterator[Batch]:
            for x, target in images():
                yield from zip(x.split(size), target.split(size), strict=True)

        return cut

    def _key(self) -> str:
        """What the ratings follow from: weights, images and settings."""
        digest = hashlib.sha256()
        for name, tensor in self.distiller.state_dict().items():
            if name.endswith(_UNREAD):
                continue
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().numpy().tobytes())
        loaders = (self.calibration or self.runner.cfg.get('train_dataloader'), self.runner.cfg.get('val_dataloader'))
        # by content: a list of images that was edited in place has the config that it had
        images = [data_identity((loader or {}).get('dataset')) for loader in loaders]
        digest.update(repr((loaders, images, self.calibration_batches, self.seed)).encode())
        return digest.hexdigest()[:16]

    def _ratings(self, found: dict[tuple[int, int], list[float]]) -> Ratings:
        space = self.distiller.space
        blocks = []
        for b, block in enumerate(self.distiller.all_blocks()):
            stages = block.plan.stages
            widths = space.stages[stages[0] - 1].widths if stages[0] else (space.stem_channels,)
            cells = []
            for c, cell in enumerate(block.all_cells()):
                paths = tuple(cell.by_stage(path) for path in cell.paths)
                by_width = [price_paths(space, self.priced, stages, cell.cells, width, paths) for width in widths]
                costs = {
                    metric: tuple(zip(*(each[metric] for each in by_width), strict=True)) for metric in self.metrics
                }
                cells.append(CellRatings(cell.cells, widths, cell.leaves, paths, tuple(found[b, c]), costs))
            blocks.append(BlockRatings(stages, tuple(cells)))
        return Ratings(space, self.distiller.input_size, self.metrics, tuple(blocks))

    def _write_features(self, chosen: Sequence[tuple[int, FlatPath]]) -> None:
        """Keeps the feature maps of a few held-out images: the teacher's, and the chosen paths'."""
        inputs = next(preprocess(self.distiller, self.dataloader))[:_SHOWN]
        features = self.distiller.features(inputs)
        arrays: dict[str, Any] = {'image': _shown(self.distiller, inputs)}
        for index, (block, (cell, path)) in enumerate(zip(self.distiller.all_blocks(), chosen, strict=True)):
            entering = self.distiller.entering(index, inputs, features)
            calibration = self._kept(index, block.plan.target, self._calibration)
            output = imitate(block.all_cells()[cell], path, calibration, entering)
            arrays[f'teacher_{index}'] = features[block.plan.target].float().cpu().numpy()
            arrays[f'student_{index}'] = output.float().cpu().numpy()
        stream = BytesIO()
        np.savez_compressed(stream, **arrays)
        write_bytes(self.files.features, stream.getvalue())


def check_rating(**settings: Any) -> None:
    """Raises one clear error for what `RatingLoop` cannot take; nothing is built.

    Args:
        settings: Its arguments, those of the config; what is left out has its default.

    Raises:
        ValueError: An argument is unknown or out of its range.
        TypeError: An argument has another type.
    """
    unknown = sorted(set(settings) - set(_RATING_KEYS))
    if unknown:
        raise ValueError(f'val_cfg of a distillation takes {_RATING_KEYS}, got {unknown[0]!r}')
    check_count('calibration_batches', settings.get('calibration_batches', 1), 1)
    check_count('front', settings.get('front', COUNT), 1)
    memory = settings.get('max_memory', 1)
    if isinstance(memory, bool) or not isinstance(memory, int | float) or not memory > 0:
        raise ValueError(f'max_memory must be a positive number of GiB, got {memory!r}')
    metrics, limits = settings.get('metrics', _METRICS), settings.get('limits') or {}
    for key, value, kind, what in (
        ('metrics', metrics, list | tuple, "a list such as ['macs', 'params']"),
        ('limits', limits, Mapping, 'dict(macs=…)'),
        ('calibration', settings.get('calibration') or {}, Mapping, 'the config of a loader'),
    ):
        if not isinstance(value, kind):
            raise TypeError(f'val_cfg.{key} must be {what}, got {value!r:.100}')
    outside = [metric for metric in (*metrics, *limits) if metric not in METRICS]
    if outside or not metrics or any(metric not in metrics for metric in limits):
        raise ValueError(
            f'metrics must be among {tuple(METRICS)} and limits among metrics, got metrics {tuple(metrics)} and limits '
            f'{tuple(limits)}'
        )


def _name(block: int, cell: int, unit: Unit) -> str:
    return f'{block}.{cell}:{",".join(map(str, unit.prefix))}'


def _shown(distiller: BlockDistiller, inputs: Tensor) -> np.ndarray:
    """Images ``(N, H, W, 3)`` as they looked before preprocessing, RGB, bytes."""
    pre = distiller.data_preprocessor
    x = inputs.float().cpu()
    if getattr(pre, '_enable_normalize', False):
        x = x * pre.std.cpu() + pre.mean.cpu()
    elif float(x.abs().max()) <= 16:  # not preprocessed to bytes: show the range
        x = 255 * (x - x.min()) / (x.max() - x.min()).clamp(min=1e-6)
    # MMCV reads BGR; a preprocessor that swaps has made it RGB already
    x = x if getattr(pre, '_channel_conversion', False) else x.flip(1)
    return x.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
