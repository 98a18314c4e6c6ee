"""Networks of the front that a finished search has measured: one is picked, or several are trained in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from mmnas_ext.archs import METRICS, ArchSpec, Limit
from mmnas_ext.reports import front_table
from mmnas_ext.reports.beside import same_recipe, weights_stamp
from mmnas_ext.reports.training_log import USUAL
from mmnas_ext.runs.changes import Change, find_changes, list_changes
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.dry_run import dry_run
from mmnas_ext.runs.ending import tell_end
from mmnas_ext.runs.host_choices import CHOSEN, has_host
from mmnas_ext.runs.manifest import ADAPT, DERIVE, RATING, SEARCH, Manifest, ResumeError, read_manifest
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.prepared import Prepared
from mmnas_ext.runs.results import last_metrics
from mmnas_ext.runs.run import adapt, draw_page, start_processes
from mmnas_ext.runs.session import Session, continue_run, front_settings, open_session, say, with_choice
from mmnas_ext.runs.sharing import Alone
from mmnas_ext.search.decision import Decision
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.workdir import WorkDir, write_text


@dataclass(frozen=True)
class AdaptPlan:
    """What ``--adapt-all`` will train.

    Args:
        front: The front.
        numbers: Of the networks, in the order in which they are trained.
        resume: Go on with what is there of them.
        manifest: Of the run that searched.
        prepared: What a check has built for the first of them.
        follows: What the weights follow from that they begin with; ``None`` where those are not the search's.
    """

    front: MeasuredFront
    numbers: tuple[int, ...]
    resume: bool
    manifest: Manifest
    prepared: Prepared
    follows: str | None = None

    def state(self, number: int, folder: Path) -> str:
        """How far the training of a network in its folder is: ``'begins'``, ``'goes on'`` or ``'done'``."""
        network = self.front.pick(number)
        try:
            manifest = read_manifest(WorkDir(folder).manifest)
        except ResumeError:  # damaged
            return 'begins'
        part = manifest.parts.get(DERIVE) if manifest else None
        if manifest is None or part is None or _is_outdated(manifest, self.follows):
            return 'begins'
        if (part.notes.get('arch'), part.notes.get('host')) != (network.arch.format('fna'), network.host):
            return 'begins'
        return 'done' if manifest.is_done(ADAPT) else 'goes on'

    def arch(self, number: int) -> ArchSpec:
        """The network of a number."""
        return self.front.pick(number).arch

    def own(self, cfg: Config, number: int) -> Config:
        """The config of the run that trains the network of a number."""
        return _own(cfg, self.front, number)


def check_asked(arch: str | None, search_only: bool, pick: int | None, several: Sequence[int] | None) -> None:
    """Raises ValueError where ways to say what is trained contradict each other.

    Args:
        arch: What ``--arch`` gives.
        search_only: Whether ``--search-only`` is given.
        pick: What ``--pick`` gives.
        several: What ``--adapt-all`` gives.
    """
    ways = {
        '--pick': pick is not None, '--adapt-all': several is not None, '--arch': arch is not None,
        '--search-only': search_only,
    }  # fmt: skip
    given = [way for way, is_given in ways.items() if is_given]
    if len(given) > 1 and given[0] in ('--pick', '--adapt-all'):
        raise ValueError(f'{given[0]} says what is trained, and so does {given[1]}: give one of them')


def pick_network(cfg: Config, number: int) -> str:
    """The network of a number on the front in a work dir, as text that ``--arch`` takes.

    Args:
        cfg: The config, ``work_dir`` set; it is told of the host that belongs to the network.
        number: The number.

    Raises:
        ValueError: The search there is not finished, is one of other settings, or has no network of that number.
    """
    front, manifest = _read_front(cfg, '--pick')
    picked = front.pick(number)
    arch = picked.arch.format('fna')
    if picked.host is not None:
        cfg[CHOSEN] = picked.host
    _check_search(cfg, manifest, front, '--pick')
    return arch


def check_all(cfg: Config, numbers: Sequence[int] = (), resume: bool = False) -> AdaptPlan:
    """Raises one clear error for what would fail later, before anything is set aside or trained.

    Args:
        cfg: The config, ``work_dir`` set.
        numbers: Of the networks of the front in the work dir, in their order; by default all.
        resume: Go on with what is there of them.

    Raises:
        ValueError: The search in the work dir is not finished, is one of other settings, or has no network of a number;
            or what `check_config` raises.
        ResumeError: A network was trained with other settings.
    """
    front, manifest = _read_front(cfg, '--adapt-all')
    wanted = tuple(dict.fromkeys(numbers)) or tuple(range(len(front.points)))
    archs = {number: front.pick(number).arch for number in wanted}
    prepared = check_config(_hosted(cfg, front, wanted[0]), archs[wanted[0]].format('fna'))
    _check_search(cfg, manifest, front, '--adapt-all')
    method, follows = method_of(cfg), _follows(cfg, manifest)
    for number, arch in archs.items():
        own = _own(cfg, front, number)
        method.check(_hosted(cfg, front, number), arch, False)
        known = read_manifest(WorkDir(own.work_dir).manifest) if resume else None
        if known is not None and not _is_outdated(known, follows):
            continue_run(known, own, method, arch)
    return AdaptPlan(front, wanted, resume, manifest, prepared, follows)


def adapt_all(cfg: Config, plan: AdaptPlan, draw: bool = False) -> None:
    """Trains networks of a front in turn, each as a run of its own in ``front/<K>`` of the work dir.

    The search is not repeated, and its run stays as it is. With `AdaptPlan.resume`, what is finished is not trained
    again and what was interrupted goes on. ``front/results.md`` has what the trained ones reached, after each of them.

    Args:
        cfg: The config, ``work_dir`` and ``launcher`` set.
        plan: What is trained.
        draw: Draw figures and page of each.

    Raises:
        ResumeError: A run cannot go on.
    """
    start_processes(cfg)
    method, files = method_of(cfg), WorkDir(cfg.work_dir)
    searched = Session(cfg, method, plan.manifest, prepared=plan.prepared)
    for place, number in enumerate(plan.numbers, start=1):
        own, arch = plan.own(cfg, number), plan.arch(number)
        say(f'network {number} of the front, {place} of {len(plan.numbers)}, in {own.work_dir}')
        there = read_manifest(WorkDir(own.work_dir).manifest) if plan.resume else None
        outdated = there is not None and _is_outdated(there, plan.follows)
        if outdated:
            say('the distillation has gone on since: what was trained from its former weights is set aside')
        with Alone(WorkDir(own.work_dir)) as work:
            work.take_run()
            session = open_session(own, method, there is not None and not outdated, arch, prepared=plan.prepared)
            session.searched = searched
            if plan.follows is not None:
                session.note(DERIVE, follows=plan.follows)
            adapt(session, arch, draw=draw)
        if is_main_process():
            write_text(files.adapted_table, trained_table(files, plan, number) + '\n')
    say(f'{trained_table(files, plan, plan.numbers[-1])}\nwritten to {files.adapted_table}')
    if draw and method.report is not None and is_main_process():
        draw_page(method.report, searched)
    if draw:
        tell_end(_best(cfg, plan, searched))


def _best(cfg: Config, plan: AdaptPlan, searched: Session) -> Session:
    """The run of the network that reached most, or the last one where nothing was validated."""
    front, runs = plan.front, {number: last_metrics(plan.own(cfg, number).work_dir) for number in plan.numbers}
    reached = {name for metrics in runs.values() for name in metrics}
    # a front of losses is of none that a training is validated by
    name = next((each for each in (front.rank_by, *USUAL) if each in reached), '')
    sign = front.sign if name == front.rank_by else 1
    known = {number: sign * metrics[name] for number, metrics in runs.items() if name in metrics}
    best = max(known, key=lambda number: known[number]) if known else plan.numbers[-1]
    own = plan.own(cfg, best)
    manifest = read_manifest(WorkDir(own.work_dir).manifest)
    assert manifest is not None, 'it has just been trained'
    return Session(own, searched.method, manifest)


def trained_table(files: WorkDir, plan: AdaptPlan, like: int) -> str:
    """The table of a front, with what those of its networks reached that were trained to their end, in the same way.

    Args:
        files: Of the run that searched.
        plan: What is trained.
        like: Number of the network whose recipe counts.
    """
    front = plan.front
    folders = {number: files.adapted / str(number) for number in range(len(front.points))}
    done = {number: folder for number, folder in folders.items() if plan.state(number, folder) == 'done'}
    others = [number for number, folder in done.items() if not same_recipe(folder, folders[like])]
    table = front_table(front, {number: last_metrics(done[number]) for number in done if number not in others})
    if not others:
        return table
    return f'{table}\nleft out, trained with another recipe: {", ".join(f"K = {number}" for number in others)}'


def dry_run_all(cfg: Config, plan: AdaptPlan) -> str:
    """Does one step of the first network that is left to train; returns the plan of all as lines of text.

    Args:
        cfg: The config, ``work_dir`` set.
        plan: What would be trained; its models are used up.
    """
    folders = {number: Path(plan.own(cfg, number).work_dir) for number in plan.numbers}
    states = {n: plan.state(n, folder) if plan.resume else 'begins' for n, folder in folders.items()}
    lines = [f'network {number:<4} {states[number]}: {plan.arch(number).format("fna")}' for number in plan.numbers]
    first = next((number for number in plan.numbers if states[number] != 'done'), plan.numbers[0])
    step = dry_run(
        plan.own(cfg, first), plan.prepared, arch=plan.arch(first).format('fna'), resume=states[first] != 'begins'
    )
    return '\n'.join([*lines, f'of network {first}:', step])


def _follows(cfg: Config, manifest: Manifest) -> str | None:
    """What the weights follow from that networks begin with, where those are the search's own: tells two apart."""
    search = manifest.parts.get(SEARCH)
    if search is None or (cfg.get('derived') or {}).get('weights') != 'distilled':
        return None
    return weights_stamp(search.id, search.settings)


