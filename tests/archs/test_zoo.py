"""The zoo against the published descriptions, and its behaviour for names that it does not have."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmnas_ext.archs import ArchSpec, SearchSpace, zoo

FIGURES: dict[str, Any] = json.loads((Path(__file__).parents[1] / 'golden' / 'archs_costs.json').read_text())
CANDIDATES = ('k3_e3', 'k3_e6', 'k5_e3', 'k5_e6', 'k7_e3', 'k7_e6')
STRIDES = (1, 2, 2, 2, 1, 2, 1)


def test_names() -> None:
    assert zoo.names() == (
        'dna_a',
        'dna_b',
        'dna_c',
        'dna_d',
        'efficientnet_b0',
        'efficientnet_lite0',
        'efficientnet_lite1',
        'efficientnet_lite2',
        'fna_deeplabv3',
        'fna_retinanet',
        'fna_ssdlite',
        'mobilenet_v2',
        'mobilenet_v3_large',
        'mobilenet_v3_small',
        'resnet18',
        'resnet34',
        'resnet50',
    )
    assert zoo.spaces() == ('dna', 'dna_a_det', 'efficientnet_lite0_det', 'fna_det', 'fna_det_ssdlite', 'fna_seg')


@pytest.mark.parametrize(
    ('group', 'entry', 'name'),
    [
        ('fna_det', 'fna_retinanet_backbone', 'fna_retinanet'),
        ('fna_det', 'fna_ssdlite_backbone', 'fna_ssdlite'),
        ('fna_det', 'mbv2_imagenet', 'mobilenet_v2'),
        ('fna_seg', 'fna_deeplabv3', 'fna_deeplabv3'),
    ],
)
def test_stages_are_those_of_the_authors_text(group: str, entry: str, name: str) -> None:
    assert ArchSpec.parse(FIGURES[group][entry]['net_config']).stages == zoo.arch(name).stages


@pytest.mark.parametrize(
    ('name', 'stages'),
    [
        (
            'dna_a',
            [
                (24, 'k5_e3 k3_e3 k3_e6'),
                (40, 'k3_e3 k3_e3 k5_e3 k3_e6'),
                (80, 'k7_e6 k3_e3 k5_e3 k3_e6'),
                (96, 'k5_e6 k5_e3 k5_e3 k5_e6'),
                (160, 'k5_e6 k5_e3 k5_e3 k5_e3 k5_e6'),
                (320, 'k3_e6'),
            ],
        ),
        (
            'dna_d',
            [
                (24, 'k7_e6 k5_e6 k7_e6'),
                (40, 'k7_e6 k7_e6 k7_e6 k7_e6'),
                (80, 'k7_e6 k5_e6 k5_e6 k7_e6'),
                (112, 'k7_e6 k5_e6 k7_e6 k5_e6'),
                (192, 'k7_e6 k5_e6 k5_e6 k5_e6 k7_e6'),
                (320, 'k3_e6'),
            ],
        ),
    ],
)
def test_dna_stages_are_those_of_the_paper(name: str, stages: list[tuple[int, str]]) -> None:
    written = [(16, ('k3_e1_se0.25',))]
    written += [(channels, tuple(f'{token}_se0.25' for token in layers.split())) for channels, layers in stages]
    assert [(stage.channels, stage.layers) for stage in zoo.arch(name).stages] == written


@pytest.mark.parametrize(
    ('name', 'channels', 'depths'),
    [
        ('efficientnet_lite0', (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
        ('efficientnet_lite1', (16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
        ('efficientnet_lite2', (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
    ],
)
def test_efficientnet_lite(name: str, channels: tuple[int, ...], depths: tuple[int, ...]) -> None:
    arch = zoo.arch(name)
    assert tuple(stage.channels for stage in arch.stages) == channels
    assert arch.depths == depths
    assert [set(stage.layers) for stage in arch.stages] == [
        {f'{token}'} for token in ('k3_e1', 'k3_e6', 'k5_e6', 'k3_e6', 'k5_e6', 'k5_e6', 'k3_e6')
    ]


@pytest.mark.parametrize(
    ('name', 'head_channels', 'act', 'bn_eps'),
    [
        ('mobilenet_v2', 1280, 'relu6', None),
        ('efficientnet_b0', 1280, 'swish', None),
        ('efficientnet_lite0', 1280, 'relu6', 1e-3),
        ('efficientnet_lite1', 1280, 'relu6', 1e-3),
        ('efficientnet_lite2', 1280, 'relu6', 1e-3),
        ('fna_retinanet', None, 'relu6', None),
        ('fna_deeplabv3', None, 'relu6', None),
        ('fna_ssdlite', 1280, 'relu6', None),
        ('dna_a', 1280, 'swish', None),
        ('dna_b', 1280, 'swish', None),
        ('dna_c', 1280, 'swish', None),
        ('dna_d', 1280, 'swish', None),
    ],
)
def test_fields_beside_the_stages(name: str, head_channels: int | None, act: str, bn_eps: float | None) -> None:
    arch = zoo.arch(name)
    assert (arch.head_channels, arch.act, arch.bn_eps) == (head_channels, act, bn_eps)
    assert arch.stem_channels == 32
    assert tuple(stage.stride for stage in arch.stages) == STRIDES


@pytest.mark.parametrize(
    ('name', 'channels', 'depths', 'bn_eps'),
    [
        ('fna_det', (16, 24, 32, 64, 96, 160, 320), (1, 4, 4, 4, 4, 4, 1), None),
        ('fna_seg', (16, 24, 32, 64, 96, 160, 320), (1, 4, 4, 6, 6, 4, 1), None),
        ('efficientnet_lite0_det', (16, 24, 40, 80, 112, 192, 320), (1, 4, 4, 4, 4, 4, 1), 1e-3),
    ],
)
def test_spaces(name: str, channels: tuple[int, ...], depths: tuple[int, ...], bn_eps: float | None) -> None:
    space = zoo.space(name)
    assert tuple(stage.channels for stage in space.stages) == channels
    assert tuple(len(stage.layers) for stage in space.stages) == depths
    assert tuple(stage.stride for stage in space.stages) == STRIDES
    assert (space.head_channels, space.act, space.bn_eps) == (None, 'relu6', bn_eps)
    assert space.stages[0].layers == (('k3_e1',),)
    for stage in space.stages[1:]:
        assert stage.layers[0] == CANDIDATES
        assert set(stage.layers[1:]) <= {(*CANDIDATES, 'skip')}


def test_every_file_says_where_it_comes_from() -> None:
    files = sorted(Path(zoo.__file__).with_name('zoo').glob('*.json'))
    assert len(files) == len(zoo.names()) + len(zoo.spaces()) + len(zoo.cell_spaces())
    assert [file.name for file in files if len(json.loads(file.read_text())['source']) < 20] == []


def test_names_parse_as_what_they_name() -> None:
    assert ArchSpec.parse('fna_retinanet') == zoo.arch('fna_retinanet')
    assert ArchSpec.parse(' dna_a\n') == zoo.arch('dna_a')
    assert SearchSpace.parse('fna_seg') == zoo.space('fna_seg')


@pytest.mark.parametrize('read', [zoo.arch, ArchSpec.parse])
def test_unknown_architecture(read: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown architecture 'mobilenet_v9': the zoo has dna_a, .*, resnet50$"):
        read('mobilenet_v9')
    with pytest.raises(ValueError, match='that is a search space'):
        read('fna_det')


@pytest.mark.parametrize('read', [zoo.space, SearchSpace.parse])
def test_unknown_space(read: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"unknown search space 'x': the zoo has dna, dna_a_det, efficientnet_lite0_det, fna_det, "
        r'fna_det_ssdlite, fna_seg$',
    ):
        read('x')
    with pytest.raises(ValueError, match='that is an architecture'):
        read('dna_a')


@pytest.mark.parametrize('name', [None, 3, ['dna_a'], '../dna_a', 'dna_a.json', ''])
def test_a_name_is_never_a_path(name: Any) -> None:
    with pytest.raises(ValueError, match='unknown architecture'):
        zoo.arch(name)
