"""The three notations: read, written, and refused with a place and a reason."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnas_ext.archs import ACTIVATIONS, ArchSpec, SearchSpace, SpaceStage, StageSpec, zoo

NOTATIONS = ['json', 'fna', 'timm']
FIGURES: dict[str, Any] = json.loads((Path(__file__).parents[1] / 'golden' / 'archs_costs.json').read_text())
SMALL = ArchSpec((StageSpec(32, 16, ('k3_e1',), 1), StageSpec(16, 24, ('k3_e6', 'k3_e6', 'k5_e3_se0.25'), 2)))
SMALL_FNA = "[[32, 16], ['k3_e1'], 1]|[[16, 24], ['k3_e6', 'k3_e6', 'k5_e3_se0.25'], 2]"
SMALL_TIMM = [
    ['cn_r1_k3_s2_c32'],
    ['ds_r1_k3_s1_e1_c16'],
    ['ir_r2_k3_s2_e6_c24', 'ir_r1_k5_s1_e3_c24_se0.25'],
]
SMALL_DICT = {
    'stages': [
        {'in_channels': 32, 'channels': 16, 'layers': ['k3_e1'], 'stride': 1},
        {'in_channels': 16, 'channels': 24, 'layers': ['k3_e6', 'k3_e6', 'k5_e3_se0.25'], 'stride': 2},
    ],
    'head_channels': None,
    'act': 'relu6',
    'bn_eps': None,
}

# --- round trips ---------------------------------------------------------------------------------------------------

tokens = st.builds(
    lambda kernel, expansion, se: f'k{kernel}_e{expansion}{se}',
    st.sampled_from([1, 3, 5, 7, 11, 99]),
    st.sampled_from([1, 2, 3, 6, 99]),
    st.sampled_from(['', '_se0.25', '_se1', '_se0.000001', '_se0.123456']),
)
widths = st.integers(min_value=1, max_value=65536)


@st.composite
def archs(draw: st.DrawFn) -> ArchSpec:
    """Any architecture that may be."""
    channels = draw(widths)
    stages = []
    for _ in range(draw(st.integers(min_value=1, max_value=5))):
        before, channels = channels, draw(widths)
        layers = draw(st.lists(tokens, min_size=1, max_size=5))
        stages.append(StageSpec(before, channels, tuple(layers), draw(st.sampled_from([1, 2]))))
    return ArchSpec(
        tuple(stages),
        head_channels=draw(st.none() | widths),
        act=draw(st.sampled_from(ACTIVATIONS)),
        bn_eps=draw(st.none() | st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True)),
    )


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Any space that may be."""
    channels = draw(widths)
    stages = []
    for _ in range(draw(st.integers(min_value=1, max_value=4))):
        before, channels = channels, draw(widths)
        candidates = st.lists(tokens, min_size=1, max_size=4, unique=True)
        layers = [tuple(draw(candidates))]
        for layer in draw(st.lists(candidates, max_size=3)):
            layers.append((*layer, 'skip') if draw(st.booleans()) else tuple(layer))
        stages.append(SpaceStage(before, channels, tuple(layers), draw(st.sampled_from([1, 2]))))
    return SearchSpace(
        tuple(stages), draw(st.none() | widths), draw(st.sampled_from(ACTIVATIONS)), draw(st.none() | st.just(1e-3))
    )


@pytest.mark.parametrize('notation', NOTATIONS)
@pytest.mark.parametrize('name', zoo.names())
def test_zoo_survives_every_notation(name: str, notation: str) -> None:
    arch = zoo.arch(name)
    if notation == 'timm' and name.startswith(('resnet', 'mobilenet_v3')):
        with pytest.raises(ValueError, match="timm's block strings .*: write this network as 'fna' or 'json'"):
            arch.format(notation)
        return
    text = arch.format(notation)
    assert ArchSpec.parse(text) == arch
    assert ArchSpec.parse(text).format(notation) == text


@pytest.mark.parametrize('notation', NOTATIONS)
@given(arch=archs())
def test_any_architecture_survives_every_notation(notation: str, arch: ArchSpec) -> None:
    assert ArchSpec.parse(arch.format(notation)) == arch


