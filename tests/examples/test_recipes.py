"""An example trains as its host's own config says, and what a user may change of it in a line has its effect."""

from typing import Any

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine import SearchOptimWrapperConstructor
from mmnas_ext.runs import exporting
from mmnas_ext.runs.host import _find
from tests.examples.small import HOSTS, SIZE, SPACE, parse, read
from tests.own_data import derive_any
from tests.small import small
from tests.test_configs import assert_losses, moved, segmentations, values

DETECTORS = [name for name in HOSTS if name.endswith('_coco')]
SEGMENTORS = [name for name in HOSTS if name.endswith('_cityscapes')]
_LISTED = ('optimizer', 'paramwise_cfg', 'clip_grad')
OF_SEED = dict(space='efficientnet_lite0_det', seed=dict(arch='efficientnet_lite0', checkpoint='none.pth'))
OF_DNA = dict(space='dna_a_det', seed=dict(arch='dna_a', checkpoint='none.pth'))


def host_config(name: str) -> Config:
    """The config of the host that an example names, as MMDetection or MMSegmentation has it."""
    return Config.fromfile(_find(Config(), parse(name).host.config))


def bare(value: Any) -> Any:
    """Without what says nothing: MMEngine's scopes, and keys that are None."""
    if isinstance(value, dict):
        return {key: bare(each) for key, each in value.items() if key != '_scope_' and each is not None}
    return [bare(each) for each in value] if isinstance(value, list | tuple) else value


