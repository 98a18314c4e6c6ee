"""One ordinary training, of whichever half or trial."""

import gc
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmnas_ext.engine.checkpoints import find_checkpoint


def make_runner(cfg: Config, resume: bool) -> Runner:
    """The runner of a config, seeded; with `resume` it goes on from the newest whole checkpoint in its work dir."""
    cfg = cfg.copy()
    if (cfg.get('randomness') or {}).get('seed') is None:
        # one that MMEngine draws is restored when the loaders are built: a resumed run would see other pictures
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=0)
    if resume:
        checkpoint = find_checkpoint(Path(cfg.work_dir))
        cfg.resume, cfg.load_from = checkpoint is not None, None if checkpoint is None else str(checkpoint)
    if cfg.get('visualizer'):
        # visualizers of one name are one object in a process: the second half's would write into the first's folder
        cfg.visualizer = {**cfg.visualizer, 'name': f'visualizer of {cfg.work_dir}'}
    return Runner.from_cfg(cfg)


def train(cfg: Config, resume: bool) -> None:
    """Trains a config; with `resume` from the newest whole checkpoint in its work dir, if there is one."""
    runner = make_runner(cfg, resume)
    runner.train()
    del runner
    gc.collect()  # the next half needs the memory