@pytest.mark.parametrize('name', zoo.spaces())
def test_published_space_survives_its_text(name: str) -> None:
    space = zoo.space(name)
    assert SearchSpace.parse(space.format()) == space
    assert SearchSpace.parse(json.loads(space.format())) == space


@given(space=spaces())
def test_any_space_survives_its_text(space: SearchSpace) -> None:
    assert SearchSpace.parse(space.format()) == space


def _read(text: str) -> list[ArchSpec]:
    """What is read, or nothing where it is refused as it may be; any other exception passes through."""
    try:
        return [ArchSpec.parse(text)]
    except (ValueError, FileNotFoundError):
        return []


@given(text=st.text(max_size=60) | st.text(alphabet='[](){}|\'",:0123456789 kes_-.n', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for arch in _read(text):
        assert ArchSpec.parse(arch.format()) == arch


@given(
    position=st.integers(min_value=0, max_value=10_000),
    inserted=st.sampled_from(['[', ']', '|', "'", ',', '-', '9', 'x', ' ', '.', 'e', '\\', '\0', 'True', '}']),
    notation=st.sampled_from(NOTATIONS),
)
def test_damaged_text_is_read_or_refused(position: int, inserted: str, notation: str) -> None:
    text = zoo.arch('dna_a').format(notation)
    cut = position % len(text)
    for damaged in (text[:cut] + inserted + text[cut:], text[:cut], text[:cut] + text[cut + 1 :]):
        for arch in _read(damaged):
            assert ArchSpec.parse(arch.format(notation)) == arch


# --- what the texts look like --------------------------------------------------------------------------------------


def test_fna_text_of_defaults_is_the_authors_plain_text() -> None:
    assert SMALL.format() == SMALL.format('fna') == SMALL_FNA
    # the authors' own text once its line ends and skips are taken out
    written = FIGURES['fna_det']['fna_retinanet_backbone']['net_config']
    assert zoo.arch('fna_retinanet').format('fna') == written.replace('\n', '').replace(", 'skip'", '')


def test_fna_text_names_only_what_is_not_default() -> None:
    assert SMALL.replace(head_channels=1280).format() == SMALL_FNA + '|head=1280'
    assert SMALL.replace(bn_eps=1e-3, act='swish').format() == SMALL_FNA + '|act=swish|bn_eps=0.001'
    assert ArchSpec.parse(SMALL_FNA + '| bn_eps = 1e-5 |\n head=8\n') == SMALL.replace(bn_eps=1e-5, head_channels=8)


def test_timm_text() -> None:
    assert json.loads(SMALL.format('timm')) == SMALL_TIMM
    full = json.loads(SMALL.replace(head_channels=64, act='swish', bn_eps=1e-3).format('timm'))
    assert full == [
        ['cn_r1_k3_s2_c32_nsw_eps0.001'],
        ['ds_r1_k3_s1_e1_c16_nsw'],
        ['ir_r2_k3_s2_e6_c24_nsw', 'ir_r1_k5_s1_e3_c24_se0.25_nsw'],
        ['cn_r1_k1_s1_c64_nsw'],
    ]
    assert SMALL.replace(act='relu').format('timm').count('_nre') == 4


def test_json_text_is_json() -> None:
    assert json.loads(SMALL.format('json')) == SMALL_DICT
    assert json.loads(zoo.space('fna_det').format())['stages'][0]['layers'] == [['k3_e1']]


def test_unknown_notation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"notation must be one of \('json', 'fna', 'timm'\), got 'yaml'"):
        SMALL.format('yaml')


# --- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'source',
    [
        SMALL,
        SMALL_DICT,
        {'stages': SMALL_DICT['stages'], 'source': 'a paper'},
        json.dumps(SMALL_DICT),
        f'  {SMALL_FNA}  \n',
        SMALL_FNA.replace('|', '|\n').replace("'", '"'),
        SMALL_FNA.replace("'k3_e6', 'k3_e6',", "'k3_e6', 'skip', 'k3_e6', 'skip',"),
        SMALL_FNA.replace('[[16, 24]', '[(16, 24)'),
        SMALL_TIMM,
        SMALL_TIMM[1:],
        tuple(tuple(stage) for stage in SMALL_TIMM),
        ['ds_k3_c16', SMALL_TIMM[2]],
        repr(SMALL_TIMM),
        json.dumps(SMALL_TIMM, indent=2),
        "[\n  # stage 0, 112x112 in\n  ['ds_r1_k3_s1_c16_noskip'],\n"
        "  ['ir_r2_k3_s2_e6_c24_nr6', 'ir_k5_e3_c24_se.25',],\n]",
        [['ds_k3_c16'], ['ir_k3_s2_e6_c24_noskip', 'ir_k3_e6_c24', 'ir_k5_e3_c24_se0.25']],
    ],
)
def test_forms_of_one_architecture(source: Any) -> None:
    before = copy.deepcopy(source)
    assert ArchSpec.parse(source) == SMALL
    assert source == before


