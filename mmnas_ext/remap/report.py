"""The report of a remap: what it did to each tensor."""

from collections import Counter
from dataclasses import dataclass

ACTIONS = ('copied', 'cropped', 'padded', 'cropped+padded', 'new')


@dataclass(frozen=True)
class Entry:
    """One tensor of the target.

    Args:
        name: Name of the tensor.
        source: Name of the seed's tensor that it comes from; ``None`` if it is new.
        action: One of `ACTIONS`.
        seed_shape: Shape of the seed's tensor; ``None`` if it is new.
        shape: Shape of the target's tensor.
    """

    name: str
    source: str | None
    action: str
    seed_shape: tuple[int, ...] | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class RemapReport:
    """All tensors of the target, in order, and the seed's tensors that were not used.

    Args:
        entries: One per tensor of the target.
        unused: Names of the seed's tensors that no tensor of the target comes from.
        notes: Differences that are not in the tensors: activation, strides.
    """

    entries: tuple[Entry, ...]
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Counts the tensors per action and the ``unused`` ones; every action is a key."""
        counted = Counter(entry.action for entry in self.entries)
        return {action: counted[action] for action in ACTIONS} | {'unused': len(self.unused)}

    def table(self) -> str:
        """Formats the report: one aligned line per tensor, then the unused tensors and the notes."""
        rows = [('tensor', 'action', 'shape', 'seed tensor', 'seed shape')]
        rows += [(e.name, e.action, _shape(e.shape), e.source or '-', _shape(e.seed_shape)) for e in self.entries]
        rows += [('-', 'unused', '-', name, '-') for name in self.unused]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return '\n'.join(line.rstrip() for line in [*lines, *self.notes, str(self)])

    def __str__(self) -> str:
        counted = ', '.join(f'{count} {action}' for action, count in self.counts().items() if count)
        return f'remapped {len(self.entries)} tensors: {counted or "none"}' + ''.join(f'; {n}' for n in self.notes)


def action_of(seed_shape: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Returns the action that leads from one shape to the other."""
    pairs = list(zip(seed_shape, shape, strict=True))
    taken = ['cropped'] * any(a > b for a, b in pairs) + ['padded'] * any(a < b for a, b in pairs)
    return '+'.join(taken) or 'copied'


def _shape(shape: tuple[int, ...] | None) -> str:
    return '-' if shape is None else 'x'.join(map(str, shape)) or 'scalar'
