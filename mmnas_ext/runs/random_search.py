"""Random search with remapping, the strong baseline of FNA (ICLR 2020, section 4.4).

Networks are drawn from the search space within a cost limit. The seed is remapped onto each and adapted briefly, and
the one that validates best is kept. Files: ``trials/<nn>/`` for each (``config.py``, ``arch.json``, MMEngine's logs,
``result.json`` once it has ended) and ``trials.md``, the table of all.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.logging import print_log

from mmnas_ext.archs import ArchSpec, Limit, cost
from mmnas_ext.reports import write_report
from mmnas_ext.runs.brief import adapt_briefly, drop_weights
from mmnas_ext.runs.changes import flatten, settings_of
from mmnas_ext.runs.checkpoints import nest_checkpoints
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.gradient import configs_to_check, describe_backbone, read_space
from mmnas_ext.runs.manifest import SEARCH, NoNetworkError, ResumeError
from mmnas_ext.runs.method import Method, Settings
from mmnas_ext.runs.session import Session, say
from mmnas_ext.runs.sharing import Alone, LostTrialError, place_of
from mmnas_ext.runs.trials import Trial, TrialPlan, describe, rank_trials, table_is_due, trials_table
from mmnas_ext.workdir import write_text

KEY = 'random_search'
_RESULT_NAME = 'result.json'


def random_search(session: Session) -> ArchSpec | None:
    """Tries the networks that a config's ``random_search`` draws, and returns the best.

    What has ended is not tried again and an interrupted trial goes on from its newest checkpoint. A larger ``count``
    tries more; of a smaller one, the first results are ranked. Where several processes share the trials, each makes
    those that nobody is at.

    Args:
        session: The run.

    Returns:
        The best; ``None`` where another process ranks the trials and goes on.

    Raises:
        ValueError: The settings are out of range; ``rank_by`` is no metric of the validation.
        NoNetworkError: All trials failed.
    """
    plan = TrialPlan.of(session.cfg)
    plan.check()
    work = session.work = session.work or Alone(session.files)
    work.session = session
    work.begin()
    trials: dict[int, Trial] = {}
    while len(trials) < len(plan.drawn):
        for index in sorted({*work.ended()} & {*range(len(plan.drawn))} - trials.keys()):
            trials[index] = _read_result(place_of(session.files, index), plan.drawn[index][0])
            drop_weights(_trial_config(plan, index, session), plan.settings.keep_checkpoints)
            _tell(trials, plan, session)
        left = [index for index in range(len(plan.drawn)) if index not in trials]
        chosen = work.take(left) if left else None
        if chosen is not None and (trial := _make(plan, chosen, session)) is not None:
            trials[chosen] = trial
            _tell(trials, plan, session)
    if not work.lead():
        return None
    best = _best([trials[index] for index in sorted(trials)], plan)
    session.finish(SEARCH)
    return best


def _make(plan: TrialPlan, index: int, session: Session) -> Trial | None:
    """Makes a trial and writes down what it gave; ``None`` where another process has it by now."""
    work, (arch, price) = _work(session), plan.drawn[index]
    cfg, part = _trial_config(plan, index, session), session.manifest.parts[SEARCH]
    say(describe(arch, plan, index, price))
    try:
        trial = _try(plan, index, arch, price, cfg, f'{part.id}/{index:02d}', session)
    except LostTrialError:
        trial = None
    if trial is None or not work.note(index, Path(cfg.work_dir, _RESULT_NAME), trial.format()):
        say(f'trial {index + 1}: this process was taken for dead, and another one makes it now')
        return None
    drop_weights(cfg, plan.settings.keep_checkpoints)
    work.give_back(index)
    return trial


def _tell(trials: Mapping[int, Trial], plan: TrialPlan, session: Session) -> None:
    """Writes the table of the trials that have ended, and says how many are left.

    Raises:
        ResumeError: Their validations do not give the metric that ranks.
    """
    work, known = _work(session), [trials[index] for index in sorted(trials)]
    if is_main_process() and table_is_due(len(known), plan.settings.count):
        write_text(session.files.trials_table, trials_table(known, plan) + '\n', work.leases.token)
    _check_metric(known, plan)
    if left := plan.settings.count - len(known):
        spent = timedelta(seconds=round(left * sum(trial.seconds for trial in known) / len(known)))
        say(f'{left} of {plan.settings.count} trials are left, about {spent}{work.pace}')


def _work(session: Session) -> Alone:
    assert session.work is not None
    return session.work


def _read_result(place: Path, arch: ArchSpec) -> Trial:
    """Reads the result of a trial that has ended, the same on all ranks.

    Raises:
        ResumeError: It is gone, damaged, or another network's.
    """
    read: list[Any] = [None]
    if is_main_process():
        with suppress(OSError, UnicodeDecodeError):  # all ranks say so together
            read = [(place / _RESULT_NAME).read_text(encoding='utf-8')]
    broadcast_object_list(read)
    try:
        trial = Trial.parse(read[0])
    except ValueError as error:
        raise ResumeError(f'{place / _RESULT_NAME} is {error}; restore it, or start without --resume') from None
    if trial.arch != arch.format('fna'):
        raise ResumeError(
            f'{place} holds the trial of {trial.arch}, drawn is {arch.format("fna")}: take another --work-dir'
        )
    return trial


def _trial_config(plan: TrialPlan, index: int, session: Session) -> Config:
    """The config of a trial in its place; checkpoints elsewhere get a folder of this run's."""
    cfg, place = plan.trial_config(plan.drawn[index][0]), place_of(session.files, index)
    cfg.work_dir, cfg.launcher = str(place), plan.cfg.get('launcher', 'none')
    nest_checkpoints(cfg, f'{place.parents[1].name}/{place.parent.name}')
    return cfg


