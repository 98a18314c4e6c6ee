"""The part of ``front.json`` that all methods share: read back as written, numbered by cost, refused where wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmnas_ext.archs import ArchSpec, Limit
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork

NARROW, WIDE = (ArchSpec.parse(f'[[8, {width}], ["k3_e1"], 1]|bn_eps=0.001') for width in (4, 12))


def network(
    macs: float, reached: float | None = 0.5, origin: str = 'front', arch: ArchSpec = NARROW
) -> MeasuredNetwork:
    metrics = {} if reached is None else {'mIoU': reached}
    return MeasuredNetwork(arch, {'macs': macs, 'params': 7}, metrics, 1.5 if origin == 'front' else None, origin)


def front() -> MeasuredFront:
    """Three networks to pick from and a seed between them, out of order."""
    networks = (network(300, 0.7, 'chosen', WIDE), network(100, None), network(200, 0.6, 'seed'), network(250, 0.65))
    return MeasuredFront('macs', 'mIoU', 'greater', networks, {'macs': Limit(None, 310), 'params': Limit(5, 9)})


def test_a_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    file = front().write(tmp_path)
    assert file == tmp_path / 'front.json'
    content = json.loads(file.read_text())
    for source in (file, str(tmp_path), content, {**content, 'choices': [[0]], 'costs': [1]}):
        assert MeasuredFront.parse(source) == front()
    assert MeasuredFront.find(tmp_path) == MeasuredFront.find(file) == front()


def test_networks_are_numbered_by_cost_without_the_seed() -> None:
    value = front()
    assert [each.costs['macs'] for each in value.networks] == [100, 200, 250, 300]
    assert [number for number, _ in value.numbered] == [0, None, 1, 2]
    assert [value.pick(number).costs['macs'] for number in range(3)] == [100, 250, 300]
    assert value.pick(2).arch == WIDE  # with its epsilon
    assert value.seed == network(200, 0.6, 'seed')


@pytest.mark.parametrize('number', [-1, 3])
def test_a_number_that_does_not_exist_is_told_with_those_that_do(number: int) -> None:
    with pytest.raises(ValueError, match=rf'the front has networks 0\.\.2, got {number}'):
        front().pick(number)


def test_without_measured_networks_there_is_nothing_to_find(tmp_path: Path) -> None:
    assert MeasuredFront.find(tmp_path) is None
    with pytest.raises(FileNotFoundError, match='front file does not exist: .* a search that measures its front'):
        MeasuredFront.parse(tmp_path)
    (tmp_path / 'front.json').write_text('{"metric": "macs"}')
    assert MeasuredFront.find(tmp_path) is None
    with pytest.raises(ValueError, match=r'front\.json has no measured networks'):
        MeasuredFront.parse(tmp_path)


@pytest.mark.parametrize(
    ('place', 'value', 'message'),
    [
        (('metric',), 'watts', "metric must be among .*, got 'watts'"),
        (('metric',), 'latency', r"network 0: costs lack latency, got \['macs', 'params'\]"),
        (('rank_by',), 3, 'rank_by must be a text, got 3'),
        (('rule',), 'more', r"rule must be one of \('greater', 'less'\), got 'more'"),
        (('networks',), [], 'networks must hold at least 1, got 0'),
        (('networks',), {'a': 1}, 'networks must be a list'),
        (('networks', 1), 'x', "networks must be an object, got 'x'"),
        (('networks', 1, 'arch'), 'nothing', 'network 1: arch: '),
        (('networks', 1, 'costs'), {}, r'network 1: costs must be by metric, .* got none'),
        (('networks', 1, 'costs'), {'watts': 1}, r"network 1: costs must be by metric, .* got \['watts'\]"),
        (('networks', 1, 'costs', 'macs'), -1, 'network 1: costs must be at least 0, got -1'),
        (('networks', 1, 'costs', 'macs'), 'few', "network 1: costs: macs must be a number, got 'few'"),
        (('networks', 2, 'metrics', 'mIoU'), float('nan'), 'network 2: metrics: mIoU must be a finite number'),
        (('networks', 2, 'score'), 'good', "network 2: score must be a number, got 'good'"),
        (('networks', 2, 'origin'), 'best', "network 2: origin must be one of .* got 'best'"),
        (('networks', 2, 'origin'), 'seed', "networks must hold at most one whose origin is 'seed', got 2"),
        (('networks', 2, 'origin'), 'chosen', "networks must hold at most one whose origin is 'chosen', got 2"),
        (('limits', 'macs'), 'much', "limits macs.max must be a number or None, got 'much'"),
        (('limits', 'watts'), 3, r"limits must be by metric, .* got \['watts'\]"),
    ],
)
def test_what_is_not_of_the_form_is_refused(tmp_path: Path, place: tuple[Any, ...], value: Any, message: str) -> None:
    content = front().plain()
    holder: Any = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (tmp_path / 'front.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf'front\.json: {message}'):
        MeasuredFront.parse(tmp_path)


def test_a_seed_alone_is_no_front() -> None:
    with pytest.raises(ValueError, match='networks must hold at least one beside the seed, got none'):
        MeasuredFront('macs', 'mIoU', 'less', (network(1, 1, 'seed'),))
    one = MeasuredFront('macs', 'mIoU', 'less', (network(1, 1, 'seed'), network(1)))
    assert [number for number, _ in one.numbered] == [None, 0]
