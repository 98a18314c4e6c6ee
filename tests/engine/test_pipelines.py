"""A half of a search may leave transforms out of the dataset's pipeline, whichever config sets that."""

from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmnas_ext.datasets import make_detection
from mmnas_ext.engine.batches import build_halves
from mmnas_ext.engine.pipelines import without_left_out
from tests.small import read

LOAD, FLIP, PACK = dict(type='LoadImageFromFile'), dict(type='mmdet.RandomFlip', prob=0.5), dict(type='PackDetInputs')
NO_FLIP = dict(leave_out=['RandomFlip'])


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp('shapes')
    make_detection(root, train=12, val=1, size=(96, 128))
    return f'{root}/'


def flips(name: str, images: str) -> dict[str, list[Any]]:
    """What became of each image of either half of a config's search."""
    cfg = read(name)
    loader = cfg.train_dataloader
    loader.update(batch_size=2, num_workers=0)
    loader.dataset.update(data_root=images, metainfo=dict(classes=('ring',)), filter_cfg=None)
    for step in loader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (64, 48)
    runner = SimpleNamespace(seed=0, build_dataloader=Runner.build_dataloader)
    with DefaultScope.overwrite_default_scope('mmdet'):
        halves = build_halves(runner, loader, 0.5, 0, cfg.train_cfg.get('pipelines'))
    seen = {}
    for half, batches in zip(('weights', 'arch'), halves, strict=True):
        samples = [sample for _ in range(9) for sample in next(batches)['data_samples']]
        assert {sample.img_shape for sample in samples} == {(48, 64)}
        seen[half] = [sample.metainfo.get('flip') for sample in samples]
        batches.close()
    return seen


@pytest.mark.parametrize('name', ['fna_retinanet_coco.py', 'fna_retinanet_coco_1gpu.py'])
def test_images_that_train_weights_are_not_flipped_and_those_of_alpha_are(name: str, images: str) -> None:
    seen = flips(name, images)
    assert seen['weights'] == [None] * 18
    assert seen['arch'].count(True) + seen['arch'].count(False) == 18
    assert 3 < seen['arch'].count(True) < 15


def test_few_images_are_flipped_in_both_halves(images: str) -> None:
    for half in flips('fna_retinanet_lite0_320.py', images).values():
        assert 3 < half.count(True) < 15 and None not in half


@pytest.mark.parametrize('name', ['fna_retinanet_lite0_320.py', 'demo_fna_retinanet.py'])
def test_small_data_name_no_other_pipeline(name: str) -> None:
    assert read(name).train_cfg.pipelines is None


@pytest.mark.parametrize(
    'dataset',
    [
        dict(pipeline=[LOAD, FLIP, PACK]),
        dict(type='RepeatDataset', dataset=dict(pipeline=[LOAD, FLIP, PACK])),
        dict(datasets=[dict(pipeline=[LOAD, FLIP, PACK])] * 2),
    ],
)
def test_what_is_left_out_comes_from_the_pipeline_of_the_dataset(dataset: dict[str, Any]) -> None:
    given = dict(weights=NO_FLIP, arch=[PACK])
    found = without_left_out(given, dataset)
    assert found == dict(weights=[LOAD, PACK], arch=[PACK])
    assert given == dict(weights=dict(leave_out=['RandomFlip']), arch=[PACK])


def test_pipelines_that_are_listed_or_not_given_stay() -> None:
    assert without_left_out(None, dict(pipeline=[LOAD])) is None
    assert without_left_out(dict(arch=[LOAD]), dict(pipeline=[PACK])) == dict(arch=[LOAD])


@pytest.mark.parametrize(
    ('given', 'dataset', 'error', 'message'),
    [
        (NO_FLIP, dict(pipeline=[LOAD, PACK]), ValueError, r"names \['RandomFlip'\], but .* has \['LoadImageFromFile'"),
        (NO_FLIP, dict(type='Images'), ValueError, 'needs datasets of one pipeline, got 0'),
        (NO_FLIP, dict(datasets=[dict(pipeline=[FLIP]), dict(pipeline=[FLIP, LOAD])]), ValueError, 'pipeline, got 2'),
        (dict(leave_out='RandomFlip'), dict(pipeline=[FLIP]), TypeError, "must be a list of types .*, got RandomFlip"),
        (dict(leave_out=[]), dict(pipeline=[FLIP]), TypeError, r'must be a list of types of transforms, got \[\]'),
        (dict(NO_FLIP, add=[FLIP]), dict(pipeline=[FLIP]), ValueError, r"alone or .*, got \['add', 'leave_out'\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_left_out(given: Any, dataset: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        without_left_out(dict(arch=given), dataset)
    assert str(raised.value).startswith('train_cfg.pipelines.arch') and len(str(raised.value)) < 300