def _try(plan: TrialPlan, index: int, arch: ArchSpec, price: float, cfg: Config, part: str, session: Session) -> Trial:
    """Adapts one network briefly and validates it."""
    if is_main_process():
        write_text(Path(cfg.work_dir, 'arch.json'), arch.format('json'))
        write_text(Path(cfg.work_dir, 'config.py'), plan.trial_config(arch).pretty_text)
    found = adapt_briefly(cfg, part, f'trial {index:02d}', session.prepared, lost=_work(session).lost)
    macs, params = cost(arch, plan.size, plan.output_stride)
    return Trial(index=index, arch=arch.format('fna'), macs=macs, params=params, cost=price, **found._asdict())


def _check_metric(trials: list[Trial], plan: TrialPlan) -> None:
    """Raises ValueError where validations give metrics, but never the one that ranks."""
    if any(plan.settings.rank_by in trial.metrics for trial in trials):
        return
    names = sorted({name for trial in trials for name in trial.metrics})
    if names:
        raise ResumeError(
            f'random_search.rank_by must be one of {names}, which the validation gives, got '
            f'{plan.settings.rank_by!r}: say it right and go on with --resume'
        )


def _best(trials: list[Trial], plan: TrialPlan) -> ArchSpec:
    rank_by = plan.settings.rank_by
    best = rank_trials(trials, rank_by, plan.settings.rule)[0]
    say(trials_table(trials, plan))
    if best.why_failed(rank_by):
        reasons = sorted({trial.why_failed(rank_by) for trial in trials})
        raise NoNetworkError(f'all {len(trials)} trials failed: {"; ".join(reasons)}')
    say(f'best: trial {best.index:02d}, {best.arch}')
    return ArchSpec.parse(best.arch).replace(bn_eps=best.bn_eps)


def _check(cfg: Config, arch: ArchSpec | None, search_only: bool) -> list[Config]:
    space = read_space(cfg)
    plan = TrialPlan.of(cfg)
    plan.check()
    limit = Limit(plan.settings.limit.get('min'), plan.settings.limit.get('max'))
    for sentence in limit.slack(plan.prices.by, plan.prices.range(), 'random_search.limit'):
        print_log(sentence, logger='current', level=logging.WARNING)
    return configs_to_check(cfg, plan.trial_config(plan.drawn[0][0]), space, arch, search_only)


def _settings(cfg: Config) -> Settings:
    plan = TrialPlan.of(cfg)
    wanted = plan.settings
    trial = settings_of(plan.trial_config(plan.drawn[0][0]), 'train_dataloader', 'val_dataloader')
    limit = wanted.limit
    return Settings(
        search={
            **flatten({'seed': wanted.seed, 'limit': dict(limit), 'space': plan.space.format()}, 'random_search'),
            **flatten({'input_size': plan.size, 'output_stride': plan.output_stride}, 'random_search'),
            'random_search.processes': get_world_size(),
            # results of trials that were trained or validated otherwise would not compare
            **{
                f'random_search.trial.{key}': v for key, v in trial.items() if not key.startswith('model.backbone.arch')
            },
        },
        choice=flatten({'count': wanted.count, 'rank_by': wanted.rank_by, 'rule': wanted.rule}, 'choice'),
        report={
            'method': 'random',
            **describe_backbone(cfg),
            'metric': plan.prices.metric,
            'limits': {plan.prices.metric: {'min': limit.get('min'), 'max': limit.get('max')}},
            'rank_by': wanted.rank_by,
            'rule': wanted.rule,
        },
    )


def _plan(cfg: Config) -> list[str]:
    plan = TrialPlan.of(cfg)
    limit = Limit(plan.settings.limit.get('min'), plan.settings.limit.get('max'))
    costs = [cost for _, cost in plan.drawn]
    return [
        f'space        {plan.space.size:.3g} networks, {plan.prices.show(*plan.prices.range())}',
        f'limit        {limit.show(plan.prices.by) if limit != Limit() else "none"}',
        f'trials       {plan.settings.count} networks of {plan.prices.show(min(costs), max(costs))}, '
        f'ranked by {plan.settings.rank_by}',
    ]


RANDOM_SEARCH = Method(
    'random',
    claims=lambda cfg: bool(cfg.get('derived')) and cfg.get(KEY) is not None,
    check=_check,
    settings=_settings,
    find=random_search,
    derive=partial(derived_config, own_key=KEY),
    report=write_report,
    plan=_plan,
    writes=('trials', 'trials_table'),
    shares=True,
    seeds=('train_cfg.split_seed', 'random_search.seed'),
    first='trial',
)
