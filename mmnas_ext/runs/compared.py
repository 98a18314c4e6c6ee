"""What the rows of a comparison came to: costs, metrics, minutes, and paired differences, as values and text."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import get_type_hints

from mmnas_ext.archs import INPUT_SIZE, OUTPUT_STRIDE, ArchSpec, HostChoice, cost
from mmnas_ext.archs.json_file import parse_json
from mmnas_ext.reports import format_count
from mmnas_ext.reports.training_log import USUAL, main_metric
from mmnas_ext.runs.brief import keep_numbers
from mmnas_ext.runs.children import CLOCK, PARTS, Clock
from mmnas_ext.runs.keys import describe_hint, fits
from mmnas_ext.runs.manifest import DERIVE, read_manifest
from mmnas_ext.runs.repeated import trained_in
from mmnas_ext.runs.results import last_metrics
from mmnas_ext.runs.rows import SEED, Comparison, Row
from mmnas_ext.search.fields import read_object
from mmnas_ext.search.statistics import Paired, deviation, paired
from mmnas_ext.workdir import WorkDir

NAME = 'comparison.json'
VERSION = 1
_FRACTIONS = ('coco/', 'pascal_voc/')  # shown in percent, as the others are
_DASH = '\N{EN DASH}'
_LISTED = 3  # distinct costs of a row that a table lists; of more it gives the range


@dataclass(frozen=True)
class Outcome:
    """What a row came to with one random seed.

    Args:
        seed: The random seed.
        arch: The network, as FNA text.
        macs: Its multiply-adds for one image, at the size that its search counts them for, or has chosen.
        params: Parameters of the backbone.
        metrics: Of the last validation, by name; ``None`` for what is NaN or infinite.
        seconds: Processor seconds by part, ``'search'``, ``'selection'`` and ``'adapt'``, as far as they are known.
    """

    seed: int
    arch: str
    macs: int
    params: int
    metrics: dict[str, float | None]
    seconds: dict[str, float]

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if not fits(getattr(self, name), hint):
                raise TypeError(f'{name} must be {describe_hint(hint)}, got {getattr(self, name)!r:.60}')


@dataclass(frozen=True)
class RowResult:
    """What a row came to.

    Args:
        name: Its name.
        title: Its title.
        outcomes: By random seed, those that have ended.
    """

    name: str
    title: str
    outcomes: tuple[Outcome, ...]

    def values(self, metric: str) -> dict[int, float]:
        """A metric by random seed, where there is one."""
        found = {outcome.seed: outcome.metrics.get(metric) for outcome in self.outcomes}
        return {seed: value for seed, value in found.items() if value is not None}


@dataclass(frozen=True)
class LeftOut:
    """A row that has ended with a random seed, and is in no table: its figure is not one of the others' settings.

    Args:
        name: Of the row.
        seed: The random seed.
        why: What is another now.
    """

    name: str
    seed: int
    why: str

    def __str__(self) -> str:
        return f'left out: seed {self.seed}, {self.name}: {self.why}'


@dataclass(frozen=True)
class Results:
    """What a comparison came to.

    Args:
        metric: The compared metric, as MMEngine names it.
        baseline: Name of the row that others are held against.
        rows: The rows of which anything has ended.
        left_out: What of them has ended under other settings than those of now.
    """

    metric: str
    baseline: str
    rows: tuple[RowResult, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def scale(self) -> float:
        """By what the metric is multiplied to be shown in percent."""
        return 100.0 if self.metric.startswith(_FRACTIONS) else 1.0

    @property
    def label(self) -> str:
        """The metric in a table's head."""
        return self.metric.rpartition('/')[2].removeprefix('bbox_')

    def values(self, name: str) -> dict[int, float]:
        """The metric of a row as it is shown, by random seed."""
        found = next((row.values(self.metric) for row in self.rows if row.name == name), {})
        return {seed: self.scale * value for seed, value in found.items()}

    def differences(self, name: str) -> dict[int, float]:
        """A row's metric minus the baseline's, by random seed, where both are there."""
        own, base = self.values(name), self.values(self.baseline)
        return {seed: own[seed] - base[seed] for seed in own if seed in base}

    def paired(self) -> dict[str, Paired]:
        """The mean paired difference of every other row that has a pair."""
        found = {row.name: list(self.differences(row.name).values()) for row in self.rows if row.name != self.baseline}
        return {name: paired(values) for name, values in found.items() if values}

    def format(self) -> str:
        """As JSON text; `parse` reads it back. What follows from the outcomes is added for other readers."""
        content = {'version': VERSION, **asdict(self), 'paired': {n: asdict(v) for n, v in self.paired().items()}}
        return json.dumps(content, indent=1) + '\n'

    @classmethod
    def parse(cls, text: str) -> 'Results':
        """Reads what `format` wrote.

        Raises:
            ValueError: The text is something else; says what.
        """
        content = parse_json(text)
        if not isinstance(content, dict) or content.get('version') != VERSION:
            raise ValueError(f'the text must be an object of version {VERSION}, got {text[:60]!r}')
        try:
            rows = tuple(
                RowResult(row['name'], row['title'], tuple(Outcome(**outcome) for outcome in row['outcomes']))
                for row in content['rows']
            )
            left_out = tuple(LeftOut(**each) for each in content.get('left_out', ()))
            return cls(content['metric'], content['baseline'], rows, left_out)
        except (KeyError, TypeError) as error:
            raise ValueError(f'a field is missing or unknown, or of another type: {error}') from None

    def table(self) -> str:
        """Rows with metric, costs and minutes, as Markdown."""
        parts = {'search': 'search', 'selection': 'selection', 'adapt': 'adaptation'}
        head = ['network', 'seeds', self.label, 'multiply-adds', 'parameters']
        lines = [[*head, *(f'{title}, CPU minutes' for title in parts.values())]]
        for row in self.rows:
            minutes = [[o.seconds[part] / 60 for o in row.outcomes if part in o.seconds] for part in parts]
            lines.append(
                [
                    row.title,
                    _share(len(self.values(row.name)), len(row.outcomes)),
                    _spread(list(self.values(row.name).values()), '.2f'),
                    _counts(row, lambda outcome: outcome.macs),
                    _counts(row, lambda outcome: outcome.params),
                    *(_spread(values, '.1f') for values in minutes),
                ]
            )
        return _markdown(lines)

    def pairs(self) -> str:
        """The metric by random seed, with its difference to the baseline's, and the mean of these, as Markdown."""
        seeds = sorted({outcome.seed for row in self.rows for outcome in row.outcomes})
        lines = [['random seed', *(row.title for row in self.rows)]]
        lines += [[str(seed), *(self._pair(row.name, seed) for row in self.rows)] for seed in seeds]
        found = self.paired()
        lines.append(['mean difference', *(_mean(found.get(row.name)) for row in self.rows)])
        return _markdown(lines)

    def _pair(self, name: str, seed: int) -> str:
        value, difference = self.values(name).get(seed), self.differences(name).get(seed)
        if value is None:
            return _DASH
        return f'{value:.2f}' if name == self.baseline or difference is None else f'{value:.2f} ({difference:+.2f})'

    def show(self) -> str:
        """Both tables, and what the second one's figures are."""
        note = f'In brackets: minus {self.baseline} of the same random seed; below, the mean of these with its 95 % '
        text = f"{self.table()}\n\n{self.pairs()}\n\n{note}interval, by Student's t over the n random seeds."
        return '\n\n'.join([text, *map(str, self.left_out)])


