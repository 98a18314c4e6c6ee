"""A run that ends after one step of each of its halves, leaves nothing behind, and says what the whole would do."""

import io
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from mmnas_ext.archs import ArchSpec
from mmnas_ext.engine import DistillLoop
from mmnas_ext.engine.block_optim import find_distiller
from mmnas_ext.engine.describe import describe_distillation, describe_search
from mmnas_ext.engine.optim import SearchOptimWrapper
from mmnas_ext.registry import name_of
from mmnas_ext.runs.changes import LONGER, find_changes, training_settings
from mmnas_ext.runs.halves import LOADERS
from mmnas_ext.runs.later import quiet
from mmnas_ext.runs.manifest import ADAPT, DERIVE, read_manifest
from mmnas_ext.runs.method import Method
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.prepared import Half, Prepared
from mmnas_ext.runs.session import Session, continue_run
from mmnas_ext.runs.training import open_runner
from mmnas_ext.workdir import WorkDir

_SECOND = ('adaptation', 'training')
_OF_WORKERS = ('persistent_workers', 'prefetch_factor')


class _Done(Exception):  # noqa: N818 - no error: it ends a training from inside
    """The step is done."""


class _Left(NamedTuple):
    """What a run that goes on finds done.

    Args:
        found: Why nothing is searched; empty where something is.
        trained: Why nothing is trained.
        settled: Whether the network and its config are written down.
        said: Lines that the run would say when it goes on.
    """

    found: str = ''
    trained: str = ''
    settled: bool = False
    said: tuple[str, ...] = ()


class _Seen(NamedTuple):
    """What one iteration told.

    Args:
        plan: What the part will do, if its loop can say it.
        images: Of its loaders, in words.
        iterations: Of the whole part.
        seconds: That the first step of each kind took, by its name.
    """

    plan: str
    images: str
    iterations: int
    seconds: Mapping[str, float]


def dry_run(
    cfg: Config, prepared: Prepared, search_only: bool = False, arch: str | None = None, resume: bool = False
) -> str:
    """Does one step of each part of a run on its first batch, and returns the plan of the run as lines of text.

    Of a search this is a weight step and an arch step. Everything is written into a temporary folder: the work dir
    and what an earlier run left there stay as they are.

    Args:
        cfg: The config, ``work_dir`` set.
        prepared: What the check of it has built; its models are used up.
        search_only: Whether the run would end with the search.
        arch: The network that would be trained instead of searched, if any.
        resume: Whether the run would go on with what its work dir holds: what is done there is said and not stepped.

    Raises:
        ValueError: A step fails; says of which part, and why.
    """
    method, files = method_of(cfg), WorkDir(cfg.work_dir)
    lines = [f'method       {method.name}']
    left = _left(cfg, method, search_only, arch) if resume else _Left()
    lines += left.said
    searches = method.find is not None and arch is None and not left.found
    if method.plan is not None and searches:
        lines += method.plan(cfg)
    for half in prepared.halves:
        done = left.trained if half.name in _SECOND else left.found
        if done:
            lines.append(f'{half.name:<12} {done}')
            continue
        seen = _step(half, prepared)
        lines += seen.plan.splitlines()
        took = ', '.join(f'{name} {seconds:.2g} s' for name, seconds in seen.seconds.items())
        lines.append(
            f'{half.name:<12} {seen.images}; {seen.iterations} iterations; the first, slower ones, took: {took}'
        )
    written = [files.manifest]
    written += [getattr(files, name) for name in method.writes] if searches else []
    if method.find is not None and not left.settled:
        written += [files.arch, files.config]
    if method.find is not None and not (search_only or left.trained):
        written.append(files.adapt)
    lines.append(f'writes       {", ".join(_below(path, files.root) for path in written)} in {files.root}')
    return '\n'.join(lines)


def _left(cfg: Config, method: Method, search_only: bool, arch: str | None) -> _Left:
    """What a resumed run need not do again."""
    given = None if arch is None else ArchSpec.parse(arch)
    manifest, said = continue_run(read_manifest(WorkDir(cfg.work_dir).manifest), cfg, method, given, search_only)
    session = Session(cfg, method, manifest)
    if method.find is None:
        config, found = cfg, ''
    else:
        known = session.found
        if known is None:
            return _Left(said=tuple(said))
        found = 'not needed: the network was given' if manifest.is_given else 'done: its network is found'
        config = cfg if method.derive is None else method.derive(session.settled, known)
    part, trained = manifest.parts.get(ADAPT), ''
    if part is not None and part.done:
        root = None if method.find is None else WorkDir(cfg.work_dir).root
        taken, refused = find_changes(part.settings, training_settings(config, root))
        if not refused and not any(change.key in LONGER for change in taken):
            trained = 'done: nothing is left to train'
    return _Left(found, trained, bool(found) and manifest.is_done(DERIVE), tuple(said))


