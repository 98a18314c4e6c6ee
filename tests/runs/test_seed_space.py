"""A space that is made from a config's seed: one field changes seed, space, features and channels of both halves."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.models.necks import FPN
from mmengine.config import Config, ConfigDict

from mmnas_ext.archs import ArchSpec, SearchSpace, cost, zoo
from mmnas_ext.archs.from_seed import space_from
from mmnas_ext.engine.describe import _seed_cost
from mmnas_ext.engine.limits import CostTerm
from mmnas_ext.registry import MODELS
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.resolve import resolve
from mmnas_ext.shipped import teach_mmengine
from tests.remap.samples import seed_of
from tests.small import small

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
EXAMPLE = CONFIGS / 'examples/fna_retinanet_resnet18_steel.py'
# seed -> stages of strides 4, 8, 16 and 32 and their channels, as the networks' papers have them
SEEDS = {
    'resnet18': ((0, 1, 2, 3), [64, 128, 256, 512]),
    'resnet50': ((0, 1, 2, 3), [256, 512, 1024, 2048]),
    'mobilenet_v3_large': ((1, 2, 4, 5), [24, 40, 112, 160]),
    'mobilenet_v3_small': ((0, 1, 3, 4), [16, 24, 48, 96]),
    'efficientnet_b0': ((1, 2, 4, 6), [24, 40, 112, 320]),
    'dna_a': ((1, 2, 4, 6), [24, 40, 96, 320]),
    'efficientnet_lite0': ((1, 2, 4, 6), [24, 40, 112, 320]),
}


@cache
def _read(file: Path) -> Config:
    return Config.fromfile(file)


def read(tmp_path: Path, *lines: str, base: Path = EXAMPLE, **options: Any) -> Config:
    """A config that inherits one of ours and adds lines, as the tools read it."""
    if not lines:
        return resolve(copy.deepcopy(_read(base)), options)
    file = tmp_path / 'child.py'
    file.write_text('\n'.join([f'_base_ = {str(base)!r}', *lines]))
    return resolve(Config.fromfile(file), options)


def halves(cfg: Config) -> tuple[Config, Config]:
    space = SearchSpace.parse(cfg.model.backbone.space)
    return cfg, derived_config(cfg, next(space.sample(0, 1)))


@pytest.mark.parametrize('name', SEEDS)
def test_the_seed_is_one_field(name: str, tmp_path: Path) -> None:
    outputs, channels = SEEDS[name]
    cfg = read(tmp_path, seed=dict(arch=name, checkpoint='own.pth'))
    assert SearchSpace.parse(cfg.model.backbone.space) == space_from(zoo.arch(name), (3, 5))
    for half in halves(cfg):
        assert half.model.backbone.init_cfg.seed == dict(arch=name, checkpoint='own.pth')
        assert tuple(half.model.backbone.out_indices) == outputs
        assert list(half.model.neck.in_channels) == channels
        # what is built gives them
        with torch.device('meta'):
            built = MODELS.build({**small(half).model.backbone, 'channels_last': False})
        assert (list(built.out_channels), list(built.out_strides)) == (channels, [4, 8, 16, 32])
        assert sum(p.numel() for p in built.parameters()) > 0


def test_a_detector_of_each_half_takes_images(tmp_path: Path) -> None:
    """From the smallest of these seeds, features reach the head at the strides that its anchors have."""
    for half in halves(read(tmp_path, seed=dict(arch='mobilenet_v3_small', checkpoint='own.pth'))):
        backbone, neck = (
            MODELS.build(small(half).model.backbone),
            FPN(**{k: v for k, v in half.model.neck.items() if k != 'type'}),
        )
        with torch.no_grad():
            found = neck(backbone.eval()(torch.zeros(1, 3, 64, 64)))
        assert [tuple(each.shape[1:]) for each in found] == [(64, side, side) for side in (8, 4, 2, 1, 1)]


def test_the_limit_is_that_of_the_seed(tmp_path: Path) -> None:
    limits = [
        read(tmp_path, seed=dict(arch=name, checkpoint='own.pth')).optim_wrapper.cost.target
        for name in ('resnet18', 'mobilenet_v3_large')
    ]
    # multiply-adds of ResNet-18's convolutions at 224x224, as published, and of MobileNetV3's without its head
    assert limits == [1813561344, 206554560]


def test_a_seed_of_a_checkpoint_alone_tells_its_architecture(tmp_path: Path) -> None:
    seed = seed_of(zoo.arch('mobilenet_v2'))
    bare = seed.arch.replace(head_channels=None)
    torch.save(seed.state_dict, tmp_path / 'own.pth')
    cfg = read(tmp_path, seed=str(tmp_path / 'own.pth'))
    for half in halves(cfg):
        said = half.model.backbone.init_cfg.seed
        assert (ArchSpec.parse(said.arch), said.checkpoint) == (bare, str(tmp_path / 'own.pth'))
    assert cfg.optim_wrapper.cost.target == cost(bare, (224, 224)).macs
    assert SearchSpace.parse(cfg.model.backbone.space) == space_from(seed.arch, (3, 5))
    with pytest.raises(ValueError, match='space is made from the seed, and its file .*not here.*name it'):
        read(tmp_path, seed='https://nowhere.example/own.pth')


def test_a_space_may_name_its_network_itself(tmp_path: Path) -> None:
    lines = ["space = dict(_delete_=True, seed='dna_a', kernels=(7,), expansions=(3,), depth=1)"]
    cfg = read(tmp_path, *lines)
    assert SearchSpace.parse(cfg.model.backbone.space) == space_from(zoo.arch('dna_a'), (7,), expansions=(3,), depth=1)


def test_of_a_config_with_another_space_two_lines_change_it(tmp_path: Path) -> None:
    lines = ["seed = dict(arch='resnet18', checkpoint='own.pth')", 'space = dict()']
    for half in halves(read(tmp_path, *lines, base=CONFIGS / 'fna_deeplabv3plus_cityscapes.py')):
        # strides 4 and 32 of MobileNetV2's stages 1 and 6
        assert tuple(half.model.backbone.out_indices) == (0, 3)
        assert (half.model.decode_head.in_channels, half.model.decode_head.c1_in_channels) == (512, 64)
    backbone = 'dict(space=dict(_delete_=True, kernels=(5,)), out_indices=(0, 1, 2, 3))'
    written = f'model = dict(backbone={backbone}, neck=dict(in_channels=[64, 128, 256, 512]))'
    cfg = read(tmp_path, lines[0], written, base=CONFIGS / 'fna_retinanet_coco.py')
    assert SearchSpace.parse(cfg.model.backbone.space) == space_from(zoo.arch('resnet18'), (5,))


def test_outputs_that_are_said_beside_the_space_stay(tmp_path: Path) -> None:
    lines = [
        'model = dict(backbone=dict(out_indices=(1, 2, 3)), neck=dict(in_channels=[0, 0, 0]))',
        'space = dict(depth=1)',
    ]
    for half in halves(read(tmp_path, *lines)):
        assert tuple(half.model.backbone.out_indices) == (1, 2, 3)
        assert list(half.model.neck.in_channels) == [128, 256, 512]
    options = {'model.backbone.out_indices': (3,), 'model.neck.in_channels': [512]}
    assert read(tmp_path, **options).model.backbone.out_indices == (3,)


def test_a_space_of_a_file_or_a_name_moves_the_outputs_as_a_made_one_does(tmp_path: Path) -> None:
    file = tmp_path / 'resnet50.space.json'
    file.write_text(space_from(zoo.arch('resnet50')).format())
    retina = CONFIGS / 'fna_retinanet_coco.py'  # of fna_det, whose stages 1, 2, 4 and 6 have these strides
    for half in halves(read(tmp_path, f'space = {str(file)!r}', base=retina)):
        assert tuple(half.model.backbone.out_indices) == (0, 1, 2, 3)
        assert list(half.model.neck.in_channels) == [256, 512, 1024, 2048]
    cfg = read(tmp_path, "space = 'fna_det'")  # and back from the example's, made from ResNet-18
    assert tuple(cfg.model.backbone.out_indices) == (1, 2, 4, 6)
    # stages of the same strides: what is read stays, also stage 3, which is not the last of its stride
    base = tmp_path / 'base.py'
    base.write_text(f'_base_ = {str(retina)!r}\nmodel = dict(backbone=dict(out_indices=(1, 2, 3, 6)))')
    for line in ("space = 'dna_a_det'", "space = dict(seed='mobilenet_v2')"):
        assert tuple(read(tmp_path, line, base=base).model.backbone.out_indices) == (1, 2, 3, 6)


def test_a_space_without_a_head_does_not_take_the_place_of_one_whose_head_is_read(tmp_path: Path) -> None:
    ssdlite = CONFIGS / 'fna_ssdlite_coco.py'
    for line in ("space = dict(seed='mobilenet_v2')", "space = 'fna_det'"):
        with pytest.raises(ValueError, match='out_indices has 7, the head of .*former space, .*has none.*beside space'):
            read(tmp_path, line, base=ssdlite)
    beside = 'model = dict(backbone=dict(out_indices=(4, 6)))'
    for half in halves(read(tmp_path, "space = dict(seed='mobilenet_v2')", beside, base=ssdlite)):
        assert tuple(half.model.backbone.out_indices) == (4, 6)
        assert list(half.model.bbox_head.in_channels)[:2] == [96, 320]
    backbone = read(tmp_path, "space = 'fna_det_ssdlite'", base=ssdlite).model.backbone
    assert tuple(backbone.out_indices) == ('5.expand', 7)


def test_outputs_that_a_command_line_says_reach_the_neck(tmp_path: Path) -> None:
    """MobileNetV3's stages 1, 2, 3 and 5 have 24, 40, 80 and 160 channels (table 1 of its paper)."""
    options = {'model.backbone.out_indices': (1, 2, 3, 5)}
    cfg = read(tmp_path, seed=dict(arch='mobilenet_v3_large', checkpoint='own.pth'), **options)
    for half in halves(cfg):
        assert (tuple(half.model.backbone.out_indices), list(half.model.neck.in_channels)) == (
            (1, 2, 3, 5),
            [24, 40, 80, 160],
        )
    with pytest.raises(ValueError, match='neck.in_channels has 4 entries, .* there are 1 features'):
        read(tmp_path, **{'model.backbone.out_indices': (3,)})