def _is_outdated(manifest: Manifest, follows: str | None) -> bool:
    """Whether a run began with weights that the search has replaced since; runs of before it was noted do not say."""
    part = manifest.parts.get(DERIVE)
    known = part.notes.get('follows') if part else None
    return None not in (known, follows) and known != follows


def _own(cfg: Config, front: MeasuredFront, number: int) -> Config:
    """The config of the run that trains one network of a front."""
    own = _hosted(cfg, front, number).copy()
    own.work_dir = str(WorkDir(cfg.work_dir).adapted / str(number))
    return own


def _hosted(cfg: Config, front: MeasuredFront, number: int) -> Config:
    """The config, told of the host that belongs to a network of a front."""
    return with_choice(cfg, front.pick(number).host)


def take_host(cfg: Config, arch: str | None) -> None:
    """Takes with a network that ``--arch`` gives the host that it was chosen with, where a decision beside it says so.

    Args:
        cfg: The config; its ``host_choice`` is set.
        arch: What ``--arch`` says.
    """
    if (host := host_beside(cfg, arch)) is not None:
        cfg[CHOSEN] = host
        say(f'the host of this network is {host}, as {decision_beside(str(arch))} says')


def host_beside(cfg: Config, arch: str | None) -> str | None:
    """The host that a network which ``--arch`` gives was chosen with; ``None`` where the config says it, or nothing."""
    if arch is None or not has_host(cfg) or cfg.get(CHOSEN) is not None or not Path(arch).name.endswith('.json'):
        return None
    file = decision_beside(arch)
    decision = Decision.parse(file) if file.is_file() else None
    if decision is None or decision.host is None or decision.arch != ArchSpec.parse(arch):
        return None
    return decision.host.choice


