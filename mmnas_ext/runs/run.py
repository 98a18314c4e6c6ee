"""Both halves of a run: search, then train what was found; each goes on where it was interrupted."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, init_dist, is_distributed, is_main_process

from mmnas_ext.archs import ArchSpec
from mmnas_ext.backbones.export import export_backbone
from mmnas_ext.engine.block_optim import find_distiller
from mmnas_ext.engine.derive import DERIVED_DIR, WEIGHTS_NAME, is_distillation, write_derived
from mmnas_ext.engine.distill import join_blocks
from mmnas_ext.engine.monitor import LOG_NAME
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.random_search import TABLE_NAME, TRIALS_DIR, random_search
from mmnas_ext.runs.training import make_runner, train
from mmnas_ext.search.ratings import RATINGS_NAME
from mmnas_ext.search.select import FRONT_NAME

ADAPT_DIR = 'adapt'
BACKBONE_NAME = 'DNAFound'  # what a distillation registers unless derived=dict(name=…) says otherwise


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
    trial = (cfg.get('random_search') or {}).get('trial')
    halves = [half for half in (cfg, cfg.get('derived'), trial) if half]
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


def run(
    cfg: Config,
    resume: bool = False,
    search_only: bool = False,
    arch: str | None = None,
    on_found: Callable[[Path], Any] | None = None,
) -> None:
    """Trains a config; one with ``derived=dict(…)`` is searched first, at random if it has ``random_search=dict(…)``.

    Files: the search's own in ``work_dir``, what it found in ``work_dir/derived``, the training of that in
    ``work_dir/adapt``.

    Args:
        cfg: The config, ``work_dir`` and ``launcher`` set.
        resume: Go on in the half that was interrupted, from its newest whole checkpoint.
        search_only: Stop after the search.
        arch: Skip the search and train this network: anything that `ArchSpec.parse` reads.
        on_found: Called with the work dir by the main process once a distillation has found a network, before that is
            trained: draws the images.

    Raises:
        ValueError: The arguments contradict each other or the config.
    """
    check_mode(cfg, search_only, arch)
    launcher = cfg.get('launcher', 'none')
    if launcher != 'none' and not is_distributed():
        # before the runner does it: the files below are one process's to write
        init_dist(launcher, **(cfg.get('env_cfg') or {}).get('dist_cfg', dict(backend='nccl')))
    if not cfg.get('derived'):
        if is_distillation(cfg):
            _distill(cfg, resume, None, on_found)
        else:
            train(cfg, resume)
        return
    work_dir = Path(cfg.work_dir)
    folder = work_dir / DERIVED_DIR
    found = folder / 'config.py'
    if arch is not None:
        chosen = ArchSpec.parse(arch)  # read before the folder that it may lie in is set aside
        if is_main_process():
            if not resume:
                _set_aside(folder, work_dir / LOG_NAME)
            write_derived(folder, cfg, chosen)
        barrier()
    elif is_distillation(cfg):
        _distill(cfg, resume, folder, on_found)
    elif cfg.get('random_search') is not None:
        _search_at_random(cfg, resume, folder)
    elif not (resume and found.is_file()):
        if not resume and is_main_process():
            _set_aside(folder, work_dir / LOG_NAME)
        train(cfg, resume)
        barrier()
    if search_only:
        return
    adapt = Config.fromfile(found)
    adapt.work_dir = str(work_dir / ADAPT_DIR)
    adapt.launcher = launcher
    train(adapt, resume)


def rate_checkpoint(
    cfg: Config,
    checkpoints: Sequence[str | Path] = (),
    max_memory: float | None = None,
    limits: dict[str, float] | None = None,
) -> None:
    """Rates a trained distillation, finds the front, and the best network within the limits.

    Args:
        cfg: Its config, ``work_dir`` and ``launcher`` set.
        checkpoints: A checkpoint of it, by default the newest in the work dir; or several, of runs that each trained
            some of the blocks.
        max_memory: GiB that features may take; by default the config's.
        limits: Limits by metric; those of the config that are not named here stay.

    Raises:
        ValueError: The config is of no distillation, or an argument is out of range.
        FileNotFoundError: There is no such checkpoint.
    """
    if not is_distillation(cfg) or not cfg.get('val_cfg'):
        raise ValueError("rating needs model=dict(type='mmnas_ext.BlockDistiller', …) and val_cfg in the config")
    newest = find_checkpoint(Path(cfg.work_dir))
    files = [Path(file) for file in checkpoints] or ([newest] if newest else [])
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f'no checkpoint of the distillation: {files or "none in " + str(cfg.work_dir)}')
    cfg = cfg.copy()
    cfg.load_from, cfg.resume = None, False
    if max_memory is not None:
        cfg.val_cfg.max_memory = max_memory
    if limits:
        cfg.val_cfg.limits = {**(cfg.val_cfg.get('limits') or {}), **limits}
    runner = make_runner(cfg, resume=False)
    join_blocks(find_distiller(runner.model), files)
    runner.val()


def _distill(cfg: Config, resume: bool, folder: Path | None, on_found: Callable[[Path], Any] | None) -> None:
    """Trains the blocks and rates their paths; in `folder`, if there is one, the config of what was found."""
    work_dir = Path(cfg.work_dir)
    done = resume and (work_dir / FRONT_NAME).is_file()
    if not done:
        if not resume and is_main_process():
            _set_aside(work_dir / DERIVED_DIR, work_dir / RATINGS_NAME, work_dir / FRONT_NAME)
        barrier()
        train(cfg, resume)
        barrier()
        if cfg.get('val_cfg') and not (work_dir / FRONT_NAME).is_file():
            # the run that was resumed had ended its training, and was killed while it rated
            rate_checkpoint(cfg)
    if cfg.get('val_cfg') and is_main_process():
        _register(work_dir / DERIVED_DIR, (cfg.get('derived') or {}).get('name', BACKBONE_NAME))
    if folder is not None and is_main_process():
        write_derived(folder, cfg, ArchSpec.parse(work_dir / DERIVED_DIR / 'arch.json'))
    if on_found is not None and is_main_process():
        on_found(work_dir)
    barrier()


def _register(folder: Path, name: str) -> None:
    """Leaves a module beside ``arch.json`` that registers the found network as a backbone, with its weights if any."""
    weights = folder / WEIGHTS_NAME
    export_backbone(folder / 'arch.json', name, folder, weights if weights.is_file() else None, overwrite=True)


def check_mode(cfg: Config, search_only: bool, arch: str | None) -> None:
    """Raises ValueError where `search_only` and `arch` contradict each other or the config."""
    if not cfg.get('derived') and (search_only or arch is not None):
        raise ValueError('--search-only and --arch need a config with derived=dict(…); this one is just trained')
    if not cfg.get('derived') and cfg.get('random_search') is not None:
        raise ValueError(
            'random_search=dict(…) needs derived=dict(…), which trains what it draws; this config has none'
        )
    if search_only and arch is not None:
        raise ValueError('--search-only and --arch contradict each other')
    if arch is not None:
        ArchSpec.parse(arch)


def _search_at_random(cfg: Config, resume: bool, folder: Path) -> None:
    """Writes down the best network of a random search, unless it is written down there already."""
    work_dir = folder.parent
    found = folder / 'config.py'
    # a network that was given by hand, whose training goes on
    given = resume and found.is_file() and not (work_dir / TRIALS_DIR).is_dir()
    barrier()  # all have looked before one writes
    if given:
        return
    if not resume and is_main_process():
        _set_aside(folder, work_dir / TRIALS_DIR, work_dir / TABLE_NAME)
    best = random_search(cfg, resume)
    if is_main_process() and not (found.is_file() and ArchSpec.parse(folder / 'arch.json') == best):
        if resume:  # more trials have found a better one: what was trained so far is another network
            _set_aside(folder, work_dir / ADAPT_DIR)
        write_derived(folder, cfg, best)
    barrier()


def _set_aside(*paths: Path) -> None:
    """Keeps what an earlier search left in this work dir, under another name."""
    # to the microsecond: two short searches may end in one second
    suffix = datetime.now().strftime('before_%Y%m%d_%H%M%S_%f')
    for path in paths:
        if path.exists():
            path.rename(path.with_name(f'{path.stem}_{suffix}{path.suffix}'))
