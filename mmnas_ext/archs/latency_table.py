"""Latencies of layers, measured once on a device and read wherever a network is priced."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mmnas_ext.archs.blocks import ACTIVATIONS, BlockSpec
from mmnas_ext.archs.convs import STEM_TOKENS
from mmnas_ext.archs.host_choices import HostChoice
from mmnas_ext.archs.json_file import parse_json
from mmnas_ext.archs.literal import abbreviate, call_at, check_keys, check_list
from mmnas_ext.archs.places import Place

_FORMS = 'a LatencyTable, a dict, JSON text or a .json path'
# a space has at most 4000 candidates, an entry some 150 characters
_MAX_TEXT = 1_000_000
_DECIMALS = 6  # of a millisecond
_ROWS = ('entries', 'hosts')
_OF_HOST = ('host', 'macs', 'ms')


class Geometry(NamedTuple):
    """All that the latency of a layer depends on, on a given device.

    Args:
        token: The block, or that of the stem that a network begins with: ``'stem'`` for a 3x3 convolution.
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride.
        dilation: Dilation of the k x k convolutions.
        height: Height of the input in pixels.
        width: Width of the input in pixels.
    """

    token: str
    in_channels: int
    channels: int
    stride: int
    dilation: int
    height: int
    width: int

    @classmethod
    def of(cls, place: Place, token: str) -> 'Geometry':
        """That of a candidate of a place."""
        return cls(token, place.in_channels, place.channels, place.stride, place.dilation, *place.size)

    def __str__(self) -> str:
        dilated = f', dilation {self.dilation}' if self.dilation > 1 else ''
        return (
            f'{self.token} {self.in_channels} -> {self.channels}, stride {self.stride}{dilated}, '
            f'of {self.height}x{self.width}'
        )


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of layers on one device; ``table[geometry]`` is one entry.

    Args:
        device: What was measured on, for people.
        batch_size: Images per batch; an entry is the time of a whole batch.
        entries: Geometries, each once, and the milliseconds of each, kept to the nanosecond.
        act: Activation of the layers, as `ArchSpec.act`.
        channels_last: Whether activations were in memory layout NHWC.
        threads: Threads that a CPU computed with, if that is known.
        hosts: Of a search that chooses neck and head too: the text of each `HostChoice`, the multiply-adds of its neck
            and head, by which they are known, and their milliseconds.

    Raises:
        ValueError: A field is out of its range, or a geometry or host stands twice.
    """

    device: str
    batch_size: int
    entries: tuple[tuple[Geometry, float], ...]
    act: str = 'relu6'
    channels_last: bool = False
    threads: int | None = None
    hosts: tuple[tuple[str, int, float], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not self.device:
            raise ValueError(f'device must be a name, got {abbreviate(self.device)}')
        _check_whole('batch_size', self.batch_size)
        if self.threads is not None:
            _check_whole('threads', self.threads)
        if not isinstance(self.channels_last, bool):
            raise ValueError(f'channels_last must be true or false, got {abbreviate(self.channels_last)}')
        if self.act not in ACTIVATIONS:
            raise ValueError(f'act must be one of {ACTIVATIONS}, got {abbreviate(self.act)}')
        if not self.entries:
            raise ValueError('entries must hold at least one layer, got none')
        kept = tuple(_entry(number, *entry) for number, entry in enumerate(self.entries))
        object.__setattr__(self, 'entries', kept)
        if len(self._by_geometry) < len(kept):
            twice = Counter(geometry for geometry, _ in kept).most_common(1)[0][0]
            raise ValueError(f'entries hold a layer twice: {twice}')
        hosts = tuple(_host(number, *host) for number, host in enumerate(self.hosts))
        object.__setattr__(self, 'hosts', hosts)
        if len({text for text, _, _ in hosts}) < len(hosts):
            raise ValueError(f'hosts hold one twice, got {[text for text, _, _ in hosts]!r:.100}')

    def __getitem__(self, geometry: Geometry) -> float:
        return self._by_geometry[geometry]

    def __contains__(self, geometry: object) -> bool:
        return geometry in self._by_geometry

    @cached_property
    def _by_geometry(self) -> dict[Geometry, float]:
        return dict(self.entries)

    @classmethod
    def parse(cls, source: Any) -> 'LatencyTable':
        """Reads a dict, JSON text or a ``.json`` path; a table is returned as it is.

        Raises:
            ValueError: The content is malformed; the message says where and why.
            TypeError: `source` is of another type.
            FileNotFoundError: A ``.json`` path that does not exist.
        """
        if isinstance(source, LatencyTable):
            return source
        if isinstance(source, Mapping):
            return call_at('latency table', _from_mapping, source)
        if isinstance(source, Path) or (isinstance(source, str) and source.rstrip().endswith('.json')):
            path = Path(source.strip() if isinstance(source, str) else source)
            if not path.is_file():
                raise FileNotFoundError(f'latency table does not exist: {path}; mmnas latency measures one')
            return call_at(f'latency table {path}', lambda: _from_text(_text_of(path)))
        if isinstance(source, str):
            return call_at('latency table', _from_text, source)
        raise TypeError(f'a latency table must be given as {_FORMS}, got {type(source).__name__}')

    def format(self) -> str:
        """The table as JSON text, one line a layer; `parse` reads it back."""
        rest = ',\n  '.join(
            f'"{f.name}": {json.dumps(getattr(self, f.name))}' for f in fields(self) if f.name not in _ROWS
        )
        lines = ',\n    '.join(json.dumps({**geometry._asdict(), 'ms': ms}) for geometry, ms in self.entries)
        hosts = ',\n    '.join(json.dumps(dict(zip(_OF_HOST, host, strict=True))) for host in self.hosts)
        rest += f',\n  "hosts": [\n    {hosts}\n  ]' if hosts else ''
        return f'{{\n  {rest},\n  "entries": [\n    {lines}\n  ]\n}}\n'


def _text_of(path: Path) -> str:
    size = path.stat().st_size
    if size > 4 * _MAX_TEXT:
        raise ValueError(f'the file is too large, {size} bytes')
    return path.read_text(encoding='utf-8')


def _from_text(text: str) -> LatencyTable:
    if len(text) > _MAX_TEXT:
        raise ValueError(f'the text is too long, {len(text)} characters; {_MAX_TEXT} are read')
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError(f'must be a JSON object, got {abbreviate(content)}')
    return _from_mapping(content)


def _from_mapping(content: Mapping[Any, Any]) -> LatencyTable:
    names = [field.name for field in fields(LatencyTable)]
    check_keys(content, '', ('device', 'batch_size', 'entries'), names)
    wanted = (*Geometry._fields, 'ms')
    rows = []
    for number, row in enumerate(check_list(content['entries'], 'entries', 'layers')):
        if not isinstance(row, Mapping):
            raise ValueError(f'entries[{number}] must be a mapping, got {abbreviate(row)}')
        check_keys(row, f'entries[{number}]', wanted, wanted)
        rows.append((Geometry(*(row[name] for name in Geometry._fields)), row['ms']))
    hosts = []
    for number, row in enumerate(check_list(content.get('hosts', []), 'hosts', 'necks and heads')):
        if not isinstance(row, Mapping):
            raise ValueError(f'hosts[{number}] must be a mapping, got {abbreviate(row)}')
        check_keys(row, f'hosts[{number}]', _OF_HOST, _OF_HOST)
        hosts.append(tuple(row[name] for name in _OF_HOST))
    given = {name: content[name] for name in names if name in content}
    return LatencyTable(**{**given, 'entries': tuple(rows), 'hosts': tuple(hosts)})


def _entry(number: int, geometry: Geometry, ms: float) -> tuple[Geometry, float]:
    where = f'entries[{number}]'
    token, *numbers = Geometry(*geometry)
    if token not in STEM_TOKENS:
        token = call_at(where, BlockSpec.parse, token).format()
    for name, value in zip(Geometry._fields[1:], numbers, strict=True):
        _check_whole(f'{where}.{name}', value)
    return Geometry(token, *numbers), _milliseconds(where, ms)


def _host(number: int, text: str, macs: int, ms: float) -> tuple[str, int, float]:
    where = f'hosts[{number}]'
    _check_whole(f'{where}.macs', macs)
    name = call_at(where, HostChoice.parse, text).format()
    return name, macs, _milliseconds(where, ms)


def _milliseconds(where: str, ms: Any) -> float:
    number_given = isinstance(ms, int | float) and not isinstance(ms, bool) and math.isfinite(ms)
    if not number_given or round(ms, _DECIMALS) <= 0:
        raise ValueError(f'{where}.ms must be a number of milliseconds, at least a nanosecond, got {abbreviate(ms)}')
    return round(float(ms), _DECIMALS)


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be a positive integer, got {abbreviate(value)}')
