"""Published architectures and search spaces by name, kept as JSON files beside this module."""

from functools import cache
from pathlib import Path

from mmnas_ext.archs.cells import CellSpace
from mmnas_ext.archs.literal import abbreviate
from mmnas_ext.archs.space import SearchSpace
from mmnas_ext.archs.spec import ArchSpec

_SPACE_SUFFIX = '.space.json'
_CELLS_SUFFIX = '.cells.json'
_ARCH_SUFFIX = '.json'


def names() -> tuple[str, ...]:
    """Names of all architectures, sorted."""
    return tuple(sorted(_entries()[0]))


def spaces() -> tuple[str, ...]:
    """Names of all search spaces, sorted."""
    return tuple(sorted(_entries()[1]))


def cell_spaces() -> tuple[str, ...]:
    """Names of all spaces of cells, sorted."""
    return tuple(sorted(_entries()[2]))


def arch(name: str) -> ArchSpec:
    """A published architecture.

    Raises:
        ValueError: No architecture has that name; the message lists those that exist.
    """
    if name not in names():
        hint = '; that is a search space, see zoo.space' if name in spaces() else ''
        raise ValueError(f'unknown architecture {abbreviate(name)}: the zoo has {", ".join(names())}{hint}')
    return _read_arch(name)


def space(name: str) -> SearchSpace:
    """A published search space.

    Raises:
        ValueError: No search space has that name; the message lists those that exist.
    """
    if name not in spaces():
        hint = '; that is an architecture, see zoo.arch' if name in names() else ''
        raise ValueError(f'unknown search space {abbreviate(name)}: the zoo has {", ".join(spaces())}{hint}')
    return _read_space(name)


def cells(name: str) -> CellSpace:
    """A published space of cells; a plain search space is one of a single cell per stage.

    Raises:
        ValueError: No space has that name; the message lists those that exist.
    """
    if name not in cell_spaces():
        if name in spaces():
            return CellSpace.parse(_read_space(name))
        hint = '; that is an architecture, see zoo.arch' if name in names() else ''
        listed = ', '.join(sorted({*cell_spaces(), *spaces()}))
        raise ValueError(f'unknown space of cells {abbreviate(name)}: the zoo has {listed}{hint}')
    return _read_cells(name)


@cache
def _read_arch(name: str) -> ArchSpec:
    return ArchSpec.parse(_entries()[0][name].read_text(encoding='utf-8'))


@cache
def _read_space(name: str) -> SearchSpace:
    return SearchSpace.parse(_entries()[1][name].read_text(encoding='utf-8'))


@cache
def _read_cells(name: str) -> CellSpace:
    return CellSpace.parse(_entries()[2][name].read_text(encoding='utf-8'))


@cache
def _entries() -> tuple[dict[str, Path], dict[str, Path], dict[str, Path]]:
    """Files of the architectures, of the search spaces and of the spaces of cells, by name."""
    archs: dict[str, Path] = {}
    listed: dict[str, Path] = {}
    celled: dict[str, Path] = {}
    for file in Path(__file__).with_name('zoo').iterdir():
        if file.name.endswith(_SPACE_SUFFIX):
            listed[file.name.removesuffix(_SPACE_SUFFIX)] = file
        elif file.name.endswith(_CELLS_SUFFIX):
            celled[file.name.removesuffix(_CELLS_SUFFIX)] = file
        elif file.name.endswith(_ARCH_SUFFIX):
            archs[file.name.removesuffix(_ARCH_SUFFIX)] = file
    return archs, listed, celled
