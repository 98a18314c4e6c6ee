"""Random search with remapping, the strong baseline of FNA (ICLR 2020, section 4.4).

Networks are drawn from the search space within a cost limit. The seed is remapped onto each and adapted briefly, and
the one that validates best is kept. Files: ``trials/<nn>/`` for each (``config.py``, ``arch.json``, MMEngine's logs,
``result.json`` once it has ended) and ``trials.md``, the table of all.
"""

import gc
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, barrier, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmnas_ext.archs import ArchSpec, cost
from mmnas_ext.engine.optim import NonFiniteLossError
from mmnas_ext.runs.training import make_runner
from mmnas_ext.runs.trials import Trial, TrialPlan, describe, numbers, ranked, trials_table
from mmnas_ext.workdir import write_text

TRIALS_DIR = 'trials'
TABLE_NAME = 'trials.md'
_SETTINGS_NAME = 'settings.json'
_RESULT_NAME = 'result.json'
# iterations: reading a loss makes a GPU wait for it, and a loss that is NaN stays so
_LOSS_INTERVAL = 10


def random_search(cfg: Config, resume: bool) -> ArchSpec:
    """Tries the networks that a config's ``random_search`` draws, and returns the best.

    With `resume`, what has ended is not tried again and an interrupted trial goes on from its newest checkpoint. A
    larger ``count`` tries more; of a smaller one, the first results are ranked.

    Args:
        cfg: The config, ``work_dir`` and ``launcher`` set.
        resume: Go on with what the work dir holds.

    Raises:
        ValueError: The settings are out of range, or are not those of the results in the work dir; ``rank_by`` is no
            metric of the validation.
        RuntimeError: All trials failed.
    """
    plan = TrialPlan.of(cfg)
    folder = Path(cfg.work_dir) / TRIALS_DIR
    if resume:
        check_resumable(plan, folder)
    plan.check()
    barrier()  # all have read before one writes
    if is_main_process():
        write_text(folder / _SETTINGS_NAME, json.dumps(plan.identity(), indent=2))
    trials: list[Trial] = []
    for index, (arch, price) in enumerate(plan.drawn):
        place = folder / f'{index:02d}'
        trial = _finished(place, arch) if resume else None
        if trial is None:
            _say(describe(arch, plan, index, price))
            trial = _try(plan, index, arch, price, place, resume)
            _keep(trial, place, plan.settings.keep_checkpoints)
        trials.append(trial)
        if is_main_process():
            write_text(Path(cfg.work_dir) / TABLE_NAME, trials_table(trials, plan) + '\n')
        _check_metric(trials, plan)
    return _best(trials, plan)


def check_resumable(plan: TrialPlan, folder: Path) -> None:
    """Raises ValueError where the trials in a folder were made with other settings."""
    path = folder / _SETTINGS_NAME
    if not path.is_file():
        return
    known, wanted = json.loads(path.read_text()), plan.identity()
    changed = [name for name in wanted if known.get(name) != wanted[name]]
    if changed:
        shown = ', '.join(f'{name} {known.get(name)!s:.200} instead of {wanted[name]!s:.200}' for name in changed)
        raise ValueError(
            f'the trials in {folder} were made with {shown}: their results would not compare. Resume with the former '
            'settings, or take another --work-dir'
        )


def _finished(place: Path, arch: ArchSpec) -> Trial | None:
    """The result of a trial that has ended, the same on all ranks."""
    read: list[Any] = [None]
    if is_main_process() and (place / _RESULT_NAME).is_file():
        read = [(place / _RESULT_NAME).read_text()]
    broadcast_object_list(read)
    if read[0] is None:
        return None
    trial = Trial.parse(read[0])
    if trial.arch != arch.format('fna'):
        raise ValueError(
            f'{place} holds the trial of {trial.arch}, drawn is {arch.format("fna")}: take another --work-dir'
        )
    return trial


