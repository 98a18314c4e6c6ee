"""A run from its config to the trained network: check, find, write down, train, say what came out."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed, is_main_process

from mmnas_ext.archs import ArchSpec
from mmnas_ext.engine.stalls import GRACE, PATIENCE, watch_stalls
from mmnas_ext.runs.changes import training_settings
from mmnas_ext.runs.checkpoints import nest_checkpoints
from mmnas_ext.runs.configs import read_config
from mmnas_ext.runs.derived import settle
from mmnas_ext.runs.ending import tell_end
from mmnas_ext.runs.halves import list_halves
from mmnas_ext.runs.later import quiet
from mmnas_ext.runs.manifest import ADAPT
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.predict import sample_run
from mmnas_ext.runs.prepared import Prepared
from mmnas_ext.runs.results import describe_front
from mmnas_ext.runs.session import Session, open_session, say
from mmnas_ext.runs.sharing import check_join, work_of
from mmnas_ext.runs.tensorboard import log_images
from mmnas_ext.runs.training import train
from mmnas_ext.workdir import WorkDir

_STARTS = {'pytorch': 'torchrun', 'slurm': 'srun', 'mpi': 'mpirun'}


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
        path: The config's file, or the name of one that comes with the package; its name gives the default work dir.
        work_dir: Where logs and checkpoints go; else the config's, else ``work_dirs/<file name>``.
        launcher: MMEngine's.
        amp: Train in mixed precision, in both halves.
        auto_scale_lr: Scale the learning rate with the real batch, in both halves.
        options: Entries to override, dotted keys.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, an option does not go with it, `auto_scale_lr` is asked of a config without a
            base batch size, or a variable such as ``seed`` has no place in the config (`mmnas_ext.runs.resolve`).
    """
    cfg = read_config(path, options)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(str(cfg.filename)).stem))
    if amp:
        for half in list_halves(cfg):
            wrapper = half.get('optim_wrapper') or {}
            if wrapper or 'config' in half:  # what says nothing has that of the other half, or of the file
                half['optim_wrapper'] = _with_amp(wrapper)
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ValueError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in the config')
        for half in list_halves(cfg):
            half['auto_scale_lr'] = {**(half.get('auto_scale_lr') or {}), 'enable': True}
    return cfg


