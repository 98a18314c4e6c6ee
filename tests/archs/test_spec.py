"""What may be an architecture, and what its parts answer."""

import ast
import dataclasses
import sys
from pathlib import Path

import pytest

import mmnas_ext.archs
from mmnas_ext.archs import ArchSpec, LayerSpec, StageSpec

FIRST = StageSpec(32, 16, ('k3_e1',), 1)


@pytest.mark.parametrize(
    ('token', 'kernel', 'expansion', 'se', 'canonical'),
    [
        ('k3_e1', 3, 1, 0.0, 'k3_e1'),
        ('k5_e3_se0.25', 5, 3, 0.25, 'k5_e3_se0.25'),
        ('k7_e6_se.25', 7, 6, 0.25, 'k7_e6_se0.25'),
        ('k7_e6_se0.0', 7, 6, 0.0, 'k7_e6'),
        ('k11_e12_se1.0', 11, 12, 1.0, 'k11_e12_se1'),
        ('k3_e6_se0.000001', 3, 6, 0.000001, 'k3_e6_se0.000001'),
        ('k3_e6_se0.50', 3, 6, 0.5, 'k3_e6_se0.5'),
    ],
)
def test_block_token_is_read_and_written(token: str, kernel: int, expansion: int, se: float, canonical: str) -> None:
    block = LayerSpec.parse(token)
    assert (block.kernel, block.expansion, block.se) == (kernel, expansion, se)
    assert block.format() == canonical


@pytest.mark.parametrize(
    'token',
    [
        *('', 'skip', 'k3', 'e6', 'k3_e6_', 'k3_e6_se', 'k3_e6_se2', 'k-3_e6', 'k3_e-6', 'k3.0_e6', 'K3_E6', 'k3_e6 '),
        *('k3_e6\n', 'k³_e6', 'k٣_e٦', 'k333_e6', 'k3_e6_se0.1234567', '__import__("os")'),
        *(3, None, ['k3_e6'], b'k3_e6'),
    ],
)
def test_wrong_token_is_refused(token: object) -> None:
    with pytest.raises(ValueError, match='unknown layer token'):
        LayerSpec.parse(token)