def _try(plan: TrialPlan, index: int, arch: ArchSpec, price: float, place: Path, resume: bool) -> Trial:
    """Adapts one network briefly and validates it."""
    cfg = plan.trial_config(arch)
    if is_main_process():
        write_text(place / 'arch.json', arch.format('json'))
        write_text(place / 'config.py', cfg.pretty_text)
    cfg.work_dir, cfg.launcher = str(place), plan.cfg.get('launcher', 'none')
    # validated once, at the end, by the watch: also where a trial was killed between its last step and that
    cfg.train_cfg.val_begin = 1 + max(cfg.train_cfg.get(key) or 0 for key in ('max_epochs', 'max_iters'))
    watch = _Watch()
    runner = make_runner(cfg, resume)
    runner.register_hook(watch, priority='LOWEST')
    failure = ''
    try:
        runner.train()
    except NonFiniteLossError as error:
        failure = str(error)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    macs, params = cost(arch, plan.size, plan.output_stride)
    seconds, cpu_seconds = watch.spent()
    trial = Trial(
        index=index,
        arch=arch.format('fna'),
        macs=macs,
        params=params,
        cost=price,
        metrics=numbers(watch.metrics),
        failure=failure,
        iterations=runner.iter + bool(failure),  # the one that failed was done as well
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        bn_eps=getattr(model.backbone, 'bn_eps', None),
    )
    del runner, model
    gc.collect()  # the next trial needs the memory
    return trial


def _keep(trial: Trial, place: Path, keep_checkpoints: bool) -> None:
    """Writes a result; weights then are of no more use."""
    if is_main_process():
        write_text(place / _RESULT_NAME, trial.format())
        checkpoints = sorted(place.glob('*.pth'), key=lambda path: path.stat().st_mtime_ns)
        for path in checkpoints[:-1] if keep_checkpoints else checkpoints:
            path.unlink()
    barrier()


def _check_metric(trials: list[Trial], plan: TrialPlan) -> None:
    """Raises ValueError where validations give metrics, but never the one that ranks."""
    names = sorted({name for trial in trials for name in trial.metrics})
    if names and plan.settings.rank_by not in names:
        raise ValueError(
            f'random_search.rank_by must be one of {names}, which the validation gives, got '
            f'{plan.settings.rank_by!r}: say it right and go on with --resume'
        )


def _best(trials: list[Trial], plan: TrialPlan) -> ArchSpec:
    rank_by = plan.settings.rank_by
    best = ranked(trials, rank_by, plan.settings.rule)[0]
    _say(trials_table(trials, plan))
    if best.why_failed(rank_by):
        reasons = sorted({trial.why_failed(rank_by) for trial in trials})
        raise RuntimeError(f'all {len(trials)} trials failed: {"; ".join(reasons)}')
    _say(f'best: trial {best.index:02d}, {best.arch}')
    return ArchSpec.parse(best.arch).replace(bn_eps=best.bn_eps)


def _say(text: str) -> None:
    if is_main_process():
        print(text, flush=True)


class _Watch(Hook):
    """Validates at a trial's end, counts its time over resumptions, and ends it when its loss is no number.

    Attributes:
        metrics: Of the validation, empty before it.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Any] = {}
        self._begun = _clocks()
        self._before = (0.0, 0.0)

    def spent(self) -> tuple[float, float]:
        """Seconds, and seconds of the processor, up to now."""
        now = _clocks()
        wall, cpu = (before + n - b for before, n, b in zip(self._before, now, self._begun, strict=True))
        return wall, cpu

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Raises NonFiniteLossError, on all ranks at once, if any of them has a loss that is NaN or infinite."""
        last = runner.iter + 1 == runner.max_iters
        if not last and not self.every_n_train_iters(runner, _LOSS_INTERVAL):
            return
        loss = torch.as_tensor((outputs or {}).get('loss', 0.0)).detach().float()
        broken = (~torch.isfinite(loss).all()).float().reshape(1)
        all_reduce(broken, 'max')
        if broken.item():
            raise NonFiniteLossError(f'the loss was not finite at iteration {runner.iter + 1}')

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keeps the time in the checkpoint."""
        checkpoint['trial_seconds'] = list(self.spent())

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Takes the time up again."""
        wall, cpu = checkpoint.get('trial_seconds') or (0.0, 0.0)
        self._before = (wall, cpu)

    def after_train(self, runner: Any) -> None:
        """Validates."""
        self.metrics = runner.val_loop.run()


def _clocks() -> tuple[float, float]:
    """Seconds on the clock, and seconds of the processor that this process and its ended children took."""
    return time.monotonic(), sum(os.times()[:4])
