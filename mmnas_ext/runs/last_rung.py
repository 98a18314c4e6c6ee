"""The last rung of a choice by losses: the most promising networks are adapted briefly, and these decide.

Losses of a super-network tell the neighbourhood of the seed from the rest of a space; within it no ranking by them was
found (docs/benchmarks.md): a larger kernel, say, begins as the seed's own one. Here the seed
is remapped onto each network, which is trained as the chosen one will be, for a share of that length. The training
images are split as the search splits its own: one part trains, the other validates, and the validation's own images
have no part in it. The better half of the networks is trained once more with another random seed, and so on. What luck
there is in a training is estimated from those that were trained several times, and discounted
(`mmnas_ext.search.belief`).
"""

import fcntl
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import barrier, broadcast_object_list, get_world_size, is_main_process
from mmengine.registry import DATASETS

from mmnas_ext.archs import ArchSpec, Choices, SearchSpace
from mmnas_ext.archs.json_file import parse_lines
from mmnas_ext.datasets import DatasetView, split_halves
from mmnas_ext.datasets.identity import list_datasets
from mmnas_ext.engine.batches import named_scope
from mmnas_ext.engine.runner import SafeRunner
from mmnas_ext.engine.subnet import evaluator_of, held_out_view
from mmnas_ext.registry import name_of
from mmnas_ext.reports.training_log import usual_metric
from mmnas_ext.runs.brief import adapt_briefly, drop_weights, keep_few_checkpoints
from mmnas_ext.runs.changes import deciding, flatten, settings_of
from mmnas_ext.runs.checkpoints import nest_checkpoints
from mmnas_ext.runs.children import LOCK
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.halves import check_validating, evaluators_of, walk
from mmnas_ext.runs.host_choices import has_host
from mmnas_ext.runs.later import check_ranking
from mmnas_ext.runs.manifest import ResumeError
from mmnas_ext.runs.session import say
from mmnas_ext.runs.shorten import shorten
from mmnas_ext.search.choosing import AdaptPlan
from mmnas_ext.workdir import WorkDir, append_line

Metrics = Mapping[str, float | None] | None  # of a training that failed
_UNDEFINED = -1  # COCO's word for nothing of this size
# the network, and how many processes share the training
_ELSEWHERE = ('model.backbone.arch', 'model.backbone.norm_cfg.eps', 'position.')
# of an evaluator what reads the images' own truth and where it writes, gathers and reads
_FILES = ('ann_file', 'seg_prefix', 'outfile_prefix', 'output_dir', 'collect_device', 'collect_dir', 'backend_args')
_SPLITTABLE = ('RepeatDataset', 'ConcatDataset', 'ClassBalancedDataset')


