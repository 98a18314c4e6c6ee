"""The manifest of a run, ``run.json``: which run a work dir holds, of what parts it is made, and how far each is.

It is written last in each transition: what it calls done is done, and nothing else says so. A run's state follows from
its parts::

    gradient, random    created -> searching -> found -> derived -> adapting -> done
    gradient by losses  created -> searching -> rating -> found -> derived -> adapting -> done
    evolution           created -> searching -> rating -> found -> derived -> adapting -> done
    distillation        created -> searching -> rating -> found -> derived -> adapting -> done
    plain training      created -> adapting -> done
"""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmnas_ext.archs.json_file import parse_json
from mmnas_ext.runs.keys import describe_hint, fits

VERSION = 1
SEARCH, RATING, DERIVE, ADAPT = PARTS = ('search', 'rating', 'derive', 'adapt')
# what is read back of a part's notes
_NOTES: Mapping[str, Any] = {
    'arch': str, 'origin': str, 'clears': bool, 'asked': dict[str, Any], 'trials': list[int],
    'checkpoints': list[dict[str, Any]], 'follows': str, 'front': dict[str, Any],
}  # fmt: skip
_PLACE = {'folder': str, 'template': str, 'by_epoch': bool}
# trials that have ended, as they are written
_RUN = re.compile(r'([0-9]{1,9})(?:-([0-9]{1,9}))?')
_MOST_NUMBERS = 10**6
STATES = ('created', 'searching', 'rating', 'found', 'derived', 'adapting', 'done')


class ResumeError(ValueError):
    """A run cannot go on as it is asked to.

    Args:
        message: What is said, with what can be done.
        why: The reason alone; by default the message.
    """

    def __init__(self, message: str, why: str = '') -> None:
        super().__init__(message)
        self.why = why or message


class NoNetworkError(RuntimeError):
    """A search has ended, and gives no network."""


@dataclass(frozen=True)
class Part:
    """One part of a run.

    Args:
        id: Tells its checkpoints from those of any other part of any run.
        settings: What decides its result, and what else it was begun with: values by dotted key.
        done: Whether all that it makes is there.
        notes: What it came to: the found network, trials that have ended, where its checkpoints are.
    """

    id: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    done: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {'id': str, 'settings': Mapping, 'done': bool, 'notes': Mapping}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f'{name} must be a {kind.__name__}, got {getattr(self, name)!r:.40}')
        for name, hint in _NOTES.items():
            if name in self.notes and not fits(self.notes[name], hint):
                raise TypeError(f'notes.{name} must be {describe_hint(hint)}, got {self.notes[name]!r:.60}')
        for place in self.notes.get('checkpoints', ()):
            if {name: type(value) for name, value in place.items()} != _PLACE:
                raise TypeError(f'notes.checkpoints must hold {sorted(_PLACE)}, got {place!r:.60}')