def sorted_schedules(schedules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((dict(bare(each)) for each in schedules), key=lambda each: each['type'])


@pytest.mark.parametrize('name', HOSTS)
def test_an_example_adapts_by_the_recipe_of_its_host(name: str) -> None:
    cfg, theirs = read(name, {}), host_config(name)
    derived = derive_any(cfg)
    mine, host = bare(derived.optim_wrapper), bare(theirs.optim_wrapper)
    if name == 'fna_segformer_cityscapes':
        # of our backbone the norms are not called so, and it has no position embeddings
        assert host['paramwise_cfg']['custom_keys'].pop('norm') == dict(decay_mult=0.0)
        assert host['paramwise_cfg']['custom_keys'].pop('pos_block') == dict(decay_mult=0.0)
        assert mine['paramwise_cfg'].pop('norm_decay_mult') == 0.0
    assert {key: mine.get(key) for key in _LISTED} == {key: host.get(key) for key in _LISTED}
    assert sorted_schedules(derived.param_scheduler) == sorted_schedules(theirs.param_scheduler)
    for key in ('max_epochs', 'max_iters', 'val_interval'):
        assert derived.train_cfg.get(key) == theirs.train_cfg.get(key)
    # the search trains weights by the same optimizer
    weights = bare(cfg.optim_wrapper.weights)
    assert {key: weights.get(key) for key in _LISTED} == {key: bare(derived.optim_wrapper).get(key) for key in _LISTED}


def test_rates_are_for_the_batches_of_the_hosts() -> None:
    """8 GPUs with 2 images in MMDetection; the number of GPUs and images is in the name of the others' files."""
    batches = {
        **dict.fromkeys(DETECTORS, 16), 'fna_rtmdet_coco': 8 * 32, 'fna_fcn_cityscapes': 4 * 2,
        'fna_pspnet_cityscapes': 4 * 2, 'fna_lraspp_cityscapes': 4 * 4, 'fna_segformer_cityscapes': 8 * 1,
    }  # fmt: skip
    for name, batch in batches.items():
        cfg = read(name, {})
        assert [cfg.auto_scale_lr, derive_any(cfg).auto_scale_lr] == [dict(enable=True, base_batch_size=batch)] * 2


def test_rtmdet_is_trained_on_the_images_of_its_host() -> None:
    derived, theirs = derive_any(read('fna_rtmdet_coco', {})), host_config('fna_rtmdet_coco')
    assert bare(derived.train_dataloader.dataset.pipeline) == bare(theirs.train_dataloader.dataset.pipeline)
    assert bare(derived.test_dataloader.dataset.pipeline) == bare(theirs.test_dataloader.dataset.pipeline)
    ours, hooks = bare(derived.custom_hooks), bare(theirs.custom_hooks)
    ours[1]['ema_type'] = ours[1]['ema_type'].removeprefix('mmdet.')
    assert ours == [dict(type='mmnas_ext.ReseedHook'), *hooks]


# ---------------------------------------------------------------- one step of each kind


def built(cfg: Config) -> tuple[Any, dict[str, Any]]:
    """A model in training mode, and two images for it. Call it in the config's scope."""
    detects = cfg.default_scope == 'mmdet'
    images = demo_mm_inputs(2, [(3, *SIZE)] * 2, num_classes=2) if detects else segmentations(cfg)
    return MODELS.build(small(cfg).model).train(), images


@pytest.mark.parametrize('name', HOSTS)
def test_a_step_of_a_phase_has_gradients_of_that_alone(name: str) -> None:
    cfg = read(name, dict(space=SPACE.format(), classes=('a', 'b')))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model, images = built(cfg)
        supernet = model.backbone
        assert isinstance(supernet, SuperNet)
        settings = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
        wrapper = SearchOptimWrapperConstructor(settings)(model)
        alphas = {f'backbone.stages.{place}.alpha' for place in supernet.mixed_layers()}
        assert len(alphas) == 3
        for phase in ('arch', 'weights'):
            before = values(model)
            wrapper.start(phase, iteration=0)
            assert_losses(model.train_step(images, wrapper))
            changed = moved(model, before)
            if phase == 'arch':
                assert changed == alphas
                continue
            assert not changed & alphas
            drawn = {f'backbone.stages.{place}.candidates.{layer.tokens[layer.choice]}.' for place, layer in
                     supernet.mixed_layers().items()}  # fmt: skip
            touched = {'.'.join(key.split('.')[:6]) + '.' for key in changed if '.candidates.' in key}
            assert touched == drawn
            heads = {key.partition('.')[0] for key in before} - {'backbone'}
            assert {key.partition('.')[0] for key in changed} == {'backbone', *heads}


# ---------------------------------------------------------------- other seeds


@pytest.mark.parametrize(
    ('name', 'given', 'outputs', 'channels'),
    [
        ('fna_atss_coco', OF_SEED, (1, 2, 4, 6), [24, 40, 112, 320]),
        ('fna_rtmdet_coco', OF_DNA, (2, 4, 6), [40, 96, 320]),
        ('fna_lraspp_cityscapes', OF_SEED, (0, 1, 6), [16, 24, 320]),
        ('fna_segformer_cityscapes', OF_DNA, (1, 2, 4, 6), [24, 40, 96, 320]),
    ],
)
def test_another_seed_is_a_line_beside_its_space(
    name: str, given: dict[str, Any], outputs: tuple[int, ...], channels: list[int]
) -> None:
    cfg = read(name, dict(given, classes=('a', 'b')))
    for half in (cfg, derive_any(cfg)):
        assert tuple(half.model.backbone.out_indices) == outputs
        assert half.model.backbone.init_cfg.seed == given['seed']
        reader = half.model.get('neck') or half.model.decode_head
        assert list(reader.in_channels) == channels
        with DefaultScope.overwrite_default_scope(half.default_scope):
            model, images = built(half)
            if isinstance(model.backbone, SuperNet):
                model.backbone.set_path(tuple((0,) * len(stage.layers) for stage in model.backbone.space.stages))
            data = model.data_preprocessor(images, True)
            found = model.loss(data['inputs'], data['data_samples'])
        assert all(torch.isfinite(each).all() for value in found.values() for each in _terms(value))


def _terms(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, list | tuple) else [value]


# ---------------------------------------------------------------- export


@pytest.mark.parametrize(
    ('name', 'kinds', 'levels'),
    [
        ('fna_atss_coco', ('cls_score', 'bbox_pred', 'centerness'), 5),
        ('fna_fcos_coco', ('cls_score', 'bbox_pred', 'centerness'), 5),
        ('fna_gfl_coco', ('cls_score', 'bbox_pred'), 5),
        ('fna_rtmdet_coco', ('cls_score', 'bbox_pred'), 3),
    ],
)
def test_maps_of_a_detector_are_named_for_its_graph(name: str, kinds: tuple[str, ...], levels: int) -> None:
    cfg = derive_any(read(name, dict(space=SPACE.format(), classes=('a', 'b'))))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(small(cfg).model)
    assert exporting._kind(model) == 'detector'
    module = exporting._Outputs(model, 'detector').eval()
    image = torch.zeros(1, 3, *SIZE)
    with torch.no_grad():
        names = exporting.name_outputs(exporting.Subject(module, (), 'detector', {}), image)
        maps = dict(zip(names, module(image), strict=True))
    assert names == tuple(f'{kind}_{level}' for kind in kinds for level in range(levels))
    for level in range(levels):
        side = -(-SIZE[0] // 2 ** (3 + level))  # from stride 8 on
        assert {tuple(maps[f'{kind}_{level}'].shape[2:]) for kind in kinds} == {(side, side)}
        assert maps[f'cls_score_{level}'].shape[1] == 2


def test_a_graph_of_two_stages_is_refused() -> None:
    cfg = derive_any(read('fna_faster_rcnn_coco', dict(space=SPACE.format(), classes=('a', 'b'))))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(small(cfg).model)
    with pytest.raises(exporting.ExportError, match='FasterRCNN chooses proposals between its stages, .* its backbone'):
        exporting._kind(model)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_a_graph_of_a_segmentor_has_logits_of_the_images_size(name: str) -> None:
    cfg = derive_any(read(name, dict(space=SPACE.format(), classes=('a', 'b', 'c'))))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(small(cfg).model)
    with torch.no_grad():
        (logits,) = exporting._Outputs(model, exporting._kind(model)).eval()(torch.zeros(1, 3, 64, 96))
    assert logits.shape == (1, 3, 64, 96)