def _step(half: Half, prepared: Prepared) -> _Seen:
    """Trains a part for one iteration, in a folder of its own."""
    # progress bars would share a line with what is said next
    with TemporaryDirectory() as folder, quiet(), redirect_stdout(io.StringIO()):
        hook = _OneIteration()
        try:
            with open_runner(_bounded(half.cfg, folder), prepared=prepared) as runner:
                runner.register_hook(hook, priority='VERY_HIGH')
                runner.train()
        except _Done:
            return hook.seen
        except Exception as error:  # whatever a first step can fail of: memory, shapes, a loss that is NaN
            raise ValueError(f'the first step of the {half.name} failed: {type(error).__name__}: {error}') from error
    raise ValueError(f'the {half.name} has no step: its train_cfg ends before the first')


def _bounded(cfg: Config, folder: str) -> Config:
    """The config of a part that writes below a folder alone, to no tracker, and starts no workers."""
    cfg = cfg.copy()
    cfg.work_dir = folder
    cfg.log_level = 'WARNING'
    cfg.default_hooks = {**(cfg.get('default_hooks') or {}), 'checkpoint': None}
    cfg.default_hooks.logger = dict(cfg.default_hooks.get('logger') or {'type': 'LoggerHook'}, out_dir=None)
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if not name_of(hook).endswith('CheckpointHook')]
    if cfg.get('visualizer'):
        cfg.visualizer = {**cfg.visualizer, 'vis_backends': None}
    for name in LOADERS:
        if isinstance(cfg.get(name), Mapping):
            loader = {key: value for key, value in cfg[name].items() if key not in _OF_WORKERS}
            cfg[name] = {**loader, 'num_workers': 0}
    if 'calibration_batches' in cfg.train_cfg:
        cfg.train_cfg = {**cfg.train_cfg, 'calibration_batches': 1}
    return cfg


class _OneIteration(Hook):
    """Ends a training after its first iteration, and looks around before that.

    Attributes:
        seen: What it saw.
    """

    seen: _Seen

    def __init__(self) -> None:
        self._begun = 0.0

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Starts the clock."""
        self._begun = _now()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Takes the arch step, where a search begins without any, and ends the training."""
        loop = runner.train_loop
        seconds = {'step': _now() - self._begun}
        alternation = getattr(loop, 'alternation', None)
        if alternation is not None:
            seconds = {'weight step' if alternation.arch_start else 'arch and weight step': seconds['step']}
            if alternation.arch_start:
                begun = _now()
                alternation.step(alternation.arch_start, data_batch)
                seconds['arch and weight step'] = _now() - begun
        self.seen = _Seen(_plan(runner), _images(runner), runner.max_iters, seconds)
        raise _Done


def _now() -> float:
    """Seconds of a clock, once a GPU has computed what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _plan(runner: Any) -> str:
    loop = runner.train_loop
    if isinstance(runner.optim_wrapper, SearchOptimWrapper):
        return describe_search(runner, runner.optim_wrapper.supernet)
    if isinstance(loop, DistillLoop):
        return describe_distillation(find_distiller(runner.model), loop.max_iters, _batch(loop.dataloader), loop.staged)
    return ''


def _images(runner: Any) -> str:
    loop = runner.train_loop
    text = f'{len(loop.dataloader.dataset)} images'
    if hasattr(loop, 'alternation'):
        text += f' for weights and {len(loop.alternation.batches.loader.dataset)} for alpha'
    text += f' in batches of {_batch(loop.dataloader)}'
    if get_world_size() > 1:
        text += f' on each of {get_world_size()} processes'
    held_out: Any = getattr(runner.val_loop, 'dataloader', None)
    images: Any = held_out.dataset if isinstance(held_out, DataLoader) else None
    return text if images is None else f'{text}, validated on {len(images)}'


def _batch(loader: Any) -> int:
    return int(loader.batch_size or loader.batch_sampler.batch_size)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
