"""How each notation writes layers of other kinds, layers' own activations and other stems, or why it does not."""

import json
from typing import Any

import pytest

from mmnas_ext.archs import ArchSpec, StageSpec

MIXED = ArchSpec(
    (
        StageSpec(16, 16, ('k3_e1_relu', 'k3_e1'), 1),
        StageSpec(16, 24, ('fused_k3_e1', 'fused_k3_e1_relu'), 2),
        StageSpec(24, 40, ('fused_k3_e2.5_se0.25', 'k5_e2.3'), 2),
    ),
    head_channels=96,
    act='hswish',
)


def test_a_stem_is_written_where_it_is_not_the_usual_one() -> None:
    arch = ArchSpec((StageSpec(64, 64, ('basic_k3_e1',), 1),), act='relu', stem='conv7_pool')
    assert arch.format() == "[[64, 64], ['basic_k3_e1'], 1]|act=relu|stem=conv7_pool"
    assert '"stem": "conv7_pool"' in arch.format('json')
    assert ArchSpec.parse(arch.format()) == ArchSpec.parse(arch.format('json')) == arch
    assert 'stem' not in MIXED.format('json')
    with pytest.raises(ValueError, match=r"stem must be one of \('conv3', 'conv7_pool'\), got 'conv9'"):
        ArchSpec.parse("[[64, 64], ['basic_k3_e1'], 1]|stem=conv9")


def test_block_strings_of_fused_layers_and_of_activations() -> None:
    assert json.loads(MIXED.format('timm')) == [
        ['cn_r1_k3_s2_c16_nhs'],
        ['ds_r1_k3_s1_e1_c16_nre', 'ds_r1_k3_s1_e1_c16_nhs'],
        ['cn_r1_k3_s2_e1_c24_skip_nhs', 'cn_r1_k3_s1_e1_c24_skip_nre'],
        ['er_r1_k3_s2_e2.5_c40_se0.25_nhs', 'ir_r1_k5_s1_e2.3_c40_nhs'],
        ['cn_r1_k1_s1_c96_nhs'],
    ]
    for notation in ('fna', 'json', 'timm'):
        assert ArchSpec.parse(MIXED.format(notation)) == MIXED


@pytest.mark.parametrize(
    ('layer', 'stem', 'message'),
    [
        ('basic_k3_e1', 'conv3', "timm's block strings do not say basic_k3_e1: write this network as 'fna' or 'json'"),
        ('k3_e3_hse0.25', 'conv3', 'block strings do not say k3_e3_hse0.25'),
        ('k3_e3', 'conv7_pool', "timm's block strings have no stem 'conv7_pool'"),
    ],
)
def test_what_block_strings_cannot_say_is_refused(layer: str, stem: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArchSpec((StageSpec(16, 16, (layer,), 1),), stem=stem).format('timm')


@pytest.mark.parametrize(
    ('blocks', 'message'),
    [
        (['er_k3_e1_c24'], r'stages\[0\]\[0\]: an er block of e1 is another network .*; cn is meant'),
        (['cn_k3_e4_c32_skip'], r'stages\[0\]\[0\]: a cn block has no expansion, got e4; er has one'),
        (
            ['cn_k3_s2_c16_nhs', 'ds_k3_c16', 'cn_k1_c32'],
            r'stages\[2\]\[0\] has activation relu6, but stages\[0\]\[0\] has',
        ),
    ],
)
def test_malformed_fused_block_strings(blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArchSpec.parse(blocks)