def read_results(
    comparison: Comparison,
    metric: str | None = None,
    baseline: str | None = None,
    why_other: Callable[[Row, int], str] | None = None,
) -> Results:
    """Reads what has ended of a comparison.

    Args:
        comparison: The comparison.
        metric: The metric; by default the first of `USUAL` that a validation gave, or else the first at all.
        baseline: Row that others are held against; by default ``seed``, or else the first.
        why_other: Of a row and random seed, why what has ended is left out, as `RowStates.why_other`; empty of what is
            not. By default all counts, under whichever settings it has ended.

    Raises:
        ValueError: `metric` is none that a validation gave, or `baseline` names no row that is trained.
    """
    trained = [row for row in comparison.rows if row.train]
    names = [row.name for row in trained]
    if baseline is not None and baseline not in names:
        raise ValueError(f'--baseline must be among {names}, got {baseline!r}')
    found, left_out = [], []
    for row in trained:
        outcomes = []
        for seed in comparison.seeds:
            try:
                outcome = read_outcome(comparison, row, seed)
            except ValueError as error:  # damaged: the other rows are not
                left_out.append(LeftOut(row.name, seed, str(error)))
                continue
            if outcome is not None and why_other is not None and (why := why_other(row, seed)):
                left_out.append(LeftOut(row.name, seed, why))
            elif outcome is not None:
                outcomes.append(outcome)
        if outcomes:
            found.append(RowResult(row.name, row.title, tuple(outcomes)))
    given = list(dict.fromkeys(name for row in found for outcome in row.outcomes for name in outcome.metrics))
    if metric is not None and given and metric not in given:
        raise ValueError(f'--metric must be one that the validations gave, {given}, got {metric!r}')
    return Results(
        metric or main_metric(given) or USUAL[0],
        baseline or (SEED if SEED in names or not names else names[0]),
        tuple(found),
        tuple(left_out),
    )