@dataclass
class LastRung:
    """Adapts networks briefly; what was trained once is not trained again.

    Args:
        cfg: Config of the search.
        plan: How many, and for how long.
        arch: The network of a path.
        example: Any network of the space, to read data and recipe by.
        files: The run's work dir; records, logs and checkpoints are kept in it.

    Attributes:
        trained: Trainings that were made in this go.
    """

    cfg: Config
    plan: AdaptPlan
    arch: Callable[[Choices], ArchSpec]
    example: ArchSpec
    files: WorkDir
    trained: int = 0
    _seconds: list[float] = field(default_factory=list)

    @cached_property
    def stamp(self) -> str:
        """Tells trainings of this recipe, on these images and in so many processes, from others."""
        return f'{describe_recipe(self.cfg, self.plan, self.example)}/{get_world_size()}'

    @cached_property
    def known(self) -> dict[tuple[str, int], Metrics]:
        """What networks have reached by now, by their text and the number of the training; the same on all ranks."""
        return self._read()

    def _read(self) -> dict[tuple[str, int], Metrics]:
        found: list[Any] = [{}]
        file = self.files.brief.with_suffix('.jsonl')
        if is_main_process() and file.is_file():
            for record in parse_lines(file):
                with suppress(KeyError, TypeError, ValueError, AttributeError):
                    if record['stamp'] == self.stamp:
                        found[0][str(record['arch']), int(record['repeat'])] = _read_metrics(record['metrics'])
        broadcast_object_list(found)
        return dict(found[0])

    @cached_property
    def share(self) -> float:
        """The share of the whole adaptation that a brief one is, in whole epochs or iterations."""
        return shorten(derived_config(self.cfg, self.example), self.plan.share)

    def rate(self, paths: Sequence[Choices], positions: Iterable[int]) -> np.ndarray:
        """What is minimised, ``(paths, trainings)``: the metric, or minus it; infinite where a training failed.

        Args:
            paths: The networks, the one that all are compared with first.
            positions: Numbers of trainings; each is one random seed, the same for all networks.

        Raises:
            ValueError: The validation does not give the metric, or all trainings of the first network failed.
        """
        places, archs = list(positions), [self.arch(path) for path in paths]
        self._check_metric()
        missing = [(arch, place) for place in places for arch in archs if (arch.format('fna'), place) not in self.known]
        for number, each in enumerate(missing):
            left = len(missing) - number
            pace = np.mean(self._seconds) if self._seconds else None
            said = '' if pace is None else f', about {timedelta(seconds=round(left * float(pace)))}'
            say(f'{left} brief adaptation{"s" * (left > 1)} until the next halving{said}')
            self._train(*each)
            self._check_metric()
        first = archs[0].format('fna')
        if all(self.known[first, place] is None for place in places):
            raise ValueError(
                f'the brief adaptation of {first} failed, and others are compared with it: a lower learning rate or '
                'optim_wrapper.clip_grad in derived may help; or leave selection.adapt out'
            )
        self._check_found()
        return np.array([[self._loss(self.known[arch.format('fna'), place]) for place in places] for arch in archs])

    @property
    def metric(self) -> str | None:
        """The metric that decides, as far as validations have given any."""
        return self.plan.rank_by or usual_metric(self._names)

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for metrics in self.known.values() for name in metrics or {}))

    @property
    def sign(self) -> int:
        """What makes figures of the metric such that higher is better."""
        return 1 if self.plan.rule == 'greater' else -1

    def _check_found(self) -> None:
        """Raises ValueError where no network has found anything, which says nothing of any."""
        trained = [metrics for metrics in self.known.values() if metrics is not None]
        if self.plan.rule == 'greater' and trained and not any(self._loss(metrics) for metrics in trained):
            raise ValueError(
                f'no brief adaptation reached more than 0 {self.metric or "of any metric"}: they are too short for a '
                f'network to find something; selection.adapt.share must be more than {self.plan.share}'
            )

    def _check_metric(self) -> None:
        if self._names and self.metric not in self._names:
            raise ValueError(
                f'selection.adapt.rank_by must name the metric that decides, one of {self._names}, which the '
                f'validation gives, got {self.plan.rank_by!r}'
            )

    def _loss(self, metrics: Metrics) -> float:
        if metrics is None:
            return math.inf
        # COCO gives no figure for a detector that finds nothing
        nothing = 0.0 if self.plan.rule == 'greater' else None
        value = metrics.get(self.metric or '', nothing)
        return math.inf if value is None else -self.sign * value

    def _config(self, arch: ArchSpec, repeat: int) -> Config:
        """The config of one training, in its place."""
        cfg = brief_config(self.cfg, self.plan, arch)
        name = hashlib.sha256(f'{self.stamp}/{arch.format("fna")}'.encode()).hexdigest()[:10] + f'_{repeat}'
        cfg.work_dir, cfg.launcher = str(self.files.brief / name), self.cfg.get('launcher', 'none')
        # no other part of a run has this random seed
        given = int((cfg.get('randomness') or {}).get('seed') or 0)
        seed = int(np.random.SeedSequence([given, repeat]).generate_state(1)[0])
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
        nest_checkpoints(cfg, f'{self.files.root.name}/{self.files.brief.parent.name}/{self.files.brief.name}')
        return cfg

    def _train(self, arch: ArchSpec, repeat: int) -> None:
        """Makes one training, and writes down what it gave.

        Raises:
            ResumeError: It cannot be trained as it is configured.
        """
        text, cfg = arch.format('fna'), self._config(arch, repeat)
        with alone(Path(cfg.work_dir)):
            fresh = self._read()
            if (text, repeat) in fresh:  # another choice from this search has made it meanwhile
                self.known.update(fresh)
                return
            say(f'brief adaptation {repeat + 1} of {text}')
            try:
                found = adapt_briefly(
                    cfg, f'{self.stamp}/{text}/{repeat}', 'brief adaptation', ready=partial(self._give_data, cfg)
                )
            except (ValueError, TypeError, AssertionError) as error:
                raise ResumeError(f'the brief adaptation in {cfg.work_dir} cannot be trained: {error}') from error
            metrics = None if found.failure else {k: v for k, v in found.metrics.items() if v != _UNDEFINED}
            if found.failure:
                say(f'warning: it failed: {found.failure}')
            record = dict(stamp=self.stamp, arch=text, repeat=repeat, metrics=metrics, seconds=round(found.seconds, 1))
            if is_main_process():
                append_line(self.files.brief.with_suffix('.jsonl'), json.dumps(record))
            self.known[text, repeat] = metrics
            self._seconds.append(found.seconds)
            self.trained += 1
            drop_weights(cfg, keep_last=False)

    def drop_rest(self) -> None:
        """Deletes checkpoints that trainings left which nobody goes on with, once the choice is made."""
        folders = [path for path in self.files.brief.glob('*') if path.is_dir()] if is_main_process() else []
        for folder in folders:
            with suppress(BlockingIOError), locked(folder, waits=False):  # another choice is at it
                for checkpoint in folder.glob('*.pth'):
                    checkpoint.unlink()

    def _give_data(self, cfg: Config, runner: SafeRunner) -> None:
        # anew for each: hooks may exchange the transforms of a dataset while it trains
        trained, held_out = split_data(cfg, self.cfg.train_cfg, self.plan.images)
        given: Any = runner
        given._train_dataloader = {**given._train_dataloader, 'dataset': trained}
        given._val_dataloader = {**given._val_dataloader, 'dataset': held_out}
        with redirect_stdout(StringIO()):  # COCO's reader prints
            given._val_evaluator = evaluator_of(held_out, cfg.val_evaluator)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other process is at a training; the main process does so for all."""
    with ExitStack() as stack:
        if is_main_process():
            try:
                stack.enter_context(locked(folder, waits=False))
            except BlockingIOError:
                say(f'another process trains in {folder}: waiting for it')
                stack.enter_context(locked(folder))
        barrier()
        yield


@contextmanager
def locked(folder: Path, waits: bool = True) -> Iterator[None]:
    """Holds the lock of a folder, which a process that dies gives back.

    Raises:
        BlockingIOError: Another process has it, and this one does not wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield


