"""What a search by gradients wrote about itself, read from its files alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from mmnas_ext.archs import Choices, SearchSpace
from mmnas_ext.reports.series import JsonLines, Series
from mmnas_ext.search.fields import check_kind, check_list_of, take
from mmnas_ext.workdir import WorkDir


@dataclass(frozen=True)
class Record:
    """One monitored iteration.

    Args:
        iteration: Training iteration, counted over the whole search.
        epoch: Epoch that it belongs to.
        alpha: Per searched layer, named ``<stage>.<layer>``, softmax(alpha) of its candidates.
        entropy: Per searched layer the entropy of that softmax over its maximum, 0..1.
        expected: By metric, the cost expected under softmax(alpha): multiply-adds, and the search's own metric.
        argmax: By metric, the cost of the network of the most probable candidates.
        skips: Layers whose most probable candidate is ``skip``.
    """

    iteration: int
    epoch: int
    alpha: Mapping[str, tuple[float, ...]]
    entropy: Mapping[str, float]
    expected: Mapping[str, float]
    argmax: Mapping[str, float]
    skips: int

    @classmethod
    def parse(cls, value: Any, where: str) -> 'Record':
        """Reads one decoded line of the log; raises ValueError with its place, `where`, if it has another form."""
        check_kind(value, dict, where)
        missing = [name for name in ('iter', 'epoch', 'alpha', 'entropy', 'skips') if name not in value]
        if missing:
            raise ValueError(f'{where}: the record lacks {", ".join(missing)}')
        alpha, entropy = (take(value, name, dict, where) for name in ('alpha', 'entropy'))
        # what is NaN or infinite is drawn as a gap
        expected, argmax = (
            {
                name.removeprefix(kind): float(check_kind(cost, float, f'{where}: {name}', finite=False))
                for name, cost in value.items()
                if name.startswith(kind)
            }
            for kind in ('expected_', 'argmax_')
        )
        if not expected or set(expected) != set(argmax):
            got = f'{[*expected] or "none"} and {[*argmax] or "none"}'
            raise ValueError(f'{where}: a record must have expected_<metric> and argmax_<metric>, got {got}')
        return cls(
            iteration=take(value, 'iter', int, where),
            epoch=take(value, 'epoch', int, where),
            alpha=_rows(alpha, f'{where}: alpha'),
            entropy=_numbers(entropy, f'{where}: entropy'),
            expected=expected,
            argmax=argmax,
            skips=take(value, 'skips', int, where),
        )


@dataclass(frozen=True)
class SearchLog:
    """Records by rising iteration, and what was left out to get them.

    Args:
        records: At least one; of a long log evenly chosen ones, the first and the last among them.
        count: How many there are in all.
        start: Iteration of the first record whose alpha differs from the first one's. ``None`` if alpha never moved, or
            had moved by the second record, so that the log does not show since when.
        unreadable: Lines that are not complete JSON, such as the last one of a killed run.
        repeated: Records that a resumed run made again, or has yet to.
    """

    records: tuple[Record, ...]
    count: int
    start: int | None
    unreadable: int = 0
    repeated: int = 0

    @property
    def trained(self) -> bool:
        """Whether alpha moved, or may have: a single record does not show it."""
        first = self.records[0].alpha
        return self.count == 1 or any(record.alpha != first for record in self.records)

    @classmethod
    def of(cls, records: Iterable[Record]) -> 'SearchLog':
        """Thins records in the order in which they were logged; raises ValueError if there are none."""
        series: Series[Record] = Series()
        first, moved = None, None
        for record in records:
            place = series.add(record.iteration, record)
            if place == 0:
                first, moved = record, None
            elif moved is None or place <= moved[0]:
                # all before it are as the first: what came later was dropped with the run that was resumed
                moved = (place, record.iteration) if first and record.alpha != first.alpha else None
        if not len(series):
            raise ValueError('records must hold at least one record, got none')
        start = moved[1] if moved and moved[0] > 1 else None
        return cls(tuple(record for _, record in series.rows()), len(series), start, repeated=series.repeated)


def _numbers(given: Mapping[str, Any], where: str) -> dict[str, float]:
    """Numbers by name; at once where nothing can be wrong, as a long log has millions of them."""
    if not {*map(type, given.values())} <= {float, int}:
        for name, value in given.items():
            check_kind(value, float, f'{where} {name}', finite=False)
    return {name: float(value) for name, value in given.items()}


def _rows(given: Mapping[str, Any], where: str) -> dict[str, tuple[float, ...]]:
    """Lists of numbers by name, as `_numbers`."""
    if {*map(type, given.values())} <= {list} and {*map(type, chain(*given.values()))} <= {float, int}:
        return {name: tuple(row) for name, row in given.items()}
    return {name: check_list_of(row, float, f'{where} {name}', finite=False) for name, row in given.items()}


def read_log(source: str | Path) -> SearchLog:
    """Reads a search log, or that of a work dir, in memory that does not grow with its records.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: No line is a complete record, or a complete line is not of the log's form.
    """
    path = Path(source)
    path = WorkDir(path).search_log if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f'no search log at {path}: a search writes it once its monitor hook has run')
    lines = JsonLines(path)
    records = (Record.parse(value, where) for where, value in lines)
    first = next(records, None)
    if first is None:
        raise ValueError(
            f'{path} holds no complete record ({lines.unreadable} unreadable lines): the search logged nothing yet'
        )
    return replace(SearchLog.of(chain([first], records)), unreadable=lines.unreadable)


def searched_layers(space: SearchSpace) -> tuple[tuple[int, int], ...]:
    """Stage and layer of every layer with more than one candidate."""
    stages = enumerate(space.stages)
    return tuple((i, j) for i, stage in stages for j, layer in enumerate(stage.layers) if len(layer) > 1)


def check_records(records: tuple[Record, ...], space: SearchSpace) -> None:
    """Raises ValueError unless every record has one probability for each candidate of each searched layer."""
    layers = searched_layers(space)
    if not layers:
        raise ValueError('space must have a layer with more than one candidate, got only fixed layers')
    for record in records:
        for i, j in layers:
            wanted, got = len(space.stages[i].layers[j]), len(record.alpha.get(f'{i}.{j}', ()))
            if wanted != got:
                what = f'layer {i}.{j} has {wanted} candidates in the space, but {got} probabilities in the log'
                raise ValueError(f'iteration {record.iteration}: {what}; do log and space belong together?')


def argmax_path(record: Record, space: SearchSpace) -> Choices:
    """The most probable candidates; the first one where two are equal."""
    check_records((record,), space)
    return tuple(
        tuple(
            max(range(len(layer)), key=record.alpha[f'{i}.{j}'].__getitem__) if len(layer) > 1 else 0
            for j, layer in enumerate(stage.layers)
        )
        for i, stage in enumerate(space.stages)
    )