def test_one_string_a_stage_as_text() -> None:
    assert ArchSpec.parse("['ds_r1_k3_s1_e1_c16', 'ir_r2_k5_s2_e3_c24']") == ArchSpec(
        (StageSpec(32, 16, ('k3_e1',), 1), StageSpec(16, 24, ('k5_e3', 'k5_e3'), 2))
    )


def test_chain_may_start_anywhere() -> None:
    assert ArchSpec.parse("[[48, 24], ['k3_e6', 'skip'], 2]") == ArchSpec((StageSpec(48, 24, ('k3_e6',), 2),))
    assert ArchSpec.parse([['cn_k3_s2_c48'], ['ir_k3_s2_e6_c24']]) == ArchSpec((StageSpec(48, 24, ('k3_e6',), 2),))
    assert ArchSpec.parse([['ir_k3_s2_e6_c24']]).stem_channels == 32


def test_timm_activation_and_head() -> None:
    arch = ArchSpec.parse([['ds_k3_c16_nre'], ['cn_r1_k1_s1_c960_nre']])
    assert (arch.act, arch.head_channels, arch.depths) == ('relu', 960, (1,))


def test_files(tmp_path: Path) -> None:
    file = tmp_path / 'found.json'
    file.write_text(SMALL.format('json'), encoding='utf-8')
    assert ArchSpec.parse(file) == ArchSpec.parse(str(file)) == SMALL
    file.write_text(zoo.space('fna_seg').format(), encoding='utf-8')
    assert SearchSpace.parse(file) == SearchSpace.parse(str(file)) == zoo.space('fna_seg')


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'architecture file does not exist: .*gone\.json'):
        ArchSpec.parse(str(tmp_path / 'gone.json'))
    with pytest.raises(FileNotFoundError, match=r'search space file does not exist: .*gone\.json'):
        SearchSpace.parse(tmp_path / 'gone.json')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        ArchSpec.parse(tmp_path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'the text is empty'),
        (b'{"stages": [', 'character 12: expected a list'),
        (b'\xff\xfe{}', "can't decode byte 0xff"),
        (b'[' * 500_000, 'the file is too large, 500000 bytes'),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / 'broken.json'
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf'architecture file .*broken\.json: .*{message}'):
        ArchSpec.parse(file)


# --- what is refused -----------------------------------------------------------------------------------------------

