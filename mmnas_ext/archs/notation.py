"""The three notations of an architecture, each read and written: JSON, FNA's text, timm's block strings.

FNA's text is the authors' own, ``[[16, 24], ['k3_e6', 'skip'], 2]|…``: channels in and out, layers, stride, per stage.
It has no place for the rest of an `ArchSpec`, so ``|head=1280|act=swish|bn_eps=0.001`` may follow, each only where it
is not the default. timm's is a list of stages, each a list of strings such as ``ir_r2_k3_s2_e6_c24_se0.25``.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mmnas_ext.archs.literal import MAX_TEXT, Reader, abbreviate, call_at, check_list, number
from mmnas_ext.archs.space import SearchSpace, SpaceStage
from mmnas_ext.archs.spec import SKIP, ArchSpec, LayerSpec, StageSpec
from mmnas_ext.archs.timm_blocks import format_timm, parse_timm

NOTATIONS = ('json', 'fna', 'timm')
_FORMS = 'FNA text, timm block strings, JSON text, a .json path or a zoo name'
SPACE_FORMS = 'JSON text, a .json path or a zoo name'
_KEYS = ('stages', 'head_channels', 'act', 'bn_eps', 'source')
_STAGE_KEYS = ('in_channels', 'channels', 'layers', 'stride')
_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_.\-]*')
_ATTRIBUTE = re.compile(r'(\w+)[ \t]*=[ \t]*([^|\s]*)')
_ATTRIBUTES = {'head': 'head_channels', 'act': 'act', 'bn_eps': 'bn_eps'}

_Read = TypeVar('_Read')


# --- entry points --------------------------------------------------------------------------------------------------


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
    from mmnas_ext.archs import zoo

    if isinstance(source, ArchSpec):
        return source
    if isinstance(source, Mapping):
        return _arch_from_mapping(source)
    if isinstance(source, (list, tuple)):
        return parse_timm(source)
    return from_text(source, 'architecture', _FORMS, _arch_from_text, zoo.arch)


def parse_space(source: Any) -> SearchSpace:
    """Reads a search space; `source` is left as it was.

    Args:
        source: JSON text or a dict of the same content, a path that ends in ``.json``, a zoo name, or a `SearchSpace`,
            which is returned.

    Raises:
        ValueError: The content is malformed; the message says where and why.
        TypeError: `source` is of another type.
        FileNotFoundError: There is no such ``.json`` file.
    """
    from mmnas_ext.archs import zoo

    if isinstance(source, SearchSpace):
        return source
    if isinstance(source, Mapping):
        return _space_from_mapping(source)
    return from_text(source, 'search space', SPACE_FORMS, _space_from_text, zoo.space)


def format_arch(arch: ArchSpec, notation: str = 'fna') -> str:
    """Writes an architecture; `parse_arch` of the result equals `arch`.

    Args:
        arch: The architecture.
        notation: ``'json'``, ``'fna'`` or ``'timm'``.

    Raises:
        ValueError: `notation` is none of these.
    """
    if notation == 'json':
        return _json_text(arch, [json.dumps(_stage_fields(stage)) for stage in arch.stages])
    if notation == 'fna':
        return _fna_text(arch)
    if notation == 'timm':
        return format_timm(arch)
    raise ValueError(f'notation must be one of {NOTATIONS}, got {notation!r}')


def format_space(space: SearchSpace) -> str:
    """Writes a search space as JSON text, one line a stage; `parse_space` of the result equals `space`."""
    return _json_text(space, [json.dumps(_stage_fields(stage)) for stage in space.stages])


def from_text(
    source: Any, kind: str, forms: str, read: Callable[[str], _Read], by_name: Callable[[str], _Read]
) -> _Read:
    """Tells a path, a zoo name and content apart, and names in errors what was read."""
    if isinstance(source, Path):
        return _from_file(source, kind, read)
    if not isinstance(source, str):
        raise TypeError(f'{kind} must be given as {forms}, got {type(source).__name__}')
    text = source.strip() if len(source) <= MAX_TEXT else source
    if len(text) < 4096 and text.endswith('.json') and '\0' not in text and not text.startswith(('[', '{')):
        return _from_file(Path(text), kind, read)
    if _NAME.fullmatch(text) and len(text) <= MAX_TEXT:
        return by_name(text)
    try:
        return read(source)
    except ValueError as error:
        raise ValueError(f'{kind}: {error}') from None


def _from_file(path: Path, kind: str, read: Callable[[str], _Read]) -> _Read:
    if not path.is_file():
        raise FileNotFoundError(f'{kind} file does not exist: {path}')
    try:
        size = path.stat().st_size
        if size > 4 * MAX_TEXT:
            raise ValueError(f'the file is too large, {size} bytes')
        return read(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{kind} file {path}: {error}') from None


# --- JSON ----------------------------------------------------------------------------------------------------------


def _arch_from_mapping(fields: Mapping[Any, Any]) -> ArchSpec:
    stages = _stage_mappings(fields)
    return build(ArchSpec, [_arch_stage(stage, f'stages[{i}]') for i, stage in enumerate(stages)], fields)


def _space_from_text(text: str) -> SearchSpace:
    return _space_from_mapping(read_mapping(text))


def read_mapping(text: str) -> Mapping[Any, Any]:
    """Reads JSON text of a mapping.

    Raises:
        ValueError: It is none; the message says at which character.
    """
    reader = Reader(text)
    if reader.peek() != '{':
        reader.fail(f"expected '{{' ({SPACE_FORMS} is read), got {reader.describe()}")
    fields: Mapping[Any, Any] = reader.value()
    reader.end()
    return fields


def _space_from_mapping(fields: Mapping[Any, Any]) -> SearchSpace:
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


def check_keys(fields: Mapping[Any, Any], where: str, wanted: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    """Raises ValueError for a key of a mapping that is unknown or missing."""
    prefix = f'{where}: ' if where else ''
    unknown = [key for key in fields if key not in allowed]
    if unknown:
        raise ValueError(f'{prefix}unknown key {abbreviate(unknown[0])}, allowed are {", ".join(allowed)}')
    missing = [key for key in wanted if key not in fields]
    if missing:
        raise ValueError(f'{prefix}key {missing[0]!r} is missing')


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
        ValueError: They are no lists of tokens; the message says where.
    """
    found = []
    for j, candidates in enumerate(check_list(layers, where, 'lists of candidates')):
        found.append(tuple(check_list(candidates, f'{where}[{j}]', 'candidates')))
        for k, token in enumerate(found[-1]):
            check_token(token, f'{where}[{j}][{k}]')
    return tuple(found)


