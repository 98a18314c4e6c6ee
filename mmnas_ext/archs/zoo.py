"""Published architectures and search spaces by name, kept as JSON files beside this module."""

from functools import cache
from pathlib import Path

from mmnas_ext.archs.cell_notation import read_cells
from mmnas_ext.archs.cells import CellSpace
from mmnas_ext.archs.literal import abbreviate
from mmnas_ext.archs.notation import read_arch, read_mapping, space_of
from mmnas_ext.archs.space import SearchSpace
from mmnas_ext.archs.spec import ArchSpec

# under which name a config has a network as its backbone; the hosts have MobileNetV2, EfficientNet and ResNet, so ours
# end in MB
TYPES = {
    'MobileNetV2MB': 'mobilenet_v2',
    'EfficientNetLite0MB': 'efficientnet_lite0',
    'EfficientNetLite1MB': 'efficientnet_lite1',
    'EfficientNetLite2MB': 'efficientnet_lite2',
    'FNA_RetinaNet': 'fna_retinanet',
    'FNA_SSDLite': 'fna_ssdlite',
    'FNA_DeepLabv3': 'fna_deeplabv3',
    'DNA_a': 'dna_a',
    'DNA_b': 'dna_b',
    'DNA_c': 'dna_c',
    'DNA_d': 'dna_d',
    'ResNet18MB': 'resnet18',
    'ResNet34MB': 'resnet34',
    'ResNet50MB': 'resnet50',
    'EfficientNetB0MB': 'efficientnet_b0',
    'MobileNetV3LargeMB': 'mobilenet_v3_large',
    'MobileNetV3SmallMB': 'mobilenet_v3_small',
}
_SPACE = '.space.json'
_CELLS = '.cells.json'
_ARCH = '.json'


def names() -> tuple[str, ...]:
    """Names of all architectures, sorted."""
    return tuple(sorted(_files(_ARCH)))


def spaces() -> tuple[str, ...]:
    """Names of all search spaces, sorted."""
    return tuple(sorted(_files(_SPACE)))


def cell_spaces() -> tuple[str, ...]:
    """Names of all spaces of cells, sorted."""
    return tuple(sorted(_files(_CELLS)))


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
        raise ValueError(f'unknown search space {abbreviate(name)}: the zoo has {", ".join(spaces())}{_hint(name)}')
    return _read_space(name)


def cells(name: str) -> CellSpace:
    """A published space of cells; a plain search space is one of a single cell per stage.

    Raises:
        ValueError: No space has that name; the message lists those that exist.
    """
    if name in cell_spaces():
        return _read_cells(name)
    if name in spaces():
        return CellSpace.of(_read_space(name))
    known = ', '.join(sorted({*cell_spaces(), *spaces()}))
    raise ValueError(f'unknown space of cells {abbreviate(name)}: the zoo has {known}{_hint(name)}')


def _hint(name: str) -> str:
    return '; that is an architecture, see zoo.arch' if name in names() else ''


@cache
def _read_arch(name: str) -> ArchSpec:
    return read_arch(_files(_ARCH)[name].read_text(encoding='utf-8'))


@cache
def _read_space(name: str) -> SearchSpace:
    return space_of(read_mapping(_files(_SPACE)[name].read_text(encoding='utf-8')))


@cache
def _read_cells(name: str) -> CellSpace:
    return read_cells(read_mapping(_files(_CELLS)[name].read_text(encoding='utf-8')))


@cache
def _files(suffix: str) -> dict[str, Path]:
    """The files that hold one kind of value, by name."""
    found = {}
    for file in Path(__file__).with_name('zoo').iterdir():
        kind = next((each for each in (_SPACE, _CELLS, _ARCH) if file.name.endswith(each)), None)
        if kind == suffix:
            found[file.name.removesuffix(kind)] = file
    return found
