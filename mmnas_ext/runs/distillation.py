"""DNA (arXiv 1911.13053): blocks imitate a teacher, every path is rated, the best network within limits is exact."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmnas_ext.archs import METRICS, ArchSpec, CellSpace, Limit, SearchSpace, SpaceStage, cell_prices
from mmnas_ext.backbones.export import check_name, export_backbone
from mmnas_ext.distill import BlockDistiller
from mmnas_ext.distill.distiller import check_arguments
from mmnas_ext.distill.stitch import find_loose_widths
from mmnas_ext.engine.block_optim import BlockOptimWrapperConstructor, find_distiller
from mmnas_ext.engine.distill import DistillLoop, check_training, join_blocks
from mmnas_ext.engine.measuring import COUNT, assemble, name_choice, open_measured
from mmnas_ext.engine.rating_loop import RatingLoop, check_rating
from mmnas_ext.registry import LOOPS, OPTIM_WRAPPER_CONSTRUCTORS, class_of
from mmnas_ext.reports import write_report
from mmnas_ext.runs.changes import find_changes, find_versions, flatten, list_changes, settings_of
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.derived import distilled_config, settle
from mmnas_ext.runs.ending import tell_end
from mmnas_ext.runs.manifest import (
    ADAPT,
    DERIVE,
    RATING,
    SEARCH,
    Manifest,
    NoNetworkError,
    ResumeError,
    new_id,
    read_manifest,
)
from mmnas_ext.runs.method import FINDERS, Method, Settings
from mmnas_ext.runs.results import describe_front
from mmnas_ext.runs.session import RATED, Session, front_settings, say
from mmnas_ext.runs.sharing import Alone
from mmnas_ext.runs.training import is_distillation, open_runner
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.search.ratings import Ratings
from mmnas_ext.search.select import RatingError, reachable, select
from mmnas_ext.workdir import WorkDir

BACKBONE_NAME = 'DNAFound'  # what a distillation registers unless derived=dict(name=…) says otherwise
# of `val_cfg` what no rating depends on
_NOT_RATED = ('limits', 'max_memory', 'front')


class _RatingBegins(Hook):
    """Notes that the blocks are trained and their rating begins, when a training ends in its rating."""

    priority = 'VERY_HIGH'

    def __init__(self, session: Session) -> None:
        self.session = session

    def before_val(self, runner: Any) -> None:
        """Called by the rating."""
        if runner.iter >= runner.max_iters:
            self.session.finish(SEARCH)
            self.session.begin(RATING, self.session.settings.rating)


def rate_checkpoint(
    cfg: Config,
    checkpoints: Sequence[str | Path] = (),
    max_memory: float | None = None,
    limits: Mapping[str, Any] | None = None,
) -> None:
    """Rates a trained distillation, finds the front, and writes down the best network within the limits.

    Args:
        cfg: Its config, ``work_dir`` and ``launcher`` set.
        checkpoints: A checkpoint of it, by default the newest in the work dir; or several, of runs that each trained
            some of the blocks.
        max_memory: GiB that features may take; by default the config's.
        limits: Limits by metric; those of the config that are not named here stay. ``--resume`` goes on with the
            network that they choose, once the blocks are trained to their end and while the config's limits stay.

    Raises:
        ValueError: The config is of no distillation, or an argument is out of range.
        FileNotFoundError: There is no such checkpoint.
        ResumeError: Another process is at work on the run.
    """
    if not is_distillation(cfg) or not cfg.get('val_cfg'):
        raise ValueError("rating needs model=dict(type='mmnas_ext.BlockDistiller', …) and val_cfg in the config")
    asked = _settings(cfg).choice
    cfg = cfg.copy()
    cfg.load_from = None
    if max_memory is not None:
        cfg.val_cfg.max_memory = max_memory
    if limits:
        cfg.val_cfg.limits = {**(cfg.val_cfg.get('limits') or {}), **limits}
    settings = _settings(cfg)
    known = read_manifest(Path(cfg.work_dir, 'run.json'))
    manifest = known or Manifest(new_id(), DISTILLATION.name, report=settings.report, versions=find_versions())
    if known is not None and known.method != DISTILLATION.name:
        raise ValueError(f'{cfg.work_dir} holds a run of the method {known.method!r}: take another --work-dir')
    session = Session(cfg, DISTILLATION, manifest)
    files = [Path(file) for file in checkpoints] or _own_checkpoints(session)
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f'no checkpoint of the distillation: {files or "none in " + str(cfg.work_dir)}')
    with Alone(WorkDir(cfg.work_dir)) as work:
        work.take_run()
        session = Session(cfg, DISTILLATION, read_manifest(session.files.manifest) or manifest)
        _rate(session, files, settings)
        if limits:
            session.note(DERIVE, origin=RATED, asked=dict(asked))
        say(describe_front(session.files.root))
    tell_end(session)


def _rate(session: Session, files: list[Path], settings: Settings) -> None:
    with open_runner(session.cfg) as runner:
        join_blocks(find_distiller(runner.model), files)
        session.begin(RATING, settings.rating)
        runner.val()
        session.finish(RATING)
        session.kept['loop'] = runner.val_loop
        arch = select(Ratings.parse(session.files.ratings), runner.val_loop.limits).arch
        _drop_choice(session)
        settle(session, arch)
        session.kept.clear()


def _check(cfg: Config, arch: ArchSpec | None, search_only: bool) -> list[Config]:
    derived = cfg.get('derived') or {}
    if not isinstance(derived, Mapping):
        raise TypeError(f"derived of a distillation must be dict(config='…', …), got {derived!r:.100}")
    for key in FINDERS:
        if cfg.get(key) is not None:
            raise ValueError(
                f'{key} has no effect beside a distillation, which rates every path itself: set it to None'
            )
    check_name(derived.get('name', BACKBONE_NAME), WorkDir(Path(cfg.get('work_dir') or '')).derived)
    space = CellSpace.parse(cfg.model.get('space'))
    if arch is None:
        check_arguments(**{key: value for key, value in cfg.model.items() if key != 'type'})
        _check_training(cfg)
    if cfg.get('val_cfg'):
        _check_loop('val_cfg', cfg.val_cfg, RatingLoop)
        check_rating(**cfg.val_cfg)
        _check_limits(cfg, space)
    halves = [] if arch is not None else [cfg]
    if cfg.get('derived') and not search_only:
        first = space.arch([0] * len(space.stages), tuple((0,) * len(s.cells[0].layers) for s in space.stages))
        half = distilled_config(cfg, first if arch is None else arch)
        if cfg.derived.get('weights') == 'distilled':
            _check_weights(cfg, space, arch)
            half.model.backbone.pop('init_cfg', None)  # yet to come
        halves.append(half)
    return halves


def _check_training(cfg: Config) -> None:
    """Raises ValueError or TypeError for a loop or optimizers that cannot train blocks."""
    loop = cfg.train_cfg
    _check_loop('train_cfg', loop, DistillLoop)
    check_training(**loop)
    settings = dict(cfg.optim_wrapper)
    name, paramwise = settings.pop('constructor', None), settings.pop('paramwise_cfg', None)
    constructor = class_of(OPTIM_WRAPPER_CONSTRUCTORS, name)
    if constructor is not None and issubclass(constructor, BlockOptimWrapperConstructor):
        constructor(settings, paramwise)


def _check_loop(name: str, loop: Any, wanted: type) -> None:
    kind = loop.get('type') if isinstance(loop, Mapping) else loop
    found = class_of(LOOPS, kind)
    if found is None or not issubclass(found, wanted):
        raise ValueError(f"{name}.type of a distillation must be 'mmnas_ext.{wanted.__name__}', got {kind!r:.100}")


def _check_limits(cfg: Config, space: CellSpace) -> None:
    """Raises ValueError for a limit that no network of the space meets; warns of one that limits nothing."""
    size, table = tuple(cfg.model.get('input_size', (224, 224))), cfg.val_cfg.get('table')
    for metric, given in (cfg.val_cfg.get('limits') or {}).items():
        where = f'val_cfg.limits.{metric}'
        limit = Limit.parse(given, where)
        if limit == Limit():
            continue
        by = METRICS[metric]
        reach = reachable(space, cell_prices(space, size, 32, metric, table if by.measured else None))
        limit.check(by, reach, where)
        for sentence in limit.slack(by, reach, where):
            print_log(sentence, logger='current', level=logging.WARNING)


def _check_weights(cfg: Config, space: CellSpace, arch: ArchSpec | None) -> None:
    """Raises ValueError where a given network cannot get distilled weights, before anything is set aside for it."""
    if arch is None:
        return
    known = read_manifest(Path(cfg.work_dir, 'run.json')) if cfg.get('work_dir') else None
    search = known.parts.get(SEARCH) if known else None
    changed = find_changes(search.settings, _settings(cfg).search)[1] if search else []
    if known is None or search is None or changed or not known.is_done(RATING):
        why = f'; its settings were others ({list_changes(changed)})' if changed else ''
        raise ValueError(
            "derived.weights='distilled' with --arch needs a work dir whose distillation has been rated, got "
            f'{cfg.get("work_dir")}{why}: train without --arch first'
        )
    fits = len(arch.stages) == len(space.stages) and all(
        any(
            ArchSpec((ours,)) in SearchSpace((SpaceStage(ours.in_channels, cell.channels, cell.layers, stage.stride),))
            for cell in stage.cells
        )
        for ours, stage in zip(arch.stages, space.stages, strict=True)
    )
    if not fits:
        raise ValueError(
            f'--arch must be a network of model.space to have distilled weights, got {arch.format("fna"):.150}: '
            "take one of front.json, or derived.weights='remapped' or None"
        )


def _settings(cfg: Config) -> Settings:
    rated = dict(cfg.get('val_cfg') or {})
    limits = {key: limit for key, limit in (rated.get('limits') or {}).items() if limit is not None}
    rating = {key: value for key, value in rated.items() if key not in _NOT_RATED}
    held_out = settings_of(cfg, 'val_dataloader')
    ends = {name: Limit.parse(limit, f'val_cfg.limits.{name}')._asdict() for name, limit in limits.items()}
    return Settings(
        search=settings_of(cfg, 'train_dataloader'),
        # not by their names in the config: there, a change of them is harmless to the blocks' training
        rating={
            **flatten(rating, 'rating'),
            **{f'rating.{key}': value for key, value in held_out.items() if key.startswith('data.')},
            **{f'rating.{key}': v for key, v in held_out.items() if key.startswith('val_dataloader.dataset.pipeline')},
        },
        # a front of the default length was not always measured, and its absence chooses no other network
        choice=flatten({**limits, **({'front': rated['front']} if 'front' in rated else {})}, 'choice'),
        report={
            'method': 'distillation',
            'input_size': list(cfg.model.get('input_size', (224, 224))),
            'output_stride': 32,
            'metric': next(iter(limits), 'macs'),
            'limits': ends,
        },
    )


def _find(session: Session) -> ArchSpec | None:
    try:
        return _distil(session)
    except RatingError as error:
        raise NoNetworkError(f'the rating gives no network: {error}; --resume with another val_cfg goes on') from None


def _distil(session: Session) -> ArchSpec | None:
    """Trains the blocks, rates their paths and chooses, from where it was interrupted."""
    cfg, manifest = session.cfg, session.manifest
    if manifest.is_done(SEARCH) and manifest.is_done(RATING):
        return _choose(session)
    _drop_choice(session)
    part = session.begin(SEARCH, session.settings.search, cfg)
    with open_runner(cfg, session.checkpoint(SEARCH), part.id, session.prepared) as runner:
        if cfg.get('val_cfg'):
            runner.register_hook(_RatingBegins(session))
        _foretell(cfg, find_distiller(runner.model))
        runner.train()
        session.finish(SEARCH)
        if not cfg.get('val_cfg') or find_distiller(runner.model).is_part:
            return None
        loop = runner.val_loop
        if loop.rated != runner.iter:
            loop.run()
        session.finish(RATING)
        arch = _choose(session)
        session.kept['loop'] = loop
        settle(session, arch)
        session.kept.clear()
    return arch


def _foretell(cfg: Config, distiller: BlockDistiller) -> None:
    """Says what will not be done at the end, before the training begins."""
    if distiller.is_part:
        say(
            f'blocks {list(distiller.wanted)} of {len(distiller.blocks)} are trained here; nothing is rated: give '
            'mmnas rate the checkpoints of all runs'
        )
    loose = find_loose_widths(distiller)
    if loose and (cfg.get('derived') or {}).get('weights') == 'distilled':
        widths = '; '.join(f'{", ".join(map(str, each))} before block {block}' for block, each in loose.items())
        say(
            "warning: derived.weights='distilled', and not every network of model.space will have such weights, those "
            f'of these widths will not: {widths}. One width a stage avoids it'
        )


def _drop_choice(session: Session) -> None:
    """Notes that weights will be stitched anew, even of the same network; what began from the former is set aside."""
    if DERIVE in session.manifest.parts:
        clears = ADAPT in session.manifest.parts and (session.cfg.get('derived') or {}).get('weights') == 'distilled'
        session.drop_choice(clears)


def _choose(session: Session) -> ArchSpec:
    """The best network within the limits, by ratings that are there; other networks of the front are measured first."""
    val_cfg, files = session.cfg.val_cfg or {}, session.files
    selection = select(Ratings.parse(files.ratings), val_cfg.get('limits') or {})
    choices = selection.spread(val_cfg.get('front', COUNT))
    done = open_measured(files, selection.ratings).done
    checkpoints = [] if all(name_choice(each) in done for each in choices) else _own_checkpoints(session)

    def write(measured: MeasuredFront) -> None:
        if is_main_process():
            selection.write(files.root, measured)
        session.note(RATING, front=front_settings(session.settings.choice))

    if not checkpoints:
        write(assemble(selection, choices, done))
        return selection.arch
    with open_runner(session.cfg) as runner:
        join_blocks(find_distiller(runner.model), checkpoints)
        runner.val_loop.prepare()
        write(runner.val_loop.measure(selection))
        # its weights are stitched while the blocks are in memory
        session.kept['loop'] = runner.val_loop
        settle(session, selection.arch)
        session.kept.clear()
    return selection.arch


def _supply(session: Session, arch: ArchSpec) -> None:
    """Stitches the network's distilled weights, and writes the module that registers it as a backbone."""
    files, derived = session.files, session.cfg.get('derived') or {}
    weighed = False
    if session.searched.manifest.is_done(RATING):
        weighed = _write_weights(session, arch)
    if not weighed and derived.get('weights') == 'distilled':
        raise ResumeError(
            f"derived.weights='distilled': there are none of {arch.format('fna')} (see the warning above); take "
            "another network of front.json, or weights='remapped' or None"
        )
    if is_main_process():
        if not weighed:
            files.weights.unlink(missing_ok=True)  # another network's
        name = derived.get('name', BACKBONE_NAME)
        export_backbone(files.arch, name, files.derived, files.weights if weighed else None, overwrite=True)
    barrier()


def _write_weights(session: Session, arch: ArchSpec) -> bool:
    """Whether weights were written: by the distiller in memory, or by the checkpoint of its training."""
    ratings = Ratings.parse(session.searched.files.ratings)

    def write(loop: Any) -> bool:
        done = loop.write_weights(ratings, arch, session.files.weights) if is_main_process() else True
        barrier()
        return bool(done)

    if 'loop' in session.kept:
        return write(session.kept['loop'])
    files = _own_checkpoints(session.searched)
    if not files:
        return False
    with open_runner(session.searched.cfg) as runner:
        join_blocks(find_distiller(runner.model), files)
        return write(runner.val_loop)


def _own_checkpoints(session: Session) -> list[Path]:
    """The newest checkpoint of the blocks' training."""
    if SEARCH in session.manifest.parts:
        newest = session.checkpoint(SEARCH)
    else:
        newest = find_checkpoint(session.cfg.work_dir).path
    return [newest] if newest else []


DISTILLATION = Method(
    'distillation',
    claims=is_distillation,
    check=_check,
    settings=_settings,
    find=_find,
    derive=distilled_config,
    supply=_supply,
    report=write_report,
    writes=('ratings', 'front', 'features', 'front_figure'),
    first='distillation',
)