@pytest.mark.parametrize('base', [str(EXAMPLE), 'mmnas_ext::examples/fna_retinanet_resnet18_steel.py'])
def test_outputs_of_ones_own_file_stay_however_its_base_is_called(base: str, tmp_path: Path) -> None:
    teach_mmengine()
    seed = "seed = dict(arch='mobilenet_v3_large', checkpoint='own.pth')"
    file = tmp_path / 'child.py'
    file.write_text(f'_base_ = {base!r}\n{seed}\nmodel = dict(backbone=dict(out_indices=(1, 2, 3, 5)))\n')
    cfg = resolve(Config.fromfile(file))
    assert tuple(cfg.model.backbone.out_indices) == (1, 2, 3, 5)
    assert list(cfg.model.neck.in_channels) == [24, 40, 80, 160]


@pytest.fixture(scope='module')
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNetV2 in a file, which is a network of FNA's space."""
    file = tmp_path_factory.mktemp('seeds') / 'own.pth'
    torch.save(seed_of(zoo.arch('mobilenet_v2')).state_dict, file)
    return file


@pytest.mark.parametrize('base', ['fna_retinanet_mbv2_photos5.py', 'evolution_retinanet_mbv2_steel.py'])
def test_a_seed_given_as_a_file_is_the_searchs_seed(base: str, own: Path, tmp_path: Path) -> None:
    named = dict(arch='mobilenet_v2', checkpoint=str(own))
    first, second = (read(tmp_path, base=CONFIGS / base, seed=seed) for seed in (str(own), named))
    for one, other in zip(halves(first), halves(second), strict=True):
        said = one.model.backbone.init_cfg.seed
        assert said.checkpoint == other.model.backbone.init_cfg.seed.checkpoint == str(own)
        assert ArchSpec.parse(said.arch) == zoo.arch('mobilenet_v2').replace(head_channels=None)
    with torch.device('meta'):
        found, wanted = (MODELS.build({**each.model.backbone}) for each in (first, second))
    assert found.seed_path() == wanted.seed_path() != None  # noqa: E711
    assert 'none named' not in _seed_cost(found, CostTerm()) and 'unknown' not in _seed_cost(found, CostTerm())


