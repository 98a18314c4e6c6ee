"""One line sets the size of images in both halves, and limits of the cost can follow the seed's."""

from typing import Any

import pytest
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, cost
from mmnas_ext.runs.image_size import settle_limits
from mmnas_ext.runs.resolve import resolve
from tests.own_data import DETECTOR, SEGMENTOR, halves_of


def sizes(loader: Any) -> list[Any]:
    """What the transforms of a loader's pipeline say in pixels."""
    keys = ('scale', 'scales', 'crop_size')
    return [step[key] for step in loader.dataset.pipeline for key in keys if key in step]


def test_images_of_a_detector() -> None:
    for half in halves_of(DETECTOR, image_size=(256, 416)):
        assert [sizes(half[f'{name}_dataloader']) for name in ('train', 'val', 'test')] == [[(416, 256)]] * 3
    assert halves_of(DETECTOR, image_size=(256, 416))[0].model.backbone.input_size == (256, 416)


def test_images_and_crops_of_a_segmentor() -> None:
    search, derived = halves_of(SEGMENTOR, image_size=(180, 240))
    for half in (search, derived):
        # half of 480x360 pixels, hence half of 256x256 for the crops
        assert sizes(half.train_dataloader) == [(240, 180), (128, 128)]
        assert half.model.data_preprocessor['size'] == (128, 128)
        for loader in (half.val_dataloader, half.test_dataloader):
            kinds = [step.type for step in loader.dataset.pipeline]
            assert kinds == [
                'LoadImageFromFile',
                'Resize',
                'LoadAnnotations',
                'PackSegInputs',
            ]  # labels stay as they are
            assert sizes(loader) == [(240, 180)]
        assert half.test_pipeline == half.test_dataloader.dataset.pipeline  # MMSegmentation's inference reads it
        assert half.train_pipeline == half.train_dataloader.dataset.pipeline
    # what a base made its values of is no longer true
    assert {'crop_size', 'scale', 'class_weight', 'dataset_type'}.isdisjoint(derived)
    assert search.model.backbone.input_size == (180, 240)


def test_scales_and_windows_of_a_segmentor() -> None:
    search, _ = halves_of('fna_deeplabv3_cityscapes.py', image_size=(512, 1024))
    scales, crop = sizes(search.train_dataloader)
    assert scales[:2] == [(768, 384), (1024, 512)]
    assert crop == (384, 384)  # half of 769, in whole positions of 32 pixels
    assert (search.model.test_cfg.crop_size, search.model.test_cfg.stride) == ((384, 384), (256, 256))


@pytest.mark.parametrize(
    ('step', 'expected'),
    [
        (dict(type='RandomResize', scale=[(320, 240), (320, 320)]), dict(scale=[(160, 60), (160, 80)])),
        (dict(type='RandomChoiceResize', scales=[(256, 128), 320]), dict(scales=[(128, 32), (160, 80)])),
        (dict(type='Resize', scale=320), dict(scale=(160, 80))),
        (dict(type='ResizeShortestEdge', scale=320, max_size=640), dict(scale=80, max_size=320)),
        (
            dict(type='RandomChoiceResize', scales=[160, 320], resize_type='ResizeShortestEdge', max_size=640),
            dict(scales=[40, 80], max_size=320),
        ),
        (dict(type='RandomAffine', border=(-160, -160)), dict(border=(-80, -40))),
        (dict(type='Mosaic', img_scale=(320, 320)), dict(img_scale=(160, 80))),
        (dict(type='RandomChoice', transforms=[[dict(type='Resize', scale=64)]]), None),
        (dict(type='InstaBoost', scale=(0.8, 1.2)), dict(scale=(0.8, 1.2))),  # no pixels
    ],
)
def test_every_size_of_a_training_pipeline_is_scaled(step: dict[str, Any], expected: Any) -> None:
    loads = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
    pipeline = [*loads, step, dict(type='PackDetInputs')]
    changes = dict(dataset=dict(pipeline=pipeline))
    # 320 x 320 pixels before: the height is a quarter, the width a half
    for half in halves_of(DETECTOR, image_size=(80, 160), train_dataloader=changes):
        found = half.train_dataloader.dataset.pipeline[2]
        if expected is None:
            assert found.transforms[0][0].scale == (32, 16)
        else:
            assert {key: found[key] for key in expected} == expected


def test_a_size_in_no_known_form_is_told_of() -> None:
    changes = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(0.5, 2.0))]))
    with pytest.raises(ValueError, match=r'cannot scale scale=\(0.5, 2.0\) of the transform Resize: write whole numb'):
        halves_of(DETECTOR, image_size=(80, 160), train_dataloader=changes)


@pytest.mark.parametrize('size', [320, (320,), (320, 16), (320.0, 320), 'big', (True, 64)])
def test_a_size_that_is_none_is_told_of(size: Any) -> None:
    with pytest.raises(ValueError, match=r'image_size must be \(height, width\) of at least 32 pixels, got'):
        halves_of(DETECTOR, image_size=size)


