"""From a finished search by gradients another network: by other limits, or chosen in another way; the run stays."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process

from mmnas_ext.archs import METRICS, Limit
from mmnas_ext.engine.limits import CostTerm
from mmnas_ext.engine.loops import switch_transforms
from mmnas_ext.registry import name_of
from mmnas_ext.reports import draw_measured, front_table
from mmnas_ext.runs.changes import LONGER, find_changes, list_changes
from mmnas_ext.runs.checkpoints import find_checkpoint, read_places
from mmnas_ext.runs.ending import tell_choice
from mmnas_ext.runs.gradient import (
    GRADIENT,
    LIMITS,
    check_chosen,
    check_loop,
    check_reach,
    choose_network,
    read_space,
    stamp_of,
)
from mmnas_ext.runs.host_choices import search_config
from mmnas_ext.runs.last_rung import check_adapting
from mmnas_ext.runs.later import quiet
from mmnas_ext.runs.manifest import SEARCH, ResumeError, read_manifest
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.session import begun_otherwise, say
from mmnas_ext.runs.training import open_runner
from mmnas_ext.search.choosing import Choosing
from mmnas_ext.workdir import WorkDir, write_text


def select_again(cfg: Config, folder: Path, kind: str | None = None, limits: Mapping[str, Limit] | None = None) -> None:
    """Chooses from the super-network of a finished search by other limits, or in another way; the run stays as it is.

    Args:
        cfg: Config of the search, ``work_dir`` and ``launcher`` set.
        folder: Where ``arch.json``, ``decision.json`` and, if it is measured, ``front.json`` go.
        kind: How to choose, see `Choosing`; by default as the config says.
        limits: Of one metric; by default the config's.

    Raises:
        ValueError: The config is of no search by gradients, or the limits are of several metrics or out of reach.
        ResumeError: The work dir has no finished search of this config, or no checkpoint of it.
    """
    if method_of(cfg) is not GRADIENT:
        raise ValueError('a network is selected from a search by gradients, and this config describes none')
    check_chosen(cfg)
    if folder.resolve() == Path(cfg.work_dir).resolve():
        raise ValueError(f'--out must be another folder than the work dir, whose run stays as it is, got {folder}')
    term, choosing = _asked(cfg, kind, limits or {})
    space = read_space(cfg)
    check_adapting(cfg, choosing.adapt, space)
    with quiet(logging.WARNING):  # the choice itself gives its warnings
        check_reach(cfg, term, space)
    files = WorkDir(cfg.work_dir)
    with open_searched(cfg) as (runner, stamp):
        decision, front = choose_network(runner, term, choosing, files, stamp)
    if is_main_process():
        for former in (folder / files.front.name, folder / files.front_figure.name):
            former.unlink(missing_ok=True)
        if front is not None:
            say(front_table(front))
            write_text(folder / files.front.name, front.format())
            draw_measured(front, folder / files.front_figure.name)
        write_text(folder / files.arch.name, decision.arch.format('json'))
        write_text(folder / files.decision.name, decision.format())
        say(f'how it was chosen: {folder / files.decision.name}')
        tell_choice(cfg, decision, folder / files.arch.name)
    barrier()


@contextmanager
def open_searched(cfg: Config) -> Iterator[tuple[Any, str]]:
    """Opens the super-network of a finished search: its runner, checkpoint loaded, and the stamp of what it measures.

    Args:
        cfg: Config of the search, ``work_dir`` and ``launcher`` set.

    Raises:
        ResumeError: The work dir has no finished search of this config, or no checkpoint of it.
    """
    files = WorkDir(cfg.work_dir)
    manifest = read_manifest(files.manifest)
    if manifest is None or not manifest.is_done(SEARCH):
        raise ResumeError(f'{files.root} holds no finished search: run mmnas train --search-only first')
    part = manifest.parts[SEARCH]
    harmless, changed = find_changes(part.settings, GRADIENT.settings(cfg).search)
    if changed:
        raise ResumeError(f'{begun_otherwise(cfg, SEARCH, changed)}: choose with those, by the config or --cfg-options')
    if other := [change for change in harmless if change.key in LONGER]:
        raise ResumeError(
            f'the search in {files.root} is done, and this config asks for another length ({list_changes(other)}): '
            'train it first by mmnas train --resume, or choose with the length that it had'
        )
    loading = search_config(cfg).copy()
    averaged = [hook for hook in loading.get('custom_hooks') or [] if name_of(hook).endswith('EMAHook')]
    if averaged:
        raise ValueError(
            f'custom_hooks: weights that {name_of(averaged[0])} averages cannot be chosen from afterwards; choose by '
            'mmnas train --resume, with the limits and the selection in the config'
        )
    found = find_checkpoint(read_places(part.notes.get('checkpoints', []), files.root), part.id)
    if found.path is None:
        raise ResumeError(f'no whole checkpoint of the search is left in {files.root}: nothing can be chosen from')
    for line in found.unusable():
        say(f'warning: {line}; chosen from {found.path} instead')
    loading.load_from = str(found.path)
    with open_runner(loading) as runner:
        runner.load_or_resume()
        switch_transforms(runner)
        yield runner, stamp_of(manifest, found.iteration)


def _asked(cfg: Config, kind: str | None, limits: Mapping[str, Limit]) -> tuple[CostTerm, Choosing]:
    """What a choice may cost and how it is made: the config's, changed by what is asked for."""
    given = Choosing.parse(cfg.optim_wrapper.get('selection'))
    choosing = given if kind in (None, given.type) else Choosing(str(kind), front=given.front)
    check_loop(search_config(cfg).train_cfg, choosing.type == 'argmax')
    cost = dict(cfg.optim_wrapper.get('cost') or {})
    if len(limits) > 1:
        raise ValueError(f'a network is selected by limits of one metric, got {sorted(limits)}')
    for metric, limit in limits.items():
        if metric == cost.get('metric', 'macs'):  # the bound that is not given stays
            known = CostTerm.parse(cost).limit
            both = Limit(*(old if new is None else new for old, new in zip(known, limit, strict=True)))
            try:
                limit = Limit.parse(both, metric)
            except ValueError as error:
                raise ValueError(f"{error}; the config's own limit is {known.show(METRICS[metric])}") from None
        elif (former := CostTerm.parse(cost)).limit != Limit():
            say(f"the config's limit of {former.limit.show(former.by)} is left: what is given takes its place")
        kept = {key: value for key, value in cost.items() if key not in (*LIMITS, 'metric')}
        table = kept.pop('table', None)
        cost = {**kept, **({'table': table} if METRICS[metric].measured else {}), 'metric': metric, **limit._asdict()}
    return CostTerm.parse(cost), choosing