def test_a_head_of_the_space_is_kept_of_a_seeds_file(own: Path, tmp_path: Path) -> None:
    cfg = read(tmp_path, base=CONFIGS / 'fna_ssdlite_coco.py', seed=str(own))
    assert ArchSpec.parse(cfg.model.backbone.init_cfg.seed.arch) == zoo.arch('mobilenet_v2')


@pytest.mark.parametrize(
    ('base', 'options', 'name'),
    [
        ('fna_retinanet_coco.py', {'optim_wrapper.keep_seed': 0.5}, 'optim_wrapper.keep_seed'),
        ('fna_retinanet_coco.py', {'optim_wrapper.selection': dict(type='measured')}, 'optim_wrapper.selection'),
        ('fna_retinanet_coco.py', {'optim_wrapper.cost.target': '0.8 seed'}, 'optim_wrapper.cost'),
        ('evolution_retinanet_mbv2_steel.py', {}, 'evolution.start_with_seed'),
    ],
)
def test_what_is_about_the_seed_needs_its_architecture(
    base: str, options: dict[str, Any], name: str, tmp_path: Path
) -> None:
    settled = {'optim_wrapper.keep_seed': 0, 'optim_wrapper.selection': None} | options
    with pytest.raises(ValueError, match=f'{name} is about the seed, and its file .* not here .*name it'):
        read(tmp_path, base=CONFIGS / base, seed='https://nowhere.example/own.pth', **settled)
    gone = str(tmp_path / 'gone.pth')
    with pytest.raises(FileNotFoundError, match=gone):
        read(tmp_path, base=CONFIGS / base, seed=gone, **settled)


