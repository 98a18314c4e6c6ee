"""The three notations of an architecture, each read and written: JSON, FNA's text, timm's block strings.

FNA's text is the authors' own, ``[[16, 24], ['k3_e6', 'skip'], 2]|…``: channels in and out, layers, stride, per stage.
It has no place for the rest of an `ArchSpec`, so ``|head=1280|act=swish|bn_eps=0.001|stem=conv7_pool`` may follow, each
only where it is not the default. timm's is a list of stages, each a list of strings: ``ir_r2_k3_s2_e6_c24_se0.25``.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mmnas_ext.archs.blocks import SKIP, BlockSpec
from mmnas_ext.archs.cells import CellSpace
from mmnas_ext.archs.convs import DEFAULT_STEM
from mmnas_ext.archs.literal import Reader, abbreviate, call_at, check_keys, check_list, number
from mmnas_ext.archs.space import SearchSpace, SpaceStage
from mmnas_ext.archs.spec import ArchSpec, StageSpec
from mmnas_ext.archs.timm_blocks import format_timm, parse_timm

NOTATIONS = ('json', 'fna', 'timm')
ARCH_FORMS = 'FNA text, timm block strings, JSON text, a .json path or a zoo name'
SPACE_FORMS = 'JSON text, a .json path or a zoo name'
NETWORK_KEYS = ('head_channels', 'act', 'bn_eps', 'stem')
_KEYS = ('stages', *NETWORK_KEYS, 'source')
_STAGE_KEYS = ('in_channels', 'channels', 'layers', 'stride')
_ATTRIBUTE = re.compile(r'(\w+)[ \t]*=[ \t]*([^|\s]*)')
_ATTRIBUTES = {'head': 'head_channels', 'act': 'act', 'bn_eps': 'bn_eps', 'stem': 'stem'}

_Made = TypeVar('_Made')


def format_arch(arch: ArchSpec, notation: str = 'fna') -> str:
    """Writes an architecture; `ArchSpec.parse` of the result equals `arch`.

    Args:
        arch: The architecture.
        notation: ``'json'``, ``'fna'`` or ``'timm'``.

    Raises:
        ValueError: `notation` is another one.
    """
    if notation == 'json':
        return _json_text(arch, [json.dumps(_stage_fields(stage)) for stage in arch.stages])
    if notation == 'fna':
        return _fna_text(arch)
    if notation == 'timm':
        return format_timm(arch)
    raise ValueError(f'notation must be one of {NOTATIONS}, got {notation!r}')


def format_space(space: SearchSpace) -> str:
    """Writes a search space as JSON text, one line a stage; `SearchSpace.parse` of the result equals `space`."""
    return _json_text(space, [json.dumps(_stage_fields(stage)) for stage in space.stages])


# --- JSON ----------------------------------------------------------------------------------------------------------


def arch_of(fields: Mapping[Any, Any]) -> ArchSpec:
    """Makes an architecture of what JSON says.

    Raises:
        ValueError: Says what is wrong and where.
    """
    stages = _stage_mappings(fields)
    if stages and all(_offers(stage['layers']) for stage in stages):
        raise ValueError('this is a search space, whose layers are lists of candidates, and one network is needed')
    return build(ArchSpec, [_arch_stage(stage, f'stages[{i}]') for i, stage in enumerate(stages)], fields)


def read_mapping(text: str) -> Mapping[Any, Any]:
    """Reads JSON text of a mapping.

    Raises:
        ValueError: The text is not such a mapping; the message says at which character.
    """
    reader = Reader(text)
    if reader.peek() != '{':
        reader.fail(f"expected '{{' ({SPACE_FORMS} is read), got {reader.describe()}")
    fields: Mapping[Any, Any] = reader.value()
    reader.end()
    return fields


def space_of(fields: Mapping[Any, Any]) -> SearchSpace:
    """Makes a search space of what JSON says.

    Raises:
        ValueError: Says what is wrong and where.
    """
    stages = _stage_mappings(fields)
    return build(SearchSpace, [_space_stage(stage, f'stages[{i}]') for i, stage in enumerate(stages)], fields)


def _stage_mappings(fields: Mapping[Any, Any]) -> list[Mapping[Any, Any]]:
    check_keys(fields, '', ('stages',), _KEYS)
    stages = check_list(fields['stages'], 'stages', 'stages')
    for i, stage in enumerate(stages):
        if not isinstance(stage, Mapping):
            raise ValueError(f'stages[{i}] must be a mapping, got {abbreviate(stage)}')
        check_keys(stage, f'stages[{i}]', _STAGE_KEYS, _STAGE_KEYS)
    return list(stages)


def _offers(layers: Any) -> bool:
    """Whether each of a stage's layers is a list, as those of a space are."""
    return isinstance(layers, list | tuple) and bool(layers) and all(isinstance(each, list | tuple) for each in layers)


def _arch_stage(stage: Mapping[Any, Any], where: str) -> StageSpec:
    layers = check_list(stage['layers'], f'{where}.layers', 'layer tokens')
    for j, token in enumerate(layers):
        check_token(token, f'{where}.layers[{j}]')
    return call_at(where, StageSpec, stage['in_channels'], stage['channels'], tuple(layers), stage['stride'])


def _space_stage(stage: Mapping[Any, Any], where: str) -> SpaceStage:
    layers = read_layers(stage['layers'], f'{where}.layers')
    return call_at(where, SpaceStage, stage['in_channels'], stage['channels'], layers, stage['stride'])


