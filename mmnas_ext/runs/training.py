"""One training by MMEngine's Runner, of whichever part of a run."""

import gc
import itertools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODEL_WRAPPERS
from torch.distributed.fsdp import FullyShardedDataParallel

from mmnas_ext.engine.finite import FiniteLossHook
from mmnas_ext.engine.optim import NonFiniteLossError
from mmnas_ext.engine.pipelines import InnerPipelineHook
from mmnas_ext.engine.runner import SafeRunner
from mmnas_ext.engine.stalls import StepHook
from mmnas_ext.registry import class_of, name_of
from mmnas_ext.runs.changes import LONGER, find_changes
from mmnas_ext.runs.checkpoints import StampHook, find_checkpoint, read_places
from mmnas_ext.runs.prepared import Prepared
from mmnas_ext.runs.scaling import PartRunner
from mmnas_ext.runs.session import Session, refusal, say
from mmnas_ext.runs.validations import ValidationsHook

_NUMBERS = itertools.count()


def is_distillation(cfg: Config) -> bool:
    """Whether a config trains the blocks of a super-network to imitate a teacher."""
    return name_of(cfg.get('model')) == 'BlockDistiller'


def check_runner(cfg: Mapping[str, Any], where: str = '') -> None:
    """Raises ValueError where a config asks for another runner than MMEngine's usual one, or for sharded parameters.

    Args:
        cfg: The config of a part.
        where: Dotted key of it, for the message.
    """
    found = class_of(MODEL_WRAPPERS, (cfg.get('model_wrapper_cfg') or {}).get('type'))
    if found is not None and issubclass(found, FullyShardedDataParallel):
        raise ValueError(
            f'{where}model_wrapper_cfg must keep all parameters on every process, got {found.__name__}: steps of a '
            'search switch which of them are trained, and checkpoints are written by one process; leave it out, or see '
            'FSDP in docs/distributed.md'
        )
    for key, usual in (('runner_type', 'Runner'), ('strategy', None)):
        if cfg.get(key) not in (None, usual):
            raise ValueError(
                f"{where}{key} must be left out: every part of a run is trained by MMEngine's Runner, got "
                f'{cfg[key]!r:.60}; see FSDP in docs/distributed.md for what else can be done'
            )


def make_runner(
    cfg: Config, checkpoint: Path | None = None, part: str = '', prepared: Prepared | None = None
) -> SafeRunner:
    """Builds the runner of a config, seeded; the config is left as it is.

    Args:
        cfg: The config, ``work_dir`` set.
        checkpoint: What it resumes from; ``None`` to begin, with the config's ``load_from`` if it has one.
        part: Id of the part of a run that it trains, which its checkpoints are stamped with.
        prepared: What a check has built already, of which the runner takes what is of this config.

    Raises:
        ValueError: The config asks for another runner.
    """
    check_runner(cfg)
    cfg = cfg.copy()
    if (cfg.get('randomness') or {}).get('seed') is None:
        # one that MMEngine draws is restored when the loaders are built: a resumed run would see other images
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=0)
    if is_distillation(cfg):
        if cfg.model.get('block_parallel'):
            cfg.model_wrapper_cfg = dict(type='mmnas_ext.BlockParallel')
        cfg.setdefault('find_unused_parameters', True)  # a step uses one path of one cell
    cfg.resume = checkpoint is not None
    if checkpoint is not None:
        cfg.load_from = str(checkpoint)
    # MMEngine's loggers, hubs and visualizers of one name are one object in a process, and its own names are no finer
    # than a second: a later training would write into an earlier one's folder
    cfg.setdefault('experiment_name', f'{Path(cfg.work_dir).name}_{next(_NUMBERS)}')
    if cfg.get('visualizer'):
        cfg.visualizer = {**cfg.visualizer, 'name': cfg.experiment_name}
    runner = (prepared or Prepared()).lend(cfg, PartRunner)
    runner.register_hook(InnerPipelineHook())
    runner.register_hook(StepHook())
    if part:
        runner.register_hook(StampHook(part))
    return runner


@contextmanager
def open_runner(
    cfg: Config, checkpoint: Path | None = None, part: str = '', prepared: Prepared | None = None
) -> Iterator[SafeRunner]:
    """Builds a runner as `make_runner` does, and lets go of its files and memory at the end."""
    runner = make_runner(cfg, checkpoint, part, prepared)
    try:
        yield runner
    finally:
        release(runner)
        del runner
        gc.collect()  # what comes next needs the memory


def release(runner: SafeRunner) -> None:
    """Closes the files that a runner's logger and visualizer hold open, and forgets its instances.

    MMEngine keeps them by name as long as the process lives, and a random search has some of each per trial.
    """
    for handler in [each for each in runner.logger.handlers if isinstance(each, logging.FileHandler)]:
        handler.close()
        runner.logger.removeHandler(handler)
    runner.visualizer.close()  # what a backend holds back is written
    for instance in (runner.logger, runner.message_hub, runner.visualizer):
        type(instance)._instance_dict.pop(instance.instance_name, None)


def train(session: Session, name: str, cfg: Config, settings: Mapping[str, Any]) -> None:
    """Trains a part of a run to its end, from where it was interrupted.

    Args:
        session: The run.
        name: Of the part.
        cfg: Config of its training, ``work_dir`` set.
        settings: What decides its result.

    Raises:
        ResumeError: It was begun with other settings.
        NonFiniteLossError: Its loss is NaN or infinite.
    """
    call = 'adaptation' if session.method.find else 'training'
    known = session.manifest.parts.get(name)
    if known is not None:
        taken, refused = find_changes(known.settings, settings)
        if refused:
            raise refusal(cfg, call, refused)
        if known.done and not any(change.key in LONGER for change in taken):
            say(f'the {call} is done: nothing is left to train')
            if find_checkpoint(read_places(known.notes.get('checkpoints', []), session.files.root)).path is None:
                say(f'warning: the {call} left no whole checkpoint in {cfg.work_dir}; it may have been deleted since')
            return
    part = session.begin(name, settings, cfg)
    with open_runner(cfg, session.checkpoint(name), part.id, session.prepared) as runner:
        runner.register_hook(FiniteLossHook())
        runner.register_hook(ValidationsHook(Path(cfg.work_dir), part.id))
        try:
            runner.train()
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f'{error} of the {call} in {cfg.work_dir}; checkpoints before that are kept. A lower learning rate or '
                'optim_wrapper.clip_grad may help'
            ) from None
    session.finish(name)
