"""What a run was, as its files say: its method, the input size that its costs are for, its limits and its seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from mmnas_ext.archs import INPUT_SIZE, METRICS, ArchSpec
from mmnas_ext.archs.literal import call_at
from mmnas_ext.reports.distill_log import find_logs, has_losses
from mmnas_ext.reports.table import format_size
from mmnas_ext.search.fields import check_kind, check_list_of, read_object, read_size, take
from mmnas_ext.workdir import WorkDir


class Length(NamedTuple):
    """How long a part is, and in what: ``'epoch'`` or ``'iteration'``."""

    total: int
    unit: str


@dataclass(frozen=True)
class Facts:
    """What the report of a run starts from.

    Args:
        method: ``'gradient'``, ``'random'``, ``'distillation'``, ``'plain'``, or what a later method is called.
        input_size: Height and width that costs are given for.
        output_stride: Of the backbone.
        assumed: Whether no file says the size: it is a default then.
        metric: What the search limits or weighs.
        limits: By metric, the least and the most that a network may cost.
        seed: Network that the search started from.
        rank_by: Metric that ranks trials; by `rule` a ``'greater'`` or a ``'less'`` one is better.
        state: How far the run is, as ``run.json`` says; empty where there is none.
        given: Whether the network was given, by ``--arch`` or ``--pick``, not chosen by the search.
        chosen: Whether ``run.json`` says that the search chose it.
        lengths: By part, ``'search'`` and ``'adapt'``, epochs or iterations that it has in all.
        commands: Command lines that the run was started with, the first one first.
        versions: Of the libraries that it was begun with.
    """

    method: str
    input_size: tuple[int, int]
    output_stride: int
    assumed: bool = False
    metric: str | None = None
    limits: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    seed: ArchSpec | None = None
    rank_by: str | None = None
    rule: str = 'greater'
    state: str = ''
    given: bool = False
    chosen: bool = False
    lengths: Mapping[str, 'Length'] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def with_seed(self, seed: ArchSpec | None) -> 'Facts':
        """The facts with another seed, if one is given."""
        return self if seed is None else replace(self, seed=seed)

    @property
    def size_note(self) -> str:
        """The size that multiply-adds are given for, in words."""
        note = f'MAdds at {format_size(self.input_size)}'
        return f'{note}, a default: no file of the work dir says the input size' if self.assumed else note


def read_facts(
    work_dir: str | Path, input_size: tuple[int, int] | None = None, output_stride: int | None = None
) -> Facts:
    """Reads what a run was from ``run.json``; without one, from what other files of the work dir say.

    An input size or output stride that is given counts, whatever the run used.

    Raises:
        FileNotFoundError: There is no work dir.
        ValueError: A file is not of its form.
    """
    files = WorkDir(Path(work_dir))
    if not files.root.is_dir():
        raise FileNotFoundError(f'no work dir at {files.root}')
    where = f'{files.manifest}: report'
    manifest = read_object(files.manifest) if files.manifest.is_file() else {}
    said = {key: x for key, x in check_kind(manifest.get('report', {}), dict, where).items() if x is not None}
    size = read_size(said, 'input_size', where) if 'input_size' in said else read_results(files.root).get('input_size')
    stride = take(said, 'output_stride', int, where) if 'output_stride' in said else 32
    texts = {key: take(said, key, str, where) for key in ('metric', 'method', 'rank_by') if key in said}
    rule = said.get('rule', 'greater')
    if rule not in ('greater', 'less'):
        raise ValueError(f"{where}: rule must be 'greater' or 'less', got {rule!r}")
    return Facts(
        method=texts.get('method') or find_method(files),
        input_size=input_size or size or INPUT_SIZE,
        output_stride=output_stride or stride,
        assumed=not (input_size or size),
        metric=texts.get('metric'),
        limits=_limits(said, where),
        seed=call_at(f'{where}: seed', ArchSpec.parse, take(said, 'seed', str, where)) if 'seed' in said else None,
        rank_by=texts.get('rank_by'),
        rule=rule,
        **_progress(manifest, said, str(files.manifest)),
    )


def _progress(manifest: Mapping[str, Any], said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What ``run.json`` says of how far the run is, how it was started and with what."""
    parts = check_kind(manifest.get('parts', {}), dict, f'{where}: parts')
    lengths, notes = {}, {}
    for name, part in parts.items():
        settings = check_kind(check_kind(part, dict, f'{where}: {name}').get('settings', {}), dict, f'{where}: {name}')
        notes[name] = check_kind(part.get('notes', {}), dict, f'{where}: {name}: notes')
        for key, unit in (('train_cfg.max_epochs', 'epoch'), ('train_cfg.max_iters', 'iteration')):
            if isinstance(settings.get(key), int):
                lengths[name] = Length(settings[key], unit)
    origin = notes.get('derive', {}).get('origin')
    versions = check_kind(manifest.get('versions', {}), dict, f'{where}: versions')
    commands = check_list_of(said.get('commands', []), str, f'{where}: report: commands')
    return {
        'state': check_kind(manifest.get('state', ''), str, f'{where}: state'),
        'given': origin == 'given',
        'chosen': origin not in (None, 'given'),
        'lengths': lengths,
        'commands': commands,
        'versions': {name: str(version) for name, version in versions.items()},
    }


def find_method(files: WorkDir) -> str:
    """Tells the method by the files that a run has left."""
    if files.ratings.is_file():
        return 'distillation'
    if files.trials.is_dir():
        return 'random'
    if any(file.is_file() for file in (files.search_log, files.search_space, files.arch)):
        return 'gradient'
    known = (files.front, files.features, files.rank)
    if has_losses(files.root) or any(file.is_file() for file in known):
        return 'distillation'
    return 'plain' if find_logs(files.root) else 'unknown'


def read_results(work_dir: str | Path) -> dict[str, Any]:
    """Reads ``results.json``: ``rows`` and perhaps ``input_size``; empty where there is no such file.

    Raises:
        ValueError: The file is not of this form.
    """
    path = WorkDir(Path(work_dir)).results
    if not path.is_file():
        return {}
    results = read_object(path)
    take(results, 'rows', list, str(path))
    if results.get('input_size') is not None:
        results['input_size'] = read_size(results, 'input_size', str(path))
    return results


def _limits(said: Mapping[str, Any], where: str) -> dict[str, tuple[float | None, float | None]]:
    given = take(said, 'limits', dict, where) if 'limits' in said else {}
    if not set(given) <= set(METRICS):
        raise ValueError(f'{where}: limits must be by metric, {tuple(METRICS)}, got {[*given]}')
    limits = {}
    for metric in given:
        what, ends = f'{where}: limits: {metric}', take(given, metric, dict, f'{where}: limits')
        low, high = (end and float(check_kind(end, float, what)) for end in (ends.get('min'), ends.get('max')))
        limits[metric] = (low, high)
    return limits