TEXTS = [
    ('', 'character 0: the text is empty'),
    (' \n\t', 'character 0: the text is empty'),
    ('\0', 'character 0: the text holds a NUL'),
    ("[[32, 16], ['k3_e1'], 1]\0", 'character 24: the text holds a NUL'),
    ('[[32, 16\0.json', 'character 8: the text holds a NUL'),
    (
        "[[32, 16], ['k3_e1'], 1]|[[16, 24], ['k3_e6', 'k4x'], 2]",
        r"stages\[1\]\.layers\[1\]: unknown layer token 'k4x'",
    ),
    ("[[32, 16], ['k4_e1'], 1]", r'stages\[0\]\.layers\[0\]: layer kernel must be odd'),
    ("[[32, 16], ['k3_e1'], 1]|[[24, 32], ['k3_e6'], 2]", r'stages\[1\] takes 24 channels, but stages\[0\] gives 16'),
    ("[[32, 16], ['skip', 'k3_e1'], 1]", r"stages\[0\] \(character 0\): the first layer of a stage cannot be 'skip'"),
    ("[[32, 16], ['k3_e1'], 1]|[[16, -24], ['k3_e6'], 2]", r'stages\[1\] \(character 25\): .* 1\.\.65536, got -24'),
    ("[[32, 16], ['k3_e1'], -1]", 'stride must be 1 or 2, got -1'),
    ("[[32, 16.0], ['k3_e1'], 1]", r'must be an integer in 1\.\.65536, got 16\.0'),
    ("[[32, 1e2], ['k3_e1'], 1]", r'must be an integer in 1\.\.65536, got 100\.0'),
    ("[[32, True], ['k3_e1'], 1]", 'must be an integer .* got True'),
    ("[[32, None], ['k3_e1'], 1]", 'must be an integer .* got None'),
    ("[[32, '16'], ['k3_e1'], 1]", "must be an integer .* got '16'"),
    ("[[32, [16]], ['k3_e1'], 1]", r'must be an integer .* got \[16\]'),
    ("[[32, 99999999], ['k3_e1'], 1]", r'must be an integer in 1\.\.65536, got 99999999'),
    (f"[[32, {'9' * 5000}], ['k3_e1'], 1]", 'character 6: number of 5000 characters'),
    ("[[32, 016], ['k3_e1'], 1]", r"character 7: expected ',' or '\]', got \"16\]"),
    ("[[32, 0x10], ['k3_e1'], 1]", "character 7: expected ',' or .* got .x10"),
    ("[[32, 16, 24], ['k3_e1'], 1]", r'stages\[0\] .* must start with a pair of channels, got \[32, 16, 24\]'),
    ("[[32, 16], ['k3_e1']]", r'must be \[\[in, out\], \[layers\], stride\]'),
    ("[[32, 16], 'k3_e1', 1]", r"stages\[0\]\.layers must be a list of layer tokens, got 'k3_e1'"),
    ('[[32, 16], [3], 1]', r'stages\[0\]\.layers\[0\]: unknown layer token 3'),
    ('[[32, 16], [], 1]', 'a stage needs at least one layer'),
    ("[[32, 16], ['k3_e1'], 1]|", 'character 25: expected a stage or one of head=, act=, bn_eps=, stem=, got the end'),
    ("|[[32, 16], ['k3_e1'], 1]", r"character 0: expected '\[' or '\{'"),
    ("[[32, 16], ['k3_e1'], 1]|['k3_e1']", r'stages\[1\] \(character 25\) must be'),
    ("[[32, 16], ['k3_e1'], 1] [[16, 24], ['k3_e1'], 1]", r"character 25: expected '\|' or the end, got .\[\[16"),
    ("[[32, 16], ['k3_e1'], 1]|head=-1", "character 25: head must be a whole number, got '-1'"),
    ("[[32, 16], ['k3_e1'], 1]|head=12.5", "head must be a whole number, got '12.5'"),
    ("[[32, 16], ['k3_e1'], 1]|head=", "head must be a whole number, got ''"),
    ("[[32, 16], ['k3_e1'], 1]|head=0", 'head_channels must be an integer'),
    ("[[32, 16], ['k3_e1'], 1]|head=8|head=8", 'character 32: head is given twice'),
    ("[[32, 16], ['k3_e1'], 1]|bn_eps=nan", "bn_eps must be a number, got 'nan'"),
    ("[[32, 16], ['k3_e1'], 1]|bn_eps=e5", "bn_eps must be a number, got 'e5'"),
    ("[[32, 16], ['k3_e1'], 1]|bn_eps=3", 'bn_eps must be a number in'),
    ("[[32, 16], ['k3_e1'], 1]|act=gelu", "act must be one of .* got 'gelu'"),
    ("[[32, 16], ['k3_e1'], 1]|width=2", "character 25: expected a stage or one of .* got 'width=2'"),
    ("[[32, 16], ['k3_e1'], 1]|head=8|[[16, 24], ['k3_e1'], 1]", r'character 32: expected a stage or one of'),
    ("__import__('os').system('true')", r"character 0: expected '\[' or '\{' .* got \"__import__\('os'\)"),
    ("[[32, 16], ['k3_e1'], __import__('os')]", 'character 22: expected a list, .* got .__import__.*only data is read'),
    ("[[32, 16], ['k3_e1'] * 9, 1]", r"character 21: expected ',' or '\]', got '\* 9"),
    ("[[32, 16], ['k3_e1'], 2-1]", r"character 23: expected ',' or '\]', got '-1\]'"),
    ("[[x, 16], ['k3_e1'], 1]", 'character 2: expected a list, mapping, string or number, got .x, 16'),
    ('[[NaN, 16], ["k3_e1"], 1]', 'character 2: expected a list'),
    ("[[32, 16], ['k3_e1'], 1", r"character 23: expected ',' or '\]', got the end of the text"),
    ("[[32, 16], ['k3_e1'], 1)", r"character 23: expected ',' or '\]', got '\)'"),
    ("[[32, 16], ['k3_e1, 1]", 'character 12: a string without an end'),
    ("[[32, 16], ['k3\\x5fe1'], 1]", 'character 12: a string without an end, or with a control character or backslash'),
    ('[[32, 16], ["k3\\x5fe1"], 1]', 'character 12: a string with an escape that JSON does not have'),
    ("[[32, 16] ['k3_e1'], 1]", r"character 10: expected ',' or '\]'"),
    ("[[32,, 16], ['k3_e1'], 1]", 'character 5: expected a list'),
    ("[[16, 16], ['k3_e1'], 1]" + "|[[16, 16], ['k3_e1'], 1]" * 64, r'1\.\.64 stages, got 65'),
    (f'[[16, 16], [{"0," * 5000}], 1]', r'stages\[0\]\.layers has 5000 entries, at most 4096'),
    ('[' * 50_000, 'character 8: brackets are nested deeper than 8'),
    ('[[[[[[[[[]]]]]]]]]', 'character 8: brackets are nested deeper than 8'),
    ('{"stages": ' * 5000, 'nested deeper than 8'),
    ('[' * 10_000_000, 'character 100000: the text is too long, 10000000 characters'),
    ('a' * 10_000_000, 'the text is too long'),
    (' ' * 10_000_000, 'the text is too long'),
    ('[]', 'stages, got none'),
    ('[[]]', r'stages\[0\] must hold at least one block string'),
    ('[[["k3_e1"]]]', r"stages\[0\]\[0\] must be a block string, got \['k3_e1'\]"),
    ('[["k3_e1"]]', r"stages\[0\]\[0\]: unknown block type 'k3'"),
    ('{}', "key 'stages' is missing"),
    ('{"stages": [], "depth": 3}', "unknown key 'depth', allowed are stages, head_channels"),
    ('{"stages": [], "stages": []}', "character 15: key 'stages' stands twice"),
    ('{"stages": []} x', "character 15: expected the end, got 'x'"),
    ('{"stages": null}', 'stages must be a list of stages, got None'),
    ('{"stages": []}', 'stages, got none'),
    ('{"stages": [3]}', r'stages\[0\] must be a mapping, got 3'),
    ('{"stages" []}', "character 10: expected ':' after a key"),
    ('{stages: []}', r"character 1: expected a key in quotes, got 'stages"),
    ('{3: []}', r'character 1: expected a key in quotes'),
]


