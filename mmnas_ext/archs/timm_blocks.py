"""timm's block strings: ``ir_r2_k3_s2_e6_c24_se0.25`` is two MBConv layers, the first of stride 2.

Fields: ``r`` repeats, ``k`` kernel, ``s`` stride, ``e`` expansion, ``c`` channels out, ``se`` squeeze-excite ratio,
``n`` activation, ``noskip``. ``ds`` is a layer without expansion convolution, ``er`` a fused MBConv, ``cn`` a plain
convolution: with ``skip`` it is a fused MBConv of expansion 1, and without this project writes the stem and the head
so. The stem carries ``eps``, a field that timm's decoder passes over, and says the network's activation. ResNet's
blocks and stem and MobileNetV3's squeeze-excite, whose width the strings leave to the model, are not written.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mmnas_ext.archs.blocks import BlockSpec, FusedSpec, LayerSpec, decimals
from mmnas_ext.archs.convs import DEFAULT_STEM
from mmnas_ext.archs.literal import abbreviate, call_at, check_list, number
from mmnas_ext.archs.spec import MAX_LAYERS, ArchSpec, StageSpec

_STEM_CHANNELS = 32
_ACTS = {'re': 'relu', 'r6': 'relu6', 'sw': 'swish', 'hs': 'hswish'}
_ACT_FIELDS = {'relu': '_nre', 'relu6': '', 'swish': '_nsw', 'hswish': '_nhs'}
_FIELD = re.compile(r'(noskip|skip)|(n|eps|se|[rksec])(.+)')
_FIELDS_OF = {
    'ir': {'r', 'k', 's', 'e', 'c', 'se', 'n', 'noskip'},
    'ds': {'r', 'k', 's', 'e', 'c', 'se', 'n', 'noskip'},
    'er': {'r', 'k', 's', 'e', 'c', 'se', 'n', 'noskip'},
    'cn': {'r', 'k', 's', 'e', 'c', 'n', 'eps', 'skip'},
}
_NEEDED_BY = {'ir': ('k', 'e', 'c'), 'ds': ('k', 'c'), 'er': ('k', 'e', 'c'), 'cn': ('k', 'c')}
# with and without a convolution that widens
_KINDS: dict[type[BlockSpec], tuple[str, str]] = {LayerSpec: ('ir', 'ds'), FusedSpec: ('er', 'cn')}


@dataclass(frozen=True)
class _BlockString:
    """One string, read. `where` is its place, for messages."""

    where: str
    kind: str
    repeats: int
    kernel: int
    stride: int
    expansion: int | float
    channels: int
    se: float
    act: str
    noskip: bool
    skip: bool
    eps: float | None


def parse_timm(stages: Any) -> ArchSpec:
    """Reads lists of block strings, one list (or one string) a stage.

    A leading 3x3 stride-2 ``cn`` is the stem, else the stem has 32 channels; a trailing 1x1 ``cn`` is the head.

    Raises:
        ValueError: Names the string's place and what is wrong with it.
    """
    rows = []
    for i, stage in enumerate(check_list(stages, 'stages', 'lists of block strings')):
        strings = [stage] if isinstance(stage, str) else check_list(stage, f'stages[{i}]', 'block strings')
        if not strings:
            raise ValueError(f'stages[{i}] must hold at least one block string, got none')
        rows.append([_read(text, f'stages[{i}][{j}]') for j, text in enumerate(strings)])
    fields: dict[str, Any] = {}
    channels = _STEM_CHANNELS
    stem = head = None
    if rows and _is_end(rows[0][0]):
        stem = _plain(rows.pop(0), 'the stem', kernel=3, stride=2)
        channels, fields['bn_eps'] = stem.channels, stem.eps
    if rows and _is_end(rows[-1][0]):
        head = _plain(rows.pop(), 'the head', kernel=1, stride=1)
        fields['head_channels'] = head.channels
    fields['act'] = _network_act(stem, [block for row in rows for block in row], head)
    specs: list[StageSpec] = []
    for row in rows:
        specs.append(_stage(row, channels, fields['act']))
        channels = specs[-1].channels
    return ArchSpec(tuple(specs), **fields)


def format_timm(arch: ArchSpec) -> str:
    """Writes stem, stages and head as JSON text of lists of block strings.

    Raises:
        ValueError: Block strings do not say what a layer or the stem is.
    """
    if arch.stem != DEFAULT_STEM:
        raise ValueError(f"timm's block strings have no stem {arch.stem!r}: write this network as 'fna' or 'json'")
    act = _ACT_FIELDS[arch.act]
    eps = '' if arch.bn_eps is None else f'_eps{float(arch.bn_eps)!r}'
    rows = [[f'cn_r1_k3_s2_c{arch.stem_channels}{act}{eps}']]
    for stage in arch.stages:
        row: list[str] = []
        for token, group in groupby(stage.layers):
            block = BlockSpec.parse(token)
            if type(block) not in _KINDS or block.hard:
                raise ValueError(f"timm's block strings do not say {token}: write this network as 'fna' or 'json'")
            kind = _KINDS[type(block)][block.expansion == 1]
            row.append(
                f'{kind}_r{len(list(group))}_k{block.kernel}_s{1 if row else stage.stride}'
                f'_e{decimals(block.expansion)}_c{stage.channels}'
                + (f'_se{decimals(block.se)}' if block.se else '')
                + ('_skip' if kind == 'cn' else '')
                + _ACT_FIELDS[block.act or arch.act]
            )
        rows.append(row)
    if arch.head_channels is not None:
        rows.append([f'cn_r1_k1_s1_c{arch.head_channels}{act}'])
    return json.dumps(rows)


def _read(text: Any, where: str) -> _BlockString:
    if not isinstance(text, str):
        raise ValueError(f'{where} must be a block string, got {abbreviate(text)}')
    if len(text) > 200:
        raise ValueError(f'{where} must be a block string, got {len(text)} characters')
    kind, *parts = text.split('_')
    if kind not in _FIELDS_OF:
        raise ValueError(
            f'{where}: unknown block type {abbreviate(kind)} in {abbreviate(text)}, known: {", ".join(_FIELDS_OF)}'
        )
    found: dict[str, str] = {}
    for part in parts:
        match = _FIELD.fullmatch(part)
        name = (match[1] or match[2]) if match else ''
        if match is None or name not in _FIELDS_OF[kind]:
            raise ValueError(f'{where}: field {abbreviate(part)} of {abbreviate(text)} is not one that {kind!r} has')
        if name in found:
            raise ValueError(f'{where}: field {name!r} stands twice in {abbreviate(text)}')
        found[name] = match[3] or ''
    for name in _NEEDED_BY[kind]:
        if name not in found:
            raise ValueError(f'{where}: field {name!r} is missing in {abbreviate(text)}')
    if found.get('n', 'r6') not in _ACTS:
        raise ValueError(f'{where}: field n must be one of {", ".join(_ACTS)}, got {abbreviate(found["n"])}')
    block = _BlockString(
        where=where,
        kind=kind,
        repeats=_whole(found, 'r', where, 1),
        kernel=_whole(found, 'k', where, 1),
        stride=_whole(found, 's', where, 1),
        expansion=_factor(found, where),
        channels=_whole(found, 'c', where, 1),
        se=float(call_at(f'{where}: field se', number, found.get('se', '0'), True)),
        act=_ACTS[found.get('n', 'r6')],
        noskip='noskip' in found,
        skip='skip' in found,
        eps=float(call_at(f'{where}: field eps', number, found['eps'], True)) if 'eps' in found else None,
    )
    _check_kind(block)
    return block


def _whole(found: dict[str, str], name: str, where: str, default: int) -> int:
    return int(call_at(f'{where}: field {name}', number, found[name], False)) if name in found else default


def _factor(found: dict[str, str], where: str) -> int | float:
    value = call_at(f'{where}: field e', number, found.get('e', '1'), True)
    return int(value) if float(value).is_integer() else value


def _check_kind(block: _BlockString) -> None:
    if not 1 <= block.repeats <= MAX_LAYERS:
        raise ValueError(f'{block.where}: field r must lie in 1..{MAX_LAYERS}, got {block.repeats}')
    wide = next((wide for wide, narrow in _KINDS.values() if block.kind == narrow), None)
    if wide is not None and block.expansion != 1:
        raise ValueError(
            f'{block.where}: a {block.kind} block has no expansion, got e{block.expansion}; {wide} has one'
        )
    narrow = next((narrow for wide, narrow in _KINDS.values() if block.kind == wide), None)
    if narrow is not None and block.expansion == 1:
        # timm builds a second convolution of unchanged width there; a layer of expansion 1 has one less here
        raise ValueError(
            f'{block.where}: an {block.kind} block of e1 is another network than this project builds; {narrow} is meant'
        )


def _is_end(block: _BlockString) -> bool:
    """Whether a string is the stem or the head."""
    return block.kind == 'cn' and not block.skip


def _network_act(stem: _BlockString | None, blocks: Sequence[_BlockString], head: _BlockString | None) -> str:
    """The stem's activation, which the head shares and layers may not; without a stem all have one."""
    ends = [block for block in (stem, head) if block is not None]
    alike = ends if stem else [*blocks, *ends]
    for block in alike:
        if block.act != alike[0].act:
            raise ValueError(
                f'{block.where} has activation {block.act}, but {alike[0].where} has {alike[0].act}: '
                'one network has one activation, layers excepted where a leading cn says which'
            )
    return alike[0].act if alike else 'relu6'