@pytest.mark.parametrize(
    ('kernel', 'expansion', 'se', 'message'),
    [
        (4, 6, 0.0, r'kernel must be odd and in 1\.\.99, got 4'),
        (0, 6, 0.0, 'kernel must be odd'),
        (-3, 6, 0.0, 'kernel must be odd.* got -3'),
        (101, 6, 0.0, 'kernel must be odd.* got 101'),
        (3.0, 6, 0.0, r'kernel must be odd.* got 3\.0'),
        (True, 6, 0.0, 'kernel must be odd.* got True'),
        (3, 0, 0.0, 'expansion must be an integer in 1..99 or a decimal number, got 0'),
        (3, 100, 0.0, 'expansion must be an integer in 1..99 or a decimal number, got 100'),
        (3, 6.0, 0.0, r'expansion must be an integer.* got 6\.0'),
        (3, 6, -0.25, r'se ratio must be a number in \[0, 1\], got -0\.25'),
        (3, 6, 1.5, 'se ratio must be a number'),
        (3, 6, '0.25', "se ratio must be a number.* got '0.25'"),
        (3, 6, float('nan'), 'se ratio must be a number'),
        (3, 6, 0.12345678, 'at most 6 decimals'),
    ],
)
def test_block_out_of_range_is_refused(kernel: int, expansion: int, se: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerSpec(kernel, expansion, se)


@pytest.mark.parametrize(('in_channels', 'squeezed'), [(16, 4), (40, 10), (80, 20), (2, 1), (1, 1), (18, 4), (22, 6)])
def test_squeeze_counts_the_layers_input(in_channels: int, squeezed: int) -> None:
    # a quarter of the input, rounded as Python rounds (4.5 -> 4, 5.5 -> 6), never none
    assert LayerSpec(5, 6, 0.25).squeezed(in_channels) == squeezed
    assert LayerSpec(5, 6).squeezed(in_channels) == 0
    assert LayerSpec(5, 6).hidden(in_channels) == 6 * in_channels


def test_skips_fall_away() -> None:
    with_skips = StageSpec(16, 24, ('k3_e6', 'skip', 'k5_e3', 'skip'), 2)
    assert with_skips == StageSpec(16, 24, ('k3_e6', 'k5_e3'), 2)
    assert with_skips.layers == ('k3_e6', 'k5_e3')
    assert with_skips.specs == (LayerSpec(3, 6), LayerSpec(5, 3))


def test_lists_become_tuples_and_values_hash() -> None:
    arch = ArchSpec([StageSpec(32, 16, ['k3_e1'], 1)])
    assert arch == ArchSpec((FIRST,))
    assert len({arch, ArchSpec((FIRST,))}) == 1


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ((0, 16, ('k3_e1',), 1), 'in_channels must be an integer in 1..65536, got 0'),
        ((32, -16, ('k3_e1',), 1), 'stage channels must be an integer in 1..65536, got -16'),
        ((32, 65537, ('k3_e1',), 1), 'stage channels must be'),
        ((32, 16.0, ('k3_e1',), 1), r'stage channels must be .* got 16\.0'),
        ((True, 16, ('k3_e1',), 1), 'in_channels must be .* got True'),
        ((32, '16', ('k3_e1',), 1), "stage channels must be .* got '16'"),
        ((32, 16, ('k3_e1',), 3), 'stride must be 1 or 2, got 3'),
        ((32, 16, ('k3_e1',), True), 'stride must be 1 or 2, got True'),
        ((32, 16, ('k3_e1',), 2.0), r'stride must be 1 or 2, got 2\.0'),
        ((32, 16, (), 1), 'at least one layer, got none'),
        ((32, 16, ('skip', 'k3_e1'), 1), "first layer of a stage cannot be 'skip': it changes channels 32 -> 16"),
        ((32, 16, ('k3_e1', 'k4_e1'), 1), 'kernel must be odd'),
        ((32, 16, 'k3_e1', 1), "unknown layer token 'k'"),
    ],
)
def test_wrong_stage_is_refused(fields: tuple[int, int, tuple[str, ...], int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageSpec(*fields)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'stages': ()}, r'needs 1\.\.64 stages, got none'),
        ({'stages': (StageSpec(16, 16, ('k3_e1',), 1),) * 65}, r'needs 1\.\.64 stages, got 65'),
        ({'stages': (StageSpec(16, 16, ('k3_e1',) * 1025, 1),)}, 'at most 1024 layers, got 1025'),
        ({'stages': (FIRST, FIRST)}, r'stages\[1\] takes 32 channels, but stages\[0\] gives 16'),
        ({'head_channels': 0}, r'head_channels must be an integer in 1\.\.65536 or None, got 0'),
        ({'head_channels': -1280}, 'head_channels must be .* got -1280'),
        ({'head_channels': 1280.0}, r'head_channels must be .* got 1280\.0'),
        ({'head_channels': True}, 'head_channels must be .* got True'),
        ({'act': 'gelu'}, "act must be one of .*'relu6', 'swish', 'relu'.* got 'gelu'"),
        ({'act': None}, 'act must be one of .* got None'),
        ({'bn_eps': 0.0}, r'bn_eps must be a number in \(0, 1\) or None, got 0\.0'),
        ({'bn_eps': 1}, 'bn_eps must be a number'),
        ({'bn_eps': '1e-3'}, 'bn_eps must be a number'),
        ({'bn_eps': float('nan')}, 'bn_eps must be a number'),
    ],
)
def test_wrong_architecture_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArchSpec(**{'stages': (FIRST,), **changes})


def test_replace_leaves_the_original() -> None:
    arch = ArchSpec((FIRST, StageSpec(16, 24, ('k3_e6', 'k3_e6'), 2)))
    wider = arch.replace(head_channels=1280, act='swish')
    assert (arch.head_channels, arch.act) == (None, 'relu6')
    assert (wider.head_channels, wider.act, wider.stages) == (1280, 'swish', arch.stages)
    assert (arch.stem_channels, arch.depths) == (32, (1, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        arch.act = 'swish'


def test_standard_library_is_enough() -> None:
    files = sorted(Path(mmnas_ext.archs.__file__).parent.glob('*.py'))
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding='utf-8')))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    foreign = {name for name in names if name.partition('.')[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not f'{name}.'.startswith('mmnas_ext.archs.')} == set()
    assert 'mmnas_ext.archs.spec' in foreign