@pytest.mark.parametrize(('text', 'message'), TEXTS, ids=range(len(TEXTS)))
def test_malformed_text(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=f'architecture: .*{message}'):
        ArchSpec.parse(text)
    assert time.process_time() - start < 0.5


def _stage(**changes: Any) -> dict[str, Any]:
    return {'stages': [{**SMALL_DICT['stages'][0], **changes}]}


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (_stage(in_channels=32.0), r'stages\[0\]: stage in_channels must be an integer in 1\.\.65536, got 32\.0'),
        (_stage(channels=True), r'stages\[0\]: stage channels must be an integer .* got True'),
        (_stage(channels=[16]), r'stages\[0\]: stage channels must be an integer .* got \[16\]'),
        (_stage(stride=None), r'stages\[0\]: stage stride must be 1 or 2, got None'),
        (_stage(layers='k3_e1'), r"stages\[0\]\.layers must be a list of layer tokens, got 'k3_e1'"),
        (_stage(layers=['k3_e1', ['k3_e6']]), r"stages\[0\]\.layers\[1\]: unknown layer token \['k3_e6'\]"),
        (_stage(layers=['k3_e1', 3]), r'stages\[0\]\.layers\[1\]: unknown layer token 3'),
        (_stage(layers=['skip']), r"stages\[0\]: the first layer of a stage cannot be 'skip'"),
        (_stage(depth=2), r"stages\[0\]: unknown key 'depth', allowed are in_channels, channels, layers, stride"),
        ({'stages': [{'in_channels': 32, 'channels': 16, 'stride': 1}]}, r"stages\[0\]: key 'layers' is missing"),
        ({'stages': 5}, 'stages must be a list of stages, got 5'),
        ({3: 5}, 'unknown key 3'),
        ({**SMALL_DICT, 'head_channels': '1280'}, "head_channels must be an integer .* got '1280'"),
        ({**SMALL_DICT, 'act': ['relu6']}, r"act must be one of .* got \['relu6'\]"),
        ({**SMALL_DICT, 'bn_eps': True}, 'bn_eps must be a number .* got True'),
        ({**SMALL_DICT, 'source': 3}, 'source must be a string, got 3'),
    ],
)
def test_malformed_mapping(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArchSpec.parse(fields)


@pytest.mark.parametrize(
    ('blocks', 'message'),
    [
        (
            ['uib_r1_k3_s1_e6_c16'],
            r"stages\[0\]\[0\]: unknown block type 'uib' in 'uib_r1_k3_s1_e6_c16', known: ir, ds, er, cn",
        ),
        (['ir_k3_s2_e6_c24', 'ir_k3_e6_c24_a1'], r"stages\[1\]\[0\]: field 'a1' of 'ir_k3_e6_c24_a1' is not one"),
        ([['ir_k3_e6_c24', 'ir_k3_e6']], r"stages\[0\]\[1\]: field 'c' is missing"),
        (['ir_k3_c24'], "field 'e' is missing in 'ir_k3_c24'"),
        (['ir_k3_k3_e6_c24'], "field 'k' stands twice"),
        (['ir_k3.5_e6_c24'], "field k: must be a whole number, got '3.5'"),
        (['ir_k3_e4.5.1_c24'], "field e: must be a number, got '4.5.1'"),
        (['ir_k3_e6_c-24'], "field c: must be a whole number, got '-24'"),
        (['ir_k3_e6_c99999'], r'stage channels must be an integer in 1\.\.65536, got 99999'),
        (['ir_k4_e6_c24'], r'stages\[0\]\[0\]: layer kernel must be odd'),
        (['ir_k3_s3_e6_c24'], r'stages\[0\]\[0\]: stage stride must be 1 or 2, got 3'),
        (['ir_k3_e6_c24_se1.5'], r'stages\[0\]\[0\]: layer se ratio must be a number in \[0, 1\], got 1\.5'),
        (['ir_k3_e6_c24_sex'], "field se: must be a number, got 'x'"),
        (['ir_k3_e6_c24_nge'], "field n must be one of re, r6, sw, hs, got 'ge'"),
        (['ir_r0_k3_e6_c24'], r'field r must lie in 1\.\.1024, got 0'),
        (['ir_r999999999_k3_e6_c24'], r'field r must lie in 1\.\.1024, got 999999999'),
        ([['ir_r1000_k3_e6_c24', 'ir_r1000_k3_e6_c24']], r'stages\[0\]\[1\]: more than 1024 layers'),
        (['ir_r1000_k3_e6_c24', 'ir_r1000_k3_e6_c24'], 'at most 1024 layers, got 2000'),
        (['ir_k3_e1_c24'], r'stages\[0\]\[0\]: an ir block of e1 is another network'),
        (['ds_k3_e6_c24'], r'stages\[0\]\[0\]: a ds block has no expansion, got e6'),
        (['ir_r2_k3_s2_e6_c24_noskip'], r'stages\[0\]\[0\]: noskip on a layer that has a shortcut'),
        (['ir_k3_s1_e6_c32_noskip'], 'noskip on a layer that has a shortcut'),
        ([['ir_k3_e6_c24', 'ir_k3_e6_c32']], r'stages\[0\]\[1\]: a stage has one width, got c32 after c24'),
        ([['ir_k3_e6_c24', 'ir_k3_s2_e6_c24']], r'stages\[0\]\[1\]: only the first layer of a stage can have a stride'),
        (['ds_k3_c16_nsw', 'ir_k3_e6_c24'], r'stages\[1\]\[0\] has activation relu6, but stages\[0\]\[0\] has swish'),
        (
            ['cn_k5_s2_c32', 'ds_k3_c16'],
            r'stages\[0\]\[0\]: the stem must be a stage of one cn_r1_k3_s2 string, got r1 k5 s2',
        ),
        (
            ['ds_k3_c16', 'cn_k3_s1_c32'],
            r'stages\[1\]\[0\]: the head must be a stage of one cn_r1_k1_s1 string, got r1 k3 s1',
        ),
        (['ds_k3_c16', 'cn_k1_s1_c32', 'ds_k3_c16'], r'stages\[1\]\[0\]: cn without skip can only be the stem'),
        (['cn_k3_s2_c32'], r'1\.\.64 stages, got none'),
        ([['ir_k3_e6_c24', None]], r'stages\[0\]\[1\] must be a block string, got None'),
        ([3], r'stages\[0\] must be a list of block strings, got 3'),
        (['ir_' + 'x' * 500], 'must be a block string, got 503 characters'),
        ([], r'1\.\.64 stages, got none'),
        (['ds_k3_c16'] * 5000, 'stages has 5000 entries, at most 4096'),
    ],
)
def test_malformed_block_strings(blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArchSpec.parse(blocks)


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        (SMALL_FNA, r"search space: character 0: expected '\{'"),
        (zoo.space('fna_det').format() + '|', r"search space: character \d+: expected the end, got '\|'"),
        (json.dumps(SMALL_DICT), r"stages\[0\]\.layers\[0\] must be a list of candidates, got 'k3_e1'"),
        (_stage(layers=[['k3_e1'], ['k3x']]), r"stages\[0\]\.layers\[1\]\[0\]: unknown layer token 'k3x'"),
        (_stage(layers=[['k3_e1', 'skip']]), r"stages\[0\]: the first layer of a stage cannot offer 'skip'"),
        (_stage(layers=[[]]), r'stages\[0\]: a stage of a space needs .* each layer at least one candidate'),
        (_stage(stride=2.0, layers=[['k3_e1']]), r'stages\[0\]: stage stride must be 1 or 2, got 2\.0'),
        ({'stages': [], 'size': 3}, "unknown key 'size'"),
        ('[' * 10_000_000, 'search space: character 100000: the text is too long'),
    ],
)
def test_malformed_space(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchSpace.parse(source)


@pytest.mark.parametrize('source', [3.5, 7, None, b'dna_a', {1, 2}, object])
def test_wrong_type(source: Any) -> None:
    with pytest.raises(TypeError, match=f'architecture must be given as FNA text, .* got {type(source).__name__}'):
        ArchSpec.parse(source)
    with pytest.raises(TypeError, match=f'search space must be given as JSON text, .* got {type(source).__name__}'):
        SearchSpace.parse(source)


def test_nothing_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / 'trace'
    code = f"open({str(trace)!r}, 'w')"
    for text in (code, f'[{code}]', f'[[32, 16], [{code}], 1]', f'{{"stages": {code}}}', f"[['{code}']]"):
        with pytest.raises(ValueError, match='architecture: '):
            ArchSpec.parse(text)
    assert not trace.exists()