def _plain(row: Sequence[_BlockString], what: str, kernel: int, stride: int) -> _BlockString:
    block = row[0]
    if len(row) > 1 or (block.repeats, block.kernel, block.stride) != (1, kernel, stride):
        raise ValueError(
            f'{block.where}: {what} must be a stage of one cn_r1_k{kernel}_s{stride} string, '
            f'got r{block.repeats} k{block.kernel} s{block.stride} in a stage of {len(row)}'
        )
    return block


def _stage(row: Sequence[_BlockString], in_channels: int, act: str) -> StageSpec:
    head, channels, tokens = row[0], in_channels, list[str]()
    for block in row:
        if _is_end(block):
            raise ValueError(f'{block.where}: cn without skip can only be the stem (first) or the head (last)')
        if block.channels != head.channels:
            raise ValueError(f'{block.where}: a stage has one width, got c{block.channels} after c{head.channels}')
        if tokens and block.stride != 1:
            raise ValueError(f'{block.where}: only the first layer of a stage can have a stride, got s{block.stride}')
        keeps = block.channels == channels and block.stride == 1
        if block.noskip and (keeps or block.repeats > 1):
            raise ValueError(f'{block.where}: noskip on a layer that has a shortcut here, which cannot be left out')
        if len(tokens) + block.repeats > MAX_LAYERS:
            raise ValueError(f'{block.where}: more than {MAX_LAYERS} layers')
        kind = next(kind for kind, strings in _KINDS.items() if block.kind in strings)
        own = None if block.act == act else block.act
        token = call_at(block.where, kind, block.kernel, block.expansion, block.se, False, 1, own).format()
        tokens += [token] * block.repeats
        channels = block.channels
    return call_at(head.where, StageSpec, in_channels, head.channels, tuple(tokens), head.stride)
