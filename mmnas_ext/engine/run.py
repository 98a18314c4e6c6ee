"""Both halves of a run: search, then train what was found; each goes on where it was interrupted."""

import gc
import time
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, init_dist, is_distributed, is_main_process
from mmengine.runner import Runner

from mmnas_ext.archs import ArchSpec
from mmnas_ext.engine.checkpoints import find_checkpoint
from mmnas_ext.engine.derive import DERIVED_DIR, write_derived
from mmnas_ext.engine.monitor import LOG_NAME

ADAPT_DIR = 'adapt'


def prepare(
    path: str,
    work_dir: str | None = None,
    launcher: str = 'none',
    amp: bool = False,
    auto_scale_lr: bool = False,
    options: dict[str, Any] | None = None,
) -> Config:
    """Reads a config and applies what a command line says.

    Args:
        path: The config's file, whose name gives the default work dir.
        work_dir: Where logs and checkpoints go; else the config's, else ``work_dirs/<file name>``.
        launcher: MMEngine's.
        amp: Train in mixed precision, in both halves.
        auto_scale_lr: Scale the learning rate with the real batch, in both halves.
        options: Entries to override, dotted keys.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: `auto_scale_lr` is asked of a config without a base batch size.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist')
    cfg = Config.fromfile(path)
    if options:
        cfg.merge_from_dict(options)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(path).stem))
    halves = [cfg, *([cfg.derived] if cfg.get('derived') else [])]
    if amp:
        for half in halves:
            _switch_amp(half.get('optim_wrapper') or {})
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ValueError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in the config')
        for half in halves:
            half.setdefault('auto_scale_lr', {})['enable'] = True
    return cfg


def _switch_amp(optim_wrapper: dict[str, Any]) -> None:
    wrappers = [optim_wrapper[name] for name in ('weights', 'arch') if name in optim_wrapper] or [optim_wrapper]
    for wrapper in wrappers:
        if wrapper:
            wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')


def run(cfg: Config, resume: bool = False, search_only: bool = False, arch: str | None = None) -> None:
    """Trains a config; one with ``derived=dict(…)`` is searched first.

    Files: the search's own in ``work_dir``, what it found in ``work_dir/derived``, the training of that in
    ``work_dir/adapt``.

    Args:
        cfg: The config, ``work_dir`` and ``launcher`` set.
        resume: Go on in the half that was interrupted, from its newest whole checkpoint.
        search_only: Stop after the search.
        arch: Skip the search and train this network: anything that `ArchSpec.parse` reads.

    Raises:
        ValueError: The arguments contradict each other or the config.
    """
    check_mode(cfg, search_only, arch)
    launcher = cfg.get('launcher', 'none')
    if launcher != 'none' and not is_distributed():
        # before the runner does it: the files below are one process's to write
        init_dist(launcher, **(cfg.get('env_cfg') or {}).get('dist_cfg', dict(backend='nccl')))
    if not cfg.get('derived'):
        train(cfg, resume)
        return
    folder = Path(cfg.work_dir) / DERIVED_DIR
    found = folder / 'config.py'
    if arch is not None:
        chosen = ArchSpec.parse(arch)  # read before the folder that it may lie in is set aside
        if is_main_process():
            if not resume:
                _set_aside(folder)
            write_derived(folder, cfg, chosen)
        barrier()
    else:
        if not (resume and found.is_file()):
            if not resume and is_main_process():
                _set_aside(folder)
            train(cfg, resume)
            barrier()
        if search_only:
            return
    adapt = Config.fromfile(found)
    adapt.work_dir = str(Path(cfg.work_dir) / ADAPT_DIR)
    adapt.launcher = launcher
    train(adapt, resume)


def check_mode(cfg: Config, search_only: bool, arch: str | None) -> None:
    """Raises ValueError where `search_only` and `arch` contradict each other or the config."""
    if not cfg.get('derived') and (search_only or arch is not None):
        raise ValueError('--search-only and --arch need a config with derived=dict(…); this one is just trained')
    if search_only and arch is not None:
        raise ValueError('--search-only and --arch contradict each other')
    if arch is not None:
        ArchSpec.parse(arch)


def train(cfg: Config, resume: bool) -> None:
    """One ordinary training; with `resume` from the newest whole checkpoint in its work dir, if there is one."""
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
    runner = Runner.from_cfg(cfg)
    runner.train()
    del runner
    gc.collect()  # the next half needs the memory


def _set_aside(folder: Path) -> None:
    """Keeps what an earlier search found in this work dir, under another name."""
    suffix = time.strftime('before_%Y%m%d_%H%M%S')
    for path in (folder, folder.parent / LOG_NAME):
        if path.exists():
            path.rename(path.with_name(f'{path.stem}_{suffix}{path.suffix}'))