@dataclass(frozen=True)
class Manifest:
    """What a work dir holds.

    Args:
        id: Of the run.
        method: Name of the method, see `mmnas_ext.runs.methods`.
        parts: Those that were begun, by name.
        report: What figures and tables are made for: input size, metric, limits, seed.
        versions: Of the libraries that the run was begun with.
    """

    id: str
    method: str
    parts: Mapping[str, Part] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {'id': str, 'method': str, 'report': Mapping, 'versions': Mapping}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f'{name} must be a {kind.__name__}, got {getattr(self, name)!r:.40}')

    @property
    def state(self) -> str:
        """One of `STATES`, as it follows from the parts."""
        done = {name: part.done for name, part in self.parts.items()}
        searches = not self.is_given
        if searches and not done.get(SEARCH, True):
            return 'searching'
        if searches and not done.get(RATING, True):
            return 'rating'
        if not done.get(DERIVE, True):
            return 'found'
        if ADAPT in done:
            return 'done' if done[ADAPT] else 'adapting'
        if DERIVE in done:
            return 'derived'
        return 'found' if SEARCH in done else 'created'

    @property
    def is_given(self) -> bool:
        """Whether the network was given by ``--arch``, not found."""
        return DERIVE in self.parts and self.parts[DERIVE].notes.get('origin') == 'given'

    def is_done(self, name: str) -> bool:
        """Whether a part has ended."""
        return name in self.parts and self.parts[name].done

    def with_part(self, name: str, part: Part) -> 'Manifest':
        """The manifest with a part begun, changed or ended."""
        return replace(self, parts={**self.parts, name: part})

    def without(self, *names: str) -> 'Manifest':
        """The manifest as if these parts had never begun."""
        return replace(self, parts={name: part for name, part in self.parts.items() if name not in names})

    def format(self) -> str:
        """The manifest as JSON text; `parse` reads it back."""
        parts = {name: {**vars(part), 'notes': _shortened(part.notes)} for name, part in self.parts.items()}
        content = {'version': VERSION, 'state': self.state, **vars(self), 'parts': parts}
        return json.dumps(content, indent=1, sort_keys=True) + '\n'

    @classmethod
    def parse(cls, text: str) -> 'Manifest':
        """Reads what `format` wrote.

        Raises:
            ValueError: The text is something else; says what.
        """
        content = parse_json(text)
        if not isinstance(content, dict):
            raise ValueError(f'the text is not a JSON object but {type(content).__name__}')
        version, state = content.pop('version', None), content.pop('state', None)
        if version != VERSION:
            raise ValueError(f'version must be {VERSION}, got {version!r}')
        try:
            parts = {
                name: Part(**{**part, 'notes': _lengthened(part.get('notes', {}))})
                for name, part in content.pop('parts').items()
            }
            manifest = cls(parts=parts, **content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'a field is missing or unknown, or of another type: {error}') from None
        if not set(parts) <= set(PARTS):
            raise ValueError(f'parts must be among {PARTS}, got {sorted(parts)}')
        if state != manifest.state:
            raise ValueError(f'state must be {manifest.state!r}, which its parts say, got {state!r}')
        return manifest


def _shortened(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Notes as they are written: trials as a text, which stays short while a search notes the end of thousands."""
    return {**notes, **({'trials': _format_numbers(notes['trials'])} if 'trials' in notes else {})}


def _lengthened(notes: Any) -> Any:
    """Notes as they are read; trials of earlier versions are a list."""
    if isinstance(notes, Mapping) and isinstance(notes.get('trials'), str):
        return {**notes, 'trials': _parse_numbers(notes['trials'])}
    return notes


def _format_numbers(numbers: Sequence[int]) -> str:
    """Numbers in their order, those that rise by one as their ends: ``'0-41,43'``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ','.join(str(first) if first == last else f'{first}-{last}' for first, last in runs)


def _parse_numbers(text: str) -> list[int]:
    """Reads what `_format_numbers` wrote; raises TypeError if it is something else."""
    found: list[int] = []
    for each in text.split(',') if text else ():
        match = _RUN.fullmatch(each)
        if match is None or len(found) > _MOST_NUMBERS:
            raise TypeError(f"notes.trials must be numbers such as '0-41,43', got {text!r:.60}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first <= _MOST_NUMBERS:
            raise TypeError(f'notes.trials must have ranges of 1 to {_MOST_NUMBERS} numbers, got {each!r:.60}')
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise TypeError(f'notes.trials must have each number once, got {text!r:.60}')
    return found


def read_manifest(path: Path) -> Manifest | None:
    """Reads the manifest of a work dir; ``None`` where there is none.

    Raises:
        ResumeError: The file is damaged or of another version.
    """
    if not path.is_file():
        return None
    try:
        return Manifest.parse(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ResumeError(
            f'{path} is no manifest of a run that this version knows: {error}; start without --resume to set it aside'
        ) from None


def new_id() -> str:
    """An id that no other run or part has."""
    return uuid.uuid4().hex[:12]
