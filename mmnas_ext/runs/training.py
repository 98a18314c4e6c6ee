"""One ordinary training, of whichever half or trial."""

import gc
import itertools
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmnas_ext.engine.derive import is_distillation
from mmnas_ext.runs.checkpoints import find_checkpoint

_NUMBERS = itertools.count()


def make_runner(cfg: Config, resume: bool) -> Runner:
    """The runner of a config, seeded; with `resume` it goes on from the newest whole checkpoint in its work dir."""
    cfg = cfg.copy()
    if (cfg.get('randomness') or {}).get('seed') is None:
        # one that MMEngine draws is restored when the loaders are built: a resumed run would see other images
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=0)
    if is_distillation(cfg):
        if cfg.model.get('block_parallel'):
            cfg.model_wrapper_cfg = dict(type='mmnas_ext.BlockParallel')
        cfg.setdefault('find_unused_parameters', True)  # a step uses one path of one cell
    if resume:
        checkpoint = find_checkpoint(Path(cfg.work_dir))
        cfg.resume, cfg.load_from = checkpoint is not None, None if checkpoint is None else str(checkpoint)
    # MMEngine's loggers, hubs and visualizers of one name are one object in a process, and its own names are no finer
    # than a second: a later training would write into an earlier one's folder
    cfg.setdefault('experiment_name', f'{Path(cfg.work_dir).name}_{next(_NUMBERS)}')
    if cfg.get('visualizer'):
        # without a name it takes the experiment's
        cfg.visualizer = {key: value for key, value in cfg.visualizer.items() if key != 'name'}
    return Runner.from_cfg(cfg)


def train(cfg: Config, resume: bool) -> None:
    """Trains a config; with `resume` from the newest whole checkpoint in its work dir, if there is one."""
    runner = make_runner(cfg, resume)
    runner.train()
    del runner
    gc.collect()  # the next half needs the memory