def build(cls: Callable[..., _Read], stages: list[Any], fields: Mapping[Any, Any], **more: Any) -> _Read:
    """Makes an architecture or a space of its stages, `more` and the fields that all have."""
    source = fields.get('source', '')
    if not isinstance(source, str):
        raise ValueError(f'source must be a string, got {abbreviate(source)}')
    rest = {key: fields[key] for key in ('head_channels', 'act', 'bn_eps') if key in fields}
    return cls(stages=tuple(stages), **more, **rest)


def _stage_fields(stage: StageSpec | SpaceStage) -> dict[str, Any]:
    return {key: getattr(stage, key) for key in _STAGE_KEYS}


def _json_text(spec: ArchSpec | SearchSpace, stages: list[str]) -> str:
    lines = ',\n    '.join(stages)
    rest = ',\n  '.join(f'"{key}": {json.dumps(getattr(spec, key))}' for key in ('head_channels', 'act', 'bn_eps'))
    return f'{{\n  "stages": [\n    {lines}\n  ],\n  {rest}\n}}\n'


# --- FNA text ------------------------------------------------------------------------------------------------------


def _arch_from_text(text: str) -> ArchSpec:
    reader = Reader(text)
    if reader.peek() == '{':
        fields = reader.value()
        reader.end()
        return _arch_from_mapping(fields)
    if reader.peek() != '[':
        reader.fail(f"expected '[' or '{{' ({_FORMS} is read), got {reader.describe()}")
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
            reader.fail(f'expected a stage or one of head=, act=, bn_eps=, got {reader.describe()}')
        name = _ATTRIBUTES[found[1]]
        if name in fields:
            reader.fail(f'{found[1]} is given twice', start)
        try:
            fields[name] = found[2] if name == 'act' else number(found[2], name == 'bn_eps')
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
    return '|'.join(parts)


def check_token(token: Any, where: str) -> None:
    """Raises ValueError, with the place, for what is no layer token."""
    if token != SKIP:
        call_at(where, LayerSpec.parse, token)