def read_outcome(comparison: Comparison, row: Row, seed: int) -> Outcome | None:
    """What a row came to with a random seed; ``None`` while it has not ended.

    Raises:
        ValueError: A file of it is damaged.
    """
    own = WorkDir(comparison.folder(row, seed))
    files = WorkDir(trained_in(comparison, row, seed))
    manifest = read_manifest(files.manifest)
    if manifest is None or manifest.state != 'done' or not files.arch.is_file():
        return None
    arch = ArchSpec.parse(files.arch)
    host = manifest.parts[DERIVE].notes.get('host') if DERIVE in manifest.parts else None
    size = HostChoice.parse(host).input_size if host else manifest.report.get('input_size', INPUT_SIZE)
    macs, params = cost(arch, tuple(size), manifest.report.get('output_stride', OUTPUT_STRIDE))
    metrics = {
        name: None if value is not None and name.startswith('coco/') and value < 0 else value  # of no image at all
        for name, value in keep_numbers(last_metrics(files.root)).items()
    }
    searched = own if row.search_of is None else WorkDir(comparison.folder(comparison.row(row.search_of), seed))
    return Outcome(seed, arch.format('fna'), macs, params, metrics, _seconds(own, searched, files))


def _seconds(own: WorkDir, searched: WorkDir, trained: WorkDir) -> dict[str, float]:
    """Processor seconds of a row's parts that are known; search and training may be another row's."""
    places = {'search': searched, 'selection': own, 'adapt': trained}
    clocks = {part: Clock.parse(places[part].root / CLOCK).known for part in PARTS}
    spent = {part: known[part] for part, known in clocks.items() if part in known}
    trials = list(searched.trials.glob('*/result.json'))
    if trials:  # each trial measures its own time, also if the run was killed in between
        spent['search'] = sum(float(read_object(path)['cpu_seconds']) for path in trials)
    return spent


def _spread(values: Sequence[float], form: str) -> str:
    """Mean and sample deviation of some values; of a single one itself, of none a dash."""
    if not values:
        return _DASH
    spread, mean = deviation(values), format(statistics.mean(values), form)
    return mean if spread is None else f'{mean} ± {format(spread, form)}'


def _share(count: int, of: int) -> str:
    """How many random seeds gave the metric, of those that have ended: where nothing is detected there is none."""
    return str(of) if count == of else f'{count} of {of}'


def _counts(row: RowResult, of: Callable[[Outcome], int]) -> str:
    found = sorted({of(outcome) for outcome in row.outcomes})
    texts = list(dict.fromkeys(map(format_count, found)))
    return ', '.join(texts) if len(texts) <= _LISTED else f'{texts[0]} to {texts[-1]}'


def _mean(found: Paired | None) -> str:
    if found is None:
        return _DASH
    if found.low is None or found.high is None:
        return f'{found.mean:+.2f}, n = {found.n}'
    return f'{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f}), n = {found.n}'


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = (f'| {" | ".join(cells)} |' for cells in lines)
    return '\n'.join([head, '|---' + '|---:' * (len(lines[0]) - 1) + '|', *rest])