def test_a_seed_that_nothing_is_about_may_come_later(tmp_path: Path) -> None:
    cfg = read(tmp_path, base=CONFIGS / 'fna_retinanet_coco.py', seed='https://nowhere.example/own.pth')
    assert cfg.model.backbone.init_cfg.seed == 'https://nowhere.example/own.pth'
    with torch.device('meta'):
        built = MODELS.build({**cfg.model.backbone})
    assert 'of unknown architecture until its file is here' in _seed_cost(built, CostTerm())


@pytest.mark.parametrize('base', ['fna_retinanet_coco.py', 'examples/fna_retinanet_resnet18_steel.py'])
def test_a_part_of_the_seed_on_a_command_line_leaves_the_other(base: str, tmp_path: Path) -> None:
    before = read(tmp_path, base=CONFIGS / base).model.backbone.init_cfg.seed
    for half in halves(read(tmp_path, base=CONFIGS / base, **{'seed.checkpoint': 'own.pth'})):
        assert half.model.backbone.init_cfg.seed == dict(arch=before.arch, checkpoint='own.pth')
    for half in halves(read(tmp_path, base=CONFIGS / base, **{'seed.arch': 'resnet34'})):
        assert half.model.backbone.init_cfg.seed == dict(arch='resnet34', checkpoint=before.checkpoint)


def test_a_written_config_is_read_as_it_was(tmp_path: Path) -> None:
    cfg = read(tmp_path)
    cfg.dump(tmp_path / 'whole.py')
    again = resolve(Config.fromfile(tmp_path / 'whole.py'))
    assert again.model.backbone.to_dict() == cfg.model.backbone.to_dict()
    assert again.model.neck.to_dict() == cfg.model.neck.to_dict()


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (['space = dict(kernel=(3,))'], r"space must be a name.*seed, kernels, expansions.*got the key 'kernel'"),
        (['space = dict(kernels=(4,))'], r'kernels must be odd whole numbers, got \(4,\)'),
        (["space = dict(seed='resnet81')"], "seed: unknown architecture 'resnet81'"),
        # a feature of stride 2, which ResNet has none of
        (['_o = 1', 'space = dict(depth=1)'], 'out_indices has 0, a feature of stride 2, .* has .4, 8, 16, 32.'),
    ],
)
def test_what_is_refused(lines: list[str], message: str, tmp_path: Path) -> None:
    base = EXAMPLE
    if lines[0] == '_o = 1':
        base = tmp_path / 'base.py'
        outputs = 'model = dict(backbone=dict(out_indices=(0, 6)))'
        base.write_text(f'_base_ = {str(CONFIGS / "fna_retinanet_mbv2_steel.py")!r}\n{outputs}')
        lines = ["seed = dict(arch='resnet18', checkpoint='own.pth')", lines[1]]
    with pytest.raises(ValueError, match=message):
        read(tmp_path, *lines, base=base)


def test_a_space_needs_a_seed_to_be_made_from() -> None:
    backbone = dict(type='mmnas_ext.SuperNet', space='fna_det')
    cfg = Config(dict(model=ConfigDict(backbone=backbone), derived=dict(model=dict()), space=dict(kernels=(3,))))
    with pytest.raises(ValueError, match='space is made from a seed, and this config has none: say seed='):
        resolve(cfg)