def read_layers(layers: Any, where: str) -> tuple[tuple[str, ...], ...]:
    """Per layer the tokens of its candidates.

    Raises:
        ValueError: They are not lists of tokens; the message says where.
    """
    found = []
    for j, candidates in enumerate(check_list(layers, where, 'lists of candidates')):
        found.append(tuple(check_list(candidates, f'{where}[{j}]', 'candidates')))
        for k, token in enumerate(found[-1]):
            check_token(token, f'{where}[{j}][{k}]')
    return tuple(found)


def build(cls: Callable[..., _Made], stages: list[Any], fields: Mapping[Any, Any], **more: Any) -> _Made:
    """Makes an architecture or a space of its stages, `more` and the fields that all have."""
    source = fields.get('source', '')
    if not isinstance(source, str):
        raise ValueError(f'source must be a string, got {abbreviate(source)}')
    rest = {key: fields[key] for key in NETWORK_KEYS if key in fields}
    return cls(stages=tuple(stages), **more, **rest)


def _stage_fields(stage: StageSpec | SpaceStage) -> dict[str, Any]:
    return {key: getattr(stage, key) for key in _STAGE_KEYS}


def network_fields(spec: ArchSpec | SearchSpace | CellSpace) -> dict[str, Any]:
    """The fields that all have, as they are written: a stem only where it is not the usual one."""
    fields = {key: getattr(spec, key) for key in NETWORK_KEYS}
    return {key: value for key, value in fields.items() if (key, value) != ('stem', DEFAULT_STEM)}


def _json_text(spec: ArchSpec | SearchSpace, stages: list[str]) -> str:
    lines = ',\n    '.join(stages)
    rest = ',\n  '.join(f'"{key}": {json.dumps(value)}' for key, value in network_fields(spec).items())
    return f'{{\n  "stages": [\n    {lines}\n  ],\n  {rest}\n}}\n'


# --- FNA text ------------------------------------------------------------------------------------------------------


def read_arch(text: str) -> ArchSpec:
    """Reads an architecture from text in any notation.

    Raises:
        ValueError: Says what is wrong and at which character or in which place.
    """
    reader = Reader(text)
    if reader.peek() == '{':
        fields = reader.value()
        reader.end()
        return arch_of(fields)
    if reader.peek() != '[':
        reader.fail(f"expected '[' or '{{' ({ARCH_FORMS} is read), got {reader.describe()}")
    start = reader.position
    first = reader.value()
    if reader.peek() == '|' or _looks_fna(first):
        return _arch_from_fna(reader, start, first)
    reader.end("'|' or the end")
    return parse_timm(first)


def _looks_fna(value: list[Any]) -> bool:
    """One stage alone: its first entry is the pair of channels, where timm's would be a string or hold strings."""
    return bool(value) and isinstance(value[0], list) and bool(value[0]) and not isinstance(value[0][0], (str, list))


def _arch_from_fna(reader: Reader, start: int, first: list[Any]) -> ArchSpec:
    stages = [_fna_stage(first, 0, start)]
    fields: dict[str, Any] = {}
    while reader.take('|'):
        ahead = reader.peek()
        start = reader.position
        if ahead == '[' and not fields:
            stages.append(_fna_stage(reader.value(), len(stages), start))
            continue
        found = reader.match(_ATTRIBUTE)
        if found is None or found[1] not in _ATTRIBUTES:
            reader.position = start
            reader.fail(f'expected a stage or one of head=, act=, bn_eps=, stem=, got {reader.describe()}')
        name = _ATTRIBUTES[found[1]]
        if name in fields:
            reader.fail(f'{found[1]} is given twice', start)
        try:
            fields[name] = found[2] if name in ('act', 'stem') else number(found[2], name == 'bn_eps')
        except ValueError as error:
            reader.fail(f'{found[1]} {error}', start)
    reader.end("'|' or the end")
    return ArchSpec(tuple(stages), **fields)


def _fna_stage(stage: Any, index: int, start: int) -> StageSpec:
    where = f'stages[{index}]'
    at = f'{where} (character {start})'
    if not isinstance(stage, list) or len(stage) != 3:
        raise ValueError(f'{at} must be [[in, out], [layers], stride], got {abbreviate(stage)}')
    channels, layers, stride = stage
    if not isinstance(channels, list) or len(channels) != 2:
        raise ValueError(f'{at} must start with a pair of channels, got {abbreviate(channels)}')
    for j, token in enumerate(check_list(layers, f'{where}.layers', 'layer tokens')):
        check_token(token, f'{where}.layers[{j}]')
    return call_at(at, StageSpec, channels[0], channels[1], tuple(layers), stride)


def _fna_text(arch: ArchSpec) -> str:
    parts = [f'[[{s.in_channels}, {s.channels}], {list(s.layers)!r}, {s.stride}]' for s in arch.stages]
    if arch.head_channels is not None:
        parts.append(f'head={arch.head_channels}')
    if arch.act != 'relu6':
        parts.append(f'act={arch.act}')
    if arch.bn_eps is not None:
        parts.append(f'bn_eps={float(arch.bn_eps)!r}')
    if arch.stem != DEFAULT_STEM:
        parts.append(f'stem={arch.stem}')
    return '|'.join(parts)


def check_token(token: Any, where: str) -> None:
    """Raises ValueError, with the place, for what is not a layer token."""
    if token != SKIP:
        call_at(where, BlockSpec.parse, token)