def _with_amp(wrapper: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer wrapper in mixed precision, of a search both; one that says nothing is added to a file's."""
    switched = dict(type='AmpOptimWrapper', loss_scale='dynamic')
    halves = {name: {**wrapper[name], **switched} for name in ('weights', 'arch') if name in wrapper}
    return {**wrapper, **(halves or switched)}


def run(
    cfg: Config,
    resume: bool = False,
    search_only: bool = False,
    arch: str | None = None,
    draw: bool = False,
    prepared: Prepared | None = None,
    join: bool = False,
) -> None:
    """Runs a config: what its method searches for is found, written down and trained.

    Files: the search's own in ``work_dir``, what it found in ``work_dir/derived``, the training of that in
    ``work_dir/adapt``, and in ``work_dir/run.json`` how far the run is (`mmnas_ext.runs.manifest`).

    Args:
        cfg: The config, ``work_dir`` and ``launcher`` set.
        resume: Go on with the run in the work dir, whichever part was interrupted; without it, what an earlier run left
            there is set aside.
        search_only: Stop after the search.
        arch: Skip the search and train this network: anything that `ArchSpec.parse` reads.
        draw: Draw figures and page once a network is found, and say at the end what came of it and what is next.
        prepared: What `mmnas_ext.runs.checks.check_config` has built: the run uses it, and does not look again.
        join: Share the trials of a random search with other processes on the same work dir, whichever of them begins.

    Raises:
        ValueError: The arguments contradict each other or the config.
        ResumeError: The run cannot go on, since there is none or its settings were others; or another process is at
            work on it.
    """
    check_mode(cfg, search_only, arch)
    start_processes(cfg)
    method = method_of(cfg)
    given = None if arch is None else ArchSpec.parse(arch)
    if prepared is None:
        method.check(cfg, given, search_only)
    if join:
        check_join(method, [])

    def begin(resume: bool) -> Session:
        return open_session(cfg, method, resume, given, search_only, prepared)

    with work_of(WorkDir(cfg.work_dir), join) as work:
        session = work.open(begin, resume)
        if session is None or not _run(session, search_only, draw):
            return
        if draw:
            tell_end(session)


def _run(session: Session, search_only: bool, draw: bool) -> bool:
    """Finds and trains in an open run; returns whether that was this process's to do to its end."""
    cfg, method = session.cfg, session.method
    if method.find is None:
        train(session, ADAPT, cfg, training_settings(cfg))
        return True
    found = session.found or method.find(session)
    if found is not None:
        adapt(session, found, search_only, draw)
    return found is not None or not method.shares


def adapt(session: Session, found: ArchSpec, search_only: bool = False, draw: bool = False) -> None:
    """Writes down the network of an open run and trains it.

    Args:
        session: The run.
        found: The network that is found or given.
        search_only: Stop before the training.
        draw: Draw figures and page before that.
    """
    config, method = settle(session, found), session.method
    how = 'given' if session.manifest.is_given else 'found'
    front = '' if session.manifest.is_given else describe_front(session.files.root)
    if front:
        say(front)
    say(f'{how}: {found.format("fna")}; written to {session.files.arch}')
    if draw and method.report is not None and is_main_process():
        draw_page(method.report, session, logs=True)
    if config is None or search_only:
        return
    ours = {'work_dir': str(session.files.adapt), 'launcher': session.cfg.get('launcher', 'none')}
    fast = getattr(config, '_format_python_code', True)
    trained = Config({**config.to_dict(), **ours}, filename=str(session.files.config), format_python_code=fast)
    root, searched = session.files.root, session.searched.files.root
    nest_checkpoints(trained, root.name if root == searched else f'{searched.name}/{root.parent.name}/{root.name}')
    train(session, ADAPT, trained, training_settings(config, session.files.root))
    if draw and method.report is not None and is_main_process():
        _draw_result(method.report, session)


def start_processes(cfg: Config) -> None:
    """Joins the processes that a launcher has started, once; before the runner does it.

    What a run goes on with depends on how many they are, and its files are one process's to write.

    Raises:
        ValueError: They cannot be joined.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none' or is_distributed():
        return
    wanted = dict((cfg.get('env_cfg') or {}).get('dist_cfg') or dict(backend='nccl'))
    patience = wanted.get('timeout', PATIENCE)
    if isinstance(patience, bool) or not isinstance(patience, int | float) or not 0 < patience < math.inf:
        raise ValueError(f'env_cfg.dist_cfg.timeout must be a number of seconds above 0, got {patience!r}')
    wanted['timeout'] = patience + GRACE  # of the two, ours says which process it is
    try:
        if launcher == 'pytorch' and get_device() == 'cpu':
            _join_on_cpus(wanted)
        else:
            init_dist(launcher, **wanted)
    except KeyError as error:
        how = _STARTS.get(launcher, launcher)
        raise ValueError(
            f'--launcher {launcher} needs {error} in the environment, which {how} sets: start with that'
        ) from None
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f'--launcher {launcher}: the processes cannot be joined: {error}') from error
    watch_stalls(patience)


def _join_on_cpus(wanted: dict[str, Any]) -> None:
    """Joins processes that torchrun has started where there is no GPU; MMEngine's own way asks for one first."""
    os.environ['RANK'], os.environ['LOCAL_RANK']  # what MMEngine asks for, too
    asked, timeout = wanted.pop('backend', 'gloo'), timedelta(seconds=wanted.pop('timeout'))
    dist.init_process_group('gloo', timeout=timeout, **wanted)
    if asked != 'gloo':  # said by one of them, now that they are joined
        say('PyTorch sees no GPU here: the processes are joined by gloo')


def _draw_result(report: Callable[[Path], tuple[Path, ...]], session: Session) -> None:
    """Draws the page again, now with what the training reached and a few predictions; a failure costs nothing."""
    try:
        # COCO's reader prints
        with quiet(logging.WARNING), redirect_stdout(StringIO()):
            sample_run(session.files.root)
    except Exception as error:
        say(f'warning: no predictions on the page, since {type(error).__name__}: {error}')
    draw_page(report, session)


def draw_page(report: Callable[[Path], tuple[Path, ...]], session: Session, logs: bool = False) -> None:
    """Draws figures and page of what there is now, `logs` sends figures to TensorBoard; a failure costs nothing."""
    try:
        files = report(session.files.root)
        if logs:
            log_images(files, session.files.root / 'report')
        say(f'{"figures and page" if logs else "page"}: {files[-1]}')
    except Exception as error:
        say(f'warning: no report, since {type(error).__name__}: {error}; mmnas report draws it later')


def check_mode(cfg: Config, search_only: bool, arch: str | None) -> None:
    """Raises ValueError where `search_only` and `arch` contradict each other or the config."""
    if not cfg.get('derived') and (search_only or arch is not None):
        raise ValueError('--search-only and --arch need a config with derived=dict(…); this one is just trained')
    if search_only and arch is not None:
        raise ValueError('--search-only and --arch contradict each other')
    if arch is not None:
        ArchSpec.parse(arch)