def decision_beside(arch: str) -> Path:
    """Where the decision of a network's file is."""
    return Path(arch).with_name(WorkDir(Path()).decision.name)


def _read_front(cfg: Config, asked: str) -> tuple[MeasuredFront, Manifest]:
    """The front in a work dir and the manifest of the run that searched it."""
    files = WorkDir(cfg.work_dir)
    if not cfg.get('derived'):
        raise ValueError(f'{asked} needs a config with derived=dict(…); this one is just trained')
    manifest = read_manifest(files.manifest)
    parts = [manifest.parts[name] for name in (SEARCH, RATING) if name in manifest.parts] if manifest else []
    if manifest is None or not parts or not all(part.done for part in parts):
        state = 'no run' if manifest is None else f'a run that is {manifest.state!r}'
        raise ValueError(f'{asked} needs a work dir whose search is finished, got {state} in {files.root}')
    front = MeasuredFront.find(files.root)
    if front is None:
        raise ValueError(
            f'{asked} needs a front of measured networks, and {files.root} has no front.json with any: choose by '
            "selection=dict(type='measured'), by evolution, or train a network by --arch"
        )
    return front, manifest


def _check_search(cfg: Config, manifest: Manifest, front: MeasuredFront, asked: str) -> None:
    """Raises ResumeError where a config is not that of the search in its work dir, or of its front."""
    method = method_of(cfg)
    settings = method.settings(cfg)
    kept, said = continue_run(manifest.without(ADAPT), cfg, method, None, settings=settings)
    # a network that was given stays the run's: --resume alone would choose none
    way = 'go on with --resume --search-only first' if manifest.is_given else 'go on with --resume alone first'
    again = [name for name in (SEARCH, RATING) if name in kept.parts and not kept.parts[name].done]
    if again:
        why = next((line.removeprefix(f'{again[0]}: ') for line in said if line.startswith(f'{again[0]}: ')), '')
        raise ResumeError(
            f'{asked} takes the front that is there, and this config does the {again[0]} again ({why}): {way}'
        )
    if other := _measured_otherwise(manifest, settings.choice):
        raise ResumeError(
            f'{asked} takes the front that is there, which was measured with other settings ({list_changes(other)}): '
            f'{way}'
        )
    if not method.keeps_limit:
        return
    given = {metric: Limit(**each) for metric, each in settings.report['limits'].items()}
    former, wanted = (
        {metric: limit for metric, limit in limits.items() if limit != Limit()} for limits in (front.limits, given)
    )
    if former != wanted:
        raise ResumeError(
            f'{asked} takes the front that is there, which was measured within {_show(former)}, and this config asks '
            f'for {_show(wanted)}: {way}'
        )


def _measured_otherwise(manifest: Manifest, choice: Mapping[str, Any]) -> list[Change]:
    """What has changed, beside limits, of how the networks of a front are found and how many there are."""
    rated, chosen = (manifest.parts.get(name) for name in (RATING, DERIVE))
    if rated is not None and 'front' in rated.notes:
        known = rated.notes['front']
    elif chosen is not None and not manifest.is_given:  # a run of before it was noted
        known = front_settings(chosen.settings)
    else:
        return []
    harmless, refused = find_changes(known, front_settings(choice))
    return [*harmless, *refused]


def _show(limits: Mapping[str, Limit]) -> str:
    return ', '.join(limit.show(METRICS[metric]) for metric, limit in limits.items()) or 'no limit'
