"""What may stand for an architecture or a space: a value, its content, its text, a file, a name of the zoo."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mmnas_ext.archs import forms, zoo
from mmnas_ext.archs.cell_notation import format_cells, read_cells
from mmnas_ext.archs.cells import CellSpace
from mmnas_ext.archs.from_seed import is_made, read_made
from mmnas_ext.archs.literal import MAX_TEXT, call_at
from mmnas_ext.archs.notation import (
    ARCH_FORMS,
    SPACE_FORMS,
    arch_of,
    format_arch,
    format_space,
    read_arch,
    read_mapping,
    space_of,
)
from mmnas_ext.archs.space import SearchSpace
from mmnas_ext.archs.spec import ArchSpec
from mmnas_ext.archs.timm_blocks import parse_timm

_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_.\-]*')

_Value = TypeVar('_Value')
_Read = Callable[[Any], _Value]


def _enter(
    kind: type[_Value], word: str, allowed: str, more: _Read[_Value | None], text: _Read[_Value], name: _Read[_Value],
    write: Callable[..., str],
) -> None:  # fmt: skip
    """Says how values of a kind are read and written.

    Args:
        kind: The values' class.
        word: What they are called in messages.
        allowed: What may stand for one, for messages.
        more: Reads what is neither a value nor text, ``None`` where it does not know it.
        text: Reads text.
        name: Reads a name of the zoo.
        write: Writes one.
    """

    def read(source: Any) -> _Value:
        if isinstance(source, kind):
            return source
        if isinstance(source, Path):
            return _from_file(source, word, text)
        if not isinstance(source, str):
            found = more(source)
            if found is None:
                raise TypeError(f'{word} must be given as {allowed}, got {type(source).__name__}')
            return found
        bare = source.strip() if len(source) <= MAX_TEXT else source
        if len(bare) < 4096 and bare.endswith('.json') and '\0' not in bare and not bare.startswith(('[', '{')):
            return _from_file(Path(bare), word, text)
        if _NAME.fullmatch(bare) and len(bare) <= MAX_TEXT:
            return name(bare)
        return call_at(word, text, source)

    forms.enter(kind, read, write)


def _from_file(path: Path, word: str, read: _Read[_Value]) -> _Value:
    if not path.is_file():
        raise FileNotFoundError(f'{word} file does not exist: {path}')

    def content() -> _Value:
        size = path.stat().st_size
        if size > 4 * MAX_TEXT:
            raise ValueError(f'the file is too large, {size} bytes')
        return read(path.read_text(encoding='utf-8'))

    return call_at(f'{word} file {path}', content)


def _arch(source: Any) -> ArchSpec | None:
    if isinstance(source, Mapping):
        return arch_of(source)
    return parse_timm(source) if isinstance(source, (list, tuple)) else None


def _space(source: Any) -> SearchSpace | None:
    if is_made(source):
        return read_made(source, ArchSpec.parse)
    return space_of(source) if isinstance(source, Mapping) else None


def _space_text(text: str) -> SearchSpace:
    fields = read_mapping(text)
    return read_made(fields, ArchSpec.parse) if is_made(fields) else space_of(fields)


def _cells(source: Any) -> CellSpace | None:
    if isinstance(source, SearchSpace):
        return CellSpace.of(source)
    return read_cells(source) if isinstance(source, Mapping) else None


_enter(ArchSpec, 'architecture', ARCH_FORMS, _arch, read_arch, zoo.arch, format_arch)
_enter(SearchSpace, 'search space', SPACE_FORMS, _space, _space_text, zoo.space, format_space)
_enter(
    CellSpace,
    'space of cells',
    SPACE_FORMS,
    _cells,
    lambda text: read_cells(read_mapping(text)),
    zoo.cells,
    format_cells,
)