def test_a_size_that_nothing_takes_is_told_of() -> None:
    cfg = Config(dict(model=dict(backbone=dict(type='mmnas_ext.MBNet', arch='dna_a')), image_size=(64, 64)))
    with pytest.raises(
        ValueError, match=r'image_size of this config has no effect: .* \(no Resize in the test pipeline'
    ):
        resolve(cfg)


def test_limits_follow_the_cost_of_the_seed() -> None:
    lite0 = ArchSpec.parse('efficientnet_lite0')
    for limit, share in (('seed', 1), ('0.8 seed', 0.8), ('.5 seed', 0.5)):
        cfg, _ = halves_of(DETECTOR, image_size=(256, 416), optim_wrapper=dict(cost=dict(target=limit)))
        assert cfg.optim_wrapper.cost.target == cost(lite0, (256, 416)).macs * share
    cfg, _ = halves_of(SEGMENTOR, optim_wrapper=dict(cost=dict(metric='params', target='seed', min='0.5 seed')))
    params = cost(lite0, (360, 480)).params
    assert (cfg.optim_wrapper.cost.target, cfg.optim_wrapper.cost.min) == (params, 0.5 * params)
    with pytest.raises(
        ValueError, match=r'cost.target is said by the seed, and model.backbone.init_cfg has no seed=dict\(arch=…'
    ):
        settle_limits(Config(dict(model=dict(backbone={}), optim_wrapper=dict(cost=dict(target='seed')))))
    with pytest.raises(FileNotFoundError, match='weights.pth'):
        halves_of(DETECTOR, seed='weights.pth', optim_wrapper=dict(cost=dict(target='seed')))


def anchors(half: Config) -> list[list[int]]:
    generator = half.model.bbox_head.anchor_generator
    return [list(generator[key]) for key in ('strides', 'min_sizes', 'max_sizes')]


def test_anchors_of_an_ssd_follow_the_images() -> None:
    name = 'fna_ssdlite_mbv2_photos5.py'
    written = [[16, 32, 64, 107, 160, 320], [30, 60, 114, 168, 222, 276], [60, 114, 168, 222, 276, 330]]
    # features of 10, 5, 3, 2, 1 and 1 positions at half of the size; of 30, 15, 8, 4, 2, 1 at 480
    halved = [[16, 32, 53, 80, 160, 160], [15, 30, 57, 84, 111, 138], [30, 57, 84, 111, 138, 165]]
    larger = [[16, 32, 60, 120, 240, 480], [45, 90, 171, 252, 333, 414], [90, 171, 252, 333, 414, 495]]
    for side, expected in ((320, written), (160, halved), (480, larger)):
        for half in halves_of(name, image_size=(side, side)):
            assert anchors(half) == expected
            assert [sizes(half[f'{kind}_dataloader']) for kind in ('train', 'val')] == [[(side, side)]] * 2
    for half in halves_of(name, image_size=(160, 640)):
        wide, high = [16, 32, 64, 128, 213, 320], [16, 32, 53, 80, 160, 160]
        assert anchors(half)[0] == [*zip(wide, high, strict=True)] and anchors(half)[1] == written[1]


def test_anchors_of_a_host_are_for_the_size_that_it_was_written_for() -> None:
    lite, full = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', 'mmdet::ssd/ssd300_coco.py'
    for half in halves_of(DETECTOR, host=lite, image_size=(320, 320)):
        assert anchors(half)[:2] == [[16, 32, 64, 107, 160, 320], [48, 100, 150, 202, 253, 304]]
    assert halves_of(DETECTOR, host=full, image_size=(300, 300))[1].model.bbox_head.anchor_generator.input_size == 300
    with pytest.raises(ValueError, match=r'image_size cannot scale the anchors of SSDAnchorGenerator for 320x320 pix'):
        halves_of(DETECTOR, host=full, image_size=(320, 320))


def test_crops_of_a_detector_have_their_width_first() -> None:
    """MMDetection's crop of (width, height), MMSegmentation's of (height, width)."""
    crop = dict(type='RandomCrop', crop_size=(320, 320))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), crop]
    for half in halves_of(DETECTOR, image_size=(96, 160), train_dataloader=dict(dataset=dict(pipeline=pipeline))):
        assert half.train_dataloader.dataset.pipeline[2].crop_size == (160, 96)
    for half in halves_of(SEGMENTOR, image_size=(180, 480)):  # half as high, as wide
        assert sizes(half.train_dataloader) == [(480, 180), (128, 256)]


def test_images_of_the_epochs_that_a_hook_switches_to_have_the_size() -> None:
    switched = [dict(type='Resize', scale=(320, 320)), dict(type='Pad', size=(320, 320))]
    hook = dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=switched)
    for half in halves_of(DETECTOR, image_size=(96, 160), custom_hooks=[hook], derived=dict(custom_hooks=[hook])):
        resize, pad = next(each for each in half.custom_hooks if each.type == 'PipelineSwitchHook').switch_pipeline
        assert [resize.scale, pad['size']] == [(160, 96)] * 2
