"""The search by gradients, FNA (ICLR 2020): a super-network in a detector or segmentor, from which one is derived."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, get_world_size, is_main_process

from mmnas_ext.archs import ArchSpec, HostChoices, SearchSpace
from mmnas_ext.engine.limits import CostTerm
from mmnas_ext.engine.loops import SearchEpochLoop, SearchIterLoop, switch_transforms
from mmnas_ext.engine.optim import SearchOptimWrapperConstructor, find_host
from mmnas_ext.engine.whole import price_wholes, within_reach
from mmnas_ext.registry import LOOPS, OPTIM_WRAPPER_CONSTRUCTORS, class_of
from mmnas_ext.reports import write_report
from mmnas_ext.runs.changes import EVALUATION, RECIPE, flatten, settings_of
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.halves import check_validating, counted_at, seed_arch
from mmnas_ext.runs.host_choices import (
    CHOSEN,
    KEY,
    chosen_config,
    describe_choices,
    has_host,
    read_choices,
    search_config,
)
from mmnas_ext.runs.last_rung import check_adapting, describe_recipe
from mmnas_ext.runs.manifest import RATING, SEARCH, Manifest, ResumeError
from mmnas_ext.runs.method import Method, Settings
from mmnas_ext.runs.selection import evaluation_of, select
from mmnas_ext.runs.session import Session
from mmnas_ext.runs.training import open_runner
from mmnas_ext.runs.whole_selection import select_whole
from mmnas_ext.search.choosing import Choosing
from mmnas_ext.search.decision import Decision
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.workdir import WorkDir, write_text

# of `optim_wrapper.cost` what chooses a network and trains nothing
LIMITS = ('target', 'min', 'max')


def read_space(cfg: Config) -> SearchSpace:
    """Reads the space that a config with ``derived`` searches.

    Raises:
        ValueError: There is none, it is malformed, or it leaves no choice.
    """
    backbone = cfg.model.get('backbone') or {}
    if 'space' not in backbone:
        raise ValueError(
            "a config with derived=dict(…) searches: its model.backbone must be dict(type='mmnas_ext.SuperNet', "
            f'space=…), got type {backbone.get("type")!r}'
        )
    space = SearchSpace.parse(backbone['space'])
    if space.size == 1:
        raise ValueError('model.backbone.space has nothing to search: every layer has a single candidate')
    return space


def describe_backbone(cfg: Config) -> dict[str, Any]:
    """Facts for reports that the super-network of a search tells."""
    (size, stride), arch = counted_at(cfg.model.backbone), seed_arch(cfg.model.backbone)
    return {
        'input_size': list(size),
        'output_stride': stride,
        'seed': None if arch is None else ArchSpec.parse(arch).format('fna'),
    }


def configs_to_check(
    cfg: Config, first: Config, space: SearchSpace, arch: ArchSpec | None, search_only: bool
) -> list[Config]:
    """Lists the configs of the halves that a run will need; the second may begin days after the first."""
    adapt = _derive(cfg, next(space.sample(0, 1)) if arch is None else arch)
    return [first] if search_only else [adapt] if arch is not None else [first, adapt]


def _derive(cfg: Config, arch: ArchSpec) -> Config:
    """The config that trains a network, in the host that was chosen with it where that is searched too."""
    return derived_config(chosen_config(cfg), arch)


def _check(cfg: Config, arch: ArchSpec | None, search_only: bool) -> list[Config]:
    space = read_space(cfg)
    first = cfg
    if arch is None:  # else nothing is searched
        check_chosen(cfg)
        first = search_config(cfg)
        check_search(first, space)
        check_adapting(cfg, Choosing.parse(cfg.optim_wrapper.get('selection')).adapt, space)
    return configs_to_check(cfg, first, space, arch, search_only)


def check_chosen(cfg: Config) -> None:
    """Raises ValueError where a config says the host and a search is to choose it."""
    if cfg.get(CHOSEN) is not None:
        raise ValueError(f'{CHOSEN} goes with --arch, whose network it trains: a search chooses its own')


def check_search(cfg: Config, space: SearchSpace) -> None:
    """Raises ValueError for what would fail in the training of a super-network, given its config and space."""
    alone = Choosing.parse(cfg.optim_wrapper.get('selection')).type == 'argmax'
    check_loop(cfg.train_cfg, alone)
    settings = dict(cfg.optim_wrapper)
    name, paramwise = settings.pop('constructor', None), settings.pop('paramwise_cfg', None)
    for key in ('weights', 'arch', 'cost'):
        if key in settings and not isinstance(settings[key], Mapping) and (key, settings[key]) != ('cost', None):
            raise ValueError(f'optim_wrapper.{key} must be a dict in a search, got {settings[key]!r:.60}')
    constructor = class_of(OPTIM_WRAPPER_CONSTRUCTORS, name)
    if constructor is None or not issubclass(constructor, SearchOptimWrapperConstructor):
        raise ValueError(
            f"optim_wrapper.constructor must be 'mmnas_ext.SearchOptimWrapperConstructor' in a search, got {name!r}"
        )
    built = constructor(settings, paramwise)
    if built.selection.front is not None:
        check_validating(cfg, 'optim_wrapper.selection.front')
    if built.host_choices is not None:
        check_validating(cfg, 'host_choices')
    check_reach(cfg, built.cost, space, built.host_choices)


def check_reach(cfg: Config, term: CostTerm, space: SearchSpace, choices: HostChoices | None = None) -> None:
    """Raises ValueError where no network of a search's space, with the host's choices if it has any, is within a limit.

    Args:
        cfg: The config.
        term: What a network may cost.
        space: The space.
        choices: The host's; by default as `search_config` of the config has them.
    """
    size, stride = counted_at(cfg.model.backbone)
    choices = choices or HostChoices.parse(search_config(cfg).optim_wrapper.get('host_choices'))
    if choices is None:
        term.prices(space, size, stride)
    else:
        within_reach(term, price_wholes(term, choices, space, stride))


def check_loop(loop: Mapping[str, Any], alpha_decides: bool) -> None:
    """Raises ValueError for a loop that cannot search, or that leaves alpha untrained where that alone decides."""
    kind = loop.get('type')
    loop_class = class_of(LOOPS, kind)
    if loop_class is None or not issubclass(loop_class, SearchEpochLoop | SearchIterLoop):
        raise ValueError(
            "train_cfg.type must be a search loop, 'mmnas_ext.SearchEpochLoop' or 'mmnas_ext.SearchIterLoop', "
            f'got {kind!r}'
        )
    unit = 'epochs' if issubclass(loop_class, SearchEpochLoop) else 'iters'
    numbers: list[int] = []
    for key in (f'max_{unit}', 'arch_start'):
        value = loop.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f'train_cfg.{key} must be an integer, got {value!r}')
        numbers.append(value)
    interval = loop.get('arch_interval', 1)
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
        raise ValueError(f'train_cfg.arch_interval must be a positive integer, got {interval!r}')
    last, start = numbers
    if not 0 <= start <= last - alpha_decides:
        raise ValueError(
            f'train_cfg.arch_start must be in 0..{last - alpha_decides}, got {start}: the search has {last} {unit}'
            + (', and alpha would never be trained' if alpha_decides else '')
        )


def _settings(cfg: Config) -> Settings:
    cost = dict(cfg.optim_wrapper.get('cost') or {})
    limits = {key: cost.pop(key) for key in LIMITS if cost.get(key) is not None}
    search = search_config(cfg).copy()
    search.optim_wrapper = {key: value for key, value in search.optim_wrapper.items() if key != 'selection'}
    search.optim_wrapper = {**search.optim_wrapper, 'cost': cost}
    if KEY in search.optim_wrapper:  # what necks and heads cost follows from the rest
        search.optim_wrapper[KEY] = {k: value for k, value in search.optim_wrapper[KEY].items() if k != 'costs'}
    metric = cost.get('metric', 'macs')
    limit = {'min': limits.get('min'), 'max': limits.get('max', limits.get('target'))}
    choosing = Choosing.parse(cfg.optim_wrapper.get('selection'))
    # the default says nothing: runs of before there was a choice have none noted
    chosen = {} if choosing == Choosing() else flatten(asdict(choosing), 'selection')
    if choosing.front is not None or has_host(cfg):
        chosen[EVALUATION] = evaluation_of(cfg)
    if choosing.adapt is not None:
        with suppress(ValueError):  # which the check says, where networks are adapted
            chosen[RECIPE] = describe_recipe(cfg, choosing.adapt, next(read_space(cfg).sample(0, 1)))
    return Settings(
        search=settings_of(search, 'train_dataloader'),
        choice={**flatten({metric: limits}, 'choice'), **chosen},
        report={'method': 'gradient', **describe_backbone(cfg), 'metric': metric, 'limits': {metric: limit}},
    )


def _find(session: Session) -> ArchSpec:
    return train_supernet(session, search_config(session.cfg), _choose)


def train_supernet(session: Session, cfg: Config, choose: Callable[[Session, Any], ArchSpec]) -> ArchSpec:
    """Trains a super-network to its end, from where it was interrupted, and returns what is chosen from it.

    Args:
        session: The run.
        cfg: Config of the training.
        choose: Chooses a network, given the run and the runner.

    Raises:
        ResumeError: It has been trained, and no whole checkpoint is left.
    """
    done = session.manifest.is_done(SEARCH)
    checkpoint = session.checkpoint(SEARCH)
    if done and checkpoint is None:
        raise ResumeError(
            f'--resume: the search in {session.files.root} is done, and no whole checkpoint is left to choose from: '
            'give a network by --arch, or start without --resume'
        )
    part = session.begin(SEARCH, session.settings.search, cfg)
    with open_runner(cfg, checkpoint, part.id, session.prepared) as runner:
        if cfg is not session.cfg and is_main_process():
            # what the super-network is built from is no config of a search: that of the run is kept in its place
            name = Path(cfg.filename).name if cfg.filename else f'{runner.timestamp}.py'
            session.cfg.dump(session.files.root / name)
        runner.train()
        session.finish(SEARCH)
        switch_transforms(runner)
        return choose(session, runner)


def _choose(session: Session, runner: Any) -> ArchSpec:
    """Chooses from a super-network that has been trained; what it measures is kept, and not measured again."""
    wrapper = runner.optim_wrapper
    measures = wrapper.selection.measures
    if measures:
        session.begin(RATING, session.settings.rating)
    try:
        decision, front = choose_network(
            runner, wrapper.cost, wrapper.selection, session.files, stamp_of(session.manifest, runner.iter)
        )
    except ValueError as error:
        raise ResumeError(f'no network can be derived: {error}') from None
    session.kept['decision'] = decision
    session.kept['host'] = None if decision.host is None else decision.host.choice
    if is_main_process():
        for former in (session.files.front, session.files.front_figure):
            former.unlink(missing_ok=True)
        if front is not None:
            write_text(session.files.front, front.format())
    if measures:
        session.finish(RATING)
    return decision.arch


def stamp_of(manifest: Manifest, iteration: int) -> str:
    """Tells what was measured of one super-network from what was of another."""
    # processes share the images out: other numbers of them see other batches
    return f'{manifest.parts[SEARCH].id}/{iteration}/{get_world_size()}'


def choose_network(
    runner: Any, term: CostTerm, choosing: Choosing, files: WorkDir, stamp: str
) -> tuple[Decision, MeasuredFront | None]:
    """Chooses a network, or a whole detector where the host is searched too; arguments are those of `select`."""
    chosen_by = select if find_host(runner) is None else select_whole
    return chosen_by(runner, term, choosing, files, stamp)


def supply_decision(session: Session, arch: ArchSpec) -> None:
    """Writes how the network was chosen beside it; of one that was given, nothing is known."""
    decision, file = session.kept.get('decision'), session.files.decision
    if is_main_process():
        if decision is not None and decision.arch == arch:
            write_text(file, decision.format())
        elif not _is_about(file, arch):
            file.unlink(missing_ok=True)
    barrier()


def _is_about(file: Path, arch: ArchSpec) -> bool:
    """Whether a ``decision.json`` tells how this network was chosen."""
    try:
        return Decision.parse(file).arch == arch
    except (ValueError, OSError):
        return False


def _plan(cfg: Config) -> list[str]:
    """Says how the network will be chosen, where that takes time."""
    choosing = Choosing.parse(cfg.optim_wrapper.get('selection'))
    front = choosing.front
    kept = '' if front is None else f'; {front.networks} networks in front.json, each validated on held-out images'
    how = 'argmax of alpha' if choosing.type == 'argmax' else 'losses on held-out images'
    choices = read_choices(cfg)
    said = [] if choices is None else [f'host         {describe_choices(choices)}; limits are of whole detectors']
    if choosing.adapt is not None:
        how += f', then {choosing.adapt.networks} networks adapted for {choosing.adapt.share:.0%} of the whole length'
    return [*said, *([f'selection    {how}{kept}'] if choosing.measures else [])]


GRADIENT = Method(
    'gradient',
    claims=lambda cfg: bool(cfg.get('derived')),
    check=_check,
    settings=_settings,
    find=_find,
    derive=_derive,
    supply=supply_decision,
    report=write_report,
    plan=_plan,
    writes=('search_space', 'search_log', 'decision'),
    keeps_limit=True,
    seeds=('train_cfg.split_seed',),
)
