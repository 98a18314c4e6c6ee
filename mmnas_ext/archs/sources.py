"""What may stand for an architecture or a space: a value, its content, its text, a file, a name of the zoo."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mmnas_ext.archs import forms, zoo
from mmnas_ext.archs.cell_notation import format_cells, read_cells
from mmnas_ext.archs.cells import CellSpace
from mmnas_ext.archs.literal import MAX_TEXT
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


def parse_arch(source: Any) -> ArchSpec:
    """Reads an architecture in any notation; `source` is left as it was.

    Args:
        source: FNA text, timm block strings (lists of strings, or text of such lists), JSON text or a dict of the same
            content, a path that ends in ``.json``, a zoo name, or an `ArchSpec`, which is returned.

    Raises:
        ValueError: The content is malformed; the message says where (a character, or a place as
            ``stages[3].layers[1]``) and why.
        TypeError: `source` is of another type.
        FileNotFoundError: There is no such ``.json`` file.
    """
    if isinstance(source, ArchSpec):
        return source
    if isinstance(source, Mapping):
        return arch_of(source)
    if isinstance(source, (list, tuple)):
        return parse_timm(source)
    return _from_text(source, 'architecture', ARCH_FORMS, read_arch, zoo.arch)


def parse_space(source: Any) -> SearchSpace:
    """Reads a search space: JSON text or a dict, a ``.json`` path, a zoo name, or a `SearchSpace`, which is returned.

    Raises:
        ValueError, TypeError, FileNotFoundError: As `parse_arch`.
    """
    if isinstance(source, SearchSpace):
        return source
    if isinstance(source, Mapping):
        return space_of(source)
    return _from_text(source, 'search space', SPACE_FORMS, lambda text: space_of(read_mapping(text)), zoo.space)


def parse_cells(source: Any) -> CellSpace:
    """Reads a space of cells as `parse_space` reads a space; a `SearchSpace` becomes one cell per stage.

    Raises:
        ValueError, TypeError, FileNotFoundError: As `parse_arch`.
    """
    if isinstance(source, CellSpace):
        return source
    if isinstance(source, SearchSpace):
        return CellSpace.of(source)
    if isinstance(source, Mapping):
        return read_cells(source)
    return _from_text(source, 'space of cells', SPACE_FORMS, lambda text: read_cells(read_mapping(text)), zoo.cells)


def _from_text(
    source: Any, kind: str, allowed: str, read: Callable[[str], _Value], by_name: Callable[[str], _Value]
) -> _Value:
    """Tells a path, a zoo name and content apart, and names in errors what was read."""
    if isinstance(source, Path):
        return _from_file(source, kind, read)
    if not isinstance(source, str):
        raise TypeError(f'{kind} must be given as {allowed}, got {type(source).__name__}')
    text = source.strip() if len(source) <= MAX_TEXT else source
    if len(text) < 4096 and text.endswith('.json') and '\0' not in text and not text.startswith(('[', '{')):
        return _from_file(Path(text), kind, read)
    if _NAME.fullmatch(text) and len(text) <= MAX_TEXT:
        return by_name(text)
    try:
        return read(source)
    except ValueError as error:
        raise ValueError(f'{kind}: {error}') from None


def _from_file(path: Path, kind: str, read: Callable[[str], _Value]) -> _Value:
    if not path.is_file():
        raise FileNotFoundError(f'{kind} file does not exist: {path}')
    try:
        size = path.stat().st_size
        if size > 4 * MAX_TEXT:
            raise ValueError(f'the file is too large, {size} bytes')
        return read(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{kind} file {path}: {error}') from None


forms.enter(ArchSpec, parse_arch, format_arch)
forms.enter(SearchSpace, parse_space, format_space)
forms.enter(CellSpace, parse_cells, format_cells)
