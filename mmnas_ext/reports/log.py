"""What a search wrote about itself, read from its files alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmnas_ext.archs import Choices, SearchSpace

LOG_NAME = 'search_log.jsonl'


@dataclass(frozen=True)
class Record:
    """One monitored iteration.

    Args:
        iteration: Training iteration, counted over the whole search.
        epoch: Epoch that it belongs to.
        alpha: Per searched layer, named ``<stage>.<layer>``, softmax(alpha) of its candidates.
        entropy: Per searched layer the entropy of that softmax over its maximum, 0..1.
        expected_macs: MACs expected under softmax(alpha).
        argmax_macs: MACs of the network of the most probable candidates.
        skips: Layers whose most probable candidate is ``skip``.
    """

    iteration: int
    epoch: int
    alpha: Mapping[str, tuple[float, ...]]
    entropy: Mapping[str, float]
    expected_macs: float
    argmax_macs: int
    skips: int

    @classmethod
    def parse(cls, value: Any, where: str) -> 'Record':
        """Reads one JSON object of the log.

        Args:
            value: The object, already decoded.
            where: File and line, for the message.

        Raises:
            ValueError: A field is missing or of another kind.
        """
        if not isinstance(value, dict):
            raise ValueError(f'{where}: a record must be a JSON object, got {type(value).__name__}')
        wanted = ('iter', 'epoch', 'alpha', 'entropy', 'expected_macs', 'argmax_macs', 'skips')
        missing = [name for name in wanted if name not in value]
        if missing:
            raise ValueError(f'{where}: the record lacks {", ".join(missing)}')
        for name in ('alpha', 'entropy'):
            if not isinstance(value[name], dict):
                raise ValueError(f'{where}: {name} must be an object keyed "<stage>.<layer>", got {value[name]!r:.60}')
        for name in ('iter', 'epoch', 'skips'):
            if isinstance(value[name], bool) or not isinstance(value[name], int):
                raise ValueError(f'{where}: {name} must be an integer, got {value[name]!r:.60}')
        return cls(
            iteration=value['iter'],
            epoch=value['epoch'],
            alpha={key: _numbers(row, f'{where}: alpha {key}') for key, row in value['alpha'].items()},
            entropy={key: _number(x, f'{where}: entropy {key}') for key, x in value['entropy'].items()},
            expected_macs=_number(value['expected_macs'], f'{where}: expected_macs'),
            argmax_macs=round(_number(value['argmax_macs'], f'{where}: argmax_macs')),
            skips=value['skips'],
        )


@dataclass(frozen=True)
class SearchLog:
    """Records by rising iteration, and what was left out to get them.

    Args:
        records: At least one; no iteration twice.
        unreadable: Lines that were no complete JSON, such as the last one of a killed run.
        repeated: Records replaced by a later one of the same iteration, as a resumed run writes.
    """

    records: tuple[Record, ...]
    unreadable: int = 0
    repeated: int = 0


def read_log(source: str | Path) -> SearchLog:
    """Reads a search log.

    Args:
        source: The log file, or the work dir that holds it as ``search_log.jsonl``.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: No line is a complete record, or a complete line is not of the log's form.
    """
    path = Path(source)
    path = path / LOG_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f'no search log at {path}: a search writes it once its monitor hook has run')
    records: dict[int, Record] = {}
    unreadable = complete = 0
    for number, line in enumerate(path.read_bytes().split(b'\n'), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode('utf-8', errors='replace'))
        # A kill cuts the last line short, and a resumed run then goes on behind the stump: so it may stand anywhere.
        except (json.JSONDecodeError, RecursionError):
            unreadable += 1
            continue
        record = Record.parse(value, f'{path.name} line {number}')
        records[record.iteration] = record
        complete += 1
    if not records:
        raise ValueError(
            f'{path} holds no complete record ({unreadable} unreadable lines): the search logged nothing yet'
        )
    ordered = tuple(records[iteration] for iteration in sorted(records))
    return SearchLog(ordered, unreadable, complete - len(ordered))


def searched_layers(space: SearchSpace) -> tuple[tuple[int, int], ...]:
    """Stage and layer of every layer with more than one candidate."""
    return tuple(
        (i, j) for i, stage in enumerate(space.stages) for j, layer in enumerate(stage.layers) if len(layer) > 1
    )


def check_records(records: tuple[Record, ...], space: SearchSpace) -> None:
    """Raises ValueError unless every record has one probability for each candidate of each searched layer."""
    if not records:
        raise ValueError('records must hold at least one record, got none')
    layers = searched_layers(space)
    if not layers:
        raise ValueError('space must have a layer with more than one candidate, got only fixed layers')
    for record in records:
        for i, j in layers:
            wanted, got = len(space.stages[i].layers[j]), len(record.alpha.get(f'{i}.{j}', ()))
            if wanted != got:
                raise ValueError(
                    f'iteration {record.iteration}: layer {i}.{j} has {wanted} candidates in the space, '
                    f'but {got} probabilities in the log; do log and space belong together?'
                )


def argmax_path(record: Record, space: SearchSpace) -> Choices:
    """The path of the most probable candidates; the first one where two are equal."""
    check_records((record,), space)
    return tuple(
        tuple(
            max(range(len(layer)), key=record.alpha[f'{i}.{j}'].__getitem__) if len(layer) > 1 else 0
            for j, layer in enumerate(stage.layers)
        )
        for i, stage in enumerate(space.stages)
    )


def arch_start(records: tuple[Record, ...]) -> int | None:
    """Iteration of the first record whose alpha differs from the first one's, ``None`` if that is not known.

    Not known means: alpha never moved, or had moved by the second record, so that the log does not show since when.
    """
    moved = [index for index, record in enumerate(records) if record.alpha != records[0].alpha]
    return records[moved[0]].iteration if moved and moved[0] > 1 else None


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f'{what} must be a number, got {value!r:.60}')
    return float(value)


def _numbers(values: Any, what: str) -> tuple[float, ...]:
    if not isinstance(values, list):
        raise ValueError(f'{what} must be a list of probabilities, got {values!r:.60}')
    return tuple(_number(value, what) for value in values)