def _read_metrics(given: Any) -> Metrics:
    if given is None:
        return None
    return {str(name): None if value is None else float(value) for name, value in given.items()}


def brief_config(cfg: Config, plan: AdaptPlan, arch: ArchSpec) -> Config:
    """The config of a brief adaptation: that of the whole one, shortened.

    Args:
        cfg: Config of the search.
        plan: How short.
        arch: The network.

    Raises:
        ValueError: The adaptation does not say how long it is, or validates nothing.
    """
    found = derived_config(cfg, arch)
    missing = [key for key in ('val_dataloader', 'val_cfg', 'val_evaluator') if found.get(key) is None]
    if missing:
        raise ValueError(f'selection.adapt validates networks, but the config has no {missing[0]}')
    shorten(found, plan.share)
    keep_few_checkpoints(found)
    if found.get('custom_hooks'):
        found.custom_hooks = [hook for hook in found.custom_hooks if not name_of(hook).endswith('CheckpointHook')]
    if found.get('visualizer'):  # a service would take each for a run of its own, or for the search
        found.visualizer = {**found.visualizer, 'vis_backends': [dict(type='LocalVisBackend')]}
    return found


def describe_recipe(cfg: Config, plan: AdaptPlan, arch: ArchSpec) -> str:
    """A digest of what decides how good a network is after a brief adaptation, beside the network and its random seed.

    Args:
        cfg: Config of the search.
        plan: How short, and how it is validated.
        arch: Any network of the space.
    """
    brief = brief_config(cfg, plan, arch)
    trained = deciding(settings_of(brief, 'train_dataloader'))  # how many processes share it says the stamp
    evaluators = [{k: v for k, v in each.items() if k not in _FILES} for each in evaluators_of(brief, 'val_evaluator')]
    read = next(list_datasets(brief.val_dataloader.dataset))
    content = {
        'trained': {key: value for key, value in trained.items() if not key.startswith(_ELSEWHERE)},
        'validated': flatten({'pipeline': read['pipeline'], 'evaluators': evaluators, 'images': plan.images}),
        'split': [cfg.train_cfg.get(key) for key in ('split_seed', 'weight_fraction')],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def split_data(cfg: Config, loop: Mapping[str, Any], images: int | None) -> tuple[DatasetView, DatasetView]:
    """The training images of a brief adaptation, as many items as of the whole one, and those that validate it.

    Args:
        cfg: Its config.
        loop: The search's ``train_cfg``, which says how images are split.
        images: So many of them validate; ``None`` for all.
    """
    split = loop.get('split_seed', 0), loop.get('weight_fraction', 0.5)
    # two of them: a hook that exchanges the transforms of the one must not reach the other
    trained, _ = split_halves(DATASETS.build(cfg.train_dataloader.dataset), *split)
    whole = DATASETS.build(cfg.train_dataloader.dataset)
    given = cfg.val_dataloader.dataset
    read = next(list_datasets(given))  # inside of wrappers
    _, rest = split_halves(whole, *split)
    held_out = held_out_view(rest, read['pipeline'], images, named_scope(read) or named_scope(given))
    # an epoch has as many iterations as one of the whole adaptation
    indices = trained.indices[np.arange(len(whole)) * len(trained) // len(whole)]
    return DatasetView(trained.dataset, indices, trained.seed), held_out


def check_adapting(cfg: Config, plan: AdaptPlan | None, space: SearchSpace) -> None:
    """Raises ValueError for what would fail in brief adaptations, after the search.

    Args:
        cfg: Config of the search.
        plan: What is asked for; ``None`` for nothing.
        space: The space.
    """
    if plan is None:
        return
    if has_host(cfg):
        raise ValueError(
            'selection.adapt goes with one host, and host_choices searches that too: leave one of them out'
        )
    brief = brief_config(cfg, plan, next(space.sample(0, 1)))
    check_validating(brief, 'optim_wrapper.selection.adapt')
    if plan.rank_by:
        check_ranking(brief, plan.rank_by, 'selection.adapt.rank_by')
    for part in walk(brief.train_dataloader.dataset):
        if ('dataset' in part or 'datasets' in part) and name_of(part) not in _SPLITTABLE:
            raise ValueError(
                'selection.adapt trains on one half of the images and validates on the other: around datasets in '
                f'derived.train_dataloader.dataset there may be {_SPLITTABLE}, got {name_of(part)!r}; leave it or '
                'selection.adapt out'
            )
